/* Growing buffers and bounds-checked cursors. */

#include "common/buf.h"
#include "common/cursor.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void what_is_put_is_read_back(void **state)
{
    struct buf b;
    struct cursor c;

    (void)state;
    buf_init(&b, 1 << 20);
    buf_put_u8(&b, 0xab);
    buf_put_le16(&b, 0x1234);
    buf_put_le32(&b, 0x12345678);
    buf_put_le64(&b, UINT64_C(0x123456789abcdef0));
    buf_put_be16(&b, 0x1234);
    buf_put_be32(&b, 0x12345678);
    buf_put_be64(&b, UINT64_C(0x123456789abcdef0));
    buf_put_zero(&b, 3);
    assert_int_equal(b.size, 1 + 2 * (2 + 4 + 8) + 3);
    assert_int_equal(b.data[1], 0x34); /* little end first */
    assert_int_equal(b.data[15], 0x12);
    c = cursor_of(b.data, b.size);
    assert_int_equal(cursor_u8(&c), 0xab);
    assert_int_equal(cursor_le16(&c), 0x1234);
    assert_int_equal(cursor_le32(&c), 0x12345678);
    assert_true(cursor_le64(&c) == UINT64_C(0x123456789abcdef0));
    assert_int_equal(cursor_be16(&c), 0x1234);
    assert_int_equal(cursor_be32(&c), 0x12345678);
    assert_true(cursor_be64(&c) == UINT64_C(0x123456789abcdef0));
    assert_int_equal(cursor_left(&c), 3);
    assert_false(c.failed);
    buf_done(&b);
}

static void a_cursor_stops_at_the_end(void **state)
{
    static const uint8_t bytes[5] = {1, 2, 3, 4, 5};
    struct cursor c = cursor_of(bytes, sizeof(bytes));

    (void)state;
    assert_ptr_equal(cursor_take(&c, 5), bytes);
    assert_non_null(cursor_take(&c, 0));
    assert_int_equal(cursor_u8(&c), 0);
    assert_true(c.failed);
    c = cursor_of(bytes, sizeof(bytes));
    assert_int_equal(cursor_le64(&c), 0);
    assert_true(c.failed);
    assert_int_equal(cursor_u8(&c), 0); /* once failed, always */
    assert_int_equal(cursor_left(&c), 0);
    c = cursor_of(bytes, sizeof(bytes));
    assert_null(cursor_take(&c, SIZE_MAX));
}

static void a_buffer_keeps_its_limit(void **state)
{
    struct vn_err err = VN_ERR_INIT;
    struct buf b;

    (void)state;
    buf_init(&b, 1000);
    buf_put_zero(&b, 999);
    assert_int_equal(buf_check(&b, "it", &err), 0);
    buf_put_le16(&b, 1);
    assert_int_equal(b.size, 999);
    buf_put_u8(&b, 1); /* broken: what would fit is refused too */
    assert_int_equal(b.size, 999);
    assert_int_equal(buf_check(&b, "it", &err), -1);
    assert_int_equal(err.code, VN_E_LIMIT);
    assert_string_equal(err.msg, "it is larger than 1000 bytes");
    buf_done(&b);
}

static void consumed_bytes_are_gone(void **state)
{
    struct buf b;

    (void)state;
    buf_init(&b, 100);
    buf_put(&b, "hello world", 11);
    buf_consume(&b, 6);
    assert_int_equal(b.size, 5);
    assert_memory_equal(b.data, "world", 5);
    buf_consume(&b, 5);
    assert_int_equal(b.size, 0);
    buf_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_put_is_read_back),
        cmocka_unit_test(a_cursor_stops_at_the_end),
        cmocka_unit_test(a_buffer_keeps_its_limit),
        cmocka_unit_test(consumed_bytes_are_gone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
