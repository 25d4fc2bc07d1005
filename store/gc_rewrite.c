#include "store/gc_internal.h"

/*
 * Collection: moving the live chunks out of packs that are mostly dead, or on
 * whose chunks zstd was not tried yet.
 *
 * A pack is read whole and held against its checksums, so that damage is not
 * copied; one that is damaged stays as it is, for verify and repair. Chunks are
 * copied compressed as they are, in the order in which they lay: neighbours of
 * one image stay neighbours. When new packs with some hundred thousand chunks
 * are durable the index turns these to them, each only if it is still where it
 * was copied from: ids are uniform, so the chunks of one pack lie all over the
 * index, and to turn them pack by pack would write the whole of it for each.
 *
 * A pack counts as emptied when all its live chunks are in packs that were
 * entered. What is live was counted by the scan; where the directory has
 * another number of them, index and pack do not agree and the pack stays.
 *
 * Recompression: a chunk is decoded and held against its id first, so that
 * damage keeps the checksums that show it, and what zstd made is decoded and
 * compared, since it takes the place of the only copy. The smaller form stays.
 * A pack on whose chunks zstd was tried has a version that says so, whatever
 * came of it: that is how the next gc knows. So chunks of packs where it was
 * tried and of others do not go into one new pack unless they are compressed on
 * the way.
 *
 * Domains: a new pack has pages of one only, so packs are taken domain by
 * domain, lest tenants who write in turn get a new pack for each old one.
 *
 * Packs with manifests or tombstones are never rewritten: the numbers of their
 * packs have a meaning (tombstone.c).
 */

#include "common/auto.h"
#include "store/codec_zstd.h"
#include "store/id_sort.h"

#include <stdlib.h>
#include <string.h>

#define MOVES_MAX 262144u /* chunks in packs that are not entered: 21 MiB */

struct rewrite {
    struct gc *gc;
    struct pack_builder *builder;
    struct ident ident;       /* in the builder's domain */
    struct codec_zstd *codec; /* NULL: chunks stay as they are */
    struct index_move *moves;
    size_t move_count;
    size_t move_capacity;
    size_t durable; /* of these, the first are in packs that were put */
    struct index_pack *made; /* packs that were put and are not in the index */
    size_t made_count;
    size_t made_capacity;
    struct gc_pack **packs; /* to be rewritten, by domain, then by number */
    size_t pack_count;
    size_t first; /* first of these that is not wholly in entered packs */
};

/* ---- writing ---------------------------------------------------------- */

static void add_move(struct rewrite *r, uint64_t pack_id,
                     const struct pack_entry *from, const struct pack_entry *to)
{
    struct index_move *move;

    if (r->move_count == r->move_capacity) {
        r->move_capacity = r->move_capacity ? 2 * r->move_capacity : 4096;
        r->moves = realloc(r->moves, r->move_capacity * sizeof(*r->moves));
        if (!r->moves)
            abort();
    }
    move = &r->moves[r->move_count++];
    *move = (struct index_move){
        .id = ident_short(&from->id),
        .from = {.pack_id = pack_id,
                 .offset = from->offset,
                 .stored_size = from->stored_size,
                 .kind = from->kind,
                 .codec = from->codec},
    };
    move->to = move->from;
    move->to.offset = to->offset;
    move->to.stored_size = to->stored_size;
    move->to.codec = to->codec;
}

static void add_pack(struct rewrite *r, const struct index_pack *pack)
{
    if (r->made_count == r->made_capacity) {
        r->made_capacity = r->made_capacity ? 2 * r->made_capacity : 64;
        r->made = realloc(r->made, r->made_capacity * sizeof(*r->made));
        if (!r->made)
            abort();
    }
    r->made[r->made_count++] = *pack;
}

/* Write the copies in the builder. */
static int put_pack(struct rewrite *r, struct vn_err *err)
{
    struct store *store = r->gc->store;
    struct index_pack pack;
    uint64_t pack_id;

    if (r->durable == r->move_count)
        return 0;
    if (index_take_pack_ids(store->index, 1, &pack_id, err) < 0 ||
        store_put_pack(store, r->builder, pack_id, &pack, err) < 0)
        return -1;
    add_pack(r, &pack);
    for (; r->durable < r->move_count; r->durable++)
        r->moves[r->durable].to.pack_id = pack_id;
    pack_builder_reset(r->builder);
    return 0;
}

static void sort_moves(const struct rewrite *r, struct index_move *sorted)
{
    size_t count = r->move_count;
    vn_auto(free) struct id_key *keys = vn_alloc(2 * count * sizeof(*keys));

    for (size_t i = 0; i < count; i++)
        keys[i] = id_key_of(&r->moves[i].id, (uint32_t)i);
    id_sort(keys, keys + count, count);
    for (size_t i = 0; i < count; i++)
        sorted[i] = r->moves[keys[i].number];
}

