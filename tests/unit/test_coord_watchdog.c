/*
 * An agent-like process with its watchdog, against a monitor that this test
 * plays itself, and against a real one. The test is the subreaper, so that the
 * orphaned watchdog's exit status can be read.
 */

#include "coord/watchdog.h"

#include "common/clock.h"
#include "common/jsonx.h"
#include "common/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* A monitor: one client at a time, as in QEMU. */
struct monitor {
    char path[64];
    char address[72];
    int listener;
    int client; /* -1: none */
    char line[512];
    size_t size;
    const char *status;    /* of query-status */
    const char *migration; /* of query-migrate */
    bool background;       /* it is a background-snapshot */
    int ignored_conts;     /* conts to answer without effect */
    int clients, conts, cancels;
};

static char dir[] = "/tmp/test_coord_watchdog.XXXXXX";
static struct monitor monitor;
static struct vn_err err;
static pid_t agent, watcher, qemu;

/* ---- the monitor -------------------------------------------------------- */

static void VN_PRINTF(2, 3)
    monitor_reply(struct monitor *m, const char *format, ...)
{
    char text[512];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    send(m->client, text, strlen(text), MSG_NOSIGNAL);
}

static void monitor_obey(struct monitor *m, const char *line, size_t size)
{
    vn_auto(json) json_t *order = jsonx_parse(line, size, "order", &err);
    const char *command = jsonx_string_or(order, "execute", "");
    long long id = (long long)jsonx_u64_or(order, "id", 0);

    if (strcmp(command, "query-status") == 0) {
        bool running = strcmp(m->status, "running") == 0;

        monitor_reply(m,
                      "{\"return\":{\"status\":\"%s\",\"running\":%s},"
                      "\"id\":%lld}\r\n",
                      m->status, running ? "true" : "false", id);
        return;
    }
    if (strcmp(command, "query-migrate") == 0) {
        monitor_reply(m, "{\"return\":{\"status\":\"%s\"},\"id\":%lld}\r\n",
                      m->migration, id);
        return;
    }
    if (strcmp(command, "query-migrate-capabilities") == 0) {
        monitor_reply(m,
                      "{\"return\":[{\"capability\":\"xbzrle\",\"state\":"
                      "false},{\"capability\":\"background-snapshot\","
                      "\"state\":%s}],\"id\":%lld}\r\n",
                      m->background ? "true" : "false", id);
        return;
    }
    if (strcmp(command, "migrate_cancel") == 0) {
        m->cancels++;
        m->migration = "cancelled";
    } else if (strcmp(command, "cont") == 0) {
        m->conts++;
        if (m->ignored_conts-- <= 0)
            m->status = "running";
        monitor_reply(m, "{\"event\":\"RESUME\"}\r\n");
    }
    monitor_reply(m, "{\"return\":{},\"id\":%lld}\r\n", id);
}

static void monitor_run(struct monitor *m)
{
    char *end;
    ssize_t n;

    if (m->client < 0) {
        m->client = accept4(m->listener, NULL, NULL, SOCK_CLOEXEC);
        if (m->client < 0)
            return;
        m->clients++;
        m->size = 0;
        monitor_reply(m, "{\"QMP\":{\"version\":{\"qemu\":{\"major\":7,"
                         "\"minor\":2,\"micro\":0}},\"capabilities\":[]}}\r\n");
    }
    n = recv(m->client, m->line + m->size, sizeof(m->line) - m->size,
             MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN)) {
        close(m->client);
        m->client = -1;
        return;
    }
    m->size += n > 0 ? (size_t)n : 0;
    while ((end = memchr(m->line, '\n', m->size))) {
        size_t used = (size_t)(end - m->line) + 1;

        monitor_obey(m, m->line, used);
        memmove(m->line, m->line + used, m->size - used);
        m->size -= used;
    }
}

static void monitor_open(struct monitor *m, const char *name)
{
    struct sockaddr_un sun = {.sun_family = AF_UNIX};

    *m =
        (struct monitor){.client = -1, .status = "paused", .migration = "none"};
    snprintf(m->path, sizeof(m->path), "%s/%s", dir, name);
    snprintf(m->address, sizeof(m->address), "qmp:%s", m->path);
    m->listener =
        socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    strcpy(sun.sun_path, m->path);
    assert_int_equal(bind(m->listener, (struct sockaddr *)&sun, sizeof(sun)),
                     0);
    assert_int_equal(listen(m->listener, 5), 0);
}

