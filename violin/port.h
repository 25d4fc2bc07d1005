#ifndef VIOLIN_PORT_H
#define VIOLIN_PORT_H

/*
 * A port: where frames of one VM's network card come from and go to.
 *
 * Four kinds, told apart only when they are made. A port is always read,
 * whatever is held: a QEMU whose socket is full spins or blocks. Frames that
 * the VM's side cannot take yet wait here, in order, within a bound. One
 * event loop, its thread only; nothing blocks, but for making a packet port
 * (milliseconds). Another kind: port_internal.h.
 */

#include "common/auto.h"
#include "common/err.h"

#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PORT_EGRESS_BYTES_MAX (16u << 20) /* that wait for the VM's side */
#define PORT_TAP_SETTLE_NS    5000000ull  /* a TAP tells nothing: just wait */

/* What the ports of one event loop share. It outlives them. */
struct port_loop {
    struct event_base *base;
    uint8_t *buffers; /* to read into */
};
void port_loop_init(struct port_loop *loop, struct event_base *base);
void port_loop_done(struct port_loop *loop);

struct port;

struct port_events {
    /* A frame from the VM, valid during the call. Sizes are unchecked. */
    void (*frame)(void *context, const void *frame, size_t size);
    /* A batch of frames has been read; flush what was collected. */
    void (*batch_end)(void *context);
};

/*
 * Make a port and begin to read it. fd: a connected datagram socket, taken
 * over on success. tap: attach to or create `interface`, and bring it up.
 * unix: bind `local` (a stale socket there is replaced), send to `remote`,
 * which may appear later. packet: an interface that is one VM's network card
 * (a Xen vif); it is isolated from the host (violin/interface.h) and brought
 * up; VN_E_STATE if it is in a bridge. What the VM leaves to its card
 * (violin/offload.h) is done before frame() is called. `events` outlives the
 * port.
 */
struct port *port_new_fd(struct port_loop *loop, int fd,
                         const struct port_events *events, void *context,
                         struct vn_err *err) VN_MUST_USE;
struct port *port_new_tap(struct port_loop *loop, const char *interface,
                          const struct port_events *events, void *context,
                          struct vn_err *err) VN_MUST_USE;
struct port *port_new_unix(struct port_loop *loop, const char *local,
                           const char *remote, const struct port_events *events,
                           void *context, struct vn_err *err) VN_MUST_USE;
struct port *port_new_packet(struct port_loop *loop, const char *interface,
                             const struct port_events *events, void *context,
                             struct vn_err *err) VN_MUST_USE;
/* Close it; what waits is lost. */
void port_free(struct port *port);

/* Send a frame to the VM, now or, in order, when its side takes it. */
void port_send(struct port *port, const void *frame, size_t size);

/*
 * Read until nothing is left (frame() for each, no batch_end()): the VM is
 * stopped, so that what it sent before is all there is. Gives up after
 * PORT_DRAIN_MAX frames, for a port whose other side is still running.
 */
#define PORT_DRAIN_MAX 262144u
void port_drain(struct port *port);

/*
 * Whether the VM's side has consumed all that was sent. Sockets: nothing
 * waits here and the kernel's count of unread bytes (SIOCOUTQ) is 0. TAP: the
 * last frame was sent PORT_TAP_SETTLE_NS ago. Packet: the interface has
 * counted every frame as handed over, or as dropped.
 */
bool port_is_settled(struct port *port, uint64_t now_ns);

struct port_counts {
    uint64_t rx_frames, rx_bytes; /* from the VM */
    uint64_t rx_dropped;          /* lost before they were read */
    uint64_t rx_malformed;        /* dropped: offloads that make no sense */
    uint64_t tx_frames, tx_bytes; /* to the VM, waiting ones not yet */
    uint64_t tx_dropped;          /* the bound passed, or nobody there */
    uint64_t tx_waiting;          /* frames now */
};
void port_counts(struct port *port, struct port_counts *ret);
/* "fd", "tap", "unix" or "packet". */
const char *port_kind(const struct port *port);

VN_AUTO_DEFINE(port, struct port *, port_free)

#endif
