/*
 * VMs: what they send and read, how a snapshot handles them, and the
 * watchdog that resumes one which stood too long.
 *
 * A VM's state is how many messages it sent and which it received; messages
 * are numbered over the whole run, so a copy of that state says everything
 * about cause and effect. Between VM and switch lie two queues, as the socket
 * of a port has: what the VM sent and the switch did not read yet, and what
 * the switch delivered and the VM did not read yet.
 */

#include "tests/sim/sim.h"

#include <assert.h>
#include <string.h>

static void push(struct sim_queue *q, uint32_t id)
{
    assert(q->count < SIM_QUEUE_MAX);
    q->ids[(q->head + q->count++) % SIM_QUEUE_MAX] = id;
}

static uint32_t pop(struct sim_queue *q)
{
    uint32_t id = q->ids[q->head];

    assert(q->count > 0);
    q->head = (q->head + 1) % SIM_QUEUE_MAX;
    q->count--;
    return id;
}

bool sim_is_for(const struct sim *s, uint32_t msg, unsigned vm)
{
    const struct sim_msg *m = &s->msgs[msg];

    return m->src != vm && (m->dst == vm || m->dst == SIM_NOBODY);
}

/* ---- traffic ------------------------------------------------------------ */

static void transmit(struct sim *s, const struct sim_arg *arg)
{
    struct sim_vm *vm = &s->vms[arg->who];

    if (vm->tx.count > 0)
        sim_switch_from_vm(s, arg->who, pop(&vm->tx));
}

void sim_vm_drain(struct sim *s, unsigned vm)
{
    while (s->vms[vm].tx.count > 0)
        sim_switch_from_vm(s, vm, pop(&s->vms[vm].tx));
}

static void send_one(struct sim *s, unsigned index)
{
    struct sim_vm *vm = &s->vms[index];
    struct sim_msg *m = &s->msgs[s->msg_count];
    unsigned dst = (unsigned)sim_between(s, 0, s->vm_count - 1);

    *m = (struct sim_msg){.src = (uint8_t)index,
                          .dst = (uint8_t)dst,
                          .src_seq = vm->state.sent++};
    if (dst == index || sim_chance(s, s->config.broadcast))
        m->dst = SIM_NOBODY;
    sim_trace(s, "vm %u sends msg %u to %u", index, s->msg_count, m->dst);
    push(&vm->tx, s->msg_count++);
    sim_after(s, sim_between(s, 1, s->config.tx_ns), transmit,
              &(struct sim_arg){.who = index});
}

static bool cut_is_near(const struct sim *s)
{
    for (unsigned i = 0; i < s->config.host_count; i++)
        if (s->hosts[i].cut.state >= CUT_AGENT_READY)
            return true;
    return false;
}

/* Sparse between cuts, dense around them, where it matters. */
static void traffic(struct sim *s, const struct sim_arg *arg)
{
    struct sim_vm *vm = &s->vms[arg->who];
    uint64_t wait_ns = s->config.send_every_ns * s->vm_count;

    if (!s->traffic || vm->dead)
        return;
    if (!vm->paused && s->msg_count < s->msg_limit)
        send_one(s, arg->who);
    if (!cut_is_near(s))
        wait_ns *= 20;
    sim_after(s, sim_between(s, wait_ns / 4, wait_ns * 2), traffic, arg);
}

void sim_vm_start_traffic(struct sim *s, unsigned vm)
{
    sim_after(s, sim_between(s, 0, s->config.send_every_ns * s->vm_count),
              traffic, &(struct sim_arg){.who = vm});
}

static void read_one(struct sim *s, const struct sim_arg *arg);

static void schedule_read(struct sim *s, unsigned index)
{
    struct sim_vm *vm = &s->vms[index];

    if (vm->reading || vm->paused || vm->dead || vm->rx.count == 0)
        return;
    vm->reading = true;
    sim_after(s, sim_between(s, 1, s->config.read_ns), read_one,
              &(struct sim_arg){.who = index});
}

