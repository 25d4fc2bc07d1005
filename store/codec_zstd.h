#ifndef STORE_CODEC_ZSTD_H
#define STORE_CODEC_ZSTD_H

/* Chunks as zstd frames (RFC 8878), for data that is written once more and
 * then seldom read: `vnstore gc --recompress`. */

#include "common/err.h"

#include <stddef.h>

#define CODEC_ZSTD_LEVEL_MAX     19u
#define CODEC_ZSTD_LEVEL_DEFAULT 3u

struct codec_zstd; /* a compressor; one thread at a time */

struct codec_zstd *codec_zstd_new(unsigned level);
void codec_zstd_free(struct codec_zstd *codec); /* NULL is fine */

/* One frame of the `size` bytes into `out`, which holds `room`. Returns the
 * frame's size, 0 where it does not fit. */
size_t codec_zstd_compress(struct codec_zstd *codec, const void *data,
                           size_t size, void *out, size_t room);

/*
 * The content of exactly one frame into `out` of `limit` bytes; nothing about
 * the frame is believed. The frame must tell its content's size. May be called
 * from any thread; each keeps a context (160 KiB) until it ends. VN_E_CORRUPT.
 */
int codec_zstd_decode(const void *frame, size_t size, void *out, size_t limit,
                      size_t *ret_size, struct vn_err *err) VN_MUST_USE;

#endif
