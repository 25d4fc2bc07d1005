/*
 * The meaning of a VNE file: from a tree of YAML nodes to struct vne.
 *
 * Each kind of map (the VNE, a host, a VM, a disk, a NIC) has a table of its
 * keys; vne_value_keys() sorts a map's values by that table, refusing unknown,
 * doubled and valueless keys, and the reader of the kind takes them from
 * there. Everything that must be unique (names, addresses, MACs) is claimed
 * in one list with its line, so a clash names both places.
 *
 * A value is text as written, whatever YAML would call its type: `name: 12`
 * is the name "12". Hosts are read before VMs wherever they stand.
 */

#include "coord/vne_internal.h"

#include "common/buf.h"
#include "common/io.h"
#include "coord/wire_address.h"
#include "store/store.h"

#include <errno.h>
#include <libgen.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>

enum { TOP_NAME, TOP_VNI, TOP_DOMAIN, TOP_HOSTS, TOP_VMS };
static const struct vne_keys top_keys = {
    "the file", {"name", "vni", "domain", "hosts", "vms"}};

enum { HOST_NAME, HOST_AGENT, HOST_UNDERLAY };
static const struct vne_keys host_keys = {"a host",
                                          {"name", "agent", "underlay"}};

enum {
    VM_NAME,
    VM_HOST,
    VM_BACKEND,
    VM_TYPE,
    VM_MEMORY,
    VM_CPUS,
    VM_MACHINE,
    VM_CPU,
    VM_ACCEL,
    VM_KERNEL,
    VM_INITRD,
    VM_APPEND,
    VM_QMP,
    VM_DOMAIN,
    VM_EXTRA_ARGS,
    VM_DISKS,
    VM_NICS,
};
static const struct vne_keys vm_keys = {
    "a VM",
    {"name", "host", "backend", "type", "memory", "cpus", "machine", "cpu",
     "accel", "kernel", "initrd", "append", "qmp", "domain", "extra_args",
     "disks", "nics"}};

enum { DISK_PATH, DISK_FORMAT };
static const struct vne_keys disk_keys = {"a disk", {"path", "format"}};

enum { NIC_MAC, NIC_MODEL, NIC_TAP, NIC_UNIX };
static const struct vne_keys nic_keys = {"a NIC",
                                         {"mac", "model", "tap", "unix"}};

enum { UNIX_LOCAL, UNIX_REMOTE };
static const struct vne_keys unix_keys = {"unix", {"local", "remote"}};

/* ---- hosts -------------------------------------------------------------- */

static int read_agent(struct vne_reading *r, const struct vne_node *node,
                      char **ret)
{
    const char *text = vne_value_borrow(r, node, VM_TEXT_MAX);
    struct wire_address parsed;
    vn_auto(free) char *address = NULL;

    if (!text)
        return -1;
    if (strncmp(text, "unix:", 5) == 0 && text[5] && text[5] != '/')
        address = vn_format("unix:%s/%s", r->folder, text + 5);
    else
        address = vn_strdup(text);
    if (wire_address_parse(address, &parsed, r->err) < 0)
        return vne_node_wrap(r->err, r->file, node);
    if (parsed.kind == WIRE_TLS && parsed.port == 0)
        return vne_value_fail(r, node, "address '%.280s': port 0", text);
    *ret = vn_steal(&address);
    return 0;
}

static int read_underlay(struct vne_reading *r, const struct vne_node *map,
                         const struct vne_node *node, bool alone, char **ret)
{
    const char *text;

    /* One host has no peers: any address will do. */
    if (!node && !alone)
        return vne_value_fail(r, map, "'underlay' is missing in a host");
    text = node ? vne_value_borrow(r, node, VM_TEXT_MAX) : "127.0.0.1";
    if (!text)
        return -1;
    *ret = vne_underlay_normal(text, r->err);
    return *ret ? 0 : vne_node_wrap(r->err, r->file, node ? node : map);
}

