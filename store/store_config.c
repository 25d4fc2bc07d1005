#include "store/store_config.h"

#include "common/io.h"
#include "common/jsonx.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define CONFIG_SIZE_MAX 65536u

static const char *const identity_names[] = {
    [STORE_BLAKE3] = "blake3",
    [STORE_SHA256] = "sha256",
};

const char *store_identity_name(enum store_identity identity)
{
    return identity_names[identity];
}

bool store_identity_parse(const char *name, enum store_identity *ret)
{
    for (size_t i = 0; i < VN_COUNT(identity_names); i++)
        if (strcmp(name, identity_names[i]) == 0) {
            *ret = (enum store_identity)i;
            return true;
        }
    return false;
}

int store_config_draw(struct store_config *ret, struct vn_err *err)
{
    struct store_config config = {.identity = STORE_BLAKE3};

    if (io_random(config.store_id, sizeof(config.store_id), err) < 0 ||
        io_random(config.key, sizeof(config.key), err) < 0 ||
        io_random(config.secret, sizeof(config.secret), err) < 0)
        return vn_wrap(err, "drawing the store's secrets");
    *ret = config;
    return 0;
}

static void set_hex(json_t *json, const char *key, const void *data,
                    size_t size)
{
    char hex[2 * IDENT_SECRET_SIZE + 1];

    io_hex(data, size, hex);
    json_object_set_new(json, key, json_string(hex));
}

int store_config_write(const char *dir, const struct store_config *config,
                       struct vn_err *err)
{
    vn_auto(free) char *path = vn_format("%s/config.json", dir);
    vn_auto(json) json_t *json = json_object();
    vn_auto(free) char *text = NULL;

    json_object_set_new(json, "format", json_integer(STORE_FORMAT));
    json_object_set_new(json, "identity",
                        json_string(identity_names[config->identity]));
    set_hex(json, "store_id", config->store_id, sizeof(config->store_id));
    set_hex(json, "key", config->key, sizeof(config->key));
    set_hex(json, "secret", config->secret, sizeof(config->secret));
    text = json_dumps(json, JSON_SORT_KEYS | JSON_INDENT(2));
    if (!text)
        abort();
    return io_replace_file(path, text, strlen(text), err);
}

static int get_hex(const json_t *json, const char *key, void *data, size_t size,
                   struct vn_err *err)
{
    const char *text;

    if (jsonx_string(json, key, &text, err) < 0)
        return -1;
    return io_unhex(text, data, size, err) < 0 ? vn_wrap(err, "'%s'", key) : 0;
}

static int parse_json(const json_t *json, struct store_config *config,
                      struct vn_err *err)
{
    const char *identity;
    uint64_t format;

    if (jsonx_u64(json, "format", &format, err) < 0)
        return -1;
    if (format != STORE_FORMAT)
        return vn_fail(err, VN_E_VERSION,
                       "the store has format %llu, this program knows format "
                       "%u",
                       (unsigned long long)format, STORE_FORMAT);
    if (jsonx_string(json, "identity", &identity, err) < 0)
        return -1;
    if (!store_identity_parse(identity, &config->identity))
        return vn_fail(err, VN_E_VERSION,
                       "the store identifies chunks by '%.40s', this program "
                       "knows 'blake3' and 'sha256'",
                       identity);
    if (get_hex(json, "store_id", config->store_id, sizeof(config->store_id),
                err) < 0 ||
        get_hex(json, "key", config->key, sizeof(config->key), err) < 0 ||
        get_hex(json, "secret", config->secret, sizeof(config->secret), err) <
            0)
        return -1;
    return 0;
}

int store_config_parse(const char *text, size_t size, const char *name,
                       struct store_config *ret, struct vn_err *err)
{
    vn_auto(json) json_t *json = jsonx_parse(text, size, name, err);
    struct store_config config = {.identity = STORE_BLAKE3};

    if (!json)
        return -1;
    if (parse_json(json, &config, err) < 0)
        return vn_wrap(err, "'%s'", name);
    *ret = config;
    return 0;
}

int store_config_read(const char *dir, struct store_config *ret,
                      struct vn_err *err)
{
    vn_auto(free) char *path = vn_format("%s/config.json", dir);
    vn_auto(buf) struct buf text;

    buf_init(&text, CONFIG_SIZE_MAX);
    if (access(path, F_OK) < 0 && (errno == ENOENT || errno == ENOTDIR))
        return vn_fail(err, VN_E_NOT_FOUND, "no store at '%s'", dir);
    if (io_read_file(path, &text, err) < 0)
        return -1;
    return store_config_parse((const char *)text.data, text.size, path, ret,
                              err);
}
