/* Snapshots: commit, load, list, names and limits, delete, versions. */

#include "unit/store_fixture.h"

#include "common/io.h"
#include "common/jsonx.h"

#include <fcntl.h>

static struct map_root small_image(struct store *store, uint64_t seed)
{
    uint8_t data[3 * PAGE];

    fill_random(data, sizeof(data), seed);
    return store_image(store, data, sizeof(data), NULL, NULL);
}

static const char *text_of(const json_t *manifest, const char *key)
{
    const char *text = jsonx_string_or(manifest, key, NULL);

    assert_non_null(text);
    return text;
}

static void test_commit_and_load(void **state)
{
    struct store_fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    struct map_root root = small_image(f->store, 1);
    json_t *manifest = manifest_new("lab@1", "vne");
    char prefix[16] = "";
    struct map_root got;
    json_t *loaded;

    manifest_add(manifest, "vm/a/ram/pc.ram", &root);
    json_object_set_new(json_object_get(manifest, "meta"), "x",
                        json_string("kept"));
    assert_ok(store_commit(f->store, manifest, &err), &err);
    assert_int_equal(strlen(text_of(manifest, "id")), 32);
    fixture_reopen(f);
    loaded = store_load(f->store, "lab@1", &err);
    assert_made(loaded, &err);
    assert_true(json_equal(loaded, manifest));
    assert_ok(manifest_object(loaded, "vm/a/ram/pc.ram", &got, &err), &err);
    assert_memory_equal(&got, &root, sizeof(got));
    assert_int_equal(manifest_object(loaded, "vm/b", &got, &err), -1);
    assert_int_equal(err.code, VN_E_NOT_FOUND);
    assert_non_null(strstr(err.msg, "vm/b"));
    assert_non_null(strstr(err.msg, "lab@1"));
    json_decref(loaded);

    memcpy(prefix, text_of(manifest, "id"), 8);
    loaded = store_load(f->store, prefix, &err);
    assert_made(loaded, &err);
    json_decref(loaded);
    loaded = store_load(f->store, text_of(manifest, "id"), &err);
    assert_made(loaded, &err);
    json_decref(loaded);
    prefix[7] = 0; /* too short */
    assert_null(store_load(f->store, prefix, &err));
    assert_int_equal(err.code, VN_E_NOT_FOUND);
    json_decref(manifest);
}

static void test_name_is_taken(void **state)
{
    struct store_fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    struct map_root root = small_image(f->store, 1);
    json_t *manifest = manifest_new("lab@1", "vne");

    commit_image(f->store, "lab@1", &root);
    assert_int_equal(store_commit(f->store, manifest, &err), -1);
    assert_int_equal(err.code, VN_E_EXISTS);
    assert_null(json_object_get(manifest, "id"));
    json_decref(manifest);
}

static void test_incomplete_is_refused(void **state)
{
    struct store_fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    struct store_writer *writer = store_writer_open(f->store, &err);
    json_t *manifest = manifest_new("lab@1", "vne");
    struct store_stats stats;
    struct map_root root;

    assert_ok(store_put_bytes(writer, "abc", 3, &root, &err), &err);
    manifest_add(manifest, "thing", &root);
    assert_int_equal(store_commit(f->store, manifest, &err), -1);
    assert_int_equal(err.code, VN_E_NOT_FOUND);
    assert_non_null(strstr(err.msg, "thing"));
    assert_ok(store_stats(f->store, &stats, &err), &err);
    assert_int_equal(stats.snapshots, 0);
    assert_ok(store_writer_flush(writer, &err), &err);
    assert_ok(store_commit(f->store, manifest, &err), &err);
    store_writer_free(writer);
    json_decref(manifest);
}

static void test_numbers_are_not_used_again(void **state)
{
    struct store_fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    struct map_root root = small_image(f->store, 1);
    char *name = store_next_name(f->store, "lab", &err);
    json_t *latest;

    assert_string_equal(name, "lab@1");
    free(name);
    commit_image(f->store, "lab@1", &root);
    commit_image(f->store, "lab@2", &root);
    commit_image(f->store, "other@9", &root);
    assert_ok(store_delete(f->store, "lab@2", &err), &err);
    fixture_reopen(f);
    name = store_next_name(f->store, "lab", &err);
    assert_string_equal(name, "lab@3");
    free(name);
    latest = store_load_latest(f->store, "lab", &err);
    assert_made(latest, &err);
    assert_string_equal(text_of(latest, "name"), "lab@1");
    json_decref(latest);
    assert_null(store_load_latest(f->store, "la", &err));
    assert_int_equal(err.code, VN_E_NOT_FOUND);
    assert_null(store_next_name(f->store, "a@b", &err));
    assert_int_equal(err.code, VN_E_FORMAT);
    commit_image(f->store, "big@999999999", &root);
    assert_null(store_next_name(f->store, "big", &err));
    assert_int_equal(err.code, VN_E_LIMIT);
}

