/*
 * Stores of format 1 as they were written by the program of that time
 * (tests/golden/make_store.py): what they hold can be read, verified, added to
 * and collected; what a newer program wrote is refused, with both versions
 * named.
 */

#include "unit/store_fixture.h"

#include "store/ident.h"
#include "store/pack.h"

#include <archive.h>
#include <archive_entry.h>
#include <endian.h>
#include <fcntl.h>
#include <lmdb.h>
#include <openssl/evp.h>
#include <stdio.h>

/* What is being tested. */
static struct golden {
    const char *list;   /* of its contents */
    unsigned snapshots; /* in it */
} golden;

/* Unpack one of them as the fixture's store. */
static void unpack(const char *name, const char *dir)
{
    vn_auto(free) char *path =
        vn_format("%s/golden/%s.tar.xz", TESTS_DIR, name);
    struct archive *from = archive_read_new();
    struct archive *to = archive_write_disk_new();
    struct archive_entry *entry;

    archive_read_support_filter_xz(from);
    archive_read_support_format_tar(from);
    assert_int_equal(archive_read_open_filename(from, path, 65536), ARCHIVE_OK);
    while (archive_read_next_header(from, &entry) == ARCHIVE_OK) {
        vn_auto(free) char *file =
            vn_format("%s/%s", dir, archive_entry_pathname(entry));

        archive_entry_set_pathname(entry, file);
        assert_int_equal(archive_read_extract2(from, entry, to), ARCHIVE_OK);
    }
    archive_write_free(to);
    archive_read_free(from);
}

static int setup(void **state, const char *name, const char *list,
                 unsigned snapshots)
{
    struct store_fixture *f;

    golden = (struct golden){.list = list, .snapshots = snapshots};

    if (fixture_setup(state) < 0)
        return -1;
    f = *state;
    store_close(vn_steal(&f->store));
    snprintf(f->path, sizeof(f->path), "%s/golden", f->dir);
    if (mkdir(f->path, 0700) < 0)
        return -1;
    unpack(name, f->path);
    snprintf(f->path, sizeof(f->path), "%s/golden/store", f->dir);
    return 0;
}

static int setup_blake3(void **state)
{
    return setup(state, "store-1-blake3", "store-1", 3);
}

static int setup_sha256(void **state)
{
    return setup(state, "store-1-sha256", "store-1", 3);
}

static int setup_domains_blake3(void **state)
{
    return setup(state, "store-1-domains-blake3", "store-1-domains", 4);
}

static int setup_domains_sha256(void **state)
{
    return setup(state, "store-1-domains-sha256", "store-1-domains", 4);
}

static void open_store(struct store_fixture *f)
{
    struct vn_err err = VN_ERR_INIT;

    f->store = store_open(f->path, &err);
    assert_made(f->store, &err);
}

/* ---- contents --------------------------------------------------------- */

/* As make_store.py says: pages that are not zero, each behind its offset. */
static void add_pages(EVP_MD_CTX *sha, struct image_reader *reader,
                      uint64_t start, uint64_t size)
{
    struct vn_err err = VN_ERR_INIT;
    uint8_t page[PAGE];

    for (uint64_t done = 0; done < size; done += PAGE) {
        size_t n = size - done < PAGE ? (size_t)(size - done) : PAGE;
        uint64_t offset = htole64(start + done);

        memset(page, 0, PAGE);
        assert_ok(image_reader_read(reader, start + done, page, n, &err), &err);
        assert_false(ident_page_is_zero(page));
        EVP_DigestUpdate(sha, &offset, sizeof(offset));
        EVP_DigestUpdate(sha, page, n);
    }
}

static void digest(struct store *store, const struct map_root *root,
                   char hex[65])
{
    struct vn_err err = VN_ERR_INIT;
    struct image_reader *reader = image_reader_open(store, root, &err);
    EVP_MD_CTX *sha = EVP_MD_CTX_new();
    uint8_t sum[32];
    uint64_t start;
    uint64_t size;

    assert_made(reader, &err);
    EVP_DigestInit_ex(sha, EVP_sha256(), NULL);
    for (uint64_t at = 0;; at = start + size) {
        assert_ok(image_reader_next_data(reader, at, &start, &size, &err),
                  &err);
        if (size == 0)
            break;
        add_pages(sha, reader, start, size);
    }
    EVP_DigestFinal_ex(sha, sum, NULL);
    EVP_MD_CTX_free(sha);
    image_reader_free(reader);
    for (unsigned i = 0; i < sizeof(sum); i++)
        snprintf(hex + 2 * i, 3, "%02x", sum[i]);
}

