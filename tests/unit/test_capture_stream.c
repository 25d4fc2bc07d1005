/* The migration stream's parser: good streams in all portions, real ones of
 * tests/golden, every refusal, every truncation. */

#include "capture/qemu_stream.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "unit/stream_builder.h"
#include <archive.h>
#include <archive_entry.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* What a stream reported. */
struct seen {
    struct qemu_stream_sink sink;
    struct buf log;  /* "block offset kind;" of every page */
    uint8_t *memory; /* block 0, up to 16 MiB */
    const uint8_t *fed, *fed_end;
    unsigned lists, pages, zeros, in_place;
    unsigned fail_at_page; /* 1: the first */
};

static int see_blocks(void *context, const struct qemu_block *blocks,
                      unsigned count, struct vn_err *err)
{
    struct seen *seen = context;

    (void)err;
    seen->lists++;
    assert_true(count > 0);
    free(seen->memory);
    seen->memory = calloc(1, blocks[0].size);
    return 0;
}

static int see_page(void *context, unsigned block, uint64_t offset,
                    const void *page, struct vn_err *err)
{
    struct seen *seen = context;
    const uint8_t *p = page;
    char line[64];

    snprintf(line, sizeof(line), "%u %" PRIu64 " %02x;", block, offset,
             p ? p[0] : 0);
    buf_put(&seen->log, line, strlen(line));
    seen->pages += p != NULL;
    seen->zeros += p == NULL;
    seen->in_place += p >= seen->fed && p < seen->fed_end;
    if (block == 0 && p)
        memcpy(seen->memory + offset, p, QEMU_PAGE_SIZE);
    else if (block == 0)
        memset(seen->memory + offset, 0, QEMU_PAGE_SIZE);
    if (seen->fail_at_page && seen->pages == seen->fail_at_page)
        return vn_fail(err, VN_E_STATE, "the sink is full");
    return 0;
}

struct fixture {
    struct buf stream; /* what to feed */
    struct seen seen;
    struct qemu_stream *parser;
};

static int setup(void **state)
{
    struct fixture *f = vn_alloc(sizeof(*f));

    buf_init(&f->stream, 64 << 20);
    buf_init(&f->seen.log, 1 << 20);
    *state = f;
    return 0;
}

static void reset(struct fixture *f)
{
    qemu_stream_free(f->parser);
    free(f->seen.memory);
    buf_done(&f->seen.log);
    f->seen = (struct seen){.fail_at_page = f->seen.fail_at_page};
    buf_init(&f->seen.log, 1 << 20);
    f->seen.sink = (struct qemu_stream_sink){see_blocks, see_page, &f->seen};
    f->parser = qemu_stream_new(&f->seen.sink);
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    qemu_stream_free(f->parser);
    free(f->seen.memory);
    buf_done(&f->seen.log);
    buf_done(&f->stream);
    free(f);
    return 0;
}

/* Feed the first `size` bytes in portions, then finish. */
static int run(struct fixture *f, size_t size, size_t portion,
               struct vn_err *err)
{
    reset(f);
    for (size_t done = 0; done < size;) {
        size_t n = size - done < portion ? size - done : portion;

        f->seen.fed = f->stream.data + done;
        f->seen.fed_end = f->seen.fed + n;
        if (qemu_stream_feed(f->parser, f->seen.fed, n, err) < 0)
            return -1;
        done += n;
    }
    return qemu_stream_finish(f->parser, err);
}

static void build_good(struct buf *b, const char *description)
{
    sb_begin(b);
    buf_put(b, "\10\0\2\0\4ping", 9); /* COMMAND 2, 4 bytes */
    sb_section(b, 2, SB_RAM_ID);
    sb_page(b, "b/c", 4096, 0x11);
    sb_page(b, "a", 0, 0x22);
    sb_end(b);
    buf_put(b, "\10\0\13\0\0", 5); /* COMMAND 11 */
    sb_section(b, 3, SB_RAM_ID);
    sb_page(b, NULL, 3 * 4096, 0x33); /* continues across sections */
    sb_zero(b, NULL, 0);              /* again: the last one counts */
    sb_zero(b, "b/c", 0);
    sb_end(b);
    sb_device_state(b, description);
}

