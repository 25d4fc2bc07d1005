/*
 * Repair: each kind of damage is found and named, nothing wrong is ever read,
 * what can be kept is kept, and what is lost heals when it is stored again.
 */

#include "unit/store_repair_fixture.h"

#include "common/io.h"

#include <errno.h>
#include <poll.h>

static void assert_named(const struct spot *s)
{
    char hex[2 * STORE_ID_SIZE + 1];

    io_hex(s->entry.id.bytes, STORE_ID_SIZE, hex);
    assert_said(hex);
}

/* Every page: its own bytes or VN_E_CORRUPT; how many cannot be read. */
static unsigned unreadable(struct world *w, const struct map_root *root,
                           const uint8_t *data)
{
    struct vn_err err = VN_ERR_INIT;
    struct image_reader *reader = image_reader_open(w->f->store, root, &err);
    unsigned failures = 0;
    uint8_t page[PAGE];

    if (!reader) {
        assert_int_equal(err.code, VN_E_CORRUPT);
        return BIG;
    }
    for (unsigned i = 0; i < BIG; i++) {
        if (image_reader_read(reader, i * PAGE, page, PAGE, &err) == 0) {
            assert_memory_equal(page, data + i * PAGE, PAGE);
            continue;
        }
        failures++;
        assert_int_equal(err.code, VN_E_CORRUPT);
    }
    image_reader_free(reader);
    return failures;
}

/* Store what big@1 has once more, as an ordinary put with a parent does. */
static void ingest_again(struct world *w, const char *name)
{
    add_snapshot(w->f->store, name, w->one, BIG, &w->big1);
    assert_true(snapshot_equals(w->f->store, name, w->one, BIG));
}

/* ---- chunks ----------------------------------------------------------- */

/* Damage, repair, heal; `bad` pages of big@1 cannot be read meanwhile. */
static void damage_and_heal(struct world *w, unsigned kind, unsigned bad)
{
    struct spot s = find_spot(w, kind, 0);
    struct store_repair_counts counts;

    close_world(w);
    damage_spot(w, &s);
    open_world(w);
    assert_true(verify_world(w, false) >= 3);
    assert_named(&s);
    assert_said("needed by snapshot 'big@1', object 'image': pages ");
    assert_int_equal(unreadable(w, &w->big1, w->one), bad);
    close_world(w);
    counts = repair_world(w, false);
    assert_int_equal(counts.chunks_lost, 1);
    assert_int_equal(counts.lost, 1);
    assert_int_equal(counts.packs_damaged, 1);
    assert_true(counts.chunks_moved > 0);
    open_world(w);
    assert_true(verify_world(w, false) >= 2);
    assert_named(&s);
    assert_said("is lost");
    assert_int_equal(unreadable(w, &w->big1, w->one), bad);
    ingest_again(w, "again@1");
    assert_int_equal(verify_world(w, false), 0);
    assert_world_whole(w);
    run_gc(w->f->store, &gc_now);
    assert_int_equal(verify_world(w, false), 0);
    assert_world_whole(w);
    assert_tidy(w->f);
}

static void test_page(void **state)
{
    damage_and_heal(*state, CHUNK_PAGE, 1);
}

static void test_leaf(void **state)
{
    damage_and_heal(*state, CHUNK_LEAF, 512);
}

static void test_inner(void **state)
{
    damage_and_heal(*state, CHUNK_INNER, BIG);
}

/* While a page is lost: gc works, a commit of the old map is refused. */
static void test_lost_page(void **state)
{
    struct world *w = *state;
    struct spot s = find_spot(w, CHUNK_PAGE, 3);
    vn_auto(json) json_t *manifest = manifest_new("bad@1", "files");
    struct vn_err err = VN_ERR_INIT;

    close_world(w);
    damage_spot(w, &s);
    repair_world(w, false);
    open_world(w);
    run_gc(w->f->store, &gc_now);
    manifest_add(manifest, "image", &w->big1);
    assert_int_equal(store_commit(w->f->store, manifest, &err), -1);
    assert_int_equal(err.code, VN_E_NOT_FOUND);
    /* Its other content is as it was. */
    assert_int_equal(unreadable(w, &w->big1, w->one), 1);
    assert_true(snapshot_equals(w->f->store, "small@1", w->small, SMALL));
    ingest_again(w, "again@1");
    assert_int_equal(verify_world(w, false), 0);
    assert_world_whole(w);
}

