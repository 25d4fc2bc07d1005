/*
 * Batches of 1024 pfns, aligned, in rising order: since Xen 4.21 the reader
 * backs a full aligned run with large pages. A batch is one PAGE_DATA record
 * with an entry for each page that exists: XTAB and BROKEN are left out, for a
 * pfn that is never named stays empty; XALLOC has an entry and no bytes.
 *
 * A record is built in one buffer of 4 MiB, into which runs of pages are read
 * from the store directly, and written with one call. Zero pages are not in the
 * store, but they are bytes in the stream: XALLOC would leave them to Xen's
 * allocator, which need not clear them.
 *
 * The types say where in the image a page lies (capture/xen_layout.h). All of
 * them are read when it is opened, to hold the image's size against them, and
 * again, piece by piece, as the layout is followed in the pass: what is held in
 * memory does not depend on how many there are.
 *
 * Invariants. Each pfn occurs once at most, and none is at or above pfn_end.
 * No page lies beyond the image. Types come from the store and are checked one
 * by one before they are used.
 */

#include "restore/xen_pages.h"

#include "capture/xen_layout.h"
#include "capture/xen_objects.h"
#include "common/buf.h"
#include "common/io.h"
#include "restore/xen_records.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define BATCH_PFNS    1024u
#define BATCH_WINDOWS (BATCH_PFNS / XEN_WINDOW_PFNS)
#define TYPES_PFNS    (64u * BATCH_PFNS) /* a read of xen.types */
#define BATCH_SIZE    (16u + BATCH_PFNS * (8u + XEN_PAGE_SIZE))

static_assert(BATCH_PFNS % XEN_WINDOW_PFNS == 0, "a batch is whole windows");

struct xen_pages {
    uint64_t pfn_end;
    struct image_reader *memory; /* layout.size bytes */
    struct image_reader *types;  /* pfn_end bytes */
    struct xen_layout layout;    /* of all */
    uint8_t *some_types;         /* TYPES_PFNS */
};

struct batch {
    uint64_t first; /* pfn */
    unsigned count;
    const uint8_t *types;
    uint64_t windows[BATCH_WINDOWS]; /* offsets in the image */
};

/* ---- types -------------------------------------------------------------- */

static bool is_reserved(unsigned type)
{
    return type > XEN_PAGE_XTAB || (type >= 5 && type <= 8);
}

static bool is_sent(unsigned type)
{
    return type != XEN_PAGE_XTAB && type != XEN_PAGE_BROKEN;
}

/* The next types, from `pfn` on; *ret_count of them, whole batches but at the
 * end, none of them reserved. */
static int read_types(struct xen_pages *pages, uint64_t pfn,
                      unsigned *ret_count, struct vn_err *err)
{
    uint64_t left = pages->pfn_end - pfn;
    unsigned n = left < TYPES_PFNS ? (unsigned)left : TYPES_PFNS;

    if (image_reader_read(pages->types, pfn, pages->some_types, n, err) < 0)
        return vn_wrap(err, "types of pages");
    for (unsigned i = 0; i < n; i++)
        if (is_reserved(pages->some_types[i]))
            return vn_fail(err, VN_E_FORMAT,
                           "page 0x%" PRIx64 " is of the reserved type 0x%x",
                           pfn + i, pages->some_types[i]);
    *ret_count = n;
    return 0;
}

/* The layout as all types have it. */
static int measure(struct xen_pages *pages, struct vn_err *err)
{
    unsigned n;

    for (uint64_t pfn = 0; pfn < pages->pfn_end; pfn += n) {
        if (read_types(pages, pfn, &n, err) < 0)
            return -1;
        for (unsigned i = 0; i < n; i += XEN_WINDOW_PFNS)
            (void)xen_layout_next(&pages->layout, pages->some_types + i,
                                  n - i < XEN_WINDOW_PFNS ? n - i
                                                          : XEN_WINDOW_PFNS);
    }
    return 0;
}

/* ---- opening ------------------------------------------------------------ */

/* *name is freed. */
static struct image_reader *open_image(struct store *store,
                                       const json_t *manifest, char *name,
                                       uint64_t *ret_size, struct vn_err *err)
{
    vn_auto(free) char *owned = name;
    struct image_reader *image;
    struct map_root root;

    if (manifest_object(manifest, owned, &root, err) < 0)
        return NULL;
    image = image_reader_open(store, &root, err);
    if (!image)
        vn_wrap(err, "object '%s'", owned);
    else
        *ret_size = root.size;
    return image;
}

static int open_memory(struct xen_pages *pages, struct store *store,
                       const json_t *manifest, const char *vm,
                       struct vn_err *err)
{
    uint64_t size;

    pages->types =
        open_image(store, manifest, xen_object_types(vm), &pages->pfn_end, err);
    if (!pages->types)
        return -1;
    if (pages->pfn_end > XEN_PFN_MAX)
        return vn_fail(err, VN_E_LIMIT, "its memory has more than %llu pages",
                       XEN_PFN_MAX);
    pages->memory =
        open_image(store, manifest, xen_object_memory(vm), &size, err);
    if (!pages->memory)
        return -1;
    if (measure(pages, err) < 0)
        return -1;
    if (size != pages->layout.size)
        return vn_fail(err, VN_E_FORMAT,
                       "its memory has %" PRIu64 " bytes, but the types of its "
                       "pages want %" PRIu64,
                       size, pages->layout.size);
    return 0;
}

