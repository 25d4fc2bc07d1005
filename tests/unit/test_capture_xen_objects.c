/* A Xen domain's objects and its entry in the manifest. */

#include "capture/xen_objects.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/jsonx.h"
#include "unit/xen_stream_builder.h"

static void expect_name(char *name, const char *expected)
{
    assert_string_equal(name, expected);
    free(name);
}

static void test_names(void **state)
{
    (void)state;
    expect_name(xen_object_memory("a-1"), "vm/a-1/ram/memory");
    expect_name(xen_object_types("a"), "vm/a/xen.types");
    expect_name(xen_object_head("a"), "vm/a/xen.head");
    expect_name(xen_object_tail("a"), "vm/a/device.state");
    expect_name(xen_object_emulator("a"), "vm/a/xen.emulator");
    expect_name(xen_object_disk("a", 12), "vm/a/disk/12");
}

static json_t *parse(const char *text)
{
    struct vn_err err = VN_ERR_INIT;
    json_t *json = jsonx_parse(text, strlen(text), "test", &err);

    if (!json)
        fail_msg("%s", err.msg);
    return json;
}

static void test_type(void **state)
{
    static const struct {
        const char *config, *type, *error;
    } cases[] = {
        {"{\"c_info\": {\"type\": \"pvh\"}}", "pvh", NULL},
        {"{\"c_info\": {\"type\": \"pv\"}, \"b_info\": {}}", "pv", NULL},
        {"{\"b_info\": {\"type.hvm\": {}}}", "hvm", NULL},
        {"{\"b_info\": {\"type\": \"pvh\"}}", "pvh", NULL},
        {"{\"c_info\": {\"type\": \"hvm\"}, \"b_info\": {\"type.hvm\": {}}}",
         "hvm", NULL},
        {"{\"c_info\": {\"type\": \"hvm\"}, \"b_info\": {\"type.pv\": {}}}",
         NULL, "two types, hvm and 'pv'"},
        {"{\"c_info\": {\"type\": \"invalid\"}}", NULL, "type 'invalid'"},
        {"{\"c_info\": {\"type\": 3}}", NULL, "does not say"},
        {"{\"c_info\": []}", NULL, "does not say"},
        {"{\"b_info\": \"type.pv\"}", NULL, "does not say"},
        {"{}", NULL, "does not say"},
    };

    (void)state;
    for (size_t i = 0; i < VN_COUNT(cases); i++) {
        vn_auto(json) json_t *config = parse(cases[i].config);
        struct vn_err err = VN_ERR_INIT;
        const char *type = xen_config_type(config, &err);

        if (cases[i].type) {
            assert_non_null(type);
            assert_string_equal(type, cases[i].type);
            continue;
        }
        assert_null(type);
        if (!strstr(err.msg, cases[i].error))
            fail_msg("'%s' is not in '%s'", cases[i].error, err.msg);
    }
}

/* ---- the entry --------------------------------------------------------- */

static int take_page(void *context, uint64_t pfn, unsigned type,
                     const void *page, struct vn_err *err)
{
    (void)context, (void)pfn, (void)type, (void)page, (void)err;
    return 0;
}

struct fixture {
    struct buf bytes;
    struct xen_stream *stream;
    json_t *config, *json; /* json: a good entry */
    struct xen_state read;
};

static void make_entry(struct fixture *f)
{
    const struct xen_stream_sink sink = {take_page, NULL};
    struct vn_err err = VN_ERR_INIT;

    xen_stream_free(f->stream);
    json_decref(f->json);
    f->stream = xen_stream_new(&sink);
    if (xen_stream_feed(f->stream, f->bytes.data, f->bytes.size, &err) < 0 ||
        xen_stream_finish(f->stream, &err) < 0)
        fail_msg("%s", err.msg);
    f->json = xen_state_to_json(f->stream, f->config);
}

static int setup(void **state)
{
    struct fixture *f = vn_alloc(sizeof(*f));

    *state = f;
    buf_init(&f->bytes, 1 << 20);
    f->config = parse("{\"c_info\": {\"type\": \"pvh\", \"name\": \"web\"}}");
    xb_begin(&f->bytes, XB_HVM);
    xb_page(&f->bytes, 0, 1, 'a');
    xb_tail(&f->bytes, XB_HVM);
    xb_end(&f->bytes);
    make_entry(f);
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    xen_state_done(&f->read);
    json_decref(f->json);
    json_decref(f->config);
    xen_stream_free(f->stream);
    buf_done(&f->bytes);
    free(f);
    return 0;
}

