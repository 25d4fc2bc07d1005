/*
 * Verify by 1, 3 and 8 threads says the same, counts the same, and notes down
 * the same, whatever is damaged and wherever it is killed.
 */

#include "unit/store_repair_fixture.h"

#include "common/jsonx.h"

#include <errno.h>

enum { MORE = 24, MORE_PAGES = 150, KILLS = 6 };

static const char *const thread_counts[] = {"1", "3", "8"};

/* What a run did and said. */
struct run {
    int result;
    struct vn_err err;
    uint64_t findings;
    struct store_verify_counts counts;
    char *said;
    char *detail; /* of all findings, as JSON */
    uint64_t progress[256];
    size_t progress_count;
    pthread_t caller;
};

static void note_finding(void *context, const json_t *finding)
{
    struct run *r = context;

    assert_true(pthread_equal(r->caller, pthread_self()));
    take_finding(NULL, finding);
}

static unsigned slow_ms; /* what each pack takes longer, in a child */

static void note_progress(void *context, uint64_t done, uint64_t total)
{
    struct run *r = context;

    assert_true(pthread_equal(r->caller, pthread_self()));
    assert_true(done <= total);
    if (r->progress_count < VN_COUNT(r->progress))
        r->progress[r->progress_count++] = done;
    usleep(slow_ms * 1000);
}

static void run_done(struct run *r)
{
    free(r->said);
    free(r->detail);
}

/* The store is closed before and after. */
static struct run verify_by(struct world *w, const char *threads,
                            struct store_verify_opts opts)
{
    struct run r = {.err = VN_ERR_INIT, .caller = pthread_self()};

    setenv("VNSTORE_THREADS", threads, 1);
    open_world(w);
    opts.state_ms = 1;
    opts.detail = note_finding;
    opts.progress = note_progress;
    opts.context = &r;
    opts.counts = &r.counts;
    forget_findings();
    r.result = store_verify(w->f->store, &opts, &r.findings, &r.err);
    r.counts.began_s = 0;
    r.said = vn_strdup(all_findings);
    r.detail = json_dumps(all_details, JSON_SORT_KEYS);
    close_world(w);
    return r;
}

static void assert_same(const struct run *a, const struct run *b)
{
    assert_int_equal(a->result, b->result);
    assert_string_equal(a->err.msg, b->err.msg);
    assert_int_equal(a->findings, b->findings);
    assert_string_equal(a->said, b->said);
    assert_string_equal(a->detail, b->detail);
    assert_memory_equal(&a->counts, &b->counts, sizeof(a->counts));
    assert_int_equal(a->progress_count, b->progress_count);
    assert_memory_equal(a->progress, b->progress,
                        a->progress_count * sizeof(a->progress[0]));
}

/* The run by one thread, once all others were held against it. */
static struct run verify_by_all(struct world *w, struct store_verify_opts opts)
{
    struct run one = verify_by(w, thread_counts[0], opts);

    for (size_t i = 1; i < VN_COUNT(thread_counts); i++) {
        struct run more = verify_by(w, thread_counts[i], opts);

        assert_same(&one, &more);
        run_done(&more);
    }
    return one;
}

/* ---- damage ------------------------------------------------------------ */

static void add_packs(struct world *w)
{
    for (unsigned i = 0; i < MORE; i++) {
        vn_auto(free) char *name = vn_format("more@%u", i + 1);
        uint8_t *data = make_pages(500 + i, MORE_PAGES);

        add_snapshot(w->f->store, name, data, MORE_PAGES, NULL);
        free(data);
    }
}

static struct spot page_of_more(struct world *w, unsigned i, unsigned page)
{
    return find_spot(w, CHUNK_PAGE, BIG + 1 + SMALL + i * MORE_PAGES + page);
}

enum { WRONG = 20 }; /* the pack of this more@ has a row too many */

/* Rows that are missing, and one too many. */
static void damage_index(struct world *w)
{
    struct spot page = page_of_more(w, WRONG, 3);
    struct index_lost forget = {.id = ident_short(&page.entry.id),
                                .forget = true};
    struct index_chunk wrong = {.id = {{0x78}},
                                .place = {.pack_id = page.pack_id,
                                          .offset = 64,
                                          .stored_size = 100,
                                          .kind = CHUNK_PAGE,
                                          .codec = CODEC_LZ4}};
    struct vn_err err = VN_ERR_INIT;
    size_t count;

    assert_ok(
        index_find(w->f->store->index, &forget.id, 1, &forget.place, &err),
        &err);
    assert_ok(index_lose(w->f->store->index, &forget, 1, &count, &err), &err);
    assert_ok(index_add(w->f->store->index, NULL, 0, &wrong, 1, &err), &err);
}

