#include "store/image_writer_internal.h"

/*
 * Taking in the pages of an image.
 *
 * A page goes through four questions, the cheapest first:
 *   1. all zeros?  Then its place in the leaf stays zero.
 *   2. the fingerprint of the same place in the parent?  Then the parent's id
 *      is taken over. A guest that forges a fingerprint gets the older page of
 *      its own image; pages of others are never reached this way.
 *   3. known by id to the writer or the index?
 *   4. else it is stored.
 * Pages for 3 and 4 wait in a batch, since hashing goes sixteen at a time and
 * look-ups are cheaper sorted.
 *
 * A page may be put again while its first version waits. Each leaf remembers
 * for each place which slot of the batch will fill it (0: none); a later
 * put takes the place away from the earlier slot, whose result then goes
 * nowhere. A task's batch uses the slots of its own leaf in the same way: it
 * is resolved before the staged one can be again, and what it leaves in a
 * slot it filled is 0.
 *
 * A parent's leaf that cannot be read is as good as none.
 */

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define STAGED_MAX 256u /* pages, 1 MiB */

struct intake *intake_new(struct image_writer *image, bool is_task)
{
    struct intake *in = malloc(sizeof(*in));

    if (!in)
        return NULL;
    in->image = image;
    in->batch.count = 0;
    in->limit = is_task ? BATCH_MAX : STAGED_MAX;
    in->counts = (struct store_counts){0};
    in->parent_index = UINT64_MAX;
    in->parent_leaf = NULL;
    in->is_task = is_task;
    in->buffer = malloc((size_t)in->limit * STORE_PAGE_SIZE);
    in->next = NULL;
    if (!in->buffer) {
        free(in);
        return NULL;
    }
    return in;
}

void intake_free(struct intake *in)
{
    if (!in)
        return;
    free(in->buffer);
    free(in);
}

void intake_report(struct intake *in)
{
    store_writer_count(in->image->writer, &in->counts);
    in->counts = (struct store_counts){0};
}

static struct leaf *leaf_of(const struct intake *in, uint64_t page)
{
    return in->image->leaves[page / MAP_FANOUT];
}

/* Fill the place of a page, now and for good unless it is put again. */
static void set_page(const struct intake *in, uint64_t page,
                     const struct chunk_id *id, const struct fingerprint *print)
{
    struct leaf *leaf = leaf_of(in, page);
    size_t i = page % MAP_FANOUT;

    leaf->node.ids[i] = *id;
    leaf->node.fingerprints[i] = *print;
    leaf->slots[i] = 0;
}

/* ---- the batch --------------------------------------------------------- */

int intake_resolve(struct intake *in, struct vn_err *err)
{
    struct batch *batch = &in->batch;
    struct ident_full ids[BATCH_MAX];
    size_t count = batch->count;
    size_t stored;

    if (count == 0)
        return 0;
    ident_pages(&in->image->store->ident, batch->data, count, ids);
    if (store_writer_put(in->image->writer, CHUNK_PAGE, ids, batch->data,
                         STORE_PAGE_SIZE, count, &stored, err) < 0)
        return -1;
    in->counts.bytes_new += stored * STORE_PAGE_SIZE;
    in->counts.bytes_known += (count - stored) * STORE_PAGE_SIZE;
    for (size_t i = 0; i < count; i++) {
        struct leaf *leaf = leaf_of(in, batch->pages[i]);
        size_t place = batch->pages[i] % MAP_FANOUT;

        if (leaf->slots[place] != i + 1)
            continue; /* put again since */
        leaf->node.ids[place] = ident_short(&ids[i]);
        leaf->slots[place] = 0;
    }
    batch->count = 0;
    return 0;
}

void intake_settle(struct intake *in)
{
    for (unsigned i = 0; i < in->batch.count; i++) {
        uint8_t *own = in->buffer + (size_t)i * STORE_PAGE_SIZE;

        if (in->batch.data[i] == own)
            continue;
        memcpy(own, in->batch.data[i], STORE_PAGE_SIZE);
        in->batch.data[i] = own;
    }
}

static int wait_page(struct intake *in, uint64_t page, const uint8_t *data,
                     const struct fingerprint *print, struct vn_err *err)
{
    struct batch *batch = &in->batch;
    struct leaf *leaf = leaf_of(in, page);

    leaf->node.fingerprints[page % MAP_FANOUT] = *print;
    leaf->slots[page % MAP_FANOUT] = (uint16_t)(batch->count + 1);
    batch->pages[batch->count] = page;
    batch->data[batch->count++] = data;
    return batch->count == in->limit ? intake_resolve(in, err) : 0;
}

/* ---- one page ---------------------------------------------------------- */

/* The parent's leaf over the page, or NULL. */
static const struct map_node *parent_leaf(struct intake *in, uint64_t page)
{
    struct image_reader *parent = in->image->parent;
    uint64_t index = page / MAP_FANOUT;
    struct vn_err ignored = VN_ERR_INIT;
    int result;

    if (!parent || page >= in->image->parent_pages)
        return NULL;
    if (in->parent_index == index)
        return in->parent_leaf;
    result = in->is_task
                 ? image_reader_load_leaf(parent, index, &in->parent_space,
                                          &in->parent_leaf, &ignored)
                 : image_reader_leaf(parent, index, &in->parent_leaf, &ignored);
    if (result < 0)
        in->parent_leaf = NULL;
    in->parent_index = index;
    return in->parent_leaf;
}

/* Does the parent have this content at the same place? Then *ret_id. */
static bool parent_has(struct intake *in, uint64_t page,
                       const struct fingerprint *print, struct chunk_id *ret_id)
{
    const struct map_node *leaf = parent_leaf(in, page);
    size_t i = page % MAP_FANOUT;

    if (!leaf || chunk_id_is_zero(&leaf->ids[i]) ||
        memcmp(&leaf->fingerprints[i], print, sizeof(*print)) != 0)
        return false;
    *ret_id = leaf->ids[i];
    return true;
}

int intake_page(struct intake *in, uint64_t page, const uint8_t *data,
                struct vn_err *err)
{
    static const struct fingerprint no_print;
    static const struct chunk_id no_id;
    struct fingerprint print;
    struct chunk_id id;

    in->counts.bytes_read += STORE_PAGE_SIZE;
    if (ident_page_is_zero(data)) {
        in->counts.bytes_zero += STORE_PAGE_SIZE;
        if (leaf_of(in, page))
            set_page(in, page, &no_id, &no_print);
        return 0;
    }
    if (!leaf_of(in, page)) {
        struct leaf *leaf = calloc(1, sizeof(*leaf));

        if (!leaf)
            return vn_fail(err, VN_E_LIMIT, "no memory for the map");
        in->image->leaves[page / MAP_FANOUT] = leaf;
    }
    ident_fingerprint(&in->image->store->ident, data, &print);
    if (parent_has(in, page, &print, &id)) {
        in->counts.bytes_unchanged += STORE_PAGE_SIZE;
        set_page(in, page, &id, &print);
        return 0;
    }
    return wait_page(in, page, data, &print, err);
}
