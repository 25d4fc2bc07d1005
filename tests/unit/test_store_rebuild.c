/*
 * The index built anew from packs: it is what it was; nothing deleted comes
 * back, nothing that was there is gone; and a repair that is killed anywhere is
 * only to be run once more.
 */

#include "unit/store_repair_fixture.h"

#include "common/io.h"
#include "store/index_internal.h"

#include <signal.h>

/* ---- the rows of an index --------------------------------------------- */

struct rows {
    struct index_chunk *chunks;
    size_t chunk_count;
    struct index_pack packs[64];
    size_t pack_count;
    struct index_snapshot snapshots[16];
    size_t snapshot_count;
    uint64_t big_next; /* of series */
    uint64_t small_next;
    struct index_state state;
};

static struct rows read_rows(struct world *w)
{
    struct index *index = w->f->store->index;
    struct rows r = {.chunks = vn_alloc(8192 * sizeof(*r.chunks))};
    struct vn_err err = VN_ERR_INIT;

    assert_ok(
        index_list_chunks(index, NULL, 8192, r.chunks, &r.chunk_count, &err),
        &err);
    assert_ok(index_list_packs(index, 0, 64, r.packs, &r.pack_count, &err),
              &err);
    assert_ok(index_list_snapshots(index, 0, 16, r.snapshots, &r.snapshot_count,
                                   &err),
              &err);
    assert_ok(index_series_next(index, "big", &r.big_next, &err), &err);
    assert_ok(index_series_next(index, "small", &r.small_next, &err), &err);
    assert_ok(index_read_state(index, &r.state, NULL, &err), &err);
    return r;
}

static void assert_same_rows(const struct rows *a, const struct rows *b)
{
    assert_int_equal(a->chunk_count, b->chunk_count);
    for (size_t i = 0; i < a->chunk_count; i++)
        assert_memory_equal(&a->chunks[i], &b->chunks[i], sizeof(a->chunks[i]));
    assert_int_equal(a->pack_count, b->pack_count);
    assert_memory_equal(a->packs, b->packs,
                        a->pack_count * sizeof(a->packs[0]));
    assert_int_equal(a->snapshot_count, b->snapshot_count);
    for (size_t i = 0; i < a->snapshot_count; i++) {
        assert_string_equal(a->snapshots[i].name, b->snapshots[i].name);
        assert_memory_equal(&a->snapshots[i].id, &b->snapshots[i].id,
                            STORE_ID_SIZE);
        assert_int_equal(a->snapshots[i].bytes_logical,
                         b->snapshots[i].bytes_logical);
    }
    assert_int_equal(a->big_next, b->big_next);
    assert_int_equal(a->small_next, b->small_next);
}

static char *index_path(struct world *w, const char *name)
{
    return vn_format("%s/index/%s", w->f->path, name);
}

/* ---- damage of the index ---------------------------------------------- */

enum { REMOVE, EMPTY, HALF, PAGES, HEADS, FOLDER, HARMS };

/* The store is closed. */
static void harm_index(struct world *w, int harm)
{
    vn_auto(free) char *data = index_path(w, "data.mdb");
    vn_auto(free) char *lock = index_path(w, "lock.mdb");
    vn_auto(free) char *dir = vn_format("%s/index", w->f->path);
    uint8_t garbage[4096];
    struct stat st;
    int fd;

    assert_int_equal(stat(data, &st), 0);
    fill_random(garbage, sizeof(garbage), 5);
    fd = open(data, O_RDWR);
    assert_true(fd >= 0);
    switch (harm) {
    case FOLDER:
        assert_int_equal(unlink(lock), 0);
        assert_int_equal(unlink(data), 0);
        assert_int_equal(rmdir(dir), 0);
        break;
    case REMOVE:
        assert_int_equal(unlink(data), 0);
        break;
    case EMPTY:
        assert_int_equal(ftruncate(fd, 0), 0);
        break;
    case HALF:
        assert_int_equal(ftruncate(fd, st.st_size / 2), 0);
        break;
    default: /* all but the first two pages, or those */
        for (off_t at = harm == PAGES ? 8192 : 0;
             at < (harm == PAGES ? st.st_size : 8192); at += 4096)
            assert_int_equal(pwrite(fd, garbage, 4096, at), 4096);
    }
    close(fd);
}

