/*
 * A virtual network environment: checks of values, what is derived, JSON.
 *
 * Derived values depend on names alone, so that the same file gives the same
 * network everywhere: the vni is a hash of the VNE's name; a MAC is a hash of
 * VNE, VM and NIC number behind 02 (locally administered, unicast). A MAC that
 * is taken already, by a file's own choice or by 1 chance in 10^4 for the
 * largest VNE (8192 NICs in 40 bits: 8192^2 / 2^41), is hashed again with the
 * next salt.
 */

#include "coord/vne_internal.h"

#include "common/cursor.h"
#include "common/jsonx.h"
#include "coord/wire_address.h"
#include "store/store.h"

#include <arpa/inet.h>
#include <assert.h>
#include <netinet/in.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>

#define MAC_SIZE 6
#define MAC_TEXT 18 /* with the NUL */

/* ---- life --------------------------------------------------------------- */

void vne_free(struct vne *vne)
{
    if (!vne)
        return;
    for (size_t i = 0; i < vne->host_count; i++) {
        free(vne->hosts[i].name);
        free(vne->hosts[i].agent);
        free(vne->hosts[i].underlay);
    }
    for (size_t i = 0; i < vne->vm_count; i++) {
        free(vne->vms[i].host);
        vm_config_done(&vne->vms[i].config);
    }
    free(vne->hosts);
    free(vne->vms);
    free(vne->name);
    free(vne->domain);
    free(vne);
}

const struct vne_host *vne_find_host(const struct vne *vne, const char *name)
{
    for (size_t i = 0; i < vne->host_count; i++)
        if (strcmp(vne->hosts[i].name, name) == 0)
            return &vne->hosts[i];
    return NULL;
}

/* ---- values ------------------------------------------------------------- */

int vne_check_name(const char *name, struct vn_err *err)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyz"
                                  "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    size_t len = strlen(name);

    if (len == 0 || len > VM_NAME_MAX || strspn(name, allowed) != len ||
        name[0] == '.' || name[0] == '-')
        return vn_fail(err, VN_E_FORMAT,
                       "'%.80s' is no name: 1 to %d of A-Z a-z 0-9 . _ -, not "
                       "beginning with . or -",
                       name, VM_NAME_MAX);
    return 0;
}

char *vne_mac_normal(const char *text, struct vn_err *err)
{
    static const char digits[] = "0123456789abcdef";
    char out[MAC_TEXT] = "";
    bool zero = true;
    size_t i;

    for (i = 0; i < MAC_TEXT - 1 && text[i]; i++) {
        char c =
            text[i] >= 'A' && text[i] <= 'F' ? (char)(text[i] | 0x20) : text[i];

        if (i % 3 == 2 ? c != ':' : !strchr(digits, c))
            break;
        zero = zero && (c == '0' || c == ':');
        out[i] = c;
    }
    if (i != MAC_TEXT - 1 || text[i])
        return vn_fail_ptr(err, VN_E_FORMAT,
                           "'%.40s' is no MAC address like 52:54:00:12:34:56",
                           text);
    if (zero || ((strchr(digits, out[1]) - digits) & 1))
        return vn_fail_ptr(err, VN_E_FORMAT,
                           "MAC address '%s' is not that of one NIC (%s)", out,
                           zero ? "all zero" : "multicast");
    return vn_strdup(out);
}

char *vne_underlay_normal(const char *text, struct vn_err *err)
{
    struct in6_addr numeric;
    char host[WIRE_HOST_MAX + 1];
    uint16_t port = 0;

    if (wire_host_parse(text, VNE_UNDERLAY_PORT, host, &port, err) < 0)
        return NULL;
    if (port == 0)
        return vn_fail_ptr(err, VN_E_FORMAT, "'%.280s': port 0", text);
    if (inet_pton(AF_INET, host, &numeric) == 1)
        return vn_format("%s:%u", host, port);
    if (inet_pton(AF_INET6, host, &numeric) == 1)
        return vn_format("[%s]:%u", host, port);
    return vn_fail_ptr(err, VN_E_FORMAT,
                       "'%.280s' is no IP address (names are not looked up for "
                       "the underlay)",
                       host);
}

/* ---- derived ------------------------------------------------------------ */

