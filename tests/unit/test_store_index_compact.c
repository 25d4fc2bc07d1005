/*
 * The index's own space: compacting and punching. Whatever happens meanwhile -
 * readers, writers, death - the rows are the same before and after.
 */

#include "unit/store_index_fixture.h"

#include "common/clock.h"
#include "store/index_internal.h"

enum { COUNT = 120000, LATER = 1000000 /* chunk numbers of other writers */ };

/* A tree that grew at random and lost half: sparse. */
static void make_sparse(struct indexed *x)
{
    struct vn_err err = VN_ERR_INIT;

    for (uint64_t i = 0; i < COUNT; i += COUNT / 6)
        assert_ok(add_chunks(x->index, i, COUNT / 6, &err), &err);
    delete_half(x->index, COUNT / PACK_CHUNKS);
}

static uint64_t per_chunk(struct index *index, bool disk)
{
    struct vn_err err = VN_ERR_INIT;
    struct index_stats stats;

    assert_ok(index_stats(index, &stats, &err), &err);
    return (disk ? stats.bytes_disk : stats.bytes) / stats.chunks;
}

static void test_same_rows_less_space(void **state)
{
    struct indexed *x = *state;
    struct vn_err err = VN_ERR_INIT;
    struct rows rows;
    uint64_t count;

    make_sparse(x);
    rows = read_rows(x->index);
    assert_int_equal(rows.count, COUNT / 2);
    assert_true(per_chunk(x->index, false) > 80);
    assert_ok(index_compact(x->index, &count, &err), &err);
    assert_int_equal(count, COUNT / 2);
    assert_rows(x->index, &rows);
    assert_true(per_chunk(x->index, false) < 53);
    /* Once is enough. */
    assert_ok(index_compact(x->index, &count, &err), &err);
    assert_int_equal(count, 0);
    index_reopen(x);
    assert_rows(x->index, &rows);
    /* What comes next does not split every page. */
    assert_ok(add_chunks(x->index, LATER, COUNT / 50, &err), &err);
    assert_true(per_chunk(x->index, false) < 56);
}

static void test_holes(void **state)
{
    struct indexed *x = *state;
    struct vn_err err = VN_ERR_INIT;
    uint64_t before;
    struct rows rows;
    uint64_t bytes;

    for (uint64_t i = 0; i < 5; i++)
        assert_ok(add_chunks(x->index, i * COUNT, COUNT, &err), &err);
    delete_half(x->index, 5 * COUNT / PACK_CHUNKS);
    assert_ok(index_compact(x->index, &bytes, &err), &err);
    rows = read_rows(x->index);
    before = per_chunk(x->index, true);
    index_punch(x->index, &bytes);
    if (bytes == 0) {
        print_message("no holes in /tmp\n");
        return;
    }
    /* 8 MiB of free pages stay: 29 bytes a chunk. */
    assert_true(before > 110 && per_chunk(x->index, true) < 90);
    assert_rows(x->index, &rows);
    /* They are not punched twice. */
    index_punch(x->index, &bytes);
    assert_true(bytes < 1 << 20);
    index_reopen(x);
    assert_rows(x->index, &rows);
    /* Written again: the pages come back. */
    for (uint64_t i = 0; i < 3; i++)
        assert_ok(add_chunks(x->index, LATER + i * COUNT, COUNT, &err), &err);
    index_reopen(x);
    assert_int_equal(read_rows(x->index).count, 5 * COUNT / 2 + 3 * COUNT);
}

/* A reader that began before sees all that it saw then. */
static void test_old_reader(void **state)
{
    struct indexed *x = *state;
    MDB_cursor *cursor = NULL;
    struct vn_err err = VN_ERR_INIT;
    MDB_txn *txn = NULL;
    uint64_t seen = 0;
    uint64_t bytes;
    MDB_val key;
    MDB_val value;

    for (uint64_t i = 0; i < 4; i++)
        assert_ok(add_chunks(x->index, i * COUNT, COUNT, &err), &err);
    assert_ok(index_begin(x->index, MDB_RDONLY, &txn, &err), &err);
    delete_half(x->index, 4 * COUNT / PACK_CHUNKS);
    for (int i = 0; i < 2; i++) {
        assert_ok(index_compact(x->index, &bytes, &err), &err);
        index_punch(x->index, &bytes);
    }
    assert_int_equal(
        mdb_cursor_open(txn, x->index->tables[TABLE_CHUNKS], &cursor), 0);
    while (mdb_cursor_get(cursor, &key, &value, MDB_NEXT) == 0) {
        struct chunk_place place;

        assert_int_equal(key.mv_size, STORE_ID_SIZE);
        assert_ok(index_place_decode(x->index, &value, &place, &err), &err);
        assert_true(place.pack_id <= 4 * COUNT / PACK_CHUNKS);
        seen++;
    }
    assert_int_equal(seen, 4 * COUNT);
    mdb_cursor_close(cursor);
    mdb_txn_abort(txn);
    assert_int_equal(read_rows(x->index).count, 2 * COUNT);
}

