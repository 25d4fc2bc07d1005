/* See the header. A string of such a file is quoted; quotes and backslashes
 * in it are escaped, and control characters refused. */
#include "capture/xen_cfg.h"

#include "common/buf.h"
#include "common/jsonx.h"

#include <stdlib.h>
#include <string.h>

#define TEXT_MAX  (256u << 10)
#define DOMID_MAX 0x7fefu /* above are Xen's own: DOMID_FIRST_RESERVED - 1 */

static void put_text(struct buf *out, const char *text)
{
    buf_put(out, text, strlen(text));
}

/* Into a quoted string. */
static int put_escaped(struct buf *out, const char *text, struct vn_err *err)
{
    for (const char *c = text; *c; c++) {
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            return vn_fail(err, VN_E_FORMAT,
                           "'%.60s' has a control character in it", text);
        if (*c == '\'' || *c == '"' || *c == '\\')
            buf_put_u8(out, '\\');
        buf_put_u8(out, (uint8_t)*c);
    }
    return 0;
}

/* key = "value" */
static int put_string(struct buf *out, const char *key, const char *value,
                      struct vn_err *err)
{
    put_text(out, key);
    put_text(out, " = \"");
    if (put_escaped(out, value, err) < 0)
        return vn_wrap(err, "%s", key);
    put_text(out, "\"\n");
    return 0;
}

static void put_number(struct buf *out, const char *key, uint64_t value)
{
    vn_auto(free) char *line =
        vn_format("%s = %llu\n", key, (unsigned long long)value);

    put_text(out, line);
}

/* What separates the parts of a device's description must not be in them. */
static int check_part(const char *part, struct vn_err *err)
{
    if (!*part || strpbrk(part, ", '\"\\"))
        return vn_fail(err, VN_E_FORMAT, "'%.60s' is no such thing", part);
    return 0;
}

static int put_nics(struct buf *out, const struct vm_config *config,
                    const char *script, struct vn_err *err)
{
    if (!config->nic_count)
        return 0;
    put_text(out, "vif = [");
    for (unsigned i = 0; i < config->nic_count; i++) {
        const struct vm_nic *nic = &config->nics[i];

        if (nic->kind != VM_NIC_VIF)
            return vn_fail(err, VN_E_UNSUPPORTED,
                           "NIC %u: a Xen domain's is an interface that Xen "
                           "makes, not a tap or socket",
                           i);
        if (!nic->mac || check_part(nic->mac, err) < 0 ||
            check_part(script, err) < 0)
            return vn_fail(err, VN_E_FORMAT, "NIC %u: bad MAC or script", i);
        put_text(out, i ? ", \"mac=" : " \"mac=");
        put_text(out, nic->mac);
        put_text(out, ",type=vif,script=");
        put_text(out, script);
        put_text(out, "\"");
    }
    put_text(out, " ]\n");
    return 0;
}

static int put_disks(struct buf *out, const struct vm_config *config,
                     const char *const *targets, struct vn_err *err)
{
    /* What a BIOS shall boot from must be a disk that it knows. */
    const char *prefix =
        config->type && !config->kernel && strcmp(config->type, "hvm") == 0
            ? "hd"
            : "xvd";

    if (!config->disk_count)
        return 0;
    put_text(out, "disk = [");
    for (unsigned i = 0; i < config->disk_count; i++) {
        vn_auto(free) char *head =
            vn_format("%s \"format=raw,vdev=%s%c,access=rw,backendtype=phy,"
                      "target=",
                      i ? "," : "", prefix, 'a' + (int)i);

        if (config->disks[i].format &&
            strcmp(config->disks[i].format, "raw") != 0)
            return vn_fail(err, VN_E_UNSUPPORTED,
                           "disk %u is of format '%s'; a Xen domain's must be "
                           "raw",
                           i, config->disks[i].format);
        put_text(out, head);
        if (put_escaped(out, targets[i], err) < 0)
            return vn_wrap(err, "disk %u", i);
        put_text(out, "\"");
    }
    put_text(out, " ]\n");
    return 0;
}

static int put_boot(struct buf *out, const struct vm_config *config,
                    struct vn_err *err)
{
    if (config->kernel && put_string(out, "kernel", config->kernel, err) < 0)
        return -1;
    if (config->initrd && put_string(out, "ramdisk", config->initrd, err) < 0)
        return -1;
    if (config->append && config->kernel &&
        put_string(out, "extra", config->append, err) < 0)
        return -1;
    return 0;
}

char *xen_cfg_text(const struct vm_config *config, const char *const *targets,
                   const char *vif_script, struct vn_err *err)
{
    vn_auto(buf) struct buf out;
    const char *type = config->type ? config->type : "pvh";

    buf_init(&out, TEXT_MAX);
    if (put_string(&out, "name", config->name, err) < 0 ||
        put_string(&out, "type", type, err) < 0 ||
        put_boot(&out, config, err) < 0)
        return NULL;
    put_number(&out, "memory", config->memory_bytes >> 20);
    put_number(&out, "maxmem", config->memory_bytes >> 20);
    put_number(&out, "vcpus", config->cpus);
    if (strcmp(type, "hvm") == 0)
        put_text(&out, "serial = \"pty\"\nvnc = 0\n");
    if (put_nics(&out, config, vif_script ? vif_script : XEN_CFG_VIF_SCRIPT,
                 err) < 0 ||
        put_disks(&out, config, targets, err) < 0)
        return NULL;
    for (char **line = config->extra_args; line && *line; line++) {
        put_text(&out, *line);
        put_text(&out, "\n");
    }
    buf_put_u8(&out, '\0');
    if (buf_check(&out, "the domain's configuration", err) < 0)
        return NULL;
    return (char *)vn_steal(&out.data);
}

char *xen_cfg_device_path(const char *image)
{
    return vn_format("%s.dev", image);
}

json_t *xen_cfg_of_list(const char *text, size_t size, uint32_t *ret_domid,
                        struct vn_err *err)
{
    vn_auto(json) json_t *list = jsonx_parse(text, size, "xl's answer", err);
    const json_t *entry;
    json_t *config;
    uint32_t domid;

    if (!list)
        return NULL;
    entry = json_array_get(list, 0);
    if (!json_is_array(list) || json_array_size(list) != 1 || !entry)
        return vn_fail_ptr(err, VN_E_FORMAT,
                           "xl's answer does not name one domain");
    if (jsonx_u32(entry, "domid", DOMID_MAX, &domid, err) < 0 ||
        jsonx_object(entry, "config", &config, err) < 0)
        return NULL;
    *ret_domid = domid;
    return json_incref(config);
}
