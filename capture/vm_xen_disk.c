/*
 * A domain's disks in a snapshot, each in the quickest way that it allows:
 *
 *     CLONE   a file on btrfs, XFS, ...: cloned at the instant
 *     MAP     a file below a device of ours: device-mapper snapshot
 *     LVM     a logical volume: lvcreate --snapshot
 *     COPY    anything else: read while the domain stands
 *     READ    the domain cannot write to it: at any time
 *
 * The instant lies between suspend and resume. What the guest has seen
 * completed is on the disk then; requests still in flight its driver issues
 * again when it is restored (blkif_recover), which does no harm whether or not
 * they got through. They are waited for all the same, for a moment, so that
 * what is captured does not depend on luck.
 *
 * Which disks: all of libxl's configuration but empty drives, in its order, as
 * restore/ counts them.
 */
#include "capture/vm_xen_dm.h"
#include "capture/vm_xen_internal.h"
#include "capture/vm_xen_loop.h"

#include "capture/xen_objects.h"
#include "common/clock.h"
#include "common/io.h"
#include "common/jsonx.h"
#include "common/log.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define READ_SIZE    (8u << 20)
#define QUIET_NS     (100 * VN_MS)
#define QUIET_US     500
#define SYS_TEXT_MAX 4096u
#define COW_SLACK    (8ull << 20)

enum way { CLONE, MAP, LVM, COPY, READ };

struct disk {
    enum way way;
    char *vdev;
    char *file;   /* image, NULL: a block device */
    char *device; /* "/dev/dm-3" or what is to be read in its place */
    dev_t number; /* of the device that the domain has; 0: none (qdisk) */
    int fd;       /* what is read; -1: not open yet */
    char *base;   /* MAP: below it */
    int cow_fd;   /* MAP: keeps its loop device */
    char *cow;    /* MAP: file */
    char *volume; /* LVM: "vg/lv" */
    char *snap;   /* LVM: "vg/snap", once there */
    bool is_thin;
    uint64_t room; /* LVM: free bytes in the group */
    uint64_t size;
};

struct vm_xen_disks {
    struct vm_xen *x;
    struct disk all[VM_DISKS_MAX];
    unsigned count;
};

static const char *const way_names[] = {"clone", "device-mapper snapshot",
                                        "LVM snapshot", "copy while it stands",
                                        "read"};

/* ---- what a disk is ----------------------------------------------------- */

/* A file below /sys/dev/block/M:N, without its newline; freed by the caller. */
static char *sys_text(dev_t number, const char *name)
{
    vn_auto(free) char *path = vn_format("/sys/dev/block/%u:%u/%s",
                                         major(number), minor(number), name);
    vn_auto(buf) struct buf text;
    struct vn_err ignored = VN_ERR_INIT;
    char *result;

    buf_init(&text, SYS_TEXT_MAX);
    if (io_read_file(path, &text, &ignored) < 0)
        return NULL;
    result = (char *)vn_steal(&text.data);
    result[strcspn(result, "\n")] = '\0';
    return result;
}

/* The device that blkback has open for it, by xenstore; 0: none. */
static dev_t find_device(const struct vm_xen *x, const char *vdev)
{
    vn_auto(free) char *path = vn_format("/libxl/%u/device/vbd", x->id.domid);
    unsigned count = 0, major_number, minor_number;
    vn_auto(free) char **ids = xs_directory(x->host.xs, XBT_NULL, path, &count);

    for (unsigned i = 0; ids && i < count; i++) {
        vn_auto(free) char *backend =
            vm_xen_read(x->host.xs, "%s/%s/backend", path, ids[i]);
        vn_auto(free) char *name =
            backend ? vm_xen_read(x->host.xs, "%s/dev", backend) : NULL;
        vn_auto(free) char *number =
            backend ? vm_xen_read(x->host.xs, "%s/physical-device", backend)
                    : NULL;

        if (name && number && strcmp(name, vdev) == 0 &&
            sscanf(number, "%x:%x", &major_number, &minor_number) == 2)
            return makedev(major_number, minor_number);
    }
    return 0;
}

static bool can_clone(const char *file)
{
    struct vn_err ignored = VN_ERR_INIT;
    vn_auto(close) int fd = vm_xen_clone(file, &ignored);

    return fd >= 0;
}

