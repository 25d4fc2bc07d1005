/*
 * Disks at the instant of memory: fleecing, and reading over NBD.
 *
 * Before the instant each disk gets an overlay (qcow2, its backing is the
 * disk). At the instant one transaction starts a backup job a disk, `sync:
 * none`: from then on QEMU copies each block that the guest is about to
 * overwrite into the overlay first, so the overlay goes on showing the disk of
 * the instant, whatever the guest writes. It is exported over NBD and read
 * while the guest runs. (QEMU docs/interop/live-block-operations.rst.)
 *
 * Reading: base:allocation tells which runs hold data; only these are read, up
 * to READS_MAX requests of READ_SIZE in flight. A run is widened to whole
 * pages of the store; the bytes around it are of the same instant.
 *
 * After a plain migration (mode stop) QEMU has given its images up
 * ("inactive"), and a backup job is refused. QEMU >= 10 takes them back by
 * blockdev-set-active, an older one when an NBD export of them is added.
 *
 * Limits: overlays grow by what the guest overwrites while it is saved; when
 * their file system is full QEMU stops the guest on its next write, the save
 * fails, and an abort lets it run on, with no write lost.
 */
#include "capture/vm_qemu.h"

#include "capture/qemu_objects.h"
#include "common/clock.h"
#include "common/jsonx.h"

#include <errno.h>
#include <fcntl.h>
#include <libnbd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SOCKET_PATH_MAX 107u
#define STATUS_SPAN     (1u << 30) /* bytes asked for in one block status */
#define EXTENTS_MAX     4096u      /* kept of one answer */
#define READ_SIZE       (1u << 20)
#define READS_MAX       8u
#define POLL_MS         100
#define HAS_SET_ACTIVE  100000u /* QEMU 10.0.0 */

/* ---- which -------------------------------------------------------------- */

static int take_disk(struct vm_qemu *v, const json_t *inserted,
                     struct vn_err *err)
{
    struct vm_qemu_disk *disk = &v->disks[v->disk_count];
    json_t *image;
    const char *node;
    uint64_t size;

    if (v->disk_count == VM_DISKS_MAX)
        return vn_fail(err, VN_E_LIMIT, "it has more than %d disks",
                       VM_DISKS_MAX);
    if (jsonx_string(inserted, "node-name", &node, err) < 0 ||
        jsonx_object(inserted, "image", &image, err) < 0 ||
        jsonx_u64(image, "virtual-size", &size, err) < 0)
        return -1;
    if (size > STORE_OBJECT_MAX)
        return vn_fail(err, VN_E_LIMIT, "disk '%s' has %llu bytes", node,
                       (unsigned long long)size);
    disk->node = vn_strdup(node);
    disk->size = size;
    v->disk_count++;
    return 0;
}

/* For a VM that we did not start: what its disks are made of. */
static void take_config(struct vm_qemu *v, const json_t *inserted, unsigned i)
{
    struct vm_disk *disk = &v->config.disks[i];
    const char *format = jsonx_string_or(inserted, "drv", "raw");

    free(disk->path);
    free(disk->format);
    disk->path = vn_strdup(
        jsonx_string_or(json_object_get(inserted, "image"), "filename", "?"));
    disk->format = vn_strdup(strcmp(format, "qcow2") == 0 ? "qcow2" : "raw");
    if (v->config.disk_count <= i)
        v->config.disk_count = i + 1;
}

