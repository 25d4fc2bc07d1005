/*
 * Collection: what it removes and what it must not, figures, packs that are
 * rewritten, writers and parents that meet what is being removed, orphans,
 * tombstones, readers that look up before a chunk is moved.
 */

#include "unit/store_gc_fixture.h"

#include "store/engine_memory.h"
#include "store/store_internal.h"

#include <fcntl.h>

enum { PAGES = 600 };

/* ---- what goes and what stays ----------------------------------------- */

static struct store_counts writer_counts(struct store_writer *writer)
{
    struct store_counts counts;

    store_writer_counts(writer, &counts);
    return counts;
}

static void test_half_of_many(void **state)
{
    enum { SNAPSHOTS = 12, SHARED = 200 };
    struct store_fixture *f = *state;
    uint8_t *images[SNAPSHOTS];
    struct store_gc_counts counts;
    uint64_t before;
    uint64_t after;

    for (unsigned i = 0; i < SNAPSHOTS; i++) {
        vn_auto(free) char *name = vn_format("lab@%u", i + 1);
        uint8_t *shared = make_pages(1, SHARED);

        images[i] = make_pages(100 + i, PAGES);
        memcpy(images[i], shared, SHARED * PAGE);
        add_snapshot(f->store, name, images[i], PAGES, NULL);
        free(shared);
    }
    pack_files(f, &before);
    for (unsigned i = 0; i < SNAPSHOTS; i += 2) {
        vn_auto(free) char *name = vn_format("lab@%u", i + 1);

        delete_snapshot(f->store, name);
    }
    counts = run_gc(f->store, &gc_now);
    pack_files(f, &after);
    assert_int_equal(counts.snapshots, SNAPSHOTS / 2);
    /* Pages of its own, two leaves, a root and a manifest, each. The first's
     * pages that others share stay. */
    assert_int_equal(counts.chunks_removed,
                     (PAGES - SHARED + 2 + 1 + 1) * SNAPSHOTS / 2);
    assert_int_equal(counts.packs_waiting, 0);
    assert_true(counts.packs_removed >= SNAPSHOTS / 2);
    assert_true(counts.bytes_removed - counts.bytes_written > before / 3);
    assert_true(after < before * 6 / 10);
    assert_int_equal(count_findings(f->store), 0);
    fixture_reopen(f);
    for (unsigned i = 1; i < SNAPSHOTS; i += 2) {
        vn_auto(free) char *name = vn_format("lab@%u", i + 1);

        assert_true(snapshot_equals(f->store, name, images[i], PAGES));
    }
    /* The tombstones have done their work; then there is nothing left. */
    counts = run_gc(f->store, &gc_now);
    assert_int_equal(counts.chunks_removed, SNAPSHOTS / 2);
    counts = run_gc(f->store, &gc_now);
    assert_int_equal(counts.packs_removed + counts.orphans_removed +
                         counts.chunks_removed,
                     0);
    assert_int_equal(counts.chunks, counts.chunks_live);
    assert_tidy(f);
    for (unsigned i = 0; i < SNAPSHOTS; i++)
        free(images[i]);
}

static void test_everything(void **state)
{
    struct store_fixture *f = *state;
    uint8_t *data = make_pages(1, PAGES);
    struct store_stats stats;
    struct vn_err err = VN_ERR_INIT;

    assert_int_equal(run_gc(f->store, &gc_now).chunks, 0);
    add_snapshot(f->store, "a", data, PAGES, NULL);
    delete_snapshot(f->store, "a");
    run_gc(f->store, &gc_now);
    run_gc(f->store, &gc_now);
    assert_ok(store_stats(f->store, &stats, &err), &err);
    assert_int_equal(stats.chunks, 0);
    assert_int_equal(stats.packs, 0);
    assert_int_equal(pack_files(f, NULL), 0);
    /* And it can be used again. */
    add_snapshot(f->store, "a", data, PAGES, NULL);
    assert_true(snapshot_equals(f->store, "a", data, PAGES));
    assert_int_equal(count_findings(f->store), 0);
    free(data);
}

/* Every third page stays alive: packs are worth rewriting at 50 percent. */
static void make_sparse(struct store_fixture *f, uint8_t **ret_data)
{
    uint8_t *all = make_pages(7, 3 * PAGES);
    uint8_t *third = vn_alloc(PAGES * PAGE);

    for (size_t i = 0; i < PAGES; i++)
        memcpy(third + i * PAGE, all + 3 * i * PAGE, PAGE);
    add_snapshot(f->store, "all", all, 3 * PAGES, NULL);
    add_snapshot(f->store, "third", third, PAGES, NULL);
    delete_snapshot(f->store, "all");
    free(all);
    *ret_data = third;
}

