/*
 * The oracle's network: one TCP connection and UDP with every peer.
 *
 * One thread, one poll loop. Ports: TCP 7000 (the lower id connects), UDP
 * 7001. A pair is up once its TCP connection stands; nothing is numbered
 * before, so a slow boot is no loss. From then on its end is a violation.
 *
 * Load: every tick (1 / messages_per_s) one TCP and one UDP message to each
 * peer that is up, every tenth tick one broadcast once all are up. Nothing
 * here overflows by itself: TCP has its window, UDP at most UDP_WINDOW
 * unacknowledged messages a peer. UDP is never sent again, so what the
 * network loses stays lost and is counted by the receiver. Acknowledgements
 * are cumulative, ride on messages, and go alone after IDLE_NS of silence, so
 * a lost one costs nothing. A window that stays shut for SHUT_NS is opened by
 * SKIP (message.c).
 *
 * Nothing is sent over UDP while our own interface has no carrier: the kernel
 * throws such datagrams away and says "sent". That is so for a moment after a
 * Xen domain's restore, when its netfront connects anew; a datagram that never
 * left its guest is no question about networks or snapshots either.
 *
 * The peer's Ethernet address is learnt by ARP once and then pinned: whether
 * a neighbour entry times out is no question about snapshots.
 *
 * All times are CLOCK_MONOTONIC of the guest, which stands while it stands.
 */

#include "message.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define TCP_PORT       7000
#define UDP_PORT       7001
#define UDP_WINDOW     16u
#define NS_PER_MS      1000000ull
#define RETRY_NS       (300 * NS_PER_MS)
#define IDLE_NS        (200 * NS_PER_MS)
#define SHUT_NS        (5000 * NS_PER_MS)
#define LINK_NS        (200 * NS_PER_MS)
#define WARM_UP_NS     (3000 * NS_PER_MS) /* before gaps are measured */
#define BROADCAST_TICK 10u
#define SOCKET_BUFFER  (4 << 20)

enum peer_state { PEER_WAITING, PEER_CONNECTING, PEER_UP, PEER_LOST };

struct peer {
    unsigned id;
    enum peer_state state;
    int fd; /* TCP; -1 when there is none */
    uint64_t retry_ns;
    struct channel tcp, udp, broadcast;
    unsigned char in[2 * MESSAGE_MAX], out[MESSAGE_MAX];
    size_t in_size, out_size, out_at;
    uint64_t udp_sent_ns;     /* any UDP to it, for idle acknowledgements */
    uint64_t udp_progress_ns; /* the window moved, or was empty */
    uint64_t udp_acked;
};

static struct peer peers[ORACLE_PEERS_MAX + 1];
static struct channel own_broadcast = {.kind = ORACLE_BROADCAST};
static int listener, udp;

static struct sockaddr_in address_of(unsigned id, uint16_t port)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port)};

    in.sin_addr.s_addr = id ? htonl(0x0a4d0000u + id) : INADDR_ANY;
    return in;
}

/* Which peer an address belongs to; 0: none. */
static unsigned peer_of(const struct sockaddr_in *in)
{
    uint32_t id = ntohl(in->sin_addr.s_addr) - 0x0a4d0000u;

    return id <= oracle_opts.peers && id != oracle_opts.id ? id : 0;
}

static int bound_socket(int type, uint16_t port)
{
    struct sockaddr_in in = address_of(0, port);
    int on = 1, size = SOCKET_BUFFER;
    int fd = socket(AF_INET, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) ||
        bind(fd, (struct sockaddr *)&in, sizeof(in))) {
        printf("ORACLE-FATAL port %u: %s\n", port, strerror(errno));
        exit(1);
    }
    if (type == SOCK_DGRAM) {
        setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &on, sizeof(on));
        setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
    }
    return fd;
}

static void pin_address(unsigned id)
{
    struct arpreq request = {.arp_dev = "eth0"};
    struct sockaddr_in in = address_of(id, 0);

    memcpy(&request.arp_pa, &in, sizeof(in));
    if (ioctl(udp, SIOCGARP, &request) || !(request.arp_flags & ATF_COM))
        return; /* it stays a normal entry */
    request.arp_flags = ATF_COM | ATF_PERM;
    ioctl(udp, SIOCSARP, &request);
}

