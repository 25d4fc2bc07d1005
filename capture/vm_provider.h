#ifndef CAPTURE_VM_PROVIDER_H
#define CAPTURE_VM_PROVIDER_H

/*
 * What a VM back end implements. Contracts as the vm_* call of the same name
 * in capture/vm.h; every member is mandatory. A back end embeds `struct vm`
 * first in its own struct, which it gets from vn_alloc().
 */

#include "capture/vm.h"

struct vm_backend {
    const char *name; /* "qemu", "xen" */
    struct vm *(*start)(const struct vm_config *config, const char *state_dir,
                        struct vn_err *err);
    struct vm *(*attach)(const struct vm_config *config, const char *state_dir,
                         struct vn_err *err);
    struct vm *(*create)(const struct vm_config *config, const char *state_dir,
                         struct vn_err *err);
    int (*load_state)(struct vm *vm, int fd, struct vn_err *err);
    /* Releases all that the back end holds, but not the struct itself. */
    void (*free)(struct vm *vm);
    int (*shutdown)(struct vm *vm, struct vn_err *err);
    int (*is_running)(struct vm *vm, bool *ret, struct vn_err *err);
    int (*prepare)(struct vm *vm, const struct vm_prepare_opts *opts,
                   struct vn_err *err);
    int (*stop)(struct vm *vm, uint64_t *ret_wall_ns, struct vn_err *err);
    int (*capture)(struct vm *vm, struct vn_err *err);
    int (*save)(struct vm *vm, struct store_writer *writer,
                const json_t *parent, json_t *manifest,
                void (*resumed)(void *context), void *context,
                struct vm_saved *ret, struct vn_err *err);
    int (*finish)(struct vm *vm, struct vn_err *err);
    int (*abort)(struct vm *vm, struct vn_err *err);
    int (*resume)(struct vm *vm, uint64_t *ret_wall_ns, struct vn_err *err);
    void (*cancel)(struct vm *vm);
    const char *(*nic_interface)(struct vm *vm, unsigned index,
                                 struct vn_err *err);
};

struct vm {
    const struct vm_backend *backend;
    char name[VM_NAME_MAX + 1];
    int pid;
    enum vm_mode chosen_mode;
    char *rescue_address; /* freed by vm_free() after backend->free */
};

/* Fill in the base of a new VM; the name is cut to VM_NAME_MAX. */
void vm_init(struct vm *vm, const struct vm_backend *backend, const char *name);

/* vm_backend.nic_interface of those that make none. */
const char *vm_no_interface(struct vm *vm, unsigned index, struct vn_err *err);

extern const struct vm_backend vm_qemu_backend;

#endif
