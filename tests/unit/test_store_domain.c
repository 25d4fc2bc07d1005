/*
 * Domains: what is shared within one and what is not between two; names, tags,
 * manifests; comparing and moving snapshots between domains. Their care - gc,
 * verify, repair - is tested in test_store_domain_care.c.
 */

#include "unit/store_domain_fixture.h"

#include "store/archive.h"

#include <sys/mman.h>

enum { PAGES = 700 }; /* an inner node and two leaves */

#define BYTES ((uint64_t)PAGES * PAGE)

/* ---- names ------------------------------------------------------------ */

static void test_names(void **state)
{
    static const char *const good[] = {"a", "0", "_x", "Red.team-7", "A.B-c_d"};
    static const char *const bad[] = {"",    "-a",  ".a",  "a b",
                                      "a/b", "a@1", "a\n", "t\xc3\xa4g"};
    struct store_fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    char name[STORE_DOMAIN_MAX + 2];
    uint64_t tag = 7;

    for (size_t i = 0; i < VN_COUNT(good); i++)
        assert_ok(store_domain_check(good[i], &err), &err);
    for (size_t i = 0; i < VN_COUNT(bad); i++) {
        assert_int_equal(store_domain_check(bad[i], &err), -1);
        assert_int_equal(err.code, VN_E_FORMAT);
        assert_int_equal(store_domain_tag(f->store, bad[i], &tag, &err), -1);
        assert_null(store_writer_open_in(f->store, bad[i], &err));
    }
    assert_int_equal(tag, 7);
    memset(name, 'x', sizeof(name));
    name[STORE_DOMAIN_MAX] = 0;
    assert_ok(store_domain_check(name, &err), &err);
    name[STORE_DOMAIN_MAX] = 'x';
    name[STORE_DOMAIN_MAX + 1] = 0;
    assert_int_equal(store_domain_check(name, &err), -1);
}

static void test_tags(void **state)
{
    struct store_fixture *f = *state;
    char name[STORE_DOMAIN_MAX + 1];
    uint64_t red = tag_of(f->store, "red");
    struct vn_err err = VN_ERR_INIT;
    vn_auto(free) char *path = vn_format("%s/second", f->dir);
    vn_auto(store) struct store *second = NULL;

    assert_true(tag_of(f->store, NULL) == 0);
    assert_true(red != 0 && red == tag_of(f->store, "red"));
    assert_true(red != tag_of(f->store, "Red"));
    assert_true(red != tag_of(f->store, "blue"));
    /* The last letter of the longest name counts. */
    memset(name, 'x', STORE_DOMAIN_MAX);
    name[STORE_DOMAIN_MAX] = 0;
    red = tag_of(f->store, name);
    name[STORE_DOMAIN_MAX - 1] = 'y';
    assert_true(red != tag_of(f->store, name));
    /* Another store has another tag for the name. */
    assert_ok(store_init(path, &err), &err);
    second = store_open(path, &err);
    assert_made(second, &err);
    assert_true(tag_of(second, "red") != tag_of(f->store, "red"));
}

/* ---- sharing ---------------------------------------------------------- */

static void test_within_one_and_not_between_two(void **state)
{
    static const char *const domains[] = {"red", "blue", NULL};
    struct store_fixture *f = *state;
    vn_auto(free) uint8_t *data = vn_alloc(BYTES);
    struct map_root roots[VN_COUNT(domains)];
    struct store_counts first, again;
    struct census *census;

    fill_half(data, BYTES, 5);
    for (size_t i = 0; i < VN_COUNT(domains); i++) {
        vn_auto(free) char *name = vn_format("image%zu", i);

        roots[i] = put_in(f->store, domains[i], data, PAGES, NULL, &first);
        assert_int_equal(first.bytes_new, BYTES);
        assert_int_equal(first.bytes_known, 0);
        put_in(f->store, domains[i], data, PAGES, NULL, &again);
        assert_int_equal(again.bytes_new, 0);
        assert_int_equal(again.bytes_known, BYTES);
        assert_int_equal(again.bytes_stored, 0);
        commit_in(f->store, name, domains[i], &roots[i]);
        for (size_t k = 0; k < i; k++)
            assert_int_not_equal(
                chunk_id_compare(&roots[i].root, &roots[k].root), 0);
    }
    census = take_census(f->store);
    for (size_t i = 0; i < VN_COUNT(domains); i++) {
        assert_int_equal(census_pages(census, domains[i]), PAGES);
        assert_true(image_equals(f->store, &roots[i], data, BYTES));
    }
    assert_int_equal(count_findings(f->store), 0);
    fixture_reopen(f);
    for (size_t i = 0; i < VN_COUNT(domains); i++)
        assert_true(image_equals(f->store, &roots[i], data, BYTES));
}

