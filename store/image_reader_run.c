#include "store/image_reader_internal.h"

/*
 * Reading long ranges of an image: a task a leaf, 2 MiB, for the store's pool.
 *
 * Each task loads its leaf, looks up the ids of its pages together, reads them
 * in the order in which they lie, and checks every one, before the sink or the
 * caller's memory has a byte of it. Leaves are taken in rising order, so that
 * threads read side by side what was mostly written side by side.
 *
 * Memory: 16 KiB a thread, and 2 MiB with a sink; kept for the next call.
 */

#include <assert.h>
#include <stdlib.h>

struct run {
    struct image_reader *image;
    uint64_t first; /* page */
    uint64_t end;   /* page */
    uint8_t *out;   /* of page `first`; NULL: to the sink */
    image_sink_fn *sink;
    void *context;
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
                uint64_t page, size_t count, const uint8_t *pages,
                struct vn_err *err)
{
    size_t place = page % MAP_FANOUT;
    uint64_t size = run->image->root.size;

    for (size_t i = 0, n; i < count; i += n) {
        uint64_t from = (page + i) * STORE_PAGE_SIZE;
        uint64_t to;

        n = 1;
        if (chunk_id_is_zero(&leaf->ids[place + i]))
            continue;
        while (i + n < count && !chunk_id_is_zero(&leaf->ids[place + i + n]))
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

static int read_leaf(const struct run *run, struct reader_space *space,
                     uint64_t page, size_t count, struct vn_err *err)
{
    struct image_reader *image = run->image;
    const struct map_node *leaf;

    if (image_reader_load_leaf(image, page / MAP_FANOUT, &space->leaf, &leaf,
                               err) < 0)
        return -1;
    if (run->out)
        return image_reader_fetch(
            image, leaf, page % MAP_FANOUT, count,
            run->out + (page - run->first) * STORE_PAGE_SIZE, true, err);
    if (!leaf)
        return 0;
    if (!space->pages)
        space->pages = malloc((size_t)MAP_FANOUT * STORE_PAGE_SIZE);
    if (!space->pages)
        return vn_fail(err, VN_E_LIMIT, "no memory to read pages");
    if (image_reader_fetch(image, leaf, page % MAP_FANOUT, count, space->pages,
                           false, err) < 0)
        return -1;
    return give(run, leaf, page, count, space->pages, err);
}

/* The part of the run in its i-th leaf. */
static int run_leaf(void *context, size_t i, struct vn_err *err)
{
    const struct run *run = context;
    uint64_t leaf = run->first / MAP_FANOUT + i;
    uint64_t from = i == 0 ? run->first : leaf * MAP_FANOUT;
    uint64_t to = (leaf + 1) * MAP_FANOUT;
    struct reader_space *space = take_space(run->image);
    int result;

    if (to > run->end)
        to = run->end;
    result = read_leaf(run, space, from, (size_t)(to - from), err);
    return_space(run->image, space);
    return result;
}

static int run_leaves(struct run *run, struct vn_err *err)
{
    uint64_t first = run->first / MAP_FANOUT;
    uint64_t end = (run->end + MAP_FANOUT - 1) / MAP_FANOUT;

    if (run->first == run->end)
        return 0;
    return pool_run(run->image->store->pool, (size_t)(end - first), run_leaf,
                    run, err);
}

int image_reader_run(struct image_reader *image, uint64_t offset, size_t size,
                     uint8_t *out, struct vn_err *err)
{
    struct run run = {.image = image,
                      .first = offset / STORE_PAGE_SIZE,
                      .end = (offset + size) / STORE_PAGE_SIZE,
                      .out = out};

    assert(offset % STORE_PAGE_SIZE == 0 && size % STORE_PAGE_SIZE == 0);
    return run_leaves(&run, err);
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
    if (run_leaves(&run, err) < 0)
        return vn_wrap(err, "image from offset %llu on",
                       (unsigned long long)offset);
    return 0;
}
