/*
 * An agent: the machine of coord/cut.h, a worker a VM, one for the switch,
 * one that waits for channels to close - as coord/agent_cut.c has them.
 *
 * It can crash (everything here is forgotten, the watchdog and the switch see
 * the connection end) and stall (its events and workers stand still; nothing
 * else does).
 */

#include "tests/sim/sim.h"

#include "common/auto.h"

#include <assert.h>
#include <string.h>

/* A stalled process handles its events when it goes on. */
static bool put_off(struct sim *s, unsigned host, sim_fn *fn,
                    const struct sim_arg *arg)
{
    if (s->now_ns >= s->hosts[host].stalled_until_ns)
        return false;
    sim_at(s, s->hosts[host].stalled_until_ns, fn, arg);
    return true;
}

/* ---- workers ------------------------------------------------------------ */

/* arg->other: 0 .. the VM's port; then the switcher and the closer. */
enum { SWITCHER = SIM_HOST_VMS_MAX, CLOSER };

static unsigned number_of(const struct sim *s, unsigned host,
                          const struct sim_worker *worker)
{
    const struct sim_host *h = &s->hosts[host];

    if (worker == &h->switcher)
        return SWITCHER;
    if (worker == &h->closer)
        return CLOSER;
    for (unsigned i = 0; i < h->vm_count; i++)
        if (worker == &s->vms[h->first_vm + i].worker)
            return i;
    assert(0);
    return 0;
}

static void run_phase(struct sim *s, const struct sim_arg *arg)
{
    struct sim_host *h = &s->hosts[arg->who];

    if (arg->gen != h->agent_gen || put_off(s, arg->who, run_phase, arg))
        return;
    if (arg->other == SWITCHER)
        sim_switch_task(s, &(struct sim_arg){.who = arg->who});
    else if (arg->other == CLOSER)
        sim_close_task(s, &(struct sim_arg){.who = arg->who});
    else
        sim_vm_task(s, &(struct sim_arg){.who = h->first_vm + arg->other});
}

static void schedule_phase(struct sim *s, unsigned host,
                           const struct sim_worker *worker, uint64_t wait_ns)
{
    sim_after(s, wait_ns, run_phase,
              &(struct sim_arg){.who = host,
                                .other = number_of(s, host, worker),
                                .gen = s->hosts[host].agent_gen});
}

static void begin_task(struct sim *s, unsigned host, struct sim_worker *worker)
{
    worker->busy = true;
    worker->phase = 0;
    schedule_phase(s, host, worker, sim_between(s, 1, s->config.vm_op_ns / 2));
}

void sim_worker_post(struct sim *s, unsigned host, struct sim_worker *worker,
                     const struct sim_task *task)
{
    assert(worker->count < SIM_TASKS_MAX);
    worker->tasks[(worker->head + worker->count++) % SIM_TASKS_MAX] = *task;
    if (!worker->busy)
        begin_task(s, host, worker);
}

void sim_worker_done(struct sim *s, unsigned host, struct sim_worker *worker)
{
    worker->head = (worker->head + 1) % SIM_TASKS_MAX;
    worker->count--;
    worker->busy = false;
    if (worker->count > 0)
        begin_task(s, host, worker);
}

void sim_worker_continue(struct sim *s, unsigned host,
                         struct sim_worker *worker, uint64_t wait_ns)
{
    worker->phase++;
    schedule_phase(s, host, worker, wait_ns);
}

/* ---- actions ------------------------------------------------------------ */

static void begin_fragment(struct sim *s, struct sim_host *h, uint32_t epoch)
{
    struct sim_fragment *f = vn_alloc(sizeof(*f));

    f->host = h->index;
    f->epoch = epoch;
    f->vm_count = h->vm_count;
    f->next = s->fragments;
    s->fragments = f;
    h->fragment = f;
}

static void send(struct sim *s, struct sim_host *h, unsigned coord,
                 enum sim_message kind, uint32_t epoch)
{
    if (coord != SIM_NOBODY)
        sim_send_to_coord(s, h->index, coord, kind, epoch, h->fragment);
}

static void send_failed(struct sim *s, struct sim_host *h, unsigned to,
                        uint32_t epoch)
{
    sim_trace(s, "host %u: epoch %u: %s", h->index, epoch, h->cut.reason);
    if (s->mutant != SIM_MUTANT_SAVED_FAILED) {
        send(s, h, to, SIM_FAILED, epoch);
        return;
    }
    send(s, h, to, SIM_READY, epoch);
    send(s, h, to, SIM_CUT_DONE, epoch);
    send(s, h, to, SIM_SAVED, epoch);
}

