/* A violind with a packet port and other ports in one network. */
#include "daemon_bench.h"
#include "net_namespaces.h"

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/if.h>

#define A        (&bench.hosts[0])
#define PAYLOAD  2500
#define MSS      1000
#define TSO_SIZE (14 + 20 + 20 + PAYLOAD)

static const char *const xen[] = {"xen"};

static int packet_setup(void **state)
{
    make_veth();
    sh("ip link set lo up");
    if (bench_setup(state))
        return -1;
    host_start(A, 0);
    add_vm(A, 0, false);
    return 0;
}

static int packet_teardown(void **state)
{
    int rc = bench_teardown(state);

    return system("ip link del vif 2>/dev/null; ip link del br0 2>/dev/null; "
                  "true") ||
           rc;
}

/* The VM behind the vif; its frames have offload headers. */
static int xen_vm(void)
{
    struct sockaddr_ll address = {.sll_family = AF_PACKET,
                                  .sll_protocol = htons(ETH_P_ALL)};
    int fd, one = 1;

    in_namespace(vm_ns);
    fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    address.sll_ifindex = (int)if_nametoindex("eth0");
    setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof(one));
    setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof(one));
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    in_namespace(host_ns);
    return fd;
}

static void xen_expects(int fd, unsigned number)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    uint8_t message[2048];
    unsigned got;
    ssize_t size;

    do { /* first it says that the interface was down */
        if (poll(&p, 1, BENCH_WAIT_MS) != 1)
            fail_msg("frame %u did not come", number);
        size = recv(fd, message, sizeof(message), MSG_DONTWAIT);
    } while (size < 0);
    assert_int_equal(size, sizeof(struct virtio_net_hdr) + FRAME_SIZE);
    memcpy(&got, message + sizeof(struct virtio_net_hdr) + 14, sizeof(got));
    assert_int_equal(got, number);
}

/* A restored VM: its port is there, held, before its card is connected. */
static void test_frames_wait_for_the_vm(void **state)
{
    uint32_t unsettled;

    (void)state;
    OK(violin_port_add_packet(A->client, VNI, "xen", "vif", true, &bench.err));
    bench.fd = xen_vm();
    for (unsigned i = 0; i < 50; i++)
        vm_sends(A->vms[0], i);
    OK(violin_release(A->client, VNI, "xen", &bench.err));
    for (unsigned i = 50; i < 100; i++)
        vm_sends(A->vms[0], i);
    OK(violin_arm(A->client, VNI, 2, &bench.err));
    OK(violin_hold(A->client, VNI, xen, 1, 30, &unsettled, &bench.err));
    assert_int_equal(unsettled, 1);
    OK(violin_release(A->client, VNI, "xen", &bench.err));
    vm_sh("ip link set eth0 up");
    for (unsigned i = 0; i < 100; i++)
        xen_expects(bench.fd, i);
    OK(violin_hold(A->client, VNI, xen, 1, BENCH_WAIT_MS, &unsettled,
                   &bench.err));
    assert_int_equal(unsettled, 0);
}

static void send_tso(int fd)
{
    struct {
        struct virtio_net_hdr head;
        uint8_t frame[TSO_SIZE];
    } __attribute__((packed))
    m = {.head = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                  .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
                  .hdr_len = 54,
                  .gso_size = MSS,
                  .csum_start = 34,
                  .csum_offset = 16},
         .frame = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9, 8, 0,
                   0x45, 0, (TSO_SIZE - 14) >> 8, (TSO_SIZE - 14) & 255, 0, 7,
                   0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
                   /* TCP: ports, sequence number, then data, PSH and ACK */
                   0, 1, 0, 2, 0, 0, 0, 100, 0, 0, 0, 0, 0x50, 0x18, 1, 0}};

    for (unsigned i = 0; i < PAYLOAD; i++)
        m.frame[54 + i] = (uint8_t)(i % 251);
    assert_int_equal(send(fd, &m, sizeof(m), 0), sizeof(m));
}

/* Words of network order; 0xffff for what includes its right checksum. */
static uint32_t sum(uint32_t start, const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++)
        start += i % 2 ? data[i] : (uint32_t)data[i] << 8;
    while (start >> 16)
        start = (start & 0xffff) + (start >> 16);
    return start;
}

