#include "store/store_internal.h"

/*
 * Both ends of a pack - header, directory, footer - read and checked without
 * its chunks: what is in it, for a hundredth of the reading.
 */

#include <stdlib.h>

/* Read from the directory to the end. Caller frees. */
static uint8_t *read_tail(struct engine *engine, uint64_t pack_id,
                          uint64_t size, size_t *ret_size, struct vn_err *err)
{
    uint8_t footer[PACK_FOOTER_SIZE];
    vn_auto(free) uint8_t *tail = NULL;
    uint64_t offset;

    if (engine_read(engine, pack_id, size - sizeof(footer), footer,
                    sizeof(footer), err) < 0 ||
        pack_directory_offset(footer, size, &offset, err) < 0)
        return NULL;
    tail = malloc(size - offset);
    if (!tail)
        return vn_fail_ptr(err, VN_E_LIMIT, "no memory for a directory");
    if (engine_read(engine, pack_id, offset, tail, size - offset, err) < 0)
        return NULL;
    *ret_size = size - offset;
    return vn_steal(&tail);
}

int pack_read_ends(struct engine *engine, uint64_t pack_id, uint64_t size,
                   struct pack *ret, char ret_damage[128], struct vn_err *err)
{
    uint8_t header[PACK_HEADER_SIZE];
    vn_auto(free) uint8_t *tail = NULL;
    size_t tail_size;

    if (size < PACK_HEADER_SIZE + PACK_FOOTER_SIZE || size > PACK_SIZE_MAX)
        return vn_fail(err, VN_E_CORRUPT, "it has %llu bytes",
                       (unsigned long long)size);
    tail = read_tail(engine, pack_id, size, &tail_size, err);
    if (!tail ||
        engine_read(engine, pack_id, 0, header, sizeof(header), err) < 0)
        return -1;
    return pack_parse_ends(header, tail, tail_size, size, ret, ret_damage, err);
}
