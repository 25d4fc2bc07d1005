#ifndef STORE_INDEX_H
#define STORE_INDEX_H

/*
 * The index: where each chunk lies, which packs and snapshots there are. An
 * LMDB environment; everything about chunks and packs in it can be rebuilt
 * from the packs, and every manifest lies in a pack too.
 *
 * All calls may be made from any thread and block on the disk; calls that
 * write wait for other writers, in this and in other processes. Each call is
 * one transaction where nothing else is said.
 */

#include "store/ident.h"

#include <stddef.h>

struct index;

/* Where a chunk lies. stored_size 0: nowhere. */
struct chunk_place {
    uint64_t pack_id;
    uint32_t offset;
    uint32_t stored_size;
    uint8_t kind;  /* enum chunk_kind */
    uint8_t codec; /* enum chunk_codec */
};

struct index_chunk {
    struct chunk_id id;
    struct chunk_place place;
};

struct index_pack {
    uint64_t id;
    uint64_t size;      /* bytes */
    uint32_t count;     /* chunks in it */
    uint32_t condemned; /* 0, or the epoch in which it was; see below */
};

struct index_snapshot {
    uint64_t seq;       /* order of the commits */
    struct chunk_id id; /* the manifest's chunk */
    uint64_t bytes_logical;
    char name[STORE_NAME_MAX + 1];
};

/* Create the environment in the new directory `dir`. */
int index_init(const char *dir, const uint8_t store_id[16],
               struct vn_err *err) VN_MUST_USE;

/*
 * Open the environment in `dir`. LMDB forbids a process to open one twice, so
 * handles on one directory share it, by reference count; a child after fork
 * gets its own. VN_E_CORRUPT: not there, or of another store.
 */
struct index *index_open(const char *dir, const uint8_t store_id[16],
                         struct vn_err *err) VN_MUST_USE;
void index_close(struct index *index); /* NULL is fine */

/*
 * Can the whole index be read and changed without LMDB leaving its pages? Of a
 * small one index_open() has seen to it. VN_E_CORRUPT: no; the sentence names
 * file, page and cause, and until it is repaired nothing is safe.
 */
int index_check(struct index *index, struct vn_err *err) VN_MUST_USE;

/* ---- chunks and packs ------------------------------------------------- */

/* That many chunks will be looked up, or all (UINT64_MAX). A hint: if it pays
 * the index is read ahead. Once for each handle and size of the index. */
void index_expect(struct index *index, uint64_t count);

/* Look up `count` ids, in any order. */
int index_find(struct index *index, const struct chunk_id *ids, size_t count,
               struct chunk_place *ret, struct vn_err *err) VN_MUST_USE;

/*
 * The same for a writer's question whether a chunk is stored already: misses
 * are answered from a filter (index_known.c) where there is one. It may say of
 * a chunk that is stored that it is not, which costs a second copy; so it is
 * not for those who need the chunk.
 */
int index_find_known(struct index *index, const struct chunk_id *ids,
                     size_t count, struct chunk_place *ret,
                     struct vn_err *err) VN_MUST_USE;

/*
 * Enter packs that are durable, and their chunks, which are sorted by id. A
 * chunk that is known already keeps its old place, unless that is in a pack
 * that is condemned. Many chunks go in several transactions, the packs in the
 * first: after a failure, or a crash, some of the chunks may have been
 * entered, and only when it returned 0 have all. It may be tried again with
 * the same packs. VN_E_CORRUPT: another pack of that number is there;
 * VN_E_STATE: a pack was collected meanwhile, as no hold protects it.
 */
int index_add(struct index *index, const struct index_pack *packs,
              size_t pack_count, const struct index_chunk *chunks,
              size_t chunk_count, struct vn_err *err) VN_MUST_USE;

/* Take `count` pack numbers from the durable mark: never given out again. */
int index_take_pack_ids(struct index *index, uint64_t count,
                        uint64_t *ret_first, struct vn_err *err) VN_MUST_USE;

/* One pack. VN_E_NOT_FOUND. */
int index_find_pack(struct index *index, uint64_t id, struct index_pack *ret,
                    struct vn_err *err) VN_MUST_USE;
