#include "store/repair_internal.h"

/*
 * Repair: which of the manifests that lie in packs are snapshots?
 *
 *   - A tombstone deletes the manifest with its id in all packs of lower number
 *     (docs/formats/store.md, section 5).
 *   - A manifest that is left in several packs is one snapshot, committed when
 *     the last of them was written.
 *   - Of two with one name the later counts. The earlier is a commit that was
 *     interrupted, or was deleted and its tombstone is damaged.
 *   - One of which chunks are missing is a commit that was interrupted, and gc
 *     has taken what it needed: commits write the manifest when all is there.
 *     But if a pack could not be used that is as good a reason, and if the old
 *     index knew the snapshot it is one; then it stays, to be healed. So does
 *     one that the old index knew and whose manifest cannot be read.
 *
 * The order of snapshots is that of the packs. Marks of series are raised by
 * all manifests that can be read, deleted ones too; with an old index that
 * could not be read, numbers that only deleted snapshots had whose packs are
 * gone are given out again.
 */

#include "common/io.h"
#include "common/jsonx.h"

#include <stdlib.h>
#include <string.h>

#define HEX_SPACE (2 * STORE_ID_SIZE + 1)

struct candidate {
    struct index_snapshot row;
    struct chunk_place place; /* of the manifest */
    bool dropped;
};

struct naming {
    struct rebuild *rebuild;
    struct candidate *found; /* in the order of packs */
    size_t count;
};

static bool is_deleted(const struct rebuild *b, const struct repair_manifest *m)
{
    for (size_t i = 0; i < b->tombstone_count; i++)
        if (b->tombstones[i].pack_id > m->place.pack_id &&
            chunk_id_compare(&b->tombstones[i].manifest, &m->id) == 0)
            return true;
    return false;
}

static bool comes_again(const struct rebuild *b, size_t number)
{
    for (size_t i = number + 1; i < b->manifest_count; i++)
        if (chunk_id_compare(&b->manifests[i].id, &b->manifests[number].id) ==
            0)
            return true;
    return false;
}

static void drop(struct naming *n, const struct repair_manifest *m,
                 const char *name, const char *why)
{
    struct repair *r = n->rebuild->repair;
    json_t *where = verify_where("snapshot", m->place.pack_id);
    char hex[HEX_SPACE];

    io_hex(m->id.bytes, STORE_ID_SIZE, hex);
    json_object_set_new(where, "snapshot", json_string(name));
    r->counts.snapshots_dropped++;
    repair_found(r, where, "snapshot '%s~%.8s' in pack %012llx is left out: %s",
                 name, hex, (unsigned long long)m->place.pack_id, why);
}

/* A walk that looks for chunks that the new index has not. */
struct missing {
    struct store *store;
    bool any;
};

static int visit(void *context, const struct chunk_id *ids, size_t count,
                 struct vn_err *err)
{
    struct chunk_place places[MAP_FANOUT];
    struct missing *m = context;
    char hex[HEX_SPACE];

    if (index_find(m->store->index, ids, count, places, err) < 0)
        return -1;
    for (size_t i = 0; i < count; i++) {
        if (places[i].stored_size > 0)
            continue;
        io_hex(ids[i].bytes, STORE_ID_SIZE, hex);
        m->any = true;
        return vn_fail(err, VN_E_NOT_FOUND, "chunk %s is in no pack", hex);
    }
    return 0;
}

/* Is something missing that the manifest needs? A node that is there and
 * cannot be read is not missing: then it is not known. */
static bool is_incomplete(struct rebuild *b, const json_t *manifest,
                          struct vn_err *why)
{
    struct missing missing = {.store = &b->store};
    struct gc_walk walk = {
        .store = &b->store, .visit = visit, .context = &missing};

    if (gc_walk_manifest(&walk, manifest, why) < 0 && !missing.any)
        b->damage = true;
    gc_walk_done(&walk);
    return missing.any;
}

static json_t *load(struct rebuild *b, const struct repair_manifest *m,
                    struct vn_err *err)
{
    vn_auto(free) uint8_t *text = malloc(pack_raw_limit(CHUNK_MANIFEST));
    vn_auto(json) json_t *manifest = NULL;
    size_t size;

    if (!text)
        return vn_fail_ptr(err, VN_E_LIMIT, "no memory for a manifest");
    if (chunk_read_at(&b->store, CHUNK_MANIFEST, &m->id, &m->place, text, &size,
                      NULL, err) < 0)
        return NULL;
    manifest = jsonx_parse((const char *)text, size, "manifest", err);
    if (!manifest || manifest_check(manifest, err) < 0)
        return NULL;
    return vn_steal(&manifest);
}

static void raise_mark(struct rebuild *b, const char *name)
{
    char series[STORE_NAME_MAX + 1];
    uint64_t number;

    if (manifest_split_name(name, series, &number))
        rebuild_add_series(b, series, number);
}

static void add_candidate(struct naming *n, const struct repair_manifest *m,
                          const json_t *manifest)
{
    struct candidate *c = &n->found[n->count++];

    *c = (struct candidate){.place = m->place};
    c->row.id = m->id;
    c->row.bytes_logical = manifest_bytes(manifest);
    snprintf(c->row.name, sizeof(c->row.name), "%s",
             jsonx_string_or(manifest, "name", "?"));
}