static void abandon_packs(struct rewrite *r)
{
    for (size_t i = 0; i < r->made_count; i++)
        store_abandon_pack(r->gc->store, r->made[i].id);
    r->made_count = 0;
}

/* Packs before the `end`th are wholly in packs that were entered. */
static void note_emptied(struct rewrite *r, size_t end)
{
    for (; r->first < end; r->first++) {
        struct gc_pack *pack = r->packs[r->first];

        if (!pack->rewrite)
            continue;
        pack->rewrite = false;
        pack->remove = true;
        r->gc->counts.packs_rewritten++;
    }
}

/* Write what is left and turn the index to all of it; packs before the
 * `end`th are empty then. */
static int enter(struct rewrite *r, size_t end, struct vn_err *err)
{
    vn_auto(free) struct index_move *sorted = NULL;

    if (put_pack(r, err) < 0)
        return -1;
    if (r->move_count > 0) {
        sorted = vn_alloc(r->move_count * sizeof(*sorted));
        sort_moves(r, sorted);
        if (index_move(r->gc->store->index, r->made, r->made_count, sorted,
                       r->move_count, err) < 0)
            return -1;
    }
    r->gc->counts.packs_new += r->made_count;
    for (size_t i = 0; i < r->made_count; i++)
        r->gc->counts.bytes_written += r->made[i].size;
    r->made_count = 0;
    r->move_count = 0;
    r->durable = 0;
    note_emptied(r, end);
    return 0;
}

/* ---- reading ---------------------------------------------------------- */

/* The pack's bytes and directory. 1: it is damaged or holds what must stay. */
static int read_pack(struct rewrite *r, const struct gc_pack *pack,
                     uint8_t *data, struct pack *ret, struct vn_err *err)
{
    struct vn_err why = VN_ERR_INIT;
    bool damaged = true;
    char damage[128];

    if (engine_read(r->gc->store->engine, pack->id, 0, data, pack->size, &why) <
        0) {
        if (why.code != VN_E_NOT_FOUND && why.code != VN_E_CORRUPT) {
            *err = why;
            return vn_wrap(err, "pack %012llx", (unsigned long long)pack->id);
        }
        r->gc->counts.packs_damaged++;
        return 1;
    }
    if (pack_parse(data, pack->size, ret, damage, &why) == 0) {
        damaged = damage[0] || ret->id != pack->id;
        for (uint32_t i = 0; i < ret->count && !damaged; i++)
            if (ret->entries[i].kind > CHUNK_INNER) {
                pack_done(ret);
                return 1;
            }
        if (damaged)
            pack_done(ret);
    }
    r->gc->counts.packs_damaged += damaged;
    return damaged;
}

/* Which entries are live, and are what the index has? Sets keep[entry];
 * *ret_count is their number. */
static int choose_entries(struct rewrite *r, const struct pack *parsed,
                          bool *keep, uint32_t *ret_count, struct vn_err *err)
{
    vn_auto(free) uint32_t *numbers =
        vn_alloc(parsed->count * sizeof(*numbers));
    vn_auto(free) struct chunk_id *ids = vn_alloc(parsed->count * sizeof(*ids));
    vn_auto(free) struct chunk_place *places =
        vn_alloc(parsed->count * sizeof(*places));
    uint32_t kept = 0;
    size_t count = 0;

    for (uint32_t i = 0; i < parsed->count; i++) {
        struct chunk_id id = ident_short(&parsed->entries[i].id);

        if (!gc_marks_has(r->gc->marks, &id))
            continue;
        numbers[count] = i;
        ids[count++] = id;
    }
    if (index_find(r->gc->store->index, ids, count, places, err) < 0)
        return -1;
    for (size_t i = 0; i < count; i++) {
        const struct pack_entry *entry = &parsed->entries[numbers[i]];

        if (places[i].stored_size != entry->stored_size ||
            places[i].pack_id != parsed->id ||
            places[i].offset != entry->offset)
            continue;
        keep[numbers[i]] = true;
        kept++;
    }
    *ret_count = kept;
    return 0;
}

/* One chunk into the builder. 1: it is damaged. */
static int copy_entry(struct rewrite *r, const struct pack *parsed,
                      const struct pack_entry *from, const uint8_t *stored,
                      struct vn_err *err)
{
    uint8_t raw[MAP_LEAF_SIZE]; /* the largest of pages and nodes */
    struct vn_err why = VN_ERR_INIT;
    struct pack_entry to;

    if (!r->codec || pack_version_has_zstd(parsed->version)) {
        if (pack_builder_copy(r->builder, from, stored, &to, err) < 0)
            return -1;
    } else if (chunk_check(&r->ident, from, stored, raw, &why) < 0) {
        return 1;
    } else if (pack_builder_recode(r->builder, r->codec, from, stored, raw, &to,
                                   err) < 0) {
        return -1;
    }
    r->gc->counts.chunks_recompressed += to.codec != from->codec;
    add_move(r, parsed->id, from, &to);
    return 0;
}

