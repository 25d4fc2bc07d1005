/*
 * Domains that end: what xl's daemon would do, had it not left at the first
 * suspend (or never been there: `xl create -e`).
 *
 * A domain that is shut down stays, with all its memory, until somebody
 * destroys it. So a thread watches: one that powered off, crashed or was ended
 * by its watchdog is destroyed; one that reboots is destroyed and created
 * anew from domain.cfg, where we have that. A suspended one is left alone: it
 * is somebody's snapshot or migration; but one that acknowledged a request of
 * ours and suspended only after we gave up is resumed.
 *
 * The VM's own thread learns of a reboot at its next call (vm_xen_refresh()).
 * During a snapshot nothing is done but to wait for its end.
 */
#include "capture/vm_xen_internal.h"

#include "common/clock.h"
#include "common/log.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define RELEASE "@releaseDomain"
#define LOOK_MS 500

struct vm_xen_monitor {
    struct vm_xen *x;
    struct vm_xen_id id; /* it may get another later */
    struct vm_xen_host host;
    pthread_t thread;
    int stop; /* eventfd */
};

static bool is_stopped(void *context)
{
    const struct vm_xen_monitor *m = context;
    struct pollfd fd = {.fd = m->stop, .events = POLLIN};

    return poll(&fd, 1, 0) > 0;
}

/* Wait for something to look at; false: stop. */
static bool await_event(struct vm_xen_monitor *m)
{
    struct pollfd fds[2] = {{.fd = m->stop, .events = POLLIN},
                            {.fd = xs_fileno(m->host.xs), .events = POLLIN}};
    char **event;

    /* A domain can shut down while we resume another: look now and then. */
    (void)poll(fds, 2, LOOK_MS);
    while (fds[1].revents && (event = xs_check_watch(m->host.xs)))
        free(event);
    return !fds[0].revents;
}

static int run_xl(struct vm_xen_monitor *m, const char *command,
                  const char *argument, struct vn_err *err)
{
    vn_auto(free) char *log = vm_xen_path(m->x, "xl.log");
    const char *create[] = {vm_xen_xl(err), command,  "-e",
                            "-q",           argument, NULL};
    const char *other[] = {create[0], command, argument, NULL};
    const struct vm_xen_run run = {
        .argv = strcmp(command, "create") == 0 ? create : other,
        .log = log,
        .fd_in = -1,
        .timeout_ns = VM_XEN_XL_TIMEOUT_NS,
        .is_cancelled = is_stopped,
        .context = m};

    return create[0] ? vm_xen_run(&run, err) : -1;
}

static void set_rebooting(struct vm_xen *x, bool rebooting, bool reborn)
{
    vn_lock_scope(&x->lock);

    x->is_rebooting = rebooting;
    x->is_reborn |= reborn;
}

/* It is over with this domain. */
static void bury(struct vm_xen_monitor *m, unsigned reason)
{
    struct vm_xen *x = m->x;
    vn_auto(free) char *domid = vn_format("%u", m->id.domid);
    vn_auto(free) char *cfg = vm_xen_path(x, VM_XEN_CFG);
    struct vn_err err = VN_ERR_INIT;
    bool again = reason == SHUTDOWN_reboot && access(cfg, R_OK) == 0;
    int rc;

    log_debug("vm_xen: domain %u %s vm=%s", m->id.domid,
              vm_xen_reason_text(reason), x->base.name);
    set_rebooting(x, again, false);
    rc = run_xl(m, "destroy", domid, &err);
    if (rc == 0 && again)
        rc = run_xl(m, "create", cfg, &err);
    if (rc < 0)
        log_debug("vm_xen: end of domain vm=%s error=\"%s\"", x->base.name,
                  err.msg);
    set_rebooting(x, false, rc == 0 && again);
}

static void wake_late(struct vm_xen_monitor *m)
{
    struct vm_xen *x = m->x;
    struct vn_err err = VN_ERR_INIT;
    bool late;

    pthread_mutex_lock(&x->lock);
    late = x->may_suspend_late;
    x->may_suspend_late = false;
    pthread_mutex_unlock(&x->lock);
    if (!late)
        return;
    log_debug("vm_xen: suspended late vm=%s", x->base.name);
    if (vm_xen_let_run(&m->host, &m->id, NULL, NULL, &err) < 0)
        log_debug("vm_xen: resume vm=%s error=\"%s\"", x->base.name, err.msg);
}

/* False: nothing is left to follow. */
static bool look_after(struct vm_xen_monitor *m)
{
    struct vm_xen_look look;
    struct vn_err err = VN_ERR_INIT;
    bool busy;

    pthread_mutex_lock(&m->x->lock);
    busy = m->x->is_snapshotting;
    pthread_mutex_unlock(&m->x->lock);
    if (busy)
        return true;
    if (vm_xen_look(m->host.xc, &m->id, &look, &err) < 0)
        return err.code != VN_E_NOT_FOUND;
    if (look.is_suspended)
        wake_late(m);
    else if (look.is_down)
        bury(m, look.reason);
    return !look.is_down || look.is_suspended;
}

static void *run(void *argument)
{
    struct vm_xen_monitor *m = argument;

    while (await_event(m) && look_after(m))
        continue;
    return NULL;
}

static void monitor_free(struct vm_xen_monitor *m)
{
    vm_xen_host_close(&m->host);
    vn_auto_close(&m->stop);
    free(m);
}

struct vm_xen_monitor *vm_xen_monitor_start(struct vm_xen *x,
                                            struct vn_err *err)
{
    struct vm_xen_monitor *m = vn_alloc(sizeof(*m));
    int code = 0;

    m->x = x;
    m->id = x->id;
    m->stop = eventfd(0, EFD_CLOEXEC);
    if (m->stop < 0)
        code = errno;
    else if (vm_xen_host_open(&m->host, err) < 0)
        code = -1;
    else if (!xs_watch(m->host.xs, RELEASE, RELEASE))
        code = errno;
    else
        code = pthread_create(&m->thread, NULL, run, m);
    if (code == 0)
        return m;
    monitor_free(m);
    if (code > 0)
        (void)vn_fail(err, code, "watch the domain's end");
    return NULL;
}

void vm_xen_monitor_stop(struct vm_xen_monitor *m)
{
    uint64_t one = 1;

    if (!m)
        return;
    (void)!write(m->stop, &one, sizeof(one));
    pthread_join(m->thread, NULL);
    monitor_free(m);
}
