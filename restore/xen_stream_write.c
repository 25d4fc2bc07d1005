/*
 * Synthesis of a saved Xen domain.
 *
 * Purpose. The inverse of capture/xen_stream.c: from the objects of a snapshot
 * a stream that libxc, libxl or xl accepts (grammar: docs/formats/
 * xen-stream.md).
 *
 * How. Heads; the static records as they were; the memory; the tail, put into
 * the specification's order (restore/xen_records.h) when the source is opened;
 * the ends. libxl's and xl's framing are constant bytes around that, but for
 * the device-model records and the configuration.
 *
 * The memory (restore/xen_pages.h) comes before HVM_PARAMS, which make the
 * reader clear the pages of rings: a page sent later would put the old ring
 * back.
 *
 * Invariants. All records are multiples of 8 bytes, so there is no padding to
 * write. Of the snapshot nothing is sent unchecked but the pages.
 *
 * Concurrency: one thread writes; nothing is shared but the store.
 *
 * Not done: order by use (lazy loading); checkpointed streams.
 */

#include "restore/xen_stream_write.h"

#include "capture/qemu_objects.h"
#include "capture/vm_xen.h"
#include "capture/xen_objects.h"
#include "common/buf.h"
#include "common/io.h"
#include "restore/xen_config.h"
#include "restore/xen_pages.h"
#include "restore/xen_records.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define LIBXC_MARKER  0xffffffffffffffffull
#define LIBXC_ID      0x58454e46u /* "XENF" */
#define LIBXC_VERSION 3u
#define LIBXL_ID      0x4c6962786c466d74ull /* "LibxlFmt" */
#define LIBXL_VERSION 2u
#define XL_MAGIC      "Xen saved domain, xl format\n \0 \r" /* and its NUL: no */
#define XL_MAGIC_SIZE 32u
#define XL_BYTE_ORDER 0x01020304u
#define XL_FLAGS      3u /* JSON configuration, libxl stream of version 2 */
#define PAGE_SHIFT    12u

struct xen_stream_source {
    const struct vm_config *config; /* borrowed, or NULL */
    struct xen_state state;
    enum xen_domain_type type;
    unsigned major, minor; /* of the Xen that it was captured on */
    struct xen_pages *pages;
    struct buf head, tail, emulator;
    store_progress_fn *progress; /* may be NULL */
    void *context;
};

/* ---- opening ------------------------------------------------------------ */

/* A whole object of records; *name is freed. */
static int load_part(struct store *store, const json_t *manifest, char *name,
                     struct buf *ret, struct vn_err *err)
{
    vn_auto(free) char *owned = name;
    vn_auto(image_reader) struct image_reader *image = NULL;
    struct map_root root;
    uint64_t size;
    uint8_t *data;

    if (manifest_object(manifest, owned, &root, err) < 0)
        return -1;
    image = image_reader_open(store, &root, err);
    if (!image)
        return vn_wrap(err, "object '%s'", owned);
    size = root.size;
    if (size > XEN_PARTS_MAX)
        return vn_fail(err, VN_E_LIMIT,
                       "object '%s' has %" PRIu64 " bytes, more than %u", owned,
                       size, XEN_PARTS_MAX);
    buf_init(ret, XEN_PARTS_MAX);
    data = buf_reserve(ret, (size_t)size);
    if (size && !data)
        return vn_fail(err, ENOMEM, "read object '%s'", owned);
    if (size && image_reader_read(image, 0, data, (size_t)size, err) < 0)
        return vn_wrap(err, "object '%s'", owned);
    ret->size = (size_t)size;
    return 0;
}

static int load_head(struct xen_stream_source *source, struct store *store,
                     const json_t *manifest, const char *vm, struct vn_err *err)
{
    if (load_part(store, manifest, xen_object_head(vm), &source->head, err) < 0)
        return -1;
    return xen_stream_check_head(source->head.data, source->head.size,
                                 source->type, err);
}

