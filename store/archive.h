#ifndef STORE_ARCHIVE_H
#define STORE_ARCHIVE_H

/*
 * Export and import of one snapshot as a tar (libarchive, PAX): readable with
 * tar, sha256sum, qemu-img and Wireshark, without vnstore.
 *
 *     <name>/manifest.json            the manifest, as kept in the store
 *     <name>/<object name>            each object; raw, sparse (GNU.sparse)
 *     <name>/SHA256SUMS               of every member before it
 *
 * An object's name says what it is: ".../frames.pcapng", ".../device.state",
 * "vm/a/ram/pc.ram", "vm/a/disk/disk0". Format: docs/formats/archive.md.
 */

#include "store/store.h"

/*
 * Write the snapshot to a descriptor, which may be a pipe. Memory use does
 * not depend on its size. progress may be NULL. Fails without a word written
 * when the snapshot is unknown.
 */
int archive_export(struct store *store, const char *snapshot, int fd,
                   store_progress_fn *progress, void *context,
                   struct vn_err *err) VN_MUST_USE;

/*
 * Read a tar made by archive_export() from a descriptor (pipe or file) and
 * commit it under `name`, or its own name where NULL. Every member is held
 * against SHA256SUMS and the manifest's size before the commit; members with
 * absolute names, "..", links, double or unknown names, sizes over the limits
 * are refused: nothing is committed then. On success *ret_name (caller frees).
 */
int archive_import(struct store *store, int fd, const char *name,
                   store_progress_fn *progress, void *context, char **ret_name,
                   struct vn_err *err) VN_MUST_USE;

#endif
