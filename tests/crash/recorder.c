/*
 * Recorder: a shared library that is preloaded into a program and logs (log.h)
 * every operation that changes the files below one directory.
 *
 *     VN_RECORD_DIR=DIR VN_RECORD_LOG=FILE LD_PRELOAD=librecorder.so PROGRAM
 *
 * The idea is that of ALICE (Pillai et al., OSDI 2014), CrashMonkey (Mohan et
 * al., OSDI 2018) and dm-log-writes: record once, then build every state in
 * which a crash may leave the disk. Recorded here are calls, not blocks, since
 * what a file system makes of them is what varies.
 *
 * How it works: the functions of the C library that change files are defined
 * here, so the dynamic linker prefers these, for shared libraries like LMDB
 * too. Each does the system call itself and appends one record to the log,
 * both under one lock: the order of the log is an order in which the
 * operations were done. A write through a descriptor opened with O_DSYNC is a
 * write and a sync. Only inodes that were created below the directory, or were
 * there at the start, count; descriptors are not tracked, fstat() tells.
 *
 * Not seen: stores through mappings (the mapping is logged, LOG_MMAP), calls
 * that libc makes inside itself (fopen), io_uring, copy_file_range. The test
 * compares the replayed tree with the real one, so a program that begins to use
 * one of these fails it. Files without a name (O_TMPFILE) do not survive a
 * crash and are not logged.
 *
 * A child after fork goes on with the log; parents wait for their children, as
 * the lock is of one process.
 */

#include "log.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define KNOWN_MAX 65536

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int log_fd = -1;
static dev_t root_dev;
/* Inodes below the directory; shared with children. */
static struct known {
    size_t count;
    ino_t inos[KNOWN_MAX];
} * known;

static void die(const char *what)
{
    perror(what);
    _exit(99);
}

static bool is_known(const struct stat *st)
{
    if (st->st_dev != root_dev)
        return false;
    for (size_t i = known->count; i-- > 0;)
        if (known->inos[i] == st->st_ino)
            return true;
    return false;
}

static void learn(ino_t ino)
{
    if (known->count == KNOWN_MAX)
        die("recorder: too many files");
    known->inos[known->count++] = ino;
}

static void unlearn(ino_t ino)
{
    for (size_t i = known->count; i-- > 0;)
        if (known->inos[i] == ino)
            known->inos[i] = known->inos[--known->count];
}

static void put(struct log_record record, const char *name, const char *name2,
                const struct iovec *data, int data_count, size_t data_size)
{
    struct iovec all[3 + IOV_MAX];
    size_t left = data_size;
    int n = 3;
    ssize_t size;

    record.name_size = name ? (uint32_t)strlen(name) : 0;
    record.name2_size = name2 ? (uint32_t)strlen(name2) : 0;
    record.data_size = data_size;
    all[0] = (struct iovec){&record, sizeof(record)};
    all[1] = (struct iovec){(void *)(uintptr_t)name, record.name_size};
    all[2] = (struct iovec){(void *)(uintptr_t)name2, record.name2_size};
    for (int i = 0; i < data_count && left > 0 && n < IOV_MAX; i++) {
        all[n] = data[i];
        if (all[n].iov_len > left)
            all[n].iov_len = left;
        left -= all[n++].iov_len;
    }
    size = syscall(SYS_writev, log_fd, all, n);
    if (left > 0 || size < 0 ||
        (size_t)size != sizeof(record) + record.name_size + record.name2_size +
                            record.data_size)
        die("recorder: write the log");
}

static int learn_file(const char *path, const struct stat *st, int type,
                      struct FTW *where)
{
    (void)path;
    (void)type;
    (void)where;
    learn(st->st_ino);
    return 0;
}

