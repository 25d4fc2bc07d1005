/*
 * Geneve packets.
 *
 * Base header, 8 bytes, network order (RFC 8926 section 3.4): version (2 bits)
 * and option length in words (6); O, C and 6 reserved bits; protocol (16);
 * VNI (24) and 8 reserved bits. Options (section 3.5): class (16), type (8,
 * top bit critical), 3 reserved bits and the length of the data in words (5).
 *
 * Frames carry the epoch option; markers are control packets (O) with the
 * marker option and no payload. Both options are critical: an endpoint that
 * honours the flag and is no participant drops the packet, so no frame slips
 * past the delivery rule. Reserved bits are sent as 0 and ignored, as the
 * RFC demands; options that are unknown and not critical are skipped.
 *
 * The marker option is 24 bytes: epoch u32, before u32, sent u64, flags u32
 * (1: acknowledgement), 4 bytes of zero for later versions.
 *
 * Limits: 63 words of options. Concurrency: none needed. Not done: the AEAD
 * of DESIGN section 4; the source address is the only check of a peer.
 */
#include "violin/geneve.h"

#include "common/cursor.h"

#include <assert.h>
#include <string.h>

#define PROTOCOL_ETHERNET 0x6558 /* transparent Ethernet bridging */
#define FLAG_CONTROL      0x80
#define FLAG_CRITICAL     0x40
#define TYPE_CRITICAL     0x80
#define MARKER_DATA_SIZE  24
#define MARKER_FLAG_ACK   1u

static_assert(GENEVE_FRAME_HEADER_SIZE == 8 + 4 + 4, "frame header");
static_assert(GENEVE_MARKER_SIZE == 8 + 4 + MARKER_DATA_SIZE, "marker");

static void read_marker(struct cursor *c, struct vsw_marker *ret)
{
    ret->epoch = cursor_be32(c);
    ret->before = cursor_be32(c);
    ret->sent = cursor_be64(c);
    ret->ack = (cursor_be32(c) & MARKER_FLAG_ACK) != 0;
}

static int read_options(struct cursor *options, struct geneve_packet *p,
                        bool *ret_found, struct vn_err *err)
{
    while (cursor_left(options) > 0) {
        unsigned class = cursor_be16(options);
        unsigned type = cursor_u8(options);
        size_t size = (cursor_u8(options) & 0x1fu) * 4;
        struct cursor data = cursor_of(cursor_take(options, size), size);
        bool marker = type == GENEVE_TYPE_MARKER;

        if (options->failed)
            return vn_fail(err, VN_E_FORMAT, "Geneve: an option is cut short");
        if (class != GENEVE_CLASS || (type != GENEVE_TYPE_EPOCH && !marker)) {
            if (type & TYPE_CRITICAL)
                return vn_fail(err, VN_E_FORMAT,
                               "Geneve: unknown critical option %04x/%02x",
                               class, type);
            continue;
        }
        if (*ret_found || marker != p->is_marker ||
            size != (marker ? MARKER_DATA_SIZE : sizeof(uint32_t)))
            return vn_fail(err, VN_E_FORMAT,
                           "Geneve: misplaced option %04x/%02x of %zu bytes",
                           class, type, size);
        if (marker)
            read_marker(&data, &p->marker);
        else
            p->epoch = cursor_be32(&data);
        *ret_found = true;
    }
    return 0;
}

int geneve_decode(const void *data, size_t size, struct geneve_packet *ret,
                  struct vn_err *err)
{
    struct cursor c = cursor_of(data, size);
    unsigned first = cursor_u8(&c), flags = cursor_u8(&c);
    unsigned protocol = cursor_be16(&c);
    struct geneve_packet p = {.vni = cursor_be32(&c) >> 8};
    size_t options_size = (first & 0x3f) * 4;
    struct cursor options =
        cursor_of(cursor_take(&c, options_size), options_size);
    bool found = false;

    if (c.failed)
        return vn_fail(err, VN_E_FORMAT, "Geneve: %zu bytes are too few", size);
    if (first >> 6 != 0)
        return vn_fail(err, VN_E_FORMAT, "Geneve: version %u", first >> 6);
    if (protocol != PROTOCOL_ETHERNET)
        return vn_fail(err, VN_E_FORMAT, "Geneve: protocol %04x", protocol);
    p.is_marker = (flags & FLAG_CONTROL) != 0;
    if (read_options(&options, &p, &found, err))
        return -1;
    if (!found)
        return vn_fail(err, VN_E_FORMAT, "Geneve: no epoch option");
    p.frame_size = cursor_left(&c);
    p.frame = cursor_take(&c, p.frame_size);
    *ret = p;
    return 0;
}

static uint8_t *put_be32(uint8_t *at, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        at[i] = (uint8_t)(value >> (24 - 8 * i));
    return at + 4;
}

static uint8_t *put_head(uint8_t *at, uint32_t vni, unsigned flags,
                         unsigned type, unsigned data_size)
{
    assert(vni <= GENEVE_VNI_MAX);
    at = put_be32(at, (data_size + 4) / 4 << 24 |
                          (flags | FLAG_CRITICAL) << 16 | PROTOCOL_ETHERNET);
    at = put_be32(at, vni << 8);
    return put_be32(at,
                    (uint32_t)GENEVE_CLASS << 16 | type << 8 | data_size / 4);
}

void geneve_encode_frame(uint8_t out[GENEVE_FRAME_HEADER_SIZE], uint32_t vni,
                         uint32_t epoch)
{
    put_be32(put_head(out, vni, 0, GENEVE_TYPE_EPOCH, 4), epoch);
}

void geneve_encode_marker(uint8_t out[GENEVE_MARKER_SIZE], uint32_t vni,
                          const struct vsw_marker *marker)
{
    uint8_t *at =
        put_head(out, vni, FLAG_CONTROL, GENEVE_TYPE_MARKER, MARKER_DATA_SIZE);

    at = put_be32(at, marker->epoch);
    at = put_be32(at, marker->before);
    at = put_be32(at, (uint32_t)(marker->sent >> 32));
    at = put_be32(at, (uint32_t)marker->sent);
    at = put_be32(at, marker->ack ? MARKER_FLAG_ACK : 0);
    put_be32(at, 0);
}
