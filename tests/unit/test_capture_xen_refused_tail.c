/*
 * Streams of libxc that are wrong in one place, each refused for that: what
 * comes behind the pages (contexts, parameters, the end), and the sizes of
 * parts.
 */

#include "unit/xen_refusals.h"

static void begin_hvm_tail(struct buf *b)
{
    xb_begin(b, XB_HVM);
    xb_page(b, 0, 1, 'a');
}
static void bad_vcpu_in_hvm(struct buf *b)
{
    begin_hvm_tail(b);
    xb_vcpu(b, 0);
}
static void bad_shared_in_hvm(struct buf *b)
{
    begin_hvm_tail(b);
    xb_filled(b, XB_SHARED, 1, 2, 4096, 0x5a);
}
static void bad_tsc_size(struct buf *b)
{
    begin_hvm_tail(b);
    xb_filled(b, XB_TSC, 1, 2, 16, 0);
}
static void bad_tsc_reserved(struct buf *b)
{
    begin_hvm_tail(b);
    xb_filled(b, XB_TSC, 1, 2, 24, 1);
}
static void bad_context_empty(struct buf *b)
{
    begin_hvm_tail(b);
    xb_record(b, XB_CONTEXT, NULL, 0);
}
static void bad_context_twice(struct buf *b)
{
    begin_hvm_tail(b);
    xb_filled(b, XB_CONTEXT, 1, 8, 45, 0xcc);
    xb_filled(b, XB_CONTEXT, 1, 8, 45, 0xcc);
}
static void bad_params_count(struct buf *b)
{
    begin_hvm_tail(b);
    xb_params(b, 2, 3);
}
static void bad_params_wrap(struct buf *b)
{
    begin_hvm_tail(b);
    xb_params(b, 0, 0x10000000);
}
static void bad_no_context(struct buf *b)
{
    begin_hvm_tail(b);
    xb_params(b, 1, 1);
    xb_end(b);
}
static void bad_no_params(struct buf *b)
{
    begin_hvm_tail(b);
    xb_filled(b, XB_CONTEXT, 1, 8, 45, 0xcc);
    xb_record(b, XB_CHECKPOINT, NULL, 0);
}
static void bad_no_memory(struct buf *b)
{
    xb_begin(b, XB_HVM);
    xb_tail(b, XB_HVM);
    xb_end(b);
}
static void begin_pv_tail(struct buf *b)
{
    xb_begin(b, XB_PV);
    xb_page(b, 0, 1, 'a');
}
static void bad_context_in_pv(struct buf *b)
{
    begin_pv_tail(b);
    xb_filled(b, XB_CONTEXT, 1, 8, 45, 0xcc);
}
static void bad_basic_size(struct buf *b)
{
    begin_pv_tail(b);
    xb_filled(b, XB_BASIC, 0, 0, 8 + 2800, 0xb0);
}
static void bad_basic_empty(struct buf *b)
{
    begin_pv_tail(b);
    xb_filled(b, XB_BASIC, 0, 0, 8, 0xb0);
}
static void bad_extended_size(struct buf *b)
{
    begin_pv_tail(b);
    xb_filled(b, XB_EXTENDED, 0, 0, 8 + 129, 0xb0);
}
static void bad_xsave_size(struct buf *b)
{
    begin_pv_tail(b);
    xb_filled(b, XB_XSAVE, 0, 0, 8 + 15, 0xb0);
}
static void bad_msrs_size(struct buf *b)
{
    begin_pv_tail(b);
    xb_filled(b, XB_MSRS, 0, 0, 8 + 24, 0xb0);
}
static void bad_vcpu_reserved(struct buf *b)
{
    begin_pv_tail(b);
    xb_filled(b, XB_MSRS, 0, 1, 8 + 16, 0xb0);
}
static void bad_vcpu_number(struct buf *b)
{
    begin_pv_tail(b);
    xb_vcpu(b, 8192);
}
static void bad_vcpu_twice(struct buf *b)
{
    begin_pv_tail(b);
    xb_vcpu(b, 1);
    xb_filled(b, XB_MSRS, 1, 0, 8 + 16, 0xb0);
}
static void bad_shared_size(struct buf *b)
{
    begin_pv_tail(b);
    xb_filled(b, XB_SHARED, 1, 2, 4088, 0x5a);
}
static void bad_no_vcpu_0(struct buf *b)
{
    begin_pv_tail(b);
    xb_filled(b, XB_SHARED, 1, 2, 4096, 0x5a);
    xb_vcpu(b, 1);
    xb_filled(b, XB_MSRS, 0, 0, 8 + 16, 0xb0);
    xb_end(b);
}
static void bad_no_shared(struct buf *b)
{
    begin_pv_tail(b);
    xb_vcpu(b, 0);
    xb_end(b);
}
static void bad_end_body(struct buf *b)
{
    build_hvm(b);
    xb_record(b, XB_END, "12345678", 8);
}
static void bad_after_end(struct buf *b)
{
    build_hvm(b);
    xb_end(b);
    buf_put_u8(b, 0);
}

