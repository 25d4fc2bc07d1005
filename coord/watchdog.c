/*
 * The watchdog process.
 *
 * Agent and child share a SOCK_SEQPACKET pair. Each order is one packet, so
 * threads of the agent need no more than a lock, and an order that was sent is
 * in the kernel: the agent may be killed right after, the child still reads
 * it before it sees the end. Hence no answers, and arming costs one send().
 *
 * The child sleeps in poll() on the socket, on a pidfd of the agent (a
 * second witness of its death, should a forgotten child of the agent keep the
 * socket open) and until the next deadline. Before it acts on a deadline it
 * reads what is queued: the disarming may be there.
 *
 * To rescue it forks once a VM, so one deaf monitor does not cost the others
 * their ten seconds.
 *
 * Invariants: `armed` in the child is a prefix of count entries, names unique;
 * the agent's copy of the names is the same set, sooner.
 *
 * Limits: WATCHDOG_VMS_MAX entries of about 400 bytes, allocated at the start.
 * Concurrency: the agent's side holds one lock; the child is single-threaded.
 *
 * Not done: protection from the out-of-memory killer, or from a service
 * manager that kills the whole control group (the unit says KillMode=mixed);
 * nobody watches the watchdog, but watchdog_arm() fails once it is gone.
 */

#include "coord/watchdog.h"

#include "common/clock.h"
#include "common/log.h"
#include "coord/rescue.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define SEND_PATIENCE_S  1
#define KILL_PATIENCE_MS 5000 /* for a killed agent to be gone */

/* A packet; both ends are the same program. */
struct order {
    enum { ORDER_ARM = 1, ORDER_DISARM } kind;
    pid_t pid;
    uint64_t deadline_ns;
    char name[WATCHDOG_NAME_MAX + 1];
    char address[RESCUE_ADDRESS_MAX + 1];
};

struct watchdog {
    pthread_mutex_t lock;
    pid_t pid;
    int fd;
    char (*names)[WATCHDOG_NAME_MAX + 1]; /* armed; guarded by lock */
    unsigned count;                       /* guarded by lock */
};

/* The child's world. */
struct child {
    int fd;
    int pidfd; /* of the agent; -1 where the kernel has none */
    pid_t agent;
    struct order *armed;
    unsigned count;
    bool ended; /* the agent is gone */
};

static void child_main(struct child *child) __attribute__((noreturn));

/* ---- the agent's side --------------------------------------------------- */

static int open_pair(int fds[2], struct vn_err *err)
{
    struct timeval patience = {.tv_sec = SEND_PATIENCE_S};

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0)
        return vn_fail(err, errno, "watchdog: socket pair");
    if (setsockopt(fds[0], SOL_SOCKET, SO_SNDTIMEO, &patience,
                   sizeof(patience)) < 0) {
        vn_fail(err, errno, "watchdog: set a time limit");
        close(fds[0]);
        close(fds[1]);
        return -1;
    }
    return 0;
}

struct watchdog *watchdog_start(struct vn_err *err)
{
    struct watchdog *watchdog;
    struct child child = {.agent = getpid()};
    sigset_t all, before;
    int fds[2];

    if (open_pair(fds, err) < 0)
        return NULL;
    child.fd = fds[1];
    child.pidfd = pidfd_open(child.agent, 0);
    watchdog = vn_alloc(sizeof(*watchdog));
    watchdog->names = vn_alloc(WATCHDOG_VMS_MAX * sizeof(*watchdog->names));
    watchdog->fd = fds[0];
    pthread_mutex_init(&watchdog->lock, NULL);
    fflush(NULL); /* or the child would write it again */
    /* No signal reaches the child before it ignores them. */
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &before);
    watchdog->pid = fork();
    if (watchdog->pid == 0)
        child_main(&child);
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (watchdog->pid < 0)
        vn_fail(err, errno, "watchdog: fork");
    close(child.fd);
    if (child.pidfd >= 0)
        close(child.pidfd);
    if (watchdog->pid < 0) {
        watchdog_free(watchdog);
        return NULL;
    }
    return watchdog;
}

static int send_order(struct watchdog *watchdog, const struct order *order,
                      struct vn_err *err)
{
    ssize_t n;

