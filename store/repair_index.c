#include "store/repair_internal.h"

/*
 * Repair: building the index anew from the packs.
 *
 *     alone    nobody has the store open (store_users.c), holds it, collects
 *     old      if it can be read: marks, series, lost chunks, its snapshots
 *     read     header, directory and footer of each pack that the engine has;
 *              packs and chunks are entered in large sorted batches
 *     name     manifests become snapshots (repair_snapshots.c)
 *     swap     "index" -> "index.old-N", "index.new" -> "index"
 *
 * Where one chunk lies in several packs, that of the lowest number counts, as
 * where writers enter them. Packs of which header or chunks are damaged are
 * used as far as their directory goes; mending, which follows, reads their
 * chunks. Nothing is removed: what no snapshot needs goes with the next gc.
 *
 * "index.new" is of no meaning to anyone else; one that a killed repair left is
 * made anew. Killed between the two renames there is no index: no store can be
 * opened, and a repair begins again from the packs.
 *
 * Memory: 40 bytes for each of CHUNK_BATCH chunks, 24 bytes a pack.
 */

#include "common/fault.h"
#include "common/io.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK_BATCH    262144u
#define PACK_BATCH     4096u
#define SNAPSHOT_BATCH 256u
#define OLD_MAX        1000000u

/* ---- the old index ---------------------------------------------------- */

void rebuild_add_series(struct rebuild *b, const char *series, uint64_t number)
{
    struct index_series *last;

    for (size_t i = 0; i < b->series_count; i++)
        if (strcmp(b->series[i].name, series) == 0) {
            if (b->series[i].number < number)
                b->series[i].number = number;
            return;
        }
    b->series = repair_grown(b->series, b->series_count, &b->series_capacity,
                             sizeof(*b->series));
    last = &b->series[b->series_count++];
    last->number = number;
    snprintf(last->name, sizeof(last->name), "%s", series);
}

static void take_series(void *context, const char *series, uint64_t number)
{
    if (number > MANIFEST_NUMBER_MAX)
        return; /* damage: no snapshot has such a number */
    rebuild_add_series(context, series, number);
}

static int take_snapshots(struct rebuild *b, struct index *old,
                          struct vn_err *err)
{
    vn_auto(free) struct index_snapshot *rows =
        vn_alloc(SNAPSHOT_BATCH * sizeof(*rows));
    uint64_t from = 0;
    size_t count;

    do {
        if (index_list_snapshots(old, from, SNAPSHOT_BATCH, rows, &count, err) <
            0)
            return -1;
        for (size_t i = 0; i < count; i++) {
            b->old_rows = repair_grown(b->old_rows, b->old_count,
                                       &b->old_capacity, sizeof(*b->old_rows));
            b->old_rows[b->old_count++] = rows[i];
            from = rows[i].seq + 1;
        }
    } while (count == SNAPSHOT_BATCH);
    return 0;
}

/* Marks that damage made so high that no number is left; what is above the
 * packs and snapshots is found anew, and nothing is condemned. */
static void drop_wild_marks(struct index_state *state)
{
    if (state->next_pack > INDEX_MARK_MAX)
        state->next_pack = 1;
    if (state->next_seq > INDEX_MARK_MAX)
        state->next_seq = 1;
    if (state->epoch >= UINT32_MAX)
        state->epoch = 0;
}

/* What cannot be rebuilt from packs, from an index that can be read. */
static int read_old(struct rebuild *b, const char *dir, struct vn_err *err)
{
    struct index *old = index_open(dir, b->repair->config.store_id, err);
    int result;

    if (!old)
        return -1;
    result = index_read_state(old, &b->state, NULL, err) < 0 ||
                     index_list_series(old, take_series, b, err) < 0 ||
                     index_list_lost(old, &b->lost, &b->lost_count, err) < 0 ||
                     take_snapshots(b, old, err) < 0
                 ? -1
                 : 0;
    index_close(old);
    drop_wild_marks(&b->state);
    return result;
}

