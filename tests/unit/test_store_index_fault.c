/*
 * Damage that comes after an index was opened, or lies deep in one that is too
 * large to be looked at whole: a program that asked for it ends with its
 * status and a sentence that names the index, and never with a bare signal.
 * Faults of other kinds stay what they were.
 */

#include "unit/store_index_fixture.h"

#include "store/index_check.h"
#include "store/index_internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>

enum {
    STATUS = 77,  /* of a child that ended with the sentence */
    FAILED = 3,   /* of one that got an error */
    READ_ALL = 4, /* of one that noticed nothing */
    SMALL = 20000,
    BIG = 1100000, /* chunks: more than INDEX_CHECK_AT_OPEN */
};

/* ---- a child ----------------------------------------------------------- */

struct ended {
    int status;       /* as waitpid() says */
    char stderr[512]; /* what it said */
};

typedef void indexed_fn(struct indexed *x);

/* Run in a child that asked for the sentence. */
static struct ended run_child(struct indexed *x, indexed_fn *fn)
{
    struct ended ret = {.status = 0};
    size_t size = 0;
    ssize_t n;
    pid_t child;
    int said[2];

    assert_int_equal(pipe(said), 0);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGABRT, SIG_DFL); /* not cmocka's */
        signal(SIGSEGV, SIG_DFL);
        signal(SIGBUS, SIG_DFL);
        dup2(said[1], STDERR_FILENO);
        store_catch_index_faults("program", STATUS);
        alarm(100);
        fn(x);
        _exit(READ_ALL);
    }
    close(said[1]);
    while ((n = read(said[0], ret.stderr + size,
                     sizeof(ret.stderr) - 1 - size)) > 0)
        size += (size_t)n;
    close(said[0]);
    assert_int_equal(waitpid(child, &ret.status, 0), child);
    return ret;
}

static void assert_said(const struct indexed *x, const struct ended *ended)
{
    vn_auto(free) char *wanted = vn_format(
        "program: the index '%s' is damaged: run 'vnstore repair'\n", x->dir);

    assert_true(WIFEXITED(ended->status));
    assert_int_equal(WEXITSTATUS(ended->status), STATUS);
    assert_string_equal(ended->stderr, wanted);
}

/* ---- what it does ------------------------------------------------------ */

static char *data_of(const struct indexed *x)
{
    return vn_format("%s/data.mdb", x->dir);
}

static struct index *open_index(struct indexed *x)
{
    struct vn_err err = VN_ERR_INIT;
    struct index *index = index_open(x->dir, store_id, &err);

    if (!index)
        _exit(FAILED);
    return index;
}

static void read_every_row(struct index *index)
{
    struct vn_err err = VN_ERR_INIT;
    struct index_chunk chunks[500];
    struct chunk_id last;
    size_t count;
    bool begun = false;

    do {
        if (index_list_chunks(index, begun ? &last : NULL, 500, chunks, &count,
                              &err) < 0)
            _exit(FAILED);
        begun = true;
        if (count > 0)
            last = chunks[count - 1].id;
    } while (count == 500);
}

/* Opened while it was whole; then its file is cut. */
static void cut_and_read(struct indexed *x)
{
    struct index *index = open_index(x);
    char *data = data_of(x);

    if (truncate(data, 2 * 4096) < 0)
        _exit(1);
    read_every_row(index);
}

/* The same with garbage: as many ways to end as there are pages. */
static void garble_and_read(struct indexed *x)
{
    struct index *index = open_index(x);
    char *data = data_of(x);
    int fd = open(data, O_WRONLY);
    struct stat st;
    uint8_t page[4096];

    if (fd < 0 || fstat(fd, &st) < 0)
        _exit(1);
    for (off_t at = 2 * 4096; at < st.st_size; at += 4096) {
        fill_random(page, sizeof(page), (uint64_t)at);
        page[10] = 2; /* a leaf */
        page[11] = 0;
        if (pwrite(fd, page, sizeof(page), at) != sizeof(page))
            _exit(1);
    }
    read_every_row(index);
}

/* A branch without rows: LMDB asserts that there are some. */
static void empty_and_read(struct indexed *x)
{
    struct index *index = open_index(x);
    char *data = data_of(x);
    int fd = open(data, O_RDWR);
    struct stat st;
    uint8_t page[4096];

    if (fd < 0 || fstat(fd, &st) < 0)
        _exit(1);
    for (off_t at = 2 * 4096; at < st.st_size; at += 4096) {
        if (pread(fd, page, sizeof(page), at) != sizeof(page))
            _exit(1);
        page[12] = 16;
        page[13] = 0;
        if (page[10] == 1 && pwrite(fd, page, sizeof(page), at) < 0)
            _exit(1);
    }
    read_every_row(index);
}

static void read_it(struct indexed *x)
{
    read_every_row(open_index(x));
}