static void test_list_and_delete(void **state)
{
    static const char *const names[] = {"z", "a", "m@2", "m@1"};
    struct store_fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    struct map_root root = small_image(f->store, 1);
    json_t *list;

    for (size_t i = 0; i < VN_COUNT(names); i++)
        commit_image(f->store, names[i], &root);
    list = store_list(f->store, &err);
    assert_made(list, &err);
    assert_int_equal(json_array_size(list), VN_COUNT(names));
    for (size_t i = 0; i < VN_COUNT(names); i++)
        assert_string_equal(text_of(json_array_get(list, i), "name"), names[i]);
    json_decref(list);
    assert_ok(store_delete(f->store, "a", &err), &err);
    assert_int_equal(store_delete(f->store, "a", &err), -1);
    assert_int_equal(err.code, VN_E_NOT_FOUND);
    assert_null(store_load(f->store, "a", &err));
    list = store_list(f->store, &err);
    assert_int_equal(json_array_size(list), VN_COUNT(names) - 1);
    json_decref(list);
    commit_image(f->store, "a", &root); /* an explicit name may come back */
    assert_int_equal(count_findings(f->store), 0);
}

static void test_bad_names(void **state)
{
    static const char *const bad[] = {
        "",         "-x",     ".x",    "a b",  "a/b", "a@",           "a@0",
        "a@01",     "a@1x",   "a@1@2", "a@-1", "@1",  "a@1000000000", "\n",
        "\xc3\xa4", "a@b@1x",
    };
    static const char *const good[] = {"a",           "A.b_c-9", "a@1",
                                       "a@999999999", "_",       "0"};
    struct vn_err err = VN_ERR_INIT;
    char longest[STORE_NAME_MAX + 2];
    json_t *m;

    (void)state;
    for (size_t i = 0; i < VN_COUNT(bad); i++) {
        m = manifest_new(bad[i], "files");
        if (manifest_check(m, &err) == 0)
            fail_msg("'%s' was accepted", bad[i]);
        assert_int_equal(err.code, VN_E_FORMAT);
        json_decref(m);
    }
    for (size_t i = 0; i < VN_COUNT(good); i++) {
        m = manifest_new(good[i], "files");
        assert_ok(manifest_check(m, &err), &err);
        json_decref(m);
    }
    memset(longest, 'n', sizeof(longest));
    longest[STORE_NAME_MAX + 1] = 0;
    m = manifest_new(longest, "files");
    assert_int_equal(manifest_check(m, &err), -1);
    assert_int_equal(err.code, VN_E_LIMIT);
    json_decref(m);
    longest[STORE_NAME_MAX] = 0;
    m = manifest_new(longest, "files");
    assert_ok(manifest_check(m, &err), &err);
    json_decref(m);
}

static void test_bad_objects(void **state)
{
    static const char *const bad[] = {"",       "/a",  "a/",   "a//b", "..",
                                      "a/../b", "./a", "a\nb", "a\\b", "a/."};
    const struct map_root none = {0};
    struct vn_err err = VN_ERR_INIT;
    json_t *m;

    (void)state;
    for (size_t i = 0; i < VN_COUNT(bad); i++) {
        m = manifest_new("x", "files");
        manifest_add(m, bad[i], &none);
        if (manifest_check(m, &err) == 0)
            fail_msg("'%s' was accepted", bad[i]);
        json_decref(m);
    }
    m = manifest_new("x", "files");
    manifest_add(m, "a/b", &none);
    manifest_add(m, "a.b", &none);
    manifest_add(m, "\xc3\xa4 b%2f", &none);
    assert_ok(manifest_check(m, &err), &err);
    manifest_add(m, "a", &none); /* a file and a directory at once */
    assert_int_equal(manifest_check(m, &err), -1);
    json_decref(m);
}

/* Change one member of a good manifest to a bad value. */
static void check_member(const char *key, json_t *value, int code)
{
    struct vn_err err = VN_ERR_INIT;
    json_t *m = manifest_new("x", "files");

    json_object_set_new(m, key, value);
    if (manifest_check(m, &err) == 0)
        fail_msg("a bad '%s' was accepted", key);
    assert_int_equal(err.code, code);
    json_decref(m);
}

static void test_bad_members(void **state)
{
    struct vn_err err = VN_ERR_INIT;
    json_t *m = json_array();

    (void)state;
    assert_int_equal(manifest_check(m, &err), -1);
    json_decref(m);
    check_member("format", json_integer(2), VN_E_VERSION);
    check_member("format", json_string("1"), VN_E_FORMAT);
    check_member("kind", json_string(""), VN_E_FORMAT);
    check_member("created", json_integer(5), VN_E_FORMAT);
    check_member("meta", json_array(), VN_E_FORMAT);
    check_member("objects", json_pack("{s:i}", "a", 1), VN_E_FORMAT);
    check_member("objects", json_pack("{s:{s:s}}", "a", "root", "00"),
                 VN_E_FORMAT);
    check_member("objects",
                 json_pack("{s:{s:s,s:I}}", "a", "root",
                           "00000000000000000000000000000000", "size",
                           (json_int_t)STORE_OBJECT_MAX + 1),
                 VN_E_LIMIT);
    check_member("objects",
                 json_pack("{s:{s:s,s:i}}", "a", "root",
                           "10000000000000000000000000000000", "size", 0),
                 VN_E_FORMAT);
}

