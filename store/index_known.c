#include "store/index_internal.h"

/*
 * The filter beside the index: who asks it, who keeps it, who makes it anew.
 *
 *     filter         the one in use
 *     filter.next    one that is being made
 *
 * Only a writer's "is it stored already" asks (index_find_known()): what the
 * filter has not costs no look into LMDB. Were a chunk missing in the filter,
 * it would be stored a second time; nothing else looks here, so nothing else
 * can go wrong.
 *
 * Still nothing is missing as a rule. Who enters chunks sets their bits inside
 * his write transaction, before it is committed: who sees the row sees the
 * bits. A new filter is made beside the old one:
 *
 *     write lock     filter.next is made, empty
 *                    the table is read and its ids set; who enters chunks
 *                    meanwhile finds filter.next and sets bits in both
 *     write lock     synced, the old one marked as replaced, renamed
 *
 * LMDB's write lock divides all enterings into those before filter.next was
 * there, whose rows the reading finds, and those after. Who has the old one
 * mapped sees the mark and opens the new one. A builder that dies leaves a
 * file that the next one removes; a lock on it tells whether he lives.
 *
 * After a power loss bits may be missing, so a filter of a boot that is over
 * counts only if it was closed in order (index_filter.c). Without one writers
 * ask LMDB, until gc or the next entering makes a new one; that takes 0.1 s a
 * million chunks. It has room for half as many again as there are, then it is
 * made anew: over time two to three readings of the table.
 */

#include "common/auto.h"
#include "common/fault.h"
#include "common/io.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#define FILTER_MIN  100000u /* chunks; LMDB is fast with less */
#define SCAN_BATCH  8192u
#define STALE_SHARE 8u /* made anew when 1/8 of its ids are gone */

static char *path_of(const struct index *index, const char *name)
{
    return vn_format("%s/%s", index->dir, name);
}

/* ---- the filter in use ------------------------------------------------ */

/* The caller has the lock. */
static struct index_filter *current(struct index *index)
{
    struct index_known *known = &index->known;

    if (known->filter && index_filter_replaced(known->filter)) {
        index_filter_release(known->filter);
        known->filter = NULL;
    }
    if (!known->filter) {
        vn_auto(free) char *path = path_of(index, "filter");

        known->filter = index_filter_open(path, index->store_id, false);
    }
    return known->filter;
}

/* A reference to the filter, or NULL. */
static struct index_filter *take_current(struct index *index)
{
    struct index_filter *filter;

    vn_lock_scope(&index->known.lock);
    filter = current(index);
    if (filter)
        atomic_fetch_add(&filter->users, 1);
    return filter;
}

int index_find_known(struct index *index, const struct chunk_id *ids,
                     size_t count, struct chunk_place *ret, struct vn_err *err)
{
    struct index_filter *filter = take_current(index);
    int result;

    result = index_find_in(index, filter, ids, count, ret, err);
    index_filter_release(filter);
    return result;
}

/* The filter that somebody makes, if he does; the caller has the lock. */
static struct index_filter *next(struct index *index)
{
    vn_auto(free) char *path = path_of(index, "filter.next");
    struct index_known *known = &index->known;
    struct stat st;

    if (stat(path, &st) < 0)
        st = (struct stat){0};
    if (known->next &&
        (known->next->ino != st.st_ino || known->next->dev != st.st_dev)) {
        index_filter_release(known->next);
        known->next = NULL;
    }
    if (!known->next && st.st_ino)
        known->next = index_filter_open(path, index->store_id, true);
    return known->next;
}

void index_known_add(struct index *index, const struct index_chunk *chunks,
                     size_t count)
{
    struct index_filter *filters[2];

    vn_lock_scope(&index->known.lock);
    filters[0] = current(index);
    filters[1] = next(index);
    for (int f = 0; f < 2; f++) {
        if (!filters[f])
            continue;
        index_filter_dirty(filters[f]);
        index->known.added = true;
        for (size_t i = 0; i < count; i++)
            index_filter_add(filters[f], &chunks[i].id);
    }
}

