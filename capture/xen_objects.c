#include "capture/xen_objects.h"

#include "common/jsonx.h"

#include <assert.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char *xen_object_memory(const char *vm)
{
    return vn_format("vm/%s/ram/memory", vm);
}

char *xen_object_types(const char *vm)
{
    return vn_format("vm/%s/xen.types", vm);
}

char *xen_object_head(const char *vm)
{
    return vn_format("vm/%s/xen.head", vm);
}

char *xen_object_tail(const char *vm)
{
    return vn_format("vm/%s/device.state", vm);
}

char *xen_object_emulator(const char *vm)
{
    return vn_format("vm/%s/xen.emulator", vm);
}

char *xen_object_disk(const char *vm, unsigned disk)
{
    return vn_format("vm/%s/disk/%u", vm, disk);
}

/* ---- libxl's configuration --------------------------------------------- */

static const char *const type_names[] = {"pv", "pvh", "hvm"};

/* One of ours, equal to `text`, or NULL. */
static const char *known_type(const char *text)
{
    for (size_t i = 0; text && i < VN_COUNT(type_names); i++)
        if (!strcmp(type_names[i], text))
            return type_names[i];
    return NULL;
}

/* libxl writes the union's discriminator into the key of its value: "type.pvh"
 * and no "type" beside it. */
static const char *build_type(const json_t *build)
{
    const char *type = jsonx_string_or(build, "type", NULL);

    for (size_t i = 0; !type && i < VN_COUNT(type_names); i++) {
        char key[16];

        snprintf(key, sizeof(key), "type.%s", type_names[i]);
        if (json_object_get(build, key))
            type = type_names[i];
    }
    return type;
}

const char *xen_config_type(const json_t *config, struct vn_err *err)
{
    const json_t *build = json_object_get(config, "b_info");
    const char *create =
        jsonx_string_or(json_object_get(config, "c_info"), "type", NULL);
    const char *type = create ? create : build_type(build);
    const char *known = known_type(type);

    if (!type)
        return vn_fail_ptr(err, VN_E_FORMAT,
                           "libxl's configuration does not say the domain's "
                           "type");
    if (!known)
        return vn_fail_ptr(err, VN_E_UNSUPPORTED,
                           "a domain of type '%.16s', not pv, pvh or hvm",
                           type);
    if (create && build_type(build) && strcmp(create, build_type(build)))
        return vn_fail_ptr(err, VN_E_FORMAT,
                           "libxl's configuration says two types, %s and "
                           "'%.16s'",
                           create, build_type(build));
    return known;
}

/* ---- the manifest's entry ---------------------------------------------- */

#define VERSION_PART_MAX 65535u

void xen_state_done(struct xen_state *state)
{
    json_decref(state->config);
    memset(state, 0, sizeof(*state));
}

json_t *xen_state_to_json(const struct xen_stream *stream, const json_t *config)
{
    struct vn_err err = VN_ERR_INIT;
    const char *type = xen_config_type(config, &err);
    json_t *json = json_object();
    unsigned major, minor;
    char version[16];

    assert(type && json);
    xen_stream_version(stream, &major, &minor);
    if (major > VERSION_PART_MAX)
        major = VERSION_PART_MAX;
    if (minor > VERSION_PART_MAX)
        minor = VERSION_PART_MAX;
    snprintf(version, sizeof(version), "%u.%u", major, minor);
    json_object_set_new(json, "backend", json_string("xen"));
    json_object_set_new(json, "type", json_string(type));
    json_object_set_new(json, "xen_version", json_string(version));
    json_object_set_new(json, "xl_config", json_deep_copy(config));
    return json;
}

/* Numbers with dots: "4.17", "4.17.7". */
static bool is_version(const char *text)
{
    unsigned dots = 0;

    for (const char *p = text; *p; p++) {
        if (*p == '.' && p > text && p[-1] != '.' && p[1])
            dots++;
        else if (!isdigit((unsigned char)*p))
            return false;
    }
    return dots == 1 || dots == 2;
}

static int read_version(const json_t *json, struct xen_state *state,
                        struct vn_err *err)
{
    const char *version;

    if (jsonx_string(json, "xen_version", &version, err) < 0)
        return -1;
    if (strlen(version) >= sizeof(state->xen_version) || !is_version(version))
        return vn_fail(err, VN_E_FORMAT, "'xen_version' is not like 4.17");
    memcpy(state->xen_version, version, strlen(version) + 1);
    return 0;
}

static int read_type(const json_t *json, const json_t *config,
                     struct xen_state *state, struct vn_err *err)
{
    const char *type, *said;

    if (jsonx_string(json, "type", &type, err) < 0)
        return -1;
    said = xen_config_type(config, err);
    if (!said)
        return -1;
    if (strcmp(type, said))
        return vn_fail(err, VN_E_FORMAT,
                       "'type' is not what libxl's configuration says, %s",
                       said);
    memcpy(state->type, said, strlen(said) + 1);
    return 0;
}

/* Is it no larger, as text, than a file of xl may have it? */
static int check_size(const json_t *config, struct vn_err *err)
{
    size_t size = json_dumpb(config, NULL, 0, JSON_COMPACT);

    if (!size || size >= XEN_CONFIG_MAX)
        return vn_fail(err, VN_E_LIMIT,
                       "'xl_config' has %zu bytes, at most %u are allowed",
                       size, XEN_CONFIG_MAX - 1);
    return 0;
}

int xen_state_from_json(const json_t *json, struct xen_state *ret,
                        struct vn_err *err)
{
    struct xen_state state = {.config = NULL};
    const char *backend;
    json_t *config;

    if (jsonx_string(json, "backend", &backend, err) < 0)
        return -1;
    if (strcmp(backend, "xen"))
        return vn_fail(err, VN_E_UNSUPPORTED, "not a state of Xen");
    if (read_version(json, &state, err) < 0 ||
        jsonx_object(json, "xl_config", &config, err) < 0 ||
        check_size(config, err) < 0 || read_type(json, config, &state, err) < 0)
        return -1;
    state.config = json_deep_copy(config);
    if (!state.config)
        return vn_fail(err, VN_E_LIMIT, "no memory for 'xl_config'");
    *ret = state;
    return 0;
}
