/* Packet ports: order, isolation, settling, what an interface can do wrong. */
#include "port_bench.h"

#include "violin/network.h"

#include <linux/virtio_net.h>
#include <netinet/in.h>
#include <netinet/udp.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

/* ---- frames ------------------------------------------------------------ */

static void test_both_ways(void **state)
{
    uint8_t got[2048];

    (void)state;
    for (uint32_t i = 0; i < 100; i++)
        vm_sends(i);
    RUN_UNTIL(bench.count == 100);
    number_frame(got, 99);
    assert_int_equal(bench.last_size, 64);
    assert_memory_equal(bench.last, got, 64);
    for (uint32_t i = 0; i < 1000; i++)
        port_sends(i);
    for (uint32_t i = 0; i < 1000; i++)
        vm_expects(i);
    RUN_UNTIL(port_is_settled(bench.port, clock_now_ns()));
    run_ms(20);
    assert_int_equal(bench.count, 100); /* nothing of our own came back */
    assert_int_equal(vm_receive(got, sizeof(got), 0), -1);
    assert_int_equal(counts().rx_frames, 100);
    assert_int_equal(counts().tx_frames, 1000);
    assert_int_equal(counts().tx_bytes, 64000);
    assert_int_equal(counts().rx_dropped + counts().rx_malformed, 0);
    assert_int_equal(counts().tx_dropped + counts().tx_waiting, 0);
    assert_string_equal(port_kind(bench.port), "packet");
}

static void test_drain(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 5000; i++)
        vm_sends(i);
    port_drain(bench.port);
    assert_int_equal(bench.count, 5000);
}

/* The kernel takes tags out of frames; they must be in again. */
static void test_vlan_tags(void **state)
{
    static const uint8_t tags[] = {0x88, 0xa8, 0x20, 5, 0x81, 0, 0xe0, 6};
    uint8_t frame[80];

    (void)state;
    for (size_t size = 4; size <= 8; size += 4) {
        memset(frame, 0, sizeof(frame));
        number_frame(frame + size, 7);
        memmove(frame, frame + size, 12);
        memcpy(frame + 12, tags + 8 - size, size);
        bench.count = 0;
        assert_int_equal(send(bench.vm, frame, 64 + size, 0), 64 + size);
        RUN_UNTIL(bench.count == 1);
        assert_int_equal(bench.last_size, 64 + size);
        assert_memory_equal(bench.last, frame, 64 + size);
    }
}

static void test_too_long(void **state)
{
    static uint8_t frame[1600];

    (void)state;
    number_frame(frame, 1);
    port_send(bench.port, frame, sizeof(frame));
    assert_int_equal(counts().tx_dropped, 1);
    port_sends(2);
    RUN_UNTIL(counts().tx_waiting == 0);
    vm_expects(2);
}

/* ---- without a carrier ------------------------------------------------- */

static void test_order_across_a_missing_carrier(void **state)
{
    uint64_t up_ns;

    (void)state;
    make_port(); /* the VM's end is still down */
    bench.vm = vm_socket();
    for (uint32_t i = 0; i < 500; i++)
        port_sends(i);
    run_ms(100);
    assert_int_equal(counts().tx_waiting, 500);
    assert_int_equal(counts().tx_frames, 0);
    assert_false(port_is_settled(bench.port, clock_now_ns()));
    vm_sh("ip link set eth0 up");
    up_ns = clock_now_ns();
    RUN_UNTIL(counts().tx_waiting == 0);
    print_message("frames flow %.1f ms after the carrier came\n",
                  (double)(clock_now_ns() - up_ns) / 1e6);
    vm_sh("ip link set eth0 down");
    for (uint32_t i = 500; i < 1000; i++)
        port_sends(i);
    run_ms(50);
    assert_int_equal(counts().tx_waiting, 500);
    vm_sh("ip link set eth0 up");
    RUN_UNTIL(counts().tx_waiting == 0);
    for (uint32_t i = 0; i < 1000; i++)
        vm_expects(i);
    /* Attempts without a carrier were counted by the interface too. */
    RUN_UNTIL(port_is_settled(bench.port, clock_now_ns()));
    assert_int_equal(counts().tx_frames, 1000);
    assert_int_equal(counts().tx_dropped, 0);
}

