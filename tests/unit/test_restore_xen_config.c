/* libxl's configuration made into that of the domain that comes back. */

#include "restore/xen_config.h"

#include "unit/xen_snapshot.h"

static struct vm_config config_of(const char *mac)
{
    static char name[] = "a", one[] = "/s/disk-0.raw", two[] = "/s/disk-1.raw",
                raw[] = "raw";
    struct vm_config config = {
        .name = name,
        .disks = {{one, raw}, {two, raw}},
        .disk_count = 2,
        .nic_count = 1,
    };

    config.nics[0].mac = mac ? vn_strdup(mac) : NULL;
    return config;
}

static json_t *adapt(json_t *captured, const char *mac)
{
    struct vm_config config = config_of(mac);
    struct vn_err err = VN_ERR_INIT;
    json_t *json = xen_config_adapt(captured, &config, &err);

    free(config.nics[0].mac);
    assert_made(json, &err);
    return json;
}

static void check_domain(const json_t *json)
{
    const json_t *c_info = json_object_get(json, "c_info");
    const json_t *b_info = json_object_get(json, "b_info");
    const char *uuid = jsonx_string_or(c_info, "uuid", "");

    assert_string_equal(jsonx_string_or(c_info, "name", ""), "a");
    assert_int_equal(strlen(uuid), 36);
    assert_string_not_equal(uuid, "11111111-2222-4333-8444-555555555555");
    for (int i = 0; i < 36; i++)
        assert_non_null(strchr(
            i == 8 || i == 13 || i == 18 || i == 23 ? "-" : "0123456789abcdef",
            uuid[i]));
    assert_int_equal(uuid[14], '4');
    assert_non_null(strchr("89ab", uuid[19]));
    assert_null(json_object_get(c_info, "domid"));
    assert_null(json_object_get(c_info, "poolid"));
    assert_null(json_object_get(c_info, "pool_name"));
    assert_string_equal(jsonx_string_or(c_info, "type", ""), "pvh");
    assert_null(json_object_get(b_info, "vcpu_hard_affinity"));
    assert_null(json_object_get(b_info, "nodemap"));
    assert_int_equal(jsonx_u64_or(b_info, "max_memkb", 0), 131072);
    assert_true(json_is_object(json_object_get(b_info, "type.pvh")));
    assert_string_equal(jsonx_string_or(json, "on_reboot", ""), "restart");
}

static void check_disks(const json_t *json)
{
    const json_t *disks = json_object_get(json, "disks");
    const json_t *one = json_array_get(disks, 0);
    const json_t *drive = json_array_get(disks, 1);
    const json_t *two = json_array_get(disks, 2);

    assert_int_equal(json_array_size(disks), 3);
    assert_string_equal(jsonx_string_or(one, "pdev_path", ""),
                        "/s/disk-0.raw.dev");
    assert_string_equal(jsonx_string_or(one, "format", ""), "raw");
    assert_string_equal(jsonx_string_or(one, "backend", ""), "phy");
    assert_string_equal(jsonx_string_or(one, "vdev", ""), "xvda");
    assert_int_equal(jsonx_u64_or(one, "readwrite", 0), 1);
    assert_null(json_object_get(one, "script"));
    assert_null(json_object_get(one, "backend_domname"));
    assert_string_equal(jsonx_string_or(drive, "format", ""), "empty");
    assert_null(json_object_get(drive, "pdev_path"));
    assert_string_equal(jsonx_string_or(two, "pdev_path", ""),
                        "/s/disk-1.raw.dev");
    assert_int_equal(jsonx_u64_or(two, "removable", 0), 1);
    assert_int_equal(jsonx_u64_or(two, "readwrite", 0), 0);
}

static void test_adapt(void **state)
{
    vn_auto(json) json_t *captured = xs_config("pvh");
    vn_auto(json) json_t *before = json_deep_copy(captured);
    vn_auto(json) json_t *json = adapt(captured, NULL);
    vn_auto(json) json_t *again = adapt(captured, "52:54:00:00:00:01");
    const json_t *nic = json_array_get(json_object_get(json, "nics"), 0);
    const json_t *other = json_array_get(json_object_get(again, "nics"), 0);

    (void)state;
    assert_true(json_equal(captured, before));
    check_domain(json);
    check_disks(json);
    assert_string_equal(jsonx_string_or(nic, "mac", ""), "00:16:3e:01:02:03");
    assert_string_equal(jsonx_string_or(nic, "script", ""), "vif-violin");
    assert_int_equal(jsonx_u64_or(nic, "mtu", 0), 1500);
    assert_null(json_object_get(nic, "bridge"));
    assert_null(json_object_get(nic, "ifname"));
    assert_null(json_object_get(nic, "backend_domname"));
    assert_string_equal(jsonx_string_or(other, "mac", ""), "52:54:00:00:00:01");
    assert_string_not_equal(
        jsonx_string_or(json_object_get(json, "c_info"), "uuid", ""),
        jsonx_string_or(json_object_get(again, "c_info"), "uuid", ""));
}

