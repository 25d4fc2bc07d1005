/*
 * For test_vm.py: the QEMU back end against a real QEMU and a real guest,
 * without agent and switch.
 *
 *     vm_tool SCENARIO GUEST_DIR WORK_DIR
 *
 * GUEST_DIR holds vmlinuz and initrd.gz of the oracle guest, which reports on
 * its console every half second, and finds bad memory and disk records by
 * itself. Exits 0, or 1 with a sentence on stderr.
 */

#define PROGRESS_PAGES   4000
#define PROGRESS_RECORDS 50
#define PROGRESS_NS      (300 * VN_SEC)
#include "system/guest_tool.h"

#include "restore/rehydrate.h"

#include <errno.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define MEMORY    (256ull << 20)
#define DISK_SIZE "64M"

/* ---- guests ------------------------------------------------------------- */

static void fill_config(struct vm_config *config, const char *dir, bool disk)
{
    memset(config, 0, sizeof(*config));
    config->name = vn_strdup("a");
    config->backend = vn_strdup("qemu");
    config->memory_bytes = MEMORY;
    config->cpus = 1;
    config->kernel = vn_format("%s/vmlinuz", guest_dir);
    config->initrd = vn_format("%s/initrd.gz", guest_dir);
    config->append =
        vn_format("console=ttyS0 quiet no_timer_check tsc=unstable panic=1 "
                  "oracle.ws=32 oracle.rate=16 oracle.dps=100 oracle.disk=%d",
                  disk);
    if (disk) {
        vn_auto(free) char *path = vn_format("%s/disk.qcow2", dir);
        vn_auto(free) char *command =
            vn_format("qemu-img create -q -f qcow2 '%s' " DISK_SIZE, path);

        if (system(command) != 0)
            die("%s", command);
        config->disk_count = 1;
        config->disks[0].path = vn_steal(&path);
        config->disks[0].format = vn_strdup("qcow2");
    }
}

static struct vm *start(const struct vm_config *config, const char *dir)
{
    struct vn_err err = VN_ERR_INIT;
    struct vm *vm = vm_start(config, dir, &err);

    if (!vm)
        die("start: %s", err.msg);
    expect_progress(dir, config->disk_count > 0);
    return vm;
}

/* No file of a snapshot is left. */
static void expect_clean(const char *dir)
{
    vn_auto(free) char *command =
        vn_format("! ls '%s' | grep -E 'nbd|fleece'", dir);

    if (system(command) != 0)
        die("files of the snapshot are left in %s", dir);
}

/* ---- snapshots ---------------------------------------------------------- */

static void prepare(struct vm *vm, enum vm_mode mode)
{
    const struct vm_prepare_opts opts = {.mode = mode, .timeout_ns = TIMEOUT};

    DO(vm_prepare(vm, &opts, &err));
    if (vm_chosen_mode(vm) != mode)
        die("mode %s instead of %s", vm_mode_name(vm_chosen_mode(vm)),
            vm_mode_name(mode));
}

static void prepare_and_stop(struct vm *vm, enum vm_mode mode)
{
    uint64_t wall_ns;

    prepare(vm, mode);
    DO(vm_stop(vm, &wall_ns, &err));
}

/* A whole snapshot into the store, as `name`; returns its manifest. */
static json_t *snapshot(struct vm *vm, struct store *store, const char *name,
                        enum vm_mode mode, const json_t *parent)
{
    struct vn_err opening = VN_ERR_INIT;
    vn_auto(store_writer) struct store_writer *writer =
        store_writer_open(store, &opening);
    json_t *manifest = manifest_new(name, "vne");
    struct vm_saved saved = {.meta = NULL};
    struct store_counts counts;
    int resumed = 0;

    if (!writer)
        die("writer: %s", opening.msg);
    prepare_and_stop(vm, mode);
    DO(vm_capture(vm, &err));
    DO(vm_save(vm, writer, parent, manifest, count_call, &resumed, &saved,
               &err));
    expect_running(vm);
    DO(vm_finish(vm, &err));
    DO(store_writer_flush(writer, &err));
    if (resumed != 1 || saved.resume_wall_ns <= saved.stop_wall_ns)
        die("resumed %d times", resumed);
    json_object_set_new(
        manifest, "meta",
        json_pack("{s:{s:o}}", "vm_state", vm_name(vm), saved.meta));
    DO(store_commit(store, manifest, &err));
    store_writer_counts(writer, &counts);
    printf("mode=%s disk=%s pause_ms=%.2f read=%llu new=%llu\n",
           vm_mode_name(mode), saved.disk_bytes ? "yes" : "no",
           (double)(saved.resume_wall_ns - saved.stop_wall_ns) / 1e6,
           (unsigned long long)(saved.memory_bytes + saved.disk_bytes),
           (unsigned long long)counts.bytes_new);
    fflush(stdout);
    return manifest;
}

