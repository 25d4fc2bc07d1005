#ifndef TESTS_UNIT_STREAM_BUILDER_H
#define TESTS_UNIT_STREAM_BUILDER_H

/*
 * Migration streams built piece by piece, for tests: each call appends one
 * piece of the grammar (docs/formats/qemu-stream.md), right or wrong.
 */

#include "common/buf.h"

#include <stdint.h>
#include <string.h>

enum { SB_ZERO = 2, SB_MEM = 4, SB_PAGE = 8, SB_EOS = 16, SB_CONT = 32 };
#define SB_RAM_ID 2u

static inline void sb_name(struct buf *b, const char *name)
{
    buf_put_u8(b, (uint8_t)strlen(name));
    buf_put(b, name, strlen(name));
}

static inline void sb_head(struct buf *b, const char *machine)
{
    buf_put(b, "QEVM\0\0\0\3\7", 9);
    buf_put_be32(b, (uint32_t)strlen(machine));
    buf_put(b, machine, strlen(machine));
}

static inline void sb_subsection(struct buf *b, const char *name)
{
    buf_put_u8(b, 5);
    sb_name(b, name);
    buf_put_be32(b, 1);
}

static inline void sb_section(struct buf *b, uint8_t type, uint32_t id)
{
    buf_put_u8(b, type);
    buf_put_be32(b, id);
}

static inline void sb_start(struct buf *b, const char *name, uint32_t instance,
                            uint32_t version)
{
    sb_section(b, 1, SB_RAM_ID);
    sb_name(b, name);
    buf_put_be32(b, instance);
    buf_put_be32(b, version);
}

static inline void sb_block(struct buf *b, const char *name, uint64_t size)
{
    sb_name(b, name);
    buf_put_be64(b, size);
}

/* End of payload and footer. */
static inline void sb_end(struct buf *b)
{
    buf_put_be64(b, SB_EOS);
    sb_section(b, 0x7e, SB_RAM_ID);
}

/* A page filled with `fill`; block NULL: the same as before. */
static inline void sb_page(struct buf *b, const char *block, uint64_t offset,
                           uint8_t fill)
{
    uint8_t page[4096];

    memset(page, fill, sizeof(page));
    buf_put_be64(b, offset | SB_PAGE | (block ? 0 : SB_CONT));
    if (block)
        sb_name(b, block);
    buf_put(b, page, sizeof(page));
}

static inline void sb_zero(struct buf *b, const char *block, uint64_t offset)
{
    buf_put_be64(b, offset | SB_ZERO | (block ? 0 : SB_CONT));
    if (block)
        sb_name(b, block);
    buf_put_u8(b, 0);
}

/* Head and a START section listing "a" (4 pages) and "b/c" (2 pages). */
static inline void sb_begin(struct buf *b)
{
    sb_head(b, "pc-test-1.0");
    sb_start(b, "ram", 0, 4);
    buf_put_be64(b, 6 * 4096 | SB_MEM);
    sb_block(b, "a", 4 * 4096);
    sb_block(b, "b/c", 2 * 4096);
    sb_end(b);
}

/* One FULL section, the end mark and, unless NULL, a description. */
static inline void sb_device_state(struct buf *b, const char *description)
{
    sb_section(b, 4, 9);
    sb_name(b, "cpu");
    buf_put_be32(b, 0);
    buf_put_be32(b, 1);
    buf_put(b, "registers", 9);
    sb_section(b, 0x7e, 9);
    buf_put_u8(b, 0);
    if (description) {
        buf_put_u8(b, 6);
        buf_put_be32(b, (uint32_t)strlen(description));
        buf_put(b, description, strlen(description));
    }
}

#endif
