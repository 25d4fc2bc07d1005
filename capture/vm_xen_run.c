/*
 * Programs: started with no signal blocked or ignored, waited for through a
 * pidfd, reaped in any case. Their errors come out of what they wrote to the
 * log: the first line that speaks of an error, else the last.
 */
#include "capture/vm_xen_internal.h"

#include "common/clock.h"
#include "common/io.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SLICE_MS      50
#define POLITE_MS     5000
#define LOG_TAIL_SIZE 8192u
#define INHERITED_FD  3

extern char **environ;

static void set_files(posix_spawn_file_actions_t *files,
                      const struct vm_xen_run *run, int fd_out)
{
    posix_spawn_file_actions_addopen(files, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(files, 2,
                                     run->log ? run->log : "/dev/null",
                                     O_WRONLY | O_CREAT | O_APPEND, 0600);
    posix_spawn_file_actions_adddup2(files, fd_out >= 0 ? fd_out : 2, 1);
    if (run->fd_in >= 0)
        posix_spawn_file_actions_adddup2(files, run->fd_in, INHERITED_FD);
}

int vm_xen_child_start(struct vm_xen_child *ret, const struct vm_xen_run *run,
                       int fd_out, struct vn_err *err)
{
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attr;
    sigset_t none, all;
    struct stat about;
    pid_t pid;
    int code, pidfd;

    sigemptyset(&none);
    sigfillset(&all);
    ret->log_start =
        run->log && stat(run->log, &about) == 0 ? (uint64_t)about.st_size : 0;
    posix_spawn_file_actions_init(&files);
    set_files(&files, run, fd_out);
    posix_spawnattr_init(&attr);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setsigdefault(&attr, &all);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSID |
                                        POSIX_SPAWN_SETSIGMASK |
                                        POSIX_SPAWN_SETSIGDEF);
    code = posix_spawnp(&pid, run->argv[0], &files, &attr,
                        (char *const *)(uintptr_t)run->argv, environ);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&files);
    if (code)
        return vn_fail(err, code, "start '%s'", run->argv[0]);
    pidfd = pidfd_open(pid, 0);
    if (pidfd < 0) {
        code = errno;
        kill(pid, SIGKILL); /* not reaped yet: the number is its own */
        waitpid(pid, NULL, 0);
        return vn_fail(err, code, "open a pidfd");
    }
    ret->pid = pid;
    ret->pidfd = pidfd;
    ret->log = run->log ? vn_strdup(run->log) : NULL;
    ret->name = run->argv[0];
    return 0;
}

bool vm_xen_child_ended(const struct vm_xen_child *child, int timeout_ms)
{
    struct pollfd fd = {.fd = child->pidfd, .events = POLLIN};

    return poll(&fd, 1, timeout_ms) > 0;
}

static bool is_error_line(const char *line)
{
    return strcasestr(line, "error") || strcasestr(line, "cannot") ||
           strcasestr(line, "unable") || strcasestr(line, "failed");
}

/* What it said since it was started, in one line. */
static void read_reason(const struct vm_xen_child *child, char *out,
                        size_t size)
{
    char text[LOG_TAIL_SIZE + 1], *save = NULL;
    vn_auto(close) int fd =
        child->log ? open(child->log, O_RDONLY | O_CLOEXEC) : -1;
    ssize_t n =
        fd < 0 ? 0 : pread(fd, text, LOG_TAIL_SIZE, (off_t)child->log_start);
    bool found = false;

    text[n > 0 ? n : 0] = '\0';
    snprintf(out, size, "it says not why");
    for (char *line = strtok_r(text, "\r\n", &save); line && !found;
         line = strtok_r(NULL, "\r\n", &save)) {
        found = is_error_line(line);
        if (*line)
            snprintf(out, size, "%s", line);
    }
}

int vm_xen_child_reap(struct vm_xen_child *child, struct vn_err *err)
{
    const char *slash = strrchr(child->name, '/');
    const char *name = slash ? slash + 1 : child->name;
    char reason[300];
    int status = 0;

    while (waitpid(child->pid, &status, 0) < 0 && errno == EINTR)
        continue;
    vn_auto_close(&child->pidfd);
    child->pidfd = -1;
    read_reason(child, reason, sizeof(reason));
    free(vn_steal(&child->log));
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    if (WIFSIGNALED(status))
        return vn_fail(err, VN_E_PEER, "%s was killed by signal %d: %s", name,
                       WTERMSIG(status), reason);
    return vn_fail(err, VN_E_PEER, "%s failed: %s", name, reason);
}

void vm_xen_child_kill(struct vm_xen_child *child)
{
    struct vn_err ignored = VN_ERR_INIT;

    (void)pidfd_send_signal(child->pidfd, SIGTERM, NULL, 0);
    if (!vm_xen_child_ended(child, POLITE_MS))
        (void)pidfd_send_signal(child->pidfd, SIGKILL, NULL, 0);
    (void)!vm_xen_child_reap(child, &ignored);
}

/* Read what is there of its stdout; false at the end. */
static bool collect(int fd, struct buf *out)
{
    uint8_t waste[4096];
    uint8_t *place = buf_reserve(out, sizeof(waste));
    ssize_t n = read(fd, place ? place : waste, sizeof(waste));

    if (n > 0 && place)
        out->size += (size_t)n;
    return n > 0 || (n < 0 && (errno == EINTR || errno == EAGAIN));
}

static int await_end(struct vm_xen_child *child, const struct vm_xen_run *run,
                     int fd_out, struct vn_err *err)
{
    uint64_t deadline_ns = clock_now_ns() + run->timeout_ns;
    struct pollfd fds[2] = {{.fd = child->pidfd, .events = POLLIN},
                            {.fd = fd_out, .events = POLLIN}};

    for (;;) {
        (void)poll(fds, 2, SLICE_MS);
        if (fds[1].revents && !collect(fds[1].fd, run->out))
            fds[1].fd = -1;
        /* All of its output is read before it counts as ended. */
        if (fds[0].revents && (fds[1].fd < 0 || !fds[1].revents))
            return 0;
        if (run->is_cancelled && run->is_cancelled(run->context))
            return vn_fail(err, ECANCELED, "%s", run->argv[0]);
        if (clock_now_ns() > deadline_ns)
            return vn_fail(err, VN_E_TIMEOUT, "%s has not ended after %.0f s",
                           run->argv[0], (double)run->timeout_ns / VN_SEC);
    }
}

int vm_xen_run(const struct vm_xen_run *run, struct vn_err *err)
{
    struct vm_xen_child child = {.pidfd = -1};
    vn_auto(close) int out = -1;
    int ends[2] = {-1, -1}, rc;

    if (run->out && pipe2(ends, O_CLOEXEC) < 0)
        return vn_fail(err, errno, "create a pipe");
    out = ends[0];
    rc = vm_xen_child_start(&child, run, ends[1], err);
    if (ends[1] >= 0)
        close(ends[1]);
    if (rc < 0)
        return -1;
    if (await_end(&child, run, out, err) < 0) {
        vm_xen_child_kill(&child);
        return -1;
    }
    return vm_xen_child_reap(&child, err);
}
