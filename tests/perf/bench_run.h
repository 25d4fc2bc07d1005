#ifndef TESTS_PERF_BENCH_RUN_H
#define TESTS_PERF_BENCH_RUN_H

/* What the measurements of bench_store share: options and small steps. Whatever
 * fails ends the program. */

#include "bench_data.h"
#include "bench_figure.h"
#include "bench_yard.h"

#include "common/clock.h"
#include "common/err.h"

struct bench {
    const char *dir; /* scratch; on the disk that is measured */
    size_t size;     /* bytes of an image */
    unsigned runs;
    long cores;
    uint8_t *image; /* no zero pages */
    uint8_t *other; /* of the same size, for whatever comes */
};

/* MB/s, with MB = 10^6 bytes. */
static inline double bench_rate(double bytes, double seconds)
{
    return seconds > 0 ? bytes / seconds / 1e6 : 0;
}

static inline double bench_since(uint64_t begin_ns)
{
    return (double)(clock_now_ns() - begin_ns) / 1e9;
}

/* Path of a store in the scratch folder; until the next call but one. */
const char *bench_path(const struct bench *b, const char *name);
/* A new store; one of that name from before is removed. */
struct store *bench_new_store(const struct bench *b, const char *name);
struct store *bench_open_store(const struct bench *b, const char *name);
void bench_remove(const struct bench *b, const char *name);

/* How many threads handles that are opened from now on use; 0: as many as there
 * are cores. */
void bench_threads(unsigned count);

struct put_result {
    struct map_root root;
    struct store_counts counts;
    double seconds;        /* from opening the writer until all is durable */
    double commit_seconds; /* of these */
};

/* Put an image, flush, and commit it as `name`; NULL: do not commit. */
struct put_result bench_put(struct store *store, const char *name,
                            const uint8_t *data, size_t size,
                            const struct map_root *parent);

/* Commit one image as a snapshot. */
void bench_commit(struct store *store, const char *name,
                  const struct map_root *root);

/* Read a whole image; seconds. */
double bench_get(struct store *store, const struct map_root *root,
                 uint8_t *data);

/* The measurements. */
void bench_first(const struct bench *b);
void bench_again(const struct bench *b);
void bench_duplicates(const struct bench *b);
void bench_restore(const struct bench *b);
void bench_pages(const struct bench *b);
void bench_gc(const struct bench *b);
void bench_verify(const struct bench *b);

#endif
