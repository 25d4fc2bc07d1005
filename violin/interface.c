/*
 * Interfaces of VMs: isolation and counters.
 *
 * How it works: flags by ioctl; what lies on top of an interface from its
 * directory in /sys (a bridge or bond is `master`, and every other kind of
 * interface above it an `upper_` link); filters by interface_filter.c.
 * Counters are files of /sys that stay open. Reading one takes no lock that
 * others hold for long; netlink and ethtool would wait for the lock under
 * which whole interfaces are made and removed.
 */
#include "violin/interface.h"

#include "common/auto.h"
#include "violin/interface_filter.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#define CPUS_MAX 4096

static void vn_auto_closedir(DIR **dir)
{
    if (*dir)
        closedir(*dir);
}

int interface_check_name(const char *name, struct vn_err *err)
{
    size_t size = strlen(name) + 1;

    if (size == 1 || size > IFNAMSIZ || strchr(name, '/') ||
        strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return vn_fail(err, VN_E_LIMIT, "interface name '%.80s'", name);
    return 0;
}

static int control_socket(const char *name, struct ifreq *request,
                          struct vn_err *err)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return vn_fail(err, errno, "interface '%s'", name);
    *request = (struct ifreq){0};
    strncpy(request->ifr_name, name, IFNAMSIZ - 1);
    return fd;
}

int interface_bring_up(const char *name, short more, struct vn_err *err)
{
    struct ifreq request;
    vn_auto(close) int fd = control_socket(name, &request, err);

    if (fd < 0)
        return -1;
    if (ioctl(fd, SIOCGIFFLAGS, &request))
        return vn_fail(err, errno, "interface '%s'", name);
    if ((request.ifr_flags & more) != more) {
        request.ifr_flags = (short)(request.ifr_flags | more);
        if (ioctl(fd, SIOCSIFFLAGS, &request))
            return vn_fail(err, errno, "set the flags of '%s'", name);
    }
    if (request.ifr_flags & IFF_UP)
        return 0;
    request.ifr_flags |= IFF_UP;
    if (ioctl(fd, SIOCSIFFLAGS, &request))
        return vn_fail(err, errno, "bring up '%s'", name);
    return 0;
}

/* ---- isolation --------------------------------------------------------- */

static int refuse_master(const char *directory, const char *name,
                         struct vn_err *err)
{
    vn_auto(free) char *path = vn_format("%s/master", directory);
    char target[256];
    ssize_t size = readlink(path, target, sizeof(target) - 1);
    const char *base;

    if (size < 0 && errno == ENOENT)
        return 0;
    if (size < 0)
        return vn_fail(err, errno, "read '%s'", path);
    target[size] = 0;
    base = strrchr(target, '/');
    return vn_fail(err, VN_E_STATE,
                   "interface '%s' is in bridge '%s': frames would cross "
                   "unseen by the switch",
                   name, base ? base + 1 : target);
}

/* VLAN, macvlan and the like on top of it. */
static int refuse_uppers(const char *directory, const char *name,
                         struct vn_err *err)
{
    vn_auto(closedir) DIR *dir = opendir(directory);
    struct dirent *entry;

    if (!dir)
        return vn_fail(err, errno, "read '%s'", directory);
    while ((entry = readdir(dir))) {
        if (strncmp(entry->d_name, "upper_", 6) == 0)
            return vn_fail(err, VN_E_STATE,
                           "interface '%s' has '%.64s' on top of it: frames "
                           "would cross unseen by the switch",
                           name, entry->d_name + 6);
    }
    return 0;
}

static int refuse_address(const char *name, struct vn_err *err)
{
    struct ifreq request;
    vn_auto(close) int fd = control_socket(name, &request, err);

    if (fd < 0)
        return -1;
    request.ifr_addr.sa_family = AF_INET;
    if (ioctl(fd, SIOCGIFADDR, &request) == 0)
        return vn_fail(err, VN_E_STATE,
                       "interface '%s' has an IPv4 address: the host would "
                       "take part in the network",
                       name);
    return 0;
}

static int turn_off_ipv6(const char *name, struct vn_err *err)
{
    vn_auto(free) char *path =
        vn_format("/proc/sys/net/ipv6/conf/%s/disable_ipv6", name);
    vn_auto(close) int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd < 0 && errno == ENOENT)
        return 0; /* a host without IPv6, or an MTU too small for it */
    if (fd < 0 || write(fd, "1", 1) != 1)
        return vn_fail(err, errno, "write '%s'", path);
    return 0;
}

