/* Images: round trips, what a put costs, parents, replaced pages, holes. */

#include "unit/store_fixture.h"

static void test_round_trip_of_sizes(void **state)
{
    static const size_t sizes[] = {0,
                                   1,
                                   4095,
                                   4096,
                                   4097,
                                   2 * TEST_MIB - 1,
                                   2 * TEST_MIB,
                                   2 * TEST_MIB + 5,
                                   7 * TEST_MIB + 12345};
    struct store_fixture *f = *state;
    vn_auto(free) uint8_t *data = vn_alloc(8 * TEST_MIB);

    fill_random(data, 8 * TEST_MIB, 3);
    for (size_t i = 0; i < VN_COUNT(sizes); i++) {
        struct map_root root =
            store_image(f->store, data, sizes[i], NULL, NULL);

        assert_true(image_equals(f->store, &root, data, sizes[i]));
    }
    fixture_reopen(f);
    assert_int_equal(count_findings(f->store), 0);
}

static void test_put_in_any_order(void **state)
{
    enum { PAGES = 1500 };
    struct store_fixture *f = *state;
    vn_auto(free) uint8_t *data = vn_alloc(PAGES * PAGE);
    struct vn_err err = VN_ERR_INIT;
    struct store_writer *writer = store_writer_open(f->store, &err);
    struct image_writer *image;
    struct map_root root;

    fill_half(data, PAGES * PAGE, 4);
    image = image_writer_open(writer, PAGES * PAGE, NULL, &err);
    assert_made(image, &err);
    for (unsigned i = 0; i < PAGES; i++) {
        unsigned page = i * 7 % PAGES; /* 7 does not divide 1500 */

        assert_ok(image_writer_put(image, page * PAGE, data + page * PAGE, PAGE,
                                   &err),
                  &err);
    }
    assert_ok(image_writer_finish(image, &root, &err), &err);
    assert_ok(store_writer_flush(writer, &err), &err);
    image_writer_free(image);
    store_writer_free(writer);
    assert_true(image_equals(f->store, &root, data, PAGES * PAGE));
}

/* The caller's buffer is reused after each put, as a stream reader does. */
static void test_put_copies(void **state)
{
    enum { PAGES = 600 };
    struct store_fixture *f = *state;
    vn_auto(free) uint8_t *data = vn_alloc(PAGES * PAGE);
    struct vn_err err = VN_ERR_INIT;
    struct store_writer *writer = store_writer_open(f->store, &err);
    struct image_writer *image;
    struct map_root root;
    uint8_t page[PAGE];

    fill_random(data, PAGES * PAGE, 5);
    image = image_writer_open(writer, PAGES * PAGE, NULL, &err);
    for (unsigned i = 0; i < PAGES; i++) {
        memcpy(page, data + i * PAGE, PAGE);
        assert_ok(image_writer_put(image, i * PAGE, page, PAGE, &err), &err);
        memset(page, 0xee, PAGE);
    }
    assert_ok(image_writer_finish(image, &root, &err), &err);
    assert_ok(store_writer_flush(writer, &err), &err);
    image_writer_free(image);
    store_writer_free(writer);
    assert_true(image_equals(f->store, &root, data, PAGES * PAGE));
}

