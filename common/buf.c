#include "common/buf.h"

#include <assert.h>
#include <endian.h>
#include <stdlib.h>
#include <string.h>

void buf_init(struct buf *b, size_t limit)
{
    *b = (struct buf){.limit = limit};
}

void buf_done(struct buf *b)
{
    free(b->data);
    *b = (struct buf){.limit = b->limit};
}

uint8_t *buf_reserve(struct buf *b, size_t size)
{
    size_t capacity = b->capacity ? b->capacity : 256;
    uint8_t *data;

    if (b->broken || size > b->limit || b->size > b->limit - size) {
        b->broken = true;
        return NULL;
    }
    if (b->size + size <= b->capacity && b->data)
        return b->data + b->size;
    while (capacity < b->size + size)
        capacity = capacity > SIZE_MAX / 2 ? b->size + size : capacity * 2;
    data = realloc(b->data, capacity);
    if (!data) {
        b->broken = true;
        return NULL;
    }
    b->data = data;
    b->capacity = capacity;
    return b->data + b->size;
}

void buf_put(struct buf *b, const void *data, size_t size)
{
    uint8_t *to = buf_reserve(b, size);

    if (to && size) {
        memcpy(to, data, size);
        b->size += size;
    }
}

void buf_put_zero(struct buf *b, size_t size)
{
    uint8_t *to = buf_reserve(b, size);

    if (to && size) {
        memset(to, 0, size);
        b->size += size;
    }
}

void buf_put_u8(struct buf *b, uint8_t v)
{
    buf_put(b, &v, sizeof(v));
}

void buf_put_le16(struct buf *b, uint16_t v)
{
    v = htole16(v);
    buf_put(b, &v, sizeof(v));
}

void buf_put_le32(struct buf *b, uint32_t v)
{
    v = htole32(v);
    buf_put(b, &v, sizeof(v));
}

void buf_put_le64(struct buf *b, uint64_t v)
{
    v = htole64(v);
    buf_put(b, &v, sizeof(v));
}

void buf_put_be16(struct buf *b, uint16_t v)
{
    v = htobe16(v);
    buf_put(b, &v, sizeof(v));
}

void buf_put_be32(struct buf *b, uint32_t v)
{
    v = htobe32(v);
    buf_put(b, &v, sizeof(v));
}

void buf_put_be64(struct buf *b, uint64_t v)
{
    v = htobe64(v);
    buf_put(b, &v, sizeof(v));
}

void buf_consume(struct buf *b, size_t size)
{
    assert(size <= b->size);
    if (size && size < b->size)
        memmove(b->data, b->data + size, b->size - size);
    b->size -= size;
}

int buf_check(const struct buf *b, const char *what, struct vn_err *err)
{
    if (b->broken)
        return vn_fail(err, VN_E_LIMIT, "%s is larger than %zu bytes", what,
                       b->limit);
    return 0;
}
