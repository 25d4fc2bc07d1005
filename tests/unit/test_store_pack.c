/* Packs: what is built is parsed again; whatever is changed is noticed. */

#include "unit/store_fixture.h"

#include "store/map_node.h"
#include "store/pack.h"

#define CHUNKS 5u
#define DOMAIN 0x1122334455667788ull

struct built {
    struct ident ident;
    struct pack_builder *builder;
    uint8_t *data;
    size_t size;
};

static const uint8_t store_id[16] = "0123456789abcde";

static int setup_in(void **state, uint64_t domain)
{
    struct built *b = vn_alloc(sizeof(*b));
    uint8_t secrets[IDENT_SECRET_SIZE];
    struct vn_err err = VN_ERR_INIT;

    fill_random(secrets, sizeof(secrets), 1);
    ident_init(&b->ident, STORE_BLAKE3, secrets, secrets);
    ident_in_domain(&b->ident, domain, &b->ident);
    b->builder = pack_builder_new(store_id);
    pack_builder_set_domain(b->builder, domain);
    for (unsigned i = 0; i < CHUNKS; i++) {
        struct pack_entry entry;
        struct ident_full id;
        uint8_t page[PAGE];

        fill_random(page, PAGE, i);
        if (i % 2)
            memset(page, (int)i, PAGE);
        ident_chunk(&b->ident, CHUNK_PAGE, page, PAGE, &id);
        if (pack_builder_add(b->builder, CHUNK_PAGE, &id, page, PAGE, &entry,
                             &err) < 0)
            return -1;
    }
    if (pack_builder_finish(b->builder, 42, &b->data, &b->size, &err) < 0)
        return -1;
    *state = b;
    return 0;
}

static int setup(void **state)
{
    return setup_in(state, 0);
}

static int setup_domain(void **state)
{
    return setup_in(state, DOMAIN);
}

static int teardown(void **state)
{
    struct built *b = *state;

    pack_builder_free(b->builder);
    free(b);
    return 0;
}

/* Is the pack whole: parsed, without damage, each chunk as its id says? */
static bool is_whole(const struct ident *ident, const uint8_t *data,
                     size_t size)
{
    struct vn_err err = VN_ERR_INIT;
    char damage[128];
    struct pack pack;
    bool whole;

    if (pack_parse(data, size, &pack, damage, &err) < 0)
        return false;
    whole = !damage[0];
    for (uint32_t i = 0; i < pack.count; i++) {
        const struct pack_entry *e = &pack.entries[i];
        struct ident_full id;
        uint8_t out[PAGE];
        size_t n;

        if (e->kind != CHUNK_PAGE ||
            pack_decode(e->kind, e->codec, data + e->offset, e->stored_size,
                        out, &n, &err) < 0) {
            whole = false;
            continue;
        }
        ident_chunk(ident, CHUNK_PAGE, out, n, &id);
        if (memcmp(&id, &e->id, sizeof(id)) != 0)
            whole = false;
    }
    pack_done(&pack);
    return whole;
}

static void test_parse(void **state)
{
    struct built *b = *state;
    struct vn_err err = VN_ERR_INIT;
    char damage[128];
    struct pack pack;

    assert_true(is_whole(&b->ident, b->data, b->size));
    assert_ok(pack_parse(b->data, b->size, &pack, damage, &err), &err);
    assert_string_equal(damage, "");
    assert_int_equal(pack.id, 42);
    assert_int_equal(pack.count, CHUNKS);
    assert_memory_equal(pack.store_id, store_id, 16);
    assert_int_equal(pack.entries[0].codec, CODEC_RAW);
    assert_int_equal(pack.entries[0].stored_size, PAGE);
    assert_int_equal(pack.entries[1].codec, CODEC_LZ4);
    assert_true(pack.entries[1].stored_size < 100);
    pack_done(&pack);
}

static void test_every_flipped_byte_is_noticed(void **state)
{
    struct built *b = *state;

    for (size_t i = 0; i < b->size; i++) {
        b->data[i] ^= (uint8_t)(1u << i % 8);
        if (is_whole(&b->ident, b->data, b->size))
            fail_msg("byte %zu of %zu changed and nobody noticed", i, b->size);
        b->data[i] ^= (uint8_t)(1u << i % 8);
    }
    assert_true(is_whole(&b->ident, b->data, b->size));
}

static void test_every_truncation_is_noticed(void **state)
{
    struct built *b = *state;

    for (size_t size = 0; size < b->size; size++) {
        /* Exact allocations, so that a sanitizer sees a read too far. */
        vn_auto(free) uint8_t *copy = malloc(size + 1);

        memcpy(copy, b->data, size);
        assert_false(is_whole(&b->ident, copy, size));
        size += size > 200 && size + 200 < b->size ? 60 : 0;
    }
}

