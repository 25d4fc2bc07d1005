/*
 * The index of a small store with something changed in it, in this very
 * process: every bit of every page's head, of the places and of the heads of
 * rows, bits elsewhere, pages that are missing, changed places or point
 * where they should not. Then either the check says so, or LMDB reads the rows
 * that were there. A key or value with another bit in it may get past the
 * check; verify finds it, unless it is a number that means nothing to others.
 *
 * LMDB is only let near a file that the check found sound: were that wrong
 * this process would die.
 */

#include "unit/store_fixture.h"

#include "store/index_check.h"
#include "store/index_internal.h"
#include "store/store_internal.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { STEP = 31, RANDOM_BITS = 400 };
#else
enum { STEP = 1, RANDOM_BITS = 10000 };
#endif

enum { IMAGE_PAGES = 300, SIZE_MAX_INDEX = 1 << 20 };

struct victim {
    struct store_fixture *f;
    char file[400]; /* the index's data */
    int fd;
    uint8_t *data;
    size_t size;
    uint64_t pages; /* of 4096 bytes, up to the last one in use */
    uint64_t rows;  /* a sum over all of them */
};

/* ---- the victim ------------------------------------------------------- */

static int setup(void **state)
{
    struct victim *v = vn_alloc(sizeof(*v));
    vn_auto(free) uint8_t *image = vn_alloc(IMAGE_PAGES * PAGE);
    struct vn_err err = VN_ERR_INIT;
    struct map_root root;
    struct stat st;

    if (fixture_setup((void **)&v->f) < 0)
        return -1;
    for (unsigned i = 0; i < IMAGE_PAGES; i++)
        fill_random(image + i * PAGE, 16, i + 1);
    root = store_image(v->f->store, image, IMAGE_PAGES * PAGE, NULL, NULL);
    commit_image(v->f->store, "gone@1", &root);
    commit_image(v->f->store, "lab@1", &root);
    commit_image(v->f->store, "lab@2", &root);
    commit_image(v->f->store, "other", &root);
    if (store_delete(v->f->store, "gone@1", &err) < 0)
        return -1;
    store_close(vn_steal(&v->f->store));
    snprintf(v->file, sizeof(v->file), "%s/index/data.mdb", v->f->path);
    v->fd = open(v->file, O_RDWR);
    v->data = vn_alloc(SIZE_MAX_INDEX);
    if (v->fd < 0 || fstat(v->fd, &st) < 0 || st.st_size > SIZE_MAX_INDEX ||
        pread(v->fd, v->data, SIZE_MAX_INDEX, 0) != st.st_size)
        return -1;
    v->size = (size_t)st.st_size;
    *state = v;
    return 0;
}

static int teardown(void **state)
{
    struct victim *v = *state;

    close(v->fd);
    free(v->data);
    fixture_teardown((void **)&v->f);
    free(v);
    return 0;
}

static void write_at(const struct victim *v, size_t at, const void *data,
                     size_t size)
{
    assert_int_equal(pwrite(v->fd, data, size, (off_t)at), size);
}

static void restore(const struct victim *v)
{
    write_at(v, 0, v->data, v->size);
    assert_int_equal(ftruncate(v->fd, (off_t)v->size), 0);
}

static int check(const struct victim *v, struct vn_err *err)
{
    err->code = 0;
    return index_check_file(v->fd, "x", err);
}

/* ---- what LMDB reads --------------------------------------------------- */

static void mix(uint64_t *sum, const MDB_val *value)
{
    const uint8_t *at = value->mv_data;

    for (size_t i = 0; i < value->mv_size; i++)
        *sum = (*sum ^ at[i]) * 0x100000001b3u;
    *sum = (*sum ^ value->mv_size) * 0x100000001b3u;
}

static void sum_table(MDB_txn *txn, MDB_dbi table, uint64_t *sum)
{
    MDB_cursor *cursor;
    MDB_val key;
    MDB_val value;

    assert_int_equal(mdb_cursor_open(txn, table, &cursor), 0);
    while (mdb_cursor_get(cursor, &key, &value, MDB_NEXT) == 0) {
        MDB_dbi below;
        char name[64] = "";

        mix(sum, &key);
        if (table != 1 || key.mv_size >= sizeof(name)) {
            mix(sum, &value);
            continue;
        }
        memcpy(name, key.mv_data, key.mv_size);
        assert_int_equal(mdb_dbi_open(txn, name, 0, &below), 0);
        sum_table(txn, below, sum);
    }
    mdb_cursor_close(cursor);
}

