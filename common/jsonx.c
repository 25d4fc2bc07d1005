#include "common/jsonx.h"

#include "common/auto.h"

#include <assert.h>
#include <stdlib.h>

json_t *jsonx_parse(const char *text, size_t size, const char *what,
                    struct vn_err *err)
{
    json_error_t where;
    json_t *json = json_loadb(text, size, JSON_REJECT_DUPLICATES, &where);

    if (!json)
        return vn_fail_ptr(err, VN_E_FORMAT, "%s: line %d column %d: %s", what,
                           where.line, where.column, where.text);
    return json;
}

char *jsonx_text(const json_t *json)
{
    char *text =
        json_dumps(json, JSON_SORT_KEYS | JSON_COMPACT | JSON_ENCODE_ANY);

    if (!text)
        abort();
    return text;
}

static int missing(const json_t *object, const char *key, const char *type,
                   struct vn_err *err)
{
    if (!json_is_object(object))
        return vn_fail(err, VN_E_FORMAT, "expected an object with '%s'", key);
    if (!json_object_get(object, key))
        return vn_fail(err, VN_E_FORMAT, "'%s' is missing", key);
    return vn_fail(err, VN_E_FORMAT, "'%s' is not %s", key, type);
}

int jsonx_string(const json_t *object, const char *key, const char **ret,
                 struct vn_err *err)
{
    json_t *value = json_object_get(object, key);

    if (!json_is_string(value))
        return missing(object, key, "a string", err);
    *ret = json_string_value(value);
    return 0;
}

int jsonx_u64(const json_t *object, const char *key, uint64_t *ret,
              struct vn_err *err)
{
    json_t *value = json_object_get(object, key);

    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return missing(object, key, "a whole number >= 0", err);
    *ret = (uint64_t)json_integer_value(value);
    return 0;
}

int jsonx_u32(const json_t *object, const char *key, uint32_t max,
              uint32_t *ret, struct vn_err *err)
{
    uint64_t value;

    if (jsonx_u64(object, key, &value, err) < 0)
        return -1;
    if (value > max)
        return vn_fail(err, VN_E_LIMIT, "'%s' is %llu, at most %u is allowed",
                       key, (unsigned long long)value, max);
    *ret = (uint32_t)value;
    return 0;
}

int jsonx_bool(const json_t *object, const char *key, bool *ret,
               struct vn_err *err)
{
    json_t *value = json_object_get(object, key);

    if (!json_is_boolean(value))
        return missing(object, key, "true or false", err);
    *ret = json_is_true(value);
    return 0;
}

int jsonx_array(const json_t *object, const char *key, json_t **ret,
                struct vn_err *err)
{
    json_t *value = json_object_get(object, key);

    if (!json_is_array(value))
        return missing(object, key, "an array", err);
    *ret = value;
    return 0;
}

int jsonx_object(const json_t *object, const char *key, json_t **ret,
                 struct vn_err *err)
{
    json_t *value = json_object_get(object, key);

    if (!json_is_object(value))
        return missing(object, key, "an object", err);
    *ret = value;
    return 0;
}

const char *jsonx_string_or(const json_t *object, const char *key,
                            const char *otherwise)
{
    json_t *value = json_object_get(object, key);

    return json_is_string(value) ? json_string_value(value) : otherwise;
}

uint64_t jsonx_u64_or(const json_t *object, const char *key, uint64_t otherwise)
{
    json_t *value = json_object_get(object, key);

    return json_is_integer(value) && json_integer_value(value) >= 0
               ? (uint64_t)json_integer_value(value)
               : otherwise;
}

bool jsonx_bool_or(const json_t *object, const char *key, bool otherwise)
{
    json_t *value = json_object_get(object, key);

    return json_is_boolean(value) ? json_is_true(value) : otherwise;
}

json_t *jsonx_int(uint64_t value)
{
    assert(value <= INT64_MAX);
    return json_integer((json_int_t)value);
}

json_t *jsonx_any_string(const char *text)
{
    json_t *json = json_string(text);
    char *copy;

    if (json)
        return json;
    copy = vn_strdup(text);
    for (char *p = copy; *p; p++)
        if ((unsigned char)*p >= 0x80)
            *p = '?';
    json = json_string(copy);
    free(copy);
    return json;
}
