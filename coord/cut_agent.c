/*
 * An agent's half of a cut, as a pure machine. See coord/cut.h for the
 * contract and docs/CUT.md for the protocol and its argument.
 *
 * Purpose: bring the VMs and the switch of one host through a cut in the only
 * order that is consistent, and out of it whatever happens.
 *
 * How it works: a state names what is awaited; results of actions set flags;
 * advance() goes on when the flags of a state are complete, possibly through
 * several states at once (a host without VMs has nothing to stop). The order
 * hold, stop, flip, capture, release is what makes the cut consistent: no
 * frame is delivered between the moment its effects are awaited to settle and
 * the capture; no VM runs between the last frame it sent in the old epoch and
 * the capture; no VM runs in the new epoch before it was captured. Saving
 * begins when all are captured: its work shall not lengthen a pause.
 *
 * Giving up is one action list from every state: each VM that the cut touched
 * ("dirty") is aborted, the switch too. Actions of one VM are performed in
 * order, so the abort of a VM comes after whatever was in progress; results
 * of that are ignored, and only VM_CLEAN counts. The machine is busy until
 * every VM reported it: a second cut never meets leftovers of the first.
 *
 * The lease: any message for the epoch renews it. When it runs out or the
 * connection breaks the cut is given up, in SAVED as well. There the manifest
 * may or may not have been committed; it makes no difference here, because
 * all objects are durable, all VMs run, and what aborting undoes (records in
 * the switch, marks on the VMs) finishing would have removed too. FAILED after
 * SAVED cannot harm a commit either: the coordinator has counted the SAVED, or
 * counts the FAILED first and aborts.
 *
 * Invariants: SAVED comes out at most once an epoch, and never after FAILED;
 * highest_epoch only grows; an epoch at or below it is refused. In IDLE no VM
 * is dirty.
 *
 * Not done: a CUT that arrives before READY was sent, and a frame of the new
 * epoch then, mean that somebody else broke the protocol or gave this epoch
 * up already (nobody enters it before our READY). Both end the cut at once.
 */

#include "coord/cut.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct out {
    struct cut_agent_action *actions;
    size_t count;
    uint32_t epoch;
};

static void emit(struct out *out, enum cut_agent_action_kind kind, unsigned vm)
{
    assert(out->count < CUT_AGENT_ACTIONS_MAX);
    out->actions[out->count++] =
        (struct cut_agent_action){.kind = kind, .vm = vm, .epoch = out->epoch};
}

static void emit_alone(struct out *out, enum cut_agent_action_kind kind)
{
    emit(out, kind, CUT_VMS_MAX);
}

static void emit_for_all(const struct cut_agent *a, struct out *out,
                         enum cut_agent_action_kind kind)
{
    for (unsigned i = 0; i < a->vm_count; i++)
        emit(out, kind, i);
}

static uint64_t later(uint64_t now_ns, uint64_t wait_ns)
{
    return wait_ns < UINT64_MAX - now_ns ? now_ns + wait_ns : UINT64_MAX;
}

/* A cut is under way that can still come to SAVED, or has. */
static bool is_under_way(const struct cut_agent *a)
{
    return a->state >= CUT_AGENT_PREPARING && a->state <= CUT_AGENT_SAVED;
}

static void clean_up(struct cut_agent *a, struct out *out,
                     enum cut_agent_state state,
                     enum cut_agent_action_kind of_vm,
                     enum cut_agent_action_kind of_switch)
{
    a->state = state;
    a->lease_until_ns = UINT64_MAX;
    a->pause_until_ns = UINT64_MAX;
    for (unsigned i = 0; i < a->vm_count; i++)
        if (a->vms[i].dirty)
            emit(out, of_vm, i);
    emit_alone(out, of_switch);
}

static void give_up(struct cut_agent *a, struct out *out, const char *reason)
{
    snprintf(a->reason, sizeof(a->reason), "%s", reason ? reason : "");
    clean_up(a, out, CUT_AGENT_ABORTING, CUT_AGENT_DO_ABORT_VM,
             CUT_AGENT_DO_ABORT_SWITCH);
}

static void fail(struct cut_agent *a, struct out *out, const char *reason)
{
    give_up(a, out, reason);
    emit_alone(out, CUT_AGENT_SEND_FAILED);
}

/* A PREPARE that cannot be: the cut under way, if any, is not touched. */
static void refuse(struct cut_agent *a, uint32_t epoch, struct out *out)
{
    if (a->state == CUT_AGENT_IDLE) {
        snprintf(a->reason, sizeof(a->reason), "epoch %u is used up", epoch);
        a->epoch = epoch;
    } else {
        snprintf(a->reason, sizeof(a->reason), "busy with the cut to epoch %u",
                 a->epoch);
    }
    out->epoch = epoch;
    emit_alone(out, CUT_AGENT_SEND_FAILED);
}

