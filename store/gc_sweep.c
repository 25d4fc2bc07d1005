#include "store/gc_internal.h"

/*
 * Collection: condemning packs, waiting for holds, deleting.
 *
 * Rows are found by going through the whole index in read transactions of
 * INDEX_STEP_CHUNKS rows, and deleted in write transactions of at most
 * SWEEP_BATCH; between two of them writers get their turn. Going through the
 * index is sequential, 5 million rows a second, and needs nothing of the packs,
 * so packs that cannot be read go as well.
 *
 * Lost chunks that nobody needs are forgotten at the end. The mark knows what
 * snapshots need that were there then, so it is not done if one was published
 * since, though none can need a lost chunk unless one before it does.
 */

#include "common/auto.h"
#include "common/clock.h"
#include "common/fault.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#define SWEEP_BATCH 32768u
#define SWEEP_LEAST 32u /* rows in a transaction on a full disk */
#define PACK_BATCH  1024u
#define CONDEMN_MAX 1000u /* tries, each beaten by a new snapshot */
#define POLL_MS     50u

/* ---- condemning ------------------------------------------------------- */

/* A new snapshot needs these: their packs stay. */
static int keep_visit(void *context, const struct chunk_id *ids, size_t count,
                      struct vn_err *err)
{
    struct chunk_place places[MAP_FANOUT];
    struct gc *gc = context;

    if (index_find(gc->store->index, ids, count, places, err) < 0)
        return -1;
    for (size_t i = 0; i < count; i++) {
        struct gc_pack *pack =
            places[i].stored_size ? gc_pack_of(gc, places[i].pack_id) : NULL;

        if (!pack)
            continue;
        pack->remove = false;
        pack->rewrite = false;
    }
    return 0;
}

static size_t list_removed(const struct gc *gc, uint64_t *ids)
{
    size_t count = 0;

    for (size_t i = 0; i < gc->pack_count; i++)
        if (gc->packs[i].remove)
            ids[count++] = gc->packs[i].id;
    return count;
}

static void note_condemned(struct gc *gc)
{
    for (size_t i = 0; i < gc->pack_count; i++) {
        struct gc_pack *pack = &gc->packs[i];

        if (!pack->remove)
            continue;
        pack->remove = false;
        pack->condemned = UINT32_MAX; /* the index knows which epoch */
    }
}

int gc_condemn(struct gc *gc, struct vn_err *err)
{
    vn_auto(free) uint64_t *ids = vn_alloc((gc->pack_count + 1) * sizeof(*ids));

    gc->walk.visit = keep_visit;
    gc->walk.context = gc;
    for (unsigned i = 0; i < CONDEMN_MAX; i++) {
        size_t count = list_removed(gc, ids);

        if (count == 0)
            return 0;
        if (index_condemn(gc->store->index, ids, count, gc->next_seq, err) ==
            0) {
            note_condemned(gc);
            return 0;
        }
        if (err->code != VN_E_STATE ||
            gc_walk_snapshots(gc, gc->next_seq, 0, err) < 0)
            return -1;
    }
    return vn_fail(err, VN_E_STATE, "snapshots come faster than gc can look");
}

/* ---- deleting --------------------------------------------------------- */

/* Rows on their way out. */
struct sweep {
    struct gc *gc;
    struct index_condemned packs; /* those to be swept */
    struct index_chunk *rows;     /* SWEEP_BATCH */
    size_t count;
    size_t batch;  /* rows in one transaction */
    unsigned from; /* share of the progress */
    unsigned to;
};

/*
 * A transaction writes every page of the index that it changes to a new place,
 * which may be one page a row. Where the disk has no room for that fewer rows
 * go at a time: pages that a transaction has left serve the next but one.
 */
static int sweep_rows(struct sweep *s, struct vn_err *err)
{
    size_t deleted;
    size_t n;

    for (size_t i = 0; i < s->count; i += n) {
        n = s->count - i < s->batch ? s->count - i : s->batch;
        if (index_sweep_chunks(s->gc->store->index, s->rows + i, n, &deleted,
                               err) == 0) {
            s->gc->counts.chunks_removed += deleted;
            continue;
        }
        if (err->code != ENOSPC || s->batch <= SWEEP_LEAST)
            return -1;
        s->batch /= 4;
        n = 0;
    }
    s->count = 0;
    return 0;
}

static int sweep_chunks(struct sweep *s, struct vn_err *err)
{
    struct index_chunks step = {.index = s->gc->store->index};
    const struct index_chunk *row;
    struct index_stats stats;
    uint64_t done = 0;
    int more;

    if (index_stats(s->gc->store->index, &stats, err) < 0)
        return -1;
    while ((more = index_next_chunk(&step, &row, err)) > 0) {
        if (++done % GC_PROGRESS_CHUNKS == 0 && done < stats.chunks)
            gc_progress(s->gc, s->from, s->to, done, stats.chunks);
        if (!index_condemned_has(&s->packs, row->place.pack_id))
            continue;
        s->rows[s->count++] = *row;
        if (s->count == SWEEP_BATCH && sweep_rows(s, err) < 0)
            return -1;
    }
    if (more < 0)
        return -1;
    gc_progress(s->gc, s->to, s->to, 1, 1);
    return sweep_rows(s, err);
}

