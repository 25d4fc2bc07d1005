#include "store/lmdb_page.h"

/*
 * LMDB 0.9's pages.
 *
 *     page      u64 number, u16 not used, u16 flags (1 branch, 2 leaf, 4
 *               overflow, 8 meta), then u16 lower, u16 upper; in an overflow
 *               page instead u32 pages of the run, and data from here on
 *     branch,   u16 offsets of nodes, in the order of keys, up to `lower`;
 *     leaf      nodes from `upper` to the end, in the order they came
 *     node      u32 size of the data, u16 flags, u16 size of the key, key,
 * data; filled up to an even size. In a branch size and flags are a page's
 * number. Flags: 1 the data is an overflow page's number, 2 it is a tree, 4 a
 * set of values tree      u32 not used, u16 flags, u16 depth, u64 branch pages,
 * leaf pages, overflow pages, rows, root meta      a page's head, u32 magic,
 * u32 version, u64 address, u64 size of the map, tree of free pages, tree of
 * tables, u64 last page, u64 transaction. The first tree's first word is the
 * size of a page
 *
 * LMDB keeps nodes packed: each delete moves those before it up. It does so by
 * sizes and offsets in the page, so where nodes overlap, or leave a gap, a
 * delete writes and reads outside. Hence nodes must tile [upper, end): they are
 * walked as they lie, each begin is noted, and each offset must take one.
 *
 * Tables of sets of values (MDB_DUPSORT) are not used, and taken for damage.
 */

#include <string.h>

#define MAGIC   0xbeefc0deu
#define VERSION 1u

#define PAGE_BRANCH   1u
#define PAGE_LEAF     2u
#define PAGE_OVERFLOW 4u
#define PAGE_META     8u

#define NODE_BIG  1u
#define NODE_TREE 2u

#define NODE_HEAD       8u
#define FREE_TREE_FLAGS 8u /* keys are integers */

static uint16_t load16(const uint8_t *at)
{
    uint16_t value;

    memcpy(&value, at, sizeof(value));
    return value;
}

static uint32_t load32(const uint8_t *at)
{
    uint32_t value;

    memcpy(&value, at, sizeof(value));
    return value;
}

uint64_t lmdb_load_u64(const uint8_t *at)
{
    uint64_t value;

    memcpy(&value, at, sizeof(value));
    return value;
}

/* ---- metas and trees -------------------------------------------------- */

static void load_tree(const uint8_t *data, struct lmdb_tree *ret)
{
    *ret = (struct lmdb_tree){.pad = load32(data),
                              .flags = load16(data + 4),
                              .depth = load16(data + 6),
                              .branch_pages = lmdb_load_u64(data + 8),
                              .leaf_pages = lmdb_load_u64(data + 16),
                              .overflow_pages = lmdb_load_u64(data + 24),
                              .entries = lmdb_load_u64(data + 32),
                              .root = lmdb_load_u64(data + 40)};
}

static const char *check_tree(const struct lmdb_tree *tree)
{
    if (tree->depth > LMDB_DEPTH_MAX)
        return "a tree that is too deep";
    if ((tree->root == LMDB_NO_PAGE) != (tree->depth == 0) ||
        (tree->root == LMDB_NO_PAGE) != (tree->entries == 0))
        return "a tree that is empty and is not";
    return NULL;
}

const char *lmdb_tree_parse(const uint8_t data[LMDB_TREE_SIZE],
                            struct lmdb_tree *ret)
{
    load_tree(data, ret);
    if (ret->pad != 0 || ret->flags != 0)
        return "a tree of a kind that is not used here";
    return check_tree(ret);
}

static bool is_page_size(uint64_t size)
{
    return size >= LMDB_PAGE_SIZE_MIN && size <= LMDB_PAGE_SIZE_MAX &&
           (size & (size - 1)) == 0;
}

const char *lmdb_meta_parse(const uint8_t data[LMDB_META_SIZE], unsigned number,
                            struct lmdb_meta *ret, bool *ret_foreign)
{
    const uint8_t *meta = data + LMDB_PAGE_HEAD;
    uint64_t map_size = lmdb_load_u64(meta + 16);
    uint64_t last = lmdb_load_u64(meta + 120);
    const char *why;

    *ret_foreign = load32(meta) == MAGIC && load32(meta + 4) != VERSION;
    if (load32(meta) != MAGIC || load32(meta + 4) != VERSION ||
        lmdb_load_u64(data) != number || load16(data + 10) != PAGE_META)
        return "not a meta page of LMDB 0.9";
    load_tree(meta + 24, &ret->free_pages);
    ret->page_size = ret->free_pages.pad;
    ret->txnid = lmdb_meta_txnid(data);
    if (!is_page_size(ret->page_size))
        return "a page size that cannot be";
    if (lmdb_load_u64(meta + 8) != 0 ||
        ret->free_pages.flags != FREE_TREE_FLAGS)
        return "flags that are not used here";
    if (last < 1 || last >= map_size / ret->page_size)
        return "a last page that does not fit into the map";
    ret->page_count = last + 1;
    why = lmdb_tree_parse(meta + 72, &ret->tables);
    return why ? why : check_tree(&ret->free_pages);
}

