/*
 * A push parser for QEMU's migration stream, version 3.
 *
 * Purpose. A VM's memory reaches us only as this stream, and a guest shapes
 * most of what is in it: names and lengths are QEMU's, contents the guest's.
 * The parser cuts it into three parts: the head (magic to the end of the
 * configuration section), the RAM pages, and the device state, which is not
 * understood but kept verbatim. Grammar: docs/formats/qemu-stream.md.
 *
 * How. The grammar is a chain of steps, each of a known number of bytes
 * (`need`). When that many lie in the caller's buffer, the step gets them in
 * place, so a page is not copied; else they are gathered in `scratch` first.
 * A step checks what it got and names the next step. Only one step is open at
 * a time, and none needs more than a page, so portions of any size give the
 * same result.
 *
 * Device sections carry no length, hence the end of one cannot be found. That
 * is not needed: QEMU writes all live sections before the first FULL one, so
 * everything from there on is the device state. Two things guard this: a FULL
 * section that comes before any page section is refused (virtio-mem does so:
 * its early state), and the end of the blob must be the footer of a section,
 * the end mark, and the description of the sections if there is one.
 *
 * Invariants. `offset` counts the bytes before the open step: what an error
 * names. After blocks() was called, `block_count` > 0 and the sizes sum to
 * the total that the stream stated. Every page() is below its block's size.
 *
 * Limits. Names are u8-long. QEMU_HEAD_MAX holds the longest head that the
 * grammar allows with the three known subsections (8 + 5 + 255 + 3 * 50).
 * QEMU_RAM_MAX is the largest image the store takes, so sums fit 64 bits.
 *
 * Not done: pages of other sizes than 4096 (x86 has none), XBZRLE, compressed
 * pages, multifd, mapped-ram, shared RAM that is not in the stream: capture
 * never switches these on, so meeting one is an error.
 *
 * Concurrency: none; one thread feeds a stream.
 */

#include "capture/qemu_stream_internal.h"

#include <stdlib.h>

#define RAM_SECTION_VERSION 4u

struct qemu_stream *qemu_stream_new(const struct qemu_stream_sink *sink)
{
    struct qemu_stream *s = vn_alloc(sizeof(*s));

    s->sink = *sink;
    s->step = qemu_stream_step_header;
    s->need = 8;
    s->in_head = true;
    s->current_block = -1;
    buf_init(&s->head, QEMU_HEAD_MAX);
    buf_init(&s->device_state, QEMU_DEVICE_STATE_MAX);
    return s;
}

void qemu_stream_free(struct qemu_stream *stream)
{
    if (!stream)
        return;
    buf_done(&stream->head);
    buf_done(&stream->device_state);
    free(stream);
}

static int take_device_state(struct qemu_stream *s, const uint8_t *p,
                             size_t size, struct vn_err *err)
{
    buf_put(&s->device_state, p, size);
    if (s->device_state.broken)
        return fail_at(s, err, VN_E_LIMIT,
                       "device state is larger than %u bytes",
                       QEMU_DEVICE_STATE_MAX);
    s->offset += size;
    return 0;
}

static int feed(struct qemu_stream *s, const uint8_t *p, size_t size,
                struct vn_err *err)
{
    while (size) {
        const uint8_t *bytes;
        size_t need = s->need, part;

        if (!s->step)
            return take_device_state(s, p, size, err);
        part = need - s->have;
        if (part > size)
            part = size;
        if (part == need) {
            bytes = p;
        } else {
            memcpy(s->scratch + s->have, p, part);
            bytes = s->scratch;
        }
        p += part;
        size -= part;
        s->have += part;
        if (s->have < need)
            return 0;
        s->have = 0;
        if (s->in_head)
            buf_put(&s->head, bytes, need);
        if (s->step(s, bytes, err) < 0)
            return -1;
        s->offset += need;
    }
    return 0;
}

int qemu_stream_feed(struct qemu_stream *stream, const void *data, size_t size,
                     struct vn_err *err)
{
    int r;

    assert(!stream->failed && !stream->finished);
    r = feed(stream, data, size, err);
    stream->failed = r < 0;
    return r;
}

bool qemu_stream_ram_began(const struct qemu_stream *stream)
{
    return stream->ram_began;
}

