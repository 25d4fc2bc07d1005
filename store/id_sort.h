#ifndef STORE_ID_SORT_H
#define STORE_ID_SORT_H

/*
 * Sorting by id, in linear time: ids are uniform, being hashes under a secret
 * key. Look-ups and inserts in the index are fastest in this order.
 */

#include "store/ident.h"

#include <endian.h>
#include <stddef.h>
#include <string.h>

struct id_key {
    uint64_t high;   /* the id's first 8 bytes, as a number that sorts alike */
    uint32_t number; /* which one it was; the caller's */
};

static inline struct id_key id_key_of(const struct chunk_id *id,
                                      uint32_t number)
{
    struct id_key key = {.number = number};

    memcpy(&key.high, id->bytes, sizeof(key.high));
    key.high = be64toh(key.high);
    return key;
}

/*
 * Sort `count` keys; `space` has room for as many. Keys with the same 8 bytes
 * keep their order. So equal ids come to lie side by side, unless another id
 * has the same 8 bytes: by chance, that is, never.
 */
void id_sort(struct id_key *keys, struct id_key *space, size_t count);

#endif
