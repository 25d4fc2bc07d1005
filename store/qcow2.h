#ifndef STORE_QCOW2_H
#define STORE_QCOW2_H

/*
 * Disk images in QEMU's format qcow2, versions 2 and 3: read what the guest
 * sees, and write it. Specification: docs/interop/qcow2.txt of QEMU.
 */

#include "store/store.h"

#define QCOW2_WINDOW_SIZE (2u << 20) /* the largest cluster there is */

/* ---- reading ---------------------------------------------------------- */

/*
 * The file: read `size` bytes at `offset`, all of them within the size that
 * was given. Returns 0 or -1 with err raised.
 */
typedef int qcow2_read_fn(void *context, uint64_t offset, void *data,
                          size_t size, struct vn_err *err);

struct qcow2_file {
    qcow2_read_fn *read;
    void *context;
    uint64_t size;
};

struct qcow2_reader;

/* Do these first bytes of a file say that it is one? */
bool qcow2_is(const void *data, size_t size);

/*
 * Nothing in the file is trusted. VN_E_UNSUPPORTED names what this reader
 * refuses: encryption, a backing file, an external data file, extended L2
 * entries, an image marked corrupt, incompatible features it does not know.
 * VN_E_VERSION, VN_E_FORMAT, VN_E_LIMIT. `file` is copied.
 */
struct qcow2_reader *qcow2_open(const struct qcow2_file *file,
                                struct vn_err *err) VN_MUST_USE;
void qcow2_close(struct qcow2_reader *reader); /* NULL is fine */

/* Bytes of the disk that the guest sees: a multiple of 512. */
uint64_t qcow2_size(const struct qcow2_reader *reader);

/*
 * The next part of the disk that is not known to be zero, in the order of the
 * disk: its start, a multiple of QCOW2_WINDOW_SIZE, and its bytes, as many, or
 * to the end of the disk. They live until the next call. *ret_size 0: no more.
 * Maps that lead to more data than the file can hold are refused with
 * VN_E_FORMAT, so that the work is bounded by the size of the file.
 */
int qcow2_next(struct qcow2_reader *reader, uint64_t *ret_start,
               const uint8_t **ret_data, size_t *ret_size,
               struct vn_err *err) VN_MUST_USE;

VN_AUTO_DEFINE(qcow2, struct qcow2_reader *, qcow2_close)

/* ---- writing ---------------------------------------------------------- */

/*
 * Write an image of the store as qcow2, version 3, in one pass without seeking:
 * `fd` may be a pipe. Clusters of 64 KiB without data are left out. A size that
 * is no multiple of 512 is rounded up, with zeros. Memory use does not depend
 * on the image. progress may be NULL. Equal images give equal files.
 */
int qcow2_write(struct store *store, const struct map_root *root, int fd,
                store_progress_fn *progress, void *context,
                struct vn_err *err) VN_MUST_USE;

#endif
