/*
 * Verify: what the fast one sees and what it leaves, going on with a run that
 * was killed, and naming everything that needs a chunk.
 */

#include "unit/store_repair_fixture.h"

#include "common/jsonx.h"

#include <errno.h>

/* ---- fast ------------------------------------------------------------- */

static void test_fast(void **state)
{
    struct world *w = *state;
    struct spot page = find_spot(w, CHUNK_PAGE, 4);
    struct spot leaf = find_spot(w, CHUNK_LEAF, 1);

    assert_int_equal(verify_world(w, true), 0);
    close_world(w);
    damage_spot(w, &page);
    open_world(w);
    assert_int_equal(verify_world(w, true), 0); /* reads no pages */
    assert_true(verify_world(w, false) > 0);
    close_world(w);
    damage_spot(w, &leaf);
    open_world(w);
    assert_true(verify_world(w, true) > 0);
    assert_said("needed by snapshot 'big@1'");
}

/* A page that the index does not know. */
static void test_fast_unknown_page(void **state)
{
    struct world *w = *state;
    struct spot page = find_spot(w, CHUNK_PAGE, 4);
    struct index_lost row = {.id = ident_short(&page.entry.id)};
    struct vn_err err = VN_ERR_INIT;
    size_t count;

    assert_ok(index_find(w->f->store->index, &row.id, 1, &row.place, &err),
              &err);
    row.forget = true;
    assert_ok(index_lose(w->f->store->index, &row, 1, &count, &err), &err);
    assert_int_equal(count, 1);
    assert_true(verify_world(w, true) > 0);
    assert_said("is not in the index; needed by snapshot 'big@1', object "
                "'image': pages 4");
}

/* ---- who needs it ----------------------------------------------------- */

static const json_t *finding_of(const char *kind)
{
    const json_t *finding;
    size_t i;

    json_array_foreach (all_details, i, finding)
        if (strcmp(jsonx_string_or(finding, "kind", ""), kind) == 0)
            return finding;
    fail_msg("no finding of kind '%s'", kind);
    return NULL;
}

/* One page at many places of two objects of two snapshots. */
static void test_uses(void **state)
{
    struct world *w = *state;
    uint8_t *data = make_pages(70, 100);
    struct vn_err err = VN_ERR_INIT;
    vn_auto(json) json_t *manifest = manifest_new("net@1", "vne");
    const json_t *uses;
    const json_t *pages;
    struct map_root root;
    struct spot s;

    for (size_t i = 0; i < 100; i += i < 50 ? 2 : 1) /* 25 times, and 50 */
        memcpy(data + i * PAGE, w->small + 7 * PAGE, PAGE);
    root = store_image(w->f->store, data, 100 * PAGE, NULL, NULL);
    manifest_add(manifest, "vm/alpha/ram/pc.ram", &root);
    manifest_add(manifest, "vm/beta/disk/0", &root);
    assert_ok(store_commit(w->f->store, manifest, &err), &err);
    s = find_spot(w, CHUNK_PAGE, BIG + 1 + 7);
    close_world(w);
    damage_spot(w, &s);
    open_world(w);
    assert_true(verify_world(w, false) > 0);
    assert_said("needed by snapshot 'small@1', object 'image': pages 7; by "
                "snapshot 'net@1', object 'vm/alpha/ram/pc.ram' (VM alpha): "
                "pages 0, 2, 4, ");
    assert_said(" and 7 more; by snapshot 'net@1', object 'vm/beta/disk/0' "
                "(VM beta): pages 26 more");
    uses = json_object_get(finding_of("chunk"), "uses");
    assert_int_equal(json_array_size(uses), 3);
    uses = json_array_get(uses, 1);
    assert_string_equal(jsonx_string_or(uses, "vm", ""), "alpha");
    assert_int_equal(jsonx_u64_or(uses, "page_count", 0), 75);
    pages = json_object_get(uses, "pages");
    assert_int_equal(json_array_size(pages), 26);
    pages = json_array_get(pages, 25);
    assert_int_equal(json_integer_value(json_array_get(pages, 0)), 50);
    assert_int_equal(json_integer_value(json_array_get(pages, 1)), 99);
    free(data);
}