static void test_put_again_replaces(void **state)
{
    enum { PAGES = 8 };
    struct store_fixture *f = *state;
    uint8_t data[PAGES * PAGE];
    uint8_t zero[PAGE] = {0};
    uint8_t other[PAGE];
    struct vn_err err = VN_ERR_INIT;
    struct map_root parent;
    struct store_writer *writer;
    struct image_writer *image;
    struct map_root root;

    fill_random(data, sizeof(data), 6);
    fill_random(other, PAGE, 7);
    parent = store_image(f->store, data, sizeof(data), NULL, NULL);
    writer = store_writer_open(f->store, &err);
    image = image_writer_open(writer, sizeof(data), &parent, &err);
    /* 0: new, then zero. 1: new, then as in the parent. 2: new, then new.
     * 3: zero, then new. 4: as in the parent, then zero. Others: as there. */
    for (unsigned i = 0; i < 3; i++)
        assert_ok(image_writer_put(image, i * PAGE, other, PAGE, &err), &err);
    assert_ok(image_writer_put(image, 3 * PAGE, zero, PAGE, &err), &err);
    assert_ok(
        image_writer_put(image, 4 * PAGE, data + 4 * PAGE, 4 * PAGE, &err),
        &err);
    assert_ok(image_writer_put(image, 0, zero, PAGE, &err), &err);
    assert_ok(image_writer_put(image, PAGE, data + PAGE, PAGE, &err), &err);
    fill_random(data + 2 * PAGE, PAGE, 8);
    assert_ok(image_writer_put(image, 2 * PAGE, data + 2 * PAGE, PAGE, &err),
              &err);
    assert_ok(image_writer_put(image, 3 * PAGE, other, PAGE, &err), &err);
    assert_ok(image_writer_put(image, 4 * PAGE, zero, PAGE, &err), &err);
    memset(data, 0, PAGE);
    memcpy(data + 3 * PAGE, other, PAGE);
    memset(data + 4 * PAGE, 0, PAGE);
    assert_ok(image_writer_finish(image, &root, &err), &err);
    assert_ok(store_writer_flush(writer, &err), &err);
    image_writer_free(image);
    store_writer_free(writer);
    assert_true(image_equals(f->store, &root, data, sizeof(data)));
}

static void test_zeros_store_nothing(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) uint8_t *data = vn_alloc(5 * TEST_MIB + 77);
    struct store_counts counts;
    struct store_stats stats;
    struct vn_err err = VN_ERR_INIT;
    struct map_root none = {0};
    struct map_root root =
        store_image(f->store, data, 5 * TEST_MIB + 77, NULL, &counts);

    assert_memory_equal(&root.root, &none.root, sizeof(root.root));
    assert_int_equal(counts.bytes_zero, counts.bytes_read);
    assert_int_equal(counts.bytes_new, 0);
    assert_int_equal(counts.bytes_stored, 0);
    assert_ok(store_stats(f->store, &stats, &err), &err);
    assert_int_equal(stats.packs, 0);
    assert_true(image_equals(f->store, &root, data, 5 * TEST_MIB + 77));
}

static void test_pages_never_put_are_zeros(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) uint8_t *data = vn_alloc(4 * TEST_MIB);
    struct vn_err err = VN_ERR_INIT;
    struct store_writer *writer = store_writer_open(f->store, &err);
    struct image_writer *image;
    struct map_root parent;
    struct map_root root;

    fill_half(data, 4 * TEST_MIB, 9);
    parent = store_image(f->store, data, 4 * TEST_MIB, NULL, NULL);
    image = image_writer_open(writer, 4 * TEST_MIB, &parent, &err);
    assert_ok(image_writer_put(image, TEST_MIB, data + TEST_MIB, PAGE, &err),
              &err);
    assert_ok(image_writer_finish(image, &root, &err), &err);
    assert_ok(store_writer_flush(writer, &err), &err);
    image_writer_free(image);
    store_writer_free(writer);
    memset(data, 0, TEST_MIB);
    memset(data + TEST_MIB + PAGE, 0, 3 * TEST_MIB - PAGE);
    assert_true(image_equals(f->store, &root, data, 4 * TEST_MIB));
}

