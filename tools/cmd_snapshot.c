/* vnstore snapshot VNE.yaml */

#include "cmd.h"
#include "cmd_phrase.h"
#include "common/io.h"
#include "common/jsonx.h"
#include "coord/snapshot.h"
#include "ui_table.h"

#include <stdio.h>
#include <stdlib.h>

#define TIMEOUT_S_DEFAULT 600
#define TIMEOUT_S_MAX     86400

enum { KEY_TIMEOUT = 0x300 };

static const struct argp_option options[] = {
    {"name", 'n', "NAME", 0, "Name of the snapshot (default: VNE@N)", 0},
    {"mode", 'm', "MODE", 0,
     "cow, precopy or stop (default: the best that each VM can do)", 0},
    {"timeout", KEY_TIMEOUT, "SECONDS", 0,
     "Give up if saving takes longer (default: 600)", 0},
    {0},
};

struct opts {
    struct cmd_common common;
    struct snapshot_opts snapshot;
};

static void parse_timeout(struct argp_state *state, const char *arg,
                          unsigned *ret)
{
    char *end;
    long value = strtol(arg, &end, 10);

    if (end == arg || *end || value < 1 || value > TIMEOUT_S_MAX)
        argp_error(state, "--timeout: '%s' is not 1 to %d seconds", arg,
                   TIMEOUT_S_MAX);
    else
        *ret = (unsigned)value;
}

static void take_option(void *context, int key, char *arg,
                        struct argp_state *state)
{
    struct opts *opts = context;
    struct vn_err err = VN_ERR_INIT;

    switch (key) {
    case 'n':
        opts->snapshot.name = arg;
        break;
    case 'm':
        if (vm_mode_parse(arg, &opts->snapshot.mode, &err) < 0)
            argp_error(state, "--mode: %s", err.msg);
        break;
    case KEY_TIMEOUT:
        parse_timeout(state, arg, &opts->snapshot.timeout_s);
        break;
    }
}

static void add_size(json_t *facts, const char *name, const json_t *bytes,
                     const char *key)
{
    char size[16];

    io_format_size(jsonx_u64_or(bytes, key, 0), size);
    ui_fact(facts, name, "%s", size);
}

/* One row a VM, then what holds for all. */
static int print_report(const json_t *manifest, struct vn_err *err)
{
    static const struct ui_column columns[] = {
        {"name", "VM", UI_TEXT},       {"host", "HOST", UI_TEXT},
        {"mode", "MODE", UI_TEXT},     {"pause_ms", "PAUSE", UI_MS},
        {"read", "READ", UI_SIZE},     {"new", "NEW", UI_SIZE},
        {"stored", "STORED", UI_SIZE},
    };
    const json_t *meta = json_object_get(manifest, "meta");
    const json_t *cut = json_object_get(meta, "cut");
    const json_t *frames = json_object_get(cut, "frames");
    const json_t *bytes = json_object_get(meta, "bytes");
    vn_auto(json) json_t *rows = json_deep_copy(json_object_get(cut, "vms"));
    vn_auto(json) json_t *facts = json_array();
    json_t *row;
    size_t i;

    json_array_foreach (rows, i, row)
        json_object_update(row, json_object_get(row, "bytes"));
    if (ui_table_print(rows, columns, VN_COUNT(columns), err) < 0)
        return -1;
    putchar('\n');
    ui_fact(facts, "snapshot", "%s", jsonx_string_or(manifest, "name", "?"));
    ui_fact(facts, "skew", "%.1f ms (%.1f ms on one host)",
            json_number_value(json_object_get(cut, "skew_ms")),
            json_number_value(json_object_get(cut, "host_skew_ms")));
    ui_fact(facts, "frames",
            "%llu held, %llu recorded, %llu dropped, %llu missing%s",
            (unsigned long long)jsonx_u64_or(frames, "held", 0),
            (unsigned long long)jsonx_u64_or(frames, "recorded", 0),
            (unsigned long long)jsonx_u64_or(frames, "dropped", 0),
            (unsigned long long)jsonx_u64_or(frames, "missing", 0),
            jsonx_bool_or(cut, "lossless", false) ? "" : " (not lossless)");
    add_size(facts, "read", bytes, "read");
    add_size(facts, "zero", bytes, "zero");
    add_size(facts, "unchanged", bytes, "unchanged");
    add_size(facts, "known", bytes, "known");
    add_size(facts, "new", bytes, "new");
    add_size(facts, "stored", bytes, "stored");
    return ui_facts_print(facts, err);
}

static int run(struct opts *opts, json_t **ret_manifest, struct vn_err *err)
{
    vn_auto(vne) struct vne *vne = vne_load(opts->common.arg[0], err);
    vn_auto(store) struct store *store =
        vne ? cmd_open_store(&opts->common, err) : NULL;
    vn_auto(session) struct session *session =
        store ? session_open(vne->hosts, vne->host_count, opts->common.tls_dir,
                             err)
              : NULL;
    vn_auto(free) char *what = NULL;
    struct cmd_phrase phrase;
    int rc;

    if (!session)
        return -1;
    what = vn_format("snapshot of %s", vne->name);
    cmd_phrase_begin(&phrase, what, &opts->common);
    opts->snapshot.progress = cmd_phrase_show;
    opts->snapshot.context = &phrase;
    rc = snapshot_take(session, vne, store, &opts->snapshot, ret_manifest, err);
    cmd_phrase_end(&phrase);
    return rc;
}

int cmd_snapshot(int argc, char **argv, struct vn_err *err)
{
    static const struct cmd_syntax syntax = {
        .common = CMD_STORE | CMD_JSON | CMD_PROGRESS | CMD_NETWORK,
        .options = options,
        .option = take_option,
        .args = "VNE.yaml",
        .doc = "Take one consistent snapshot of a running virtual network: "
               "memory, devices, disks and the frames in flight.",
    };
    struct opts opts = {
        .snapshot = {.mode = VM_MODE_AUTO, .timeout_s = TIMEOUT_S_DEFAULT}};
    vn_auto(json) json_t *manifest = NULL;

    cmd_parse(&syntax, argc, argv, &opts.common, &opts);
    if (run(&opts, &manifest, err) < 0)
        return -1;
    if (opts.common.json)
        ui_json_print(manifest);
    else if (print_report(manifest, err) < 0)
        return -1;
    return CMD_OK;
}
