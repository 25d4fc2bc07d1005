/*
 * Ingest and reading by several threads: sorting, images put in long runs in
 * any order, sources and sinks that fail, packs that cannot be written behind
 * the caller's back. All of it with 1, 3 and 8 threads. The pool alone:
 * test_store_pool.c.
 */

#include "store/id_sort.h"
#include "store/store_internal.h"
#include "unit/store_fixture.h"

#include <errno.h>
#include <limits.h>
#include <stdatomic.h>

enum {
    PAGES = 4 * 512 + 200, /* five leaves, the last not whole */
    TAIL = 1000,           /* bytes in the last page */
    IMAGE_SIZE = (PAGES - 1) * PAGE + TAIL,
};

/* ---- sorting ----------------------------------------------------------- */

static void check_sort(size_t count, uint64_t mask)
{
    vn_auto(free) struct id_key *keys = vn_alloc(2 * count * sizeof(*keys) + 1);
    vn_auto(free) uint64_t *numbers = vn_alloc(count * sizeof(*numbers) + 1);

    fill_random(numbers, count * sizeof(*numbers), count + mask);
    for (size_t i = 0; i < count; i++)
        keys[i] =
            (struct id_key){.high = numbers[i] & mask, .number = (uint32_t)i};
    id_sort(keys, keys + count, count);
    for (size_t i = 0; i < count; i++) {
        assert_true(keys[i].high == (numbers[keys[i].number] & mask));
        if (i > 0)
            assert_true(keys[i - 1].high < keys[i].high ||
                        (keys[i - 1].high == keys[i].high &&
                         keys[i - 1].number < keys[i].number));
    }
}

static void test_sort(void **state)
{
    static const size_t counts[] = {0, 1, 2, 63, 64, 65, 512, 3000, 70000};

    (void)state;
    for (size_t i = 0; i < VN_COUNT(counts); i++)
        check_sort(counts[i], UINT64_MAX);
    check_sort(512, 0);      /* all equal */
    check_sort(512, 0xffff); /* not uniform at all */
}

/* ---- images ------------------------------------------------------------ */

struct bench {
    struct store_fixture *f;
    uint8_t *data;  /* what the image shall be, PAGES whole pages */
    uint64_t seed;  /* state of random() */
    unsigned calls; /* of source or sink, atomic */
    unsigned fail_at;
    uint8_t *got;
};

static uint64_t draw(struct bench *b, uint64_t below)
{
    b->seed ^= b->seed << 13;
    b->seed ^= b->seed >> 7;
    b->seed ^= b->seed << 17;
    return b->seed % below;
}

static int setup(void **state)
{
    struct bench *b = vn_alloc(sizeof(*b));
    void *fixture;

    if (fixture_setup(&fixture) < 0)
        return -1;
    b->f = fixture;
    b->data = vn_alloc(PAGES * PAGE);
    b->got = vn_alloc(PAGES * PAGE);
    b->seed = 88172645463325252ull;
    b->fail_at = UINT_MAX;
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    struct bench *b = *state;
    void *fixture = b->f;

    free(b->data);
    free(b->got);
    free(b);
    return fixture_teardown(&fixture);
}

/* A page of few kinds: zeros, one of 50 that repeat, or its own. */
static void make_page(struct bench *b, uint64_t page)
{
    uint8_t *to = b->data + page * PAGE;
    size_t size = page == PAGES - 1 ? TAIL : PAGE;

    memset(to, 0, PAGE);
    switch (draw(b, 4)) {
    case 0:
        return;
    case 1:
        fill_random(to, size, draw(b, 50));
        return;
    default:
        fill_random(to, size, 1000 + draw(b, UINT64_MAX));
        memset(to + size / 2, 7, size / 4);
    }
}

static void make_pages(struct bench *b, uint64_t from, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        make_page(b, from + i);
}