static int compact_and_die(const char *dir)
{
    struct vn_err err = VN_ERR_INIT;
    struct index *index = index_open(dir, store_id, &err);
    uint64_t count;

    fault_set("store.index.committed:3:kill");
    return index && index_compact(index, &count, &err) == 0 ? 0 : 1;
}

static int punch_and_die(const char *dir)
{
    struct vn_err err = VN_ERR_INIT;
    struct index *index = index_open(dir, store_id, &err);
    uint64_t bytes;

    fault_set("store.index.punch:7:kill");
    if (!index)
        return 1;
    index_punch(index, &bytes);
    return bytes ? 0 : 77;
}

static void test_killed_and_failed(void **state)
{
    struct indexed *x = *state;
    struct vn_err err = VN_ERR_INIT;
    struct rows rows;
    uint64_t count;

    /* Enough for more than 8 MiB of free pages. */
    for (uint64_t i = 0; i < 4; i++)
        assert_ok(add_chunks(x->index, i * COUNT, COUNT, &err), &err);
    delete_half(x->index, 4 * COUNT / PACK_CHUNKS);
    rows = read_rows(x->index);
    assert_int_equal(in_child(compact_and_die, x->dir), -SIGKILL);
    assert_rows(x->index, &rows);
    fault_set("store.index.compact:2");
    assert_int_equal(index_compact(x->index, &count, &err), -1);
    fault_set("store.index.commit:2");
    assert_int_equal(index_compact(x->index, &count, &err), -1);
    fault_set(NULL);
    assert_rows(x->index, &rows);
    assert_ok(index_compact(x->index, &count, &err), &err);
    count = (uint64_t)in_child(punch_and_die, x->dir);
    assert_true(count == (uint64_t)-SIGKILL || count == 77);
    assert_rows(x->index, &rows);
    index_punch(x->index, &count);
    index_reopen(x);
    assert_rows(x->index, &rows);
    assert_ok(add_chunks(x->index, LATER, 5000, &err), &err);
    assert_int_equal(read_rows(x->index).count, rows.count + 5000);
}

/* ---- beside others ---------------------------------------------------- */

/* Adds 100 chunks a time from `first` on, and looks them up again. */
static int add_on(const char *dir, uint64_t first, unsigned rounds)
{
    struct chunk_place places[100];
    struct chunk_id ids[100];
    struct vn_err err = VN_ERR_INIT;
    struct index *index = index_open(dir, store_id, &err);

    for (unsigned i = 0; i < rounds; i++) {
        uint64_t from = first + (uint64_t)i * PACK_CHUNKS;

        if (!index || add_chunks(index, from, 100, &err) < 0)
            return 1;
        for (unsigned k = 0; k < 100; k++)
            ids[k] = chunk_id_of(from + k);
        if (index_find(index, ids, 100, places, &err) < 0)
            return 1;
        for (unsigned k = 0; k < 100; k++)
            if (places[k].pack_id != 1 + from / PACK_CHUNKS)
                return 2;
    }
    index_close(index);
    return 0;
}

/* Each chunk that was there at first is found all the time. */
static int find_on(const char *dir, uint64_t end_ns)
{
    enum { N = 500 };
    struct chunk_place places[N];
    struct chunk_id ids[N];
    struct vn_err err = VN_ERR_INIT;
    struct index *index = index_open(dir, store_id, &err);

    for (uint64_t i = 0; clock_now_ns() < end_ns; i += N) {
        /* The second pack of two was kept. */
        uint64_t from = (i % (COUNT / 2)) / PACK_CHUNKS * 2 * PACK_CHUNKS +
                        PACK_CHUNKS + i % PACK_CHUNKS;

        for (unsigned k = 0; k < N; k++)
            ids[k] = chunk_id_of(from + k);
        if (!index || index_find(index, ids, N, places, &err) < 0)
            return 1;
        for (unsigned k = 0; k < N; k++)
            if (places[k].pack_id != 1 + from / PACK_CHUNKS)
                return 2;
    }
    index_close(index);
    return 0;
}

