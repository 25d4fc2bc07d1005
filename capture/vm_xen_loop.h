#ifndef CAPTURE_VM_XEN_LOOP_H
#define CAPTURE_VM_XEN_LOOP_H

/* Loop devices, and whether a file can be cloned. */

#include "common/err.h"

#include <stdbool.h>

/*
 * A loop device over a file. Returns a descriptor of it, which keeps it alive:
 * it goes away by itself when the last user has closed it. *ret_path:
 * "/dev/loop3", freed by the caller.
 */
int vm_xen_loop_open(const char *file, char **ret_path,
                     struct vn_err *err) VN_MUST_USE;

/*
 * A nameless copy of the file, sharing its blocks (FICLONE), made beside it.
 * Returns a descriptor; EOPNOTSUPP and the like where the file system cannot.
 */
int vm_xen_clone(const char *file, struct vn_err *err) VN_MUST_USE;

#endif
