/*
 * qcow2: what is written is read again as the same disk, in constant memory and
 * through a pipe; every bit of the tables may be wrong. QEMU's own judgement is
 * asked in tests/cli/test_formats.sh.
 */

#include "unit/store_gc_fixture.h"

#include "common/io.h"
#include "store/qcow2.h"

#include <pthread.h>
#include <sys/mman.h>

enum { K64 = 65536 };

struct memory {
    uint8_t *data;
    uint64_t size;
};

static int read_memory(void *context, uint64_t offset, void *data, size_t size,
                       struct vn_err *err)
{
    const struct memory *m = context;

    (void)err;
    assert_true(offset <= m->size && size <= m->size - offset);
    memcpy(data, m->data + offset, size);
    return 0;
}

/* The qcow2 of an image. Caller frees its data. */
static struct memory write_qcow2(struct store *store,
                                 const struct map_root *root)
{
    struct vn_err err = VN_ERR_INIT;
    struct memory m = {0};
    int fd = memfd_create("qcow2", MFD_CLOEXEC);
    struct stat st;

    assert_true(fd >= 0);
    assert_ok(qcow2_write(store, root, fd, NULL, NULL, &err), &err);
    assert_int_equal(fstat(fd, &st), 0);
    m.size = (uint64_t)st.st_size;
    m.data = vn_alloc(m.size);
    assert_ok(io_pread(fd, m.data, m.size, 0, &err), &err);
    close(fd);
    return m;
}

/* The disk in it, or -1 and what is wrong. */
static int read_qcow2(struct memory *m, uint8_t *disk, uint64_t size,
                      struct vn_err *err)
{
    const struct qcow2_file file = {
        .read = read_memory, .context = m, .size = m->size};
    vn_auto(qcow2) struct qcow2_reader *reader = qcow2_open(&file, err);

    if (!reader)
        return -1;
    if (qcow2_size(reader) != size)
        return vn_fail(err, VN_E_STATE, "a disk of %llu bytes",
                       (unsigned long long)qcow2_size(reader));
    memset(disk, 0, size);
    for (;;) {
        const uint8_t *data;
        uint64_t start;
        size_t n;

        if (qcow2_next(reader, &start, &data, &n, err) < 0)
            return -1;
        if (n == 0)
            return 0;
        assert_true(start < size && n <= size - start);
        memcpy(disk + start, data, n);
    }
}

static void check_round_trip(struct store_fixture *f, const uint8_t *data,
                             size_t size)
{
    struct map_root root = store_image(f->store, data, size, NULL, NULL);
    struct memory m = write_qcow2(f->store, &root);
    size_t rounded = (size + 511) / 512 * 512;
    vn_auto(free) uint8_t *disk = vn_alloc(rounded + 1);
    struct vn_err err = VN_ERR_INIT;

    assert_int_equal(m.size % K64, 0);
    assert_ok(read_qcow2(&m, disk, rounded, &err), &err);
    assert_memory_equal(disk, data, size);
    for (size_t i = size; i < rounded; i++)
        assert_int_equal(disk[i], 0);
    free(m.data);
}

static void test_round_trips(void **state)
{
    struct store_fixture *f = *state;
    const size_t size = 9 * TEST_MIB + 12345;
    vn_auto(free) uint8_t *data = vn_alloc(size);

    check_round_trip(f, data, 512);
    check_round_trip(f, data, size);
    fill_random(data, 1, 1);
    check_round_trip(f, data, 1);
    check_round_trip(f, data, size);
    fill_random(data + 3 * K64 - 1, 2, 2);
    fill_random(data + 5 * TEST_MIB + 4096, K64, 3);
    data[size - 1] = 1;
    data[7 * K64] = data[7 * K64 + 2 * PAGE] = 1; /* two runs, one cluster */
    check_round_trip(f, data, size);
    fill_random(data, size, 4);
    check_round_trip(f, data, size);
}

