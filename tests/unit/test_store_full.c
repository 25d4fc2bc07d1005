/*
 * A full disk: a small ext4 of its own, filled by the store and then, to the
 * last byte, by someone else. What was committed stays readable, errors say
 * that the disk is full, snapshots can be deleted and collected all the same,
 * and then there is room again.
 */

#include "unit/store_gc_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/statvfs.h>

enum { DISK_MIB = 90, PAGES = 300, THIN_PAGES = 110000, DEAD_PAGES = 6000 };

static char *disk; /* where it is mounted; NULL: it could not be */
static const char *why = "";

/* Run a command; its exit status. */
static int run(const char *const *words)
{
    pid_t child = fork();
    int status = -1;

    if (child == 0) {
        int null = open("/dev/null", O_RDWR);

        dup2(null, 1);
        dup2(null, 2);
        execvp(words[0], (char *const *)(uintptr_t)words);
        _exit(127);
    }
    waitpid(child, &status, 0);
    return status;
}

/* A file with a file system on it, mounted for this process only. */
static int mount_disk(const char *dir)
{
    vn_auto(free) char *file = vn_format("%s/disk.img", dir);
    vn_auto(free) char *at = vn_format("%s/disk", dir);
    const char *const make[] = {"mkfs.ext4", "-q", "-F", "-m", "0", file, NULL};
    const char *const mount_it[] = {"mount", "-o", "loop", file, at, NULL};
    int fd;

    if (unshare(CLONE_NEWNS) < 0 ||
        mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
        why = "no mount namespace";
        return -1;
    }
    fd = open(file, O_RDWR | O_CREAT, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)DISK_MIB << 20) < 0 ||
        mkdir(at, 0700) < 0)
        return -1;
    close(fd);
    if (run(make) != 0) {
        why = "mkfs.ext4 failed";
        return -1;
    }
    if (run(mount_it) != 0) {
        why = "no loop mount";
        return -1;
    }
    disk = vn_steal(&at);
    return 0;
}

/* The store on the disk takes the place of the fixture's. */
static int setup(void **state)
{
    struct vn_err err = VN_ERR_INIT;
    struct store_fixture *f;

    if (fixture_setup(state) < 0)
        return -1;
    f = *state;
    if (mount_disk(f->dir) < 0)
        return 0;
    store_close(f->store);
    snprintf(f->path, sizeof(f->path), "%s/store", disk);
    if (store_init(f->path, &err) < 0 ||
        !(f->store = store_open(f->path, &err))) {
        fprintf(stderr, "%s\n", err.msg);
        return -1;
    }
    return 0;
}

static int teardown(void **state)
{
    struct store_fixture *f = *state;

    store_close(vn_steal(&f->store));
    if (disk)
        umount2(disk, MNT_DETACH);
    free(vn_steal(&disk));
    return fixture_teardown(state);
}

static uint64_t free_bytes(void)
{
    struct statvfs st;

    assert_int_equal(statvfs(disk, &st), 0);
    return (uint64_t)st.f_bavail * st.f_frsize;
}

/* Someone else takes all there is, in pieces down to a byte. */
static void take_all(void)
{
    vn_auto(free) char *path = vn_format("%s/ballast", disk);
    vn_auto(free) uint8_t *data = make_pages(99, 256);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);

    assert_true(fd >= 0);
    for (size_t piece = 256 * PAGE; piece > 0; piece /= 2)
        while (write(fd, data, piece) == (ssize_t)piece)
            ;
    fsync(fd);
    /* What the sync has let go of. */
    for (size_t piece = 256 * PAGE; piece > 0; piece /= 2)
        while (write(fd, data, piece) == (ssize_t)piece)
            ;
    close(fd);
    assert_int_equal(free_bytes(), 0);
}

static int put_pages(struct store *store, uint64_t seed, size_t count,
                     struct vn_err *err)
{
    vn_auto(free) uint8_t *data = make_pages(seed, count);
    vn_auto(store_writer) struct store_writer *writer =
        store_writer_open(store, err);
    struct map_root root;

    if (!writer || store_put_bytes(writer, data, count * PAGE, &root, err) < 0)
        return -1;
    return store_writer_flush(writer, err);
}

/* The store is sound, and of these snapshots, by seed, all are there. */
static void check_all(struct store_fixture *f, unsigned first, unsigned last)
{
    assert_int_equal(count_findings(f->store), 0);
    for (unsigned i = first; i <= last; i++) {
        vn_auto(free) uint8_t *data = make_pages(i, PAGES);
        vn_auto(free) char *name = vn_format("lab@%u", i);

        assert_true(snapshot_equals(f->store, name, data, PAGES));
    }
}

