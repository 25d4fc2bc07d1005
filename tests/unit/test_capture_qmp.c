/* The QMP client against a server that a thread plays from a script. */
#include "capture/qmp.h"

#include "common/clock.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

/* For what must come: only a failing test waits for so long. */
#define PATIENCE_NS (60 * VN_SEC)

#define GREETING                                                               \
    "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22, \"minor\": 2, "        \
    "\"major\": 7}, \"package\": \"\"}, \"capabilities\": []}}\r\n"

/*
 * One server connection. The thread answers each command line with the next
 * text of the script: "%lld" in it becomes the command's id. NULL ends the
 * connection; "" answers nothing.
 */
struct server {
    char path[108];
    const char *greeting;
    const char *const *script;
    int listener;
    pthread_t thread;
    int passed_fd;    /* that came with a command; -1: none */
    atomic_int lines; /* that came */
    char last[65536];
    struct qmp *client;
};

static int read_line(struct server *s, int fd)
{
    size_t size = 0;

    while (size + 1 < sizeof(s->last)) {
        char control[CMSG_SPACE(sizeof(int))];
        struct iovec iov = {.iov_base = s->last + size, .iov_len = 1};
        struct msghdr message = {.msg_iov = &iov,
                                 .msg_iovlen = 1,
                                 .msg_control = control,
                                 .msg_controllen = sizeof(control)};

        if (recvmsg(fd, &message, 0) != 1)
            return -1;
        if (CMSG_FIRSTHDR(&message))
            memcpy(&s->passed_fd, CMSG_DATA(CMSG_FIRSTHDR(&message)),
                   sizeof(int));
        if (s->last[size++] == '\n')
            break;
    }
    s->last[size] = '\0';
    return 0;
}

static void send_all(int fd, const char *text, size_t size)
{
    while (size) {
        ssize_t n = send(fd, text, size, MSG_NOSIGNAL);

        if (n <= 0)
            return;
        text += n;
        size -= (size_t)n;
    }
}

static void *serve(void *arg)
{
    struct server *s = arg;
    int fd = accept(s->listener, NULL, NULL);
    long long id = 0;

    send_all(fd, s->greeting, strlen(s->greeting));
    for (const char *const *text = s->script;; text++) {
        const char *at;

        if (read_line(s, fd) < 0)
            break;
        s->lines++;
        if (!*text)
            break;
        at = strstr(s->last, "\"id\":");
        if (at)
            id = atoll(at + 5);
        at = strstr(*text, "%lld");
        if (at) {
            vn_auto(free) char *out =
                vn_format("%.*s%lld%s", (int)(at - *text), *text, id, at + 4);

            send_all(fd, out, strlen(out));
        } else {
            send_all(fd, *text, strlen(*text));
        }
    }
    close(fd);
    return NULL;
}

#define OK "{\"return\": {}, \"id\": %lld}\r\n"