/* The next packs with an id >= `from`, in order; at most `max`. */
int index_list_packs(struct index *index, uint64_t from, size_t max,
                     struct index_pack *ret, size_t *ret_count,
                     struct vn_err *err) VN_MUST_USE;
/* The next chunks with an id > *after (NULL: from the first), in order. */
int index_list_chunks(struct index *index, const struct chunk_id *after,
                      size_t max, struct index_chunk *ret, size_t *ret_count,
                      struct vn_err *err) VN_MUST_USE;

/* ---- stepping through tables (index_step.c) --------------------------- */

/*
 * Going through a table, in the order of its keys:
 *
 *     struct index_packs step = {.index = index};
 *     const struct index_pack *pack;
 *     int more;
 *
 *     while ((more = index_next_pack(&step, &pack, err)) > 0)
 *         ...
 *     return more;
 *
 * `from` may be set as well. 1: *ret is the next row, until the next call; 0:
 * there is none; -1: it failed, and the step is of no use any more. No
 * transaction is open between calls, and nothing has to be freed. Of rows
 * that are entered or deleted meanwhile some may be met.
 */
#define INDEX_STEP_PACKS     256u
#define INDEX_STEP_SNAPSHOTS 64u
#define INDEX_STEP_CHUNKS    512u

struct index_packs {
    struct index *index;
    uint64_t from; /* the lowest id to be met */
    size_t next;
    size_t count;
    bool last;
    struct index_pack rows[INDEX_STEP_PACKS];
};
int index_next_pack(struct index_packs *step, const struct index_pack **ret,
                    struct vn_err *err) VN_MUST_USE;

struct index_snapshots {
    struct index *index;
    uint64_t from; /* the lowest seq to be met */
    size_t next;
    size_t count;
    bool last;
    struct index_snapshot rows[INDEX_STEP_SNAPSHOTS];
};
int index_next_snapshot(struct index_snapshots *step,
                        const struct index_snapshot **ret,
                        struct vn_err *err) VN_MUST_USE;

struct index_chunks {
    struct index *index;
    size_t next;
    size_t count;
    bool last;
    struct index_chunk rows[INDEX_STEP_CHUNKS];
};
int index_next_chunk(struct index_chunks *step, const struct index_chunk **ret,
                     struct vn_err *err) VN_MUST_USE;

/* ---- collection ------------------------------------------------------- */

/*
 * A pack is removed in two steps. Condemned: those who begin from then on take
 * its chunks for absent, while all reads still work. Swept: its chunks and
 * then its row are deleted, and after that the engine's pack. The epoch counts
 * the first step. What this guarantees, and why: docs/formats/store.md,
 * "Collection".
 */

#define INDEX_MARK_MAX ((1ull << 48) - 1) /* of numbers of packs; and seqs */

/* The marks of the index at one instant. */
struct index_state {
    uint64_t epoch;     /* of the last condemnation; 0: there was none */
    uint64_t next_pack; /* pack numbers below are given out */
    uint64_t next_seq;  /* snapshots of lower seq are published */
    uint64_t swept;     /* next_pack when chunks were last deleted, or 0 */
};

/* The packs that are condemned, by rising id. */
struct index_condemned {
    struct index_pack *packs; /* owned */
    size_t count;
};

/* The pack's row in the list, or NULL. */
const struct index_pack *
index_condemned_find(const struct index_condemned *condemned, uint64_t pack_id);

static inline bool index_condemned_has(const struct index_condemned *condemned,
                                       uint64_t pack_id)
{
    return condemned->count > 0 && index_condemned_find(condemned, pack_id);
}
void index_condemned_done(struct index_condemned *condemned);

/* State and condemned packs at one instant; ret_condemned may be NULL. */
int index_read_state(struct index *index, struct index_state *ret,
                     struct index_condemned *ret_condemned,
                     struct vn_err *err) VN_MUST_USE;

/*
 * Condemn packs of which no snapshot with a seq below `next_seq` needs
 * anything. VN_E_STATE, and nothing was done, when there are snapshots since:
 * look at them and try again. Packs that are not there are skipped. The epoch
 * goes up by one.
 */
