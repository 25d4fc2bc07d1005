#include "coord/vne.h"

#include "common/io.h"
#include "common/jsonx.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* Lines 1 to 5; VMs follow from line 6 on. */
#define HEAD                                                                   \
    "name: demo\n"                                                             \
    "hosts:\n"                                                                 \
    "- {name: h1, agent: 'unix:/run/h1', underlay: 10.0.0.1}\n"                \
    "- {name: h2, agent: 'tls:10.0.0.2:7070', underlay: '10.0.0.2:7000'}\n"    \
    "vms:\n"
#define VM_A "- {name: a, host: h1, memory: 256M}\n"

static struct vne *vne;
static struct vn_err err;

static int setup(void **state)
{
    (void)state;
    memset(&err, 0, sizeof(err));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    vne_free(vne);
    vne = NULL;
    return 0;
}

static void parse(const char *text)
{
    vne_free(vne);
    err.code = 0;
    vne = vne_parse(text, strlen(text), "t.yaml", "/base", &err);
    if (!vne && !err.code)
        fail_msg("failed without an error");
}

static void parse_good(const char *text)
{
    parse(text);
    if (!vne)
        fail_msg("%s", err.msg);
}

/* The error must begin with "t.yaml:PLACE: " and contain `words`. */
static void refused(const char *text, const char *place, const char *words)
{
    char start[64];

    parse(text);
    if (vne)
        fail_msg("accepted: %s", text);
    snprintf(start, sizeof(start), "t.yaml:%s: ", place);
    if (strncmp(err.msg, start, strlen(start)) != 0 || !strstr(err.msg, words))
        fail_msg("'%s', expected '%s...%s'", err.msg, start, words);
    assert_int_equal(err.code, VN_E_FORMAT);
}

static void test_everything(void **state)
{
    const struct vm_config *a;

    (void)state;
    parse_good("name: demo\n"
               "vni: 77\n"
               "domain: red-7\n"
               "vms:\n"
               "- name: a\n"
               "  host: h2\n"
               "  memory: 1G\n"
               "  cpus: 2\n"
               "  machine: q35\n"
               "  cpu: qemu64,+x2apic\n"
               "  accel: tcg\n"
               "  kernel: images/vmlinuz\n"
               "  initrd: /abs/initrd\n"
               "  append: >\n"
               "    console=ttyS0\n"
               "    quiet\n"
               "  extra_args: [-device, virtio-rng-pci]\n"
               "  disks:\n"
               "  - path: a.qcow2\n"
               "  - {path: b.img}\n"
               "  - {path: c.img, format: qcow2}\n"
               "  nics:\n"
               "  - mac: 52:54:00:AA:bb:01\n"
               "  - {model: e1000, tap: tap0}\n"
               "  - unix: {local: a.sock, remote: /run/b.sock}\n"
               "- {name: b, host: h1, qmp: b.qmp, nics: []}\n"
               "hosts:\n"
               "- {name: h1, agent: 'unix:h1.sock', underlay: '[fd00::1]'}\n"
               "- {name: h2, agent: 'tls:h2:7070', underlay: 10.0.0.2:99}\n");
    assert_string_equal(vne->name, "demo");
    assert_int_equal(vne->vni, 77);
    assert_string_equal(vne->domain, "red-7");
    assert_int_equal(vne->host_count, 2);
    assert_string_equal(vne->hosts[0].agent, "unix:/base/h1.sock");
    assert_string_equal(vne->hosts[0].underlay, "[fd00::1]:6081");
    assert_string_equal(vne->hosts[1].underlay, "10.0.0.2:99");
    assert_int_equal(vne->vm_count, 2);
    assert_string_equal(vne->vms[0].host, "h2");
    a = &vne->vms[0].config;
    assert_int_equal(a->memory_bytes, 1u << 30);
    assert_int_equal(a->cpus, 2);
    assert_string_equal(a->machine, "q35");
    assert_string_equal(a->cpu, "qemu64,+x2apic");
    assert_string_equal(a->accel, "tcg");
    assert_string_equal(a->kernel, "/base/images/vmlinuz");
    assert_string_equal(a->initrd, "/abs/initrd");
    assert_string_equal(a->append, "console=ttyS0 quiet");
    assert_string_equal(a->backend, "qemu");
    assert_string_equal(a->extra_args[1], "virtio-rng-pci");
    assert_null(a->extra_args[2]);
    assert_int_equal(a->disk_count, 3);
    assert_string_equal(a->disks[0].path, "/base/a.qcow2");
    assert_string_equal(a->disks[0].format, "qcow2");
    assert_string_equal(a->disks[1].format, "raw");
    assert_string_equal(a->disks[2].format, "qcow2");
    assert_int_equal(a->nic_count, 3);
    assert_string_equal(a->nics[0].mac, "52:54:00:aa:bb:01");
    assert_int_equal(a->nics[0].kind, VM_NIC_FD);
    assert_int_equal(a->nics[0].fd, -1);
    assert_int_equal(a->nics[1].kind, VM_NIC_TAP);
    assert_string_equal(a->nics[1].tap, "tap0");
    assert_string_equal(a->nics[1].model, "e1000");
    assert_int_equal(a->nics[2].kind, VM_NIC_UNIX);
    assert_string_equal(a->nics[2].unix_local, "/base/a.sock");
    assert_string_equal(a->nics[2].unix_remote, "/run/b.sock");
    assert_string_equal(vne->vms[1].config.qmp, "/base/b.qmp");
    assert_int_equal(vne->vms[1].config.nic_count, 0);
    assert_int_equal(vne->vms[1].config.memory_bytes, 0);
    assert_string_equal(vne_find_host(vne, "h2")->agent, "tls:h2:7070");
    assert_null(vne_find_host(vne, "h3"));
}