static void test_rewrite(void **state)
{
    struct store_gc_opts opts = {.threshold_percent = 100};
    struct store_fixture *f = *state;
    vn_auto(image_reader) struct image_reader *reader = NULL;
    vn_auto(free) uint8_t *got = vn_alloc(PAGES * PAGE);
    struct vn_err err = VN_ERR_INIT;
    struct store_gc_counts counts;
    struct map_root root;
    json_t *manifest;
    uint64_t before;
    uint64_t after;
    uint8_t *data;

    make_sparse(f, &data);
    counts = run_gc(f->store, &opts); /* only the manifest's pack */
    assert_int_equal(counts.packs_removed, 1);
    assert_int_equal(counts.packs_rewritten, 0);
    manifest = store_load(f->store, "third", &err);
    assert_ok(manifest_object(manifest, "image", &root, &err), &err);
    json_decref(manifest);
    reader = image_reader_open(f->store, &root, &err);
    assert_ok(image_reader_read(reader, 0, got, PAGE, &err), &err);
    opts.threshold_percent = 80;
    assert_int_equal(run_gc(f->store, &opts).packs_rewritten, 0);
    pack_files(f, &before);
    opts.threshold_percent = 60;
    counts = run_gc(f->store, &opts);
    assert_true(counts.packs_rewritten > 0 && counts.packs_new > 0);
    assert_int_equal(counts.packs_removed, counts.packs_rewritten);
    assert_int_equal(counts.chunks_removed, 2 * PAGES + 4 + 1);
    pack_files(f, &after);
    assert_true(after < before / 2);
    assert_int_equal(before - after,
                     counts.bytes_removed - counts.bytes_written);
    /* A reader from before goes on, in the same and in another handle. */
    assert_ok(image_reader_read(reader, 0, got, PAGES * PAGE, &err), &err);
    assert_memory_equal(got, data, PAGES * PAGE);
    assert_int_equal(count_findings(f->store), 0);
    fixture_reopen(f);
    assert_true(snapshot_equals(f->store, "third", data, PAGES));
    assert_tidy(f);
    image_reader_free(vn_steal(&reader));
    free(data);
}

static void test_dry_run(void **state)
{
    struct store_gc_opts opts = {.threshold_percent = 50, .dry_run = true};
    struct store_fixture *f = *state;
    struct store_gc_counts promised;
    struct store_gc_counts done;
    uint64_t before;
    uint64_t after;
    uint8_t *data;

    make_sparse(f, &data);
    pack_files(f, &before);
    promised = run_gc(f->store, &opts);
    pack_files(f, &after);
    assert_int_equal(before, after);
    opts.dry_run = false;
    done = run_gc(f->store, &opts);
    assert_int_equal(promised.chunks_removed, done.chunks_removed);
    assert_int_equal(promised.packs_removed, done.packs_removed);
    assert_int_equal(promised.packs_rewritten, done.packs_rewritten);
    assert_int_equal(promised.bytes_removed, done.bytes_removed);
    /* But for the heads and directories of the new packs. */
    assert_in_range(done.bytes_written, promised.bytes_written,
                    promised.bytes_written * 11 / 10);
    free(data);
}

static void note_progress(void *context, uint64_t done, uint64_t total)
{
    uint64_t *last = context;

    assert_true(done >= *last && done <= total);
    *last = done;
}

static void test_progress(void **state)
{
    uint64_t last = 0;
    struct store_gc_opts opts = {
        .threshold_percent = 50, .progress = note_progress, .context = &last};
    struct store_fixture *f = *state;
    uint8_t *data = make_pages(1, PAGES);

    add_snapshot(f->store, "a", data, PAGES, NULL);
    add_snapshot(f->store, "b", data, PAGES / 2, NULL);
    delete_snapshot(f->store, "a");
    run_gc(f->store, &opts);
    assert_int_equal(last, 1000);
    free(data);
}

