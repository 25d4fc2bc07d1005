/*
 * The forwarding database.
 *
 * How it works: 1,024 buckets of 8 entries. An address can only be in the
 * bucket that its hash names, so every operation looks at 8 entries, whatever
 * addresses a guest invents; a full bucket gives up its least recently seen
 * entry. An evicted address costs flooding, never a lost frame. A chained or
 * open-addressed table would have let a guest that floods source addresses
 * make each look-up slow.
 *
 * Invariants: an address is in at most one entry; used entries lie in the
 * bucket of their hash; `count` is the number of used entries.
 *
 * Limits: 1,024 * 8 = 8,192 addresses, the figure of Open vSwitch. Age is
 * judged at look-up, so fdb_age() only keeps the count honest.
 *
 * Concurrency: none. Not done: VLAN-aware entries (tags pass transparently).
 */
#include "violin/fdb.h"

#include "common/auto.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define FDB_WAYS    8
#define FDB_BUCKETS (FDB_ENTRIES_MAX / FDB_WAYS)

struct entry {
    uint64_t seen_ns;
    uint64_t mac; /* big-endian value; 0 while unused */
    struct fdb_place place;
};

struct fdb {
    size_t count;
    struct entry entries[FDB_BUCKETS][FDB_WAYS];
};

static uint64_t mac_value(const uint8_t *mac)
{
    uint64_t value = 0;

    for (int i = 0; i < FDB_MAC_SIZE; i++)
        value = value << 8 | mac[i];
    return value;
}

static size_t bucket_of(uint64_t mac)
{
    return XXH64(&mac, sizeof(mac), 0) % FDB_BUCKETS;
}

static bool is_old(const struct entry *e, uint64_t now_ns)
{
    return now_ns > e->seen_ns && now_ns - e->seen_ns > FDB_AGE_NS;
}

static bool same_place(struct fdb_place a, struct fdb_place b)
{
    return a.kind == b.kind && a.index == b.index;
}

struct fdb *fdb_new(void)
{
    return vn_alloc(sizeof(struct fdb));
}

void fdb_free(struct fdb *fdb)
{
    free(fdb);
}

void fdb_learn(struct fdb *fdb, const uint8_t *mac, struct fdb_place place,
               uint64_t now_ns)
{
    uint64_t value = mac_value(mac);
    struct entry *bucket, *victim;

    if (value == 0 || mac[0] & 1)
        return;
    bucket = fdb->entries[bucket_of(value)];
    victim = &bucket[0];
    for (int i = 0; i < FDB_WAYS; i++) {
        struct entry *e = &bucket[i];

        if (e->mac == value) {
            e->place = place;
            e->seen_ns = now_ns;
            return;
        }
        if (victim->mac && (!e->mac || e->seen_ns < victim->seen_ns))
            victim = e;
    }
    fdb->count += victim->mac == 0;
    *victim = (struct entry){now_ns, value, place};
}

bool fdb_find(const struct fdb *fdb, const uint8_t *mac, uint64_t now_ns,
              struct fdb_place *ret)
{
    uint64_t value = mac_value(mac);
    const struct entry *bucket = fdb->entries[bucket_of(value)];

    if (value == 0)
        return false;
    for (int i = 0; i < FDB_WAYS; i++) {
        if (bucket[i].mac == value && !is_old(&bucket[i], now_ns)) {
            *ret = bucket[i].place;
            return true;
        }
    }
    return false;
}

void fdb_forget(struct fdb *fdb, struct fdb_place place)
{
    struct entry *e = &fdb->entries[0][0];

    for (size_t i = 0; i < FDB_ENTRIES_MAX; i++) {
        if (e[i].mac && same_place(e[i].place, place)) {
            e[i].mac = 0;
            fdb->count--;
        }
    }
}

void fdb_age(struct fdb *fdb, uint64_t now_ns)
{
    struct entry *e = &fdb->entries[0][0];

    for (size_t i = 0; i < FDB_ENTRIES_MAX; i++) {
        if (e[i].mac && is_old(&e[i], now_ns)) {
            e[i].mac = 0;
            fdb->count--;
        }
    }
}

size_t fdb_count(const struct fdb *fdb)
{
    return fdb->count;
}

void fdb_check(const struct fdb *fdb)
{
    size_t used = 0;

    for (size_t b = 0; b < FDB_BUCKETS; b++) {
        for (int i = 0; i < FDB_WAYS; i++) {
            uint64_t mac = fdb->entries[b][i].mac;

            if (mac == 0)
                continue;
            used++;
            assert(bucket_of(mac) == b);
            assert((mac >> 40 & 1) == 0);
            for (int j = 0; j < i; j++)
                assert(fdb->entries[b][j].mac != mac);
        }
    }
    assert(used == fdb->count);
}