/* Equal, but for what LZ4 makes of ids, which are random, in the nodes. */
static void assert_counts(const struct store_counts *a, struct store_counts b)
{
    assert_true(b.bytes_stored < a->bytes_stored + 100 &&
                a->bytes_stored < b.bytes_stored + 100);
    b.bytes_stored = a->bytes_stored;
    assert_memory_equal(a, &b, sizeof(b));
}

/* What a tenant sees of his put does not depend on what others have. */
static void test_counts_say_nothing_of_others(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) uint8_t *data = vn_alloc(BYTES);
    struct store_counts alone, beside, parent;
    struct map_root red;

    fill_half(data, BYTES, 6);
    put_in(f->store, "blue", data, PAGES, NULL, &alone);
    red = add_in(f->store, "red@1", "red", data, PAGES, NULL);
    put_in(f->store, "green", data, PAGES, NULL, &beside);
    assert_counts(&alone, beside);
    put_in(f->store, "violet", data, PAGES, &red, &parent);
    assert_counts(&alone, parent);
    /* Nor on what the store's own has, or has of them. */
    put_in(f->store, NULL, data, PAGES, &red, &beside);
    assert_int_equal(beside.bytes_new, BYTES);
    put_in(f->store, "yellow", data, PAGES, NULL, &beside);
    assert_counts(&alone, beside);
}

/* A parent of another domain is none, whatever its leaves say; one of the same
 * domain is used. */
static void test_parents(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) uint8_t *data = make_pages(3, PAGES);
    struct map_root red = add_in(f->store, "red@1", "red", data, PAGES, NULL);
    struct map_root blue, next;
    struct store_counts c;

    blue = put_in(f->store, "blue", data, PAGES, &red, &c);
    assert_int_equal(c.bytes_unchanged, 0);
    assert_int_equal(c.bytes_new, BYTES);
    commit_in(f->store, "blue@1", "blue", &blue);
    put_in(f->store, NULL, data, PAGES, &red, &c);
    assert_int_equal(c.bytes_unchanged, 0);
    fill_random(data + 600 * PAGE, PAGE, 99);
    next = put_in(f->store, "red", data, PAGES, &red, &c);
    assert_int_equal(c.bytes_unchanged, BYTES - PAGE);
    assert_int_equal(c.bytes_new, PAGE);
    commit_in(f->store, "red@2", "red", &next);
    delete_snapshot(f->store, "blue@1");
    run_gc(f->store, &gc_now);
    assert_true(snapshot_equals(f->store, "red@2", data, PAGES));
    assert_int_equal(count_findings(f->store), 0);
}

/* Images of zeros, and of nothing, have a domain too. */
static void test_images_without_pages(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) uint8_t *zeros = vn_alloc(BYTES);
    struct map_root none = put_in(f->store, "red", zeros, 0, NULL, NULL);
    struct map_root root = put_in(f->store, "red", zeros, PAGES, NULL, NULL);

    assert_true(chunk_id_is_zero(&none.root) && chunk_id_is_zero(&root.root));
    commit_in(f->store, "none", "red", &none);
    commit_in(f->store, "zeros", "red", &root);
    assert_true(snapshot_equals(f->store, "zeros", zeros, PAGES));
    assert_int_equal(count_findings(f->store), 0);
}

/* A map of the same pages whose fingerprints are of no use: the ids decide,
 * and these are of one domain. */
