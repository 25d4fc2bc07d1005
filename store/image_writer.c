#include "store/store_internal.h"

/*
 * Writing one image: pages in any order, then the map.
 *
 * A page goes through four questions, the cheapest first:
 *   1. all zeros?  Then its place in the leaf stays zero.
 *   2. the fingerprint of the same place in the parent?  Then the parent's id
 *      is taken over. A guest that forges a fingerprint gets the older page of
 *      its own image; pages of others are never reached this way.
 *   3. known by id to the writer or the index?
 *   4. else it is stored.
 * Pages for 3 and 4 wait in a batch, since hashing goes sixteen at a time and
 * look-ups are cheaper sorted. They wait in the caller's memory during
 * image_writer_put(), and what is left when it returns is copied.
 *
 * A page may be put again while its first version waits. Each leaf remembers
 * for each place which slot of the batch will fill it (0: none); a later
 * put takes the place away from the earlier slot, whose result then goes
 * nowhere.
 *
 * Memory: 16 KiB of ids and fingerprints and 1 KiB of slots a leaf that was
 * touched, that is 34 bytes a page: 2.1 GiB for 256 GiB of image (2^26 pages)
 * without a zero leaf. 8 bytes a leaf that was never touched, 1 MiB of
 * batch, 1 MiB of the parent's nodes. Leaves are not written before the end,
 * because any page of them may still be replaced.
 *
 * After an error inside a batch the image is broken: what it holds is not
 * known, so it refuses to go on.
 */

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define BATCH_MAX  256u
#define NODE_BATCH 16u

struct leaf {
    struct map_node node;
    uint16_t slots[MAP_FANOUT]; /* slot of the batch + 1; 0: none */
};

struct waiting {
    uint64_t page;
    const uint8_t *data; /* 4096 bytes: caller's or in staging */
};

struct image_writer {
    struct store_writer *writer;
    struct store *store;
    uint64_t size;
    uint64_t leaf_count;
    struct leaf **leaves;        /* leaf_count, NULL: all zeros so far */
    struct image_reader *parent; /* NULL: none, or it failed */
    uint64_t parent_pages;
    struct waiting batch[BATCH_MAX];
    unsigned batch_count;
    uint8_t *staging; /* BATCH_MAX pages */
    bool broken;
    bool finished;
};

struct image_writer *image_writer_open(struct store_writer *writer,
                                       uint64_t size,
                                       const struct map_root *parent,
                                       struct vn_err *err)
{
    vn_auto(image_writer) struct image_writer *image = NULL;
    struct vn_err ignored = VN_ERR_INIT;

    if (size > STORE_OBJECT_MAX)
        return vn_fail_ptr(err, VN_E_LIMIT,
                           "an image of %llu bytes, at most %llu are allowed",
                           (unsigned long long)size, STORE_OBJECT_MAX);
    image = vn_alloc(sizeof(*image));
    image->writer = writer;
    image->store = store_writer_store(writer);
    image->size = size;
    image->leaf_count = map_node_count(size, 0);
    image->leaves = calloc(image->leaf_count + 1, sizeof(*image->leaves));
    image->staging = malloc((size_t)BATCH_MAX * STORE_PAGE_SIZE);
    if (!image->leaves || !image->staging)
        return vn_fail_ptr(err, VN_E_LIMIT,
                           "no memory for an image of %llu bytes",
                           (unsigned long long)size);
    /* What gc may have taken parts of is as good as no parent. */
    if (parent && store_hold_covers(store_writer_hold(writer), parent)) {
        image->parent = image_reader_open(image->store, parent, &ignored);
        image->parent_pages = map_page_count(parent->size);
    }
    return vn_steal(&image);
}

void image_writer_free(struct image_writer *image)
{
    if (!image)
        return;
    for (uint64_t i = 0; image->leaves && i < image->leaf_count; i++)
        free(image->leaves[i]);
    free(image->leaves);
    free(image->staging);
    image_reader_free(image->parent);
    free(image);
}

static struct leaf *leaf_of(struct image_writer *image, uint64_t page)
{
    return image->leaves[page / MAP_FANOUT];
}

/* Fill the place of a page, now and for good unless it is put again. */
static void set_page(struct image_writer *image, uint64_t page,
                     const struct chunk_id *id, const struct fingerprint *print)
{
    struct leaf *leaf = leaf_of(image, page);
    size_t i = page % MAP_FANOUT;

    leaf->node.ids[i] = *id;
    leaf->node.fingerprints[i] = *print;
    leaf->slots[i] = 0;
}

static int check_usable(const struct image_writer *image, struct vn_err *err)
{
    assert(!image->finished);
    if (image->broken)
        return vn_fail(err, VN_E_STATE,
                       "the image was given up after an earlier error");
    return 0;
}

/* ---- the batch -------------------------------------------------------- */