static void test_newer_version_names_both(void **state)
{
    struct built *b = *state;
    uint8_t *footer = b->data + b->size - PACK_FOOTER_SIZE;
    struct vn_err err = VN_ERR_INIT;
    char damage[128];
    struct pack pack;

    footer[8] = 9;
    ident_check(footer, PACK_FOOTER_SIZE - 16, footer + PACK_FOOTER_SIZE - 16);
    assert_int_equal(pack_parse(b->data, b->size, &pack, damage, &err), -1);
    assert_int_equal(err.code, VN_E_VERSION);
    assert_non_null(strstr(err.msg, "format 9"));
    assert_non_null(strstr(err.msg, "formats 1 to 4"));
}

static void write_le64(uint8_t *to, uint64_t value)
{
    for (unsigned i = 0; i < 8; i++)
        to[i] = (uint8_t)(value >> (8 * i));
}

/* What a directory that begins before the pack would fit, modulo 2^64. */
static void test_directory_before_the_pack(void **state)
{
    struct built *b = *state;
    uint8_t *footer = b->data + b->size - PACK_FOOTER_SIZE;
    uint64_t count = b->size / PACK_ENTRY_SIZE;
    struct vn_err err = VN_ERR_INIT;
    char damage[128];
    struct pack pack;

    assert_true(count * PACK_ENTRY_SIZE + PACK_FOOTER_SIZE > b->size);
    footer[12] = (uint8_t)count;
    footer[13] = (uint8_t)(count >> 8);
    write_le64(footer + 16,
               b->size - PACK_FOOTER_SIZE - count * PACK_ENTRY_SIZE);
    ident_check(footer, PACK_FOOTER_SIZE - 16, footer + PACK_FOOTER_SIZE - 16);
    assert_int_equal(pack_parse(b->data, b->size, &pack, damage, &err), -1);
    assert_int_equal(err.code, VN_E_CORRUPT);
    assert_non_null(strstr(err.msg, "its size does not fit its footer"));
}

/* ---- domains ---------------------------------------------------------- */

static void test_domain_is_there_twice(void **state)
{
    struct built *b = *state;
    uint8_t *trailer = b->data + b->size - PACK_FOOTER_SIZE - PACK_DOMAIN_SIZE;
    struct vn_err err = VN_ERR_INIT;
    char damage[128];
    struct pack pack;
    uint64_t domain;
    uint64_t offset;

    assert_int_equal(pack_header_version(b->data, &domain),
                     PACK_VERSION_DOMAIN);
    assert_true(domain == DOMAIN);
    assert_memory_equal(b->data + 40, trailer, 8);
    assert_int_equal(pack_builder_size(b->builder), b->size);
    assert_ok(pack_directory_offset(trailer + PACK_DOMAIN_SIZE, b->size,
                                    &offset, &err),
              &err);
    assert_true(offset ==
                (uint64_t)(trailer - b->data) - CHUNKS * PACK_ENTRY_SIZE);

    /* The header goes, the domain stays. */
    memset(b->data, 0xff, PACK_HEADER_SIZE);
    assert_int_equal(pack_header_version(b->data, &domain), 0);
    assert_ok(pack_parse(b->data, b->size, &pack, damage, &err), &err);
    assert_string_equal(damage, "its header is damaged");
    assert_true(pack.domain == DOMAIN);
    pack_done(&pack);
}

/* A header of another domain, with a check that fits. */
static void test_domains_that_do_not_agree(void **state)
{
    struct built *b = *state;
    struct vn_err err = VN_ERR_INIT;
    char damage[128];
    struct pack pack;

    b->data[40] ^= 1;
    ident_check(b->data, PACK_HEADER_SIZE - 16,
                b->data + PACK_HEADER_SIZE - 16);
    assert_ok(pack_parse(b->data, b->size, &pack, damage, &err), &err);
    assert_string_equal(damage, "its header and its footer do not agree");
    pack_done(&pack);
}

/* A pack of a domain without one: the parser does not take it for the store's.
 */
static void test_domain_zero_is_refused(void **state)
{
    struct built *b = *state;
    uint8_t *footer = b->data + b->size - PACK_FOOTER_SIZE;
    size_t size = CHUNKS * PACK_ENTRY_SIZE + PACK_DOMAIN_SIZE;
    struct vn_err err = VN_ERR_INIT;
    char damage[128];
    struct pack pack;

    memset(footer - PACK_DOMAIN_SIZE, 0, PACK_DOMAIN_SIZE);
    ident_check(footer - size, size, footer + 48);
    ident_check(footer, PACK_FOOTER_SIZE - 16, footer + PACK_FOOTER_SIZE - 16);
    assert_int_equal(pack_parse(b->data, b->size, &pack, damage, &err), -1);
    assert_int_equal(err.code, VN_E_CORRUPT);
    assert_non_null(strstr(err.msg, "of no domain"));
}