static size_t count_lost(struct world *w)
{
    vn_auto(free) struct index_lost *lost = NULL;
    struct vn_err err = VN_ERR_INIT;
    size_t count;

    assert_ok(index_list_lost(w->f->store->index, &lost, &count, &err), &err);
    return count;
}

static struct index_state read_marks(struct world *w)
{
    struct vn_err err = VN_ERR_INIT;
    struct index_state marks;

    assert_ok(index_read_state(w->f->store->index, &marks, NULL, &err), &err);
    return marks;
}

/* gc with a fault changes nothing about them. */
static void fail_to_forget(struct world *w)
{
    size_t lost = count_lost(w);
    struct store_gc_counts counts;
    struct vn_err err = VN_ERR_INIT;

    fault_set("store.index.forget");
    assert_int_equal(store_gc(w->f->store, &gc_now, &counts, &err), -1);
    fault_set(NULL);
    assert_int_equal(err.code, EIO);
    assert_int_equal(count_lost(w), lost);
}

/* gc forgets what is lost when the last snapshot that needed it is gone. */
static void test_forget_lost(void **state)
{
    struct world *w = *state;
    struct spot both = find_spot(w, CHUNK_PAGE, 3);
    struct spot first = find_spot(w, CHUNK_PAGE, 600); /* not of big@2 */
    vn_auto(json) json_t *manifest = manifest_new("bad@1", "files");
    const struct store_gc_opts dry = {.threshold_percent = STORE_GC_THRESHOLD,
                                      .dry_run = true};
    struct vn_err err = VN_ERR_INIT;

    close_world(w);
    damage_spot(w, &both);
    damage_spot(w, &first);
    repair_world(w, false);
    open_world(w);
    run_gc(w->f->store, &gc_now);
    assert_int_equal(count_lost(w), 2);
    delete_snapshot(w->f->store, "big@1");
    run_gc(w->f->store, &dry);
    assert_int_equal(count_lost(w), 2);
    fail_to_forget(w);
    run_gc(w->f->store, &gc_now);
    assert_int_equal(count_lost(w), 1); /* big@2 needs the other */
    assert_int_equal(unreadable(w, &w->big2, w->two), 1);
    delete_snapshot(w->f->store, "big@2");
    run_gc(w->f->store, &gc_now);
    assert_int_equal(count_lost(w), 0);
    assert_int_equal(verify_world(w, false), 0);
    manifest_add(manifest, "image", &w->big1);
    assert_int_equal(store_commit(w->f->store, manifest, &err), -1);
    assert_int_equal(err.code, VN_E_NOT_FOUND);
    ingest_again(w, "again@1");
    assert_int_equal(verify_world(w, false), 0);
}

/* By itself: not beside a snapshot that nobody looked at; it marks a sweep, so
 * that no parent counts below which a chunk was lost. */
static void test_forget_transaction(void **state)
{
    struct world *w = *state;
    struct spot s = find_spot(w, CHUNK_PAGE, 3);
    struct chunk_id id = ident_short(&s.entry.id);
    struct vn_err err = VN_ERR_INIT;
    struct index_state marks;

    close_world(w);
    damage_spot(w, &s);
    repair_world(w, false);
    open_world(w);
    marks = read_marks(w);
    assert_true(marks.swept < marks.next_pack);
    assert_int_equal(
        index_forget_lost(w->f->store->index, &id, 1, marks.next_seq - 1, &err),
        -1);
    assert_int_equal(err.code, VN_E_STATE);
    assert_int_equal(count_lost(w), 1);
    assert_ok(
        index_forget_lost(w->f->store->index, &id, 1, marks.next_seq, &err),
        &err);
    assert_int_equal(count_lost(w), 0);
    assert_int_equal(read_marks(w).swept, marks.next_pack);
    assert_ok(
        index_forget_lost(w->f->store->index, &id, 1, marks.next_seq, &err),
        &err);
}

/* While a node is lost gc does nothing, and says why. */
static void test_gc_beside_lost_leaf(void **state)
{
    struct world *w = *state;
    struct spot s = find_spot(w, CHUNK_LEAF, 0);
    struct store_gc_counts counts;
    struct vn_err err = VN_ERR_INIT;

    close_world(w);
    damage_spot(w, &s);
    repair_world(w, false);
    open_world(w);
    assert_int_equal(store_gc(w->f->store, &gc_now, &counts, &err), -1);
    assert_int_equal(err.code, VN_E_CORRUPT);
    assert_non_null(strstr(err.msg, "snapshot 'big@1'"));
    assert_non_null(strstr(err.msg, "delete it"));
    assert_int_equal(counts.packs_removed, 0);
    delete_snapshot(w->f->store, "big@1");
    delete_snapshot(w->f->store, "big@2");
    run_gc(w->f->store, &gc_now);
    assert_int_equal(verify_world(w, false), 0);
}

