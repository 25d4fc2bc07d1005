#include "store/index_internal.h"

/*
 * Collection in the index: which packs are condemned, and the transactions
 * that take a pack out of use.
 *
 * packs  the last u32 of a row is the epoch in which the pack was condemned, 0
 *        while it is in use.
 * meta   "epoch": condemnations so far. "condemned": packs that are condemned
 *        now; while it is 0, as nearly always, nobody looks for them.
 *        "swept": next_pack when chunks were deleted last.
 *
 * Each call is one write transaction, and LMDB has one writer at a time in all
 * processes. That makes the index the arbiter: a snapshot is published before
 * a pack is condemned, and then the collector learns of it (next_seq has
 * moved), or after, and then the writer does (epoch has moved). Chunks are
 * deleted only in the transaction that sees their pack condemned.
 *
 * The transactions are short where the caller passes batches of bounded size;
 * condemning costs a look-up a pack, 10 ms for 10,000 packs (80 GiB).
 */

#include "common/auto.h"
#include "common/fault.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CONDEMNED_FIRST 64u
#define NEAR_STEPS      4u

static int by_pack_id(const void *key, const void *row)
{
    const uint64_t *id = key;
    const struct index_pack *pack = row;

    return *id < pack->id ? -1 : *id > pack->id;
}

const struct index_pack *
index_condemned_find(const struct index_condemned *condemned, uint64_t pack_id)
{
    const struct index_pack *packs = condemned->packs;
    size_t count = condemned->count;

    if (count == 0 || pack_id < packs[0].id || pack_id > packs[count - 1].id)
        return NULL;
    /* As in gc_pack_of(). */
    if (pack_id - packs[0].id < count &&
        packs[pack_id - packs[0].id].id == pack_id)
        return &packs[pack_id - packs[0].id];
    return bsearch(&pack_id, packs, count, sizeof(*packs), by_pack_id);
}

void index_condemned_done(struct index_condemned *condemned)
{
    free(condemned->packs);
    *condemned = (struct index_condemned){0};
}

static int get_meta(struct index *index, MDB_txn *txn, const char *key,
                    uint64_t otherwise, uint64_t *ret, struct vn_err *err)
{
    return index_get_u64(index, txn, TABLE_META, index_key_text(key), otherwise,
                         ret, err);
}

static int put_meta(struct index *index, MDB_txn *txn, const char *key,
                    uint64_t value, struct vn_err *err)
{
    return index_put_u64(index, txn, TABLE_META, index_key_text(key), value,
                         err);
}

static void condemned_add(struct index_condemned *condemned, size_t *capacity,
                          const struct index_pack *pack)
{
    if (condemned->count == *capacity) {
        struct index_pack *packs;

        *capacity = *capacity ? 2 * *capacity : CONDEMNED_FIRST;
        packs = realloc(condemned->packs, *capacity * sizeof(*packs));
        if (!packs)
            abort();
        condemned->packs = packs;
    }
    condemned->packs[condemned->count++] = *pack;
}

int index_get_condemned(struct index *index, MDB_txn *txn,
                        struct index_condemned *ret, struct vn_err *err)
{
    vn_auto(index_condemned) struct index_condemned found = {0};
    vn_auto(index_cursor) MDB_cursor *cursor = NULL;
    size_t capacity = 0;
    struct index_pack pack;
    uint64_t count;
    MDB_val key;
    MDB_val value;
    int rc;

    *ret = (struct index_condemned){0};
    if (get_meta(index, txn, "condemned", 0, &count, err) < 0)
        return -1;
    if (count == 0)
        return 0;
    rc = mdb_cursor_open(txn, index->tables[TABLE_PACKS], &cursor);
    if (rc == 0)
        rc = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
    for (; rc == 0; rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
        if (index_pack_decode(index, &key, &value, &pack, err) < 0)
            return -1;
        if (pack.condemned)
            condemned_add(&found, &capacity, &pack);
    }
    if (rc != MDB_NOTFOUND)
        return index_fail(index, rc, "list condemned packs", err);
    *ret = found;
    found = (struct index_condemned){0};
    return 0;
}

int index_read_state(struct index *index, struct index_state *ret,
                     struct index_condemned *ret_condemned, struct vn_err *err)
{
    vn_auto(index_txn) MDB_txn *txn = NULL;
    struct index_state state;

    if (index_begin(index, MDB_RDONLY, &txn, err) < 0 ||
        get_meta(index, txn, "epoch", 0, &state.epoch, err) < 0 ||
        get_meta(index, txn, "next_pack", 1, &state.next_pack, err) < 0 ||
        get_meta(index, txn, "next_seq", 1, &state.next_seq, err) < 0 ||
        get_meta(index, txn, "swept", 0, &state.swept, err) < 0)
        return -1;
    if (ret_condemned &&
        index_get_condemned(index, txn, ret_condemned, err) < 0)
        return -1;
    *ret = state;
    return 0;
}

/* Give packs the mark `epoch` (0: take it away); those that have one like it,
 * or are not there, stay. *ret_count: how many changed. */
