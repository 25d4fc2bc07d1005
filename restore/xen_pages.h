#ifndef RESTORE_XEN_PAGES_H
#define RESTORE_XEN_PAGES_H

/*
 * The memory of a Xen domain in a snapshot, written as PAGE_DATA records: the
 * last state of each page, in one rising pass.
 */

#include "capture/xen_stream.h"
#include "store/store.h"

struct xen_pages;

/*
 * Open both objects (capture/xen_objects.h), read all types and hold the
 * memory's size against what they say: VN_E_FORMAT, as for a page of a reserved
 * type. Blocks for a read of xen.types, a byte a page. `store` must outlive it;
 * `manifest` need not.
 */
struct xen_pages *xen_pages_open(struct store *store, const json_t *manifest,
                                 const char *vm,
                                 struct vn_err *err) VN_MUST_USE;
void xen_pages_free(struct xen_pages *pages);

/*
 * Write all, blocking. `progress` may be NULL; it is told the bytes of pages
 * written, of those there are. VN_E_CORRUPT names a damaged chunk; EPIPE: the
 * reader is gone.
 */
int xen_pages_write(struct xen_pages *pages, int fd,
                    store_progress_fn *progress, void *context,
                    struct vn_err *err) VN_MUST_USE;

VN_AUTO_DEFINE(xen_pages, struct xen_pages *, xen_pages_free)

#endif
