/*
 * gc, verify and repair of stores with several domains: each page stays in
 * packs of its own domain, damage is found and mended as in a store without
 * any, and nothing of one domain heals another's.
 */

#include "unit/store_domain_fixture.h"

#include "store/engine_memory.h"

#include <errno.h>

enum { PAGES = 700 };

static const char *const domains[] = {"red", "blue", NULL};

#define DOMAINS VN_COUNT(domains)

/* The same content in all domains, for find_spot() and its like. */
struct tenants {
    struct world w;
    uint8_t *data;
    struct map_root roots[DOMAINS];
};

static int tenants_setup(void **state, enum store_identity identity)
{
    struct tenants *t = vn_alloc(sizeof(*t));

    *state = t;
    if (domain_setup_as((void **)&t->w.f, identity) < 0)
        return -1;
    t->data = vn_alloc((size_t)PAGES * PAGE);
    fill_half(t->data, (size_t)PAGES * PAGE, 4);
    for (size_t i = 0; i < DOMAINS; i++) {
        vn_auto(free) char *name = vn_format("lab%zu@1", i);

        t->roots[i] =
            add_in(t->w.f->store, name, domains[i], t->data, PAGES, NULL);
    }
    return 0;
}

static int setup_blake3(void **state)
{
    return tenants_setup(state, STORE_BLAKE3);
}

static int setup_sha256(void **state)
{
    return tenants_setup(state, STORE_SHA256);
}

static int teardown(void **state)
{
    struct tenants *t = *state;

    free(t->data);
    fixture_teardown((void **)&t->w.f);
    free(t);
    return 0;
}

static bool is_whole(struct tenants *t, size_t i)
{
    vn_auto(free) char *name = vn_format("lab%zu@1", i);

    return snapshot_equals(t->w.f->store, name, t->data, PAGES);
}

static void assert_all_whole(struct tenants *t)
{
    for (size_t i = 0; i < DOMAINS; i++)
        assert_true(is_whole(t, i));
    assert_int_equal(count_findings(t->w.f->store), 0);
}

/* The pack with the pages of a domain, in the order of domains[]. */
static struct spot pages_of(struct tenants *t, size_t domain, unsigned page)
{
    return find_spot(&t->w, CHUNK_PAGE, (unsigned)domain * PAGES + page);
}

/* ---- gc --------------------------------------------------------------- */

/* Tenants write in turn, each a little; then most of it goes. */
static void test_gc_keeps_domains_apart(void **state)
{
    enum { ROUNDS = 12, PART = 60, KEPT = 20 };
    struct tenants *t = *state;
    struct store *store = t->w.f->store;
    struct store_gc_counts counts;
    struct census *census;

    for (unsigned r = 0; r < ROUNDS * DOMAINS; r++) {
        vn_auto(free) uint8_t *data = make_pages(100 + r, PART);
        vn_auto(free) char *all = vn_format("all@%u", r + 1);
        vn_auto(free) char *part = vn_format("part@%u", r + 1);

        add_in(store, all, domains[r % DOMAINS], data, PART, NULL);
        add_in(store, part, domains[r % DOMAINS], data, KEPT, NULL);
        delete_snapshot(store, all);
    }
    counts = run_gc(store, &gc_now);
    assert_true(counts.packs_rewritten >= ROUNDS * DOMAINS);
    assert_true(counts.packs_new <= 2 * DOMAINS);
    census = take_census(store);
    for (size_t i = 0; i < DOMAINS; i++) {
        assert_int_equal(census_pages(census, domains[i]),
                         PAGES + ROUNDS * KEPT);
        assert_true(census_packs(census, domains[i]) <= 3);
    }
    for (unsigned r = 0; r < ROUNDS * DOMAINS; r++) {
        vn_auto(free) uint8_t *data = make_pages(100 + r, KEPT);
        vn_auto(free) char *part = vn_format("part@%u", r + 1);

        assert_true(snapshot_equals(store, part, data, KEPT));
    }
    assert_all_whole(t);
    assert_tidy(t->w.f);
}

