/*
 * Windows of 1024 pfns, aligned, in rising order: since Xen 4.21 the reader
 * backs a full aligned run with large pages. A window is one PAGE_DATA record
 * with an entry for each page that exists: XTAB and BROKEN are left out, for a
 * pfn that is never named stays empty; XALLOC has an entry and no bytes.
 *
 * A record is built in one buffer of 4 MiB, into which runs of pages are read
 * from the store directly, and written with one call. Zero pages are not in the
 * store, but they are bytes in the stream: XALLOC would leave them to Xen's
 * allocator, which need not clear them.
 *
 * Invariants. Each pfn occurs once at most, and none is at or above pfn_end,
 * which both images agree on. Types come from the store and are checked one by
 * one before anything is written of their window.
 */

#include "restore/xen_pages.h"

#include "capture/xen_objects.h"
#include "common/buf.h"
#include "common/io.h"
#include "restore/xen_records.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define WINDOW_PFNS 1024u
#define TYPES_PFNS  (64u * WINDOW_PFNS) /* a read of xen.types */
#define WINDOW_SIZE (16u + WINDOW_PFNS * (8u + XEN_PAGE_SIZE))

struct xen_pages {
    uint64_t pfn_end;
    struct image_reader *memory; /* pfn_end pages */
    struct image_reader *types;  /* pfn_end bytes */
    uint8_t *some_types;         /* TYPES_PFNS */
};

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
    if (size != pages->pfn_end * XEN_PAGE_SIZE)
        return vn_fail(err, VN_E_FORMAT,
                       "its memory has %" PRIu64 " bytes, but there are types "
                       "for %" PRIu64 " pages",
                       size, pages->pfn_end);
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

/* ---- windows ------------------------------------------------------------ */

static bool is_reserved(unsigned type)
{
    return type > XEN_PAGE_XTAB || (type >= 5 && type <= 8);
}

static bool is_sent(unsigned type)
{
    return type != XEN_PAGE_XTAB && type != XEN_PAGE_BROKEN;
}

static bool has_data(unsigned type)
{
    return is_sent(type) && xen_page_has_data(type);
}

/* `count` pages from `pfn` on into `to`; what the store does not have is 0. */
static int read_pages(struct xen_pages *pages, uint64_t pfn, unsigned count,
                      uint8_t *to, struct vn_err *err)
{
    uint64_t done = pfn * XEN_PAGE_SIZE, end = done + count * XEN_PAGE_SIZE;
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

/* The pages of a window, run by run, behind its entries. */
static int put_pages(struct xen_pages *pages, uint64_t first,
                     const uint8_t *types, unsigned count, struct buf *record,
                     struct vn_err *err)
{
    for (unsigned i = 0, run; i < count; i += run) {
        uint8_t *to;

        for (run = 0; i + run < count && has_data(types[i + run]);)
            run++;
        if (!run) {
            run = 1;
            continue;
        }
        to = buf_reserve(record, run * XEN_PAGE_SIZE);
        if (!to)
            return buf_check(record, "a PAGE_DATA record", err);
        if (read_pages(pages, first + i, run, to, err) < 0)
            return -1;
        record->size += run * XEN_PAGE_SIZE;
    }
    return 0;
}

static int write_window(struct xen_pages *pages, uint64_t first,
                        const uint8_t *types, unsigned count,
                        struct buf *record, int fd, struct vn_err *err)
{
    uint32_t entries = 0, data = 0;

    for (unsigned i = 0; i < count; i++) {
        if (is_reserved(types[i]))
            return vn_fail(err, VN_E_FORMAT,
                           "page 0x%" PRIx64 " is of the reserved type 0x%x",
                           first + i, types[i]);
        entries += is_sent(types[i]);
        data += has_data(types[i]);
    }
    if (!entries)
        return 0;
    record->size = 0;
    buf_put_le32(record, XEN_REC_PAGE_DATA);
    buf_put_le32(record, 8 + 8 * entries + XEN_PAGE_SIZE * data);
    buf_put_le32(record, entries);
    buf_put_le32(record, 0);
    for (unsigned i = 0; i < count; i++)
        if (is_sent(types[i]))
            buf_put_le64(record, (uint64_t)types[i] << 60 | (first + i));
    if (put_pages(pages, first, types, count, record, err) < 0)
        return vn_wrap(err, "memory");
    if (buf_check(record, "a PAGE_DATA record", err) < 0)
        return -1;
    return io_write(fd, record->data, record->size, err);
}

/* ---- the pass ----------------------------------------------------------- */

/* The next types, from `pfn` on; *ret_count of them, all within the memory. */
static int read_types(struct xen_pages *pages, uint64_t pfn,
                      unsigned *ret_count, struct vn_err *err)
{
    uint64_t left = pages->pfn_end - pfn;
    unsigned n = left < TYPES_PFNS ? (unsigned)left : TYPES_PFNS;

    if (image_reader_read(pages->types, pfn, pages->some_types, n, err) < 0)
        return vn_wrap(err, "types of pages");
    *ret_count = n;
    return 0;
}

static uint64_t count_data(const uint8_t *types, unsigned count)
{
    uint64_t data = 0;

    for (unsigned i = 0; i < count; i++)
        data += has_data(types[i]);
    return data;
}

/* Bytes of all pages that will be written. */
static int measure(struct xen_pages *pages, uint64_t *ret, struct vn_err *err)
{
    uint64_t data = 0;
    unsigned n;

    for (uint64_t pfn = 0; pfn < pages->pfn_end; pfn += n) {
        if (read_types(pages, pfn, &n, err) < 0)
            return -1;
        data += count_data(pages->some_types, n);
    }
    *ret = data * XEN_PAGE_SIZE;
    return 0;
}

int xen_pages_write(struct xen_pages *pages, int fd,
                    store_progress_fn *progress, void *context,
                    struct vn_err *err)
{
    vn_auto(buf) struct buf record = {.limit = WINDOW_SIZE};
    const uint8_t *types = pages->some_types;
    uint64_t done = 0, total = 0;
    unsigned n;

    if (progress && measure(pages, &total, err) < 0)
        return -1;
    for (uint64_t pfn = 0; pfn < pages->pfn_end; pfn += n) {
        if (read_types(pages, pfn, &n, err) < 0)
            return -1;
        for (unsigned at = 0, count; at < n; at += count) {
            count = n - at < WINDOW_PFNS ? n - at : WINDOW_PFNS;
            if (write_window(pages, pfn + at, types + at, count, &record, fd,
                             err) < 0)
                return -1;
            done += count_data(types + at, count) * XEN_PAGE_SIZE;
            if (progress)
                progress(context, done, total);
        }
    }
    return 0;
}
