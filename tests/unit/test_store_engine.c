/*
 * Engines: the contract of engine.h, held against the local engine and the one
 * in memory; what is special to each; and the set of marks of gc.
 */

#include "unit/store_fixture.h"

#include "common/io.h"
#include "store/engine_memory.h"
#include "store/gc_marks.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>

struct engines {
    char dir[256];
    struct engine *file;
    struct engine *memory;
    uint8_t *data; /* 16 KiB, aligned */
};

static int setup(void **state)
{
    struct engines *e = vn_alloc(sizeof(*e));
    const char *base = getenv("TMPDIR");
    struct vn_err err = VN_ERR_INIT;

    snprintf(e->dir, sizeof(e->dir), "%.200s/vnstore-test-XXXXXX",
             base ? base : "/tmp");
    if (!mkdtemp(e->dir))
        return -1;
    e->file = engine_file_open(e->dir, &err);
    e->memory = engine_memory_new(0);
    e->data = aligned_alloc(4096, 16384);
    memset(e->data, 0, 16384);
    fill_random(e->data, 10000, 1);
    *state = e;
    return e->file ? 0 : -1;
}

static int teardown(void **state)
{
    struct engines *e = *state;

    fault_set(NULL);
    engine_close(e->file);
    engine_close(e->memory);
    nftw(e->dir, fixture_remove, 16, FTW_DEPTH | FTW_PHYS);
    free(e->data);
    free(e);
    return 0;
}

/* ---- the contract ----------------------------------------------------- */

struct seen {
    uint64_t ids;   /* sum of ids */
    uint64_t bytes; /* sum of sizes */
    unsigned count;
    unsigned partial;
};

static void see(void *context, const struct engine_entry *entry)
{
    struct seen *seen = context;

    seen->ids += entry->pack_id;
    seen->bytes += entry->size;
    seen->count++;
    seen->partial += entry->partial;
}

static struct seen list(struct engine *engine)
{
    struct vn_err err = VN_ERR_INIT;
    struct seen seen = {0};

    assert_ok(engine_list(engine, see, &seen, &err), &err);
    return seen;
}

static void check_packs(struct engines *e, struct engine *engine)
{
    const uint64_t ids[] = {3, 4097, 99, 1ull << 40};
    struct vn_err err = VN_ERR_INIT;
    uint8_t got[500];
    uint64_t size;

    assert_int_equal(list(engine).count, 0);
    assert_ok(engine_put(engine, 3, e->data, 10000, &err), &err);
    assert_ok(engine_put(engine, 4097, e->data, 77, &err), &err);
    assert_ok(engine_put(engine, 1ull << 40, e->data, 4096, &err), &err);
    assert_int_equal(engine_put(engine, 3, e->data, 5, &err), -1);
    assert_int_equal(err.code, VN_E_EXISTS);
    assert_ok(engine_size(engine, 3, &size, &err), &err);
    assert_int_equal(size, 10000);
    assert_ok(engine_read(engine, 3, 9500, got, 500, &err), &err);
    assert_memory_equal(got, e->data + 9500, 500);
    assert_int_equal(engine_read(engine, 3, 9501, got, 500, &err), -1);
    assert_int_equal(err.code, VN_E_CORRUPT);
    assert_int_equal(engine_read(engine, 99, 0, got, 1, &err), -1);
    assert_int_equal(err.code, VN_E_NOT_FOUND);
    assert_int_equal(list(engine).count, 3);
    assert_int_equal(list(engine).ids, 3 + 4097 + (1ull << 40));
    assert_int_equal(list(engine).bytes, 10000 + 77 + 4096);
    /* Removing: what is not there does not matter. */
    assert_ok(engine_remove(engine, ids, 0, &err), &err);
    assert_ok(engine_remove(engine, ids, 3, &err), &err);
    assert_ok(engine_remove(engine, ids, 3, &err), &err);
    assert_int_equal(list(engine).ids, 1ull << 40);
    assert_int_equal(engine_read(engine, 3, 0, got, 1, &err), -1);
    assert_int_equal(err.code, VN_E_NOT_FOUND);
    assert_int_equal(engine_size(engine, 4097, &size, &err), -1);
    assert_int_equal(err.code, VN_E_NOT_FOUND);
    assert_ok(engine_remove(engine, ids, 4, &err), &err);
    assert_int_equal(list(engine).count, 0);
}

