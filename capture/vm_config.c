/* What a VM is: as JSON, back with every limit checked, and modes by name. */
#include "capture/vm.h"

#include "common/jsonx.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static const char *const mode_names[] = {
    [VM_MODE_AUTO] = "auto",
    [VM_MODE_COW] = "cow",
    [VM_MODE_PRECOPY] = "precopy",
    [VM_MODE_STOP] = "stop",
};

static const char *const nic_kinds[] = {
    [VM_NIC_FD] = "fd",
    [VM_NIC_TAP] = "tap",
    [VM_NIC_UNIX] = "unix",
    [VM_NIC_VIF] = "vif",
};

const char *vm_mode_name(enum vm_mode mode)
{
    assert((size_t)mode < VN_COUNT(mode_names));
    return mode_names[mode];
}

int vm_mode_parse(const char *text, enum vm_mode *ret, struct vn_err *err)
{
    for (size_t i = 0; i < VN_COUNT(mode_names); i++) {
        if (strcmp(text, mode_names[i]) == 0) {
            *ret = (enum vm_mode)i;
            return 0;
        }
    }
    return vn_fail(err, VN_E_FORMAT,
                   "mode '%s' is none of auto, cow, precopy, stop", text);
}

void vm_config_done(struct vm_config *config)
{
    char *texts[] = {config->name,   config->backend, config->machine,
                     config->cpu,    config->accel,   config->kernel,
                     config->initrd, config->append,  config->qmp,
                     config->type,   config->domain};

    for (size_t i = 0; i < VN_COUNT(texts); i++)
        free(texts[i]);
    for (char **arg = config->extra_args; arg && *arg; arg++)
        free(*arg);
    free(config->extra_args);
    for (unsigned i = 0; i < config->nic_count; i++) {
        free(config->nics[i].mac);
        free(config->nics[i].model);
        free(config->nics[i].tap);
        free(config->nics[i].unix_local);
        free(config->nics[i].unix_remote);
    }
    for (unsigned i = 0; i < config->disk_count; i++) {
        free(config->disks[i].path);
        free(config->disks[i].format);
    }
    memset(config, 0, sizeof(*config));
}

bool vm_config_is_attached(const struct vm_config *config)
{
    return config->qmp || config->domain;
}

/* ---- to JSON ------------------------------------------------------------ */

static void put_text(json_t *object, const char *key, const char *text)
{
    if (text)
        json_object_set_new(object, key, json_string(text));
}

static json_t *nic_to_json(const struct vm_nic *nic)
{
    json_t *json = json_object();

    put_text(json, "mac", nic->mac);
    put_text(json, "model", nic->model);
    put_text(json, "kind", nic_kinds[nic->kind]);
    put_text(json, "tap", nic->tap);
    put_text(json, "unix_local", nic->unix_local);
    put_text(json, "unix_remote", nic->unix_remote);
    return json;
}

json_t *vm_config_to_json(const struct vm_config *config)
{
    json_t *json = json_object();
    json_t *args = json_array();
    json_t *nics = json_array();
    json_t *disks = json_array();

    put_text(json, "name", config->name);
    put_text(json, "backend", config->backend);
    json_object_set_new(json, "memory_bytes", jsonx_int(config->memory_bytes));
    json_object_set_new(json, "cpus", jsonx_int(config->cpus));
    put_text(json, "machine", config->machine);
    put_text(json, "cpu", config->cpu);
    put_text(json, "accel", config->accel);
    put_text(json, "kernel", config->kernel);
    put_text(json, "initrd", config->initrd);
    put_text(json, "append", config->append);
    put_text(json, "qmp", config->qmp);
    put_text(json, "type", config->type);
    put_text(json, "domain", config->domain);
    for (char **arg = config->extra_args; arg && *arg; arg++)
        json_array_append_new(args, json_string(*arg));
    json_object_set_new(json, "extra_args", args);
    for (unsigned i = 0; i < config->nic_count; i++)
        json_array_append_new(nics, nic_to_json(&config->nics[i]));
    json_object_set_new(json, "nics", nics);
    for (unsigned i = 0; i < config->disk_count; i++) {
        json_t *disk = json_object();

        put_text(disk, "path", config->disks[i].path);
        put_text(disk, "format", config->disks[i].format);
        json_array_append_new(disks, disk);
    }
    json_object_set_new(json, "disks", disks);
    return json;
}

/* ---- from JSON ---------------------------------------------------------- */

/* A string that may be absent: *ret stays NULL then. */
static int get_text(const json_t *object, const char *key, char **ret,
                    struct vn_err *err)
{
    const char *text;

