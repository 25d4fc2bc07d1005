/*
 * The second implementation, tests/verify/store.py, reads what ours wrote,
 * agrees that it is whole, and finds damage. Skipped without python3.
 */

#include "unit/store_fixture.h"

#include <fcntl.h>
#include <limits.h>

static char script[PATH_MAX];

/* The script lies beside the build tree's parent: SOURCE/build/NAME/bin. */
static bool find_script(void)
{
    char self[PATH_MAX / 2];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    char *slash;

    if (n < 0)
        return false;
    self[n] = 0;
    slash = strrchr(self, '/');
    *slash = 0;
    snprintf(script, sizeof(script), "%s/../../../tests/verify/store.py", self);
    return access(script, R_OK) == 0 &&
           system("python3 -c pass >/dev/null 2>&1") == 0;
}

/* Run the script with stdout into a file; its exit status. */
static int run(struct store_fixture *f, const char *args)
{
    vn_auto(free) char *command =
        vn_format("python3 -B '%s' %s >'%s/out' 2>&1", script, args, f->dir);
    int status = system(command);

    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static int setup(void **state)
{
    uint8_t *data = vn_alloc(3 * TEST_MIB);
    struct store_fixture *f;
    struct map_root root;

    if (fixture_setup(state) < 0)
        return -1;
    f = *state;
    fill_half(data, 10 * PAGE, 1);
    fill_random(data + 2 * TEST_MIB + 3 * PAGE, 7 * PAGE + 99, 2);
    root =
        store_image(f->store, data, 2 * TEST_MIB + 10 * PAGE + 99, NULL, NULL);
    commit_image(f->store, "lab@1", &root);
    free(data);
    return 0;
}

/* The same after gc has compressed it by zstd, at the lowest and the highest
 * level: other kinds of blocks and tables. */
static void test_reads_zstd(void **state)
{
    struct store_fixture *f = *state;
    struct store_gc_opts opts = {.threshold_percent = STORE_GC_THRESHOLD};
    vn_auto(free) char *path = vn_format("'%s'", f->path);
    const size_t size = 25 * PAGE;
    vn_auto(free) uint8_t *data = vn_alloc(size);
    struct store_gc_counts counts;
    struct vn_err err = VN_ERR_INIT;

    if (!find_script())
        skip();
    for (unsigned level = 1; level <= STORE_GC_LEVEL_MAX; level += 18) {
        vn_auto(free) char *name = vn_format("text@%u", level);
        struct map_root root;

        fill_random(data, size, level);
        for (size_t i = 0; i < size; i++)
            data[i] = (uint8_t) "etaoinshrdlucmf "[data[i] & data[i] >> 4 & 15];
        root = store_image(f->store, data, size, NULL, NULL);
        commit_image(f->store, name, &root);
        opts.recompress_level = level;
        assert_ok(store_gc(f->store, &opts, &counts, &err), &err);
        assert_true(counts.chunks_recompressed >= 25);
        assert_int_equal(run(f, path), 0);
    }
}

static void test_reads_a_whole_store(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) char *cat = vn_format("--cat '%s' lab@1 image", f->path);
    vn_auto(free) char *path = vn_format("'%s'", f->path);
    vn_auto(free) char *out = vn_format("%s/out", f->dir);
    vn_auto(free) uint8_t *data = vn_alloc(3 * TEST_MIB);
    vn_auto(free) uint8_t *got = vn_alloc(3 * TEST_MIB);
    const size_t size = 2 * TEST_MIB + 10 * PAGE + 99;
    FILE *file;

    if (!find_script())
        skip();
    assert_int_equal(run(f, path), 0);
    assert_int_equal(run(f, cat), 0);
    fill_half(data, 10 * PAGE, 1);
    fill_random(data + 2 * TEST_MIB + 3 * PAGE, 7 * PAGE + 99, 2);
    file = fopen(out, "r");
    assert_non_null(file);
    assert_int_equal(fread(got, 1, 3 * TEST_MIB, file), size);
    fclose(file);
    assert_memory_equal(got, data, size);
}

/* A store whose ids are HMAC-SHA-256. */
static void test_sha256(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) char *other = vn_format("%s/sha256", f->dir);
    vn_auto(free) char *path = vn_format("'%s'", other);
    struct vn_err err = VN_ERR_INIT;
    uint8_t data[5 * PAGE];
    struct map_root root;

    if (!find_script())
        skip();
    store_close(f->store);
    assert_ok(store_init_as(other, STORE_SHA256, &err), &err);
    f->store = store_open(other, &err);
    assert_made(f->store, &err);
    fill_half(data, sizeof(data), 3);
    root = store_image(f->store, data, sizeof(data), NULL, NULL);
    commit_image(f->store, "lab@1", &root);
    assert_true(image_equals(f->store, &root, data, sizeof(data)));
    assert_int_equal(count_findings(f->store), 0);
    assert_int_equal(run(f, path), 0);
}

/* The script's last line names so many manifests. */
static void assert_manifests(struct store_fixture *f, unsigned count)
{
    vn_auto(free) char *path = vn_format("'%s'", f->path);
    vn_auto(free) char *out = vn_format("%s/out", f->dir);
    vn_auto(free) char *wanted =
        vn_format(" chunks, %u manifests, 0 findings", count);
    char line[256] = "";
    FILE *file;

    assert_int_equal(run(f, path), 0);
    file = fopen(out, "r");
    assert_non_null(fgets(line, sizeof(line), file));
    fclose(file);
    if (!strstr(line, wanted))
        fail_msg("'%s', not '%s'", line, wanted);
}

/* Deleted snapshots stay deleted for who reads packs alone; the same one
 * committed once more is there again. */
static void test_tombstones(void **state)
{
    const struct store_gc_opts opts = {.threshold_percent = 50};
    struct store_fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    struct store_gc_counts counts;
    json_t *manifest;

    if (!find_script())
        skip();
    manifest = store_load(f->store, "lab@1", &err);
    assert_made(manifest, &err);
    json_object_set_new(manifest, "name", json_string("lab@2"));
    assert_ok(store_commit(f->store, manifest, &err), &err);
    assert_manifests(f, 2);
    assert_ok(store_delete(f->store, "lab@2", &err), &err);
    assert_manifests(f, 1);
    assert_ok(store_commit(f->store, manifest, &err), &err);
    assert_manifests(f, 2);
    assert_ok(store_gc(f->store, &opts, &counts, &err), &err);
    assert_manifests(f, 2);
    assert_ok(store_delete(f->store, "lab@1", &err), &err);
    for (unsigned i = 0; i < 3; i++) {
        assert_manifests(f, 1);
        assert_ok(store_gc(f->store, &opts, &counts, &err), &err);
    }
    json_decref(manifest);
}

static void test_finds_damage(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) char *args = vn_format("--quick '%s'", f->path);
    vn_auto(free) char *pack =
        vn_format("%s/packs/000000000/000000000001.pack", f->path);
    int fd;

    if (!find_script())
        skip();
    assert_int_equal(run(f, args), 0);
    fd = open(pack, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, "x", 1, 5000), 1);
    close(fd);
    assert_int_equal(run(f, args), 1);
}

#define WITH_STORE(test)                                                       \
    cmocka_unit_test_setup_teardown(test, setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_STORE(test_reads_a_whole_store),
        WITH_STORE(test_reads_zstd),
        WITH_STORE(test_sha256),
        WITH_STORE(test_tombstones),
        WITH_STORE(test_finds_damage),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
