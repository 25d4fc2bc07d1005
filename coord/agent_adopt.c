/*
 * Networks outlive their agent: what a new agent needs to take them up again.
 *
 * When a network is up it is remembered in STATE_DIR/nets/NAME.json: its VNE
 * with the monitors of this host's VMs. A starting agent reads these files,
 * attaches to each VM and asks violind for the network's epoch, below which no
 * cut may be prepared again. Ports and frames never needed the agent.
 *
 * A network of which some VMs are gone, or that violind does not know any
 * more, is taken up as broken: it can be described and taken down, not
 * snapshotted. One without any living VM is forgotten.
 */

#include "common/io.h"
#include "common/jsonx.h"
#include "common/log.h"
#include "coord/agent_internal.h"

#include <dirent.h>
#include <string.h>
#include <unistd.h>

#define NET_FILE_MAX (16u << 20)

static char *net_path(const struct agent *agent, const char *name)
{
    return vn_format("%s/nets/%s.json", agent->state_dir, name);
}

/* Note in the VM's description where to attach to it and whose it is. */
static void note_vm(json_t *json, const struct agent_vm *vm)
{
    json_t *config = vm_config_to_json(&vm->config);
    vn_auto(free) char *monitor = vn_format("%s/qmp.sock", vm->state_dir);

    if (!vm_config_is_attached(&vm->config)) {
        bool xen = strcmp(vm->config.backend, "xen") == 0;

        json_object_set_new(config, xen ? "domain" : "qmp",
                            json_string(xen ? vm->name : monitor));
    }
    json_object_set_new(json, "config", config);
    json_object_set_new(json, "ours", json_boolean(vm->ours));
}

static int remember(const struct agent_net *net, struct vn_err *err)
{
    vn_auto(free) char *dir = vn_format("%s/nets", net->agent->state_dir);
    vn_auto(free) char *path = net_path(net->agent, net->name);
    vn_auto(json) json_t *json = json_deep_copy(net->vne_json);
    vn_auto(free) char *text = NULL;

    for (unsigned v = 0; v < net->vm_count; v++)
        note_vm(vne_json_vm(json, net->vms[v].name), &net->vms[v]);
    text = jsonx_text(json);
    if (io_make_dirs(dir, err) < 0)
        return -1;
    return io_replace_file(path, text, strlen(text), err);
}

void agent_adopt_remember(const struct agent_net *net)
{
    struct vn_err err = VN_ERR_INIT;

    if (remember(net, &err) < 0)
        log_warn("network '%s': not remembered: %s", net->name, err.msg);
}

void agent_adopt_forget(const struct agent_net *net)
{
    vn_auto(free) char *path = net_path(net->agent, net->name);

    unlink(path);
}

/* The network's epoch at the switch; 0 if the switch does not know it. */
static uint32_t epoch_at_switch(struct agent *agent, uint32_t vni)
{
    struct vn_err err = VN_ERR_INIT;
    vn_auto(json) json_t *stats = violin_stats(agent->violin, &err);
    const json_t *net;
    size_t i;

    json_array_foreach (json_object_get(stats, "networks"), i, net)
        if (jsonx_u64_or(net, "vni", 0) == vni)
            return (uint32_t)jsonx_u64_or(net, "epoch", 0);
    return 0;
}

/* ---- taking up what an earlier agent left ----------------------------------
 */

static int adopt_vm(struct agent_task *task, struct vn_err *err)
{
    struct agent_vm *vm = task->vm;

    vm->vm = vm_attach(&vm->config, vm->state_dir, err);
    return vm->vm ? agent_ports_recall(vm, err) : -1;
}

static void adopted(struct agent_task *task)
{
    struct agent_net *net = task->net;
    unsigned alive = 0;

    agent_net_note_failure(net, task);
    if (--net->pending > 0)
        return;
    for (unsigned i = 0; i < net->vm_count; i++)
        alive += net->vms[i].vm != NULL;
    net->phase = net->failure.code || net->cut.highest_epoch == 0
                     ? AGENT_NET_BROKEN
                     : AGENT_NET_RUNNING;
    log_info("network '%s' (vni %u): taken up, %u of %u VMs%s%s", net->name,
             net->vni, alive, net->vm_count, net->failure.code ? ": " : "",
             net->failure.msg);
    net->failure = (struct vn_err)VN_ERR_INIT;
    if (alive == 0)
        agent_net_tear_down(net);
    else
        agent_ports_follow(net);
}

/* Takes the VNE over. epoch 0: violind does not know the network. */
static void take_up(struct agent *agent, struct vne *vne, json_t *vne_json,
                    uint32_t epoch)
{
    struct agent_net *net = agent_net_new(agent, vne, vne_json, false);

    agent_cut_init(net, epoch);
    net->phase = AGENT_NET_STARTING;
    net->pending = net->vm_count;
    for (unsigned v = 0; v < net->vm_count; v++)
        net->vms[v].ours = jsonx_bool_or(
            vne_json_vm(vne_json, net->vms[v].name), "ours", false);
    for (unsigned v = 0; v < net->vm_count; v++)
        agent_task_post(net->vms[v].worker,
                        &(struct agent_task){.net = net,
                                             .vm = &net->vms[v],
                                             .run = adopt_vm,
                                             .done = adopted});
}

static int adopt(struct agent *agent, const char *path, struct vn_err *err)
{
    vn_auto(json) json_t *json = NULL;
    vn_auto(vne) struct vne *vne = NULL;
    vn_auto(buf) struct buf text;
    uint32_t epoch;

    buf_init(&text, NET_FILE_MAX);
    if (io_read_file(path, &text, err) < 0)
        return -1;
    json = jsonx_parse((const char *)text.data, text.size, path, err);
    vne = json ? vne_from_json(json, err) : NULL;
    if (!vne)
        return -1;
    if (!agent_net_has_vm_on(vne, agent->name))
        return vn_fail(err, VN_E_NOT_FOUND, "VNE '%s' has no VM on host '%s'",
                       vne->name, agent->name);
    epoch = epoch_at_switch(agent, vne->vni);
    take_up(agent, vn_steal(&vne), json, epoch);
    return 0;
}

void agent_adopt_all(struct agent *agent)
{
    vn_auto(free) char *dir_path = vn_format("%s/nets", agent->state_dir);
    DIR *dir = opendir(dir_path);
    struct dirent *entry;

    while (dir && (entry = readdir(dir))) {
        vn_auto(free) char *path = vn_format("%s/%s", dir_path, entry->d_name);
        const char *end = strrchr(entry->d_name, '.');
        struct vn_err err = VN_ERR_INIT;

        if (end && strcmp(end, ".json") == 0 && adopt(agent, path, &err) < 0)
            log_warn("'%s': not taken up: %s", path, err.msg);
    }
    if (dir)
        closedir(dir);
}
