#include "store/chunk_internal.h"

/*
 * Reading pages in batches: looked up, then read in the order of packs and
 * offsets, neighbours in one go. Pages of one image were mostly stored in a
 * row, so a leaf's 512 pages often need a few reads, and their places are in
 * order already. Gaps of up to GAP_MAX between wanted chunks are read too and
 * thrown away. A read is RUN_MAX at most, so that it is still in the cache when
 * it is decoded. Reading ahead: read_ahead.c.
 *
 * What a page is held against. Its id is what names it, but BLAKE3 costs five
 * times as much as everything else here but LZ4. A page that is read through
 * a map is therefore held against the fingerprint in its leaf, XXH3-128 under
 * the store's secret. That is enough:
 *   - The leaf was held against its own id, BLAKE3 under the store's key, all
 *     the way down from the root that the caller named. The fingerprint in it
 *     is what the writer found for the very bytes that he hashed for the id
 *     beside it, or what a writer found so before him.
 *   - A place in the index, or bytes in a pack, that are wrong by accident pass
 *     with chance 2^-128, as they would with the short id.
 *   - Who makes bytes pass on purpose must write packs or index and know the
 *     secret. Guests do neither. Who can do both has config.json in hand, where
 *     the key of the ids lies beside the secret, so BLAKE3 would not stop him.
 *   - A guest that knows the secret can put two pages with one fingerprint into
 *     the store. To profit he would need the index to name the place of
 *     one under the id of the other, and ids are those of BLAKE3.
 * Where there is no fingerprint, or another one, the id decides. Verify reads
 * without fingerprints.
 */

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define GAP_MAX 16384u
#define RUN_MAX (256u << 10) /* bytes in one read */

static_assert(RUN_MAX >= STORE_PAGE_SIZE, "a stored page fits");

/* One want and where it lies. */
struct fetch {
    struct chunk_place place;
    const struct chunk_want *want;
    const struct fingerprint *print; /* NULL: none */
};

static int by_place(const void *a, const void *b)
{
    const struct chunk_place *x = &((const struct fetch *)a)->place;
    const struct chunk_place *y = &((const struct fetch *)b)->place;

    if (x->pack_id != y->pack_id)
        return x->pack_id < y->pack_id ? -1 : 1;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return 0;
}

static void sort_by_place(struct fetch *fetches, size_t count)
{
    for (size_t i = 1; i < count; i++)
        if (by_place(&fetches[i - 1], &fetches[i]) > 0) {
            qsort(fetches, count, sizeof(*fetches), by_place);
            return;
        }
}

/* Look the wants up. */
static int find_places(struct store *store, const struct chunk_want *wants,
                       size_t count, struct chunk_place *ret,
                       struct vn_err *err)
{
    struct chunk_id ids[CHUNK_WANTS_MAX];

    assert(count > 0 && count <= CHUNK_WANTS_MAX);
    for (size_t i = 0; i < count; i++)
        ids[i] = wants[i].id;
    return index_find(store->index, ids, count, ret, err);
}

/* Can they be read from there? */
static int check_places(const struct chunk_want *wants, size_t count,
                        const struct chunk_place *places, struct vn_err *err)
{
    for (size_t i = 0; i < count; i++) {
        if (places[i].stored_size == 0)
            return chunk_fail_unknown(&wants[i].id, err);
        if (chunk_check_place(&places[i], CHUNK_PAGE, err) < 0)
            return chunk_name(&wants[i].id, &places[i], err);
    }
    return 0;
}

/* How many fetches from the first on are read together; their span. */
static size_t find_run(const struct fetch *fetches, size_t count,
                       size_t *ret_size)
{
    uint64_t start = fetches[0].place.offset;
    uint64_t end = start + fetches[0].place.stored_size;
    size_t n = 1;

    while (n < count && fetches[n].place.pack_id == fetches[0].place.pack_id) {
        uint64_t from = fetches[n].place.offset;
        uint64_t to = from + fetches[n].place.stored_size;

        if (from > end + GAP_MAX || to > start + RUN_MAX)
            break;
        end = to > end ? to : end;
        n++;
    }
    *ret_size = (size_t)(end - start);
    return n;
}

/* ---- checking ---------------------------------------------------------- */

/* Hold pages, at most IDENT_BATCH, against their ids. */
static int check_ids(const struct ident *ident,
                     const struct fetch *const *fetches, size_t count,
                     struct vn_err *err)
{
    const uint8_t *pages[IDENT_BATCH];
    struct ident_full full[IDENT_BATCH];

