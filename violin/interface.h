#ifndef VIOLIN_INTERFACE_H
#define VIOLIN_INTERFACE_H

/*
 * A network interface of the host that is one VM's network card, such as the
 * vif that xen-netback makes: what is done to it before a port uses it, and
 * its counters. Linux only; needs CAP_NET_ADMIN.
 */

#include "common/err.h"

#include <stdbool.h>
#include <stdint.h>

/* VN_E_LIMIT for what cannot be an interface's name. */
int interface_check_name(const char *name, struct vn_err *err) VN_MUST_USE;

/* Set IFF_UP, and `more` flags (IFF_NOARP; 0) before it. */
int interface_bring_up(const char *name, short more,
                       struct vn_err *err) VN_MUST_USE;

/*
 * Shut the host's own stack out of the interface, to be called before it is
 * brought up. VN_E_STATE: it is in a bridge, has another interface on top or
 * an IPv4 address, so frames would go past the switch. IPv6 is turned off and
 * what comes in from the VM, or the stack (also a bridge that it may be put
 * into later) wants to send, is dropped (traffic control, clsact); packet
 * sockets see it all the same, and those that bypass the queues still send.
 * All of it stays when violind ends: a VM is not to reach the host meanwhile.
 * Needs the kernel's sch_ingress and cls_bpf. Blocks for milliseconds, the
 * first time until the kernel has loaded these.
 */
int interface_isolate(const char *name, struct vn_err *err) VN_MUST_USE;

/*
 * Of several transmit queues use the first only, so that frames keep their
 * order: a packet socket that bypasses the queues chooses by the CPU that it
 * runs on. Best effort: without effect where there is one queue.
 */
void interface_use_one_queue(const char *name);

/* What the interface has sent to the VM. */
struct interface_counts {
    uint64_t packets; /* handed over */
    uint64_t failed;  /* dropped, or with an error */
};
struct interface_watch {
    int packets, dropped, errors; /* descriptors of statistics files */
};
/*
 * Open the counters, which may be read at any time then, cheaply and without
 * blocking. Fails where /sys shows another network namespace.
 */
int interface_watch_open(const char *name, struct interface_watch *ret,
                         struct vn_err *err) VN_MUST_USE;
void interface_watch_close(struct interface_watch *watch);
/* False: the interface is gone. */
bool interface_watch_read(const struct interface_watch *watch,
                          struct interface_counts *ret);

#endif
