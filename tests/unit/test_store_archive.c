/*
 * Export and import of snapshots: whole round trips, and what an importer must
 * refuse, with tars made here by libarchive.
 */

#include "common/io.h"
#include "store/archive_internal.h"

#include <archive.h>
#include <archive_entry.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define IMAGE_SIZE (3u * 1024 * 1024 + 1234)

struct fixture {
    char dir[64];
    struct store *store; /* the exporter's */
    struct store *other; /* the importer's */
    uint8_t *image;      /* IMAGE_SIZE */
    int fd;              /* a tar */
    json_t *manifest;    /* one that a test loaded */
    struct vn_err err;
};

static int remove_one(const char *path, const struct stat *st, int type,
                      struct FTW *where)
{
    (void)st, (void)type, (void)where;
    return remove(path);
}

static int setup(void **state)
{
    struct fixture *f = vn_alloc(sizeof(*f));
    char a[96], b[96];

    strcpy(f->dir, "/tmp/vn-archive-XXXXXX");
    if (!mkdtemp(f->dir))
        return -1;
    snprintf(a, sizeof(a), "%s/a", f->dir);
    snprintf(b, sizeof(b), "%s/b", f->dir);
    if (store_init(a, &f->err) < 0 || store_init(b, &f->err) < 0)
        return -1;
    f->store = store_open(a, &f->err);
    f->other = store_open(b, &f->err);
    f->image = vn_alloc(IMAGE_SIZE);
    f->fd = memfd_create("tar", MFD_CLOEXEC);
    *state = f;
    return f->store && f->other && f->fd >= 0 ? 0 : -1;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    store_close(f->store);
    store_close(f->other);
    json_decref(f->manifest);
    close(f->fd);
    nftw(f->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    free(f->image);
    free(f);
    return 0;
}

/* Fail with the sentence where something did not return 0. */
#define ok(f, r)                                                               \
    do {                                                                       \
        if ((r) != 0)                                                          \
            fail_msg("%s", (f)->err.msg);                                      \
    } while (0)

static int export_to(struct store *store, const char *snapshot, int fd,
                     store_progress_fn *progress, void *context,
                     struct vn_err *err)
{
    const struct archive_export_opts opts = {.snapshot = snapshot,
                                             .fd = fd,
                                             .progress = progress,
                                             .context = context};

    return archive_export(store, &opts, err);
}

static int import_from(struct store *store, int fd, const char *name,
                       store_progress_fn *progress, void *context,
                       char **ret_name, struct vn_err *err)
{
    const struct archive_import_opts opts = {
        .fd = fd, .name = name, .progress = progress, .context = context};
    struct archive_imported imported;

    if (archive_import(store, &opts, &imported, err) < 0)
        return -1;
    *ret_name = imported.name;
    return 0;
}

/* An image with data in few places: start, middle (unaligned), the very end. */
static void fill_image(struct fixture *f)
{
    memset(f->image, 0, IMAGE_SIZE);
    for (size_t i = 0; i < 10000; i++)
        f->image[i] = (uint8_t)(i * 7 + 1);
    memset(f->image + (1u << 20) + 777, 0x5a, 70000);
    f->image[IMAGE_SIZE - 1] = 9;
}

/* "lab@1" with a sparse image, an empty one, all zeros, a small one. */
static void make_snapshot(struct fixture *f)
{
    struct store_writer *writer = store_writer_open(f->store, &f->err);
    struct image_writer *image;
    json_t *manifest = manifest_new("lab@1", "vne");
    struct map_root root;

    assert_non_null(writer);
    fill_image(f);
    image = image_writer_open(writer, IMAGE_SIZE, NULL, &f->err);
    assert_non_null(image);
    ok(f, image_writer_put(image, 0, f->image, IMAGE_SIZE, &f->err));
    ok(f, image_writer_finish(image, &root, &f->err));
    image_writer_free(image);
    manifest_add(manifest, "vm/a/ram/pc.ram", &root);
    ok(f, store_put_bytes(writer, "", 0, &root, &f->err));
    manifest_add(manifest, "vm/a/empty", &root);
    image = image_writer_open(writer, 100000, NULL, &f->err);
    assert_non_null(image);
    ok(f, image_writer_finish(image, &root, &f->err));
    image_writer_free(image);
    manifest_add(manifest, "vm/a/zeros", &root);
    ok(f, store_put_bytes(writer, "hello", 5, &root, &f->err));
    manifest_add(manifest, "vm/a/device.state", &root);
    json_object_set_new(manifest, "meta",
                        json_pack("{si ss}", "epoch", 7, "odd", "k\xc3\xa4se"));
    ok(f, store_writer_flush(writer, &f->err));
    ok(f, store_commit(f->store, manifest, &f->err));
    store_writer_free(writer);
    json_decref(manifest);
}

static void check_image(struct fixture *f, const char *snapshot)
{
    struct image_reader *image;
    struct map_root root;
    uint8_t *data = vn_alloc(IMAGE_SIZE);

    f->manifest = store_load(f->other, snapshot, &f->err);
    assert_non_null(f->manifest);
    ok(f, manifest_object(f->manifest, "vm/a/ram/pc.ram", &root, &f->err));
    assert_int_equal(root.size, IMAGE_SIZE);
    image = image_reader_open(f->other, &root, &f->err);
    assert_non_null(image);
    ok(f, image_reader_read(image, 0, data, IMAGE_SIZE, &f->err));
    assert_memory_equal(data, f->image, IMAGE_SIZE);
    image_reader_free(image);
    free(data);
}

static void count_progress(void *context, uint64_t done, uint64_t total)
{
    uint64_t *last = context;

    assert_true(done >= *last && done <= total);
    *last = done;
}

static void test_round_trip(void **state)
{
    struct fixture *f = *state;
    uint64_t done = 0;
    char *name = NULL;

    make_snapshot(f);
    ok(f, export_to(f->store, "lab@1", f->fd, count_progress, &done, &f->err));
    assert_int_equal(done, IMAGE_SIZE + 100000 + 5);
    lseek(f->fd, 0, SEEK_SET);
    done = 0;
    ok(f, import_from(f->other, f->fd, NULL, count_progress, &done, &name,
                      &f->err));
    assert_int_equal(done, IMAGE_SIZE + 100000 + 5);
    assert_string_equal(name, "lab@1");
    free(name);
    check_image(f, "lab@1");
    assert_int_equal(json_integer_value(json_object_get(
                         json_object_get(f->manifest, "meta"), "epoch")),
                     7);
    assert_int_equal(json_object_size(json_object_get(f->manifest, "objects")),
                     4);
}

static void test_other_name_and_taken_name(void **state)
{
    struct fixture *f = *state;
    char *name = NULL;

    make_snapshot(f);
    ok(f, export_to(f->store, "lab@1", f->fd, NULL, NULL, &f->err));
    lseek(f->fd, 0, SEEK_SET);
    ok(f, import_from(f->other, f->fd, "copy@3", NULL, NULL, &name, &f->err));
    assert_string_equal(name, "copy@3");
    free(name);
    check_image(f, "copy@3");
    lseek(f->fd, 0, SEEK_SET);
    assert_int_equal(
        import_from(f->other, f->fd, "copy@3", NULL, NULL, &name, &f->err), -1);
    assert_int_equal(f->err.code, VN_E_EXISTS);
}

static void test_exports_are_equal(void **state)
{
    struct fixture *f = *state;
    int second = memfd_create("tar", MFD_CLOEXEC);
    off_t size;
    uint8_t *a, *b;

    make_snapshot(f);
    ok(f, export_to(f->store, "lab@1", f->fd, NULL, NULL, &f->err));
    ok(f, export_to(f->store, "lab@1", second, NULL, NULL, &f->err));
    size = lseek(f->fd, 0, SEEK_END);
    assert_int_equal(lseek(second, 0, SEEK_END), size);
    /* Holes are not in the tar. */
    assert_true(size < 200000);
    a = vn_alloc((size_t)size);
    b = vn_alloc((size_t)size);
    ok(f, io_pread(f->fd, a, (size_t)size, 0, &f->err));
    ok(f, io_pread(second, b, (size_t)size, 0, &f->err));
    assert_memory_equal(a, b, (size_t)size);
    free(a);
    free(b);
    close(second);
}

static void test_unknown_snapshot_writes_nothing(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(export_to(f->store, "none@1", f->fd, NULL, NULL, &f->err),
                     -1);
    assert_int_equal(f->err.code, VN_E_NOT_FOUND);
    assert_int_equal(lseek(f->fd, 0, SEEK_END), 0);
}

static void test_every_cut_is_refused(void **state)
{
    struct fixture *f = *state;
    off_t size;
    char *name = NULL;

    make_snapshot(f);
    ok(f, export_to(f->store, "lab@1", f->fd, NULL, NULL, &f->err));
    size = lseek(f->fd, 0, SEEK_END);
    /* The last 2 * 512 bytes and the padding to 10240 are the end mark. */
    for (off_t cut = 0; cut < size - 10240; cut += size / 23) {
        ok(f, ftruncate(f->fd, cut));
        lseek(f->fd, 0, SEEK_SET);
        assert_int_equal(
            import_from(f->other, f->fd, NULL, NULL, NULL, &name, &f->err), -1);
        /* Back to full length for the next, smaller or larger, cut. */
        ok(f, ftruncate(f->fd, 0));
        lseek(f->fd, 0, SEEK_SET);
        ok(f, export_to(f->store, "lab@1", f->fd, NULL, NULL, &f->err));
    }
    f->manifest = store_list(f->other, &f->err);
    assert_int_equal(json_array_size(f->manifest), 0);
}

/* ---- tars made by hand ------------------------------------------------- */

struct member {
    const char *name;
    const char *text;
    const char *link; /* makes it a symbolic link */
};

#define ROOT "00000000000000000000000000000001"
#define ONE_OBJECT                                                             \
    "{\"format\": 1, \"id\": \"" ROOT "\", \"name\": \"t@1\","                 \
    " \"created\": \"2026-01-31T12:00:00Z\", \"kind\": \"files\","             \
    " \"objects\": {\"file/a\": {\"size\": 6, \"root\": \"" ROOT "\"}},"       \
    " \"meta\": {}}"

static void sum_line(struct buf *sums, const char *name, const char *text)
{
    EVP_MD_CTX *sum = archive_sum_new();
    char hex[ARCHIVE_HEX_SIZE];

    archive_sum_add(sum, text, strlen(text));
    archive_sum_end(sum, hex);
    EVP_MD_CTX_free(sum);
    buf_put(sums, hex, strlen(hex));
    buf_put(sums, "  ", 2);
    buf_put(sums, name, strlen(name));
    buf_put(sums, "\n", 1);
}

static void add_member(struct archive *tar, const struct member *m)
{
    struct archive_entry *entry = archive_entry_new();

    archive_entry_set_pathname(entry, m->name);
    archive_entry_set_filetype(entry, m->link ? AE_IFLNK : AE_IFREG);
    archive_entry_set_size(entry, m->link ? 0 : (la_int64_t)strlen(m->text));
    archive_entry_set_perm(entry, 0644);
    if (m->link)
        archive_entry_set_symlink(entry, m->link);
    assert_int_equal(archive_write_header(tar, entry), ARCHIVE_OK);
    if (!m->link)
        archive_write_data(tar, m->text, strlen(m->text));
    archive_entry_free(entry);
}

/*
 * Import members of the folder "t@1", the last of which is SHA256SUMS of all
 * before it, unless `sums` is given. Returns the code, 0 for success.
 */
static int import_members(struct fixture *f, const struct member *members,
                          size_t count, const char *sums)
{
    struct archive *tar = archive_write_new();
    struct buf lines;
    char *name = NULL;
    int r;

    buf_init(&lines, 1 << 20);
    archive_write_set_format_pax(tar);
    ftruncate(f->fd, 0);
    lseek(f->fd, 0, SEEK_SET);
    archive_write_open_fd(tar, f->fd);
    for (size_t i = 0; i < count; i++) {
        add_member(tar, &members[i]);
        if (!members[i].link && strncmp(members[i].name, "t@1/", 4) == 0)
            sum_line(&lines, members[i].name + 4, members[i].text);
    }
    buf_put_u8(&lines, 0);
    add_member(tar, &(struct member){.name = "t@1/SHA256SUMS",
                                     .text = sums ? sums : (char *)lines.data});
    archive_write_free(tar);
    buf_done(&lines);
    lseek(f->fd, 0, SEEK_SET);
    r = import_from(f->other, f->fd, NULL, NULL, NULL, &name, &f->err);
    free(name);
    return r < 0 ? f->err.code : 0;
}

#define import(f, sums, ...)                                                   \
    import_members((f), (const struct member[]){__VA_ARGS__},                  \
                   VN_COUNT(((const struct member[]){__VA_ARGS__})), sums)

#define MANIFEST                                                               \
    {                                                                          \
        "t@1/manifest.json", ONE_OBJECT, NULL                                  \
    }
#define A                                                                      \
    {                                                                          \
        "t@1/file/a", "hello\n", NULL                                          \
    }

static void test_plain_tar_is_taken(void **state)
{
    struct fixture *f = *state;

    if (import(f, NULL, MANIFEST, A) != 0)
        fail_msg("%s", f->err.msg);
    f->manifest = store_load(f->other, "t@1", &f->err);
    assert_non_null(f->manifest);
}

/* Refused with that code, with `word` in the message, and nothing is kept. */
#define refused(f, code_wanted, word, call)                                    \
    do {                                                                       \
        assert_int_equal((call), (code_wanted));                               \
        if (!strstr((f)->err.msg, (word)))                                     \
            fail_msg("'%s' lacks '%s'", (f)->err.msg, (word));                 \
        assert_null(store_load((f)->other, "t@1", &(f)->err));                 \
    } while (0)

static void test_hostile_members(void **state)
{
    struct fixture *f = *state;
    const struct member link = {"t@1/file/a", "", "/etc/passwd"};
    const struct member up = {"t@1/../evil", "x", NULL};
    const struct member absolute = {"/t@1/file/a", "hello\n", NULL};
    const struct member outside = {"u/file/a", "hello\n", NULL};
    const struct member bare = {"a", "hello\n", NULL};
    const struct member unknown = {"t@1/file/b", "hello\n", NULL};
    const struct member longer = {"t@1/file/a", "hello!\n", NULL};
    const struct member again = {"t@1/manifest.json", "{}", NULL};

    refused(f, VN_E_FORMAT, "plain file", import(f, NULL, MANIFEST, link));
    refused(f, VN_E_FORMAT, "'..'", import(f, NULL, MANIFEST, up, A));
    refused(f, VN_E_FORMAT, "/t@1", import(f, NULL, MANIFEST, absolute));
    refused(f, VN_E_FORMAT, "below", import(f, NULL, MANIFEST, outside));
    refused(f, VN_E_FORMAT, "folder", import(f, NULL, MANIFEST, bare));
    refused(f, VN_E_FORMAT, "file/b", import(f, NULL, MANIFEST, A, unknown));
    refused(f, VN_E_FORMAT, "7 bytes", import(f, NULL, MANIFEST, longer));
    refused(f, VN_E_FORMAT, "twice", import(f, NULL, MANIFEST, A, A));
    refused(f, VN_E_FORMAT, "missing", import(f, NULL, MANIFEST));
    refused(f, VN_E_FORMAT, "reserved", import(f, NULL, MANIFEST, again, A));
    refused(f, VN_E_FORMAT, "not a tar of vnstore",
            import(f, NULL, A, MANIFEST));
}

static void test_hostile_sums(void **state)
{
    struct fixture *f = *state;
    struct buf wrong, extra;

    buf_init(&wrong, 4096);
    sum_line(&wrong, "manifest.json", ONE_OBJECT);
    sum_line(&wrong, "file/a", "hallo\n");
    buf_put_u8(&wrong, 0);
    refused(f, VN_E_CORRUPT, "file/a",
            import(f, (char *)wrong.data, MANIFEST, A));
    buf_done(&wrong);
    buf_init(&extra, 4096);
    sum_line(&extra, "manifest.json", ONE_OBJECT);
    sum_line(&extra, "file/a", "hello\n");
    sum_line(&extra, "file/b", "hello\n");
    buf_put_u8(&extra, 0);
    refused(f, VN_E_FORMAT, "file/b",
            import(f, (char *)extra.data, MANIFEST, A));
    buf_done(&extra);
    refused(f, VN_E_FORMAT, "does not list", import(f, "", MANIFEST, A));
    refused(f, VN_E_FORMAT, "cut", import(f, "abc", MANIFEST, A));
}

static void test_hostile_manifests(void **state)
{
    struct fixture *f = *state;
    static const char *const texts[] = {
        "",
        "[]",
        "{\"format\": 1}",
        "{\"format\": 1, \"format\": 1}",
        "{\"format\": 99, \"id\": \"" ROOT "\", \"name\": \"t@1\","
        " \"created\": \"2026-01-31T12:00:00Z\", \"kind\": \"files\","
        " \"objects\": {}, \"meta\": {}}",
        "{\"format\": 1, \"id\": \"" ROOT "\", \"name\": \"../t\","
        " \"created\": \"2026-01-31T12:00:00Z\", \"kind\": \"files\","
        " \"objects\": {}, \"meta\": {}}",
        "{\"format\": 1, \"id\": \"" ROOT "\", \"name\": \"t@1\","
        " \"created\": \"2026-01-31T12:00:00Z\", \"kind\": \"files\","
        " \"objects\": {\"file/../../a\": {\"size\": 6, \"root\": \"" ROOT
        "\"}}, \"meta\": {}}",
        "{\"format\": 1, \"id\": \"" ROOT "\", \"name\": \"t@1\","
        " \"created\": \"2026-01-31T12:00:00Z\", \"kind\": \"files\","
        " \"objects\": {\"file/a\": {\"size\": 9000000000000000000,"
        " \"root\": \"" ROOT "\"}}, \"meta\": {}}",
    };

    for (size_t i = 0; i < VN_COUNT(texts); i++) {
        struct member m = {"t@1/manifest.json", texts[i], NULL};

        assert_int_not_equal(import(f, NULL, m, A), 0);
    }
    f->manifest = store_list(f->other, &f->err);
    assert_int_equal(json_array_size(f->manifest), 0);
}

/* ---- parts ------------------------------------------------------------- */

static void test_runs_stay_bounded(void **state)
{
    struct archive_runs r;
    uint64_t covered = 0;

    (void)state;
    archive_runs_init(&r, 16);
    /* Holes of one page, and every hundredth of a hundred pages. */
    for (uint64_t i = 0, at = 0; i < 1000; i++) {
        archive_runs_add(&r, at, STORE_PAGE_SIZE);
        at += (i % 100 == 99 ? 101 : 2) * STORE_PAGE_SIZE;
    }
    assert_true(r.count < 16);
    assert_int_equal(r.count, 10); /* the large holes have remained */
    for (size_t i = 0; i < r.count; i++) {
        covered += r.runs[i].size;
        if (i)
            assert_true(r.runs[i].start >
                        r.runs[i - 1].start + r.runs[i - 1].size);
    }
    assert_int_equal(covered, 10 * 199 * STORE_PAGE_SIZE);
    archive_runs_done(&r);
}

static void test_runs_merge_neighbours(void **state)
{
    struct archive_runs r;

    (void)state;
    archive_runs_init(&r, 4);
    archive_runs_add(&r, 0, 4096);
    archive_runs_add(&r, 4096, 8192);
    archive_runs_add(&r, 12288, 0);
    archive_runs_add(&r, 40960, 100);
    assert_int_equal(r.count, 2);
    assert_int_equal(r.runs[0].size, 12288);
    assert_int_equal(r.runs[1].start, 40960);
    archive_runs_done(&r);
}

static void test_member_names(void **state)
{
    static const char *const bad[] = {
        "",      "/a",   "a/",     "a//b",          "..",
        "../a",  "a/..", "./a",    "a/./b",         "a\nb",
        "a\x7f", "a\\b", "a/../b", "manifest.json", "SHA256SUMS",
    };
    static const char *const good[] = {
        "a",
        "a/b",
        "...",
        "a..b",
        "vm/a/ram/pc.ram",
        "k\xc3\xa4se",
        "x/manifest.json",
    };
    struct vn_err err = VN_ERR_INIT;

    (void)state;
    for (size_t i = 0; i < VN_COUNT(bad); i++)
        if (archive_member_check(bad[i], &err) == 0)
            fail_msg("'%s' was taken", bad[i]);
    for (size_t i = 0; i < VN_COUNT(good); i++)
        if (archive_member_check(good[i], &err) < 0)
            fail_msg("'%s': %s", good[i], err.msg);
}

static void test_zeros_sum_like_bytes(void **state)
{
    EVP_MD_CTX *a = archive_sum_new(), *b = archive_sum_new();
    uint8_t *zeros = vn_alloc(200000);
    char x[ARCHIVE_HEX_SIZE], y[ARCHIVE_HEX_SIZE];

    (void)state;
    archive_sum_zeros(a, 200000);
    archive_sum_add(b, zeros, 200000);
    archive_sum_end(a, x);
    archive_sum_end(b, y);
    assert_string_equal(x, y);
    EVP_MD_CTX_free(a);
    EVP_MD_CTX_free(b);
    free(zeros);
}

/* ---- incremental ------------------------------------------------------- */

/* A snapshot of one object that holds f->image. */
static void commit_image(struct fixture *f, struct store *store,
                         const char *name)
{
    struct store_writer *writer = store_writer_open(store, &f->err);
    struct image_writer *image;
    json_t *manifest = manifest_new(name, "vne");
    struct map_root root;

    assert_non_null(writer);
    image = image_writer_open(writer, IMAGE_SIZE, NULL, &f->err);
    assert_non_null(image);
    ok(f, image_writer_put(image, 0, f->image, IMAGE_SIZE, &f->err));
    ok(f, image_writer_finish(image, &root, &f->err));
    image_writer_free(image);
    manifest_add(manifest, "vm/a/ram/pc.ram", &root);
    ok(f, store_put_bytes(writer, "state", 5, &root, &f->err));
    manifest_add(manifest, "vm/a/device.state", &root);
    /* One that is all zeros at first. */
    ok(f, store_put_bytes(writer, strcmp(name, "base@2") == 0 ? "\1" : "\0", 1,
                          &root, &f->err));
    manifest_add(manifest, "vm/a/fresh", &root);
    ok(f, store_writer_flush(writer, &f->err));
    ok(f, store_commit(store, manifest, &f->err));
    store_writer_free(writer);
    json_decref(manifest);
}

/* base@1 and base@2: a page changed, one became zero, one is new. */
static void make_base_and_next(struct fixture *f)
{
    fill_image(f);
    memset(f->image + (2u << 20), 7, 5000);
    commit_image(f, f->store, "base@1");
    f->image[5] ^= 1;
    memset(f->image + (2u << 20), 0, 8192);
    f->image[IMAGE_SIZE - 300000] = 1;
    commit_image(f, f->store, "base@2");
}

static int import_since(struct fixture *f, const char *since,
                        struct archive_imported *ret)
{
    const struct archive_import_opts opts = {.fd = f->fd, .since = since};

    lseek(f->fd, 0, SEEK_SET);
    return archive_import(f->other, &opts, ret, &f->err);
}

/* The tar of base@2 since base@1 is in f->fd; base@1 in the other store. */
static void export_pair(struct fixture *f)
{
    const struct archive_export_opts opts = {
        .snapshot = "base@2", .since = "base@1", .fd = f->fd};
    char *name = NULL;

    ok(f, export_to(f->store, "base@1", f->fd, NULL, NULL, &f->err));
    lseek(f->fd, 0, SEEK_SET);
    ok(f, import_from(f->other, f->fd, NULL, NULL, NULL, &name, &f->err));
    free(name);
    assert_int_equal(ftruncate(f->fd, 0), 0);
    lseek(f->fd, 0, SEEK_SET);
    ok(f, archive_export(f->store, &opts, &f->err));
}

static void test_incremental(void **state)
{
    struct fixture *f = *state;
    struct archive_imported imported;
    struct stat st;

    make_base_and_next(f);
    export_pair(f);
    assert_int_equal(fstat(f->fd, &st), 0);
    assert_true(st.st_size < 64 * 1024);
    ok(f, import_since(f, NULL, &imported));
    assert_string_equal(imported.name, "base@2");
    assert_true(imported.counts.bytes_new <= 4 * STORE_PAGE_SIZE);
    assert_true(imported.counts.bytes_unchanged >= 80 * 1024);
    free(imported.name);
    check_image(f, "base@2");
    /* Nothing of how it came is in the store. */
    assert_null(json_object_get(f->manifest, ARCHIVE_SINCE));
    assert_int_equal(json_integer_value(json_object_get(f->manifest, "format")),
                     1);
}

static void test_incremental_without_its_base(void **state)
{
    struct fixture *f = *state;
    struct archive_imported imported;

    make_base_and_next(f);
    export_pair(f);
    ok(f, store_delete(f->other, "base@1", &f->err));
    assert_int_equal(import_since(f, NULL, &imported), -1);
    assert_int_equal(f->err.code, VN_E_NOT_FOUND);
    assert_non_null(strstr(f->err.msg, "base@1"));
    /* The same content under another name serves; another content does not,
     * though it differs only where the tar has data of its own. */
    f->image[5] ^= 1;
    memset(f->image + (2u << 20), 7, 5000);
    f->image[IMAGE_SIZE - 300000] = 0;
    commit_image(f, f->other, "else@1");
    f->image[5] ^= 2;
    commit_image(f, f->other, "else@2");
    assert_int_equal(import_since(f, "else@2", &imported), -1);
    assert_int_equal(f->err.code, VN_E_CORRUPT);
    assert_non_null(strstr(f->err.msg, "not the one"));
    ok(f, import_since(f, "else@1", &imported));
    free(imported.name);
    f->image[5] ^= 3;
    memset(f->image + (2u << 20), 0, 8192);
    f->image[IMAGE_SIZE - 300000] = 1;
    check_image(f, "base@2");
}

/* A whole tar is found in place of the newest of its series. */
static void test_import_beside_its_predecessor(void **state)
{
    struct fixture *f = *state;
    struct archive_imported imported;

    make_base_and_next(f);
    export_pair(f);
    assert_int_equal(ftruncate(f->fd, 0), 0);
    lseek(f->fd, 0, SEEK_SET);
    ok(f, export_to(f->store, "base@2", f->fd, NULL, NULL, &f->err));
    ok(f, import_since(f, NULL, &imported));
    assert_true(imported.counts.bytes_unchanged >= 64 * 1024);
    assert_true(imported.counts.bytes_new <= 4 * STORE_PAGE_SIZE);
    free(imported.name);
    check_image(f, "base@2");
}

static void test_size_limit(void **state)
{
    struct fixture *f = *state;
    struct archive_import_opts opts = {.fd = f->fd, .size_max = IMAGE_SIZE};
    struct archive_imported imported;

    make_base_and_next(f);
    ok(f, export_to(f->store, "base@1", f->fd, NULL, NULL, &f->err));
    lseek(f->fd, 0, SEEK_SET);
    assert_int_equal(archive_import(f->other, &opts, &imported, &f->err), -1);
    assert_int_equal(f->err.code, VN_E_LIMIT);
    opts.size_max = IMAGE_SIZE + 100;
    lseek(f->fd, 0, SEEK_SET);
    ok(f, archive_import(f->other, &opts, &imported, &f->err));
    free(imported.name);
}

int main(void)
{
#define with_stores(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        with_stores(test_round_trip),
        with_stores(test_other_name_and_taken_name),
        with_stores(test_exports_are_equal),
        with_stores(test_unknown_snapshot_writes_nothing),
        with_stores(test_every_cut_is_refused),
        with_stores(test_plain_tar_is_taken),
        with_stores(test_hostile_members),
        with_stores(test_hostile_sums),
        with_stores(test_hostile_manifests),
        cmocka_unit_test(test_runs_stay_bounded),
        cmocka_unit_test(test_runs_merge_neighbours),
        cmocka_unit_test(test_member_names),
        cmocka_unit_test(test_zeros_sum_like_bytes),
        cmocka_unit_test_setup_teardown(test_incremental, setup, teardown),
        cmocka_unit_test_setup_teardown(test_incremental_without_its_base,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_import_beside_its_predecessor,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_size_limit, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
