/*
 * A VM brought back, with a double for the emulator: this file defines the
 * vm_*() calls that rehydrate.c makes, so the real ones are not linked.
 */

#include "restore/rehydrate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/fault.h"
#include "common/io.h"
#include "unit/restore_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>

/* ---- the double ---------------------------------------------------------- */

struct vm {
    int unused;
};

static struct {
    bool create_fails;
    size_t load_fails_after; /* bytes; 0: never */
    struct buf loaded;
    char *machine, *disk; /* of the config it was created with */
    unsigned alive;       /* created and not shut down */
    unsigned freed;
    bool disks_there; /* when it was created */
} fake;

struct vm *vm_create(const struct vm_config *config, const char *state_dir,
                     struct vn_err *err)
{
    (void)state_dir;
    fake.disks_there = access(config->disks[0].path, R_OK) == 0 &&
                       access(config->disks[1].path, R_OK) == 0;
    if (fake.create_fails)
        return vn_fail_ptr(err, VN_E_PEER, "no emulator");
    fake.machine = vn_strdup(config->machine);
    fake.disk = vn_strdup(config->disks[0].path);
    fake.alive++;
    return vn_alloc(sizeof(struct vm));
}

int vm_load_state(struct vm *vm, int fd, struct vn_err *err)
{
    (void)vm;
    for (;;) {
        uint8_t *to = buf_reserve(&fake.loaded, 65536);
        ssize_t n;

        assert_non_null(to);
        n = read(fd, to, 65536);
        assert_true(n >= 0);
        if (n == 0)
            break;
        fake.loaded.size += (size_t)n;
        if (fake.load_fails_after && fake.loaded.size >= fake.load_fails_after)
            return vn_fail(err, VN_E_PEER, "unknown device");
    }
    /* As QEMU does: a stream that ends early is an error. */
    if (fake.loaded.size < 600000)
        return vn_fail(err, VN_E_PEER, "the stream ended");
    return 0;
}

int vm_shutdown(struct vm *vm, struct vn_err *err)
{
    (void)vm, (void)err;
    fake.alive--;
    return 0;
}

void vm_free(struct vm *vm)
{
    fake.freed += vm != NULL;
    free(vm);
}

/* ---- fixture ------------------------------------------------------------- */

static struct vm_config config;

static int setup(void **state)
{
    memset(&fake, 0, sizeof(fake));
    buf_init(&fake.loaded, 16 << 20);
    config = (struct vm_config){.name = vn_strdup("a"),
                                .backend = vn_strdup("qemu"),
                                .machine = vn_strdup("pc"),
                                .disk_count = 2};
    for (unsigned i = 0; i < 2; i++) {
        config.disks[i].path = vn_strdup("/elsewhere/a.qcow2");
        config.disks[i].format = vn_strdup("qcow2");
    }
    return rf_setup(state);
}

static int teardown(void **state)
{
    for (unsigned i = 0; i < 2; i++) {
        free(config.disks[i].path);
        free(config.disks[i].format);
    }
    free(config.name);
    free(config.backend);
    free(config.machine);
    free(fake.machine);
    free(fake.disk);
    buf_done(&fake.loaded);
    return rf_teardown(state);
}

static void expect_clean_failure(struct restore_fixture *f, int code,
                                 const char *message)
{
    struct vn_err err = VN_ERR_INIT;
    vn_auto(free) char *disk0 = vn_format("%s/disk-0.raw", f->dir);
    vn_auto(free) char *disk1 = vn_format("%s/disk-1.raw", f->dir);

    assert_null(rehydrate_vm(&config, f->dir, f->store, f->manifest, &err));
    if (!strstr(err.msg, message))
        assert_string_equal(err.msg, message);
    assert_int_equal(err.code, code);
    assert_int_equal(fake.alive, 0);
    assert_int_equal(access(disk0, F_OK), -1);
    assert_int_equal(access(disk1, F_OK), -1);
}

/* ---- tests --------------------------------------------------------------- */

static void test_success(void **state)
{
    struct restore_fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    vn_auto(buf) struct buf disk = {.limit = 16 << 20};
    struct stat st;
    struct vm *vm = rehydrate_vm(&config, f->dir, f->store, f->manifest, &err);

    assert_string_equal(err.msg, "");
    assert_non_null(vm);
    free(vm);
    assert_int_equal(fake.freed, 0);
    assert_true(fake.disks_there);
    assert_string_equal(fake.machine, "pc-test-1.0"); /* the one it came from */
    assert_string_equal(config.disks[0].format, "raw");
    assert_string_equal(config.disks[0].path, fake.disk);
    assert_int_equal(io_read_file(fake.disk, &disk, &err), 0);
    assert_int_equal(disk.size, RF_DISK_SIZE);
    assert_memory_equal(disk.data, f->disk, RF_DISK_SIZE);
    assert_int_equal(stat(fake.disk, &st), 0);
    assert_true(st.st_blocks * 512 <= 101 * 4096); /* sparse */
    assert_int_equal(stat(config.disks[1].path, &st), 0);
    assert_int_equal(st.st_size, 4096);
    assert_true(fake.loaded.size > 600000);
    assert_memory_equal(fake.loaded.data, "QEVM", 4);
}

