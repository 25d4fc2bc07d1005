/* A saved Xen domain synthesised from a snapshot: read back with our parser,
 * judged by Xen's own verifier where that is found, and refused when spoilt. */

#include "restore/xen_stream_write.h"

#include "unit/xen_snapshot.h"

#include "common/cursor.h"
#include "common/io.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <signal.h>

/* ---- what came out ------------------------------------------------------ */

struct seen {
    const struct xen_snapshot *want;
    uint8_t *types, *memory;
    int64_t last; /* pfns rise */
    unsigned pages;
};

static int see_page(void *context, uint64_t pfn, unsigned type,
                    const void *page, struct vn_err *err)
{
    struct seen *seen = context;

    (void)err;
    assert_true((int64_t)pfn > seen->last);
    assert_true(pfn < XS_PFNS);
    seen->last = (int64_t)pfn;
    seen->types[pfn] = (uint8_t)type;
    assert_int_equal(page != NULL, xen_page_has_data(type));
    if (page)
        memcpy(seen->memory + pfn * 4096, page, 4096);
    seen->pages += page != NULL;
    return 0;
}

static void compare_memory(const struct seen *seen)
{
    const struct xen_snapshot *want = seen->want;

    assert_int_equal(seen->pages, want->pages);
    for (unsigned i = 0; i < XS_PFNS; i++) {
        /* What does not exist is not named. */
        unsigned type =
            want->types[i] == XEN_PAGE_BROKEN ? XEN_PAGE_XTAB : want->types[i];

        if (seen->types[i] != type)
            fail_msg("page %#x has type %u, not %u", i, seen->types[i], type);
    }
    assert_memory_equal(seen->memory, want->memory, XS_PFNS * 4096);
}

/* Types (and vCPUs, above bit 8) of the records in the tail. */
static void compare_tail(const struct buf *tail, const uint32_t *want,
                         unsigned count)
{
    struct cursor c = cursor_of(tail->data, tail->size);

    for (unsigned i = 0; i < count; i++) {
        uint32_t type = cursor_le32(&c), length = cursor_le32(&c);
        struct cursor body = c;
        uint32_t vcpu = (want[i] >> 8) ? cursor_le32(&body) + 1 : 0;

        assert_int_equal(type | vcpu << 8, want[i]);
        cursor_take(&c, (length + 7) & ~7u);
        assert_false(c.failed);
    }
    assert_int_equal(cursor_left(&c), 0);
}

#define VCPU(n) (((n) + 1u) << 8)
static const uint32_t hvm_order[] = {0x08, 0x0a, 0x09};
static const uint32_t pv_order[] = {
    0x08,           0x07,           VCPU(0) | 0x04, VCPU(0) | 0x05,
    VCPU(0) | 0x06, VCPU(1) | 0x04, VCPU(1) | 0x0c};

static void compare_parts(const struct xen_snapshot *s,
                          const struct xen_stream *stream,
                          enum xen_framing framing)
{
    const struct buf *head = xen_stream_head(stream);
    const struct buf *tail = xen_stream_tail(stream);
    const struct buf *emulator = xen_stream_emulator(stream);
    bool pv = strcmp(s->type, "pv") == 0;
    unsigned major, minor;

    assert_int_equal(xen_stream_framing(stream), framing);
    assert_int_equal(xen_stream_domain_type(stream),
                     pv ? XEN_DOMAIN_PV : XEN_DOMAIN_HVM);
    assert_int_equal(xen_stream_pfn_end(stream), XS_PFNS);
    xen_stream_version(stream, &major, &minor);
    assert_int_equal(major, 4);
    assert_int_equal(minor, 17);
    assert_int_equal(head->size, s->head.size);
    assert_memory_equal(head->data, s->head.data, head->size);
    assert_int_equal(tail->size, s->tail.size);
    if (pv)
        compare_tail(tail, pv_order, VN_COUNT(pv_order));
    else
        compare_tail(tail, hvm_order, VN_COUNT(hvm_order));
    if (strcmp(s->type, "hvm") == 0 && framing != XEN_FRAMING_LIBXC) {
        assert_int_equal(emulator->size, s->emulator.size);
        assert_memory_equal(emulator->data, s->emulator.data, emulator->size);
    } else {
        assert_int_equal(emulator->size, 0);
    }
}

