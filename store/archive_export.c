#include "store/archive_internal.h"

/*
 * Export: manifest, objects in the order of their names, sums. See archive.c.
 *
 * Each object is passed twice: once over its map for the runs of data (the
 * header of a sparse member lists them), once for the data. libarchive wants
 * the whole content, holes included, and leaves the holes out itself.
 *
 * libarchive's reader brings names to a normal form unless the header says that
 * they are bytes (hdrcharset=BINARY); two names may then be one. So that is
 * said where a name is not ASCII.
 *
 * Writing to the descriptor is done here, not by libarchive: after a failed
 * write its handle cannot be freed whole (3.6.2 leaks), and a broken off export
 * must not be finished with a proper end mark. So the write call never fails
 * while there is something to export: it keeps the error, swallows what comes,
 * and the error is raised behind each call into libarchive. Once the end has
 * begun without all being written, it fails, and libarchive gives up.
 */

#include "common/io.h"
#include "common/jsonx.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct exporter {
    struct store *store;
    json_t *manifest; /* borrowed */
    json_t *base;     /* likewise; NULL: all is written */
    const char *folder;
    time_t time; /* of every member */
    struct archive *tar;
    int fd;
    bool binary_names;       /* some are not ASCII */
    bool giving_up;          /* let libarchive's writes fail */
    struct vn_err write_err; /* code 0 while all writes worked */
    struct buf sums;
    uint8_t *block; /* ARCHIVE_BLOCK_SIZE */
    uint8_t *zeros; /* ARCHIVE_BLOCK_SIZE */
    store_progress_fn *progress;
    void *context;
    uint64_t done;
    uint64_t total;
};

static void exporter_done(struct exporter *x)
{
    x->giving_up = true; /* no effect after the regular end */
    archive_write_free(x->tar);
    buf_done(&x->sums);
    free(x->block);
    free(x->zeros);
}

static inline void vn_auto_exporter(struct exporter *x)
{
    exporter_done(x);
}

/* libarchive's write call; see the essay. */
static la_ssize_t write_out(struct archive *tar, void *context,
                            const void *data, size_t size)
{
    struct exporter *x = context;

    if (x->giving_up) {
        archive_set_error(tar, EIO, "broken off");
        return -1;
    }
    /* A failure is kept in write_err for check_written(). */
    if (x->write_err.code == 0 &&
        io_write(x->fd, data, size, &x->write_err) < 0)
        vn_wrap(&x->write_err, "the tar");
    return (la_ssize_t)size;
}

