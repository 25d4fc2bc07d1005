/* vnstore repair: make the best of a damaged store. */

#include "cmd.h"
#include "ui_progress.h"
#include "ui_table.h"

#include "common/jsonx.h"

#include <stdio.h>

#define WAIT_S 60u

enum { KEY_DRY_RUN = 0x900, KEY_REBUILD };

struct args {
    struct cmd_common common;
    bool dry_run;
    bool rebuild_index;
};

struct repair {
    struct ui_progress progress;
    json_t *findings; /* where --json was given, else NULL */
};

static void take_option(void *context, int key, char *arg,
                        struct argp_state *state)
{
    struct args *args = context;

    (void)arg;
    (void)state;
    switch (key) {
    case KEY_DRY_RUN:
        args->dry_run = true;
        break;
    case KEY_REBUILD:
        args->rebuild_index = true;
        break;
    }
}

static void on_finding(void *context, const json_t *finding)
{
    struct repair *r = context;

    ui_progress_end(&r->progress);
    if (r->findings) {
        json_array_append_new(r->findings, json_deep_copy(finding));
        return;
    }
    ui_text_print(stdout, jsonx_string_or(finding, "sentence", "?"));
    putchar('\n');
    fflush(stdout);
}

static void on_progress(void *context, uint64_t done, uint64_t total)
{
    struct repair *r = context;

    ui_progress_update(&r->progress, done, total);
}

static void set(json_t *json, const char *key, uint64_t value)
{
    json_object_set_new(json, key, jsonx_int(value));
}

static json_t *counts_json(const struct store_repair_counts *c)
{
    json_t *counts = json_object();

    set(counts, "findings", c->findings);
    set(counts, "packs_read", c->packs_read);
    set(counts, "packs_unusable", c->packs_unusable);
    set(counts, "snapshots", c->snapshots);
    set(counts, "snapshots_deleted", c->snapshots_deleted);
    set(counts, "snapshots_dropped", c->snapshots_dropped);
    set(counts, "packs_damaged", c->packs_damaged);
    set(counts, "packs_new", c->packs_new);
    set(counts, "chunks_moved", c->chunks_moved);
    set(counts, "chunks_lost", c->chunks_lost);
    set(counts, "chunks_healed", c->chunks_healed);
    set(counts, "lost", c->lost);
    return counts;
}

static void print_json(const struct args *args, const struct repair *r,
                       const struct store_repair_counts *counts)
{
    vn_auto(json) json_t *out = json_object();

    json_object_set_new(out, "dry_run", json_boolean(args->dry_run));
    json_object_set_new(out, "rebuilt", json_boolean(counts->rebuilt));
    json_object_set_new(out, "counts", counts_json(counts));
    json_object_set(out, "findings", r->findings);
    ui_json_print(out);
}

static json_t *counts_facts(const struct args *args,
                            const struct store_repair_counts *c)
{
    const char *would = args->dry_run ? " (would be)" : "";
    json_t *facts = json_array();

    ui_fact(facts, "findings", "%llu", (unsigned long long)c->findings);
    if (c->rebuilt) {
        ui_fact(facts, "index", "built anew from %llu packs%s",
                (unsigned long long)c->packs_read, would);
        ui_fact(facts, "snapshots", "%llu, %llu left out",
                (unsigned long long)c->snapshots,
                (unsigned long long)c->snapshots_dropped);
        ui_fact(facts, "packs unusable", "%llu",
                (unsigned long long)c->packs_unusable);
    }
    ui_fact(facts, "packs replaced", "%llu%s",
            (unsigned long long)c->packs_damaged, would);
    if (!args->dry_run)
        ui_fact(facts, "chunks moved", "%llu",
                (unsigned long long)c->chunks_moved);
    ui_fact(facts, "chunks given up", "%llu%s",
            (unsigned long long)c->chunks_lost, would);
    if (!args->dry_run)
        ui_fact(facts, "chunks healed", "%llu, from other copies",
                (unsigned long long)c->chunks_healed);
    ui_fact(facts, "lost now", "%llu chunks", (unsigned long long)c->lost);
    return facts;
}

static int run(const struct args *args, struct store_repair_counts *counts,
               struct vn_err *err)
{
    vn_auto(json) json_t *findings = args->common.json ? json_array() : NULL;
    struct repair r = {.findings = findings};
    const struct store_repair_opts opts = {
        .dry_run = args->dry_run,
        .rebuild_index = args->rebuild_index,
        .wait_ms = WAIT_S * UINT64_C(1000),
        .detail = on_finding,
        .progress = on_progress,
        .context = &r,
    };
    int result;

    ui_progress_begin(&r.progress, "repair", &args->common);
    result = store_repair(args->common.store, &opts, counts, err);
    ui_progress_end(&r.progress);
    if (result < 0)
        return -1;
    if (findings)
        print_json(args, &r, counts);
    return 0;
}

int cmd_repair(int argc, char **argv, struct vn_err *err)
{
    static const struct argp_option options[] = {
        {"dry-run", KEY_DRY_RUN, NULL, 0,
         "Show what would be done, change nothing", 0},
        {"rebuild-index", KEY_REBUILD, NULL, 0,
         "Build the index anew from the packs, even if it is sound", 0},
        {0},
    };
    static const struct cmd_syntax syntax = {
        .common = CMD_STORE | CMD_JSON | CMD_PROGRESS,
        .options = options,
        .option = take_option,
        .doc = "Repair a damaged store: build a lost index anew, move what can"
               " be read out of damaged packs, give up what cannot, so that it"
               " heals when the same content is stored again. The exit status"
               " is 2 when chunks are lost or snapshots left out.",
    };
    struct args args = {0};
    vn_auto(json) json_t *facts = NULL;
    struct store_repair_counts counts;

    cmd_parse(&syntax, argc, argv, &args.common, &args);
    if (run(&args, &counts, err) < 0)
        return -1;
    facts = counts_facts(&args, &counts);
    if (!args.common.json && ui_facts_print(facts, err) < 0)
        return -1;
    if (args.dry_run && counts.findings)
        return CMD_FAILED;
    return counts.lost || counts.snapshots_dropped || counts.packs_unusable
               ? CMD_PARTIAL
               : CMD_OK;
}