int vm_qemu_find_disks(struct vm_qemu *v, struct vn_err *err)
{
    vn_auto(json) json_t *reply = NULL;
    json_t *device;
    size_t i;

    for (unsigned d = 0; d < v->disk_count; d++)
        free(v->disks[d].node);
    v->disk_count = 0;
    if (qmp_command(v->qmp, "query-block", NULL, &reply, err) < 0)
        return -1;
    json_array_foreach (reply, i, device) {
        json_t *inserted = json_object_get(device, "inserted");

        if (!inserted || jsonx_bool_or(inserted, "ro", true))
            continue;
        if (take_disk(v, inserted, err) < 0)
            return vn_wrap(err, "VM '%s'", v->base.name);
        if (!v->child)
            take_config(v, inserted, v->disk_count - 1);
    }
    if (v->child && v->disk_count != v->config.disk_count)
        return vn_fail(err, VN_E_STATE,
                       "VM '%s' has %u writable disks instead of %u",
                       v->base.name, v->disk_count, v->config.disk_count);
    return 0;
}

/* ---- before the instant ------------------------------------------------- */

static char *fleece_path(const struct vm_qemu *v, unsigned i)
{
    return vn_format("%s/fleece-%u.qcow2", v->state_dir, i);
}

static int prepare_disk(struct vm_qemu *v, unsigned i, struct vn_err *err)
{
    vn_auto(free) char *path = fleece_path(v, i);
    vn_auto(free) char *size =
        vn_format("%llu", (unsigned long long)v->disks[i].size);
    vn_auto(free) char *node = vn_format(VM_QEMU_FLEECE "%u", i);
    char program[] = "qemu-img", create[] = "create", quiet[] = "-q",
         option[] = "-f", format[] = "qcow2";
    char *argv[] = {program, create, quiet, option, format, path, size, NULL};

    if (vm_qemu_run(argv, err) < 0)
        return -1;
    return qmp_command(v->qmp, "blockdev-add",
                       json_pack("{s:s,s:s,s:{s:s,s:s},s:s}", "driver", "qcow2",
                                 "node-name", node, "file", "driver", "file",
                                 "filename", path, "backing", v->disks[i].node),
                       NULL, err);
}

int vm_qemu_disks_prepare(struct vm_qemu *v, struct vn_err *err)
{
    vn_auto(free) char *socket = vm_qemu_path(v, "nbd.sock");

    if (!v->disk_count)
        return 0;
    if (strlen(socket) > SOCKET_PATH_MAX)
        return vn_fail(err, VN_E_LIMIT, "socket path '%s' is too long", socket);
    for (unsigned i = 0; i < v->disk_count; i++) {
        if (prepare_disk(v, i, err) < 0)
            return vn_wrap(err, "overlay of disk %u", i);
    }
    unlink(socket);
    if (qmp_command(v->qmp, "nbd-server-start",
                    json_pack("{s:{s:s,s:{s:s}}}", "addr", "type", "unix",
                              "data", "path", socket),
                    NULL, err) < 0) {
        /* Refused, it is somebody else's that runs; cancelled or too late, the
         * command may have been done all the same. */
        v->nbd_started = err->code != VN_E_PEER || qmp_is_gone(v->qmp);
        return -1;
    }
    v->nbd_started = true;
    return 0;
}

/* ---- the instant -------------------------------------------------------- */

int vm_qemu_disks_freeze(struct vm_qemu *v, struct vn_err *err)
{
    json_t *actions = json_array();

    for (unsigned i = 0; i < v->disk_count; i++) {
        vn_auto(free) char *job = vn_format(VM_QEMU_JOB "%u", i);
        vn_auto(free) char *target = vn_format(VM_QEMU_FLEECE "%u", i);

        json_array_append_new(actions,
                              json_pack("{s:s,s:{s:s,s:s,s:s,s:s}}", "type",
                                        "blockdev-backup", "data", "job-id",
                                        job, "device", v->disks[i].node,
                                        "target", target, "sync", "none"));
    }
    if (!v->disk_count) {
        json_decref(actions);
        return 0;
    }
    return qmp_command(v->qmp, "transaction",
                       json_pack("{s:o}", "actions", actions), NULL, err);
}

static int add_export(struct vm_qemu *v, const char *id, const char *node,
                      const char *name, struct vn_err *err)
{
    return qmp_command(v->qmp, "block-export-add",
                       json_pack("{s:s,s:s,s:s,s:s}", "type", "nbd", "id", id,
                                 "node-name", node, "name", name),
                       NULL, err);
}

