/* vnstore verify [SNAP]: re-read everything, say what is wrong. */

#include "cmd.h"
#include "ui_progress.h"
#include "ui_table.h"

#include "common/clock.h"
#include "common/jsonx.h"

#include <stdio.h>
#include <string.h>

enum { KEY_FAST = 0x800, KEY_RESUME };

struct args {
    struct cmd_common common;
    const char *snapshot;
    bool fast;
    bool resume;
};

struct verify {
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
    case KEY_FAST:
        args->fast = true;
        break;
    case KEY_RESUME:
        args->resume = true;
        break;
    }
}

static void check(void *context, struct argp_state *state)
{
    const struct args *args = context;

    if (args->resume && (args->fast || args->common.arg[0]))
        argp_error(state, "--resume is for a whole store, without --fast");
}

static void on_finding(void *context, const json_t *finding)
{
    struct verify *v = context;

    ui_progress_end(&v->progress);
    if (v->findings) {
        json_array_append_new(v->findings, json_deep_copy(finding));
        return;
    }
    ui_text_print(stdout, jsonx_string_or(finding, "sentence", "?"));
    putchar('\n');
    fflush(stdout); /* hours may pass until the next */
}

static void on_progress(void *context, uint64_t done, uint64_t total)
{
    struct verify *v = context;

    ui_progress_update(&v->progress, done, total);
}

static json_t *counts_json(const struct store_verify_counts *c)
{
    json_t *counts = json_object();

    json_object_set_new(counts, "packs", jsonx_int(c->packs));
    json_object_set_new(counts, "packs_before", jsonx_int(c->packs_before));
    json_object_set_new(counts, "chunks", jsonx_int(c->chunks));
    json_object_set_new(counts, "snapshots", jsonx_int(c->snapshots));
    json_object_set_new(counts, "objects", jsonx_int(c->objects));
    json_object_set_new(counts, "bad", jsonx_int(c->bad));
    json_object_set_new(counts, "lost", jsonx_int(c->lost));
    return counts;
}

static void print_json(const struct args *args, const struct verify *v,
                       const struct store_verify_counts *counts,
                       uint64_t took_ns)
{
    vn_auto(json) json_t *out = json_object();
    const char *mode = args->fast       ? "fast"
                       : args->snapshot ? "snapshot"
                                        : "full";
    char began[32];

    clock_format_utc(counts->began_s * 1000 * VN_MS, began);
    json_object_set_new(out, "mode", json_string(mode));
    json_object_set_new(out, "resumed", json_boolean(args->resume));
    json_object_set_new(out, "began", json_string(began));
    json_object_set_new(out, "seconds", json_real((double)took_ns / 1e9));
    json_object_set_new(out, "counts", counts_json(counts));
    json_object_set(out, "findings", v->findings);
    ui_json_print(out);
}

/* To the standard error, as results are findings only. */
static void say_resumed(const struct store_verify_counts *counts)
{
    char began[32];

    clock_format_utc(counts->began_s * 1000 * VN_MS, began);
    fprintf(stderr,
            "went on with the run begun at %s: %llu of %llu packs were not "
            "read again\n",
            began, (unsigned long long)counts->packs_before,
            (unsigned long long)counts->packs);
}

static int run(const struct args *args, struct store *store,
               uint64_t *ret_count, struct vn_err *err)
{
    vn_auto(json) json_t *findings = args->common.json ? json_array() : NULL;
    struct verify v = {.findings = findings};
    struct store_verify_counts counts = {0};
    const struct store_verify_opts opts = {
        .snapshot = args->snapshot,
        .fast = args->fast,
        .resume = args->resume,
        .detail = on_finding,
        .progress = on_progress,
        .context = &v,
        .counts = &counts,
    };
    uint64_t began = clock_now_ns();
    int r;

    ui_progress_begin(&v.progress, "verify", &args->common);
    r = store_verify(store, &opts, ret_count, err);
    ui_progress_end(&v.progress);
    if (r < 0)
        return -1;
    if (findings)
        print_json(args, &v, &counts, clock_now_ns() - began);
    if (args->resume && !args->common.quiet)
        say_resumed(&counts);
    return 0;
}

int cmd_verify(int argc, char **argv, struct vn_err *err)
{
    static const struct argp_option options[] = {
        {"fast", KEY_FAST, NULL, 0,
         "Read no pages: structure, checksums, maps and manifests only", 0},
        {"resume", KEY_RESUME, NULL, 0,
         "Go on where a run that was killed ended", 0},
        {0},
    };
    static const struct cmd_syntax syntax = {
        .common = CMD_STORE | CMD_JSON | CMD_PROGRESS,
        .options = options,
        .option = take_option,
        .args = "[SNAP]",
        .doc = "Re-read and check a whole store, or what one snapshot needs."
               " Prints a line for each finding; the exit status is 1 when"
               " there is one.",
        .check = check,
    };
    struct args args = {0};
    vn_auto(store) struct store *store = NULL;
    uint64_t count = 0;

    cmd_parse(&syntax, argc, argv, &args.common, &args);
    args.snapshot = args.common.arg[0];
    store = cmd_open_store(&args.common, err);
    if (!store || run(&args, store, &count, err) < 0)
        return -1;
    return count ? CMD_FAILED : CMD_OK;
}