static int read_host(struct vne_reading *r, const struct vne_node *map,
                     bool alone)
{
    const struct vne_node *values[VNE_KEYS_MAX];
    struct vne_host *host = &r->vne->hosts[r->vne->host_count++];

    if (vne_value_keys(r, &host_keys, map, values) < 0 ||
        vne_value_need(r, &host_keys, map, HOST_NAME, values) < 0 ||
        vne_value_need(r, &host_keys, map, HOST_AGENT, values) < 0)
        return -1;
    host->name = vne_value_name(r, values[HOST_NAME]);
    if (!host->name ||
        vne_value_claim(r, "host", host->name, values[HOST_NAME]) < 0 ||
        read_agent(r, values[HOST_AGENT], &host->agent) < 0 ||
        vne_value_claim(r, "agent", host->agent, values[HOST_AGENT]) < 0 ||
        read_underlay(r, map, values[HOST_UNDERLAY], alone, &host->underlay) <
            0)
        return -1;
    return vne_value_claim(r, "underlay address", host->underlay,
                           values[HOST_UNDERLAY] ? values[HOST_UNDERLAY] : map);
}

/* The items of a list with 1 (or 0) to `max` of them. */
static int check_list(struct vne_reading *r, const struct vne_node *node,
                      const char *what, size_t min, size_t max)
{
    if (node->kind != VNE_LIST)
        return vne_value_fail(r, node, "%s must be a list ('- ...' items)",
                              what);
    if (node->count < min || node->count > max)
        return vne_value_fail(r, node, "%zu %s, %zu to %zu are allowed",
                              node->count, what, min, max);
    return 0;
}

static int read_hosts(struct vne_reading *r, const struct vne_node *list)
{
    if (check_list(r, list, "hosts", 1, VNE_HOSTS_MAX) < 0)
        return -1;
    r->vne->hosts = vn_alloc(list->count * sizeof(*r->vne->hosts));
    for (size_t i = 0; i < list->count; i++)
        if (read_host(r, list->items[i], list->count == 1) < 0)
            return -1;
    return 0;
}

/* ---- VMs ---------------------------------------------------------------- */

static bool ends_with(const char *text, const char *end)
{
    size_t len = strlen(text), end_len = strlen(end);

    return len >= end_len && strcmp(text + len - end_len, end) == 0;
}

static int read_disk(struct vne_reading *r, const struct vne_node *map,
                     struct vm_disk *disk)
{
    const struct vne_node *values[VNE_KEYS_MAX];

    if (vne_value_keys(r, &disk_keys, map, values) < 0 ||
        vne_value_need(r, &disk_keys, map, DISK_PATH, values) < 0 ||
        vne_value_path(r, values[DISK_PATH], &disk->path) < 0 ||
        vne_value_text(r, values[DISK_FORMAT], VNE_WORD_MAX, &disk->format) < 0)
        return -1;
    if (!disk->format)
        disk->format =
            vn_strdup(ends_with(disk->path, ".qcow2") ? "qcow2" : "raw");
    if (strcmp(disk->format, "raw") != 0 && strcmp(disk->format, "qcow2") != 0)
        return vne_value_fail(r, values[DISK_FORMAT],
                              "format '%s' is neither raw nor qcow2",
                              disk->format);
    return 0;
}

static int read_nic_unix(struct vne_reading *r, const struct vne_node *map,
                         struct vm_nic *nic)
{
    const struct vne_node *values[VNE_KEYS_MAX];

    nic->kind = VM_NIC_UNIX;
    if (vne_value_keys(r, &unix_keys, map, values) < 0 ||
        vne_value_need(r, &unix_keys, map, UNIX_LOCAL, values) < 0 ||
        vne_value_need(r, &unix_keys, map, UNIX_REMOTE, values) < 0 ||
        vne_value_path(r, values[UNIX_LOCAL], &nic->unix_local) < 0)
        return -1;
    return vne_value_path(r, values[UNIX_REMOTE], &nic->unix_remote);
}

