#include "store/index_check.h"

/*
 * Walking all that LMDB can reach, before it does.
 *
 *     metas    both, and which state is to be walked: index_check_env.c
 *     trees    of tables; each table; of free pages. From the root down: each
 *              page once (a bit a page), sound in itself (lmdb_page.c), of the
 *              kind that its level says, keys rising and in the range that the
 *              branches above give, sizes as the table has them; rows and pages
 *              as many as the tree's record says
 *     free     page numbers falling, of pages that nothing else reaches; the
 *              last record is of the transaction that the meta page says: with
 *              another number in it the older one would count, and a commit be
 *              gone
 *     the end  pages behind the end of the file must be free
 *
 * A page that is neither reached nor free is only lost space, and let pass.
 * Also not looked at: free pages, unused bytes of pages, the older meta's
 * trees. Nobody reads these.
 *
 * Pages are read one by one by pread(), not mapped: a bad medium is an error
 * then and not a signal. Out of the page cache that costs half a microsecond a
 * page, as much as looking at what is in it.
 *
 * Memory: a page a level, a bit a page. A last page that is far behind the
 * file's end is refused first: its free list would not fit in the file.
 */

#include "common/auto.h"
#include "common/io.h"
#include "store/store.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define TABLES_MAX 64u
#define LIST_BATCH 512u /* page numbers of the free list */

enum tree_kind { TREE_TABLES, TREE_TABLE, TREE_FREE };

/* What rows a table has; sizes in bytes. */
struct shape {
    const char *name;
    size_t key_min, key_max;
    uint64_t value_min, value_max;
};

static const struct shape shapes[] = {
    {"meta", 1, LMDB_KEY_MAX, 8, 16}, /* numbers, and an id */
    {"chunks", STORE_ID_SIZE, STORE_ID_SIZE, 16, 16},
    {"packs", 8, 8, 16, 16},
    {"snapshots", 8, 8, STORE_ID_SIZE + 9, STORE_ID_SIZE + 8 + STORE_NAME_MAX},
    {"names", 1, STORE_NAME_MAX, 8, 8},
    {"ids", STORE_ID_SIZE, STORE_ID_SIZE, 8, 8},
    {"series", 1, STORE_NAME_MAX, 8, 8},
    {"lost", STORE_ID_SIZE, STORE_ID_SIZE, 24, 24},
};
static const struct shape shape_tables = {"tables", 1, LMDB_KEY_MAX,
                                          LMDB_TREE_SIZE, LMDB_TREE_SIZE};
static const struct shape shape_free = {"free pages", 8, 8, 8, UINT32_MAX};
/* Of a program to come. */
static const struct shape shape_other = {"?", 1, LMDB_KEY_MAX, 0, UINT32_MAX};

struct key {
    const uint8_t *data; /* NULL: none */
    size_t size;
};

/* A tree that is walked. */
struct tree {
    const struct lmdb_tree *record;
    const struct shape *shape;
    enum tree_kind kind;
    uint64_t branch_pages, leaf_pages, overflow_pages, entries;
};

struct walk {
    int fd;
    const char *path;
    const struct lmdb_meta *meta;
    uint64_t file_pages; /* that begin in the file */
    bool whole;
    uint64_t *seen; /* a bit a page: in a tree, or free */
    uint8_t *pages[LMDB_DEPTH_MAX];
    uint64_t free_behind; /* free pages behind the file's end */
    uint64_t last_free;   /* transaction of the last record of free pages */
    struct lmdb_tree tables[TABLES_MAX];
    const struct shape *table_shapes[TABLES_MAX];
    size_t table_count;
};

/* ---- helpers ---------------------------------------------------------- */

int index_check_bad(const char *path, const char *why, struct vn_err *err)
{
    return vn_fail(err, VN_E_CORRUPT, "index '%s' is damaged: %s (%s)", path,
                   why, INDEX_CHECK_ADVICE);
}

static int bad_page(const struct walk *w, uint64_t page, const char *why,
                    struct vn_err *err)
{
    return vn_fail(err, VN_E_CORRUPT,
                   "index '%s' is damaged: page %" PRIu64 ": %s (%s)", w->path,
                   page, why, INDEX_CHECK_ADVICE);
}

