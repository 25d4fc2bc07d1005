/*
 * gc with recompression: smaller, the same bytes, done once; beside damage,
 * holds and failures. And the codec itself against hostile frames.
 */

#include "unit/store_gc_fixture.h"

#include "store/codec_zstd.h"
#include "store/engine_memory.h"
#include "store/store_internal.h"

#include <fcntl.h>
#include <signal.h>
#include <zstd.h>

enum { PAGES = 1500 }; /* several leaves */

static const struct store_gc_opts recompress = {
    .threshold_percent = STORE_GC_THRESHOLD,
    .recompress_level = STORE_GC_LEVEL,
};

/* Text of some entropy: zstd is far better at it than LZ4. */
static uint8_t *make_text(uint64_t seed, size_t count)
{
    static const char alphabet[] = "etaoinshrdlucmf ";
    uint8_t *data = vn_alloc(count * PAGE);

    fill_random(data, count * PAGE, seed);
    for (size_t i = 0; i < count * PAGE; i++)
        data[i] = (uint8_t)alphabet[data[i] & data[i] >> 4 & 15];
    return data;
}

static uint64_t packs_bytes(struct store_fixture *f)
{
    uint64_t bytes;

    pack_files(f, &bytes);
    return bytes;
}

static void test_smaller_and_the_same(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) uint8_t *text = make_text(1, PAGES);
    vn_auto(free) uint8_t *noise = make_pages(2, 100);
    struct store_gc_counts counts;
    uint64_t before, after;

    add_snapshot(f->store, "text@1", text, PAGES, NULL);
    add_snapshot(f->store, "noise@1", noise, 100, NULL);
    before = packs_bytes(f);
    counts = run_gc(f->store, &gc_now);
    assert_int_equal(counts.packs_rewritten, 0);
    counts = run_gc(f->store, &recompress);
    assert_int_equal(counts.packs_rewritten, 2); /* not the manifests' */
    assert_true(counts.chunks_recompressed >= PAGES);
    after = packs_bytes(f);
    assert_true(after < before - before / 5);
    assert_true(snapshot_equals(f->store, "text@1", text, PAGES));
    assert_true(snapshot_equals(f->store, "noise@1", noise, 100));
    assert_int_equal(count_findings(f->store), 0);
    assert_tidy(f);
    /* Noise does not shrink, and is not tried again. */
    counts = run_gc(f->store, &recompress);
    assert_int_equal(counts.packs_rewritten, 0);
    assert_int_equal(packs_bytes(f), after);
    fixture_reopen(f);
    assert_true(snapshot_equals(f->store, "text@1", text, PAGES));
}

static void test_dry_run_changes_nothing(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) uint8_t *text = make_text(1, 300);
    struct store_gc_opts opts = recompress;
    uint64_t before;

    add_snapshot(f->store, "text@1", text, 300, NULL);
    before = packs_bytes(f);
    opts.dry_run = true;
    assert_int_equal(run_gc(f->store, &opts).packs_rewritten, 1);
    assert_int_equal(packs_bytes(f), before);
}

/* Chunks that zstd was tried on and others come into packs of their own, so
 * that the others are tried later. */
static void test_rewriting_keeps_the_versions_apart(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) uint8_t *old = make_text(1, 400);
    vn_auto(free) uint8_t *young = make_text(2, 400);
    struct store_gc_counts counts;

    add_snapshot(f->store, "old@1", old, 400, NULL);
    add_snapshot(f->store, "old@2", old, 100, NULL);
    run_gc(f->store, &recompress);
    add_snapshot(f->store, "young@1", young, 400, NULL);
    add_snapshot(f->store, "young@2", young, 100, NULL);
    delete_snapshot(f->store, "old@1");
    delete_snapshot(f->store, "young@1");
    counts = run_gc(f->store, &gc_now);
    assert_true(counts.packs_rewritten >= 2);
    assert_int_equal(counts.chunks_recompressed, 0);
    counts = run_gc(f->store, &recompress);
    assert_true(counts.chunks_recompressed >= 100);
    assert_true(counts.chunks_recompressed < 200);
    assert_int_equal(run_gc(f->store, &recompress).packs_rewritten, 0);
    assert_true(snapshot_equals(f->store, "old@2", old, 100));
    assert_true(snapshot_equals(f->store, "young@2", young, 100));
    assert_int_equal(count_findings(f->store), 0);
}

