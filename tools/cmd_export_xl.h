#ifndef TOOLS_CMD_EXPORT_XL_H
#define TOOLS_CMD_EXPORT_XL_H

/* A Xen domain of a snapshot as a file that `xl restore` reads. */

#include "store/store.h"

/*
 * Write the domain `vm` of the snapshot to `fd`, blocking, with the
 * configuration that it had when it was captured: name, UUID, disks, NICs.
 * Disks are not in such a file. `vm` NULL: the only VM of the snapshot, else
 * VN_E_NOT_FOUND, which lists them. VN_E_UNSUPPORTED: it is no Xen domain.
 */
int export_xl(struct store *store, const char *snapshot, const char *vm, int fd,
              store_progress_fn *progress, void *context,
              struct vn_err *err) VN_MUST_USE;

#endif
