/*
 * Memory and device state from the spool into the store.
 *
 * The stream is parsed in the caller's thread. Pages that follow each other
 * are put together into runs, since the store hashes many at a time faster
 * than one by one; a page that comes again is put again (the last one
 * counts), which a bitmap per block tells for pages that turned to zeros.
 *
 * In mode stop the VM stands until the whole stream is in the spool; then its
 * disks are frozen like in mode cow, and it runs again before the first byte
 * is parsed.
 *
 * Invariant: a snapshot is reported good only if the VM has not stopped since
 * it was resumed. A STOP in between means that a guest's write found no room
 * in an overlay, or (QEMU >= 8) that memory is of a later instant than disks.
 */
#include "capture/vm_qemu.h"

#include "capture/qemu_objects.h"
#include "common/clock.h"
#include "common/jsonx.h"
#include "common/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define RUN_SIZE      (8u << 20) /* four tasks for the store */
#define WAIT_SLICE_NS (50 * VN_MS)

struct ram {
    struct vm_qemu *v;
    const struct vm_qemu_save *save;
    const struct qemu_block *blocks;
    unsigned count;
    struct image_writer *images[QEMU_BLOCKS_MAX];
    uint8_t *put[QEMU_BLOCKS_MAX]; /* bit: this page was put */
    unsigned run_block;
    uint64_t run_offset;
    size_t run_size;
    uint8_t run[RUN_SIZE];
    uint64_t bytes;
};

static const uint8_t zero_page[QEMU_PAGE_SIZE];

static void ram_free(struct ram *ram)
{
    if (!ram)
        return;
    for (unsigned i = 0; i < QEMU_BLOCKS_MAX; i++) {
        image_writer_free(ram->images[i]);
        free(ram->put[i]);
    }
    free(ram);
}

VN_AUTO_DEFINE(ram, struct ram *, ram_free)

static void vn_auto_stream(struct qemu_stream **stream)
{
    qemu_stream_free(*stream);
}

