#include "store/store_internal.h"

/*
 * Reading chunks back.
 *
 * The index says where a chunk lies; nothing else about it is believed. The
 * stored bytes are decoded within the limits of their kind and hashed, and only
 * content whose id is the one asked for is given out. A wrong or damaged
 * index can therefore make a read fail, not make it lie.
 *
 * gc may move a chunk to another pack and remove the one where it lay after it
 * was looked up. The engine then has no such pack, and the chunk is looked up
 * again, READ_TRIES times at most: gc runs take long enough between two moves
 * of one chunk.
 *
 * Pages are read in batches: looked up in the order of ids, then read in the
 * order of packs and offsets, neighbours in one go. Pages of one image were
 * mostly stored in a row, so a leaf's 512 pages often need a few reads. Gaps of
 * up to GAP_MAX between wanted chunks are read too and thrown away.
 */

#include "common/io.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define GAP_MAX   16384u
#define RUN_MAX   (1u << 20) /* bytes in one read */
#define HEX_SPACE (2 * STORE_ID_SIZE + 1)

#define READ_TRIES 8u

/* One want with its place; sorted twice. */
struct fetch {
    struct chunk_id id;
    struct chunk_place place;
    uint8_t *out;
};

static int by_id(const void *a, const void *b)
{
    const struct fetch *x = a;
    const struct fetch *y = b;

    return chunk_id_compare(&x->id, &y->id);
}

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

/* Say which chunk of which pack an error is about. VN_E_NOT_FOUND, of the
 * engine, stays: the caller tries again or calls it damage. */
static int name_chunk(const struct chunk_id *id,
                      const struct chunk_place *place, struct vn_err *err)
{
    char hex[HEX_SPACE];

    io_hex(id->bytes, STORE_ID_SIZE, hex);
    return vn_wrap(err, "chunk %s in pack %012llx at %u", hex,
                   (unsigned long long)place->pack_id, place->offset);
}

/* After a failure: has the pack gone, so that another look-up may help? At the
 * last try it is damage. */
static bool pack_has_gone(unsigned tries, struct vn_err *err)
{
    if (err->code != VN_E_NOT_FOUND)
        return false;
    if (tries < READ_TRIES)
        return true;
    err->code = VN_E_CORRUPT;
    return false;
}

static int fail_unknown(const struct chunk_id *id, struct vn_err *err)
{
    char hex[HEX_SPACE];

    io_hex(id->bytes, STORE_ID_SIZE, hex);
    return vn_fail(err, VN_E_CORRUPT, "chunk %s is not in the index", hex);
}

static int check_place(const struct chunk_place *place, enum chunk_kind kind,
                       struct vn_err *err)
{
    if (place->kind != kind)
        return vn_fail(err, VN_E_CORRUPT, "it is a %s in the index, not a %s",
                       chunk_kind_name(place->kind), chunk_kind_name(kind));
    if (place->stored_size > pack_raw_limit(kind))
        return vn_fail(err, VN_E_CORRUPT, "%u bytes stored for a %s",
                       place->stored_size, chunk_kind_name(kind));
    return 0;
}

static int find_places(struct store *store, struct fetch *fetches, size_t count,
                       struct vn_err *err)
{
    struct chunk_id ids[CHUNK_WANTS_MAX];
    struct chunk_place places[CHUNK_WANTS_MAX];

