/*
 * pcapng files, little-endian.
 *
 * Every block is: type u32, total length u32, body, total length again; all
 * lengths are multiples of 4. Options in a body are code u16, size u16, bytes,
 * padding to 4; code 0 ends them. The writer emits the blocks that
 * docs/formats/frames.md lists; the reader also takes what Wireshark's tools
 * make of such a file (further blocks and options), as long as it is
 * little-endian and Ethernet.
 *
 * Limits: a block is at most BLOCK_MAX, which is a frame and a page of options;
 * PCAPNG_INTERFACES_MAX interfaces; the caller limits the file.
 * Concurrency: none needed. Not done: big-endian sections, Simple Packet
 * Blocks (they have no options, so no epoch).
 */
#include "violin/pcapng.h"

#include "violin/switch.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_SECTION     0x0a0d0d0au
#define BLOCK_INTERFACE   1u
#define BLOCK_PACKET      6u
#define BYTE_ORDER_MARK   0x1a2b3c4du
#define LINK_ETHERNET     1
#define OPTION_END        0
#define OPTION_COMMENT    1
#define OPTION_IF_NAME    2
#define OPTION_RESOLUTION 9
#define NANOSECONDS       9
#define MICROSECONDS      6
#define BLOCK_OVERHEAD    12u
#define BLOCK_MAX         (SWITCH_FRAME_MAX + 4096u)
#define EPOCH_COMMENT     "vnstore epoch="

static void put_option(struct buf *out, uint16_t code, const void *data,
                       size_t size)
{
    assert(size <= UINT16_MAX);
    buf_put_le16(out, code);
    buf_put_le16(out, (uint16_t)size);
    buf_put(out, data, size);
    buf_put_zero(out, -size & 3);
}

void pcapng_begin(struct buf *out, const char *interface)
{
    size_t name_size = strlen(interface);
    size_t name_padded = (name_size + 3) & ~(size_t)3;
    uint32_t total;

    total = BLOCK_OVERHEAD + 16;
    buf_put_le32(out, BLOCK_SECTION);
    buf_put_le32(out, total);
    buf_put_le32(out, BYTE_ORDER_MARK);
    buf_put_le16(out, 1); /* version 1.0 */
    buf_put_le16(out, 0);
    buf_put_le64(out, UINT64_MAX); /* section length: not given */
    buf_put_le32(out, total);
    /* interface: link type, snap length, name, resolution, end */
    total = (uint32_t)(BLOCK_OVERHEAD + 8 + 4 + name_padded + 8 + 4);
    buf_put_le32(out, BLOCK_INTERFACE);
    buf_put_le32(out, total);
    buf_put_le16(out, LINK_ETHERNET);
    buf_put_le16(out, 0);
    buf_put_le32(out, 0); /* no snap length */
    put_option(out, OPTION_IF_NAME, interface, name_size);
    put_option(out, OPTION_RESOLUTION, &(uint8_t){NANOSECONDS}, 1);
    buf_put_le32(out, OPTION_END);
    buf_put_le32(out, total);
}

void pcapng_add(struct buf *out, uint64_t wall_ns, uint32_t epoch,
                const void *frame, size_t size)
{
    char comment[40];
    size_t comment_size =
        (size_t)snprintf(comment, sizeof(comment), EPOCH_COMMENT "%u", epoch);
    uint32_t total;

    assert(size <= SWITCH_FRAME_MAX);
    /* head, frame, comment, end */
    total = (uint32_t)(BLOCK_OVERHEAD + 20 + size + (-size & 3) + 4 +
                       comment_size + (-comment_size & 3) + 4);
    buf_put_le32(out, BLOCK_PACKET);
    buf_put_le32(out, total);
    buf_put_le32(out, 0); /* interface */
    buf_put_le32(out, (uint32_t)(wall_ns >> 32));
    buf_put_le32(out, (uint32_t)wall_ns);
    buf_put_le32(out, (uint32_t)size); /* captured */
    buf_put_le32(out, (uint32_t)size); /* original */
    buf_put(out, frame, size);
    buf_put_zero(out, -size & 3);
    put_option(out, OPTION_COMMENT, comment, comment_size);
    buf_put_le32(out, OPTION_END);
    buf_put_le32(out, total);
}

void pcapng_open(struct pcapng_reader *r, const void *data, size_t size)
{
    *r = (struct pcapng_reader){.c = cursor_of(data, size)};
}

static int bad(const struct pcapng_reader *r, const char *what,
               struct vn_err *err)
{
    return vn_fail(err, VN_E_FORMAT, "pcapng: %s, in the block before byte %zu",
                   what, r->c.offset);
}

/*
 * The next option: its code, with its bytes in *ret. OPTION_END at the end
 * of the body too, as the format allows; body->failed where it is cut short.
 */
static unsigned next_option(struct cursor *body, struct cursor *ret)
{
    unsigned code;
    size_t size;

    if (cursor_left(body) == 0)
        return OPTION_END;
    code = cursor_le16(body);
    size = cursor_le16(body);
    *ret = cursor_of(cursor_take(body, size), size);
    cursor_take(body, -size & 3);
    return body->failed ? OPTION_END : code;
}

