/*
 * Collection killed, and failing, at every fault point, and with an engine
 * that fails in every way it may. Afterwards the store is sound, what was
 * committed reads back, and another gc ends with nothing left to do.
 */

#include "unit/store_gc_fixture.h"

#include "store/engine_memory.h"
#include "store/store_internal.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>

enum { PAGES = 240, THIRD = PAGES / 3 };

static const char *const points[] = {
    "store.gc.orphans",    "store.gc.mark",      "store.gc.swept",
    "store.pack.remove",   "store.pack.removed", "store.index.condemn",
    "store.index.move",    "store.index.sweep",  "store.tombstone",
    "store.index.delete",  "store.index.commit", "store.index.committed",
    "store.index.ids",     "store.pack.create",  "store.pack.write",
    "store.pack.sync",     "store.pack.rename",  "store.pack.syncdir",
    "store.index.publish", "store.commit.check", "store.space",
};

static uint8_t *third_of(const uint8_t *all)
{
    uint8_t *third = vn_alloc(THIRD * PAGE);

    for (size_t i = 0; i < THIRD; i++)
        memcpy(third + i * PAGE, all + 3 * i * PAGE, PAGE);
    return third;
}

/* Something to remove, to rewrite, to keep, and an orphan. */
static void make_garbage(struct store *store, unsigned round)
{
    uint8_t *all = make_pages(1000 + round, PAGES);
    uint8_t *third = third_of(all);
    uint8_t *dead = make_pages(500000 + round, PAGES);
    vn_auto(free) char *all_name = vn_format("all@%u", round);
    vn_auto(free) char *third_name = vn_format("third@%u", round);
    vn_auto(free) char *dead_name = vn_format("dead@%u", round);
    vn_auto(free) char *last_name = vn_format("last@%u", round);

    add_snapshot(store, all_name, all, PAGES, NULL);
    add_snapshot(store, third_name, third, THIRD, NULL);
    add_snapshot(store, dead_name, dead, PAGES, NULL);
    add_snapshot(store, last_name, dead, THIRD, NULL);
    delete_snapshot(store, all_name);
    delete_snapshot(store, dead_name);
    fault_set("store.index.add");
    {
        struct vn_err err = VN_ERR_INIT;
        struct store_writer *writer = store_writer_open(store, &err);

        fill_random(dead, PAGES * PAGE, 900000 + round);
        put_image(writer, dead, PAGES * PAGE, NULL);
        assert_int_equal(store_writer_flush(writer, &err), -1);
        store_writer_free(writer);
    }
    fault_set(NULL);
    free(all);
    free(third);
    free(dead);
}

/* What the child does: it deletes, collects, and commits once more. */
static int work(struct store *store, unsigned round, struct vn_err *err)
{
    vn_auto(free) char *last_name = vn_format("last@%u", round);
    vn_auto(free) char *more_name = vn_format("more@%u", round);
    vn_auto(json) json_t *manifest = manifest_new(more_name, "files");
    vn_auto(json) json_t *third = NULL;
    vn_auto(free) char *third_name = vn_format("third@%u", round);
    struct store_gc_counts counts;
    struct map_root root;

    if (store_delete(store, last_name, err) < 0 ||
        store_gc(store, &gc_now, &counts, err) < 0)
        return -1;
    third = store_load(store, third_name, err);
    if (!third || manifest_object(third, "image", &root, err) < 0)
        return -1;
    manifest_add(manifest, "image", &root);
    return store_commit(store, manifest, err);
}

