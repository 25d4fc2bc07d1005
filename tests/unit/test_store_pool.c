/*
 * The pool of worker threads: each task once, in order where that is asked for,
 * runs within runs, runs of several threads at a time, errors, forks.
 */

#include "store/pool.h"
#include "unit/store_fixture.h"

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>

struct tally {
    atomic_uint runs[1000];
    unsigned fail_at; /* UINT_MAX: never */
    struct pool *pool;
};

static int tally_one(void *context, size_t i, struct vn_err *err)
{
    struct tally *t = context;

    atomic_fetch_add(&t->runs[i], 1);
    return i == t->fail_at ? vn_fail(err, VN_E_STATE, "task %zu", i) : 0;
}

static void check_tally(const struct tally *t, size_t count)
{
    for (size_t i = 0; i < count; i++)
        assert_int_equal(atomic_load(&t->runs[i]), 1);
}

static int tally_nested(void *context, size_t i, struct vn_err *err)
{
    struct tally *outer = context;
    struct tally inner = {.fail_at = UINT_MAX};

    atomic_fetch_add(&outer->runs[i], 1);
    return pool_run(outer->pool, 20, tally_one, &inner, err);
}

static void *tally_main(void *arg)
{
    struct tally *outer = arg;
    struct tally t = {.fail_at = UINT_MAX};
    struct vn_err err = VN_ERR_INIT;

    for (unsigned round = 0; round < 20; round++) {
        memset(t.runs, 0, sizeof(t.runs));
        if (pool_run(outer->pool, 1000, tally_one, &t, &err) < 0)
            return arg;
        for (size_t i = 0; i < 1000; i++)
            if (atomic_load(&t.runs[i]) != 1)
                return arg;
    }
    return NULL;
}

static void test_pool(void **state)
{
    struct tally t = {.fail_at = UINT_MAX};
    struct vn_err err = VN_ERR_INIT;
    pthread_t threads[3];
    void *failed;

    (void)state;
    t.pool = pool_new(pool_threads_wanted());
    assert_ok(pool_run(t.pool, 0, tally_one, &t, &err), &err);
    assert_ok(pool_run(t.pool, 1000, tally_one, &t, &err), &err);
    check_tally(&t, 1000);
    memset(t.runs, 0, sizeof(t.runs));
    assert_ok(pool_run(t.pool, 30, tally_nested, &t, &err), &err);
    check_tally(&t, 30);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, tally_main, &t), 0);
    for (unsigned i = 0; i < 3; i++) {
        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
    memset(t.runs, 0, sizeof(t.runs));
    t.fail_at = 10;
    assert_int_equal(pool_run(t.pool, 1000, tally_one, &t, &err), -1);
    assert_string_equal(err.msg, "task 10");
    pool_free(t.pool);
}

/* What was not begun when a task failed is not run. With one thread it is
 * known what that is. */
static void test_pool_stops(void **state)
{
    struct tally t = {.fail_at = 10};
    struct vn_err err = VN_ERR_INIT;

    (void)state;
    t.pool = pool_new(1);
    assert_int_equal(pool_run(t.pool, 1000, tally_one, &t, &err), -1);
    assert_string_equal(err.msg, "task 10");
    for (unsigned i = 0; i < 1000; i++)
        assert_int_equal(atomic_load(&t.runs[i]), i <= 10);
    pool_free(t.pool);
}

struct row {
    struct tally work;
    size_t taken;
    size_t refuse; /* SIZE_MAX: none */
    pthread_t caller;
};

static int row_work(void *context, size_t i, struct vn_err *err)
{
    struct row *row = context;
    volatile unsigned spin = i % 7 == 0 ? 20000 : 0; /* some take long */

    while (spin)
        spin--;
    return tally_one(&row->work, i, err);
}

static int row_take(void *context, size_t i, struct vn_err *err)
{
    struct row *row = context;

    assert_true(pthread_equal(row->caller, pthread_self()));
    assert_int_equal(i, row->taken);
    assert_int_equal(atomic_load(&row->work.runs[i]), 1);
    if (i == row->refuse)
        return vn_fail(err, VN_E_LIMIT, "result %zu", i);
    row->taken++;
    return 0;
}

static void test_pool_in_order(void **state)
{
    struct row row = {.work = {.fail_at = UINT_MAX},
                      .refuse = SIZE_MAX,
                      .caller = pthread_self()};
    struct pool *pool = pool_new(pool_threads_wanted());
    struct vn_err err = VN_ERR_INIT;

    (void)state;
    assert_ok(pool_run_in_order(pool, 0, row_work, row_take, &row, &err), &err);
    assert_ok(pool_run_in_order(pool, 1000, row_work, row_take, &row, &err),
              &err);
    assert_int_equal(row.taken, 1000);
    row = (struct row){
        .work = {.fail_at = UINT_MAX}, .refuse = 100, .caller = pthread_self()};
    assert_int_equal(
        pool_run_in_order(pool, 1000, row_work, row_take, &row, &err), -1);
    assert_string_equal(err.msg, "result 100");
    assert_int_equal(row.taken, 100);
    row = (struct row){
        .work = {.fail_at = 50}, .refuse = SIZE_MAX, .caller = pthread_self()};
    assert_int_equal(
        pool_run_in_order(pool, 1000, row_work, row_take, &row, &err), -1);
    assert_string_equal(err.msg, "task 50");
    assert_true(row.taken <= 50);
    pool_free(pool);
}

/* A child has no workers: its runs are done all the same. */
static void test_pool_after_fork(void **state)
{
    struct tally t = {.fail_at = UINT_MAX};
    struct pool *pool = pool_new(pool_threads_wanted());
    struct vn_err err = VN_ERR_INIT;
    int status;

    (void)state;
    assert_ok(pool_run(pool, 100, tally_one, &t, &err), &err);
    if (fork() == 0) {
        int result = pool_run(pool, 100, tally_one, &t, &err);

        for (unsigned i = 0; i < 100; i++)
            if (atomic_load(&t.runs[i]) != 2)
                result = -1;
        pool_free(pool);
        _exit(result == 0 ? 0 : 1);
    }
    assert_true(wait(&status) > 0);
    assert_int_equal(status, 0);
    pool_free(pool);
}

static void test_threads_wanted(void **state)
{
    const char *before = getenv("VNSTORE_THREADS");

    (void)state;
    assert_int_equal(pool_threads_wanted(), atoi(before));
    setenv("VNSTORE_THREADS", "100000", 1);
    assert_int_equal(pool_threads_wanted(), POOL_THREADS_MAX);
    setenv("VNSTORE_THREADS", "many", 1);
    assert_in_range(pool_threads_wanted(), 1, POOL_THREADS_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pool),
        cmocka_unit_test(test_pool_stops),
        cmocka_unit_test(test_pool_in_order),
        cmocka_unit_test(test_pool_after_fork),
        cmocka_unit_test(test_threads_wanted), /* changes the variable */
    };

    return run_by_threads(tests, VN_COUNT(tests));
}
