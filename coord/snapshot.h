#ifndef COORD_SNAPSHOT_H
#define COORD_SNAPSHOT_H

/*
 * The coordinator of one snapshot: runs coord/cut.h's machine over a session
 * and commits the manifest (docs/formats/manifest.md).
 */

#include "capture/vm.h"
#include "coord/session.h"
#include "store/store.h"

struct snapshot_opts {
    const char *name; /* NULL: the next of the series, "<vne>@N" */
    enum vm_mode mode;
    unsigned timeout_s; /* for preparing and for saving; the cut has 30 s */
    /* Called as things happen, with a phrase; may be NULL. */
    void (*progress)(void *context, const char *phrase);
    void *context;
};

/*
 * Snapshot the VNE that runs on the session's hosts, wherever its VMs are.
 * Either it is committed and durable, *ret_manifest (caller decrefs) naming
 * everything, or it fails, nothing is visible and every VM runs on.
 */
int snapshot_take(struct session *session, const struct vne *vne,
                  struct store *store, const struct snapshot_opts *opts,
                  json_t **ret_manifest, struct vn_err *err) VN_MUST_USE;

#endif
