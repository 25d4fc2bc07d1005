/* Calls by callers, passed on to the VM's back end. */
#include "capture/vm.h"

#include "capture/vm_provider.h"
#include "capture/vm_sim.h"
#include "capture/vm_xen.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct vm_backend *const backends[] = {
    &vm_qemu_backend,
    &vm_xen_backend,
    &vm_sim_backend,
};

static const struct vm_backend *find_backend(const struct vm_config *config,
                                             struct vn_err *err)
{
    const char *name = config->backend ? config->backend : "qemu";

    for (size_t i = 0; i < VN_COUNT(backends); i++) {
        if (strcmp(backends[i]->name, name) == 0)
            return backends[i];
    }
    return vn_fail_ptr(err, VN_E_UNSUPPORTED,
                       "VM '%s': there is no back end '%s'", config->name,
                       name);
}

void vm_init(struct vm *vm, const struct vm_backend *backend, const char *name)
{
    vm->backend = backend;
    snprintf(vm->name, sizeof(vm->name), "%s", name);
}

struct vm *vm_start(const struct vm_config *config, const char *state_dir,
                    struct vn_err *err)
{
    const struct vm_backend *backend = find_backend(config, err);

    return backend ? backend->start(config, state_dir, err) : NULL;
}

struct vm *vm_attach(const struct vm_config *config, const char *state_dir,
                     struct vn_err *err)
{
    const struct vm_backend *backend = find_backend(config, err);

    return backend ? backend->attach(config, state_dir, err) : NULL;
}

struct vm *vm_create(const struct vm_config *config, const char *state_dir,
                     struct vn_err *err)
{
    const struct vm_backend *backend = find_backend(config, err);

    return backend ? backend->create(config, state_dir, err) : NULL;
}

int vm_load_state(struct vm *vm, int fd, struct vn_err *err)
{
    return vm->backend->load_state(vm, fd, err);
}

void vm_free(struct vm *vm)
{
    if (!vm)
        return;
    vm->backend->free(vm);
    free(vm->rescue_address);
    free(vm);
}

int vm_shutdown(struct vm *vm, struct vn_err *err)
{
    return vm->backend->shutdown(vm, err);
}

const char *vm_nic_interface(struct vm *vm, unsigned index, struct vn_err *err)
{
    return vm->backend->nic_interface(vm, index, err);
}

const char *vm_no_interface(struct vm *vm, unsigned index, struct vn_err *err)
{
    return vn_fail_ptr(err, VN_E_UNSUPPORTED,
                       "VM '%s', NIC %u: back end '%s' makes no interface",
                       vm->name, index, vm->backend->name);
}

const char *vm_name(const struct vm *vm)
{
    return vm->name;
}

int vm_pid(const struct vm *vm)
{
    return vm->pid;
}

const char *vm_rescue_address(const struct vm *vm)
{
    return vm->rescue_address ? vm->rescue_address : "";
}

int vm_is_running(struct vm *vm, bool *ret, struct vn_err *err)
{
    return vm->backend->is_running(vm, ret, err);
}

int vm_prepare(struct vm *vm, const struct vm_prepare_opts *opts,
               struct vn_err *err)
{
    return vm->backend->prepare(vm, opts, err);
}

enum vm_mode vm_chosen_mode(const struct vm *vm)
{
    return vm->chosen_mode;
}

int vm_stop(struct vm *vm, uint64_t *ret_wall_ns, struct vn_err *err)
{
    return vm->backend->stop(vm, ret_wall_ns, err);
}

int vm_capture(struct vm *vm, struct vn_err *err)
{
    return vm->backend->capture(vm, err);
}

int vm_save(struct vm *vm, struct store_writer *writer, const json_t *parent,
            json_t *manifest, void (*resumed)(void *context), void *context,
            struct vm_saved *ret, struct vn_err *err)
{
    return vm->backend->save(vm, writer, parent, manifest, resumed, context,
                             ret, err);
}

int vm_finish(struct vm *vm, struct vn_err *err)
{
    return vm->backend->finish(vm, err);
}

int vm_abort(struct vm *vm, struct vn_err *err)
{
    return vm->backend->abort(vm, err);
}

int vm_resume(struct vm *vm, uint64_t *ret_wall_ns, struct vn_err *err)
{
    return vm->backend->resume(vm, ret_wall_ns, err);
}

void vm_cancel(struct vm *vm)
{
    vm->backend->cancel(vm);
}
