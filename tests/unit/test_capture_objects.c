/* A VM's objects and its entry in the manifest. */

#include "capture/qemu_objects.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "unit/stream_builder.h"

#include <stdlib.h>

static void expect_name(char *name, const char *expected)
{
    assert_string_equal(name, expected);
    free(name);
}

static void test_names(void **state)
{
    (void)state;
    expect_name(qemu_object_ram("a", "pc.ram"), "vm/a/ram/pc.ram");
    expect_name(qemu_object_ram("a", "/rom@etc/acpi/tables"),
                "vm/a/ram/%2from@etc%2facpi%2ftables");
    expect_name(qemu_object_ram("a", "50%2f"), "vm/a/ram/50%252f");
    expect_name(qemu_object_device_state("a-1"), "vm/a-1/device.state");
    expect_name(qemu_object_disk("a", 12), "vm/a/disk/12");
}

static int take_blocks(void *context, const struct qemu_block *blocks,
                       unsigned count, struct vn_err *err)
{
    (void)context, (void)blocks, (void)count, (void)err;
    return 0;
}

static int take_page(void *context, unsigned block, uint64_t offset,
                     const void *page, struct vn_err *err)
{
    (void)context, (void)block, (void)offset, (void)page, (void)err;
    return 0;
}

struct fixture {
    struct buf bytes;
    struct qemu_stream *stream;
    json_t *json; /* a good entry */
    struct qemu_state read;
};

static int setup(void **state)
{
    const struct qemu_stream_sink sink = {take_blocks, take_page, NULL};
    struct fixture *f = vn_alloc(sizeof(*f));
    struct vn_err err = VN_ERR_INIT;

    *state = f;
    buf_init(&f->bytes, 1 << 20);
    sb_begin(&f->bytes);
    sb_section(&f->bytes, 3, SB_RAM_ID);
    sb_end(&f->bytes);
    sb_device_state(&f->bytes, NULL);
    f->stream = qemu_stream_new(&sink);
    if (qemu_stream_feed(f->stream, f->bytes.data, f->bytes.size, &err) < 0 ||
        qemu_stream_finish(f->stream, &err) < 0)
        return -1;
    f->json = qemu_state_to_json(f->stream, "7.2.22 (Debian)");
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    qemu_state_done(&f->read);
    json_decref(f->json);
    qemu_stream_free(f->stream);
    buf_done(&f->bytes);
    free(f);
    return 0;
}

static void test_both_ways(void **state)
{
    struct fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;

    /* Other keys are welcome. */
    json_object_set_new(f->json, "pause_ns", json_integer(1));
    assert_int_equal(qemu_state_from_json(f->json, &f->read, &err), 0);
    assert_string_equal(f->read.machine, "pc-test-1.0");
    assert_string_equal(f->read.qemu_version, "7.2.22 (Debian)");
    assert_int_equal(f->read.block_count, 2);
    assert_string_equal(f->read.blocks[0].name, "a");
    assert_string_equal(f->read.blocks[1].name, "b/c");
    assert_int_equal(f->read.blocks[1].size, 8192);
    assert_int_equal(f->read.head.size, 24);
    assert_memory_equal(f->read.head.data, f->bytes.data, 24);
}

static json_t *block_list(const char *name, json_int_t size, unsigned count)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < count; i++) {
        char each[300];

        snprintf(each, sizeof(each), "%s%u", name, i);
        json_array_append_new(
            list, json_pack("{s:s, s:I}", "name", each, "size", size));
    }
    return list;
}

static void test_hostile(void **state)
{
    static char long_name[300], long_hex[2 * QEMU_HEAD_MAX + 3];
    struct fixture *f = *state;
    struct {
        const char *key;
        json_t *value; /* NULL: the key is missing */
        int code;
        const char *message;
    } bad[] = {
        {"backend", json_string("xen"), VN_E_UNSUPPORTED, "not a state"},
        {"backend", NULL, VN_E_FORMAT, "'backend' is missing"},
        {"qemu_version", json_integer(7), VN_E_FORMAT, "'qemu_version' is"},
        {"machine", json_string("q35"), VN_E_FORMAT, "'machine' is not what"},
        {"head_hex", json_string(""), VN_E_LIMIT, "'head_hex' has 0 bytes"},
        {"head_hex", json_string("5145564"), VN_E_FORMAT, "'head_hex': "},
        {"head_hex", json_string("zz"), VN_E_FORMAT, "'head_hex': "},
        {"head_hex", json_string("5145564d00000003"), VN_E_FORMAT,
         "the stream's head does not end"},
        {"head_hex", NULL, VN_E_FORMAT, "'head_hex' is missing"},
        {"blocks", json_array(), VN_E_LIMIT, "0 blocks, not 1 to 64"},
        {"blocks", block_list("b", 4096, 65), VN_E_LIMIT, "65 blocks"},
        {"blocks", block_list("b", 4097, 1), VN_E_FORMAT, "block 0: block"},
        {"blocks", block_list("b", -4096, 1), VN_E_FORMAT, "block 0: 'size'"},
        {"blocks", block_list("b", 1ll << 46, 2), VN_E_LIMIT,
         "block 1: the blocks have more"},
        {"blocks", block_list("\n", 4096, 1), VN_E_FORMAT, "block 0: block"},
        {"blocks",
         json_pack("[{s:s,s:i},{s:s,s:i}]", "name", "x", "size", 4096, "name",
                   "x", "size", 4096),
         VN_E_FORMAT, "block 1: block 'x' twice"},
        {"blocks", json_pack("[i]", 4096), VN_E_FORMAT, "block 0: expected"},
        {"qemu_version", NULL, 0, long_name},
        {"blocks", NULL, 0, long_name},
        {"head_hex", NULL, 0, long_hex},
    };

    memset(long_name, 'x', sizeof(long_name) - 1);
    memset(long_hex, '0', sizeof(long_hex) - 1);
    for (size_t i = 0; i < VN_COUNT(bad); i++) {
        vn_auto(json) json_t *json = json_deep_copy(f->json);
        vn_auto(json) json_t *value = bad[i].value;
        struct vn_err err = VN_ERR_INIT;

        if (!bad[i].code) /* too long for its limit */
            value = strcmp(bad[i].key, "blocks")
                        ? json_string(bad[i].message)
                        : block_list(long_name, 4096, 1);
        if (value)
            json_object_set(json, bad[i].key, value);
        else
            json_object_del(json, bad[i].key);
        assert_int_equal(qemu_state_from_json(json, &f->read, &err), -1);
        if (!bad[i].code)
            continue;
        assert_int_equal(err.code, bad[i].code);
        if (!strstr(err.msg, bad[i].message))
            assert_string_equal(err.msg, bad[i].message);
    }
}

static void test_manifest(void **state)
{
    struct fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    vn_auto(json) json_t *manifest =
        json_pack("{s:{s:{s:O}}}", "meta", "vm_state", "a", f->json);
    vn_auto(json) json_t *empty = json_object();

    assert_ptr_equal(qemu_state_in_manifest(manifest, "a", &err), f->json);
    assert_null(qemu_state_in_manifest(manifest, "b", &err));
    assert_int_equal(err.code, VN_E_NOT_FOUND);
    assert_string_equal(err.msg, "the snapshot has no state of VM 'b'");
    assert_null(qemu_state_in_manifest(empty, "a", &err));
    assert_int_equal(err.code, VN_E_FORMAT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test_setup_teardown(test_both_ways, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hostile, setup, teardown),
        cmocka_unit_test_setup_teardown(test_manifest, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
