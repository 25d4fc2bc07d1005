/*
 * Streams that are wrong in one place, each refused for that, in what is
 * around libxc's: libxl's records, the device model, xenstore, xl's header.
 */

#include "unit/xen_refusals.h"

static void build_pv(struct buf *b)
{
    xb_begin(b, XB_PV);
    xb_page(b, 0, 1, 'a');
    xb_tail(b, XB_PV);
}

/* libxl */
static void bad_libxl_version(struct buf *b)
{
    buf_put(b, "LibxlFmt\0\0\0\3\0\0\0\0", 16);
}
static void bad_libxl_big_endian(struct buf *b)
{
    buf_put(b, "LibxlFmt\0\0\0\2\0\0\0\1", 16);
}
static void bad_libxl_options(struct buf *b)
{
    buf_put(b, "LibxlFmt\0\0\0\2\0\0\0\4", 16);
}
static void bad_libxl_context_body(struct buf *b)
{
    buf_put(b, "LibxlFmt\0\0\0\2\0\0\0\0", 16);
    xb_record(b, 1, "12345678", 8);
}
static void bad_libxl_end_first(struct buf *b)
{
    buf_put(b, "LibxlFmt\0\0\0\2\0\0\0\0", 16);
    xb_end(b);
}
static void bad_libxl_emulator_first(struct buf *b)
{
    buf_put(b, "LibxlFmt\0\0\0\2\0\0\0\0", 16);
    xb_emulator(b);
}
static void libxl_hvm(struct buf *b)
{
    xb_libxl_begin(b);
    build_hvm(b);
    xb_end(b);
}
static void bad_libxl_marker(struct buf *b)
{
    xb_libxl_begin(b);
    buf_put_zero(b, 24);
}
static void bad_libxl_twice(struct buf *b)
{
    libxl_hvm(b);
    xb_record(b, 1, NULL, 0);
}
static void bad_libxl_checkpoint(struct buf *b)
{
    xb_libxl_begin(b);
    build_hvm(b);
    xb_record(b, XB_CHECKPOINT, NULL, 0);
}
static void bad_libxl_checkpoint_end(struct buf *b)
{
    libxl_hvm(b);
    xb_record(b, 4, NULL, 0);
}
static void bad_libxl_checkpoint_state(struct buf *b)
{
    libxl_hvm(b);
    xb_record(b, 5, "12345678", 8);
}
static void bad_libxl_optional(struct buf *b)
{
    libxl_hvm(b);
    xb_record(b, 0x80000006, NULL, 0);
}
static void bad_libxl_after_end(struct buf *b)
{
    libxl_hvm(b);
    xb_end(b);
    xb_end(b);
}
static void bad_emulator_pv(struct buf *b)
{
    xb_libxl_begin(b);
    build_pv(b);
    xb_end(b);
    xb_emulator(b);
}
static void bad_emulator_short(struct buf *b)
{
    libxl_hvm(b);
    xb_record(b, 3, "1234", 4);
}
static void bad_emulator_id(struct buf *b)
{
    libxl_hvm(b);
    xb_filled(b, 3, 3, 0, 20, 1);
}
static void bad_emulator_huge(struct buf *b)
{
    libxl_hvm(b);
    buf_put_le32(b, 3);
    buf_put_le32(b, XEN_PARTS_MAX + 1);
}
static void bad_emulator_padding(struct buf *b)
{
    libxl_hvm(b);
    xb_filled(b, 3, 2, 0, 13, 1);
    b->data[b->size - 3] = 1;
}
static void bad_xenstore_open(struct buf *b)
{
    libxl_hvm(b);
    xb_record(b, 2, "\2\0\0\0\0\0\0\0key\0value", 17);
}
static void bad_xenstore_odd(struct buf *b)
{
    libxl_hvm(b);
    xb_record(b, 2, "\2\0\0\0\0\0\0\0key\0", 12);
}
static void bad_xenstore_key(struct buf *b)
{
    libxl_hvm(b);
    xb_record(b, 2, "\2\0\0\0\0\0\0\0/key\0v", 15);
}
/* xl */
static void bad_xl_magic(struct buf *b)
{
    xb_xl_head(b, "{}");
    b->data[31] = 0;
}
static void bad_xl_order(struct buf *b)
{
    xb_xl_head(b, "{}");
    b->data[32] = 1;
}
static void bad_xl_no_json(struct buf *b)
{
    xb_xl_head(b, "{}");
    b->data[36] = 2;
}
static void bad_xl_no_stream2(struct buf *b)
{
    xb_xl_head(b, "{}");
    b->data[36] = 1;
}
static void bad_xl_flags(struct buf *b)
{
    xb_xl_head(b, "{}");
    b->data[36] = 7;
}
static void bad_xl_optional_short(struct buf *b)
{
    xb_xl_head(b, "{}");
    b->data[44] = 3;
}
static void bad_xl_optional_huge(struct buf *b)
{
    xb_xl_head(b, "{}");
    b->data[46] = 0x50;
}
static void bad_xl_config_size(struct buf *b)
{
    xb_xl_head(b, "{}");
    b->data[48] = 4;
}
static void bad_xl_config_empty(struct buf *b)
{
    xb_xl_head(b, "{}");
    b->data[48] = 0;
}
static void bad_xl_config_open(struct buf *b)
{
    xb_xl_head(b, "{}");
    b->data[b->size - 1] = 'x';
}
static void bad_xl_config_nul(struct buf *b)
{
    xb_xl_head(b, "{}");
    b->data[b->size - 2] = 0;
}
static void bad_xl_inside(struct buf *b)
{
    xb_xl_head(b, "{}");
    build_hvm(b);
}