/* The earlier version of an image, under its name or an older one. */
static void test_find_like(void **state)
{
    static const struct {
        const char *name;
        uint64_t size;
    } has[] = {{"file/disk-01-01.img", 8192},
               {"file/disk-01-02.img", 8192},
               {"file/other", 8192},
               {"file/short", 4096}};
    static const struct {
        const char *name;
        uint64_t size;
        int like; /* of `has`; -1: none */
    } cases[] = {{"file/other", 12288, 2},
                 {"file/disk-01-03.img", 8192, 0},
                 {"file/disk-01-02", 8192, 1},
                 {"file/new", 4096, 3},
                 {"file/disk-01-03.img", 8191, -1}};
    json_t *manifest = manifest_new("a@1", "files");
    struct map_root root;

    (void)state;
    for (unsigned i = 0; i < VN_COUNT(has); i++) {
        root = (struct map_root){.size = has[i].size};
        root.root.bytes[0] = (uint8_t)(i + 1);
        manifest_add(manifest, has[i].name, &root);
    }
    for (unsigned i = 0; i < VN_COUNT(cases); i++) {
        bool found =
            manifest_find_like(manifest, cases[i].name, cases[i].size, &root);

        assert_int_equal(found, cases[i].like >= 0);
        if (found)
            assert_int_equal(root.root.bytes[0], cases[i].like + 1);
    }
    json_decref(manifest);
}

static void test_init_refuses(void **state)
{
    struct store_fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;

    assert_int_equal(store_init(f->path, &err), -1);
    assert_int_equal(err.code, VN_E_EXISTS);
    assert_int_equal(store_init(f->dir, &err), -1); /* not empty */
    assert_null(store_open(f->dir, &err));
    assert_int_equal(err.code, VN_E_NOT_FOUND);
}

/* Everything is for its owner alone. */
static void test_modes(void **state)
{
    static const char *const files[] = {"config.json", "index/data.mdb",
                                        "index/lock.mdb"};
    struct store_fixture *f = *state;
    struct stat st;

    for (size_t i = 0; i < VN_COUNT(files); i++) {
        vn_auto(free) char *path = vn_format("%s/%s", f->path, files[i]);

        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 0777, 0600);
    }
    assert_int_equal(stat(f->path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
}

static void test_newer_format_is_refused(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) char *path = vn_format("%s/config.json", f->path);
    vn_auto(json) json_t *config = json_load_file(path, 0, NULL);
    struct vn_err err = VN_ERR_INIT;

    assert_non_null(config);
    json_object_set_new(config, "format", json_integer(7));
    assert_int_equal(json_dump_file(config, path, 0), 0);
    assert_null(store_open(f->path, &err));
    assert_int_equal(err.code, VN_E_VERSION);
    assert_non_null(strstr(err.msg, "format 7"));
    assert_non_null(strstr(err.msg, "format 1"));
}

static void test_lost_index_is_no_empty_store(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) char *path = vn_format("%s/index/data.mdb", f->path);
    struct vn_err err = VN_ERR_INIT;
    struct store *store;

    store_close(vn_steal(&f->store));
    assert_int_equal(unlink(path), 0);
    store = store_open(f->path, &err);
    assert_null(store);
    assert_int_equal(err.code, VN_E_CORRUPT);
}

static void test_many_snapshots(void **state)
{
    struct store_fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    struct map_root root = small_image(f->store, 1);
    json_t *list;

    for (int i = 0; i < 30; i++) {
        char *name = store_next_name(f->store, "s", &err);

        assert_made(name, &err);
        commit_image(f->store, name, &root);
        free(name);
    }
    list = store_list(f->store, &err);
    assert_int_equal(json_array_size(list), 30);
    assert_string_equal(text_of(json_array_get(list, 29), "name"), "s@30");
    json_decref(list);
}

#define WITH_STORE(test)                                                       \
    cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_STORE(test_commit_and_load),
        WITH_STORE(test_name_is_taken),
        WITH_STORE(test_incomplete_is_refused),
        WITH_STORE(test_numbers_are_not_used_again),
        WITH_STORE(test_list_and_delete),
        cmocka_unit_test(test_bad_names),
        cmocka_unit_test(test_bad_objects),
        cmocka_unit_test(test_bad_members),
        cmocka_unit_test(test_find_like),
        WITH_STORE(test_init_refuses),
        WITH_STORE(test_modes),
        WITH_STORE(test_newer_format_is_refused),
        WITH_STORE(test_lost_index_is_no_empty_store),
        WITH_STORE(test_many_snapshots),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