/* A snapshot that cannot be read: nothing is removed. */
static void test_damage_stops_it(void **state)
{
    struct store_fixture *f = *state;
    uint8_t *data = make_pages(1, PAGES);
    struct vn_err err = VN_ERR_INIT;
    struct store_gc_counts counts;
    struct chunk_place place;
    struct map_root root = add_snapshot(f->store, "a", data, PAGES, NULL);
    vn_auto(free) char *path = NULL;
    int fd;

    assert_ok(index_find(f->store->index, &root.root, 1, &place, &err), &err);
    path = vn_format("%s/packs/000000000/%012llx.pack", f->path,
                     (unsigned long long)place.pack_id);
    add_snapshot(f->store, "b", data, PAGES / 2, NULL);
    delete_snapshot(f->store, "b");
    fd = open(path, O_WRONLY);
    assert_int_equal(pwrite(fd, "damage", 6, place.offset + 20), 6);
    close(fd);
    fixture_reopen(f);
    assert_int_equal(store_gc(f->store, &gc_now, &counts, &err), -1);
    assert_int_equal(err.code, VN_E_CORRUPT);
    assert_non_null(strstr(err.msg, "'a'"));
    assert_int_equal(counts.packs_removed, 0);
    free(data);
}

/* ---- writers ---------------------------------------------------------- */

/* What a writer flushed is safe until it is committed. */
static void test_fresh_packs_stay(void **state)
{
    struct store_fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    struct store_writer *writer = store_writer_open(f->store, &err);
    uint8_t *data = make_pages(1, PAGES);
    struct map_root root = put_image(writer, data, PAGES * PAGE, NULL);

    assert_ok(store_writer_flush(writer, &err), &err);
    assert_int_equal(run_gc(f->store, &gc_now).packs_removed, 0);
    commit_image(f->store, "a", &root);
    store_writer_free(writer);
    assert_int_equal(run_gc(f->store, &gc_now).packs_removed, 0);
    assert_true(snapshot_equals(f->store, "a", data, PAGES));
    /* Given up: garbage. */
    free(data);
    data = make_pages(2, PAGES);
    store_image(f->store, data, PAGES * PAGE, NULL, NULL);
    assert_int_equal(run_gc(f->store, &gc_now).packs_removed, 1);
    assert_int_equal(count_findings(f->store), 0);
    free(data);
}

/* A hold stands for writers that are gone. */
static void test_hold_for_other_writers(void **state)
{
    struct store_fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    struct store_hold *hold = store_hold_open(f->store, &err);
    uint8_t *data = make_pages(1, PAGES);
    struct map_root root =
        store_image(f->store, data, PAGES * PAGE, NULL, NULL);

    assert_int_equal(run_gc(f->store, &gc_now).packs_removed, 0);
    commit_image(f->store, "a", &root);
    store_hold_close(hold);
    assert_true(snapshot_equals(f->store, "a", data, PAGES));
    free(data);
}

/* It found its pages known; then their snapshot is deleted and collected. */
static void test_hit_before_condemned(void **state)
{
    struct store_fixture *f = *state;
    uint8_t *data = make_pages(1, PAGES);
    struct vn_err err = VN_ERR_INIT;
    struct store_writer *writer;
    struct store_gc_counts counts;
    struct map_root root;

    add_snapshot(f->store, "a", data, PAGES, NULL);
    writer = store_writer_open(f->store, &err);
    root = put_image(writer, data, PAGES * PAGE, NULL);
    assert_int_equal(writer_counts(writer).bytes_known, PAGES * PAGE);
    delete_snapshot(f->store, "a");
    counts = run_gc(f->store, &gc_now);
    assert_true(counts.packs_waiting >= 2);
    assert_int_equal(counts.packs_removed, 0);
    assert_int_equal(counts.holder, getpid());
    run_gc(f->store, &gc_now); /* and once more: nothing new to condemn */
    assert_ok(store_writer_flush(writer, &err), &err);
    commit_image(f->store, "b", &root);
    store_writer_free(writer);
    counts = run_gc(f->store, &gc_now);
    assert_int_equal(counts.packs_removed, 1); /* the manifest of "a" */
    assert_int_equal(counts.packs_waiting, 0);
    assert_true(snapshot_equals(f->store, "b", data, PAGES));
    assert_int_equal(count_findings(f->store), 0);
    free(data);
}

