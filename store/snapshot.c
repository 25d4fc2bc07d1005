#include "store/store_internal.h"

/*
 * Snapshots: commit, load, list, delete.
 *
 * A manifest is a chunk like others: its text without "id" is stored in a
 * pack of its own, and its chunk id is the snapshot's id. So a manifest
 * proves itself when it is read, and lies in the packs when the index is lost.
 *
 * Commit: check the document; walk the maps of all objects, where they differ
 * from those of a snapshot that exists (commit_check.c; a snapshot whose chunks
 * are not all in the index is refused); write the pack with the
 * manifest and wait until it is durable; one index transaction, which
 * re-checks that the name is free. That transaction is the commit: before it
 * the snapshot does not exist, after it it is complete and durable.
 *
 * Commit beside gc: the maps are walked under a hold. Packs that are condemned
 * and have chunks of the snapshot are taken back first; the transaction that
 * publishes is valid only if no pack was condemned since the state that the
 * walk began with, else the walk is done once more. So no snapshot is published
 * with a chunk that gc is about to remove. (docs/formats/store.md,
 * "Collection".)
 *
 * Numbers: the index keeps for each series the highest number that it ever had,
 * so a number never comes back after a delete. store_next_name() reserves
 * nothing: when two commit at once one gets VN_E_EXISTS and asks again.
 */

#include "common/fault.h"
#include "common/io.h"
#include "common/jsonx.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define COMMIT_MAX 100u /* tries, each beaten by a gc that condemns packs */

/* ---- commit ----------------------------------------------------------- */

/* The document as it is stored. Caller frees. */
static char *stored_text(const json_t *manifest)
{
    vn_auto(json) json_t *copy = json_object();

    /* Shallow: only the member "id" differs. */
    if (json_object_update(copy, (json_t *)(uintptr_t)manifest) < 0)
        abort();
    json_object_del(copy, "id");
    return jsonx_text(copy);
}

/* Put the manifest into a pack of its own, durably. */
static int write_manifest(struct store *store, const struct ident_full *id,
                          const char *text, size_t size,
                          struct index_pack *ret_pack,
                          struct index_chunk *ret_chunk, struct vn_err *err)
{
    struct pack_builder *builder = pack_builder_new(store->config.store_id);
    struct pack_entry entry;
    uint64_t pack_id;
    int result = -1;

    if (index_take_pack_ids(store->index, 1, &pack_id, err) == 0 &&
        pack_builder_add(builder, CHUNK_MANIFEST, id, text, size, &entry,
                         err) == 0 &&
        store_put_pack(store, builder, pack_id, ret_pack, err) == 0)
        result = 0;
    pack_builder_free(builder);
    if (result < 0)
        return -1;
    *ret_chunk = (struct index_chunk){
        .id = ident_short(id),
        .place = {.pack_id = pack_id,
                  .offset = entry.offset,
                  .stored_size = entry.stored_size,
                  .kind = entry.kind,
                  .codec = entry.codec},
    };
    return 0;
}

void store_abandon_pack(struct store *store, uint64_t pack_id)
{
    struct vn_err why = VN_ERR_INIT;
    struct index_pack pack;

    if (index_find_pack(store->index, pack_id, &pack, &why) < 0 &&
        why.code == VN_E_NOT_FOUND &&
        engine_remove(store->engine, &pack_id, 1, &why) < 0)
        why.code = 0; /* an orphan for gc */
}

/* A snapshot on its way. */
struct commit {
    struct store *store;
    const json_t *manifest;
    const char *text; /* as it is stored */
    struct ident_full id;
    struct index_snapshot row;
    bool written; /* the manifest is durable: */
    struct index_pack pack;
    struct index_chunk chunk;
};

/* Check that every chunk is there to stay. *ret_epoch: since when that holds.
 */
static int check_chunks(const struct commit *c, uint64_t *ret_epoch,
                        struct vn_err *err)
{
    struct map_check check = {.store = c->store};
    struct index_condemned condemned;
    struct index_state state;
    int result;

