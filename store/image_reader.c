#include "store/image_reader_internal.h"

/*
 * Reading one image: from the root down to leaves, then pages in batches.
 * Long ranges: image_reader_run.c.
 *
 * Nodes that were read stay decoded in a direct-mapped cache of CACHE_SIZE
 * places, by height and number: 16 KiB each, 16 MiB at most, which covers
 * 2 GiB of image; a page of a cached leaf costs no node. A zero id in an
 * inner node stands for a whole subtree, so holes cost nothing either.
 *
 * A reader is used by one thread at a time, and by the tasks that it starts
 * itself. These have leaves of their own and come here for the id of one
 * (image_reader_load_leaf), one at a time.
 */

#include "store/read_ahead.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static int read_node(struct image_reader *image, unsigned height,
                     uint64_t index, const struct map_node **ret,
                     struct vn_err *err);

struct image_reader *image_reader_open(struct store *store,
                                       const struct map_root *root,
                                       struct vn_err *err)
{
    vn_auto(image_reader) struct image_reader *image = NULL;
    const struct map_node *node;

    if (root->size > STORE_OBJECT_MAX)
        return vn_fail_ptr(err, VN_E_LIMIT,
                           "an image of %llu bytes, at most %llu are allowed",
                           (unsigned long long)root->size, STORE_OBJECT_MAX);
    if (root->size == 0 && !chunk_id_is_zero(&root->root))
        return vn_fail_ptr(err, VN_E_FORMAT, "an image of no bytes has a root");
    image = vn_alloc(sizeof(*image));
    pthread_mutex_init(&image->lock, NULL);
    image->store = store;
    image->root = *root;
    ident_in_domain(&store->ident, root->domain, &image->ident);
    image->height = map_height(root->size);
    if (read_node(image, image->height, 0, &node, err) < 0) {
        vn_wrap(err, "opening an image");
        return NULL;
    }
    return vn_steal(&image);
}

void image_reader_free(struct image_reader *image)
{
    if (!image)
        return;
    for (unsigned i = 0; i < CACHE_SIZE; i++)
        free(image->cache[i]);
    image_reader_free_spaces(image);
    pthread_mutex_destroy(&image->lock);
    free(image);
}

/* The id of a node, from its parent or the root. */
static int node_id(struct image_reader *image, unsigned height, uint64_t index,
                   struct chunk_id *ret, struct vn_err *err)
{
    static const struct chunk_id no_id;
    const struct map_node *parent;

    if (height == image->height) {
        *ret = image->root.root;
        return 0;
    }
    if (read_node(image, height + 1, index / MAP_FANOUT, &parent, err) < 0)
        return -1;
    *ret = parent ? parent->ids[index % MAP_FANOUT] : no_id;
    return 0;
}

/* *ret lives until the next call; NULL: all below it is zero. */
static int read_node(struct image_reader *image, unsigned height,
                     uint64_t index, const struct map_node **ret,
                     struct vn_err *err)
{
    struct cached **place = &image->cache[(index + 37u * height) % CACHE_SIZE];
    struct chunk_id id;

    if (*place && (*place)->valid && (*place)->index == index &&
        (*place)->node.height == height) {
        *ret = &(*place)->node;
        return 0;
    }
    if (node_id(image, height, index, &id, err) < 0)
        return -1;
    if (chunk_id_is_zero(&id)) {
        *ret = NULL;
        return 0;
    }
    if (!*place)
        *place = vn_alloc(sizeof(**place));
    (*place)->valid = false;
    if (chunk_read_node(image->store, &id, height, &(*place)->node, err) < 0)
        return -1;
    (*place)->index = index;
    (*place)->valid = true;
    *ret = &(*place)->node;
    return 0;
}

int image_reader_leaf(struct image_reader *image, uint64_t index,
                      const struct map_node **ret, struct vn_err *err)
{
    assert(index < map_node_count(image->root.size, 0));
    return read_node(image, 0, index, ret, err);
}

/* The id of a leaf, or the leaf where it is in the cache. */
static int find_leaf(struct image_reader *image, uint64_t index,
                     struct map_node *space, bool *ret_found,
                     struct chunk_id *ret_id, struct vn_err *err)
{
    const struct cached *cached;

    vn_lock_scope(&image->lock);
    cached = image->cache[index % CACHE_SIZE];
    *ret_found = cached && cached->valid && cached->index == index &&
                 cached->node.height == 0;
    if (*ret_found) {
        *space = cached->node;
        return 0;
    }
    return node_id(image, 0, index, ret_id, err);
}

int image_reader_load_leaf(struct image_reader *image, uint64_t index,
                           struct map_node *space, const struct map_node **ret,
                           struct vn_err *err)
{
    struct chunk_id id;
    bool found;

    assert(index < map_node_count(image->root.size, 0));
    if (find_leaf(image, index, space, &found, &id, err) < 0)
        return -1;
    *ret = NULL;
    if (!found) {
        if (chunk_id_is_zero(&id))
            return 0;
        if (chunk_read_node(image->store, &id, 0, space, err) < 0)
            return -1;
    }
    *ret = space;
    return 0;
}

void image_reader_expect(struct image_reader *image, uint64_t first_leaf,
                         uint64_t end_leaf)
{
    struct chunk_id ids[MAP_FANOUT];
    struct vn_err ignored = VN_ERR_INIT;
    size_t n = 0;

    for (uint64_t i = first_leaf; i < end_leaf; i++)
        if (node_id(image, 0, i, &ids[n], &ignored) == 0)
            n++;
    index_expect(image->store->index, n * MAP_FANOUT);
    read_ahead_nodes(image->store, ids, n);
}

/* ---- bytes ------------------------------------------------------------ */