/* Every kind of damage, here and there. */
static void damage_world(struct world *w)
{
    struct spot flipped[] = {
        find_spot(w, CHUNK_PAGE, 1),    find_spot(w, CHUNK_PAGE, 650),
        find_spot(w, CHUNK_LEAF, 1),    page_of_more(w, 2, 0),
        page_of_more(w, 2, 4),          page_of_more(w, 9, 5),
        find_spot(w, CHUNK_MANIFEST, 9)};
    struct spot cut = page_of_more(w, 5, 1);
    struct spot gone = page_of_more(w, 12, 1);
    struct spot footless = page_of_more(w, 15, 1);
    struct spot headless = page_of_more(w, 17, 1);
    vn_auto(free) char *cut_path = pack_path(w, cut.pack_id);
    vn_auto(free) char *gone_path = pack_path(w, gone.pack_id);

    damage_index(w);
    close_world(w);
    for (size_t i = 0; i < VN_COUNT(flipped); i++)
        damage_spot(w, &flipped[i]);
    assert_int_equal(truncate(cut_path, (off_t)cut.size / 2), 0);
    assert_int_equal(unlink(gone_path), 0);
    flip_pack(w, footless.pack_id, footless.size - 70);
    flip_pack(w, headless.pack_id, 20);
}

static void assert_all_said(const struct run *r)
{
    static const char *const texts[] = {
        "needed by snapshot 'big@1', object 'image': pages 1; by snapshot",
        "cannot be read",
        "the index says",
        "snapshot 'more@3'",
        "is not in the index",
        "chunk 7800",
        "there is no file"};

    for (size_t i = 0; i < VN_COUNT(texts); i++)
        if (!strstr(r->said, texts[i]))
            fail_msg("not said: '%s' in\n%s", texts[i], r->said);
}

/* ---- tests ------------------------------------------------------------- */

static void test_whole(void **state)
{
    struct world *w = *state;
    struct run r;

    add_packs(w);
    close_world(w);
    r = verify_by_all(w, (struct store_verify_opts){0});
    assert_ok(r.result, &r.err);
    assert_int_equal(r.findings, 0);
    assert_int_equal(r.counts.packs, r.progress_count);
    assert_true(r.counts.packs > MORE);
    run_done(&r);
    r = verify_by_all(w, (struct store_verify_opts){.snapshot = "big@1"});
    assert_ok(r.result, &r.err);
    assert_int_equal(r.findings, 0);
    assert_int_equal(r.progress_count, 2); /* leaves */
    run_done(&r);
}

static void test_damaged(void **state)
{
    static const struct store_verify_opts modes[] = {
        {0}, {.fast = true}, {.snapshot = "big@1"}, {.snapshot = "more@6"}};
    struct world *w = *state;

    add_packs(w);
    damage_world(w);
    for (size_t i = 0; i < VN_COUNT(modes); i++) {
        struct run r = verify_by_all(w, modes[i]);

        assert_ok(r.result, &r.err);
        assert_true(r.findings > 1);
        if (i == 0)
            assert_all_said(&r);
        run_done(&r);
    }
}

/* ---- killed ------------------------------------------------------------ */

static char *state_path(const struct world *w)
{
    return vn_format("%s/verify.state", w->f->path);
}

/* What is noted down; "began" is set to 0. */
static json_t *read_state(const struct world *w)
{
    vn_auto(free) char *path = state_path(w);
    json_t *state = json_load_file(path, 0, NULL);

    assert_non_null(state);
    json_object_set_new(state, "began", json_integer(0));
    return state;
}

/* Every failure notes down what one thread would have noted. */
static void test_state_at_failure(void **state)
{
    struct world *w = *state;

    add_packs(w);
    damage_world(w);
    for (unsigned nth = 1; nth < MORE; nth += 5) {
        vn_auto(free) char *spec = vn_format("store.verify.pack:%u:fail", nth);
        vn_auto(json) json_t *first = NULL;

        for (size_t i = 0; i < VN_COUNT(thread_counts); i++) {
            vn_auto(json) json_t *now = NULL;
            struct run r;

            fault_set(spec);
            r = verify_by(w, thread_counts[i], (struct store_verify_opts){0});
            fault_set(NULL);
            assert_int_equal(r.result, -1);
            assert_int_equal(r.err.code, EIO);
            run_done(&r);
            now = read_state(w);
            if (!first)
                first = json_incref(now);
            assert_true(json_equal(first, now));
        }
    }
}

