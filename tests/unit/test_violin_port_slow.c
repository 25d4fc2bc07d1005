/*
 * Packet ports on an interface whose other side takes its time, as netback
 * does when a VM is slow: a TAP counts a frame as sent when it is read, and
 * drops what finds its queue full.
 */
#include "port_bench.h"

#include <linux/if_tun.h>
#include <sys/ioctl.h>

#define FRAME_SIZE 1400

static int tap_setup(void **state)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};

    (void)state;
    bench.vm = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    strcpy(request.ifr_name, "vif");
    if (bench.vm < 0 || ioctl(bench.vm, TUNSETIFF, &request))
        return -1;
    /* netback's 512 KiB; ours must not fill more than half of that. */
    sh("ip link set vif txqueuelen 370");
    bench.base = event_base_new();
    port_loop_init(&bench.loop, bench.base);
    bench.on_frame = NULL;
    make_port();
    return 0;
}

static void send_long(uint32_t number)
{
    static uint8_t frame[FRAME_SIZE];

    number_frame(frame, number);
    port_send(bench.port, frame, sizeof(frame));
}

static bool take_long(uint32_t number)
{
    uint8_t got[2048];
    uint32_t is;
    ssize_t size = read(bench.vm, got, sizeof(got));

    if (size < 0)
        return false;
    assert_int_equal(size, FRAME_SIZE);
    memcpy(&is, got + 14, sizeof(is));
    assert_int_equal(is, number);
    return true;
}

static void test_settled_when_all_is_taken(void **state)
{
    (void)state;
    assert_true(port_is_settled(bench.port, clock_now_ns()));
    for (uint32_t i = 0; i < 10; i++)
        send_long(i);
    RUN_UNTIL(counts().tx_frames == 10);
    for (uint32_t i = 0; i < 10; i++) {
        run_ms(3);
        assert_false(port_is_settled(bench.port, clock_now_ns()));
        assert_true(take_long(i));
    }
    assert_false(take_long(10));
    RUN_UNTIL(port_is_settled(bench.port, clock_now_ns()));
    assert_int_equal(counts().tx_dropped, 0);
}

static void test_nothing_is_lost_when_it_is_slow(void **state)
{
    const uint32_t count = 5000;
    uint32_t taken = 0;

    (void)state;
    for (uint32_t i = 0; i < count; i++)
        send_long(i);
    run_ms(30);
    assert_in_range(counts().tx_frames, 180, 190); /* 256 KiB */
    assert_int_equal(counts().tx_frames + counts().tx_waiting, count);
    while (taken < count) {
        uint32_t before = taken;

        run_ms(2);
        while (taken < before + 100 && take_long(taken))
            taken++;
    }
    RUN_UNTIL(port_is_settled(bench.port, clock_now_ns()));
    assert_int_equal(counts().tx_frames, count);
    assert_int_equal(counts().tx_dropped, 0);
}

/* Small frames: the window is of bytes. */
static void test_window_of_small_frames(void **state)
{
    (void)state;
    sh("ip link set vif txqueuelen 5000");
    for (uint32_t i = 0; i < 4500; i++)
        port_sends(i);
    run_ms(30);
    assert_int_equal(counts().tx_frames, (256 << 10) / 64);
    for (uint32_t i = 0; i < 4500; i++) {
        run_ms(i % 1000 == 999 ? 30 : 0);
        vm_expects(i);
    }
}

/* ---- taken, and dropped ------------------------------------------------ */

/*
 * A VXLAN interface that knows no peer says "sent", drops and counts, as
 * netback does between its carrier and its being ready.
 */
static int vxlan_setup(void **state)
{
    (void)state;
    sh("ip link set lo up; ip link add vif type vxlan id 5 dstport 4789 "
       "local 127.0.0.1");
    bench.base = event_base_new();
    port_loop_init(&bench.loop, bench.base);
    bench.on_frame = NULL;
    make_port();
    return 0;
}

static uint64_t vif_packets(void)
{
    char text[32] = "";
    int fd =
        open("/sys/class/net/vif/statistics/tx_packets", O_RDONLY | O_CLOEXEC);

    assert_true(fd >= 0 && read(fd, text, sizeof(text) - 1) > 0);
    close(fd);
    return strtoull(text, NULL, 10);
}

/* False if that took so long that a frame may have been given up. */
static bool send_in_vain(void)
{
    uint64_t began_ns = clock_now_ns();

    for (uint32_t i = 0; i < 200; i++)
        port_sends(i);
    run_ms(100);
    return clock_now_ns() - began_ns < 2 * VN_SEC;
}

static void test_dropped_until_it_is_ready(void **state)
{
    (void)state;
    while (!send_in_vain()) {
        port_free(bench.port);
        make_port();
    }
    assert_int_equal(vif_packets(), 0);
    assert_int_equal(counts().tx_waiting, 200);
    assert_int_equal(counts().tx_frames + counts().tx_dropped, 0);
    assert_false(port_is_settled(bench.port, clock_now_ns()));
    sh("bridge fdb append 00:00:00:00:00:00 dev vif dst 127.0.0.1");
    RUN_UNTIL(counts().tx_waiting == 0);
    RUN_UNTIL(port_is_settled(bench.port, clock_now_ns()));
    assert_int_equal(vif_packets(), 200);
    assert_int_equal(counts().tx_frames, 200);
    assert_int_equal(counts().tx_dropped, 0);
}

