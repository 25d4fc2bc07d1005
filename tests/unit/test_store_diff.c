/* Comparing images: against their bytes, and by what it costs. */

#include "unit/store_fixture.h"

#include "store/diff.h"

#define TEST_GIB  (1ull << 30)
#define TEST_TIB  (1ull << 40)
#define IMAGE_MAX (5u * TEST_MIB)

/* The runs of one comparison, as a bit a page and as a sum. */
struct runs {
    bool pages[IMAGE_MAX / PAGE];
    uint64_t count;
    uint64_t bytes;
    uint64_t last_end;
    uint64_t first;
    uint64_t fail_at; /* 0: never */
};

static int on_run(void *context, uint64_t offset, uint64_t size,
                  struct vn_err *err)
{
    struct runs *r = context;

    assert_true(size > 0 && offset % PAGE == 0);
    assert_true(r->count == 0 || offset > r->last_end); /* none touches */
    if (r->count++ == 0)
        r->first = offset;
    r->last_end = offset + size;
    r->bytes += size;
    for (uint64_t at = offset; at < offset + size && at < IMAGE_MAX; at += PAGE)
        r->pages[at / PAGE] = true;
    return r->count == r->fail_at ? vn_fail(err, VN_E_STATE, "enough") : 0;
}

static void diff(struct store *store, const struct map_root *a,
                 const struct map_root *b, struct runs *r)
{
    struct vn_err err = VN_ERR_INIT;

    memset(r, 0, sizeof(*r));
    assert_ok(store_diff_object(store, a, b, on_run, r, &err), &err);
}

/* An image of zeros with pages put here and there. */
struct spot {
    uint64_t offset;
    uint64_t seed;
};

static struct map_root put_spots(struct store *store, uint64_t size,
                                 const struct spot *spots, size_t count,
                                 const struct map_root *parent)
{
    struct vn_err err = VN_ERR_INIT;
    struct store_writer *writer = store_writer_open(store, &err);
    struct image_writer *image;
    uint8_t page[PAGE];
    struct map_root root;

    assert_made(writer, &err);
    image = image_writer_open(writer, size, parent, &err);
    assert_made(image, &err);
    for (size_t i = 0; i < count; i++) {
        fill_random(page, PAGE, spots[i].seed);
        assert_ok(image_writer_put(image, spots[i].offset, page, PAGE, &err),
                  &err);
    }
    assert_ok(image_writer_finish(image, &root, &err), &err);
    assert_ok(store_writer_flush(writer, &err), &err);
    image_writer_free(image);
    store_writer_free(writer);
    return root;
}

/* ---- against the bytes ------------------------------------------------ */

static void assert_runs(const struct runs *r, const uint8_t *a,
                        const uint8_t *b, size_t end)
{
    for (size_t at = 0; at < IMAGE_MAX; at += PAGE) {
        bool differ = memcmp(a + at, b + at, PAGE) != 0;

        if (r->pages[at / PAGE] != differ)
            fail_msg("page at %zu of %zu: %s", at, end,
                     differ ? "differs" : "is equal");
    }
    assert_true(r->count == 0 || r->last_end <= end);
}

static void change(uint8_t *data, size_t size, uint64_t seed)
{
    uint64_t random[16];

    fill_random(random, sizeof(random), seed);
    for (size_t i = 0; i < random[0] % 15; i++) {
        size_t at = random[i + 1] % size;
        size_t n = (random[i + 1] >> 32) % (4 * PAGE);

        n = n < size - at ? n : size - at;
        if (random[i + 1] >> 63)
            memset(data + at, 0, n);
        else
            fill_random(data + at, n, seed + i);
    }
}

