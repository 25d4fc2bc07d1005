#include "crash/digest.h"

#include <stdlib.h>
#include <xxhash.h>

#define SIZE_MAX_READ (16u << 20)

uint64_t digest_of(const void *image, size_t image_size, const void *state,
                   size_t state_size)
{
    return XXH3_64bits(image, image_size) * 31 +
           XXH3_64bits(state, state_size) + image_size + 7 * state_size;
}

static uint8_t *read_object(struct store *store, const json_t *manifest,
                            const char *name, size_t *ret_size,
                            struct vn_err *err)
{
    vn_auto(image_reader) struct image_reader *reader = NULL;
    vn_auto(free) uint8_t *data = NULL;
    struct map_root root;

    if (manifest_object(manifest, name, &root, err) < 0)
        return NULL;
    if (root.size > SIZE_MAX_READ)
        return vn_fail_ptr(err, VN_E_LIMIT, "'%s' has grown", name);
    reader = image_reader_open(store, &root, err);
    data = vn_alloc(root.size + 1);
    if (!reader || image_reader_read(reader, 0, data, root.size, err) < 0)
        return NULL;
    *ret_size = root.size;
    return vn_steal(&data);
}

int digest_read(struct store *store, const json_t *manifest, uint64_t *ret,
                struct vn_err *err)
{
    size_t image_size = 0;
    size_t state_size = 0;
    vn_auto(free) uint8_t *image =
        read_object(store, manifest, DIGEST_IMAGE, &image_size, err);
    vn_auto(free) uint8_t *state =
        image ? read_object(store, manifest, DIGEST_STATE, &state_size, err)
              : NULL;

    if (!state)
        return -1;
    *ret = digest_of(image, image_size, state, state_size);
    return 0;
}
