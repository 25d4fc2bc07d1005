/*
 * vnstore diff A B: which objects of two snapshots differ, and by how much.
 *
 * The store compares maps, so this costs as much as differs. The exit status
 * is that of diff(1), for scripts: 0 equal, 1 different, 2 it could not be
 * told. Objects are equal when their size and bytes are; "meta" is not looked
 * at. With --ranges all runs are kept in memory before they are printed, about
 * 150 bytes each.
 */

#include "cmd.h"
#include "ui_table.h"

#include "common/io.h"
#include "common/jsonx.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_RANGES = 0x900 };
enum { DIFF_EQUAL = 0, DIFF_DIFFERENT = 1, DIFF_TROUBLE = 2 };

struct args {
    struct cmd_common common;
    bool ranges;
};

static void take_option(void *context, int key, char *arg,
                        struct argp_state *state)
{
    struct args *args = context;

    (void)arg;
    (void)state;
    switch (key) {
    case KEY_RANGES:
        args->ranges = true;
        break;
    }
}

/* ---- comparing -------------------------------------------------------- */

/* One object's comparison. */
struct diff {
    uint64_t bytes;
    uint64_t pages;
    json_t *ranges; /* NULL: only count */
};

static int on_run(void *context, uint64_t offset, uint64_t size,
                  struct vn_err *err)
{
    struct diff *d = context;

    (void)err;
    d->bytes += size;
    d->pages += size / STORE_PAGE_SIZE + (size % STORE_PAGE_SIZE != 0);
    if (d->ranges)
        json_array_append_new(
            d->ranges, json_pack("[oo]", jsonx_int(offset), jsonx_int(size)));
    return 0;
}

/* The VM of an object "vm/NAME/...": its name, owned by the caller, or NULL. */
static char *vm_of(const char *object)
{
    const char *slash;

    if (strncmp(object, "vm/", 3) != 0 || !(slash = strchr(object + 3, '/')))
        return NULL;
    return strndup(object + 3, (size_t)(slash - object) - 3);
}

static const char *change_of(const json_t *a, const json_t *b,
                             const struct map_root roots[2], uint64_t bytes)
{
    if (!b)
        return "only in A";
    if (!a)
        return "only in B";
    return bytes || roots[0].size != roots[1].size ? "changed" : "same";
}

static json_t *row_of(const char *name, const char *change, const json_t *a,
                      const json_t *b, const struct map_root roots[2],
                      const struct diff *d)
{
    vn_auto(free) char *vm = vm_of(name);
    json_t *row = json_object();

    json_object_set_new(row, "name", json_string(name));
    if (vm)
        json_object_set_new(row, "vm", json_string(vm));
    json_object_set_new(row, "change", json_string(change));
    if (a)
        json_object_set_new(row, "size_a", jsonx_int(roots[0].size));
    if (b)
        json_object_set_new(row, "size_b", jsonx_int(roots[1].size));
    json_object_set_new(row, "pages", jsonx_int(d->pages));
    json_object_set_new(row, "bytes", jsonx_int(d->bytes));
    if (d->ranges)
        json_object_set(row, "ranges", d->ranges);
    return row;
}

/* Compare one object; what is absent counts as zeros of no size. */
static json_t *compare(struct store *store, const struct args *args,
                       json_t *const manifests[2], const char *name,
                       struct vn_err *err)
{
    vn_auto(json) json_t *ranges = args->ranges ? json_array() : NULL;
    struct map_root roots[2] = {{.size = 0}, {.size = 0}};
    struct diff d = {.ranges = ranges};
    const json_t *entries[2];

    for (int i = 0; i < 2; i++) {
        entries[i] =
            json_object_get(json_object_get(manifests[i], "objects"), name);
        if (entries[i] &&
            manifest_object(manifests[i], name, &roots[i], err) < 0)
            return NULL;
    }
    if (store_diff_object(store, &roots[0], &roots[1], on_run, &d, err) < 0) {
        vn_wrap(err, "object '%.200s'", name);
        return NULL;
    }
    return row_of(name, change_of(entries[0], entries[1], roots, d.bytes),
                  entries[0], entries[1], roots, &d);
}

static int by_bytes(const void *a, const void *b)
{
    json_t *const *x = a;
    json_t *const *y = b;
    uint64_t m = jsonx_u64_or(*x, "bytes", 0);
    uint64_t n = jsonx_u64_or(*y, "bytes", 0);

    if (m != n)
        return m > n ? -1 : 1;
    return strcmp(jsonx_string_or(*x, "name", ""),
                  jsonx_string_or(*y, "name", ""));
}

