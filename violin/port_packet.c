/*
 * Ports on an interface that carries one VM's network card: the vif that
 * xen-netback makes for a domain. docs/adr/0005-ports-of-xen-domains.md says
 * why it is done so.
 *
 * Receiving. A packet socket gets what the VM sends, before the host's stack
 * would, each frame with the header that says what the VM left to its card
 * (offload.h). The kernel takes the outer VLAN tag out of the frame and tells
 * it beside; it is put back. What finds no room in the socket is lost, counted
 * by the kernel and here as rx_dropped.
 *
 * Sending goes past the interface's queue (PACKET_QDISC_BYPASS), because that
 * queue may drop silently: without a carrier it is one that drops everything
 * and says "sent", and the usual one drops what has waited for long. Without
 * it the kernel says ENOBUFS for "no carrier" and for "the driver's queue is
 * full", and ENETDOWN for an interface that is down; the frame then waits
 * here. No event says when that is over, so a timer tries again.
 *
 * The window. netback queues 512 KiB for a VM; then it stops the interface,
 * but (kernels since the end of 2022) also drops the frame that finds the
 * queue full, and says "sent". So never more than WINDOW_BYTES are in flight:
 * sent by us and not yet counted by the interface. netback counts a frame in
 * tx_packets when it takes it out of its queue to copy it into the VM's memory,
 * and in tx_dropped what it does not even queue.
 *
 * The probe. netback raises the carrier before it is ready to take frames;
 * for some milliseconds (measured under load) it takes them, says "sent" and
 * drops them, counted. So at first, and after each refusal, a frame is sent
 * and the counters are read: if it was dropped it is sent again later. When
 * one was not, the rest follows without asking. A frame that is dropped for
 * PROBE_NS is given up: it may be that one only that the driver does not want.
 *
 * `done` follows these counters, with three corrections:
 * - An attempt that the kernel refuses for want of a carrier is counted in
 *   tx_dropped too. All that is sent there is sent by this thread, at once,
 *   so a count that is one higher after a refusal is that attempt, and is
 *   left out.
 * - Counters that fall: the VM's driver connected anew, the queue before it
 *   is gone. What was in flight is counted as dropped.
 * - Nothing moved for STUCK_NS: netback has thrown away what it had queued
 *   (after 10 s, rx_drain_timeout_msecs, uncounted). The same.
 *
 * Settled: everything counted, and SETTLE_NS ago, for netback counts up to 64
 * frames before it copies them.
 *
 * Drain: netback passes frames on while it handles the VM's notification,
 * within microseconds; a VM that is suspended has stopped its programs long
 * before that. So what is in the socket is all there is.
 *
 * Limits: the socket holds RECEIVE_BYTES of the kernel's own accounting,
 * some 20,000 frames of 1500 bytes. Not done: a ring shared with the kernel
 * (TPACKET_V3): it passes frames on by blocks, the last of them after a
 * timeout, which a drain cannot wait for.
 */
#include "common/clock.h"
#include "common/log.h"
#include "violin/interface.h"
#include "violin/offload.h"
#include "violin/port_internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define RECEIVE_BYTES (64 << 20)
#define WINDOW_BYTES  (256u << 10)
#define RETRY_US      250
#define RETRY_MAX_US  16000
#define SETTLE_NS     VN_MS
#define STUCK_NS      (12 * VN_SEC)
#define PROBE_NS      (2 * VN_SEC)
#define VLAN_SIZE     4u
#define ERRORS_MAX    8 /* of the socket that one read passes over */

struct packet_port {
    struct port port; /* the first member */
    char interface[IFNAMSIZ];
    struct interface_watch watch;
    struct interface_counts counts; /* when last read */
    uint64_t sent, done;            /* frames; see above */
    uint64_t moved_ns;              /* `done` changed, or began to wait */
    size_t largest;                 /* frame in flight */
    bool ready;                     /* the driver takes frames, else probe */
    uint64_t probe_ns;              /* when the first was dropped; 0: none */
    bool gone;                      /* so it was logged */
};

/* ---- from the VM ------------------------------------------------------- */

static void take_plain(void *context, const uint8_t *frame, size_t size)
{
    port_take_frame(context, frame, size);
}