/* Hash, look up and store what waits; fill the places. */
static int resolve_batch(struct image_writer *image, struct vn_err *err)
{
    struct ident_full ids[BATCH_MAX];
    const uint8_t *pages[BATCH_MAX];
    struct store_counts *counts = store_writer_counters(image->writer);
    size_t count = image->batch_count;
    size_t stored;

    for (size_t i = 0; i < count; i++)
        pages[i] = image->batch[i].data;
    ident_pages(&image->store->ident, pages, count, ids);
    if (store_writer_put(image->writer, CHUNK_PAGE, ids, pages, STORE_PAGE_SIZE,
                         count, &stored, err) < 0) {
        image->broken = true;
        return -1;
    }
    counts->bytes_new += stored * STORE_PAGE_SIZE;
    counts->bytes_known += (count - stored) * STORE_PAGE_SIZE;
    for (size_t i = 0; i < count; i++) {
        struct leaf *leaf = leaf_of(image, image->batch[i].page);
        size_t place = image->batch[i].page % MAP_FANOUT;

        if (leaf->slots[place] != i + 1)
            continue; /* put again since */
        leaf->node.ids[place] = ident_short(&ids[i]);
        leaf->slots[place] = 0;
    }
    image->batch_count = 0;
    return 0;
}

/* Copy what waits in the caller's memory. */
static void settle_batch(struct image_writer *image)
{
    for (unsigned i = 0; i < image->batch_count; i++) {
        uint8_t *own = image->staging + (size_t)i * STORE_PAGE_SIZE;

        if (image->batch[i].data == own)
            continue;
        memcpy(own, image->batch[i].data, STORE_PAGE_SIZE);
        image->batch[i].data = own;
    }
}

static int wait_page(struct image_writer *image, uint64_t page,
                     const uint8_t *data, const struct fingerprint *print,
                     struct vn_err *err)
{
    struct leaf *leaf = leaf_of(image, page);

    leaf->node.fingerprints[page % MAP_FANOUT] = *print;
    leaf->slots[page % MAP_FANOUT] = (uint16_t)(image->batch_count + 1);
    image->batch[image->batch_count++] =
        (struct waiting){.page = page, .data = data};
    return image->batch_count == BATCH_MAX ? resolve_batch(image, err) : 0;
}

/* ---- one page --------------------------------------------------------- */

/* Does the parent have this content at the same place? Then *ret_id. */
static bool parent_has(struct image_writer *image, uint64_t page,
                       const struct fingerprint *print, struct chunk_id *ret_id)
{
    struct vn_err ignored = VN_ERR_INIT;
    const struct map_node *leaf;
    size_t i = page % MAP_FANOUT;

    if (!image->parent || page >= image->parent_pages)
        return false;
    if (image_reader_leaf(image->parent, page / MAP_FANOUT, &leaf, &ignored) <
        0) {
        image_reader_free(vn_steal(&image->parent));
        return false;
    }
    if (!leaf || chunk_id_is_zero(&leaf->ids[i]) ||
        memcmp(&leaf->fingerprints[i], print, sizeof(*print)) != 0 ||
        store_hold_lost(store_writer_hold(image->writer), &leaf->ids[i]))
        return false;
    *ret_id = leaf->ids[i];
    return true;
}

static int put_page(struct image_writer *image, uint64_t page,
                    const uint8_t *data, struct vn_err *err)
{
    static const struct fingerprint no_print;
    static const struct chunk_id no_id;
    struct store_counts *counts = store_writer_counters(image->writer);
    struct fingerprint print;
    struct chunk_id id;

    if (ident_page_is_zero(data)) {
        counts->bytes_zero += STORE_PAGE_SIZE;
        if (leaf_of(image, page))
            set_page(image, page, &no_id, &no_print);
        return 0;
    }
    if (!leaf_of(image, page)) {
        image->leaves[page / MAP_FANOUT] = calloc(1, sizeof(struct leaf));
        if (!leaf_of(image, page))
            return vn_fail(err, VN_E_LIMIT, "no memory for the map");
    }
    ident_fingerprint(&image->store->ident, data, &print);
    if (parent_has(image, page, &print, &id)) {
        counts->bytes_unchanged += STORE_PAGE_SIZE;
        set_page(image, page, &id, &print);
        return 0;
    }
    return wait_page(image, page, data, &print, err);
}

int image_writer_put(struct image_writer *image, uint64_t offset,
                     const void *data, size_t size, struct vn_err *err)
{
    struct store_counts *counts = store_writer_counters(image->writer);
    uint8_t last[STORE_PAGE_SIZE] = {0};
    uint64_t page = offset / STORE_PAGE_SIZE;
    const uint8_t *from = data;

    assert(offset % STORE_PAGE_SIZE == 0 && offset <= image->size &&
           size <= image->size - offset);
    assert(size % STORE_PAGE_SIZE == 0 || offset + size == image->size);
    if (check_usable(image, err) < 0)
        return -1;
    for (; size >= STORE_PAGE_SIZE; size -= STORE_PAGE_SIZE) {
        counts->bytes_read += STORE_PAGE_SIZE;
        if (put_page(image, page, from, err) < 0)
            return -1;
        page++;
        from += STORE_PAGE_SIZE;
    }
    if (size > 0) {
        memcpy(last, from, size);
        counts->bytes_read += STORE_PAGE_SIZE;
        if (put_page(image, page, last, err) < 0)
            return -1;
    }
    settle_batch(image);
    return 0;
}

