#ifndef COMMON_BUF_H
#define COMMON_BUF_H

/*
 * A growable run of bytes with an upper limit, and typed appends.
 *
 * Appends never fail by themselves: when the limit would be passed or memory
 * is out the buffer turns `broken`, keeps what it has and ignores the rest;
 * the caller asks once, at the end, with buf_check().
 */

#include "common/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf {
    uint8_t *data; /* owned; NULL while empty */
    size_t size;   /* bytes in use */
    size_t capacity;
    size_t limit; /* most bytes it may hold */
    bool broken;
};

/* An empty buffer that may grow to `limit` bytes. */
void buf_init(struct buf *b, size_t limit);
void buf_done(struct buf *b);

void buf_put(struct buf *b, const void *data, size_t size);
void buf_put_zero(struct buf *b, size_t size);
void buf_put_u8(struct buf *b, uint8_t v);
void buf_put_le16(struct buf *b, uint16_t v);
void buf_put_le32(struct buf *b, uint32_t v);
void buf_put_le64(struct buf *b, uint64_t v);
void buf_put_be16(struct buf *b, uint16_t v);
void buf_put_be32(struct buf *b, uint32_t v);
void buf_put_be64(struct buf *b, uint64_t v);

/*
 * Make room for `size` more bytes at b->data + b->size and return that
 * place, or NULL (and broken). The caller then adds to b->size himself.
 */
uint8_t *buf_reserve(struct buf *b, size_t size);

/* Forget the first `size` bytes (at most b->size). */
void buf_consume(struct buf *b, size_t size);

/* Fails with VN_E_LIMIT, naming `what`, when an append was ignored. */
int buf_check(const struct buf *b, const char *what,
              struct vn_err *err) VN_MUST_USE;

static inline void vn_auto_buf(struct buf *b)
{
    buf_done(b);
}

#endif
