#include "crash/tree.h"

/*
 * A state is the replay of a part of the log: operations that were lost are
 * left out, the others done in order. So a name that was created and renamed
 * may be there under the old name, the new, both in turn, or not; and of a
 * sector that was written twice the first or the second version may be found.
 */

#include "common/auto.h"
#include "common/buf.h"
#include "common/io.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#define FILE_SIZE_MAX (64u << 20)

struct content {
    uint8_t *data;
    size_t size;
    size_t capacity;
};

struct entry {
    uint32_t dir;
    uint32_t node;
    const char *name;
    size_t name_size;
};

struct tree {
    const struct oplog *log;
    const char *root;
    struct content *contents; /* one a node */
    struct content *mapped;   /* one a node; of mapped files what they hold */
    struct entry *entries;
    size_t entry_count;
};

uint64_t tree_mix(uint64_t a, uint64_t b)
{
    uint64_t x = a * 0x9e3779b97f4a7c15ull + b;

    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

/* ---- names ------------------------------------------------------------ */

static struct entry *find_entry(struct tree *tree, uint32_t dir,
                                const char *name, size_t size)
{
    for (size_t i = 0; i < tree->entry_count; i++) {
        struct entry *e = &tree->entries[i];

        if (e->dir == dir && e->name_size == size &&
            memcmp(e->name, name, size) == 0)
            return e;
    }
    return NULL;
}

static void remove_entry(struct tree *tree, struct entry *entry)
{
    *entry = tree->entries[--tree->entry_count];
}

static void set_entry(struct tree *tree, uint32_t dir, const char *name,
                      size_t size, uint32_t node)
{
    struct entry *entry = find_entry(tree, dir, name, size);

    if (!entry)
        entry = &tree->entries[tree->entry_count++];
    *entry = (struct entry){
        .dir = dir, .node = node, .name = name, .name_size = size};
}

/* It may persist where the creation of the old name did not. */
static void do_rename(struct tree *tree, const struct oplog_op *op)
{
    struct entry *from = find_entry(tree, op->dir, op->name, op->name_size);

    if (from)
        remove_entry(tree, from);
    set_entry(tree, op->dir2, op->name2, op->name2_size, op->node);
}

static void do_name(struct tree *tree, const struct oplog_op *op)
{
    struct entry *entry;

    if (op->node == OPLOG_NONE && op->type != LOG_UNLINK)
        return; /* of a file that the recorder does not know: it will show */
    switch (op->type) {
    case LOG_CREATE:
    case LOG_MKDIR:
    case LOG_LINK:
        set_entry(tree, op->dir, op->name, op->name_size, op->node);
        break;
    case LOG_RENAME:
        do_rename(tree, op);
        break;
    default:
        entry = find_entry(tree, op->dir, op->name, op->name_size);
        if (entry)
            remove_entry(tree, entry);
    }
}

/* ---- bytes ------------------------------------------------------------ */

static void reserve(struct content *c, size_t size)
{
    if (size <= c->capacity)
        return;
    c->capacity = 2 * size;
    c->data = realloc(c->data, c->capacity);
    if (!c->data)
        abort();
}

/* Let it have `size` bytes; new ones are zeros or, from the seed, garbage. */
static void resize(struct content *c, size_t size, uint64_t garbage)
{
    reserve(c, size);
    if (size > c->size)
        memset(c->data + c->size, 0, size - c->size);
    for (size_t i = c->size; garbage && i < size; i++)
        c->data[i] = (uint8_t)(tree_mix(garbage, i / 8) >> i % 8 * 8);
    c->size = size;
}

static void write_piece(struct content *c, uint64_t offset, const uint8_t *data,
                        size_t size, uint64_t garbage)
{
    if (offset > c->size)
        resize(c, offset, garbage);
    if (offset + size > c->size)
        resize(c, offset + size, 0);
    memcpy(c->data + offset, data, size);
}

/* Pieces are aligned in the file: a sector is written whole or not. */
static void write_torn(struct content *c, const struct oplog_op *op,
                       size_t unit, uint64_t seed, uint64_t garbage)
{
    uint64_t end = op->offset + op->data_size;

    for (uint64_t at = op->offset; at < end;) {
        uint64_t next = at / unit * unit + unit;

        if (next > end)
            next = end;
        if (tree_mix(seed, at / unit) & 1)
            write_piece(c, at, op->data + (at - op->offset), next - at,
                        garbage);
        at = next;
    }
    /* The size may be there before the bytes. */
    if (tree_mix(seed, 1) & 1 && c->size < end)
        resize(c, end, garbage);
}

static void do_bytes(struct content *c, const struct oplog_op *op,
                     enum fate fate, uint64_t seed)
{
    uint64_t garbage = seed && seed % 3 == 0 ? seed : 0;

    if (op->type == LOG_TRUNCATE)
        resize(c, op->offset, 0);
    else if (fate == FATE_DONE)
        write_piece(c, op->offset, op->data, op->data_size, garbage);
    else
        write_torn(c, op, fate == FATE_TORN_512 ? 512 : 4096, seed, garbage);
}

/* ---- mapped files ----------------------------------------------------- */

/* What a mapped file holds is anybody's guess. False: it is not there. */
static bool guess(struct content *c, const struct content *last, uint64_t seed)
{
    resize(c, 0, 0);
    resize(c, last->size, 0);
    if (seed % 4 == 1)
        return false;
    if (seed % 4 == 2 || last->size == 0)
        return true;
    memcpy(c->data, last->data, last->size);
    for (uint64_t i = 0; seed % 4 == 3 && i < 100; i++)
        c->data[tree_mix(seed, i) % last->size] ^= (uint8_t)(1 + i);
    return true;
}

static void set_mapped(struct tree *tree, uint64_t seed)
{
    for (size_t i = tree->entry_count; i-- > 0;) {
        struct entry *e = &tree->entries[i];

        if (tree->log->nodes[e->node].mapped &&
            !guess(&tree->contents[e->node], &tree->mapped[e->node],
                   seed ? tree_mix(seed, e->node) : 0))
            remove_entry(tree, e);
    }
}

/* ---- states ----------------------------------------------------------- */

void tree_build(struct tree *tree, size_t point, const uint8_t *fates,
                uint64_t seed)
{
    const struct oplog *log = tree->log;

    tree->entry_count = 0;
    for (size_t i = 0; i < log->node_count; i++)
        tree->contents[i].size = 0;
    for (size_t i = 0; i < point; i++) {
        const struct oplog_op *op = &log->ops[i];

        if (!oplog_changes(op) || fates[i] == FATE_LOST)
            continue;
        if (oplog_is_name(op))
            do_name(tree, op);
        else if (op->node != OPLOG_NONE && !log->nodes[op->node].mapped)
            do_bytes(&tree->contents[op->node], op, (enum fate)fates[i],
                     seed ? tree_mix(seed, i) : 0);
    }
    set_mapped(tree, seed);
}

/* The path of an entry below the root; false: it cannot be reached. */
static bool path_of(const struct tree *tree, const struct entry *entry,
                    char *path, size_t size)
{
    char tail[512];

    snprintf(path, size, "%.*s", (int)entry->name_size, entry->name);
    while (entry->dir != 0) {
        uint32_t dir = entry->dir;

        entry = NULL;
        for (size_t i = 0; i < tree->entry_count && !entry; i++)
            if (tree->entries[i].node == dir)
                entry = &tree->entries[i];
        if (!entry)
            return false;
        snprintf(tail, sizeof(tail), "%s", path);
        snprintf(path, size, "%.*s/%s", (int)entry->name_size, entry->name,
                 tail);
    }
    return true;
}

uint64_t tree_hash(const struct tree *tree)
{
    uint64_t sum = 0;
    char path[600];

    for (size_t i = 0; i < tree->entry_count; i++) {
        const struct entry *e = &tree->entries[i];
        const struct content *c = &tree->contents[e->node];

        if (path_of(tree, e, path, sizeof(path)))
            sum += tree_mix(XXH3_64bits(path, strlen(path)),
                            XXH3_64bits(c->data, c->size));
    }
    return sum;
}

static int by_length(const void *a, const void *b)
{
    size_t x = strlen(*(char *const *)a);
    size_t y = strlen(*(char *const *)b);

    return x < y ? -1 : x > y;
}

static int write_file(const char *path, const struct content *c,
                      struct vn_err *err)
{
    vn_auto(close) int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);

    if (fd < 0)
        return vn_fail(err, errno, "create '%s'", path);
    return io_write(fd, c->data, c->size, err);
}

