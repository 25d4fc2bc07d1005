/* vnstore put NAME FILE...: image files, and domains saved by xl, as a snapshot
 * of their own. */

#include "cmd.h"
#include "cmd_put_qcow2.h"
#include "cmd_put_xl.h"
#include "ui_progress.h"
#include "ui_table.h"

#include "common/io.h"
#include "common/jsonx.h"
#include "common/view.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK_SIZE  (1u << 20)
#define STEP_SIZE   (256u << 20) /* given to the store in one call */
#define NAME_TRIES  16 /* others may take the next number of a series */
#define KIND        "files"
#define KIND_VM     "vm" /* a saved domain is among them */
#define OBJECT_ROOT "file/"

enum { KEY_OPAQUE = 0x600, KEY_DOMAIN };
enum format { FORMAT_AUTO, FORMAT_RAW, FORMAT_QCOW2, FORMATS };

static const char *const format_names[FORMATS] = {"auto", "raw", "qcow2"};

struct args {
    struct cmd_common common;
    bool opaque;
    enum format format; /* of disk images */
    const char *domain; /* of the store; NULL: its own */
    const char *name;
};

struct put {
    const struct args *args;
    struct store *store;
    struct store_writer *writer; /* borrowed */
    json_t *parent;              /* manifest, or NULL */
    json_t *manifest;
    uint8_t *block; /* BLOCK_SIZE */
    struct ui_progress progress;
    uint64_t done;
    uint64_t total;
};

/* A file whose work is counted in other bytes than its own. */
struct file_share {
    struct put *put;
    uint64_t size; /* of the file */
};

static void parse_format(struct argp_state *state, struct args *args,
                         const char *arg)
{
    unsigned format = 0;

    while (format < FORMATS && strcmp(arg, format_names[format]) != 0)
        format++;
    if (format == FORMATS)
        argp_error(state, "--format: '%s' is not auto, raw or qcow2", arg);
    args->format = (enum format)format;
}

static void take_option(void *context, int key, char *arg,
                        struct argp_state *state)
{
    struct args *args = context;

    switch (key) {
    case KEY_OPAQUE:
        args->opaque = true;
        break;
    case KEY_DOMAIN:
        args->domain = cmd_parse_domain(state, arg);
        break;
    case 'f':
        parse_format(state, args, arg);
        break;
    }
}

/* Open a file or block device; its size by seeking, which works for both. */
static int open_image(const char *path, uint64_t *ret_size, struct vn_err *err)
{
    vn_auto(close) int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    off_t size;

    if (fd < 0 || fstat(fd, &st) < 0)
        return vn_fail(err, errno, "open '%s'", path);
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return vn_fail(err, VN_E_UNSUPPORTED,
                       "'%s' is neither a file nor a block device", path);
    size = lseek(fd, 0, SEEK_END);
    if (size < 0)
        return vn_fail(err, errno, "size of '%s'", path);
    if ((uint64_t)size > STORE_OBJECT_MAX)
        return vn_fail(err, VN_E_LIMIT, "'%s' is larger than an object may be",
                       path);
    *ret_size = (uint64_t)size;
    return vn_steal_fd(&fd);
}

/*
 * The first run at or after `offset` that is not a hole; its start and end are
 * on page boundaries, or the end is the file's. *ret_start == size: none.
 * A file that cannot tell is all data.
 */
static void next_data(int fd, uint64_t size, uint64_t offset,
                      uint64_t *ret_start, uint64_t *ret_end)
{
    off_t start = lseek(fd, (off_t)offset, SEEK_DATA);
    off_t end;

    *ret_start = offset;
    *ret_end = size;
    if (start < 0) {
        if (errno == ENXIO)
            *ret_start = size;
        return;
    }
    end = lseek(fd, start, SEEK_HOLE);
    start -= start % (off_t)STORE_PAGE_SIZE;
    if ((uint64_t)start > offset)
        *ret_start = (uint64_t)start;
    if (end < 0 || (uint64_t)end >= size)
        return;
    end += (off_t)(STORE_PAGE_SIZE - 1);
    end -= end % (off_t)STORE_PAGE_SIZE;
    if ((uint64_t)end < size)
        *ret_end = (uint64_t)end;
}

