#include "store/writer_internal.h"

/*
 * From the open pack to disk and index.
 *
 *     open pack -> queue -> written, synced, renamed -> index
 *
 * A full pack is put into a queue, from which a thread of the writer writes
 * it while others go on filling the next. The queue is short: who finds it
 * full waits, so a slow disk slows the writer down and memory is bounded. The
 * thread is started for the first full pack; a writer that never fills one has
 * none, and its flush writes in the caller's thread, by the same functions.
 *
 * The pack's number is drawn when it is written, so that one which could not
 * be written is simply tried again under another number. It stays at the head
 * of the queue until then: packs become durable in the order in which they
 * were filled, hence what is durable is a prefix of the pending list.
 *
 * When ENTER_MIN chunks (256 MiB of pages) are durable the thread enters them
 * into the index. Larger batches write fewer pages of the index for each chunk,
 * smaller ones wait less at the end. Chunks stay in the pending list until the
 * index has them, and `entered` tells those who looked up in between.
 *
 * Errors: the thread keeps its error until somebody takes it - a put that has
 * to wait, or a flush - and goes on trying only then.
 *
 * Order is the crash promise: the index never names a pack that is not
 * durable. A writer that dies leaves packs that nothing names: garbage.
 */

#include "store/id_sort.h"

#include <assert.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define ENTER_MIN      65536u
#define PACK_ID_BLOCK  64u  /* numbers drawn at a time */
#define INDEX_ROW_COST 256u /* bytes of disk a chunk may need in the index */

/* ---- the work, done by whoever is busy; no lock ------------------------ */

static int take_pack_id(struct store_writer *writer, uint64_t *ret,
                        struct vn_err *err)
{
    if (writer->next_pack_id == writer->end_pack_id) {
        uint64_t first;

        if (index_take_pack_ids(writer->store->index, PACK_ID_BLOCK, &first,
                                err) < 0)
            return -1;
        writer->next_pack_id = first;
        writer->end_pack_id = first + PACK_ID_BLOCK;
    }
    *ret = writer->next_pack_id++;
    return 0;
}

static void packs_add(struct store_writer *writer,
                      const struct index_pack *pack)
{
    if (writer->pack_count == writer->pack_capacity) {
        size_t capacity = writer->pack_capacity ? 2 * writer->pack_capacity : 8;
        struct index_pack *packs =
            realloc(writer->packs, capacity * sizeof(*packs));

        if (!packs)
            abort();
        writer->packs = packs;
        writer->pack_capacity = capacity;
    }
    writer->packs[writer->pack_count++] = *pack;
}

static int put_pack(struct store_writer *writer, struct pack_builder *builder,
                    struct index_pack *ret, struct vn_err *err)
{
    uint64_t pack_id;

    if (take_pack_id(writer, &pack_id, err) < 0)
        return -1;
    return store_put_pack(writer->store, builder, pack_id, ret, err);
}

/* Sort the chunks by id, into `to`. */
static void sort_chunks(const struct index_chunk *from, struct index_chunk *to,
                        size_t count)
{
    vn_auto(free) struct id_key *keys = vn_alloc(2 * count * sizeof(*keys));

    for (size_t i = 0; i < count; i++)
        keys[i] = id_key_of(&from[i].id, (uint32_t)i);
    id_sort(keys, keys + count, count);
    for (size_t i = 0; i < count; i++)
        to[i] = from[keys[i].number];
}

static int add_to_index(struct store_writer *writer,
                        const struct index_chunk *chunks, size_t count,
                        struct vn_err *err)
{
    vn_auto(free) struct index_chunk *sorted =
        vn_alloc(count * sizeof(*sorted));

    sort_chunks(chunks, sorted, count);
    if (store_check_space(writer->store, count * INDEX_ROW_COST, err) < 0)
        return -1;
    return index_add(writer->store->index, writer->packs, writer->pack_count,
                     sorted, count, err);
}

/* ---- its steps, with the lock held around them ------------------------- */

/* Write the head of the queue. After a failure it is still there. */
static int write_head(struct store_writer *writer, struct vn_err *err)
{
    struct pack_builder *head = writer->queue[0];
    struct index_pack pack;
    int result;

    assert(!writer->busy && writer->queue_count > 0);
    writer->busy = true;
    pthread_mutex_unlock(&writer->lock);
    result = put_pack(writer, head, &pack, err);
    pthread_mutex_lock(&writer->lock);
    writer->busy = false;
    if (result == 0) {
        packs_add(writer, &pack);
        pending_set_pack(&writer->pending, pack.count, pack.id);
        writer->counts.bytes_stored += pack.size;
        writer->queue_count--;
        memmove(writer->queue, writer->queue + 1,
                writer->queue_count * sizeof(writer->queue[0]));
        pack_builder_reset(head);
        writer->spares[writer->spare_count++] = head;
    }
    pthread_cond_broadcast(&writer->changed);
    return result;
}

