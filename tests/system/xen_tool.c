/*
 * For test_xen.py, in dom0: the Xen back end against a real Xen and a real
 * guest, without agent and switch.
 *
 *     xen_tool SCENARIO TYPE GUEST_DIR WORK_DIR
 *
 * TYPE is pvh, pv or hvm. GUEST_DIR holds vmlinuz and initrd.gz of the oracle
 * guest, which reports on its console every half second, and finds bad memory
 * and disk records by itself. Exits 0, or 1 with a sentence on stderr. With
 * VN_LOG=debug the times of all steps are shown.
 */

#define PROGRESS_PAGES   1000
#define PROGRESS_RECORDS 20
#define PROGRESS_NS      (120 * VN_SEC)
#include "system/guest_tool.h"

#include "capture/vm_xen.h"
#include "restore/rehydrate.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

#define MEMORY    (112ull << 20)
#define DISK_SIZE (16ll << 20)

static const char *type;

static void run(const char *command)
{
    if (system(command) != 0)
        die("%s", command);
}

/* ---- guests ------------------------------------------------------------- */

static void add_disk(struct vm_config *config, const char *dir)
{
    char *path = vn_format("%s/disk.raw", dir);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    if (fd < 0 || ftruncate(fd, DISK_SIZE) < 0)
        die("%s: %s", path, strerror(errno));
    close(fd);
    config->disk_count = 1;
    config->disks[0].path = path;
    config->disks[0].format = vn_strdup("raw");
}

static void fill_config(struct vm_config *config, const char *dir, bool disk)
{
    memset(config, 0, sizeof(*config));
    config->name = vn_strdup("a");
    config->backend = vn_strdup("xen");
    config->type = vn_strdup(type);
    config->memory_bytes = MEMORY;
    config->cpus = 1;
    config->kernel = vn_format("%s/vmlinuz", guest_dir);
    config->initrd = vn_format("%s/initrd.gz", guest_dir);
    config->append =
        vn_format("console=%s quiet panic=1 oracle.ws=8 oracle.rate=2 "
                  "oracle.dps=20 oracle.disk=%d",
                  strcmp(type, "hvm") == 0 ? "ttyS0" : "hvc0", disk);
    config->extra_args = vn_alloc(2 * sizeof(char *));
    /* Without it every RDTSC traps, which software emulation makes slow. */
    config->extra_args[0] = vn_strdup("tsc_mode = \"native\"");
    if (disk)
        add_disk(config, dir);
}

static double seconds_since(uint64_t began_ns)
{
    return (double)(clock_now_ns() - began_ns) / 1e9;
}

static struct vm *start(const struct vm_config *config, const char *dir)
{
    struct vn_err err = VN_ERR_INIT;
    uint64_t began_ns = clock_now_ns();
    struct vm *vm = vm_start(config, dir, &err);

    if (!vm)
        die("start: %s", err.msg);
    printf("started in %.1f s\n", seconds_since(began_ns));
    expect_progress(dir, config->disk_count > 0);
    printf("the guest works after %.1f s\n", seconds_since(began_ns));
    fflush(stdout);
    return vm;
}

/* ---- snapshots ---------------------------------------------------------- */

static void prepare(struct vm *vm, enum vm_mode mode)
{
    const struct vm_prepare_opts opts = {.mode = mode, .timeout_ns = TIMEOUT};

    DO(vm_prepare(vm, &opts, &err));
}

static json_t *snapshot(struct vm *vm, struct store *store, const char *name,
                        enum vm_mode mode, const json_t *parent)
{
    struct vn_err opening = VN_ERR_INIT;
    vn_auto(store_writer) struct store_writer *writer =
        store_writer_open(store, &opening);
    json_t *manifest = manifest_new(name, "vne");
    uint64_t began_ns = clock_now_ns(), stopped_ns;
    double prepared_s, saved_s;
    struct store_counts counts;
    struct vm_saved saved;
    int resumed = 0;