static void read_one(struct sim *s, const struct sim_arg *arg)
{
    struct sim_vm *vm = &s->vms[arg->who];
    uint32_t id;

    vm->reading = false;
    if (vm->paused || vm->dead || vm->rx.count == 0)
        return;
    id = pop(&vm->rx);
    schedule_read(s, arg->who);
    if (!sim_is_for(s, id, arg->who))
        return; /* flooded; not our address */
    sim_trace(s, "vm %u reads msg %u of vm %u", arg->who, id, s->msgs[id].src);
    vm->state.received[id]++;
    if (s->config.reordering == 0 && s->config.duplication == 0 &&
        s->msgs[id].src_seq < vm->state.next_seq[s->msgs[id].src])
        sim_fail(s, "vm %u received msg %u of vm %u out of order", arg->who, id,
                 s->msgs[id].src);
    vm->state.next_seq[s->msgs[id].src] = s->msgs[id].src_seq + 1;
}

void sim_vm_deliver(struct sim *s, unsigned vm, uint32_t msg)
{
    if (s->vms[vm].dead)
        return;
    push(&s->vms[vm].rx, msg);
    schedule_read(s, vm);
}

/* ---- pause, death, watchdog --------------------------------------------- */

void sim_vm_pause(struct sim *s, unsigned index)
{
    struct sim_vm *vm = &s->vms[index];

    if (vm->paused || vm->dead)
        return;
    sim_trace(s, "vm %u stands", index);
    vm->paused = true;
    vm->paused_at_ns = s->now_ns;
}

void sim_vm_resume(struct sim *s, unsigned index)
{
    struct sim_vm *vm = &s->vms[index];

    if (!vm->paused)
        return;
    sim_trace(s, "vm %u runs", index);
    vm->paused = false;
    if (s->now_ns - vm->paused_at_ns > s->config.patience_ns + 2 * SIM_MS)
        sim_fail(s, "vm %u stood for %.3f ms", index,
                 (double)(s->now_ns - vm->paused_at_ns) / 1e6);
    schedule_read(s, index);
}

void sim_vm_die(struct sim *s, unsigned index)
{
    struct sim_vm *vm = &s->vms[index];

    if (vm->dead)
        return;
    sim_trace(s, "vm %u dies", index);
    vm->dead = true;
    vm->paused = false;
    vm->rx.count = 0;
    s->vm_died = true;
}

static void watchdog(struct sim *s, const struct sim_arg *arg)
{
    struct sim_vm *vm = &s->vms[arg->who];

    if (!vm->watchdog_armed || vm->watchdog_gen != arg->gen ||
        s->mutant == SIM_MUTANT_NO_WATCHDOG)
        return;
    sim_trace(s, "watchdog resumes vm %u", arg->who);
    vm->watchdog_fired = true;
    sim_vm_resume(s, arg->who);
}

void sim_vm_arm_watchdog(struct sim *s, unsigned index)
{
    struct sim_vm *vm = &s->vms[index];

    vm->watchdog_armed = true;
    vm->watchdog_fired = false;
    vm->watchdog_gen++;
    sim_after(s, s->config.patience_ns, watchdog,
              &(struct sim_arg){.who = index, .gen = vm->watchdog_gen});
}

/* ---- tasks of a snapshot ------------------------------------------------ */

static void report(struct sim *s, unsigned vm, const struct sim_task *task,
                   int kind)
{
    sim_agent_report(s, s->vms[vm].host, kind, vm, task->epoch);
}

static void task_over(struct sim *s, unsigned vm, const struct sim_task *task,
                      int kind)
{
    report(s, vm, task, kind);
    sim_worker_done(s, s->vms[vm].host, &s->vms[vm].worker);
}

static void task_goes_on(struct sim *s, unsigned vm, uint64_t most_ns)
{
    sim_worker_continue(s, s->vms[vm].host, &s->vms[vm].worker,
                        sim_between(s, 1, most_ns));
}

static void copy_state(struct sim *s, unsigned index)
{
    struct sim_vm *vm = &s->vms[index];
    struct sim_fragment *f = s->hosts[vm->host].fragment;
    __typeof__(f->vms[0]) *copy = &f->vms[vm->port];

    sim_trace(s, "vm %u is captured: %u sent", index, vm->state.sent);
    copy->captured = true;
    copy->state = vm->state;
    copy->unread_count = vm->rx.count;
    for (unsigned i = 0; i < vm->rx.count; i++)
        copy->unread[i] = vm->rx.ids[(vm->rx.head + i) % SIM_QUEUE_MAX];
}

