#include "store/store_internal.h"

/*
 * Manifests: building, reading, checking. No I/O here.
 *
 * Names of snapshots: 1 to 128 bytes of A-Z a-z 0-9 . _ - and, once at most,
 * '@' with a number from 1 to 999,999,999 behind it; the first is a letter, a
 * digit or '_'. So a name is a file name, needs no quoting in a shell, and
 * never looks like an option.
 *
 * Names of objects: relative paths, of components that are not empty, "." or
 * "..", without control characters and backslashes; no object is a directory
 * of another. So an archive can hold each as a file.
 *
 * Keys that are not known are kept and not looked at; a later version may add
 * some without raising "format".
 */

#include "common/clock.h"
#include "common/cursor.h"
#include "common/io.h"
#include "common/jsonx.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Format 2 is that of incremental tars (archive.c); none is in a store. */
#define MANIFEST_FORMAT        1u
#define MANIFEST_FORMAT_DOMAIN 3u
#define OBJECT_NAME_MAX        1024u /* bytes */
#define KIND_MAX               32u

/* ---- names ------------------------------------------------------------ */

static bool is_name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
}

int manifest_check_series(const char *series, struct vn_err *err)
{
    size_t len = strlen(series);

    if (len == 0 || len > STORE_NAME_MAX)
        return vn_fail(err, VN_E_FORMAT,
                       "a snapshot's name has 1 to %u characters, not %zu",
                       STORE_NAME_MAX, len);
    if (series[0] == '-' || series[0] == '.')
        return vn_fail(err, VN_E_FORMAT,
                       "the snapshot's name '%s' begins with '%c'", series,
                       series[0]);
    for (const char *p = series; *p; p++)
        if (!is_name_char(*p))
            return vn_fail(err, VN_E_FORMAT,
                           "the snapshot's name '%s' has other characters "
                           "than letters, digits, '.', '_' and '-'",
                           series);
    return 0;
}

bool manifest_split_name(const char *name, char series[STORE_NAME_MAX + 1],
                         uint64_t *ret_number)
{
    const char *at = strchr(name, '@');
    uint64_t number = 0;
    size_t len;

    if (!at)
        return false;
    len = (size_t)(at - name);
    if (len > STORE_NAME_MAX || at[1] == '0' || !at[1])
        return false;
    for (const char *p = at + 1; *p; p++) {
        if (*p < '0' || *p > '9')
            return false;
        number = number * 10 + (uint64_t)(*p - '0');
        if (number > MANIFEST_NUMBER_MAX)
            return false;
    }
    memcpy(series, name, len);
    series[len] = 0;
    *ret_number = number;
    return true;
}

static int check_name(const char *name, struct vn_err *err)
{
    char series[STORE_NAME_MAX + 1];
    uint64_t number;

    if (strlen(name) > STORE_NAME_MAX)
        return vn_fail(err, VN_E_LIMIT,
                       "a snapshot's name of %zu bytes, at most %u are "
                       "allowed",
                       strlen(name), STORE_NAME_MAX);
    if (!strchr(name, '@'))
        return manifest_check_series(name, err);
    if (!manifest_split_name(name, series, &number))
        return vn_fail(err, VN_E_FORMAT,
                       "the snapshot's name '%s' has no number from 1 to %u "
                       "behind its '@'",
                       name, MANIFEST_NUMBER_MAX);
    return manifest_check_series(series, err);
}

static bool is_component_bad(const char *component, size_t len)
{
    return len == 0 || (len == 1 && component[0] == '.') ||
           (len == 2 && component[0] == '.' && component[1] == '.');
}

static int check_object_name(const json_t *objects, const char *name,
                             struct vn_err *err)
{
    char prefix[OBJECT_NAME_MAX + 1];
    size_t len = strlen(name);
    const char *start = name;

