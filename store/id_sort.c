#include "store/id_sort.h"

/*
 * One pass deals the keys out by their highest bits, into about as many heaps
 * as there are keys; insertion sort does the rest, moving each key only within
 * its heap. Four times as fast as qsort() for the 512 ids of a leaf.
 *
 * Keys that are not uniform, in a map that somebody made up, cost more: with
 * all of them in one heap count^2 / 4 moves. The 512 ids of a leaf are sorted
 * in 0.1 ms then. Larger counts come from ids that were hashed here.
 */

#define BITS_MIN 6u
#define BITS_MAX 14u

static void insertion_sort(struct id_key *keys, size_t count)
{
    for (size_t i = 1; i < count; i++) {
        struct id_key key = keys[i];
        size_t j = i;

        for (; j > 0 && keys[j - 1].high > key.high; j--)
            keys[j] = keys[j - 1];
        keys[j] = key;
    }
}

void id_sort(struct id_key *keys, struct id_key *space, size_t count)
{
    uint32_t ends[1u << BITS_MAX];
    unsigned bits = BITS_MIN;
    uint32_t sum = 0;

    while (bits < BITS_MAX && (size_t)1 << bits < count)
        bits++;
    memset(ends, 0, sizeof(*ends) << bits);
    for (size_t i = 0; i < count; i++)
        ends[keys[i].high >> (64 - bits)]++;
    for (size_t heap = 0; heap < (size_t)1 << bits; heap++) {
        uint32_t n = ends[heap];

        ends[heap] = sum;
        sum += n;
    }
    for (size_t i = 0; i < count; i++)
        space[ends[keys[i].high >> (64 - bits)]++] = keys[i];
    memcpy(keys, space, count * sizeof(*keys));
    insertion_sort(keys, count);
}
