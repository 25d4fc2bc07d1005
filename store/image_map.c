#include "store/image_writer_internal.h"

/*
 * Storing the map of an image: all leaves, then level after level of inner
 * nodes up to the root. Nodes are hashed and put NODE_BATCH at a time, such a
 * batch being a task for the store's pool.
 *
 * The ids of one level lie in an array; the next level's go to another.
 */

#include "store/pool.h"

#include <stdlib.h>
#include <string.h>

#define NODE_BATCH 16u

/* A level to be stored. */
struct level {
    struct image_writer *image;
    unsigned height;
    uint64_t count;               /* nodes */
    const struct chunk_id *below; /* ids of the level below; leaves: NULL */
    uint64_t below_count;
    struct chunk_id *ids; /* goes here; zeroed */
};

/* Nodes encoded and waiting to be stored together. */
struct node_batch {
    uint8_t data[NODE_BATCH][MAP_LEAF_SIZE];
    struct chunk_id *targets[NODE_BATCH]; /* where their ids go */
    size_t count;
    size_t size; /* of each */
};

static int store_nodes(const struct level *level, struct node_batch *batch,
                       struct vn_err *err)
{
    enum chunk_kind kind = map_node_kind(level->height);
    struct ident_full ids[NODE_BATCH];
    const uint8_t *data[NODE_BATCH];
    size_t stored;

    for (size_t i = 0; i < batch->count; i++) {
        data[i] = batch->data[i];
        ident_chunk(&level->image->store->ident, kind, data[i], batch->size,
                    &ids[i]);
        *batch->targets[i] = ident_short(&ids[i]);
    }
    return store_writer_put(level->image->writer, kind, ids, data, batch->size,
                            batch->count, &stored, err);
}

/* Node `index` of the level, made in `space` if need be; NULL: zeros. */
static const struct map_node *find_node(const struct level *level,
                                        uint64_t index, struct map_node *space)
{
    uint64_t first = index * MAP_FANOUT;
    uint64_t n;

    if (level->height == 0)
        return level->image->leaves[index] ? &level->image->leaves[index]->node
                                           : NULL;
    n = level->below_count - first < MAP_FANOUT ? level->below_count - first
                                                : MAP_FANOUT;
    space->height = level->height;
    memset(space->ids, 0, sizeof(space->ids));
    memcpy(space->ids, level->below + first, n * sizeof(*space->ids));
    return space;
}

/* The i-th batch of the level. */
static int store_batch(void *context, size_t i, struct vn_err *err)
{
    const struct level *level = context;
    vn_auto(free) struct node_batch *batch = NULL;
    uint64_t end = ((uint64_t)i + 1) * NODE_BATCH;
    struct map_node space;

    if (end > level->count)
        end = level->count;
    for (uint64_t k = (uint64_t)i * NODE_BATCH; k < end; k++) {
        const struct map_node *node = find_node(level, k, &space);

        if (!node || map_node_is_zero(node))
            continue;
        if (!batch)
            batch = vn_alloc(sizeof(*batch));
        batch->size = map_node_encode(node, batch->data[batch->count]);
        batch->targets[batch->count++] = &level->ids[k];
    }
    return batch ? store_nodes(level, batch, err) : 0;
}

static int store_level(struct level *level, struct vn_err *err)
{
    uint64_t batches = (level->count + NODE_BATCH - 1) / NODE_BATCH;

    level->ids = calloc(level->count + 1, sizeof(*level->ids));
    if (!level->ids)
        return vn_fail(err, VN_E_LIMIT, "no memory for the map");
    return pool_run(level->image->store->pool, (size_t)batches, store_batch,
                    level, err);
}

int image_store_map(struct image_writer *image, struct chunk_id *ret,
                    struct vn_err *err)
{
    unsigned height = map_height(image->size);
    vn_auto(free) struct chunk_id *below = NULL;
    struct level level = {.image = image};

    for (unsigned h = 0; h <= height; h++) {
        vn_auto(free) struct chunk_id *ids = NULL;
        int result;

        level.height = h;
        level.below_count = level.count;
        level.below = below;
        level.count = map_node_count(image->size, h);
        result = store_level(&level, err);
        ids = level.ids;
        if (result < 0)
            return -1;
        free(below);
        below = vn_steal(&ids);
    }
    *ret = below[0];
    return 0;
}
