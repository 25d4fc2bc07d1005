#include "store/map_node.h"

/*
 * Nodes and their geometry.
 *
 * Heights: an image of 2^46 bytes has 2^34 pages; 512^3 = 2^27 leaves' worth
 * of pages is not enough, 512^4 = 2^36 is, so heights are 0..3 and the tree
 * has at most MAP_HEIGHTS_MAX levels.
 *
 * The height is written into the node, though ids of leaves and inner nodes
 * have different keys already: inner nodes of two heights have the same
 * form, and a root presented with a wrong size must not be walked.
 *
 * Nodes always have 512 places, those behind the end of the image being zero:
 * an image that grows keeps the nodes it had, and LZ4 removes the zeros.
 */

#include "common/buf.h"
#include "common/cursor.h"

#include <assert.h>
#include <string.h>

static const char node_magic[4] = "VNMN";

static_assert(STORE_OBJECT_MAX / STORE_PAGE_SIZE <=
                  (uint64_t)MAP_FANOUT * MAP_FANOUT * MAP_FANOUT * MAP_FANOUT,
              "the largest image fits the highest tree");
static_assert(sizeof(struct chunk_id) == 16, "ids lie side by side");
static_assert(sizeof(struct fingerprint) == 16, "so do fingerprints");

uint64_t map_page_count(uint64_t size)
{
    return size / STORE_PAGE_SIZE + (size % STORE_PAGE_SIZE != 0);
}

uint64_t map_node_count(uint64_t size, unsigned height)
{
    uint64_t count = map_page_count(size);

    for (unsigned h = 0; h <= height; h++)
        count = count / MAP_FANOUT + (count % MAP_FANOUT != 0);
    return count;
}

unsigned map_height(uint64_t size)
{
    unsigned height = 0;

    assert(size <= STORE_OBJECT_MAX);
    while (map_node_count(size, height) > 1)
        height++;
    return height;
}

bool map_node_is_zero(const struct map_node *node)
{
    for (unsigned i = 0; i < MAP_FANOUT; i++)
        if (!chunk_id_is_zero(&node->ids[i]))
            return false;
    return true;
}

size_t map_node_encode(const struct map_node *node, uint8_t *out)
{
    size_t size = MAP_NODE_HEAD;

    memset(out, 0, MAP_NODE_HEAD);
    memcpy(out, node_magic, sizeof(node_magic));
    out[4] = (uint8_t)node->height;
    memcpy(out + size, node->ids, sizeof(node->ids));
    size += sizeof(node->ids);
    if (node->height == 0) {
        memcpy(out + size, node->fingerprints, sizeof(node->fingerprints));
        size += sizeof(node->fingerprints);
    }
    return size;
}

int map_node_decode(const uint8_t *data, size_t size, unsigned height,
                    struct map_node *ret, struct vn_err *err)
{
    struct cursor c = cursor_of(data, size);
    const uint8_t *magic = cursor_take(&c, sizeof(node_magic));
    const uint8_t *head = cursor_take(&c, 4);
    const uint8_t *ids = cursor_take(&c, sizeof(ret->ids));
    const uint8_t *prints = NULL;

    if (height == 0)
        prints = cursor_take(&c, sizeof(ret->fingerprints));
    if (c.failed || cursor_left(&c) != 0)
        return vn_fail(err, VN_E_CORRUPT, "a map node of %zu bytes", size);
    if (memcmp(magic, node_magic, sizeof(node_magic)) != 0 ||
        head[0] != height || head[1] || head[2] || head[3])
        return vn_fail(err, VN_E_CORRUPT, "not a map node of height %u",
                       height);
    ret->height = height;
    memcpy(ret->ids, ids, sizeof(ret->ids));
    if (prints)
        memcpy(ret->fingerprints, prints, sizeof(ret->fingerprints));
    return 0;
}
