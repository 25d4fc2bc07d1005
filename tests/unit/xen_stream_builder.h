#ifndef TESTS_UNIT_XEN_STREAM_BUILDER_H
#define TESTS_UNIT_XEN_STREAM_BUILDER_H

/*
 * Streams of saved domains built piece by piece, for tests: each call appends
 * one piece of the grammar (docs/formats/xen-stream.md), right or wrong.
 */

#include "common/auto.h"
#include "common/buf.h"

#include <stdlib.h>
#include <string.h>

enum { XB_PV = 1, XB_HVM = 2 };
enum {
    XB_END = 0,
    XB_PAGES = 1,
    XB_PV_INFO = 2,
    XB_P2M = 3,
    XB_BASIC = 4,
    XB_EXTENDED = 5,
    XB_XSAVE = 6,
    XB_SHARED = 7,
    XB_TSC = 8,
    XB_CONTEXT = 9,
    XB_PARAMS = 10,
    XB_TOOLSTACK = 11,
    XB_MSRS = 12,
    XB_VERIFY = 13,
    XB_CHECKPOINT = 14,
    XB_DIRTY = 15,
    XB_STATIC_END = 16,
    XB_CPUID = 17,
    XB_MSR = 18,
};
#define XB_PFNS   0x500u /* of a PV domain: 1280, so 3 frames of p2m */
#define XB_CONFIG "{\"c_info\": {\"type\": \"hvm\"}}"

static inline void xb_record(struct buf *b, uint32_t type, const void *body,
                             size_t size)
{
    buf_put_le32(b, type);
    buf_put_le32(b, (uint32_t)size);
    buf_put(b, body, size);
    buf_put_zero(b, -size & 7);
}

/* A record of `size` bytes: two u32, then `fill`. */
static inline void xb_filled(struct buf *b, uint32_t type, uint32_t first,
                             uint32_t second, size_t size, uint8_t fill)
{
    vn_auto(free) uint8_t *body = vn_alloc(size + 8);

    memset(body, fill, size);
    memcpy(body, &first, 4);
    memcpy(body + 4, &second, 4);
    xb_record(b, type, body, size);
}

static inline void xb_headers(struct buf *b, uint32_t version, uint32_t domain)
{
    buf_put_le64(b, UINT64_MAX);
    buf_put_be32(b, 0x58454e46);
    buf_put_be32(b, version);
    buf_put_zero(b, 8);
    buf_put_le32(b, domain);
    buf_put_le32(b, 12);
    buf_put_le32(b, 4);
    buf_put_le32(b, 17);
}

static inline void xb_policies(struct buf *b)
{
    xb_filled(b, XB_CPUID, 1, 0, 48, 0xc1);
    xb_filled(b, XB_MSR, 0xce, 0, 16, 0xc2);
}

static inline void xb_pv_info(struct buf *b)
{
    xb_record(b, XB_PV_INFO, "\10\4\0\0\0\0\0", 8);
}

/* The p2m lies in pfns 0x10, 0x11, ... */
static inline void xb_p2m(struct buf *b, uint32_t end, uint32_t frames)
{
    buf_put_le32(b, XB_P2M);
    buf_put_le32(b, 8 + 8 * frames);
    buf_put_le32(b, 0);
    buf_put_le32(b, end);
    for (uint32_t i = 0; i < frames; i++)
        buf_put_le64(b, 0x10 + i);
}

/* Headers and what follows them, up to the memory. */
static inline void xb_begin(struct buf *b, uint32_t domain)
{
    xb_headers(b, 3, domain);
    if (domain == XB_PV)
        xb_pv_info(b);
    xb_policies(b);
    xb_record(b, XB_STATIC_END, NULL, 0);
    if (domain == XB_PV)
        xb_p2m(b, XB_PFNS - 1, 3);
}

#define XB_ENTRY(type, pfn) ((uint64_t)(type) << 60 | (uint64_t)(pfn))