__attribute__((constructor)) static void begin(void)
{
    const char *dir = getenv(LOG_DIR_VARIABLE);
    const char *file = getenv(LOG_FILE_VARIABLE);
    struct stat st;

    if (!dir || !file)
        return;
    if (stat(dir, &st) < 0)
        die(dir);
    root_dev = st.st_dev;
    known =
        (void *)syscall(SYS_mmap, NULL, sizeof(*known), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (known == MAP_FAILED)
        die("recorder: mmap");
    log_fd = (int)syscall(SYS_openat, AT_FDCWD, file,
                          O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log_fd < 0)
        die(file);
    if (lseek(log_fd, 0, SEEK_END) == 0)
        put((struct log_record){.type = LOG_ROOT, .ino = st.st_ino}, NULL, NULL,
            NULL, 0, 0);
    nftw(dir, learn_file, 16, FTW_PHYS);
}

/* ---- files ------------------------------------------------------------ */

/* Is the descriptor that of a file below the directory? */
static bool watched(int fd, struct stat *st)
{
    return log_fd >= 0 && fd != log_fd && fstat(fd, st) == 0 &&
           (S_ISREG(st->st_mode) || S_ISDIR(st->st_mode)) && is_known(st);
}

static void put_sync(const struct stat *st)
{
    put((struct log_record){.type = LOG_SYNC, .ino = st->st_ino}, NULL, NULL,
        NULL, 0, 0);
}

static void put_write(int fd, const struct stat *st, off_t offset,
                      const struct iovec *data, int count, ssize_t size)
{
    put((struct log_record){.type = LOG_WRITE,
                            .ino = st->st_ino,
                            .offset = (uint64_t)offset},
        NULL, NULL, data, count, (size_t)size);
    if (fcntl(fd, F_GETFL) & O_DSYNC)
        put_sync(st);
}

/* At `offset`, or at the descriptor's place where it is -1. */
static ssize_t do_write(int fd, const struct iovec *data, int count,
                        off_t offset)
{
    struct stat st;
    ssize_t n;
    off_t at;

    if (log_fd < 0)
        return offset < 0 ? syscall(SYS_writev, fd, data, count)
                          : syscall(SYS_pwritev, fd, data, count, offset, 0);
    pthread_mutex_lock(&lock);
    n = offset < 0 ? syscall(SYS_writev, fd, data, count)
                   : syscall(SYS_pwritev, fd, data, count, offset, 0);
    if (n > 0 && watched(fd, &st)) {
        at = offset < 0 ? lseek(fd, 0, SEEK_CUR) - n : offset;
        put_write(fd, &st, at, data, count, n);
    }
    pthread_mutex_unlock(&lock);
    return n;
}

static int do_truncate(int fd, off_t size)
{
    struct stat st;
    int result;

    pthread_mutex_lock(&lock);
    result = (int)syscall(SYS_ftruncate, fd, size);
    if (result == 0 && watched(fd, &st))
        put((struct log_record){.type = LOG_TRUNCATE,
                                .ino = st.st_ino,
                                .offset = (uint64_t)size},
            NULL, NULL, NULL, 0, 0);
    pthread_mutex_unlock(&lock);
    return result;
}

/* Space as such changes nothing; a larger size does. */
static int do_fallocate(int fd, int mode, off_t offset, off_t size)
{
    struct stat st;
    int result;

    pthread_mutex_lock(&lock);
    result = (int)syscall(SYS_fallocate, fd, mode, offset, size);
    if (result == 0 && watched(fd, &st)) {
        if (mode & ~FALLOC_FL_KEEP_SIZE)
            die("recorder: fallocate with a mode that is not known");
        put((struct log_record){.type = LOG_TRUNCATE,
                                .ino = st.st_ino,
                                .offset = (uint64_t)st.st_size},
            NULL, NULL, NULL, 0, 0);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

static int do_sync(long call, int fd)
{
    struct stat st;
    int result;

    pthread_mutex_lock(&lock);
    result = (int)syscall(call, fd);
    if (result == 0 && watched(fd, &st))
        put_sync(&st);
    pthread_mutex_unlock(&lock);
    return result;
}

static void put_sync_all(void)
{
    if (log_fd >= 0)
        put((struct log_record){.type = LOG_SYNC_ALL}, NULL, NULL, NULL, 0, 0);
}

/* ---- names ------------------------------------------------------------ */

/* The directory of a path, if it is below ours, and the path's last part. */
static bool parent_of(int at, const char *path, ino_t *ret_dir,
                      const char **ret_name)
{
    const char *slash = strrchr(path, '/');
    char dir[PATH_MAX];
    struct stat st;

    *ret_name = slash ? slash + 1 : path;
    snprintf(dir, sizeof(dir), "%.*s",
             slash ? (int)(slash - path) + (slash == path) : 1,
             slash ? path : ".");
    if (log_fd < 0 || fstatat(at, dir, &st, 0) < 0 || !is_known(&st))
        return false;
    *ret_dir = st.st_ino;
    return true;
}

static void put_name(enum log_type type, ino_t dir, const char *name, ino_t ino)
{
    put((struct log_record){.type = type, .ino = ino, .dir = dir}, name, NULL,
        NULL, 0, 0);
}

static int do_open(int at, const char *path, int flags, mode_t mode)
{
    bool there;
    const char *name;
    struct stat st;
    ino_t dir;
    int fd;

    if (log_fd < 0 || (flags & O_TMPFILE) == O_TMPFILE ||
        !(flags & (O_CREAT | O_TRUNC)))
        return (int)syscall(SYS_openat, at, path, flags, mode);
    pthread_mutex_lock(&lock);
    there = fstatat(at, path, &st, 0) == 0;
    fd = (int)syscall(SYS_openat, at, path, flags, mode);
    if (fd >= 0 && parent_of(at, path, &dir, &name) && fstat(fd, &st) == 0) {
        if (!there) {
            learn(st.st_ino);
            put_name(LOG_CREATE, dir, name, st.st_ino);
        } else if (flags & O_TRUNC) {
            put((struct log_record){.type = LOG_TRUNCATE, .ino = st.st_ino},
                NULL, NULL, NULL, 0, 0);
        }
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

static int do_mkdir(int at, const char *path, mode_t mode)
{
    const char *name;
    struct stat st;
    ino_t dir;
    int result;

    pthread_mutex_lock(&lock);
    result = (int)syscall(SYS_mkdirat, at, path, mode);
    if (result == 0 && parent_of(at, path, &dir, &name) &&
        fstatat(at, path, &st, 0) == 0) {
        learn(st.st_ino);
        put_name(LOG_MKDIR, dir, name, st.st_ino);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

static int do_unlink(int at, const char *path, int flags)
{
    struct stat st = {0};
    const char *name;
    ino_t dir;
    int result;

    pthread_mutex_lock(&lock);
    (void)fstatat(at, path, &st, AT_SYMLINK_NOFOLLOW);
    result = (int)syscall(SYS_unlinkat, at, path, flags);
    if (result == 0 && parent_of(at, path, &dir, &name)) {
        put_name(LOG_UNLINK, dir, name, st.st_ino);
        if (st.st_nlink == 1 || S_ISDIR(st.st_mode))
            unlearn(st.st_ino);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

static int do_rename(int from_at, const char *from, int to_at, const char *to,
                     unsigned flags)
{
    const char *from_name;
    const char *to_name;
    ino_t from_dir;
    ino_t to_dir;
    bool from_ours;
    bool to_ours;
    int result;

    pthread_mutex_lock(&lock);
    result = (int)syscall(SYS_renameat2, from_at, from, to_at, to, flags);
    from_ours = parent_of(from_at, from, &from_dir, &from_name);
    to_ours = parent_of(to_at, to, &to_dir, &to_name);
    if (result == 0 && (from_ours || to_ours)) {
        if (!from_ours || !to_ours || (flags & ~(unsigned)RENAME_NOREPLACE))
            die("recorder: a rename that is not known");
        put((struct log_record){.type = LOG_RENAME,
                                .dir = from_dir,
                                .dir2 = to_dir},
            from_name, to_name, NULL, 0, 0);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

static int do_link(int from_at, const char *from, int to_at, const char *to,
                   int flags)
{
    struct stat st;
    const char *name;
    ino_t dir;
    int result;

    pthread_mutex_lock(&lock);
    result = (int)syscall(SYS_linkat, from_at, from, to_at, to, flags);
    if (result == 0 && parent_of(to_at, to, &dir, &name) &&
        fstatat(to_at, to, &st, AT_SYMLINK_NOFOLLOW) == 0)
        put_name(LOG_LINK, dir, name, st.st_ino);
    pthread_mutex_unlock(&lock);
    return result;
}

/* ---- what the C library has under these names ------------------------- */

#pragma GCC diagnostic ignored "-Wmissing-prototypes"
#pragma GCC diagnostic ignored "-Wredundant-decls"
#pragma GCC diagnostic ignored "-Wnonnull-compare"

#define MODE_ARGUMENT(flags)                                                   \
    ({                                                                         \
        mode_t mode_ = 0;                                                      \
        if ((flags) & (O_CREAT | __O_TMPFILE)) {                               \
            va_list ap_;                                                       \
            va_start(ap_, flags);                                              \
            mode_ = va_arg(ap_, mode_t);                                       \
            va_end(ap_);                                                       \
        }                                                                      \
        mode_;                                                                 \
    })

int open(const char *path, int flags, ...)
{
    return do_open(AT_FDCWD, path, flags, MODE_ARGUMENT(flags));
}

int open64(const char *path, int flags, ...)
{
    return do_open(AT_FDCWD, path, flags, MODE_ARGUMENT(flags));
}

int openat(int at, const char *path, int flags, ...)
{
    return do_open(at, path, flags, MODE_ARGUMENT(flags));
}

int openat64(int at, const char *path, int flags, ...)
{
    return do_open(at, path, flags, MODE_ARGUMENT(flags));
}

int creat(const char *path, mode_t mode)
{
    return do_open(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

int mkostemp(char *path, int flags)
{
    static unsigned count;
    size_t len = strlen(path);

    for (;;) {
        int fd;

        snprintf(path + len - 6, 7, "%06x",
                 (unsigned)getpid() * 4096u + count++);
        fd = do_open(AT_FDCWD, path, flags | O_RDWR | O_CREAT | O_EXCL, 0600);
        if (fd >= 0 || errno != EEXIST)
            return fd;
    }
}

int mkstemp(char *path)
{
    return mkostemp(path, 0);
}

ssize_t write(int fd, const void *data, size_t size)
{
    struct iovec one = {(void *)(uintptr_t)data, size};

    return do_write(fd, &one, 1, -1);
}

ssize_t writev(int fd, const struct iovec *data, int count)
{
    return do_write(fd, data, count, -1);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset)
{
    struct iovec one = {(void *)(uintptr_t)data, size};

    return do_write(fd, &one, 1, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset)
{
    return pwrite(fd, data, size, offset);
}

ssize_t pwritev(int fd, const struct iovec *data, int count, off_t offset)
{
    return do_write(fd, data, count, offset);
}

ssize_t pwritev64(int fd, const struct iovec *data, int count, off_t offset)
{
    return do_write(fd, data, count, offset);
}

int ftruncate(int fd, off_t size)
{
    return do_truncate(fd, size);
}

int ftruncate64(int fd, off_t size)
{
    return do_truncate(fd, size);
}

int fallocate(int fd, int mode, off_t offset, off_t size)
{
    return do_fallocate(fd, mode, offset, size);
}

int fallocate64(int fd, int mode, off_t offset, off_t size)
{
    return do_fallocate(fd, mode, offset, size);
}

int posix_fallocate(int fd, off_t offset, off_t size)
{
    return do_fallocate(fd, 0, offset, size) < 0 ? errno : 0;
}

int posix_fallocate64(int fd, off_t offset, off_t size)
{
    return posix_fallocate(fd, offset, size);
}

int fsync(int fd)
{
    return do_sync(SYS_fsync, fd);
}

int fdatasync(int fd)
{
    return do_sync(SYS_fdatasync, fd);
}

void sync(void)
{
    syscall(SYS_sync);
    put_sync_all();
}

int syncfs(int fd)
{
    int result = (int)syscall(SYS_syncfs, fd);

    if (result == 0)
        put_sync_all();
    return result;
}

/* sync_file_range() and msync() promise nothing that a replay may rely on. */

void *mmap(void *at, size_t size, int access, int flags, int fd, off_t offset)
{
    void *result =
        (void *)syscall(SYS_mmap, at, size, access, flags, fd, offset);
    struct stat st;

    if (result == MAP_FAILED || fd < 0 || !(flags & MAP_SHARED) ||
        !(access & PROT_WRITE) || log_fd < 0)
        return result;
    pthread_mutex_lock(&lock);
    if (watched(fd, &st))
        put((struct log_record){.type = LOG_MMAP, .ino = st.st_ino}, NULL, NULL,
            NULL, 0, 0);
    pthread_mutex_unlock(&lock);
    return result;
}

void *mmap64(void *at, size_t size, int access, int flags, int fd, off_t offset)
{
    return mmap(at, size, access, flags, fd, offset);
}

int mkdir(const char *path, mode_t mode)
{
    return do_mkdir(AT_FDCWD, path, mode);
}

int mkdirat(int at, const char *path, mode_t mode)
{
    return do_mkdir(at, path, mode);
}

int unlink(const char *path)
{
    return do_unlink(AT_FDCWD, path, 0);
}

int unlinkat(int at, const char *path, int flags)
{
    return do_unlink(at, path, flags);
}

int rmdir(const char *path)
{
    return do_unlink(AT_FDCWD, path, AT_REMOVEDIR);
}

int remove(const char *path)
{
    int result = do_unlink(AT_FDCWD, path, 0);

    return result < 0 && errno == EISDIR ? rmdir(path) : result;
}

int rename(const char *from, const char *to)
{
    return do_rename(AT_FDCWD, from, AT_FDCWD, to, 0);
}

int renameat(int from_at, const char *from, int to_at, const char *to)
{
    return do_rename(from_at, from, to_at, to, 0);
}

int renameat2(int from_at, const char *from, int to_at, const char *to,
              unsigned flags)
{
    return do_rename(from_at, from, to_at, to, flags);
}

int link(const char *from, const char *to)
{
    return do_link(AT_FDCWD, from, AT_FDCWD, to, 0);
}

int linkat(int from_at, const char *from, int to_at, const char *to, int flags)
{
    return do_link(from_at, from, to_at, to, flags);
}