int qemu_stream_finish(struct qemu_stream *stream, struct vn_err *err)
{
    int r;

    assert(!stream->failed && !stream->finished);
    if (stream->step)
        r = vn_fail(err, VN_E_FORMAT,
                    "the migration stream ended after %" PRIu64
                    " bytes, before the device state",
                    stream->offset + stream->have);
    else
        r = qemu_stream_check_device_state(stream->device_state.data,
                                           stream->device_state.size, err);
    stream->failed = r < 0;
    stream->finished = r == 0;
    return r;
}

const struct buf *qemu_stream_head(const struct qemu_stream *stream)
{
    return &stream->head;
}

const char *qemu_stream_machine(const struct qemu_stream *stream)
{
    return stream->machine;
}

const struct qemu_block *qemu_stream_blocks(const struct qemu_stream *stream,
                                            unsigned *ret_count)
{
    *ret_count = stream->block_count;
    return stream->blocks;
}

const struct buf *qemu_stream_device_state(const struct qemu_stream *stream)
{
    return &stream->device_state;
}

int qemu_stream_check_block(const char *name, size_t name_size, uint64_t size,
                            struct vn_err *err)
{
    if (name_size > QEMU_BLOCK_NAME_MAX ||
        !is_plain((const uint8_t *)name, name_size))
        return vn_fail(err, VN_E_FORMAT,
                       "block name is empty, too long or unprintable");
    if (!size || size % QEMU_PAGE_SIZE)
        return vn_fail(err, VN_E_FORMAT,
                       "block '%.*s' has %" PRIu64
                       " bytes, not a number of pages",
                       (int)name_size, name, size);
    if (size > QEMU_RAM_MAX)
        return vn_fail(err, VN_E_LIMIT,
                       "block '%.*s' has %" PRIu64 " bytes, more than %llu",
                       (int)name_size, name, size, QEMU_RAM_MAX);
    return 0;
}

/* Do the bytes before `end` close a section and then the sections? */
static bool ends_sections(const uint8_t *data, size_t end)
{
    return end >= 6 && data[end - 1] == SECTION_EOF &&
           data[end - 6] == SECTION_FOOTER;
}

/*
 * Is there a description at the end: 0x06, be32 length, JSON? The text has no
 * control bytes and the first byte of its length is 0, so the text begins
 * where the last run of other bytes does, or up to three bytes later.
 */
static bool find_description(const uint8_t *data, size_t size)
{
    size_t run = size;

    while (run > 0 && data[run - 1] >= 0x20)
        run--;
    for (size_t text = run; text <= run + 3 && text < size; text++)
        if (text >= 5 && data[text - 5] == SECTION_DESCRIPTION &&
            be32(data + text - 4) == size - text && data[text] == '{' &&
            ends_sections(data, text - 5))
            return true;
    return false;
}

int qemu_stream_check_device_state(const void *data, size_t size,
                                   struct vn_err *err)
{
    const uint8_t *p = data;

    if (!size || p[0] != SECTION_FULL)
        return vn_fail(err, VN_E_FORMAT,
                       "device state does not begin with a section");
    if (size > QEMU_DEVICE_STATE_MAX)
        return vn_fail(err, VN_E_LIMIT, "device state is larger than %u bytes",
                       QEMU_DEVICE_STATE_MAX);
    if (ends_sections(p, size))
        return 0;
    if (find_description(p, size))
        return 0;
    return vn_fail(err, VN_E_FORMAT, "the device state of %zu bytes ends early",
                   size);
}

/* ---- sections ---------------------------------------------------------- */

static step_fn step_start, step_start_name, step_part, step_command;
static step_fn step_command_data;

static int begin_device_state(struct qemu_stream *s, const uint8_t *p,
                              struct vn_err *err)
{
    if (!s->parts_seen)
        return fail_at(s, err, VN_E_UNSUPPORTED,
                       "a device section before the memory");
    s->step = NULL;
    buf_put(&s->device_state, p, 1);
    return buf_check(&s->device_state, "device state", err);
}

