/*
 * The tunnel socket.
 *
 * How it works: packets to send are copied behind their header into one of
 * BATCH slots and leave by one sendmmsg() when the slots are full or the event
 * that made them ends. Packets are received BATCH at a time and decoded in
 * place. Order to one peer is the order of the calls.
 *
 * IP fragmentation is allowed (IP_PMTUDISC_DONT): an inner frame of 1,514
 * bytes makes 1,558 bytes of IP, and an underlay with an MTU of 1,500 must
 * still work; docs/formats/geneve.md tells which MTU avoids it.
 *
 * Limits: a UDP payload is at most 65,507 bytes, so a frame above 65,491 does
 * not fit and is dropped and counted; guests send such only with segment
 * offload, which ports do not offer. Concurrency: none. Not done: UDP_SEGMENT
 * and UDP_GRO.
 */
#include "violin/tunnel.h"

#include "common/log.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BATCH         64
#define BATCH_ROUNDS  8
#define SLOT_SIZE     ((size_t)64 * 1024)
#define DATAGRAM_MAX  65507u
#define SOCKET_BUFFER (32 << 20)

struct slot {
    union tunnel_address to;
    size_t size;
    uint8_t *data;
};

struct tunnel {
    int fd;
    struct event *readable;
    const struct tunnel_events *events;
    void *context;
    struct tunnel_counts counts;
    unsigned filled;
    struct slot slots[BATCH];
    uint8_t *send_memory, *receive_memory; /* BATCH * SLOT_SIZE each */
};

/* ---- addresses --------------------------------------------------------- */

static socklen_t address_size(const union tunnel_address *a)
{
    return a->any.sa_family == AF_INET ? sizeof(a->v4) : sizeof(a->v6);
}

static int parse_port(const char *text, in_port_t *ret)
{
    unsigned long value = 0;

    if (*text == 0 || strlen(text) > 5)
        return -1;
    for (; *text; text++) {
        if (*text < '0' || *text > '9')
            return -1;
        value = value * 10 + (unsigned long)(*text - '0');
    }
    if (value > UINT16_MAX)
        return -1;
    *ret = htons((uint16_t)value);
    return 0;
}

int tunnel_parse_address(const char *text, union tunnel_address *ret,
                         struct vn_err *err)
{
    char host[TUNNEL_ADDRESS_SIZE];
    union tunnel_address a;
    in_port_t port = htons(GENEVE_PORT);
    const char *colon = strrchr(text, ':'), *rest = NULL;
    bool bracket = text[0] == '[';

    memset(&a, 0, sizeof(a));
    if (strlen(text) >= sizeof(host))
        return vn_fail(err, VN_E_FORMAT, "underlay address is too long");
    snprintf(host, sizeof(host), "%s", text + bracket);
    if (bracket) {
        char *end = strchr(host, ']');

        if (!end || (end[1] != ':' && end[1] != 0))
            return vn_fail(err, VN_E_FORMAT,
                           "'%s' is no ADDR, ADDR:PORT or [ADDR]:PORT", text);
        rest = end[1] ? end + 2 : NULL;
        *end = 0;
    } else if (colon && strchr(text, ':') == colon) {
        rest = host + (colon - text) + 1;
        host[colon - text] = 0;
    }
    if (rest && parse_port(rest, &port))
        return vn_fail(err, VN_E_FORMAT, "'%s' has no port of 0 to 65535",
                       text);
    if (!bracket && inet_pton(AF_INET, host, &a.v4.sin_addr) == 1) {
        a.v4.sin_family = AF_INET;
        a.v4.sin_port = port;
    } else if (inet_pton(AF_INET6, host, &a.v6.sin6_addr) == 1) {
        a.v6.sin6_family = AF_INET6;
        a.v6.sin6_port = port;
    } else {
        return vn_fail(err, VN_E_FORMAT,
                       "'%s' is no ADDR, ADDR:PORT or [ADDR]:PORT", text);
    }
    *ret = a;
    return 0;
}

