#include "store/archive_internal.h"

/*
 * A bounded list of data runs. A memory image of a busy guest may have a run
 * every other page; a tar's sparse list of that would be larger than the
 * manifest and is kept in memory by every reader. So the list has a fixed
 * size: when it is full, the size of the holes that are not worth an entry
 * doubles until the list has become shorter. Of the runs that remain, each two
 * are parted by more than `gap` bytes, so the list has at most size / gap
 * entries and the doubling ends; the fill costs at most as many zeros as there
 * are holes below the gap.
 */

#include <assert.h>
#include <stdlib.h>

void archive_runs_init(struct archive_runs *r, size_t max)
{
    assert(max >= 2);
    *r = (struct archive_runs){
        .runs = vn_alloc(max * sizeof(*r->runs)),
        .max = max,
        .gap = 0,
    };
}

void archive_runs_done(struct archive_runs *r)
{
    free(r->runs);
    r->runs = NULL;
}

/* Append to a list that has room, filling a hole of at most r->gap. */
static void append(struct archive_runs *r, struct archive_run run)
{
    struct archive_run *last = r->count ? &r->runs[r->count - 1] : NULL;

    if (last && run.start - (last->start + last->size) <= r->gap)
        last->size = run.start + run.size - last->start;
    else
        r->runs[r->count++] = run;
}

static void shrink(struct archive_runs *r)
{
    while (r->count == r->max) {
        size_t count = r->count;

        r->gap = r->gap ? 2 * r->gap : STORE_PAGE_SIZE;
        r->count = 0;
        for (size_t i = 0; i < count; i++)
            append(r, r->runs[i]);
    }
}

void archive_runs_add(struct archive_runs *r, uint64_t start, uint64_t size)
{
    assert(r->count == 0 ||
           start >= r->runs[r->count - 1].start + r->runs[r->count - 1].size);
    if (size == 0)
        return;
    append(r, (struct archive_run){start, size});
    shrink(r);
}
