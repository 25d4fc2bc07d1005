/*
 * A small store with something changed in it, everywhere: every byte of every
 * pack and of config.json, packs cut at every length, bytes and pages all over
 * the index. Whatever it is, reading gives the bytes that were stored or an
 * error. In packs verify finds it. config.json says itself when it was changed.
 *
 * The index has no checksums, and LMDB believes its pages. Each damaged one is
 * opened in a child: one that dies or walks for ever, reads other bytes than
 * were stored, or finds nothing wrong while a snapshot is gone is a failure.
 */

#include "unit/store_fixture.h"

#include "common/io.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>

enum { PAGES = 14, FILES_MAX = 16 };

/* Every byte in the plain build; sanitizers take fifty times as long. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { STEP = 37, BITS = 60 };
#else
enum { STEP = 1, BITS = 300 };
#endif

struct file {
    char path[400];
    uint8_t *data;
    size_t size;
};

struct victim {
    struct store_fixture *f;
    uint8_t data[PAGES * PAGE];
    struct map_root root;
    struct file files[FILES_MAX];
    unsigned count;
};

static struct victim *current; /* for nftw() */

static int keep_file(const char *path, const struct stat *st, int type,
                     struct FTW *where)
{
    struct file *file = &current->files[current->count];
    const char *base = path + where->base;
    int fd;

    if (type != FTW_F || strcmp(base, "lock.mdb") == 0 ||
        strcmp(base, "holds") == 0 || st->st_size == 0 ||
        current->count == FILES_MAX)
        return 0;
    snprintf(file->path, sizeof(file->path), "%s", path);
    file->size = (size_t)st->st_size;
    file->data = vn_alloc(file->size);
    fd = open(path, O_RDONLY);
    if (fd < 0 || read(fd, file->data, file->size) != (ssize_t)file->size)
        return -1;
    close(fd);
    current->count++;
    return 0;
}

static int setup(void **state)
{
    struct victim *v = vn_alloc(sizeof(*v));
    struct vn_err err = VN_ERR_INIT;

    if (fixture_setup((void **)&v->f) < 0)
        return -1;
    /* Most pages compress well, so that few bytes hold every structure. */
    for (unsigned i = 0; i < PAGES; i++)
        memset(v->data + i * PAGE, (int)i, PAGE);
    fill_random(v->data + 2 * PAGE, PAGE / 2, 3);
    v->root = store_image(v->f->store, v->data, sizeof(v->data), NULL, NULL);
    commit_image(v->f->store, "gone@1", &v->root);
    commit_image(v->f->store, "lab@1", &v->root);
    commit_image(v->f->store, "lab@2", &v->root);
    if (store_delete(v->f->store, "gone@1", &err) < 0)
        return -1;
    store_close(vn_steal(&v->f->store));
    current = v;
    if (nftw(v->f->path, keep_file, 16, FTW_PHYS) != 0)
        return -1;
    *state = v;
    return 0;
}

static int teardown(void **state)
{
    struct victim *v = *state;

    for (unsigned i = 0; i < v->count; i++)
        free(v->files[i].data);
    fixture_teardown((void **)&v->f);
    free(v);
    return 0;
}

static void write_at(const struct file *file, size_t offset, const void *data,
                     size_t size)
{
    int fd = open(file->path, O_WRONLY);

    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, data, size, (off_t)offset), size);
    close(fd);
}

static void restore(const struct file *file)
{
    assert_int_equal(truncate(file->path, 0), 0);
    write_at(file, 0, file->data, file->size);
}

static void flip(const struct file *file, size_t at)
{
    uint8_t byte = file->data[at] ^ (uint8_t)(1u << at % 8);

    write_at(file, at, &byte, 1);
}

static bool ends_with(const struct file *file, const char *end)
{
    size_t n = strlen(file->path);

    return n > strlen(end) && !strcmp(file->path + n - strlen(end), end);
}

static const struct file *file_named(const struct victim *v, const char *end)
{
    unsigned i = 0;

    while (!ends_with(&v->files[i], end))
        assert_true(++i < v->count);
    return &v->files[i];
}

/* ---- what can be read ------------------------------------------------- */

enum {
    SEEN_ALL = 42, /* both snapshots, whole */
    SEEN_ERROR,    /* something failed, and said so */
    SEEN_FINDING,  /* something is not there, and verify says so */
    SEEN_NOTHING,  /* it is not there, and nothing says so */
    SEEN_WRONG,    /* other bytes */
};

static void ignore(void *context, const char *sentence)
{
    (void)context;
    (void)sentence;
}

/* Findings, or UINT64_MAX where verify failed. */
static uint64_t verify(struct store *store)
{
    struct store_verify_opts opts = {.finding = ignore};
    struct vn_err err = VN_ERR_INIT;
    uint64_t findings;

    return store_verify(store, &opts, &findings, &err) < 0 ? UINT64_MAX
                                                           : findings;
}

