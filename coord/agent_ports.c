/*
 * Ports at the switch for the NICs of a VM.
 *
 * A NIC is a socket pair (one end to the switch, one to the VM), a TAP or a
 * pair of unix sockets that the VNE names, or, with back ends that make
 * interfaces, an interface of the host that comes with the VM. The last kind
 * goes with the VM, too: one that reboots gets a new interface of another name.
 * So a timer looks, while no snapshot is under way, whether the interface of
 * each such NIC is still the one that its port is on, and puts the port onto
 * the new one. Until then the VM has no network, as one that boots.
 */

#include "common/io.h"
#include "common/log.h"
#include "coord/agent_internal.h"

#include <errno.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define NIC_SOCKET_BYTES (4 << 20) /* room for bursts towards the switch */
#define LOOK_S           1

/* ---- adding ------------------------------------------------------------- */

static int nic_socketpair(int ends[2], struct vn_err *err)
{
    int size = NIC_SOCKET_BYTES;

    if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, ends) < 0)
        return vn_fail(err, errno, "socket pair for a NIC");
    for (int i = 0; i < 2; i++)
        if (setsockopt(ends[i], SOL_SOCKET, SO_SNDBUFFORCE, &size,
                       sizeof(size)) < 0)
            (void)setsockopt(ends[i], SOL_SOCKET, SO_SNDBUF, &size,
                             sizeof(size));
    return 0;
}

static int add_port(struct agent_vm *vm, unsigned index, struct vn_err *err)
{
    struct agent_net *net = vm->net;
    struct violin_client *violin = net->agent->violin;
    struct vm_nic *nic = &vm->config.nics[index];
    const char *port = vm->ports[index];
    vn_auto(close) int ours = -1;
    int ends[2];

    if (nic->kind == VM_NIC_VIF)
        return 0; /* its interface comes with the VM */
    if (nic->kind == VM_NIC_TAP)
        return violin_port_add_tap(violin, net->vni, port, nic->tap,
                                   net->restoring, err);
    if (nic->kind == VM_NIC_UNIX)
        return violin_port_add_unix(violin, net->vni, port, nic->unix_remote,
                                    nic->unix_local, net->restoring, err);
    if (nic_socketpair(ends, err) < 0)
        return -1;
    ours = ends[0];
    nic->fd = ends[1];
    return violin_port_add_fd(violin, net->vni, port, ours, net->restoring,
                              err);
}

int agent_ports_add(struct agent_vm *vm, struct vn_err *err)
{
    for (unsigned i = 0; i < vm->config.nic_count; i++)
        if (add_port(vm, i, err) < 0)
            return -1;
    return 0;
}

void agent_ports_handed_over(struct agent_vm *vm)
{
    for (unsigned i = 0; i < vm->config.nic_count; i++) {
        struct vm_nic *nic = &vm->config.nics[i];

        if (nic->kind == VM_NIC_FD && nic->fd >= 0)
            close(vn_steal_fd(&nic->fd));
    }
}

static int add_interface(struct agent_vm *vm, unsigned index, const char *name,
                         struct vn_err *err)
{
    struct agent_net *net = vm->net;

    if (violin_port_add_packet(net->agent->violin, net->vni, vm->ports[index],
                               name, net->restoring, err) < 0)
        return -1;
    free(vm->interfaces[index]);
    vm->interfaces[index] = vn_strdup(name);
    return 0;
}

int agent_ports_add_interfaces(struct agent_vm *vm, struct vn_err *err)
{
    for (unsigned i = 0; i < vm->config.nic_count; i++) {
        const char *name;

        if (vm->config.nics[i].kind != VM_NIC_VIF)
            continue;
        name = vm_nic_interface(vm->vm, i, err);
        if (!name || add_interface(vm, i, name, err) < 0)
            return -1;
    }
    return 0;
}

int agent_ports_recall(struct agent_vm *vm, struct vn_err *err)
{
    for (unsigned i = 0; i < vm->config.nic_count; i++) {
        const char *name;

        if (vm->config.nics[i].kind != VM_NIC_VIF)
            continue;
        name = vm_nic_interface(vm->vm, i, err);
        if (!name)
            return -1;
        vm->interfaces[i] = vn_strdup(name);
    }
    return 0;
}

void agent_ports_remove(struct agent_vm *vm)
{
    struct vn_err ignored = VN_ERR_INIT;

    for (unsigned i = 0; i < vm->config.nic_count; i++)
        if (violin_port_del(vm->net->agent->violin, vm->net->vni, vm->ports[i],
                            &ignored) < 0)
            log_debug("port '%s': %s", vm->ports[i], ignored.msg);
}

