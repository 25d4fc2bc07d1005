/* xl's configuration files from ours, and what xl says of a domain. */
#include "capture/xen_cfg.h"

#include "common/jsonx.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *const targets[] = {"/img/a disk.raw.dev", "/dev/vg/b"};

static struct vm_config simple(void)
{
    static char name[] = "web-1";

    return (struct vm_config){
        .name = name, .memory_bytes = 256ull << 20, .cpus = 2};
}

static void expect_text(const struct vm_config *config, const char *expected)
{
    struct vn_err err = VN_ERR_INIT;
    vn_auto(free) char *text = xen_cfg_text(config, targets, NULL, &err);

    if (!text)
        fail_msg("%s", err.msg);
    assert_string_equal(text, expected);
}

static void expect_failure(const struct vm_config *config, int code,
                           const char *word)
{
    struct vn_err err = VN_ERR_INIT;

    assert_null(xen_cfg_text(config, targets, NULL, &err));
    assert_int_equal(err.code, code);
    if (!strstr(err.msg, word))
        fail_msg("'%s' not in '%s'", word, err.msg);
}

static void test_plain(void **state)
{
    struct vm_config config = simple();

    (void)state;
    expect_text(&config, "name = \"web-1\"\n"
                         "type = \"pvh\"\n"
                         "memory = 256\n"
                         "maxmem = 256\n"
                         "vcpus = 2\n");
}

static void test_full(void **state)
{
    char type[] = "pv", kernel[] = "/k", initrd[] = "/i",
         append[] = "a=\"b\" c='d' e\\f", line[] = "tsc_mode = \"native\"",
         raw[] = "raw", path[] = "/x", mac[] = "52:54:00:12:34:56";
    char *lines[] = {line, NULL};
    struct vm_config config = simple();

    (void)state;
    config.type = type;
    config.kernel = kernel;
    config.initrd = initrd;
    config.append = append;
    config.extra_args = lines;
    config.disk_count = 2;
    config.disks[0] = (struct vm_disk){path, raw};
    config.disks[1] = (struct vm_disk){path, NULL};
    config.nic_count = 2;
    config.nics[0] = (struct vm_nic){.mac = mac, .kind = VM_NIC_VIF};
    config.nics[1] = config.nics[0];
    expect_text(&config,
                "name = \"web-1\"\n"
                "type = \"pv\"\n"
                "kernel = \"/k\"\n"
                "ramdisk = \"/i\"\n"
                "extra = \"a=\\\"b\\\" c=\\'d\\' e\\\\f\"\n"
                "memory = 256\n"
                "maxmem = 256\n"
                "vcpus = 2\n"
                "vif = [ \"mac=52:54:00:12:34:56,type=vif,script=vif-violin\","
                " \"mac=52:54:00:12:34:56,type=vif,script=vif-violin\" ]\n"
                "disk = [ \"format=raw,vdev=xvda,access=rw,backendtype=phy,"
                "target=/img/a disk.raw.dev\","
                " \"format=raw,vdev=xvdb,access=rw,backendtype=phy,"
                "target=/dev/vg/b\" ]\n"
                "tsc_mode = \"native\"\n");
}

/* A BIOS boots from disks that it knows. */
static void test_hvm(void **state)
{
    char type[] = "hvm", path[] = "/x", kernel[] = "/k";
    struct vm_config config = simple();
    struct vn_err err = VN_ERR_INIT;
    char *text;

    (void)state;
    config.type = type;
    config.disk_count = 1;
    config.disks[0].path = path;
    text = xen_cfg_text(&config, targets, NULL, &err);
    assert_non_null(text);
    assert_non_null(strstr(text, "vdev=hda,"));
    assert_non_null(strstr(text, "serial = \"pty\"\n"));
    free(text);
    config.kernel = kernel;
    text = xen_cfg_text(&config, targets, "other", &err);
    assert_non_null(text);
    assert_non_null(strstr(text, "vdev=xvda,"));
    free(text);
}

static void test_refused(void **state)
{
    char qcow2[] = "qcow2", path[] = "/x", mac[] = "52:54:00:12:34:56",
         bad_mac[] = "52:54,bridge=br0", line_feed[] = "a\nkernel=\"/etc/x\"";
    struct vm_config config = simple();

    (void)state;
    config.disk_count = 1;
    config.disks[0] = (struct vm_disk){path, qcow2};
    expect_failure(&config, VN_E_UNSUPPORTED, "disk 0 is of format 'qcow2'");
    config.disk_count = 0;
    config.nic_count = 1;
    config.nics[0] = (struct vm_nic){.mac = mac, .kind = VM_NIC_FD};
    expect_failure(&config, VN_E_UNSUPPORTED, "NIC 0");
    config.nics[0] = (struct vm_nic){.mac = bad_mac, .kind = VM_NIC_VIF};
    expect_failure(&config, VN_E_FORMAT, "NIC 0");
    config.nics[0] = (struct vm_nic){.kind = VM_NIC_VIF};
    expect_failure(&config, VN_E_FORMAT, "NIC 0");
    config.nic_count = 0;
    config.name = line_feed;
    expect_failure(&config, VN_E_FORMAT, "control character");
}

static void expect_list(const char *text, const char *word)
{
    struct vn_err err = VN_ERR_INIT;
    uint32_t domid = 77;
    vn_auto(json) json_t *config =
        xen_cfg_of_list(text, strlen(text), &domid, &err);

    if (!word) {
        if (!config)
            fail_msg("%s", err.msg);
        assert_int_equal(domid, 3);
        assert_string_equal(jsonx_string_or(config, "x", ""), "y");
        return;
    }
    assert_null(config);
    assert_int_equal(domid, 77);
    if (!strstr(err.msg, word))
        fail_msg("'%s' not in '%s'", word, err.msg);
}

static void test_list(void **state)
{
    (void)state;
    expect_list("[{\"domid\": 3, \"config\": {\"x\": \"y\"}}]", NULL);
    expect_list("", "xl's answer");
    expect_list("[]", "one domain");
    expect_list("{\"domid\": 3, \"config\": {}}", "one domain");
    expect_list("[{\"domid\": 3, \"config\": {}}, 1]", "one domain");
    expect_list("[{\"domid\": 70000, \"config\": {}}]", "domid");
    expect_list("[{\"domid\": -1, \"config\": {}}]", "domid");
    expect_list("[{\"config\": {}}]", "domid");
    expect_list("[{\"domid\": 3, \"config\": 7}]", "config");
    expect_list("[3]", "domid");
}

static void test_device_path(void **state)
{
    vn_auto(free) char *path = xen_cfg_device_path("/a/b.raw");

    (void)state;
    assert_string_equal(path, "/a/b.raw.dev");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain), cmocka_unit_test(test_full),
        cmocka_unit_test(test_hvm),   cmocka_unit_test(test_refused),
        cmocka_unit_test(test_list),  cmocka_unit_test(test_device_path),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
