#ifndef TESTS_UNIT_DAEMON_BENCH_H
#define TESTS_UNIT_DAEMON_BENCH_H

/*
 * Whole violinds on the bench: each on a thread with a loopback underlay, its
 * client, and VMs that are the other ends of socket pairs.
 */

#include "common/auto.h"
#include "common/clock.h"
#include "violin/client.h"
#include "violin/daemon.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define VNI        77
#define VMS_MAX    4
#define FRAME_SIZE 64
/* How long what must come may take: only a failing test lasts so long. */
#define BENCH_WAIT_MS 60000

struct host {
    struct daemon *daemon;
    pthread_t thread;
    bool runs;
    struct violin_client *client;
    char *socket;
    char address[TUNNEL_ADDRESS_SIZE];
    int vms[VMS_MAX]; /* the VMs' ends of ports "vm0", ... */
    atomic_uint triggers, lost;
};

struct daemon_bench {
    char dir[40];
    struct host hosts[2];
    struct vn_err err;
    struct daemon_opts opts;
    json_t *stats;
    int fd; /* a spare, closed at the end */
};

static struct daemon_bench bench;

/* A call that must work. */
#define OK(call)                                                               \
    do {                                                                       \
        if ((call) != 0)                                                       \
            fail_msg("%s: %s", #call, bench.err.msg);                          \
    } while (0)
/* Until the expression holds. */
#define WAIT_UNTIL(holds)                                                      \
    do {                                                                       \
        uint64_t wait_end_ns = clock_now_ns() + BENCH_WAIT_MS * VN_MS;         \
        while (!(holds)) {                                                     \
            if (clock_now_ns() > wait_end_ns)                                  \
                fail_msg("never: %s", #holds);                                 \
            usleep(1000);                                                      \
        }                                                                      \
    } while (0)
/* A call that must fail so. */
#define FAILS(call, wanted)                                                    \
    do {                                                                       \
        assert_int_equal((call), -1);                                          \
        if (bench.err.code != (wanted))                                        \
            fail_msg("%s: %d %s", #call, bench.err.code, bench.err.msg);       \
    } while (0)

static inline void *bench_run(void *arg)
{
    struct vn_err err = VN_ERR_INIT;

    (void)!daemon_run(arg, &err);
    return NULL;
}

static void bench_notice(void *context, const struct violin_notice *notice)
{
    struct host *h = context;

    if (notice->kind == VIOLIN_LOST)
        h->lost++;
    else if (notice->vni == VNI)
        h->triggers++;
}

static inline void host_start(struct host *h, unsigned index)
{
    union tunnel_address address;

    for (unsigned i = 0; i < VMS_MAX; i++)
        h->vms[i] = -1;
    h->socket = vn_format("%s/violind%u", bench.dir, index);
    bench.opts.socket_path = h->socket;
    OK(tunnel_parse_address("127.0.0.1:0", &bench.opts.underlay, &bench.err));
    h->daemon = daemon_new(&bench.opts, &bench.err);
    if (!h->daemon)
        fail_msg("%s", bench.err.msg);
    daemon_underlay(h->daemon, &address);
    tunnel_format_address(&address, h->address);
    assert_int_equal(pthread_create(&h->thread, NULL, bench_run, h->daemon), 0);
    h->runs = true;
    h->client = violin_client_open(h->socket, bench_notice, h, &bench.err);
    assert_non_null(h->client);
    OK(violin_net_add(h->client, VNI, 1, &bench.err));
}

static inline void host_stop(struct host *h)
{
    if (!h->runs)
        return;
    daemon_stop(h->daemon);
    pthread_join(h->thread, NULL);
    h->runs = false;
}

static inline void host_end(struct host *h)
{
    violin_client_close(h->client);
    host_stop(h);
    daemon_free(h->daemon);
    for (unsigned i = 0; i < VMS_MAX; i++) {
        if (h->socket && h->vms[i] >= 0)
            close(h->vms[i]);
    }
    free(h->socket);
}

static inline void add_vm(struct host *h, unsigned vm, bool held)
{
    vn_auto(free) char *name = vn_format("vm%u", vm);
    int pair[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair),
                     0);
    h->vms[vm] = pair[0];
    OK(violin_port_add_fd(h->client, VNI, name, pair[1], held, &bench.err));
    close(pair[1]);
}

static inline int bench_setup(void **state)
{
    (void)state;
    memset(&bench, 0, sizeof(bench));
    bench.fd = -1;
    strcpy(bench.dir, "/tmp/vn-violin-XXXXXX");
    return mkdtemp(bench.dir) ? 0 : -1;
}

/* Two hosts that know each other. */
static inline int pair_setup(void **state)
{
    if (bench_setup(state))
        return -1;
    for (unsigned i = 0; i < 2; i++)
        host_start(&bench.hosts[i], i);
    for (unsigned i = 0; i < 2; i++) {
        struct violin_peer peer = {"other", bench.hosts[1 - i].address};

        OK(violin_peers_set(bench.hosts[i].client, VNI, &peer, 1, &bench.err));
    }
    return 0;
}

static inline int bench_teardown(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 2; i++)
        host_end(&bench.hosts[i]);
    json_decref(bench.stats);
    if (bench.fd >= 0)
        close(bench.fd);
    return rmdir(bench.dir); /* empty: the sockets were removed */
}

/* Broadcast frames that carry a number. */
static inline void vm_sends(int vm, unsigned number)
{
    uint8_t frame[FRAME_SIZE] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2};

    frame[11] = (uint8_t)(vm + 1);
    memcpy(frame + 14, &number, sizeof(number));
    assert_int_equal(send(vm, frame, sizeof(frame), 0), sizeof(frame));
}

static inline void vm_expects(int vm, unsigned number)
{
    struct pollfd p = {.fd = vm, .events = POLLIN};
    uint8_t frame[2048];
    unsigned got;

    if (poll(&p, 1, BENCH_WAIT_MS) != 1)
        fail_msg("frame %u did not come", number);
    assert_int_equal(recv(vm, frame, sizeof(frame), 0), FRAME_SIZE);
    memcpy(&got, frame + 14, sizeof(got));
    assert_int_equal(got, number);
}

/* After a pause long enough for what is under way. */
static inline void vm_expects_nothing(int vm)
{
    struct pollfd p = {.fd = vm, .events = POLLIN};

    assert_int_equal(poll(&p, 1, 20), 0);
}

static inline void wait_for(atomic_uint *count)
{
    WAIT_UNTIL(*count != 0);
    assert_int_equal(*count, 1);
}

/* The statistics of network VNI, or of the whole (path "tunnel"). */
static inline json_t *bench_stats(struct host *h, const char *path)
{
    json_t *networks, *net;
    size_t i;

    json_decref(bench.stats);
    bench.stats = violin_stats(h->client, &bench.err);
    assert_non_null(bench.stats);
    if (path)
        return json_object_get(bench.stats, path);
    networks = json_object_get(bench.stats, "networks");
    json_array_foreach (networks, i, net) {
        if (json_integer_value(json_object_get(net, "vni")) == VNI)
            return net;
    }
    return NULL;
}

static inline long number_in(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);

    assert_true(json_is_integer(value));
    return (long)json_integer_value(value);
}

#endif
