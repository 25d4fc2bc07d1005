/* The parts below the switch: forwarding database, hold queue, tallies. */
#include "violin/fdb.h"
#include "violin/hold.h"
#include "violin/tally.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

static void make_mac(uint8_t mac[6], uint32_t n)
{
    mac[0] = 2;
    mac[1] = 0;
    memcpy(mac + 2, &n, sizeof(n));
}

static int fdb_setup(void **state)
{
    *state = fdb_new();
    return 0;
}

static int fdb_teardown(void **state)
{
    fdb_free(*state);
    return 0;
}

static void test_fdb_holds_and_forgets(void **state)
{
    struct fdb *fdb = *state;
    const uint8_t group[6] = {1, 2, 3, 4, 5, 6}, zero[6] = {0};
    struct fdb_place place;
    uint8_t mac[6];

    fdb_learn(fdb, group, (struct fdb_place){FDB_PORT, 1}, 0);
    fdb_learn(fdb, zero, (struct fdb_place){FDB_PORT, 1}, 0);
    assert_int_equal(fdb_count(fdb), 0);
    assert_false(fdb_find(fdb, zero, 0, &place));
    for (uint32_t i = 0; i < 1000; i++) {
        make_mac(mac, i);
        fdb_learn(fdb, mac, (struct fdb_place){FDB_PORT, i % 7}, i);
    }
    assert_int_equal(fdb_count(fdb), 1000); /* no bucket is full yet */
    fdb_check(fdb);
    for (uint32_t i = 0; i < 1000; i++) {
        make_mac(mac, i);
        assert_true(fdb_find(fdb, mac, 1000, &place));
        assert_int_equal(place.index, i % 7);
    }
    fdb_forget(fdb, (struct fdb_place){FDB_PORT, 3});
    fdb_forget(fdb, (struct fdb_place){FDB_PEER, 4});
    fdb_check(fdb);
    assert_int_equal(fdb_count(fdb), 857);
    fdb_age(fdb, FDB_AGE_NS + 501); /* those seen at 500 and before */
    fdb_check(fdb);
    make_mac(mac, 500);
    assert_false(fdb_find(fdb, mac, FDB_AGE_NS + 501, &place));
    make_mac(mac, 502);
    assert_true(fdb_find(fdb, mac, FDB_AGE_NS + 501, &place));
}

static void test_fdb_never_grows_beyond_its_cap(void **state)
{
    struct fdb *fdb = *state;
    struct fdb_place place;
    uint8_t mac[6];

    for (uint32_t i = 0; i < 100000; i++) {
        make_mac(mac, i);
        fdb_learn(fdb, mac, (struct fdb_place){FDB_PORT, 1}, i);
    }
    fdb_check(fdb);
    assert_true(fdb_count(fdb) <= FDB_ENTRIES_MAX);
    assert_true(fdb_count(fdb) > FDB_ENTRIES_MAX * 9 / 10);
    assert_true(fdb_find(fdb, mac, 100000, &place)); /* the newest is there */
}

static struct hold queue;

static int hold_setup(void **state)
{
    (void)state;
    hold_init(&queue, 1 << 20);
    return 0;
}

static int hold_teardown(void **state)
{
    (void)state;
    hold_clear(&queue);
    return 0;
}

static size_t size_of_frame(unsigned i)
{
    return i % 97 == 0 ? 65550 : 14 + i * 37 % 1500;
}

static void test_hold_keeps_order_and_bytes(void **state)
{
    static uint8_t frame[65550];
    unsigned in = 0, out = 0;
    struct hold_frame got;

    (void)state;
    srand(7);
    for (unsigned round = 0; round < 20000; round++) {
        if (rand() % 2) {
            memset(frame, (int)(in % 251), size_of_frame(in));
            if (hold_push(&queue, in, frame, size_of_frame(in)))
                in++;
        } else if (out < in) {
            assert_true(hold_front(&queue, &got));
            assert_int_equal(got.epoch, out);
            assert_int_equal(got.size, size_of_frame(out));
            memset(frame, (int)(out % 251), got.size);
            assert_memory_equal(got.data, frame, got.size);
            hold_pop(&queue);
            out++;
        } else {
            assert_false(hold_front(&queue, &got));
        }
        if (round % 64 == 0)
            hold_check(&queue);
    }
    hold_check(&queue);
    assert_int_equal(queue.count, in - out);
}

static void test_hold_refuses_at_its_limit(void **state)
{
    static uint8_t frame[65550];
    struct hold_iter it = {0};
    struct hold_frame got;
    unsigned count = 0, seen = 0;

    (void)state;
    while (hold_push(&queue, count, frame, 1000))
        count++;
    assert_int_equal(count, (1 << 20) / (1000 + HOLD_OVERHEAD));
    hold_check(&queue);
    while (hold_next(&queue, &it, &got))
        assert_int_equal(got.epoch, seen++);
    assert_int_equal(seen, count);
    hold_pop(&queue);
    assert_true(hold_push(&queue, 0, frame, 1000));
    assert_false(hold_push(&queue, 0, frame, 1000));
    assert_false(hold_push(&queue, 0, frame, (1 << 18) - 7));
    hold_clear(&queue);
    assert_int_equal(queue.limit, 1 << 20);
    assert_false(hold_front(&queue, &got));
}

static void test_tally(void **state)
{
    struct tally t = {0};

    (void)state;
    for (uint32_t epoch = UINT32_MAX - 2; epoch != 3; epoch++) {
        for (uint32_t i = 0; i <= epoch % 5; i++)
            tally_add(&t, epoch);
    }
    for (uint32_t epoch = UINT32_MAX; epoch != 3; epoch++)
        assert_int_equal(tally_get(&t, epoch), epoch % 5 + 1);
    assert_int_equal(tally_get(&t, UINT32_MAX - 1), 0); /* the oldest went */
    assert_int_equal(tally_get(&t, 3), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_fdb_holds_and_forgets, fdb_setup,
                                        fdb_teardown),
        cmocka_unit_test_setup_teardown(test_fdb_never_grows_beyond_its_cap,
                                        fdb_setup, fdb_teardown),
        cmocka_unit_test_setup_teardown(test_hold_keeps_order_and_bytes,
                                        hold_setup, hold_teardown),
        cmocka_unit_test_setup_teardown(test_hold_refuses_at_its_limit,
                                        hold_setup, hold_teardown),
        cmocka_unit_test(test_tally),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