    if (!writer)
        die("writer: %s", opening.msg);
    prepare(vm, mode);
    prepared_s = seconds_since(began_ns);
    DO(vm_stop(vm, &stopped_ns, &err));
    DO(vm_capture(vm, &err));
    DO(vm_save(vm, writer, parent, manifest, count_call, &resumed, &saved,
               &err));
    saved_s = seconds_since(began_ns) - prepared_s;
    expect_running(vm);
    DO(vm_finish(vm, &err));
    DO(store_writer_flush(writer, &err));
    if (resumed != 1 || saved.resume_wall_ns <= saved.stop_wall_ns ||
        saved.stop_wall_ns != stopped_ns)
        die("resumed %d times", resumed);
    json_object_set_new(
        manifest, "meta",
        json_pack("{s:{s:o}}", "vm_state", vm_name(vm), saved.meta));
    DO(store_commit(store, manifest, &err));
    store_writer_counts(writer, &counts);
    printf("%s: mode=%s pause_ms=%.2f prepare_s=%.2f stop_to_saved_s=%.2f "
           "memory=%llu disk=%llu new=%llu unchanged=%llu\n",
           name, vm_mode_name(vm_chosen_mode(vm)),
           (double)(saved.resume_wall_ns - saved.stop_wall_ns) / 1e6,
           prepared_s, saved_s, (unsigned long long)saved.memory_bytes,
           (unsigned long long)saved.disk_bytes,
           (unsigned long long)counts.bytes_new,
           (unsigned long long)counts.bytes_unchanged);
    fflush(stdout);
    return manifest;
}

static struct vm *restore(const struct vm_config *config, const char *dir,
                          struct store *store, const json_t *manifest)
{
    vn_auto(vm_config) struct vm_config again = {.name = NULL};
    struct vn_err failed = VN_ERR_INIT;
    uint64_t began_ns = clock_now_ns();
    bool running = true;
    struct vm *vm;

    DO(vm_config_copy(config, &again, &err));
    vm = rehydrate_vm(&again, dir, store, manifest, &failed);
    if (!vm)
        die("restore: %s", failed.msg);
    printf("restored in %.1f s\n", seconds_since(began_ns));
    DO(vm_is_running(vm, &running, &err));
    if (running)
        die("it runs before it was told to");
    DO(vm_resume(vm, NULL, &err));
    expect_progress(dir, again.disk_count > 0);
    printf("the restored guest works after %.1f s\n", seconds_since(began_ns));
    fflush(stdout);
    return vm;
}

/* ---- scenarios ---------------------------------------------------------- */

/* Two snapshots, the domain destroyed, the second restored, snapshotted and
 * restored once more: the guest goes on each time. */
static void round_trip(enum vm_mode mode, bool disk)
{
    vn_auto(free) char *dir = make_dir("a");
    vn_auto(free) char *restored = make_dir("restored");
    vn_auto(free) char *again = make_dir("again");
    vn_auto(vm_config) struct vm_config config = {.name = NULL};
    vn_auto(store) struct store *store = make_store();
    vn_auto(json) json_t *first = NULL;
    vn_auto(json) json_t *second = NULL;
    vn_auto(json) json_t *third = NULL;
    long long pages;
    struct vm *vm;

    fill_config(&config, dir, disk);
    vm = start(&config, dir);
    first = snapshot(vm, store, "s@1", mode, NULL);
    expect_progress(dir, disk);
    pages = report(dir, "mem_pages");
    second = snapshot(vm, store, "s@2", mode, first);
    expect_progress(dir, disk);
    end(vm);

    vm = restore(&config, restored, store, second);
    if (report(restored, "mem_pages") < pages)
        die("restored too early a state");
    third = snapshot(vm, store, "s@3", mode, second);
    expect_progress(restored, disk);
    end(vm);
    end(restore(&config, again, store, third));
}

/* Give up after each step; then a snapshot works. */
static void aborts(void)
{
    static const enum vm_mode modes[] = {VM_MODE_AUTO, VM_MODE_STOP};
    vn_auto(free) char *dir = make_dir("a");
    vn_auto(vm_config) struct vm_config config = {.name = NULL};
    vn_auto(store) struct store *store = make_store();
    vn_auto(json) json_t *manifest = NULL;
    struct vm *vm;

    fill_config(&config, dir, true);
    vm = start(&config, dir);
    for (size_t m = 0; m < VN_COUNT(modes); m++) {
        for (int steps = 1; steps <= 3; steps++) {
            uint64_t began_ns;

            prepare(vm, modes[m]);
            if (steps > 1)
                DO(vm_stop(vm, &(uint64_t){0}, &err));
            if (steps > 2)
                DO(vm_capture(vm, &err));
            began_ns = clock_now_ns();
            DO(vm_abort(vm, &err));
            printf("abort mode=%s after step %d: %.2f s\n",
                   vm_mode_name(vm_chosen_mode(vm)), steps,
                   seconds_since(began_ns));
            DO(vm_abort(vm, &err)); /* idempotent */
            expect_running(vm);
            expect_progress(dir, true);
        }
    }
    manifest = snapshot(vm, store, "s@1", VM_MODE_AUTO, NULL);
    end(vm);
}

