#ifndef STORE_GC_MARKS_H
#define STORE_GC_MARKS_H

/*
 * A set of chunk ids that are needed, in bounded memory: filled once, then
 * asked. Ids are told apart by their first 8 bytes, so it may say of a chunk in
 * a million stores that it is needed though it is not; never the reverse.
 */

#include "store/ident.h"

#include <stddef.h>

struct gc_marks;

/*
 * Keeps up to `capacity` marks in memory (16 bytes each, while filling) and
 * more in an unlinked temporary file in the directory `dir`. One thread.
 */
struct gc_marks *gc_marks_new(const char *dir, size_t capacity);
void gc_marks_free(struct gc_marks *marks); /* NULL is fine */

/* Blocks on the disk now and then. ENOSPC. */
int gc_marks_add(struct gc_marks *marks, const struct chunk_id *ids,
                 size_t count, struct vn_err *err) VN_MUST_USE;
/* No more is added; to be called before the first question. */
int gc_marks_seal(struct gc_marks *marks, struct vn_err *err) VN_MUST_USE;
/* Fastest for rising ids. */
bool gc_marks_has(struct gc_marks *marks, const struct chunk_id *id);
/* How many different ones. */
size_t gc_marks_count(const struct gc_marks *marks);

VN_AUTO_DEFINE(gc_marks, struct gc_marks *, gc_marks_free)

#endif
