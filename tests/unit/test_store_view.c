/*
 * Images from files that are looked at in the page cache (common/view.h): the
 * same result as by reading, only what is new is read, and files that change or
 * are cut meanwhile do no harm. All of it with 1, 3 and 8 threads.
 */

#include "common/io.h"
#include "store/store_internal.h"
#include "unit/store_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>

enum {
    PAGES = 20 * 512 + 200, /* more than one task, the last leaf not whole */
    TAIL = 1000,            /* bytes in the last page */
    SIZE = (PAGES - 1) * PAGE + TAIL,
};

struct bench {
    struct store_fixture *f;
    uint8_t *data; /* what is in the file */
    int fd;
    _Atomic uint64_t asked; /* bytes, of the source */
};

static int setup(void **state)
{
    struct bench *b = vn_alloc(sizeof(*b));
    void *fixture;
    vn_auto(free) char *path = NULL;

    if (fixture_setup(&fixture) < 0)
        return -1;
    b->f = fixture;
    b->data = vn_alloc(PAGES * PAGE);
    path = vn_format("%s/file", b->f->dir);
    b->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    *state = b;
    return b->fd < 0 ? -1 : 0;
}

static int teardown(void **state)
{
    struct bench *b = *state;
    void *fixture = b->f;

    close(b->fd);
    free(b->data);
    free(b);
    return fixture_teardown(&fixture);
}

/* Random pages; one run in four is zeros. */
static void make_pages(struct bench *b)
{
    struct vn_err err = VN_ERR_INIT;

    fill_random(b->data, SIZE, 1);
    for (unsigned run = 0; run < PAGES / 16; run += 4)
        memset(b->data + run * 16 * PAGE, 0, 16 * PAGE);
    assert_ok(io_pwrite(b->fd, b->data, SIZE, 0, &err), &err);
}

static void change(struct bench *b, uint64_t offset, const void *bytes,
                   size_t size)
{
    struct vn_err err = VN_ERR_INIT;

    memcpy(b->data + offset, bytes, size);
    assert_ok(io_pwrite(b->fd, bytes, size, offset, &err), &err);
}

static int read_file(void *context, uint64_t offset, void *data, size_t size,
                     struct vn_err *err)
{
    struct bench *b = context;

    atomic_fetch_add(&b->asked, size);
    return io_pread(b->fd, data, size, offset, err);
}

/* Put the file as an image, with a view or without. */
static int put_file(struct bench *b, const struct map_root *parent,
                    bool with_view, struct store_counts *ret_counts,
                    struct map_root *ret_root, struct vn_err *err)
{
    struct store_writer *writer = store_writer_open(b->f->store, err);
    struct image_writer *image = image_writer_open(writer, SIZE, parent, err);
    vn_auto(file_view) struct file_view view = {0};
    int result;

    assert_made(image, err);
    if (with_view)
        assert_true(file_view_open(&view, b->fd, 0, SIZE));
    atomic_store(&b->asked, 0);
    result = image_writer_put_from(image, 0, SIZE, read_file, b,
                                   with_view ? &view : NULL, err);
    if (result == 0)
        result = image_writer_finish(image, ret_root, err);
    if (result == 0)
        result = store_writer_flush(writer, err);
    if (ret_counts)
        store_writer_counts(writer, ret_counts);
    image_writer_free(image);
    store_writer_free(writer);
    return result;
}

static struct map_root put_ok(struct bench *b, const struct map_root *parent,
                              bool with_view, struct store_counts *ret_counts)
{
    struct vn_err err = VN_ERR_INIT;
    struct map_root root = {0};

    assert_ok(put_file(b, parent, with_view, ret_counts, &root, &err), &err);
    return root;
}

static void assert_same_root(const struct map_root *a, const struct map_root *b)
{
    assert_int_equal(a->size, b->size);
    assert_memory_equal(&a->root, &b->root, sizeof(a->root));
}

/* ---- tests ------------------------------------------------------------- */

static void test_unchanged(void **state)
{
    struct bench *b = *state;
    struct store_counts counts;
    struct map_root first;
    struct map_root again;

    make_pages(b);
    first = put_ok(b, NULL, true, &counts); /* nothing to be held against */
    assert_int_equal(atomic_load(&b->asked), SIZE);
    again = put_ok(b, &first, true, &counts);
    assert_same_root(&again, &first);
    /* Only the last page, which is not whole, had to be read. */
    assert_int_equal(atomic_load(&b->asked), TAIL);
    assert_int_equal(counts.bytes_read, PAGES * PAGE);
    assert_int_equal(counts.bytes_unchanged + counts.bytes_zero, PAGES * PAGE);
    assert_int_equal(counts.bytes_new, 0);
}

