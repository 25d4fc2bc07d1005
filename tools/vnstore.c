/*
 * vnstore: the command line. A table of sub-commands, each in a file of its
 * own; options before the command, exit statuses and error lines are here.
 */

#include "cmd.h"
#include "ui_table.h"

#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct command {
    const char *name;
    const char *summary; /* at most 60 characters */
    cmd_run_fn *run;
};

/* In the order of --help. */
static const struct command commands[] = {
    {"init", "create an empty store", cmd_init},
    {"up", "start the VMs of a virtual network", cmd_up},
    {"down", "stop the VMs of a virtual network", cmd_down},
    {"snapshot", "snapshot a running virtual network", cmd_snapshot},
    {"restore", "bring a snapshot back to life", cmd_restore},
    {"put", "keep memory or disk images as a snapshot", cmd_put},
    {"get", "write the objects of a snapshot as sparse files", cmd_get},
    {"list", "list the snapshots of a store", cmd_list},
    {"show", "show one snapshot", cmd_show},
    {"diff", "show what differs between two snapshots", cmd_diff},
    {"delete", "remove a snapshot", cmd_delete},
    {"prune", "delete old snapshots of a series by rules", cmd_prune},
    {"gc", "free the space of what no snapshot needs", cmd_gc},
    {"export", "write a snapshot as a tar", cmd_export},
    {"import", "read a snapshot from a tar", cmd_import},
    {"verify", "re-read and check a store or a snapshot", cmd_verify},
    {"repair", "repair a damaged store", cmd_repair},
    {"stats", "show what a store holds", cmd_stats},
    {"doctor", "show what works on this host, and why not", cmd_doctor},
};

struct input {
    int command; /* index of the command's name in argv; 0 while none */
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct input *input = state->input;

    switch (key) {
    case 's':
        if (setenv("VNSTORE_STORE", arg, 1) < 0)
            abort();
        return 0;
    case ARGP_KEY_ARG:
        input->command = state->next - 1;
        state->next = state->argc; /* the rest belongs to the command */
        return 0;
    case ARGP_KEY_NO_ARGS:
        argp_error(state, "no command");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* argp's help_filter: the table goes after the options. */
static char *add_commands(int key, const char *text, void *input)
{
    char *all;

    (void)input;
    if (key != ARGP_KEY_HELP_POST_DOC)
        return (char *)(uintptr_t)text;
    all = vn_strdup("Commands:\n");
    for (size_t i = 0; i < VN_COUNT(commands); i++) {
        char *longer = vn_format("%s  %-10s %s\n", all, commands[i].name,
                                 commands[i].summary);

        free(all);
        all = longer;
    }
    text =
        vn_format("%s\nEach has its own --help. The manual: man vnstore", all);
    free(all);
    return (char *)(uintptr_t)text;
}

static int run(const struct command *command, int argc, char **argv)
{
    vn_auto(free) char *name = vn_format("vnstore %s", command->name);
    struct vn_err err = VN_ERR_INIT;
    int status;

    argv[0] = name;
    status = command->run(argc, argv, &err);
    if (status < 0) {
        fprintf(stderr, "vnstore: %s: ", command->name);
        ui_text_print(stderr, err.msg);
        fputc('\n', stderr);
        status = CMD_FAILED;
    }
    if (fflush(stdout) == EOF || ferror(stdout)) {
        fprintf(stderr, "vnstore: %s: write to standard output: %m\n",
                command->name);
        status = status ? status : CMD_FAILED;
    }
    return status;
}

int main(int argc, char **argv)
{
    static const struct argp_option options[] = {
        {"store", 's', "STORE", 0, "Use this store instead of $VNSTORE_STORE",
         0},
        {0},
    };
    static const struct argp argp = {
        .options = options,
        .parser = parse,
        .args_doc = "COMMAND [ARGUMENT...]",
        .doc = "Snapshots of whole virtual networks, in a deduplicating store."
               "\v",
        .help_filter = add_commands,
    };
    struct input input = {0};

    setlocale(LC_CTYPE, "");  /* widths of characters in tables */
    signal(SIGPIPE, SIG_IGN); /* a write to a closed pipe is an error */
    store_catch_index_faults("vnstore", CMD_FAILED);
    argp_program_version = "vnstore " VN_VERSION;
    argp_err_exit_status = CMD_USAGE;
    argp_parse(&argp, argc, argv, ARGP_IN_ORDER, NULL, &input);
    for (size_t i = 0; i < VN_COUNT(commands); i++)
        if (strcmp(commands[i].name, argv[input.command]) == 0)
            return run(&commands[i], argc - input.command,
                       argv + input.command);
    fputs("vnstore: ", stderr);
    ui_text_print(stderr, argv[input.command]);
    fputs(": no such command; see vnstore --help\n", stderr);
    return CMD_USAGE;
}