/* In batches that end between two packs. */
static void test_gc_in_batches(void **state)
{
    const struct store_gc_opts opts = {.threshold_percent = 10,
                                       .batch_bytes = 1};
    struct tenants *t = *state;
    struct store *store = t->w.f->store;
    vn_auto(free) uint8_t *half = vn_alloc((size_t)PAGES * PAGE);

    memcpy(half, t->data, (size_t)PAGES / 2 * PAGE);
    for (size_t i = 0; i < DOMAINS; i++) {
        vn_auto(free) char *old = vn_format("lab%zu@1", i);
        vn_auto(free) char *name = vn_format("lab%zu@2", i);

        add_in(store, name, domains[i], half, PAGES, NULL);
        delete_snapshot(store, old);
    }
    assert_int_equal(run_gc(store, &opts).packs_new, DOMAINS);
    for (size_t i = 0; i < DOMAINS; i++) {
        vn_auto(free) char *name = vn_format("lab%zu@2", i);

        assert_int_equal(census_pages(take_census(store), domains[i]),
                         PAGES / 2);
        assert_true(snapshot_equals(store, name, half, PAGES));
    }
    assert_int_equal(count_findings(store), 0);
}

static void test_recompress(void **state)
{
    const struct store_gc_opts opts = {.threshold_percent = 50,
                                       .recompress_level = 3};
    struct tenants *t = *state;
    struct store *store = t->w.f->store;
    struct store_gc_counts counts = run_gc(store, &opts);
    struct census *census = take_census(store);

    assert_int_equal(counts.packs_rewritten, DOMAINS);
    assert_int_equal(census->packs[PACK_VERSION], 0);
    assert_int_equal(census->packs[PACK_VERSION_ZSTD], 1);
    assert_int_equal(census->packs[PACK_VERSION_DOMAIN], 0);
    assert_int_equal(census->packs[PACK_VERSION_DOMAIN_ZSTD], 2);
    for (size_t i = 0; i < DOMAINS; i++)
        assert_int_equal(census_pages(census, domains[i]), PAGES);
    assert_all_whole(t);
    /* It is known that it was tried. */
    assert_int_equal(run_gc(store, &opts).packs_rewritten, 0);
    /* Zstd and LZ4 of one domain do not come into one pack. */
    {
        vn_auto(free) uint8_t *data = make_pages(8, 100);

        add_in(store, "new@1", "red", data, 100, NULL);
        add_in(store, "new@2", "red", data, 30, NULL);
        delete_snapshot(store, "new@1");
        delete_snapshot(store, "lab0@1");
        add_in(store, "lab0@2", "red", t->data, 100, NULL);
        run_gc(store, &gc_now);
        census = take_census(store);
        assert_int_equal(census->packs[PACK_VERSION_DOMAIN], 1);
        assert_int_equal(census->packs[PACK_VERSION_DOMAIN_ZSTD], 2);
        assert_int_equal(census_pages(census, "red"), 130);
        assert_true(snapshot_equals(store, "new@2", data, 30));
        assert_int_equal(count_findings(store), 0);
    }
}

/* ---- damage ----------------------------------------------------------- */

/* Repair, which must lose nothing; then all is well. */
static void assert_mends_all(struct tenants *t, uint64_t packs_damaged)
{
    struct store_repair_counts counts = repair_world(&t->w, false);

    assert_int_equal(counts.packs_damaged, packs_damaged);
    assert_int_equal(counts.chunks_lost, 0);
    assert_true(counts.chunks_moved > PAGES);
    open_world(&t->w);
    assert_all_whole(t);
    run_gc(t->w.f->store, &gc_now);
    for (size_t i = 0; i < DOMAINS; i++)
        assert_int_equal(census_pages(take_census(t->w.f->store), domains[i]),
                         PAGES);
    assert_all_whole(t);
}

static void test_damaged_tag_in_the_header(void **state)
{
    struct tenants *t = *state;
    struct spot red = pages_of(t, 0, 0);

    close_world(&t->w);
    flip_pack(&t->w, red.pack_id, 43);
    open_world(&t->w);
    /* Readers do not ask the header. */
    for (size_t i = 0; i < DOMAINS; i++)
        assert_true(is_whole(t, i));
    assert_int_equal(verify_world(&t->w, true), 1);
    assert_said("its header is damaged");
    assert_int_equal(verify_world(&t->w, false), 1);
    assert_said("its header is damaged");
    close_world(&t->w);
    assert_mends_all(t, 1);
}

static void damage_directories(struct tenants *t, bool headers)
{
    struct spot red = pages_of(t, 0, 0);
    struct spot blue = pages_of(t, 1, 0);

    close_world(&t->w);
    flip_pack(&t->w, red.pack_id, red.size - PACK_FOOTER_SIZE - 3);
    flip_pack(&t->w, blue.pack_id, blue.size - 1);
    if (headers) {
        flip_pack(&t->w, red.pack_id, 50);
        flip_pack(&t->w, blue.pack_id, 2);
    }
    open_world(&t->w);
    for (size_t i = 0; i < DOMAINS; i++)
        assert_true(is_whole(t, i));
    assert_true(verify_world(&t->w, false) >= 2);
    assert_said("its directory is damaged");
    assert_said("its footer is damaged");
    close_world(&t->w);
    assert_mends_all(t, 2);
}

