/* Two violinds over loopback: whole cuts, their records, leases, replay. */
#include "daemon_bench.h"

#include "common/ctl.h"
#include "violin/pcapng.h"

#include <sys/stat.h>

#define A (&bench.hosts[0])
#define B (&bench.hosts[1])

static const char *const all_ports[] = {"vm0", "vm1", "vm2", "vm3"};

static void hold(struct host *h, unsigned count)
{
    uint32_t unsettled;

    OK(violin_hold(h->client, VNI, all_ports, count, BENCH_WAIT_MS, &unsettled,
                   &bench.err));
    assert_int_equal(unsettled, 0);
}

static void cut(struct host *h, unsigned count)
{
    OK(violin_cut(h->client, VNI, all_ports, count, &bench.err));
}

static void release(struct host *h, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        OK(violin_release(h->client, VNI, all_ports[i], &bench.err));
}

static void await(struct host *h, struct violin_report *report)
{
    OK(violin_await_closed(h->client, VNI, BENCH_WAIT_MS, BENCH_WAIT_MS, report,
                           &bench.err));
}

/* The records of a port must be these numbers, all of one epoch. */
static void expect_records(struct host *h, const char *port, uint32_t epoch,
                           const unsigned *numbers, size_t count)
{
    vn_auto(close) int fd = -1;
    vn_auto(free) void *data = NULL;
    struct pcapng_frame frame;
    struct pcapng_reader r;
    size_t size;

    OK(violin_records(h->client, VNI, port, &fd, &bench.err));
    if (count == 0) {
        assert_int_equal(fd, -1);
        return;
    }
    OK(ctl_read_fd(fd, 1 << 20, &data, &size, &bench.err));
    pcapng_open(&r, data, size);
    for (size_t i = 0; i < count; i++) {
        unsigned number;

        assert_int_equal(pcapng_next(&r, &frame, &bench.err), 1);
        memcpy(&number, frame.data + 14, sizeof(number));
        assert_int_equal(number, numbers[i]);
        assert_int_equal(frame.epoch, epoch);
    }
    assert_int_equal(pcapng_next(&r, &frame, &bench.err), 0);
}

static void test_frames_both_ways(void **state)
{
    (void)state;
    add_vm(A, 0, false);
    add_vm(A, 1, false);
    add_vm(B, 0, false);
    for (unsigned i = 0; i < 100; i++) {
        vm_sends(A->vms[0], i);
        vm_sends(B->vms[0], 1000 + i);
        vm_expects(B->vms[0], i);
        vm_expects(A->vms[0], 1000 + i);
    }
    for (unsigned i = 0; i < 200; i++) /* vm1 saw both, in whatever order */
        assert_int_equal(recv(A->vms[1], &(char[64]){0}, 64, 0), 64);
    vm_expects_nothing(A->vms[0]);
    vm_expects_nothing(A->vms[1]);
}

static void test_cut_records_what_is_in_transit(void **state)
{
    static const unsigned in_transit[] = {10, 11, 12};
    struct violin_report report;

    (void)state;
    add_vm(A, 0, false);
    add_vm(B, 0, false);
    OK(violin_arm(A->client, VNI, 2, &bench.err));
    OK(violin_arm(B->client, VNI, 2, &bench.err));
    hold(A, 1);
    vm_sends(A->vms[0], 1); /* before its cut, drained there */
    vm_sends(B->vms[0], 10);
    usleep(20000); /* it waits at A */
    cut(A, 1);
    vm_sends(B->vms[0], 11);
    usleep(20000);
    release(A, 1);
    vm_expects(A->vms[0], 10);
    vm_expects(A->vms[0], 11);
    vm_expects(B->vms[0], 1);
    vm_sends(A->vms[0], 2); /* after the cut: waits at B, and triggers */
    wait_for(&B->triggers);
    vm_expects_nothing(B->vms[0]);
    hold(B, 1);
    vm_sends(B->vms[0], 12); /* found by the drain of the cut */
    cut(B, 1);
    await(A, &report);
    assert_int_equal(report.frames_recorded, 3);
    assert_true(report.lossless);
    release(B, 1);
    vm_expects(B->vms[0], 2);
    vm_expects(A->vms[0], 12);
    await(B, &report);
    assert_int_equal(report.frames_recorded, 0);
    assert_int_equal(report.frames_held, 1);
    assert_true(report.lossless);
    expect_records(A, "vm0", 1, in_transit, 3);
    expect_records(B, "vm0", 1, NULL, 0);
    OK(violin_finish(A->client, VNI, 2, &bench.err));
    OK(violin_finish(B->client, VNI, 2, &bench.err));
    OK(violin_finish(B->client, VNI, 2, &bench.err)); /* twice is fine */
    FAILS(violin_records(A->client, VNI, "vm0", &bench.fd, &bench.err),
          VN_E_STATE);
    vm_expects_nothing(A->vms[0]);
    vm_expects_nothing(B->vms[0]);
    assert_int_equal(A->triggers, 0);
    vm_sends(A->vms[0], 3);
    vm_expects(B->vms[0], 3);
}

