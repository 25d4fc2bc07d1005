#ifndef CAPTURE_XEN_POLICY_H
#define CAPTURE_XEN_POLICY_H

/*
 * When a live copy of a domain's memory has gone far enough.
 *
 * libxc copies in passes, each of the pages dirtied during the one before, and
 * asks before and after each what to do. Its own rule stops at 50 pages or
 * five passes; this one asks how long the pages that are left would keep the
 * domain standing, measured by the speed of the passes so far: passes go on
 * until that is within a budget, or does not get better. From then on the set
 * is kept small, pass by pass with pauses between, until the stop is wanted.
 * (Rationale: Clark et al., NSDI 2005, section 5.1: stop by the writable
 * working set, not by a count.)
 *
 * Pure: no clock, no Xen. Times are monotonic nanoseconds.
 */

#include <stdbool.h>
#include <stdint.h>

enum xen_policy_answer {
    XEN_POLICY_GO_ON, /* another pass */
    XEN_POLICY_WAIT,  /* nothing to gain now: wait, then ask again */
    XEN_POLICY_STOP,  /* suspend the domain */
};

struct xen_policy {
    uint64_t budget_ns;    /* time to copy the last set */
    uint64_t memory_pages; /* what the first pass copies */

    uint64_t clean_ns;       /* when the dirty log was last emptied */
    uint64_t pass_began_ns;  /* of the pass under way */
    uint64_t pass_pages;     /* in it */
    uint64_t pass_ns;        /* what the last one took */
    uint64_t previous_pages; /* in the one before */
    double page_ns;          /* to copy one */
    double dirty_per_s;      /* pages that the domain writes to */
    unsigned passes;         /* begun */
    unsigned passes_stopping;
    bool is_converged;
};

void xen_policy_init(struct xen_policy *policy, uint64_t memory_pages,
                     uint64_t budget_ns);

/* The log was emptied just now and names `dirty` pages (before the first pass:
 * any number). STOP means: copy these while it runs, then suspend. Never
 * WAIT. */
enum xen_policy_answer xen_policy_before_pass(struct xen_policy *policy,
                                              uint64_t dirty, bool stop_wanted,
                                              uint64_t now_ns);
/* The pass was copied. STOP means: suspend at once. WAIT: at most
 * *ret_wait_ns, or until a stop is wanted; then ask again (in the first case,
 * just go on). */
enum xen_policy_answer xen_policy_after_pass(struct xen_policy *policy,
                                             bool stop_wanted, uint64_t now_ns,
                                             uint64_t *ret_wait_ns);

/* Small, or as small as it gets: a stop makes sense now. */
bool xen_policy_is_converged(const struct xen_policy *policy);
/* How long the domain would stand for copying, if it were stopped now. */
uint64_t xen_policy_predicted_ns(const struct xen_policy *policy,
                                 uint64_t now_ns);

#endif
