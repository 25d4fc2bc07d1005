#ifndef TOOLS_CMD_H
#define TOOLS_CMD_H

/*
 * The sub-commands of vnstore, and what they share.
 *
 * A sub-command is one file cmd_<name>.c with one function, a row in the table
 * of vnstore.c, a section of man/vnstore.1.scd and words in the completion.
 */

#include "common/auto.h"
#include "common/err.h"
#include "store/store.h"

#include <argp.h>
#include <stdbool.h>

/* Exit statuses. argp exits by itself: 0 after --help, CMD_USAGE on misuse. */
enum { CMD_OK = 0, CMD_FAILED = 1, CMD_PARTIAL = 2, CMD_USAGE = 64 };

/*
 * Run a sub-command. argv[0] is "vnstore <name>", for argp's messages.
 * Returns an exit status; or -1 with err raised, which main prints as
 * "vnstore: <name>: <message>" before it exits with CMD_FAILED. A command that
 * returns CMD_FAILED or CMD_PARTIAL has said itself what was wrong.
 * Results go to stdout (main checks that they were written), all else to
 * stderr.
 */
typedef int cmd_run_fn(int argc, char **argv, struct vn_err *err);

cmd_run_fn cmd_init;
cmd_run_fn cmd_up;
cmd_run_fn cmd_down;
cmd_run_fn cmd_snapshot;
cmd_run_fn cmd_restore;
cmd_run_fn cmd_put;
cmd_run_fn cmd_get;
cmd_run_fn cmd_list;
cmd_run_fn cmd_show;
cmd_run_fn cmd_diff;
cmd_run_fn cmd_delete;
cmd_run_fn cmd_prune;
cmd_run_fn cmd_gc;
cmd_run_fn cmd_verify;
cmd_run_fn cmd_repair;
cmd_run_fn cmd_stats;
cmd_run_fn cmd_export;
cmd_run_fn cmd_import;
cmd_run_fn cmd_doctor;

/* ---- options that several commands have ------------------------------- */

/* The values. Zero-initialise; cmd_common_inputs() sets the defaults. */
struct cmd_common {
    const char *store; /* never NULL after parsing with CMD_STORE */
    bool json;
    bool quiet;
    int progress_fd; /* -1: none given */
};

/*
 * Children for a command's argp, in any number and order:
 *
 *     static const struct argp_child children[] = {
 *         {&cmd_argp_store, 0, NULL, 0}, {&cmd_argp_json, 0, NULL, 0}, {0}};
 *
 * and, in the command's parser,
 *
 *     case ARGP_KEY_INIT:
 *         cmd_common_inputs(state, children, &opts->common);
 */
extern const struct argp cmd_argp_store;    /* --store */
extern const struct argp cmd_argp_json;     /* --json */
extern const struct argp cmd_argp_progress; /* --progress-fd, --quiet */

void cmd_common_inputs(struct argp_state *state,
                       const struct argp_child *children,
                       struct cmd_common *common);

/* Open the store that --store or $VNSTORE_STORE names. */
struct store *cmd_open_store(const struct cmd_common *common,
                             struct vn_err *err) VN_MUST_USE;

/*
 * For a parser's ARGP_KEY_ARG: take the only positional argument. A second one
 * is a usage error.
 */
void cmd_take_arg(struct argp_state *state, char *arg, const char **slot);

/* For a parser: the number that `option` was given; another text, or a number
 * out of range, is a usage error. */
unsigned cmd_parse_number(struct argp_state *state, const char *option,
                          const char *arg, unsigned min, unsigned max);

/* {"read", "zero", "unchanged", "known", "new", "stored"} in bytes. */
json_t *cmd_counts_json(const struct store_counts *counts);

/* ---- a command with the usual options and one argument ---------------- */

struct cmd_simple {
    struct cmd_common common;
    const char *arg; /* NULL only where it is optional */
};

/* Parse; `args_doc` is "SNAP", "[SNAP]" (optional) or NULL (none). */
void cmd_simple_parse(struct cmd_simple *simple, const char *args_doc,
                      const char *doc, const struct argp_child *children,
                      int argc, char **argv);

#endif