static void monitor_close(struct monitor *m)
{
    if (m->client >= 0)
        close(m->client);
    close(m->listener);
    unlink(m->path);
}

static int connect_to(const char *path)
{
    struct sockaddr_un sun = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    strcpy(sun.sun_path, path);
    if (connect(fd, (struct sockaddr *)&sun, sizeof(sun)) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

/* Play the monitor until the condition holds; only a failing test waits for
 * so long. */
#define run_until(condition)                                                   \
    do {                                                                       \
        uint64_t run_end_ns = clock_now_ns() + 60 * VN_SEC;                    \
                                                                               \
        while (!(condition)) {                                                 \
            if (clock_now_ns() > run_end_ns)                                   \
                fail_msg("never: %s", #condition);                             \
            monitor_run(&monitor);                                             \
            usleep(1000);                                                      \
        }                                                                      \
    } while (0)

/* ---- the agent ---------------------------------------------------------- */

static bool tell(int fd, pid_t pid)
{
    return write(fd, &pid, sizeof(pid)) == (ssize_t)sizeof(pid);
}

enum agent_does { WAITS, DISARMS, HANGS, FREES, FREES_DISARMED };

/* Start an agent that holds the monitor and arms its VM. Sets `watcher`. */
static void start_agent(enum agent_does does, pid_t vm_pid, unsigned patience)
{
    int fds[2], fd;

    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    agent = fork();
    if (agent == 0) {
        struct watchdog *watchdog = watchdog_start(&err);
        pid_t pid;

        if (!watchdog)
            _exit(1);
        pid = watchdog_pid(watchdog);
        /* The deadline may be over at once. */
        if (does == HANGS && !tell(fds[1], pid))
            _exit(3);
        fd = connect_to(monitor.path);
        /* Stopped, the watchdog reads both orders at once, however late it is
         * when the second is sent. */
        if (does == DISARMS)
            kill(pid, SIGSTOP);
        if (fd < 0 || watchdog_arm(watchdog, "net/a", monitor.address, vm_pid,
                                   patience, &err) < 0)
            _exit(2);
        if (does == DISARMS || does == FREES_DISARMED)
            watchdog_disarm(watchdog, "net/a");
        watchdog_disarm(watchdog, "never armed");
        if (does == DISARMS)
            kill(pid, SIGCONT);
        if (does != HANGS && !tell(fds[1], pid))
            _exit(3);
        if (does == HANGS)
            raise(SIGSTOP);
        if (does == FREES || does == FREES_DISARMED) {
            close(fd);
            watchdog_free(watchdog);
            _exit(0);
        }
        for (;;)
            pause();
    }
    close(fds[1]);
    assert_int_equal(read(fds[0], &watcher, sizeof(watcher)), sizeof(watcher));
    close(fds[0]);
}

/* Wait for a process; its status. */
static int ended(pid_t *pid)
{
    int status = -1;

    run_until(waitpid(*pid, &status, WNOHANG) == *pid);
    *pid = 0;
    return status;
}

static int killed_agent(void)
{
    kill(agent, SIGKILL);
    ended(&agent);
    return ended(&watcher);
}

static int setup(void **state)
{
    (void)state;
    memset(&err, 0, sizeof(err));
    agent = watcher = qemu = 0;
    monitor_open(&monitor, "qmp");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    if (agent)
        kill(agent, SIGKILL);
    if (watcher)
        kill(-watcher, SIGKILL); /* it leads its own group */
    if (qemu)
        kill(qemu, SIGKILL);
    while ((agent || watcher || qemu) && waitpid(-1, NULL, 0) > 0)
        ;
    monitor_close(&monitor);
    return 0;
}

static int group_setup(void **state)
{
    (void)state;
    log_set_level(LOG_ERROR); /* quiet; the messages of failures stay */
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    return mkdtemp(dir) ? 0 : -1;
}

static int group_teardown(void **state)
{
    (void)state;
    return rmdir(dir);
}

/* ---- the agent dies ----------------------------------------------------- */

static void test_killed(void **state)
{
    (void)state;
    monitor.migration = "active";
    start_agent(WAITS, 0, 60000);
    run_until(monitor.clients == 1);
    assert_string_equal(monitor.status, "paused");
    assert_int_equal(killed_agent(), 0);
    assert_string_equal(monitor.status, "running");
    assert_int_equal(monitor.conts, 1);
    assert_int_equal(monitor.cancels, 1);
}

/* Cancelled, it would hang the guest. */
static void test_background_is_not_cancelled(void **state)
{
    (void)state;
    monitor.migration = "active";
    monitor.background = true;
    start_agent(WAITS, 0, 60000);
    run_until(monitor.clients == 1);
    assert_int_equal(killed_agent(), 0);
    assert_string_equal(monitor.status, "running");
    assert_int_equal(monitor.cancels, 0);
}

static void test_disarmed(void **state)
{
    (void)state;
    start_agent(DISARMS, 0, 100);
    run_until(monitor.clients == 1);
    usleep(150000); /* past the deadline */
    assert_int_equal(kill(agent, 0), 0);
    assert_int_equal(killed_agent(), 0);
    assert_int_equal(monitor.clients, 1); /* the agent's own */
    assert_string_equal(monitor.status, "paused");
}

/* Hung: killed, for it holds the monitor. */
static void test_deadline(void **state)
{
    int status;

    (void)state;
    start_agent(HANGS, 0, 100);
    status = ended(&agent);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGKILL);
    assert_int_equal(ended(&watcher), 0);
    assert_string_equal(monitor.status, "running");
}

static void test_freed(void **state)
{
    (void)state;
    start_agent(FREES, 0, 60000);
    assert_int_equal(ended(&agent), 0);
    watcher = 0; /* the agent waited for it */
    assert_string_equal(monitor.status, "running");
    monitor.status = "paused";
    start_agent(FREES_DISARMED, 0, 60000);
    assert_int_equal(ended(&agent), 0);
    watcher = 0;
    assert_string_equal(monitor.status, "paused");
}

/* ---- what is found at the VM -------------------------------------------- */

static void test_runs_already(void **state)
{
    (void)state;
    monitor.status = "running";
    start_agent(WAITS, 0, 60000);
    assert_int_equal(killed_agent(), 0);
    assert_true(monitor.clients >= 2);
    assert_int_equal(monitor.conts, 0);
}

/* A command of the dead agent stops it once more. */
static void test_does_not_stay(void **state)
{
    (void)state;
    monitor.ignored_conts = 3;
    start_agent(WAITS, 0, 60000);
    assert_int_equal(killed_agent(), 0);
    assert_string_equal(monitor.status, "running");
    assert_int_equal(monitor.conts, 4);
}

static void test_own_reasons(void **state)
{
    static const char *const reasons[] = {"shutdown", "inmigrate", "prelaunch",
                                          "suspended"};

    (void)state;
    for (size_t i = 0; i < VN_COUNT(reasons); i++) {
        monitor.status = reasons[i];
        start_agent(WAITS, 0, 60000);
        assert_int_equal(killed_agent(), 0);
        assert_string_equal(monitor.status, reasons[i]);
    }
    assert_int_equal(monitor.conts, 0);
}

static void test_vm_gone(void **state)
{
    pid_t gone = fork();

    (void)state;
    if (gone == 0)
        _exit(0);
    waitpid(gone, NULL, 0);
    start_agent(WAITS, gone, 60000);
    run_until(monitor.clients == 1);
    close(monitor.listener);
    assert_int_not_equal(killed_agent(), 0);
}

/* A deaf monitor does not hold up the other VM. */
static void test_deaf_neighbour(void **state)
{
    struct monitor deaf;
    struct watchdog *watchdog;
    int fds[2];

    (void)state;
    monitor_open(&deaf, "deaf");
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    agent = fork();
    if (agent == 0) {
        watchdog = watchdog_start(&err);
        watcher = watchdog ? watchdog_pid(watchdog) : 0;
        if (write(fds[1], &watcher, sizeof(watcher)) < 0)
            _exit(1);
        if (!watchdog ||
            watchdog_arm(watchdog, "deaf", deaf.address, 0, 60000, &err) < 0 ||
            watchdog_arm(watchdog, "a", monitor.address, 0, 60000, &err) < 0)
            _exit(1);
        raise(SIGKILL);
    }
    assert_int_equal(read(fds[0], &watcher, sizeof(watcher)), sizeof(watcher));
    close(fds[0]);
    close(fds[1]);
    ended(&agent);
    run_until(strcmp(monitor.status, "running") == 0);
    assert_int_equal(waitpid(watcher, NULL, WNOHANG), 0); /* still at it */
    monitor_close(&deaf);
}

/* ---- the process itself ------------------------------------------------- */

static int count_fds(pid_t pid)
{
    char path[64];
    struct dirent *entry;
    int count = 0;
    DIR *fds;

    snprintf(path, sizeof(path), "/proc/%d/fd", pid);
    fds = opendir(path);
    assert_non_null(fds);
    while ((entry = readdir(fds)))
        count += entry->d_name[0] != '.';
    closedir(fds);
    return count;
}

static void test_process(void **state)
{
    (void)state;
    start_agent(WAITS, 0, 60000);
    assert_int_equal(kill(watcher, SIGTERM), 0);
    assert_int_equal(kill(watcher, SIGINT), 0);
    run_until(getsid(watcher) == watcher);
    run_until(count_fds(watcher) <= 5);
    assert_true(count_fds(watcher) >= 4); /* 0, 1, 2, the socket, a pidfd */
    assert_int_equal(killed_agent(), 0);
    assert_string_equal(monitor.status, "running");
}

/* Our end of the socket to the only watchdog. */
static int order_socket(void)
{
    for (int fd = 0; fd < 1024; fd++) {
        int type = 0;
        socklen_t size = sizeof(type);

        if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 &&
            type == SOCK_SEQPACKET)
            return fd;
    }
    fail();
    return -1;
}

/* Wait while there is much that the watchdog has not read: one that is late is
 * not to be taken for one that does not listen. */
static void let_it_read(int fd)
{
    int unread = 0;

    while (ioctl(fd, SIOCOUTQ, &unread) == 0 && unread > 65536)
        usleep(1000);
}

static void test_errors(void **state)
{
    struct watchdog *watchdog = watchdog_start(&err);
    char name[16], text[300] = "qmp:/";
    int fd = order_socket();

    (void)state;
    assert_non_null(watchdog);
    assert_int_equal(watchdog_arm(watchdog, "a", "tcp:1", 0, 1, &err), -1);
    assert_int_equal(err.code, VN_E_FORMAT);
    assert_int_equal(watchdog_arm(watchdog, "a", "qmp:x", 0, 1, &err), -1);
    memset(text + 5, 'x', 280);
    assert_int_equal(watchdog_arm(watchdog, "a", text, 0, 1, &err), -1);
    assert_int_equal(watchdog_arm(watchdog, text, "qmp:/x", 0, 1, &err), -1);
    assert_int_equal(watchdog_arm(watchdog, "", "qmp:/x", 0, 1, &err), -1);
    for (int i = 0; i < WATCHDOG_VMS_MAX; i++) {
        snprintf(name, sizeof(name), "%d", i);
        let_it_read(fd);
        assert_int_equal(watchdog_arm(watchdog, name, "qmp:/x", 0, 60000, &err),
                         0);
    }
    assert_int_equal(watchdog_arm(watchdog, "a", "qmp:/x", 0, 1, &err), -1);
    assert_int_equal(err.code, VN_E_LIMIT);
    assert_int_equal(watchdog_arm(watchdog, "7", "qmp:/x", 0, 60000, &err), 0);
    watchdog_disarm(watchdog, "7");
    assert_int_equal(watchdog_arm(watchdog, "a", "qmp:/x", 0, 60000, &err), 0);
    kill(watchdog_pid(watchdog), SIGKILL);
    run_until(watchdog_arm(watchdog, "a", "qmp:/x", 0, 60000, &err) < 0);
    assert_int_equal(err.code, VN_E_PEER);
    assert_non_null(strstr(err.msg, "VM 'a': the watchdog"));
    watchdog_disarm(watchdog, "a");
    watchdog_free(watchdog);
}

static void *arm_and_disarm(void *arg)
{
    struct watchdog *watchdog = arg;
    struct vn_err mine = VN_ERR_INIT;
    int fd = order_socket();
    char name[32];

    for (int i = 0; i < 500; i++) {
        let_it_read(fd);
        snprintf(name, sizeof(name), "%lx-%d", (unsigned long)pthread_self(),
                 i % 3);
        if (watchdog_arm(watchdog, name, monitor.address, 0, 60000, &mine) < 0)
            return arg;
        watchdog_disarm(watchdog, name);
    }
    return NULL;
}

static void test_threads(void **state)
{
    struct watchdog *watchdog = watchdog_start(&err);
    pthread_t threads[4];
    void *failed;

    (void)state;
    assert_non_null(watchdog);
    for (size_t i = 0; i < VN_COUNT(threads); i++)
        assert_int_equal(
            pthread_create(&threads[i], NULL, arm_and_disarm, watchdog), 0);
    for (size_t i = 0; i < VN_COUNT(threads); i++) {
        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
    watchdog_free(watchdog); /* nothing is armed: it asks no monitor */
    assert_int_equal(accept4(monitor.listener, NULL, NULL, SOCK_CLOEXEC), -1);
    assert_int_equal(errno, EAGAIN);
}

/* ---- a real one --------------------------------------------------------- */

/* Read from the monitor until `word` comes. */
static void await_word(int fd, const char *word)
{
    char text[4096] = "";
    size_t used = 0;

    run_until(({
        ssize_t n =
            recv(fd, text + used, sizeof(text) - 1 - used, MSG_DONTWAIT);

        used += n > 0 ? (size_t)n : 0;
        strstr(text, word);
    }));
}

static pid_t start_qemu(void)
{
    char qmp[128];
    pid_t pid = fork();

    snprintf(qmp, sizeof(qmp), "unix:%s/real,server=on,wait=off", dir);
    if (pid == 0) {
        execlp("qemu-system-x86_64", "qemu-system-x86_64", "-accel", "tcg",
               "-m", "32", "-display", "none", "-nodefaults", "-qmp", qmp,
               (char *)NULL);
        _exit(127);
    }
    return pid;
}

static void test_real_qemu(void **state)
{
    static const char stop[] =
        "{\"execute\":\"qmp_capabilities\"}{\"execute\":\"stop\"}"
        "{\"execute\":\"query-status\"}\n";
    static const char ask[] =
        "{\"execute\":\"qmp_capabilities\"}{\"execute\":\"query-status\"}\n";
    char path[64], address[72];
    int fd = -1;

    (void)state;
    if (system("command -v qemu-system-x86_64 >/dev/null") != 0)
        skip();
    snprintf(path, sizeof(path), "%s/real", dir);
    snprintf(address, sizeof(address), "qmp:%s", path);
    qemu = start_qemu();
    run_until((fd = connect_to(path)) >= 0);
    agent = fork();
    if (agent == 0) {
        struct watchdog *watchdog = watchdog_start(&err);

        if (!watchdog ||
            watchdog_arm(watchdog, "a", address, qemu, 60000, &err) < 0 ||
            write(fd, stop, sizeof(stop) - 1) < 0)
            _exit(1);
        pause();
    }
    await_word(fd, "paused");
    close(fd); /* the agent holds it still */
    kill(agent, SIGKILL);
    ended(&agent);
    run_until((watcher = waitpid(-1, NULL, WNOHANG)) > 0 && watcher != qemu);
    watcher = 0;
    fd = connect_to(path);
    assert_int_equal(write(fd, ask, sizeof(ask) - 1), sizeof(ask) - 1);
    await_word(fd, "\"running\": true");
    close(fd);
    unlink(path);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_killed),         TEST(test_disarmed),
        TEST(test_deadline),       TEST(test_freed),
        TEST(test_runs_already),   TEST(test_does_not_stay),
        TEST(test_own_reasons),    TEST(test_vm_gone),
        TEST(test_deaf_neighbour), TEST(test_process),
        TEST(test_errors),         TEST(test_threads),
        TEST(test_real_qemu),      TEST(test_background_is_not_cancelled),
    };

    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
