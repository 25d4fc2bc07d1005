#ifndef COMMON_CLOCK_H
#define COMMON_CLOCK_H

/* Time: monotonic nanoseconds inside; the wall clock only in documents. */

#include <stdint.h>

#define VN_MS  1000000ull
#define VN_SEC 1000000000ull

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t clock_now_ns(void);

/* CLOCK_REALTIME in nanoseconds since 1970 (QMP events carry this clock). */
uint64_t clock_wall_ns(void);

/* Wall time as "2026-01-31T12:00:00Z" into out. */
void clock_format_utc(uint64_t wall_ns, char out[32]);

#endif
