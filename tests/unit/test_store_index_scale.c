/* Entering many chunks: in several transactions, cut off between them. */

#include "unit/store_index_fixture.h"

enum { COUNT = 150000, BATCH = 65536 }; /* three transactions */

static void test_all_are_there(void **state)
{
    struct indexed *x = *state;
    struct index_chunk *chunks = make_chunks(0, COUNT);
    struct vn_err err = VN_ERR_INIT;
    struct rows wanted = {0};
    struct index_stats stats;

    for (size_t i = 0; i < COUNT; i++)
        rows_add(&wanted, &chunks[i]);
    assert_ok(add_chunks(x->index, 0, COUNT, &err), &err);
    assert_rows(x->index, &wanted);
    assert_ok(index_stats(x->index, &stats, &err), &err);
    assert_int_equal(stats.packs, COUNT / PACK_CHUNKS);
    assert_true(stats.bytes > COUNT * 40 && stats.bytes < COUNT * 90);
    assert_true(stats.bytes_disk >= stats.bytes);
    free(chunks);
}

/* A later batch does not need the whole tree a second time. */
static void test_file_does_not_double(void **state)
{
    struct indexed *x = *state;
    struct vn_err err = VN_ERR_INIT;
    struct index_stats stats;

    for (uint64_t i = 0; i < 4; i++)
        assert_ok(add_chunks(x->index, i * 300000, 300000, &err), &err);
    assert_ok(index_stats(x->index, &stats, &err), &err);
    printf("on disk %llu %% of what is used\n",
           (unsigned long long)(100 * stats.bytes_disk / stats.bytes));
    assert_true(stats.bytes_disk < stats.bytes * 3 / 2);
}

/* Failed in the middle: a part is there, all packs are, trying again works. */
static void test_try_again(void **state)
{
    struct indexed *x = *state;
    struct vn_err err = VN_ERR_INIT;
    struct index_stats stats;

    fault_set("store.index.add:2");
    assert_int_equal(add_chunks(x->index, 0, COUNT, &err), -1);
    fault_set(NULL);
    assert_ok(index_stats(x->index, &stats, &err), &err);
    assert_int_equal(stats.chunks, BATCH);
    assert_int_equal(stats.packs, COUNT / PACK_CHUNKS);
    fault_set("store.index.commit:2");
    assert_int_equal(add_chunks(x->index, 0, COUNT, &err), -1);
    fault_set(NULL);
    assert_ok(add_chunks(x->index, 0, COUNT, &err), &err);
    assert_ok(index_stats(x->index, &stats, &err), &err);
    assert_int_equal(stats.chunks, COUNT);
    assert_int_equal(stats.packs, COUNT / PACK_CHUNKS);
}

static int add_and_die(const char *dir)
{
    struct vn_err err = VN_ERR_INIT;
    struct index *index = index_open(dir, store_id, &err);

    fault_set("store.index.committed:2:kill");
    return index && add_chunks(index, 0, COUNT, &err) == 0 ? 0 : 1;
}

static void test_killed_between(void **state)
{
    struct indexed *x = *state;
    struct vn_err err = VN_ERR_INIT;
    struct index_stats stats;

    assert_int_equal(in_child(add_and_die, x->dir), -SIGKILL);
    assert_ok(index_stats(x->index, &stats, &err), &err);
    assert_int_equal(stats.chunks, 2 * BATCH);
    assert_int_equal(stats.packs, COUNT / PACK_CHUNKS);
    assert_ok(add_chunks(x->index, 0, COUNT, &err), &err);
    assert_ok(index_stats(x->index, &stats, &err), &err);
    assert_int_equal(stats.chunks, COUNT);
}

static int add_and_stop(const char *dir)
{
    struct vn_err err = VN_ERR_INIT;
    struct index *index = index_open(dir, store_id, &err);

    fault_set("store.index.add:2:stop");
    if (!index)
        return 1;
    if (add_chunks(index, 0, COUNT, &err) == 0)
        return 2;
    return err.code == VN_E_STATE ? 0 : 3;
}

