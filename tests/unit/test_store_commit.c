/*
 * What commit looks at: only what the snapshot before has not, and all of that.
 * A chunk that is missing is noticed wherever it lies, and beside gc.
 */

#include "unit/store_gc_fixture.h"

#include "store/store_internal.h"

#define TEST_GIB (1ull << 30)
#define SPOTS    40u

/* An image of a size, zeros but for SPOTS pages all over it. */
static struct map_root put_spots(struct store_writer *writer, uint64_t size,
                                 uint64_t changed,
                                 const struct map_root *parent)
{
    struct vn_err err = VN_ERR_INIT;
    struct image_writer *image = image_writer_open(writer, size, parent, &err);
    struct map_root root;
    uint8_t page[PAGE];

    assert_made(image, &err);
    for (unsigned i = 0; i < SPOTS; i++) {
        fill_random(page, PAGE, i == changed ? 1000 + changed : i);
        assert_ok(image_writer_put(image, size / SPOTS / PAGE * PAGE * i, page,
                                   PAGE, &err),
                  &err);
    }
    assert_ok(image_writer_finish(image, &root, &err), &err);
    assert_ok(store_writer_flush(writer, &err), &err);
    image_writer_free(image);
    return root;
}

static struct store_writer *open_writer(struct store *store)
{
    struct vn_err err = VN_ERR_INIT;
    struct store_writer *writer = store_writer_open(store, &err);

    assert_made(writer, &err);
    return writer;
}

/* The cost of the look that a commit of this image would take. */
static struct map_check look(struct store *store, const char *name,
                             const char *object, const struct map_root *root)
{
    struct map_check check = {.store = store};
    struct vn_err err = VN_ERR_INIT;
    json_t *manifest = manifest_new(name, "files");
    struct index_state state;

    manifest_add(manifest, object, root);
    assert_ok(index_read_state(store->index, &state, NULL, &err), &err);
    assert_ok(commit_check_maps(&check, manifest, &state, &err), &err);
    json_decref(manifest);
    return check;
}

static void assert_look(struct store *store, const char *name,
                        const char *object, const struct map_root *root,
                        uint64_t nodes, uint64_t pages)
{
    struct map_check check = look(store, name, object, root);

    assert_int_equal(check.nodes_read, nodes);
    assert_int_equal(check.pages_looked_up, pages);
}

/* ---- the cost --------------------------------------------------------- */

static void test_cost_follows_the_difference(void **state)
{
    struct store_fixture *f = *state;
    struct store_writer *writer = open_writer(f->store);
    const uint64_t size = 1024 * TEST_GIB;
    struct map_root a = put_spots(writer, size, UINT64_MAX, NULL);
    struct map_root b = put_spots(writer, size, 17, &a);
    struct map_root larger;
    uint64_t nodes = 0;

    for (unsigned height = 0; height <= map_height(size); height++)
        nodes += height == 3 ? 1 : height == 2 ? 2 : SPOTS;
    assert_look(f->store, "lab@1", "image", &a, nodes, SPOTS);
    commit_image(f->store, "lab@1", &a);
    assert_look(f->store, "lab@2", "image", &a, 0, 0);
    assert_look(f->store, "lab@2", "image", &b, 2 * (map_height(size) + 1), 1);
    /* Under other names. */
    assert_look(f->store, "lab@2", "moved", &a, 0, 0);
    assert_look(f->store, "other@1", "image", &b, 2 * (map_height(size) + 1),
                1);
    assert_look(f->store, "other", "image", &a, 0, 0);
    /* Of another series, while its own has one that is not the newest. */
    commit_image(f->store, "other@1", &b);
    assert_look(f->store, "lab@2", "image", &a, 0, 0);
    assert_look(f->store, "lab@2", "image", &b, 0, 0);
    /* Grown by a level: its own root, and what is new. */
    commit_image(f->store, "small@1", &(struct map_root){.size = 0});
    a = put_spots(writer, TEST_GIB, UINT64_MAX, NULL);
    commit_image(f->store, "small@2", &a);
    larger = a;
    larger.size = 513 * TEST_GIB;
    for (unsigned height = map_height(a.size) + 1;
         height <= map_height(larger.size); height++) {
        struct map_node node = {.height = height, .ids = {larger.root}};
        struct vn_err err = VN_ERR_INIT;
        uint8_t raw[MAP_LEAF_SIZE];
        const uint8_t *data = raw;
        struct ident_full id;
        size_t stored;

        map_node_encode(&node, raw);
        ident_chunk(&f->store->ident, CHUNK_INNER, raw, MAP_INNER_SIZE, &id);
        assert_ok(store_writer_put(writer, CHUNK_INNER, &id, &data,
                                   MAP_INNER_SIZE, 1, &stored, &err),
                  &err);
        assert_ok(store_writer_flush(writer, &err), &err);
        larger.root = ident_short(&id);
    }
    assert_look(f->store, "small@3", "image", &larger, 2, 0);
    commit_image(f->store, "small@3", &larger);
    /* Shrunk again: down to where the root is. */
    assert_look(f->store, "small@4", "image", &a, 2, 0);
    store_writer_free(writer);
    assert_int_equal(count_findings(f->store), 0);
}

