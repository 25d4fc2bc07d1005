/*
 * Ports: descriptors that carry one Ethernet frame a read or write.
 *
 * How it works. Level-triggered reads of up to BATCH_ROUNDS batches an event,
 * by recvmmsg() for sockets; a TAP has no such call. Writes go straight to
 * the descriptor while it takes them. On EAGAIN the frame and all later ones
 * queue in `egress` until the descriptor is writable again. A connected
 * socket says so itself (EPOLLOUT looks at the peer's queue). An unconnected
 * unix socket always looks writable, so that kind retries by a timer; it
 * stays unconnected because a connected one would refuse frames from a VM
 * that was started again at the same path.
 *
 * A socket whose other side is gone (ECONNREFUSED, ENOENT) drops frames and
 * counts them: a machine without a cable.
 *
 * The kernel does not count datagrams between two sockets that are connected
 * to each other (KIND_FD); there the sender's buffer bounds what is unread.
 * Between others net.unix.max_dgram_qlen, 10 by default, bounds it too.
 *
 * Settled: SIOCOUTQ of a unix socket is the memory of its datagrams that
 * nobody has read yet, 0 exactly when all are (measured). Behind a TAP lies
 * the kernel's network stack, which says nothing.
 *
 * Invariant: while `egress` is not empty a write or retry event is pending.
 * Limits: 16 MiB of waiting frames. Concurrency: one loop's thread; the read
 * buffers are shared by all ports of a loop, so frame() must not read ports.
 */
#include "violin/port.h"

#include "common/clock.h"
#include "common/log.h"
#include "violin/hold.h"
#include "violin/switch.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BATCH         32
#define BATCH_ROUNDS  8
#define BUFFER_SIZE   ((size_t)SWITCH_FRAME_MAX + 2) /* so too long shows */
#define SOCKET_BUFFER (8 << 20)
#define RETRY_US      1000

enum kind { KIND_FD, KIND_TAP, KIND_UNIX };

struct port {
    struct port_loop *loop;
    enum kind kind;
    int fd;
    struct event *readable;
    struct event *writable; /* a timer for KIND_UNIX */
    const struct port_events *events;
    void *context;
    struct sockaddr_un remote; /* KIND_UNIX */
    char *local;               /* KIND_UNIX: to unlink */
    struct hold egress;
    uint64_t last_send_ns;
    struct port_counts counts;
};

/* ---- reading ----------------------------------------------------------- */

static void take_frame(struct port *port, const uint8_t *data, size_t size)
{
    port->counts.rx_frames++;
    port->counts.rx_bytes += size;
    port->events->frame(port->context, data, size);
}

static unsigned read_tap(struct port *port)
{
    uint8_t *buffer = port->loop->buffers;

    for (unsigned i = 0; i < BATCH; i++) {
        ssize_t got = read(port->fd, buffer, BUFFER_SIZE);

        if (got < 0)
            return i;
        take_frame(port, buffer, (size_t)got);
    }
    return BATCH;
}

static unsigned read_socket(struct port *port)
{
    struct mmsghdr msgs[BATCH];
    struct iovec iovs[BATCH];
    int got;

    for (unsigned i = 0; i < BATCH; i++) {
        iovs[i] =
            (struct iovec){port->loop->buffers + i * BUFFER_SIZE, BUFFER_SIZE};
        msgs[i] =
            (struct mmsghdr){.msg_hdr = {.msg_iov = &iovs[i], .msg_iovlen = 1}};
    }
    got = recvmmsg(port->fd, msgs, BATCH, MSG_DONTWAIT, NULL);
    for (int i = 0; i < got; i++)
        take_frame(port, iovs[i].iov_base, msgs[i].msg_len);
    return got > 0 ? (unsigned)got : 0;
}

/* Read a batch; the number of frames, below BATCH when none are left. */
static unsigned read_batch(struct port *port)
{
    return port->kind == KIND_TAP ? read_tap(port) : read_socket(port);
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
    struct port *port = arg;

    (void)fd;
    (void)what;
    for (int i = 0; i < BATCH_ROUNDS && read_batch(port) == BATCH; i++)
        ;
    port->events->batch_end(port->context);
}

