#ifndef COMMON_JSONX_H
#define COMMON_JSONX_H

/*
 * Strict reading of JSON objects that came from elsewhere. Every getter names
 * the missing or mistyped key in its error. Strings returned belong to the
 * object.
 */

#include "common/err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* Parse text; duplicate keys are refused. `what` names it in errors. */
json_t *jsonx_parse(const char *text, size_t size, const char *what,
                    struct vn_err *err) VN_MUST_USE;

/* Canonical text: sorted keys, compact. Owned by the caller (free). */
char *jsonx_text(const json_t *json);

int jsonx_string(const json_t *object, const char *key, const char **ret,
                 struct vn_err *err) VN_MUST_USE;
int jsonx_u64(const json_t *object, const char *key, uint64_t *ret,
              struct vn_err *err) VN_MUST_USE;
/* As u64, refusing values above `max`. */
int jsonx_u32(const json_t *object, const char *key, uint32_t max,
              uint32_t *ret, struct vn_err *err) VN_MUST_USE;
int jsonx_bool(const json_t *object, const char *key, bool *ret,
               struct vn_err *err) VN_MUST_USE;
/* Borrowed. */
int jsonx_array(const json_t *object, const char *key, json_t **ret,
                struct vn_err *err) VN_MUST_USE;
int jsonx_object(const json_t *object, const char *key, json_t **ret,
                 struct vn_err *err) VN_MUST_USE;

/* Optional: the value, or `otherwise` where the key is absent or mistyped. */
const char *jsonx_string_or(const json_t *object, const char *key,
                            const char *otherwise);
uint64_t jsonx_u64_or(const json_t *object, const char *key,
                      uint64_t otherwise);
bool jsonx_bool_or(const json_t *object, const char *key, bool otherwise);

/* A string of text that may not be UTF-8 (a log, a guest's words): such bytes
 * become '?'. Never NULL. */
json_t *jsonx_any_string(const char *text);

/* json_integer of an unsigned value; asserts that it is below 2^63. */
json_t *jsonx_int(uint64_t value);

#endif