static int read_nic_tap(struct vne_reading *r, const struct vne_node *node,
                        struct vm_nic *nic)
{
    nic->kind = VM_NIC_TAP;
    if (vne_value_text(r, node, VNE_WORD_MAX, &nic->tap) < 0)
        return -1;
    if (!nic->tap || strlen(nic->tap) >= IFNAMSIZ || strpbrk(nic->tap, "/ ,"))
        return vne_value_fail(r, node, "'%.40s' is no interface name",
                              node->text);
    return 0;
}

static int read_nic(struct vne_reading *r, const struct vne_node *map,
                    struct vm_nic *nic)
{
    const struct vne_node *values[VNE_KEYS_MAX];
    const char *mac;

    nic->fd = -1;
    if (vne_value_keys(r, &nic_keys, map, values) < 0 ||
        vne_value_text(r, values[NIC_MODEL], VNE_WORD_MAX, &nic->model) < 0)
        return -1;
    if (values[NIC_TAP] && values[NIC_UNIX])
        return vne_value_fail(r, values[NIC_UNIX],
                              "a NIC has 'tap' or 'unix', not both");
    if (values[NIC_TAP] && read_nic_tap(r, values[NIC_TAP], nic) < 0)
        return -1;
    if (values[NIC_UNIX] && read_nic_unix(r, values[NIC_UNIX], nic) < 0)
        return -1;
    if (!values[NIC_MAC])
        return 0;
    mac = vne_value_borrow(r, values[NIC_MAC], VNE_WORD_MAX);
    if (!mac)
        return -1;
    nic->mac = vne_mac_normal(mac, r->err);
    if (!nic->mac)
        return vne_node_wrap(r->err, r->file, values[NIC_MAC]);
    return vne_value_claim(r, "MAC address", nic->mac, values[NIC_MAC]);
}

static bool is_xen(const struct vm_config *config)
{
    return strcmp(config->backend, "xen") == 0;
}

static int read_devices(struct vne_reading *r, struct vm_config *config,
                        const struct vne_node *disks,
                        const struct vne_node *nics)
{
    if (disks && check_list(r, disks, "disks", 0, VM_DISKS_MAX) < 0)
        return -1;
    for (size_t i = 0; disks && i < disks->count; i++)
        if (read_disk(r, disks->items[i],
                      &config->disks[config->disk_count++]) < 0)
            return -1;
    if (nics && check_list(r, nics, "nics", 0, VM_NICS_MAX) < 0)
        return -1;
    for (size_t i = 0; nics && i < nics->count; i++)
        if (read_nic(r, nics->items[i], &config->nics[config->nic_count++]) < 0)
            return -1;
    if (!nics) {
        config->nics[0] = (struct vm_nic){.kind = VM_NIC_FD, .fd = -1};
        config->nic_count = 1;
    }
    for (unsigned i = 0; is_xen(config) && i < config->nic_count; i++) {
        if (config->nics[i].kind != VM_NIC_FD)
            return vne_value_fail(r, nics->items[i],
                                  "a Xen domain's NIC has neither 'tap' nor "
                                  "'unix'");
        config->nics[i].kind = VM_NIC_VIF;
    }
    return 0;
}

static int read_extra_args(struct vne_reading *r, const struct vne_node *list,
                           struct vm_config *config)
{
    if (!list)
        return 0;
    if (check_list(r, list, "extra_args", 0, VM_ARGS_MAX) < 0)
        return -1;
    config->extra_args = vn_alloc((list->count + 1) * sizeof(char *));
    for (size_t i = 0; i < list->count; i++) {
        const char *text = vne_value_borrow(r, list->items[i], VM_TEXT_MAX);

        if (!text)
            return -1;
        config->extra_args[i] = vn_strdup(text);
    }
    return 0;
}

static int read_vm_host(struct vne_reading *r, const struct vne_node *node,
                        struct vne_vm *vm)
{
    char known[256] = "";

    vm->host = vne_value_name(r, node);
    if (!vm->host)
        return -1;
    if (vne_find_host(r->vne, vm->host))
        return 0;
    for (size_t i = 0; i < r->vne->host_count; i++) {
        const char *name = r->vne->hosts[i].name;

        if (strlen(known) + strlen(name) + 8 > sizeof(known)) {
            strcat(known, ", ...");
            break;
        }
        strcat(strcat(known, i ? ", " : ""), name);
    }
    return vne_value_fail(r, node, "unknown host '%s', known: %s", vm->host,
                          known);
}

