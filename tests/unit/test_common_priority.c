/* Threads of a process raised and put back; needs the right to raise. */

#include "common/priority.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

static atomic_int tid;
static atomic_bool leave;

static void *idle(void *arg)
{
    tid = gettid();
    while (!leave)
        usleep(1000);
    return arg;
}

static void all_threads_are_raised_and_put_back(void **state)
{
    int before = priority_get(getpid());
    pthread_t thread;

    (void)state;
    if (!priority_set_self(PRIORITY_HURRY)) {
        print_message("no right to raise priorities\n");
        skip();
    }
    assert_true(priority_set_self(before));
    pthread_create(&thread, NULL, idle, NULL);
    while (!tid)
        usleep(1000);
    assert_true(priority_set_process(getpid(), PRIORITY_HURRY));
    assert_int_equal(priority_get(tid), PRIORITY_HURRY);
    assert_int_equal(priority_get(0), PRIORITY_HURRY);
    assert_true(priority_set_process(getpid(), before));
    assert_int_equal(priority_get(tid), before);
    assert_int_equal(priority_get(0), before);
    leave = true;
    pthread_join(thread, NULL);
}

static void a_process_that_is_not_there(void **state)
{
    (void)state;
    assert_false(priority_set_process(0x7ffffffe, 5));
    assert_int_equal(priority_get(0x7ffffffe), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_threads_are_raised_and_put_back),
        cmocka_unit_test(a_process_that_is_not_there),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
