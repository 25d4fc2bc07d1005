#include "store/store_internal.h"

/*
 * A writer: takes chunks, keeps those that are new in an open pack, and makes
 * packs and then the index durable.
 *
 * Pending chunks - stored by this writer, not yet in the index - are listed in
 * the order they came, with an open-addressing table over them. Those of the
 * open pack are the tail of the list and have no pack number yet: it is
 * drawn when the pack is sealed, so that a pack that could not be written is
 * simply tried again under another number.
 *
 *     known?   pending table, then the index (sorted batch)
 *     new      compressed into the open pack
 *     full     pack written, synced, renamed, directory synced
 *     flush    the open pack too, then one index transaction
 *
 * Order is the crash promise: the index never names a pack that is not
 * durable. A writer that dies leaves packs that nothing names: garbage.
 *
 * Memory: one pack (9 MiB) and 40 + 8 bytes a pending chunk; when
 * PENDING_MAX chunks (1 GiB of pages, 12 MiB of RAM) wait, the index is
 * updated on the way. Larger batches write fewer index pages for each chunk.
 *
 * Two writers may store one chunk at the same time; the index keeps the first
 * place, the second copy is dead weight until gc.
 *
 * A writer has a hold (hold.c) from beginning to end: what it found known, or
 * put, gc leaves alone. Chunks in packs that were condemned when it began are
 * not known to it: they are stored again, and the index takes the new place.
 */

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PENDING_MAX    262144u
#define TABLE_FIRST    4096u /* slots; a power of two, at most half full */
#define PACK_ID_BLOCK  64u   /* numbers drawn at a time */
#define PUT_MAX        512u  /* chunks in one call of store_writer_put() */
#define INDEX_ROW_COST 256u  /* bytes of disk a chunk may need in the index */

struct store_writer {
    struct store *store;
    struct store_hold *hold;
    struct pack_builder *builder;
    struct store_counts counts;

    struct index_chunk *pending; /* pending_count of pending_capacity */
    size_t pending_count;
    size_t pending_capacity;
    size_t sealed_count; /* of these, in packs that are written */
    uint32_t *table;     /* index into pending + 1; 0: free */
    size_t table_size;

    struct index_pack *packs; /* written, not in the index */
    size_t pack_count;
    size_t pack_capacity;

    uint64_t next_pack_id; /* block of numbers drawn */
    uint64_t end_pack_id;
};

struct store_writer *store_writer_open(struct store *store, struct vn_err *err)
{
    struct store_hold *hold = store_hold_open(store, err);
    struct store_writer *writer;

    if (!hold)
        return NULL;
    writer = vn_alloc(sizeof(*writer));
    writer->store = store;
    writer->hold = hold;
    writer->builder = pack_builder_new(store->config.store_id);
    writer->table_size = TABLE_FIRST;
    writer->table = vn_alloc(TABLE_FIRST * sizeof(*writer->table));
    return writer;
}

void store_writer_free(struct store_writer *writer)
{
    if (!writer)
        return;
    pack_builder_free(writer->builder);
    free(writer->pending);
    free(writer->table);
    free(writer->packs);
    store_hold_close(writer->hold);
    free(writer);
}

struct store_hold *store_writer_hold(struct store_writer *writer)
{
    return writer->hold;
}

struct store *store_writer_store(const struct store_writer *writer)
{
    return writer->store;
}

struct store_counts *store_writer_counters(struct store_writer *writer)
{
    return &writer->counts;
}

void store_writer_counts(const struct store_writer *writer,
                         struct store_counts *ret)
{
    *ret = writer->counts;
}

/* ---- the pending table ------------------------------------------------ */

static size_t slot_of(const struct store_writer *writer,
                      const struct chunk_id *id)
{
    size_t hash;

    /* Ids are uniform: any of their bytes are a hash. */
    memcpy(&hash, id->bytes, sizeof(hash));
    return hash & (writer->table_size - 1);
}

