#ifndef TOOLS_CMD_PUT_XL_H
#define TOOLS_CMD_PUT_XL_H

/* A file of `xl save` taken apart and kept as a virtual machine. */

#include "store/store.h"

/* Does it begin as such a file does? Its read offset stays. */
bool put_xl_is(int fd);

struct put_xl_opts {
    int fd;        /* readable and seekable, at any offset */
    uint64_t size; /* of the file */
    struct store_writer *writer;
    const json_t *parent; /* manifest before, or NULL */
    json_t *manifest;     /* gets objects, meta.vm_state; has a "meta" */
    store_progress_fn *progress;
    void *context;
};
/*
 * The VM's name is the domain's, with '_' for what a name may not have. Its
 * pages are held in memory until all is read. Fails, having put nothing into
 * the manifest, where the file is cut, damaged or no such file (VN_E_FORMAT,
 * _LIMIT, _UNSUPPORTED, _VERSION) and where the manifest has that VM
 * (VN_E_EXISTS).
 */
int put_xl(const struct put_xl_opts *opts, struct vn_err *err) VN_MUST_USE;

#endif
