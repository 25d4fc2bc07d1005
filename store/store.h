#ifndef STORE_STORE_H
#define STORE_STORE_H

/*
 * The store: a deduplicating, content-addressed home for memory and disk
 * images, and the manifests that name what a snapshot consists of.
 *
 *     image   a byte array of any size, cut into 4 KiB pages; a page of zeros
 *             costs nothing, equal pages are stored once
 *     map     the tree of chunk ids of one image; its root names the content
 *     object  a named image of a snapshot, such as "vm/a/ram/pc.ram"
 *     manifest  a JSON document: name, objects with their roots, and metadata
 *             that the store keeps but does not interpret
 *
 * A directory holds one store: `config.json`, `packs/` (immutable runs of
 * compressed chunks, self-describing) and `index/` (LMDB). Several processes
 * may write and read one store at the same time, on one host.
 *
 * Durability: store_commit() publishes a snapshot with one synchronous LMDB
 * transaction, after every pack it needs was fsynced. A process killed at any
 * other moment leaves garbage at most, never a half snapshot.
 * Format: docs/formats/store.md.
 */

#include "common/auto.h"
#include "common/err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define STORE_PAGE_SIZE   4096u
#define STORE_ID_SIZE     16u
#define STORE_NAME_MAX    128u         /* bytes in a snapshot's name */
#define STORE_OBJECT_MAX  (1ull << 46) /* bytes in one image */
#define STORE_OBJECTS_MAX 65536u       /* images in one snapshot */

/* A chunk's identity: the keyed hash of its content, first 16 bytes. */
struct chunk_id {
    uint8_t bytes[STORE_ID_SIZE];
};

/* What names an image: 24 bytes, by value. An all-zero root is all zeros. */
struct map_root {
    struct chunk_id root;
    uint64_t size; /* bytes in the image; the last page may be partial */
};

struct store;
struct store_writer;
struct image_writer;
struct image_reader;

/* What ids are; chosen when a store is made, for good. */
enum store_identity {
    STORE_BLAKE3, /* keyed BLAKE3: what is fastest */
    STORE_SHA256, /* HMAC-SHA-256, where only that is allowed */
};

/* "blake3", "sha256": as in config.json and on the command line. */
const char *store_identity_name(enum store_identity identity);
/* False: there is no identity of that name. */
bool store_identity_parse(const char *name, enum store_identity *ret);

/*
 * Create an empty store in a directory that does not exist or is empty. New
 * secrets are drawn for its hashes. VN_E_EXISTS if a store is there already.
 */
int store_init(const char *path, struct vn_err *err) VN_MUST_USE; /* BLAKE3 */
int store_init_as(const char *path, enum store_identity identity,
                  struct vn_err *err) VN_MUST_USE;

/* Open an existing store. The handle may be shared by threads. NULL on error:
 * VN_E_NOT_FOUND (no store there), VN_E_VERSION (a newer format). */
struct store *store_open(const char *path, struct vn_err *err) VN_MUST_USE;
void store_close(struct store *store); /* NULL is fine; no writers left */
const char *store_path(const struct store *store);

/* ---- writing ---------------------------------------------------------- */

/* Counted over a writer's life. bytes = pages * 4096 except bytes_stored. */
struct store_counts {
    uint64_t bytes_read;      /* given to image_writer_put() */
    uint64_t bytes_zero;      /* of these: zero pages */
    uint64_t bytes_unchanged; /* equal to the same place in the parent */
    uint64_t bytes_known;     /* found elsewhere in the store */
    uint64_t bytes_new;       /* stored by this writer, uncompressed */
    uint64_t bytes_stored;    /* written to packs, compressed, with heads */
};

/*
 * A writer owns one open pack; one thread uses it at a time. Chunks it has
 * put are visible to others after store_writer_flush().
 */
struct store_writer *store_writer_open(struct store *store,
                                       struct vn_err *err) VN_MUST_USE;

/* Make everything put so far durable and findable: packs fsynced, then the
 * index. Blocks on the disk. A failed flush leaves the store sound. */
