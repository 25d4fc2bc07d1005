/* vnstore verify [SNAP]: re-read everything, say what is wrong. */

#include "cmd.h"
#include "ui_progress.h"
#include "ui_table.h"

#include "common/jsonx.h"

#include <stdio.h>

struct verify {
    struct ui_progress progress;
    json_t *findings; /* where --json was given, else NULL */
};

static void on_finding(void *context, const char *sentence)
{
    struct verify *v = context;

    ui_progress_end(&v->progress);
    if (v->findings) {
        /* NULL where damage made the sentence something else than UTF-8. */
        json_t *text = json_string(sentence);

        json_array_append_new(v->findings,
                              text ? text : json_string("(unreadable)"));
        return;
    }
    ui_text_print(stdout, sentence);
    putchar('\n');
}

static void on_progress(void *context, uint64_t done, uint64_t total)
{
    struct verify *v = context;

    ui_progress_update(&v->progress, done, total);
}

int cmd_verify(int argc, char **argv, struct vn_err *err)
{
    static const struct argp_child children[] = {
        {&cmd_argp_store, 0, NULL, 0},
        {&cmd_argp_json, 0, NULL, 0},
        {&cmd_argp_progress, 0, NULL, 0},
        {0}};
    vn_auto(store) struct store *store = NULL;
    vn_auto(json) json_t *findings = NULL, *out = NULL;
    struct cmd_simple args;
    struct verify verify = {0};
    struct store_verify_opts opts = {
        .finding = on_finding,
        .progress = on_progress,
        .context = &verify,
    };
    uint64_t count = 0;
    int r;

    cmd_simple_parse(&args, "[SNAP]",
                     "Re-read and check a whole store, or what one snapshot"
                     " needs. Prints a line for each finding; the exit status"
                     " is 1 when there is one.",
                     children, argc, argv);
    store = cmd_open_store(&args.common, err);
    if (!store)
        return -1;
    if (args.common.json)
        verify.findings = findings = json_array();
    opts.snapshot = args.arg;
    ui_progress_begin(&verify.progress, "verify", &args.common);
    r = store_verify(store, &opts, &count, err);
    ui_progress_end(&verify.progress);
    if (r < 0)
        return -1;
    if (findings) {
        out = json_pack("{sO}", "findings", findings);
        ui_json_print(out);
    }
    return count ? CMD_FAILED : CMD_OK;
}
