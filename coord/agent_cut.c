/*
 * The agent's part in a cut: binds the pure machine of coord/cut.h to VMs,
 * switch, store and watchdog.
 *
 * Events go through feed(), which runs the machine and performs its actions;
 * what blocks (agent_steps.c) is posted to a worker and comes back as another
 * event.
 */

#include "common/clock.h"
#include "common/jsonx.h"
#include "common/log.h"
#include "coord/agent_internal.h"

#include <stdlib.h>
#include <string.h>

static void perform(struct agent_net *net,
                    const struct cut_agent_action *action);
static void tell(struct agent_net *net, const char *type, uint32_t epoch,
                 json_t *body);

/* Nothing of the cut is left: the next may come. */
static void tell_if_idle(struct agent_net *net)
{
    if (!agent_cut_idle(net))
        return;
    tell(net, "idle", net->cut.epoch, json_object());
    net->coordinator = NULL;
}

static void set_timer(struct agent_net *net)
{
    uint64_t now_ns = clock_now_ns();
    uint64_t wait_ns =
        net->cut.deadline_ns > now_ns ? net->cut.deadline_ns - now_ns : 0;
    struct timeval wait = {.tv_sec = (time_t)(wait_ns / VN_SEC),
                           .tv_usec = (suseconds_t)(wait_ns % VN_SEC / 1000)};

    evtimer_del(net->timer);
    if (net->cut.deadline_ns != UINT64_MAX)
        evtimer_add(net->timer, &wait);
}

/* VMs stand, or are about to. */
static bool is_urgent(enum cut_agent_state state)
{
    return state >= CUT_AGENT_READY && state <= CUT_AGENT_RESUMING;
}

static void feed(struct agent_net *net, const struct cut_agent_event *event)
{
    vn_auto(free) struct cut_agent_action *actions =
        vn_alloc(CUT_AGENT_ACTIONS_MAX * sizeof(*actions));
    enum cut_agent_state before = net->cut.state;
    size_t count = cut_agent_step(&net->cut, event, clock_now_ns(), actions);

    if (is_urgent(net->cut.state) != is_urgent(before))
        agent_urgent(net->agent, is_urgent(net->cut.state));
    if (net->cut.state != before)
        log_debug("network '%s': cut %u: state %d -> %d", net->name,
                  net->cut.epoch, (int)before, (int)net->cut.state);
    for (size_t i = 0; i < count; i++)
        perform(net, &actions[i]);
    set_timer(net);
    if (before != CUT_AGENT_IDLE)
        tell_if_idle(net);
}

static void on_timer(evutil_socket_t fd, short what, void *context)
{
    (void)fd;
    (void)what;
    feed(context, &(struct cut_agent_event){.kind = CUT_AGENT_TICK});
}

void agent_cut_init(struct agent_net *net, uint32_t epoch)
{
    cut_agent_init(&net->cut, net->vm_count, CUT_LEASE_NS);
    net->cut.highest_epoch = epoch;
    net->timer = evtimer_new(net->agent->base, on_timer, net);
}

void agent_cut_done(struct agent_net *net)
{
    if (net->timer)
        event_free(net->timer);
}

bool agent_cut_idle(const struct agent_net *net)
{
    return net->cut.state == CUT_AGENT_IDLE && !net->closing;
}

/* ---- tasks -------------------------------------------------------------- */

static void task_done(struct agent_task *task)
{
    struct cut_agent_event event = {
        .kind = (enum cut_agent_event_kind)task->success_event,
        .vm = task->vm ? task->vm->index : CUT_VMS_MAX,
        .epoch = task->epoch,
    };

    if (task->rc < 0) {
        event.kind = CUT_AGENT_STEP_FAILED;
        event.reason = task->err.msg;
    }
    feed(task->net, &event);
}

static void post(struct agent_net *net, struct worker *worker,
                 struct agent_vm *vm,
                 int (*run)(struct agent_task *, struct vn_err *),
                 enum cut_agent_event_kind success)
{
    agent_task_post(worker,
                    &(struct agent_task){.net = net,
                                         .vm = vm,
                                         .epoch = net->cut.epoch,
                                         .run = run,
                                         .done = task_done,
                                         .success_event = (int)success});
}

/* Its success is no event, or was reported as it happened. */
static void failure_only(struct agent_task *task)
{
    if (task->rc < 0)
        task_done(task);
}

