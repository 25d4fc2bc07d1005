#include "store/archive_internal.h"

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
 * Member names are only ever compared, never used as paths. Links, devices and
 * directories are refused. libarchive's readers of other formats and its
 * filters are not registered.
 */

#include "common/jsonx.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define READ_SIZE 65536u /* bytes read at a time */

struct importer {
    struct store *store;
    const struct archive_import_opts *opts;
    struct store_writer *writer;
    struct store_hold *hold; /* from before the base was loaded */
    json_t *base;            /* manifest of an incremental tar's base */
    const char *since;       /* its name in the tar */
    json_t *base_sums;       /* and the sums of its objects */
    json_t *since_object;    /* which holds both */
    json_t *parent;          /* newest of the series here, or NULL */
    struct archive *tar;
    uint8_t *block;      /* READ_SIZE: what libarchive was given last */
    size_t block_size;   /* of that */
    uint64_t read_bytes; /* of the tar until now */
    char *folder;        /* first part of every member's name */
    json_t *manifest;    /* as in the tar */
    json_t *objects;     /* of it, borrowed */
    json_t *result;      /* what will be committed */
    json_t *sums;        /* member -> hex, of what was read */
    uint8_t *run;        /* ARCHIVE_BLOCK_SIZE, for struct ingest */
    uint8_t *old;        /* likewise, of the base */
    uint64_t done;
    uint64_t total;
};

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

/* ---- members ---------------------------------------------------------- */

/*
 * The next member's name below the folder, valid until the next call, and its
 * size. The first member sets the folder. 1, or 0 at the end of the tar.
 */
static int next_member(struct importer *x, const char **ret_name,
                       uint64_t *ret_size, struct vn_err *err)
{
    struct archive_entry *entry;
    const char *path, *slash;
    int r = archive_read_next_header(x->tar, &entry);
    la_int64_t size;

    if (r == ARCHIVE_EOF)
        return 0;
    if (r != ARCHIVE_OK)
        return archive_fail(x->tar, "read the tar", err);
    path = archive_entry_pathname(entry);
    slash = path ? strchr(path, '/') : NULL;
    if (!slash || slash == path)
        return vn_fail(err, VN_E_FORMAT,
                       "member '%s' is not in a folder of the snapshot's name",
                       path ? path : "(not UTF-8)");
    if (archive_entry_filetype(entry) != AE_IFREG ||
        archive_entry_hardlink(entry) || archive_entry_symlink(entry))
        return vn_fail(err, VN_E_FORMAT, "member '%s' is not a plain file",
                       path);
    if (!x->folder) {
        x->folder = strndup(path, (size_t)(slash - path));
        if (!x->folder)
            abort();
        if (archive_member_check(x->folder, err) < 0)
            return vn_wrap(err, "folder of the tar");
    }
    if (strlen(x->folder) != (size_t)(slash - path) ||
        memcmp(path, x->folder, strlen(x->folder)) != 0)
        return vn_fail(err, VN_E_FORMAT, "member '%s' is not below '%s/'", path,
                       x->folder);
    size = archive_entry_size(entry);
    if (!archive_entry_size_is_set(entry) || size < 0)
        return vn_fail(err, VN_E_FORMAT, "member '%s' has no size", path);
    *ret_name = slash + 1;
    *ret_size = (uint64_t)size;
    return 1;
}

/* A whole document of at most `max` bytes; out is done by the caller. */
static int read_document(struct importer *x, const char *name, uint64_t size,
                         size_t max, struct buf *out, struct vn_err *err)
{
    uint8_t *at;
    size_t done = 0;

    if (size > max)
        return vn_fail(err, VN_E_LIMIT,
                       "%s has %llu bytes, at most %zu are"
                       " allowed",
                       name, (unsigned long long)size, max);
    buf_init(out, max + 1);
    at = buf_reserve(out, (size_t)size + 1); /* never an empty request */
    if (!at)
        return buf_check(out, name, err);
    while (done < size) {
        la_ssize_t n =
            archive_read_data(x->tar, at + done, (size_t)size - done);

        if (n < 0)
            return archive_fail(x->tar, "read the tar", err);
        if (n == 0)
            return vn_fail(err, VN_E_FORMAT, "%s is cut short", name);
        done += (size_t)n;
    }
    out->size = done;
    return 0;
}

