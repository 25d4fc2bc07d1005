/* CPU features of a saved domain against those of a host. */

#include "capture/xen_cpu.h"

#include "common/auto.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static const struct xen_cpu_leaf host[] = {
    {.leaf = 1, .subleaf = UINT32_MAX, .regs = {0, 0, 0x10000001, 0x06000000}},
    {.leaf = 7, .subleaf = 0, .regs = {0, 0x20, 0, 0}},
    {.leaf = 7, .subleaf = 1, .regs = {0x20, 0, 0, 0}},
};

/* Little-endian, as in the record; this machine is. */
static int check(const struct xen_cpu_leaf *leaves, size_t count,
                 struct vn_err *err)
{
    uint8_t bytes[4 * XEN_CPU_LEAF_SIZE];

    assert_true(count <= 4);
    memcpy(bytes, leaves, count * XEN_CPU_LEAF_SIZE);
    return xen_cpu_check(bytes, count * XEN_CPU_LEAF_SIZE, host, VN_COUNT(host),
                         err);
}

static void same_and_less_fit(void **state)
{
    static const struct xen_cpu_leaf less = {
        .leaf = 1, .subleaf = UINT32_MAX, .regs = {~0u, ~0u, 1, 0x02000000}};
    struct vn_err err = VN_ERR_INIT;

    (void)state;
    assert_int_equal(check(host, VN_COUNT(host), &err), 0);
    assert_int_equal(check(&less, 1, &err), 0);
    assert_int_equal(check(host, 0, &err), 0);
}

static void missing_features_are_named(void **state)
{
    static const struct xen_cpu_leaf more[] = {
        {.leaf = 1, .subleaf = UINT32_MAX, .regs = {0, 0, 1u << 30, 0}},
        {.leaf = 7, .subleaf = 0, .regs = {0, 1u << 16 | 1u << 22, 0, 0}},
    };
    struct vn_err err = VN_ERR_INIT;

    (void)state;
    assert_int_equal(check(more, 2, &err), -1);
    assert_int_equal(err.code, VN_E_UNSUPPORTED);
    assert_non_null(strstr(err.msg, "lacks 3 features"));
    assert_non_null(strstr(err.msg, "rdrand, avx512f, 7.ebx[22]"));
}

static void switches_do_not_count(void **state)
{
    static const struct xen_cpu_leaf switched[] = {
        {.leaf = 1,
         .subleaf = UINT32_MAX,
         .regs = {0, 0, 1u << 27 | 1u << 31, 1u << 9 | 1u << 28}},
        {.leaf = 7, .subleaf = 0, .regs = {0, 0, 1u << 4, 0}},
        {.leaf = 4, .subleaf = 0, .regs = {~0u, ~0u, ~0u, ~0u}},
    };
    struct vn_err err = VN_ERR_INIT;

    (void)state;
    assert_int_equal(check(switched, 3, &err), 0);
}

/* A leaf that the host has not at all lacks everything; the list ends. */
static void long_lists_are_cut(void **state)
{
    static const struct xen_cpu_leaf all[] = {
        {.leaf = 0x80000001, .subleaf = UINT32_MAX, .regs = {0, 0, ~0u, ~0u}},
        {.leaf = 1, .subleaf = UINT32_MAX, .regs = {0, 0, ~0u, ~0u}},
    };
    struct vn_err err = VN_ERR_INIT;

    (void)state;
    assert_int_equal(check(all, 2, &err), -1);
    assert_non_null(strstr(err.msg, "with: 80000001.edx[10], syscall, "));
    assert_non_null(strstr(err.msg, ", ..."));
    assert_true(strlen(err.msg) < 400);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_and_less_fit),
        cmocka_unit_test(missing_features_are_named),
        cmocka_unit_test(switches_do_not_count),
        cmocka_unit_test(long_lists_are_cut),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
