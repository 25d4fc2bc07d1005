/*
 * A domain as the hypervisor and xenstore show it.
 *
 * Suspending is co-operative: control/shutdown = "suspend" is written, the
 * guest acknowledges by taking the value away, freezes its processes and
 * devices and calls SCHEDOP_shutdown(suspend). Its acknowledgement and its
 * suspension are polled, not watched: a watch costs a turn of xenstored, and
 * XEN_DOMCTL_getdomaininfo is cheap. A request that was not acknowledged in
 * time is taken back in a transaction, since the guest may acknowledge it at
 * that very moment.
 *
 * Resuming a suspended domain makes its SCHEDOP_shutdown() return 1,
 * "cancelled": it goes on with its devices as they are. xenstored must be told,
 * or the next suspend would not be noticed by those who watch. A domain that is
 * not suspended must not be resumed: that would write to a register of a
 * vCPU that runs. So nothing is done before a look.
 * Source: Xen 4.17, docs/misc/xenstore-paths, the suspend code of libxl.
 */
#include "capture/vm_xen_internal.h"

#include "common/clock.h"
#include "common/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xenguest.h>

#define POLL_ACK_US     500
#define POLL_SUSPEND_US 100
#define PAUSES_MAX      16 /* how often someone may have paused it */
#define SUSPEND         "suspend"

/* ---- handles ----------------------------------------------------------- */

VN_PRINTF(5, 0)
static void log_message(xentoollog_logger *logger, xentoollog_level level,
                        int code, const char *context, const char *format,
                        va_list args)
{
    char text[256];

    (void)logger;
    if (level < XTL_INFO)
        return;
    vsnprintf(text, sizeof(text), format, args);
    log_debug("vm_xen: %s: level=%d errno=%d %s", context ? context : "xc",
              (int)level, code, text);
}

static void log_progress(xentoollog_logger *logger, const char *context,
                         const char *what, int percent, unsigned long done,
                         unsigned long total)
{
    (void)logger, (void)context, (void)what, (void)percent, (void)done,
        (void)total;
}

static void log_nothing(xentoollog_logger *logger)
{
    (void)logger;
}

static xentoollog_logger quiet = {
    .vmessage = log_message, .progress = log_progress, .destroy = log_nothing};

int vm_xen_host_open(struct vm_xen_host *ret, struct vn_err *err)
{
    vn_auto(vm_xen_host) struct vm_xen_host host = {NULL, NULL};

    host.xc = xc_interface_open(&quiet, &quiet, 0);
    if (!host.xc)
        return vn_fail(err, errno, "open the hypervisor's interface");
    host.xs = xs_open(0);
    if (!host.xs)
        return vn_fail(err, errno, "connect to xenstore");
    *ret = host;
    host = (struct vm_xen_host){NULL, NULL};
    return 0;
}

void vm_xen_host_close(struct vm_xen_host *host)
{
    if (host->xs)
        xs_close(host->xs);
    if (host->xc)
        xc_interface_close(host->xc);
    host->xs = NULL;
    host->xc = NULL;
}

/* ---- looking ----------------------------------------------------------- */

void vm_xen_uuid_text(const uint8_t uuid[VM_XEN_UUID_SIZE],
                      char ret[VM_XEN_UUID_TEXT])
{
    static const char digits[] = "0123456789abcdef";
    char *to = ret;

    for (unsigned i = 0; i < VM_XEN_UUID_SIZE; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            *to++ = '-';
        *to++ = digits[uuid[i] >> 4];
        *to++ = digits[uuid[i] & 15];
    }
    *to = '\0';
}

int vm_xen_look(xc_interface *xc, const struct vm_xen_id *id,
                struct vm_xen_look *ret, struct vn_err *err)
{
    xc_domaininfo_t info;
    int count = xc_domain_getinfolist(xc, id->domid, 1, &info);

    if (count < 0)
        return vn_fail(err, errno, "ask for domain %u", id->domid);
    if (count != 1 || info.domain != id->domid ||
        memcmp(info.handle, id->uuid, VM_XEN_UUID_SIZE) != 0 ||
        (info.flags & XEN_DOMINF_dying))
        return vn_fail(err, VN_E_NOT_FOUND, "domain %u is gone", id->domid);
    ret->is_hvm = (info.flags & XEN_DOMINF_hvm_guest) != 0;
    ret->is_paused = (info.flags & XEN_DOMINF_paused) != 0;
    ret->is_down = (info.flags & XEN_DOMINF_shutdown) != 0;
    ret->reason =
        (info.flags >> XEN_DOMINF_shutdownshift) & XEN_DOMINF_shutdownmask;
    ret->is_suspended = ret->is_down && ret->reason == SHUTDOWN_suspend;
    ret->pages = info.tot_pages;
    return 0;
}

