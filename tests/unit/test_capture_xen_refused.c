/*
 * Streams of libxc that are wrong in one place, each refused for that: headers,
 * static data, p2m and pages.
 */

#include "unit/xen_refusals.h"

static void bad_magic(struct buf *b)
{
    buf_put(b, "Xen-save", 8);
}
static void bad_id(struct buf *b)
{
    xb_headers(b, 3, XB_HVM);
    b->data[8] = 'x';
}
static void bad_version_1(struct buf *b)
{
    xb_headers(b, 1, XB_HVM);
}
static void bad_version_4(struct buf *b)
{
    xb_headers(b, 4, XB_HVM);
}
static void bad_big_endian(struct buf *b)
{
    xb_headers(b, 3, XB_HVM);
    b->data[17] = 1;
}
static void bad_options(struct buf *b)
{
    xb_headers(b, 3, XB_HVM);
    b->data[16] = 1;
}
static void bad_image_reserved(struct buf *b)
{
    xb_headers(b, 3, XB_HVM);
    b->data[23] = 1;
}
static void bad_domain_type(struct buf *b)
{
    xb_headers(b, 3, 3);
}
static void bad_page_shift(struct buf *b)
{
    xb_headers(b, 3, XB_HVM);
    b->data[28] = 16;
}
static void bad_domain_reserved(struct buf *b)
{
    xb_headers(b, 3, XB_HVM);
    b->data[30] = 1;
}
static void bad_unknown_record(struct buf *b)
{
    xb_begin(b, XB_HVM);
    xb_record(b, 0x13, NULL, 0);
}
static void bad_record_size(struct buf *b)
{
    xb_begin(b, XB_HVM);
    buf_put_le32(b, 0x80000002);
    buf_put_le32(b, XEN_RECORD_MAX + 1);
}
static void bad_padding(struct buf *b)
{
    xb_begin(b, XB_HVM);
    xb_page(b, 0, 1, 'a');
    xb_filled(b, XB_CONTEXT, 1, 8, 45, 0xcc);
    b->data[b->size - 1] = 1;
}
static void bad_no_static_end(struct buf *b)
{
    xb_headers(b, 3, XB_HVM);
    xb_page(b, 0, 1, 'a');
}
static void bad_static_end_twice(struct buf *b)
{
    xb_begin(b, XB_HVM);
    xb_record(b, XB_STATIC_END, NULL, 0);
}
static void bad_static_end_body(struct buf *b)
{
    xb_headers(b, 3, XB_HVM);
    xb_record(b, XB_STATIC_END, "12345678", 8);
}
static void bad_static_end_version_2(struct buf *b)
{
    xb_headers(b, 2, XB_HVM);
    xb_record(b, XB_STATIC_END, NULL, 0);
}
static void bad_policy_late(struct buf *b)
{
    xb_headers(b, 3, XB_HVM);
    xb_record(b, XB_STATIC_END, NULL, 0);
    xb_policies(b);
}
static void bad_policy_twice(struct buf *b)
{
    xb_headers(b, 3, XB_HVM);
    xb_policies(b);
    xb_policies(b);
}
static void bad_cpuid_size(struct buf *b)
{
    xb_headers(b, 3, XB_HVM);
    xb_filled(b, XB_CPUID, 1, 0, 32, 1);
}
static void bad_msr_size(struct buf *b)
{
    xb_headers(b, 3, XB_HVM);
    xb_filled(b, XB_MSR, 1, 0, 24, 1);
}
static void bad_empty_policy(struct buf *b)
{
    xb_headers(b, 3, XB_HVM);
    xb_record(b, XB_CPUID, NULL, 0);
}
static void bad_huge_policy(struct buf *b)
{
    xb_headers(b, 3, XB_HVM);
    buf_put_le32(b, XB_CPUID);
    buf_put_le32(b, XEN_PARTS_MAX + 8);
}
static void bad_pv_info_in_hvm(struct buf *b)
{
    xb_headers(b, 3, XB_HVM);
    xb_pv_info(b);
}
static void bad_no_pv_info(struct buf *b)
{
    xb_headers(b, 3, XB_PV);
    xb_record(b, XB_STATIC_END, NULL, 0);
}
static void bad_no_pv_info_version_2(struct buf *b)
{
    xb_headers(b, 2, XB_PV);
    xb_p2m(b, XB_PFNS - 1, 3);
}
static void bad_pv_width(struct buf *b)
{
    xb_headers(b, 3, XB_PV);
    xb_record(b, XB_PV_INFO, "\10\3\0\0\0\0\0", 8);
}
static void bad_pv_reserved(struct buf *b)
{
    xb_headers(b, 3, XB_PV);
    xb_record(b, XB_PV_INFO, "\10\4\0\0\0\0\1", 8);
}
static void begin_pv(struct buf *b)
{
    xb_headers(b, 3, XB_PV);
    xb_pv_info(b);
    xb_record(b, XB_STATIC_END, NULL, 0);
}
static void bad_p2m_count(struct buf *b)
{
    begin_pv(b);
    xb_p2m(b, 1024, 2);
}
static void bad_p2m_start(struct buf *b)
{
    begin_pv(b);
    xb_p2m(b, 1024, 3);
    b->data[b->size - 32] = 1;
}
static void bad_p2m_frame(struct buf *b)
{
    begin_pv(b);
    xb_p2m(b, 0x10, 1);
    b->data[b->size - 8] = 0x11;
}
static void bad_p2m_twice(struct buf *b)
{
    xb_begin(b, XB_PV);
    xb_p2m(b, XB_PFNS - 1, 3);
}
static void bad_p2m_huge(struct buf *b)
{
    begin_pv(b);
    buf_put_le32(b, XB_P2M);
    buf_put_le32(b, 8 + 8 * XEN_P2M_FRAMES_MAX + 8);
}
static void bad_no_p2m(struct buf *b)
{
    begin_pv(b);
    xb_page(b, 0, 1, 'a');
}
static void bad_pages_empty(struct buf *b)
{
    xb_begin(b, XB_HVM);
    xb_pages(b, NULL, 0, "a");
}
static void bad_pages_short(struct buf *b)
{
    xb_begin(b, XB_HVM);
    xb_record(b, XB_PAGES, "\1\0\0\0\0\0\0", 8);
}
static void bad_pages_count(struct buf *b)
{
    xb_begin(b, XB_HVM);
    xb_filled(b, XB_PAGES, 3, 0, 24, 0);
}
static void bad_pages_reserved(struct buf *b)
{
    xb_begin(b, XB_HVM);
    xb_filled(b, XB_PAGES, 1, 1, 16, 0);
}
static void bad_pages_more(struct buf *b)
{
    xb_begin(b, XB_HVM);
    xb_pages(b, (uint64_t[]){XB_ENTRY(0, 1)}, 1, "ab");
}
static void bad_pages_fewer(struct buf *b)
{
    xb_begin(b, XB_HVM);
    xb_pages(b, (uint64_t[]){XB_ENTRY(0, 1), XB_ENTRY(0, 2)}, 2, "a");
}
static void bad_pages_data_of_xtab(struct buf *b)
{
    xb_begin(b, XB_HVM);
    xb_page(b, 0xf, 1, 'a');
}
static void bad_type_5(struct buf *b)
{
    xb_begin(b, XB_HVM);
    xb_page(b, 5, 1, 'a');
}
static void bad_type_8(struct buf *b)
{
    xb_begin(b, XB_HVM);
    xb_page(b, 8, 1, 'a');
}
static void bad_entry_reserved(struct buf *b)
{
    xb_begin(b, XB_HVM);
    xb_page(b, 0, 1ull << 52, 'a');
}
static void bad_pfn(struct buf *b)
{
    xb_begin(b, XB_HVM);
    xb_page(b, 0, XEN_PFN_MAX, 'a');
}
static void bad_pfn_pv(struct buf *b)
{
    xb_begin(b, XB_PV);
    xb_page(b, 0, XB_PFNS, 'a');
}
static void bad_pages_late(struct buf *b)
{
    xb_begin(b, XB_HVM);
    xb_page(b, 0, 1, 'a');
    xb_tsc(b);
    xb_page(b, 0, 1, 'a');
}
static void bad_verify(struct buf *b)
{
    xb_begin(b, XB_HVM);
    xb_record(b, XB_VERIFY, NULL, 0);
}
static void bad_toolstack(struct buf *b)
{
    xb_begin(b, XB_HVM);
    xb_record(b, XB_TOOLSTACK, "12345678", 8);
}
static void bad_dirty_list(struct buf *b)
{
    xb_begin(b, XB_HVM);
    xb_record(b, XB_DIRTY, "12345678", 8);
}

