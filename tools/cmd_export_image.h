#ifndef TOOLS_CMD_EXPORT_IMAGE_H
#define TOOLS_CMD_EXPORT_IMAGE_H

/* One disk, block of memory or file of a snapshot as a disk image. */

#include "store/store.h"

/* Which object. NULL where it was not said: then there must be only one that
 * fits. */
struct export_image_choice {
    const char *vm;
    const char *disk;   /* "0": vm/VM/disk/0 */
    const char *ram;    /* "pc.ram": vm/VM/ram/pc.ram */
    const char *object; /* its name, or what follows "file/" */
};

struct export_image_opts {
    const char *snapshot;
    struct export_image_choice choice;
    bool qcow2; /* else raw */
    store_progress_fn *progress;
    void *context;
};

/*
 * Write it to `fd`, blocking. Raw: with holes where fd is an empty regular
 * file, else all of it, zeros included. Memory use does not depend on the size.
 * VN_E_NOT_FOUND lists what there is to choose from.
 */
int export_image(struct store *store, const struct export_image_opts *opts,
                 int fd, struct vn_err *err) VN_MUST_USE;

#endif