struct child {
    struct world *w;
    const char *threads;
    unsigned slow_ms;
};

static int child_main(void *context, struct vn_err *err)
{
    const struct child *child = context;
    struct run r;

    slow_ms = child->slow_ms;
    r = verify_by(child->w, child->threads, (struct store_verify_opts){0});
    *err = r.err;
    run_done(&r);
    return r.result;
}

/* A child verifies and is killed when it notes down for the nth time. How often
 * it does depends on the time that it and its notes take; for the second time
 * it is made as slow as it must be. */
static bool is_killed(struct world *w, const char *threads, unsigned nth)
{
    vn_auto(free) char *spec = vn_format("store.verify.state:%u:kill", nth);
    struct child child = {.w = w, .threads = threads};

    while (!killed_at(spec, child_main, &child)) {
        if (nth > 2 || child.slow_ms > 1000)
            return false;
        child.slow_ms = 2 * child.slow_ms + 1;
    }
    return true;
}

/* The packs that are well, by rising number, none beyond the position; and as
 * many as the whole list has up to there. */
static size_t check_state(const struct world *w, const json_t *all)
{
    vn_auto(json) json_t *state = read_state(w);
    const json_t *well = json_object_get(state, "well");
    const json_t *all_well = json_object_get(all, "well");
    uint64_t position = jsonx_u64_or(state, "position", 0);
    size_t count = json_array_size(well);

    assert_true(position > 0);
    for (size_t i = 0; i < count; i++)
        assert_true(
            json_equal(json_array_get(well, i), json_array_get(all_well, i)));
    if (count < json_array_size(all_well))
        assert_true((uint64_t)json_integer_value(json_array_get(
                        json_array_get(all_well, count), 0)) > position);
    return count;
}

/* What is noted down when all packs but the last were looked at. */
static json_t *nearly_all(struct world *w, uint64_t packs)
{
    vn_auto(free) char *at_last =
        vn_format("store.verify.pack:%llu:fail", (unsigned long long)packs);
    struct run r;

    fault_set(at_last);
    r = verify_by(w, "1", (struct store_verify_opts){0});
    fault_set(NULL);
    assert_int_equal(r.result, -1);
    run_done(&r);
    return read_state(w);
}

static size_t place_in(const json_t *well, uint64_t pack_id)
{
    const json_t *pair;
    size_t i;

    json_array_foreach (well, i, pair)
        if ((uint64_t)json_integer_value(json_array_get(pair, 0)) == pack_id)
            return i;
    fail();
    return 0;
}

static void test_killed(void **state)
{
    struct world *w = *state;
    vn_auto(json) json_t *all = NULL;
    unsigned kills = 0;
    struct run whole;
    uint64_t wrong_id;
    size_t wrong;

    add_packs(w);
    wrong_id = page_of_more(w, WRONG, 3).pack_id;
    damage_world(w);
    whole = verify_by(w, "1", (struct store_verify_opts){0});
    all = nearly_all(w, whole.counts.packs);
    wrong = place_in(json_object_get(all, "well"), wrong_id);
    for (size_t i = 0; i < VN_COUNT(thread_counts); i++)
        for (unsigned nth = 1;
             nth <= KILLS && is_killed(w, thread_counts[i], nth); nth++) {
            size_t well = check_state(w, all);
            struct run r =
                verify_by(w, thread_counts[2 - i],
                          (struct store_verify_opts){.resume = true});

            assert_ok(r.result, &r.err);
            assert_string_equal(r.said, whole.said);
            /* One is read again: the index has another number of rows. */
            assert_int_equal(r.counts.packs_before, well - (well > wrong));
            run_done(&r);
            kills++;
        }
    assert_true(kills > VN_COUNT(thread_counts));
    run_done(&whole);
}

#define WITH_WORLD(test)                                                       \
    cmocka_unit_test_setup_teardown(test, world_setup, world_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_WORLD(test_whole),
        WITH_WORLD(test_damaged),
        WITH_WORLD(test_state_at_failure),
        WITH_WORLD(test_killed),
    };
    int result;

    use_fast_disk();
    result = cmocka_run_group_tests(tests, NULL, NULL);
    json_decref(all_details);
    return result;
}
