#ifndef TESTS_UNIT_NET_NAMESPACES_H
#define TESTS_UNIT_NET_NAMESPACES_H

/*
 * Two network namespaces of this process, a host's and a VM's, with a veth
 * pair between them that stands in for a Xen vif: "vif" in the host's, "eth0"
 * in the VM's. Needs root and ip(8). A thread made later is in the host's.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

static int host_ns = -1, vm_ns = -1;

static inline void in_namespace(int fd)
{
    assert_int_equal(setns(fd, CLONE_NEWNET), 0);
}

/* Run a shell command that must work. */
static inline void sh(const char *command)
{
    if (system(command) != 0)
        fail_msg("%s", command);
}

static inline void vm_sh(const char *command)
{
    in_namespace(vm_ns);
    sh(command);
    in_namespace(host_ns);
}

static inline int new_namespace(void)
{
    if (unshare(CLONE_NEWNET))
        return -1;
    return open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
}

/* Before the tests; 77 where it cannot be, 0. */
static inline int enter_namespaces(void)
{
    if (geteuid() != 0 || system("ip -V >/dev/null 2>&1") != 0) {
        print_message("skipped: needs root and ip(8)\n");
        return 77;
    }
    vm_ns = new_namespace();
    host_ns = new_namespace();
    if (vm_ns < 0 || host_ns < 0 || unshare(CLONE_NEWNS) ||
        mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
        mount("sysfs", "/sys", "sysfs", 0, NULL) ||
        system("ip link add vif type veth peer name eth0 && "
               "ip link del vif") != 0) {
        print_message("skipped: no network namespaces or no veth here\n");
        return 77;
    }
    return 0;
}

/* The pair. The VM's end is down, and has no IPv6. */
static inline void make_veth(void)
{
    char command[80];

    snprintf(command, sizeof(command), "ip link set eth0 netns /proc/%d/fd/%d",
             getpid(), vm_ns);
    sh("ip link add vif numtxqueues 4 type veth peer name eth0");
    sh(command);
    vm_sh("echo 1 >/proc/sys/net/ipv6/conf/eth0/disable_ipv6 2>/dev/null; "
          "true");
}

#endif
