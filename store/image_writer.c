#include "store/image_writer_internal.h"

/*
 * Writing one image: pages in any order (image_intake.c), then the map
 * (image_map.c).
 *
 * Short runs: pages that must be hashed wait in the caller's memory during
 * image_writer_put(), and what is left when it returns is copied, to be
 * resolved together with those of later calls.
 *
 * Long runs, from LONG_RUN on: cut at the bounds of leaves into tasks for the
 * store's pool, each of which takes its slice in from zero scan to compressing
 * without meeting another: no two tasks have the same leaf. A task has up to
 * TASK_LEAVES_MAX leaves, as look-ups are cheaper in large batches, but a run
 * is cut into TASKS_A_THREAD tasks a thread at least. From a source they read
 * PIECE bytes at a time, which are still in the cache when they are hashed.
 *
 * Copying a file out of the page cache is most of the work where little has
 * changed. So with a view of the file and a parent, pages are first looked at
 * where they lie; only those that are neither zeros nor the parent's are read.
 * They are looked at again then, as the file may have changed in between: what
 * is hashed and what is stored are the same copy.
 *
 * Memory: 16 KiB of ids and fingerprints and 1 KiB of slots a leaf that was
 * touched, that is 34 bytes a page: 2.1 GiB for 256 GiB of image (2^26 pages)
 * without a zero leaf. 8 bytes a leaf that was never touched, 1 MiB of
 * batch, the parent's nodes, and a thread of the pool 0.2 MiB once there was a
 * long run, 16 MiB once there was one from a source. Leaves are not written
 * before the end, because any page of them may still be replaced.
 *
 * After an error the image is broken: what it holds is not known, so it
 * refuses to go on.
 */

#include "store/pool.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LONG_RUN (1u << 20) /* bytes */
#define PIECE    (1u << 20) /* bytes */

#define TASKS_A_THREAD 4u

struct image_writer *image_writer_open(struct store_writer *writer,
                                       uint64_t size,
                                       const struct map_root *parent,
                                       struct vn_err *err)
{
    vn_auto(image_writer) struct image_writer *image = NULL;
    struct vn_err ignored = VN_ERR_INIT;

    if (size > STORE_OBJECT_MAX)
        return vn_fail_ptr(err, VN_E_LIMIT,
                           "an image of %llu bytes, at most %llu are allowed",
                           (unsigned long long)size, STORE_OBJECT_MAX);
    image = vn_alloc(sizeof(*image));
    image->writer = writer;
    image->store = store_writer_store(writer);
    image->ident = store_writer_ident(writer);
    image->size = size;
    image->leaf_count = map_node_count(size, 0);
    pthread_mutex_init(&image->lock, NULL);
    image->leaves = calloc(image->leaf_count + 1, sizeof(*image->leaves));
    image->staged = intake_new(image, false);
    if (!image->leaves || !image->staged)
        return vn_fail_ptr(err, VN_E_LIMIT,
                           "no memory for an image of %llu bytes",
                           (unsigned long long)size);
    /* What gc may have taken parts of is as good as no parent, and what another
     * domain has is not looked at. */
    if (parent && parent->domain == image->ident->domain &&
        store_hold_covers(store_writer_hold(writer), parent)) {
        image->parent = image_reader_open(image->store, parent, &ignored);
        image->parent_pages = map_page_count(parent->size);
    }
    return vn_steal(&image);
}

void image_writer_free(struct image_writer *image)
{
    if (!image)
        return;
    for (uint64_t i = 0; image->leaves && i < image->leaf_count; i++)
        free(image->leaves[i]);
    free(image->leaves);
    while (image->unused) {
        struct intake *next = image->unused->next;

        intake_free(image->unused);
        image->unused = next;
    }
    intake_free(image->staged);
    image_reader_free(image->parent);
    pthread_mutex_destroy(&image->lock);
    free(image);
}

static int check_usable(const struct image_writer *image, struct vn_err *err)
{
    assert(!image->finished);
    if (image->broken)
        return vn_fail(err, VN_E_STATE,
                       "the image was given up after an earlier error");
    return 0;
}

