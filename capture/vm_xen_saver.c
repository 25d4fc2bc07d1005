/*
 * xc_domain_save() in a thread, with the callbacks that make it a snapshot.
 *
 *     live (PVH; PV where the hypervisor logs dirty pages): copies while the
 *     domain runs, by capture/xen_policy.h, until the stop is wanted; asks the
 *     guest to suspend, copies what is left, and in postcopy() lets it run
 *     again, before libxc cleans up. libxc calls postcopy() only in the stream
 *     type made for Remus; we end that at its first checkpoint, whose record
 *     then ends the stream.
 *
 *     not live: everything is set up, then it waits inside suspend(), so that
 *     nothing but the copying lies in the pause. The caller resumes the domain
 *     as soon as the reader has seen the end of the stream.
 *
 * A PV domain is paused while it is suspended: only then does libxc give up
 * where it finds a page table that it cannot translate, instead of leaving it
 * out. (It tests the pause count, not the shutdown.)
 *
 * Dirty pages are lost when someone else turns logging off meanwhile. The lock
 * (vm_xen_lock.c) prevents that; checkpoint() sees to it once more: logging
 * must still be on, or turning it on would not be refused.
 *
 * When an abort is wished the thread ends at the next callback. The domain may
 * stand then; whoever joined the thread (vm_xen_abort()) lets it run.
 */
#include "capture/vm_xen_internal.h"

#include "capture/xen_policy.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/priority.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xenguest.h>

#define PIPE_SIZE      (4 << 20) /* a batch of libxc's */
#define BUDGET_NS      (3 * VN_MS)
#define SUSPEND_NS     (4 * VN_SEC)
#define STALL_NS       (30 * VN_SEC) /* without a byte, before it is ready */
#define READY_SLICE_NS (1 * VN_SEC)

struct vm_xen_saver {
    xentoollog_logger logger; /* first: libxc's messages come back to us */
    struct vm_xen *x;
    pthread_t thread;
    bool is_live;
    int fd;
    struct vm_xen_host host;  /* of the thread */
    struct xen_policy policy; /* the thread's */
    bool is_hurrying;
    int calm_nice; /* what it had before */

    /* Guarded by x->lock. */
    bool is_ready, wants_stop, wants_resume, wants_end;
    bool is_suspended, is_resumed, has_ended;
    uint64_t stop_wall_ns, resume_wall_ns;
    char said[256];        /* libxc's first complaint */
    struct vn_err err;     /* of a callback */
    struct vn_err gave_up; /* what libxc made of it */
};

/* ---- libxc's messages --------------------------------------------------- */

VN_PRINTF(5, 0)
static void take_message(xentoollog_logger *logger, xentoollog_level level,
                         int code, const char *context, const char *format,
                         va_list args)
{
    struct vm_xen_saver *s = (struct vm_xen_saver *)logger;
    char text[200];

    (void)context;
    if (level < XTL_INFO)
        return;
    vsnprintf(text, sizeof(text), format, args);
    log_debug("vm_xen: xc vm=%s level=%d errno=%d %s", s->x->base.name,
              (int)level, code, text);
    if (level < XTL_ERROR)
        return;
    pthread_mutex_lock(&s->x->lock);
    /* The first says what; the others, how it went on. */
    if (!*s->said && code > 0)
        snprintf(s->said, sizeof(s->said), "%s: %s", text, strerror(code));
    else if (!*s->said)
        snprintf(s->said, sizeof(s->said), "%s", text);
    pthread_mutex_unlock(&s->x->lock);
}

static void take_progress(xentoollog_logger *logger, const char *context,
                          const char *what, int percent, unsigned long done,
                          unsigned long total)
{
    (void)logger, (void)context, (void)what, (void)percent, (void)done,
        (void)total;
}

static void take_nothing(xentoollog_logger *logger)
{
    (void)logger;
}

/* ---- callbacks ---------------------------------------------------------- */

static void note(struct vm_xen_saver *s, const struct vn_err *err)
{
    pthread_mutex_lock(&s->x->lock);
    if (!s->err.code)
        s->err = *err;
    pthread_mutex_unlock(&s->x->lock);
}

/* Nobody wants what is being done. With the lock held. */
static bool is_unwanted(const struct vm_xen_saver *s)
{
    return s->wants_end || s->x->is_cancelled ||
           vm_xen_reader_has_ended(s->x->reader);
}

