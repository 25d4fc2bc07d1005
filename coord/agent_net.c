/*
 * A virtual network's part on this host: up, down, restore.
 *
 * Bringing up: network and peers at the switch, then for every VM, on its own
 * worker, a socket pair a NIC (one end to the switch, one to the VM; or, for a
 * back end that makes interfaces, a port on each afterwards) and the VM itself:
 * started, attached to, or rebuilt from a snapshot and left standing. When all
 * are there the request is answered. If one fails all are taken down again. A
 * restored network waits for "start", the barrier.
 */

#include "common/clock.h"
#include "common/io.h"
#include "common/jsonx.h"
#include "common/log.h"
#include "coord/agent_internal.h"
#include "restore/rehydrate.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FIRST_EPOCH 1

/* ---- bringing up -------------------------------------------------------- */

static struct vm *make_vm(struct agent_vm *vm, struct vn_err *err)
{
    struct agent_net *net = vm->net;

    if (net->restoring)
        return rehydrate_vm(&vm->config, vm->state_dir, net->store,
                            net->manifest, err);
    if (vm_config_is_attached(&vm->config))
        return vm_attach(&vm->config, vm->state_dir, err);
    return vm_start(&vm->config, vm->state_dir, err);
}

static int bring_up(struct agent_task *task, struct vn_err *err)
{
    struct agent_vm *vm = task->vm;
    int rc = io_make_dirs(vm->state_dir, err);

    if (rc == 0)
        rc = agent_ports_add(vm, err);
    if (rc == 0) {
        vm->vm = make_vm(vm, err);
        rc = vm->vm ? 0 : -1;
    }
    agent_ports_handed_over(vm);
    if (rc == 0)
        rc = agent_ports_add_interfaces(vm, err);
    if (rc == 0 && task->net->restoring)
        rc = agent_ports_replay(vm, err);
    return rc < 0 ? vn_wrap(err, "VM '%s'", vm->name) : 0;
}

static json_t *describe_vms(const struct agent_net *net)
{
    json_t *vms = json_array();

    for (unsigned i = 0; i < net->vm_count; i++) {
        const struct agent_vm *vm = &net->vms[i];

        json_array_append_new(
            vms,
            json_pack("{s:s, s:i, s:s, s:I}", "name", vm->name, "pid",
                      vm->vm ? vm_pid(vm->vm) : 0, "state_dir", vm->state_dir,
                      "resume_ns", (json_int_t)vm->resume_wall_ns));
    }
    return vms;
}

static void answer(struct agent_net *net, const char *type)
{
    struct wire *wire = vn_steal(&net->requester);

    if (wire)
        agent_reply(wire, type,
                    json_pack("{s:s, s:o}", "vne", net->name, "vms",
                              describe_vms(net)));
}

void agent_net_note_failure(struct agent_net *net,
                            const struct agent_task *task)
{
    if (task->rc < 0 && net->failure.code == 0)
        net->failure = task->err;
}

static void brought_up(struct agent_task *task)
{
    struct agent_net *net = task->net;

    agent_net_note_failure(net, task);
    if (--net->pending > 0)
        return;
    if (net->failure.code || net->phase == AGENT_NET_STOPPING) {
        agent_net_tear_down(net);
        return;
    }
    net->phase = net->restoring ? AGENT_NET_LOADED : AGENT_NET_RUNNING;
    if (!net->restoring) {
        agent_adopt_remember(net);
        agent_ports_follow(net);
    }
    log_info("network '%s' (vni %u): %u VMs %s", net->name, net->vni,
             net->vm_count, net->restoring ? "loaded" : "up");
    answer(net, net->restoring ? "restored" : "up-done");
}

/* Other hosts that have VMs of this network are its switch's peers. */
static int set_peers(struct agent_net *net, struct vn_err *err)
{
    const struct vne *vne = net->vne;
    vn_auto(free) struct violin_peer *peers =
        vn_alloc(vne->host_count * sizeof(struct violin_peer));
    size_t count = 0;

    for (size_t h = 0; h < vne->host_count; h++) {
        const struct vne_host *host = &vne->hosts[h];
        bool used = false;

        for (size_t v = 0; v < vne->vm_count; v++)
            used |=
                vne->vms[v].host && strcmp(vne->vms[v].host, host->name) == 0;
        if (used && strcmp(host->name, net->agent->name) != 0)
            peers[count++] = (struct violin_peer){.name = host->name,
                                                  .address = host->underlay};
    }
    return violin_peers_set(net->agent->violin, net->vni, peers, count, err);
}