static int read_section(struct pcapng_reader *r, struct cursor *body,
                        struct vn_err *err)
{
    if (cursor_le32(body) != BYTE_ORDER_MARK)
        return bad(r, "not little-endian", err);
    if (cursor_le16(body) != 1)
        return bad(r, "unknown version", err);
    cursor_le16(body);
    cursor_le64(body);
    if (body->failed)
        return bad(r, "section header cut short", err);
    r->begun = true;
    r->interfaces = 0;
    return 0;
}

static int read_interface(struct pcapng_reader *r, struct cursor *body,
                          struct vn_err *err)
{
    unsigned link = cursor_le16(body), code;
    struct cursor value;
    uint8_t resolution = MICROSECONDS;

    cursor_le16(body);
    cursor_le32(body);
    while ((code = next_option(body, &value)) != OPTION_END) {
        if (code == OPTION_RESOLUTION && value.size == 1)
            resolution = cursor_u8(&value);
    }
    if (body->failed)
        return bad(r, "interface cut short", err);
    if (link != LINK_ETHERNET)
        return bad(r, "interface is not Ethernet", err);
    if (r->interfaces == PCAPNG_INTERFACES_MAX)
        return bad(r, "too many interfaces", err);
    r->resolution[r->interfaces++] = resolution;
    return 0;
}

static void read_comment(struct cursor *value, struct pcapng_frame *frame)
{
    size_t prefix = strlen(EPOCH_COMMENT);
    const uint8_t *text = value->data;
    uint64_t epoch = 0;

    if (value->size <= prefix || value->size > prefix + 10 ||
        memcmp(text, EPOCH_COMMENT, prefix) != 0)
        return;
    for (size_t i = prefix; i < value->size; i++) {
        if (text[i] < '0' || text[i] > '9')
            return;
        epoch = epoch * 10 + (text[i] - '0');
    }
    if (epoch > UINT32_MAX)
        return;
    frame->has_epoch = true;
    frame->epoch = (uint32_t)epoch;
}

static uint64_t wall_of(uint8_t resolution, uint64_t stamp)
{
    if (resolution == NANOSECONDS)
        return stamp;
    if (resolution == MICROSECONDS && stamp <= UINT64_MAX / 1000)
        return stamp * 1000;
    return 0;
}

static int read_packet(struct pcapng_reader *r, struct cursor *body,
                       struct pcapng_frame *ret, struct vn_err *err)
{
    uint32_t interface = cursor_le32(body);
    uint64_t high = cursor_le32(body), low = cursor_le32(body);
    uint32_t captured = cursor_le32(body), original = cursor_le32(body);
    struct pcapng_frame frame = {.size = captured};
    struct cursor value;
    unsigned code;

    if (body->failed)
        return bad(r, "packet cut short", err);
    if (interface >= r->interfaces)
        return bad(r, "packet of an unknown interface", err);
    if (captured != original)
        return bad(r, "only a part of the frame was captured", err);
    if (captured < SWITCH_FRAME_MIN || captured > SWITCH_FRAME_MAX)
        return bad(r, "frame of impossible size", err);
    frame.data = cursor_take(body, captured);
    cursor_take(body, -(size_t)captured & 3);
    while ((code = next_option(body, &value)) != OPTION_END) {
        if (code == OPTION_COMMENT)
            read_comment(&value, &frame);
    }
    if (body->failed)
        return bad(r, "packet cut short", err);
    if (++r->frames > PCAPNG_FRAMES_MAX)
        return bad(r, "too many frames", err);
    frame.wall_ns = wall_of(r->resolution[interface], high << 32 | low);
    *ret = frame;
    return 0;
}

/* One whole block: its type, with its body in *ret. 1, 0 at the end, or -1. */
static int next_block(struct pcapng_reader *r, uint32_t *ret_type,
                      struct cursor *ret, struct vn_err *err)
{
    size_t left = cursor_left(&r->c), body_size;
    uint32_t total;

    if (left == 0 && r->begun)
        return 0;
    *ret_type = cursor_le32(&r->c);
    total = cursor_le32(&r->c);
    if (r->c.failed || total > left)
        return bad(r, "block cut short", err);
    if (total < BLOCK_OVERHEAD || total % 4 != 0)
        return bad(r, "impossible block length", err);
    if (!r->begun && *ret_type != BLOCK_SECTION)
        return bad(r, "no section header", err);
    if (total > BLOCK_MAX)
        return bad(r, "block too long", err);
    body_size = total - BLOCK_OVERHEAD;
    *ret = cursor_of(cursor_take(&r->c, body_size), body_size);
    if (cursor_le32(&r->c) != total)
        return bad(r, "the two lengths differ", err);
    return 1;
}

int pcapng_next(struct pcapng_reader *r, struct pcapng_frame *ret,
                struct vn_err *err)
{
    for (;;) {
        struct cursor body;
        uint32_t type;
        int got = next_block(r, &type, &body, err);

        if (got <= 0)
            return got;
        if (type == BLOCK_SECTION && read_section(r, &body, err))
            return -1;
        if (type == BLOCK_INTERFACE && read_interface(r, &body, err))
            return -1;
        if (type == BLOCK_PACKET)
            return read_packet(r, &body, ret, err) ? -1 : 1;
    }
}
