/*
 * A guest that knows the store's secret and writes pages of its choice.
 *
 * XXH3-128 of a long input does, for each 64-byte stripe and 8-byte lane i,
 *
 *     acc[i ^ 1] += d;   acc[i] += lo32(d ^ k) * hi32(d ^ k)
 *
 * with d from the input and k from the secret; after 16 stripes acc is
 * scrambled. So with lo32(d ^ k) = 0 in one lane of two stripes of one block
 * both products vanish, and while d1 + d2 is constant nothing of them is left
 * in the hash but the sum: 2^32 pages with one fingerprint for each choice of
 * lane, stripes and sum, without any search. The secret is that of the store,
 * from its config.json: this is what a guest could do at worst.
 *
 * What must hold: pages of others come back as they were written, whatever the
 * forger stored before or after them; only in its own image, in the place where
 * it had another page of that fingerprint, does it get that older page.
 */

#include "unit/store_gc_fixture.h"

#include "common/io.h"
#include "store/ident.h"
#include "store/store_config.h"

#include <jansson.h>

#define PAGES 3000u /* with one fingerprint, more than one leaf of each map */

static uint64_t le64(const uint8_t *data)
{
    uint64_t word;

    memcpy(&word, data, 8);
    return word;
}

/* What config.json says, read as a thief would. */
static void steal_secret(const struct store_fixture *f,
                         uint8_t secret[IDENT_SECRET_SIZE])
{
    vn_auto(free) char *path = vn_format("%s/config.json", f->path);
    json_t *config = json_load_file(path, 0, NULL);
    struct vn_err err = VN_ERR_INIT;

    assert_non_null(config);
    assert_ok(io_unhex(json_string_value(json_object_get(config, "secret")),
                       secret, IDENT_SECRET_SIZE, &err),
              &err);
    json_decref(config);
}

/* Where a family of pages hides what differs: block of 1024 bytes, lane of the
 * stripe, two stripes of that block. */
struct family {
    unsigned block, lane, stripes[2];
};

static const struct family families[] = {
    {0, 0, {0, 1}}, {0, 5, {2, 13}}, {1, 7, {0, 15}}, {3, 3, {4, 9}}};

/* Page `number` of a family; all of them have one fingerprint. */
static void forge(const uint8_t *secret, const struct family *family,
                  uint32_t number, uint8_t *page)
{
    fill_random(page, PAGE, 77);
    for (unsigned i = 0; i < 2; i++) {
        size_t at =
            1024 * family->block + 64 * family->stripes[i] + 8 * family->lane;
        uint64_t key = le64(secret + 8 * family->stripes[i] + 8 * family->lane);
        uint32_t high = i == 0 ? number : 0x12345678u - number;
        /* The sum of the high halves is constant, of the low ones too. */
        uint64_t word = (uint64_t)high << 32 | (uint32_t)key;

        memcpy(page + at, &word, 8);
    }
}

/* `count` pages from `first` on. Caller frees. */
static uint8_t *forge_pages(const uint8_t *secret, unsigned family,
                            uint32_t first, size_t count)
{
    uint8_t *data = vn_alloc(count * PAGE);

    for (size_t i = 0; i < count; i++)
        forge(secret, &families[family], first + (uint32_t)i, data + i * PAGE);
    return data;
}

static int setup_as(void **state, enum store_identity identity)
{
    struct vn_err err = VN_ERR_INIT;
    struct store_fixture *f;

    if (fixture_setup(state) < 0)
        return -1;
    f = *state;
    store_close(vn_steal(&f->store));
    snprintf(f->path, sizeof(f->path), "%s/other", f->dir);
    if (store_init_as(f->path, identity, &err) < 0)
        return -1;
    f->store = store_open(f->path, &err);
    return f->store ? 0 : -1;
}

static int setup_blake3(void **state)
{
    return setup_as(state, STORE_BLAKE3);
}

static int setup_sha256(void **state)
{
    return setup_as(state, STORE_SHA256);
}

/* ---- the forgery works ------------------------------------------------ */

static void test_pages_collide(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) struct ident_full *ids =
        vn_alloc(PAGES * sizeof(struct ident_full));
    uint8_t secret[IDENT_SECRET_SIZE];
    struct store_config config;
    struct vn_err err = VN_ERR_INIT;
    struct ident ident;

    steal_secret(f, secret);
    assert_ok(store_config_read(f->path, &config, &err), &err);
    ident_init(&ident, config.identity, config.key, config.secret);
    for (unsigned k = 0; k < VN_COUNT(families); k++) {
        vn_auto(free) uint8_t *data = forge_pages(secret, k, 0, PAGES);
        struct fingerprint first;

        ident_fingerprint(&ident, data, &first);
        for (unsigned i = 0; i < PAGES; i++) {
            struct fingerprint print;

            ident_fingerprint(&ident, data + i * PAGE, &print);
            assert_memory_equal(&print, &first, sizeof(print));
            ident_chunk(&ident, CHUNK_PAGE, data + i * PAGE, PAGE, &ids[i]);
            if (i > 0) {
                assert_memory_not_equal(data + i * PAGE, data, PAGE);
                assert_memory_not_equal(&ids[i], &ids[i - 1], sizeof(*ids));
            }
        }
        /* Under another store's secret they have nothing in common. */
        fill_random(config.secret, IDENT_SECRET_SIZE, k);
        ident_init(&ident, config.identity, config.key, config.secret);
        ident_fingerprint(&ident, data, &first);
        for (unsigned i = 1; i < PAGES; i++) {
            struct fingerprint print;

            ident_fingerprint(&ident, data + i * PAGE, &print);
            assert_memory_not_equal(&print, &first, sizeof(print));
        }
        ident_init(&ident, config.identity, config.key, secret);
    }
}