/* Bytes of the file; a file that ends before is damaged at `page`. */
static int read_at(const struct walk *w, uint64_t page, uint64_t offset,
                   void *data, size_t size, struct vn_err *err)
{
    uint64_t at = page * w->meta->page_size + offset;

    if (io_pread(w->fd, data, size, at, err) == 0)
        return 0;
    if (err->code == VN_E_CORRUPT)
        return bad_page(w, page, "behind the end of the file", err);
    return vn_wrap(err, "index '%s'", w->path);
}

/* Pages first to first + count - 1 are in use, or free, and were not yet. */
static int claim(struct walk *w, uint64_t first, uint64_t count,
                 struct vn_err *err)
{
    if (first < 2 || first >= w->meta->page_count ||
        count > w->meta->page_count - first)
        return bad_page(w, first, "there is no such page", err);
    for (uint64_t page = first; page < first + count; page++) {
        uint64_t bit = 1ull << page % 64;

        if (w->seen[page / 64] & bit)
            return bad_page(w, page, "used twice, or free and in use", err);
        w->seen[page / 64] |= bit;
    }
    return 0;
}

/* Ids are most of the keys. */
static int compare_ids(const uint8_t *a, const uint8_t *b)
{
    uint64_t x = be64toh(lmdb_load_u64(a));
    uint64_t y = be64toh(lmdb_load_u64(b));

    if (x == y) {
        x = be64toh(lmdb_load_u64(a + 8));
        y = be64toh(lmdb_load_u64(b + 8));
    }
    return x < y ? -1 : x > y;
}

static int compare(const struct tree *t, struct key a, struct key b)
{
    size_t size = a.size < b.size ? a.size : b.size;
    int order;

    if (t->kind == TREE_FREE) {
        uint64_t x = lmdb_load_u64(a.data);
        uint64_t y = lmdb_load_u64(b.data);

        return x < y ? -1 : x > y;
    }
    if (a.size == 16 && b.size == 16)
        return compare_ids(a.data, b.data);
    order = memcmp(a.data, b.data, size);
    return order ? order : a.size < b.size ? -1 : a.size > b.size;
}

/* ---- values ----------------------------------------------------------- */

/* Where a row's value lies: in the page, or in overflow pages from `page` on.
 */
struct value {
    const uint8_t *data;
    uint64_t page;
    uint64_t size;
};

static int read_value(const struct walk *w, const struct value *value,
                      uint64_t offset, void *data, size_t size,
                      struct vn_err *err)
{
    if (!value->data)
        return read_at(w, value->page, LMDB_PAGE_HEAD + offset, data, size,
                       err);
    memcpy(data, value->data + offset, size);
    return 0;
}

/* The pages of a large value. */
static int walk_overflow(struct walk *w, struct tree *t, uint64_t page,
                         uint64_t size, struct vn_err *err)
{
    uint8_t head[LMDB_PAGE_HEAD];
    uint64_t count;
    const char *why;

    if (page < 2 || page >= w->meta->page_count)
        return bad_page(w, page, "there is no such page", err);
    if (read_at(w, page, 0, head, sizeof(head), err) < 0)
        return -1;
    why = lmdb_overflow_check(head, w->meta->page_size, page, size, &count);
    if (why)
        return bad_page(w, page, why, err);
    if (claim(w, page, count, err) < 0)
        return -1;
    if (page + count > w->file_pages)
        return bad_page(w, page, "behind the end of the file", err);
    t->overflow_pages += count;
    return 0;
}

/* A record of the free list: a count, then that many numbers, falling. There
 * may be room behind them. */
static int walk_free(struct walk *w, uint64_t page, const struct value *value,
                     struct vn_err *err)
{
    uint8_t batch[LIST_BATCH * 8];
    uint64_t before = LMDB_NO_PAGE;
    uint64_t count;

    if (read_value(w, value, 0, batch, 8, err) < 0)
        return -1;
    count = lmdb_load_u64(batch);
    if (value->size % 8 || count > value->size / 8 - 1)
        return bad_page(w, page, "a free list that is too short", err);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t left = count - i < LIST_BATCH ? count - i : LIST_BATCH;
        uint64_t number;

        if (i % LIST_BATCH == 0 &&
            read_value(w, value, 8 + 8 * i, batch, 8 * left, err) < 0)
            return -1;
        number = lmdb_load_u64(batch + 8 * (i % LIST_BATCH));
        if (number >= before)
            return bad_page(w, page, "a free list out of order", err);
        if (claim(w, number, 1, err) < 0)
            return -1;
        w->free_behind += number >= w->file_pages;
        before = number;
    }
    return 0;
}

