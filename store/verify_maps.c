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
 *
 * Leaves, nearly all the work, are tried by all cores: LEAVES_A_THREAD a thread
 * at a time, and the walk waits for all of them, so that tasks can look into
 * the table of bad chunks, which nobody changes meanwhile. A task says only
 * whether all is well below its leaf. Where it is not the walk itself goes
 * there, in its order, and finds out what is wrong. In memory are a leaf, and
 * with `deep` its pages (2 MiB), for each thread.
 */

#include "common/clock.h"
#include "common/io.h"
#include "store/read_ahead.h"

#include <stdlib.h>
#include <string.h>

#define HEX_SPACE       (2 * STORE_ID_SIZE + 1)
#define LEAVES_A_THREAD 16u

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

/* The leaf's pages without the zeros, and where they stand in it. */
static size_t list_pages(const struct map_node *leaf,
                         struct chunk_id ids[MAP_FANOUT],
                         uint16_t numbers[MAP_FANOUT])
{
    size_t count = 0;

    for (unsigned i = 0; i < MAP_FANOUT; i++) {
        if (chunk_id_is_zero(&leaf->ids[i]))
            continue;
        ids[count] = leaf->ids[i];
        numbers[count++] = (uint16_t)i;
    }
    return count;
}

static int look_up_pages(struct walk *w, const struct map_node *leaf,
                         uint64_t first_page, struct vn_err *err)
{
    struct chunk_id ids[MAP_FANOUT];
    uint16_t numbers[MAP_FANOUT];
    struct chunk_place places[MAP_FANOUT];
    size_t count = list_pages(leaf, ids, numbers);

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

/* Read all pages together: 0, also where there is none. */
static int read_together(const struct walk *w, const struct map_node *leaf,
                         struct vn_err *err)
{
    vn_auto(free) uint8_t *data = malloc(MAP_FANOUT * STORE_PAGE_SIZE);
    struct chunk_want wants[MAP_FANOUT];
    size_t count = 0;

    if (!data)
        return vn_fail(err, VN_E_LIMIT, "no memory for pages");
    for (unsigned i = 0; i < MAP_FANOUT; i++)
        if (!chunk_id_is_zero(&leaf->ids[i])) {
            wants[count].id = leaf->ids[i];
            wants[count].out = data + (size_t)count * STORE_PAGE_SIZE;
            count++;
        }
    return count ? chunk_read_pages(w->v->store, &w->ident, wants, count, err)
                 : 0;
}

/* And one by one where that fails. */
static int read_pages(struct walk *w, const struct map_node *leaf,
                      uint64_t first_page, struct vn_err *err)
{
    uint8_t data[STORE_PAGE_SIZE];
    const struct verify_slot *slot;
    struct vn_err why = VN_ERR_INIT;

    if (read_together(w, leaf, &why) == 0)
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

/* ---- leaves, by all cores --------------------------------------------- */

struct leaves {
    struct walk *w;
    struct leaf {
        struct chunk_id id;
        uint64_t first_page;
        bool well;
    } list[LEAVES_A_THREAD * POOL_THREADS_MAX];
    size_t count;
};

/* As known_bad(), but only whether; enters nothing. */
static bool pages_are_well(const struct verify *v, const struct map_node *leaf)
{
    struct chunk_id ids[MAP_FANOUT];
    uint16_t numbers[MAP_FANOUT];
    struct chunk_place places[MAP_FANOUT];
    struct vn_err ignored = VN_ERR_INIT;
    size_t count = list_pages(leaf, ids, numbers);

    if (index_find(v->store->index, ids, count, places, &ignored) < 0)
        return false;
    for (size_t i = 0; i < count; i++)
        if (places[i].stored_size == 0 || places[i].kind != CHUNK_PAGE ||
            verify_bad_find(v, &ids[i]))
            return false;
    return true;
}

/* What fails here the walk comes upon again, and says it. */
static int try_leaf(void *context, size_t i, struct vn_err *err)
{
    struct leaves *l = context;
    const struct verify *v = l->w->v;
    vn_auto(free) struct map_node *node = vn_alloc(sizeof(*node));
    struct vn_err ignored = VN_ERR_INIT;

    (void)err;
    if (chunk_read_node(v->store, &l->list[i].id, 0, node, &ignored) == 0)
        l->list[i].well = l->w->deep ? read_together(l->w, node, &ignored) == 0
                                     : pages_are_well(v, node);
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
                     uint64_t first_page, struct vn_err *err);

/* A leaf, and with `deep` its pages, was looked at: say so. */
static void leaf_is_done(struct walk *w)
{
    if (w->deep)
        verify_progress(w->v, (uint64_t)MAP_FANOUT * STORE_PAGE_SIZE);
}

/* Try the leaves that were gathered, then take them in in order. */
static int walk_gathered(struct leaves *l, struct vn_err *err)
{
    struct walk *w = l->w;

    if (pool_run(w->v->store->pool, l->count, try_leaf, l, err) < 0)
        return -1;
    for (size_t i = 0; i < l->count; i++) {
        const struct leaf *leaf = &l->list[i];

        if (id_set_has(&w->v->good, &leaf->id))
            continue; /* it was among them twice */
        if (!leaf->well) {
            if (walk_node(w, &leaf->id, 0, leaf->first_page, err) < 0)
                return -1;
            continue;
        }
        leaf_is_done(w);
        id_set_add(&w->v->good, &leaf->id);
    }
    l->count = 0;
    return 0;
}

/* The children of a node right above the leaves. */
static int walk_leaves(struct walk *w, const struct map_node *node,
                       uint64_t first_page, struct vn_err *err)
{
    vn_auto(free) struct leaves *l = vn_alloc(sizeof(*l));
    size_t most = LEAVES_A_THREAD * pool_threads(w->v->store->pool);

    l->w = w;
    read_ahead_nodes(w->v->store, node->ids, MAP_FANOUT);
    for (unsigned i = 0; i < MAP_FANOUT; i++) {
        if (chunk_id_is_zero(&node->ids[i]) ||
            id_set_has(&w->v->good, &node->ids[i]))
            continue;
        l->list[l->count++] = (struct leaf){
            .id = node->ids[i], .first_page = first_page + i * pages_below(0)};
        if (l->count == most && walk_gathered(l, err) < 0)
            return -1;
    }
    return walk_gathered(l, err);
}

static int walk_children(struct walk *w, const struct map_node *node,
                         unsigned height, uint64_t first_page,
                         struct vn_err *err)
{
    if (height == 0)
        return w->deep ? read_pages(w, node, first_page, err)
                       : look_up_pages(w, node, first_page, err);
    if (height == 1)
        return walk_leaves(w, node, first_page, err);
    for (unsigned i = 0; i < MAP_FANOUT; i++)
        if (!chunk_id_is_zero(&node->ids[i]) &&
            !id_set_has(&w->v->good, &node->ids[i]) &&
            walk_node(w, &node->ids[i], height - 1,
                      first_page + i * pages_below(height - 1), err) < 0)
            return -1;
    return 0;
}

static int walk_node(struct walk *w, const struct chunk_id *id, unsigned height,
                     uint64_t first_page, struct vn_err *err)
{
    vn_auto(free) struct map_node *node = vn_alloc(sizeof(*node));
    const struct verify_slot *slot;
    struct vn_err why = VN_ERR_INIT;
    uint64_t bad_before = w->bad_pages;

    if (chunk_read_node(w->v->store, id, height, node, &why) < 0) {
        if (add_unreadable(w->v, id, &why, &slot, err) < 0)
            return -1;
        page_is_bad(w, slot, first_page, pages_below(height));
        return 0;
    }
    if (walk_children(w, node, height, first_page, err) < 0)
        return -1;
    if (height == 0)
        leaf_is_done(w);
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