/* It begins when they are condemned: to it they are not there. */
static void test_hit_after_condemned(void **state)
{
    struct store_fixture *f = *state;
    uint8_t *data = make_pages(1, PAGES);
    struct vn_err err = VN_ERR_INIT;
    struct store_writer *writer;
    struct store_hold *hold;
    struct map_root root;

    add_snapshot(f->store, "a", data, PAGES, NULL);
    hold = store_hold_open(f->store, &err);
    delete_snapshot(f->store, "a");
    assert_true(run_gc(f->store, &gc_now).packs_waiting >= 2);
    writer = store_writer_open(f->store, &err);
    root = put_image(writer, data, PAGES * PAGE, NULL);
    assert_int_equal(writer_counts(writer).bytes_new, PAGES * PAGE);
    /* Entered before they are swept, or after: the new place must win. */
    assert_ok(store_writer_flush(writer, &err), &err);
    store_hold_close(hold);
    assert_true(run_gc(f->store, &gc_now).packs_removed >= 2);
    commit_image(f->store, "b", &root);
    store_writer_free(writer);
    assert_true(snapshot_equals(f->store, "b", data, PAGES));
    assert_int_equal(count_findings(f->store), 0);
    run_gc(f->store, &gc_now);
    assert_true(snapshot_equals(f->store, "b", data, PAGES));
    free(data);
}

/* Nobody held it: a commit takes condemned packs back, and is refused where
 * they are gone. */
static void test_commit_without_hold(void **state)
{
    struct store_fixture *f = *state;
    uint8_t *data = make_pages(1, PAGES);
    struct vn_err err = VN_ERR_INIT;
    json_t *manifest = manifest_new("c", "files");
    struct store_hold *hold;
    struct map_root root = add_snapshot(f->store, "a", data, PAGES, NULL);

    hold = store_hold_open(f->store, &err);
    delete_snapshot(f->store, "a");
    assert_true(run_gc(f->store, &gc_now).packs_waiting >= 2);
    commit_image(f->store, "b", &root);
    store_hold_close(hold);
    run_gc(f->store, &gc_now);
    assert_true(snapshot_equals(f->store, "b", data, PAGES));
    assert_int_equal(count_findings(f->store), 0);
    delete_snapshot(f->store, "b");
    run_gc(f->store, &gc_now);
    manifest_add(manifest, "image", &root);
    assert_int_equal(store_commit(f->store, manifest, &err), -1);
    assert_int_equal(err.code, VN_E_NOT_FOUND);
    json_decref(manifest);
    assert_int_equal(count_findings(f->store), 0);
    free(data);
}

/*
 * A snapshot whose pages lie in one pack and whose map in another, which lives
 * on for the sake of "other"; then it is deleted. A page in front makes its
 * leaves other ones than those of the image that stored the pages.
 */
static struct map_root make_split_parent(struct store *store, uint8_t *longer)
{
    uint8_t *data = make_pages(1, PAGES);
    uint8_t *other = make_pages(2, 10);
    struct vn_err err = VN_ERR_INIT;
    struct store_writer *writer;
    struct map_root parent;
    struct map_root root;

    store_image(store, data, PAGES * PAGE, NULL, NULL);
    memset(longer, 3, PAGE);
    memcpy(longer + PAGE, data, PAGES * PAGE);
    writer = store_writer_open(store, &err);
    root = put_image(writer, other, 10 * PAGE, NULL);
    parent = put_image(writer, longer, (PAGES + 1) * PAGE, NULL);
    assert_ok(store_writer_flush(writer, &err), &err);
    commit_image(store, "parent", &parent);
    commit_image(store, "other", &root);
    store_writer_free(writer);
    delete_snapshot(store, "parent");
    free(data);
    free(other);
    return parent;
}

static const struct store_gc_opts no_rewrite = {.threshold_percent = 100};

/* A parent of which gc has taken the pages but not the map. */
static void test_parent_half_gone(void **state)
{
    struct store_fixture *f = *state;
    uint8_t *longer = vn_alloc((PAGES + 1) * PAGE);
    struct map_root parent = make_split_parent(f->store, longer);
    struct store_counts counts;
    struct map_root root;

    assert_true(run_gc(f->store, &no_rewrite).packs_removed >= 2);
    root = store_image(f->store, longer, (PAGES + 1) * PAGE, &parent, &counts);
    assert_int_equal(counts.bytes_unchanged, 0);
    commit_image(f->store, "child", &root);
    assert_true(snapshot_equals(f->store, "child", longer, PAGES + 1));
    assert_int_equal(count_findings(f->store), 0);
    /* A parent that exists is used, also after a gc. */
    root = store_image(f->store, longer, (PAGES + 1) * PAGE, &root, &counts);
    assert_int_equal(counts.bytes_unchanged, (PAGES + 1) * PAGE);
    free(longer);
}

