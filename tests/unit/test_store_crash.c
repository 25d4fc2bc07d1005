/*
 * Crash safety: a process killed, and an operation failing, at every named
 * fault point; a full disk. Afterwards the store opens, verifies, and holds
 * what was committed.
 */

#include "unit/store_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>

enum {
    PAGES_SMALL = 200, /* one pack, and the manifest's */
    PAGES_LARGE = 2600 /* 10 MiB: three packs */
};

static unsigned pages = PAGES_SMALL; /* in the second image */

static const char *const points[] = {
    "store.pack.create",   "store.pack.write",   "store.pack.sync",
    "store.pack.rename",   "store.pack.syncdir", "store.index.ids",
    "store.index.add",     "store.index.commit", "store.index.committed",
    "store.index.publish", "store.commit.check", "store.space",
};

static uint8_t *first_data;
static uint8_t *second_data;
static struct map_root first_root;

/* All but the first page. */
static void change_second(uint64_t seed)
{
    fill_random(second_data + PAGE, (PAGES_LARGE - 1) * PAGE, seed);
}

static int setup(void **state)
{
    struct store_fixture *f;

    if (fixture_setup(state) < 0)
        return -1;
    f = *state;
    first_data = vn_alloc(PAGES_LARGE * PAGE);
    second_data = vn_alloc(PAGES_LARGE * PAGE);
    fill_random(first_data, PAGES_LARGE * PAGE, 1);
    memcpy(second_data, first_data, PAGES_LARGE * PAGE);
    pages = PAGES_SMALL;
    change_second(2);
    first_root = store_image(f->store, first_data, 50 * PAGE, NULL, NULL);
    commit_image(f->store, "lab@1", &first_root);
    return 0;
}

static int teardown(void **state)
{
    free(first_data);
    free(second_data);
    return fixture_teardown(state);
}

/* Ingest and commit the second image. 0, or -1 with the error. */
static int take_snapshot(struct store *store, struct vn_err *err)
{
    vn_auto(store_writer) struct store_writer *writer =
        store_writer_open(store, err);
    vn_auto(image_writer) struct image_writer *image = NULL;
    vn_auto(json) json_t *manifest = manifest_new("lab@2", "vne");
    struct map_root root;

    if (!writer)
        return -1;
    image = image_writer_open(writer, pages * PAGE, &first_root, err);
    if (!image ||
        image_writer_put(image, 0, second_data, pages * PAGE, err) < 0 ||
        image_writer_finish(image, &root, err) < 0 ||
        store_writer_flush(writer, err) < 0)
        return -1;
    manifest_add(manifest, "image", &root);
    return store_commit(store, manifest, err);
}

/* The store is sound; lab@1 is whole; lab@2 is whole or was never there. */
static bool check_store(struct store *store)
{
    struct vn_err err = VN_ERR_INIT;
    struct map_root root;
    json_t *manifest;

    assert_int_equal(count_findings(store), 0);
    manifest = store_load(store, "lab@1", &err);
    assert_made(manifest, &err);
    assert_ok(manifest_object(manifest, "image", &root, &err), &err);
    assert_true(image_equals(store, &root, first_data, 50 * PAGE));
    json_decref(manifest);
    manifest = store_load(store, "lab@2", &err);
    if (!manifest) {
        assert_int_equal(err.code, VN_E_NOT_FOUND);
        return false;
    }
    assert_ok(manifest_object(manifest, "image", &root, &err), &err);
    assert_true(image_equals(store, &root, second_data, pages * PAGE));
    json_decref(manifest);
    return true;
}

static int child_main(void *context, struct vn_err *err)
{
    const struct store_fixture *f = context;
    struct store *store = store_open(f->path, err);

    return store ? take_snapshot(store, err) : -1;
}

