#include "common/log.h"

#include "common/clock.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int level_now = -1; /* -1: not read from the environment yet */
static char program[64];

static int level_from_environment(void)
{
    const char *text = getenv("VN_LOG");

    if (text && strcmp(text, "debug") == 0)
        return LOG_DEBUG;
    if (text && strcmp(text, "warn") == 0)
        return LOG_WARN;
    return LOG_INFO;
}

void log_set_level(enum log_level level)
{
    pthread_mutex_lock(&lock);
    level_now = getenv("VN_LOG") ? level_from_environment() : (int)level;
    pthread_mutex_unlock(&lock);
}

void log_set_program(const char *name)
{
    pthread_mutex_lock(&lock);
    snprintf(program, sizeof(program), "%s: ", name);
    pthread_mutex_unlock(&lock);
}

int log_allowed(struct log_limit *limit)
{
    uint64_t now_ns = clock_now_ns();
    int allowed = 0;

    pthread_mutex_lock(&lock);
    if (now_ns >= limit->next_ns) {
        if (limit->swallowed)
            fprintf(stderr, "%s(%llu lines like the next were left out)\n",
                    program, (unsigned long long)limit->swallowed);
        limit->next_ns = now_ns + VN_SEC;
        limit->swallowed = 0;
        allowed = 1;
    } else {
        limit->swallowed++;
    }
    pthread_mutex_unlock(&lock);
    return allowed;
}

void log_write(enum log_level level, const char *format, ...)
{
    static const char *const names[] = {"error", "warning", "info", "debug"};
    int saved = errno;
    char line[1024];
    va_list args;

    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    pthread_mutex_lock(&lock);
    if (level_now < 0)
        level_now = level_from_environment();
    if (level_now == LOG_DEBUG)
        fprintf(stderr, "%.6f ", (double)clock_now_ns() / 1e9);
    if ((int)level <= level_now)
        fprintf(stderr, "%s%s: %s\n", program, names[level], line);
    pthread_mutex_unlock(&lock);
    errno = saved;
}
