#include "restore/xen_config.h"

#include "capture/xen_stream.h"
#include "common/io.h"
#include "common/jsonx.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define CONFIG_OF "the domain's configuration"

/* An object that may be absent: then an empty one is put there, so that what
 * is set in it counts. Borrowed; NULL and an error when it is anything else. */
static json_t *section(json_t *object, const char *key, struct vn_err *err)
{
    json_t *value = json_object_get(object, key);

    if (!value || json_is_null(value)) {
        value = json_object();
        json_object_set_new(object, key, value);
    }
    if (!json_is_object(value))
        return vn_fail_ptr(err, VN_E_FORMAT, "'%s' is not an object", key);
    return value;
}

/* The objects of an array that may be absent (*ret is NULL then). */
static int list(json_t *object, const char *key, json_t **ret,
                struct vn_err *err)
{
    json_t *value = json_object_get(object, key), *item;
    size_t i;

    *ret = NULL;
    if (!value || json_is_null(value))
        return 0;
    if (!json_is_array(value))
        return vn_fail(err, VN_E_FORMAT, "'%s' is not an array", key);
    json_array_foreach (value, i, item) {
        if (!json_is_object(item))
            return vn_fail(err, VN_E_FORMAT, "'%s' entry %zu is not an object",
                           key, i);
    }
    *ret = value;
    return 0;
}

static void remove_keys(json_t *object, const char *const *keys)
{
    for (; *keys; keys++)
        json_object_del(object, *keys);
}

/* ---- the domain --------------------------------------------------------- */

/* Random, version 4 (RFC 9562, 5.4): libxl files a domain under its UUID, so
 * two copies on one host need two. */
static int set_uuid(json_t *c_info, struct vn_err *err)
{
    uint8_t id[16];
    char hex[33], text[37];

    if (io_random(id, sizeof(id), err) < 0)
        return vn_wrap(err, "a new UUID");
    id[6] = (uint8_t)((id[6] & 0x0f) | 0x40);
    id[8] = (uint8_t)((id[8] & 0x3f) | 0x80);
    io_hex(id, sizeof(id), hex);
    snprintf(text, sizeof(text), "%.8s-%.4s-%.4s-%.4s-%.12s", hex, hex + 8,
             hex + 12, hex + 16, hex + 20);
    json_object_set_new(c_info, "uuid", json_string(text));
    return 0;
}

static int adapt_domain(json_t *json, const struct vm_config *config,
                        struct vn_err *err)
{
    static const char *const of_create[] = {"domid", "poolid", "pool_name",
                                            NULL};
    static const char *const of_build[] = {
        "cpumap",         "nodemap", "vcpu_hard_affinity", "vcpu_soft_affinity",
        "numa_placement", NULL};
    json_t *c_info = section(json, "c_info", err);
    json_t *b_info = c_info ? section(json, "b_info", err) : NULL;

    if (!b_info || set_uuid(c_info, err) < 0)
        return -1;
    json_object_set_new(c_info, "name", json_string(config->name));
    remove_keys(c_info, of_create);
    remove_keys(b_info, of_build);
    return 0;
}

/* ---- disks -------------------------------------------------------------- */

char *xen_config_disk_device(const char *path)
{
    struct stat st;

    if (stat(path, &st) == 0 && S_ISBLK(st.st_mode))
        return vn_strdup(path);
    return xen_cfg_device_path(path);
}

/* A drive with no medium in it. */
static bool is_empty_drive(const json_t *disk)
{
    return !strcmp(jsonx_string_or(disk, "format", ""), "empty") ||
           (json_integer_value(json_object_get(disk, "is_cdrom")) != 0 &&
            !*jsonx_string_or(disk, "pdev_path", ""));
}

static int adapt_disk(json_t *json, const struct vm_disk *disk,
                      struct vn_err *err)
{
    static const char *const of_disk[] = {"backend_domid", "backend_domname",
                                          "script", NULL};
    vn_auto(free) char *device = xen_config_disk_device(disk->path);
    json_t *path = json_string(device);

    if (!path)
        return vn_fail(err, VN_E_FORMAT, "the path '%s' is not UTF-8", device);
    json_object_set_new(json, "pdev_path", path);
    json_object_set_new(json, "format", json_string("raw"));
    json_object_set_new(json, "backend", json_string("phy"));
    remove_keys(json, of_disk);
    return 0;
}

static int count_mismatch(const char *what, size_t have,
                          const struct vm_config *config, unsigned want,
                          struct vn_err *err)
{
    return vn_fail(err, VN_E_FORMAT, "it has %zu %s, but VM '%s' has %u", have,
                   what, config->name, want);
}

static int adapt_disks(json_t *json, const struct vm_config *config,
                       struct vn_err *err)
{
    json_t *disks, *disk;
    size_t i, count = 0;

    if (list(json, "disks", &disks, err) < 0)
        return -1;
    json_array_foreach (disks, i, disk)
        count += !is_empty_drive(disk);
    if (count != config->disk_count)
        return count_mismatch("disks", count, config, config->disk_count, err);
    count = 0;
    json_array_foreach (disks, i, disk) {
        if (is_empty_drive(disk))
            continue;
        if (adapt_disk(disk, &config->disks[count++], err) < 0)
            return vn_wrap(err, "disk %zu", i);
    }
    return 0;
}

/* ---- NICs --------------------------------------------------------------- */

static int adapt_nics(json_t *json, const struct vm_config *config,
                      struct vn_err *err)
{
    static const char *const of_nic[] = {"bridge",        "ifname",
                                         "backend_domid", "backend_domname",
                                         "gatewaydev",    NULL};
    const char *script = getenv("VN_VIF_SCRIPT");
    json_t *nics, *nic;
    size_t i;

    if (!script)
        script = XEN_CFG_VIF_SCRIPT;
    if (list(json, "nics", &nics, err) < 0)
        return -1;
    if (json_array_size(nics) != config->nic_count)
        return count_mismatch("NICs", json_array_size(nics), config,
                              config->nic_count, err);
    json_array_foreach (nics, i, nic) {
        if (config->nics[i].mac)
            json_object_set_new(nic, "mac", json_string(config->nics[i].mac));
        json_object_set_new(nic, "script", json_string(script));
        remove_keys(nic, of_nic);
    }
    return 0;
}

/* ---- all ---------------------------------------------------------------- */

json_t *xen_config_adapt(const json_t *captured, const struct vm_config *config,
                         struct vn_err *err)
{
    vn_auto(json) json_t *json = json_deep_copy(captured);

    if (!json_is_object(json))
        return vn_fail_ptr(err, VN_E_FORMAT, CONFIG_OF " is not an object");
    if (adapt_domain(json, config, err) < 0 ||
        adapt_disks(json, config, err) < 0 ||
        adapt_nics(json, config, err) < 0) {
        vn_wrap(err, CONFIG_OF);
        return NULL;
    }
    return vn_steal(&json);
}

char *xen_config_text(const json_t *config, struct vn_err *err)
{
    vn_auto(free) char *text = json_dumps(config, JSON_COMPACT);

    if (!text)
        return vn_fail_ptr(err, VN_E_FORMAT, CONFIG_OF " is not JSON");
    if (strlen(text) >= XEN_CONFIG_MAX)
        return vn_fail_ptr(err, VN_E_LIMIT,
                           CONFIG_OF " has %zu bytes, more than %u",
                           strlen(text), XEN_CONFIG_MAX - 1);
    return vn_steal(&text);
}