/* New writers find what was recompressed, and a parent works as before. */
static void test_dedup_against_recompressed(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) uint8_t *text = make_text(1, 600);
    struct store_counts counts;
    struct map_root parent = add_snapshot(f->store, "t@1", text, 600, NULL);

    run_gc(f->store, &recompress);
    store_image(f->store, text, 600 * PAGE, NULL, &counts);
    assert_int_equal(counts.bytes_new, 0);
    text[5] ^= 1;
    store_image(f->store, text, 600 * PAGE, &parent, &counts);
    assert_int_equal(counts.bytes_new, PAGE);
    assert_int_equal(counts.bytes_unchanged, 599 * PAGE);
}

/* Between batches the old packs go, so little more space is in use at a time:
 * seen here by the number of sweeps that found something. */
static void test_batches(void **state)
{
    struct store_fixture *f = *state;
    struct store_gc_opts opts = recompress;
    struct store_gc_counts counts;
    uint8_t *text[4];

    for (unsigned i = 0; i < 4; i++) {
        char name[8];

        snprintf(name, sizeof(name), "t@%u", i + 1);
        text[i] = make_text(10 + i, 300);
        add_snapshot(f->store, name, text[i], 300, NULL);
    }
    opts.batch_bytes = 1; /* a pack a batch */
    counts = run_gc(f->store, &opts);
    assert_int_equal(counts.packs_rewritten, 4);
    assert_int_equal(counts.packs_new, 4);
    assert_int_equal(counts.packs_removed, 4);
    for (unsigned i = 0; i < 4; i++) {
        char name[8];

        snprintf(name, sizeof(name), "t@%u", i + 1);
        assert_true(snapshot_equals(f->store, name, text[i], 300));
        free(text[i]);
    }
    assert_tidy(f);
}

/* Whoever holds keeps the old packs; reads go on; a later gc removes them. */
static void test_beside_a_hold(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) uint8_t *text = make_text(1, 300);
    struct vn_err err = VN_ERR_INIT;
    struct store_hold *hold;
    struct store_gc_counts counts;

    add_snapshot(f->store, "t@1", text, 300, NULL);
    hold = store_hold_open(f->store, &err);
    assert_made(hold, &err);
    counts = run_gc(f->store, &recompress);
    assert_int_equal(counts.packs_waiting, 1);
    assert_true(snapshot_equals(f->store, "t@1", text, 300));
    store_hold_close(hold);
    counts = run_gc(f->store, &gc_now);
    assert_int_equal(counts.packs_removed, 1);
    assert_true(snapshot_equals(f->store, "t@1", text, 300));
    assert_int_equal(count_findings(f->store), 0);
}

static const char *const points[] = {
    "store.index.move",   "store.index.condemn",   "store.index.sweep",
    "store.pack.create",  "store.pack.write",      "store.pack.sync",
    "store.pack.rename",  "store.pack.removed",    "store.gc.swept",
    "store.index.commit", "store.index.committed",
};

static int child_main(void *context, struct vn_err *err)
{
    const struct store_fixture *f = context;
    struct store *store = store_open(f->path, err);
    struct store_gc_counts counts;

    return store ? store_gc(store, &recompress, &counts, err) : -1;
}

/* Killed at each point; the next gc ends it. */
static void test_killed(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) uint8_t *text = make_text(1, 300);
    char name[8];

    for (unsigned i = 0; i < VN_COUNT(points); i++) {
        vn_auto(free) char *fault = vn_format("%s:1:kill", points[i]);

        text[0] = (uint8_t)i; /* something new that is not zstd */
        fill_random(text + PAGE, 8, i);
        snprintf(name, sizeof(name), "t@%u", i + 1);
        add_snapshot(f->store, name, text, 300, NULL);
        store_close(vn_steal(&f->store));
        assert_true(killed_at(fault, child_main, f));
        fixture_reopen(f);
        assert_true(snapshot_equals(f->store, name, text, 300));
        run_gc(f->store, &recompress);
        assert_tidy(f);
        assert_true(snapshot_equals(f->store, name, text, 300));
        assert_int_equal(count_findings(f->store), 0);
    }
}

