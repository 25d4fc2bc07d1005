#include "store/diff.h"

/*
 * Where two images differ, from their maps alone.
 *
 * Equal ids name equal subtrees, so the walk goes down only where ids differ,
 * both trees side by side: one changed page of two images of any size costs
 * the nodes above it, twice the height plus one. No page is read.
 *
 * In two domains equal pages have different ids. Then all leaves of both are
 * read, and their fingerprints compared, under the store's secret: whoever
 * knows that can make two pages look equal here, and harms nobody, as no page
 * is taken from one image in place of the other's because of this.
 *
 * Trees of unequal height are held together at page 0: a lower tree is what
 * the first child, of the first child, ... of a root as high as the other's
 * would be, and everything beside it is zeros. So an image that grew is
 * compared with what it was at the same places.
 *
 * The shorter image counts as continued with zeros, as truncate(2) would do:
 * who takes the runs from B, and B's size, makes B of A. That the sizes differ
 * says the caller, who has them.
 *
 * One node a side and height is kept decoded (128 KiB together), and is not
 * read again while the same one comes: two patterns of repeating subtrees cost
 * their runs, not their reads.
 */

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* A subtree: zero, or a node whose height may be lower than where it stands;
 * then it is the first part of what stands there. */
struct side {
    struct chunk_id id;
    unsigned height;
};

/* ---- runs ------------------------------------------------------------- */

static int tell_run(struct map_diff *d, struct vn_err *err)
{
    uint64_t from = d->first * STORE_PAGE_SIZE;
    uint64_t to = d->next * STORE_PAGE_SIZE;

    if (d->first == d->next || !d->fn)
        return 0;
    return d->fn(d->context, from, (to < d->end ? to : d->end) - from, err);
}

static int add_page(struct map_diff *d, uint64_t page, struct vn_err *err)
{
    d->pages++;
    if (page != d->next || d->first == d->next) {
        if (tell_run(d, err) < 0)
            return -1;
        d->first = page;
    }
    d->next = page + 1;
    return 0;
}

/* ---- nodes ------------------------------------------------------------ */

/* The node of a side that stands at its own height; else nothing is read. */
static int load(struct map_diff *d, unsigned which, const struct side *side,
                unsigned height, struct vn_err *err)
{
    struct chunk_id *loaded = &d->loaded[which][height];
    struct map_node **node = &d->nodes[which][height];

    if (chunk_id_is_zero(&side->id) || side->height < height ||
        chunk_id_compare(loaded, &side->id) == 0)
        return 0;
    if (!*node)
        *node = vn_alloc(sizeof(**node));
    memset(loaded, 0, sizeof(*loaded));
    d->nodes_read++;
    if (chunk_read_node(d->store, &side->id, height, *node, err) < 0)
        return -1;
    *loaded = side->id;
    return 0;
}

/* What a page of a leaf is compared by. */
static struct chunk_id page_of(const struct map_diff *d,
                               const struct map_node *leaf, unsigned i)
{
    struct chunk_id print;

    static_assert(sizeof(print) == sizeof(leaf->fingerprints[i]),
                  "a fingerprint is as wide as an id");
    memcpy(&print, &leaf->fingerprints[i], sizeof(print));
    return d->by_print && !chunk_id_is_zero(&print) ? print : leaf->ids[i];
}

/* What stands at place i below a side that was loaded. */
static struct side child(const struct map_diff *d, unsigned which,
                         const struct side *side, unsigned height, unsigned i)
{
    static const struct side zero;

    if (chunk_id_is_zero(&side->id))
        return zero;
    if (side->height < height)
        return i == 0 ? *side : zero;
    if (height == 0)
        return (struct side){.id = page_of(d, d->nodes[which][0], i)};
    return (struct side){.id = d->nodes[which][height]->ids[i],
                         .height = height - 1};
}

static int diff_leaves(struct map_diff *d, const struct side *a,
                       const struct side *b, uint64_t first, struct vn_err *err)
{
    static const struct chunk_id zero;

    for (unsigned i = 0; i < MAP_FANOUT; i++) {
        struct chunk_id x = child(d, 0, a, 0, i).id;
        struct chunk_id y = child(d, 1, b, 0, i).id;

        /* Nobody reads behind the end; a map from anywhere may have ids. */
        if (first + i >= d->size[0])
            x = zero;
        if (first + i >= d->size[1])
            y = zero;
        if (chunk_id_compare(&x, &y) != 0 && add_page(d, first + i, err) < 0)
            return -1;
    }
    return 0;
}

static uint64_t pages_below(unsigned height)
{
    uint64_t pages = 1;

    for (unsigned h = 0; h <= height; h++)
        pages *= MAP_FANOUT;
    return pages;
}

static int diff_nodes(struct map_diff *d, const struct side *a,
                      const struct side *b, unsigned height, uint64_t first,
                      struct vn_err *err)
{
    if (chunk_id_compare(&a->id, &b->id) == 0 ||
        first * STORE_PAGE_SIZE >= d->end)
        return 0;
    if (load(d, 0, a, height, err) < 0 || load(d, 1, b, height, err) < 0)
        return -1;
    if (height == 0)
        return diff_leaves(d, a, b, first, err);
    for (unsigned i = 0; i < MAP_FANOUT; i++) {
        struct side x = child(d, 0, a, height, i);
        struct side y = child(d, 1, b, height, i);

        if (diff_nodes(d, &x, &y, height - 1,
                       first + i * pages_below(height - 1), err) < 0)
            return -1;
    }
    return 0;
}

/* ---- the whole -------------------------------------------------------- */

static int check_root(const struct map_root *root, struct vn_err *err)
{
    if (root->size > STORE_OBJECT_MAX)
        return vn_fail(err, VN_E_LIMIT,
                       "an image of %llu bytes, at most %llu are allowed",
                       (unsigned long long)root->size, STORE_OBJECT_MAX);
    return 0;
}

int map_diff(struct map_diff *d, const struct map_root *a,
             const struct map_root *b, struct vn_err *err)
{
    struct side x = {.id = a->root};
    struct side y = {.id = b->root};
    int result;

    if (check_root(a, err) < 0 || check_root(b, err) < 0)
        return -1;
    x.height = map_height(a->size);
    y.height = map_height(b->size);
    d->size[0] = map_page_count(a->size);
    d->size[1] = map_page_count(b->size);
    d->end = a->size > b->size ? a->size : b->size;
    d->by_print = a->domain != b->domain;
    result = diff_nodes(d, &x, &y, x.height > y.height ? x.height : y.height, 0,
                        err);
    if (result == 0)
        result = tell_run(d, err);
    for (unsigned h = 0; h < MAP_HEIGHTS_MAX; h++) {
        free(d->nodes[0][h]);
        free(d->nodes[1][h]);
    }
    return result;
}

int store_diff_object(struct store *store, const struct map_root *a,
                      const struct map_root *b, store_diff_fn *fn,
                      void *context, struct vn_err *err)
{
    struct map_diff d = {.store = store, .fn = fn, .context = context};

    return map_diff(&d, a, b, err) < 0 ? vn_wrap(err, "comparing images") : 0;
}
