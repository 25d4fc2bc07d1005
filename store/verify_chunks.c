#include "store/verify_internal.h"

/*
 * Verify: which chunks of a pack in memory are whole? Nothing else is touched,
 * neither index nor findings (verify_pack.c does that).
 *
 * Pages, nearly all there is, are decoded and hashed sixteen at a time, which
 * takes a third of the time of one by one.
 */

#include <stdlib.h>
#include <string.h>

/* Pages that wait to be hashed together. */
struct page_batch {
    uint8_t data[IDENT_BATCH][STORE_PAGE_SIZE];
    size_t numbers[IDENT_BATCH]; /* their entries */
    size_t count;
};

static void hash_pages(const struct ident *ident, const struct pack *pack,
                       struct page_batch *batch, bool *ret_whole)
{
    const uint8_t *pages[IDENT_BATCH];
    struct ident_full ids[IDENT_BATCH];

    for (size_t i = 0; i < batch->count; i++)
        pages[i] = batch->data[i];
    ident_pages(ident, pages, batch->count, ids);
    for (size_t i = 0; i < batch->count; i++)
        ret_whole[batch->numbers[i]] =
            memcmp(&ids[i], &pack->entries[batch->numbers[i]].id,
                   sizeof(ids[i])) == 0;
    batch->count = 0;
}

/* Decode a page into the batch; one that cannot be is not whole. */
static void add_page(const struct pack *pack, const uint8_t *data, size_t i,
                     struct page_batch *batch)
{
    const struct pack_entry *entry = &pack->entries[i];
    struct vn_err ignored = VN_ERR_INIT;
    size_t size;

    if (pack_decode(CHUNK_PAGE, entry->codec, data + entry->offset,
                    entry->stored_size, batch->data[batch->count], &size,
                    &ignored) < 0 ||
        size != STORE_PAGE_SIZE || entry->raw_size != STORE_PAGE_SIZE)
        return;
    batch->numbers[batch->count++] = i;
}

static bool other_is_whole(const struct ident *ident,
                           const struct pack_entry *entry, const uint8_t *data)
{
    vn_auto(free) uint8_t *out = malloc(pack_raw_limit(entry->kind));
    struct vn_err ignored = VN_ERR_INIT;

    return out &&
           chunk_check(ident, entry, data + entry->offset, out, &ignored) == 0;
}

void verify_chunks(const struct store *store, const struct pack *pack,
                   const uint8_t *data, bool *ret_whole)
{
    vn_auto(free) struct page_batch *batch = vn_alloc(sizeof(*batch));
    struct ident ident;

    ident_in_domain(&store->ident, pack->domain, &ident);
    for (size_t i = 0; i < pack->count; i++) {
        ret_whole[i] = false;
        if (pack->entries[i].kind == CHUNK_PAGE)
            add_page(pack, data, i, batch);
        else
            ret_whole[i] = other_is_whole(&ident, &pack->entries[i], data);
        if (batch->count == IDENT_BATCH)
            hash_pages(&ident, pack, batch, ret_whole);
    }
    hash_pages(&ident, pack, batch, ret_whole);
}
