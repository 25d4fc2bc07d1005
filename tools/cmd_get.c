/* vnstore get SNAP -o DIR [OBJECT...]: objects as sparse files. */

#include "cmd.h"
#include "cmd_outfile.h"
#include "ui_progress.h"

#include "common/io.h"
#include "common/jsonx.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/*
 * Nothing is ever written outside DIR, whatever a manifest says and whoever
 * else can write in DIR: names are held against a list of refusals, and every
 * directory on the way is opened from the one above without following links.
 */

#define STEP_SIZE (256u << 20) /* read from the store in one call */

enum { KEY_FORCE = 'f' };

struct args {
    struct cmd_common common;
    const char *output;
    bool force;
};

struct get {
    const struct args *args;
    struct store *store;
    const json_t *manifest;
    int root; /* DIR */
    struct ui_progress progress;
    uint64_t done;
    uint64_t total;
};

static void take_option(void *context, int key, char *arg,
                        struct argp_state *state)
{
    struct args *args = context;

    (void)state;
    switch (key) {
    case 'o':
        args->output = arg;
        break;
    case KEY_FORCE:
        args->force = true;
        break;
    }
}

static void check(void *context, struct argp_state *state)
{
    const struct args *args = context;

    if (!args->output)
        argp_error(state, "-o DIR is missing");
}

/* The next part of a path into `part`, or 0 where it is not a plain name. */
static size_t next_part(const char *path, char part[NAME_MAX + 1])
{
    size_t size = strcspn(path, "/");

    if (size == 0 || size > NAME_MAX)
        return 0;
    memcpy(part, path, size);
    part[size] = '\0';
    return strcmp(part, ".") == 0 || strcmp(part, "..") == 0 ? 0 : size;
}

/*
 * The directory of `object` below the root, made where it is missing if
 * `make`, and the last part of its name. -1 with ENOENT in err->code where a
 * directory is not there.
 */
