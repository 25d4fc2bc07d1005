#ifndef VIOLIN_TALLY_H
#define VIOLIN_TALLY_H

/*
 * How many frames of which epoch went over one channel, for the newest few
 * epochs. Each side of a channel counts by the epoch in the frame itself, so
 * both count the same frames, whatever each believes the present epoch to be.
 */

#include "violin/serial.h"

#include <stdint.h>

#define TALLY_EPOCHS 4

struct tally {
    struct {
        uint32_t epoch;
        uint64_t count;
    } slots[TALLY_EPOCHS]; /* count 0: unused */
};

static inline uint64_t tally_get(const struct tally *t, uint32_t epoch)
{
    for (int i = 0; i < TALLY_EPOCHS; i++) {
        if (t->slots[i].count && t->slots[i].epoch == epoch)
            return t->slots[i].count;
    }
    return 0;
}

/* One more of `epoch`; when all slots are taken the oldest epoch goes. */
static inline void tally_add(struct tally *t, uint32_t epoch)
{
    int oldest = 0;

    for (int i = 0; i < TALLY_EPOCHS; i++) {
        if (t->slots[i].count && t->slots[i].epoch == epoch) {
            t->slots[i].count++;
            return;
        }
    }
    for (int i = 0; i < TALLY_EPOCHS; i++) {
        if (t->slots[i].count == 0) {
            oldest = i;
            break;
        }
        if (serial_older(t->slots[i].epoch, t->slots[oldest].epoch))
            oldest = i;
    }
    t->slots[oldest].epoch = epoch;
    t->slots[oldest].count = 1;
}

#endif