static void test_manifest(void **state)
{
    struct world *w = *state;
    struct spot s = find_spot(w, CHUNK_MANIFEST, 1);
    struct store_repair_counts counts;

    close_world(w);
    damage_spot(w, &s);
    open_world(w);
    assert_true(verify_world(w, true) > 0); /* fast reads manifests */
    assert_said("needed by snapshot 'big@2', its manifest");
    close_world(w);
    counts = repair_world(w, false);
    assert_int_equal(counts.chunks_lost, 1);
    open_world(w);
    assert_true(verify_world(w, false) > 0);
    assert_said("big@2");
    assert_true(snapshot_equals(w->f->store, "big@1", w->one, BIG));
    delete_snapshot(w->f->store, "big@2");
    assert_int_equal(verify_world(w, false), 0);
    run_gc(w->f->store, &gc_now);
    assert_int_equal(verify_world(w, false), 0);
}

static void test_tombstone(void **state)
{
    struct world *w = *state;
    struct spot s = find_spot(w, CHUNK_TOMBSTONE, 0);
    struct store_repair_counts counts;

    close_world(w);
    damage_spot(w, &s);
    open_world(w);
    assert_true(verify_world(w, false) > 0);
    assert_named(&s);
    close_world(w);
    counts = repair_world(w, false);
    assert_int_equal(counts.lost, 0);
    open_world(w);
    assert_int_equal(verify_world(w, false), 0);
    assert_world_whole(w);
    run_gc(w->f->store, &gc_now);
    assert_int_equal(verify_world(w, false), 0);
}

/* ---- packs ------------------------------------------------------------ */

/* The ends of each pack in turn: no chunk is lost by that. */
static void test_ends(void **state)
{
    struct world *w = *state;
    static const unsigned kinds[] = {CHUNK_PAGE, CHUNK_MANIFEST,
                                     CHUNK_TOMBSTONE};

    for (size_t i = 0; i < 3 * VN_COUNT(kinds); i++) {
        struct spot s = find_spot(w, kinds[i / 3], 0);
        const uint64_t places[] = {20, s.size - PACK_FOOTER_SIZE - 10,
                                   s.size - 20};
        struct store_repair_counts counts;

        close_world(w);
        flip_pack(w, s.pack_id, places[i % 3]);
        open_world(w);
        assert_int_equal(verify_world(w, true), 1);
        assert_int_equal(verify_world(w, false), 1);
        assert_world_whole(w);
        close_world(w);
        counts = repair_world(w, false);
        assert_int_equal(counts.packs_damaged, 1);
        assert_int_equal(counts.lost, 0);
        assert_int_equal(counts.packs_new, 1);
        open_world(w);
        assert_int_equal(verify_world(w, false), 0);
        assert_world_whole(w);
        run_gc(w->f->store, &gc_now);
        assert_world_whole(w);
        close_world(w);
        counts = repair_world(w, true);
        assert_int_equal(counts.findings, 0);
        assert_int_equal(counts.snapshots, 3); /* small@2 stays deleted */
        open_world(w);
        assert_world_whole(w);
        /* A tombstone for the next round: gc took the first. */
        add_snapshot(w->f->store, "more", w->small, SMALL, NULL);
        delete_snapshot(w->f->store, "more");
    }
}

/* A pack that is cut, or gone: all of it is named at once, and heals. */
static void lose_pack(struct world *w, bool cut)
{
    struct spot s = find_spot(w, CHUNK_PAGE, 0);
    vn_auto(free) char *path = pack_path(w, s.pack_id);
    struct store_repair_counts counts;

    close_world(w);
    assert_int_equal(cut ? truncate(path, 1000000) : unlink(path), 0);
    open_world(w);
    assert_true(verify_world(w, true) > 0);
    assert_said(cut ? "it has 1000000 bytes" : "there is no file");
    assert_said("chunks in it cannot be read; needed by snapshot 'big@1'");
    assert_true(unreadable(w, &w->big1, w->one) > 0);
    close_world(w);
    counts = repair_world(w, false);
    assert_true(counts.lost > 1);
    assert_int_equal(cut, counts.chunks_moved > 0);
    open_world(w);
    ingest_again(w, "again@1");
    assert_int_equal(verify_world(w, false), 0);
    assert_world_whole(w);
    run_gc(w->f->store, &gc_now);
    assert_int_equal(verify_world(w, false), 0);
    assert_tidy(w->f);
}

