/*
 * What an agent does in a cut, step by step: blocking work on VMs and switch,
 * each function one action of coord/cut.h on a worker.
 *
 * A VM is under the watchdog's eye from just before vm_stop() until it is
 * known to run, so that neither a killed nor a hung agent leaves it standing.
 * From the hold to the last resume the threads involved are urgent
 * (common/priority.h); saving, afterwards, is less than ordinary.
 */

#include "common/fault.h"
#include "common/io.h"
#include "common/log.h"
#include "common/priority.h"
#include "coord/agent_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define SAVE_NICER 5
#define FRAMES_MAX (256u << 20) /* recorded frames of one port */

/* ---- what VMs do (on their workers) ------------------------------------- */

static int wrap_vm(const struct agent_task *task, int rc, struct vn_err *err)
{
    return rc < 0 ? vn_wrap(err, "VM '%s'", task->vm->name) : 0;
}

static void forget_cut(struct agent_vm *vm)
{
    json_decref(vn_steal(&vm->fragment));
    json_decref(vm->saved.meta);
    vm->saved = (struct vm_saved){0};
    vm->counts = (struct store_counts){0};
    vm->resumed_told = false;
}

int agent_step_prepare_vm(struct agent_task *task, struct vn_err *err)
{
    struct vm_prepare_opts opts = {.mode = task->net->mode,
                                   .timeout_ns = AGENT_STEP_NS};

    forget_cut(task->vm);
    task->vm->fragment = manifest_new("fragment", "vne");
    return vm_prepare(task->vm->vm, &opts, err);
}

int agent_step_stop_vm(struct agent_task *task, struct vn_err *err)
{
    struct agent_vm *vm = task->vm;
    /* The machine gives up first; see cut.h, pause_limit_ns. */
    uint64_t patience_ms =
        task->net->cut.pause_limit_ns / VN_MS + AGENT_WATCHDOG_EXTRA_MS;

    if (watchdog_arm(task->net->agent->watchdog, vm->label,
                     vm_rescue_address(vm->vm), vm_pid(vm->vm),
                     (unsigned)patience_ms, err) < 0)
        return wrap_vm(task, -1, err);
    agent_urgent(task->net->agent, true);
    if (vm_stop(vm->vm, &vm->stop_wall_ns, err) < 0)
        return -1;
    if (fault_hit("agent.stopped"))
        return vn_fail(err, EIO, "fault point agent.stopped");
    return 0;
}

static void vm_runs_again(void *context)
{
    struct agent_task *task = context;

    if (task->vm->resumed_told)
        return;
    task->vm->resumed_told = true;
    watchdog_disarm(task->net->agent->watchdog, task->vm->label);
    agent_cut_report(task, CUT_AGENT_VM_RESUMED);
}

int agent_step_capture_vm(struct agent_task *task, struct vn_err *err)
{
    struct agent_vm *vm = task->vm;

    if (vm_capture(vm->vm, err) < 0)
        return -1;
    agent_cut_report(task, CUT_AGENT_VM_CAPTURED);
    if (vm_chosen_mode(vm->vm) != VM_MODE_STOP)
        vm_runs_again(task);
    if (fault_hit("agent.captured"))
        return vn_fail(err, EIO, "fault point agent.captured");
    return 0;
}

int agent_step_save_vm(struct agent_task *task, struct vn_err *err)
{
    struct agent_net *net = task->net;
    struct agent_vm *vm = task->vm;
    vn_auto(store_writer) struct store_writer *writer =
        store_writer_open_in(net->store, net->domain, err);

    if (!writer)
        return -1;
    /* Hashing may wait for VMs, never they for it. */
    agent_calm(net->agent, SAVE_NICER);
    if (vm_save(vm->vm, writer, net->manifest, vm->fragment, vm_runs_again,
                task, &vm->saved, err) < 0)
        return -1;
    if (fault_hit("agent.saved"))
        return vn_fail(err, EIO, "fault point agent.saved");
    if (store_writer_flush(writer, err) < 0)
        return wrap_vm(task, -1, err);
    store_writer_counts(writer, &vm->counts);
    return 0;
}

int agent_step_finish_vm(struct agent_task *task, struct vn_err *err)
{
    int rc = vm_finish(task->vm->vm, err);

    agent_urgent(task->net->agent, false);
    forget_cut(task->vm);
    if (rc < 0) {
        /* The snapshot stands; what is left over is undone the next time. */
        log_warn("VM '%s': after the snapshot: %s", task->vm->name, err->msg);
        err->code = 0;
    }
    return 0;
}

int agent_step_abort_vm(struct agent_task *task, struct vn_err *err)
{
    struct agent_vm *vm = task->vm;
    int rc = vm_abort(vm->vm, err);

    agent_urgent(task->net->agent, false);
    forget_cut(vm);
    if (rc < 0) {
        /* Dead, or deaf: then the watchdog, still armed, has the last word. */
        log_warn("VM '%s': giving the snapshot up: %s", vm->name, err->msg);
        err->code = 0;
        return 0;
    }
    watchdog_disarm(task->net->agent->watchdog, vm->label);
    return 0;
}

