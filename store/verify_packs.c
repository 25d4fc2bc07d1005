#include "store/verify_internal.h"

/* Verify, passes 1 and 2: packs against the index, and the reverse. */

#include "common/fault.h"
#include "common/io.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LIST_BATCH  1024u
#define CHUNK_BATCH 512u
#define HEX_SPACE   (2 * STORE_ID_SIZE + 1)

static struct verify_pack *add_pack(struct verify *v, uint64_t id)
{
    if (v->pack_count == v->pack_capacity) {
        size_t capacity = v->pack_capacity ? 2 * v->pack_capacity : 64;
        struct verify_pack *packs =
            realloc(v->packs, capacity * sizeof(*packs));

        if (!packs)
            abort();
        v->packs = packs;
        v->pack_capacity = capacity;
    }
    v->packs[v->pack_count] = (struct verify_pack){.id = id};
    return &v->packs[v->pack_count++];
}

struct verify_pack *verify_pack_of(struct verify *v, uint64_t pack_id)
{
    size_t low = 0;
    size_t high = v->pack_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (v->packs[middle].id < pack_id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < v->pack_count && v->packs[low].id == pack_id ? &v->packs[low]
                                                              : NULL;
}

/* ---- pass 1 ----------------------------------------------------------- */

static bool place_is(const struct chunk_place *place, uint64_t pack_id,
                     const struct pack_entry *entry)
{
    return place->pack_id == pack_id && place->offset == entry->offset &&
           place->stored_size == entry->stored_size &&
           place->kind == entry->kind && place->codec == entry->codec;
}

/* A chunk that is not whole: why, and does the index need it? */
static void bad_chunk(struct verify *v, struct verify_pack *pack,
                      uint64_t domain, const struct pack_entry *entry,
                      const uint8_t *stored, const struct chunk_place *place)
{
    vn_auto(free) uint8_t *out = malloc(pack_raw_limit(entry->kind));
    struct chunk_id id = ident_short(&entry->id);
    struct vn_err why = VN_ERR_INIT;
    struct ident ident;
    char hex[HEX_SPACE];

    ident_in_domain(&v->store->ident, domain, &ident);
    if (!out || chunk_check(&ident, entry, stored, out, &why) == 0)
        vn_fail(&why, VN_E_LIMIT, "no memory to check it");
    io_hex(id.bytes, STORE_ID_SIZE, hex);
    vn_wrap(&why, "chunk %s in pack %012llx at %u", hex,
            (unsigned long long)pack->id, entry->offset);
    pack->damaged = true;
    if (place->stored_size > 0 && place->pack_id == pack->id)
        verify_bad_add(v, &id, place, why.msg);
    else
        verify_found(v, verify_where("chunk", pack->id),
                     "%s; the index has it elsewhere or not at all", why.msg);
}

/* `whole` and `data` are NULL where the chunks were not read. */
static int check_chunks(struct verify *v, struct verify_pack *pack,
                        const struct pack *parsed, const uint8_t *data,
                        const bool *whole, struct vn_err *err)
{
    struct chunk_id ids[CHUNK_BATCH];
    struct chunk_place places[CHUNK_BATCH];

    v->counts.chunks += parsed->count;
    for (size_t i = 0; i < parsed->count; i += CHUNK_BATCH) {
        const struct pack_entry *entries = parsed->entries + i;
        size_t n =
            parsed->count - i < CHUNK_BATCH ? parsed->count - i : CHUNK_BATCH;

        for (size_t k = 0; k < n; k++)
            ids[k] = ident_short(&entries[k].id);
        if (index_find(v->store->index, ids, n, places, err) < 0)
            return -1;
        for (size_t k = 0; k < n; k++) {
            /* A chunk that the index has not is dead weight, such as gc leaves
             * of a second copy; what a snapshot needs is missed in pass 3. */
            if (places[k].stored_size > 0 &&
                place_is(&places[k], pack->id, &entries[k]))
                pack->matched++;
            if (whole && !whole[i + k])
                bad_chunk(v, pack, parsed->domain, &entries[k],
                          data + entries[k].offset, &places[k]);
        }
    }
    return 0;
}

static void bad_pack(struct verify *v, struct verify_pack *pack,
                     const char *sentence)
{
    pack->damaged = true;
    verify_found(v, verify_where("pack", pack->id), "pack %012llx: %s",
                 (unsigned long long)pack->id, sentence);
}

/* The pack as a whole against its row; what was parsed is usable. */
static void check_head(struct verify *v, struct verify_pack *pack,
                       const struct index_pack *row, const struct pack *parsed,
                       const char *damage)
{
    char text[128];

    if (damage[0])
        bad_pack(v, pack, damage);
    else if (memcmp(parsed->store_id, v->store->config.store_id,
                    sizeof(parsed->store_id)) != 0)
        bad_pack(v, pack, "it belongs to another store");
    if (parsed->id != row->id) {
        snprintf(text, sizeof(text), "it says that it is pack %012llx",
                 (unsigned long long)parsed->id);
        bad_pack(v, pack, text);
    }
    if (parsed->count != row->count) {
        snprintf(text, sizeof(text), "it has %u chunks, the index says %u",
                 parsed->count, row->count);
        bad_pack(v, pack, text);
    }
}

static int check_size(struct verify *v, const struct index_pack *row,
                      struct vn_err *err)
{
    uint64_t size;