/* One that was ready and drops again: nothing says so but the counter. */
static void test_dropped_frames_are_counted(void **state)
{
    (void)state;
    port_sends(0);
    RUN_UNTIL(counts().tx_dropped > 0); /* it is given up */
    assert_int_equal(counts().tx_dropped, 1);
    for (uint32_t i = 0; i < 50; i++)
        port_sends(i);
    RUN_UNTIL(port_is_settled(bench.port, clock_now_ns()));
    assert_int_equal(counts().tx_dropped, 51);
    assert_int_equal(counts().tx_waiting, 0);
}

/* ---- counters that the test writes ------------------------------------- */

static uint64_t fake_sent_ns; /* not before, the first frame was sent */
static char fake[] = "/tmp/vn-counter-XXXXXX";

static void set_counter(const char *text)
{
    int fd = open(fake, O_WRONLY | O_TRUNC | O_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
}

static int fake_setup(void **state)
{
    int fd;

    if (veth_setup(state))
        return -1;
    strcpy(fake, "/tmp/vn-counter-XXXXXX");
    fd = mkstemp(fake);
    if (fd < 0)
        return -1;
    close(fd);
    set_counter("1000\n");
    if (mount(fake, "/sys/class/net/vif/statistics/tx_packets", NULL, MS_BIND,
              NULL))
        return -1;
    make_port();
    vm_sh("ip link set eth0 up");
    fake_sent_ns = clock_now_ns();
    port_sends(0);
    RUN_UNTIL(counts().tx_frames == 1);
    return 0;
}

static int fake_teardown(void **state)
{
    umount("/sys/class/net/vif/statistics/tx_packets");
    unlink(fake);
    return port_teardown(state);
}

static void test_counter_follows(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 9; i++)
        port_sends(i);
    set_counter("1009\n");
    run_ms(5);
    assert_false(port_is_settled(bench.port, clock_now_ns()));
    set_counter("1010\n");
    assert_false(port_is_settled(bench.port, clock_now_ns())); /* just now */
    run_ms(5);
    assert_true(port_is_settled(bench.port, clock_now_ns()));
    set_counter("1020\n"); /* somebody else sends */
    assert_true(port_is_settled(bench.port, clock_now_ns()));
    port_sends(1);
    run_ms(5);
    assert_false(port_is_settled(bench.port, clock_now_ns()));
    set_counter("1021\n");
    RUN_UNTIL(port_is_settled(bench.port, clock_now_ns()));
    assert_int_equal(counts().tx_dropped, 0);
}

/* The VM's driver connects again: netback counts from 0. */
static void test_counter_falls(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 9; i++)
        port_sends(i);
    set_counter("3\n");
    RUN_UNTIL(port_is_settled(bench.port, clock_now_ns()));
    assert_int_equal(counts().tx_dropped, 10);
    port_sends(10);
    run_ms(5);
    assert_false(port_is_settled(bench.port, clock_now_ns()));
    set_counter("4\n");
    RUN_UNTIL(port_is_settled(bench.port, clock_now_ns()));
    assert_int_equal(counts().tx_dropped, 10);
}

/* The VM takes nothing for so long that netback gives its queue up. */
static void test_counter_stands(void **state)
{
    uint64_t now_ns = clock_now_ns();

    (void)state;
    assert_false(port_is_settled(bench.port, now_ns));
    assert_false(port_is_settled(bench.port, fake_sent_ns + 11 * VN_SEC));
    assert_int_equal(counts().tx_dropped, 0);
    assert_true(port_is_settled(bench.port, now_ns + 13 * VN_SEC));
    assert_int_equal(counts().tx_dropped, 1);
}

int main(void)
{
    int rc = enter_namespaces();
#define TEST(name)                                                             \
    cmocka_unit_test_setup_teardown(name, tap_setup, port_teardown)
#define VXLAN(name)                                                            \
    cmocka_unit_test_setup_teardown(name, vxlan_setup, port_teardown)
#define FAKE(name)                                                             \
    cmocka_unit_test_setup_teardown(name, fake_setup, fake_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_settled_when_all_is_taken),
        TEST(test_nothing_is_lost_when_it_is_slow),
        TEST(test_window_of_small_frames),
        VXLAN(test_dropped_until_it_is_ready),
        VXLAN(test_dropped_frames_are_counted),
        FAKE(test_counter_follows),
        FAKE(test_counter_falls),
        FAKE(test_counter_stands),
    };

    if (rc == 0 && access("/dev/net/tun", R_OK | W_OK) != 0) {
        print_message("skipped: no /dev/net/tun\n");
        rc = 77;
    }
    return rc ? rc : cmocka_run_group_tests(tests, NULL, NULL);
}