/* Read by the store's threads. */
static int read_file(void *context, uint64_t offset, void *data, size_t size,
                     struct vn_err *err)
{
    const int *fd = context;

    return io_pread(*fd, data, size, offset, err);
}

/* Long pieces are read by the store; short ones, which it collects, here. */
static int put_piece(struct put *p, int fd, uint64_t offset, uint64_t size,
                     struct image_writer *image, struct vn_err *err)
{
    if (size > BLOCK_SIZE) {
        vn_auto(file_view) struct file_view view = {0};
        bool seen = file_view_open(&view, fd, offset, (size_t)size);

        return image_writer_put_from(image, offset, size, read_file, &fd,
                                     seen ? &view : NULL, err);
    }
    if (io_pread(fd, p->block, (size_t)size, offset, err) < 0)
        return -1;
    return image_writer_put(image, offset, p->block, (size_t)size, err);
}

static int put_data(struct put *p, int fd, uint64_t size,
                    struct image_writer *image, struct vn_err *err)
{
    uint64_t offset = 0, start, end;

    while (offset < size) {
        next_data(fd, size, offset, &start, &end);
        for (offset = start; offset < end;) {
            uint64_t n = end - offset < STEP_SIZE ? end - offset : STEP_SIZE;

            if (put_piece(p, fd, offset, n, image, err) < 0)
                return -1;
            offset += n;
            ui_progress_update(&p->progress, p->done + offset, p->total);
        }
    }
    p->done += size;
    ui_progress_update(&p->progress, p->done, p->total);
    return 0;
}

static char *object_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return vn_format(OBJECT_ROOT "%s", slash ? slash + 1 : path);
}

static int put_image(struct put *p, const char *path, int fd, uint64_t size,
                     struct vn_err *err)
{
    vn_auto(free) char *object = object_name(path);
    vn_auto(image_writer) struct image_writer *image = NULL;
    struct map_root root, parent;
    bool has_parent =
        p->parent && manifest_find_like(p->parent, object, size, &parent);

    image =
        image_writer_open(p->writer, size, has_parent ? &parent : NULL, err);
    if (!image || put_data(p, fd, size, image, err) < 0 ||
        image_writer_finish(image, &root, err) < 0)
        return -1;
    manifest_add(p->manifest, object, &root);
    return 0;
}

static bool is_domain(const struct put *p, int fd)
{
    return !p->args->opaque && p->args->format == FORMAT_AUTO && put_xl_is(fd);
}

static bool is_qcow2(const struct put *p, int fd)
{
    return !p->args->opaque &&
           (p->args->format == FORMAT_QCOW2 ||
            (p->args->format == FORMAT_AUTO && put_qcow2_is(fd)));
}

static void update_progress(void *context, uint64_t done, uint64_t total)
{
    struct put *p = context;

    (void)total; /* of one file; p has that of all */
    ui_progress_update(&p->progress, p->done + done, p->total);
}

/* Is it the file, not the store, that is at fault? */
static bool is_unreadable(const struct vn_err *err)
{
    return err->code == VN_E_FORMAT || err->code == VN_E_LIMIT ||
           err->code == VN_E_UNSUPPORTED || err->code == VN_E_VERSION;
}

static int put_domain(struct put *p, int fd, uint64_t size, struct vn_err *err)
{
    const struct put_xl_opts opts = {
        .fd = fd,
        .size = size,
        .writer = p->writer,
        .parent = p->parent,
        .manifest = p->manifest,
        .progress = update_progress,
        .context = p,
    };

    if (put_xl(&opts, err) < 0)
        return is_unreadable(err)
                   ? vn_wrap(err, "saved by xl, but not readable (--opaque "
                                  "keeps it as it is)")
                   : -1;
    json_object_set_new(p->manifest, "kind", json_string(KIND_VM));
    p->done += size;
    return 0;
}