static bool is_pending(const struct store_writer *writer,
                       const struct chunk_id *id)
{
    size_t slot = slot_of(writer, id);

    for (; writer->table[slot]; slot = (slot + 1) & (writer->table_size - 1))
        if (chunk_id_compare(&writer->pending[writer->table[slot] - 1].id,
                             id) == 0)
            return true;
    return false;
}

static void table_insert(struct store_writer *writer, size_t pending)
{
    size_t slot = slot_of(writer, &writer->pending[pending].id);

    while (writer->table[slot])
        slot = (slot + 1) & (writer->table_size - 1);
    writer->table[slot] = (uint32_t)pending + 1;
}

static void table_rebuild(struct store_writer *writer, size_t size)
{
    free(writer->table);
    writer->table_size = size;
    writer->table = vn_alloc(size * sizeof(*writer->table));
    for (size_t i = 0; i < writer->pending_count; i++)
        table_insert(writer, i);
}

static void pending_add(struct store_writer *writer,
                        const struct pack_entry *entry)
{
    struct index_chunk *chunk;

    if (writer->pending_count == writer->pending_capacity) {
        size_t capacity =
            writer->pending_capacity ? 2 * writer->pending_capacity : 1024;

        chunk = realloc(writer->pending, capacity * sizeof(*chunk));
        if (!chunk)
            abort();
        writer->pending = chunk;
        writer->pending_capacity = capacity;
    }
    chunk = &writer->pending[writer->pending_count++];
    *chunk = (struct index_chunk){
        .id = ident_short(&entry->id),
        .place = {.offset = entry->offset,
                  .stored_size = entry->stored_size,
                  .kind = entry->kind,
                  .codec = entry->codec},
    };
    if (2 * writer->pending_count > writer->table_size)
        table_rebuild(writer, 2 * writer->table_size);
    else
        table_insert(writer, writer->pending_count - 1);
}

/* ---- packs and index -------------------------------------------------- */

static int take_pack_id(struct store_writer *writer, uint64_t *ret,
                        struct vn_err *err)
{
    if (writer->next_pack_id == writer->end_pack_id) {
        uint64_t first;

        if (index_take_pack_ids(writer->store->index, PACK_ID_BLOCK, &first,
                                err) < 0)
            return -1;
        writer->next_pack_id = first;
        writer->end_pack_id = first + PACK_ID_BLOCK;
    }
    *ret = writer->next_pack_id++;
    return 0;
}

static void packs_add(struct store_writer *writer,
                      const struct index_pack *pack)
{
    if (writer->pack_count == writer->pack_capacity) {
        size_t capacity = writer->pack_capacity ? 2 * writer->pack_capacity : 8;
        struct index_pack *packs =
            realloc(writer->packs, capacity * sizeof(*packs));

        if (!packs)
            abort();
        writer->packs = packs;
        writer->pack_capacity = capacity;
    }
    writer->packs[writer->pack_count++] = *pack;
}

/* Write the open pack, if there is anything in it. */
static int seal(struct store_writer *writer, struct vn_err *err)
{
    struct index_pack pack;
    uint64_t pack_id;

    if (pack_builder_count(writer->builder) == 0)
        return 0;
    if (take_pack_id(writer, &pack_id, err) < 0 ||
        store_put_pack(writer->store, writer->builder, pack_id, &pack, err) < 0)
        return -1;
    for (size_t i = writer->sealed_count; i < writer->pending_count; i++)
        writer->pending[i].place.pack_id = pack_id;
    writer->sealed_count = writer->pending_count;
    writer->counts.bytes_stored += pack.size;
    packs_add(writer, &pack);
    pack_builder_reset(writer->builder);
    return 0;
}

static int by_id(const void *a, const void *b)
{
    return chunk_id_compare(&((const struct index_chunk *)a)->id,
                            &((const struct index_chunk *)b)->id);
}

