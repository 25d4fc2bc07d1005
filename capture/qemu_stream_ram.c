/*
 * The payload of RAM sections: the list of blocks, then pages. The current
 * block carries over from record to record, also across sections.
 */

#include "capture/qemu_stream_internal.h"

enum ram_flag {
    RAM_ZERO = 0x02,
    RAM_MEM_SIZE = 0x04,
    RAM_PAGE = 0x08,
    RAM_EOS = 0x10,
    RAM_CONTINUE = 0x20,
};

static step_fn step_list_size, step_list_block;
static step_fn step_record_size, step_record_block, step_fill, step_page;

static int begin_list(struct qemu_stream *s, struct vn_err *err)
{
    uint64_t total = s->word & ~(uint64_t)(QEMU_PAGE_SIZE - 1);

    if (!s->in_start || s->block_count)
        return fail_at(s, err, VN_E_FORMAT, "unexpected list of blocks");
    if (!total)
        return fail_at(s, err, VN_E_FORMAT, "empty list of blocks");
    if (total > QEMU_RAM_MAX)
        return fail_at(s, err, VN_E_LIMIT,
                       "%" PRIu64 " bytes of memory, more than %llu", total,
                       QEMU_RAM_MAX);
    s->list_left = total;
    return expect(s, step_list_size, 1);
}

/* be64: offset | flags */
int qemu_stream_step_word(struct qemu_stream *s, const uint8_t *p,
                          struct vn_err *err)
{
    unsigned flags;

    s->word = be64(p);
    flags = (unsigned)(s->word & (QEMU_PAGE_SIZE - 1));
    if (flags == RAM_MEM_SIZE)
        return begin_list(s, err);
    if (!s->block_count)
        return fail_at(s, err, VN_E_FORMAT,
                       "memory record 0x%" PRIx64 " before the list of blocks",
                       s->word);
    if (s->word == RAM_EOS) {
        s->in_start = false;
        return expect(s, qemu_stream_step_footer, 5);
    }
    switch (flags) {
    case RAM_PAGE:
    case RAM_ZERO:
        return expect(s, step_record_size, 1);
    case RAM_PAGE | RAM_CONTINUE:
    case RAM_ZERO | RAM_CONTINUE:
        break;
    default:
        return fail_at(s, err, VN_E_UNSUPPORTED,
                       "unknown memory record 0x%" PRIx64, s->word);
    }
    if (s->current_block < 0)
        return fail_at(s, err, VN_E_FORMAT, "memory record continues no block");
    if (s->word - flags >= s->blocks[s->current_block].size)
        return fail_at(s, err, VN_E_FORMAT,
                       "page at 0x%" PRIx64 " is outside of block '%s'",
                       s->word - flags, s->blocks[s->current_block].name);
    return flags & RAM_PAGE ? expect(s, step_page, QEMU_PAGE_SIZE)
                            : expect(s, step_fill, 1);
}

static int step_list_size(struct qemu_stream *s, const uint8_t *p,
                          struct vn_err *err)
{
    if (!p[0])
        return fail_at(s, err, VN_E_FORMAT, "block without a name");
    return expect(s, step_list_block, (size_t)p[0] + 8);
}

static int find_block(const struct qemu_stream *s, const uint8_t *name,
                      size_t size)
{
    for (unsigned i = 0; i < s->block_count; i++)
        if (strlen(s->blocks[i].name) == size &&
            !memcmp(s->blocks[i].name, name, size))
            return (int)i;
    return -1;
}

/* name, be64 size */
static int step_list_block(struct qemu_stream *s, const uint8_t *p,
                           struct vn_err *err)
{
    size_t name_size = s->need - 8;
    uint64_t size = be64(p + name_size);
    struct qemu_block *block = &s->blocks[s->block_count];

    if (s->block_count == QEMU_BLOCKS_MAX)
        return fail_at(s, err, VN_E_LIMIT, "more than %u blocks",
                       QEMU_BLOCKS_MAX);
    if (qemu_stream_check_block((const char *)p, name_size, size, err) < 0)
        return vn_wrap(err, "at byte %" PRIu64, s->offset);
    if (find_block(s, p, name_size) >= 0)
        return fail_at(s, err, VN_E_FORMAT, "block '%.*s' twice",
                       (int)name_size, (const char *)p);
    if (size > s->list_left)
        return fail_at(s, err, VN_E_FORMAT,
                       "block '%.*s' has %" PRIu64
                       " bytes, more than the %" PRIu64 " left of the total",
                       (int)name_size, (const char *)p, size, s->list_left);
    memcpy(block->name, p, name_size);
    block->size = size;
    s->block_count++;
    s->list_left -= size;
    if (s->list_left)
        return expect(s, step_list_size, 1);
    if (s->sink.blocks(s->sink.context, s->blocks, s->block_count, err) < 0)
        return -1;
    return expect(s, qemu_stream_step_word, 8);
}

static int step_record_size(struct qemu_stream *s, const uint8_t *p,
                            struct vn_err *err)
{
    if (!p[0])
        return fail_at(s, err, VN_E_FORMAT, "memory record without a name");
    return expect(s, step_record_block, p[0]);
}

static int step_record_block(struct qemu_stream *s, const uint8_t *p,
                             struct vn_err *err)
{
    uint64_t offset = s->word & ~(uint64_t)(QEMU_PAGE_SIZE - 1);
    int block = find_block(s, p, s->need);

    if (block < 0)
        return fail_at(s, err, VN_E_FORMAT, "page of an unlisted block");
    if (offset >= s->blocks[block].size)
        return fail_at(s, err, VN_E_FORMAT,
                       "page at 0x%" PRIx64 " is outside of block '%s'", offset,
                       s->blocks[block].name);
    s->current_block = block;
    return s->word & RAM_PAGE ? expect(s, step_page, QEMU_PAGE_SIZE)
                              : expect(s, step_fill, 1);
}

static int take_page(struct qemu_stream *s, const uint8_t *page,
                     struct vn_err *err)
{
    s->ram_began = true;
    if (s->sink.page(s->sink.context, (unsigned)s->current_block,
                     s->word & ~(uint64_t)(QEMU_PAGE_SIZE - 1), page, err) < 0)
        return -1;
    return expect(s, qemu_stream_step_word, 8);
}

/* u8 fill byte of a ZERO record */
static int step_fill(struct qemu_stream *s, const uint8_t *p,
                     struct vn_err *err)
{
    if (p[0] != 0)
        return fail_at(s, err, VN_E_UNSUPPORTED,
                       "page filled with 0x%02x, not zero", p[0]);
    return take_page(s, NULL, err);
}

static int step_page(struct qemu_stream *s, const uint8_t *p,
                     struct vn_err *err)
{
    return take_page(s, p, err);
}
