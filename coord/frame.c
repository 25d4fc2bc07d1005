/*
 * Frames out of a byte stream.
 *
 * The head is gathered first, then the body is appended to a buffer as it
 * comes. The announced size is never allocated in advance: a peer that
 * announces 16 MiB and sends nothing costs nothing. A body that was large is
 * given back when the next frame starts, so one big message does not stay
 * in memory for the life of a connection.
 *
 * Invariants: head_size < 4 or body_size is in 1..limit; body.size is at most
 * body_size; whole means that both are complete.
 */

#include "coord/frame.h"

#include <assert.h>
#include <string.h>

#define KEPT_CAPACITY (64u << 10)

void frame_reader_init(struct frame_reader *reader, uint32_t limit)
{
    *reader = (struct frame_reader){.limit = limit};
    buf_init(&reader->body, limit);
}

void frame_reader_done(struct frame_reader *reader)
{
    buf_done(&reader->body);
}

static void frame_reader_restart(struct frame_reader *reader)
{
    reader->whole = false;
    reader->head_size = 0;
    if (reader->body.capacity > KEPT_CAPACITY)
        buf_done(&reader->body);
    reader->body.size = 0;
}

/* Take up to `want` bytes. */
static const uint8_t *take_some(struct cursor *in, size_t want, size_t *ret)
{
    *ret = cursor_left(in) < want ? cursor_left(in) : want;
    return *ret ? cursor_take(in, *ret) : NULL;
}

static int frame_reader_head(struct frame_reader *reader, struct cursor *in,
                             struct vn_err *err)
{
    struct cursor head = cursor_of(reader->head, FRAME_HEAD_SIZE);
    size_t size;
    const uint8_t *data =
        take_some(in, FRAME_HEAD_SIZE - reader->head_size, &size);

    if (!data)
        return 0;
    memcpy(reader->head + reader->head_size, data, size);
    reader->head_size += size;
    if (reader->head_size < FRAME_HEAD_SIZE)
        return 0;
    reader->body_size = cursor_be32(&head);
    if (reader->body_size == 0)
        return vn_fail(err, VN_E_FORMAT, "a message of 0 bytes is announced");
    if (reader->body_size > reader->limit)
        return vn_fail(err, VN_E_LIMIT,
                       "a message of %u bytes is announced, %u are allowed "
                       "(does it speak the vnstore protocol?)",
                       reader->body_size, reader->limit);
    return 0;
}

int frame_reader_feed(struct frame_reader *reader, struct cursor *in,
                      bool *ret_whole, struct vn_err *err)
{
    const uint8_t *data;
    size_t size;

    if (reader->whole)
        frame_reader_restart(reader);
    if (reader->head_size < FRAME_HEAD_SIZE &&
        frame_reader_head(reader, in, err) < 0)
        return -1;
    if (reader->head_size == FRAME_HEAD_SIZE) {
        data = take_some(in, reader->body_size - reader->body.size, &size);
        if (data)
            buf_put(&reader->body, data, size);
        if (buf_check(&reader->body, "a message", err) < 0)
            return -1;
        reader->whole = reader->body.size == reader->body_size;
    }
    *ret_whole = reader->whole;
    return 0;
}

bool frame_reader_at_start(const struct frame_reader *reader)
{
    return reader->whole || reader->head_size == 0;
}

void frame_put_head(uint8_t out[FRAME_HEAD_SIZE], size_t size)
{
    assert(size > 0 && size <= UINT32_MAX);
    for (unsigned i = 0; i < FRAME_HEAD_SIZE; i++)
        out[i] = (uint8_t)(size >> (24 - 8 * i));
}