static void prepare(struct cut_agent *a, uint32_t epoch, uint64_t now_ns,
                    struct out *out)
{
    if (a->state != CUT_AGENT_IDLE ||
        !cut_epoch_after(epoch, a->highest_epoch)) {
        refuse(a, epoch, out);
        return;
    }
    a->state = CUT_AGENT_PREPARING;
    a->epoch = epoch;
    a->highest_epoch = epoch;
    a->lease_until_ns = later(now_ns, a->lease_ns);
    a->armed = a->held = a->flipped = a->closed = false;
    memset(a->vms, 0, sizeof(a->vms));
    for (unsigned i = 0; i < a->vm_count; i++)
        a->vms[i].dirty = true;
    a->reason[0] = '\0';
    out->epoch = epoch;
    emit_alone(out, CUT_AGENT_DO_ARM);
    emit_for_all(a, out, CUT_AGENT_DO_PREPARE);
}

/* CUT, or a frame that a VM sent after its cut on another host. */
static void cut(struct cut_agent *a, struct out *out, const char *too_early)
{
    if (a->state == CUT_AGENT_PREPARING) {
        fail(a, out, too_early);
    } else if (a->state == CUT_AGENT_READY) {
        a->state = CUT_AGENT_HOLDING;
        emit_alone(out, CUT_AGENT_DO_HOLD);
    }
}

static void message(struct cut_agent *a, const struct cut_agent_event *event,
                    uint64_t now_ns, struct out *out)
{
    if (!is_under_way(a) || event->epoch != a->epoch)
        return;
    a->lease_until_ns = later(now_ns, a->lease_ns);
    switch (event->kind) {
    case CUT_AGENT_CUT:
        cut(a, out, "CUT came before this host was ready");
        return;
    case CUT_AGENT_COMMIT:
        if (a->state == CUT_AGENT_SAVED)
            clean_up(a, out, CUT_AGENT_FINISHING, CUT_AGENT_DO_FINISH,
                     CUT_AGENT_DO_FINISH_SWITCH);
        return;
    case CUT_AGENT_ABORT:
        give_up(a, out, event->reason);
        return;
    default: /* KEEPALIVE */
        return;
    }
}

static bool is_of_vm(enum cut_agent_event_kind kind)
{
    return kind == CUT_AGENT_VM_PREPARED || kind == CUT_AGENT_VM_STOPPED ||
           kind == CUT_AGENT_VM_CAPTURED || kind == CUT_AGENT_VM_RESUMED ||
           kind == CUT_AGENT_VM_SAVED || kind == CUT_AGENT_VM_CLEAN;
}

static void vm_result(struct cut_agent *a, const struct cut_agent_event *event,
                      struct out *out)
{
    __typeof__(a->vms[0]) *vm = &a->vms[event->vm];

    switch (event->kind) {
    case CUT_AGENT_VM_PREPARED:
        vm->prepared = true;
        return;
    case CUT_AGENT_VM_STOPPED:
        vm->stopped = true;
        return;
    case CUT_AGENT_VM_CAPTURED:
        vm->captured = true;
        return;
    case CUT_AGENT_VM_RESUMED:
        if (!vm->captured) {
            fail(a, out, "a VM ran before it was captured");
        } else if (!vm->resumed) {
            vm->resumed = true;
            emit(out, CUT_AGENT_DO_RELEASE, event->vm);
        }
        return;
    default:
        vm->saved = true;
        return;
    }
}

/* Late results find the machine in another state or epoch and pass by. */
static void result(struct cut_agent *a, const struct cut_agent_event *event,
                   struct out *out)
{
    if (event->epoch != a->epoch || a->state == CUT_AGENT_IDLE)
        return;
    if (event->kind == CUT_AGENT_VM_CLEAN) {
        if (!is_under_way(a))
            a->vms[event->vm].dirty = false;
        return;
    }
    if (!is_under_way(a))
        return;
    switch (event->kind) {
    case CUT_AGENT_ARMED:
        a->armed = true;
        return;
    case CUT_AGENT_HELD:
        a->held = true;
        return;
    case CUT_AGENT_FLIPPED:
        a->flipped = true;
        return;
    case CUT_AGENT_CLOSED:
        a->closed = true;
        return;
    case CUT_AGENT_STEP_FAILED:
        fail(a, out, event->reason);
        return;
    default:
        vm_result(a, event, out);
        return;
    }
}

