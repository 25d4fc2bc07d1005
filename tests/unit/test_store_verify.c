/*
 * Damage: whatever happens to a pack's file, verify finds it, and reading gives
 * the right bytes or VN_E_CORRUPT with chunk and pack, never other bytes.
 */

#include "unit/store_fixture.h"

#include "store/engine.h"
#include "store/index.h"
#include "store/pack.h"
#include "store/store_config.h"

#include <fcntl.h>

enum { PAGES = 700 };

struct victim {
    struct store_fixture *f;
    uint8_t *data;
    struct map_root root;
    char pack[400]; /* path of the pack with the image */
};

static int find_large_pack(const char *path, const struct stat *st, int type,
                           struct FTW *where);
static char found_pack[400];
static off_t found_size;

static int setup(void **state)
{
    struct victim *v = vn_alloc(sizeof(*v));

    if (fixture_setup((void **)&v->f) < 0)
        return -1;
    v->data = vn_alloc(PAGES * PAGE);
    fill_half(v->data, PAGES * PAGE, 5);
    v->root = store_image(v->f->store, v->data, PAGES * PAGE, NULL, NULL);
    commit_image(v->f->store, "lab@1", &v->root);
    found_size = 0;
    nftw(v->f->path, find_large_pack, 16, FTW_PHYS);
    memcpy(v->pack, found_pack, sizeof(v->pack));
    store_close(vn_steal(&v->f->store));
    *state = v;
    return 0;
}

static int teardown(void **state)
{
    struct victim *v = *state;

    free(v->data);
    fixture_teardown((void **)&v->f);
    free(v);
    return 0;
}

static int find_large_pack(const char *path, const struct stat *st, int type,
                           struct FTW *where)
{
    (void)where;
    if (type == FTW_F && strstr(path, ".pack") && st->st_size > found_size) {
        found_size = st->st_size;
        snprintf(found_pack, sizeof(found_pack), "%s", path);
    }
    return 0;
}

static void flip(const struct victim *v, off_t offset)
{
    int fd = open(v->pack, O_RDWR);
    uint8_t byte;

    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, offset), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, offset), 1);
    close(fd);
}

/* Every page alone: its own bytes or VN_E_CORRUPT. Returns the failures. */
static unsigned read_all_pages(struct victim *v)
{
    struct vn_err err = VN_ERR_INIT;
    struct image_reader *reader =
        image_reader_open(v->f->store, &v->root, &err);
    unsigned failures = 0;
    uint8_t page[PAGE];

    if (!reader) {
        assert_int_equal(err.code, VN_E_CORRUPT);
        assert_non_null(strstr(err.msg, "chunk "));
        return PAGES;
    }
    for (unsigned i = 0; i < PAGES; i++) {
        if (image_reader_read(reader, i * PAGE, page, PAGE, &err) == 0) {
            assert_memory_equal(page, v->data + i * PAGE, PAGE);
            continue;
        }
        failures++;
        assert_int_equal(err.code, VN_E_CORRUPT);
        assert_non_null(strstr(err.msg, "chunk "));
        assert_non_null(strstr(err.msg, "pack "));
    }
    image_reader_free(reader);
    return failures;
}

static char all_findings[65536];

static void collect(void *context, const char *sentence)
{
    size_t used = strlen(all_findings);

    (void)context;
    snprintf(all_findings + used, sizeof(all_findings) - used, "%s\n",
             sentence);
}

static uint64_t verify(struct victim *v, const char *snapshot)
{
    struct store_verify_opts opts = {.finding = collect, .snapshot = snapshot};
    struct vn_err err = VN_ERR_INIT;
    uint64_t findings = 0;

    all_findings[0] = 0;
    assert_ok(store_verify(v->f->store, &opts, &findings, &err), &err);
    return findings;
}

static void reopen(struct victim *v)
{
    fixture_reopen(v->f);
}

static void test_whole(void **state)
{
    struct victim *v = *state;

    reopen(v);
    assert_int_equal(verify(v, NULL), 0);
    assert_int_equal(verify(v, "lab@1"), 0);
    assert_int_equal(read_all_pages(v), 0);
}

static void test_header(void **state)
{
    struct victim *v = *state;

    flip(v, 20);
    reopen(v);
    assert_int_equal(verify(v, NULL), 1);
    assert_non_null(strstr(all_findings, "header"));
    assert_int_equal(read_all_pages(v), 0); /* chunks are whole */
}

static void test_chunk(void **state)
{
    struct victim *v = *state;

    flip(v, PACK_HEADER_SIZE + 1000); /* in the first page */
    reopen(v);
    assert_true(verify(v, NULL) >= 3);
    assert_non_null(strstr(all_findings, "chunk "));
    assert_non_null(strstr(all_findings, "snapshot 'lab@1', object 'image': 1 "
                                         "pages"));
    assert_non_null(strstr(all_findings, "at offset 0"));
    assert_int_equal(verify(v, "lab@1"), 2); /* the chunk, the object */
    assert_int_equal(read_all_pages(v), 1);
}

static void test_each_place(void **state)
{
    struct victim *v = *state;

    for (off_t at = 0; at < found_size; at += found_size / 23) {
        flip(v, at);
        reopen(v);
        if (verify(v, NULL) == 0)
            fail_msg("byte %lld changed and verify found nothing",
                     (long long)at);
        read_all_pages(v);
        flip(v, at);
    }
    reopen(v);
    assert_int_equal(verify(v, NULL), 0);
}

