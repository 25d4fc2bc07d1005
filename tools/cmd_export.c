/* vnstore export SNAP -o FILE: write a snapshot as a tar, a Xen domain in it
 * as a file that xl restores, or one object of it as a disk image. */

#include "cmd.h"
#include "cmd_export_image.h"
#include "cmd_export_xl.h"
#include "cmd_outfile.h"
#include "ui_progress.h"

#include "store/archive.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { KEY_VM = 0x500, KEY_DISK, KEY_RAM, KEY_OBJECT, KEY_SINCE };
enum format { FORMAT_TAR, FORMAT_XL, FORMAT_RAW, FORMAT_QCOW2, FORMATS };

static const char *const format_names[FORMATS] = {"tar", "xl", "raw", "qcow2"};

struct args {
    struct cmd_common common;
    const char *snapshot;
    const char *output;
    const char *since;                 /* format tar; NULL: all of it */
    struct export_image_choice choice; /* its VM also for xl */
    enum format format;
};

static void parse_format(struct argp_state *state, struct args *args,
                         const char *arg)
{
    unsigned format = 0;

    while (format < FORMATS && strcmp(arg, format_names[format]) != 0)
        format++;
    if (format == FORMATS)
        argp_error(state, "--format: '%s' is not tar, xl, raw or qcow2", arg);
    args->format = (enum format)format;
}

static bool is_image(const struct args *args)
{
    return args->format == FORMAT_RAW || args->format == FORMAT_QCOW2;
}

static void check_choice(struct argp_state *state, const struct args *args)
{
    const struct export_image_choice *c = &args->choice;

    if (c->vm && args->format == FORMAT_TAR)
        argp_error(state, "--vm goes with another --format: a tar has all VMs");
    if ((c->disk || c->ram || c->object) && !is_image(args))
        argp_error(state, "--disk, --ram and --object go with --format raw or"
                          " qcow2");
    if (args->since && args->format != FORMAT_TAR)
        argp_error(state, "--since goes with --format tar");
    if ((c->disk && c->ram) || (c->object && (c->vm || c->disk || c->ram)))
        argp_error(state, "only one of --disk, --ram and --object");
}

static void check_args(void *context, struct argp_state *state)
{
    const struct args *args = context;

    check_choice(state, args);
    if (!args->output)
        argp_error(state, "-o FILE is missing");
    if (args->output && strcmp(args->output, "-") == 0 && isatty(STDOUT_FILENO))
        argp_error(state, "a %s file on a terminal is of no use",
                   format_names[args->format]);
}

static void take_option(void *context, int key, char *arg,
                        struct argp_state *state)
{
    struct args *args = context;

    switch (key) {
    case 'o':
        args->output = arg;
        break;
    case 'f':
        parse_format(state, args, arg);
        break;
    case KEY_VM:
        args->choice.vm = arg;
        break;
    case KEY_DISK:
        args->choice.disk = arg;
        break;
    case KEY_RAM:
        args->choice.ram = arg;
        break;
    case KEY_SINCE:
        args->since = arg;
        break;
    case KEY_OBJECT:
        args->choice.object = arg;
        break;
    }
}

static int export_to(struct store *store, const struct args *args, int fd,
                     struct vn_err *err)
{
    struct ui_progress progress;
    const struct export_image_opts image = {
        .snapshot = args->snapshot,
        .choice = args->choice,
        .qcow2 = args->format == FORMAT_QCOW2,
        .progress = ui_progress_update,
        .context = &progress,
    };
    const struct archive_export_opts tar = {
        .snapshot = args->snapshot,
        .since = args->since,
        .fd = fd,
        .progress = ui_progress_update,
        .context = &progress,
    };
    int r;

    ui_progress_begin(&progress, "export", &args->common);
    if (is_image(args))
        r = export_image(store, &image, fd, err);
    else if (args->format == FORMAT_XL)
        r = export_xl(store, args->snapshot, args->choice.vm, fd,
                      ui_progress_update, &progress, err);
    else
        r = archive_export(store, &tar, err);
    ui_progress_end(&progress);
    return r;
}

/* A device or a pipe that is there already is written, not replaced. */
static int export_to_special(struct store *store, const struct args *args,
                             struct vn_err *err)
{
    vn_auto(close) int fd = open(args->output, O_WRONLY | O_CLOEXEC);

    if (fd < 0)
        return vn_fail(err, errno, "open '%s'", args->output);
    return export_to(store, args, fd, err);
}

static int export_to_file(struct store *store, const struct args *args,
                          struct vn_err *err)
{
    const char *slash = strrchr(args->output, '/');
    vn_auto(free) char *dir_path =
        slash ? strndup(args->output, (size_t)(slash - args->output) + 1)
              : vn_strdup(".");
    vn_auto(close) int dir = open(dir_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    vn_auto(outfile) struct cmd_outfile file = CMD_OUTFILE_INIT;

    if (dir < 0)
        return vn_fail(err, errno, "open '%s'", dir_path);
    if (cmd_outfile_open(&file, dir, slash ? slash + 1 : args->output, err) <
            0 ||
        export_to(store, args, file.fd, err) < 0)
        return -1;
    return cmd_outfile_commit(&file, true, true, err);
}

int cmd_export(int argc, char **argv, struct vn_err *err)
{
    static const struct argp_option options[] = {
        {"output", 'o', "FILE", 0,
         "Write to FILE, which appears only when it is whole; - for standard"
         " output",
         0},
        {"format", 'f', "FORMAT", 0,
         "tar (the default); xl: a saved Xen domain, for xl restore; raw or"
         " qcow2: one disk, block of memory or file as a disk image",
         0},
        {"since", KEY_SINCE, "SNAP", 0,
         "Format tar: only what differs from this snapshot, which whoever"
         " imports it must have",
         0},
        {"vm", KEY_VM, "VM", 0,
         "Formats xl, raw, qcow2: the VM; the only one need not be named", 0},
        {"disk", KEY_DISK, "DISK", 0,
         "Formats raw, qcow2: the VM's disk, a number from 0; the only one need"
         " not be named",
         0},
        {"ram", KEY_RAM, "BLOCK", 0,
         "Formats raw, qcow2: a block of the VM's memory, such as pc.ram", 0},
        {"object", KEY_OBJECT, "NAME", 0,
         "Formats raw, qcow2: an object as show names it, or without file/", 0},
        {0},
    };
    static const struct cmd_syntax syntax = {
        .common = CMD_STORE | CMD_PROGRESS,
        .options = options,
        .option = take_option,
        .args = "SNAP",
        .doc =
            "Write a snapshot as a tar of its manifest, its objects as sparse"
            " files, and SHA256SUMS; or one Xen domain of it as a file for xl"
            " restore; or one object of it as a disk image.",
        .check = check_args,
    };
    vn_auto(store) struct store *store = NULL;
    struct args args = {0};
    struct stat st;
    int r;

    cmd_parse(&syntax, argc, argv, &args.common, &args);
    args.snapshot = args.common.arg[0];
    store = cmd_open_store(&args.common, err);
    if (!store)
        return -1;
    if (strcmp(args.output, "-") == 0)
        r = export_to(store, &args, STDOUT_FILENO, err);
    else if (stat(args.output, &st) == 0 && !S_ISREG(st.st_mode))
        r = export_to_special(store, &args, err);
    else
        r = export_to_file(store, &args, err);
    return r < 0 ? -1 : CMD_OK;
}