static void perform(struct sim *s, struct sim_host *h,
                    const struct cut_agent_action *action, unsigned answer_to)
{
    bool of_vm = action->vm != CUT_VMS_MAX;
    unsigned vm = of_vm ? h->first_vm + action->vm : SIM_NOBODY;
    struct sim_task task = {
        .kind = (int)action->kind, .epoch = action->epoch, .vm = vm};

    switch (action->kind) {
    case CUT_AGENT_SEND_READY:
        send(s, h, h->coordinator, SIM_READY, action->epoch);
        return;
    case CUT_AGENT_SEND_CUT_DONE:
        send(s, h, h->coordinator, SIM_CUT_DONE, action->epoch);
        if (s->mutant == SIM_MUTANT_SAVED_EARLY)
            send(s, h, h->coordinator, SIM_SAVED, action->epoch);
        return;
    case CUT_AGENT_SEND_SAVED:
        send(s, h, h->coordinator, SIM_SAVED, action->epoch);
        return;
    case CUT_AGENT_SEND_FAILED:
        send_failed(s, h, answer_to == SIM_NOBODY ? h->coordinator : answer_to,
                    action->epoch);
        return;
    case CUT_AGENT_DO_CLOSE:
        sim_worker_post(s, h->index, &h->closer, &task);
        return;
    case CUT_AGENT_DO_ARM:
        begin_fragment(s, h, action->epoch);
        break;
    case CUT_AGENT_DO_ABORT_VM:
        s->vms[vm].cancelled = true;
        break;
    default:
        break;
    }
    sim_worker_post(s, h->index,
                    of_vm && action->kind != CUT_AGENT_DO_RELEASE
                        ? &s->vms[vm].worker
                        : &h->switcher,
                    &task);
}

/* ---- the loop ----------------------------------------------------------- */

static void tick(struct sim *s, const struct sim_arg *arg);

static void set_timer(struct sim *s, struct sim_host *h)
{
    if (h->cut.deadline_ns >= h->tick_at_ns)
        return;
    h->tick_at_ns = h->cut.deadline_ns;
    sim_at(s, h->tick_at_ns > s->now_ns ? h->tick_at_ns : s->now_ns, tick,
           &(struct sim_arg){.who = h->index, .gen = h->agent_gen});
}

static void step(struct sim *s, struct sim_host *h,
                 const struct cut_agent_event *event, unsigned answer_to)
{
    struct cut_agent_action actions[CUT_AGENT_ACTIONS_MAX];
    enum cut_agent_state before = h->cut.state;
    size_t count = cut_agent_step(&h->cut, event, s->now_ns, actions);

    if (h->cut.state != before)
        sim_trace(s, "host %u: event %d, cut %u: state %d -> %d", h->index,
                  (int)event->kind, h->cut.epoch, (int)before,
                  (int)h->cut.state);
    if (h->cut.state == CUT_AGENT_ABORTING && before != CUT_AGENT_ABORTING &&
        before != CUT_AGENT_SAVED)
        h->fragment->given_up = true;
    if (h->trap != 0 && h->cut.state != before &&
        (int)h->cut.state == h->trap) {
        h->trap = 0;
        sim_after(s, sim_between(s, 1, 2 * s->config.vm_op_ns), sim_fault,
                  &(struct sim_arg){.who = h->index});
    }
    if (cut_epoch_after(h->cut.highest_epoch, h->highest_epoch))
        h->highest_epoch = h->cut.highest_epoch;
    if (before == CUT_AGENT_IDLE && h->cut.state != CUT_AGENT_IDLE)
        h->coordinator = answer_to;
    for (size_t i = 0; i < count; i++)
        perform(s, h, &actions[i], answer_to);
    set_timer(s, h);
}

static void tick(struct sim *s, const struct sim_arg *arg)
{
    struct sim_host *h = &s->hosts[arg->who];

    if (arg->gen != h->agent_gen || put_off(s, arg->who, tick, arg))
        return;
    h->tick_at_ns = UINT64_MAX;
    if (s->now_ns >= h->cut.deadline_ns)
        step(s, h, &(struct cut_agent_event){.kind = CUT_AGENT_TICK},
             SIM_NOBODY);
    else
        set_timer(s, h);
}

/* arg: other the kind, msg the VM's local index. */
static void on_event(struct sim *s, const struct sim_arg *arg)
{
    struct sim_host *h = &s->hosts[arg->who];

    if (arg->gen != h->agent_gen || !h->agent_up ||
        put_off(s, arg->who, on_event, arg))
        return;
    step(
        s, h,
        &(struct cut_agent_event){.kind = (enum cut_agent_event_kind)arg->other,
                                  .vm = arg->msg,
                                  .epoch = arg->epoch,
                                  .reason = "a step failed"},
        SIM_NOBODY);
}

void sim_agent_feed(struct sim *s, unsigned host,
                    const struct cut_agent_event *event)
{
    on_event(s, &(struct sim_arg){.who = host,
                                  .other = event->kind,
                                  .epoch = event->epoch,
                                  .gen = s->hosts[host].agent_gen,
                                  .msg = event->vm});
}

