#ifndef STORE_ENGINE_MEMORY_H
#define STORE_ENGINE_MEMORY_H

/*
 * An engine that keeps packs in memory and fails when it is told to: the test
 * double of all engines. It behaves as an object store over a network may: a
 * call can fail before or after it was done, a removal can stop in the middle
 * of its batch, a listing comes in no order, a read can return wrong bytes.
 */

#include "store/engine.h"

enum engine_call {
    ENGINE_PUT,
    ENGINE_READ,
    ENGINE_SIZE,
    ENGINE_FREE_SPACE,
    ENGINE_LIST,
    ENGINE_REMOVE, /* asked for each pack of a batch */
    ENGINE_HOLD,
};

enum engine_outcome {
    ENGINE_DO,        /* as it should be */
    ENGINE_REFUSE,    /* fails and is not done */
    ENGINE_DO_SILENT, /* is done and fails: the caller cannot know */
    ENGINE_CORRUPT,   /* ENGINE_READ: succeeds with one bit wrong */
};

/*
 * Asked before each call. *code is the error of the outcomes that fail, EIO
 * unless it is set. Called without locks; may block (a slow engine) or not
 * come back (longjmp in a test's child).
 */
typedef enum engine_outcome engine_memory_fn(void *context,
                                             enum engine_call call,
                                             uint64_t pack_id, int *code);

/* `capacity` in bytes; 0: without limit. */
struct engine *engine_memory_new(uint64_t capacity);
/* fn NULL: all goes well. Not while calls are being made. */
void engine_memory_set_fault(struct engine *engine, engine_memory_fn *fn,
                             void *context);

size_t engine_memory_count(struct engine *engine);   /* packs */
uint64_t engine_memory_bytes(struct engine *engine); /* in packs */
/* Leave what a put that was killed would leave. */
void engine_memory_add_partial(struct engine *engine, uint64_t pack_id,
                               uint64_t size);

#endif
