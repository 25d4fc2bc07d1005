#ifndef STORE_GC_INTERNAL_H
#define STORE_GC_INTERNAL_H

/* Shared by gc.c, gc_scan.c, gc_rewrite.c, gc_sweep.c and gc_remove.c only. */

#include "store/gc_marks.h"
#include "store/store_internal.h"

#define GC_PROGRESS_CHUNKS 8192u /* rows between two words about progress */

/* What gc learnt about a pack. */
struct gc_pack {
    uint64_t id;
    uint64_t size; /* bytes */
    uint64_t live_bytes;
    uint32_t count;     /* chunks in it, also those that the index has not */
    uint32_t rows;      /* chunks that the index places in it */
    uint32_t live;      /* of these, needed */
    uint32_t condemned; /* epoch, or 0 */
    uint64_t domain;    /* of its pages; only known if `rewrite` */
    bool fixed;         /* has manifests or tombstones: is never rewritten */
    bool plain;         /* has live chunks that are not zstd */
    bool rewrite;       /* its live chunks are to be moved */
    bool remove;        /* nothing in it is needed */
};

struct gc {
    struct store *store;
    const struct store_gc_opts *opts;
    struct store_gc_counts counts;
    struct gc_walk walk;
    struct gc_marks *marks;
    /* Packs with lower numbers have no writer any more that could enter or
     * refer to them as his own. */
    uint64_t fence;
    uint64_t next_seq;     /* snapshots of lower seq were walked */
    uint64_t marked_seq;   /* what those of lower seq need is marked */
    struct gc_pack *packs; /* by rising id */
    size_t pack_count;
    uint64_t rewrite_total; /* packs, for progress */
    uint64_t rewrite_done;
    struct gc_removal *removals; /* that are going on */
};

/* The pack of that number; NULL: gc has not seen it. */
struct gc_pack *gc_pack_of(struct gc *gc, uint64_t pack_id);
/* Say how far it is: `done` of `total` within the share from..to of 1000. */
void gc_progress(struct gc *gc, unsigned from, unsigned to, uint64_t done,
                 uint64_t total);

/* ---- gc_scan.c -------------------------------------------------------- */

/* Remove packs and leftovers that the index does not know. */
int gc_orphans(struct gc *gc, struct vn_err *err) VN_MUST_USE;
/*
 * Walk the snapshots with a seq from `from` on with gc->walk, and set
 * gc->next_seq: those of lower seq were walked, or had been deleted. `total`
 * is for the progress, 0: show none.
 */
int gc_walk_snapshots(struct gc *gc, uint64_t from, uint64_t total,
                      struct vn_err *err) VN_MUST_USE;
/* Mark what all snapshots need. */
int gc_mark(struct gc *gc, struct vn_err *err) VN_MUST_USE;
/* Count what is needed in each pack, and choose. */
int gc_scan(struct gc *gc, struct vn_err *err) VN_MUST_USE;

/* ---- gc_rewrite.c ----------------------------------------------------- */

/*
 * Move the live chunks of packs with `rewrite`, `batch_bytes` of packs and
 * perhaps one more; those that are empty then get `remove`, also when it fails
 * half-way. None of those that were looked at has `rewrite` any more.
 */
int gc_rewrite(struct gc *gc, uint64_t batch_bytes,
               struct vn_err *err) VN_MUST_USE;

/* ---- gc_sweep.c ------------------------------------------------------- */

/* Condemn the packs with `remove`, which a new snapshot may take away. */
int gc_condemn(struct gc *gc, struct vn_err *err) VN_MUST_USE;
/* Delete the rows of condemned packs for which no hold is left, and let them be
 * removed; wait for holds so long. from, to: its share of the progress. */
int gc_sweep(struct gc *gc, uint64_t wait_ms, unsigned from, unsigned to,
             struct vn_err *err) VN_MUST_USE;

/* Forget lost chunks that no snapshot needs. What cannot be done now, as
 * snapshots come in between or the disk is full, is left to the next gc. */
int gc_forget_lost(struct gc *gc, struct vn_err *err) VN_MUST_USE;

/* ---- gc_remove.c ------------------------------------------------------ */

/* Begin to remove packs of so many bytes; `ids` is freed by gc_remove_wait().
 */
void gc_remove(struct gc *gc, uint64_t *ids, size_t count, uint64_t bytes);
/* Wait until all are gone; the error of one that is not. */
int gc_remove_wait(struct gc *gc, struct vn_err *err) VN_MUST_USE;

#endif