int image_reader_fetch(struct image_reader *image, const struct map_node *leaf,
                       const struct leaf_part *part, uint8_t *out, bool fill,
                       struct vn_err *err)
{
    const struct fingerprint *prints[CHUNK_WANTS_MAX];
    struct chunk_want wants[CHUNK_WANTS_MAX];
    size_t n = 0;

    for (size_t i = 0; i < part->count; i++) {
        uint8_t *to = out + i * STORE_PAGE_SIZE;
        size_t place = part->first + i;

        if (leaf && !chunk_id_is_zero(&leaf->ids[place])) {
            prints[n] = &leaf->fingerprints[place];
            wants[n++] = (struct chunk_want){.id = leaf->ids[place], .out = to};
        } else if (fill) {
            memset(to, 0, STORE_PAGE_SIZE);
        }
    }
    return chunk_read_leaf_pages(image->store, &image->ident, wants, prints,
                                 part->places, n, err);
}

/* Read whole pages of one leaf. */
static int read_pages(struct image_reader *image, uint64_t page, size_t count,
                      uint8_t *out, struct vn_err *err)
{
    struct leaf_part part = {.first = page % MAP_FANOUT, .count = count};
    const struct map_node *leaf;

    if (read_node(image, 0, page / MAP_FANOUT, &leaf, err) < 0)
        return -1;
    return image_reader_fetch(image, leaf, &part, out, true, err);
}

/* Read a part of one page. */
static int read_part(struct image_reader *image, uint64_t offset, uint8_t *out,
                     size_t size, struct vn_err *err)
{
    uint8_t page[STORE_PAGE_SIZE];

    if (read_pages(image, offset / STORE_PAGE_SIZE, 1, page, err) < 0)
        return -1;
    memcpy(out, page + offset % STORE_PAGE_SIZE, size);
    return 0;
}

/* Read what can be read in one go from `offset` on: up to `size` bytes. */
static int read_some(struct image_reader *image, uint64_t offset, uint8_t *out,
                     size_t size, size_t *ret_size, struct vn_err *err)
{
    size_t in_page = (size_t)(offset % STORE_PAGE_SIZE);
    size_t whole = size / STORE_PAGE_SIZE;
    uint64_t page = offset / STORE_PAGE_SIZE;
    size_t to_leaf_end = MAP_FANOUT - page % MAP_FANOUT;

    if (in_page == 0 && size >= LONG_RUN) {
        *ret_size = whole * STORE_PAGE_SIZE;
        return image_reader_run(image, offset, *ret_size, out, err);
    }
    if (in_page == 0 && whole > 0) {
        size_t count = whole < to_leaf_end ? whole : to_leaf_end;

        *ret_size = count * STORE_PAGE_SIZE;
        return read_pages(image, page, count, out, err);
    }
    *ret_size = STORE_PAGE_SIZE - in_page;
    if (*ret_size > size)
        *ret_size = size;
    return read_part(image, offset, out, *ret_size, err);
}

int image_reader_read(struct image_reader *image, uint64_t offset, void *data,
                      size_t size, struct vn_err *err)
{
    uint8_t *out = data;

    assert(offset <= image->root.size && size <= image->root.size - offset);
    while (size > 0) {
        size_t n;

        if (read_some(image, offset, out, size, &n, err) < 0)
            return vn_wrap(err, "image at offset %llu",
                           (unsigned long long)offset);
        offset += n;
        out += n;
        size -= n;
    }
    return 0;
}

/* ---- holes ------------------------------------------------------------ */

/*
 * The first page at or after *page that may be data, and its leaf: skips
 * subtrees of zeros from the highest node down. *ret_leaf NULL: go on at the
 * new *page.
 */
static int skip_holes(struct image_reader *image, uint64_t *page,
                      const struct map_node **ret_leaf, struct vn_err *err)
{
    for (unsigned height = image->height;; height--) {
        uint64_t pages = 1; /* below one node of this height */
        const struct map_node *node;

        for (unsigned h = 0; h <= height; h++)
            pages *= MAP_FANOUT;
        if (read_node(image, height, *page / pages, &node, err) < 0)
            return -1;
        *ret_leaf = node;
        if (!node)
            *page = (*page / pages + 1) * pages;
        if (!node || height == 0)
            return 0;
    }
}

/* From place `i` on, the first that is zero, or is not; MAP_FANOUT: none. */
static size_t find_place(const struct map_node *leaf, size_t i, bool zero)
{
    while (i < MAP_FANOUT && chunk_id_is_zero(&leaf->ids[i]) != zero)
        i++;
    return i;
}

int image_reader_next_data(struct image_reader *image, uint64_t offset,
                           uint64_t *ret_start, uint64_t *ret_size,
                           struct vn_err *err)
{
    uint64_t page_count = map_page_count(image->root.size);
    uint64_t page = offset / STORE_PAGE_SIZE;
    const struct map_node *leaf;

    while (offset < image->root.size && page < page_count) {
        uint64_t base;
        uint64_t end;
        size_t first;

        if (skip_holes(image, &page, &leaf, err) < 0)
            return -1;
        if (!leaf)
            continue;
        base = page - page % MAP_FANOUT;
        first = find_place(leaf, page % MAP_FANOUT, false);
        page = base + first;
        if (first == MAP_FANOUT || page >= page_count)
            continue;
        end = (base + find_place(leaf, first, true)) * STORE_PAGE_SIZE;
        *ret_start = page * STORE_PAGE_SIZE;
        *ret_size =
            (end < image->root.size ? end : image->root.size) - *ret_start;
        return 0;
    }
    *ret_start = image->root.size;
    *ret_size = 0;
    return 0;
}
