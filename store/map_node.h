#ifndef STORE_MAP_NODE_H
#define STORE_MAP_NODE_H

/*
 * Nodes of a map: the tree of chunk ids of one image, 512 children a node.
 *
 *     leaf (height 0)   id and fingerprint of 512 pages, 2 MiB of image
 *     inner (height h)  ids of 512 nodes of height h - 1
 *
 * A zero id stands for a page, or a whole subtree, of zeros. The height of the
 * root follows from the image's size. Format: docs/formats/store.md.
 */

#include "store/ident.h"

#define MAP_FANOUT      512u
#define MAP_NODE_HEAD   8u
#define MAP_LEAF_SIZE   (MAP_NODE_HEAD + MAP_FANOUT * (16u + 16u))
#define MAP_INNER_SIZE  (MAP_NODE_HEAD + MAP_FANOUT * 16u)
#define MAP_HEIGHTS_MAX 4u /* 512^4 pages of 4 KiB = 2^48 bytes */

/* A node in memory. Inner nodes leave the fingerprints alone. */
struct map_node {
    unsigned height;
    struct chunk_id ids[MAP_FANOUT];
    struct fingerprint fingerprints[MAP_FANOUT];
};

/* Number of pages of an image, its last one perhaps partial. */
uint64_t map_page_count(uint64_t size);
/* Height of the root of an image of that size, at most STORE_OBJECT_MAX. */
unsigned map_height(uint64_t size);
/* How many nodes of a height an image of that size has. */
uint64_t map_node_count(uint64_t size, unsigned height);

static inline enum chunk_kind map_node_kind(unsigned height)
{
    return height == 0 ? CHUNK_LEAF : CHUNK_INNER;
}

bool map_node_is_zero(const struct map_node *node);

/* Into `out` of MAP_LEAF_SIZE bytes; returns the encoded size. */
size_t map_node_encode(const struct map_node *node, uint8_t *out);
/* VN_E_CORRUPT when the bytes are not a node of that height. */
int map_node_decode(const uint8_t *data, size_t size, unsigned height,
                    struct map_node *ret, struct vn_err *err) VN_MUST_USE;

#endif