static const struct refusal refusals[] = {
    {bad_vcpu_in_hvm, VN_E_FORMAT, "X86_PV_VCPU_BASIC in the stream of an HVM"},
    {bad_shared_in_hvm, VN_E_FORMAT, "SHARED_INFO in the stream of an HVM"},
    {bad_tsc_size, VN_E_FORMAT, "X86_TSC_INFO of 16 bytes"},
    {bad_tsc_reserved, VN_E_FORMAT, "reserved bits in X86_TSC_INFO"},
    {bad_context_empty, VN_E_FORMAT, "HVM_CONTEXT of 0 bytes"},
    {bad_context_twice, VN_E_FORMAT, "HVM_CONTEXT twice"},
    {bad_params_count, VN_E_FORMAT, "32 bytes for 3 parameters"},
    {bad_params_wrap, VN_E_FORMAT, "0 bytes for 268435456 parameters"},
    {bad_no_context, VN_E_FORMAT, "no record HVM_CONTEXT"},
    {bad_no_params, VN_E_FORMAT, "no record HVM_PARAMS"},
    {bad_no_memory, VN_E_FORMAT, "no record PAGE_DATA"},
    {bad_context_in_pv, VN_E_FORMAT, "HVM_CONTEXT in the stream of a PV"},
    {bad_basic_size, VN_E_FORMAT, "vCPU 0 with a context of 2800 bytes"},
    {bad_basic_empty, VN_E_FORMAT, "X86_PV_VCPU_BASIC of 8 bytes"},
    {bad_extended_size, VN_E_FORMAT, "X86_PV_VCPU_EXTENDED of 137 bytes"},
    {bad_xsave_size, VN_E_FORMAT, "a context of 15 bytes"},
    {bad_msrs_size, VN_E_FORMAT, "a context of 24 bytes"},
    {bad_vcpu_reserved, VN_E_FORMAT, "reserved bits in X86_PV_VCPU_MSRS"},
    {bad_vcpu_number, VN_E_LIMIT, "vCPU 8192"},
    {bad_vcpu_twice, VN_E_FORMAT, "X86_PV_VCPU_MSRS of vCPU 1 twice"},
    {bad_shared_size, VN_E_FORMAT, "SHARED_INFO of 4088 bytes"},
    {bad_no_vcpu_0, VN_E_FORMAT, "no context of vCPU 0"},
    {bad_no_shared, VN_E_FORMAT, "no record SHARED_INFO"},
    {bad_end_body, VN_E_FORMAT, "END of 8 bytes"},
    {bad_after_end, VN_E_FORMAT, "after the end"},
};

static void test_refusals(void **state)
{
    assert_refused(*state, refusals, VN_COUNT(refusals));
}

/* Parts grow with what comes, to their limit. */
static void test_part_limit(void **state)
{
    enum { SIZE = 32 << 20 };
    struct vn_err err = VN_ERR_INIT;
    struct buf *b = *state;

    begin_pv_tail(b);
    for (uint32_t i = 0; i < 3; i++) {
        buf_put_le32(b, XB_XSAVE);
        buf_put_le32(b, SIZE);
        buf_put_le64(b, i);
        buf_put_zero(b, SIZE - 8);
    }
    assert_int_equal(run(b, 1 << 20, &err), -1);
    assert_int_equal(err.code, VN_E_LIMIT);
    assert_non_null(strstr(err.msg, "more than 67108864 bytes in all"));
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
        cmocka_unit_test_setup_teardown(test_part_limit, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
