/*
 * Collection beside writers that share most of their pages, commit, delete and
 * build on parents that may be deleted, and beside readers, imports and verify:
 * in threads, and in processes some of which are killed. No commit may be
 * refused, no reader with a hold may fail, no verify may find anything, and at
 * the end everything that exists is whole.
 *
 * A snapshot's name says what it holds: "w<n>@<number>" is made of pages of a
 * common pool, chosen by n and number, so anybody can tell what it must be.
 */

#include "unit/store_gc_fixture.h"

#include "common/clock.h"
#include "store/archive.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>

enum { POOL = 500, PAGES = 150, KEPT = 3, WRITERS = 2, READERS = 1 };

static uint8_t *pool; /* POOL pages */

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

/* Neighbours in a series share most pages in place; all share the pool. */
static void make_image(unsigned writer, unsigned number, uint8_t *data)
{
    for (unsigned i = 0; i < PAGES; i++) {
        uint64_t version = (number + i) / 40;
        uint64_t pick = mix(writer / 2 * 1000003 + version * 1009 + i);

        memcpy(data + (size_t)i * PAGE, pool + pick % POOL * PAGE, PAGE);
    }
    /* And a page that nobody else has. */
    fill_random(data, PAGE, mix(writer * 1000 + 7) + number);
}

/* For all threads and processes of a test to see. */
struct shared {
    atomic_uint done[16]; /* how often, by number of the job */
    atomic_bool failed;   /* some job has */
};

static struct shared *shared;

struct job {
    const char *path;
    struct store *store; /* NULL: it opens its own */
    unsigned number;
    uint64_t end_ns;
    unsigned must; /* bit n: it goes on until job n was done once */
    unsigned done;
    char problem[VN_ERR_MSG_SIZE]; /* "": all went well */
};

/* Until the time is over and everybody did something, however slow that is. */
static bool goes_on(const struct job *job)
{
    if (clock_now_ns() < job->end_ns)
        return true;
    for (unsigned i = 0; i < VN_COUNT(shared->done); i++)
        if ((job->must >> i & 1) && shared->done[i] == 0)
            return !shared->failed;
    return false;
}

static void count_done(struct job *job)
{
    job->done++;
    shared->done[job->number]++;
}

static int write_snapshot(struct store *store, unsigned writer, uint8_t *data,
                          struct vn_err *err)
{
    vn_auto(free) char *series = vn_format("w%u", writer);
    vn_auto(free) char *name = store_next_name(store, series, err);
    vn_auto(store_writer) struct store_writer *w = NULL;
    vn_auto(image_writer) struct image_writer *image = NULL;
    vn_auto(json) json_t *manifest = NULL;
    vn_auto(json) json_t *latest = NULL;
    struct vn_err ignored = VN_ERR_INIT;
    struct map_root parent;
    struct map_root root;
    bool has_parent;

    if (!name)
        return -1;
    /* The parent is taken before the hold: it may be gone by then. */
    latest = store_load_latest(store, series, &ignored);
    has_parent =
        latest && manifest_object(latest, "image", &parent, &ignored) == 0;
    make_image(writer, (unsigned)atoi(strchr(name, '@') + 1), data);
    w = store_writer_open(store, err);
    image =
        w ? image_writer_open(w, PAGES * PAGE, has_parent ? &parent : NULL, err)
          : NULL;
    if (!image || image_writer_put(image, 0, data, PAGES * PAGE, err) < 0 ||
        image_writer_finish(image, &root, err) < 0 ||
        store_writer_flush(w, err) < 0)
        return -1;
    manifest = manifest_new(name, "files");
    manifest_add(manifest, "image", &root);
    return store_commit(store, manifest, err);
}

static int prune(struct store *store, unsigned writer, unsigned keep,
                 struct vn_err *err)
{
    const struct store_keep rule = {.last = keep};
    vn_auto(free) char *series = vn_format("w%u", writer);
    vn_auto(json) json_t *list = store_prune(store, series, &rule, false, err);

    return list || err->code == VN_E_NOT_FOUND ? 0 : -1;
}

static int run_writer(struct job *job, struct store *store, struct vn_err *err)
{
    vn_auto(free) uint8_t *data = vn_alloc(PAGES * PAGE);

    while (goes_on(job)) {
        if (write_snapshot(store, job->number, data, err) < 0)
            return -1;
        /* Now and then all of them go, also the parent of the next. */
        if (mix(job->done + 99 * job->number) % 3 == 0 &&
            prune(store, job->number, (unsigned)(mix(job->done) % KEPT), err) <
                0)
            return -1;
        count_done(job);
    }
    return 0;
}

