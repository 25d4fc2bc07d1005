/*
 * The queue of held frames.
 *
 * How it works: a list of 256 KiB chunks. A frame is stored as one record
 * {size u32, epoch u32, the bytes, padding to 8} and never spans two chunks;
 * a chunk whose rest is too small is left for a new one. Frames leave from
 * the first chunk, which is freed when it was read to its end, except that
 * the only chunk is rewound and kept.
 *
 * Invariants: `count` records lie between the read and write offsets of the
 * chunks, first to last; only the first chunk has a read offset above 0; no
 * chunk but a single one is empty; `bytes` is the sum of size +
 * HOLD_OVERHEAD and never above `limit`.
 *
 * Limits: the largest frame (64 KiB + 14) leaves at most a quarter of a chunk
 * unused, so the memory taken is below limit * 4 / 3 + one chunk. A limit of
 * 64 MiB holds 50 ms of 10 Gb/s.
 *
 * Concurrency: none. Not done: sharing one copy of a flooded frame among
 * ports; broadcasts are few, and separate copies need no reference counts.
 */
#include "violin/hold.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define HOLD_CHUNK_SIZE (256u * 1024)

struct hold_chunk {
    struct hold_chunk *next;
    size_t read, write;
    uint8_t data[];
};

struct record {
    uint32_t size;
    uint32_t epoch;
};

static_assert(sizeof(struct record) == 8, "record header");
static_assert(sizeof(struct record) + 8 <= HOLD_OVERHEAD, "overhead");

static size_t record_size(size_t size)
{
    return sizeof(struct record) + ((size + 7) & ~(size_t)7);
}

static void frame_at(const struct hold_chunk *chunk, size_t offset,
                     struct hold_frame *ret)
{
    struct record r;

    memcpy(&r, chunk->data + offset, sizeof(r));
    ret->epoch = r.epoch;
    ret->size = r.size;
    ret->data = chunk->data + offset + sizeof(r);
}

void hold_init(struct hold *q, size_t limit_bytes)
{
    *q = (struct hold){.limit = limit_bytes};
}

void hold_clear(struct hold *q)
{
    while (q->first) {
        struct hold_chunk *next = q->first->next;

        free(q->first);
        q->first = next;
    }
    hold_init(q, q->limit);
}

static bool add_chunk(struct hold *q)
{
    struct hold_chunk *chunk = malloc(sizeof(*chunk) + HOLD_CHUNK_SIZE);

    if (!chunk)
        return false;
    chunk->next = NULL;
    chunk->read = chunk->write = 0;
    if (q->last)
        q->last->next = chunk;
    else
        q->first = chunk;
    q->last = chunk;
    return true;
}

bool hold_push(struct hold *q, uint32_t epoch, const void *frame, size_t size)
{
    struct record r = {(uint32_t)size, epoch};
    size_t need = record_size(size);
    uint8_t *at;

    if (need > HOLD_CHUNK_SIZE || size + HOLD_OVERHEAD > q->limit - q->bytes)
        return false;
    if ((!q->last || need > HOLD_CHUNK_SIZE - q->last->write) && !add_chunk(q))
        return false;
    at = q->last->data + q->last->write;
    memcpy(at, &r, sizeof(r));
    memcpy(at + sizeof(r), frame, size);
    q->last->write += need;
    q->bytes += size + HOLD_OVERHEAD;
    q->count++;
    return true;
}

bool hold_front(const struct hold *q, struct hold_frame *ret)
{
    if (q->count == 0)
        return false;
    frame_at(q->first, q->first->read, ret);
    return true;
}

void hold_pop(struct hold *q)
{
    struct hold_chunk *chunk = q->first;
    struct hold_frame frame;

    assert(q->count > 0);
    frame_at(chunk, chunk->read, &frame);
    chunk->read += record_size(frame.size);
    q->bytes -= frame.size + HOLD_OVERHEAD;
    q->count--;
    if (chunk->read < chunk->write)
        return;
    if (chunk->next) {
        q->first = chunk->next;
        free(chunk);
    } else {
        chunk->read = chunk->write = 0;
    }
}

bool hold_next(const struct hold *q, struct hold_iter *it,
               struct hold_frame *ret)
{
    if (!it->begun) {
        it->begun = true;
        it->chunk = q->first;
        it->offset = q->first ? q->first->read : 0;
    }
    if (it->chunk && it->offset == it->chunk->write) {
        it->chunk = it->chunk->next;
        it->offset = 0;
    }
    if (!it->chunk || it->offset == it->chunk->write)
        return false;
    frame_at(it->chunk, it->offset, ret);
    it->offset += record_size(ret->size);
    return true;
}

void hold_check(const struct hold *q)
{
    struct hold_iter it = {0};
    struct hold_frame frame;
    size_t count = 0, bytes = 0;

    while (hold_next(q, &it, &frame)) {
        count++;
        bytes += frame.size + HOLD_OVERHEAD;
    }
    assert(count == q->count && bytes == q->bytes && bytes <= q->limit);
    assert(!q->first == !q->last);
    for (const struct hold_chunk *c = q->first; c; c = c->next) {
        assert(c->read <= c->write && c->write <= HOLD_CHUNK_SIZE);
        assert(c == q->first || c->read == 0);
        assert(c->read < c->write || (c == q->first && !c->next));
        assert(c->next || c == q->last);
    }
}