int index_condemn(struct index *index, const uint64_t *pack_ids, size_t count,
                  uint64_t next_seq, struct vn_err *err) VN_MUST_USE;

/* Take packs back from the condemned. Packs that are not there are skipped. */
int index_rescue(struct index *index, const uint64_t *pack_ids, size_t count,
                 struct vn_err *err) VN_MUST_USE;

/* A chunk and where it was copied to. */
struct index_move {
    struct chunk_id id;
    struct chunk_place from;
    struct chunk_place to;
};
/*
 * Enter packs that are durable and hold copies; a chunk that is still where
 * the copy was made from gets its new place. Sorted by id. In bounded
 * transactions: after a failure the packs may be in the index, with some of
 * the chunks turned to them.
 */
int index_move(struct index *index, const struct index_pack *packs,
               size_t pack_count, const struct index_move *moves, size_t count,
               struct vn_err *err) VN_MUST_USE;

/* Delete these chunks, but those that are elsewhere now or whose pack is not
 * condemned. *ret_count is how many were deleted. */
int index_sweep_chunks(struct index *index, const struct index_chunk *chunks,
                       size_t count, size_t *ret_count,
                       struct vn_err *err) VN_MUST_USE;
/*
 * Delete the rows of these packs, but those that are not condemned. No chunk
 * points into them any more. The ids of those deleted go to `ret`, which may
 * be `pack_ids`, and *ret_count.
 */
int index_sweep_packs(struct index *index, const uint64_t *pack_ids,
                      size_t count, uint64_t *ret, size_t *ret_count,
                      struct vn_err *err) VN_MUST_USE;

/* ---- its own space ---------------------------------------------------- */

/*
 * Pack the table of chunks densely, if it is sparse. Many short transactions
 * beside which others work; the rows stay the same. May be killed. *ret_count:
 * chunks that were rewritten, 0 if there was no need.
 */
int index_compact(struct index *index, uint64_t *ret_count,
                  struct vn_err *err) VN_MUST_USE;
/* Give the space of LMDB's free pages back to the file system, as far as no
 * reader needs them and the file system can. *ret_bytes: how much, about. */
void index_punch(struct index *index, uint64_t *ret_bytes);

/* Make the filter of known chunks anew if there is none, it is too small, or
 * `removed` chunks are too many; a large store only. It may be slow. */
void index_known_refresh(struct index *index, uint64_t removed);
/* ---- lost chunks ------------------------------------------------------ */

/*
 * A chunk whose bytes are damaged or gone is moved from `chunks` to `lost` by
 * a repair. Then it counts as absent: whoever puts the same content stores it
 * anew, and index_add() takes it from the lost: it is healed. Only what is not
 * in `chunks` is lost; a row that an older program left there says nothing.
 */
struct index_lost {
    struct chunk_id id;
    struct chunk_place place; /* that it had; stored_size 0: not known */
    uint64_t found_s;         /* when, in seconds since 1970 */
    bool forget; /* index_lose(): only delete the row, nobody needs it */
};

/* All that is lost, by rising id. Caller frees; NULL where there is none. */
int index_list_lost(struct index *index, struct index_lost **ret,
                    size_t *ret_count, struct vn_err *err) VN_MUST_USE;

/*
 * Give chunks up, all or none: their rows go, and they are lost from now on
 * unless they are to be forgotten. One that lies elsewhere than `place`
 * says by now, or is lost already, is left alone. Raises the epoch, so that a
 * commit that has looked already looks once more. *ret_count is how many were
 * given up.
 */
int index_lose(struct index *index, const struct index_lost *chunks,
               size_t count, size_t *ret_count, struct vn_err *err) VN_MUST_USE;

/*
 * Forget that chunks are lost which no snapshot with a seq below `next_seq`
 * needs. VN_E_STATE, and nothing was done, when there are snapshots since.
 * Counts as a deletion of chunks (index_state.swept): a parent that no snapshot
 * has may need them. Ids that are not lost are skipped.
 */
int index_forget_lost(struct index *index, const struct chunk_id *ids,
                      size_t count, uint64_t next_seq,
                      struct vn_err *err) VN_MUST_USE;

/* Forget packs into which no row points any more, whatever is in them. Those
 * that are not there are skipped; VN_E_STATE and nothing done, if a row does.
 */
