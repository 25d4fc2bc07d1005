#ifndef CAPTURE_XEN_OBJECTS_H
#define CAPTURE_XEN_OBJECTS_H

/*
 * How a Xen domain lies in a snapshot: names of objects and the manifest's
 * entry, both ways. Used by capture/ and restore/, so that there is one
 * definition.
 *
 *     vm/NAME/ram/memory     the guest's pages, in windows of 2 MiB: those
 *                            that have any (capture/xen_layout.h)
 *     vm/NAME/xen.types      a byte a pfn: enum xen_page_type (0xf: no page)
 *     vm/NAME/xen.head       static records of the stream, verbatim
 *     vm/NAME/device.state   the stream's tail: vCPUs, platform, verbatim
 *     vm/NAME/xen.emulator   libxl's device-model records (HVM only)
 *     vm/NAME/disk/I         one image a disk, I = 0, 1, ... in xl's order
 *
 * and in the manifest, meta.vm_state.NAME:
 *
 *     {"backend": "xen", "type": "pvh", "xen_version": "4.17",
 *      "xl_config": {...}}   libxl's domain configuration, as JSON
 *
 * Other keys may stand beside these; they are not looked at.
 */

#include "capture/xen_stream.h"

#include <jansson.h>

/* Freed by the caller. */
char *xen_object_memory(const char *vm);
char *xen_object_types(const char *vm);
char *xen_object_head(const char *vm);
char *xen_object_tail(const char *vm);
char *xen_object_emulator(const char *vm);
char *xen_object_disk(const char *vm, unsigned disk);

struct xen_state {
    char type[4]; /* "pv", "pvh" or "hvm" */
    char xen_version[16];
    json_t *config; /* owned */
};
void xen_state_done(struct xen_state *state);

/* The entry; `config` (borrowed) is libxl's JSON, which says the type. */
json_t *xen_state_to_json(const struct xen_stream *stream,
                          const json_t *config);
/* Read an entry, which may be hostile. *ret is the caller's. */
int xen_state_from_json(const json_t *json, struct xen_state *ret,
                        struct vn_err *err) VN_MUST_USE;
/* "pv", "pvh" or "hvm" from libxl's JSON (c_info.type, b_info.type); NULL and
 * an error when it says neither. */
const char *xen_config_type(const json_t *config, struct vn_err *err);

static inline void vn_auto_xen_state(struct xen_state *state)
{
    xen_state_done(state);
}

#endif