static void test_cut_pack(void **state)
{
    lose_pack(*state, true);
}

static void test_missing_pack(void **state)
{
    lose_pack(*state, false);
}

/* Two writers stored the same at once: the second copy heals the first. */
static void test_second_copy(void **state)
{
    struct world *w = *state;
    struct vn_err err = VN_ERR_INIT;
    struct store_writer *a = store_writer_open(w->f->store, &err);
    struct store_writer *b = store_writer_open(w->f->store, &err);
    uint8_t *data = make_pages(55, SMALL);
    struct store_repair_counts counts;
    struct map_root root;
    struct spot s;

    assert_made(a, &err);
    assert_made(b, &err);
    root = put_image(a, data, SMALL * PAGE, NULL);
    put_image(b, data, SMALL * PAGE, NULL);
    assert_ok(store_writer_flush(a, &err), &err);
    assert_ok(store_writer_flush(b, &err), &err);
    commit_image(w->f->store, "twice@1", &root);
    store_writer_free(a);
    store_writer_free(b);
    /* Pages so far: BIG, one of big@2, SMALL. */
    s = find_spot(w, CHUNK_PAGE, BIG + 1 + SMALL + 5);
    close_world(w);
    damage_spot(w, &s);
    counts = repair_world(w, false);
    assert_named(&s);
    assert_int_equal(counts.chunks_lost, 1);
    assert_int_equal(counts.chunks_healed, 1);
    assert_int_equal(counts.lost, 0);
    open_world(w);
    assert_int_equal(verify_world(w, false), 0);
    assert_true(snapshot_equals(w->f->store, "twice@1", data, SMALL));
    free(data);
}

/* ---- rows ------------------------------------------------------------- */

/* Rows that point nowhere, and to a wrong place: the packs know better. */
static void test_rows(void **state)
{
    struct world *w = *state;
    struct spot s = find_spot(w, CHUNK_PAGE, 1);
    struct spot other = find_spot(w, CHUNK_PAGE, 2);
    struct index_pack none = {.id = 5000, .size = 1, .count = 1};
    struct index_move move = {.id = ident_short(&s.entry.id)};
    struct store_repair_counts counts;
    struct vn_err err = VN_ERR_INIT;
    uint64_t number = 5000;

    assert_ok(index_find(w->f->store->index, &move.id, 1, &move.from, &err),
              &err);
    move.to = move.from;
    move.to.offset = other.entry.offset;
    move.to.stored_size = other.entry.stored_size;
    assert_ok(index_move(w->f->store->index, &none, 1, &move, 1, &err), &err);
    assert_ok(index_drop_packs(w->f->store->index, &number, 1, &err), &err);
    assert_true(verify_world(w, false) > 0);
    assert_named(&s);
    assert_int_equal(unreadable(w, &w->big1, w->one), 1);
    close_world(w);
    counts = repair_world(w, false);
    assert_int_equal(counts.chunks_healed, 1);
    assert_int_equal(counts.lost, 0);
    open_world(w);
    assert_int_equal(verify_world(w, false), 0);
    assert_world_whole(w);
}

/* A commit that looked before chunks were given up has to look again. */
static void test_publish_after_loss(void **state)
{
    struct world *w = *state;
    struct index *index = w->f->store->index;
    struct spot s = find_spot(w, CHUNK_PAGE, 1);
    struct index_lost row = {.id = ident_short(&s.entry.id)};
    struct index_snapshot snapshot = {.name = "late"};
    struct index_pack pack = {.id = 9000, .size = 1, .count = 1};
    struct index_chunk chunk = {.id = {{1}}};
    struct index_state before;
    struct vn_err err = VN_ERR_INIT;
    size_t count;

    assert_ok(index_read_state(index, &before, NULL, &err), &err);
    assert_ok(index_find(index, &row.id, 1, &row.place, &err), &err);
    assert_ok(index_lose(index, &row, 1, &count, &err), &err);
    assert_int_equal(count, 1);
    assert_int_equal(index_publish(index, &snapshot, NULL, 0, before.epoch,
                                   &pack, &chunk, &err),
                     -1);
    assert_int_equal(err.code, VN_E_STATE);
}