/* Traffic that never stops, over ten cuts: each frame exactly once. Who sends
 * waits for who listens before more is under way than the switches keep. */
enum { UNDER_WAY = 300 };

struct chatter {
    int vm;
    atomic_uint count;
    atomic_bool stop;
    const struct listener *listener;
};

struct listener {
    int vm;
    atomic_uint next;
    bool failed;
};

static void *chat(void *arg)
{
    struct chatter *c = arg;

    while (!c->stop) {
        if (c->count - c->listener->next < UNDER_WAY) {
            vm_sends(c->vm, c->count);
            c->count++;
        }
        usleep(50);
    }
    return NULL;
}

static void *listen_all(void *arg)
{
    struct listener *l = arg;
    uint8_t frame[FRAME_SIZE];
    unsigned number;

    while (recv(l->vm, frame, sizeof(frame), 0) == FRAME_SIZE) {
        memcpy(&number, frame + 14, sizeof(number));
        if (number == UINT32_MAX)
            break;
        l->failed = l->failed || number != l->next;
        l->next = number + 1;
    }
    return NULL;
}

/* Some frames more have been sent from now on. */
static void await_talk(const struct chatter *c)
{
    unsigned before = c->count;

    WAIT_UNTIL(c->count - before >= 3);
}

static void test_ten_cuts_under_load(void **state)
{
    struct listener listener = {0};
    struct chatter chatter = {.listener = &listener};
    pthread_t talking, listening;
    uint64_t recorded = 0;

    (void)state;
    add_vm(A, 0, false);
    add_vm(B, 0, false);
    chatter.vm = A->vms[0];
    listener.vm = B->vms[0];
    pthread_create(&listening, NULL, listen_all, &listener);
    pthread_create(&talking, NULL, chat, &chatter);
    for (uint32_t epoch = 2; epoch < 12; epoch++) {
        struct violin_report report;

        usleep(2000);
        OK(violin_arm(A->client, VNI, epoch, &bench.err));
        OK(violin_arm(B->client, VNI, epoch, &bench.err));
        hold(epoch % 2 ? B : A, 1);
        cut(epoch % 2 ? B : A, 1); /* A's VM is not stopped: no matter here */
        hold(epoch % 2 ? A : B, 1);
        release(epoch % 2 ? B : A, 1);
        if (epoch % 2) /* B has cut and listens; of the old epoch still */
            await_talk(&chatter);
        cut(epoch % 2 ? A : B, 1);
        release(epoch % 2 ? A : B, 1);
        await(A, &report);
        await(B, &report);
        assert_true(report.lossless);
        recorded += report.frames_recorded;
        OK(violin_finish(A->client, VNI, epoch, &bench.err));
        OK(violin_finish(B->client, VNI, epoch, &bench.err));
    }
    chatter.stop = true;
    pthread_join(talking, NULL);
    vm_sends(A->vms[0], UINT32_MAX);
    pthread_join(listening, NULL);
    assert_false(listener.failed);
    assert_int_equal(listener.next, chatter.count);
    assert_true(recorded > 0);
}

static void test_a_dead_client_aborts(void **state)
{
    json_t *net;

    (void)state;
    add_vm(A, 0, false);
    add_vm(A, 1, true); /* of a VM that is being restored */
    add_vm(B, 0, false);
    OK(violin_arm(A->client, VNI, 5, &bench.err));
    hold(A, 1);
    vm_sends(B->vms[0], 1);
    usleep(20000);
    vm_expects_nothing(A->vms[0]);
    violin_client_close(A->client);
    A->client = NULL;
    vm_expects(A->vms[0], 1);
    vm_expects(A->vms[1], 1);
    assert_int_equal(A->lost, 0); /* we closed it ourselves */
    A->client = violin_client_open(A->socket, NULL, NULL, &bench.err);
    assert_non_null(A->client);
    net = bench_stats(A, NULL);
    assert_int_equal(number_in(net, "epoch"), 5); /* 5 is burnt */
    assert_true(json_is_null(json_object_get(net, "armed")));
    FAILS(violin_arm(A->client, VNI, 5, &bench.err), VN_E_STATE);
}

static void test_abort_releases(void **state)
{
    struct violin_report report;

    (void)state;
    add_vm(A, 0, false);
    add_vm(B, 0, false);
    OK(violin_arm(A->client, VNI, 2, &bench.err));
    FAILS(violin_arm(A->client, VNI, 3, &bench.err), VN_E_STATE);
    OK(violin_arm(A->client, VNI, 2, &bench.err));
    hold(A, 1);
    cut(A, 1);
    vm_sends(B->vms[0], 1);
    usleep(20000);
    OK(violin_abort(A->client, VNI, 2, &bench.err));
    vm_expects(A->vms[0], 1);
    FAILS(violin_await_closed(A->client, VNI, 10, 10, &report, &bench.err),
          VN_E_STATE);
    FAILS(violin_cut(A->client, VNI, all_ports, 1, &bench.err), VN_E_STATE);
    OK(violin_abort(A->client, VNI, 2, &bench.err));
    /* B never heard of it: A's frames move it on. */
    vm_sends(A->vms[0], 2);
    vm_expects(B->vms[0], 2);
    assert_int_equal(number_in(bench_stats(B, NULL), "epoch"), 2);
}