/* lvs tells: "vg,lv,thin,1234" */
static bool find_volume(struct vm_xen *x, struct disk *d)
{
    vn_auto(free) char *log = vm_xen_path(x, "xl.log");
    const char *argv[] = {"lvs",
                          "--noheadings",
                          "--nosuffix",
                          "--units",
                          "b",
                          "--separator",
                          ",",
                          "-o",
                          "vg_name,lv_name,"
                          "segtype,vg_free",
                          d->device,
                          NULL};
    vn_auto(buf) struct buf out;
    const struct vm_xen_run run = {.argv = argv,
                                   .log = log,
                                   .fd_in = -1,
                                   .out = &out,
                                   .timeout_ns = x->timeout_ns,
                                   .is_cancelled = vm_xen_is_cancelled,
                                   .context = x};
    struct vn_err ignored = VN_ERR_INIT;
    char group[128], volume[128], type[32];
    unsigned long long room;

    buf_init(&out, SYS_TEXT_MAX);
    if (vm_xen_run(&run, &ignored) < 0)
        return false;
    buf_put_u8(&out, '\0');
    if (out.broken ||
        sscanf((const char *)out.data, " %127[^,],%127[^,],%31[^,],%llu", group,
               volume, type, &room) != 4)
        return false;
    d->volume = vn_format("%s/%s", group, volume);
    d->snap = NULL;
    d->is_thin = strcmp(type, "thin") == 0;
    d->room = room;
    return d->is_thin || room >= (4ull << 20);
}

static enum way way_of_device(struct vm_xen *x, struct disk *d)
{
    vn_auto(free) char *loop_file = sys_text(d->number, "loop/backing_file");
    vn_auto(free) char *mapped = sys_text(d->number, "dm/uuid");

    if (loop_file) {
        d->file = vn_steal(&loop_file);
        return can_clone(d->file) ? CLONE : COPY;
    }
    d->base = vm_xen_dm_base(d->number);
    if (d->base)
        return MAP;
    if (mapped && strncmp(mapped, "LVM-", 4) == 0 && find_volume(x, d))
        return LVM;
    return COPY;
}

static int find_way(struct vm_xen *x, struct disk *d, const json_t *config,
                    struct vn_err *err)
{
    const char *path = jsonx_string_or(config, "pdev_path", "");
    const char *format = jsonx_string_or(config, "format", "raw");
    bool writable =
        json_integer_value(json_object_get(config, "readwrite")) != 0;

    if (strcmp(format, "raw") != 0 && strcmp(format, "unknown") != 0)
        return vn_fail(err, VN_E_UNSUPPORTED,
                       "it is of format '%s'; only raw ones can be captured",
                       format);
    d->number = find_device(x, d->vdev);
    if (d->number) {
        d->device =
            vn_format("/dev/block/%u:%u", major(d->number), minor(d->number));
        if (access(d->device, F_OK) < 0) { /* without udev */
            free(d->device);
            d->device = realpath(path, NULL);
        }
        if (!d->device)
            return vn_fail(err, errno, "'%s'", path);
        d->way = way_of_device(x, d);
    } else {
        d->file = vn_strdup(path); /* QEMU has it open */
        d->device = vn_strdup(path);
        d->way = can_clone(path) ? CLONE : COPY;
    }
    if (!writable)
        d->way = READ;
    return 0;
}

static int measure(struct disk *d, struct vn_err *err)
{
    vn_auto(close) int fd = open(d->device, O_RDONLY | O_CLOEXEC);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0)
        return vn_fail(err, errno, "open '%s'", d->device);
    d->size = (uint64_t)st.st_size;
    if (S_ISBLK(st.st_mode) && ioctl(fd, BLKGETSIZE64, &d->size) < 0)
        return vn_fail(err, errno, "size of '%s'", d->device);
    if (d->size > STORE_OBJECT_MAX)
        return vn_fail(err, VN_E_LIMIT, "it has %llu bytes",
                       (unsigned long long)d->size);
    return 0;
}

/* ---- prepare ------------------------------------------------------------ */

/* Room for what is overwritten while the disk is read. Nameless and sparse. */
static int make_cow(struct vm_xen *x, struct disk *d, unsigned i,
                    char **ret_device, struct vn_err *err)
{
    vn_auto(free) char *name = vn_format("disk-%u.cow", i);
    vn_auto(close) int fd = -1;

    d->cow = vm_xen_path(x, name);
    fd = open(d->cow, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 ||
        ftruncate(fd, (off_t)(d->size + d->size / 64 + COW_SLACK)) < 0)
        return vn_fail(err, errno, "create '%s'", d->cow);
    d->cow_fd = vm_xen_loop_open(d->cow, ret_device, err);
    /* The loop device keeps it. */
    unlink(d->cow);
    return d->cow_fd < 0 ? -1 : 0;
}

static int set_up(struct vm_xen *x, struct disk *d, unsigned i,
                  struct vn_err *err)
{
    vn_auto(free) char *cow = NULL;
    char *snapshot;

    if (d->way != MAP)
        return 0;
    if (make_cow(x, d, i, &cow, err) < 0)
        return -1;
    snapshot = vm_xen_dm_prepare(d->base, cow, err);
    if (!snapshot)
        return -1;
    free(d->device);
    d->device = snapshot;
    return 0;
}

