#ifndef STORE_INDEX_INTERNAL_H
#define STORE_INDEX_INTERNAL_H

/* Shared by the files index*.c only. */

#include "store/index.h"
#include "store/index_filter.h"

#include <endian.h>
#include <lmdb.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#define INDEX_FORMAT   1u
#define INDEX_MAP_LAST (1ull << 28) /* bytes of address space: the least */

/*
 * The tables. Numbers in keys are big-endian, so that they sort; in values
 * little-endian.
 */
enum index_table {
    TABLE_META,      /* text -> see below */
    TABLE_CHUNKS,    /* chunk id -> place, 16 bytes */
    TABLE_PACKS,     /* pack id -> size, count, condemned */
    TABLE_SNAPSHOTS, /* seq -> chunk id, bytes_logical, name */
    TABLE_NAMES,     /* name -> seq */
    TABLE_IDS,       /* chunk id of the manifest -> seq */
    TABLE_SERIES,    /* series -> highest number it ever had */
    TABLE_LOST,      /* chunk id -> the place it had, when that was found */
    TABLE_COUNT,
};

/* The filter of known chunks: index_known.c. */
struct index_known {
    pthread_mutex_t lock;
    struct index_filter *filter; /* in use; or NULL */
    struct index_filter *next;   /* that somebody makes; or NULL */
    bool added;                  /* by this process */
    atomic_bool hopeless;        /* it could not be made: do not try again */
};

/* Where the table of chunks is in one state of the file. */
struct index_tree {
    size_t txnid; /* of the transaction that made it */
    uint64_t end; /* of the file, page number */
    uint64_t root;
    unsigned depth;
};

/* LMDB's file, mapped once more to be read: index_find.c. */
struct index_map {
    const uint8_t *bytes; /* NULL: not mapped */
    size_t size;
    size_t page_size;
    MDB_dbi main;                  /* the table of tables */
    atomic_uint_fast64_t expected; /* pages that were asked for ahead */
    pthread_mutex_t lock;          /* guards what follows */
    struct index_tree tree;        /* that was asked for last */
};

struct index {
    MDB_env *env;
    MDB_dbi tables[TABLE_COUNT];
    struct index_map map;
    char *dir;
    uint8_t store_id[16];
    const void *mapping; /* LMDB's own of the file; NULL: not known */
    struct index_known known;
    pthread_mutex_t writing;   /* held by the thread that writes */
    _Atomic(MDB_txn *) writer; /* its transaction, or NULL */
    /* The registry of open environments. */
    struct index *next;
    dev_t dev;
    ino_t ino;
    pid_t pid;
    unsigned users;
};

const char *index_table_name(enum index_table table);

/* Map the file of an environment that is open. */
int index_map_open(struct index *index, struct vn_err *err) VN_MUST_USE;
void index_map_close(struct index *index); /* fine if it is not mapped */

/* Raise an LMDB result as a sentence beginning with the index's path. */
int index_fail(const struct index *index, int rc, const char *what,
               struct vn_err *err);

/* ---- index_txn.c ------------------------------------------------------- */

int index_begin(struct index *index, unsigned flags, MDB_txn **ret,
                struct vn_err *err) VN_MUST_USE;
/* Takes the transaction in any case: *txn is NULL afterwards. */
int index_commit(struct index *index, MDB_txn **txn,
                 struct vn_err *err) VN_MUST_USE;

void index_txn_abort(MDB_txn *txn); /* NULL is fine */
VN_AUTO_DEFINE(index_txn, MDB_txn *, index_txn_abort)

static inline void index_cursor_close(MDB_cursor *cursor)
{
    if (cursor)
        mdb_cursor_close(cursor);
}
VN_AUTO_DEFINE(index_cursor, MDB_cursor *, index_cursor_close)

static inline void vn_auto_index_condemned(struct index_condemned *condemned)
{
    index_condemned_done(condemned);
}

static inline MDB_val index_key_text(const char *text)
{
    return (MDB_val){.mv_size = __builtin_strlen(text),
                     .mv_data = (char *)(uintptr_t)text};
}

static inline MDB_val index_key_id(const struct chunk_id *id)
{
    return (MDB_val){.mv_size = sizeof(*id),
                     .mv_data = (uint8_t *)(uintptr_t)id->bytes};
}

/* `space` holds the key. */
static inline MDB_val index_key_u64(uint64_t number, uint64_t *space)
{
    *space = htobe64(number);
    return (MDB_val){.mv_size = sizeof(*space), .mv_data = space};
}

/* Values of one number; VN_E_CORRUPT when a value has another size. */
int index_get_u64(struct index *index, MDB_txn *txn, enum index_table table,
                  MDB_val key, uint64_t otherwise, uint64_t *ret,
                  struct vn_err *err) VN_MUST_USE;
