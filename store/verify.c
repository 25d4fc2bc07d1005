#include "store/verify_internal.h"

/*
 * Verify: is everything that the store promises still there?
 *
 * First the index as such, without which nothing else is safe (index_check.c);
 * damage there is an error that ends the run. Then the whole store, in three
 * passes:
 *   1. packs       every pack of the index is read: checksums, directory, and
 *                  every chunk decoded and hashed against all 32 bytes of its
 *                  id; every chunk must be in the index (verify_packs.c)
 *   2. index       every row must point at a chunk that pass 1 saw
 *   3. snapshots   every manifest is read, every map walked; each page must be
 *                  in the index and not among the bad ones (verify_maps.c)
 * So each stored byte is read once, however many snapshots share it. One
 * snapshot alone is verified by reading what it needs. Fast: pass 1 reads only
 * header, directory and footer of each pack, and believes the chunks; all else
 * is the same, so map nodes and manifests are read and pages are not.
 *
 * What cannot be read is named with everything that needs it (verify_bad.c). A
 * run that was killed can be gone on with (verify_state.c).
 *
 * What counts as a finding is damage. Packs that no index row names, such as a
 * killed writer leaves, are garbage and not looked for.
 *
 * Others may write meanwhile: rows appear only together with their pack, so a
 * pack that pass 1 did not see is new, and its rows are left alone. gc would
 * move and remove packs, so the whole store is verified under the engine's
 * lock.
 *
 * Packs and maps are read and hashed by all threads of the store's pool; what
 * they find is taken in by the caller's, in the order of one thread.
 *
 * Memory: 64 bytes a pack, 32 bytes a map node (16 MiB for 1 TiB of images), a
 * pack for each thread; 400 bytes a chunk that cannot be read.
 */

#include "common/clock.h"
#include "common/jsonx.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define SET_FIRST_SIZE 1024u
#define LOCK_WAIT_MS   60000u /* for a gc to end */

/* ---- helpers ---------------------------------------------------------- */

static void set_insert(struct id_set *set, const struct chunk_id *id)
{
    size_t slot;

    memcpy(&slot, id->bytes, sizeof(slot));
    for (slot &= set->size - 1; !chunk_id_is_zero(&set->slots[slot]);
         slot = (slot + 1) & (set->size - 1))
        if (chunk_id_compare(&set->slots[slot], id) == 0)
            return;
    set->slots[slot] = *id;
    set->count++;
}

void id_set_add(struct id_set *set, const struct chunk_id *id)
{
    if (2 * (set->count + 1) > set->size) {
        struct id_set grown = {.size =
                                   set->size ? 2 * set->size : SET_FIRST_SIZE};

        grown.slots = vn_alloc(grown.size * sizeof(*grown.slots));
        for (size_t i = 0; i < set->size; i++)
            if (!chunk_id_is_zero(&set->slots[i]))
                set_insert(&grown, &set->slots[i]);
        free(set->slots);
        *set = grown;
    }
    set_insert(set, id);
}

bool id_set_has(const struct id_set *set, const struct chunk_id *id)
{
    size_t slot;

    if (set->size == 0)
        return false;
    memcpy(&slot, id->bytes, sizeof(slot));
    for (slot &= set->size - 1; !chunk_id_is_zero(&set->slots[slot]);
         slot = (slot + 1) & (set->size - 1))
        if (chunk_id_compare(&set->slots[slot], id) == 0)
            return true;
    return false;
}

void id_set_done(struct id_set *set)
{
    free(set->slots);
    *set = (struct id_set){0};
}

json_t *verify_where(const char *kind, uint64_t pack_id)
{
    json_t *where = json_object();
    char hex[16];

    json_object_set_new(where, "kind", json_string(kind));
    snprintf(hex, sizeof(hex), "%012llx", (unsigned long long)pack_id);
    if (pack_id)
        json_object_set_new(where, "pack", json_string(hex));
    return where;
}

void verify_found(struct verify *v, json_t *where, const char *format, ...)
{
    vn_auto(free) char *sentence = NULL;
    vn_auto(json) json_t *finding = where;
    va_list args;

    va_start(args, format);
    if (vasprintf(&sentence, format, args) < 0)
        abort();
    va_end(args);
    v->findings++;
    if (v->opts->finding)
        v->opts->finding(v->opts->context, sentence);
    if (!v->opts->detail)
        return;
    if (!finding)
        finding = verify_where("index", 0);
    json_object_set_new(finding, "sentence", jsonx_any_string(sentence));
    v->opts->detail(v->opts->context, finding);
}

void verify_progress(struct verify *v, uint64_t bytes)
{
    v->done += bytes;
    if (v->opts->progress)
        v->opts->progress(v->opts->context,
                          v->done < v->total ? v->done : v->total, v->total);
}

/* ---- snapshots -------------------------------------------------------- */

static int verify_objects(struct verify *v, const json_t *manifest, bool deep,
                          struct vn_err *err)
{
    json_t *objects = json_object_get(manifest, "objects");
    const char *snapshot = jsonx_string_or(manifest, "name", "?");
    struct map_root root;
    const char *object;
    json_t *entry;