/* Changed, moved, zeroed and filled pages: as without a view. */
static void test_changed(void **state)
{
    struct bench *b = *state;
    struct store_counts seen;
    struct store_counts read;
    struct map_root first;
    struct map_root with;
    struct map_root without;
    static const uint8_t zeros[3 * PAGE];
    uint8_t *fresh = vn_alloc(700 * PAGE);
    uint64_t new_pages = 0;

    make_pages(b);
    first = put_ok(b, NULL, false, NULL);
    fill_random(fresh, 700 * PAGE, 99);
    for (unsigned i = 0; i < 60; i++, new_pages++)
        change(b, (100 + 150ull * i) * PAGE, fresh + i * PAGE, PAGE);
    change(b, 5000 * PAGE, fresh, 700 * PAGE); /* across pieces and leaves */
    change(b, 300 * PAGE, zeros, sizeof(zeros));
    change(b, 17 * PAGE, b->data + 900 * PAGE, PAGE);
    change(b, SIZE - 7, "the end", 7);
    with = put_ok(b, &first, true, &seen);
    assert_true(atomic_load(&b->asked) < 800 * PAGE);
    assert_true(image_equals(b->f->store, &with, b->data, SIZE));
    without = put_ok(b, &first, false, &read);
    assert_same_root(&with, &without);
    assert_int_equal(seen.bytes_read, read.bytes_read);
    assert_int_equal(seen.bytes_zero, read.bytes_zero);
    assert_int_equal(seen.bytes_unchanged, read.bytes_unchanged);
    assert_int_equal(seen.bytes_new, 701 * PAGE); /* 60 are among the 700 */
    assert_int_equal(read.bytes_new, 0);
    free(fresh);
}

static void test_cut(void **state)
{
    struct bench *b = *state;
    struct vn_err err = VN_ERR_INIT;
    struct store_writer *writer = store_writer_open(b->f->store, &err);
    struct map_root first;
    struct map_root root;
    struct image_writer *image;
    vn_auto(file_view) struct file_view view = {0};

    make_pages(b);
    first = put_ok(b, NULL, false, NULL);
    image = image_writer_open(writer, SIZE, &first, &err);
    assert_true(file_view_open(&view, b->fd, 0, SIZE));
    assert_int_equal(ftruncate(b->fd, 3000 * PAGE), 0);
    assert_int_equal(
        image_writer_put_from(image, 0, SIZE, read_file, b, &view, &err), -1);
    assert_true(err.code == VN_E_CORRUPT || err.code == EIO); /* no bytes */
    assert_int_equal(image_writer_finish(image, &root, &err), -1);
    image_writer_free(image);
    store_writer_free(writer);
    assert_int_equal(count_findings(b->f->store), 0);
}

/* It was cut while it was looked at, and is whole again when it is read. */
static void test_cut_for_a_moment(void **state)
{
    struct bench *b = *state;
    struct vn_err err = VN_ERR_INIT;
    struct store_writer *writer = store_writer_open(b->f->store, &err);
    struct image_writer *image;
    struct map_root first;
    vn_auto(file_view) struct file_view view = {0};

    make_pages(b);
    first = put_ok(b, NULL, false, NULL);
    image = image_writer_open(writer, SIZE, &first, &err);
    assert_true(file_view_open(&view, b->fd, 0, SIZE));
    assert_int_equal(ftruncate(b->fd, 0), 0);
    assert_int_equal(view.data[5000 * PAGE], 0);
    assert_ok(io_pwrite(b->fd, b->data, SIZE, 0, &err), &err);
    assert_int_equal(
        image_writer_put_from(image, 0, SIZE, read_file, b, &view, &err), -1);
    assert_int_equal(err.code, EIO);
    image_writer_free(image);
    store_writer_free(writer);
}

/* ---- a file that is written meanwhile ---------------------------------- */

struct scribbler {
    const struct bench *b;
    atomic_bool stop;
    _Atomic unsigned rounds;
};

/* Every page is all of one byte, and steps to the next: 1 to 250. */
static void *scribble(void *arg)
{
    struct scribbler *s = arg;
    uint8_t page[PAGE];

    for (unsigned n = 0; !atomic_load(&s->stop); n++) {
        memset(page, (int)(1 + n / PAGES % 250), PAGE);
        if (pwrite(s->b->fd, page, PAGE, (off_t)(n * 7919ull % PAGES) * PAGE) !=
            PAGE)
            break;
        atomic_fetch_add(&s->rounds, 1);
    }
    return NULL;
}

/* What is stored is what was hashed: it reads back, and is what was written. */
static void test_written_meanwhile(void **state)
{
    struct bench *b = *state;
    struct scribbler s = {.b = b};
    struct map_root root = {0};
    uint8_t *got = vn_alloc(PAGES * PAGE);
    pthread_t thread;

    memset(b->data, 250, PAGES * PAGE);
    change(b, 0, b->data, PAGES * PAGE);
    root = put_ok(b, NULL, false, NULL);
    assert_int_equal(pthread_create(&thread, NULL, scribble, &s), 0);
    for (unsigned i = 0; i < 8; i++) {
        struct vn_err err = VN_ERR_INIT;
        struct image_reader *reader;
        unsigned before = atomic_load(&s.rounds);

        while (atomic_load(&s.rounds) < before + 500)
            usleep(100);
        root = put_ok(b, &root, true, NULL);
        reader = image_reader_open(b->f->store, &root, &err);
        assert_made(reader, &err);
        assert_ok(image_reader_read(reader, 0, got, SIZE, &err), &err);
        image_reader_free(reader);
        for (size_t at = 0; at < SIZE; at++)
            if (got[at] < 1 || got[at] > 250)
                fail_msg("byte %zu is %u", at, got[at]);
    }
    atomic_store(&s.stop, true);
    pthread_join(thread, NULL);
    free(got);
    assert_int_equal(count_findings(b->f->store), 0);
}

#define WITH_BENCH(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_BENCH(test_unchanged),
        WITH_BENCH(test_changed),
        WITH_BENCH(test_cut),
        WITH_BENCH(test_cut_for_a_moment),
        WITH_BENCH(test_written_meanwhile),
    };

    use_fast_disk();
    return run_by_threads(tests, VN_COUNT(tests));
}