/* Read one snapshot of the list; whoever deletes it meanwhile. */
static int read_one(struct store *store, const char *name, uint8_t *wanted,
                    uint8_t *got, struct vn_err *err)
{
    vn_auto(store_hold) struct store_hold *hold = store_hold_open(store, err);
    vn_auto(json) json_t *manifest = NULL;
    vn_auto(image_reader) struct image_reader *reader = NULL;
    struct map_root root;

    if (!hold)
        return -1;
    manifest = store_load(store, name, err);
    if (!manifest)
        return err->code == VN_E_NOT_FOUND ? 0 : -1;
    if (manifest_object(manifest, "image", &root, err) < 0)
        return -1;
    make_image((unsigned)atoi(name + 1), (unsigned)atoi(strchr(name, '@') + 1),
               wanted);
    reader = image_reader_open(store, &root, err);
    if (!reader || image_reader_read(reader, 0, got, PAGES * PAGE, err) < 0)
        return -1;
    return memcmp(got, wanted, PAGES * PAGE) == 0
               ? 0
               : vn_fail(err, VN_E_CORRUPT, "'%s' reads otherwise", name);
}

static int run_reader(struct job *job, struct store *store, struct vn_err *err)
{
    vn_auto(free) uint8_t *wanted = vn_alloc(PAGES * PAGE);
    vn_auto(free) uint8_t *got = vn_alloc(PAGES * PAGE);

    while (goes_on(job)) {
        vn_auto(json) json_t *list = store_list(store, err);
        size_t count = json_array_size(list);
        json_t *row;

        if (!list)
            return -1;
        if (count == 0)
            continue;
        row = json_array_get(list, mix(job->done + job->number) % count);
        count_done(job);
        if (read_one(store, json_string_value(json_object_get(row, "name")),
                     wanted, got, err) < 0)
            return -1;
    }
    return 0;
}

static int run_gcs(struct job *job, struct store *store, struct vn_err *err)
{
    unsigned round = 0;

    while (goes_on(job)) {
        struct store_gc_opts opts = {
            .threshold_percent = 1 + (unsigned)(mix(round) % 100),
            .wait_ms = mix(round) % 2 ? 0 : 100,
        };
        struct store_gc_counts counts;

        if (store_gc(store, &opts, &counts, err) < 0) {
            if (err->code != VN_E_STATE) /* two at once */
                return -1;
        } else if (counts.packs_removed > 0) {
            count_done(job);
        }
        usleep((useconds_t)(mix(round++) % 10000)); /* who verifies waits */
    }
    return 0;
}

/* Out to a tar and in again under a name of one's own that tells the same. */
static int copy_one(struct job *job, struct store *store, const char *name,
                    struct vn_err *err)
{
    vn_auto(store_hold) struct store_hold *hold = store_hold_open(store, err);
    vn_auto(close) int fd = memfd_create("tar", MFD_CLOEXEC);
    vn_auto(free) char *copy =
        vn_format("w%d.%d.%u@%s", atoi(name + 1), (int)getpid(), job->done,
                  strchr(name, '@') + 1);
    const struct archive_export_opts out = {.snapshot = name, .fd = fd};
    const struct archive_import_opts in = {.fd = fd, .name = copy};
    struct archive_imported imported;

    if (!hold || archive_export(store, &out, err) < 0)
        return hold && err->code == VN_E_NOT_FOUND ? 0 : -1;
    lseek(fd, 0, SEEK_SET);
    if (archive_import(store, &in, &imported, err) < 0)
        return -1;
    free(imported.name);
    count_done(job);
    /* Some stay, for readers; most go, lest it gets slow. */
    return mix(job->done) % 8 ? store_delete(store, copy, err) : 0;
}

static int run_copier(struct job *job, struct store *store, struct vn_err *err)
{
    while (goes_on(job)) {
        vn_auto(json) json_t *list = store_list(store, err);
        size_t count = json_array_size(list);
        json_t *row;

        if (!list)
            return -1;
        if (count == 0)
            continue;
        row = json_array_get(list, mix(job->done + job->number) % count);
        if (copy_one(job, store,
                     json_string_value(json_object_get(row, "name")), err) < 0)
            return -1;
    }
    return 0;
}

