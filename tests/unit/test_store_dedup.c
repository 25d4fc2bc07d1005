/*
 * Deduplication: between images, writers, threads' writers, processes and
 * snapshots; and what a forged fingerprint can and cannot do.
 */

#include "unit/store_fixture.h"

#include "store/ident.h"
#include "store/store_config.h"

#include <xxhash.h>

enum { PAGES = 1024 };

static void make_pages(uint8_t *data, uint64_t seed)
{
    fill_half(data, PAGES * PAGE, seed);
}

static void test_between_images_and_writers(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) uint8_t *data = vn_alloc(PAGES * PAGE);
    vn_auto(free) uint8_t *moved = vn_alloc(PAGES * PAGE);
    struct vn_err err = VN_ERR_INIT;
    struct store_writer *a = store_writer_open(f->store, &err);
    struct store_writer *b = store_writer_open(f->store, &err);
    struct store_counts c;
    struct map_root root;

    make_pages(data, 1);
    /* The same pages, one place further. */
    memcpy(moved + PAGE, data, (PAGES - 1) * PAGE);
    put_image(a, data, PAGES * PAGE, NULL);
    root = put_image(a, moved, PAGES * PAGE, NULL); /* not flushed between */
    store_writer_counts(a, &c);
    assert_int_equal(c.bytes_new, PAGES * PAGE);
    assert_int_equal(c.bytes_known, (PAGES - 1) * PAGE);
    /* Another writer does not see them before the flush: a second copy. */
    put_image(b, data, PAGES * PAGE, NULL);
    store_writer_counts(b, &c);
    assert_int_equal(c.bytes_new, PAGES * PAGE);
    assert_ok(store_writer_flush(a, &err), &err);
    assert_ok(store_writer_flush(b, &err), &err);
    put_image(b, data, PAGES * PAGE, NULL);
    store_writer_counts(b, &c);
    assert_int_equal(c.bytes_new, PAGES * PAGE);
    assert_int_equal(c.bytes_known, PAGES * PAGE);
    store_writer_free(a);
    store_writer_free(b);
    assert_true(image_equals(f->store, &root, moved, PAGES * PAGE));
    assert_int_equal(count_findings(f->store), 0);
}

static void test_equal_pages_inside_an_image(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) uint8_t *data = vn_alloc(PAGES * PAGE);
    struct store_counts c;
    struct map_root root;

    for (unsigned i = 0; i < PAGES; i++)
        fill_random(data + i * PAGE, PAGE, i % 5 + 1);
    root = store_image(f->store, data, PAGES * PAGE, NULL, &c);
    assert_int_equal(c.bytes_new, 5 * PAGE);
    assert_int_equal(c.bytes_known, (PAGES - 5) * PAGE);
    assert_true(image_equals(f->store, &root, data, PAGES * PAGE));
}

static void test_second_ingest_adds_almost_nothing(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) uint8_t *data = vn_alloc(PAGES * PAGE);
    struct vn_err err = VN_ERR_INIT;
    struct store_stats before;
    struct store_stats after;
    struct map_root first;
    struct map_root second;

    make_pages(data, 2);
    first = store_image(f->store, data, PAGES * PAGE, NULL, NULL);
    commit_image(f->store, "lab@1", &first);
    assert_ok(store_stats(f->store, &before, &err), &err);
    second = store_image(f->store, data, PAGES * PAGE, &first, NULL);
    commit_image(f->store, "lab@2", &second);
    assert_memory_equal(&first, &second, sizeof(first));
    assert_ok(store_stats(f->store, &after, &err), &err);
    assert_int_equal(after.snapshots, 2);
    assert_int_equal(after.bytes_logical, 2 * PAGES * PAGE);
    assert_true(after.bytes_packs - before.bytes_packs < PAGES * PAGE / 1000);
    assert_int_equal(after.chunks - before.chunks, 1); /* the manifest */
}

