/* Recorded frames as pcapng: round trips, every cut, what tshark thinks. */
#include "violin/pcapng.h"

#include "common/auto.h"
#include "common/io.h"
#include "violin/switch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct buf file;
static struct vn_err err;
static uint8_t frame[SWITCH_FRAME_MAX];

static int setup(void **state)
{
    (void)state;
    buf_init(&file, 1 << 20);
    err = (struct vn_err){0};
    for (size_t i = 0; i < sizeof(frame); i++)
        frame[i] = (uint8_t)(i * 7);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    buf_done(&file);
    return 0;
}

static size_t size_of(unsigned i)
{
    return i == 5 ? SWITCH_FRAME_MAX : SWITCH_FRAME_MIN + i;
}

static void write_file(unsigned count)
{
    pcapng_begin(&file, "web.0");
    for (unsigned i = 0; i < count; i++)
        pcapng_add(&file, 1700000000123456789ull + i, UINT32_MAX - i, frame + i,
                   i == 5 ? SWITCH_FRAME_MAX - 5 : size_of(i));
}

static void test_round_trip(void **state)
{
    struct pcapng_reader r;
    struct pcapng_frame got;

    (void)state;
    write_file(9);
    assert_false(file.broken);
    pcapng_open(&r, file.data, file.size);
    for (unsigned i = 0; i < 9; i++) {
        assert_int_equal(pcapng_next(&r, &got, &err), 1);
        assert_true(got.has_epoch);
        assert_int_equal(got.epoch, UINT32_MAX - i);
        assert_int_equal(got.wall_ns, 1700000000123456789ull + i);
        assert_int_equal(got.size, i == 5 ? SWITCH_FRAME_MAX - 5 : size_of(i));
        assert_memory_equal(got.data, frame + i, got.size);
    }
    assert_int_equal(pcapng_next(&r, &got, &err), 0);
    assert_int_equal(pcapng_next(&r, &got, &err), 0);
}

/* Whatever is cut off, no frame is invented and only block ends are ends. */
static void test_every_truncation(void **state)
{
    size_t ends[5], whole;
    unsigned end_count = 0;

    (void)state;
    pcapng_begin(&file, "p");
    ends[end_count++] = 28; /* after the section header alone */
    ends[end_count++] = file.size;
    for (unsigned i = 0; i < 3; i++) {
        pcapng_add(&file, i, i, frame, 20 + i);
        ends[end_count++] = file.size;
    }
    whole = file.size;
    for (size_t size = 0; size <= whole; size++) {
        vn_auto(free) uint8_t *part = malloc(size + 1);
        struct pcapng_reader r;
        struct pcapng_frame got;
        unsigned frames = 0;
        bool is_end = false;
        int result;

        memcpy(part, file.data, size);
        pcapng_open(&r, part, size);
        while ((result = pcapng_next(&r, &got, &err)) > 0)
            frames++;
        for (unsigned i = 0; i < end_count; i++)
            is_end = is_end || ends[i] == size;
        assert_int_equal(result, is_end ? 0 : -1);
        if (result)
            assert_int_equal(err.code, VN_E_FORMAT);
        assert_true(frames <= 3);
    }
}

static void refuse(size_t offset, uint32_t value, const char *says)
{
    uint8_t old[4];
    struct pcapng_reader r;
    struct pcapng_frame got;
    int result;

    memcpy(old, file.data + offset, 4);
    memcpy(file.data + offset, &value, 4);
    pcapng_open(&r, file.data, file.size);
    while ((result = pcapng_next(&r, &got, &err)) > 0)
        ;
    memcpy(file.data + offset, old, 4);
    assert_int_equal(result, -1);
    assert_int_equal(err.code, VN_E_FORMAT);
    if (!strstr(err.msg, says))
        fail_msg("'%s' does not say '%s'", err.msg, says);
}

static void test_damage(void **state)
{
    size_t packet;

    (void)state;
    pcapng_begin(&file, "p");
    packet = file.size;
    pcapng_add(&file, 1, 2, frame, 60);
    refuse(0, 1, "no section header");
    refuse(8, 0x4d3c2b1a, "not little-endian");
    refuse(12, 2, "unknown version");
    refuse(4, 27, "impossible block length");
    refuse(4, 8, "impossible block length");
    refuse(24, 32, "two lengths differ");
    refuse(28 + 8, 113, "not Ethernet");
    refuse(packet + 4, 1 << 20, "cut short");
    refuse(packet + 8, 1, "unknown interface");
    refuse(packet + 20, 59, "only a part");
    refuse(packet + 24, 61, "only a part");
    refuse(packet + 28 + 60 + 2, 0xffff0001, "cut short"); /* option */
    pcapng_begin(&file, "q"); /* a second section: interface 0 is another */
    pcapng_add(&file, 1, 2, frame, 60);
    refuse(packet + 20, 0xffffffff, "only a part");
}

static void test_impossible_frame(void **state)
{
    struct pcapng_reader r;
    struct pcapng_frame got;

    (void)state;
    pcapng_begin(&file, "p");
    pcapng_add(&file, 1, 2, frame, 13);
    pcapng_open(&r, file.data, file.size);
    assert_int_equal(pcapng_next(&r, &got, &err), -1);
    assert_non_null(strstr(err.msg, "impossible size"));
}

static void test_foreign_blocks(void **state)
{
    /* An unknown block, and a microsecond interface without a name. */
    static const uint32_t extra[] = {
        0x0bad, 16, 0xdeadbeef, 16,     /* skipped */
        1,      20, 1,          0,  20, /* interface 1 */
        6,      48, 1,          0,  5,  14, 14, 0, 0, 0, 0, 48,
    };
    struct pcapng_reader r;
    struct pcapng_frame got;

    (void)state;
    pcapng_begin(&file, "p");
    buf_put(&file, extra, sizeof(extra));
    pcapng_open(&r, file.data, file.size);
    assert_int_equal(pcapng_next(&r, &got, &err), 1);
    assert_int_equal(got.wall_ns, 5000);
    assert_int_equal(got.size, 14);
    assert_false(got.has_epoch);
    assert_int_equal(pcapng_next(&r, &got, &err), 0);
}

static char path[] = "/tmp/vn-pcapng-XXXXXX";

static int remove_file(void **state)
{
    unlink(path);
    return teardown(state);
}

static void test_tshark_reads_it(void **state)
{
    char line[256] = "";
    vn_auto(free) char *command = NULL;
    vn_auto(close) int fd = mkstemp(path);
    FILE *pipe;

    (void)state;
    if (system("command -v tshark >/dev/null 2>&1") != 0) {
        print_message("tshark is not installed\n");
        skip();
    }
    pcapng_begin(&file, "web.0");
    pcapng_add(&file, 1700000000123456789ull, 41, frame, 60);
    assert_int_equal(io_write(fd, file.data, file.size, &err), 0);
    command = vn_format("tshark -r %s -T fields -e frame.interface_name "
                        "-e frame.time_epoch -e frame.comment -e frame.len "
                        "2>/dev/null",
                        path);
    pipe = popen(command, "r");
    assert_non_null(pipe);
    assert_non_null(fgets(line, sizeof(line), pipe));
    assert_int_equal(pclose(pipe), 0);
    assert_string_equal(line,
                        "web.0\t1700000000.123456789\tvnstore epoch=41\t60\n");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_round_trip),
        TEST(test_every_truncation),
        TEST(test_damage),
        TEST(test_impossible_frame),
        TEST(test_foreign_blocks),
        cmocka_unit_test_setup_teardown(test_tshark_reads_it, setup,
                                        remove_file),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
