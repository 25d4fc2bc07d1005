/* vnstore import FILE: read a snapshot from a tar. */

#include "cmd.h"
#include "ui_progress.h"
#include "ui_table.h"

#include "common/io.h"

#include "store/archive.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { KEY_SINCE = 0x800, KEY_SIZE_MAX, KEY_DOMAIN };

struct args {
    struct cmd_common common;
    const char *file;
    const char *name;
    const char *since;
    const char *domain; /* of the store; NULL: its own */
    uint64_t size_max;
};

static void take_option(void *context, int key, char *arg,
                        struct argp_state *state)
{
    struct args *args = context;
    struct vn_err err = VN_ERR_INIT;

    switch (key) {
    case 'n':
        args->name = arg;
        break;
    case KEY_SINCE:
        args->since = arg;
        break;
    case KEY_DOMAIN:
        args->domain = cmd_parse_domain(state, arg);
        break;
    case KEY_SIZE_MAX:
        if (io_parse_size(arg, &args->size_max, &err) < 0 ||
            args->size_max == 0)
            argp_error(state, "--max-size: '%s' is no size", arg);
        break;
    }
}

static void print_result(const struct args *args,
                         const struct archive_imported *imported)
{
    const struct store_counts *counts = &imported->counts;
    vn_auto(json) json_t *out = NULL;
    char read[16], fresh[16], stored[16];

    if (args->common.json) {
        out = json_pack("{ss so}", "name", imported->name, "bytes",
                        cmd_counts_json(counts));
        ui_json_print(out);
        return;
    }
    puts(imported->name);
    if (args->common.quiet)
        return;
    io_format_size(counts->bytes_read, read);
    io_format_size(counts->bytes_new, fresh);
    io_format_size(counts->bytes_stored, stored);
    fprintf(stderr, "%s read, %s new, %s stored\n", read, fresh, stored);
}

int cmd_import(int argc, char **argv, struct vn_err *err)
{
    static const struct argp_option options[] = {
        {"name", 'n', "NAME", 0, "Keep it as NAME, not under its own name", 0},
        {"since", KEY_SINCE, "SNAP", 0,
         "What the snapshot that an incremental tar is based on is called here",
         0},
        {"domain", KEY_DOMAIN, "NAME", 0,
         "Share pages within this domain of the store only", 0},
        {"max-size", KEY_SIZE_MAX, "SIZE", 0,
         "Refuse a tar whose objects are larger together, holes included"
         " (default 4T)",
         0},
        {0},
    };
    static const struct cmd_syntax syntax = {
        .common = CMD_STORE | CMD_JSON | CMD_PROGRESS,
        .options = options,
        .option = take_option,
        .args = "FILE",
        .doc =
            "Read a snapshot from a tar made by export; - for standard input."
            " Nothing is kept unless all of it is there and every sum"
            " agrees. Prints the snapshot's name, and on standard error how"
            " much of it was new.",
    };
    vn_auto(store) struct store *store = NULL;
    vn_auto(close) int fd = -1;
    struct args args = {.size_max = ARCHIVE_SIZE_MAX};
    struct archive_import_opts opts;
    struct archive_imported imported;
    struct ui_progress progress;
    int r;

    cmd_parse(&syntax, argc, argv, &args.common, &args);
    args.file = args.common.arg[0];
    fd = strcmp(args.file, "-") == 0 ? dup(STDIN_FILENO)
                                     : open(args.file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return vn_fail(err, errno, "open '%s'", args.file);
    store = cmd_open_store(&args.common, err);
    if (!store)
        return -1;
    opts = (struct archive_import_opts){
        .fd = fd,
        .name = args.name,
        .since = args.since,
        .domain = args.domain,
        .size_max = args.size_max,
        .progress = ui_progress_update,
        .context = &progress,
    };
    ui_progress_begin(&progress, "import", &args.common);
    r = archive_import(store, &opts, &imported, err);
    ui_progress_end(&progress);
    if (r < 0)
        return vn_wrap(err, "'%s'", args.file);
    print_result(&args, &imported);
    free(imported.name);
    return CMD_OK;
}