/* Each line of the list; nothing else is in the snapshots. */
static void assert_contents(struct store *store)
{
    vn_auto(free) char *path =
        vn_format("%s/golden/%s.txt", TESTS_DIR, golden.list);
    FILE *list = fopen(path, "r");
    char name[65], object[65], wanted[65], got[65];
    unsigned long long size;
    unsigned lines = 0;
    size_t objects = 0;
    struct vn_err err = VN_ERR_INIT;
    json_t *all = store_list(store, &err);
    json_t *manifest;
    size_t i;

    assert_non_null(list);
    assert_made(all, &err);
    while (fscanf(list, "%64s %64s %llu %64s", name, object, &size, wanted) ==
           4) {
        struct map_root root;

        manifest = store_load(store, name, &err);
        assert_made(manifest, &err);
        assert_ok(manifest_object(manifest, object, &root, &err), &err);
        assert_int_equal(root.size, size);
        digest(store, &root, got);
        assert_string_equal(got, wanted);
        json_decref(manifest);
        lines++;
    }
    assert_true(feof(list));
    fclose(list);
    assert_int_equal(json_array_size(all), golden.snapshots);
    json_array_foreach (all, i, manifest)
        objects += json_object_size(json_object_get(manifest, "objects"));
    assert_int_equal(objects, lines);
    json_decref(all);
}

static void test_contents(void **state)
{
    struct store_fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;

    open_store(f);
    assert_contents(f->store);
    assert_int_equal(count_findings(f->store), 0);
    assert_null(store_load(f->store, "gone@1", &err));
    assert_int_equal(err.code, VN_E_NOT_FOUND);
}

/* Written to by the program of today, it keeps what it had. */
static void test_goes_on(void **state)
{
    const struct store_gc_opts opts = {.threshold_percent = 1};
    struct store_fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    struct store_gc_counts counts;
    struct map_root before;
    struct map_root root;
    struct store_counts c;
    uint8_t data[20 * PAGE];
    json_t *manifest;
    char *name;

    open_store(f);
    name = store_next_name(f->store, "gone", &err);
    assert_made(name, &err);
    assert_string_equal(name, "gone@2"); /* a number does not come back */
    manifest = store_load(f->store, "lab@2", &err);
    assert_made(manifest, &err);
    assert_ok(manifest_object(manifest, "file/disk", &before, &err), &err);
    json_decref(manifest);
    {
        struct image_reader *reader =
            image_reader_open(f->store, &before, &err);

        assert_made(reader, &err);
        assert_ok(image_reader_read(reader, 0, data, sizeof(data), &err), &err);
        image_reader_free(reader);
    }
    fill_random(data, PAGE, 1);
    root = store_image(f->store, data, sizeof(data), &before, &c);
    assert_int_equal(c.bytes_new, PAGE); /* the rest is found unchanged */
    assert_int_equal(c.bytes_unchanged, 18 * PAGE); /* and one is zero */
    commit_image(f->store, name, &root);
    assert_ok(store_gc(f->store, &opts, &counts, &err), &err);
    fixture_reopen(f);
    assert_true(image_equals(f->store, &root, data, sizeof(data)));
    assert_int_equal(count_findings(f->store), 0);
    assert_ok(store_delete(f->store, name, &err), &err);
    assert_contents(f->store);
    free(name);
}

/* The same of a store with domains: what one has is known there only, also
 * after all packs were written anew. */
static void test_domains_go_on(void **state)
{
    static const char *const domains[] = {"red", "Blue.team-2", NULL, "new"};
    static const uint64_t known[] = {5, 5, 5, 0}; /* pages of "part" */
    const struct store_gc_opts opts = {.threshold_percent = 1,
                                       .recompress_level = 1};
    struct store_fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    struct store_gc_counts gc;
    uint8_t data[5 * PAGE - 100];
    struct image_reader *reader;
    struct map_root root;
    json_t *manifest;

    open_store(f);
    manifest = store_load(f->store, "single@1", &err);
    assert_made(manifest, &err);
    assert_string_equal(manifest_domain(manifest), "Blue.team-2");
    assert_ok(manifest_object(manifest, "file/part", &root, &err), &err);
    json_decref(manifest);
    reader = image_reader_open(f->store, &root, &err);
    assert_made(reader, &err);
    assert_ok(image_reader_read(reader, 0, data, sizeof(data), &err), &err);
    image_reader_free(reader);
    assert_ok(store_gc(f->store, &opts, &gc, &err), &err);
    for (size_t i = 0; i < VN_COUNT(domains); i++) {
        struct store_writer *writer =
            store_writer_open_in(f->store, domains[i], &err);
        struct store_counts c;

        assert_made(writer, &err);
        put_image(writer, data, sizeof(data), NULL);
        assert_ok(store_writer_flush(writer, &err), &err);
        store_writer_counts(writer, &c);
        store_writer_free(writer);
        assert_int_equal(c.bytes_known, known[i] * PAGE);
        assert_int_equal(c.bytes_new, (5 - known[i]) * PAGE);
    }
    assert_contents(f->store);
    assert_int_equal(count_findings(f->store), 0);
}