static void check_holds(struct engine *engine)
{
    struct vn_err err = VN_ERR_INIT;
    struct engine_hold *a;
    struct engine_hold *b;
    struct engine_holds holds;

    assert_ok(engine_holds(engine, &holds, &err), &err);
    assert_int_equal(holds.count, 0);
    assert_int_equal(holds.epoch, UINT64_MAX);
    assert_int_equal(holds.mark, UINT64_MAX);
    a = engine_hold_open(engine, &err);
    assert_ok(engine_holds(engine, &holds, &err), &err);
    assert_int_equal(holds.count, 1);
    assert_int_equal(holds.epoch, 0);
    assert_int_equal(holds.mark, 0);
    assert_ok(engine_hold_set(a, 5, 100, &err), &err);
    b = engine_hold_open(engine, &err);
    assert_ok(engine_hold_set(b, 7, 50, &err), &err);
    assert_ok(engine_holds(engine, &holds, &err), &err);
    assert_int_equal(holds.count, 2);
    assert_int_equal(holds.epoch, 5);
    assert_int_equal(holds.mark, 50);
    assert_int_equal(holds.holder, getpid());
    engine_hold_close(a);
    assert_ok(engine_holds(engine, &holds, &err), &err);
    assert_int_equal(holds.epoch, 7);
    /* A free place is taken again, with nothing of its last owner. */
    a = engine_hold_open(engine, &err);
    assert_ok(engine_holds(engine, &holds, &err), &err);
    assert_int_equal(holds.epoch, 0);
    engine_hold_close(a);
    engine_hold_close(b);
    engine_hold_close(NULL);
    assert_ok(engine_holds(engine, &holds, &err), &err);
    assert_int_equal(holds.count, 0);
}

static void check_locks(struct engine *engine)
{
    struct vn_err err = VN_ERR_INIT;
    struct engine_lock *a = engine_lock(engine, false, &err);
    struct engine_lock *b = engine_lock(engine, false, &err);

    assert_made(a, &err);
    assert_made(b, &err);
    assert_null(engine_lock(engine, true, &err));
    assert_int_equal(err.code, VN_E_STATE);
    engine_unlock(a);
    assert_null(engine_lock(engine, true, &err));
    engine_unlock(b);
    a = engine_lock(engine, true, &err);
    assert_made(a, &err);
    assert_null(engine_lock(engine, true, &err));
    assert_null(engine_lock(engine, false, &err));
    engine_unlock(a);
    engine_unlock(NULL);
    a = engine_lock(engine, false, &err);
    assert_made(a, &err);
    engine_unlock(a);
}

static void test_contract_file(void **state)
{
    struct engines *e = *state;

    check_packs(e, e->file);
    check_holds(e->file);
    check_locks(e->file);
}

static void test_contract_memory(void **state)
{
    struct engines *e = *state;

    check_packs(e, e->memory);
    check_holds(e->memory);
    check_locks(e->memory);
}

/* ---- files ------------------------------------------------------------ */

/* Holds and locks of another process, and that they end with it. */
static void test_other_processes(void **state)
{
    struct engines *e = *state;
    struct vn_err err = VN_ERR_INIT;
    struct engine_hold *own = engine_hold_open(e->file, &err);
    struct engine_holds holds;
    int pipes[2];
    pid_t child;
    char byte;

    assert_ok(engine_hold_set(own, 9, 9, &err), &err);
    assert_int_equal(pipe(pipes), 0);
    child = fork();
    if (child == 0) {
        struct engine *engine = engine_file_open(e->dir, &err);
        struct engine_hold *hold = engine_hold_open(engine, &err);

        if (!hold || engine_hold_set(hold, 3, 4, &err) < 0 ||
            !engine_lock(engine, true, &err) || write(pipes[1], "x", 1) != 1)
            _exit(1);
        pause();
        _exit(0);
    }
    assert_int_equal(read(pipes[0], &byte, 1), 1);
    assert_ok(engine_holds(e->file, &holds, &err), &err);
    assert_int_equal(holds.count, 2);
    assert_int_equal(holds.epoch, 3);
    assert_int_equal(holds.mark, 4);
    assert_int_equal(holds.holder, child);
    assert_null(engine_lock(e->file, false, &err));
    /* The child has our description, too; closing must end our hold. */
    engine_hold_close(own);
    kill(child, SIGSTOP);
    assert_ok(engine_holds(e->file, &holds, &err), &err);
    assert_int_equal(holds.count, 1);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    assert_ok(engine_holds(e->file, &holds, &err), &err);
    assert_int_equal(holds.count, 0);
    {
        struct engine_lock *lock = engine_lock(e->file, true, &err);

        assert_made(lock, &err);
        engine_unlock(lock);
    }
    close(pipes[0]);
    close(pipes[1]);
}