void index_known_close(struct index *index)
{
    struct index_known *known = &index->known;
    vn_auto(index_txn) MDB_txn *lock = NULL;
    struct vn_err ignored = VN_ERR_INIT;

    /* In a write transaction, so that nobody sets bits meanwhile; and before
     * the lock, as everywhere. */
    if (known->added && index_begin(index, 0, &lock, &ignored) < 0)
        known->added = false;
    vn_lock_scope(&known->lock);
    if (known->added && current(index) &&
        index_filter_clean(known->filter, &ignored) == 0)
        known->added = false;
    index_filter_release(known->filter);
    index_filter_release(known->next);
    known->filter = NULL;
    known->next = NULL;
}

/* ---- making one ------------------------------------------------------- */

static int count_chunks(struct index *index, uint64_t *ret, struct vn_err *err)
{
    vn_auto(index_txn) MDB_txn *txn = NULL;
    MDB_stat st;
    int rc;

    if (index_begin(index, MDB_RDONLY, &txn, err) < 0)
        return -1;
    rc = mdb_stat(txn, index->tables[TABLE_CHUNKS], &st);
    if (rc)
        return index_fail(index, rc, "statistics", err);
    *ret = st.ms_entries;
    return 0;
}

static struct index_filter *begin_build(struct index *index, uint64_t count,
                                        struct vn_err *err)
{
    vn_auto(free) char *path = path_of(index, "filter.next");
    uint64_t capacity = count < FILTER_MIN ? FILTER_MIN : count + count / 2;
    vn_auto(index_txn) MDB_txn *lock = NULL;

    if (index_begin(index, 0, &lock, err) < 0)
        return NULL;
    return index_filter_create(path, index->store_id, capacity, err);
}

static int scan(struct index *index, struct index_filter *filter,
                struct vn_err *err)
{
    vn_auto(free) struct index_chunk *rows =
        vn_alloc(SCAN_BATCH * sizeof(*rows));
    struct chunk_id last = {{0}};
    bool begun = false;
    size_t count;

    do {
        if (index_list_chunks(index, begun ? &last : NULL, SCAN_BATCH, rows,
                              &count, err) < 0)
            return -1;
        for (size_t i = 0; i < count; i++)
            index_filter_add(filter, &rows[i].id);
        if (count > 0)
            last = rows[count - 1].id;
        begun = true;
        if (fault_hit("store.index.filter"))
            return vn_fail(err, EIO, "index '%s': filter", index->dir);
    } while (count == SCAN_BATCH);
    return 0;
}

/* Old and new change places; nobody enters chunks meanwhile. */
static int finish_build(struct index *index, struct index_filter *filter,
                        struct vn_err *err)
{
    vn_auto(free) char *path = path_of(index, "filter");
    vn_auto(free) char *next_path = path_of(index, "filter.next");
    vn_auto(index_txn) MDB_txn *lock = NULL;
    struct index_filter *old;

    if (index_begin(index, 0, &lock, err) < 0 ||
        index_filter_clean(filter, err) < 0)
        return -1;
    /* Before the new one is there: who dies between leaves none in use. */
    old = index_filter_open(path, index->store_id, true);
    if (old)
        index_filter_set_replaced(old);
    index_filter_release(old);
    if (rename(next_path, path) < 0)
        return vn_fail(err, errno, "rename '%s'", next_path);
    return io_sync_dir(index->dir, err);
}

static int build(struct index *index, uint64_t count, struct vn_err *err)
{
    struct index_filter *filter = begin_build(index, count, err);
    int result;

    if (!filter)
        return -1;
    result = scan(index, filter, err);
    if (result == 0)
        result = finish_build(index, filter, err);
    index_filter_release(filter);
    return result;
}

void index_known_refresh(struct index *index, uint64_t removed)
{
    struct index_filter *filter = take_current(index);
    struct vn_err why = VN_ERR_INIT;
    uint64_t count = 0;

    if (count_chunks(index, &count, &why) == 0 &&
        (filter || count >= FILTER_MIN) && !index->known.hopeless &&
        (!filter || count > filter->capacity ||
         removed > filter->capacity / STALE_SHARE) &&
        build(index, count, &why) < 0)
        index->known.hopeless = why.code != EBUSY;
    index_filter_release(filter);
}