static uint64_t hash_text(const char *text)
{
    uint8_t digest[SHA256_DIGEST_LENGTH];
    struct cursor c;

    SHA256((const unsigned char *)text, strlen(text), digest);
    c = cursor_of(digest, sizeof(digest));
    return cursor_be64(&c);
}

static bool mac_taken(const struct vne *vne, const char *mac)
{
    for (size_t i = 0; i < vne->vm_count; i++) {
        const struct vm_config *config = &vne->vms[i].config;

        for (unsigned n = 0; n < config->nic_count; n++)
            if (config->nics[n].mac && strcmp(config->nics[n].mac, mac) == 0)
                return true;
    }
    return false;
}

static char *derive_mac(const struct vne *vne, const struct vm_config *config,
                        unsigned nic)
{
    for (unsigned salt = 0;; salt++) {
        vn_auto(free) char *seed = vn_format(
            "vnstore mac %s/%s/%u/%u", vne->name, config->name, nic, salt);
        uint64_t h = hash_text(seed);
        vn_auto(free) char *mac =
            vn_format("02:%02x:%02x:%02x:%02x:%02x", (unsigned)(h >> 32) & 255,
                      (unsigned)(h >> 24) & 255, (unsigned)(h >> 16) & 255,
                      (unsigned)(h >> 8) & 255, (unsigned)h & 255);

        if (!mac_taken(vne, mac))
            return vn_steal(&mac);
    }
}

void vne_derive(struct vne *vne)
{
    vn_auto(free) char *seed = vn_format("vnstore vni %s", vne->name);

    if (vne->vni == 0)
        vne->vni = 1 + (uint32_t)(hash_text(seed) % VNE_VNI_MAX);
    for (size_t i = 0; i < vne->vm_count; i++) {
        struct vm_config *config = &vne->vms[i].config;

        for (unsigned n = 0; n < config->nic_count; n++)
            if (!config->nics[n].mac)
                config->nics[n].mac = derive_mac(vne, config, n);
    }
}

/* ---- JSON --------------------------------------------------------------- */

json_t *vne_to_json(const struct vne *vne)
{
    json_t *hosts = json_array();
    json_t *vms = json_array();

    for (size_t i = 0; i < vne->host_count; i++)
        json_array_append_new(hosts, json_pack("{s:s,s:s,s:s}", "name",
                                               vne->hosts[i].name, "agent",
                                               vne->hosts[i].agent, "underlay",
                                               vne->hosts[i].underlay));
    for (size_t i = 0; i < vne->vm_count; i++)
        json_array_append_new(
            vms, json_pack("{s:s*,s:o}", "host", vne->vms[i].host, "config",
                           vm_config_to_json(&vne->vms[i].config)));
    return json_pack("{s:s,s:I,s:s*,s:o,s:o}", "name", vne->name, "vni",
                     (json_int_t)vne->vni, "domain", vne->domain, "hosts",
                     hosts, "vms", vms);
}

static int host_from_json(const json_t *json, struct vne *vne,
                          struct vn_err *err)
{
    struct vne_host *host = &vne->hosts[vne->host_count];
    const char *name, *agent, *underlay;
    struct wire_address parsed;

    if (jsonx_string(json, "name", &name, err) < 0 ||
        jsonx_string(json, "agent", &agent, err) < 0 ||
        jsonx_string(json, "underlay", &underlay, err) < 0 ||
        vne_check_name(name, err) < 0 ||
        wire_address_parse(agent, &parsed, err) < 0)
        return -1;
    if (vne_find_host(vne, name))
        return vn_fail(err, VN_E_FORMAT, "host '%s' is there twice", name);
    host->underlay = vne_underlay_normal(underlay, err);
    if (!host->underlay)
        return -1;
    host->name = vn_strdup(name);
    host->agent = vn_strdup(agent);
    vne->host_count++;
    return 0;
}

static bool vm_known(const struct vne *vne, const char *name)
{
    for (size_t i = 0; i < vne->vm_count; i++)
        if (strcmp(vne->vms[i].config.name, name) == 0)
            return true;
    return false;
}

