/*
 * HVM: `xl save -p` beside us, which saves the device model too.
 *
 * xl suspends the domain, writes memory, then has QEMU write its state, pauses
 * the domain and resumes it: it is left paused, and we unpause it. All of it
 * comes through a pipe in xl's own format (capture/xen_stream.h). xl opens its
 * output by name, so the name is that of a descriptor which it inherits.
 *
 * An xl whose domain is suspended is not killed: the domain would stay so, with
 * its device model stopped. It is read to its end instead, to nowhere, which
 * takes as long as copying the memory.
 */
#include "capture/vm_xen_internal.h"

#include "common/clock.h"
#include "common/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PIPE_SIZE (4 << 20)
#define POLL_US   500
#define SLICE_MS  50
#define END_NS    (60 * VN_SEC)

struct vm_xen_hvm {
    struct vm_xen *x;
    struct vm_xen_child child;
    bool is_reaped;
    struct vn_err end; /* how it ended */
};

static int start_xl(struct vm_xen_hvm *h, struct vn_err *err)
{
    struct vm_xen *x = h->x;
    vn_auto(free) char *log = vm_xen_path(x, "xl.log");
    vn_auto(free) char *domid = vn_format("%u", x->id.domid);
    const char *argv[] = {vm_xen_xl(err),    "save", "-p", domid,
                          "/proc/self/fd/3", NULL};
    struct vm_xen_run run = {.argv = argv, .log = log};
    int ends[2], rc;

    if (!argv[0])
        return -1;
    if (pipe2(ends, O_CLOEXEC) < 0)
        return vn_fail(err, errno, "create a pipe");
    (void)fcntl(ends[1], F_SETPIPE_SZ, PIPE_SIZE);
    x->reader = vm_xen_reader_start(x, ends[0], err);
    run.fd_in = ends[1];
    rc = x->reader ? vm_xen_child_start(&h->child, &run, -1, err) : -1;
    close(ends[1]);
    return rc;
}

static void reap(struct vm_xen_hvm *h)
{
    if (h->is_reaped)
        return;
    h->is_reaped = true;
    (void)!vm_xen_child_reap(&h->child, &h->end);
}

static int fail_late(struct vm_xen *x, struct vn_err *err)
{
    vn_auto(free) char *request = vm_xen_read(
        x->host.xs, "/local/domain/%u/control/shutdown", x->id.domid);

    return vn_fail(err, VN_E_TIMEOUT, "it %s within %.1f s",
                   request && strcmp(request, "suspend") == 0
                       ? "did not acknowledge the suspend request"
                       : "acknowledged the suspend request but did not suspend",
                   (double)x->timeout_ns / VN_SEC);
}

static int await_suspended(struct vm_xen_hvm *h, uint64_t *ret_wall_ns,
                           struct vn_err *err)
{
    struct vm_xen *x = h->x;
    /* xl gives the guest 60 s in each of two stages. */
    uint64_t deadline_ns = clock_now_ns() + x->timeout_ns;
    struct vm_xen_look look;

    for (;;) {
        if (vm_xen_look_alive(x, &look, err) < 0)
            return -1;
        if (look.is_suspended)
            break;
        if (vm_xen_child_ended(&h->child, 0)) {
            reap(h);
            *err = h->end;
            return err->code
                       ? -1
                       : vn_fail(err, VN_E_PEER, "xl ended without a save");
        }
        if (vm_xen_is_cancelled(x))
            return vn_fail(err, ECANCELED, "the snapshot");
        if (clock_now_ns() > deadline_ns)
            return fail_late(x, err);
        usleep(POLL_US);
    }
    *ret_wall_ns = clock_wall_ns();
    return 0;
}

int vm_xen_hvm_stop_domain(struct vm_xen *x, uint64_t *ret_wall_ns,
                           struct vn_err *err)
{
    struct vm_xen_hvm *h = vn_alloc(sizeof(*h));

    h->x = x;
    if (start_xl(h, err) < 0) {
        free(h);
        return -1;
    }
    x->hvm = h;
    return await_suspended(h, ret_wall_ns, err);
}

int vm_xen_hvm_await_end(struct vm_xen *x, struct vn_err *err)
{
    uint64_t deadline_ns = clock_now_ns() + END_NS;

    while (!x->hvm->is_reaped) {
        if (vm_xen_child_ended(&x->hvm->child, SLICE_MS))
            reap(x->hvm);
        else if (clock_now_ns() > deadline_ns)
            return vn_fail(err, VN_E_TIMEOUT, "xl does not end");
    }
    if (x->hvm->end.code) {
        *err = x->hvm->end;
        return -1;
    }
    return 0;
}

/* Wait for its end, or make it end; see above. */
static void end_xl(struct vm_xen_hvm *h)
{
    struct vm_xen *x = h->x;
    struct vm_xen_look look;
    struct vn_err ignored = VN_ERR_INIT;

    vm_xen_reader_discard(x->reader);
    /* A guest that does not answer would keep it for a minute. */
    if (vm_xen_look(x->host.xc, &x->id, &look, &ignored) == 0 &&
        !look.is_suspended && vm_xen_take_back(x->host.xs, &x->id)) {
        vm_xen_child_kill(&h->child);
        h->is_reaped = true;
    } else if (!vm_xen_child_ended(&h->child, (int)(END_NS / VN_MS))) {
        log_debug("vm_xen: xl does not end vm=%s", x->base.name);
        vm_xen_child_kill(&h->child); /* whoever aborts resumes the domain */
        h->is_reaped = true;
    }
}

void vm_xen_hvm_free(struct vm_xen_hvm *h)
{
    if (!h)
        return;
    if (!h->is_reaped)
        end_xl(h);
    reap(h);
    free(h);
}