struct xen_pages *xen_pages_open(struct store *store, const json_t *manifest,
                                 const char *vm, struct vn_err *err)
{
    vn_auto(xen_pages) struct xen_pages *pages = vn_alloc(sizeof(*pages));

    pages->some_types = vn_alloc(TYPES_PFNS);
    return open_memory(pages, store, manifest, vm, err) < 0 ? NULL
                                                            : vn_steal(&pages);
}

void xen_pages_free(struct xen_pages *pages)
{
    if (!pages)
        return;
    image_reader_free(pages->memory);
    image_reader_free(pages->types);
    free(pages->some_types);
    free(pages);
}

/* ---- batches ------------------------------------------------------------ */

/* Bytes of the image into `to`; what the store does not have is 0. */
static int read_image(struct xen_pages *pages, uint64_t offset, size_t bytes,
                      uint8_t *to, struct vn_err *err)
{
    uint64_t done = offset, end = offset + bytes;
    uint64_t start, size;

    while (done < end) {
        if (image_reader_next_data(pages->memory, done, &start, &size, err) < 0)
            return -1;
        if (!size || start > end)
            start = end;
        if (size > end - start)
            size = end - start;
        memset(to, 0, start - done);
        to += start - done;
        if (size && image_reader_read(pages->memory, start, to, size, err) < 0)
            return -1;
        to += size;
        done = start + size;
    }
    return 0;
}

/* Where a page with data lies in the image. */
static uint64_t offset_of(const struct batch *batch, unsigned i)
{
    uint64_t window = batch->windows[i / XEN_WINDOW_PFNS];

    assert(window != XEN_WINDOW_NONE);
    return window + i % XEN_WINDOW_PFNS * XEN_PAGE_SIZE;
}

/* The pages of a batch, run by run, behind its entries. A run that goes on in
 * the next window does so in the image, too. */
static int put_pages(struct xen_pages *pages, const struct batch *batch,
                     struct buf *record, struct vn_err *err)
{
    for (unsigned i = 0, run; i < batch->count; i += run) {
        size_t size;
        uint8_t *to;

        for (run = 0; i + run < batch->count &&
                      xen_page_has_data(batch->types[i + run]);)
            run++;
        if (!run) {
            run = 1;
            continue;
        }
        size = (size_t)run * XEN_PAGE_SIZE;
        to = buf_reserve(record, size);
        if (!to)
            return buf_check(record, "a PAGE_DATA record", err);
        if (read_image(pages, offset_of(batch, i), size, to, err) < 0)
            return -1;
        record->size += size;
    }
    return 0;
}

static int write_batch(struct xen_pages *pages, const struct batch *batch,
                       struct buf *record, int fd, struct vn_err *err)
{
    uint32_t entries = 0, data = 0;

    for (unsigned i = 0; i < batch->count; i++) {
        entries += is_sent(batch->types[i]);
        data += xen_page_has_data(batch->types[i]);
    }
    if (!entries)
        return 0;
    record->size = 0;
    buf_put_le32(record, XEN_REC_PAGE_DATA);
    buf_put_le32(record, 8 + 8 * entries + XEN_PAGE_SIZE * data);
    buf_put_le32(record, entries);
    buf_put_le32(record, 0);
    for (unsigned i = 0; i < batch->count; i++)
        if (is_sent(batch->types[i]))
            buf_put_le64(record,
                         (uint64_t)batch->types[i] << 60 | (batch->first + i));
    if (put_pages(pages, batch, record, err) < 0)
        return vn_wrap(err, "memory");
    if (buf_check(record, "a PAGE_DATA record", err) < 0)
        return -1;
    return io_write(fd, record->data, record->size, err);
}

/* ---- the pass ----------------------------------------------------------- */

/* The batch of `count` pfns from `first` on; its windows are the layout's
 * next. */
static struct batch make_batch(struct xen_layout *layout, uint64_t first,
                               const uint8_t *types, unsigned count)
{
    struct batch batch = {.first = first, .count = count, .types = types};

    for (unsigned i = 0; i < BATCH_WINDOWS; i++) {
        unsigned at = i * XEN_WINDOW_PFNS;
        unsigned left = at < count ? count - at : 0;

        batch.windows[i] =
            xen_layout_next(layout, types + at,
                            left < XEN_WINDOW_PFNS ? left : XEN_WINDOW_PFNS);
    }
    return batch;
}

int xen_pages_write(struct xen_pages *pages, int fd,
                    store_progress_fn *progress, void *context,
                    struct vn_err *err)
{
    vn_auto(buf) struct buf record = {.limit = BATCH_SIZE};
    struct xen_layout layout = {0};
    unsigned n;

    for (uint64_t pfn = 0; pfn < pages->pfn_end; pfn += n) {
        if (read_types(pages, pfn, &n, err) < 0)
            return -1;
        for (unsigned at = 0; at < n; at += BATCH_PFNS) {
            const struct batch batch =
                make_batch(&layout, pfn + at, pages->some_types + at,
                           n - at < BATCH_PFNS ? n - at : BATCH_PFNS);

            if (write_batch(pages, &batch, &record, fd, err) < 0)
                return -1;
            if (progress)
                progress(context, layout.pages * XEN_PAGE_SIZE,
                         pages->layout.pages * XEN_PAGE_SIZE);
        }
    }
    return 0;
}