/* Somebody takes the interface itself down. */
static void test_order_across_a_down_interface(void **state)
{
    (void)state;
    sh("ip link set vif down");
    for (uint32_t i = 0; i < 100; i++)
        port_sends(i);
    run_ms(30);
    assert_int_equal(counts().tx_waiting, 100);
    sh("ip link set vif up");
    RUN_UNTIL(counts().tx_waiting == 0);
    for (uint32_t i = 0; i < 100; i++)
        vm_expects(i);
    vm_sends(5); /* and it is still read */
    RUN_UNTIL(bench.count == 1);
    RUN_UNTIL(port_is_settled(bench.port, clock_now_ns()));
    assert_int_equal(counts().tx_dropped, 0);
}

static void test_interface_vanishes(void **state)
{
    (void)state;
    sh("ip link set vif down");
    port_sends(1);
    assert_int_equal(counts().tx_waiting, 1);
    sh("ip link del vif");
    RUN_UNTIL(counts().tx_waiting == 0);
    for (uint32_t i = 0; i < 10; i++)
        port_sends(i);
    assert_int_equal(counts().tx_dropped, 11);
    assert_true(port_is_settled(bench.port, clock_now_ns()));
    port_drain(bench.port);
    assert_int_equal(bench.count, 0);
}

/* ---- losses ------------------------------------------------------------ */

static void test_lost_frames_are_counted(void **state)
{
    const uint32_t count = 400000; /* more than the socket holds */
    uint64_t taken;

    (void)state;
    for (uint32_t i = 0; i < count; i++)
        vm_sends(i);
    for (int i = 0; i < 4; i++)
        port_drain(bench.port);
    taken = counts().rx_frames;
    assert_int_equal(taken, bench.count);
    assert_true(taken > 50000 && taken < count);
    assert_int_equal(counts().rx_dropped, count - taken);
    assert_int_equal(counts().rx_dropped, count - taken); /* asked again */
}

/* A network whose loop stands still while its VM floods it. */
static void test_losses_show_in_the_report(void **state)
{
    static const struct tunnel_events no_events;
    union tunnel_address address;
    struct network_port *port;
    struct tunnel *tunnel;
    struct network *net;
    json_t *report;
    long dropped;

    (void)state;
    sh("ip link set lo up");
    port_free(bench.port);
    bench.port = NULL;
    assert_int_equal(tunnel_parse_address("127.0.0.1:0", &address, &bench.err),
                     0);
    tunnel = tunnel_new(bench.base, &address, &no_events, NULL, &bench.err);
    assert_non_null(tunnel);
    net = network_new(5, 1, bench.base, tunnel, NULL, NULL);
    port = network_port_new(net, "vm", &bench.err);
    assert_non_null(port);
    network_port_join(port,
                      port_new_packet(&bench.loop, "vif", &network_port_events,
                                      port, &bench.err),
                      false);
    assert_non_null(port->io);
    for (int round = 0; round < 2; round++) { /* first without a cut */
        assert_int_equal(network_arm(net, 2 + (uint32_t)round, net, &bench.err),
                         0);
        for (uint32_t i = 0; round == 1 && i < 400000; i++)
            vm_sends(i);
        assert_int_equal(network_cut(net, &port, 1, &bench.err), 0);
        report = network_report(net);
        dropped =
            (long)json_integer_value(json_object_get(report, "frames_dropped"));
        assert_int_equal(dropped > 0, round == 1);
        assert_int_equal(json_is_true(json_object_get(report, "lossless")),
                         round == 0);
        json_decref(report);
        assert_int_equal(network_finish(net, 2 + (uint32_t)round, &bench.err),
                         0);
    }
    assert_int_equal(network_arm(net, 4, net, &bench.err), 0);
    report = network_report(net);
    assert_true(json_is_true(json_object_get(report, "lossless")));
    json_decref(report);
    network_free(net);
    tunnel_free(tunnel);
}