    if (count == 0)
        return 0;
    for (size_t i = 0; i < count; i++)
        pages[i] = fetches[i]->want->out;
    ident_pages(ident, pages, count, full);
    for (size_t i = 0; i < count; i++) {
        struct chunk_id id = ident_short(&full[i]);

        if (chunk_id_compare(&id, &fetches[i]->want->id) == 0)
            continue;
        vn_fail(err, VN_E_CORRUPT, "its content does not match its id");
        return chunk_name(&fetches[i]->want->id, &fetches[i]->place, err);
    }
    return 0;
}

static bool has_fingerprint(const struct ident *ident,
                            const struct fetch *fetch)
{
    struct fingerprint print;

    if (!fetch->print)
        return false;
    ident_fingerprint(ident, fetch->want->out, &print);
    return memcmp(&print, fetch->print, sizeof(print)) == 0;
}

static int decode(const struct fetch *fetch, const uint8_t *stored,
                  struct vn_err *err)
{
    const struct chunk_place *place = &fetch->place;
    size_t size;

    if (pack_decode(place->kind, place->codec, stored, place->stored_size,
                    fetch->want->out, &size, err) < 0)
        return chunk_name(&fetch->want->id, place, err);
    if (size != STORE_PAGE_SIZE) {
        vn_fail(err, VN_E_CORRUPT, "a page of %zu bytes", size);
        return chunk_name(&fetch->want->id, place, err);
    }
    return 0;
}

/* Decode and check what was read from fetches[0].place.offset on. */
static int take_run(const struct ident *ident, const struct fetch *fetches,
                    size_t count, const uint8_t *data, struct vn_err *err)
{
    const struct fetch *unsure[IDENT_BATCH];
    size_t n = 0;

    for (size_t i = 0; i < count; i++) {
        size_t at = fetches[i].place.offset - fetches[0].place.offset;

        if (decode(&fetches[i], data + at, err) < 0)
            return -1;
        if (has_fingerprint(ident, &fetches[i]))
            continue;
        unsure[n++] = &fetches[i];
        if (n < IDENT_BATCH)
            continue;
        if (check_ids(ident, unsure, n, err) < 0)
            return -1;
        n = 0;
    }
    return check_ids(ident, unsure, n, err);
}

/* ---- reading ----------------------------------------------------------- */

static int read_pages(struct store *store, const struct ident *ident,
                      const struct chunk_want *wants,
                      const struct fingerprint *const *prints, size_t count,
                      const struct chunk_place *places, struct vn_err *err)
{
    struct fetch fetches[CHUNK_WANTS_MAX];
    uint8_t data[RUN_MAX];
    size_t n;

    if (check_places(wants, count, places, err) < 0)
        return -1;
    for (size_t i = 0; i < count; i++)
        fetches[i] = (struct fetch){.place = places[i],
                                    .want = &wants[i],
                                    .print = prints ? prints[i] : NULL};
    sort_by_place(fetches, count);
    for (size_t i = 0; i < count; i += n) {
        const struct fetch *first = &fetches[i];
        size_t size;

        n = find_run(first, count - i, &size);
        if (engine_read(store->engine, first->place.pack_id,
                        first->place.offset, data, size, err) < 0)
            return chunk_name(&first->want->id, &first->place, err);
        if (take_run(ident, first, n, data, err) < 0)
            return -1;
    }
    return 0;
}

int chunk_read_leaf_pages(struct store *store, const struct ident *ident,
                          const struct chunk_want *wants,
                          const struct fingerprint *const *prints,
                          const struct chunk_place *places, size_t count,
                          struct vn_err *err)
{
    struct chunk_place found[CHUNK_WANTS_MAX];
    unsigned tries = 0;

    if (count == 0)
        return 0;
    do {
        if (places &&
            read_pages(store, ident, wants, prints, count, places, err) == 0)
            return 0;
        if (!places && find_places(store, wants, count, found, err) == 0 &&
            read_pages(store, ident, wants, prints, count, found, err) == 0)
            return 0;
        places = NULL; /* they may be out of date */
    } while (chunk_pack_has_gone(++tries, err));
    for (size_t i = 0; i < count; i++)
        memset(wants[i].out, 0, STORE_PAGE_SIZE);
    return -1;
}

int chunk_read_pages(struct store *store, const struct ident *ident,
                     const struct chunk_want *wants, size_t count,
                     struct vn_err *err)
{
    return chunk_read_leaf_pages(store, ident, wants, NULL, NULL, count, err);
}
