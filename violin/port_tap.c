/*
 * Ports on a TAP interface, whose other side is the kernel's network stack or
 * a VM that uses the interface through it. There is no call for many frames.
 * What becomes of a frame behind a TAP nobody tells.
 */
#include "common/log.h"
#include "violin/interface.h"
#include "violin/port_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static unsigned tap_read(struct port *port)
{
    uint8_t *buffer = port->loop->buffers;

    for (unsigned i = 0; i < PORT_BATCH; i++) {
        ssize_t got = read(port->fd, buffer, PORT_BUFFER_SIZE);

        if (got < 0)
            return i;
        port_take_frame(port, buffer, (size_t)got);
    }
    return PORT_BATCH;
}

static enum port_sent tap_send(struct port *port, const void *frame,
                               size_t size)
{
    if (write(port->fd, frame, size) >= 0)
        return PORT_SENT;
    if (errno == EAGAIN || errno == ENOBUFS || errno == EINTR)
        return PORT_FULL;
    log_limited(LOG_DEBUG, "violin: a frame to a TAP is dropped: %s",
                strerror(errno));
    return PORT_REFUSED;
}

static bool tap_is_settled(struct port *port, uint64_t now_ns)
{
    return now_ns - port->last_send_ns >= PORT_TAP_SETTLE_NS;
}

static const struct port_kind kind_tap = {
    .name = "tap",
    .read = tap_read,
    .send = tap_send,
    .is_settled = tap_is_settled,
    .count = port_nothing,
    .done = port_nothing,
};

struct port *port_new_tap(struct port_loop *loop, const char *interface,
                          const struct port_events *events, void *context,
                          struct vn_err *err)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
    vn_auto(close) int fd = -1;
    struct port *port;

    if (interface_check_name(interface, err))
        return NULL;
    strcpy(request.ifr_name, interface);
    fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return vn_fail_ptr(err, errno, "open '/dev/net/tun'");
    if (ioctl(fd, TUNSETIFF, &request))
        return vn_fail_ptr(err, errno, "attach to TAP '%s'", interface);
    if (interface_bring_up(interface, 0, err))
        return NULL;
    port = vn_alloc(sizeof(*port));
    if (port_start(port, &kind_tap, loop, fd, events, context, err)) {
        free(port);
        return NULL;
    }
    fd = -1; /* the port's now */
    return port;
}