/* All rows of all tables and of the free list. */
static uint64_t sum_rows(const struct victim *v)
{
    uint64_t sum = 0xcbf29ce484222325u;
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi tables;

    assert_int_equal(mdb_env_create(&env), 0);
    mdb_env_set_maxdbs(env, 16);
    mdb_env_set_mapsize(env, 1 << 30);
    assert_int_equal(
        mdb_env_open(env, v->file, MDB_NOSUBDIR | MDB_RDONLY | MDB_NOLOCK, 0),
        0);
    assert_int_equal(mdb_txn_begin(env, NULL, MDB_RDONLY, &txn), 0);
    assert_int_equal(mdb_dbi_open(txn, NULL, 0, &tables), 0);
    sum_table(txn, 0, &sum);
    sum_table(txn, tables, &sum);
    mdb_txn_abort(txn);
    mdb_env_close(env);
    return sum;
}

/* ---- what the store makes of it ---------------------------------------- */

static void ignore(void *context, const char *sentence)
{
    (void)context;
    (void)sentence;
}

/* Opened and verified; true: something was found. */
static bool store_finds(const struct victim *v, struct vn_err *err)
{
    const struct store_verify_opts opts = {.finding = ignore, .fast = true};
    struct store *store = store_open(v->f->path, err);
    uint64_t findings = 0;
    bool failed;

    if (!store)
        return true;
    failed = store_verify(store, &opts, &findings, err) < 0;
    store_close(store);
    return failed || findings > 0;
}

/* Damage that the check must see; opening then says what to do. */
static void assert_found(const struct victim *v, const char *what, size_t at)
{
    struct vn_err err = VN_ERR_INIT;

    if (check(v, &err) == 0)
        fail_msg("%s at %zu: not found", what, at);
    assert_int_equal(err.code, VN_E_CORRUPT);
    assert_true(store_finds(v, &err));
    if (err.code != VN_E_CORRUPT || !strstr(err.msg, "vnstore repair"))
        fail_msg("%s at %zu: %s", what, at, err.msg);
}

/* ---- bits -------------------------------------------------------------- */

struct tally {
    unsigned found;   /* by the check */
    unsigned same;    /* no row is another */
    unsigned changed; /* a row is, and the check cannot know */
    unsigned missed;  /* of these, by verify too */
};

/* A bit of the file is changed, looked at and put back. */
static void try_bit(const struct victim *v, uint64_t bit, struct tally *t)
{
    uint8_t byte = v->data[bit / 8] ^ (uint8_t)(1u << bit % 8);
    struct vn_err err = VN_ERR_INIT;
    int r;

    write_at(v, bit / 8, &byte, 1);
    r = check(v, &err);
    if (r < 0 && t->found++ % 512 == 0)
        assert_true(store_finds(v, &err));
    else if (r == 0 && sum_rows(v) == v->rows)
        t->same++;
    else if (r == 0) {
        t->changed++;
        t->missed += !store_finds(v, &err);
        restore(v); /* opening may have written */
    }
    write_at(v, bit / 8, v->data + bit / 8, 1);
}

static bool is_tree_page(const struct victim *v, uint64_t page, bool *ret_leaf,
                         unsigned *ret_count)
{
    const uint8_t *at = v->data + page * PAGE;

    *ret_leaf = at[10] == 2;
    return lmdb_page_check(at, PAGE, page, *ret_leaf, ret_count) == NULL;
}

/* Bits of bytes first to first + count - 1. */
static void try_bytes(const struct victim *v, size_t first, size_t count,
                      struct tally *t)
{
    for (uint64_t bit = 8 * first; bit < 8 * (first + count); bit += STEP)
        try_bit(v, bit, t);
}