static void test_random_images(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) uint8_t *a = vn_alloc(IMAGE_MAX);
    vn_auto(free) uint8_t *b = vn_alloc(IMAGE_MAX);
    struct runs r;

    for (uint64_t seed = 1; seed < 40; seed++) {
        size_t sizes[2] = {(size_t)(seed * 7919) * 137 % IMAGE_MAX + 1,
                           (size_t)(seed * 104729) * 31 % IMAGE_MAX + 1};
        struct map_root x;
        struct map_root y;

        memset(a, 0, IMAGE_MAX);
        memset(b, 0, IMAGE_MAX);
        if (seed % 3 == 0)
            sizes[1] = sizes[0];
        fill_half(a, sizes[0] - sizes[0] % 3, seed);
        memcpy(b, a, sizes[1] < sizes[0] ? sizes[1] : sizes[0]);
        change(b, sizes[1], seed);
        x = store_image(f->store, a, sizes[0], NULL, NULL);
        y = store_image(f->store, b, sizes[1], &x, NULL);
        diff(f->store, &x, &y, &r);
        assert_runs(&r, a, b, sizes[0] > sizes[1] ? sizes[0] : sizes[1]);
        diff(f->store, &y, &x, &r);
        assert_runs(&r, a, b, sizes[0] > sizes[1] ? sizes[0] : sizes[1]);
        diff(f->store, &x, &x, &r);
        assert_int_equal(r.count, 0);
    }
}

/* ---- its cost --------------------------------------------------------- */

static void count(struct store *store, const struct map_root *a,
                  const struct map_root *b, uint64_t pages, uint64_t nodes)
{
    struct map_diff d = {.store = store};
    struct vn_err err = VN_ERR_INIT;

    assert_ok(map_diff(&d, a, b, &err), &err);
    assert_int_equal(d.pages, pages);
    assert_int_equal(d.nodes_read, nodes);
}

/* 1 TiB with data in many places; one page changes: two nodes a level. */
static void test_cost_follows_the_difference(void **state)
{
    enum { SPOTS = 200 };
    struct store_fixture *f = *state;
    struct spot spots[SPOTS];
    struct map_root a;
    struct map_root b;
    struct runs r;

    for (unsigned i = 0; i < SPOTS; i++)
        spots[i] = (struct spot){.offset = i * (TEST_TIB / SPOTS / PAGE) * PAGE,
                                 .seed = i + 1};
    a = put_spots(f->store, TEST_TIB, spots, SPOTS, NULL);
    assert_int_equal(map_height(TEST_TIB), 3);
    count(f->store, &a, &a, 0, 0);
    spots[77].seed = 1000;
    b = put_spots(f->store, TEST_TIB, spots, SPOTS, &a);
    count(f->store, &a, &b, 1, 8);
    diff(f->store, &a, &b, &r);
    assert_int_equal(r.count, 1);
    assert_int_equal(r.first, spots[77].offset);
    assert_int_equal(r.bytes, PAGE);
    /* Against nothing: all data, each node once. */
    count(f->store, &a, &(struct map_root){.size = 0}, SPOTS,
          1 + 2 + SPOTS * 2);
}

/* An image that grows by two levels keeps its places. */
static void test_unequal_heights(void **state)
{
    const struct spot spots[] = {{0, 1},
                                 {TEST_MIB, 2},
                                 {3 * TEST_MIB, 3},
                                 {TEST_GIB + 5 * PAGE, 4},
                                 {700 * TEST_GIB, 5}};
    struct store_fixture *f = *state;
    struct map_root small = put_spots(f->store, 2 * TEST_MIB, spots, 2, NULL);
    struct map_root middle = put_spots(f->store, TEST_GIB, spots, 3, NULL);
    struct map_root large = put_spots(f->store, TEST_TIB, spots, 5, NULL);
    struct map_root zeros = {.size = TEST_TIB};
    struct runs r;

    assert_int_equal(map_height(2 * TEST_MIB), 0);
    assert_int_equal(map_height(TEST_GIB), 1);
    diff(f->store, &small, &large, &r);
    assert_int_equal(r.count, 3);
    assert_int_equal(r.first, 3 * TEST_MIB);
    assert_int_equal(r.last_end, 700 * TEST_GIB + PAGE);
    /* The first leaf is equal, so it is not read. */
    diff(f->store, &middle, &large, &r);
    assert_int_equal(r.count, 2);
    assert_int_equal(r.first, TEST_GIB + 5 * PAGE);
    diff(f->store, &large, &middle, &r);
    assert_int_equal(r.count, 2);
    count(f->store, &small, &middle, 1, 2);
    count(f->store, &zeros, &large, 5, 1 + 2 + 3 + 4);
    /* Zeros of any size are zeros. */
    count(f->store, &zeros, &(struct map_root){.size = 5}, 0, 0);
}

