/*
 * Records of libxc and of libxl: a head of 8 bytes (type, length of the body),
 * the body, zeros up to a multiple of 8. What the domain's memory is not goes
 * whole and verbatim into one of the parts.
 */

#include "capture/xen_stream_internal.h"

#include <errno.h>
#include <stdlib.h>

/* ---- bodies that are kept ---------------------------------------------- */

/* The body that just became whole, and the zeros behind it. */
static const uint8_t *kept_body(const struct xen_stream *s)
{
    return s->keep->data + s->keep_offset;
}

static int check_kept_padding(struct xen_stream *s, struct vn_err *err)
{
    return xen_rules_padding(kept_body(s) + s->record_length,
                             padding_of(s->record_length), err);
}

/* Keep the open record in `to`: its head now, the rest as it comes. */
static int begin_keep(struct xen_stream *s, struct buf *to, const uint8_t *head,
                      int (*end)(struct xen_stream *s, struct vn_err *err),
                      struct vn_err *err)
{
    buf_put(to, head, 8);
    if (to->broken)
        return fail_record(s, err, VN_E_LIMIT,
                           "the records here have more than %zu bytes in all",
                           to->limit);
    s->keep = to;
    s->keep_offset = to->size;
    s->left = (uint64_t)s->record_length + padding_of(s->record_length);
    s->end_keep = end;
    s->mode = XEN_MODE_KEEP;
    return s->left ? 0 : end(s, err);
}

static void begin_record(struct xen_stream *s, const uint8_t *head)
{
    s->record_type = le32(head);
    s->record_length = le32(head + 4);
    s->record_offset = s->offset;
}

/* ---- libxc ------------------------------------------------------------- */

/* The frames of a P2M_FRAMES record that was found right. */
static int copy_p2m_frames(struct xen_stream *s, struct vn_err *err)
{
    uint32_t count = (s->record_length - 8) / 8;

    s->p2m_frames = calloc(count, sizeof(*s->p2m_frames));
    if (!s->p2m_frames)
        return fail_record(s, err, ENOMEM, "%" PRIu32 " p2m frames", count);
    s->p2m_frame_count = count;
    for (uint32_t i = 0; i < count; i++)
        s->p2m_frames[i] = le64(kept_body(s) + 8 + 8 * (size_t)i);
    return 0;
}

static int end_kept_record(struct xen_stream *s, struct vn_err *err)
{
    if (check_kept_padding(s, err) < 0 ||
        xen_rules_body(&s->rules, s->record_type, kept_body(s),
                       s->record_length, err) < 0)
        return vn_wrap(err, "at byte %" PRIu64, s->record_offset);
    if (s->record_type == XC_PV_P2M_FRAMES && copy_p2m_frames(s, err) < 0)
        return -1;
    return expect(s, xen_stream_step_record, 8);
}

static int end_of_image(struct xen_stream *s, struct vn_err *err)
{
    if (s->framing != XEN_FRAMING_LIBXC) {
        if (s->record_type == XC_CHECKPOINT)
            return fail_record(s, err, VN_E_UNSUPPORTED,
                               "a checkpoint inside a stream of libxl");
        s->libxc_ended = true;
        return expect(s, xen_stream_step_libxl_record, 8);
    }
    s->complete = true;
    return expect(s, xen_stream_step_too_much, 1);
}

/* A stream of version 2 does not say where its static data ends; the first
 * record of another kind tells. */
static int infer_static_end(struct xen_stream *s, struct vn_err *err)
{
    static const uint8_t record[8] = {XC_STATIC_DATA_END};

    if (s->rules.version != 2 || s->rules.part != XEN_PART_STATIC ||
        s->record_type >= XC_RECORDS ||
        xen_rules_part(s->record_type) == XEN_PART_STATIC)
        return 0;
    s->rules.version = 3;
    if (xen_rules_begin(&s->rules, XC_STATIC_DATA_END, 0, err) < 0)
        return -1;
    buf_put(&s->head, record, sizeof(record));
    return buf_check(&s->head, "the head of the stream", err);
}