static void print_tally(const char *what, const struct tally *t)
{
    print_message("%s: %u found, %u without effect, %u others, of which verify "
                  "missed %u\n",
                  what, t->found, t->same, t->changed, t->missed);
}

/* Which pages are in use? Those that are missed when they are zeros. */
static unsigned find_used(const struct victim *v, uint64_t used[])
{
    static const uint8_t zeros[PAGE];
    unsigned count = 0;

    for (uint64_t page = 2; page < v->size / PAGE; page++) {
        struct vn_err err = VN_ERR_INIT;

        write_at(v, page * PAGE, zeros, PAGE);
        if (check(v, &err) < 0)
            used[count++] = page;
        write_at(v, page * PAGE, v->data + page * PAGE, PAGE);
    }
    return count;
}

static void test_every_bit_of_heads(void **state)
{
    struct victim *v = *state;
    uint64_t used[SIZE_MAX_INDEX / PAGE];
    unsigned pages = find_used(v, used);
    struct tally t = {.found = 0};

    v->rows = sum_rows(v);
    try_bytes(v, 0, LMDB_META_SIZE, &t);
    try_bytes(v, PAGE, LMDB_META_SIZE, &t);
    for (unsigned i = 0; i < pages; i++) {
        size_t at = used[i] * PAGE;
        unsigned count;
        bool leaf;

        assert_true(is_tree_page(v, used[i], &leaf, &count));
        try_bytes(v, at, LMDB_PAGE_HEAD + 2 * count, &t);
        for (unsigned j = 0; j < count; j++) {
            struct lmdb_node node = lmdb_page_node(v->data + at, j, leaf);

            try_bytes(v, (size_t)(node.key - v->data) - 8, 8, &t);
        }
    }
    print_tally("heads", &t);
    assert_true(pages >= 12 && t.found > 20000 / STEP);
    /* No row becomes another one. What has no effect is the older meta page,
     * the size of the map, and two bytes of each head that LMDB never reads. */
    assert_int_equal(t.changed, 0);
    assert_true(t.same <= 2 * 8 * LMDB_META_SIZE + 16 * pages);
}

/* A mark that is too high is all that nobody sees: of a series, nearly. */
static void test_random_bits(void **state)
{
    struct victim *v = *state;
    struct tally t = {.found = 0};
    uint64_t random = 1;

    v->rows = sum_rows(v);
    for (unsigned i = 0; i < RANDOM_BITS; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        try_bit(v, (random >> 16) % (v->size * 8), &t);
    }
    print_tally("random bits", &t);
    assert_true(t.found > 0 && t.same > 0 && t.changed > 0);
    assert_true(t.missed * 20 <= t.changed + 60);
}

/* ---- pages ------------------------------------------------------------- */

/* The check finds it, or it matters to nobody. True: found. */
static bool found_or_same(const struct victim *v, const char *what, size_t at)
{
    struct vn_err err = VN_ERR_INIT;

    if (check(v, &err) == 0) {
        assert_int_equal(sum_rows(v), v->rows);
        return false;
    }
    assert_found(v, what, at);
    return true;
}

static void test_garbage_and_cuts(void **state)
{
    struct victim *v = *state;
    unsigned found = 0;
    uint8_t page[PAGE];

    v->rows = sum_rows(v);
    for (size_t at = 0; at + PAGE <= v->size; at += PAGE)
        for (unsigned how = 0; how < 3; how++) {
            memset(page, how ? 0xff : 0, PAGE);
            if (how == 2)
                fill_random(page, PAGE, at + 1);
            write_at(v, at, page, PAGE);
            found += found_or_same(v, "garbage", at);
            restore(v);
        }
    assert_true(found > 3 * 12);
    found = 0;
    for (size_t size = 0; size < v->size; size += size % PAGE ? PAGE - 9 : 9) {
        assert_int_equal(ftruncate(v->fd, (off_t)size), 0);
        found += found_or_same(v, "cut", size);
        restore(v);
    }
    assert_true(found > v->size / PAGE);
}