/* ---- a chunk that is missing ------------------------------------------ */

static const struct chunk_id missing = {{0xba, 0xd0, 0xba, 0xd0, 1}};

static struct chunk_id put_node(struct store *store,
                                struct store_writer *writer,
                                const struct map_node *node)
{
    struct vn_err err = VN_ERR_INIT;
    uint8_t raw[MAP_LEAF_SIZE];
    const uint8_t *data = raw;
    size_t size = map_node_encode(node, raw);
    struct ident_full id;
    size_t stored;

    ident_chunk(&store->ident, map_node_kind(node->height), raw, size, &id);
    assert_ok(store_writer_put(writer, map_node_kind(node->height), &id, &data,
                               size, 1, &stored, &err),
              &err);
    return ident_short(&id);
}

/* The same subtree, but for one place: below the node of height `at` that page
 * `page` lies under, its child is missing. */
static struct chunk_id spoil(struct store *store, struct store_writer *writer,
                             const struct chunk_id *id, unsigned height,
                             unsigned at, uint64_t page)
{
    struct map_node *node = vn_alloc(sizeof(*node));
    struct vn_err err = VN_ERR_INIT;
    struct chunk_id made;
    unsigned place = (unsigned)(page >> (9 * height)) % MAP_FANOUT;

    node->height = height;
    if (!chunk_id_is_zero(id))
        assert_ok(chunk_read_node(store, id, height, node, &err), &err);
    node->ids[place] = height == at ? missing
                                    : spoil(store, writer, &node->ids[place],
                                            height - 1, at, page);
    made = put_node(store, writer, node);
    free(node);
    return made;
}

static void assert_refused(struct store *store, const char *name,
                           const char *object, const struct map_root *root)
{
    struct vn_err err = VN_ERR_INIT;
    json_t *manifest = manifest_new(name, "files");

    manifest_add(manifest, object, root);
    assert_int_equal(store_commit(store, manifest, &err), -1);
    assert_true(err.code == VN_E_NOT_FOUND || err.code == VN_E_CORRUPT);
    if (!strstr(err.msg, "bad0bad001"))
        fail_msg("%s", err.msg);
    assert_null(store_load(store, name, &err));
    assert_int_equal(err.code, VN_E_NOT_FOUND);
    json_decref(manifest);
}

/* In each place of each level, beside parents of the same, a lower and a
 * greater height, and beside none; under the same object's name or another. */
static void test_missing_in_every_position(void **state)
{
    static const uint64_t sizes[] = {TEST_MIB, TEST_GIB / 2, 600 * TEST_GIB};
    struct store_fixture *f = *state;
    struct store_writer *writer = open_writer(f->store);

    for (unsigned k = 0; k < 3; k++) {
        struct map_root whole = put_spots(writer, sizes[k], UINT64_MAX, NULL);
        vn_auto(free) char *name = vn_format("s%u@1", k);

        commit_image(f->store, name, &whole);
        for (unsigned height = 0; height <= map_height(whole.size); height++)
            for (unsigned spot = 0; spot < SPOTS; spot += 13) {
                /* A page that the parent has, and one beside it. */
                uint64_t page = sizes[k] / SPOTS / PAGE * spot;
                struct map_root bad = {.size = whole.size};
                struct vn_err err = VN_ERR_INIT;

                page += spot % 2 ? 1 : 0;
                bad.root = spoil(f->store, writer, &whole.root,
                                 map_height(whole.size), height, page);
                assert_ok(store_writer_flush(writer, &err), &err);
                for (unsigned parent = 0; parent <= k; parent++) {
                    vn_auto(free) char *next = vn_format("s%u@2", parent);

                    assert_refused(f->store, next, "image", &bad);
                }
                assert_refused(f->store, "other", "image", &bad);
                assert_refused(f->store, "other@1", "other", &bad);
            }
    }
    /* A lower image beside a higher parent. */
    {
        struct map_root whole = put_spots(writer, TEST_MIB, UINT64_MAX, NULL);
        struct map_root bad = {.size = whole.size};
        struct vn_err err = VN_ERR_INIT;

        bad.root = spoil(f->store, writer, &whole.root, 0, 0, 200);
        assert_ok(store_writer_flush(writer, &err), &err);
        assert_refused(f->store, "s1@2", "image", &bad);
        assert_refused(f->store, "s2@2", "image", &bad);
        bad.root = missing;
        assert_refused(f->store, "s0@2", "image", &bad);
    }
    store_writer_free(writer);
}

