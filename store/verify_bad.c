#include "store/verify_internal.h"

/*
 * Verify: the chunks that cannot be read, and everything that needs them.
 *
 * Passes 1 and 2 enter what they find; pass 3 enters each place in each object
 * that needs one of them, as ranges of pages: neighbours grow together. Then
 * each becomes one finding that names all it costs. Chunks of a pack that is
 * gone as a whole share one finding: two thousand with the same words would
 * help nobody.
 *
 * Ranges are kept up to STORE_VERIFY_RANGES_MAX a chunk and USES_MAX together
 * (40 MiB); what is over that is counted only. The sentence has the first
 * TEXT_RANGES of them.
 */

#include "common/io.h"
#include "common/jsonx.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define FIRST_SIZE  256u
#define USES_MAX    (1u << 20)
#define TEXT_RANGES 20u
#define TEXT_USES   8u
#define HEX_SPACE   (2 * STORE_ID_SIZE + 1)

/* ---- the table -------------------------------------------------------- */

/* Room for one more in an array that grows by doubling. */
static void *grown(void *array, size_t count, size_t *capacity, size_t size)
{
    if (count < *capacity)
        return array;
    *capacity = *capacity ? 2 * *capacity : 64;
    array = realloc(array, *capacity * size);
    if (!array)
        abort();
    return array;
}

/* Where the id is, or the free slot where it would be. */
static struct verify_slot *slot_of(const struct verify_table *t,
                                   const struct chunk_id *id)
{
    size_t slot;

    memcpy(&slot, id->bytes, sizeof(slot));
    for (slot &= t->size - 1; !chunk_id_is_zero(&t->slots[slot].id);
         slot = (slot + 1) & (t->size - 1))
        if (chunk_id_compare(&t->slots[slot].id, id) == 0)
            break;
    return &t->slots[slot];
}

static void table_grow(struct verify_table *t)
{
    struct verify_table more = *t;

    more.size = t->size ? 2 * t->size : FIRST_SIZE;
    more.slots = vn_alloc(more.size * sizeof(*more.slots));
    for (size_t i = 0; i < t->size; i++)
        if (!chunk_id_is_zero(&t->slots[i].id))
            *slot_of(&more, &t->slots[i].id) = t->slots[i];
    free(t->slots);
    *t = more;
}

const struct verify_slot *verify_bad_find(const struct verify *v,
                                          const struct chunk_id *id)
{
    const struct verify_slot *slot;

    if (v->table.count == 0)
        return NULL;
    slot = slot_of(&v->table, id);
    return chunk_id_is_zero(&slot->id) ? NULL : slot;
}

const struct verify_slot *verify_bad_add(struct verify *v,
                                         const struct chunk_id *id,
                                         const struct chunk_place *place,
                                         const char *reason)
{
    struct verify_table *t = &v->table;
    struct verify_pack *pack =
        place->stored_size ? verify_pack_of(v, place->pack_id) : NULL;
    struct verify_slot *slot;
    size_t bad = t->bad_count;

    if (2 * (t->count + 1) > t->size)
        table_grow(t);
    slot = slot_of(t, id);
    if (!chunk_id_is_zero(&slot->id))
        return slot;
    if (pack)
        pack->damaged = true;
    if (pack && pack->gone && pack->bad)
        bad = pack->bad - 1;
    if (bad == t->bad_count) {
        t->bads =
            grown(t->bads, t->bad_count, &t->bad_capacity, sizeof(*t->bads));
        t->bads[t->bad_count] =
            (struct verify_bad){.id = *id,
                                .pack_id = place->pack_id,
                                .is_pack = pack && pack->gone};
        snprintf(t->bads[t->bad_count++].reason, sizeof(t->bads->reason), "%s",
                 reason);
    }
    if (pack && pack->gone)
        pack->bad = bad + 1;
    t->bads[bad].chunks++;
    t->count++;
    v->counts.bad++;
    *slot = (struct verify_slot){.id = *id, .place = *place, .bad = bad};
    return slot;
}

void verify_bad_done(struct verify_table *table)
{
    for (size_t i = 0; i < table->object_count; i++) {
        free(table->objects[i].snapshot);
        free(table->objects[i].object);
    }
    free(table->objects);
    free(table->uses);
    free(table->bads);
    free(table->slots);
    *table = (struct verify_table){0};
}

/* ---- uses ------------------------------------------------------------- */

/* Objects come one after the other, so the last is the one or a new one is. */
static size_t object_number(struct verify_table *t, const char *snapshot,
                            const char *object)
{
    const struct verify_object *last =
        t->object_count ? &t->objects[t->object_count - 1] : NULL;

    if (last && strcmp(last->snapshot, snapshot) == 0 &&
        strcmp(last->object, object) == 0)
        return t->object_count - 1;
    t->objects = grown(t->objects, t->object_count, &t->object_capacity,
                       sizeof(*t->objects));
    t->objects[t->object_count] = (struct verify_object){
        .snapshot = vn_strdup(snapshot), .object = vn_strdup(object)};
    return t->object_count++;
}

void verify_bad_use(struct verify *v, const struct verify_slot *slot,
                    const char *snapshot, const char *object, uint64_t first,
                    uint64_t count)
{
    struct verify_table *t = &v->table;
    struct verify_bad *bad = &t->bads[slot->bad];
    size_t number = object_number(t, snapshot, object);
    struct verify_use *last =
        bad->last_use ? &t->uses[bad->last_use - 1] : NULL;

    if (last && last->object == number && last->first + last->count == first) {
        last->count += count;
        return;
    }
    if (bad->use_count == STORE_VERIFY_RANGES_MAX || t->use_count == USES_MAX) {
        bad->dropped += count;
        return;
    }
    t->uses = grown(t->uses, t->use_count, &t->use_capacity, sizeof(*t->uses));
    t->uses[t->use_count] = (struct verify_use){.object = number,
                                                .first = first,
                                                .count = count,
                                                .previous = bad->last_use};
    bad->last_use = ++t->use_count;
    bad->use_count++;
}