/* Data on both sides of what one L2 table holds, 512 MiB, and few clusters. */
static void test_several_l2_tables(void **state)
{
    struct store_fixture *f = *state;
    const uint64_t at[] = {0, 511 * (uint64_t)TEST_MIB,
                           512 * (uint64_t)TEST_MIB, 2100 * (uint64_t)TEST_MIB};
    const uint64_t size = 2200 * (uint64_t)TEST_MIB;
    struct vn_err err = VN_ERR_INIT;
    struct store_writer *writer = store_writer_open(f->store, &err);
    struct image_writer *image = image_writer_open(writer, size, NULL, &err);
    uint8_t page[PAGE];
    struct map_root root;
    struct memory m;
    const uint8_t *data;
    uint64_t start;
    size_t n;

    for (size_t i = 0; i < VN_COUNT(at); i++) {
        memset(page, (int)i + 1, PAGE);
        assert_ok(image_writer_put(image, at[i], page, PAGE, &err), &err);
    }
    assert_ok(image_writer_finish(image, &root, &err), &err);
    assert_ok(store_writer_flush(writer, &err), &err);
    image_writer_free(image);
    store_writer_free(writer);
    m = write_qcow2(f->store, &root);
    /* header, 2 of refcounts, L1, 3 L2, 4 data */
    assert_int_equal(m.size, 11 * K64);
    {
        const struct qcow2_file file = {
            .read = read_memory, .context = &m, .size = m.size};
        vn_auto(qcow2) struct qcow2_reader *reader = qcow2_open(&file, &err);

        assert_made(reader, &err);
        for (size_t i = 0; i < VN_COUNT(at); i++) {
            assert_ok(qcow2_next(reader, &start, &data, &n, &err), &err);
            assert_int_equal(start,
                             at[i] / QCOW2_WINDOW_SIZE * QCOW2_WINDOW_SIZE);
            assert_int_equal(data[at[i] - start], i + 1);
        }
        assert_ok(qcow2_next(reader, &start, &data, &n, &err), &err);
        assert_int_equal(n, 0);
    }
    free(m.data);
}

static void *drain(void *context)
{
    static uint8_t buffer[K64];
    int fd = *(int *)context;

    while (read(fd, buffer, sizeof(buffer)) > 0)
        ;
    return NULL;
}

static void test_pipe(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) uint8_t *data = make_pages(1, 500);
    struct map_root root = store_image(f->store, data, 500 * PAGE, NULL, NULL);
    struct vn_err err = VN_ERR_INIT;
    pthread_t thread;
    int fds[2];

    assert_int_equal(pipe(fds), 0);
    assert_int_equal(pthread_create(&thread, NULL, drain, &fds[0]), 0);
    assert_ok(qcow2_write(f->store, &root, fds[1], NULL, NULL, &err), &err);
    close(fds[1]);
    pthread_join(thread, NULL);
    close(fds[0]);
}

/* Each bit of header and tables wrong: refused, or another disk, but no harm
 * and no more data than the file has. */
static void test_flipped_bits(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) uint8_t *data = make_pages(1, 40);
    struct map_root root = store_image(f->store, data, 40 * PAGE, NULL, NULL);
    struct memory m = write_qcow2(f->store, &root);
    vn_auto(free) uint8_t *disk = vn_alloc(40 * PAGE);
    unsigned refused = 0;

    /* header; first of L1 (cluster 3) and of L2 (cluster 4) */
    for (size_t bit = 0; bit < 8 * (112 + 8 + 24); bit++) {
        size_t byte = bit / 8;
        struct vn_err err = VN_ERR_INIT;

        if (byte >= 120)
            byte += 4 * K64 - 120;
        else if (byte >= 112)
            byte += 3 * K64 - 112;
        m.data[byte] ^= (uint8_t)(1u << bit % 8);
        refused += read_qcow2(&m, disk, 40 * PAGE, &err) < 0;
        m.data[byte] ^= (uint8_t)(1u << bit % 8);
    }
    assert_true(refused > 300);
    for (uint64_t size = m.size; size > 0; size -= size > 512 ? 512 : size) {
        struct memory cut = {m.data, size - (size > 512 ? 512 : size)};
        struct vn_err err = VN_ERR_INIT;

        /* The end of the last cluster may be missing: it counts as zeros. */
        if (cut.size < 5 * K64)
            assert_int_equal(read_qcow2(&cut, disk, 40 * PAGE, &err), -1);
    }
    free(m.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_round_trips, fixture_setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_several_l2_tables, fixture_setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_pipe, fixture_setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_flipped_bits, fixture_setup,
                                        fixture_teardown),
    };

    use_fast_disk();
    return cmocka_run_group_tests_name("store_qcow2", tests, NULL, NULL);
}