/* The VM goes on; did it go on before, by the watchdog? Then it was not
 * captured standing. */
static bool resume_after_capture(struct sim *s, unsigned index)
{
    struct sim_vm *vm = &s->vms[index];

    sim_vm_resume(s, index);
    vm->watchdog_armed = false;
    return !vm->watchdog_fired || s->config.guard_by_machine ||
           s->mutant == SIM_MUTANT_NO_GUARD;
}

static void stop_task(struct sim *s, unsigned index,
                      const struct sim_task *task)
{
    struct sim_vm *vm = &s->vms[index];

    if (vm->worker.phase == 0) {
        sim_vm_arm_watchdog(s, index);
        task_goes_on(s, index, s->config.vm_op_ns / 4);
    } else if (vm->worker.phase == 1) {
        if (s->mutant != SIM_MUTANT_NO_STOP)
            sim_vm_pause(s, index);
        task_goes_on(s, index, s->config.vm_op_ns / 4);
    } else {
        task_over(s, index, task, CUT_AGENT_VM_STOPPED);
    }
}

static void capture_task(struct sim *s, unsigned index,
                         const struct sim_task *task)
{
    struct sim_vm *vm = &s->vms[index];

    if (s->config.stop_mode) {
        task_over(s, index, task, CUT_AGENT_VM_CAPTURED);
    } else if (vm->worker.phase == 0) {
        copy_state(s, index);
        task_goes_on(s, index, s->config.vm_op_ns);
    } else if (!resume_after_capture(s, index)) {
        task_over(s, index, task, CUT_AGENT_STEP_FAILED);
    } else {
        report(s, index, task, CUT_AGENT_VM_CAPTURED);
        task_over(s, index, task, CUT_AGENT_VM_RESUMED);
    }
}

/* In mode stop the VM stands until its memory was read. */
static void save_task(struct sim *s, unsigned index,
                      const struct sim_task *task)
{
    struct sim_vm *vm = &s->vms[index];
    struct sim_fragment *f = s->hosts[vm->host].fragment;
    bool stop_mode = s->config.stop_mode;

    if (vm->worker.phase == 0) {
        task_goes_on(s, index, s->config.vm_op_ns * (stop_mode ? 10 : 20));
    } else if (stop_mode && vm->worker.phase == 1) {
        copy_state(s, index);
        if (!resume_after_capture(s, index)) {
            task_over(s, index, task, CUT_AGENT_STEP_FAILED);
            return;
        }
        report(s, index, task, CUT_AGENT_VM_RESUMED);
        task_goes_on(s, index, s->config.vm_op_ns * 2);
    } else {
        f->vms[vm->port].durable = true;
        task_over(s, index, task, CUT_AGENT_VM_SAVED);
    }
}

static void clean_task(struct sim *s, unsigned index,
                       const struct sim_task *task)
{
    struct sim_vm *vm = &s->vms[index];

    if (task->kind == CUT_AGENT_DO_ABORT_VM) {
        if (s->mutant != SIM_MUTANT_NO_RESUME)
            sim_vm_resume(s, index);
        vm->watchdog_armed = false;
    }
    vm->cancelled = false;
    task_over(s, index, task, CUT_AGENT_VM_CLEAN);
}

void sim_vm_task(struct sim *s, const struct sim_arg *arg)
{
    struct sim_vm *vm = &s->vms[arg->who];
    struct sim_task task = vm->worker.tasks[vm->worker.head];

    if (task.kind == CUT_AGENT_DO_ABORT_VM ||
        task.kind == CUT_AGENT_DO_FINISH) {
        clean_task(s, arg->who, &task);
    } else if (vm->dead || vm->cancelled ||
               (!s->calm && sim_chance(s, s->config.fail))) {
        sim_trace(s, "vm %u fails its step", arg->who);
        task_over(s, arg->who, &task, CUT_AGENT_STEP_FAILED);
    } else if (task.kind == CUT_AGENT_DO_PREPARE) {
        task_over(s, arg->who, &task, CUT_AGENT_VM_PREPARED);
    } else if (task.kind == CUT_AGENT_DO_STOP) {
        stop_task(s, arg->who, &task);
    } else if (task.kind == CUT_AGENT_DO_CAPTURE) {
        capture_task(s, arg->who, &task);
    } else {
        save_task(s, arg->who, &task);
    }
}
