#ifndef TESTS_UNIT_XEN_REFUSALS_H
#define TESTS_UNIT_XEN_REFUSALS_H

/*
 * For tests that make streams of saved Xen domains wrong in one place: each is
 * refused for that, with the right code and the offset.
 */

#include "capture/xen_stream.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "unit/xen_stream_builder.h"

static inline int setup(void **state)
{
    struct buf *b = vn_alloc(sizeof(*b));

    buf_init(b, 192 << 20);
    *state = b;
    return 0;
}

static inline int teardown(void **state)
{
    struct buf *b = *state;

    buf_done(b);
    free(b);
    return 0;
}

static inline int take_page(void *context, uint64_t pfn, unsigned type,
                            const void *page, struct vn_err *err)
{
    (void)context, (void)pfn, (void)type, (void)page, (void)err;
    return 0;
}

/* Feed it in portions, then finish. */
static inline int run(const struct buf *b, size_t portion, struct vn_err *err)
{
    const struct xen_stream_sink sink = {take_page, NULL};
    vn_auto(xen_stream) struct xen_stream *stream = xen_stream_new(&sink);

    for (size_t done = 0; done < b->size; done += portion) {
        size_t n = b->size - done < portion ? b->size - done : portion;

        if (xen_stream_feed(stream, b->data + done, n, err) < 0)
            return -1;
    }
    return xen_stream_finish(stream, err);
}

static inline void build_hvm(struct buf *b)
{
    xb_begin(b, XB_HVM);
    xb_page(b, 0, 1, 'a');
    xb_tail(b, XB_HVM);
}

/* A stream that is wrong, and what the refusal says. */
struct refusal {
    void (*build)(struct buf *b);
    int code;
    const char *text; /* in the message */
};

static inline void assert_refused(struct buf *b, const struct refusal *refusals,
                                  size_t count)
{
    for (size_t i = 0; i < count; i++) {
        static const size_t sizes[] = {1 << 20, 3};

        b->size = 0;
        refusals[i].build(b);
        for (size_t j = 0; j < VN_COUNT(sizes); j++) {
            struct vn_err err = VN_ERR_INIT;

            if (run(b, sizes[j], &err) == 0)
                fail_msg("%zu: not refused: '%s'", i, refusals[i].text);
            if (!strstr(err.msg, refusals[i].text) ||
                strncmp(err.msg, "at byte ", 8) != 0)
                fail_msg("%zu: '%s' is not in '%s'", i, refusals[i].text,
                         err.msg);
            if (err.code != refusals[i].code)
                fail_msg("%zu: code %d for '%s'", i, err.code, err.msg);
        }
    }
}

#endif