static int load_tail(struct xen_stream_source *source, struct store *store,
                     const json_t *manifest, const char *vm, struct vn_err *err)
{
    vn_auto(buf) struct buf captured = {0};

    buf_init(&source->tail, XEN_PARTS_MAX);
    if (load_part(store, manifest, xen_object_tail(vm), &captured, err) < 0 ||
        xen_stream_check_tail(captured.data, captured.size, source->type, err) <
            0)
        return -1;
    return xen_records_order_tail(captured.data, captured.size, &source->tail,
                                  err);
}

/* HVM only: libxl refuses these records of any other domain. */
static int load_emulator(struct xen_stream_source *source, struct store *store,
                         const json_t *manifest, const char *vm,
                         struct vn_err *err)
{
    if (load_part(store, manifest, xen_object_emulator(vm), &source->emulator,
                  err) < 0)
        return -1;
    if (!source->emulator.size)
        return vn_fail(err, VN_E_FORMAT,
                       "an HVM domain without its device model's state");
    return xen_stream_check_emulator(source->emulator.data,
                                     source->emulator.size, err);
}

/* "4.17" or "4.17.7"; for people, but a number in the stream. */
static int parse_version(struct xen_stream_source *source, struct vn_err *err)
{
    const char *text = source->state.xen_version;
    unsigned long major, minor;
    char *end;

    errno = 0;
    major = strtoul(text, &end, 10);
    if (end == text || *end != '.' || errno || major > UINT16_MAX)
        goto bad;
    text = end + 1;
    minor = strtoul(text, &end, 10);
    if (end == text || errno || minor > UINT16_MAX)
        goto bad;
    source->major = (unsigned)major;
    source->minor = (unsigned)minor;
    return 0;
bad:
    return vn_fail(err, VN_E_FORMAT, "'xen_version' is not like 4.17");
}

/* The configuration for the stream: a new reference. */
static json_t *make_config(const struct xen_stream_source *source,
                           struct vn_err *err)
{
    return source->config
               ? xen_config_adapt(source->state.config, source->config, err)
               : json_incref(source->state.config);
}

static int open_source(struct xen_stream_source *source, struct store *store,
                       const json_t *manifest, const char *vm,
                       struct vn_err *err)
{
    vn_auto(json) json_t *config = NULL;
    vn_auto(free) char *text = NULL;
    const json_t *json = qemu_state_in_manifest(manifest, vm, err);

    if (!json || xen_state_from_json(json, &source->state, err) < 0 ||
        parse_version(source, err) < 0)
        return -1;
    source->type =
        strcmp(source->state.type, "pv") ? XEN_DOMAIN_HVM : XEN_DOMAIN_PV;
    /* To see that it can be done. */
    config = make_config(source, err);
    text = config ? xen_config_text(config, err) : NULL;
    if (!text)
        return -1;
    source->pages = xen_pages_open(store, manifest, vm, err);
    if (!source->pages || load_head(source, store, manifest, vm, err) < 0 ||
        load_tail(source, store, manifest, vm, err) < 0)
        return -1;
    return strcmp(source->state.type, "hvm")
               ? 0
               : load_emulator(source, store, manifest, vm, err);
}

struct xen_stream_source *xen_stream_source_open(struct store *store,
                                                 const json_t *manifest,
                                                 const char *vm,
                                                 const struct vm_config *config,
                                                 struct vn_err *err)
{
    struct xen_stream_source *source = vn_alloc(sizeof(*source));

    source->config = config;
    if (open_source(source, store, manifest, vm, err) < 0) {
        vn_wrap(err, "the state of VM '%s'", vm);
        xen_stream_source_free(source);
        return NULL;
    }
    return source;
}

void xen_stream_source_free(struct xen_stream_source *source)
{
    if (!source)
        return;
    xen_pages_free(source->pages);
    buf_done(&source->head);
    buf_done(&source->tail);
    buf_done(&source->emulator);
    xen_state_done(&source->state);
    free(source);
}

