/*
 * QEMU's process: command line, start, end.
 *
 * The devices stand at fixed PCI addresses (disk I at 4 + I, NIC I at 0x14 +
 * I), so that a VM created from the same configuration on another host has the
 * same hardware, as loading its state requires. The process has a session of
 * its own and is not tied to ours: virtual machines outlive their agent. Its
 * descriptors are stdin (/dev/null), qemu.log twice, and one a NIC.
 *
 * A pidfd is held from the start, so that a signal cannot hit a stranger who
 * got the number later. A child is reaped when its end is noticed.
 */
#include "capture/vm_qemu.h"

#include "common/clock.h"
#include "common/io.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

#define START_TIMEOUT_NS (30 * VN_SEC)
#define END_POLITELY_MS  3000
#define END_HARD_MS      10000
#define RUN_OUTPUT_MAX   (64u << 10)
#define LOG_TAIL_SIZE    400u

#define DISK_SLOT 0x04u /* 16 disks: to 0x13 */
#define NIC_SLOT  0x14u /* 8 NICs: to 0x1b; q35 has its own at 0x1f */

#define ARGS_MAX (48 + 4 * VM_DISKS_MAX + 4 * VM_NICS_MAX + VM_ARGS_MAX)

struct args {
    char *texts[ARGS_MAX + 1];
    unsigned count;
};

extern char **environ;

static void vn_auto_args(struct args *args)
{
    for (unsigned i = 0; i < args->count; i++)
        free(args->texts[i]);
}

/* Append a text that the list owns from now on. */
static void add(struct args *args, char *text)
{
    assert(args->count < ARGS_MAX);
    args->texts[args->count++] = text;
}

static void add_pair(struct args *args, const char *option, char *value)
{
    add(args, vn_strdup(option));
    add(args, value);
}

/* A value inside a comma-separated option: commas are doubled. */
static char *escape(const char *text)
{
    char *out = vn_alloc(2 * strlen(text) + 1);
    char *to = out;

    for (; *text; text++) {
        if (*text == ',')
            *to++ = ',';
        *to++ = *text;
    }
    return out;
}

/* ---- command line ------------------------------------------------------- */

static void add_monitor(const struct vm_qemu *v, struct args *args,
                        const char *id, const char *file)
{
    vn_auto(free) char *path = vm_qemu_path(v, file);
    vn_auto(free) char *escaped = escape(path);

    add_pair(args, "-chardev",
             vn_format("socket,id=%s,path=%s,server=on,wait=off", id, escaped));
    add_pair(args, "-mon", vn_format("chardev=%s,mode=control", id));
}

static void add_disk(struct args *args, const struct vm_disk *disk, unsigned i)
{
    vn_auto(free) char *node = vn_format("disk%u", i);
    vn_auto(json) json_t *json = json_pack(
        "{s:s,s:s,s:s,s:{s:s,s:s}}", "driver", disk->format, "node-name", node,
        "discard", "unmap", "file", "driver", "file", "filename", disk->path);

    add_pair(args, "-blockdev", json_dumps(json, JSON_COMPACT));
    add_pair(args, "-device",
             vn_format("virtio-blk-pci,drive=disk%u,id=vd%u,addr=0x%x", i, i,
                       DISK_SLOT + i));
}

static int add_nic(struct args *args, const struct vm_nic *nic, unsigned i,
                   struct vn_err *err)
{
    vn_auto(free) char *id = vn_format("net%u", i);
    vn_auto(free) char *fd = vn_format("%d", nic->fd);
    vn_auto(json) json_t *json = NULL;

