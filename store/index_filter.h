#ifndef STORE_INDEX_FILTER_H
#define STORE_INDEX_FILTER_H

/*
 * A Bloom filter of chunk ids in a file that processes share: "certainly not
 * there" without a look into LMDB. It is a hint: it may have lost a chunk that
 * is there. index_known.c says when it is used; this is the file and its bits.
 */

#include "store/ident.h"

#include <stdatomic.h>

#define FILTER_BLOCK_WORDS 8u /* 512 bits, a cache line */
#define FILTER_PROBES      7u

struct index_filter {
    uint8_t *map;
    size_t size;
    atomic_uint_fast64_t *words;
    uint64_t blocks;
    uint64_t capacity; /* chunks for which it was made */
    uint64_t dev;
    uint64_t ino;
    int fd; /* of the builder, who holds a lock by it; else -1 */
    atomic_uint users;
};

/*
 * Map the file. NULL where there is none, or none that can be relied on: not
 * whole, another store's, replaced, or not marked clean by a boot of the host
 * that is over. `any`: also one that may have lost bits, or is not ready.
 */
struct index_filter *index_filter_open(const char *path,
                                       const uint8_t store_id[16], bool any);
/*
 * Make an empty one for `capacity` chunks, instead of what is there, and lock
 * it. NULL with EBUSY in *err: somebody else does so at this moment.
 */
struct index_filter *index_filter_create(const char *path,
                                         const uint8_t store_id[16],
                                         uint64_t capacity,
                                         struct vn_err *err) VN_MUST_USE;
/* Let go of one reference. NULL is fine. */
void index_filter_release(struct index_filter *filter);

/* Is another file in its place, so that this one counts no more? */
bool index_filter_replaced(const struct index_filter *filter);
void index_filter_set_replaced(struct index_filter *filter);
/*
 * Everything set so far to disk, and a mark that nothing is missing. Then, and
 * before a bit is set, index_filter_dirty() takes the mark away, on disk too.
 */
int index_filter_clean(struct index_filter *filter,
                       struct vn_err *err) VN_MUST_USE;
void index_filter_dirty(struct index_filter *filter);

/*
 * Ids are uniform, so their bytes are the hash. The first eight choose the
 * block, so that rising ids go through the file once; seven times nine bits of
 * the others are the places in it.
 */
static inline atomic_uint_fast64_t *
index_filter_block(const struct index_filter *filter, const struct chunk_id *id)
{
    uint64_t high;

    __builtin_memcpy(&high, id->bytes, 8);
    high = __builtin_bswap64(high);
    return filter->words +
           FILTER_BLOCK_WORDS *
               (uint64_t)((unsigned __int128)high * filter->blocks >> 64);
}

static inline uint64_t index_filter_places(const struct chunk_id *id)
{
    uint64_t low;

    __builtin_memcpy(&low, id->bytes + 8, 8);
    return low;
}

static inline bool index_filter_has(const struct index_filter *filter,
                                    const struct chunk_id *id)
{
    const atomic_uint_fast64_t *block = index_filter_block(filter, id);
    uint64_t places = index_filter_places(id);

    for (unsigned i = 0; i < FILTER_PROBES; i++, places >>= 9)
        if (!(atomic_load_explicit(&block[places >> 6 & 7],
                                   memory_order_relaxed) >>
                  (places & 63) &
              1))
            return false;
    return true;
}

static inline void index_filter_add(struct index_filter *filter,
                                    const struct chunk_id *id)
{
    atomic_uint_fast64_t *block = index_filter_block(filter, id);
    uint64_t places = index_filter_places(id);

    for (unsigned i = 0; i < FILTER_PROBES; i++, places >>= 9)
        atomic_fetch_or_explicit(&block[places >> 6 & 7],
                                 (uint64_t)1 << (places & 63),
                                 memory_order_relaxed);
}

#endif
