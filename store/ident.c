#include "store/ident.h"

/*
 * Hashes of the store.
 *
 * Why two: XXH3 runs at memory speed but collides by plain algebra once its
 * secret is known (two stripes whose low halves equal the secret's, with a
 * constant sum), so it may only say that a page of one image did not change in
 * place: who forges it harms the image he writes himself. BLAKE3 keyed with a
 * secret of the store is what decides that two pages anywhere are one chunk.
 *
 * SHA-256, for who must use what a standards body approved, is keyed too (HMAC,
 * by OpenSSL): a plain SHA-256 of kind and content would tell everybody who
 * sees an id whether a page of his is in the store. It takes four times the CPU
 * of BLAKE3 (570 against 2,300 MB/s of pages, one core with SHA instructions).
 * All that is said of BLAKE3 elsewhere holds for it as well.
 *
 * Keys: the master key K lies in config.json. The key of kind k is
 * BLAKE3-derive-key("vnstore v1 chunk kind <name>", K), or HMAC-SHA-256 with
 * the key K of that text: a store of either identity needs no other hash.
 *
 * A domain's tag and the key of its pages come from K and a text in the same
 * way. The key needs the tag only: a pack and a manifest say the tag, so who
 * checks them needs no list of names. The tag tells nobody without K the name.
 * Two of a thousand domains of one store have one tag with chance 2^-45.
 *
 * Sixteen pages a call: BLAKE3 of 4096 bytes is a tree of four chunks of 1024
 * bytes, two parents and the root. Its SIMD code hashes many inputs of one
 * length side by side, so chunk j of sixteen pages goes in one call, then all
 * 32 parents, then all 16 roots; one page alone would fill 4 of 16 lanes. The
 * entry point is internal to the BLAKE3 sources (blake3_impl.h); a unit test
 * holds the result against blake3_hasher.
 *
 * 16 bytes of id: with a secret key nobody can search for collisions alone;
 * among 2^38 chunks (1 PiB) an accident has chance 2^-53. The other 16 bytes
 * are kept in packs and compared by verify.
 */

#include "common/cursor.h"

#include <blake3_impl.h>
#include <inttypes.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static const char *const kind_names[CHUNK_KINDS] = {
    [0] = "none",
    [CHUNK_PAGE] = "page",
    [CHUNK_LEAF] = "leaf",
    [CHUNK_INNER] = "inner",
    [CHUNK_MANIFEST] = "manifest",
    [CHUNK_TOMBSTONE] = "tombstone",
};

const char *chunk_kind_name(unsigned kind)
{
    return kind < CHUNK_KINDS ? kind_names[kind] : "unknown";
}

/* ---- HMAC-SHA-256 ----------------------------------------------------- */

/* Looked up once, never freed; its failure is that of malloc(), or of an
 * OpenSSL without HMAC, where nothing here can go on. */
static EVP_MAC *hmac;

/* A MAC under one key, used for any number of messages by one thread. */
static EVP_MAC_CTX *hmac_open(const uint8_t key[IDENT_KEY_SIZE])
{
    char digest[] = "SHA256";
    const OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
        OSSL_PARAM_construct_end()};
    EVP_MAC_CTX *mac = EVP_MAC_CTX_new(hmac);

    if (!mac || !EVP_MAC_init(mac, key, IDENT_KEY_SIZE, params))
        abort();
    return mac;
}

static void hmac_finish(EVP_MAC_CTX *mac, const void *data, size_t size,
                        uint8_t ret[IDENT_FULL_SIZE])
{
    size_t done;

    if (!EVP_MAC_update(mac, data, size) ||
        !EVP_MAC_final(mac, ret, &done, IDENT_FULL_SIZE) ||
        done != IDENT_FULL_SIZE)
        abort();
}

static void hmac_one(const uint8_t key[IDENT_KEY_SIZE], const void *data,
                     size_t size, uint8_t ret[IDENT_FULL_SIZE])
{
    EVP_MAC_CTX *mac = hmac_open(key);

    hmac_finish(mac, data, size, ret);
    EVP_MAC_CTX_free(mac);
}

static void hmac_pages(const uint8_t key[IDENT_KEY_SIZE],
                       const uint8_t *const *pages, size_t count,
                       struct ident_full *ret)
{
    EVP_MAC_CTX *mac = count ? hmac_open(key) : NULL;

    for (size_t i = 0; i < count; i++) {
        /* Without a key: begin again with the one that it has. */
        if (i > 0 && !EVP_MAC_init(mac, NULL, 0, NULL))
            abort();
        hmac_finish(mac, pages[i], STORE_PAGE_SIZE, ret[i].bytes);
    }
    EVP_MAC_CTX_free(mac);
}

/* ---- keys ------------------------------------------------------------- */

/* BLAKE3 detects the CPU lazily and without a lock: do it once, early. */
static void prepare(void)
{
    (void)blake3_simd_degree();
    hmac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    if (!hmac)
        abort();
}

static void derive_key(enum store_identity identity, const char *context,
                       const uint8_t key[IDENT_KEY_SIZE],
                       uint8_t ret[IDENT_KEY_SIZE])
{
    blake3_hasher hasher;

    static_assert(IDENT_KEY_SIZE == IDENT_FULL_SIZE, "a MAC is a key");
    if (identity == STORE_SHA256) {
        hmac_one(key, context, strlen(context), ret);
        return;
    }
    blake3_hasher_init_derive_key(&hasher, context);
    blake3_hasher_update(&hasher, key, IDENT_KEY_SIZE);
    blake3_hasher_finalize(&hasher, ret, IDENT_KEY_SIZE);
}

