#ifndef TESTS_UNIT_STORE_INDEX_FIXTURE_H
#define TESTS_UNIT_STORE_INDEX_FIXTURE_H

/*
 * An index alone, for the tests of store/index*.c: chunks by number, packs of
 * PACK_CHUNKS of them, and what all rows together are.
 */

#include "unit/store_fixture.h"

#include "store/index.h"

#include <signal.h>

#define PACK_CHUNKS 2000u

static const uint8_t store_id[16] = "an index's store";

struct indexed {
    char dir[256];
    struct index *index;
};

UNUSED static int index_setup(void **state)
{
    struct indexed *x = vn_alloc(sizeof(*x));
    struct vn_err err = VN_ERR_INIT;

    fault_set(NULL);
    snprintf(x->dir, sizeof(x->dir), "/tmp/vnstore-test-XXXXXX");
    if (!mkdtemp(x->dir) || index_init(x->dir, store_id, &err) < 0)
        return -1;
    x->index = index_open(x->dir, store_id, &err);
    *state = x;
    return x->index ? 0 : -1;
}

UNUSED static int index_teardown(void **state)
{
    struct indexed *x = *state;

    fault_set(NULL);
    index_close(x->index);
    nftw(x->dir, fixture_remove, 16, FTW_DEPTH | FTW_PHYS);
    free(x);
    return 0;
}

UNUSED static void index_reopen(struct indexed *x)
{
    struct vn_err err = VN_ERR_INIT;

    index_close(x->index);
    x->index = index_open(x->dir, store_id, &err);
    assert_made(x->index, &err);
}

UNUSED static struct chunk_id chunk_id_of(uint64_t number)
{
    struct chunk_id id;

    fill_random(id.bytes, sizeof(id.bytes), number);
    return id;
}

static int by_chunk_id(const void *a, const void *b)
{
    return chunk_id_compare(&((const struct index_chunk *)a)->id,
                            &((const struct index_chunk *)b)->id);
}

/* Chunks first to first + count - 1, by id; their packs from 1 + first /
 * PACK_CHUNKS on. Caller frees. */
UNUSED static struct index_chunk *make_chunks(uint64_t first, size_t count)
{
    struct index_chunk *chunks = vn_alloc(count * sizeof(*chunks));

    for (size_t i = 0; i < count; i++)
        chunks[i] = (struct index_chunk){
            .id = chunk_id_of(first + i),
            .place = {.pack_id = 1 + (first + i) / PACK_CHUNKS,
                      .offset = (uint32_t)(64 + 100 * i),
                      .stored_size = 100,
                      .kind = CHUNK_PAGE,
                      .codec = 1}};
    qsort(chunks, count, sizeof(*chunks), by_chunk_id);
    return chunks;
}

/* Caller frees. */
UNUSED static struct index_pack *make_packs(uint64_t first, size_t count,
                                            size_t *ret_count)
{
    size_t n = (count + PACK_CHUNKS - 1) / PACK_CHUNKS;
    struct index_pack *packs = vn_alloc(n * sizeof(*packs));

    for (size_t i = 0; i < n; i++)
        packs[i] = (struct index_pack){.id = 1 + first / PACK_CHUNKS + i,
                                       .size = 1 << 20,
                                       .count = PACK_CHUNKS};
    *ret_count = n;
    return packs;
}

UNUSED static int add_chunks(struct index *index, uint64_t first, size_t count,
                             struct vn_err *err)
{
    vn_auto(free) struct index_chunk *chunks = make_chunks(first, count);
    vn_auto(free) struct index_pack *packs = NULL;
    size_t n;

    packs = make_packs(first, count, &n);
    return index_add(index, packs, n, chunks, count, err);
}

/* Number of the rows, and a sum over ids and places, whatever the order. */
struct rows {
    uint64_t count;
    uint64_t sum;
};

static void rows_add(struct rows *rows, const struct index_chunk *chunk)
{
    uint64_t words[2];

    memcpy(words, chunk->id.bytes, 16);
    rows->count++;
    rows->sum += (words[0] ^ words[1] * 31) *
                 (chunk->place.pack_id * 1000003 + chunk->place.offset * 7 +
                  chunk->place.stored_size);
}

UNUSED static struct rows read_rows(struct index *index)
{
    enum { BATCH = 5000 };
    struct index_chunk *chunks = vn_alloc(BATCH * sizeof(*chunks));
    struct vn_err err = VN_ERR_INIT;
    struct rows rows = {0};
    struct chunk_id last;
    size_t count;

    do {
        assert_ok(index_list_chunks(index, rows.count ? &last : NULL, BATCH,
                                    chunks, &count, &err),
                  &err);
        for (size_t i = 0; i < count; i++) {
            assert_true((rows.count == 0 && i == 0) ||
                        chunk_id_compare(i ? &chunks[i - 1].id : &last,
                                         &chunks[i].id) < 0);
            rows_add(&rows, &chunks[i]);
        }
        if (count)
            last = chunks[count - 1].id;
    } while (count == BATCH);
    free(chunks);
    return rows;
}

UNUSED static void assert_rows(struct index *index, const struct rows *wanted)
{
    struct rows rows = read_rows(index);

    assert_int_equal(rows.count, wanted->count);
    assert_int_equal(rows.sum, wanted->sum);
}

/* Delete every second pack of 1 to `last`, with its chunks. */
UNUSED static void delete_half(struct index *index, uint64_t last)
{
    enum { BATCH = 5000 };
    struct index_chunk *chunks = vn_alloc(BATCH * sizeof(*chunks));
    uint64_t *ids = vn_alloc((last + 1) * sizeof(*ids));
    struct vn_err err = VN_ERR_INIT;
    struct index_state state;
    struct chunk_id after;
    bool begun = false;
    size_t deleted;
    size_t packs = 0;
    size_t count;

    for (uint64_t id = 1; id <= last; id += 2)
        ids[packs++] = id;
    assert_ok(index_read_state(index, &state, NULL, &err), &err);
    assert_ok(index_condemn(index, ids, packs, state.next_seq, &err), &err);
    do {
        assert_ok(index_list_chunks(index, begun ? &after : NULL, BATCH, chunks,
                                    &count, &err),
                  &err);
        if (count)
            after = chunks[count - 1].id;
        begun = true;
        /* Those that are not in a condemned pack stay. */
        assert_ok(index_sweep_chunks(index, chunks, count, &deleted, &err),
                  &err);
    } while (count == BATCH);
    assert_ok(index_sweep_packs(index, ids, packs, ids, &deleted, &err), &err);
    assert_int_equal(deleted, packs);
    free(chunks);
    free(ids);
}

/* Run fn in a child; its exit code, or minus the signal that ended it. */
UNUSED static int in_child(int (*fn)(const char *dir), const char *dir)
{
    int status;
    pid_t child = fork();

    if (child == 0)
        _exit(fn(dir));
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

#define WITH_INDEX(test)                                                       \
    cmocka_unit_test_setup_teardown(test, index_setup, index_teardown)

#endif