/* Segmentation of UDP is nothing that a vif does, or that we know. */
static void test_unknown_offload(void **state)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons(9),
                             .sin_addr = {htonl(0x0a630001)}};
    static char data[5000];
    int fd, segment = 1000;

    (void)state;
    vm_sh("ip addr add 10.99.0.2/24 dev eth0 && ip neigh add 10.99.0.1 lladdr "
          "02:00:00:00:00:01 dev eth0");
    in_namespace(vm_ns);
    fd = socket(AF_INET, SOCK_DGRAM, 0);
    in_namespace(host_ns);
    setsockopt(fd, SOL_UDP, UDP_SEGMENT, &segment, sizeof(segment));
    assert_int_equal(
        sendto(fd, data, sizeof(data), 0, (struct sockaddr *)&to, sizeof(to)),
        sizeof(data));
    close(fd);
    RUN_UNTIL(counts().rx_malformed == 1);
    assert_int_equal(bench.count, 0);
    port_sends(1); /* an error of reading must not touch what is sent */
    RUN_UNTIL(counts().tx_waiting == 0);
    vm_expects(1);
    vm_sends(2);
    RUN_UNTIL(bench.count == 1);
}

/* ---- isolation --------------------------------------------------------- */

/* An ARP request for `address`, padded. */
static void vm_asks_for(uint32_t address)
{
    uint8_t frame[64] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0,
                         9,    8,    6,    0,    1,    8,    0, 6, 4, 0, 1};

    memcpy(frame + 22, frame + 6, 6);
    frame[28] = 10;
    frame[31] = 9;
    address = htonl(address);
    memcpy(frame + 38, &address, 4);
    assert_int_equal(send(bench.vm, frame, sizeof(frame), 0), sizeof(frame));
}

/* UDP to everybody, port 999. */
static void vm_shouts(void)
{
    uint8_t frame[64] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2,    0,  0,
                         0,    0,    9,    8,    0,    0x45, 0,    0,  32,
                         0,    1,    0,    0,    9,    17,   0,    0,  0,
                         0,    0,    0,    0xff, 0xff, 0xff, 0xff, 3,  0xe7,
                         3,    0xe7, 0,    12,   0,    0,    'h',  'i'};
    uint32_t sum = 0;

    for (int i = 14; i < 34; i += 2)
        sum += (uint32_t)frame[i] << 8 | frame[i + 1];
    sum = (sum & 0xffff) + (sum >> 16);
    frame[24] = (uint8_t)(~sum >> 8);
    frame[25] = (uint8_t)~sum;
    assert_int_equal(send(bench.vm, frame, sizeof(frame), 0), sizeof(frame));
}

static int host_listener(void)
{
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(999)};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    assert_int_equal(bind(fd, (struct sockaddr *)&here, sizeof(here)), 0);
    return fd;
}

/* Send from the host as its stack does, through the interface's queue. */
static void host_sends(void)
{
    struct sockaddr_ll to = {.sll_family = AF_PACKET,
                             .sll_ifindex = (int)if_nametoindex("vif")};
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    uint8_t frame[64];

    number_frame(frame, 666);
    (void)!sendto(fd, frame, sizeof(frame), 0, (struct sockaddr *)&to,
                  sizeof(to));
    close(fd);
}

static void test_the_host_keeps_out(void **state)
{
    vn_auto(close) int fd = -1;
    char got[2048];

    (void)state;
    sh("ip link set lo up; ip addr add 10.77.0.1/24 dev lo; "
       "echo 0 >/proc/sys/net/ipv6/conf/all/disable_ipv6; "
       "echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter; "
       "echo 0 >/proc/sys/net/ipv4/conf/default/rp_filter");
    fd = host_listener();
    make_port();
    vm_sh("ip link set eth0 up");
    bench.vm = vm_socket();
    vm_asks_for(0x0a4d0001);
    vm_shouts();
    RUN_UNTIL(bench.count == 2); /* both came to the switch */
    host_sends();
    run_ms(1500); /* a router solicitation, reports of groups */
    assert_int_equal(vm_receive((uint8_t *)got, sizeof(got), 0), -1);
    assert_int_equal(recv(fd, got, sizeof(got), 0), -1);
    assert_int_equal(counts().rx_frames, 2);
}

