#ifndef TESTS_UNIT_XEN_SNAPSHOT_H
#define TESTS_UNIT_XEN_SNAPSHOT_H

/*
 * A store in a temporary directory with the objects of one Xen domain "a",
 * made without any stream: memory with runs, zeros, holes and every kind of
 * page, records of the sizes that the format wants. The manifest is not
 * committed; tests spoil it. Included after cmocka.h.
 */

#include "capture/xen_objects.h"
#include "common/buf.h"
#include "common/jsonx.h"
#include "store/store.h"

#include "unit/store_fixture.h"

#define XS_PFNS 0x2003u /* one above the highest page */

struct xen_snapshot {
    struct store_fixture *store;
    struct store_writer *writer;
    json_t *manifest;
    const char *type; /* "pv", "pvh", "hvm" */
    uint8_t *types;   /* XS_PFNS */
    uint8_t *memory;  /* XS_PFNS pages */
    unsigned pages;   /* with data, zero or not */
    struct buf head, tail, emulator;
};

static inline void xs_record(struct buf *b, uint32_t type, const void *data,
                             size_t size)
{
    buf_put_le32(b, type);
    buf_put_le32(b, (uint32_t)size);
    buf_put(b, data, size);
    buf_put_zero(b, -size & 7);
}

/* A record of `size` bytes, all `fill` but the first `prefix_size`. */
static inline void xs_filled(struct buf *b, uint32_t type, const void *prefix,
                             size_t prefix_size, size_t size, uint8_t fill)
{
    vn_auto(free) uint8_t *data = vn_alloc(size);

    memset(data, fill, size);
    memcpy(data, prefix, prefix_size);
    xs_record(b, type, data, size);
}

static inline void xs_vcpu(struct buf *b, uint32_t type, uint32_t vcpu,
                           size_t size, uint8_t fill)
{
    const uint32_t prefix[2] = {vcpu, 0};

    xs_filled(b, type, prefix, 8, 8 + size, fill);
}

static inline void xs_tsc(struct buf *b)
{
    const uint32_t tsc[6] = {0, 2400000, 7, 0, 1, 0};

    xs_record(b, 0x08, tsc, sizeof(tsc));
}

static inline void xs_head(struct buf *b, bool pv)
{
    const uint8_t info[8] = {8, 4};
    const uint32_t leaf[6] = {1, 0xffffffff, 2, 3, 4, 5};
    const uint32_t msr[4] = {0xce, 0, 0x80000000, 0};

    buf_init(b, 1 << 20);
    if (pv)
        xs_record(b, 0x02, info, sizeof(info));
    xs_record(b, 0x11, leaf, sizeof(leaf));
    xs_record(b, 0x12, msr, sizeof(msr));
    xs_record(b, 0x10, NULL, 0);
    if (pv) {
        buf_put_le32(b, 0x03);
        buf_put_le32(b, 8 + 8 * ((XS_PFNS - 1) / 512 + 1));
        buf_put_le32(b, 0);
        buf_put_le32(b, XS_PFNS - 1);
        for (uint64_t i = 0; i <= (XS_PFNS - 1) / 512; i++)
            buf_put_le64(b, 100 + i);
    }
}

/* As libxc writes it: the context before the parameters. */
static inline void xs_tail_hvm(struct buf *b)
{
    /* One entry of 8 bytes; the end mark. */
    const uint16_t context[12] = {1, 0, 8, 0, 0x5a5a, 0x5a5a, 0x5a5a, 0x5a5a};
    const uint64_t params[3] = {1, 17, 0xfefff};

    buf_init(b, 1 << 20);
    xs_tsc(b);
    xs_record(b, 0x09, context, sizeof(context));
    xs_record(b, 0x0a, params, sizeof(params));
}

/* In an order that is none. */
static inline void xs_tail_pv(struct buf *b)
{
    buf_init(b, 1 << 20);
    xs_vcpu(b, 0x0c, 1, 32, 0);
    xs_vcpu(b, 0x04, 1, 5168, 0x11);
    xs_filled(b, 0x07, "", 0, 4096, 0x77);
    xs_vcpu(b, 0x06, 0, 600, 0x06);
    xs_vcpu(b, 0x04, 0, 5168, 0x10);
    xs_tsc(b);
    xs_vcpu(b, 0x05, 0, 128, 0x05);
}

static inline void xs_emulator(struct buf *b)
{
    const uint32_t upstream[2] = {2, 0};

    buf_init(b, 1 << 20);
    xs_record(b, 2, upstream, sizeof(upstream));
    xs_filled(b, 3, upstream, 8, 8 + 3001, 0xee); /* needs padding */
}

static inline json_t *xs_config(const char *type)
{
    vn_auto(free) char *text = vn_format(
        "{\"c_info\": {\"type\": \"%s\", \"name\": \"web\", \"domid\": 7,"
        "  \"uuid\": \"11111111-2222-4333-8444-555555555555\", \"poolid\": 3,"
        "  \"pool_name\": \"p\", \"run_hotplug_scripts\": \"True\"},"
        " \"b_info\": {\"max_vcpus\": 2, \"avail_vcpus\": [0, 1],"
        "  \"vcpu_hard_affinity\": [[0, 1], [2]], \"nodemap\": [0],"
        "  \"max_memkb\": 131072, \"target_memkb\": 131072,"
        "  \"kernel\": \"/boot/vmlinuz\", \"type.%s\": {}},"
        " \"disks\": ["
        "  {\"pdev_path\": \"/dev/vg/web\", \"vdev\": \"xvda\","
        "   \"backend\": \"qdisk\", \"format\": \"qcow2\", \"readwrite\": 1,"
        "   \"script\": \"block-evil\", \"backend_domname\": \"driver\"},"
        "  {\"vdev\": \"hdc\", \"format\": \"empty\", \"is_cdrom\": 1,"
        "   \"removable\": 1},"
        "  {\"pdev_path\": \"/img/two\", \"vdev\": \"xvdb\","
        "   \"backend\": \"phy\", \"format\": \"raw\", \"removable\": 1}],"
        " \"nics\": [{\"devid\": 0, \"mac\": \"00:16:3e:01:02:03\","
        "   \"bridge\": \"xenbr0\", \"script\": \"vif-bridge\","
        "   \"ifname\": \"web0\", \"backend_domname\": \"net\","
        "   \"mtu\": 1500}],"
        " \"on_reboot\": \"restart\"}",
        type, type);
    struct vn_err err = VN_ERR_INIT;
    json_t *json = jsonx_parse(text, strlen(text), "test", &err);

    assert_made(json, &err);
    return json;
}

