#include "store/index_internal.h"

/*
 * Packing the table of chunks densely again.
 *
 * A tree that grew in random order is 50 to 100 % full, 69 % on average; one
 * that lost half of its rows is half of that, and LMDB joins two pages only
 * below 25 %. So the rows are taken out, range by range in the order of ids,
 * and put back.
 *
 *     transaction    read a batch of rows from where the last one ended,
 *                    delete them, put FIRST_PERCENT of them back in rising
 *                    order, evenly spread, then the others
 *
 * Why in two passes. Rows that come in rising order in front of others split a
 * full page in two halves and go on in the right one: pages stay half full.
 * (Only behind the last row of a page does LMDB move nothing but that row. But
 * a page with lower and higher rows than the range is what joining leaves, as
 * a rule.) A page takes 97 rows and keeps 49 of the first pass when it splits;
 * between these the second pass puts 49 * 44 / 56 more: 87 or 88 rows, 90 %,
 * and nothing splits. Where pages came out full in the first pass, 96 rows, the
 * second splits each in two of about 86. The last tenth is there for what comes
 * next: full pages would all split at the first chunks that are entered.
 *
 * Each transaction leaves the table with the same rows, so readers, writers
 * and other collectors never see a difference, and to be killed at any moment
 * costs what was not committed. Nothing is remembered: who starts again begins
 * at the first row; ranges that are dense are written once more.
 *
 * The batch is bounded for a reason: the pages that a transaction frees are one
 * record of LMDB's free list, and a record of more than a page needs
 * neighbouring free pages, which a scattered list does not have; looking for
 * them LMDB takes in much of the list, and writes it out again. 509 pages fit
 * in a page; a batch has the rows of BATCH_LEAVES. Between two transactions
 * there is a pause, since the lock is not fair.
 *
 * A table at its usual fullness is left alone (COMPACT_OVER).
 */

#include "common/auto.h"
#include "common/fault.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BATCH_LEAVES  400u
#define BATCH_MAX     65536u
#define FIRST_PERCENT 56u
/* Bytes a chunk from which it is done; 61 at 69 %, 48 afterwards. */
#define COMPACT_OVER 64u
#define COMPACT_MIN  10000u /* chunks; less is not worth it */
#define PAUSE_NS     100000

struct row {
    struct chunk_id id;
    uint8_t place[INDEX_PLACE_SIZE];
};

