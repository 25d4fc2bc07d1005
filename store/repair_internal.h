#ifndef STORE_REPAIR_INTERNAL_H
#define STORE_REPAIR_INTERNAL_H

/* Shared by repair*.c only. */

#include "store/verify_internal.h"

struct repair {
    const char *path;
    const struct store_repair_opts *opts;
    struct store_repair_counts counts;
    struct store_config config;
    bool marks_are_wrong; /* of an index that can be read otherwise */
};

/* Report something that is wrong; see verify_found(). */
void repair_found(struct repair *r, json_t *where, const char *format, ...)
    VN_PRINTF(3, 4);

/* ---- repair_index.c, repair_snapshots.c ------------------------------- */

/* A manifest or tombstone as it was found in a pack. */
struct repair_manifest {
    struct chunk_id id;
    struct chunk_place place;
};

struct repair_tombstone {
    struct chunk_id manifest;
    uint64_t pack_id; /* of the tombstone */
    uint64_t seq;     /* of the snapshot that it deletes */
};

/* An index on its way. */
struct rebuild {
    struct repair *repair;
    struct store store;           /* with the new index */
    struct engine_entry *entries; /* what the engine has, by rising number */
    size_t entry_count;
    size_t entry_capacity;
    struct index_pack *packs; /* waiting to be entered */
    size_t pack_count;
    struct index_chunk *chunks;
    size_t chunk_count;
    size_t chunk_capacity;
    struct repair_manifest *manifests; /* by rising number of their packs */
    size_t manifest_count;
    size_t manifest_capacity;
    struct repair_tombstone *tombstones;
    size_t tombstone_count;
    size_t tombstone_capacity;
    bool damage; /* some pack could not be used */
    /* What the old index knew, if it was sound. */
    struct index_state state;
    struct index_snapshot *old_rows;
    size_t old_count;
    size_t old_capacity;
    struct index_lost *lost;
    size_t lost_count;
    struct index_series *series; /* also marks of the snapshots found */
    size_t series_count;
    size_t series_capacity;
};

/* Room for one more in an array that grows by doubling. */
void *repair_grown(void *array, size_t count, size_t *capacity, size_t size);
void rebuild_add_series(struct rebuild *b, const char *series, uint64_t number);

/* Build the index anew from the packs and put it in place. `sound`: the old one
 * can be read, and is asked for marks. */
int repair_rebuild(struct repair *r, bool sound,
                   struct vn_err *err) VN_MUST_USE;
/* Remove the directory of an index; no error if there is none. */
int repair_remove_index(const char *dir, struct vn_err *err) VN_MUST_USE;
/* Which manifests are snapshots, and their rows; enters them and all marks
 * into the new index, whose chunks are complete. */
int rebuild_snapshots(struct rebuild *b, struct vn_err *err) VN_MUST_USE;

/* ---- repair_mend.c, repair_salvage.c, repair_move.c
 * ------------------------------------- */

/* Verify the store, and repair what is wrong. */
int repair_mend(struct repair *r, struct vn_err *err) VN_MUST_USE;

/* Look for whole copies of lost chunks in all packs, and enter them anew; of
 * manifests, those of snapshots only, whose ids `live` has. */
int repair_salvage(struct repair *r, struct store *store,
                   const struct id_set *live, struct vn_err *err) VN_MUST_USE;

/* Chunks on their way into new packs. Manifests get packs of their own, pages
 * of each domain too. */
struct mover {
    struct store *store;
    struct repair *repair;
    struct ident ident; /* in the builder's domain */
    struct pack_builder *builder;
    bool found_anew; /* lost before: enter them; else turn their rows */
    struct index_move *moves;
    size_t count;
    size_t capacity;
    enum chunk_kind
        kind; /* of what is in the open pack: page for all content */
};

void mover_init(struct mover *m, struct repair *r, struct store *store,
                bool found_anew);
/* Add a chunk, checked, whose row is `chunk`; a page is of that domain, for
 * others it is 0. May write a pack. */
int mover_add(struct mover *m, const struct index_chunk *chunk, uint64_t domain,
              const uint8_t *data, size_t size, struct vn_err *err) VN_MUST_USE;
/* Write what is left. */
int mover_flush(struct mover *m, struct vn_err *err) VN_MUST_USE;
void mover_done(struct mover *m);

#endif
