#ifndef STORE_READ_AHEAD_H
#define STORE_READ_AHEAD_H

/*
 * Telling the engine what will be read soon. All of it are hints: nothing here
 * waits for the disk, and nothing fails.
 */

#include "store/store_internal.h"

#include <pthread.h>

/* How far one run of reads has asked; shared by its threads. */
struct read_ahead {
    pthread_mutex_t lock;
    uint64_t pack_id; /* that was asked for last */
    uint64_t end;     /* offset in it */
};

void read_ahead_init(struct read_ahead *ahead);
void read_ahead_done(struct read_ahead *ahead);

/*
 * Pages that lie at these places are read next, and then probably what follows
 * them. Those that lie alone are left to the reads themselves.
 */
void read_ahead_pages(struct read_ahead *ahead, struct store *store,
                      const struct chunk_place *places, size_t count);

/* These nodes of a map, at most MAP_FANOUT, are read next. Zero ids are
 * skipped. */
void read_ahead_nodes(struct store *store, const struct chunk_id *ids,
                      size_t count);

#endif
