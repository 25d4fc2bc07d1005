#ifndef CAPTURE_XEN_CFG_H
#define CAPTURE_XEN_CFG_H

/*
 * xl's configuration file of a domain, from our configuration of a VM.
 * Pure. Source: xl.cfg(5), xl-disk-configuration(5).
 */

#include "capture/vm.h"

#define XEN_CFG_VIF_SCRIPT "vif-violin"

/*
 * The text, freed by the caller. Disk I's target is targets[I], a block
 * device. vif_script: NULL for XEN_CFG_VIF_SCRIPT. VN_E_UNSUPPORTED for what a
 * domain cannot have (a disk format other than raw, a NIC that is no vif),
 * VN_E_FORMAT for text that such a file cannot hold.
 */
char *xen_cfg_text(const struct vm_config *config, const char *const *targets,
                   const char *vif_script, struct vn_err *err) VN_MUST_USE;

/* Where a disk's image shows as a block device: "PATH.dev". Freed by the
 * caller. */
char *xen_cfg_device_path(const char *image);

/*
 * What xl says of a domain ("xl list -l NAME"), taken apart: its
 * configuration, a new reference; *ret_domid. VN_E_FORMAT for anything
 * else.
 */
json_t *xen_cfg_of_list(const char *text, size_t size, uint32_t *ret_domid,
                        struct vn_err *err) VN_MUST_USE;

#endif
