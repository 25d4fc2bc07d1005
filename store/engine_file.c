#include "store/engine_file_internal.h"

/*
 * The local engine: one file a pack, "packs/<id div 4096>/<id>.pack", both in
 * hexadecimal (9 and 12 digits), so that no directory grows past 4096 files.
 *
 * A pack is written to "<id>.tmp", synced, renamed without replacing, and its
 * directory synced; only then does put() return. Numbers are never given out
 * twice (the index holds the mark), so a temporary file has one owner; one
 * that a killed process left is garbage. Renaming refuses to replace a pack:
 * should the mark ever be lost, a second pack of one number is an error and
 * not silent damage.
 *
 * Files are written with O_DIRECT where the file system can: a buffered
 * stream of fresh packs fills the page cache with what nobody will read soon,
 * and was 3 to 6 times slower on the machine that was measured. Hence the
 * padded, aligned buffers; the file is cut to its true size afterwards.
 *
 * Descriptors of packs that were read are kept, ENGINE_FDS_MAX at most, each in
 * one of the few slots that its number leaves it, under one lock that is not
 * held while reading. A removed pack's descriptor stays
 * readable until it is closed, which is harmless: its number never comes back.
 * The process that removes it closes its own at once; others close theirs when
 * they come upon it while opening another, so that an idle process keeps the
 * space of at most ENGINE_FDS_MAX removed packs.
 *
 * Listing and removing: engine_file_list.c. Holds: engine_file_holds.c.
 */

#include "common/fault.h"
#include "common/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define DIRECT_UNIT 4096u

static const struct engine_ops engine_file_ops;

struct engine *engine_file_open(const char *dir, struct vn_err *err)
{
    struct engine_file *e;
    struct stat st;

    if (stat(dir, &st) < 0)
        return vn_fail_ptr(err, errno, "open directory '%s'", dir);
    if (!S_ISDIR(st.st_mode))
        return vn_fail_ptr(err, ENOTDIR, "open directory '%s'", dir);
    e = vn_alloc(sizeof(*e));
    e->engine.ops = &engine_file_ops;
    e->dir = vn_strdup(dir);
    pthread_mutex_init(&e->lock, NULL);
    for (unsigned i = 0; i < ENGINE_FDS_MAX; i++)
        e->fds[i].fd = -1;
    return &e->engine;
}

static void file_close(struct engine *engine)
{
    struct engine_file *e = (struct engine_file *)engine;

    for (unsigned i = 0; i < ENGINE_FDS_MAX; i++)
        vn_auto_close(&e->fds[i].fd);
    pthread_mutex_destroy(&e->lock);
    free(e->dir);
    free(e);
}

char *engine_file_pack_dir(const struct engine_file *e, uint64_t pack_id)
{
    return vn_format("%s/%09llx", e->dir, (unsigned long long)pack_id >> 12);
}

char *engine_file_pack_path(const struct engine_file *e, uint64_t pack_id,
                            const char *suffix)
{
    return vn_format("%s/%09llx/%012llx.%s", e->dir,
                     (unsigned long long)pack_id >> 12,
                     (unsigned long long)pack_id, suffix);
}

/* ---- writing ---------------------------------------------------------- */

/* Also a folder that is there may not be durable: whoever made it may have been
 * killed before the sync. So each process syncs for itself, once. */
static int make_pack_dir(struct engine_file *e, uint64_t pack_id,
                         const char *dir, struct vn_err *err)
{
    uint64_t folder = (pack_id >> 12) + 1;

    if (mkdir(dir, 0700) < 0 && errno != EEXIST)
        return vn_fail(err, errno, "make directory '%s'", dir);
    if (atomic_load(&e->folder) == folder)
        return 0;
    if (fault_hit("store.pack.folder"))
        return vn_fail(err, EIO, "sync directory '%s'", e->dir);
    if (io_sync_dir(e->dir, err) < 0)
        return -1;
    atomic_store(&e->folder, folder);
    return 0;
}

/* Write all of it with O_DIRECT. 1: this file cannot, nothing was done. */
static int write_direct(const char *path, const uint8_t *data, size_t size,
                        struct vn_err *err)
{
    size_t padded = (size + DIRECT_UNIT - 1) / DIRECT_UNIT * DIRECT_UNIT;
    vn_auto(close) int fd =
        open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_DIRECT, 0600);
    ssize_t n;

    if (fd < 0 && errno == EINVAL) {
        unlink(path); /* some file systems create it all the same */
        return 1;
    }
    if (fd < 0)
        return vn_fail(err, errno, "create '%s'", path);
    n = fault_hit("store.pack.write") ? (errno = EIO, -1)
                                      : write(fd, data, padded);
    if (n < 0 && errno == EINVAL) {
        unlink(path);
        return 1;
    }
    if (n < 0)
        return vn_fail(err, errno, "write '%s'", path);
    if (fcntl(fd, F_SETFL, 0) < 0 || lseek(fd, n, SEEK_SET) < 0)
        return vn_fail(err, errno, "write '%s'", path);
    if ((size_t)n < padded &&
        io_write(fd, data + n, padded - (size_t)n, err) < 0)
        return vn_wrap(err, "'%s'", path);
    if (ftruncate(fd, (off_t)size) < 0)
        return vn_fail(err, errno, "cut '%s'", path);
    if (fault_hit("store.pack.sync"))
        return vn_fail(err, EIO, "sync '%s'", path);
    if (fsync(fd) < 0)
        return vn_fail(err, errno, "sync '%s'", path);
    return 0;
}