static const char good_log[] = "1 4096 11;0 0 22;0 12288 33;0 0 00;1 0 00;";

static void test_portions(void **state)
{
    static const size_t portions[] = {1, 2, 3, 5, 4095, 4096, 4097, 1 << 20};
    struct fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    const struct qemu_block *blocks;
    unsigned count;

    build_good(&f->stream, "{\"page_size\": 4096}");
    for (size_t i = 0; i < VN_COUNT(portions); i++) {
        const struct buf *head, *blob;
        int r = run(f, f->stream.size, portions[i], &err);

        assert_string_equal(err.msg, "");
        assert_int_equal(r, 0);
        assert_int_equal(f->seen.lists, 1);
        assert_int_equal(f->seen.log.size, strlen(good_log));
        assert_memory_equal(f->seen.log.data, good_log, strlen(good_log));
        assert_true(qemu_stream_ram_began(f->parser));
        assert_string_equal(qemu_stream_machine(f->parser), "pc-test-1.0");
        blocks = qemu_stream_blocks(f->parser, &count);
        assert_int_equal(count, 2);
        assert_string_equal(blocks[1].name, "b/c");
        assert_int_equal(blocks[1].size, 2 * 4096);
        head = qemu_stream_head(f->parser);
        assert_int_equal(head->size, 24);
        assert_memory_equal(head->data, f->stream.data, head->size);
        blob = qemu_stream_device_state(f->parser);
        assert_memory_equal(blob->data,
                            f->stream.data + f->stream.size - blob->size,
                            blob->size);
        assert_int_equal(blob->data[0], 4);
    }
    assert_int_equal(f->seen.in_place, 3); /* whole pages are not copied */
}

static void test_subsections(void **state)
{
    struct fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    struct buf *b = &f->stream;
    size_t head_size;

    sb_head(b, "pc");
    sb_subsection(b, "configuration/target-page-bits");
    buf_put_be32(b, 12);
    sb_subsection(b, "configuration/capabilities");
    buf_put_be32(b, 0);
    sb_subsection(b, "configuration/uuid");
    buf_put_zero(b, 16);
    head_size = b->size;
    sb_start(b, "ram", 0, 4);
    buf_put_be64(b, 4096 | SB_MEM);
    sb_block(b, "pc.ram", 4096);
    sb_end(b);
    sb_section(b, 3, SB_RAM_ID);
    sb_end(b);
    sb_device_state(b, NULL);
    assert_int_equal(run(f, b->size, 7, &err), 0);
    assert_int_equal(qemu_stream_head(f->parser)->size, head_size);
    assert_memory_equal(qemu_stream_head(f->parser)->data, b->data, head_size);
    assert_false(qemu_stream_ram_began(f->parser));
}

/* Every prefix is refused, but for the one that lacks only the optional
 * description. */
static void test_truncation(void **state)
{
    static const char description[] = "{\"page_size\": 4096}";
    struct fixture *f = *state;
    size_t bare;

    build_good(&f->stream, description);
    bare = f->stream.size - strlen(description) - 5;
    for (size_t size = 0; size <= f->stream.size; size++) {
        struct vn_err err = VN_ERR_INIT;
        int expected = size == bare || size == f->stream.size ? 0 : -1;

        assert_int_equal(run(f, size, 1 << 20, &err), expected);
        if (expected)
            assert_int_equal(err.code, VN_E_FORMAT);
    }
}

static void test_sink_error(void **state)
{
    struct fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;

    build_good(&f->stream, NULL);
    f->seen.fail_at_page = 2;
    assert_int_equal(run(f, f->stream.size, 100, &err), -1);
    assert_int_equal(err.code, VN_E_STATE);
    assert_string_equal(err.msg, "the sink is full");
    assert_int_equal(f->seen.pages, 2);
}