/* The same rows, the largest change first. */
static json_t *sorted(json_t *rows)
{
    size_t count = json_array_size(rows), i;
    vn_auto(free) json_t **all = vn_alloc((count + 1) * sizeof(json_t *));
    json_t *out = json_array(), *row;

    json_array_foreach (rows, i, row)
        all[i] = row;
    qsort(all, count, sizeof(json_t *), by_bytes);
    for (i = 0; i < count; i++)
        json_array_append(out, all[i]);
    return out;
}

/* The rows of all objects of either snapshot. */
static json_t *compare_all(struct store *store, const struct args *args,
                           json_t *const manifests[2], struct vn_err *err)
{
    vn_auto(json) json_t *rows = json_array();
    json_t *objects[2], *entry, *row;
    const char *name;

    for (int i = 0; i < 2; i++)
        objects[i] = json_object_get(manifests[i], "objects");
    for (int i = 0; i < 2; i++)
        json_object_foreach (objects[i], name, entry) {
            if (i == 1 && json_object_get(objects[0], name))
                continue;
            row = compare(store, args, manifests, name, err);
            if (!row)
                return NULL;
            json_array_append_new(rows, row);
        }
    return sorted(rows);
}

/* ---- showing ---------------------------------------------------------- */

static bool is_same(const json_t *row)
{
    return strcmp(jsonx_string_or(row, "change", ""), "same") == 0;
}

static void add_to(json_t *sum, const json_t *row, const char *key)
{
    json_object_set_new(
        sum, key,
        jsonx_int(jsonx_u64_or(sum, key, 0) + jsonx_u64_or(row, key, 0)));
}

/* What each VM changed, the largest change first. */
static json_t *sum_vms(const json_t *rows)
{
    vn_auto(json) json_t *vms = json_object(), *list = json_array();
    json_t *row, *sum;
    const char *name;
    size_t i;

    json_array_foreach (rows, i, row) {
        const char *vm = jsonx_string_or(row, "vm", NULL);

        if (!vm)
            continue;
        sum = json_object_get(vms, vm);
        if (!sum) {
            sum = json_pack("{ss si si si}", "name", vm, "objects", 0, "pages",
                            0, "bytes", 0);
            json_object_set_new(vms, vm, sum);
        }
        if (is_same(row))
            continue;
        json_object_set_new(sum, "objects",
                            jsonx_int(jsonx_u64_or(sum, "objects", 0) + 1));
        add_to(sum, row, "pages");
        add_to(sum, row, "bytes");
    }
    json_object_foreach (vms, name, sum)
        json_array_append(list, sum);
    return sorted(list);
}

static json_t *document_of(json_t *const manifests[2], json_t *rows)
{
    json_t *out = json_object(), *row;
    const char *sides[] = {"a", "b"};
    uint64_t same = 0;
    size_t i;

    for (i = 0; i < 2; i++)
        json_object_set_new(out, sides[i],
                            json_pack("{ss ss}", "name",
                                      jsonx_string_or(manifests[i], "name", ""),
                                      "id",
                                      jsonx_string_or(manifests[i], "id", "")));
    json_object_set_new(out, "pages", json_integer(0));
    json_object_set_new(out, "bytes", json_integer(0));
    json_array_foreach (rows, i, row) {
        same += is_same(row);
        add_to(out, row, "pages");
        add_to(out, row, "bytes");
    }
    json_object_set_new(out, "equal", json_boolean(same == i));
    json_object_set_new(out, "objects_same", jsonx_int(same));
    json_object_set_new(out, "objects_different", jsonx_int(i - same));
    json_object_set_new(out, "vms", sum_vms(rows));
    json_object_set(out, "objects", rows);
    return out;
}

/* The objects that differ; SIZE is the one in B, where it is there. */
static int show_objects(const json_t *rows, struct vn_err *err)
{
    static const struct ui_column columns[] = {
        {"name", "OBJECT", UI_TEXT},  {"change", "CHANGE", UI_TEXT},
        {"size", "SIZE", UI_SIZE},    {"pages", "PAGES", UI_COUNT},
        {"bytes", "DIFFER", UI_SIZE},
    };
    vn_auto(json) json_t *shown = json_array();
    json_t *row, *line;
    size_t i;

    json_array_foreach (rows, i, row) {
        const char *side = json_object_get(row, "size_b") ? "size_b" : "size_a";

        if (is_same(row))
            continue;
        line = json_copy(row);
        json_object_set(line, "size", json_object_get(row, side));
        json_array_append_new(shown, line);
    }
    return json_array_size(shown)
               ? ui_table_print(shown, columns, VN_COUNT(columns), err)
               : 0;
}

