#ifndef STORE_ENGINE_H
#define STORE_ENGINE_H

/*
 * An engine keeps immutable packs by number, and who is at work on them; it
 * knows nothing of what is in a pack. The local engine keeps files; others
 * (engine_provider.h) implement the same calls. All calls block and may be
 * made from any thread.
 *
 * The calls are what an object store over a network can do as well: a whole
 * object is put once under a name that never comes back, ranges of it are
 * read, names are listed in no order, removing is idempotent and comes in
 * batches (one window of requests, one sync), nothing is conditional on the
 * content of another object. In particular removing a pack is NOT conditional
 * (S3 has no such call): that nobody needs it is decided before, by the index
 * and the holds. See "Collection" in docs/formats/store.md.
 *
 * Outcomes: a call that fails with another code than those named here (a
 * time-out of a network, say) may or may not have been done. Callers therefore
 * only repeat what may be done twice: after an engine_put() of unknown outcome
 * they take another number, and the pack that is perhaps there is an orphan.
 */

#include "common/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct engine;

/*
 * Store a new pack. `data` is aligned to 4096 and allocated, zeroed, up to the
 * next multiple of 4096 beyond `size`. When it returns 0 the pack is durable
 * under its number; after a failure that number is not used again.
 * VN_E_EXISTS when the number is taken, ENOSPC when the medium is full.
 */
int engine_put(struct engine *engine, uint64_t pack_id, const uint8_t *data,
               size_t size, struct vn_err *err) VN_MUST_USE;

/* Read a range of a pack. VN_E_NOT_FOUND: no such pack. VN_E_CORRUPT: it ends
 * before the range does. */
int engine_read(struct engine *engine, uint64_t pack_id, uint64_t offset,
                void *data, size_t size, struct vn_err *err) VN_MUST_USE;

/* A range of a pack will be read soon; it may reach beyond the pack's end, into
 * the pack with the next number. A hint: does not wait, and fails silently. */
void engine_prefetch(struct engine *engine, uint64_t pack_id, uint64_t offset,
                     uint64_t size);

/* Size of a pack in bytes. VN_E_NOT_FOUND. */
int engine_size(struct engine *engine, uint64_t pack_id, uint64_t *ret_size,
                struct vn_err *err) VN_MUST_USE;

/* Bytes that can still be stored, about; UINT64_MAX where nobody knows. */
int engine_free_space(struct engine *engine, uint64_t *ret_bytes,
                      struct vn_err *err) VN_MUST_USE;

/* ---- listing and removing --------------------------------------------- */

struct engine_entry {
    uint64_t pack_id;
    uint64_t size; /* bytes on the medium */
    bool partial;  /* what a put that did not end has left; not readable */
};

/* Called for each entry, in no particular order. Must not call the engine. */
typedef void engine_entry_fn(void *context, const struct engine_entry *entry);

/*
 * List what is stored. A pack that is there from before the call until after
 * it is listed exactly once; others may be listed or not.
 */
int engine_list(struct engine *engine, engine_entry_fn *fn, void *context,
                struct vn_err *err) VN_MUST_USE;

/*
 * Remove packs, and what unfinished puts left under their numbers. Numbers
 * that are not there are skipped. When it returns 0 all of them are gone
 * durably, and their space is free as soon as no reader that had begun is
 * left; after a failure any of them may be gone. A reader sees VN_E_NOT_FOUND
 * or the whole content, never other bytes.
 */
int engine_remove(struct engine *engine, const uint64_t *pack_ids, size_t count,
                  struct vn_err *err) VN_MUST_USE;

/* ---- holds ------------------------------------------------------------ */

/*
 * The registry of those at work: each entry says "begun in collection epoch
 * `epoch`, when `mark` was the next pack number". Entries of processes that
 * died vanish by themselves. The engine keeps them and does not look at the
 * numbers, but for the smallest.
 */
struct engine_hold;

/*
 * Enter a hold with epoch and mark 0, which holds everything. Everyone sees it
 * before the call returns. Does not wait for others.
 */
struct engine_hold *engine_hold_open(struct engine *engine,
                                     struct vn_err *err) VN_MUST_USE;
int engine_hold_set(struct engine_hold *hold, uint64_t epoch, uint64_t mark,
                    struct vn_err *err) VN_MUST_USE;
void engine_hold_close(struct engine_hold *hold); /* NULL is fine */

struct engine_holds {
    size_t count;    /* of those alive */
    uint64_t epoch;  /* the smallest; UINT64_MAX where there is none */
    uint64_t mark;   /* the smallest; UINT64_MAX where there is none */
    uint64_t holder; /* process id of one with the smallest epoch, for words */
};
/* A hold that was opened before the call, and is still open, is seen. */
int engine_holds(struct engine *engine, struct engine_holds *ret,
                 struct vn_err *err) VN_MUST_USE;

/*
 * One collection at a time, and none beside those that want packs and index to
 * stay as they are: take the engine's lock, shared or exclusive, without
 * waiting. VN_E_STATE: another has it. A dead process has none.
 */
struct engine_lock;
struct engine_lock *engine_lock(struct engine *engine, bool exclusive,
                                struct vn_err *err) VN_MUST_USE;
void engine_unlock(struct engine_lock *lock); /* NULL is fine */

void engine_close(struct engine *engine); /* NULL is fine; no holds left */

/* The local engine: files below the directory `dir`, which exists. */
struct engine *engine_file_open(const char *dir,
                                struct vn_err *err) VN_MUST_USE;

#endif