static void test_many_holds(void **state)
{
    enum { MANY = 300 };
    struct engines *e = *state;
    struct engine_hold *holds[MANY];
    struct vn_err err = VN_ERR_INIT;
    struct engine_holds all;

    for (unsigned i = 0; i < MANY; i++) {
        holds[i] = engine_hold_open(e->file, &err);
        assert_made(holds[i], &err);
        assert_ok(engine_hold_set(holds[i], MANY - i, 5, &err), &err);
    }
    assert_ok(engine_holds(e->file, &all, &err), &err);
    assert_int_equal(all.count, MANY);
    assert_int_equal(all.epoch, 1);
    for (unsigned i = 0; i < MANY; i++)
        engine_hold_close(holds[i]);
}

/* Space comes back although the pack was read; what is foreign stays. */
static void test_file_removed(void **state)
{
    struct engines *e = *state;
    vn_auto(free) char *temporary =
        vn_format("%s/000000000/000000000005.tmp", e->dir);
    vn_auto(free) char *link_path =
        vn_format("%s/000000000/000000000006.pack", e->dir);
    const uint64_t ids[] = {5, 7, 8};
    struct vn_err err = VN_ERR_INIT;
    uint8_t got[100];
    int fd;

    assert_ok(engine_put(e->file, 7, e->data, 10000, &err), &err);
    assert_ok(engine_put(e->file, 8, e->data, 10000, &err), &err);
    assert_ok(engine_read(e->file, 7, 0, got, 100, &err), &err);
    fd = open(temporary, O_WRONLY | O_CREAT, 0600);
    close(fd);
    assert_int_equal(symlink("/etc/passwd", link_path), 0);
    assert_int_equal(list(e->file).count, 3);
    assert_int_equal(list(e->file).partial, 1);
    fault_set("store.pack.remove:4");
    assert_int_equal(engine_remove(e->file, ids, 3, &err), -1);
    assert_int_equal(err.code, EIO);
    fault_set(NULL);
    assert_ok(engine_remove(e->file, ids, 3, &err), &err);
    assert_int_equal(list(e->file).count, 0);
    assert_int_equal(access(temporary, F_OK), -1);
    assert_int_equal(unlink(link_path), 0);
    /* No descriptor of a removed pack is kept. */
    for (fd = 3; fd < 64; fd++) {
        vn_auto(free) char *name = vn_format("/proc/self/fd/%d", fd);
        char target[512] = "";

        if (readlink(name, target, sizeof(target) - 1) > 0)
            assert_null(strstr(target, ".pack"));
    }
}

/* ---- memory ----------------------------------------------------------- */

static enum engine_outcome outcome;

static enum engine_outcome decide(void *context, enum engine_call call,
                                  uint64_t pack_id, int *code)
{
    const enum engine_call *only = context;

    (void)pack_id;
    *code = ETIMEDOUT;
    return call == *only ? outcome : ENGINE_DO;
}

static void test_memory_faults(void **state)
{
    struct engines *e = *state;
    enum engine_call call = ENGINE_PUT;
    struct vn_err err = VN_ERR_INIT;
    const uint64_t ids[] = {1, 2};
    uint8_t got[100];

    engine_memory_set_fault(e->memory, decide, &call);
    outcome = ENGINE_REFUSE;
    assert_int_equal(engine_put(e->memory, 1, e->data, 100, &err), -1);
    assert_int_equal(err.code, ETIMEDOUT);
    assert_int_equal(engine_memory_count(e->memory), 0);
    outcome = ENGINE_DO_SILENT;
    assert_int_equal(engine_put(e->memory, 1, e->data, 100, &err), -1);
    assert_int_equal(engine_memory_count(e->memory), 1);
    outcome = ENGINE_DO;
    assert_ok(engine_put(e->memory, 2, e->data, 100, &err), &err);
    call = ENGINE_READ;
    outcome = ENGINE_CORRUPT;
    assert_ok(engine_read(e->memory, 2, 0, got, 100, &err), &err);
    assert_memory_not_equal(got, e->data, 100);
    call = ENGINE_REMOVE;
    outcome = ENGINE_DO_SILENT;
    assert_int_equal(engine_remove(e->memory, ids, 2, &err), -1);
    assert_int_equal(engine_memory_count(e->memory), 1);
    engine_memory_set_fault(e->memory, NULL, NULL);
    engine_memory_add_partial(e->memory, 2, 50);
    assert_int_equal(list(e->memory).partial, 1);
    assert_int_equal(engine_memory_bytes(e->memory), 150);
    assert_ok(engine_remove(e->memory, ids, 2, &err), &err);
    assert_int_equal(engine_memory_bytes(e->memory), 0);
}