/* A pack that has no row any more is removed from the engine. */
static int sweep_packs(struct sweep *s, struct vn_err *err)
{
    vn_auto(free) uint64_t *gone =
        vn_alloc((s->packs.count + 1) * sizeof(*gone));
    uint64_t ids[PACK_BATCH];
    size_t gone_count = 0;
    uint64_t bytes = 0;
    int result = 0;
    size_t count;
    size_t n;

    for (size_t i = 0; result == 0 && i < s->packs.count; i += n) {
        for (n = 0; n < PACK_BATCH && i + n < s->packs.count; n++)
            ids[n] = s->packs.packs[i + n].id;
        result = index_sweep_packs(s->gc->store->index, ids, n,
                                   gone + gone_count, &count, err);
        gone_count += result == 0 ? count : 0;
    }
    for (size_t i = 0; i < gone_count; i++)
        bytes += index_condemned_find(&s->packs, gone[i])->size;
    if (gone_count > 0 && fault_hit("store.gc.swept"))
        return vn_fail(err, EIO, "remove packs");
    if (gone_count > 0)
        gc_remove(s->gc, vn_steal(&gone), gone_count, bytes);
    return result;
}

/* ---- waiting ---------------------------------------------------------- */

/* Those of the condemned that every hold knows of stay in the list. */
static int keep_released(struct gc *gc, struct index_condemned *condemned,
                         struct vn_err *err)
{
    struct engine_holds holds;
    size_t kept = 0;

    if (engine_holds(gc->store->engine, &holds, err) < 0)
        return -1;
    for (size_t i = 0; i < condemned->count; i++)
        if (condemned->packs[i].condemned <= holds.epoch)
            condemned->packs[kept++] = condemned->packs[i];
    gc->counts.packs_waiting = condemned->count - kept;
    gc->counts.holder = condemned->count > kept ? holds.holder : 0;
    condemned->count = kept;
    return 0;
}

static int wait_for_holds(struct gc *gc, uint64_t wait_ms,
                          struct index_condemned *ret, struct vn_err *err)
{
    const struct timespec pause = {.tv_nsec = POLL_MS * 1000000};
    uint64_t end = clock_now_ns() + wait_ms * VN_MS;

    for (;;) {
        struct index_condemned condemned;
        struct index_state state;

        if (index_read_state(gc->store->index, &state, &condemned, err) < 0)
            return -1;
        if (keep_released(gc, &condemned, err) < 0) {
            index_condemned_done(&condemned);
            return -1;
        }
        if (gc->counts.packs_waiting == 0 || clock_now_ns() >= end) {
            *ret = condemned;
            return 0;
        }
        index_condemned_done(&condemned);
        nanosleep(&pause, NULL);
    }
}

int gc_sweep(struct gc *gc, uint64_t wait_ms, unsigned from, unsigned to,
             struct vn_err *err)
{
    struct sweep s = {.gc = gc, .batch = SWEEP_BATCH, .from = from, .to = to};
    int result = 0;

    if (wait_for_holds(gc, wait_ms, &s.packs, err) < 0)
        return -1;
    if (s.packs.count > 0) {
        s.rows = vn_alloc(SWEEP_BATCH * sizeof(*s.rows));
        result = sweep_chunks(&s, err);
        if (result == 0)
            result = sweep_packs(&s, err);
        free(s.rows);
    }
    index_condemned_done(&s.packs);
    return result;
}

/* ---- lost chunks ------------------------------------------------------ */

int gc_forget_lost(struct gc *gc, struct vn_err *err)
{
    vn_auto(free) struct index_lost *lost = NULL;
    vn_auto(free) struct chunk_id *ids = NULL;
    size_t lost_count;
    size_t count = 0;
    size_t n;

    if (index_list_lost(gc->store->index, &lost, &lost_count, err) < 0)
        return -1;
    ids = vn_alloc((lost_count + 1) * sizeof(*ids));
    for (size_t i = 0; i < lost_count; i++)
        if (!gc_marks_has(gc->marks, &lost[i].id))
            ids[count++] = lost[i].id;
    for (size_t i = 0; i < count; i += n) {
        n = count - i < SWEEP_BATCH ? count - i : SWEEP_BATCH;
        if (index_forget_lost(gc->store->index, ids + i, n, gc->marked_seq,
                              err) < 0)
            return err->code == VN_E_STATE || err->code == ENOSPC ? 0 : -1;
    }
    return 0;
}