static void *wait_closed_on_a_thread(void *arg)
{
    struct vn_err err = VN_ERR_INIT;
    struct violin_report report;

    (void)arg;
    return violin_await_closed(A->client, VNI, BENCH_WAIT_MS, BENCH_WAIT_MS,
                               &report, &err) ||
                   !report.lossless
               ? NULL
               : A;
}

static void test_calls_go_on_while_one_waits(void **state)
{
    struct violin_report report;
    pthread_t thread;
    void *result;

    (void)state;
    add_vm(A, 0, false);
    add_vm(B, 0, false);
    OK(violin_arm(A->client, VNI, 2, &bench.err));
    OK(violin_arm(B->client, VNI, 2, &bench.err));
    pthread_create(&thread, NULL, wait_closed_on_a_thread, NULL);
    usleep(10000);
    hold(A, 1);
    cut(A, 1);
    release(A, 1);
    assert_false(json_is_true(json_object_get(bench_stats(A, NULL), "closed")));
    cut(B, 1);
    pthread_join(thread, &result);
    assert_ptr_equal(result, A);
    assert_true(json_is_true(json_object_get(bench_stats(A, NULL), "closed")));
    await(B, &report);
    FAILS(violin_finish(A->client, VNI, 3, &bench.err), VN_E_STATE);
}

static void test_silent_peer_is_named(void **state)
{
    struct violin_report report;
    uint64_t start_ns;

    (void)state;
    add_vm(A, 0, false);
    OK(violin_net_del(B->client, VNI, &bench.err));
    OK(violin_net_del(B->client, VNI, &bench.err)); /* unknown is fine */
    OK(violin_arm(A->client, VNI, 2, &bench.err));
    FAILS(violin_await_closed(A->client, VNI, 10, 10, &report, &bench.err),
          VN_E_STATE); /* vm0 is not cut yet: no report could be true */
    assert_non_null(strstr(bench.err.msg, "vm0"));
    cut(A, 1);
    start_ns = clock_now_ns();
    FAILS(violin_await_closed(A->client, VNI, 50, 0, &report, &bench.err),
          VN_E_TIMEOUT);
    assert_true(clock_now_ns() - start_ns >= 50 * VN_MS);
    assert_non_null(strstr(bench.err.msg, "did not close its channel"));
    WAIT_UNTIL(number_in(bench_stats(B, "tunnel"), "rx_unknown") > 0);
}

static int make_replay(unsigned first, unsigned count)
{
    struct buf file;
    int fd;

    buf_init(&file, 1 << 20);
    pcapng_begin(&file, "vm0");
    for (unsigned i = 0; i < count; i++) {
        uint8_t frame[FRAME_SIZE] = {0};
        unsigned number = first + i;

        memcpy(frame + 14, &number, sizeof(number));
        pcapng_add(&file, 0, 1, frame, sizeof(frame));
    }
    fd = ctl_memfd("replay", file.data, file.size, &bench.err);
    buf_done(&file);
    return fd;
}

static void test_replay(void **state)
{
    vn_auto(close) int garbage = ctl_memfd("garbage", "garbage", 7, &bench.err);

    (void)state;
    add_vm(A, 0, true);
    add_vm(B, 0, false);
    vm_sends(B->vms[0], 50);
    usleep(20000);
    bench.fd = make_replay(1, 3);
    OK(violin_replay(A->client, VNI, "vm0", bench.fd, &bench.err));
    FAILS(violin_replay(A->client, VNI, "vm0", garbage, &bench.err),
          VN_E_FORMAT);
    FAILS(violin_replay(A->client, VNI, "vm0", B->vms[0], &bench.err),
          VN_E_FORMAT);
    FAILS(violin_replay(A->client, VNI, "vm9", bench.fd, &bench.err),
          VN_E_NOT_FOUND);
    vm_expects_nothing(A->vms[0]);
    release(A, 1);
    for (unsigned i = 1; i <= 3; i++)
        vm_expects(A->vms[0], i);
    vm_expects(A->vms[0], 50);
    FAILS(violin_replay(A->client, VNI, "vm0", bench.fd, &bench.err),
          VN_E_STATE);
}

int main(void)
{
#define TEST(name)                                                             \
    cmocka_unit_test_setup_teardown(name, pair_setup, bench_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_frames_both_ways),
        TEST(test_cut_records_what_is_in_transit),
        TEST(test_ten_cuts_under_load),
        TEST(test_a_dead_client_aborts),
        TEST(test_abort_releases),
        TEST(test_calls_go_on_while_one_waits),
        TEST(test_silent_peer_is_named),
        TEST(test_replay),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