/* A builder used again has the domain of before, unless told otherwise. */
static void test_reset_keeps_the_domain(void **state)
{
    struct built *b = *state;
    struct vn_err err = VN_ERR_INIT;
    uint8_t page[PAGE];
    struct pack_entry entry;
    struct ident_full id;
    uint64_t domain = 1;

    fill_random(page, PAGE, 3);
    ident_chunk(&b->ident, CHUNK_PAGE, page, PAGE, &id);
    for (int i = 0; i < 2; i++) {
        pack_builder_set_zstd(b->builder);
        pack_builder_reset(b->builder);
        if (i == 1)
            pack_builder_set_domain(b->builder, 0);
        assert_ok(pack_builder_add(b->builder, CHUNK_PAGE, &id, page, PAGE,
                                   &entry, &err),
                  &err);
        assert_ok(pack_builder_finish(b->builder, 43, &b->data, &b->size, &err),
                  &err);
        assert_int_equal(pack_header_version(b->data, &domain),
                         i == 0 ? PACK_VERSION_DOMAIN : PACK_VERSION);
        assert_true(domain == (i == 0 ? DOMAIN : 0));
    }
}

static void test_decode_of_rubbish(void **state)
{
    uint8_t stored[PAGE];
    vn_auto(free) uint8_t *out = malloc(MAP_LEAF_SIZE);
    struct vn_err err = VN_ERR_INIT;
    size_t size;

    (void)state;
    for (unsigned seed = 0; seed < 2000; seed++) {
        fill_random(stored, sizeof(stored), seed);
        if (pack_decode(seed % 8, seed % 3, stored, seed, out, &size, &err) < 0)
            assert_int_equal(err.code, VN_E_CORRUPT);
        else
            assert_true(size <= MAP_LEAF_SIZE);
    }
}

static void test_reset_and_large_packs(void **state)
{
    struct built *b = *state;
    vn_auto(free) uint8_t *big = vn_alloc(20 * TEST_MIB);
    struct vn_err err = VN_ERR_INIT;
    struct pack_entry entry;
    struct ident_full id;
    char damage[128];
    struct pack pack;

    fill_random(big, 20 * TEST_MIB, 8);
    ident_chunk(&b->ident, CHUNK_MANIFEST, big, 20 * TEST_MIB, &id);
    pack_builder_reset(b->builder);
    assert_int_equal(pack_builder_count(b->builder), 0);
    assert_ok(pack_builder_add(b->builder, CHUNK_MANIFEST, &id, big,
                               20 * TEST_MIB, &entry, &err),
              &err);
    assert_ok(pack_builder_finish(b->builder, 43, &b->data, &b->size, &err),
              &err);
    assert_true((uintptr_t)b->data % 4096 == 0);
    assert_ok(pack_parse(b->data, b->size, &pack, damage, &err), &err);
    assert_int_equal(pack.count, 1);
    assert_memory_equal(b->data + pack.entries[0].offset, big, 20 * TEST_MIB);
    pack_done(&pack);
    /* Three fit a pack, four do not. */
    for (int i = 0; i < 2; i++)
        assert_ok(pack_builder_add(b->builder, CHUNK_MANIFEST, &id, big,
                                   20 * TEST_MIB, &entry, &err),
                  &err);
    assert_int_equal(pack_builder_add(b->builder, CHUNK_MANIFEST, &id, big,
                                      20 * TEST_MIB, &entry, &err),
                     -1);
    assert_int_equal(err.code, VN_E_LIMIT);
}

#define WITH_PACK(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
#define WITH_DOMAIN(test)                                                      \
    {                                                                          \
#test " (domain)", test, setup_domain, teardown, NULL                  \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_PACK(test_parse),
        WITH_PACK(test_every_flipped_byte_is_noticed),
        WITH_PACK(test_every_truncation_is_noticed),
        WITH_PACK(test_newer_version_names_both),
        cmocka_unit_test(test_decode_of_rubbish),
        WITH_PACK(test_reset_and_large_packs),
        WITH_PACK(test_directory_before_the_pack),
        WITH_DOMAIN(test_every_flipped_byte_is_noticed),
        WITH_DOMAIN(test_every_truncation_is_noticed),
        WITH_DOMAIN(test_directory_before_the_pack),
        WITH_DOMAIN(test_domain_is_there_twice),
        WITH_DOMAIN(test_domains_that_do_not_agree),
        WITH_DOMAIN(test_domain_zero_is_refused),
        WITH_DOMAIN(test_reset_keeps_the_domain),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
