#include "bench_figure.h"

/* Medians, since a shared machine has outliers upwards only; all runs are
 * printed, so that a reader sees how far they lie apart. */

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void runs_add(struct runs *runs, double value)
{
    assert(runs->count < FIGURE_RUNS_MAX);
    runs->values[runs->count++] = value;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

double runs_median(const struct runs *runs)
{
    struct runs sorted = *runs;
    size_t middle = sorted.count / 2;

    if (sorted.count == 0)
        return 0;
    qsort(sorted.values, sorted.count, sizeof(sorted.values[0]), by_value);
    return sorted.count % 2
               ? sorted.values[middle]
               : (sorted.values[middle - 1] + sorted.values[middle]) / 2;
}

void figure_detail(struct figure *f, const char *key, json_t *value)
{
    if (!f->detail)
        f->detail = json_object();
    json_object_set_new(f->detail, key, value);
}

static json_t *runs_json(const struct runs *runs, double factor)
{
    json_t *all = json_array();

    for (size_t i = 0; i < runs->count; i++)
        json_array_append_new(all, json_real(runs->values[i] * factor));
    return all;
}

void figure_print(struct figure *f)
{
    json_t *yardsticks = json_array();
    json_t *line;

    for (size_t i = 0; i < FIGURE_YARDSTICK_MAX; i++) {
        const struct yardstick *y = &f->yardsticks[i];
        double factor = y->factor > 0 ? y->factor : 1;

        if (y->name)
            json_array_append_new(
                yardsticks, json_pack("{ss sf so}", "name", y->name, "value",
                                      runs_median(&y->runs) * factor, "runs",
                                      runs_json(&y->runs, factor)));
    }
    line = json_pack("{ss sf ss so so}", "figure", f->name, "value",
                     runs_median(&f->runs), "unit", f->unit, "runs",
                     runs_json(&f->runs, 1), "yardsticks", yardsticks);
    if (f->detail)
        json_object_set_new(line, "detail", f->detail);
    json_dumpf(line, stdout, JSON_COMPACT | JSON_REAL_PRECISION(8));
    putchar('\n');
    fflush(stdout);
    json_decref(line);
    f->detail = NULL;
}

void die(const char *format, ...)
{
    va_list args;

    fputs("bench_store: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}
