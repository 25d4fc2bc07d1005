/*
 * Ports: what all kinds have in common.
 *
 * How it works. Level-triggered reads of up to BATCH_ROUNDS batches an event,
 * or until EVENT_FRAMES frames came of them. Writes go straight to the
 * descriptor while it takes them. When it is full the frame and all later
 * ones queue in `egress` until the descriptor is writable again, or where it
 * does not say so, until a timer finds that it is.
 *
 * What cannot be sent at all is dropped and counted: a machine without a
 * cable.
 *
 * Invariant: while `egress` is not empty a write or retry event is pending.
 * Limits: 16 MiB of waiting frames. Concurrency: one loop's thread; the read
 * buffers are shared by all ports of a loop, so frame() must not read ports.
 */
#include "violin/port.h"

#include "common/clock.h"
#include "common/log.h"
#include "violin/port_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BATCH_ROUNDS 8
#define EVENT_FRAMES 4096 /* one frame of a guest may become many */

/* ---- reading ----------------------------------------------------------- */

void port_take_frame(struct port *port, const uint8_t *frame, size_t size)
{
    port->counts.rx_frames++;
    port->counts.rx_bytes += size;
    port->events->frame(port->context, frame, size);
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
    struct port *port = arg;
    uint64_t end = port->counts.rx_frames + EVENT_FRAMES;

    (void)fd;
    (void)what;
    for (int i = 0; i < BATCH_ROUNDS && port->counts.rx_frames < end; i++) {
        if (port->kind->read(port) < PORT_BATCH)
            break;
    }
    port->events->batch_end(port->context);
}

void port_drain(struct port *port)
{
    uint64_t total = 0;
    unsigned got;

    do {
        got = port->kind->read(port);
        total += got;
    } while (got && total < PORT_DRAIN_MAX);
}

/* ---- writing ----------------------------------------------------------- */

static enum port_sent send_now(struct port *port, const void *frame,
                               size_t size)
{
    enum port_sent sent = port->kind->send(port, frame, size);

    if (sent == PORT_SENT) {
        port->counts.tx_frames++;
        port->counts.tx_bytes += size;
        port->last_send_ns = clock_now_ns();
        port->retry_us = port->kind->retry_us;
    } else if (sent == PORT_REFUSED) {
        port->counts.tx_dropped++;
    }
    return sent;
}

static void await_writable(struct port *port)
{
    struct timeval retry = {0, (suseconds_t)port->retry_us};
    unsigned next_us = port->retry_us * 2;

    event_add(port->writable, port->retry_us ? &retry : NULL);
    if (next_us <= port->kind->retry_max_us)
        port->retry_us = next_us;
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
    struct port *port = arg;
    struct hold_frame frame;

    (void)fd;
    (void)what;
    while (hold_front(&port->egress, &frame)) {
        if (send_now(port, frame.data, frame.size) == PORT_FULL) {
            await_writable(port);
            return;
        }
        hold_pop(&port->egress);
    }
}

void port_send(struct port *port, const void *frame, size_t size)
{
    if (port->egress.count == 0) {
        if (send_now(port, frame, size) != PORT_FULL)
            return;
        await_writable(port);
    }
    if (!hold_push(&port->egress, 0, frame, size))
        port->counts.tx_dropped++;
}

bool port_is_settled(struct port *port, uint64_t now_ns)
{
    return port->egress.count == 0 && port->kind->is_settled(port, now_ns);
}

/* ---- life -------------------------------------------------------------- */

void port_loop_init(struct port_loop *loop, struct event_base *base)
{
    loop->base = base;
    loop->buffers = vn_alloc(PORT_BATCH * PORT_BUFFER_SIZE);
}

void port_loop_done(struct port_loop *loop)
{
    free(loop->buffers);
    loop->buffers = NULL;
}

static void raise_buffer(int fd, int option, int forced_option, int size)
{
    /* The forced form passes the system's limit, for root only. */
    if (setsockopt(fd, SOL_SOCKET, forced_option, &size, sizeof(size)))
        (void)setsockopt(fd, SOL_SOCKET, option, &size, sizeof(size));
}

void port_raise_buffers(int fd, int send_size, int receive_size)
{
    raise_buffer(fd, SO_SNDBUF, SO_SNDBUFFORCE, send_size);
    raise_buffer(fd, SO_RCVBUF, SO_RCVBUFFORCE, receive_size);
}

int port_start(struct port *port, const struct port_kind *kind,
               struct port_loop *loop, int fd, const struct port_events *events,
               void *context, struct vn_err *err)
{
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK))
        return vn_fail(err, errno, "make a port non-blocking");
    port->kind = kind;
    port->loop = loop;
    port->fd = fd;
    port->retry_us = kind->retry_us;
    port->events = events;
    port->context = context;
    hold_init(&port->egress, PORT_EGRESS_BYTES_MAX);
    port->readable =
        event_new(loop->base, fd, EV_READ | EV_PERSIST, on_readable, port);
    port->writable =
        event_new(loop->base, kind->retry_us ? -1 : fd,
                  kind->retry_us ? 0 : EV_WRITE, on_writable, port);
    if (port->readable && port->writable &&
        event_add(port->readable, NULL) == 0)
        return 0;
    if (port->readable)
        event_free(port->readable);
    if (port->writable)
        event_free(port->writable);
    return vn_fail(err, ENOMEM, "watch a port");
}

void port_free(struct port *port)
{
    if (!port)
        return;
    event_free(port->readable);
    event_free(port->writable);
    close(port->fd);
    port->kind->done(port);
    hold_clear(&port->egress);
    free(port);
}

void port_nothing(struct port *port)
{
    (void)port;
}

void port_counts(struct port *port, struct port_counts *ret)
{
    port->kind->count(port);
    *ret = port->counts;
    ret->tx_waiting = port->egress.count;
}

const char *port_kind(const struct port *port)
{
    return port->kind->name;
}
