#ifndef COORD_WORKER_H
#define COORD_WORKER_H

/*
 * Threads beside an event loop: a worker runs jobs in order on its own
 * thread, a mailbox brings calls back to the loop's thread.
 */

#include "common/auto.h"

#include <event2/event.h>

typedef void worker_fn(void *arg);

struct worker;
/* Start a thread; the name (15 bytes show) is for debuggers. Aborts when
 * threads are out. */
struct worker *worker_start(const char *name);
/* Queue a job; from any thread. The queue is unbounded: callers post a few
 * jobs an operation, never one a frame or page. */
void worker_post(struct worker *worker, worker_fn *fn, void *arg);
/* Run what is queued, end the thread, free. Blocks. NULL is fine. */
void worker_stop(struct worker *worker);

struct mailbox;
struct mailbox *mailbox_new(struct event_base *base);
/* Run fn(arg) on the loop's thread, in order of the posts; any thread. */
void mailbox_post(struct mailbox *mailbox, worker_fn *fn, void *arg);
/* On the loop's thread, when no other thread posts any more. Posts that were
 * not run yet are run now. NULL is fine. */
void mailbox_free(struct mailbox *mailbox);

#endif