/* The parts of the disk, as shares of the file. */
static void update_share(void *context, uint64_t done, uint64_t total)
{
    const struct file_share *share = context;
    double part = total ? (double)done / (double)total : 1.0;

    ui_progress_update(&share->put->progress,
                       share->put->done +
                           (uint64_t)(part * (double)share->size),
                       share->put->total);
}

static int put_disk(struct put *p, const char *path, int fd, uint64_t size,
                    struct vn_err *err)
{
    vn_auto(free) char *object = put_qcow2_object(path);
    struct file_share share = {p, size};
    const struct put_qcow2_opts opts = {
        .fd = fd,
        .size = size,
        .object = object,
        .writer = p->writer,
        .parent = p->parent,
        .manifest = p->manifest,
        .progress = update_share,
        .context = &share,
    };

    if (put_qcow2(&opts, err) < 0)
        return is_unreadable(err)
                   ? vn_wrap(err, "a qcow2 image, but not readable (--opaque "
                                  "keeps it as it is)")
                   : -1;
    p->done += size;
    return 0;
}

/* The rest of what others have cut meanwhile cannot be had. */
static int check_whole(int fd, uint64_t size, struct vn_err *err)
{
    off_t now = lseek(fd, 0, SEEK_END);

    if (now < 0 || (uint64_t)now >= size)
        return 0;
    return vn_fail(err, VN_E_STATE,
                   "it was cut from %llu to %llu bytes while it was read",
                   (unsigned long long)size, (unsigned long long)now);
}

static int put_file(struct put *p, const char *path, struct vn_err *err)
{
    uint64_t size;
    vn_auto(close) int fd = open_image(path, &size, err);
    int r;

    if (fd < 0)
        return -1;
    if (is_domain(p, fd))
        r = put_domain(p, fd, size, err);
    else if (is_qcow2(p, fd))
        r = put_disk(p, path, fd, size, err);
    else
        r = put_image(p, path, fd, size, err);
    if (check_whole(fd, size, err) < 0)
        r = -1;
    return r < 0 ? vn_wrap(err, "'%s'", path) : 0;
}

/* All that can be wrong with the files, before anything is read. */
static int check_files(struct put *p, struct vn_err *err)
{
    vn_auto(json) json_t *seen = json_object();

    for (int i = 0; i < p->args->common.more_count; i++) {
        const char *path = p->args->common.more[i];
        vn_auto(free) char *object = NULL;
        uint64_t size;
        vn_auto(close) int fd = open_image(path, &size, err);

        if (fd < 0)
            return -1;
        p->total += size;
        if (is_domain(p, fd))
            continue; /* its name is that of the domain */
        object = is_qcow2(p, fd) ? put_qcow2_object(path) : object_name(path);
        if (json_object_get(seen, object))
            return vn_fail(err, VN_E_EXISTS,
                           "two files would be the object '%s'", object);
        if (json_object_set_new(seen, object, json_true()) < 0)
            return vn_fail(err, VN_E_FORMAT, "the name of '%s' is not UTF-8",
                           path);
    }
    return 0;
}

/* Commit under the name given, or the next of its series. */
static int commit(struct put *p, struct vn_err *err)
{
    bool series = strchr(p->args->name, '@') == NULL;

    for (int tries = 0;; tries++) {
        vn_auto(free) char *name =
            series ? store_next_name(p->store, p->args->name, err)
                   : vn_strdup(p->args->name);

        if (!name)
            return -1;
        json_object_set_new(p->manifest, "name", json_string(name));
        if (store_commit(p->store, p->manifest, err) == 0)
            return 0;
        if (!series || err->code != VN_E_EXISTS || tries == NAME_TRIES)
            return -1;
    }
}