    if (len > OBJECT_NAME_MAX)
        return vn_fail(err, VN_E_LIMIT,
                       "an object's name of %zu bytes, at most %u are allowed",
                       len, OBJECT_NAME_MAX);
    for (const char *p = name; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f || *p == '\\')
            return vn_fail(err, VN_E_FORMAT,
                           "an object's name has a control character or a "
                           "backslash");
    for (const char *p = name;; p++) {
        if (*p && *p != '/')
            continue;
        if (is_component_bad(start, (size_t)(p - start)))
            return vn_fail(err, VN_E_FORMAT,
                           "the object's name '%.200s' is not a plain path",
                           name);
        if (!*p)
            return 0;
        memcpy(prefix, name, (size_t)(p - name));
        prefix[p - name] = 0;
        if (json_object_get(objects, prefix))
            return vn_fail(err, VN_E_FORMAT,
                           "the object '%.200s' lies below the object "
                           "'%.200s'",
                           name, prefix);
        start = p + 1;
    }
}

/* ---- objects ---------------------------------------------------------- */

json_t *manifest_new(const char *name, const char *kind)
{
    json_t *manifest = json_object();
    char created[32];

    clock_format_utc(clock_wall_ns(), created);
    json_object_set_new(manifest, "format", json_integer(MANIFEST_FORMAT));
    json_object_set_new(manifest, "name", json_string(name));
    json_object_set_new(manifest, "kind", json_string(kind));
    json_object_set_new(manifest, "created", json_string(created));
    json_object_set_new(manifest, "objects", json_object());
    json_object_set_new(manifest, "meta", json_object());
    return manifest;
}

void manifest_add(json_t *manifest, const char *object,
                  const struct map_root *root)
{
    json_t *entry = json_object();
    char hex[2 * STORE_ID_SIZE + 1];

    if (root->domain) {
        snprintf(hex, sizeof(hex), "%016" PRIx64, root->domain);
        json_object_set_new(entry, "domain", json_string(hex));
    }
    io_hex(root->root.bytes, sizeof(root->root.bytes), hex);
    json_object_set_new(entry, "root", json_string(hex));
    json_object_set_new(entry, "size", jsonx_int(root->size));
    json_object_set_new(json_object_get(manifest, "objects"), object, entry);
}

static int parse_domain(const json_t *object, uint64_t *ret, struct vn_err *err)
{
    uint8_t bytes[8];
    struct cursor c = cursor_of(bytes, sizeof(bytes));
    const char *hex;
    uint64_t domain;

    if (!json_object_get(object, "domain")) {
        *ret = 0;
        return 0;
    }
    if (jsonx_string(object, "domain", &hex, err) < 0 ||
        io_unhex(hex, bytes, sizeof(bytes), err) < 0)
        return -1;
    domain = cursor_be64(&c);
    if (domain == 0)
        return vn_fail(err, VN_E_FORMAT, "its domain is 0");
    *ret = domain;
    return 0;
}

int manifest_parse_root(const json_t *object, struct map_root *ret,
                        struct vn_err *err)
{
    struct map_root root;
    const char *hex;

    if (jsonx_string(object, "root", &hex, err) < 0 ||
        io_unhex(hex, root.root.bytes, sizeof(root.root.bytes), err) < 0 ||
        jsonx_u64(object, "size", &root.size, err) < 0 ||
        parse_domain(object, &root.domain, err) < 0)
        return -1;
    if (root.size > STORE_OBJECT_MAX)
        return vn_fail(err, VN_E_LIMIT, "its size is %llu, over %llu",
                       (unsigned long long)root.size, STORE_OBJECT_MAX);
    if (root.size == 0 && !chunk_id_is_zero(&root.root))
        return vn_fail(err, VN_E_FORMAT, "it has a root and no bytes");
    *ret = root;
    return 0;
}

int manifest_object(const json_t *manifest, const char *object,
                    struct map_root *ret, struct vn_err *err)
{
    const json_t *entry =
        json_object_get(json_object_get(manifest, "objects"), object);

    if (!entry)
        return vn_fail(err, VN_E_NOT_FOUND,
                       "there is no object '%.200s' in snapshot '%s'", object,
                       jsonx_string_or(manifest, "name", "?"));
    return manifest_parse_root(entry, ret, err) < 0
               ? vn_wrap(err, "object '%.200s'", object)
               : 0;
}

/* Bytes that both begin with. */
static size_t common_prefix(const char *a, const char *b)
{
    size_t n = 0;

    while (a[n] && a[n] == b[n])
        n++;
    return n;
}