/* The back end, and the keys that only one of them has. */
static int read_vm_backend(struct vne_reading *r,
                           const struct vne_node *values[VNE_KEYS_MAX],
                           struct vm_config *config)
{
    static const int qemu_only[] = {VM_MACHINE, VM_CPU, VM_ACCEL, VM_QMP};
    static const int xen_only[] = {VM_TYPE, VM_DOMAIN};
    const int *others = xen_only;
    size_t count = VN_COUNT(xen_only);

    if (vne_value_text(r, values[VM_BACKEND], VNE_WORD_MAX, &config->backend) <
            0 ||
        vne_value_text(r, values[VM_TYPE], VNE_WORD_MAX, &config->type) < 0 ||
        vne_value_text(r, values[VM_DOMAIN], VM_NAME_MAX, &config->domain) < 0)
        return -1;
    if (!config->backend)
        config->backend = vn_strdup("qemu");
    if (strcmp(config->backend, "qemu") != 0 && !is_xen(config))
        return vne_value_fail(r, values[VM_BACKEND],
                              "backend '%s' is neither qemu nor xen",
                              config->backend);
    if (config->type && strcmp(config->type, "pvh") != 0 &&
        strcmp(config->type, "pv") != 0 && strcmp(config->type, "hvm") != 0)
        return vne_value_fail(r, values[VM_TYPE],
                              "type '%s' is none of pvh, pv, hvm",
                              config->type);
    if (is_xen(config)) {
        others = qemu_only;
        count = VN_COUNT(qemu_only);
    }
    for (size_t i = 0; i < count; i++)
        if (values[others[i]])
            return vne_value_fail(r, values[others[i]],
                                  "'%s' is not for backend '%s'",
                                  vm_keys.names[others[i]], config->backend);
    return 0;
}

/* What is plain text or a number. */
static int read_vm_words(struct vne_reading *r, const struct vne_node *map,
                         const struct vne_node *values[VNE_KEYS_MAX],
                         struct vm_config *config)
{
    if (vne_value_path(r, values[VM_QMP], &config->qmp) < 0)
        return -1;
    if (!values[VM_MEMORY] && !vm_config_is_attached(config))
        return vne_value_fail(r, map,
                              "'memory' is missing in a VM (only one with "
                              "'qmp' or 'domain' may leave it out)");
    if (values[VM_MEMORY] &&
        vne_value_memory(r, values[VM_MEMORY], &config->memory_bytes) < 0)
        return -1;
    config->cpus = 1;
    if (vne_value_number(r, values[VM_CPUS], "cpus", VM_CPUS_MAX,
                         &config->cpus) < 0 ||
        vne_value_text(r, values[VM_MACHINE], VNE_WORD_MAX, &config->machine) <
            0 ||
        vne_value_text(r, values[VM_CPU], VM_TEXT_MAX, &config->cpu) < 0 ||
        vne_value_text(r, values[VM_ACCEL], VNE_WORD_MAX, &config->accel) < 0 ||
        vne_value_path(r, values[VM_KERNEL], &config->kernel) < 0 ||
        vne_value_path(r, values[VM_INITRD], &config->initrd) < 0 ||
        vne_value_text(r, values[VM_APPEND], VM_TEXT_MAX, &config->append) < 0)
        return -1;
    for (int key = VM_INITRD; key <= VM_APPEND; key++)
        if (values[key] && !config->kernel)
            return vne_value_fail(r, values[key], "'%s' without 'kernel'",
                                  vm_keys.names[key]);
    return 0;
}