/* A root that a snapshot has, said to be of another height. */
static void test_same_root_of_another_height(void **state)
{
    struct store_fixture *f = *state;
    struct store_writer *writer = open_writer(f->store);
    struct map_root root = put_spots(writer, TEST_GIB, UINT64_MAX, NULL);
    struct vn_err err = VN_ERR_INIT;
    json_t *manifest = manifest_new("lab@2", "files");

    commit_image(f->store, "lab@1", &root);
    root.size = PAGE;
    manifest_add(manifest, "image", &root);
    assert_int_equal(store_commit(f->store, manifest, &err), -1);
    assert_int_equal(err.code, VN_E_CORRUPT);
    json_decref(manifest);
    store_writer_free(writer);
}

/* ---- beside gc -------------------------------------------------------- */

/* The parent goes before the commit: without a hold its chunks go too, and a
 * commit that refers to them is refused. */
static void test_parent_collected(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) uint8_t *data = make_pages(1, 600);
    struct map_root a = add_snapshot(f->store, "lab@1", data, 600, NULL);
    struct vn_err err = VN_ERR_INIT;
    json_t *manifest = manifest_new("lab@2", "files");

    delete_snapshot(f->store, "lab@1");
    assert_true(run_gc(f->store, &gc_now).chunks_removed > 0);
    manifest_add(manifest, "image", &a);
    assert_int_equal(store_commit(f->store, manifest, &err), -1);
    json_decref(manifest);
    assert_int_equal(count_findings(f->store), 0);
}

/* With a hold they are condemned and stay; then the commit takes them back,
 * also beside a parent that needs a part of them. */
static void test_parent_condemned(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) uint8_t *data = make_pages(1, 1200);
    vn_auto(free) uint8_t *other = make_pages(2, 1200);
    struct map_root roots[2];
    struct vn_err err = VN_ERR_INIT;
    struct store_hold *hold;

    /* The last leaf is the same: its pages are moved, the rest is dead. */
    memcpy(other + 1024 * PAGE, data + 1024 * PAGE, 176 * PAGE);
    roots[0] = add_snapshot(f->store, "lab@1", data, 1200, NULL);
    roots[1] = add_snapshot(f->store, "lab@2", other, 1200, &roots[0]);
    hold = store_hold_open(f->store, &err);
    assert_made(hold, &err);
    delete_snapshot(f->store, "lab@1");
    assert_true(run_gc(f->store, &gc_now).packs_waiting > 0);
    assert_look(f->store, "lab@3", "image", &roots[1], 0, 0);
    commit_image(f->store, "lab@3", &roots[0]);
    store_hold_close(hold);
    run_gc(f->store, &gc_now);
    assert_int_equal(count_findings(f->store), 0);
    assert_true(snapshot_equals(f->store, "lab@3", data, 1200));
    assert_true(snapshot_equals(f->store, "lab@2", other, 1200));
}

/* Nothing that was deleted is a parent, though a hold knows it. */
static void test_deleted_is_no_parent(void **state)
{
    struct store_fixture *f = *state;
    struct store_writer *writer = open_writer(f->store);
    struct map_root a = put_spots(writer, TEST_GIB, UINT64_MAX, NULL);

    commit_image(f->store, "lab@1", &a);
    assert_look(f->store, "lab@2", "image", &a, 0, 0);
    delete_snapshot(f->store, "lab@1");
    assert_look(f->store, "lab@2", "image", &a, 1 + SPOTS, SPOTS);
    store_writer_free(writer);
}

#define WITH_STORE(test)                                                       \
    cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_STORE(test_cost_follows_the_difference),
        WITH_STORE(test_missing_in_every_position),
        WITH_STORE(test_same_root_of_another_height),
        WITH_STORE(test_parent_collected),
        WITH_STORE(test_parent_condemned),
        WITH_STORE(test_deleted_is_no_parent),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