/* ---- refusals: each builder makes a stream wrong in one place ------------ */

static void bad_magic(struct buf *b)
{
    buf_put(b, "LibvirtQemudSave", 16);
}
static void bad_version(struct buf *b)
{
    buf_put(b, "QEVM\0\0\0\2", 8);
}
static void bad_no_config(struct buf *b)
{
    buf_put(b, "QEVM\0\0\0\3\1\0\0\0\2", 13);
}
static void bad_machine_size(struct buf *b)
{
    buf_put(b, "QEVM\0\0\0\3\7\0\0\1\0", 13);
}
static void bad_machine_text(struct buf *b)
{
    sb_head(b, "pc\n");
}
static void bad_page_bits(struct buf *b)
{
    sb_head(b, "pc");
    sb_subsection(b, "configuration/target-page-bits");
    buf_put_be32(b, 16);
}
static void bad_capability(struct buf *b)
{
    sb_head(b, "pc");
    sb_subsection(b, "configuration/capabilities");
    buf_put_be32(b, 1);
    sb_name(b, "x-ignore-shared");
}
static void bad_subsection(struct buf *b)
{
    sb_head(b, "pc");
    sb_subsection(b, "configuration/else");
}
static void bad_subsection_twice(struct buf *b)
{
    sb_head(b, "pc");
    for (int i = 0; i < 2; i++) {
        sb_subsection(b, "configuration/uuid");
        buf_put_zero(b, 16);
    }
}
static void bad_live_section(struct buf *b)
{
    sb_head(b, "pc");
    sb_start(b, "dirty-bitmap", 0, 1);
}
static void bad_ram_version(struct buf *b)
{
    sb_head(b, "pc");
    sb_start(b, "ram", 0, 5);
}
static void bad_second_start(struct buf *b)
{
    sb_begin(b);
    sb_start(b, "ram", 0, 4);
}
static void bad_part_first(struct buf *b)
{
    sb_head(b, "pc");
    sb_section(b, 2, SB_RAM_ID);
}
static void bad_part_id(struct buf *b)
{
    sb_begin(b);
    sb_section(b, 2, 77);
}
static void bad_part_after_end(struct buf *b)
{
    sb_begin(b);
    sb_section(b, 3, SB_RAM_ID);
    sb_end(b);
    sb_section(b, 2, SB_RAM_ID);
}
static void bad_early_device(struct buf *b)
{
    sb_begin(b);
    sb_device_state(b, NULL);
}
static void bad_no_devices(struct buf *b)
{
    sb_begin(b);
    sb_section(b, 3, SB_RAM_ID);
    sb_end(b);
    buf_put_u8(b, 0);
}
static void bad_type(struct buf *b)
{
    sb_begin(b);
    buf_put_u8(b, 0x55);
}
static void bad_packaged(struct buf *b)
{
    sb_begin(b);
    buf_put(b, "\10\0\7\0\4", 5);
}
static void bad_command_size(struct buf *b)
{
    sb_begin(b);
    buf_put(b, "\10\0\2\0\5", 5);
}
static void bad_footer(struct buf *b)
{
    sb_begin(b);
    sb_section(b, 2, SB_RAM_ID);
    buf_put_be64(b, SB_EOS);
    sb_section(b, 0x7e, 3);
}
static void bad_no_list(struct buf *b)
{
    sb_head(b, "pc");
    sb_start(b, "ram", 0, 4);
    buf_put_be64(b, SB_EOS);
}
static void bad_second_list(struct buf *b)
{
    sb_begin(b);
    sb_section(b, 2, SB_RAM_ID);
    buf_put_be64(b, 4096 | SB_MEM);
}
static void list(struct buf *b, uint64_t total)
{
    sb_head(b, "pc");
    sb_start(b, "ram", 0, 4);
    buf_put_be64(b, total | SB_MEM);
}
static void bad_total(struct buf *b)
{
    list(b, 1ull << 47);
}
static void bad_total_zero(struct buf *b)
{
    list(b, 0);
}
static void bad_sum(struct buf *b)
{
    list(b, 8192);
    sb_block(b, "a", 4096);
    sb_block(b, "b", 8192);
}
static void bad_block_size(struct buf *b)
{
    list(b, 8192);
    sb_block(b, "a", 4097);
}
static void bad_block_twice(struct buf *b)
{
    list(b, 8192);
    sb_block(b, "a", 4096);
    sb_block(b, "a", 4096);
}
static void bad_block_name(struct buf *b)
{
    list(b, 4096);
    sb_block(b, "a\x01", 4096);
}
static void bad_block_count(struct buf *b)
{
    char name[8];

    list(b, 100 * 4096);
    for (int i = 0; i < 65; i++) {
        snprintf(name, sizeof(name), "b%d", i);
        sb_block(b, name, 4096);
    }
}
static void record(struct buf *b, uint64_t word)
{
    sb_begin(b);
    sb_section(b, 2, SB_RAM_ID);
    buf_put_be64(b, word);
}
static void bad_continue(struct buf *b)
{
    record(b, SB_PAGE | SB_CONT);
}
static void bad_flags(struct buf *b)
{
    record(b, SB_PAGE | SB_ZERO);
}
static void bad_xbzrle(struct buf *b)
{
    record(b, 0x40);
}
static void bad_eos_offset(struct buf *b)
{
    record(b, 4096 | SB_EOS);
}
static void bad_block(struct buf *b)
{
    record(b, SB_PAGE);
    sb_name(b, "c");
}
static void bad_offset(struct buf *b)
{
    record(b, 4 * 4096 | SB_PAGE);
    sb_name(b, "a");
}
static void bad_offset_continued(struct buf *b)
{
    record(b, 4096 | SB_ZERO);
    sb_name(b, "b/c");
    buf_put_u8(b, 0);
    buf_put_be64(b, 2 * 4096 | SB_ZERO | SB_CONT);
}
static void bad_fill(struct buf *b)
{
    record(b, SB_ZERO);
    sb_name(b, "a");
    buf_put_u8(b, 7);
}
static void bad_description(struct buf *b)
{
    build_good(b, "{}");
    buf_put_u8(b, '}'); /* one byte more than its length says */
}
static void bad_big_device_state(struct buf *b)
{
    sb_begin(b);
    sb_section(b, 3, SB_RAM_ID);
    sb_end(b);
    sb_section(b, 4, 9);
    b->limit = QEMU_DEVICE_STATE_MAX + (1 << 20);
    buf_put_zero(b, QEMU_DEVICE_STATE_MAX);
}

