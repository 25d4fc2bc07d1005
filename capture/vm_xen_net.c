/*
 * Virtual interfaces: their names, and what is still on its way in them.
 *
 * The guest puts frames into a ring; netback, a kernel thread of the host,
 * takes them out. When the guest is suspended some may still be in the ring.
 * They belong to the time before the cut, so they must reach the switch before
 * its ports are flipped: on a restore the guest's driver would drop them.
 * netback shows its rings in debugfs: producer equal to consumer, and none
 * pending (handed to the network stack, whose consumers have them then). Where
 * that is not mounted, two equal counts of received packets a while apart.
 */
#include "capture/vm_xen_internal.h"

#include "common/clock.h"
#include "common/io.h"
#include "common/log.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RINGS         "/sys/kernel/debug/xen-netback"
#define SETTLE_MAX_NS (20 * VN_MS)
#define LOOK_US       200
#define COUNT_GAP_US  1000
#define RING_TEXT_MAX 16384u
#define LOCAL_BACKEND "/local/domain/0/"

/* Freed by the caller; NULL: it has no such vif, or not on this host. */
static char *find_interface(const struct vm_xen *x, const char *index)
{
    vn_auto(free) char *backend = vm_xen_read(
        x->host.xs, "/libxl/%u/device/vif/%s/backend", x->id.domid, index);
    vn_auto(free) char *name = NULL;

    if (!backend || strncmp(backend, LOCAL_BACKEND, strlen(LOCAL_BACKEND)) != 0)
        return NULL;
    name = vm_xen_read(x->host.xs, "%s/vifname", backend);
    if (name && *name && !strchr(name, '/'))
        return vn_steal(&name);
    return vn_format("vif%u.%s", x->id.domid, index);
}

const char *vm_xen_nic_interface(struct vm_xen *x, unsigned index,
                                 struct vn_err *err)
{
    vn_auto(free) char *number = vn_format("%u", index);
    vn_auto(free) char *path = NULL;

    if (!x->has_domain || index >= VM_NICS_MAX)
        return vn_fail_ptr(err, VN_E_STATE, "VM '%s' has no NIC %u yet",
                           x->base.name, index);
    free(x->interfaces[index]);
    x->interfaces[index] = find_interface(x, number);
    if (!x->interfaces[index])
        return vn_fail_ptr(err, VN_E_NOT_FOUND,
                           "VM '%s': its domain %u has no vif %u on this host",
                           x->base.name, x->id.domid, index);
    path = vn_format("/sys/class/net/%s", x->interfaces[index]);
    if (access(path, F_OK) < 0)
        return vn_fail_ptr(err, errno, "VM '%s': interface '%s' of NIC %u",
                           x->base.name, x->interfaces[index], index);
    return x->interfaces[index];
}

/* ---- on its way --------------------------------------------------------- */

/* 1: nothing is in this ring; 0: something; -1: cannot tell. */
static int is_ring_empty(const char *path)
{
    vn_auto(buf) struct buf text;
    struct vn_err ignored = VN_ERR_INIT;
    unsigned produced, consumed, pending;
    const char *line;

    buf_init(&text, RING_TEXT_MAX);
    if (io_read_file(path, &text, &ignored) < 0)
        return -1;
    line = strstr((const char *)text.data, "req prod"); /* the first is TX */
    if (!line ||
        sscanf(line, "req prod %u (%*d) cons %u", &produced, &consumed) != 2)
        return -1;
    line = strstr(line, "nr_pending_reqs");
    if (!line || sscanf(line, "nr_pending_reqs %u", &pending) != 1)
        return -1;
    return produced == consumed && pending == 0;
}

/* The same over all queues of a vif. */
static int are_rings_empty(const char *interface)
{
    vn_auto(free) char *path = vn_format(RINGS "/%s", interface);
    DIR *dir = opendir(path);
    struct dirent *entry;
    int result = dir ? 1 : -1;

    while (dir && result == 1 && (entry = readdir(dir))) {
        vn_auto(free) char *ring = vn_format("%s/%s", path, entry->d_name);

        if (strncmp(entry->d_name, "io_ring_q", 9) == 0)
            result = is_ring_empty(ring);
    }
    if (dir)
        closedir(dir);
    return result;
}

static uint64_t count_packets(const char *interface)
{
    vn_auto(free) char *path =
        vn_format("/sys/class/net/%s/statistics/rx_packets", interface);
    vn_auto(buf) struct buf text;
    struct vn_err ignored = VN_ERR_INIT;

    buf_init(&text, 64);
    if (io_read_file(path, &text, &ignored) < 0)
        return 0;
    return strtoull((const char *)text.data, NULL, 10);
}

/* False: time is over, and something may be left. */
static bool settle(const char *interface, uint64_t deadline_ns)
{
    int empty = are_rings_empty(interface);
    uint64_t before, now;

    while (empty == 0 && clock_now_ns() < deadline_ns) {
        usleep(LOOK_US);
        empty = are_rings_empty(interface);
    }
    if (empty >= 0)
        return empty == 1;
    now = count_packets(interface);
    do {
        before = now;
        usleep(COUNT_GAP_US);
        now = count_packets(interface);
    } while (now != before && clock_now_ns() < deadline_ns);
    return now == before;
}

void vm_xen_settle_vifs(struct vm_xen *x)
{
    vn_auto(free) char *path = vn_format("/libxl/%u/device/vif", x->id.domid);
    unsigned count = 0;
    vn_auto(free) char **indices =
        xs_directory(x->host.xs, XBT_NULL, path, &count);
    uint64_t deadline_ns = clock_now_ns() + SETTLE_MAX_NS;

    for (unsigned i = 0; indices && i < count; i++) {
        vn_auto(free) char *interface = find_interface(x, indices[i]);

        if (interface && !settle(interface, deadline_ns))
            log_debug("vm_xen: not settled vm=%s interface=%s", x->base.name,
                      interface);
    }
}
