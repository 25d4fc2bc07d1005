/*
 * A snapshot of a domain: prepare, stop, capture, save, finish, abort.
 *
 *     precopy  prepare copies the memory while the domain runs, until what is
 *              left is small; stop suspends it; the last pages are copied while
 *              the switch is told; capture freezes the disks and lets it run.
 *     stop     prepare sets everything up; stop suspends it; its memory is
 *              copied, and its disks where they cannot be frozen, in save,
 *              which lets it run as soon as all of that is in RAM.
 *     HVM      stop by `xl save`, which knows the device model.
 *
 * In each the reader (vm_xen_reader.c) takes the stream into RAM; hashing
 * begins when the domain runs again.
 *
 * Abort lets the domain run first, then ends the threads, then lets it run
 * again: a saver that was about to suspend it may have done so in between. A
 * guest that acknowledged a suspend but took its time may still suspend
 * afterwards; the monitor resumes it then.
 */
#include "capture/vm_xen_internal.h"

#include "capture/xen_cfg.h"
#include "capture/xen_objects.h"
#include "common/clock.h"
#include "common/jsonx.h"
#include "common/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define TIMEOUT_DEFAULT_NS (10 * VN_SEC)
#define LIST_MAX           (4u << 20) /* bytes that xl says of a domain */
#define MEMORY_SLACK       (64ull << 20)
#define PAGE               4096ull

/* ---- prepare ------------------------------------------------------------ */

/* What libxl knows about it. */
static int ask_configuration(struct vm_xen *x, struct vn_err *err)
{
    vn_auto(free) char *domid = vn_format("%u", x->id.domid);
    const char *args[] = {"list", "-l", domid, NULL};
    vn_auto(buf) struct buf text;
    const char *type;
    uint32_t found;

    json_decref(vn_steal(&x->domain_config));
    buf_init(&text, LIST_MAX);
    if (vm_xen_xl_run(x, args, -1, &text, err) < 0)
        return vn_wrap(err, "asking libxl for the configuration");
    if (buf_check(&text, "xl's answer", err) < 0)
        return -1;
    x->domain_config =
        xen_cfg_of_list((const char *)text.data, text.size, &found, err);
    if (!x->domain_config)
        return -1;
    if (found != x->id.domid)
        return vn_fail(err, VN_E_PEER, "xl answered for domain %u", found);
    type = xen_config_type(x->domain_config, err);
    if (!type)
        return -1;
    x->type = strcmp(type, "pv") == 0    ? VM_XEN_PV
              : strcmp(type, "pvh") == 0 ? VM_XEN_PVH
                                         : VM_XEN_HVM;
    return 0;
}

/* Has the guest said that it cannot? */
static int check_can_suspend(struct vm_xen *x, struct vn_err *err)
{
    vn_auto(free) char *feature = vm_xen_read(
        x->host.xs, "/local/domain/%u/control/feature-suspend", x->id.domid);

    if (feature && strcmp(feature, "0") == 0)
        return vn_fail(err, VN_E_UNSUPPORTED,
                       "its guest says that it cannot suspend "
                       "(control/feature-suspend is 0)");
    return 0;
}

/* Can the hypervisor log its dirty pages? Leaves that off. */
static int try_log_dirty(struct vm_xen *x, struct vn_err *err)
{
    xc_interface *xc = x->host.xc;
    uint32_t domid = x->id.domid;
    int rc = xc_shadow_control(xc, domid, XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY,
                               NULL, 0);
    int code = errno;

    /* EINVAL: it is on. Nobody saves it now, so a dead one left it so. */
    if (rc == 0 || code == EINVAL) {
        if (xc_shadow_control(xc, domid, XEN_DOMCTL_SHADOW_OP_OFF, NULL, 0) < 0)
            return vn_fail(err, errno, "turn the log of dirty pages off");
        return 0;
    }
    if (code == EOPNOTSUPP)
        return vn_fail(err, VN_E_UNSUPPORTED,
                       "this hypervisor cannot log the dirty pages of a %s "
                       "domain",
                       x->type == VM_XEN_PV ? "PV" : "PVH");
    return vn_fail(err, code, "log its dirty pages");
}

static int can_precopy(struct vm_xen *x, struct vn_err *err)
{
    if (x->type == VM_XEN_HVM)
        return vn_fail(err, VN_E_UNSUPPORTED,
                       "an HVM domain's device model can only be saved while "
                       "it stands");
    return try_log_dirty(x, err);
}

