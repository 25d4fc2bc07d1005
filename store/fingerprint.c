#include "store/fingerprint.h"
#include "store/ident.h"

/*
 * The fingerprint of a page: XXH3-128 under the store's secret, canonical.
 *
 * The library's XXH3 is compiled for the oldest processor of the architecture,
 * 128 bits wide on x86. This hash is made of every page that is put or read,
 * so it is also compiled from the library's header for AVX2
 * (fingerprint_avx2.c), a third faster, and taken where the processor has that.
 * For AVX-512 it was no faster. A unit test holds it against the library's.
 */

#include <assert.h>
#include <string.h>
#include <xxhash.h>

static_assert(sizeof(XXH128_canonical_t) == sizeof(struct fingerprint),
              "a fingerprint is the canonical form");

static bool has_avx2(void)
{
#ifdef VN_FINGERPRINT_AVX2
    return __builtin_cpu_supports("avx2");
#else
    return false;
#endif
}

void ident_fingerprint(const struct ident *ident, const uint8_t *page,
                       struct fingerprint *ret)
{
    XXH128_canonical_t canonical;

    if (has_avx2()) {
        fingerprint_avx2(page, STORE_PAGE_SIZE, ident->secret,
                         IDENT_SECRET_SIZE, ret->bytes);
        return;
    }
    XXH128_canonicalFromHash(
        &canonical, XXH3_128bits_withSecret(page, STORE_PAGE_SIZE,
                                            ident->secret, IDENT_SECRET_SIZE));
    memcpy(ret->bytes, canonical.digest, sizeof(ret->bytes));
}