static int yield_bytes(void *context, uint64_t offset, void *data, size_t size,
                       struct vn_err *err)
{
    struct bench *b = context;

    if (__atomic_add_fetch(&b->calls, 1, __ATOMIC_RELAXED) == b->fail_at)
        return vn_fail(err, VN_E_PEER, "the source is dry");
    if (offset + size > IMAGE_SIZE)
        return vn_fail(err, VN_E_STATE, "asked for what is not there");
    memcpy(data, b->data + offset, size);
    return 0;
}

static int take_bytes(void *context, uint64_t offset, const void *data,
                      size_t size, struct vn_err *err)
{
    struct bench *b = context;

    if (__atomic_add_fetch(&b->calls, 1, __ATOMIC_RELAXED) == b->fail_at)
        return vn_fail(err, VN_E_PEER, "the sink is full");
    if (offset + size > IMAGE_SIZE)
        return vn_fail(err, VN_E_STATE, "given what is not there");
    memcpy(b->got + offset, data, size);
    return 0;
}

static void put_range(struct bench *b, struct image_writer *image,
                      uint64_t page, uint64_t count, bool from_source)
{
    struct vn_err err = VN_ERR_INIT;
    uint64_t offset = page * PAGE;
    uint64_t size = page + count == PAGES ? IMAGE_SIZE - offset : count * PAGE;
    uint8_t *copy;

    if (from_source) {
        assert_ok(image_writer_put_from(image, offset, size, yield_bytes, b,
                                        NULL, &err),
                  &err);
        return;
    }
    /* The store has no use for the bytes once the call is back. */
    copy = vn_alloc(size + 1);
    memcpy(copy, b->data + offset, size);
    assert_ok(image_writer_put(image, offset, copy, size, &err), &err);
    memset(copy, 0xa5, size);
    free(copy);
}

/* Everything once, then ranges of all lengths anew, some more than once. */
static void put_randomly(struct bench *b, struct image_writer *image)
{
    static const uint64_t lengths[] = {1, 7, 40, 256, 300, 512, 1100, 2000};

    put_range(b, image, 0, PAGES, false);
    for (unsigned i = 0; i < 24; i++) {
        uint64_t count = lengths[draw(b, VN_COUNT(lengths))];
        uint64_t page = draw(b, PAGES - count + 1);

        if (draw(b, 3))
            make_pages(b, page, count);
        put_range(b, image, page, count, draw(b, 2) == 0);
    }
}

/* All ways of reading yield what was put. */
static void check_image(struct bench *b, const struct map_root *root)
{
    struct vn_err err = VN_ERR_INIT;
    struct image_reader *reader = image_reader_open(b->f->store, root, &err);

    assert_made(reader, &err);
    memset(b->got, 0x5a, PAGES * PAGE);
    assert_ok(image_reader_read(reader, 0, b->got, IMAGE_SIZE, &err), &err);
    assert_memory_equal(b->got, b->data, IMAGE_SIZE);
    memset(b->got, 0, PAGES * PAGE);
    assert_ok(image_reader_read_to(reader, 0, IMAGE_SIZE, take_bytes, b, &err),
              &err);
    assert_memory_equal(b->got, b->data, IMAGE_SIZE);
    for (unsigned i = 0; i < 60; i++) {
        uint64_t offset = draw(b, IMAGE_SIZE);
        uint64_t size = draw(b, IMAGE_SIZE - offset) + 1;

        if (draw(b, 2))
            size = draw(b, size < 9000 ? size : 9000) + 1;
        assert_ok(image_reader_read(reader, offset, b->got, size, &err), &err);
        assert_memory_equal(b->got, b->data + offset, size);
    }
    image_reader_free(reader);
}

