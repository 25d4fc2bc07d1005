#include "store/index_internal.h"

/*
 * Snapshots and series in the index.
 *
 * snapshots  key: u64 seq, big-endian, so that the table is in the order of
 *            commits. value: manifest's chunk id (16), u64 bytes_logical, name.
 * names, ids key: name, or the manifest's chunk id. value: u64 seq.
 * series     key: series. value: the highest number any snapshot of it had;
 *            deleting does not touch it.
 * meta       "next_seq".
 *
 * Invariant: the three tables of snapshots have the same rows; all are
 * written in the same transactions. index_check_snapshots() compares them.
 */

#include "common/auto.h"
#include "common/fault.h"
#include "common/io.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <string.h>

#define ROW_HEAD      24u
#define PREFIX_MIN    8u /* hex digits */
#define ID_HEX_DIGITS (2 * STORE_ID_SIZE)

int index_snapshot_decode(const struct index *index, const MDB_val *key,
                          const MDB_val *value, struct index_snapshot *ret,
                          struct vn_err *err)
{
    const uint8_t *row = value->mv_data;
    size_t name_size = value->mv_size - ROW_HEAD;
    uint64_t number;

    if (key->mv_size != 8 || value->mv_size <= ROW_HEAD ||
        name_size > STORE_NAME_MAX || memchr(row + ROW_HEAD, 0, name_size))
        return vn_fail(err, VN_E_CORRUPT,
                       "index '%s': a snapshot's row of %zu bytes", index->dir,
                       value->mv_size);
    memset(ret, 0, sizeof(*ret));
    memcpy(&number, key->mv_data, 8);
    ret->seq = be64toh(number);
    if (ret->seq == UINT64_MAX) /* lists go on at seq + 1 */
        return vn_fail(err, VN_E_CORRUPT, "index '%s': a snapshot's seq",
                       index->dir);
    memcpy(&ret->id, row, 16);
    memcpy(&number, row + 16, 8);
    ret->bytes_logical = le64toh(number);
    memcpy(ret->name, row + ROW_HEAD, name_size);
    return 0;
}

static int put_row(struct index *index, MDB_txn *txn,
                   const struct index_snapshot *snapshot, struct vn_err *err)
{
    uint8_t row[ROW_HEAD + STORE_NAME_MAX];
    uint64_t bytes = htole64(snapshot->bytes_logical);
    size_t name_size = strlen(snapshot->name);
    MDB_val value = {.mv_size = ROW_HEAD + name_size, .mv_data = row};
    uint64_t space;
    MDB_val key = index_key_u64(snapshot->seq, &space);
    int rc;

    memcpy(row, &snapshot->id, 16);
    memcpy(row + 16, &bytes, 8);
    memcpy(row + ROW_HEAD, snapshot->name, name_size);
    rc = mdb_put(txn, index->tables[TABLE_SNAPSHOTS], &key, &value,
                 MDB_NOOVERWRITE);
    if (rc)
        return index_fail(index, rc, "enter a snapshot", err);
    return 0;
}

static int check_free(struct index *index, MDB_txn *txn,
                      const struct index_snapshot *snapshot, struct vn_err *err)
{
    uint64_t seq;

    if (index_get_u64(index, txn, TABLE_NAMES, index_key_text(snapshot->name),
                      0, &seq, err) < 0)
        return -1;
    if (seq)
        return vn_fail(err, VN_E_EXISTS, "there is a snapshot '%s' already",
                       snapshot->name);
    return 0;
}

int index_raise_series(struct index *index, MDB_txn *txn, const char *series,
                       uint64_t number, struct vn_err *err)
{
    uint64_t highest;

    if (index_get_u64(index, txn, TABLE_SERIES, index_key_text(series), 0,
                      &highest, err) < 0)
        return -1;
    if (highest >= number)
        return 0;
    return index_put_u64(index, txn, TABLE_SERIES, index_key_text(series),
                         number, err);
}

