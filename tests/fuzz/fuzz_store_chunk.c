/* The stored form of a chunk: kind and codec from two bytes, then a node of
 * a map, or a tombstone, from what it decodes to. */

#include "store/store_internal.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct vn_err err = VN_ERR_INIT;
    struct tombstone tombstone;
    struct map_node *node;
    uint8_t *out;
    size_t limit;
    size_t raw;

    if (size < 2)
        return 0;
    limit = pack_raw_limit(data[0]);
    out = malloc(limit + 1);
    node = malloc(sizeof(*node));
    if (out && node &&
        pack_decode(data[0], data[1], data + 2, size - 2, out, &raw, &err) ==
            0) {
        if (raw > limit)
            abort();
        for (unsigned height = 0; height < MAP_HEIGHTS_MAX; height++)
            (void)!map_node_decode(out, raw, height, node, &err);
        (void)!tombstone_decode(out, raw, &tombstone, &err);
    }
    free(node);
    free(out);
    return 0;
}
