#ifndef STORE_DIFF_H
#define STORE_DIFF_H

/* Where two maps differ; what store_diff_object() is made of. */

#include "store/store_internal.h"

struct map_diff {
    struct store *store;
    store_diff_fn *fn; /* may be NULL: only count */
    void *context;
    uint64_t nodes_read; /* result */
    uint64_t pages;      /* result: how many differ */
    /* The rest is map_diff()'s own. */
    uint64_t size[2];     /* of the images, in pages */
    uint64_t end;         /* of the larger image, in bytes */
    bool by_print;        /* of two domains: ids do not compare */
    uint64_t first, next; /* a run of pages not yet told */
    struct map_node *nodes[2][MAP_HEIGHTS_MAX];
    struct chunk_id loaded[2][MAP_HEIGHTS_MAX]; /* what is in nodes */
};

/* The caller has set store, fn and context, the rest to zero. */
int map_diff(struct map_diff *d, const struct map_root *a,
             const struct map_root *b, struct vn_err *err) VN_MUST_USE;

#endif
