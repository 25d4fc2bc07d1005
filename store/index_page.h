#ifndef STORE_INDEX_PAGE_H
#define STORE_INDEX_PAGE_H

/*
 * The pages of LMDB's file, as far as a look-up goes through them: inline, as
 * it looks at twenty keys a chunk. All there is in them: lmdb_page.h.
 *
 * What is said here about a page is what the page says of itself: it may be
 * garbage. index_page_check() bounds it; node offsets must still be held
 * against the page's size, one by one.
 */

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define INDEX_PAGE_BRANCH 0x01u
#define INDEX_PAGE_LEAF   0x02u

struct index_page {
    uint64_t number;
    uint16_t pad;
    uint16_t flags;
    uint16_t lower;    /* end of the offsets */
    uint16_t upper;    /* begin of the nodes, which fill the rest */
    uint16_t offset[]; /* of nodes, in the order of their keys */
};

/* A node: a head, then the key, then in a leaf the value. */
struct index_node {
    uint16_t low;   /* leaf: size of the value; branch: page number ... */
    uint16_t high;  /* ... bits 16 to 31 */
    uint16_t flags; /* branch: bits 32 to 47; leaf: 0 for a plain value */
    uint16_t key_size;
    uint8_t key[];
};

#define INDEX_PAGE_HEAD 16u
#define INDEX_NODE_HEAD 8u

static inline uint32_t index_page_count(const struct index_page *page)
{
    return (page->lower - INDEX_PAGE_HEAD) / 2;
}

/* Is it page `number`, of that kind, with nodes and with its offsets inside? */
static inline bool index_page_check(const struct index_page *page,
                                    uint64_t number, unsigned kind,
                                    size_t page_size)
{
    return page->number == number && page->flags == kind &&
           page->lower > INDEX_PAGE_HEAD && page->lower <= page->upper &&
           page->upper <= page_size;
}

static inline const struct index_node *
index_page_node(const struct index_page *page, size_t offset)
{
    return (const void *)((const uint8_t *)page + offset);
}

static inline uint64_t index_node_child(const struct index_node *node)
{
    return node->low | (uint64_t)node->high << 16 | (uint64_t)node->flags << 32;
}

#endif