static int write_buffered(const char *path, const uint8_t *data, size_t size,
                          struct vn_err *err)
{
    vn_auto(close) int fd =
        open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    if (fd < 0)
        return vn_fail(err, errno, "create '%s'", path);
    if (fault_hit("store.pack.write"))
        return vn_fail(err, EIO, "write '%s'", path);
    if (io_write(fd, data, size, err) < 0)
        return vn_wrap(err, "'%s'", path);
    if (fault_hit("store.pack.sync"))
        return vn_fail(err, EIO, "sync '%s'", path);
    if (fsync(fd) < 0)
        return vn_fail(err, errno, "sync '%s'", path);
    return 0;
}

static int rename_new(const char *from, const char *to, struct vn_err *err)
{
    if (fault_hit("store.pack.rename"))
        return vn_fail(err, EIO, "rename to '%s'", to);
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno == EEXIST)
        return vn_fail(err, VN_E_EXISTS, "'%s' is there already", to);
    if (errno != EINVAL)
        return vn_fail(err, errno, "rename to '%s'", to);
    /* A file system without RENAME_NOREPLACE: a link does not replace. */
    if (link(from, to) < 0)
        return vn_fail(err, errno, "link to '%s'", to);
    if (unlink(from) < 0)
        return vn_fail(err, errno, "remove '%s'", from);
    return 0;
}

static int file_put(struct engine *engine, uint64_t pack_id,
                    const uint8_t *data, size_t size, struct vn_err *err)
{
    struct engine_file *e = (struct engine_file *)engine;
    vn_auto(free) char *dir = engine_file_pack_dir(e, pack_id);
    vn_auto(free) char *temporary = engine_file_pack_path(e, pack_id, "tmp");
    vn_auto(free) char *path = engine_file_pack_path(e, pack_id, "pack");
    int result;

    if (fault_hit("store.pack.create"))
        return vn_fail(err, EIO, "create '%s'", temporary);
    if (make_pack_dir(e, pack_id, dir, err) < 0)
        return -1;
    result = write_direct(temporary, data, size, err);
    if (result > 0)
        result = write_buffered(temporary, data, size, err);
    if (result == 0)
        result = rename_new(temporary, path, err);
    if (result < 0) {
        unlink(temporary);
        return -1;
    }
    result = fault_hit("store.pack.syncdir")
                 ? vn_fail(err, EIO, "sync directory '%s'", dir)
                 : io_sync_dir(dir, err);
    if (result < 0)
        unlink(path);
    return result;
}

static int file_free_space(struct engine *engine, uint64_t *ret_bytes,
                           struct vn_err *err)
{
    struct engine_file *e = (struct engine_file *)engine;
    struct statvfs st;

    if (statvfs(e->dir, &st) < 0)
        return vn_fail(err, errno, "ask for free space in '%s'", e->dir);
    *ret_bytes = (uint64_t)st.f_bavail * st.f_frsize;
    return 0;
}

/* ---- reading ---------------------------------------------------------- */

/* The slots in which a pack's descriptor may be. */
static struct pack_fd *ways_of(struct engine_file *e, uint64_t pack_id)
{
    return &e->fds[pack_id % (ENGINE_FDS_MAX / ENGINE_FD_WAYS) *
                   ENGINE_FD_WAYS];
}

static struct pack_fd *find_fd(struct engine_file *e, uint64_t pack_id)
{
    struct pack_fd *ways = ways_of(e, pack_id);

    for (unsigned i = 0; i < ENGINE_FD_WAYS; i++)
        if (ways[i].fd >= 0 && ways[i].pack_id == pack_id && !ways[i].removed)
            return &ways[i];
    return NULL;
}

/* A slot for the pack that nobody uses, the longest unused first; NULL: all
 * are in use. */
static struct pack_fd *find_victim(struct engine_file *e, uint64_t pack_id)
{
    struct pack_fd *ways = ways_of(e, pack_id);
    struct pack_fd *victim = NULL;

    for (unsigned i = 0; i < ENGINE_FD_WAYS; i++)
        if (ways[i].users == 0 && (!victim || ways[i].used < victim->used))
            victim = &ways[i];
    return victim;
}

static void close_slot(struct pack_fd *slot)
{
    close(slot->fd);
    *slot = (struct pack_fd){.fd = -1};
}

/* Close one descriptor whose file another process has removed; a different
 * one is looked at each time. */
