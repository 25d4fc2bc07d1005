/*
 * A run: from a seed to a verdict.
 *
 * Half of the seeds have a clean underlay, half lose, double or reorder
 * frames. With process faults a run has several cuts with crashes, stalls and
 * broken connections around them; then everything is repaired, and after a
 * while a last cut must commit: no fault may leave the network unable to.
 */

#include "tests/sim/sim.h"

#include <stdlib.h>
#include <string.h>

#define REST_NS    (3000 * SIM_MS) /* for the longest lease and stall */
#define QUIESCE_NS (60 * SIM_MS)

const char *sim_mutant_name(enum sim_mutant mutant)
{
    static const char *const names[SIM_MUTANT_COUNT] = {
        [SIM_MUTANT_NONE] = "none",
        [SIM_MUTANT_FUTURE] = "future",
        [SIM_MUTANT_NO_RECORD] = "no-record",
        [SIM_MUTANT_RECORD_TWICE] = "record-twice",
        [SIM_MUTANT_NO_HOLD] = "no-hold",
        [SIM_MUTANT_NO_STOP] = "no-stop",
        [SIM_MUTANT_NO_DRAIN] = "no-drain",
        [SIM_MUTANT_NO_RELEASE] = "no-release",
        [SIM_MUTANT_NO_CLOSE] = "no-close",
        [SIM_MUTANT_SAVED_EARLY] = "saved-early",
        [SIM_MUTANT_SAVED_FAILED] = "saved-failed",
        [SIM_MUTANT_NO_RESUME] = "no-resume",
        [SIM_MUTANT_NO_WATCHDOG] = "no-watchdog",
        [SIM_MUTANT_NO_GUARD] = "no-guard",
        [SIM_MUTANT_DEAF_TO_LOSS] = "deaf-to-loss",
    };

    return names[mutant];
}

/* ---- the world ---------------------------------------------------------- */

static void draw_config(struct sim *s, bool process_faults)
{
    static const uint32_t epochs[] = {0, 1, 0x7ffffffe, 0xfffffffd, 0xffffffff};
    struct sim_config *c = &s->config;

    c->process_faults = process_faults;
    c->noisy_underlay = sim_chance(s, 500);
    c->host_count = (unsigned)sim_between(s, 1, SIM_HOSTS_MAX);
    c->first_epoch = epochs[sim_between(s, 0, 4)];
    c->underlay_ns = sim_between(s, 5 * SIM_US, 1 * SIM_MS);
    c->underlay_jitter_ns = sim_between(s, 1 * SIM_US, 3 * SIM_MS);
    c->control_ns = sim_between(s, 20 * SIM_US, 5 * SIM_MS);
    c->vm_op_ns = sim_between(s, 50 * SIM_US, 2 * SIM_MS);
    c->tx_ns =
        sim_between(s, 2 * SIM_US, sim_chance(s, 200) ? SIM_MS : 40 * SIM_US);
    c->send_every_ns = sim_between(s, 20 * SIM_US, 200 * SIM_US);
    c->read_ns = sim_between(s, 1 * SIM_US, 60 * SIM_US);
    c->settle_ns = sim_chance(s, 100) ? 20 * SIM_US : 20 * SIM_MS;
    c->close_ns = 40 * SIM_MS;
    c->patience_ns = 120 * SIM_MS;
    c->hold_bytes = sim_chance(s, 30) ? 400 : 1u << 20;
    c->broadcast = (unsigned)sim_between(s, 0, 400);
    c->stop_mode = sim_chance(s, 300);
    c->close_after_markers = sim_chance(s, 700);
    c->guard_by_machine = sim_chance(s, 500);
    c->cuts = (unsigned)sim_between(s, 1, process_faults ? 4 : 3);
    if (c->noisy_underlay) {
        c->loss = sim_chance(s, 600) ? (unsigned)sim_between(s, 1, 200) : 0;
        c->duplication =
            sim_chance(s, 300) ? (unsigned)sim_between(s, 1, 200) : 0;
        c->reordering =
            sim_chance(s, 500) ? (unsigned)sim_between(s, 1, 300) : 0;
    }
    if (process_faults && sim_chance(s, 300))
        c->fail = (unsigned)sim_between(s, 1, 30);
}