/* MACs in their normal form, none twice in the VNE. */
static int take_macs(const struct vne *vne, struct vm_config *config,
                     struct vn_err *err)
{
    for (unsigned i = 0; i < config->nic_count; i++) {
        char *mac = vne_mac_normal(config->nics[i].mac, err);

        if (!mac)
            return -1;
        free(config->nics[i].mac);
        config->nics[i].mac = mac;
        for (unsigned j = 0; j < i; j++)
            if (strcmp(mac, config->nics[j].mac) == 0)
                return vn_fail(err, VN_E_FORMAT, "MAC '%s' is there twice",
                               mac);
        if (mac_taken(vne, mac))
            return vn_fail(err, VN_E_FORMAT, "MAC '%s' is there twice", mac);
    }
    return 0;
}

static int vm_from_json(const json_t *json, struct vne *vne, struct vn_err *err)
{
    vn_auto(vm_config) struct vm_config config = {.name = NULL};
    const char *host = jsonx_string_or(json, "host", NULL);
    json_t *inner;

    if (jsonx_object(json, "config", &inner, err) < 0 ||
        vm_config_from_json(inner, &config, err) < 0)
        return -1;
    if (vm_known(vne, config.name))
        return vn_fail(err, VN_E_FORMAT, "VM '%s' is there twice", config.name);
    if (host && !vne_find_host(vne, host))
        return vn_fail(err, VN_E_FORMAT, "VM '%s': unknown host '%.80s'",
                       config.name, host);
    if (take_macs(vne, &config, err) < 0)
        return vn_wrap(err, "VM '%s'", config.name);
    vne->vms[vne->vm_count].host = host ? vn_strdup(host) : NULL;
    vne->vms[vne->vm_count].config = config;
    vne->vm_count++;
    memset(&config, 0, sizeof(config)); /* given away */
    return 0;
}

static int sized_array(const json_t *json, const char *key, size_t max,
                       json_t **ret, struct vn_err *err)
{
    if (jsonx_array(json, key, ret, err) < 0)
        return -1;
    if (json_array_size(*ret) == 0 || json_array_size(*ret) > max)
        return vn_fail(err, VN_E_LIMIT, "%zu %s, 1 to %zu are allowed",
                       json_array_size(*ret), key, max);
    return 0;
}

static int domain_from_json(const json_t *json, struct vne *vne,
                            struct vn_err *err)
{
    const char *domain;

    if (!json_object_get(json, "domain"))
        return 0;
    if (jsonx_string(json, "domain", &domain, err) < 0 ||
        store_domain_check(domain, err) < 0)
        return -1;
    vne->domain = vn_strdup(domain);
    return 0;
}

static int fill_from_json(const json_t *json, struct vne *vne,
                          struct vn_err *err)
{
    json_t *hosts = NULL, *vms = NULL, *item;
    const char *name;
    size_t i;

    if (jsonx_string(json, "name", &name, err) < 0 ||
        vne_check_name(name, err) < 0 ||
        jsonx_u32(json, "vni", VNE_VNI_MAX, &vne->vni, err) < 0 ||
        sized_array(json, "hosts", VNE_HOSTS_MAX, &hosts, err) < 0 ||
        sized_array(json, "vms", VNE_VMS_MAX, &vms, err) < 0)
        return -1;
    if (vne->vni == 0)
        return vn_fail(err, VN_E_FORMAT, "'vni' is 0");
    vne->name = vn_strdup(name);
    if (domain_from_json(json, vne, err) < 0)
        return -1;
    vne->hosts = vn_alloc(json_array_size(hosts) * sizeof(*vne->hosts));
    vne->vms = vn_alloc(json_array_size(vms) * sizeof(*vne->vms));
    json_array_foreach (hosts, i, item) {
        if (host_from_json(item, vne, err) < 0)
            return vn_wrap(err, "host %zu", i);
    }
    json_array_foreach (vms, i, item) {
        if (vm_from_json(item, vne, err) < 0)
            return -1;
    }
    return 0;
}

struct vne *vne_from_json(const json_t *json, struct vn_err *err)
{
    vn_auto(vne) struct vne *vne = vn_alloc(sizeof(*vne));

    if (fill_from_json(json, vne, err) < 0) {
        vn_wrap(err, "VNE description");
        return NULL;
    }
    return vn_steal(&vne);
}

json_t *vne_json_vm(const json_t *vne, const char *name)
{
    json_t *vm;
    size_t i;

    json_array_foreach (json_object_get(vne, "vms"), i, vm)
        if (strcmp(jsonx_string_or(json_object_get(vm, "config"), "name", ""),
                   name) == 0)
            return vm;
    return NULL;
}
