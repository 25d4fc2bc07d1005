#include "store/read_ahead.h"

/*
 * Reading ahead.
 *
 * A disk needs many requests at a time, or large ones, to be fast, and what
 * reads here asks for 256 KiB, decodes it, and only then asks again. So the
 * engine is told what comes: it has the kernel fetch it meanwhile. Cold, with
 * two cores, that makes a restore twice as fast.
 *
 * Pages of one image were mostly stored in a row, by several threads side by
 * side, which mixed their groups of pages: in a pack that has many wanted pages
 * close together everything between the first and the last is asked for, and
 * AHEAD behind it. Each byte of a pack is asked for once in a run, as asking is
 * not free where all is there already: 25 ns for each 4 KiB.
 *
 * Nodes of a map lie in a row behind the pages of the image, or, where a later
 * version shares them, in several such rows.
 */

#include <assert.h>
#include <stdlib.h>

#define AHEAD     (8u << 20)   /* bytes: a pack */
#define DENSITY   4u           /* ask where one byte in so many is wanted */
#define PAGES_MIN 64u          /* ... and so many pages */
#define SPANS_MAX 8u           /* packs looked at in one call */
#define NODE_GAP  (128u << 10) /* bytes */

/* What is wanted of one pack. */
struct span {
    uint64_t pack_id;
    uint64_t from;
    uint64_t to;
    uint64_t wanted; /* bytes */
    size_t count;
};

void read_ahead_init(struct read_ahead *ahead)
{
    *ahead = (struct read_ahead){.pack_id = UINT64_MAX};
    pthread_mutex_init(&ahead->lock, NULL);
}

void read_ahead_done(struct read_ahead *ahead)
{
    pthread_mutex_destroy(&ahead->lock);
}

/* ---- pages ------------------------------------------------------------- */

static struct span *find_span(struct span *spans, size_t *count,
                              uint64_t pack_id)
{
    for (size_t i = *count; i-- > 0;)
        if (spans[i].pack_id == pack_id)
            return &spans[i];
    if (*count == SPANS_MAX)
        return NULL;
    spans[*count] = (struct span){.pack_id = pack_id, .from = UINT64_MAX};
    return &spans[(*count)++];
}

/* The part of the span that was not asked for yet becomes so. */
static void ask(struct read_ahead *ahead, struct store *store,
                const struct span *span)
{
    uint64_t from = span->from;
    uint64_t to = span->to + AHEAD;

    {
        vn_lock_scope(&ahead->lock);
        if (ahead->pack_id == span->pack_id && from < ahead->end)
            from = ahead->end;
        if (from >= to)
            return;
        ahead->pack_id = span->pack_id;
        ahead->end = to;
    }
    engine_prefetch(store->engine, span->pack_id, from, to - from);
}

void read_ahead_pages(struct read_ahead *ahead, struct store *store,
                      const struct chunk_place *places, size_t count)
{
    struct span spans[SPANS_MAX];
    size_t n = 0;

    for (size_t i = 0; i < count; i++) {
        struct span *span = find_span(spans, &n, places[i].pack_id);
        uint64_t to = (uint64_t)places[i].offset + places[i].stored_size;

        if (!span)
            break; /* far apart */
        if (places[i].offset < span->from)
            span->from = places[i].offset;
        if (to > span->to)
            span->to = to;
        span->wanted += places[i].stored_size;
        span->count++;
    }
    for (size_t i = 0; i < n; i++)
        if (spans[i].count >= PAGES_MIN &&
            spans[i].wanted >= (spans[i].to - spans[i].from) / DENSITY)
            ask(ahead, store, &spans[i]);
}

/* ---- nodes ------------------------------------------------------------- */

static int by_place(const void *a, const void *b)
{
    const struct chunk_place *x = a;
    const struct chunk_place *y = b;

    if (x->pack_id != y->pack_id)
        return x->pack_id < y->pack_id ? -1 : 1;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

/* Sorted places that lie close together, in one request. */
static void ask_nodes(struct store *store, const struct chunk_place *places,
                      size_t count)
{
    for (size_t i = 0, n; i < count; i += n) {
        uint64_t from = places[i].offset;
        uint64_t to = from + places[i].stored_size;

        for (n = 1; i + n < count; n++) {
            const struct chunk_place *next = &places[i + n];

            if (next->pack_id != places[i].pack_id ||
                next->offset > to + NODE_GAP)
                break;
            to = (uint64_t)next->offset + next->stored_size;
        }
        engine_prefetch(store->engine, places[i].pack_id, from, to - from);
    }
}

void read_ahead_nodes(struct store *store, const struct chunk_id *ids,
                      size_t count)
{
    struct chunk_place places[MAP_FANOUT];
    struct chunk_id wanted[MAP_FANOUT];
    struct vn_err ignored = VN_ERR_INIT;
    size_t n = 0;
    size_t found = 0;

    assert(count <= MAP_FANOUT);
    for (size_t i = 0; i < count; i++)
        if (!chunk_id_is_zero(&ids[i]))
            wanted[n++] = ids[i];
    if (n < 2 || index_find(store->index, wanted, n, places, &ignored) < 0)
        return;
    for (size_t i = 0; i < n; i++)
        if (places[i].stored_size > 0)
            places[found++] = places[i];
    qsort(places, found, sizeof(places[0]), by_place);
    ask_nodes(store, places, found);
}
