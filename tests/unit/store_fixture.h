#ifndef TESTS_UNIT_STORE_FIXTURE_H
#define TESTS_UNIT_STORE_FIXTURE_H

/*
 * A fresh store in a temporary directory, for the tests of store/. Setup and
 * teardown for cmocka; helpers that assert that what must succeed does.
 */

#include "common/auto.h"
#include "common/fault.h"
#include "store/store.h"

#include <ftw.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define PAGE     STORE_PAGE_SIZE
#define UNUSED   __attribute__((unused))
#define TEST_MIB (1024u * 1024u)

struct store_fixture {
    char dir[256];  /* holds the store and whatever a test adds */
    char path[300]; /* the store */
    struct store *store;
};

#define assert_ok(result, err)                                                 \
    do {                                                                       \
        if ((result) != 0)                                                     \
            fail_msg("%s", (err)->msg);                                        \
    } while (0)

#define assert_made(pointer, err)                                              \
    do {                                                                       \
        if (!(pointer))                                                        \
            fail_msg("%s", (err)->msg);                                        \
    } while (0)

UNUSED static int fixture_setup(void **state)
{
    struct store_fixture *f = vn_alloc(sizeof(*f));
    const char *base = getenv("TMPDIR");
    struct vn_err err = VN_ERR_INIT;

    fault_set(NULL);
    snprintf(f->dir, sizeof(f->dir), "%.200s/vnstore-test-XXXXXX",
             base ? base : "/tmp");
    if (!mkdtemp(f->dir))
        return -1;
    snprintf(f->path, sizeof(f->path), "%s/store", f->dir);
    if (store_init(f->path, &err) < 0 ||
        !(f->store = store_open(f->path, &err))) {
        fprintf(stderr, "%s\n", err.msg);
        return -1;
    }
    *state = f;
    return 0;
}

static int fixture_remove(const char *path, const struct stat *st, int type,
                          struct FTW *where)
{
    (void)st;
    (void)type;
    (void)where;
    return remove(path);
}

UNUSED static int fixture_teardown(void **state)
{
    struct store_fixture *f = *state;

    fault_set(NULL);
    store_close(f->store);
    nftw(f->dir, fixture_remove, 16, FTW_DEPTH | FTW_PHYS);
    free(f);
    return 0;
}

UNUSED static void fixture_reopen(struct store_fixture *f)
{
    struct vn_err err = VN_ERR_INIT;

    store_close(f->store);
    f->store = store_open(f->path, &err);
    assert_made(f->store, &err);
}

/* The same bytes for the same seed. */
UNUSED static void fill_random(void *data, size_t size, uint64_t seed)
{
    uint64_t x = seed * 0x9e3779b97f4a7c15ull + 0x1234567;
    uint8_t *p = data;

    for (size_t i = 0; i < size; i++) {
        if (i % 8 == 0) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
        }
        p[i] = (uint8_t)(x >> (8 * (i % 8)));
    }
}

/* The same, about half of it compressible. */
UNUSED static void fill_half(void *data, size_t size, uint64_t seed)
{
    uint8_t *p = data;

    fill_random(data, size, seed);
    for (size_t i = 0; i + PAGE <= size; i += PAGE)
        memset(p + i + PAGE / 2, (int)seed, PAGE / 2);
}

UNUSED static struct map_root put_image(struct store_writer *writer,
                                        const void *data, size_t size,
                                        const struct map_root *parent)
{
    struct vn_err err = VN_ERR_INIT;
    struct image_writer *image = image_writer_open(writer, size, parent, &err);
    struct map_root root = {0};

    assert_made(image, &err);
    assert_ok(image_writer_put(image, 0, data, size, &err), &err);
    assert_ok(image_writer_finish(image, &root, &err), &err);
    image_writer_free(image);
    assert_int_equal(root.size, size);
    return root;
}

/* Put, flush, and tell what it cost. */
UNUSED static struct map_root store_image(struct store *store, const void *data,
                                          size_t size,
                                          const struct map_root *parent,
                                          struct store_counts *ret_counts)
{
    struct vn_err err = VN_ERR_INIT;
    struct store_writer *writer = store_writer_open(store, &err);
    struct map_root root;

    assert_made(writer, &err);
    root = put_image(writer, data, size, parent);
    assert_ok(store_writer_flush(writer, &err), &err);
    if (ret_counts)
        store_writer_counts(writer, ret_counts);
    store_writer_free(writer);
    return root;
}

/* Does the image read back as these bytes? */
UNUSED static bool image_equals(struct store *store,
                                const struct map_root *root, const void *data,
                                size_t size)
{
    struct vn_err err = VN_ERR_INIT;
    struct image_reader *reader = image_reader_open(store, root, &err);
    uint8_t *got = vn_alloc(size);
    bool equal = reader && root->size == size &&
                 image_reader_read(reader, 0, got, size, &err) == 0 &&
                 memcmp(got, data, size) == 0;

    if (!equal && err.code)
        fprintf(stderr, "image_equals: %s\n", err.msg);
    image_reader_free(reader);
    free(got);
    return equal;
}

UNUSED static void commit_image(struct store *store, const char *name,
                                const struct map_root *root)
{
    struct vn_err err = VN_ERR_INIT;
    json_t *manifest = manifest_new(name, "files");

    manifest_add(manifest, "image", root);
    assert_ok(store_commit(store, manifest, &err), &err);
    json_decref(manifest);
}

UNUSED static void print_finding(void *context, const char *sentence)
{
    (void)context;
    fprintf(stderr, "finding: %s\n", sentence);
}

/* Number of findings of the whole store, printed. */
UNUSED static uint64_t count_findings(struct store *store)
{
    struct store_verify_opts opts = {.finding = print_finding};
    struct vn_err err = VN_ERR_INIT;
    uint64_t findings = 0;

    assert_ok(store_verify(store, &opts, &findings, &err), &err);
    return findings;
}

/* ---- how tests are run -------------------------------------------------- */

UNUSED static void use_fast_disk(void)
{
    /* What is tested does not depend on the disk; fsync in RAM is quick. */
    if (access("/dev/shm", W_OK) == 0)
        setenv("TMPDIR", "/dev/shm", 0);
}

/* The group with 1, 3 and 8 threads; yields how many tests failed. */
UNUSED static int run_by_threads(const struct CMUnitTest *tests, size_t count)
{
    static const char *const threads[] = {"1", "3", "8"};
    int failed = 0;

    for (size_t i = 0; i < VN_COUNT(threads); i++) {
        setenv("VNSTORE_THREADS", threads[i], 1);
        failed += _cmocka_run_group_tests(threads[i], tests, count, NULL, NULL);
    }
    return failed;
}

/* ---- children that are killed ------------------------------------------ */

/* What a child does. */
typedef int child_fn(void *context, struct vn_err *err);

/*
 * Fork a child that does it with a fault armed. True: the fault killed it;
 * false: it came to its end, and did not fail. Handles on stores that are open
 * now are not for the child.
 */
UNUSED static bool killed_at(const char *spec, child_fn *work, void *context)
{
    struct vn_err err = VN_ERR_INIT;
    int status = 0;
    pid_t child = fork();

    if (child == 0) {
        fault_set(spec);
        if (work(context, &err) < 0) {
            fprintf(stderr, "%s: %s\n", spec, err.msg);
            _exit(1);
        }
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFSIGNALED(status)) {
        assert_int_equal(WTERMSIG(status), SIGKILL);
        return true;
    }
    assert_int_equal(WEXITSTATUS(status), 0);
    return false;
}

#endif
