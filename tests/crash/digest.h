#ifndef TESTS_CRASH_DIGEST_H
#define TESTS_CRASH_DIGEST_H

/* What a snapshot of the workload holds, in one number: two objects. */

#include "store/store.h"

#define DIGEST_IMAGE "image" /* pages */
#define DIGEST_STATE "state" /* a few bytes */

uint64_t digest_of(const void *image, size_t image_size, const void *state,
                   size_t state_size);

/* Read both objects back. VN_E_LIMIT where they are larger than they were. */
int digest_read(struct store *store, const json_t *manifest, uint64_t *ret,
                struct vn_err *err) VN_MUST_USE;

#endif
