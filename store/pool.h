#ifndef STORE_POOL_H
#define STORE_POOL_H

/*
 * A pool of worker threads for work that is cut into independent tasks: fork,
 * work on all of it, join. All calls may be made from any thread.
 */

#include "common/auto.h"
#include "common/err.h"

#include <stddef.h>

struct pool;

#define POOL_THREADS_MAX 256u

/*
 * How many threads shall work at a time, callers included: what the
 * environment's VNSTORE_THREADS says (1 to POOL_THREADS_MAX), else the number
 * of processors that this process may use.
 */
unsigned pool_threads_wanted(void);

/* A pool of `threads` threads, the caller of pool_run() being one of them. No
 * thread is started before the first run that has use for one. */
struct pool *pool_new(unsigned threads);
/* Ends the threads; no run is going on. NULL is fine. */
void pool_free(struct pool *pool);

/* What pool_new() was told. */
unsigned pool_threads(const struct pool *pool);

/* Task number `i`. It may block on the disk, never on another task. */
typedef int pool_task_fn(void *context, size_t i, struct vn_err *err);

/*
 * Run fn(context, i, err) for every i below `count`, each once, on the workers
 * and on the calling thread, in about rising order, and wait for all of them.
 * Yields the error of one that failed; tasks that were not begun by then are
 * not run. Several threads may have runs at the same time.
 */
int pool_run(struct pool *pool, size_t count, pool_task_fn *fn, void *context,
             struct vn_err *err) VN_MUST_USE;

/*
 * pool_run() of `work`, whose results are put together in order: take(context,
 * i, err) is called for every i below `count`, by rising i, on the calling
 * thread only, after work(context, i, err) has returned 0, and mostly while
 * others work on. With one thread they take turns. Where either fails no
 * further take() is called.
 */
int pool_run_in_order(struct pool *pool, size_t count, pool_task_fn *work,
                      pool_task_fn *take, void *context,
                      struct vn_err *err) VN_MUST_USE;

#endif
