/* One violind: kinds of ports, slow VMs, refusals, hostile input. */
#include "daemon_bench.h"

#include "common/ctl.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/un.h>

#define A (&bench.hosts[0])

static int one_setup(void **state)
{
    if (bench_setup(state))
        return -1;
    host_start(A, 0);
    return 0;
}

static const char *const vm0[] = {"vm0"};

/* ---- ports ------------------------------------------------------------- */

/* A statistic of the port with that place in the list. */
static long port_number(size_t index, const char *key)
{
    const json_t *ports = json_object_get(bench_stats(A, NULL), "ports");

    return number_in(json_array_get(ports, index), key);
}

static void test_a_vm_that_does_not_read(void **state)
{
    const unsigned count = 30000; /* more than a socket takes */
    uint32_t unsettled;
    json_t *port;

    (void)state;
    add_vm(A, 0, false);
    add_vm(A, 1, false);
    for (unsigned i = 0; i < count; i++)
        vm_sends(A->vms[1], i); /* never blocks: the port is always read */
    OK(violin_arm(A->client, VNI, 2, &bench.err));
    OK(violin_hold(A->client, VNI, vm0, 1, 20, &unsettled, &bench.err));
    assert_int_equal(unsettled, 1);
    WAIT_UNTIL(port_number(1, "rx_frames") == count);
    port = json_array_get(json_object_get(bench_stats(A, NULL), "ports"), 0);
    assert_int_equal(
        number_in(port, "tx_frames") + number_in(port, "tx_waiting"), count);
    assert_true(number_in(port, "tx_waiting") > 0);
    assert_int_equal(number_in(port, "tx_dropped"), 0);
    for (unsigned i = 0; i < count; i++)
        vm_expects(A->vms[0], i);
    OK(violin_hold(A->client, VNI, vm0, 1, BENCH_WAIT_MS, &unsettled,
                   &bench.err));
    assert_int_equal(unsettled, 0);
}

static void test_settles_as_soon_as_it_is_read(void **state)
{
    uint64_t start_ns;
    uint32_t unsettled;

    (void)state;
    add_vm(A, 0, false);
    add_vm(A, 1, false);
    vm_sends(A->vms[1], 1);
    vm_expects(A->vms[0], 1);
    start_ns = clock_now_ns();
    OK(violin_hold(A->client, VNI, vm0, 1, BENCH_WAIT_MS, &unsettled,
                   &bench.err));
    assert_true(clock_now_ns() - start_ns < BENCH_WAIT_MS / 2 * VN_MS);
    assert_int_equal(unsettled, 0);
}

static void test_ports_come_and_go(void **state)
{
    int pair[2];

    (void)state;
    add_vm(A, 0, false);
    add_vm(A, 1, false);
    assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair), 0);
    FAILS(violin_port_add_fd(A->client, VNI, "vm0", pair[1], false, &bench.err),
          VN_E_EXISTS);
    OK(violin_port_del(A->client, VNI, "vm0", &bench.err));
    OK(violin_port_del(A->client, VNI, "vm0", &bench.err));
    OK(violin_port_add_fd(A->client, VNI, "vm0", pair[1], false, &bench.err));
    close(pair[1]);
    vm_sends(A->vms[1], 1);
    vm_expects(pair[0], 1);
    close(pair[0]); /* the VM dies: frames to it are dropped, no more */
    vm_sends(A->vms[1], 2);
    vm_sends(A->vms[1], 3);
    add_vm(A, 2, false);
    vm_sends(A->vms[1], 4);
    vm_expects(A->vms[2], 4);
}

static int unix_vm(const char *path, const char *to)
{
    struct sockaddr_un here = {.sun_family = AF_UNIX};
    struct sockaddr_un there = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    strcpy(here.sun_path, path);
    strcpy(there.sun_path, to);
    unlink(path);
    assert_int_equal(bind(fd, (struct sockaddr *)&here, sizeof(here)), 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&there, sizeof(there)), 0);
    return fd;
}

