#ifndef STORE_RETENTION_H
#define STORE_RETENTION_H

/*
 * Which snapshots of a series to keep. Pure: no store, no clock.
 *
 * Snapshots are ordered by the time in their manifest, then by seq. Rules
 * look at all snapshots, newest first, each for itself; a snapshot stays if at
 * least one rule keeps it:
 *
 *     last      the N newest
 *     hourly    the newest of each of the N latest hours that have any
 *     daily, weekly, monthly   likewise; weeks begin on Monday (ISO 8601)
 *
 * Hours, days, weeks and months are those of UTC, so that the answer depends
 * neither on the host nor on daylight saving. (The rules are restic's.)
 *
 * A snapshot whose time is not known stays, and counts for no rule.
 */

#include "store/store.h"

#include <stddef.h>

enum retention_reason {
    KEEP_LAST = 1u << 0,
    KEEP_HOURLY = 1u << 1,
    KEEP_DAILY = 1u << 2,
    KEEP_WEEKLY = 1u << 3,
    KEEP_MONTHLY = 1u << 4,
    KEEP_UNKNOWN = 1u << 5, /* its time is not known */
};
#define RETENTION_REASONS 6u

/* "last", "hourly", ..., "unknown"; for one reason. */
const char *retention_reason_name(enum retention_reason reason);

struct retention_item {
    uint64_t seq; /* order of the commits */
    int64_t time; /* seconds since 1970, UTC */
    bool has_time;
    unsigned reasons; /* set by retention_apply(): 0 means delete */
    size_t number;    /* the caller's */
};

/* Sort the items, newest first (those without a time come first), and set the
 * reasons of each. */
void retention_apply(const struct store_keep *keep,
                     struct retention_item *items, size_t count);

/* Read "2026-01-31T12:00:00Z". False: it is nothing of that form. */
bool retention_parse_time(const char *text, int64_t *ret);

#endif