/* No hold protects the packs, and they are collected: no row may come to point
 * into one that is gone. */
static void test_packs_collected_between(void **state)
{
    struct indexed *x = *state;
    struct vn_err err = VN_ERR_INIT;
    struct index_stats stats;
    int status;
    pid_t child = fork();

    if (child == 0)
        _exit(add_and_stop(x->dir));
    assert_int_equal(waitpid(child, &status, WUNTRACED), child);
    assert_true(WIFSTOPPED(status));
    delete_half(x->index, COUNT / PACK_CHUNKS);
    kill(child, SIGCONT);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_ok(index_stats(x->index, &stats, &err), &err);
    assert_true(stats.chunks < BATCH);
}

/* ---- a whole store ---------------------------------------------------- */

enum { PAGES = 70000, PORTION = 500 };

/* Pages that differ and take little space. */
static int put_pages(struct image_writer *image, struct vn_err *err)
{
    vn_auto(free) uint8_t *data = vn_alloc(PORTION * PAGE);

    for (uint32_t i = 0; i < PAGES; i += PORTION) {
        for (uint32_t k = 0; k < PORTION; k++) {
            uint32_t number = i + k + 1;

            memcpy(data + (size_t)k * PAGE, &number, 4);
        }
        if (image_writer_put(image, (uint64_t)i * PAGE, data, PORTION * PAGE,
                             err) < 0)
            return -1;
    }
    return 0;
}

static int write_and_stop(const char *path)
{
    struct vn_err err = VN_ERR_INIT;
    struct store *store = store_open(path, &err);
    struct store_writer *writer = store ? store_writer_open(store, &err) : NULL;
    struct image_writer *image =
        writer ? image_writer_open(writer, (uint64_t)PAGES * PAGE, NULL, &err)
               : NULL;
    json_t *manifest = manifest_new("large", "files");
    struct map_root root;

    if (!image || put_pages(image, &err) < 0 ||
        image_writer_finish(image, &root, &err) < 0)
        return 1;
    fault_set("store.index.add:2:stop");
    manifest_add(manifest, "image", &root);
    if (store_writer_flush(writer, &err) < 0 ||
        store_commit(store, manifest, &err) < 0)
        return 2;
    json_decref(manifest);
    image_writer_free(image);
    store_writer_free(writer);
    store_close(store);
    return 0;
}

/* What others see between two transactions is sound, and gc leaves it. */
static void test_others_between(void **state)
{
    struct store_fixture *f = *state;
    const struct store_gc_opts opts = {.threshold_percent = STORE_GC_THRESHOLD};
    struct vn_err err = VN_ERR_INIT;
    struct store_gc_counts counts;
    struct store_stats stats;
    int status;
    pid_t child = fork();

    if (child == 0)
        _exit(write_and_stop(f->path));
    assert_int_equal(waitpid(child, &status, WUNTRACED), child);
    assert_true(WIFSTOPPED(status));
    assert_ok(store_stats(f->store, &stats, &err), &err);
    assert_int_equal(stats.chunks, BATCH);
    assert_int_equal(count_findings(f->store), 0);
    assert_ok(store_gc(f->store, &opts, &counts, &err), &err);
    assert_int_equal(counts.packs_removed, 0);
    kill(child, SIGCONT);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_ok(store_stats(f->store, &stats, &err), &err);
    assert_true(stats.chunks > PAGES);
    assert_int_equal(count_findings(f->store), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_INDEX(test_all_are_there),
        WITH_INDEX(test_file_does_not_double),
        WITH_INDEX(test_try_again),
        WITH_INDEX(test_killed_between),
        WITH_INDEX(test_packs_collected_between),
        cmocka_unit_test_setup_teardown(test_others_between, fixture_setup,
                                        fixture_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
