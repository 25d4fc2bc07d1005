/* vnstore stats: what a store holds. */

#include "cmd.h"
#include "ui_table.h"

#include "common/io.h"
#include "common/jsonx.h"

static json_t *stats_json(const struct store_stats *s)
{
    json_t *all = json_object();

    json_object_set_new(all, "snapshots", jsonx_int(s->snapshots));
    json_object_set_new(all, "packs", jsonx_int(s->packs));
    json_object_set_new(all, "chunks", jsonx_int(s->chunks));
    json_object_set_new(all, "bytes_packs", jsonx_int(s->bytes_packs));
    json_object_set_new(all, "bytes_index", jsonx_int(s->bytes_index));
    json_object_set_new(all, "bytes_index_disk",
                        jsonx_int(s->bytes_index_disk));
    json_object_set_new(all, "bytes_logical", jsonx_int(s->bytes_logical));
    return all;
}

static json_t *stats_facts(const struct store_stats *s)
{
    json_t *facts = json_array();
    uint64_t disk = s->bytes_packs + s->bytes_index_disk;
    char text[16];

    ui_fact(facts, "snapshots", "%llu", (unsigned long long)s->snapshots);
    ui_fact(facts, "chunks", "%llu", (unsigned long long)s->chunks);
    ui_fact(facts, "packs", "%llu", (unsigned long long)s->packs);
    io_format_size(s->bytes_logical, text);
    ui_fact(facts, "content", "%s in all objects", text);
    io_format_size(s->bytes_packs, text);
    ui_fact(facts, "packs on disk", "%s", text);
    io_format_size(s->bytes_index_disk, text);
    ui_fact(facts, "index on disk", "%s", text);
    if (disk)
        ui_fact(facts, "content / disk", "%.1f",
                (double)s->bytes_logical / (double)disk);
    return facts;
}

int cmd_stats(int argc, char **argv, struct vn_err *err)
{
    static const struct cmd_syntax syntax = {
        .common = CMD_STORE | CMD_JSON,
        .doc = "Show what a store holds, and what that takes on disk.",
    };
    vn_auto(store) struct store *store = NULL;
    vn_auto(json) json_t *out = NULL;
    struct cmd_common args;
    struct store_stats stats;

    cmd_parse(&syntax, argc, argv, &args, NULL);
    store = cmd_open_store(&args, err);
    if (!store || store_stats(store, &stats, err) < 0)
        return -1;
    if (args.json) {
        out = stats_json(&stats);
        ui_json_print(out);
        return CMD_OK;
    }
    out = stats_facts(&stats);
    return ui_facts_print(out, err);
}
