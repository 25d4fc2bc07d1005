#ifndef VIOLIN_HOLD_H
#define VIOLIN_HOLD_H

/*
 * A bounded first-in first-out queue of frames, each with its epoch.
 *
 * Frames are copied in. Memory comes in chunks as the queue grows and goes
 * back when it empties; one chunk is kept, so a queue that stays short
 * allocates nothing per frame. Not thread-safe.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct hold_chunk;

struct hold {
    struct hold_chunk *first, *last;
    size_t limit; /* bytes that may be queued, HOLD_OVERHEAD a frame */
    size_t bytes; /* in use */
    size_t count; /* frames */
};

#define HOLD_OVERHEAD 16 /* bytes that each frame costs besides itself */

struct hold_frame {
    uint32_t epoch;
    size_t size;
    const void *data; /* valid until the queue is next changed */
};

void hold_init(struct hold *q, size_t limit_bytes);
/* Drop all frames and give the memory back; the limit stays. */
void hold_clear(struct hold *q);

/* Append a copy; false when the limit would be passed or memory is out. */
bool hold_push(struct hold *q, uint32_t epoch, const void *frame, size_t size);
/* The oldest frame; false when there is none. */
bool hold_front(const struct hold *q, struct hold_frame *ret);
/* Forget the oldest frame; there must be one. */
void hold_pop(struct hold *q);

/* Walk from the oldest to the newest: begin with a zeroed iterator. */
struct hold_iter {
    const struct hold_chunk *chunk;
    size_t offset;
    bool begun;
};
bool hold_next(const struct hold *q, struct hold_iter *it,
               struct hold_frame *ret);

/* Asserts the structure's invariants. */
void hold_check(const struct hold *q);

#endif