void sim_agent_report(struct sim *s, unsigned host, int kind, unsigned vm,
                      uint32_t epoch)
{
    struct sim_host *h = &s->hosts[host];

    /* A mailbox keeps the order: the same delay for all. */
    sim_after(s, 5 * SIM_US, on_event,
              &(struct sim_arg){.who = host,
                                .other = (unsigned)kind,
                                .epoch = epoch,
                                .gen = h->agent_gen,
                                .msg = vm == CUT_VMS_MAX ? CUT_VMS_MAX
                                                         : vm - h->first_vm});
}

/* From sim_coord.c: arg->other the message, arg->msg the coordinator. */
void sim_agent_message(struct sim *s, const struct sim_arg *arg)
{
    static const enum cut_agent_event_kind events[] = {
        [SIM_PREPARE] = CUT_AGENT_PREPARE,     [SIM_CUT] = CUT_AGENT_CUT,
        [SIM_COMMIT] = CUT_AGENT_COMMIT,       [SIM_ABORT] = CUT_AGENT_ABORT,
        [SIM_KEEPALIVE] = CUT_AGENT_KEEPALIVE, [SIM_BYE] = CUT_AGENT_COORD_LOST,
    };
    struct sim_host *h = &s->hosts[arg->who];
    struct cut_agent_event event = {
        .vm = CUT_VMS_MAX, .epoch = arg->epoch, .reason = "as it was told"};

    if (arg->gen != h->agent_gen || !h->agent_up ||
        put_off(s, arg->who, sim_agent_message, arg))
        return;
    if (arg->other != SIM_PREPARE && h->coordinator != arg->msg)
        return; /* not its cut */
    if (arg->other == SIM_BYE) {
        if (s->mutant == SIM_MUTANT_DEAF_TO_LOSS)
            return;
        h->coordinator = SIM_NOBODY;
    }
    event.kind = events[arg->other];
    step(s, h, &event, arg->msg);
}

/* ---- life --------------------------------------------------------------- */

void sim_agent_up(struct sim *s, unsigned host)
{
    struct sim_host *h = &s->hosts[host];

    if (h->agent_up)
        return;
    sim_trace(s, "host %u: agent starts, epoch %u", host, h->highest_epoch);
    h->agent_up = true;
    cut_agent_init(&h->cut, h->vm_count,
                   s->mutant == SIM_MUTANT_DEAF_TO_LOSS ? UINT64_MAX
                                                        : 150 * SIM_MS);
    h->cut.highest_epoch = h->highest_epoch;
    if (s->config.guard_by_machine && s->mutant != SIM_MUTANT_NO_GUARD)
        h->cut.pause_limit_ns = s->config.patience_ns;
    h->coordinator = SIM_NOBODY;
    h->tick_at_ns = UINT64_MAX;
    h->stalled_until_ns = 0;
}

/* violind sees the agent's connection end. */
static void switch_lease(struct sim *s, const struct sim_arg *arg)
{
    struct sim_host *h = &s->hosts[arg->who];

    if (!h->sw || !h->is_armed || arg->gen != h->switch_gen)
        return;
    sim_trace(s, "host %u: the switch gives epoch %u up", arg->who,
              h->armed_epoch);
    vsw_abort(h->sw, h->armed_epoch);
    h->is_armed = false;
    sim_switch_touched(s, arg->who);
}

/* The watchdog process sees the agent's end of a pipe close. */
static void agent_gone(struct sim *s, const struct sim_arg *arg)
{
    const struct sim_host *h = &s->hosts[arg->who];

    if (s->mutant == SIM_MUTANT_NO_WATCHDOG)
        return;
    for (unsigned i = h->first_vm; i < h->first_vm + h->vm_count; i++) {
        if (!s->vms[i].watchdog_armed)
            continue;
        s->vms[i].watchdog_armed = false;
        sim_vm_resume(s, i);
    }
}

void sim_agent_crash(struct sim *s, unsigned host)
{
    struct sim_host *h = &s->hosts[host];

    if (!h->agent_up)
        return;
    sim_trace(s, "host %u: agent crashes in state %d", host, (int)h->cut.state);
    h->agent_up = false;
    h->agent_gen++;
    if (h->cut.state > CUT_AGENT_IDLE && h->cut.state < CUT_AGENT_SAVED)
        h->fragment->given_up = true;
    h->cut.state = CUT_AGENT_IDLE;
    memset(&h->switcher, 0, sizeof(h->switcher));
    memset(&h->closer, 0, sizeof(h->closer));
    for (unsigned i = 0; i < h->vm_count; i++) {
        memset(&s->vms[h->first_vm + i].worker, 0, sizeof(s->vms[0].worker));
        s->vms[h->first_vm + i].cancelled = false;
    }
    for (unsigned i = 0; i < s->coord_count; i++)
        sim_conn_break(s, i, host);
    sim_after(s, sim_between(s, 1, SIM_MS), switch_lease,
              &(struct sim_arg){.who = host, .gen = h->switch_gen});
    sim_after(s, sim_between(s, 1, SIM_MS), agent_gone,
              &(struct sim_arg){.who = host});
}
