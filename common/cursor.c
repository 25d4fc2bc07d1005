#include "common/cursor.h"

#include <endian.h>
#include <string.h>

const uint8_t *cursor_take(struct cursor *c, size_t size)
{
    const uint8_t *p;

    if (c->failed || size > c->size - c->offset) {
        c->failed = true;
        return NULL;
    }
    p = c->data + c->offset;
    c->offset += size;
    return p;
}

static void cursor_copy(struct cursor *c, void *to, size_t size)
{
    const uint8_t *p = cursor_take(c, size);

    if (p)
        memcpy(to, p, size);
    else
        memset(to, 0, size);
}

uint8_t cursor_u8(struct cursor *c)
{
    uint8_t v;

    cursor_copy(c, &v, sizeof(v));
    return v;
}

uint16_t cursor_le16(struct cursor *c)
{
    uint16_t v;

    cursor_copy(c, &v, sizeof(v));
    return le16toh(v);
}

uint32_t cursor_le32(struct cursor *c)
{
    uint32_t v;

    cursor_copy(c, &v, sizeof(v));
    return le32toh(v);
}

uint64_t cursor_le64(struct cursor *c)
{
    uint64_t v;

    cursor_copy(c, &v, sizeof(v));
    return le64toh(v);
}

uint16_t cursor_be16(struct cursor *c)
{
    uint16_t v;

    cursor_copy(c, &v, sizeof(v));
    return be16toh(v);
}

uint32_t cursor_be32(struct cursor *c)
{
    uint32_t v;

    cursor_copy(c, &v, sizeof(v));
    return be32toh(v);
}

uint64_t cursor_be64(struct cursor *c)
{
    uint64_t v;

    cursor_copy(c, &v, sizeof(v));
    return be64toh(v);
}
