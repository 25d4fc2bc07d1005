/* The two hashes: SIMD batches against the plain hasher, domains, zeros. */

#include "unit/store_fixture.h"

#include "store/ident.h"

#include <blake3.h>
#include <openssl/hmac.h>
#include <xxhash.h>

#define PAGES 37u

static void make_ident_as(struct ident *ident, enum store_identity identity,
                          uint8_t seed)
{
    uint8_t key[IDENT_KEY_SIZE];
    uint8_t secret[IDENT_SECRET_SIZE];

    fill_random(key, sizeof(key), seed);
    fill_random(secret, sizeof(secret), seed + 100u);
    ident_init(ident, identity, key, secret);
}

static void make_ident(struct ident *ident, uint8_t seed)
{
    make_ident_as(ident, STORE_BLAKE3, seed);
}

static void test_batches_equal_the_hasher(void **state)
{
    static uint8_t pages[PAGES][PAGE];
    const uint8_t *inputs[PAGES];
    struct ident_full ids[PAGES];
    struct ident ident;

    (void)state;
    make_ident(&ident, 1);
    for (unsigned i = 0; i < PAGES; i++) {
        fill_random(pages[i], PAGE, i + 1);
        inputs[i] = pages[i];
    }
    for (unsigned count = 1; count <= PAGES; count++) {
        memset(ids, 0, sizeof(ids));
        ident_pages(&ident, inputs, count, ids);
        for (unsigned i = 0; i < count; i++) {
            uint8_t wanted[32];
            blake3_hasher hasher;

            blake3_hasher_init_keyed(&hasher, ident.keys[CHUNK_PAGE]);
            blake3_hasher_update(&hasher, pages[i], PAGE);
            blake3_hasher_finalize(&hasher, wanted, sizeof(wanted));
            assert_memory_equal(ids[i].bytes, wanted, 32);
        }
    }
}

/* The same with the other identity; keys too are what the format says. */
static void test_sha256_is_hmac(void **state)
{
    static uint8_t pages[PAGES][PAGE];
    const char context[] = "vnstore v1 chunk kind page";
    uint8_t master[IDENT_KEY_SIZE];
    const uint8_t *inputs[PAGES];
    struct ident_full ids[PAGES];
    uint8_t wanted[32];
    struct ident ident;

    (void)state;
    make_ident_as(&ident, STORE_SHA256, 1);
    fill_random(master, sizeof(master), 1);
    assert_non_null(HMAC(EVP_sha256(), master, sizeof(master),
                         (const uint8_t *)context, strlen(context), wanted,
                         NULL));
    assert_memory_equal(ident.keys[CHUNK_PAGE], wanted, IDENT_KEY_SIZE);
    for (unsigned i = 0; i < PAGES; i++) {
        fill_random(pages[i], PAGE, i + 1);
        inputs[i] = pages[i];
    }
    ident_pages(&ident, inputs, PAGES, ids);
    for (unsigned i = 0; i < PAGES; i++) {
        struct ident_full one;

        assert_non_null(HMAC(EVP_sha256(), ident.keys[CHUNK_PAGE],
                             IDENT_KEY_SIZE, pages[i], PAGE, wanted, NULL));
        assert_memory_equal(ids[i].bytes, wanted, 32);
        ident_chunk(&ident, CHUNK_PAGE, pages[i], PAGE, &one);
        assert_memory_equal(one.bytes, wanted, 32);
    }
}

static void check_kinds_and_stores(enum store_identity identity)
{
    uint8_t page[PAGE];
    struct ident a;
    struct ident b;
    struct ident_full ids[CHUNK_KINDS];
    struct ident_full other;

    fill_random(page, PAGE, 5);
    make_ident_as(&a, identity, 1);
    make_ident_as(&b, identity, 2);
    for (unsigned kind = 1; kind < CHUNK_KINDS; kind++) {
        ident_chunk(&a, (enum chunk_kind)kind, page, PAGE, &ids[kind]);
        ident_chunk(&b, (enum chunk_kind)kind, page, PAGE, &other);
        assert_memory_not_equal(&ids[kind], &other, sizeof(other));
        for (unsigned k = 1; k < kind; k++)
            assert_memory_not_equal(&ids[kind], &ids[k], sizeof(other));
    }
}

static void test_kinds_and_stores_differ(void **state)
{
    (void)state;
    check_kinds_and_stores(STORE_BLAKE3);
    check_kinds_and_stores(STORE_SHA256);
}

static void test_fingerprint(void **state)
{
    uint8_t page[PAGE];
    struct fingerprint x;
    struct fingerprint y;
    struct ident a;
    struct ident b;

    (void)state;
    make_ident(&a, 1);
    make_ident(&b, 2);
    fill_random(page, PAGE, 5);
    ident_fingerprint(&a, page, &x);
    ident_fingerprint(&b, page, &y);
    assert_memory_not_equal(&x, &y, sizeof(x));
    ident_fingerprint(&a, page, &y);
    assert_memory_equal(&x, &y, sizeof(x));
    page[PAGE - 1] ^= 1;
    ident_fingerprint(&a, page, &y);
    assert_memory_not_equal(&x, &y, sizeof(x));
}

/* Whatever it is computed with, it is what the library says. */
static void test_fingerprint_is_xxh3(void **state)
{
    uint8_t page[PAGE + 1];
    XXH128_canonical_t canonical;
    struct fingerprint print;
    struct ident a;

    (void)state;
    for (unsigned i = 0; i < 100; i++) {
        uint8_t *at = page + i % 2; /* pages need not be aligned */

        make_ident(&a, (uint8_t)i);
        fill_random(at, PAGE, 5 + i);
        XXH128_canonicalFromHash(
            &canonical,
            XXH3_128bits_withSecret(at, PAGE, a.secret, IDENT_SECRET_SIZE));
        ident_fingerprint(&a, at, &print);
        assert_memory_equal(canonical.digest, print.bytes, 16);
    }
}

static void test_zero_page(void **state)
{
    uint8_t page[PAGE] = {0};

    (void)state;
    assert_true(ident_page_is_zero(page));
    for (unsigned i = 0; i < PAGE; i += 97) {
        page[i] = 1;
        assert_false(ident_page_is_zero(page));
        page[i] = 0;
    }
    page[PAGE - 1] = 0x80;
    assert_false(ident_page_is_zero(page));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_batches_equal_the_hasher),
        cmocka_unit_test(test_sha256_is_hmac),
        cmocka_unit_test(test_kinds_and_stores_differ),
        cmocka_unit_test(test_fingerprint),
        cmocka_unit_test(test_fingerprint_is_xxh3),
        cmocka_unit_test(test_zero_page),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
