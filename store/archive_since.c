#include "store/archive_internal.h"

/*
 * What an incremental tar needs to know of its base.
 *
 * Within one domain of a store equal ids are equal pages, so two images are
 * compared by the leaves of their maps, 16 KiB for 2 MiB, without reading a
 * page. Between stores ids say nothing - each store has a key of its own - so
 * the base is named by the sums of its objects.
 */

#include "store/store_internal.h"

#include <stdlib.h>
#include <string.h>

int archive_sum_image(struct store *store, const struct map_root *root,
                      char hex[ARCHIVE_HEX_SIZE], struct vn_err *err)
{
    vn_auto(image_reader) struct image_reader *image =
        image_reader_open(store, root, err);
    vn_auto(free) uint8_t *block = vn_alloc(ARCHIVE_BLOCK_SIZE);
    vn_auto(sum) EVP_MD_CTX *sum = archive_sum_new();
    uint64_t done = 0;

    while (image && done < root->size) {
        uint64_t start, size;

        if (image_reader_next_data(image, done, &start, &size, err) < 0)
            return -1;
        if (size > ARCHIVE_BLOCK_SIZE)
            size = ARCHIVE_BLOCK_SIZE;
        archive_sum_zeros(sum, start - done);
        if (size > 0 &&
            image_reader_read(image, start, block, (size_t)size, err) < 0)
            return -1;
        archive_sum_add(sum, block, (size_t)size);
        done = start + size;
    }
    if (!image)
        return -1;
    archive_sum_end(sum, hex);
    return 0;
}

static bool same_page(const struct map_node *a, const struct map_node *b,
                      size_t i)
{
    static const struct chunk_id zero;

    return chunk_id_compare(a ? &a->ids[i] : &zero, b ? &b->ids[i] : &zero) ==
           0;
}

int archive_runs_between(struct image_reader *image, struct image_reader *base,
                         uint64_t size, struct archive_runs *runs,
                         struct vn_err *err)
{
    const uint64_t leaf_size = (uint64_t)MAP_FANOUT * STORE_PAGE_SIZE;

    for (uint64_t at = 0; at < size; at += leaf_size) {
        const struct map_node *a, *b;

        if (image_reader_leaf(image, at / leaf_size, &a, err) < 0 ||
            image_reader_leaf(base, at / leaf_size, &b, err) < 0)
            return -1;
        for (size_t i = 0; i < MAP_FANOUT; i++) {
            uint64_t start = at + i * STORE_PAGE_SIZE;
            uint64_t left = start < size ? size - start : 0;

            if (left > 0 && !same_page(a, b, i))
                archive_runs_add(runs, start,
                                 left < STORE_PAGE_SIZE ? left
                                                        : STORE_PAGE_SIZE);
        }
    }
    return 0;
}