/* ---- packs ------------------------------------------------------------ */

static void list_entry(void *context, const struct engine_entry *entry)
{
    struct rebuild *b = context;

    b->entries = repair_grown(b->entries, b->entry_count, &b->entry_capacity,
                              sizeof(*b->entries));
    b->entries[b->entry_count++] = *entry;
}

static int by_entry(const void *a, const void *b)
{
    const struct engine_entry *x = a;
    const struct engine_entry *y = b;

    return x->pack_id < y->pack_id ? -1 : x->pack_id > y->pack_id;
}

static int by_id(const void *a, const void *b)
{
    const struct index_chunk *x = a;
    const struct index_chunk *y = b;
    int order = chunk_id_compare(&x->id, &y->id);

    if (order)
        return order;
    return x->place.pack_id < y->place.pack_id
               ? -1
               : x->place.pack_id > y->place.pack_id;
}

static int enter_batch(struct rebuild *b, struct vn_err *err)
{
    if (b->pack_count == 0)
        return 0;
    qsort(b->chunks, b->chunk_count, sizeof(*b->chunks), by_id);
    if (index_add(b->store.index, b->packs, b->pack_count, b->chunks,
                  b->chunk_count, err) < 0)
        return -1;
    b->pack_count = 0;
    b->chunk_count = 0;
    return 0;
}

static void note_manifest(struct rebuild *b, const struct index_chunk *chunk)
{
    b->manifests = repair_grown(b->manifests, b->manifest_count,
                                &b->manifest_capacity, sizeof(*b->manifests));
    b->manifests[b->manifest_count++] =
        (struct repair_manifest){.id = chunk->id, .place = chunk->place};
}

static void note_tombstone(struct rebuild *b, const struct index_chunk *chunk)
{
    uint8_t data[PACK_TOMBSTONE_SIZE];
    struct vn_err why = VN_ERR_INIT;
    struct tombstone t;
    size_t size;

    if (chunk_read_at(&b->store, CHUNK_TOMBSTONE, &chunk->id, &chunk->place,
                      data, &size, NULL, &why) < 0 ||
        tombstone_decode(data, size, &t, &why) < 0) {
        repair_found(b->repair, verify_where("pack", chunk->place.pack_id),
                     "a tombstone in pack %012llx cannot be read: %s; a "
                     "snapshot that was deleted may be back",
                     (unsigned long long)chunk->place.pack_id, why.msg);
        return;
    }
    b->tombstones =
        repair_grown(b->tombstones, b->tombstone_count, &b->tombstone_capacity,
                     sizeof(*b->tombstones));
    b->tombstones[b->tombstone_count++] = (struct repair_tombstone){
        .manifest = t.manifest, .pack_id = chunk->place.pack_id, .seq = t.seq};
}

static void add_chunk(struct rebuild *b, uint64_t pack_id,
                      const struct pack_entry *entry)
{
    struct index_chunk chunk = {.id = ident_short(&entry->id),
                                .place = {.pack_id = pack_id,
                                          .offset = entry->offset,
                                          .stored_size = entry->stored_size,
                                          .kind = entry->kind,
                                          .codec = entry->codec}};

    b->chunks = repair_grown(b->chunks, b->chunk_count, &b->chunk_capacity,
                             sizeof(*b->chunks));
    b->chunks[b->chunk_count++] = chunk;
    if (entry->kind == CHUNK_MANIFEST)
        note_manifest(b, &chunk);
    else if (entry->kind == CHUNK_TOMBSTONE)
        note_tombstone(b, &chunk);
}

static void skip_pack(struct rebuild *b, const struct engine_entry *entry,
                      const char *why)
{
    b->damage = true;
    b->repair->counts.packs_unusable++;
    repair_found(b->repair, verify_where("pack", entry->pack_id),
                 "pack %012llx: %s: what is in it is not known",
                 (unsigned long long)entry->pack_id, why);
}

