#include "store/gc_internal.h"

/*
 * Collection of what no snapshot needs, beside writers, readers and commits in
 * any number of processes.
 *
 *     lock       one gc at a time, none beside a verify of the whole store
 *     fence      packs with numbers from here on may belong to open writers
 *     orphans    packs that the index does not know, below the fence: removed
 *     mark       walk all snapshots; ids of what they need into a set
 *     scan       the index in order of ids, beside that set: what is live in
 *                each pack. Wholly dead: to be removed. Dead by the threshold:
 *                to be rewritten
 *     condemn    one transaction: writers that begin later do not see these
 *                packs. It holds only if no snapshot was published since the
 *                mark; those that were are walked, and packs that they need
 *                stay
 *     sweep      packs condemned in an epoch that every open hold knows of:
 *                rows of chunks, rows of packs, then the packs, which vanish
 *                while gc goes on (gc_remove.c)
 *     rewrite    live chunks copied as they are, or compressed better, to new
 *                packs and the index turned to them; then condemn and sweep
 *                what they left. In batches, so that the copies of a whole
 *                store never need its size once more
 *     forget     rows of lost chunks that no snapshot needs any more
 *     tidy       the index packed densely where it has become sparse
 *                (index_compact.c), its free pages given back (index_punch.c)
 *
 * Wholly dead packs go before others are rewritten: on a full disk that is
 * where the space for the copies comes from.
 *
 * Why nothing that is needed is lost, with writers, commits and crashes in
 * between: docs/formats/store.md, "Collection". In short: a snapshot that
 * exists never has a chunk in a condemned pack, by the index's transactions
 * alone; and rows of chunks are deleted only where their pack is condemned.
 * Holds only see to it that a writer's work is not made useless.
 *
 * Killed anywhere: until a pack is condemned nothing has changed but copies,
 * which are duplicates; condemned packs stay condemned, and the next gc sweeps
 * them; packs whose rows are gone are orphans.
 *
 * Readers look a chunk up in a short transaction and read its pack after it.
 * gc may have moved the chunk and removed the pack in between: the engine says
 * that there is no such pack, and the reader looks up again (chunk.c). It
 * fails only if the chunk is nowhere, which means that the snapshot was
 * deleted; a hold prevents that too. Readers' descriptors of removed packs stay
 * good: their numbers never come back.
 *
 * Memory: 64 MiB of marks (gc_marks.c), 32 to 64 bytes a map node (gc_walk.c),
 * 56 bytes a pack, one pack and its copy, 55 MiB of moves (gc_rewrite.c).
 */

#include "common/auto.h"
#include "common/clock.h"
#include "store/codec_zstd.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#define MARKS_CAPACITY (4u << 20)
#define LOCK_POLL_MS   100u
#define TIDY_SPACE     (16u << 20)  /* what compacting the index may need */
#define BATCH_MIN      (1ull << 30) /* bytes rewritten between two sweeps */
#define BATCHES_MAX    16u          /* each goes through the whole index */

struct gc_pack *gc_pack_of(struct gc *gc, uint64_t pack_id)
{
    size_t low = 0;
    size_t high = gc->pack_count;
    uint64_t first = high > 0 ? gc->packs[0].id : 0;

