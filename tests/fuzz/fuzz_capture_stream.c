/*
 * Fuzz target: the migration stream's parser. Beside not crashing it must
 * give the same answer however the bytes are cut into portions, never report
 * a page outside of its block, and what it accepts must survive the way
 * through the manifest.
 */

#include "capture/qemu_objects.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct seen {
    struct qemu_block blocks[QEMU_BLOCKS_MAX];
    unsigned block_count;
    uint64_t digest; /* of all calls in their order */
};

static void add(struct seen *seen, uint64_t value)
{
    seen->digest = (seen->digest ^ value) * 0x100000001b3u;
}

static int see_blocks(void *context, const struct qemu_block *blocks,
                      unsigned count, struct vn_err *err)
{
    struct seen *seen = context;

    (void)err;
    assert(!seen->block_count && count > 0 && count <= QEMU_BLOCKS_MAX);
    memcpy(seen->blocks, blocks, count * sizeof(*blocks));
    seen->block_count = count;
    for (unsigned i = 0; i < count; i++) {
        assert(blocks[i].size && blocks[i].size % QEMU_PAGE_SIZE == 0);
        add(seen, blocks[i].size);
    }
    return 0;
}

static int see_page(void *context, unsigned block, uint64_t offset,
                    const void *page, struct vn_err *err)
{
    struct seen *seen = context;
    const uint8_t *p = page;

    (void)err;
    assert(block < seen->block_count);
    assert(offset < seen->blocks[block].size && offset % QEMU_PAGE_SIZE == 0);
    add(seen, block);
    add(seen, offset);
    for (unsigned i = 0; p && i < QEMU_PAGE_SIZE; i += 64)
        add(seen, p[i]);
    return 0;
}

static void check_round_trip(const struct qemu_stream *stream)
{
    json_t *json = qemu_state_to_json(stream, "7.2.22");
    struct qemu_state *state = vn_alloc(sizeof(*state));
    struct vn_err err = VN_ERR_INIT;
    const struct qemu_block *blocks;
    unsigned count;

    if (qemu_state_from_json(json, state, &err) < 0)
        abort();
    blocks = qemu_stream_blocks(stream, &count);
    assert(state->block_count == count);
    for (unsigned i = 0; i < count; i++)
        assert(!strcmp(state->blocks[i].name, blocks[i].name));
    assert(state->head.size == qemu_stream_head(stream)->size);
    qemu_state_done(state);
    free(state);
    json_decref(json);
}

/* Portions of 1 + step % 97 bytes; step 0: all at once. Returns the code. */
static int run(const uint8_t *data, size_t size, unsigned step,
               struct seen *seen)
{
    const struct qemu_stream_sink sink = {see_blocks, see_page, seen};
    vn_auto(qemu_stream) struct qemu_stream *stream = qemu_stream_new(&sink);
    struct vn_err err = VN_ERR_INIT;
    size_t done = 0;

    memset(seen, 0, sizeof(*seen));
    while (done < size) {
        size_t n = step ? 1 + step % 97 : size;

        if (n > size - done)
            n = size - done;
        step = step * 5 + (step != 0);
        if (qemu_stream_feed(stream, data + done, n, &err) < 0)
            return err.code;
        done += n;
    }
    if (qemu_stream_finish(stream, &err) < 0)
        return err.code;
    check_round_trip(stream);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct seen whole, cut;
    int code = run(data, size, 0, &whole);

    if (run(data, size, 1 + (unsigned)(size % 1000), &cut) != code ||
        whole.digest != cut.digest)
        abort();
    return 0;
}
