/*
 * The instant: prepare, stop, capture.
 *
 * In mode cow QEMU's background-snapshot does the work: it saves the devices,
 * write-protects all memory (userfaultfd), lets the VM run again and then
 * sends page after page, a page first where the guest wants to write to it.
 * The order stop -> transaction over all disks -> migrate puts memory, devices
 * and disks at one instant. Everything that can be done while the VM runs is
 * done in prepare: capability, overlays, NBD server, socket, reader thread;
 * between STOP and RESUME lie two commands.
 *
 * QEMU before 8.0 resumes the VM by itself once it is armed, also one that was
 * stopped by command. Later ones leave it as it was, and are continued when
 * the first page has been read: `MIGRATION active` would be too early.
 *
 * In mode stop the same stream is written by a plain migration of a VM that
 * stands still; vm_qemu_save.c lets it run on when the stream is in RAM.
 *
 * The stream goes through a socketpair into a spool (capture/spool.h), which
 * has room for all of memory: nothing slow behind it can lengthen a pause.
 *
 * Not done: precopy. Before 9.0 QEMU loses dirty pages under TCG, and with
 * KVM it could not be tested here.
 */
#include "capture/vm_qemu.h"

#include "common/buf.h"
#include "common/clock.h"
#include "common/io.h"
#include "common/jsonx.h"
#include "common/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SELF_RESUMING_BELOW 80000u /* 8.0.0 */
#define STREAM_BUFFER       (128 << 10)
#define SPOOL_SLACK         (256ull << 20) /* record heads, ROMs, devices */
#define UNLIMITED_BYTES_S   (1ll << 40)
#define PEEK_SIZE           4096u
#define PEEK_MAX            (64u << 20) /* a first page comes long before */
#define COMMAND_LINE_MAX    (1u << 20)

/* ---- prepare ------------------------------------------------------------ */

/* Programs that write to guest memory from outside QEMU escape the write
 * protection, which belongs to QEMU's address space. */
static int refuse_outside_writers(const struct vm_qemu *v, struct vn_err *err)
{
    static const char *const writers[] = {"vhost-user", "virtio-pmem"};
    vn_auto(buf) struct buf text;
    vn_auto(free) char *path = vn_format("/proc/%d/cmdline", v->base.pid);
    struct vn_err ignored = VN_ERR_INIT;

    buf_init(&text, COMMAND_LINE_MAX);
    if (v->base.pid <= 0 || io_read_file(path, &text, &ignored) < 0)
        return 0;
    for (size_t i = 0; i < VN_COUNT(writers); i++) {
        if (memmem(text.data, text.size, writers[i], strlen(writers[i])))
            return vn_fail(err, VN_E_UNSUPPORTED,
                           "it has a %s device, whose writes to memory "
                           "escape write protection",
                           writers[i]);
    }
    return 0;
}

static int try_cow(struct vm_qemu *v, struct vn_err *err)
{
    if (refuse_outside_writers(v, err) < 0)
        return -1;
    if (vm_qemu_set_capability(v, "background-snapshot", true, err) < 0)
        return -1;
    v->base.chosen_mode = VM_MODE_COW;
    return 0;
}

/* Mode stop: as fast as it goes, nobody else needs the bandwidth. */
static int set_up_stop(struct vm_qemu *v, struct vn_err *err)
{
    vn_auto(json) json_t *reply = NULL;

    if (vm_qemu_set_capability(v, "background-snapshot", false, err) < 0 ||
        qmp_command(v->qmp, "query-migrate-parameters", NULL, &reply, err) < 0)
        return -1;
    v->old_bandwidth = jsonx_u64_or(reply, "max-bandwidth", 0);
    v->base.chosen_mode = VM_MODE_STOP;
    return qmp_command(
        v->qmp, "migrate-set-parameters",
        json_pack("{s:I}", "max-bandwidth", (json_int_t)UNLIMITED_BYTES_S),
        NULL, err);
}

static int choose_mode(struct vm_qemu *v, enum vm_mode wanted,
                       struct vn_err *err)
{
    struct vn_err why = VN_ERR_INIT;