int vm_qemu_disks_activate(struct vm_qemu *v, struct vn_err *err)
{
    for (unsigned i = 0; i < v->disk_count; i++) {
        vn_auto(free) char *node = vn_format(VM_QEMU_FLEECE "%u", i);
        vn_auto(free) char *name = vn_format("active%u", i);
        vn_auto(free) char *id = vn_format(VM_QEMU_EXPORT "a%u", i);

        if (qmp_version(v->qmp) >= HAS_SET_ACTIVE) {
            if (qmp_command(
                    v->qmp, "blockdev-set-active",
                    json_pack("{s:s,s:b}", "node-name", node, "active", 1),
                    NULL, err) < 0)
                return -1;
        } else if (add_export(v, id, node, name, err) < 0) {
            return -1;
        }
    }
    return 0;
}

/* ---- reading ------------------------------------------------------------ */

struct extent {
    uint64_t start, end;
};

struct read_slot {
    bool busy;
    int64_t cookie;
    uint64_t offset;
    size_t size;
    uint8_t *data; /* READ_SIZE bytes */
};

struct disk_reader {
    struct vm_qemu *v;
    struct nbd_handle *nbd;
    struct image_writer *image;
    uint64_t size;
    bool can_status;       /* the server tells what is data */
    uint64_t status_until; /* extents are known up to here */
    uint64_t next;         /* everything before is asked for or zeros */
    struct extent extents[EXTENTS_MAX];
    unsigned extent_count, extent_next;
    struct read_slot slots[READS_MAX];
    unsigned slot_count, slots_busy;
    uint64_t progress_ns; /* when something last came */
    uint64_t bytes;
};

static void reader_free(struct disk_reader *r)
{
    if (!r)
        return;
    if (r->nbd)
        nbd_close(r->nbd); /* before the buffers: it may still write there */
    image_writer_free(r->image);
    for (unsigned i = 0; i < READS_MAX; i++)
        free(r->slots[i].data);
    free(r);
}

VN_AUTO_DEFINE(reader, struct disk_reader *, reader_free)

static int fail_nbd(struct disk_reader *r, const char *what, struct vn_err *err)
{
    vn_auto(free) char *why = vn_strdup(nbd_get_error());

    if (qmp_pump(r->v->qmp, err) < 0) /* the VM is gone: that is why */
        return -1;
    return vn_fail(err, VN_E_PEER, "%s: %s", what, why);
}

/* Let the connection work for a moment. */
static int turn(struct disk_reader *r, const char *what, struct vn_err *err)
{
    if (nbd_poll(r->nbd, POLL_MS) < 0)
        return fail_nbd(r, what, err);
    if (vm_qemu_check_running(r->v, err) < 0)
        return -1;
    if (clock_now_ns() - r->progress_ns > r->v->timeout_ns)
        return vn_fail(err, VN_E_TIMEOUT, "%s: no answer", what);
    return 0;
}

static int connect_nbd(struct disk_reader *r, const char *name,
                       struct vn_err *err)
{
    vn_auto(free) char *socket = vm_qemu_path(r->v, "nbd.sock");
    int64_t size;

    r->nbd = nbd_create();
    if (!r->nbd || nbd_set_export_name(r->nbd, name) < 0 ||
        nbd_add_meta_context(r->nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) < 0 ||
        nbd_aio_connect_unix(r->nbd, socket) < 0)
        return fail_nbd(r, "connect", err);
    while (!nbd_aio_is_ready(r->nbd)) {
        if (turn(r, "connect", err) < 0)
            return -1;
    }
    size = nbd_get_size(r->nbd);
    if (size < 0 || (uint64_t)size != r->size)
        return vn_fail(err, VN_E_PEER,
                       "its NBD export has %lld bytes, the disk has %llu",
                       (long long)size, (unsigned long long)r->size);
    r->can_status =
        nbd_can_meta_context(r->nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) > 0;
    return 0;
}

