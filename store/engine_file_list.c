#include "store/engine_file_internal.h"

/*
 * The local engine: listing and removing packs.
 *
 * Only names of the two forms that the engine gives are looked at, in the
 * folder where they belong: HHHHHHHHHHHH.pack and HHHHHHHHHHHH.tmp. What else
 * may lie there is not ours and stays. Folders stay as well: one is made by
 * whoever writes the first of its 4096 packs, who must not find it gone.
 *
 * A rename from .tmp to .pack during a listing can make readdir() show both or
 * one of the names; the number decides, and the caller knows which numbers may
 * be in use.
 */

#include "common/fault.h"
#include "common/io.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FOLDER_DIGITS 9u
#define PACK_DIGITS   12u

static void close_dir(DIR *dir)
{
    if (dir)
        closedir(dir);
}
VN_AUTO_DEFINE(dir, DIR *, close_dir)

/* Exactly `digits` lower-case hex digits at the start of the text. */
static bool parse_hex(const char *text, unsigned digits, uint64_t *ret)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < digits; i++) {
        char c = text[i];

        if (c >= '0' && c <= '9')
            value = value << 4 | (uint64_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            value = value << 4 | (uint64_t)(c - 'a' + 10);
        else
            return false;
    }
    *ret = value;
    return true;
}

static bool parse_name(const char *name, uint64_t folder,
                       struct engine_entry *ret)
{
    const char *suffix = name + PACK_DIGITS;

    if (!parse_hex(name, PACK_DIGITS, &ret->pack_id) ||
        ret->pack_id >> 12 != folder)
        return false;
    ret->partial = strcmp(suffix, ".tmp") == 0;
    return ret->partial || strcmp(suffix, ".pack") == 0;
}

/* 1: the file went away meanwhile. */
static int size_of(int dir_fd, const char *path, struct engine_entry *entry,
                   const char *name, struct vn_err *err)
{
    struct stat st;

    if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        entry->size = (uint64_t)st.st_size;
        return S_ISREG(st.st_mode) ? 0 : 1;
    }
    if (errno == ENOENT)
        return 1;
    return vn_fail(err, errno, "size of '%s/%s'", path, name);
}

static int list_folder(const char *path, uint64_t folder, engine_entry_fn *fn,
                       void *context, struct vn_err *err)
{
    vn_auto(dir) DIR *dir = opendir(path);
    struct dirent *file;

    if (!dir)
        return vn_fail(err, errno, "list '%s'", path);
    while ((errno = 0, file = readdir(dir))) {
        struct engine_entry entry = {0};
        int result;

        if (!parse_name(file->d_name, folder, &entry))
            continue;
        result = size_of(dirfd(dir), path, &entry, file->d_name, err);
        if (result < 0)
            return -1;
        if (result == 0)
            fn(context, &entry);
    }
    return errno ? vn_fail(err, errno, "list '%s'", path) : 0;
}

int engine_file_list(struct engine *engine, engine_entry_fn *fn, void *context,
                     struct vn_err *err)
{
    const struct engine_file *e = (const struct engine_file *)engine;
    vn_auto(dir) DIR *dir = opendir(e->dir);
    struct dirent *file;
    uint64_t folder;

    if (!dir)
        return vn_fail(err, errno, "list '%s'", e->dir);
    while ((errno = 0, file = readdir(dir))) {
        vn_auto(free) char *path = NULL;

        if (!parse_hex(file->d_name, FOLDER_DIGITS, &folder) ||
            file->d_name[FOLDER_DIGITS])
            continue;
        path = vn_format("%s/%s", e->dir, file->d_name);
        if (list_folder(path, folder, fn, context, err) < 0)
            return -1;
    }
    return errno ? vn_fail(err, errno, "list '%s'", e->dir) : 0;
}

/* ---- removing --------------------------------------------------------- */

static int remove_file(const char *path, struct vn_err *err)
{
    if (fault_hit("store.pack.remove"))
        return vn_fail(err, EIO, "remove '%s'", path);
    if (unlink(path) < 0 && errno != ENOENT)
        return vn_fail(err, errno, "remove '%s'", path);
    return 0;
}

static int remove_one(struct engine_file *e, uint64_t pack_id,
                      struct vn_err *err)
{
    vn_auto(free) char *path = engine_file_pack_path(e, pack_id, "pack");
    vn_auto(free) char *temporary = engine_file_pack_path(e, pack_id, "tmp");

    if (remove_file(path, err) < 0 || remove_file(temporary, err) < 0)
        return -1;
    engine_file_forget(e, pack_id);
    return 0;
}

static int sync_folder(struct engine_file *e, uint64_t pack_id,
                       struct vn_err *err)
{
    vn_auto(free) char *dir = engine_file_pack_dir(e, pack_id);

    if (fault_hit("store.pack.removed"))
        return vn_fail(err, EIO, "sync directory '%s'", dir);
    return access(dir, F_OK) == 0 ? io_sync_dir(dir, err) : 0;
}

int engine_file_remove(struct engine *engine, const uint64_t *pack_ids,
                       size_t count, struct vn_err *err)
{
    struct engine_file *e = (struct engine_file *)engine;

    for (size_t i = 0; i < count; i++) {
        if (remove_one(e, pack_ids[i], err) < 0)
            return -1;
        /* One sync a folder where the numbers come in order. */
        if ((i + 1 == count || pack_ids[i + 1] >> 12 != pack_ids[i] >> 12) &&
            sync_folder(e, pack_ids[i], err) < 0)
            return -1;
    }
    return 0;
}