static bool is_empty_drive(const json_t *config)
{
    return strcmp(jsonx_string_or(config, "format", ""), "empty") == 0 ||
           (json_integer_value(json_object_get(config, "is_cdrom")) != 0 &&
            !*jsonx_string_or(config, "pdev_path", ""));
}

static int prepare_disk(struct vm_xen_disks *disks, const json_t *config,
                        struct vn_err *err)
{
    struct disk *d = &disks->all[disks->count];
    unsigned i = disks->count++;

    d->fd = -1;
    d->cow_fd = -1;
    d->vdev = vn_strdup(jsonx_string_or(config, "vdev", "?"));
    if (find_way(disks->x, d, config, err) < 0 || measure(d, err) < 0 ||
        set_up(disks->x, d, i, err) < 0)
        return vn_wrap(err, "disk %u (%s)", i, d->vdev);
    log_debug("vm_xen: disk vm=%s number=%u vdev=%s device=%s bytes=%llu "
              "way=\"%s\"",
              disks->x->base.name, i, d->vdev, d->device,
              (unsigned long long)d->size, way_names[d->way]);
    return 0;
}

int vm_xen_disks_prepare(struct vm_xen *x, bool *ret_must_stop,
                         struct vn_err *err)
{
    const json_t *list = json_object_get(x->domain_config, "disks");
    struct vm_xen_disks *disks = vn_alloc(sizeof(*disks));
    json_t *config;
    size_t i;

    disks->x = x;
    x->disks = disks;
    json_array_foreach (list, i, config) {
        if (is_empty_drive(config))
            continue;
        if (disks->count == VM_DISKS_MAX)
            return vn_fail(err, VN_E_LIMIT, "it has more than %d disks",
                           VM_DISKS_MAX);
        if (prepare_disk(disks, config, err) < 0)
            return -1;
        *ret_must_stop |= disks->all[disks->count - 1].way == COPY;
    }
    return 0;
}

/* ---- the instant -------------------------------------------------------- */

static void await_quiet(const struct disk *d)
{
    uint64_t deadline_ns = clock_now_ns() + QUIET_NS;

    while (d->number && clock_now_ns() < deadline_ns) {
        vn_auto(free) char *text = sys_text(d->number, "inflight");
        unsigned reads, writes;

        if (!text || sscanf(text, "%u %u", &reads, &writes) != 2 ||
            reads + writes == 0)
            return;
        usleep(QUIET_US);
    }
}

static int run_lvm(struct vm_xen *x, const char *const *argv,
                   struct vn_err *err)
{
    vn_auto(free) char *log = vm_xen_path(x, "xl.log");
    const struct vm_xen_run run = {.argv = argv,
                                   .log = log,
                                   .fd_in = -1,
                                   .timeout_ns = VM_XEN_XL_TIMEOUT_NS};

    return vm_xen_run(&run, err);
}

static int freeze_volume(struct vm_xen *x, struct disk *d, struct vn_err *err)
{
    uint64_t room = d->size + d->size / 64 + COW_SLACK;
    vn_auto(free) char *bytes = vn_format(
        "%llub", (unsigned long long)(room < d->room ? room : d->room));
    vn_auto(free) char *snap = vn_format("%s-vnstore", d->volume);
    const char *name = strchr(snap, '/') + 1;
    const char *thick[] = {"lvcreate", "-q",  "-s",      "-n", name,
                           "-L",       bytes, d->volume, NULL};
    const char *thin[] = {"lvcreate", "-q", "-s",      "-kn",
                          "-n",       name, d->volume, NULL};

    if (run_lvm(x, d->is_thin ? thin : thick, err) < 0)
        return -1;
    d->snap = vn_steal(&snap);
    free(d->device);
    d->device = vn_format("/dev/%s", d->snap);
    return 0;
}

static int freeze(struct vm_xen *x, struct disk *d, struct vn_err *err)
{
    switch (d->way) {
    case CLONE:
        await_quiet(d);
        d->fd = vm_xen_clone(d->file, err);
        return d->fd < 0 ? -1 : 0;
    case MAP:
        return vm_xen_dm_freeze(d->base, err); /* waits itself */
    case LVM:
        return freeze_volume(x, d, err);
    case COPY:
        await_quiet(d);
        return 0;
    case READ:
        break;
    }
    return 0;
}

int vm_xen_disks_freeze(struct vm_xen *x, struct vn_err *err)
{
    for (unsigned i = 0; i < x->disks->count; i++)
        if (freeze(x, &x->disks->all[i], err) < 0)
            return vn_wrap(err, "disk %u (%s)", i, x->disks->all[i].vdev);
    return 0;
}

/* ---- into the store ----------------------------------------------------- */

