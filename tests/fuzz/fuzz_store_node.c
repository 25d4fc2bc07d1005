/*
 * A node of a map and a tombstone, as they lie in a chunk: what decodes encodes
 * to the same bytes again, so nothing in it was overlooked. The first byte of a
 * node is taken for the height that is asked for.
 */

#include "store/store_internal.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void node(const uint8_t *data, size_t size, unsigned height)
{
    struct map_node *node = malloc(sizeof(*node));
    struct vn_err err = VN_ERR_INIT;
    uint8_t again[MAP_LEAF_SIZE];

    if (node && map_node_decode(data, size, height, node, &err) == 0 &&
        (map_node_encode(node, again) != size || node->height != height ||
         memcmp(again, data, size) != 0))
        abort();
    free(node);
}

static void tombstone(const uint8_t *data, size_t size)
{
    struct vn_err err = VN_ERR_INIT;
    uint8_t again[PACK_TOMBSTONE_SIZE];
    struct tombstone t;

    if (tombstone_decode(data, size, &t, &err) < 0)
        return;
    tombstone_encode(&t, again);
    if (size != sizeof(again) || memcmp(again, data, size) != 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    tombstone(data, size);
    if (size > 0)
        node(data + 1, size - 1, data[0] % MAP_HEIGHTS_MAX);
    return 0;
}
