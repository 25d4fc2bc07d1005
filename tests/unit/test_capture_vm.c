/* VM configurations as JSON, modes by name, and the pretended VM. */
#include "capture/vm.h"

#include "capture/vm_sim.h"
#include "common/clock.h"
#include "common/io.h"
#include "common/jsonx.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- configuration ------------------------------------------------------ */

static const char full[] =
    "{\"name\": \"web-1\", \"backend\": \"qemu\", \"memory_bytes\": 268435456,"
    " \"cpus\": 2, \"machine\": \"pc-i440fx-7.2\", \"cpu\": \"qemu64\","
    " \"accel\": \"tcg\", \"kernel\": \"/k\", \"initrd\": \"/i\","
    " \"append\": \"a b\", \"extra_args\": [\"-x\", \"y,z\"], \"nics\": ["
    "{\"mac\": \"52:54:00:12:34:56\", \"kind\": \"fd\"},"
    "{\"mac\": \"52:54:00:12:34:57\", \"kind\": \"tap\", \"tap\": \"tap0\","
    " \"model\": \"e1000\"},"
    "{\"mac\": \"52:54:00:12:34:58\", \"kind\": \"unix\", \"unix_local\": "
    "\"/l\", \"unix_remote\": \"/r\"}],"
    " \"disks\": [{\"path\": \"/d\", \"format\": \"raw\"}]}";

static json_t *parse(const char *text)
{
    struct vn_err err = VN_ERR_INIT;
    json_t *json = jsonx_parse(text, strlen(text), "test", &err);

    if (!json)
        fail_msg("%s", err.msg);
    return json;
}

static void test_config_round_trip(void **state)
{
    vn_auto(json) json_t *json = parse(full);
    vn_auto(json) json_t *back = NULL;
    vn_auto(vm_config) struct vm_config config = {.name = NULL};
    vn_auto(vm_config) struct vm_config copy = {.name = NULL};
    struct vn_err err = VN_ERR_INIT;

    (void)state;
    assert_int_equal(vm_config_from_json(json, &config, &err), 0);
    back = vm_config_to_json(&config);
    assert_true(json_equal(json, back));
    assert_int_equal(config.nics[0].fd, -1);
    assert_string_equal(config.extra_args[1], "y,z");
    assert_null(config.extra_args[2]);
    config.nics[0].fd = 7;
    assert_int_equal(vm_config_copy(&config, &copy, &err), 0);
    assert_int_equal(copy.nics[0].fd, 7);
    assert_int_equal(copy.nics[1].fd, -1);
}

/* `full` with one key set to a JSON value; how it is refused. */
static void refuse(const char *key, const char *value, int code,
                   const char *word)
{
    struct vn_err err = VN_ERR_INIT;
    vn_auto(json) json_t *json = parse(full);
    struct vm_config config;

    json_object_set_new(json, key, json_loads(value, JSON_DECODE_ANY, NULL));
    assert_int_equal(vm_config_from_json(json, &config, &err), -1);
    if (err.code != code || !strstr(err.msg, word))
        fail_msg("%s = %s: code %d: %s", key, value, err.code, err.msg);
}

