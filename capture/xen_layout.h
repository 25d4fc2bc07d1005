#ifndef CAPTURE_XEN_LAYOUT_H
#define CAPTURE_XEN_LAYOUT_H

/*
 * Where a domain's pages lie in the object vm/NAME/ram/memory. Guest addresses
 * are sparse (a PVH domain of 128 MiB has pages just below 4 GiB), the object
 * is not: it consists of those windows of 512 aligned pfns in which at least
 * one has data, in rising order, 2 MiB each. So the types of all pfns, which
 * are an object too, say where each page is; writer and reader both ask here.
 *
 * A window is a leaf of the store's map: as long as the set of windows stays
 * as it was, a page has its place in the parent too.
 */

#include "capture/xen_stream.h"

#define XEN_WINDOW_PFNS 512u
#define XEN_WINDOW_SIZE (XEN_WINDOW_PFNS * XEN_PAGE_SIZE)
#define XEN_WINDOW_NONE UINT64_MAX

/* Starts as zeros. */
struct xen_layout {
    uint64_t size;  /* of the windows so far, in bytes; 64 TiB at most */
    uint64_t pages; /* with data so far */
};

/*
 * Take the types of the next window, `count` of them: XEN_WINDOW_PFNS, or fewer
 * in the last one, which is as large as the others nevertheless. Types that
 * Xen reserves count as no data; a window of XTAB throughout may be left out.
 * Returns the window's offset in the object, or XEN_WINDOW_NONE: not in it.
 */
uint64_t xen_layout_next(struct xen_layout *layout, const uint8_t *types,
                         size_t count);

#endif
