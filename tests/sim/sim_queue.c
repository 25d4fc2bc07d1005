/* Time, events, random numbers, trace: see sim.h. */

#include "tests/sim/sim.h"

#include "common/auto.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_before(const struct sim_event *a, const struct sim_event *b)
{
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->order < b->order;
}

void sim_at(struct sim *s, uint64_t at_ns, sim_fn *fn,
            const struct sim_arg *arg)
{
    struct sim_event event = {
        .at_ns = at_ns, .order = s->order++, .fn = fn, .arg = *arg};
    size_t i;

    if (s->heap_count == s->heap_capacity) {
        s->heap_capacity = s->heap_capacity ? s->heap_capacity * 2 : 1024;
        s->heap = realloc(s->heap, s->heap_capacity * sizeof(*s->heap));
        if (!s->heap)
            abort();
    }
    for (i = s->heap_count++; i > 0; i = (i - 1) / 2) {
        if (!is_before(&event, &s->heap[(i - 1) / 2]))
            break;
        s->heap[i] = s->heap[(i - 1) / 2];
    }
    s->heap[i] = event;
}

void sim_after(struct sim *s, uint64_t wait_ns, sim_fn *fn,
               const struct sim_arg *arg)
{
    sim_at(s, s->now_ns + wait_ns, fn, arg);
}

bool sim_next(struct sim *s, uint64_t until_ns, struct sim_event *ret)
{
    struct sim_event last;
    size_t i = 0, child;

    if (s->heap_count == 0 || s->heap[0].at_ns > until_ns)
        return false;
    *ret = s->heap[0];
    last = s->heap[--s->heap_count];
    while ((child = 2 * i + 1) < s->heap_count) {
        if (child + 1 < s->heap_count &&
            is_before(&s->heap[child + 1], &s->heap[child]))
            child++;
        if (!is_before(&s->heap[child], &last))
            break;
        s->heap[i] = s->heap[child];
        i = child;
    }
    s->heap[i] = last;
    return true;
}

/* xorshift64* (Vigna 2016). */
uint64_t sim_random(struct sim *s)
{
    s->random ^= s->random >> 12;
    s->random ^= s->random << 25;
    s->random ^= s->random >> 27;
    return s->random * UINT64_C(2685821657736338717);
}

uint64_t sim_between(struct sim *s, uint64_t from, uint64_t to)
{
    return from + (sim_random(s) >> 11) % (to - from + 1);
}

bool sim_chance(struct sim *s, unsigned per_mille)
{
    return per_mille > 0 && sim_between(s, 0, 999) < per_mille;
}

void sim_trace_line(struct sim *s, const char *format, ...)
{
    char *line;
    va_list args;
    int size;

    if (!s->trace)
        s->trace = vn_alloc(SIM_TRACE_LINES * sizeof(*s->trace));
    line = s->trace[s->trace_head++ % SIM_TRACE_LINES];
    size = snprintf(line, sizeof(*s->trace), "%10.3f ms  ",
                    (double)s->now_ns / 1e6);
    va_start(args, format);
    vsnprintf(line + size, sizeof(*s->trace) - (size_t)size, format, args);
    va_end(args);
    if (s->tracing_all)
        fprintf(stderr, "%s\n", line);
}

void sim_trace_print(const struct sim *s)
{
    unsigned from =
        s->trace_head > SIM_TRACE_LINES ? s->trace_head - SIM_TRACE_LINES : 0;

    for (unsigned i = from; i < s->trace_head; i++)
        fprintf(stderr, "  %s\n", s->trace[i % SIM_TRACE_LINES]);
}

void sim_fail(struct sim *s, const char *format, ...)
{
    va_list args;

    if (s->failed)
        return;
    s->failed = true;
    va_start(args, format);
    vsnprintf(s->why, sizeof(s->why), format, args);
    va_end(args);
    sim_trace(s, "FAILED: %s", s->why);
}
