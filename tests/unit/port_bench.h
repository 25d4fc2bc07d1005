#ifndef TESTS_UNIT_PORT_BENCH_H
#define TESTS_UNIT_PORT_BENCH_H

/*
 * A packet port on the bench: a veth pair stands in for a vif. One end, "vif",
 * lies in a network namespace of this process, the host's; the other, "eth0",
 * is the VM's, in another namespace. Needs root.
 */

#include "common/auto.h"
#include "common/clock.h"
#include "violin/port.h"

#include "net_namespaces.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BENCH_TYPE 0x88b5 /* of its frames (local experiments) */

struct port_bench {
    struct event_base *base;
    struct port_loop loop;
    struct port *port;
    int vm; /* a packet socket on eth0 */
    struct vn_err err;
    /* What came through the port. */
    uint8_t last[70000];
    size_t last_size, count;
    void (*on_frame)(const uint8_t *frame, size_t size);
};

static struct port_bench bench = {.vm = -1};

static void bench_frame(void *context, const void *frame, size_t size)
{
    (void)context;
    assert_true(size <= sizeof(bench.last));
    memcpy(bench.last, frame, size);
    bench.last_size = size;
    bench.count++;
    if (bench.on_frame)
        bench.on_frame(frame, size);
}

static void bench_batch_end(void *context)
{
    (void)context;
}

static const struct port_events bench_events = {.frame = bench_frame,
                                                .batch_end = bench_batch_end};

/* Let the port work for that long. */
static inline void run_ms(unsigned ms)
{
    struct timeval time = {ms / 1000, (suseconds_t)(ms % 1000) * 1000};

    event_base_loopexit(bench.base, &time);
    event_base_dispatch(bench.base);
}

/* How long what must come may take: only a failing test lasts so long. */
#define BENCH_WAIT_MS 60000

/* Let the port work until the expression holds. */
#define RUN_UNTIL(holds)                                                       \
    do {                                                                       \
        uint64_t run_end_ns = clock_now_ns() + BENCH_WAIT_MS * VN_MS;          \
        while (!(holds)) {                                                     \
            if (clock_now_ns() > run_end_ns)                                   \
                fail_msg("never: %s", #holds);                                 \
            run_ms(1);                                                         \
        }                                                                      \
    } while (0)

static inline struct port_counts counts(void)
{
    struct port_counts c;

    port_counts(bench.port, &c);
    return c;
}

/* A socket for all that comes to eth0; not what is sent from there. */
static inline int vm_socket(void)
{
    struct sockaddr_ll address = {.sll_family = AF_PACKET,
                                  .sll_protocol = htons(ETH_P_ALL)};
    int fd, one = 1, size = 16 << 20;

    in_namespace(vm_ns);
    fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    address.sll_ifindex = (int)if_nametoindex("eth0");
    assert_true(fd >= 0 && address.sll_ifindex > 0);
    assert_int_equal(
        setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof(one)),
        0);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    in_namespace(host_ns);
    return fd;
}

/* Receive at the VM within that time: the size; -1: nothing. */
static inline ssize_t vm_receive(uint8_t *frame, size_t room, int ms)
{
    struct pollfd p = {.fd = bench.vm, .events = POLLIN};
    ssize_t got;

    do { /* an error of the interface going down may stand before it */
        if (poll(&p, 1, ms) != 1)
            return -1;
        got = read(bench.vm, frame, room);
    } while (got < 0);
    return got;
}

static inline void number_frame(uint8_t frame[64], uint32_t number)
{
    memset(frame, 0, 64);
    memset(frame, 0xff, 6);
    frame[6] = 2;
    frame[12] = BENCH_TYPE >> 8;
    frame[13] = BENCH_TYPE & 0xff;
    memcpy(frame + 14, &number, sizeof(number));
}

static inline void port_sends(uint32_t number)
{
    uint8_t frame[64];

    number_frame(frame, number);
    port_send(bench.port, frame, sizeof(frame));
}

static inline void vm_sends(uint32_t number)
{
    uint8_t frame[64];

    number_frame(frame, number);
    assert_int_equal(send(bench.vm, frame, sizeof(frame), 0), sizeof(frame));
}

static inline void vm_expects(uint32_t number)
{
    uint8_t expected[64], got[2048];

    number_frame(expected, number);
    if (vm_receive(got, sizeof(got), BENCH_WAIT_MS) != sizeof(expected))
        fail_msg("frame %u did not come", number);
    assert_memory_equal(got, expected, sizeof(expected));
}

/* The pair, without a port; the VM's end is down. */
static inline int veth_setup(void **state)
{
    (void)state;
    make_veth();
    bench.base = event_base_new();
    port_loop_init(&bench.loop, bench.base);
    bench.count = bench.last_size = 0;
    bench.on_frame = NULL;
    return 0;
}

static inline void make_port(void)
{
    bench.port =
        port_new_packet(&bench.loop, "vif", &bench_events, NULL, &bench.err);
    if (!bench.port)
        fail_msg("%s", bench.err.msg);
}

/* A port, and the VM's end up. */
static inline int port_setup(void **state)
{
    if (veth_setup(state))
        return -1;
    make_port();
    vm_sh("ip link set eth0 up");
    bench.vm = vm_socket();
    return 0;
}

static inline int port_teardown(void **state)
{
    (void)state;
    port_free(bench.port);
    bench.port = NULL;
    if (bench.vm >= 0)
        close(bench.vm);
    bench.vm = -1;
    port_loop_done(&bench.loop);
    event_base_free(bench.base);
    in_namespace(host_ns);
    return system("ip link del vif 2>/dev/null; ip link del br0 2>/dev/null; "
                  "true");
}

#endif