static void test_unix_port(void **state)
{
    vn_auto(free) char *local = vn_format("%s/port", bench.dir);
    vn_auto(free) char *remote = vn_format("%s/vm", bench.dir);

    (void)state;
    add_vm(A, 1, false);
    OK(violin_port_add_unix(A->client, VNI, "vm0", local, remote, false,
                            &bench.err));
    vm_sends(A->vms[1], 1); /* nobody there yet */
    WAIT_UNTIL(port_number(1, "tx_dropped") != 0);
    assert_int_equal(port_number(1, "tx_dropped"), 1);
    for (unsigned life = 0; life < 2; life++) { /* the VM may start again */
        A->vms[0] = unix_vm(remote, local);
        for (unsigned i = 0; i < 100; i++) /* more than one queue takes */
            vm_sends(A->vms[1], i);
        for (unsigned i = 0; i < 100; i++)
            vm_expects(A->vms[0], i);
        vm_sends(A->vms[0], 3);
        vm_expects(A->vms[1], 3);
        close(A->vms[0]);
        A->vms[0] = -1;
    }
    unlink(remote);
    FAILS(violin_port_add_unix(A->client, VNI, "vm3", local, remote, false,
                               &bench.err),
          EADDRINUSE);
    OK(violin_port_del(A->client, VNI, "vm0", &bench.err));
    assert_int_equal(access(local, F_OK), -1);
}

/* A raw socket on the TAP's kernel side plays the VM. */
static int tap_vm(const char *interface)
{
    struct sockaddr_ll address = {.sll_family = AF_PACKET,
                                  .sll_protocol = htons(0x88b5)};
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(0x88b5));

    address.sll_ifindex = (int)if_nametoindex(interface);
    assert_true(address.sll_ifindex > 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

static void test_tap_port(void **state)
{
    uint8_t frame[60] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0,
                         0,    0,    0,    9,    0x88, 0xb5, 1, 2};
    char name[IFNAMSIZ];
    uint8_t got[2048];
    uint32_t unsettled;
    int pid = getpid();

    (void)state;
    if (geteuid() != 0 || access("/dev/net/tun", R_OK | W_OK) != 0) {
        print_message("no root or no /dev/net/tun\n");
        skip();
    }
    snprintf(name, sizeof(name), "vnt%d", pid);
    add_vm(A, 1, false);
    OK(violin_port_add_tap(A->client, VNI, "vm0", name, false, &bench.err));
    bench.fd = tap_vm(name);
    assert_int_equal(send(A->vms[1], frame, sizeof(frame), 0), sizeof(frame));
    assert_int_equal(recv(bench.fd, got, sizeof(got), 0), sizeof(frame));
    assert_memory_equal(got, frame, sizeof(frame));
    frame[14] = 7;
    assert_int_equal(send(bench.fd, frame, sizeof(frame), 0), sizeof(frame));
    do { /* the kernel has frames of its own to send */
        assert_true(recv(A->vms[1], got, sizeof(got), 0) > 0);
    } while (got[12] != 0x88 || got[13] != 0xb5);
    assert_int_equal(got[14], 7);
    OK(violin_hold(A->client, VNI, vm0, 1, BENCH_WAIT_MS, &unsettled,
                   &bench.err));
    assert_int_equal(unsettled, 0);
    OK(violin_arm(A->client, VNI, 2, &bench.err));
    OK(violin_cut(A->client, VNI, vm0, 1, &bench.err));
    FAILS(violin_port_add_tap(A->client, VNI, "vm2", "much-too-long-a-name",
                              false, &bench.err),
          VN_E_LIMIT);
}

/* ---- refusals ---------------------------------------------------------- */