/* libnbd: one answer of block status. */
static int take_extents(void *context, const char *meta, uint64_t offset,
                        uint32_t *entries, size_t count, int *error)
{
    struct disk_reader *r = context;

    (void)error;
    if (strcmp(meta, LIBNBD_CONTEXT_BASE_ALLOCATION) != 0)
        return 0;
    for (size_t i = 0; i + 1 < count && r->extent_count < EXTENTS_MAX; i += 2) {
        uint64_t end = offset + entries[i];

        if (end > r->size)
            end = r->size;
        if (!(entries[i + 1] & LIBNBD_STATE_ZERO) && end > offset) {
            r->extents[r->extent_count].start = offset;
            r->extents[r->extent_count++].end = end;
        }
        offset = end;
    }
    r->status_until = offset;
    return 0;
}

/* Learn where data lies after status_until. */
static int ask_status(struct disk_reader *r, struct vn_err *err)
{
    uint64_t from = r->status_until, span = r->size - from;
    int64_t cookie;
    int done;

    r->extent_count = 0;
    r->extent_next = 0;
    if (span > STATUS_SPAN)
        span = STATUS_SPAN;
    if (!r->can_status) {
        r->extents[r->extent_count++] = (struct extent){from, from + span};
        r->status_until = from + span;
        return 0;
    }
    cookie = nbd_aio_block_status(
        r->nbd, span, from,
        (nbd_extent_callback){.callback = take_extents, .user_data = r},
        NBD_NULL_COMPLETION, 0);
    if (cookie < 0)
        return fail_nbd(r, "block status", err);
    while ((done = nbd_aio_command_completed(r->nbd, (uint64_t)cookie)) == 0) {
        if (turn(r, "block status", err) < 0)
            return -1;
    }
    if (done < 0)
        return fail_nbd(r, "block status", err);
    r->progress_ns = clock_now_ns();
    if (r->status_until <= from)
        return vn_fail(err, VN_E_PEER, "block status: an empty answer");
    return 0;
}

/* The next piece to read, in whole pages; *ret_size 0: no more. */
static int next_piece(struct disk_reader *r, uint64_t *ret_offset,
                      size_t *ret_size, struct vn_err *err)
{
    for (;;) {
        while (r->extent_next < r->extent_count) {
            const struct extent *e = &r->extents[r->extent_next];
            uint64_t page = STORE_PAGE_SIZE;
            uint64_t start = e->start / page * page;
            uint64_t end = (e->end + page - 1) / page * page;

            if (start < r->next)
                start = r->next;
            if (end > r->size)
                end = r->size;
            if (start >= end) {
                r->extent_next++;
                continue;
            }
            if (end - start > READ_SIZE)
                end = start + READ_SIZE;
            r->next = end;
            *ret_offset = start;
            *ret_size = (size_t)(end - start);
            return 0;
        }
        if (r->status_until >= r->size) {
            *ret_size = 0;
            return 0;
        }
        if (ask_status(r, err) < 0)
            return -1;
    }
}

/* Put reads in flight until the slots are full or the disk is through. */
static int fill_slots(struct disk_reader *r, bool *ret_through,
                      struct vn_err *err)
{
    for (unsigned i = 0; i < READS_MAX && !*ret_through; i++) {
        struct read_slot *slot = &r->slots[i];

        if (slot->busy)
            continue;
        if (next_piece(r, &slot->offset, &slot->size, err) < 0)
            return -1;
        if (!slot->size) {
            *ret_through = true;
            break;
        }
        slot->cookie = nbd_aio_pread(r->nbd, slot->data, slot->size,
                                     slot->offset, NBD_NULL_COMPLETION, 0);
        if (slot->cookie < 0)
            return fail_nbd(r, "read", err);
        slot->busy = true;
        r->slots_busy++;
    }
    return 0;
}