/* The Python reader, which knows nothing of our code, agrees. */
static void test_python(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) char *command =
        vn_format("python3 -B '%s/verify/store.py' '%s' >'%s/out'", TESTS_DIR,
                  f->path, f->dir);
    vn_auto(free) char *cat = vn_format(
        "python3 -B '%s/verify/store.py' --cat '%s' lab@1 file/zero-tail "
        "| sha256sum >'%s/out'",
        TESTS_DIR, f->path, f->dir);
    vn_auto(free) char *out = vn_format("%s/out", f->dir);
    uint8_t data[9 * PAGE + 17];
    struct vn_err err = VN_ERR_INIT;
    struct image_reader *reader;
    struct map_root root;
    char line[256] = "";
    uint8_t sum[32];
    json_t *manifest;
    FILE *file;

    if (system("python3 -c pass >/dev/null 2>&1") != 0)
        skip();
    assert_int_equal(system(command), 0);
    file = fopen(out, "r");
    assert_non_null(fgets(line, sizeof(line), file));
    fclose(file);
    assert_non_null(strstr(line, " manifests, 0 findings"));
    assert_int_equal(strtoul(strstr(line, "chunks, ") + 8, NULL, 10),
                     golden.snapshots);
    open_store(f);
    manifest = store_load(f->store, "lab@1", &err);
    assert_made(manifest, &err);
    assert_ok(manifest_object(manifest, "file/zero-tail", &root, &err), &err);
    json_decref(manifest);
    reader = image_reader_open(f->store, &root, &err);
    assert_made(reader, &err);
    assert_ok(image_reader_read(reader, 0, data, sizeof(data), &err), &err);
    image_reader_free(reader);
    assert_int_equal(
        EVP_Digest(data, sizeof(data), sum, NULL, EVP_sha256(), NULL), 1);
    assert_int_equal(system(cat), 0);
    file = fopen(out, "r");
    assert_non_null(fgets(line, sizeof(line), file));
    fclose(file);
    for (unsigned i = 0; i < sizeof(sum); i++) {
        char hex[3];

        snprintf(hex, sizeof(hex), "%02x", sum[i]);
        assert_memory_equal(line + 2 * i, hex, 2);
    }
}

/* ---- of a newer program ----------------------------------------------- */

#define NEWER 99

static void assert_versions(const struct vn_err *err, const char *known)
{
    vn_auto(free) char *newer = vn_format("%d", NEWER);

    assert_int_equal(err->code, VN_E_VERSION);
    if (!strstr(err->msg, newer) || !strstr(err->msg, known))
        fail_msg("'%s' does not name both versions", err->msg);
}

static void replace_in_config(const struct store_fixture *f, const char *key,
                              json_t *value)
{
    vn_auto(free) char *path = vn_format("%s/config.json", f->path);
    json_t *config = json_load_file(path, 0, NULL);

    assert_non_null(config);
    json_object_set_new(config, key, value);
    assert_int_equal(json_dump_file(config, path, 0), 0);
    json_decref(config);
}

static void test_newer_config(void **state)
{
    struct store_fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;

    replace_in_config(f, "format", json_integer(NEWER));
    assert_null(store_open(f->path, &err));
    assert_versions(&err, "knows format 1");
    replace_in_config(f, "format", json_integer(1));
    replace_in_config(f, "identity", json_string("whirlpool99"));
    assert_null(store_open(f->path, &err));
    assert_versions(&err, "'sha256'");
}

static void set_index_format(const struct store_fixture *f, uint64_t format)
{
    vn_auto(free) char *dir = vn_format("%s/index", f->path);
    char name[] = "format";
    uint64_t number = htole64(format);
    MDB_val key = {.mv_size = strlen(name), .mv_data = name};
    MDB_val value = {.mv_size = sizeof(number), .mv_data = &number};
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi meta;

    assert_int_equal(mdb_env_create(&env), 0);
    mdb_env_set_maxdbs(env, 1);
    assert_int_equal(mdb_env_open(env, dir, 0, 0600), 0);
    assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
    assert_int_equal(mdb_dbi_open(txn, "meta", 0, &meta), 0);
    assert_int_equal(mdb_put(txn, meta, &key, &value, 0), 0);
    assert_int_equal(mdb_txn_commit(txn), 0);
    mdb_env_close(env);
}