static void test_round_trip(void **state)
{
    struct fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;

    json_object_set_new(f->json, "disks", json_array()); /* not looked at */
    if (xen_state_from_json(f->json, &f->read, &err) < 0)
        fail_msg("%s", err.msg);
    assert_string_equal(f->read.type, "pvh");
    assert_string_equal(f->read.xen_version, "4.17");
    assert_true(json_equal(f->read.config, f->config));
    /* copies: nobody's changes are seen by others */
    json_object_clear(f->config);
    json_object_clear(json_object_get(f->json, "xl_config"));
    assert_int_equal(json_object_size(f->read.config), 1);
}

/* The stream's word for the version is any number. */
static void test_large_version(void **state)
{
    struct fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;

    memset(f->bytes.data + 32, 0xff, 8);
    make_entry(f);
    if (xen_state_from_json(f->json, &f->read, &err) < 0)
        fail_msg("%s", err.msg);
    assert_string_equal(f->read.xen_version, "65535.65535");
}

static void refused(struct fixture *f, const char *key, const char *value,
                    int code, const char *text)
{
    vn_auto(json) json_t *json = json_deep_copy(f->json);
    struct vn_err err = VN_ERR_INIT;

    if (value)
        json_object_set_new(json, key,
                            json_loads(value, JSON_DECODE_ANY, NULL));
    else
        json_object_del(json, key);
    assert_int_equal(xen_state_from_json(json, &f->read, &err), -1);
    if (err.code != code || !strstr(err.msg, text))
        fail_msg("%s: %s: code %d, '%s'", key, value, err.code, err.msg);
    assert_null(f->read.config);
}

static void test_bad_entries(void **state)
{
    struct fixture *f = *state;
    static const char *const keys[] = {"backend", "type", "xen_version",
                                       "xl_config"};

    for (size_t i = 0; i < VN_COUNT(keys); i++) {
        refused(f, keys[i], NULL, VN_E_FORMAT, keys[i]);
        refused(f, keys[i], "17", VN_E_FORMAT, keys[i]);
    }
    refused(f, "backend", "\"qemu\"", VN_E_UNSUPPORTED, "not a state of Xen");
    refused(f, "type", "\"pv\"", VN_E_FORMAT, "not what libxl's");
    refused(f, "type", "\"\"", VN_E_FORMAT, "not what libxl's");
    refused(f, "xen_version", "\"4\"", VN_E_FORMAT, "not like 4.17");
    refused(f, "xen_version", "\"4.\"", VN_E_FORMAT, "not like 4.17");
    refused(f, "xen_version", "\".17\"", VN_E_FORMAT, "not like 4.17");
    refused(f, "xen_version", "\"4..7\"", VN_E_FORMAT, "not like 4.17");
    refused(f, "xen_version", "\"4.17.1.2\"", VN_E_FORMAT, "not like 4.17");
    refused(f, "xen_version", "\"4.1x\"", VN_E_FORMAT, "not like 4.17");
    refused(f, "xen_version", "\"4.17000000000000\"", VN_E_FORMAT,
            "not like 4.17");
    refused(f, "xl_config", "{}", VN_E_FORMAT, "does not say");
    refused(f, "xl_config", "{\"c_info\": {\"type\": \"hvm\"}}", VN_E_FORMAT,
            "not what libxl's");
}

static void test_huge_config(void **state)
{
    struct fixture *f = *state;
    vn_auto(free) char *text = vn_alloc(XEN_CONFIG_MAX);
    struct vn_err err = VN_ERR_INIT;

    memset(text, 'x', XEN_CONFIG_MAX - 1);
    json_object_set_new(json_object_get(f->json, "xl_config"), "k",
                        json_string(text));
    assert_int_equal(xen_state_from_json(f->json, &f->read, &err), -1);
    assert_int_equal(err.code, VN_E_LIMIT);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_type),
        cmocka_unit_test_setup_teardown(test_round_trip, setup, teardown),
        cmocka_unit_test_setup_teardown(test_large_version, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_entries, setup, teardown),
        cmocka_unit_test_setup_teardown(test_huge_config, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