    if (index_read_state(c->store->index, &state, &condemned, err) < 0)
        return -1;
    result = gc_rescue(c->store, c->manifest, &condemned, err);
    index_condemned_done(&condemned);
    if (result < 0 || commit_check_maps(&check, c->manifest, &state, err) < 0)
        return -1;
    /* What was missing has come meanwhile: look again from the start. */
    if (result > 0)
        return vn_fail(err, VN_E_STATE, "its chunks come and go");
    *ret_epoch = state.epoch;
    return 0;
}

/* Once more where gc has condemned packs in between. */
static int check_and_publish(struct commit *c, struct vn_err *err)
{
    char series[STORE_NAME_MAX + 1];
    uint64_t number = 0;
    bool numbered = manifest_split_name(c->row.name, series, &number);
    uint64_t epoch;

    for (unsigned i = 0; i < COMMIT_MAX; i++) {
        if (check_chunks(c, &epoch, err) < 0) {
            if (err->code == VN_E_STATE)
                continue;
            return -1;
        }
        if (!c->written &&
            write_manifest(c->store, &c->id, c->text, strlen(c->text), &c->pack,
                           &c->chunk, err) < 0)
            return -1;
        c->written = true;
        if (index_publish(c->store->index, &c->row, numbered ? series : NULL,
                          number, epoch, &c->pack, &c->chunk, err) == 0)
            return 0;
        if (err->code != VN_E_STATE)
            return -1;
    }
    return vn_wrap(err, "tried %u times", COMMIT_MAX);
}

static int publish(struct commit *c, struct vn_err *err)
{
    vn_auto(store_hold) struct store_hold *hold = NULL;

    hold = store_hold_open(c->store, err);
    if (!hold)
        return -1;
    if (check_and_publish(c, err) == 0)
        return 0;
    if (c->written)
        store_abandon_pack(c->store, c->pack.id);
    return -1;
}

static int check_name_free(struct store *store, const char *name,
                           struct vn_err *err)
{
    struct index_snapshot row;
    struct vn_err none = VN_ERR_INIT;

    if (index_find_snapshot(store->index, name, &row, &none) == 0 &&
        strcmp(row.name, name) == 0)
        return vn_fail(err, VN_E_EXISTS, "there is a snapshot '%s' already",
                       name);
    return 0;
}

int store_commit(struct store *store, json_t *manifest, struct vn_err *err)
{
    vn_auto(free) char *text = NULL;
    struct commit c = {.store = store, .manifest = manifest};
    char hex[2 * STORE_ID_SIZE + 1];
    const char *name;

    manifest_set_format(manifest);
    if (manifest_check(manifest, err) < 0 ||
        jsonx_string(manifest, "name", &name, err) < 0)
        return -1;
    if (domain_check_manifest(store, manifest, err) < 0)
        return vn_wrap(err, "manifest of '%s'", name);
    if (check_name_free(store, name, err) < 0)
        return -1;
    if (fault_hit("store.commit.check"))
        return vn_fail(err, EIO, "commit of '%s'", name);
    c.text = text = stored_text(manifest);
    if (strlen(text) > pack_raw_limit(CHUNK_MANIFEST))
        return vn_fail(err, VN_E_LIMIT,
                       "the manifest of '%s' has %zu bytes, at most %zu are "
                       "allowed",
                       name, strlen(text), pack_raw_limit(CHUNK_MANIFEST));
    ident_chunk(&store->ident, CHUNK_MANIFEST, text, strlen(text), &c.id);
    c.row.id = ident_short(&c.id);
    c.row.bytes_logical = manifest_bytes(manifest);
    snprintf(c.row.name, sizeof(c.row.name), "%s", name);
    if (publish(&c, err) < 0)
        return vn_wrap(err, "commit of '%s'", c.row.name);
    store_reserve_renew(store);
    io_hex(c.row.id.bytes, STORE_ID_SIZE, hex);
    json_object_set_new(manifest, "id", json_string(hex));
    return 0;
}

char *store_next_name(struct store *store, const char *series,
                      struct vn_err *err)
{
    char *name;
    uint64_t number;

    if (manifest_check_series(series, err) < 0 ||
        index_series_next(store->index, series, &number, err) < 0)
        return NULL;
    if (number > MANIFEST_NUMBER_MAX)
        return vn_fail_ptr(err, VN_E_LIMIT, "series '%s' has no numbers left",
                           series);
    name = vn_format("%s@%llu", series, (unsigned long long)number);
    if (strlen(name) <= STORE_NAME_MAX)
        return name;
    free(name);
    return vn_fail_ptr(err, VN_E_LIMIT,
                       "the names of series '%s' would pass %u bytes", series,
                       STORE_NAME_MAX);
}

