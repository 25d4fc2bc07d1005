/*
 * Parts of a stream that come back from a snapshot: the same rules as for the
 * stream, over bytes that are whole.
 */

#include "capture/xen_stream_internal.h"

#include "common/cursor.h"

#include <stdlib.h>

struct record {
    uint32_t type, length;
    const uint8_t *body;
};

static int read_record(struct cursor *c, struct record *ret, struct vn_err *err)
{
    uint32_t type = cursor_le32(c), length = cursor_le32(c);
    const uint8_t *body = NULL, *padding = NULL;

    if (!c->failed && length <= XEN_RECORD_MAX) {
        body = cursor_take(c, length);
        padding = cursor_take(c, padding_of(length));
    }
    if (!body || !padding)
        return vn_fail(err, VN_E_FORMAT, "a record is cut off");
    if (xen_rules_padding(padding, padding_of(length), err) < 0)
        return -1;
    *ret = (struct record){type, length, body};
    return 0;
}

/* All of `data` must be records of the parts `first` to `last`. */
static int check_records(struct xen_rules *rules, const void *data, size_t size,
                         enum xen_part first, enum xen_part last,
                         struct vn_err *err)
{
    struct cursor c = cursor_of(data, size);

    if (size > XEN_PARTS_MAX)
        return vn_fail(err, VN_E_LIMIT, "%zu bytes of records, more than %u",
                       size, XEN_PARTS_MAX);
    while (cursor_left(&c)) {
        size_t offset = c.offset;
        struct record record;

        if (read_record(&c, &record, err) < 0 ||
            xen_rules_begin(rules, record.type, record.length, err) < 0)
            return vn_wrap(err, "at byte %zu", offset);
        if (rules->part < first || rules->part > last)
            return vn_fail(err, VN_E_FORMAT,
                           "at byte %zu: %s does not belong here", offset,
                           xen_rules_name(record.type));
        if (xen_rules_body(rules, record.type, record.body, record.length,
                           err) < 0)
            return vn_wrap(err, "at byte %zu", offset);
    }
    return 0;
}

static bool is_known_domain(enum xen_domain_type type)
{
    return type == XEN_DOMAIN_PV || type == XEN_DOMAIN_HVM;
}

int xen_stream_check_head(const void *data, size_t size,
                          enum xen_domain_type type, struct vn_err *err)
{
    vn_auto(free) struct xen_rules *rules = vn_alloc(sizeof(*rules));
    enum xc_record last =
        type == XEN_DOMAIN_PV ? XC_PV_P2M_FRAMES : XC_STATIC_DATA_END;

    assert(is_known_domain(type));
    rules->type = type;
    rules->version = 3;
    if (check_records(rules, data, size, XEN_PART_STATIC, XEN_PART_START, err) <
        0)
        return vn_wrap(err, "the head of the domain's stream");
    if (!xen_rules_seen(rules, last))
        return vn_fail(err, VN_E_FORMAT,
                       "the head of the domain's stream has no %s",
                       xen_rules_name(last));
    return 0;
}

const uint8_t *xen_stream_head_cpuid(const void *data, size_t size,
                                     size_t *ret_size)
{
    struct cursor c = cursor_of(data, size);
    struct vn_err ignored = VN_ERR_INIT;
    struct record record;

    *ret_size = 0;
    while (cursor_left(&c) && read_record(&c, &record, &ignored) == 0) {
        if (record.type != XC_CPUID_POLICY)
            continue;
        *ret_size = record.length;
        return record.body;
    }
    return NULL;
}

int xen_stream_check_tail(const void *data, size_t size,
                          enum xen_domain_type type, struct vn_err *err)
{
    vn_auto(free) struct xen_rules *rules = vn_alloc(sizeof(*rules));

    assert(is_known_domain(type));
    rules->type = type;
    rules->version = 3;
    rules->part = XEN_PART_TAIL;
    rules->seen = 1u << XC_STATIC_DATA_END | 1u << XC_PAGE_DATA;
    if (check_records(rules, data, size, XEN_PART_TAIL, XEN_PART_TAIL, err) <
            0 ||
        xen_rules_complete(rules, err) < 0)
        return vn_wrap(err, "the tail of the domain's stream");
    return 0;
}

int xen_stream_check_emulator(const void *data, size_t size, struct vn_err *err)
{
    struct cursor c = cursor_of(data, size);

    if (size > XEN_PARTS_MAX)
        return vn_fail(err, VN_E_LIMIT,
                       "the device model's records have %zu bytes, more than "
                       "%u",
                       size, XEN_PARTS_MAX);
    while (cursor_left(&c)) {
        size_t offset = c.offset;
        struct record record;

        if (read_record(&c, &record, err) < 0)
            return vn_wrap(err, "the device model's records: at byte %zu",
                           offset);
        if (record.type != XL_EMULATOR_XENSTORE_DATA &&
            record.type != XL_EMULATOR_CONTEXT)
            return vn_fail(err, VN_E_FORMAT,
                           "the device model's records: at byte %zu: a record "
                           "of type %" PRIu32,
                           offset, record.type);
        if (xen_rules_emulator(record.type, record.body, record.length, err) <
            0)
            return vn_wrap(err, "the device model's records: at byte %zu",
                           offset);
    }
    return 0;
}