/* A task whose success is no event by itself. */
static void post_quiet(struct agent_net *net, struct worker *worker,
                       struct agent_vm *vm,
                       int (*run)(struct agent_task *, struct vn_err *),
                       void (*done)(struct agent_task *))
{
    agent_task_post(worker, &(struct agent_task){.net = net,
                                                 .vm = vm,
                                                 .epoch = net->cut.epoch,
                                                 .run = run,
                                                 .done = done});
}

/* An event from within a task that goes on. */
struct early_event {
    struct agent_net *net;
    struct cut_agent_event event;
};

static void early_event_on_loop(void *arg)
{
    vn_auto(free) struct early_event *early = arg;

    feed(early->net, &early->event);
}

void agent_cut_report(const struct agent_task *task,
                      enum cut_agent_event_kind kind)
{
    struct early_event *early = vn_alloc(sizeof(*early));

    early->net = task->net;
    early->event = (struct cut_agent_event){
        .kind = kind, .vm = task->vm->index, .epoch = task->epoch};
    mailbox_post(task->net->agent->mailbox, early_event_on_loop, early);
}

/* ---- ends of tasks ---------------------------------------------------- */

/* The closer may end after the machine gave up. */
static void channels_closed(struct agent_task *task)
{
    struct agent_net *net = task->net;

    net->closing = false;
    if (net->cut.state == CUT_AGENT_IDLE)
        tell_if_idle(net);
    else
        task_done(task);
}

/* The machine does not wait for these; a failure is only worth a line. */
static void switch_left(struct agent_task *task)
{
    if (task->rc < 0)
        log_warn("network '%s': ending the cut: %s", task->net->name,
                 task->err.msg);
}

/* ---- messages to the coordinator ---------------------------------------- */

static void tell(struct agent_net *net, const char *type, uint32_t epoch,
                 json_t *body)
{
    json_object_set_new(body, "vne", json_string(net->name));
    json_object_set_new(body, "epoch", jsonx_int(epoch));
    agent_reply(net->coordinator, type, body);
}

static void tell_failed(struct agent_net *net, uint32_t epoch)
{
    log_warn("network '%s': snapshot given up: %s", net->name, net->cut.reason);
    tell(net, "cut-failed", epoch,
         json_pack("{s:o}", "message", jsonx_any_string(net->cut.reason)));
}

static json_t *counts_to_json(const struct store_counts *c)
{
    return json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I}", "read", (json_int_t)c->bytes_read,
        "zero", (json_int_t)c->bytes_zero, "unchanged",
        (json_int_t)c->bytes_unchanged, "known", (json_int_t)c->bytes_known,
        "new", (json_int_t)c->bytes_new, "stored", (json_int_t)c->bytes_stored);
}

static json_t *saved_vm_to_json(const struct agent_vm *vm)
{
    struct store_counts counts = vm->counts;
    uint64_t read = vm->saved.memory_bytes + vm->saved.disk_bytes;

    /* Pages of zeros that the VM named as such were never put. */
    if (read > counts.bytes_read) {
        counts.bytes_zero += read - counts.bytes_read;
        counts.bytes_read = read;
    }
    return json_pack("{s:s, s:s, s:I, s:I, s:O, s:O, s:o}", "name", vm->name,
                     "mode", vm_mode_name(vm_chosen_mode(vm->vm)), "stop_ns",
                     (json_int_t)vm->saved.stop_wall_ns, "resume_ns",
                     (json_int_t)vm->saved.resume_wall_ns, "state",
                     vm->saved.meta, "objects",
                     json_object_get(vm->fragment, "objects"), "bytes",
                     counts_to_json(&counts));
}

static void tell_saved(struct agent_net *net)
{
    const struct violin_report *r = &net->report;
    json_t *vms = json_array();

    for (unsigned i = 0; i < net->vm_count; i++)
        json_array_append_new(vms, saved_vm_to_json(&net->vms[i]));
    tell(net, "saved", net->cut.epoch,
         json_pack("{s:o, s:O, s:{s:I, s:I, s:I, s:I, s:I, s:b}}", "vms", vms,
                   "records", json_object_get(net->records, "objects"),
                   "frames", "held", (json_int_t)r->frames_held, "recorded",
                   (json_int_t)r->frames_recorded, "dropped",
                   (json_int_t)r->frames_dropped, "missing",
                   (json_int_t)r->frames_missing, "unsettled",
                   (json_int_t)r->ports_unsettled, "lossless", r->lossless));
}

