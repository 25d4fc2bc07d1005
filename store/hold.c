#include "store/store_internal.h"

/*
 * Holds: who is at work on the store, so that gc keeps its hands off what they
 * are about to refer to. Design and argument: docs/formats/store.md,
 * "Collection".
 *
 * Opening enters the hold at the engine, where it holds everything until its
 * numbers are set; then the index is read, and the numbers are those of that
 * reading. A collector that condemned packs before the entry was visible had
 * committed that before we read, so we know of it; one that does it later sees
 * our entry and waits. Neither side waits for the other here: opening costs a
 * lock, two writes into the page cache and a read transaction, also while
 * others hold the index's write lock, and so fits into the pause of a VM.
 *
 * store_hold_covers(): what may be taken over from an earlier image without
 * looking up each of its pages. Nothing that an existing snapshot needs is
 * condemned, and what is condemned after a hold began stays until it ends; so
 * the root of any snapshot that exists after the hold began will do. Roots are
 * collected from manifests, newest snapshot first, until the one asked for is
 * found: mostly one manifest. A root younger than the last deletion of chunks
 * needs no search, while nothing is condemned; so a store that is never
 * collected never searches.
 */

#include "common/jsonx.h"

#include <stdlib.h>
#include <string.h>

#define LIST_BATCH  256u
#define SEARCH_MAX  4096u /* manifests read for one hold */
#define ROOTS_FIRST 64u

struct store_hold *store_hold_open(struct store *store, struct vn_err *err)
{
    vn_auto(store_hold) struct store_hold *hold = vn_alloc(sizeof(*hold));

    hold->store = store;
    hold->entry = engine_hold_open(store->engine, err);
    if (!hold->entry ||
        index_read_state(store->index, &hold->begun, &hold->condemned, err) <
            0 ||
        index_list_lost(store->index, &hold->lost, &hold->lost_count, err) <
            0 ||
        engine_hold_set(hold->entry, hold->begun.epoch, hold->begun.next_pack,
                        err) < 0) {
        vn_wrap(err, "holding store '%s'", store->path);
        return NULL;
    }
    return vn_steal(&hold);
}

void store_hold_close(struct store_hold *hold)
{
    if (!hold)
        return;
    engine_hold_close(hold->entry);
    index_condemned_done(&hold->condemned);
    free(hold->rows);
    free(hold->roots);
    free(hold->lost);
    free(hold);
}

static int by_lost_id(const void *key, const void *row)
{
    return chunk_id_compare(key, &((const struct index_lost *)row)->id);
}

bool store_hold_lost(const struct store_hold *hold, const struct chunk_id *id)
{
    return hold->lost_count > 0 && bsearch(id, hold->lost, hold->lost_count,
                                           sizeof(*hold->lost), by_lost_id);
}

/* ---- roots of snapshots ----------------------------------------------- */

/* The newest snapshots, at most SEARCH_MAX, oldest first. */
static int list_rows(struct store_hold *hold, struct vn_err *err)
{
    size_t space = SEARCH_MAX + LIST_BATCH;
    struct index_snapshot *rows = vn_alloc(space * sizeof(*rows));
    struct index_snapshots step = {.index = hold->store->index};
    const struct index_snapshot *row;
    size_t total = 0;
    int more;

    hold->rows = rows;
    while ((more = index_next_snapshot(&step, &row, err)) > 0) {
        if (total == space) {
            memmove(rows, rows + LIST_BATCH, SEARCH_MAX * sizeof(*rows));
            total = SEARCH_MAX;
        }
        rows[total++] = *row;
    }
    hold->rows_left = more < 0 ? 0 : total;
    return more;
}

static void add_root(struct store_hold *hold, const struct chunk_id *id)
{
    if (hold->root_count == hold->root_capacity) {
        size_t capacity =
            hold->root_capacity ? 2 * hold->root_capacity : ROOTS_FIRST;
        struct chunk_id *roots =
            realloc(hold->roots, capacity * sizeof(*roots));

        if (!roots)
            abort();
        hold->roots = roots;
        hold->root_capacity = capacity;
    }
    hold->roots[hold->root_count++] = *id;
}

/* Add the roots of one more snapshot, if it can be read. */
static void add_snapshot(struct store_hold *hold,
                         const struct index_snapshot *row)
{
    vn_auto(json) json_t *manifest = NULL;
    struct vn_err ignored = VN_ERR_INIT;
    struct map_root root;
    const char *name;
    json_t *entry;

    manifest = snapshot_load(hold->store, row, &ignored);
    json_object_foreach (json_object_get(manifest, "objects"), name, entry)
        if (manifest_parse_root(entry, &root, &ignored) == 0)
            add_root(hold, &root.root);
}

static bool find_root(const struct store_hold *hold, size_t from,
                      const struct chunk_id *id)
{
    for (size_t i = from; i < hold->root_count; i++)
        if (chunk_id_compare(&hold->roots[i], id) == 0)
            return true;
    return false;
}

static bool is_of_a_snapshot(struct store_hold *hold, const struct chunk_id *id)
{
    struct vn_err ignored = VN_ERR_INIT;
    size_t looked_at = 0;

    if (!hold->rows && list_rows(hold, &ignored) < 0)
        return false;
    for (;;) {
        if (find_root(hold, looked_at, id))
            return true;
        if (hold->rows_left == 0)
            return false;
        looked_at = hold->root_count;
        add_snapshot(hold, &hold->rows[--hold->rows_left]);
    }
}

bool store_hold_covers(struct store_hold *hold, const struct map_root *root)
{
    struct vn_err ignored = VN_ERR_INIT;
    struct chunk_place place;

    if (chunk_id_is_zero(&root->root))
        return true;
    if (index_find(hold->store->index, &root->root, 1, &place, &ignored) < 0 ||
        !store_hold_sees(hold, &place))
        return false;
    if (hold->condemned.count == 0 && place.pack_id >= hold->begun.swept)
        return true;
    return is_of_a_snapshot(hold, &root->root);
}