static int wait_for_stop(struct vm_xen_saver *s, uint64_t wait_ns)
{
    uint64_t deadline_ns = clock_now_ns() + wait_ns, none;

    pthread_mutex_lock(&s->x->lock);
    if (!s->is_ready) {
        s->is_ready = true;
        pthread_cond_broadcast(&s->x->changed);
    }
    while (!s->wants_stop && !is_unwanted(s) && vm_xen_wait(s->x, deadline_ns))
        continue;
    none = s->wants_stop;
    pthread_mutex_unlock(&s->x->lock);
    if (none && xen_policy_after_pass(&s->policy, true, clock_now_ns(),
                                      &none) == XEN_POLICY_STOP)
        return XGS_POLICY_STOP_AND_COPY;
    return XGS_POLICY_CONTINUE_PRECOPY;
}

static int precopy_policy(struct precopy_stats stats, void *data)
{
    struct vm_xen_saver *s = data;
    uint64_t now_ns = clock_now_ns(), wait_ns = 0;
    enum xen_policy_answer answer;
    bool wants_stop, unwanted;

    pthread_mutex_lock(&s->x->lock);
    wants_stop = s->wants_stop;
    unwanted = is_unwanted(s);
    pthread_mutex_unlock(&s->x->lock);
    if (unwanted)
        return XGS_POLICY_ABORT;
    if (stats.dirty_count >= 0) {
        answer = xen_policy_before_pass(&s->policy, (uint64_t)stats.dirty_count,
                                        wants_stop, now_ns);
        if (!s->is_ready || wants_stop)
            log_debug("vm_xen: pass vm=%s number=%u pages=%ld", s->x->base.name,
                      stats.iteration, stats.dirty_count);
    } else {
        answer =
            xen_policy_after_pass(&s->policy, wants_stop, now_ns, &wait_ns);
    }
    switch (answer) {
    case XEN_POLICY_STOP:
        return XGS_POLICY_STOP_AND_COPY;
    case XEN_POLICY_WAIT:
        return wait_for_stop(s, wait_ns);
    case XEN_POLICY_GO_ON:
        break;
    }
    return XGS_POLICY_CONTINUE_PRECOPY;
}

/* Not live: all is set up; wait here. */
static bool await_stop_wish(struct vm_xen_saver *s)
{
    vn_lock_scope(&s->x->lock);

    s->is_ready = true;
    pthread_cond_broadcast(&s->x->changed);
    while (!s->wants_stop && !is_unwanted(s))
        (void)vm_xen_wait(s->x, clock_now_ns() + VN_SEC);
    return s->wants_stop && !is_unwanted(s);
}

/* Others stand already, and the agent allows no long pause to a live snapshot:
 * give up before it does, so that the guest's stage is what is told. */
static uint64_t patience_ns(const struct vm_xen_saver *s)
{
    uint64_t limit_ns = s->x->timeout_ns;

    return s->is_live && limit_ns > SUSPEND_NS ? SUSPEND_NS : limit_ns;
}

static int suspend_domain(struct vm_xen_saver *s, uint64_t *ret_wall_ns,
                          struct vn_err *err)
{
    struct vm_xen *x = s->x;
    const struct vm_xen_suspend suspend = {.id = x->id,
                                           .timeout_ns = patience_ns(s),
                                           .is_cancelled = vm_xen_is_cancelled,
                                           .context = x};
    bool acknowledged = false;
    int rc =
        vm_xen_suspend(&s->host, &suspend, ret_wall_ns, &acknowledged, err);

    if (rc < 0 && acknowledged) {
        pthread_mutex_lock(&x->lock);
        x->may_suspend_late = true;
        pthread_mutex_unlock(&x->lock);
    }
    if (rc == 0 && x->type == VM_XEN_PV &&
        xc_domain_pause(s->host.xc, x->id.domid) < 0)
        return vn_fail(err, errno, "pause the suspended domain");
    return rc;
}

/* 1: it stands. */
static int on_suspend(void *data)
{
    struct vm_xen_saver *s = data;
    struct vn_err err = VN_ERR_INIT;
    uint64_t wall_ns = 0;

    if (!await_stop_wish(s))
        return 0;
    if (suspend_domain(s, &wall_ns, &err) < 0) {
        note(s, &err);
        return 0;
    }
    if (s->is_live) {
        vm_xen_reader_freeze(s->x->reader);
        s->calm_nice = priority_nice(0);
        s->is_hurrying = priority_urgent_self();
    }
    pthread_mutex_lock(&s->x->lock);
    s->stop_wall_ns = wall_ns;
    s->is_suspended = true;
    pthread_cond_broadcast(&s->x->changed);
    pthread_mutex_unlock(&s->x->lock);
    return 1;
}

/* While the domain stands for the last pages, this thread goes first. */
static void calm(struct vm_xen_saver *s)
{
    if (s->is_hurrying)
        (void)priority_calm_self(s->calm_nice);
    s->is_hurrying = false;
}