static const struct {
    void (*build)(struct buf *b);
    int code;
    const char *message; /* its beginning */
} bad[] = {
    {bad_magic, VN_E_FORMAT, "at byte 0: not a QEMU migration stream"},
    {bad_version, VN_E_VERSION, "at byte 0: migration stream of version 2"},
    {bad_no_config, VN_E_UNSUPPORTED, "at byte 8: no configuration"},
    {bad_machine_size, VN_E_FORMAT, "at byte 8: machine name of 256"},
    {bad_machine_text, VN_E_FORMAT, "at byte 13: machine name"},
    {bad_page_bits, VN_E_UNSUPPORTED, "at byte 51: pages of 2^16"},
    {bad_capability, VN_E_UNSUPPORTED,
     "at byte 52: the stream uses the capability 'x-ignore-shared'"},
    {bad_subsection, VN_E_UNSUPPORTED,
     "at byte 17: unknown subsection 'configuration/else'"},
    {bad_subsection_twice, VN_E_FORMAT, "at byte 57: subsection"},
    {bad_live_section, VN_E_UNSUPPORTED,
     "at byte 21: unknown live section 'dirty-bitmap'"},
    {bad_ram_version, VN_E_UNSUPPORTED, "at byte 21: memory section of"},
    {bad_second_start, VN_E_FORMAT, "at byte 90: memory section started"},
    {bad_part_first, VN_E_FORMAT, "at byte 15: memory section before"},
    {bad_part_id, VN_E_FORMAT, "at byte 85: unknown section id 77"},
    {bad_part_after_end, VN_E_FORMAT, "at byte 102: memory section after"},
    {bad_early_device, VN_E_UNSUPPORTED, "at byte 84: a device section"},
    {bad_no_devices, VN_E_FORMAT, "at byte 102: the stream ends without"},
    {bad_type, VN_E_UNSUPPORTED, "at byte 84: unknown section type 0x55"},
    {bad_packaged, VN_E_UNSUPPORTED, "at byte 85: migration command 7"},
    {bad_command_size, VN_E_FORMAT, "at byte 85: migration command 2 with 5"},
    {bad_footer, VN_E_FORMAT, "at byte 97: the memory section has no foot"},
    {bad_no_list, VN_E_FORMAT, "at byte 32: memory record 0x10 before"},
    {bad_second_list, VN_E_FORMAT, "at byte 89: unexpected list"},
    {bad_total, VN_E_LIMIT, "at byte 32: 140737488355328 bytes"},
    {bad_total_zero, VN_E_FORMAT, "at byte 32: empty list"},
    {bad_sum, VN_E_FORMAT, "at byte 51: block 'b' has 8192 bytes, more than"},
    {bad_block_size, VN_E_FORMAT, "at byte 41: block 'a' has 4097 bytes"},
    {bad_block_twice, VN_E_FORMAT, "at byte 51: block 'a' twice"},
    {bad_block_name, VN_E_FORMAT, "at byte 41: block name is empty"},
    {bad_block_count, VN_E_LIMIT, "at byte 799: more than 64 blocks"},
    {bad_continue, VN_E_FORMAT, "at byte 89: memory record continues no"},
    {bad_flags, VN_E_UNSUPPORTED, "at byte 89: unknown memory record 0xa"},
    {bad_xbzrle, VN_E_UNSUPPORTED, "at byte 89: unknown memory record 0x40"},
    {bad_eos_offset, VN_E_UNSUPPORTED, "at byte 89: unknown memory record"},
    {bad_block, VN_E_FORMAT, "at byte 98: page of an unlisted block"},
    {bad_offset, VN_E_FORMAT, "at byte 98: page at 0x4000 is outside"},
    {bad_offset_continued, VN_E_FORMAT, "at byte 102: page at 0x2000"},
    {bad_fill, VN_E_UNSUPPORTED, "at byte 99: page filled with 0x07"},
    {bad_description, VN_E_FORMAT, "the device state of"},
    {bad_big_device_state, VN_E_LIMIT, "at byte 103: device state is larger"},
};

