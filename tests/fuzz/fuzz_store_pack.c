/*
 * A whole pack from anywhere: parse it, decode every chunk that it names. Once
 * as it is, and once with its checks made right, so that mutations come
 * further than the first of them.
 */

#include "store/pack.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void parse(const uint8_t *data, size_t size)
{
    struct vn_err err = VN_ERR_INIT;
    char damage[128];
    struct pack pack;

    if (pack_parse(data, size, &pack, damage, &err) < 0)
        return;
    for (uint32_t i = 0; i < pack.count; i++) {
        const struct pack_entry *e = &pack.entries[i];
        uint8_t *out = malloc(pack_raw_limit(e->kind));
        size_t raw;

        if (out &&
            pack_decode(e->kind, e->codec, data + e->offset, e->stored_size,
                        out, &raw, &err) == 0 &&
            raw > pack_raw_limit(e->kind))
            abort();
        free(out);
    }
    pack_done(&pack);
}

static void repair_checks(uint8_t *data, size_t size)
{
    uint8_t *footer = data + size - PACK_FOOTER_SIZE;
    uint64_t offset;

    memcpy(&offset, footer + 16, sizeof(offset));
    offset = le64toh(offset);
    if (offset >= PACK_HEADER_SIZE && offset <= size - PACK_FOOTER_SIZE) {
        ident_check(data + PACK_HEADER_SIZE, offset - PACK_HEADER_SIZE,
                    footer + 32);
        ident_check(data + offset, size - PACK_FOOTER_SIZE - offset,
                    footer + 48);
    }
    ident_check(data, PACK_HEADER_SIZE - 16, data + PACK_HEADER_SIZE - 16);
    ident_check(footer, PACK_FOOTER_SIZE - 16, footer + PACK_FOOTER_SIZE - 16);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size + 1);

    parse(data, size);
    if (copy && size >= PACK_HEADER_SIZE + PACK_FOOTER_SIZE) {
        memcpy(copy, data, size);
        repair_checks(copy, size);
        parse(copy, size);
    }
    free(copy);
    return 0;
}
