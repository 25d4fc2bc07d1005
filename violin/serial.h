#ifndef VIOLIN_SERIAL_H
#define VIOLIN_SERIAL_H

/*
 * Epochs are 32-bit serial numbers (RFC 1982, section 3.2): a is newer than b
 * when it is at most 2^31 - 1 steps ahead. Two numbers exactly 2^31 apart are
 * neither newer nor older there; here the distance counts as "older" both
 * ways, so that such a frame is delivered rather than held for ever.
 */

#include <stdbool.h>
#include <stdint.h>

static inline bool serial_newer(uint32_t a, uint32_t b)
{
    uint32_t ahead = a - b;

    return ahead != 0 && ahead < 0x80000000u;
}

static inline bool serial_older(uint32_t a, uint32_t b)
{
    return a != b && !serial_newer(a, b);
}

#endif