    do {
        n = send(watchdog->fd, order, sizeof(*order), MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    if (n == (ssize_t)sizeof(*order))
        return 0;
    if (errno == EPIPE || errno == ECONNRESET)
        return vn_fail(err, VN_E_PEER, "the watchdog (pid %d) is gone",
                       (int)watchdog->pid);
    if (errno == EAGAIN)
        return vn_fail(err, VN_E_TIMEOUT,
                       "the watchdog (pid %d) does not listen",
                       (int)watchdog->pid);
    return vn_fail(err, errno, "tell the watchdog");
}

/* Where `name` stands, or count. */
static unsigned find_name(const struct watchdog *watchdog, const char *name)
{
    unsigned i = 0;

    while (i < watchdog->count && strcmp(watchdog->names[i], name) != 0)
        i++;
    return i;
}

int watchdog_arm(struct watchdog *watchdog, const char *name,
                 const char *rescue_address, pid_t pid, unsigned deadline_ms,
                 struct vn_err *err)
{
    struct order order;
    unsigned at;

    memset(&order, 0, sizeof(order)); /* the padding too */
    order.kind = ORDER_ARM;
    order.pid = pid;
    order.deadline_ns = clock_now_ns() + deadline_ms * VN_MS;
    if (!*name || strlen(name) > WATCHDOG_NAME_MAX)
        return vn_fail(err, VN_E_LIMIT, "watchdog: bad name '%.200s'", name);
    if (rescue_check(rescue_address, err) < 0)
        return vn_wrap(err, "VM '%s'", name);
    strcpy(order.name, name);
    strcpy(order.address, rescue_address);
    vn_lock_scope(&watchdog->lock);
    at = find_name(watchdog, name);
    if (at == WATCHDOG_VMS_MAX)
        return vn_fail(err, VN_E_LIMIT, "watchdog: %u VMs are armed", at);
    if (send_order(watchdog, &order, err) < 0)
        return vn_wrap(err, "VM '%s'", name);
    if (at == watchdog->count) {
        strcpy(watchdog->names[at], name);
        watchdog->count++;
    }
    return 0;
}

void watchdog_disarm(struct watchdog *watchdog, const char *name)
{
    struct vn_err err = VN_ERR_INIT;
    struct order order;
    unsigned at;

    if (strlen(name) > WATCHDOG_NAME_MAX)
        return;
    memset(&order, 0, sizeof(order));
    order.kind = ORDER_DISARM;
    strcpy(order.name, name);
    vn_lock_scope(&watchdog->lock);
    at = find_name(watchdog, name);
    if (at == watchdog->count)
        return;
    /* Unheard, it costs us our life at the deadline, not the VM's. */
    if (send_order(watchdog, &order, &err) < 0) {
        log_debug("watchdog: disarm '%s': %s", name, err.msg);
        return;
    }
    watchdog->count--;
    memmove(watchdog->names[at], watchdog->names[watchdog->count],
            sizeof(watchdog->names[at]));
}

pid_t watchdog_pid(const struct watchdog *watchdog)
{
    return watchdog->pid;
}

void watchdog_free(struct watchdog *watchdog)
{
    if (!watchdog)
        return;
    close(watchdog->fd);
    while (watchdog->pid > 0 && waitpid(watchdog->pid, NULL, 0) < 0 &&
           errno == EINTR)
        ;
    pthread_mutex_destroy(&watchdog->lock);
    free(watchdog->names);
    free(watchdog);
}

/* ---- the child ---------------------------------------------------------- */

/* Whoever reads our log may be stuck; a VM must not wait for it. */
static bool log_is_read(void)
{
    struct pollfd out = {.fd = STDERR_FILENO, .events = POLLOUT};

    return poll(&out, 1, 0) == 1 && (out.revents & POLLOUT);
}

#define say(level, ...)                                                        \
    do {                                                                       \
        if (log_is_read())                                                     \
            log_write((level), "watchdog: " __VA_ARGS__);                      \
    } while (0)

/* Descriptors from `first` to `last`. */
static void close_span(int first, int last)
{
    if (first > last || close_range((unsigned)first, (unsigned)last, 0) == 0)
        return;
    for (int fd = first; fd <= last && fd < 65536; fd++)
        close(fd);
}

/* Let go of all that was the agent's. */
static void child_detach(const struct child *child)
{
    static const int ignored[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGPIPE};
    int low = child->fd < child->pidfd ? child->fd : child->pidfd;
    int high = child->fd < child->pidfd ? child->pidfd : child->fd;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    sigset_t none;

    prctl(PR_SET_NAME, "vn-watchdog");
    setsid();
    for (size_t i = 0; i < VN_COUNT(ignored); i++)
        signal(ignored[i], SIG_IGN);
    signal(SIGCHLD, SIG_DFL); /* or we could not wait for our own */
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (null >= 0) {
        dup2(null, STDIN_FILENO);
        dup2(null, STDOUT_FILENO);
    }
    close_span(STDERR_FILENO + 1, low - 1);
    if (low >= 0)
        close_span(low + 1, high - 1);
    close_span(high + 1, INT32_MAX);
    if (chdir("/") < 0)
        say(LOG_DEBUG, "stays in its folder");
}

static void child_obey(struct child *child, const struct order *order)
{
    unsigned at = 0;

    while (at < child->count && strcmp(child->armed[at].name, order->name) != 0)
        at++;
    if (order->kind == ORDER_ARM && at < WATCHDOG_VMS_MAX) {
        child->armed[at] = *order;
        child->count += at == child->count;
    } else if (order->kind == ORDER_DISARM && at < child->count) {
        child->armed[at] = child->armed[--child->count];
    }
}

/* Read all queued orders; sees the agent's end. */
static void child_read(struct child *child)
{
    struct order order;

    for (;;) {
        ssize_t n = recv(child->fd, &order, sizeof(order), MSG_DONTWAIT);

        if (n == (ssize_t)sizeof(order))
            child_obey(child, &order);
        else if (n < 0 && errno == EINTR)
            continue;
        else if (n < 0 && errno == EAGAIN)
            return;
        else
            break;
    }
    child->ended = true;
}

static const struct order *first_due(const struct child *child)
{
    const struct order *first = child->count ? &child->armed[0] : NULL;

    for (unsigned i = 1; i < child->count; i++)
        if (child->armed[i].deadline_ns < first->deadline_ns)
            first = &child->armed[i];
    return first;
}

/* Sleep until an order, the agent's end, or the next deadline. */
static void child_wait(struct child *child)
{
    struct pollfd fds[2] = {{.fd = child->fd, .events = POLLIN},
                            {.fd = child->pidfd, .events = POLLIN}};
    const struct order *due = first_due(child);
    uint64_t now = clock_now_ns();
    int timeout_ms = -1;

    if (due && due->deadline_ns <= now)
        timeout_ms = 0;
    else if (due && due->deadline_ns - now < 3600 * VN_SEC)
        timeout_ms = (int)((due->deadline_ns - now) / VN_MS) + 1;
    else if (due)
        timeout_ms = 3600000;
    poll(fds, 2, timeout_ms);
    child_read(child);
    if (fds[1].revents & POLLIN)
        child->ended = true;
}

/* The agent is hung and holds the monitors: end it, and wait for that. */
static void child_kill_agent(struct child *child)
{
    struct pollfd gone = {.fd = child->pidfd, .events = POLLIN};
    int rc;

    if (child->pidfd >= 0) {
        rc = pidfd_send_signal(child->pidfd, SIGKILL, NULL, 0);
        if (rc == 0)
            poll(&gone, 1, KILL_PATIENCE_MS);
    } else if (getppid() == child->agent) {
        kill(child->agent, SIGKILL);
    }
    child_read(child);
}

static int child_rescue(const struct order *order)
{
    static const char *const ends[] = {
        [RESCUE_RAN] = "runs",
        [RESCUE_CONTINUED] = "was paused, runs again",
        [RESCUE_LEFT] = "stands for a reason of its own, left so",
    };
    struct vn_err err = VN_ERR_INIT;
    uint64_t start_ns = clock_now_ns();
    enum rescue_result result = RESCUE_RAN;

    if (rescue_vm(order->name, order->address, order->pid,
                  start_ns + WATCHDOG_PATIENCE_MS * VN_MS, &result, &err) < 0) {
        say(LOG_ERROR, "VM '%s' could not be resumed: %s", order->name,
            err.msg);
        return 1;
    }
    say(LOG_WARN, "VM '%s' %s after_ms=%llu", order->name, ends[result],
        (unsigned long long)((clock_now_ns() - start_ns) / VN_MS));
    return 0;
}

/* All at the same time. Returns how many failed. */
static int child_rescue_all(const struct child *child)
{
    int failed = 0, status;

    for (unsigned i = 0; i < child->count; i++) {
        pid_t pid = fork();

        if (pid == 0)
            _exit(child_rescue(&child->armed[i]));
        if (pid < 0) /* then one after the other */
            failed += child_rescue(&child->armed[i]);
    }
    for (;;) {
        pid_t pid = wait(&status);

        if (pid > 0)
            failed += status != 0;
        else if (errno != EINTR)
            return failed;
    }
}

static void child_main(struct child *child)
{
    const struct order *due;

    child_detach(child);
    child->armed = vn_alloc(WATCHDOG_VMS_MAX * sizeof(*child->armed));
    while (!child->ended) {
        child_wait(child);
        due = first_due(child);
        if (child->ended || !due || due->deadline_ns > clock_now_ns())
            continue;
        say(LOG_ERROR,
            "VM '%s' was not resumed in time, killing the agent pid=%d",
            due->name, (int)child->agent);
        child_kill_agent(child);
        child->ended = true;
    }
    child_read(child);
    if (child->count)
        say(LOG_WARN, "the agent is gone armed=%u", child->count);
    _exit(child_rescue_all(child) ? EXIT_FAILURE : EXIT_SUCCESS);
}