    /* Where no number is missing no search is needed. */
    if (pack_id - first < high && gc->packs[pack_id - first].id == pack_id)
        return &gc->packs[pack_id - first];
    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (gc->packs[middle].id < pack_id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < gc->pack_count && gc->packs[low].id == pack_id
               ? &gc->packs[low]
               : NULL;
}

void gc_progress(struct gc *gc, unsigned from, unsigned to, uint64_t done,
                 uint64_t total)
{
    if (gc->opts->progress)
        gc->opts->progress(gc->opts->context,
                           from + (total ? (to - from) * done / total : 0),
                           1000);
}

/* The fence, from the oldest hold and the pack numbers given out so far; the
 * latter first: who enters a hold later draws higher ones. */
static int set_fence(struct gc *gc, struct vn_err *err)
{
    struct engine_holds holds;
    struct index_state state;

    if (index_read_state(gc->store->index, &state, NULL, err) < 0 ||
        engine_holds(gc->store->engine, &holds, err) < 0)
        return -1;
    gc->fence = holds.mark < state.next_pack ? holds.mark : state.next_pack;
    return 0;
}

static bool any_rewrite(const struct gc *gc)
{
    for (size_t i = 0; i < gc->pack_count; i++)
        if (gc->packs[i].rewrite)
            return true;
    return false;
}

/* What a dry run would have done. */
static void predict(struct gc *gc)
{
    for (size_t i = 0; i < gc->pack_count; i++) {
        const struct gc_pack *pack = &gc->packs[i];

        if (!pack->remove && !pack->rewrite && !pack->condemned)
            continue;
        gc->counts.chunks_removed += pack->rows - pack->live;
        gc->counts.packs_removed++;
        gc->counts.packs_rewritten += pack->rewrite;
        gc->counts.bytes_removed += pack->size;
        gc->counts.bytes_written += pack->live_bytes;
    }
}

static uint64_t batch_bytes(const struct gc *gc)
{
    uint64_t bytes = 0;

    if (gc->opts->batch_bytes)
        return gc->opts->batch_bytes;
    for (size_t i = 0; i < gc->pack_count; i++)
        bytes += gc->packs[i].rewrite ? gc->packs[i].size : 0;
    bytes /= BATCHES_MAX;
    return bytes > BATCH_MIN ? bytes : BATCH_MIN;
}

/* Where there is not room for `bytes` more, wait for what is being removed. */
static int make_room(struct gc *gc, uint64_t bytes, struct vn_err *err)
{
    struct vn_err full = VN_ERR_INIT;

    if (store_check_space(gc->store, bytes, &full) == 0)
        return 0;
    return gc_remove_wait(gc, err);
}

/* All batches but what is left of the last, which the caller sweeps. */
static int rewrite(struct gc *gc, struct vn_err *err)
{
    uint64_t batch = batch_bytes(gc);

    for (;;) {
        unsigned done;

        if (make_room(gc, batch, err) < 0 || gc_rewrite(gc, batch, err) < 0)
            return -1;
        if (!any_rewrite(gc))
            return 0;
        done = 600 + (unsigned)(300 * gc->rewrite_done / gc->rewrite_total);
        if (gc_condemn(gc, err) < 0 || gc_sweep(gc, 0, done, done, err) < 0)
            return -1;
    }
}

static int change(struct gc *gc, struct vn_err *err)
{
    struct vn_err later = VN_ERR_INIT;
    int result;

    if (gc_condemn(gc, err) < 0)
        return -1;
    if (!any_rewrite(gc))
        return gc_sweep(gc, gc->opts->wait_ms, 500, 1000, err);
    if (gc_sweep(gc, 0, 500, 600, err) < 0)
        return -1;
    result = rewrite(gc, err);
    /* What was emptied is removed even if not all of it could be done. */
    if (gc_condemn(gc, result < 0 ? &later : err) < 0 ||
        gc_sweep(gc, result < 0 ? 0 : gc->opts->wait_ms, 900, 1000,
                 result < 0 ? &later : err) < 0)
        return -1;
    return result;
}

/*
 * The index's own space. On a full disk holes come first, and what cannot be
 * done then is left to the next gc.
 */
static int tidy_index(struct gc *gc, struct vn_err *err)
{
    struct store *store = gc->store;
    struct vn_err full = VN_ERR_INIT;
    uint64_t count;
    uint64_t bytes;

    if (make_room(gc, TIDY_SPACE, err) < 0)
        return -1;
    if (store_check_space(store, TIDY_SPACE, &full) < 0)
        index_punch(store->index, &bytes);
    if (store_check_space(store, TIDY_SPACE, &full) == 0 &&
        index_compact(store->index, &count, err) < 0 && err->code != ENOSPC)
        return -1;
    index_punch(store->index, &bytes);
    index_known_refresh(store->index, gc->counts.chunks_removed);
    return 0;
}

static int collect(struct gc *gc, struct vn_err *err)
{
    if (set_fence(gc, err) < 0 || gc_orphans(gc, err) < 0 ||
        gc_mark(gc, err) < 0 || gc_scan(gc, err) < 0)
        return -1;
    if (gc->opts->dry_run) {
        predict(gc);
        return 0;
    }
    if (change(gc, err) < 0 || gc_forget_lost(gc, err) < 0)
        return -1;
    return tidy_index(gc, err);
}

struct engine_lock *store_lock(struct store *store, bool exclusive,
                               uint64_t wait_ms, struct vn_err *err)
{
    const struct timespec pause = {.tv_nsec = LOCK_POLL_MS * 1000000};
    uint64_t end = clock_now_ns() + wait_ms * VN_MS;

    for (;;) {
        struct engine_lock *lock = engine_lock(store->engine, exclusive, err);

        if (lock || err->code != VN_E_STATE || clock_now_ns() >= end)
            return lock;
        nanosleep(&pause, NULL);
    }
}

int store_gc(struct store *store, const struct store_gc_opts *opts,
             struct store_gc_counts *ret, struct vn_err *err)
{
    struct gc gc = {.store = store, .opts = opts};
    struct vn_err later = VN_ERR_INIT;
    struct engine_lock *lock;
    int result = -1;

    assert(opts->threshold_percent >= 1 && opts->threshold_percent <= 100);
    assert(opts->recompress_level <= CODEC_ZSTD_LEVEL_MAX);
    gc.walk.store = store;
    lock = store_lock(store, true, opts->wait_ms, err);
    if (lock) {
        if (!opts->dry_run)
            store_reserve_release(store);
        gc.marks = gc_marks_new(store->path, MARKS_CAPACITY);
        result = collect(&gc, err);
        if (gc_remove_wait(&gc, result < 0 ? &later : err) < 0)
            result = -1;
        gc_marks_free(gc.marks);
        gc_walk_done(&gc.walk);
        free(gc.packs);
        engine_unlock(lock);
    }
    if (result == 0)
        gc_progress(&gc, 1000, 1000, 0, 0);
    if (result == 0 && !opts->dry_run)
        store_reserve_renew(store);
    *ret = gc.counts;
    return result < 0 ? vn_wrap(err, "collecting '%s'", store->path) : 0;
}