static struct server *new_server(const char *greeting,
                                 const char *const *script)
{
    struct server *s = vn_alloc(sizeof(*s));
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    s->greeting = greeting;
    s->script = script;
    s->passed_fd = -1;
    snprintf(s->path, sizeof(s->path), "/tmp/vn-test-qmp-%d.sock", getpid());
    unlink(s->path);
    strcpy(address.sun_path, s->path);
    s->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(s->listener >= 0);
    assert_int_equal(
        bind(s->listener, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(s->listener, 1), 0);
    assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
    return s;
}

static struct server *started;

/* Start server and client; the teardown ends both. */
static struct server *begin(const char *const *script)
{
    struct vn_err err = VN_ERR_INIT;

    started = new_server(GREETING, script);
    started->client = qmp_connect(started->path, "VM 'a'", PATIENCE_NS, &err);
    if (!started->client)
        fail_msg("%s", err.msg);
    return started;
}

static int teardown(void **state)
{
    struct server *s = started;

    (void)state;
    started = NULL;
    if (!s)
        return 0;
    qmp_free(s->client);
    pthread_join(s->thread, NULL);
    close(s->listener);
    if (s->passed_fd >= 0)
        close(s->passed_fd);
    unlink(s->path);
    free(s);
    return 0;
}

static void test_command(void **state)
{
    static const char *const script[] = {
        OK, "{\"return\": {\"status\": \"running\"}, \"id\": %lld}\r\n", NULL};
    struct server *s = begin(script);
    struct vn_err err = VN_ERR_INIT;
    vn_auto(json) json_t *reply = NULL;

    (void)state;
    assert_int_equal(qmp_version(s->client), 70222);
    assert_int_equal(qmp_peer_pid(s->client), getpid());
    assert_int_equal(qmp_command(s->client, "query-status", NULL, &reply, &err),
                     0);
    assert_string_equal(json_string_value(json_object_get(reply, "status")),
                        "running");
}

static void test_error_names_command(void **state)
{
    static const char *const script[] = {
        OK,
        "{\"id\": %lld, \"error\": {\"class\": \"GenericError\", \"desc\": "
        "\"no such disk\"}}\r\n",
        NULL};
    struct server *s = begin(script);
    struct vn_err err = VN_ERR_INIT;

    (void)state;
    assert_int_equal(qmp_command(s->client, "blockdev-del",
                                 json_pack("{s:s}", "node-name", "x"), NULL,
                                 &err),
                     -1);
    assert_int_equal(err.code, VN_E_PEER);
    assert_string_equal(err.msg, "VM 'a': blockdev-del: no such disk");
    assert_false(qmp_is_gone(s->client));
    assert_non_null(strstr(s->last, "\"node-name\":\"x\""));
}

static void test_events_are_queued(void **state)
{
    static const char *const script[] = {
        OK,
        "{\"event\": \"STOP\", \"timestamp\": {\"seconds\": 5, "
        "\"microseconds\": 7}}\r\n"
        "{\"event\": \"MIGRATION\", \"data\": {\"status\": \"active\"}}\r\n" OK,
        NULL};
    struct server *s = begin(script);
    struct vn_err err = VN_ERR_INIT;
    json_t *event;

    (void)state;
    assert_int_equal(qmp_command(s->client, "stop", NULL, NULL, &err), 0);
    event = qmp_wait_event(s->client, qmp_want_name, "MIGRATION", "x", &err);
    assert_non_null(event);
    assert_string_equal(qmp_event_string(event, "status"), "active");
    json_decref(event);
    event = qmp_take_event(s->client, qmp_want_name, "STOP");
    assert_non_null(event);
    assert_int_equal(qmp_event_wall_ns(event), 5 * VN_SEC + 7000);
    json_decref(event);
    assert_null(qmp_take_event(s->client, qmp_want_name, "STOP"));
}

static void test_timeout_drops_late_answer(void **state)
{
    /* The second command is answered only when the third has come. */
    static const char *const script[] = {
        OK, "", "{\"return\": 1, \"id\": 2}\r\n{\"return\": 2, \"id\": %lld}\n",
        NULL};
    struct server *s = begin(script);
    struct vn_err err = VN_ERR_INIT;
    vn_auto(json) json_t *reply = NULL;

    (void)state;
    qmp_set_timeout(s->client, 30 * VN_MS);
    assert_int_equal(qmp_command(s->client, "slow", NULL, NULL, &err), -1);
    assert_int_equal(err.code, VN_E_TIMEOUT);
    assert_non_null(strstr(err.msg, "slow"));
    qmp_set_timeout(s->client, PATIENCE_NS);
    assert_int_equal(qmp_command(s->client, "quick", NULL, &reply, &err), 0);
    assert_int_equal(json_integer_value(reply), 2);
}

static void test_death(void **state)
{
    static const char *const script[] = {OK, NULL};
    struct server *s = begin(script);
    struct vn_err err = VN_ERR_INIT;
    char expected[64];

    (void)state;
    snprintf(expected, sizeof(expected), "VM 'a' (pid %d) is gone", getpid());
    for (int i = 0; i < 2; i++) {
        assert_int_equal(qmp_command(s->client, "stop", NULL, NULL, &err), -1);
        assert_int_equal(err.code, VN_E_PEER);
        assert_string_equal(err.msg, expected);
        assert_true(qmp_is_gone(s->client));
    }
}

/* Once a second command has come, and who sent it probably waits. */
static void *cancel_soon(void *arg)
{
    struct server *s = arg;

    while (s->lines < 2)
        usleep(1000);
    usleep(30000);
    qmp_cancel(s->client);
    return NULL;
}

static void test_cancel(void **state)
{
    static const char *const script[] = {OK, "", OK, OK, NULL};
    struct server *s = begin(script);
    struct vn_err err = VN_ERR_INIT;
    pthread_t thread;

    (void)state;
    assert_int_equal(pthread_create(&thread, NULL, cancel_soon, s), 0);
    assert_int_equal(qmp_command(s->client, "slow", NULL, NULL, &err), -1);
    pthread_join(thread, NULL);
    assert_int_equal(err.code, ECANCELED);
    /* It sticks ... */
    assert_int_equal(qmp_command(s->client, "next", NULL, NULL, &err), -1);
    assert_int_equal(err.code, ECANCELED);
    /* ... but not for one who cleans up ... */
    qmp_set_deaf(s->client, true);
    assert_int_equal(qmp_command(s->client, "clean", NULL, NULL, &err), 0);
    qmp_set_deaf(s->client, false);
    /* ... until it is taken back. */
    qmp_uncancel(s->client);
    assert_int_equal(qmp_command(s->client, "go", NULL, NULL, &err), 0);
}

static void test_passes_descriptor(void **state)
{
    static const char *const script[] = {OK, OK, NULL};
    struct server *s = begin(script);
    struct vn_err err = VN_ERR_INIT;
    struct stat ours, theirs;
    int ends[2];

    (void)state;
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(qmp_command_fd(s->client, "getfd",
                                    json_pack("{s:s}", "fdname", "f"), ends[0],
                                    &err),
                     0);
    assert_true(s->passed_fd >= 0);
    assert_int_equal(fstat(ends[0], &ours), 0);
    assert_int_equal(fstat(s->passed_fd, &theirs), 0);
    assert_int_equal(ours.st_ino, theirs.st_ino);
    close(ends[0]);
    close(ends[1]);
}

static void test_garbage(void **state)
{
    static const char *const answers[] = {"{\"return\": \r\n", "[1]\r\n",
                                          "{\"id\": %lld}\r\n"};

    for (size_t i = 0; i < VN_COUNT(answers); i++) {
        const char *const script[] = {OK, answers[i], NULL};
        struct server *s = begin(script);
        struct vn_err err = VN_ERR_INIT;

        assert_int_equal(qmp_command(s->client, "x", NULL, NULL, &err), -1);
        assert_int_equal(err.code, VN_E_FORMAT);
        teardown(state);
    }
}

static void test_message_too_long(void **state)
{
    vn_auto(free) char *text = vn_alloc(QMP_MESSAGE_MAX + (1u << 20));
    const char *const script[] = {OK, text, NULL};
    struct server *s;
    struct vn_err err = VN_ERR_INIT;

    memset(text, ' ', QMP_MESSAGE_MAX + (1u << 20) - 1);
    s = begin(script);
    assert_int_equal(qmp_command(s->client, "x", NULL, NULL, &err), -1);
    assert_int_equal(err.code, VN_E_LIMIT);
    assert_true(qmp_is_gone(s->client));
    teardown(state); /* the server still reads `text` */
}

static void test_no_monitor(void **state)
{
    struct vn_err err = VN_ERR_INIT;
    vn_auto(free) char *path =
        vn_format("/tmp/vn-test-none-%d.sock", (int)getpid());

    (void)state;
    assert_null(qmp_connect(path, "VM 'a'", VN_SEC, &err));
    assert_int_equal(err.code, ENOENT);
    assert_non_null(strstr(err.msg, path));
}

static void test_no_greeting(void **state)
{
    static const char *const script[] = {OK, NULL};
    struct vn_err err = VN_ERR_INIT;

    (void)state;
    started = new_server("", script);
    assert_null(qmp_connect(started->path, "VM 'a'", 30 * VN_MS, &err));
    assert_int_equal(err.code, VN_E_TIMEOUT);
}

static void test_wrong_greeting(void **state)
{
    static const char *const script[] = {OK, NULL};
    struct vn_err err = VN_ERR_INIT;

    (void)state;
    started = new_server("{\"hello\": 1}\n", script);
    assert_null(qmp_connect(started->path, "VM 'a'", PATIENCE_NS, &err));
    assert_int_equal(err.code, VN_E_FORMAT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_command, teardown),
        cmocka_unit_test_teardown(test_error_names_command, teardown),
        cmocka_unit_test_teardown(test_events_are_queued, teardown),
        cmocka_unit_test_teardown(test_timeout_drops_late_answer, teardown),
        cmocka_unit_test_teardown(test_death, teardown),
        cmocka_unit_test_teardown(test_cancel, teardown),
        cmocka_unit_test_teardown(test_passes_descriptor, teardown),
        cmocka_unit_test_teardown(test_garbage, teardown),
        cmocka_unit_test_teardown(test_message_too_long, teardown),
        cmocka_unit_test_teardown(test_no_monitor, teardown),
        cmocka_unit_test_teardown(test_no_greeting, teardown),
        cmocka_unit_test_teardown(test_wrong_greeting, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
