#include "store/store_internal.h"

/*
 * A commit's look at its maps: is every chunk of the snapshot in the index?
 *
 * Most of a snapshot is what the one before it had. By invariant A of
 * docs/formats/store.md, "Collection", a snapshot that exists has all its
 * chunks in the index, in packs that are not condemned. So what is equal to a
 * subtree of such a snapshot needs no look, and an unchanged VM of any size
 * costs one look-up an image.
 *
 * Which snapshots: the newest of the same series, and the newest of all. Their
 * rows are read after the index's state with the epoch that the commit is to be
 * published in: they existed then, so what they need was there, and not
 * condemned, then; and the transaction that publishes finds the epoch
 * unchanged, so nothing was condemned since, whatever became of those snapshots
 * meanwhile. When the epoch did change all this is done once more. A hold's
 * list of roots (store_hold_covers()) would not do: it may be of an earlier
 * try.
 *
 * An image is compared with that of the same name (map_walk.c), and its root
 * with all roots of those snapshots, so one that was renamed costs nothing
 * either.
 */

#include "common/jsonx.h"

#include <stdlib.h>
#include <string.h>

#define PARENTS_MAX 2u

/* Snapshots that exist, the likeliest first. */
struct parents {
    json_t *manifests[PARENTS_MAX];
    size_t count;
    struct map_root *roots; /* of all their objects, sorted */
    size_t root_count;
};

static void vn_auto_parents(struct parents *p)
{
    for (size_t i = 0; i < p->count; i++)
        json_decref(p->manifests[i]);
    free(p->roots);
}

/*
 * Does what is said above hold in this store? Not where chunks were given up:
 * their snapshots exist without them. This is read from the index now, not when
 * a hold began: after the state of this try, and giving chunks up raises the
 * epoch, as condemning does.
 */
static bool may_skip(struct store *store)
{
    struct vn_err ignored = VN_ERR_INIT;
    struct index_lost *lost = NULL;
    size_t count = 0;
    bool known = index_list_lost(store->index, &lost, &count, &ignored) == 0;

    free(lost);
    return known && count == 0;
}

static int by_root(const void *a, const void *b)
{
    const struct map_root *x = a;
    const struct map_root *y = b;

    return chunk_id_compare(&x->root, &y->root);
}

static void add_parent(struct store *store, const struct index_snapshot *row,
                       struct parents *p)
{
    struct vn_err ignored = VN_ERR_INIT;
    json_t *manifest = snapshot_load(store, row, &ignored);

    if (manifest)
        p->manifests[p->count++] = manifest;
}

static void list_roots(struct parents *p)
{
    size_t space = 1;
    const char *name;
    json_t *entry;

    for (size_t i = 0; i < p->count; i++)
        space += json_object_size(json_object_get(p->manifests[i], "objects"));
    p->roots = vn_alloc(space * sizeof(*p->roots));
    for (size_t i = 0; i < p->count; i++) {
        json_t *objects = json_object_get(p->manifests[i], "objects");

        json_object_foreach (objects, name, entry) {
            struct vn_err ignored = VN_ERR_INIT;

            if (manifest_parse_root(entry, &p->roots[p->root_count],
                                    &ignored) == 0)
                p->root_count++;
        }
    }
    qsort(p->roots, p->root_count, sizeof(*p->roots), by_root);
}

/* Without any, everything is looked at; so nothing here can fail. */
static void find_parents(struct store *store, const char *name,
                         const struct index_state *state, struct parents *p)
{
    char series[STORE_NAME_MAX + 1];
    struct vn_err ignored = VN_ERR_INIT;
    struct index_snapshot latest = {.seq = 0};
    struct index_snapshot newest;
    uint64_t number;
    size_t count;
    bool found;

    if (!may_skip(store))
        return;
    found = manifest_split_name(name, series, &number) &&
            index_find_latest(store->index, series, &latest, &ignored) == 0;
    if (found)
        add_parent(store, &latest, p);
    if (state->next_seq > 0 &&
        index_list_snapshots(store->index, state->next_seq - 1, 1, &newest,
                             &count, &ignored) == 0 &&
        count == 1 && !(found && newest.seq == latest.seq))
        add_parent(store, &newest, p);
    list_roots(p);
}

static bool is_a_root(const struct parents *p, const struct map_root *root)
{
    size_t from = 0;
    size_t to = p->root_count;

    while (from < to) {
        size_t middle = from + (to - from) / 2;

        if (by_root(&p->roots[middle], root) < 0)
            from = middle + 1;
        else
            to = middle;
    }
    /* The same root with other sizes: its height must be the one it has. */
    for (; from < p->root_count && by_root(&p->roots[from], root) == 0; from++)
        if (map_height(p->roots[from].size) == map_height(root->size))
            return true;
    return false;
}

/* The image's version in a parent. False: it has none. */
static bool version_in(const struct parents *p, const char *name,
                       struct map_root *ret)
{
    struct vn_err ignored = VN_ERR_INIT;

    for (size_t i = 0; i < p->count; i++) {
        json_t *objects = json_object_get(p->manifests[i], "objects");
        json_t *entry = json_object_get(objects, name);

        if (entry && manifest_parse_root(entry, ret, &ignored) == 0)
            return true;
    }
    return false;
}

int commit_check_maps(struct map_check *check, const json_t *manifest,
                      const struct index_state *state, struct vn_err *err)
{
    vn_auto(parents) struct parents parents = {.count = 0};
    json_t *objects = json_object_get(manifest, "objects");
    const char *name;
    json_t *entry;

    find_parents(check->store, jsonx_string_or(manifest, "name", ""), state,
                 &parents);
    json_object_foreach (objects, name, entry) {
        struct map_root root;
        struct map_root version;
        bool has = version_in(&parents, name, &version);

        if (manifest_parse_root(entry, &root, err) < 0)
            return vn_wrap(err, "object '%.200s'", name);
        if (!is_a_root(&parents, &root) &&
            map_walk_check(check, &root, has ? &version : NULL, err) < 0)
            return vn_wrap(err, "object '%.200s'", name);
    }
    return 0;
}