/* The header tells. */
static void test_damaged_directories(void **state)
{
    damage_directories(*state, false);
}

/* The tag in what is left of the header is tried. */
static void test_damaged_directories_and_headers(void **state)
{
    damage_directories(*state, true);
}

/* A pack without a domain whose directory and tag are damaged is what it was:
 * its pages are the store's. */
static void test_damaged_pack_of_the_store(void **state)
{
    struct tenants *t = *state;
    struct spot own = pages_of(t, 2, 0);

    close_world(&t->w);
    flip_pack(&t->w, own.pack_id, own.size - PACK_FOOTER_SIZE - 3);
    flip_pack(&t->w, own.pack_id, 44);
    assert_mends_all(t, 1);
}

/* A page is lost in one domain. The other's, of the same content, does not
 * heal it, nor does a put there; the next put in its own domain does. */
static void test_lost_pages_heal_in_their_domain(void **state)
{
    struct tenants *t = *state;
    struct spot spot = pages_of(t, 0, 123);
    struct store_repair_counts counts;
    struct store_counts c;
    struct map_root root;

    close_world(&t->w);
    damage_spot(&t->w, &spot);
    counts = repair_world(&t->w, false);
    assert_int_equal(counts.chunks_lost, 1);
    assert_int_equal(counts.chunks_healed, 0);
    assert_int_equal(counts.lost, 1);
    open_world(&t->w);
    assert_false(is_whole(t, 0));
    assert_true(is_whole(t, 1) && is_whole(t, 2));
    put_in(t->w.f->store, "blue", t->data, PAGES, &t->roots[1], &c);
    assert_int_equal(c.bytes_new, 0);
    put_in(t->w.f->store, NULL, t->data, PAGES, NULL, &c);
    assert_int_equal(c.bytes_new, 0);
    assert_false(is_whole(t, 0));
    root = put_in(t->w.f->store, "red", t->data, PAGES, &t->roots[0], &c);
    assert_int_equal(c.bytes_new, PAGE);
    assert_int_equal(chunk_id_compare(&root.root, &t->roots[0].root), 0);
    assert_all_whole(t);
}

/* Another copy in the domain, dead weight until then, heals at once. */
static void test_a_copy_in_the_domain_heals(void **state)
{
    struct tenants *t = *state;
    struct store *store = t->w.f->store;
    vn_auto(free) uint8_t *data = make_pages(55, 50);
    struct vn_err err = VN_ERR_INIT;
    struct store_writer *writers[2];
    struct store_repair_counts counts;
    struct map_root root;
    struct spot spot;

    for (int i = 0; i < 2; i++) {
        writers[i] = store_writer_open_in(store, "red", &err);
        assert_made(writers[i], &err);
        root = put_image(writers[i], data, 50 * PAGE, NULL);
    }
    for (int i = 0; i < 2; i++) {
        assert_ok(store_writer_flush(writers[i], &err), &err);
        store_writer_free(writers[i]);
    }
    commit_in(store, "copy@1", "red", &root);
    spot = find_spot(&t->w, CHUNK_PAGE, DOMAINS * PAGES + 17);
    close_world(&t->w);
    damage_spot(&t->w, &spot);
    counts = repair_world(&t->w, false);
    assert_int_equal(counts.chunks_healed, 1);
    assert_int_equal(counts.lost, 0);
    open_world(&t->w);
    assert_true(snapshot_equals(t->w.f->store, "copy@1", data, 50));
    assert_all_whole(t);
    run_gc(t->w.f->store, &gc_now);
    assert_int_equal(census_pages(take_census(t->w.f->store), "red"),
                     PAGES + 50);
}

static void test_rebuild(void **state)
{
    struct tenants *t = *state;
    struct store_repair_counts counts;
    struct store_counts c;

    close_world(&t->w);
    counts = repair_world(&t->w, true);
    assert_true(counts.rebuilt);
    assert_int_equal(counts.findings, 0);
    assert_int_equal(counts.snapshots, DOMAINS);
    open_world(&t->w);
    assert_all_whole(t);
    put_in(t->w.f->store, "blue", t->data, PAGES, NULL, &c);
    assert_int_equal(c.bytes_new, 0);
    put_in(t->w.f->store, "green", t->data, PAGES, NULL, &c);
    assert_int_equal(c.bytes_known, 0);
}

