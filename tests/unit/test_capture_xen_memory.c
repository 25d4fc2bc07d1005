/* A domain's memory: the last writer wins, slots are used again, limits hold;
 * and what a stream leaves in the store. */

#include "capture/xen_memory_internal.h"
#include "capture/xen_objects.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "unit/store_fixture.h"
#include "unit/xen_stream_builder.h"

#define MIB (1ull << 20)

enum { NORMAL = XEN_PAGE_NORMAL, XTAB = XEN_PAGE_XTAB };

static uint8_t page_a[PAGE], page_b[PAGE], zeros[PAGE];

static void put(struct xen_memory *memory, uint64_t pfn, unsigned type,
                const void *page)
{
    struct vn_err err = VN_ERR_INIT;

    assert_ok(xen_memory_page(memory, pfn, type, page, &err), &err);
}

static struct xen_memory_counts counts_of(const struct xen_memory *memory)
{
    struct xen_memory_counts counts;

    xen_memory_counts(memory, &counts);
    return counts;
}

/* What is at a pfn: its type, and the first byte in *ret (0: no slot). */
static unsigned look(const struct xen_memory *memory, uint64_t pfn,
                     uint8_t *ret)
{
    const uintptr_t *leaf = memory->leaves[pfn / XEN_LEAF_PFNS];
    uintptr_t entry = leaf ? leaf[pfn % XEN_LEAF_PFNS] : 0;

    *ret = xen_entry_slot(entry) ? *xen_entry_slot(entry) : 0;
    return xen_entry_type(entry);
}

static void expect_page(const struct xen_memory *memory, uint64_t pfn,
                        unsigned type, uint8_t first)
{
    uint8_t byte;

    assert_int_equal(look(memory, pfn, &byte), type);
    assert_int_equal(byte, first);
}

static int fill_pages(void **state)
{
    (void)state;
    memset(page_a, 'a', PAGE);
    memset(page_b, 'b', PAGE);
    return 0;
}

static void test_last_wins(void **state)
{
    vn_auto(xen_memory) struct xen_memory *m = xen_memory_new(64 * MIB);

    (void)state;
    expect_page(m, 0, XTAB, 0);
    put(m, 7, NORMAL, page_a);
    put(m, 7, 9, page_b);
    expect_page(m, 7, 9, 'b');
    assert_int_equal(counts_of(m).pages, 1);
    assert_int_equal(counts_of(m).received, 2);
    assert_int_equal(m->slots.used, 1);
    put(m, 7, NORMAL, zeros);
    expect_page(m, 7, NORMAL, 0);
    assert_int_equal(counts_of(m).pages, 1);
    assert_int_equal(m->slots.used, 0);
    put(m, 7, NORMAL, page_a);
    put(m, 7, XEN_PAGE_XALLOC, NULL);
    expect_page(m, 7, XEN_PAGE_XALLOC, 0);
    assert_int_equal(counts_of(m).pages, 0);
    put(m, 7, NORMAL, page_a);
    put(m, 7, XTAB, NULL);
    expect_page(m, 7, XTAB, 0);
    assert_int_equal(m->slots.used, 0);
    put(m, 7, XEN_PAGE_BROKEN, NULL);
    expect_page(m, 7, XEN_PAGE_BROKEN, 0);
    assert_int_equal(counts_of(m).pages, 0);
    assert_int_equal(counts_of(m).received, 5);
    assert_int_equal(m->slots.handed, 1); /* always the same slot */
}

/* A page whose last byte alone is not zero is no page of zeros. */
static void test_nearly_zero(void **state)
{
    vn_auto(xen_memory) struct xen_memory *m = xen_memory_new(MIB);
    uint8_t page[PAGE] = {0};

    (void)state;
    page[PAGE - 1] = 1;
    put(m, 1, NORMAL, page);
    assert_int_equal(m->slots.used, 1);
    put(m, 1, NORMAL, zeros);
    assert_int_equal(m->slots.used, 0);
}

