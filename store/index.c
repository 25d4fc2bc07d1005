#include "store/index_internal.h"

/*
 * Chunks, packs and pack numbers in the index.
 *
 * chunks   key: 16 bytes of id. value, 16 bytes: u64 (pack id in 48 bits,
 *          kind << 48, codec << 56), u32 offset, u32 stored size. With LMDB's
 *          10 bytes of node head and slot that is 42 bytes a chunk in a full
 *          page, about 60 in a tree that grew at random.
 * packs    key: u64. value, 16 bytes: u64 size, u32 count, u32 state (0).
 * meta     "next_pack": the mark below which pack numbers are spent.
 *
 * Invariant: the row of a pack and the rows of its chunks are written in one
 * transaction, so a chunk in the table always lies in a pack in the table.
 * The first place of a chunk wins: when two writers store the same content at
 * once the second copy is dead weight in its pack.
 */

#include "common/auto.h"
#include "common/fault.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <string.h>

#define PLACE_SIZE    16u
#define PACK_ROW_SIZE 16u
#define PACK_MARK_MAX ((1ull << 48) - 1)

static void place_encode(const struct chunk_place *place,
                         uint8_t out[PLACE_SIZE])
{
    uint64_t word = htole64(place->pack_id | (uint64_t)place->kind << 48 |
                            (uint64_t)place->codec << 56);
    uint32_t offset = htole32(place->offset);
    uint32_t size = htole32(place->stored_size);

    memcpy(out, &word, 8);
    memcpy(out + 8, &offset, 4);
    memcpy(out + 12, &size, 4);
}

static int place_decode(const struct index *index, const MDB_val *value,
                        struct chunk_place *ret, struct vn_err *err)
{
    const uint8_t *in = value->mv_data;
    uint64_t word;
    uint32_t offset;
    uint32_t size;

    if (value->mv_size != PLACE_SIZE)
        return vn_fail(err, VN_E_CORRUPT,
                       "index '%s': the place of a chunk has %zu bytes",
                       index->dir, value->mv_size);
    memcpy(&word, in, 8);
    memcpy(&offset, in + 8, 4);
    memcpy(&size, in + 12, 4);
    word = le64toh(word);
    *ret = (struct chunk_place){.pack_id = word & PACK_MARK_MAX,
                                .kind = (uint8_t)(word >> 48),
                                .codec = (uint8_t)(word >> 56),
                                .offset = le32toh(offset),
                                .stored_size = le32toh(size)};
    if (ret->stored_size == 0)
        return vn_fail(err, VN_E_CORRUPT, "index '%s': a chunk of no bytes",
                       index->dir);
    return 0;
}

int index_find(struct index *index, const struct chunk_id *ids, size_t count,
               struct chunk_place *ret, struct vn_err *err)
{
    vn_auto(index_txn) MDB_txn *txn = NULL;
    vn_auto(index_cursor) MDB_cursor *cursor = NULL;
    int rc;

    if (count == 0)
        return 0;
    if (index_begin(index, MDB_RDONLY, &txn, err) < 0)
        return -1;
    rc = mdb_cursor_open(txn, index->tables[TABLE_CHUNKS], &cursor);
    if (rc)
        return index_fail(index, rc, "look up chunks", err);
    for (size_t i = 0; i < count; i++) {
        MDB_val key = index_key_id(&ids[i]);
        MDB_val value;

        rc = mdb_cursor_get(cursor, &key, &value, MDB_SET);
        if (rc == MDB_NOTFOUND)
            ret[i] = (struct chunk_place){0};
        else if (rc)
            return index_fail(index, rc, "look up a chunk", err);
        else if (place_decode(index, &value, &ret[i], err) < 0)
            return -1;
    }
    return 0;
}

static int add_packs(struct index *index, MDB_txn *txn,
                     const struct index_pack *packs, size_t count,
                     struct vn_err *err)
{
    for (size_t i = 0; i < count; i++) {
        uint8_t row[PACK_ROW_SIZE] = {0};
        uint64_t size = htole64(packs[i].size);
        uint32_t chunks = htole32(packs[i].count);
        MDB_val value = {.mv_size = sizeof(row), .mv_data = row};
        uint64_t space;
        MDB_val key = index_key_u64(packs[i].id, &space);
        int rc;

        memcpy(row, &size, 8);
        memcpy(row + 8, &chunks, 4);
        rc = mdb_put(txn, index->tables[TABLE_PACKS], &key, &value,
                     MDB_NOOVERWRITE);
        if (rc == MDB_KEYEXIST)
            return vn_fail(err, VN_E_CORRUPT,
                           "index '%s': pack %012llx is there already",
                           index->dir, (unsigned long long)packs[i].id);
        if (rc)
            return index_fail(index, rc, "enter a pack", err);
    }
    return 0;
}

int index_add_in(struct index *index, MDB_txn *txn,
                 const struct index_pack *packs, size_t pack_count,
                 const struct index_chunk *chunks, size_t chunk_count,
                 struct vn_err *err)
{
    vn_auto(index_cursor) MDB_cursor *cursor = NULL;
    int rc;

    if (add_packs(index, txn, packs, pack_count, err) < 0)
        return -1;
    rc = mdb_cursor_open(txn, index->tables[TABLE_CHUNKS], &cursor);
    if (rc)
        return index_fail(index, rc, "enter chunks", err);
    for (size_t i = 0; i < chunk_count; i++) {
        uint8_t place[PLACE_SIZE];
        MDB_val key = index_key_id(&chunks[i].id);
        MDB_val value = {.mv_size = sizeof(place), .mv_data = place};

        place_encode(&chunks[i].place, place);
        rc = mdb_cursor_put(cursor, &key, &value, MDB_NOOVERWRITE);
        if (rc && rc != MDB_KEYEXIST)
            return index_fail(index, rc, "enter a chunk", err);
    }
    return 0;
}