static void test_pages_change_places(void **state)
{
    struct victim *v = *state;
    uint64_t used[SIZE_MAX_INDEX / PAGE];
    unsigned count = find_used(v, used);
    struct vn_err err = VN_ERR_INIT;
    uint8_t page[PAGE];

    assert_true(count >= 12);
    for (unsigned i = 0; i < count; i++)
        for (unsigned j = 0; j < count; j++) {
            const uint8_t *from = v->data + used[i] * PAGE;

            if (i == j)
                continue;
            /* The one over the other, then both, then with the right number. */
            write_at(v, used[j] * PAGE, from, PAGE);
            assert_found(v, "copied", used[j]);
            write_at(v, used[i] * PAGE, v->data + used[j] * PAGE, PAGE);
            assert_found(v, "swapped", used[j]);
            restore(v);
            memcpy(page, from, PAGE);
            memcpy(page, &used[j], 8);
            write_at(v, used[j] * PAGE, page, PAGE);
            /* Two tables may have rows of one shape: then verify sees it. */
            assert_true(store_finds(v, &err));
            restore(v);
        }
}

/* Write other pages' numbers, of `size` bytes, at `at`. */
static void point_elsewhere(const struct victim *v, size_t at, size_t size)
{
    uint64_t others[] = {0, 1, at / PAGE, v->size / PAGE, 1ull << 40};
    uint64_t now = 0;

    memcpy(&now, v->data + at, size);
    for (unsigned i = 0; i < VN_COUNT(others); i++) {
        write_at(v, at, &others[i], size);
        assert_found(v, "points to a wrong page", at);
    }
    for (uint64_t page = 2; page < v->size / PAGE; page++) {
        if (page == now)
            continue;
        write_at(v, at, &page, size); /* of another tree, or free */
        assert_found(v, "points to another page", at);
    }
    write_at(v, at, v->data + at, size);
}

/* What a tree's record says, changed. */
static void change_record(const struct victim *v, size_t at)
{
    static const uint8_t sizes[][2] = {{4, 2},  {6, 2},  {8, 8},
                                       {16, 8}, {24, 8}, {32, 8}};
    uint64_t root;

    for (unsigned i = 0; i < VN_COUNT(sizes); i++) {
        uint64_t number = 0;

        memcpy(&number, v->data + at + sizes[i][0], sizes[i][1]);
        number++;
        write_at(v, at + sizes[i][0], &number, sizes[i][1]);
        assert_found(v, "a tree's record", at + sizes[i][0]);
        restore(v);
    }
    memcpy(&root, v->data + at + 40, 8);
    if (root != LMDB_NO_PAGE)
        point_elsewhere(v, at + 40, 8);
}

static void test_wrong_pointers(void **state)
{
    struct victim *v = *state;
    uint64_t used[SIZE_MAX_INDEX / PAGE];
    unsigned count = find_used(v, used);
    size_t meta =
        lmdb_meta_txnid(v->data) > lmdb_meta_txnid(v->data + PAGE) ? 0 : PAGE;
    unsigned children = 0;
    unsigned tables = 0;

    change_record(v, meta + 16 + 24);
    change_record(v, meta + 16 + 72);
    for (unsigned i = 0; i < count; i++) {
        bool leaf;
        unsigned n;

        assert_true(is_tree_page(v, used[i], &leaf, &n));
        for (unsigned j = 0; j < n; j++) {
            struct lmdb_node node =
                lmdb_page_node(v->data + used[i] * PAGE, j, leaf);

            if (!leaf) {
                children++;
                point_elsewhere(v, (size_t)(node.key - v->data) - 8, 6);
            } else if (node.tree) {
                tables++;
                change_record(v, (size_t)(node.data - v->data));
            }
        }
    }
    assert_true(children >= 3);
    assert_int_equal(tables, 8);
}

/* ---- rows that LMDB takes for good ------------------------------------- */

/* Overwrite a row, behind the store's back. */
static void put_row(const struct victim *v, enum index_table table, MDB_val key,
                    const void *data, size_t size)
{
    MDB_val value = {.mv_size = size, .mv_data = (void *)(uintptr_t)data};
    struct index *index = v->f->store->index;
    MDB_txn *txn;

    assert_int_equal(mdb_txn_begin(index->env, NULL, 0, &txn), 0);
    assert_int_equal(mdb_put(txn, index->tables[table], &key, &value, 0), 0);
    assert_int_equal(mdb_txn_commit(txn), 0);
}

