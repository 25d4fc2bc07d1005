#ifndef TESTS_PERF_BENCH_FIGURE_H
#define TESTS_PERF_BENCH_FIGURE_H

/*
 * One figure of the benchmark: the runs of what is measured, beside those of
 * its yardsticks, which were taken in turn with them. Printed as one JSON line;
 * targets and verdicts are the caller's (bench_targets.py).
 */

#include <jansson.h>
#include <stdarg.h>
#include <stddef.h>

#define FIGURE_RUNS_MAX      15u
#define FIGURE_YARDSTICK_MAX 3u

struct runs {
    double values[FIGURE_RUNS_MAX];
    size_t count;
};

struct figure {
    const char *name;
    const char *unit;
    struct runs runs;
    struct yardstick {
        const char *name; /* NULL: none */
        double factor;    /* its runs are printed times this; 0 is 1 */
        struct runs runs;
    } yardsticks[FIGURE_YARDSTICK_MAX];
    json_t *detail; /* owned, may be NULL: what else was seen */
};

void runs_add(struct runs *runs, double value);
double runs_median(const struct runs *runs); /* 0 where there is none */

/* A fact for `detail`; the last one of a key stays. */
void figure_detail(struct figure *f, const char *key, json_t *value);
/* Print and free what the figure owns. */
void figure_print(struct figure *f);

/* Say why on stderr and exit with 1: a benchmark that goes wrong has no
 * figures. */
_Noreturn void die(const char *format, ...)
    __attribute__((format(printf, 1, 2)));

#endif