/* The row that the old index had of it, or NULL. */
static const struct index_snapshot *find_old(const struct rebuild *b,
                                             const struct chunk_id *id)
{
    for (size_t i = 0; i < b->old_count; i++)
        if (chunk_id_compare(&b->old_rows[i].id, id) == 0)
            return &b->old_rows[i];
    return NULL;
}

static int look_at(struct naming *n, size_t number, struct vn_err *err)
{
    struct rebuild *b = n->rebuild;
    const struct repair_manifest *m = &b->manifests[number];
    vn_auto(json) json_t *manifest = NULL;
    const struct index_snapshot *known;
    struct vn_err why = VN_ERR_INIT;
    const char *name;
    bool deleted = is_deleted(b, m);

    manifest = load(b, m, &why);
    if (!manifest && (why.code == VN_E_LIMIT || why.code == VN_E_VERSION)) {
        *err = why;
        return -1;
    }
    name = manifest ? jsonx_string_or(manifest, "name", "?") : "?";
    if (manifest)
        raise_mark(b, name);
    if (deleted || comes_again(b, number)) {
        b->repair->counts.snapshots_deleted += deleted;
        return 0;
    }
    known = find_old(b, &m->id);
    if (!manifest && known) {
        n->found[n->count++] =
            (struct candidate){.row = *known, .place = m->place};
        return 0;
    }
    if (!manifest) {
        drop(n, m, name, why.msg);
        return 0;
    }
    if (is_incomplete(b, manifest, &why) && !b->damage && !known) {
        drop(n, m, name, why.msg);
        return 0;
    }
    add_candidate(n, m, manifest);
    return 0;
}

/* ---- names ------------------------------------------------------------ */

static int by_name(const void *a, const void *b)
{
    const struct candidate *x = *(struct candidate *const *)a;
    const struct candidate *y = *(struct candidate *const *)b;
    int order = strcmp(x->row.name, y->row.name);

    if (order)
        return order;
    return x->place.pack_id < y->place.pack_id
               ? -1
               : x->place.pack_id > y->place.pack_id;
}

/* Of each name the last stays. */
static void drop_earlier(struct naming *n)
{
    vn_auto(free) struct candidate **order =
        vn_alloc((n->count + 1) * sizeof(struct candidate *));

    for (size_t i = 0; i < n->count; i++)
        order[i] = &n->found[i];
    qsort(order, n->count, sizeof(struct candidate *), by_name);
    for (size_t i = 0; i + 1 < n->count; i++) {
        const struct repair_manifest m = {.id = order[i]->row.id,
                                          .place = order[i]->place};

        if (strcmp(order[i]->row.name, order[i + 1]->row.name) != 0)
            continue;
        order[i]->dropped = true;
        drop(n, &m, order[i]->row.name, "there is a later one of that name");
    }
}

/* ---- entering --------------------------------------------------------- */

static uint64_t next_seq(const struct rebuild *b, size_t count)
{
    uint64_t next = count + 1;

    if (b->state.next_seq > next)
        next = b->state.next_seq;
    for (size_t i = 0; i < b->tombstone_count; i++)
        if (b->tombstones[i].seq >= next && b->tombstones[i].seq < UINT32_MAX)
            next = b->tombstones[i].seq + 1;
    return next;
}

static int enter(struct naming *n, struct vn_err *err)
{
    struct rebuild *b = n->rebuild;
    vn_auto(free) struct index_snapshot *rows =
        vn_alloc((n->count + 1) * sizeof(*rows));
    vn_auto(free) struct index_chunk *manifests =
        vn_alloc((n->count + 1) * sizeof(*manifests));
    struct index_fill fill = {.snapshots = rows,
                              .manifests = manifests,
                              .lost = b->lost,
                              .lost_count = b->lost_count,
                              .series = b->series,
                              .series_count = b->series_count,
                              .state = b->state};
    size_t count = 0;

    for (size_t i = 0; i < n->count; i++) {
        if (n->found[i].dropped)
            continue;
        rows[count] = n->found[i].row;
        rows[count].seq = count + 1;
        manifests[count] = (struct index_chunk){.id = rows[count].id,
                                                .place = n->found[i].place};
        count++;
    }
    fill.snapshot_count = count;
    fill.state.next_seq = next_seq(b, count);
    /* Which trees are complete is not known but for snapshots: no parents. */
    fill.state.swept = fill.state.next_pack;
    b->repair->counts.snapshots = count;
    return index_fill(b->store.index, &fill, err);
}

int rebuild_snapshots(struct rebuild *b, struct vn_err *err)
{
    struct naming n = {.rebuild = b};
    int result = 0;

    n.found = vn_alloc((b->manifest_count + 1) * sizeof(*n.found));
    for (size_t i = 0; result == 0 && i < b->manifest_count; i++)
        result = look_at(&n, i, err);
    if (result == 0) {
        drop_earlier(&n);
        result = enter(&n, err);
    }
    free(n.found);
    return result;
}
