/*
 * For test_stream_roundtrip.py: a migration stream into a store and back,
 * through capture's parser and restore's synthesis alone.
 *
 *     stream_tool put STORE VM STREAM       make STORE, snapshot "s@1"
 *     stream_tool write STORE VM OUT        the synthesised stream
 */

#include "capture/qemu_objects.h"
#include "common/io.h"
#include "restore/qemu_stream_write.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SNAPSHOT "s@1"

struct put {
    struct store_writer *writer;
    struct image_writer *images[QEMU_BLOCKS_MAX];
};

static int put_blocks(void *context, const struct qemu_block *blocks,
                      unsigned count, struct vn_err *err)
{
    struct put *put = context;

    for (unsigned i = 0; i < count; i++) {
        put->images[i] =
            image_writer_open(put->writer, blocks[i].size, NULL, err);
        if (!put->images[i])
            return -1;
    }
    return 0;
}

static int put_page(void *context, unsigned block, uint64_t offset,
                    const void *page, struct vn_err *err)
{
    static const uint8_t zeros[QEMU_PAGE_SIZE];
    struct put *put = context;

    return image_writer_put(put->images[block], offset, page ? page : zeros,
                            QEMU_PAGE_SIZE, err);
}

static int feed_file(struct qemu_stream *stream, const char *path,
                     struct vn_err *err)
{
    static uint8_t data[100000]; /* pages lie across its end */
    vn_auto(close) int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n;

    if (fd < 0)
        return vn_fail(err, errno, "open '%s'", path);
    while ((n = read(fd, data, sizeof(data))) > 0)
        if (qemu_stream_feed(stream, data, (size_t)n, err) < 0)
            return -1;
    if (n < 0)
        return vn_fail(err, errno, "read '%s'", path);
    return qemu_stream_finish(stream, err);
}

static int add_objects(struct put *put, const struct qemu_stream *stream,
                       const char *vm, json_t *manifest, struct vn_err *err)
{
    vn_auto(free) char *device_state = qemu_object_device_state(vm);
    const struct buf *state = qemu_stream_device_state(stream);
    const struct qemu_block *blocks;
    struct map_root root;
    unsigned count;

    blocks = qemu_stream_blocks(stream, &count);
    for (unsigned i = 0; i < count; i++) {
        vn_auto(free) char *name = qemu_object_ram(vm, blocks[i].name);

        if (image_writer_finish(put->images[i], &root, err) < 0)
            return -1;
        manifest_add(manifest, name, &root);
    }
    if (store_put_bytes(put->writer, state->data, state->size, &root, err) < 0)
        return -1;
    manifest_add(manifest, device_state, &root);
    json_object_set_new(
        json_object_get(manifest, "meta"), "vm_state",
        json_pack("{s:o}", vm, qemu_state_to_json(stream, "7.2")));
    return store_writer_flush(put->writer, err);
}

static int put_stream(struct store *store, const char *vm, const char *path,
                      struct vn_err *err)
{
    vn_auto(store_writer) struct store_writer *writer =
        store_writer_open(store, err);
    vn_auto(json) json_t *manifest = manifest_new(SNAPSHOT, "vne");
    struct put put = {.writer = writer};
    const struct qemu_stream_sink sink = {put_blocks, put_page, &put};
    vn_auto(qemu_stream) struct qemu_stream *stream = qemu_stream_new(&sink);
    int r;

    if (!writer)
        return -1;
    if (!json_object_get(manifest, "meta"))
        json_object_set_new(manifest, "meta", json_object());
    r = feed_file(stream, path, err);
    if (r == 0)
        r = add_objects(&put, stream, vm, manifest, err);
    for (unsigned i = 0; i < QEMU_BLOCKS_MAX; i++)
        image_writer_free(put.images[i]);
    return r < 0 ? -1 : store_commit(store, manifest, err);
}

static int write_stream(struct store *store, const char *vm, const char *path,
                        struct vn_err *err)
{
    vn_auto(json) json_t *manifest = store_load(store, SNAPSHOT, err);
    vn_auto(qemu_stream_source) struct qemu_stream_source *source = NULL;
    vn_auto(close) int fd = -1;

    if (!manifest)
        return -1;
    source = qemu_stream_source_open(store, manifest, vm, err);
    if (!source)
        return -1;
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return vn_fail(err, errno, "open '%s'", path);
    return qemu_stream_source_write(source, fd, err);
}

static int run(char **argv, struct vn_err *err)
{
    vn_auto(store) struct store *store = NULL;
    bool put = !strcmp(argv[1], "put");

    if (put && store_init(argv[2], err) < 0)
        return -1;
    store = store_open(argv[2], err);
    if (!store)
        return -1;
    return put ? put_stream(store, argv[3], argv[4], err)
               : write_stream(store, argv[3], argv[4], err);
}

int main(int argc, char **argv)
{
    struct vn_err err = VN_ERR_INIT;

    if (argc != 5 || (strcmp(argv[1], "put") && strcmp(argv[1], "write"))) {
        fprintf(stderr, "usage: stream_tool put|write STORE VM FILE\n");
        return 64;
    }
    if (run(argv, &err) < 0) {
        fprintf(stderr, "stream_tool: %s\n", err.msg);
        return 1;
    }
    return 0;
}
