#ifndef VIOLIN_PCAPNG_H
#define VIOLIN_PCAPNG_H

/*
 * Recorded frames as a pcapng file (draft-ietf-opsawg-pcapng): one section,
 * one Ethernet interface named as the port, one Enhanced Packet Block a frame
 * with its epoch in a comment. docs/formats/frames.md.
 */

#include "common/buf.h"
#include "common/cursor.h"
#include "common/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PCAPNG_INTERFACES_MAX 16
#define PCAPNG_FRAMES_MAX     (1u << 24)

/* Append the head of a file. `out` collects errors (buf_check). */
void pcapng_begin(struct buf *out, const char *interface);
/* Append a frame of at most SWITCH_FRAME_MAX bytes. */
void pcapng_add(struct buf *out, uint64_t wall_ns, uint32_t epoch,
                const void *frame, size_t size);

struct pcapng_reader {
    struct cursor c;
    bool begun;
    unsigned interfaces;
    uint64_t frames;
    uint8_t resolution[PCAPNG_INTERFACES_MAX]; /* if_tsresol */
};
struct pcapng_frame {
    uint64_t wall_ns; /* 0 where the resolution is not micro or nano */
    bool has_epoch;
    uint32_t epoch;
    const uint8_t *data; /* inside the bytes given to pcapng_open() */
    size_t size;
};

/* `data` must stay until the last pcapng_next(). Checks nothing yet. */
void pcapng_open(struct pcapng_reader *r, const void *data, size_t size);
/*
 * The next frame: 1; the end of the file: 0; VN_E_FORMAT: -1. Blocks of kinds
 * that we do not know are skipped. Frames cut short by a snap length, or of
 * a size that no switch carries, are refused.
 */
int pcapng_next(struct pcapng_reader *r, struct pcapng_frame *ret,
                struct vn_err *err) VN_MUST_USE;

#endif