static void add_all(struct store_fixture *f, unsigned first, unsigned last)
{
    for (unsigned i = first; i <= last; i++) {
        vn_auto(free) uint8_t *data = make_pages(i, PAGES);
        vn_auto(free) char *name = vn_format("lab@%u", i);

        add_snapshot(f->store, name, data, PAGES, NULL);
    }
}

/* Images of various sizes until the store says that it is enough. */
static void fill_up(struct store_fixture *f)
{
    static const size_t sizes[] = {1500, 400, 60, 7, 1};
    uint64_t seed = 1000;

    for (size_t i = 0; i < VN_COUNT(sizes); i++) {
        struct vn_err err = VN_ERR_INIT;

        while (put_pages(f->store, seed++, sizes[i], &err) == 0)
            assert_true(seed < 2000);
        assert_int_equal(err.code, ENOSPC);
        assert_non_null(strstr(err.msg, "free"));
    }
}

static bool no_disk(void)
{
    if (!disk)
        print_message("no small disk here: %s: %s\n", why, strerror(errno));
    return !disk;
}

static void test_store_fills_disk(void **state)
{
    struct store_fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;

    if (no_disk())
        skip();
    add_all(f, 1, 4);
    fill_up(f);
    assert_true(free_bytes() > 0); /* the reserve for deletes */
    check_all(f, 1, 4);
    fixture_reopen(f);
    check_all(f, 1, 4);
    delete_snapshot(f->store, "lab@1");
    assert_true(run_gc(f->store, &gc_now).bytes_removed > 10 * TEST_MIB);
    check_all(f, 2, 4);
    assert_ok(put_pages(f->store, 7000, 1500, &err), &err);
    add_all(f, 5, 6);
    check_all(f, 2, 6);
}

/* Not a byte is left, and it was not the store that took them. */
static void test_others_fill_disk(void **state)
{
    struct store_fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    uint64_t before;

    if (no_disk())
        skip();
    add_all(f, 1, 6);
    take_all();
    assert_int_equal(put_pages(f->store, 5000, 100, &err), -1);
    assert_int_equal(err.code, ENOSPC);
    assert_int_equal(put_pages(f->store, 5001, 1, &err), -1);
    assert_int_equal(err.code, ENOSPC);
    check_all(f, 1, 6);
    fixture_reopen(f);
    check_all(f, 1, 6);
    delete_snapshot(f->store, "lab@1");
    delete_snapshot(f->store, "lab@2");
    before = free_bytes();
    assert_true(run_gc(f->store, &gc_now).bytes_removed > 2 * TEST_MIB);
    assert_true(free_bytes() > before + TEST_MIB);
    check_all(f, 3, 6);
}

/* An image of many pages that take hardly any space in packs. */
static struct map_root put_thin(struct store_writer *writer, size_t count)
{
    struct vn_err err = VN_ERR_INIT;
    struct image_writer *image =
        image_writer_open(writer, count * PAGE, NULL, &err);
    uint8_t page[PAGE] = {0};
    struct map_root root;

    for (size_t i = 0; i < count; i++) {
        uint64_t unique = i + 1;

        memcpy(page, &unique, sizeof(unique));
        assert_ok(image_writer_put(image, i * PAGE, page, PAGE, &err), &err);
    }
    assert_ok(image_writer_finish(image, &root, &err), &err);
    image_writer_free(image);
    return root;
}

/*
 * Rows to be deleted are spread over a large index, so nearly all of its pages
 * change: more than there is room for at once. Both images go to the index in
 * one transaction, lest it has pages to spare.
 */
static void test_large_index(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) uint8_t *dead = make_pages(77, DEAD_PAGES);
    struct vn_err err = VN_ERR_INIT;
    struct store_writer *writer;
    struct store_gc_counts counts;
    struct map_root thin;
    struct map_root fat;

    if (no_disk())
        skip();
    add_all(f, 1, 1);
    writer = store_writer_open(f->store, &err);
    thin = put_thin(writer, THIN_PAGES);
    fat = put_image(writer, dead, DEAD_PAGES * PAGE, NULL);
    assert_ok(store_writer_flush(writer, &err), &err);
    commit_image(f->store, "thin", &thin);
    commit_image(f->store, "fat", &fat);
    store_writer_free(writer);
    take_all();
    delete_snapshot(f->store, "fat");
    counts = run_gc(f->store, &gc_now);
    assert_true(counts.chunks_removed > DEAD_PAGES / 2);
    assert_true(free_bytes() > 4 * TEST_MIB);
    check_all(f, 1, 1);
}

#define WITH_DISK(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_DISK(test_store_fills_disk),
        WITH_DISK(test_others_fill_disk),
        WITH_DISK(test_large_index),
    };

    use_fast_disk();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
