#include "store/verify_internal.h"

/*
 * Verify, passes 1 and 2: packs against the index, and the reverse.
 *
 * Packs are looked at by the store's pool, each one a task (verify_pack.c);
 * what they report is taken in here, by rising number and on the caller's
 * thread. At most PACK_BATCH of them are on their way, so that is how far the
 * rest may be ahead of one that a slow disk holds up; in memory are a pack for
 * each thread and the reports (700 bytes a pack, 300 for each chunk in it that
 * is damaged).
 */

#include "common/fault.h"
#include "common/io.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PACK_BATCH 512u
#define HEX_SPACE  (2 * STORE_ID_SIZE + 1)

static struct verify_pack *add_pack(struct verify *v, uint64_t id)
{
    if (v->pack_count == v->pack_capacity) {
        size_t capacity = v->pack_capacity ? 2 * v->pack_capacity : 64;
        struct verify_pack *packs =
            realloc(v->packs, capacity * sizeof(*packs));

        if (!packs)
            abort();
        v->packs = packs;
        v->pack_capacity = capacity;
    }
    v->packs[v->pack_count] = (struct verify_pack){.id = id};
    return &v->packs[v->pack_count++];
}

struct verify_pack *verify_pack_of(struct verify *v, uint64_t pack_id)
{
    size_t low = 0;
    size_t high = v->pack_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (v->packs[middle].id < pack_id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < v->pack_count && v->packs[low].id == pack_id ? &v->packs[low]
                                                              : NULL;
}

/* ---- pass 1 ----------------------------------------------------------- */

static void bad_pack(struct verify *v, struct verify_pack *pack,
                     const char *sentence)
{
    pack->damaged = true;
    verify_found(v, verify_where("pack", pack->id), "pack %012llx: %s",
                 (unsigned long long)pack->id, sentence);
}

/* A chunk that is not whole: does the index need it? */
static void bad_chunk(struct verify *v, struct verify_pack *pack,
                      const struct pack_note *note)
{
    pack->damaged = true;
    if (note->place.stored_size > 0 && note->place.pack_id == pack->id)
        verify_bad_add(v, &note->id, &note->place, note->text);
    else
        verify_found(v, verify_where("chunk", pack->id),
                     "%s; the index has it elsewhere or not at all",
                     note->text);
}

/* Some packs on their way through the pool. */
struct batch {
    struct verify *v;
    struct index_pack rows[PACK_BATCH];
    struct verify_pack *packs[PACK_BATCH];
    struct pack_report reports[PACK_BATCH];
    size_t count;
};

static int batch_work(void *context, size_t i, struct vn_err *err)
{
    struct batch *b = context;
    struct store *store = b->v->store;
    size_t ahead = i + pool_threads(store->pool);

    (void)err;
    if (b->reports[i].before)
        return 0;
    if (!b->v->opts->fast && ahead < b->count && !b->reports[ahead].before)
        engine_prefetch(store->engine, b->rows[ahead].id, 0,
                        b->rows[ahead].size);
    verify_pack(b->v, &b->rows[i], &b->reports[i]);
    return 0;
}

static void take_report(struct verify *v, struct verify_pack *pack,
                        const struct pack_report *report)
{
    pack->matched = report->matched;
    pack->gone = report->gone;
    pack->unusable = report->unusable;
    v->newer |= report->newer;
    v->counts.chunks += report->chunks;
    for (size_t k = 0; k < report->note_count; k++)
        if (report->notes[k].is_chunk)
            bad_chunk(v, pack, &report->notes[k]);
        else
            bad_pack(v, pack, report->notes[k].text);
}

static int batch_take(void *context, size_t i, struct vn_err *err)
{
    struct batch *b = context;
    struct verify *v = b->v;
    const struct index_pack *row = &b->rows[i];
    struct verify_pack *pack = b->packs[i];

    v->counts.packs++;
    pack->before = b->reports[i].before;
    v->counts.packs_before += pack->before;
    if (!pack->before && fault_hit("store.verify.pack"))
        return vn_fail(err, EIO, "read pack %012llx",
                       (unsigned long long)row->id);
    take_report(v, pack, &b->reports[i]);
    if (b->reports[i].failed) {
        *err = b->reports[i].err;
        return -1;
    }
    pack_report_done(&b->reports[i]);
    pack->read = true;
    if (v->position < row->id)
        v->position = row->id;
    verify_progress(v, row->size);
    verify_state_note(v);
    return 0;
}

static int batch_run(struct batch *b, struct vn_err *err)
{
    int result = pool_run_in_order(b->v->store->pool, b->count, batch_work,
                                   batch_take, b, err);

    for (size_t i = 0; i < b->count; i++)
        pack_report_done(&b->reports[i]);
    b->count = 0;
    return result;
}

/* Have a pack looked at, some time before the last batch_run(). */
static int batch_add(struct batch *b, const struct index_pack *row,
                     struct verify_pack *pack, bool resumed, struct vn_err *err)
{
    struct pack_report *report = &b->reports[b->count];