struct image_writer *vm_qemu_open_image(const struct vm_qemu_save *save,
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

int vm_qemu_check_running(struct vm_qemu *v, struct vn_err *err)
{
    json_t *event;

    if (qmp_pump(v->qmp, err) < 0)
        return -1;
    if (qmp_is_cancelled(v->qmp))
        return vn_fail(err, ECANCELED, "VM '%s': save", v->base.name);
    event = qmp_take_event(v->qmp, qmp_want_name, "STOP");
    if (!event)
        return 0;
    json_decref(event);
    event = qmp_take_event(v->qmp, qmp_want_name, "BLOCK_IO_ERROR");
    if (event) {
        int result =
            vn_fail(err, VN_E_PEER,
                    "VM '%s' stopped while it was saved: %s of '%s': %s",
                    v->base.name, qmp_event_string(event, "operation"),
                    qmp_event_string(event, "node-name"),
                    qmp_event_string(event, "reason"));

        json_decref(event);
        return result;
    }
    return vn_fail(err, VN_E_STATE, "VM '%s' stopped while it was saved",
                   v->base.name);
}

/* ---- the parser's sink -------------------------------------------------- */

static int take_blocks(void *context, const struct qemu_block *blocks,
                       unsigned count, struct vn_err *err)
{
    struct ram *ram = context;
    const struct vm_qemu *v = ram->v;
    uint64_t left = v->memory_bytes + VM_QEMU_MEMORY_SLACK;

    for (unsigned i = 0; i < count; i++) {
        vn_auto(free) char *object =
            qemu_object_ram(v->base.name, blocks[i].name);

        if (blocks[i].size > left)
            return vn_fail(err, VN_E_LIMIT,
                           "RAM block '%s': the blocks are larger than the "
                           "VM's memory",
                           blocks[i].name);
        left -= blocks[i].size;
        ram->put[i] = calloc(1, blocks[i].size / QEMU_PAGE_SIZE / 8 + 1);
        if (!ram->put[i])
            return vn_fail(err, ENOMEM, "RAM block '%s'", blocks[i].name);
        ram->images[i] =
            vm_qemu_open_image(ram->save, object, blocks[i].size, err);
        if (!ram->images[i])
            return -1;
    }
    ram->blocks = blocks;
    ram->count = count;
    return 0;
}

static int flush_run(struct ram *ram, struct vn_err *err)
{
    size_t size = ram->run_size;

    ram->run_size = 0;
    if (!size)
        return 0;
    return image_writer_put(ram->images[ram->run_block], ram->run_offset,
                            ram->run, size, err);
}

static int take_page(void *context, unsigned block, uint64_t offset,
                     const void *page, struct vn_err *err)
{
    struct ram *ram = context;
    uint8_t *byte = &ram->put[block][offset / QEMU_PAGE_SIZE / 8];
    uint8_t bit = (uint8_t)(1u << (offset / QEMU_PAGE_SIZE % 8));

    ram->bytes += QEMU_PAGE_SIZE;
    if (!page && !(*byte & bit))
        return 0; /* never put: zeros */
    *byte |= bit;
    if (ram->run_size &&
        (block != ram->run_block || offset != ram->run_offset + ram->run_size ||
         ram->run_size == RUN_SIZE) &&
        flush_run(ram, err) < 0)
        return -1;
    if (!ram->run_size) {
        ram->run_block = block;
        ram->run_offset = offset;
    }
    memcpy(ram->run + ram->run_size, page ? page : zero_page, QEMU_PAGE_SIZE);
    ram->run_size += QEMU_PAGE_SIZE;
    return 0;
}

/* ---- the stream --------------------------------------------------------- */

/* Feed all of the spool to the parser. */
static int parse_stream(struct vm_qemu *v, struct qemu_stream *stream,
                        struct vn_err *err)
{
    uint64_t idle_since_ns = clock_now_ns();

    for (;;) {
        struct vn_err why = VN_ERR_INIT;
        const void *data;
        size_t size;

        if (vm_qemu_check_running(v, err) < 0)
            return -1;
        if (spool_take(v->spool, WAIT_SLICE_NS, &data, &size, &why) == 0) {
            if (!size)
                return 0;
            if (qemu_stream_feed(stream, data, size, err) < 0)
                return -1;
            idle_since_ns = clock_now_ns();
            continue;
        }
        if (why.code != VN_E_TIMEOUT ||
            clock_now_ns() - idle_since_ns > v->timeout_ns) {
            *err = why;
            return -1;
        }
    }
}

static int await_migration_end(struct vm_qemu *v, struct vn_err *err)
{
    vn_auto(json) json_t *event = qmp_wait_event(
        v->qmp, vm_qemu_want_migration_end, NULL, "the end of the stream", err);

    if (!event)
        return -1;
    if (strcmp(qmp_event_string(event, "status"), "completed") != 0)
        return vm_qemu_fail_migration(v, err);
    return 0;
}

static int finish_images(struct ram *ram, struct vn_err *err)
{
    if (flush_run(ram, err) < 0)
        return -1;
    for (unsigned i = 0; i < ram->count; i++) {
        vn_auto(free) char *object =
            qemu_object_ram(ram->v->base.name, ram->blocks[i].name);
        struct map_root root;

        if (image_writer_finish(ram->images[i], &root, err) < 0)
            return -1;
        manifest_add(ram->save->manifest, object, &root);
    }
    return 0;
}

static int save_device_state(const struct vm_qemu *v,
                             const struct qemu_stream *stream,
                             const struct vm_qemu_save *save,
                             struct vn_err *err)
{
    const struct buf *state = qemu_stream_device_state(stream);
    vn_auto(free) char *object = qemu_object_device_state(v->base.name);
    struct map_root root;

    if (store_put_bytes(save->writer, state->data, state->size, &root, err) < 0)
        return -1;
    manifest_add(save->manifest, object, &root);
    return 0;
}

/* Memory and devices; *ret_meta is the VM's entry for the manifest. */
static int save_stream(struct vm_qemu *v, const struct vm_qemu_save *save,
                       uint64_t *ret_bytes, json_t **ret_meta,
                       struct vn_err *err)
{
    vn_auto(ram) struct ram *ram = vn_alloc(sizeof(*ram));
    const struct qemu_stream_sink sink = {
        .blocks = take_blocks, .page = take_page, .context = ram};
    vn_auto(stream) struct qemu_stream *stream = qemu_stream_new(&sink);

    ram->v = v;
    ram->save = save;
    if (parse_stream(v, stream, err) < 0)
        return -1;
    if (qemu_stream_finish(stream, err) < 0) {
        struct vn_err why = VN_ERR_INIT;

        /* QEMU's own reason is better than "ended early". */
        if (v->base.chosen_mode == VM_MODE_COW &&
            await_migration_end(v, &why) < 0)
            *err = why;
        return -1;
    }
    if (v->base.chosen_mode == VM_MODE_COW && await_migration_end(v, err) < 0)
        return -1;
    if (finish_images(ram, err) < 0 ||
        save_device_state(v, stream, save, err) < 0)
        return -1;
    *ret_bytes = ram->bytes;
    *ret_meta = qemu_state_to_json(stream, v->version);
    json_object_set_new(*ret_meta, "config", vm_config_to_json(&v->config));
    return 0;
}

/* ---- mode stop ---------------------------------------------------------- */

/* The end of the migration, or NULL after a slice of time without it. */
static json_t *wait_slice(struct vm_qemu *v, struct vn_err *err)
{
    json_t *event;

    qmp_set_timeout(v->qmp, WAIT_SLICE_NS);
    event = qmp_wait_event(v->qmp, vm_qemu_want_migration_end, NULL,
                           "the end of the stream", err);
    qmp_set_timeout(v->qmp, v->timeout_ns);
    return event;
}

/* Wait until the stream is in RAM. */
static int await_spooled(struct vm_qemu *v, struct vn_err *err)
{
    uint64_t received = 0, since_ns = clock_now_ns();

    for (;;) {
        struct vn_err why = VN_ERR_INIT;
        vn_auto(json) json_t *event = wait_slice(v, &why);

        if (event && strcmp(qmp_event_string(event, "status"), "completed"))
            return vm_qemu_fail_migration(v, err);
        if (event)
            return 0;
        if (why.code != VN_E_TIMEOUT) {
            *err = why;
            return -1;
        }
        if (spool_is_full(v->spool))
            return vn_fail(err, VN_E_LIMIT,
                           "VM '%s': its stream is larger than its memory",
                           v->base.name);
        if (spool_received(v->spool) != received) {
            received = spool_received(v->spool);
            since_ns = clock_now_ns();
        }
        if (clock_now_ns() - since_ns > v->timeout_ns)
            return vn_fail(err, VN_E_TIMEOUT,
                           "VM '%s': its stream stands still", v->base.name);
    }
}

static int resume_after_stream(struct vm_qemu *v, struct vn_err *err)
{
    if (await_spooled(v, err) < 0)
        return -1;
    if (v->disk_count && (vm_qemu_disks_activate(v, err) < 0 ||
                          vm_qemu_disks_freeze(v, err) < 0))
        return -1;
    qmp_forget_events(v->qmp);
    return vm_qemu_continue(v, &v->resume_wall_ns, err);
}

int vm_qemu_save(struct vm_qemu *v, const struct vm_qemu_save *save,
                 struct vm_saved *ret, struct vn_err *err)
{
    vn_auto(json) json_t *meta = NULL;
    uint64_t memory_bytes = 0, disk_bytes = 0;

    if (v->step != VM_QEMU_CAPTURED)
        return vn_fail(err, VN_E_STATE, "VM '%s' was not captured",
                       v->base.name);
    if (v->base.chosen_mode == VM_MODE_STOP && resume_after_stream(v, err) < 0)
        return vn_wrap(err, "saving VM '%s'", v->base.name);
    if (save->resumed)
        save->resumed(save->context);
    if (save_stream(v, save, &memory_bytes, &meta, err) < 0 ||
        vm_qemu_disks_save(v, save, &disk_bytes, err) < 0 ||
        vm_qemu_check_running(v, err) < 0)
        return vn_wrap(err, "saving VM '%s'", v->base.name);
    v->step = VM_QEMU_SAVED;
    ret->stop_wall_ns = v->stop_wall_ns;
    ret->resume_wall_ns = v->resume_wall_ns;
    ret->memory_bytes = memory_bytes;
    ret->disk_bytes = disk_bytes;
    ret->meta = vn_steal(&meta);
    return 0;
}