/* Directories first, the shorter path before the longer. */
static int write_dirs(const struct tree *tree, const char *dir,
                      struct vn_err *err)
{
    char **paths = vn_alloc((tree->entry_count + 1) * sizeof(*paths));
    char path[600];
    size_t count = 0;
    int result = 0;

    for (size_t i = 0; i < tree->entry_count; i++)
        if (tree->log->nodes[tree->entries[i].node].is_dir &&
            path_of(tree, &tree->entries[i], path, sizeof(path)))
            paths[count++] = vn_format("%s/%s", dir, path);
    qsort(paths, count, sizeof(*paths), by_length);
    for (size_t i = 0; i < count; i++) {
        if (result == 0 && mkdir(paths[i], 0700) < 0)
            result = vn_fail(err, errno, "make directory '%s'", paths[i]);
        free(paths[i]);
    }
    free(paths);
    return result;
}

int tree_write(const struct tree *tree, const char *dir, struct vn_err *err)
{
    char path[600];

    if (mkdir(dir, 0700) < 0)
        return vn_fail(err, errno, "make directory '%s'", dir);
    if (write_dirs(tree, dir, err) < 0)
        return -1;
    for (size_t i = 0; i < tree->entry_count; i++) {
        const struct entry *e = &tree->entries[i];
        vn_auto(free) char *file = NULL;

        if (tree->log->nodes[e->node].is_dir ||
            !path_of(tree, e, path, sizeof(path)))
            continue;
        file = vn_format("%s/%s", dir, path);
        if (write_file(file, &tree->contents[e->node], err) < 0)
            return -1;
    }
    return 0;
}

