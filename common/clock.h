#ifndef COMMON_CLOCK_H
#define COMMON_CLOCK_H

/* Time: monotonic nanoseconds inside; the wall clock only in documents. */

#include <stdint.h>

#define VN_MS  UINT64_C(1000000)
#define VN_SEC UINT64_C(1000000000)

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t clock_now_ns(void);

/* CLOCK_REALTIME in nanoseconds since 1970 (QMP events carry this clock). */
uint64_t clock_wall_ns(void);

/* Wall time as "2026-01-31T12:00:00Z" into out. */
void clock_format_utc(uint64_t wall_ns, char out[32]);

#endif
