#include "store/store_internal.h"

/*
 * Walking a map to see that nothing is missing, beside that of an earlier
 * version of the image where nothing is missing.
 *
 * What the earlier version has at the same place, be it a page or a whole
 * subtree, is there and is not looked at. So an image costs two nodes for each
 * of its nodes that changed, and a look-up for each page that did; an equal one
 * costs nothing. That the earlier version is complete is the caller's word
 * (commit_check.c says how it is known); whatever is wrong with its map
 * otherwise, it can only fail to help.
 *
 * Inner nodes are looked at once each below one node, so an image in which one
 * subtree repeats (a pattern over terabytes) costs one walk of it a level, and
 * a map made to explode - each node naming the same child 512 times - costs no
 * more than its height.
 *
 * Leaves are most of the work: those below one node are cut into tasks for the
 * store's pool.
 *
 * Versions of unequal height are held together at page 0: the root of the lower
 * one is what the first places of the higher one's nodes lead to.
 */

#include "common/io.h"
#include "store/read_ahead.h"

#include <stdlib.h>
#include <string.h>

#define TASK_LEAVES 8u

/* A child of a node, and the first place where it stands. */
struct place {
    struct chunk_id id;
    unsigned i;
};

/* A node of the earlier version beside the one that is checked: `height` may
 * be lower than where it stands. Zero: there is none. */
struct beside {
    struct chunk_id id;
    unsigned height;
};

/* What is in hand while the children of one node are looked at. */
struct level {
    struct map_check *check;
    unsigned height;
    const struct beside *beside;
    struct map_node node;
    struct map_node old; /* the node beside it, if `has_old` */
    struct place places[MAP_FANOUT];
    size_t count;
    bool has_old;
};

static int by_id_and_place(const void *a, const void *b)
{
    const struct place *x = a;
    const struct place *y = b;
    int order = chunk_id_compare(&x->id, &y->id);

    return order ? order : (x->i > y->i) - (x->i < y->i);
}

/* The children to look at: neither zero, nor in the same place before. */
static void list_places(struct level *l)
{
    l->count = 0;
    for (unsigned i = 0; i < MAP_FANOUT; i++) {
        const struct chunk_id *id = &l->node.ids[i];

        if (!chunk_id_is_zero(id) &&
            !(l->has_old && chunk_id_compare(id, &l->old.ids[i]) == 0))
            l->places[l->count++] = (struct place){.id = *id, .i = i};
    }
}

/* Leave one place of each child. */
static void drop_repeated(struct level *l)
{
    size_t all = l->count;

    qsort(l->places, all, sizeof(l->places[0]), by_id_and_place);
    l->count = 0;
    for (size_t k = 0; k < all; k++)
        if (l->count == 0 || chunk_id_compare(&l->places[l->count - 1].id,
                                              &l->places[k].id) != 0)
            l->places[l->count++] = l->places[k];
}

static int check_pages(struct map_check *check, const struct level *l,
                       struct vn_err *err)
{
    struct chunk_place places[MAP_FANOUT];
    struct chunk_id ids[MAP_FANOUT];
    char hex[2 * STORE_ID_SIZE + 1];

    for (size_t i = 0; i < l->count; i++)
        ids[i] = l->places[i].id;
    check->pages_looked_up += l->count;
    if (index_find(check->store->index, ids, l->count, places, err) < 0)
        return -1;
    for (size_t i = 0; i < l->count; i++) {
        if (places[i].stored_size > 0 && places[i].kind == CHUNK_PAGE)
            continue;
        io_hex(ids[i].bytes, STORE_ID_SIZE, hex);
        return vn_fail(err, VN_E_NOT_FOUND, "page %s is not in the store", hex);
    }
    return 0;
}

/* Read the node beside; one that cannot be read is none. */
static void load_old(struct map_check *check, struct level *l)
{
    struct vn_err ignored = VN_ERR_INIT;

    if (chunk_id_is_zero(&l->beside->id) || l->beside->height != l->height)
        return;
    check->nodes_read++;
    l->has_old = chunk_read_node(check->store, &l->beside->id, l->height,
                                 &l->old, &ignored) == 0;
}

