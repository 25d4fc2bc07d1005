/* The parser of saved Xen domains: good streams of every framing in all
 * portions, every truncation, every byte changed. Refusals:
 * test_capture_xen_refused.c */

#include "capture/xen_stream.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/io.h"
#include "unit/xen_stream_builder.h"
#include <inttypes.h>
#include <stdio.h>

struct fixture {
    struct buf bytes; /* what to feed */
    struct xen_stream *stream;
    struct buf log; /* "pfn type first-byte;" of every page */
    const uint8_t *fed, *fed_end;
    unsigned pages, in_place;
    unsigned fail_at_page; /* 1: the first */
    bool mixed_pages;      /* their bytes are not all the same */
};

static int see_page(void *context, uint64_t pfn, unsigned type,
                    const void *page, struct vn_err *err)
{
    struct fixture *f = context;
    const uint8_t *p = page;
    char line[64];

    assert_int_equal(page != NULL, xen_page_has_data(type));
    assert_true(pfn < XEN_PFN_MAX);
    if (p && !f->mixed_pages)
        assert_int_equal(p[0], p[4095]);
    snprintf(line, sizeof(line), "%" PRIx64 " %x %c;", pfn, type,
             !p     ? '-'
             : p[0] ? p[0]
                    : '0');
    buf_put(&f->log, line, strlen(line));
    f->pages++;
    f->in_place += p >= f->fed && p < f->fed_end;
    if (f->pages == f->fail_at_page)
        return vn_fail(err, VN_E_STATE, "the sink is full");
    return 0;
}

static int setup(void **state)
{
    struct fixture *f = vn_alloc(sizeof(*f));

    buf_init(&f->bytes, 192 << 20);
    buf_init(&f->log, 64 << 20);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    xen_stream_free(f->stream);
    buf_done(&f->bytes);
    buf_done(&f->log);
    free(f);
    return 0;
}

static void reset(struct fixture *f)
{
    const struct xen_stream_sink sink = {see_page, f};

    xen_stream_free(f->stream);
    f->stream = xen_stream_new(&sink);
    buf_done(&f->log);
    f->pages = f->in_place = 0;
}

/* Feed the first `size` bytes in portions, then finish. */
static int run(struct fixture *f, size_t size, size_t portion,
               struct vn_err *err)
{
    reset(f);
    for (size_t done = 0; done < size;) {
        size_t n = size - done < portion ? size - done : portion;

        assert_false(xen_stream_is_complete(f->stream) && done < size - n);
        f->fed = f->bytes.data + done;
        f->fed_end = f->fed + n;
        if (xen_stream_feed(f->stream, f->fed, n, err) < 0)
            return -1;
        done += n;
    }
    return xen_stream_finish(f->stream, err);
}

static void expect_log(struct fixture *f, const char *expected)
{
    buf_put_u8(&f->log, 0);
    assert_string_equal((char *)f->log.data, expected);
}

/* ---- good streams ------------------------------------------------------ */

static void build_hvm(struct buf *b)
{
    static const uint64_t first[] = {
        XB_ENTRY(0, 5),   XB_ENTRY(0xf, 6), XB_ENTRY(0, 0xfefff),
        XB_ENTRY(0xe, 8), XB_ENTRY(0xd, 9), XB_ENTRY(0xf, 0xff000)};
    static const uint64_t second[] = {XB_ENTRY(0xf, 5), XB_ENTRY(0, 6)};

    xb_begin(b, XB_HVM);
    xb_record(b, 0x80000099, "optional", 8);
    xb_pages(b, first, VN_COUNT(first), "ab");
    xb_record(b, 0x80000001, "?", 1);
    xb_pages(b, second, VN_COUNT(second), "0");
    xb_record(b, 0x80000000, NULL, 0);
    xb_tail(b, XB_HVM);
}

static const char hvm_log[] =
    "5 0 a;6 f -;fefff 0 b;8 e -;9 d -;ff000 f -;5 f -;6 0 0;";

