#ifndef TESTS_UNIT_SWITCH_RANDOM_H
#define TESTS_UNIT_SWITCH_RANDOM_H

/* Seeded numbers for property tests; VN_SEED=n runs a seed again. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static uint64_t random_state;

static inline unsigned pick(unsigned below)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (unsigned)((random_state >> 16) % below);
}

static inline void seed(unsigned n)
{
    random_state = 0x9e3779b97f4a7c15ull * (n + 1);
    for (int i = 0; i < 8; i++)
        pick(2);
}

static inline unsigned first_seed(void)
{
    const char *text = getenv("VN_SEED");
    unsigned n = text ? (unsigned)atol(text) : (unsigned)time(NULL) % 100000;

    printf("VN_SEED=%u\n", n);
    return n;
}

#endif