const char *vm_xen_reason_text(unsigned reason)
{
    switch (reason) {
    case SHUTDOWN_poweroff:
        return "has powered off";
    case SHUTDOWN_reboot:
        return "is rebooting";
    case SHUTDOWN_suspend:
        return "is suspended";
    case SHUTDOWN_crash:
        return "has crashed";
    case SHUTDOWN_watchdog:
        return "was ended by its watchdog";
    default:
        return "is shut down";
    }
}

char *vm_xen_read(struct xs_handle *xs, const char *format, ...)
{
    char path[256];
    unsigned size;
    va_list args;

    va_start(args, format);
    vsnprintf(path, sizeof(path), format, args);
    va_end(args);
    return xs_read(xs, XBT_NULL, path, &size); /* NUL-terminated */
}

static int fill_id(const struct vm_xen_host *host, uint32_t domid,
                   struct vm_xen_id *ret, struct vn_err *err)
{
    xc_domaininfo_t info;

    if (xc_domain_getinfolist(host->xc, domid, 1, &info) != 1 ||
        info.domain != domid)
        return vn_fail(err, VN_E_NOT_FOUND, "domain %u is gone", domid);
    ret->domid = domid;
    memcpy(ret->uuid, info.handle, VM_XEN_UUID_SIZE);
    return 0;
}

int vm_xen_find(const struct vm_xen_host *host, const char *name,
                struct vm_xen_id *ret, struct vn_err *err)
{
    unsigned count = 0;
    vn_auto(free) char **domids =
        xs_directory(host->xs, XBT_NULL, "/local/domain", &count);

    for (unsigned i = 0; domids && i < count; i++) {
        vn_auto(free) char *found =
            vm_xen_read(host->xs, "/local/domain/%s/name", domids[i]);
        unsigned long domid = strtoul(domids[i], NULL, 10);

        if (found && domid && strcmp(found, name) == 0)
            return fill_id(host, (uint32_t)domid, ret, err);
    }
    return vn_fail(err, VN_E_NOT_FOUND, "there is no domain '%s'", name);
}

/* ---- suspending -------------------------------------------------------- */

static char *shutdown_path(const struct vm_xen_id *id)
{
    return vn_format("/local/domain/%u/control/shutdown", id->domid);
}

/* The guest takes the value away, or writes another. */
static bool is_acknowledged(struct xs_handle *xs, xs_transaction_t transaction,
                            const char *path)
{
    unsigned size;
    vn_auto(free) char *value = xs_read(xs, transaction, path, &size);

    return !value || strcmp(value, SUSPEND) != 0;
}

/* Take the request back; false: too late, it is acknowledged. */
static bool take_back(struct xs_handle *xs, const char *path)
{
    for (;;) {
        xs_transaction_t transaction = xs_transaction_start(xs);

        if (transaction == XBT_NULL)
            return true; /* xenstored is gone; nothing can be told */
        if (is_acknowledged(xs, transaction, path)) {
            xs_transaction_end(xs, transaction, true);
            return false;
        }
        if (!xs_write(xs, transaction, path, "", 0)) {
            xs_transaction_end(xs, transaction, true);
            return true;
        }
        if (xs_transaction_end(xs, transaction, false) || errno != EAGAIN)
            return true;
    }
}

bool vm_xen_take_back(struct xs_handle *xs, const struct vm_xen_id *id)
{
    vn_auto(free) char *path = shutdown_path(id);

    return take_back(xs, path);
}

struct waiting {
    const struct vm_xen_host *host;
    const struct vm_xen_suspend *suspend;
    const char *path;
    uint64_t deadline_ns;
};

/* 1: it stands; 0: go on; -1: it never will. */
static int check_suspended(const struct waiting *w, struct vn_err *err)
{
    struct vm_xen_look look;

    if (vm_xen_look(w->host->xc, &w->suspend->id, &look, err) < 0)
        return -1;
    if (look.is_suspended)
        return 1;
    if (look.is_down)
        return vn_fail(err, VN_E_STATE, "it %s instead of suspending",
                       vm_xen_reason_text(look.reason));
    return 0;
}

