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
#include "common/view.h"

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

/* What names an image: 32 bytes, by value. An all-zero root is all zeros. */
struct map_root {
    struct chunk_id root;
    uint64_t size;   /* bytes in the image; the last page may be partial */
    uint64_t domain; /* tag of the domain of its pages; 0: the store's */
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
 * VN_E_NOT_FOUND (no store there), VN_E_VERSION (a newer format), VN_E_CORRUPT
 * (its index is damaged: store_repair()). */
struct store *store_open(const char *path, struct vn_err *err) VN_MUST_USE;
void store_close(struct store *store); /* NULL is fine; no writers left */

/*
 * For programs, once, before threads: damage to an index that is too large to
 * be checked at each opening, or that comes later, can make LMDB fault. Then
 * the process ends with this status and the sentence "PROGRAM: the index 'PATH'
 * is damaged: run 'vnstore repair'" on its standard error. Takes SIGSEGV and
 * SIGBUS; faults elsewhere do what they did before.
 */
void store_catch_index_faults(const char *program, int status);
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
 * A writer owns one open pack; one thread uses it at a time. What is put in
 * long runs (1 MiB) is worked on by all cores, see VNSTORE_THREADS, and full
 * packs are written behind the caller's back: an error of the disk may be
 * reported by a later call, by the flush at last. Chunks it has put are visible
 * to others after store_writer_flush().
 */
struct store_writer *store_writer_open(struct store *store,
                                       struct vn_err *err) VN_MUST_USE;
/* The same for a domain: see below. VN_E_FORMAT: a wrong name. */
struct store_writer *store_writer_open_in(struct store *store,
                                          const char *domain,
                                          struct vn_err *err) VN_MUST_USE;

/*
 * Domains. Equal pages are stored once within a domain, and once more in each
 * other one: neither counts nor sizes of one tenant's snapshots say what
 * another's have. A writer puts pages into one domain. Each belongs to the
 * store's own, as long as nobody names one; a domain needs no creating. The
 * name is 1 to STORE_DOMAIN_MAX of A-Z a-z 0-9 . _ -, neither '-' nor '.'
 * first. A snapshot's objects are all of one domain, which "domain" in "meta"
 * names.
 */
#define STORE_DOMAIN_MAX 64u

int store_domain_check(const char *name, struct vn_err *err) VN_MUST_USE;
/* What stands for the name in maps' roots and packs; NULL: 0. VN_E_FORMAT. */
int store_domain_tag(const struct store *store, const char *name, uint64_t *ret,
                     struct vn_err *err) VN_MUST_USE;
/* What "domain" in its "meta" says, borrowed, or NULL; and setting that, NULL:
 * taking it away. */
const char *manifest_domain(const json_t *manifest);
void manifest_set_domain(json_t *manifest, const char *name);

/* Make everything put so far durable and findable: packs fsynced, then the
 * index. Blocks on the disk. A failed flush leaves the store sound. */
int store_writer_flush(struct store_writer *writer,
                       struct vn_err *err) VN_MUST_USE;
void store_writer_counts(struct store_writer *writer, struct store_counts *ret);
/* Drops what was not flushed. NULL is fine. */
void store_writer_free(struct store_writer *writer);

/*
 * Begin an image of `size` bytes. `parent`, where not NULL, is an earlier
 * version of the same image in this store: unchanged pages cost a comparison.
 * A parent that cannot be read, or is of another domain, is ignored. Pages
 * never put are zeros. The writer must outlive the image.
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
/* Fill `data` with the bytes of an image from `offset` on. Called by several
 * threads at a time. */
typedef int image_source_fn(void *context, uint64_t offset, void *data,
                            size_t size, struct vn_err *err);
/*
 * The same as image_writer_put() for bytes that a source yields, in pieces of
 * 1 MiB at most, in no certain order. Best in long runs: 64 MiB, say. After a
 * failure, which may be the source's, the image takes no more pages.
 *
 * `view`, where not NULL, shows the same `size` bytes: the source is then asked
 * only for pages that the view does not show to be zeros or as the parent has
 * them. Both may change meanwhile: of each page a state is kept that it had.
 */
int image_writer_put_from(struct image_writer *image, uint64_t offset,
                          uint64_t size, image_source_fn *source, void *context,
                          const struct file_view *view,
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
 * damaged. One thread uses a reader at a time; readers are cheap (16 MiB at
 * most, as used), so each thread opens its own.
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
/* Take bytes of an image, whole pages but for the end of what was asked for.
 * Called by several threads at a time. */
typedef int image_sink_fn(void *context, uint64_t offset, const void *data,
                          size_t size, struct vn_err *err);
/*
 * The same as image_reader_read(), handed to a sink in pieces of 2 MiB at most
 * and in no certain order; pages of zeros are left out. `offset` is a multiple
 * of 4096. Best in long runs: 64 MiB, say.
 */
int image_reader_read_to(struct image_reader *image, uint64_t offset,
                         uint64_t size, image_sink_fn *sink, void *context,
                         struct vn_err *err) VN_MUST_USE;
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
 *   "objects": { "<object name>": {"size": N, "root": "<hex>",
 *                                  "domain": "<hex>" unless it is 0}, ... },
 *   "meta": {...}   not interpreted by the store, but for "domain"
 */

/* An empty manifest of that name and kind, created now. Caller decrefs. */
json_t *manifest_new(const char *name, const char *kind);
void manifest_add(json_t *manifest, const char *object,
                  const struct map_root *root);
/* VN_E_NOT_FOUND names the object and the snapshot. */
int manifest_object(const json_t *manifest, const char *object,
                    struct map_root *ret, struct vn_err *err) VN_MUST_USE;
/*
 * An object that is probably an earlier version of `object`, of `size` bytes:
 * that of the same name, else, as images get new names ("disk-2026-01-31.img"),
 * that of the same size whose name begins most like it. Good as a parent, which
 * is a hint only.
 */
bool manifest_find_like(const json_t *manifest, const char *object,
                        uint64_t size, struct map_root *ret);
/* Structure, limits and names; run by commit, load and import. */
int manifest_check(const json_t *manifest, struct vn_err *err) VN_MUST_USE;

/*
 * Publish: sets "id" and "format", checks the manifest and that every object's
 * map is complete in the store (every chunk it needs is in the index), then
 * commits. VN_E_EXISTS when the name is taken. When it returns 0 the snapshot
 * is durable. All writers that put its objects must have been flushed; one of
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
    uint64_t bytes_packs;      /* on disk */
    uint64_t bytes_index;      /* LMDB pages in use */
    uint64_t bytes_index_disk; /* what its file takes */
    uint64_t bytes_logical;    /* sizes of all objects of all snapshots */
};
int store_stats(struct store *store, struct store_stats *ret,
                struct vn_err *err) VN_MUST_USE;

/* Called for each finding: one sentence that names pack, chunk, snapshot. */
typedef void store_finding_fn(void *context, const char *sentence);
/* Called now and then: work done of work total; for verify in bytes. */
typedef void store_progress_fn(void *context, uint64_t done, uint64_t total);

/*
 * The same for each finding as an object, borrowed:
 *   "kind"      "pack", "chunk", "object", "snapshot" or "index"
 *   "sentence"  as above
 * and, where it is about such a thing, "pack" and "chunk" (hex), "chunks" (how
 * many, where it is all that was in a pack), "snapshot", "object", "vm";
 * "uses" of a chunk: an array of {"snapshot", "object", "vm", "page_count",
 * "pages": [[first, last], ...]}, numbers of pages from 0, at most
 * STORE_VERIFY_RANGES_MAX ranges for one chunk.
 */
typedef void store_detail_fn(void *context, const json_t *finding);

#define STORE_VERIFY_RANGES_MAX 4096u

struct store_verify_counts {
    uint64_t packs;
    uint64_t packs_before; /* of these, found well by the run that goes on */
    uint64_t chunks;       /* looked at in packs, by this run */
    uint64_t snapshots;
    uint64_t objects;
    uint64_t bad;     /* chunks that cannot be read where the index says */
    uint64_t lost;    /* chunks known to be lost, needed or not */
    uint64_t began_s; /* in seconds since 1970; of the first run */
};

struct store_verify_opts {
    const char *snapshot;      /* only this one, or NULL for the whole store */
    bool fast;                 /* read no pages: structure and checksums only */
    bool resume;               /* go on where a run that was killed ended */
    uint64_t state_ms;         /* how often that is noted down; 0: 5000 */
    store_finding_fn *finding; /* may be NULL, as all that follow */
    store_detail_fn *detail;   /* called beside `finding` */
    store_progress_fn *progress;
    void *context;                      /* of these three */
    struct store_verify_counts *counts; /* filled in at the end */
};
/*
 * Re-read and re-hash every chunk, check packs, index and manifests against
 * each other. Returns the number of findings in *ret_findings; fails only when
 * it could not go on, as with VN_E_CORRUPT where the index is damaged. `fast`
 * reads headers and directories of packs, maps and manifests, but no pages.
 *
 * A run over the whole store that is not fast keeps a file "verify.state" in
 * the store until it ends. With `resume` packs that it names as well are not
 * read again; VN_E_NOT_FOUND: there is nothing to go on with.
 */
int store_verify(struct store *store, const struct store_verify_opts *opts,
                 uint64_t *ret_findings, struct vn_err *err) VN_MUST_USE;

struct store_repair_opts {
    bool dry_run;              /* find out, change nothing */
    bool rebuild_index;        /* from the packs, even if the index is sound */
    uint64_t wait_ms;          /* for a gc or verify to end */
    store_finding_fn *finding; /* what is wrong; may be NULL, as all below */
    store_detail_fn *detail;   /* the same, as store_verify() has it */
    store_progress_fn *progress;
    void *context;
};

struct store_repair_counts {
    uint64_t findings;
    bool rebuilt; /* the index: anew, from the packs; with dry_run: would be */
    /* Of rebuilding: */
    uint64_t packs_read;
    uint64_t packs_unusable;    /* no directory: nothing in them is known */
    uint64_t snapshots;         /* found */
    uint64_t snapshots_deleted; /* manifests that tombstones delete */
    uint64_t snapshots_dropped; /* of interrupted commits, or unreadable */
    /* Of the store with a sound index: */
    uint64_t packs_damaged; /* taken out of the index; gc removes them */
    uint64_t packs_new;
    uint64_t chunks_moved;  /* still readable, out of damaged packs */
    uint64_t chunks_lost;   /* given up */
    uint64_t chunks_healed; /* lost, and found whole in another pack */
    uint64_t lost;          /* chunks lost now, all together */
};

/*
 * Repair the store at `path`. Does not need to be opened by store_open().
 *
 * An index that is not there, damaged, or wrong in itself, or any with
 * rebuild_index, is built anew from the packs; the old one stays as
 * "index.old-N". That needs a store that nobody else has open.
 *
 * Then everything is verified, beside others, but without a gc. What can be
 * read in damaged packs is moved to new ones; chunks that cannot be read are
 * looked for in all packs, and those that are nowhere become lost: absent, so
 * that they are stored again by whoever has them (the next snapshot of the same
 * content), which heals the snapshots that need them. No snapshot is removed.
 *
 * Killed at any moment, another repair goes on or begins anew; nothing that
 * could be read before cannot be read after. With dry_run only counts and
 * findings are made. VN_E_STATE: somebody is at work, named by process.
 * VN_E_VERSION: a newer program wrote packs or snapshots; nothing was changed.
 * VN_E_NOT_FOUND, VN_E_FORMAT: no store there, or its config.json is damaged,
 * which cannot be repaired: put it back from a copy.
 */
int store_repair(const char *path, const struct store_repair_opts *opts,
                 struct store_repair_counts *ret,
                 struct vn_err *err) VN_MUST_USE;

struct store_gc_opts {
    bool dry_run; /* find out, change nothing */
    /* Rewrite a pack when at least this share of its chunks' bytes is dead, 1
     * to 100. 100: remove packs that are wholly dead, rewrite none. */
    unsigned threshold_percent;
    /* How long to wait for those who work with what is to be removed, and for
     * another gc or a verify to end. What cannot be removed then is left to
     * the next gc. */
    uint64_t wait_ms;
    /* 1 to 19: also rewrite packs on whose pages and nodes zstd was not tried
     * yet, with that level; 0: leave them as they are. */
    unsigned recompress_level;
    /* Remove what was emptied after so many bytes were rewritten, so that no
     * more space is needed meanwhile. 0: 1 GiB, or a sixteenth if more. */
    uint64_t batch_bytes;
    store_progress_fn *progress; /* may be NULL */
    void *context;
};

#define STORE_GC_THRESHOLD 50u /* percent, what the command takes */
#define STORE_GC_LEVEL     3u  /* of recompression, likewise */
#define STORE_GC_LEVEL_MAX 19u

struct store_gc_counts {
    uint64_t snapshots;           /* that were looked at */
    uint64_t chunks;              /* in the index before */
    uint64_t chunks_live;         /* of these, needed by snapshots */
    uint64_t chunks_removed;      /* from the index */
    uint64_t packs_removed;       /* all of the following that were packs */
    uint64_t packs_rewritten;     /* their live chunks moved to new packs */
    uint64_t packs_new;           /* written for that */
    uint64_t chunks_recompressed; /* that are smaller now, by zstd */
    uint64_t orphans_removed;     /* packs and leftovers of writers that died */
    uint64_t packs_waiting; /* to be removed by a later gc: still in use */
    uint64_t packs_damaged; /* that should be rewritten and cannot be read */
    uint64_t bytes_removed; /* of packs and orphans */
    uint64_t bytes_written; /* of new packs */
    uint64_t holder;        /* a process id that is waited for, or 0 */
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
