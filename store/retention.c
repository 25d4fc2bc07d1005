#include "store/retention.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define HOUR 3600
#define DAY  (24 * HOUR)

static const char *const reason_names[RETENTION_REASONS] = {
    "last", "hourly", "daily", "weekly", "monthly", "unknown"};

const char *retention_reason_name(enum retention_reason reason)
{
    return reason_names[__builtin_ctz((unsigned)reason)];
}

/* ---- time ------------------------------------------------------------- */

bool retention_parse_time(const char *text, int64_t *ret)
{
    static const char form[] = "dddd-dd-ddTdd:dd:ddZ";
    struct tm tm = {0};
    struct tm back;
    time_t seconds;

    if (strlen(text) != sizeof(form) - 1)
        return false;
    for (size_t i = 0; form[i]; i++)
        if (form[i] == 'd' ? text[i] < '0' || text[i] > '9'
                           : text[i] != form[i])
            return false;
    if (sscanf(text, "%4d-%2d-%2dT%2d:%2d:%2dZ", &tm.tm_year, &tm.tm_mon,
               &tm.tm_mday, &tm.tm_hour, &tm.tm_min, &tm.tm_sec) != 6)
        return false;
    tm.tm_year -= 1900;
    tm.tm_mon -= 1;
    back = tm;
    seconds = timegm(&back);
    /* The 31st of February comes back as another day. */
    if (back.tm_year != tm.tm_year || back.tm_mon != tm.tm_mon ||
        back.tm_mday != tm.tm_mday || back.tm_hour != tm.tm_hour ||
        back.tm_min != tm.tm_min || back.tm_sec != tm.tm_sec)
        return false;
    *ret = seconds;
    return true;
}

/* Rounds down, also before 1970. */
static int64_t divide(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

static int64_t hour_of(int64_t t)
{
    return divide(t, HOUR);
}

static int64_t day_of(int64_t t)
{
    return divide(t, DAY);
}

/* 1970-01-01 was a Thursday: three days after a Monday. */
static int64_t week_of(int64_t t)
{
    return divide(day_of(t) + 3, 7);
}

static int64_t month_of(int64_t t)
{
    time_t seconds = (time_t)t;
    struct tm tm = {0};

    gmtime_r(&seconds, &tm);
    return (int64_t)tm.tm_year * 12 + tm.tm_mon;
}

/* ---- rules ------------------------------------------------------------ */

static int newest_first(const void *a, const void *b)
{
    const struct retention_item *x = a;
    const struct retention_item *y = b;

    if (x->has_time != y->has_time)
        return x->has_time ? 1 : -1;
    if (x->has_time && x->time != y->time)
        return x->time > y->time ? -1 : 1;
    return x->seq > y->seq ? -1 : x->seq < y->seq;
}

/* Keep the first item of each of `n` periods. */
static void apply_rule(struct retention_item *items, size_t count, unsigned n,
                       int64_t (*period_of)(int64_t),
                       enum retention_reason reason)
{
    int64_t period = 0;
    bool any = false;

    for (size_t i = 0; i < count && n > 0; i++) {
        int64_t now = items[i].has_time ? period_of(items[i].time) : 0;

        if (!items[i].has_time || (any && now == period))
            continue;
        items[i].reasons |= reason;
        period = now;
        any = true;
        n--;
    }
}

void retention_apply(const struct store_keep *keep,
                     struct retention_item *items, size_t count)
{
    unsigned left = keep->last;

    qsort(items, count, sizeof(*items), newest_first);
    for (size_t i = 0; i < count; i++) {
        items[i].reasons = items[i].has_time ? 0 : KEEP_UNKNOWN;
        if (items[i].has_time && left > 0) {
            items[i].reasons |= KEEP_LAST;
            left--;
        }
    }
    apply_rule(items, count, keep->hourly, hour_of, KEEP_HOURLY);
    apply_rule(items, count, keep->daily, day_of, KEEP_DAILY);
    apply_rule(items, count, keep->weekly, week_of, KEEP_WEEKLY);
    apply_rule(items, count, keep->monthly, month_of, KEEP_MONTHLY);
}
