#include "store/image_reader_internal.h"

/*
 * Reading long ranges of an image, a few leaves, 2 MiB each, being a task for
 * the store's pool.
 *
 * Each task loads its leaves, looks up the ids of all their pages and has them
 * read ahead; then, leaf by leaf, it reads the pages in the order in which they
 * lie, and checks every one before the sink or the caller's memory has a byte
 * of it. Tasks are taken in rising order, so that threads read side by side
 * what was mostly written side by side. The leaves of a piece, PIECE_LEAVES of
 * them, are read ahead together.
 *
 * Memory: 0.2 MiB a thread, and 2 MiB with a sink; kept for the next call.
 */

#include "store/read_ahead.h"

#include <assert.h>
#include <stdlib.h>

#define TASKS_A_THREAD 4u
#define PIECE_LEAVES   MAP_FANOUT /* 1 GiB */

struct run {
    struct image_reader *image;
    uint64_t first;  /* page */
    uint64_t end;    /* page */
    uint64_t leaves; /* of a task */
    uint8_t *out;    /* of page `first`; NULL: to the sink */
    image_sink_fn *sink;
    void *context;
    struct read_ahead *ahead;
};

void image_reader_free_spaces(struct image_reader *image)
{
    while (image->spaces) {
        struct reader_space *space = image->spaces;

        image->spaces = space->next;
        free(space->pages);
        free(space);
    }
}

static struct reader_space *take_space(struct image_reader *image)
{
    struct reader_space *space;

    {
        vn_lock_scope(&image->lock);
        space = image->spaces;
        if (space)
            image->spaces = space->next;
    }
    return space ? space : vn_alloc(sizeof(*space));
}

static void return_space(struct image_reader *image, struct reader_space *space)
{
    vn_lock_scope(&image->lock);
    space->next = image->spaces;
    image->spaces = space;
}

/* Hand over the runs of pages that are not zero. */
static int give(const struct run *run, const struct map_node *leaf,
                const struct leaf_part *part, uint64_t page,
                const uint8_t *pages, struct vn_err *err)
{
    uint64_t size = run->image->root.size;

    for (size_t i = 0, n; i < part->count; i += n) {
        const struct chunk_id *ids = &leaf->ids[part->first + i];
        uint64_t from = (page + i) * STORE_PAGE_SIZE;
        uint64_t to;

        n = 1;
        if (chunk_id_is_zero(ids))
            continue;
        while (i + n < part->count && !chunk_id_is_zero(&ids[n]))
            n++;
        to = from + n * STORE_PAGE_SIZE;
        if (to > size)
            to = size;
        if (run->sink(run->context, from, pages + i * STORE_PAGE_SIZE,
                      (size_t)(to - from), err) < 0)
            return -1;
    }
    return 0;
}

/* The pages of one leaf; `page` is the number of the first that is wanted. */
static int read_leaf(const struct run *run, struct reader_space *space,
                     const struct map_node *leaf, const struct leaf_part *part,
                     uint64_t page, struct vn_err *err)
{
    if (run->out)
        return image_reader_fetch(
            run->image, leaf, part,
            run->out + (page - run->first) * STORE_PAGE_SIZE, true, err);
    if (!leaf)
        return 0;
    if (!space->pages)
        space->pages = malloc((size_t)MAP_FANOUT * STORE_PAGE_SIZE);
    if (!space->pages)
        return vn_fail(err, VN_E_LIMIT, "no memory to read pages");
    if (image_reader_fetch(run->image, leaf, part, space->pages, false, err) <
        0)
        return -1;
    return give(run, leaf, part, page, space->pages, err);
}

/* Load the leaves over the pages from `from` to `to`, and look up their pages.
 */
static int load_leaves(const struct run *run, struct reader_space *space,
                       uint64_t from, uint64_t to, struct vn_err *err)
{
    size_t ids = 0;

    for (size_t i = 0; from < to; i++) {
        struct leaf_part *part = &space->parts[i];
        uint64_t index = from / MAP_FANOUT;
        uint64_t end = (index + 1) * MAP_FANOUT;

        if (image_reader_load_leaf(run->image, index, &space->leaves[i],
                                   &space->found[i], err) < 0)
            return -1;
        part->first = from % MAP_FANOUT;
        part->count = (size_t)((end < to ? end : to) - from);
        part->places = &space->places[ids];
        for (size_t k = 0; space->found[i] && k < part->count; k++)
            if (!chunk_id_is_zero(&space->found[i]->ids[part->first + k]))
                space->ids[ids++] = space->found[i]->ids[part->first + k];
        from += part->count;
    }
    if (index_find(run->image->store->index, space->ids, ids, space->places,
                   err) < 0)
        return -1;
    read_ahead_pages(run->ahead, run->image->store, space->places, ids);
    return 0;
}