static void build_pv(struct buf *b)
{
    static const uint64_t entries[] = {
        XB_ENTRY(0, 0x10), XB_ENTRY(1, 1),   XB_ENTRY(2, 2),
        XB_ENTRY(3, 3),    XB_ENTRY(4, 4),   XB_ENTRY(9, 5),
        XB_ENTRY(0xa, 6),  XB_ENTRY(0xb, 7), XB_ENTRY(0xc, 8)};

    xb_begin(b, XB_PV);
    xb_pages(b, entries, VN_COUNT(entries), "abcdefghi");
    xb_tail(b, XB_PV);
}

static const char pv_log[] = "10 0 a;1 1 b;2 2 c;3 3 d;4 4 e;5 9 f;6 a g;"
                             "7 b h;8 c i;";

static const size_t portions[] = {1, 7, 8, 4095, 4096, 4097, 1 << 20};

/* Is the part what lies at `offset` of the bytes? */
static void expect_part(const struct fixture *f, const struct buf *part,
                        size_t offset, size_t size)
{
    assert_int_equal(part->size, size);
    assert_memory_equal(part->data, f->bytes.data + offset, size);
}

static void test_hvm(void **state)
{
    struct fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    unsigned major, minor;
    struct buf tail;
    uint64_t bytes;
    uint32_t count;

    build_hvm(&f->bytes);
    xb_end(&f->bytes);
    buf_init(&tail, 1 << 20);
    xb_tail(&tail, XB_HVM);
    for (size_t i = 0; i < VN_COUNT(portions); i++) {
        if (run(f, f->bytes.size, portions[i], &err) < 0)
            fail_msg("%s", err.msg);
        expect_log(f, hvm_log);
        assert_true(xen_stream_is_complete(f->stream));
        assert_int_equal(xen_stream_framing(f->stream), XEN_FRAMING_LIBXC);
        assert_int_equal(xen_stream_domain_type(f->stream), XEN_DOMAIN_HVM);
        assert_int_equal(xen_stream_pfn_end(f->stream), 0xff000);
        xen_stream_version(f->stream, &major, &minor);
        assert_int_equal(major, 4);
        assert_int_equal(minor, 17);
        assert_null(xen_stream_config(f->stream));
        assert_null(xen_stream_p2m_frames(f->stream, &count, &bytes));
        assert_int_equal(count, 0);
        assert_int_equal(bytes, 0);
        expect_part(f, xen_stream_head(f->stream), 40, 56 + 24 + 8);
        expect_part(f, xen_stream_tail(f->stream),
                    f->bytes.size - 8 - tail.size, tail.size);
        assert_int_equal(xen_stream_emulator(f->stream)->size, 0);
    }
    assert_int_equal(f->in_place, 3); /* whole pages are not copied */
    buf_done(&tail);
}

static void test_pv(void **state)
{
    struct fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    const uint64_t *frames;
    uint64_t bytes;
    uint32_t count;

    build_pv(&f->bytes);
    xb_end(&f->bytes);
    for (size_t i = 0; i < VN_COUNT(portions); i++) {
        if (run(f, f->bytes.size, portions[i], &err) < 0)
            fail_msg("%s", err.msg);
        expect_log(f, pv_log);
        assert_int_equal(xen_stream_domain_type(f->stream), XEN_DOMAIN_PV);
        assert_int_equal(xen_stream_pfn_end(f->stream), 0x11);
        frames = xen_stream_p2m_frames(f->stream, &count, &bytes);
        assert_int_equal(count, 3);
        assert_int_equal(bytes, XB_PFNS * 8);
        assert_int_equal(frames[0], 0x10);
        assert_int_equal(frames[2], 0x12);
        expect_part(f, xen_stream_head(f->stream), 40,
                    16 + 56 + 24 + 8 + 8 + 32);
        assert_int_equal(xen_stream_check_head(xen_stream_head(f->stream)->data,
                                               xen_stream_head(f->stream)->size,
                                               XEN_DOMAIN_PV, &err),
                         0);
        assert_int_equal(xen_stream_check_tail(xen_stream_tail(f->stream)->data,
                                               xen_stream_tail(f->stream)->size,
                                               XEN_DOMAIN_PV, &err),
                         0);
    }
}

