/*
 * The Xen back end: its vtable; how a domain comes to be and ends.
 *
 * Life of domains is xl's business: it is run as a program, so that everything
 * that an administrator may have set up (scripts, defaults, driver domains)
 * applies, and nothing of libxl is linked. Snapshots are ours
 * (vm_xen_capture.c).
 */
#include "capture/vm_xen_internal.h"

#include "capture/xen_cfg.h"
#include "common/clock.h"
#include "common/io.h"
#include "common/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define XL_ARGS_MAX 8

char *vm_xen_path(const struct vm_xen *x, const char *name)
{
    return vn_format("%s/%s", x->state_dir, name);
}

bool vm_xen_is_cancelled(void *context)
{
    struct vm_xen *x = context;
    vn_lock_scope(&x->lock);

    return x->is_cancelled;
}

bool vm_xen_wait(struct vm_xen *x, uint64_t deadline_ns)
{
    struct timespec at = {.tv_sec = (time_t)(deadline_ns / VN_SEC),
                          .tv_nsec = (long)(deadline_ns % VN_SEC)};

    return pthread_cond_timedwait(&x->changed, &x->lock, &at) != ETIMEDOUT;
}

/* ---- the domain --------------------------------------------------------- */

/* Whoever destroys a domain removes its name first, and may then wait for our
 * lock. */
static bool is_being_destroyed(const struct vm_xen *x)
{
    vn_auto(free) char *name =
        vm_xen_read(x->host.xs, "/local/domain/%u/name", x->id.domid);

    return !name && errno == ENOENT;
}

int vm_xen_look_alive(struct vm_xen *x, struct vm_xen_look *ret,
                      struct vn_err *err)
{
    if (vm_xen_look(x->host.xc, &x->id, ret, err) < 0) {
        if (err->code == VN_E_NOT_FOUND)
            return vn_fail(err, VN_E_NOT_FOUND, "VM '%s': its domain %u died",
                           x->base.name, x->id.domid);
        return -1;
    }
    if (is_being_destroyed(x))
        return vn_fail(err, VN_E_NOT_FOUND,
                       "VM '%s': its domain %u died: it is being destroyed",
                       x->base.name, x->id.domid);
    if (ret->is_down && !ret->is_suspended)
        return vn_fail(err, VN_E_PEER, "VM '%s': its domain %u %s",
                       x->base.name, x->id.domid,
                       vm_xen_reason_text(ret->reason));
    return 0;
}

void vm_xen_explain(struct vm_xen *x, struct vn_err *err)
{
    struct vm_xen_look look;
    struct vn_err why = VN_ERR_INIT;

    if (x->has_domain && err->code != VN_E_NOT_FOUND &&
        vm_xen_look_alive(x, &look, &why) < 0)
        *err = why;
}

int vm_xen_xl_run(struct vm_xen *x, const char *const *args, int fd_in,
                  struct buf *out, struct vn_err *err)
{
    vn_auto(free) char *log = vm_xen_path(x, "xl.log");
    const char *argv[XL_ARGS_MAX + 2] = {vm_xen_xl(err)};
    const struct vm_xen_run run = {.argv = argv,
                                   .log = log,
                                   .fd_in = fd_in,
                                   .out = out,
                                   .timeout_ns = VM_XEN_XL_TIMEOUT_NS,
                                   .is_cancelled = vm_xen_is_cancelled,
                                   .context = x};

    if (!argv[0])
        return -1;
    for (unsigned i = 0; i < XL_ARGS_MAX && args[i]; i++)
        argv[i + 1] = args[i];
    return vm_xen_run(&run, err);
}

int vm_xen_destroy(struct vm_xen *x, struct vn_err *err)
{
    vn_auto(free) char *log = vm_xen_path(x, "xl.log");
    vn_auto(free) char *domid = NULL;
    const char *argv[] = {vm_xen_xl(err), "destroy", NULL, NULL};
    /* Not to be cancelled. */
    const struct vm_xen_run run = {.argv = argv,
                                   .log = log,
                                   .fd_in = -1,
                                   .timeout_ns = VM_XEN_XL_TIMEOUT_NS};
    struct vn_err why = VN_ERR_INIT;
    struct vm_xen_look look;
    struct vm_xen_id id = x->id;

    if (!argv[0])
        return -1;
    if (x->has_domain ? vm_xen_look(x->host.xc, &id, &look, &why) < 0
                      : vm_xen_find(&x->host, x->base.name, &id, &why) < 0)
        return 0; /* gone already */
    domid = vn_format("%u", id.domid);
    argv[2] = domid;
    if (vm_xen_run(&run, err) == 0 ||
        vm_xen_look(x->host.xc, &id, &look, &why) < 0)
        return 0;
    return vn_wrap(err, "destroying domain %u", id.domid);
}