static const struct refusal refusals[] = {
    {bad_magic, VN_E_FORMAT, "at byte 0: not a saved Xen domain"},
    {bad_id, VN_E_FORMAT, "at byte 8: not a libxc stream"},
    {bad_version_1, VN_E_VERSION, "version 1"},
    {bad_version_4, VN_E_VERSION, "version 4"},
    {bad_big_endian, VN_E_UNSUPPORTED, "big-endian"},
    {bad_options, VN_E_FORMAT, "reserved bits in the image header"},
    {bad_image_reserved, VN_E_FORMAT, "reserved bits in the image header"},
    {bad_domain_type, VN_E_UNSUPPORTED, "at byte 24: a domain of type 3"},
    {bad_page_shift, VN_E_UNSUPPORTED, "pages of 2^16"},
    {bad_domain_reserved, VN_E_FORMAT, "reserved bits in the domain header"},
    {bad_unknown_record, VN_E_UNSUPPORTED, "unknown record 0x13"},
    {bad_record_size, VN_E_LIMIT, "at byte 128: a record of 134217729 bytes"},
    {bad_padding, VN_E_FORMAT, "padding"},
    {bad_no_static_end, VN_E_FORMAT, "PAGE_DATA before STATIC_DATA_END"},
    {bad_static_end_twice, VN_E_FORMAT, "STATIC_DATA_END twice"},
    {bad_static_end_body, VN_E_FORMAT, "STATIC_DATA_END of 8 bytes"},
    {bad_static_end_version_2, VN_E_FORMAT, "in a stream of version 2"},
    {bad_policy_late, VN_E_FORMAT, "X86_CPUID_POLICY comes too late"},
    {bad_policy_twice, VN_E_FORMAT, "X86_CPUID_POLICY twice"},
    {bad_cpuid_size, VN_E_FORMAT, "not a multiple of 24"},
    {bad_msr_size, VN_E_FORMAT, "not a multiple of 16"},
    {bad_empty_policy, VN_E_FORMAT, "X86_CPUID_POLICY of 0 bytes"},
    {bad_huge_policy, VN_E_LIMIT, "X86_CPUID_POLICY of 67108872 bytes"},
    {bad_pv_info_in_hvm, VN_E_FORMAT, "X86_PV_INFO in the stream of an HVM"},
    {bad_no_pv_info, VN_E_FORMAT, "no X86_PV_INFO"},
    {bad_no_pv_info_version_2, VN_E_FORMAT, "no X86_PV_INFO"},
    {bad_pv_width, VN_E_FORMAT, "8 bytes a frame and 3 levels"},
    {bad_pv_reserved, VN_E_FORMAT, "reserved bits in X86_PV_INFO"},
    {bad_p2m_count, VN_E_FORMAT, "up to 0x400 in 2 frames"},
    {bad_p2m_start, VN_E_UNSUPPORTED, "begins at pfn 0x1"},
    {bad_p2m_frame, VN_E_FORMAT, "p2m frame 0 is pfn 0x11"},
    {bad_p2m_twice, VN_E_FORMAT, "X86_PV_P2M_FRAMES twice"},
    {bad_p2m_huge, VN_E_LIMIT, "X86_PV_P2M_FRAMES of"},
    {bad_no_p2m, VN_E_FORMAT, "before X86_PV_P2M_FRAMES"},
    {bad_pages_empty, VN_E_FORMAT, "without pages"},
    {bad_pages_short, VN_E_FORMAT, "PAGE_DATA of 8 bytes"},
    {bad_pages_count, VN_E_FORMAT, "too short for 3 entries"},
    {bad_pages_reserved, VN_E_FORMAT, "reserved bits in PAGE_DATA"},
    {bad_pages_more, VN_E_FORMAT, "its entries need 4112"},
    {bad_pages_fewer, VN_E_FORMAT, "its entries need 8216"},
    {bad_pages_data_of_xtab, VN_E_FORMAT, "its entries need 16"},
    {bad_type_5, VN_E_FORMAT, "reserved type 5"},
    {bad_type_8, VN_E_FORMAT, "reserved type 8"},
    {bad_entry_reserved, VN_E_FORMAT, "reserved bits in entry 0"},
    {bad_pfn, VN_E_LIMIT, "pfn 0x400000000"},
    {bad_pfn_pv, VN_E_FORMAT, "beyond the domain's p2m"},
    {bad_pages_late, VN_E_FORMAT, "PAGE_DATA comes too late"},
    {bad_verify, VN_E_UNSUPPORTED, "VERIFY"},
    {bad_toolstack, VN_E_UNSUPPORTED, "TOOLSTACK"},
    {bad_dirty_list, VN_E_UNSUPPORTED, "CHECKPOINT_DIRTY_PFN_LIST"},
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
