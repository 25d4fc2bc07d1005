#ifndef TESTS_PERF_BENCH_YARD_H
#define TESTS_PERF_BENCH_YARD_H

/*
 * Yardsticks: what this machine can do at best, measured with the same bytes
 * and in turn with the figures. All yield seconds. One thread.
 */

#include <stddef.h>
#include <stdint.h>

double yard_memcpy(uint8_t *to, const uint8_t *from, size_t size);

/* LZ4's default on each page of 4 KiB; *ret_size: what comes out. */
double yard_lz4(const uint8_t *data, size_t size, uint64_t *ret_size);

/* The same on all cores at once, each with its part. */
double yard_lz4_threads(const uint8_t *data, size_t size, long cores);

/* Keyed BLAKE3 of each page, 16 a call, by the store's own code. */
double yard_blake3(const uint8_t *data, size_t size);

/* Write `size` bytes of `data` (again and again) to a new file in `dir`, past
 * the page cache, in blocks of 8 MiB, then fsync. The file is removed. */
double yard_disk_write(const char *dir, const uint8_t *data, size_t data_size,
                       uint64_t size);

/* Read all packs of a store one after the other, past the page cache or not.
 * *ret_size: their bytes. */
double yard_read_packs(const char *store, int direct, uint64_t *ret_size);

/* preads of 4 KiB at `count` random places of a store's packs. */
double yard_random_read(const char *store, size_t count);

/* Drop the files of a store from the page cache, after a sync of their file
 * system. Nobody may have them mapped. */
void yard_drop_cache(const char *store);
/* The share of its packs that is in the page cache. */
double yard_cached(const char *store);

#endif