static void test_create_fails(void **state)
{
    fake.create_fails = true;
    expect_clean_failure(*state, VN_E_PEER, "restoring VM 'a': no emulator");
    assert_true(fake.disks_there);
}

static void test_load_fails(void **state)
{
    fake.load_fails_after = 1000; /* the writer is blocked by then */
    expect_clean_failure(*state, VN_E_PEER, "VM 'a': unknown device");
    assert_int_equal(fake.freed, 1);
}

static void test_missing_disk(void **state)
{
    struct restore_fixture *f = *state;

    json_object_del(json_object_get(f->manifest, "objects"), "vm/a/disk/1");
    expect_clean_failure(f, VN_E_NOT_FOUND, "vm/a/disk/1");
    assert_int_equal(fake.freed, 0);
}

static void test_disk_full(void **state)
{
    fault_set("restore.disk:2");
    expect_clean_failure(*state, ENOSPC, "VM 'a': disk 1: write '");
    fault_set(NULL);
    assert_int_equal(fake.freed, 0);
}

static void test_missing_memory(void **state)
{
    struct restore_fixture *f = *state;

    json_object_del(json_object_get(f->manifest, "objects"), "vm/a/ram/pc.ram");
    expect_clean_failure(f, VN_E_NOT_FOUND, "vm/a/ram/pc.ram");
    assert_false(fake.disks_there);
}

/* A chunk of the memory is damaged: the writer's error is the cause, although
 * the loader then complains too. */
static int spoil(const char *path, const struct stat *st, int kind,
                 struct FTW *ftw)
{
    static const char junk[64] = "spoilt";

    (void)ftw;
    if (kind == FTW_F && strstr(path, "/packs/") && st->st_size > 400000) {
        int fd = open(path, O_WRONLY | O_CLOEXEC);
        ssize_t n = pwrite(fd, junk, sizeof(junk), 300000);

        close(fd);
        return n == sizeof(junk) ? 0 : -1;
    }
    return 0;
}

static void test_damaged_memory(void **state)
{
    struct restore_fixture *f = *state;

    chmod(f->store_path, 0700);
    assert_int_equal(nftw(f->store_path, spoil, 8, FTW_PHYS), 0);
    expect_clean_failure(f, VN_E_CORRUPT, "block 'pc.ram'");
    assert_int_equal(fake.freed, 1);
}

/* The state of a "sim" VM: its device state, then all its memory. */
static void test_sim(void **state)
{
    struct restore_fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    uint32_t ram_size = RF_RAM_PAGES * 4096;
    struct vm *vm;

    free(config.backend);
    config.backend = vn_strdup("sim");
    assert_int_equal(rf_put(f, "vm/a/device.state", "vnsim", 6, &err), 0);
    assert_int_equal(rf_put(f, "vm/a/ram/sim", f->ram, ram_size, &err), 0);
    assert_int_equal(store_writer_flush(f->writer, &err), 0);
    vm = rehydrate_vm(&config, f->dir, f->store, f->manifest, &err);
    assert_non_null(vm);
    free(vm);
    assert_string_equal(fake.machine, "pc"); /* as it was */
    assert_int_equal(fake.loaded.size, 6 + ram_size);
    assert_memory_equal(fake.loaded.data, "vnsim", 6);
    assert_memory_equal(fake.loaded.data + 6, f->ram, ram_size);
}

static void test_unknown_back_end(void **state)
{
    free(config.backend);
    config.backend = vn_strdup("abacus");
    expect_clean_failure(*state, VN_E_UNSUPPORTED, "'abacus'");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_success, setup, teardown),
        cmocka_unit_test_setup_teardown(test_create_fails, setup, teardown),
        cmocka_unit_test_setup_teardown(test_load_fails, setup, teardown),
        cmocka_unit_test_setup_teardown(test_missing_disk, setup, teardown),
        cmocka_unit_test_setup_teardown(test_disk_full, setup, teardown),
        cmocka_unit_test_setup_teardown(test_missing_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damaged_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sim, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unknown_back_end, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