/* No chunk lies in two packs. */
static void check_stored_once(struct store *store)
{
    struct index_pack packs[100];
    struct vn_err err = VN_ERR_INIT;
    struct store_stats stats;
    uint64_t chunks = 0;
    size_t count;

    assert_ok(index_list_packs(store->index, 0, 100, packs, &count, &err),
              &err);
    assert_true(count < 100);
    for (size_t i = 0; i < count; i++)
        chunks += packs[i].count;
    assert_ok(store_stats(store, &stats, &err), &err);
    assert_int_equal(chunks, stats.chunks);
}

static struct map_root ingest_randomly(struct bench *b,
                                       const struct map_root *parent)
{
    struct vn_err err = VN_ERR_INIT;
    struct store_writer *writer = store_writer_open(b->f->store, &err);
    struct image_writer *image;
    struct store_counts c;
    struct map_root root;

    assert_made(writer, &err);
    image = image_writer_open(writer, IMAGE_SIZE, parent, &err);
    assert_made(image, &err);
    put_randomly(b, image);
    assert_ok(image_writer_finish(image, &root, &err), &err);
    assert_ok(store_writer_flush(writer, &err), &err);
    store_writer_counts(writer, &c);
    assert_int_equal(c.bytes_read, c.bytes_zero + c.bytes_unchanged +
                                       c.bytes_known + c.bytes_new);
    image_writer_free(image);
    store_writer_free(writer);
    return root;
}

static void test_random_images(void **state)
{
    struct bench *b = *state;
    struct map_root first;
    struct map_root second;

    make_pages(b, 0, PAGES);
    memset(b->data + 512 * PAGE, 0, 512 * PAGE); /* a leaf of zeros */
    first = ingest_randomly(b, NULL);
    check_image(b, &first);
    make_pages(b, 100, 20);
    second = ingest_randomly(b, &first);
    check_image(b, &second);
    check_stored_once(b->f->store);
    commit_image(b->f->store, "lab@1", &second);
    assert_int_equal(count_findings(b->f->store), 0);
}

/* The counts are those of one thread. */
static void test_counts(void **state)
{
    struct bench *b = *state;
    struct store_counts c;
    struct map_root root;

    for (unsigned i = 0; i < 1024; i++) /* 100 contents, over and over */
        fill_random(b->data + i * PAGE, PAGE, 1 + i % 100);
    root = store_image(b->f->store, b->data, 1024 * PAGE, NULL, &c);
    assert_int_equal(c.bytes_new, 100 * PAGE);
    assert_int_equal(c.bytes_known, 924 * PAGE);
    memset(b->data + 512 * PAGE, 0, 512 * PAGE);
    fill_random(b->data + 3 * PAGE, PAGE, 500);
    fill_random(b->data + 4 * PAGE, PAGE, 7);
    store_image(b->f->store, b->data, 1024 * PAGE, &root, &c);
    assert_int_equal(c.bytes_read, 1024 * PAGE);
    assert_int_equal(c.bytes_zero, 512 * PAGE);
    assert_int_equal(c.bytes_unchanged, 510 * PAGE);
    assert_int_equal(c.bytes_known, PAGE);
    assert_int_equal(c.bytes_new, PAGE);
    check_stored_once(b->f->store);
}

/* The same leaf of pages over and over; the first two that ask begin together,
 * so that they come to have the same new pages at the same time. */
static int yield_alike(void *context, uint64_t offset, void *data, size_t size,
                       struct vn_err *err)
{
    struct bench *b = context;

    (void)err;
    __atomic_add_fetch(&b->calls, 1, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < 1000; i++)
        if (__atomic_load_n(&b->calls, __ATOMIC_RELAXED) < 2)
            usleep(1000);
    memcpy(data, b->data + offset % (512 * PAGE), size);
    return 0;
}

