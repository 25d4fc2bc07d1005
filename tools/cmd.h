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

/* ---- the command line -------------------------------------------------- */

/* Options that several commands have. */
enum cmd_option {
    CMD_STORE = 1,    /* --store */
    CMD_JSON = 2,     /* --json */
    CMD_PROGRESS = 4, /* --progress-fd, --quiet */
    CMD_NETWORK = 8,  /* --tls-dir */
};

#define CMD_ARGS_MAX 4u

/* What was given; strings live as long as argv. */
struct cmd_common {
    const char *store; /* never NULL after parsing with CMD_STORE */
    bool json;
    bool quiet;
    int progress_fd;               /* -1: none given */
    const char *tls_dir;           /* --tls-dir or $VNSTORE_TLS_DIR, or NULL */
    const char *arg[CMD_ARGS_MAX]; /* by their places; NULL: not given */
    char **more;                   /* those of "FILE..." */
    int more_count;
};

/* What a command takes. */
struct cmd_syntax {
    unsigned common; /* enum cmd_option, any of them */
    /*
     * Its arguments, words as --help shows them: "SNAP", "[SNAP]" (may be left
     * out), "FILE..." (one or more), "[OBJECT...]" (any number), the last two
     * only as the last one; at most CMD_ARGS_MAX words. NULL: none.
     */
    const char *args;
    const char *doc;
    const struct argp_option *options; /* its own; NULL: none */
    /* For each of its own that is given. Misuse: argp_error(). */
    void (*option)(void *context, int key, char *arg, struct argp_state *state);
    /* At the end, when all arguments that are needed are there: do the options
     * go together? argp_error(). May be NULL. */
    void (*check)(void *context, struct argp_state *state);
};

/*
 * Parse a command's line into *common and, by the functions of `syntax`,
 * `context`, which may hold *common. Exits on misuse and for --help. Those
 * functions find *common set by all that was given so far, its defaults first.
 */
void cmd_parse(const struct cmd_syntax *syntax, int argc, char **argv,
               struct cmd_common *common, void *context);

/* For an option's function: the number that it was given; another text, or a
 * number out of range, is a usage error. */
unsigned cmd_parse_number(struct argp_state *state, const char *option,
                          const char *arg, unsigned min, unsigned max);
/* The same for --domain: its argument; what is no name of one is misuse. */
const char *cmd_parse_domain(struct argp_state *state, const char *arg);

/* ---- the rest ---------------------------------------------------------- */

/* Open the store that --store or $VNSTORE_STORE names. */
struct store *cmd_open_store(const struct cmd_common *common,
                             struct vn_err *err) VN_MUST_USE;

/* {"read", "zero", "unchanged", "known", "new", "stored"} in bytes. */
json_t *cmd_counts_json(const struct store_counts *counts);

#endif