/* PAGE_DATA; page i, counted over those with data, is all fills[i]. */
static inline void xb_pages(struct buf *b, const uint64_t *entries,
                            uint32_t count, const char *fills)
{
    size_t pages = strlen(fills);

    buf_put_le32(b, XB_PAGES);
    buf_put_le32(b, (uint32_t)(8 + 8 * count + 4096 * pages));
    buf_put_le32(b, count);
    buf_put_le32(b, 0);
    for (uint32_t i = 0; i < count; i++)
        buf_put_le64(b, entries[i]);
    for (size_t i = 0; i < pages; i++) {
        uint8_t *page = buf_reserve(b, 4096);

        if (!page)
            return;
        memset(page, fills[i] == '0' ? 0 : fills[i], 4096);
        b->size += 4096;
    }
}

static inline void xb_page(struct buf *b, unsigned type, uint64_t pfn,
                           char fill)
{
    const uint64_t entry = XB_ENTRY(type, pfn);
    const char fills[] = {fill, '\0'};

    xb_pages(b, &entry, 1, fills);
}

static inline void xb_tsc(struct buf *b)
{
    buf_put_le32(b, XB_TSC);
    buf_put_le32(b, 24);
    buf_put_le64(b, 2400000ull << 32);
    buf_put_le64(b, 77);
    buf_put_le64(b, 1);
}

static inline void xb_params(struct buf *b, uint32_t count, uint32_t said)
{
    buf_put_le32(b, XB_PARAMS);
    buf_put_le32(b, 8 + 16 * count);
    buf_put_le32(b, said);
    buf_put_le32(b, 0);
    for (uint32_t i = 0; i < count; i++) {
        buf_put_le64(b, i + 1);
        buf_put_le64(b, 0xfeff0 + i);
    }
}

static inline void xb_vcpu(struct buf *b, uint32_t vcpu)
{
    xb_filled(b, XB_BASIC, vcpu, 0, 8 + 5168, 0xb0);
    xb_filled(b, XB_EXTENDED, vcpu, 0, 8 + 128, 0xb1);
    xb_filled(b, XB_XSAVE, vcpu, 0, 8 + 27, 0xb2); /* needs padding */
    xb_filled(b, XB_MSRS, vcpu, 0, 8 + 32, 0xb3);
}

static inline void xb_tail(struct buf *b, uint32_t domain)
{
    xb_tsc(b);
    if (domain == XB_PV) {
        xb_filled(b, XB_SHARED, 1, 2, 4096, 0x5a);
        xb_vcpu(b, 0);
        xb_vcpu(b, 1);
    } else {
        xb_filled(b, XB_CONTEXT, 1, 8, 45, 0xcc); /* needs padding */
        xb_params(b, 2, 2);
    }
}

static inline void xb_end(struct buf *b)
{
    xb_record(b, XB_END, NULL, 0);
}

static inline void xb_libxl_begin(struct buf *b)
{
    buf_put(b, "LibxlFmt\0\0\0\2\0\0\0\0", 16);
    xb_record(b, 1, NULL, 0);
}

static inline void xb_emulator(struct buf *b)
{
    static const char data[] = "\2\0\0\0\0\0\0\0physmap/f0/size\0"
                               "0x800\0physmap/f0/name\0vga.vram";

    xb_record(b, 2, data, sizeof(data));
    xb_filled(b, 3, 2, 0, 8 + 101, 0xee);
}

static inline void xb_xl_head(struct buf *b, const char *config)
{
    uint32_t size = (uint32_t)strlen(config) + 1;

    buf_put(b, "Xen saved domain, xl format\n \0 \r", 32);
    buf_put_le32(b, 0x01020304);
    buf_put_le32(b, 3);
    buf_put_le32(b, 0);
    buf_put_le32(b, size + 4);
    buf_put_le32(b, size);
    buf_put(b, config, size);
}

#endif