/* Store what has come; *ret_any: something had. */
static int empty_slots(struct disk_reader *r, bool *ret_any, struct vn_err *err)
{
    *ret_any = false;
    for (unsigned i = 0; i < READS_MAX; i++) {
        struct read_slot *slot = &r->slots[i];
        int done;

        if (!slot->busy)
            continue;
        done = nbd_aio_command_completed(r->nbd, (uint64_t)slot->cookie);
        if (done == 0)
            continue;
        if (done < 0)
            return fail_nbd(r, "read", err);
        slot->busy = false;
        r->slots_busy--;
        *ret_any = true;
        r->bytes += slot->size;
        r->progress_ns = clock_now_ns();
        if (image_writer_put(r->image, slot->offset, slot->data, slot->size,
                             err) < 0)
            return -1;
        r->progress_ns = clock_now_ns(); /* the store's time is its own */
    }
    return 0;
}

static int read_disk(struct disk_reader *r, struct vn_err *err)
{
    bool through = false, any;

    for (unsigned i = 0; i < READS_MAX; i++) {
        r->slots[i].data = malloc(READ_SIZE);
        if (!r->slots[i].data)
            return vn_fail(err, ENOMEM, "read buffers");
    }
    while (!through || r->slots_busy) {
        if (fill_slots(r, &through, err) < 0 || empty_slots(r, &any, err) < 0)
            return -1;
        if (!any && r->slots_busy && turn(r, "read", err) < 0)
            return -1;
    }
    return vm_qemu_check_running(r->v, err);
}

/* The overlay shows the instant only as long as its job runs. */
static int check_job(struct vm_qemu *v, unsigned i, struct vn_err *err)
{
    vn_auto(json) json_t *jobs = NULL;
    vn_auto(free) char *id = vn_format(VM_QEMU_JOB "%u", i);
    json_t *job;
    size_t j;

    if (qmp_command(v->qmp, "query-block-jobs", NULL, &jobs, err) < 0)
        return -1;
    json_array_foreach (jobs, j, job) {
        if (strcmp(jsonx_string_or(job, "device", ""), id) == 0 &&
            strcmp(jsonx_string_or(job, "io-status", ""), "ok") == 0)
            return 0;
    }
    return vn_fail(err, VN_E_PEER, "its backup job ended or failed meanwhile");
}

static int save_disk(struct vm_qemu *v, const struct vm_qemu_save *save,
                     unsigned i, uint64_t *bytes, struct vn_err *err)
{
    vn_auto(free) char *object = qemu_object_disk(v->base.name, i);
    vn_auto(free) char *name = vn_format("disk%u", i);
    vn_auto(free) char *node = vn_format(VM_QEMU_FLEECE "%u", i);
    vn_auto(free) char *id = vn_format(VM_QEMU_EXPORT "%u", i);
    vn_auto(reader) struct disk_reader *r = vn_alloc(sizeof(*r));
    struct map_root root;

    r->v = v;
    r->size = v->disks[i].size;
    r->progress_ns = clock_now_ns();
    r->image = vm_qemu_open_image(save, object, r->size, err);
    if (!r->image)
        return -1;
    if (r->size && (add_export(v, id, node, name, err) < 0 ||
                    connect_nbd(r, name, err) < 0 || read_disk(r, err) < 0 ||
                    check_job(v, i, err) < 0))
        return -1;
    if (image_writer_finish(r->image, &root, err) < 0)
        return -1;
    manifest_add(save->manifest, object, &root);
    *bytes += r->bytes;
    return 0;
}

int vm_qemu_disks_save(struct vm_qemu *v, const struct vm_qemu_save *save,
                       uint64_t *bytes, struct vn_err *err)
{
    for (unsigned i = 0; i < v->disk_count; i++) {
        if (save_disk(v, save, i, bytes, err) < 0)
            return vn_wrap(err, "disk %u", i);
    }
    return 0;
}