/* A pattern that fills 1 TiB: few nodes, all of them different. */
static void test_patterns_are_read_once(void **state)
{
    struct store_fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    vn_auto(free) struct map_node *node = vn_alloc(sizeof(*node));
    struct map_root roots[2];

    for (unsigned k = 0; k < 2; k++) {
        struct spot spot = {0, k + 10};
        struct map_root leaf = put_spots(f->store, PAGE, &spot, 1, NULL);
        struct store_writer *writer = store_writer_open(f->store, &err);
        struct chunk_id id = leaf.root;

        assert_made(writer, &err);
        for (unsigned height = 1; height <= 2; height++) {
            uint8_t raw[MAP_LEAF_SIZE];
            const uint8_t *data = raw;
            struct ident_full full;
            size_t stored;

            node->height = height;
            for (unsigned i = 0; i < MAP_FANOUT; i++)
                node->ids[i] = id;
            map_node_encode(node, raw);
            ident_chunk(&f->store->ident, CHUNK_INNER, raw, MAP_INNER_SIZE,
                        &full);
            assert_ok(store_writer_put(writer, CHUNK_INNER, &full, &data,
                                       MAP_INNER_SIZE, 1, &stored, &err),
                      &err);
            id = ident_short(&full);
        }
        assert_ok(store_writer_flush(writer, &err), &err);
        store_writer_free(writer);
        roots[k] = (struct map_root){.root = id, .size = 512 * TEST_GIB};
    }
    count(f->store, &roots[0], &roots[1], MAP_FANOUT * MAP_FANOUT, 6);
}

/* ---- failures --------------------------------------------------------- */

static void test_failures(void **state)
{
    const struct spot spots[] = {{0, 1}, {TEST_MIB, 2}, {3 * TEST_MIB, 3}};
    struct store_fixture *f = *state;
    struct map_root a = put_spots(f->store, 8 * TEST_MIB, spots, 1, NULL);
    struct map_root b = put_spots(f->store, 8 * TEST_MIB, spots, 3, NULL);
    struct map_root gone = {.root = {{1, 2, 3}}, .size = 8 * TEST_MIB};
    struct map_root huge = {.size = STORE_OBJECT_MAX + 1};
    struct vn_err err = VN_ERR_INIT;
    struct runs r = {.fail_at = 1};

    assert_int_equal(store_diff_object(f->store, &a, &b, on_run, &r, &err), -1);
    assert_int_equal(err.code, VN_E_STATE);
    assert_int_equal(r.count, 1);
    assert_int_equal(store_diff_object(f->store, &a, &gone, on_run, &r, &err),
                     -1);
    assert_int_equal(err.code, VN_E_CORRUPT);
    assert_non_null(strstr(err.msg, "010203"));
    assert_int_equal(store_diff_object(f->store, &huge, &a, on_run, &r, &err),
                     -1);
    assert_int_equal(err.code, VN_E_LIMIT);
}

#define WITH_STORE(test)                                                       \
    cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_STORE(test_random_images),
        WITH_STORE(test_cost_follows_the_difference),
        WITH_STORE(test_unequal_heights),
        WITH_STORE(test_patterns_are_read_once),
        WITH_STORE(test_failures),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