/* ---- what the switch does (on its worker) ------------------------------- */

int agent_step_arm_switch(struct agent_task *task, struct vn_err *err)
{
    return violin_arm(task->net->agent->violin, task->net->vni, task->epoch,
                      err);
}

/* All local ports' names; the caller frees the array only. */
static const char **all_ports(const struct agent_net *net, size_t *ret_count)
{
    const char **ports = vn_alloc(net->vm_count * VM_NICS_MAX * sizeof(char *));
    size_t count = 0;

    for (unsigned v = 0; v < net->vm_count; v++)
        for (unsigned i = 0; i < net->vms[v].config.nic_count; i++)
            ports[count++] = net->vms[v].ports[i];
    *ret_count = count;
    return ports;
}

int agent_step_hold_ports(struct agent_task *task, struct vn_err *err)
{
    size_t count;
    vn_auto(free) const char **ports = all_ports(task->net, &count);
    uint32_t unsettled = 0;

    agent_urgent(task->net->agent, true);
    if (fault_hit("agent.hold"))
        return vn_fail(err, EIO, "fault point agent.hold");
    return violin_hold(task->net->agent->violin, task->net->vni, ports, count,
                       AGENT_SETTLE_MS, &unsettled, err);
}

int agent_step_flip_ports(struct agent_task *task, struct vn_err *err)
{
    size_t count;
    vn_auto(free) const char **ports = all_ports(task->net, &count);

    return violin_cut(task->net->agent->violin, task->net->vni, ports, count,
                      err);
}

int agent_step_release_ports(struct agent_task *task, struct vn_err *err)
{
    const struct agent_vm *vm = task->vm;

    for (unsigned i = 0; i < vm->config.nic_count; i++)
        if (violin_release(task->net->agent->violin, task->net->vni,
                           vm->ports[i], err) < 0)
            return vn_wrap(err, "port '%s'", vm->ports[i]);
    return 0;
}

static int store_port_records(struct agent_net *net,
                              struct store_writer *writer,
                              const struct agent_vm *vm, unsigned nic,
                              struct vn_err *err)
{
    vn_auto(free) char *object =
        vn_format("vm/%s/nic/%u/frames.pcapng", vm->name, nic);
    vn_auto(free) void *bytes = NULL;
    vn_auto(close) int fd = -1;
    struct map_root root;
    struct stat st;

    if (violin_records(net->agent->violin, net->vni, vm->ports[nic], &fd, err) <
        0)
        return -1;
    if (fd < 0)
        return 0;
    if (fstat(fd, &st) < 0)
        return vn_fail(err, errno, "records of port '%s'", vm->ports[nic]);
    if (st.st_size > FRAMES_MAX)
        return vn_fail(err, VN_E_LIMIT, "records of port '%s': %lld bytes",
                       vm->ports[nic], (long long)st.st_size);
    bytes = malloc((size_t)st.st_size);
    if (!bytes)
        return vn_fail(err, ENOMEM, "records of port '%s'", vm->ports[nic]);
    if (io_pread(fd, bytes, (size_t)st.st_size, 0, err) < 0 ||
        store_put_bytes(writer, bytes, (size_t)st.st_size, &root, err) < 0)
        return vn_wrap(err, "'%s'", object);
    manifest_add(net->records, object, &root);
    return 0;
}

static int store_records(struct agent_net *net, struct vn_err *err)
{
    vn_auto(store_writer) struct store_writer *writer =
        store_writer_open_in(net->store, net->domain, err);

    if (!writer)
        return -1;
    for (unsigned v = 0; v < net->vm_count; v++)
        for (unsigned i = 0; i < net->vms[v].config.nic_count; i++)
            if (store_port_records(net, writer, &net->vms[v], i, err) < 0)
                return -1;
    return store_writer_flush(writer, err);
}

int agent_step_close_channels(struct agent_task *task, struct vn_err *err)
{
    struct agent_net *net = task->net;

    if (violin_await_closed(net->agent->violin, net->vni, AGENT_MARKER_MS,
                            AGENT_PATIENCE_MS, &net->report, err) < 0)
        return -1;
    return store_records(net, err);
}

int agent_step_abort_switch(struct agent_task *task, struct vn_err *err)
{
    agent_urgent(task->net->agent, false);
    return violin_abort(task->net->agent->violin, task->net->vni, task->epoch,
                        err);
}

int agent_step_finish_switch(struct agent_task *task, struct vn_err *err)
{
    agent_urgent(task->net->agent, false);
    return violin_finish(task->net->agent->violin, task->net->vni, task->epoch,
                         err);
}