static void print_summary(const struct put *p,
                          const struct store_counts *counts)
{
    vn_auto(json) json_t *out = NULL;
    const char *name = jsonx_string_or(p->manifest, "name", "");
    char read[16], fresh[16], stored[16];

    if (p->args->common.json) {
        out = json_pack("{ss so}", "name", name, "bytes",
                        cmd_counts_json(counts));
        ui_json_print(out);
        return;
    }
    io_format_size(counts->bytes_read, read);
    io_format_size(counts->bytes_new, fresh);
    io_format_size(counts->bytes_stored, stored);
    printf("%s: %s read, %s new, %s stored\n", name, read, fresh, stored);
}

static int put_all(struct put *p, struct vn_err *err)
{
    vn_auto(store_writer) struct store_writer *writer = NULL;
    struct store_counts counts;
    json_t *meta = json_object();

    json_object_set_new(p->manifest, "meta", meta);
    manifest_set_domain(p->manifest, p->args->domain);
    if (check_files(p, err) < 0)
        return -1;
    p->writer = writer = store_writer_open_in(p->store, p->args->domain, err);
    if (!writer)
        return -1;
    ui_progress_begin(&p->progress, "put", &p->args->common);
    for (int i = 0; i < p->args->common.more_count; i++)
        if (put_file(p, p->args->common.more[i], err) < 0) {
            ui_progress_end(&p->progress);
            return -1;
        }
    ui_progress_end(&p->progress);
    if (store_writer_flush(writer, err) < 0)
        return -1;
    store_writer_counts(writer, &counts);
    json_object_set_new(meta, "bytes", cmd_counts_json(&counts));
    if (commit(p, err) < 0)
        return -1;
    print_summary(p, &counts);
    return 0;
}

int cmd_put(int argc, char **argv, struct vn_err *err)
{
    static const struct argp_option options[] = {
        {"opaque", KEY_OPAQUE, NULL, 0,
         "Keep a saved domain or a qcow2 image as a file like any other", 0},
        {"domain", KEY_DOMAIN, "NAME", 0,
         "Share pages within this domain of the store only", 0},
        {"format", 'f', "FORMAT", 0,
         "The files are images of this format: raw, qcow2 (kept as the disk "
         "that"
         " the guest sees), or auto (the default)",
         0},
        {0},
    };
    static const struct cmd_syntax syntax = {
        .common = CMD_STORE | CMD_JSON | CMD_PROGRESS,
        .options = options,
        .option = take_option,
        .args = "NAME FILE...",
        .doc = "Keep image files or block devices as a snapshot. Without \"@N\""
               " in NAME it becomes the next of the series: NAME@1, NAME@2,"
               " ... Holes of sparse files are not read. A Xen domain saved by"
               " xl becomes a virtual machine, kept page by page. A qcow2"
               " image becomes the disk that the guest sees, NAME.raw. A file"
               " that is written meanwhile is kept page by page, each as it was"
               " at some moment: of a running machine, take a snapshot.",
    };
    vn_auto(store) struct store *store = NULL;
    vn_auto(json) json_t *parent = NULL, *manifest = NULL;
    vn_auto(free) char *series = NULL;
    vn_auto(free) uint8_t *block = NULL;
    struct vn_err none = VN_ERR_INIT;
    struct args args = {0};
    struct put put = {.args = &args};

    cmd_parse(&syntax, argc, argv, &args.common, &args);
    args.name = args.common.arg[0];
    put.store = store = cmd_open_store(&args.common, err);
    if (!store)
        return -1;
    series = strndup(args.name, strcspn(args.name, "@"));
    put.block = block = vn_alloc(BLOCK_SIZE);
    put.manifest = manifest = manifest_new(args.name, KIND);
    /* An unreadable parent costs time only; verify is who reports it. */
    put.parent = parent = store_load_latest(store, series, &none);
    return put_all(&put, err) < 0 ? -1 : CMD_OK;
}
