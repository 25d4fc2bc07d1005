/*
 * A push parser for the streams in which Xen saves a domain.
 *
 * Purpose. A domain's memory and state reach us as such a stream: from libxc
 * in our own process, from libxl for HVM, or from a file that somebody saved
 * with xl. The latter is hostile. The parser cuts a stream into the memory
 * (pages, handed out one by one), the records before it (head), those after
 * it (tail), and what libxl and xl put around. Grammar and reasons:
 * docs/formats/xen-stream.md.
 *
 * How. Headers and the heads of records are steps of a known number of bytes
 * (`need`), gathered in `scratch` where a portion ends inside of one. Bodies
 * are taken as they come: into a part (MODE_KEEP), past (MODE_SKIP), or as
 * PAGE_DATA: first the list of entries, which must come to the record's length
 * before any page is handed out, then the pages. A page that lies whole in the
 * caller's buffer is handed out from there, so a portion of 1 MiB costs one
 * copied page at most.
 *
 * A record's place and length are checked when its head is read, its body when
 * it is whole (xen_stream_rules.c; the same rules hold for parts that come back
 * from a snapshot).
 *
 * Invariants. Memory grows with bytes that came, never with a length that was
 * announced: a part by doubling to XEN_PARTS_MAX, the entries of a PAGE_DATA to
 * 128 MiB. Every page() is below XEN_PFN_MAX, in a PV domain also below the
 * size of its p2m. The parts are whole records and would pass their checks.
 *
 * Normalised: a stream of version 2 has no STATIC_DATA_END; one is put into the
 * head where Xen's specification infers it, so that all heads are alike.
 *
 * Not done: the second and later checkpoints of Remus, COLO, VERIFY passes,
 * streams of big-endian hosts, and streams converted from before Xen 4.6 that
 * mix memory and state.
 *
 * Concurrency: none; one thread feeds a stream.
 */

#include "capture/xen_stream_internal.h"

#include <stdlib.h>

bool xen_page_has_data(unsigned type)
{
    return type <= 0x4 || (type >= 0x9 && type <= 0xc);
}

struct xen_stream *xen_stream_new(const struct xen_stream_sink *sink)
{
    struct xen_stream *s = vn_alloc(sizeof(*s));

    s->sink = *sink;
    buf_init(&s->head, XEN_PARTS_MAX);
    buf_init(&s->tail, XEN_PARTS_MAX);
    buf_init(&s->emulator, XEN_PARTS_MAX);
    buf_init(&s->config, XEN_CONFIG_MAX);
    expect(s, xen_stream_step_magic, 8);
    return s;
}

void xen_stream_free(struct xen_stream *stream)
{
    if (!stream)
        return;
    buf_done(&stream->head);
    buf_done(&stream->tail);
    buf_done(&stream->emulator);
    buf_done(&stream->config);
    free(stream->p2m_frames);
    free(stream->entries);
    free(stream);
}

/* ---- feeding ----------------------------------------------------------- */

static int take_step(struct xen_stream *s, const uint8_t **p, size_t *size,
                     struct vn_err *err)
{
    size_t need = s->need, part = need - s->have;
    const uint8_t *bytes = s->scratch;

    if (part > *size)
        part = *size;
    if (part == need)
        bytes = *p;
    else
        memcpy(s->scratch + s->have, *p, part);
    *p += part;
    *size -= part;
    s->have += part;
    if (s->have < need)
        return 0;
    s->have = 0;
    if (s->step(s, bytes, err) < 0)
        return -1;
    s->offset += need;
    return 0;
}

static int take_kept(struct xen_stream *s, const uint8_t **p, size_t *size,
                     struct vn_err *err)
{
    size_t part = s->left < *size ? (size_t)s->left : *size;

    buf_put(s->keep, *p, part);
    if (s->keep->broken)
        return fail_record(s, err, VN_E_LIMIT,
                           "the records here have more than %zu bytes in all",
                           s->keep->limit);
    *p += part;
    *size -= part;
    s->offset += part;
    s->left -= part;
    return s->left ? 0 : s->end_keep(s, err);
}

static void take_skipped(struct xen_stream *s, const uint8_t **p, size_t *size)
{
    size_t part = s->left < *size ? (size_t)s->left : *size;

    *p += part;
    *size -= part;
    s->offset += part;
    s->left -= part;
    if (!s->left)
        s->mode = XEN_MODE_STEP;
}

static int feed(struct xen_stream *s, const uint8_t *p, size_t size,
                struct vn_err *err)
{
    while (size) {
        int r = 0;

        switch (s->mode) {
        case XEN_MODE_STEP:
            r = take_step(s, &p, &size, err);
            break;
        case XEN_MODE_KEEP:
            r = take_kept(s, &p, &size, err);
            break;
        case XEN_MODE_SKIP:
            take_skipped(s, &p, &size);
            break;
        case XEN_MODE_PFNS:
            r = xen_stream_take_pfns(s, &p, &size, err);
            break;
        case XEN_MODE_PAGES:
            r = xen_stream_take_pages(s, &p, &size, err);
            break;
        }
        if (r < 0)
            return -1;
    }
    return 0;
}

int xen_stream_feed(struct xen_stream *stream, const void *data, size_t size,
                    struct vn_err *err)
{
    int r;

    assert(!stream->failed && !stream->finished);
    r = feed(stream, data, size, err);
    stream->failed = r < 0;
    return r;
}

bool xen_stream_is_complete(const struct xen_stream *stream)
{
    return stream->complete;
}

int xen_stream_finish(struct xen_stream *stream, struct vn_err *err)
{
    assert(!stream->failed && !stream->finished);
    if (!stream->complete) {
        stream->failed = true;
        return vn_fail(err, VN_E_FORMAT,
                       "the domain's stream ended after %" PRIu64
                       " bytes, before its end record",
                       stream->offset + stream->have);
    }
    stream->finished = true;
    return 0;
}

int xen_stream_step_too_much(struct xen_stream *s, const uint8_t *p,
                             struct vn_err *err)
{
    (void)p;
    return fail_at(s, err, VN_E_FORMAT, "bytes after the end of the stream");
}

/* ---- answers ----------------------------------------------------------- */

enum xen_framing xen_stream_framing(const struct xen_stream *stream)
{
    return stream->framing;
}

enum xen_domain_type xen_stream_domain_type(const struct xen_stream *stream)
{
    return stream->rules.type;
}

uint64_t xen_stream_pfn_end(const struct xen_stream *stream)
{
    return stream->pfn_end;
}

const struct buf *xen_stream_head(const struct xen_stream *stream)
{
    return &stream->head;
}

const struct buf *xen_stream_tail(const struct xen_stream *stream)
{
    return &stream->tail;
}

const struct buf *xen_stream_emulator(const struct xen_stream *stream)
{
    return &stream->emulator;
}

const char *xen_stream_config(const struct xen_stream *stream)
{
    return (const char *)stream->config.data;
}

void xen_stream_version(const struct xen_stream *stream, unsigned *ret_major,
                        unsigned *ret_minor)
{
    *ret_major = stream->major;
    *ret_minor = stream->minor;
}

const uint64_t *xen_stream_p2m_frames(const struct xen_stream *stream,
                                      uint32_t *ret_count, uint64_t *ret_bytes)
{
    *ret_count = stream->p2m_frame_count;
    *ret_bytes = stream->rules.p2m_count * stream->rules.width;
    return stream->p2m_frames;
}
