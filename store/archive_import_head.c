#include "store/archive_import_internal.h"

/*
 * Import: members' headers, and the manifest. See archive_import.c.
 *
 * Names are only ever compared, never used as paths. Everything that a header
 * or the manifest can be refused for is found here, before a byte of content is
 * taken.
 */

#include "common/jsonx.h"

#include <archive.h>
#include <archive_entry.h>
#include <stdlib.h>
#include <string.h>

/* ---- members ---------------------------------------------------------- */

int importer_next(struct importer *x, const char **ret_name, uint64_t *ret_size,
                  struct vn_err *err)
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

int importer_document(struct importer *x, const char *name, uint64_t size,
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

void importer_note_sum(struct importer *x, const char *name, EVP_MD_CTX *sum)
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
        if (old.domain != x->domain)
            return vn_fail(err, VN_E_STATE,
                           "snapshot '%s', which this tar is based on, is in "
                           "another domain",
                           text);
        if (old.size != root.size)
            return vn_fail(err, VN_E_CORRUPT,
                           "object '%s' of snapshot '%s' is not the one that "
                           "this tar is based on: it has another size",
                           name, text);
    }
    return 0;
}

void importer_load_parent(struct importer *x)
{
    struct vn_err none = VN_ERR_INIT;
    const char *name = jsonx_string_or(x->result, "name", "");
    vn_auto(free) char *series = strndup(name, strcspn(name, "@"));

    if (x->base)
        x->parent = json_incref(x->base);
    else if (series)
        x->parent = store_load_latest(x->store, series, &none);
}

int importer_head(struct importer *x, const char *name, struct vn_err *err)
{
    vn_auto(sum) EVP_MD_CTX *sum = archive_sum_new();
    vn_auto(buf) struct buf text = {0};
    const char *member;
    uint64_t size;
    int r = importer_next(x, &member, &size, err);

    if (r < 0)
        return -1;
    if (r == 0)
        return vn_fail(err, VN_E_FORMAT, "the tar is empty");
    if (strcmp(member, ARCHIVE_MANIFEST) != 0)
        return vn_fail(err, VN_E_FORMAT,
                       "the first member is '%s', not '%s':"
                       " not a tar of vnstore",
                       member, ARCHIVE_MANIFEST);
    if (importer_document(x, ARCHIVE_MANIFEST, size, ARCHIVE_MANIFEST_MAX,
                          &text, err) < 0)
        return -1;
    archive_sum_add(sum, text.data, text.size);
    importer_note_sum(x, ARCHIVE_MANIFEST, sum);
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
    json_object_set_new(x->result, "format", json_integer(1));
    manifest_set_domain(x->result, x->opts->domain);
    return check_name_free(x->store, jsonx_string_or(x->result, "name", ""),
                           err);
}