void tunnel_format_address(const union tunnel_address *a,
                           char out[TUNNEL_ADDRESS_SIZE])
{
    char host[INET6_ADDRSTRLEN] = "?";

    if (a->any.sa_family == AF_INET) {
        inet_ntop(AF_INET, &a->v4.sin_addr, host, sizeof(host));
        snprintf(out, TUNNEL_ADDRESS_SIZE, "%s:%u", host,
                 ntohs(a->v4.sin_port));
    } else {
        inet_ntop(AF_INET6, &a->v6.sin6_addr, host, sizeof(host));
        snprintf(out, TUNNEL_ADDRESS_SIZE, "[%s]:%u", host,
                 ntohs(a->v6.sin6_port));
    }
}

/* ---- receiving --------------------------------------------------------- */

/* The kernel fills flow label and scope too; peers are told apart without. */
static void normalise(union tunnel_address *from)
{
    if (from->any.sa_family == AF_INET6) {
        from->v6.sin6_flowinfo = 0;
        from->v6.sin6_scope_id = 0;
    }
}

static int receive_batch(struct tunnel *t)
{
    struct mmsghdr msgs[BATCH];
    struct iovec iovs[BATCH];
    union tunnel_address from[BATCH];
    int got;

    memset(from, 0, sizeof(from));
    for (unsigned i = 0; i < BATCH; i++) {
        iovs[i] = (struct iovec){t->receive_memory + i * SLOT_SIZE, SLOT_SIZE};
        msgs[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = &iovs[i],
                                               .msg_iovlen = 1,
                                               .msg_name = &from[i],
                                               .msg_namelen = sizeof(from[i])}};
    }
    got = recvmmsg(t->fd, msgs, BATCH, MSG_DONTWAIT, NULL);
    for (int i = 0; i < got; i++) {
        struct vn_err err = VN_ERR_INIT;
        struct geneve_packet packet;

        t->counts.rx_packets++;
        t->counts.rx_bytes += msgs[i].msg_len;
        normalise(&from[i]);
        if (geneve_decode(iovs[i].iov_base, msgs[i].msg_len, &packet, &err)) {
            t->counts.rx_malformed++;
            log_limited(LOG_DEBUG, "violin: %s", err.msg);
        } else {
            t->events->packet(t->context, &from[i], &packet);
        }
    }
    return got;
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
    struct tunnel *t = arg;

    (void)fd;
    (void)what;
    for (int i = 0; i < BATCH_ROUNDS && receive_batch(t) == BATCH; i++)
        ;
    t->events->batch_end(t->context);
}

/* ---- sending ----------------------------------------------------------- */

static uint8_t *take_slot(struct tunnel *t, const union tunnel_address *to,
                          size_t size)
{
    struct slot *slot;

    if (size > DATAGRAM_MAX) {
        t->counts.tx_dropped++;
        return NULL;
    }
    if (t->filled == BATCH)
        tunnel_flush(t);
    slot = &t->slots[t->filled++];
    slot->to = *to;
    slot->size = size;
    return slot->data;
}

void tunnel_send_frame(struct tunnel *t, const union tunnel_address *to,
                       uint32_t vni, uint32_t epoch, const void *frame,
                       size_t size)
{
    uint8_t *at = take_slot(t, to, GENEVE_FRAME_HEADER_SIZE + size);

    if (!at)
        return;
    geneve_encode_frame(at, vni, epoch);
    memcpy(at + GENEVE_FRAME_HEADER_SIZE, frame, size);
}

void tunnel_send_marker(struct tunnel *t, const union tunnel_address *to,
                        uint32_t vni, const struct vsw_marker *marker)
{
    uint8_t *at = take_slot(t, to, GENEVE_MARKER_SIZE);

    if (at)
        geneve_encode_marker(at, vni, marker);
}

