#include "bench_data.h"

#include <stdlib.h>
#include <string.h>

/*
 * Half random and half constant pages would flatter the store: LZ4 runs over
 * both halves at several times its usual speed. So a page is made as an LZ4
 * block is: random literals in turn with copies of what came before in the same
 * page, of lengths that give 2.0 to 1 by LZ4's default and about its speed on
 * memory of a real guest. Every page begins with random literals, so no two are
 * equal.
 */

#define LITERALS_MIN 5u
#define LITERALS_VAR 8u /* 5 to 12 */
#define COPY_MIN     12u
#define COPY_VAR     16u /* 12 to 27 */

uint64_t prng_next(struct prng *prng)
{
    uint64_t x = prng->state += 0x9e3779b97f4a7c15ull;

    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

/* 1 to `limit`. */
static size_t prng_run(struct prng *prng, size_t limit)
{
    return (size_t)(prng_next(prng) % limit) + 1;
}

void data_page(uint8_t *page, uint64_t seed)
{
    /* Room for what the last token writes beyond the page. */
    uint8_t buffer[BENCH_PAGE + 64];
    struct prng prng = {seed * 0xd1342543de82ef95ull};
    size_t at = 16;

    for (size_t i = 0; i < at; i += 8) {
        uint64_t x = prng_next(&prng);

        memcpy(buffer + i, &x, 8);
    }
    while (at < BENCH_PAGE) {
        uint64_t x = prng_next(&prng), literals[2] = {x, prng_next(&prng)};
        size_t literal_size = LITERALS_MIN + (x >> 8) % LITERALS_VAR;
        size_t copy_size = COPY_MIN + (x >> 16) % COPY_VAR;
        size_t from;

        memcpy(buffer + at, literals, sizeof(literals));
        at += literal_size;
        from = (size_t)(x >> 24) % (at - 8);
        for (size_t i = 0; i < copy_size; i++)
            buffer[at + i] = buffer[from + i];
        at += copy_size;
    }
    memcpy(page, buffer, BENCH_PAGE);
}

void data_image(uint8_t *image, size_t size, uint64_t seed,
                unsigned zero_tenths)
{
    struct prng prng = {seed};
    size_t pages = size / BENCH_PAGE, i = 0, run;

    while (i < pages) {
        bool zero = prng_next(&prng) % 10 < zero_tenths;

        for (run = prng_run(&prng, 64); run > 0 && i < pages; run--, i++) {
            if (zero)
                memset(image + i * BENCH_PAGE, 0, BENCH_PAGE);
            else
                data_page(image + i * BENCH_PAGE, (seed << 32) + i);
        }
    }
}

size_t data_change(uint8_t *image, size_t size, uint64_t seed)
{
    struct prng prng = {~seed};
    size_t pages = size / BENCH_PAGE, i = 0, changed = 0;

    /* Runs of 4.5 pages on average, gaps of 40.5. */
    for (;;) {
        i += (size_t)(prng_next(&prng) % 82);
        for (size_t run = prng_run(&prng, 8); run > 0 && i < pages; run--) {
            data_page(image + i * BENCH_PAGE, (seed << 32) + i);
            changed++;
            i++;
        }
        if (i >= pages)
            return changed;
    }
}

void data_shuffle(uint8_t *to, const uint8_t *from, size_t size, uint64_t seed)
{
    struct prng prng = {seed};
    size_t pages = size / BENCH_PAGE;
    uint32_t *order = calloc(pages, sizeof(*order));

    if (!order)
        abort();
    for (size_t i = 0; i < pages; i++) {
        size_t other = (size_t)(prng_next(&prng) % (i + 1));

        order[i] = order[other];
        order[other] = (uint32_t)i;
    }
    for (size_t i = 0; i < pages; i++)
        memcpy(to + i * BENCH_PAGE, from + order[i] * (size_t)BENCH_PAGE,
               BENCH_PAGE);
    free(order);
}
