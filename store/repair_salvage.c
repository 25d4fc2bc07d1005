#include "store/repair_internal.h"

/*
 * Repair: looking for whole copies of lost chunks.
 *
 * Two writers may have stored one content at once; a writer that was killed
 * leaves packs that the index does not know; a gc that was killed leaves copies
 * behind. So the directories of all packs that the engine has are read, and
 * each chunk whose id is lost is tried against its content. The copy that is
 * found goes to a new pack: the one where it was may be an orphan, or about to
 * be removed.
 */

#include "common/fault.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct salvage {
    struct store *store;
    const struct id_set *live;
    struct mover mover;
    struct index_lost *lost; /* by rising id */
    size_t lost_count;
    bool *found; /* one for each */
    size_t left;
    struct engine_entry *entries;
    size_t entry_count;
    size_t entry_capacity;
};

static void list_entry(void *context, const struct engine_entry *entry)
{
    struct salvage *s = context;

    if (entry->partial)
        return;
    s->entries = repair_grown(s->entries, s->entry_count, &s->entry_capacity,
                              sizeof(*s->entries));
    s->entries[s->entry_count++] = *entry;
}

static int by_id(const void *key, const void *row)
{
    return chunk_id_compare(key, &((const struct index_lost *)row)->id);
}

/* Try one copy. That it is no good is no error. */
static int try_copy(struct salvage *s, uint64_t pack_id,
                    const struct pack_entry *entry, struct vn_err *err)
{
    struct chunk_id id = ident_short(&entry->id);
    const struct index_lost *lost =
        bsearch(&id, s->lost, s->lost_count, sizeof(*s->lost), by_id);
    struct index_chunk chunk = {.id = id,
                                .place = {.pack_id = pack_id,
                                          .offset = entry->offset,
                                          .stored_size = entry->stored_size,
                                          .kind = entry->kind,
                                          .codec = entry->codec}};
    vn_auto(free) uint8_t *data = NULL;
    struct vn_err ignored = VN_ERR_INIT;
    uint64_t domain;
    size_t size;

    if (!lost || s->found[lost - s->lost] || entry->kind == CHUNK_TOMBSTONE ||
        (entry->kind == CHUNK_MANIFEST && !id_set_has(s->live, &id)))
        return 0;
    data = malloc(pack_raw_limit(entry->kind));
    if (!data)
        return vn_fail(err, VN_E_LIMIT, "no memory for a chunk");
    if (chunk_read_at(s->store, (enum chunk_kind)entry->kind, &id, &chunk.place,
                      data, &size, &domain, &ignored) < 0)
        return 0;
    s->found[lost - s->lost] = true;
    s->left--;
    return mover_add(&s->mover, &chunk, domain, data, size, err);
}

static int search_pack(struct salvage *s, const struct engine_entry *entry,
                       struct vn_err *err)
{
    struct vn_err ignored = VN_ERR_INIT;
    struct pack pack;
    char damage[128];
    int result = 0;

    if (pack_read_ends(s->store->engine, entry->pack_id, entry->size, &pack,
                       damage, &ignored) < 0)
        return 0;
    for (uint32_t i = 0; result == 0 && i < pack.count; i++)
        result = try_copy(s, entry->pack_id, &pack.entries[i], err);
    pack_done(&pack);
    return result;
}

static int search(struct salvage *s, struct vn_err *err)
{
    if (engine_list(s->store->engine, list_entry, s, err) < 0)
        return -1;
    for (size_t i = 0; s->left > 0 && i < s->entry_count; i++)
        if (search_pack(s, &s->entries[i], err) < 0)
            return -1;
    return mover_flush(&s->mover, err);
}

int repair_salvage(struct repair *r, struct store *store,
                   const struct id_set *live, struct vn_err *err)
{
    struct salvage s = {.store = store, .live = live};
    int result = 0;

    if (fault_hit("store.repair.salvage"))
        return vn_fail(err, EIO, "look for lost chunks");
    if (index_list_lost(store->index, &s.lost, &s.lost_count, err) < 0)
        return -1;
    s.left = s.lost_count;
    if (s.lost_count > 0) {
        s.found = vn_alloc(s.lost_count * sizeof(*s.found));
        mover_init(&s.mover, r, store, true);
        result = search(&s, err);
        mover_done(&s.mover);
    }
    free(s.lost);
    free(s.found);
    free(s.entries);
    return result < 0 ? vn_wrap(err, "looking for lost chunks") : 0;
}