    report->before =
        resumed && verify_state_has(b->v->state, row->id, &report->matched);
    b->packs[b->count] = pack;
    b->rows[b->count++] = *row;
    return b->count == PACK_BATCH ? batch_run(b, err) : 0;
}

static int list_packs(struct verify *v, struct vn_err *err)
{
    struct index_packs step = {.index = v->store->index};
    const struct index_pack *row;
    int more;

    while ((more = index_next_pack(&step, &row, err)) > 0)
        add_pack(v, row->id);
    return more;
}

static int check_packs(struct verify *v, struct batch *b, struct vn_err *err)
{
    struct index_packs step = {.index = v->store->index};
    const struct index_pack *row;
    int more;

    while ((more = index_next_pack(&step, &row, err)) > 0) {
        struct verify_pack *pack = verify_pack_of(v, row->id);

        /* None: it was entered since. */
        if (pack && batch_add(b, row, pack, true, err) < 0)
            return -1;
    }
    return more < 0 ? -1 : batch_run(b, err);
}

/* ---- pass 2 ----------------------------------------------------------- */

typedef int row_fn(struct verify *v, const struct index_chunk *row,
                   struct vn_err *err);

static int each_row(struct verify *v, row_fn *fn, struct vn_err *err)
{
    struct index_chunks step = {.index = v->store->index};
    const struct index_chunk *row;
    int more;

    while ((more = index_next_chunk(&step, &row, err)) > 0)
        if (fn(v, row, err) < 0)
            return -1;
    return more;
}

/* A row whose pack pass 1 did not see: new, or pointing nowhere? */
static int check_stray(struct verify *v, const struct index_chunk *row,
                       struct vn_err *err)
{
    struct index_pack pack;
    char reason[160];
    char hex[HEX_SPACE];
    size_t count;

    if (index_list_packs(v->store->index, row->place.pack_id, 1, &pack, &count,
                         err) < 0)
        return -1;
    if (count == 1 && pack.id == row->place.pack_id)
        return 0;
    io_hex(row->id.bytes, STORE_ID_SIZE, hex);
    snprintf(reason, sizeof(reason),
             "chunk %s: the index places it in pack %012llx, which the index "
             "does not know",
             hex, (unsigned long long)row->place.pack_id);
    verify_bad_add(v, &row->id, &row->place, reason);
    return 0;
}

static int count_row(struct verify *v, const struct index_chunk *row,
                     struct vn_err *err)
{
    struct verify_pack *pack = verify_pack_of(v, row->place.pack_id);

    if (!pack)
        return check_stray(v, row, err);
    pack->indexed++;
    return 0;
}

/* Must rows that point into the pack be tried one by one? Fewer rows than
 * match: meanwhile a writer has stored chunks of a condemned pack anew, and
 * rows have turned away from it. */
static bool is_suspect(const struct verify_pack *pack)
{
    return pack->unusable || pack->indexed > pack->matched;
}

/* A row of a pack that confirms fewer rows than it has: read the chunk. */
static int check_suspect(struct verify *v, const struct index_chunk *row,
                         struct vn_err *err)
{
    struct verify_pack *pack = verify_pack_of(v, row->place.pack_id);
    unsigned kind = row->place.kind;
    vn_auto(free) uint8_t *out = NULL;
    struct vn_err why = VN_ERR_INIT;
    size_t size;

    if (!pack || !is_suspect(pack) || verify_bad_find(v, &row->id))
        return 0;
    out = malloc(pack_raw_limit(kind) + 1);
    if (!out)
        return vn_fail(err, VN_E_LIMIT, "no memory for a chunk");
    if (chunk_read(v->store, (enum chunk_kind)kind, &row->id, out, &size,
                   &why) == 0)
        return 0;
    pack->unread++;
    verify_bad_add(v, &row->id, &row->place, why.msg);
    return 0;
}

/* Packs that an earlier run read, and of which the index has other chunks now:
 * gc moved some, or a row is wrong. Read them. */
static int check_changed(struct verify *v, struct batch *b, struct vn_err *err)
{
    for (size_t i = 0; i < v->pack_count; i++) {
        struct verify_pack *pack = &v->packs[i];
        struct index_pack row;

        if (!pack->before || pack->indexed == pack->matched)
            continue;
        pack->read = false;
        v->counts.packs--;
        v->counts.packs_before--;
        if (index_find_pack(v->store->index, pack->id, &row, err) < 0 ||
            batch_add(b, &row, pack, false, err) < 0)
            return -1;
    }
    return batch_run(b, err);
}

static void report_mismatch(struct verify *v, struct verify_pack *pack)
{
    char text[128];

    snprintf(text, sizeof(text),
             "the index has %llu chunks in it, its directory confirms %llu",
             (unsigned long long)pack->indexed,
             (unsigned long long)pack->matched);
    bad_pack(v, pack, text);
}

/* Pass 1, and the rows counted. */
static int count_and_check(struct verify *v, struct vn_err *err)
{
    vn_auto(free) struct batch *b = vn_alloc(sizeof(*b));

    b->v = v;
    /* Rows are counted before the directories are held against them: a writer
     * enters a pack's rows in several transactions, and what comes in between
     * makes more of them match, never less. */
    index_expect(v->store->index, UINT64_MAX);
    if (list_packs(v, err) < 0 || each_row(v, count_row, err) < 0 ||
        check_packs(v, b, err) < 0)
        return -1;
    return check_changed(v, b, err);
}

int verify_packs(struct verify *v, struct vn_err *err)
{
    bool suspect = false;

    if (count_and_check(v, err) < 0)
        return -1;
    for (size_t i = 0; i < v->pack_count; i++)
        suspect |= is_suspect(&v->packs[i]);
    if (suspect && each_row(v, check_suspect, err) < 0)
        return -1;
    /* A row that has turned to another pack since it was counted is no harm: it
     * was tried, and its chunk is there. */
    for (size_t i = 0; i < v->pack_count; i++)
        if (v->packs[i].unread > 0 && !v->packs[i].unusable)
            report_mismatch(v, &v->packs[i]);
    return 0;
}
