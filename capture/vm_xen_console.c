/*
 * console.log: what the domain writes to its console.
 *
 * xenconsoled gives each domain a pty, named in xenstore; an HVM domain's
 * emulated serial port has another. A thread reads them and appends to the
 * file, until the domain is gone. Whoever looks at the same
 * console (xl console) gets a part of the text then; xenconsoled's own log
 * (--log=guest) has all of it.
 */
#include "capture/vm_xen_internal.h"

#include "common/clock.h"
#include "common/io.h"
#include "common/log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <termios.h>
#include <unistd.h>

#define APPEAR_NS  (20 * VN_SEC)
#define APPEAR_MS  50
#define CHUNK_SIZE 4096
#define PTYS_MAX   2

struct vm_xen_console {
    pthread_t thread;
    uint32_t domid;
    bool has_serial; /* HVM: an emulated port, too */
    int stop;        /* eventfd */
    int log;
};

/* False: stop. */
static bool pause_ms(const struct vm_xen_console *c, int ms)
{
    struct pollfd fd = {.fd = c->stop, .events = POLLIN};

    return poll(&fd, 1, ms) <= 0;
}

/* The pty named by this node, once it is there. */
static char *await_name(const struct vm_xen_console *c, const char *node)
{
    uint64_t deadline_ns = clock_now_ns() + APPEAR_NS;
    struct xs_handle *xs = xs_open(0);
    char *name = NULL;

    while (xs && clock_now_ns() < deadline_ns) {
        name = vm_xen_read(xs, "/local/domain/%u/%s/tty", c->domid, node);
        if (name && *name)
            break;
        free(vn_steal(&name));
        if (!pause_ms(c, APPEAR_MS))
            break;
    }
    if (xs)
        xs_close(xs);
    return name;
}

static int open_pty(const char *name)
{
    int fd = open(name, O_RDONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    struct termios raw;

    if (fd >= 0 && tcgetattr(fd, &raw) == 0) {
        cfmakeraw(&raw); /* no echo back to the guest */
        (void)tcsetattr(fd, TCSANOW, &raw);
    }
    return fd;
}

/* Pass on what there is; false: it is closed. */
static bool copy(const struct vm_xen_console *c, int pty)
{
    struct vn_err err = VN_ERR_INIT;
    uint8_t data[CHUNK_SIZE];
    ssize_t n;

    while ((n = read(pty, data, sizeof(data))) > 0)
        if (io_write(c->log, data, (size_t)n, &err) < 0)
            return false;
    return n < 0 && (errno == EAGAIN || errno == EINTR);
}

static void copy_all(const struct vm_xen_console *c, int ptys[PTYS_MAX])
{
    for (;;) {
        struct pollfd fds[PTYS_MAX + 1] = {
            {.fd = c->stop, .events = POLLIN},
            {.fd = ptys[0], .events = POLLIN},
            {.fd = ptys[1], .events = POLLIN},
        };

        if (ptys[0] < 0 && ptys[1] < 0)
            return;
        (void)poll(fds, PTYS_MAX + 1, -1);
        for (unsigned i = 0; i < PTYS_MAX; i++)
            if (ptys[i] >= 0 && !copy(c, ptys[i]))
                close(vn_steal_fd(&ptys[i]));
        if (fds[0].revents)
            return;
    }
}

static void *run(void *argument)
{
    static const char *const nodes[PTYS_MAX] = {"console", "serial/0"};
    const struct vm_xen_console *c = argument;
    int ptys[PTYS_MAX] = {-1, -1};

    for (unsigned i = 0; i < (c->has_serial ? PTYS_MAX : 1u); i++) {
        vn_auto(free) char *name = await_name(c, nodes[i]);

        ptys[i] = name ? open_pty(name) : -1;
        if (ptys[i] < 0)
            log_debug("vm_xen: no %s domid=%u", nodes[i], c->domid);
    }
    copy_all(c, ptys);
    for (unsigned i = 0; i < PTYS_MAX; i++)
        vn_auto_close(&ptys[i]);
    return NULL;
}

static void console_free(struct vm_xen_console *c)
{
    vn_auto_close(&c->stop);
    vn_auto_close(&c->log);
    free(c);
}

struct vm_xen_console *vm_xen_console_start(const struct vm_xen *x,
                                            struct vn_err *err)
{
    struct vm_xen_console *c = vn_alloc(sizeof(*c));
    vn_auto(free) char *path = vm_xen_path(x, "console.log");
    int code;

    c->domid = x->id.domid;
    c->has_serial = x->config.type && strcmp(x->config.type, "hvm") == 0;
    c->stop = eventfd(0, EFD_CLOEXEC);
    c->log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    code = c->stop < 0 || c->log < 0 ? errno : 0;
    if (!code)
        code = pthread_create(&c->thread, NULL, run, c);
    if (!code)
        return c;
    console_free(c);
    return vn_fail_ptr(err, code, "follow the console into '%s'", path);
}

void vm_xen_console_stop(struct vm_xen_console *c)
{
    uint64_t one = 1;

    if (!c)
        return;
    (void)!write(c->stop, &one, sizeof(one));
    pthread_join(c->thread, NULL);
    console_free(c);
}