/* The last page and record are out. 1: it runs. */
static int on_postcopy(void *data)
{
    struct vm_xen_saver *s = data;
    struct vn_err err = VN_ERR_INIT;
    uint64_t began_ns = clock_wall_ns(), wall_ns = 0;

    pthread_mutex_lock(&s->x->lock);
    log_debug("vm_xen: copied vm=%s us=%" PRIu64, s->x->base.name,
              (began_ns - s->stop_wall_ns) / 1000);
    while (!s->wants_resume && !is_unwanted(s))
        (void)vm_xen_wait(s->x, clock_now_ns() + VN_SEC);
    pthread_mutex_unlock(&s->x->lock);
    if (vm_xen_let_run(&s->host, &s->x->id, NULL, &wall_ns, &err) < 0) {
        note(s, &err);
        return 0;
    }
    calm(s);
    pthread_mutex_lock(&s->x->lock);
    s->resume_wall_ns = wall_ns;
    s->is_resumed = true;
    pthread_cond_broadcast(&s->x->changed);
    pthread_mutex_unlock(&s->x->lock);
    return 1;
}

/* 0: no further checkpoint. */
static int on_checkpoint(void *data)
{
    struct vm_xen_saver *s = data;
    struct vn_err err = VN_ERR_INIT;

    if (xc_shadow_control(s->host.xc, s->x->id.domid,
                          XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY, NULL, 0) < 0)
        return 0;
    (void)vn_fail(&err, VN_E_STATE,
                  "someone turned the log of dirty pages off: a save or "
                  "migration of the domain began");
    note(s, &err);
    return 0;
}

static int on_qemu_logdirty(uint32_t domid, unsigned enable, void *data)
{
    (void)domid, (void)enable, (void)data; /* PVH has no QEMU */
    return 0;
}

/* ---- the thread --------------------------------------------------------- */

static void save(struct vm_xen_saver *s)
{
    struct save_callbacks callbacks = {.suspend = on_suspend,
                                       .switch_qemu_logdirty = on_qemu_logdirty,
                                       .data = s};
    int code;

    if (s->is_live) {
        callbacks.precopy_policy = precopy_policy;
        callbacks.postcopy = on_postcopy;
        callbacks.checkpoint = on_checkpoint;
    }
    if (xc_domain_save(s->host.xc, s->fd, s->x->id.domid,
                       s->is_live ? XCFLAGS_LIVE : 0, &callbacks,
                       s->is_live ? XC_STREAM_REMUS : XC_STREAM_PLAIN, -1) == 0)
        return;
    code = errno;
    pthread_mutex_lock(&s->x->lock);
    (void)vn_fail(&s->gave_up, VN_E_PEER, "libxc gave up: %s",
                  *s->said ? s->said : strerror(code));
    pthread_mutex_unlock(&s->x->lock);
}

static void *run(void *argument)
{
    struct vm_xen_saver *s = argument;

    save(s);
    calm(s);
    close(vn_steal_fd(&s->fd)); /* the end of the stream */
    pthread_mutex_lock(&s->x->lock);
    s->has_ended = true;
    pthread_cond_broadcast(&s->x->changed);
    pthread_mutex_unlock(&s->x->lock);
    return NULL;
}

/* With SIGPIPE blocked, which the thread inherits. */
static int start_thread(struct vm_xen_saver *s)
{
    sigset_t pipe_only, before;
    int code;

    sigemptyset(&pipe_only);
    sigaddset(&pipe_only, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe_only, &before);
    code = pthread_create(&s->thread, NULL, run, s);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code;
}

static void saver_free(struct vm_xen_saver *s)
{
    if (s->fd >= 0)
        close(s->fd);
    vm_xen_host_close(&s->host);
    free(s);
}

static int open_saver(struct vm_xen_saver *s, struct vn_err *err)
{
    s->host.xc = xc_interface_open(&s->logger, &s->logger, 0);
    if (!s->host.xc)
        return vn_fail(err, errno, "open the hypervisor's interface");
    s->host.xs = xs_open(0);
    if (!s->host.xs)
        return vn_fail(err, errno, "connect to xenstore");
    return 0;
}

static int start_stream(struct vm_xen_saver *s, struct vn_err *err)
{
    struct vm_xen *x = s->x;
    int ends[2], code;

    if (pipe2(ends, O_CLOEXEC) < 0)
        return vn_fail(err, errno, "create a pipe");
    (void)fcntl(ends[1], F_SETPIPE_SZ, PIPE_SIZE); /* else 64 KiB */
    s->fd = ends[1];
    x->reader = vm_xen_reader_start(x, ends[0], err);
    if (!x->reader)
        return -1;
    code = start_thread(s);
    return code ? vn_fail(err, code, "start the saver's thread") : 0;
}

struct vm_xen_saver *vm_xen_saver_start(struct vm_xen *x, bool live,
                                        struct vn_err *err)
{
    struct vm_xen_saver *s = vn_alloc(sizeof(*s));
    struct vm_xen_look look;

