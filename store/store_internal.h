#ifndef STORE_STORE_INTERNAL_H
#define STORE_STORE_INTERNAL_H

/* What the modules of store/ share beyond store.h. */

#include "store/engine.h"
#include "store/ident.h"
#include "store/index.h"
#include "store/map_node.h"
#include "store/pack.h"
#include "store/pool.h"
#include "store/store_config.h"

#include <stdatomic.h>

/* All members are constant after opening; index and engine lock themselves. */
struct store {
    char *path;
    int users_fd; /* store_users.c */
    struct store_config config;
    struct ident ident;
    struct index *index;
    struct engine *engine;
    struct pool *pool; /* for what is done leaf by leaf */
};

/* ---- chunk.c, chunk_pages.c: reading chunks ---------------------------- */

/* One page wanted: its id, and where its 4096 bytes go. */
struct chunk_want {
    struct chunk_id id;
    uint8_t *out;
};

#define CHUNK_WANTS_MAX MAP_FANOUT /* wants in one call */

/*
 * Read pages, at most CHUNK_WANTS_MAX. Each is held against its id, that of
 * `ident`'s domain, before anything is returned in its place; after a failure
 * all places are zeroed. VN_E_CORRUPT names chunk and pack.
 */
int chunk_read_pages(struct store *store, const struct ident *ident,
                     const struct chunk_want *wants, size_t count,
                     struct vn_err *err) VN_MUST_USE;

/*
 * The same for pages of a leaf that was held against its own id: a page with
 * the fingerprint that the leaf has for it is whole, else its id decides.
 * `prints` has one for each of the wants. `places`, where not NULL, is what
 * index_find() said a moment ago.
 */
int chunk_read_leaf_pages(struct store *store, const struct ident *ident,
                          const struct chunk_want *wants,
                          const struct fingerprint *const *prints,
                          const struct chunk_place *places, size_t count,
                          struct vn_err *err) VN_MUST_USE;

/* ---- chunk.c ---- of pages only for verify and repair: it asks the pack for
 * the domain first ------------------------------------------------------- */

/* Read one chunk of a kind into `out` of pack_raw_limit(kind) bytes. */
int chunk_read(struct store *store, enum chunk_kind kind,
               const struct chunk_id *id, uint8_t *out, size_t *ret_size,
               struct vn_err *err) VN_MUST_USE;

/* Read and decode a node of a map. */
int chunk_read_node(struct store *store, const struct chunk_id *id,
                    unsigned height, struct map_node *ret,
                    struct vn_err *err) VN_MUST_USE;

/* Decode and check the stored form of a chunk against all 32 bytes of its id;
 * `ident` is of the pack's domain, `out` as for chunk_read(). */
int chunk_check(const struct ident *ident, const struct pack_entry *entry,
                const uint8_t *stored, uint8_t *out,
                struct vn_err *err) VN_MUST_USE;

/*
 * Read a chunk from this place, whatever the index says; as chunk_read(), but
 * VN_E_NOT_FOUND where there is no such pack. *ret_domain, where not NULL, is
 * that of a page, else 0.
 */
int chunk_read_at(struct store *store, enum chunk_kind kind,
                  const struct chunk_id *id, const struct chunk_place *place,
                  uint8_t *out, size_t *ret_size, uint64_t *ret_domain,
                  struct vn_err *err) VN_MUST_USE;

/* Is it damage of what is stored, rather than that it cannot be read now, or
 * not there? */
bool chunk_is_damage(const struct vn_err *why);

/* ---- domain.c --------------------------------------------------------- */

/* Are the objects of the manifest all of the domain that "domain" in its "meta"
 * names, or of none if it names none? VN_E_FORMAT names one that is not. */
int domain_check_manifest(const struct store *store, const json_t *manifest,
                          struct vn_err *err) VN_MUST_USE;

/* Of which domain the pages of a pack are, the likelier first; there is one
 * unless all that tells it is damaged. Fails where that cannot be read now;
 * VN_E_NOT_FOUND: no such pack. */
#define DOMAIN_GUESSES_MAX 2u
int domain_guess(struct store *store, uint64_t pack_id,
                 uint64_t ret[DOMAIN_GUESSES_MAX], size_t *ret_count,
                 struct vn_err *err) VN_MUST_USE;

/* ---- pack_ends.c ------------------------------------------------------ */

/* Header, directory and footer of a pack of `size` bytes, as pack_parse() but
 * for the chunks, which are not read. */
int pack_read_ends(struct engine *engine, uint64_t pack_id, uint64_t size,
                   struct pack *ret, char ret_damage[128],
                   struct vn_err *err) VN_MUST_USE;

