#include "store/index_internal.h"

/*
 * Lost chunks, and what else a repair does in the index.
 *
 * lost  key: id. value, 24 bytes: the place as in `chunks`, zeros where it is
 *       not known, and u64 seconds since 1970.
 *
 * A chunk in `chunks` is not lost, whatever this table says: programs of before
 * enter chunks without looking here.
 *
 * Giving chunks up breaks the promise that all of a snapshot's chunks are in
 * `chunks`: their content was gone before, now the index says so. New snapshots
 * keep it: a commit that has looked at its chunks already finds another epoch
 * when it publishes and looks again. The epoch moves without a condemned pack,
 * which holds are not concerned with: they are compared with packs' epochs.
 */

#include "common/fault.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LOST_ROW_SIZE (INDEX_PLACE_SIZE + 8u)

static int lost_decode(const struct index *index, const MDB_val *key,
                       const MDB_val *value, struct index_lost *ret,
                       struct vn_err *err)
{
    static const uint8_t nowhere[INDEX_PLACE_SIZE];
    const uint8_t *row = value->mv_data;
    MDB_val place = {.mv_size = INDEX_PLACE_SIZE, .mv_data = value->mv_data};
    uint64_t found;

    if (key->mv_size != STORE_ID_SIZE || value->mv_size != LOST_ROW_SIZE)
        return vn_fail(err, VN_E_CORRUPT,
                       "index '%s': a lost chunk's row of %zu and %zu bytes",
                       index->dir, key->mv_size, value->mv_size);
    *ret = (struct index_lost){0};
    memcpy(&ret->id, key->mv_data, STORE_ID_SIZE);
    memcpy(&found, row + INDEX_PLACE_SIZE, 8);
    ret->found_s = le64toh(found);
    if (memcmp(row, nowhere, sizeof(nowhere)) == 0)
        return 0;
    return index_place_decode(index, &place, &ret->place, err);
}

static int is_in_chunks(struct index *index, MDB_txn *txn,
                        const struct chunk_id *id, struct vn_err *err)
{
    MDB_val key = index_key_id(id);
    MDB_val value;
    int rc = mdb_get(txn, index->tables[TABLE_CHUNKS], &key, &value);

    if (rc && rc != MDB_NOTFOUND)
        return index_fail(index, rc, "look up a chunk", err);
    return rc == 0;
}

static int list_lost(struct index *index, MDB_txn *txn, struct index_lost *rows,
                     size_t max, size_t *ret_count, struct vn_err *err)
{
    vn_auto(index_cursor) MDB_cursor *cursor = NULL;
    MDB_val key;
    MDB_val value;
    size_t count = 0;
    int rc = mdb_cursor_open(txn, index->tables[TABLE_LOST], &cursor);

    if (rc == 0)
        rc = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
    for (; rc == 0 && count < max;
         rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
        int known;

        if (lost_decode(index, &key, &value, &rows[count], err) < 0)
            return -1;
        known = is_in_chunks(index, txn, &rows[count].id, err);
        if (known < 0)
            return -1;
        count += !known;
    }
    if (rc && rc != MDB_NOTFOUND)
        return index_fail(index, rc, "list lost chunks", err);
    *ret_count = count;
    return 0;
}

int index_list_lost(struct index *index, struct index_lost **ret,
                    size_t *ret_count, struct vn_err *err)
{
    vn_auto(index_txn) MDB_txn *txn = NULL;
    vn_auto(free) struct index_lost *rows = NULL;
    MDB_stat st;
    size_t count = 0;
    int rc;

    if (index_begin(index, MDB_RDONLY, &txn, err) < 0)
        return -1;
    rc = mdb_stat(txn, index->tables[TABLE_LOST], &st);
    if (rc)
        return index_fail(index, rc, "statistics", err);
    if (st.ms_entries > 0) {
        rows = calloc(st.ms_entries, sizeof(*rows));
        if (!rows)
            return vn_fail(err, VN_E_LIMIT, "no memory for %zu lost chunks",
                           st.ms_entries);
        if (list_lost(index, txn, rows, st.ms_entries, &count, err) < 0)
            return -1;
    }
    *ret = count > 0 ? vn_steal(&rows) : NULL;
    *ret_count = count;
    return 0;
}

