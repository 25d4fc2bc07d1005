#ifndef STORE_FINGERPRINT_H
#define STORE_FINGERPRINT_H

/* Shared by fingerprint.c and fingerprint_avx2.c only. */

#include <stddef.h>
#include <stdint.h>

/* XXH3-128, canonical, for processors with AVX2. */
void fingerprint_avx2(const uint8_t *data, size_t size, const uint8_t *secret,
                      size_t secret_size, uint8_t ret[16]);

#endif
