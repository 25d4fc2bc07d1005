#include "store/store_internal.h"

/*
 * Walking a whole map to see that nothing is missing.
 *
 * Children of a node are sorted and looked at once each, so an image in which
 * one subtree repeats (a pattern over terabytes) costs one walk of it a
 * level, and a map made to explode - each node naming the same child 512
 * times - costs no more than its height.
 */

#include "common/io.h"

#include <stdlib.h>

static int by_id(const void *a, const void *b)
{
    return chunk_id_compare(a, b);
}

/* Sort the node's ids, drop zeros and repetitions; returns how many stay. */
static size_t unique_ids(struct map_node *node)
{
    size_t count = 0;

    qsort(node->ids, MAP_FANOUT, sizeof(node->ids[0]), by_id);
    for (size_t i = 0; i < MAP_FANOUT; i++) {
        if (chunk_id_is_zero(&node->ids[i]))
            continue;
        if (count > 0 &&
            chunk_id_compare(&node->ids[i], &node->ids[count - 1]) == 0)
            continue;
        node->ids[count++] = node->ids[i];
    }
    return count;
}

static int check_pages(struct store *store, const struct chunk_id *ids,
                       size_t count, struct vn_err *err)
{
    struct chunk_place places[MAP_FANOUT];
    char hex[2 * STORE_ID_SIZE + 1];

    if (index_find(store->index, ids, count, places, err) < 0)
        return -1;
    for (size_t i = 0; i < count; i++) {
        if (places[i].stored_size > 0 && places[i].kind == CHUNK_PAGE)
            continue;
        io_hex(ids[i].bytes, STORE_ID_SIZE, hex);
        return vn_fail(err, VN_E_NOT_FOUND, "page %s is not in the store", hex);
    }
    return 0;
}

static int check_node(struct store *store, const struct chunk_id *id,
                      unsigned height, struct vn_err *err)
{
    vn_auto(free) struct map_node *node = vn_alloc(sizeof(*node));
    size_t count;

    if (chunk_read_node(store, id, height, node, err) < 0)
        return -1;
    count = unique_ids(node);
    if (height == 0)
        return check_pages(store, node->ids, count, err);
    for (size_t i = 0; i < count; i++)
        if (check_node(store, &node->ids[i], height - 1, err) < 0)
            return -1;
    return 0;
}

int map_walk_check(struct store *store, const struct map_root *root,
                   struct vn_err *err)
{
    struct chunk_place place;
    char hex[2 * STORE_ID_SIZE + 1];

    if (chunk_id_is_zero(&root->root))
        return 0;
    if (index_find(store->index, &root->root, 1, &place, err) < 0)
        return -1;
    if (place.stored_size == 0) {
        io_hex(root->root.bytes, STORE_ID_SIZE, hex);
        return vn_fail(err, VN_E_NOT_FOUND,
                       "its map %s is not in the store (was the writer "
                       "flushed?)",
                       hex);
    }
    return check_node(store, &root->root, map_height(root->size), err);
}
