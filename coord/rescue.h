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

/* The part of an address behind "qmp:"; NULL and VN_E_FORMAT if it is not an
 * absolute path that fits into a unix socket's address. */
const char *rescue_path(const char *address, struct vn_err *err) VN_MUST_USE;

/*
 * Over the VM's monitor: end a migration that the agent began, continue, and
 * see twice that it runs. Retries until deadline_ns (monotonic), because the
 * monitor may still be the dead agent's for a moment. Fails with VN_E_NOT_FOUND
 * at once when process `pid` (0: unknown) is gone, else with the last reason.
 * Blocks.
 */
int rescue_vm(const char *name, const char *address, pid_t pid,
              uint64_t deadline_ns, enum rescue_result *ret,
              struct vn_err *err) VN_MUST_USE;

#endif
