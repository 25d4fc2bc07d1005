/*
 * TCP between a VM whose card takes segmentation and checksums from it, and a
 * machine that knows plain frames only: a TAP in a third namespace, whose
 * stack checks every checksum. The test is the cable between port and TAP.
 */
#include "port_bench.h"

#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <netinet/in.h>
#include <sys/ioctl.h>

#define BYTES (4u << 20)

static struct {
    int peer_ns, tap;
    struct event *readable;
    int watch;                 /* sees frames as the port's socket does */
    size_t long_frames, plain; /* wanting segmentation; that came of it */
    size_t largest;
    int listener, client, server; /* of TCP */
} t = {.peer_ns = -1};

/* ---- the cable --------------------------------------------------------- */

static uint32_t words(uint32_t sum, const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++)
        sum += i % 2 ? data[i] : (uint32_t)data[i] << 8;
    return sum;
}

static uint32_t fold(uint32_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

static void check_tcp(const uint8_t *ip, size_t size, size_t l4, bool ipv6)
{
    uint32_t sum = ipv6 ? words(0, ip + 8, 32) : words(0, ip + 12, 8);
    size_t said = ipv6 ? 40u + ((size_t)ip[4] << 8 | ip[5])
                       : ((size_t)ip[2] << 8 | ip[3]);

    assert_true(said >= l4 + 20 && said <= size && said <= 1500);
    assert_true(ipv6 || fold(words(0, ip, l4)) == 0xffff);
    sum = words(sum + 6 + (uint32_t)(said - l4), ip + l4, said - l4);
    assert_int_equal(fold(sum), 0xffff);
    if (said > t.largest)
        t.largest = said;
    t.plain++;
}

static void to_tap(const uint8_t *frame, size_t size)
{
    const uint8_t *ip = frame + 14;

    assert_true(size <= 1514);
    if (frame[12] == 8 && frame[13] == 0 && ip[9] == 6)
        check_tcp(ip, size - 14, (ip[0] & 15u) * 4u, false);
    else if (frame[12] == 0x86 && frame[13] == 0xdd && ip[6] == 6)
        check_tcp(ip, size - 14, 40, true);
    assert_true(write(t.tap, frame, size) == (ssize_t)size);
}

static void from_tap(evutil_socket_t fd, short what, void *arg)
{
    uint8_t frame[2048];
    ssize_t got;

    (void)what;
    (void)arg;
    while ((got = read(fd, frame, sizeof(frame))) > 0)
        port_send(bench.port, frame, (size_t)got);
}

/* ---- set up ------------------------------------------------------------ */

static int open_tap(void)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);

    strcpy(request.ifr_name, "peer");
    if (fd >= 0 && ioctl(fd, TUNSETIFF, &request)) {
        close(fd);
        return -1;
    }
    return fd;
}

/* Beside the port, on the same interface. */
static int open_watch(void)
{
    struct sockaddr_ll address = {.sll_family = AF_PACKET,
                                  .sll_protocol = htons(ETH_P_ALL)};
    int one = 1, size = 64 << 20;
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    address.sll_ifindex = (int)if_nametoindex("vif");
    setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof(one));
    setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof(one));
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

static void look(void)
{
    struct virtio_net_hdr head;

    while (recv(t.watch, &head, sizeof(head), MSG_TRUNC) > 0)
        t.long_frames += head.gso_type != VIRTIO_NET_HDR_GSO_NONE;
}

static int tcp_setup(void **state)
{
    memset(&t, 0, sizeof(t));
    t.listener = t.client = t.server = t.watch = -1;
    t.peer_ns = new_namespace();
    t.tap = open_tap();
    if (t.tap >= 0)
        sh("ip link set peer up; ip addr add 10.99.0.1/24 dev peer; "
           "ip addr add fd99::1/64 dev peer nodad");
    in_namespace(host_ns);
    if (port_setup(state))
        return -1;
    vm_sh("echo 0 >/proc/sys/net/ipv6/conf/eth0/disable_ipv6; "
          "ip addr add 10.99.0.2/24 dev eth0; "
          "ip addr add fd99::2/64 dev eth0 nodad");
    bench.on_frame = to_tap;
    t.watch = open_watch();
    if (t.tap < 0)
        return 0;
    t.readable =
        event_new(bench.base, t.tap, EV_READ | EV_PERSIST, from_tap, NULL);
    return event_add(t.readable, NULL);
}

static int tcp_teardown(void **state)
{
    const int fds[] = {t.tap,    t.watch,  t.listener,
                       t.client, t.server, t.peer_ns};

    if (t.readable)
        event_free(t.readable);
    for (size_t i = 0; i < VN_COUNT(fds); i++) {
        if (fds[i] >= 0)
            close(fds[i]);
    }
    return port_teardown(state);
}