    if (engine_size(v->store->engine, row->id, &size, err) < 0)
        return -1;
    if (size == row->size && size <= PACK_SIZE_MAX)
        return 0;
    return vn_fail(err, VN_E_CORRUPT, "it has %llu bytes, the index says %llu",
                   (unsigned long long)size, (unsigned long long)row->size);
}

static uint8_t *read_pack(struct verify *v, const struct index_pack *row,
                          struct vn_err *err)
{
    vn_auto(free) uint8_t *data = malloc(row->size + 1);

    if (!data)
        return vn_fail_ptr(err, VN_E_LIMIT, "no memory for %llu bytes",
                           (unsigned long long)row->size);
    if (engine_read(v->store->engine, row->id, 0, data, row->size, err) < 0)
        return NULL;
    return vn_steal(&data);
}

/* Read the pack, or its ends. *ret_data is NULL where only these were. */
static int open_pack(struct verify *v, const struct index_pack *row,
                     uint8_t **ret_data, struct pack *ret, char damage[128],
                     struct vn_err *err)
{
    vn_auto(free) uint8_t *data = NULL;

    if (v->opts->fast)
        return pack_read_ends(v->store->engine, row->id, row->size, ret, damage,
                              err);
    data = read_pack(v, row, err);
    if (!data || pack_parse(data, row->size, ret, damage, err) < 0)
        return -1;
    *ret_data = vn_steal(&data);
    return 0;
}

static int check_pack(struct verify *v, const struct index_pack *row,
                      struct verify_pack *pack, struct vn_err *err)
{
    vn_auto(free) uint8_t *data = NULL;
    vn_auto(free) bool *whole = NULL;
    struct vn_err why = VN_ERR_INIT;
    struct pack parsed;
    char damage[128];
    int result;

    if (check_size(v, row, &why) < 0) {
        pack->gone = pack->unusable = true;
        bad_pack(v, pack, why.msg);
        return 0;
    }
    if (open_pack(v, row, &data, &parsed, damage, &why) < 0) {
        pack->unusable = true;
        v->newer |= why.code == VN_E_VERSION;
        bad_pack(v, pack, why.msg);
        return 0;
    }
    check_head(v, pack, row, &parsed, damage);
    if (data) {
        whole = vn_alloc(parsed.count * sizeof(*whole));
        verify_chunks(v->store, &parsed, data, whole);
    }
    result = check_chunks(v, pack, &parsed, data, whole, err);
    pack_done(&parsed);
    return result;
}

static int list_packs(struct verify *v, struct vn_err *err)
{
    vn_auto(free) struct index_pack *rows =
        vn_alloc(LIST_BATCH * sizeof(*rows));
    uint64_t from = 0;
    size_t count;

    do {
        if (index_list_packs(v->store->index, from, LIST_BATCH, rows, &count,
                             err) < 0)
            return -1;
        for (size_t i = 0; i < count; i++) {
            add_pack(v, rows[i].id);
            from = rows[i].id + 1;
        }
    } while (count == LIST_BATCH);
    return 0;
}

static int check_row(struct verify *v, const struct index_pack *row,
                     struct vn_err *err)
{
    struct verify_pack *pack = verify_pack_of(v, row->id);

    if (!pack)
        return 0; /* entered since */
    v->counts.packs++;
    pack->before = verify_state_has(v->state, row->id, &pack->matched);
    if (pack->before)
        v->counts.packs_before++;
    else if (fault_hit("store.verify.pack"))
        return vn_fail(err, EIO, "read pack %012llx",
                       (unsigned long long)row->id);
    else if (check_pack(v, row, pack, err) < 0)
        return -1;
    pack->read = true;
    verify_progress(v, row->size);
    verify_state_note(v);
    return 0;
}

static int check_packs(struct verify *v, struct vn_err *err)
{
    vn_auto(free) struct index_pack *rows =
        vn_alloc(LIST_BATCH * sizeof(*rows));
    uint64_t from = 0;
    size_t count;

    do {
        if (index_list_packs(v->store->index, from, LIST_BATCH, rows, &count,
                             err) < 0)
            return -1;
        for (size_t i = 0; i < count; i++) {
            if (check_row(v, &rows[i], err) < 0)
                return -1;
            from = rows[i].id + 1;
        }
    } while (count == LIST_BATCH);
    return 0;
}

/* ---- pass 2 ----------------------------------------------------------- */

typedef int row_fn(struct verify *v, const struct index_chunk *row,
                   struct vn_err *err);

static int each_row(struct verify *v, row_fn *fn, struct vn_err *err)
{
    vn_auto(free) struct index_chunk *rows =
        vn_alloc(LIST_BATCH * sizeof(*rows));
    struct chunk_id last;
    bool begun = false;
    size_t count;

    do {
        if (index_list_chunks(v->store->index, begun ? &last : NULL, LIST_BATCH,
                              rows, &count, err) < 0)
            return -1;
        for (size_t i = 0; i < count; i++)
            if (fn(v, &rows[i], err) < 0)
                return -1;
        if (count > 0)
            last = rows[count - 1].id;
        begun = true;
    } while (count == LIST_BATCH);
    return 0;
}

/* A row whose pack pass 1 did not see: new, or pointing nowhere? */
static int check_stray(struct verify *v, const struct index_chunk *row,
                       struct vn_err *err)
{
    struct index_pack pack;
    char reason[160];
    char hex[HEX_SPACE];
    size_t count;