static void test_same_at_once(void **state)
{
    struct bench *b = *state;
    struct vn_err err = VN_ERR_INIT;
    struct store_writer *writer = store_writer_open(b->f->store, &err);
    struct store_counts c;

    for (unsigned round = 1; round <= 6; round++) {
        struct image_writer *image =
            image_writer_open(writer, 2048 * PAGE, NULL, &err);
        struct map_root root;

        fill_random(b->data, 512 * PAGE, 70 + round);
        b->calls = pool_threads_wanted() == 1 ? 2 : 0;
        assert_ok(image_writer_put_from(image, 0, 2048 * PAGE, yield_alike, b,
                                        NULL, &err),
                  &err);
        assert_ok(image_writer_finish(image, &root, &err), &err);
        image_writer_free(image);
        store_writer_counts(writer, &c);
        assert_int_equal(c.bytes_new, round * 512 * PAGE);
    }
    assert_ok(store_writer_flush(writer, &err), &err);
    store_writer_free(writer);
    check_stored_once(b->f->store);
}

/* What waits from a short put gives way to a long one, and the other way. */
static void test_short_and_long(void **state)
{
    struct bench *b = *state;
    struct vn_err err = VN_ERR_INIT;
    struct store_writer *writer = store_writer_open(b->f->store, &err);
    struct image_writer *image =
        image_writer_open(writer, IMAGE_SIZE, NULL, &err);
    struct map_root root;

    make_pages(b, 0, PAGES);
    put_range(b, image, 0, 200, false); /* these wait */
    make_pages(b, 0, 600);
    put_range(b, image, 0, 600, false); /* a run */
    fill_random(b->data + 10 * PAGE, 90 * PAGE, 3);
    put_range(b, image, 10, 90, false); /* these wait again */
    memset(b->data + 20 * PAGE, 0, 40 * PAGE);
    put_range(b, image, 20, 40, true);
    put_range(b, image, 600, PAGES - 600, true);
    assert_ok(image_writer_finish(image, &root, &err), &err);
    assert_ok(store_writer_flush(writer, &err), &err);
    image_writer_free(image);
    store_writer_free(writer);
    check_image(b, &root);
}

/* ---- failures ---------------------------------------------------------- */

static void test_source_fails(void **state)
{
    struct bench *b = *state;
    struct vn_err err = VN_ERR_INIT;
    struct store_writer *writer = store_writer_open(b->f->store, &err);
    struct image_writer *image =
        image_writer_open(writer, IMAGE_SIZE, NULL, &err);
    struct map_root root;

    make_pages(b, 0, PAGES);
    b->fail_at = 4;
    assert_int_equal(
        image_writer_put_from(image, 0, IMAGE_SIZE, yield_bytes, b, NULL, &err),
        -1);
    assert_int_equal(err.code, VN_E_PEER);
    assert_non_null(strstr(err.msg, "dry"));
    assert_int_equal(image_writer_put(image, 0, b->data, PAGE, &err), -1);
    assert_int_equal(err.code, VN_E_STATE);
    assert_int_equal(image_writer_finish(image, &root, &err), -1);
    image_writer_free(image);
    /* The writer goes on. */
    root = put_image(writer, b->data, IMAGE_SIZE, NULL);
    assert_ok(store_writer_flush(writer, &err), &err);
    store_writer_free(writer);
    check_image(b, &root);
    assert_int_equal(count_findings(b->f->store), 0);
}

static void test_sink_fails(void **state)
{
    struct bench *b = *state;
    struct vn_err err = VN_ERR_INIT;
    struct image_reader *reader;
    struct map_root root;

    make_pages(b, 0, PAGES);
    root = store_image(b->f->store, b->data, IMAGE_SIZE, NULL, NULL);
    reader = image_reader_open(b->f->store, &root, &err);
    b->fail_at = 30;
    assert_int_equal(
        image_reader_read_to(reader, 0, IMAGE_SIZE, take_bytes, b, &err), -1);
    assert_int_equal(err.code, VN_E_PEER);
    /* The reader goes on. */
    assert_ok(image_reader_read_to(reader, 0, IMAGE_SIZE, take_bytes, b, &err),
              &err);
    assert_memory_equal(b->got, b->data, IMAGE_SIZE);
    image_reader_free(reader);
}

