#include "store/archive_import_internal.h"

/*
 * Import: the content of one object. See archive_import.c.
 *
 * What libarchive gives, in pieces of any size and with holes, becomes whole
 * pages in order, and a SHA-256 at the same time. In an incremental tar a hole
 * is what the base has there.
 */

#include "common/jsonx.h"

#include <archive.h>
#include <stdlib.h>
#include <string.h>

/* ---- objects ---------------------------------------------------------- */

/* Bytes of one object in order, on their way into whole pages. */
struct ingest {
    struct importer *x;
    struct image_writer *image;
    EVP_MD_CTX *sum;
    struct image_reader *base; /* holes are as in this; NULL: zeros */
    EVP_MD_CTX *base_sum;      /* of what was used or passed of it */
    uint64_t size;             /* of the object */
    uint64_t start; /* of x->run in the object; a multiple of the page */
    size_t fill;    /* bytes in x->run */
};

static uint64_t ingest_position(const struct ingest *in)
{
    return in->start + in->fill;
}

static int ingest_flush(struct ingest *in, struct vn_err *err)
{
    if (in->fill &&
        image_writer_put(in->image, in->start, in->x->run, in->fill, err) < 0)
        return -1;
    in->start += in->fill;
    in->fill = 0;
    return 0;
}

static int ingest_data(struct ingest *in, const void *data, size_t size,
                       struct vn_err *err)
{
    const uint8_t *at = data;

    archive_sum_add(in->sum, data, size);
    while (size) {
        size_t room = ARCHIVE_BLOCK_SIZE - in->fill;
        size_t n = size < room ? size : room;

        memcpy(in->x->run + in->fill, at, n);
        in->fill += n;
        at += n;
        size -= n;
        if (in->fill == ARCHIVE_BLOCK_SIZE && ingest_flush(in, err) < 0)
            return -1;
    }
    return 0;
}

/* Whole pages of a hole are not put; its ragged ends are. */
static int ingest_hole(struct ingest *in, uint64_t size, struct vn_err *err)
{
    size_t ragged = in->fill % STORE_PAGE_SIZE;
    size_t pad = ragged ? STORE_PAGE_SIZE - ragged : 0;
    uint64_t pages;

    archive_sum_zeros(in->sum, size);
    if (pad > size)
        pad = (size_t)size;
    memset(in->x->run + in->fill, 0, pad);
    in->fill += pad;
    size -= pad;
    pages = size - size % STORE_PAGE_SIZE;
    if ((pages || in->fill == ARCHIVE_BLOCK_SIZE) && ingest_flush(in, err) < 0)
        return -1;
    in->start += pages;
    size -= pages;
    memset(in->x->run + in->fill, 0, (size_t)size);
    in->fill += (size_t)size;
    return 0;
}

static void report(const struct importer *x, uint64_t done)
{
    if (x->opts->progress)
        x->opts->progress(x->opts->context, x->done + done, x->total);
}

/* The base's bytes under what the tar has: only for the base's sum. */
static int pass_base(struct ingest *in, uint64_t size, struct vn_err *err)
{
    uint64_t offset = ingest_position(in);

    while (in->base && size) {
        size_t n =
            size < ARCHIVE_BLOCK_SIZE ? (size_t)size : ARCHIVE_BLOCK_SIZE;

        if (image_reader_read(in->base, offset, in->x->old, n, err) < 0)
            return -1;
        archive_sum_add(in->base_sum, in->x->old, n);
        offset += n;
        size -= n;
    }
    return 0;
}

/* Up to `offset` it is as in the base. */
static int ingest_base_until(struct ingest *in, uint64_t offset,
                             struct vn_err *err)
{
    while (ingest_position(in) < offset) {
        uint64_t at = ingest_position(in);
        uint64_t left = offset - at;
        size_t n =
            left < ARCHIVE_BLOCK_SIZE ? (size_t)left : ARCHIVE_BLOCK_SIZE;

        if (image_reader_read(in->base, at, in->x->old, n, err) < 0)
            return -1;
        archive_sum_add(in->base_sum, in->x->old, n);
        if (ingest_data(in, in->x->old, n, err) < 0)
            return -1;
        report(in->x, ingest_position(in));
    }
    return 0;
}

