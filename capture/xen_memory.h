#ifndef CAPTURE_XEN_MEMORY_H
#define CAPTURE_XEN_MEMORY_H

/*
 * A domain's memory in ours: the sink of a Xen stream while the domain runs
 * and stands, and the source of the store's objects afterwards. Last writer
 * wins, also for a page that goes away. Zero pages take no room; memory is
 * asked for in 2 MiB pieces, ahead of need, so that no page fault of the
 * arena lengthens a pause.
 */

#include "capture/xen_stream.h"
#include "store/store.h"

#include <jansson.h>

struct xen_memory;

/* bytes_max bounds what is kept (the domain's memory and a little). */
struct xen_memory *xen_memory_new(uint64_t bytes_max);
void xen_memory_free(struct xen_memory *memory);

/* As xen_stream_sink.page; context is the xen_memory. VN_E_LIMIT beyond
 * bytes_max. */
int xen_memory_page(void *context, uint64_t pfn, unsigned type,
                    const void *page, struct vn_err *err) VN_MUST_USE;
/*
 * From now on (the domain stands) a pfn that had data must not turn into XTAB:
 * keep it and count it instead (libxc drops page tables it cannot canonicalise
 * that way); data that comes for it after all takes it back. For PV only: in
 * HVM and PVH an XTAB is always the truth, such as a page that was ballooned
 * out just before. No memory is populated ahead any more.
 */
void xen_memory_freeze(struct xen_memory *memory);
uint64_t xen_memory_lost(const struct xen_memory *memory);

struct xen_memory_counts {
    uint64_t pages;    /* with data now */
    uint64_t received; /* pages with data, repeated ones too */
};
void xen_memory_counts(const struct xen_memory *memory,
                       struct xen_memory_counts *ret);

/*
 * Put the memory of `vm` and what `stream` (finished) kept into the store, and
 * all of it into `manifest` under the names of capture/xen_objects.h. PV: the
 * entries of p2m pages are written as zeros. `parent`: the manifest before, or
 * NULL.
 */
int xen_memory_save(struct xen_memory *memory, const struct xen_stream *stream,
                    const char *vm, struct store_writer *writer,
                    const json_t *parent, json_t *manifest,
                    struct vn_err *err) VN_MUST_USE;

VN_AUTO_DEFINE(xen_memory, struct xen_memory *, xen_memory_free)

#endif
