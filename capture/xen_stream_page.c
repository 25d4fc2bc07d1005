/*
 * PAGE_DATA: u32 count, u32 0, u64 entry[count], then 4096 bytes for each
 * entry whose type has data. An entry: type in bits 63..60, zeros, pfn in bits
 * 51..0.
 *
 * Nothing is handed out before all entries are right and come to the record's
 * length, so they are kept: as they arrive, at most as many as a record of
 * 128 MiB holds. libxc writes 1024 at most; the room for more is given back.
 */

#include "capture/xen_stream_internal.h"

#include <errno.h>
#include <stdlib.h>

#define ENTRY_RESERVED 0x0ff0000000000000ull
#define ENTRY_PFN      0x000fffffffffffffull
#define ENTRIES_KEPT   4096u /* 32 KiB stay allocated between records */

static unsigned type_of(uint64_t entry)
{
    return (unsigned)(entry >> 60);
}

static bool is_valid_type(unsigned type)
{
    return type < 5 || type > 8;
}

/* u32 count, u32 0 */
int xen_stream_step_page_count(struct xen_stream *s, const uint8_t *p,
                               struct vn_err *err)
{
    uint32_t count = le32(p);

    if (!count)
        return fail_record(s, err, VN_E_FORMAT, "PAGE_DATA without pages");
    if (le32(p + 4))
        return fail_record(s, err, VN_E_FORMAT, "reserved bits in PAGE_DATA");
    if (count > (s->record_length - 8) / 8)
        return fail_record(s, err, VN_E_FORMAT,
                           "PAGE_DATA of %" PRIu32
                           " bytes is too short for %" PRIu32 " entries",
                           s->record_length, count);
    s->entry_total = count;
    s->entry_count = 0;
    s->entry_next = 0;
    s->page_total = 0;
    s->mode = XEN_MODE_PFNS;
    return 0;
}

/* ---- entries ----------------------------------------------------------- */

static int check_entry(struct xen_stream *s, uint64_t entry, struct vn_err *err)
{
    uint64_t pfn = entry & ENTRY_PFN;

    if (entry & ENTRY_RESERVED)
        return fail_record(
            s, err, VN_E_FORMAT,
            "reserved bits in entry %zu of PAGE_DATA, 0x%" PRIx64,
            s->entry_count, entry);
    if (!is_valid_type(type_of(entry)))
        return fail_record(s, err, VN_E_FORMAT,
                           "entry %zu of PAGE_DATA has the reserved type %u",
                           s->entry_count, type_of(entry));
    if (pfn >= XEN_PFN_MAX)
        return fail_record(s, err, VN_E_LIMIT,
                           "pfn 0x%" PRIx64 " in PAGE_DATA, more than 0x%llx",
                           pfn, XEN_PFN_MAX - 1);
    if (s->rules.type == XEN_DOMAIN_PV && pfn >= s->rules.p2m_count)
        return fail_record(
            s, err, VN_E_FORMAT,
            "pfn 0x%" PRIx64 " in PAGE_DATA is beyond the domain's p2m", pfn);
    return 0;
}

/* Room for one more. */
static int grow_entries(struct xen_stream *s, struct vn_err *err)
{
    size_t capacity = s->entry_capacity ? s->entry_capacity * 2 : 1024;
    uint64_t *entries;

    if (s->entry_count < s->entry_capacity)
        return 0;
    entries = realloc(s->entries, capacity * sizeof(*entries));
    if (!entries)
        return fail_record(s, err, ENOMEM, "%zu entries of PAGE_DATA",
                           capacity);
    s->entries = entries;
    s->entry_capacity = capacity;
    return 0;
}

static int take_entry(struct xen_stream *s, const uint8_t *p,
                      struct vn_err *err)
{
    uint64_t entry = le64(p);

    if (check_entry(s, entry, err) < 0 || grow_entries(s, err) < 0)
        return -1;
    s->entries[s->entry_count++] = entry;
    s->page_total += xen_page_has_data(type_of(entry));
    s->offset += 8;
    return 0;
}

/* ---- handing out ------------------------------------------------------- */

static int hand_out(struct xen_stream *s, const void *page, struct vn_err *err)
{
    uint64_t entry = s->entries[s->entry_next++];
    uint64_t pfn = entry & ENTRY_PFN;
    unsigned type = type_of(entry);

    if (type != XEN_PAGE_XTAB && pfn >= s->pfn_end)
        s->pfn_end = pfn + 1;
    return s->sink.page(s->sink.context, pfn, type, page, err);
}

/* Hand out what needs no bytes, up to the next entry that does or the end of
 * the record. */
static int go_on(struct xen_stream *s, struct vn_err *err)
{
    while (s->entry_next < s->entry_count) {
        if (xen_page_has_data(type_of(s->entries[s->entry_next])))
            return 0;
        if (hand_out(s, NULL, err) < 0)
            return -1;
    }
    if (s->entry_capacity > ENTRIES_KEPT) {
        free(vn_steal(&s->entries));
        s->entry_capacity = 0;
    }
    return expect(s, xen_stream_step_record, 8);
}

static int end_entries(struct xen_stream *s, struct vn_err *err)
{
    uint64_t size =
        8 + 8 * (uint64_t)s->entry_total + s->page_total * XEN_PAGE_SIZE;

    if (s->record_length != size)
        return fail_record(s, err, VN_E_FORMAT,
                           "PAGE_DATA of %" PRIu32
                           " bytes, but its entries need %" PRIu64,
                           s->record_length, size);
    s->mode = XEN_MODE_PAGES;
    return go_on(s, err);
}

/* Gather `need` bytes in scratch. True when they are there. */
static bool gather(struct xen_stream *s, const uint8_t **p, size_t *size,
                   size_t need)
{
    size_t part = need - s->have < *size ? need - s->have : *size;

    memcpy(s->scratch + s->have, *p, part);
    *p += part;
    *size -= part;
    s->have += part;
    if (s->have < need)
        return false;
    s->have = 0;
    return true;
}

int xen_stream_take_pfns(struct xen_stream *s, const uint8_t **p, size_t *size,
                         struct vn_err *err)
{
    while (s->entry_count < s->entry_total) {
        const uint8_t *bytes = s->scratch;

        if (!s->have && *size >= 8) {
            bytes = *p;
            *p += 8;
            *size -= 8;
        } else if (!gather(s, p, size, 8)) {
            return 0;
        }
        if (take_entry(s, bytes, err) < 0)
            return -1;
    }
    return end_entries(s, err);
}

int xen_stream_take_pages(struct xen_stream *s, const uint8_t **p, size_t *size,
                          struct vn_err *err)
{
    while (*size && s->mode == XEN_MODE_PAGES) {
        const uint8_t *page = s->scratch;

        if (!s->have && *size >= XEN_PAGE_SIZE) {
            page = *p;
            *p += XEN_PAGE_SIZE;
            *size -= XEN_PAGE_SIZE;
        } else if (!gather(s, p, size, XEN_PAGE_SIZE)) {
            return 0;
        }
        if (hand_out(s, page, err) < 0 || go_on(s, err) < 0)
            return -1;
        s->offset += XEN_PAGE_SIZE;
    }
    return 0;
}