static int show_vms(const json_t *vms, struct vn_err *err)
{
    static const struct ui_column columns[] = {
        {"name", "VM", UI_TEXT},
        {"objects", "OBJECTS", UI_COUNT},
        {"pages", "PAGES", UI_COUNT},
        {"bytes", "DIFFER", UI_SIZE},
    };

    if (json_array_size(vms) == 0)
        return 0;
    putchar('\n');
    return ui_table_print(vms, columns, VN_COUNT(columns), err);
}

static int show_ranges(const json_t *rows, struct vn_err *err)
{
    static const struct ui_column columns[] = {
        {"name", "OBJECT", UI_TEXT},
        {"offset", "OFFSET", UI_COUNT},
        {"size", "BYTES", UI_COUNT},
    };
    vn_auto(json) json_t *lines = json_array();
    json_t *row, *range;
    size_t i, k;

    json_array_foreach (rows, i, row)
        json_array_foreach (json_object_get(row, "ranges"), k, range)
            json_array_append_new(lines,
                                  json_pack("{sO sO sO}", "name",
                                            json_object_get(row, "name"),
                                            "offset", json_array_get(range, 0),
                                            "size", json_array_get(range, 1)));
    if (json_array_size(lines) == 0)
        return 0;
    putchar('\n');
    return ui_table_print(lines, columns, VN_COUNT(columns), err);
}

static int show(const json_t *document, struct vn_err *err)
{
    const json_t *rows = json_object_get(document, "objects");
    char size[16];

    if (json_is_true(json_object_get(document, "equal"))) {
        printf("%zu objects are equal\n", json_array_size(rows));
        return 0;
    }
    if (show_objects(rows, err) < 0 ||
        show_vms(json_object_get(document, "vms"), err) < 0 ||
        show_ranges(rows, err) < 0)
        return -1;
    io_format_size(jsonx_u64_or(document, "bytes", 0), size);
    printf("\n%llu of %zu objects differ, in %llu pages, %s\n",
           (unsigned long long)jsonx_u64_or(document, "objects_different", 0),
           json_array_size(rows),
           (unsigned long long)jsonx_u64_or(document, "pages", 0), size);
    return 0;
}

static int diff(const struct args *args, struct vn_err *err)
{
    vn_auto(store) struct store *store = cmd_open_store(&args->common, err);
    vn_auto(store_hold) struct store_hold *hold =
        store ? store_hold_open(store, err) : NULL;
    vn_auto(json) json_t *a = NULL, *b = NULL, *rows = NULL, *document = NULL;

    if (!hold || !(a = store_load(store, args->common.arg[0], err)) ||
        !(b = store_load(store, args->common.arg[1], err)) ||
        !(rows = compare_all(store, args, (json_t *[]){a, b}, err)))
        return -1;
    document = document_of((json_t *[]){a, b}, rows);
    if (args->common.json)
        ui_json_print(document);
    else if (show(document, err) < 0)
        return -1;
    return json_is_true(json_object_get(document, "equal")) ? DIFF_EQUAL
                                                            : DIFF_DIFFERENT;
}

int cmd_diff(int argc, char **argv, struct vn_err *err)
{
    static const struct argp_option options[] = {
        {"ranges", KEY_RANGES, NULL, 0, "Show also where objects differ", 0},
        {0},
    };
    static const struct cmd_syntax syntax = {
        .common = CMD_STORE | CMD_JSON,
        .options = options,
        .option = take_option,
        .args = "A B",
        .doc = "Show which objects of two snapshots differ, and by how many"
               " pages, the largest change first. The exit status is 0 when"
               " all are equal, 1 when not, 2 when it cannot be told.",
    };
    struct args args = {0};
    int status;

    cmd_parse(&syntax, argc, argv, &args.common, &args);
    status = diff(&args, err);
    if (status >= 0)
        return status;
    fputs("vnstore: diff: ", stderr);
    ui_text_print(stderr, err->msg);
    fputc('\n', stderr);
    return DIFF_TROUBLE;
}