/* ---- others are not harmed -------------------------------------------- */

/* Whole, page by page, and by single reads from the end. */
static void assert_image(struct store *store, const struct map_root *root,
                         const uint8_t *data, size_t count)
{
    struct vn_err err = VN_ERR_INIT;
    struct image_reader *reader;
    uint8_t page[PAGE];

    assert_true(image_equals(store, root, data, count * PAGE));
    reader = image_reader_open(store, root, &err);
    assert_made(reader, &err);
    for (size_t i = count; i-- > 0;) {
        assert_ok(image_reader_read(reader, i * PAGE, page, PAGE, &err), &err);
        assert_memory_equal(page, data + i * PAGE, PAGE);
    }
    image_reader_free(reader);
}

/* The forger fills the store first; then others write pages of the same
 * fingerprint at the same and at other places. */
static void test_others_get_their_own(void **state)
{
    struct store_fixture *f = *state;
    uint8_t secret[IDENT_SECRET_SIZE];

    steal_secret(f, secret);
    for (unsigned k = 0; k < VN_COUNT(families); k++) {
        vn_auto(free) uint8_t *evil = forge_pages(secret, k, 0, PAGES);
        vn_auto(free) uint8_t *more = forge_pages(secret, k, 90000, PAGES);
        vn_auto(free) uint8_t *plain = make_pages(k + 1, PAGES);
        vn_auto(free) uint8_t *mixed = vn_alloc(PAGES * PAGE);
        vn_auto(free) char *series = vn_format("evil%u@1", k);
        struct map_root forger, none, own, parent, again;
        struct store_counts c;

        for (unsigned i = 0; i < PAGES; i++)
            memcpy(mixed + i * PAGE,
                   (i % 3 ? evil + (PAGES - 1 - i) * PAGE : plain + i * PAGE),
                   PAGE);
        forger = store_image(f->store, evil, PAGES * PAGE, NULL, &c);
        assert_int_equal(c.bytes_new, PAGES * PAGE);
        commit_image(f->store, series, &forger);
        /* Without a parent. */
        none = store_image(f->store, more, PAGES * PAGE, NULL, &c);
        assert_int_equal(c.bytes_new, PAGES * PAGE);
        /* With one of its own, of which nothing is left. */
        parent = store_image(f->store, plain, PAGES * PAGE, NULL, NULL);
        own = store_image(f->store, mixed, PAGES * PAGE, &parent, &c);
        assert_int_equal(c.bytes_unchanged, PAGES / 3 * PAGE);
        assert_int_equal(c.bytes_known, c.bytes_read - c.bytes_unchanged);
        again = store_image(f->store, mixed, PAGES * PAGE, &own, &c);
        assert_int_equal(c.bytes_unchanged, PAGES * PAGE);
        assert_image(f->store, &forger, evil, PAGES);
        assert_image(f->store, &none, more, PAGES);
        assert_image(f->store, &parent, plain, PAGES);
        assert_image(f->store, &own, mixed, PAGES);
        assert_image(f->store, &again, mixed, PAGES);
    }
}

/* Forger and victim through one writer, page by page in turns. */
static void test_in_one_batch(void **state)
{
    struct store_fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    struct store_writer *writer = store_writer_open(f->store, &err);
    struct image_writer *images[2];
    struct map_root roots[2];
    uint8_t secret[IDENT_SECRET_SIZE];
    uint8_t *data[2];

    assert_made(writer, &err);
    steal_secret(f, secret);
    for (unsigned k = 0; k < 2; k++) {
        data[k] = forge_pages(secret, 1, k * 5000, PAGES);
        images[k] = image_writer_open(writer, PAGES * PAGE, NULL, &err);
        assert_made(images[k], &err);
    }
    for (unsigned i = 0; i < PAGES; i++)
        for (unsigned k = 0; k < 2; k++)
            assert_ok(image_writer_put(images[k], i * PAGE, data[k] + i * PAGE,
                                       PAGE, &err),
                      &err);
    for (unsigned k = 0; k < 2; k++) {
        assert_ok(image_writer_finish(images[k], &roots[k], &err), &err);
        image_writer_free(images[k]);
    }
    assert_ok(store_writer_flush(writer, &err), &err);
    store_writer_free(writer);
    for (unsigned k = 0; k < 2; k++) {
        assert_image(f->store, &roots[k], data[k], PAGES);
        free(data[k]);
    }
}