static int choose_mode(struct vm_xen *x, enum vm_mode wanted,
                       struct vn_err *err)
{
    struct vn_err why = VN_ERR_INIT;
    bool must_stop = false;

    if (wanted == VM_MODE_COW)
        return vn_fail(err, VN_E_UNSUPPORTED,
                       "mode cow is QEMU's; use precopy or stop");
    if (vm_xen_disks_prepare(x, &must_stop, err) < 0)
        return -1;
    x->base.chosen_mode = VM_MODE_STOP;
    if (wanted == VM_MODE_STOP)
        return 0;
    if (must_stop)
        (void)vn_fail(&why, VN_E_UNSUPPORTED,
                      "one of its disks can only be copied while it stands");
    else if (can_precopy(x, &why) == 0)
        x->base.chosen_mode = VM_MODE_PRECOPY;
    if (x->base.chosen_mode == VM_MODE_PRECOPY)
        return 0;
    if (wanted == VM_MODE_PRECOPY) {
        *err = why;
        return vn_wrap(err, "mode precopy");
    }
    log_debug("vm_xen: mode stop vm=%s why=\"%s\"", x->base.name, why.msg);
    return 0;
}

static int make_memory(struct vm_xen *x, struct vn_err *err)
{
    struct vm_xen_look look;
    struct xen_stream_sink sink = {.page = xen_memory_page};

    if (vm_xen_look_alive(x, &look, err) < 0)
        return -1;
    x->memory = xen_memory_new(look.pages * PAGE + MEMORY_SLACK);
    sink.context = x->memory;
    x->stream = xen_stream_new(&sink);
    return 0;
}

static int set_up(struct vm_xen *x, enum vm_mode wanted, struct vn_err *err)
{
    uint64_t began_ns = clock_now_ns();

    if (vm_xen_lock(x, err) < 0 || ask_configuration(x, err) < 0 ||
        check_can_suspend(x, err) < 0)
        return -1;
    /* An HVM domain's saver is xl itself. */
    if ((x->type != VM_XEN_HVM && vm_xen_lock_libxl(x, err) < 0) ||
        choose_mode(x, wanted, err) < 0 || make_memory(x, err) < 0)
        return -1;
    if (x->type != VM_XEN_HVM) {
        x->saver =
            vm_xen_saver_start(x, x->base.chosen_mode == VM_MODE_PRECOPY, err);
        if (!x->saver || vm_xen_saver_await_ready(x->saver, err) < 0)
            return -1;
    }
    log_debug("vm_xen: prepared vm=%s mode=%s ms=%" PRIu64, x->base.name,
              vm_mode_name(x->base.chosen_mode),
              (clock_now_ns() - began_ns) / VN_MS);
    return 0;
}

static void set_snapshotting(struct vm_xen *x, bool on)
{
    vn_lock_scope(&x->lock);

    x->is_snapshotting = on;
    if (on) {
        x->is_cancelled = false;
        x->may_suspend_late = false;
    }
}

int vm_xen_prepare(struct vm_xen *x, const struct vm_prepare_opts *opts,
                   struct vn_err *err)
{
    struct vm_xen_look look;

    if (x->step != VM_XEN_IDLE)
        return vn_fail(err, VN_E_STATE,
                       "VM '%s': a snapshot is under way already",
                       x->base.name);
    if (vm_xen_refresh(x, err) < 0)
        return -1;
    set_snapshotting(x, true);
    x->step = VM_XEN_PREPARING;
    x->timeout_ns = opts->timeout_ns ? opts->timeout_ns : TIMEOUT_DEFAULT_NS;
    x->stop_wall_ns = 0;
    x->resume_wall_ns = 0;
    if (vm_xen_look_alive(x, &look, err) < 0)
        return -1;
    if (look.is_suspended || look.is_paused)
        return vn_fail(err, VN_E_STATE, "VM '%s' is not running but %s",
                       x->base.name, look.is_paused ? "paused" : "suspended");
    if (set_up(x, opts->mode, err) < 0)
        return vn_wrap(err, "preparing VM '%s'", x->base.name);
    x->step = VM_XEN_PREPARED;
    return 0;
}

/* ---- stop, capture ------------------------------------------------------ */