static int tidy_on(const char *dir, uint64_t end_ns)
{
    struct vn_err err = VN_ERR_INIT;
    struct index *index = index_open(dir, store_id, &err);
    uint64_t count;

    while (index && clock_now_ns() < end_ns) {
        if (index_compact(index, &count, &err) < 0)
            return 1;
        index_punch(index, &count);
    }
    index_close(index);
    return 0;
}

static void test_beside_others(void **state)
{
    enum { WRITERS = 2, ROUNDS = 60, TIDIERS = 5 };
    struct indexed *x = *state;
    uint64_t end_ns = clock_now_ns() + 1500 * VN_MS;
    struct vn_err err = VN_ERR_INIT;
    uint64_t count;
    pid_t children[WRITERS + 1];
    struct timespec pause = {.tv_nsec = 150000000};
    int status;

    make_sparse(x);
    for (int c = 0; c <= WRITERS; c++) {
        children[c] = fork();
        if (children[c] == 0)
            _exit(c < WRITERS
                      ? add_on(x->dir, LATER + (uint64_t)c * LATER, ROUNDS)
                      : find_on(x->dir, end_ns));
    }
    for (int i = 0; i < TIDIERS; i++) {
        pid_t child = fork();

        if (child == 0)
            _exit(tidy_on(x->dir, end_ns));
        nanosleep(&pause, NULL);
        kill(child, SIGKILL);
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status) || status == 0);
    }
    assert_int_equal(tidy_on(x->dir, end_ns), 0);
    for (int c = 0; c <= WRITERS; c++) {
        assert_int_equal(waitpid(children[c], &status, 0), children[c]);
        assert_int_equal(status, 0);
    }
    assert_int_equal(read_rows(x->index).count,
                     COUNT / 2 + WRITERS * ROUNDS * 100);
    assert_ok(index_compact(x->index, &count, &err), &err);
    assert_true(per_chunk(x->index, false) < 65);
}

/* ---- a whole store ---------------------------------------------------- */

/* gc does it: many small chunks come, and go. */
static void test_gc_tidies(void **state)
{
    enum { PAGES = 30000 };
    struct store_fixture *f = *state;
    const struct store_gc_opts opts = {.threshold_percent = STORE_GC_THRESHOLD};
    uint8_t *data = vn_alloc((size_t)PAGES * PAGE);
    struct vn_err err = VN_ERR_INIT;
    struct store_gc_counts counts;
    struct store_stats stats;
    struct map_root root;

    for (uint32_t i = 0; i < PAGES; i++)
        memcpy(data + (size_t)i * PAGE, &(uint32_t){i + 1}, 4);
    root = store_image(f->store, data, PAGES / 2 * PAGE, NULL, NULL);
    commit_image(f->store, "half", &root);
    root = store_image(f->store, data, (size_t)PAGES * PAGE, NULL, NULL);
    commit_image(f->store, "all", &root);
    assert_ok(store_delete(f->store, "all", &err), &err);
    assert_ok(store_gc(f->store, &opts, &counts, &err), &err);
    assert_ok(store_stats(f->store, &stats, &err), &err);
    assert_true(stats.chunks < PAGES / 2 + 100);
    assert_true(stats.bytes_index / stats.chunks < 56);
    assert_true(stats.bytes_index_disk >= stats.bytes_index);
    assert_int_equal(count_findings(f->store), 0);
    root = store_image(f->store, data, PAGES / 2 * PAGE, NULL, NULL);
    assert_true(image_equals(f->store, &root, data, PAGES / 2 * PAGE));
    free(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_INDEX(test_same_rows_less_space),
        WITH_INDEX(test_holes),
        WITH_INDEX(test_old_reader),
        WITH_INDEX(test_killed_and_failed),
        WITH_INDEX(test_beside_others),
        cmocka_unit_test_setup_teardown(test_gc_tidies, fixture_setup,
                                        fixture_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