static void test_pv_32(void **state)
{
    struct fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    struct buf *b = &f->bytes;
    uint64_t bytes;
    uint32_t count;

    xb_headers(b, 3, XB_PV);
    xb_record(b, XB_PV_INFO, "\4\3\0\0\0\0\0", 8);
    xb_record(b, XB_STATIC_END, NULL, 0);
    xb_p2m(b, 1024, 2);
    xb_page(b, 0, 1024, 'x');
    xb_filled(b, XB_SHARED, 1, 2, 4096, 0x5a);
    xb_filled(b, XB_BASIC, 0, 0, 8 + 2800, 0xb0);
    xb_end(b);
    if (run(f, b->size, 1000, &err) < 0)
        fail_msg("%s", err.msg);
    xen_stream_p2m_frames(f->stream, &count, &bytes);
    assert_int_equal(count, 2);
    assert_int_equal(bytes, 1025 * 4);
}

/* Remus: complete at the first checkpoint, and nothing after it. */
static void test_checkpoint(void **state)
{
    struct fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;

    build_hvm(&f->bytes);
    xb_record(&f->bytes, XB_CHECKPOINT, NULL, 0);
    assert_int_equal(run(f, f->bytes.size, 100, &err), 0);
    assert_true(xen_stream_is_complete(f->stream));
    expect_log(f, hvm_log);
    xb_page(&f->bytes, 0, 5, 'z');
    assert_int_equal(run(f, f->bytes.size, 1 << 20, &err), -1);
    assert_int_equal(err.code, VN_E_FORMAT);
}

/* Version 2 has no STATIC_DATA_END; we put it where it must be meant. */
static void test_version_2(void **state)
{
    static const uint8_t static_end[8] = {XB_STATIC_END};
    struct fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    const struct buf *head;

    xb_headers(&f->bytes, 2, XB_PV);
    xb_pv_info(&f->bytes);
    xb_p2m(&f->bytes, XB_PFNS - 1, 3);
    xb_page(&f->bytes, 0, 1, 'a');
    xb_tail(&f->bytes, XB_PV);
    xb_end(&f->bytes);
    if (run(f, f->bytes.size, 11, &err) < 0)
        fail_msg("%s", err.msg);
    head = xen_stream_head(f->stream);
    assert_int_equal(head->size, 16 + 8 + 40);
    assert_memory_equal(head->data + 16, static_end, 8);
    assert_int_equal(
        xen_stream_check_head(head->data, head->size, XEN_DOMAIN_PV, &err), 0);

    f->bytes.size = 0;
    xb_headers(&f->bytes, 2, XB_HVM);
    xb_page(&f->bytes, 0, 1, 'a');
    xb_tail(&f->bytes, XB_HVM);
    xb_end(&f->bytes);
    if (run(f, f->bytes.size, 11, &err) < 0)
        fail_msg("%s", err.msg);
    head = xen_stream_head(f->stream);
    assert_int_equal(head->size, 8);
    assert_memory_equal(head->data, static_end, 8);
}

static void build_xl(struct buf *b)
{
    xb_xl_head(b, XB_CONFIG);
    xb_libxl_begin(b);
    build_hvm(b);
    xb_end(b);
    xb_emulator(b);
    xb_end(b);
}

static void test_framings(void **state)
{
    struct fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    struct buf emulator;
    const struct buf *got;

    buf_init(&emulator, 1 << 20);
    xb_emulator(&emulator);
    build_xl(&f->bytes);
    for (size_t i = 0; i < VN_COUNT(portions); i++) {
        if (run(f, f->bytes.size, portions[i], &err) < 0)
            fail_msg("%s", err.msg);
        expect_log(f, hvm_log);
        assert_int_equal(xen_stream_framing(f->stream), XEN_FRAMING_XL);
        assert_string_equal(xen_stream_config(f->stream), XB_CONFIG);
        got = xen_stream_emulator(f->stream);
        assert_int_equal(got->size, emulator.size);
        assert_memory_equal(got->data, emulator.data, got->size);
        assert_int_equal(xen_stream_check_emulator(got->data, got->size, &err),
                         0);
    }
    f->bytes.size = 0;
    xb_libxl_begin(&f->bytes);
    build_pv(&f->bytes);
    xb_end(&f->bytes);
    assert_int_equal(run(f, f->bytes.size, 99, &err), -1);
    assert_int_equal(err.code, VN_E_FORMAT); /* libxl has not ended */
    xb_end(&f->bytes);
    assert_int_equal(run(f, f->bytes.size, 99, &err), 0);
    assert_int_equal(xen_stream_framing(f->stream), XEN_FRAMING_LIBXL);
    buf_done(&emulator);
}

