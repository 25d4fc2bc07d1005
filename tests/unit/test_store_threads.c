/*
 * Many at once on one store: threads that write, commit and read through one
 * handle, handles of their own on one path, and processes.
 */

#include "unit/store_fixture.h"

#include <pthread.h>
#include <stdatomic.h>

enum { THREADS = 4, PAGES = 400, ROUNDS = 3 };

struct job {
    struct store_fixture *f;
    unsigned number;
    bool own_handle;
    char problem[VN_ERR_MSG_SIZE]; /* "": all went well */
};

/* Half of the pages are common to all jobs and rounds. */
static void make_data(uint8_t *data, unsigned number, unsigned round)
{
    fill_half(data, PAGES / 2 * PAGE, 1);
    fill_half(data + PAGES / 2 * PAGE, PAGES / 2 * PAGE,
              10 + 100 * number + round);
}

static int write_one(struct store *store, const uint8_t *data,
                     const struct map_root *parent, struct map_root *ret,
                     struct vn_err *err)
{
    vn_auto(store_writer) struct store_writer *writer =
        store_writer_open(store, err);
    vn_auto(image_writer) struct image_writer *image = NULL;

    if (!writer)
        return -1;
    image = image_writer_open(writer, PAGES * PAGE, parent, err);
    if (!image || image_writer_put(image, 0, data, PAGES * PAGE, err) < 0 ||
        image_writer_finish(image, ret, err) < 0)
        return -1;
    return store_writer_flush(writer, err);
}

static int commit_and_read(struct store *store, const char *name,
                           const struct map_root *root, const uint8_t *data,
                           uint8_t *space, struct vn_err *err)
{
    vn_auto(image_reader) struct image_reader *reader = NULL;
    vn_auto(json) json_t *manifest = manifest_new(name, "files");
    vn_auto(json) json_t *list = NULL;

    manifest_add(manifest, "image", root);
    if (store_commit(store, manifest, err) < 0)
        return -1;
    list = store_list(store, err);
    reader = list ? image_reader_open(store, root, err) : NULL;
    if (!reader || image_reader_read(reader, 0, space, PAGES * PAGE, err) < 0)
        return -1;
    return memcmp(space, data, PAGES * PAGE) == 0
               ? 0
               : vn_fail(err, VN_E_CORRUPT, "'%s' reads otherwise", name);
}

static int run_rounds(struct job *job, struct store *store, struct vn_err *err)
{
    vn_auto(free) uint8_t *data = vn_alloc(PAGES * PAGE);
    vn_auto(free) uint8_t *space = vn_alloc(PAGES * PAGE);
    struct map_root root = {0};

    for (unsigned round = 0; round < ROUNDS; round++) {
        vn_auto(free) char *name =
            vn_format("job%u@%u", job->number, round + 1);
        struct map_root parent = root;

        make_data(data, job->number, round);
        if (write_one(store, data, round ? &parent : NULL, &root, err) < 0 ||
            commit_and_read(store, name, &root, data, space, err) < 0)
            return -1;
    }
    return 0;
}

static void *job_main(void *arg)
{
    struct job *job = arg;
    struct vn_err err = VN_ERR_INIT;
    struct store *store = job->f->store;

    if (job->own_handle)
        store = store_open(job->f->path, &err);
    if (!store || run_rounds(job, store, &err) < 0)
        snprintf(job->problem, sizeof(job->problem), "%s", err.msg);
    if (job->own_handle)
        store_close(store);
    return NULL;
}

static void check_result(struct store *store, unsigned jobs)
{
    struct vn_err err = VN_ERR_INIT;
    struct store_stats stats;

    assert_ok(store_stats(store, &stats, &err), &err);
    assert_int_equal(stats.snapshots, jobs * ROUNDS);
    assert_int_equal(count_findings(store), 0);
}

static void run_threads(struct store_fixture *f, bool own_handles)
{
    pthread_t threads[THREADS];
    struct job jobs[THREADS];

    for (unsigned i = 0; i < THREADS; i++) {
        jobs[i] = (struct job){.f = f, .number = i, .own_handle = own_handles};
        assert_int_equal(pthread_create(&threads[i], NULL, job_main, &jobs[i]),
                         0);
    }
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (unsigned i = 0; i < THREADS; i++)
        assert_string_equal(jobs[i].problem, "");
    check_result(f->store, THREADS);
}

static void test_threads_on_one_handle(void **state)
{
    run_threads(*state, false);
}

static void test_threads_on_own_handles(void **state)
{
    run_threads(*state, true);
}

static void test_processes(void **state)
{
    enum { CHILDREN = 3 };
    struct store_fixture *f = *state;
    int status;

    for (unsigned i = 0; i < CHILDREN; i++)
        if (fork() == 0) {
            struct job job = {.f = f, .number = i, .own_handle = true};

            job_main(&job);
            if (job.problem[0])
                fprintf(stderr, "%s\n", job.problem);
            _exit(job.problem[0] ? 1 : 0);
        }
    for (unsigned i = 0; i < CHILDREN; i++) {
        assert_true(wait(&status) > 0);
        assert_int_equal(status, 0);
    }
    check_result(f->store, CHILDREN);
}

/* One reads and verifies all the time while another writes. */
static atomic_bool writing;

static void *verify_main(void *arg)
{
    struct job *job = arg;
    struct store_verify_opts opts = {.finding = print_finding};
    struct vn_err err = VN_ERR_INIT;
    uint64_t findings;

    do {
        if (store_verify(job->f->store, &opts, &findings, &err) < 0)
            snprintf(job->problem, sizeof(job->problem), "%s", err.msg);
        else if (findings)
            snprintf(job->problem, sizeof(job->problem), "findings");
    } while (atomic_load(&writing) && !job->problem[0]);
    return NULL;
}

static void test_verify_beside_writers(void **state)
{
    struct store_fixture *f = *state;
    struct job writer = {.f = f, .number = 1};
    struct job verifier = {.f = f};
    pthread_t thread;

    atomic_store(&writing, true);
    assert_int_equal(pthread_create(&thread, NULL, verify_main, &verifier), 0);
    job_main(&writer);
    atomic_store(&writing, false);
    pthread_join(thread, NULL);
    assert_string_equal(writer.problem, "");
    assert_string_equal(verifier.problem, "");
}

#define WITH_STORE(test)                                                       \
    cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_STORE(test_threads_on_one_handle),
        WITH_STORE(test_threads_on_own_handles),
        WITH_STORE(test_processes),
        WITH_STORE(test_verify_beside_writers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