/* Others' domains: attached to, snapshotted, let go; they run on. */
static void attach(void)
{
    vn_auto(free) char *dir = make_dir("a");
    vn_auto(free) char *other = make_dir("attached");
    vn_auto(vm_config) struct vm_config config = {.name = NULL};
    vn_auto(vm_config) struct vm_config named = {.name = NULL};
    vn_auto(store) struct store *store = make_store();
    vn_auto(json) json_t *manifest = NULL;
    struct vn_err failed = VN_ERR_INIT;
    struct vm *owner, *vm;

    fill_config(&config, dir, false);
    owner = start(&config, dir);
    named.name = vn_strdup("b");
    named.backend = vn_strdup("xen");
    named.domain = vn_strdup("a");
    vm = vm_attach(&named, other, &failed);
    if (!vm)
        die("attach: %s", failed.msg);
    manifest = snapshot(vm, store, "s@1", VM_MODE_AUTO, NULL);
    prepare(vm, VM_MODE_AUTO);
    if (vm_prepare(owner, &(struct vm_prepare_opts){.timeout_ns = TIMEOUT},
                   &failed) == 0)
        die("two snapshots of one domain at a time");
    printf("second snapshot: %s\n", failed.msg);
    DO(vm_abort(owner, &err));
    /* Stock tools wait for us. */
    run("timeout 4 xl save -c a /var/tmp/a.save; test $? = 124");
    DO(vm_abort(vm, &err));
    run("xl save -c a /var/tmp/a.save 2>&1 | tail -n 1; rm /var/tmp/a.save");
    vm_free(vm);
    expect_running(owner);
    expect_progress(dir, false);
    end(owner);
}

/* An agent that dies while the domain stands; the watchdog's call. */
static void rescue(void)
{
    vn_auto(free) char *dir = make_dir("a");
    vn_auto(free) char *other = make_dir("attached");
    vn_auto(vm_config) struct vm_config config = {.name = NULL};
    vn_auto(vm_config) struct vm_config named = {.name = NULL};
    struct vn_err failed = VN_ERR_INIT;
    bool stood = false;
    pid_t child;
    struct vm *owner;

    fill_config(&config, dir, false);
    owner = start(&config, dir);
    named.name = vn_strdup("b");
    named.backend = vn_strdup("xen");
    named.domain = vn_strdup("a");
    fflush(NULL);
    child = fork();
    if (child == 0) {
        struct vm *vm = vm_attach(&named, other, &failed);

        if (!vm)
            die("attach: %s", failed.msg);
        prepare(vm, VM_MODE_AUTO);
        DO(vm_stop(vm, &(uint64_t){0}, &err));
        kill(getpid(), SIGKILL);
    }
    waitpid(child, NULL, 0);
    DO(vm_xen_rescue(vm_rescue_address(owner), clock_now_ns() + 10 * VN_SEC,
                     &stood, &err));
    printf("rescued %s: %s\n", vm_rescue_address(owner),
           stood ? "it stood" : "it ran");
    if (!stood)
        die("it did not stand");
    expect_running(owner);
    expect_progress(dir, false);
    end(owner);
}

/* A guest that does not answer; it is paused, so it cannot. */
static void deaf(void)
{
    vn_auto(free) char *dir = make_dir("a");
    vn_auto(vm_config) struct vm_config config = {.name = NULL};
    const struct vm_prepare_opts opts = {.timeout_ns = 2 * VN_SEC};
    struct vn_err failed = VN_ERR_INIT;
    struct vm *vm;

    fill_config(&config, dir, false);
    vm = start(&config, dir);
    DO(vm_prepare(vm, &opts, &err));
    run("xl pause a");
    if (vm_stop(vm, &(uint64_t){0}, &failed) == 0)
        die("a guest that is paused suspended");
    printf("stop: %s\n", failed.msg);
    if (!strstr(failed.msg, "did not acknowledge"))
        die("the error does not tell");
    DO(vm_abort(vm, &err));
    expect_running(vm);
    expect_progress(dir, false);
    end(vm);
}