void port_drain(struct port *port)
{
    uint64_t total = 0;
    unsigned got;

    do {
        got = read_batch(port);
        total += got;
    } while (got && total < PORT_DRAIN_MAX);
}

/* ---- writing ----------------------------------------------------------- */

/* 1: sent; 0: full, try later; -1: cannot be sent. */
static int send_now(struct port *port, const void *frame, size_t size)
{
    ssize_t sent;

    if (port->kind == KIND_TAP)
        sent = write(port->fd, frame, size);
    else if (port->kind == KIND_FD)
        sent = send(port->fd, frame, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    else
        sent = sendto(port->fd, frame, size, MSG_DONTWAIT | MSG_NOSIGNAL,
                      (struct sockaddr *)&port->remote, sizeof(port->remote));
    if (sent >= 0) {
        port->counts.tx_frames++;
        port->counts.tx_bytes += size;
        port->last_send_ns = clock_now_ns();
        return 1;
    }
    if (errno == EAGAIN || errno == ENOBUFS || errno == EINTR)
        return 0;
    log_limited(LOG_DEBUG, "violin: a frame to a %s port is dropped: %s",
                port_kind(port), strerror(errno));
    return -1;
}

static void await_writable(struct port *port)
{
    static const struct timeval retry = {0, RETRY_US};

    event_add(port->writable, port->kind == KIND_UNIX ? &retry : NULL);
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
    struct port *port = arg;
    struct hold_frame frame;

    (void)fd;
    (void)what;
    while (hold_front(&port->egress, &frame)) {
        int sent = send_now(port, frame.data, frame.size);

        if (sent == 0) {
            await_writable(port);
            return;
        }
        if (sent < 0)
            port->counts.tx_dropped++;
        hold_pop(&port->egress);
    }
}

void port_send(struct port *port, const void *frame, size_t size)
{
    if (port->egress.count == 0) {
        int sent = send_now(port, frame, size);

        if (sent < 0)
            port->counts.tx_dropped++;
        if (sent != 0)
            return;
        await_writable(port);
    }
    if (!hold_push(&port->egress, 0, frame, size))
        port->counts.tx_dropped++;
}

bool port_is_settled(const struct port *port, uint64_t now_ns)
{
    int unread = 0;

    if (port->egress.count)
        return false;
    if (port->kind == KIND_TAP)
        return now_ns - port->last_send_ns >= PORT_TAP_SETTLE_NS;
    return ioctl(port->fd, SIOCOUTQ, &unread) == 0 && unread == 0;
}

/* ---- life -------------------------------------------------------------- */

void port_loop_init(struct port_loop *loop, struct event_base *base)
{
    loop->base = base;
    loop->buffers = vn_alloc(BATCH * BUFFER_SIZE);
}

void port_loop_done(struct port_loop *loop)
{
    free(loop->buffers);
    loop->buffers = NULL;
}

static void raise_buffer(int fd, int option, int forced_option)
{
    int size = SOCKET_BUFFER;

    /* The forced form passes the system's limit, for root only. */
    if (setsockopt(fd, SOL_SOCKET, forced_option, &size, sizeof(size)))
        (void)setsockopt(fd, SOL_SOCKET, option, &size, sizeof(size));
}

static struct port *port_new(struct port_loop *loop, enum kind kind, int fd,
                             const struct port_events *events, void *context,
                             struct vn_err *err)
{
    struct port *port;
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK))
        return vn_fail_ptr(err, errno, "make a port non-blocking");
    if (kind != KIND_TAP) {
        raise_buffer(fd, SO_SNDBUF, SO_SNDBUFFORCE);
        raise_buffer(fd, SO_RCVBUF, SO_RCVBUFFORCE);
    }
    port = vn_alloc(sizeof(*port));
    port->loop = loop;
    port->kind = kind;
    port->fd = fd;
    port->events = events;
    port->context = context;
    hold_init(&port->egress, PORT_EGRESS_BYTES_MAX);
    port->readable =
        event_new(loop->base, fd, EV_READ | EV_PERSIST, on_readable, port);
    port->writable =
        event_new(loop->base, kind == KIND_UNIX ? -1 : fd,
                  kind == KIND_UNIX ? 0 : EV_WRITE, on_writable, port);
    if (!port->readable || !port->writable || event_add(port->readable, NULL)) {
        port->fd = -1; /* still the caller's */
        port_free(port);
        return vn_fail_ptr(err, ENOMEM, "watch a port");
    }
    return port;
}

