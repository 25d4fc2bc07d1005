#ifndef CAPTURE_XEN_CPU_H
#define CAPTURE_XEN_CPU_H

/*
 * Can the CPUs of a host do what those of a saved domain could? Pure: leaves of
 * CPUID against leaves.
 *
 * Xen takes a domain with more features than the host has, and silently takes
 * them away from it (4.17); its programs then die of an illegal instruction
 * some time later. So we look ourselves.
 */

#include "common/err.h"

#include <stddef.h>
#include <stdint.h>

#define XEN_CPU_LEAF_SIZE 24u /* as in X86_CPUID_POLICY */

struct xen_cpu_leaf {
    uint32_t leaf;
    uint32_t subleaf; /* UINT32_MAX: the leaf has none */
    uint32_t regs[4]; /* eax, ebx, ecx, edx */
};

/*
 * `saved`: the body of an X86_CPUID_POLICY record, a multiple of
 * XEN_CPU_LEAF_SIZE. VN_E_UNSUPPORTED names the features that `host` lacks.
 * Features that a guest or Xen switches by itself do not count.
 */
int xen_cpu_check(const uint8_t *saved, size_t size,
                  const struct xen_cpu_leaf *host, size_t host_count,
                  struct vn_err *err) VN_MUST_USE;

#endif