static void repair_it(const struct victim *v)
{
    const struct store_repair_opts opts = {.finding = ignore};
    struct store_repair_counts counts;
    struct vn_err err = VN_ERR_INIT;

    store_close(vn_steal(&v->f->store));
    assert_true(store_finds(v, &err));
    assert_ok(store_repair(v->f->path, &opts, &counts, &err), &err);
    assert_true(counts.rebuilt && counts.findings > 0);
    assert_false(store_finds(v, &err));
    fixture_reopen(v->f);
}

/* Marks that do not cover what there is, and rows that cannot be: verify finds
 * them, and repair makes the index anew without being asked to. */
static void test_marks_and_rows(void **state)
{
    static const struct {
        const char *mark;
        uint64_t value;
    } wrong[] = {
        {"next_pack", 1},         {"next_seq", 1},
        {"condemned", 2},         {"next_pack", 1ull << 50},
        {"next_seq", 1ull << 63}, {"epoch", 1ull << 33},
        {"swept", 1ull << 30},
    };
    static const uint64_t numbers[] = {1, 1ull << 40};
    struct victim *v = *state;
    struct vn_err err = VN_ERR_INIT;
    struct chunk_id id = {{7}};
    uint8_t row[24 + 3] = {0};
    uint64_t seq = htobe64(77);
    char *name;

    fixture_reopen(v->f);
    for (unsigned i = 0; i < VN_COUNT(wrong); i++) {
        put_row(v, TABLE_META, index_key_text(wrong[i].mark), &wrong[i].value,
                8);
        repair_it(v);
    }
    for (unsigned i = 0; i < VN_COUNT(numbers); i++) {
        put_row(v, TABLE_SERIES, index_key_text("lab"), &numbers[i], 8);
        repair_it(v);
    }
    put_row(v, TABLE_CHUNKS, index_key_id(&id), row, INDEX_PLACE_SIZE);
    repair_it(v);
    put_row(v, TABLE_SNAPSHOTS, (MDB_val){8, &seq}, row, sizeof(row));
    repair_it(v);
    name = store_next_name(v->f->store, "lab", &err);
    assert_made(name, &err);
    assert_string_equal(name, "lab@3");
    free(name);
}

/* ---- beside writers ---------------------------------------------------- */

struct writer {
    struct index *index;
    atomic_bool end;
    atomic_uint commits;
};

static void *write_rows(void *context)
{
    struct writer *w = context;
    struct vn_err err = VN_ERR_INIT;
    uint64_t first;

    while (!atomic_load(&w->end)) {
        if (index_take_pack_ids(w->index, 1, &first, &err) < 0)
            abort();
        atomic_fetch_add(&w->commits, 1);
    }
    return NULL;
}

/* A check never takes what is being written for damage. Both go on until both
 * have done enough, however they are scheduled. */
static void test_beside_a_writer(void **state)
{
    enum { ENOUGH = 3000 / STEP };
    struct victim *v = *state;
    struct writer w = {.end = false};
    struct vn_err err = VN_ERR_INIT;
    unsigned checks;
    pthread_t thread;

    fixture_reopen(v->f);
    w.index = v->f->store->index;
    mdb_env_set_flags(w.index->env, MDB_NOSYNC, 1);
    assert_int_equal(pthread_create(&thread, NULL, write_rows, &w), 0);
    for (checks = 0; checks < ENOUGH || atomic_load(&w.commits) < ENOUGH;
         checks++)
        assert_ok(index_check(w.index, &err), &err);
    atomic_store(&w.end, true);
    pthread_join(thread, NULL);
    print_message("%u checks, %u commits\n", checks, atomic_load(&w.commits));
}

#define WITH_VICTIM(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_VICTIM(test_every_bit_of_heads),
        WITH_VICTIM(test_random_bits),
        WITH_VICTIM(test_garbage_and_cuts),
        WITH_VICTIM(test_pages_change_places),
        WITH_VICTIM(test_wrong_pointers),
        WITH_VICTIM(test_marks_and_rows),
        WITH_VICTIM(test_beside_a_writer),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