static int skip_record(struct xen_stream *s)
{
    expect(s, xen_stream_step_record, 8);
    s->left = (uint64_t)s->record_length + padding_of(s->record_length);
    if (s->left)
        s->mode = XEN_MODE_SKIP;
    return 0;
}

/* u32 type, u32 length */
int xen_stream_step_record(struct xen_stream *s, const uint8_t *p,
                           struct vn_err *err)
{
    begin_record(s, p);
    if (s->record_length > XEN_RECORD_MAX)
        return fail_record(s, err, VN_E_LIMIT,
                           "a record of %" PRIu32 " bytes, more than %u",
                           s->record_length, XEN_RECORD_MAX);
    if (s->record_type & XC_OPTIONAL)
        return skip_record(s);
    if (infer_static_end(s, err) < 0 ||
        xen_rules_begin(&s->rules, s->record_type, s->record_length, err) < 0)
        return vn_wrap(err, "at byte %" PRIu64, s->record_offset);
    switch (xen_rules_part(s->record_type)) {
    case XEN_PART_STATIC:
    case XEN_PART_START:
        return begin_keep(s, &s->head, p, end_kept_record, err);
    case XEN_PART_MEMORY:
        return expect(s, xen_stream_step_page_count, 8);
    case XEN_PART_TAIL:
        return begin_keep(s, &s->tail, p, end_kept_record, err);
    case XEN_PART_END:
        break;
    }
    return end_of_image(s, err);
}

/* ---- libxl ------------------------------------------------------------- */

static int end_kept_emulator(struct xen_stream *s, struct vn_err *err)
{
    if (check_kept_padding(s, err) < 0 ||
        xen_rules_emulator(s->record_type, kept_body(s), s->record_length,
                           err) < 0)
        return vn_wrap(err, "at byte %" PRIu64, s->record_offset);
    return expect(s, xen_stream_step_libxl_record, 8);
}

static int begin_emulator(struct xen_stream *s, const uint8_t *head,
                          struct vn_err *err)
{
    if (!s->libxc_ended)
        return fail_record(s, err, VN_E_FORMAT,
                           "a device model's record before the domain's");
    if (s->rules.type != XEN_DOMAIN_HVM)
        return fail_record(s, err, VN_E_FORMAT,
                           "a device model's record of a PV domain");
    if (s->record_length > XEN_PARTS_MAX)
        return fail_record(s, err, VN_E_LIMIT,
                           "a device model's record of %" PRIu32
                           " bytes, more than %u",
                           s->record_length, XEN_PARTS_MAX);
    return begin_keep(s, &s->emulator, head, end_kept_emulator, err);
}

static int check_signal(struct xen_stream *s, struct vn_err *err)
{
    if (s->record_length)
        return fail_record(s, err, VN_E_FORMAT,
                           "record %" PRIu32 " of libxl with %" PRIu32
                           " bytes, not 0",
                           s->record_type, s->record_length);
    if ((s->record_type == XL_END) != s->libxc_ended)
        return fail_record(s, err, VN_E_FORMAT, "%s",
                           s->libxc_ended ? "a second libxc stream"
                                          : "the stream of libxl ends before "
                                            "the domain's");
    return 0;
}

/* u32 type, u32 length; nothing here is optional to libxl */
int xen_stream_step_libxl_record(struct xen_stream *s, const uint8_t *p,
                                 struct vn_err *err)
{
    begin_record(s, p);
    switch (s->record_type) {
    case XL_END:
        if (check_signal(s, err) < 0)
            return -1;
        s->complete = true;
        return expect(s, xen_stream_step_too_much, 1);
    case XL_LIBXC_CONTEXT:
        if (check_signal(s, err) < 0)
            return -1;
        return expect(s, xen_stream_step_marker, 8);
    case XL_EMULATOR_XENSTORE_DATA:
    case XL_EMULATOR_CONTEXT:
        return begin_emulator(s, p, err);
    case XL_CHECKPOINT_END:
    case XL_CHECKPOINT_STATE:
        return fail_record(s, err, VN_E_UNSUPPORTED,
                           "a checkpoint inside a stream of libxl");
    default:
        return fail_record(s, err, VN_E_UNSUPPORTED,
                           "unknown record 0x%" PRIx32 " of libxl",
                           s->record_type);
    }
}