static void note_sum(struct importer *x, const char *name, EVP_MD_CTX *sum)
{
    char hex[ARCHIVE_HEX_SIZE];

    archive_sum_end(sum, hex);
    json_object_set_new(x->sums, name, json_string(hex));
}

/* ---- manifest --------------------------------------------------------- */

static int check_objects(struct importer *x, struct vn_err *err)
{
    const char *name;
    json_t *object;

    json_object_foreach (x->objects, name, object) {
        struct map_root root;

        if (archive_member_check(name, err) < 0 ||
            manifest_object(x->manifest, name, &root, err) < 0)
            return -1;
        if (root.size > STORE_OBJECT_MAX)
            return vn_fail(err, VN_E_LIMIT, "object '%s' is too large", name);
        x->total += root.size; /* 2^16 objects of 2^46 bytes: below 2^63 */
    }
    if (x->opts->size_max && x->total > x->opts->size_max)
        return vn_fail(err, VN_E_LIMIT,
                       "its objects have %llu bytes, at most %llu are to be "
                       "taken",
                       (unsigned long long)x->total,
                       (unsigned long long)x->opts->size_max);
    if (json_object_size(x->objects) > STORE_OBJECTS_MAX)
        return vn_fail(err, VN_E_LIMIT, "more than %u objects",
                       STORE_OBJECTS_MAX);
    return 0;
}

/* Better to learn that a name is taken before the data than after it. */
static int check_name_free(struct store *store, const char *name,
                           struct vn_err *err)
{
    struct vn_err why = VN_ERR_INIT;
    vn_auto(json) json_t *there = store_load(store, name, &why);

    /* Every other failure says the commit better. An id's prefix also loads. */
    if (!there || strcmp(jsonx_string_or(there, "name", ""), name) != 0)
        return 0;
    return vn_fail(err, VN_E_EXISTS,
                   "the store has a snapshot '%s' already; import it under"
                   " another name",
                   name);
}

/*
 * An incremental tar has a format of its own. What makes it one is taken out of
 * the manifest, which is of format 1 then, and kept in x->since.
 */
static int take_since(struct importer *x, struct vn_err *err)
{
    json_int_t format =
        json_integer_value(json_object_get(x->manifest, "format"));
    json_t *since = json_object_get(x->manifest, ARCHIVE_SINCE);

    if (format != ARCHIVE_FORMAT_SINCE)
        return since ? vn_fail(err, VN_E_FORMAT, "'%s' in format %lld",
                               ARCHIVE_SINCE, (long long)format)
                     : 0;
    if (jsonx_string(since, "name", &x->since, err) < 0 ||
        jsonx_object(since, "sums", &x->base_sums, err) < 0)
        return vn_wrap(err, "'%s'", ARCHIVE_SINCE);
    x->since_object = json_incref(since);
    json_object_del(x->manifest, ARCHIVE_SINCE);
    json_object_set_new(x->manifest, "format", json_integer(1));
    return 0;
}

/* The base is here, with the objects that the tar wants. Their content is held
 * against the sums while it is used. */
static int load_base(struct importer *x, struct vn_err *err)
{
    const char *text = x->opts->since ? x->opts->since : x->since;
    const char *name;
    json_t *sum;

    x->hold = store_hold_open(x->store, err);
    x->base = x->hold ? store_load(x->store, text, err) : NULL;
    if (!x->base)
        return vn_wrap(err, "the snapshot that this tar is based on");
    json_object_foreach (x->base_sums, name, sum) {
        struct map_root root, old;

        if (!json_is_string(sum) ||
            json_string_length(sum) != ARCHIVE_HEX_SIZE - 1 ||
            manifest_object(x->manifest, name, &root, err) < 0)
            return vn_fail(err, VN_E_FORMAT, "%s: '%s': object '%s'",
                           ARCHIVE_MANIFEST, ARCHIVE_SINCE, name);
        if (manifest_object(x->base, name, &old, err) < 0)
            return vn_wrap(err, "the snapshot that this tar is based on");
        if (old.size != root.size)
            return vn_fail(err, VN_E_CORRUPT,
                           "object '%s' of snapshot '%s' is not the one that "
                           "this tar is based on: it has another size",
                           name, text);
    }
    return 0;
}