/* Derived values: there, different, and the same the next time. */
static void test_derived(void **state)
{
    const char *text = HEAD VM_A "- {name: b, host: h2, memory: 1G}\n";
    char first[32];

    (void)state;
    parse_good(text);
    assert_int_equal(vne->vms[0].config.nic_count, 1);
    assert_int_equal(vne->vms[0].config.cpus, 1);
    snprintf(first, sizeof(first), "%s", vne->vms[0].config.nics[0].mac);
    assert_memory_equal(first, "02:", 3);
    assert_int_equal(strlen(first), 17);
    assert_string_not_equal(first, vne->vms[1].config.nics[0].mac);
    assert_in_range(vne->vni, 1, VNE_VNI_MAX);
    parse_good(text);
    assert_string_equal(first, vne->vms[0].config.nics[0].mac);
    /* A MAC that is taken is not derived again. */
    {
        vn_auto(free) char *taken =
            vn_format(HEAD VM_A "- {name: b, host: h2, memory: 1G, "
                                "nics: [{mac: '%s'}]}\n",
                      first);

        parse_good(taken);
        assert_string_equal(first, vne->vms[1].config.nics[0].mac);
        assert_string_not_equal(first, vne->vms[0].config.nics[0].mac);
    }
}

static void test_alone(void **state)
{
    (void)state;
    parse_good("name: x\nhosts: [{name: h, agent: 'unix:/a'}]\n"
               "vms: [{name: v, host: h, memory: 64M}]\n");
    assert_string_equal(vne->hosts[0].underlay, "127.0.0.1:6081");
}

static void test_syntax(void **state)
{
    (void)state;
    refused("", "1:1", "empty");
    refused("# nothing\n", "2:1", "empty");
    refused("name: x\n  hosts: y\n", "2:8", "mapping values");
    refused("name: [a, b\nvms: c\n", "2:4", "','");
    refused("name: 'x\n", "2:1", "end of stream");
    refused("\tname: x\n", "1:1", "cannot start");
    refused("name: \xff\xfe\n", "1:1", "UTF-8");
    refused("name: x\n---\nname: y\n", "2:1", "second document");
    refused("name: &a x\n", "1:7", "anchors");
    refused("name: *a\n", "1:7", "aliases");
    refused("name: x\nvms: [{<<: *a}]\n", "2:12", "aliases");
    refused("name: !!python/object x\n", "1:7", "tags");
    refused("[[[[[[[[[[[[[[[[[[[[x]]]]]]]]]]]]]]]]]]]]", "1:18",
            "nested too deeply");
    refused("name: \"a\\0b\"\n", "1:7", "NUL");
    refused("? [a]\n: b\n", "1:3", "key must be");
}