/* ---- following ---------------------------------------------------------- */

/* On the VM's worker. A VM that is just rebooting has no interface: later. */
static int look_at_interfaces(struct agent_task *task, struct vn_err *err)
{
    struct agent_vm *vm = task->vm;
    struct violin_client *violin = task->net->agent->violin;
    struct vn_err ignored = VN_ERR_INIT;

    for (unsigned i = 0; i < vm->config.nic_count; i++) {
        const char *name;

        if (vm->config.nics[i].kind != VM_NIC_VIF)
            continue;
        name = vm_nic_interface(vm->vm, i, &ignored);
        if (!name || strcmp(name, vm->interfaces[i]) == 0)
            continue;
        if (violin_port_del(violin, task->net->vni, vm->ports[i], &ignored) < 0)
            log_debug("port '%s': %s", vm->ports[i], ignored.msg);
        if (add_interface(vm, i, name, err) < 0)
            return -1;
        log_info("VM '%s': port '%s' is on interface '%s' now", vm->name,
                 vm->ports[i], name);
    }
    return 0;
}

static void looked_at(struct agent_task *task)
{
    task->net->looks--;
    if (task->rc < 0)
        log_warn("VM '%s': its new interface: %s", task->vm->name,
                 task->err.msg);
}

static bool has_interfaces(const struct agent_vm *vm)
{
    for (unsigned i = 0; i < vm->config.nic_count; i++)
        if (vm->interfaces[i])
            return true;
    return false;
}

static void on_look(evutil_socket_t fd, short what, void *context)
{
    struct agent_net *net = context;

    (void)fd;
    (void)what;
    if (net->phase != AGENT_NET_RUNNING || !agent_cut_idle(net) || net->looks)
        return;
    for (unsigned i = 0; i < net->vm_count; i++) {
        if (!has_interfaces(&net->vms[i]))
            continue;
        net->looks++;
        agent_task_post(net->vms[i].worker,
                        &(struct agent_task){.net = net,
                                             .vm = &net->vms[i],
                                             .run = look_at_interfaces,
                                             .done = looked_at});
    }
}

void agent_ports_follow(struct agent_net *net)
{
    const struct timeval wait = {.tv_sec = LOOK_S};
    bool any = false;

    for (unsigned i = 0; i < net->vm_count; i++)
        any |= has_interfaces(&net->vms[i]);
    if (!any)
        return;
    net->look = event_new(net->agent->base, -1, EV_PERSIST, on_look, net);
    evtimer_add(net->look, &wait);
}

void agent_ports_unfollow(struct agent_net *net)
{
    if (net->look)
        event_free(vn_steal(&net->look));
}

/* ---- frames in flight --------------------------------------------------- */

static int replay_frames(struct agent_vm *vm, unsigned index,
                         struct vn_err *err)
{
    struct agent_net *net = vm->net;
    vn_auto(free) char *object =
        vn_format("vm/%s/nic/%u/frames.pcapng", vm->name, index);
    vn_auto(image_reader) struct image_reader *image = NULL;
    vn_auto(free) char *bytes = NULL;
    vn_auto(close) int fd = -1;
    struct map_root root;

    if (manifest_object(net->manifest, object, &root, err) < 0) {
        if (err->code != VN_E_NOT_FOUND)
            return -1;
        err->code = 0; /* none were in flight */
        return 0;
    }
    image = image_reader_open(net->store, &root, err);
    bytes = image ? malloc(root.size) : NULL;
    if (image && !bytes)
        return vn_fail(err, ENOMEM, "'%s'", object);
    if (!image || image_reader_read(image, 0, bytes, root.size, err) < 0)
        return vn_wrap(err, "object '%s'", object);
    fd = memfd_create("frames", MFD_CLOEXEC);
    if (fd < 0)
        return vn_fail(err, errno, "memfd for '%s'", object);
    if (io_write(fd, bytes, root.size, err) < 0)
        return -1;
    return violin_replay(net->agent->violin, net->vni, vm->ports[index], fd,
                         err);
}

int agent_ports_replay(struct agent_vm *vm, struct vn_err *err)
{
    for (unsigned i = 0; i < vm->config.nic_count; i++)
        if (replay_frames(vm, i, err) < 0)
            return -1;
    return 0;
}