static void destroy_now(void *context)
{
    (void)context;
    run("xl destroy a & sleep 2"); /* it waits for our lock */
}

static void cancel_now(void *context)
{
    vm_cancel(*(struct vm **)context);
}

/* Save must fail with `word` in its message; then the VM is aborted. */
static void failing_save(struct vm *vm, struct store *store,
                         void (*resumed)(void *), const char *word)
{
    struct vn_err failed = VN_ERR_INIT;
    vn_auto(store_writer) struct store_writer *writer =
        store_writer_open(store, &failed);
    vn_auto(json) json_t *manifest = manifest_new("s@1", "vne");
    struct vm_saved saved;

    if (!writer)
        die("writer: %s", failed.msg);
    prepare(vm, VM_MODE_AUTO);
    DO(vm_stop(vm, &(uint64_t){0}, &err));
    DO(vm_capture(vm, &err));
    if (vm_save(vm, writer, NULL, manifest, resumed, &vm, &saved, &failed) == 0)
        die("the save succeeded");
    printf("save: %s\n", failed.msg);
    if (!strstr(failed.msg, word) || !strstr(failed.msg, "VM 'a'"))
        die("the error does not tell: %s", failed.msg);
}

/* Cancelled: it runs on. Destroyed: the error says so, at each step. */
static void deaths(void)
{
    vn_auto(free) char *dir = make_dir("a");
    vn_auto(vm_config) struct vm_config config = {.name = NULL};
    vn_auto(store) struct store *store = make_store();
    struct vn_err failed = VN_ERR_INIT;
    struct vm *vm;

    fill_config(&config, dir, false);
    vm = start(&config, dir);
    failing_save(vm, store, cancel_now, "cancel");
    DO(vm_abort(vm, &err));
    expect_running(vm);
    expect_progress(dir, false);
    failing_save(vm, store, destroy_now, "died");
    if (vm_abort(vm, &failed) == 0)
        die("the abort of a dead VM succeeded");
    printf("abort: %s\n", failed.msg);
    end(vm);

    vm = start(&config, dir);
    prepare(vm, VM_MODE_AUTO);
    run("xl destroy a & sleep 2");
    if (vm_stop(vm, &(uint64_t){0}, &failed) == 0)
        die("a VM that is being destroyed was stopped");
    printf("stop: %s\n", failed.msg);
    if (!strstr(failed.msg, "destroyed") && !strstr(failed.msg, "died"))
        die("the error does not tell");
    if (vm_abort(vm, &failed) == 0)
        printf("abort: succeeded\n");
    else
        printf("abort: %s\n", failed.msg);
    end(vm);
}

/* A guest that reboots comes back; one that crashes is removed. */
static void reboot(void)
{
    vn_auto(free) char *dir = make_dir("a");
    vn_auto(vm_config) struct vm_config config = {.name = NULL};
    vn_auto(store) struct store *store = make_store();
    vn_auto(json) json_t *manifest = NULL;
    struct vn_err gone = VN_ERR_INIT;
    vn_auto(free) char *before = NULL;
    bool running = false;
    struct vm *vm;

    fill_config(&config, dir, true);
    vm = start(&config, dir);
    before = vn_strdup(vm_rescue_address(vm));
    run("xenstore-write /local/domain/$(xl domid a)/control/shutdown reboot");
    for (int i = 0; i < 60 && strcmp(vm_rescue_address(vm), before) == 0; i++) {
        struct vn_err err = VN_ERR_INIT;

        sleep(1);
        if (vm_is_running(vm, &running, &err) < 0)
            printf("after %d s: %s\n", i, err.msg);
    }
    printf("after the reboot: %s\n", vm_rescue_address(vm));
    expect_progress(dir, true);
    manifest = snapshot(vm, store, "s@1", VM_MODE_AUTO, NULL);
    /* Our guest takes no notice of a request; so as if it had crashed. */
    run("PYTHONPATH=/usr/lib/xen-4.17/lib/python python3 -c \"import "
        "xen.lowlevel.xc as l, subprocess as s; l.xc().domain_shutdown("
        "int(s.check_output(['xl', 'domid', 'a'])), 3)\"");
    for (int i = 0; i < 60 && !gone.code; i++) {
        sleep(1);
        if (vm_is_running(vm, &running, &gone) == 0)
            continue;
    }
    printf("after a crash: %s\n", gone.msg);
    if (!gone.code)
        die("it is still there");
    end(vm);
}