static void test_keys(void **state)
{
    (void)state;
    refused("- a\n", "1:1", "the file must be");
    refused("name: x\nhost: y\n", "2:1", "did you mean 'hosts'?");
    refused("name: x\nelephant: y\n", "2:1",
            "may have: name, vni, domain, hosts, vms");
    refused(HEAD "- {name: a, host: h1, memmory: 256M}\n", "6:23",
            "unknown key 'memmory', did you mean 'memory'?");
    refused("name: x\nname: y\n", "2:1", "given before at line 1");
    refused("\"\\e[2J\": y\n", "1:1", "unknown key '?[2J'");
    refused("name:\n", "1:6", "'name' has no value");
    refused("name: ~\n", "1:7", "'name' has no value");
    refused("vni: 1\n", "1:1", "'name' is missing in the file");
    refused("name: x\n", "1:1", "'hosts' is missing");
    refused("name: x\nhosts: []\nvms: []\n", "2:8", "0 hosts");
    refused("name: x\nhosts: h1\nvms: []\n", "2:8", "must be a list");
    refused(HEAD "- {host: h1, memory: 1G}\n", "6:3", "'name' is missing");
    refused(HEAD "- {name: a, memory: 1G}\n", "6:3", "'host' is missing");
    refused(HEAD "- {name: a, host: h1}\n", "6:3", "'memory' is missing");
    refused(HEAD "- a\n", "6:3", "a VM must be");
    refused(HEAD VM_A "- {name: b, host: h1, memory: 1G, disks: [{}]}\n",
            "7:43", "'path' is missing in a disk");
    refused(HEAD "- {name: b, host: h1, memory: 1G, nics: [{unix: {local: "
                 "a}}]}\n",
            "6:49", "'remote' is missing in unix");
}

static void test_values(void **state)
{
    (void)state;
    refused("name: a/b\nhosts: 1\nvms: 1\n", "1:7", "is no name");
    refused("name: .a\nhosts: 1\nvms: 1\n", "1:7", "is no name");
    refused("name: [a]\nhosts: 1\nvms: 1\n", "1:7", "found a list");
    refused("name: a\nvni: 16777216\nhosts: 1\nvms: 1\n", "2:6", "vni is");
    refused("name: a\nvni: 0\nhosts: 1\nvms: 1\n", "2:6", "vni is");
    refused("name: a\nvni: 1x\nhosts: 1\nvms: 1\n", "2:6", "vni is");
    refused("name: a\ndomain: a b\nhosts: 1\nvms: 1\n", "2:9",
            "is no name of a domain");
    refused("name: a\ndomain: .a\nhosts: 1\nvms: 1\n", "2:9",
            "is no name of a domain");
    refused(HEAD "- {name: a, host: h9, memory: 1G}\n", "6:19",
            "unknown host 'h9', known: h1, h2");
    refused(HEAD "- {name: a, host: h1, memory: lots}\n", "6:31",
            "'lots' is not a size");
    refused(HEAD "- {name: a, host: h1, memory: 1000}\n", "6:31", "whole MiB");
    refused(HEAD "- {name: a, host: h1, memory: 32T}\n", "6:31", "16T");
    refused(HEAD "- {name: a, host: h1, memory: 1G, cpus: 0}\n", "6:41",
            "cpus is '0'");
    refused(HEAD "- {name: a, host: h1, memory: 1G, cpus: -1}\n", "6:41",
            "cpus is '-1'");
    refused(HEAD "- {name: a, host: h1, memory: 1G, append: x}\n", "6:43",
            "'append' without 'kernel'");
    refused(HEAD "- {name: a, host: h1, memory: 1G, cpu: \"a\\nb\"}\n", "6:40",
            "control character");
    refused(HEAD "- {name: a, host: h1, memory: 1G, disks: [{path: x, "
                 "format: vmdk}]}\n",
            "6:61", "'vmdk' is neither");
    refused(HEAD "- {name: a, host: h1, memory: 1G, nics: [{mac: 1}]}\n",
            "6:48", "is no MAC address");
    refused(HEAD "- {name: a, host: h1, memory: 1G, nics: [{mac: "
                 "01:00:00:00:00:01}]}\n",
            "6:48", "multicast");
    refused(HEAD "- {name: a, host: h1, memory: 1G, nics: [{mac: "
                 "00:00:00:00:00:00}]}\n",
            "6:48", "all zero");
    refused(HEAD "- {name: a, host: h1, memory: 1G, nics: [{tap: a/b}]}\n",
            "6:48", "is no interface name");
    refused(HEAD "- {name: a, host: h1, memory: 1G, nics: [{tap: t, unix: "
                 "{local: a, remote: b}}]}\n",
            "6:57", "not both");
    refused(HEAD "- {name: a, host: h1, memory: 1G, nics: [1,2,3,4,5,6,7,8,9]"
                 "}\n",
            "6:41", "9 nics");
}

