#include "store/index.h"

/*
 * Stepping through the tables, row by row.
 *
 * A transaction that stays open keeps LMDB from reusing pages, and whoever goes
 * through a table reads chunks in between, writes, or waits. So rows come in
 * batches, each of a transaction of its own, into space of the caller's, and
 * the next batch begins behind the last key. What is entered or deleted
 * meanwhile is met or not; every other row is met once.
 */

int index_next_pack(struct index_packs *step, const struct index_pack **ret,
                    struct vn_err *err)
{
    if (step->next == step->count) {
        if (step->last)
            return 0;
        if (index_list_packs(step->index, step->from, INDEX_STEP_PACKS,
                             step->rows, &step->count, err) < 0)
            return -1;
        step->next = 0;
        step->last = step->count < INDEX_STEP_PACKS;
        if (step->count == 0)
            return 0;
        step->from = step->rows[step->count - 1].id + 1;
    }
    *ret = &step->rows[step->next++];
    return 1;
}

int index_next_snapshot(struct index_snapshots *step,
                        const struct index_snapshot **ret, struct vn_err *err)
{
    if (step->next == step->count) {
        if (step->last)
            return 0;
        if (index_list_snapshots(step->index, step->from, INDEX_STEP_SNAPSHOTS,
                                 step->rows, &step->count, err) < 0)
            return -1;
        step->next = 0;
        step->last = step->count < INDEX_STEP_SNAPSHOTS;
        if (step->count == 0)
            return 0;
        step->from = step->rows[step->count - 1].seq + 1;
    }
    *ret = &step->rows[step->next++];
    return 1;
}

int index_next_chunk(struct index_chunks *step, const struct index_chunk **ret,
                     struct vn_err *err)
{
    if (step->next == step->count) {
        struct chunk_id after;

        if (step->last)
            return 0;
        if (step->count > 0)
            after = step->rows[step->count - 1].id;
        if (index_list_chunks(step->index, step->count > 0 ? &after : NULL,
                              INDEX_STEP_CHUNKS, step->rows, &step->count,
                              err) < 0)
            return -1;
        step->next = 0;
        step->last = step->count < INDEX_STEP_CHUNKS;
        if (step->count == 0)
            return 0;
    }
    *ret = &step->rows[step->next++];
    return 1;
}
