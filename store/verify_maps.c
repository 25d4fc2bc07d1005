#include "store/verify_internal.h"

/*
 * Verify, pass 3: is every page that an object needs still there?
 *
 * A node below which everything was found well is remembered and not walked
 * again, in this or another snapshot; so shared and repeated subtrees cost
 * one walk (a root is always read: its height depends on the object's size).
 * What is wrong is counted for each object and named once, with the
 * first page and its chunk; and each chunk learns which pages need it
 * (verify_bad.c).
 */

#include "common/clock.h"
#include "common/io.h"

#include <stdlib.h>
#include <string.h>

#define HEX_SPACE (2 * STORE_ID_SIZE + 1)

/* One object's walk. */
struct walk {
    struct verify *v;
    struct ident ident; /* in the object's domain */
    const char *snapshot;
    const char *object;
    uint64_t size;
    bool deep;
    uint64_t bad_pages;
    uint64_t first_bad; /* offset in bytes */
    char first_reason[VN_ERR_MSG_SIZE];
};

static void page_is_bad(struct walk *w, const struct verify_slot *slot,
                        uint64_t page, uint64_t count)
{
    struct verify *v = w->v;
    uint64_t pages = map_page_count(w->size);

    /* A node stands for pages behind the end of the image as well. */
    if (page < pages)
        verify_bad_use(v, slot, w->snapshot, w->object, page,
                       count < pages - page ? count : pages - page);
    if (w->bad_pages++ > 0)
        return;
    w->first_bad = page * STORE_PAGE_SIZE;
    snprintf(w->first_reason, sizeof(w->first_reason), "%s",
             v->table.bads[slot->bad].reason);
}