/* Nothing is made for pfns that are not there. */
static void test_sparse(void **state)
{
    vn_auto(xen_memory) struct xen_memory *m = xen_memory_new(64 * MIB);

    (void)state;
    for (uint64_t pfn = 0; pfn < 1 << 20; pfn++)
        put(m, pfn, XTAB, NULL);
    put(m, XEN_PFN_MAX - 1, XTAB, NULL);
    assert_int_equal(m->leaf_count, 0);
    put(m, XEN_PFN_MAX - 1, NORMAL, page_a);
    put(m, 0xfefff, NORMAL, page_b);
    put(m, 0, NORMAL, zeros);
    assert_int_equal(m->leaf_count, 3);
    expect_page(m, XEN_PFN_MAX - 1, NORMAL, 'a');
    expect_page(m, 0xfefff, NORMAL, 'b');
    expect_page(m, 0xfeffe, XTAB, 0);
}

static void test_limits(void **state)
{
    vn_auto(xen_memory) struct xen_memory *m = xen_memory_new(3 * PAGE + 100);
    struct vn_err err = VN_ERR_INIT;
    uint64_t pfn;
    int r = 0;

    (void)state;
    for (pfn = 0; pfn < 3; pfn++)
        put(m, pfn, NORMAL, page_a);
    put(m, 3, NORMAL, zeros); /* takes no room */
    assert_int_equal(xen_memory_page(m, 4, NORMAL, page_a, &err), -1);
    assert_int_equal(err.code, VN_E_LIMIT);
    assert_non_null(strstr(err.msg, "more than 3 pages"));
    put(m, 1, NORMAL, page_b); /* in its place */
    put(m, 2, XTAB, NULL);
    put(m, 4, NORMAL, page_b); /* room again */
    assert_int_equal(m->slots.piece_count, 1);

    for (pfn = 0; r == 0; pfn += XEN_LEAF_PFNS)
        r = xen_memory_page(m, pfn, XEN_PAGE_XALLOC, NULL, &err);
    assert_int_equal(err.code, VN_E_LIMIT);
    assert_true(m->leaf_count * XEN_LEAF_PFNS * sizeof(uintptr_t) <= 17 * MIB);
}

/* Pieces of memory are there before they are needed, no more than the limit
 * allows, and none more once the domain stands. */
static void test_ahead(void **state)
{
    vn_auto(xen_memory) struct xen_memory *m = xen_memory_new(24 * MIB);
    uint64_t pfn = 0;
    size_t pieces;

    (void)state;
    for (; pfn < 600; pfn++)
        put(m, pfn, NORMAL, page_a);
    pieces = m->slots.piece_count;
    assert_true(pieces * 512 >= 600 + 8 * 512 - 512);
    assert_true(pieces <= 10);
    xen_memory_freeze(m);
    for (; pfn < pieces * 512; pfn++)
        put(m, pfn, NORMAL, page_b);
    assert_int_equal(m->slots.piece_count, pieces);
    for (; pfn < 24 * MIB / PAGE; pfn++)
        put(m, pfn, NORMAL, page_b);
    assert_int_equal(m->slots.piece_count, 12);
    for (uint64_t i = 0; i < pfn; i++)
        expect_page(m, i, NORMAL, i < 600 ? 'a' : 'b');
}

static void test_freeze(void **state)
{
    vn_auto(xen_memory) struct xen_memory *m = xen_memory_new(MIB);

    (void)state;
    put(m, 1, NORMAL, page_a);
    put(m, 2, 4, page_a);
    put(m, 3, NORMAL, zeros);
    put(m, 1, XTAB, NULL); /* ballooned out while it runs: no loss */
    assert_int_equal(xen_memory_lost(m), 0);
    xen_memory_freeze(m);
    put(m, 1, XTAB, NULL);
    put(m, 77777, XTAB, NULL);
    assert_int_equal(xen_memory_lost(m), 0);
    put(m, 2, XTAB, NULL);
    put(m, 2, XTAB, NULL); /* the same one */
    put(m, 3, XTAB, NULL);
    assert_int_equal(xen_memory_lost(m), 2);
    expect_page(m, 2, 4, 'a'); /* kept */
    assert_int_equal(counts_of(m).pages, 2);
    put(m, 2, 4, page_b); /* came after all */
    assert_int_equal(xen_memory_lost(m), 1);
    expect_page(m, 2, 4, 'b');
}