int vm_xen_stop(struct vm_xen *x, uint64_t *ret_wall_ns, struct vn_err *err)
{
    uint64_t began_ns = clock_wall_ns();
    int rc;

    if (x->step != VM_XEN_PREPARED)
        return vn_fail(err, VN_E_STATE, "VM '%s' was not prepared",
                       x->base.name);
    x->step = VM_XEN_STOPPING; /* from here on an abort must resume it */
    rc = x->saver ? vm_xen_saver_stop_domain(x->saver, &x->stop_wall_ns, err)
                  : vm_xen_hvm_stop_domain(x, &x->stop_wall_ns, err);
    if (rc < 0)
        return vn_wrap(err, "stopping VM '%s'", x->base.name);
    vm_xen_settle_vifs(x);
    log_debug("vm_xen: stopped vm=%s us: suspend=%" PRIu64 " settle=%" PRIu64,
              x->base.name, (x->stop_wall_ns - began_ns) / 1000,
              (clock_wall_ns() - x->stop_wall_ns) / 1000);
    *ret_wall_ns = x->stop_wall_ns;
    x->step = VM_XEN_STOPPED;
    return 0;
}

int vm_xen_capture(struct vm_xen *x, struct vn_err *err)
{
    uint64_t began_ns = clock_wall_ns(), frozen_ns;

    if (x->step != VM_XEN_STOPPED)
        return vn_fail(err, VN_E_STATE, "VM '%s' was not stopped",
                       x->base.name);
    if (vm_xen_disks_freeze(x, err) < 0)
        return vn_wrap(err, "capturing VM '%s'", x->base.name);
    frozen_ns = clock_wall_ns();
    if (x->base.chosen_mode == VM_MODE_PRECOPY &&
        vm_xen_saver_resume(x->saver, &x->resume_wall_ns, err) < 0)
        return vn_wrap(err, "capturing VM '%s'", x->base.name);
    log_debug("vm_xen: captured vm=%s us: stopped=%" PRIu64 " disks=%" PRIu64
              " resume=%" PRIu64,
              x->base.name, (began_ns - x->stop_wall_ns) / 1000,
              (frozen_ns - began_ns) / 1000,
              (clock_wall_ns() - frozen_ns) / 1000);
    x->step = VM_XEN_CAPTURED;
    return 0;
}

/* ---- save --------------------------------------------------------------- */

/* All of it is in RAM. */
static int await_stream(struct vm_xen *x, struct vn_err *err)
{
    uint64_t bytes = 0, since_ns = clock_now_ns();
    vn_lock_scope(&x->lock);

    while (!vm_xen_reader_is_complete(x->reader)) {
        const struct vn_err *failure = vm_xen_reader_error(x->reader);

        if (failure->code) {
            *err = *failure;
            return -1;
        }
        if (x->is_cancelled)
            return vn_fail(err, ECANCELED, "the snapshot");
        if (vm_xen_reader_bytes(x->reader) != bytes)
            since_ns = clock_now_ns();
        bytes = vm_xen_reader_bytes(x->reader);
        if (clock_now_ns() - since_ns > x->timeout_ns)
            return vn_fail(err, VN_E_TIMEOUT,
                           "its stream stands still after %" PRIu64 " bytes",
                           bytes);
        (void)vm_xen_wait(x, clock_now_ns() + 100 * VN_MS);
    }
    return 0;
}

/* Mode stop: its memory is in RAM; let it run. */
static int resume_standing(struct vm_xen *x, const struct vm_xen_save *save,
                           uint64_t *disk_bytes, struct vn_err *err)
{
    if (await_stream(x, err) < 0)
        return -1;
    /* xl resumes it itself, paused, and only then ends. */
    if (x->hvm && vm_xen_hvm_await_end(x, err) < 0)
        return -1;
    if (vm_xen_disks_save(x, save, true, disk_bytes, err) < 0)
        return -1;
    return vm_xen_let_run(&x->host, &x->id, NULL, &x->resume_wall_ns, err);
}

/* The saver is through, nothing was lost, nobody else interfered. */
static int check_stream(struct vm_xen *x, struct vn_err *err)
{
    uint64_t lost;

    if (x->saver && vm_xen_saver_await_end(x->saver, err) < 0)
        return -1;
    if (x->type != VM_XEN_HVM && vm_xen_no_other_saver(x->id.domid, err) < 0)
        return -1;
    vm_xen_unlock_libxl(x);
    lost = xen_memory_lost(x->memory);
    if (lost)
        return vn_fail(err, VN_E_PEER,
                       "libxc left out %" PRIu64
                       " pages of page tables that it could not translate",
                       lost);
    return 0;
}

