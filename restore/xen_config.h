#ifndef RESTORE_XEN_CONFIG_H
#define RESTORE_XEN_CONFIG_H

/*
 * libxl's configuration of a captured domain (the JSON of `xl list -l`) made
 * into that of the domain that comes back here. The JSON may be hostile: types
 * are checked, and nothing in it says where anything of this host is.
 *
 *     c_info   name, a new UUID; without domid and CPU pool
 *     b_info   without affinity to CPUs and nodes
 *     disks    each raw, "phy", at xen_config_disk_device(); removable,
 *              readwrite and the guest's side as they were. An empty drive is
 *              none of `config`'s disks and stays as it is.
 *     nics     MAC of `config`; script $VN_VIF_SCRIPT, else XEN_CFG_VIF_SCRIPT;
 *              without bridge, interface name and back-end domain
 *
 * All else stays: it is what the guest has seen of its machine.
 */

#include "capture/vm.h"
#include "capture/xen_cfg.h"

/*
 * A changed copy; the caller decrefs. VN_E_FORMAT: the JSON is not such a
 * configuration, or has not as many disks and NICs as `config`.
 */
json_t *xen_config_adapt(const json_t *captured, const struct vm_config *config,
                         struct vn_err *err) VN_MUST_USE;

/*
 * The block device of a disk image: `path` itself where it is one already, else
 * xen_cfg_device_path(), a symbolic link that the back end makes before it
 * reads the configuration. Freed by the caller.
 */
char *xen_config_disk_device(const char *path);

/* Compact JSON text for an xl file, freed by the caller. VN_E_LIMIT beyond
 * XEN_CONFIG_MAX. */
char *xen_config_text(const json_t *config, struct vn_err *err) VN_MUST_USE;

#endif