int index_put_manifest(struct index *index, MDB_txn *txn,
                       const struct index_chunk *chunk, struct vn_err *err)
{
    uint8_t place[INDEX_PLACE_SIZE];
    MDB_val key = index_key_id(&chunk->id);
    MDB_val value = {.mv_size = sizeof(place), .mv_data = place};
    int rc;

    index_known_add(index, chunk, 1);
    index_place_encode(&chunk->place, place);
    rc = mdb_put(txn, index->tables[TABLE_CHUNKS], &key, &value, 0);
    if (rc)
        return index_fail(index, rc, "enter a manifest", err);
    return index_heal_in(index, txn, &chunk->id, err);
}

static int check_epoch(struct index *index, MDB_txn *txn, uint64_t epoch,
                       struct vn_err *err)
{
    uint64_t now;

    if (index_get_u64(index, txn, TABLE_META, index_key_text("epoch"), 0, &now,
                      err) < 0)
        return -1;
    if (now != epoch)
        return vn_fail(err, VN_E_STATE,
                       "index '%s': packs were condemned meanwhile",
                       index->dir);
    return 0;
}

/* How a snapshot is found; `flags` for mdb_put(). */
static int put_names(struct index *index, MDB_txn *txn,
                     const struct index_snapshot *snapshot, unsigned flags,
                     struct vn_err *err)
{
    uint64_t seq = htole64(snapshot->seq);
    MDB_val name = index_key_text(snapshot->name);
    MDB_val id = index_key_id(&snapshot->id);
    MDB_val value = {.mv_size = sizeof(seq), .mv_data = &seq};
    int rc = mdb_put(txn, index->tables[TABLE_NAMES], &name, &value, flags);

    value = (MDB_val){.mv_size = sizeof(seq), .mv_data = &seq};
    if (rc == 0)
        rc = mdb_put(txn, index->tables[TABLE_IDS], &id, &value, flags);
    return rc ? index_fail(index, rc, "enter a snapshot's name", err) : 0;
}

int index_put_snapshot(struct index *index, MDB_txn *txn,
                       const struct index_snapshot *snapshot,
                       struct vn_err *err)
{
    return put_row(index, txn, snapshot, err) < 0
               ? -1
               : put_names(index, txn, snapshot, MDB_NOOVERWRITE, err);
}

int index_publish(struct index *index, struct index_snapshot *snapshot,
                  const char *series, uint64_t number, uint64_t epoch,
                  const struct index_pack *pack,
                  const struct index_chunk *chunk, struct vn_err *err)
{
    vn_auto(index_txn) MDB_txn *txn = NULL;
    MDB_val mark = index_key_text("next_seq");
    uint64_t seq;

    assert(snapshot->name[0]);
    if (fault_hit("store.index.publish"))
        return vn_fail(err, EIO, "index '%s': publish", index->dir);
    if (index_begin(index, 0, &txn, err) < 0 ||
        check_free(index, txn, snapshot, err) < 0 ||
        check_epoch(index, txn, epoch, err) < 0 ||
        index_get_u64(index, txn, TABLE_META, mark, 1, &seq, err) < 0 ||
        index_put_u64(index, txn, TABLE_META, mark, seq + 1, err) < 0)
        return -1;
    snapshot->seq = seq;
    if (index_put_pack(index, txn, pack, MDB_NOOVERWRITE, err) < 0 ||
        index_put_manifest(index, txn, chunk, err) < 0 ||
        put_row(index, txn, snapshot, err) < 0 ||
        put_names(index, txn, snapshot, 0, err) < 0)
        return -1;
    if (series && index_raise_series(index, txn, series, number, err) < 0)
        return -1;
    return index_commit(index, &txn, err);
}

static int get_row(struct index *index, MDB_txn *txn, uint64_t seq,
                   struct index_snapshot *ret, struct vn_err *err)
{
    uint64_t space;
    MDB_val key = index_key_u64(seq, &space);
    MDB_val value;
    int rc = mdb_get(txn, index->tables[TABLE_SNAPSHOTS], &key, &value);