/* The listener above does hear, were it not for the port. */
static void test_the_host_without_a_port(void **state)
{
    vn_auto(close) int fd = -1;
    uint8_t got[2048];

    (void)state;
    sh("ip link set lo up; ip link set vif up; ip addr add 10.77.0.1/24 dev lo "
       "2>/dev/null; ip addr add 10.78.0.1/24 dev vif");
    fd = host_listener();
    vm_sh("ip link set eth0 up");
    bench.vm = vm_socket();
    vm_shouts();
    RUN_UNTIL(recv(fd, got, sizeof(got), 0) >= 0);
    /* Again and again: its answer is lost while it makes its queue ready. */
    RUN_UNTIL(({
        ssize_t size;

        vm_asks_for(0x0a4d0001);
        do { /* it may send for itself before */
            size = vm_receive(got, sizeof(got), 100);
        } while (size > 0 && (got[12] != 8 || got[13] != 6));
        size > 0;
    }));
}

static void refused(const char *interface, int code, const char *part)
{
    bench.port = port_new_packet(&bench.loop, interface, &bench_events, NULL,
                                 &bench.err);
    assert_null(bench.port);
    if (bench.err.code != code || !strstr(bench.err.msg, part))
        fail_msg("%d %s", bench.err.code, bench.err.msg);
}

static bool can_make_bridges(void)
{
    return system("ip link add br0 type bridge 2>/dev/null") == 0;
}

static void test_refusals(void **state)
{
    (void)state;
    refused("", VN_E_LIMIT, "interface name ''");
    refused("sixteen-letters!", VN_E_LIMIT, "sixteen-letters!");
    refused("../vif", VN_E_LIMIT, "../vif");
    refused("..", VN_E_LIMIT, "'..'");
    refused("nothing", ENODEV, "interface 'nothing'");
    sh("ip addr add 10.1.2.3/24 dev vif");
    refused("vif", VN_E_STATE, "'vif' has an IPv4 address");
    sh("ip addr del 10.1.2.3/24 dev vif");
    if (system("ip link add link vif name upper type macvlan 2>/dev/null") ==
        0) {
        refused("vif", VN_E_STATE, "'vif' has 'upper' on top of it");
        sh("ip link del upper");
    }
    if (can_make_bridges()) {
        sh("ip link set vif master br0");
        refused("vif", VN_E_STATE, "'vif' is in bridge 'br0'");
        sh("ip link del br0");
    } else {
        print_message("no bridges here: their refusal was not tried\n");
    }
    refused("lo", VN_E_STATE, "'lo' has an IPv4 address");
    make_port(); /* and now it does */
    port_free(bench.port);
    make_port(); /* again, over what is left of the first */
}

static void test_sys_of_another_namespace(void **state)
{
    (void)state;
    in_namespace(vm_ns);
    sh("ip link add only-here type veth peer name other-end");
    refused("only-here", ENOENT, "/sys/class/net/only-here");
    sh("ip link del only-here; ip link add vif type veth peer name other-end");
    refused("vif", VN_E_STATE, "another network namespace");
    sh("ip link del vif");
}

static void test_one_queue(void **state)
{
    char text[64] = "";
    int fd = open("/sys/class/net/vif/queues/tx-0/xps_cpus", O_RDONLY);

    (void)state;
    assert_true(fd >= 0 && read(fd, text, sizeof(text) - 1) > 0);
    close(fd);
    assert_true(strspn(text, "0,\n") < strlen(text));
}

int main(void)
{
    int rc = enter_namespaces();
#define TEST(name)                                                             \
    cmocka_unit_test_setup_teardown(name, port_setup, port_teardown)
#define BARE(name)                                                             \
    cmocka_unit_test_setup_teardown(name, veth_setup, port_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_both_ways),
        TEST(test_drain),
        TEST(test_vlan_tags),
        TEST(test_too_long),
        BARE(test_order_across_a_missing_carrier),
        TEST(test_order_across_a_down_interface),
        TEST(test_interface_vanishes),
        TEST(test_lost_frames_are_counted),
        TEST(test_losses_show_in_the_report),
        TEST(test_unknown_offload),
        BARE(test_the_host_keeps_out),
        BARE(test_the_host_without_a_port),
        BARE(test_refusals),
        BARE(test_sys_of_another_namespace),
        TEST(test_one_queue),
    };

    return rc ? rc : cmocka_run_group_tests(tests, NULL, NULL);
}
