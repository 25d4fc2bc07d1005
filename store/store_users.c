#include "store/store_internal.h"

/*
 * Who has a store open.
 *
 * A process that has an index open would go on to use it after a rebuild has
 * put another one in its place, and what it commits would be gone. So opening
 * a store locks a byte of its config.json, shared (F_OFD_SETLK: of the open
 * file, ended by the kernel with it), and rebuilding locks it exclusively,
 * without waiting. A child after fork shares its parent's lock.
 *
 * The kernel does not say who holds such a lock. LMDB has a lock of the older
 * kind on its lock.mdb as long as the index is open; /proc/locks names that
 * one's process. It also shows programs of before, which do not lock
 * config.json. (Opening lock.mdb to ask would be wrong: closing it again takes
 * all older locks of this process from it, LMDB's too.)
 */

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* A process, not this one, that has the index open; 0: none is known. */
static long long index_holder(const char *path)
{
    vn_auto(free) char *file = vn_format("%s/index/lock.mdb", path);
    vn_auto(free) char *line = NULL;
    FILE *locks = fopen("/proc/locks", "re");
    long long found = 0;
    size_t size = 0;
    struct stat st;

    if (!locks)
        return 0;
    while (stat(file, &st) == 0 && getline(&line, &size, locks) > 0) {
        unsigned long long inode;
        unsigned device_major;
        unsigned device_minor;
        long long pid;

        if (sscanf(line, "%*s POSIX %*s %*s %lld %x:%x:%llu", &pid,
                   &device_major, &device_minor, &inode) == 4 &&
            inode == st.st_ino && device_major == major(st.st_dev) &&
            device_minor == minor(st.st_dev) && pid != getpid())
            found = pid;
    }
    fclose(locks);
    return found;
}

static int fail_in_use(const char *path, long long pid, struct vn_err *err)
{
    if (pid > 0)
        return vn_fail(err, VN_E_STATE, "process %lld has store '%s' open", pid,
                       path);
    return vn_fail(err, VN_E_STATE, "another process has store '%s' open",
                   path);
}

int store_users_enter(const char *path, bool exclusive, struct vn_err *err)
{
    vn_auto(free) char *config = vn_format("%s/config.json", path);
    vn_auto(close) int fd =
        open(config, (exclusive ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    struct flock l = {.l_type = exclusive ? F_WRLCK : F_RDLCK,
                      .l_whence = SEEK_SET,
                      .l_len = 1};
    long long pid;

    if (fd < 0)
        return vn_fail(err, errno, "open '%s'", config);
    if (fcntl(fd, F_OFD_SETLK, &l) < 0) {
        if (errno != EAGAIN && errno != EACCES)
            return vn_fail(err, errno, "lock '%s'", config);
        if (exclusive)
            return fail_in_use(path, index_holder(path), err);
        return vn_fail(err, VN_E_STATE,
                       "the index of store '%s' is being rebuilt", path);
    }
    pid = exclusive ? index_holder(path) : 0;
    return pid > 0 ? fail_in_use(path, pid, err) : vn_steal_fd(&fd);
}