/* The VLAN tag that the kernel took out; false: none. */
static bool find_tag(const struct msghdr *msg, uint8_t tag[VLAN_SIZE])
{
    struct tpacket_auxdata aux;
    const struct cmsghdr *c = CMSG_FIRSTHDR(msg);
    uint16_t type = ETH_P_8021Q;

    if (!c || c->cmsg_level != SOL_PACKET || c->cmsg_type != PACKET_AUXDATA ||
        c->cmsg_len < CMSG_LEN(sizeof(aux)))
        return false;
    memcpy(&aux, CMSG_DATA(c), sizeof(aux));
    if (!(aux.tp_status & TP_STATUS_VLAN_VALID))
        return false;
    if (aux.tp_status & TP_STATUS_VLAN_TPID_VALID)
        type = aux.tp_vlan_tpid;
    tag[0] = (uint8_t)(type >> 8);
    tag[1] = (uint8_t)type;
    tag[2] = (uint8_t)(aux.tp_vlan_tci >> 8);
    tag[3] = (uint8_t)aux.tp_vlan_tci;
    return true;
}

/*
 * A message of the socket: `head`, and the frame in `room` behind the place
 * for a tag. `size` is that of both, as it was before it had to fit.
 */
static void take_message(struct port *port, const struct msghdr *msg,
                         struct virtio_net_hdr *head, uint8_t *room,
                         size_t size)
{
    uint8_t *frame = room + VLAN_SIZE;
    uint8_t tag[VLAN_SIZE];

    if ((msg->msg_flags & MSG_TRUNC) || size < sizeof(*head) + ETH_HLEN) {
        port->counts.rx_malformed++;
        return;
    }
    size -= sizeof(*head);
    if (find_tag(msg, tag)) {
        memmove(room, frame, 2 * ETH_ALEN);
        memcpy(room + 2 * ETH_ALEN, tag, VLAN_SIZE);
        frame = room;
        size += VLAN_SIZE;
        if (head->csum_start <= UINT16_MAX - VLAN_SIZE)
            head->csum_start = (uint16_t)(head->csum_start + VLAN_SIZE);
    }
    if (!offload_finish(head, frame, size, take_plain, port))
        port->counts.rx_malformed++;
}

/* Receive a batch; the number of messages, or -1. */
static int receive(struct port *port, struct mmsghdr *msgs)
{
    int got;

    for (int i = 0; i < ERRORS_MAX; i++) {
        got = recvmmsg(port->fd, msgs, PORT_BATCH, MSG_DONTWAIT, NULL);
        if (got >= 0 || errno == EAGAIN)
            return got;
        /* An error is told once. EINVAL stands for a frame that wants an
         * offload for which the header has no word; ENETDOWN for the
         * interface going down, which sending notices on its own. */
        if (errno == EINVAL)
            port->counts.rx_malformed++;
    }
    return -1;
}

static unsigned packet_read(struct port *port)
{
    union {
        struct cmsghdr align;
        uint8_t bytes[CMSG_SPACE(sizeof(struct tpacket_auxdata))];
    } controls[PORT_BATCH];
    struct virtio_net_hdr heads[PORT_BATCH];
    struct iovec iovs[PORT_BATCH][2];
    struct mmsghdr msgs[PORT_BATCH];
    int got;

    for (unsigned i = 0; i < PORT_BATCH; i++) {
        uint8_t *room = port->loop->buffers + i * PORT_BUFFER_SIZE;

        iovs[i][0] = (struct iovec){&heads[i], sizeof(heads[i])};
        iovs[i][1] =
            (struct iovec){room + VLAN_SIZE, PORT_BUFFER_SIZE - VLAN_SIZE};
        msgs[i] = (struct mmsghdr){
            .msg_hdr = {.msg_iov = iovs[i],
                        .msg_iovlen = 2,
                        .msg_control = controls[i].bytes,
                        .msg_controllen = sizeof(controls[i].bytes)}};
    }
    got = receive(port, msgs);
    for (int i = 0; i < got; i++)
        take_message(port, &msgs[i].msg_hdr, &heads[i],
                     port->loop->buffers + (size_t)i * PORT_BUFFER_SIZE,
                     msgs[i].msg_len);
    return got > 0 ? (unsigned)got : 0;
}

