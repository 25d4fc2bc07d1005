#ifndef TESTS_UNIT_SWITCH_BENCH_H
#define TESTS_UNIT_SWITCH_BENCH_H

/* A switch on the bench: its effects are written down to be looked at. */

#include "violin/switch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#define BENCH_LOG_MAX 65536

enum bench_kind { DELIVER, TRANSMIT, MARKER, RECORD, TRIGGER, CLOSED };

struct bench_event {
    enum bench_kind kind;
    unsigned place; /* port or peer */
    uint32_t epoch;
    unsigned number; /* of the frame */
    struct vsw_marker marker;
};

struct bench {
    struct vsw *sw;
    uint64_t now_ns;
    unsigned count;  /* events written */
    unsigned looked; /* events that bench_expect() has passed */
    struct bench_event log[BENCH_LOG_MAX];
};

/* Frames: destination and source MAC by small numbers, then a number. */
#define FRAME_SIZE 64
#define BROADCAST  0xff

static inline void frame_make(uint8_t out[FRAME_SIZE], unsigned to,
                              unsigned from, unsigned number)
{
    memset(out, 0, FRAME_SIZE);
    memset(out, to == BROADCAST ? 0xff : 0, 6);
    if (to != BROADCAST) {
        out[0] = 2;
        out[5] = (uint8_t)to;
    }
    out[6] = 2;
    out[11] = (uint8_t)from;
    memcpy(out + 14, &number, sizeof(number));
}

static inline unsigned frame_number(const void *frame)
{
    unsigned number;

    memcpy(&number, (const uint8_t *)frame + 14, sizeof(number));
    return number;
}

static inline struct bench_event *bench_log(void *context, enum bench_kind kind,
                                            unsigned place, uint32_t epoch)
{
    struct bench *b = context;

    assert_true(b->count < BENCH_LOG_MAX);
    b->log[b->count] =
        (struct bench_event){.kind = kind, .place = place, .epoch = epoch};
    return &b->log[b->count++];
}

static void bench_deliver(void *context, unsigned port, const void *frame,
                          size_t size)
{
    (void)size;
    bench_log(context, DELIVER, port, 0)->number = frame_number(frame);
}
static void bench_transmit(void *context, unsigned peer, uint32_t epoch,
                           const void *frame, size_t size)
{
    (void)size;
    bench_log(context, TRANSMIT, peer, epoch)->number = frame_number(frame);
}
static void bench_marker(void *context, unsigned peer,
                         const struct vsw_marker *marker)
{
    bench_log(context, MARKER, peer, marker->epoch)->marker = *marker;
}
static void bench_record(void *context, unsigned port, uint32_t epoch,
                         const void *frame, size_t size)
{
    (void)size;
    bench_log(context, RECORD, port, epoch)->number = frame_number(frame);
}
static void bench_trigger(void *context, uint32_t epoch)
{
    bench_log(context, TRIGGER, 0, epoch);
}
static void bench_closed(void *context, uint32_t epoch)
{
    bench_log(context, CLOSED, 0, epoch);
}

static const struct vsw_effects bench_effects = {
    bench_deliver, bench_transmit, bench_marker,
    bench_record,  bench_trigger,  bench_closed,
};

/* A switch in `epoch` with so many ports and peers. */
static inline struct bench *bench_new(uint32_t epoch, unsigned ports,
                                      unsigned peers, size_t hold_bytes)
{
    struct bench *b = calloc(1, sizeof(*b));

    assert_non_null(b);
    b->now_ns = 1000000000;
    b->sw = vsw_new(&(struct vsw_opts){.epoch = epoch,
                                       .hold_bytes_per_port = hold_bytes,
                                       .effects = &bench_effects,
                                       .context = b});
    for (unsigned i = 0; i < ports; i++)
        vsw_port_add(b->sw, i, false);
    for (unsigned i = 0; i < peers; i++)
        vsw_peer_add(b->sw, i);
    return b;
}

static inline void bench_free(struct bench *b)
{
    vsw_free(b->sw);
    free(b);
}

static inline void bench_port_sends(struct bench *b, unsigned port, unsigned to,
                                    unsigned from, unsigned number)
{
    uint8_t frame[FRAME_SIZE];

    frame_make(frame, to, from, number);
    vsw_from_port(b->sw, port, frame, sizeof(frame), b->now_ns);
    vsw_check(b->sw);
}

static inline void bench_peer_sends(struct bench *b, unsigned peer,
                                    uint32_t epoch, unsigned to, unsigned from,
                                    unsigned number)
{
    uint8_t frame[FRAME_SIZE];

    frame_make(frame, to, from, number);
    vsw_from_peer(b->sw, peer, epoch, frame, sizeof(frame), b->now_ns);
    vsw_check(b->sw);
}

/* The next event not looked at must be this one. */
static inline struct bench_event *bench_expect(struct bench *b,
                                               enum bench_kind kind,
                                               unsigned place, unsigned number)
{
    struct bench_event *e = &b->log[b->looked];

    if (b->looked >= b->count)
        fail_msg("event %u: none, but kind %d number %u expected", b->looked,
                 kind, number);
    if (e->kind != kind || e->place != place || e->number != number)
        fail_msg("event %u: kind %d place %u number %u; expected %d %u %u",
                 b->looked, e->kind, e->place, e->number, kind, place, number);
    b->looked++;
    return e;
}

/* Nothing else has happened. */
static inline void bench_expect_end(struct bench *b)
{
    if (b->looked < b->count)
        fail_msg("event %u: kind %d place %u number %u was not expected",
                 b->looked, b->log[b->looked].kind, b->log[b->looked].place,
                 b->log[b->looked].number);
}

#endif
