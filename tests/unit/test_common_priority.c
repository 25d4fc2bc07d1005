/* Threads become urgent and calm again; needs the right to. */

#include "common/priority.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static atomic_int vcpu;
static atomic_bool leave;

static void need_right(void)
{
    if (!priority_urgent_self()) {
        print_message("no right to real-time priority\n");
        skip();
    }
    assert_true(priority_calm_self(0));
}

static void *idle(void *arg)
{
    vcpu = gettid();
    while (!leave)
        usleep(1000);
    return arg;
}

static void a_process_becomes_urgent_and_calm(void **state)
{
    pthread_t thread;

    (void)state;
    need_right();
    pthread_create(&thread, NULL, idle, NULL);
    while (!vcpu)
        usleep(1000);
    assert_true(priority_urgent_process(getpid()));
    assert_int_equal(sched_getscheduler(getpid()), SCHED_FIFO);
    assert_int_equal(sched_getscheduler(vcpu), SCHED_RR);
    assert_true(priority_calm_process(getpid(), 0));
    assert_int_equal(sched_getscheduler(getpid()), SCHED_OTHER);
    assert_int_equal(sched_getscheduler(vcpu), SCHED_OTHER);
    assert_int_equal(priority_nice(vcpu), 0);
    assert_int_equal(priority_nice(0), 0);
    leave = true;
    pthread_join(thread, NULL);
}

/* A VM started by an urgent thread must not be real-time. */
static void children_of_an_urgent_thread_are_ordinary(void **state)
{
    int status;
    pid_t child;

    (void)state;
    need_right();
    assert_true(priority_urgent_self());
    child = fork();
    if (child == 0)
        _exit(sched_getscheduler(0) == SCHED_OTHER ? 0 : 1);
    assert_true(priority_calm_self(0));
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

static void a_process_that_is_not_there(void **state)
{
    (void)state;
    assert_false(priority_urgent_process(0x7ffffffe));
    assert_false(priority_calm_process(0x7ffffffe, 0));
    assert_int_equal(priority_nice(0x7ffffffe), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_process_becomes_urgent_and_calm),
        cmocka_unit_test(children_of_an_urgent_thread_are_ordinary),
        cmocka_unit_test(a_process_that_is_not_there),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
