/* vnstore restore SNAP [--to-hosts H1,H2] [--map VM=HOST] */

#include "cmd.h"
#include "cmd_phrase.h"
#include "coord/bringup.h"
#include "ui_table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HOSTS_MAX VNE_HOSTS_MAX
#define MAPS_MAX  VNE_VMS_MAX

enum { KEY_TO_HOSTS = 0x400, KEY_MAP, KEY_HOSTS };

static const struct argp_option options[] = {
    {"to-hosts", KEY_TO_HOSTS, "H1,H2,...", 0,
     "Spread the VMs over these hosts (default: where they were)", 0},
    {"map", KEY_MAP, "VM=HOST", 0, "Put this VM there; may be given again", 0},
    {"hosts", KEY_HOSTS, "VNE.yaml", 0,
     "Take the hosts' addresses from this file, not from the snapshot", 0},
    {0},
};

struct opts {
    struct cmd_common common;
    struct restore_opts restore;
    const char *to_hosts[HOSTS_MAX];
    const char *maps[MAPS_MAX];
    const char *hosts_file;
    const char *snapshot;
};

/* Splits in place: argv outlives the command. */
static void parse_to_hosts(struct argp_state *state, struct opts *opts,
                           char *list)
{
    char *name;

    while ((name = strsep(&list, ","))) {
        if (!*name)
            argp_error(state, "--to-hosts: an empty name");
        for (size_t i = 0; i < opts->restore.to_host_count; i++)
            if (strcmp(opts->to_hosts[i], name) == 0)
                argp_error(state, "--to-hosts: '%s' twice", name);
        if (opts->restore.to_host_count == HOSTS_MAX)
            argp_error(state, "--to-hosts: more than %u hosts", HOSTS_MAX);
        opts->to_hosts[opts->restore.to_host_count++] = name;
    }
}

static void take_option(void *context, int key, char *arg,
                        struct argp_state *state)
{
    struct opts *opts = context;

    switch (key) {
    case KEY_TO_HOSTS:
        parse_to_hosts(state, opts, arg);
        break;
    case KEY_MAP:
        if (!strchr(arg, '=') || opts->restore.map_count == MAPS_MAX)
            argp_error(state, "--map: '%s' is not VM=HOST", arg);
        opts->maps[opts->restore.map_count++] = arg;
        break;
    case KEY_HOSTS:
        opts->hosts_file = arg;
        break;
    }
}

static int print_report(const struct opts *opts, const json_t *report,
                        struct vn_err *err)
{
    static const struct ui_column columns[] = {
        {"name", "VM", UI_TEXT},
        {"host", "HOST", UI_TEXT},
        {"state_dir", "FILES", UI_TEXT},
    };
    vn_auto(json) json_t *facts = json_array();

    if (ui_table_print(json_object_get(report, "vms"), columns,
                       VN_COUNT(columns), err) < 0)
        return -1;
    putchar('\n');
    ui_fact(facts, "restored", "%s", opts->snapshot);
    ui_fact(facts, "loaded in", "%.1f s",
            json_number_value(json_object_get(report, "load_ms")) / 1e3);
    ui_fact(facts, "start skew", "%.1f ms",
            json_number_value(json_object_get(report, "skew_ms")));
    return ui_facts_print(facts, err);
}

static int run(struct opts *opts, json_t **ret_report, struct vn_err *err)
{
    vn_auto(vne) struct vne *hosts = NULL;
    vn_auto(store) struct store *store = cmd_open_store(&opts->common, err);
    /* For the agents too, until all VMs are loaded. */
    vn_auto(store_hold) struct store_hold *hold =
        store ? store_hold_open(store, err) : NULL;
    vn_auto(json) json_t *manifest =
        hold ? store_load(store, opts->snapshot, err) : NULL;
    vn_auto(free) char *what = vn_format("restore of %s", opts->snapshot);
    struct cmd_phrase phrase;
    int rc;

    if (!manifest)
        return -1;
    if (opts->hosts_file) {
        hosts = vne_load(opts->hosts_file, err);
        if (!hosts)
            return -1;
    }
    cmd_phrase_begin(&phrase, what, &opts->common);
    opts->restore.store_path = store_path(store);
    opts->restore.tls_dir = opts->common.tls_dir;
    opts->restore.to_hosts = opts->to_hosts;
    opts->restore.maps = opts->maps;
    opts->restore.hosts = hosts;
    opts->restore.progress = cmd_phrase_show;
    opts->restore.context = &phrase;
    rc = bringup_restore(manifest, &opts->restore, ret_report, err);
    cmd_phrase_end(&phrase);
    return rc;
}

int cmd_restore(int argc, char **argv, struct vn_err *err)
{
    static const struct cmd_syntax syntax = {
        .common = CMD_STORE | CMD_JSON | CMD_PROGRESS | CMD_NETWORK,
        .options = options,
        .option = take_option,
        .args = "SNAP",
        .doc = "Bring a snapshot of a virtual network back to life, on the "
               "same or on other hosts.",
    };
    vn_auto(free) struct opts *opts = vn_alloc(sizeof(*opts));
    vn_auto(json) json_t *report = NULL;

    cmd_parse(&syntax, argc, argv, &opts->common, opts);
    opts->snapshot = opts->common.arg[0];
    if (run(opts, &report, err) < 0)
        return -1;
    if (opts->common.json)
        ui_json_print(report);
    else if (print_report(opts, report, err) < 0)
        return -1;
    return CMD_OK;
}