int index_put_u64(struct index *index, MDB_txn *txn, enum index_table table,
                  MDB_val key, uint64_t value, struct vn_err *err) VN_MUST_USE;

#define INDEX_PLACE_SIZE 16u

void index_place_encode(const struct chunk_place *place,
                        uint8_t out[INDEX_PLACE_SIZE]);
int index_place_decode(const struct index *index, const MDB_val *value,
                       struct chunk_place *ret, struct vn_err *err) VN_MUST_USE;

int index_pack_decode(const struct index *index, const MDB_val *key,
                      const MDB_val *value, struct index_pack *ret,
                      struct vn_err *err) VN_MUST_USE;
/* Write a pack's row; `flags` for mdb_put(). MDB_KEYEXIST is VN_E_CORRUPT. */
int index_put_pack(struct index *index, MDB_txn *txn,
                   const struct index_pack *pack, unsigned flags,
                   struct vn_err *err) VN_MUST_USE;
/* 1: there is none. */
int index_get_pack(struct index *index, MDB_txn *txn, uint64_t id,
                   struct index_pack *ret, struct vn_err *err) VN_MUST_USE;
/*
 * Put the cursor of the table of chunks on the row of `id`. If it stands a
 * little before, or where a row was deleted, steps forward do instead of a
 * search from the root. Yields LMDB's code.
 */
int index_seek_near(MDB_cursor *cursor, const struct chunk_id *id,
                    MDB_val *ret);
/* The condemned packs as the transaction sees them. */
int index_get_condemned(struct index *index, MDB_txn *txn,
                        struct index_condemned *ret,
                        struct vn_err *err) VN_MUST_USE;

/* index_find(), but what the filter has not counts as absent; NULL: none. */
int index_find_in(struct index *index, const struct index_filter *filter,
                  const struct chunk_id *ids, size_t count,
                  struct chunk_place *ret, struct vn_err *err) VN_MUST_USE;

/* Set the bits of chunks that are entered; in a write transaction. */
void index_known_add(struct index *index, const struct index_chunk *chunks,
                     size_t count);
/* Nobody uses the index any more; its environment is still open. */
void index_known_close(struct index *index);

/* Enter a snapshot in all tables of snapshots; its name and id are free. */
int index_put_snapshot(struct index *index, MDB_txn *txn,
                       const struct index_snapshot *snapshot,
                       struct vn_err *err) VN_MUST_USE;
int index_snapshot_decode(const struct index *index, const MDB_val *key,
                          const MDB_val *value, struct index_snapshot *ret,
                          struct vn_err *err) VN_MUST_USE;
/* Find the manifest where it lies now, whatever the index said before. */
int index_put_manifest(struct index *index, MDB_txn *txn,
                       const struct index_chunk *chunk,
                       struct vn_err *err) VN_MUST_USE;
/* Enter a chunk as lost; `flags` for mdb_put(). 1: MDB_KEYEXIST. */
int index_put_lost(struct index *index, MDB_txn *txn,
                   const struct index_lost *chunk, unsigned flags,
                   struct vn_err *err) VN_MUST_USE;
int index_raise_series(struct index *index, MDB_txn *txn, const char *series,
                       uint64_t number, struct vn_err *err) VN_MUST_USE;

/* A chunk was entered: it is not lost any more, if it was. */
int index_heal_in(struct index *index, MDB_txn *txn, const struct chunk_id *id,
                  struct vn_err *err) VN_MUST_USE;

/* Rows that one transaction enters or changes: see index_add.c. */
#define INDEX_BATCH 65536u

/* The rows of packs in one of the transactions that enter what lies in them:
 * made in the first, in later ones looked for. */
int index_enter_packs(struct index *index, MDB_txn *txn,
                      const struct index_pack *packs, size_t count, bool first,
                      struct vn_err *err) VN_MUST_USE;

int index_add_in(struct index *index, MDB_txn *txn,
                 const struct index_pack *packs, size_t pack_count,
                 const struct index_chunk *chunks, size_t chunk_count,
                 struct vn_err *err) VN_MUST_USE;

/* ---- index_fault.c ---------------------------------------------------- */

/* A mapping of an index; forget it before it goes. NULL is fine. */
void index_fault_note(const char *dir, const void *begin, uint64_t size);
void index_fault_forget(const void *begin);
/* The directory of the index near whose mapping the address is, or NULL.
 * May be called by a handler of signals. */
const char *index_owns_address(const void *address);
/* Its assertions end as faults do. */
void index_fault_watch(MDB_env *env);

#endif
