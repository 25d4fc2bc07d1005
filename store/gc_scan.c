#include "store/gc_internal.h"

/* Collection: orphans, the mark, and the scan of the index. */

#include "common/fault.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PACK_BATCH 1024u

/* ---- orphans ---------------------------------------------------------- */

/* What the engine has below the fence. */
struct listing {
    uint64_t fence;
    struct engine_entry *entries;
    size_t count;
    size_t capacity;
};

static void list_entry(void *context, const struct engine_entry *entry)
{
    struct listing *l = context;

    if (entry->pack_id >= l->fence)
        return;
    if (l->count == l->capacity) {
        size_t capacity = l->capacity ? 2 * l->capacity : PACK_BATCH;
        struct engine_entry *entries =
            realloc(l->entries, capacity * sizeof(*entries));

        if (!entries)
            abort();
        l->entries = entries;
        l->capacity = capacity;
    }
    l->entries[l->count++] = *entry;
}

static int by_entry(const void *a, const void *b)
{
    const struct engine_entry *x = a;
    const struct engine_entry *y = b;

    return x->pack_id < y->pack_id ? -1 : x->pack_id > y->pack_id;
}

/* Keep in the sorted listing only what the index does not know. */
static int keep_unknown(struct gc *gc, struct listing *l, struct vn_err *err)
{
    struct index_packs step = {.index = gc->store->index};
    const struct index_pack *row;
    size_t kept = 0;
    int more = index_next_pack(&step, &row, err);

    for (size_t i = 0; i < l->count; i++) {
        while (more > 0 && row->id < l->entries[i].pack_id)
            more = index_next_pack(&step, &row, err);
        if (more < 0)
            return -1;
        if (more == 0 || row->id != l->entries[i].pack_id)
            l->entries[kept++] = l->entries[i];
    }
    l->count = kept;
    return 0;
}

static int remove_orphans(struct gc *gc, const struct listing *l,
                          struct vn_err *err)
{
    uint64_t ids[PACK_BATCH];
    size_t n;

    for (size_t i = 0; i < l->count; i += n) {
        for (n = 0; n < PACK_BATCH && i + n < l->count; n++) {
            ids[n] = l->entries[i + n].pack_id;
            gc->counts.orphans_removed++;
            gc->counts.bytes_removed += l->entries[i + n].size;
        }
        if (fault_hit("store.gc.orphans"))
            return vn_fail(err, EIO, "remove orphans");
        if (!gc->opts->dry_run &&
            engine_remove(gc->store->engine, ids, n, err) < 0)
            return -1;
    }
    return 0;
}

int gc_orphans(struct gc *gc, struct vn_err *err)
{
    struct listing l = {.fence = gc->fence};
    int result = engine_list(gc->store->engine, list_entry, &l, err);

    if (result == 0 && l.count > 0) {
        qsort(l.entries, l.count, sizeof(*l.entries), by_entry);
        result = keep_unknown(gc, &l, err);
    }
    if (result == 0)
        result = remove_orphans(gc, &l, err);
    free(l.entries);
    return result;
}

/* ---- the mark --------------------------------------------------------- */

static int mark_visit(void *context, const struct chunk_id *ids, size_t count,
                      struct vn_err *err)
{
    struct gc *gc = context;

    return gc_marks_add(gc->marks, ids, count, err);
}

static int walk_snapshot(struct gc *gc, const struct index_snapshot *row,
                         struct vn_err *err)
{
    vn_auto(json) json_t *manifest = NULL;

    if (fault_hit("store.gc.mark"))
        return vn_fail(err, EIO, "mark snapshot '%s'", row->name);
    manifest = snapshot_load(gc->store, row, err);
    if (manifest && gc->walk.visit(gc->walk.context, &row->id, 1, err) == 0 &&
        gc_walk_manifest(&gc->walk, manifest, err) == 0) {
        gc->counts.snapshots++;
        return 0;
    }
    if (snapshot_was_deleted(gc->store, row))
        return 0; /* needs nothing any more */
    return vn_wrap(
        err,
        "snapshot '%s' cannot be read, so what it needs is not known "
        "(delete it, or repair the store and store the same "
        "content again, which heals it)",
        row->name);
}

int gc_walk_snapshots(struct gc *gc, uint64_t from, uint64_t total,
                      struct vn_err *err)
{
    struct index_snapshots step = {.index = gc->store->index, .from = from};
    const struct index_snapshot *row;
    struct index_state state;
    uint64_t done = 0;
    int more;

    if (index_read_state(gc->store->index, &state, NULL, err) < 0)
        return -1;
    while ((more = index_next_snapshot(&step, &row, err)) > 0) {
        if (walk_snapshot(gc, row, err) < 0)
            return -1;
        if (done < total)
            gc_progress(gc, 0, 400, ++done, total);
    }
    if (more == 0)
        gc->next_seq = state.next_seq;
    return more;
}

int gc_mark(struct gc *gc, struct vn_err *err)
{
    struct index_stats stats;

    if (index_stats(gc->store->index, &stats, err) < 0)
        return -1;
    index_expect(gc->store->index, UINT64_MAX);
    gc->walk.visit = mark_visit;
    gc->walk.context = gc;
    if (gc_walk_snapshots(gc, 0, stats.snapshots, err) < 0)
        return -1;
    gc->marked_seq = gc->next_seq;
    return gc_marks_seal(gc->marks, err);
}