    if (rc == MDB_NOTFOUND)
        return vn_fail(err, VN_E_CORRUPT,
                       "index '%s': snapshot %llu is in one table only",
                       index->dir, (unsigned long long)seq);
    if (rc)
        return index_fail(index, rc, "read a snapshot", err);
    return index_snapshot_decode(index, &key, &value, ret, err);
}

/* Is the text a prefix of an id? Then its value, the rest being zeros. */
static bool parse_prefix(const char *text, struct chunk_id *ret)
{
    char hex[ID_HEX_DIGITS + 1];
    struct vn_err ignored = VN_ERR_INIT;
    size_t len = strlen(text);

    if (len < PREFIX_MIN || len > ID_HEX_DIGITS)
        return false;
    memset(hex, '0', ID_HEX_DIGITS);
    hex[ID_HEX_DIGITS] = 0;
    memcpy(hex, text, len);
    return io_unhex(hex, ret->bytes, sizeof(ret->bytes), &ignored) == 0;
}

/* The seq for a prefix of an id; 0: none. */
static int find_prefix(struct index *index, MDB_txn *txn, const char *text,
                       uint64_t *ret, struct vn_err *err)
{
    vn_auto(index_cursor) MDB_cursor *cursor = NULL;
    struct chunk_id first;
    uint64_t seq = 0;
    MDB_val key;
    MDB_val value;
    int rc;

    *ret = 0;
    if (!parse_prefix(text, &first))
        return 0;
    key = index_key_id(&first);
    rc = mdb_cursor_open(txn, index->tables[TABLE_IDS], &cursor);
    if (rc == 0)
        rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    for (; rc == 0; rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
        char hex[ID_HEX_DIGITS + 1];

        if (key.mv_size != STORE_ID_SIZE || value.mv_size != sizeof(seq))
            return vn_fail(err, VN_E_CORRUPT,
                           "index '%s': a snapshot's id of %zu bytes",
                           index->dir, key.mv_size);
        io_hex(key.mv_data, STORE_ID_SIZE, hex);
        if (strncasecmp(hex, text, strlen(text)) != 0)
            break;
        if (seq)
            return vn_fail(err, VN_E_NOT_FOUND,
                           "'%s' begins the ids of several snapshots", text);
        memcpy(&seq, value.mv_data, sizeof(seq));
        seq = le64toh(seq);
    }
    if (rc && rc != MDB_NOTFOUND)
        return index_fail(index, rc, "look up an id", err);
    *ret = seq;
    return 0;
}

static int find_in(struct index *index, MDB_txn *txn, const char *text,
                   struct index_snapshot *ret, struct vn_err *err)
{
    size_t len = strlen(text);
    uint64_t seq = 0;

    if (len > 0 && len <= STORE_NAME_MAX &&
        index_get_u64(index, txn, TABLE_NAMES, index_key_text(text), 0, &seq,
                      err) < 0)
        return -1;
    if (!seq && find_prefix(index, txn, text, &seq, err) < 0)
        return -1;
    if (!seq)
        return vn_fail(err, VN_E_NOT_FOUND, "there is no snapshot '%.160s'",
                       text);
    return get_row(index, txn, seq, ret, err);
}

int index_find_snapshot(struct index *index, const char *text,
                        struct index_snapshot *ret, struct vn_err *err)
{
    vn_auto(index_txn) MDB_txn *txn = NULL;
    struct index_snapshot found;

    if (index_begin(index, MDB_RDONLY, &txn, err) < 0 ||
        find_in(index, txn, text, &found, err) < 0)
        return -1;
    *ret = found;
    return 0;
}

static bool is_of_series(const char *name, const char *series)
{
    size_t len = strlen(series);

    return strncmp(name, series, len) == 0 && name[len] == '@' &&
           !strchr(name + len + 1, '@');
}

