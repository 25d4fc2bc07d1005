/* Errors, whole files, sizes, hex, fault points. */

#include "common/auto.h"
#include "common/fault.h"
#include "common/io.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[] = "/tmp/test_common_io.XXXXXX";
static struct vn_err err;

static int group_setup(void **state)
{
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int group_teardown(void **state)
{
    (void)state;
    return rmdir(dir);
}

static void errors_are_sentences(void **state)
{
    struct vn_err e = VN_ERR_INIT;

    (void)state;
    assert_int_equal(vn_fail(&e, ENOENT, "open '%s'", "x"), -1);
    assert_string_equal(e.msg, "open 'x': No such file or directory");
    assert_int_equal(vn_wrap(&e, "VM '%s'", "a"), -1);
    assert_string_equal(e.msg, "VM 'a': open 'x': No such file or directory");
    assert_int_equal(e.code, ENOENT);
    assert_null(vn_fail_ptr(&e, VN_E_FORMAT, "odd"));
    assert_string_equal(e.msg, "odd");
    for (int i = 0; i < 40; i++)
        vn_wrap(&e, "a context that is rather long");
    assert_true(strlen(e.msg) < sizeof(e.msg));
}

static void files_are_replaced_whole(void **state)
{
    vn_auto(free) char *path = vn_format("%s/file", dir);
    struct buf b;

    (void)state;
    assert_int_equal(io_replace_file(path, "one", 3, &err), 0);
    assert_int_equal(io_replace_file(path, "second", 6, &err), 0);
    buf_init(&b, 7);
    assert_int_equal(io_read_file(path, &b, &err), 0);
    assert_int_equal(b.size, 6);
    assert_string_equal((char *)b.data, "second");
    buf_done(&b);
    buf_init(&b, 5);
    assert_int_equal(io_read_file(path, &b, &err), -1);
    assert_int_equal(err.code, VN_E_LIMIT);
    buf_done(&b);
    unlink(path);
    assert_int_equal(io_read_file(path, &b, &err), -1);
    assert_int_equal(err.code, ENOENT);
    assert_int_equal(io_replace_file("/nonexistent/x", "", 0, &err), -1);
}

static void sizes_are_strict(void **state)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {{"0", 0},
                {"4096", 4096},
                {"256M", UINT64_C(256) << 20},
                {"2k", 2048},
                {"1GiB", UINT64_C(1) << 30},
                {"3T", UINT64_C(3) << 40}};
    static const char *const bad[] = {"",
                                      "M",
                                      "-1",
                                      "1Q",
                                      "1MM",
                                      "1.5G",
                                      "99999999999999999999",
                                      "18446744073709551615K"};
    uint64_t bytes;
    char text[16];

    (void)state;
    for (size_t i = 0; i < VN_COUNT(good); i++) {
        assert_int_equal(io_parse_size(good[i].text, &bytes, &err), 0);
        assert_true(bytes == good[i].bytes);
    }
    for (size_t i = 0; i < VN_COUNT(bad); i++)
        assert_int_equal(io_parse_size(bad[i], &bytes, &err), -1);
    io_format_size(1536, text);
    assert_string_equal(text, "1.5 KiB");
    io_format_size(UINT64_MAX, text);
    assert_string_equal(text, "16384 PiB");
}

static void hex_goes_both_ways(void **state)
{
    uint8_t bytes[3];
    char text[7];

    (void)state;
    assert_int_equal(io_unhex("00fFa1", bytes, 3, &err), 0);
    io_hex(bytes, 3, text);
    assert_string_equal(text, "00ffa1");
    assert_int_equal(io_unhex("00ffa", bytes, 3, &err), -1);
    assert_int_equal(io_unhex("00ffag", bytes, 3, &err), -1);
}

static void fault_points_count(void **state)
{
    (void)state;
    fault_set("one,two:3,three:2:fail");
    assert_int_equal(fault_hit("one"), 1);
    assert_int_equal(fault_hit("one"), 0); /* once */
    assert_int_equal(fault_hit("two"), 0);
    assert_int_equal(fault_hit("two"), 0);
    assert_int_equal(fault_hit("two"), 1);
    assert_int_equal(fault_hit("three"), 0);
    assert_int_equal(fault_hit("three"), 1);
    assert_int_equal(fault_hit("four"), 0);
    fault_set(NULL);
    assert_int_equal(fault_hit("one"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_are_sentences),
        cmocka_unit_test(files_are_replaced_whole),
        cmocka_unit_test(sizes_are_strict),
        cmocka_unit_test(hex_goes_both_ways),
        cmocka_unit_test(fault_points_count),
    };

    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
