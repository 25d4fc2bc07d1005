#include "store/repair_internal.h"

/*
 * Repair: writing chunks that were found whole into new packs, each pack
 * durable before the one transaction that turns the rows of its chunks to it.
 *
 * A manifest gets a pack of its own, as always: their order is that of the
 * commits. A manifest that moves is therefore later in the order than it was,
 * should the index ever be rebuilt; for tombstones only live ones are moved, so
 * none that is to delete an earlier one comes behind a later snapshot.
 */

#include "common/fault.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

void mover_init(struct mover *m, struct repair *r, struct store *store,
                bool found_anew)
{
    *m = (struct mover){.store = store,
                        .repair = r,
                        .ident = store->ident,
                        .builder = pack_builder_new(store->config.store_id),
                        .found_anew = found_anew};
}

void mover_done(struct mover *m)
{
    pack_builder_free(m->builder);
    free(m->moves);
    *m = (struct mover){0};
}

static int by_id(const void *a, const void *b)
{
    return chunk_id_compare(&((const struct index_move *)a)->id,
                            &((const struct index_move *)b)->id);
}

/* Chunks that are not in the index: enter them. */
static int enter(struct mover *m, const struct index_pack *pack,
                 struct vn_err *err)
{
    vn_auto(free) struct index_chunk *chunks =
        vn_alloc(m->count * sizeof(*chunks));

    for (size_t i = 0; i < m->count; i++)
        chunks[i] =
            (struct index_chunk){.id = m->moves[i].id, .place = m->moves[i].to};
    return index_add(m->store->index, pack, 1, chunks, m->count, err);
}

int mover_flush(struct mover *m, struct vn_err *err)
{
    struct index_pack pack;
    uint64_t pack_id;

    if (m->count == 0)
        return 0;
    if (index_take_pack_ids(m->store->index, 1, &pack_id, err) < 0 ||
        store_put_pack(m->store, m->builder, pack_id, &pack, err) < 0)
        return -1;
    if (fault_hit("store.repair.moved"))
        return vn_fail(err, EIO, "turn to pack %012llx",
                       (unsigned long long)pack_id);
    for (size_t i = 0; i < m->count; i++)
        m->moves[i].to.pack_id = pack_id;
    qsort(m->moves, m->count, sizeof(*m->moves), by_id);
    if ((m->found_anew ? enter(m, &pack, err)
                       : index_move(m->store->index, &pack, 1, m->moves,
                                    m->count, err)) < 0) {
        store_abandon_pack(m->store, pack_id);
        return -1;
    }
    m->repair->counts.packs_new++;
    if (m->found_anew)
        m->repair->counts.chunks_healed += m->count;
    else
        m->repair->counts.chunks_moved += m->count;
    m->count = 0;
    pack_builder_reset(m->builder);
    return 0;
}

/* What may lie in one pack with this. */
static enum chunk_kind class_of(enum chunk_kind kind)
{
    return kind == CHUNK_LEAF || kind == CHUNK_INNER ? CHUNK_PAGE : kind;
}

/* May it not lie with what is in the open pack? */
static bool is_apart(const struct mover *m, enum chunk_kind kind,
                     uint64_t domain)
{
    return class_of(kind) != m->kind || kind == CHUNK_MANIFEST ||
           domain != m->ident.domain ||
           pack_builder_size(m->builder) >= PACK_TARGET_SIZE;
}

int mover_add(struct mover *m, const struct index_chunk *chunk, uint64_t domain,
              const uint8_t *data, size_t size, struct vn_err *err)
{
    enum chunk_kind kind = (enum chunk_kind)chunk->place.kind;
    struct index_move *move;
    struct pack_entry entry;
    struct ident_full id;

    /* Nodes may lie with the pages of any domain. */
    if (kind == CHUNK_LEAF || kind == CHUNK_INNER)
        domain = m->ident.domain;
    if (m->count > 0 && is_apart(m, kind, domain) && mover_flush(m, err) < 0)
        return -1;
    m->kind = class_of(kind);
    if (domain != m->ident.domain) {
        pack_builder_set_domain(m->builder, domain);
        ident_in_domain(&m->store->ident, domain, &m->ident);
    }
    ident_chunk(&m->ident, kind, data, size, &id);
    if (pack_builder_add(m->builder, kind, &id, data, size, &entry, err) < 0)
        return -1;
    m->moves =
        repair_grown(m->moves, m->count, &m->capacity, sizeof(*m->moves));
    move = &m->moves[m->count++];
    *move = (struct index_move){.id = chunk->id,
                                .from = chunk->place,
                                .to = {.offset = entry.offset,
                                       .stored_size = entry.stored_size,
                                       .kind = entry.kind,
                                       .codec = entry.codec}};
    return 0;
}
