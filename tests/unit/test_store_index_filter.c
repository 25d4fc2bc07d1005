/*
 * The filter of known chunks: what it forgets (nothing, from whatever process
 * it came), when it is not believed, and that a wrong one does no harm.
 */

#include "unit/store_index_fixture.h"

#include "common/io.h"
#include "store/index_filter.h"

#include <fcntl.h>

enum {
    COUNT = 110000, /* a store has a filter from 100000 on */
    LATER = 1000000,
    HEAD = 4096,
    AT_BOOT = 64,
    AT_CLEAN = 80,
};

static char *filter_path(const struct indexed *x)
{
    return vn_format("%s/filter", x->dir);
}

static struct index_filter *open_filter(const struct indexed *x)
{
    vn_auto(free) char *path = filter_path(x);

    return index_filter_open(path, store_id, false);
}

/* How many chunks does the filter say may be there? */
static size_t count_known(const struct indexed *x, uint64_t first, size_t count)
{
    struct index_filter *filter = open_filter(x);
    size_t known = 0;

    assert_non_null(filter);
    for (size_t i = 0; i < count; i++) {
        struct chunk_id id = chunk_id_of(first + i);

        known += index_filter_has(filter, &id);
    }
    index_filter_release(filter);
    return known;
}

/* And the index, asked as a writer asks? */
static size_t find_known(struct index *index, uint64_t first, size_t count)
{
    struct chunk_place *places = vn_alloc(count * sizeof(*places));
    struct chunk_id *ids = vn_alloc(count * sizeof(*ids));
    struct vn_err err = VN_ERR_INIT;
    size_t found = 0;

    for (size_t i = 0; i < count; i++)
        ids[i] = chunk_id_of(first + i);
    assert_ok(index_find_known(index, ids, count, places, &err), &err);
    for (size_t i = 0; i < count; i++)
        if (places[i].stored_size) {
            assert_int_equal(places[i].pack_id, 1 + (first + i) / PACK_CHUNKS);
            found++;
        }
    free(places);
    free(ids);
    return found;
}

/* Overwrite bytes of the file. */
static void damage(const struct indexed *x, off_t at, const void *data,
                   size_t size)
{
    vn_auto(free) char *path = filter_path(x);
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, data, size, at), size);
    close(fd);
}

static uint32_t read_clean(const struct indexed *x)
{
    vn_auto(free) char *path = filter_path(x);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    uint32_t clean = 77;

    assert_int_equal(pread(fd, &clean, 4, AT_CLEAN), 4);
    close(fd);
    return clean;
}

static void test_knows_and_misses(void **state)
{
    struct indexed *x = *state;
    vn_auto(free) char *path = filter_path(x);
    struct vn_err err = VN_ERR_INIT;
    size_t wrong;

    assert_ok(add_chunks(x->index, 0, COUNT / 2, &err), &err);
    assert_int_not_equal(access(path, F_OK), 0); /* small */
    assert_int_equal(find_known(x->index, 0, COUNT), COUNT / 2);
    assert_ok(add_chunks(x->index, COUNT / 2, COUNT / 2, &err), &err);
    assert_int_equal(access(path, F_OK), 0);
    assert_int_equal(count_known(x, 0, COUNT), COUNT);
    wrong = count_known(x, LATER, COUNT);
    assert_true(wrong > 0 && wrong < COUNT / 100);
    assert_int_equal(find_known(x->index, 0, COUNT), COUNT);
    assert_int_equal(find_known(x->index, LATER, COUNT), 0);
    /* It grows with the store. */
    assert_ok(add_chunks(x->index, LATER, COUNT, &err), &err);
    assert_int_equal(count_known(x, LATER, COUNT), COUNT);
    wrong = count_known(x, 3 * LATER, COUNT);
    assert_true(wrong < COUNT / 100);
    assert_int_equal(find_known(x->index, LATER, COUNT), COUNT);
}

/* ---- several processes ------------------------------------------------ */