static void test_readers_use_the_domains_ids(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) uint8_t *data = make_pages(12, 100);
    struct map_root root = put_in(f->store, "red", data, 100, NULL, NULL);
    struct vn_err err = VN_ERR_INIT;
    struct store_writer *writer = store_writer_open_in(f->store, "red", &err);
    uint8_t encoded[MAP_LEAF_SIZE], got[PAGE];
    const uint8_t *pointer = encoded;
    struct image_reader *reader;
    struct map_node leaf;
    struct ident_full id;
    size_t stored;

    assert_made(writer, &err);
    assert_ok(chunk_read_node(f->store, &root.root, 0, &leaf, &err), &err);
    memset(leaf.fingerprints, 0x55, 50 * sizeof(leaf.fingerprints[0]));
    memset(leaf.fingerprints + 50, 0, 50 * sizeof(leaf.fingerprints[0]));
    map_node_encode(&leaf, encoded);
    ident_chunk(&f->store->ident, CHUNK_LEAF, encoded, sizeof(encoded), &id);
    assert_ok(store_writer_put(writer, CHUNK_LEAF, &id, &pointer,
                               sizeof(encoded), 1, &stored, &err),
              &err);
    assert_ok(store_writer_flush(writer, &err), &err);
    store_writer_free(writer);
    root.root = ident_short(&id);
    assert_true(image_equals(f->store, &root, data, 100 * PAGE));
    for (int i = 0; i < 2; i++) {
        root.domain = tag_of(f->store, i ? "blue" : NULL);
        reader = image_reader_open(f->store, &root, &err);
        assert_made(reader, &err);
        assert_int_equal(
            image_reader_read(reader, (i ? 60 : 3) * PAGE, got, PAGE, &err),
            -1);
        assert_int_equal(err.code, VN_E_CORRUPT);
        image_reader_free(reader);
    }
}

/* ---- manifests -------------------------------------------------------- */

static json_t *manifest_of(const struct map_root *root, const char *domain)
{
    json_t *manifest = manifest_new("lab@1", "files");

    manifest_add(manifest, "image", root);
    manifest_set_domain(manifest, domain);
    return manifest;
}

static void test_commit_wants_the_domain_named(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) uint8_t *data = make_pages(4, 20);
    struct map_root red = put_in(f->store, "red", data, 20, NULL, NULL);
    struct map_root own = put_in(f->store, NULL, data, 20, NULL, NULL);
    const struct {
        const struct map_root *root;
        const char *domain;
    } wrong[] = {
        {&red, NULL}, {&red, "blue"}, {&red, "no name"}, {&own, "red"}};
    struct vn_err err = VN_ERR_INIT;
    struct map_root got;

    for (size_t i = 0; i < VN_COUNT(wrong); i++) {
        vn_auto(json) json_t *m = manifest_of(wrong[i].root, wrong[i].domain);

        assert_int_equal(store_commit(f->store, m, &err), -1);
        assert_int_equal(err.code, VN_E_FORMAT);
    }
    {
        vn_auto(json) json_t *m = manifest_of(&red, "red");
        vn_auto(json) json_t *loaded = NULL;

        assert_ok(store_commit(f->store, m, &err), &err);
        loaded = store_load(f->store, "lab@1", &err);
        assert_made(loaded, &err);
        assert_int_equal(json_integer_value(json_object_get(loaded, "format")),
                         3);
        assert_string_equal(manifest_domain(loaded), "red");
        assert_ok(manifest_object(loaded, "image", &got, &err), &err);
        assert_memory_equal(&got, &red, sizeof(got));
    }
    /* Without a domain all is as ever. */
    {
        vn_auto(json) json_t *m = manifest_of(&own, NULL);
        vn_auto(json) json_t *loaded = NULL;

        json_object_set_new(m, "name", json_string("own@1"));
        assert_ok(store_commit(f->store, m, &err), &err);
        loaded = store_load(f->store, "own@1", &err);
        assert_made(loaded, &err);
        assert_int_equal(json_integer_value(json_object_get(loaded, "format")),
                         1);
        assert_null(manifest_domain(loaded));
        assert_null(json_object_get(
            json_object_get(json_object_get(loaded, "objects"), "image"),
            "domain"));
    }
}

