#ifndef STORE_IDENT_H
#define STORE_IDENT_H

/*
 * Identity: the two hashes of the store and the secrets they are keyed with.
 *
 *     id           keyed BLAKE3 or HMAC-SHA-256, as the store was made; 32
 *                  bytes in packs, the first 16 elsewhere. Answers "is this
 *                  content known anywhere?"
 *     fingerprint  XXH3-128 under the store's secret, of one page. Answers
 *                  "is this the content of the same place before?" and
 *                  nothing else: who learns the secret can forge it.
 *
 * Every kind of chunk is hashed with a key of its own, so that bytes which a
 * guest controls can never pass as a node of a map or as a manifest. Pages
 * have a key for each domain (domain.c), so that one content has another id
 * in each.
 */

#include "store/store.h"

#include <stdbool.h>

#define IDENT_FULL_SIZE   32u
#define IDENT_KEY_SIZE    32u
#define IDENT_SECRET_SIZE 192u /* XXH3 wants at least 136 */
#define IDENT_BATCH       16u  /* pages hashed by one call of the SIMD code */

/* What a chunk holds. The numbers are part of the pack format. */
enum chunk_kind {
    CHUNK_PAGE = 1,      /* 4096 bytes of an image */
    CHUNK_LEAF = 2,      /* lowest node of a map */
    CHUNK_INNER = 3,     /* higher node of a map */
    CHUNK_MANIFEST = 4,  /* a snapshot's document */
    CHUNK_TOMBSTONE = 5, /* says that a snapshot was deleted */
    CHUNK_KINDS = 6,
};

struct ident_full {
    uint8_t bytes[IDENT_FULL_SIZE];
};

struct fingerprint {
    uint8_t bytes[16]; /* canonical (big-endian) XXH3-128 */
};

struct ident {
    enum store_identity identity;
    uint64_t domain;                /* whose pages: its tag; 0: the store's */
    uint8_t master[IDENT_KEY_SIZE]; /* from which the others come */
    uint8_t keys[CHUNK_KINDS][IDENT_KEY_SIZE]; /* keys[0] is not used */
    uint32_t page_key_words[8];
    uint8_t secret[IDENT_SECRET_SIZE];
};

/* Derive the keys of all kinds from a store's master key; domain 0. */
void ident_init(struct ident *ident, enum store_identity identity,
                const uint8_t key[IDENT_KEY_SIZE],
                const uint8_t secret[IDENT_SECRET_SIZE]);

/* The tag of a domain of that name, which was checked; never 0. */
uint64_t ident_domain_tag(const struct ident *ident, const char *name);

/* The same hashes, those of pages in the domain of that tag. All but the ids
 * of pages stays as it is. */
void ident_in_domain(const struct ident *ident, uint64_t domain,
                     struct ident *ret);

/* The ids of any number of pages of 4096 bytes, 16 at a time. */
void ident_pages(const struct ident *ident, const uint8_t *const *pages,
                 size_t count, struct ident_full *ret);

/* The id of one chunk of any kind and size. */
void ident_chunk(const struct ident *ident, enum chunk_kind kind,
                 const void *data, size_t size, struct ident_full *ret);

void ident_fingerprint(const struct ident *ident, const uint8_t *page,
                       struct fingerprint *ret);

/* The 16 bytes by which a chunk is found. */
struct chunk_id ident_short(const struct ident_full *full);

/* Plain XXH3-128 in canonical form: a checksum against accidents. */
void ident_check(const void *data, size_t size, uint8_t ret[16]);

bool ident_page_is_zero(const uint8_t *page);

static inline bool chunk_id_is_zero(const struct chunk_id *id)
{
    static const struct chunk_id zero;

    return __builtin_memcmp(id, &zero, sizeof(zero)) == 0;
}

static inline int chunk_id_compare(const struct chunk_id *a,
                                   const struct chunk_id *b)
{
    return __builtin_memcmp(a, b, sizeof(*a));
}

const char *chunk_kind_name(unsigned kind);

#endif