static void test_hosts(void **state)
{
    (void)state;
    refused("name: x\nhosts: [{name: h, agent: 'http://a'}]\nvms: 1\n", "2:26",
            "expected unix:PATH or tls:HOST:PORT");
    refused("name: x\nhosts: [{name: h, agent: 'tls:a'}]\nvms: 1\n", "2:26",
            "has no port");
    refused("name: x\nhosts: [{name: h, agent: 'tls:a:0'}]\nvms: 1\n", "2:26",
            "port 0");
    refused("name: x\nhosts: [{name: h, agent: 'tls:a:70000'}]\nvms: 1\n",
            "2:26", "above 65535");
    refused("name: x\nhosts:\n- {name: h, agent: 'unix:/a', underlay: "
            "example.org}\nvms: 1\n",
            "3:41", "no IP address");
    refused("name: x\nhosts:\n- {name: h, agent: 'unix:/a'}\n"
            "- {name: i, agent: 'unix:/b'}\nvms: 1\n",
            "3:3", "'underlay' is missing");
}

static void test_doubles(void **state)
{
    (void)state;
    refused(HEAD VM_A VM_A, "7:10", "VM 'a' was given before at line 6");
    refused(HEAD VM_A "- {name: b, host: h1, memory: 1G, nics: [{mac: "
                      "'52:54:00:00:00:0a'}, {mac: '52:54:00:00:00:0A'}]}\n",
            "7:76",
            "MAC address '52:54:00:00:00:0a' was given before at line "
            "7");
    refused("name: x\nhosts:\n- {name: h, agent: 'unix:/a', underlay: 1.1.1.1}"
            "\n- {name: h, agent: 'unix:/b', underlay: 1.1.1.2}\nvms: 1\n",
            "4:10", "host 'h' was given before at line 3");
    refused("name: x\nhosts:\n- {name: h, agent: 'unix:/a', underlay: 1.1.1.1}"
            "\n- {name: i, agent: 'unix:/a', underlay: 1.1.1.2}\nvms: 1\n",
            "4:20", "agent 'unix:/a' was given before at line 3");
    refused("name: x\nhosts:\n- {name: h, agent: 'unix:/a', underlay: 1.1.1.1}"
            "\n- {name: i, agent: 'unix:/b', underlay: '1.1.1.1:6081'}\n"
            "vms: 1\n",
            "4:41", "'1.1.1.1:6081' was given before at line 3");
}

static void test_json(void **state)
{
    vn_auto(json) json_t *json = NULL;
    vn_auto(json) json_t *again = NULL;
    struct vne *back;
    json_t *vms, *hosts;

    (void)state;
    parse_good(HEAD VM_A "- {name: b, host: h2, qmp: q, kernel: k, append: '', "
                         "disks: "
                         "[{path: d}], nics: [{tap: t}, {}]}\n");
    json = vne_to_json(vne);
    back = vne_from_json(json, &err);
    if (!back)
        fail_msg("%s", err.msg);
    again = vne_to_json(back);
    vne_free(back);
    assert_true(json_equal(json, again));

    vms = json_object_get(json, "vms");
    hosts = json_object_get(json, "hosts");
    json_object_set_new(json_array_get(vms, 0), "host", json_string("h7"));
    assert_null(vne_from_json(json, &err));
    assert_non_null(strstr(err.msg, "unknown host 'h7'"));
    json_object_del(json_array_get(vms, 0), "host");
    back = vne_from_json(json, &err);
    assert_non_null(back);
    assert_null(back->vms[0].host);
    vne_free(back);
    json_array_append(vms, json_array_get(vms, 0));
    assert_null(vne_from_json(json, &err));
    assert_non_null(strstr(err.msg, "VM 'a' is there twice"));
    json_array_remove(vms, 2);
    json_array_append(hosts, json_array_get(hosts, 0));
    assert_null(vne_from_json(json, &err));
    assert_non_null(strstr(err.msg, "host 'h1' is there twice"));
    json_array_remove(hosts, 2);
    json_object_set_new(json, "vni", json_integer(1 << 24));
    assert_null(vne_from_json(json, &err));
    json_object_set_new(json, "vni", json_integer(0));
    assert_null(vne_from_json(json, &err));
    json_object_set_new(json, "vni", json_integer(1));
    json_object_set_new(json, "domain", json_string("../x"));
    assert_null(vne_from_json(json, &err));
    assert_non_null(strstr(err.msg, "is no name of a domain"));
    json_object_set_new(json, "domain", json_integer(7));
    assert_null(vne_from_json(json, &err));
    json_object_set_new(json, "domain", json_string("blue"));
    back = vne_from_json(json, &err);
    assert_non_null(back);
    assert_string_equal(back->domain, "blue");
    vne_free(back);
    json_object_set_new(json, "name", json_string("../x"));
    assert_null(vne_from_json(json, &err));
    json_object_del(json, "name");
    assert_null(vne_from_json(json, &err));
    assert_string_equal(err.msg, "VNE description: 'name' is missing");
}