static void test_manifests_that_are_wrong(void **state)
{
    static const char *const bad[] = {"0000000000000000", "12345678",
                                      "123456789abcdefg", "0123456789abcdef01",
                                      ""};
    struct map_root root = {.size = 0, .domain = 0x0123456789abcdefull};
    struct vn_err err = VN_ERR_INIT;
    vn_auto(json) json_t *m = manifest_of(&root, "red");
    json_t *entry = json_object_get(json_object_get(m, "objects"), "image");

    (void)state;
    /* Older programs must not take it for one they know. */
    assert_int_equal(manifest_check(m, &err), -1);
    assert_int_equal(err.code, VN_E_FORMAT);
    json_object_set_new(m, "format", json_integer(3));
    assert_ok(manifest_check(m, &err), &err);
    for (size_t i = 0; i < VN_COUNT(bad); i++) {
        json_object_set_new(entry, "domain", json_string(bad[i]));
        assert_int_equal(manifest_check(m, &err), -1);
    }
    json_object_set_new(entry, "domain", json_integer(5));
    assert_int_equal(manifest_check(m, &err), -1);
    json_object_del(entry, "domain");
    assert_ok(manifest_check(m, &err), &err);
    json_object_set_new(m, "format", json_integer(2));
    assert_int_equal(manifest_check(m, &err), -1);
    assert_int_equal(err.code, VN_E_VERSION);
}

/* ---- comparing -------------------------------------------------------- */

static int add_run(void *context, uint64_t offset, uint64_t size,
                   struct vn_err *err)
{
    char *text = context;
    size_t used = strlen(text);

    (void)err;
    snprintf(text + used, 200 - used, "%llu+%llu ",
             (unsigned long long)offset / PAGE,
             (unsigned long long)size / PAGE);
    return 0;
}

static void assert_diff(struct store *store, const struct map_root *a,
                        const struct map_root *b, const char *runs)
{
    struct vn_err err = VN_ERR_INIT;
    char text[200] = "";

    assert_ok(store_diff_object(store, a, b, add_run, text, &err), &err);
    assert_string_equal(text, runs);
}

static void test_diff_between_domains(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) uint8_t *data = make_pages(7, PAGES);
    struct map_root red, blue, small, none = {.size = 0};

    memset(data + 30 * PAGE, 0, 10 * PAGE);
    red = put_in(f->store, "red", data, PAGES, NULL, NULL);
    blue = put_in(f->store, "blue", data, PAGES, NULL, NULL);
    assert_diff(f->store, &red, &blue, "");
    small = put_in(f->store, NULL, data, 20, NULL, NULL);
    assert_diff(f->store, &blue, &small, "20+10 40+660 ");
    fill_random(data + 5 * PAGE, PAGE, 1);
    fill_random(data + 35 * PAGE, PAGE, 1);
    memset(data + 600 * PAGE, 0, 2 * PAGE);
    blue = put_in(f->store, "blue", data, PAGES, NULL, NULL);
    assert_diff(f->store, &red, &blue, "5+1 35+1 600+2 ");
    assert_diff(f->store, &blue, &red, "5+1 35+1 600+2 ");
    assert_diff(f->store, &none, &blue, "0+30 35+1 40+560 602+98 ");
}

/* ---- tars ------------------------------------------------------------- */

static int export_fd(struct store *store, const char *name, const char *since)
{
    struct archive_export_opts opts = {.snapshot = name, .since = since};
    struct vn_err err = VN_ERR_INIT;

    opts.fd = memfd_create("tar", MFD_CLOEXEC);
    assert_ok(archive_export(store, &opts, &err), &err);
    assert_int_equal(lseek(opts.fd, 0, SEEK_SET), 0);
    return opts.fd;
}

static int import_fd(struct store *store, int fd, const char *name,
                     const char *domain, struct store_counts *ret,
                     struct vn_err *err)
{
    const struct archive_import_opts opts = {
        .fd = fd, .name = name, .domain = domain};
    struct archive_imported imported;

    lseek(fd, 0, SEEK_SET);
    if (archive_import(store, &opts, &imported, err) < 0)
        return -1;
    free(imported.name);
    if (ret)
        *ret = imported.counts;
    return 0;
}

static bool file_has(int fd, const char *text)
{
    off_t size = lseek(fd, 0, SEEK_END);
    vn_auto(free) char *data = vn_alloc((size_t)size + 1);

    assert_int_equal(pread(fd, data, (size_t)size, 0), size);
    return memmem(data, (size_t)size, text, strlen(text)) != NULL;
}