static int note_table(struct walk *w, uint64_t page,
                      const struct lmdb_node *node, struct vn_err *err)
{
    const struct shape *shape = &shape_other;
    const char *why;

    if (w->table_count == TABLES_MAX)
        return bad_page(w, page, "too many tables", err);
    for (size_t i = 0; i < VN_COUNT(shapes); i++)
        if (strlen(shapes[i].name) == node->key_size &&
            memcmp(shapes[i].name, node->key, node->key_size) == 0)
            shape = &shapes[i];
    why = lmdb_tree_parse(node->data, &w->tables[w->table_count]);
    if (why)
        return bad_page(w, page, why, err);
    w->table_shapes[w->table_count++] = shape;
    return 0;
}

static int walk_row(struct walk *w, struct tree *t, uint64_t page,
                    const struct lmdb_node *node, struct vn_err *err)
{
    const struct shape *shape = t->shape;
    struct value value = {.data = node->data, .size = node->size};

    if (node->key_size < shape->key_min || node->key_size > shape->key_max ||
        node->size < shape->value_min || node->size > shape->value_max ||
        node->tree != (t->kind == TREE_TABLES) ||
        (node->big && shape->value_max < UINT32_MAX) ||
        (shape == shapes && node->size % 8))
        return bad_page(w, page, "a row that its table cannot have", err);
    t->entries++;
    if (t->kind == TREE_TABLES)
        return note_table(w, page, node, err);
    if (node->big) {
        value.page = lmdb_load_u64(node->data);
        value.data = NULL;
        if (walk_overflow(w, t, value.page, value.size, err) < 0)
            return -1;
    }
    if (t->kind != TREE_FREE)
        return 0;
    w->last_free = lmdb_load_u64(node->key);
    return walk_free(w, page, &value, err);
}

/* ---- trees ------------------------------------------------------------ */

/* Keys in `page` rise, from `low` on and below `high`. */
static int check_keys(struct walk *w, const struct tree *t, uint64_t number,
                      const uint8_t *page, unsigned count, bool leaf,
                      struct key low, struct key high, struct vn_err *err)
{
    struct key before = low;

    /* A branch's first key says nothing. */
    for (unsigned i = leaf ? 0 : 1; i < count; i++) {
        struct lmdb_node node = lmdb_page_node(page, i, leaf);
        struct key key = {node.key, node.key_size};
        int order = 1;

        if (t->kind == TREE_FREE && key.size != 8)
            return bad_page(w, number, "a key of the wrong size", err);
        if (before.data)
            order = compare(t, key, before);
        if (order < 0 || (order == 0 && !(leaf && i == 0)))
            return bad_page(w, number, "keys out of order", err);
        before = key;
    }
    if (before.data && high.data && compare(t, before, high) >= 0)
        return bad_page(w, number, "a key that belongs elsewhere", err);
    return 0;
}

static int walk_page(struct walk *w, struct tree *t, uint64_t number,
                     unsigned level, struct key low, struct key high,
                     struct vn_err *err);

static int walk_children(struct walk *w, struct tree *t, unsigned level,
                         unsigned count, struct key low, struct key high,
                         struct vn_err *err)
{
    const uint8_t *page = w->pages[level];
    /* Of the free list always the end, to see the last record. */
    unsigned first = w->whole || t->kind == TREE_TABLES ? 0 : count - 1;

    for (unsigned i = first; i < count; i++) {
        struct lmdb_node node = lmdb_page_node(page, i, false);
        struct key to = high;

        if (i > 0)
            low = (struct key){node.key, node.key_size};
        if (i + 1 < count) {
            struct lmdb_node next = lmdb_page_node(page, i + 1, false);

            to = (struct key){next.key, next.key_size};
        }
        if (walk_page(w, t, node.child, level + 1, low, to, err) < 0)
            return -1;
    }
    return 0;
}

static int walk_page(struct walk *w, struct tree *t, uint64_t number,
                     unsigned level, struct key low, struct key high,
                     struct vn_err *err)
{
    bool leaf = level + 1u == t->record->depth;
    size_t size = w->meta->page_size;
    unsigned count;
    const char *why;
    uint8_t *page;

