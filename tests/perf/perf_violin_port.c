/*
 * How many frames a port carries, and loses: a packet port on a veth pair
 * (which stands in for a Xen vif) beside a port on a TAP.
 *
 *     perf_violin_port [SECONDS]       as root; 2 s a line by default
 *
 * "in": a thread plays the VM: it sends as fast as it can through a packet
 * socket on the far side; what the kernel refuses at once (ENOBUFS) is tried
 * again and not counted. The port reads in its event loop, as in violind.
 * "out": the port sends; the far side's interface counts what arrives, and
 * for as long as frames wait in the port nothing more is given to it.
 * Lost is what was taken for sent and did not come.
 */
#include "common/clock.h"
#include "violin/port.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static struct {
    unsigned seconds;
    size_t size; /* of a frame */
    struct event_base *base;
    struct port_loop loop;
    struct port *port;
    const char *far_side; /* interface */
    uint64_t received;
    atomic_bool stop;
    atomic_uint_fast64_t sent;
} b;

static void die(const char *what)
{
    fprintf(stderr, "perf_violin_port: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void sh(const char *command)
{
    if (system(command) != 0)
        die(command);
}

static void on_frame(void *context, const void *frame, size_t size)
{
    (void)context;
    (void)frame;
    b.received += size == b.size;
}

static void on_batch_end(void *context)
{
    (void)context;
}

static const struct port_events events = {on_frame, on_batch_end};

static void make_frame(uint8_t *frame)
{
    memset(frame, 0, b.size);
    memset(frame, 0xff, 6);
    frame[6] = 2;
    frame[12] = 0x88;
    frame[13] = 0xb5;
}

/* ---- in ---------------------------------------------------------------- */

static void *play_vm(void *arg)
{
    struct sockaddr_ll address = {.sll_family = AF_PACKET};
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0), one = 1;
    uint8_t frame[2048];

    (void)arg;
    make_frame(frame);
    address.sll_ifindex = (int)if_nametoindex(b.far_side);
    setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof(one));
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)))
        die("the VM's socket");
    while (!b.stop) {
        if (send(fd, frame, b.size, 0) > 0)
            b.sent++;
        else if (errno == ENOBUFS)
            sched_yield();
    }
    close(fd);
    return NULL;
}

static void run_ms(unsigned ms)
{
    struct timeval time = {ms / 1000, (suseconds_t)(ms % 1000) * 1000};

    event_base_loopexit(b.base, &time);
    event_base_dispatch(b.base);
}

static double cpu_seconds(void)
{
    struct rusage r;

    getrusage(RUSAGE_THREAD, &r);
    return (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) +
           (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
}

static void report(const char *kind, const char *way, uint64_t sent,
                   uint64_t arrived, double seconds, double cpu)
{
    printf("| %s | %s | %zu | %.0f | %.0f | %.2f | %.2f |\n", kind, way, b.size,
           (double)arrived / seconds / 1e3,
           (double)arrived * (double)b.size * 8 / seconds / 1e6,
           sent > arrived ? 100.0 * (double)(sent - arrived) / (double)sent : 0,
           arrived ? cpu / (double)arrived * 1e6 : 0);
    fflush(stdout);
}

static void measure_in(void)
{
    uint64_t start_ns;
    pthread_t thread;
    double cpu, took;

    b.received = 0;
    b.sent = 0;
    b.stop = false;
    cpu = cpu_seconds();
    start_ns = clock_now_ns();
    if (pthread_create(&thread, NULL, play_vm, NULL))
        die("a thread");
    run_ms(b.seconds * 1000);
    b.stop = true;
    pthread_join(thread, NULL);
    took = (double)(clock_now_ns() - start_ns) / 1e9;
    run_ms(300);
    report(port_kind(b.port), "in", b.sent, b.received, took,
           cpu_seconds() - cpu);
}

/* ---- out --------------------------------------------------------------- */

static uint64_t far_side_received(void)
{
    char path[100], text[32] = "";
    FILE *file;

    snprintf(path, sizeof(path), "/sys/class/net/%s/statistics/rx_packets",
             b.far_side);
    file = fopen(path, "r");
    if (!file || !fgets(text, sizeof(text), file))
        die(path);
    fclose(file);
    return strtoull(text, NULL, 10);
}

static void measure_out(void)
{
    uint64_t before = far_side_received(), start_ns = clock_now_ns(), end_ns;
    struct port_counts first, last;
    double cpu = cpu_seconds();
    uint8_t frame[2048];

    make_frame(frame);
    port_counts(b.port, &first);
    end_ns = start_ns + b.seconds * VN_SEC;
    while (clock_now_ns() < end_ns) {
        for (int i = 0; i < 256; i++)
            port_send(b.port, frame, b.size);
        do {
            event_base_loop(b.base, EVLOOP_NONBLOCK);
            port_counts(b.port, &last);
        } while (last.tx_waiting > 256 && clock_now_ns() < end_ns);
    }
    end_ns = clock_now_ns();
    cpu = cpu_seconds() - cpu;
    run_ms(300);
    port_counts(b.port, &last);
    report(port_kind(b.port), "out", last.tx_frames - first.tx_frames,
           far_side_received() - before, (double)(end_ns - start_ns) / 1e9,
           cpu);
}

/* ---- both kinds -------------------------------------------------------- */

static void measure(bool packet)
{
    struct vn_err err = VN_ERR_INIT;

    if (packet) {
        sh("ip link add vif type veth peer name far");
        b.port = port_new_packet(&b.loop, "vif", &events, NULL, &err);
    } else {
        b.port = port_new_tap(&b.loop, "far", &events, NULL, &err);
    }
    if (!b.port) {
        fprintf(stderr, "perf_violin_port: %s\n", err.msg);
        exit(1);
    }
    b.far_side = "far";
    sh("echo 1 >/proc/sys/net/ipv6/conf/far/disable_ipv6; ip link set far up");
    run_ms(100);
    for (b.size = 64; b.size; b.size = b.size == 64 ? 1500 : 0) {
        measure_in();
        measure_out();
    }
    port_free(b.port);
    if (packet)
        sh("ip link del vif");
}

int main(int argc, char **argv)
{
    b.seconds = argc > 1 ? (unsigned)atoi(argv[1]) : 2;
    if (unshare(CLONE_NEWNET | CLONE_NEWNS) ||
        mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
        mount("sysfs", "/sys", "sysfs", 0, NULL))
        die("a network namespace (needs root)");
    b.base = event_base_new();
    port_loop_init(&b.loop, b.base);
    printf("| port | way | bytes | kframes/s | Mb/s | lost %% | us CPU of "
           "violind a frame |\n|---|---|---|---|---|---|---|\n");
    measure(true);
    measure(false);
    port_loop_done(&b.loop);
    event_base_free(b.base);
    return 0;
}