static void test_refusals(void **state)
{
    struct violin_peer peers[2] = {{"x", "127.0.0.9:1"}, {"y", "127.0.0.9:1"}};
    struct violin_report report;
    uint32_t unsettled;
    char name[80];

    (void)state;
    memset(name, 'n', sizeof(name));
    name[64] = 0;
    FAILS(violin_net_add(A->client, VNI, 1, &bench.err), VN_E_EXISTS);
    FAILS(violin_net_add(A->client, 0, 1, &bench.err), VN_E_FORMAT);
    FAILS(violin_net_add(A->client, 1 << 24, 1, &bench.err), VN_E_LIMIT);
    FAILS(violin_arm(A->client, VNI + 1, 1, &bench.err), VN_E_NOT_FOUND);
    FAILS(violin_arm(A->client, VNI, 1, &bench.err), VN_E_STATE);
    FAILS(violin_arm(A->client, VNI, UINT32_MAX, &bench.err), VN_E_STATE);
    FAILS(violin_cut(A->client, VNI, vm0, 1, &bench.err), VN_E_NOT_FOUND);
    FAILS(violin_hold(A->client, VNI, vm0, 1, 0, &unsettled, &bench.err),
          VN_E_NOT_FOUND);
    FAILS(violin_release(A->client, VNI, "vm0", &bench.err), VN_E_NOT_FOUND);
    FAILS(violin_await_closed(A->client, VNI, 0, 0, &report, &bench.err),
          VN_E_STATE);
    FAILS(violin_finish(A->client, VNI, 2, &bench.err), VN_E_STATE);
    FAILS(violin_peers_set(A->client, VNI, peers, 2, &bench.err), VN_E_EXISTS);
    peers[1].address = A->address;
    FAILS(violin_peers_set(A->client, VNI, peers, 2, &bench.err), VN_E_FORMAT);
    peers[1].address = "[::1]:9";
    FAILS(violin_peers_set(A->client, VNI, peers, 2, &bench.err),
          VN_E_UNSUPPORTED);
    peers[1].address = "host.example:9";
    FAILS(violin_peers_set(A->client, VNI, peers, 2, &bench.err), VN_E_FORMAT);
    assert_non_null(strstr(bench.err.msg, "peers[1]"));
    bench.fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    FAILS(
        violin_port_add_fd(A->client, VNI, "vm0", bench.fd, false, &bench.err),
        ENOTSOCK);
    FAILS(violin_port_add_fd(A->client, VNI, name, bench.fd, false, &bench.err),
          VN_E_LIMIT);
    FAILS(violin_port_del(A->client, VNI, "bad\xff", &bench.err), VN_E_FORMAT);
    assert_int_equal(
        json_array_size(json_object_get(bench_stats(A, NULL), "ports")), 0);
}

static void test_many_peers(void **state)
{
    struct violin_peer peers[257];
    char addresses[257][32];

    (void)state;
    for (unsigned i = 0; i < 257; i++) {
        snprintf(addresses[i], sizeof(addresses[i]), "127.1.%u.%u:9", i / 200,
                 i % 200 + 1);
        peers[i] = (struct violin_peer){"peer", addresses[i]};
    }
    FAILS(violin_peers_set(A->client, VNI, peers, 257, &bench.err), VN_E_LIMIT);
    OK(violin_peers_set(A->client, VNI, peers, 256, &bench.err));
    OK(violin_peers_set(A->client, VNI, peers + 1, 256, &bench.err));
    OK(violin_peers_set(A->client, VNI, peers + 100, 2, &bench.err));
    assert_int_equal(
        json_array_size(json_object_get(bench_stats(A, NULL), "peers")), 2);
}

/* ---- hostile ----------------------------------------------------------- */

/* What a raw connection gets for these bytes: "" when it is closed. */
static void expect_answer(const char *text, const char *part)
{
    struct vn_err err = VN_ERR_INIT;
    vn_auto(close) int fd = ctl_connect(A->socket, &err);
    char answer[1024] = "";
    ssize_t got;

    assert_true(fd >= 0);
    assert_true(send(fd, text, strlen(text), 0) > 0);
    got = recv(fd, answer, sizeof(answer) - 1, 0);
    if (*part == 0)
        assert_int_equal(got, 0);
    else if (!strstr(answer, part))
        fail_msg("'%s' does not hold '%s'", answer, part);
}

static void test_hostile_control(void **state)
{
    (void)state;
    expect_answer("{", "");
    expect_answer("[1]", "");
    expect_answer("\x01", "");
    expect_answer("{}", "\"id\"");
    expect_answer("{\"id\":1,\"call\":\"x\",\"args\":{}}", "unknown call");
    expect_answer("{\"id\":1,\"call\":5,\"args\":{}}", "call");
    expect_answer("{\"id\":1,\"call\":\"stats\",\"args\":[]}", "args");
    expect_answer("{\"id\":9,\"call\":\"stats\",\"args\":{}}", "\"id\":9");
    expect_answer("{\"id\":1,\"call\":\"arm\",\"args\":{\"vni\":77}}", "epoch");
    expect_answer("{\"id\":1,\"call\":\"arm\",\"args\":{\"vni\":77,"
                  "\"epoch\":4294967296}}",
                  "epoch");
    expect_answer("{\"id\":1,\"call\":\"port_add\",\"args\":{\"vni\":77,"
                  "\"port\":\"p\",\"kind\":\"fd\",\"held\":true}}",
                  "without a descriptor");
    expect_answer("{\"id\":1,\"call\":\"cut\",\"args\":{\"vni\":77,"
                  "\"ports\":[1]}}",
                  "ports[0]");
    assert_non_null(bench_stats(A, NULL)); /* it lives */
}

