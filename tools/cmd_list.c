/* vnstore list: the snapshots of a store, oldest first. */

#include "cmd.h"
#include "ui_table.h"

#include "common/jsonx.h"

static json_t *summary(const json_t *manifest)
{
    json_t *objects = json_object_get(manifest, "objects");
    json_t *vms = json_object_get(
        json_object_get(json_object_get(manifest, "meta"), "cut"), "vms");
    json_t *row = json_object(), *object;
    const char *keys[] = {"name", "id", "created", "kind"}, *name;
    uint64_t size = 0;

    for (size_t i = 0; i < VN_COUNT(keys); i++)
        json_object_set_new(
            row, keys[i], json_string(jsonx_string_or(manifest, keys[i], "")));
    if (json_is_array(vms))
        json_object_set_new(row, "vms", jsonx_int(json_array_size(vms)));
    json_object_foreach (objects, name, object)
        size += jsonx_u64_or(object, "size", 0);
    if (manifest_domain(manifest))
        json_object_set_new(row, "domain",
                            json_string(manifest_domain(manifest)));
    json_object_set_new(row, "objects", jsonx_int(json_object_size(objects)));
    json_object_set_new(row, "size_bytes", jsonx_int(size & INT64_MAX));
    return row;
}

int cmd_list(int argc, char **argv, struct vn_err *err)
{
    static const struct cmd_syntax syntax = {
        .common = CMD_STORE | CMD_JSON,
        .doc = "List the snapshots of a store, oldest first. SIZE is"
               " that of all objects, before deduplication.",
    };
    static const struct ui_column columns[] = {
        {"name", "NAME", UI_TEXT},        {"created", "CREATED", UI_TEXT},
        {"kind", "KIND", UI_TEXT},        {"vms", "VMS", UI_COUNT},
        {"objects", "OBJECTS", UI_COUNT}, {"size_bytes", "SIZE", UI_SIZE},
        {"domain", "DOMAIN", UI_TEXT}, /* if there is any */
    };
    vn_auto(store) struct store *store = NULL;
    vn_auto(json) json_t *manifests = NULL, *rows = json_array(), *all = NULL;
    struct cmd_common args;
    bool domains = false;
    json_t *manifest;
    size_t i;

    cmd_parse(&syntax, argc, argv, &args, NULL);
    store = cmd_open_store(&args, err);
    manifests = store ? store_list(store, err) : NULL;
    if (!manifests)
        return -1;
    json_array_foreach (manifests, i, manifest) {
        json_array_append_new(rows, summary(manifest));
        domains |= manifest_domain(manifest) != NULL;
    }
    if (args.json) {
        all = json_pack("{sO}", "snapshots", rows);
        ui_json_print(all);
        return CMD_OK;
    }
    return ui_table_print(rows, columns, VN_COUNT(columns) - !domains, err);
}