static void test_config_limits(void **state)
{
    (void)state;
    refuse("name", "\"\"", VN_E_FORMAT, "name");
    refuse("name", "\"../x\"", VN_E_FORMAT, "name");
    refuse("name", "\"a/b\"", VN_E_FORMAT, "name");
    refuse("name", "\"a,b\"", VN_E_FORMAT, "name");
    refuse("name", "7", VN_E_FORMAT, "name");
    refuse(
        "name",
        "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"",
        VN_E_LIMIT, "name");
    refuse("memory_bytes", "0", VN_E_LIMIT, "web-1");
    refuse("memory_bytes", "1000000", VN_E_LIMIT, "memory_bytes");
    refuse("memory_bytes", "1125899906842624", VN_E_LIMIT, "memory_bytes");
    refuse("memory_bytes", "-1", VN_E_FORMAT, "memory_bytes");
    refuse("cpus", "0", VN_E_LIMIT, "cpus");
    refuse("cpus", "256", VN_E_LIMIT, "cpus");
    refuse("extra_args", "[1]", VN_E_FORMAT, "extra_args");
    refuse("extra_args", "{}", VN_E_FORMAT, "extra_args");
    refuse("machine", "\"\"", VN_E_FORMAT, "machine");
    refuse("nics", "[{\"mac\": \"52:54:00:12:34\", \"kind\": \"fd\"}]",
           VN_E_FORMAT, "nic 0");
    refuse("nics", "[{\"mac\": \"53:54:00:12:34:56\", \"kind\": \"fd\"}]",
           VN_E_FORMAT, "multicast");
    refuse("nics", "[{\"mac\": \"52:54:00:12:34:5,\", \"kind\": \"fd\"}]",
           VN_E_FORMAT, "mac");
    refuse("nics", "[{\"mac\": \"52:54:00:12:34:56\", \"kind\": \"x\"}]",
           VN_E_FORMAT, "kind");
    refuse("nics", "[{\"mac\": \"52:54:00:12:34:56\", \"kind\": \"tap\"}]",
           VN_E_FORMAT, "tap");
    refuse("nics", "[0, 0, 0, 0, 0, 0, 0, 0, 0]", VN_E_LIMIT, "nics");
    refuse("disks", "[{\"path\": \"/d\", \"format\": \"vmdk\"}]", VN_E_FORMAT,
           "disk 0");
    refuse("disks", "[{\"format\": \"raw\"}]", VN_E_FORMAT, "path");
}

static void test_modes(void **state)
{
    struct vn_err err = VN_ERR_INIT;
    enum vm_mode mode;

    (void)state;
    for (enum vm_mode m = VM_MODE_AUTO; m <= VM_MODE_STOP; m++) {
        assert_int_equal(vm_mode_parse(vm_mode_name(m), &mode, &err), 0);
        assert_int_equal(mode, m);
    }
    assert_int_equal(vm_mode_parse("fast", &mode, &err), -1);
    assert_int_equal(err.code, VN_E_FORMAT);
}

/* ---- the pretended VM --------------------------------------------------- */

struct fixture {
    char dir[64];
    struct store *store;
    struct store_writer *writer;
    json_t *manifest;
    struct vm *vm;
};

static int setup(void **state)
{
    struct fixture *f = vn_alloc(sizeof(*f));
    struct vn_err err = VN_ERR_INIT;

    strcpy(f->dir, "/tmp/vn-test-vm-XXXXXX");
    *state = f;
    if (!mkdtemp(f->dir) || store_init(f->dir, &err) < 0)
        return -1;
    f->store = store_open(f->dir, &err);
    f->writer = f->store ? store_writer_open(f->store, &err) : NULL;
    f->manifest = manifest_new("s@1", "vne");
    return f->writer ? 0 : -1;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    vn_auto(free) char *command = vn_format("rm -rf '%s'", f->dir);

    vm_free(f->vm);
    json_decref(f->manifest);
    store_writer_free(f->writer);
    store_close(f->store);
    if (system(command) != 0)
        return -1;
    free(f);
    return 0;
}

static void start_sim(struct fixture *f, const char *arg)
{
    struct vn_err err = VN_ERR_INIT;
    vn_auto(json) json_t *json = json_pack(
        "{s:s,s:s,s:i,s:i,s:[s]}", "name", "a", "backend", "sim",
        "memory_bytes", 1 << 20, "cpus", 1, "extra_args", arg ? arg : "none");
    vn_auto(vm_config) struct vm_config config = {.name = NULL};

    assert_int_equal(vm_config_from_json(json, &config, &err), 0);
    f->vm = vm_start(&config, f->dir, &err);
    if (!f->vm)
        fail_msg("%s", err.msg);
}

static const struct vm_prepare_opts cow = {.mode = VM_MODE_AUTO,
                                           .timeout_ns = 60 * VN_SEC};

static void set_flag(void *flag)
{
    *(bool *)flag = true;
}

static void expect_running(struct fixture *f, bool expected)
{
    struct vn_err err = VN_ERR_INIT;
    bool running;

    assert_int_equal(vm_is_running(f->vm, &running, &err), 0);
    assert_int_equal(running, expected);
}

