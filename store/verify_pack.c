#include "store/verify_internal.h"

/*
 * Verify, pass 1: one pack, by any thread.
 *
 * Nothing of struct verify is written here: what is wrong goes into a report,
 * in the order in which one thread would have found it, and verify_packs.c
 * takes the reports in by rising pack number. So findings, counts and the file
 * "verify.state" do not depend on how many threads there are.
 *
 * While the chunks of this pack are hashed the disk reads a later one ahead. A
 * thread has one pack in memory at a time, and never more than that: reports
 * have words and places, no content.
 */

#include "common/io.h"

#include <stdlib.h>
#include <string.h>

#define FIND_BATCH 512u /* chunks in one look-up */
#define HEX_SPACE  (2 * STORE_ID_SIZE + 1)

/* The pack in hand. */
struct look {
    const struct verify *v;
    const struct index_pack *row;
    struct pack_report *report;
    struct pack parsed;
    uint8_t *data; /* NULL: only its ends were read */
    bool *whole;   /* one a chunk; NULL likewise */
};

/* ---- the report ------------------------------------------------------- */

static struct pack_note *add_note(struct pack_report *r, const char *text)
{
    if (r->note_count == r->note_capacity) {
        r->note_capacity = r->note_capacity ? 2 * r->note_capacity : 4;
        r->notes = realloc(r->notes, r->note_capacity * sizeof(*r->notes));
        if (!r->notes)
            abort();
    }
    r->notes[r->note_count] = (struct pack_note){.text = vn_strdup(text)};
    return &r->notes[r->note_count++];
}

void pack_report_done(struct pack_report *report)
{
    for (size_t i = 0; i < report->note_count; i++)
        free(report->notes[i].text);
    free(report->notes);
    *report = (struct pack_report){0};
}

/* ---- chunks ----------------------------------------------------------- */

static bool place_is(const struct chunk_place *place, uint64_t pack_id,
                     const struct pack_entry *entry)
{
    return place->pack_id == pack_id && place->offset == entry->offset &&
           place->stored_size == entry->stored_size &&
           place->kind == entry->kind && place->codec == entry->codec;
}

/* A chunk that is not whole: why? */
static void note_chunk(struct look *l, const struct pack_entry *entry,
                       const struct chunk_place *place)
{
    vn_auto(free) uint8_t *out = malloc(pack_raw_limit(entry->kind));
    struct chunk_id id = ident_short(&entry->id);
    struct vn_err why = VN_ERR_INIT;
    struct pack_note *note;
    struct ident ident;
    char hex[HEX_SPACE];

    ident_in_domain(&l->v->store->ident, l->parsed.domain, &ident);
    if (!out ||
        chunk_check(&ident, entry, l->data + entry->offset, out, &why) == 0)
        vn_fail(&why, VN_E_LIMIT, "no memory to check it");
    io_hex(id.bytes, STORE_ID_SIZE, hex);
    vn_wrap(&why, "chunk %s in pack %012llx at %u", hex,
            (unsigned long long)l->row->id, entry->offset);
    note = add_note(l->report, why.msg);
    note->is_chunk = true;
    note->id = id;
    note->place = *place;
}

static int look_at_chunks(struct look *l, struct vn_err *err)
{
    struct chunk_id ids[FIND_BATCH];
    struct chunk_place places[FIND_BATCH];

    l->report->chunks = l->parsed.count;
    for (size_t i = 0; i < l->parsed.count; i += FIND_BATCH) {
        const struct pack_entry *entries = l->parsed.entries + i;
        size_t left = l->parsed.count - i;
        size_t n = left < FIND_BATCH ? left : FIND_BATCH;

        for (size_t k = 0; k < n; k++)
            ids[k] = ident_short(&entries[k].id);
        if (index_find(l->v->store->index, ids, n, places, err) < 0)
            return -1;
        for (size_t k = 0; k < n; k++) {
            /* A chunk that the index has not is dead weight, such as gc leaves
             * of a second copy; what a snapshot needs is missed in pass 3. */
            if (places[k].stored_size > 0 &&
                place_is(&places[k], l->row->id, &entries[k]))
                l->report->matched++;
            if (l->whole && !l->whole[i + k])
                note_chunk(l, &entries[k], &places[k]);
        }
    }
    return 0;
}

/* ---- the pack --------------------------------------------------------- */

/* The pack as a whole against its row; what was parsed is usable. */
static void look_at_head(struct look *l, const char *damage)
{
    const struct pack *parsed = &l->parsed;
    char text[128];

    if (damage[0])
        add_note(l->report, damage);
    else if (memcmp(parsed->store_id, l->v->store->config.store_id,
                    sizeof(parsed->store_id)) != 0)
        add_note(l->report, "it belongs to another store");
    if (parsed->id != l->row->id) {
        snprintf(text, sizeof(text), "it says that it is pack %012llx",
                 (unsigned long long)parsed->id);
        add_note(l->report, text);
    }
    if (parsed->count != l->row->count) {
        snprintf(text, sizeof(text), "it has %u chunks, the index says %u",
                 parsed->count, l->row->count);
        add_note(l->report, text);
    }
}

static int check_size(const struct look *l, struct vn_err *err)
{
    uint64_t size;

    if (engine_size(l->v->store->engine, l->row->id, &size, err) < 0)
        return -1;
    if (size == l->row->size && size <= PACK_SIZE_MAX)
        return 0;
    return vn_fail(err, VN_E_CORRUPT, "it has %llu bytes, the index says %llu",
                   (unsigned long long)size, (unsigned long long)l->row->size);
}

static int read_pack(struct look *l, char damage[128], struct vn_err *err)
{
    l->data = malloc(l->row->size + 1);
    if (!l->data)
        return vn_fail(err, VN_E_LIMIT, "no memory for %llu bytes",
                       (unsigned long long)l->row->size);
    if (engine_read(l->v->store->engine, l->row->id, 0, l->data, l->row->size,
                    err) < 0)
        return -1;
    return pack_parse(l->data, l->row->size, &l->parsed, damage, err);
}

/* Read the pack, or its ends. */
static int open_pack(struct look *l, char damage[128], struct vn_err *err)
{
    if (l->v->opts->fast)
        return pack_read_ends(l->v->store->engine, l->row->id, l->row->size,
                              &l->parsed, damage, err);
    return read_pack(l, damage, err);
}

static void look(struct look *l)
{
    struct vn_err why = VN_ERR_INIT;
    char damage[128];

    l->report->gone = l->report->unusable = check_size(l, &why) < 0;
    if (!l->report->gone)
        l->report->unusable = open_pack(l, damage, &why) < 0;
    l->report->newer = l->report->unusable && why.code == VN_E_VERSION;
    if (l->report->unusable) {
        add_note(l->report, why.msg);
        return;
    }
    look_at_head(l, damage);
    if (l->data) {
        l->whole = vn_alloc(l->parsed.count * sizeof(*l->whole));
        verify_chunks(l->v->store, &l->parsed, l->data, l->whole);
    }
    l->report->failed = look_at_chunks(l, &l->report->err) < 0;
    pack_done(&l->parsed);
}

void verify_pack(const struct verify *v, const struct index_pack *row,
                 struct pack_report *ret)
{
    struct look l = {.v = v, .row = row, .report = ret};

    look(&l);
    free(l.whole);
    free(l.data);
}