    s->logger = (xentoollog_logger){.vmessage = take_message,
                                    .progress = take_progress,
                                    .destroy = take_nothing};
    s->x = x;
    s->fd = -1;
    s->is_live = live;
    if (vm_xen_look_alive(x, &look, err) < 0 || open_saver(s, err) < 0 ||
        start_stream(s, err) < 0) {
        saver_free(s);
        return NULL;
    }
    return s;
}

/* ---- the caller's side -------------------------------------------------- */

/*
 * Why it cannot go on, with the lock held; 0 if it can. The cause first: a
 * callback that failed makes libxc give up, and then the stream ends early; a
 * reader that failed makes libxc's write fail.
 */
static int check(struct vm_xen_saver *s, struct vn_err *err)
{
    struct vm_xen *x = s->x;
    const struct vn_err *reader = vm_xen_reader_error(x->reader);
    bool early = vm_xen_reader_ended_early(x->reader);
    const struct vn_err *why = s->err.code              ? &s->err
                               : reader->code && !early ? reader
                               : s->gave_up.code        ? &s->gave_up
                               : early && s->has_ended  ? reader
                                                        : NULL;

    if (x->is_cancelled)
        return vn_fail(err, ECANCELED, "the snapshot");
    if (!why)
        return 0;
    *err = *why;
    return -1;
}

/* Wait until *flag; a failure of reader or saver ends it. Lock held. */
static int await(struct vm_xen_saver *s, const bool *flag, uint64_t timeout_ns,
                 const char *what, struct vn_err *err)
{
    uint64_t deadline_ns = clock_now_ns() + timeout_ns;

    while (!*flag) {
        if (check(s, err) < 0)
            return -1;
        if (s->has_ended)
            return vn_fail(err, VN_E_PEER, "libxc ended early");
        if (!vm_xen_wait(s->x, deadline_ns))
            return vn_fail(err, VN_E_TIMEOUT, "%s: not within %.1f s", what,
                           (double)timeout_ns / VN_SEC);
    }
    return 0;
}

int vm_xen_saver_await_ready(struct vm_xen_saver *s, struct vn_err *err)
{
    uint64_t bytes = 0, since_ns = clock_now_ns();
    vn_lock_scope(&s->x->lock);

    for (;;) {
        struct vn_err why = VN_ERR_INIT;

        if (await(s, &s->is_ready, READY_SLICE_NS, "copy", &why) == 0)
            return 0;
        if (why.code != VN_E_TIMEOUT) {
            *err = why;
            return -1;
        }
        if (vm_xen_reader_bytes(s->x->reader) != bytes)
            since_ns = clock_now_ns();
        bytes = vm_xen_reader_bytes(s->x->reader);
        if (clock_now_ns() - since_ns > STALL_NS)
            return vn_fail(
                err, VN_E_TIMEOUT,
                "libxc's stream stands still after %" PRIu64 " bytes", bytes);
    }
}

int vm_xen_saver_stop_domain(struct vm_xen_saver *s, uint64_t *ret_wall_ns,
                             struct vn_err *err)
{
    vn_lock_scope(&s->x->lock);

    s->wants_stop = true;
    pthread_cond_broadcast(&s->x->changed);
    /* The thread itself gives up after timeout_ns, in two stages, and says
     * which; before that the pass under way ends. */
    if (await(s, &s->is_suspended, 2 * s->x->timeout_ns + VN_SEC, "suspend",
              err) < 0)
        return -1;
    *ret_wall_ns = s->stop_wall_ns;
    return 0;
}

int vm_xen_saver_resume(struct vm_xen_saver *s, uint64_t *ret_wall_ns,
                        struct vn_err *err)
{
    vn_lock_scope(&s->x->lock);

    s->wants_resume = true;
    pthread_cond_broadcast(&s->x->changed);
    if (await(s, &s->is_resumed, s->x->timeout_ns, "the last pages", err) < 0)
        return -1;
    *ret_wall_ns = s->resume_wall_ns;
    return 0;
}

int vm_xen_saver_await_end(struct vm_xen_saver *s, struct vn_err *err)
{
    struct vm_xen *x = s->x;
    vn_lock_scope(&x->lock);

    if (await(s, &s->has_ended, x->timeout_ns, "the end of libxc's work", err) <
        0)
        return -1;
    while (!vm_xen_reader_has_ended(x->reader))
        pthread_cond_wait(&x->changed, &x->lock);
    return check(s, err);
}

void vm_xen_saver_free(struct vm_xen_saver *s)
{
    if (!s)
        return;
    pthread_mutex_lock(&s->x->lock);
    s->wants_end = true;
    pthread_cond_broadcast(&s->x->changed);
    pthread_mutex_unlock(&s->x->lock);
    pthread_join(s->thread, NULL);
    saver_free(s);
}
