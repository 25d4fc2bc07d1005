#include "store/index_internal.h"

/*
 * Do the numbers that stand for the whole agree with the rows?
 *
 *     next_pack   above the number of every pack, else one is given out twice
 *     next_seq    above every snapshot's seq
 *     condemned   how many packs are; were it 0 while there are some, writers
 *                 would refer to what is about to be removed
 *     epoch       no pack was condemned later
 *     series      not below the number of any snapshot of it, nor above what a
 *                 number may be
 *
 *     swept       not above next_pack
 *
 * All of that is so after each transaction. A mark that is too high does no
 * harm, and cannot be seen while it is below what ends all numbers
 * (INDEX_MARK_MAX, or for the epoch 32 bits). A rebuilt index has them set
 * anew.
 */

#include "store/store_internal.h"

#include <stdio.h>

#define ADVICE "'vnstore repair' sets it anew"

struct marks {
    struct index *index;
    MDB_txn *txn;
    uint64_t next_pack, next_seq, condemned, epoch, swept;
    uint64_t condemned_rows;
    char *problem;
};

typedef int row_fn(struct marks *m, const MDB_val *key, const MDB_val *value,
                   struct vn_err *err);

static int get_mark(struct marks *m, const char *name, uint64_t otherwise,
                    uint64_t *ret, struct vn_err *err)
{
    return index_get_u64(m->index, m->txn, TABLE_META, index_key_text(name),
                         otherwise, ret, err);
}

static void too_low(struct marks *m, const char *mark, const char *what,
                    uint64_t number)
{
    snprintf(m->problem, 256,
             "the index's mark '%s' does not cover %s %llx; %s", mark, what,
             (unsigned long long)number, ADVICE);
}

static int look_at_pack(struct marks *m, const MDB_val *key,
                        const MDB_val *value, struct vn_err *err)
{
    struct index_pack pack;

    if (index_pack_decode(m->index, key, value, &pack, err) < 0)
        return -1;
    m->condemned_rows += pack.condemned != 0;
    if (pack.id >= m->next_pack)
        too_low(m, "next_pack", "pack", pack.id);
    if (pack.condemned > m->epoch)
        too_low(m, "epoch", "the condemnation of pack", pack.id);
    return 0;
}

static int look_at_snapshot(struct marks *m, const MDB_val *key,
                            const MDB_val *value, struct vn_err *err)
{
    char series[STORE_NAME_MAX + 1];
    struct index_snapshot row;
    uint64_t highest;
    uint64_t number;

    if (index_snapshot_decode(m->index, key, value, &row, err) < 0)
        return -1;
    if (row.seq >= m->next_seq)
        too_low(m, "next_seq", "snapshot", row.seq);
    if (!manifest_split_name(row.name, series, &number))
        return 0;
    if (index_get_u64(m->index, m->txn, TABLE_SERIES, index_key_text(series), 0,
                      &highest, err) < 0)
        return -1;
    if (highest < number)
        snprintf(m->problem, 256,
                 "the index's mark of the series does not cover snapshot "
                 "'%s'; %s",
                 row.name, ADVICE);
    return 0;
}

static int look_at_series(struct marks *m, const MDB_val *key,
                          const MDB_val *value, struct vn_err *err)
{
    uint64_t number;

    if (index_get_u64(m->index, m->txn, TABLE_SERIES, *key, 0, &number, err) <
        0)
        return -1;
    (void)value; /* of that size */
    if (number > MANIFEST_NUMBER_MAX)
        snprintf(m->problem, 256,
                 "the index's mark of the series '%.*s' is %llu; %s",
                 (int)key->mv_size, (const char *)key->mv_data,
                 (unsigned long long)number, ADVICE);
    return 0;
}

static int each_row(struct marks *m, enum index_table table, row_fn *fn,
                    struct vn_err *err)
{
    vn_auto(index_cursor) MDB_cursor *cursor = NULL;
    MDB_val key;
    MDB_val value;
    int rc = mdb_cursor_open(m->txn, m->index->tables[table], &cursor);

    if (rc == 0)
        rc = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
    for (; rc == 0; rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT))
        if (fn(m, &key, &value, err) < 0)
            return -1;
    return rc == MDB_NOTFOUND ? 0
                              : index_fail(m->index, rc, "look at marks", err);
}

int index_check_marks(struct index *index, char ret_problem[256],
                      struct vn_err *err)
{
    struct marks m = {.index = index, .problem = ret_problem};
    vn_auto(index_txn) MDB_txn *txn = NULL;

    ret_problem[0] = 0;
    if (index_begin(index, MDB_RDONLY, &txn, err) < 0)
        return -1;
    m.txn = txn;
    if (get_mark(&m, "next_pack", 1, &m.next_pack, err) < 0 ||
        get_mark(&m, "next_seq", 1, &m.next_seq, err) < 0 ||
        get_mark(&m, "condemned", 0, &m.condemned, err) < 0 ||
        get_mark(&m, "epoch", 0, &m.epoch, err) < 0 ||
        get_mark(&m, "swept", 0, &m.swept, err) < 0 ||
        each_row(&m, TABLE_PACKS, look_at_pack, err) < 0 ||
        each_row(&m, TABLE_SNAPSHOTS, look_at_snapshot, err) < 0 ||
        each_row(&m, TABLE_SERIES, look_at_series, err) < 0)
        return -1;
    if (m.next_pack > INDEX_MARK_MAX || m.next_seq > INDEX_MARK_MAX ||
        m.epoch >= UINT32_MAX || m.swept > m.next_pack)
        snprintf(ret_problem, 256, "a mark of the index cannot be so high; %s",
                 ADVICE);
    if (m.condemned != m.condemned_rows)
        snprintf(ret_problem, 256,
                 "the index has %llu condemned packs and counts %llu; %s",
                 (unsigned long long)m.condemned_rows,
                 (unsigned long long)m.condemned, ADVICE);
    return 0;
}
