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
 * "vm/a/ram/pc.ram", "vm/a/disk/disk0". An incremental tar has only what
 * differs from a snapshot that the importer has too. Format:
 * docs/formats/archive.md.
 */

#include "store/store.h"

struct archive_export_opts {
    const char *snapshot;
    const char *since; /* leave out what is as in this one; NULL: nothing. Of
                        * one in another domain nothing is left out */
    int fd;            /* where to; may be a pipe */
    store_progress_fn *progress; /* may be NULL */
    void *context;
};
/*
 * Write the snapshot. Memory use does not depend on its size. Fails without a
 * word written when a snapshot is unknown.
 */
int archive_export(struct store *store, const struct archive_export_opts *opts,
                   struct vn_err *err) VN_MUST_USE;

#define ARCHIVE_SIZE_MAX (4ull << 40) /* what the command takes */

struct archive_import_opts {
    int fd;             /* a tar made by archive_export(): a pipe or a file */
    const char *name;   /* commit it under this name; NULL: its own */
    const char *domain; /* put it into this one (store.h); NULL: the store's */
    const char *since;  /* what the snapshot that an incremental tar is based on
                         * is called here; NULL: as in the tar */
    /* Most bytes that all objects may have together, holes included: all of
     * them are hashed. 0: as many as a store takes. */
    uint64_t size_max;
    store_progress_fn *progress; /* may be NULL */
    void *context;
};

struct archive_imported {
    char *name; /* caller frees */
    struct store_counts counts;
};

/*
 * Read and commit. Every member is held against SHA256SUMS and the manifest's
 * size before the commit; members with absolute names, "..", links, double or
 * unknown names, sizes over the limits are refused, each at its header: nothing
 * is committed then. Pages that are as in the newest snapshot of the series, or
 * in the base of an incremental tar, are not looked up. VN_E_NOT_FOUND: that
 * base is not here; VN_E_STATE: it is in another domain; VN_E_CORRUPT: another
 * content, or a wrong sum.
 */
int archive_import(struct store *store, const struct archive_import_opts *opts,
                   struct archive_imported *ret,
                   struct vn_err *err) VN_MUST_USE;

#endif
