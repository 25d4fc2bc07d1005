/* Nodes of the map: geometry, encoding, refusal of what is no node. */

#include "unit/store_fixture.h"

#include "store/map_node.h"

#define MIB2 (2ull << 20)

static void test_geometry(void **state)
{
    (void)state;
    assert_int_equal(map_page_count(0), 0);
    assert_int_equal(map_page_count(1), 1);
    assert_int_equal(map_page_count(4096), 1);
    assert_int_equal(map_page_count(4097), 2);
    assert_int_equal(map_height(0), 0);
    assert_int_equal(map_height(1), 0);
    assert_int_equal(map_height(MIB2), 0);
    assert_int_equal(map_height(MIB2 + 1), 1);
    assert_int_equal(map_height(512 * MIB2), 1);
    assert_int_equal(map_height(512 * MIB2 + 1), 2);
    assert_int_equal(map_height(512ull * 512 * MIB2), 2);
    assert_int_equal(map_height(STORE_OBJECT_MAX), MAP_HEIGHTS_MAX - 1);
    assert_int_equal(map_node_count(512 * MIB2 + 1, 0), 513);
    assert_int_equal(map_node_count(512 * MIB2 + 1, 1), 2);
    assert_int_equal(map_node_count(512 * MIB2 + 1, 2), 1);
}

static void test_encode_and_decode(void **state)
{
    static struct map_node node;
    static struct map_node got;
    uint8_t data[MAP_LEAF_SIZE];
    struct vn_err err = VN_ERR_INIT;
    size_t size;

    (void)state;
    for (unsigned height = 0; height < MAP_HEIGHTS_MAX; height++) {
        memset(&node, 0, sizeof(node));
        assert_true(map_node_is_zero(&node));
        node.height = height;
        fill_random(node.ids, sizeof(node.ids), height);
        if (height == 0)
            fill_random(node.fingerprints, sizeof(node.fingerprints), 9);
        assert_false(map_node_is_zero(&node));
        size = map_node_encode(&node, data);
        assert_int_equal(size, height ? MAP_INNER_SIZE : MAP_LEAF_SIZE);
        memset(&got, 0, sizeof(got));
        assert_ok(map_node_decode(data, size, height, &got, &err), &err);
        assert_memory_equal(&got, &node, sizeof(got));
        /* Another height, another size, another magic. */
        assert_int_equal(map_node_decode(data, size, height + 1, &got, &err),
                         -1);
        assert_int_equal(map_node_decode(data, size - 1, height, &got, &err),
                         -1);
        data[0] ^= 1;
        assert_int_equal(map_node_decode(data, size, height, &got, &err), -1);
        assert_int_equal(err.code, VN_E_CORRUPT);
    }
    assert_int_equal(map_node_decode(data, 0, 0, &got, &err), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_geometry),
        cmocka_unit_test(test_encode_and_decode),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