/* ---- TCP ----------------------------------------------------------------- */

static void peer_up(struct peer *peer, int fd, uint64_t now)
{
    int on = 1;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    peer->fd = fd;
    peer->state = PEER_UP;
    peer->udp_progress_ns = peer->udp_sent_ns = now;
    pin_address(peer->id);
    oracle_counts.peers_up++;
}

static void peer_lost(struct peer *peer, const char *why)
{
    oracle_violation(&oracle_counts.tcp_reset, "TCP with %u: %s", peer->id,
                     why);
    close(peer->fd);
    peer->fd = -1;
    peer->state = PEER_LOST;
    oracle_counts.peers_up--;
}

static void begin_connect(struct peer *peer)
{
    struct sockaddr_in in = address_of(peer->id, TCP_PORT);
    int tries = 4; /* of SYN: some 15 s */

    peer->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(peer->fd, IPPROTO_TCP, TCP_SYNCNT, &tries, sizeof(tries));
    peer->state = PEER_CONNECTING;
    /* An error shows in end_connect() as well. */
    (void)!connect(peer->fd, (struct sockaddr *)&in, sizeof(in));
}

static void end_connect(struct peer *peer, uint64_t now)
{
    int error = 0;
    socklen_t size = sizeof(error);

    getsockopt(peer->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (!error) {
        peer_up(peer, peer->fd, now);
        return;
    }
    close(peer->fd); /* not there yet */
    peer->fd = -1;
    peer->state = PEER_WAITING;
    peer->retry_ns = now + RETRY_NS;
}

static void accept_peers(uint64_t now)
{
    struct sockaddr_in from;
    socklen_t size = sizeof(from);
    int fd;

    while ((fd = accept4(listener, (struct sockaddr *)&from, &size,
                         SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        unsigned id = peer_of(&from);

        if (id && id < oracle_opts.id && peers[id].state == PEER_WAITING) {
            peer_up(&peers[id], fd, now);
        } else {
            oracle_violation(&oracle_counts.tcp_reset,
                             "a second TCP connection from %u", id);
            close(fd);
        }
        size = sizeof(from);
    }
}

static void tcp_flush(struct peer *peer)
{
    ssize_t done;

    while (peer->out_at < peer->out_size) {
        done = send(peer->fd, peer->out + peer->out_at,
                    peer->out_size - peer->out_at, MSG_NOSIGNAL);
        if (done < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (done < 0) {
            peer_lost(peer, strerror(errno));
            return;
        }
        peer->out_at += (size_t)done;
    }
    peer->out_at = peer->out_size = 0;
}

static void tcp_send(struct peer *peer)
{
    if (peer->out_size)
        return; /* the last one is still going out: TCP's own window */
    peer->out_size = message_build(&peer->tcp, peer->out);
    message_sent(&peer->tcp, peer->out);
    tcp_flush(peer);
}

/* Take whole messages out of the input; false: the stream is broken. */
static bool tcp_parse(struct peer *peer)
{
    struct message_head head;
    size_t at = 0;

    while (peer->in_size - at >= sizeof(head)) {
        memcpy(&head, peer->in + at, sizeof(head));
        if (head.size > MESSAGE_MAX || head.size < sizeof(head)) {
            oracle_violation(&oracle_counts.forged,
                             "TCP from %u: a message of %u bytes", peer->id,
                             head.size);
            return false;
        }
        if (peer->in_size - at < head.size)
            break;
        if (!message_check_form(peer->in + at, head.size, peer->id) ||
            head.type != MESSAGE_TCP)
            return false;
        message_take(&peer->tcp, peer->in + at);
        at += head.size;
    }
    memmove(peer->in, peer->in + at, peer->in_size - at);
    peer->in_size -= at;
    return true;
}

static void tcp_receive(struct peer *peer)
{
    for (;;) {
        ssize_t got = recv(peer->fd, peer->in + peer->in_size,
                           sizeof(peer->in) - peer->in_size, 0);

        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (got <= 0) {
            peer_lost(peer, got ? strerror(errno) : "closed by the peer");
            return;
        }
        peer->in_size += (size_t)got;
        if (!tcp_parse(peer)) {
            peer_lost(peer, "stream out of step");
            return;
        }
    }
}

/* ---- UDP ----------------------------------------------------------------- */

/* A number in the interface's folder; -1: none. */
static long link_value(int *fd, const char *path)
{
    char text[16] = "";

    if (*fd < 0)
        *fd = open(path, O_RDONLY | O_CLOEXEC);
    if (*fd < 0 || pread(*fd, text, sizeof(text) - 1, 0) <= 0)
        return -1;
    return strtol(text, NULL, 10);
}

/* There is a carrier, and for long enough that the kernel has noticed: it
 * gives the interface its queue back a moment after the carrier came. */
static bool link_is_up(void)
{
    static int carrier_fd = -1, changes_fd = -1;
    static long changes = -1;
    static uint64_t changed_ns;
    long now = link_value(&changes_fd, "/sys/class/net/eth0/carrier_changes");

    if (now != changes)
        changed_ns = oracle_now_ns();
    changes = now;
    return link_value(&carrier_fd, "/sys/class/net/eth0/carrier") != 0 &&
           oracle_now_ns() - changed_ns > LINK_NS;
}

/* False: try again later. */
static bool udp_send(unsigned to, const unsigned char *buffer, size_t size)
{
    struct sockaddr_in in = address_of(to, UDP_PORT);

    return link_is_up() && sendto(udp, buffer, size, 0, (struct sockaddr *)&in,
                                  sizeof(in)) == (ssize_t)size;
}

static void udp_send_data(struct peer *peer, uint64_t now)
{
    unsigned char buffer[MESSAGE_MAX];
    size_t size;

    if (peer->udp.sent - peer->udp.acked >= UDP_WINDOW)
        return;
    size = message_build(&peer->udp, buffer);
    if (!udp_send(peer->id, buffer, size))
        return; /* the same number goes out later */
    message_sent(&peer->udp, buffer);
    peer->udp_sent_ns = now;
}

/* What needs no message: idle acknowledgements, shut windows. */
static void udp_tend(struct peer *peer, uint64_t now)
{
    unsigned char buffer[MESSAGE_MAX];
    enum message_type type = MESSAGE_ACK;

    if (peer->udp.acked != peer->udp_acked ||
        peer->udp.acked == peer->udp.sent) {
        peer->udp_acked = peer->udp.acked;
        peer->udp_progress_ns = now;
    }
    if (now - peer->udp_sent_ns < IDLE_NS)
        return;
    if (now - peer->udp_progress_ns > SHUT_NS)
        type = MESSAGE_SKIP;
    udp_send(peer->id, buffer, message_build_control(&peer->udp, type, buffer));
    peer->udp_sent_ns = now;
}

static void send_broadcast(void)
{
    unsigned char buffer[MESSAGE_MAX];
    size_t size = message_build(&own_broadcast, buffer);

    if (udp_send(255, buffer, size)) /* 10.77.0.255 */
        message_sent(&own_broadcast, buffer);
}

static void udp_receive(void)
{
    unsigned char buffer[MESSAGE_MAX];
    struct sockaddr_in from;
    socklen_t size = sizeof(from);
    ssize_t got;

    while ((got = recvfrom(udp, buffer, sizeof(buffer), 0,
                           (struct sockaddr *)&from, &size)) >= 0) {
        unsigned id = peer_of(&from);
        struct message_head head;

        size = sizeof(from);
        if (!id)
            continue; /* our own broadcast comes back to us */
        if (!message_check_form(buffer, (size_t)got, id))
            continue;
        memcpy(&head, buffer, sizeof(head));
        if (head.type == MESSAGE_TCP)
            oracle_violation(&oracle_counts.forged, "TCP over UDP from %u", id);
        else
            message_take(head.type == MESSAGE_BROADCAST ? &peers[id].broadcast
                                                        : &peers[id].udp,
                         buffer);
    }
}

/* ---- the loop ------------------------------------------------------------ */

static void tick(unsigned number, uint64_t now)
{
    for (unsigned i = 1; i <= oracle_opts.peers; i++) {
        if (peers[i].state != PEER_UP)
            continue;
        tcp_send(&peers[i]);
        if (peers[i].state == PEER_UP)
            udp_send_data(&peers[i], now);
    }
    if (number % BROADCAST_TICK == 0 &&
        oracle_counts.peers_up == oracle_opts.peers - 1)
        send_broadcast();
}

static nfds_t watch(struct pollfd *polls)
{
    nfds_t count = 2;

    polls[0] = (struct pollfd){.fd = listener, .events = POLLIN};
    polls[1] = (struct pollfd){.fd = udp, .events = POLLIN};
    for (unsigned i = 1; i <= oracle_opts.peers; i++) {
        short events = POLLIN;

        if (peers[i].state == PEER_CONNECTING || peers[i].out_size)
            events |= POLLOUT;
        /* A negative descriptor is skipped by poll(). */
        polls[count++] = (struct pollfd){.fd = peers[i].fd, .events = events};
    }
    return count;
}

static void serve(const struct pollfd *polls, uint64_t now)
{
    udp_receive();
    for (unsigned i = 1; i <= oracle_opts.peers; i++) {
        struct peer *peer = &peers[i];
        short events = polls[i + 1].revents;

        if (peer->state == PEER_WAITING && i > oracle_opts.id &&
            now >= peer->retry_ns)
            begin_connect(peer);
        else if (peer->state == PEER_CONNECTING && events)
            end_connect(peer, now);
        if (peer->state == PEER_UP && (events & (POLLIN | POLLERR | POLLHUP)))
            tcp_receive(peer);
        if (peer->state == PEER_UP && peer->out_size)
            tcp_flush(peer);
        if (peer->state == PEER_UP)
            udp_tend(peer, now);
    }
    if (polls[0].revents)
        accept_peers(now);
}

static void setup(void)
{
    udp = bound_socket(SOCK_DGRAM, UDP_PORT);
    listener = bound_socket(SOCK_STREAM, TCP_PORT);
    listen(listener, ORACLE_PEERS_MAX);
    for (unsigned i = 1; i <= ORACLE_PEERS_MAX; i++) {
        struct peer *peer = &peers[i];

        peer->id = i;
        peer->fd = -1;
        peer->state = i == oracle_opts.id ? PEER_LOST : PEER_WAITING;
        peer->tcp = (struct channel){.kind = ORACLE_TCP, .peer = i};
        peer->udp = (struct channel){.kind = ORACLE_UDP, .peer = i};
        peer->broadcast = (struct channel){.kind = ORACLE_BROADCAST};
    }
}

void *oracle_net_run(void *unused)
{
    struct pollfd polls[ORACLE_PEERS_MAX + 2];
    uint64_t rate = oracle_opts.messages_per_s;
    uint64_t period = rate ? 1000 * NS_PER_MS / rate : UINT64_MAX / 4;
    uint64_t now = oracle_now_ns(), next = now, start = now, last = now;

    (void)unused;
    setup();
    for (unsigned number = 0;;) {
        uint64_t wait = now >= next ? 0 : (next - now) / NS_PER_MS + 1;

        if (wait > IDLE_NS / NS_PER_MS)
            wait = IDLE_NS / NS_PER_MS;
        poll(polls, watch(polls), (int)wait);
        now = oracle_now_ns();
        if (now - start > WARM_UP_NS &&
            (now - last) / NS_PER_MS > oracle_counts.gap_ms_max)
            oracle_counts.gap_ms_max = (now - last) / NS_PER_MS;
        last = now;
        serve(polls, now);
        if (rate && now >= next) {
            tick(number++, now);
            next += period;
            if (next + 4 * period < now)
                next = now + period; /* no burst after a pause */
        }
    }
}
