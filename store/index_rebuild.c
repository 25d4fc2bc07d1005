#include "store/index_internal.h"

/*
 * What rebuilding an index needs of LMDB: what marks the old one had, and
 * entering snapshots and marks into the new one.
 */

#include <string.h>

/* ---- marks of the old index ------------------------------------------- */

int index_list_series(struct index *index, index_series_fn *fn, void *context,
                      struct vn_err *err)
{
    vn_auto(index_txn) MDB_txn *txn = NULL;
    vn_auto(index_cursor) MDB_cursor *cursor = NULL;
    MDB_val key;
    MDB_val value;
    int rc;

    if (index_begin(index, MDB_RDONLY, &txn, err) < 0)
        return -1;
    rc = mdb_cursor_open(txn, index->tables[TABLE_SERIES], &cursor);
    if (rc == 0)
        rc = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
    for (; rc == 0; rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
        char series[STORE_NAME_MAX + 1] = {0};
        uint64_t number;

        if (key.mv_size > STORE_NAME_MAX || value.mv_size != sizeof(number))
            return vn_fail(err, VN_E_CORRUPT,
                           "index '%s': a series' row of %zu and %zu bytes",
                           index->dir, key.mv_size, value.mv_size);
        memcpy(series, key.mv_data, key.mv_size);
        memcpy(&number, value.mv_data, sizeof(number));
        fn(context, series, le64toh(number));
    }
    return rc == MDB_NOTFOUND ? 0 : index_fail(index, rc, "list series", err);
}

/* ---- filling the new one ---------------------------------------------- */

static int fill_snapshots(struct index *index, MDB_txn *txn,
                          const struct index_fill *fill, struct vn_err *err)
{
    for (size_t i = 0; i < fill->snapshot_count; i++)
        if (index_put_snapshot(index, txn, &fill->snapshots[i], err) < 0 ||
            index_put_manifest(index, txn, &fill->manifests[i], err) < 0)
            return -1;
    for (size_t i = 0; i < fill->series_count; i++)
        if (index_raise_series(index, txn, fill->series[i].name,
                               fill->series[i].number, err) < 0)
            return -1;
    for (size_t i = 0; i < fill->lost_count; i++)
        if (index_put_lost(index, txn, &fill->lost[i], 0, err) < 0)
            return -1;
    return 0;
}

static int fill_marks(struct index *index, MDB_txn *txn,
                      const struct index_state *state, struct vn_err *err)
{
    const struct {
        const char *key;
        uint64_t value;
    } marks[] = {
        {"next_pack", state->next_pack},
        {"next_seq", state->next_seq},
        {"epoch", state->epoch},
        {"swept", state->swept},
    };

    for (size_t i = 0; i < VN_COUNT(marks); i++)
        if (index_put_u64(index, txn, TABLE_META, index_key_text(marks[i].key),
                          marks[i].value, err) < 0)
            return -1;
    return 0;
}

int index_fill(struct index *index, const struct index_fill *fill,
               struct vn_err *err)
{
    vn_auto(index_txn) MDB_txn *txn = NULL;

    if (index_begin(index, 0, &txn, err) < 0 ||
        fill_snapshots(index, txn, fill, err) < 0 ||
        fill_marks(index, txn, &fill->state, err) < 0)
        return -1;
    return index_commit(index, &txn, err);
}
