/*
 * Ports on unix datagram sockets, one frame a datagram.
 *
 * Kind "fd" is one end of a connected pair. It says itself when it is
 * writable (EPOLLOUT looks at the peer's queue). Kind "unix" is bound to a
 * path and sends to another, unconnected, because a connected socket would
 * refuse frames from a VM that was started again at the same path. An
 * unconnected unix socket always looks writable, so that kind retries by a
 * timer.
 *
 * A socket whose other side is gone (ECONNREFUSED, ENOENT) drops frames.
 *
 * The kernel does not count datagrams between two sockets that are connected
 * to each other; there the sender's buffer bounds what is unread. Between
 * others net.unix.max_dgram_qlen, 10 by default, bounds it too.
 *
 * Settled: SIOCOUTQ of a unix socket is the memory of its datagrams that
 * nobody has read yet, 0 exactly when all are (measured).
 */
#include "common/log.h"
#include "violin/port_internal.h"

#include <errno.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define RETRY_US 1000

struct unix_port {
    struct port port; /* the first member */
    struct sockaddr_un remote;
    char *local; /* to unlink */
};

static unsigned socket_read(struct port *port)
{
    struct mmsghdr msgs[PORT_BATCH];
    struct iovec iovs[PORT_BATCH];
    int got;

    for (unsigned i = 0; i < PORT_BATCH; i++) {
        iovs[i] = (struct iovec){port->loop->buffers + i * PORT_BUFFER_SIZE,
                                 PORT_BUFFER_SIZE};
        msgs[i] =
            (struct mmsghdr){.msg_hdr = {.msg_iov = &iovs[i], .msg_iovlen = 1}};
    }
    got = recvmmsg(port->fd, msgs, PORT_BATCH, MSG_DONTWAIT, NULL);
    for (int i = 0; i < got; i++)
        port_take_frame(port, iovs[i].iov_base, msgs[i].msg_len);
    return got > 0 ? (unsigned)got : 0;
}

static enum port_sent sent_or_why(const struct port *port, ssize_t sent)
{
    if (sent >= 0)
        return PORT_SENT;
    if (errno == EAGAIN || errno == ENOBUFS || errno == EINTR)
        return PORT_FULL;
    log_limited(LOG_DEBUG, "violin: a frame to a %s port is dropped: %s",
                port_kind(port), strerror(errno));
    return PORT_REFUSED;
}

static enum port_sent fd_send(struct port *port, const void *frame, size_t size)
{
    return sent_or_why(
        port, send(port->fd, frame, size, MSG_DONTWAIT | MSG_NOSIGNAL));
}

static enum port_sent unix_send(struct port *port, const void *frame,
                                size_t size)
{
    const struct unix_port *p = (const struct unix_port *)port;

    return sent_or_why(
        port, sendto(port->fd, frame, size, MSG_DONTWAIT | MSG_NOSIGNAL,
                     (const struct sockaddr *)&p->remote, sizeof(p->remote)));
}

static bool socket_is_settled(struct port *port, uint64_t now_ns)
{
    int unread = 0;

    (void)now_ns;
    return ioctl(port->fd, SIOCOUTQ, &unread) == 0 && unread == 0;
}

static void unix_done(struct port *port)
{
    struct unix_port *p = (struct unix_port *)port;

    unlink(p->local);
    free(p->local);
}

static const struct port_kind kind_fd = {
    .name = "fd",
    .read = socket_read,
    .send = fd_send,
    .is_settled = socket_is_settled,
    .count = port_nothing,
    .done = port_nothing,
};

static const struct port_kind kind_unix = {
    .name = "unix",
    .retry_us = RETRY_US,
    .retry_max_us = RETRY_US,
    .read = socket_read,
    .send = unix_send,
    .is_settled = socket_is_settled,
    .count = port_nothing,
    .done = unix_done,
};

struct port *port_new_fd(struct port_loop *loop, int fd,
                         const struct port_events *events, void *context,
                         struct vn_err *err)
{
    struct sockaddr_storage peer;
    socklen_t size = sizeof(peer);
    int type = 0;
    socklen_t type_size = sizeof(type);
    struct port *port;

    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_size))
        return vn_fail_ptr(err, errno, "the port's descriptor");
    if (type != SOCK_DGRAM || getpeername(fd, (struct sockaddr *)&peer, &size))
        return vn_fail_ptr(err, VN_E_UNSUPPORTED,
                           "the port's descriptor is not a connected "
                           "datagram socket");
    port_raise_buffers(fd, PORT_SOCKET_BUFFER, PORT_SOCKET_BUFFER);
    port = vn_alloc(sizeof(*port));
    if (port_start(port, &kind_fd, loop, fd, events, context, err)) {
        free(port);
        return NULL;
    }
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

/* The bound socket; a stale one at its path is replaced. */
static int bind_unix(const char *local, const struct sockaddr_un *here,
                     struct vn_err *err)
{
    vn_auto(close) int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    const struct sockaddr *address = (const struct sockaddr *)here;
    struct stat st;

    if (fd < 0)
        return vn_fail(err, errno, "port socket '%s'", local);
    if (lstat(local, &st) == 0 && S_ISSOCK(st.st_mode)) {
        if (connect(fd, address, sizeof(*here)) == 0)
            return vn_fail(err, EADDRINUSE, "port socket '%s'", local);
        unlink(local);
    }
    if (bind(fd, address, sizeof(*here)))
        return vn_fail(err, errno, "bind '%s'", local);
    return vn_steal_fd(&fd);
}

struct port *port_new_unix(struct port_loop *loop, const char *local,
                           const char *remote, const struct port_events *events,
                           void *context, struct vn_err *err)
{
    struct sockaddr_un here, there;
    vn_auto(close) int fd = -1;
    struct unix_port *p;

    if (fill_path(&here, local, err) || fill_path(&there, remote, err))
        return NULL;
    fd = bind_unix(local, &here, err);
    if (fd < 0)
        return NULL;
    port_raise_buffers(fd, PORT_SOCKET_BUFFER, PORT_SOCKET_BUFFER);
    p = vn_alloc(sizeof(*p));
    p->remote = there;
    if (port_start(&p->port, &kind_unix, loop, fd, events, context, err)) {
        free(p);
        return NULL;
    }
    fd = -1; /* the port's now */
    p->local = vn_strdup(local);
    return &p->port;
}