/* Each chunk is known as soon as it is entered, by whoever. */
static int add_on(const char *dir, uint64_t first, unsigned rounds)
{
    struct vn_err err = VN_ERR_INIT;
    struct index *index = index_open(dir, store_id, &err);

    for (unsigned i = 0; i < rounds; i++) {
        uint64_t from = first + (uint64_t)i * PACK_CHUNKS;

        if (!index || add_chunks(index, from, 300, &err) < 0)
            return 1;
        if (find_known(index, from, 300) != 300)
            return 2;
    }
    index_close(index);
    return 0;
}

static int build_on(const char *dir)
{
    struct vn_err err = VN_ERR_INIT;
    struct index *index = index_open(dir, store_id, &err);

    for (unsigned i = 0; index && i < 1000; i++)
        index_known_refresh(index, UINT64_MAX);
    index_close(index);
    return 0;
}

/* Writers, while the filter is made anew all the time by processes that are
 * killed, and by one that is not. */
static void test_processes(void **state)
{
    enum { WRITERS = 2, ROUNDS = 40, BUILDERS = 6 };
    struct timespec pause = {.tv_nsec = 90000000};
    struct indexed *x = *state;
    struct vn_err err = VN_ERR_INIT;
    pid_t children[WRITERS];
    int status;

    assert_ok(add_chunks(x->index, 0, COUNT, &err), &err);
    for (uint64_t c = 0; c < WRITERS; c++) {
        children[c] = fork();
        if (children[c] == 0)
            _exit(add_on(x->dir, (c + 1) * LATER, ROUNDS));
    }
    for (int i = 0; i < BUILDERS; i++) {
        pid_t child = fork();

        if (child == 0)
            _exit(build_on(x->dir));
        nanosleep(&pause, NULL);
        kill(child, SIGKILL);
        assert_int_equal(waitpid(child, &status, 0), child);
    }
    for (uint64_t c = 0; c < WRITERS; c++) {
        assert_int_equal(waitpid(children[c], &status, 0), children[c]);
        assert_int_equal(status, 0);
        if (c == 0)
            index_known_refresh(x->index, UINT64_MAX);
    }
    /* If the last one was killed between old and new there is none: then it
     * was made by the refresh above. */
    for (uint64_t c = 0; c < WRITERS; c++)
        for (unsigned i = 0; i < ROUNDS; i++) {
            uint64_t from = (c + 1) * LATER + (uint64_t)i * PACK_CHUNKS;

            assert_int_equal(count_known(x, from, 300), 300);
        }
    assert_int_equal(count_known(x, 0, COUNT), COUNT);
}

static int build_and_stop(const char *dir)
{
    struct vn_err err = VN_ERR_INIT;
    struct index *index = index_open(dir, store_id, &err);

    fault_set("store.index.filter:2:stop");
    if (!index)
        return 1;
    index_known_refresh(index, UINT64_MAX);
    index_close(index);
    return 0;
}

/* What is entered while a new one is made, behind where its maker reads, is in
 * it; and who has the old one mapped changes to it. */
static void test_added_while_built(void **state)
{
    struct indexed *x = *state;
    struct vn_err err = VN_ERR_INIT;
    struct stat before;
    struct stat after;
    vn_auto(free) char *path = filter_path(x);
    int status;
    pid_t child;

    assert_ok(add_chunks(x->index, 0, COUNT, &err), &err);
    assert_int_equal(stat(path, &before), 0);
    child = fork();
    if (child == 0)
        _exit(build_and_stop(x->dir));
    assert_int_equal(waitpid(child, &status, WUNTRACED), child);
    assert_true(WIFSTOPPED(status));
    assert_ok(add_chunks(x->index, LATER, 1000, &err), &err);
    /* One at a time; the other's is left alone. */
    index_known_refresh(x->index, UINT64_MAX);
    kill(child, SIGCONT);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(stat(path, &after), 0);
    assert_int_not_equal(before.st_ino, after.st_ino);
    assert_int_equal(count_known(x, LATER, 1000), 1000);
    assert_int_equal(find_known(x->index, LATER, 1000), 1000);
    assert_ok(add_chunks(x->index, 2 * LATER, 1000, &err), &err);
    assert_int_equal(count_known(x, 2 * LATER, 1000), 1000);
}