/* u8 type */
int qemu_stream_step_section(struct qemu_stream *s, const uint8_t *p,
                             struct vn_err *err)
{
    switch ((enum section_type)p[0]) {
    case SECTION_START:
        return expect(s, step_start, 5);
    case SECTION_PART:
    case SECTION_END:
        if (!s->block_count)
            return fail_at(s, err, VN_E_FORMAT,
                           "memory section before the list of blocks");
        if (s->ram_ended)
            return fail_at(s, err, VN_E_FORMAT,
                           "memory section after the last one");
        s->ram_ended = p[0] == SECTION_END;
        s->parts_seen = true;
        return expect(s, step_part, 4);
    case SECTION_FULL:
        return begin_device_state(s, p, err);
    case SECTION_COMMAND:
        return expect(s, step_command, 4);
    case SECTION_EOF:
        return fail_at(s, err, VN_E_FORMAT,
                       "the stream ends without device state");
    case SECTION_SUBSECTION:
    case SECTION_DESCRIPTION:
    case SECTION_CONFIGURATION:
    case SECTION_FOOTER:
        break;
    }
    return fail_at(s, err, VN_E_UNSUPPORTED, "unknown section type 0x%02x",
                   p[0]);
}

/* be32 id, u8 name length */
static int step_start(struct qemu_stream *s, const uint8_t *p,
                      struct vn_err *err)
{
    if (!p[4])
        return fail_at(s, err, VN_E_FORMAT, "section without a name");
    if (!s->ram_started)
        s->ram_section = be32(p);
    return expect(s, step_start_name, (size_t)p[4] + 8);
}

/* name, be32 instance, be32 version */
static int step_start_name(struct qemu_stream *s, const uint8_t *p,
                           struct vn_err *err)
{
    size_t size = s->need - 8;
    uint32_t instance = be32(p + size), version = be32(p + size + 4);

    if (!is_plain(p, size))
        return fail_at(s, err, VN_E_FORMAT,
                       "section name with unprintable bytes");
    if (size != 3 || memcmp(p, "ram", 3))
        return fail_at(s, err, VN_E_UNSUPPORTED, "unknown live section '%.*s'",
                       (int)size, (const char *)p);
    if (instance != 0 || version != RAM_SECTION_VERSION)
        return fail_at(s, err, VN_E_UNSUPPORTED,
                       "memory section of instance %" PRIu32
                       ", version %" PRIu32 ", not 0, %u",
                       instance, version, RAM_SECTION_VERSION);
    if (s->ram_started)
        return fail_at(s, err, VN_E_FORMAT, "memory section started twice");
    s->ram_started = true;
    s->in_start = true;
    return expect(s, qemu_stream_step_word, 8);
}

/* be32 id */
static int step_part(struct qemu_stream *s, const uint8_t *p,
                     struct vn_err *err)
{
    if (be32(p) != s->ram_section)
        return fail_at(s, err, VN_E_FORMAT, "unknown section id %" PRIu32,
                       be32(p));
    return expect(s, qemu_stream_step_word, 8);
}

/* be16 command, be16 length: those that change nothing for us */
static int step_command(struct qemu_stream *s, const uint8_t *p,
                        struct vn_err *err)
{
    static const struct {
        unsigned size;
        bool accepted;
    } known[] = {
        [1] = {0, true},  /* OPEN_RETURN_PATH */
        [2] = {4, true},  /* PING */
        [11] = {0, true}, /* SWITCHOVER_START, QEMU 9 and later */
    };
    unsigned command = (unsigned)p[0] << 8 | p[1];
    unsigned size = (unsigned)p[2] << 8 | p[3];

    if (command >= VN_COUNT(known) || !known[command].accepted)
        return fail_at(s, err, VN_E_UNSUPPORTED, "migration command %u",
                       command);
    if (size != known[command].size)
        return fail_at(s, err, VN_E_FORMAT,
                       "migration command %u with %u bytes", command, size);
    return size ? expect(s, step_command_data, size)
                : expect(s, qemu_stream_step_section, 1);
}

static int step_command_data(struct qemu_stream *s, const uint8_t *p,
                             struct vn_err *err)
{
    (void)p;
    (void)err;
    return expect(s, qemu_stream_step_section, 1);
}

/* u8 mark, be32 id */
int qemu_stream_step_footer(struct qemu_stream *s, const uint8_t *p,
                            struct vn_err *err)
{
    if (p[0] != SECTION_FOOTER || be32(p + 1) != s->ram_section)
        return fail_at(s, err, VN_E_FORMAT, "the memory section has no footer");
    return expect(s, qemu_stream_step_section, 1);
}