/* The configuration in the stream; NULL: none. Decref'd by the caller. */
static json_t *read_back(const struct xen_snapshot *s, const char *path,
                         enum xen_framing framing)
{
    struct vn_err err = VN_ERR_INIT;
    vn_auto(free) uint8_t *types = vn_alloc(XS_PFNS);
    vn_auto(free) uint8_t *memory = vn_alloc(XS_PFNS * 4096);
    struct seen seen = {s, types, memory, -1, 0};
    const struct xen_stream_sink sink = {see_page, &seen};
    vn_auto(xen_stream) struct xen_stream *stream = xen_stream_new(&sink);
    vn_auto(buf) struct buf bytes = {.limit = 64 << 20};
    const char *config;

    memset(types, XEN_PAGE_XTAB, XS_PFNS);
    assert_ok(io_read_file(path, &bytes, &err), &err);
    assert_ok(xen_stream_feed(stream, bytes.data, bytes.size, &err), &err);
    assert_ok(xen_stream_finish(stream, &err), &err);
    compare_memory(&seen);
    compare_parts(s, stream, framing);
    config = xen_stream_config(stream);
    assert_int_equal(config != NULL, framing == XEN_FRAMING_XL);
    return config ? jsonx_parse(config, strlen(config), "config", &err) : NULL;
}

static void write_stream(const struct xen_snapshot *s,
                         const struct vm_config *config,
                         enum xen_framing framing, const char *path)
{
    struct vn_err err = VN_ERR_INIT;
    vn_auto(xen_stream_source) struct xen_stream_source *source =
        xen_stream_source_open(s->store->store, s->manifest, "a", config, &err);
    vn_auto(close) int fd =
        open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    off_t size;

    assert_made(source, &err);
    assert_true(fd >= 0);
    assert_ok(xen_stream_source_write(source, framing, fd, &err), &err);
    size = lseek(fd, 0, SEEK_CUR);
    /* The same again, for another reader. */
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    assert_ok(xen_stream_source_write(source, framing, fd, &err), &err);
    assert_int_equal(lseek(fd, 0, SEEK_CUR), size);
}

static const char *const framing_names[] = {"libxc", "libxl", "xl"};

static void check_framings(struct xen_snapshot *s)
{
    for (int framing = XEN_FRAMING_LIBXC; framing <= XEN_FRAMING_XL;
         framing++) {
        vn_auto(free) char *path =
            vn_format("%s/%s", s->store->dir, framing_names[framing]);
        vn_auto(json) json_t *config = NULL;

        write_stream(s, NULL, (enum xen_framing)framing, path);
        config = read_back(s, path, (enum xen_framing)framing);
        if (config)
            assert_true(
                json_equal(config, json_object_get(xs_state(s), "xl_config")));
    }
}

static void test_pvh(void **state)
{
    check_framings(xs_new(state, "pvh"));
}

static void test_pv(void **state)
{
    check_framings(xs_new(state, "pv"));
}

static void test_hvm(void **state)
{
    check_framings(xs_new(state, "hvm"));
}

/* ---- Xen's verifier ----------------------------------------------------- */

/* The program's path, or NULL: $XEN_TOOLS, PATH, /usr/lib/xen-*. */
static char *find_verifier(void)
{
    static const char name[] = "verify-stream-v2";
    const char *given = getenv("XEN_TOOLS"), *path = getenv("PATH");
    vn_auto(free) char *dirs =
        vn_format("%s:%s", given ? given : "", path ? path : "");
    char *rest = dirs, *dir, *found = NULL;
    glob_t matches;

    while (!found && (dir = strsep(&rest, ":"))) {
        vn_auto(free) char *candidate = vn_format("%s/%s", dir, name);

        if (*dir && access(candidate, X_OK) == 0)
            found = vn_steal(&candidate);
    }
    if (found || glob("/usr/lib/xen-*/bin/verify-stream-v2", 0, NULL, &matches))
        return found;
    if (access(matches.gl_pathv[0], X_OK) == 0)
        found = vn_strdup(matches.gl_pathv[0]);
    globfree(&matches);
    return found;
}

static int run_verifier(const char *program, const char *framing,
                        const char *file)
{
    vn_auto(free) char *dir =
        strndup(program, (size_t)(strrchr(program, '/') - program));
    vn_auto(free) char *command =
        vn_format("PYTHONDONTWRITEBYTECODE=1 PYTHONPATH='%s/../lib/python'"
                  " '%s' -f %s -i '%s'",
                  dir, program, framing, file);

    return system(command);
}