int store_writer_flush(struct store_writer *writer,
                       struct vn_err *err) VN_MUST_USE;
void store_writer_counts(const struct store_writer *writer,
                         struct store_counts *ret);
/* Drops what was not flushed. NULL is fine. */
void store_writer_free(struct store_writer *writer);

/*
 * Begin an image of `size` bytes. `parent`, where not NULL, is an earlier
 * version of the same image in this store: unchanged pages cost a comparison.
 * A parent that cannot be read is ignored. Pages never put are zeros. The
 * writer must outlive the image.
 */
struct image_writer *image_writer_open(struct store_writer *writer,
                                       uint64_t size,
                                       const struct map_root *parent,
                                       struct vn_err *err) VN_MUST_USE;
/*
 * Put `size` bytes at `offset`: both multiples of 4096, except that the last
 * run of the image may end with the image. Any order; a page put again
 * replaces the one before. The bytes are copied or hashed before it returns.
 */
int image_writer_put(struct image_writer *image, uint64_t offset,
                     const void *data, size_t size,
                     struct vn_err *err) VN_MUST_USE;
/* Write the map and yield its root. The image takes no more pages. */
int image_writer_finish(struct image_writer *image, struct map_root *ret,
                        struct vn_err *err) VN_MUST_USE;
void image_writer_free(struct image_writer *image);

/* A whole small image (device state, frames, a document) in one call. */
int store_put_bytes(struct store_writer *writer, const void *data, size_t size,
                    struct map_root *ret, struct vn_err *err) VN_MUST_USE;

/* ---- reading ---------------------------------------------------------- */

/*
 * Open an image for reading. VN_E_CORRUPT when its map is not there or
 * damaged. One thread uses a reader at a time; readers are cheap (1 MiB at
 * most), so each thread opens its own.
 */
struct image_reader *image_reader_open(struct store *store,
                                       const struct map_root *root,
                                       struct vn_err *err) VN_MUST_USE;
/*
 * Read bytes at `offset`; the range lies inside the image. Every chunk is
 * checked against its id before a byte of it is returned: VN_E_CORRUPT names
 * the chunk and the pack.
 */
int image_reader_read(struct image_reader *image, uint64_t offset, void *data,
                      size_t size, struct vn_err *err) VN_MUST_USE;
/*
 * The first run of pages at or after `offset` that are not all zero: start and
 * size in bytes, page-aligned (the end cut to the image). size 0: none left.
 * A run may be shorter than it could be, never longer.
 */
int image_reader_next_data(struct image_reader *image, uint64_t offset,
                           uint64_t *ret_start, uint64_t *ret_size,
                           struct vn_err *err) VN_MUST_USE;
void image_reader_free(struct image_reader *image);

/* ---- snapshots -------------------------------------------------------- */

/*
 * A manifest is a JSON object:
 *   "format": 1, "id": 32 hex digits (set by commit), "name": "lab@2",
 *   "created": "2026-01-31T12:00:00Z", "kind": "vne" | "files" | ...,
 *   "objects": { "<object name>": {"size": N, "root": "<hex>"}, ... },
 *   "meta": {...}   not interpreted by the store
 */

/* An empty manifest of that name and kind, created now. Caller decrefs. */
json_t *manifest_new(const char *name, const char *kind);
void manifest_add(json_t *manifest, const char *object,
                  const struct map_root *root);
/* VN_E_NOT_FOUND names the object and the snapshot. */
int manifest_object(const json_t *manifest, const char *object,
                    struct map_root *ret, struct vn_err *err) VN_MUST_USE;
/* Structure, limits and names; run by commit, load and import. */
int manifest_check(const json_t *manifest, struct vn_err *err) VN_MUST_USE;

/*
 * Publish: sets "id", checks the manifest and that every object's map is
 * complete in the store (every chunk it needs is in the index), then commits.
 * VN_E_EXISTS when the name is taken. When it returns 0 the snapshot is
 * durable. All writers that put its objects must have been flushed; one of
 * them is kept until here, or a hold, lest gc removes what they put.
 */
