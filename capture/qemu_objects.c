#include "capture/qemu_objects.h"

#include "common/io.h"
#include "common/jsonx.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char *qemu_object_ram(const char *vm, const char *block)
{
    char escaped[3 * QEMU_BLOCK_NAME_MAX + 1], *to = escaped;

    assert(strlen(block) <= QEMU_BLOCK_NAME_MAX);
    for (; *block; block++) {
        if (*block == '%' || *block == '/')
            to += sprintf(to, "%%%02x", (unsigned)*block);
        else
            *to++ = *block;
    }
    *to = '\0';
    return vn_format("vm/%s/ram/%s", vm, escaped);
}

char *qemu_object_device_state(const char *vm)
{
    return vn_format("vm/%s/device.state", vm);
}

char *qemu_object_disk(const char *vm, unsigned disk)
{
    return vn_format("vm/%s/disk/%u", vm, disk);
}

void qemu_state_done(struct qemu_state *state)
{
    buf_done(&state->head);
    memset(state, 0, sizeof(*state));
}

json_t *qemu_state_to_json(const struct qemu_stream *stream,
                           const char *qemu_version)
{
    const struct buf *head = qemu_stream_head(stream);
    char hex[2 * QEMU_HEAD_MAX + 1], version[QEMU_VERSION_MAX + 1];
    const struct qemu_block *blocks;
    json_t *json = json_object(), *list = json_array();
    unsigned count;

    assert(head->size <= QEMU_HEAD_MAX);
    io_hex(head->data, head->size, hex);
    snprintf(version, sizeof(version), "%s", qemu_version);
    blocks = qemu_stream_blocks(stream, &count);
    for (unsigned i = 0; i < count; i++) {
        json_t *block = json_object();

        json_object_set_new(block, "name", json_string(blocks[i].name));
        json_object_set_new(block, "size", jsonx_int(blocks[i].size));
        json_array_append_new(list, block);
    }
    json_object_set_new(json, "backend", json_string("qemu"));
    json_object_set_new(json, "machine",
                        json_string(qemu_stream_machine(stream)));
    json_object_set_new(json, "qemu_version", json_string(version));
    json_object_set_new(json, "head_hex", json_string(hex));
    json_object_set_new(json, "blocks", list);
    return json;
}

static int read_head(const json_t *json, struct qemu_state *state,
                     struct vn_err *err)
{
    const char *hex, *machine;
    size_t size;
    uint8_t *data;

    if (jsonx_string(json, "head_hex", &hex, err) < 0 ||
        jsonx_string(json, "machine", &machine, err) < 0)
        return -1;
    size = strlen(hex) / 2;
    if (!size || size > QEMU_HEAD_MAX)
        return vn_fail(err, VN_E_LIMIT, "'head_hex' has %zu bytes, not 1 to %u",
                       size, QEMU_HEAD_MAX);
    buf_init(&state->head, QEMU_HEAD_MAX);
    data = buf_reserve(&state->head, size);
    if (!data)
        return buf_check(&state->head, "the stream's head", err);
    if (io_unhex(hex, data, size, err) < 0)
        return vn_wrap(err, "'head_hex'");
    state->head.size = size;
    if (qemu_stream_check_head(data, size, state->machine, err) < 0)
        return -1;
    if (strcmp(state->machine, machine))
        return vn_fail(err, VN_E_FORMAT,
                       "'machine' is not what the stream's head says");
    return 0;
}

static int read_block(const json_t *json, struct qemu_state *state,
                      uint64_t *total, struct vn_err *err)
{
    struct qemu_block *block = &state->blocks[state->block_count];
    const char *name;
    uint64_t size;

    if (jsonx_string(json, "name", &name, err) < 0 ||
        jsonx_u64(json, "size", &size, err) < 0 ||
        qemu_stream_check_block(name, strlen(name), size, err) < 0)
        return -1;
    for (unsigned i = 0; i < state->block_count; i++)
        if (!strcmp(state->blocks[i].name, name))
            return vn_fail(err, VN_E_FORMAT, "block '%s' twice", name);
    *total += size;
    if (*total > QEMU_RAM_MAX)
        return vn_fail(err, VN_E_LIMIT, "the blocks have more than %llu bytes",
                       QEMU_RAM_MAX);
    memcpy(block->name, name, strlen(name) + 1);
    block->size = size;
    state->block_count++;
    return 0;
}

static int read_state(const json_t *json, struct qemu_state *state,
                      struct vn_err *err)
{
    const char *backend, *version;
    json_t *list, *item;
    uint64_t total = 0;
    size_t i;

    if (jsonx_string(json, "backend", &backend, err) < 0)
        return -1;
    if (strcmp(backend, "qemu"))
        return vn_fail(err, VN_E_UNSUPPORTED, "not a state of QEMU");
    if (jsonx_string(json, "qemu_version", &version, err) < 0)
        return -1;
    if (strlen(version) > QEMU_VERSION_MAX)
        return vn_fail(err, VN_E_LIMIT,
                       "'qemu_version' is longer than %u bytes",
                       QEMU_VERSION_MAX);
    memcpy(state->qemu_version, version, strlen(version) + 1);
    if (read_head(json, state, err) < 0 ||
        jsonx_array(json, "blocks", &list, err) < 0)
        return -1;
    if (!json_array_size(list) || json_array_size(list) > QEMU_BLOCKS_MAX)
        return vn_fail(err, VN_E_LIMIT, "%zu blocks, not 1 to %u",
                       json_array_size(list), QEMU_BLOCKS_MAX);
    json_array_foreach (list, i, item) {
        if (read_block(item, state, &total, err) < 0)
            return vn_wrap(err, "block %zu", i);
    }
    return 0;
}

int qemu_state_from_json(const json_t *json, struct qemu_state *ret,
                         struct vn_err *err)
{
    struct qemu_state *state = vn_alloc(sizeof(*state));

    if (read_state(json, state, err) < 0) {
        qemu_state_done(state);
        free(state);
        return -1;
    }
    *ret = *state;
    free(state);
    return 0;
}

const json_t *qemu_state_in_manifest(const json_t *manifest, const char *vm,
                                     struct vn_err *err)
{
    json_t *meta, *states, *state;

    if (jsonx_object(manifest, "meta", &meta, err) < 0 ||
        jsonx_object(meta, "vm_state", &states, err) < 0) {
        vn_wrap(err, "the manifest");
        return NULL;
    }
    state = json_object_get(states, vm);
    if (!json_is_object(state))
        return vn_fail_ptr(err, VN_E_NOT_FOUND,
                           "the snapshot has no state of VM '%s'", vm);
    return state;
}