static void test_verifier(void **state)
{
    static const char *const types[] = {"pv", "pvh", "hvm"};
    vn_auto(free) char *program = find_verifier();

    if (!program) {
        xs_new(state, "pvh"); /* for the teardown */
        puts("verify-stream-v2 is not there (xen-utils; or set XEN_TOOLS to "
             "its folder)");
        skip();
    }
    for (size_t i = 0; i < VN_COUNT(types); i++) {
        if (i)
            xs_teardown(state);
        xs_new(state, types[i]);
        for (int f = XEN_FRAMING_LIBXC; f <= XEN_FRAMING_XL; f++) {
            struct xen_snapshot *s = *state;
            vn_auto(free) char *path = vn_format("%s/stream", s->store->dir);

            write_stream(s, NULL, (enum xen_framing)f, path);
            assert_int_equal(run_verifier(program, framing_names[f], path), 0);
        }
    }
}

/* ---- the configuration for this host ------------------------------------ */

static void test_config(void **state)
{
    struct xen_snapshot *s = xs_new(state, "pvh");
    vn_auto(free) char *path = vn_format("%s/stream", s->store->dir);
    struct vm_config config = {
        .name = (char[]){"a"},
        .disks = {{(char[]){"/s/disk-0.raw"}, (char[]){"raw"}},
                  {(char[]){"/s/disk-1.raw"}, (char[]){"raw"}}},
        .disk_count = 2,
        .nic_count = 1,
    };
    vn_auto(json) json_t *json = NULL;
    json_t *disks;

    write_stream(s, &config, XEN_FRAMING_XL, path);
    json = read_back(s, path, XEN_FRAMING_XL);
    assert_non_null(json);
    assert_string_equal(
        jsonx_string_or(json_object_get(json, "c_info"), "name", ""), "a");
    disks = json_object_get(json, "disks");
    assert_string_equal(
        jsonx_string_or(json_array_get(disks, 0), "pdev_path", ""),
        "/s/disk-0.raw.dev");
}

/* The paths are read when the stream is written: the disks are made between. */
static void test_config_late(void **state)
{
    struct xen_snapshot *s = xs_new(state, "pvh");
    struct vn_err err = VN_ERR_INIT;
    vn_auto(free) char *path = vn_format("%s/stream", s->store->dir);
    struct vm_config config = {
        .name = (char[]){"a"},
        .disks = {{(char[]){"old"}, (char[]){"raw"}},
                  {(char[]){"old"}, (char[]){"raw"}}},
        .disk_count = 2,
        .nic_count = 1,
    };
    vn_auto(xen_stream_source) struct xen_stream_source *source =
        xen_stream_source_open(s->store->store, s->manifest, "a", &config,
                               &err);
    vn_auto(close) int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    vn_auto(json) json_t *json = NULL;

    assert_made(source, &err);
    config.disks[1].path = (char[]){"/late"};
    assert_ok(xen_stream_source_write(source, XEN_FRAMING_XL, fd, &err), &err);
    json = read_back(s, path, XEN_FRAMING_XL);
    assert_string_equal(
        jsonx_string_or(json_array_get(json_object_get(json, "disks"), 2),
                        "pdev_path", ""),
        "/late.dev");
}

/* ---- spoilt snapshots --------------------------------------------------- */

static void refused(const struct xen_snapshot *s, int code, const char *message)
{
    struct vn_err err = VN_ERR_INIT;

    assert_null(
        xen_stream_source_open(s->store->store, s->manifest, "a", NULL, &err));
    if (!strstr(err.msg, message))
        assert_string_equal(err.msg, message);
    assert_non_null(strstr(err.msg, "VM 'a'"));
    assert_int_equal(err.code, code);
}

static void test_missing(void **state)
{
    struct xen_snapshot *s = xs_new(state, "hvm");
    json_t *objects = json_object_get(s->manifest, "objects");
    static const char *const names[] = {"vm/a/ram/memory", "vm/a/xen.types",
                                        "vm/a/xen.head", "vm/a/device.state",
                                        "vm/a/xen.emulator"};

    for (size_t i = 0; i < VN_COUNT(names); i++) {
        json_t *object = json_incref(json_object_get(objects, names[i]));

        assert_non_null(object);
        json_object_del(objects, names[i]);
        refused(s, VN_E_NOT_FOUND, names[i]);
        json_object_set_new(objects, names[i], object);
    }
    json_object_del(json_object_get(s->manifest, "meta"), "vm_state");
    refused(s, VN_E_FORMAT, "vm_state");
}

