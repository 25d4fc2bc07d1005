#ifndef CAPTURE_XEN_STREAM_INTERNAL_H
#define CAPTURE_XEN_STREAM_INTERNAL_H

/*
 * What the files of the parser share: xen_stream.c (feeding, life, answers),
 * xen_stream_head.c (framings and headers), xen_stream_record.c (records),
 * xen_stream_page.c (PAGE_DATA), xen_stream_rules.c (what a record may be),
 * xen_stream_check.c (stored parts). How it works is told in xen_stream.c.
 */

#include "capture/xen_stream.h"

#include <assert.h>
#include <endian.h>
#include <inttypes.h>
#include <string.h>

/* Records of libxc. */
enum xc_record {
    XC_END = 0x00,
    XC_PAGE_DATA = 0x01,
    XC_PV_INFO = 0x02,
    XC_PV_P2M_FRAMES = 0x03,
    XC_PV_VCPU_BASIC = 0x04,
    XC_PV_VCPU_EXTENDED = 0x05,
    XC_PV_VCPU_XSAVE = 0x06,
    XC_SHARED_INFO = 0x07,
    XC_TSC_INFO = 0x08,
    XC_HVM_CONTEXT = 0x09,
    XC_HVM_PARAMS = 0x0a,
    XC_TOOLSTACK = 0x0b,
    XC_PV_VCPU_MSRS = 0x0c,
    XC_VERIFY = 0x0d,
    XC_CHECKPOINT = 0x0e,
    XC_CHECKPOINT_DIRTY_PFN_LIST = 0x0f,
    XC_STATIC_DATA_END = 0x10,
    XC_CPUID_POLICY = 0x11,
    XC_MSR_POLICY = 0x12,
    XC_RECORDS = 0x13,
};
#define XC_OPTIONAL 0x80000000u

/* Records of libxl. */
enum xl_record {
    XL_END = 0,
    XL_LIBXC_CONTEXT = 1,
    XL_EMULATOR_XENSTORE_DATA = 2,
    XL_EMULATOR_CONTEXT = 3,
    XL_CHECKPOINT_END = 4,
    XL_CHECKPOINT_STATE = 5,
};

/* ---- rules ------------------------------------------------------------- */

#define XEN_VCPUS_MAX 8192u /* what Xen allows a PV domain */

/* Where in a stream a record stands; parts follow each other in this order. */
enum xen_part {
    XEN_PART_STATIC, /* up to STATIC_DATA_END */
    XEN_PART_START,  /* P2M_FRAMES */
    XEN_PART_MEMORY,
    XEN_PART_TAIL,
    XEN_PART_END,
};

/* How far a libxc stream is, and so what may come next. */
struct xen_rules {
    enum xen_domain_type type;
    unsigned version; /* of the image header: 2 or 3 */
    enum xen_part part;
    uint32_t seen;                /* a bit each enum xc_record */
    unsigned width;               /* PV: bytes of a p2m entry; 0: not known */
    uint64_t p2m_count;           /* PV: entries of the p2m, one a pfn */
    uint8_t vcpus[XEN_VCPUS_MAX]; /* records seen, a bit each kind */
};

/* The part that a record belongs to; for a type that xen_rules_begin() takes.
 */
enum xen_part xen_rules_part(uint32_t type);
const char *xen_rules_name(uint32_t type);
bool xen_rules_seen(const struct xen_rules *rules, enum xc_record type);
/* Has it all that a domain needs, so that its stream may end? */
int xen_rules_complete(const struct xen_rules *rules,
                       struct vn_err *err) VN_MUST_USE;
/* May this record, which is not optional, come now, with that length? */
int xen_rules_begin(struct xen_rules *rules, uint32_t type, uint32_t length,
                    struct vn_err *err) VN_MUST_USE;
/* Is its body right? Not for PAGE_DATA. */
int xen_rules_body(struct xen_rules *rules, uint32_t type, const uint8_t *body,
                   uint32_t length, struct vn_err *err) VN_MUST_USE;
/* The same for EMULATOR_XENSTORE_DATA and EMULATOR_CONTEXT. */
int xen_rules_emulator(uint32_t type, const uint8_t *body, uint32_t length,
                       struct vn_err *err) VN_MUST_USE;
/* `size` bytes of padding. */
int xen_rules_padding(const uint8_t *padding, size_t size,
                      struct vn_err *err) VN_MUST_USE;