int xen_stream_source_check_cpu(const struct xen_stream_source *source,
                                struct vn_err *err)
{
    size_t size;
    const uint8_t *leaves =
        xen_stream_head_cpuid(source->head.data, source->head.size, &size);

    return size ? vm_xen_check_cpu(leaves, size, source->type == XEN_DOMAIN_PV,
                                   err)
                : 0;
}

void xen_stream_source_set_progress(struct xen_stream_source *source,
                                    store_progress_fn *progress, void *context)
{
    source->progress = progress;
    source->context = context;
}

/* ---- framings ----------------------------------------------------------- */

static void put_record(struct buf *b, uint32_t type)
{
    buf_put_le32(b, type);
    buf_put_le32(b, 0);
}

static int put_xl(struct xen_stream_source *source, struct buf *b,
                  struct vn_err *err)
{
    vn_auto(json) json_t *config = make_config(source, err);
    vn_auto(free) char *text = config ? xen_config_text(config, err) : NULL;
    uint32_t size;

    if (!text)
        return -1;
    size = (uint32_t)strlen(text) + 1;
    buf_put(b, XL_MAGIC, XL_MAGIC_SIZE);
    buf_put_le32(b, XL_BYTE_ORDER);
    buf_put_le32(b, XL_FLAGS);
    buf_put_le32(b, 0);        /* flags that may be ignored */
    buf_put_le32(b, 4 + size); /* what follows before the stream */
    buf_put_le32(b, size);
    buf_put(b, text, size);
    return 0;
}

static void put_libxl(struct buf *b)
{
    buf_put_be64(b, LIBXL_ID);
    buf_put_be32(b, LIBXL_VERSION);
    buf_put_be32(b, 0); /* little endian, not converted */
    put_record(b, XEN_LIBXL_LIBXC_CONTEXT);
}

static void put_libxc(const struct xen_stream_source *source, struct buf *b)
{
    buf_put_be64(b, LIBXC_MARKER);
    buf_put_be32(b, LIBXC_ID);
    buf_put_be32(b, LIBXC_VERSION);
    buf_put_be64(b, 0); /* little endian, reserved */
    buf_put_le32(b, source->type);
    buf_put_le32(b, PAGE_SHIFT); /* and 16 reserved bits */
    buf_put_le32(b, source->major);
    buf_put_le32(b, source->minor);
    buf_put(b, source->head.data, source->head.size);
}

static int write_begin(struct xen_stream_source *source,
                       enum xen_framing framing, int fd, struct vn_err *err)
{
    vn_auto(buf) struct buf b = {.limit = XEN_CONFIG_MAX + XEN_PARTS_MAX + 256};

    if (framing == XEN_FRAMING_XL && put_xl(source, &b, err) < 0)
        return -1;
    if (framing != XEN_FRAMING_LIBXC)
        put_libxl(&b);
    put_libxc(source, &b);
    if (buf_check(&b, "its beginning", err) < 0)
        return -1;
    return io_write(fd, b.data, b.size, err);
}

static int write_end(struct xen_stream_source *source, enum xen_framing framing,
                     int fd, struct vn_err *err)
{
    vn_auto(buf) struct buf b = {.limit = 2 * XEN_PARTS_MAX + 256};

    buf_put(&b, source->tail.data, source->tail.size);
    put_record(&b, XEN_REC_END);
    if (framing != XEN_FRAMING_LIBXC) {
        buf_put(&b, source->emulator.data, source->emulator.size);
        put_record(&b, XEN_LIBXL_END);
    }
    if (buf_check(&b, "its end", err) < 0)
        return -1;
    return io_write(fd, b.data, b.size, err);
}

int xen_stream_source_write(struct xen_stream_source *source,
                            enum xen_framing framing, int fd,
                            struct vn_err *err)
{
    if (write_begin(source, framing, fd, err) < 0 ||
        xen_pages_write(source->pages, fd, source->progress, source->context,
                        err) < 0 ||
        write_end(source, framing, fd, err) < 0)
        return vn_wrap(err, "the saved domain");
    return 0;
}
