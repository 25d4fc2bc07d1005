#ifndef TESTS_CRASH_STATES_H
#define TESTS_CRASH_STATES_H

/*
 * Which states a crash may leave: of the operations that were done but not
 * synced any may be lost. What is assumed, and what is not: states.c.
 */

#include "crash/oplog.h"
#include "crash/tree.h"

enum state_kind {
    STATE_ALL = 0,  /* nothing is lost: the process died, the machine did not */
    STATE_NONE,     /* all is lost that was not synced */
    STATE_DROP_ONE, /* one operation */
    STATE_ONLY_ONE, /* all but one */
    STATE_PREFIX,   /* all from one on */
    STATE_ORDERED,  /* names: all from one on; of bytes any; a journal */
    STATE_SUBSET,   /* any */
    STATE_TORN,     /* any, and writes in part */
    STATE_KINDS
};

extern const char *const state_kind_names[STATE_KINDS];

/* Syncs that are left out, as if the program had forgotten them. */
enum forget {
    FORGET_PACKS = 1,   /* of packs */
    FORGET_FOLDERS = 2, /* of folders of packs */
    FORGET_INDEX = 4,   /* of data.mdb */
    FORGET_CONFIG = 8,  /* of config.json before its rename */
    FORGET_NAMES = 16   /* of all directories but those folders */
};

struct states;

/* `seed` is what is random; `rounds` states of each random kind a point. */
struct states *states_new(const struct oplog *log, unsigned forget,
                          uint64_t seed, unsigned rounds);
void states_free(struct states *states); /* NULL is fine */

/* The crash comes after the operations before `point`, which only rises. */
void states_move(struct states *states, size_t point);

/* How many states of the kind there are; some may be the same. */
unsigned states_count(const struct states *states, enum state_kind kind);

/* The fates of the operations, for tree_build(), until the next call. */
const uint8_t *states_make(struct states *states, enum state_kind kind,
                           unsigned number, uint64_t *ret_seed);

#endif
