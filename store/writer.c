#include "store/writer_internal.h"

/*
 * A writer: takes chunks, keeps those that are new in an open pack, and makes
 * packs and then the index durable.
 *
 *     known?   pending list (writer_pending.c), then the index
 *     new      compressed, then copied into the open pack
 *     full     handed over to be written (writer_packs.c)
 *     flush    the open pack too, then the index
 *
 * Several threads may put chunks at a time: they hash, look up and compress
 * without a lock, a group of chunks at a time, and copy the group into the
 * open pack under the writer's lock. Two that have the same new chunk at once
 * find out there: the second drops its copy. Between the look-up and the lock
 * the index may have been given chunks that were pending; then what is left
 * is looked up again, so a writer never stores one chunk twice.
 *
 * Memory: WRITER_QUEUE_MAX + 1 packs of 10 MiB and 40 + 8 bytes a pending
 * chunk, of which there are at most 65536 in packs that are written.
 *
 * Two writers may store one chunk at the same time; the index keeps the first
 * place, the second copy is dead weight until gc.
 *
 * A writer has a hold (hold.c) from beginning to end: what it found known, or
 * put, gc leaves alone. Chunks in packs that were condemned when it began are
 * not known to it: they are stored again, and the index takes the new place.
 */

#include "store/id_sort.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define GROUP_SIZE  (64u * STORE_PAGE_SIZE) /* bytes compressed at a time */
#define AHEAD       16u                     /* chunks */
#define GROUP_SPACE PACK_ENCODE_SPACE(GROUP_SIZE)

struct store_writer *store_writer_open(struct store *store, struct vn_err *err)
{
    return store_writer_open_in(store, NULL, err);
}

struct store_writer *store_writer_open_in(struct store *store,
                                          const char *domain,
                                          struct vn_err *err)
{
    struct store_hold *hold;
    struct store_writer *writer;
    uint64_t tag;

    if (store_domain_tag(store, domain, &tag, err) < 0)
        return NULL;
    hold = store_hold_open(store, err);
    if (!hold)
        return NULL;
    writer = vn_alloc(sizeof(*writer));
    writer->store = store;
    writer->hold = hold;
    ident_in_domain(&store->ident, tag, &writer->ident);
    pthread_mutex_init(&writer->lock, NULL);
    pthread_cond_init(&writer->changed, NULL);
    pending_init(&writer->pending);
    writer->open = writer_new_pack(writer);
    return writer;
}

void store_writer_free(struct store_writer *writer)
{
    if (!writer)
        return;
    writer_stop(writer);
    pack_builder_free(writer->open);
    for (unsigned i = 0; i < writer->queue_count; i++)
        pack_builder_free(writer->queue[i]);
    for (unsigned i = 0; i < writer->spare_count; i++)
        pack_builder_free(writer->spares[i]);
    pending_done(&writer->pending);
    free(writer->packs);
    pthread_cond_destroy(&writer->changed);
    pthread_mutex_destroy(&writer->lock);
    store_hold_close(writer->hold);
    free(writer);
}

struct store_hold *store_writer_hold(struct store_writer *writer)
{
    return writer->hold;
}

const struct ident *store_writer_ident(const struct store_writer *writer)
{
    return &writer->ident;
}

struct store *store_writer_store(const struct store_writer *writer)
{
    return writer->store;
}

void store_writer_count(struct store_writer *writer,
                        const struct store_counts *more)
{
    struct store_counts *counts = &writer->counts;

    vn_lock_scope(&writer->lock);
    counts->bytes_read += more->bytes_read;
    counts->bytes_zero += more->bytes_zero;
    counts->bytes_unchanged += more->bytes_unchanged;
    counts->bytes_known += more->bytes_known;
    counts->bytes_new += more->bytes_new;
}

void store_writer_counts(struct store_writer *writer, struct store_counts *ret)
{
    vn_lock_scope(&writer->lock);
    *ret = writer->counts;
}

int store_writer_flush(struct store_writer *writer, struct vn_err *err)
{
    vn_lock_scope(&writer->lock);
    if (writer_write_all(writer, err) < 0)
        return vn_wrap(err, "flushing a writer of '%s'", writer->store->path);
    return 0;
}

/* ---- what is known ----------------------------------------------------- */

/* Chunks of one call of store_writer_put(). */
struct put {
    enum chunk_kind kind;
    const struct ident_full *ids;
    const uint8_t *const *data;
    size_t size; /* of each */
    size_t count;
    uint64_t entered; /* the writer's when they were looked up */
    bool missing[STORE_PUT_MAX];
    size_t stored;
};

static void prefetch(const struct store_writer *writer,
                     const struct ident_full *full)
{
    struct chunk_id id = ident_short(full);

    pending_prefetch(&writer->pending, &id);
}

