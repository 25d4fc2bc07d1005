#include "store/index_internal.h"

/*
 * Chunks, packs and pack numbers in the index.
 *
 * chunks   key: 16 bytes of id. value, 16 bytes: u64 (pack id in 48 bits,
 *          kind << 48, codec << 56), u32 offset, u32 stored size. With LMDB's
 *          10 bytes of node head and slot that is 42 bytes a chunk in a full
 *          page, about 60 in a tree that grew at random.
 * packs    key: u64. value, 16 bytes: u64 size, u32 count, u32 epoch in which
 *          it was condemned (index_gc.c), or 0.
 * meta     "next_pack": the mark below which pack numbers are spent.
 *
 * Look-ups of chunks: index_find.c.
 *
 * Invariant: the row of a pack is written no later than the first row of its
 * chunks (index_add.c), so a chunk in the table always lies in a pack in the
 * table. The first place of a chunk wins: when two writers store the same
 * content at once the second copy is dead weight in its pack. Only a place in a
 * condemned pack gives way: its writer was told that the chunk is absent.
 */

#include "common/auto.h"
#include "common/fault.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#define PACK_ROW_SIZE 16u

void index_place_encode(const struct chunk_place *place,
                        uint8_t out[INDEX_PLACE_SIZE])
{
    uint64_t word = htole64(place->pack_id | (uint64_t)place->kind << 48 |
                            (uint64_t)place->codec << 56);
    uint32_t offset = htole32(place->offset);
    uint32_t size = htole32(place->stored_size);

    memcpy(out, &word, 8);
    memcpy(out + 8, &offset, 4);
    memcpy(out + 12, &size, 4);
}

int index_place_decode(const struct index *index, const MDB_val *value,
                       struct chunk_place *ret, struct vn_err *err)
{
    const uint8_t *in = value->mv_data;
    uint64_t word;
    uint32_t offset;
    uint32_t size;

    if (value->mv_size != INDEX_PLACE_SIZE)
        return vn_fail(err, VN_E_CORRUPT,
                       "index '%s': the place of a chunk has %zu bytes",
                       index->dir, value->mv_size);
    memcpy(&word, in, 8);
    memcpy(&offset, in + 8, 4);
    memcpy(&size, in + 12, 4);
    word = le64toh(word);
    *ret = (struct chunk_place){.pack_id = word & INDEX_MARK_MAX,
                                .kind = (uint8_t)(word >> 48),
                                .codec = (uint8_t)(word >> 56),
                                .offset = le32toh(offset),
                                .stored_size = le32toh(size)};
    if (ret->stored_size == 0)
        return vn_fail(err, VN_E_CORRUPT, "index '%s': a chunk of no bytes",
                       index->dir);
    return 0;
}

int index_put_pack(struct index *index, MDB_txn *txn,
                   const struct index_pack *pack, unsigned flags,
                   struct vn_err *err)
{
    uint8_t row[PACK_ROW_SIZE];
    uint64_t size = htole64(pack->size);
    uint32_t words[2] = {htole32(pack->count), htole32(pack->condemned)};
    MDB_val value = {.mv_size = sizeof(row), .mv_data = row};
    uint64_t space;
    MDB_val key = index_key_u64(pack->id, &space);
    int rc;

    memcpy(row, &size, 8);
    memcpy(row + 8, words, 8);
    rc = mdb_put(txn, index->tables[TABLE_PACKS], &key, &value, flags);
    if (rc == MDB_KEYEXIST)
        return vn_fail(err, VN_E_CORRUPT,
                       "index '%s': pack %012llx is there already", index->dir,
                       (unsigned long long)pack->id);
    return rc ? index_fail(index, rc, "write the row of a pack", err) : 0;
}

/* A chunk that is known: does its place give way to a new one? */
static int gives_way(const struct index *index, const MDB_val *value,
                     const struct index_condemned *condemned,
                     struct vn_err *err)
{
    struct chunk_place place;

    if (condemned->count == 0)
        return 0;
    if (index_place_decode(index, value, &place, err) < 0)
        return -1;
    return index_condemned_has(condemned, place.pack_id);
}

static int add_chunk(struct index *index, MDB_cursor *cursor,
                     const struct index_chunk *chunk,
                     const struct index_condemned *condemned,
                     struct vn_err *err)
{
    uint8_t place[INDEX_PLACE_SIZE];
    MDB_val key = index_key_id(&chunk->id);
    MDB_val value = {.mv_size = sizeof(place), .mv_data = place};
    int rc;

    index_place_encode(&chunk->place, place);
    rc = mdb_cursor_put(cursor, &key, &value, MDB_NOOVERWRITE);
    if (rc == MDB_KEYEXIST) {
        int yes = gives_way(index, &value, condemned, err);

        if (yes <= 0)
            return yes;
        value = (MDB_val){.mv_size = sizeof(place), .mv_data = place};
        rc = mdb_cursor_put(cursor, &key, &value, 0);
    }
    return rc ? index_fail(index, rc, "enter a chunk", err) : 0;
}