static void build(struct sim *s)
{
    for (unsigned i = 0; i < s->config.host_count; i++) {
        struct sim_host *h = &s->hosts[i];

        h->sim = s;
        h->index = i;
        h->first_vm = s->vm_count;
        h->vm_count = (unsigned)sim_between(s, 0, SIM_HOST_VMS_MAX);
        if (i + 1 == s->config.host_count && s->vm_count + h->vm_count < 2)
            h->vm_count = 2;
        h->highest_epoch = s->config.first_epoch;
        for (unsigned peer = 0; peer < SIM_HOSTS_MAX; peer++)
            h->marked[peer] = s->config.first_epoch;
        for (unsigned v = 0; v < h->vm_count; v++) {
            s->vms[s->vm_count].host = i;
            s->vms[s->vm_count++].port = v;
        }
    }
    for (unsigned i = 0; i < s->config.host_count; i++) {
        sim_switch_up(s, i);
        sim_agent_up(s, i);
    }
    s->traffic = true;
    for (unsigned i = 0; i < s->vm_count; i++)
        sim_vm_start_traffic(s, i);
}

static void run_until(struct sim *s, uint64_t until_ns,
                      bool (*is_over)(const struct sim *s))
{
    struct sim_event event;

    while (!s->failed && !(is_over && is_over(s)) &&
           sim_next(s, until_ns, &event)) {
        s->now_ns = event.at_ns;
        s->stats.events++;
        event.fn(s, &event.arg);
    }
    if (!s->failed && !(is_over && is_over(s)))
        s->now_ns = until_ns;
}

static bool is_quiet(const struct sim *s)
{
    if (sim_coord_busy(s))
        return false;
    for (unsigned i = 0; i < s->config.host_count; i++)
        if (s->hosts[i].cut.state != CUT_AGENT_IDLE)
            return false;
    return true;
}

/* ---- faults ------------------------------------------------------------- */

static void agent_again(struct sim *s, const struct sim_arg *arg)
{
    sim_agent_up(s, arg->who);
}

static void switch_again(struct sim *s, const struct sim_arg *arg)
{
    sim_switch_up(s, arg->who);
}

static void stall(struct sim *s, unsigned host)
{
    s->hosts[host].stalled_until_ns =
        s->now_ns + sim_between(s, 1, 250 * SIM_MS);
    sim_trace(s, "host %u: agent stalls for %.3f ms", host,
              (double)(s->hosts[host].stalled_until_ns - s->now_ns) / 1e6);
}

void sim_fault(struct sim *s, const struct sim_arg *arg)
{
    unsigned host = arg->who;
    unsigned coord = s->coord_count - 1;

    if (s->calm)
        return;
    switch (sim_between(s, 0, 11)) {
    case 0:
    case 1:
        sim_coord_crash(s, coord);
        return;
    case 2:
    case 3:
        sim_conn_break(s, coord, host);
        return;
    case 4:
    case 5:
    case 6:
        sim_agent_crash(s, host);
        sim_after(s, sim_between(s, 2 * SIM_MS, 100 * SIM_MS), agent_again,
                  &(struct sim_arg){.who = host});
        return;
    case 7:
    case 8:
        stall(s, host);
        return;
    case 9:
    case 10:
        sim_switch_crash(s, host);
        sim_after(s, sim_between(s, 2 * SIM_MS, 60 * SIM_MS), switch_again,
                  &(struct sim_arg){.who = host});
        return;
    default:
        if (s->hosts[host].vm_count > 0 && sim_chance(s, 300))
            sim_vm_die(s, s->hosts[host].first_vm);
        return;
    }
}

