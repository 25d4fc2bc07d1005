#include "store/gc_internal.h"

/*
 * Removing packs behind the collection. A file system that tells its disk
 * which blocks are free takes a millisecond or two a pack, in which nothing is
 * computed; gc works on the index meanwhile. What is removed has no row any
 * more, so nobody but the engine is concerned.
 */

#include <pthread.h>
#include <stdlib.h>

#define PACK_BATCH 1024u

struct gc_removal {
    struct gc_removal *next;
    struct engine *engine;
    uint64_t *ids;
    size_t count;
    uint64_t bytes;
    pthread_t thread;
    bool has_thread;
    int result;
    struct vn_err err;
};

static int remove_packs(struct gc_removal *r)
{
    size_t n;

    for (size_t i = 0; i < r->count; i += n) {
        n = r->count - i < PACK_BATCH ? r->count - i : PACK_BATCH;
        if (engine_remove(r->engine, r->ids + i, n, &r->err) < 0)
            return -1;
    }
    return 0;
}

static void *remove_main(void *context)
{
    struct gc_removal *r = context;

    r->result = remove_packs(r);
    return NULL;
}

void gc_remove(struct gc *gc, uint64_t *ids, size_t count, uint64_t bytes)
{
    struct gc_removal *r = vn_alloc(sizeof(*r));

    *r = (struct gc_removal){.next = gc->removals,
                             .engine = gc->store->engine,
                             .ids = ids,
                             .count = count,
                             .bytes = bytes,
                             .err = VN_ERR_INIT};
    gc->removals = r;
    r->has_thread = pthread_create(&r->thread, NULL, remove_main, r) == 0;
    if (!r->has_thread)
        remove_main(r);
}

int gc_remove_wait(struct gc *gc, struct vn_err *err)
{
    int result = 0;

    while (gc->removals) {
        struct gc_removal *r = gc->removals;

        gc->removals = r->next;
        if (r->has_thread)
            pthread_join(r->thread, NULL);
        if (r->result == 0) {
            gc->counts.packs_removed += r->count;
            gc->counts.bytes_removed += r->bytes;
        } else {
            result = -1;
            *err = r->err;
        }
        free(r->ids);
        free(r);
    }
    return result;
}
