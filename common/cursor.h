#ifndef COMMON_CURSOR_H
#define COMMON_CURSOR_H

/*
 * The only way untrusted bytes are read: a bounds-checked cursor.
 *
 * A read past the end sets `failed`, returns zeros (or NULL) and moves
 * nothing; all later reads fail too. So a parser reads a whole record and
 * asks once. (Idea: passt's packet_get, BoringSSL's CBS.)
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cursor {
    const uint8_t *data; /* not owned */
    size_t size;
    size_t offset; /* of the next byte, from data */
    bool failed;
};

static inline struct cursor cursor_of(const void *data, size_t size)
{
    return (struct cursor){.data = data, .size = size};
}

static inline size_t cursor_left(const struct cursor *c)
{
    return c->failed ? 0 : c->size - c->offset;
}

/* The next `size` bytes, valid as long as the data below; NULL at the end. */
const uint8_t *cursor_take(struct cursor *c, size_t size);

uint8_t cursor_u8(struct cursor *c);
uint16_t cursor_le16(struct cursor *c);
uint32_t cursor_le32(struct cursor *c);
uint64_t cursor_le64(struct cursor *c);
uint16_t cursor_be16(struct cursor *c);
uint32_t cursor_be32(struct cursor *c);
uint64_t cursor_be64(struct cursor *c);

#endif