static void drop_removed(struct engine_file *e)
{
    struct pack_fd *slot = &e->fds[e->tick % ENGINE_FDS_MAX];
    struct stat st;

    if (slot->fd >= 0 && slot->users == 0 && fstat(slot->fd, &st) == 0 &&
        st.st_nlink == 0)
        close_slot(slot);
}

static int open_pack(struct engine_file *e, uint64_t pack_id,
                     struct vn_err *err)
{
    vn_auto(free) char *path = engine_file_pack_path(e, pack_id, "pack");
    /* Times of access cost reads of single pages some percent. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOATIME);

    if (fd < 0 && errno == EPERM) /* the file is not ours */
        fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return vn_fail(err, VN_E_NOT_FOUND, "there is no file '%s'", path);
    if (fd < 0)
        return vn_fail(err, errno, "open '%s'", path);
    return fd;
}

/*
 * The descriptor of a pack, from the cache or opened into it. *ret_slot is
 * the slot to release, or NULL: the caller closes the descriptor.
 */
static int take_fd(struct engine_file *e, uint64_t pack_id,
                   struct pack_fd **ret_slot, struct vn_err *err)
{
    struct pack_fd *slot;
    int fd;

    vn_lock_scope(&e->lock);
    slot = find_fd(e, pack_id);
    if (!slot) {
        drop_removed(e);
        fd = open_pack(e, pack_id, err);
        if (fd < 0)
            return -1;
        slot = find_victim(e, pack_id);
        if (!slot) {
            *ret_slot = NULL;
            return fd;
        }
        vn_auto_close(&slot->fd);
        *slot = (struct pack_fd){.pack_id = pack_id, .fd = fd};
    }
    slot->users++;
    slot->used = ++e->tick;
    *ret_slot = slot;
    return slot->fd;
}

static void release_fd(struct engine_file *e, struct pack_fd *slot, int fd)
{
    if (!slot) {
        close(fd);
        return;
    }
    vn_lock_scope(&e->lock);
    if (--slot->users == 0 && slot->removed)
        close_slot(slot);
}

void engine_file_forget(struct engine_file *e, uint64_t pack_id)
{
    struct pack_fd *slot;

    vn_lock_scope(&e->lock);
    slot = find_fd(e, pack_id);
    if (slot && slot->users == 0)
        close_slot(slot);
    else if (slot)
        slot->removed = true;
}

static int file_read(struct engine *engine, uint64_t pack_id, uint64_t offset,
                     void *data, size_t size, struct vn_err *err)
{
    struct engine_file *e = (struct engine_file *)engine;
    struct pack_fd *slot;
    int fd = take_fd(e, pack_id, &slot, err);
    int result;

    if (fd < 0)
        return -1;
    result = fault_hit("store.pack.read")
                 ? vn_fail(err, EIO, "read at %llu", (unsigned long long)offset)
                 : io_pread(fd, data, size, offset, err);
    release_fd(e, slot, fd);
    return result;
}

/* Yields how many bytes of the range lie behind the pack's end. */
static uint64_t prefetch_pack(struct engine_file *e, uint64_t pack_id,
                              uint64_t offset, uint64_t size)
{
    struct vn_err ignored = VN_ERR_INIT;
    uint64_t behind = 0;
    struct pack_fd *slot;
    int fd = take_fd(e, pack_id, &slot, &ignored);
    struct stat st;

    if (fd < 0)
        return 0;
    if (fstat(fd, &st) == 0 && offset + size > (uint64_t)st.st_size)
        behind = offset + size - (uint64_t)st.st_size;
    if (behind > size)
        behind = size;
    io_read_ahead(fd, offset, size - behind);
    release_fd(e, slot, fd);
    return behind;
}

static void file_prefetch(struct engine *engine, uint64_t pack_id,
                          uint64_t offset, uint64_t size)
{
    struct engine_file *e = (struct engine_file *)engine;
    uint64_t behind = prefetch_pack(e, pack_id, offset, size);

    if (behind > 0)
        (void)prefetch_pack(e, pack_id + 1, 0, behind);
}

static int file_size(struct engine *engine, uint64_t pack_id,
                     uint64_t *ret_size, struct vn_err *err)
{
    struct engine_file *e = (struct engine_file *)engine;
    struct pack_fd *slot;
    int fd = take_fd(e, pack_id, &slot, err);
    struct stat st;
    int result = 0;

    if (fd < 0)
        return -1;
    if (fstat(fd, &st) < 0)
        result = vn_fail(err, errno, "size of pack %012llx",
                         (unsigned long long)pack_id);
    else
        *ret_size = (uint64_t)st.st_size;
    release_fd(e, slot, fd);
    return result;
}

static const struct engine_ops engine_file_ops = {
    .put = file_put,
    .read = file_read,
    .prefetch = file_prefetch,
    .size = file_size,
    .free_space = file_free_space,
    .list = engine_file_list,
    .remove = engine_file_remove,
    .hold_open = engine_file_hold_open,
    .hold_set = engine_file_hold_set,
    .hold_close = engine_file_hold_close,
    .holds = engine_file_holds,
    .lock = engine_file_lock,
    .unlock = engine_file_unlock,
    .close = file_close,
};
