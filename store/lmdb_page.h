#ifndef STORE_LMDB_PAGE_H
#define STORE_LMDB_PAGE_H

/*
 * Pages of LMDB's data file, taken as hostile bytes. No file, no memory: what
 * is read is given, what is wrong is said in a phrase that fits behind "page
 * N: ", valid for ever. Format: LMDB 0.9 (MDB_DATA_VERSION 1), in the host's
 * byte order; lmdb_page.c shows it.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LMDB_META_SIZE     152u /* bytes of a meta page that mean something */
#define LMDB_PAGE_SIZE_MIN 4096u
#define LMDB_PAGE_SIZE_MAX 32768u
#define LMDB_KEY_MAX       511u /* LMDB's MDB_MAXKEYSIZE */
#define LMDB_DEPTH_MAX     32u  /* LMDB's CURSOR_STACK */
#define LMDB_TREE_SIZE     48u  /* a tree's record */
#define LMDB_NO_PAGE       UINT64_MAX

/* What LMDB knows of one tree (MDB_db). */
struct lmdb_tree {
    uint64_t root; /* LMDB_NO_PAGE: it is empty */
    uint64_t branch_pages;
    uint64_t leaf_pages;
    uint64_t overflow_pages;
    uint64_t entries;
    uint32_t pad;
    uint16_t flags;
    uint16_t depth; /* levels, 0: empty */
};

/* One of the two meta pages: a state of the file. */
struct lmdb_meta {
    uint64_t txnid; /* of the transaction that wrote it */
    uint64_t page_size;
    uint64_t page_count; /* pages up to the last that was ever used */
    struct lmdb_tree free_pages;
    struct lmdb_tree tables;
};

/* A page behind its check. `number` is what LMDB's word for it is. */
struct lmdb_node {
    const uint8_t *key; /* in the page */
    size_t key_size;
    const uint8_t *data; /* of a leaf's row; in the page */
    uint64_t size;       /* of that; or, `big`, of what overflow pages hold */
    uint64_t child;      /* of a branch: a page's number */
    bool big;            /* data is 8 bytes, the number of an overflow page */
    bool tree;           /* data is the record of a tree */
};

/* Read meta page `number`, 0 or 1. *ret_foreign: it is of another version of
 * LMDB's format. NULL: it is sound in itself. */
const char *lmdb_meta_parse(const uint8_t data[LMDB_META_SIZE], unsigned number,
                            struct lmdb_meta *ret, bool *ret_foreign);

/* Its transaction alone. */
uint64_t lmdb_meta_txnid(const uint8_t data[LMDB_META_SIZE]);

/* Can this be the record of a tree? NULL: yes. */
const char *lmdb_tree_parse(const uint8_t data[LMDB_TREE_SIZE],
                            struct lmdb_tree *ret);

/*
 * Is this a leaf, or a branch, and that page? NULL: then *ret_count nodes can
 * be asked for; the keys are of 1 to LMDB_KEY_MAX bytes (but that of a
 * branch's node 0, which means nothing), and nodes fill what the head says is
 * in use, without a gap and apart from each other.
 */
const char *lmdb_page_check(const uint8_t *page, size_t page_size,
                            uint64_t number, bool leaf, unsigned *ret_count);
struct lmdb_node lmdb_page_node(const uint8_t *page, unsigned i, bool leaf);

/* How many pages does the run have that begins with this page, so that `size`
 * bytes fit? */
const char *lmdb_overflow_check(const uint8_t *page, size_t page_size,
                                uint64_t number, uint64_t size,
                                uint64_t *ret_pages);
#define LMDB_PAGE_HEAD 16u /* bytes before an overflow page's data */

/* A number of 8 bytes, as LMDB stores its own. */
uint64_t lmdb_load_u64(const uint8_t *at);

#endif
