/*
 * Disk images as block devices.
 *
 * Of an image PATH, "PATH.dev" is a symbolic link to the device that the domain
 * gets: a loop device, or where its file system cannot clone files, a device
 * that can be snapshotted over it (vm_xen_dm.h). An image that is a block
 * device itself is used as it is. Loop devices clear themselves when the last
 * user is gone, so an agent that dies leaves at most a link, and the mapped
 * device, which vm_xen_disks_detach() of the next one removes.
 */
#include "capture/vm_xen_loop.h"

#include "capture/vm_xen_dm.h"
#include "capture/vm_xen_internal.h"
#include "capture/xen_cfg.h"
#include "common/log.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define LOOP_CONTROL "/dev/loop-control"
#define LOOP_TRIES   32
#define PATH_SIZE    512

/* ---- loop devices ------------------------------------------------------- */

static int configure(int device, int file, const char *name)
{
    struct loop_config config = {
        .fd = (uint32_t)file,
        .info = {.lo_flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO}};

    snprintf((char *)config.info.lo_file_name, sizeof(config.info.lo_file_name),
             "%s", name);
    if (ioctl(device, LOOP_CONFIGURE, &config) == 0)
        return 0;
    if (errno == EBUSY)
        return -1;
    config.info.lo_flags = LO_FLAGS_AUTOCLEAR; /* no direct I/O there */
    return ioctl(device, LOOP_CONFIGURE, &config);
}

int vm_xen_loop_open(const char *file, char **ret_path, struct vn_err *err)
{
    vn_auto(close) int control = open(LOOP_CONTROL, O_RDWR | O_CLOEXEC);
    vn_auto(close) int image = open(file, O_RDWR | O_CLOEXEC);

    if (control < 0)
        return vn_fail(err, errno, "open '" LOOP_CONTROL "'");
    if (image < 0)
        return vn_fail(err, errno, "open '%s'", file);
    for (int i = 0; i < LOOP_TRIES; i++) {
        int number = ioctl(control, LOOP_CTL_GET_FREE);
        vn_auto(free) char *path = vn_format("/dev/loop%d", number);
        vn_auto(close) int device =
            number < 0 ? -1 : open(path, O_RDWR | O_CLOEXEC);

        if (device < 0)
            return vn_fail(err, errno, "a free loop device");
        if (configure(device, image, file) == 0) {
            *ret_path = vn_steal(&path);
            return vn_steal_fd(&device);
        }
        if (errno != EBUSY) /* another took it */
            return vn_fail(err, errno, "'%s' on '%s'", file, path);
    }
    return vn_fail(err, EBUSY, "a free loop device");
}

int vm_xen_clone(const char *file, struct vn_err *err)
{
    vn_auto(close) int from = open(file, O_RDONLY | O_CLOEXEC);
    vn_auto(free) char *copy = vn_strdup(file);
    vn_auto(close) int to = -1;

    if (from < 0)
        return vn_fail(err, errno, "open '%s'", file);
    to = open(dirname(copy), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (to < 0)
        return vn_fail(err, errno, "a file beside '%s'", file);
    if (ioctl(to, FICLONE, from) < 0)
        return vn_fail(err, errno, "clone '%s'", file);
    return vn_steal_fd(&to);
}

/* ---- images of a VM ----------------------------------------------------- */

static bool is_block_device(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISBLK(st.st_mode);
}

char *vm_xen_disk_device(const char *image)
{
    return is_block_device(image) ? vn_strdup(image)
                                  : xen_cfg_device_path(image);
}

static bool can_clone(const char *image)
{
    struct vn_err ignored = VN_ERR_INIT;
    vn_auto(close) int fd = vm_xen_clone(image, &ignored);

    return fd >= 0;
}

static int attach_one(struct vm_xen *x, unsigned i, struct vn_err *err)
{
    const char *image = x->config.disks[i].path;
    vn_auto(free) char *link = xen_cfg_device_path(image);
    vn_auto(free) char *device = NULL;

    if (is_block_device(image))
        return 0;
    x->loop_fds[i] = vm_xen_loop_open(image, &device, err);
    if (x->loop_fds[i] < 0)
        return -1;
    if (!can_clone(image) && vm_xen_dm_is_there()) {
        char *mapped = vm_xen_dm_create(device, err);

        if (!mapped)
            return -1;
        free(device);
        device = mapped;
    }
    unlink(link);
    if (symlink(device, link) < 0)
        return vn_fail(err, errno, "link '%s'", link);
    log_debug("vm_xen: disk vm=%s image=%s device=%s", x->base.name, image,
              device);
    return 0;
}

int vm_xen_disks_attach(struct vm_xen *x, struct vn_err *err)
{
    for (unsigned i = 0; i < x->config.disk_count; i++)
        if (attach_one(x, i, err) < 0)
            return vn_wrap(err, "disk %u", i);
    return 0;
}

/* The loop device below a mapped device of ours; NULL if it is none. Freed by
 * the caller. */
char *vm_xen_dm_base(dev_t device)
{
    char path[PATH_SIZE], name[PATH_SIZE] = "";
    FILE *file;

    snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/dm/name", major(device),
             minor(device));
    file = fopen(path, "re");
    if (!file)
        return NULL;
    if (!fgets(name, sizeof(name), file))
        name[0] = '\0';
    fclose(file);
    name[strcspn(name, "\n")] = '\0';
    if (strncmp(name, VM_XEN_DM_PREFIX, strlen(VM_XEN_DM_PREFIX)) != 0)
        return NULL;
    return vn_format("/dev/%s", name + strlen(VM_XEN_DM_PREFIX));
}

static void detach_one(struct vm_xen *x, unsigned i)
{
    vn_auto(free) char *link = xen_cfg_device_path(x->config.disks[i].path);
    vn_auto(free) char *base = NULL;
    struct vn_err err = VN_ERR_INIT;
    struct stat st;

    if (is_block_device(x->config.disks[i].path))
        return;
    if (stat(link, &st) == 0 && S_ISBLK(st.st_mode))
        base = vm_xen_dm_base(st.st_rdev);
    if (base && vm_xen_dm_remove(base, &err) < 0)
        log_debug("vm_xen: disk vm=%s error=\"%s\"", x->base.name, err.msg);
    vn_auto_close(&x->loop_fds[i]);
    x->loop_fds[i] = -1;
    unlink(link);
}

void vm_xen_disks_detach(struct vm_xen *x)
{
    for (unsigned i = 0; i < x->config.disk_count; i++)
        detach_one(x, i);
}