/* ---- into the store ---------------------------------------------------- */

struct saved {
    struct store_fixture *store;
    struct buf bytes;
    json_t *manifest, *parent;
};

static int save_setup(void **state)
{
    struct saved *s = vn_alloc(sizeof(*s));
    void *store;

    fill_pages(state);
    if (fixture_setup(&store) < 0)
        return -1;
    s->store = store;
    buf_init(&s->bytes, 64 << 20);
    *state = s;
    return 0;
}

static int save_teardown(void **state)
{
    struct saved *s = *state;
    void *store = s->store;

    json_decref(s->manifest);
    json_decref(s->parent);
    buf_done(&s->bytes);
    free(s);
    return fixture_teardown(&store);
}

/* Parse the bytes and save them as VM "a" into a new manifest; the one before
 * becomes the parent. */
static void save(struct saved *s, struct store_counts *ret_counts)
{
    vn_auto(xen_memory) struct xen_memory *memory = xen_memory_new(64 * MIB);
    const struct xen_stream_sink sink = {xen_memory_page, memory};
    vn_auto(xen_stream) struct xen_stream *stream = xen_stream_new(&sink);
    struct vn_err err = VN_ERR_INIT;
    struct store_writer *writer = store_writer_open(s->store->store, &err);

    assert_made(writer, &err);
    assert_ok(xen_stream_feed(stream, s->bytes.data, s->bytes.size, &err),
              &err);
    assert_ok(xen_stream_finish(stream, &err), &err);
    json_decref(s->parent);
    s->parent = s->manifest;
    s->manifest = manifest_new("test", "vne");
    assert_ok(xen_memory_save(memory, stream, "a", writer, s->parent,
                              s->manifest, &err),
              &err);
    assert_ok(store_writer_flush(writer, &err), &err);
    if (ret_counts)
        store_writer_counts(writer, ret_counts);
    store_writer_free(writer);
}

/* An object's bytes; freed by the caller. */
static uint8_t *load(const struct saved *s, char *name, uint64_t expected_size)
{
    vn_auto(free) char *owned = name;
    vn_auto(image_reader) struct image_reader *image = NULL;
    uint8_t *data = vn_alloc(expected_size);
    struct vn_err err = VN_ERR_INIT;
    struct map_root root = {0};

    assert_ok(manifest_object(s->manifest, owned, &root, &err), &err);
    assert_int_equal(root.size, expected_size);
    image = image_reader_open(s->store->store, &root, &err);
    assert_made(image, &err);
    assert_ok(image_reader_read(image, 0, data, expected_size, &err), &err);
    return data;
}

static void expect_object(const struct saved *s, char *name, const void *data,
                          size_t size)
{
    vn_auto(free) uint8_t *got = load(s, name, size);

    assert_memory_equal(got, data, size);
}

static bool has_object(const struct saved *s, char *name)
{
    vn_auto(free) char *owned = name;
    struct vn_err err = VN_ERR_INIT;
    struct map_root root;

    return manifest_object(s->manifest, owned, &root, &err) == 0;
}

/* `page`: in the image; windows of 512 pfns without data are not in it. */
static void expect_byte(const uint8_t *memory, uint64_t page, uint8_t byte)
{
    for (size_t i = 0; i < PAGE; i++)
        assert_int_equal(memory[page * PAGE + i], byte);
}