/* A hole of any size, with progress: its zeros must be hashed. */
static int ingest_zeros_until(struct ingest *in, uint64_t offset,
                              struct vn_err *err)
{
    while (ingest_position(in) < offset) {
        uint64_t left = offset - ingest_position(in);
        uint64_t n = left < (64u << 20) ? left : 64u << 20;

        if (ingest_hole(in, n, err) < 0)
            return -1;
        report(in->x, ingest_position(in));
    }
    return 0;
}

static int ingest_hole_until(struct ingest *in, uint64_t offset,
                             struct vn_err *err)
{
    return in->base ? ingest_base_until(in, offset, err)
                    : ingest_zeros_until(in, offset, err);
}

static int ingest_member(struct ingest *in, struct vn_err *err)
{
    struct archive *tar = in->x->tar;

    for (;;) {
        const void *data;
        size_t size;
        la_int64_t offset;
        int r = archive_read_data_block(tar, &data, &size, &offset);

        if (r == ARCHIVE_EOF)
            break;
        if (r != ARCHIVE_OK)
            return archive_fail(tar, "read the tar", err);
        if (size == 0)
            continue;
        if (offset < 0 || (uint64_t)offset < ingest_position(in) ||
            (uint64_t)offset > in->size || size > in->size - (uint64_t)offset)
            return vn_fail(err, VN_E_FORMAT,
                           "data out of order or past its"
                           " end");
        if (ingest_hole_until(in, (uint64_t)offset, err) < 0 ||
            pass_base(in, size, err) < 0 ||
            ingest_data(in, data, size, err) < 0)
            return -1;
        report(in->x, ingest_position(in));
    }
    if (ingest_hole_until(in, in->size, err) < 0)
        return -1;
    return ingest_flush(in, err);
}

/* The member's header agrees with the manifest. */
static int check_member(struct importer *x, const char *name, uint64_t size,
                        struct vn_err *err)
{
    struct map_root root;

    if (archive_member_check(name, err) < 0)
        return -1;
    if (!json_object_get(x->objects, name))
        return vn_fail(err, VN_E_FORMAT, "member '%s' is not in the manifest",
                       name);
    if (json_object_get(x->sums, name))
        return vn_fail(err, VN_E_FORMAT, "member '%s' is there twice", name);
    if (manifest_object(x->manifest, name, &root, err) < 0)
        return -1;
    if (root.size != size)
        return vn_fail(err, VN_E_FORMAT,
                       "member '%s' has %llu bytes, the"
                       " manifest says %llu",
                       name, (unsigned long long)size,
                       (unsigned long long)root.size);
    return 0;
}

/* The base's object turned out to be what the tar is based on. */
static int check_base(const struct importer *x, const char *name,
                      EVP_MD_CTX *sum, struct vn_err *err)
{
    char hex[ARCHIVE_HEX_SIZE];

    archive_sum_end(sum, hex);
    if (strcmp(jsonx_string_or(x->base_sums, name, ""), hex) == 0)
        return 0;
    return vn_fail(err, VN_E_CORRUPT,
                   "object '%s' of snapshot '%s' is not the one that this tar "
                   "is based on",
                   name, jsonx_string_or(x->base, "name", ""));
}

int importer_object(struct importer *x, const char *name, uint64_t size,
                    struct vn_err *err)
{
    vn_auto(image_writer) struct image_writer *image = NULL;
    vn_auto(image_reader) struct image_reader *base = NULL;
    vn_auto(sum) EVP_MD_CTX *sum = archive_sum_new();
    vn_auto(sum) EVP_MD_CTX *base_sum = archive_sum_new();
    struct ingest in = {.x = x, .sum = sum, .base_sum = base_sum, .size = size};
    struct vn_err none = VN_ERR_INIT;
    struct map_root root, old;
    bool has_old;

    if (check_member(x, name, size, err) < 0)
        return -1;
    has_old = x->parent && manifest_object(x->parent, name, &old, &none) == 0 &&
              old.size == size;
    if (x->base_sums && json_object_get(x->base_sums, name)) {
        base = in.base = image_reader_open(x->store, &old, err);
        if (!base)
            return vn_wrap(err, "object '%s' of the base", name);
    }
    image = in.image =
        image_writer_open(x->writer, size, has_old ? &old : NULL, err);
    if (!image || ingest_member(&in, err) < 0 ||
        (base && check_base(x, name, base_sum, err) < 0) ||
        image_writer_finish(image, &root, err) < 0)
        return vn_wrap(err, "member '%s'", name);
    manifest_add(x->result, name, &root);
    importer_note_sum(x, name, sum);
    x->done += size;
    return 0;
}
