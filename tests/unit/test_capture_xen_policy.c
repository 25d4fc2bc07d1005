/* capture/xen_policy.h against simulated domains: a page costs what it costs,
 * so many get dirty a second, up to a working set. */
#include "capture/xen_policy.h"

#include "common/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

#include <cmocka.h>

#define MEMORY_PAGES 100000u
#define BUDGET_NS    (3 * VN_MS)
#define PASSES_LIMIT 2000

struct domain {
    double page_ns;       /* to copy one */
    double fixed_ns;      /* of a pass */
    double dirty_per_s;   /* pages touched */
    uint64_t working_set; /* not more than these */
};

struct run {
    unsigned passes;
    uint64_t waited_ns;
    uint64_t left;       /* dirty pages when the domain was stopped */
    uint64_t to_stop_ns; /* from the wish to the stop */
    bool stopped;
};

static uint64_t dirtied(const struct domain *d, uint64_t ns)
{
    double pages = d->dirty_per_s * (double)ns / VN_SEC;

    return pages > (double)d->working_set ? d->working_set : (uint64_t)pages;
}

/* As libxc does it; the stop is wanted at stop_ns, or `after` waits. */
static struct run simulate(const struct domain *d, uint64_t stop_ns)
{
    struct xen_policy policy;
    struct run run = {.passes = 0};
    uint64_t now_ns = VN_SEC, clean_ns = now_ns, dirty = MEMORY_PAGES;

    xen_policy_init(&policy, MEMORY_PAGES, BUDGET_NS);
    stop_ns += now_ns;
    while (run.passes < PASSES_LIMIT) {
        uint64_t wait_ns = 0;
        enum xen_policy_answer answer = xen_policy_before_pass(
            &policy, run.passes ? dirty : 12345678, now_ns >= stop_ns, now_ns);

        assert_int_not_equal(answer, XEN_POLICY_WAIT);
        clean_ns = now_ns;
        now_ns += (uint64_t)(d->fixed_ns + (double)dirty * d->page_ns);
        run.passes++;
        if (answer == XEN_POLICY_GO_ON) {
            answer = xen_policy_after_pass(&policy, now_ns >= stop_ns, now_ns,
                                           &wait_ns);
        }
        if (answer == XEN_POLICY_WAIT) {
            bool wanted = now_ns + wait_ns >= stop_ns;

            assert_true(xen_policy_is_converged(&policy));
            assert_true(wait_ns >= VN_MS && wait_ns <= VN_SEC);
            if (wanted)
                wait_ns = stop_ns > now_ns ? stop_ns - now_ns : 0;
            now_ns += wait_ns;
            run.waited_ns += wait_ns;
            answer =
                wanted ? xen_policy_after_pass(&policy, true, now_ns, &wait_ns)
                       : XEN_POLICY_GO_ON;
            assert_int_not_equal(answer, XEN_POLICY_WAIT);
        }
        dirty = dirtied(d, now_ns - clean_ns);
        if (answer == XEN_POLICY_STOP) {
            run.left = dirty;
            run.to_stop_ns = now_ns - stop_ns;
            run.stopped = true;
            assert_true(now_ns >= stop_ns);
            return run;
        }
    }
    return run;
}

/* A quiet domain: a few passes, then mostly waiting, and a stop at once. */
static void test_idle(void **state)
{
    const struct domain d = {1000, 1e6, 200, 2000};
    struct run run = simulate(&d, 5 * VN_SEC);

    (void)state;
    assert_true(run.stopped);
    assert_true(run.passes < 40);
    assert_true(run.waited_ns > 4 * VN_SEC);
    assert_true((double)run.left * d.page_ns <= 2 * BUDGET_NS);
    assert_true(run.to_stop_ns < 10 * VN_MS);
}

/* A busy one with a working set that can be copied faster than it is
 * written: what is left is small. */
static void test_busy(void **state)
{
    const struct domain d = {1000, 1e6, 50000, 60000};
    struct run run = simulate(&d, 3 * VN_SEC);

    (void)state;
    assert_true(run.stopped);
    assert_true((double)run.left * d.page_ns <= 4 * BUDGET_NS);
    assert_true(run.to_stop_ns < 100 * VN_MS);
}

/* One that writes faster than it can be copied: it never converges to the
 * budget, but it ends, and what is left is no more than its working set. */
static void test_hopeless(void **state)
{
    const struct domain d = {2000, 1e6, 1e7, 30000};
    struct run run = simulate(&d, 2 * VN_SEC);

    (void)state;
    assert_true(run.stopped);
    assert_true(run.left <= d.working_set);
    assert_true(run.to_stop_ns < 500 * VN_MS);
}

/* Software emulation: passes cost what they cost, however few pages; another
 * one must not be thought to help. */
static void test_fixed_cost(void **state)
{
    const struct domain d = {70000, 30e6, 1000, 3000};
    struct run run = simulate(&d, 30 * VN_SEC);

    (void)state;
    assert_true(run.stopped);
    assert_true(run.to_stop_ns < 100 * VN_MS);
    assert_true(run.waited_ns > 5 * VN_SEC);
}

/* Wanted before the first pass is through: all of the memory is copied while
 * it runs all the same. */
static void test_stop_at_once(void **state)
{
    const struct domain d = {1000, 1e6, 200, 2000};
    struct run run = simulate(&d, 0);

    (void)state;
    assert_true(run.stopped);
    assert_true(run.passes >= 1 && run.passes <= 3);
    assert_true(run.left <= d.working_set);
}

static void test_predicted(void **state)
{
    struct xen_policy policy;
    uint64_t wait_ns;

    (void)state;
    xen_policy_init(&policy, 1000, BUDGET_NS);
    assert_int_equal(xen_policy_predicted_ns(&policy, 5), 0);
    (void)xen_policy_before_pass(&policy, 1000, false, VN_SEC);
    (void)xen_policy_after_pass(&policy, false, VN_SEC + 10 * VN_MS, &wait_ns);
    /* 10 us a page; 600 pages in 10 ms */
    (void)xen_policy_before_pass(&policy, 600, false, VN_SEC + 10 * VN_MS);
    (void)xen_policy_after_pass(&policy, false, VN_SEC + 16 * VN_MS, &wait_ns);
    assert_in_range(xen_policy_predicted_ns(&policy, VN_SEC + 20 * VN_MS),
                    5900000, 6100000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_idle),         cmocka_unit_test(test_busy),
        cmocka_unit_test(test_hopeless),     cmocka_unit_test(test_fixed_cost),
        cmocka_unit_test(test_stop_at_once), cmocka_unit_test(test_predicted),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
