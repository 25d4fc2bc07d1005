/*
 * What this host's CPUs can do for domains: the most that Xen offers to one of
 * that kind, the system policies "hvm max" and "pv max".
 */
#include "capture/vm_xen_internal.h"

#include "capture/xen_cpu.h"

#include <errno.h>
#include <stdlib.h>
#include <xenguest.h>

VN_AUTO_DEFINE(cpu_policy, xc_cpu_policy_t *, xc_cpu_policy_destroy)

/* Freed by the caller. */
static struct xen_cpu_leaf *host_leaves(xc_interface *xc, unsigned which,
                                        size_t *ret_count, struct vn_err *err)
{
    vn_auto(cpu_policy) xc_cpu_policy_t *policy = xc_cpu_policy_init();
    vn_auto(free) xen_cpuid_leaf_t *leaves = NULL;
    vn_auto(free) xen_msr_entry_t *msrs = NULL;
    struct xen_cpu_leaf *ret;
    uint32_t count, msr_count;

    if (!policy || xc_cpu_policy_get_size(xc, &count, &msr_count) < 0 ||
        xc_cpu_policy_get_system(xc, which, policy) < 0)
        return vn_fail_ptr(err, errno, "read the CPU policy of this host");
    leaves = vn_alloc(count * sizeof(*leaves) + 1);
    msrs = vn_alloc(msr_count * sizeof(*msrs) + 1);
    if (xc_cpu_policy_serialise(xc, policy, leaves, &count, msrs, &msr_count) <
        0)
        return vn_fail_ptr(err, errno, "read the CPU policy of this host");
    ret = vn_alloc(count * sizeof(*ret) + 1);
    for (uint32_t i = 0; i < count; i++)
        ret[i] = (struct xen_cpu_leaf){
            .leaf = leaves[i].leaf,
            .subleaf = leaves[i].subleaf,
            .regs = {leaves[i].a, leaves[i].b, leaves[i].c, leaves[i].d}};
    *ret_count = count;
    return ret;
}

int vm_xen_check_cpu(const uint8_t *leaves, size_t size, bool is_pv,
                     struct vn_err *err)
{
    unsigned which =
        is_pv ? XEN_SYSCTL_cpu_policy_pv_max : XEN_SYSCTL_cpu_policy_hvm_max;
    vn_auto(free) struct xen_cpu_leaf *host = NULL;
    struct vm_xen_host handles;
    size_t count = 0;

    if (vm_xen_host_open(&handles, err) < 0)
        return -1;
    host = host_leaves(handles.xc, which, &count, err);
    vm_xen_host_close(&handles);
    return host ? xen_cpu_check(leaves, size, host, count, err) : -1;
}
