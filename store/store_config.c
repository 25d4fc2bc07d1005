#include "store/store_config.h"

#include "common/io.h"
#include "common/jsonx.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/*
 * "check" is the checksum of the other values: who lost a digit of the key
 * would else read nothing and, worse, write chunks whose ids nobody finds
 * again. It is computed from what was understood, not from the text, so the
 * file may be laid out anew. Stores that were made without it are taken as they
 * are.
 */

#define CONFIG_SIZE_MAX 65536u
#define CHECK_SIZE      16u

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

static void compute_check(const struct store_config *config,
                          uint8_t ret[CHECK_SIZE])
{
    char hex[3][2 * IDENT_SECRET_SIZE + 1];
    vn_auto(free) char *text = NULL;

    io_hex(config->store_id, sizeof(config->store_id), hex[0]);
    io_hex(config->key, sizeof(config->key), hex[1]);
    io_hex(config->secret, sizeof(config->secret), hex[2]);
    text = vn_format("%u %s %s %s %s", STORE_FORMAT,
                     store_identity_name(config->identity), hex[0], hex[1],
                     hex[2]);
    ident_check(text, strlen(text), ret);
    explicit_bzero(text, strlen(text));
    explicit_bzero(hex, sizeof(hex));
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
    uint8_t check[CHECK_SIZE];

    compute_check(config, check);
    json_object_set_new(json, "format", json_integer(STORE_FORMAT));
    json_object_set_new(json, "identity",
                        json_string(identity_names[config->identity]));
    set_hex(json, "store_id", config->store_id, sizeof(config->store_id));
    set_hex(json, "key", config->key, sizeof(config->key));
    set_hex(json, "secret", config->secret, sizeof(config->secret));
    set_hex(json, "check", check, sizeof(check));
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

static int verify_check(const json_t *json, const struct store_config *config,
                        struct vn_err *err)
{
    uint8_t wanted[CHECK_SIZE];
    uint8_t found[CHECK_SIZE];

    if (!json_object_get(json, "check"))
        return 0;
    compute_check(config, wanted);
    if (get_hex(json, "check", found, sizeof(found), err) < 0)
        return -1;
    if (memcmp(found, wanted, CHECK_SIZE) != 0)
        return vn_fail(err, VN_E_CORRUPT,
                       "a value was changed: it does not fit its 'check'");
    return 0;
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
    return verify_check(json, config, err);
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