static void test_harms(void **state)
{
    struct world *w = *state;
    struct rows before = read_rows(w);

    for (int harm = 0; harm < HARMS; harm++) {
        struct store_repair_counts counts;
        struct rows after;

        close_world(w);
        harm_index(w, harm);
        counts = repair_world(w, false);
        assert_said("index");
        assert_true(counts.rebuilt);
        assert_int_equal(counts.findings, 1);
        assert_int_equal(counts.snapshots, 3);
        assert_int_equal(counts.snapshots_deleted, 1);
        assert_int_equal(counts.snapshots_dropped, 0);
        open_world(w);
        after = read_rows(w);
        assert_same_rows(&before, &after);
        free(after.chunks);
        assert_int_equal(verify_world(w, false), 0);
        assert_world_whole(w);
    }
    free(before.chunks);
}

/* A sound index, rebuilt: the marks stay too. */
static void test_same_marks(void **state)
{
    struct world *w = *state;
    struct rows before;
    struct rows after;
    struct vn_err err = VN_ERR_INIT;
    char *name;

    delete_snapshot(w->f->store, "big@2");
    run_gc(w->f->store, &gc_now);
    run_gc(w->f->store, &gc_now);
    before = read_rows(w);
    assert_int_equal(before.big_next, 3);
    close_world(w);
    assert_int_equal(repair_world(w, true).findings, 0);
    open_world(w);
    after = read_rows(w);
    assert_same_rows(&before, &after);
    assert_int_equal(before.state.epoch, after.state.epoch);
    assert_int_equal(before.state.next_pack, after.state.next_pack);
    assert_int_equal(before.state.next_seq, after.state.next_seq);
    name = store_next_name(w->f->store, "big", &err);
    assert_made(name, &err);
    assert_string_equal(name, "big@3"); /* not used again */
    free(name);
    free(before.chunks);
    free(after.chunks);
    /* And it is used as before. */
    add_snapshot(w->f->store, "big@3", w->two, BIG, &w->big1);
    delete_snapshot(w->f->store, "big@1");
    run_gc(w->f->store, &gc_now);
    assert_int_equal(verify_world(w, false), 0);
    assert_true(snapshot_equals(w->f->store, "big@3", w->two, BIG));
    assert_tidy(w->f);
}

/* Deleted and committed once more, with the same id; collected in between. */
static void test_deleted_and_back(void **state)
{
    struct world *w = *state;
    struct vn_err err = VN_ERR_INIT;
    json_t *manifest = store_load(w->f->store, "big@1", &err);
    struct store_hold *hold = store_hold_open(w->f->store, &err);

    assert_made(manifest, &err);
    assert_made(hold, &err);
    delete_snapshot(w->f->store, "big@1");
    assert_ok(store_commit(w->f->store, manifest, &err), &err);
    store_hold_close(hold);
    json_decref(manifest);
    for (unsigned i = 0; i < 3; i++) {
        close_world(w);
        harm_index(w, REMOVE);
        assert_int_equal(repair_world(w, false).snapshots, 3);
        open_world(w);
        assert_world_whole(w);
        assert_int_equal(verify_world(w, false), 0);
        run_gc(w->f->store, &gc_now);
    }
}

/* What a repair moves to later packs does not turn deletions round. */
static void test_moved_and_rebuilt(void **state)
{
    struct world *w = *state;
    struct vn_err err = VN_ERR_INIT;
    json_t *manifest = store_load(w->f->store, "big@1", &err);
    struct spot dead = find_spot(w, CHUNK_MANIFEST, 3); /* small@2 */
    struct spot tombstone;
    struct store_repair_counts counts;

    assert_made(manifest, &err);
    delete_snapshot(w->f->store, "big@1");
    assert_ok(store_commit(w->f->store, manifest, &err), &err);
    json_decref(manifest);
    tombstone = find_spot(w, CHUNK_TOMBSTONE, 1); /* of the first big@1 */
    close_world(w);
    flip_pack(w, dead.pack_id, 20);
    flip_pack(w, tombstone.pack_id, 20);
    counts = repair_world(w, false);
    assert_int_equal(counts.packs_damaged, 2);
    assert_int_equal(counts.packs_new, 0); /* nobody needs them */
    harm_index(w, REMOVE);
    counts = repair_world(w, false);
    assert_int_equal(counts.snapshots, 3);
    open_world(w);
    assert_int_equal(verify_world(w, false), 0);
    assert_world_whole(w);
}

/* ---- interrupted commits ---------------------------------------------- */

