#ifndef VIOLIN_FDB_H
#define VIOLIN_FDB_H

/*
 * The forwarding database: which port or peer a MAC address was last seen at.
 *
 * At most FDB_ENTRIES_MAX addresses, forgotten FDB_AGE_NS after they were last
 * seen. Nothing is allocated after fdb_new(). Not thread-safe.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FDB_ENTRIES_MAX 8192
#define FDB_AGE_NS      (300ull * 1000000000ull)
#define FDB_MAC_SIZE    6

enum fdb_kind { FDB_PORT, FDB_PEER };

struct fdb_place {
    enum fdb_kind kind;
    unsigned index;
};

struct fdb;

struct fdb *fdb_new(void);
void fdb_free(struct fdb *fdb);

/*
 * `mac` was seen as a source at `place`. Group addresses and all zeros are
 * ignored. An address that moved is found at its new place from now on.
 */
void fdb_learn(struct fdb *fdb, const uint8_t *mac, struct fdb_place place,
               uint64_t now_ns);

/* Whether the place of `mac` is known and fresh; fills *ret then. */
bool fdb_find(const struct fdb *fdb, const uint8_t *mac, uint64_t now_ns,
              struct fdb_place *ret);

/* Forget every address seen at `place`. */
void fdb_forget(struct fdb *fdb, struct fdb_place place);

/* Drop what is too old. */
void fdb_age(struct fdb *fdb, uint64_t now_ns);

size_t fdb_count(const struct fdb *fdb);
/* Asserts the structure's invariants. */
void fdb_check(const struct fdb *fdb);

#endif