static void test_killed_everywhere(void **state)
{
    struct store_fixture *f = *state;
    unsigned kills = 0;

    for (size_t i = 0; i < VN_COUNT(points); i++) {
        for (unsigned nth = 1;; nth++) {
            vn_auto(free) char *spec = vn_format("%s:%u:kill", points[i], nth);
            struct vn_err err = VN_ERR_INIT;
            bool killed;

            store_close(vn_steal(&f->store));
            killed = killed_at(spec, child_main, f);
            fixture_reopen(f);
            if (!check_store(f->store))
                assert_true(killed);
            else
                assert_ok(store_delete(f->store, "lab@2", &err), &err);
            if (!killed) {
                assert_true(nth > 1); /* the point is passed at least once */
                break;
            }
            kills++;
            /* The next run shall write packs, not find its chunks known. */
            change_second(1000 * i + nth);
        }
        change_second(100000 + i);
    }
    assert_true(kills >= VN_COUNT(points));
}

/* The second of several packs: what came before it is garbage. */
static void test_killed_between_packs(void **state)
{
    struct store_fixture *f = *state;

    pages = PAGES_LARGE;
    store_close(vn_steal(&f->store));
    assert_true(killed_at("store.pack.rename:2:kill", child_main, f));
    fixture_reopen(f);
    assert_false(check_store(f->store));
    store_close(vn_steal(&f->store));
    assert_false(killed_at("store.pack.rename:9:kill", child_main, f));
    fixture_reopen(f);
    assert_true(check_store(f->store));
}

static void test_failing_everywhere(void **state)
{
    struct store_fixture *f = *state;

    for (size_t i = 0; i < VN_COUNT(points); i++) {
        vn_auto(free) char *spec = vn_format("%s:1:fail", points[i]);
        struct vn_err err = VN_ERR_INIT;
        int result;

        fault_set(spec);
        result = take_snapshot(f->store, &err);
        fault_set(NULL);
        if (strcmp(points[i], "store.index.committed") == 0) {
            assert_ok(result, &err); /* too late to fail */
        } else {
            assert_int_equal(result, -1);
            assert_int_equal(
                err.code, strcmp(points[i], "store.space") == 0 ? ENOSPC : EIO);
            assert_true(strlen(err.msg) > 20);
        }
        assert_int_equal(check_store(f->store), result == 0);
        if (result == 0)
            assert_ok(store_delete(f->store, "lab@2", &err), &err);
        change_second(200 + i);
    }
    /* The same process can go on after all of it. */
    {
        struct vn_err err = VN_ERR_INIT;

        assert_ok(take_snapshot(f->store, &err), &err);
        assert_true(check_store(f->store));
    }
}

/* A flush that failed can be tried again; nothing is lost in between. */
static void test_flush_again(void **state)
{
    static const char *const specs[] = {"store.pack.sync", "store.index.add",
                                        "store.index.commit:2",
                                        "store.pack.rename", "store.space:2"};
    struct store_fixture *f = *state;

    for (size_t i = 0; i < VN_COUNT(specs); i++) {
        struct vn_err err = VN_ERR_INIT;
        struct store_writer *writer = store_writer_open(f->store, &err);
        struct map_root root;

        fill_random(second_data, 300 * PAGE, 900 + i);
        root = put_image(writer, second_data, 300 * PAGE, NULL);
        fault_set(specs[i]);
        assert_int_equal(store_writer_flush(writer, &err), -1);
        fault_set(NULL);
        assert_ok(store_writer_flush(writer, &err), &err);
        store_writer_free(writer);
        assert_true(image_equals(f->store, &root, second_data, 300 * PAGE));
    }
    assert_int_equal(count_findings(f->store), 0);
}