/* Fails with ENOSPC and a sentence unless `bytes` more can be stored. */
int store_check_space(struct store *store, uint64_t bytes,
                      struct vn_err *err) VN_MUST_USE;

/* Write one finished pack under a new number; durable when it returns 0. */
int store_put_pack(struct store *store, struct pack_builder *builder,
                   uint64_t pack_id, struct index_pack *ret,
                   struct vn_err *err) VN_MUST_USE;

/* ---- reserve.c -------------------------------------------------------- */

/* Before a delete or a gc: let go of the reserve if the disk is full. */
void store_reserve_release(struct store *store);
/* After a commit or a gc: see to it that there is one, if there is room. */
void store_reserve_renew(struct store *store);
/* ---- store_users.c ---------------------------------------------------- */

/*
 * Who has the store open: a lock on its config.json that ends with the process
 * or with close(). Shared by all who open it; exclusive for who rebuilds the
 * index, when another index takes the place of the one that is open. The
 * descriptor, or -1: VN_E_STATE, and the sentence names a process.
 */
int store_users_enter(const char *path, bool exclusive,
                      struct vn_err *err) VN_MUST_USE;

/* ---- hold.c ----------------------------------------------------------- */

/*
 * What a hold knows beyond being one (store.h): the packs that were condemned
 * when it began. Their chunks are absent for whoever works under it. A hold is
 * used by one thread at a time.
 */
struct store_hold {
    struct store *store;
    struct engine_hold *entry;
    struct index_state begun;
    struct index_condemned condemned;
    /* Roots of snapshots, newest first, as far as they were needed. */
    struct index_snapshot *rows; /* NULL: not listed yet */
    size_t rows_left;
    struct chunk_id *roots;
    size_t root_count;
    size_t root_capacity;
    /* Chunks whose content is lost, by rising id; nearly always none. */
    struct index_lost *lost;
    size_t lost_count;
};

/* Does a look-up under the hold count as found? */
static inline bool store_hold_sees(const struct store_hold *hold,
                                   const struct chunk_place *place)
{
    return place->stored_size > 0 &&
           !index_condemned_has(&hold->condemned, place->pack_id);
}

/*
 * Is the chunk lost? Then it is not to be taken over from a parent but stored
 * anew, which heals it. One that is lost in a repair that runs meanwhile is
 * not known here; the commit is refused then.
 */
bool store_hold_lost(const struct store_hold *hold, const struct chunk_id *id);

/*
 * May all chunks below this root be referred to without looking each up? Only
 * then may an image take over parts of it. False when it cannot be told.
 */
bool store_hold_covers(struct store_hold *hold, const struct map_root *root);

/* ---- tombstone.c ------------------------------------------------------ */

struct tombstone {
    struct chunk_id manifest; /* of the snapshot that was deleted */
    uint64_t pack_id;         /* where that manifest lay, or 0 */
    uint64_t seq;             /* the snapshot's; makes the tombstone unique */
};

void tombstone_encode(const struct tombstone *t,
                      uint8_t out[PACK_TOMBSTONE_SIZE]);
int tombstone_decode(const uint8_t *data, size_t size, struct tombstone *ret,
                     struct vn_err *err) VN_MUST_USE;

/*
 * Delete snapshots, all or none: their tombstones become durable in a pack
 * first, then one transaction takes their rows away. The caller has a hold.
 */
int snapshot_delete_rows(struct store *store, const struct index_snapshot *rows,
                         size_t count, struct vn_err *err) VN_MUST_USE;

/* ---- gc.c -------------------------------------------------------------- */

/* engine_lock(), waiting so long for others to end. A gc takes it exclusively,
 * who wants no gc meanwhile takes it shared. */
struct engine_lock *store_lock(struct store *store, bool exclusive,
                               uint64_t wait_ms,
                               struct vn_err *err) VN_MUST_USE;

/* ---- gc_walk.c -------------------------------------------------------- */

/* Called with ids of chunks that are needed: one node, or the pages of one
 * leaf, in their order, some perhaps repeated. At most MAP_FANOUT. */
typedef int gc_visit_fn(void *context, const struct chunk_id *ids, size_t count,
                        struct vn_err *err);

/* A walk over everything that snapshots need; a node is entered once. */
struct gc_walk {
    struct store *store;
    gc_visit_fn *visit;
    void *context;
    struct chunk_id *seen; /* open addressing; zero: free */
    size_t seen_size;      /* a power of two, or 0 */
    size_t seen_count;
};

void gc_walk_done(struct gc_walk *walk);
/* Everything below the objects of a manifest. VN_E_CORRUPT names the object
 * whose map cannot be read. */