void ident_init(struct ident *ident, enum store_identity identity,
                const uint8_t key[IDENT_KEY_SIZE],
                const uint8_t secret[IDENT_SECRET_SIZE])
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, prepare);
    memset(ident, 0, sizeof(*ident));
    ident->identity = identity;
    memcpy(ident->master, key, IDENT_KEY_SIZE);
    for (unsigned kind = 1; kind < CHUNK_KINDS; kind++) {
        char context[64] = "vnstore v1 chunk kind ";

        strcat(context, kind_names[kind]);
        derive_key(identity, context, key, ident->keys[kind]);
    }
    load_key_words(ident->keys[CHUNK_PAGE], ident->page_key_words);
    memcpy(ident->secret, secret, IDENT_SECRET_SIZE);
}

uint64_t ident_domain_tag(const struct ident *ident, const char *name)
{
    char context[32 + STORE_DOMAIN_MAX];
    uint8_t key[IDENT_KEY_SIZE];
    struct cursor c = cursor_of(key, sizeof(key));
    uint64_t tag;

    snprintf(context, sizeof(context), "vnstore v1 domain tag %.*s",
             (int)STORE_DOMAIN_MAX, name);
    derive_key(ident->identity, context, ident->master, key);
    tag = cursor_le64(&c);
    return tag ? tag : 1;
}

void ident_in_domain(const struct ident *ident, uint64_t domain,
                     struct ident *ret)
{
    char context[64] = "vnstore v1 chunk kind page";

    *ret = *ident;
    if (domain == ident->domain)
        return;
    if (domain != 0)
        snprintf(context, sizeof(context), "vnstore v1 domain page %016" PRIx64,
                 domain);
    ret->domain = domain;
    derive_key(ident->identity, context, ident->master, ret->keys[CHUNK_PAGE]);
    load_key_words(ret->keys[CHUNK_PAGE], ret->page_key_words);
}

/* ---- ids -------------------------------------------------------------- */

void ident_chunk(const struct ident *ident, enum chunk_kind kind,
                 const void *data, size_t size, struct ident_full *ret)
{
    blake3_hasher hasher;

    if (ident->identity == STORE_SHA256) {
        hmac_one(ident->keys[kind], data, size, ret->bytes);
        return;
    }
    blake3_hasher_init_keyed(&hasher, ident->keys[kind]);
    blake3_hasher_update(&hasher, data, size);
    blake3_hasher_finalize(&hasher, ret->bytes, IDENT_FULL_SIZE);
}

/* At most IDENT_BATCH pages; see the essay. */
static void hash_batch(const struct ident *ident, const uint8_t *const *pages,
                       size_t count, struct ident_full *ret)
{
    enum { CHUNKS = STORE_PAGE_SIZE / BLAKE3_CHUNK_LEN };
    uint8_t level[CHUNKS][IDENT_BATCH][BLAKE3_OUT_LEN];
    uint8_t leaves[IDENT_BATCH][CHUNKS][BLAKE3_OUT_LEN];
    uint8_t parents[IDENT_BATCH][CHUNKS / 2][BLAKE3_OUT_LEN];
    const uint8_t *inputs[IDENT_BATCH * 2];
    const uint32_t *key = ident->page_key_words;

    for (size_t j = 0; j < CHUNKS; j++) {
        for (size_t i = 0; i < count; i++)
            inputs[i] = pages[i] + j * BLAKE3_CHUNK_LEN;
        blake3_hash_many(inputs, count, BLAKE3_CHUNK_LEN / BLAKE3_BLOCK_LEN,
                         key, j, false, KEYED_HASH, CHUNK_START, CHUNK_END,
                         level[j][0]);
    }
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < CHUNKS; j++)
            memcpy(leaves[i][j], level[j][i], BLAKE3_OUT_LEN);
        inputs[2 * i] = leaves[i][0];
        inputs[2 * i + 1] = leaves[i][2];
    }
    blake3_hash_many(inputs, 2 * count, 1, key, 0, false, KEYED_HASH | PARENT,
                     0, 0, parents[0][0]);
    for (size_t i = 0; i < count; i++)
        inputs[i] = parents[i][0];
    blake3_hash_many(inputs, count, 1, key, 0, false,
                     KEYED_HASH | PARENT | ROOT, 0, 0, ret[0].bytes);
}

void ident_pages(const struct ident *ident, const uint8_t *const *pages,
                 size_t count, struct ident_full *ret)
{
    if (ident->identity == STORE_SHA256) {
        hmac_pages(ident->keys[CHUNK_PAGE], pages, count, ret);
        return;
    }
    for (size_t i = 0; i < count; i += IDENT_BATCH) {
        size_t n = count - i < IDENT_BATCH ? count - i : IDENT_BATCH;

        hash_batch(ident, pages + i, n, ret + i);
    }
}

struct chunk_id ident_short(const struct ident_full *full)
{
    struct chunk_id id;

    memcpy(id.bytes, full->bytes, sizeof(id.bytes));
    return id;
}

void ident_check(const void *data, size_t size, uint8_t ret[16])
{
    XXH128_canonical_t canonical;

    XXH128_canonicalFromHash(&canonical, XXH3_128bits(data, size));
    memcpy(ret, canonical.digest, 16);
}

bool ident_page_is_zero(const uint8_t *page)
{
    static const uint8_t zeros[256];

    for (size_t i = 0; i < STORE_PAGE_SIZE; i += sizeof(zeros))
        if (memcmp(page + i, zeros, sizeof(zeros)) != 0)
            return false;
    return true;
}
