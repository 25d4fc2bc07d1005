/* vnstore prune SERIES --keep-...: delete the snapshots that no rule keeps. */

#include "cmd.h"
#include "ui_table.h"

#include "common/jsonx.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEEP_MAX 1000000000u

enum {
    KEY_DRY_RUN = 0x700,
    KEY_LAST,
    KEY_HOURLY,
    KEY_DAILY,
    KEY_WEEKLY,
    KEY_MONTHLY
};

struct args {
    struct cmd_common common;
    struct store_keep keep;
    bool dry_run;
};

/* The rules come first, in the order of their keys. */
static const struct argp_option options[] = {
    {"keep-last", KEY_LAST, "N", 0, "Keep the N newest", 0},
    {"keep-hourly", KEY_HOURLY, "N", 0,
     "Keep the newest of each of the N latest hours that have any", 0},
    {"keep-daily", KEY_DAILY, "N", 0, "The same for days", 0},
    {"keep-weekly", KEY_WEEKLY, "N", 0, "The same for weeks", 0},
    {"keep-monthly", KEY_MONTHLY, "N", 0, "The same for months", 0},
    {"dry-run", KEY_DRY_RUN, NULL, 0,
     "Show what would be deleted, change nothing", 0},
    {0},
};

static unsigned *rule_of(struct store_keep *keep, int key)
{
    switch (key) {
    case KEY_LAST:
        return &keep->last;
    case KEY_HOURLY:
        return &keep->hourly;
    case KEY_DAILY:
        return &keep->daily;
    case KEY_WEEKLY:
        return &keep->weekly;
    case KEY_MONTHLY:
        return &keep->monthly;
    default:
        return NULL;
    }
}

static void check(void *context, struct argp_state *state)
{
    const struct args *args = context;
    const struct store_keep *k = &args->keep;

    if (!(k->last || k->hourly || k->daily || k->weekly || k->monthly))
        argp_error(state, "no rule keeps anything: give a --keep-... option"
                          " (to remove all, use delete)");
}

static void take_option(void *context, int key, char *arg,
                        struct argp_state *state)
{
    struct args *args = context;
    unsigned *rule = rule_of(&args->keep, key);

    if (rule) {
        *rule = cmd_parse_number(state, options[key - KEY_LAST].name, arg, 0,
                                 KEEP_MAX);
        return;
    }
    switch (key) {
    case KEY_DRY_RUN:
        args->dry_run = true;
        break;
    }
}

/* The rows, with a column for people: "last, daily" or "- (deleted)". */
static int print_table(json_t *list, bool dry_run, struct vn_err *err)
{
    static const struct ui_column columns[] = {
        {"name", "NAME", UI_TEXT},
        {"created", "CREATED", UI_TEXT},
        {"why", "KEPT BY", UI_TEXT},
    };
    json_t *row;
    size_t i;

    json_array_foreach (list, i, row) {
        char why[128];
        json_t *reason;
        size_t k;

        snprintf(why, sizeof(why), "- (%s)",
                 dry_run ? "would be deleted" : "deleted");
        json_array_foreach (json_object_get(row, "reasons"), k, reason) {
            size_t at = k ? strlen(why) : 0;

            snprintf(why + at, sizeof(why) - at, "%s%s", k ? ", " : "",
                     json_string_value(reason));
        }
        json_object_set_new(row, "why", json_string(why));
    }
    return ui_table_print(list, columns, VN_COUNT(columns), err);
}

static int print_json(const struct args *args, json_t *list)
{
    vn_auto(json) json_t *out = NULL;
    uint64_t kept = 0;
    json_t *row;
    size_t i;

    json_array_foreach (list, i, row)
        kept += json_is_true(json_object_get(row, "keep"));
    out =
        json_pack("{ss sb so so sO}", "series", args->common.arg[0], "dry_run",
                  args->dry_run, "kept", jsonx_int(kept), "deleted",
                  jsonx_int(json_array_size(list) - kept), "snapshots", list);
    ui_json_print(out);
    return CMD_OK;
}

int cmd_prune(int argc, char **argv, struct vn_err *err)
{
    static const struct cmd_syntax syntax = {
        .common = CMD_STORE | CMD_JSON,
        .options = options,
        .option = take_option,
        .args = "SERIES",
        .doc = "Delete the snapshots of a series that no rule keeps, and show"
               " what stays and why. Their space is freed by gc.",
        .check = check,
    };
    struct args args = {0};
    vn_auto(store) struct store *store = NULL;
    vn_auto(json) json_t *list = NULL;

    cmd_parse(&syntax, argc, argv, &args.common, &args);
    store = cmd_open_store(&args.common, err);
    list = store ? store_prune(store, args.common.arg[0], &args.keep,
                               args.dry_run, err)
                 : NULL;
    if (!list)
        return -1;
    return args.common.json ? print_json(&args, list)
                            : print_table(list, args.dry_run, err);
}