static int read_pack(struct rebuild *b, const struct engine_entry *entry,
                     struct vn_err *err)
{
    struct vn_err why = VN_ERR_INIT;
    struct pack pack;
    char damage[128];

    if (fault_hit("store.repair.read"))
        return vn_fail(err, EIO, "read pack %012llx",
                       (unsigned long long)entry->pack_id);
    if (pack_read_ends(b->store.engine, entry->pack_id, entry->size, &pack,
                       damage, &why) < 0) {
        if (why.code == VN_E_VERSION) {
            *err = why;
            return vn_wrap(err, "pack %012llx",
                           (unsigned long long)entry->pack_id);
        }
        skip_pack(b, entry, why.msg);
        return 0;
    }
    if (!damage[0] && memcmp(pack.store_id, b->repair->config.store_id,
                             sizeof(pack.store_id)) != 0) {
        skip_pack(b, entry, "it belongs to another store");
        pack_done(&pack);
        return 0;
    }
    b->damage |= damage[0] || pack.id != entry->pack_id;
    b->packs[b->pack_count++] = (struct index_pack){
        .id = entry->pack_id, .size = entry->size, .count = pack.count};
    for (uint32_t i = 0; i < pack.count; i++)
        add_chunk(b, entry->pack_id, &pack.entries[i]);
    pack_done(&pack);
    b->repair->counts.packs_read++;
    return b->chunk_count >= CHUNK_BATCH || b->pack_count == PACK_BATCH
               ? enter_batch(b, err)
               : 0;
}

static int read_packs(struct rebuild *b, struct vn_err *err)
{
    const struct store_repair_opts *opts = b->repair->opts;
    uint64_t total = 0;
    uint64_t done = 0;

    if (engine_list(b->store.engine, list_entry, b, err) < 0)
        return -1;
    if (b->entry_count > 0)
        qsort(b->entries, b->entry_count, sizeof(*b->entries), by_entry);
    for (size_t i = 0; i < b->entry_count; i++) {
        total += b->entries[i].size;
        if (b->entries[i].pack_id >= b->state.next_pack)
            b->state.next_pack = b->entries[i].pack_id + 1;
    }
    b->packs = vn_alloc(PACK_BATCH * sizeof(*b->packs));
    for (size_t i = 0; i < b->entry_count; i++) {
        done += b->entries[i].size;
        if (!b->entries[i].partial && read_pack(b, &b->entries[i], err) < 0)
            return -1;
        if (opts->progress)
            opts->progress(opts->context, done, total);
    }
    return enter_batch(b, err);
}

/* ---- the new index ---------------------------------------------------- */

int repair_remove_index(const char *dir, struct vn_err *err)
{
    static const char *const files[] = {"data.mdb", "lock.mdb"};

    for (size_t i = 0; i < VN_COUNT(files); i++) {
        vn_auto(free) char *path = vn_format("%s/%s", dir, files[i]);

        if (unlink(path) < 0 && errno != ENOENT)
            return vn_fail(err, errno, "remove '%s'", path);
    }
    if (rmdir(dir) < 0 && errno != ENOENT)
        return vn_fail(err, errno, "remove '%s'", dir);
    return 0;
}

/* The first free name "index.old-N". Caller frees. */
static char *old_name(const char *path, struct vn_err *err)
{
    for (unsigned i = 1; i < OLD_MAX; i++) {
        char *name = vn_format("%s/index.old-%u", path, i);

        if (access(name, F_OK) < 0 && errno == ENOENT)
            return name;
        free(name);
    }
    return vn_fail_ptr(err, VN_E_LIMIT, "too many old indexes in '%s'", path);
}

/* Put the new index in place; durable when it returns 0. */
static int swap(const char *path, const char *new_dir, const char *dir,
                struct vn_err *err)
{
    vn_auto(free) char *old = old_name(path, err);