enum { BIG_PAGES = 12000 }; /* six packs: more than the queue holds */

/* Packs fail behind the caller: some call says so, and a flush that succeeds
 * later has stored all that was put without an error. */
static void test_packs_fail(void **state)
{
    static const char *const specs[] = {
        "store.pack.sync:1", "store.pack.write:3", "store.index.ids:1",
        "store.pack.create:6", "store.index.add:1"};
    struct bench *b = *state;
    vn_auto(free) uint8_t *big = vn_alloc(BIG_PAGES * PAGE);

    for (size_t i = 0; i < VN_COUNT(specs); i++) {
        struct vn_err err = VN_ERR_INIT;
        struct store_writer *writer = store_writer_open(b->f->store, &err);
        struct image_writer *image =
            image_writer_open(writer, BIG_PAGES * PAGE, NULL, &err);
        unsigned failures = 0;
        struct map_root root;

        fill_random(big, BIG_PAGES * PAGE, 50 + i);
        fault_set(specs[i]);
        if (image_writer_put(image, 0, big, BIG_PAGES * PAGE, &err) < 0 ||
            image_writer_finish(image, &root, &err) < 0) {
            assert_int_equal(err.code, EIO);
            failures++;
            image_writer_free(image);
            image = image_writer_open(writer, BIG_PAGES * PAGE, NULL, &err);
            assert_ok(image_writer_put(image, 0, big, BIG_PAGES * PAGE, &err),
                      &err);
            assert_ok(image_writer_finish(image, &root, &err), &err);
        }
        if (store_writer_flush(writer, &err) < 0) {
            assert_int_equal(err.code, EIO);
            failures++;
            assert_ok(store_writer_flush(writer, &err), &err);
        }
        assert_int_equal(failures, 1);
        fault_set(NULL);
        image_writer_free(image);
        store_writer_free(writer);
        assert_true(image_equals(b->f->store, &root, big, BIG_PAGES * PAGE));
        check_stored_once(b->f->store);
    }
    assert_int_equal(count_findings(b->f->store), 0);
}

/* A writer that is given up with packs on the way leaves a sound store. */
static void test_given_up(void **state)
{
    struct bench *b = *state;
    vn_auto(free) uint8_t *big = vn_alloc(BIG_PAGES * PAGE);
    struct vn_err err = VN_ERR_INIT;
    struct store_writer *writer = store_writer_open(b->f->store, &err);
    struct store_stats stats;

    fill_random(big, BIG_PAGES * PAGE, 5);
    put_image(writer, big, BIG_PAGES * PAGE, NULL);
    store_writer_free(writer);
    assert_ok(store_stats(b->f->store, &stats, &err), &err);
    assert_int_equal(stats.chunks, 0);
    assert_int_equal(count_findings(b->f->store), 0);
}

/* ---- what pages are held against --------------------------------------- */

/* A map over the pages of another, with one leaf, changed by fn. */
static struct map_root remap(struct store *store, const struct map_root *root,
                             void (*fn)(struct map_node *))
{
    struct vn_err err = VN_ERR_INIT;
    struct store_writer *writer = store_writer_open(store, &err);
    struct map_root new_root = *root;
    uint8_t data[MAP_LEAF_SIZE];
    const uint8_t *pointer = data;
    struct map_node node;
    struct ident_full id;
    size_t stored;
    size_t size;

    assert_ok(chunk_read_node(store, &root->root, 0, &node, &err), &err);
    fn(&node);
    size = map_node_encode(&node, data);
    ident_chunk(&store->ident, CHUNK_LEAF, data, size, &id);
    assert_ok(store_writer_put(writer, CHUNK_LEAF, &id, &pointer, size, 1,
                               &stored, &err),
              &err);
    assert_int_equal(stored, 1);
    assert_ok(store_writer_flush(writer, &err), &err);
    store_writer_free(writer);
    new_root.root = ident_short(&id);
    return new_root;
}

