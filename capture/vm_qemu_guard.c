/*
 * What stands between a guest and a half-done background-snapshot.
 *
 * While one runs, guest memory is write-protected and a vCPU that writes waits
 * until QEMU has sent the page. QEMU 7.2 forgets to take the protection off
 * when the snapshot does not complete: neither `migrate_cancel` nor a peer
 * that closed the socket does it, and the guest hangs at its next write, for
 * good ("running" all the while). Later versions do it (8.1). Therefore:
 *
 * The keeper. A child process holds the reading end of the stream too. When we
 * die, in whatever way, it reads the stream to its end, to nowhere; so the
 * snapshot completes and the guest runs on. It waits on a pipe that only we
 * have the other end of. It is a shell, because a fork of a process with
 * threads may do next to nothing by itself.
 *
 * An abort likewise reads on to the end, instead of cancelling
 * (vm_qemu_clean.c).
 *
 * The release. Where a guest hangs already (keeper killed as well, or another
 * program cancelled), the protection can be taken off from outside: its
 * userfaultfd is still open in QEMU, pidfd_getfd() lends it to us, and
 * UFFDIO_UNREGISTER works on the memory that the descriptor belongs to. Needs
 * the right to trace the process (root, or its parent).
 * Sources: userfaultfd(2), ioctl_userfaultfd(2), QEMU migration/ram.c.
 */
#include "capture/vm_qemu.h"

#include "common/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define FD_PIPE   3 /* in the keeper */
#define FD_STREAM 4
#define FD_HIGH   10 /* ours lie above, so that both are free */

extern char **environ;

/* ---- the keeper --------------------------------------------------------- */

static int spawn_keeper(struct vm_qemu *v, int pipe_end, int stream,
                        struct vn_err *err)
{
    static const char script[] = "read -r _ <&3; exec 3<&-; exec cat <&4";
    char name[] = "vn-keeper", option[] = "-c";
    vn_auto(free) char *text = vn_strdup(script);
    char *argv[] = {name, option, text, NULL};
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attr;
    sigset_t none, all;
    int code;

    sigemptyset(&none);
    sigfillset(&all);
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDWR, 0);
    posix_spawn_file_actions_adddup2(&files, 0, 1);
    posix_spawn_file_actions_adddup2(&files, 0, 2);
    posix_spawn_file_actions_adddup2(&files, pipe_end, FD_PIPE);
    posix_spawn_file_actions_adddup2(&files, stream, FD_STREAM);
    posix_spawnattr_init(&attr);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setsigdefault(&attr, &all);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSID |
                                        POSIX_SPAWN_SETSIGMASK |
                                        POSIX_SPAWN_SETSIGDEF);
    code = posix_spawn(&v->keeper_pid, "/bin/sh", &files, &attr, argv, environ);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&files);
    if (code)
        return vn_fail(err, code, "start a keeper of the stream");
    return 0;
}

int vm_qemu_keeper_start(struct vm_qemu *v, int stream, struct vn_err *err)
{
    vn_auto(close) int pipe_end = -1;
    vn_auto(close) int stream_end = fcntl(stream, F_DUPFD_CLOEXEC, FD_HIGH);
    int ends[2];

    if (stream_end < 0)
        return vn_fail(err, errno, "duplicate a descriptor");
    if (pipe2(ends, O_CLOEXEC) < 0)
        return vn_fail(err, errno, "create a pipe");
    v->keeper_pipe = ends[1];
    pipe_end = fcntl(ends[0], F_DUPFD_CLOEXEC, FD_HIGH);
    close(ends[0]);
    if (pipe_end < 0)
        return vn_fail(err, errno, "duplicate a descriptor");
    return spawn_keeper(v, pipe_end, stream_end, err);
}

void vm_qemu_keeper_end(struct vm_qemu *v)
{
    if (v->keeper_pid > 0) { /* not reaped yet: the number is still its own */
        kill(v->keeper_pid, SIGKILL);
        while (waitpid(v->keeper_pid, NULL, 0) < 0 && errno == EINTR)
            continue;
    }
    v->keeper_pid = 0;
    vn_auto_close(&v->keeper_pipe);
    v->keeper_pipe = -1;
}

/* ---- the release -------------------------------------------------------- */

/* The number of an open userfaultfd of the process; -1: it has none that we
 * can see. */
static int find_userfaultfd(int pid)
{
    vn_auto(free) char *path = vn_format("/proc/%d/fd", pid);
    DIR *dir = opendir(path);
    struct dirent *entry;
    int found = -1;

    while (dir && found < 0 && (entry = readdir(dir))) {
        char target[64];
        ssize_t n =
            readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1);

        target[n > 0 ? n : 0] = '\0';
        if (strcmp(target, "anon_inode:[userfaultfd]") == 0)
            found = atoi(entry->d_name);
    }
    if (dir)
        closedir(dir);
    return found;
}

/* Take the protection off every mapping that has it. */
static void unregister_all(int uffd, int pid)
{
    vn_auto(free) char *path = vn_format("/proc/%d/maps", pid);
    vn_auto(fclose) FILE *maps = fopen(path, "re");
    char line[512];

    while (maps && fgets(line, sizeof(line), maps)) {
        uint64_t start, end;
        struct uffdio_writeprotect protect = {.mode = 0};
        struct uffdio_range range;

        if (sscanf(line, "%" SCNx64 "-%" SCNx64, &start, &end) != 2 ||
            end <= start)
            continue;
        range = (struct uffdio_range){.start = start, .len = end - start};
        protect.range = range;
        /* Refused where nothing is registered; then it need not be. */
        if (ioctl(uffd, UFFDIO_WRITEPROTECT, &protect) == 0)
            (void)ioctl(uffd, UFFDIO_UNREGISTER, &range);
    }
}

int vm_qemu_release(struct vm_qemu *v, struct vn_err *err)
{
    vn_auto(close) int uffd = -1;
    int number = v->base.pid > 0 ? find_userfaultfd(v->base.pid) : -1;

    if (number < 0)
        return 0;
    uffd = pidfd_getfd(v->pidfd, number, 0);
    if (uffd < 0)
        return vn_fail(err, errno,
                       "VM '%s' (pid %d) may hang in write protection that "
                       "QEMU forgot; take over its descriptor %d",
                       v->base.name, v->base.pid, number);
    unregister_all(uffd, v->base.pid);
    log_debug("vm_qemu: released vm=%s pid=%d", v->base.name, v->base.pid);
    return 0;
}