/* As capture/vm_xen does for a domain that it starts. */
static void test_script(void **state)
{
    vn_auto(json) json_t *captured = xs_config("pvh");
    vn_auto(json) json_t *json = NULL;

    (void)state;
    setenv("VN_VIF_SCRIPT", "/opt/vif-other", 1);
    json = adapt(captured, NULL);
    unsetenv("VN_VIF_SCRIPT");
    assert_string_equal(
        jsonx_string_or(json_array_get(json_object_get(json, "nics"), 0),
                        "script", ""),
        "/opt/vif-other");
}

static void test_device(void **state)
{
    vn_auto(free) char *file = xen_config_disk_device("/dev/null");
    vn_auto(free) char *absent = xen_config_disk_device("/no/such");

    (void)state;
    assert_string_equal(file, "/dev/null.dev"); /* not a block device */
    assert_string_equal(absent, "/no/such.dev");
    for (int i = 0; i < 2; i++) {
        const char *path = i ? "/dev/vda" : "/dev/loop0";
        struct stat st;

        if (stat(path, &st) == 0 && S_ISBLK(st.st_mode)) {
            vn_auto(free) char *device = xen_config_disk_device(path);

            assert_string_equal(device, path);
        }
    }
}

static void refuse(json_t *captured, const char *message)
{
    struct vm_config config = config_of(NULL);
    struct vn_err err = VN_ERR_INIT;

    assert_null(xen_config_adapt(captured, &config, &err));
    assert_int_equal(err.code, VN_E_FORMAT);
    if (!strstr(err.msg, message))
        assert_string_equal(err.msg, message);
}

/* Set `key` at the place `in` (NULL: the top), adapt, expect a refusal. */
static void refuse_with(const char *key, const char *value, const char *message)
{
    vn_auto(json) json_t *captured = xs_config("pvh");

    json_object_set_new(captured, key,
                        json_loads(value, JSON_DECODE_ANY, NULL));
    refuse(captured, message);
}

static void test_hostile(void **state)
{
    vn_auto(json) json_t *array = json_array(), *none = json_null();

    (void)state;
    refuse(array, "not an object");
    refuse(none, "not an object");
    refuse_with("c_info", "3", "'c_info' is not an object");
    refuse_with("b_info", "[]", "'b_info' is not an object");
    refuse_with("disks", "{}", "'disks' is not an array");
    refuse_with("disks", "[{}, 1]", "'disks' entry 1 is not an object");
    refuse_with("disks", "null", "it has 0 disks, but VM 'a' has 2");
    refuse_with("disks", "[{}]", "it has 1 disks, but VM 'a' has 2");
    refuse_with("nics", "\"x\"", "'nics' is not an array");
    refuse_with("nics", "[[]]", "'nics' entry 0 is not an object");
    refuse_with("nics", "[{}, {}]", "it has 2 NICs, but VM 'a' has 1");
    refuse_with("nics", "[]", "it has 0 NICs, but VM 'a' has 1");
}

/* Values of other types than libxl's are replaced or left, never trusted. */
static void test_odd_values(void **state)
{
    static const char text[] =
        "{\"disks\": [{\"pdev_path\": 1, \"format\": [], \"is_cdrom\": \"x\"},"
        " {\"format\": null, \"is_cdrom\": {}}], \"nics\": [{\"mac\": 7}]}";
    struct vn_err err = VN_ERR_INIT;
    vn_auto(json) json_t *captured =
        jsonx_parse(text, strlen(text), "test", &err);
    vn_auto(json) json_t *json = adapt(captured, "52:54:00:00:00:01");
    const json_t *disks = json_object_get(json, "disks");

    (void)state;
    assert_string_equal(
        jsonx_string_or(json_array_get(disks, 1), "pdev_path", ""),
        "/s/disk-1.raw.dev");
    assert_string_equal(
        jsonx_string_or(json_object_get(json, "c_info"), "name", ""), "a");
}

static void test_text(void **state)
{
    vn_auto(json) json_t *json = xs_config("pv");
    struct vn_err err = VN_ERR_INIT;
    vn_auto(free) char *text = xen_config_text(json, &err);
    vn_auto(free) char *large = vn_alloc(XEN_CONFIG_MAX + 1);
    vn_auto(json) json_t *back = NULL;

    (void)state;
    assert_made(text, &err);
    back = jsonx_parse(text, strlen(text), "text", &err);
    assert_true(json_equal(json, back));
    memset(large, 'x', XEN_CONFIG_MAX);
    json_object_set_new(json, "x", json_string(large));
    assert_null(xen_config_text(json, &err));
    assert_int_equal(err.code, VN_E_LIMIT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_script),     cmocka_unit_test(test_adapt),
        cmocka_unit_test(test_device),     cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_odd_values), cmocka_unit_test(test_text),
    };

    unsetenv("VN_VIF_SCRIPT");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