/* ---- beside others ---------------------------------------------------- */

/* Puts, commits and deletes until it is told to end, and for a few rounds. */
static void work_on(struct world *w, int end)
{
    enum { ROUNDS = 6 };
    struct pollfd wait = {.fd = end, .events = POLLIN};
    unsigned round = 0;

    open_world(w);
    while (round < ROUNDS || poll(&wait, 1, 0) == 0) {
        vn_auto(free) char *name = vn_format("busy@%u", ++round);
        uint8_t *data = make_pages(7000 + round, SMALL);

        add_snapshot(w->f->store, name, data, SMALL, NULL);
        if (!snapshot_equals(w->f->store, name, data, SMALL))
            _exit(2);
        free(data);
        if (round % 3 == 0)
            delete_snapshot(w->f->store, name);
    }
    _exit(0);
}

/* Damage a chunk where the index has it now; the store is open. */
static void damage_id(struct world *w, const struct chunk_id *id)
{
    struct chunk_place place;
    struct vn_err err = VN_ERR_INIT;

    assert_ok(index_find(w->f->store->index, id, 1, &place, &err), &err);
    assert_true(place.stored_size > 0);
    flip_pack(w, place.pack_id, place.offset + place.stored_size / 2);
}

static void test_beside_writers(void **state)
{
    struct world *w = *state;
    struct spot s = find_spot(w, CHUNK_PAGE, 100);
    struct chunk_id id = ident_short(&s.entry.id);
    int status;
    int end[2];
    pid_t child;

    close_world(w);
    assert_int_equal(pipe(end), 0);
    child = fork();
    if (child == 0) {
        close(end[1]);
        work_on(w, end[0]);
    }
    for (unsigned i = 0; i < 5; i++) {
        vn_auto(free) char *name = vn_format("heal@%u", i + 1);

        open_world(w);
        damage_id(w, &id);
        close_world(w);
        assert_int_equal(repair_world(w, false).chunks_lost, 1);
        open_world(w);
        ingest_again(w, name);
        close_world(w);
    }
    close(end[1]);
    assert_int_equal(waitpid(child, &status, 0), child);
    close(end[0]);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    open_world(w);
    if (verify_world(w, false) != 0)
        fail_msg("%s", all_findings);
    assert_world_whole(w);
    run_gc(w->f->store, &gc_now);
    assert_tidy(w->f);
    assert_int_equal(verify_world(w, false), 0);
}

/* Dry runs find the same and change nothing. */
static void test_dry_run(void **state)
{
    struct world *w = *state;
    struct spot s = find_spot(w, CHUNK_PAGE, 1);
    struct store_repair_opts opts = {.detail = take_finding, .dry_run = true};
    struct store_repair_counts counts;
    struct vn_err err = VN_ERR_INIT;
    uint64_t before;

    close_world(w);
    damage_spot(w, &s);
    for (unsigned i = 0; i < 2; i++) {
        forget_findings();
        opts.rebuild_index = i == 1;
        assert_ok(store_repair(w->f->path, &opts, &counts, &err), &err);
        assert_int_equal(counts.chunks_lost, 1);
        assert_int_equal(counts.lost, 0);
        assert_int_equal(counts.packs_new, 0);
        before = counts.findings;
    }
    open_world(w);
    assert_int_equal(verify_world(w, false), before);
}

#define WITH_WORLD(test)                                                       \
    cmocka_unit_test_setup_teardown(test, world_setup, world_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_WORLD(test_page),
        WITH_WORLD(test_leaf),
        WITH_WORLD(test_inner),
        WITH_WORLD(test_lost_page),
        WITH_WORLD(test_forget_lost),
        WITH_WORLD(test_forget_transaction),
        WITH_WORLD(test_gc_beside_lost_leaf),
        WITH_WORLD(test_manifest),
        WITH_WORLD(test_tombstone),
        WITH_WORLD(test_ends),
        WITH_WORLD(test_cut_pack),
        WITH_WORLD(test_missing_pack),
        WITH_WORLD(test_second_copy),
        WITH_WORLD(test_rows),
        WITH_WORLD(test_publish_after_loss),
        WITH_WORLD(test_beside_writers),
        WITH_WORLD(test_dry_run),
    };
    int result;

    use_fast_disk();
    result = cmocka_run_group_tests(tests, NULL, NULL);

    json_decref(all_details);
    return result;
}