static void test_refusals(void **state)
{
    struct fixture *f = *state;

    for (size_t i = 0; i < VN_COUNT(bad); i++) {
        static const size_t portions[] = {1, SIZE_MAX};

        buf_done(&f->stream);
        bad[i].build(&f->stream);
        for (size_t k = 0; k < VN_COUNT(portions); k++) {
            struct vn_err err = VN_ERR_INIT;

            if (portions[k] == 1 && f->stream.size > 1 << 20)
                continue;
            assert_int_equal(run(f, f->stream.size, portions[k], &err), -1);
            if (strncmp(err.msg, bad[i].message, strlen(bad[i].message)))
                assert_string_equal(err.msg, bad[i].message);
            assert_int_equal(err.code, bad[i].code);
        }
    }
}

static void test_check_parts(void **state)
{
    struct fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    char machine[QEMU_MACHINE_NAME_MAX + 1];
    struct buf *b = &f->stream;

    sb_head(b, "pc-test-1.0");
    assert_int_equal(qemu_stream_check_head(b->data, b->size, machine, &err),
                     0);
    assert_string_equal(machine, "pc-test-1.0");
    for (size_t size = 0; size < b->size; size++)
        assert_int_equal(qemu_stream_check_head(b->data, size, machine, &err),
                         -1);
    buf_put_u8(b, 1); /* the type of the next section is not head */
    assert_int_equal(qemu_stream_check_head(b->data, b->size, machine, &err),
                     -1);
    assert_int_equal(qemu_stream_check_block("x", 1, 4096, &err), 0);
    assert_int_equal(qemu_stream_check_block("", 0, 4096, &err), -1);
    assert_int_equal(qemu_stream_check_block("x", 1, 0, &err), -1);
    assert_int_equal(qemu_stream_check_block("x", 1, 1ull << 47, &err), -1);
    assert_int_equal(err.code, VN_E_LIMIT);
}

