#include "store/store_internal.h"

/*
 * Prune: the policy of retention.c applied to a series.
 *
 * The list is read under a hold and what no rule keeps is deleted in one
 * transaction, which fails when one of them has been deleted meanwhile: then
 * nothing is, and one may ask again. Snapshots that are committed meanwhile
 * are not looked at, so they stay.
 */

#include "common/io.h"
#include "common/jsonx.h"
#include "store/retention.h"

#include <stdlib.h>
#include <string.h>

/* The snapshots of the series. */
struct series {
    const char *name;
    struct index_snapshot *rows;
    struct retention_item *items;
    char (*created)[32]; /* as in the manifest, or "unknown" */
    size_t count;
    size_t capacity;
};

static void series_done(struct series *s)
{
    free(s->rows);
    free(s->items);
    free(s->created);
}

static void *grow(void *array, size_t count, size_t size)
{
    array = realloc(array, count * size);
    if (!array)
        abort();
    return array;
}

static void add(struct series *s, const struct index_snapshot *row,
                const json_t *manifest)
{
    const char *created = jsonx_string_or(manifest, "created", "unknown");
    struct retention_item item = {.seq = row->seq, .number = s->count};

    item.has_time = retention_parse_time(created, &item.time);
    if (s->count == s->capacity) {
        s->capacity = s->capacity ? 2 * s->capacity : 64;
        s->rows = grow(s->rows, s->capacity, sizeof(*s->rows));
        s->items = grow(s->items, s->capacity, sizeof(*s->items));
        s->created = grow(s->created, s->capacity, sizeof(*s->created));
    }
    snprintf(s->created[s->count], sizeof(*s->created), "%s", created);
    s->rows[s->count] = *row;
    s->items[s->count++] = item;
}

static bool is_of_series(const char *name, const char *series)
{
    char own[STORE_NAME_MAX + 1];
    uint64_t number;

    return manifest_split_name(name, own, &number) && strcmp(own, series) == 0;
}

static void load(struct store *store, struct series *s,
                 const struct index_snapshot *row)
{
    vn_auto(json) json_t *manifest = NULL;
    struct vn_err ignored = VN_ERR_INIT;

    if (!is_of_series(row->name, s->name))
        return;
    manifest = snapshot_load(store, row, &ignored);
    if (manifest || !snapshot_was_deleted(store, row))
        add(s, row, manifest);
}

static int list_series(struct store *store, struct series *s,
                       struct vn_err *err)
{
    struct index_snapshots step = {.index = store->index};
    const struct index_snapshot *row;
    int more;

    while ((more = index_next_snapshot(&step, &row, err)) > 0)
        load(store, s, row);
    if (more < 0)
        return -1;
    return s->count ? 0
                    : vn_fail(err, VN_E_NOT_FOUND,
                              "there is no snapshot of '%s'", s->name);
}

static json_t *describe(const struct series *s,
                        const struct retention_item *item)
{
    const struct index_snapshot *row = &s->rows[item->number];
    json_t *reasons = json_array();
    json_t *out = json_object();
    char hex[2 * STORE_ID_SIZE + 1];

    for (unsigned i = 0; i < RETENTION_REASONS; i++)
        if (item->reasons & 1u << i)
            json_array_append_new(reasons,
                                  json_string(retention_reason_name(
                                      (enum retention_reason)(1u << i))));
    io_hex(row->id.bytes, STORE_ID_SIZE, hex);
    json_object_set_new(out, "name", json_string(row->name));
    json_object_set_new(out, "id", json_string(hex));
    json_object_set_new(out, "created", json_string(s->created[item->number]));
    json_object_set_new(out, "keep", json_boolean(item->reasons != 0));
    json_object_set_new(out, "reasons", reasons);
    return out;
}

static int delete_rest(struct store *store, const struct series *s,
                       struct vn_err *err)
{
    vn_auto(free) struct index_snapshot *rows =
        vn_alloc((s->count + 1) * sizeof(*rows));
    size_t count = 0;

    for (size_t i = 0; i < s->count; i++)
        if (!s->items[i].reasons)
            rows[count++] = s->rows[s->items[i].number];
    return snapshot_delete_rows(store, rows, count, err);
}

json_t *store_prune(struct store *store, const char *series,
                    const struct store_keep *keep, bool dry_run,
                    struct vn_err *err)
{
    vn_auto(store_hold) struct store_hold *hold = NULL;
    vn_auto(json) json_t *list = NULL;
    struct series s = {.name = series};

    if (manifest_check_series(series, err) < 0)
        return NULL;
    hold = store_hold_open(store, err);
    if (hold && list_series(store, &s, err) == 0) {
        retention_apply(keep, s.items, s.count);
        if (dry_run || delete_rest(store, &s, err) == 0) {
            list = json_array();
            for (size_t i = 0; i < s.count; i++)
                json_array_append_new(list, describe(&s, &s.items[i]));
        }
    }
    series_done(&s);
    return vn_steal(&list);
}