static void build_hvm(struct buf *b, char fill)
{
    uint64_t entries[40];
    char fills[41] = {0};

    b->size = 0;
    xb_libxl_begin(b);
    xb_begin(b, XB_HVM);
    for (unsigned i = 0; i < 40; i++) {
        entries[i] = XB_ENTRY(0, 100 + i);
        fills[i] = i == 20 ? '0' : (char)('A' + i % 26);
    }
    xb_pages(b, entries, 40, fills);
    xb_page(b, 0, 110, fill); /* again */
    xb_pages(b,
             (uint64_t[]){XB_ENTRY(0xf, 111), XB_ENTRY(0xe, 50),
                          XB_ENTRY(0xf, 0x30000)},
             3, "");
    xb_page(b, 0, 0x1234, 'q');
    xb_tail(b, XB_HVM);
    xb_end(b);
    xb_emulator(b);
    xb_end(b);
}

static void test_save_hvm(void **state)
{
    struct saved *s = *state;
    vn_auto(free) uint8_t *memory = NULL, *types = NULL;
    vn_auto(buf) struct buf part = {0};

    build_hvm(&s->bytes, 'z');
    save(s, NULL);
    /* The windows of pfns 0 and 0x1200. */
    memory = load(s, xen_object_memory("a"), 4 * MIB);
    types = load(s, xen_object_types("a"), 0x1235);
    for (uint64_t i = 0; i < 0x1235; i++) {
        bool is_run = i >= 100 && i < 140 && i != 111;

        assert_int_equal(types[i], is_run || i == 0x1234 ? NORMAL
                                   : i == 50             ? XEN_PAGE_XALLOC
                                                         : XTAB);
        if (i >= 512)
            continue;
        if (i == 110)
            expect_byte(memory, i, 'z');
        else if (is_run && i != 120)
            expect_byte(memory, i, (uint8_t)('A' + (i - 100) % 26));
        else
            expect_byte(memory, i, 0);
    }
    for (uint64_t i = 0; i < 512; i++)
        expect_byte(memory, 512 + i, i == 0x34 ? 'q' : 0);
    buf_init(&part, 1 << 20);
    xb_policies(&part);
    xb_record(&part, XB_STATIC_END, NULL, 0);
    expect_object(s, xen_object_head("a"), part.data, part.size);
    part.size = 0;
    xb_tail(&part, XB_HVM);
    expect_object(s, xen_object_tail("a"), part.data, part.size);
    part.size = 0;
    xb_emulator(&part);
    expect_object(s, xen_object_emulator("a"), part.data, part.size);
}

/* The second snapshot has a parent, also when the memory has grown. */
static void test_save_again(void **state)
{
    struct saved *s = *state;
    struct store_counts first, second;

    build_hvm(&s->bytes, 'z');
    save(s, &first);
    assert_true(first.bytes_new > 25 * PAGE);
    s->bytes.size = 0;
    xb_begin(&s->bytes, XB_HVM);
    for (unsigned i = 0; i < 26; i++)
        xb_page(&s->bytes, 0, 100 + i, (char)('A' + i));
    xb_page(&s->bytes, 0, 0x2000, 'y');
    xb_tail(&s->bytes, XB_HVM);
    xb_end(&s->bytes);
    save(s, &second);
    /* 110, 111, 120 were different before. */
    assert_int_equal(second.bytes_unchanged / PAGE, 23);
    assert_false(has_object(s, xen_object_emulator("a")));
}

static void add_page(struct buf *b, uint64_t pfn, uint8_t first, uint8_t last)
{
    const uint64_t entry[2] = {1, XB_ENTRY(0, pfn)};
    uint8_t page[PAGE] = {first};

    page[PAGE - 1] = last;
    buf_put_le32(b, XB_PAGES);
    buf_put_le32(b, sizeof(entry) + PAGE);
    buf_put(b, entry, sizeof(entry));
    buf_put(b, page, PAGE);
}

