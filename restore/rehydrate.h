#ifndef RESTORE_REHYDRATE_H
#define RESTORE_REHYDRATE_H

/*
 * One VM of a snapshot brought back on this host, stopped: disks written as
 * sparse files, the emulator created, its stream synthesised from the store
 * and fed while it loads.
 */

#include "capture/vm.h"

/*
 * `config` is what the manifest says of the VM, with NICs bound to this host
 * (descriptors filled in); its disk paths are replaced by files made in
 * state_dir. Blocks until the state is loaded. The caller resumes the VM at
 * the barrier. On failure no process and no file of ours is left.
 */
struct vm *rehydrate_vm(struct vm_config *config, const char *state_dir,
                        struct store *store, const json_t *manifest,
                        struct vn_err *err) VN_MUST_USE;

#endif
