#ifndef STORE_ENGINE_H
#define STORE_ENGINE_H

/*
 * An engine keeps immutable packs by number; it knows nothing of what is in
 * them. The local engine keeps files; others (engine_provider.h) implement
 * the same calls. All calls block and may be made from any thread.
 */

#include "common/err.h"

#include <stddef.h>
#include <stdint.h>

struct engine;

/*
 * Store a new pack. `data` is aligned to 4096 and allocated, zeroed, up to the
 * next multiple of 4096 beyond `size`. When it returns 0 the pack is durable
 * under its number; after a failure nothing is there under that number.
 * VN_E_EXISTS when the number is taken, ENOSPC when the medium is full.
 */
int engine_put(struct engine *engine, uint64_t pack_id, const uint8_t *data,
               size_t size, struct vn_err *err) VN_MUST_USE;

/* Read a range of a pack. VN_E_NOT_FOUND: no such pack. VN_E_CORRUPT: it ends
 * before the range does. */
int engine_read(struct engine *engine, uint64_t pack_id, uint64_t offset,
                void *data, size_t size, struct vn_err *err) VN_MUST_USE;

/* Size of a pack in bytes. VN_E_NOT_FOUND. */
int engine_size(struct engine *engine, uint64_t pack_id, uint64_t *ret_size,
                struct vn_err *err) VN_MUST_USE;

/* Bytes that can still be stored, about; UINT64_MAX where nobody knows. */
int engine_free_space(struct engine *engine, uint64_t *ret_bytes,
                      struct vn_err *err) VN_MUST_USE;

void engine_close(struct engine *engine); /* NULL is fine */

/* The local engine: files below the directory `dir`, which exists. */
struct engine *engine_file_open(const char *dir,
                                struct vn_err *err) VN_MUST_USE;

#endif
