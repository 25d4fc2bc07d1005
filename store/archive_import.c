#include "store/archive_import_internal.h"

/*
 * Import: one pass over a tar that nobody vouches for. See archive.c.
 *
 * The manifest must come first; it says which members may follow and how large
 * each is, and a member that it does not name, or names with another size, ends
 * the import at its header. Data goes into images page by page and into a
 * SHA-256 at the same time. SHA256SUMS must be last; then every object of the
 * manifest must have been seen, and every sum must agree with the content.
 * Only then is the manifest committed, with this store's own roots: ids are
 * keyed by a secret of each store, so those of the exporter mean nothing here.
 *
 * An incremental tar leaves out what is as in a snapshot that must be here too;
 * its manifest has the sums of that one's objects. Where the tar has a hole
 * the base's bytes take part instead, in content and sum. All of the base is
 * passed once, so its sum is known when the object ends.
 *
 * A failed import leaves no snapshot, at most chunks that gc collects.
 *
 * The base must be in the domain into which the tar is imported: the tar comes
 * from its tenant, and whether the sums in it are those of another's snapshot
 * is not for him to know.
 *
 * Member names are only ever compared, never used as paths. Links, devices and
 * directories are refused. libarchive's readers of other formats and its
 * filters are not registered.
 */

#include "common/jsonx.h"

#include <archive.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define READ_SIZE 65536u /* bytes read at a time */

static void importer_done(struct importer *x)
{
    store_writer_free(x->writer);
    archive_read_free(x->tar);
    store_hold_close(x->hold);
    json_decref(x->base);
    json_decref(x->since_object);
    json_decref(x->parent);
    json_decref(x->manifest);
    json_decref(x->result);
    json_decref(x->sums);
    free(x->folder);
    free(x->run);
    free(x->old);
    free(x->block);
}

static inline void vn_auto_importer(struct importer *x)
{
    importer_done(x);
}
/* ---- the end ---------------------------------------------------------- */

static int import_sums(struct importer *x, uint64_t size, struct vn_err *err)
{
    vn_auto(buf) struct buf text = {0};
    vn_auto(json) json_t *listed = NULL;
    const char *name;
    json_t *value;

    if (importer_document(x, ARCHIVE_SUMS, size, ARCHIVE_SUMS_MAX, &text, err) <
        0)
        return -1;
    listed = archive_sums_parse((const char *)text.data, text.size, err);
    if (!listed)
        return -1;
    json_object_foreach (x->sums, name, value) {
        const char *hex = jsonx_string_or(listed, name, NULL);

        if (!hex)
            return vn_fail(err, VN_E_FORMAT, "%s does not list '%s'",
                           ARCHIVE_SUMS, name);
        if (strcmp(hex, json_string_value(value)) != 0)
            return vn_fail(err, VN_E_CORRUPT,
                           "member '%s' does not have the"
                           " sum that %s gives",
                           name, ARCHIVE_SUMS);
    }
    json_object_foreach (listed, name, value)
        if (!json_object_get(x->sums, name))
            return vn_fail(err, VN_E_FORMAT,
                           "%s lists '%s', which is not"
                           " there",
                           ARCHIVE_SUMS, name);
    return 0;
}

static int check_complete(struct importer *x, struct vn_err *err)
{
    const char *name;
    json_t *object;

    json_object_foreach (x->objects, name, object)
        if (!json_object_get(x->sums, name))
            return vn_fail(err, VN_E_FORMAT, "member '%s' is missing", name);
    return 0;
}

static int import_members(struct importer *x, struct vn_err *err)
{
    const char *name;
    uint64_t size;
    int r;

    while ((r = importer_next(x, &name, &size, err)) > 0) {
        if (strcmp(name, ARCHIVE_SUMS) == 0)
            break;
        if (importer_object(x, name, size, err) < 0)
            return -1;
    }
    if (r < 0 || check_complete(x, err) < 0)
        return -1;
    if (r == 0)
        return vn_fail(err, VN_E_FORMAT, "the tar ends before '%s'",
                       ARCHIVE_SUMS);
    if (import_sums(x, size, err) < 0)
        return -1;
    r = importer_next(x, &name, &size, err);
    if (r > 0)
        return vn_fail(err, VN_E_FORMAT, "member '%s' comes after '%s'", name,
                       ARCHIVE_SUMS);
    return r;
}

/* libarchive's read call: the next block. */
static la_ssize_t read_in(struct archive *tar, void *context, const void **ret)
{
    struct importer *x = context;
    ssize_t n;

    do
        n = read(x->opts->fd, x->block, READ_SIZE);
    while (n < 0 && errno == EINTR);
    if (n < 0) {
        archive_set_error(tar, errno, "read");
        return -1;
    }
    x->block_size = (size_t)n;
    x->read_bytes += (uint64_t)n;
    *ret = x->block;
    return n;
}

static bool is_zero(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (data[i])
            return false;
    return true;
}

/*
 * What comes after the tar's end: only zeros may. It is read, so that a writer
 * at the other end of a pipe is not stopped by SIGPIPE.
 */
static int check_tail(struct importer *x, struct vn_err *err)
{
    uint64_t taken = (uint64_t)archive_filter_bytes(x->tar, 0);
    uint64_t left = x->read_bytes - taken;
    const void *data;
    la_ssize_t n;

    if (left > x->block_size)
        left = x->block_size;
    if (!is_zero(x->block + x->block_size - left, (size_t)left))
        return vn_fail(err, VN_E_FORMAT, "the tar has bytes after its end");
    while ((n = read_in(x->tar, x, &data)) > 0)
        if (!is_zero(data, (size_t)n))
            return vn_fail(err, VN_E_FORMAT, "the tar has bytes after its end");
    return n < 0 ? archive_fail(x->tar, "read the tar", err) : 0;
}

static int open_tar(struct importer *x, struct vn_err *err)
{
    x->tar = archive_read_new();
    if (!x->tar)
        abort();
    if (archive_read_support_format_tar(x->tar) != ARCHIVE_OK ||
        archive_read_open(x->tar, x, NULL, read_in, NULL) != ARCHIVE_OK)
        return archive_fail(x->tar, "open the tar", err);
    return 0;
}

int archive_import(struct store *store, const struct archive_import_opts *opts,
                   struct archive_imported *ret, struct vn_err *err)
{
    vn_auto(locale) struct archive_locale locale = {0};
    vn_auto(importer) struct importer x = {
        .store = store,
        .sums = json_object(),
        .opts = opts,
        .run = vn_alloc(ARCHIVE_BLOCK_SIZE),
        .old = vn_alloc(ARCHIVE_BLOCK_SIZE),
        .block = vn_alloc(READ_SIZE),
    };

    archive_locale_enter(&locale);
    if (store_domain_tag(store, opts->domain, &x.domain, err) < 0 ||
        open_tar(&x, err) < 0 || importer_head(&x, opts->name, err) < 0)
        return -1;
    x.writer = store_writer_open_in(store, opts->domain, err);
    if (!x.writer)
        return -1;
    importer_load_parent(&x);
    if (import_members(&x, err) < 0 || check_tail(&x, err) < 0)
        return -1;
    if (store_writer_flush(x.writer, err) < 0 ||
        store_commit(store, x.result, err) < 0)
        return -1;
    store_writer_counts(x.writer, &ret->counts);
    ret->name = vn_strdup(jsonx_string_or(x.result, "name", ""));
    return 0;
}