/* ---- TCP --------------------------------------------------------------- */

static int tcp_socket(int ns, int family)
{
    int fd;

    in_namespace(ns);
    fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    in_namespace(host_ns);
    assert_true(fd >= 0);
    return fd;
}

static void tcp_connect(int family)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET,
                             .sin_port = htons(80),
                             .sin_addr = {htonl(0x0a630001)}};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(80)};
    const struct sockaddr *to =
        family == AF_INET ? (struct sockaddr *)&v4 : (struct sockaddr *)&v6;
    socklen_t size = family == AF_INET ? sizeof(v4) : sizeof(v6);

    inet_pton(AF_INET6, "fd99::1", &v6.sin6_addr);
    t.listener = tcp_socket(t.peer_ns, family);
    assert_int_equal(bind(t.listener, to, size), 0);
    assert_int_equal(listen(t.listener, 1), 0);
    t.client = tcp_socket(vm_ns, family);
    assert_true(connect(t.client, to, size) == 0 || errno == EINPROGRESS);
    RUN_UNTIL((t.server = accept4(t.listener, NULL, NULL, SOCK_NONBLOCK)) >= 0);
}

/* BYTES from one to the other, all as they were sent. */
static void transfer(int from, int to)
{
    static uint8_t data[65536], got[65536];
    uint64_t end_ns = clock_now_ns() + BENCH_WAIT_MS * VN_MS;
    size_t sent = 0, received = 0;

    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * 7 + i / 251);
    while (received < BYTES) {
        size_t at = sent % sizeof(data);
        ssize_t n =
            sent < BYTES ? send(from, data + at, sizeof(data) - at, 0) : 0;

        sent += n > 0 ? (size_t)n : 0;
        event_base_loop(bench.base, EVLOOP_NONBLOCK);
        at = received % sizeof(data);
        n = recv(to, got, sizeof(data) - at, 0);
        if (n > 0) {
            assert_memory_equal(got, data + at, (size_t)n);
            received += (size_t)n;
        }
        look();
        assert_true(clock_now_ns() < end_ns);
    }
}

static void check_family(int family, size_t headers)
{
    if (t.tap < 0) {
        print_message("no /dev/net/tun\n");
        skip();
    }
    tcp_connect(family);
    transfer(t.client, t.server);
    print_message("%zu frames to be segmented, %zu plain ones, up to %zu B\n",
                  t.long_frames, t.plain, t.largest);
    assert_true(t.long_frames > 10);
    assert_true(t.plain > BYTES / 1500);
    assert_int_equal(t.largest, 1500);                   /* full segments */
    assert_true(t.plain < 2 * BYTES / (1500 - headers)); /* none needlessly */
    transfer(t.server, t.client);
    assert_int_equal(counts().rx_malformed + counts().rx_dropped, 0);
    assert_int_equal(counts().tx_dropped, 0);
    RUN_UNTIL(port_is_settled(bench.port, clock_now_ns()));
}

static void test_ipv4(void **state)
{
    (void)state;
    check_family(AF_INET, 52);
}

static void test_ipv6(void **state)
{
    (void)state;
    check_family(AF_INET6, 72);
}

/* A UDP datagram whose checksum the VM leaves to its card. */
static void test_udp_checksum(void **state)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons(53),
                             .sin_addr = {htonl(0x0a630001)}};
    vn_auto(close) int server = -1;
    vn_auto(close) int client = -1;
    char got[100];

    (void)state;
    if (t.tap < 0) {
        print_message("no /dev/net/tun\n");
        skip();
    }
    in_namespace(t.peer_ns);
    server = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(server, (struct sockaddr *)&to, sizeof(to)), 0);
    in_namespace(vm_ns);
    client = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    in_namespace(host_ns);
    for (uint32_t i = 0; i < 100; i++) {
        assert_int_equal(sendto(client, &i, sizeof(i), 0,
                                (struct sockaddr *)&to, sizeof(to)),
                         sizeof(i));
        RUN_UNTIL(recv(server, got, sizeof(got), 0) == sizeof(i));
        assert_memory_equal(got, &i, sizeof(i));
    }
}

int main(void)
{
    int rc = enter_namespaces();
#define TEST(name)                                                             \
    cmocka_unit_test_setup_teardown(name, tcp_setup, tcp_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_ipv4),
        TEST(test_ipv6),
        TEST(test_udp_checksum),
    };

    return rc ? rc : cmocka_run_group_tests(tests, NULL, NULL);
}
