#include "store/chunk_internal.h"

/*
 * Reading chunks back.
 *
 * The index says where a chunk lies; nothing else about it is believed. The
 * stored bytes are decoded within the limits of their kind and hashed, and only
 * content whose id is the one asked for is given out. A wrong or damaged
 * index can therefore make a read fail, not make it lie. Pages in batches:
 * chunk_pages.c.
 *
 * gc may move a chunk to another pack and remove the one where it lay after it
 * was looked up. The engine then has no such pack, and the chunk is looked up
 * again, READ_TRIES times at most: gc runs take long enough between two moves
 * of one chunk.
 */

#include "common/io.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define HEX_SPACE  (2 * STORE_ID_SIZE + 1)
#define READ_TRIES 8u

int chunk_name(const struct chunk_id *id, const struct chunk_place *place,
               struct vn_err *err)
{
    char hex[HEX_SPACE];

    io_hex(id->bytes, STORE_ID_SIZE, hex);
    return vn_wrap(err, "chunk %s in pack %012llx at %u", hex,
                   (unsigned long long)place->pack_id, place->offset);
}

bool chunk_pack_has_gone(unsigned tries, struct vn_err *err)
{
    if (err->code != VN_E_NOT_FOUND)
        return false;
    if (tries < READ_TRIES)
        return true;
    err->code = VN_E_CORRUPT;
    return false;
}

int chunk_fail_unknown(const struct chunk_id *id, struct vn_err *err)
{
    char hex[HEX_SPACE];

    io_hex(id->bytes, STORE_ID_SIZE, hex);
    return vn_fail(err, VN_E_CORRUPT, "chunk %s is not in the index", hex);
}

int chunk_check_place(const struct chunk_place *place, enum chunk_kind kind,
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

bool chunk_is_damage(const struct vn_err *why)
{
    return why->code == VN_E_CORRUPT || why->code == EIO;
}

/* Hash content of any kind and compare the short id. */
static bool has_id(const struct ident *ident, enum chunk_kind kind,
                   const struct chunk_id *id, const uint8_t *data, size_t size)
{
    struct ident_full full;
    struct chunk_id found;

    ident_chunk(ident, kind, data, size, &full);
    found = ident_short(&full);
    return chunk_id_compare(&found, id) == 0;
}

/* Has the content the id in one of the domains? *ret: in which. */
static bool find_domain(const struct store *store, enum chunk_kind kind,
                        const struct chunk_id *id, const uint8_t *data,
                        size_t size, const uint64_t *domains, size_t count,
                        uint64_t *ret)
{
    for (size_t i = 0; i < count; i++) {
        struct ident ident;

        ident_in_domain(&store->ident, domains[i], &ident);
        if (!has_id(&ident, kind, id, data, size))
            continue;
        *ret = domains[i];
        return true;
    }
    return false;
}

int chunk_read_at(struct store *store, enum chunk_kind kind,
                  const struct chunk_id *id, const struct chunk_place *place,
                  uint8_t *out, size_t *ret_size, uint64_t *ret_domain,
                  struct vn_err *err)
{
    vn_auto(free) uint8_t *stored = NULL;
    uint64_t domains[DOMAIN_GUESSES_MAX] = {0}, domain;
    size_t size, count = 1;

    if (chunk_check_place(place, kind, err) < 0)
        return -1;
    stored = vn_alloc(place->stored_size);
    if ((kind == CHUNK_PAGE &&
         domain_guess(store, place->pack_id, domains, &count, err) < 0) ||
        engine_read(store->engine, place->pack_id, place->offset, stored,
                    place->stored_size, err) < 0 ||
        pack_decode(kind, place->codec, stored, place->stored_size, out, &size,
                    err) < 0)
        return -1;
    if (!find_domain(store, kind, id, out, size, domains, count, &domain))
        return vn_fail(err, VN_E_CORRUPT, "its content does not match its id");
    *ret_size = size;
    if (ret_domain)
        *ret_domain = domain;
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
            return chunk_fail_unknown(id, err);
        if (chunk_read_at(store, kind, id, &place, out, ret_size, NULL, err) ==
            0)
            return 0;
    } while (chunk_pack_has_gone(++tries, err));
    return chunk_name(id, &place, err);
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

int chunk_check(const struct ident *ident, const struct pack_entry *entry,
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
    ident_chunk(ident, (enum chunk_kind)entry->kind, out, size, &full);
    if (memcmp(full.bytes, entry->id.bytes, IDENT_FULL_SIZE) != 0)
        return vn_fail(err, VN_E_CORRUPT, "its content does not match its id");
    return 0;
}