/* Raise what went wrong in libarchive or, behind its back, in write_out(). */
static int check_written(struct exporter *x, bool ok, struct vn_err *err)
{
    if (x->write_err.code != 0) {
        *err = x->write_err;
        return -1;
    }
    return ok ? 0 : archive_fail(x->tar, "write the tar", err);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Every object's name can be a member's, and how many bytes they are. */
static int check_objects(struct exporter *x, json_t *objects,
                         struct vn_err *err)
{
    const char *name;
    json_t *object;

    json_object_foreach (objects, name, object) {
        struct map_root root;

        if (archive_member_check(name, err) < 0 ||
            manifest_object(x->manifest, name, &root, err) < 0)
            return -1;
        if (root.size > STORE_OBJECT_MAX)
            return vn_fail(err, VN_E_LIMIT, "object '%s' is too large", name);
        x->total += root.size; /* 2^16 objects of 2^46 bytes: below 2^63 */
        for (const char *c = name; *c; c++)
            x->binary_names |= (uint8_t)*c >= 0x80;
    }
    return 0;
}

static time_t created_time(const json_t *manifest)
{
    const char *text = jsonx_string_or(manifest, "created", "");
    struct tm tm = {.tm_year = 70, .tm_mday = 1};

    if (!strptime(text, "%Y-%m-%dT%H:%M:%SZ", &tm))
        return 0;
    return timegm(&tm);
}

/* Has the base an object of this name and size, whose pages can be told from
 * the object's by their ids? */
static bool base_object(const struct exporter *x, const char *name,
                        const struct map_root *root, struct map_root *ret)
{
    struct vn_err none = VN_ERR_INIT;

    return x->base && manifest_object(x->base, name, ret, &none) == 0 &&
           ret->size == root->size && root->size > 0 &&
           ret->domain == root->domain;
}

/*
 * The manifest of an incremental tar: a format that others refuse, and the
 * base, named by its name and by the sums of those of its objects that are
 * taken for granted.
 */
static int add_since(struct exporter *x, json_t *document, struct vn_err *err)
{
    json_t *sums = json_object();
    json_t *object;
    const char *name;

    json_object_set_new(document, "format", json_integer(ARCHIVE_FORMAT_SINCE));
    json_object_set_new(document, ARCHIVE_SINCE,
                        json_pack("{ss so}", "name",
                                  jsonx_string_or(x->base, "name", ""), "sums",
                                  sums));
    json_object_foreach (json_object_get(document, "objects"), name, object) {
        char hex[ARCHIVE_HEX_SIZE];
        struct map_root root, old;

        if (manifest_object(x->manifest, name, &root, err) < 0)
            return -1;
        if (!base_object(x, name, &root, &old))
            continue;
        if (archive_sum_image(x->store, &old, hex, err) < 0)
            return vn_wrap(err, "object '%s' of the base", name);
        json_object_set_new(sums, name, json_string(hex));
    }
    return 0;
}

static int write_header(struct exporter *x, const char *name, uint64_t size,
                        const struct archive_runs *runs, struct vn_err *err)
{
    vn_auto(free) char *path = vn_format("%s/%s", x->folder, name);
    struct archive_entry *entry = archive_entry_new2(x->tar);
    int ret;

    if (!entry)
        abort();
    archive_entry_set_pathname(entry, path);
    archive_entry_set_size(entry, (la_int64_t)size);
    archive_entry_set_filetype(entry, AE_IFREG);
    archive_entry_set_perm(entry, 0600);
    archive_entry_set_mtime(entry, x->time, 0);
    if (runs && size) {
        for (size_t i = 0; i < runs->count; i++)
            archive_entry_sparse_add_entry(entry,
                                           (la_int64_t)runs->runs[i].start,
                                           (la_int64_t)runs->runs[i].size);
        /* A hole at the end shows by an empty run after it. */
        archive_entry_sparse_add_entry(entry, (la_int64_t)size, 0);
    }
    ret = check_written(x, archive_write_header(x->tar, entry) == ARCHIVE_OK,
                        err);
    archive_entry_free(entry);
    return ret;
}

static int write_data(struct exporter *x, const void *data, size_t size,
                      struct vn_err *err)
{
    const uint8_t *at = data;

    while (size) {
        la_ssize_t n = archive_write_data(x->tar, at, size);

        if (check_written(x, n > 0, err) < 0)
            return -1;
        at += n;
        size -= (size_t)n;
    }
    return 0;
}

static void add_sum(struct exporter *x, const char *name, EVP_MD_CTX *sum)
{
    char hex[ARCHIVE_HEX_SIZE];

    archive_sum_end(sum, hex);
    buf_put(&x->sums, hex, strlen(hex));
    buf_put(&x->sums, "  ", 2);
    buf_put(&x->sums, name, strlen(name));
    buf_put_u8(&x->sums, '\n');
}

static void advance(struct exporter *x, uint64_t size)
{
    x->done += size;
    if (x->progress)
        x->progress(x->context, x->done, x->total);
}

/* What the tar leaves out: zeros, or what is in the base; `image` is NULL for
 * zeros. Its place, for libarchive to skip, and its sum. */
static int export_hole(struct exporter *x, struct image_reader *image,
                       EVP_MD_CTX *sum, uint64_t start, uint64_t size,
                       struct vn_err *err)
{
    while (size) {
        size_t n =
            size < ARCHIVE_BLOCK_SIZE ? (size_t)size : ARCHIVE_BLOCK_SIZE;

        if (!image)
            archive_sum_zeros(sum, n);
        else if (image_reader_read(image, start, x->block, n, err) < 0)
            return -1;
        else
            archive_sum_add(sum, x->block, n);
        if (write_data(x, x->zeros, n, err) < 0)
            return -1;
        advance(x, n);
        start += n;
        size -= n;
    }
    return 0;
}

static int export_run(struct exporter *x, struct image_reader *image,
                      EVP_MD_CTX *sum, struct archive_run run,
                      struct vn_err *err)
{
    while (run.size) {
        size_t n = run.size < ARCHIVE_BLOCK_SIZE ? (size_t)run.size
                                                 : ARCHIVE_BLOCK_SIZE;

        if (image_reader_read(image, run.start, x->block, n, err) < 0)
            return -1;
        archive_sum_add(sum, x->block, n);
        if (write_data(x, x->block, n, err) < 0)
            return -1;
        advance(x, n);
        run.start += n;
        run.size -= n;
    }
    return 0;
}

static int collect_runs(struct image_reader *image, uint64_t image_size,
                        struct archive_runs *runs, struct vn_err *err)
{
    uint64_t offset = 0;

    while (offset < image_size) {
        uint64_t start, size;

        if (image_reader_next_data(image, offset, &start, &size, err) < 0)
            return -1;
        if (size == 0)
            break;
        archive_runs_add(runs, start, size);
        offset = start + size;
    }
    return 0;
}

/* What is to be written of the object; *ret_same: holes are as in the base. */
static int choose_runs(struct exporter *x, const char *name,
                       const struct map_root *root, struct image_reader *image,
                       struct archive_runs *runs, bool *ret_same,
                       struct vn_err *err)
{
    vn_auto(image_reader) struct image_reader *base = NULL;
    struct map_root old;

    *ret_same = base_object(x, name, root, &old);
    if (!*ret_same)
        return collect_runs(image, root->size, runs, err);
    base = image_reader_open(x->store, &old, err);
    return base ? archive_runs_between(image, base, root->size, runs, err) : -1;
}

static int export_object(struct exporter *x, const char *name,
                         struct vn_err *err)
{
    vn_auto(image_reader) struct image_reader *image = NULL;
    struct image_reader *hole;
    vn_auto(sum) EVP_MD_CTX *sum = archive_sum_new();
    vn_auto(runs) struct archive_runs runs;
    struct map_root root;
    uint64_t offset = 0;
    bool same;

    archive_runs_init(&runs, ARCHIVE_RUNS_MAX);
    if (manifest_object(x->manifest, name, &root, err) < 0)
        return -1;
    image = image_reader_open(x->store, &root, err);
    if (!image || choose_runs(x, name, &root, image, &runs, &same, err) < 0 ||
        write_header(x, name, root.size, &runs, err) < 0)
        return vn_wrap(err, "object '%s'", name);
    hole = same ? image : NULL;
    for (size_t i = 0; i < runs.count; i++) {
        struct archive_run run = runs.runs[i];

        if (export_hole(x, hole, sum, offset, run.start - offset, err) < 0 ||
            export_run(x, image, sum, run, err) < 0)
            return vn_wrap(err, "object '%s'", name);
        offset = run.start + run.size;
    }
    if (export_hole(x, hole, sum, offset, root.size - offset, err) < 0)
        return vn_wrap(err, "object '%s'", name);
    add_sum(x, name, sum);
    return 0;
}

/* The manifest without a trace of the domain, which is the store's affair: who
 * imports it says to which of his it belongs. Caller decrefs. */
static json_t *plain_manifest(const json_t *manifest)
{
    json_t *document = json_deep_copy(manifest);
    const char *name;
    json_t *object;

    if (!document)
        abort();
    json_object_foreach (json_object_get(document, "objects"), name, object)
        json_object_del(object, "domain");
    manifest_set_domain(document, NULL);
    json_object_set_new(document, "format", json_integer(1));
    return document;
}

static int export_manifest(struct exporter *x, struct vn_err *err)
{
    vn_auto(json) json_t *document = plain_manifest(x->manifest);
    vn_auto(free) char *text = NULL;
    vn_auto(sum) EVP_MD_CTX *sum = archive_sum_new();
    size_t size;

    if (x->base && add_since(x, document, err) < 0)
        return -1;
    text = json_dumps(document, JSON_SORT_KEYS | JSON_INDENT(2));
    if (!text)
        abort();
    size = strlen(text);
    text[size++] = '\n'; /* in place of the NUL */
    if (size > ARCHIVE_MANIFEST_MAX)
        return vn_fail(err, VN_E_LIMIT,
                       "the manifest has %zu bytes, at most %u"
                       " are allowed in an archive",
                       size, ARCHIVE_MANIFEST_MAX);
    archive_sum_add(sum, text, size);
    add_sum(x, ARCHIVE_MANIFEST, sum);
    if (write_header(x, ARCHIVE_MANIFEST, size, NULL, err) < 0)
        return -1;
    return write_data(x, text, size, err);
}

static int export_objects(struct exporter *x, json_t *objects,
                          struct vn_err *err)
{
    size_t count = json_object_size(objects), i = 0;
    vn_auto(free) const char **names = vn_alloc((count + 1) * sizeof(*names));
    const char *name;
    json_t *object;

    json_object_foreach (objects, name, object)
        names[i++] = name;
    qsort(names, count, sizeof(*names), by_name);
    for (i = 0; i < count; i++)
        if (export_object(x, names[i], err) < 0)
            return -1;
    return 0;
}

static int open_tar(struct exporter *x, struct vn_err *err)
{
    x->tar = archive_write_new();
    if (!x->tar)
        abort();
    return check_written(
        x,
        archive_write_set_format_pax_restricted(x->tar) == ARCHIVE_OK &&
            (!x->binary_names ||
             archive_write_set_format_option(x->tar, NULL, "hdrcharset",
                                             "BINARY") == ARCHIVE_OK) &&
            archive_write_add_filter_none(x->tar) == ARCHIVE_OK &&
            /* Whole records of 20 blocks at the end, whatever fd is. */
            archive_write_set_bytes_in_last_block(x->tar, 0) == ARCHIVE_OK &&
            archive_write_open(x->tar, x, NULL, write_out, NULL) == ARCHIVE_OK,
        err);
}

int archive_export(struct store *store, const struct archive_export_opts *opts,
                   struct vn_err *err)
{
    vn_auto(locale) struct archive_locale locale = {0};
    vn_auto(store_hold) struct store_hold *hold = store_hold_open(store, err);
    vn_auto(json) json_t *manifest =
        hold ? store_load(store, opts->snapshot, err) : NULL;
    vn_auto(json) json_t *base =
        manifest && opts->since ? store_load(store, opts->since, err) : NULL;
    vn_auto(exporter) struct exporter x = {
        .store = store,
        .manifest = manifest,
        .base = base,
        .fd = opts->fd,
        .progress = opts->progress,
        .context = opts->context,
    };
    json_t *objects;

    if (!manifest || (opts->since && !base) ||
        jsonx_string(manifest, "name", &x.folder, err) < 0 ||
        jsonx_object(manifest, "objects", &objects, err) < 0 ||
        check_objects(&x, objects, err) < 0)
        return -1;
    archive_locale_enter(&locale);
    buf_init(&x.sums, ARCHIVE_SUMS_MAX);
    x.block = vn_alloc(ARCHIVE_BLOCK_SIZE);
    x.zeros = vn_alloc(ARCHIVE_BLOCK_SIZE);
    x.time = created_time(manifest);
    if (open_tar(&x, err) < 0 || export_manifest(&x, err) < 0 ||
        export_objects(&x, objects, err) < 0 ||
        buf_check(&x.sums, ARCHIVE_SUMS, err) < 0 ||
        write_header(&x, ARCHIVE_SUMS, x.sums.size, NULL, err) < 0 ||
        write_data(&x, x.sums.data, x.sums.size, err) < 0)
        return -1;
    return check_written(&x, archive_write_close(x.tar) == ARCHIVE_OK, err);
}