/* ---- in place --------------------------------------------------------- */

/* The forger's next version: it gets its own older pages, and nobody else gets
 * anything but his own, then or after a collection. */
static void test_in_place_harms_the_forger(void **state)
{
    struct store_fixture *f = *state;
    uint8_t secret[IDENT_SECRET_SIZE];
    struct map_root first, second, victim[2];
    struct store_counts c;
    uint8_t *evil[2], *own[2];

    steal_secret(f, secret);
    for (unsigned k = 0; k < 2; k++) {
        evil[k] = forge_pages(secret, 2, k * 5000, PAGES);
        own[k] = forge_pages(secret, 3, k * 7000, PAGES);
        /* Of the victim every other page changes for another reason. */
        for (unsigned i = 0; k == 1 && i < PAGES; i += 2)
            fill_random(own[k] + i * PAGE, PAGE, 4000 + i);
        for (unsigned i = 1; k == 1 && i < PAGES; i += 2)
            memcpy(own[1] + i * PAGE, own[0] + i * PAGE, PAGE);
    }
    first = add_snapshot(f->store, "evil@1", evil[0], PAGES, NULL);
    victim[0] = add_snapshot(f->store, "lab@1", own[0], PAGES, NULL);
    second = store_image(f->store, evil[1], PAGES * PAGE, &first, &c);
    assert_int_equal(c.bytes_unchanged, PAGES * PAGE);
    commit_image(f->store, "evil@2", &second);
    victim[1] = add_snapshot(f->store, "lab@2", own[1], PAGES, &victim[0]);
    /* What it put is nowhere; what it gets is what it had there. */
    assert_image(f->store, &second, evil[0], PAGES);
    assert_image(f->store, &victim[0], own[0], PAGES);
    assert_image(f->store, &victim[1], own[1], PAGES);
    /* Without the forger's first snapshot the rest is as it was. */
    delete_snapshot(f->store, "evil@1");
    delete_snapshot(f->store, "lab@1");
    run_gc(f->store, &gc_now);
    run_gc(f->store, &gc_now);
    assert_image(f->store, &second, evil[0], PAGES);
    assert_image(f->store, &victim[1], own[1], PAGES);
    assert_int_equal(count_findings(f->store), 0);
    for (unsigned k = 0; k < 2; k++) {
        free(evil[k]);
        free(own[k]);
    }
}

/* ---- domains ---------------------------------------------------------- */

static struct map_root put_in(struct store *store, const char *domain,
                              const uint8_t *data,
                              const struct map_root *parent,
                              struct store_counts *ret)
{
    struct vn_err err = VN_ERR_INIT;
    struct store_writer *writer = store_writer_open_in(store, domain, &err);
    struct map_root root;

    assert_made(writer, &err);
    root = put_image(writer, data, PAGES * PAGE, parent);
    assert_ok(store_writer_flush(writer, &err), &err);
    store_writer_counts(writer, ret);
    store_writer_free(writer);
    return root;
}

/* A forger's image as the parent of one in another domain, by mistake of
 * whoever chose it: its pages are not even looked at. */
static void test_not_across_domains(void **state)
{
    struct store_fixture *f = *state;
    uint8_t secret[IDENT_SECRET_SIZE];

    steal_secret(f, secret);
    for (unsigned k = 0; k < VN_COUNT(families); k++) {
        vn_auto(free) uint8_t *evil = forge_pages(secret, k, 0, PAGES);
        vn_auto(free) uint8_t *own = forge_pages(secret, k, 90000, PAGES);
        struct map_root forger, victim, back;
        struct store_counts c;

        memcpy(own, evil, 10 * PAGE); /* and some pages that are the same */
        forger = put_in(f->store, "evil", evil, NULL, &c);
        victim = put_in(f->store, "lab", own, &forger, &c);
        assert_int_equal(c.bytes_new, PAGES * PAGE);
        assert_int_equal(c.bytes_unchanged, 0);
        back = put_in(f->store, "evil", evil, &victim, &c);
        assert_int_equal(c.bytes_unchanged, 0);
        assert_int_equal(c.bytes_known, PAGES * PAGE);
        assert_image(f->store, &forger, evil, PAGES);
        assert_image(f->store, &victim, own, PAGES);
        assert_image(f->store, &back, evil, PAGES);
    }
}

#define WITH_BOTH(test)                                                        \
    cmocka_unit_test_setup_teardown(test, setup_blake3, fixture_teardown),     \
        cmocka_unit_test_setup_teardown(test, setup_sha256, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_BOTH(test_pages_collide),
        WITH_BOTH(test_others_get_their_own),
        WITH_BOTH(test_in_one_batch),
        WITH_BOTH(test_in_place_harms_the_forger),
        WITH_BOTH(test_not_across_domains),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
