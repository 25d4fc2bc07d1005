/* Streams of saved Xen domains that are wrong in one place, each refused for
 * that, with the right code and the offset. */

#include "capture/xen_stream.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "unit/xen_stream_builder.h"

static int setup(void **state)
{
    struct buf *b = vn_alloc(sizeof(*b));

    buf_init(b, 192 << 20);
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    struct buf *b = *state;

    buf_done(b);
    free(b);
    return 0;
}

static int take_page(void *context, uint64_t pfn, unsigned type,
                     const void *page, struct vn_err *err)
{
    (void)context, (void)pfn, (void)type, (void)page, (void)err;
    return 0;
}

/* Feed it in portions, then finish. */
static int run(const struct buf *b, size_t portion, struct vn_err *err)
{
    const struct xen_stream_sink sink = {take_page, NULL};
    vn_auto(xen_stream) struct xen_stream *stream = xen_stream_new(&sink);

    for (size_t done = 0; done < b->size; done += portion) {
        size_t n = b->size - done < portion ? b->size - done : portion;

        if (xen_stream_feed(stream, b->data + done, n, err) < 0)
            return -1;
    }
    return xen_stream_finish(stream, err);
}

static void build_hvm(struct buf *b)
{
    xb_begin(b, XB_HVM);
    xb_page(b, 0, 1, 'a');
    xb_tail(b, XB_HVM);
}
static void build_pv(struct buf *b)
{
    xb_begin(b, XB_PV);
    xb_page(b, 0, 1, 'a');
    xb_tail(b, XB_PV);
}

/* ---- refusals: each builder makes a stream wrong in one place ----------- */

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

static const struct {
    void (*build)(struct buf *b);
    int code;
    const char *text; /* in the message */
} refusals[] = {
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
    struct buf *b = *state;

    for (size_t i = 0; i < VN_COUNT(refusals); i++) {
        static const size_t sizes[] = {1 << 20, 3};

        b->size = 0;
        refusals[i].build(b);
        for (size_t j = 0; j < VN_COUNT(sizes); j++) {
            struct vn_err err = VN_ERR_INIT;

            if (run(b, sizes[j], &err) == 0)
                fail_msg("%zu: not refused: '%s'", i, refusals[i].text);
            if (!strstr(err.msg, refusals[i].text) ||
                strncmp(err.msg, "at byte ", 8) != 0)
                fail_msg("%zu: '%s' is not in '%s'", i, refusals[i].text,
                         err.msg);
            if (err.code != refusals[i].code)
                fail_msg("%zu: code %d for '%s'", i, err.code, err.msg);
        }
    }
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