/* A window that was not there, before all others: each page is at another
 * place than in the parent, and known. One that goes: the same. */
static void test_save_shifted(void **state)
{
    struct saved *s = *state;
    struct buf *b = &s->bytes;
    struct store_counts counts;
    vn_auto(free) uint8_t *memory = NULL;

    for (unsigned round = 0; round < 3; round++) {
        b->size = 0;
        xb_begin(b, XB_HVM);
        if (round == 1)
            add_page(b, 0x1ff, 'n', 'n');
        for (unsigned i = 0; i < 50; i++) /* over an edge of windows */
            add_page(b, 0x7f0 + i, 'o', (uint8_t)i);
        xb_tail(b, XB_HVM);
        xb_end(b);
        save(s, &counts);
        if (round == 1) {
            memory = load(s, xen_object_memory("a"), 6 * MIB);
            /* And head and tail. */
            assert_int_equal(counts.bytes_known / PAGE, 50 + 2);
        }
    }
    assert_int_equal(memory[0x1ff * PAGE], 'n');
    for (unsigned i = 0; i < 50; i++)
        assert_int_equal(memory[(0x200 + 0x1f0 + i + 1) * PAGE - 1], i);
    /* The types' only page is as it was in the first one. */
    assert_int_equal(counts.bytes_known / PAGE, 50 + 2 + 1);
    assert_int_equal(counts.bytes_new, 0);
    assert_int_equal(counts.bytes_unchanged, 0);
}

/* Pages far apart cost nothing but their types; only such without data: no
 * image at all. */
static void test_save_sparse(void **state)
{
    enum { FAR = 1 << 24 }; /* 64 GiB */
    struct saved *s = *state;
    struct buf *b = &s->bytes;
    vn_auto(free) uint8_t *memory = NULL, *types = NULL;

    xb_begin(b, XB_HVM);
    add_page(b, 5, 'a', 'a');
    add_page(b, FAR, 'b', 'b');
    xb_pages(b, (uint64_t[]){XB_ENTRY(0xe, 0x10000)}, 1, "");
    xb_tail(b, XB_HVM);
    xb_end(b);
    save(s, NULL);
    memory = load(s, xen_object_memory("a"), 4 * MIB);
    assert_int_equal(memory[5 * PAGE], 'a');
    assert_int_equal(memory[512 * PAGE], 'b');
    types = load(s, xen_object_types("a"), FAR + 1);
    assert_int_equal(types[5], NORMAL);
    assert_int_equal(types[0x10000], XEN_PAGE_XALLOC);
    assert_int_equal(types[FAR - 1], XTAB);
    assert_int_equal(types[FAR], NORMAL);

    b->size = 0;
    xb_begin(b, XB_HVM);
    xb_pages(b, (uint64_t[]){XB_ENTRY(0xe, 7), XB_ENTRY(0xd, 600)}, 2, "");
    xb_tail(b, XB_HVM);
    xb_end(b);
    save(s, NULL);
    free(vn_steal(&memory));
    memory = load(s, xen_object_memory("a"), 0);
}

/* Of a p2m over pfns 0 to 0x4ff the entries are zeros: two frames and half. */
static void test_save_p2m(void **state)
{
    struct saved *s = *state;
    struct buf *b = &s->bytes;
    vn_auto(free) uint8_t *memory = NULL;
    const size_t part = (XB_PFNS - 1024) * 8;

    xb_begin(b, XB_PV);
    xb_pages(b,
             (uint64_t[]){XB_ENTRY(0, 0x10), XB_ENTRY(0, 0x11),
                          XB_ENTRY(0, 0x12), XB_ENTRY(9, 0x13)},
             4, "abcd");
    xb_tail(b, XB_PV);
    xb_end(b);
    save(s, NULL);
    memory = load(s, xen_object_memory("a"), 2 * MIB);
    expect_byte(memory, 0x10, 0);
    expect_byte(memory, 0x11, 0);
    for (size_t i = 0; i < PAGE; i++)
        assert_int_equal(memory[0x12 * PAGE + i], i < part ? 0 : 'c');
    expect_byte(memory, 0x13, 'd');
    assert_false(has_object(s, xen_object_emulator("a")));
}