/* Verify of one snapshot reads its pages with its domain's key. */
static void test_verify_of_one(void **state)
{
    struct tenants *t = *state;
    struct store_verify_opts opts = {.finding = print_finding};
    struct spot spot = pages_of(t, 1, 5);
    struct vn_err err = VN_ERR_INIT;
    uint64_t findings;

    for (int damaged = 0; damaged < 2; damaged++) {
        for (size_t i = 0; i < DOMAINS; i++) {
            vn_auto(free) char *name = vn_format("lab%zu@1", i);

            opts.snapshot = name;
            assert_ok(store_verify(t->w.f->store, &opts, &findings, &err),
                      &err);
            assert_int_equal(findings > 0, damaged && i == 1);
        }
        close_world(&t->w);
        damage_spot(&t->w, &spot);
        open_world(&t->w);
    }
}

/* ---- an engine that fails ---------------------------------------------- */

struct trouble {
    unsigned call;    /* calls so far */
    unsigned fail_at; /* with `code` */
    int code;
    bool corrupt; /* the first read */
};

static enum engine_outcome trouble_at(void *context, enum engine_call call,
                                      uint64_t pack_id, int *code)
{
    struct trouble *t = context;
    unsigned now = t->call++;

    (void)call;
    (void)pack_id;
    *code = t->code;
    if (now == t->fail_at)
        return ENGINE_REFUSE;
    return now == 0 && t->corrupt ? ENGINE_CORRUPT : ENGINE_DO;
}

/* A pack whose domain cannot be told because the engine fails is not damaged,
 * and one that was removed is not there. */
static void test_failures_are_no_damage(void **state)
{
    static const int codes[] = {EMFILE, ETIMEDOUT, VN_E_NOT_FOUND};
    struct tenants *t = *state;
    struct store *store = t->w.f->store;
    struct index_chunks step = {.index = store->index};
    const struct index_chunk *chunk;
    struct vn_err err = VN_ERR_INIT;
    uint8_t out[PAGE];
    uint64_t domain;
    size_t size;

    engine_close(store->engine);
    store->engine = engine_memory_new(0);
    put_in(store, "green", t->data, PAGES, NULL, NULL);
    do
        assert_int_equal(index_next_chunk(&step, &chunk, &err), 1);
    while (chunk->place.kind != CHUNK_PAGE ||
           engine_size(store->engine, chunk->place.pack_id, &domain, &err) < 0);
    /* Calls: the header and the chunk; where the header is damaged, size,
     * footer, directory and header before the chunk. */
    for (unsigned corrupt = 0; corrupt < 2; corrupt++)
        for (unsigned fail_at = 0; fail_at < (corrupt ? 7 : 3); fail_at++)
            for (size_t i = 0; i < VN_COUNT(codes); i++) {
                struct trouble trouble = {
                    .fail_at = fail_at, .code = codes[i], .corrupt = corrupt};
                int result;

                err = (struct vn_err)VN_ERR_INIT;
                engine_memory_set_fault(store->engine, trouble_at, &trouble);
                result =
                    chunk_read_at(store, CHUNK_PAGE, &chunk->id, &chunk->place,
                                  out, &size, &domain, &err);
                engine_memory_set_fault(store->engine, NULL, NULL);
                if (fail_at < trouble.call) {
                    assert_int_equal(result, -1);
                    assert_int_equal(err.code, codes[i]);
                    continue;
                }
                assert_ok(result, &err);
                assert_int_equal(fail_at, corrupt ? 6 : 2);
                assert_true(domain == tag_of(store, "green"));
            }
}

#undef WITH_BOTH
#define WITH_BOTH(test)                                                        \
    {#test " (blake3)", test, setup_blake3, teardown, NULL},                   \
    {                                                                          \
#test " (sha256)", test, setup_sha256, teardown, NULL                  \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_BOTH(test_gc_keeps_domains_apart),
        WITH_BOTH(test_gc_in_batches),
        WITH_BOTH(test_recompress),
        WITH_BOTH(test_damaged_tag_in_the_header),
        WITH_BOTH(test_damaged_directories),
        WITH_BOTH(test_damaged_directories_and_headers),
        WITH_BOTH(test_damaged_pack_of_the_store),
        WITH_BOTH(test_lost_pages_heal_in_their_domain),
        WITH_BOTH(test_a_copy_in_the_domain_heals),
        WITH_BOTH(test_rebuild),
        WITH_BOTH(test_verify_of_one),
        WITH_BOTH(test_failures_are_no_damage),
    };

    use_fast_disk();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