static int read_leaves(const struct run *run, struct reader_space *space,
                       uint64_t from, uint64_t to, struct vn_err *err)
{
    if (load_leaves(run, space, from, to, err) < 0)
        return -1;
    for (size_t i = 0; from < to; i++) {
        if (read_leaf(run, space, space->found[i], &space->parts[i], from,
                      err) < 0)
            return -1;
        from += space->parts[i].count;
    }
    return 0;
}

/* The part of the run in the leaves of the i-th task. */
static int run_task(void *context, size_t i, struct vn_err *err)
{
    const struct run *run = context;
    uint64_t task_pages = run->leaves * MAP_FANOUT;
    uint64_t from = run->first / MAP_FANOUT * MAP_FANOUT + i * task_pages;
    uint64_t to = from + task_pages;
    struct reader_space *space = take_space(run->image);
    int result;

    if (from < run->first)
        from = run->first;
    if (to > run->end)
        to = run->end;
    result = read_leaves(run, space, from, to, err);
    return_space(run->image, space);
    return result;
}

/* Read at most PIECE_LEAVES leaves. */
static int run_piece(struct run *run, struct vn_err *err)
{
    struct pool *pool = run->image->store->pool;
    uint64_t first = run->first / MAP_FANOUT;
    uint64_t end = (run->end + MAP_FANOUT - 1) / MAP_FANOUT;
    uint64_t tasks;

    image_reader_expect(run->image, first, end);
    run->leaves = (end - first) / (TASKS_A_THREAD * pool_threads(pool));
    if (run->leaves > TASK_LEAVES_MAX)
        run->leaves = TASK_LEAVES_MAX;
    if (run->leaves == 0)
        run->leaves = 1;
    tasks = (end - first + run->leaves - 1) / run->leaves;
    return pool_run(pool, (size_t)tasks, run_task, run, err);
}

static int run_pieces(const struct run *all, struct vn_err *err)
{
    struct read_ahead ahead;
    struct run run = *all;
    int result = 0;

    read_ahead_init(&ahead);
    run.ahead = &ahead;
    while (result == 0 && run.first < all->end) {
        run.end =
            (run.first / MAP_FANOUT + PIECE_LEAVES) * (uint64_t)MAP_FANOUT;
        if (run.end > all->end)
            run.end = all->end;
        result = run_piece(&run, err);
        if (run.out)
            run.out += (run.end - run.first) * STORE_PAGE_SIZE;
        run.first = run.end;
    }
    read_ahead_done(&ahead);
    return result;
}

int image_reader_run(struct image_reader *image, uint64_t offset, size_t size,
                     uint8_t *out, struct vn_err *err)
{
    struct run run = {.image = image,
                      .first = offset / STORE_PAGE_SIZE,
                      .end = (offset + size) / STORE_PAGE_SIZE,
                      .out = out};

    assert(offset % STORE_PAGE_SIZE == 0 && size % STORE_PAGE_SIZE == 0);
    return run_pieces(&run, err);
}

int image_reader_read_to(struct image_reader *image, uint64_t offset,
                         uint64_t size, image_sink_fn *sink, void *context,
                         struct vn_err *err)
{
    struct run run = {.image = image,
                      .first = offset / STORE_PAGE_SIZE,
                      .end = map_page_count(offset + size),
                      .sink = sink,
                      .context = context};

    assert(offset % STORE_PAGE_SIZE == 0);
    assert(offset <= image->root.size && size <= image->root.size - offset);
    assert(size % STORE_PAGE_SIZE == 0 || offset + size == image->root.size);
    if (run_pieces(&run, err) < 0)
        return vn_wrap(err, "image from offset %llu on",
                       (unsigned long long)offset);
    return 0;
}
