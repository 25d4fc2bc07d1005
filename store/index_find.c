#include "store/index_internal.h"

/*
 * Looking chunks up.
 *
 * This is what the store does most, and with LMDB's cursor it waits most of the
 * time: each step of a binary search is a cache line that is not there yet, and
 * the next one depends on it. So the pages are read here, in LMDB's file and
 * inside its transaction, LANES ids at a time step by step: while one waits
 * for its line the others go on. With FEW_LANES or less nothing else goes on,
 * and both lines are fetched that may be wanted next. Microseconds a chunk, in
 * sorted batches of 512, one core, beside MDB_SET in the same run:
 *
 *     chunks       MDB_SET   here
 *     131072       0.27      0.12
 *     1 million    0.87      0.17
 *     16 million   1.76      0.25
 *
 * Batches need not be sorted; those that are find their pages in the cache.
 * A page that is not in memory costs a read of its own. Who is going to look up
 * many says so: index_expect().
 *
 * The file may be damaged, and LMDB has no checksums: nothing that a page says
 * is believed before it is held against the page's size and the file's.
 * The search compares two words of a key, which the table's fixed sizes allow.
 *
 * What is relied on: pages that a reader's transaction can see are not written
 * until it ends (LMDB's promise); what LMDB writes with pwrite() a shared
 * mapping shows; the format, which index_map_open() asks for.
 */

#include "common/auto.h"
#include "common/io.h"
#include "store/index_page.h"
#include "store/lmdb_page.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define LANES     32u
#define FEW_LANES 4u
#define PREFETCH  192u /* bytes of a page: head and most offsets */

/* When the file is read in a row, ahead: a page alone takes the disk as long as
 * some ten to thirty pages in a row. */
#define READ_WHOLE_SHARE 16u

static_assert(sizeof(struct index_node) == INDEX_NODE_HEAD, "no padding");

/* It is address space, not memory. Where the host refuses that much a second
 * time, less. */
static void *map_file(int fd, size_t *size)
{
    void *bytes = mmap(NULL, *size, PROT_READ, MAP_SHARED, fd, 0);

    while (bytes == MAP_FAILED && errno == ENOMEM && *size > INDEX_MAP_LAST) {
        *size /= 4;
        bytes = mmap(NULL, *size, PROT_READ, MAP_SHARED, fd, 0);
    }
    return bytes == MAP_FAILED ? NULL : bytes;
}

int index_map_open(struct index *index, struct vn_err *err)
{
    vn_auto(index_txn) MDB_txn *txn = NULL;
    struct index_map *map = &index->map;
    MDB_envinfo info;
    MDB_stat stat;
    void *bytes;
    size_t size;
    int fd;

    if (mdb_env_get_fd(index->env, &fd) || mdb_env_info(index->env, &info) ||
        mdb_env_stat(index->env, &stat) ||
        index_begin(index, MDB_RDONLY, &txn, err) < 0 ||
        mdb_dbi_open(txn, NULL, 0, &map->main))
        return vn_fail(err, VN_E_CORRUPT, "index '%s': cannot be mapped",
                       index->dir);
    size = info.me_mapsize;
    bytes = map_file(fd, &size);
    if (!bytes)
        return vn_fail(err, errno, "index '%s': map", index->dir);
    /* Look-ups are random, as for LMDB's own mapping. */
    madvise(bytes, size, MADV_RANDOM);
    map->bytes = bytes;
    map->size = size;
    map->page_size = stat.ms_psize;
    map->tree.txnid = UINT64_MAX; /* none */
    return 0;
}

