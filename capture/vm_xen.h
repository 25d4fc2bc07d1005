#ifndef CAPTURE_VM_XEN_H
#define CAPTURE_VM_XEN_H

/*
 * What others may know of the Xen back end (capture/vm_provider.h). Where the
 * Xen libraries were not there at build time, vm_xen_none.c answers: every
 * call fails with VN_E_UNSUPPORTED. Xen's own headers are included by
 * vm_xen*.c only.
 */

#include "capture/vm_provider.h"

#include <stdint.h>

extern const struct vm_backend vm_xen_backend;

/* Was the back end built in? */
bool vm_xen_built(void);
/* Can it work here: are we in a privileged domain, with xenstore and xl?
 * Fails saying which is missing; *ret_version such as "4.17.7". */
int vm_xen_probe(char ret_version[32], struct vn_err *err) VN_MUST_USE;

/*
 * For a watchdog: make the domain of the rescue address "xen:DOMID:UUID" run,
 * whatever a dead agent left: suspended, paused, dirty logging on. *ret_stood:
 * it did not run. VN_E_NOT_FOUND: gone. Needs no struct vm.
 */
int vm_xen_rescue(const char *address, uint64_t deadline_ns, bool *ret_stood,
                  struct vn_err *err) VN_MUST_USE;

/*
 * Have this host's CPUs what a domain with these CPUID leaves was started with
 * (capture/xen_cpu.h)? VN_E_UNSUPPORTED names what they lack.
 */
int vm_xen_check_cpu(const uint8_t *leaves, size_t size, bool is_pv,
                     struct vn_err *err) VN_MUST_USE;

#endif