/* Optional data of xl after the configuration, or none at all. */
static void test_xl_optional(void **state)
{
    struct fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    struct buf *b = &f->bytes;

    xb_xl_head(b, "{}");
    b->data[44] = (uint8_t)(b->data[44] + 5);
    buf_put(b, "later", 5);
    xb_libxl_begin(b);
    build_hvm(b);
    xb_end(b);
    xb_end(b);
    for (size_t i = 0; i < VN_COUNT(portions); i++) {
        if (run(f, b->size, portions[i], &err) < 0)
            fail_msg("%s", err.msg);
        assert_string_equal(xen_stream_config(f->stream), "{}");
    }
    memset(b->data + 44, 0, 4);
    buf_consume(b, 0);
    memmove(b->data + 48, b->data + 48 + 12, b->size - 60);
    b->size -= 12;
    if (run(f, b->size, 1000, &err) < 0)
        fail_msg("%s", err.msg);
    assert_null(xen_stream_config(f->stream));
}

/* The seeds for fuzzing, which Xen's own verifier accepts
 * (tests/fuzz/corpus/make_capture_xen_stream.py). */
static void test_seeds(void **state)
{
    static const struct {
        const char *name;
        enum xen_framing framing;
        enum xen_domain_type type;
    } seeds[] = {
        {"libxc-checkpoint", XEN_FRAMING_LIBXC, XEN_DOMAIN_HVM},
        {"libxc-hvm", XEN_FRAMING_LIBXC, XEN_DOMAIN_HVM},
        {"libxc-optional", XEN_FRAMING_LIBXC, XEN_DOMAIN_HVM},
        {"libxc-pv", XEN_FRAMING_LIBXC, XEN_DOMAIN_PV},
        {"libxc-pv-32", XEN_FRAMING_LIBXC, XEN_DOMAIN_PV},
        {"libxc-pv-version-2", XEN_FRAMING_LIBXC, XEN_DOMAIN_PV},
        {"libxl-hvm", XEN_FRAMING_LIBXL, XEN_DOMAIN_HVM},
        {"libxl-hvm-xenstore", XEN_FRAMING_LIBXL, XEN_DOMAIN_HVM},
        {"libxl-pv", XEN_FRAMING_LIBXL, XEN_DOMAIN_PV},
        {"xl-hvm", XEN_FRAMING_XL, XEN_DOMAIN_HVM},
        {"xl-pv", XEN_FRAMING_XL, XEN_DOMAIN_PV},
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < VN_COUNT(seeds); i++) {
        vn_auto(free) char *path = vn_format(
            TESTS_DIR "/fuzz/corpus/capture_xen_stream/%s.bin", seeds[i].name);
        struct vn_err err = VN_ERR_INIT;

        f->bytes.size = 0;
        if (io_read_file(path, &f->bytes, &err) < 0 ||
            run(f, f->bytes.size, 3000, &err) < 0)
            fail_msg("%s: %s", path, err.msg);
        assert_int_equal(xen_stream_framing(f->stream), seeds[i].framing);
        assert_int_equal(xen_stream_domain_type(f->stream), seeds[i].type);
    }
}

