#ifndef TOOLS_CMD_PUT_QCOW2_H
#define TOOLS_CMD_PUT_QCOW2_H

/* A qcow2 file kept as the disk that the guest sees. */

#include "store/store.h"

/* Does it begin as such a file does? Its read offset stays. */
bool put_qcow2_is(int fd);

/* The object's name for a file "dir/disk.qcow2": "file/disk.raw". Caller
 * frees. */
char *put_qcow2_object(const char *path);

struct put_qcow2_opts {
    int fd;        /* readable and seekable, at any offset */
    uint64_t size; /* of the file */
    const char *object;
    struct store_writer *writer;
    const json_t *parent; /* manifest before, or NULL */
    json_t *manifest;     /* gets the object */
    store_progress_fn *progress;
    void *context; /* done and total: bytes of the disk */
};
/*
 * Pages that are not allocated, or marked zero, are not read. Fails where the
 * file is damaged, encrypted or not whole (VN_E_FORMAT, _LIMIT, _UNSUPPORTED,
 * _VERSION), having put nothing into the manifest.
 */
int put_qcow2(const struct put_qcow2_opts *opts,
              struct vn_err *err) VN_MUST_USE;

#endif