/* Enter everything pending; the open pack is empty. */
static int enter_pending(struct store_writer *writer, struct vn_err *err)
{
    assert(writer->sealed_count == writer->pending_count);
    if (writer->pack_count == 0)
        return 0;
    if (store_check_space(writer->store, writer->pending_count * INDEX_ROW_COST,
                          err) < 0)
        return -1;
    qsort(writer->pending, writer->pending_count, sizeof(*writer->pending),
          by_id);
    if (index_add(writer->store->index, writer->packs, writer->pack_count,
                  writer->pending, writer->pending_count, err) < 0) {
        table_rebuild(writer, writer->table_size);
        return -1;
    }
    writer->pack_count = 0;
    writer->pending_count = 0;
    writer->sealed_count = 0;
    memset(writer->table, 0, writer->table_size * sizeof(*writer->table));
    return 0;
}

int store_writer_flush(struct store_writer *writer, struct vn_err *err)
{
    if (seal(writer, err) < 0 || enter_pending(writer, err) < 0)
        return vn_wrap(err, "flushing a writer of '%s'", writer->store->path);
    return 0;
}

/* ---- storing ---------------------------------------------------------- */

static int store_new(struct store_writer *writer, enum chunk_kind kind,
                     const struct ident_full *id, const uint8_t *data,
                     size_t size, struct vn_err *err)
{
    struct pack_entry entry;

    if (pack_builder_size(writer->builder) >= PACK_TARGET_SIZE) {
        if (seal(writer, err) < 0)
            return -1;
        if (writer->pending_count >= PENDING_MAX &&
            enter_pending(writer, err) < 0)
            return -1;
    }
    if (pack_builder_add(writer->builder, kind, id, data, size, &entry, err) <
        0)
        return -1;
    pending_add(writer, &entry);
    return 0;
}

/* Sort key and number of a chunk that the pending table does not have. */
struct candidate {
    struct chunk_id id;
    uint32_t number;
};

static int by_candidate(const void *a, const void *b)
{
    return chunk_id_compare(&((const struct candidate *)a)->id,
                            &((const struct candidate *)b)->id);
}

/* Which of the chunks does the index not have, as far as the writer may refer
 * to them? Sets missing[number]. */
static int find_missing(struct store_writer *writer,
                        const struct ident_full *ids, size_t count,
                        bool *missing, struct vn_err *err)
{
    struct candidate candidates[PUT_MAX];
    struct chunk_id sorted[PUT_MAX];
    struct chunk_place places[PUT_MAX];
    size_t n = 0;

    for (size_t i = 0; i < count; i++) {
        struct chunk_id id = ident_short(&ids[i]);

        missing[i] = false;
        if (!is_pending(writer, &id))
            candidates[n++] =
                (struct candidate){.id = id, .number = (uint32_t)i};
    }
    qsort(candidates, n, sizeof(*candidates), by_candidate);
    for (size_t i = 0; i < n; i++)
        sorted[i] = candidates[i].id;
    if (index_find_known(writer->store->index, sorted, n, places, err) < 0)
        return -1;
    for (size_t i = 0; i < n; i++)
        missing[candidates[i].number] =
            !store_hold_sees(writer->hold, &places[i]);
    return 0;
}

int store_writer_put(struct store_writer *writer, enum chunk_kind kind,
                     const struct ident_full *ids, const uint8_t *const *data,
                     size_t size, size_t count, size_t *ret_new,
                     struct vn_err *err)
{
    bool missing[PUT_MAX];
    size_t stored = 0;

    assert(count <= PUT_MAX);
    if (find_missing(writer, ids, count, missing, err) < 0)
        return -1;
    for (size_t i = 0; i < count; i++) {
        struct chunk_id id = ident_short(&ids[i]);

        /* An equal chunk may have come earlier in this very batch. */
        if (!missing[i] || is_pending(writer, &id))
            continue;
        if (store_new(writer, kind, &ids[i], data[i], size, err) < 0)
            return -1;
        stored++;
    }
    *ret_new = stored;
    return 0;
}
