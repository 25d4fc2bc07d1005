#ifndef STORE_CHUNK_INTERNAL_H
#define STORE_CHUNK_INTERNAL_H

/* Shared by chunk.c and chunk_pages.c only. */

#include "store/store_internal.h"

/* Say which chunk of which pack an error is about. VN_E_NOT_FOUND, of the
 * engine, stays: the caller tries again or calls it damage. Returns -1. */
int chunk_name(const struct chunk_id *id, const struct chunk_place *place,
               struct vn_err *err);

/* After a failure: has the pack gone, so that another look-up may help? At the
 * last try it is damage. */
bool chunk_pack_has_gone(unsigned tries, struct vn_err *err);

/* Raise that the index does not have it. */
int chunk_fail_unknown(const struct chunk_id *id, struct vn_err *err);

/* Can a chunk of that kind lie there? */
int chunk_check_place(const struct chunk_place *place, enum chunk_kind kind,
                      struct vn_err *err) VN_MUST_USE;

#endif
