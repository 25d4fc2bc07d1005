#ifndef RESTORE_XEN_STREAM_WRITE_H
#define RESTORE_XEN_STREAM_WRITE_H

/*
 * A saved Xen domain synthesised from a snapshot: what `xl restore` reads.
 * One ascending pass over the memory, in batches of 1024 aligned pfns, then
 * the tail in the order that the specification wants.
 */

#include "capture/vm.h"
#include "capture/xen_stream.h"

struct xen_stream_source;

/*
 * Gather and check all that can be checked without reading the memory: the
 * manifest's entry, each object, its size, its records. `store` must outlive
 * the source; `manifest` need not.
 *
 * `config`, where not NULL: what the domain shall be here (restore/
 * xen_config.h): its name, a new UUID, its disks' paths in order, its NICs with
 * their MACs. Its disks and NICs are counted now, but all else is read when the
 * stream is written, so it must outlive the source and may change until then.
 * NULL: the configuration as captured (export).
 */
struct xen_stream_source *
xen_stream_source_open(struct store *store, const json_t *manifest,
                       const char *vm, const struct vm_config *config,
                       struct vn_err *err) VN_MUST_USE;
void xen_stream_source_free(struct xen_stream_source *source);

/* Have the CPUs of this host, a Xen host, what the domain was started with?
 * VN_E_UNSUPPORTED names what they lack. */
int xen_stream_source_check_cpu(const struct xen_stream_source *source,
                                struct vn_err *err) VN_MUST_USE;

/* From now on call this while writing, with the bytes of pages written and
 * those there are. */
void xen_stream_source_set_progress(struct xen_stream_source *source,
                                    store_progress_fn *progress, void *context);

/*
 * Write it in that framing, blocking; fails with EPIPE when the reader is gone
 * (SIGPIPE ignored or blocked), VN_E_CORRUPT for damaged chunks. May be called
 * again for another reader; each gets a UUID of its own if there is a `config`.
 */
int xen_stream_source_write(struct xen_stream_source *source,
                            enum xen_framing framing, int fd,
                            struct vn_err *err) VN_MUST_USE;

VN_AUTO_DEFINE(xen_stream_source, struct xen_stream_source *,
               xen_stream_source_free)

#endif
