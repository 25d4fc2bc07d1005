#include "cmd_export_image.h"

#include "common/auto.h"
#include "common/io.h"
#include "store/qcow2.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK_SIZE (1u << 20)
#define LIST_MAX   300u /* bytes of names in an error */

/* ---- which object ----------------------------------------------------- */

/*
 * The only object whose name begins with `prefix`; else VN_E_NOT_FOUND lists
 * those that do.
 */
static const char *only_object(json_t *objects, const char *prefix,
                               const char *how, struct vn_err *err)
{
    vn_auto(free) char *names = vn_strdup("");
    const char *found = NULL;
    const char *name;
    json_t *object;
    size_t count = 0;

    json_object_foreach (objects, name, object) {
        char *longer;

        if (strncmp(name, prefix, strlen(prefix)) != 0)
            continue;
        found = name;
        count++;
        if (strlen(names) > LIST_MAX)
            continue;
        longer = vn_format("%s%s%s", names, *names ? ", " : "", name);
        free(names);
        names = longer;
    }
    if (count == 1)
        return found;
    if (count == 0)
        return vn_fail_ptr(err, VN_E_NOT_FOUND,
                           "it has no object whose name begins with '%s'",
                           prefix);
    return vn_fail_ptr(err, VN_E_NOT_FOUND, "%s must say which: %s", how,
                       names);
}

/* "vm/NAME/" of the VM that was named, or of the only one. Caller frees. */
static char *vm_prefix(json_t *objects, const char *vm, struct vn_err *err)
{
    vn_auto(free) char *prefix = NULL;
    const char *name;
    json_t *object;

    if (vm)
        return vn_format("vm/%s/", vm);
    json_object_foreach (objects, name, object) {
        size_t size =
            strncmp(name, "vm/", 3) == 0 ? 3 + strcspn(name + 3, "/") + 1 : 0;

        if (size == 0 || (prefix && strncmp(name, prefix, size) == 0))
            continue;
        if (prefix)
            return vn_fail_ptr(err, VN_E_NOT_FOUND,
                               "it has several VMs, --vm must say which");
        prefix = strndup(name, size);
        if (!prefix)
            abort();
    }
    if (!prefix)
        return vn_fail_ptr(err, VN_E_NOT_FOUND, "it has no VM");
    return vn_steal(&prefix);
}

static const char *named_object(json_t *objects, const char *text,
                                struct vn_err *err)
{
    vn_auto(free) char *below = vn_format("file/%s", text);
    json_t *object;
    const char *name;

    json_object_foreach (objects, name, object)
        if (strcmp(name, text) == 0)
            return name;
    json_object_foreach (objects, name, object)
        if (strcmp(name, below) == 0)
            return name;
    return vn_fail_ptr(err, VN_E_NOT_FOUND, "it has no object '%s'", text);
}

/* The object's name, borrowed from the manifest. */
static const char *choose(json_t *objects,
                          const struct export_image_choice *choice,
                          struct vn_err *err)
{
    vn_auto(free) char *vm = NULL;
    vn_auto(free) char *name = NULL;
    vn_auto(free) char *disks = NULL;

    if (choice->object)
        return named_object(objects, choice->object, err);
    if (json_object_size(objects) == 1 && !choice->vm && !choice->disk &&
        !choice->ram)
        return only_object(objects, "", "--object", err);
    vm = vm_prefix(objects, choice->vm, err);
    if (!vm && !choice->disk && !choice->ram)
        return only_object(objects, "", "--object", err);
    if (!vm)
        return NULL;
    if (choice->disk || choice->ram) {
        name = vn_format("%s%s/%s", vm, choice->disk ? "disk" : "ram",
                         choice->disk ? choice->disk : choice->ram);
        return named_object(objects, name, err);
    }
    disks = vn_format("%sdisk/", vm);
    return only_object(objects, disks, "--disk", err);
}

