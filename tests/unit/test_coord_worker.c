/* Workers run jobs in order beside the loop; mailboxes bring calls back. */

#include "coord/worker.h"

#include <event2/thread.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define JOBS 1000

struct order {
    struct event_base *base;
    struct mailbox *mailbox;
    pthread_t loop_thread;
    unsigned ran, came_back;
    int out_of_order, wrong_thread;
};

struct numbered {
    struct order *order;
    unsigned number;
};

static void back_on_loop(void *arg)
{
    struct numbered *job = arg;
    struct order *order = job->order;

    if (job->number != order->came_back++)
        order->out_of_order = 1;
    if (!pthread_equal(pthread_self(), order->loop_thread))
        order->wrong_thread = 1;
    if (order->came_back == JOBS)
        event_base_loopbreak(order->base);
}

static void on_worker(void *arg)
{
    struct numbered *job = arg;

    if (job->number != job->order->ran++)
        job->order->out_of_order = 1;
    if (pthread_equal(pthread_self(), job->order->loop_thread))
        job->order->wrong_thread = 1;
    mailbox_post(job->order->mailbox, back_on_loop, job);
}

static void jobs_run_in_order_and_come_back(void **state)
{
    static struct numbered jobs[JOBS];
    struct order order = {.loop_thread = pthread_self()};
    struct worker *worker;

    (void)state;
    order.base = event_base_new();
    order.mailbox = mailbox_new(order.base);
    worker = worker_start("a name longer than fifteen bytes");
    for (unsigned i = 0; i < JOBS; i++) {
        jobs[i] = (struct numbered){.order = &order, .number = i};
        worker_post(worker, on_worker, &jobs[i]);
    }
    event_base_dispatch(order.base);
    worker_stop(worker);
    mailbox_free(order.mailbox);
    event_base_free(order.base);
    assert_int_equal(order.ran, JOBS);
    assert_int_equal(order.came_back, JOBS);
    assert_false(order.out_of_order);
    assert_false(order.wrong_thread);
}

static void count(void *arg)
{
    ++*(unsigned *)arg;
}

static void stop_runs_what_is_queued(void **state)
{
    struct worker *worker = worker_start("w");
    unsigned ran = 0;

    (void)state;
    for (int i = 0; i < 100; i++)
        worker_post(worker, count, &ran);
    worker_stop(worker);
    assert_int_equal(ran, 100);
    worker_stop(NULL);
}

static void free_runs_what_was_posted(void **state)
{
    struct event_base *base = event_base_new();
    struct mailbox *mailbox = mailbox_new(base);
    unsigned ran = 0;

    (void)state;
    mailbox_post(mailbox, count, &ran);
    mailbox_post(mailbox, count, &ran);
    mailbox_free(mailbox);
    event_base_free(base);
    assert_int_equal(ran, 2);
    mailbox_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(jobs_run_in_order_and_come_back),
        cmocka_unit_test(stop_runs_what_is_queued),
        cmocka_unit_test(free_runs_what_was_posted),
    };

    evthread_use_pthreads();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