static void test_newer_index(void **state)
{
    struct store_fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;

    set_index_format(f, NEWER);
    assert_null(store_open(f->path, &err));
    assert_versions(&err, "knows format 1");
    set_index_format(f, 1);
    open_store(f);
}

static void test_newer_manifest(void **state)
{
    struct store_fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    json_t *manifest;

    open_store(f);
    manifest = store_load(f->store, "lab@1", &err);
    assert_made(manifest, &err);
    json_object_set_new(manifest, "format", json_integer(NEWER));
    json_object_set_new(manifest, "name", json_string("lab@5"));
    assert_int_equal(manifest_check(manifest, &err), -1);
    assert_versions(&err, "1");
    assert_int_equal(store_commit(f->store, manifest, &err), -1);
    assert_versions(&err, "1");
    json_decref(manifest);
}

static char findings[4096];

static void collect(void *context, const char *sentence)
{
    size_t used = strlen(findings);

    (void)context;
    snprintf(findings + used, sizeof(findings) - used, "%s\n", sentence);
}

/* What cannot be read because it is newer is not given up. */
static void assert_not_repaired(struct store_fixture *f)
{
    struct vn_err err = VN_ERR_INIT;
    struct store_repair_counts counts;

    for (int rebuild = 0; rebuild < 2; rebuild++) {
        const struct store_repair_opts opts = {.rebuild_index = rebuild};

        assert_int_equal(store_repair(f->path, &opts, &counts, &err), -1);
        assert_int_equal(err.code, VN_E_VERSION);
        assert_int_equal(counts.chunks_lost + counts.packs_new, 0);
    }
    open_store(f);
    assert_contents(f->store);
}

/* Chunks of such a pack are still read where the index has them; verify says
 * what it is. */
static void test_newer_pack(void **state)
{
    struct store_fixture *f = *state;
    vn_auto(free) char *path =
        vn_format("%s/packs/000000000/000000000001.pack", f->path);
    struct store_verify_opts opts = {.finding = collect};
    struct vn_err err = VN_ERR_INIT;
    uint8_t footer[PACK_FOOTER_SIZE];
    uint32_t version = htole32(NEWER);
    uint64_t count;
    struct stat st;
    int fd = open(path, O_RDWR);

    assert_true(fd >= 0 && fstat(fd, &st) == 0);
    assert_int_equal(
        pread(fd, footer, sizeof(footer), st.st_size - PACK_FOOTER_SIZE),
        PACK_FOOTER_SIZE);
    memcpy(footer + 8, &version, 4);
    ident_check(footer, PACK_FOOTER_SIZE - 16, footer + PACK_FOOTER_SIZE - 16);
    assert_int_equal(
        pwrite(fd, footer, sizeof(footer), st.st_size - PACK_FOOTER_SIZE),
        PACK_FOOTER_SIZE);
    close(fd);
    open_store(f);
    findings[0] = 0;
    assert_ok(store_verify(f->store, &opts, &count, &err), &err);
    assert_true(count > 0);
    if (!strstr(findings, "99") || !strstr(findings, "this program knows"))
        fail_msg("%s", findings);
    store_close(vn_steal(&f->store));
    assert_not_repaired(f);
}

#define WITH_BOTH(test)                                                        \
    cmocka_unit_test_setup_teardown(test, setup_blake3, fixture_teardown),     \
        cmocka_unit_test_setup_teardown(test, setup_sha256, fixture_teardown)

#define WITH_DOMAINS(test)                                                     \
    cmocka_unit_test_setup_teardown(test, setup_domains_blake3,                \
                                    fixture_teardown),                         \
        cmocka_unit_test_setup_teardown(test, setup_domains_sha256,            \
                                        fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_BOTH(test_contents),    WITH_BOTH(test_goes_on),
        WITH_BOTH(test_python),      WITH_BOTH(test_newer_config),
        WITH_BOTH(test_newer_index), WITH_BOTH(test_newer_manifest),
        WITH_BOTH(test_newer_pack),  WITH_DOMAINS(test_contents),
        WITH_DOMAINS(test_python),   WITH_DOMAINS(test_domains_go_on),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
