/* The synthesised stream, read back with the parser. */

#include "restore/qemu_stream_write.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/io.h"
#include "unit/restore_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>

/* What came out. Block 0 is "/rom", 1 "pc.ram", as in the fixture. */
struct seen {
    uint8_t ram[RF_RAM_PAGES * 4096];
    uint8_t rom[RF_ROM_PAGES * 4096];
    unsigned pages[2], zeros[2];
    int64_t last[2]; /* offsets rise */
};

static int see_blocks(void *context, const struct qemu_block *blocks,
                      unsigned count, struct vn_err *err)
{
    (void)context, (void)err;
    assert_int_equal(count, 2);
    assert_string_equal(blocks[0].name, "/rom");
    assert_string_equal(blocks[1].name, "pc.ram");
    return 0;
}

static int see_page(void *context, unsigned block, uint64_t offset,
                    const void *page, struct vn_err *err)
{
    struct seen *seen = context;
    uint8_t *to = block == 0 ? seen->rom : seen->ram;

    (void)err;
    assert_true((int64_t)offset > seen->last[block]);
    seen->last[block] = (int64_t)offset;
    seen->pages[block] += page != NULL;
    seen->zeros[block] += page == NULL;
    if (page)
        memcpy(to + offset, page, 4096);
    else
        memset(to + offset, 0, 4096);
    return 0;
}

static void test_round_trip(void **state)
{
    struct restore_fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    vn_auto(free) char *path = vn_format("%s/out", f->dir);
    vn_auto(free) struct seen *seen = vn_alloc(sizeof(*seen));
    const struct qemu_stream_sink sink = {see_blocks, see_page, seen};
    vn_auto(qemu_stream) struct qemu_stream *stream = qemu_stream_new(&sink);
    vn_auto(qemu_stream_source) struct qemu_stream_source *source =
        qemu_stream_source_open(f->store, f->manifest, "a", &err);
    vn_auto(close) int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    vn_auto(buf) struct buf out = {.limit = 16 << 20};
    const struct buf *want = qemu_stream_device_state(f->stream);

    assert_string_equal(err.msg, "");
    assert_non_null(source);
    assert_string_equal(qemu_stream_source_machine(source), "pc-test-1.0");
    assert_int_equal(qemu_stream_source_write(source, fd, &err), 0);
    assert_int_equal(io_read_file(path, &out, &err), 0);
    seen->last[0] = seen->last[1] = -1;
    if (qemu_stream_feed(stream, out.data, out.size, &err) < 0 ||
        qemu_stream_finish(stream, &err) < 0)
        assert_string_equal(err.msg, "");
    assert_memory_equal(seen->ram, f->ram, RF_RAM_PAGES * 4096);
    assert_memory_equal(seen->rom, f->rom, RF_ROM_PAGES * 4096);
    assert_int_equal(seen->pages[1], 152);
    assert_int_equal(seen->zeros[1], 0); /* main RAM is zero on the target */
    assert_int_equal(seen->pages[0], 1);
    assert_int_equal(seen->zeros[0], 3); /* a ROM is not */
    assert_int_equal(qemu_stream_device_state(stream)->size, want->size);
    assert_memory_equal(qemu_stream_device_state(stream)->data, want->data,
                        want->size);
    assert_int_equal(qemu_stream_head(stream)->size,
                     qemu_stream_head(f->stream)->size);
    /* The same again. */
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    assert_int_equal(qemu_stream_source_write(source, fd, &err), 0);
    assert_int_equal(lseek(fd, 0, SEEK_CUR), out.size);
}

static void expect_refusal(struct restore_fixture *f, int code,
                           const char *message)
{
    struct vn_err err = VN_ERR_INIT;

    assert_null(qemu_stream_source_open(f->store, f->manifest, "a", &err));
    if (!strstr(err.msg, message))
        assert_string_equal(err.msg, message);
    assert_int_equal(err.code, code);
}

static void test_no_vm(void **state)
{
    struct restore_fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;

    assert_null(qemu_stream_source_open(f->store, f->manifest, "b", &err));
    assert_int_equal(err.code, VN_E_NOT_FOUND);
}

static void test_no_object(void **state)
{
    struct restore_fixture *f = *state;
    json_t *objects = json_object_get(f->manifest, "objects");

    json_object_del(objects, "vm/a/device.state");
    expect_refusal(f, VN_E_NOT_FOUND, "vm/a/device.state");
    json_object_del(objects, "vm/a/ram/%2from");
    expect_refusal(f, VN_E_NOT_FOUND, "vm/a/ram/%2from");
}

static void test_wrong_size(void **state)
{
    struct restore_fixture *f = *state;
    struct map_root root;
    struct vn_err err = VN_ERR_INIT;

    assert_int_equal(
        manifest_object(f->manifest, "vm/a/ram/%2from", &root, &err), 0);
    manifest_add(f->manifest, "vm/a/ram/pc.ram", &root);
    expect_refusal(f, VN_E_FORMAT,
                   "'vm/a/ram/pc.ram' has 16384 bytes, but its block has");
}

static void test_bad_device_state(void **state)
{
    struct restore_fixture *f = *state;
    const struct buf *good = qemu_stream_device_state(f->stream);
    struct vn_err err = VN_ERR_INIT;

    assert_int_equal(
        rf_put(f, "vm/a/device.state", good->data, good->size - 1, &err), 0);
    assert_int_equal(store_writer_flush(f->writer, &err), 0);
    expect_refusal(f, VN_E_FORMAT, "ends early");
}

static void test_reader_gone(void **state)
{
    struct restore_fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    vn_auto(qemu_stream_source) struct qemu_stream_source *source =
        qemu_stream_source_open(f->store, f->manifest, "a", &err);
    int ends[2];

    assert_non_null(source);
    signal(SIGPIPE, SIG_IGN);
    assert_int_equal(pipe(ends), 0);
    close(ends[0]);
    assert_int_equal(qemu_stream_source_write(source, ends[1], &err), -1);
    close(ends[1]);
    assert_int_equal(err.code, EPIPE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_round_trip, rf_setup, rf_teardown),
        cmocka_unit_test_setup_teardown(test_no_vm, rf_setup, rf_teardown),
        cmocka_unit_test_setup_teardown(test_no_object, rf_setup, rf_teardown),
        cmocka_unit_test_setup_teardown(test_wrong_size, rf_setup, rf_teardown),
        cmocka_unit_test_setup_teardown(test_bad_device_state, rf_setup,
                                        rf_teardown),
        cmocka_unit_test_setup_teardown(test_reader_gone, rf_setup,
                                        rf_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
