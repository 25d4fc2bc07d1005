#ifndef CAPTURE_XEN_STREAM_H
#define CAPTURE_XEN_STREAM_H

/*
 * Xen's saved-domain streams taken apart as they arrive, in all three
 * framings, told by their first bytes:
 *
 *     libxc   image version 3 (xc_domain_save)
 *     libxl   "LibxlFmt" 2 around libxc, with device-model records for HVM
 *     xl      "Xen saved domain, xl format" and the configuration, around libxl
 *
 * Fed bytes in any portions. Pages go to a callback; what is small is kept.
 * Every length is checked before it is used, nothing unknown is guessed at,
 * and no page type is trusted: one that Xen reserves is refused, naming the
 * offset. Pure: no Xen header, no system call.
 * Source: Xen's docs/specs/libxc-migration-stream and libxl-migration-stream;
 * facts and grammar: docs/formats/xen-stream.md.
 */

#include "common/auto.h"
#include "common/buf.h"
#include "common/err.h"

#include <stdbool.h>
#include <stdint.h>

#define XEN_PAGE_SIZE      4096u
#define XEN_PFN_MAX        (1ull << 34) /* 64 TiB of guest addresses */
#define XEN_RECORD_MAX     (128u << 20) /* the format's limit */
#define XEN_PARTS_MAX      (64u << 20)  /* head, tail, emulator: each */
#define XEN_CONFIG_MAX     (4u << 20)   /* bytes of JSON in an xl file */
#define XEN_P2M_FRAMES_MAX (1u << 22)   /* pages of a p2m: 8 TiB of guest */

enum xen_framing { XEN_FRAMING_LIBXC, XEN_FRAMING_LIBXL, XEN_FRAMING_XL };
enum xen_domain_type { XEN_DOMAIN_PV = 1, XEN_DOMAIN_HVM = 2 }; /* PVH: HVM */

/* Bits 63..60 of a PAGE_DATA entry. */
enum xen_page_type {
    XEN_PAGE_NORMAL = 0x0, /* 1 to 4: page tables; 9 to 12: pinned ones */
    XEN_PAGE_BROKEN = 0xd,
    XEN_PAGE_XALLOC = 0xe, /* populated, without content */
    XEN_PAGE_XTAB = 0xf,   /* no page there */
};
/* Does a page of this type (already known to be valid) have 4096 bytes? */
bool xen_page_has_data(unsigned type);

struct xen_stream;

struct xen_stream_sink {
    /*
     * A page, valid during the call, or NULL for a type without data. A pfn
     * may come again: the last one counts, XTAB as well.
     */
    int (*page)(void *context, uint64_t pfn, unsigned type, const void *page,
                struct vn_err *err);
    void *context;
};

struct xen_stream *xen_stream_new(const struct xen_stream_sink *sink);
void xen_stream_free(struct xen_stream *stream);

/* Take the next bytes. VN_E_FORMAT ("at byte N: ..."), VN_E_UNSUPPORTED (a
 * record we must not guess at), VN_E_LIMIT, VN_E_VERSION, or what the sink
 * raised. After a failure only free is allowed. */
int xen_stream_feed(struct xen_stream *stream, const void *data, size_t size,
                    struct vn_err *err) VN_MUST_USE;
/*
 * A consistent state is complete: the outermost framing's END was read, or in
 * a bare libxc stream CHECKPOINT (Remus). Bytes after that are refused: we stop
 * a saver at its first checkpoint.
 */
bool xen_stream_is_complete(const struct xen_stream *stream);
/* The stream ended. Fails when it is not complete. */
int xen_stream_finish(struct xen_stream *stream,
                      struct vn_err *err) VN_MUST_USE;

/* ---- after finish; all borrowed ---------------------------------------- */

enum xen_framing xen_stream_framing(const struct xen_stream *stream);
enum xen_domain_type xen_stream_domain_type(const struct xen_stream *stream);
/* One above the highest pfn that was named with anything but XTAB. */
uint64_t xen_stream_pfn_end(const struct xen_stream *stream);
/*
 * Records verbatim, each with its head and padding, in the stream's order:
 * head: the static data up to and with STATIC_DATA_END, then P2M_FRAMES;
 * tail: what follows the memory (TSC, context, parameters, vCPUs), without END
 * or CHECKPOINT; optional records are left out; emulator: libxl's EMULATOR_*
 * records, empty but for HVM.
 */
const struct buf *xen_stream_head(const struct xen_stream *stream);
const struct buf *xen_stream_tail(const struct xen_stream *stream);
const struct buf *xen_stream_emulator(const struct xen_stream *stream);
/* The configuration in an xl file, NUL-terminated JSON text; NULL: none. */
const char *xen_stream_config(const struct xen_stream *stream);
/* "4.17": from the domain header, for people. */
void xen_stream_version(const struct xen_stream *stream, unsigned *ret_major,
                        unsigned *ret_minor);
/*
 * PV only, and known before the first page: the pfns of the pages that hold
 * the guest's p2m, and how many bytes of entries they hold in all. These
 * entries are machine frame numbers, overwritten by every restore.
 */
const uint64_t *xen_stream_p2m_frames(const struct xen_stream *stream,
                                      uint32_t *ret_count, uint64_t *ret_bytes);

/* ---- parts that come back from a snapshot ------------------------------ */

/* Are these the records that a head (a tail, an emulator part) of this domain
 * type may have, whole, each of a length that it may have? */
int xen_stream_check_head(const void *data, size_t size,
                          enum xen_domain_type type,
                          struct vn_err *err) VN_MUST_USE;
/* The CPUID leaves of a checked head (capture/xen_cpu.h), within `data`; none
 * in what older Xens wrote: *ret_size 0. */
const uint8_t *xen_stream_head_cpuid(const void *data, size_t size,
                                     size_t *ret_size);
int xen_stream_check_tail(const void *data, size_t size,
                          enum xen_domain_type type,
                          struct vn_err *err) VN_MUST_USE;
int xen_stream_check_emulator(const void *data, size_t size,
                              struct vn_err *err) VN_MUST_USE;

VN_AUTO_DEFINE(xen_stream, struct xen_stream *, xen_stream_free)

#endif