static int build_and_die(const char *dir)
{
    struct vn_err err = VN_ERR_INIT;
    struct index *index = index_open(dir, store_id, &err);

    fault_set("store.index.filter:3:kill");
    if (index)
        index_known_refresh(index, UINT64_MAX);
    return 1;
}

static void test_builder_dies(void **state)
{
    struct indexed *x = *state;
    vn_auto(free) char *next = vn_format("%s/filter.next", x->dir);
    struct vn_err err = VN_ERR_INIT;

    assert_ok(add_chunks(x->index, 0, COUNT, &err), &err);
    assert_int_equal(in_child(build_and_die, x->dir), -SIGKILL);
    assert_int_equal(access(next, F_OK), 0);
    assert_ok(add_chunks(x->index, LATER, 1000, &err), &err);
    assert_int_equal(count_known(x, LATER, 1000), 1000);
    index_known_refresh(x->index, UINT64_MAX);
    assert_int_not_equal(access(next, F_OK), 0);
    assert_int_equal(count_known(x, 0, COUNT), COUNT);
    assert_int_equal(count_known(x, LATER, 1000), 1000);
}

/* ---- when it is not believed ------------------------------------------ */

static int add_and_die(const char *dir)
{
    struct vn_err err = VN_ERR_INIT;
    struct index *index = index_open(dir, store_id, &err);

    if (!index || add_chunks(index, LATER, 500, &err) < 0)
        return 1;
    raise(SIGKILL);
    return 1;
}

static void test_boots(void **state)
{
    static const uint8_t other_boot[16] = "some other boot";
    struct indexed *x = *state;
    struct vn_err err = VN_ERR_INIT;

    assert_ok(add_chunks(x->index, 0, COUNT, &err), &err);
    index_reopen(x);
    assert_int_equal(read_clean(x), 1);
    /* Closed in order: good after another boot too. */
    damage(x, AT_BOOT, other_boot, 16);
    assert_int_equal(count_known(x, 0, COUNT), COUNT);
    /* Killed: good in this boot, not after it. */
    assert_int_equal(in_child(add_and_die, x->dir), -SIGKILL);
    assert_int_equal(read_clean(x), 0);
    assert_int_equal(count_known(x, LATER, 500), 500);
    damage(x, AT_BOOT, other_boot, 16);
    assert_null(open_filter(x));
    index_reopen(x);
    assert_int_equal(find_known(x->index, LATER, 500), 500);
    /* Who enters something makes it anew. */
    assert_ok(add_chunks(x->index, 2 * LATER, 10, &err), &err);
    assert_int_equal(count_known(x, 0, COUNT), COUNT);
    assert_int_equal(count_known(x, LATER, 500), 500);
    assert_int_equal(count_known(x, 2 * LATER, 10), 10);
}

static void assert_useless(struct indexed *x)
{
    assert_null(open_filter(x));
    index_reopen(x);
    assert_int_equal(find_known(x->index, 0, 2000), 2000);
    assert_int_equal(find_known(x->index, LATER, 2000), 0);
}

static void test_hostile_files(void **state)
{
    static const uint8_t junk[64] = {1, 2, 3};
    struct indexed *x = *state;
    vn_auto(free) char *path = filter_path(x);
    struct vn_err err = VN_ERR_INIT;
    uint8_t head[64];
    struct stat st;
    int fd;

    assert_ok(add_chunks(x->index, 0, COUNT, &err), &err);
    index_close(vn_steal(&x->index));
    assert_int_equal(stat(path, &st), 0);
    fd = open(path, O_RDWR | O_CLOEXEC);
    assert_int_equal(pread(fd, head, sizeof(head), 0), sizeof(head));
    for (size_t i = 0; i < sizeof(head); i++) {
        uint8_t flipped = head[i] ^ 0x10;

        damage(x, (off_t)i, &flipped, 1);
        assert_null(open_filter(x));
        damage(x, (off_t)i, &head[i], 1);
    }
    assert_int_equal(ftruncate(fd, st.st_size - 64), 0);
    assert_useless(x);
    assert_int_equal(ftruncate(fd, st.st_size + 64), 0);
    assert_useless(x);
    assert_int_equal(ftruncate(fd, HEAD), 0);
    assert_useless(x);
    assert_int_equal(ftruncate(fd, 10), 0);
    assert_useless(x);
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_useless(x);
    assert_int_equal(pwrite(fd, junk, sizeof(junk), 0), sizeof(junk));
    assert_useless(x);
    close(fd);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_useless(x);
    assert_ok(add_chunks(x->index, LATER, 10, &err), &err); /* cannot be made */
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_null(open_filter(x));
    index_reopen(x);
    assert_ok(add_chunks(x->index, LATER + 10, 10, &err), &err);
    assert_int_equal(count_known(x, 0, COUNT), COUNT);
}