    if (nic->kind == VM_NIC_TAP) {
        json =
            json_pack("{s:s,s:s,s:s,s:s,s:s}", "type", "tap", "id", id,
                      "ifname", nic->tap, "script", "no", "downscript", "no");
    } else if (nic->kind == VM_NIC_UNIX) {
        json = json_pack("{s:s,s:s,s:{s:s,s:s},s:{s:s,s:s}}", "type", "dgram",
                         "id", id, "local", "type", "unix", "path",
                         nic->unix_local, "remote", "type", "unix", "path",
                         nic->unix_remote);
    } else {
        if (nic->fd <= STDERR_FILENO)
            return vn_fail(err, VN_E_STATE,
                           "NIC %u was given no descriptor to pass on", i);
        json = json_pack("{s:s,s:s,s:{s:s,s:s}}", "type", "dgram", "id", id,
                         "local", "type", "fd", "str", fd);
    }
    add_pair(args, "-netdev", json_dumps(json, JSON_COMPACT));
    add_pair(args, "-device",
             vn_format("%s,netdev=net%u,id=nic%u,mac=%s,addr=0x%x,romfile=",
                       nic->model ? nic->model : "virtio-net-pci", i, i,
                       nic->mac, NIC_SLOT + i));
    return 0;
}

static void add_machine(const struct vm_qemu *v, struct args *args)
{
    const struct vm_config *c = &v->config;
    const char *qemu = getenv("VN_QEMU");

    add(args, vn_strdup(qemu && *qemu ? qemu : "qemu-system-x86_64"));
    add_pair(args, "-name", vn_strdup(c->name));
    add(args, vn_strdup("-nodefaults"));
    add(args, vn_strdup("-no-user-config"));
    add_pair(args, "-display", vn_strdup("none"));
    add_pair(args, "-msg", vn_strdup("timestamp=on"));
    add_pair(args, "-machine", vn_strdup(c->machine ? c->machine : "pc"));
    add_pair(args, "-accel", vn_strdup(c->accel ? c->accel : "tcg"));
    add_pair(args, "-cpu", vn_strdup(c->cpu ? c->cpu : "qemu64"));
    add_pair(args, "-smp", vn_format("%u", c->cpus));
    add_pair(args, "-m",
             vn_format("%lluM", (unsigned long long)c->memory_bytes >> 20));
    if (c->kernel)
        add_pair(args, "-kernel", vn_strdup(c->kernel));
    if (c->initrd)
        add_pair(args, "-initrd", vn_strdup(c->initrd));
    if (c->append && c->kernel)
        add_pair(args, "-append", vn_strdup(c->append));
}

static int build_args(const struct vm_qemu *v, bool incoming, struct args *args,
                      struct vn_err *err)
{
    const struct vm_config *c = &v->config;
    vn_auto(free) char *console = vm_qemu_path(v, "console.log");
    vn_auto(free) char *escaped = escape(console);

    add_machine(v, args);
    add_pair(args, "-chardev",
             vn_format("file,id=console,path=%s,append=on", escaped));
    add_pair(args, "-serial", vn_strdup("chardev:console"));
    add_monitor(v, args, "qmp", "qmp.sock");
    add_monitor(v, args, "rescue", "rescue.sock");
    for (unsigned i = 0; i < c->disk_count; i++)
        add_disk(args, &c->disks[i], i);
    for (unsigned i = 0; i < c->nic_count; i++) {
        if (add_nic(args, &c->nics[i], i, err) < 0)
            return -1;
    }
    for (char **arg = c->extra_args; arg && *arg; arg++)
        add(args, vn_strdup(*arg));
    if (incoming) {
        add(args, vn_strdup("-S"));
        add_pair(args, "-incoming", vn_strdup("defer"));
    }
    return 0;
}

/* ---- starting ----------------------------------------------------------- */

/* A child starts with no signal blocked or ignored, whatever we do. */
static void reset_signals(posix_spawnattr_t *attr)
{
    sigset_t none, all;

    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(attr, &none);
    posix_spawnattr_setsigdefault(attr, &all);
}

