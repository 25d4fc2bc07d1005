#ifndef STORE_VERIFY_INTERNAL_H
#define STORE_VERIFY_INTERNAL_H

/* Shared by verify.c, verify_packs.c and verify_maps.c only. */

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
    bool unusable;    /* no directory: nothing in it can be trusted */
};

struct verify {
    struct store *store;
    const struct store_verify_opts *opts;
    uint64_t findings;
    uint64_t done; /* bytes, for progress */
    uint64_t total;
    struct verify_pack *packs; /* by rising id */
    size_t pack_count;
    size_t pack_capacity;
    struct id_set bad;  /* chunks that cannot be read where the index says */
    struct id_set good; /* nodes below which all is well */
};

void verify_found(struct verify *v, const char *format, ...) VN_PRINTF(2, 3);
void verify_progress(struct verify *v, uint64_t bytes);
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

#endif
