/* Which windows of a domain's memory are in its image, and where. */

#include "capture/xen_layout.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define NONE XEN_WINDOW_NONE

static uint8_t types[XEN_WINDOW_PFNS];

static uint64_t next(struct xen_layout *layout, size_t count)
{
    return xen_layout_next(layout, types, count);
}

static int fill_xtab(void **state)
{
    (void)state;
    memset(types, XEN_PAGE_XTAB, sizeof(types));
    return 0;
}

/* Windows with data lie one behind the other, whatever is between them. */
static void test_order(void **state)
{
    struct xen_layout layout = {0};

    (void)state;
    assert_true(next(&layout, 512) == NONE);
    types[511] = XEN_PAGE_NORMAL;
    assert_int_equal(next(&layout, 512), 0);
    types[0] = XEN_PAGE_NORMAL;
    assert_int_equal(next(&layout, 512), 2u << 20);
    fill_xtab(NULL);
    for (unsigned i = 0; i < 2000; i++)
        assert_true(next(&layout, 512) == NONE);
    memset(types, XEN_PAGE_NORMAL, sizeof(types));
    assert_int_equal(next(&layout, 512), 4u << 20);
    assert_int_equal(layout.size, 6u << 20);
    assert_int_equal(layout.pages, 1 + 2 + 512);
}

/* What has data is what is in a stream with 4096 bytes. */
static void test_types(void **state)
{
    static const uint8_t data[] = {0, 1, 2, 3, 4, 9, 10, 11, 12};

    (void)state;
    for (unsigned type = 0; type <= UINT8_MAX; type++) {
        struct xen_layout layout = {0};
        bool has_data = memchr(data, (int)type, sizeof(data)) != NULL;

        types[77] = (uint8_t)type;
        assert_int_equal(next(&layout, 512) == 0, has_data);
        assert_int_equal(layout.pages, has_data);
        assert_int_equal(layout.size, has_data ? XEN_WINDOW_SIZE : 0);
        memset(types, (int)type, sizeof(types)); /* throughout */
        assert_int_equal(next(&layout, 512) != NONE, has_data);
        fill_xtab(NULL);
    }
}

/* The last window is cut; its place is not. Types behind it are not read. */
static void test_last(void **state)
{
    struct xen_layout layout = {0};

    (void)state;
    types[3] = XEN_PAGE_NORMAL;
    assert_true(next(&layout, 0) == NONE);
    assert_true(next(&layout, 1) == NONE);
    assert_true(next(&layout, 3) == NONE);
    assert_int_equal(next(&layout, 4), 0);
    assert_int_equal(layout.size, XEN_WINDOW_SIZE);
    assert_int_equal(layout.pages, 1);
}

/* As many as there may be: 64 TiB. */
static void test_largest(void **state)
{
    const uint64_t windows = XEN_PFN_MAX / XEN_WINDOW_PFNS;
    struct xen_layout layout = {.size = (windows - 1) * XEN_WINDOW_SIZE,
                                .pages = XEN_PFN_MAX - XEN_WINDOW_PFNS};

    (void)state;
    memset(types, XEN_PAGE_NORMAL, sizeof(types));
    assert_true(next(&layout, 512) == (64ull << 40) - XEN_WINDOW_SIZE);
    assert_true(layout.size == 64ull << 40);
    assert_true(layout.pages == XEN_PFN_MAX);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_order, fill_xtab),
        cmocka_unit_test_setup(test_types, fill_xtab),
        cmocka_unit_test_setup(test_last, fill_xtab),
        cmocka_unit_test_setup(test_largest, fill_xtab),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
