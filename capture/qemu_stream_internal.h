#ifndef CAPTURE_QEMU_STREAM_INTERNAL_H
#define CAPTURE_QEMU_STREAM_INTERNAL_H

/*
 * What the files of the stream parser share: qemu_stream.c (feeding and
 * sections), qemu_stream_head.c, qemu_stream_ram.c. How it works is told in
 * qemu_stream.c.
 */

#include "capture/qemu_stream.h"

#include <assert.h>
#include <endian.h>
#include <inttypes.h>
#include <string.h>

enum section_type {
    SECTION_EOF = 0x00,
    SECTION_START = 0x01,
    SECTION_PART = 0x02,
    SECTION_END = 0x03,
    SECTION_FULL = 0x04,
    SECTION_SUBSECTION = 0x05,
    SECTION_DESCRIPTION = 0x06,
    SECTION_CONFIGURATION = 0x07,
    SECTION_COMMAND = 0x08,
    SECTION_FOOTER = 0x7e,
};

/* Subsections of the configuration, as bits of `subsections_seen`. */
enum subsection {
    SUBSECTION_PAGE_BITS = 1,
    SUBSECTION_CAPABILITIES = 2,
    SUBSECTION_UUID = 4,
};

struct qemu_stream;
/* Take the `need` bytes asked for. Returns 0 or -1. */
typedef int step_fn(struct qemu_stream *s, const uint8_t *p,
                    struct vn_err *err);

struct qemu_stream {
    struct qemu_stream_sink sink;
    step_fn *step; /* NULL: in the device state */
    size_t need;   /* bytes the open step takes, > 0 */
    size_t have;   /* of these in scratch */
    uint64_t offset;
    bool failed, finished;

    bool in_head;
    unsigned subsections_seen;
    enum subsection subsection;
    struct buf head;
    char machine[QEMU_MACHINE_NAME_MAX + 1];

    bool ram_started, ram_ended; /* START seen, END seen */
    bool in_start;               /* inside START: a block list may come */
    bool parts_seen;             /* any PART or END */
    bool ram_began;              /* any page */
    uint32_t ram_section;        /* its id */
    uint64_t list_left;          /* bytes of the total not yet listed */

    unsigned block_count;
    int current_block; /* of the last record, or -1 */
    uint64_t word;     /* of the open record: offset | flags */
    struct qemu_block blocks[QEMU_BLOCKS_MAX];

    struct buf device_state;
    uint8_t scratch[QEMU_PAGE_SIZE];
};

#define fail_at(s, err, code, format, ...)                                     \
    vn_fail((err), (code), "at byte %" PRIu64 ": " format,                     \
            (s)->offset __VA_OPT__(, ) __VA_ARGS__)

/* The first step of a stream. Ends with qemu_stream_step_section(). */
step_fn qemu_stream_step_header;
/* The type of the section that begins. */
step_fn qemu_stream_step_section;
/* The first word of a RAM payload; its last leads to qemu_stream_step_footer.
 */
step_fn qemu_stream_step_word;
/* The footer of the RAM section. */
step_fn qemu_stream_step_footer;

/* Open a step that takes `need` bytes. Returns 0. */
static inline int expect(struct qemu_stream *s, step_fn *step, size_t need)
{
    assert(need > 0 && need <= sizeof(s->scratch));
    s->step = step;
    s->need = need;
    return 0;
}

static inline uint32_t be32(const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof(v));
    return be32toh(v);
}

static inline uint64_t be64(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof(v));
    return be64toh(v);
}

/* Names go into object names, JSON and error messages: plain ASCII only. */
static inline bool is_plain(const uint8_t *p, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (p[i] < 0x20 || p[i] > 0x7e)
            return false;
    return size > 0;
}

#endif