/* One snapshot, page by page and together. */
static int read_snapshot(struct store *store, const struct victim *v,
                         const char *name)
{
    struct vn_err err = VN_ERR_INIT;
    vn_auto(image_reader) struct image_reader *reader = NULL;
    uint8_t got[sizeof(v->data)];
    json_t *manifest = store_load(store, name, &err);
    struct map_root root;
    int seen = SEEN_ALL;

    if (!manifest)
        return err.code == VN_E_NOT_FOUND ? SEEN_NOTHING : SEEN_ERROR;
    if (manifest_object(manifest, "image", &root, &err) < 0 ||
        memcmp(&root, &v->root, sizeof(root)) != 0)
        seen = SEEN_WRONG;
    json_decref(manifest);
    reader = image_reader_open(store, &v->root, &err);
    if (!reader)
        return seen == SEEN_ALL ? SEEN_ERROR : seen;
    for (unsigned i = 0; i < PAGES; i++) {
        if (image_reader_read(reader, i * PAGE, got, PAGE, &err) < 0)
            seen = seen == SEEN_ALL ? SEEN_ERROR : seen;
        else if (memcmp(got, v->data + i * PAGE, PAGE) != 0)
            seen = SEEN_WRONG;
    }
    if (image_reader_read(reader, 0, got, sizeof(got), &err) == 0 &&
        memcmp(got, v->data, sizeof(got)) != 0)
        seen = SEEN_WRONG;
    return seen;
}

static int read_all(struct store *store, const struct victim *v)
{
    int a = read_snapshot(store, v, "lab@1");
    int b = read_snapshot(store, v, "lab@2");

    return a > b ? a : b;
}

/* ---- packs ------------------------------------------------------------ */

static void check_pack(struct victim *v, const struct file *file, size_t at,
                       const char *what)
{
    int seen = read_all(v->f->store, v);

    if (seen != SEEN_ALL && seen != SEEN_ERROR)
        fail_msg("%s: %s at %zu: read %d", file->path, what, at, seen);
    if (verify(v->f->store) == 0)
        fail_msg("%s: %s at %zu: verify found nothing", file->path, what, at);
}

static void test_every_byte_of_packs(void **state)
{
    struct victim *v = *state;
    size_t bytes = 0;
    unsigned packs = 0;

    fixture_reopen(v->f);
    for (unsigned i = 0; i < v->count; i++) {
        const struct file *file = &v->files[i];

        if (!ends_with(file, ".pack"))
            continue;
        packs++;
        for (size_t at = 0; at < file->size; at += STEP, bytes++) {
            flip(file, at);
            check_pack(v, file, at, "a bit");
            write_at(file, at, file->data + at, 1);
        }
    }
    assert_int_equal(packs, 5); /* image, three manifests, a tombstone */
    assert_true(bytes > 3000 / STEP);
    assert_int_equal(verify(v->f->store), 0);
    assert_int_equal(read_all(v->f->store, v), SEEN_ALL);
}

static void test_packs_cut_everywhere(void **state)
{
    struct victim *v = *state;

    fixture_reopen(v->f);
    for (unsigned i = 0; i < v->count; i++) {
        const struct file *file = &v->files[i];

        if (!ends_with(file, ".pack"))
            continue;
        for (size_t size = 0; size < file->size;
             size += size + 700 < file->size ? 7 * STEP : STEP) {
            restore(file);
            assert_int_equal(truncate(file->path, (off_t)size), 0);
            check_pack(v, file, size, "cut");
        }
        restore(file);
        /* And a tail that does not belong there. */
        write_at(file, file->size, "x", 1);
        check_pack(v, file, file->size, "a byte more");
        assert_int_equal(truncate(file->path, (off_t)file->size), 0);
    }
    assert_int_equal(verify(v->f->store), 0);
}

/* ---- config.json ------------------------------------------------------ */

/* It opens and is the store that it was, or it does not open. */
static void check_config(struct victim *v, size_t at)
{
    struct vn_err err = VN_ERR_INIT;

    v->f->store = store_open(v->f->path, &err);
    if (!v->f->store) {
        assert_true(err.code != 0 && strstr(err.msg, "config.json"));
        return;
    }
    if (read_all(v->f->store, v) != SEEN_ALL || verify(v->f->store) != 0)
        fail_msg("config.json changed at %zu: opened, and is another", at);
    store_close(vn_steal(&v->f->store));
}

