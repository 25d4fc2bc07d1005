#ifndef COORD_BRINGUP_H
#define COORD_BRINGUP_H

/* The coordinator of starting, stopping and restoring a VNE. */

#include "coord/session.h"
#include "coord/vne.h"

/* Start (or attach to) every VM on its host. Either all are up, or it fails
 * and what was started is taken down again. */
int bringup_up(const struct vne *vne, const char *tls_dir,
               struct vn_err *err) VN_MUST_USE;

/* Take the VNE down on every host of the file that runs a part of it.
 * *ret_hosts: how many did. Hosts that do not answer are named in *err after
 * the others were done. */
int bringup_down(const struct vne *vne, const char *tls_dir,
                 unsigned *ret_hosts, struct vn_err *err) VN_MUST_USE;

struct restore_opts {
    const char *store_path;
    const char *tls_dir;
    /* Where the VMs go; NULL: where they were. Names from `hosts`. */
    const char *const *to_hosts;
    size_t to_host_count;
    const char *const *maps; /* "vm=host" */
    size_t map_count;
    const struct vne *hosts; /* where addresses come from; NULL: the snapshot */
    void (*progress)(void *context, const char *phrase);
    void *context;
};

/*
 * Bring a snapshot back to life. All its VMs run when it returns 0; on failure
 * none is left. *ret_report (caller decrefs): {"vms": [{"name", "host",
 * "resume_ns"}], "skew_ms", "load_ms"}.
 */
int bringup_restore(const json_t *manifest, const struct restore_opts *opts,
                    json_t **ret_report, struct vn_err *err) VN_MUST_USE;

#endif