    switch (wanted) {
    case VM_MODE_PRECOPY:
        return vn_fail(err, VN_E_UNSUPPORTED,
                       "VM '%s': mode precopy is not safe with QEMU %s (TCG "
                       "loses dirty pages before 9.0); use cow or stop",
                       v->base.name, v->version);
    case VM_MODE_STOP:
        return set_up_stop(v, err);
    case VM_MODE_COW:
    case VM_MODE_AUTO:
        break;
    }
    if (try_cow(v, &why) == 0)
        return 0;
    if (wanted == VM_MODE_AUTO && !qmp_is_gone(v->qmp) &&
        why.code != ECANCELED && why.code != VN_E_TIMEOUT) {
        log_debug("vm_qemu: no cow vm=%s why=\"%s\"", v->base.name, why.msg);
        return set_up_stop(v, err);
    }
    *err = why;
    return vn_wrap(err, "VM '%s' cannot use mode cow", v->base.name);
}

static int set_up_stream(struct vm_qemu *v, struct vn_err *err)
{
    vn_auto(close) int ours = -1;
    vn_auto(close) int theirs = -1;
    int ends[2], size = STREAM_BUFFER;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        return vn_fail(err, errno, "create a socket pair");
    ours = ends[0];
    theirs = ends[1];
    /* Between unix sockets the sender's buffer counts. */
    if (setsockopt(theirs, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) < 0)
        (void)setsockopt(theirs, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    if (v->base.chosen_mode == VM_MODE_COW &&
        vm_qemu_keeper_start(v, ours, err) < 0)
        return -1;
    v->spool =
        spool_start(vn_steal_fd(&ours),
                    v->memory_bytes + v->memory_bytes / 64 + SPOOL_SLACK, err);
    if (!v->spool)
        return -1;
    return qmp_command_fd(v->qmp, "getfd",
                          json_pack("{s:s}", "fdname", VM_QEMU_STREAM), theirs,
                          err);
}

int vm_qemu_prepare(struct vm_qemu *v, const struct vm_prepare_opts *opts,
                    struct vn_err *err)
{
    char status[32];
    bool running;

    if (v->step != VM_QEMU_IDLE)
        return vn_fail(err, VN_E_STATE,
                       "VM '%s': a snapshot is under way already",
                       v->base.name);
    qmp_uncancel(v->qmp);
    v->timeout_ns = opts->timeout_ns ? opts->timeout_ns : QMP_TIMEOUT_NS;
    qmp_set_timeout(v->qmp, v->timeout_ns);
    if (qmp_pump(v->qmp, err) < 0)
        return -1;
    qmp_forget_events(v->qmp);
    if (vm_qemu_query_running(v, &running, status, err) < 0)
        return -1;
    if (!running)
        return vn_fail(err, VN_E_STATE, "VM '%s' is not running but '%s'",
                       v->base.name, status);
    v->step = VM_QEMU_PREPARING;
    v->stop_wall_ns = 0;
    v->resume_wall_ns = 0;
    if (choose_mode(v, opts->mode, err) < 0)
        return -1;
    if (vm_qemu_find_disks(v, err) < 0 || vm_qemu_disks_prepare(v, err) < 0 ||
        set_up_stream(v, err) < 0)
        return vn_wrap(err, "preparing VM '%s'", v->base.name);
    if (v->base.chosen_mode == VM_MODE_COW)
        vm_qemu_ready_memory(v);
    v->step = VM_QEMU_PREPARED;
    return 0;
}

/* ---- stop --------------------------------------------------------------- */

int vm_qemu_stop(struct vm_qemu *v, uint64_t *ret_wall_ns, struct vn_err *err)
{
    vn_auto(json) json_t *event = NULL;

    if (v->step != VM_QEMU_PREPARED)
        return vn_fail(err, VN_E_STATE, "VM '%s' was not prepared",
                       v->base.name);
    qmp_forget_events(v->qmp);
    vm_qemu_hurry(v, true);
    v->step = VM_QEMU_STOPPED; /* from here on an abort must continue it */
    if (qmp_command(v->qmp, "stop", NULL, NULL, err) < 0)
        return -1;
    event = qmp_wait_event(v->qmp, qmp_want_name, "STOP", "STOP", err);
    if (!event)
        return -1;
    v->stop_wall_ns = qmp_event_wall_ns(event);
    *ret_wall_ns = v->stop_wall_ns;
    return 0;
}

/* ---- capture ------------------------------------------------------------ */

static bool want_resume(const json_t *event, const void *context)
{
    return qmp_want_name(event, "RESUME") ||
           (vm_qemu_want_migration_end(event, context) &&
            strcmp(qmp_event_string(event, "status"), "completed") != 0);
}

static int await_resume(struct vm_qemu *v, struct vn_err *err)
{
    vn_auto(json) json_t *event =
        qmp_wait_event(v->qmp, want_resume, NULL, "RESUME", err);

    if (!event)
        return -1;
    if (!qmp_want_name(event, "RESUME"))
        return vm_qemu_fail_migration(v, err);
    v->resume_wall_ns = qmp_event_wall_ns(event);
    vm_qemu_hurry(v, false);
    return 0;
}

static int no_blocks(void *context, const struct qemu_block *blocks,
                     unsigned count, struct vn_err *err)
{
    (void)context, (void)blocks, (void)count, (void)err;
    return 0;
}

static int no_page(void *context, unsigned block, uint64_t offset,
                   const void *page, struct vn_err *err)
{
    (void)context, (void)block, (void)offset, (void)page, (void)err;
    return 0;
}

static void vn_auto_stream(struct qemu_stream **stream)
{
    qemu_stream_free(*stream);
}

/* Read ahead in the spool, with a parser of its own, until the first page. */
static int await_first_page(struct vm_qemu *v, struct vn_err *err)
{
    const struct qemu_stream_sink sink = {.blocks = no_blocks, .page = no_page};
    vn_auto(stream) struct qemu_stream *stream = qemu_stream_new(&sink);
    uint64_t deadline_ns = clock_now_ns() + v->timeout_ns;
    uint64_t at = 0;

    while (!qemu_stream_ram_began(stream)) {
        uint8_t bytes[PEEK_SIZE];
        size_t n = spool_peek(v->spool, at, bytes, sizeof(bytes));

        if (n && qemu_stream_feed(stream, bytes, n, err) < 0)
            return -1;
        at += n;
        if (n)
            continue;
        if (qmp_pump(v->qmp, err) < 0)
            return -1;
        if (qmp_is_cancelled(v->qmp))
            return vn_fail(err, ECANCELED, "VM '%s': capture", v->base.name);
        if (spool_is_ended(v->spool))
            return vm_qemu_fail_migration(v, err);
        if (at > PEEK_MAX || clock_now_ns() > deadline_ns)
            return vn_fail(err, VN_E_TIMEOUT,
                           "VM '%s': its stream does not begin", v->base.name);
        usleep(200);
    }
    return 0;
}

static int migrate(struct vm_qemu *v, struct vn_err *err)
{
    return qmp_command(v->qmp, "migrate",
                       json_pack("{s:s}", "uri", "fd:" VM_QEMU_STREAM), NULL,
                       err);
}

static int capture_cow(struct vm_qemu *v, struct vn_err *err)
{
    uint64_t began_ns = clock_wall_ns(), frozen_ns, asked_ns;

    if (vm_qemu_disks_freeze(v, err) < 0)
        return -1;
    frozen_ns = clock_wall_ns();
    if (migrate(v, err) < 0)
        return -1;
    asked_ns = clock_wall_ns();
    if (qmp_version(v->qmp) >= SELF_RESUMING_BELOW) {
        if (await_first_page(v, err) < 0 ||
            qmp_command(v->qmp, "cont", NULL, NULL, err) < 0)
            return -1;
    }
    if (await_resume(v, err) < 0)
        return -1;
    log_debug("vm_qemu: captured vm=%s us: stop=%" PRIu64 " disks=%" PRIu64
              " migrate=%" PRIu64 " resume=%" PRIu64,
              v->base.name, (began_ns - v->stop_wall_ns) / 1000,
              (frozen_ns - began_ns) / 1000, (asked_ns - frozen_ns) / 1000,
              (v->resume_wall_ns - asked_ns) / 1000);
    return 0;
}

int vm_qemu_capture(struct vm_qemu *v, struct vn_err *err)
{
    int result;

    if (v->step != VM_QEMU_STOPPED)
        return vn_fail(err, VN_E_STATE, "VM '%s' was not stopped",
                       v->base.name);
    if (v->base.chosen_mode == VM_MODE_COW)
        result = capture_cow(v, err);
    else
        result = migrate(v, err);
    if (result < 0)
        return vn_wrap(err, "capturing VM '%s'", v->base.name);
    v->step = VM_QEMU_CAPTURED;
    return 0;
}