static void test_every_byte_of_config(void **state)
{
    struct victim *v = *state;
    const struct file *file = file_named(v, "config.json");

    for (size_t at = 0; at < file->size; at += STEP) {
        static const char digits[] = "0f7";
        char digit = digits[at % 3];

        flip(file, at);
        check_config(v, at);
        write_at(file, at, &digit, 1); /* mostly another digit */
        check_config(v, at);
        write_at(file, at, file->data + at, 1);
    }
    for (size_t size = 0; size < file->size; size += STEP) {
        assert_int_equal(truncate(file->path, (off_t)size), 0);
        check_config(v, size);
    }
    restore(file);
    check_config(v, 0);
}

/* ---- the index -------------------------------------------------------- */

/* All that a user may do with the store; does not return. */
static void use_store(const struct victim *v)
{
    static const int deadly[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL};
    const struct store_gc_opts gc = {.dry_run = true, .threshold_percent = 50};
    struct vn_err err = VN_ERR_INIT;
    struct store_gc_counts counts;
    struct store *store;
    uint64_t findings;
    int seen;

    for (unsigned i = 0; i < VN_COUNT(deadly); i++)
        signal(deadly[i], SIG_DFL); /* not cmocka's, which goes on */
    alarm(100);                     /* LMDB may go round in circles */
    store = store_open(v->f->path, &err);
    if (!store)
        _exit(SEEN_ERROR);
    seen = read_all(store, v);
    findings = verify(store);
    if (seen == SEEN_NOTHING && findings > 0)
        seen = SEEN_FINDING;
    json_decref(store_list(store, &err));
    (void)!store_gc(store, &gc, &counts, &err);
    _exit(seen);
}

struct tally {
    unsigned seen[SEEN_WRONG + 1];
    unsigned died;
    unsigned hung;
};

static void try_index(const struct victim *v, struct tally *tally)
{
    pid_t child = fork();
    int status;
    int seen;

    assert_true(child >= 0);
    if (child == 0) {
        int null = open("/dev/null", O_WRONLY);

        dup2(null, 2); /* what sanitizers and LMDB's asserts say */
        use_store(v);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    seen = WIFEXITED(status) ? WEXITSTATUS(status) : 0;
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
        tally->hung++;
    else if (seen < SEEN_ALL || seen > SEEN_WRONG)
        tally->died++;
    else
        tally->seen[seen]++;
}

static void print_tally(const char *what, const struct tally *t)
{
    print_message("%s: %u whole, %u errors, %u found by verify, %u gone "
                  "unnoticed, %u died, %u hung\n",
                  what, t->seen[SEEN_ALL], t->seen[SEEN_ERROR],
                  t->seen[SEEN_FINDING], t->seen[SEEN_NOTHING], t->died,
                  t->hung);
    assert_int_equal(t->seen[SEEN_WRONG], 0);
    assert_int_equal(t->seen[SEEN_NOTHING], 0);
    assert_int_equal(t->died, 0);
    assert_int_equal(t->hung, 0);
}

static void test_bits_of_index(void **state)
{
    struct victim *v = *state;
    const struct file *file = file_named(v, "data.mdb");
    struct tally tally = {.died = 0};
    uint64_t random = 1;

    /* Where something is: heads of pages and rows, not zeros. */
    for (unsigned i = 0; i < BITS; i++) {
        size_t at;

        do {
            random = random * 6364136223846793005u + 1442695040888963407u;
            at = (size_t)(random >> 20) % file->size;
        } while (file->data[at] == 0);
        flip(file, at);
        try_index(v, &tally);
        write_at(file, at, file->data + at, 1);
        restore(file); /* a child may have written */
    }
    print_tally("bits of the index", &tally);
    assert_true(tally.seen[SEEN_ALL] + tally.seen[SEEN_ERROR] > 0);
}

static void test_pages_of_index(void **state)
{
    struct victim *v = *state;
    const struct file *file = file_named(v, "data.mdb");
    struct tally tally = {.died = 0};
    uint8_t page[PAGE];

    for (size_t at = 0; at + PAGE <= file->size; at += PAGE)
        for (unsigned how = 0; how < 3; how++) {
            memset(page, how ? 0xff : 0, PAGE);
            if (how == 2)
                fill_random(page, PAGE, at);
            write_at(file, at, page, PAGE);
            try_index(v, &tally);
            restore(file);
        }
    for (size_t size = 0; size < file->size; size += PAGE) {
        assert_int_equal(truncate(file->path, (off_t)size), 0);
        try_index(v, &tally);
        restore(file);
    }
    print_tally("pages of the index", &tally);
    fixture_reopen(v->f);
    assert_int_equal(read_all(v->f->store, v), SEEN_ALL);
}

#define WITH_VICTIM(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_VICTIM(test_every_byte_of_packs),
        WITH_VICTIM(test_packs_cut_everywhere),
        WITH_VICTIM(test_every_byte_of_config),
        WITH_VICTIM(test_bits_of_index),
        WITH_VICTIM(test_pages_of_index),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