static void test_other_store(void **state)
{
    static const uint8_t other[16] = "another store's!";
    struct indexed *x = *state;
    vn_auto(free) char *path = filter_path(x);
    struct vn_err err = VN_ERR_INIT;
    struct index_filter *filter;

    assert_ok(add_chunks(x->index, 0, COUNT, &err), &err);
    index_close(vn_steal(&x->index));
    filter = index_filter_create(path, other, COUNT, &err);
    assert_made(filter, &err);
    assert_ok(index_filter_clean(filter, &err), &err);
    index_filter_release(filter);
    assert_useless(x);
}

static void test_made_anew_after_gc(void **state)
{
    struct indexed *x = *state;
    struct vn_err err = VN_ERR_INIT;

    assert_ok(add_chunks(x->index, 0, 2 * COUNT, &err), &err);
    delete_half(x->index, 2 * COUNT / PACK_CHUNKS);
    assert_int_equal(count_known(x, 0, 2 * COUNT), 2 * COUNT);
    index_known_refresh(x->index, 10); /* too few to care */
    assert_int_equal(count_known(x, 0, 2 * COUNT), 2 * COUNT);
    index_known_refresh(x->index, COUNT);
    assert_true(count_known(x, 0, 2 * COUNT) < COUNT * 102 / 100);
    assert_int_equal(find_known(x->index, 0, 2 * COUNT), COUNT);
}

/* A filter that knows nothing: all is stored once more, and all is well. */
static void test_forgetful(void **state)
{
    enum { PAGES = 300 };
    struct store_fixture *f = *state;
    vn_auto(free) char *path = vn_format("%s/index/filter", f->path);
    vn_auto(free) char *config = vn_format("%s/config.json", f->path);
    json_t *json = json_load_file(config, 0, NULL);
    uint8_t *data = vn_alloc(PAGES * PAGE);
    struct vn_err err = VN_ERR_INIT;
    struct index_filter *filter;
    struct store_counts counts;
    struct map_root first;
    struct map_root second;
    uint8_t id[16];

    fill_random(data, PAGES * PAGE, 5);
    first = store_image(f->store, data, PAGES * PAGE, NULL, &counts);
    commit_image(f->store, "first", &first);
    second = store_image(f->store, data, PAGES * PAGE, NULL, &counts);
    assert_int_equal(counts.bytes_stored, 0);
    assert_ok(io_unhex(json_string_value(json_object_get(json, "store_id")), id,
                       16, &err),
              &err);
    filter = index_filter_create(path, id, 100000, &err);
    assert_made(filter, &err);
    index_filter_release(filter);
    second = store_image(f->store, data, PAGES * PAGE, NULL, &counts);
    assert_true(counts.bytes_stored > PAGES * PAGE / 2);
    assert_memory_equal(&first.root, &second.root, sizeof(first.root));
    commit_image(f->store, "second", &second);
    assert_true(image_equals(f->store, &first, data, PAGES * PAGE));
    assert_int_equal(count_findings(f->store), 0);
    /* By then their bits are set. */
    store_image(f->store, data, PAGES * PAGE, NULL, &counts);
    assert_int_equal(counts.bytes_stored, 0);
    json_decref(json);
    free(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_INDEX(test_knows_and_misses),
        WITH_INDEX(test_processes),
        WITH_INDEX(test_added_while_built),
        WITH_INDEX(test_builder_dies),
        WITH_INDEX(test_boots),
        WITH_INDEX(test_hostile_files),
        WITH_INDEX(test_other_store),
        WITH_INDEX(test_made_anew_after_gc),
        cmocka_unit_test_setup_teardown(test_forgetful, fixture_setup,
                                        fixture_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
