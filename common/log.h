#ifndef COMMON_LOG_H
#define COMMON_LOG_H

/*
 * Logs: one line an event on stderr, "LEVEL module: sentence key=value ...".
 *
 * At DEBUG every line begins with the monotonic time in seconds.
 * Libraries log at DEBUG only; daemons' mains and tools/ may use the rest.
 * A data path uses log_limited(), which lets one line a second through and
 * says how many it swallowed. Thread-safe; keeps errno.
 */

#include "common/err.h"

#include <stdint.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* Levels above `level` are dropped. Default LOG_INFO; VN_LOG=debug wins. */
void log_set_level(enum log_level level);

/* A name put before every line, such as "vnagentd[h1]". Copied. */
void log_set_program(const char *name);

struct log_limit {
    uint64_t next_ns;
    uint64_t swallowed;
};

#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_write(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_write(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_DEBUG, __VA_ARGS__)

#define log_limited(level, ...)                                                \
    do {                                                                       \
        static struct log_limit log_limit_here;                                \
        if (log_allowed(&log_limit_here))                                      \
            log_write((level), __VA_ARGS__);                                   \
    } while (0)

void log_write(enum log_level level, const char *format, ...) VN_PRINTF(2, 3);
int log_allowed(struct log_limit *limit);

#endif