/* Pages of every kind; windows begin at multiples of 0x400. */
static inline void xs_memory(struct xen_snapshot *s, bool pv)
{
    s->types = vn_alloc(XS_PFNS);
    s->memory = vn_alloc(XS_PFNS * 4096);
    memset(s->types, XEN_PAGE_XTAB, XS_PFNS);
    memset(s->types, XEN_PAGE_NORMAL, 0x900);
    memset(s->types + 0x2000, XEN_PAGE_NORMAL, 3);
    fill_random(s->memory + 3 * 4096, 700 * 4096, 1);
    fill_random(s->memory + 0x3fe * 4096, 4 * 4096, 2); /* over the edge */
    fill_random(s->memory + 0x8ff * 4096, 4096, 3);
    fill_random(s->memory + 0x2002 * 4096, 4096, 4);
    s->types[0x500] = XEN_PAGE_XALLOC;
    s->types[0x501] = XEN_PAGE_BROKEN;
    s->types[0x502] = XEN_PAGE_XTAB;
    s->types[0x400] = XEN_PAGE_XTAB; /* a hole where there was data */
    memset(s->memory + 0x400 * 4096, 0, 4096);
    if (pv) {
        s->types[5] = 0x1;
        s->types[6] = 0x9;
        s->types[7] = 0x2;
        s->types[8] = 0xc;
    }
    for (unsigned i = 0; i < XS_PFNS; i++)
        s->pages += xen_page_has_data(s->types[i]);
}

/* *name is freed. */
static inline void xs_put(struct xen_snapshot *s, char *name, const void *data,
                          size_t size)
{
    vn_auto(free) char *owned = name;
    struct vn_err err = VN_ERR_INIT;
    struct map_root root;

    assert_ok(store_put_bytes(s->writer, data, size, &root, &err), &err);
    manifest_add(s->manifest, owned, &root);
    assert_ok(store_writer_flush(s->writer, &err), &err);
}

/* The memory as it lies in a snapshot: of each 512 pages those with one that
 * has data, 2 MiB each. Changed by `grow` bytes, to spoil it. */
static inline void xs_put_memory(struct xen_snapshot *s, int grow)
{
    vn_auto(free) uint8_t *image = vn_alloc((XS_PFNS + 1024) * 4096);
    size_t size = 0;

    for (unsigned i = 0; i < XS_PFNS; i += 512) {
        unsigned count = XS_PFNS - i < 512 ? XS_PFNS - i : 512;
        bool is_there = false;

        for (unsigned j = i; j < i + count; j++)
            is_there |= xen_page_has_data(s->types[j]);
        if (!is_there)
            continue;
        memcpy(image + size, s->memory + (size_t)i * 4096,
               (size_t)count * 4096);
        size += 512 * 4096;
    }
    size = (size_t)((int64_t)size + grow);
    xs_put(s, xen_object_memory("a"), image, size);
}

static inline json_t *xs_state(struct xen_snapshot *s)
{
    json_t *meta = json_object_get(s->manifest, "meta");

    return json_object_get(json_object_get(meta, "vm_state"), "a");
}

static inline struct xen_snapshot *xs_new(void **state, const char *type)
{
    struct xen_snapshot *s = vn_alloc(sizeof(*s));
    struct vn_err err = VN_ERR_INIT;
    bool pv = strcmp(type, "pv") == 0;

    assert_int_equal(fixture_setup((void **)&s->store), 0);
    s->type = type;
    s->writer = store_writer_open(s->store->store, &err);
    assert_made(s->writer, &err);
    s->manifest = manifest_new("lab@1", "vne");
    xs_memory(s, pv);
    xs_head(&s->head, pv);
    if (pv)
        xs_tail_pv(&s->tail);
    else
        xs_tail_hvm(&s->tail);
    xs_emulator(&s->emulator);
    xs_put_memory(s, 0);
    xs_put(s, xen_object_types("a"), s->types, XS_PFNS);
    xs_put(s, xen_object_head("a"), s->head.data, s->head.size);
    xs_put(s, xen_object_tail("a"), s->tail.data, s->tail.size);
    if (strcmp(type, "hvm") == 0)
        xs_put(s, xen_object_emulator("a"), s->emulator.data, s->emulator.size);
    json_object_set_new(json_object_get(s->manifest, "meta"), "vm_state",
                        json_pack("{s{ss ss ss so}}", "a", "backend", "xen",
                                  "type", type, "xen_version", "4.17",
                                  "xl_config", xs_config(type)));
    *state = s;
    return s;
}

static inline int xs_teardown(void **state)
{
    struct xen_snapshot *s = *state;

    store_writer_free(s->writer);
    fixture_teardown((void **)&s->store);
    json_decref(s->manifest);
    free(s->types);
    free(s->memory);
    buf_done(&s->head);
    buf_done(&s->tail);
    buf_done(&s->emulator);
    free(s);
    return 0;
}

#endif
