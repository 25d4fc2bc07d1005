#include "coord/frame.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define LIMIT 1000u

static struct frame_reader reader;
static struct vn_err err;

static int setup(void **state)
{
    (void)state;
    err.code = 0;
    frame_reader_init(&reader, LIMIT);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    frame_reader_done(&reader);
    return 0;
}

/* Feed bytes and say how many frames came whole. */
static int feed(const void *data, size_t size)
{
    struct cursor in = cursor_of(data, size);
    int count = 0;

    while (cursor_left(&in)) {
        bool whole = false;

        if (frame_reader_feed(&reader, &in, &whole, &err) < 0)
            return -1;
        count += whole;
    }
    return count;
}

static void test_whole_and_split(void **state)
{
    static const uint8_t two[] = "\0\0\0\2{}\0\0\0\5hello";

    (void)state;
    assert_int_equal(feed(two, sizeof(two) - 1), 2);
    assert_int_equal(reader.body.size, 5);
    assert_memory_equal(reader.body.data, "hello", 5);
    assert_true(frame_reader_at_start(&reader));
    for (size_t i = 0; i < sizeof(two) - 1; i++) {
        assert_int_equal(feed(two + i, 1), i == 5 || i == 14);
        assert_int_equal(frame_reader_at_start(&reader), i == 5 || i == 14);
    }
}

static void test_sizes(void **state)
{
    static uint8_t most[FRAME_HEAD_SIZE + LIMIT];

    (void)state;
    frame_put_head(most, LIMIT);
    assert_int_equal(feed(most, sizeof(most)), 1);
    assert_int_equal(reader.body.size, LIMIT);
    frame_put_head(most, LIMIT + 1);
    assert_int_equal(feed(most, sizeof(most)), -1);
    assert_int_equal(err.code, VN_E_LIMIT);
}

static void test_zero(void **state)
{
    (void)state;
    assert_int_equal(feed("\0\0\0\0", 4), -1);
    assert_int_equal(err.code, VN_E_FORMAT);
}

static void test_garbage(void **state)
{
    (void)state;
    assert_int_equal(feed("GET / HTTP/1.1\r\n", 16), -1);
    assert_int_equal(err.code, VN_E_LIMIT);
    assert_non_null(strstr(err.msg, "1195725856"));
}

/* What is announced costs nothing; what was large is given back. */
static void test_memory(void **state)
{
    static uint8_t big[FRAME_HEAD_SIZE + (1u << 20)];

    (void)state;
    reader.limit = 16u << 20;
    reader.body.limit = reader.limit;
    frame_put_head(big, 16u << 20);
    assert_int_equal(feed(big, 14), 0);
    assert_true(reader.body.capacity <= 1024);
    teardown(NULL);
    frame_reader_init(&reader, 16u << 20);
    frame_put_head(big, 1u << 20);
    assert_int_equal(feed(big, sizeof(big)), 1);
    assert_int_equal(feed("\0\0\0\2{}", 6), 1);
    assert_true(reader.body.capacity <= 1024);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_whole_and_split, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sizes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_zero, setup, teardown),
        cmocka_unit_test_setup_teardown(test_garbage, setup, teardown),
        cmocka_unit_test_setup_teardown(test_memory, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
