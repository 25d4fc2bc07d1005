#ifndef CAPTURE_VM_XEN_DM_H
#define CAPTURE_VM_XEN_DM_H

/*
 * Device-mapper devices below disks of domains, by the kernel's ioctls
 * (linux/dm-ioctl.h; Documentation/admin-guide/device-mapper/snapshot.rst).
 *
 * A disk image whose file system has no reflinks is given to the domain as a
 * linear device over its loop device. At the instant that device is suspended
 * (which waits for what is in flight), the snapshot is switched on and the
 * table becomes snapshot-origin: from then on the old content of each chunk
 * that is overwritten is copied away first, and the snapshot shows the disk of
 * the instant. LVM does the same with its volumes. Users of the device keep it
 * open and notice nothing.
 *
 * Names begin with VM_XEN_DM_PREFIX. All calls block for milliseconds.
 */

#include "common/err.h"

#include <stdbool.h>
#include <stdint.h>

#define VM_XEN_DM_PREFIX "vnstore-"

/* Can it be used here: the driver, linear and snapshot targets? */
bool vm_xen_dm_is_there(void);

/* A linear device over all of `base` ("/dev/loop3"), so far unused; its name
 * is made from base's. Returns its path ("/dev/dm-1"), freed by the caller. */
char *vm_xen_dm_create(const char *base, struct vn_err *err) VN_MUST_USE;
/* Remove the device over `base`; 0 when there is none. */
int vm_xen_dm_remove(const char *base, struct vn_err *err) VN_MUST_USE;

/* Make a snapshot ready, which keeps old chunks on the device `cow`. Returns
 * its path, freed by the caller. A leftover of the same is removed first. */
char *vm_xen_dm_prepare(const char *base, const char *cow,
                        struct vn_err *err) VN_MUST_USE;
/* Now. On failure the device works as before. */
int vm_xen_dm_freeze(const char *base, struct vn_err *err) VN_MUST_USE;
/* Fails when the snapshot has overflowed. */
int vm_xen_dm_check(const char *base, struct vn_err *err) VN_MUST_USE;
/* No snapshot, whatever there was; the device stays. */
int vm_xen_dm_release(const char *base, struct vn_err *err) VN_MUST_USE;

#endif
