/*
 * See the header. Of a base "/dev/loop3": "vnstore-loop3" is the device that
 * the domain has, "vnstore-loop3-snap" the snapshot while there is one.
 *
 * Between the suspend and the resume of a device nothing but two ioctls lie;
 * tables are loaded before. Whatever fails, the device is resumed.
 */
#include "capture/vm_xen_dm.h"

#include "common/auto.h"
#include "common/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/dm-ioctl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define CONTROL       "/dev/mapper/control"
#define UUID_PREFIX   "VNSTORE-"
#define SECTOR        512u
#define CHUNK_SECTORS 16u /* 8 KiB: what is copied away at a time */
#define ANSWER_SIZE   8192u

struct request {
    struct dm_ioctl head;
    uint8_t data[ANSWER_SIZE];
};

static int control(unsigned long command, struct request *request,
                   const char *name, const char *what, struct vn_err *err)
{
    vn_auto(close) int fd = open(CONTROL, O_RDWR | O_CLOEXEC);
    struct dm_ioctl *head = &request->head;

    if (fd < 0)
        return vn_fail(err, errno, "open '" CONTROL "'");
    head->version[0] = DM_VERSION_MAJOR;
    head->data_size = sizeof(*request);
    head->data_start = sizeof(*head);
    snprintf(head->name, sizeof(head->name), "%s", name);
    if (ioctl(fd, command, request) < 0)
        return vn_fail(err, errno, "%s device '%s'", what, name);
    return 0;
}

static char *top_name(const char *base)
{
    return vn_format(VM_XEN_DM_PREFIX "%s", basename(base));
}

static char *snap_name(const char *base)
{
    return vn_format(VM_XEN_DM_PREFIX "%s-snap", basename(base));
}

/* "/dev/dm-1" of a device that exists. */
static char *node_of(const struct request *request)
{
    return vn_format("/dev/dm-%u", minor(request->head.dev));
}

static int create(const char *name, struct request *ret, struct vn_err *err)
{
    struct request request = {.head = {.version = {0}}};

    snprintf(request.head.uuid, sizeof(request.head.uuid), UUID_PREFIX "%s",
             name);
    if (control(DM_DEV_CREATE, &request, name, "create", err) < 0)
        return -1;
    *ret = request;
    return 0;
}

static int load(const char *name, uint64_t sectors, const char *target,
                const char *parameters, struct vn_err *err)
{
    struct request request = {.head = {.target_count = 1}};
    struct dm_target_spec spec = {.length = sectors};
    size_t size = strlen(parameters) + 1;

    if (sizeof(spec) + size > sizeof(request.data))
        return vn_fail(err, VN_E_LIMIT, "device '%s': long parameters", name);
    snprintf(spec.target_type, sizeof(spec.target_type), "%s", target);
    memcpy(request.data, &spec, sizeof(spec));
    memcpy(request.data + sizeof(spec), parameters, size);
    return control(DM_TABLE_LOAD, &request, name, "load the table of", err);
}

static int set_suspended(const char *name, bool on, struct vn_err *err)
{
    struct request request = {
        .head = {.flags = on ? DM_SUSPEND_FLAG | DM_SKIP_LOCKFS_FLAG : 0}};

    return control(DM_DEV_SUSPEND, &request, name, on ? "suspend" : "resume",
                   err);
}

static int remove_device(const char *name, struct vn_err *err)
{
    struct request request = {.head = {.version = {0}}};

    if (control(DM_DEV_REMOVE, &request, name, "remove", err) == 0 ||
        err->code == ENXIO)
        return 0;
    return -1;
}

static int count_sectors(const char *device, uint64_t *ret, struct vn_err *err)
{
    vn_auto(close) int fd = open(device, O_RDONLY | O_CLOEXEC);
    uint64_t bytes;

    if (fd < 0 || ioctl(fd, BLKGETSIZE64, &bytes) < 0)
        return vn_fail(err, errno, "size of '%s'", device);
    *ret = bytes / SECTOR;
    return 0;
}

/* ---- devices ------------------------------------------------------------ */

bool vm_xen_dm_is_there(void)
{
    struct request request = {.head = {.version = {0}}};
    struct vn_err ignored = VN_ERR_INIT;
    const uint8_t *at = request.data;
    bool found = false;

    if (control(DM_LIST_VERSIONS, &request, "", "ask about", &ignored) < 0 ||
        request.head.flags & DM_BUFFER_FULL_FLAG)
        return false;
    for (;;) {
        struct dm_target_versions version;
        const char *name = (const char *)at + sizeof(version);

        if (at + sizeof(version) + 16 > request.data + sizeof(request.data))
            return found;
        memcpy(&version, at, sizeof(version));
        found |= strncmp(name, "snapshot-origin", 16) == 0;
        if (!version.next || version.next > ANSWER_SIZE)
            return found;
        at += version.next;
    }
}