static const struct refusal refusals[] = {
    {bad_libxl_version, VN_E_VERSION, "version 3"},
    {bad_libxl_big_endian, VN_E_UNSUPPORTED, "big-endian"},
    {bad_libxl_options, VN_E_FORMAT, "reserved options 0x4"},
    {bad_libxl_context_body, VN_E_FORMAT, "record 1 of libxl with 8 bytes"},
    {bad_libxl_end_first, VN_E_FORMAT, "ends before the domain's"},
    {bad_libxl_emulator_first, VN_E_FORMAT, "before the domain's"},
    {bad_libxl_marker, VN_E_FORMAT, "no libxc stream here"},
    {bad_libxl_twice, VN_E_FORMAT, "a second libxc stream"},
    {bad_libxl_checkpoint, VN_E_UNSUPPORTED, "a checkpoint inside"},
    {bad_libxl_checkpoint_end, VN_E_UNSUPPORTED, "a checkpoint inside"},
    {bad_libxl_checkpoint_state, VN_E_UNSUPPORTED, "a checkpoint inside"},
    {bad_libxl_optional, VN_E_UNSUPPORTED, "unknown record 0x80000006"},
    {bad_libxl_after_end, VN_E_FORMAT, "after the end"},
    {bad_emulator_pv, VN_E_FORMAT, "of a PV domain"},
    {bad_emulator_short, VN_E_FORMAT, "of 4 bytes, less than 8"},
    {bad_emulator_id, VN_E_UNSUPPORTED, "device model 3"},
    {bad_emulator_huge, VN_E_LIMIT, "of 67108865 bytes"},
    {bad_emulator_padding, VN_E_FORMAT, "padding"},
    {bad_xenstore_open, VN_E_FORMAT, "does not end in NUL"},
    {bad_xenstore_odd, VN_E_FORMAT, "a key without a value"},
    {bad_xenstore_key, VN_E_FORMAT, "no relative path"},
    {bad_xl_magic, VN_E_FORMAT, "not a file of xl"},
    {bad_xl_order, VN_E_UNSUPPORTED, "another byte order"},
    {bad_xl_no_json, VN_E_UNSUPPORTED, "mandatory flags 0x2"},
    {bad_xl_no_stream2, VN_E_UNSUPPORTED, "mandatory flags 0x1"},
    {bad_xl_flags, VN_E_UNSUPPORTED, "mandatory flags 0x7"},
    {bad_xl_optional_short, VN_E_FORMAT, "optional data of 3 bytes"},
    {bad_xl_optional_huge, VN_E_LIMIT, "optional data of 5242887 bytes"},
    {bad_xl_config_size, VN_E_FORMAT, "a configuration of 4 bytes"},
    {bad_xl_config_empty, VN_E_FORMAT, "a configuration of 0 bytes"},
    {bad_xl_config_open, VN_E_FORMAT, "ends in NUL"},
    {bad_xl_config_nul, VN_E_FORMAT, "ends in NUL"},
    {bad_xl_inside, VN_E_FORMAT, "no stream of libxl here"},
};

static void test_refusals(void **state)
{
    assert_refused(*state, refusals, VN_COUNT(refusals));
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