int index_drop_packs(struct index *index, const uint64_t *pack_ids,
                     size_t count, struct vn_err *err) VN_MUST_USE;

/* ---- snapshots -------------------------------------------------------- */

/*
 * The one transaction that makes a snapshot exist. Sets snapshot->seq; `pack`
 * and `chunk` hold its manifest, which is found there from then on. `series`
 * and `number` raise the series' mark; series may be NULL. `epoch` is that of
 * the index when it was checked that every chunk of the snapshot is in a pack
 * that is not condemned. VN_E_EXISTS when the name is taken; VN_E_STATE when
 * packs were condemned since `epoch`: check once more.
 */
int index_publish(struct index *index, struct index_snapshot *snapshot,
                  const char *series, uint64_t number, uint64_t epoch,
                  const struct index_pack *pack,
                  const struct index_chunk *chunk,
                  struct vn_err *err) VN_MUST_USE;

/* By name, or else by a prefix of the id in hex, 8 digits at least.
 * VN_E_NOT_FOUND, also where the prefix fits several. */
int index_find_snapshot(struct index *index, const char *text,
                        struct index_snapshot *ret,
                        struct vn_err *err) VN_MUST_USE;
/* The newest whose name is `series`@N. */
int index_find_latest(struct index *index, const char *series,
                      struct index_snapshot *ret,
                      struct vn_err *err) VN_MUST_USE;
/* The next snapshots with seq >= `from`, oldest first; at most `max`. */
int index_list_snapshots(struct index *index, uint64_t from, size_t max,
                         struct index_snapshot *ret, size_t *ret_count,
                         struct vn_err *err) VN_MUST_USE;
/*
 * Forget snapshots, all or none; enter the pack with their tombstones, one
 * chunk each. VN_E_NOT_FOUND when one of them is not there (any more).
 */
int index_delete_snapshots(struct index *index,
                           const struct index_snapshot *rows, size_t count,
                           const struct index_pack *pack,
                           const struct index_chunk *tombstones,
                           struct vn_err *err) VN_MUST_USE;
/* The number after the highest that the series ever had: 1 at first. */
int index_series_next(struct index *index, const char *series, uint64_t *ret,
                      struct vn_err *err) VN_MUST_USE;

/* Do the tables of snapshots agree? *ret_problem: "" or a sentence. */
int index_check_snapshots(struct index *index, char ret_problem[256],
                          struct vn_err *err) VN_MUST_USE;

/* Do the marks cover the rows (index_marks.c)? *ret_problem: "" or a sentence.
 */
int index_check_marks(struct index *index, char ret_problem[256],
                      struct vn_err *err) VN_MUST_USE;

/* Write the tables of names and ids anew from that of snapshots. VN_E_CORRUPT:
 * two snapshots have one name or id. */
int index_mend_snapshots(struct index *index, struct vn_err *err) VN_MUST_USE;

/* ---- rebuilding ------------------------------------------------------- */

/* Called for each series with its mark: the highest number it ever had. */
typedef void index_series_fn(void *context, const char *series,
                             uint64_t number);
int index_list_series(struct index *index, index_series_fn *fn, void *context,
                      struct vn_err *err) VN_MUST_USE;

struct index_series {
    char name[STORE_NAME_MAX + 1];
    uint64_t number;
};

/* What goes into a new index beside packs and chunks (index_add()). */
struct index_fill {
    const struct index_snapshot *snapshots; /* with their seq */
    size_t snapshot_count;
    const struct index_chunk *manifests; /* theirs, where they lie now */
    const struct index_series *series;
    size_t series_count;
    const struct index_lost *lost;
    size_t lost_count;
    struct index_state state;
};
int index_fill(struct index *index, const struct index_fill *fill,
               struct vn_err *err) VN_MUST_USE;

struct index_stats {
    uint64_t snapshots;
    uint64_t packs;
    uint64_t chunks;
    uint64_t bytes;      /* LMDB pages in use */
    uint64_t bytes_disk; /* what the file takes, free pages too */
};
int index_stats(struct index *index, struct index_stats *ret,
                struct vn_err *err) VN_MUST_USE;

#endif