static void note_finding(void *context, const char *sentence)
{
    struct job *job = context;

    snprintf(job->problem, sizeof(job->problem), "%s", sentence);
}

/* Of the whole store, or of its newest snapshot, while all others work. */
static int run_verifier(struct job *job, struct store *store,
                        struct vn_err *err)
{
    struct store_verify_opts opts = {.finding = note_finding, .context = job};

    while (goes_on(job) && !job->problem[0]) {
        vn_auto(json) json_t *list = store_list(store, err);
        size_t count = json_array_size(list);
        uint64_t findings;

        if (!list)
            return -1;
        opts.snapshot = NULL;
        if (count > 0 && job->done % 2 == 0)
            opts.snapshot = json_string_value(
                json_object_get(json_array_get(list, count - 1), "name"));
        if (store_verify(store, &opts, &findings, err) == 0)
            count_done(job);
        else if (err->code != VN_E_STATE && /* a collector is at it */
                 !(opts.snapshot && err->code == VN_E_NOT_FOUND))
            return -1;
        usleep(20000);
    }
    return 0;
}

typedef int run_fn(struct job *job, struct store *store, struct vn_err *err);

static void run_job(struct job *job, run_fn *run)
{
    struct vn_err err = VN_ERR_INIT;
    struct store *store = job->store ? job->store : store_open(job->path, &err);

    if (!store || run(job, store, &err) < 0)
        snprintf(job->problem, sizeof(job->problem), "%s", err.msg);
    if (job->problem[0])
        shared->failed = true;
    if (!job->store)
        store_close(store);
}

static void *writer_main(void *arg)
{
    run_job(arg, run_writer);
    return NULL;
}

static void *reader_main(void *arg)
{
    run_job(arg, run_reader);
    return NULL;
}

static void *gc_main(void *arg)
{
    run_job(arg, run_gcs);
    return NULL;
}

/* Everything that exists is whole, and a gc leaves nothing but that. */
static void check_all(struct store_fixture *f)
{
    vn_auto(free) uint8_t *wanted = vn_alloc(PAGES * PAGE);
    vn_auto(free) uint8_t *got = vn_alloc(PAGES * PAGE);
    struct vn_err err = VN_ERR_INIT;
    struct store_gc_counts counts;
    json_t *list;
    json_t *row;
    size_t i;

    fixture_reopen(f);
    for (unsigned round = 0; round < 2; round++) {
        assert_int_equal(count_findings(f->store), 0);
        list = store_list(f->store, &err);
        json_array_foreach (list, i, row)
            assert_ok(read_one(f->store,
                               json_string_value(json_object_get(row, "name")),
                               wanted, got, &err),
                      &err);
        json_decref(list);
        for (unsigned k = 0; k < 3; k++)
            counts = run_gc(f->store, &gc_now);
        assert_int_equal(counts.packs_waiting, 0);
        assert_tidy(f);
    }
}

static int seconds(void)
{
    const char *text = getenv("VN_RACE_SECONDS");

    return text ? atoi(text) : 2;
}

static void test_threads(void **state)
{
    enum { JOBS = WRITERS + READERS + 1 };
    struct store_fixture *f = *state;
    pthread_t threads[JOBS];
    struct job jobs[JOBS];

    memset(shared, 0, sizeof(*shared));
    for (unsigned i = 0; i < JOBS; i++) {
        jobs[i] = (struct job){.path = f->path,
                               .store = i % 2 ? f->store : NULL,
                               .number = i,
                               .must = (1u << JOBS) - 1,
                               .end_ns = clock_now_ns() +
                                         (uint64_t)seconds() * VN_SEC};
        assert_int_equal(pthread_create(&threads[i], NULL,
                                        i < WRITERS             ? writer_main
                                        : i < WRITERS + READERS ? reader_main
                                                                : gc_main,
                                        &jobs[i]),
                         0);
    }
    for (unsigned i = 0; i < JOBS; i++)
        pthread_join(threads[i], NULL);
    for (unsigned i = 0; i < JOBS; i++) {
        assert_string_equal(jobs[i].problem, "");
        print_message("job %u: %u times\n", i, jobs[i].done);
        assert_true(jobs[i].done > 0);
    }
    check_all(f);
}