int store_commit(struct store *store, json_t *manifest,
                 struct vn_err *err) VN_MUST_USE;

/*
 * The next free name of a series: "lab" -> "lab@1", "lab@2", ... Numbers of
 * deleted snapshots are not used again. Caller frees.
 */
char *store_next_name(struct store *store, const char *series,
                      struct vn_err *err) VN_MUST_USE;

/* Load by name, "NAME@N", or a prefix of the id (8 digits at least). */
json_t *store_load(struct store *store, const char *snapshot,
                   struct vn_err *err) VN_MUST_USE;
/* The newest snapshot of a series, or NULL with VN_E_NOT_FOUND. */
json_t *store_load_latest(struct store *store, const char *series,
                          struct vn_err *err) VN_MUST_USE;
/* An array of manifests, oldest first. One that cannot be read is shown with
 * the kind "damaged", without objects, and why in "meta"."damage". */
json_t *store_list(struct store *store, struct vn_err *err) VN_MUST_USE;
/*
 * Delete a snapshot; what only it needed stays until gc. A tombstone in a pack
 * keeps it deleted should the index be rebuilt from packs. Durable when it
 * returns 0.
 */
int store_delete(struct store *store, const char *snapshot,
                 struct vn_err *err) VN_MUST_USE;

/* ---- comparing -------------------------------------------------------- */

/* A run of bytes that differ: the offset is a multiple of 4096, and so is the
 * end unless it is that of the larger image. -1, with err raised, ends the
 * comparison with that error. */
typedef int store_diff_fn(void *context, uint64_t offset, uint64_t size,
                          struct vn_err *err);

/*
 * Where do two images of this store differ, to a page of 4096 bytes? The
 * shorter one counts as continued with zeros. Runs come by rising offset, none
 * touches another. No page is read, and of the maps only what differs: the cost
 * is that of the difference, whatever the size of the images. A root of zeros
 * with any size stands for no image. Blocks on the disk. VN_E_CORRUPT where a
 * map is damaged, after the runs before it. Who may meet a gc that removes one
 * of the images holds the store since before he loaded their manifests.
 */
int store_diff_object(struct store *store, const struct map_root *a,
                      const struct map_root *b, store_diff_fn *fn,
                      void *context, struct vn_err *err) VN_MUST_USE;

/* ---- retention -------------------------------------------------------- */

/* How many snapshots of a series to keep by each rule; 0: the rule keeps
 * nothing. See store/retention.h. */
struct store_keep {
    unsigned last;
    unsigned hourly;
    unsigned daily;
    unsigned weekly;
    unsigned monthly;
};

/*
 * Delete the snapshots "SERIES@N" that no rule keeps, all of them in one
 * transaction. Yields an array, newest first: {"name", "id", "created",
 * "keep": bool, "reasons": [...]}; caller decrefs. Snapshots whose manifest
 * cannot be read, or has no time, are kept ("unknown"). With dry_run nothing is
 * deleted. VN_E_FORMAT: not a series' name; VN_E_NOT_FOUND: it has no
 * snapshots.
 */
json_t *store_prune(struct store *store, const char *series,
                    const struct store_keep *keep, bool dry_run,
                    struct vn_err *err) VN_MUST_USE;

/* ---- holds ------------------------------------------------------------ */

/*
 * While a hold is open gc removes nothing that the store had when it was
 * opened and that was not given up before, nothing that is put later, and
 * nothing of snapshots that are deleted meanwhile. Every writer has one.
 *
 * Who lets others put a snapshot's objects and commits it himself takes a hold
 * before the first of them opens a writer, and keeps it until the commit is
 * done: their writers are gone by then. Who reads a snapshot for long, and
 * wants to end even if it is deleted, takes one before store_load().
 *
 * Opening takes well under a millisecond and waits for nobody. A hold ends with
 * its process at the latest. gc waits for holds: do not keep one for nothing.
 */
