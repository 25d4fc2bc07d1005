#include "store/writer_internal.h"

/*
 * The chunks of a writer that only the writer knows of.
 *
 * Open addressing over a list; ids are uniform, so any of their bytes are a
 * hash. Nothing is removed singly: what goes is a prefix of the list, and the
 * table is built anew over the rest, which is a few packs' chunks.
 */

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define TABLE_FIRST  4096u /* slots; a power of two, at most half full */
#define CHUNKS_FIRST 1024u

void pending_init(struct pending *pending)
{
    *pending = (struct pending){.table_size = TABLE_FIRST};
    pending->table = vn_alloc(TABLE_FIRST * sizeof(*pending->table));
}

void pending_done(struct pending *pending)
{
    free(pending->chunks);
    free(pending->table);
}

static size_t slot_of(const struct pending *pending, const struct chunk_id *id)
{
    size_t hash;

    memcpy(&hash, id->bytes, sizeof(hash));
    return hash & (pending->table_size - 1);
}

void pending_prefetch(const struct pending *pending, const struct chunk_id *id)
{
    __builtin_prefetch(&pending->table[slot_of(pending, id)]);
}

bool pending_has(const struct pending *pending, const struct chunk_id *id)
{
    size_t mask = pending->table_size - 1;
    size_t slot = slot_of(pending, id);

    if (pending->count == 0)
        return false;
    for (; pending->table[slot]; slot = (slot + 1) & mask)
        if (chunk_id_compare(&pending->chunks[pending->table[slot] - 1].id,
                             id) == 0)
            return true;
    return false;
}

static void table_insert(struct pending *pending, size_t number)
{
    size_t mask = pending->table_size - 1;
    size_t slot = slot_of(pending, &pending->chunks[number].id);

    while (pending->table[slot])
        slot = (slot + 1) & mask;
    pending->table[slot] = (uint32_t)number + 1;
}

static void table_build(struct pending *pending, size_t size)
{
    free(pending->table);
    pending->table_size = size;
    pending->table = vn_alloc(size * sizeof(*pending->table));
    for (size_t i = 0; i < pending->count; i++)
        table_insert(pending, i);
}

void pending_add(struct pending *pending, const struct pack_entry *entry)
{
    if (pending->count == pending->capacity) {
        size_t capacity =
            pending->capacity ? 2 * pending->capacity : CHUNKS_FIRST;
        struct index_chunk *chunks =
            realloc(pending->chunks, capacity * sizeof(*chunks));

        if (!chunks)
            abort();
        pending->chunks = chunks;
        pending->capacity = capacity;
    }
    pending->chunks[pending->count++] = (struct index_chunk){
        .id = ident_short(&entry->id),
        .place = {.offset = entry->offset,
                  .stored_size = entry->stored_size,
                  .kind = entry->kind,
                  .codec = entry->codec},
    };
    if (2 * pending->count > pending->table_size)
        table_build(pending, 2 * pending->table_size);
    else
        table_insert(pending, pending->count - 1);
}

void pending_set_pack(struct pending *pending, size_t count, uint64_t pack_id)
{
    assert(count <= pending->count - pending->durable);
    for (size_t i = 0; i < count; i++)
        pending->chunks[pending->durable + i].place.pack_id = pack_id;
    pending->durable += count;
}

void pending_forget(struct pending *pending, size_t count)
{
    assert(count <= pending->durable);
    pending->count -= count;
    pending->durable -= count;
    memmove(pending->chunks, pending->chunks + count,
            pending->count * sizeof(*pending->chunks));
    table_build(pending, pending->table_size);
}