/* Is everything there that the state waits for? */
static bool is_complete(const struct cut_agent *a)
{
    bool all = true;

    for (unsigned i = 0; i < a->vm_count && all; i++) {
        switch (a->state) {
        case CUT_AGENT_PREPARING:
            all = a->vms[i].prepared;
            break;
        case CUT_AGENT_STOPPING:
            all = a->vms[i].stopped;
            break;
        case CUT_AGENT_CAPTURING:
            all = a->vms[i].captured;
            break;
        case CUT_AGENT_RESUMING:
            all = a->vms[i].resumed;
            break;
        case CUT_AGENT_SAVING:
            all = a->vms[i].saved;
            break;
        case CUT_AGENT_FINISHING:
        case CUT_AGENT_ABORTING:
            all = !a->vms[i].dirty;
            break;
        default:
            break;
        }
    }
    switch (a->state) {
    case CUT_AGENT_PREPARING:
        return all && a->armed;
    case CUT_AGENT_HOLDING:
        return a->held;
    case CUT_AGENT_FLIPPING:
        return a->flipped;
    case CUT_AGENT_SAVING:
        return all && a->closed;
    case CUT_AGENT_IDLE:
    case CUT_AGENT_READY:
    case CUT_AGENT_SAVED:
        return false; /* an event from outside must come */
    default:
        return all;
    }
}

static void enter_next(struct cut_agent *a, uint64_t now_ns, struct out *out)
{
    switch (a->state) {
    case CUT_AGENT_PREPARING:
        a->state = CUT_AGENT_READY;
        emit_alone(out, CUT_AGENT_SEND_READY);
        return;
    case CUT_AGENT_HOLDING:
        a->state = CUT_AGENT_STOPPING;
        if (a->pause_limit_ns > 0 && a->vm_count > 0)
            a->pause_until_ns = later(now_ns, a->pause_limit_ns);
        emit_for_all(a, out, CUT_AGENT_DO_STOP);
        return;
    case CUT_AGENT_STOPPING:
        a->state = CUT_AGENT_FLIPPING;
        emit_alone(out, CUT_AGENT_DO_FLIP);
        return;
    case CUT_AGENT_FLIPPING:
        a->state = CUT_AGENT_CAPTURING;
        emit_for_all(a, out, CUT_AGENT_DO_CAPTURE);
        emit_alone(out, CUT_AGENT_DO_CLOSE);
        return;
    case CUT_AGENT_CAPTURING:
        a->state = CUT_AGENT_RESUMING;
        emit_for_all(a, out, CUT_AGENT_DO_SAVE);
        return;
    case CUT_AGENT_RESUMING:
        a->state = CUT_AGENT_SAVING;
        a->pause_until_ns = UINT64_MAX;
        emit_alone(out, CUT_AGENT_SEND_CUT_DONE);
        return;
    case CUT_AGENT_SAVING:
        a->state = CUT_AGENT_SAVED;
        emit_alone(out, CUT_AGENT_SEND_SAVED);
        return;
    default: /* FINISHING, ABORTING */
        a->state = CUT_AGENT_IDLE;
        return;
    }
}

static void check_time(struct cut_agent *a, uint64_t now_ns, struct out *out)
{
    if (!is_under_way(a))
        return;
    if (now_ns >= a->pause_until_ns)
        fail(a, out, "a VM stood too long");
    else if (now_ns >= a->lease_until_ns)
        fail(a, out, "nothing was heard of the coordinator");
}

void cut_agent_init(struct cut_agent *a, unsigned vm_count, uint64_t lease_ns)
{
    assert(vm_count <= CUT_VMS_MAX);
    memset(a, 0, sizeof(*a));
    a->vm_count = vm_count;
    a->lease_ns = lease_ns;
    a->lease_until_ns = UINT64_MAX;
    a->pause_until_ns = UINT64_MAX;
    a->deadline_ns = UINT64_MAX;
}

size_t cut_agent_step(struct cut_agent *a, const struct cut_agent_event *event,
                      uint64_t now_ns,
                      struct cut_agent_action actions[CUT_AGENT_ACTIONS_MAX])
{
    struct out out = {.actions = actions, .epoch = a->epoch};

    /* Not before a message: late as it is, it proves the coordinator alive. */
    if (event->kind > CUT_AGENT_COORD_LOST) {
        assert(!is_of_vm(event->kind) || event->vm < a->vm_count);
        check_time(a, now_ns, &out);
    }
    switch (event->kind) {
    case CUT_AGENT_PREPARE:
        prepare(a, event->epoch, now_ns, &out);
        break;
    case CUT_AGENT_CUT:
    case CUT_AGENT_COMMIT:
    case CUT_AGENT_ABORT:
    case CUT_AGENT_KEEPALIVE:
        message(a, event, now_ns, &out);
        break;
    case CUT_AGENT_COORD_LOST:
        if (is_under_way(a))
            give_up(a, &out, event->reason);
        break;
    case CUT_AGENT_TRIGGER:
        if (is_under_way(a) && event->epoch == a->epoch)
            cut(a, &out, "the epoch was entered before this host was ready");
        break;
    case CUT_AGENT_TICK:
        break;
    default:
        result(a, event, &out);
        break;
    }
    while (is_complete(a))
        enter_next(a, now_ns, &out);
    a->deadline_ns = a->pause_until_ns < a->lease_until_ns ? a->pause_until_ns
                                                           : a->lease_until_ns;
    return out.count;
}