/* After a failed send: whether to try the same packet again. */
static bool may_retry(struct tunnel *t, int *waits)
{
    struct pollfd p = {.fd = t->fd, .events = POLLOUT};

    if (errno == EINTR)
        return true;
    if (errno != EAGAIN && errno != ENOBUFS)
        return false;
    return ++*waits <= TUNNEL_FULL_WAIT_MS && poll(&p, 1, 1) >= 0;
}

void tunnel_flush(struct tunnel *t)
{
    struct mmsghdr msgs[BATCH];
    struct iovec iovs[BATCH];
    unsigned at = 0;
    int waits = 0;

    for (unsigned i = 0; i < t->filled; i++) {
        struct slot *slot = &t->slots[i];

        iovs[i] = (struct iovec){slot->data, slot->size};
        msgs[i] = (struct mmsghdr){
            .msg_hdr = {.msg_iov = &iovs[i],
                        .msg_iovlen = 1,
                        .msg_name = &slot->to,
                        .msg_namelen = address_size(&slot->to)}};
    }
    while (at < t->filled) {
        int sent = sendmmsg(t->fd, msgs + at, t->filled - at, MSG_DONTWAIT);

        if (sent > 0) {
            for (int i = 0; i < sent; i++)
                t->counts.tx_bytes += t->slots[at + (unsigned)i].size;
            t->counts.tx_packets += (unsigned)sent;
            at += (unsigned)sent;
        } else if (!may_retry(t, &waits)) {
            log_limited(LOG_DEBUG, "violin: a packet to a peer is dropped: %s",
                        strerror(errno));
            t->counts.tx_dropped++;
            at++;
        }
    }
    t->filled = 0;
}

/* ---- life -------------------------------------------------------------- */

static void set_options(int fd, int family)
{
    int size = SOCKET_BUFFER, fragment = IP_PMTUDISC_DONT;

    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)))
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)))
        (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
    if (family == AF_INET)
        (void)setsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, &fragment,
                         sizeof(fragment));
    else
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, &fragment,
                         sizeof(fragment));
}

struct tunnel *tunnel_new(struct event_base *base,
                          const union tunnel_address *bind_to,
                          const struct tunnel_events *events, void *context,
                          struct vn_err *err)
{
    vn_auto(tunnel) struct tunnel *t = vn_alloc(sizeof(*t));
    int family = bind_to->any.sa_family;

    t->fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (t->fd < 0)
        return vn_fail_ptr(err, errno, "open the tunnel socket");
    if (bind(t->fd, &bind_to->any, address_size(bind_to))) {
        char text[TUNNEL_ADDRESS_SIZE];
        int failure = errno;

        tunnel_format_address(bind_to, text);
        return vn_fail_ptr(err, failure, "bind the tunnel to %s", text);
    }
    set_options(t->fd, family);
    t->events = events;
    t->context = context;
    t->send_memory = vn_alloc(BATCH * SLOT_SIZE);
    t->receive_memory = vn_alloc(BATCH * SLOT_SIZE);
    for (unsigned i = 0; i < BATCH; i++)
        t->slots[i].data = t->send_memory + i * SLOT_SIZE;
    t->readable = event_new(base, t->fd, EV_READ | EV_PERSIST, on_readable, t);
    if (!t->readable || event_add(t->readable, NULL))
        return vn_fail_ptr(err, ENOMEM, "watch the tunnel socket");
    return vn_steal(&t);
}

void tunnel_free(struct tunnel *t)
{
    if (!t)
        return;
    if (t->readable)
        event_free(t->readable);
    if (t->fd >= 0)
        close(t->fd);
    free(t->send_memory);
    free(t->receive_memory);
    free(t);
}

void tunnel_address(const struct tunnel *t, union tunnel_address *ret)
{
    socklen_t size = sizeof(*ret);

    memset(ret, 0, sizeof(*ret));
    (void)getsockname(t->fd, &ret->any, &size);
}

void tunnel_counts(const struct tunnel *t, struct tunnel_counts *ret)
{
    *ret = t->counts;
}