/* What stands beside the child at a place. */
static struct beside beside_child(const struct level *l, unsigned i)
{
    if (l->has_old)
        return (struct beside){.id = l->old.ids[i], .height = l->height - 1};
    if (i == 0 && l->beside->height < l->height)
        return *l->beside;
    return (struct beside){.height = 0};
}

static int check_node(struct map_check *check, const struct chunk_id *id,
                      unsigned height, const struct beside *beside,
                      struct vn_err *err);

static int check_child(struct level *l, size_t k, struct vn_err *err)
{
    struct beside below = beside_child(l, l->places[k].i);

    return check_node(l->check, &l->places[k].id, l->height - 1, &below, err);
}

/* The i-th few of the leaves. */
static int check_leaves(void *context, size_t i, struct vn_err *err)
{
    struct level *l = context;
    size_t end = (i + 1) * TASK_LEAVES;

    for (size_t k = i * TASK_LEAVES; k < end && k < l->count; k++)
        if (check_child(l, k, err) < 0)
            return -1;
    return 0;
}

static int check_all_leaves(struct level *l, struct vn_err *err)
{
    struct chunk_id ids[MAP_FANOUT];

    for (size_t k = 0; k < l->count; k++)
        ids[k] = l->places[k].id;
    read_ahead_nodes(l->check->store, ids, l->count);
    return pool_run(l->check->store->pool,
                    (l->count + TASK_LEAVES - 1) / TASK_LEAVES, check_leaves, l,
                    err);
}

static int check_node(struct map_check *check, const struct chunk_id *id,
                      unsigned height, const struct beside *beside,
                      struct vn_err *err)
{
    vn_auto(free) struct level *l = NULL;

    if (beside->height == height && chunk_id_compare(&beside->id, id) == 0)
        return 0;
    l = vn_alloc(sizeof(*l));
    l->check = check;
    l->height = height;
    l->beside = beside;
    check->nodes_read++;
    if (chunk_read_node(check->store, id, height, &l->node, err) < 0)
        return -1;
    load_old(check, l);
    list_places(l);
    if (height == 0)
        return check_pages(check, l, err);
    drop_repeated(l);
    if (height == 1)
        return check_all_leaves(l, err);
    for (size_t k = 0; k < l->count; k++)
        if (check_child(l, k, err) < 0)
            return -1;
    return 0;
}

/* The earlier version's node that stands beside a root of this height: its
 * root, or what its first places lead to. */
static struct beside descend(struct map_check *check,
                             const struct map_root *parent, unsigned height)
{
    vn_auto(free) struct map_node *node = vn_alloc(sizeof(*node));
    struct beside beside = {.id = parent->root,
                            .height = map_height(parent->size)};
    struct vn_err ignored = VN_ERR_INIT;

    while (beside.height > height && !chunk_id_is_zero(&beside.id)) {
        check->nodes_read++;
        if (chunk_read_node(check->store, &beside.id, beside.height, node,
                            &ignored) < 0)
            return (struct beside){.height = 0};
        beside.id = node->ids[0];
        beside.height--;
    }
    return beside;
}

int map_walk_check(struct map_check *check, const struct map_root *root,
                   const struct map_root *parent, struct vn_err *err)
{
    static const struct map_root none;
    unsigned height = map_height(root->size);
    struct beside beside = descend(check, parent ? parent : &none, height);
    struct chunk_place place;
    char hex[2 * STORE_ID_SIZE + 1];

    if (chunk_id_is_zero(&root->root))
        return 0;
    if (index_find(check->store->index, &root->root, 1, &place, err) < 0)
        return -1;
    if (place.stored_size == 0) {
        io_hex(root->root.bytes, STORE_ID_SIZE, hex);
        return vn_fail(err, VN_E_NOT_FOUND,
                       "its map %s is not in the store (was the writer "
                       "flushed?)",
                       hex);
    }
    return check_node(check, &root->root, height, &beside, err);
}