static void draw_faults(struct sim *s)
{
    unsigned count = (unsigned)sim_between(s, 0, 2);
    uint64_t span_ns = 4 * s->config.control_ns + 30 * s->config.vm_op_ns;

    if (!s->config.process_faults)
        return;
    while (count-- > 0) {
        unsigned host = (unsigned)sim_between(s, 0, s->config.host_count - 1);

        if (sim_chance(s, 500))
            s->hosts[host].trap =
                (int)sim_between(s, CUT_AGENT_PREPARING, CUT_AGENT_ABORTING);
        else
            sim_after(s, sim_between(s, 1, span_ns), sim_fault,
                      &(struct sim_arg){.who = host});
    }
    if (sim_chance(s, 150))
        sim_coord_start(s); /* two at once */
}

/* ---- the run ------------------------------------------------------------ */

static void one_cut(struct sim *s, bool watched)
{
    unsigned coord;

    s->msg_limit += SIM_MSGS_MAX / (s->config.cuts + 1);
    run_until(s, s->now_ns + sim_between(s, SIM_MS, 20 * SIM_MS), NULL);
    if (s->failed)
        return;
    coord = sim_coord_start(s);
    s->coords[coord].watched = watched;
    if (!watched)
        draw_faults(s);
    run_until(s, s->now_ns + REST_NS, is_quiet);
    if (!s->failed && watched && !s->coords[coord].committed)
        sim_fail(s, "the cut to epoch %u never ended", s->coords[coord].epoch);
}

static void repair(struct sim *s)
{
    s->calm = true;
    for (unsigned i = 0; i < s->coord_count; i++)
        sim_coord_crash(s, i);
    for (unsigned i = 0; i < s->config.host_count; i++) {
        sim_switch_up(s, i);
        sim_agent_up(s, i);
    }
    /* Stalled agents still find old messages; workers have work left. */
    run_until(s, s->now_ns + 3 * s->config.patience_ns, NULL);
    run_until(s, s->now_ns + REST_NS, is_quiet);
    run_until(s, s->now_ns + 2 * s->config.patience_ns, NULL);
    for (unsigned i = 0; i < s->config.host_count && !s->failed; i++)
        if (s->hosts[i].cut.state != CUT_AGENT_IDLE)
            sim_fail(s, "host %u stays in state %d", i,
                     (int)s->hosts[i].cut.state);
}

void sim_run(struct sim *s, uint64_t seed, bool process_faults,
             enum sim_mutant mutant, bool tracing)
{
    bool tracing_all = s->tracing_all;

    memset(s, 0, sizeof(*s));
    s->tracing_all = tracing_all;
    s->seed = seed;
    s->random = (seed + 1) * UINT64_C(0x9e3779b97f4a7c15) + process_faults;
    s->mutant = mutant;
    s->tracing = tracing;
    s->now_ns = SIM_MS;
    for (int i = 0; i < 8; i++)
        sim_random(s);
    draw_config(s, process_faults);
    build(s);
    for (unsigned i = 0; i < s->config.cuts && !s->failed; i++)
        one_cut(s, !process_faults);
    if (process_faults && !s->failed) {
        repair(s);
        if (!s->vm_died && !s->failed)
            one_cut(s, true);
    }
    s->traffic = false;
    run_until(s, s->now_ns + QUIESCE_NS, NULL);
    if (!s->failed)
        sim_check_end(s);
}

void sim_done(struct sim *s)
{
    for (unsigned i = 0; i < s->config.host_count; i++) {
        vsw_free(s->hosts[i].sw);
        free(s->hosts[i].records);
    }
    while (s->fragments) {
        struct sim_fragment *f = s->fragments;

        s->fragments = f->next;
        free(f->records);
        free(f);
    }
    free(s->heap);
    free(s->trace);
    memset(s, 0, sizeof(*s));
}