static void test_tars_have_no_domain(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) uint8_t *data = make_pages(8, PAGES);
    struct vn_err err = VN_ERR_INIT;
    struct store_counts c;
    vn_auto(close) int fd = -1;

    add_in(f->store, "lab@1", "red", data, PAGES, NULL);
    fd = export_fd(f->store, "lab@1", NULL);
    assert_false(file_has(fd, "domain"));
    assert_true(file_has(fd, "\"format\": 1"));
    assert_ok(import_fd(f->store, fd, "lab@2", "red", &c, &err), &err);
    assert_int_equal(c.bytes_unchanged, BYTES); /* the newest of the series */
    assert_ok(import_fd(f->store, fd, "lab@3", "blue", &c, &err), &err);
    assert_int_equal(c.bytes_new, BYTES);
    assert_ok(import_fd(f->store, fd, "lab@4", NULL, &c, &err), &err);
    assert_int_equal(c.bytes_new, BYTES);
    for (int i = 2; i <= 4; i++) {
        vn_auto(free) char *name = vn_format("lab@%d", i);
        vn_auto(json) json_t *m = store_load(f->store, name, &err);
        const char *domain;

        assert_made(m, &err);
        domain = manifest_domain(m);
        assert_string_equal(domain ? domain : "-", i == 2   ? "red"
                                                   : i == 3 ? "blue"
                                                            : "-");
        assert_true(snapshot_equals(f->store, name, data, PAGES));
    }
    assert_int_equal(import_fd(f->store, fd, "x", "-", NULL, &err), -1);
    assert_int_equal(err.code, VN_E_FORMAT);
    assert_int_equal(count_findings(f->store), 0);
}

/* What is based on a snapshot of another domain: whole, and not taken in. */
static void test_incremental_tars(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) uint8_t *data = make_pages(9, PAGES);
    struct vn_err err = VN_ERR_INIT;
    vn_auto(close) int whole = -1;
    vn_auto(close) int part = -1;
    struct map_root red = add_in(f->store, "red@1", "red", data, PAGES, NULL);
    struct store_counts c;

    add_in(f->store, "blue@1", "blue", data, PAGES, NULL);
    fill_random(data + 77 * PAGE, PAGE, 3);
    add_in(f->store, "red@2", "red", data, PAGES, &red);
    part = export_fd(f->store, "red@2", "red@1");
    whole = export_fd(f->store, "red@2", "blue@1");
    assert_true(lseek(part, 0, SEEK_END) < (off_t)BYTES / 10);
    assert_true(lseek(whole, 0, SEEK_END) > (off_t)BYTES);
    assert_ok(import_fd(f->store, whole, "a", NULL, NULL, &err), &err);
    assert_ok(import_fd(f->store, part, "b", "red", &c, &err), &err);
    assert_int_equal(c.bytes_known, PAGE);
    assert_int_equal(c.bytes_unchanged, BYTES - PAGE);
    assert_true(snapshot_equals(f->store, "a", data, PAGES));
    assert_true(snapshot_equals(f->store, "b", data, PAGES));
    assert_int_equal(import_fd(f->store, part, "c", "blue", NULL, &err), -1);
    assert_int_equal(err.code, VN_E_STATE);
    assert_non_null(strstr(err.msg, "another domain"));
    assert_int_equal(import_fd(f->store, part, "c", NULL, NULL, &err), -1);
    assert_int_equal(err.code, VN_E_STATE);
}

#define WITH_STORE(test)                                                       \
    cmocka_unit_test_setup_teardown(test, domain_setup_blake3, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_BOTH(test_names),
        WITH_BOTH(test_tags),
        WITH_BOTH(test_within_one_and_not_between_two),
        WITH_BOTH(test_counts_say_nothing_of_others),
        WITH_BOTH(test_parents),
        WITH_STORE(test_images_without_pages),
        WITH_BOTH(test_readers_use_the_domains_ids),
        WITH_STORE(test_commit_wants_the_domain_named),
        WITH_STORE(test_manifests_that_are_wrong),
        WITH_STORE(test_diff_between_domains),
        WITH_STORE(test_tars_have_no_domain),
        WITH_STORE(test_incremental_tars),
    };

    use_fast_disk();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
