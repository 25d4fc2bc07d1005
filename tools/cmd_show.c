/* vnstore show SNAP: what one snapshot consists of. */

#include "cmd.h"
#include "ui_table.h"

#include "common/io.h"
#include "common/jsonx.h"

#include <stdio.h>

/*
 * "meta" belongs to whoever made the snapshot, and may come from a tar: all of
 * it is optional here, and what is not understood is left to --json.
 */

static void fact_size(json_t *facts, const char *name, const json_t *object,
                      const char *key)
{
    char text[16];

    if (!json_is_integer(json_object_get(object, key)))
        return;
    io_format_size(jsonx_u64_or(object, key, 0), text);
    ui_fact(facts, name, "%s", text);
}

static void cut_facts(json_t *facts, const json_t *cut)
{
    const json_t *frames = json_object_get(cut, "frames");
    const json_t *skew = json_object_get(cut, "skew_ms");
    const json_t *host_skew = json_object_get(cut, "host_skew_ms");
    const json_t *lossless = json_object_get(cut, "lossless");

    if (json_is_number(skew))
        ui_fact(facts, "skew", "%.3f ms", json_number_value(skew));
    if (json_is_number(host_skew))
        ui_fact(facts, "skew on a host", "%.3f ms",
                json_number_value(host_skew));
    if (json_is_boolean(lossless))
        ui_fact(facts, "lossless", "%s", json_is_true(lossless) ? "yes" : "no");
    if (json_is_object(frames))
        ui_fact(facts, "frames",
                "%llu held, %llu recorded, %llu dropped, %llu missing, %llu"
                " unsettled",
                (unsigned long long)jsonx_u64_or(frames, "held", 0),
                (unsigned long long)jsonx_u64_or(frames, "recorded", 0),
                (unsigned long long)jsonx_u64_or(frames, "dropped", 0),
                (unsigned long long)jsonx_u64_or(frames, "missing", 0),
                (unsigned long long)jsonx_u64_or(frames, "unsettled", 0));
}

static json_t *facts_of(const json_t *manifest)
{
    const json_t *meta = json_object_get(manifest, "meta");
    const json_t *bytes = json_object_get(meta, "bytes");
    const char *keys[] = {"name", "id", "created", "kind"};
    json_t *facts = json_array();

    for (size_t i = 0; i < VN_COUNT(keys); i++)
        ui_fact(facts, keys[i], "%s", jsonx_string_or(manifest, keys[i], "-"));
    if (manifest_domain(manifest))
        ui_fact(facts, "domain", "%s", manifest_domain(manifest));
    if (json_is_integer(json_object_get(meta, "epoch")))
        ui_fact(facts, "epoch", "%llu",
                (unsigned long long)jsonx_u64_or(meta, "epoch", 0));
    cut_facts(facts, json_object_get(meta, "cut"));
    fact_size(facts, "bytes read", bytes, "read");
    fact_size(facts, "bytes unchanged", bytes, "unchanged");
    fact_size(facts, "bytes known", bytes, "known");
    fact_size(facts, "bytes new", bytes, "new");
    fact_size(facts, "bytes stored", bytes, "stored");
    return facts;
}

static int show_vms(const json_t *manifest, struct vn_err *err)
{
    static const struct ui_column columns[] = {
        {"name", "VM", UI_TEXT},      {"host", "HOST", UI_TEXT},
        {"mode", "MODE", UI_TEXT},    {"memory_bytes", "MEMORY", UI_SIZE},
        {"pause_ms", "PAUSE", UI_MS},
    };
    const json_t *meta = json_object_get(manifest, "meta");
    const json_t *vms = json_object_get(json_object_get(meta, "cut"), "vms");

    if (!json_is_array(vms) || json_array_size(vms) == 0)
        return 0;
    putchar('\n');
    return ui_table_print(vms, columns, VN_COUNT(columns), err);
}

static int show_objects(const json_t *manifest, struct vn_err *err)
{
    static const struct ui_column columns[] = {
        {"name", "OBJECT", UI_TEXT},
        {"size", "SIZE", UI_SIZE},
    };
    vn_auto(json) json_t *rows = json_array();
    json_t *object;
    const char *name;

    json_object_foreach (json_object_get(manifest, "objects"), name, object) {
        json_t *row = json_object();

        json_object_set_new(row, "name", json_string(name));
        json_object_set(row, "size", json_object_get(object, "size"));
        json_array_append_new(rows, row);
    }
    if (json_array_size(rows) == 0)
        return 0;
    putchar('\n');
    return ui_table_print(rows, columns, VN_COUNT(columns), err);
}

int cmd_show(int argc, char **argv, struct vn_err *err)
{
    static const struct cmd_syntax syntax = {
        .common = CMD_STORE | CMD_JSON,
        .args = "SNAP",
        .doc = "Show one snapshot: facts, virtual machines, objects."
               " With --json, its manifest.",
    };
    vn_auto(store) struct store *store = NULL;
    vn_auto(json) json_t *manifest = NULL, *facts = NULL;
    struct cmd_common args;

    cmd_parse(&syntax, argc, argv, &args, NULL);
    store = cmd_open_store(&args, err);
    manifest = store ? store_load(store, args.arg[0], err) : NULL;
    if (!manifest)
        return -1;
    if (args.json) {
        ui_json_print(manifest);
        return CMD_OK;
    }
    facts = facts_of(manifest);
    if (ui_facts_print(facts, err) < 0 || show_vms(manifest, err) < 0 ||
        show_objects(manifest, err) < 0)
        return -1;
    return CMD_OK;
}
