#ifndef COORD_RESCUE_H
#define COORD_RESCUE_H

/* Making one paused VM run again when its agent is gone. */

#include "common/err.h"

#include <stdint.h>
#include <sys/types.h>

/* How a rescue ended well. */
enum rescue_result {
    RESCUE_RAN,       /* it ran already */
    RESCUE_CONTINUED, /* it stood, and runs now */
    RESCUE_LEFT,      /* it stands for a reason of its own: shut down,
                         suspended by its guest, waiting for its state */
};

#define RESCUE_ADDRESS_MAX 111 /* bytes: "qmp:" and a unix socket's path */

/* Is it "qmp:/PATH" of a path that fits into a unix socket's address, or
 * "xen:DOMID:UUID"? VN_E_FORMAT if not. */
int rescue_check(const char *address, struct vn_err *err) VN_MUST_USE;

/*
 * QEMU: over the VM's monitor, end a migration that the agent began, continue,
 * and see twice that it runs. Xen: vm_xen_rescue(). Retries until deadline_ns
 * (monotonic), because the monitor may still be the dead agent's for a moment.
 * Fails with VN_E_NOT_FOUND at once when process `pid` (0: unknown) is gone,
 * else with the last reason. Blocks.
 */
int rescue_vm(const char *name, const char *address, pid_t pid,
              uint64_t deadline_ns, enum rescue_result *ret,
              struct vn_err *err) VN_MUST_USE;

#endif