void index_expect(struct index *index, uint64_t count)
{
    uint64_t memory =
        (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t pages;
    MDB_envinfo info;
    int fd;

    if (mdb_env_get_fd(index->env, &fd) || mdb_env_info(index->env, &info))
        return;
    pages = info.me_last_pgno + 1;
    if (count < pages / READ_WHOLE_SHARE ||
        pages * index->map.page_size > memory / 4 ||
        atomic_exchange(&index->map.expected, pages) == pages)
        return;
    io_read_ahead(fd, 0, pages * index->map.page_size);
}

void index_map_close(struct index *index)
{
    if (index->map.bytes)
        munmap((void *)(uintptr_t)index->map.bytes, index->map.size);
    index->map.bytes = NULL;
}

/* The table of chunks as a transaction sees it. */
struct tree {
    const uint8_t *bytes;
    size_t page_size;
    uint64_t end; /* page number */
    uint64_t root;
    unsigned depth; /* 0: it is empty */
};

/* An id on its way down. */
struct lane {
    uint64_t high; /* the id, as numbers */
    uint64_t low;
    size_t number; /* in the caller's list */
    uint64_t next; /* page to go to */
    const struct index_page *page;
    uint32_t first; /* what is looked for is this node of the page ... */
    uint32_t count; /* ... or one of so many behind */
};

static int fail_damaged(const struct index *index, struct vn_err *err)
{
    return vn_fail(err, VN_E_CORRUPT,
                   "index '%s': a page of the table of chunks is damaged "
                   "('vnstore repair' builds an index anew)",
                   index->dir);
}

/* Ask LMDB where the table is in the state that the transaction sees. */
static int ask_tree(struct index *index, MDB_txn *txn, struct index_tree *ret,
                    struct vn_err *err)
{
    const struct index_map *map = &index->map;
    MDB_val key = index_key_text(index_table_name(TABLE_CHUNKS));
    struct lmdb_tree row;
    MDB_envinfo info;
    MDB_val value;
    int rc = mdb_get(txn, map->main, &key, &value);

    if (rc == 0)
        rc = mdb_env_info(index->env, &info);
    if (rc)
        return index_fail(index, rc, "find the table of chunks", err);
    if (value.mv_size != LMDB_TREE_SIZE || lmdb_tree_parse(value.mv_data, &row))
        return fail_damaged(index, err);
    *ret = (struct index_tree){.txnid = mdb_txn_id(txn),
                               .end = info.me_last_pgno + 1,
                               .root = row.root,
                               .depth = row.depth};
    if (ret->end > map->size / map->page_size)
        return vn_fail(err, VN_E_LIMIT,
                       "index '%s': %llu pages, and the host gave address "
                       "space for %llu only",
                       index->dir, (unsigned long long)ret->end,
                       (unsigned long long)(map->size / map->page_size));
    return 0;
}

/* The same; what was found is kept for the next who sees that state. */
static int find_tree(struct index *index, MDB_txn *txn, struct tree *ret,
                     struct vn_err *err)
{
    struct index_map *map = &index->map;
    struct index_tree now;

    {
        vn_lock_scope(&map->lock);
        now = map->tree;
    }
    if (now.txnid != mdb_txn_id(txn)) {
        if (ask_tree(index, txn, &now, err) < 0)
            return -1;
        vn_lock_scope(&map->lock);
        map->tree = now;
    }
    *ret = (struct tree){.bytes = map->bytes,
                         .page_size = map->page_size,
                         .end = now.end,
                         .root = now.root,
                         .depth = now.depth};
    return 0;
}

static void go_to(const struct tree *tree, struct lane *lane, uint64_t page)
{
    const uint8_t *bytes = tree->bytes + page * tree->page_size;

    lane->next = page;
    for (size_t i = 0; i < PREFETCH; i += 64)
        __builtin_prefetch(bytes + i);
}

/* Have the node ready that is looked at next. */
static void prefetch_next(const struct lane *lane)
{
    size_t offset = lane->page->offset[lane->first + lane->count / 2];

    __builtin_prefetch((const uint8_t *)lane->page + offset);
}

/* The same a step earlier, when it may be either of two. */
static void prefetch_both(const struct lane *lane)
{
    uint32_t half = lane->count / 2;
    uint32_t next = lane->first + (lane->count - half) / 2;
    const uint8_t *bytes = (const uint8_t *)lane->page;

    __builtin_prefetch(bytes + lane->page->offset[next]);
    __builtin_prefetch(bytes + lane->page->offset[next + half]);
}

/* False when there can be no such page. */
static bool enter_page(const struct tree *tree, struct lane *lane,
                       unsigned kind)
{
    if (lane->next >= tree->end)
        return false;
    lane->page = (const void *)(tree->bytes + lane->next * tree->page_size);
    lane->first = 0;
    lane->count =
        index_page_check(lane->page, lane->next, kind, tree->page_size)
            ? index_page_count(lane->page)
            : 0;
    if (lane->count == 0)
        return false;
    prefetch_next(lane);
    return true;
}

static uint64_t number_at(const uint8_t *bytes)
{
    uint64_t number;

    memcpy(&number, bytes, sizeof(number));
    return be64toh(number);
}

/* Is the node's key not above the lane's? Without branches, which would be
 * guessed wrong half of the time. */
static bool is_below(const struct index_node *node, const struct lane *lane)
{
    uint64_t high = number_at(node->key);
    uint64_t low = number_at(node->key + 8);

    return (high < lane->high) | ((high == lane->high) & (low <= lane->low));
}

/*
 * In each lane's page, come to the last node whose key is not above the lane's;
 * the first if all are above (in a branch it has no key and stands for the
 * least). `last`: where a node with a key may begin. Compiled twice: `few` is a
 * constant.
 */
static inline __attribute__((always_inline)) bool
search_as(struct lane *lanes, size_t count, size_t last, bool few)
{
    bool good = true;
    bool more = true;

    while (more) {
        more = false;
        for (size_t i = 0; i < count; i++) {
            struct lane *lane = &lanes[i];
            const struct index_page *page = lane->page;
            uint32_t half = lane->count / 2;
            size_t offset = page->offset[lane->first + half];

            if (few)
                prefetch_both(lane);
            good &= (offset <= last) | (half == 0);
            offset = offset <= last ? offset : 0;
            lane->first +=
                is_below(index_page_node(page, offset), lane) ? half : 0;
            lane->count -= half;
            more |= lane->count > 1;
            if (!few)
                prefetch_next(lane);
        }
    }
    return good;
}

static bool search_pages(struct lane *lanes, size_t count, size_t last)
{
    return count <= FEW_LANES ? search_as(lanes, count, last, true)
                              : search_as(lanes, count, last, false);
}

static bool search_branches(const struct tree *tree, struct lane *lanes,
                            size_t count)
{
    size_t last = tree->page_size - INDEX_NODE_HEAD - STORE_ID_SIZE;

    for (size_t i = 0; i < count; i++)
        if (!enter_page(tree, &lanes[i], INDEX_PAGE_BRANCH))
            return false;
    if (!search_pages(lanes, count, last))
        return false;
    for (size_t i = 0; i < count; i++) {
        /* The first node may have no key. */
        size_t offset = lanes[i].page->offset[lanes[i].first];

        if (offset > tree->page_size - INDEX_NODE_HEAD)
            return false;
        go_to(tree, &lanes[i],
              index_node_child(index_page_node(lanes[i].page, offset)));
    }
    return true;
}

/* The places of those ids that the leaves have; false: damage. */
static int search_leaves(struct index *index, const struct tree *tree,
                         struct lane *lanes, size_t count,
                         struct chunk_place *ret, struct vn_err *err)
{
    size_t last =
        tree->page_size - INDEX_NODE_HEAD - STORE_ID_SIZE - INDEX_PLACE_SIZE;

    for (size_t i = 0; i < count; i++)
        if (!enter_page(tree, &lanes[i], INDEX_PAGE_LEAF))
            return fail_damaged(index, err);
    if (!search_pages(lanes, count, last))
        return fail_damaged(index, err);
    for (size_t i = 0; i < count; i++) {
        const struct lane *lane = &lanes[i];
        size_t offset = lane->page->offset[lane->first];
        const struct index_node *node;
        MDB_val value;

        if (offset > last)
            return fail_damaged(index, err);
        node = index_page_node(lane->page, offset);
        if (node->key_size != STORE_ID_SIZE || node->flags != 0)
            return fail_damaged(index, err);
        if (number_at(node->key) != lane->high ||
            number_at(node->key + 8) != lane->low)
            continue;
        value = (MDB_val){.mv_size = node->low | (size_t)node->high << 16,
                          .mv_data =
                              (uint8_t *)(uintptr_t)node->key + STORE_ID_SIZE};
        if (index_place_decode(index, &value, &ret[lane->number], err) < 0)
            return -1;
    }
    return 0;
}

static int find_lanes(struct index *index, const struct tree *tree,
                      struct lane *lanes, size_t count, struct chunk_place *ret,
                      struct vn_err *err)
{
    for (unsigned level = 1; level < tree->depth; level++)
        if (!search_branches(tree, lanes, count))
            return fail_damaged(index, err);
    return search_leaves(index, tree, lanes, count, ret, err);
}

int index_find_in(struct index *index, const struct index_filter *filter,
                  const struct chunk_id *ids, size_t count,
                  struct chunk_place *ret, struct vn_err *err)
{
    vn_auto(index_txn) MDB_txn *txn = NULL;
    struct lane lanes[LANES];
    struct tree tree;
    size_t n = 0;

    for (size_t i = 0; i < count; i++) {
        ret[i] = (struct chunk_place){0};
        if (filter && !index_filter_has(filter, &ids[i]))
            continue;
        if (!txn && (index_begin(index, MDB_RDONLY, &txn, err) < 0 ||
                     find_tree(index, txn, &tree, err) < 0))
            return -1;
        if (tree.depth == 0)
            continue;
        lanes[n] = (struct lane){.high = number_at(ids[i].bytes),
                                 .low = number_at(ids[i].bytes + 8),
                                 .number = i};
        go_to(&tree, &lanes[n++], tree.root);
        if (n < LANES)
            continue;
        if (find_lanes(index, &tree, lanes, n, ret, err) < 0)
            return -1;
        n = 0;
    }
    return n ? find_lanes(index, &tree, lanes, n, ret, err) : 0;
}

int index_find(struct index *index, const struct chunk_id *ids, size_t count,
               struct chunk_place *ret, struct vn_err *err)
{
    return index_find_in(index, NULL, ids, count, ret, err);
}
