#ifndef STORE_WRITER_INTERNAL_H
#define STORE_WRITER_INTERNAL_H

/* Shared by writer.c, writer_pending.c and writer_packs.c only. */

#include "store/store_internal.h"

#include <pthread.h>

/*
 * Packs that are full and wait to be written, or are being written. With the
 * open one and one that is being filled anew that is WRITER_QUEUE_MAX + 1
 * packs of 10 MiB.
 */
#define WRITER_QUEUE_MAX 3u

/* ---- writer_pending.c ------------------------------------------------- */

/* Chunks that a writer has put and the index does not have yet, in the order
 * they came, with a table over them. The writer's lock guards it. */
struct pending {
    struct index_chunk *chunks;
    size_t count;
    size_t capacity;
    size_t durable;  /* of these, the first lie in packs that are durable */
    uint32_t *table; /* index into chunks + 1; 0: free */
    size_t table_size;
};

void pending_init(struct pending *pending);
void pending_done(struct pending *pending);
/* Have ready what pending_has() looks at: it waits for memory most of all. */
void pending_prefetch(const struct pending *pending, const struct chunk_id *id);
bool pending_has(const struct pending *pending, const struct chunk_id *id);
/* Add what pack_builder_copy() said; it has no pack number yet. */
void pending_add(struct pending *pending, const struct pack_entry *entry);
/* The next `count` chunks became durable in this pack. */
void pending_set_pack(struct pending *pending, size_t count, uint64_t pack_id);
/* Forget the first `count`, which are durable: the index has them. */
void pending_forget(struct pending *pending, size_t count);

/* ---- writer.c --------------------------------------------------------- */

struct store_writer {
    struct store *store;
    struct store_hold *hold; /* only read while there are several threads */
    struct ident ident;      /* in the writer's domain; constant */

    pthread_mutex_t lock;   /* guards everything below */
    pthread_cond_t changed; /* the queue, busy, failed or stop did */
    struct store_counts counts;
    struct pending pending;
    /* How often chunks left `pending` for the index: who finds this changed
     * since he looked chunks up must look again. */
    uint64_t entered;

    struct pack_builder *open;                    /* takes new chunks */
    struct pack_builder *queue[WRITER_QUEUE_MAX]; /* full, oldest first */
    unsigned queue_count;
    struct pack_builder *spares[WRITER_QUEUE_MAX + 1];
    unsigned spare_count;

    bool busy;   /* someone is writing a pack or the index, with no lock */
    bool failed; /* ... and it failed, `error` says how; nobody knows yet */
    struct vn_err error;

    bool has_thread;
    bool stop;
    pthread_t thread;

    /* Of whoever is busy: */
    struct index_pack *packs; /* durable, not in the index */
    size_t pack_count;
    size_t pack_capacity;
    uint64_t next_pack_id; /* block of numbers drawn */
    uint64_t end_pack_id;
};

/* ---- writer_packs.c; all with the lock held, which is let go where they
 * wait or write ---------------------------------------------------------- */

/* Make the open pack one that is not full. Where it must wait for a place in
 * the queue it may yield an error of the packs before. */
int writer_make_room(struct store_writer *writer, struct vn_err *err);
/* Write all that is there, then enter it into the index. */
int writer_write_all(struct store_writer *writer, struct vn_err *err);
/* An empty pack of the writer's domain. */
struct pack_builder *writer_new_pack(const struct store_writer *writer);
/* End the thread, dropping what it has not written. Takes the lock itself. */
void writer_stop(struct store_writer *writer);

#endif
