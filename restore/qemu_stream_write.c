/*
 * Synthesis of a migration stream.
 *
 * Purpose. The inverse of capture/qemu_stream.c: from the head, the RAM
 * images and the device state of a snapshot, a stream that QEMU's loader
 * accepts (grammar: docs/formats/qemu-stream.md).
 *
 * How. The head as it was; one START section with the list of blocks; one END
 * section with all pages; the device state as it was. Block by block, the
 * runs of pages that are not zero come from the store's map, which skips
 * zeros without reading them. Records are put into one output buffer that is
 * written out whenever it is full, so the writes are large.
 *
 * Zero pages. The target's main RAM is fresh and zero, so for the largest
 * block they are left out: of an idle guest that is most of the memory. The
 * other blocks (firmware, ACPI tables, option ROMs, video) are filled by the
 * target's QEMU before it loads, so there each zero page gets a record of 9
 * bytes. ROMs that lie in main RAM are no exception: QEMU does not copy them
 * there while it waits for a migration (hw/core/loader.c, rom_reset).
 *
 * Invariants. Each page of a block occurs once at most, in rising order, the
 * first record of a block names it and the others continue it. Nothing is
 * put past a block's size: the run comes from an image of just that size.
 *
 * Concurrency: one thread writes; nothing is shared but the store.
 *
 * Not done: postcopy (lazy loading), multifd.
 */

#include "restore/qemu_stream_write.h"

#include "capture/qemu_objects.h"
#include "common/buf.h"
#include "common/io.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Any id will do that is not 0: the loader goes by the name. */
#define RAM_SECTION_ID 2u

#define OUT_SIZE (1u << 20) /* bytes a write */
#define RUN_SIZE (2u << 20) /* bytes a read from the store */

enum {
    SECTION_START = 0x01,
    SECTION_END = 0x03,
    SECTION_FOOTER = 0x7e,
    RAM_VERSION = 4,
    RAM_ZERO = 0x02,
    RAM_MEM_SIZE = 0x04,
    RAM_PAGE = 0x08,
    RAM_EOS = 0x10,
    RAM_CONTINUE = 0x20,
};

struct qemu_stream_source {
    struct qemu_state state;
    struct image_reader *ram[QEMU_BLOCKS_MAX];
    struct buf device_state;
    unsigned main_block; /* the largest */
    uint8_t *run;        /* RUN_SIZE */
};

/* Where the stream goes. */
struct out {
    int fd;
    struct buf pending;
};

static int open_ram(struct qemu_stream_source *source, struct store *store,
                    const json_t *manifest, const char *vm, unsigned i,
                    struct vn_err *err)
{
    const struct qemu_block *block = &source->state.blocks[i];
    vn_auto(free) char *name = qemu_object_ram(vm, block->name);
    struct map_root root;

    if (manifest_object(manifest, name, &root, err) < 0)
        return -1;
    if (root.size != block->size)
        return vn_fail(err, VN_E_FORMAT,
                       "object '%s' has %" PRIu64
                       " bytes, but its block has %" PRIu64,
                       name, root.size, block->size);
    source->ram[i] = image_reader_open(store, &root, err);
    if (!source->ram[i])
        return vn_wrap(err, "object '%s'", name);
    return 0;
}

static int load_device_state(struct qemu_stream_source *source,
                             struct store *store, const json_t *manifest,
                             const char *vm, struct vn_err *err)
{
    vn_auto(free) char *name = qemu_object_device_state(vm);
    vn_auto(image_reader) struct image_reader *image = NULL;
    struct map_root root;
    uint8_t *data;

    if (manifest_object(manifest, name, &root, err) < 0)
        return -1;
    if (root.size > QEMU_DEVICE_STATE_MAX)
        return vn_fail(err, VN_E_LIMIT,
                       "object '%s' has %" PRIu64 " bytes, more than %u", name,
                       root.size, QEMU_DEVICE_STATE_MAX);
    image = image_reader_open(store, &root, err);
    if (!image)
        return vn_wrap(err, "object '%s'", name);
    buf_init(&source->device_state, QEMU_DEVICE_STATE_MAX);
    data = buf_reserve(&source->device_state, (size_t)root.size);
    if (!data)
        return vn_fail(err, ENOMEM, "read object '%s'", name);
    if (image_reader_read(image, 0, data, (size_t)root.size, err) < 0)
        return vn_wrap(err, "object '%s'", name);
    source->device_state.size = (size_t)root.size;
    if (qemu_stream_check_device_state(data, (size_t)root.size, err) < 0)
        return vn_wrap(err, "object '%s'", name);
    return 0;
}

static int open_source(struct qemu_stream_source *source, struct store *store,
                       const json_t *manifest, const char *vm,
                       struct vn_err *err)
{
    const json_t *json = qemu_state_in_manifest(manifest, vm, err);
    const struct qemu_block *blocks = source->state.blocks;

    if (!json)
        return -1;
    if (qemu_state_from_json(json, &source->state, err) < 0)
        return -1;
    for (unsigned i = 0; i < source->state.block_count; i++) {
        if (blocks[i].size > blocks[source->main_block].size)
            source->main_block = i;
        if (open_ram(source, store, manifest, vm, i, err) < 0)
            return -1;
    }
    return load_device_state(source, store, manifest, vm, err);
}

struct qemu_stream_source *qemu_stream_source_open(struct store *store,
                                                   const json_t *manifest,
                                                   const char *vm,
                                                   struct vn_err *err)
{
    struct qemu_stream_source *source = vn_alloc(sizeof(*source));