static void packet_count(struct port *port)
{
    struct tpacket_stats stats;
    socklen_t size = sizeof(stats);

    /* Reading them sets them to 0. */
    if (getsockopt(port->fd, SOL_PACKET, PACKET_STATISTICS, &stats, &size) == 0)
        port->counts.rx_dropped += stats.tp_drops;
}

/* ---- to the VM --------------------------------------------------------- */

static uint64_t in_flight(const struct packet_port *p)
{
    return p->sent - p->done;
}

static void forget_in_flight(struct packet_port *p)
{
    p->port.counts.tx_dropped += in_flight(p);
    p->done = p->sent;
}

/* Learn from the interface's counters what is done. */
static void review(struct packet_port *p, uint64_t now_ns)
{
    struct interface_counts now;
    uint64_t progress = 0, lost = 0;

    if (!interface_watch_read(&p->watch, &now)) {
        p->done = p->sent; /* the interface is gone, and the VM */
        return;
    }
    if (now.packets < p->counts.packets)
        forget_in_flight(p);
    else
        progress = now.packets - p->counts.packets;
    if (now.failed > p->counts.failed)
        lost = now.failed - p->counts.failed;
    p->counts = now;
    if (lost > in_flight(p)) /* somebody else has sent */
        lost = in_flight(p);
    p->done += lost;
    p->port.counts.tx_dropped += lost;
    if (progress > in_flight(p))
        progress = in_flight(p);
    p->done += progress;
    if (progress + lost)
        p->moved_ns = now_ns;
    else if (in_flight(p) && now_ns - p->moved_ns > STUCK_NS)
        forget_in_flight(p);
}

static bool window_is_full(const struct packet_port *p, size_t size)
{
    size_t largest = size > p->largest ? size : p->largest;

    return (in_flight(p) + 1) * largest > WINDOW_BYTES;
}

/* The kernel took no frame: why, and was that counted? */
static enum port_sent refused(struct packet_port *p, int why)
{
    struct interface_counts now;

    if (why == ENODEV || why == ENXIO) {
        if (!p->gone)
            log_debug("violin: interface '%s' is gone, frames to it are "
                      "dropped",
                      p->interface);
        p->gone = true;
        return PORT_REFUSED;
    }
    if (why != EAGAIN && why != EINTR && why != ENOBUFS && why != ENETDOWN) {
        log_limited(LOG_DEBUG, "violin: a frame to '%s' is dropped: %s",
                    p->interface, strerror(why));
        return PORT_REFUSED;
    }
    p->ready = false;
    p->probe_ns = 0;
    if (why == ENOBUFS && interface_watch_read(&p->watch, &now) &&
        now.failed > p->counts.failed)
        p->counts.failed++; /* this attempt, no frame in flight */
    return PORT_FULL;
}

static enum port_sent transmit(struct packet_port *p, const void *frame,
                               size_t size)
{
    struct virtio_net_hdr plain = {0};
    struct iovec iov[2] = {{&plain, sizeof(plain)},
                           {(void *)(uintptr_t)frame, size}};
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};
    ssize_t sent;

    sent = sendmsg(p->port.fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && errno == EINVAL) /* a reader's error, told here */
        sent = sendmsg(p->port.fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0)
        return refused(p, errno);
    if (in_flight(p) == 0) {
        p->moved_ns = clock_now_ns();
        p->largest = 0;
    }
    if (size > p->largest)
        p->largest = size;
    p->sent++;
    return PORT_SENT;
}

/* Send a frame, and see whether the driver takes it. */
static enum port_sent probe(struct packet_port *p, const void *frame,
                            size_t size)
{
    struct interface_counts now;
    enum port_sent sent;
    uint64_t now_ns = clock_now_ns();

    review(p, now_ns);
    sent = transmit(p, frame, size);
    if (sent != PORT_SENT)
        return sent;
    if (!interface_watch_read(&p->watch, &now) ||
        now.failed <= p->counts.failed) {
        p->ready = true;
        return PORT_SENT;
    }
    p->counts.failed = now.failed;
    p->sent--;
    if (p->probe_ns == 0)
        p->probe_ns = now_ns;
    if (now_ns - p->probe_ns < PROBE_NS)
        return PORT_FULL;
    p->ready = true;
    return PORT_REFUSED;
}