/* ---- the real tree ---------------------------------------------------- */

static int read_real(const struct tree *tree, const char *path, struct buf *b,
                     struct vn_err *err)
{
    vn_auto(free) char *file = vn_format("%s/%s", tree->root, path);

    buf_init(b, FILE_SIZE_MAX);
    return io_read_file(file, b, err);
}

static size_t real_count;

static int count_real(const char *path, const struct stat *st, int type,
                      struct FTW *where)
{
    (void)path;
    (void)st;
    (void)type;
    real_count += where->level > 0;
    return 0;
}

int tree_compare(const struct tree *tree, struct vn_err *err)
{
    char path[600];

    for (size_t i = 0; i < tree->entry_count; i++) {
        const struct entry *e = &tree->entries[i];
        const struct oplog_node *node = &tree->log->nodes[e->node];
        const struct content *c = &tree->contents[e->node];
        vn_auto(buf) struct buf b = {0};

        if (!path_of(tree, e, path, sizeof(path)))
            return vn_fail(err, VN_E_CORRUPT, "'%s' hangs in the air", path);
        if (node->is_dir || node->mapped)
            continue;
        if (read_real(tree, path, &b, err) < 0)
            return -1;
        if (b.size != c->size || memcmp(b.data, c->data, b.size) != 0)
            return vn_fail(err, VN_E_CORRUPT, "'%s' was replayed otherwise",
                           path);
    }
    real_count = 0;
    if (nftw(tree->root, count_real, 16, FTW_PHYS) < 0)
        return vn_fail(err, errno, "list '%s'", tree->root);
    if (real_count != tree->entry_count)
        return vn_fail(err, VN_E_CORRUPT, "%zu files in '%s', %zu replayed",
                       real_count, tree->root, tree->entry_count);
    return 0;
}

/* Mapped files as they are now. */
static int load_mapped(struct tree *tree, struct vn_err *err)
{
    vn_auto(free) uint8_t *all = vn_alloc(tree->log->op_count + 1);
    char path[600];

    memset(all, FATE_DONE, tree->log->op_count);
    tree_build(tree, tree->log->op_count, all, 0);
    for (size_t i = 0; i < tree->entry_count; i++) {
        const struct entry *e = &tree->entries[i];
        struct content *c = &tree->mapped[e->node];
        struct buf b;

        if (!tree->log->nodes[e->node].mapped ||
            !path_of(tree, e, path, sizeof(path)))
            continue;
        if (read_real(tree, path, &b, err) < 0) {
            buf_done(&b);
            return -1;
        }
        *c = (struct content){b.data, b.size, b.capacity};
    }
    return 0;
}

struct tree *tree_new(const struct oplog *log, const char *root,
                      struct vn_err *err)
{
    struct tree *tree = vn_alloc(sizeof(*tree));

    *tree = (struct tree){.log = log, .root = root};
    tree->contents = vn_alloc(log->node_count * sizeof(*tree->contents));
    tree->mapped = vn_alloc(log->node_count * sizeof(*tree->mapped));
    tree->entries = vn_alloc((log->op_count + 1) * sizeof(*tree->entries));
    if (load_mapped(tree, err) == 0)
        return tree;
    tree_free(tree);
    return NULL;
}

void tree_free(struct tree *tree)
{
    if (!tree)
        return;
    for (size_t i = 0; i < tree->log->node_count; i++) {
        free(tree->contents[i].data);
        free(tree->mapped[i].data);
    }
    free(tree->contents);
    free(tree->mapped);
    free(tree->entries);
    free(tree);
}