/* ---- going on --------------------------------------------------------- */

struct run {
    uint64_t findings;
    struct store_verify_counts counts;
    struct vn_err err;
    int result;
};

static struct run verify_with(struct world *w, bool resume)
{
    struct run r = {.err = VN_ERR_INIT};
    struct store_verify_opts opts = {.resume = resume,
                                     .state_ms = 1,
                                     .detail = take_finding,
                                     .counts = &r.counts};

    forget_findings();
    r.result = store_verify(w->f->store, &opts, &r.findings, &r.err);
    return r;
}

static bool has_state(struct world *w)
{
    vn_auto(free) char *path = vn_format("%s/verify.state", w->f->path);

    return access(path, F_OK) == 0;
}

/* More packs, so that there is a middle; their number. */
static size_t add_packs(struct world *w)
{
    struct store_stats stats;
    struct vn_err err = VN_ERR_INIT;

    for (unsigned i = 0; i < 8; i++) {
        vn_auto(free) char *name = vn_format("more@%u", i + 1);
        uint8_t *data = make_pages(500 + i, 4);

        add_snapshot(w->f->store, name, data, 4, NULL);
        free(data);
    }
    assert_ok(store_stats(w->f->store, &stats, &err), &err);
    return stats.packs;
}

static void test_resume(void **state)
{
    struct world *w = *state;
    size_t packs = add_packs(w);
    struct run r = verify_with(w, true);

    assert_int_equal(r.result, -1);
    assert_int_equal(r.err.code, VN_E_NOT_FOUND);
    fault_set("store.verify.pack:11:fail");
    r = verify_with(w, false);
    assert_int_equal(r.result, -1);
    assert_int_equal(r.err.code, EIO);
    assert_true(has_state(w));
    /* Interrupted once more, it does not forget what was before. */
    fault_set("store.verify.pack:1:fail");
    r = verify_with(w, true);
    assert_int_equal(r.result, -1);
    fault_set(NULL);
    r = verify_with(w, true);
    assert_ok(r.result, &r.err);
    assert_int_equal(r.findings, 0);
    assert_int_equal(r.counts.packs, packs);
    assert_int_equal(r.counts.packs_before, 10);
    assert_false(has_state(w));
}

/* What was found before is found again; what is damaged behind it too. */
static void test_resume_with_findings(void **state)
{
    struct world *w = *state;
    struct spot early = find_spot(w, CHUNK_PAGE, 1);
    struct spot late;
    uint64_t findings;
    struct run r;

    add_packs(w);
    late = find_spot(w, CHUNK_PAGE, BIG + 1 + SMALL + 30);
    close_world(w);
    damage_spot(w, &early);
    damage_spot(w, &late);
    open_world(w);
    findings = verify_world(w, false);
    fault_set("store.verify.pack:11:fail");
    assert_int_equal(verify_with(w, false).result, -1);
    fault_set(NULL);
    r = verify_with(w, true);
    assert_ok(r.result, &r.err);
    assert_int_equal(r.findings, findings);
    assert_int_equal(r.counts.packs_before, 9); /* one of ten is damaged */
    assert_said("needed by snapshot 'big@1'");
    assert_said("needed by snapshot 'more@");
}

/* Interrupted before it came to packs that were well, it keeps them noted. */
static void test_resume_ends_early(void **state)
{
    struct world *w = *state;
    struct spot early = find_spot(w, CHUNK_PAGE, 1);
    struct run r;

    add_packs(w);
    close_world(w);
    damage_spot(w, &early);
    open_world(w);
    fault_set("store.verify.pack:11:fail");
    assert_int_equal(verify_with(w, false).result, -1);
    fault_set("store.verify.pack:1:fail"); /* that of `early` */
    assert_int_equal(verify_with(w, true).result, -1);
    fault_set(NULL);
    r = verify_with(w, true);
    assert_ok(r.result, &r.err);
    assert_int_equal(r.counts.packs_before, 9);
}