/* ---- scenarios ---------------------------------------------------------- */

/* Two snapshots, the VM killed, the second restored: the guest goes on. */
static void round_trip(enum vm_mode mode, bool disk)
{
    vn_auto(free) char *dir = make_dir("a");
    vn_auto(free) char *restored = make_dir("restored");
    vn_auto(vm_config) struct vm_config config = {.name = NULL};
    vn_auto(vm_config) struct vm_config again = {.name = NULL};
    vn_auto(store) struct store *store = make_store();
    vn_auto(json) json_t *first = NULL;
    vn_auto(json) json_t *second = NULL;
    struct vn_err failed = VN_ERR_INIT;
    long long pages, before;
    struct vm *vm;
    bool running = true;

    fill_config(&config, dir, disk);
    vm = start(&config, dir);
    first = snapshot(vm, store, "s@1", mode, NULL);
    expect_progress(dir, disk);
    before = report(dir, "mem_pages");
    second = snapshot(vm, store, "s@2", mode, first);
    expect_progress(dir, disk);
    expect_clean(dir);
    kill(vm_pid(vm), SIGKILL);
    end(vm);

    DO(vm_config_copy(&config, &again, &err));
    vm = rehydrate_vm(&again, restored, store, second, &failed);
    if (!vm)
        die("restore: %s", failed.msg);
    DO(vm_is_running(vm, &running, &err));
    if (running)
        die("it runs before it was told to");
    DO(vm_resume(vm, NULL, &err));
    expect_progress(restored, disk);
    pages = report(restored, "mem_pages");
    if (pages < before)
        die("restored too early a state: %lld < %lld", pages, before);
    end(vm);
}

/* Give up after each step, in each mode; then a snapshot works. */
static void aborts(void)
{
    static const enum vm_mode modes[] = {VM_MODE_COW, VM_MODE_STOP};
    vn_auto(free) char *dir = make_dir("a");
    vn_auto(vm_config) struct vm_config config = {.name = NULL};
    vn_auto(store) struct store *store = make_store();
    vn_auto(json) json_t *manifest = NULL;
    struct vm *vm;

    fill_config(&config, dir, true);
    vm = start(&config, dir);
    for (size_t m = 0; m < VN_COUNT(modes); m++) {
        for (int steps = 1; steps <= 3; steps++) {
            prepare(vm, modes[m]);
            if (steps > 1)
                DO(vm_stop(vm, &(uint64_t){0}, &err));
            if (steps > 2)
                DO(vm_capture(vm, &err));
            DO(vm_abort(vm, &err));
            DO(vm_abort(vm, &err)); /* idempotent */
            expect_running(vm);
            expect_clean(dir);
            expect_progress(dir, true);
            printf("abort mode=%s after step %d: runs\n",
                   vm_mode_name(modes[m]), steps);
        }
    }
    manifest = snapshot(vm, store, "s@1", VM_MODE_COW, NULL);
    end(vm);
}

static void kill_now(void *context)
{
    kill(*(const pid_t *)context, SIGKILL);
}

static void cancel_now(void *context)
{
    vm_cancel(*(struct vm **)context);
}

/* Save must fail with `word` in its message. */
static void failing_save(struct vm *vm, struct store *store,
                         void (*resumed)(void *), void *context,
                         const char *word)
{
    struct vn_err err = VN_ERR_INIT;
    vn_auto(store_writer) struct store_writer *writer =
        store_writer_open(store, &err);
    vn_auto(json) json_t *manifest = manifest_new("s@1", "vne");
    struct vm_saved saved;

    if (!writer)
        die("writer: %s", err.msg);
    prepare_and_stop(vm, VM_MODE_COW);
    if (vm_capture(vm, &err) < 0)
        die("capture: %s", err.msg);
    if (vm_save(vm, writer, NULL, manifest, resumed, context, &saved, &err) ==
        0)
        die("the save succeeded");
    printf("save: %s\n", err.msg);
    if (!strstr(err.msg, word) || !strstr(err.msg, "VM 'a'"))
        die("the error does not tell: %s", err.msg);
}

/* Cancelled in the middle: it fails, and the guest goes on. */
static void cancelled(void)
{
    vn_auto(free) char *dir = make_dir("a");
    vn_auto(vm_config) struct vm_config config = {.name = NULL};
    vn_auto(store) struct store *store = make_store();
    struct vm *vm;

    fill_config(&config, dir, true);
    vm = start(&config, dir);
    failing_save(vm, store, cancel_now, &vm, "cancel");
    DO(vm_abort(vm, &err));
    expect_clean(dir);
    expect_progress(dir, true);
    end(vm);
}