static int set_up_switch(struct agent_task *task, struct vn_err *err)
{
    struct agent_net *net = task->net;

    if (violin_net_add(net->agent->violin, net->vni, task->epoch, err) < 0)
        return -1;
    return set_peers(net, err);
}

static void switch_set_up(struct agent_task *task)
{
    struct agent_net *net = task->net;

    agent_net_note_failure(net, task);
    if (net->failure.code) {
        net->pending = 0;
        agent_net_tear_down(net);
        return;
    }
    net->pending = net->vm_count;
    for (unsigned i = 0; i < net->vm_count; i++)
        agent_task_post(net->vms[i].worker,
                        &(struct agent_task){.net = net,
                                             .vm = &net->vms[i],
                                             .run = bring_up,
                                             .done = brought_up});
}

/* ---- the network's structure -------------------------------------------- */

static void take_vm(struct agent_net *net, struct vne_vm *from)
{
    struct agent_vm *vm = &net->vms[net->vm_count];

    vm->net = net;
    vm->index = net->vm_count++;
    vm->config = from->config;
    from->config = (struct vm_config){0};
    vm->name = vm->config.name;
    vm->ours = !vm_config_is_attached(&vm->config);
    vm->state_dir =
        vn_format("%s/vms/%s.%s", net->agent->state_dir, net->name, vm->name);
    vm->label = vn_format("%s/%s", net->name, vm->name);
    vm->worker = worker_start(vm->name);
    for (unsigned i = 0; i < vm->config.nic_count; i++) {
        struct vm_nic *nic = &vm->config.nics[i];

        vm->ports[i] = vn_format("%s.%u", vm->name, i);
        nic->fd = -1;
        if (net->restoring)
            nic->kind =
                strcmp(vm->config.backend, "xen") == 0 ? VM_NIC_VIF : VM_NIC_FD;
    }
}

struct agent_net *agent_net_new(struct agent *agent, struct vne *vne,
                                json_t *vne_json, bool restoring)
{
    struct agent_net *net = vn_alloc(sizeof(*net));

    net->agent = agent;
    net->vne = vne;
    net->vne_json = json_incref(vne_json);
    net->name = vne->name;
    net->vni = vne->vni;
    net->restoring = restoring;
    net->switcher = worker_start("switcher");
    net->closer = worker_start("closer");
    net->vms = vn_alloc(vne->vm_count * sizeof(struct agent_vm));
    for (size_t i = 0; i < vne->vm_count; i++)
        if (vne->vms[i].host && strcmp(vne->vms[i].host, agent->name) == 0)
            take_vm(net, &vne->vms[i]);
    LIST_INSERT_HEAD(&agent->nets, net, link);
    return net;
}

json_t *agent_net_describe(const struct agent_net *net)
{
    static const char *const phases[] = {"starting", "loaded", "running",
                                         "broken", "stopping"};

    return json_pack("{s:s, s:i, s:I, s:s, s:b, s:o}", "name", net->name, "vni",
                     (int)net->vni, "epoch", (json_int_t)net->cut.highest_epoch,
                     "phase", phases[net->phase], "busy", !agent_cut_idle(net),
                     "vms", describe_vms(net));
}

static void vm_done(struct agent_vm *vm)
{
    worker_stop(vm->worker);
    vm_free(vm->vm);
    for (unsigned i = 0; i < vm->config.nic_count; i++) {
        free(vm->ports[i]);
        free(vm->interfaces[i]);
    }
    json_decref(vm->fragment);
    json_decref(vm->saved.meta);
    vm_config_done(&vm->config);
    free(vm->state_dir);
    free(vm->label);
}

void agent_net_free(struct agent_net *net)
{
    LIST_REMOVE(net, link);
    for (unsigned i = 0; i < net->vm_count; i++)
        vm_done(&net->vms[i]);
    worker_stop(net->switcher);
    worker_stop(net->closer);
    agent_cut_done(net);
    agent_ports_unfollow(net);
    store_close(net->store);
    json_decref(net->manifest);
    json_decref(net->records);
    free(net->domain);
    free(net->vms);
    vne_free(net->vne);
    json_decref(net->vne_json);
    free(net);
}

/* ---- taking down -------------------------------------------------------- */