/* The next rows with an id > *after, or from the first. */
static int read_rows(struct index *index, MDB_cursor *cursor,
                     const struct chunk_id *after, struct row *rows, size_t max,
                     size_t *ret_count, struct vn_err *err)
{
    size_t count = 0;
    MDB_val key = {0};
    MDB_val value;
    int rc;

    if (after)
        key = index_key_id(after);
    rc =
        mdb_cursor_get(cursor, &key, &value, after ? MDB_SET_RANGE : MDB_FIRST);
    if (rc == 0 && after && key.mv_size == sizeof(*after) &&
        memcmp(key.mv_data, after, sizeof(*after)) == 0)
        rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    while (rc == 0 && count < max) {
        if (key.mv_size != STORE_ID_SIZE || value.mv_size != INDEX_PLACE_SIZE)
            return vn_fail(err, VN_E_CORRUPT,
                           "index '%s': a chunk's row of %zu and %zu bytes",
                           index->dir, key.mv_size, value.mv_size);
        memcpy(&rows[count].id, key.mv_data, STORE_ID_SIZE);
        memcpy(rows[count].place, value.mv_data, INDEX_PLACE_SIZE);
        count++;
        rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    if (rc && rc != MDB_NOTFOUND)
        return index_fail(index, rc, "list chunks", err);
    *ret_count = count;
    return 0;
}

static int delete_rows(MDB_cursor *cursor, const struct row *rows, size_t count)
{
    int rc = 0;

    for (size_t i = 0; i < count && rc == 0; i++) {
        MDB_val value;

        rc = index_seek_near(cursor, &rows[i].id, &value);
        if (rc == 0)
            rc = mdb_cursor_del(cursor, 0);
    }
    return rc;
}

static bool is_first(size_t i)
{
    return (i + 1) * FIRST_PERCENT / 100 > i * FIRST_PERCENT / 100;
}

/* The rows of the first pass, or the others. */
static int put_rows(MDB_cursor *cursor, struct row *rows, size_t count,
                    bool first)
{
    int rc = 0;

    for (size_t i = 0; i < count && rc == 0; i++) {
        MDB_val key = index_key_id(&rows[i].id);
        MDB_val value = {.mv_size = INDEX_PLACE_SIZE, .mv_data = rows[i].place};

        if (is_first(i) == first)
            rc = mdb_cursor_put(cursor, &key, &value, MDB_NOOVERWRITE);
    }
    return rc;
}

static int rewrite_rows(struct index *index, MDB_cursor *cursor,
                        struct row *rows, size_t count, struct vn_err *err)
{
    int rc = delete_rows(cursor, rows, count);

    if (rc == 0)
        rc = put_rows(cursor, rows, count, true);
    if (rc == 0)
        rc = put_rows(cursor, rows, count, false);
    return rc ? index_fail(index, rc, "compact chunks", err) : 0;
}

/* One transaction. *after is moved on; *ret_count rows were taken. */
static int compact_range(struct index *index, struct row *rows, size_t max,
                         struct chunk_id *after, bool first, size_t *ret_count,
                         struct vn_err *err)
{
    vn_auto(index_txn) MDB_txn *txn = NULL;
    vn_auto(index_cursor) MDB_cursor *cursor = NULL;
    size_t count = 0;
    int rc;

    if (fault_hit("store.index.compact"))
        return vn_fail(err, EIO, "index '%s': compact", index->dir);
    if (index_begin(index, 0, &txn, err) < 0)
        return -1;
    rc = mdb_cursor_open(txn, index->tables[TABLE_CHUNKS], &cursor);
    if (rc)
        return index_fail(index, rc, "compact chunks", err);
    if (read_rows(index, cursor, first ? NULL : after, rows, max, &count, err) <
            0 ||
        rewrite_rows(index, cursor, rows, count, err) < 0)
        return -1;
    mdb_cursor_close(vn_steal(&cursor));
    if (count > 0 && index_commit(index, &txn, err) < 0)
        return -1;
    if (count > 0)
        *after = rows[count - 1].id;
    *ret_count = count;
    return 0;
}

/* The batch; 0: the table is not sparse. */
static int choose_batch(struct index *index, size_t *ret, struct vn_err *err)
{
    vn_auto(index_txn) MDB_txn *txn = NULL;
    uint64_t pages, batch;
    MDB_stat st;
    int rc;

    if (index_begin(index, MDB_RDONLY, &txn, err) < 0)
        return -1;
    rc = mdb_stat(txn, index->tables[TABLE_CHUNKS], &st);
    if (rc)
        return index_fail(index, rc, "statistics", err);
    pages = st.ms_branch_pages + st.ms_leaf_pages;
    if (st.ms_entries < COMPACT_MIN ||
        pages * st.ms_psize / st.ms_entries < COMPACT_OVER)
        return 0;
    batch = st.ms_entries * BATCH_LEAVES / st.ms_leaf_pages;
    *ret = batch < BATCH_MAX ? (size_t)batch : BATCH_MAX;
    return 0;
}

int index_compact(struct index *index, uint64_t *ret_count, struct vn_err *err)
{
    const struct timespec pause = {.tv_nsec = PAUSE_NS};
    vn_auto(free) struct row *rows = NULL;
    struct chunk_id after = {{0}};
    uint64_t total = 0;
    size_t count = 0;
    size_t batch = 0;

    if (choose_batch(index, &batch, err) < 0)
        return -1;
    *ret_count = 0;
    if (batch == 0)
        return 0;
    rows = vn_alloc(batch * sizeof(*rows));
    do {
        if (compact_range(index, rows, batch, &after, total == 0, &count, err) <
            0)
            return -1;
        total += count;
        nanosleep(&pause, NULL);
    } while (count == batch);
    *ret_count = total;
    return 0;
}