static void test_counts_with_parent(void **state)
{
    enum { PAGES = 1024 };
    struct store_fixture *f = *state;
    vn_auto(free) uint8_t *data = vn_alloc(PAGES * PAGE);
    struct store_counts c;
    struct map_root first;
    struct map_root second;

    fill_half(data, PAGES * PAGE, 10);
    memset(data + 10 * PAGE, 0, 20 * PAGE);
    first = store_image(f->store, data, PAGES * PAGE, NULL, &c);
    assert_int_equal(c.bytes_read, PAGES * PAGE);
    assert_int_equal(c.bytes_zero, 20 * PAGE);
    assert_int_equal(c.bytes_unchanged, 0);
    assert_int_equal(c.bytes_known, 0);
    assert_int_equal(c.bytes_new, (PAGES - 20) * PAGE);
    assert_true(c.bytes_stored < c.bytes_new * 6 / 10);

    /* 50 new pages, 7 moved here from elsewhere, 3 became zero. */
    fill_half(data + 100 * PAGE, 50 * PAGE, 11);
    memcpy(data + 200 * PAGE, data + 300 * PAGE, 7 * PAGE);
    memset(data + 400 * PAGE, 0, 3 * PAGE);
    second = store_image(f->store, data, PAGES * PAGE, &first, &c);
    assert_int_equal(c.bytes_zero, 23 * PAGE);
    assert_int_equal(c.bytes_unchanged, (PAGES - 23 - 50 - 7) * PAGE);
    assert_int_equal(c.bytes_known, 7 * PAGE);
    assert_int_equal(c.bytes_new, 50 * PAGE);
    assert_true(image_equals(f->store, &second, data, PAGES * PAGE));

    /* Once more: nothing is written, with and without a parent. */
    first = store_image(f->store, data, PAGES * PAGE, &second, &c);
    assert_memory_equal(&first, &second, sizeof(first));
    assert_int_equal(c.bytes_unchanged + c.bytes_zero, PAGES * PAGE);
    assert_int_equal(c.bytes_stored, 0);
    first = store_image(f->store, data, PAGES * PAGE, NULL, &c);
    assert_memory_equal(&first, &second, sizeof(first));
    assert_int_equal(c.bytes_known + c.bytes_zero, PAGES * PAGE);
    assert_int_equal(c.bytes_stored, 0);
}

static void test_parent_of_other_size(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) uint8_t *data = vn_alloc(6 * TEST_MIB);
    struct store_counts c;
    struct map_root small;
    struct map_root large;
    struct map_root bad = {.size = TEST_MIB};

    fill_half(data, 6 * TEST_MIB, 12);
    small = store_image(f->store, data, TEST_MIB, NULL, NULL);
    large = store_image(f->store, data, 6 * TEST_MIB, &small, &c);
    assert_int_equal(c.bytes_unchanged, TEST_MIB);
    assert_true(image_equals(f->store, &large, data, 6 * TEST_MIB));
    small = store_image(f->store, data, TEST_MIB, &large, &c);
    assert_int_equal(c.bytes_unchanged, TEST_MIB);
    /* A parent that is not there is ignored. */
    memset(&bad.root, 0x42, sizeof(bad.root));
    small = store_image(f->store, data, TEST_MIB, &bad, &c);
    assert_int_equal(c.bytes_known, TEST_MIB);
}

static void test_reads_of_parts(void **state)
{
    struct store_fixture *f = *state;
    const size_t size = 3 * TEST_MIB + 1000;
    vn_auto(free) uint8_t *data = vn_alloc(size);
    vn_auto(free) uint8_t *got = vn_alloc(size);
    struct vn_err err = VN_ERR_INIT;
    struct image_reader *reader;
    struct map_root root;
    uint64_t x = 77;

    fill_random(data, size, 13);
    memset(data + TEST_MIB, 0, TEST_MIB);
    root = store_image(f->store, data, size, NULL, NULL);
    reader = image_reader_open(f->store, &root, &err);
    assert_made(reader, &err);
    for (unsigned i = 0; i < 200; i++) {
        size_t offset;
        size_t n;

        x = x * 6364136223846793005ull + 1442695040888963407ull;
        offset = (x >> 33) % size;
        n = (x >> 20) % 20000;
        n = n < size - offset ? n : size - offset;
        memset(got, 0x55, n);
        assert_ok(image_reader_read(reader, offset, got, n, &err), &err);
        assert_memory_equal(got, data + offset, n);
    }
    image_reader_free(reader);
}