static int open_parent(const struct get *g, const char *object, bool make,
                       char last[NAME_MAX + 1], struct vn_err *err)
{
    vn_auto(close) int dir = dup(g->root);
    const char *at = object;

    if (dir < 0)
        return vn_fail(err, errno, "open '%s'", g->args->output);
    for (;;) {
        size_t size = next_part(at, last);
        int below;

        if (size == 0)
            return vn_fail(err, VN_E_FORMAT,
                           "object '%s' cannot be the name of a file", object);
        if (at[size] == '\0')
            return vn_steal_fd(&dir);
        if (make && mkdirat(dir, last, 0777) < 0 && errno != EEXIST)
            return vn_fail(err, errno, "make the directory '%s' for '%s'", last,
                           object);
        below =
            openat(dir, last, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (below < 0)
            return vn_fail(err, errno, "open the directory '%s' for '%s'", last,
                           object);
        close(dir);
        dir = below;
        at += size + 1;
    }
}

/* Called by the store's threads. */
static int write_file(void *context, uint64_t offset, const void *data,
                      size_t size, struct vn_err *err)
{
    const int *fd = context;

    return io_pwrite(*fd, data, size, offset, err);
}

static int copy_data(struct get *g, struct image_reader *image, uint64_t size,
                     int fd, struct vn_err *err)
{
    uint64_t offset = 0, start, run;

    if (ftruncate(fd, (off_t)size) < 0)
        return vn_fail(err, errno, "make a file of %llu bytes",
                       (unsigned long long)size);
    while (offset < size) {
        if (image_reader_next_data(image, offset, &start, &run, err) < 0)
            return -1;
        if (run == 0)
            break;
        /* What follows may be holes again: those are left out. */
        run = size - start < STEP_SIZE ? size - start : STEP_SIZE;
        if (image_reader_read_to(image, start, run, write_file, &fd, err) < 0)
            return -1;
        offset = start + run;
        ui_progress_update(&g->progress, g->done + offset, g->total);
    }
    g->done += size;
    ui_progress_update(&g->progress, g->done, g->total);
    return 0;
}

static int get_object(struct get *g, const char *object, struct vn_err *err)
{
    char last[NAME_MAX + 1];
    vn_auto(image_reader) struct image_reader *image = NULL;
    vn_auto(close) int dir = open_parent(g, object, true, last, err);
    vn_auto(outfile) struct cmd_outfile file = CMD_OUTFILE_INIT;
    struct map_root root;

    if (dir < 0 || manifest_object(g->manifest, object, &root, err) < 0)
        return -1;
    image = image_reader_open(g->store, &root, err);
    if (!image || cmd_outfile_open(&file, dir, last, err) < 0 ||
        copy_data(g, image, root.size, file.fd, err) < 0 ||
        cmd_outfile_commit(&file, g->args->force, false, err) < 0)
        return vn_wrap(err, "object '%s'", object);
    return 0;
}

/* Refuse before the first byte what would be refused after the last. */
static int check_object(struct get *g, const char *object, struct vn_err *err)
{
    char last[NAME_MAX + 1];
    struct vn_err absent = VN_ERR_INIT;
    vn_auto(close) int dir = -1;
    struct map_root root;
    struct stat st;

    if (manifest_object(g->manifest, object, &root, err) < 0)
        return -1;
    g->total += root.size;
    dir = open_parent(g, object, false, last, &absent);
    if (dir < 0 && absent.code == ENOENT)
        return 0;
    if (dir < 0) {
        *err = absent;
        return -1;
    }
    if (fstatat(dir, last, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return 0;
    if (S_ISDIR(st.st_mode))
        return vn_fail(err, VN_E_EXISTS, "'%s/%s' is a directory",
                       g->args->output, object);
    if (!g->args->force)
        return vn_fail(err, VN_E_EXISTS, "'%s/%s' exists; --force replaces it",
                       g->args->output, object);
    return 0;
}

typedef int each_fn(struct get *g, const char *object, struct vn_err *err);

/* Call for the objects that were asked for, or for all. */
static int for_each(struct get *g, each_fn *call, struct vn_err *err)
{
    const char *name;
    json_t *object;

    for (int i = 0; i < g->args->common.more_count; i++)
        if (call(g, g->args->common.more[i], err) < 0)
            return -1;
    if (g->args->common.more_count)
        return 0;
    json_object_foreach (json_object_get(g->manifest, "objects"), name, object)
        if (call(g, name, err) < 0)
            return -1;
    return 0;
}

static int get_all(struct get *g, struct vn_err *err)
{
    int r;

    if (for_each(g, check_object, err) < 0)
        return -1;
    ui_progress_begin(&g->progress, "get", &g->args->common);
    r = for_each(g, get_object, err);
    ui_progress_end(&g->progress);
    return r;
}

int cmd_get(int argc, char **argv, struct vn_err *err)
{
    static const struct argp_option options[] = {
        {"output", 'o', "DIR", 0, "Write below DIR, which is made if missing",
         0},
        {"force", KEY_FORCE, NULL, 0, "Replace files that exist", 0},
        {0},
    };
    static const struct cmd_syntax syntax = {
        .common = CMD_STORE | CMD_PROGRESS,
        .options = options,
        .option = take_option,
        .args = "SNAP [OBJECT...]",
        .doc =
            "Write the objects of a snapshot, or those named, as sparse files"
            " below a directory.",
        .check = check,
    };
    vn_auto(store) struct store *store = NULL;
    vn_auto(store_hold) struct store_hold *hold = NULL;
    vn_auto(json) json_t *manifest = NULL;
    vn_auto(close) int root = -1;
    struct args args = {0};
    struct get get = {.args = &args};

    cmd_parse(&syntax, argc, argv, &args.common, &args);
    get.store = store = cmd_open_store(&args.common, err);
    hold = store ? store_hold_open(store, err) : NULL;
    manifest = hold ? store_load(store, args.common.arg[0], err) : NULL;
    if (!manifest)
        return -1;
    if (mkdir(args.output, 0777) < 0 && errno != EEXIST)
        return vn_fail(err, errno, "make the directory '%s'", args.output);
    root = open(args.output, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root < 0)
        return vn_fail(err, errno, "open the directory '%s'", args.output);
    get.manifest = manifest;
    get.root = root;
    return get_all(&get, err) < 0 ? -1 : CMD_OK;
}