/* A vif: its interface carries the guest's frames, on a restored one too. */
static void nic(void)
{
    vn_auto(free) char *dir = make_dir("a");
    vn_auto(free) char *restored = make_dir("restored");
    vn_auto(vm_config) struct vm_config config = {.name = NULL};
    vn_auto(store) struct store *store = make_store();
    vn_auto(json) json_t *manifest = NULL;
    struct vn_err failed = VN_ERR_INIT;
    const char *interface;
    struct vm *vm;

    fill_config(&config, dir, false);
    free(config.append);
    config.append = vn_strdup("console=hvc0 quiet panic=1 oracle.ws=8 "
                              "oracle.rate=2 oracle.id=1 oracle.peers=2");
    config.nic_count = 1;
    config.nics[0].mac = vn_strdup("52:54:00:12:34:56");
    config.nics[0].kind = VM_NIC_VIF;
    config.nics[0].fd = -1;
    vm = start(&config, dir);
    for (int i = 0; i < 2; i++) {
        vn_auto(free) char *command = NULL;

        interface = vm_nic_interface(vm, 0, &failed);
        if (!interface)
            die("interface: %s", failed.msg);
        printf("interface %s\n", interface);
        command = vn_format("ip link set %s up; cd /sys/class/net/%s; "
                            "n=$(cat statistics/rx_packets); sleep 5; "
                            "test $(cat statistics/rx_packets) -gt $n",
                            interface, interface);
        run(command);
        if (i == 1)
            break;
        manifest = snapshot(vm, store, "s@1", VM_MODE_AUTO, NULL);
        end(vm);
        vm = restore(&config, restored, store, manifest);
    }
    if (vm_nic_interface(vm, 1, &failed))
        die("it has a second NIC");
    end(vm);
}

/* Ten pauses, for measuring. */
static void pauses(void)
{
    vn_auto(free) char *dir = make_dir("a");
    vn_auto(vm_config) struct vm_config config = {.name = NULL};
    vn_auto(store) struct store *store = make_store();
    vn_auto(json) json_t *parent = NULL;
    struct vm *vm;

    fill_config(&config, dir, false);
    vm = start(&config, dir);
    for (int i = 1; i <= 10; i++) {
        vn_auto(free) char *name = vn_format("s@%d", i);
        json_t *manifest = snapshot(vm, store, name, VM_MODE_AUTO, parent);

        json_decref(parent);
        parent = manifest;
    }
    end(vm);
}

static void automatic(void)
{
    round_trip(VM_MODE_AUTO, false);
}

static void disk(void)
{
    round_trip(VM_MODE_AUTO, true);
}

static void stop(void)
{
    round_trip(VM_MODE_STOP, false);
}

static void stop_disk(void)
{
    round_trip(VM_MODE_STOP, true);
}

static void probe(void)
{
    char version[32];

    DO(vm_xen_probe(version, &err));
    printf("Xen %s\n", version);
}

static const struct {
    const char *name;
    void (*run)(void);
} scenarios[] = {
    {"probe", probe},         {"auto", automatic},
    {"disk", disk},           {"stop", stop},
    {"aborts", aborts},       {"attach", attach},
    {"stop_disk", stop_disk}, {"rescue", rescue},
    {"pauses", pauses},       {"nic", nic},
    {"deaf", deaf},           {"deaths", deaths},
    {"reboot", reboot},
};

int main(int argc, char **argv)
{
    if (argc != 5)
        die("usage: xen_tool SCENARIO TYPE GUEST_DIR WORK_DIR");
    type = argv[2];
    guest_dir = argv[3];
    work_dir = argv[4];
    for (size_t i = 0; i < VN_COUNT(scenarios); i++) {
        if (strcmp(argv[1], scenarios[i].name) == 0) {
            scenarios[i].run();
            return 0;
        }
    }
    die("no scenario '%s'", argv[1]);
}