/* A record larger than libxc ever writes. */
static void test_many_entries(void **state)
{
    enum { COUNT = 100000 };
    struct fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    vn_auto(free) uint64_t *entries = vn_alloc(COUNT * sizeof(*entries));

    for (unsigned i = 0; i < COUNT; i++)
        entries[i] = XB_ENTRY(0xf, i);
    entries[COUNT - 2] = XB_ENTRY(0, COUNT - 2);
    xb_begin(&f->bytes, XB_HVM);
    xb_pages(&f->bytes, entries, COUNT, "q");
    xb_tail(&f->bytes, XB_HVM);
    xb_end(&f->bytes);
    for (size_t i = 1; i < VN_COUNT(portions); i++) {
        if (run(f, f->bytes.size, portions[i], &err) < 0)
            fail_msg("%s", err.msg);
        assert_int_equal(f->pages, COUNT);
        assert_int_equal(xen_stream_pfn_end(f->stream), COUNT - 1);
    }
}

static void test_sink_error(void **state)
{
    struct fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;

    build_hvm(&f->bytes);
    f->fail_at_page = 2;
    assert_int_equal(run(f, f->bytes.size, 1000, &err), -1);
    assert_int_equal(err.code, VN_E_STATE);
    assert_string_equal(err.msg, "the sink is full");
    assert_int_equal(f->pages, 2);
}

/* ---- damage ------------------------------------------------------------ */

static void test_truncation(void **state)
{
    struct fixture *f = *state;

    for (int kind = 0; kind < 2; kind++) {
        size_t size;

        f->bytes.size = 0;
        if (kind == 0) {
            build_xl(&f->bytes);
        } else {
            xb_begin(&f->bytes, XB_PV);
            xb_page(&f->bytes, 0, 1, 'a');
            xb_tail(&f->bytes, XB_PV);
            xb_end(&f->bytes);
        }
        size = f->bytes.size;
        for (size_t cut = 0; cut < size; cut++) {
            struct vn_err err = VN_ERR_INIT;

            assert_int_equal(run(f, cut, 1 << 20, &err), -1);
            assert_int_equal(err.code, VN_E_FORMAT);
        }
    }
}

/* Contents of pages are taken as they are: try a few bytes of each. */
static bool is_worth_changing(const struct buf *b, size_t i)
{
    uint8_t v = b->data[i];

    return i % 128 == 0 || i == 0 || i + 1 == b->size ||
           !((v == 'a' || v == 'b' || v == 0) && b->data[i - 1] == v &&
             b->data[i + 1] == v);
}

/* Whatever byte is changed, and to what: no crash, and the same answer however
 * it is portioned. */
static void test_corruption(void **state)
{
    static const uint8_t changes[] = {0x01, 0x80, 0xff};
    struct fixture *f = *state;
    unsigned refused = 0;

    f->mixed_pages = true;
    build_xl(&f->bytes);
    for (size_t i = 0; i < f->bytes.size; i++) {
        uint8_t was = f->bytes.data[i];

        if (!is_worth_changing(&f->bytes, i))
            continue;
        for (size_t j = 0; j < VN_COUNT(changes); j++) {
            struct vn_err whole = VN_ERR_INIT, cut = VN_ERR_INIT;
            int r;

            f->bytes.data[i] = was ^ changes[j];
            r = run(f, f->bytes.size, 1 << 20, &whole);
            assert_int_equal(run(f, f->bytes.size, 509, &cut), r);
            assert_string_equal(whole.msg, cut.msg);
            refused += r < 0;
        }
        f->bytes.data[i] = was;
    }
    assert_true(refused > 500);
}

/* ---- parts ------------------------------------------------------------- */

static int check_head(const struct buf *b, enum xen_domain_type type,
                      struct vn_err *err)
{
    return xen_stream_check_head(b->data, b->size, type, err);
}

static int check_tail(const struct buf *b, enum xen_domain_type type,
                      struct vn_err *err)
{
    return xen_stream_check_tail(b->data, b->size, type, err);
}

static void expect_refused(int result, struct vn_err *err, const char *text)
{
    assert_int_equal(result, -1);
    if (!strstr(err->msg, text))
        fail_msg("'%s' is not in '%s'", text, err->msg);
}

