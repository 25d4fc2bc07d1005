/* Strict reading of JSON that came from elsewhere. */

#include "common/jsonx.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static json_t *object;
static struct vn_err err;

static int setup(void **state)
{
    static const char text[] =
        "{\"name\": \"a\", \"size\": 7, \"low\": -1, \"on\": true}";

    (void)state;
    err = (struct vn_err)VN_ERR_INIT;
    object = jsonx_parse(text, sizeof(text) - 1, "test", &err);
    return object ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    json_decref(object);
    return 0;
}

static void reads_what_is_there(void **state)
{
    const char *name;
    uint64_t size;
    uint32_t small;
    bool on;

    (void)state;
    assert_int_equal(jsonx_string(object, "name", &name, &err), 0);
    assert_string_equal(name, "a");
    assert_int_equal(jsonx_u64(object, "size", &size, &err), 0);
    assert_int_equal(size, 7);
    assert_int_equal(jsonx_u32(object, "size", 7, &small, &err), 0);
    assert_int_equal(jsonx_bool(object, "on", &on, &err), 0);
    assert_true(on);
    assert_int_equal(jsonx_u64_or(object, "nothing", 3), 3);
}

static void names_what_is_wrong(void **state)
{
    const char *name = "untouched";
    uint64_t size;
    uint32_t small;

    (void)state;
    assert_int_equal(jsonx_string(object, "size", &name, &err), -1);
    assert_string_equal(err.msg, "'size' is not a string");
    assert_string_equal(name, "untouched");
    assert_int_equal(jsonx_u64(object, "nothing", &size, &err), -1);
    assert_string_equal(err.msg, "'nothing' is missing");
    assert_int_equal(jsonx_u64(object, "low", &size, &err), -1);
    assert_int_equal(jsonx_u32(object, "size", 6, &small, &err), -1);
    assert_int_equal(err.code, VN_E_LIMIT);
    assert_int_equal(jsonx_u64(NULL, "x", &size, &err), -1);
}

static void bad_text_has_its_place(void **state)
{
    static const char twice[] = "{\"a\": 1, \"a\": 2}";

    (void)state;
    assert_null(jsonx_parse("{\n  x", 5, "file", &err));
    assert_non_null(strstr(err.msg, "file: line 2"));
    assert_null(jsonx_parse(twice, sizeof(twice) - 1, "file", &err));
}

static void any_bytes_become_a_string(void **state)
{
    json_t *good = jsonx_any_string("gr\xc3\xbcn");
    json_t *bad = jsonx_any_string("a\xff\xc3z");

    (void)state;
    assert_string_equal(json_string_value(good), "gr\xc3\xbcn");
    assert_string_equal(json_string_value(bad), "a??z");
    json_decref(good);
    json_decref(bad);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(reads_what_is_there),
        TEST(names_what_is_wrong),
        TEST(bad_text_has_its_place),
        TEST(any_bytes_become_a_string),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