/* A child stores an image; the parent then finds every page known. */
static void test_between_processes(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) uint8_t *data = vn_alloc(PAGES * PAGE);
    struct store_counts c;
    struct map_root root;
    int status;
    pid_t child;

    make_pages(data, 3);
    child = fork();
    if (child == 0) {
        struct vn_err err = VN_ERR_INIT;
        struct store *store = store_open(f->path, &err);

        if (!store)
            _exit(1);
        store_image(store, data, PAGES * PAGE, NULL, NULL);
        store_close(store);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    root = store_image(f->store, data, PAGES * PAGE, NULL, &c);
    assert_int_equal(c.bytes_known, PAGES * PAGE);
    assert_int_equal(c.bytes_new, 0);
    assert_true(image_equals(f->store, &root, data, PAGES * PAGE));
}

static void test_stores_have_ids_of_their_own(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) char *path = vn_format("%s/other", f->dir);
    vn_auto(free) uint8_t *data = vn_alloc(PAGES * PAGE);
    struct vn_err err = VN_ERR_INIT;
    struct store *other;
    struct map_root a;
    struct map_root b;

    make_pages(data, 4);
    assert_ok(store_init(path, &err), &err);
    other = store_open(path, &err);
    assert_made(other, &err);
    a = store_image(f->store, data, PAGES * PAGE, NULL, NULL);
    b = store_image(other, data, PAGES * PAGE, NULL, NULL);
    assert_memory_not_equal(&a.root, &b.root, sizeof(a.root));
    assert_null(image_reader_open(other, &a, &err));
    assert_int_equal(err.code, VN_E_CORRUPT);
    store_close(other);
}

/*
 * Two pages with one XXH3-128 under a known secret: in lane 0 of two stripes
 * of one block the low halves equal the secret's, so the products vanish, and
 * only the sum of the two words goes into the state.
 */
static void forge_pair(const uint8_t *secret, uint8_t *a, uint8_t *b)
{
    uint32_t high = 0x1111;

    fill_random(a, PAGE, 99);
    memcpy(a, secret, 4);          /* stripe 0, secret at 0 */
    memcpy(a + 64, secret + 8, 4); /* stripe 1, secret at 8 */
    memcpy(a + 4, &high, 4);
    memcpy(a + 68, &high, 4);
    memcpy(b, a, PAGE);
    high = 0x1110;
    memcpy(b + 4, &high, 4);
    high = 0x1112;
    memcpy(b + 68, &high, 4);
}

static void test_forged_fingerprints_harm_only_the_forger(void **state)
{
    struct store_fixture *f = *state;
    struct store_config config;
    struct vn_err err = VN_ERR_INIT;
    struct store_counts c;
    struct fingerprint x;
    struct fingerprint y;
    struct map_root evil;
    struct map_root victim;
    struct map_root forged;
    struct ident ident;
    uint8_t a[PAGE];
    uint8_t b[PAGE];

    assert_ok(store_config_read(f->path, &config, &err), &err);
    ident_init(&ident, config.identity, config.key, config.secret);
    forge_pair(config.secret, a, b);
    ident_fingerprint(&ident, a, &x);
    ident_fingerprint(&ident, b, &y);
    assert_memory_not_equal(a, b, PAGE);
    assert_memory_equal(&x, &y, sizeof(x)); /* the forgery works */

    /* Another image with the other page gets its own page, at the same
     * place too, and with a parent of its own. */
    evil = store_image(f->store, a, PAGE, NULL, NULL);
    victim = store_image(f->store, b, PAGE, NULL, &c);
    assert_int_equal(c.bytes_new, PAGE);
    assert_true(image_equals(f->store, &victim, b, PAGE));
    victim = store_image(f->store, b, PAGE, &victim, &c);
    assert_true(image_equals(f->store, &victim, b, PAGE));
    /* The forger, whose parent has the first page there, gets that again. */
    forged = store_image(f->store, b, PAGE, &evil, &c);
    assert_int_equal(c.bytes_unchanged, PAGE);
    assert_true(image_equals(f->store, &forged, a, PAGE));
}

#define WITH_STORE(test)                                                       \
    cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_STORE(test_between_images_and_writers),
        WITH_STORE(test_equal_pages_inside_an_image),
        WITH_STORE(test_second_ingest_adds_almost_nothing),
        WITH_STORE(test_between_processes),
        WITH_STORE(test_stores_have_ids_of_their_own),
        WITH_STORE(test_forged_fingerprints_harm_only_the_forger),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