/* Thousands of requests whose answers are never read. */
static void test_client_that_does_not_read(void **state)
{
    const char *text = "{\"id\":9,\"call\":\"stats\",\"args\":{}}";
    struct vn_err err = VN_ERR_INIT;
    vn_auto(close) int fd = ctl_connect(A->socket, &err);
    int sent = 0;

    (void)state;
    assert_true(fd >= 0);
    while (sent < 100000 && send(fd, text, strlen(text), MSG_NOSIGNAL) > 0)
        sent++;
    assert_true(sent < 100000); /* it was closed */
    assert_non_null(bench_stats(A, NULL));
}

static void test_garbage_from_the_underlay(void **state)
{
    struct violin_peer peer = {"p", "127.0.0.1:9"};
    union tunnel_address to;
    uint8_t packet[200] = {0};

    (void)state;
    add_vm(A, 0, false);
    OK(violin_peers_set(A->client, VNI, &peer, 1, &bench.err));
    OK(tunnel_parse_address(A->address, &to, &bench.err));
    bench.fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    srand(1);
    for (int i = 0; i < 500; i++) {
        for (size_t j = 0; j < sizeof(packet); j++)
            packet[j] = (uint8_t)rand();
        sendto(bench.fd, packet, (size_t)rand() % sizeof(packet), 0, &to.any,
               sizeof(to.v4));
    }
    geneve_encode_frame(packet, VNI, 1); /* well made, from nobody's address */
    for (int i = 0; i < 5; i++)
        sendto(bench.fd, packet, 100, 0, &to.any, sizeof(to.v4));
    WAIT_UNTIL(number_in(bench_stats(A, "tunnel"), "rx_unknown") == 5);
    assert_int_equal(number_in(bench_stats(A, "tunnel"), "rx_malformed"), 500);
    vm_expects_nothing(A->vms[0]);
}

static void test_violind_goes_away(void **state)
{
    (void)state;
    host_stop(A);
    daemon_free(A->daemon);
    A->daemon = NULL;
    wait_for(&A->lost);
    FAILS(violin_arm(A->client, VNI, 2, &bench.err), VN_E_PEER);
    assert_int_equal(access(A->socket, F_OK), -1);
    assert_null(violin_client_open(A->socket, NULL, NULL, &bench.err));
    assert_int_equal(bench.err.code, ENOENT);
}

static void test_addresses(void **state)
{
    static const char *const good[][2] = {
        {"10.0.0.2", "10.0.0.2:6081"},          {"10.0.0.2:99", "10.0.0.2:99"},
        {"[fd00::2]:65535", "[fd00::2]:65535"}, {"[fd00::2]", "[fd00::2]:6081"},
        {"fd00::2", "[fd00::2]:6081"},
    };
    static const char *const bad[] = {
        "",           "x",          "10.0.0.2:",   "10.0.0.2:65536",
        "10.0.0.2:x", "[10.0.0.2]", "[fd00::2",    "[fd00::2]x",
        "[fd00::2]:", ":6081",      "10.0.0.2:-1", "10.0.0:1",
    };
    char text[TUNNEL_ADDRESS_SIZE];
    union tunnel_address a;

    (void)state;
    for (size_t i = 0; i < VN_COUNT(good); i++) {
        OK(tunnel_parse_address(good[i][0], &a, &bench.err));
        tunnel_format_address(&a, text);
        assert_string_equal(text, good[i][1]);
    }
    for (size_t i = 0; i < VN_COUNT(bad); i++)
        FAILS(tunnel_parse_address(bad[i], &a, &bench.err), VN_E_FORMAT);
}

int main(void)
{
#define TEST(name)                                                             \
    cmocka_unit_test_setup_teardown(name, one_setup, bench_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_a_vm_that_does_not_read),
        TEST(test_settles_as_soon_as_it_is_read),
        TEST(test_ports_come_and_go),
        TEST(test_unix_port),
        TEST(test_tap_port),
        TEST(test_refusals),
        TEST(test_many_peers),
        TEST(test_hostile_control),
        TEST(test_client_that_does_not_read),
        TEST(test_garbage_from_the_underlay),
        TEST(test_violind_goes_away),
        TEST(test_addresses),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