int vm_xen_adopt(struct vm_xen *x, const char *name, struct vn_err *err)
{
    char uuid[VM_XEN_UUID_TEXT];

    if (vm_xen_find(&x->host, name, &x->id, err) < 0)
        return -1;
    x->has_domain = true;
    vm_xen_uuid_text(x->id.uuid, uuid);
    free(x->base.rescue_address);
    x->base.rescue_address = vn_format("xen:%u:%s", x->id.domid, uuid);
    if (!x->is_ours)
        return 0;
    if (!x->console)
        x->console = vm_xen_console_start(x, err);
    if (x->console && !x->monitor)
        x->monitor = vm_xen_monitor_start(x, err);
    return x->monitor ? 0 : -1;
}

int vm_xen_refresh(struct vm_xen *x, struct vn_err *err)
{
    bool reborn;

    pthread_mutex_lock(&x->lock);
    reborn = x->is_reborn;
    x->is_reborn = false;
    pthread_mutex_unlock(&x->lock);
    if (!reborn)
        return 0;
    for (unsigned i = 0; i < VM_NICS_MAX; i++)
        free(vn_steal(&x->interfaces[i]));
    vm_xen_console_stop(vn_steal(&x->console));
    vm_xen_monitor_stop(vn_steal(&x->monitor)); /* it follows the old one */
    return vm_xen_adopt(x, x->base.name, err);
}

/* ---- coming to be ------------------------------------------------------- */

static void init_lock(struct vm_xen *x)
{
    pthread_condattr_t attr;

    pthread_mutex_init(&x->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&x->changed, &attr);
    pthread_condattr_destroy(&attr);
}

static struct vm *new_vm(const struct vm_config *config, const char *state_dir,
                         bool ours, struct vn_err *err)
{
    vn_auto(vm) struct vm *vm = vn_alloc(sizeof(struct vm_xen));
    struct vm_xen *x = vm_xen_of(vm);

    vm_init(vm, &vm_xen_backend, config->name);
    x->state_dir = vn_strdup(state_dir);
    x->is_ours = ours;
    x->lock_fd = -1;
    x->libxl_lock_fd = -1;
    for (unsigned i = 0; i < VM_DISKS_MAX; i++)
        x->loop_fds[i] = -1;
    init_lock(x);
    if (vm_config_copy(config, &x->config, err) < 0 ||
        vm_xen_host_open(&x->host, err) < 0) {
        vn_wrap(err, "VM '%s'", config->name);
        return NULL;
    }
    return vn_steal(&vm);
}

/* A domain of this name must not be there; xl would say so, but after it has
 * done half of its work. */
static int refuse_taken(struct vm_xen *x, struct vn_err *err)
{
    struct vm_xen_id other;
    struct vn_err why = VN_ERR_INIT;

    if (vm_xen_find(&x->host, x->base.name, &other, &why) == 0)
        return vn_fail(err, VN_E_EXISTS,
                       "VM '%s': there is a domain of this name (%u)",
                       x->base.name, other.domid);
    return 0;
}

static int write_cfg(struct vm_xen *x, const char *path, struct vn_err *err)
{
    const char *targets[VM_DISKS_MAX] = {NULL};
    char *paths[VM_DISKS_MAX] = {NULL};
    vn_auto(free) char *text = NULL;

    for (unsigned i = 0; i < x->config.disk_count; i++) {
        paths[i] = vm_xen_disk_device(x->config.disks[i].path);
        targets[i] = paths[i];
    }
    text = xen_cfg_text(&x->config, targets, getenv("VN_VIF_SCRIPT"), err);
    for (unsigned i = 0; i < x->config.disk_count; i++)
        free(paths[i]);
    return text ? io_replace_file(path, text, strlen(text), err) : -1;
}

static int launch(struct vm_xen *x, struct vn_err *err)
{
    vn_auto(free) char *path = vm_xen_path(x, VM_XEN_CFG);
    const char *args[] = {"create", "-e", "-q", path, NULL};

    if (refuse_taken(x, err) < 0 || vm_xen_disks_attach(x, err) < 0 ||
        write_cfg(x, path, err) < 0)
        return -1;
    if (vm_xen_xl_run(x, args, -1, NULL, err) < 0 ||
        vm_xen_adopt(x, x->base.name, err) < 0) {
        struct vn_err ignored = VN_ERR_INIT;

        (void)!vm_xen_destroy(x, &ignored);
        return -1;
    }
    return 0;
}