static void test_state(void **state)
{
    struct xen_snapshot *s = xs_new(state, "pvh");
    json_t *entry = xs_state(s);

    json_object_set_new(entry, "xen_version", json_string("four"));
    refused(s, VN_E_FORMAT, "xen_version");
    json_object_set_new(entry, "xen_version", json_string("4.x"));
    refused(s, VN_E_FORMAT, "xen_version");
    json_object_set_new(entry, "xen_version", json_string("4.17.7"));
    json_object_set_new(entry, "backend", json_string("qemu"));
    refused(s, VN_E_UNSUPPORTED, "");
    json_object_set_new(entry, "backend", json_string("xen"));
    json_object_set_new(entry, "type", json_string("arm"));
    refused(s, VN_E_FORMAT, "");
}

/* The image has 6 windows: 0 to 4 and that of 0x2000. */
static void test_sizes(void **state)
{
    struct xen_snapshot *s = xs_new(state, "pvh");

    xs_put_memory(s, -4096);
    refused(s, VN_E_FORMAT,
            "its memory has 12578816 bytes, but the types of its pages want "
            "12582912");
    xs_put_memory(s, 8);
    refused(s, VN_E_FORMAT, "12582920 bytes");
    xs_put_memory(s, 512 * 4096);
    refused(s, VN_E_FORMAT, "14680064 bytes");
    xs_put_memory(s, 0);
    /* As it was once: at pfn * 4096. */
    xs_put(s, xen_object_memory("a"), s->memory, XS_PFNS * 4096);
    refused(s, VN_E_FORMAT, "33566720 bytes");
    xs_put_memory(s, 0);
    /* Without the last window; with one more, of a single page. */
    xs_put(s, xen_object_types("a"), s->types, 0x2000);
    refused(s, VN_E_FORMAT, "want 10485760");
    s->types[0x1234] = 0x9;
    xs_put(s, xen_object_types("a"), s->types, XS_PFNS);
    refused(s, VN_E_FORMAT, "want 14680064");
    xs_put(s, xen_object_types("a"), NULL, 0);
    refused(s, VN_E_FORMAT, "want 0");
}

/* An object of `size` zeros that are not there: types of pages with data. */
static void put_zeros(struct xen_snapshot *s, char *name, uint64_t size)
{
    vn_auto(free) char *owned = name;
    const struct map_root root = {.size = size};

    manifest_add(s->manifest, owned, &root);
}

/* Sizes are believed by nobody: no memory is asked for by them. */
static void test_huge(void **state)
{
    struct xen_snapshot *s = xs_new(state, "pvh");

    put_zeros(s, xen_object_types("a"), XEN_PFN_MAX + 1);
    refused(s, VN_E_LIMIT, "more than 17179869184 pages");
    put_zeros(s, xen_object_types("a"), 1 << 26);
    refused(s, VN_E_FORMAT, "want 274877906944");
    xs_put(s, xen_object_types("a"), s->types, XS_PFNS);
    put_zeros(s, xen_object_memory("a"), XEN_PFN_MAX * XEN_PAGE_SIZE);
    refused(s, VN_E_FORMAT, "want 12582912");
}

/* A tail or a head that is not whole. */
static void test_tail(void **state)
{
    struct xen_snapshot *s = xs_new(state, "pvh");
    const uint8_t *tail = s->tail.data; /* TSC, context, parameters: 32 each */
    struct buf twice = {.limit = 1 << 20};

    xs_put(s, xen_object_tail("a"), tail, 32);
    refused(s, VN_E_FORMAT, "HVM_CONTEXT");
    xs_put(s, xen_object_tail("a"), tail, 64);
    refused(s, VN_E_FORMAT, "HVM_PARAMS");
    xs_put(s, xen_object_tail("a"), tail + 64, 32);
    refused(s, VN_E_FORMAT, "HVM_CONTEXT");
    xs_put(s, xen_object_tail("a"), tail, 90);
    refused(s, VN_E_FORMAT, "cut");
    xs_put(s, xen_object_tail("a"), tail, 0);
    refused(s, VN_E_FORMAT, "HVM_CONTEXT");
    buf_put(&twice, tail, 96);
    buf_put(&twice, tail + 32, 32);
    xs_put(s, xen_object_tail("a"), twice.data, twice.size);
    buf_done(&twice);
    refused(s, VN_E_FORMAT, "twice");
    xs_put(s, xen_object_head("a"), s->head.data, s->head.size - 8);
    xs_put(s, xen_object_tail("a"), tail, 96);
    refused(s, VN_E_FORMAT, "STATIC_DATA_END");
}