static const struct index_lost *lost_row(const struct verify *v,
                                         const struct chunk_id *id)
{
    size_t low = 0;
    size_t high = v->lost_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (chunk_id_compare(&v->lost[middle].id, id) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low < v->lost_count && chunk_id_compare(&v->lost[low].id, id) == 0
               ? &v->lost[low]
               : NULL;
}

/* Enter a chunk that the index has not. */
static const struct verify_slot *add_missing(struct verify *v,
                                             const struct chunk_id *id)
{
    const struct index_lost *lost = lost_row(v, id);
    const struct chunk_place nowhere = {0};
    char when[32];
    char reason[256];
    char hex[HEX_SPACE];

    io_hex(id->bytes, STORE_ID_SIZE, hex);
    if (lost) {
        clock_format_utc(lost->found_s * 1000 * VN_MS, when);
        snprintf(reason, sizeof(reason),
                 "chunk %s is lost, as a repair found at %s; it lay in pack "
                 "%012llx; storing the same content again heals it",
                 hex, when, (unsigned long long)lost->place.pack_id);
    } else {
        snprintf(reason, sizeof(reason), "chunk %s is not in the index", hex);
    }
    return verify_bad_add(v, id, &nowhere, reason);
}

/* The entry of a page that cannot be read, by what pass 1 learnt; NULL: it
 * can. */
static const struct verify_slot *known_bad(struct verify *v,
                                           const struct chunk_id *id,
                                           const struct chunk_place *place)
{
    const struct verify_slot *slot = verify_bad_find(v, id);
    char reason[160];
    char hex[HEX_SPACE];

    if (slot)
        return slot;
    if (place->stored_size == 0)
        return add_missing(v, id);
    if (place->kind == CHUNK_PAGE)
        return NULL;
    io_hex(id->bytes, STORE_ID_SIZE, hex);
    snprintf(reason, sizeof(reason),
             "chunk %s in pack %012llx is a %s in the index, not a page", hex,
             (unsigned long long)place->pack_id, chunk_kind_name(place->kind));
    return verify_bad_add(v, id, place, reason);
}

static int look_up_pages(struct walk *w, const struct map_node *leaf,
                         uint64_t first_page, struct vn_err *err)
{
    struct chunk_id ids[MAP_FANOUT];
    uint16_t numbers[MAP_FANOUT];
    struct chunk_place places[MAP_FANOUT];
    size_t count = 0;

    for (unsigned i = 0; i < MAP_FANOUT; i++) {
        if (chunk_id_is_zero(&leaf->ids[i]))
            continue;
        ids[count] = leaf->ids[i];
        numbers[count++] = (uint16_t)i;
    }
    if (index_find(w->v->store->index, ids, count, places, err) < 0)
        return -1;
    for (size_t i = 0; i < count; i++) {
        const struct verify_slot *slot = known_bad(w->v, &ids[i], &places[i]);

        if (slot)
            page_is_bad(w, slot, first_page + numbers[i], 1);
    }
    return 0;
}

/* Reading a chunk failed: enter it. */
static int add_unreadable(struct verify *v, const struct chunk_id *id,
                          const struct vn_err *why,
                          const struct verify_slot **ret, struct vn_err *err)
{
    struct chunk_place place;

    *ret = verify_bad_find(v, id);
    if (*ret)
        return 0;
    if (index_find(v->store->index, id, 1, &place, err) < 0)
        return -1;
    *ret = place.stored_size ? verify_bad_add(v, id, &place, why->msg)
                             : add_missing(v, id);
    return 0;
}

/* Read all pages together, and one by one where that fails. */
static int read_pages(struct walk *w, const struct map_node *leaf,
                      uint64_t first_page, struct vn_err *err)
{
    vn_auto(free) uint8_t *data = malloc(MAP_FANOUT * STORE_PAGE_SIZE);
    struct chunk_want wants[MAP_FANOUT];
    const struct verify_slot *slot;
    struct vn_err why = VN_ERR_INIT;
    size_t count = 0;

    if (!data)
        return vn_fail(err, VN_E_LIMIT, "no memory for pages");
    for (unsigned i = 0; i < MAP_FANOUT; i++)
        if (!chunk_id_is_zero(&leaf->ids[i])) {
            wants[count].id = leaf->ids[i];
            wants[count].out = data + (size_t)count * STORE_PAGE_SIZE;
            count++;
        }
    if (chunk_read_pages(w->v->store, &w->ident, wants, count, &why) == 0)
        return 0;
    for (unsigned i = 0; i < MAP_FANOUT; i++) {
        struct chunk_want want = {.id = leaf->ids[i], .out = data};

        if (chunk_id_is_zero(&want.id) ||
            chunk_read_pages(w->v->store, &w->ident, &want, 1, &why) == 0)
            continue;
        if (add_unreadable(w->v, &want.id, &why, &slot, err) < 0)
            return -1;
        page_is_bad(w, slot, first_page + i, 1);
    }
    return 0;
}

static uint64_t pages_below(unsigned height)
{
    uint64_t pages = 1;

    for (unsigned h = 0; h <= height; h++)
        pages *= MAP_FANOUT;
    return pages;
}

static int walk_node(struct walk *w, const struct chunk_id *id, unsigned height,
                     uint64_t first_page, struct vn_err *err)
{
    vn_auto(free) struct map_node *node = NULL;
    const struct verify_slot *slot;
    struct vn_err why = VN_ERR_INIT;
    uint64_t bad_before = w->bad_pages;

    node = vn_alloc(sizeof(*node));
    if (chunk_read_node(w->v->store, id, height, node, &why) < 0) {
        if (add_unreadable(w->v, id, &why, &slot, err) < 0)
            return -1;
        page_is_bad(w, slot, first_page, pages_below(height));
        return 0;
    }
    for (unsigned i = 0; height > 0 && i < MAP_FANOUT; i++)
        if (!chunk_id_is_zero(&node->ids[i]) &&
            !id_set_has(&w->v->good, &node->ids[i]) &&
            walk_node(w, &node->ids[i], height - 1,
                      first_page + i * pages_below(height - 1), err) < 0)
            return -1;
    if (height == 0 && (w->deep ? read_pages(w, node, first_page, err)
                                : look_up_pages(w, node, first_page, err)) < 0)
        return -1;
    if (w->deep && height == 0)
        verify_progress(w->v, (uint64_t)MAP_FANOUT * STORE_PAGE_SIZE);
    if (w->bad_pages == bad_before)
        id_set_add(&w->v->good, id);
    return 0;
}

static void report_object(const struct walk *w)
{
    json_t *where = verify_where("object", 0);

    json_object_set_new(where, "snapshot", json_string(w->snapshot));
    json_object_set_new(where, "object", json_string(w->object));
    verify_found(w->v, where,
                 "snapshot '%s', object '%.200s': %llu pages or map nodes "
                 "cannot be read, the first at offset %llu: %s",
                 w->snapshot, w->object, (unsigned long long)w->bad_pages,
                 (unsigned long long)w->first_bad, w->first_reason);
}

int verify_map(struct verify *v, const char *snapshot, const char *object,
               const struct map_root *root, bool deep, struct vn_err *err)
{
    struct walk w = {.v = v,
                     .snapshot = snapshot,
                     .object = object,
                     .size = root->size,
                     .deep = deep};

    v->counts.objects++;
    if (chunk_id_is_zero(&root->root))
        return 0;
    ident_in_domain(&v->store->ident, root->domain, &w.ident);
    if (walk_node(&w, &root->root, map_height(root->size), 0, err) < 0)
        return -1;
    if (w.bad_pages > 0)
        report_object(&w);
    return 0;
}
