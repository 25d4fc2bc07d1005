#include "cmd_put_qcow2.h"

#include "common/auto.h"
#include "common/io.h"
#include "store/qcow2.h"

#include <string.h>
#include <unistd.h>

bool put_qcow2_is(int fd)
{
    uint8_t magic[4];

    return pread(fd, magic, sizeof(magic), 0) == (ssize_t)sizeof(magic) &&
           qcow2_is(magic, sizeof(magic));
}

char *put_qcow2_object(const char *path)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    const char *dot = strrchr(name, '.');
    size_t size = strlen(name);

    /* The content is raw: a name that says otherwise would mislead. */
    if (dot && dot > name &&
        (strcmp(dot, ".qcow2") == 0 || strcmp(dot, ".qcow") == 0))
        size = (size_t)(dot - name);
    return vn_format("file/%.*s.raw", (int)size, name);
}

static int read_file(void *context, uint64_t offset, void *data, size_t size,
                     struct vn_err *err)
{
    return io_pread(*(const int *)context, data, size, offset, err);
}

static int put_disk(const struct put_qcow2_opts *opts,
                    struct qcow2_reader *disk, struct image_writer *image,
                    struct vn_err *err)
{
    uint64_t total = qcow2_size(disk);

    for (;;) {
        const uint8_t *data;
        uint64_t start;
        size_t size;

        if (qcow2_next(disk, &start, &data, &size, err) < 0)
            return -1;
        if (size == 0)
            break;
        if (image_writer_put(image, start, data, size, err) < 0)
            return -1;
        opts->progress(opts->context, start + size, total);
    }
    opts->progress(opts->context, total, total);
    return 0;
}

int put_qcow2(const struct put_qcow2_opts *opts, struct vn_err *err)
{
    int fd = opts->fd;
    const struct qcow2_file file = {
        .read = read_file, .context = &fd, .size = opts->size};
    vn_auto(qcow2) struct qcow2_reader *disk = qcow2_open(&file, err);
    vn_auto(image_writer) struct image_writer *image = NULL;
    struct map_root root, parent;
    bool has_parent;

    if (!disk)
        return -1;
    has_parent = opts->parent && manifest_find_like(opts->parent, opts->object,
                                                    qcow2_size(disk), &parent);
    image = image_writer_open(opts->writer, qcow2_size(disk),
                              has_parent ? &parent : NULL, err);
    if (!image || put_disk(opts, disk, image, err) < 0 ||
        image_writer_finish(image, &root, err) < 0)
        return -1;
    manifest_add(opts->manifest, opts->object, &root);
    return 0;
}