/* A child that is killed when it is about to publish. */
static void interrupt_commit(struct world *w, const char *name, uint64_t seed)
{
    int status;
    pid_t child;

    close_world(w);
    child = fork();
    if (child == 0) {
        uint8_t *data = make_pages(seed, SMALL);

        open_world(w);
        fault_set("store.index.publish:1:kill");
        add_snapshot(w->f->store, name, data, SMALL, NULL);
        _exit(1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    open_world(w);
}

/* One that needs what is not there any more is no snapshot. */
static void test_interrupted_and_collected(void **state)
{
    struct world *w = *state;
    struct spot s;
    vn_auto(free) char *path = NULL;
    struct store_repair_counts counts;

    interrupt_commit(w, "cut@1", 300);
    s = find_spot(w, CHUNK_PAGE, BIG + 1 + SMALL);
    path = pack_path(w, s.pack_id);
    close_world(w);
    assert_int_equal(unlink(path), 0);
    harm_index(w, REMOVE);
    counts = repair_world(w, false);
    assert_int_equal(counts.snapshots, 3);
    assert_int_equal(counts.snapshots_dropped, 1);
    assert_said("'cut@1~");
    open_world(w);
    assert_int_equal(verify_world(w, false), 0);
    assert_world_whole(w);
    run_gc(w->f->store, &gc_now);
    assert_tidy(w->f);
    assert_world_whole(w);
}

/* Where the old index knows the snapshot it stays, to be healed. */
static void test_committed_and_missing(void **state)
{
    struct world *w = *state;
    struct spot s = find_spot(w, CHUNK_PAGE, 0);
    vn_auto(free) char *path = pack_path(w, s.pack_id);
    struct store_repair_counts counts;

    close_world(w);
    assert_int_equal(unlink(path), 0);
    counts = repair_world(w, true);
    assert_int_equal(counts.snapshots, 3);
    assert_int_equal(counts.snapshots_dropped, 0);
    assert_true(counts.lost > 0);
    open_world(w);
    assert_true(verify_world(w, false) > 0);
    add_snapshot(w->f->store, "again@1", w->one, BIG, NULL);
    assert_int_equal(verify_world(w, false), 0);
    assert_world_whole(w);
}

/* Of two with one name the later counts. */
static void test_one_name(void **state)
{
    struct world *w = *state;
    uint8_t *data = make_pages(400, SMALL);
    struct store_repair_counts counts;

    interrupt_commit(w, "twin@1", 300);
    add_snapshot(w->f->store, "twin@1", data, SMALL, NULL);
    close_world(w);
    harm_index(w, REMOVE);
    counts = repair_world(w, false);
    assert_int_equal(counts.snapshots, 4);
    assert_int_equal(counts.snapshots_dropped, 1);
    assert_said("'twin@1~");
    open_world(w);
    assert_true(snapshot_equals(w->f->store, "twin@1", data, SMALL));
    assert_world_whole(w);
    assert_int_equal(verify_world(w, false), 0);
    free(data);
}

/* ---- damaged packs and no index --------------------------------------- */

static void test_unusable_pack(void **state)
{
    struct world *w = *state;
    struct spot s = find_spot(w, CHUNK_PAGE, 0);
    struct store_repair_counts counts;
    struct vn_err err = VN_ERR_INIT;

    close_world(w);
    flip_pack(w, s.pack_id, s.size - 20); /* its footer */
    harm_index(w, HALF);
    counts = repair_world(w, false);
    assert_int_equal(counts.packs_unusable, 1);
    assert_int_equal(counts.snapshots, 3); /* none is left out for that */
    assert_true(counts.lost > 0);
    open_world(w);
    assert_true(verify_world(w, false) > 0);
    assert_null(image_reader_open(w->f->store, &w->big1, &err));
    add_snapshot(w->f->store, "again@1", w->one, BIG, &w->big1);
    assert_int_equal(verify_world(w, false), 0);
    assert_world_whole(w);
}

static void test_damaged_node(void **state)
{
    struct world *w = *state;
    struct spot s = find_spot(w, CHUNK_LEAF, 0);
    struct store_repair_counts counts;

    close_world(w);
    damage_spot(w, &s);
    harm_index(w, PAGES);
    counts = repair_world(w, false);
    assert_int_equal(counts.snapshots, 3);
    assert_int_equal(counts.chunks_lost, 1);
    open_world(w);
    add_snapshot(w->f->store, "again@1", w->one, BIG, &w->big1);
    assert_int_equal(verify_world(w, false), 0);
    assert_world_whole(w);
}

/* What the old index knew of it is kept, so that it can be deleted by name. */
static void test_unreadable_manifest(void **state)
{
    struct world *w = *state;
    struct spot s = find_spot(w, CHUNK_MANIFEST, 1);
    struct store_repair_counts counts;

    close_world(w);
    damage_spot(w, &s);
    counts = repair_world(w, true);
    assert_int_equal(counts.snapshots, 3);
    open_world(w);
    assert_true(verify_world(w, false) > 0);
    assert_said("snapshot 'big@2'");
    delete_snapshot(w->f->store, "big@2");
    assert_int_equal(verify_world(w, false), 0);
    close_world(w);
    harm_index(w, REMOVE);
    counts = repair_world(w, false); /* the pack is an orphan, or is deleted */
    assert_int_equal(counts.snapshots, 2);
    open_world(w);
    assert_int_equal(verify_world(w, false), 0);
    assert_true(snapshot_equals(w->f->store, "big@1", w->one, BIG));
}

static void test_config(void **state)
{
    struct world *w = *state;
    vn_auto(free) char *path = vn_format("%s/config.json", w->f->path);
    struct store_repair_opts opts = {.rebuild_index = true};
    struct store_repair_counts counts;
    struct vn_err err = VN_ERR_INIT;

    close_world(w);
    assert_int_equal(truncate(path, 100), 0);
    assert_int_equal(store_repair(w->f->path, &opts, &counts, &err), -1);
    assert_int_equal(err.code, VN_E_FORMAT);
    assert_non_null(strstr(err.msg, "config.json"));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(store_repair(w->f->path, &opts, &counts, &err), -1);
    assert_int_equal(err.code, VN_E_NOT_FOUND);
}

/* ---- others ----------------------------------------------------------- */

static void test_in_use(void **state)
{
    struct world *w = *state;
    struct store_repair_opts opts = {.rebuild_index = true};
    struct store_repair_counts counts;
    struct vn_err err = VN_ERR_INIT;
    char pid[32];
    int ready[2];
    pid_t child;
    char byte;

    assert_int_equal(store_repair(w->f->path, &opts, &counts, &err), -1);
    assert_int_equal(err.code, VN_E_STATE); /* by this process */
    close_world(w);
    assert_int_equal(pipe(ready), 0);
    child = fork();
    if (child == 0) {
        open_world(w);
        if (write(ready[1], "x", 1) != 1)
            _exit(1);
        pause();
        _exit(0);
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_int_equal(store_repair(w->f->path, &opts, &counts, &err), -1);
    assert_int_equal(err.code, VN_E_STATE);
    snprintf(pid, sizeof(pid), "process %d ", (int)child);
    assert_non_null(strstr(err.msg, pid));
    /* With a sound index the others need not go. */
    assert_int_equal(repair_world(w, false).findings, 0);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    close(ready[0]);
    close(ready[1]);
    assert_int_equal(repair_world(w, true).findings, 0);
    open_world(w);
    assert_world_whole(w);
}

/* Nobody opens a store while its index is rebuilt. */
static void test_open_meanwhile(void **state)
{
    struct world *w = *state;
    struct store_repair_opts opts = {.rebuild_index = true};
    struct store_repair_counts counts;
    struct vn_err err = VN_ERR_INIT;
    vn_auto(free) char *half = vn_format("%s/index.new", w->f->path);
    int status;
    pid_t child;

    close_world(w);
    child = fork();
    if (child == 0) {
        fault_set("store.repair.built:1:stop");
        _exit(store_repair(w->f->path, &opts, &counts, &err) == 0 ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, WUNTRACED), child);
    assert_true(WIFSTOPPED(status));
    assert_null(store_open(w->f->path, &err));
    assert_int_equal(err.code, VN_E_STATE);
    assert_int_equal(access(half, F_OK), 0);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    open_world(w); /* the old index */
    assert_world_whole(w);
    close_world(w);
    repair_world(w, false);
    assert_int_equal(access(half, F_OK), -1);
    open_world(w);
    assert_world_whole(w);
}

/* ---- killed ----------------------------------------------------------- */

static const char *const points[] = {
    "store.repair.read",    "store.repair.built",    "store.repair.aside",
    "store.repair.swapped", "store.repair.moved",    "store.repair.salvage",
    "store.index.lose",     "store.index.drop",      "store.index.add",
    "store.index.commit",   "store.index.committed", "store.index.move",
    "store.pack.rename",    "store.verify.pack",
};

struct child {
    const struct world *w;
    bool rebuild;
};

static int child_main(void *context, struct vn_err *err)
{
    const struct child *child = context;
    struct store_repair_opts opts = {.rebuild_index = child->rebuild};
    struct store_repair_counts counts;

    return store_repair(child->w->f->path, &opts, &counts, err);
}

/* True: it was killed there. */
static bool repair_in_child(struct world *w, const char *spec, bool rebuild)
{
    struct child child = {.w = w, .rebuild = rebuild};

    return killed_at(spec, child_main, &child);
}

/* A page is damaged, and the index is built anew. */
static void test_killed_everywhere(void **state)
{
    struct world *w = *state;
    unsigned kills = 0;
    unsigned round = 0;

    for (size_t i = 0; i < VN_COUNT(points); i++)
        for (unsigned nth = 1;; nth += 1 + nth / 2) {
            vn_auto(free) char *spec = vn_format("%s:%u:kill", points[i], nth);
            vn_auto(free) char *name = vn_format("r@%u", ++round);
            uint8_t *data = make_pages(1000 + round, SMALL);
            struct spot s;
            bool killed;

            add_snapshot(w->f->store, name, data, SMALL, NULL);
            s = find_spot(w, CHUNK_PAGE, 100);
            close_world(w);
            damage_spot(w, &s);
            killed = repair_in_child(w, spec, true);
            repair_world(w, false);
            open_world(w);
            add_snapshot(w->f->store, "heal-1", w->one, BIG, &w->big1);
            add_snapshot(w->f->store, "heal-2", w->two, BIG, &w->big2);
            add_snapshot(w->f->store, "heal-3", w->small, SMALL, NULL);
            add_snapshot(w->f->store, "heal-4", data, SMALL, NULL);
            if (verify_world(w, false) != 0)
                fail_msg("after %s:\n%s", spec, all_findings);
            assert_world_whole(w);
            for (unsigned k = 1; k <= 4; k++) {
                vn_auto(free) char *heal = vn_format("heal-%u", k);

                delete_snapshot(w->f->store, heal);
            }
            delete_snapshot(w->f->store, name);
            run_gc(w->f->store, &gc_now);
            run_gc(w->f->store, &gc_now);
            assert_tidy(w->f);
            free(data);
            if (!killed) {
                if (nth == 1)
                    fail_msg("%s is never passed", points[i]);
                break;
            }
            kills++;
        }
    assert_true(kills >= VN_COUNT(points));
}

/* The table of names is empty: no snapshot is found, all are there. */
static void test_names_are_mended(void **state)
{
    struct world *w = *state;
    struct index *index = w->f->store->index;
    struct vn_err err = VN_ERR_INIT;
    MDB_txn *txn;

    assert_ok(index_begin(index, 0, &txn, &err), &err);
    assert_int_equal(mdb_drop(txn, index->tables[TABLE_NAMES], 0), 0);
    assert_ok(index_commit(index, &txn, &err), &err);
    assert_true(verify_world(w, true) > 0);
    assert_null(store_load(w->f->store, "big@1", &err));
    close_world(w);
    assert_true(repair_in_child(w, "store.index.mend:1:kill", false));
    repair_world(w, false);
    open_world(w);
    assert_int_equal(verify_world(w, false), 0);
    assert_world_whole(w);
}

#define WITH_WORLD(test)                                                       \
    cmocka_unit_test_setup_teardown(test, world_setup, world_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_WORLD(test_harms),
        WITH_WORLD(test_same_marks),
        WITH_WORLD(test_deleted_and_back),
        WITH_WORLD(test_moved_and_rebuilt),
        WITH_WORLD(test_interrupted_and_collected),
        WITH_WORLD(test_committed_and_missing),
        WITH_WORLD(test_one_name),
        WITH_WORLD(test_unusable_pack),
        WITH_WORLD(test_damaged_node),
        WITH_WORLD(test_config),
        WITH_WORLD(test_in_use),
        WITH_WORLD(test_open_meanwhile),
        WITH_WORLD(test_unreadable_manifest),
        WITH_WORLD(test_killed_everywhere),
        WITH_WORLD(test_names_are_mended),
    };
    int result;

    use_fast_disk();
    result = cmocka_run_group_tests(tests, NULL, NULL);
    json_decref(all_details);
    return result;
}