static int take_vm_down(struct agent_task *task, struct vn_err *err)
{
    struct agent_vm *vm = task->vm;
    int rc = 0;

    /* A VM that others started is let go, not killed. */
    if (vm->vm && vm->ours)
        rc = vm_shutdown(vm->vm, err);
    vm_free(vn_steal(&vm->vm));
    agent_ports_remove(vm);
    return rc;
}

static int take_switch_down(struct agent_task *task, struct vn_err *err)
{
    return violin_net_del(task->net->agent->violin, task->net->vni, err);
}

static void taken_down(struct agent_task *task)
{
    struct agent_net *net = task->net;
    struct wire *wire = vn_steal(&net->requester);
    struct vn_err failure;

    if (task->rc < 0)
        log_warn("network '%s': %s", net->name, task->err.msg);
    failure = net->failure;
    log_info("network '%s' (vni %u): down", net->name, net->vni);
    if (wire && failure.code)
        agent_reply_failed(wire, net->restoring ? "restore" : "up", &failure);
    else if (wire)
        agent_reply(wire, "down-done", json_pack("{s:s}", "vne", net->name));
    agent_net_free(net);
}

static void vm_taken_down(struct agent_task *task)
{
    struct agent_net *net = task->net;

    if (task->rc < 0)
        log_warn("VM '%s': %s", task->vm->name, task->err.msg);
    if (--net->pending == 0)
        agent_task_post(net->switcher,
                        &(struct agent_task){.net = net,
                                             .run = take_switch_down,
                                             .done = taken_down});
}

void agent_net_tear_down(struct agent_net *net)
{
    agent_adopt_forget(net);
    net->phase = AGENT_NET_STOPPING;
    net->pending = net->vm_count;
    for (unsigned i = 0; i < net->vm_count; i++)
        agent_task_post(net->vms[i].worker,
                        &(struct agent_task){.net = net,
                                             .vm = &net->vms[i],
                                             .run = take_vm_down,
                                             .done = vm_taken_down});
}

/* ---- messages ----------------------------------------------------------- */

bool agent_net_has_vm_on(const struct vne *vne, const char *host)
{
    for (size_t i = 0; i < vne->vm_count; i++)
        if (vne->vms[i].host && strcmp(vne->vms[i].host, host) == 0)
            return true;
    return false;
}

/* The message's VNE, meant for this host and not here yet. */
static struct vne *new_vne(struct agent *agent, const json_t *message,
                           struct vn_err *err)
{
    vn_auto(vne) struct vne *vne = NULL;
    const char *host;
    json_t *json;

    if (jsonx_string(message, "host", &host, err) < 0 ||
        jsonx_object(message, "vne", &json, err) < 0)
        return NULL;
    if (strcmp(host, agent->name) != 0)
        return vn_fail_ptr(err, VN_E_STATE,
                           "this agent is host '%s', not '%.63s': check the "
                           "agent address in the VNE file",
                           agent->name, host);
    vne = vne_from_json(json, err);
    if (!vne)
        return NULL;
    if (!agent_net_has_vm_on(vne, host))
        return vn_fail_ptr(err, VN_E_NOT_FOUND,
                           "VNE '%s' has no VM on host '%s'", vne->name, host);
    if (agent_find_net(agent, vne->name))
        return vn_fail_ptr(err, VN_E_EXISTS,
                           "VNE '%s' is up on host '%s' already", vne->name,
                           agent->name);
    return vn_steal(&vne);
}

static void begin(struct agent_net *net, struct wire *wire, uint32_t epoch)
{
    agent_cut_init(net, epoch);
    net->requester = wire;
    net->owner = wire;
    net->phase = AGENT_NET_STARTING;
    agent_task_post(net->switcher, &(struct agent_task){.net = net,
                                                        .epoch = epoch,
                                                        .run = set_up_switch,
                                                        .done = switch_set_up});
}

int agent_net_up(struct agent *agent, struct wire *wire, const json_t *message,
                 struct vn_err *err)
{
    struct vne *vne = new_vne(agent, message, err);

    if (!vne)
        return -1;
    begin(agent_net_new(agent, vne, json_object_get(message, "vne"), false),
          wire, FIRST_EPOCH);
    return 0;
}