/* ---- giving up -------------------------------------------------------- */

/* Take the row of a chunk away if it still is as `chunk` says. 1: it is not. */
static int take_row(struct index *index, MDB_txn *txn,
                    const struct index_lost *chunk, struct vn_err *err)
{
    MDB_val key = index_key_id(&chunk->id);
    struct chunk_place now;
    MDB_val value;
    int rc = mdb_get(txn, index->tables[TABLE_CHUNKS], &key, &value);

    if (rc == MDB_NOTFOUND)
        return chunk->place.stored_size == 0 ? 0 : 1;
    if (rc)
        return index_fail(index, rc, "look up a chunk", err);
    if (index_place_decode(index, &value, &now, err) < 0)
        return -1;
    if (now.pack_id != chunk->place.pack_id ||
        now.offset != chunk->place.offset ||
        now.stored_size != chunk->place.stored_size)
        return 1;
    rc = mdb_del(txn, index->tables[TABLE_CHUNKS], &key, NULL);
    return rc ? index_fail(index, rc, "give a chunk up", err) : 0;
}

int index_put_lost(struct index *index, MDB_txn *txn,
                   const struct index_lost *chunk, unsigned flags,
                   struct vn_err *err)
{
    uint8_t row[LOST_ROW_SIZE] = {0};
    uint64_t found = htole64(chunk->found_s);
    MDB_val key = index_key_id(&chunk->id);
    MDB_val value = {.mv_size = sizeof(row), .mv_data = row};
    int rc;

    if (chunk->place.stored_size > 0)
        index_place_encode(&chunk->place, row);
    memcpy(row + INDEX_PLACE_SIZE, &found, 8);
    rc = mdb_put(txn, index->tables[TABLE_LOST], &key, &value, flags);
    if (rc == MDB_KEYEXIST)
        return 1;
    return rc ? index_fail(index, rc, "enter a lost chunk", err) : 0;
}

/* 1: nothing was done. */
static int lose_one(struct index *index, MDB_txn *txn,
                    const struct index_lost *chunk, struct vn_err *err)
{
    int result = take_row(index, txn, chunk, err);

    if (result || chunk->forget)
        return result;
    return index_put_lost(index, txn, chunk,
                          chunk->place.stored_size ? 0 : MDB_NOOVERWRITE, err);
}

static int raise_epoch(struct index *index, MDB_txn *txn, struct vn_err *err)
{
    MDB_val key = index_key_text("epoch");
    uint64_t epoch;

    if (index_get_u64(index, txn, TABLE_META, key, 0, &epoch, err) < 0)
        return -1;
    if (epoch >= UINT32_MAX)
        return vn_fail(err, VN_E_LIMIT, "index '%s': no epochs left",
                       index->dir);
    return index_put_u64(index, txn, TABLE_META, key, epoch + 1, err);
}

int index_lose(struct index *index, const struct index_lost *chunks,
               size_t count, size_t *ret_count, struct vn_err *err)
{
    vn_auto(index_txn) MDB_txn *txn = NULL;
    size_t given_up = 0;

    if (fault_hit("store.index.lose"))
        return vn_fail(err, EIO, "index '%s': give chunks up", index->dir);
    if (index_begin(index, 0, &txn, err) < 0 ||
        raise_epoch(index, txn, err) < 0)
        return -1;
    for (size_t i = 0; i < count; i++) {
        int result = lose_one(index, txn, &chunks[i], err);

        if (result < 0)
            return -1;
        given_up += result == 0;
    }
    if (index_commit(index, &txn, err) < 0)
        return -1;
    *ret_count = given_up;
    return 0;
}

/* ---- forgetting -------------------------------------------------------- */

/* As if chunks had been deleted just now. */
static int mark_swept(struct index *index, MDB_txn *txn, struct vn_err *err)
{
    uint64_t next_pack;

    if (index_get_u64(index, txn, TABLE_META, index_key_text("next_pack"), 1,
                      &next_pack, err) < 0)
        return -1;
    return index_put_u64(index, txn, TABLE_META, index_key_text("swept"),
                         next_pack, err);
}

