/*
 * What stands before the records: xl's file header with the configuration,
 * libxl's header, libxc's image and domain headers. Each framing contains the
 * next one, so the same steps serve for the outermost and for the inner ones.
 */

#include "capture/xen_stream_internal.h"

#define XL_MAGIC_SIZE   32u
#define XL_BYTE_ORDER   0x01020304u
#define XL_FLAG_JSON    1u
#define XL_FLAG_STREAM2 2u

#define LIBXL_VERSION    2u
#define LIBXL_BIG_ENDIAN 1u
#define LIBXL_LEGACY     2u /* converted from before Xen 4.6 */

#define IMAGE_ID         0x58454e46u /* "XENF" */
#define IMAGE_BIG_ENDIAN 1u
#define PAGE_SHIFT       12u

/* 32 bytes, without a NUL of ours at the end. */
static const char xl_magic[] = "Xen saved domain, xl format\n \0 \r";
static const char libxl_magic[] = "LibxlFmt";
static const uint8_t marker[8] = {0xff, 0xff, 0xff, 0xff,
                                  0xff, 0xff, 0xff, 0xff};

static_assert(sizeof(xl_magic) == XL_MAGIC_SIZE + 1, "xl's magic");

static xen_step_fn step_xl_head, step_config_size, step_libxl_magic;
static xen_step_fn step_libxl_head, step_image, step_domain;

/* The first 8 bytes of all. */
int xen_stream_step_magic(struct xen_stream *s, const uint8_t *p,
                          struct vn_err *err)
{
    if (!memcmp(p, xl_magic, 8)) {
        s->framing = XEN_FRAMING_XL;
        return expect(s, step_xl_head, XL_MAGIC_SIZE - 8 + 16);
    }
    if (!memcmp(p, libxl_magic, 8)) {
        s->framing = XEN_FRAMING_LIBXL;
        return expect(s, step_libxl_head, 8);
    }
    if (!memcmp(p, marker, 8)) {
        s->framing = XEN_FRAMING_LIBXC;
        return expect(s, step_image, 16);
    }
    return fail_at(s, err, VN_E_FORMAT,
                   "not a saved Xen domain, or one of before Xen 4.6");
}

/* ---- xl ---------------------------------------------------------------- */

static int begin_optional(struct xen_stream *s, uint32_t size,
                          struct vn_err *err)
{
    if (!size)
        return expect(s, step_libxl_magic, 8);
    if (size < 4)
        return fail_at(s, err, VN_E_FORMAT,
                       "optional data of %" PRIu32
                       " bytes has no room for a configuration",
                       size);
    if (size > XEN_CONFIG_MAX + 4)
        return fail_at(s, err, VN_E_LIMIT,
                       "optional data of %" PRIu32 " bytes, more than %u", size,
                       XEN_CONFIG_MAX + 4);
    s->optional_left = size - 4;
    return expect(s, step_config_size, 4);
}

/* The rest of the magic, u32 byte order, mandatory flags, optional flags, bytes
 * of optional data. */
static int step_xl_head(struct xen_stream *s, const uint8_t *p,
                        struct vn_err *err)
{
    const uint8_t *head = p + XL_MAGIC_SIZE - 8;
    uint32_t flags = le32(head + 4);

    if (memcmp(p, xl_magic + 8, XL_MAGIC_SIZE - 8))
        return fail_at(s, err, VN_E_FORMAT, "not a file of xl");
    if (le32(head) != XL_BYTE_ORDER)
        return fail_at(s, err, VN_E_UNSUPPORTED,
                       "a file of xl in another byte order");
    if (flags != (XL_FLAG_JSON | XL_FLAG_STREAM2))
        return fail_at(s, err, VN_E_UNSUPPORTED,
                       "a file of xl with the mandatory flags 0x%" PRIx32
                       ", not 0x3",
                       flags);
    return begin_optional(s, le32(head + 12), err);
}

/* The configuration is there; what else is optional may be ignored. */
static int end_config(struct xen_stream *s, struct vn_err *err)
{
    const uint8_t *text = s->config.data;

    if (memchr(text, '\0', s->config.size) != text + s->config.size - 1)
        return fail_record(s, err, VN_E_FORMAT,
                           "the configuration is not a text that ends in NUL");
    expect(s, step_libxl_magic, 8);
    s->left = s->optional_left;
    if (s->left)
        s->mode = XEN_MODE_SKIP;
    return 0;
}