static void fault_elsewhere(struct indexed *x)
{
    volatile int *nowhere =
        mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct index *index = open_index(x);

    (void)index;
    *nowhere = 1;
}

static void raise_it(struct indexed *x)
{
    (void)x;
    raise(SIGBUS);
}

/* ---- tests ------------------------------------------------------------- */

static int setup_rows(void **state)
{
    struct vn_err err = VN_ERR_INIT;
    struct indexed *x;

    if (index_setup(state) < 0)
        return -1;
    x = *state;
    if (add_chunks(x->index, 0, SMALL, &err) < 0)
        return -1;
    index_close(vn_steal(&x->index)); /* a child opens it by itself */
    return 0;
}

static void test_cut(void **state)
{
    struct indexed *x = *state;
    struct ended ended = run_child(x, cut_and_read);

    assert_said(x, &ended);
}

static void test_assertion(void **state)
{
    struct indexed *x = *state;
    struct ended ended = run_child(x, empty_and_read);

    assert_said(x, &ended);
}

static void test_garbage(void **state)
{
    struct indexed *x = *state;
    struct ended ended = run_child(x, garble_and_read);

    assert_true(WIFEXITED(ended.status));
    if (WEXITSTATUS(ended.status) == STATUS)
        assert_said(x, &ended);
    else
        assert_int_equal(WEXITSTATUS(ended.status), FAILED);
}

static void test_other_faults(void **state)
{
    struct indexed *x = *state;
    struct ended ended = run_child(x, fault_elsewhere);

    assert_null(strstr(ended.stderr, "damaged"));
    assert_true(WIFSIGNALED(ended.status));
    assert_int_equal(WTERMSIG(ended.status), SIGSEGV);
    ended = run_child(x, raise_it);
    assert_true(WIFSIGNALED(ended.status));
    assert_int_equal(WTERMSIG(ended.status), SIGBUS);
}

/* The mapping is known while it is there, and a page before and behind it. */
static void test_addresses(void **state)
{
    struct indexed *x = *state;
    const char *map;
    int here;

    index_reopen(x);
    map = x->index->mapping;
    assert_non_null(map);
    /* LMDB's mapping begins with meta page 0. */
    assert_int_equal(lmdb_load_u64((const uint8_t *)map), 0);
    assert_int_equal(lmdb_load_u64((const uint8_t *)map + 4096), 1);
    assert_string_equal(index_owns_address(map), x->dir);
    assert_string_equal(index_owns_address(map + 123456), x->dir);
    assert_non_null(x->index->map.bytes);
    assert_string_equal(index_owns_address(x->index->map.bytes + 5000), x->dir);
    assert_null(index_owns_address(&here));
    assert_null(index_owns_address(NULL));
    index_close(vn_steal(&x->index));
    assert_null(index_owns_address(map));
}

/* Garbage in one leaf, deep in an index that is large. */
static void damage_leaf(const char *data)
{
    int fd = open(data, O_RDWR);
    uint8_t page[4096];
    off_t at = 30000000 / 4096 * 4096;

    assert_true(fd >= 0);
    do {
        at += 4096;
        assert_int_equal(pread(fd, page, sizeof(page), at), sizeof(page));
    } while (page[10] != 2 || page[12] < 60);
    memset(page + 16, 0xff, sizeof(page) - 16);
    assert_int_equal(pwrite(fd, page, sizeof(page), at), sizeof(page));
    close(fd);
}

static void test_large(void **state)
{
    struct indexed *x = *state;
    vn_auto(free) char *data = data_of(x);
    struct vn_err err = VN_ERR_INIT;
    struct ended ended;
    struct stat st;

    index_reopen(x);
    assert_ok(add_chunks(x->index, SMALL, BIG, &err), &err);
    assert_int_equal(stat(data, &st), 0);
    assert_true((uint64_t)st.st_size > INDEX_CHECK_AT_OPEN);
    assert_ok(index_check(x->index, &err), &err);
    index_close(vn_steal(&x->index));
    damage_leaf(data);
    /* It can be opened, since only its top is looked at; not verified. */
    index_reopen(x);
    assert_int_equal(index_check(x->index, &err), -1);
    assert_int_equal(err.code, VN_E_CORRUPT);
    assert_non_null(strstr(err.msg, "data.mdb"));
    assert_non_null(strstr(err.msg, "page "));
    index_close(vn_steal(&x->index));
    ended = run_child(x, read_it);
    assert_true(WIFEXITED(ended.status));
    if (WEXITSTATUS(ended.status) == STATUS)
        assert_said(x, &ended);
    else
        assert_int_equal(WEXITSTATUS(ended.status), FAILED);
}

#define WITH_ROWS(test)                                                        \
    cmocka_unit_test_setup_teardown(test, setup_rows, index_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_ROWS(test_cut),       WITH_ROWS(test_assertion),
        WITH_ROWS(test_garbage),   WITH_ROWS(test_other_faults),
        WITH_ROWS(test_addresses), WITH_ROWS(test_large),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