enum { STEADY = 7, FIRST_VICTIM = 8 };

static pid_t start(struct store_fixture *f, unsigned number, run_fn *run)
{
    pid_t child = fork();
    struct job job = {.path = f->path,
                      .number = number,
                      /* A collector may find that the others were always
                       * faster; who is killed need not get far. */
                      .must = number < FIRST_VICTIM
                                  ? 1 << 0 | 1 << 1 | 1 << 2 | 1 << 5 | 1 << 6
                                  : 0,
                      .end_ns = clock_now_ns() + (uint64_t)seconds() * VN_SEC};

    if (child != 0)
        return child;
    run_job(&job, run);
    if (job.problem[0])
        fprintf(stderr, "job %u: %s\n", number, job.problem);
    fprintf(stderr, "job %u: %u times\n", number, job.done);
    _exit(job.problem[0] ? 1 : 0);
}

/* Two writers, a reader, two collectors that get into each other's way, one
 * that exports and imports, and one that verifies; and a writer, a collector,
 * an importer and a verifier that are killed over and over. */
static void test_processes(void **state)
{
    struct store_fixture *f = *state;
    uint64_t end = clock_now_ns() + (uint64_t)seconds() * VN_SEC;
    uint64_t random = 17;
    int status;

    memset(shared, 0, sizeof(*shared));
    store_close(vn_steal(&f->store));
    (void)start(f, 0, run_writer);
    (void)start(f, 1, run_writer);
    (void)start(f, 2, run_reader);
    (void)start(f, 3, run_gcs);
    (void)start(f, 4, run_gcs);
    (void)start(f, 5, run_copier);
    (void)start(f, 6, run_verifier);
    while (clock_now_ns() < end) {
        pid_t victims[4] = {start(f, FIRST_VICTIM, run_writer),
                            start(f, FIRST_VICTIM + 1, run_gcs),
                            start(f, FIRST_VICTIM + 2, run_copier),
                            start(f, FIRST_VICTIM + 3, run_verifier)};

        for (unsigned i = 0; i < VN_COUNT(victims); i++) {
            random = mix(random);
            usleep((useconds_t)(random % 60000));
            kill(victims[i], SIGKILL);
        }
        for (unsigned i = 0; i < VN_COUNT(victims); i++) {
            assert_int_equal(waitpid(victims[i], &status, 0), victims[i]);
            assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
        }
    }
    for (unsigned i = 0; i < STEADY; i++) {
        assert_true(wait(&status) > 0);
        if (status != 0)
            shared->failed = true; /* the others need not wait for it */
    }
    assert_false(shared->failed);
    check_all(f);
}

static void test_one_at_a_time(void **state)
{
    struct store_fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    struct store_gc_counts counts;
    int pipes[2];
    pid_t child;
    char byte;
    int status;

    assert_int_equal(pipe(pipes), 0);
    add_snapshot(f->store, "a", pool, 10, NULL);
    delete_snapshot(f->store, "a");
    child = fork();
    if (child == 0) {
        struct store *own = store_open(f->path, &err);

        fault_set("store.index.condemn:1:stop");
        if (write(pipes[1], "x", 1) != 1)
            _exit(1);
        _exit(store_gc(own, &gc_now, &counts, &err) < 0);
    }
    assert_int_equal(read(pipes[0], &byte, 1), 1);
    assert_int_equal(waitpid(child, &status, WUNTRACED), child);
    assert_true(WIFSTOPPED(status));
    assert_int_equal(store_gc(f->store, &gc_now, &counts, &err), -1);
    assert_int_equal(err.code, VN_E_STATE);
    /* Writers do not care. */
    add_snapshot(f->store, "b", pool, 10, NULL);
    kill(child, SIGCONT);
    waitpid(child, &status, 0);
    assert_int_equal(status, 0);
    close(pipes[0]);
    close(pipes[1]);
    assert_true(snapshot_equals(f->store, "b", pool, 10));
    assert_int_equal(count_findings(f->store), 0);
}

#define WITH_STORE(test)                                                       \
    cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_STORE(test_threads),
        WITH_STORE(test_processes),
        WITH_STORE(test_one_at_a_time),
    };
    int result;

    use_fast_disk();
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        return 1;
    pool = make_pages(1, POOL);
    result = cmocka_run_group_tests(tests, NULL, NULL);
    free(pool);
    return result;
}