    if (!old || io_sync_dir(new_dir, err) < 0)
        return -1;
    if (fault_hit("store.repair.built"))
        return vn_fail(err, EIO, "put the new index in place");
    if (rename(dir, old) < 0 && errno != ENOENT)
        return vn_fail(err, errno, "rename '%s'", dir);
    /* For "kill": there is no index here. Going on is all that helps. */
    (void)fault_hit("store.repair.aside");
    if (rename(new_dir, dir) < 0)
        return vn_fail(err, errno, "rename '%s'", new_dir);
    (void)fault_hit("store.repair.swapped");
    return io_sync_dir(path, err);
}

static int build_in(struct rebuild *b, const char *new_dir, struct vn_err *err)
{
    const uint8_t *store_id = b->repair->config.store_id;

    if (repair_remove_index(new_dir, err) < 0 ||
        io_make_dirs(new_dir, err) < 0 ||
        index_init(new_dir, store_id, err) < 0)
        return -1;
    b->store.index = index_open(new_dir, store_id, err);
    if (!b->store.index || read_packs(b, err) < 0 ||
        rebuild_snapshots(b, err) < 0)
        return -1;
    index_close(vn_steal(&b->store.index));
    return 0;
}

static int build(struct rebuild *b, bool sound, struct vn_err *err)
{
    const char *path = b->repair->path;
    vn_auto(free) char *dir = vn_format("%s/index", path);
    vn_auto(free) char *new_dir = vn_format("%s/index.new", path);

    b->state = (struct index_state){.next_pack = 1, .next_seq = 1};
    if ((sound && read_old(b, dir, err) < 0) || build_in(b, new_dir, err) < 0)
        return -1;
    if (b->repair->opts->dry_run)
        return repair_remove_index(new_dir, err);
    verify_state_remove(path);
    return swap(path, new_dir, dir, err);
}

/* ---- alone ------------------------------------------------------------ */

static int check_holds(struct rebuild *b, struct vn_err *err)
{
    struct engine_holds holds;

    if (engine_holds(b->store.engine, &holds, err) < 0)
        return -1;
    if (holds.count == 0)
        return 0;
    return vn_fail(err, VN_E_STATE, "process %llu works on the store",
                   (unsigned long long)holds.holder);
}

static int build_locked(struct rebuild *b, bool sound, struct vn_err *err)
{
    struct engine_lock *lock =
        store_lock(&b->store, true, b->repair->opts->wait_ms, err);
    int result;

    if (!lock)
        return -1;
    result = check_holds(b, err);
    if (result == 0)
        result = build(b, sound, err);
    index_close(b->store.index);
    engine_unlock(lock);
    return result;
}

static void rebuild_done(struct rebuild *b)
{
    engine_close(b->store.engine);
    explicit_bzero(&b->store, sizeof(b->store));
    free(b->entries);
    free(b->packs);
    free(b->chunks);
    free(b->manifests);
    free(b->tombstones);
    free(b->lost);
    free(b->series);
    free(b->old_rows);
}

int repair_rebuild(struct repair *r, bool sound, struct vn_err *err)
{
    vn_auto(free) char *packs = vn_format("%s/packs", r->path);
    vn_auto(free) char *path = vn_strdup(r->path);
    vn_auto(close) int users = store_users_enter(r->path, true, err);
    struct rebuild b = {.repair = r};
    int result = -1;

    if (users < 0)
        return -1;
    b.store = (struct store){.path = path, .users_fd = -1, .config = r->config};
    ident_init(&b.store.ident, r->config.identity, r->config.key,
               r->config.secret);
    b.store.engine = engine_file_open(packs, err);
    if (b.store.engine)
        result = build_locked(&b, sound, err);
    rebuild_done(&b);
    return result < 0 ? vn_wrap(err, "building the index anew") : 0;
}