/* u32 bytes of the configuration, with its NUL */
static int step_config_size(struct xen_stream *s, const uint8_t *p,
                            struct vn_err *err)
{
    uint32_t size = le32(p);

    if (!size || size > s->optional_left || size > XEN_CONFIG_MAX)
        return fail_at(s, err, VN_E_FORMAT,
                       "a configuration of %" PRIu32 " bytes in %" PRIu32
                       " of optional data",
                       size, s->optional_left);
    s->optional_left -= size;
    s->record_offset = s->offset;
    s->mode = XEN_MODE_KEEP;
    s->keep = &s->config;
    s->left = size;
    s->end_keep = end_config;
    return 0;
}

/* ---- libxl ------------------------------------------------------------- */

static int step_libxl_magic(struct xen_stream *s, const uint8_t *p,
                            struct vn_err *err)
{
    if (memcmp(p, libxl_magic, 8))
        return fail_at(s, err, VN_E_FORMAT, "no stream of libxl here");
    return expect(s, step_libxl_head, 8);
}

/* be32 version, be32 options */
static int step_libxl_head(struct xen_stream *s, const uint8_t *p,
                           struct vn_err *err)
{
    uint32_t version = be32(p), options = be32(p + 4);

    if (version != LIBXL_VERSION)
        return fail_at(s, err, VN_E_VERSION,
                       "a libxl stream of version %" PRIu32 ", not %u", version,
                       LIBXL_VERSION);
    if (options & LIBXL_BIG_ENDIAN)
        return fail_at(s, err, VN_E_UNSUPPORTED,
                       "a libxl stream of a big-endian host");
    if (options & ~LIBXL_LEGACY)
        return fail_at(s, err, VN_E_FORMAT,
                       "reserved options 0x%" PRIx32 " of a libxl stream",
                       options);
    return expect(s, xen_stream_step_libxl_record, 8);
}

/* ---- libxc ------------------------------------------------------------- */

int xen_stream_step_marker(struct xen_stream *s, const uint8_t *p,
                           struct vn_err *err)
{
    if (memcmp(p, marker, 8))
        return fail_at(s, err, VN_E_FORMAT, "no libxc stream here");
    return expect(s, step_image, 16);
}

/* be32 id, be32 version, be16 options, u16 0, u32 0 */
static int step_image(struct xen_stream *s, const uint8_t *p,
                      struct vn_err *err)
{
    uint32_t version = be32(p + 4), options = be32(p + 8) >> 16;

    if (be32(p) != IMAGE_ID)
        return fail_at(s, err, VN_E_FORMAT, "not a libxc stream");
    if (version != 2 && version != 3)
        return fail_at(s, err, VN_E_VERSION,
                       "a libxc stream of version %" PRIu32 ", not 2 or 3",
                       version);
    if (options & IMAGE_BIG_ENDIAN)
        return fail_at(s, err, VN_E_UNSUPPORTED,
                       "a libxc stream of a big-endian host");
    if (options || be32(p + 8) & 0xffff || be32(p + 12))
        return fail_at(s, err, VN_E_FORMAT,
                       "reserved bits in the image header");
    s->rules.version = version;
    return expect(s, step_domain, 16);
}

/* u32 type, u16 page shift, u16 0, u32 major, u32 minor */
static int step_domain(struct xen_stream *s, const uint8_t *p,
                       struct vn_err *err)
{
    uint32_t type = le32(p);

    if (type != XEN_DOMAIN_PV && type != XEN_DOMAIN_HVM)
        return fail_at(s, err, VN_E_UNSUPPORTED,
                       "a domain of type %" PRIu32 ", not PV (1) or HVM (2)",
                       type);
    if (le16(p + 4) != PAGE_SHIFT)
        return fail_at(s, err, VN_E_UNSUPPORTED, "pages of 2^%u bytes",
                       le16(p + 4));
    if (le16(p + 6))
        return fail_at(s, err, VN_E_FORMAT,
                       "reserved bits in the domain header");
    s->rules.type = (enum xen_domain_type)type;
    s->major = le32(p + 8);
    s->minor = le32(p + 12);
    return expect(s, xen_stream_step_record, 8);
}