static void test_sim_snapshot(void **state)
{
    struct fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    struct vm_saved saved;
    struct map_root root;
    bool resumed = false;
    uint64_t wall;
    char text[8] = "";

    start_sim(f, NULL);
    vm_sim_write(f->vm, 5000, "before", 7);
    assert_int_equal(vm_prepare(f->vm, &cow, &err), 0);
    assert_int_equal(vm_chosen_mode(f->vm), VM_MODE_COW);
    assert_int_equal(vm_stop(f->vm, &wall, &err), 0);
    expect_running(f, false);
    assert_int_equal(vm_capture(f->vm, &err), 0);
    expect_running(f, true);
    vm_sim_write(f->vm, 5000, "after", 6);
    assert_int_equal(vm_save(f->vm, f->writer, NULL, f->manifest, set_flag,
                             &resumed, &saved, &err),
                     0);
    assert_true(resumed);
    assert_true(saved.resume_wall_ns >= saved.stop_wall_ns);
    json_decref(saved.meta);
    assert_int_equal(vm_finish(f->vm, &err), 0);
    assert_int_equal(store_writer_flush(f->writer, &err), 0);
    assert_int_equal(manifest_object(f->manifest, "vm/a/ram/sim", &root, &err),
                     0);
    {
        vn_auto(image_reader) struct image_reader *image =
            image_reader_open(f->store, &root, &err);

        assert_non_null(image);
        assert_int_equal(image_reader_read(image, 5000, text, 7, &err), 0);
    }
    assert_string_equal(text, "before");
}

static void test_sim_order(void **state)
{
    struct fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    uint64_t wall;

    start_sim(f, NULL);
    assert_int_equal(vm_stop(f->vm, &wall, &err), -1);
    assert_int_equal(err.code, VN_E_STATE);
    assert_int_equal(vm_capture(f->vm, &err), -1);
    assert_int_equal(vm_finish(f->vm, &err), -1);
    assert_int_equal(vm_abort(f->vm, &err), 0);
    expect_running(f, true);
}

static void test_sim_fails_once(void **state)
{
    struct fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    uint64_t wall;

    start_sim(f, "fail=capture");
    assert_int_equal(vm_prepare(f->vm, &cow, &err), 0);
    assert_int_equal(vm_stop(f->vm, &wall, &err), 0);
    assert_int_equal(vm_capture(f->vm, &err), -1);
    expect_running(f, false);
    assert_int_equal(vm_abort(f->vm, &err), 0);
    expect_running(f, true);
    assert_int_equal(vm_prepare(f->vm, &cow, &err), 0);
    assert_int_equal(vm_stop(f->vm, &wall, &err), 0);
    assert_int_equal(vm_capture(f->vm, &err), 0);
}

static void test_sim_dies(void **state)
{
    struct fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;

    start_sim(f, "die=prepare");
    assert_int_equal(vm_prepare(f->vm, &cow, &err), -1);
    assert_int_equal(err.code, VN_E_PEER);
    assert_int_equal(vm_abort(f->vm, &err), -1);
}

static void *cancel_soon(void *vm)
{
    usleep(20000);
    vm_cancel(vm);
    return NULL;
}

static void test_sim_cancel(void **state)
{
    struct fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    pthread_t thread;

    start_sim(f, "prepare_ms=60000");
    assert_int_equal(pthread_create(&thread, NULL, cancel_soon, f->vm), 0);
    assert_int_equal(vm_prepare(f->vm, &cow, &err), -1);
    pthread_join(thread, NULL);
    assert_int_equal(err.code, ECANCELED);
    assert_int_equal(vm_abort(f->vm, &err), 0);
}

static void test_unknown_backend(void **state)
{
    struct vn_err err = VN_ERR_INIT;
    char name[] = "a", backend[] = "vmware";
    const struct vm_config config = {.name = name, .backend = backend};

    (void)state;
    assert_null(vm_start(&config, "/nowhere", &err));
    assert_int_equal(err.code, VN_E_UNSUPPORTED);
    assert_non_null(strstr(err.msg, "vmware"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config_round_trip),
        cmocka_unit_test(test_config_limits),
        cmocka_unit_test(test_modes),
        cmocka_unit_test(test_unknown_backend),
        cmocka_unit_test_setup_teardown(test_sim_snapshot, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sim_order, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sim_fails_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sim_dies, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sim_cancel, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
