#ifndef CAPTURE_SPOOL_H
#define CAPTURE_SPOOL_H

/*
 * A stream taken into RAM as fast as it comes, and handed out as slowly as
 * the consumer likes: what keeps a slow store from stalling a guest.
 *
 * A thread of the spool reads the descriptor; one consumer thread takes.
 */

#include "common/auto.h"
#include "common/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct spool;

/*
 * Start reading `fd` (a connected stream socket; taken over, also on failure).
 * At most limit_bytes are kept: beyond them the writer has to wait until the
 * consumer took some.
 */
struct spool *spool_start(int fd, uint64_t limit_bytes,
                          struct vn_err *err) VN_MUST_USE;
/* Closes the descriptor, ends the thread, drops what is left. NULL is fine. */
void spool_free(struct spool *spool);

/*
 * The next bytes in *ret_data and *ret_size, valid until the next take or
 * free; *ret_size is 0 at the end of the stream. Waits at most timeout_ns,
 * then VN_E_TIMEOUT. Reports a failed read as its errno, once everything
 * before it was taken.
 */
int spool_take(struct spool *spool, uint64_t timeout_ns, const void **ret_data,
               size_t *ret_size, struct vn_err *err) VN_MUST_USE;
/*
 * Copy up to `size` bytes that stand at `offset` of what was not taken yet,
 * without taking them or waiting. Returns how many there were.
 */
size_t spool_peek(struct spool *spool, uint64_t offset, void *out, size_t size);

/* Drop what is kept and whatever comes; nothing may be taken any more. */
void spool_discard(struct spool *spool);

uint64_t spool_received(struct spool *spool); /* bytes, since the start */
bool spool_is_full(struct spool *spool);      /* the writer waits */
bool spool_is_ended(struct spool *spool);     /* end of stream or error seen */

VN_AUTO_DEFINE(spool, struct spool *, spool_free)

#endif
