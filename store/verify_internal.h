#ifndef STORE_VERIFY_INTERNAL_H
#define STORE_VERIFY_INTERNAL_H

/* Shared by verify*.c and repair*.c only. */

#include "store/store_internal.h"

/* A set of chunk ids: open addressing, grows; the zero id is never in it. */
struct id_set {
    struct chunk_id *slots;
    size_t size; /* a power of two, or 0 */
    size_t count;
};

void id_set_add(struct id_set *set, const struct chunk_id *id);
bool id_set_has(const struct id_set *set, const struct chunk_id *id);
void id_set_done(struct id_set *set);

/* What verify found out about a pack. */
struct verify_pack {
    uint64_t id;
    uint64_t matched; /* rows of the index that its directory confirms */
    uint64_t indexed; /* rows of the index that point into it */
    uint64_t unread;  /* of those that were tried one by one: bad ones */
    bool unusable;    /* no directory: its rows are tried one by one */
    bool gone;        /* no file, or one that is cut */
    bool damaged;     /* something was found about it, or in it */
    size_t bad;       /* if gone: number + 1 of its finding, or 0 */
    bool read;        /* looked at to the end */
    bool before;      /* found well by the run that goes on: not read */
};

/* ---- verify_bad.c: chunks that cannot be read, and who needs them ----- */

/* Where an id points in the table of bad chunks. */
struct verify_slot {
    struct chunk_id id;
    struct chunk_place place; /* in the index; stored_size 0: it has none */
    size_t bad;               /* number of its struct verify_bad */
};

/* One finding to be: a chunk, or all chunks of a pack that is gone. */
struct verify_bad {
    struct chunk_id id; /* the first */
    uint64_t pack_id;   /* 0: none */
    uint64_t chunks;
    bool is_pack;
    char reason[VN_ERR_MSG_SIZE];
    size_t last_use;  /* number + 1 of the newest use; 0: none */
    size_t use_count; /* ranges kept */
    uint64_t dropped; /* pages whose ranges were not kept */
};

/* A range of pages of one object that needs it. */
struct verify_use {
    size_t object; /* number of the object in verify->objects */
    uint64_t first;
    uint64_t count;  /* 0: the snapshot's manifest */
    size_t previous; /* as last_use */
};

struct verify_object {
    char *snapshot;
    char *object; /* "": the manifest itself */
};

struct verify_table {
    struct verify_slot *slots; /* open addressing */
    size_t size;
    size_t count;
    struct verify_bad *bads;
    size_t bad_count;
    size_t bad_capacity;
    struct verify_use *uses;
    size_t use_count;
    size_t use_capacity;
    struct verify_object *objects;
    size_t object_count;
    size_t object_capacity;
};

/* ---- the whole -------------------------------------------------------- */

struct verify_state; /* verify_state.c */

struct verify {
    struct store *store;
    const struct store_verify_opts *opts;
    uint64_t findings;
    uint64_t done; /* bytes, for progress */
    uint64_t total;
    struct store_verify_counts counts;
    struct verify_pack *packs; /* by rising id */
    size_t pack_count;
    size_t pack_capacity;
    uint64_t position; /* packs up to this one were looked at */
    struct verify_table table;
    struct id_set good; /* nodes below which all is well */
    struct index_lost *lost;
    size_t lost_count;
    struct verify_state *state; /* NULL: nothing is noted down */
    bool mend_names;            /* the tables of snapshots do not agree */
    bool newer; /* packs or manifests of a format that is not known here */
};

/* The whole store, without locks; verify_done() in any case. */
int verify_run(struct verify *v, struct vn_err *err) VN_MUST_USE;
void verify_done(struct verify *v);

/* Report a finding. `where`, which is taken over, has the keys beyond the
 * sentence; NULL: one about the index. */
void verify_found(struct verify *v, json_t *where, const char *format, ...)
    VN_PRINTF(3, 4);
/* Keys for verify_found(): kind, and the pack unless it is 0. */
json_t *verify_where(const char *kind, uint64_t pack_id);
void verify_progress(struct verify *v, uint64_t bytes);

/* The bad chunk of that id; NULL: it is not bad as far as is known. */
const struct verify_slot *verify_bad_find(const struct verify *v,
                                          const struct chunk_id *id);
/* Enter a chunk that cannot be read; if it is entered already that stays. */
const struct verify_slot *verify_bad_add(struct verify *v,
                                         const struct chunk_id *id,
                                         const struct chunk_place *place,
                                         const char *reason);
/* It is needed by `count` pages from `first` on; 0 and "": by the snapshot as
 * its manifest. */
void verify_bad_use(struct verify *v, const struct verify_slot *slot,
                    const char *snapshot, const char *object, uint64_t first,
                    uint64_t count);
/* One finding each. */
void verify_bad_report(struct verify *v);
void verify_bad_done(struct verify_table *table);

struct verify_pack *verify_pack_of(struct verify *v, uint64_t pack_id);
/* Every pack, chunk by chunk, against the index, and the reverse. */
int verify_packs(struct verify *v, struct vn_err *err) VN_MUST_USE;

/*
 * One object: nodes are read; pages are looked up in what verify_packs()
 * learnt, or, with `deep`, read as well.
 */
int verify_map(struct verify *v, const char *snapshot, const char *object,
               const struct map_root *root, bool deep,
               struct vn_err *err) VN_MUST_USE;

/* ---- verify_pack.c ---------------------------------------------------- */

/* Something wrong about a pack, or with a chunk in it. */
struct pack_note {
    char *text; /* owned */
    bool is_chunk;
    struct chunk_id id;       /* of the chunk, as the next */
    struct chunk_place place; /* in the index; stored_size 0: it has none */
};

/* What was found out about a pack; the first four as in struct verify_pack. */
struct pack_report {
    uint64_t matched;
    bool unusable;
    bool gone;
    bool before;
    bool newer;      /* unusable, as its format is not known here */
    uint64_t chunks; /* looked at */
    struct pack_note *notes;
    size_t note_count;
    size_t note_capacity;
    bool failed; /* the index could not be asked */
    struct vn_err err;
};

/* Look at a pack, or with `fast` at its ends. Changes *ret only, which was zero
 * and for which pack_report_done() is due; may run in any thread. */
void verify_pack(const struct verify *v, const struct index_pack *row,
                 struct pack_report *ret);
void pack_report_done(struct pack_report *report);

/* ---- verify_chunks.c -------------------------------------------------- */

/* ret_whole[i]: is the i-th chunk of the pack, whose bytes are `data`, what
 * its id says? Touches nothing else; may run in any thread. */
void verify_chunks(const struct store *store, const struct pack *pack,
                   const uint8_t *data, bool *ret_whole);

/* ---- verify_state.c --------------------------------------------------- */

/* Begin to note down, or, with opts->resume, read what was noted first. */
int verify_state_open(struct verify *v, struct vn_err *err) VN_MUST_USE;
/* A pack found well by the run that goes on? Then *ret_matched. */
bool verify_state_has(const struct verify_state *state, uint64_t pack_id,
                      uint64_t *ret_matched);
/* Note down how far it is, if the last time was long enough ago. */
void verify_state_note(struct verify *v);
/* `ended`: remove the file; else how far it is stays there. */
void verify_state_close(struct verify *v, bool ended);
/* Forget a run that could go on: packs are changed. */
void verify_state_remove(const char *store_path);

#endif