/* ---- the map ---------------------------------------------------------- */

/* Nodes encoded and waiting to be stored together. */
struct node_batch {
    uint8_t data[NODE_BATCH][MAP_LEAF_SIZE];
    struct chunk_id *targets[NODE_BATCH]; /* where their ids go */
    size_t count;
    size_t size; /* of each */
};

static int store_nodes(struct image_writer *image, struct node_batch *batch,
                       unsigned height, struct vn_err *err)
{
    struct ident_full ids[NODE_BATCH];
    const uint8_t *data[NODE_BATCH];
    size_t stored;

    for (size_t i = 0; i < batch->count; i++) {
        data[i] = batch->data[i];
        ident_chunk(&image->store->ident, map_node_kind(height), data[i],
                    batch->size, &ids[i]);
        *batch->targets[i] = ident_short(&ids[i]);
    }
    if (store_writer_put(image->writer, map_node_kind(height), ids, data,
                         batch->size, batch->count, &stored, err) < 0)
        return -1;
    batch->count = 0;
    return 0;
}

static int add_node(struct image_writer *image, struct node_batch *batch,
                    const struct map_node *node, struct chunk_id *target,
                    struct vn_err *err)
{
    if (map_node_is_zero(node))
        return 0;
    batch->size = map_node_encode(node, batch->data[batch->count]);
    batch->targets[batch->count++] = target;
    return batch->count == NODE_BATCH
               ? store_nodes(image, batch, node->height, err)
               : 0;
}

/* Store all leaves; their ids into `ids`, which is zeroed. */
static int store_leaves(struct image_writer *image, struct node_batch *batch,
                        struct chunk_id *ids, struct vn_err *err)
{
    for (uint64_t i = 0; i < image->leaf_count; i++)
        if (image->leaves[i] &&
            add_node(image, batch, &image->leaves[i]->node, &ids[i], err) < 0)
            return -1;
    return store_nodes(image, batch, 0, err);
}

/* Store a level of inner nodes over `count` ids; puts theirs in their stead. */
static int store_level(struct image_writer *image, struct node_batch *batch,
                       struct chunk_id *ids, uint64_t count, unsigned height,
                       struct vn_err *err)
{
    static const struct chunk_id no_id;
    vn_auto(free) struct map_node *node = vn_alloc(sizeof(*node));
    uint64_t done = 0;

    node->height = height;
    for (uint64_t i = 0; i < count; i += MAP_FANOUT, done++) {
        uint64_t n = count - i < MAP_FANOUT ? count - i : MAP_FANOUT;

        memset(node->ids, 0, sizeof(node->ids));
        memcpy(node->ids, ids + i, n * sizeof(*ids));
        /* done <= i: the ids written over were taken already. */
        ids[done] = no_id;
        if (add_node(image, batch, node, &ids[done], err) < 0)
            return -1;
    }
    return store_nodes(image, batch, height, err);
}

static int store_map(struct image_writer *image, struct chunk_id *ret,
                     struct vn_err *err)
{
    vn_auto(free) struct node_batch *batch = vn_alloc(sizeof(*batch));
    vn_auto(free) struct chunk_id *ids =
        calloc(image->leaf_count + 1, sizeof(*ids));
    unsigned height = map_height(image->size);

    if (!ids)
        return vn_fail(err, VN_E_LIMIT, "no memory for the map");
    if (store_leaves(image, batch, ids, err) < 0)
        return -1;
    for (unsigned h = 1; h <= height; h++)
        if (store_level(image, batch, ids, map_node_count(image->size, h - 1),
                        h, err) < 0)
            return -1;
    *ret = ids[0];
    return 0;
}

int image_writer_finish(struct image_writer *image, struct map_root *ret,
                        struct vn_err *err)
{
    struct map_root root = {.size = image->size};

    if (check_usable(image, err) < 0 || resolve_batch(image, err) < 0 ||
        store_map(image, &root.root, err) < 0)
        return -1;
    image->finished = true;
    *ret = root;
    return 0;
}

int store_put_bytes(struct store_writer *writer, const void *data, size_t size,
                    struct map_root *ret, struct vn_err *err)
{
    vn_auto(image_writer) struct image_writer *image =
        image_writer_open(writer, size, NULL, err);

    if (!image || image_writer_put(image, 0, data, size, err) < 0)
        return -1;
    return image_writer_finish(image, ret, err);
}