static struct vm *start(const struct vm_config *config, const char *state_dir,
                        struct vn_err *err)
{
    vn_auto(vm) struct vm *vm = new_vm(config, state_dir, true, err);

    if (!vm)
        return NULL;
    if (launch(vm_xen_of(vm), err) < 0) {
        vm_xen_disks_detach(vm_xen_of(vm));
        vn_wrap(err, "VM '%s'", config->name);
        return NULL;
    }
    return vn_steal(&vm);
}

/* Unless libxl is saving it right now. */
static int wake_leftover(struct vm_xen *x, struct vn_err *err)
{
    if (vm_xen_no_other_saver(x->id.domid, err) < 0)
        return -1;
    return vm_xen_let_run(&x->host, &x->id, NULL, NULL, err);
}

/* Started by an agent that is gone: its end is for us to see to, and its
 * console goes on in the same file. */
static bool was_ours(const struct vm_config *config, const char *state_dir)
{
    vn_auto(free) char *cfg = vn_format("%s/" VM_XEN_CFG, state_dir);

    return strcmp(config->domain, config->name) == 0 && access(cfg, F_OK) == 0;
}

static struct vm *attach(const struct vm_config *config, const char *state_dir,
                         struct vn_err *err)
{
    vn_auto(vm) struct vm *vm = NULL;
    struct vm_xen_look look;

    if (!config->domain)
        return vn_fail_ptr(err, VN_E_FORMAT, "VM '%s': no domain is named",
                           config->name);
    vm = new_vm(config, state_dir, was_ours(config, state_dir), err);
    if (!vm)
        return NULL;
    if (vm_xen_adopt(vm_xen_of(vm), config->domain, err) < 0 ||
        vm_xen_look_alive(vm_xen_of(vm), &look, err) < 0 ||
        /* What an agent that died has left behind. */
        (look.is_suspended && wake_leftover(vm_xen_of(vm), err) < 0)) {
        vn_wrap(err, "VM '%s'", config->name);
        return NULL;
    }
    return vn_steal(&vm);
}

static struct vm *create(const struct vm_config *config, const char *state_dir,
                         struct vn_err *err)
{
    vn_auto(vm) struct vm *vm = new_vm(config, state_dir, true, err);
    struct vn_err ignored = VN_ERR_INIT;
    vn_auto(free) char *cfg = NULL;

    if (!vm)
        return NULL;
    if (refuse_taken(vm_xen_of(vm), err) < 0)
        return NULL;
    if (vm_xen_disks_attach(vm_xen_of(vm), err) < 0) {
        vm_xen_disks_detach(vm_xen_of(vm));
        vn_wrap(err, "VM '%s'", config->name);
        return NULL;
    }
    /* For its next reboot, where the VNE says what it boots from. */
    cfg = vm_xen_path(vm_xen_of(vm), VM_XEN_CFG);
    if (write_cfg(vm_xen_of(vm), cfg, &ignored) < 0)
        log_debug("vm_xen: no way to reboot vm=%s error=\"%s\"", config->name,
                  ignored.msg);
    return vn_steal(&vm);
}

/* ---- ending ------------------------------------------------------------- */

static void free_vm(struct vm *vm)
{
    struct vm_xen *x = vm_xen_of(vm);
    struct vn_err ignored = VN_ERR_INIT;

    if (x->step != VM_XEN_IDLE && vm_xen_abort(x, &ignored) < 0)
        log_debug("vm_xen: let go vm=%s error=\"%s\"", vm->name, ignored.msg);
    vm_xen_monitor_stop(x->monitor);
    vm_xen_console_stop(x->console);
    vm_xen_host_close(&x->host);
    for (unsigned i = 0; i < VM_NICS_MAX; i++)
        free(x->interfaces[i]);
    for (unsigned i = 0; i < VM_DISKS_MAX; i++)
        vn_auto_close(&x->loop_fds[i]);
    vm_config_done(&x->config);
    free(x->state_dir);
    pthread_cond_destroy(&x->changed);
    pthread_mutex_destroy(&x->lock);
}