static int spawn(struct vm_qemu *v, const struct args *args, struct vn_err *err)
{
    vn_auto(free) char *log = vm_qemu_path(v, "qemu.log");
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attr;
    struct stat about;
    pid_t pid;
    int code;

    v->log_start = stat(log, &about) == 0 ? (uint64_t)about.st_size : 0;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&files, 1, log,
                                     O_WRONLY | O_CREAT | O_APPEND, 0600);
    posix_spawn_file_actions_adddup2(&files, 1, 2);
    for (unsigned i = 0; i < v->config.nic_count; i++) {
        const struct vm_nic *nic = &v->config.nics[i];

        if (nic->kind == VM_NIC_FD) /* onto itself: clears close-on-exec */
            posix_spawn_file_actions_adddup2(&files, nic->fd, nic->fd);
    }
    posix_spawnattr_init(&attr);
    reset_signals(&attr);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSID |
                                        POSIX_SPAWN_SETSIGMASK |
                                        POSIX_SPAWN_SETSIGDEF);
    code =
        posix_spawnp(&pid, args->texts[0], &files, &attr, args->texts, environ);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&files);
    if (code)
        return vn_fail(err, code, "start '%s'", args->texts[0]);
    v->base.pid = pid;
    v->child = true;
    v->pidfd = pidfd_open(pid, 0);
    if (v->pidfd < 0) {
        code = errno;
        kill(pid, SIGKILL); /* ours, not reaped: the number is still its own */
        vm_qemu_reap(v);
        return vn_fail(err, code, "open a pidfd");
    }
    return 0;
}

/* Has the process ended? Waits up to timeout_ms for it. */
static bool has_ended(struct vm_qemu *v, int timeout_ms)
{
    struct pollfd fd = {.fd = v->pidfd, .events = POLLIN};

    return v->reaped || (v->pidfd >= 0 && poll(&fd, 1, timeout_ms) > 0);
}

static int connect_monitor(struct vm_qemu *v, struct vn_err *err)
{
    vn_auto(free) char *path = vm_qemu_path(v, "qmp.sock");
    vn_auto(free) char *who = vn_format("VM '%s'", v->base.name);
    uint64_t deadline_ns = clock_now_ns() + START_TIMEOUT_NS;

    while (clock_now_ns() < deadline_ns) {
        struct vn_err why = VN_ERR_INIT;

        v->qmp = qmp_connect(path, who, START_TIMEOUT_NS, &why);
        if (v->qmp)
            return 0;
        if (has_ended(v, 5))
            return vn_fail(err, VN_E_PEER, "the emulator ended at once");
        if (why.code != ENOENT && why.code != ECONNREFUSED) {
            *err = why;
            return -1;
        }
    }
    return vn_fail(err, VN_E_TIMEOUT, "no monitor appeared at '%s'", path);
}

int vm_qemu_launch(struct vm_qemu *v, bool incoming, struct vn_err *err)
{
    vn_auto(free) char *qmp = vm_qemu_path(v, "qmp.sock");
    vn_auto(free) char *rescue = vm_qemu_path(v, "rescue.sock");
    vn_auto(args) struct args args = {.count = 0};
    struct vn_err ignored = VN_ERR_INIT;

    if (build_args(v, incoming, &args, err) < 0)
        return -1;
    unlink(qmp); /* of an earlier life */
    unlink(rescue);
    if (spawn(v, &args, err) < 0)
        return -1;
    if (connect_monitor(v, err) < 0) {
        vm_qemu_explain(v, err);
        if (vm_qemu_end(v, &ignored) < 0)
            return vn_wrap(err, "(%s)", ignored.msg);
        return -1;
    }
    v->base.rescue_address = vm_qemu_rescue_address(rescue);
    return 0;
}

/* ---- ending ------------------------------------------------------------- */

void vm_qemu_reap(struct vm_qemu *v)
{
    siginfo_t info = {.si_pid = 0};

    if (v->reaped || !v->child)
        return;
    if (waitid(P_PID, (id_t)v->base.pid, &info, WEXITED | WNOHANG) < 0)
        v->reaped = true; /* someone else did: how it ended is lost */
    if (info.si_pid == 0)
        return;
    v->reaped = true;
    if (info.si_code == CLD_EXITED)
        snprintf(v->end, sizeof(v->end), "exit status %d", info.si_status);
    else
        snprintf(v->end, sizeof(v->end), "killed by signal %d", info.si_status);
}