int agent_net_restore(struct agent *agent, struct wire *wire,
                      const json_t *message, struct vn_err *err)
{
    vn_auto(store) struct store *store = NULL;
    vn_auto(json) json_t *manifest = NULL;
    vn_auto(vne) struct vne *vne = NULL;
    const char *path, *snapshot;
    struct agent_net *net;
    uint32_t epoch;

    if (jsonx_string(message, "store", &path, err) < 0 ||
        jsonx_string(message, "snapshot", &snapshot, err) < 0 ||
        jsonx_u32(message, "epoch", UINT32_MAX, &epoch, err) < 0)
        return -1;
    vne = new_vne(agent, message, err);
    store = vne ? store_open(path, err) : NULL;
    manifest = store ? store_load(store, snapshot, err) : NULL;
    if (!manifest)
        return -1;
    net = agent_net_new(agent, vn_steal(&vne), json_object_get(message, "vne"),
                        true);
    net->store = vn_steal(&store);
    net->manifest = vn_steal(&manifest);
    begin(net, wire, epoch);
    return 0;
}

static struct agent_net *named_net(struct agent *agent, const json_t *message,
                                   struct vn_err *err)
{
    struct agent_net *net;
    const char *name;

    if (jsonx_string(message, "vne", &name, err) < 0)
        return NULL;
    net = agent_find_net(agent, name);
    if (!net)
        return vn_fail_ptr(err, VN_E_NOT_FOUND,
                           "VNE '%.63s' is not up on host '%s'", name,
                           agent->name);
    return net;
}

int agent_net_down(struct agent *agent, struct wire *wire,
                   const json_t *message, struct vn_err *err)
{
    struct agent_net *net = named_net(agent, message, err);

    if (!net)
        return -1;
    if (net->phase == AGENT_NET_STARTING || net->phase == AGENT_NET_STOPPING ||
        net->pending || !agent_cut_idle(net))
        return vn_fail(err, EBUSY,
                       "VNE '%s' on host '%s' is being changed or snapshotted",
                       net->name, agent->name);
    net->requester = wire;
    agent_net_tear_down(net);
    return 0;
}

/* ---- the barrier: every restored VM runs -------------------------------- */

static int resume_vm(struct agent_task *task, struct vn_err *err)
{
    struct agent_vm *vm = task->vm;

    if (vm_resume(vm->vm, &vm->resume_wall_ns, err) < 0)
        return vn_wrap(err, "VM '%s'", vm->name);
    for (unsigned i = 0; i < vm->config.nic_count; i++)
        if (violin_release(task->net->agent->violin, task->net->vni,
                           vm->ports[i], err) < 0)
            return vn_wrap(err, "port '%s'", vm->ports[i]);
    return 0;
}

static void vm_resumed(struct agent_task *task)
{
    struct agent_net *net = task->net;

    agent_net_note_failure(net, task);
    if (--net->pending > 0)
        return;
    if (net->failure.code) {
        agent_net_tear_down(net);
        return;
    }
    net->phase = AGENT_NET_RUNNING;
    net->restoring = false;
    agent_adopt_remember(net);
    agent_ports_follow(net);
    log_info("network '%s': %u VMs run", net->name, net->vm_count);
    answer(net, "started");
}

int agent_net_start(struct agent *agent, struct wire *wire,
                    const json_t *message, struct vn_err *err)
{
    struct agent_net *net = named_net(agent, message, err);

    if (!net)
        return -1;
    if (net->phase != AGENT_NET_LOADED || net->pending)
        return vn_fail(err, VN_E_STATE,
                       "VNE '%s' on host '%s' is not waiting to be started",
                       net->name, agent->name);
    net->requester = wire;
    net->pending = net->vm_count;
    for (unsigned i = 0; i < net->vm_count; i++)
        agent_task_post(net->vms[i].worker,
                        &(struct agent_task){.net = net,
                                             .vm = &net->vms[i],
                                             .run = resume_vm,
                                             .done = vm_resumed});
    return 0;
}

void agent_net_wire_lost(struct agent_net *net, struct wire *wire)
{
    if (net->requester == wire)
        net->requester = NULL;
    if (net->owner != wire)
        return;
    net->owner = NULL;
    if (!net->restoring || net->phase == AGENT_NET_RUNNING)
        return;
    log_warn("network '%s': the restore's coordinator is gone", net->name);
    if (net->pending == 0 && net->phase == AGENT_NET_LOADED)
        agent_net_tear_down(net);
    else if (net->phase == AGENT_NET_STARTING)
        net->phase = AGENT_NET_STOPPING; /* brought_up() takes it down */
}