static void test_check_head(void **state)
{
    struct fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    struct buf *b = &f->bytes;

    xb_begin(b, XB_PV);
    buf_consume(b, 40);
    assert_int_equal(check_head(b, XEN_DOMAIN_PV, &err), 0);
    expect_refused(check_head(b, XEN_DOMAIN_HVM, &err), &err, "X86_PV_INFO in");
    for (size_t size = 0; size < b->size; size++)
        assert_int_equal(
            xen_stream_check_head(b->data, size, XEN_DOMAIN_PV, &err), -1);
    xb_tsc(b);
    expect_refused(check_head(b, XEN_DOMAIN_PV, &err), &err,
                   "X86_TSC_INFO does not belong here");
    b->size = 0;
    xb_policies(b);
    expect_refused(check_head(b, XEN_DOMAIN_HVM, &err), &err,
                   "no STATIC_DATA_END");
    xb_record(b, XB_STATIC_END, NULL, 0);
    assert_int_equal(check_head(b, XEN_DOMAIN_HVM, &err), 0);
    xb_page(b, 0, 1, 'a');
    expect_refused(check_head(b, XEN_DOMAIN_HVM, &err), &err,
                   "at byte 88: PAGE_DATA does not belong here");
    b->size = 0;
    xb_record(b, 0x80000001, NULL, 0);
    expect_refused(check_head(b, XEN_DOMAIN_HVM, &err), &err,
                   "unknown record 0x80000001");
}

static void test_check_tail(void **state)
{
    struct fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    struct buf *b = &f->bytes;

    xb_tail(b, XB_HVM);
    assert_int_equal(check_tail(b, XEN_DOMAIN_HVM, &err), 0);
    for (size_t size = 0; size < b->size; size++)
        assert_int_equal(
            xen_stream_check_tail(b->data, size, XEN_DOMAIN_HVM, &err), -1);
    expect_refused(check_tail(b, XEN_DOMAIN_PV, &err), &err, "HVM_CONTEXT in");
    xb_end(b);
    expect_refused(check_tail(b, XEN_DOMAIN_HVM, &err), &err,
                   "END does not belong here");
    b->size = 0;
    xb_tail(b, XB_PV);
    assert_int_equal(check_tail(b, XEN_DOMAIN_PV, &err), 0);
    xb_filled(b, XB_BASIC, 2, 0, 8 + 2800, 0xb0); /* of another width */
    expect_refused(check_tail(b, XEN_DOMAIN_PV, &err), &err,
                   "vCPU 2 with a context of 2800 bytes");
    b->size = 0;
    xb_pv_info(b);
    expect_refused(check_tail(b, XEN_DOMAIN_PV, &err), &err, "too late");
}

static void test_check_emulator(void **state)
{
    struct fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    struct buf *b = &f->bytes;
    size_t whole;

    assert_int_equal(xen_stream_check_emulator(NULL, 0, &err), 0);
    xb_emulator(b);
    whole = b->size;
    for (size_t size = 1; size <= whole; size++) {
        int r = xen_stream_check_emulator(b->data, size, &err);

        /* After the first record, or both. */
        assert_int_equal(r, size == 64 || size == whole ? 0 : -1);
    }
    xb_end(b);
    expect_refused(xen_stream_check_emulator(b->data, b->size, &err), &err,
                   "a record of type 0");
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_hvm, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pv, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pv_32, setup, teardown),
        cmocka_unit_test_setup_teardown(test_checkpoint, setup, teardown),
        cmocka_unit_test_setup_teardown(test_version_2, setup, teardown),
        cmocka_unit_test_setup_teardown(test_framings, setup, teardown),
        cmocka_unit_test_setup_teardown(test_xl_optional, setup, teardown),
        cmocka_unit_test_setup_teardown(test_seeds, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_entries, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sink_error, setup, teardown),
        cmocka_unit_test_setup_teardown(test_truncation, setup, teardown),
        cmocka_unit_test_setup_teardown(test_corruption, setup, teardown),
        cmocka_unit_test_setup_teardown(test_check_head, setup, teardown),
        cmocka_unit_test_setup_teardown(test_check_tail, setup, teardown),
        cmocka_unit_test_setup_teardown(test_check_emulator, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
