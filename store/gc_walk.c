#include "store/store_internal.h"

/*
 * Everything that snapshots need: a walk from manifests over maps to pages.
 *
 * Maps share nodes, in one snapshot and over many. A node that was entered is
 * remembered by its whole id and not entered again: what lies below it was
 * visited, whatever the size of the image says. So the walk costs as much as
 * there are different nodes, each read once, and a map in which one node
 * repeats a million times costs no more. Memory: 32 to 64 bytes a node, that
 * is 16 to 32 MiB for 1 TiB of different images.
 *
 * A node that cannot be read ends the walk with an error: what it refers to is
 * not known, so nothing may be taken for dead.
 */

#include "store/read_ahead.h"

#include <stdlib.h>
#include <string.h>

#define SEEN_FIRST 1024u

void gc_walk_done(struct gc_walk *walk)
{
    free(walk->seen);
    walk->seen = NULL;
    walk->seen_size = 0;
    walk->seen_count = 0;
}

/* ---- nodes that were seen --------------------------------------------- */

/* Where the id is in the table, or the free slot where it would be. */
static struct chunk_id *seen_slot(const struct gc_walk *walk,
                                  const struct chunk_id *id)
{
    size_t slot;

    /* Ids are uniform: any of their bytes are a hash. */
    memcpy(&slot, id->bytes, sizeof(slot));
    for (slot &= walk->seen_size - 1; !chunk_id_is_zero(&walk->seen[slot]);
         slot = (slot + 1) & (walk->seen_size - 1))
        if (chunk_id_compare(&walk->seen[slot], id) == 0)
            break;
    return &walk->seen[slot];
}

static int seen_grow(struct gc_walk *walk, struct vn_err *err)
{
    struct gc_walk grown = *walk;

    grown.seen_size = walk->seen_size ? 2 * walk->seen_size : SEEN_FIRST;
    grown.seen = calloc(grown.seen_size, sizeof(*grown.seen));
    if (!grown.seen)
        return vn_fail(err, VN_E_LIMIT, "no memory for %zu map nodes",
                       walk->seen_count);
    for (size_t i = 0; i < walk->seen_size; i++)
        if (!chunk_id_is_zero(&walk->seen[i]))
            *seen_slot(&grown, &walk->seen[i]) = walk->seen[i];
    free(walk->seen);
    *walk = grown;
    return 0;
}

/* 1: it is new, and is remembered from now on. */
static int seen_add(struct gc_walk *walk, const struct chunk_id *id,
                    struct vn_err *err)
{
    struct chunk_id *slot;

    if (2 * (walk->seen_count + 1) > walk->seen_size &&
        seen_grow(walk, err) < 0)
        return -1;
    slot = seen_slot(walk, id);
    if (!chunk_id_is_zero(slot))
        return 0;
    *slot = *id;
    walk->seen_count++;
    return 1;
}

/* ---- the walk --------------------------------------------------------- */

static int visit_leaf(struct gc_walk *walk, struct map_node *leaf,
                      struct vn_err *err)
{
    size_t count = 0;

    for (unsigned i = 0; i < MAP_FANOUT; i++)
        if (!chunk_id_is_zero(&leaf->ids[i]))
            leaf->ids[count++] = leaf->ids[i];
    return walk->visit(walk->context, leaf->ids, count, err);
}

static int walk_node(struct gc_walk *walk, const struct chunk_id *id,
                     unsigned height, struct vn_err *err)
{
    vn_auto(free) struct map_node *node = NULL;
    int fresh = seen_add(walk, id, err);

    if (fresh <= 0)
        return fresh;
    if (walk->visit(walk->context, id, 1, err) < 0)
        return -1;
    node = vn_alloc(sizeof(*node));
    if (chunk_read_node(walk->store, id, height, node, err) < 0)
        return -1;
    if (height == 0)
        return visit_leaf(walk, node, err);
    if (height == 1)
        read_ahead_nodes(walk->store, node->ids, MAP_FANOUT);
    for (unsigned i = 0; i < MAP_FANOUT; i++)
        if (!chunk_id_is_zero(&node->ids[i]) &&
            walk_node(walk, &node->ids[i], height - 1, err) < 0)
            return -1;
    return 0;
}

int gc_walk_manifest(struct gc_walk *walk, const json_t *manifest,
                     struct vn_err *err)
{
    json_t *objects = json_object_get(manifest, "objects");
    struct map_root root;
    const char *name;
    json_t *entry;

    json_object_foreach (objects, name, entry) {
        if (manifest_parse_root(entry, &root, err) < 0)
            return vn_wrap(err, "object '%.200s'", name);
        if (chunk_id_is_zero(&root.root))
            continue;
        if (walk_node(walk, &root.root, map_height(root.size), err) < 0)
            return vn_wrap(err, "object '%.200s'", name);
    }
    return 0;
}

/* ---- rescue ----------------------------------------------------------- */

struct rescue {
    struct store *store;
    const struct index_condemned *condemned;
    bool *needed; /* one for each condemned pack */
};

static int rescue_visit(void *context, const struct chunk_id *ids, size_t count,
                        struct vn_err *err)
{
    struct chunk_place places[MAP_FANOUT];
    struct rescue *r = context;

    if (index_find(r->store->index, ids, count, places, err) < 0)
        return -1;
    for (size_t i = 0; i < count; i++) {
        const struct index_pack *pack =
            places[i].stored_size
                ? index_condemned_find(r->condemned, places[i].pack_id)
                : NULL;

        if (pack)
            r->needed[pack - r->condemned->packs] = true;
    }
    return 0;
}

static int rescue_needed(const struct rescue *r, struct vn_err *err)
{
    vn_auto(free) uint64_t *ids = vn_alloc(r->condemned->count * sizeof(*ids));
    size_t count = 0;

    for (size_t k = 0; k < r->condemned->count; k++)
        if (r->needed[k])
            ids[count++] = r->condemned->packs[k].id;
    return count ? index_rescue(r->store->index, ids, count, err) : 0;
}

int gc_rescue(struct store *store, const json_t *manifest,
              const struct index_condemned *condemned, struct vn_err *err)
{
    struct rescue r = {.store = store, .condemned = condemned};
    struct gc_walk walk = {
        .store = store, .visit = rescue_visit, .context = &r};
    int result;

    if (condemned->count == 0)
        return 0;
    r.needed = vn_alloc(condemned->count * sizeof(*r.needed));
    result = gc_walk_manifest(&walk, manifest, err);
    if (result < 0 && err->code == VN_E_CORRUPT)
        result = 1;
    if (result == 0)
        result = rescue_needed(&r, err);
    gc_walk_done(&walk);
    free(r.needed);
    return result;
}
