/*
 * Fuzz target: the parser of saved Xen domains, all framings, into a memory of
 * few pages. Beside not crashing it must give the same answer, in the same
 * words, however the bytes are cut into portions; every page must be one that
 * a store can hold; the memory must count what the parser handed out; and the
 * parts of a stream that was accepted must pass their own checks.
 */

#include "capture/xen_memory.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define MEMORY_PAGES 24u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct seen {
    struct xen_memory *memory;
    uint64_t digest; /* of all calls in their order */
    uint64_t pfn_end, received;
    struct vn_err err;
};

static void add(struct seen *seen, uint64_t value)
{
    seen->digest = (seen->digest ^ value) * 0x100000001b3u;
}

static int see_page(void *context, uint64_t pfn, unsigned type,
                    const void *page, struct vn_err *err)
{
    struct seen *seen = context;
    const uint8_t *p = page;

    assert(pfn < XEN_PFN_MAX && type <= XEN_PAGE_XTAB);
    assert(type < 5 || type > 8);
    assert(xen_page_has_data(type) == (p != NULL));
    if (type != XEN_PAGE_XTAB && pfn >= seen->pfn_end)
        seen->pfn_end = pfn + 1;
    add(seen, pfn);
    add(seen, type);
    for (unsigned i = 0; p && i < XEN_PAGE_SIZE; i += 64)
        add(seen, p[i]);
    seen->received += p != NULL;
    if (seen->received == 9)
        xen_memory_freeze(seen->memory);
    return xen_memory_page(seen->memory, pfn, type, page, err);
}

static void check_parts(const struct xen_stream *stream)
{
    const struct buf *head = xen_stream_head(stream);
    const struct buf *tail = xen_stream_tail(stream);
    const struct buf *emulator = xen_stream_emulator(stream);
    enum xen_domain_type type = xen_stream_domain_type(stream);
    struct vn_err err = VN_ERR_INIT;

    if (xen_stream_check_head(head->data, head->size, type, &err) < 0 ||
        xen_stream_check_tail(tail->data, tail->size, type, &err) < 0 ||
        xen_stream_check_emulator(emulator->data, emulator->size, &err) < 0)
        abort();
    assert(emulator->size == 0 || type == XEN_DOMAIN_HVM);
}

static void check_result(const struct xen_stream *stream,
                         const struct seen *seen)
{
    const char *config = xen_stream_config(stream);
    struct xen_memory_counts counts;
    uint64_t bytes;
    uint32_t count;
    const uint64_t *frames = xen_stream_p2m_frames(stream, &count, &bytes);

    assert(xen_stream_is_complete(stream));
    assert(xen_stream_pfn_end(stream) == seen->pfn_end);
    assert(!config || strlen(config) < XEN_CONFIG_MAX);
    assert(!config || xen_stream_framing(stream) == XEN_FRAMING_XL);
    assert((count == 0) == (xen_stream_domain_type(stream) == XEN_DOMAIN_HVM));
    assert(bytes <= (uint64_t)count * XEN_PAGE_SIZE);
    for (uint32_t i = 0; i < count; i++)
        assert(frames[i] < XEN_PFN_MAX);
    xen_memory_counts(seen->memory, &counts);
    assert(counts.received == seen->received);
    assert(counts.pages <= counts.received);
    assert(xen_memory_lost(seen->memory) <= counts.pages);
    check_parts(stream);
}

static int feed(struct xen_stream *stream, const uint8_t *data, size_t size,
                unsigned step, struct vn_err *err)
{
    size_t done = 0;

    while (done < size) {
        size_t n = step ? 1 + step % 997 : size;

        if (n > size - done)
            n = size - done;
        step = step * 5 + (step != 0);
        if (xen_stream_feed(stream, data + done, n, err) < 0)
            return -1;
        done += n;
    }
    return xen_stream_finish(stream, err);
}

/* Portions of 1 + step % 997 bytes; step 0: all at once. */
static void run(const uint8_t *data, size_t size, unsigned step,
                struct seen *seen)
{
    const struct xen_stream_sink sink = {see_page, seen};
    vn_auto(xen_stream) struct xen_stream *stream = xen_stream_new(&sink);
    vn_auto(xen_memory) struct xen_memory *memory =
        xen_memory_new(MEMORY_PAGES * XEN_PAGE_SIZE);

    memset(seen, 0, sizeof(*seen));
    seen->memory = memory;
    if (feed(stream, data, size, step, &seen->err) == 0)
        check_result(stream, seen);
}

/* The bytes behind libxc's headers as parts of a snapshot, whose writer may
 * have been anybody. No bytes are two of them at once. */
static void check_as_parts(const uint8_t *data, size_t size)
{
    size_t skip = size > 40 ? 40 : 0;

    for (int i = XEN_DOMAIN_PV; i <= XEN_DOMAIN_HVM; i++) {
        enum xen_domain_type type = (enum xen_domain_type)i;
        struct vn_err err = VN_ERR_INIT;
        bool head =
            !xen_stream_check_head(data + skip, size - skip, type, &err);
        bool tail =
            !xen_stream_check_tail(data + skip, size - skip, type, &err);
        bool model = !xen_stream_check_emulator(data + skip, size - skip, &err);

        assert(head + tail + (model && size > skip) <= 1);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct seen whole, cut;

    run(data, size, 0, &whole);
    run(data, size, 1 + (unsigned)(size % 1000), &cut);
    if (whole.err.code != cut.err.code || strcmp(whole.err.msg, cut.err.msg) ||
        whole.digest != cut.digest)
        abort();
    check_as_parts(data, size);
    return 0;
}
