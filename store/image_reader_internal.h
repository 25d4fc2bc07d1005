#ifndef STORE_IMAGE_READER_INTERNAL_H
#define STORE_IMAGE_READER_INTERNAL_H

/* Shared by image_reader.c and image_reader_run.c only. */

#include "store/store_internal.h"

#include <assert.h>
#include <pthread.h>

#define CACHE_SIZE 1024u
#define LONG_RUN   (1u << 20) /* bytes from which the pool is used */

struct cached {
    bool valid;
    uint64_t index; /* of the node in its height */
    struct map_node node;
};

/* Pages of one leaf that are wanted. */
struct leaf_part {
    size_t first; /* place in the leaf */
    size_t count;
    const struct chunk_place *places; /* of those not zero; NULL: look up */
};

#define TASK_LEAVES_MAX 4u /* that one task reads at most */

#define TASK_PAGES_MAX (TASK_LEAVES_MAX * MAP_FANOUT) /* looked up together */

/* What one task needs. */
struct reader_space {
    struct map_node leaves[TASK_LEAVES_MAX];
    struct leaf_part parts[TASK_LEAVES_MAX];
    const struct map_node *found[TASK_LEAVES_MAX]; /* NULL: zeros */
    struct chunk_id ids[TASK_PAGES_MAX];           /* of all pages not zero */
    struct chunk_place places[TASK_PAGES_MAX];
    uint8_t *pages; /* MAP_FANOUT pages, for a sink; NULL: none yet */
    struct reader_space *next;
};

struct image_reader {
    struct store *store;
    struct map_root root;
    struct ident ident; /* in the root's domain */
    unsigned height;    /* of the root */
    struct cached *cache[CACHE_SIZE];

    pthread_mutex_t lock; /* guards the list, and while tasks run the cache */
    struct reader_space *spaces; /* not used now */
};

/*
 * Pages of a leaf (NULL: zeros) that was checked; a place of `out` each. Pages
 * of zeros are filled in only if `fill`.
 */
int image_reader_fetch(struct image_reader *image, const struct map_node *leaf,
                       const struct leaf_part *part, uint8_t *out, bool fill,
                       struct vn_err *err) VN_MUST_USE;

/* image_reader_read() of whole pages, on the pool. */
int image_reader_run(struct image_reader *image, uint64_t offset, size_t size,
                     uint8_t *out, struct vn_err *err) VN_MUST_USE;

/* The pages of at most MAP_FANOUT leaves are read next. A hint. */
void image_reader_expect(struct image_reader *image, uint64_t first_leaf,
                         uint64_t end_leaf);

void image_reader_free_spaces(struct image_reader *image);

#endif