/* ---- findings --------------------------------------------------------- */

/* NAME of an object vm/NAME/..., or NULL. */
static json_t *vm_of(const char *object)
{
    const char *end;

    if (strncmp(object, "vm/", 3) != 0)
        return NULL;
    end = strchr(object + 3, '/');
    return end ? json_stringn(object + 3, (size_t)(end - object - 3)) : NULL;
}

static json_t *use_json(const struct verify_object *object)
{
    json_t *use = json_object();
    json_t *vm = vm_of(object->object);

    json_object_set_new(use, "snapshot", json_string(object->snapshot));
    json_object_set_new(use, "object", json_string(object->object));
    if (vm)
        json_object_set_new(use, "vm", vm);
    json_object_set_new(use, "page_count", json_integer(0));
    json_object_set_new(use, "pages", json_array());
    return use;
}

static void add_range(json_t *use, const struct verify_use *u)
{
    uint64_t pages = jsonx_u64_or(use, "page_count", 0);

    if (u->count == 0)
        return;
    json_object_set_new(use, "page_count", jsonx_int(pages + u->count));
    json_array_append_new(json_object_get(use, "pages"),
                          json_pack("[oo]", jsonx_int(u->first),
                                    jsonx_int(u->first + u->count - 1)));
}

/* All uses of a bad chunk, in the order in which they were found. */
static json_t *uses_json(const struct verify_table *t,
                         const struct verify_bad *bad)
{
    vn_auto(free) size_t *order =
        vn_alloc((bad->use_count + 1) * sizeof(*order));
    json_t *uses = json_array();
    json_t *use = NULL;
    size_t object = SIZE_MAX;
    size_t n = bad->use_count;

    for (size_t k = bad->last_use; k; k = t->uses[k - 1].previous)
        order[--n] = k - 1;
    for (size_t i = 0; i < bad->use_count; i++) {
        const struct verify_use *u = &t->uses[order[i]];

        if (u->object != object) {
            object = u->object;
            use = use_json(&t->objects[object]);
            json_array_append_new(uses, use);
        }
        add_range(use, u);
    }
    return uses;
}

static void print_ranges(FILE *out, const json_t *use, size_t *ranges)
{
    const json_t *pages = json_object_get(use, "pages");
    size_t total = json_array_size(pages);
    size_t i;

    for (i = 0; i < total && *ranges < TEXT_RANGES; i++, ++*ranges) {
        const json_t *range = json_array_get(pages, i);
        long long first = json_integer_value(json_array_get(range, 0));
        long long last = json_integer_value(json_array_get(range, 1));

        fprintf(out, "%s%lld", i ? ", " : "", first);
        if (last > first)
            fprintf(out, "-%lld", last);
    }
    if (i < total)
        fprintf(out, "%s%zu more", i ? " and " : "", total - i);
}

static void print_use(FILE *out, const json_t *use, size_t *ranges)
{
    const char *object = jsonx_string_or(use, "object", "");
    const char *vm = jsonx_string_or(use, "vm", NULL);

    fprintf(out, "snapshot '%s', ", jsonx_string_or(use, "snapshot", "?"));
    if (!*object) {
        fputs("its manifest", out);
        return;
    }
    fprintf(out, "object '%.200s'", object);
    if (vm)
        fprintf(out, " (VM %s)", vm);
    fputs(": pages ", out);
    print_ranges(out, use, ranges);
}

/* What is wrong and what it costs. Caller frees. */
static char *bad_text(const struct verify_bad *bad, const json_t *uses)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    size_t count = json_array_size(uses);
    size_t ranges = 0;

    if (!out)
        abort();
    if (bad->is_pack)
        fprintf(out, "pack %012llx: %llu chunks in it cannot be read",
                (unsigned long long)bad->pack_id,
                (unsigned long long)bad->chunks);
    else
        fputs(bad->reason, out);
    fputs(count ? "; needed by " : "; no snapshot needs it", out);
    for (size_t i = 0; i < count && i < TEXT_USES; i++) {
        fputs(i ? "; by " : "", out);
        print_use(out, json_array_get(uses, i), &ranges);
    }
    if (count > TEXT_USES)
        fprintf(out, "; and by %zu objects more", count - TEXT_USES);
    if (fclose(out) == EOF)
        abort();
    return text;
}

static void report(struct verify *v, const struct verify_bad *bad)
{
    json_t *uses = uses_json(&v->table, bad);
    vn_auto(free) char *text = bad_text(bad, uses);
    json_t *where = verify_where(bad->is_pack ? "pack" : "chunk", bad->pack_id);
    char hex[HEX_SPACE];

    if (!bad->is_pack) {
        io_hex(bad->id.bytes, STORE_ID_SIZE, hex);
        json_object_set_new(where, "chunk", json_string(hex));
    }
    json_object_set_new(where, "chunks", jsonx_int(bad->chunks));
    if (bad->dropped)
        json_object_set_new(where, "pages_not_listed", jsonx_int(bad->dropped));
    json_object_set_new(where, "uses", uses);
    verify_found(v, where, "%s", text);
}

void verify_bad_report(struct verify *v)
{
    for (size_t i = 0; i < v->table.bad_count; i++)
        report(v, &v->table.bads[i]);
}