    json_object_foreach (objects, object, entry) {
        if (manifest_parse_root(entry, &root, err) < 0 ||
            verify_map(v, snapshot, object, &root, deep, err) < 0)
            return -1;
    }
    return 0;
}

/* The manifest cannot be read: whatever else it has, it needs this chunk. */
static int bad_snapshot(struct verify *v, const struct index_snapshot *row,
                        const struct vn_err *why, struct vn_err *err)
{
    const struct verify_slot *slot = verify_bad_find(v, &row->id);
    json_t *where = verify_where("snapshot", 0);
    struct chunk_place place;

    json_object_set_new(where, "snapshot", json_string(row->name));
    v->newer |= why->code == VN_E_VERSION;
    verify_found(v, where, "%s", why->msg);
    if (!slot) {
        if (index_find(v->store->index, &row->id, 1, &place, err) < 0)
            return -1;
        slot = verify_bad_add(v, &row->id, &place, why->msg);
    }
    verify_bad_use(v, slot, row->name, "", 0, 0);
    return 0;
}

static int verify_snapshot(struct verify *v, const struct index_snapshot *row,
                           bool deep, struct vn_err *err)
{
    vn_auto(json) json_t *manifest = NULL;
    struct vn_err why = VN_ERR_INIT;

    manifest = snapshot_load(v->store, row, &why);
    if (!manifest && snapshot_was_deleted(v->store, row))
        return 0;
    v->counts.snapshots++;
    if (!manifest)
        return bad_snapshot(v, row, &why, err);
    if (manifest_bytes(manifest) != row->bytes_logical)
        verify_found(v, NULL,
                     "the index has another size of snapshot '%s'; 'vnstore "
                     "repair --rebuild-index' sets it anew",
                     row->name);
    return verify_objects(v, manifest, deep, err);
}

static int verify_snapshots(struct verify *v, struct vn_err *err)
{
    struct index_snapshots step = {.index = v->store->index};
    const struct index_snapshot *row;
    char problem[256];
    int more;

    if (index_check_snapshots(v->store->index, problem, err) < 0)
        return -1;
    v->mend_names = problem[0] != 0;
    if (problem[0])
        verify_found(v, NULL, "%s", problem);
    if (index_check_marks(v->store->index, problem, err) < 0)
        return -1;
    if (problem[0])
        verify_found(v, NULL, "%s", problem);
    while ((more = index_next_snapshot(&step, &row, err)) > 0)
        if (verify_snapshot(v, row, false, err) < 0)
            return -1;
    return more;
}

/* ---- the whole -------------------------------------------------------- */

/* Under a hold: it may be deleted and collected meanwhile. */
static int verify_one(struct verify *v, struct vn_err *err)
{
    vn_auto(store_hold) struct store_hold *hold =
        store_hold_open(v->store, err);
    struct index_snapshot row;

    if (!hold)
        return -1;
    if (index_find_snapshot(v->store->index, v->opts->snapshot, &row, err) < 0)
        return -1;
    v->total = row.bytes_logical;
    if (index_list_lost(v->store->index, &v->lost, &v->lost_count, err) < 0 ||
        verify_snapshot(v, &row, !v->opts->fast, err) < 0)
        return -1;
    verify_bad_report(v);
    return 0;
}

int verify_run(struct verify *v, struct vn_err *err)
{
    struct store_stats stats;

    if (store_stats(v->store, &stats, err) < 0)
        return -1;
    v->total = stats.bytes_packs;
    if (index_list_lost(v->store->index, &v->lost, &v->lost_count, err) < 0 ||
        verify_packs(v, err) < 0 || verify_snapshots(v, err) < 0)
        return -1;
    v->counts.lost = v->lost_count;
    verify_bad_report(v);
    return 0;
}

void verify_done(struct verify *v)
{
    verify_state_close(v, false);
    free(v->packs);
    free(v->lost);
    verify_bad_done(&v->table);
    id_set_done(&v->good);
}

static int verify_all(struct verify *v, struct vn_err *err)
{
    struct engine_lock *lock = store_lock(v->store, false, LOCK_WAIT_MS, err);
    int result = -1;

    if (!lock)
        return -1;
    if (v->opts->fast || verify_state_open(v, err) == 0)
        result = verify_run(v, err);
    if (result == 0)
        verify_state_close(v, true);
    engine_unlock(lock);
    return result;
}

int store_verify(struct store *store, const struct store_verify_opts *opts,
                 uint64_t *ret_findings, struct vn_err *err)
{
    struct verify v = {.store = store, .opts = opts};
    int result;

    v.counts.began_s = clock_wall_ns() / (1000 * VN_MS);
    result = index_check(store->index, err);
    if (result == 0)
        result = opts->snapshot ? verify_one(&v, err) : verify_all(&v, err);
    verify_done(&v);
    if (opts->counts)
        *opts->counts = v.counts;
    if (result < 0)
        return vn_wrap(err, "verifying '%s'", store->path);
    *ret_findings = v.findings;
    return 0;
}