/* The same while the pages wait to be removed; they are before the commit. */
static void test_parent_half_condemned(void **state)
{
    struct store_fixture *f = *state;
    uint8_t *longer = vn_alloc((PAGES + 1) * PAGE);
    struct map_root parent = make_split_parent(f->store, longer);
    struct vn_err err = VN_ERR_INIT;
    struct store_hold *hold = store_hold_open(f->store, &err);
    struct store_writer *writer;
    struct map_root root;

    assert_true(run_gc(f->store, &no_rewrite).packs_waiting >= 2);
    writer = store_writer_open(f->store, &err);
    root = put_image(writer, longer, (PAGES + 1) * PAGE, &parent);
    assert_ok(store_writer_flush(writer, &err), &err);
    store_hold_close(hold);
    assert_true(run_gc(f->store, &no_rewrite).packs_removed >= 2);
    commit_image(f->store, "child", &root);
    store_writer_free(writer);
    assert_true(snapshot_equals(f->store, "child", longer, PAGES + 1));
    assert_int_equal(count_findings(f->store), 0);
    free(longer);
}

/* What an existing snapshot shares keeps being covered while packs are
 * condemned. */
static void test_parent_while_condemned(void **state)
{
    struct store_fixture *f = *state;
    uint8_t *data = make_pages(1, PAGES);
    uint8_t *dead = make_pages(2, PAGES);
    struct vn_err err = VN_ERR_INIT;
    struct store_hold *hold;
    struct store_counts counts;
    struct map_root root = add_snapshot(f->store, "a@1", data, PAGES, NULL);

    add_snapshot(f->store, "dead", dead, PAGES, NULL);
    hold = store_hold_open(f->store, &err);
    delete_snapshot(f->store, "dead");
    assert_true(run_gc(f->store, &gc_now).packs_waiting >= 2);
    root = store_image(f->store, data, PAGES * PAGE, &root, &counts);
    assert_int_equal(counts.bytes_unchanged, PAGES * PAGE);
    commit_image(f->store, "a@2", &root);
    store_hold_close(hold);
    run_gc(f->store, &gc_now);
    assert_true(snapshot_equals(f->store, "a@2", data, PAGES));
    free(data);
    free(dead);
}

/* ---- the index as arbiter --------------------------------------------- */

static void test_publish_or_condemn(void **state)
{
    struct store_fixture *f = *state;
    uint8_t *data = make_pages(1, 10);
    struct vn_err err = VN_ERR_INIT;
    struct index_snapshot row = {.name = "late"};
    struct index_pack pack = {.id = 900, .size = 1, .count = 1};
    struct index_chunk chunk = {.place = {.pack_id = 900, .stored_size = 1}};
    struct index_state before;
    struct index_state after;
    struct index_condemned condemned;
    const uint64_t some[] = {1, 77};

    assert_ok(index_read_state(f->store->index, &before, NULL, &err), &err);
    add_snapshot(f->store, "a", data, 10, NULL);
    /* The collector has not seen "a". */
    assert_int_equal(
        index_condemn(f->store->index, some, 2, before.next_seq, &err), -1);
    assert_int_equal(err.code, VN_E_STATE);
    assert_ok(
        index_condemn(f->store->index, some, 2, before.next_seq + 1, &err),
        &err);
    assert_ok(index_read_state(f->store->index, &after, &condemned, &err),
              &err);
    assert_int_equal(after.epoch, before.epoch + 1);
    assert_int_equal(condemned.count, 1); /* there is no 77 */
    assert_true(index_condemned_has(&condemned, 1));
    index_condemned_done(&condemned);
    /* The writer has not seen the condemnation. */
    assert_int_equal(index_publish(f->store->index, &row, NULL, 0, before.epoch,
                                   &pack, &chunk, &err),
                     -1);
    assert_int_equal(err.code, VN_E_STATE);
    assert_ok(index_rescue(f->store->index, some, 2, &err), &err);
    assert_ok(index_rescue(f->store->index, some, 2, &err), &err);
    assert_ok(index_read_state(f->store->index, &after, &condemned, &err),
              &err);
    assert_int_equal(condemned.count, 0);
    free(data);
}

/* ---- orphans and tombstones ------------------------------------------- */