static void check_range(const struct image_writer *image, uint64_t offset,
                        uint64_t size)
{
    assert(offset % STORE_PAGE_SIZE == 0 && offset <= image->size &&
           size <= image->size - offset);
    assert(size % STORE_PAGE_SIZE == 0 || offset + size == image->size);
}

/* Take in bytes that lie in memory; the last page is filled up. */
static int take_bytes(struct intake *in, uint64_t offset, const uint8_t *from,
                      size_t size, struct vn_err *err)
{
    uint64_t page = offset / STORE_PAGE_SIZE;

    for (; size >= STORE_PAGE_SIZE; size -= STORE_PAGE_SIZE) {
        if (intake_page(in, page++, from, err) < 0)
            return -1;
        from += STORE_PAGE_SIZE;
    }
    if (size == 0)
        return 0;
    memset(in->last, 0, STORE_PAGE_SIZE);
    memcpy(in->last, from, size);
    return intake_page(in, page, in->last, err);
}

/* ---- long runs --------------------------------------------------------- */

struct run {
    struct image_writer *image;
    uint64_t offset;
    uint64_t size;
    uint64_t leaves;              /* of a task */
    const uint8_t *data;          /* at `offset`; NULL: from the source */
    const struct file_view *view; /* from `offset` on; NULL: none */
    image_source_fn *source;
    void *context;
};

/* An intake that no other thread uses. NULL: no memory. */
static struct intake *take_intake(struct image_writer *image)
{
    struct intake *in;

    {
        vn_lock_scope(&image->lock);
        in = image->unused;
        if (in)
            image->unused = in->next;
    }
    return in ? in : intake_new(image, true);
}

static void return_intake(struct image_writer *image, struct intake *in)
{
    intake_report(in);
    vn_lock_scope(&image->lock);
    in->next = image->unused;
    image->unused = in;
}

/* Take in what lies in memory from `offset` on; nothing is left waiting. */
static int take_slice(struct intake *in, const struct run *run, uint64_t offset,
                      size_t size, struct vn_err *err)
{
    if (take_bytes(in, offset, run->data + (offset - run->offset), size, err) <
        0)
        return -1;
    return intake_resolve(in, err);
}

/*
 * A piece from the source. It is read behind the pages that wait; those of it
 * that must wait too are moved up to them, so that the rest of the buffer,
 * which is in the cache, is used again.
 */
static int read_piece(struct intake *in, const struct run *run, uint64_t offset,
                      size_t size, struct vn_err *err)
{
    uint8_t *to = in->buffer + (size_t)in->batch.count * STORE_PAGE_SIZE;
    size_t padding = -size % STORE_PAGE_SIZE;

    if (run->source(run->context, offset, to, size, err) < 0)
        return -1;
    memset(to + size, 0, padding);
    if (take_bytes(in, offset, to, size + padding, err) < 0)
        return -1;
    intake_settle(in);
    return 0;
}

/* What could not be seen cannot be read either: the source says why. What waits
 * in the buffer is given up with the image. */
static int fail_view(struct intake *in, const struct run *run, uint64_t offset,
                     size_t size, struct vn_err *err)
{
    if (run->source(run->context, offset, in->buffer, size, err) < 0)
        return -1;
    return vn_fail(err, EIO, "a part of it could not be read at first");
}

/* A piece of which most is known: only what is not is read. */
static int look_piece(struct intake *in, const struct run *run, uint64_t offset,
                      size_t size, struct vn_err *err)
{
    const uint8_t *seen = run->view->data + (offset - run->offset);
    size_t done = 0; /* taken in or found to be known */

    for (size_t at = 0; at + STORE_PAGE_SIZE <= size; at += STORE_PAGE_SIZE) {
        uint64_t page = (offset + at) / STORE_PAGE_SIZE;
        int known = intake_look(in, page, seen + at, err);

        if (known < 0)
            return -1;
        if (!known)
            continue;
        if (done < at && read_piece(in, run, offset + done, at - done, err) < 0)
            return -1;
        done = at + STORE_PAGE_SIZE;
    }
    if (file_view_failed(run->view))
        return fail_view(in, run, offset, size, err);
    return done < size ? read_piece(in, run, offset + done, size - done, err)
                       : 0;
}