    if (!json_object_get(object, key))
        return 0;
    if (jsonx_string(object, key, &text, err) < 0)
        return -1;
    if (strlen(text) > VM_TEXT_MAX)
        return vn_fail(err, VN_E_LIMIT, "'%s' is longer than %d bytes", key,
                       VM_TEXT_MAX);
    if (!*text)
        return vn_fail(err, VN_E_FORMAT, "'%s' is empty", key);
    *ret = vn_strdup(text);
    return 0;
}

static int need_text(const json_t *object, const char *key, char **ret,
                     struct vn_err *err)
{
    const char *text;

    if (jsonx_string(object, key, &text, err) < 0)
        return -1;
    return get_text(object, key, ret, err);
}

/* A name becomes part of paths, object names and command lines. */
static int check_name(const char *name, struct vn_err *err)
{
    size_t len = strlen(name);

    if (len > VM_NAME_MAX)
        return vn_fail(err, VN_E_LIMIT, "'name' is longer than %d bytes",
                       VM_NAME_MAX);
    if (name[0] == '.' || name[0] == '-' ||
        strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                     "0123456789._-") != len)
        return vn_fail(err, VN_E_FORMAT,
                       "'name' may hold letters, digits, '.', '_' and '-'");
    return 0;
}

/* A unicast address, "52:54:00:12:34:56". */
static int check_mac(const char *mac, struct vn_err *err)
{
    static const char hex[] = "0123456789abcdefABCDEF";
    bool good = strlen(mac) == 17;

    for (size_t i = 0; good && i < 17; i++)
        good = i % 3 == 2 ? mac[i] == ':' : strchr(hex, mac[i]) != NULL;
    if (!good)
        return vn_fail(err, VN_E_FORMAT, "'mac' is not like 52:54:00:12:34:56");
    if ((strtoul(mac, NULL, 16) & 1) != 0)
        return vn_fail(err, VN_E_FORMAT, "'mac' is a multicast address");
    return 0;
}

static int nic_from_json(const json_t *json, struct vm_nic *nic,
                         struct vn_err *err)
{
    const char *kind;

    nic->fd = -1;
    if (need_text(json, "mac", &nic->mac, err) < 0 ||
        check_mac(nic->mac, err) < 0 ||
        get_text(json, "model", &nic->model, err) < 0 ||
        get_text(json, "tap", &nic->tap, err) < 0 ||
        get_text(json, "unix_local", &nic->unix_local, err) < 0 ||
        get_text(json, "unix_remote", &nic->unix_remote, err) < 0 ||
        jsonx_string(json, "kind", &kind, err) < 0)
        return -1;
    if (strcmp(kind, "fd") == 0)
        nic->kind = VM_NIC_FD;
    else if (strcmp(kind, "tap") == 0)
        nic->kind = VM_NIC_TAP;
    else if (strcmp(kind, "unix") == 0)
        nic->kind = VM_NIC_UNIX;
    else if (strcmp(kind, "vif") == 0)
        nic->kind = VM_NIC_VIF;
    else
        return vn_fail(err, VN_E_FORMAT,
                       "'kind' is none of fd, tap, unix, vif");
    if (nic->kind == VM_NIC_TAP && !nic->tap)
        return vn_fail(err, VN_E_FORMAT, "'tap' is missing");
    if (nic->kind == VM_NIC_UNIX && !(nic->unix_local && nic->unix_remote))
        return vn_fail(err, VN_E_FORMAT,
                       "'unix_local' or 'unix_remote' is missing");
    return 0;
}

static int disk_from_json(const json_t *json, struct vm_disk *disk,
                          struct vn_err *err)
{
    if (need_text(json, "path", &disk->path, err) < 0 ||
        need_text(json, "format", &disk->format, err) < 0)
        return -1;
    if (strcmp(disk->format, "raw") != 0 && strcmp(disk->format, "qcow2") != 0)
        return vn_fail(err, VN_E_FORMAT, "'format' is neither raw nor qcow2");
    return 0;
}

/* An array that may be absent, of at most `max` elements. */
static int get_array(const json_t *object, const char *key, size_t max,
                     json_t **ret, struct vn_err *err)
{
    *ret = NULL;
    if (!json_object_get(object, key))
        return 0;
    if (jsonx_array(object, key, ret, err) < 0)
        return -1;
    if (json_array_size(*ret) > max)
        return vn_fail(err, VN_E_LIMIT, "'%s' has more than %zu entries", key,
                       max);
    return 0;
}

static int args_from_json(const json_t *json, struct vm_config *config,
                          struct vn_err *err)
{
    json_t *args;
    size_t count;