int gc_walk_manifest(struct gc_walk *walk, const json_t *manifest,
                     struct vn_err *err) VN_MUST_USE;

/*
 * Take back from the condemned those packs in which the manifest's chunks lie.
 * `condemned` as index_read_state() gave it. 1: a map is not complete, so that
 * cannot be told, and nothing was done.
 */
int gc_rescue(struct store *store, const json_t *manifest,
              const struct index_condemned *condemned,
              struct vn_err *err) VN_MUST_USE;

/* ---- writer.c --------------------------------------------------------- */

struct store *store_writer_store(const struct store_writer *writer);
struct store_hold *store_writer_hold(struct store_writer *writer);
/* The hashes of the writer's domain. */
const struct ident *store_writer_ident(const struct store_writer *writer);

#define STORE_PUT_MAX 4096u /* chunks in one call of store_writer_put() */

/*
 * Store the chunks that are not known yet: `count` of one kind, `size` bytes
 * each, ids given. *ret_new is how many were stored. After a failure some may
 * have been stored; putting them again is fine. Several threads may call it at
 * a time, but not beside store_writer_flush(). Waits for the disk when packs
 * come faster than it takes them.
 */
int store_writer_put(struct store_writer *writer, enum chunk_kind kind,
                     const struct ident_full *ids, const uint8_t *const *data,
                     size_t size, size_t count, size_t *ret_new,
                     struct vn_err *err) VN_MUST_USE;
/* Add to what store_writer_counts() yields; bytes_stored is the writer's. */
void store_writer_count(struct store_writer *writer,
                        const struct store_counts *more);

/* ---- image_reader.c --------------------------------------------------- */

/* The image's leaf `index` (2 MiB), until the next call; NULL: all zeros. */
int image_reader_leaf(struct image_reader *image, uint64_t index,
                      const struct map_node **ret,
                      struct vn_err *err) VN_MUST_USE;
/* The same, loaded into `space` of the caller: *ret is that or NULL. Several
 * threads may do this with one reader at a time, but nothing else with it. */
int image_reader_load_leaf(struct image_reader *image, uint64_t index,
                           struct map_node *space, const struct map_node **ret,
                           struct vn_err *err) VN_MUST_USE;

/* ---- map_walk.c ------------------------------------------------------- */

/* Looking for what is missing, and what it cost so far. */
struct map_check {
    struct store *store;
    atomic_uint_fast64_t nodes_read;
    atomic_uint_fast64_t pages_looked_up;
};

/*
 * Is every chunk that the image needs in the index? Nodes are read and
 * checked, pages are looked up. VN_E_NOT_FOUND names the missing chunk. What
 * `parent` has at the same places is not looked at: the caller knows that
 * every chunk of that image is there. NULL: there is none.
 */
int map_walk_check(struct map_check *check, const struct map_root *root,
                   const struct map_root *parent,
                   struct vn_err *err) VN_MUST_USE;

/* ---- commit_check.c --------------------------------------------------- */

/*
 * map_walk_check() of all objects, beside those of snapshots that exist.
 * `state` was read from the index before this call; what is found holds for a
 * snapshot that is published while the epoch is still that one.
 */
int commit_check_maps(struct map_check *check, const json_t *manifest,
                      const struct index_state *state,
                      struct vn_err *err) VN_MUST_USE;

/* ---- manifest.c ------------------------------------------------------- */

/* Split "lab@7" into series "lab" and 7. False: the name has no number. */
bool manifest_split_name(const char *name, char series[STORE_NAME_MAX + 1],
                         uint64_t *ret_number);
/* May this be the part of a name before '@'? */
int manifest_check_series(const char *series, struct vn_err *err) VN_MUST_USE;
/* Sizes of all objects together; the manifest was checked. */
uint64_t manifest_bytes(const json_t *manifest);
/* To commit: the format that has what the objects have. */
void manifest_set_format(json_t *manifest);
int manifest_parse_root(const json_t *object, struct map_root *ret,
                        struct vn_err *err) VN_MUST_USE;

#define MANIFEST_NUMBER_MAX 999999999u /* of a snapshot in its series */

/* ---- snapshot.c -------------------------------------------------------- */

/* Remove a pack that was put, unless the index has come to know it. What does
 * not work is left to gc. */
void store_abandon_pack(struct store *store, uint64_t pack_id);

/* Is the snapshot gone since its row was read? False where that cannot be
 * told. */
bool snapshot_was_deleted(struct store *store,
                          const struct index_snapshot *row);

/* The manifest of a row of the index, checked. Caller decrefs. */
json_t *snapshot_load(struct store *store, const struct index_snapshot *row,
                      struct vn_err *err) VN_MUST_USE;

#endif