/* The same as take_slice() from the source, a piece at a time. */
static int read_slice(struct intake *in, const struct run *run, uint64_t offset,
                      size_t size, struct vn_err *err)
{
    bool look = run->view && run->image->parent;

    if (intake_need_buffer(in, err) < 0)
        return -1;
    while (size > 0) {
        size_t n = size < PIECE ? size : PIECE;

        if ((look ? look_piece(in, run, offset, n, err)
                  : read_piece(in, run, offset, n, err)) < 0)
            return -1;
        offset += n;
        size -= n;
    }
    return intake_resolve(in, err);
}

/* The part of the run in the leaves of the i-th task. */
static int run_task(void *context, size_t i, struct vn_err *err)
{
    const struct run *run = context;
    uint64_t task_bytes = run->leaves * LEAF_BYTES;
    uint64_t from = run->offset / LEAF_BYTES * LEAF_BYTES + i * task_bytes;
    uint64_t to = from + task_bytes;
    uint64_t end = run->offset + run->size;
    struct intake *in = take_intake(run->image);
    int result;

    if (!in)
        return vn_fail(err, VN_E_LIMIT, "no memory to take pages in");
    if (from < run->offset)
        from = run->offset;
    if (to > end)
        to = end;
    result = run->data ? take_slice(in, run, from, (size_t)(to - from), err)
                       : read_slice(in, run, from, (size_t)(to - from), err);
    if (result == 0)
        return_intake(run->image, in);
    else
        intake_free(in); /* its batch points into the caller's memory */
    return result;
}

static int put_run(struct run *run, struct vn_err *err)
{
    struct pool *pool = run->image->store->pool;
    uint64_t first = run->offset / LEAF_BYTES;
    uint64_t end = (run->offset + run->size + LEAF_BYTES - 1) / LEAF_BYTES;
    uint64_t tasks;

    if (run->size == 0)
        return 0;
    run->leaves = (end - first) / (TASKS_A_THREAD * pool_threads(pool));
    if (run->leaves > TASK_LEAVES_MAX)
        run->leaves = TASK_LEAVES_MAX;
    if (run->leaves == 0)
        run->leaves = 1;
    tasks = (end - first + run->leaves - 1) / run->leaves;
    if (pool_run(pool, (size_t)tasks, run_task, run, err) == 0)
        return 0;
    run->image->broken = true;
    return -1;
}

/* ---- putting ------------------------------------------------------------ */

int image_writer_put(struct image_writer *image, uint64_t offset,
                     const void *data, size_t size, struct vn_err *err)
{
    struct run run = {
        .image = image, .offset = offset, .size = size, .data = data};

    check_range(image, offset, size);
    if (check_usable(image, err) < 0)
        return -1;
    if (size >= LONG_RUN)
        return put_run(&run, err);
    if (take_bytes(image->staged, offset, data, size, err) < 0) {
        image->broken = true;
        return -1;
    }
    intake_settle(image->staged);
    intake_report(image->staged);
    return 0;
}

int image_writer_put_from(struct image_writer *image, uint64_t offset,
                          uint64_t size, image_source_fn *source, void *context,
                          const struct file_view *view, struct vn_err *err)
{
    struct run run = {.image = image,
                      .offset = offset,
                      .size = size,
                      .source = source,
                      .context = context,
                      .view = view};

    check_range(image, offset, size);
    assert(!view || view->size == size);
    if (check_usable(image, err) < 0)
        return -1;
    return put_run(&run, err);
}

int image_writer_finish(struct image_writer *image, struct map_root *ret,
                        struct vn_err *err)
{
    struct map_root root = {.size = image->size,
                            .domain = image->ident->domain};

    if (check_usable(image, err) < 0)
        return -1;
    if (intake_resolve(image->staged, err) < 0 ||
        image_store_map(image, &root.root, err) < 0) {
        image->broken = true;
        return -1;
    }
    intake_report(image->staged);
    image->finished = true;
    *ret = root;
    return 0;
}

int store_put_bytes(struct store_writer *writer, const void *data, size_t size,
                    struct map_root *ret, struct vn_err *err)
{
    vn_auto(image_writer) struct image_writer *image =
        image_writer_open(writer, size, NULL, err);

    if (!image || image_writer_put(image, 0, data, size, err) < 0)
        return -1;
    return image_writer_finish(image, ret, err);
}