/* ---- real streams -------------------------------------------------------- */

static void read_golden(const char *name, struct buf *out)
{
    vn_auto(free) char *path = vn_format("%s/golden/%s", TESTS_DIR, name);
    struct archive *a = archive_read_new();
    struct archive_entry *entry;
    la_ssize_t n;

    archive_read_support_filter_xz(a);
    archive_read_support_format_raw(a);
    assert_int_equal(archive_read_open_filename(a, path, 65536), ARCHIVE_OK);
    assert_int_equal(archive_read_next_header(a, &entry), ARCHIVE_OK);
    do {
        uint8_t *to = buf_reserve(out, 65536);

        assert_non_null(to);
        n = archive_read_data(a, to, 65536);
        assert_true(n >= 0);
        out->size += (size_t)n;
    } while (n > 0);
    archive_read_free(a);
}

/* tests/golden/make_qemu_stream.py says what the memory holds. */
static void check_golden(struct fixture *f)
{
    const struct qemu_block *blocks;
    unsigned count;

    assert_string_equal(qemu_stream_machine(f->parser), "pc-i440fx-7.2");
    blocks = qemu_stream_blocks(f->parser, &count);
    assert_int_equal(count, 6);
    assert_string_equal(blocks[0].name, "pc.ram");
    assert_int_equal(blocks[0].size, 16 << 20);
    assert_string_equal(blocks[1].name, "/rom@etc/acpi/tables");
    assert_int_equal(f->seen.pages + f->seen.zeros,
                     4096 + 32 + 32 + 16 + 1 + 1);
    for (unsigned page = 0; page < 8; page++) {
        const uint8_t *p = f->seen.memory + 0x10000 + page * 4096;

        for (unsigned i = 0; i < 4096; i += 2)
            assert_int_equal(p[i] | p[i + 1] << 8, 0x1000 + 0x100 * page);
    }
}

static void test_golden(void **state)
{
    static const char *const names[] = {"qemu-stream-7.2-cow.xz",
                                        "qemu-stream-7.2-stop.xz"};
    struct fixture *f = *state;

    for (size_t i = 0; i < VN_COUNT(names); i++) {
        struct vn_err err = VN_ERR_INIT;
        int r;

        buf_done(&f->stream);
        read_golden(names[i], &f->stream);
        r = run(f, f->stream.size, 1000, &err);
        assert_string_equal(err.msg, "");
        assert_int_equal(r, 0);
        check_golden(f);
        assert_int_equal(run(f, f->stream.size, SIZE_MAX, &err), 0);
        assert_int_equal(f->seen.in_place, f->seen.pages);
        check_golden(f);
        assert_int_equal(run(f, f->stream.size - 1, SIZE_MAX, &err), -1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_portions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_subsections, setup, teardown),
        cmocka_unit_test_setup_teardown(test_truncation, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sink_error, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
        cmocka_unit_test_setup_teardown(test_check_parts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_golden, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
