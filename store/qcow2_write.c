#include "store/qcow2.h"

/*
 * Writing qcow2 to what may be a pipe.
 *
 * The format leaves the order of its parts open, so all tables come before the
 * data, and nothing has to be written twice:
 *
 *     header | refcount table | refcount blocks | L1 | L2 tables | data
 *
 * The map of the image is passed four times - to count, for the L1 table, for
 * the L2 tables, for the data - which costs a node of 16 KiB for every 2 MiB
 * of data each time, and keeps memory constant: no list of clusters is needed.
 * Data clusters lie in the order of the disk. Each cluster is used once: every
 * refcount is 1.
 *
 * How many refcount blocks there are depends on how many clusters there are,
 * those blocks included; the number is found by trying again until it stays,
 * which it does, since a block counts 32768 clusters.
 *
 * Limits: an image of 2^46 bytes has 2^30 clusters, 2^17 entries in the L1
 * table (1 MiB; QEMU allows 32) and offsets below 2^47 (the format allows
 * 2^56).
 */

#include "common/auto.h"
#include "common/buf.h"
#include "common/io.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define CLUSTER_BITS   16u
#define CLUSTER_SIZE   (1u << CLUSTER_BITS)
#define L2_ENTRIES     (CLUSTER_SIZE / 8)
#define REFCOUNTS      (CLUSTER_SIZE / 2) /* 16 bits each */
#define REFCOUNT_ORDER 4u
#define HEADER_SIZE    104u
#define COPIED         (1ull << 63) /* the refcount is exactly 1 */
#define DATA_CLUSTERS  16u          /* written at a time */
#define SECTOR_SIZE    512u
#define NO_CLUSTER     UINT64_MAX

/* What lies where, in clusters. */
struct layout {
    uint64_t disk_size;
    uint64_t l1_count; /* entries */
    uint64_t l2_tables;
    uint64_t data;
    uint64_t refcount_table; /* clusters of it, and so on */
    uint64_t refcount_blocks;
    uint64_t l1;
    uint64_t total;
};

struct writer {
    struct image_reader *image;
    struct layout layout;
    int fd;
    uint8_t *block; /* DATA_CLUSTERS clusters */
    store_progress_fn *progress;
    void *context;
};

/* ---- the clusters with data, in order --------------------------------- */

struct walk {
    struct image_reader *image;
    uint64_t size;
    uint64_t offset; /* the map was looked at up to here */
    uint64_t next;   /* clusters of the last run not given yet: from here */
    uint64_t end;    /* up to here */
};

static struct walk walk_of(const struct writer *w, uint64_t size)
{
    return (struct walk){.image = w->image, .size = size};
}

/* The next cluster of the disk that has data, or NO_CLUSTER. */
static int walk_next(struct walk *walk, uint64_t *ret, struct vn_err *err)
{
    while (walk->next == walk->end) {
        uint64_t start, size, first;

        *ret = NO_CLUSTER;
        if (walk->offset >= walk->size)
            return 0;
        if (image_reader_next_data(walk->image, walk->offset, &start, &size,
                                   err) < 0)
            return -1;
        if (size == 0)
            return 0;
        walk->offset = start + size;
        first = start >> CLUSTER_BITS;
        /* Two runs may share a cluster. */
        walk->next = first > walk->end ? first : walk->end;
        walk->end = (walk->offset + CLUSTER_SIZE - 1) >> CLUSTER_BITS;
        if (walk->next > walk->end)
            walk->next = walk->end;
    }
    *ret = walk->next++;
    return 0;
}

/* ---- the layout ------------------------------------------------------- */

static uint64_t divide_up(uint64_t n, uint64_t by)
{
    return (n + by - 1) / by;
}

static void place(struct layout *l)
{
    uint64_t disk_clusters = divide_up(l->disk_size, CLUSTER_SIZE);
    uint64_t before;

    l->l1_count = divide_up(disk_clusters, L2_ENTRIES);
    l->l1 = divide_up(l->l1_count * 8, CLUSTER_SIZE);
    l->refcount_blocks = 1;
    do {
        before = l->refcount_blocks;
        l->refcount_table = divide_up(l->refcount_blocks * 8, CLUSTER_SIZE);
        l->total = 1 + l->refcount_table + l->refcount_blocks + l->l1 +
                   l->l2_tables + l->data;
        l->refcount_blocks = divide_up(l->total, REFCOUNTS);
    } while (l->refcount_blocks != before);
}