struct store_hold;
struct store_hold *store_hold_open(struct store *store,
                                   struct vn_err *err) VN_MUST_USE;
void store_hold_close(struct store_hold *hold); /* NULL is fine */

/* ---- care ------------------------------------------------------------- */

struct store_stats {
    uint64_t snapshots;
    uint64_t packs;
    uint64_t chunks;
    uint64_t bytes_packs;   /* on disk */
    uint64_t bytes_index;   /* LMDB pages in use */
    uint64_t bytes_logical; /* sizes of all objects of all snapshots */
};
int store_stats(struct store *store, struct store_stats *ret,
                struct vn_err *err) VN_MUST_USE;

/* Called for each finding: one sentence that names pack, chunk, snapshot. */
typedef void store_finding_fn(void *context, const char *sentence);
/* Called now and then: work done of work total; for verify in bytes. */
typedef void store_progress_fn(void *context, uint64_t done, uint64_t total);

struct store_verify_opts {
    const char *snapshot; /* only this one, or NULL for the whole store */
    store_finding_fn *finding;
    store_progress_fn *progress; /* may be NULL */
    void *context;
};
/*
 * Re-read and re-hash every chunk, check packs, index and manifests against
 * each other. Returns the number of findings in *ret_findings; fails only when
 * it could not go on.
 */
int store_verify(struct store *store, const struct store_verify_opts *opts,
                 uint64_t *ret_findings, struct vn_err *err) VN_MUST_USE;

struct store_gc_opts {
    bool dry_run; /* find out, change nothing */
    /* Rewrite a pack when at least this share of its chunks' bytes is dead, 1
     * to 100. 100: remove packs that are wholly dead, rewrite none. */
    unsigned threshold_percent;
    /* How long to wait for those who work with what is to be removed, and for
     * another gc or a verify to end. What cannot be removed then is left to
     * the next gc. */
    uint64_t wait_ms;
    store_progress_fn *progress; /* may be NULL */
    void *context;
};

#define STORE_GC_THRESHOLD 50u /* percent, what the command takes */

struct store_gc_counts {
    uint64_t snapshots;       /* that were looked at */
    uint64_t chunks;          /* in the index before */
    uint64_t chunks_live;     /* of these, needed by snapshots */
    uint64_t chunks_removed;  /* from the index */
    uint64_t packs_removed;   /* all of the following that were packs */
    uint64_t packs_rewritten; /* their live chunks moved to new packs */
    uint64_t packs_new;       /* written for that */
    uint64_t orphans_removed; /* packs and leftovers of writers that died */
    uint64_t packs_waiting;   /* to be removed by a later gc: still in use */
    uint64_t packs_damaged;   /* that should be rewritten and cannot be read */
    uint64_t bytes_removed;   /* of packs and orphans */
    uint64_t bytes_written;   /* of new packs */
    uint64_t holder;          /* a process id that is waited for, or 0 */
};

/*
 * Remove what no snapshot needs and give its space back to the file system.
 * Beside writers, readers and commits of any process; one gc at a time, and
 * not beside a verify of the whole store. May be killed at any moment: the
 * store is sound and the next gc goes on. With dry_run the counts say what
 * would be done. After a failure *ret holds what was done until then.
 * VN_E_STATE: another gc or verify runs. VN_E_CORRUPT: a snapshot cannot be
 * read, so it is not known what it needs; nothing was removed.
 */
int store_gc(struct store *store, const struct store_gc_opts *opts,
             struct store_gc_counts *ret, struct vn_err *err) VN_MUST_USE;

VN_AUTO_DEFINE(store, struct store *, store_close)
VN_AUTO_DEFINE(store_hold, struct store_hold *, store_hold_close)
VN_AUTO_DEFINE(store_writer, struct store_writer *, store_writer_free)
VN_AUTO_DEFINE(image_writer, struct image_writer *, image_writer_free)
VN_AUTO_DEFINE(image_reader, struct image_reader *, image_reader_free)

#endif