static int set_condemned(struct index *index, MDB_txn *txn,
                         const uint64_t *pack_ids, size_t count, uint32_t epoch,
                         uint64_t *ret_count, struct vn_err *err)
{
    uint64_t changed = 0;

    for (size_t i = 0; i < count; i++) {
        struct index_pack pack;
        int result = index_get_pack(index, txn, pack_ids[i], &pack, err);

        if (result < 0)
            return -1;
        if (result > 0 || !pack.condemned == !epoch)
            continue;
        pack.condemned = epoch;
        if (index_put_pack(index, txn, &pack, 0, err) < 0)
            return -1;
        changed++;
    }
    *ret_count = changed;
    return 0;
}

/* Add to the number of condemned packs. */
static int count_condemned(struct index *index, MDB_txn *txn, int64_t more,
                           struct vn_err *err)
{
    uint64_t count;

    if (get_meta(index, txn, "condemned", 0, &count, err) < 0)
        return -1;
    if (more < 0 && count < (uint64_t)-more)
        return vn_fail(err, VN_E_CORRUPT,
                       "index '%s': %llu packs are condemned, and more are "
                       "found",
                       index->dir, (unsigned long long)count);
    return put_meta(index, txn, "condemned", count + (uint64_t)more, err);
}

int index_condemn(struct index *index, const uint64_t *pack_ids, size_t count,
                  uint64_t next_seq, struct vn_err *err)
{
    vn_auto(index_txn) MDB_txn *txn = NULL;
    uint64_t changed;
    uint64_t epoch;
    uint64_t seq;

    if (fault_hit("store.index.condemn"))
        return vn_fail(err, EIO, "index '%s': condemn packs", index->dir);
    if (index_begin(index, 0, &txn, err) < 0 ||
        get_meta(index, txn, "next_seq", 1, &seq, err) < 0 ||
        get_meta(index, txn, "epoch", 0, &epoch, err) < 0)
        return -1;
    if (seq != next_seq)
        return vn_fail(err, VN_E_STATE, "index '%s': there is a new snapshot",
                       index->dir);
    if (epoch >= UINT32_MAX)
        return vn_fail(err, VN_E_LIMIT, "index '%s': no epochs left",
                       index->dir);
    epoch++;
    if (set_condemned(index, txn, pack_ids, count, (uint32_t)epoch, &changed,
                      err) < 0 ||
        count_condemned(index, txn, (int64_t)changed, err) < 0 ||
        put_meta(index, txn, "epoch", epoch, err) < 0)
        return -1;
    return index_commit(index, &txn, err);
}

int index_rescue(struct index *index, const uint64_t *pack_ids, size_t count,
                 struct vn_err *err)
{
    vn_auto(index_txn) MDB_txn *txn = NULL;
    uint64_t changed;

    if (fault_hit("store.index.rescue"))
        return vn_fail(err, EIO, "index '%s': rescue packs", index->dir);
    if (index_begin(index, 0, &txn, err) < 0 ||
        set_condemned(index, txn, pack_ids, count, 0, &changed, err) < 0)
        return -1;
    if (changed == 0)
        return 0;
    if (count_condemned(index, txn, -(int64_t)changed, err) < 0)
        return -1;
    return index_commit(index, &txn, err);
}

/* ---- chunks ----------------------------------------------------------- */

static bool same_place(const struct chunk_place *a, const struct chunk_place *b)
{
    return a->pack_id == b->pack_id && a->offset == b->offset &&
           a->stored_size == b->stored_size;
}

int index_seek_near(MDB_cursor *cursor, const struct chunk_id *id, MDB_val *ret)
{
    MDB_val key;

    for (unsigned i = 0; i < NEAR_STEPS; i++) {
        int order;

        if (mdb_cursor_get(cursor, &key, ret, MDB_NEXT) ||
            key.mv_size != sizeof(*id))
            break;
        order = memcmp(key.mv_data, id, sizeof(*id));
        if (order == 0)
            return 0;
        if (order > 0)
            break;
    }
    key = index_key_id(id);
    return mdb_cursor_get(cursor, &key, ret, MDB_SET);
}

/* Put the cursor on a chunk. 1: it is not at `place` any more. */
static int seek_chunk(struct index *index, MDB_cursor *cursor,
                      const struct chunk_id *id,
                      const struct chunk_place *place, struct vn_err *err)
{
    struct chunk_place now;
    MDB_val value;
    int rc = index_seek_near(cursor, id, &value);

    if (rc == MDB_NOTFOUND)
        return 1;
    if (rc)
        return index_fail(index, rc, "look up a chunk", err);
    if (index_place_decode(index, &value, &now, err) < 0)
        return -1;
    return same_place(&now, place) ? 0 : 1;
}

static int move_chunks(struct index *index, MDB_txn *txn,
                       const struct index_move *moves, size_t count,
                       struct vn_err *err)
{
    vn_auto(index_cursor) MDB_cursor *cursor = NULL;
    int rc = mdb_cursor_open(txn, index->tables[TABLE_CHUNKS], &cursor);