static struct image_writer *open_image(const struct vm_xen_save *save,
                                       const char *object, uint64_t size,
                                       struct vn_err *err)
{
    struct vn_err none = VN_ERR_INIT;
    struct map_root parent;
    bool known = save->parent &&
                 manifest_object(save->parent, object, &parent, &none) == 0;

    return image_writer_open(
        save->writer, size, known && parent.size == size ? &parent : NULL, err);
}

/* The next run of bytes that may not be zeros, in whole pages; size 0: none. A
 * block device is one run. */
static uint64_t next_run(int fd, uint64_t from, uint64_t size, uint64_t *start)
{
    uint64_t page = STORE_PAGE_SIZE;
    off_t data = lseek(fd, (off_t)from, SEEK_DATA), hole;

    *start = from;
    if (data < 0)
        return errno == ENXIO ? 0 : size - from;
    hole = lseek(fd, data, SEEK_HOLE);
    if (hole < 0 || (uint64_t)hole > size)
        hole = (off_t)size;
    *start = (uint64_t)data / page * page;
    if (*start < from)
        *start = from;
    hole = (off_t)(((uint64_t)hole + page - 1) / page * page);
    if ((uint64_t)hole > size)
        hole = (off_t)size;
    return (uint64_t)hole - *start;
}

static int copy(struct vm_xen *x, struct disk *d, struct image_writer *image,
                uint64_t *bytes, struct vn_err *err)
{
    vn_auto(free) void *data = NULL;
    uint64_t at = 0;

    if (posix_memalign(&data, STORE_PAGE_SIZE, READ_SIZE) != 0)
        return vn_fail(err, ENOMEM, "a buffer");
    while (at < d->size) {
        uint64_t start, size = next_run(d->fd, at, d->size, &start);

        if (!size)
            break;
        if (size > READ_SIZE)
            size = READ_SIZE;
        if (io_pread(d->fd, data, (size_t)size, start, err) < 0 ||
            image_writer_put(image, start, data, (size_t)size, err) < 0)
            return -1;
        *bytes += size;
        at = start + size;
        if (vm_xen_is_cancelled(x))
            return vn_fail(err, ECANCELED, "the snapshot");
    }
    return 0;
}

static int save_disk(struct vm_xen *x, struct disk *d, unsigned i,
                     const struct vm_xen_save *save, uint64_t *bytes,
                     struct vn_err *err)
{
    vn_auto(free) char *object = xen_object_disk(x->base.name, i);
    vn_auto(image_writer) struct image_writer *image = NULL;
    struct map_root root;

    if (d->fd < 0)
        d->fd = open(d->way == COPY && d->file ? d->file : d->device,
                     O_RDONLY | O_CLOEXEC);
    if (d->fd < 0)
        return vn_fail(err, errno, "open '%s'", d->device);
    image = open_image(save, object, d->size, err);
    if (!image || copy(x, d, image, bytes, err) < 0)
        return -1;
    if (d->way == MAP && vm_xen_dm_check(d->base, err) < 0)
        return -1;
    if (image_writer_finish(image, &root, err) < 0)
        return -1;
    manifest_add(save->manifest, object, &root);
    return 0;
}

int vm_xen_disks_save(struct vm_xen *x, const struct vm_xen_save *save,
                      bool of_standing, uint64_t *bytes, struct vn_err *err)
{
    for (unsigned i = 0; i < x->disks->count; i++) {
        struct disk *d = &x->disks->all[i];

        if ((d->way == COPY) != of_standing)
            continue;
        if (save_disk(x, d, i, save, bytes, err) < 0)
            return vn_wrap(err, "disk %u (%s)", i, d->vdev);
    }
    return 0;
}

/* ---- the end ------------------------------------------------------------ */

static void release(struct vm_xen *x, struct disk *d)
{
    struct vn_err err = VN_ERR_INIT;

    vn_auto_close(&d->fd); /* before what is open can go */
    if (d->way == MAP && d->base && vm_xen_dm_release(d->base, &err) < 0)
        log_debug("vm_xen: disk vm=%s error=\"%s\"", x->base.name, err.msg);
    if (d->snap) {
        const char *argv[] = {"lvremove", "-q", "-f", d->snap, NULL};

        if (run_lvm(x, argv, &err) < 0)
            log_debug("vm_xen: disk vm=%s error=\"%s\"", x->base.name, err.msg);
    }
    vn_auto_close(&d->cow_fd);
    free(d->vdev);
    free(d->file);
    free(d->device);
    free(d->base);
    free(d->cow);
    free(d->volume);
    free(d->snap);
}

void vm_xen_disks_release(struct vm_xen *x)
{
    struct vm_xen_disks *disks = vn_steal(&x->disks);

    for (unsigned i = 0; disks && i < disks->count; i++)
        release(x, &disks->all[i]);
    free(disks);
}