static int count(struct writer *w, const struct map_root *root,
                 struct vn_err *err)
{
    struct layout *l = &w->layout;
    struct walk walk = walk_of(w, root->size);
    uint64_t table = NO_CLUSTER;
    uint64_t cluster;

    l->disk_size = divide_up(root->size, SECTOR_SIZE) * SECTOR_SIZE;
    for (;;) {
        if (walk_next(&walk, &cluster, err) < 0)
            return -1;
        if (cluster == NO_CLUSTER)
            break;
        l->data++;
        l->l2_tables += cluster / L2_ENTRIES != table;
        table = cluster / L2_ENTRIES;
    }
    place(l);
    return 0;
}

static uint64_t l1_offset(const struct layout *l)
{
    return (1 + l->refcount_table + l->refcount_blocks) << CLUSTER_BITS;
}

static uint64_t l2_offset(const struct layout *l)
{
    return l1_offset(l) + (l->l1 << CLUSTER_BITS);
}

static uint64_t data_offset(const struct layout *l)
{
    return l2_offset(l) + (l->l2_tables << CLUSTER_BITS);
}

/* ---- tables ----------------------------------------------------------- */

/* A table of numbers on its way out, filled up to whole clusters. */
struct table {
    struct buf bytes; /* one cluster */
    int fd;
};

static void table_init(struct table *t, int fd)
{
    buf_init(&t->bytes, CLUSTER_SIZE);
    t->fd = fd;
}

static inline void vn_auto_table(struct table *t)
{
    buf_done(&t->bytes);
}

static int table_flush(struct table *t, struct vn_err *err)
{
    if (t->bytes.size == 0)
        return 0;
    buf_put_zero(&t->bytes, CLUSTER_SIZE - t->bytes.size);
    if (io_write(t->fd, t->bytes.data, CLUSTER_SIZE, err) < 0)
        return -1;
    t->bytes.size = 0;
    return 0;
}

static int table_put(struct table *t, uint64_t entry, struct vn_err *err)
{
    buf_put_be64(&t->bytes, entry);
    return t->bytes.size == CLUSTER_SIZE ? table_flush(t, err) : 0;
}

static int write_header(struct writer *w, struct vn_err *err)
{
    const struct layout *l = &w->layout;
    vn_auto(table) struct table t;

    table_init(&t, w->fd);
    buf_put(&t.bytes, "QFI\xfb", 4);
    buf_put_be32(&t.bytes, 3);  /* version */
    buf_put_zero(&t.bytes, 12); /* no backing file */
    buf_put_be32(&t.bytes, CLUSTER_BITS);
    buf_put_be64(&t.bytes, l->disk_size);
    buf_put_be32(&t.bytes, 0); /* not encrypted */
    buf_put_be32(&t.bytes, (uint32_t)l->l1_count);
    buf_put_be64(&t.bytes, l1_offset(l));
    buf_put_be64(&t.bytes, CLUSTER_SIZE); /* refcount table */
    buf_put_be32(&t.bytes, (uint32_t)l->refcount_table);
    buf_put_zero(&t.bytes, 12); /* no internal snapshots */
    buf_put_zero(&t.bytes, 24); /* no features */
    buf_put_be32(&t.bytes, REFCOUNT_ORDER);
    buf_put_be32(&t.bytes, HEADER_SIZE);
    assert(t.bytes.size == HEADER_SIZE);
    return table_flush(&t, err); /* and the end of the extensions: zeros */
}

static int write_refcounts(struct writer *w, struct vn_err *err)
{
    const struct layout *l = &w->layout;
    uint64_t first = (1 + l->refcount_table) << CLUSTER_BITS;
    vn_auto(table) struct table t;

    table_init(&t, w->fd);
    for (uint64_t i = 0; i < l->refcount_blocks; i++)
        if (table_put(&t, first + (i << CLUSTER_BITS), err) < 0)
            return -1;
    if (table_flush(&t, err) < 0)
        return -1;
    for (uint64_t i = 0; i < l->refcount_blocks; i++) {
        uint64_t left = l->total - i * REFCOUNTS;

        for (uint64_t k = 0; k < REFCOUNTS && k < left; k++)
            buf_put_be16(&t.bytes, 1);
        if (table_flush(&t, err) < 0)
            return -1;
    }
    return 0;
}

