#ifndef CAPTURE_QEMU_OBJECTS_H
#define CAPTURE_QEMU_OBJECTS_H

/*
 * How a QEMU virtual machine lies in a snapshot: the names of its objects and
 * its entry in the manifest, both ways. Used by capture/ (which writes them)
 * and restore/ (which reads them), so that there is one definition.
 *
 *     vm/NAME/ram/BLOCK        one image a RAM block; in BLOCK '%' is written
 *                              %25 and '/' %2f ("%2from@etc%2facpi%2ftables")
 *     vm/NAME/device.state     the device state of the stream, verbatim
 *     vm/NAME/disk/I           one image a disk, I = 0, 1, ...
 *
 * and in the manifest, meta.vm_state.NAME (format: docs/formats/
 * qemu-stream.md):
 *
 *     {"backend": "qemu", "machine": "pc-i440fx-7.2", "qemu_version": "7.2.22",
 *      "head_hex": "5145564d...", "blocks": [{"name": "pc.ram", "size": N}]}
 *
 * Other keys may stand beside these; they are not looked at.
 */

#include "capture/qemu_stream.h"

#include <jansson.h>

#define QEMU_VERSION_MAX 63u

/* Names of objects, freed by the caller. `vm` and `block` are taken as valid
 * (vm_config and the stream parser have checked them). */
char *qemu_object_ram(const char *vm, const char *block);
char *qemu_object_device_state(const char *vm);
char *qemu_object_disk(const char *vm, unsigned disk);

/* What restore must know of a VM beside its objects. */
struct qemu_state {
    struct buf head; /* owned */
    char machine[QEMU_MACHINE_NAME_MAX + 1];
    char qemu_version[QEMU_VERSION_MAX + 1];
    unsigned block_count;
    struct qemu_block blocks[QEMU_BLOCKS_MAX]; /* in the stream's order */
};

/* Frees what it owns; a zeroed struct is fine. */
void qemu_state_done(struct qemu_state *state);

/* The entry for a stream that qemu_stream_finish() accepted. A new object:
 * the caller may add keys, and decrefs it. qemu_version as QMP reports it,
 * such as "7.2.22"; cut to QEMU_VERSION_MAX. */
json_t *qemu_state_to_json(const struct qemu_stream *stream,
                           const char *qemu_version);

/*
 * Read an entry, which may be hostile: every limit of the stream's format is
 * checked, the head is parsed and its machine name compared. *ret is then the
 * caller's, who calls qemu_state_done(). VN_E_FORMAT or VN_E_UNSUPPORTED (the
 * back end is not QEMU, a capability) say what is wrong.
 */
int qemu_state_from_json(const json_t *json, struct qemu_state *ret,
                         struct vn_err *err) VN_MUST_USE;

/* The entry of `vm` in a manifest; borrowed. VN_E_NOT_FOUND names the VM. */
const json_t *qemu_state_in_manifest(const json_t *manifest, const char *vm,
                                     struct vn_err *err) VN_MUST_USE;

static inline void vn_auto_qemu_state(struct qemu_state *state)
{
    qemu_state_done(state);
}

#endif
