#include "store/store_internal.h"

/*
 * A store as a directory: making, opening, statistics, and the two steps that
 * all writers share (is there space, put a pack).
 *
 *     config.json   format, id and secrets; written last by store_init()
 *     index/        LMDB
 *     packs/        the local engine's files
 *
 * A directory without config.json is no store, so a store_init() that was
 * killed leaves nothing that could be opened.
 */

#include "common/fault.h"
#include "common/io.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Kept free, so that LMDB can always commit a delete. */
#define SPACE_RESERVE (4u << 20)

static int check_empty(const char *path, struct vn_err *err)
{
    vn_auto(free) char *config = vn_format("%s/config.json", path);
    struct dirent *entry;
    bool empty = true;
    DIR *dir;

    if (access(config, F_OK) == 0)
        return vn_fail(err, VN_E_EXISTS, "there is a store at '%s' already",
                       path);
    dir = opendir(path);
    if (!dir)
        return vn_fail(err, errno, "open directory '%s'", path);
    while ((entry = readdir(dir)))
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            empty = false;
    closedir(dir);
    return empty ? 0 : vn_fail(err, ENOTEMPTY, "make a store in '%s'", path);
}

/* Make the store's own name durable. A directory that lies where we may not
 * look was made by someone else, and long ago. */
static int sync_name(const char *path, struct vn_err *err)
{
    struct vn_err why = VN_ERR_INIT;

    if (io_sync_parent(path, &why) == 0 || why.code == EACCES)
        return 0;
    *err = why;
    return -1;
}

int store_init(const char *path, struct vn_err *err)
{
    return store_init_as(path, STORE_BLAKE3, err);
}

int store_init_as(const char *path, enum store_identity identity,
                  struct vn_err *err)
{
    vn_auto(free) char *index = vn_format("%s/index", path);
    vn_auto(free) char *packs = vn_format("%s/packs", path);
    struct store_config config;

    if (io_make_dirs(path, err) < 0 || check_empty(path, err) < 0 ||
        store_config_draw(&config, err) < 0)
        return -1;
    config.identity = identity;
    if (chmod(path, 0700) < 0)
        return vn_fail(err, errno, "protect '%s'", path);
    if (io_make_dirs(index, err) < 0 || io_make_dirs(packs, err) < 0 ||
        index_init(index, config.store_id, err) < 0 ||
        io_sync_dir(index, err) < 0 || io_sync_dir(path, err) < 0 ||
        sync_name(path, err) < 0)
        return vn_wrap(err, "making store '%s'", path);
    if (fault_hit("store.init.config"))
        return vn_fail(err, EIO, "write the configuration of '%s'", path);
    return store_config_write(path, &config, err);
}

struct store *store_open(const char *path, struct vn_err *err)
{
    vn_auto(free) char *index = vn_format("%s/index", path);
    vn_auto(free) char *packs = vn_format("%s/packs", path);
    vn_auto(store) struct store *store = vn_alloc(sizeof(*store));

    store->path = vn_strdup(path);
    store->users_fd = -1;
    if (store_config_read(path, &store->config, err) < 0)
        return NULL;
    store->users_fd = store_users_enter(path, false, err);
    if (store->users_fd < 0)
        return NULL;
    ident_init(&store->ident, store->config.identity, store->config.key,
               store->config.secret);
    store->index = index_open(index, store->config.store_id, err);
    if (store->index)
        store->engine = engine_file_open(packs, err);
    if (!store->engine) {
        vn_wrap(err, "opening store '%s'", path);
        return NULL;
    }
    store->pool = pool_new(pool_threads_wanted());
    return vn_steal(&store);
}

void store_close(struct store *store)
{
    if (!store)
        return;
    pool_free(store->pool);
    engine_close(store->engine);
    index_close(store->index);
    vn_auto_close(&store->users_fd);
    free(store->path);
    explicit_bzero(store, sizeof(*store));
    free(store);
}

const char *store_path(const struct store *store)
{
    return store->path;
}

int store_check_space(struct store *store, uint64_t bytes, struct vn_err *err)
{
    char wanted[16];
    char got[16];
    uint64_t space;

    if (engine_free_space(store->engine, &space, err) < 0)
        return -1;
    if (!fault_hit("store.space") && space >= bytes + SPACE_RESERVE)
        return 0;
    io_format_size(bytes + SPACE_RESERVE, wanted);
    io_format_size(space, got);
    return vn_fail(err, ENOSPC, "store '%s' needs %s and has %s free",
                   store->path, wanted, got);
}

int store_put_pack(struct store *store, struct pack_builder *builder,
                   uint64_t pack_id, struct index_pack *ret, struct vn_err *err)
{
    uint8_t *data;
    size_t size;

    if (store_check_space(store, pack_builder_size(builder), err) < 0 ||
        pack_builder_finish(builder, pack_id, &data, &size, err) < 0 ||
        engine_put(store->engine, pack_id, data, size, err) < 0)
        return vn_wrap(err, "writing pack %012llx",
                       (unsigned long long)pack_id);
    *ret = (struct index_pack){.id = pack_id,
                               .size = size,
                               .count = (uint32_t)pack_builder_count(builder)};
    return 0;
}

static int sum_packs(struct store *store, uint64_t *ret, struct vn_err *err)
{
    struct index_packs step = {.index = store->index};
    const struct index_pack *pack;
    uint64_t sum = 0;
    int more;

    while ((more = index_next_pack(&step, &pack, err)) > 0)
        sum += pack->size;
    *ret = sum;
    return more;
}

static int sum_logical(struct store *store, uint64_t *ret, struct vn_err *err)
{
    struct index_snapshots step = {.index = store->index};
    const struct index_snapshot *row;
    uint64_t sum = 0;
    int more;

    while ((more = index_next_snapshot(&step, &row, err)) > 0)
        sum += row->bytes_logical;
    *ret = sum;
    return more;
}

int store_stats(struct store *store, struct store_stats *ret,
                struct vn_err *err)
{
    struct index_stats index;
    uint64_t packs;
    uint64_t logical;

    if (index_stats(store->index, &index, err) < 0 ||
        sum_packs(store, &packs, err) < 0 ||
        sum_logical(store, &logical, err) < 0)
        return -1;
    *ret = (struct store_stats){.snapshots = index.snapshots,
                                .packs = index.packs,
                                .chunks = index.chunks,
                                .bytes_packs = packs,
                                .bytes_index = index.bytes,
                                .bytes_index_disk = index.bytes_disk,
                                .bytes_logical = logical};
    return 0;
}