/* Begin another pack if what comes may not be with what is in the open one. */
static int separate(struct rewrite *r, const struct pack *parsed, bool zstd,
                    struct vn_err *err)
{
    if (zstd == pack_builder_has_zstd(r->builder) &&
        parsed->domain == r->ident.domain)
        return 0;
    if (put_pack(r, err) < 0)
        return -1;
    pack_builder_set_domain(r->builder, parsed->domain);
    ident_in_domain(&r->gc->store->ident, parsed->domain, &r->ident);
    return 0;
}

/* 1: one of them is damaged; those before it may have been copied. */
static int copy_entries(struct rewrite *r, size_t number,
                        const struct pack *parsed, const bool *keep,
                        const uint8_t *data, struct vn_err *err)
{
    bool zstd = r->codec || pack_version_has_zstd(parsed->version);

    if (separate(r, parsed, zstd, err) < 0)
        return -1;
    for (uint32_t i = 0; i < parsed->count; i++) {
        const struct pack_entry *from = &parsed->entries[i];
        int result;

        if (!keep[i])
            continue;
        if (pack_builder_size(r->builder) >= PACK_TARGET_SIZE &&
            put_pack(r, err) < 0)
            return -1;
        if (r->durable >= MOVES_MAX && enter(r, number, err) < 0)
            return -1;
        if (zstd)
            pack_builder_set_zstd(r->builder);
        result = copy_entry(r, parsed, from, data + from->offset, err);
        if (result != 0)
            return result;
    }
    return 0;
}

static int rewrite_pack(struct rewrite *r, size_t number, struct vn_err *err)
{
    struct gc_pack *pack = r->packs[number];
    vn_auto(free) uint8_t *data = NULL;
    vn_auto(free) bool *keep = NULL;
    struct pack parsed;
    uint32_t kept = 0;
    int result;

    data = pack->size <= PACK_SIZE_MAX ? malloc(pack->size + 1) : NULL;
    if (!data)
        return vn_fail(err, VN_E_LIMIT, "no memory for a pack of %llu bytes",
                       (unsigned long long)pack->size);
    result = read_pack(r, pack, data, &parsed, err);
    if (result != 0) {
        pack->rewrite = false;
        return result < 0 ? -1 : 0;
    }
    keep = vn_alloc(parsed.count * sizeof(*keep));
    result = choose_entries(r, &parsed, keep, &kept, err);
    if (result == 0)
        result = kept == pack->live
                     ? copy_entries(r, number, &parsed, keep, data, err)
                     : 1;
    if (result > 0) {
        pack->rewrite = false;
        r->gc->counts.packs_damaged++;
    }
    pack_done(&parsed);
    return result < 0 ? -1 : 0;
}

/* While one pack is worked on the next one is read. */
static void prefetch(const struct rewrite *r, size_t i)
{
    if (i < r->pack_count)
        engine_prefetch(r->gc->store->engine, r->packs[i]->id, 0,
                        r->packs[i]->size);
}

static int by_domain(const void *a, const void *b)
{
    const struct gc_pack *x = *(struct gc_pack *const *)a;
    const struct gc_pack *y = *(struct gc_pack *const *)b;

    if (x->domain != y->domain)
        return x->domain < y->domain ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static void choose_order(struct rewrite *r)
{
    struct gc *gc = r->gc;

    r->packs = vn_alloc((gc->pack_count + 1) * sizeof(struct gc_pack *));
    for (size_t i = 0; i < gc->pack_count; i++)
        if (gc->packs[i].rewrite)
            r->packs[r->pack_count++] = &gc->packs[i];
    qsort(r->packs, r->pack_count, sizeof(struct gc_pack *), by_domain);
}

static int rewrite_batch(struct rewrite *r, uint64_t batch_bytes,
                         struct vn_err *err)
{
    struct gc *gc = r->gc;
    uint64_t bytes = 0;
    size_t i;

    for (i = 0; i < r->pack_count && bytes < batch_bytes; i++) {
        prefetch(r, i + 1);
        if (rewrite_pack(r, i, err) < 0)
            return -1;
        bytes += r->packs[i]->size;
        gc_progress(gc, 600, 900, ++gc->rewrite_done, gc->rewrite_total);
    }
    return enter(r, i, err);
}

int gc_rewrite(struct gc *gc, uint64_t batch_bytes, struct vn_err *err)
{
    struct rewrite r = {.gc = gc, .ident = gc->store->ident};
    int result;

    if (gc->opts->recompress_level > 0)
        r.codec = codec_zstd_new(gc->opts->recompress_level);
    r.builder = pack_builder_new(gc->store->config.store_id);
    choose_order(&r);
    result = rewrite_batch(&r, batch_bytes, err);
    abandon_packs(&r); /* those that are not entered, after a failure */
    codec_zstd_free(r.codec);
    pack_builder_free(r.builder);
    free(r.moves);
    free(r.made);
    free(r.packs);
    return result < 0 ? vn_wrap(err, "rewriting packs") : 0;
}
