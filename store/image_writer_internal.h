#ifndef STORE_IMAGE_WRITER_INTERNAL_H
#define STORE_IMAGE_WRITER_INTERNAL_H

/* Shared by image_writer.c, image_intake.c and image_map.c only. */

#include "store/store_internal.h"

#include <pthread.h>

#define LEAF_BYTES ((uint64_t)MAP_FANOUT * STORE_PAGE_SIZE)

struct leaf {
    struct map_node node;
    uint16_t slots[MAP_FANOUT]; /* slot of a batch + 1; 0: none */
};

/* ---- image_intake.c --------------------------------------------------- */

#define TASK_LEAVES_MAX 8u /* that one task takes in at most */
#define TASK_PAGES_MAX  (TASK_LEAVES_MAX * MAP_FANOUT)

/* Pages that wait to be looked up and stored together. */
struct batch {
    unsigned count;
    unsigned limit;       /* at most STORE_PUT_MAX */
    unsigned hashed;      /* of these, the first have their ids */
    unsigned settled;     /* of these, the first are in the buffer */
    uint64_t *pages;      /* numbers */
    const uint8_t **data; /* 4096 bytes each */
    struct ident_full *ids;
};

/*
 * What one thread needs to take in pages. Those of the thread that calls
 * image_writer_put() with a short run wait in `image->staged` until there are
 * enough; the task of a long run has one for itself, takes in a slice that no
 * other task touches, and leaves nothing waiting.
 */
struct intake {
    struct image_writer *image;
    struct batch batch;
    struct store_counts counts; /* not yet told to the writer */

    /* The parent's leaf that was asked for last. */
    uint64_t parent_index;              /* UINT64_MAX: none was */
    const struct map_node *parent_leaf; /* NULL: zeros, or no parent */
    struct map_node parent_space;       /* used by tasks */
    bool is_task;

    uint8_t last[STORE_PAGE_SIZE]; /* a page that was filled up with zeros */
    uint8_t *buffer;     /* batch.limit pages; tasks: NULL until it is needed */
    struct intake *next; /* in the list of those not used */
};

/* NULL: no memory. */
struct intake *intake_new(struct image_writer *image, bool is_task);
void intake_free(struct intake *in); /* NULL is fine */

/* Take one page in: its place in the leaf is filled, now or when the batch is
 * resolved. `data` stays where it is until then, or intake_settle(). */
int intake_page(struct intake *in, uint64_t page, const uint8_t *data,
                struct vn_err *err) VN_MUST_USE;
/* Take it in only if that needs no copy of it: it is zeros, or what the parent
 * has. 1: it is taken in. `data` may change meanwhile. */
int intake_look(struct intake *in, uint64_t page, const uint8_t *data,
                struct vn_err *err) VN_MUST_USE;
/* Hash, look up and store what waits; fill the places. */
int intake_resolve(struct intake *in, struct vn_err *err) VN_MUST_USE;
/* Make the buffer, if there is none. */
int intake_need_buffer(struct intake *in, struct vn_err *err) VN_MUST_USE;
/* Move what waits elsewhere, or further behind, to its slot in the buffer. */
void intake_settle(struct intake *in);
/* Tell the writer the counts. */
void intake_report(struct intake *in);

/* ---- image_writer.c --------------------------------------------------- */

struct image_writer {
    struct store_writer *writer;
    struct store *store;
    const struct ident *ident; /* the writer's */
    uint64_t size;
    uint64_t leaf_count;
    struct leaf **leaves;        /* leaf_count, NULL: all zeros so far */
    struct image_reader *parent; /* NULL: none */
    uint64_t parent_pages;
    struct intake *staged;
    bool broken;
    bool finished;

    pthread_mutex_t lock;  /* guards what follows */
    struct intake *unused; /* of tasks */
};

/* ---- image_map.c ------------------------------------------------------- */

/* Store all nodes of the map; its root's id into *ret. */
int image_store_map(struct image_writer *image, struct chunk_id *ret,
                    struct vn_err *err) VN_MUST_USE;

#endif