/* ---- marks ------------------------------------------------------------ */

static struct chunk_id id_of(uint64_t n)
{
    struct chunk_id id;

    fill_random(&id, sizeof(id), n);
    return id;
}

/* Even numbers are marked, many of them again and again. */
static void check_marks(const char *dir, size_t capacity, size_t count)
{
    vn_auto(gc_marks) struct gc_marks *marks = gc_marks_new(dir, capacity);
    struct vn_err err = VN_ERR_INIT;

    for (size_t i = 0; i < 3 * count; i++) {
        struct chunk_id id = id_of(2 * (i % count));

        assert_ok(gc_marks_add(marks, &id, 1, &err), &err);
    }
    assert_ok(gc_marks_seal(marks, &err), &err);
    assert_int_equal(gc_marks_count(marks), count);
    for (size_t i = 0; i < 2 * count; i++) {
        struct chunk_id id = id_of(i);

        assert_int_equal(gc_marks_has(marks, &id), i % 2 == 0);
    }
}

static void test_marks(void **state)
{
    struct engines *e = *state;
    struct seen nothing = {0};

    check_marks(e->dir, 16, 0);
    check_marks(e->dir, 16, 1);
    check_marks(e->dir, 16, 15);
    check_marks(e->dir, 16, 16);
    check_marks(e->dir, 16, 17);
    check_marks(e->dir, 16, 1000);
    check_marks(e->dir, 100, 20001);
    check_marks(e->dir, 1000, 800);
    check_marks("/nonexistent", 1000, 400); /* needs no file */
    assert_int_equal(list(e->file).count, nothing.count);
}

/* As the index asks: rising. And the extremes. */
static void test_marks_in_order(void **state)
{
    struct engines *e = *state;
    vn_auto(gc_marks) struct gc_marks *marks = gc_marks_new(e->dir, 64);
    struct vn_err err = VN_ERR_INIT;
    struct chunk_id id = {{0}};

    for (unsigned i = 0; i < 65536; i += 3) {
        id.bytes[0] = (uint8_t)(i >> 8);
        id.bytes[1] = (uint8_t)i;
        assert_ok(gc_marks_add(marks, &id, 1, &err), &err);
    }
    assert_ok(gc_marks_seal(marks, &err), &err);
    for (unsigned i = 0; i < 65536; i++) {
        id.bytes[0] = (uint8_t)(i >> 8);
        id.bytes[1] = (uint8_t)i;
        assert_int_equal(gc_marks_has(marks, &id), i % 3 == 0);
    }
    memset(&id, 0xff, sizeof(id));
    assert_false(gc_marks_has(marks, &id));
    memset(&id, 0, sizeof(id));
    assert_true(gc_marks_has(marks, &id));
    {
        vn_auto(gc_marks) struct gc_marks *lost =
            gc_marks_new("/nonexistent", 16);
        int result = 0;

        for (unsigned i = 0; i < 100 && result == 0; i++) {
            id = id_of(i);
            result = gc_marks_add(lost, &id, 1, &err);
        }
        assert_int_equal(result, -1);
        assert_int_equal(err.code, ENOENT);
    }
}

#define WITH_ENGINES(test)                                                     \
    cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_ENGINES(test_contract_file),   WITH_ENGINES(test_contract_memory),
        WITH_ENGINES(test_other_processes), WITH_ENGINES(test_many_holds),
        WITH_ENGINES(test_file_removed),    WITH_ENGINES(test_memory_faults),
        WITH_ENGINES(test_marks),           WITH_ENGINES(test_marks_in_order),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