static void test_segments_at_a_plain_port(void **state)
{
    static const unsigned sizes[] = {MSS, MSS, PAYLOAD - 2 * MSS};
    uint8_t frame[2048];
    const json_t *port;

    (void)state;
    OK(violin_port_add_packet(A->client, VNI, "xen", "vif", false, &bench.err));
    vm_sh("ip link set eth0 up");
    bench.fd = xen_vm();
    send_tso(bench.fd);
    for (unsigned i = 0; i < 3; i++) {
        struct pollfd p = {.fd = A->vms[0], .events = POLLIN};
        unsigned size = 54 + sizes[i];

        assert_int_equal(poll(&p, 1, BENCH_WAIT_MS), 1);
        assert_int_equal(recv(A->vms[0], frame, sizeof(frame), 0), size);
        assert_int_equal(frame[16] << 8 | frame[17], size - 14);
        assert_int_equal(frame[19], 7 + i);
        assert_int_equal(frame[40] << 8 | frame[41], 100 + i * MSS);
        assert_int_equal(frame[47], i == 2 ? 0x18 : 0x10);
        assert_int_equal(sum(0, frame + 14, 20), 0xffff);
        assert_int_equal(
            sum(sum(6 + size - 34, frame + 26, 8), frame + 34, size - 34),
            0xffff);
        for (unsigned j = 0; j < sizes[i]; j++)
            assert_int_equal(frame[54 + j], (i * MSS + j) % 251);
    }
    port = json_array_get(json_object_get(bench_stats(A, NULL), "ports"), 1);
    assert_string_equal(json_string_value(json_object_get(port, "kind")),
                        "packet");
    assert_int_equal(number_in(port, "rx_frames"), 3);
    assert_int_equal(number_in(port, "rx_dropped"), 0);
    assert_int_equal(number_in(port, "rx_malformed"), 0);
    vm_expects_nothing(A->vms[0]);
}

/* A cut between the two kinds: what was sent before is of the old epoch. */
static void test_cut(void **state)
{
    static const char *const both[] = {"vm0", "xen"};
    struct violin_report report;
    uint32_t unsettled;

    (void)state;
    OK(violin_port_add_packet(A->client, VNI, "xen", "vif", false, &bench.err));
    vm_sh("ip link set eth0 up");
    bench.fd = xen_vm();
    OK(violin_arm(A->client, VNI, 2, &bench.err));
    OK(violin_hold(A->client, VNI, both, 2, BENCH_WAIT_MS, &unsettled,
                   &bench.err));
    assert_int_equal(unsettled, 0);
    send_tso(bench.fd);
    vm_sends(A->vms[0], 9);
    OK(violin_cut(A->client, VNI, both, 2, &bench.err));
    OK(violin_await_closed(A->client, VNI, BENCH_WAIT_MS, BENCH_WAIT_MS,
                           &report, &bench.err));
    assert_int_equal(report.frames_recorded, 4);
    assert_true(report.lossless);
    OK(violin_release(A->client, VNI, "vm0", &bench.err));
    OK(violin_release(A->client, VNI, "xen", &bench.err));
    xen_expects(bench.fd, 9);
    OK(violin_finish(A->client, VNI, 2, &bench.err));
}

static void test_refusals(void **state)
{
    (void)state;
    FAILS(violin_port_add_packet(A->client, VNI, "xen", "vif7.0", false,
                                 &bench.err),
          ENODEV);
    assert_non_null(strstr(bench.err.msg, "port 'xen': interface 'vif7.0'"));
    FAILS(violin_port_add_packet(A->client, VNI, "xen", "much-too-long-a-name",
                                 false, &bench.err),
          VN_E_LIMIT);
    if (system("ip link add br0 type bridge 2>/dev/null && "
               "ip link set vif master br0") == 0) {
        FAILS(violin_port_add_packet(A->client, VNI, "xen", "vif", false,
                                     &bench.err),
              VN_E_STATE);
        assert_non_null(strstr(bench.err.msg, "'vif' is in bridge 'br0'"));
        sh("ip link del br0");
    }
    OK(violin_port_add_packet(A->client, VNI, "xen", "vif", false, &bench.err));
    OK(violin_port_del(A->client, VNI, "xen", &bench.err));
}

int main(void)
{
    int rc = enter_namespaces();
#define TEST(name)                                                             \
    cmocka_unit_test_setup_teardown(name, packet_setup, packet_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_frames_wait_for_the_vm),
        TEST(test_segments_at_a_plain_port),
        TEST(test_cut),
        TEST(test_refusals),
    };

    return rc ? rc : cmocka_run_group_tests(tests, NULL, NULL);
}
