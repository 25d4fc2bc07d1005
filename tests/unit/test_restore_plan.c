/* Placement of VMs on hosts. */

#include "restore/plan.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/auto.h"

#include <string.h>

#define GIB  (1ull << 30)
#define NONE 99

static void test_spreads(void **state)
{
    struct plan_vm vms[] = {{"a", 1 * GIB, NULL, NONE},
                            {"b", 4 * GIB, NULL, NONE},
                            {"c", 2 * GIB, NULL, NONE},
                            {"d", 2 * GIB, NULL, NONE}};
    const struct plan_host hosts[] = {{"h1", 6 * GIB}, {"h2", 5 * GIB}};
    struct vn_err err = VN_ERR_INIT;

    (void)state;
    assert_int_equal(plan_place(vms, 4, hosts, 2, &err), 0);
    assert_int_equal(vms[1].host, 0); /* b: h1 has 6 > 5, leaves 2 */
    assert_int_equal(vms[2].host, 1); /* c: h2 has 5 > 2, leaves 3 */
    assert_int_equal(vms[3].host, 1); /* d: h2 has 3 > 2, leaves 1 */
    assert_int_equal(vms[0].host, 0); /* a: h1 has 2 > 1 */
}

/* The order in which the VMs come does not matter. */
static void test_deterministic(void **state)
{
    static const char *const names[] = {"a", "b", "c", "d", "e"};
    static const uint64_t sizes[] = {GIB, GIB, 3 * GIB, GIB, 2 * GIB};
    const struct plan_host hosts[] = {
        {"x", 4 * GIB}, {"y", 4 * GIB}, {"z", 3 * GIB}};
    size_t first[5];

    (void)state;
    for (size_t turn = 0; turn < 5; turn++) {
        struct vn_err err = VN_ERR_INIT;
        struct plan_vm vms[5];

        for (size_t i = 0; i < 5; i++) {
            size_t k = (i + turn) % 5;

            vms[i] = (struct plan_vm){names[k], sizes[k], NULL, NONE};
        }
        assert_int_equal(plan_place(vms, 5, hosts, 3, &err), 0);
        for (size_t i = 0; i < 5; i++) {
            size_t k = (i + turn) % 5;

            if (turn == 0)
                first[k] = vms[i].host;
            assert_int_equal(vms[i].host, first[k]);
        }
    }
    assert_int_equal(first[2], 0); /* c, the largest; tie by order given */
    assert_int_equal(first[4], 1);
    assert_int_equal(first[0], 2);
}

static void test_pins(void **state)
{
    struct plan_vm vms[] = {{"a", 4 * GIB, NULL, NONE},
                            {"b", 3 * GIB, "h1", NONE},
                            {"c", 9 * GIB, "h1", NONE}};
    const struct plan_host hosts[] = {{"h1", 5 * GIB}, {"h2", 4 * GIB}};
    struct vn_err err = VN_ERR_INIT;

    (void)state;
    assert_int_equal(plan_place(vms, 3, hosts, 2, &err), 0);
    assert_int_equal(vms[0].host, 1); /* the pins took h1 */
    assert_int_equal(vms[1].host, 0);
    assert_int_equal(vms[2].host, 0); /* does not fit, but was told to */
    vms[1].pinned_host = "h9";
    assert_int_equal(plan_place(vms, 3, hosts, 2, &err), -1);
    assert_int_equal(err.code, VN_E_NOT_FOUND);
    assert_string_equal(
        err.msg, "VM 'b' is mapped to host 'h9', which is not in the list");
}

static void test_does_not_fit(void **state)
{
    struct plan_vm vms[] = {{"a", 3 * GIB, NULL, NONE},
                            {"b", 3 * GIB, NULL, NONE},
                            {"c", 3 * GIB, NULL, NONE}};
    const struct plan_host hosts[] = {{"h1", 4 * GIB}, {"h2", 5 * GIB}};
    struct vn_err err = VN_ERR_INIT;

    (void)state;
    assert_int_equal(plan_place(vms, 3, hosts, 2, &err), -1);
    assert_int_equal(err.code, VN_E_LIMIT);
    assert_string_equal(err.msg, "VM 'c' needs 3072 MiB and fits on no host: "
                                 "'h2' has the most left, 2048 MiB");
    assert_int_equal(vms[0].host, NONE); /* untouched on failure */
    assert_int_equal(plan_place(vms, 3, hosts, 0, &err), -1);
    assert_int_equal(err.code, VN_E_LIMIT);
    assert_int_equal(plan_place(vms, 0, hosts, 0, &err), 0);
}

static void test_exact_fit(void **state)
{
    struct plan_vm vms[] = {{"a", 4 * GIB, NULL, NONE}, {"b", 0, NULL, NONE}};
    const struct plan_host hosts[] = {{"h1", 4 * GIB}};
    struct vn_err err = VN_ERR_INIT;

    (void)state;
    assert_int_equal(plan_place(vms, 2, hosts, 1, &err), 0);
    assert_int_equal(vms[0].host, 0);
    assert_int_equal(vms[1].host, 0); /* of unknown size */
}

static void test_unknown_memory(void **state)
{
    struct plan_vm vms[] = {{"a", GIB, NULL, NONE},
                            {"b", GIB, NULL, NONE},
                            {"c", GIB, NULL, NONE},
                            {"d", GIB, NULL, NONE}};
    const struct plan_host hosts[] = {{"h1", 0}, {"h2", 64 * GIB}, {"h3", 0}};
    struct vn_err err = VN_ERR_INIT;

    (void)state;
    assert_int_equal(plan_place(vms, 4, hosts, 3, &err), 0);
    assert_int_equal(vms[0].host, 0); /* taking turns, by name */
    assert_int_equal(vms[1].host, 2);
    assert_int_equal(vms[2].host, 0);
    assert_int_equal(vms[3].host, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spreads),   cmocka_unit_test(test_deterministic),
        cmocka_unit_test(test_pins),      cmocka_unit_test(test_does_not_fit),
        cmocka_unit_test(test_exact_fit), cmocka_unit_test(test_unknown_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
