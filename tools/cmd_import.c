/* vnstore import FILE: read a snapshot from a tar. */

#include "cmd.h"
#include "ui_progress.h"

#include "store/archive.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct args {
    struct cmd_common common;
    const char *file;
    const char *name;
};

static const struct argp_child children[] = {
    {&cmd_argp_store, 0, NULL, 0}, {&cmd_argp_progress, 0, NULL, 0}, {0}};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct args *args = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        cmd_common_inputs(state, children, &args->common);
        return 0;
    case 'n':
        args->name = arg;
        return 0;
    case ARGP_KEY_ARG:
        cmd_take_arg(state, arg, &args->file);
        return 0;
    case ARGP_KEY_END:
        if (!args->file)
            argp_error(state, "FILE is missing");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int cmd_import(int argc, char **argv, struct vn_err *err)
{
    static const struct argp_option options[] = {
        {"name", 'n', "NAME", 0, "Keep it as NAME, not under its own name", 0},
        {0},
    };
    static const struct argp argp = {
        .options = options,
        .parser = parse,
        .args_doc = "FILE",
        .doc =
            "Read a snapshot from a tar made by export; - for standard input."
            " Nothing is kept unless all of it is there and every sum"
            " agrees. Prints the snapshot's name.",
        .children = children,
    };
    vn_auto(store) struct store *store = NULL;
    vn_auto(close) int fd = -1;
    vn_auto(free) char *name = NULL;
    struct args args = {0};
    struct ui_progress progress;
    int r;

    argp_parse(&argp, argc, argv, 0, NULL, &args);
    fd = strcmp(args.file, "-") == 0 ? dup(STDIN_FILENO)
                                     : open(args.file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return vn_fail(err, errno, "open '%s'", args.file);
    store = cmd_open_store(&args.common, err);
    if (!store)
        return -1;
    ui_progress_begin(&progress, "import", &args.common);
    r = archive_import(store, fd, args.name, ui_progress_update, &progress,
                       &name, err);
    ui_progress_end(&progress);
    if (r < 0)
        return vn_wrap(err, "'%s'", args.file);
    puts(name);
    return CMD_OK;
}
