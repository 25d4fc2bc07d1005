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

#define BATCH_MAX MAP_FANOUT

/* Pages that wait to be hashed, looked up and stored together. */
struct batch {
    unsigned count;
    uint64_t pages[BATCH_MAX];
    const uint8_t *data[BATCH_MAX]; /* 4096 bytes each */
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
    unsigned limit;             /* pages in the batch, at most BATCH_MAX */
    struct store_counts counts; /* not yet told to the writer */

    /* The parent's leaf that was asked for last. */
    uint64_t parent_index;              /* UINT64_MAX: none was */
    const struct map_node *parent_leaf; /* NULL: zeros, or no parent */
    struct map_node parent_space;       /* used by tasks */
    bool is_task;

    uint8_t *buffer;     /* staged: `limit` pages; task: what a source reads */
    struct intake *next; /* in the list of those not used */
};

struct intake *intake_new(struct image_writer *image, bool is_task);
void intake_free(struct intake *in); /* NULL is fine */

/* Take one page in: its place in the leaf is filled, now or when the batch is
 * resolved. `data` stays where it is until then, or intake_settle(). */
int intake_page(struct intake *in, uint64_t page, const uint8_t *data,
                struct vn_err *err) VN_MUST_USE;
/* Hash, look up and store what waits; fill the places. */
int intake_resolve(struct intake *in, struct vn_err *err) VN_MUST_USE;
/* Copy what waits in the caller's memory into the buffer. */
void intake_settle(struct intake *in);
/* Tell the writer the counts. */
void intake_report(struct intake *in);

/* ---- image_writer.c --------------------------------------------------- */

struct image_writer {
    struct store_writer *writer;
    struct store *store;
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
