/*
 * The oracle's disk: are memory and disk of one instant?
 *
 * Record n of 4 KiB goes to slot n % SLOTS of the first disk, O_DIRECT and
 * O_SYNC, so it is on the disk when pwrite() returns. Memory keeps n and the
 * hash of each slot's newest record. Before each record
 *
 *   - the newest records and one older one are read back and must be what
 *     memory remembers: a disk image older than memory fails here;
 *   - the slot to be written next must still hold its old record: a disk
 *     image newer than memory fails here.
 *
 * At a snapshot a write may be under way; the hypervisor completes it before
 * it stops the disk, and pwrite() returns after the restore.
 */

#include "oracle.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RECORD_WORDS 512u
#define RECORD_SIZE  (RECORD_WORDS * 8)
#define SLOTS        1024u
#define NEWEST       2u /* records read back each time */
#define NS_PER_S     1000000000ull
#define WIPE_SIZE    (1u << 20)

static uint64_t hashes[SLOTS]; /* 0: nothing written there yet */

static uint64_t record_hash(const uint64_t *record)
{
    uint64_t hash = 0;

    for (unsigned i = 0; i < RECORD_WORDS; i++)
        hash = oracle_mix(hash, record[i]);
    return hash | 1; /* never the 0 of an empty slot */
}

static bool all_zero(const uint64_t *record)
{
    for (unsigned i = 0; i < RECORD_WORDS; i++)
        if (record[i])
            return false;
    return true;
}

static void check_slot(int fd, uint64_t *buffer, uint64_t slot,
                       uint64_t completed)
{
    if (pread(fd, buffer, RECORD_SIZE, (off_t)(slot * RECORD_SIZE)) !=
        RECORD_SIZE) {
        oracle_violation(&oracle_counts.disk_bad, "disk slot %lu: read: %s",
                         slot, strerror(errno));
        return;
    }
    if (hashes[slot] ? record_hash(buffer) == hashes[slot] : all_zero(buffer))
        return;
    oracle_violation(&oracle_counts.disk_bad,
                     "disk slot %lu holds record %lu, memory's newest is %lu",
                     slot, buffer[1], completed);
}

static void check(int fd, uint64_t *buffer, uint64_t completed)
{
    for (uint64_t back = 0; back < NEWEST && back < completed; back++)
        check_slot(fd, buffer, (completed - 1 - back) % SLOTS, completed - 1);
    check_slot(fd, buffer, completed % SLOTS, completed - 1);
    check_slot(fd, buffer, oracle_mix(completed, 0) % SLOTS, completed - 1);
}

static void fill(uint64_t *record, uint64_t n)
{
    memcpy(record, "ORACLEDK", 8);
    record[1] = n;
    record[2] = oracle_counts.memory_generation;
    record[3] = oracle_opts.id;
    for (unsigned i = 4; i < RECORD_WORDS; i++)
        record[i] = oracle_mix(n ^ (uint64_t)oracle_opts.id << 48, i);
}

/* Empty every slot, so that a disk that was used before does no harm. */
static int open_wiped(void)
{
    void *zeros = NULL;
    int fd = -1;

    for (unsigned i = 0; i < 200 && fd < 0; i++) {
        fd = open(i % 2 ? "/dev/xvda" : "/dev/vda",
                  O_RDWR | O_DIRECT | O_SYNC | O_CLOEXEC);
        if (fd < 0 && i % 2)
            usleep(50000);
    }
    if (fd < 0 || posix_memalign(&zeros, RECORD_SIZE, WIPE_SIZE))
        return -1;
    memset(zeros, 0, WIPE_SIZE);
    for (unsigned at = 0; at < SLOTS * RECORD_SIZE; at += WIPE_SIZE)
        if (pwrite(fd, zeros, WIPE_SIZE, at) != WIPE_SIZE)
            return -1;
    free(zeros);
    return fd;
}

void *oracle_disk_run(void *unused)
{
    static uint64_t buffer[RECORD_WORDS] __attribute__((aligned(4096)));
    uint64_t next = oracle_now_ns();
    int fd = open_wiped();

    (void)unused;
    if (fd < 0) {
        oracle_violation(&oracle_counts.disk_bad, "no disk: %s",
                         strerror(errno));
        return NULL;
    }
    for (uint64_t n = 0; oracle_opts.records_per_s; n++) {
        check(fd, buffer, n);
        fill(buffer, n);
        if (pwrite(fd, buffer, RECORD_SIZE, (off_t)(n % SLOTS * RECORD_SIZE)) !=
            RECORD_SIZE) {
            oracle_violation(&oracle_counts.disk_bad, "record %lu: %s", n,
                             strerror(errno));
            return NULL;
        }
        hashes[n % SLOTS] = record_hash(buffer);
        oracle_counts.disk_records = n + 1;
        next += NS_PER_S / oracle_opts.records_per_s;
        if (next + NS_PER_S < oracle_now_ns())
            next = oracle_now_ns();
        oracle_sleep_until(next);
    }
    return NULL;
}