/* The store is sound and round's snapshot whole; a gc then leaves nothing. */
static void check_round(struct store_fixture *f, unsigned round)
{
    uint8_t *all = make_pages(1000 + round, PAGES);
    uint8_t *third = third_of(all);
    vn_auto(free) char *third_name = vn_format("third@%u", round);
    vn_auto(free) char *more_name = vn_format("more@%u", round);
    vn_auto(free) char *last_name = vn_format("last@%u", round);
    struct vn_err err = VN_ERR_INIT;
    struct store_gc_counts counts;

    assert_int_equal(count_findings(f->store), 0);
    assert_true(snapshot_equals(f->store, third_name, third, THIRD));
    if (store_delete(f->store, last_name, &err) < 0)
        assert_int_equal(err.code, VN_E_NOT_FOUND);
    run_gc(f->store, &gc_now); /* garbage */
    run_gc(f->store, &gc_now); /* its tombstones */
    counts = run_gc(f->store, &gc_now);
    assert_int_equal(counts.chunks_removed + counts.packs_removed +
                         counts.orphans_removed,
                     0);
    assert_int_equal(counts.chunks, counts.chunks_live);
    assert_tidy(f);
    assert_int_equal(count_findings(f->store), 0);
    assert_true(snapshot_equals(f->store, third_name, third, THIRD));
    delete_snapshot(f->store, third_name);
    if (store_delete(f->store, more_name, &err) < 0)
        assert_int_equal(err.code, VN_E_NOT_FOUND);
    free(all);
    free(third);
}

struct child {
    const struct store_fixture *f;
    unsigned round;
};

static int child_main(void *context, struct vn_err *err)
{
    const struct child *child = context;
    struct store *store = store_open(child->f->path, err);

    return store ? work(store, child->round, err) : -1;
}

static void test_killed_everywhere(void **state)
{
    struct store_fixture *f = *state;
    unsigned round = 0;
    unsigned kills = 0;

    for (size_t i = 0; i < VN_COUNT(points); i++)
        for (unsigned nth = 1;; nth++) {
            vn_auto(free) char *spec = vn_format("%s:%u:kill", points[i], nth);
            struct child child = {.f = f};
            bool killed;

            child.round = ++round;
            make_garbage(f->store, round);
            store_close(vn_steal(&f->store));
            killed = killed_at(spec, child_main, &child);
            fixture_reopen(f);
            check_round(f, round);
            if (!killed) {
                assert_true(nth > 1); /* the point is passed at least once */
                break;
            }
            kills++;
        }
    assert_true(kills > 2 * VN_COUNT(points));
}

static void test_failing_everywhere(void **state)
{
    struct store_fixture *f = *state;
    unsigned round = 0;

    for (size_t i = 0; i < VN_COUNT(points); i++)
        for (unsigned nth = 1; nth <= 3; nth++) {
            vn_auto(free) char *spec = vn_format("%s:%u:fail", points[i], nth);
            struct vn_err err = VN_ERR_INIT;

            round++;
            make_garbage(f->store, round);
            fault_set(spec);
            if (work(f->store, round, &err) < 0)
                assert_true(err.code == EIO || err.code == ENOSPC);
            fault_set(NULL);
            check_round(f, round);
        }
}

/* A commit that has to take condemned packs back, killed there. */
static void test_killed_at_rescue(void **state)
{
    static const char *const specs[] = {"store.index.rescue:1:kill",
                                        "store.index.commit:1:kill",
                                        "store.index.committed:1:kill"};
    struct store_fixture *f = *state;

    for (size_t i = 0; i < VN_COUNT(specs); i++) {
        vn_auto(free) char *name = vn_format("victim@%zu", i + 1);
        vn_auto(free) char *keeper_name = vn_format("keeper@%zu", i + 1);
        uint8_t *data = make_pages(40 + i, PAGES);
        struct vn_err err = VN_ERR_INIT;
        struct store_hold *hold;
        struct map_root root = add_snapshot(f->store, name, data, PAGES, NULL);
        int status;
        pid_t child;

        hold = store_hold_open(f->store, &err);
        delete_snapshot(f->store, name);
        assert_true(run_gc(f->store, &gc_now).packs_waiting > 0);
        child = fork();
        if (child == 0) {
            struct store *own = store_open(f->path, &err);

            fault_set(specs[i]);
            commit_image(own, keeper_name, &root);
            _exit(0);
        }
        waitpid(child, &status, 0);
        assert_true(WIFSIGNALED(status));
        assert_int_equal(count_findings(f->store), 0);
        commit_image(f->store, keeper_name, &root);
        store_hold_close(hold);
        run_gc(f->store, &gc_now);
        run_gc(f->store, &gc_now);
        assert_true(snapshot_equals(f->store, keeper_name, data, PAGES));
        assert_int_equal(count_findings(f->store), 0);
        free(data);
    }
}