int interface_isolate(const char *name, struct vn_err *err)
{
    vn_auto(free) char *directory = vn_format("/sys/class/net/%s", name);
    unsigned index = if_nametoindex(name);

    if (index == 0)
        return vn_fail(err, errno, "interface '%s'", name);
    if (refuse_master(directory, name, err) ||
        refuse_uppers(directory, name, err) || refuse_address(name, err) ||
        turn_off_ipv6(name, err))
        return -1;
    if (interface_filter_all(index, err))
        return vn_wrap(err, "keep the host out of interface '%s'", name);
    return 0;
}

void interface_use_one_queue(const char *name)
{
    vn_auto(free) char *path =
        vn_format("/sys/class/net/%s/queues/tx-0/xps_cpus", name);
    vn_auto(close) int fd = open(path, O_WRONLY | O_CLOEXEC);
    char mask[CPUS_MAX / 4 + CPUS_MAX / 32 + 2] = "";
    int cpus = get_nprocs_conf(), length = 0;

    if (fd < 0 || cpus < 1 || cpus > CPUS_MAX)
        return;
    /* Words of 32 bits, the highest first: "3,ffffffff". */
    for (int word = (cpus - 1) / 32; word >= 0; word--) {
        int bits = cpus - word * 32;
        uint32_t value = bits < 32 ? (1u << bits) - 1 : UINT32_MAX;

        length += sprintf(mask + length, "%x%s", value, word ? "," : "");
    }
    if (write(fd, mask, (size_t)length) < 0)
        return; /* one queue, or a kernel that cannot */
}

/* ---- counters ---------------------------------------------------------- */

static int open_counter(const char *name, const char *counter,
                        struct vn_err *err)
{
    vn_auto(free) char *path = vn_format("/sys/class/net/%s/%s", name, counter);
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return vn_fail(err, errno, "open '%s'", path);
    return fd;
}

static bool read_counter(int fd, uint64_t *ret)
{
    char text[32];
    ssize_t size = pread(fd, text, sizeof(text) - 1, 0);

    if (size <= 0)
        return false;
    text[size] = 0;
    *ret = strtoull(text, NULL, 10);
    return true;
}

/* /sys may be that of another network namespace than ours. */
static int check_namespace(const char *name, struct vn_err *err)
{
    vn_auto(close) int fd = open_counter(name, "ifindex", err);
    uint64_t index;

    if (fd < 0)
        return -1;
    if (!read_counter(fd, &index) || index != if_nametoindex(name))
        return vn_fail(err, VN_E_STATE,
                       "interface '%s': /sys is of another network namespace",
                       name);
    return 0;
}

int interface_watch_open(const char *name, struct interface_watch *ret,
                         struct vn_err *err)
{
    struct interface_watch watch = {-1, -1, -1};
    struct interface_counts unused;

    if (check_namespace(name, err))
        return -1;
    watch.packets = open_counter(name, "statistics/tx_packets", err);
    if (watch.packets >= 0)
        watch.dropped = open_counter(name, "statistics/tx_dropped", err);
    if (watch.dropped >= 0)
        watch.errors = open_counter(name, "statistics/tx_errors", err);
    if (watch.errors < 0) {
        interface_watch_close(&watch);
        return -1;
    }
    if (!interface_watch_read(&watch, &unused)) {
        interface_watch_close(&watch);
        return vn_fail(err, ENODEV, "counters of '%s'", name);
    }
    *ret = watch;
    return 0;
}

void interface_watch_close(struct interface_watch *watch)
{
    vn_auto_close(&watch->packets);
    vn_auto_close(&watch->dropped);
    vn_auto_close(&watch->errors);
}

bool interface_watch_read(const struct interface_watch *watch,
                          struct interface_counts *ret)
{
    uint64_t packets, dropped, errors;

    if (!read_counter(watch->packets, &packets) ||
        !read_counter(watch->dropped, &dropped) ||
        !read_counter(watch->errors, &errors))
        return false;
    ret->packets = packets;
    ret->failed = dropped + errors;
    return true;
}