/* ---- raw -------------------------------------------------------------- */

struct raw {
    struct image_reader *image;
    uint64_t size;
    int fd;
    bool sparse;
    uint8_t *block; /* BLOCK_SIZE */
    uint8_t *zeros; /* likewise */
    const struct export_image_opts *opts;
};

/* May holes be left out? Only where nothing can be there. */
static bool is_empty_file(int fd)
{
    struct stat st;
    int flags = fcntl(fd, F_GETFL);

    return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size == 0 &&
           flags >= 0 && !(flags & O_APPEND) && lseek(fd, 0, SEEK_CUR) == 0;
}

static int write_zeros(struct raw *raw, uint64_t size, struct vn_err *err)
{
    while (size && !raw->sparse) {
        size_t n = size < BLOCK_SIZE ? (size_t)size : BLOCK_SIZE;

        if (io_write(raw->fd, raw->zeros, n, err) < 0)
            return -1;
        size -= n;
    }
    return 0;
}

static int write_run(struct raw *raw, uint64_t start, uint64_t size,
                     struct vn_err *err)
{
    for (uint64_t offset = start; offset < start + size;) {
        uint64_t left = start + size - offset;
        size_t n = left < BLOCK_SIZE ? (size_t)left : BLOCK_SIZE;

        if (image_reader_read(raw->image, offset, raw->block, n, err) < 0)
            return -1;
        if ((raw->sparse ? io_pwrite(raw->fd, raw->block, n, offset, err)
                         : io_write(raw->fd, raw->block, n, err)) < 0)
            return -1;
        offset += n;
        raw->opts->progress(raw->opts->context, offset, raw->size);
    }
    return 0;
}

static int write_all(struct raw *raw, struct vn_err *err)
{
    uint64_t done = 0;

    if (raw->sparse && ftruncate(raw->fd, (off_t)raw->size) < 0)
        return vn_fail(err, errno, "make a file of %llu bytes",
                       (unsigned long long)raw->size);
    while (done < raw->size) {
        uint64_t start, size;

        if (image_reader_next_data(raw->image, done, &start, &size, err) < 0)
            return -1;
        if (size == 0)
            break;
        if (write_zeros(raw, start - done, err) < 0 ||
            write_run(raw, start, size, err) < 0)
            return -1;
        done = start + size;
    }
    return write_zeros(raw, raw->size - done, err);
}

static int write_raw(struct store *store, const struct map_root *root,
                     const struct export_image_opts *opts, int fd,
                     struct vn_err *err)
{
    vn_auto(image_reader) struct image_reader *image =
        image_reader_open(store, root, err);
    vn_auto(free) uint8_t *block = vn_alloc(BLOCK_SIZE);
    vn_auto(free) uint8_t *zeros = vn_alloc(BLOCK_SIZE);
    struct raw raw = {
        .image = image,
        .size = root->size,
        .fd = fd,
        .sparse = is_empty_file(fd),
        .block = block,
        .zeros = zeros,
        .opts = opts,
    };

    return image ? write_all(&raw, err) : -1;
}

int export_image(struct store *store, const struct export_image_opts *opts,
                 int fd, struct vn_err *err)
{
    vn_auto(store_hold) struct store_hold *hold = store_hold_open(store, err);
    vn_auto(json) json_t *manifest =
        hold ? store_load(store, opts->snapshot, err) : NULL;
    const char *object;
    struct map_root root;

    if (!manifest)
        return -1;
    object = choose(json_object_get(manifest, "objects"), &opts->choice, err);
    if (!object)
        return vn_wrap(err, "snapshot '%s'", opts->snapshot);
    if (manifest_object(manifest, object, &root, err) < 0 ||
        (opts->qcow2
             ? qcow2_write(store, &root, fd, opts->progress, opts->context, err)
             : write_raw(store, &root, opts, fd, err)) < 0)
        return vn_wrap(err, "object '%s'", object);
    return 0;
}
