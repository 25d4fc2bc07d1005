#include "store/verify_internal.h"

/*
 * Verify, pass 3: is every page that an object needs still there?
 *
 * A node below which everything was found well is remembered and not walked
 * again, in this or another snapshot; so shared and repeated subtrees cost
 * one walk (a root is always read: its height depends on the object's size).
 * What is wrong is counted for each object and named once, with the
 * first page and its chunk.
 */

#include "common/io.h"

#include <stdlib.h>
#include <string.h>

#define HEX_SPACE (2 * STORE_ID_SIZE + 1)

/* One object's walk. */
struct walk {
    struct verify *v;
    const char *snapshot;
    const char *object;
    uint64_t size;
    bool deep;
    uint64_t bad_pages;
    uint64_t first_bad; /* offset in bytes */
    char first_reason[VN_ERR_MSG_SIZE];
};

static void page_is_bad(struct walk *w, uint64_t page, const char *reason)
{
    if (w->bad_pages++ > 0)
        return;
    w->first_bad = page * STORE_PAGE_SIZE;
    snprintf(w->first_reason, sizeof(w->first_reason), "%s", reason);
}

/* Why a page cannot be read, by what pass 1 learnt; false: it can. */
static bool known_bad(struct verify *v, const struct chunk_id *id,
                      const struct chunk_place *place, char reason[128])
{
    const struct verify_pack *pack = verify_pack_of(v, place->pack_id);
    char hex[HEX_SPACE];

    io_hex(id->bytes, STORE_ID_SIZE, hex);
    if (place->stored_size == 0) {
        snprintf(reason, 128, "chunk %s is not in the index", hex);
        return true;
    }
    if ((pack && pack->unusable) || id_set_has(&v->bad, id) ||
        place->kind != CHUNK_PAGE) {
        snprintf(reason, 128, "chunk %s in pack %012llx is damaged", hex,
                 (unsigned long long)place->pack_id);
        return true;
    }
    return false;
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
        char reason[128];

        if (known_bad(w->v, &ids[i], &places[i], reason))
            page_is_bad(w, first_page + numbers[i], reason);
    }
    return 0;
}

/* Read all pages together, and one by one where that fails. */
static int read_pages(struct walk *w, const struct map_node *leaf,
                      uint64_t first_page, struct vn_err *err)
{
    vn_auto(free) uint8_t *data = malloc(MAP_FANOUT * STORE_PAGE_SIZE);
    struct chunk_want wants[MAP_FANOUT];
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
    if (chunk_read_pages(w->v->store, wants, count, &why) == 0)
        return 0;
    for (unsigned i = 0; i < MAP_FANOUT; i++) {
        struct chunk_want want = {.id = leaf->ids[i], .out = data};

        if (!chunk_id_is_zero(&want.id) &&
            chunk_read_pages(w->v->store, &want, 1, &why) < 0)
            page_is_bad(w, first_page + i, why.msg);
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
    struct vn_err why = VN_ERR_INIT;
    uint64_t bad_before = w->bad_pages;

    node = vn_alloc(sizeof(*node));
    if (chunk_read_node(w->v->store, id, height, node, &why) < 0) {
        page_is_bad(w, first_page, why.msg);
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

int verify_map(struct verify *v, const char *snapshot, const char *object,
               const struct map_root *root, bool deep, struct vn_err *err)
{
    struct walk w = {.v = v,
                     .snapshot = snapshot,
                     .object = object,
                     .size = root->size,
                     .deep = deep};

    if (chunk_id_is_zero(&root->root))
        return 0;
    if (walk_node(&w, &root->root, map_height(root->size), 0, err) < 0)
        return -1;
    if (w.bad_pages > 0)
        verify_found(v,
                     "snapshot '%s', object '%.200s': %llu pages or map nodes "
                     "cannot be read, the first at offset %llu: %s",
                     snapshot, object, (unsigned long long)w.bad_pages,
                     (unsigned long long)w.first_bad, w.first_reason);
    return 0;
}