static int read_vm(struct vne_reading *r, const struct vne_node *map)
{
    const struct vne_node *values[VNE_KEYS_MAX];
    struct vne_vm *vm = &r->vne->vms[r->vne->vm_count++];

    if (vne_value_keys(r, &vm_keys, map, values) < 0 ||
        vne_value_need(r, &vm_keys, map, VM_NAME, values) < 0 ||
        vne_value_need(r, &vm_keys, map, VM_HOST, values) < 0)
        return -1;
    vm->config.name = vne_value_name(r, values[VM_NAME]);
    if (!vm->config.name ||
        vne_value_claim(r, "VM", vm->config.name, values[VM_NAME]) < 0 ||
        read_vm_host(r, values[VM_HOST], vm) < 0 ||
        read_vm_backend(r, values, &vm->config) < 0 ||
        read_vm_words(r, map, values, &vm->config) < 0 ||
        read_extra_args(r, values[VM_EXTRA_ARGS], &vm->config) < 0)
        return -1;
    return read_devices(r, &vm->config, values[VM_DISKS], values[VM_NICS]);
}

static int read_vms(struct vne_reading *r, const struct vne_node *list)
{
    if (check_list(r, list, "vms", 1, VNE_VMS_MAX) < 0)
        return -1;
    r->vne->vms = vn_alloc(list->count * sizeof(*r->vne->vms));
    for (size_t i = 0; i < list->count; i++)
        if (read_vm(r, list->items[i]) < 0)
            return -1;
    return 0;
}

/* ---- the file ----------------------------------------------------------- */

static int read_domain(struct vne_reading *r, const struct vne_node *node)
{
    if (vne_value_text(r, node, VNE_WORD_MAX, &r->vne->domain) < 0)
        return -1;
    if (r->vne->domain && store_domain_check(r->vne->domain, r->err) < 0)
        return vne_node_wrap(r->err, r->file, node);
    return 0;
}

static int read_top(struct vne_reading *r, const struct vne_node *map)
{
    const struct vne_node *values[VNE_KEYS_MAX];

    if (vne_value_keys(r, &top_keys, map, values) < 0 ||
        vne_value_need(r, &top_keys, map, TOP_NAME, values) < 0 ||
        vne_value_need(r, &top_keys, map, TOP_HOSTS, values) < 0 ||
        vne_value_need(r, &top_keys, map, TOP_VMS, values) < 0)
        return -1;
    r->vne->name = vne_value_name(r, values[TOP_NAME]);
    if (!r->vne->name ||
        vne_value_number(r, values[TOP_VNI], "vni", VNE_VNI_MAX, &r->vne->vni) <
            0 ||
        read_domain(r, values[TOP_DOMAIN]) < 0 ||
        read_hosts(r, values[TOP_HOSTS]) < 0)
        return -1;
    return read_vms(r, values[TOP_VMS]);
}

struct vne *vne_parse(const char *text, size_t size, const char *file,
                      const char *folder, struct vn_err *err)
{
    vn_auto(vne) struct vne *vne = vn_alloc(sizeof(*vne));
    struct vne_reading r = {
        .file = file, .folder = folder, .err = err, .vne = vne};
    vn_auto(vne_node) struct vne_node *tree = NULL;
    int rc;

    if (size > VNE_FILE_MAX)
        return vn_fail_ptr(err, VN_E_LIMIT, "'%s' is larger than %u bytes",
                           file, VNE_FILE_MAX);
    tree = vne_node_parse(text, size, file, err);
    if (!tree)
        return NULL;
    rc = read_top(&r, tree);
    free(r.claims);
    if (rc < 0)
        return NULL;
    vne_derive(vne);
    return vn_steal(&vne);
}

struct vne *vne_load(const char *path, struct vn_err *err)
{
    vn_auto(buf) struct buf text;
    vn_auto(free) char *copy = vn_strdup(path);
    vn_auto(free) char *folder = NULL;

    buf_init(&text, VNE_FILE_MAX + 1);
    if (io_read_file(path, &text, err) < 0)
        return NULL;
    folder = realpath(dirname(copy), NULL);
    if (!folder)
        return vn_fail_ptr(err, errno, "folder of '%s'", path);
    return vne_parse((const char *)text.data, text.size, path, folder, err);
}