struct port *port_new_fd(struct port_loop *loop, int fd,
                         const struct port_events *events, void *context,
                         struct vn_err *err)
{
    struct sockaddr_storage peer;
    socklen_t size = sizeof(peer);
    int type = 0;
    socklen_t type_size = sizeof(type);

    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_size))
        return vn_fail_ptr(err, errno, "the port's descriptor");
    if (type != SOCK_DGRAM || getpeername(fd, (struct sockaddr *)&peer, &size))
        return vn_fail_ptr(err, VN_E_UNSUPPORTED,
                           "the port's descriptor is not a connected "
                           "datagram socket");
    return port_new(loop, KIND_FD, fd, events, context, err);
}

static int bring_up(struct ifreq *request, struct vn_err *err)
{
    vn_auto(close) int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || ioctl(fd, SIOCGIFFLAGS, request))
        return vn_fail(err, errno, "interface '%s'", request->ifr_name);
    if (request->ifr_flags & IFF_UP)
        return 0;
    request->ifr_flags |= IFF_UP;
    if (ioctl(fd, SIOCSIFFLAGS, request))
        return vn_fail(err, errno, "bring up '%s'", request->ifr_name);
    return 0;
}

struct port *port_new_tap(struct port_loop *loop, const char *interface,
                          const struct port_events *events, void *context,
                          struct vn_err *err)
{
    vn_auto(close) int fd = -1;
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
    struct port *port;
    size_t size = strlen(interface) + 1;

    if (size == 1 || size > IFNAMSIZ)
        return vn_fail_ptr(err, VN_E_LIMIT, "interface name '%s'", interface);
    memcpy(request.ifr_name, interface, size);
    fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return vn_fail_ptr(err, errno, "open '/dev/net/tun'");
    if (ioctl(fd, TUNSETIFF, &request))
        return vn_fail_ptr(err, errno, "attach to TAP '%s'", interface);
    if (bring_up(&request, err))
        return NULL;
    port = port_new(loop, KIND_TAP, fd, events, context, err);
    if (port)
        fd = -1;
    return port;
}

static int fill_path(struct sockaddr_un *address, const char *path,
                     struct vn_err *err)
{
    size_t size = strlen(path) + 1;

    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (size == 1 || size > sizeof(address->sun_path))
        return vn_fail(err, VN_E_LIMIT, "socket path '%s'", path);
    memcpy(address->sun_path, path, size);
    return 0;
}

struct port *port_new_unix(struct port_loop *loop, const char *local,
                           const char *remote, const struct port_events *events,
                           void *context, struct vn_err *err)
{
    vn_auto(close) int fd = -1;
    struct sockaddr_un here, there;
    struct stat st;
    struct port *port;

    if (fill_path(&here, local, err) || fill_path(&there, remote, err))
        return NULL;
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return vn_fail_ptr(err, errno, "port socket '%s'", local);
    if (lstat(local, &st) == 0 && S_ISSOCK(st.st_mode)) {
        if (connect(fd, (struct sockaddr *)&here, sizeof(here)) == 0)
            return vn_fail_ptr(err, EADDRINUSE, "port socket '%s'", local);
        unlink(local);
    }
    if (bind(fd, (struct sockaddr *)&here, sizeof(here)))
        return vn_fail_ptr(err, errno, "bind '%s'", local);
    port = port_new(loop, KIND_UNIX, fd, events, context, err);
    if (!port)
        return NULL;
    fd = -1;
    port->remote = there;
    port->local = vn_strdup(local);
    return port;
}

void port_free(struct port *port)
{
    if (!port)
        return;
    if (port->readable)
        event_free(port->readable);
    if (port->writable)
        event_free(port->writable);
    if (port->fd >= 0)
        close(port->fd);
    if (port->local)
        unlink(port->local);
    free(port->local);
    hold_clear(&port->egress);
    free(port);
}

void port_counts(const struct port *port, struct port_counts *ret)
{
    *ret = port->counts;
    ret->tx_waiting = port->egress.count;
}

const char *port_kind(const struct port *port)
{
    static const char *const names[] = {"fd", "tap", "unix"};

    return names[port->kind];
}