static void make_file(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT, 0600);

    assert_int_equal(write(fd, "leftover", 8), 8);
    close(fd);
}

static void test_orphans(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) char *dir = vn_format("%s/packs/000000000", f->path);
    vn_auto(free) char *old = vn_format("%s/000000000004.pack", dir);
    vn_auto(free) char *part = vn_format("%s/000000000005.tmp", dir);
    vn_auto(free) char *future = vn_format("%s/000000000fff.tmp", dir);
    vn_auto(free) char *foreign = vn_format("%s/notes.txt", dir);
    vn_auto(free) char *wrong = vn_format("%s/000000001004.pack", dir);
    uint8_t *data = make_pages(1, 10);
    struct vn_err err = VN_ERR_INIT;
    struct store_writer *writer;
    struct store_gc_counts counts;

    add_snapshot(f->store, "a", data, 10, NULL);
    make_file(old);
    make_file(part);
    make_file(future);
    make_file(foreign);
    make_file(wrong);
    counts = run_gc(f->store, &(struct store_gc_opts){.threshold_percent = 50,
                                                      .dry_run = true});
    assert_int_equal(counts.orphans_removed, 2);
    assert_int_equal(access(old, F_OK), 0);
    counts = run_gc(f->store, &gc_now);
    assert_int_equal(counts.orphans_removed, 2);
    assert_int_equal(counts.bytes_removed, 16);
    assert_int_equal(access(old, F_OK), -1);
    assert_int_equal(access(part, F_OK), -1);
    assert_int_equal(access(future, F_OK), 0);
    assert_int_equal(access(foreign, F_OK), 0);
    assert_int_equal(access(wrong, F_OK), 0);
    /* Packs of an open writer that are not in the index yet are no orphans. */
    writer = store_writer_open(f->store, &err);
    free(data);
    data = make_pages(3, 2300);
    {
        struct map_root root = put_image(writer, data, 2300 * PAGE, NULL);

        assert_int_equal(run_gc(f->store, &gc_now).orphans_removed, 0);
        assert_ok(store_writer_flush(writer, &err), &err);
        commit_image(f->store, "b", &root);
    }
    store_writer_free(writer);
    assert_true(snapshot_equals(f->store, "b", data, 2300));
    free(data);
}

/* Read a pack's tombstone as a rebuilding of the index would. */
static bool find_tombstone(struct store *store, uint64_t pack_id,
                           struct tombstone *ret)
{
    uint8_t *data = vn_alloc(4096);
    struct vn_err err = VN_ERR_INIT;
    uint8_t out[PACK_TOMBSTONE_SIZE];
    struct pack pack;
    char damage[128];
    uint64_t size;
    bool found = false;

    if (engine_size(store->engine, pack_id, &size, &err) == 0 && size <= 4096) {
        assert_ok(engine_read(store->engine, pack_id, 0, data, size, &err),
                  &err);
        assert_ok(pack_parse(data, size, &pack, damage, &err), &err);
        found = pack.entries[0].kind == CHUNK_TOMBSTONE;
        if (found) {
            assert_ok(chunk_check(&store->ident, &pack.entries[0],
                                  data + pack.entries[0].offset, out, &err),
                      &err);
            assert_ok(tombstone_decode(out, sizeof(out), ret, &err), &err);
        }
        pack_done(&pack);
    }
    free(data);
    return found;
}