/* A hold of a process that was killed holds nothing. */
static void test_holder_killed(void **state)
{
    struct store_fixture *f = *state;
    uint8_t *data = make_pages(1, PAGES);
    struct store_gc_counts counts;
    int pipes[2];
    pid_t child;
    char byte;

    add_snapshot(f->store, "a", data, PAGES, NULL);
    assert_int_equal(pipe(pipes), 0);
    child = fork();
    if (child == 0) {
        struct vn_err err = VN_ERR_INIT;
        struct store *own = store_open(f->path, &err);
        struct store_writer *writer = store_writer_open(own, &err);

        put_image(writer, data, PAGES * PAGE, NULL);
        if (write(pipes[1], "x", 1) != 1)
            _exit(1);
        pause();
        _exit(0);
    }
    assert_int_equal(read(pipes[0], &byte, 1), 1);
    delete_snapshot(f->store, "a");
    counts = run_gc(f->store, &gc_now);
    assert_true(counts.packs_waiting > 0);
    assert_int_equal(counts.holder, child);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    counts = run_gc(f->store, &gc_now);
    assert_int_equal(counts.packs_waiting, 0);
    assert_int_equal(counts.packs_removed, 2);
    close(pipes[0]);
    close(pipes[1]);
    free(data);
}

/* ---- an engine that fails --------------------------------------------- */

struct faults {
    uint64_t random;
    unsigned percent;
    unsigned met;
};

static uint64_t next_random(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x;
}

static enum engine_outcome fail_sometimes(void *context, enum engine_call call,
                                          uint64_t pack_id, int *code)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    struct faults *faults = context;
    uint64_t random;

    (void)pack_id;
    vn_lock_scope(&lock); /* gc removes packs in a thread */
    random = next_random(&faults->random);
    if (random / 7 % 100 >= faults->percent)
        return ENGINE_DO;
    faults->met++;
    *code = ETIMEDOUT;
    if (call == ENGINE_PUT || call == ENGINE_REMOVE)
        return random & 1 ? ENGINE_REFUSE : ENGINE_DO_SILENT;
    return ENGINE_REFUSE;
}

static void use_memory(struct store *store, uint64_t capacity)
{
    engine_close(store->engine);
    store->engine = engine_memory_new(capacity);
}

static void test_failing_engine(void **state)
{
    struct store_fixture *f = *state;
    struct faults faults = {.random = 0x9e3779b97f4a7c15};
    unsigned failures = 0;

    use_memory(f->store, 0);
    for (unsigned round = 1; round <= 20; round++) {
        uint8_t *all = make_pages(1000 + round, PAGES);
        uint8_t *third = third_of(all);
        vn_auto(free) char *third_name = vn_format("third@%u", round);
        struct store_gc_counts counts;
        struct store_stats stats;
        struct vn_err err = VN_ERR_INIT;

        make_garbage(f->store, round);
        faults.percent = 1 + round % 20;
        engine_memory_set_fault(f->store->engine, fail_sometimes, &faults);
        for (unsigned i = 0; i < 3; i++)
            failures += store_gc(f->store, &gc_now, &counts, &err) < 0;
        engine_memory_set_fault(f->store->engine, NULL, NULL);
        assert_int_equal(count_findings(f->store), 0);
        assert_true(snapshot_equals(f->store, third_name, third, THIRD));
        for (unsigned i = 0; i < 3; i++)
            counts = run_gc(f->store, &gc_now);
        assert_int_equal(counts.packs_removed + counts.orphans_removed, 0);
        assert_ok(store_stats(f->store, &stats, &err), &err);
        assert_int_equal(engine_memory_count(f->store->engine), stats.packs);
        assert_int_equal(engine_memory_bytes(f->store->engine),
                         stats.bytes_packs);
        assert_true(snapshot_equals(f->store, third_name, third, THIRD));
        delete_snapshot(f->store, third_name);
        free(all);
        free(third);
    }
    assert_true(faults.met > 15 && failures > 6);
}

/* gc strikes between a reader's look-up and its read. */
struct ambush {
    struct store *store;
    unsigned strikes;
    bool busy;
};

