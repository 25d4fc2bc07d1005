#include "cmd_put_xl.h"

#include "capture/vm.h"
#include "capture/xen_memory.h"
#include "capture/xen_objects.h"
#include "common/io.h"
#include "common/jsonx.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAGIC      "Xen saved domain, xl format\n \0 \r"
#define MAGIC_SIZE 32u
#define BLOCK_SIZE (1u << 20)
/* No more pages can come than the file has bytes; they are kept in pieces. */
#define MEMORY_SLACK (16u << 20)

bool put_xl_is(int fd)
{
    char begin[MAGIC_SIZE];

    return pread(fd, begin, sizeof(begin), 0) == (ssize_t)sizeof(begin) &&
           memcmp(begin, MAGIC, sizeof(begin)) == 0;
}

static int read_stream(const struct put_xl_opts *opts,
                       struct xen_stream *stream, struct vn_err *err)
{
    vn_auto(free) uint8_t *block = vn_alloc(BLOCK_SIZE);

    for (uint64_t done = 0; done < opts->size;) {
        size_t n = opts->size - done < BLOCK_SIZE ? (size_t)(opts->size - done)
                                                  : BLOCK_SIZE;

        if (io_pread(opts->fd, block, n, done, err) < 0 ||
            xen_stream_feed(stream, block, n, err) < 0)
            return -1;
        done += n;
        opts->progress(opts->context, done, opts->size);
    }
    return xen_stream_finish(stream, err);
}

/* A VM's name, as vm_config wants it, of a domain's, which is any text. */
static char *vm_name_of(const char *domain)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyz"
                                  "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    char *name = vn_strdup(*domain ? domain : "_");

    if (strlen(name) > VM_NAME_MAX)
        name[VM_NAME_MAX] = '\0';
    for (char *p = name; *p; p++)
        if (!strchr(allowed, *p))
            *p = '_';
    if (*name == '.' || *name == '-')
        *name = '_';
    return name;
}

/* Does the configuration go with the stream? libxl asks the same. */
static int check_type(const struct xen_stream *stream, const json_t *config,
                      struct vn_err *err)
{
    const char *type = xen_config_type(config, err);
    bool is_pv = xen_stream_domain_type(stream) == XEN_DOMAIN_PV;
    bool has_model = xen_stream_emulator(stream)->size != 0;

    if (!type)
        return -1;
    if ((strcmp(type, "pv") == 0) != is_pv)
        return vn_fail(err, VN_E_FORMAT, "type '%s', but the stream is of %s",
                       type, is_pv ? "a PV domain" : "an HVM domain");
    if ((strcmp(type, "hvm") == 0) != has_model)
        return vn_fail(err, VN_E_FORMAT,
                       "type '%s', but the stream has %s device model's state",
                       type, has_model ? "a" : "no");
    return 0;
}

/* The domain's configuration, and from it the VM's name (free). */
static json_t *read_config(const struct xen_stream *stream, char **ret_vm,
                           struct vn_err *err)
{
    const char *text = xen_stream_config(stream), *domain;
    vn_auto(json) json_t *config = NULL;
    json_t *c_info;

    if (!text)
        return vn_fail_ptr(err, VN_E_FORMAT, "it has no configuration");
    config = jsonx_parse(text, strlen(text), "its configuration", err);
    if (!config)
        return NULL;
    if (jsonx_object(config, "c_info", &c_info, err) < 0 ||
        jsonx_string(c_info, "name", &domain, err) < 0 ||
        check_type(stream, config, err) < 0) {
        vn_wrap(err, "its configuration");
        return NULL;
    }
    *ret_vm = vm_name_of(domain);
    return vn_steal(&config);
}

static json_t *vm_states(json_t *manifest)
{
    json_t *meta = json_object_get(manifest, "meta");
    json_t *states = json_object_get(meta, "vm_state");

    if (!states) {
        states = json_object();
        json_object_set_new(meta, "vm_state", states);
    }
    return states;
}

int put_xl(const struct put_xl_opts *opts, struct vn_err *err)
{
    vn_auto(xen_memory) struct xen_memory *memory =
        xen_memory_new(opts->size + MEMORY_SLACK);
    const struct xen_stream_sink sink = {xen_memory_page, memory};
    vn_auto(xen_stream) struct xen_stream *stream = xen_stream_new(&sink);
    vn_auto(json) json_t *config = NULL;
    vn_auto(free) char *vm = NULL;
    json_t *states;

    if (read_stream(opts, stream, err) < 0)
        return -1;
    config = read_config(stream, &vm, err);
    if (!config)
        return -1;
    states = vm_states(opts->manifest);
    if (json_object_get(states, vm))
        return vn_fail(err, VN_E_EXISTS, "another file is the VM '%s' already",
                       vm);
    if (xen_memory_save(memory, stream, vm, opts->writer, opts->parent,
                        opts->manifest, err) < 0)
        return vn_wrap(err, "VM '%s'", vm);
    json_object_set_new(states, vm, xen_state_to_json(stream, config));
    return 0;
}