static void test_delete_and_init(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) char *path = vn_format("%s/second", f->dir);
    struct vn_err err = VN_ERR_INIT;

    fault_set("store.index.delete");
    assert_int_equal(store_delete(f->store, "lab@1", &err), -1);
    fault_set("store.index.commit");
    assert_int_equal(store_delete(f->store, "lab@1", &err), -1);
    fault_set(NULL);
    check_store(f->store);
    fault_set("store.init.config");
    assert_int_equal(store_init(path, &err), -1);
    fault_set(NULL);
    assert_null(store_open(path, &err));
    assert_int_equal(err.code, VN_E_NOT_FOUND);
    /* A read that fails is an error of the disk, not damage. */
    fault_set("store.pack.read");
    assert_null(store_load(f->store, "lab@1", &err));
    assert_int_equal(err.code, EIO);
}

/* ---- full disk -------------------------------------------------------- */

#define SMALL_DISK "size=24m"

static int mount_small(const char *path)
{
    if (mkdir(path, 0700) < 0 || unshare(CLONE_NEWNS) < 0 ||
        mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return -1;
    return mount("vnstore-test", path, "tmpfs", 0, SMALL_DISK);
}

/* Put unique images until the disk is full; returns how many fitted. */
static unsigned fill_up(struct store *store, uint64_t seed, struct vn_err *err)
{
    for (unsigned n = 0; n < 100; n++) {
        struct store_writer *writer = store_writer_open(store, err);
        struct image_writer *image =
            image_writer_open(writer, 500 * PAGE, NULL, err);
        struct map_root root;
        int result;

        fill_random(second_data, 500 * PAGE, seed + n);
        result = image_writer_put(image, 0, second_data, 500 * PAGE, err);
        if (result == 0)
            result = image_writer_finish(image, &root, err);
        if (result == 0)
            result = store_writer_flush(writer, err);
        image_writer_free(image);
        store_writer_free(writer);
        if (result < 0)
            return n;
    }
    return 100;
}

static void test_full_disk(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) char *small = vn_format("%s/small", f->dir);
    vn_auto(free) char *path = vn_format("%s/small/store", f->dir);
    vn_auto(free) char *ballast = vn_format("%s/small/ballast", f->dir);
    struct vn_err err = VN_ERR_INIT;
    struct store *store;
    struct map_root root;
    unsigned fitted;
    int fd;

    if (mount_small(small) < 0) {
        print_message("no mount of a small tmpfs here: %s\n", strerror(errno));
        skip();
    }
    assert_ok(store_init(path, &err), &err);
    store = store_open(path, &err);
    assert_made(store, &err);
    root = store_image(store, first_data, 50 * PAGE, NULL, NULL);
    commit_image(store, "lab@1", &root);
    fitted = fill_up(store, 5000, &err);
    assert_true(fitted > 2 && fitted < 13);
    assert_int_equal(err.code, ENOSPC);
    assert_non_null(strstr(err.msg, "free"));
    check_store(store);
    /* Truly full: not a byte left for the index either. */
    fd = open(ballast, O_WRONLY | O_CREAT, 0600);
    while (write(fd, second_data, PAGE) == PAGE)
        ;
    close(fd);
    assert_int_equal(fill_up(store, 6000, &err), 0);
    assert_int_equal(err.code, ENOSPC);
    check_store(store);
    store_close(store);
    store = store_open(path, &err);
    assert_made(store, &err);
    check_store(store);
    /* A delete needs little: it works, or says that the disk is full. */
    if (store_delete(store, "lab@1", &err) < 0) {
        assert_int_equal(err.code, ENOSPC);
        check_store(store);
    }
    assert_int_equal(unlink(ballast), 0);
    commit_image(store, "lab@3", &root);
    assert_ok(store_delete(store, "lab@3", &err), &err);
    assert_int_equal(count_findings(store), 0);
    store_close(store);
    umount(small);
}

#define WITH_STORE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_STORE(test_killed_everywhere),
        WITH_STORE(test_killed_between_packs),
        WITH_STORE(test_failing_everywhere),
        WITH_STORE(test_flush_again),
        WITH_STORE(test_delete_and_init),
        WITH_STORE(test_full_disk),
    };

    use_fast_disk();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