static int shut_down(struct vm *vm, struct vn_err *err)
{
    struct vm_xen *x = vm_xen_of(vm);
    struct vn_err ignored = VN_ERR_INIT;
    vn_auto(free) char *cfg = NULL;

    if (x->step != VM_XEN_IDLE && vm_xen_abort(x, &ignored) < 0)
        log_debug("vm_xen: shutdown vm=%s error=\"%s\"", vm->name, ignored.msg);
    /* It must not bring the domain up again. */
    vm_xen_monitor_stop(vn_steal(&x->monitor));
    if (vm_xen_refresh(x, &ignored) < 0)
        log_debug("vm_xen: shutdown vm=%s error=\"%s\"", vm->name, ignored.msg);
    vm_xen_monitor_stop(vn_steal(&x->monitor));
    if (vm_xen_destroy(x, err) < 0)
        return -1;
    vm_xen_console_stop(vn_steal(&x->console));
    vm_xen_disks_detach(x);
    cfg = vm_xen_path(x, VM_XEN_CFG);
    (void)unlink(cfg); /* what comes by this name is not this domain */
    return 0;
}

/* ---- asking and telling ------------------------------------------------- */

static int is_running(struct vm *vm, bool *ret, struct vn_err *err)
{
    struct vm_xen *x = vm_xen_of(vm);
    struct vm_xen_look look;
    bool rebooting;

    pthread_mutex_lock(&x->lock);
    rebooting = x->is_rebooting;
    pthread_mutex_unlock(&x->lock);
    if (rebooting) {
        *ret = false;
        return 0;
    }
    if (vm_xen_refresh(x, err) < 0 || vm_xen_look_alive(x, &look, err) < 0)
        return -1;
    *ret = !look.is_paused && !look.is_suspended;
    return 0;
}

static int resume(struct vm *vm, uint64_t *ret_wall_ns, struct vn_err *err)
{
    struct vm_xen *x = vm_xen_of(vm);
    struct vm_xen_look look;

    if (vm_xen_look_alive(x, &look, err) < 0)
        return -1;
    if (vm_xen_let_run(&x->host, &x->id, NULL, ret_wall_ns, err) < 0)
        return vn_wrap(err, "VM '%s'", vm->name);
    return 0;
}

static void cancel(struct vm *vm)
{
    struct vm_xen *x = vm_xen_of(vm);
    vn_lock_scope(&x->lock);

    x->is_cancelled = true;
    pthread_cond_broadcast(&x->changed);
}

/* ---- the vtable --------------------------------------------------------- */

static int done(struct vm_xen *x, int result, struct vn_err *err)
{
    if (result < 0)
        vm_xen_explain(x, err);
    return result;
}

static int load_state(struct vm *vm, int fd, struct vn_err *err)
{
    return vm_xen_load_state(vm, fd, err);
}

static int prepare(struct vm *vm, const struct vm_prepare_opts *opts,
                   struct vn_err *err)
{
    struct vm_xen *x = vm_xen_of(vm);

    return done(x, vm_xen_prepare(x, opts, err), err);
}

static int stop(struct vm *vm, uint64_t *ret_wall_ns, struct vn_err *err)
{
    struct vm_xen *x = vm_xen_of(vm);

    return done(x, vm_xen_stop(x, ret_wall_ns, err), err);
}

static int capture(struct vm *vm, struct vn_err *err)
{
    struct vm_xen *x = vm_xen_of(vm);

    return done(x, vm_xen_capture(x, err), err);
}

static int save(struct vm *vm, struct store_writer *writer,
                const json_t *parent, json_t *manifest,
                void (*resumed)(void *context), void *context,
                struct vm_saved *ret, struct vn_err *err)
{
    struct vm_xen *x = vm_xen_of(vm);
    const struct vm_xen_save args = {.writer = writer,
                                     .parent = parent,
                                     .manifest = manifest,
                                     .resumed = resumed,
                                     .context = context};

    return done(x, vm_xen_save(x, &args, ret, err), err);
}

static int finish(struct vm *vm, struct vn_err *err)
{
    return vm_xen_finish(vm_xen_of(vm), err);
}

static int abort_snapshot(struct vm *vm, struct vn_err *err)
{
    struct vm_xen *x = vm_xen_of(vm);

    return done(x, vm_xen_abort(x, err), err);
}

static const char *nic_interface(struct vm *vm, unsigned index,
                                 struct vn_err *err)
{
    if (vm_xen_refresh(vm_xen_of(vm), err) < 0)
        return NULL;
    return vm_xen_nic_interface(vm_xen_of(vm), index, err);
}

const struct vm_backend vm_xen_backend = {
    .name = "xen",
    .start = start,
    .attach = attach,
    .create = create,
    .load_state = load_state,
    .free = free_vm,
    .shutdown = shut_down,
    .is_running = is_running,
    .prepare = prepare,
    .stop = stop,
    .capture = capture,
    .save = save,
    .finish = finish,
    .abort = abort_snapshot,
    .resume = resume,
    .cancel = cancel,
    .nic_interface = nic_interface,
};