static enum engine_outcome strike(void *context, enum engine_call call,
                                  uint64_t pack_id, int *code)
{
    struct ambush *ambush = context;

    (void)pack_id;
    (void)code;
    if (call != ENGINE_READ || ambush->busy || ambush->strikes)
        return ENGINE_DO;
    ambush->busy = true;
    ambush->strikes += run_gc(ambush->store, &gc_now).packs_removed > 0;
    ambush->busy = false;
    return ENGINE_DO;
}

static void test_reader_between(void **state)
{
    struct store_fixture *f = *state;
    uint8_t *all = make_pages(1001, PAGES);
    uint8_t *third = third_of(all);
    struct ambush ambush = {.store = f->store};

    use_memory(f->store, 0);
    make_garbage(f->store, 1);
    engine_memory_set_fault(f->store->engine, strike, &ambush);
    assert_true(snapshot_equals(f->store, "third@1", third, THIRD));
    assert_int_equal(ambush.strikes, 1);
    /* Now at a page: the map was read, its pages move. */
    {
        struct vn_err err = VN_ERR_INIT;
        struct image_reader *reader;
        struct map_root root;
        json_t *manifest;
        uint8_t *all2 = make_pages(1002, PAGES);
        uint8_t *third2 = third_of(all2);
        uint8_t *got = vn_alloc(THIRD * PAGE);

        ambush.strikes = 1;
        make_garbage(f->store, 2);
        manifest = store_load(f->store, "third@2", &err);
        assert_ok(manifest_object(manifest, "image", &root, &err), &err);
        reader = image_reader_open(f->store, &root, &err);
        assert_made(reader, &err);
        ambush.strikes = 0;
        assert_ok(image_reader_read(reader, 0, got, THIRD * PAGE, &err), &err);
        assert_int_equal(ambush.strikes, 1);
        assert_memory_equal(got, third2, THIRD * PAGE);
        image_reader_free(reader);
        json_decref(manifest);
        free(got);
        free(all2);
        free(third2);
    }
    engine_memory_set_fault(f->store->engine, NULL, NULL);
    /* A pack that is lost is damage in the end. */
    {
        struct vn_err err = VN_ERR_INIT;
        uint64_t id = 0;

        for (id = 1; id < 2000; id++)
            assert_ok(engine_remove(f->store->engine, &id, 1, &err), &err);
        assert_null(store_load(f->store, "third@1", &err));
        assert_int_equal(err.code, VN_E_CORRUPT);
    }
    free(all);
    free(third);
}

/* The medium is full: gc needs no space to remove, and then has some. */
static void test_full_medium(void **state)
{
    struct store_fixture *f = *state;
    uint8_t *dead = make_pages(7, 10 * PAGES);
    uint8_t *data = make_pages(5, 10 * PAGES);
    struct vn_err err = VN_ERR_INIT;
    struct store_writer *writer;
    struct image_writer *image;
    struct map_root root;

    use_memory(f->store, 18 << 20);
    add_snapshot(f->store, "dead", dead, 10 * PAGES, NULL);
    writer = store_writer_open(f->store, &err);
    image = image_writer_open(writer, 10 * PAGES * PAGE, NULL, &err);
    assert_true(image_writer_put(image, 0, data, 10 * PAGES * PAGE, &err) < 0 ||
                image_writer_finish(image, &root, &err) < 0 ||
                store_writer_flush(writer, &err) < 0);
    assert_int_equal(err.code, ENOSPC);
    image_writer_free(image);
    store_writer_free(writer);
    delete_snapshot(f->store, "dead");
    run_gc(f->store, &gc_now);
    add_snapshot(f->store, "a", data, 10 * PAGES, NULL);
    assert_true(snapshot_equals(f->store, "a", data, 10 * PAGES));
    assert_int_equal(count_findings(f->store), 0);
    free(dead);
    free(data);
}

#define WITH_STORE(test)                                                       \
    cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_STORE(test_killed_everywhere), WITH_STORE(test_failing_everywhere),
        WITH_STORE(test_killed_at_rescue),  WITH_STORE(test_holder_killed),
        WITH_STORE(test_failing_engine),    WITH_STORE(test_reader_between),
        WITH_STORE(test_full_medium),
    };

    use_fast_disk();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