char *vm_xen_dm_create(const char *base, struct vn_err *err)
{
    vn_auto(free) char *name = top_name(base);
    vn_auto(free) char *parameters = vn_format("%s 0", base);
    struct vn_err ignored = VN_ERR_INIT;
    struct request device;
    uint64_t sectors;

    /* One of this name has nothing below it any more: base is new. */
    if (vm_xen_dm_remove(base, err) < 0 ||
        count_sectors(base, &sectors, err) < 0 ||
        create(name, &device, err) < 0)
        return NULL;
    if (load(name, sectors, "linear", parameters, err) < 0 ||
        set_suspended(name, false, err) < 0) {
        (void)!remove_device(name, &ignored);
        return NULL;
    }
    return node_of(&device);
}

int vm_xen_dm_remove(const char *base, struct vn_err *err)
{
    vn_auto(free) char *top = top_name(base);
    vn_auto(free) char *snap = snap_name(base);

    if (remove_device(top, err) < 0)
        return -1;
    return remove_device(snap, err);
}

/* ---- a snapshot --------------------------------------------------------- */

char *vm_xen_dm_prepare(const char *base, const char *cow, struct vn_err *err)
{
    vn_auto(free) char *top = top_name(base);
    vn_auto(free) char *snap = snap_name(base);
    vn_auto(free) char *parameters =
        vn_format("%s %s N %u", base, cow, CHUNK_SECTORS);
    struct vn_err ignored = VN_ERR_INIT;
    struct request device;
    uint64_t sectors;

    if (vm_xen_dm_release(base, err) < 0 ||
        count_sectors(base, &sectors, err) < 0 ||
        create(snap, &device, err) < 0)
        return NULL;
    if (load(snap, sectors, "snapshot", parameters, err) < 0 ||
        load(top, sectors, "snapshot-origin", base, err) < 0) {
        (void)!vm_xen_dm_release(base, &ignored);
        return NULL;
    }
    return node_of(&device);
}

int vm_xen_dm_freeze(const char *base, struct vn_err *err)
{
    vn_auto(free) char *top = top_name(base);
    vn_auto(free) char *snap = snap_name(base);
    int rc;

    if (set_suspended(top, true, err) < 0)
        return -1;
    rc = set_suspended(snap, false, err); /* from now on it counts */
    if (rc == 0)
        return set_suspended(top, false, err);
    {
        struct vn_err ignored = VN_ERR_INIT;

        (void)!set_suspended(top, false, &ignored);
    }
    return -1;
}

int vm_xen_dm_check(const char *base, struct vn_err *err)
{
    vn_auto(free) char *snap = snap_name(base);
    struct request request = {.head = {.version = {0}}};
    const char *status;

    if (control(DM_TABLE_STATUS, &request, snap, "ask for", err) < 0)
        return -1;
    if (request.head.data_start >
        sizeof(request) - sizeof(struct dm_target_spec))
        return vn_fail(err, VN_E_PEER, "device '%s': odd status", snap);
    status = (const char *)&request + request.head.data_start +
             sizeof(struct dm_target_spec);
    request.data[sizeof(request.data) - 1] = '\0';
    if (strstr(status, "Invalid") || strstr(status, "verflow"))
        return vn_fail(err, ENOSPC,
                       "its snapshot has no room for what was overwritten");
    return 0;
}

/* The table without a snapshot. */
static int make_linear(const char *name, const char *base, struct vn_err *err)
{
    vn_auto(free) char *parameters = vn_format("%s 0", base);
    struct vn_err ignored = VN_ERR_INIT;
    uint64_t sectors;
    int rc;

    if (count_sectors(base, &sectors, err) < 0 ||
        load(name, sectors, "linear", parameters, err) < 0)
        return err->code == ENXIO ? 0 : -1; /* no such device */
    rc = set_suspended(name, true, err);
    /* In any case: a device that stays suspended hangs its users. */
    if (set_suspended(name, false, rc < 0 ? &ignored : err) < 0)
        return -1;
    return rc;
}

int vm_xen_dm_release(const char *base, struct vn_err *err)
{
    vn_auto(free) char *top = top_name(base);
    vn_auto(free) char *snap = snap_name(base);

    if (make_linear(top, base, err) < 0)
        return -1;
    return remove_device(snap, err);
}