    source->run = vn_alloc(RUN_SIZE);
    if (open_source(source, store, manifest, vm, err) < 0) {
        vn_wrap(err, "the state of VM '%s'", vm);
        qemu_stream_source_free(source);
        return NULL;
    }
    return source;
}

void qemu_stream_source_free(struct qemu_stream_source *source)
{
    if (!source)
        return;
    for (unsigned i = 0; i < QEMU_BLOCKS_MAX; i++)
        image_reader_free(source->ram[i]);
    buf_done(&source->device_state);
    qemu_state_done(&source->state);
    free(source->run);
    free(source);
}

const char *qemu_stream_source_machine(const struct qemu_stream_source *source)
{
    return source->state.machine;
}

/* ---- writing ----------------------------------------------------------- */

static int flush(struct out *out, struct vn_err *err)
{
    if (io_write(out->fd, out->pending.data, out->pending.size, err) < 0)
        return vn_wrap(err, "the migration stream");
    out->pending.size = 0;
    return 0;
}

/* Make room for one record of any kind. */
static int make_room(struct out *out, struct vn_err *err)
{
    const size_t record = 8 + 1 + QEMU_BLOCK_NAME_MAX + QEMU_PAGE_SIZE;

    return out->pending.size + record > OUT_SIZE ? flush(out, err) : 0;
}

static void put_name(struct buf *b, const char *name)
{
    size_t size = strlen(name);

    assert(size <= QEMU_BLOCK_NAME_MAX);
    buf_put_u8(b, (uint8_t)size);
    buf_put(b, name, size);
}

static void put_section_end(struct buf *b)
{
    buf_put_be64(b, RAM_EOS);
    buf_put_u8(b, SECTION_FOOTER);
    buf_put_be32(b, RAM_SECTION_ID);
}

static void put_start(struct buf *b, const struct qemu_state *state)
{
    uint64_t total = 0;

    for (unsigned i = 0; i < state->block_count; i++)
        total += state->blocks[i].size;
    buf_put_u8(b, SECTION_START);
    buf_put_be32(b, RAM_SECTION_ID);
    put_name(b, "ram");
    buf_put_be32(b, 0); /* instance */
    buf_put_be32(b, RAM_VERSION);
    buf_put_be64(b, total | RAM_MEM_SIZE);
    for (unsigned i = 0; i < state->block_count; i++) {
        put_name(b, state->blocks[i].name);
        buf_put_be64(b, state->blocks[i].size);
    }
    put_section_end(b);
}

/* The word of a record, and the block's name with the block's first one. */
static void put_word(struct buf *b, uint64_t word, const char *name,
                     bool *named)
{
    buf_put_be64(b, word | (*named ? RAM_CONTINUE : 0));
    if (!*named)
        put_name(b, name);
    *named = true;
}

static int write_zeros(struct out *out, const char *name, uint64_t begin,
                       uint64_t end, bool *named, struct vn_err *err)
{
    for (; begin < end; begin += QEMU_PAGE_SIZE) {
        if (make_room(out, err) < 0)
            return -1;
        put_word(&out->pending, begin | RAM_ZERO, name, named);
        buf_put_u8(&out->pending, 0);
    }
    return 0;
}

static int write_block(struct qemu_stream_source *source, unsigned i,
                       struct out *out, struct vn_err *err)
{
    const struct qemu_block *block = &source->state.blocks[i];
    uint64_t done = 0, start, size;
    bool named = false;

    while (done < block->size) {
        if (image_reader_next_data(source->ram[i], done, &start, &size, err) <
            0)
            return -1;
        if (!size)
            start = block->size;
        if (size > RUN_SIZE)
            size = RUN_SIZE;
        if (i != source->main_block &&
            write_zeros(out, block->name, done, start, &named, err) < 0)
            return -1;
        if (size && image_reader_read(source->ram[i], start, source->run, size,
                                      err) < 0)
            return -1;
        for (uint64_t at = 0; at < size; at += QEMU_PAGE_SIZE) {
            if (make_room(out, err) < 0)
                return -1;
            put_word(&out->pending, (start + at) | RAM_PAGE, block->name,
                     &named);
            buf_put(&out->pending, source->run + at, QEMU_PAGE_SIZE);
        }
        done = start + size;
    }
    return 0;
}

static int write_stream(struct qemu_stream_source *source, struct out *out,
                        struct vn_err *err)
{
    struct buf *b = &out->pending;

    buf_put(b, source->state.head.data, source->state.head.size);
    put_start(b, &source->state);
    buf_put_u8(b, SECTION_END);
    buf_put_be32(b, RAM_SECTION_ID);
    for (unsigned i = 0; i < source->state.block_count; i++)
        if (write_block(source, i, out, err) < 0)
            return vn_wrap(err, "block '%s'", source->state.blocks[i].name);
    if (make_room(out, err) < 0)
        return -1;
    put_section_end(b);
    if (buf_check(b, "the output buffer", err) < 0 || flush(out, err) < 0)
        return -1;
    if (io_write(out->fd, source->device_state.data, source->device_state.size,
                 err) < 0)
        return vn_wrap(err, "the migration stream");
    return 0;
}

int qemu_stream_source_write(struct qemu_stream_source *source, int fd,
                             struct vn_err *err)
{
    struct out out = {.fd = fd};
    int r;

    buf_init(&out.pending, OUT_SIZE);
    r = write_stream(source, &out, err);
    buf_done(&out.pending);
    return r;
}