int index_find_latest(struct index *index, const char *series,
                      struct index_snapshot *ret, struct vn_err *err)
{
    vn_auto(index_txn) MDB_txn *txn = NULL;
    vn_auto(index_cursor) MDB_cursor *cursor = NULL;
    struct index_snapshot row;
    MDB_val key;
    MDB_val value;
    int rc;

    if (index_begin(index, MDB_RDONLY, &txn, err) < 0)
        return -1;
    rc = mdb_cursor_open(txn, index->tables[TABLE_SNAPSHOTS], &cursor);
    if (rc == 0)
        rc = mdb_cursor_get(cursor, &key, &value, MDB_LAST);
    for (; rc == 0; rc = mdb_cursor_get(cursor, &key, &value, MDB_PREV)) {
        if (index_snapshot_decode(index, &key, &value, &row, err) < 0)
            return -1;
        if (is_of_series(row.name, series)) {
            *ret = row;
            return 0;
        }
    }
    if (rc != MDB_NOTFOUND)
        return index_fail(index, rc, "look for the newest snapshot", err);
    return vn_fail(err, VN_E_NOT_FOUND, "there is no snapshot of '%.128s'",
                   series);
}

int index_list_snapshots(struct index *index, uint64_t from, size_t max,
                         struct index_snapshot *ret, size_t *ret_count,
                         struct vn_err *err)
{
    vn_auto(index_txn) MDB_txn *txn = NULL;
    vn_auto(index_cursor) MDB_cursor *cursor = NULL;
    uint64_t space;
    MDB_val key = index_key_u64(from, &space);
    MDB_val value;
    size_t count = 0;
    int rc;

    if (index_begin(index, MDB_RDONLY, &txn, err) < 0)
        return -1;
    rc = mdb_cursor_open(txn, index->tables[TABLE_SNAPSHOTS], &cursor);
    if (rc == 0)
        rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    while (rc == 0 && count < max) {
        if (index_snapshot_decode(index, &key, &value, &ret[count], err) < 0)
            return -1;
        count++;
        rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    if (rc && rc != MDB_NOTFOUND)
        return index_fail(index, rc, "list snapshots", err);
    *ret_count = count;
    return 0;
}

static int delete_row(struct index *index, MDB_txn *txn,
                      const struct index_snapshot *row, struct vn_err *err)
{
    static const enum index_table tables[3] = {TABLE_SNAPSHOTS, TABLE_NAMES,
                                               TABLE_IDS};
    uint64_t space;
    MDB_val keys[3] = {index_key_u64(row->seq, &space),
                       index_key_text(row->name), index_key_id(&row->id)};

    for (int i = 0; i < 3; i++) {
        int rc = mdb_del(txn, index->tables[tables[i]], &keys[i], NULL);

        if (i == 0 && rc == MDB_NOTFOUND)
            return vn_fail(err, VN_E_NOT_FOUND, "there is no snapshot '%.160s'",
                           row->name);
        if (rc && rc != MDB_NOTFOUND)
            return index_fail(index, rc, "delete a snapshot", err);
    }
    return 0;
}

int index_delete_snapshots(struct index *index,
                           const struct index_snapshot *rows, size_t count,
                           const struct index_pack *pack,
                           const struct index_chunk *tombstones,
                           struct vn_err *err)
{
    vn_auto(index_txn) MDB_txn *txn = NULL;

    if (fault_hit("store.index.delete"))
        return vn_fail(err, EIO, "index '%s': delete", index->dir);
    if (index_begin(index, 0, &txn, err) < 0)
        return -1;
    for (size_t i = 0; i < count; i++)
        if (delete_row(index, txn, &rows[i], err) < 0)
            return -1;
    if (index_add_in(index, txn, pack, 1, tombstones, count, err) < 0)
        return -1;
    return index_commit(index, &txn, err);
}

int index_series_next(struct index *index, const char *series, uint64_t *ret,
                      struct vn_err *err)
{
    vn_auto(index_txn) MDB_txn *txn = NULL;
    uint64_t highest;