/* ---- the scan --------------------------------------------------------- */

static int load_packs(struct gc *gc, struct vn_err *err)
{
    struct index_packs step = {.index = gc->store->index};
    const struct index_pack *row;
    size_t capacity = 0;
    int more;

    while ((more = index_next_pack(&step, &row, err)) > 0) {
        if (gc->pack_count == capacity) {
            capacity = 2 * capacity + PACK_BATCH;
            gc->packs = realloc(gc->packs, capacity * sizeof(*gc->packs));
            if (!gc->packs)
                abort();
        }
        gc->packs[gc->pack_count++] =
            (struct gc_pack){.id = row->id,
                             .size = row->size,
                             .count = row->count,
                             .condemned = row->condemned};
    }
    return more;
}

/*
 * A tombstone is needed while the pack with the manifest is there. Orphans
 * were removed before, so what the index does not know is gone from the engine
 * too (below the fence; above it no tombstone is removed either). One that
 * cannot be read stays.
 */
static bool tombstone_is_live(struct gc *gc, const struct chunk_id *id)
{
    uint8_t data[PACK_TOMBSTONE_SIZE];
    struct vn_err why = VN_ERR_INIT;
    struct tombstone t;
    struct index_pack pack;
    size_t size;

    if (chunk_read(gc->store, CHUNK_TOMBSTONE, id, data, &size, &why) < 0 ||
        tombstone_decode(data, size, &t, &why) < 0)
        return true;
    return index_find_pack(gc->store->index, t.pack_id, &pack, &why) == 0 ||
           why.code != VN_E_NOT_FOUND;
}

static bool is_live(struct gc *gc, const struct index_chunk *chunk)
{
    switch (chunk->place.kind) {
    case CHUNK_PAGE:
    case CHUNK_LEAF:
    case CHUNK_INNER:
    case CHUNK_MANIFEST:
        return gc_marks_has(gc->marks, &chunk->id);
    case CHUNK_TOMBSTONE:
        return tombstone_is_live(gc, &chunk->id);
    default:
        return true;
    }
}

static void scan_chunk(struct gc *gc, const struct index_chunk *chunk)
{
    struct gc_pack *pack = gc_pack_of(gc, chunk->place.pack_id);
    bool live;

    gc->counts.chunks++;
    if (!pack)
        return; /* written since */
    live = is_live(gc, chunk);
    pack->rows++;
    pack->fixed |= chunk->place.kind > CHUNK_INNER;
    if (!live)
        return;
    pack->plain |= chunk->place.codec != CODEC_ZSTD;
    gc->counts.chunks_live++;
    pack->live++;
    pack->live_bytes += chunk->place.stored_size;
}

/* May it be that zstd was not tried on its chunks? */
static bool may_want_zstd(const struct gc *gc, const struct gc_pack *pack)
{
    return gc->opts->recompress_level > 0 && pack->plain && !pack->fixed;
}

/* A pack that is mostly dead, or that is to be recompressed: its header tells
 * the domain, and whether zstd was tried. One that cannot be read is for
 * verify. */
static void read_header(struct gc *gc, struct gc_pack *pack)
{
    uint8_t header[PACK_HEADER_SIZE];
    struct vn_err why = VN_ERR_INIT;
    unsigned version = 0;

    if (engine_read(gc->store->engine, pack->id, 0, header, sizeof(header),
                    &why) == 0)
        version = pack_header_version(header, &pack->domain);
    pack->rewrite |=
        may_want_zstd(gc, pack) &&
        (version == PACK_VERSION || version == PACK_VERSION_DOMAIN);
}

static void choose(struct gc *gc)
{
    for (size_t i = 0; i < gc->pack_count; i++) {
        struct gc_pack *pack = &gc->packs[i];
        uint64_t overhead = PACK_HEADER_SIZE + PACK_FOOTER_SIZE +
                            (uint64_t)pack->count * PACK_ENTRY_SIZE;
        uint64_t content = pack->size > overhead ? pack->size - overhead : 0;

        if (pack->condemned || pack->id >= gc->fence)
            continue;
        if (pack->live == 0)
            pack->remove = true;
        else if (gc->opts->threshold_percent < 100 &&
                 pack->live_bytes * 100 <=
                     content * (100 - gc->opts->threshold_percent))
            pack->rewrite = true;
        if (pack->rewrite || (pack->live > 0 && may_want_zstd(gc, pack)))
            read_header(gc, pack);
        gc->rewrite_total += pack->rewrite;
    }
}

int gc_scan(struct gc *gc, struct vn_err *err)
{
    struct index_chunks step = {.index = gc->store->index};
    const struct index_chunk *row;
    struct index_stats stats;
    uint64_t done = 0;
    int more;

    if (index_stats(gc->store->index, &stats, err) < 0 ||
        load_packs(gc, err) < 0)
        return -1;
    while ((more = index_next_chunk(&step, &row, err)) > 0) {
        scan_chunk(gc, row);
        if (++done % GC_PROGRESS_CHUNKS == 0 && done < stats.chunks)
            gc_progress(gc, 400, 500, done, stats.chunks);
    }
    gc_progress(gc, 500, 500, 1, 1);
    if (more == 0)
        choose(gc);
    return more;
}