static void test_next_data(void **state)
{
    struct store_fixture *f = *state;
    const uint64_t size = (5ull << 30) + 100; /* three levels, mostly holes */
    static const uint64_t places[] = {0, 511, 512, 300000, 300001, 5ull << 18};
    struct vn_err err = VN_ERR_INIT;
    struct store_writer *writer = store_writer_open(f->store, &err);
    struct image_writer *image = image_writer_open(writer, size, NULL, &err);
    struct image_reader *reader;
    struct map_root root;
    uint64_t offset = 0;
    uint8_t page[PAGE];
    uint64_t start;
    uint64_t n;

    fill_random(page, PAGE, 1);
    for (size_t i = 0; i < VN_COUNT(places); i++)
        assert_ok(image_writer_put(image, places[i] * PAGE, page,
                                   i + 1 < VN_COUNT(places) ? PAGE : 100, &err),
                  &err);
    assert_ok(image_writer_finish(image, &root, &err), &err);
    assert_ok(store_writer_flush(writer, &err), &err);
    image_writer_free(image);
    store_writer_free(writer);
    reader = image_reader_open(f->store, &root, &err);
    assert_made(reader, &err);
    for (size_t i = 0; i < VN_COUNT(places);) {
        assert_ok(image_reader_next_data(reader, offset, &start, &n, &err),
                  &err);
        assert_int_equal(start, places[i] * PAGE);
        assert_true(n > 0);
        for (uint64_t at = start; at < start + n; at += PAGE)
            assert_int_equal(at, places[i++] * PAGE);
        offset = start + n;
    }
    assert_int_equal(offset, size);
    assert_ok(image_reader_next_data(reader, offset, &start, &n, &err), &err);
    assert_int_equal(n, 0);
    image_reader_free(reader);
}

static void test_bytes(void **state)
{
    struct store_fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    struct store_writer *writer = store_writer_open(f->store, &err);
    struct map_root root;
    struct map_root empty;

    assert_ok(store_put_bytes(writer, "device state", 12, &root, &err), &err);
    assert_ok(store_put_bytes(writer, NULL, 0, &empty, &err), &err);
    assert_ok(store_writer_flush(writer, &err), &err);
    store_writer_free(writer);
    assert_true(image_equals(f->store, &root, "device state", 12));
    assert_true(image_equals(f->store, &empty, "", 0));
}

static void test_limits(void **state)
{
    struct store_fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    struct store_writer *writer = store_writer_open(f->store, &err);
    struct map_root root = {.size = STORE_OBJECT_MAX + 1};

    assert_null(image_writer_open(writer, STORE_OBJECT_MAX + 1, NULL, &err));
    assert_int_equal(err.code, VN_E_LIMIT);
    assert_null(image_reader_open(f->store, &root, &err));
    assert_int_equal(err.code, VN_E_LIMIT);
    root = (struct map_root){.size = 100};
    memset(&root.root, 7, sizeof(root.root));
    assert_null(image_reader_open(f->store, &root, &err));
    assert_int_equal(err.code, VN_E_CORRUPT);
    store_writer_free(writer);
}

#define WITH_STORE(test)                                                       \
    cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_STORE(test_round_trip_of_sizes),
        WITH_STORE(test_put_in_any_order),
        WITH_STORE(test_put_copies),
        WITH_STORE(test_put_again_replaces),
        WITH_STORE(test_zeros_store_nothing),
        WITH_STORE(test_pages_never_put_are_zeros),
        WITH_STORE(test_counts_with_parent),
        WITH_STORE(test_parent_of_other_size),
        WITH_STORE(test_reads_of_parts),
        WITH_STORE(test_next_data),
        WITH_STORE(test_bytes),
        WITH_STORE(test_limits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