static enum port_sent packet_send(struct port *port, const void *frame,
                                  size_t size)
{
    struct packet_port *p = (struct packet_port *)port;

    if (window_is_full(p, size)) {
        review(p, clock_now_ns());
        if (in_flight(p) && window_is_full(p, size))
            return PORT_FULL;
    }
    return p->ready ? transmit(p, frame, size) : probe(p, frame, size);
}

static bool packet_is_settled(struct port *port, uint64_t now_ns)
{
    struct packet_port *p = (struct packet_port *)port;

    review(p, now_ns);
    return in_flight(p) == 0 && now_ns - p->moved_ns >= SETTLE_NS;
}

/* ---- life -------------------------------------------------------------- */

static void packet_done(struct port *port)
{
    struct packet_port *p = (struct packet_port *)port;

    interface_watch_close(&p->watch);
}

static const struct port_kind kind_packet = {
    .name = "packet",
    .retry_us = RETRY_US,
    .retry_max_us = RETRY_MAX_US,
    .read = packet_read,
    .send = packet_send,
    .is_settled = packet_is_settled,
    .count = packet_count,
    .done = packet_done,
};

static int set_option(int fd, int option, const char *what, struct vn_err *err)
{
    int one = 1;

    if (setsockopt(fd, SOL_PACKET, option, &one, sizeof(one)))
        return vn_fail(err, errno, "packet socket: %s", what);
    return 0;
}

/* All options are set before the first frame can come. */
static int open_socket(const char *interface, struct vn_err *err)
{
    struct sockaddr_ll address = {.sll_family = AF_PACKET,
                                  .sll_protocol = htons(ETH_P_ALL)};
    struct packet_mreq all = {.mr_type = PACKET_MR_PROMISC};
    vn_auto(close) int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return vn_fail(err, errno, "open a packet socket");
    address.sll_ifindex = (int)if_nametoindex(interface);
    all.mr_ifindex = address.sll_ifindex;
    if (address.sll_ifindex == 0)
        return vn_fail(err, errno, "interface '%s'", interface);
    if (set_option(fd, PACKET_VNET_HDR, "headers of offloads", err) ||
        set_option(fd, PACKET_AUXDATA, "VLAN tags", err) ||
        set_option(fd, PACKET_IGNORE_OUTGOING, "not to hear oneself", err) ||
        set_option(fd, PACKET_QDISC_BYPASS, "to pass queues by", err))
        return -1;
    port_raise_buffers(fd, PORT_SOCKET_BUFFER, RECEIVE_BYTES);
    if (bind(fd, (struct sockaddr *)&address, sizeof(address)) ||
        setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &all, sizeof(all)))
        return vn_fail(err, errno, "listen on interface '%s'", interface);
    return vn_steal_fd(&fd);
}

/* Everything before the port is a port, in the order that misses nothing. */
static int prepare(struct packet_port *p, struct vn_err *err)
{
    vn_auto(close) int fd = -1;

    if (interface_isolate(p->interface, err))
        return -1;
    interface_use_one_queue(p->interface);
    fd = open_socket(p->interface, err);
    if (fd < 0 || interface_watch_open(p->interface, &p->watch, err))
        return -1;
    if (interface_bring_up(p->interface, IFF_NOARP, err)) {
        interface_watch_close(&p->watch);
        return -1;
    }
    (void)interface_watch_read(&p->watch, &p->counts);
    return vn_steal_fd(&fd);
}

struct port *port_new_packet(struct port_loop *loop, const char *interface,
                             const struct port_events *events, void *context,
                             struct vn_err *err)
{
    vn_auto(free) struct packet_port *p = NULL;
    vn_auto(close) int fd = -1;

    if (interface_check_name(interface, err))
        return NULL;
    p = vn_alloc(sizeof(*p));
    strcpy(p->interface, interface);
    fd = prepare(p, err);
    if (fd < 0)
        return NULL;
    if (port_start(&p->port, &kind_packet, loop, fd, events, context, err)) {
        interface_watch_close(&p->watch);
        return NULL;
    }
    fd = -1; /* the port's now */
    return &vn_steal(&p)->port;
}