    if (index_begin(index, MDB_RDONLY, &txn, err) < 0 ||
        index_get_u64(index, txn, TABLE_SERIES, index_key_text(series), 0,
                      &highest, err) < 0)
        return -1;
    *ret = highest + 1;
    return 0;
}

static int check_row(struct index *index, MDB_txn *txn,
                     const struct index_snapshot *row, char ret_problem[256],
                     struct vn_err *err)
{
    uint64_t by_name;
    uint64_t by_id;

    if (index_get_u64(index, txn, TABLE_NAMES, index_key_text(row->name), 0,
                      &by_name, err) < 0 ||
        index_get_u64(index, txn, TABLE_IDS, index_key_id(&row->id), 0, &by_id,
                      err) < 0)
        return -1;
    if (by_name != row->seq || by_id != row->seq)
        snprintf(ret_problem, 256,
                 "snapshot '%s' is not found by its %s in the index", row->name,
                 by_name != row->seq ? "name" : "id");
    return 0;
}

int index_check_snapshots(struct index *index, char ret_problem[256],
                          struct vn_err *err)
{
    vn_auto(index_txn) MDB_txn *txn = NULL;
    vn_auto(index_cursor) MDB_cursor *cursor = NULL;
    struct index_snapshot row;
    MDB_stat stats[3];
    MDB_val key;
    MDB_val value;
    int rc;

    ret_problem[0] = 0;
    if (index_begin(index, MDB_RDONLY, &txn, err) < 0)
        return -1;
    rc = mdb_cursor_open(txn, index->tables[TABLE_SNAPSHOTS], &cursor);
    if (rc == 0)
        rc = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
    for (; rc == 0; rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
        if (index_snapshot_decode(index, &key, &value, &row, err) < 0 ||
            check_row(index, txn, &row, ret_problem, err) < 0)
            return -1;
    }
    if (rc != MDB_NOTFOUND)
        return index_fail(index, rc, "list snapshots", err);
    if (mdb_stat(txn, index->tables[TABLE_SNAPSHOTS], &stats[0]) ||
        mdb_stat(txn, index->tables[TABLE_NAMES], &stats[1]) ||
        mdb_stat(txn, index->tables[TABLE_IDS], &stats[2]))
        return index_fail(index, MDB_CORRUPTED, "statistics", err);
    if (stats[0].ms_entries != stats[1].ms_entries ||
        stats[0].ms_entries != stats[2].ms_entries)
        snprintf(ret_problem, 256,
                 "the index has %zu snapshots, %zu names and %zu ids",
                 stats[0].ms_entries, stats[1].ms_entries, stats[2].ms_entries);
    return 0;
}

int index_mend_snapshots(struct index *index, struct vn_err *err)
{
    vn_auto(index_txn) MDB_txn *txn = NULL;
    vn_auto(index_cursor) MDB_cursor *cursor = NULL;
    struct index_snapshot row;
    MDB_val key;
    MDB_val value;
    int rc;

    if (fault_hit("store.index.mend"))
        return vn_fail(err, EIO, "index '%s': mend snapshots", index->dir);
    if (index_begin(index, 0, &txn, err) < 0)
        return -1;
    rc = mdb_drop(txn, index->tables[TABLE_NAMES], 0);
    if (rc == 0)
        rc = mdb_drop(txn, index->tables[TABLE_IDS], 0);
    if (rc == 0)
        rc = mdb_cursor_open(txn, index->tables[TABLE_SNAPSHOTS], &cursor);
    if (rc == 0)
        rc = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
    for (; rc == 0; rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
        if (index_snapshot_decode(index, &key, &value, &row, err) < 0 ||
            put_names(index, txn, &row, MDB_NOOVERWRITE, err) < 0)
            return -1;
    }
    if (rc != MDB_NOTFOUND)
        return index_fail(index, rc, "mend snapshots", err);
    mdb_cursor_close(vn_steal(&cursor));
    return index_commit(index, &txn, err);
}
