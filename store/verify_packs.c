#include "store/verify_internal.h"

/* Verify, passes 1 and 2: packs against the index, and the reverse. */

#include "common/io.h"

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

/* One chunk: its bytes against its id, its place against the index. */
static void check_chunk(struct verify *v, struct verify_pack *pack,
                        const struct pack_entry *entry, const uint8_t *stored,
                        const struct chunk_place *place)
{
    vn_auto(free) uint8_t *out = vn_alloc(pack_raw_limit(entry->kind));
    struct chunk_id id = ident_short(&entry->id);
    struct vn_err why = VN_ERR_INIT;
    char hex[HEX_SPACE];

    io_hex(id.bytes, STORE_ID_SIZE, hex);
    /* A chunk that the index has not is dead weight, such as gc leaves of a
     * second copy; one that a snapshot needs is missed in pass 3. */
    if (place->stored_size > 0 && place_is(place, pack->id, entry))
        pack->matched++;
    if (chunk_check(v->store, entry, stored, out, &why) == 0)
        return;
    verify_found(v, "chunk %s in pack %012llx at %u: %s", hex,
                 (unsigned long long)pack->id, entry->offset, why.msg);
    if (place->pack_id == pack->id)
        id_set_add(&v->bad, &id);
}

static int check_chunks(struct verify *v, struct verify_pack *pack,
                        const struct pack *parsed, const uint8_t *data,
                        struct vn_err *err)
{
    struct chunk_id ids[CHUNK_BATCH];
    struct chunk_place places[CHUNK_BATCH];

    for (size_t i = 0; i < parsed->count; i += CHUNK_BATCH) {
        const struct pack_entry *entries = parsed->entries + i;
        size_t n =
            parsed->count - i < CHUNK_BATCH ? parsed->count - i : CHUNK_BATCH;

        for (size_t k = 0; k < n; k++)
            ids[k] = ident_short(&entries[k].id);
        if (index_find(v->store->index, ids, n, places, err) < 0)
            return -1;
        for (size_t k = 0; k < n; k++)
            check_chunk(v, pack, &entries[k], data + entries[k].offset,
                        &places[k]);
    }
    return 0;
}

/* The pack as a whole against its row; what was parsed is usable. */
static void check_head(struct verify *v, const struct index_pack *row,
                       const struct pack *parsed, const char *damage)
{
    unsigned long long id = row->id;

    if (damage[0])
        verify_found(v, "pack %012llx: %s", id, damage);
    else if (memcmp(parsed->store_id, v->store->config.store_id,
                    sizeof(parsed->store_id)) != 0)
        verify_found(v, "pack %012llx: it belongs to another store", id);
    if (parsed->id != row->id)
        verify_found(v, "pack %012llx: it says that it is pack %012llx", id,
                     (unsigned long long)parsed->id);
    if (parsed->count != row->count)
        verify_found(v, "pack %012llx: it has %u chunks, the index says %u", id,
                     parsed->count, row->count);
}

static int read_pack(struct verify *v, const struct index_pack *row,
                     uint8_t **ret_data, struct vn_err *err)
{
    vn_auto(free) uint8_t *data = NULL;
    uint64_t size;

    if (engine_size(v->store->engine, row->id, &size, err) < 0)
        return -1;
    if (size != row->size || size > PACK_SIZE_MAX)
        return vn_fail(err, VN_E_CORRUPT,
                       "it has %llu bytes, the index says %llu",
                       (unsigned long long)size, (unsigned long long)row->size);
    data = malloc(size + 1);
    if (!data)
        return vn_fail(err, VN_E_LIMIT, "no memory for %llu bytes",
                       (unsigned long long)size);
    if (engine_read(v->store->engine, row->id, 0, data, size, err) < 0)
        return -1;
    *ret_data = vn_steal(&data);
    return 0;
}

static int check_pack(struct verify *v, const struct index_pack *row,
                      struct vn_err *err)
{
    struct verify_pack *pack = verify_pack_of(v, row->id);
    vn_auto(free) uint8_t *data = NULL;
    struct vn_err why = VN_ERR_INIT;
    struct pack parsed;
    char damage[128];
    int result;

    if (!pack)
        return 0; /* entered since */
    if (read_pack(v, row, &data, &why) < 0 ||
        pack_parse(data, row->size, &parsed, damage, &why) < 0) {
        verify_found(v, "pack %012llx: %s", (unsigned long long)row->id,
                     why.msg);
        pack->unusable = true;
        return 0;
    }
    check_head(v, row, &parsed, damage);
    result = check_chunks(v, pack, &parsed, data, err);
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
            if (check_pack(v, &rows[i], err) < 0)
                return -1;
            verify_progress(v, rows[i].size);
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
    char hex[HEX_SPACE];
    size_t count;

    if (index_list_packs(v->store->index, row->place.pack_id, 1, &pack, &count,
                         err) < 0)
        return -1;
    if (count == 1 && pack.id == row->place.pack_id)
        return 0;
    io_hex(row->id.bytes, STORE_ID_SIZE, hex);
    verify_found(v,
                 "chunk %s: the index places it in pack %012llx, which the "
                 "index does not know",
                 hex, (unsigned long long)row->place.pack_id);
    id_set_add(&v->bad, &row->id);
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

/* A row of a pack that confirms fewer rows than it has: read the chunk. */
static int check_suspect(struct verify *v, const struct index_chunk *row,
                         struct vn_err *err)
{
    struct verify_pack *pack = verify_pack_of(v, row->place.pack_id);
    unsigned kind = row->place.kind;
    vn_auto(free) uint8_t *out = NULL;
    struct vn_err why = VN_ERR_INIT;
    size_t size;

    (void)err;
    if (!pack || pack->unusable || pack->indexed <= pack->matched ||
        id_set_has(&v->bad, &row->id))
        return 0;
    out = vn_alloc(pack_raw_limit(kind));
    if (chunk_read(v->store, (enum chunk_kind)kind, &row->id, out, &size,
                   &why) == 0)
        return 0;
    verify_found(v, "index: %s", why.msg);
    id_set_add(&v->bad, &row->id);
    return 0;
}

int verify_packs(struct verify *v, struct vn_err *err)
{
    bool suspect = false;

    /* Rows are counted before the directories are held against them: a writer
     * enters a pack's rows in several transactions, and what comes in between
     * makes more of them match, never less. */
    if (list_packs(v, err) < 0 || each_row(v, count_row, err) < 0 ||
        check_packs(v, err) < 0)
        return -1;
    for (size_t i = 0; i < v->pack_count; i++) {
        const struct verify_pack *pack = &v->packs[i];

        /* Fewer: meanwhile a writer has stored chunks of a condemned pack
         * anew, and rows have turned away from it. */
        if (pack->unusable || pack->indexed <= pack->matched)
            continue;
        suspect = true;
        verify_found(v,
                     "pack %012llx: the index has %llu chunks in it, its "
                     "directory confirms %llu",
                     (unsigned long long)pack->id,
                     (unsigned long long)pack->indexed,
                     (unsigned long long)pack->matched);
    }
    return suspect ? each_row(v, check_suspect, err) : 0;
}
