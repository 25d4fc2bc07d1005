#ifndef TESTS_UNIT_RESTORE_FIXTURE_H
#define TESTS_UNIT_RESTORE_FIXTURE_H

/*
 * A store in a temporary directory with one snapshot of a VM "a": blocks
 * "pc.ram" (300 pages) and "/rom" (4 pages), a device state, and two disks.
 * The manifest is not committed; tests spoil copies of it. Included after
 * cmocka.h.
 */

#include "capture/qemu_objects.h"
#include "store/store.h"

#include "unit/stream_builder.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define RF_RAM_PAGES 300u
#define RF_ROM_PAGES 4u
#define RF_DISK_SIZE (5u << 20)

struct restore_fixture {
    char dir[64];
    char *store_path;
    struct store *store;
    struct store_writer *writer;
    json_t *manifest;
    uint8_t *ram;  /* RF_RAM_PAGES pages: most of them zero */
    uint8_t *rom;  /* RF_ROM_PAGES pages: the second is not zero */
    uint8_t *disk; /* RF_DISK_SIZE: disk 0; disk 1 is empty */
    struct buf bytes;
    struct qemu_stream *stream;
};

static inline void rf_noise(uint8_t *page, unsigned seed)
{
    uint64_t x = seed * 0x9e3779b97f4a7c15u + 1;

    for (unsigned i = 0; i < 4096; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        page[i] = (uint8_t)x;
    }
}

static inline int rf_blocks(void *context, const struct qemu_block *blocks,
                            unsigned count, struct vn_err *err)
{
    (void)context, (void)blocks, (void)count, (void)err;
    return 0;
}

static inline int rf_page(void *context, unsigned block, uint64_t offset,
                          const void *page, struct vn_err *err)
{
    (void)context, (void)block, (void)offset, (void)page, (void)err;
    return 0;
}

static inline int rf_put(struct restore_fixture *f, const char *object,
                         const void *data, size_t size, struct vn_err *err)
{
    struct map_root root;

    if (store_put_bytes(f->writer, data, size, &root, err) < 0)
        return -1;
    manifest_add(f->manifest, object, &root);
    return 0;
}

/* A stream without pages: it gives the head, the list, the device state. */
static inline int rf_state(struct restore_fixture *f, struct vn_err *err)
{
    const struct qemu_stream_sink sink = {rf_blocks, rf_page, NULL};
    json_t *meta = json_object_get(f->manifest, "meta");

    buf_init(&f->bytes, 1 << 20);
    sb_head(&f->bytes, "pc-test-1.0");
    sb_start(&f->bytes, "ram", 0, 4);
    buf_put_be64(&f->bytes, (RF_RAM_PAGES + RF_ROM_PAGES) * 4096 | SB_MEM);
    sb_block(&f->bytes, "/rom", RF_ROM_PAGES * 4096);
    sb_block(&f->bytes, "pc.ram", RF_RAM_PAGES * 4096);
    sb_end(&f->bytes);
    sb_section(&f->bytes, 3, SB_RAM_ID);
    sb_end(&f->bytes);
    sb_device_state(&f->bytes, "{\"page_size\": 4096}");
    f->stream = qemu_stream_new(&sink);
    if (qemu_stream_feed(f->stream, f->bytes.data, f->bytes.size, err) < 0 ||
        qemu_stream_finish(f->stream, err) < 0)
        return -1;
    if (!meta) {
        meta = json_object();
        json_object_set_new(f->manifest, "meta", meta);
    }
    json_object_set_new(
        meta, "vm_state",
        json_pack("{s:o}", "a", qemu_state_to_json(f->stream, "7.2.22")));
    return 0;
}

static inline int rf_fill(struct restore_fixture *f, struct vn_err *err)
{
    const struct buf *devices;
    uint8_t nothing[4096] = {0};

    f->ram = vn_alloc(RF_RAM_PAGES * 4096);
    f->rom = vn_alloc(RF_ROM_PAGES * 4096);
    f->disk = vn_alloc(RF_DISK_SIZE);
    for (unsigned page = 100; page < 250; page++)
        rf_noise(f->ram + page * 4096, page);
    rf_noise(f->ram + 3 * 4096, 3);
    rf_noise(f->ram + (RF_RAM_PAGES - 1) * 4096, 299);
    rf_noise(f->rom + 4096, 1000);
    for (unsigned page = 600; page < 700; page++)
        rf_noise(f->disk + page * 4096, 2000 + page);
    if (rf_state(f, err) < 0)
        return -1;
    devices = qemu_stream_device_state(f->stream);
    if (rf_put(f, "vm/a/device.state", devices->data, devices->size, err) < 0 ||
        rf_put(f, "vm/a/ram/pc.ram", f->ram, RF_RAM_PAGES * 4096, err) < 0 ||
        rf_put(f, "vm/a/ram/%2from", f->rom, RF_ROM_PAGES * 4096, err) < 0 ||
        rf_put(f, "vm/a/disk/0", f->disk, RF_DISK_SIZE, err) < 0 ||
        rf_put(f, "vm/a/disk/1", nothing, sizeof(nothing), err) < 0)
        return -1;
    return store_writer_flush(f->writer, err);
}

static inline int rf_setup(void **state)
{
    struct restore_fixture *f = vn_alloc(sizeof(*f));
    struct vn_err err = VN_ERR_INIT;

    *state = f;
    snprintf(f->dir, sizeof(f->dir), "%s", "vn-test-restore-XXXXXX");
    if (!mkdtemp(f->dir))
        return -1;
    f->store_path = vn_format("%s/store", f->dir);
    if (store_init(f->store_path, &err) < 0)
        goto failed;
    f->store = store_open(f->store_path, &err);
    f->writer = f->store ? store_writer_open(f->store, &err) : NULL;
    f->manifest = manifest_new("lab@1", "vne");
    if (!f->writer || rf_fill(f, &err) < 0)
        goto failed;
    return 0;
failed:
    fprintf(stderr, "setup: %s\n", err.msg);
    return -1;
}

static inline int rf_remove(const char *path, const struct stat *st, int kind,
                            struct FTW *ftw)
{
    (void)st, (void)kind, (void)ftw;
    return remove(path);
}

static inline int rf_teardown(void **state)
{
    struct restore_fixture *f = *state;

    qemu_stream_free(f->stream);
    buf_done(&f->bytes);
    store_writer_free(f->writer);
    store_close(f->store);
    json_decref(f->manifest);
    free(f->ram);
    free(f->rom);
    free(f->disk);
    free(f->store_path);
    nftw(f->dir, rf_remove, 8, FTW_DEPTH | FTW_PHYS);
    free(f);
    return 0;
}

#endif
