#include "store/index_internal.h"

/*
 * Entering chunks, in bounded transactions over rising ranges of ids.
 *
 * LMDB copies each page that a transaction touches and can use the old ones
 * only from the next but one transaction on. Ids are uniform, so a large
 * batch touches every leaf: in one transaction it would need the whole tree a
 * second time, and LMDB's file, once grown, stays so. INDEX_BATCH chunks touch
 * at most that many leaves, and of a large batch, being sorted, a short range
 * of neighbours; what one range frees the next but one takes.
 *
 *     first      the packs' rows, and the lowest ids
 *     then       the next range; each looks whether the packs are still there
 *
 * So a chunk in the table lies in a pack in the table at any time. Who dies in
 * between leaves packs of which some chunks have no row. That is what a second
 * copy of a chunk looks like too: dead weight, which gc counts as dead. Nobody
 * refers to chunks without a row: writers look there, and so does the check
 * before a commit. Those chunks that were entered are as good as any.
 *
 * Trying again finds the packs' rows, which must say the same, and rows of
 * chunks, which stay. The writer's hold keeps gc from the packs meanwhile; the
 * look in later transactions is for callers without one: a row into a pack
 * that was swept would be a chunk that is found and cannot be read.
 */

#include "common/auto.h"
#include "common/fault.h"

#include <errno.h>

static int check_pack(struct index *index, const struct index_pack *pack,
                      const struct index_pack *now, struct vn_err *err)
{
    if (now->size != pack->size || now->count != pack->count)
        return vn_fail(err, VN_E_CORRUPT,
                       "index '%s': another pack %012llx is there already",
                       index->dir, (unsigned long long)pack->id);
    if (now->condemned)
        return vn_fail(err, VN_E_STATE, "index '%s': pack %012llx is condemned",
                       index->dir, (unsigned long long)pack->id);
    return 0;
}

int index_enter_packs(struct index *index, MDB_txn *txn,
                      const struct index_pack *packs, size_t count, bool first,
                      struct vn_err *err)
{
    for (size_t i = 0; i < count; i++) {
        struct index_pack now;
        int result = index_get_pack(index, txn, packs[i].id, &now, err);

        if (result == 0)
            result = check_pack(index, &packs[i], &now, err);
        else if (result > 0 && first)
            result =
                index_put_pack(index, txn, &packs[i], MDB_NOOVERWRITE, err);
        else if (result > 0)
            result = vn_fail(err, VN_E_STATE,
                             "index '%s': pack %012llx was collected",
                             index->dir, (unsigned long long)packs[i].id);
        if (result < 0)
            return -1;
    }
    return 0;
}

static int add_range(struct index *index, const struct index_pack *packs,
                     size_t pack_count, const struct index_chunk *chunks,
                     size_t count, bool first, struct vn_err *err)
{
    vn_auto(index_txn) MDB_txn *txn = NULL;

    if (fault_hit("store.index.add"))
        return vn_fail(err, EIO, "index '%s': enter chunks", index->dir);
    if (index_begin(index, 0, &txn, err) < 0 ||
        index_enter_packs(index, txn, packs, pack_count, first, err) < 0 ||
        index_add_in(index, txn, NULL, 0, chunks, count, err) < 0)
        return -1;
    return index_commit(index, &txn, err);
}

int index_add(struct index *index, const struct index_pack *packs,
              size_t pack_count, const struct index_chunk *chunks,
              size_t chunk_count, struct vn_err *err)
{
    size_t done = 0;
    size_t n;

    do {
        n = chunk_count - done < INDEX_BATCH ? chunk_count - done : INDEX_BATCH;
        if (add_range(index, packs, pack_count, chunks + done, n, done == 0,
                      err) < 0)
            return -1;
        done += n;
    } while (done < chunk_count);
    if (chunk_count > 0)
        index_known_refresh(index, 0);
    return 0;
}
