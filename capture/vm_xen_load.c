/*
 * A domain from a stream: `xl restore -p`.
 *
 * xl opens its input by name, which is that of a descriptor it inherits; a
 * socket cannot be opened so, and what we are given may be one. So a thread
 * passes the bytes on through a pipe. It ends with the stream, or when xl is
 * gone.
 */
#include "capture/vm_xen_internal.h"

#include "common/io.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#define COPY_SIZE (256u << 10)

struct relay {
    int from;  /* the caller's */
    int to;    /* closed by the thread */
    int pulse; /* read end of a pipe; closed at the other end: stop */
    struct vn_err err;
};

/* False: stop. */
static bool await_readable(const struct relay *relay)
{
    struct pollfd fds[3] = {{.fd = relay->from, .events = POLLIN},
                            {.fd = relay->pulse, .events = POLLIN},
                            {.fd = relay->to}}; /* POLLERR: nobody reads */

    while (poll(fds, 3, -1) < 0 && errno == EINTR)
        continue;
    return !fds[1].revents && !fds[2].revents && fds[0].revents;
}

static void *run_relay(void *argument)
{
    struct relay *relay = argument;
    vn_auto(free) uint8_t *data = vn_alloc(COPY_SIZE);

    while (await_readable(relay)) {
        ssize_t n = read(relay->from, data, COPY_SIZE);

        if (n < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (n < 0)
            (void)vn_fail(&relay->err, errno, "read the domain's stream");
        if (n <= 0 || io_write(relay->to, data, (size_t)n, &relay->err) < 0)
            break;
    }
    close(vn_steal_fd(&relay->to));
    return NULL;
}

static int start_relay(struct relay *relay, pthread_t *ret, struct vn_err *err)
{
    sigset_t pipe_only, before;
    int code;

    sigemptyset(&pipe_only);
    sigaddset(&pipe_only, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe_only, &before);
    code = pthread_create(ret, NULL, run_relay, relay);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code ? vn_fail(err, code, "start a thread") : 0;
}

static int restore(struct vm_xen *x, int fd, struct vn_err *err)
{
    const char *args[] = {"restore", "-e", "-p", "/proc/self/fd/3", NULL};
    struct relay relay = {.from = fd};
    int data[2], pulse[2], rc;
    pthread_t thread;

    if (pipe2(data, O_CLOEXEC) < 0)
        return vn_fail(err, errno, "create a pipe");
    if (pipe2(pulse, O_CLOEXEC) < 0) {
        close(data[0]);
        close(data[1]);
        return vn_fail(err, errno, "create a pipe");
    }
    relay.to = data[1];
    relay.pulse = pulse[0];
    rc = start_relay(&relay, &thread, err);
    if (rc == 0) {
        rc = vm_xen_xl_run(x, args, data[0], NULL, err);
        close(vn_steal_fd(&data[0])); /* nobody reads now */
        close(vn_steal_fd(&pulse[1]));
        pthread_join(thread, NULL);
    } else {
        close(data[1]);
    }
    vn_auto_close(&data[0]);
    vn_auto_close(&pulse[1]);
    close(pulse[0]);
    return rc;
}

int vm_xen_load_state(struct vm *vm, int fd, struct vn_err *err)
{
    struct vm_xen *x = vm_xen_of(vm);
    struct vm_xen_look look;

    if (x->has_domain)
        return vn_fail(err, VN_E_STATE, "VM '%s' has its state already",
                       vm->name);
    if (restore(x, fd, err) < 0 || vm_xen_adopt(x, vm->name, err) < 0)
        return vn_wrap(err, "VM '%s'", vm->name);
    if (vm_xen_look_alive(x, &look, err) < 0)
        return -1;
    if (!look.is_paused)
        return vn_fail(err, VN_E_STATE, "VM '%s' runs before it was told to",
                       vm->name);
    return 0;
}