/* ---- loading ---------------------------------------------------------- */

static json_t *parse_manifest(const struct index_snapshot *row,
                              const uint8_t *text, size_t size,
                              struct vn_err *err)
{
    vn_auto(json) json_t *manifest =
        jsonx_parse((const char *)text, size, "manifest", err);
    char hex[2 * STORE_ID_SIZE + 1];

    if (!manifest || manifest_check(manifest, err) < 0)
        return NULL;
    if (strcmp(jsonx_string_or(manifest, "name", ""), row->name) != 0)
        return vn_fail_ptr(err, VN_E_CORRUPT,
                           "its manifest has the name '%.128s'",
                           jsonx_string_or(manifest, "name", ""));
    io_hex(row->id.bytes, STORE_ID_SIZE, hex);
    json_object_set_new(manifest, "id", json_string(hex));
    return vn_steal(&manifest);
}

json_t *snapshot_load(struct store *store, const struct index_snapshot *row,
                      struct vn_err *err)
{
    vn_auto(free) uint8_t *text = malloc(pack_raw_limit(CHUNK_MANIFEST));
    json_t *manifest = NULL;
    size_t size;

    if (!text)
        return vn_fail_ptr(err, VN_E_LIMIT, "no memory for a manifest");
    if (chunk_read(store, CHUNK_MANIFEST, &row->id, text, &size, err) == 0)
        manifest = parse_manifest(row, text, size, err);
    if (!manifest)
        vn_wrap(err, "snapshot '%s'", row->name);
    return manifest;
}

json_t *store_load(struct store *store, const char *snapshot,
                   struct vn_err *err)
{
    struct index_snapshot row;

    if (index_find_snapshot(store->index, snapshot, &row, err) < 0)
        return NULL;
    return snapshot_load(store, &row, err);
}

json_t *store_load_latest(struct store *store, const char *series,
                          struct vn_err *err)
{
    struct index_snapshot row;

    if (index_find_latest(store->index, series, &row, err) < 0)
        return NULL;
    return snapshot_load(store, &row, err);
}

/* What the list shows for a snapshot whose manifest cannot be read. */
static json_t *damaged_manifest(const struct index_snapshot *row,
                                const struct vn_err *why)
{
    json_t *manifest = manifest_new(row->name, "damaged");
    char hex[2 * STORE_ID_SIZE + 1];

    io_hex(row->id.bytes, STORE_ID_SIZE, hex);
    json_object_set_new(manifest, "id", json_string(hex));
    json_object_set_new(manifest, "created", json_string("unknown"));
    json_object_set_new(json_object_get(manifest, "meta"), "damage",
                        json_string(why->msg));
    return manifest;
}

bool snapshot_was_deleted(struct store *store, const struct index_snapshot *row)
{
    struct vn_err ignored = VN_ERR_INIT;
    struct index_snapshot now;
    size_t count;

    return index_list_snapshots(store->index, row->seq, 1, &now, &count,
                                &ignored) == 0 &&
           (count == 0 || now.seq != row->seq);
}

json_t *store_list(struct store *store, struct vn_err *err)
{
    struct index_snapshots step = {.index = store->index};
    vn_auto(json) json_t *list = json_array();
    const struct index_snapshot *row;
    int more;

    while ((more = index_next_snapshot(&step, &row, err)) > 0) {
        struct vn_err why = VN_ERR_INIT;
        json_t *manifest = snapshot_load(store, row, &why);

        if (!manifest && snapshot_was_deleted(store, row))
            continue;
        json_array_append_new(list, manifest ? manifest
                                             : damaged_manifest(row, &why));
    }
    return more < 0 ? NULL : vn_steal(&list);
}

int store_delete(struct store *store, const char *snapshot, struct vn_err *err)
{
    vn_auto(store_hold) struct store_hold *hold = store_hold_open(store, err);
    struct index_snapshot row;

    if (!hold || index_find_snapshot(store->index, snapshot, &row, err) < 0)
        return -1;
    return snapshot_delete_rows(store, &row, 1, err);
}