/* The last lines of this process's log, on one line. */
static void read_log_tail(const struct vm_qemu *v, char out[LOG_TAIL_SIZE + 1])
{
    vn_auto(free) char *path = vm_qemu_path(v, "qemu.log");
    vn_auto(close) int fd = open(path, O_RDONLY | O_CLOEXEC);
    off_t size = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);
    off_t start = size - (off_t)LOG_TAIL_SIZE;
    ssize_t n = 0;

    if (start < (off_t)v->log_start)
        start = (off_t)v->log_start;
    if (fd >= 0 && size > start)
        n = pread(fd, out, LOG_TAIL_SIZE, start);
    while (n > 0 && strchr("\r\n ", out[n - 1]))
        n--;
    for (ssize_t i = 0; i < n; i++) {
        if ((unsigned char)out[i] < ' ')
            out[i] = ' ';
    }
    out[n > 0 ? n : 0] = '\0';
}

void vm_qemu_explain(struct vm_qemu *v, struct vn_err *err)
{
    char tail[LOG_TAIL_SIZE + 1];
    char before[VN_ERR_MSG_SIZE];

    if (!has_ended(v, 200))
        return;
    vm_qemu_reap(v);
    read_log_tail(v, tail);
    memcpy(before, err->msg, sizeof(before));
    snprintf(err->msg, sizeof(err->msg), "%s%s%s%s%s%s%s", before,
             *v->end ? " (" : "", v->end, *v->end ? ")" : "",
             *tail ? "; it said last: '" : "", tail, *tail ? "'" : "");
}

int vm_qemu_end(struct vm_qemu *v, struct vn_err *err)
{
    struct vn_err ignored = VN_ERR_INIT;

    if (v->pidfd < 0) { /* attached, and not ours to signal */
        int result;

        if (v->reaped || !v->qmp || qmp_is_gone(v->qmp))
            return 0;
        qmp_set_deaf(v->qmp, true);
        result = qmp_command(v->qmp, "quit", NULL, NULL, err);
        qmp_set_deaf(v->qmp, false);
        return result;
    }
    if (has_ended(v, 0)) {
        vm_qemu_reap(v);
        return 0;
    }
    /* On SIGTERM QEMU flushes its disks. A stopped process would not see it. */
    if (pidfd_send_signal(v->pidfd, SIGTERM, NULL, 0) < 0 && errno != ESRCH)
        return vn_fail(err, errno, "end VM '%s' (pid %d)", v->base.name,
                       v->base.pid);
    if (!has_ended(v, END_POLITELY_MS))
        (void)pidfd_send_signal(v->pidfd, SIGKILL, NULL, 0);
    if (!has_ended(v, END_HARD_MS))
        return vn_fail(err, VN_E_TIMEOUT, "VM '%s' (pid %d) does not end",
                       v->base.name, v->base.pid);
    vm_qemu_reap(v);
    if (v->qmp) /* notice that it is gone */
        (void)!qmp_pump(v->qmp, &ignored);
    return 0;
}

/* ---- helper programs ---------------------------------------------------- */

/* Read what it says until it closes the pipe. */
static void collect(int fd, struct buf *out)
{
    for (;;) {
        uint8_t *place = buf_reserve(out, 1024);
        uint8_t waste[1024];
        ssize_t n = read(fd, place ? place : waste, 1024);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return;
        if (place)
            out->size += (size_t)n;
    }
}

int vm_qemu_run(char *const argv[], struct vn_err *err)
{
    vn_auto(close) int out = -1;
    vn_auto(buf) struct buf text;
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attr;
    int ends[2], code, status = 0;
    pid_t pid;

    buf_init(&text, RUN_OUTPUT_MAX);
    if (pipe2(ends, O_CLOEXEC) < 0)
        return vn_fail(err, errno, "create a pipe");
    out = ends[0];
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&files, ends[1], 1);
    posix_spawn_file_actions_adddup2(&files, ends[1], 2);
    posix_spawnattr_init(&attr);
    reset_signals(&attr);
    posix_spawnattr_setflags(&attr,
                             POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    code = posix_spawnp(&pid, argv[0], &files, &attr, argv, environ);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&files);
    close(ends[1]);
    if (code)
        return vn_fail(err, code, "start '%s'", argv[0]);
    collect(out, &text);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    while (text.size && strchr("\r\n ", text.data[text.size - 1]))
        text.size--;
    return vn_fail(err, VN_E_PEER, "'%s' failed: %.*s", argv[0], (int)text.size,
                   text.size ? (char *)text.data : "");
}
