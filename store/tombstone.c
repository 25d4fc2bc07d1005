#include "store/store_internal.h"

/*
 * Tombstones: what keeps a deleted snapshot deleted when the index is rebuilt
 * from packs.
 *
 *     tombstone   "VNTS", u32 0, id of the manifest[16],
 *                 u64 number of the pack it lay in, u64 seq; 40 bytes
 *
 * A tombstone deletes the manifest with its id in all packs whose number is
 * lower than that of the pack with the tombstone. Numbers are drawn when a
 * manifest or a tombstone is written, so lower is earlier: a snapshot that is
 * deleted and then committed once more, with the same id, lies in a later
 * pack. That holds because manifests and tombstones are never moved to another
 * pack.
 *
 * Order: the pack with the tombstones becomes durable, then the transaction
 * removes the rows. A process killed in between has deleted nothing; its pack
 * is an orphan that the next gc removes. (Were the index lost before that, its
 * rebuilding would find the snapshot deleted, as it was asked for.)
 *
 * gc keeps a tombstone until the pack that held the manifest is gone.
 *
 * The space that writers leave free is meant for this pack and transaction, so
 * that snapshots can be deleted on a full disk; where others have filled it,
 * the reserve (reserve.c).
 */

#include "common/buf.h"
#include "common/cursor.h"
#include "common/fault.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char tombstone_magic[4] = "VNTS";

void tombstone_encode(const struct tombstone *t,
                      uint8_t out[PACK_TOMBSTONE_SIZE])
{
    vn_auto(buf) struct buf b;

    buf_init(&b, PACK_TOMBSTONE_SIZE);
    buf_put(&b, tombstone_magic, sizeof(tombstone_magic));
    buf_put_le32(&b, 0);
    buf_put(&b, t->manifest.bytes, sizeof(t->manifest.bytes));
    buf_put_le64(&b, t->pack_id);
    buf_put_le64(&b, t->seq);
    assert(b.size == PACK_TOMBSTONE_SIZE && !b.broken);
    memcpy(out, b.data, b.size);
}

int tombstone_decode(const uint8_t *data, size_t size, struct tombstone *ret,
                     struct vn_err *err)
{
    struct cursor c = cursor_of(data, size);
    const uint8_t *magic = cursor_take(&c, sizeof(tombstone_magic));
    uint32_t zero = cursor_le32(&c);
    const uint8_t *id = cursor_take(&c, STORE_ID_SIZE);
    struct tombstone t = {0};

    t.pack_id = cursor_le64(&c);
    t.seq = cursor_le64(&c);
    if (c.failed || size != PACK_TOMBSTONE_SIZE || !magic || !id || zero ||
        memcmp(magic, tombstone_magic, sizeof(tombstone_magic)) != 0)
        return vn_fail(err, VN_E_CORRUPT, "%zu bytes that are no tombstone",
                       size);
    memcpy(t.manifest.bytes, id, STORE_ID_SIZE);
    *ret = t;
    return 0;
}

/* Add the tombstone of one snapshot to the pack. */
static int add_tombstone(struct store *store, struct pack_builder *builder,
                         const struct index_snapshot *row,
                         struct index_chunk *ret, struct vn_err *err)
{
    struct tombstone t = {.manifest = row->id, .seq = row->seq};
    uint8_t data[PACK_TOMBSTONE_SIZE];
    struct chunk_place place;
    struct pack_entry entry;
    struct ident_full id;

    if (index_find(store->index, &row->id, 1, &place, err) < 0)
        return -1;
    t.pack_id = place.pack_id;
    tombstone_encode(&t, data);
    ident_chunk(&store->ident, CHUNK_TOMBSTONE, data, sizeof(data), &id);
    if (pack_builder_add(builder, CHUNK_TOMBSTONE, &id, data, sizeof(data),
                         &entry, err) < 0)
        return -1;
    *ret = (struct index_chunk){.id = ident_short(&id),
                                .place = {.offset = entry.offset,
                                          .stored_size = entry.stored_size,
                                          .kind = entry.kind,
                                          .codec = entry.codec}};
    return 0;
}

/* Write the pack, without regard to the space that is kept free for it. */
static int put_pack(struct store *store, struct pack_builder *builder,
                    struct index_pack *ret, struct vn_err *err)
{
    uint64_t pack_id;
    uint8_t *data;
    size_t size;

    if (fault_hit("store.tombstone"))
        return vn_fail(err, EIO, "write tombstones");
    if (index_take_pack_ids(store->index, 1, &pack_id, err) < 0 ||
        pack_builder_finish(builder, pack_id, &data, &size, err) < 0 ||
        engine_put(store->engine, pack_id, data, size, err) < 0)
        return vn_wrap(err, "writing tombstones");
    *ret = (struct index_pack){.id = pack_id,
                               .size = size,
                               .count = (uint32_t)pack_builder_count(builder)};
    return 0;
}

static int delete_rows(struct store *store, struct pack_builder *builder,
                       const struct index_snapshot *rows, size_t count,
                       struct vn_err *err)
{
    vn_auto(free) struct index_chunk *chunks =
        vn_alloc(count * sizeof(*chunks));
    struct index_pack pack;

    for (size_t i = 0; i < count; i++)
        if (add_tombstone(store, builder, &rows[i], &chunks[i], err) < 0)
            return -1;
    if (put_pack(store, builder, &pack, err) < 0)
        return -1;
    for (size_t i = 0; i < count; i++)
        chunks[i].place.pack_id = pack.id;
    if (index_delete_snapshots(store->index, rows, count, &pack, chunks, err) <
        0) {
        store_abandon_pack(store, pack.id);
        return -1;
    }
    return 0;
}

int snapshot_delete_rows(struct store *store, const struct index_snapshot *rows,
                         size_t count, struct vn_err *err)
{
    struct pack_builder *builder;
    int result;

    if (count == 0)
        return 0;
    store_reserve_release(store);
    builder = pack_builder_new(store->config.store_id);
    result = delete_rows(store, builder, rows, count, err);
    pack_builder_free(builder);
    return result;
}