    for (size_t i = 0; i < count; i++)
        ids[i] = fetches[i].id;
    if (index_find(store->index, ids, count, places, err) < 0)
        return -1;
    for (size_t i = 0; i < count; i++) {
        if (places[i].stored_size == 0)
            return fail_unknown(&ids[i], err);
        if (check_place(&places[i], CHUNK_PAGE, err) < 0)
            return name_chunk(&ids[i], &places[i], err);
        fetches[i].place = places[i];
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

static int check_pages(const struct store *store, const struct fetch *fetches,
                       size_t count, struct vn_err *err)
{
    const uint8_t *pages[IDENT_BATCH];
    struct ident_full full[IDENT_BATCH];

    for (size_t i = 0; i < count; i++)
        pages[i] = fetches[i].out;
    ident_pages(&store->ident, pages, count, full);
    for (size_t i = 0; i < count; i++) {
        struct chunk_id id = ident_short(&full[i]);

        if (chunk_id_compare(&id, &fetches[i].id) == 0)
            continue;
        vn_fail(err, VN_E_CORRUPT, "its content does not match its id");
        return name_chunk(&fetches[i].id, &fetches[i].place, err);
    }
    return 0;
}

/* Decode and check what was read from fetches[0].place.offset on. */
static int take_run(const struct store *store, const struct fetch *fetches,
                    size_t count, const uint8_t *data, struct vn_err *err)
{
    for (size_t i = 0; i < count; i++) {
        const struct chunk_place *place = &fetches[i].place;
        size_t size;

        if (pack_decode(place->kind, place->codec,
                        data + (place->offset - fetches[0].place.offset),
                        place->stored_size, fetches[i].out, &size, err) < 0)
            return name_chunk(&fetches[i].id, place, err);
        if (size != STORE_PAGE_SIZE) {
            vn_fail(err, VN_E_CORRUPT, "a page of %zu bytes", size);
            return name_chunk(&fetches[i].id, place, err);
        }
    }
    for (size_t i = 0; i < count; i += IDENT_BATCH) {
        size_t n = count - i < IDENT_BATCH ? count - i : IDENT_BATCH;

        if (check_pages(store, fetches + i, n, err) < 0)
            return -1;
    }
    return 0;
}

static int read_pages(struct store *store, struct fetch *fetches, size_t count,
                      struct vn_err *err)
{
    vn_auto(free) uint8_t *data = NULL;
    size_t capacity = 0;
    size_t n;

    qsort(fetches, count, sizeof(*fetches), by_id);
    if (find_places(store, fetches, count, err) < 0)
        return -1;
    qsort(fetches, count, sizeof(*fetches), by_place);
    for (size_t i = 0; i < count; i += n) {
        const struct fetch *first = &fetches[i];
        size_t size;

        n = find_run(first, count - i, &size);
        if (size > capacity) {
            free(data);
            data = vn_alloc(size);
            capacity = size;
        }
        if (engine_read(store->engine, first->place.pack_id,
                        first->place.offset, data, size, err) < 0)
            return name_chunk(&first->id, &first->place, err);
        if (take_run(store, first, n, data, err) < 0)
            return -1;
    }
    return 0;
}

int chunk_read_pages(struct store *store, const struct chunk_want *wants,
                     size_t count, struct vn_err *err)
{
    struct fetch fetches[CHUNK_WANTS_MAX];
    unsigned tries = 0;

    assert(count <= CHUNK_WANTS_MAX);
    for (size_t i = 0; i < count; i++)
        fetches[i] = (struct fetch){.id = wants[i].id, .out = wants[i].out};
    do {
        if (read_pages(store, fetches, count, err) == 0)
            return 0;
    } while (pack_has_gone(++tries, err));
    for (size_t i = 0; i < count; i++)
        memset(wants[i].out, 0, STORE_PAGE_SIZE);
    return -1;
}

/* Hash content of any kind and compare the short id. */
static int check_content(const struct store *store, enum chunk_kind kind,
                         const struct chunk_id *id, const uint8_t *data,
                         size_t size, struct vn_err *err)
{
    struct ident_full full;
    struct chunk_id found;

    ident_chunk(&store->ident, kind, data, size, &full);
    found = ident_short(&full);
    if (chunk_id_compare(&found, id) != 0)
        return vn_fail(err, VN_E_CORRUPT, "its content does not match its id");
    return 0;
}

int chunk_read_at(struct store *store, enum chunk_kind kind,
                  const struct chunk_id *id, const struct chunk_place *place,
                  uint8_t *out, size_t *ret_size, struct vn_err *err)
{
    vn_auto(free) uint8_t *stored = NULL;
    size_t size;

    if (check_place(place, kind, err) < 0)
        return -1;
    stored = vn_alloc(place->stored_size);
    if (engine_read(store->engine, place->pack_id, place->offset, stored,
                    place->stored_size, err) < 0 ||
        pack_decode(kind, place->codec, stored, place->stored_size, out, &size,
                    err) < 0 ||
        check_content(store, kind, id, out, size, err) < 0)
        return -1;
    *ret_size = size;
    return 0;
}

int chunk_read(struct store *store, enum chunk_kind kind,
               const struct chunk_id *id, uint8_t *out, size_t *ret_size,
               struct vn_err *err)
{
    struct chunk_place place;
    unsigned tries = 0;

    do {
        if (index_find(store->index, id, 1, &place, err) < 0)
            return -1;
        if (place.stored_size == 0)
            return fail_unknown(id, err);
        if (chunk_read_at(store, kind, id, &place, out, ret_size, err) == 0)
            return 0;
    } while (pack_has_gone(++tries, err));
    return name_chunk(id, &place, err);
}

int chunk_read_node(struct store *store, const struct chunk_id *id,
                    unsigned height, struct map_node *ret, struct vn_err *err)
{
    uint8_t data[MAP_LEAF_SIZE];
    char hex[HEX_SPACE];
    size_t size;

    static_assert(MAP_INNER_SIZE <= MAP_LEAF_SIZE, "a leaf's space holds both");
    if (chunk_read(store, map_node_kind(height), id, data, &size, err) < 0)
        return -1;
    if (map_node_decode(data, size, height, ret, err) == 0)
        return 0;
    io_hex(id->bytes, STORE_ID_SIZE, hex);
    return vn_wrap(err, "chunk %s", hex);
}

int chunk_check(const struct store *store, const struct pack_entry *entry,
                const uint8_t *stored, uint8_t *out, struct vn_err *err)
{
    struct ident_full full;
    size_t size;

    if (pack_decode(entry->kind, entry->codec, stored, entry->stored_size, out,
                    &size, err) < 0)
        return -1;
    if (size != entry->raw_size)
        return vn_fail(err, VN_E_CORRUPT,
                       "it has %zu bytes, the directory says %u", size,
                       entry->raw_size);
    ident_chunk(&store->ident, (enum chunk_kind)entry->kind, out, size, &full);
    if (memcmp(full.bytes, entry->id.bytes, IDENT_FULL_SIZE) != 0)
        return vn_fail(err, VN_E_CORRUPT, "its content does not match its id");
    return 0;
}
