/* The index: sharing in a process, numbers across processes, places. */

#include "unit/store_fixture.h"

#include "store/index.h"

static const uint8_t store_id[16] = "an index's store";

struct indexed {
    char dir[256];
    struct index *index;
};

static int setup(void **state)
{
    struct indexed *x = vn_alloc(sizeof(*x));
    struct vn_err err = VN_ERR_INIT;

    snprintf(x->dir, sizeof(x->dir), "/tmp/vnstore-test-XXXXXX");
    if (!mkdtemp(x->dir) || index_init(x->dir, store_id, &err) < 0)
        return -1;
    x->index = index_open(x->dir, store_id, &err);
    *state = x;
    return x->index ? 0 : -1;
}

static int teardown(void **state)
{
    struct indexed *x = *state;

    index_close(x->index);
    nftw(x->dir, fixture_remove, 16, FTW_DEPTH | FTW_PHYS);
    free(x);
    return 0;
}

static void test_one_environment_a_process(void **state)
{
    struct indexed *x = *state;
    vn_auto(free) char *detour =
        vn_format("%s/../%s", x->dir, strrchr(x->dir, '/') + 1);
    struct vn_err err = VN_ERR_INIT;
    struct index *again = index_open(detour, store_id, &err);
    uint64_t first;

    assert_ptr_equal(again, x->index);
    index_close(again);
    assert_ok(index_take_pack_ids(x->index, 5, &first, &err), &err);
    assert_int_equal(first, 1);
}

static void test_other_store_is_refused(void **state)
{
    struct indexed *x = *state;
    uint8_t other[16] = {0};
    struct vn_err err = VN_ERR_INIT;

    index_close(vn_steal(&x->index));
    assert_null(index_open(x->dir, other, &err));
    assert_int_equal(err.code, VN_E_CORRUPT);
    x->index = index_open(x->dir, store_id, &err);
    assert_made(x->index, &err);
}

/* Parent (with its environment open) and children take numbers at once. */
static void test_numbers_are_never_given_twice(void **state)
{
    enum { CHILDREN = 3, ROUNDS = 10 };
    struct indexed *x = *state;
    struct vn_err err = VN_ERR_INIT;
    bool seen[1 + (CHILDREN + 1) * ROUNDS] = {false};
    uint64_t number;
    pid_t child;
    int pipes[2];
    int status;

    assert_int_equal(pipe(pipes), 0);
    for (int c = 0; c < CHILDREN; c++) {
        if (fork() != 0)
            continue;
        struct index *own = index_open(x->dir, store_id, &err);

        for (int i = 0; own && i < ROUNDS; i++)
            if (index_take_pack_ids(own, 1, &number, &err) < 0 ||
                write(pipes[1], &number, 8) != 8)
                _exit(1);
        index_close(own);
        _exit(own && own != x->index ? 0 : 1);
    }
    for (int i = 0; i < ROUNDS; i++) {
        assert_ok(index_take_pack_ids(x->index, 1, &number, &err), &err);
        assert_int_equal(write(pipes[1], &number, 8), 8);
    }
    while ((child = wait(&status)) > 0)
        assert_int_equal(status, 0);
    close(pipes[1]);
    while (read(pipes[0], &number, 8) == 8) {
        assert_true(number > 0 && number < VN_COUNT(seen));
        assert_false(seen[number]);
        seen[number] = true;
    }
    close(pipes[0]);
    for (size_t i = 1; i < VN_COUNT(seen); i++)
        assert_true(seen[i]);
}

static void test_places(void **state)
{
    enum { COUNT = 3000 };
    struct indexed *x = *state;
    struct index_chunk *chunks = vn_alloc(COUNT * sizeof(*chunks));
    struct index_chunk *listed = vn_alloc(COUNT * sizeof(*listed));
    const struct index_pack pack = {.id = 7, .size = 123456, .count = COUNT};
    const struct index_pack other = {.id = 7, .size = 123457, .count = COUNT};
    struct vn_err err = VN_ERR_INIT;
    struct chunk_place place;
    struct chunk_id nobody = {{0xff}};
    struct index_stats stats;
    size_t total = 0;
    size_t n;

    for (unsigned i = 0; i < COUNT; i++) {
        chunks[i].id.bytes[0] = (uint8_t)(i >> 8);
        chunks[i].id.bytes[1] = (uint8_t)i;
        chunks[i].place = (struct chunk_place){.pack_id = 7,
                                               .offset = 64 + 100 * i,
                                               .stored_size = 100,
                                               .kind = CHUNK_PAGE,
                                               .codec = 1};
    }
    assert_ok(index_add(x->index, &pack, 1, chunks, COUNT, &err), &err);
    for (unsigned i = 0; i < COUNT; i += 117) {
        assert_ok(index_find(x->index, &chunks[i].id, 1, &place, &err), &err);
        assert_int_equal(place.pack_id, 7);
        assert_int_equal(place.offset, 64 + 100 * i);
        assert_int_equal(place.stored_size, 100);
        assert_int_equal(place.kind, CHUNK_PAGE);
        assert_int_equal(place.codec, 1);
    }
    assert_ok(index_find(x->index, &nobody, 1, &place, &err), &err);
    assert_int_equal(place.stored_size, 0);
    /* The first place stays. */
    chunks[5].place.offset = 1;
    assert_ok(index_add(x->index, NULL, 0, &chunks[5], 1, &err), &err);
    assert_ok(index_find(x->index, &chunks[5].id, 1, &place, &err), &err);
    assert_int_equal(place.offset, 64 + 500);
    /* A pack's number stands once; to enter it again is to try again. */
    assert_ok(index_add(x->index, &pack, 1, chunks, COUNT, &err), &err);
    assert_int_equal(index_add(x->index, &other, 1, NULL, 0, &err), -1);
    assert_int_equal(err.code, VN_E_CORRUPT);
    do {
        assert_ok(index_list_chunks(x->index,
                                    total ? &listed[total - 1].id : NULL, 700,
                                    listed + total, &n, &err),
                  &err);
        total += n;
    } while (n == 700 && total < COUNT);
    assert_int_equal(total, COUNT);
    assert_ok(index_stats(x->index, &stats, &err), &err);
    assert_int_equal(stats.chunks, COUNT);
    assert_int_equal(stats.packs, 1);
    assert_true(stats.bytes / COUNT < 100);
    free(chunks);
    free(listed);
}

#define WITH_INDEX(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_INDEX(test_one_environment_a_process),
        WITH_INDEX(test_other_store_is_refused),
        WITH_INDEX(test_numbers_are_never_given_twice),
        WITH_INDEX(test_places),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