/* Enter what is durable into the index. */
static int enter(struct store_writer *writer, struct vn_err *err)
{
    size_t count = writer->pending.durable;
    struct index_chunk *chunks;
    int result;

    assert(!writer->busy);
    if (writer->pack_count == 0)
        return 0;
    /* Others may make the list longer, and so move it. */
    chunks = malloc(count * sizeof(*chunks));
    if (!chunks)
        return vn_fail(err, VN_E_LIMIT, "no memory for %zu chunks", count);
    memcpy(chunks, writer->pending.chunks, count * sizeof(*chunks));
    writer->busy = true;
    pthread_mutex_unlock(&writer->lock);
    result = add_to_index(writer, chunks, count, err);
    free(chunks);
    pthread_mutex_lock(&writer->lock);
    writer->busy = false;
    if (result == 0) {
        writer->pack_count = 0;
        pending_forget(&writer->pending, count);
        writer->entered++;
    }
    pthread_cond_broadcast(&writer->changed);
    return result;
}

static int work(struct store_writer *writer, struct vn_err *err)
{
    if (write_head(writer, err) < 0)
        return -1;
    return writer->pending.durable >= ENTER_MIN ? enter(writer, err) : 0;
}

/* ---- the thread -------------------------------------------------------- */

static void *thread_main(void *arg)
{
    struct store_writer *writer = arg;
    struct vn_err err = VN_ERR_INIT;

    vn_lock_scope(&writer->lock);
    while (!writer->stop) {
        if (writer->queue_count == 0 || writer->failed) {
            pthread_cond_wait(&writer->changed, &writer->lock);
        } else if (work(writer, &err) < 0) {
            writer->failed = true;
            writer->error = err;
            pthread_cond_broadcast(&writer->changed);
        }
    }
    return NULL;
}

static bool start_thread(struct store_writer *writer)
{
    sigset_t all;
    sigset_t before;

    if (writer->has_thread)
        return true;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    writer->has_thread =
        pthread_create(&writer->thread, NULL, thread_main, writer) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (writer->has_thread)
        pthread_setname_np(writer->thread, "vnstore-packs");
    return writer->has_thread;
}

void writer_stop(struct store_writer *writer)
{
    if (!writer->has_thread)
        return;
    pthread_mutex_lock(&writer->lock);
    writer->stop = true;
    pthread_cond_broadcast(&writer->changed);
    pthread_mutex_unlock(&writer->lock);
    pthread_join(writer->thread, NULL);
}

/* ---- handing over ------------------------------------------------------ */

static int take_error(struct store_writer *writer, struct vn_err *err)
{
    *err = writer->error;
    writer->failed = false;
    pthread_cond_broadcast(&writer->changed);
    return -1;
}

/* Wait, or where there is no thread work, until the queue is that short. */
static int shorten_queue(struct store_writer *writer, unsigned length,
                         struct vn_err *err)
{
    while (writer->queue_count > length || writer->busy) {
        if (writer->failed)
            return take_error(writer, err);
        if (writer->has_thread || writer->busy)
            pthread_cond_wait(&writer->changed, &writer->lock);
        else if (work(writer, err) < 0)
            return -1;
    }
    return 0;
}

struct pack_builder *writer_new_pack(const struct store_writer *writer)
{
    struct pack_builder *b = pack_builder_new(writer->store->config.store_id);

    pack_builder_set_domain(b, writer->ident.domain);
    return b;
}

static void hand_over(struct store_writer *writer)
{
    writer->queue[writer->queue_count++] = writer->open;
    writer->open = writer->spare_count ? writer->spares[--writer->spare_count]
                                       : writer_new_pack(writer);
    pthread_cond_broadcast(&writer->changed);
}

int writer_make_room(struct store_writer *writer, struct vn_err *err)
{
    while (pack_builder_size(writer->open) >= PACK_TARGET_SIZE) {
        if (writer->failed)
            return take_error(writer, err);
        if (writer->queue_count < WRITER_QUEUE_MAX) {
            hand_over(writer);
            if (!start_thread(writer) && shorten_queue(writer, 0, err) < 0)
                return -1;
        } else if (writer->has_thread) {
            pthread_cond_wait(&writer->changed, &writer->lock);
        } else if (shorten_queue(writer, 0, err) < 0) {
            return -1;
        }
    }
    return 0;
}

int writer_write_all(struct store_writer *writer, struct vn_err *err)
{
    if (shorten_queue(writer, WRITER_QUEUE_MAX - 1, err) < 0)
        return -1;
    if (pack_builder_count(writer->open) > 0)
        hand_over(writer);
    if (shorten_queue(writer, 0, err) < 0)
        return -1;
    if (writer->failed)
        return take_error(writer, err);
    return enter(writer, err);
}