/* SIGKILL to the VM in the middle of a save. */
static void death(void)
{
    vn_auto(free) char *dir = make_dir("a");
    vn_auto(vm_config) struct vm_config config = {.name = NULL};
    vn_auto(store) struct store *store = make_store();
    struct vn_err err = VN_ERR_INIT;
    struct vm *vm;
    pid_t pid;

    fill_config(&config, dir, true);
    vm = start(&config, dir);
    pid = vm_pid(vm);
    failing_save(vm, store, kill_now, &pid, "killed by signal 9");
    if (vm_abort(vm, &err) == 0)
        die("the abort of a dead VM succeeded");
    expect_clean(dir);
    end(vm);
}

/* Kill those children of ours that keep streams. */
static void kill_keepers(void)
{
    vn_auto(fclose) FILE *children = NULL;
    vn_auto(free) char *path =
        vn_format("/proc/self/task/%d/children", (int)getpid());
    int pid, count = 0;

    children = fopen(path, "re");
    while (children && fscanf(children, "%d", &pid) == 1) {
        vn_auto(free) char *command_path = vn_format("/proc/%d/cmdline", pid);
        vn_auto(fclose) FILE *command = fopen(command_path, "re");
        char text[64] = "";

        if (command && fgets(text, sizeof(text), command) &&
            strcmp(text, "vn-keeper") == 0) {
            kill(pid, SIGKILL);
            count++;
        }
    }
    if (!count)
        die("no keeper was found");
}

/* In a child: start a VM, begin a snapshot, be killed. */
static void doomed(const char *dir, const struct vm_config *config, bool keeper,
                   int pid_pipe)
{
    struct vm *vm = start(config, dir);
    pid_t pid = vm_pid(vm);

    prepare_and_stop(vm, VM_MODE_COW);
    DO(vm_capture(vm, &err));
    if (!keeper)
        kill_keepers();
    if (write(pid_pipe, &pid, sizeof(pid)) != sizeof(pid))
        die("pipe");
    kill(getpid(), SIGKILL);
}

/* An agent dies in the middle of a snapshot; another attaches to the VM: it
 * runs, nothing of the snapshot is left, a new one works. Without keeper the
 * guest hangs (QEMU 7.2) until someone attaches. */
static void orphaned(bool keeper)
{
    vn_auto(free) char *dir = make_dir("a");
    vn_auto(free) char *other = make_dir("attached");
    vn_auto(vm_config) struct vm_config config = {.name = NULL};
    vn_auto(store) struct store *store = make_store();
    vn_auto(json) json_t *manifest = NULL;
    struct vn_err failed = VN_ERR_INIT;
    struct vm *vm;
    pid_t child, pid;
    int ends[2];

    fill_config(&config, dir, true);
    if (pipe(ends) < 0)
        die("pipe: %s", strerror(errno));
    fflush(NULL);
    child = fork();
    if (child == 0)
        doomed(dir, &config, keeper, ends[1]);
    close(ends[1]);
    if (child < 0 || read(ends[0], &pid, sizeof(pid)) != sizeof(pid))
        die("the child failed");
    waitpid(child, NULL, 0);
    if (keeper)
        expect_progress(dir, true);

    config.qmp = vn_format("%s/qmp.sock", dir);
    vm = vm_attach(&config, other, &failed);
    if (!vm && !keeper && failed.code == VN_E_TIMEOUT) {
        /* A vCPU may hang inside of a device and so hold QEMU's one lock: its
         * monitor answers nobody any more (docs/STATUS.md, what is left). */
        printf("skipped: QEMU's monitor hangs with its guest: %s\n",
               failed.msg);
        exit(77);
    }
    if (!vm)
        die("attach: %s", failed.msg);
    if (vm_pid(vm) != pid)
        die("attached to pid %d instead of %d", vm_pid(vm), (int)pid);
    expect_progress(dir, true);
    manifest = snapshot(vm, store, "s@1", VM_MODE_COW, NULL);
    expect_progress(dir, true);
    end(vm);
}

