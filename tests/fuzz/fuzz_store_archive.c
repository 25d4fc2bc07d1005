/*
 * Fuzz target: import of a tar. Beside not crashing it must not leave a
 * snapshot behind when it fails, and what it takes must load again.
 */

#include "store/archive_internal.h"

#include <assert.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[] = "/tmp/vn-fuzz-XXXXXX";
static struct store *store;

static int remove_one(const char *path, const struct stat *st, int type,
                      struct FTW *where)
{
    (void)st, (void)type, (void)where;
    return remove(path);
}

static void clean_up(void)
{
    store_close(store);
    nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static void set_up(void)
{
    struct vn_err err = VN_ERR_INIT;

    if (!mkdtemp(dir) || store_init(dir, &err) < 0)
        abort();
    store = store_open(dir, &err);
    if (!store)
        abort();
    atexit(clean_up);
}

static size_t count_snapshots(void)
{
    struct vn_err err = VN_ERR_INIT;
    vn_auto(json) json_t *all = store_list(store, &err);

    assert(all);
    return json_array_size(all);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    vn_auto(json) json_t *sums = NULL;
    vn_auto(json) json_t *manifest = NULL;
    struct archive_imported imported;
    vn_auto(close) int fd = memfd_create("tar", MFD_CLOEXEC);
    struct archive_import_opts opts = {.fd = fd, .size_max = 1u << 30};
    struct vn_err err = VN_ERR_INIT;

    if (!store)
        set_up();
    sums = archive_sums_parse((const char *)data, size, &err);
    if (fd < 0 || pwrite(fd, data, size, 0) != (ssize_t)size)
        abort();
    if (archive_import(store, &opts, &imported, &err) < 0) {
        assert(err.code != 0 && err.msg[0]);
        assert(count_snapshots() == 0);
        return 0;
    }
    manifest = store_load(store, imported.name, &err);
    assert(manifest && store_delete(store, imported.name, &err) == 0);
    free(imported.name);
    return 0;
}
