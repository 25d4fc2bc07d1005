#ifndef RESTORE_PLAN_H
#define RESTORE_PLAN_H

/*
 * Which VM goes to which host: pure, and the same for the same input.
 *
 * Pinned VMs (--map) go where they are told. The others go, largest memory
 * first (ties by name), to the host of --to-hosts with the most free memory
 * left (ties by the order given). Memory unknown (0) counts as plenty, then
 * hosts take turns.
 */

#include "common/err.h"

#include <stddef.h>
#include <stdint.h>

struct plan_vm {
    const char *name;
    uint64_t memory_bytes;
    const char *pinned_host; /* NULL: anywhere */
    size_t host;             /* result: index into hosts */
};
struct plan_host {
    const char *name;
    uint64_t free_bytes; /* 0: unknown */
};

/* Fills in each VM's host. Fails naming the VM that fits nowhere (VN_E_LIMIT)
 * or the pinned host that is not in the list (VN_E_NOT_FOUND). */
int plan_place(struct plan_vm *vms, size_t vm_count,
               const struct plan_host *hosts, size_t host_count,
               struct vn_err *err) VN_MUST_USE;

#endif