static int save_state(struct vm_xen *x, const struct vm_xen_save *save,
                      struct vm_saved *ret, struct vn_err *err)
{
    struct xen_memory_counts counts;

    if (check_stream(x, err) < 0)
        return -1;
    if (xen_memory_save(x->memory, x->stream, x->base.name, save->writer,
                        save->parent, save->manifest, err) < 0)
        return -1;
    xen_memory_counts(x->memory, &counts);
    ret->memory_bytes = counts.received * PAGE;
    ret->meta = xen_state_to_json(x->stream, x->domain_config);
    return 0;
}

static int save_all(struct vm_xen *x, const struct vm_xen_save *save,
                    struct vm_saved *ret, struct vn_err *err)
{
    struct vm_xen_look look;

    if (x->base.chosen_mode == VM_MODE_STOP &&
        resume_standing(x, save, &ret->disk_bytes, err) < 0)
        return -1;
    if (save->resumed)
        save->resumed(save->context);
    if (save_state(x, save, ret, err) < 0 ||
        vm_xen_disks_save(x, save, false, &ret->disk_bytes, err) < 0)
        return -1;
    if (vm_xen_is_cancelled(x))
        return vn_fail(err, ECANCELED, "the snapshot");
    return vm_xen_look_alive(x, &look, err);
}

int vm_xen_save(struct vm_xen *x, const struct vm_xen_save *save,
                struct vm_saved *ret, struct vn_err *err)
{
    struct vm_saved saved = {.meta = NULL};

    if (x->step != VM_XEN_CAPTURED)
        return vn_fail(err, VN_E_STATE, "VM '%s' was not captured",
                       x->base.name);
    if (save_all(x, save, &saved, err) < 0) {
        json_decref(saved.meta);
        return vn_wrap(err, "saving VM '%s'", x->base.name);
    }
    saved.stop_wall_ns = x->stop_wall_ns;
    saved.resume_wall_ns = x->resume_wall_ns;
    *ret = saved;
    x->step = VM_XEN_SAVED;
    return 0;
}

/* ---- the end ------------------------------------------------------------ */

/* No thread, child or lock of the snapshot is left; memory is free. */
static void release(struct vm_xen *x)
{
    vm_xen_saver_free(vn_steal(&x->saver));
    vm_xen_hvm_free(vn_steal(&x->hvm));
    vm_xen_reader_free(vn_steal(&x->reader));
    xen_stream_free(vn_steal(&x->stream));
    xen_memory_free(vn_steal(&x->memory));
    json_decref(vn_steal(&x->domain_config));
    vm_xen_unlock(x);
}

static void follow_end(struct vm_xen *x)
{
    struct vn_err ignored = VN_ERR_INIT;

    /* xl's own daemon left when it saw the domain suspend. */
    if (!x->monitor)
        x->monitor = vm_xen_monitor_start(x, &ignored);
}

int vm_xen_finish(struct vm_xen *x, struct vn_err *err)
{
    if (x->step != VM_XEN_SAVED)
        return vn_fail(err, VN_E_STATE, "VM '%s' was not saved", x->base.name);
    release(x);
    vm_xen_disks_release(x);
    set_snapshotting(x, false);
    follow_end(x);
    x->step = VM_XEN_IDLE;
    return 0;
}

int vm_xen_abort(struct vm_xen *x, struct vn_err *err)
{
    struct vn_err ignored = VN_ERR_INIT;
    bool stood = x->step >= VM_XEN_STOPPING;
    int rc = 0;

    if (x->step == VM_XEN_IDLE) {
        set_snapshotting(x, true); /* not cancelled any more */
        set_snapshotting(x, false);
        return 0;
    }
    if (stood && !x->hvm &&
        vm_xen_let_run(&x->host, &x->id, NULL, NULL, &ignored) < 0)
        log_debug("vm_xen: abort vm=%s error=\"%s\"", x->base.name,
                  ignored.msg);
    release(x);
    if (stood)
        rc = vm_xen_let_run(&x->host, &x->id, NULL, NULL, err);
    vm_xen_disks_release(x);
    set_snapshotting(x, false);
    if (stood)
        follow_end(x);
    x->step = VM_XEN_IDLE;
    return rc < 0
               ? vn_wrap(err, "aborting the snapshot of VM '%s'", x->base.name)
               : 0;
}
