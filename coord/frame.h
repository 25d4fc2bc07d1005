#ifndef COORD_FRAME_H
#define COORD_FRAME_H

/*
 * Length-prefixed frames out of a byte stream: 4 bytes big-endian size, then
 * that many bytes. Pure: no sockets, no time. Format: docs/formats/wire.md.
 */

#include "common/buf.h"
#include "common/cursor.h"
#include "common/err.h"

#include <stdbool.h>
#include <stdint.h>

#define FRAME_HEAD_SIZE 4u

struct frame_reader {
    uint32_t limit; /* largest body that is accepted */
    uint8_t head[FRAME_HEAD_SIZE];
    size_t head_size;   /* bytes of head that are there */
    uint32_t body_size; /* as announced; valid once the head is whole */
    struct buf body;    /* what came of it */
    bool whole;         /* body is complete; the next feed starts anew */
};

void frame_reader_init(struct frame_reader *reader, uint32_t limit);
void frame_reader_done(struct frame_reader *reader);

/*
 * Take bytes from `in`, at most to the end of one frame. *ret_whole: a frame
 * is complete in reader->body, valid until the next call; call again while
 * `in` has bytes left. A size of 0 or above the limit fails with VN_E_FORMAT
 * or VN_E_LIMIT; the stream cannot be continued then. Memory in use stays
 * below twice the bytes received, whatever size was announced.
 */
int frame_reader_feed(struct frame_reader *reader, struct cursor *in,
                      bool *ret_whole, struct vn_err *err) VN_MUST_USE;

/* True if the stream may end here: no frame is begun. */
bool frame_reader_at_start(const struct frame_reader *reader);

/* The head of a frame with `size` bytes of body (1 to UINT32_MAX). */
void frame_put_head(uint8_t out[FRAME_HEAD_SIZE], size_t size);

#endif