    if (get_array(json, "extra_args", VM_ARGS_MAX, &args, err) < 0)
        return -1;
    count = json_array_size(args);
    if (!count)
        return 0;
    config->extra_args = vn_alloc((count + 1) * sizeof(char *));
    for (size_t i = 0; i < count; i++) {
        const char *arg = json_string_value(json_array_get(args, i));

        if (!arg || strlen(arg) > VM_TEXT_MAX)
            return vn_fail(err, VN_E_FORMAT,
                           "'extra_args' entry %zu is no string of at most %d "
                           "bytes",
                           i, VM_TEXT_MAX);
        config->extra_args[i] = vn_strdup(arg);
    }
    return 0;
}

static int devices_from_json(const json_t *json, struct vm_config *config,
                             struct vn_err *err)
{
    json_t *nics, *disks;

    if (get_array(json, "nics", VM_NICS_MAX, &nics, err) < 0 ||
        get_array(json, "disks", VM_DISKS_MAX, &disks, err) < 0)
        return -1;
    for (size_t i = 0; i < json_array_size(nics); i++) {
        config->nic_count++;
        if (nic_from_json(json_array_get(nics, i), &config->nics[i], err) < 0)
            return vn_wrap(err, "nic %zu", i);
    }
    for (size_t i = 0; i < json_array_size(disks); i++) {
        config->disk_count++;
        if (disk_from_json(json_array_get(disks, i), &config->disks[i], err) <
            0)
            return vn_wrap(err, "disk %zu", i);
    }
    return 0;
}

static int texts_from_json(const json_t *json, struct vm_config *config,
                           struct vn_err *err)
{
    const struct {
        const char *key;
        char **to;
    } texts[] = {
        {"backend", &config->backend}, {"machine", &config->machine},
        {"cpu", &config->cpu},         {"accel", &config->accel},
        {"kernel", &config->kernel},   {"initrd", &config->initrd},
        {"append", &config->append},   {"qmp", &config->qmp},
        {"type", &config->type},       {"domain", &config->domain},
    };

    for (size_t i = 0; i < VN_COUNT(texts); i++) {
        if (get_text(json, texts[i].key, texts[i].to, err) < 0)
            return -1;
    }
    return 0;
}

static int check_type(const struct vm_config *config, struct vn_err *err)
{
    const char *type = config->type;

    if (!type || !strcmp(type, "pvh") || !strcmp(type, "pv") ||
        !strcmp(type, "hvm"))
        return 0;
    return vn_fail(err, VN_E_FORMAT, "'type' is none of pvh, pv, hvm");
}

static int fill(const json_t *json, struct vm_config *config,
                struct vn_err *err)
{
    const uint64_t unit = 1u << 20;
    uint64_t memory;

    if (texts_from_json(json, config, err) < 0 || check_type(config, err) < 0 ||
        jsonx_u64(json, "memory_bytes", &memory, err) < 0 ||
        jsonx_u32(json, "cpus", VM_CPUS_MAX, &config->cpus, err) < 0)
        return -1;
    /* The memory of a VM that we only attach to may be unknown (0). */
    if (memory > VM_MEMORY_MAX || memory % unit ||
        (memory == 0 && !vm_config_is_attached(config)))
        return vn_fail(err, VN_E_LIMIT,
                       "'memory_bytes' is %llu: whole MiB from 1 MiB to 16 "
                       "TiB are allowed",
                       (unsigned long long)memory);
    if (config->cpus == 0 && !vm_config_is_attached(config))
        return vn_fail(err, VN_E_LIMIT, "'cpus' is 0");
    config->memory_bytes = memory;
    if (args_from_json(json, config, err) < 0)
        return -1;
    return devices_from_json(json, config, err);
}

int vm_config_from_json(const json_t *json, struct vm_config *ret,
                        struct vn_err *err)
{
    vn_auto(vm_config) struct vm_config config = {.name = NULL};

    if (need_text(json, "name", &config.name, err) < 0 ||
        check_name(config.name, err) < 0)
        return vn_wrap(err, "VM configuration");
    if (fill(json, &config, err) < 0)
        return vn_wrap(err, "VM '%s'", config.name);
    *ret = config;
    memset(&config, 0, sizeof(config)); /* given away */
    return 0;
}

int vm_config_copy(const struct vm_config *config, struct vm_config *ret,
                   struct vn_err *err)
{
    vn_auto(json) json_t *json = vm_config_to_json(config);

    if (vm_config_from_json(json, ret, err) < 0)
        return -1;
    for (unsigned i = 0; i < ret->nic_count; i++)
        ret->nics[i].fd = config->nics[i].fd;
    return 0;
}