int index_add(struct index *index, const struct index_pack *packs,
              size_t pack_count, const struct index_chunk *chunks,
              size_t chunk_count, struct vn_err *err)
{
    vn_auto(index_txn) MDB_txn *txn = NULL;

    if (fault_hit("store.index.add"))
        return vn_fail(err, EIO, "index '%s': enter chunks", index->dir);
    if (index_begin(index, 0, &txn, err) < 0 ||
        index_add_in(index, txn, packs, pack_count, chunks, chunk_count, err) <
            0)
        return -1;
    return index_commit(index, &txn, err);
}

int index_take_pack_ids(struct index *index, uint64_t count,
                        uint64_t *ret_first, struct vn_err *err)
{
    vn_auto(index_txn) MDB_txn *txn = NULL;
    MDB_val key = index_key_text("next_pack");
    uint64_t next;

    if (fault_hit("store.index.ids"))
        return vn_fail(err, EIO, "index '%s': take pack numbers", index->dir);
    if (index_begin(index, 0, &txn, err) < 0 ||
        index_get_u64(index, txn, TABLE_META, key, 1, &next, err) < 0)
        return -1;
    if (next > PACK_MARK_MAX - count)
        return vn_fail(err, VN_E_LIMIT, "index '%s': no pack numbers left",
                       index->dir);
    if (index_put_u64(index, txn, TABLE_META, key, next + count, err) < 0 ||
        index_commit(index, &txn, err) < 0)
        return -1;
    *ret_first = next;
    return 0;
}

static int pack_decode_row(const struct index *index, const MDB_val *key,
                           const MDB_val *value, struct index_pack *ret,
                           struct vn_err *err)
{
    const uint8_t *row = value->mv_data;
    uint64_t id;
    uint64_t size;
    uint32_t count;

    if (key->mv_size != 8 || value->mv_size != PACK_ROW_SIZE)
        return vn_fail(err, VN_E_CORRUPT,
                       "index '%s': a pack's row of %zu and %zu bytes",
                       index->dir, key->mv_size, value->mv_size);
    memcpy(&id, key->mv_data, 8);
    memcpy(&size, row, 8);
    memcpy(&count, row + 8, 4);
    *ret = (struct index_pack){
        .id = be64toh(id), .size = le64toh(size), .count = le32toh(count)};
    return 0;
}

int index_list_packs(struct index *index, uint64_t from, size_t max,
                     struct index_pack *ret, size_t *ret_count,
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
    rc = mdb_cursor_open(txn, index->tables[TABLE_PACKS], &cursor);
    if (rc == 0)
        rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    while (rc == 0 && count < max) {
        if (pack_decode_row(index, &key, &value, &ret[count], err) < 0)
            return -1;
        count++;
        rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    if (rc && rc != MDB_NOTFOUND)
        return index_fail(index, rc, "list packs", err);
    *ret_count = count;
    return 0;
}

int index_list_chunks(struct index *index, const struct chunk_id *after,
                      size_t max, struct index_chunk *ret, size_t *ret_count,
                      struct vn_err *err)
{
    vn_auto(index_txn) MDB_txn *txn = NULL;
    vn_auto(index_cursor) MDB_cursor *cursor = NULL;
    MDB_val key = {0};
    MDB_val value;
    size_t count = 0;
    int rc;

    if (index_begin(index, MDB_RDONLY, &txn, err) < 0)
        return -1;
    rc = mdb_cursor_open(txn, index->tables[TABLE_CHUNKS], &cursor);
    if (after)
        key = index_key_id(after);
    if (rc == 0)
        rc = mdb_cursor_get(cursor, &key, &value,
                            after ? MDB_SET_RANGE : MDB_FIRST);
    if (rc == 0 && after && key.mv_size == sizeof(*after) &&
        memcmp(key.mv_data, after, sizeof(*after)) == 0)
        rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    while (rc == 0 && count < max) {
        if (key.mv_size != sizeof(ret->id))
            return vn_fail(err, VN_E_CORRUPT,
                           "index '%s': a chunk's id of %zu bytes", index->dir,
                           key.mv_size);
        memcpy(&ret[count].id, key.mv_data, sizeof(ret->id));
        if (place_decode(index, &value, &ret[count].place, err) < 0)
            return -1;
        count++;
        rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    if (rc && rc != MDB_NOTFOUND)
        return index_fail(index, rc, "list chunks", err);
    *ret_count = count;
    return 0;
}

int index_stats(struct index *index, struct index_stats *ret,
                struct vn_err *err)
{
    vn_auto(index_txn) MDB_txn *txn = NULL;
    uint64_t entries[TABLE_COUNT];
    uint64_t bytes = 0;

    if (index_begin(index, MDB_RDONLY, &txn, err) < 0)
        return -1;
    for (int i = 0; i < TABLE_COUNT; i++) {
        MDB_stat st;
        int rc = mdb_stat(txn, index->tables[i], &st);

        if (rc)
            return index_fail(index, rc, "statistics", err);
        entries[i] = st.ms_entries;
        bytes +=
            (st.ms_branch_pages + st.ms_leaf_pages + st.ms_overflow_pages) *
            st.ms_psize;
    }
    *ret = (struct index_stats){.snapshots = entries[TABLE_SNAPSHOTS],
                                .packs = entries[TABLE_PACKS],
                                .chunks = entries[TABLE_CHUNKS],
                                .bytes = bytes};
    return 0;
}