static void test_tail_pv(void **state)
{
    struct xen_snapshot *s = xs_new(state, "pv");
    struct buf tail;

    buf_init(&tail, 1 << 20);
    xs_tsc(&tail);
    xs_vcpu(&tail, 0x04, 0, 5168, 1);
    xs_put(s, xen_object_tail("a"), tail.data, tail.size);
    refused(s, VN_E_FORMAT, "SHARED_INFO");
    tail.size = 0;
    xs_filled(&tail, 0x07, "", 0, 4096, 0);
    xs_vcpu(&tail, 0x04, 1, 5168, 1);
    xs_put(s, xen_object_tail("a"), tail.data, tail.size);
    refused(s, VN_E_FORMAT, "vCPU 0");
    buf_done(&tail);
}

static void test_emulator(void **state)
{
    struct xen_snapshot *s = xs_new(state, "hvm");

    xs_put(s, xen_object_emulator("a"), NULL, 0);
    refused(s, VN_E_FORMAT, "device model");
    xs_put(s, xen_object_emulator("a"), s->emulator.data, s->emulator.size - 8);
    refused(s, VN_E_FORMAT, "device model");
}

/* Types that are no types, in a window that is there and in one that is not. */
static void test_reserved_type(void **state)
{
    struct xen_snapshot *s = xs_new(state, "pvh");
    static const uint8_t reserved[] = {5, 8, 16, 255};

    for (size_t i = 0; i < VN_COUNT(reserved); i++) {
        s->types[0x812] = reserved[i];
        xs_put(s, xen_object_types("a"), s->types, XS_PFNS);
        refused(s, VN_E_FORMAT, "page 0x812 is of the reserved type");
        s->types[0x812] = XEN_PAGE_NORMAL;
        s->types[0x1111] = reserved[i];
        xs_put(s, xen_object_types("a"), s->types, XS_PFNS);
        refused(s, VN_E_FORMAT, "page 0x1111 is of the reserved type");
        s->types[0x1111] = XEN_PAGE_XTAB;
    }
}

struct told {
    uint64_t done, total;
    unsigned calls;
};

static void take_progress(void *context, uint64_t done, uint64_t total)
{
    struct told *told = context;

    assert_true(done >= told->done && done <= total);
    *told = (struct told){done, total, told->calls + 1};
}

/* Of the pages that there are, not of the addresses. */
static void test_progress(void **state)
{
    struct xen_snapshot *s = xs_new(state, "pvh");
    struct vn_err err = VN_ERR_INIT;
    vn_auto(xen_stream_source) struct xen_stream_source *source =
        xen_stream_source_open(s->store->store, s->manifest, "a", NULL, &err);
    vn_auto(close) int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    struct told told = {0};

    assert_made(source, &err);
    xen_stream_source_set_progress(source, take_progress, &told);
    assert_ok(xen_stream_source_write(source, XEN_FRAMING_XL, fd, &err), &err);
    assert_int_equal(told.total, s->pages * 4096);
    assert_int_equal(told.done, told.total);
    assert_true(told.calls >= 3);
}

static void test_reader_gone(void **state)
{
    struct xen_snapshot *s = xs_new(state, "pvh");
    struct vn_err err = VN_ERR_INIT;
    vn_auto(xen_stream_source) struct xen_stream_source *source =
        xen_stream_source_open(s->store->store, s->manifest, "a", NULL, &err);
    int ends[2];

    assert_made(source, &err);
    signal(SIGPIPE, SIG_IGN);
    assert_int_equal(pipe(ends), 0);
    close(ends[0]);
    assert_int_equal(
        xen_stream_source_write(source, XEN_FRAMING_XL, ends[1], &err), -1);
    close(ends[1]);
    assert_int_equal(err.code, EPIPE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_pvh, xs_teardown),
        cmocka_unit_test_teardown(test_pv, xs_teardown),
        cmocka_unit_test_teardown(test_hvm, xs_teardown),
        cmocka_unit_test_teardown(test_verifier, xs_teardown),
        cmocka_unit_test_teardown(test_config, xs_teardown),
        cmocka_unit_test_teardown(test_config_late, xs_teardown),
        cmocka_unit_test_teardown(test_missing, xs_teardown),
        cmocka_unit_test_teardown(test_state, xs_teardown),
        cmocka_unit_test_teardown(test_sizes, xs_teardown),
        cmocka_unit_test_teardown(test_huge, xs_teardown),
        cmocka_unit_test_teardown(test_tail, xs_teardown),
        cmocka_unit_test_teardown(test_tail_pv, xs_teardown),
        cmocka_unit_test_teardown(test_emulator, xs_teardown),
        cmocka_unit_test_teardown(test_reserved_type, xs_teardown),
        cmocka_unit_test_teardown(test_progress, xs_teardown),
        cmocka_unit_test_teardown(test_reader_gone, xs_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
