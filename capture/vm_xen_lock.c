/*
 * Locks of a domain while it is snapshotted.
 *
 * Two savers of one domain steal each other's dirty pages without notice. Our
 * own kind is kept away by a lock file of ours. libxl takes its own lock a
 * domain (LIBXL_LOCK, Xen 4.17 libxl__lock_domain_userdata) when a save or
 * migration asks for the configuration, which comes first; so while we hold
 * that one, they wait. It is not held by libxl during the save itself: a save
 * that is under way is found by its helper's command line.
 *
 * Both follow libxl's rule for lock files that are removed: after flock() the
 * name must still be this file; the holder unlinks before it closes.
 */
#include "capture/vm_xen_internal.h"

#include "common/clock.h"
#include "common/io.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define OUR_LOCK      "/run/xen/vnstore.%u.lock"
#define LIBXL_LOCK    "/var/lib/xen/userdata-l.%u.%s.domain-userdata-lock"
#define LIBXL_WAIT_NS (5 * VN_SEC)
#define RETRY_US      10000
#define HELPER        "libxl-save-helper"
#define COMMAND_MAX   4096u

/* A descriptor that holds it; -1 and EWOULDBLOCK: someone else does. */
static int try_lock(const char *path, struct vn_err *err)
{
    for (;;) {
        vn_auto(close) int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        struct stat held, named;

        if (fd < 0)
            return vn_fail(err, errno, "open '%s'", path);
        if (flock(fd, LOCK_EX | LOCK_NB) < 0)
            return vn_fail(err, errno, "lock '%s'", path);
        if (fstat(fd, &held) == 0 && stat(path, &named) == 0 &&
            held.st_dev == named.st_dev && held.st_ino == named.st_ino)
            return vn_steal_fd(&fd);
    }
}

static void unlock(int *fd, char **path)
{
    if (*fd < 0)
        return;
    unlink(*path);
    close(*fd);
    *fd = -1;
    free(*path);
    *path = NULL;
}

static int lock_ours(struct vm_xen *x, struct vn_err *err)
{
    x->lock_path = vn_format(OUR_LOCK, x->id.domid);
    x->lock_fd = try_lock(x->lock_path, err);
    if (x->lock_fd >= 0)
        return 0;
    free(vn_steal(&x->lock_path));
    if (err->code == EWOULDBLOCK)
        return vn_fail(err, VN_E_STATE,
                       "another snapshot of domain %u is under way",
                       x->id.domid);
    return -1;
}

/* "libxl-save-helper --save-domain IO_FD RECV_FD DOMID ...": of this domain?
 * The arguments are separated by NULs. */
static bool is_saver(const struct buf *command, uint32_t domid)
{
    const char *arg = (const char *)command->data;
    const char *end = arg + command->size;

    for (unsigned i = 0; arg < end; i++) {
        if (i == 0 && !strstr(arg, HELPER))
            return false;
        if (i == 1 && strcmp(arg, "--save-domain") != 0)
            return false;
        if (i == 4)
            return strtoul(arg, NULL, 10) == domid;
        arg += strlen(arg) + 1;
    }
    return false;
}

int vm_xen_no_other_saver(uint32_t domid, struct vn_err *err)
{
    DIR *dir = opendir("/proc");
    struct dirent *entry;
    int found = 0;

    while (dir && !found && (entry = readdir(dir))) {
        vn_auto(free) char *path = vn_format("/proc/%s/cmdline", entry->d_name);
        vn_auto(buf) struct buf text;
        struct vn_err ignored = VN_ERR_INIT;

        buf_init(&text, COMMAND_MAX);
        if (entry->d_name[0] > '0' && entry->d_name[0] <= '9' &&
            io_read_file(path, &text, &ignored) == 0 && is_saver(&text, domid))
            found = atoi(entry->d_name);
    }
    if (dir)
        closedir(dir);
    if (found)
        return vn_fail(err, VN_E_STATE,
                       "libxl is saving or migrating domain %u (process %d)",
                       domid, found);
    return 0;
}

int vm_xen_lock(struct vm_xen *x, struct vn_err *err)
{
    if (lock_ours(x, err) < 0)
        return -1;
    return vm_xen_no_other_saver(x->id.domid, err);
}

int vm_xen_lock_libxl(struct vm_xen *x, struct vn_err *err)
{
    uint64_t deadline_ns = clock_now_ns() + LIBXL_WAIT_NS;
    char uuid[VM_XEN_UUID_TEXT];

    vm_xen_uuid_text(x->id.uuid, uuid);
    x->libxl_lock_path = vn_format(LIBXL_LOCK, x->id.domid, uuid);
    for (;;) {
        x->libxl_lock_fd = try_lock(x->libxl_lock_path, err);
        if (x->libxl_lock_fd >= 0) /* one may have begun meanwhile */
            return vm_xen_no_other_saver(x->id.domid, err);
        if (err->code != EWOULDBLOCK || clock_now_ns() > deadline_ns ||
            vm_xen_is_cancelled(x))
            break;
        usleep(RETRY_US);
    }
    free(vn_steal(&x->libxl_lock_path));
    if (err->code == EWOULDBLOCK)
        return vn_fail(err, VN_E_STATE,
                       "libxl is at work on domain %u (its lock is held)",
                       x->id.domid);
    return -1;
}

void vm_xen_unlock_libxl(struct vm_xen *x)
{
    unlock(&x->libxl_lock_fd, &x->libxl_lock_path);
}

void vm_xen_unlock(struct vm_xen *x)
{
    vm_xen_unlock_libxl(x);
    unlock(&x->lock_fd, &x->lock_path);
}