/* Keys of those that are not pending, from chunk `from` on. */
static size_t list_candidates(struct store_writer *writer, struct put *p,
                              size_t from, struct id_key *keys)
{
    size_t n = 0;

    vn_lock_scope(&writer->lock);
    p->entered = writer->entered;
    for (size_t i = from; i < p->count; i++) {
        struct chunk_id id = ident_short(&p->ids[i]);

        if (i + AHEAD < p->count)
            prefetch(writer, &p->ids[i + AHEAD]);
        p->missing[i] = false;
        if (!pending_has(&writer->pending, &id))
            keys[n++] = id_key_of(&id, (uint32_t)i);
    }
    return n;
}

/*
 * Which of the chunks from `from` on does the index not have, as far as the
 * writer may refer to them? Sets missing[], for equal chunks the first only.
 */
static int find_missing(struct store_writer *writer, struct put *p, size_t from,
                        struct vn_err *err)
{
    size_t space = p->count - from;
    vn_auto(free) struct id_key *keys = vn_alloc(2 * space * sizeof(*keys));
    vn_auto(free) struct chunk_id *sorted = vn_alloc(space * sizeof(*sorted));
    vn_auto(free) struct chunk_place *places =
        vn_alloc(space * sizeof(*places));
    size_t n = list_candidates(writer, p, from, keys);
    size_t unique = 0;

    id_sort(keys, keys + space, n);
    for (size_t i = 0; i < n; i++) {
        sorted[unique] = ident_short(&p->ids[keys[i].number]);
        if (unique > 0 &&
            chunk_id_compare(&sorted[unique], &sorted[unique - 1]) == 0)
            continue;
        keys[unique++] = keys[i];
    }
    if (index_find_known(writer->store->index, sorted, unique, places, err) < 0)
        return -1;
    for (size_t i = 0; i < unique; i++)
        p->missing[keys[i].number] = !store_hold_sees(writer->hold, &places[i]);
    return 0;
}

/* ---- storing ----------------------------------------------------------- */

/* Chunks compressed and not yet in the pack. */
struct group {
    size_t count;
    size_t fill;
    size_t end; /* number of the chunk behind the last that was looked at */
    struct pack_entry entries[GROUP_SIZE / STORE_PAGE_SIZE];
    size_t numbers[GROUP_SIZE / STORE_PAGE_SIZE];
    uint8_t data[GROUP_SPACE];
};

static bool has_room(const struct group *group, size_t size)
{
    return group->count < VN_COUNT(group->entries) &&
           group->fill + PACK_ENCODE_SPACE(size) <= GROUP_SPACE;
}

/* Compress missing chunks from `from` on until the group is full. */
static void fill_group(const struct put *p, size_t from, struct group *group)
{
    size_t i;

    group->count = 0;
    group->fill = 0;
    for (i = from; i < p->count && has_room(group, p->size); i++) {
        struct pack_entry *entry = &group->entries[group->count];

        if (!p->missing[i])
            continue;
        *entry = (struct pack_entry){.id = p->ids[i],
                                     .kind = (uint8_t)p->kind,
                                     .raw_size = (uint32_t)p->size};
        entry->stored_size = (uint32_t)pack_encode(
            p->data[i], p->size, group->data + group->fill, &entry->codec);
        group->numbers[group->count++] = i;
        group->fill += entry->stored_size;
    }
    group->end = i;
}

/*
 * Copy the group into the pack. 1: the index has changed, and chunks from
 * *ret_from on must be looked up again.
 */
static int add_group(struct store_writer *writer, struct put *p,
                     const struct group *group, size_t *ret_from,
                     struct vn_err *err)
{
    const uint8_t *stored = group->data;

    vn_lock_scope(&writer->lock);
    for (size_t i = 0; i < group->count; i++) {
        const struct pack_entry *from = &group->entries[i];
        struct chunk_id id = ident_short(&from->id);
        struct pack_entry entry;

        if (i + AHEAD < group->count)
            prefetch(writer, &group->entries[i + AHEAD].id);
        if (writer_make_room(writer, err) < 0)
            return -1;
        if (writer->entered != p->entered) {
            *ret_from = group->numbers[i];
            return 1;
        }
        if (!pending_has(&writer->pending, &id)) {
            if (pack_builder_copy(writer->open, from, stored, &entry, err) < 0)
                return -1;
            pending_add(&writer->pending, &entry);
            p->stored++;
        }
        stored += from->stored_size;
    }
    *ret_from = group->end;
    return 0;
}

int store_writer_put(struct store_writer *writer, enum chunk_kind kind,
                     const struct ident_full *ids, const uint8_t *const *data,
                     size_t size, size_t count, size_t *ret_new,
                     struct vn_err *err)
{
    struct put p = {
        .kind = kind, .ids = ids, .data = data, .size = size, .count = count};
    struct group group;
    size_t from = 0;
    int again = 1;

    assert(count <= STORE_PUT_MAX && size <= GROUP_SIZE);
    while (from < count) {
        if (again > 0 && find_missing(writer, &p, from, err) < 0)
            return -1;
        fill_group(&p, from, &group);
        again = add_group(writer, &p, &group, &from, err);
        if (again < 0)
            return -1;
    }
    *ret_new = p.stored;
    return 0;
}