/* Frames of the p2m that are not there, or are page tables, which no restore
 * takes: nothing is written where nothing may be. */
static void test_save_odd_p2m(void **state)
{
    struct saved *s = *state;
    struct buf *b = &s->bytes;
    vn_auto(free) uint8_t *memory = NULL;

    xb_begin(b, XB_PV);
    xb_pages(b, (uint64_t[]){XB_ENTRY(1, 0x10), XB_ENTRY(0xe, 0x11)}, 2, "a");
    xb_tail(b, XB_PV);
    xb_end(b);
    save(s, NULL);
    memory = load(s, xen_object_memory("a"), 2 * MIB);
    expect_byte(memory, 0x10, 'a');
    expect_byte(memory, 0x11, 0);
}

/* Pages from all over our memory, larger than one run and one piece. */
static void test_save_large(void **state)
{
    enum { COUNT = 6000 };
    struct saved *s = *state;
    struct buf *b = &s->bytes;
    vn_auto(free) uint64_t *entries = vn_alloc(COUNT * sizeof(*entries));
    vn_auto(free) uint8_t *memory = NULL, *types = NULL;
    vn_auto(free) char *fills = vn_alloc(COUNT + 1);

    for (unsigned i = 0; i < COUNT; i++) {
        entries[i] = XB_ENTRY(0, (uint64_t)i * 7 % COUNT);
        fills[i] = (char)('A' + i % 50);
    }
    xb_begin(b, XB_HVM);
    xb_pages(b, entries, COUNT, fills);
    for (unsigned i = 0; i < COUNT; i++) /* in order, changed */
        entries[i] = XB_ENTRY(0, i);
    for (unsigned i = 0; i < COUNT; i++)
        fills[i] = (char)('0' + i % 60);
    xb_pages(b, entries, COUNT / 2, (fills[COUNT / 2] = '\0', fills));
    xb_tail(b, XB_HVM);
    xb_end(b);
    save(s, NULL);
    memory = load(s, xen_object_memory("a"), 12 * 2 * MIB);
    types = load(s, xen_object_types("a"), COUNT);
    for (unsigned i = 0; i < COUNT; i++) {
        /* The inverse of 7: 7 * 5143 = 6 * COUNT + 1. */
        unsigned at = (unsigned)((uint64_t)i * 5143 % COUNT);
        unsigned fill = i < COUNT / 2 ? '0' + i % 60 : 'A' + at % 50;

        assert_int_equal(types[i], NORMAL);
        assert_int_equal(memory[(size_t)i * PAGE + 77], fill == '0' ? 0 : fill);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_last_wins, fill_pages),
        cmocka_unit_test(test_nearly_zero),
        cmocka_unit_test_setup(test_sparse, fill_pages),
        cmocka_unit_test_setup(test_limits, fill_pages),
        cmocka_unit_test_setup(test_ahead, fill_pages),
        cmocka_unit_test_setup(test_freeze, fill_pages),
        cmocka_unit_test_setup_teardown(test_save_hvm, save_setup,
                                        save_teardown),
        cmocka_unit_test_setup_teardown(test_save_again, save_setup,
                                        save_teardown),
        cmocka_unit_test_setup_teardown(test_save_shifted, save_setup,
                                        save_teardown),
        cmocka_unit_test_setup_teardown(test_save_sparse, save_setup,
                                        save_teardown),
        cmocka_unit_test_setup_teardown(test_save_p2m, save_setup,
                                        save_teardown),
        cmocka_unit_test_setup_teardown(test_save_odd_p2m, save_setup,
                                        save_teardown),
        cmocka_unit_test_setup_teardown(test_save_large, save_setup,
                                        save_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