static int write_l1(struct writer *w, uint64_t size, struct vn_err *err)
{
    const struct layout *l = &w->layout;
    struct walk walk = walk_of(w, size);
    uint64_t at = l2_offset(l);
    uint64_t cluster;
    vn_auto(table) struct table t;

    table_init(&t, w->fd);
    if (walk_next(&walk, &cluster, err) < 0)
        return -1;
    for (uint64_t i = 0; i < l->l1_count; i++) {
        bool used = cluster != NO_CLUSTER && cluster / L2_ENTRIES == i;

        if (table_put(&t, used ? at | COPIED : 0, err) < 0)
            return -1;
        at += used ? CLUSTER_SIZE : 0;
        while (cluster != NO_CLUSTER && cluster / L2_ENTRIES == i)
            if (walk_next(&walk, &cluster, err) < 0)
                return -1;
    }
    return table_flush(&t, err);
}

static int write_l2(struct writer *w, uint64_t size, struct vn_err *err)
{
    struct walk walk = walk_of(w, size);
    uint64_t at = data_offset(&w->layout);
    uint64_t cluster;
    vn_auto(table) struct table t;

    table_init(&t, w->fd);
    if (walk_next(&walk, &cluster, err) < 0)
        return -1;
    while (cluster != NO_CLUSTER) {
        uint64_t first = cluster / L2_ENTRIES * L2_ENTRIES;

        for (uint64_t i = first; i < first + L2_ENTRIES; i++) {
            bool used = cluster == i;

            if (table_put(&t, used ? at | COPIED : 0, err) < 0)
                return -1;
            if (!used)
                continue;
            at += CLUSTER_SIZE;
            if (walk_next(&walk, &cluster, err) < 0)
                return -1;
        }
    }
    return 0;
}

/* ---- data ------------------------------------------------------------- */

/* One cluster of the disk, filled up with zeros. */
static int read_cluster(struct writer *w, uint64_t size, uint64_t cluster,
                        uint8_t *out, struct vn_err *err)
{
    uint64_t start = cluster << CLUSTER_BITS;
    uint64_t left = size - start;
    size_t n = left < CLUSTER_SIZE ? (size_t)left : CLUSTER_SIZE;

    memset(out + n, 0, CLUSTER_SIZE - n);
    return image_reader_read(w->image, start, out, n, err);
}

static int write_data(struct writer *w, uint64_t size, struct vn_err *err)
{
    struct walk walk = walk_of(w, size);
    size_t fill = 0;
    uint64_t done = 0;
    uint64_t cluster;

    for (;;) {
        if (walk_next(&walk, &cluster, err) < 0)
            return -1;
        if (fill && (fill == DATA_CLUSTERS || cluster == NO_CLUSTER)) {
            if (io_write(w->fd, w->block, fill << CLUSTER_BITS, err) < 0)
                return -1;
            done += fill;
            fill = 0;
            if (w->progress)
                w->progress(w->context, done << CLUSTER_BITS,
                            w->layout.data << CLUSTER_BITS);
        }
        if (cluster == NO_CLUSTER)
            return 0;
        if (read_cluster(w, size, cluster, w->block + (fill << CLUSTER_BITS),
                         err) < 0)
            return -1;
        fill++;
    }
}

int qcow2_write(struct store *store, const struct map_root *root, int fd,
                store_progress_fn *progress, void *context, struct vn_err *err)
{
    vn_auto(image_reader) struct image_reader *image =
        image_reader_open(store, root, err);
    vn_auto(free) uint8_t *block =
        vn_alloc((size_t)DATA_CLUSTERS << CLUSTER_BITS);
    struct writer w = {
        .image = image,
        .fd = fd,
        .block = block,
        .progress = progress,
        .context = context,
    };

    if (!image || count(&w, root, err) < 0 || write_header(&w, err) < 0 ||
        write_refcounts(&w, err) < 0 || write_l1(&w, root->size, err) < 0 ||
        write_l2(&w, root->size, err) < 0 ||
        write_data(&w, root->size, err) < 0)
        return vn_wrap(err, "the qcow2 image");
    return 0;
}