static void test_xen(void **state)
{
    vn_auto(json) json_t *json = NULL;
    struct vne *back;

    (void)state;
    parse_good(HEAD VM_A "- {name: x, host: h1, backend: xen, memory: 128M}\n"
                         "- {name: y, host: h2, backend: xen, type: pv, "
                         "domain: web, nics: [{}, {}]}\n");
    assert_string_equal(vne->vms[0].config.backend, "qemu");
    assert_int_equal(vne->vms[0].config.nics[0].kind, VM_NIC_FD);
    assert_string_equal(vne->vms[1].config.backend, "xen");
    assert_null(vne->vms[1].config.type);
    assert_int_equal(vne->vms[1].config.nics[0].kind, VM_NIC_VIF);
    assert_false(vm_config_is_attached(&vne->vms[1].config));
    assert_string_equal(vne->vms[2].config.type, "pv");
    assert_true(vm_config_is_attached(&vne->vms[2].config));
    assert_int_equal(vne->vms[2].config.nics[1].kind, VM_NIC_VIF);
    json = vne_to_json(vne);
    back = vne_from_json(json, &err);
    assert_non_null(back);
    assert_int_equal(back->vms[2].config.nics[1].kind, VM_NIC_VIF);
    assert_string_equal(back->vms[2].config.domain, "web");
    vne_free(back);

    refused(HEAD "- {name: a, host: h1, backend: kvm, memory: 1M}\n", "6:32",
            "backend 'kvm' is neither qemu nor xen");
    refused(HEAD "- {name: a, host: h1, backend: xen, type: x, memory: 1M}\n",
            "6:43", "type 'x' is none of pvh, pv, hvm");
    refused(HEAD "- {name: a, host: h1, type: pv, memory: 1M}\n", "6:29",
            "'type' is not for backend 'qemu'");
    refused(HEAD "- {name: a, host: h1, backend: xen, qmp: q}\n", "6:42",
            "'qmp' is not for backend 'xen'");
    refused(HEAD "- {name: a, host: h1, backend: xen, memory: 1M, "
                 "nics: [{tap: t}]}\n",
            "6:56", "neither 'tap' nor 'unix'");
}

static void test_file(void **state)
{
    static const char text[] = HEAD VM_A "  kernel: k\n";
    char dir[] = "/tmp/test_coord_vne.XXXXXX";
    char path[64], expected[64];
    int fd;

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/x.yaml", dir);
    fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, sizeof(text) - 1), sizeof(text) - 1);
    close(fd);
    vne = vne_load(path, &err);
    assert_null(vne);
    snprintf(expected, sizeof(expected), "%s:7:3: ", path);
    assert_memory_equal(err.msg, expected, strlen(expected));
    assert_int_equal(truncate(path, sizeof(HEAD VM_A) - 1), 0);
    vne = vne_load(path, &err);
    assert_non_null(vne);
    assert_int_equal(truncate(path, VNE_FILE_MAX + 1), 0);
    assert_null(vne_load(path, &err));
    assert_int_equal(err.code, VN_E_LIMIT);
    unlink(path);
    rmdir(dir);
    assert_null(vne_load(path, &err));
    assert_non_null(strstr(err.msg, path));
}

/* The example of the format's document, and that of the man page. */
static void test_documents(void **state)
{
    static const char *const files[] = {"/../docs/formats/vne.md",
                                        "/../tools/man/vnstore-vne.5.scd"};
    static const char *const starts[] = {"```yaml\n", "# EXAMPLE\n\n```\n"};

    (void)state;
    for (size_t i = 0; i < VN_COUNT(files); i++) {
        vn_auto(free) char *path = vn_format("%s%s", TESTS_DIR, files[i]);
        vn_auto(buf) struct buf text;
        char *start, *end;

        buf_init(&text, 1u << 20);
        if (io_read_file(path, &text, &err) < 0)
            fail_msg("%s", err.msg);
        start = strstr((char *)text.data, starts[i]);
        assert_non_null(start);
        start += strlen(starts[i]);
        end = strstr(start, "```");
        assert_non_null(end);
        *end = 0;
        parse_good(start);
        assert_string_equal(vne->name, "shop");
    }
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_everything), TEST(test_derived), TEST(test_alone),
        TEST(test_syntax),     TEST(test_keys),    TEST(test_values),
        TEST(test_hosts),      TEST(test_doubles), TEST(test_json),
        TEST(test_xen),        TEST(test_file),    TEST(test_documents),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