int index_forget_lost(struct index *index, const struct chunk_id *ids,
                      size_t count, uint64_t next_seq, struct vn_err *err)
{
    vn_auto(index_txn) MDB_txn *txn = NULL;
    uint64_t seq;

    if (fault_hit("store.index.forget"))
        return vn_fail(err, EIO, "index '%s': forget lost chunks", index->dir);
    if (index_begin(index, 0, &txn, err) < 0 ||
        index_get_u64(index, txn, TABLE_META, index_key_text("next_seq"), 1,
                      &seq, err) < 0)
        return -1;
    if (seq != next_seq)
        return vn_fail(err, VN_E_STATE, "index '%s': there is a new snapshot",
                       index->dir);
    for (size_t i = 0; i < count; i++) {
        MDB_val key = index_key_id(&ids[i]);
        int rc = mdb_del(txn, index->tables[TABLE_LOST], &key, NULL);

        if (rc && rc != MDB_NOTFOUND)
            return index_fail(index, rc, "forget a lost chunk", err);
    }
    return mark_swept(index, txn, err) < 0 ? -1
                                           : index_commit(index, &txn, err);
}

/* ---- packs ------------------------------------------------------------ */

static int by_number(const void *a, const void *b)
{
    const uint64_t *x = a;
    const uint64_t *y = b;

    return *x < *y ? -1 : *x > *y;
}

/* No row points into one of the packs, which are sorted. */
static int check_empty(struct index *index, MDB_txn *txn,
                       const uint64_t *pack_ids, size_t count,
                       struct vn_err *err)
{
    vn_auto(index_cursor) MDB_cursor *cursor = NULL;
    struct chunk_place place;
    MDB_val key;
    MDB_val value;
    int rc = mdb_cursor_open(txn, index->tables[TABLE_CHUNKS], &cursor);

    if (rc == 0)
        rc = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
    for (; rc == 0; rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
        if (index_place_decode(index, &value, &place, err) < 0)
            return -1;
        if (bsearch(&place.pack_id, pack_ids, count, sizeof(*pack_ids),
                    by_number))
            return vn_fail(err, VN_E_STATE,
                           "index '%s': pack %012llx is not empty", index->dir,
                           (unsigned long long)place.pack_id);
    }
    return rc == MDB_NOTFOUND ? 0 : index_fail(index, rc, "look for rows", err);
}

static int drop_pack(struct index *index, MDB_txn *txn, uint64_t pack_id,
                     struct vn_err *err)
{
    MDB_val mark = index_key_text("condemned");
    struct index_pack pack;
    uint64_t condemned;
    uint64_t space;
    MDB_val key = index_key_u64(pack_id, &space);
    int result = index_get_pack(index, txn, pack_id, &pack, err);

    if (result)
        return result < 0 ? -1 : 0;
    result = mdb_del(txn, index->tables[TABLE_PACKS], &key, NULL);
    if (result)
        return index_fail(index, result, "delete a pack", err);
    if (!pack.condemned)
        return 0;
    if (index_get_u64(index, txn, TABLE_META, mark, 0, &condemned, err) < 0)
        return -1;
    return index_put_u64(index, txn, TABLE_META, mark,
                         condemned ? condemned - 1 : 0, err);
}

int index_drop_packs(struct index *index, const uint64_t *pack_ids,
                     size_t count, struct vn_err *err)
{
    vn_auto(index_txn) MDB_txn *txn = NULL;
    vn_auto(free) uint64_t *sorted = NULL;

    if (count == 0)
        return 0;
    if (fault_hit("store.index.drop"))
        return vn_fail(err, EIO, "index '%s': forget packs", index->dir);
    sorted = vn_alloc(count * sizeof(*sorted));
    memcpy(sorted, pack_ids, count * sizeof(*sorted));
    qsort(sorted, count, sizeof(*sorted), by_number);
    if (index_begin(index, 0, &txn, err) < 0 ||
        check_empty(index, txn, sorted, count, err) < 0)
        return -1;
    for (size_t i = 0; i < count; i++)
        if (drop_pack(index, txn, sorted[i], err) < 0)
            return -1;
    return index_commit(index, &txn, err);
}
