/* vnstore gc: remove what no snapshot needs. */

#include "cmd.h"
#include "ui_progress.h"
#include "ui_table.h"

#include "common/io.h"
#include "common/jsonx.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WAIT_DEFAULT_S 60u
#define WAIT_MAX_S     1000000u

enum { KEY_DRY_RUN = 0x700, KEY_THRESHOLD, KEY_WAIT, KEY_RECOMPRESS };

struct args {
    struct cmd_common common;
    bool dry_run;
    unsigned threshold_percent;
    unsigned wait_s;
    unsigned recompress_level; /* 0: do not */
};

/* "zstd" or "zstd:LEVEL". */
static unsigned parse_codec(struct argp_state *state, const char *arg)
{
    if (strncmp(arg, "zstd", 4) != 0 || (arg[4] != '\0' && arg[4] != ':'))
        argp_error(state, "--recompress: '%s' is not zstd or zstd:LEVEL", arg);
    if (arg[4] == '\0')
        return STORE_GC_LEVEL;
    return cmd_parse_number(state, "--recompress", arg + 5, 1,
                            STORE_GC_LEVEL_MAX);
}

static void take_option(void *context, int key, char *arg,
                        struct argp_state *state)
{
    struct args *args = context;

    switch (key) {
    case KEY_DRY_RUN:
        args->dry_run = true;
        break;
    case KEY_THRESHOLD:
        args->threshold_percent =
            cmd_parse_number(state, "--threshold", arg, 1, 100);
        break;
    case KEY_WAIT:
        args->wait_s = cmd_parse_number(state, "--wait", arg, 0, WAIT_MAX_S);
        break;
    case KEY_RECOMPRESS:
        args->recompress_level = parse_codec(state, arg);
        break;
    }
}

static json_t *counts_json(const struct args *args,
                           const struct store_gc_counts *c)
{
    json_t *all = json_object();

    json_object_set_new(all, "dry_run", json_boolean(args->dry_run));
    json_object_set_new(all, "snapshots", jsonx_int(c->snapshots));
    json_object_set_new(all, "chunks", jsonx_int(c->chunks));
    json_object_set_new(all, "chunks_live", jsonx_int(c->chunks_live));
    json_object_set_new(all, "chunks_removed", jsonx_int(c->chunks_removed));
    json_object_set_new(all, "packs_removed", jsonx_int(c->packs_removed));
    json_object_set_new(all, "packs_rewritten", jsonx_int(c->packs_rewritten));
    json_object_set_new(all, "packs_new", jsonx_int(c->packs_new));
    json_object_set_new(all, "chunks_recompressed",
                        jsonx_int(c->chunks_recompressed));
    json_object_set_new(all, "packs_waiting", jsonx_int(c->packs_waiting));
    json_object_set_new(all, "packs_damaged", jsonx_int(c->packs_damaged));
    json_object_set_new(all, "orphans_removed", jsonx_int(c->orphans_removed));
    json_object_set_new(all, "bytes_removed", jsonx_int(c->bytes_removed));
    json_object_set_new(all, "bytes_written", jsonx_int(c->bytes_written));
    return all;
}

static json_t *counts_facts(const struct args *args,
                            const struct store_gc_counts *c)
{
    const char *would = args->dry_run ? " (would be)" : "";
    uint64_t freed = c->bytes_removed > c->bytes_written
                         ? c->bytes_removed - c->bytes_written
                         : 0;
    json_t *facts = json_array();
    char text[16];

    ui_fact(facts, "snapshots", "%llu", (unsigned long long)c->snapshots);
    ui_fact(facts, "chunks", "%llu, %llu of them needed",
            (unsigned long long)c->chunks, (unsigned long long)c->chunks_live);
    ui_fact(facts, "chunks removed", "%llu%s",
            (unsigned long long)c->chunks_removed, would);
    ui_fact(facts, "packs removed", "%llu, %llu of them rewritten%s",
            (unsigned long long)c->packs_removed,
            (unsigned long long)c->packs_rewritten, would);
    if (c->chunks_recompressed)
        ui_fact(facts, "chunks recompressed", "%llu",
                (unsigned long long)c->chunks_recompressed);
    if (c->orphans_removed)
        ui_fact(facts, "leftovers removed", "%llu%s",
                (unsigned long long)c->orphans_removed, would);
    io_format_size(freed, text);
    ui_fact(facts, "space freed", "%s%s", text, would);
    if (c->packs_waiting)
        ui_fact(facts, "still in use",
                "%llu packs, by process %llu; another gc removes them",
                (unsigned long long)c->packs_waiting,
                (unsigned long long)c->holder);
    if (c->packs_damaged)
        ui_fact(facts, "damaged", "%llu packs; see vnstore verify",
                (unsigned long long)c->packs_damaged);
    return facts;
}

static int collect(const struct args *args, struct store *store,
                   struct store_gc_counts *counts, struct vn_err *err)
{
    struct ui_progress progress;
    const struct store_gc_opts opts = {
        .dry_run = args->dry_run,
        .threshold_percent = args->threshold_percent,
        .wait_ms = args->wait_s * UINT64_C(1000),
        .recompress_level = args->recompress_level,
        .progress = ui_progress_update,
        .context = &progress,
    };
    int r;

    ui_progress_begin(&progress, "gc", &args->common);
    r = store_gc(store, &opts, counts, err);
    ui_progress_end(&progress);
    return r;
}

int cmd_gc(int argc, char **argv, struct vn_err *err)
{
    static const struct argp_option options[] = {
        {"dry-run", KEY_DRY_RUN, NULL, 0,
         "Show what would be removed, change nothing", 0},
        {"threshold", KEY_THRESHOLD, "PERCENT", 0,
         "Rewrite packs of which this share or more is dead (default 50); 100:"
         " rewrite none",
         0},
        {"wait", KEY_WAIT, "SECONDS", 0,
         "How long to wait for those who use what is to be removed (default"
         " 60)",
         0},
        {"recompress", KEY_RECOMPRESS, "zstd[:LEVEL]", 0,
         "Compress what is not yet compressed so with zstd, level 1 to 19"
         " (default 3)",
         0},
        {0},
    };
    static const struct cmd_syntax syntax = {
        .common = CMD_STORE | CMD_JSON | CMD_PROGRESS,
        .options = options,
        .option = take_option,
        .doc = "Remove what no snapshot needs and free its space, while others"
               " may write and read.",
    };
    struct args args = {.threshold_percent = STORE_GC_THRESHOLD,
                        .wait_s = WAIT_DEFAULT_S};
    vn_auto(store) struct store *store = NULL;
    vn_auto(json) json_t *out = NULL;
    struct store_gc_counts counts;

    cmd_parse(&syntax, argc, argv, &args.common, &args);
    store = cmd_open_store(&args.common, err);
    if (!store || collect(&args, store, &counts, err) < 0)
        return -1;
    if (args.common.json) {
        out = counts_json(&args, &counts);
        ui_json_print(out);
        return CMD_OK;
    }
    out = counts_facts(&args, &counts);
    return ui_facts_print(out, err);
}