/* A damaged pack stays as it is: its checksums are what shows the damage. */
static void test_damage_is_not_copied(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) uint8_t *text = make_text(1, 300);
    vn_auto(free) char *path = NULL;
    struct store_gc_counts counts;
    struct index_pack pack;
    struct vn_err err = VN_ERR_INIT;
    size_t count;
    uint8_t byte;
    int fd;

    add_snapshot(f->store, "t@1", text, 300, NULL);
    assert_ok(index_list_packs(f->store->index, 0, 1, &pack, &count, &err),
              &err);
    path = vn_format("%s/packs/%09llx/%012llx.pack", f->path,
                     (unsigned long long)pack.id >> 12,
                     (unsigned long long)pack.id);
    fd = open(path, O_RDWR);
    assert_int_equal(pread(fd, &byte, 1, 5000), 1);
    byte ^= 4;
    assert_int_equal(pwrite(fd, &byte, 1, 5000), 1);
    close(fd);
    counts = run_gc(f->store, &recompress);
    assert_int_equal(counts.packs_damaged, 1);
    assert_int_equal(counts.packs_rewritten, 0);
    assert_true(count_findings(f->store) > 0);
}

/* ---- the codec ---------------------------------------------------------- */

static int decode(const void *frame, size_t size)
{
    struct vn_err err = VN_ERR_INIT;
    /* Exact space, so that a sanitizer sees a write too far. */
    vn_auto(free) uint8_t *out = malloc(PAGE);
    vn_auto(free) uint8_t *in = malloc(size ? size : 1);
    size_t got;

    memcpy(in, frame, size);
    if (codec_zstd_decode(in, size, out, PAGE, &got, &err) == 0)
        return (int)got;
    assert_int_equal(err.code, VN_E_CORRUPT);
    return -1;
}

static void test_hostile_frames(void **state)
{
    uint8_t data[4 * PAGE], frame[5 * PAGE];
    struct codec_zstd *codec = codec_zstd_new(3);
    ZSTD_CCtx *context = ZSTD_createCCtx();
    size_t size;

    (void)state;
    fill_half(data, sizeof(data), 1);
    size = codec_zstd_compress(codec, data, PAGE, frame, sizeof(frame));
    assert_true(size > 0 && size < PAGE);
    assert_int_equal(decode(frame, size), PAGE);
    assert_int_equal(codec_zstd_compress(codec, data, PAGE, frame, 100), 0);
    /* Cut, with something behind, and with another frame behind. */
    size = codec_zstd_compress(codec, data, 2048, frame, sizeof(frame));
    for (size_t cut = 0; cut < size; cut++)
        assert_int_equal(decode(frame, cut), -1);
    frame[size] = 0;
    assert_int_equal(decode(frame, size + 1), -1);
    memmove(frame + size, frame, size);
    assert_int_equal(decode(frame, 2 * size), -1);
    /* Too large, empty, of unknown size, skippable. */
    size = codec_zstd_compress(codec, data, PAGE + 1, frame, sizeof(frame));
    assert_int_equal(decode(frame, size), -1);
    size = codec_zstd_compress(codec, data, 0, frame, sizeof(frame));
    assert_int_equal(decode(frame, size), -1);
    ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, 0);
    size = ZSTD_compress2(context, frame, sizeof(frame), data, PAGE);
    assert_int_equal(decode(frame, size), -1);
    memcpy(frame, "\x50\x2a\x4d\x18\x04\0\0\0abcd", 12);
    assert_int_equal(decode(frame, 12), -1);
    ZSTD_freeCCtx(context);
    codec_zstd_free(codec);
}

static void test_flipped_bits(void **state)
{
    uint8_t data[PAGE], frame[2 * PAGE];
    struct codec_zstd *codec = codec_zstd_new(19);
    size_t size;

    (void)state;
    fill_half(data, sizeof(data), 3);
    size = codec_zstd_compress(codec, data, PAGE, frame, sizeof(frame));
    for (size_t bit = 0; bit < 8 * size; bit += 3) {
        frame[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_true(decode(frame, size) <= (int)PAGE);
        frame[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    codec_zstd_free(codec);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_smaller_and_the_same,
                                        fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_dry_run_changes_nothing,
                                        fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_rewriting_keeps_the_versions_apart,
                                        fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_dedup_against_recompressed,
                                        fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_batches, fixture_setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_beside_a_hold, fixture_setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_killed, fixture_setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_damage_is_not_copied,
                                        fixture_setup, fixture_teardown),
        cmocka_unit_test(test_hostile_frames),
        cmocka_unit_test(test_flipped_bits),
    };

    use_fast_disk();
    return cmocka_run_group_tests_name("store_recompress", tests, NULL, NULL);
}