bool manifest_find_like(const json_t *manifest, const char *object,
                        uint64_t size, struct map_root *ret)
{
    json_t *objects = json_object_get(manifest, "objects");
    struct vn_err ignored = VN_ERR_INIT;
    struct map_root root;
    bool found = false;
    size_t best = 0;
    const char *name;
    json_t *entry;

    if (manifest_object(manifest, object, ret, &ignored) == 0)
        return true;
    json_object_foreach (objects, name, entry) {
        size_t common = common_prefix(name, object);

        if ((found && common <= best) ||
            manifest_parse_root(entry, &root, &ignored) < 0 ||
            root.size != size)
            continue;
        *ret = root;
        best = common;
        found = true;
    }
    return found;
}

uint64_t manifest_bytes(const json_t *manifest)
{
    json_t *objects = json_object_get(manifest, "objects");
    uint64_t sum = 0;
    const char *name;
    json_t *entry;

    json_object_foreach (objects, name, entry)
        sum += jsonx_u64_or(entry, "size", 0);
    return sum;
}

/* ---- the whole -------------------------------------------------------- */

static int check_objects(json_t *objects, uint64_t format, struct vn_err *err)
{
    struct map_root root;
    const char *name;
    json_t *entry;

    if (json_object_size(objects) > STORE_OBJECTS_MAX)
        return vn_fail(err, VN_E_LIMIT, "%zu objects, at most %u are allowed",
                       json_object_size(objects), STORE_OBJECTS_MAX);
    json_object_foreach (objects, name, entry) {
        if (check_object_name(objects, name, err) < 0)
            return -1;
        if (manifest_parse_root(entry, &root, err) < 0)
            return vn_wrap(err, "object '%.200s'", name);
        if (root.domain && format != MANIFEST_FORMAT_DOMAIN)
            return vn_fail(err, VN_E_FORMAT,
                           "object '%.200s' is of a domain, which format %llu "
                           "does not know",
                           name, (unsigned long long)format);
    }
    return 0;
}

void manifest_set_format(json_t *manifest)
{
    json_t *objects = json_object_get(manifest, "objects");
    json_t *format = json_object_get(manifest, "format");
    const char *name;
    json_t *entry;

    json_object_foreach (objects, name, entry)
        if (json_object_get(entry, "domain") &&
            json_integer_value(format) == MANIFEST_FORMAT) {
            json_object_set_new(manifest, "format",
                                json_integer(MANIFEST_FORMAT_DOMAIN));
            return;
        }
}

static int check_members(const json_t *manifest, struct vn_err *err)
{
    const char *name;
    const char *kind;
    const char *created;
    json_t *objects;
    json_t *meta;
    uint64_t format;

    if (jsonx_u64(manifest, "format", &format, err) < 0)
        return -1;
    if (format != MANIFEST_FORMAT && format != MANIFEST_FORMAT_DOMAIN)
        return vn_fail(err, VN_E_VERSION,
                       "the manifest has format %llu, this program knows "
                       "formats %u and %u",
                       (unsigned long long)format, MANIFEST_FORMAT,
                       MANIFEST_FORMAT_DOMAIN);
    if (jsonx_string(manifest, "name", &name, err) < 0 ||
        check_name(name, err) < 0 ||
        jsonx_string(manifest, "kind", &kind, err) < 0 ||
        jsonx_string(manifest, "created", &created, err) < 0 ||
        jsonx_object(manifest, "meta", &meta, err) < 0 ||
        jsonx_object(manifest, "objects", &objects, err) < 0)
        return -1;
    if (!*kind || strlen(kind) > KIND_MAX)
        return vn_fail(err, VN_E_FORMAT, "'kind' has 1 to %u characters",
                       KIND_MAX);
    if (strlen(created) > 31)
        return vn_fail(err, VN_E_FORMAT, "'created' is not a time");
    return check_objects(objects, format, err);
}

int manifest_check(const json_t *manifest, struct vn_err *err)
{
    return check_members(manifest, err) < 0
               ? vn_wrap(err, "manifest of '%.128s'",
                         jsonx_string_or(manifest, "name", "?"))
               : 0;
}