/* The newest of the series, if any: pages are found in its place first. */
static void load_parent(struct importer *x)
{
    struct vn_err none = VN_ERR_INIT;
    const char *name = jsonx_string_or(x->result, "name", "");
    vn_auto(free) char *series = strndup(name, strcspn(name, "@"));

    if (x->base)
        x->parent = json_incref(x->base);
    else if (series)
        x->parent = store_load_latest(x->store, series, &none);
}

static int import_manifest(struct importer *x, const char *name,
                           struct vn_err *err)
{
    vn_auto(sum) EVP_MD_CTX *sum = archive_sum_new();
    vn_auto(buf) struct buf text = {0};
    const char *member;
    uint64_t size;
    int r = next_member(x, &member, &size, err);

    if (r < 0)
        return -1;
    if (r == 0)
        return vn_fail(err, VN_E_FORMAT, "the tar is empty");
    if (strcmp(member, ARCHIVE_MANIFEST) != 0)
        return vn_fail(err, VN_E_FORMAT,
                       "the first member is '%s', not '%s':"
                       " not a tar of vnstore",
                       member, ARCHIVE_MANIFEST);
    if (read_document(x, ARCHIVE_MANIFEST, size, ARCHIVE_MANIFEST_MAX, &text,
                      err) < 0)
        return -1;
    archive_sum_add(sum, text.data, text.size);
    note_sum(x, ARCHIVE_MANIFEST, sum);
    x->manifest =
        jsonx_parse((const char *)text.data, text.size, ARCHIVE_MANIFEST, err);
    if (!x->manifest)
        return -1;
    if (take_since(x, err) < 0 || manifest_check(x->manifest, err) < 0 ||
        jsonx_object(x->manifest, "objects", &x->objects, err) < 0 ||
        check_objects(x, err) < 0)
        return vn_wrap(err, "%s", ARCHIVE_MANIFEST);
    if (x->base_sums && load_base(x, err) < 0)
        return -1;
    x->result = json_deep_copy(x->manifest);
    if (!x->result)
        abort();
    if (name)
        json_object_set_new(x->result, "name", json_string(name));
    json_object_del(x->result, "id");
    json_object_set_new(x->result, "objects", json_object());
    return check_name_free(x->store, jsonx_string_or(x->result, "name", ""),
                           err);
}

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

static int import_object(struct importer *x, const char *name, uint64_t size,
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
    note_sum(x, name, sum);
    x->done += size;
    return 0;
}

/* ---- the end ---------------------------------------------------------- */

static int import_sums(struct importer *x, uint64_t size, struct vn_err *err)
{
    vn_auto(buf) struct buf text = {0};
    vn_auto(json) json_t *listed = NULL;
    const char *name;
    json_t *value;

    if (read_document(x, ARCHIVE_SUMS, size, ARCHIVE_SUMS_MAX, &text, err) < 0)
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

    while ((r = next_member(x, &name, &size, err)) > 0) {
        if (strcmp(name, ARCHIVE_SUMS) == 0)
            break;
        if (import_object(x, name, size, err) < 0)
            return -1;
    }
    if (r < 0 || check_complete(x, err) < 0)
        return -1;
    if (r == 0)
        return vn_fail(err, VN_E_FORMAT, "the tar ends before '%s'",
                       ARCHIVE_SUMS);
    if (import_sums(x, size, err) < 0)
        return -1;
    r = next_member(x, &name, &size, err);
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
    if (open_tar(&x, err) < 0 || import_manifest(&x, opts->name, err) < 0)
        return -1;
    x.writer = store_writer_open(store, err);
    if (!x.writer)
        return -1;
    load_parent(&x);
    if (import_members(&x, err) < 0 || check_tail(&x, err) < 0)
        return -1;
    if (store_writer_flush(x.writer, err) < 0 ||
        store_commit(store, x.result, err) < 0)
        return -1;
    store_writer_counts(x.writer, &ret->counts);
    ret->name = vn_strdup(jsonx_string_or(x.result, "name", ""));
    return 0;
}