static void spoil_prints(struct map_node *node)
{
    memset(node->fingerprints, 0, 100 * sizeof(node->fingerprints[0]));
    memset(&node->fingerprints[100], 0x77, 100 * sizeof(node->fingerprints[0]));
}

static void spoil_id(struct map_node *node)
{
    node->ids[5].bytes[3] ^= 1;
}

static void test_fingerprints(void **state)
{
    struct bench *b = *state;
    struct vn_err err = VN_ERR_INIT;
    struct image_reader *reader;
    struct map_root root;
    struct map_root other;

    fill_half(b->data, 512 * PAGE, 9);
    root = store_image(b->f->store, b->data, 512 * PAGE, NULL, NULL);
    /* The id decides where the fingerprint does not fit. */
    other = remap(b->f->store, &root, spoil_prints);
    assert_true(image_equals(b->f->store, &other, b->data, 512 * PAGE));
    other = remap(b->f->store, &root, spoil_id);
    reader = image_reader_open(b->f->store, &other, &err);
    assert_int_equal(image_reader_read(reader, 0, b->got, 512 * PAGE, &err),
                     -1);
    assert_int_equal(err.code, VN_E_CORRUPT);
    image_reader_free(reader);
}

static void point_at_another(struct bench *b, const struct chunk_id *id,
                             const struct chunk_id *other)
{
    struct vn_err err = VN_ERR_INIT;
    struct index_move move = {.id = *id};
    struct index_pack pack;
    struct chunk_place places[2];
    struct chunk_id ids[2] = {*id, *other};

    assert_ok(index_find(b->f->store->index, ids, 2, places, &err), &err);
    assert_ok(
        index_find_pack(b->f->store->index, places[1].pack_id, &pack, &err),
        &err);
    pack.id += 1000; /* index_move() enters a pack */
    move.from = places[0];
    move.to = places[1];
    assert_ok(index_move(b->f->store->index, &pack, 1, &move, 1, &err), &err);
}

/* An index that is wrong makes reads fail, not lie. */
static void test_wrong_place(void **state)
{
    struct bench *b = *state;
    struct vn_err err = VN_ERR_INIT;
    struct image_reader *reader;
    struct map_root root;
    struct map_node node;

    fill_half(b->data, 512 * PAGE, 9);
    for (unsigned i = 0; i < 512; i++)
        b->data[i * PAGE] = (uint8_t)i;
    root = store_image(b->f->store, b->data, 512 * PAGE, NULL, NULL);
    assert_ok(chunk_read_node(b->f->store, &root.root, 0, &node, &err), &err);
    point_at_another(b, &node.ids[7], &node.ids[8]);
    reader = image_reader_open(b->f->store, &root, &err);
    assert_int_equal(image_reader_read(reader, 0, b->got, 512 * PAGE, &err),
                     -1);
    assert_int_equal(err.code, VN_E_CORRUPT);
    assert_int_equal(image_reader_read(reader, 7 * PAGE, b->got, PAGE, &err),
                     -1);
    assert_ok(image_reader_read(reader, 8 * PAGE, b->got, PAGE, &err), &err);
    assert_memory_equal(b->got, b->data + 8 * PAGE, PAGE);
    image_reader_free(reader);
}

#define WITH_BENCH(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sort),     WITH_BENCH(test_random_images),
        WITH_BENCH(test_counts),         WITH_BENCH(test_same_at_once),
        WITH_BENCH(test_short_and_long), WITH_BENCH(test_source_fails),
        WITH_BENCH(test_sink_fails),     WITH_BENCH(test_packs_fail),
        WITH_BENCH(test_given_up),       WITH_BENCH(test_fingerprints),
        WITH_BENCH(test_wrong_place),
    };

    use_fast_disk();
    return run_by_threads(tests, VN_COUNT(tests));
}