static bool is_over(const struct waiting *w)
{
    return clock_now_ns() > w->deadline_ns ||
           w->suspend->is_cancelled(w->suspend->context);
}

static int fail_waiting(const struct waiting *w, const char *stage,
                        struct vn_err *err)
{
    if (w->suspend->is_cancelled(w->suspend->context))
        return vn_fail(err, ECANCELED, "%s", stage);
    return vn_fail(err, VN_E_TIMEOUT, "it %s within %.1f s", stage,
                   (double)w->suspend->timeout_ns / VN_SEC);
}

/* 1: stands already; 0: acknowledged. */
static int await_acknowledgement(const struct waiting *w, struct vn_err *err)
{
    int rc;

    while (!is_acknowledged(w->host->xs, XBT_NULL, w->path)) {
        rc = check_suspended(w, err);
        if (rc != 0) {
            take_back(w->host->xs, w->path);
            return rc;
        }
        if (is_over(w)) {
            if (take_back(w->host->xs, w->path))
                return fail_waiting(
                    w, "did not acknowledge the suspend request", err);
            return 0;
        }
        usleep(POLL_ACK_US);
    }
    return 0;
}

static int await_suspended(const struct waiting *w, struct vn_err *err)
{
    for (;;) {
        int rc = check_suspended(w, err);

        if (rc != 0)
            return rc < 0 ? -1 : 0;
        if (is_over(w))
            return fail_waiting(
                w, "acknowledged the suspend request but did not suspend", err);
        usleep(POLL_SUSPEND_US);
    }
}

int vm_xen_suspend(const struct vm_xen_host *host,
                   const struct vm_xen_suspend *suspend, uint64_t *ret_wall_ns,
                   bool *ret_acknowledged, struct vn_err *err)
{
    vn_auto(free) char *path = shutdown_path(&suspend->id);
    const struct waiting w = {.host = host,
                              .suspend = suspend,
                              .path = path,
                              .deadline_ns =
                                  clock_now_ns() + suspend->timeout_ns};
    int rc;

    *ret_acknowledged = false;
    if (!xs_write(host->xs, XBT_NULL, path, SUSPEND, strlen(SUSPEND)))
        return vn_fail(err, errno, "write '%s' in xenstore", path);
    rc = await_acknowledgement(&w, err);
    if (rc < 0)
        return -1;
    *ret_acknowledged = true;
    if (rc == 0 && await_suspended(&w, err) < 0)
        return -1;
    *ret_wall_ns = clock_wall_ns();
    return 0;
}

/* ---- letting run ------------------------------------------------------- */

/* Saver, monitor and caller may all want to: between the look and the resume
 * nobody else may resume it. */
static pthread_mutex_t resuming = PTHREAD_MUTEX_INITIALIZER;

int vm_xen_let_run(const struct vm_xen_host *host, const struct vm_xen_id *id,
                   bool *ret_stood, uint64_t *ret_wall_ns, struct vn_err *err)
{
    struct vm_xen_look look;
    bool stood = false;
    vn_lock_scope(&resuming);

    if (vm_xen_look(host->xc, id, &look, err) < 0)
        return -1;
    if (look.is_down && !look.is_suspended)
        return vn_fail(err, VN_E_STATE, "domain %u %s", id->domid,
                       vm_xen_reason_text(look.reason));
    if (look.is_suspended) {
        stood = true;
        if (xc_domain_resume(host->xc, id->domid, 1) < 0)
            return vn_fail(err, errno, "resume domain %u", id->domid);
    }
    for (int i = 0; look.is_paused && i < PAUSES_MAX; i++) {
        stood = true;
        if (xc_domain_unpause(host->xc, id->domid) < 0)
            return vn_fail(err, errno, "unpause domain %u", id->domid);
        if (vm_xen_look(host->xc, id, &look, err) < 0)
            return -1;
    }
    if (ret_wall_ns)
        *ret_wall_ns = clock_wall_ns();
    if (ret_stood)
        *ret_stood = stood;
    if (look.is_paused)
        return vn_fail(err, VN_E_STATE, "domain %u stays paused", id->domid);
    /* Also where another resumed it: it is harmless, and missing it would let
     * the next suspend go unnoticed. */
    if (!xs_resume_domain(host->xs, id->domid))
        log_debug("vm_xen: xs_resume_domain domid=%u errno=%d", id->domid,
                  errno);
    return 0;
}