uint64_t lmdb_meta_txnid(const uint8_t data[LMDB_META_SIZE])
{
    return lmdb_load_u64(data + LMDB_PAGE_HEAD + 128);
}

/* ---- branches and leaves ---------------------------------------------- */

/* The node's bytes, or 0 where it cannot be. At least NODE_HEAD are there. */
static size_t node_size(const uint8_t *node, size_t page_size, bool leaf)
{
    uint32_t data = load32(node);
    uint16_t flags = load16(node + 4);
    size_t size = NODE_HEAD + load16(node + 6);
    /* Larger ones LMDB puts into overflow pages: two must fit in a page. */
    size_t most = ((page_size - LMDB_PAGE_HEAD) / 2 & ~(size_t)1) - 2;

    if (size > NODE_HEAD + LMDB_KEY_MAX)
        return 0;
    if (leaf && flags != 0 && flags != NODE_BIG && flags != NODE_TREE)
        return 0;
    if (leaf && (size == NODE_HEAD || data > page_size) && flags != NODE_BIG)
        return 0;
    if (leaf)
        size += flags == NODE_BIG ? 8 : data;
    if (leaf && (size > most || load16(node + 6) == 0))
        return 0;
    return (size + 1) & ~(size_t)1;
}

static const char *check_nodes(const uint8_t *page, size_t page_size,
                               size_t upper, unsigned count, bool leaf)
{
    uint64_t begins[LMDB_PAGE_SIZE_MAX / 2 / 64];
    const uint8_t *offsets = page + LMDB_PAGE_HEAD;
    unsigned found = 0;
    size_t size;

    memset(begins, 0, page_size / 2 / 8);
    for (size_t at = upper; at < page_size; at += size, found++) {
        size = page_size - at < NODE_HEAD
                   ? 0
                   : node_size(page + at, page_size, leaf);
        if (size == 0 || size > page_size - at)
            return "a row that cannot be";
        begins[at / 128] |= 1ull << at / 2 % 64;
    }
    if (found != count)
        return "more or fewer rows than it says";
    for (unsigned i = 0; i < count; i++) {
        size_t at = load16(offsets + 2 * i);
        uint64_t bit = 1ull << at / 2 % 64;

        if (at % 2 || at >= page_size || !(begins[at / 128] & bit))
            return "the place of a row where none is";
        begins[at / 128] &= ~bit;
        if (!leaf && i > 0 && load16(page + at + 6) == 0)
            return "a row without a key";
    }
    return NULL;
}

const char *lmdb_page_check(const uint8_t *page, size_t page_size,
                            uint64_t number, bool leaf, unsigned *ret_count)
{
    size_t lower = load16(page + 12);
    size_t upper = load16(page + 14);
    unsigned count;

    if (lmdb_load_u64(page) != number)
        return "it has the number of another one";
    if (load16(page + 10) != (leaf ? PAGE_LEAF : PAGE_BRANCH))
        return leaf ? "not a leaf" : "not a branch";
    if (lower < LMDB_PAGE_HEAD || lower % 2 || upper % 2 || lower > upper ||
        upper > page_size)
        return "bounds that cannot be";
    count = (unsigned)(lower - LMDB_PAGE_HEAD) / 2;
    /* LMDB asserts it, and joins pages so that it holds. */
    if (count < (leaf ? 1 : 2))
        return "too few rows";
    *ret_count = count;
    return check_nodes(page, page_size, upper, count, leaf);
}

struct lmdb_node lmdb_page_node(const uint8_t *page, unsigned i, bool leaf)
{
    const uint8_t *node = page + load16(page + LMDB_PAGE_HEAD + 2 * i);
    uint32_t low = load32(node);
    uint16_t flags = load16(node + 4);
    size_t key_size = load16(node + 6);
    struct lmdb_node ret = {.key = node + NODE_HEAD, .key_size = key_size};

    if (!leaf) {
        ret.child = low | (uint64_t)flags << 32;
        return ret;
    }
    ret.data = node + NODE_HEAD + key_size;
    ret.size = low;
    ret.big = flags == NODE_BIG;
    ret.tree = flags == NODE_TREE;
    return ret;
}

const char *lmdb_overflow_check(const uint8_t *page, size_t page_size,
                                uint64_t number, uint64_t size,
                                uint64_t *ret_pages)
{
    uint64_t pages = load32(page + 12);

    if (lmdb_load_u64(page) != number)
        return "it has the number of another one";
    if (load16(page + 10) != PAGE_OVERFLOW)
        return "not an overflow page";
    if (pages < (LMDB_PAGE_HEAD - 1 + size) / page_size + 1)
        return "more data than its pages hold";
    *ret_pages = pages;
    return NULL;
}