int index_heal_in(struct index *index, MDB_txn *txn, const struct chunk_id *id,
                  struct vn_err *err)
{
    MDB_val key = index_key_id(id);
    int rc = mdb_del(txn, index->tables[TABLE_LOST], &key, NULL);

    return rc && rc != MDB_NOTFOUND
               ? index_fail(index, rc, "take a chunk from the lost", err)
               : 0;
}

/* Nearly always there are none, which costs nothing then. */
static int heal_chunks(struct index *index, MDB_txn *txn,
                       const struct index_chunk *chunks, size_t count,
                       struct vn_err *err)
{
    MDB_stat st;
    int rc = mdb_stat(txn, index->tables[TABLE_LOST], &st);

    if (rc)
        return index_fail(index, rc, "statistics", err);
    for (size_t i = 0; st.ms_entries > 0 && i < count; i++)
        if (index_heal_in(index, txn, &chunks[i].id, err) < 0)
            return -1;
    return 0;
}

int index_add_in(struct index *index, MDB_txn *txn,
                 const struct index_pack *packs, size_t pack_count,
                 const struct index_chunk *chunks, size_t chunk_count,
                 struct vn_err *err)
{
    vn_auto(index_condemned) struct index_condemned condemned = {0};
    vn_auto(index_cursor) MDB_cursor *cursor = NULL;
    int rc;

    if (index_get_condemned(index, txn, &condemned, err) < 0)
        return -1;
    for (size_t i = 0; i < pack_count; i++)
        if (index_put_pack(index, txn, &packs[i], MDB_NOOVERWRITE, err) < 0)
            return -1;
    index_known_add(index, chunks, chunk_count);
    rc = mdb_cursor_open(txn, index->tables[TABLE_CHUNKS], &cursor);
    if (rc)
        return index_fail(index, rc, "enter chunks", err);
    for (size_t i = 0; i < chunk_count; i++)
        if (add_chunk(index, cursor, &chunks[i], &condemned, err) < 0)
            return -1;
    return heal_chunks(index, txn, chunks, chunk_count, err);
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
    if (next > INDEX_MARK_MAX - count)
        return vn_fail(err, VN_E_LIMIT, "index '%s': no pack numbers left",
                       index->dir);
    if (index_put_u64(index, txn, TABLE_META, key, next + count, err) < 0 ||
        index_commit(index, &txn, err) < 0)
        return -1;
    *ret_first = next;
    return 0;
}

int index_pack_decode(const struct index *index, const MDB_val *key,
                      const MDB_val *value, struct index_pack *ret,
                      struct vn_err *err)
{
    const uint8_t *row = value->mv_data;
    uint64_t id;
    uint64_t size;
    uint32_t words[2];

    if (key->mv_size != 8 || value->mv_size != PACK_ROW_SIZE)
        return vn_fail(err, VN_E_CORRUPT,
                       "index '%s': a pack's row of %zu and %zu bytes",
                       index->dir, key->mv_size, value->mv_size);
    memcpy(&id, key->mv_data, 8);
    memcpy(&size, row, 8);
    memcpy(words, row + 8, 8);
    if (be64toh(id) > INDEX_MARK_MAX)
        return vn_fail(err, VN_E_CORRUPT, "index '%s': a pack's number %llx",
                       index->dir, (unsigned long long)be64toh(id));
    *ret = (struct index_pack){.id = be64toh(id),
                               .size = le64toh(size),
                               .count = le32toh(words[0]),
                               .condemned = le32toh(words[1])};
    return 0;
}

int index_get_pack(struct index *index, MDB_txn *txn, uint64_t id,
                   struct index_pack *ret, struct vn_err *err)
{
    uint64_t space;
    MDB_val key = index_key_u64(id, &space);
    MDB_val value;
    int rc = mdb_get(txn, index->tables[TABLE_PACKS], &key, &value);

    if (rc == MDB_NOTFOUND)
        return 1;
    if (rc)
        return index_fail(index, rc, "read the row of a pack", err);
    return index_pack_decode(index, &key, &value, ret, err);
}

int index_find_pack(struct index *index, uint64_t id, struct index_pack *ret,
                    struct vn_err *err)
{
    vn_auto(index_txn) MDB_txn *txn = NULL;
    struct index_pack pack;
    int result;

    if (index_begin(index, MDB_RDONLY, &txn, err) < 0)
        return -1;
    result = index_get_pack(index, txn, id, &pack, err);
    if (result > 0)
        return vn_fail(err, VN_E_NOT_FOUND,
                       "index '%s': there is no pack %012llx", index->dir,
                       (unsigned long long)id);
    if (result == 0)
        *ret = pack;
    return result;
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
        if (index_pack_decode(index, &key, &value, &ret[count], err) < 0)
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
        if (index_place_decode(index, &value, &ret[count].place, err) < 0)
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
    struct stat file;
    int fd;

    if (index_begin(index, MDB_RDONLY, &txn, err) < 0)
        return -1;
    if (mdb_env_get_fd(index->env, &fd) || fstat(fd, &file) < 0)
        return vn_fail(err, errno, "index '%s': statistics", index->dir);
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
                                .bytes = bytes,
                                .bytes_disk = (uint64_t)file.st_blocks * 512};
    return 0;
}