/* gc removed packs, moved chunks, and more came, between the two runs. */
static void test_resume_after_gc(void **state)
{
    struct world *w = *state;
    uint8_t *part = make_pages(1, BIG);
    struct run r;

    add_packs(w);
    fault_set("store.verify.pack:11:fail");
    assert_int_equal(verify_with(w, false).result, -1);
    fault_set(NULL);
    /* A tenth of big@1 stays needed: its pack is rewritten. */
    add_snapshot(w->f->store, "part@1", part, BIG / 10, NULL);
    delete_snapshot(w->f->store, "big@1");
    delete_snapshot(w->f->store, "big@2");
    assert_true(run_gc(w->f->store, &gc_now).packs_rewritten > 0);
    r = verify_with(w, true);
    assert_ok(r.result, &r.err);
    assert_int_equal(r.findings, 0);
    assert_true(r.counts.packs_before > 0);
    assert_true(snapshot_equals(w->f->store, "part@1", part, BIG / 10));
    free(part);
}

/* A row that went wrong in a pack that was read before. */
static void test_resume_with_new_row(void **state)
{
    struct world *w = *state;
    struct index_chunk wrong = {.id = {{0x78}},
                                .place = {.offset = 64,
                                          .stored_size = 100,
                                          .kind = CHUNK_PAGE,
                                          .codec = CODEC_LZ4}};
    struct vn_err err = VN_ERR_INIT;
    struct run r;

    wrong.place.pack_id = find_spot(w, CHUNK_PAGE, 1).pack_id;
    add_packs(w);
    fault_set("store.verify.pack:11:fail");
    assert_int_equal(verify_with(w, false).result, -1);
    fault_set(NULL);
    assert_ok(index_add(w->f->store->index, NULL, 0, &wrong, 1, &err), &err);
    r = verify_with(w, true);
    assert_ok(r.result, &r.err);
    assert_int_equal(r.findings, 2);
    assert_said("chunk 7800");
    assert_int_equal(r.counts.packs_before, 9);
}

/* A state that is damaged, or of another store, is refused, not believed. */
static void test_bad_state(void **state)
{
    struct world *w = *state;
    vn_auto(free) char *path = vn_format("%s/verify.state", w->f->path);
    struct run r;
    FILE *out;

    add_packs(w);
    fault_set("store.verify.pack:11:fail");
    assert_int_equal(verify_with(w, false).result, -1);
    fault_set(NULL);
    assert_int_equal(truncate(path, 40), 0);
    r = verify_with(w, true);
    assert_int_equal(r.result, -1);
    assert_non_null(strstr(r.err.msg, "verify.state"));
    out = fopen(path, "w");
    assert_non_null(out);
    fputs("{\"format\":1,\"store_id\":\"00112233445566778899aabbccddeeff\","
          "\"began\":1,\"position\":1,\"findings\":0,\"well\":[]}",
          out);
    fclose(out);
    r = verify_with(w, true);
    assert_int_equal(r.result, -1);
    assert_int_equal(r.err.code, VN_E_FORMAT);
    r = verify_with(w, false);
    assert_ok(r.result, &r.err);
    assert_false(has_state(w));
}

#define WITH_WORLD(test)                                                       \
    cmocka_unit_test_setup_teardown(test, world_setup, world_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_WORLD(test_fast),
        WITH_WORLD(test_fast_unknown_page),
        WITH_WORLD(test_uses),
        WITH_WORLD(test_resume),
        WITH_WORLD(test_resume_with_findings),
        WITH_WORLD(test_resume_ends_early),
        WITH_WORLD(test_resume_after_gc),
        WITH_WORLD(test_resume_with_new_row),
        WITH_WORLD(test_bad_state),
    };
    int result;

    use_fast_disk();
    result = cmocka_run_group_tests(tests, NULL, NULL);
    json_decref(all_details);
    return result;
}
