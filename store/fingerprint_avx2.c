#include "store/fingerprint.h"

/*
 * XXH3-128 from the library's header, this file being compiled for AVX2:
 * nothing here runs before fingerprint.c has asked the processor, and nothing
 * that others might link to is defined here but the one function.
 */

#ifdef __AVX2__

#define XXH_INLINE_ALL
#include <string.h>
#include <xxhash.h>

void fingerprint_avx2(const uint8_t *data, size_t size, const uint8_t *secret,
                      size_t secret_size, uint8_t ret[16])
{
    XXH128_canonical_t canonical;

    XXH128_canonicalFromHash(
        &canonical, XXH3_128bits_withSecret(data, size, secret, secret_size));
    memcpy(ret, canonical.digest, 16);
}

#else

void fingerprint_avx2(const uint8_t *data, size_t size, const uint8_t *secret,
                      size_t secret_size, uint8_t ret[16])
{
    (void)data;
    (void)size;
    (void)secret;
    (void)secret_size;
    (void)ret;
    __builtin_unreachable();
}

#endif