/* A NIC over a descriptor of ours: the guest's frames come out raw. */
static void nic(void)
{
    vn_auto(free) char *dir = make_dir("a");
    vn_auto(vm_config) struct vm_config config = {.name = NULL};
    static const uint8_t mac[6] = {0x52, 0x54, 0x00, 0x12, 0x34, 0x56};
    struct timeval patience = {.tv_sec = 300};
    uint8_t frame[2048];
    struct vm *vm;
    int ends[2];

    fill_config(&config, dir, false);
    free(config.append);
    config.append = vn_strdup("console=ttyS0 quiet no_timer_check "
                              "tsc=unstable oracle.id=1 oracle.peers=2");
    if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, ends) < 0 ||
        setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &patience,
                   sizeof(patience)) < 0)
        die("socketpair: %s", strerror(errno));
    config.nic_count = 1;
    config.nics[0].mac = vn_strdup("52:54:00:12:34:56");
    config.nics[0].kind = VM_NIC_FD;
    config.nics[0].fd = ends[1];
    vm = start(&config, dir);
    close(ends[1]); /* the VM has its own */
    do {
        ssize_t n = recv(ends[0], frame, sizeof(frame), 0);

        if (n < 14)
            die("no frame: %s", strerror(errno));
    } while (memcmp(frame + 6, mac, sizeof(mac)) != 0);
    end(vm);
    if (send(ends[0], frame, 60, MSG_NOSIGNAL) >= 0)
        die("someone still holds the VM's end");
    close(ends[0]);
}

/* Starts that cannot work say why. */
static void bad_start(void)
{
    vn_auto(free) char *dir = make_dir("a");
    vn_auto(vm_config) struct vm_config config = {.name = NULL};
    struct vn_err err = VN_ERR_INIT;

    fill_config(&config, dir, false);
    free(config.machine);
    config.machine = vn_strdup("nosuchmachine");
    if (vm_start(&config, dir, &err))
        die("it started");
    printf("start: %s\n", err.msg);
    if (!strstr(err.msg, "machine type") || !strstr(err.msg, "VM 'a'"))
        die("the error does not tell: %s", err.msg);
}

/* A stream that is none: the load fails with QEMU's own words. */
static void bad_load(void)
{
    vn_auto(free) char *dir = make_dir("a");
    vn_auto(vm_config) struct vm_config config = {.name = NULL};
    struct vn_err err = VN_ERR_INIT;
    static const char garbage[4096] = "this is no migration stream";
    struct vm *vm;
    int ends[2];

    fill_config(&config, dir, false);
    vm = vm_create(&config, dir, &err);
    if (!vm || pipe(ends) < 0 || write(ends[1], garbage, sizeof(garbage)) < 0)
        die("create: %s", err.msg);
    close(ends[1]);
    if (vm_load_state(vm, ends[0], &err) == 0)
        die("it loaded");
    close(ends[0]);
    printf("load: %s\n", err.msg);
    if (!strstr(err.msg, "ot a migration stream"))
        die("the error does not tell: %s", err.msg);
    end(vm);
}

/* Ten pauses, for measuring. */
static void many(bool disk)
{
    vn_auto(free) char *dir = make_dir("a");
    vn_auto(vm_config) struct vm_config config = {.name = NULL};
    vn_auto(store) struct store *store = make_store();
    vn_auto(json) json_t *parent = NULL;
    struct vm *vm;

    fill_config(&config, dir, disk);
    vm = start(&config, dir);
    for (int i = 1; i <= 10; i++) {
        vn_auto(free) char *name = vn_format("s@%d", i);
        json_t *manifest = snapshot(vm, store, name, VM_MODE_COW, parent);

        json_decref(parent);
        parent = manifest;
    }
    end(vm);
}

static void cow(void)
{
    round_trip(VM_MODE_COW, true);
}

static void stop(void)
{
    round_trip(VM_MODE_STOP, true);
}

static void orphan(void)
{
    orphaned(true);
}

static void hang(void)
{
    orphaned(false);
}

static void pauses(void)
{
    many(false);
}

static void pauses_disk(void)
{
    many(true);
}

static const struct {
    const char *name;
    void (*run)(void);
} scenarios[] = {
    {"cow", cow},
    {"stop", stop},
    {"aborts", aborts},
    {"cancelled", cancelled},
    {"death", death},
    {"orphan", orphan},
    {"hang", hang},
    {"nic", nic},
    {"bad_start", bad_start},
    {"bad_load", bad_load},
    {"pauses", pauses},
    {"pauses_disk", pauses_disk},
};

int main(int argc, char **argv)
{
    if (argc != 4)
        die("usage: vm_tool SCENARIO GUEST_DIR WORK_DIR");
    guest_dir = argv[2];
    work_dir = argv[3];
    for (size_t i = 0; i < VN_COUNT(scenarios); i++) {
        if (strcmp(argv[1], scenarios[i].name) == 0) {
            scenarios[i].run();
            return 0;
        }
    }
    die("no scenario '%s'", argv[1]);
}