    if (claim(w, number, 1, err) < 0)
        return -1;
    if (!w->pages[level])
        w->pages[level] = vn_alloc(size);
    page = w->pages[level];
    if (read_at(w, number, 0, page, size, err) < 0)
        return -1;
    why = lmdb_page_check(page, size, number, leaf, &count);
    if (why)
        return bad_page(w, number, why, err);
    if (check_keys(w, t, number, page, count, leaf, low, high, err) < 0)
        return -1;
    if (!leaf) {
        t->branch_pages++;
        if (!w->whole && t->kind == TREE_TABLE)
            return 0;
        return walk_children(w, t, level, count, low, high, err);
    }
    t->leaf_pages++;
    for (unsigned i = 0; i < count; i++) {
        struct lmdb_node node = lmdb_page_node(page, i, true);

        if (walk_row(w, t, number, &node, err) < 0)
            return -1;
    }
    return 0;
}

static int walk_tree(struct walk *w, const struct lmdb_tree *record,
                     const struct shape *shape, enum tree_kind kind,
                     struct vn_err *err)
{
    struct tree t = {.record = record, .shape = shape, .kind = kind};
    const struct key none = {NULL, 0};
    vn_auto(free) char *why = NULL;

    if (record->depth > 0 &&
        walk_page(w, &t, record->root, 0, none, none, err) < 0)
        return -1;
    if ((!w->whole && kind != TREE_TABLES) ||
        (t.entries == record->entries &&
         t.branch_pages == record->branch_pages &&
         t.leaf_pages == record->leaf_pages &&
         t.overflow_pages == record->overflow_pages))
        return 0;
    why = vn_format(
        "table '%s' has %" PRIu64 " rows in %" PRIu64
        " pages, and should have %" PRIu64 " in %" PRIu64,
        shape->name, t.entries,
        t.branch_pages + t.leaf_pages + t.overflow_pages, record->entries,
        record->branch_pages + record->leaf_pages + record->overflow_pages);
    return index_check_bad(w->path, why, err);
}

static int walk_all(struct walk *w, struct vn_err *err)
{
    if (walk_tree(w, &w->meta->tables, &shape_tables, TREE_TABLES, err) < 0)
        return -1;
    for (size_t i = 0; i < w->table_count; i++)
        if (walk_tree(w, &w->tables[i], w->table_shapes[i], TREE_TABLE, err) <
            0)
            return -1;
    if (walk_tree(w, &w->meta->free_pages, &shape_free, TREE_FREE, err) < 0)
        return -1;
    /* Every commit frees a page, but the first, which makes the tables. */
    if (w->last_free != w->meta->txnid && w->meta->txnid > 1)
        return index_check_bad(
            w->path, "its free list is not that of the last transaction", err);
    if (w->whole && w->meta->page_count > w->file_pages &&
        w->free_behind != w->meta->page_count - w->file_pages)
        return index_check_bad(w->path, "the end of the file is missing", err);
    return 0;
}

/* ---- the state -------------------------------------------------------- */

int index_check_end(int fd, const char *path, const struct lmdb_meta *meta,
                    uint64_t *ret_pages, struct vn_err *err)
{
    uint64_t pages;
    struct stat st;

    if (fstat(fd, &st) < 0)
        return vn_fail(err, errno, "index '%s'", path);
    pages = (uint64_t)st.st_size / meta->page_size;
    /* Pages behind the end are in the free list, 8 bytes each. */
    if (meta->page_count > pages &&
        meta->page_count - pages > pages * meta->page_size / 8)
        return index_check_bad(path, "most of the file is missing", err);
    *ret_pages = pages;
    return 0;
}

int index_check_state(int fd, const char *path, const struct lmdb_meta *meta,
                      bool whole, struct vn_err *err)
{
    struct walk w = {.fd = fd, .path = path, .meta = meta};
    int result = -1;

    if (index_check_end(fd, path, meta, &w.file_pages, err) < 0)
        return -1;
    /* Where the end is missing it must be free, which is seen only then. */
    w.whole = whole || w.file_pages < meta->page_count;
    w.seen = calloc(meta->page_count / 64 + 1, 8);
    if (!w.seen)
        return vn_fail(err, ENOMEM, "check index '%s'", path);
    result = walk_all(&w, err);
    for (unsigned i = 0; i < LMDB_DEPTH_MAX; i++)
        free(w.pages[i]);
    free(w.seen);
    return result;
}
