#ifndef TESTS_PERF_BENCH_DATA_H
#define TESTS_PERF_BENCH_DATA_H

/* The benchmark's images: the same bytes for the same seed, on any machine. */

#include "store/store.h"

#include <stdint.h>

#define BENCH_PAGE STORE_PAGE_SIZE

/* A generator of numbers that look random; any seed. */
struct prng {
    uint64_t state;
};
uint64_t prng_next(struct prng *prng);

/* One page that no other seed has, which LZ4 brings to about a half. */
void data_page(uint8_t *page, uint64_t seed);

/* `size` bytes of such pages; of every ten `zero_tenths` are zeros, in runs of
 * 1 to 64. */
void data_image(uint8_t *image, size_t size, uint64_t seed,
                unsigned zero_tenths);

/* Replace a tenth of the pages by new ones, in runs of 1 to 8. Yields how many
 * they are. */
size_t data_change(uint8_t *image, size_t size, uint64_t seed);

/* Copy all pages of an image in another order. */
void data_shuffle(uint8_t *to, const uint8_t *from, size_t size, uint64_t seed);

#endif