static void test_tombstones(void **state)
{
    struct store_fixture *f = *state;
    uint8_t *data = make_pages(1, 10);
    struct vn_err err = VN_ERR_INIT;
    json_t *manifest = manifest_new("a", "files");
    struct index_snapshot row;
    struct index_state now;
    struct chunk_place place;
    struct tombstone t;
    struct map_root root;

    root = store_image(f->store, data, 10 * PAGE, NULL, NULL);
    manifest_add(manifest, "image", &root);
    assert_ok(store_commit(f->store, manifest, &err), &err);
    assert_ok(index_find_snapshot(f->store->index, "a", &row, &err), &err);
    assert_ok(index_find(f->store->index, &row.id, 1, &place, &err), &err);
    assert_ok(index_read_state(f->store->index, &now, NULL, &err), &err);
    delete_snapshot(f->store, "a");
    assert_true(find_tombstone(f->store, now.next_pack, &t));
    assert_memory_equal(&t.manifest, &row.id, sizeof(row.id));
    assert_int_equal(t.pack_id, place.pack_id);
    assert_int_equal(t.seq, row.seq);
    /* The same once more has the same id, in a later pack. */
    assert_ok(store_commit(f->store, manifest, &err), &err);
    assert_ok(index_find(f->store->index, &row.id, 1, &place, &err), &err);
    assert_true(place.pack_id > now.next_pack);
    run_gc(f->store, &gc_now); /* the first manifest's pack goes */
    assert_true(find_tombstone(f->store, now.next_pack, &t));
    run_gc(f->store, &gc_now); /* then the tombstone */
    assert_false(find_tombstone(f->store, now.next_pack, &t));
    assert_true(snapshot_equals(f->store, "a", data, 10));
    assert_int_equal(count_findings(f->store), 0);
    /* A failed delete leaves neither. */
    assert_ok(index_read_state(f->store->index, &now, NULL, &err), &err);
    fault_set("store.index.delete");
    assert_int_equal(store_delete(f->store, "a", &err), -1);
    fault_set(NULL);
    assert_false(find_tombstone(f->store, now.next_pack, &t));
    assert_true(snapshot_equals(f->store, "a", data, 10));
    assert_int_equal(tombstone_decode(data, 40, &t, &err), -1);
    json_decref(manifest);
    free(data);
}

/* ---- prune ------------------------------------------------------------ */

static void test_prune(void **state)
{
    struct store_fixture *f = *state;
    const struct store_keep keep = {.last = 2};
    struct vn_err err = VN_ERR_INIT;
    uint8_t *data = make_pages(1, 5);
    json_t *list;

    assert_null(store_prune(f->store, "lab", &keep, true, &err));
    assert_int_equal(err.code, VN_E_NOT_FOUND);
    assert_null(store_prune(f->store, "lab@1", &keep, true, &err));
    assert_int_equal(err.code, VN_E_FORMAT);
    for (unsigned i = 1; i <= 4; i++) {
        vn_auto(free) char *name = vn_format("lab@%u", i);

        add_snapshot(f->store, name, data, i, NULL);
    }
    add_snapshot(f->store, "lab", data, 1, NULL);
    add_snapshot(f->store, "lab2@1", data, 1, NULL);
    list = store_prune(f->store, "lab", &keep, true, &err);
    assert_int_equal(json_array_size(list), 4);
    json_decref(list);
    assert_true(snapshot_equals(f->store, "lab@1", data, 1));
    list = store_prune(f->store, "lab", &keep, false, &err);
    assert_int_equal(json_array_size(list), 4);
    for (unsigned i = 0; i < 4; i++) {
        json_t *row = json_array_get(list, i);
        vn_auto(free) char *name = vn_format("lab@%u", 4 - i);

        assert_string_equal(json_string_value(json_object_get(row, "name")),
                            name);
        assert_int_equal(json_is_true(json_object_get(row, "keep")), i < 2);
        assert_int_equal(json_array_size(json_object_get(row, "reasons")),
                         i < 2);
    }
    json_decref(list);
    assert_null(store_load(f->store, "lab@2", &err));
    assert_int_equal(err.code, VN_E_NOT_FOUND);
    assert_true(snapshot_equals(f->store, "lab@3", data, 3));
    assert_true(snapshot_equals(f->store, "lab", data, 1));
    assert_true(snapshot_equals(f->store, "lab2@1", data, 1));
    run_gc(f->store, &gc_now);
    assert_int_equal(count_findings(f->store), 0);
    free(data);
}

#define WITH_STORE(test)                                                       \
    cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_STORE(test_half_of_many),
        WITH_STORE(test_everything),
        WITH_STORE(test_rewrite),
        WITH_STORE(test_dry_run),
        WITH_STORE(test_progress),
        WITH_STORE(test_damage_stops_it),
        WITH_STORE(test_fresh_packs_stay),
        WITH_STORE(test_hold_for_other_writers),
        WITH_STORE(test_hit_before_condemned),
        WITH_STORE(test_hit_after_condemned),
        WITH_STORE(test_commit_without_hold),
        WITH_STORE(test_parent_half_gone),
        WITH_STORE(test_parent_half_condemned),
        WITH_STORE(test_parent_while_condemned),
        WITH_STORE(test_publish_or_condemn),
        WITH_STORE(test_orphans),
        WITH_STORE(test_tombstones),
        WITH_STORE(test_prune),
    };

    use_fast_disk();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