/* ---- the parser -------------------------------------------------------- */

struct xen_stream;
/* Take the `need` bytes asked for. Returns 0 or -1. */
typedef int xen_step_fn(struct xen_stream *s, const uint8_t *p,
                        struct vn_err *err);

/* What the next bytes are. */
enum xen_mode {
    XEN_MODE_STEP, /* `need` bytes for `step` */
    XEN_MODE_KEEP, /* `left` bytes for `keep`, then end_keep() */
    XEN_MODE_SKIP, /* `left` bytes for nobody, then `step` */
    XEN_MODE_PFNS, /* entries of PAGE_DATA */
    XEN_MODE_PAGES,
};

struct xen_stream {
    struct xen_stream_sink sink;
    enum xen_mode mode;
    xen_step_fn *step;
    size_t need; /* bytes the open step takes, > 0 */
    size_t have; /* of these, or of an entry or a page, in scratch */
    uint64_t left;
    uint64_t offset; /* bytes before the open step; else: bytes taken */
    bool failed, complete, finished;

    enum xen_framing framing;
    bool libxc_begun, libxc_ended; /* inside libxl */
    unsigned major, minor;
    struct xen_rules rules;
    uint64_t pfn_end;
    uint64_t *p2m_frames; /* owned */
    uint32_t p2m_frame_count;

    /* The open record. */
    uint32_t record_type, record_length;
    uint64_t record_offset;
    struct buf *keep;   /* where its body goes: a part, or the config */
    size_t keep_offset; /* of the body in there */
    int (*end_keep)(struct xen_stream *s, struct vn_err *err);

    /* PAGE_DATA: its entries, grown as they arrive; `entry_count` are there,
     * `entry_next` were delivered. */
    uint64_t *entries; /* owned */
    size_t entry_capacity, entry_count, entry_next;
    uint32_t entry_total;
    uint64_t page_total; /* entries with data among entry_count */

    uint32_t optional_left; /* xl: bytes of optional data after the config */
    struct buf head, tail, emulator, config;
    uint8_t scratch[XEN_PAGE_SIZE];
};

#define fail_at(s, err, code, format, ...)                                     \
    vn_fail((err), (code), "at byte %" PRIu64 ": " format,                     \
            (s)->offset __VA_OPT__(, ) __VA_ARGS__)
/* The same for what is known only after the record's head. */
#define fail_record(s, err, code, format, ...)                                 \
    vn_fail((err), (code), "at byte %" PRIu64 ": " format,                     \
            (s)->record_offset __VA_OPT__(, ) __VA_ARGS__)

/* The first 8 bytes: which framing is it? */
xen_step_fn xen_stream_step_magic;
/* The marker that begins a libxc image. Leads to xen_stream_step_record(). */
xen_step_fn xen_stream_step_marker;
/* The head of a record of libxc, of libxl. */
xen_step_fn xen_stream_step_record;
xen_step_fn xen_stream_step_libxl_record;
/* Whatever comes when all is over is too much. */
xen_step_fn xen_stream_step_too_much;

/* PAGE_DATA, whose head was read: take its body. Leads back to
 * xen_stream_step_record(). */
xen_step_fn xen_stream_step_page_count;
/* Bytes for MODE_PFNS and MODE_PAGES. *p and *size move on. */
int xen_stream_take_pfns(struct xen_stream *s, const uint8_t **p, size_t *size,
                         struct vn_err *err);
int xen_stream_take_pages(struct xen_stream *s, const uint8_t **p, size_t *size,
                          struct vn_err *err);

/* Open a step that takes `need` bytes. Returns 0. */
static inline int expect(struct xen_stream *s, xen_step_fn *step, size_t need)
{
    assert(need > 0 && need <= sizeof(s->scratch));
    s->mode = XEN_MODE_STEP;
    s->step = step;
    s->need = need;
    return 0;
}

static inline uint16_t le16(const uint8_t *p)
{
    uint16_t v;

    memcpy(&v, p, sizeof(v));
    return le16toh(v);
}

static inline uint32_t le32(const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof(v));
    return le32toh(v);
}

static inline uint64_t le64(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof(v));
    return le64toh(v);
}

static inline uint32_t be32(const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof(v));
    return be32toh(v);
}

/* Bytes between a body of that length and the next record. */
static inline uint32_t padding_of(uint32_t length)
{
    return -length & 7;
}

#endif