    if (rc)
        return index_fail(index, rc, "move chunks", err);
    for (size_t i = 0; i < count; i++) {
        uint8_t place[INDEX_PLACE_SIZE];
        MDB_val key = index_key_id(&moves[i].id);
        MDB_val value = {.mv_size = sizeof(place), .mv_data = place};
        int result =
            seek_chunk(index, cursor, &moves[i].id, &moves[i].from, err);

        if (result < 0)
            return -1;
        if (result > 0)
            continue;
        index_place_encode(&moves[i].to, place);
        rc = mdb_cursor_put(cursor, &key, &value, MDB_CURRENT);
        if (rc)
            return index_fail(index, rc, "move a chunk", err);
    }
    return 0;
}

static int move_range(struct index *index, const struct index_pack *packs,
                      size_t pack_count, const struct index_move *moves,
                      size_t count, bool first, struct vn_err *err)
{
    vn_auto(index_txn) MDB_txn *txn = NULL;

    if (fault_hit("store.index.move"))
        return vn_fail(err, EIO, "index '%s': move chunks", index->dir);
    if (index_begin(index, 0, &txn, err) < 0 ||
        index_enter_packs(index, txn, packs, pack_count, first, err) < 0 ||
        move_chunks(index, txn, moves, count, err) < 0)
        return -1;
    return index_commit(index, &txn, err);
}

int index_move(struct index *index, const struct index_pack *packs,
               size_t pack_count, const struct index_move *moves, size_t count,
               struct vn_err *err)
{
    size_t done = 0;
    size_t n;

    do {
        n = count - done < INDEX_BATCH ? count - done : INDEX_BATCH;
        if (move_range(index, packs, pack_count, moves + done, n, done == 0,
                       err) < 0)
            return -1;
        done += n;
    } while (done < count);
    return 0;
}

static int delete_chunks(struct index *index, MDB_txn *txn,
                         const struct index_chunk *chunks, size_t count,
                         const struct index_condemned *condemned,
                         size_t *ret_count, struct vn_err *err)
{
    vn_auto(index_cursor) MDB_cursor *cursor = NULL;
    int rc = mdb_cursor_open(txn, index->tables[TABLE_CHUNKS], &cursor);
    size_t deleted = 0;

    if (rc)
        return index_fail(index, rc, "delete chunks", err);
    for (size_t i = 0; i < count; i++) {
        int result;

        if (!index_condemned_has(condemned, chunks[i].place.pack_id))
            continue;
        result =
            seek_chunk(index, cursor, &chunks[i].id, &chunks[i].place, err);
        if (result < 0)
            return -1;
        if (result > 0)
            continue;
        rc = mdb_cursor_del(cursor, 0);
        if (rc)
            return index_fail(index, rc, "delete a chunk", err);
        deleted++;
    }
    *ret_count = deleted;
    return 0;
}

int index_sweep_chunks(struct index *index, const struct index_chunk *chunks,
                       size_t count, size_t *ret_count, struct vn_err *err)
{
    vn_auto(index_condemned) struct index_condemned condemned = {0};
    vn_auto(index_txn) MDB_txn *txn = NULL;
    uint64_t next_pack;
    size_t deleted = 0;

    if (fault_hit("store.index.sweep"))
        return vn_fail(err, EIO, "index '%s': delete chunks", index->dir);
    if (index_begin(index, 0, &txn, err) < 0 ||
        index_get_condemned(index, txn, &condemned, err) < 0 ||
        get_meta(index, txn, "next_pack", 1, &next_pack, err) < 0 ||
        put_meta(index, txn, "swept", next_pack, err) < 0 ||
        delete_chunks(index, txn, chunks, count, &condemned, &deleted, err) <
            0 ||
        index_commit(index, &txn, err) < 0)
        return -1;
    *ret_count = deleted;
    return 0;
}

int index_sweep_packs(struct index *index, const uint64_t *pack_ids,
                      size_t count, uint64_t *ret, size_t *ret_count,
                      struct vn_err *err)
{
    vn_auto(index_txn) MDB_txn *txn = NULL;
    size_t deleted = 0;

    if (fault_hit("store.index.sweep"))
        return vn_fail(err, EIO, "index '%s': delete packs", index->dir);
    if (index_begin(index, 0, &txn, err) < 0)
        return -1;
    for (size_t i = 0; i < count; i++) {
        struct index_pack pack;
        uint64_t space;
        MDB_val key = index_key_u64(pack_ids[i], &space);
        int result = index_get_pack(index, txn, pack_ids[i], &pack, err);

        if (result < 0)
            return -1;
        if (result > 0 || !pack.condemned)
            continue;
        result = mdb_del(txn, index->tables[TABLE_PACKS], &key, NULL);
        if (result)
            return index_fail(index, result, "delete a pack", err);
        ret[deleted++] = pack.id;
    }
    if (count_condemned(index, txn, -(int64_t)deleted, err) < 0 ||
        index_commit(index, &txn, err) < 0)
        return -1;
    *ret_count = deleted;
    return 0;
}