/* ---- actions ------------------------------------------------------------ */

/* All VMs are prepared: how they will be captured is known. */
static void set_pause_limit(struct agent_net *net)
{
    net->cut.pause_limit_ns = AGENT_PAUSE_LIMIT_NS;
    for (unsigned i = 0; i < net->vm_count; i++)
        if (vm_chosen_mode(net->vms[i].vm) == VM_MODE_STOP)
            net->cut.pause_limit_ns = AGENT_STOP_MODE_LIMIT_NS;
}

static void perform_switch(struct agent_net *net,
                           enum cut_agent_action_kind kind)
{
    switch (kind) {
    case CUT_AGENT_DO_ARM:
        post(net, net->switcher, NULL, agent_step_arm_switch, CUT_AGENT_ARMED);
        return;
    case CUT_AGENT_DO_HOLD:
        set_pause_limit(net);
        post(net, net->switcher, NULL, agent_step_hold_ports, CUT_AGENT_HELD);
        return;
    case CUT_AGENT_DO_FLIP:
        post(net, net->switcher, NULL, agent_step_flip_ports,
             CUT_AGENT_FLIPPED);
        return;
    case CUT_AGENT_DO_CLOSE:
        net->closing = true;
        agent_task_post(net->closer, &(struct agent_task){
                                         .net = net,
                                         .epoch = net->cut.epoch,
                                         .run = agent_step_close_channels,
                                         .done = channels_closed,
                                         .success_event = CUT_AGENT_CLOSED});
        return;
    case CUT_AGENT_DO_ABORT_SWITCH:
        post_quiet(net, net->switcher, NULL, agent_step_abort_switch,
                   switch_left);
        return;
    case CUT_AGENT_DO_FINISH_SWITCH:
        post_quiet(net, net->switcher, NULL, agent_step_finish_switch,
                   switch_left);
        return;
    default:
        abort(); /* perform() sends no other */
    }
}

static void perform_vm(struct agent_net *net, enum cut_agent_action_kind kind,
                       struct agent_vm *vm)
{
    switch (kind) {
    case CUT_AGENT_DO_PREPARE:
        post(net, vm->worker, vm, agent_step_prepare_vm, CUT_AGENT_VM_PREPARED);
        return;
    case CUT_AGENT_DO_STOP:
        post(net, vm->worker, vm, agent_step_stop_vm, CUT_AGENT_VM_STOPPED);
        return;
    case CUT_AGENT_DO_CAPTURE:
        post_quiet(net, vm->worker, vm, agent_step_capture_vm, failure_only);
        return;
    case CUT_AGENT_DO_SAVE:
        post(net, vm->worker, vm, agent_step_save_vm, CUT_AGENT_VM_SAVED);
        return;
    case CUT_AGENT_DO_RELEASE:
        post_quiet(net, net->switcher, vm, agent_step_release_ports,
                   failure_only);
        return;
    case CUT_AGENT_DO_FINISH:
        post(net, vm->worker, vm, agent_step_finish_vm, CUT_AGENT_VM_CLEAN);
        return;
    case CUT_AGENT_DO_ABORT_VM:
        vm_cancel(vm->vm);
        post(net, vm->worker, vm, agent_step_abort_vm, CUT_AGENT_VM_CLEAN);
        return;
    default:
        abort(); /* perform() sends no other */
    }
}

static void perform(struct agent_net *net,
                    const struct cut_agent_action *action)
{
    switch (action->kind) {
    case CUT_AGENT_SEND_READY:
        tell(net, "ready", action->epoch,
             json_pack("{s:s*}", "domain", net->domain));
        return;
    case CUT_AGENT_SEND_CUT_DONE:
        tell(net, "cut-done", action->epoch, json_object());
        return;
    case CUT_AGENT_SEND_SAVED:
        tell_saved(net);
        return;
    case CUT_AGENT_SEND_FAILED:
        tell_failed(net, action->epoch);
        return;
    case CUT_AGENT_DO_PREPARE:
    case CUT_AGENT_DO_STOP:
    case CUT_AGENT_DO_CAPTURE:
    case CUT_AGENT_DO_SAVE:
    case CUT_AGENT_DO_RELEASE:
    case CUT_AGENT_DO_FINISH:
    case CUT_AGENT_DO_ABORT_VM:
        perform_vm(net, action->kind, &net->vms[action->vm]);
        return;
    default:
        perform_switch(net, action->kind);
        return;
    }
}