static void test_directory_and_footer(void **state)
{
    struct victim *v = *state;

    flip(v, found_size - PACK_FOOTER_SIZE - 100);
    reopen(v);
    assert_int_equal(verify(v, NULL), 1);
    assert_non_null(strstr(all_findings, "directory"));
    assert_int_equal(read_all_pages(v), 0); /* the index has the places */
    flip(v, found_size - PACK_FOOTER_SIZE - 100);
    flip(v, found_size - 30);
    reopen(v);
    assert_int_equal(verify(v, NULL), 1);
    assert_non_null(strstr(all_findings, "footer"));
}

static void test_truncated_and_gone(void **state)
{
    struct victim *v = *state;

    assert_int_equal(truncate(v->pack, found_size / 2), 0);
    reopen(v);
    assert_true(verify(v, NULL) >= 2);
    assert_true(read_all_pages(v) > 0);
    assert_int_equal(unlink(v->pack), 0);
    reopen(v);
    assert_true(verify(v, NULL) >= 2);
    assert_non_null(strstr(all_findings, "there is no file"));
    assert_int_equal(read_all_pages(v), PAGES);
}

/* Two packs with each other's name: everything in them is whole, alone. */
static void test_swapped_packs(void **state)
{
    struct victim *v = *state;
    vn_auto(free) char *other = NULL;
    vn_auto(free) char *aside = vn_format("%s/aside", v->f->dir);
    char *dot;

    /* The manifest's pack was drawn from the block after the image's. */
    other = vn_strdup(v->pack);
    dot = strrchr(other, '/');
    snprintf(dot + 1, strlen(dot + 1) + 1, "%012x", 65);
    dot[13] = '.';
    assert_int_equal(access(other, F_OK), 0);
    assert_int_equal(rename(v->pack, aside), 0);
    assert_int_equal(rename(other, v->pack), 0);
    assert_int_equal(rename(aside, other), 0);
    reopen(v);
    assert_true(verify(v, NULL) >= 2);
    assert_int_equal(read_all_pages(v), PAGES);
}

static void test_damaged_manifest_is_listed(void **state)
{
    struct victim *v = *state;
    struct vn_err err = VN_ERR_INIT;
    json_t *list;
    char *dot;

    dot = strrchr(v->pack, '/');
    snprintf(dot + 1, strlen(dot + 1) + 1, "%012x", 65);
    dot[13] = '.';
    flip(v, PACK_HEADER_SIZE + 10);
    reopen(v);
    list = store_list(v->f->store, &err);
    assert_made(list, &err);
    assert_int_equal(json_array_size(list), 1);
    assert_string_equal(
        json_string_value(json_object_get(json_array_get(list, 0), "kind")),
        "damaged");
    assert_ok(manifest_check(json_array_get(list, 0), &err), &err);
    json_decref(list);
    assert_null(store_load(v->f->store, "lab@1", &err));
    assert_int_equal(err.code, VN_E_CORRUPT);
    assert_non_null(strstr(err.msg, "lab@1"));
    assert_true(verify(v, NULL) >= 2);
}

/* A row of the index that points elsewhere. */
static void test_index_points_nowhere(void **state)
{
    struct victim *v = *state;
    vn_auto(free) char *path = vn_format("%s/index", v->f->path);
    struct index_chunk stray = {.id = {{0x77}},
                                .place = {.pack_id = 999,
                                          .offset = 64,
                                          .stored_size = 100,
                                          .kind = CHUNK_PAGE,
                                          .codec = CODEC_LZ4}};
    struct index_chunk wrong = stray;
    struct vn_err err = VN_ERR_INIT;
    struct store_config config;
    struct index *index;

    reopen(v);
    assert_ok(store_config_read(v->f->path, &config, &err), &err);
    index = index_open(path, config.store_id, &err);
    assert_made(index, &err);
    wrong.id.bytes[0] = 0x78;
    wrong.place.pack_id = 1;
    assert_ok(index_add(index, NULL, 0, &stray, 1, &err), &err);
    assert_ok(index_add(index, NULL, 0, &wrong, 1, &err), &err);
    index_close(index);
    assert_int_equal(verify(v, NULL), 3);
    assert_non_null(strstr(all_findings, "7700"));
    assert_non_null(strstr(all_findings, "7800"));
    assert_int_equal(read_all_pages(v), 0);
}

static uint64_t last_done;
static uint64_t last_total;

static void progress(void *context, uint64_t done, uint64_t total)
{
    (void)context;
    assert_true(done >= last_done && done <= total);
    last_done = done;
    last_total = total;
}

static void test_progress(void **state)
{
    struct victim *v = *state;
    struct store_verify_opts opts = {.progress = progress};
    struct vn_err err = VN_ERR_INIT;
    uint64_t findings;

    reopen(v);
    last_done = 0;
    assert_ok(store_verify(v->f->store, &opts, &findings, &err), &err);
    assert_int_equal(findings, 0);
    assert_true(last_total > 0);
    assert_int_equal(last_done, last_total);
    opts.snapshot = "nope";
    assert_int_equal(store_verify(v->f->store, &opts, &findings, &err), -1);
    assert_int_equal(err.code, VN_E_NOT_FOUND);
}

#define WITH_VICTIM(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_VICTIM(test_whole),
        WITH_VICTIM(test_header),
        WITH_VICTIM(test_chunk),
        WITH_VICTIM(test_each_place),
        WITH_VICTIM(test_directory_and_footer),
        WITH_VICTIM(test_truncated_and_gone),
        WITH_VICTIM(test_swapped_packs),
        WITH_VICTIM(test_damaged_manifest_is_listed),
        WITH_VICTIM(test_index_points_nowhere),
        WITH_VICTIM(test_progress),
    };

    /* Pages lie in the pack in their order. */
    setenv("VNSTORE_THREADS", "1", 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
