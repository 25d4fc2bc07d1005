/*
 * When to stop: see the header. Two numbers are kept: the price of copying a
 * page, from passes large enough to tell, and how fast pages get dirty, from
 * what the log named over the time it was filled.
 */
#include "capture/xen_policy.h"

#include "common/clock.h"

#define PASSES_MAX          12 /* before it is as small as it gets */
#define PASSES_STOPPING_MAX 3  /* after a stop was wanted */
/* With fewer in it, a pass costs what it costs to have one: it neither tells
 * the price of a page nor makes the pause shorter. */
#define PAGES_TELLING 512
#define PAGE_NS_FIRST 2000 /* until one was measured */
#define WAIT_MIN_NS   (20 * VN_MS)
#define WAIT_MAX_NS   (200 * VN_MS)

void xen_policy_init(struct xen_policy *policy, uint64_t memory_pages,
                     uint64_t budget_ns)
{
    *policy = (struct xen_policy){.budget_ns = budget_ns,
                                  .memory_pages = memory_pages,
                                  .page_ns = PAGE_NS_FIRST};
}

static bool is_small(const struct xen_policy *policy, double pages,
                     unsigned budgets)
{
    return pages < PAGES_TELLING ||
           pages * policy->page_ns <= (double)policy->budget_ns * budgets;
}

static double expected_dirty(const struct xen_policy *policy, uint64_t now_ns)
{
    return policy->dirty_per_s * (double)(now_ns - policy->clean_ns) / VN_SEC;
}

static void measure_dirtying(struct xen_policy *policy, uint64_t dirty,
                             uint64_t now_ns)
{
    uint64_t span_ns = now_ns - policy->clean_ns;
    double rate =
        (double)dirty * VN_SEC / (double)(span_ns ? span_ns : UINT64_C(1));

    policy->dirty_per_s =
        policy->passes < 2 ? rate : (policy->dirty_per_s + rate) / 2;
}

enum xen_policy_answer xen_policy_before_pass(struct xen_policy *policy,
                                              uint64_t dirty, bool stop_wanted,
                                              uint64_t now_ns)
{
    bool shrinks, is_first = policy->passes == 0;

    if (is_first)
        dirty = policy->memory_pages;
    else
        measure_dirtying(policy, dirty, now_ns);
    /* By an eighth at least, or it is not worth a pass. */
    shrinks = is_first || dirty < policy->pass_pages / 8 * 7;
    policy->previous_pages = policy->pass_pages;
    policy->pass_pages = dirty;
    policy->pass_began_ns = now_ns;
    policy->clean_ns = now_ns;
    policy->passes++;
    if (!is_first && (is_small(policy, (double)dirty, 1) || !shrinks ||
                      policy->passes > PASSES_MAX))
        policy->is_converged = true;
    if (!stop_wanted || is_first)
        return XEN_POLICY_GO_ON;
    policy->passes_stopping++;
    if (is_small(policy, (double)dirty, 4) || !shrinks ||
        policy->passes_stopping >= PASSES_STOPPING_MAX)
        return XEN_POLICY_STOP;
    return XEN_POLICY_GO_ON;
}

enum xen_policy_answer xen_policy_after_pass(struct xen_policy *policy,
                                             bool stop_wanted, uint64_t now_ns,
                                             uint64_t *ret_wait_ns)
{
    double wait_ns;

    /* Asked twice about one pass, the second time is not the pass's. */
    if (policy->pass_began_ns) {
        policy->pass_ns = now_ns - policy->pass_began_ns;
        if (policy->pass_pages >= PAGES_TELLING)
            policy->page_ns =
                (double)policy->pass_ns / (double)policy->pass_pages;
    }
    policy->pass_began_ns = 0;
    if (stop_wanted) {
        if (is_small(policy, expected_dirty(policy, now_ns), 1) ||
            policy->passes_stopping >= PASSES_STOPPING_MAX)
            return XEN_POLICY_STOP;
        return XEN_POLICY_GO_ON;
    }
    if (!policy->is_converged)
        return XEN_POLICY_GO_ON;
    /* As long as what gets dirty meanwhile is half the budget. */
    wait_ns = policy->dirty_per_s > 1
                  ? (double)policy->budget_ns / 2 / policy->page_ns /
                        policy->dirty_per_s * VN_SEC
                  : WAIT_MAX_NS;
    if (wait_ns < (double)(2 * policy->pass_ns)) /* leave the host some time */
        wait_ns = (double)(2 * policy->pass_ns);
    if (wait_ns > WAIT_MAX_NS)
        wait_ns = WAIT_MAX_NS;
    if (wait_ns < WAIT_MIN_NS)
        wait_ns = WAIT_MIN_NS;
    *ret_wait_ns = (uint64_t)wait_ns;
    return XEN_POLICY_WAIT;
}

bool xen_policy_is_converged(const struct xen_policy *policy)
{
    return policy->is_converged;
}

uint64_t xen_policy_predicted_ns(const struct xen_policy *policy,
                                 uint64_t now_ns)
{
    return (uint64_t)(expected_dirty(policy, now_ns) * policy->page_ns);
}