/* ---- messages from the coordinator -------------------------------------- */

static int begin_cut(struct agent_net *net, struct wire *wire,
                     const json_t *message, struct vn_err *err)
{
    const char *parent = jsonx_string_or(message, "parent", NULL);
    const char *domain = jsonx_string_or(message, "domain", NULL);
    vn_auto(store) struct store *store = NULL;
    vn_auto(json) json_t *manifest = NULL;
    const char *path, *mode;
    enum vm_mode chosen;

    if (net->phase != AGENT_NET_RUNNING || !agent_cut_idle(net))
        return vn_fail(err, EBUSY,
                       "VNE '%s' on host '%s' is being changed or snapshotted",
                       net->name, net->agent->name);
    if (jsonx_string(message, "store", &path, err) < 0 ||
        jsonx_string(message, "mode", &mode, err) < 0 ||
        vm_mode_parse(mode, &chosen, err) < 0 ||
        (domain && store_domain_check(domain, err) < 0))
        return -1;
    store = store_open(path, err);
    if (!store)
        return -1;
    if (parent) {
        manifest = store_load(store, parent, err);
        if (!manifest)
            return vn_wrap(err, "the previous snapshot");
    }
    store_close(net->store);
    net->store = vn_steal(&store);
    json_decref(net->manifest);
    net->manifest = vn_steal(&manifest);
    free(net->domain);
    net->domain = domain ? vn_strdup(domain) : NULL;
    json_decref(net->records);
    net->records = manifest_new("records", "vne");
    net->report = (struct violin_report){0};
    net->mode = chosen;
    net->coordinator = wire;
    net->cut.lease_ns =
        jsonx_u64_or(message, "lease_ms", CUT_LEASE_NS / VN_MS) * VN_MS;
    return 0;
}

static const struct {
    const char *type;
    enum cut_agent_event_kind kind;
} cut_messages[] = {
    {"prepare", CUT_AGENT_PREPARE},     {"cut", CUT_AGENT_CUT},
    {"commit", CUT_AGENT_COMMIT},       {"abort", CUT_AGENT_ABORT},
    {"keepalive", CUT_AGENT_KEEPALIVE},
};

int agent_cut_message(struct agent *agent, struct wire *wire,
                      const json_t *message, struct vn_err *err)
{
    struct cut_agent_event event = {.vm = CUT_VMS_MAX};
    struct agent_net *net;
    const char *type, *vne;

    if (jsonx_string(message, "type", &type, err) < 0 ||
        jsonx_string(message, "vne", &vne, err) < 0 ||
        jsonx_u32(message, "epoch", UINT32_MAX, &event.epoch, err) < 0)
        return -1;
    net = agent_find_net(agent, vne);
    if (!net)
        return vn_fail(err, VN_E_NOT_FOUND,
                       "VNE '%.63s' is not up on host '%s'", vne, agent->name);
    for (size_t i = 0; i < VN_COUNT(cut_messages); i++)
        if (strcmp(type, cut_messages[i].type) == 0)
            event.kind = cut_messages[i].kind;
    if (event.kind == CUT_AGENT_PREPARE) {
        if (begin_cut(net, wire, message, err) < 0)
            return -1;
    } else if (net->coordinator != wire && event.kind == CUT_AGENT_KEEPALIVE) {
        return 0; /* crossed with our "idle" */
    } else if (net->coordinator != wire) {
        return vn_fail(err, VN_E_STATE,
                       "'%s' from a coordinator whose cut this is not", type);
    }
    event.reason = jsonx_string_or(message, "reason", "the coordinator's");
    feed(net, &event);
    return 0;
}

void agent_cut_wire_lost(struct agent_net *net, struct wire *wire)
{
    if (net->coordinator != wire)
        return;
    net->coordinator = NULL;
    feed(net, &(struct cut_agent_event){.kind = CUT_AGENT_COORD_LOST,
                                        .epoch = net->cut.epoch,
                                        .vm = CUT_VMS_MAX,
                                        .reason = "the coordinator is gone"});
}

void agent_cut_trigger(struct agent_net *net, uint32_t epoch)
{
    feed(net, &(struct cut_agent_event){.kind = CUT_AGENT_TRIGGER,
                                        .epoch = epoch,
                                        .vm = CUT_VMS_MAX});
}