    if (index_list_packs(v->store->index, row->place.pack_id, 1, &pack, &count,
                         err) < 0)
        return -1;
    if (count == 1 && pack.id == row->place.pack_id)
        return 0;
    io_hex(row->id.bytes, STORE_ID_SIZE, hex);
    snprintf(reason, sizeof(reason),
             "chunk %s: the index places it in pack %012llx, which the index "
             "does not know",
             hex, (unsigned long long)row->place.pack_id);
    verify_bad_add(v, &row->id, &row->place, reason);
    return 0;
}

static int count_row(struct verify *v, const struct index_chunk *row,
                     struct vn_err *err)
{
    struct verify_pack *pack = verify_pack_of(v, row->place.pack_id);

    if (!pack)
        return check_stray(v, row, err);
    pack->indexed++;
    return 0;
}

/* Must rows that point into the pack be tried one by one? Fewer rows than
 * match: meanwhile a writer has stored chunks of a condemned pack anew, and
 * rows have turned away from it. */
static bool is_suspect(const struct verify_pack *pack)
{
    return pack->unusable || pack->indexed > pack->matched;
}

/* A row of a pack that confirms fewer rows than it has: read the chunk. */
static int check_suspect(struct verify *v, const struct index_chunk *row,
                         struct vn_err *err)
{
    struct verify_pack *pack = verify_pack_of(v, row->place.pack_id);
    unsigned kind = row->place.kind;
    vn_auto(free) uint8_t *out = NULL;
    struct vn_err why = VN_ERR_INIT;
    size_t size;

    if (!pack || !is_suspect(pack) || verify_bad_find(v, &row->id))
        return 0;
    out = malloc(pack_raw_limit(kind) + 1);
    if (!out)
        return vn_fail(err, VN_E_LIMIT, "no memory for a chunk");
    if (chunk_read(v->store, (enum chunk_kind)kind, &row->id, out, &size,
                   &why) == 0)
        return 0;
    pack->unread++;
    verify_bad_add(v, &row->id, &row->place, why.msg);
    return 0;
}

/* Packs that an earlier run read, and of which the index has other chunks now:
 * gc moved some, or a row is wrong. Read them. */
static int check_changed(struct verify *v, struct vn_err *err)
{
    for (size_t i = 0; i < v->pack_count; i++) {
        struct verify_pack *pack = &v->packs[i];
        struct index_pack row;

        if (!pack->before || pack->indexed == pack->matched)
            continue;
        pack->before = pack->read = false;
        pack->matched = 0;
        v->counts.packs_before--;
        if (index_find_pack(v->store->index, pack->id, &row, err) < 0 ||
            check_pack(v, &row, pack, err) < 0)
            return -1;
        pack->read = true;
    }
    return 0;
}

static void report_mismatch(struct verify *v, struct verify_pack *pack)
{
    char text[128];

    snprintf(text, sizeof(text),
             "the index has %llu chunks in it, its directory confirms %llu",
             (unsigned long long)pack->indexed,
             (unsigned long long)pack->matched);
    bad_pack(v, pack, text);
}

int verify_packs(struct verify *v, struct vn_err *err)
{
    bool suspect = false;

    /* Rows are counted before the directories are held against them: a writer
     * enters a pack's rows in several transactions, and what comes in between
     * makes more of them match, never less. */
    if (list_packs(v, err) < 0 || each_row(v, count_row, err) < 0 ||
        check_packs(v, err) < 0 || check_changed(v, err) < 0)
        return -1;
    for (size_t i = 0; i < v->pack_count; i++)
        suspect |= is_suspect(&v->packs[i]);
    if (suspect && each_row(v, check_suspect, err) < 0)
        return -1;
    /* A row that has turned to another pack since it was counted is no harm: it
     * was tried, and its chunk is there. */
    for (size_t i = 0; i < v->pack_count; i++)
        if (v->packs[i].unread > 0 && !v->packs[i].unusable)
            report_mismatch(v, &v->packs[i]);
    return 0;
}
