#include "coord/wire.h"

#include "common/clock.h"
#include "coord/frame.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* One end of a connection, as a test sees it. */
struct end {
    struct wire *wire;
    int messages;
    json_int_t last; /* "n" of the newest message */
    size_t last_size;
    bool in_order;
    bool echo;       /* send each message back */
    bool free_early; /* free the wire in the first message */
    bool closed;
    struct vn_err why;
};

static char dir[] = "/tmp/test_coord_wire.XXXXXX";
static char unix_path[64], unix_address[80];
static struct event_base *base;
static struct wire_listener *listener;
static struct wire_tls *tls, *other_tls;
static struct end server, client;
static int accepted;
static struct vn_err err;

/* ---- certificates and files -------------------------------------------- */

static void VN_PRINTF(1, 2) shell(const char *format, ...)
{
    char command[1024];
    va_list args;

    va_start(args, format);
    vsnprintf(command, sizeof(command), format, args);
    va_end(args);
    if (system(command) != 0)
        fail_msg("failed: %s", command);
}

static struct wire_tls *load(const char *name)
{
    char path[128];
    struct wire_tls *loaded;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    loaded = wire_tls_load(path, &err);
    if (!loaded)
        fail_msg("%s", err.msg);
    return loaded;
}

static int group_setup(void **state)
{
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    snprintf(unix_path, sizeof(unix_path), "%s/s", dir);
    snprintf(unix_address, sizeof(unix_address), "unix:%s", unix_path);
    shell("cd %s && certs=%s/../tools/vnstore-certs && "
          "$certs ours good,127.0.0.1,localhost elsewhere,10.9.9.9 >log && "
          "$certs theirs bad,127.0.0.1 >>log && "
          /* Believes us, but was signed by others. */
          "cp -r theirs/bad mixed && cp ours/ca.crt mixed/ && "
          /* Signed by us, without alternative names. */
          "cp -r ours/good plain && openssl req -new -key plain/host.key "
          "-subj /CN=plain -out csr 2>>log && openssl x509 -req -in csr "
          "-CA ours/ca.crt -CAkey ours/ca.key -set_serial 7 "
          "-out plain/host.crt 2>>log",
          dir, TESTS_DIR);
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    shell("rm -rf %s", dir);
    return 0;
}

/* ---- the loop ----------------------------------------------------------- */

static void on_message(void *context, struct wire *wire, const json_t *message)
{
    struct end *end = context;
    json_int_t n = json_integer_value(json_object_get(message, "n"));
    json_t *text = json_object_get(message, "text");

    end->messages++;
    end->in_order = end->in_order && n == end->last + 1;
    end->last = n;
    end->last_size = json_string_length(text);
    if (end->echo)
        wire_send(wire, message);
    if (end->free_early) {
        wire_free(wire);
        end->wire = NULL;
    }
}

static void on_closed(void *context, struct wire *wire,
                      const struct vn_err *why)
{
    struct end *end = context;

    assert_false(end->closed);
    end->closed = true;
    end->why = *why;
    wire_free(wire);
    end->wire = NULL;
}

static const struct wire_events events = {on_message, on_closed};

static void on_accept(void *context, struct wire *wire)
{
    struct end *end = context;

    accepted++;
    wire_free(end->wire);
    end->wire = wire;
    wire_set_events(wire, &events, end);
}

static int setup(void **state)
{
    (void)state;
    memset(&err, 0, sizeof(err));
    memset(&server, 0, sizeof(server));
    memset(&client, 0, sizeof(client));
    server.in_order = client.in_order = true;
    accepted = 0;
    base = event_base_new();
    return base ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    wire_free(client.wire);
    wire_free(server.wire);
    wire_listener_free(listener);
    listener = NULL;
    wire_tls_free(tls);
    wire_tls_free(other_tls);
    tls = other_tls = NULL;
    event_base_free(base);
    return 0;
}

/* Run the loop until the condition holds; only a failing test runs so long. */
#define run_until(condition)                                                   \
    do {                                                                       \
        uint64_t run_end_ns = clock_now_ns() + 60 * VN_SEC;                    \
                                                                               \
        while (!(condition)) {                                                 \
            if (clock_now_ns() > run_end_ns)                                   \
                fail_msg("never: %s (server: %s, client: %s)", #condition,     \
                         server.why.msg, client.why.msg);                      \
            run_once();                                                        \
        }                                                                      \
    } while (0)

static void run_once(void)
{
    struct timeval slice = {.tv_usec = 2000};

    event_base_loopexit(base, &slice);
    event_base_dispatch(base);
}

static void start_server(const char *address)
{
    listener = wire_listen(base, address, tls, on_accept, &server, &err);
    if (!listener)
        fail_msg("%s", err.msg);
}

static void start_client(const char *address, struct wire_tls *client_tls)
{
    client.wire =
        wire_connect(base, address, client_tls, &events, &client, &err);
    if (!client.wire)
        fail_msg("%s", err.msg);
}

static void start_both(bool with_tls)
{
    if (with_tls)
        tls = load("ours/good");
    start_server(with_tls ? "tls:127.0.0.1:0" : unix_address);
    start_client(wire_listener_address(listener), tls);
}

static void send_number(struct wire *wire, int n, size_t size)
{
    vn_auto(free) char *text = vn_alloc(size + 1);
    vn_auto(json) json_t *message = NULL;

    memset(text, 'x', size);
    message = json_pack("{s:i,s:s}", "n", n, "text", text);
    wire_send(wire, message);
}

/* A socket without our code behind it. */
static int raw_client(void)
{
    struct sockaddr_un sun = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    strcpy(sun.sun_path, unix_path);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&sun, sizeof(sun)),
                     0);
    return fd;
}

static void raw_send(int fd, const char *text, size_t size)
{
    assert_int_equal(send(fd, text, size, MSG_NOSIGNAL), size);
}

/* Send bytes from a raw client; the server must close for this reason. */
static void hostile(const char *bytes, size_t size, int code, const char *words)
{
    int fd;

    server.closed = false;
    fd = raw_client();
    raw_send(fd, bytes, size);
    shutdown(fd, SHUT_WR);
    run_until(server.closed);
    close(fd);
    assert_int_equal(server.messages, 0);
    if (server.why.code != code || !strstr(server.why.msg, words))
        fail_msg("'%s', expected '%s'", server.why.msg, words);
}

/* ---- both transports ---------------------------------------------------- */

static void exchange(bool with_tls)
{
    const size_t big = 3u << 20;

    start_both(with_tls);
    server.echo = true;
    send_number(client.wire, 1, 10); /* before it is connected */
    run_until(client.messages == 1);
    for (int i = 2; i <= 2000; i++)
        send_number(client.wire, i, (size_t)i % 100);
    run_until(client.messages == 2000);
    send_number(client.wire, 2001, big);
    send_number(client.wire, 2002, 1);
    run_until(client.messages == 2002);
    assert_int_equal(server.messages, 2002);
    assert_true(server.in_order && client.in_order);
    assert_false(server.closed || client.closed);
    send_number(server.wire, 2003, big);
    run_until(client.messages == 2003);
    assert_int_equal(client.last_size, big);
    wire_free(client.wire);
    client.wire = NULL;
    run_until(server.closed);
    assert_int_equal(server.why.code, VN_E_PEER);
    assert_non_null(strstr(server.why.msg, "closed by the peer"));
}

static void test_unix(void **state)
{
    struct stat st;

    (void)state;
    exchange(false);
    assert_int_equal(stat(unix_path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    wire_listener_free(listener);
    listener = NULL;
    assert_int_equal(stat(unix_path, &st), -1);
}

static void test_tls(void **state)
{
    (void)state;
    exchange(true);
}

static void test_peer(void **state)
{
    char expected[64];

    (void)state;
    start_both(true);
    run_until(accepted && wire_peer(client.wire));
    assert_string_equal(wire_peer(client.wire),
                        "good (DNS:good,IP:127.0.0.1,DNS:localhost)");
    assert_string_equal(wire_peer(server.wire), wire_peer(client.wire));
    assert_memory_equal(wire_address(server.wire), "tls:127.0.0.1:", 14);
    wire_free(server.wire);
    server.wire = NULL;
    run_until(client.closed);
    assert_non_null(strstr(client.why.msg, "agent 'tls:127.0.0.1:"));
    wire_listener_free(listener);
    start_server(unix_address);
    start_client(unix_address, NULL);
    accepted = 0;
    run_until(accepted);
    snprintf(expected, sizeof(expected), "uid %u pid %d", geteuid(), getpid());
    assert_string_equal(wire_peer(server.wire), expected);
}

/* A name is looked up in the loop. */
static void test_tls_name(void **state)
{
    char address[64];

    (void)state;
    tls = load("ours/good");
    start_server("tls:localhost:0");
    snprintf(address, sizeof(address), "tls:localhost%s",
             strrchr(wire_listener_address(listener), ':'));
    start_client(address, tls);
    run_until(accepted);
}

static void test_free_in_callback(void **state)
{
    (void)state;
    start_both(false);
    server.free_early = true;
    for (int i = 1; i < 100; i++)
        send_number(client.wire, i, 100);
    run_until(client.closed);
    assert_int_equal(server.messages, 1);
    /* And before anything happened. */
    for (int with_tls = 0; with_tls < 2; with_tls++) {
        if (with_tls)
            tls = load("ours/good");
        start_client(with_tls ? "tls:127.0.0.1:1" : unix_address, tls);
        send_number(client.wire, 1, 100);
        wire_free(client.wire);
        client.wire = NULL;
    }
    /* And while its name is being looked up. */
    client.closed = false;
    start_client("tls:nobody.invalid:1", tls);
    run_once();
    assert_false(client.closed && !strstr(client.why.msg, "nobody.invalid"));
    wire_free(client.wire);
    client.wire = NULL;
    run_once();
}

/* ---- limits and hostile bytes ------------------------------------------- */

static void test_oversize(void **state)
{
    (void)state;
    start_both(false);
    run_until(accepted);
    send_number(client.wire, 1, WIRE_MESSAGE_MAX + 1);
    assert_false(client.closed); /* never from inside the call */
    send_number(client.wire, 2, 1);
    run_until(client.closed);
    assert_int_equal(client.why.code, VN_E_LIMIT);
    assert_int_equal(server.messages, 0);
}

static void test_slow_reader(void **state)
{
    int fd;

    (void)state;
    start_server(unix_address);
    fd = raw_client();
    run_until(accepted);
    for (int i = 0; i < 64 && !server.closed; i++) {
        send_number(server.wire, i, 1u << 20);
        run_once();
    }
    assert_false(server.closed);
    for (int i = 0; i < 10 && !server.closed; i++) {
        send_number(server.wire, i, 1u << 20);
        run_once();
    }
    close(fd);
    assert_true(server.closed);
    assert_int_equal(server.why.code, VN_E_LIMIT);
    assert_non_null(strstr(server.why.msg, "it does not read"));
}

static void test_garbage(void **state)
{
    (void)state;
    start_server(unix_address);
    hostile("GET / HTTP/1.1\r\n\r\n", 18, VN_E_LIMIT, "1195725856 bytes");
    hostile("\0\0\0\0", 4, VN_E_FORMAT, "0 bytes");
    hostile("\xff\xff\xff\xff", 4, VN_E_LIMIT, "4294967295 bytes");
    hostile("\0\0\0\5hello", 9, VN_E_FORMAT, "message: line 1");
    hostile("\0\0\0\2[]", 6, VN_E_FORMAT, "not a JSON object");
    hostile("\0\0\0\15{\"a\":1,\"a\":2}", 17, VN_E_FORMAT, "duplicate");
    hostile("\0\0\0\6\"\xff\xff\"{}", 10, VN_E_FORMAT, "byte 0xff");
    hostile("\0\0\1\0{\"a\"", 8, VN_E_PEER,
            "in the middle of a message (4 of 256 bytes came)");
    hostile("\0\0", 2, VN_E_PEER, "in the middle of a message");
    hostile("", 0, VN_E_PEER, "closed by the peer");
    assert_int_equal(accepted, 10);
}

/* ---- addresses ---------------------------------------------------------- */

static void test_nobody(void **state)
{
    char expected[128];

    (void)state;
    start_client(unix_address, NULL);
    assert_false(client.closed);
    run_until(client.closed);
    snprintf(expected, sizeof(expected), "agent '%s': connect: No such file",
             unix_address);
    assert_non_null(strstr(client.why.msg, expected));
    assert_int_equal(client.why.code, ENOENT);

    tls = load("ours/good");
    client.closed = false;
    start_client("tls:127.0.0.1:1", tls);
    run_until(client.closed);
    assert_string_equal(client.why.msg,
                        "agent 'tls:127.0.0.1:1': connect: Connection refused");
}

static void test_bad_address(void **state)
{
    static const char *const bad[] = {"",           "unix:",     "/tmp/x",
                                      "tls:",       "tls:h",     "tls:h:",
                                      "tls:h:x",    "tls:h:1:2", "tls:[::1",
                                      "tls:[::1]x", "tls:a b:1", "tls::1"};
    char address[200] = "unix:/";

    (void)state;
    tls = load("ours/good");
    for (size_t i = 0; i < VN_COUNT(bad); i++) {
        err.code = 0;
        assert_null(wire_connect(base, bad[i], tls, &events, &client, &err));
        if (err.code != VN_E_FORMAT || !strstr(err.msg, bad[i]))
            fail_msg("'%s': '%s'", bad[i], err.msg);
        assert_null(wire_listen(base, bad[i], tls, on_accept, &server, &err));
    }
    memset(address + 6, 'x', 150);
    assert_null(wire_connect(base, address, tls, &events, &client, &err));
    assert_null(wire_connect(base, "tls:h:1", NULL, &events, &client, &err));
    assert_string_equal(
        err.msg, "agent 'tls:h:1': no folder with certificates was given");
    assert_null(
        wire_listen(base, "tls:0.0.0.0:0", NULL, on_accept, NULL, &err));
}

static void test_stale_socket(void **state)
{
    struct sockaddr_un sun = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    (void)state;
    strcpy(sun.sun_path, unix_path);
    assert_int_equal(bind(fd, (const struct sockaddr *)&sun, sizeof(sun)), 0);
    close(fd);
    start_both(false); /* replaces it */
    run_until(accepted);
    assert_null(wire_listen(base, unix_address, NULL, on_accept, NULL, &err));
    assert_int_equal(err.code, VN_E_EXISTS);
    assert_non_null(strstr(err.msg, "another process listens there"));
    run_once(); /* the failed listener's trial connection */
    assert_int_equal(access(unix_path, F_OK), 0);
    wire_listener_free(listener);
    listener = NULL;
    shell("echo precious > %s", unix_path);
    assert_null(wire_listen(base, unix_address, NULL, on_accept, NULL, &err));
    assert_non_null(strstr(err.msg, "is not a socket"));
    shell("grep -q precious %s && rm %s", unix_path, unix_path);
    assert_null(
        wire_listen(base, "unix:/nonexistent/x", NULL, on_accept, NULL, &err));
    assert_non_null(strstr(err.msg, "'/nonexistent'"));
}

/* Only root and we may connect, even if the file's mode was opened. */
static void test_other_user(void **state)
{
    int status;
    pid_t pid;

    (void)state;
    if (geteuid() != 0)
        skip();
    start_server(unix_address);
    assert_int_equal(chmod(dir, 0711), 0);
    assert_int_equal(chmod(unix_path, 0666), 0);
    pid = fork();
    if (pid == 0) {
        char byte;
        int fd;

        if (setuid(65534) < 0)
            _exit(2);
        fd = raw_client();
        _exit(recv(fd, &byte, 1, 0) == 0 ? 0 : 1);
    }
    run_until(waitpid(pid, &status, WNOHANG) == pid);
    assert_int_equal(status, 0);
    assert_int_equal(accepted, 0);
}

/* ---- certificates ------------------------------------------------------- */

/* The client ends with these words; the server accepts nobody. */
static void refused(const char *words)
{
    run_until(client.closed);
    for (int i = 0; i < 5; i++)
        run_once();
    assert_int_equal(accepted, 0);
    if (!strstr(client.why.msg, words))
        fail_msg("'%s', expected '%s'", client.why.msg, words);
    assert_memory_equal(client.why.msg, "agent 'tls:127.0.0.1:", 21);
}

static void test_server_of_other_ca(void **state)
{
    (void)state;
    tls = load("theirs/bad");
    other_tls = load("ours/good");
    start_server("tls:127.0.0.1:0");
    start_client(wire_listener_address(listener), other_tls);
    send_number(client.wire, 1, 10);
    refused("its certificate is refused: ");
}

static void test_client_of_other_ca(void **state)
{
    (void)state;
    tls = load("ours/good");
    other_tls = load("mixed");
    start_server("tls:127.0.0.1:0");
    start_client(wire_listener_address(listener), other_tls);
    refused("alert unknown ca");
}

static void test_other_host(void **state)
{
    (void)state;
    tls = load("ours/elsewhere");
    start_server("tls:127.0.0.1:0");
    start_client(wire_listener_address(listener), tls);
    send_number(client.wire, 1, 10);
    run_until(client.closed);
    assert_non_null(strstr(client.why.msg,
                           "its certificate is for elsewhere (DNS:elsewhere,"
                           "IP:10.9.9.9), not for '127.0.0.1'"));
    run_once();
    assert_int_equal(server.messages, 0); /* not a byte before the check */
}

static void test_no_alternative_names(void **state)
{
    (void)state;
    tls = load("plain");
    start_server("tls:127.0.0.1:0");
    start_client(wire_listener_address(listener), tls);
    run_until(accepted && wire_peer(client.wire));
    assert_string_equal(wire_peer(client.wire), "plain");
}

/* The server speaks TLS 1.3 with a certificate or not at all. */
static void foreign_client(const char *options, const char *words)
{
    char command[512], output[8192];
    size_t size = 0;
    FILE *pipe;

    snprintf(command, sizeof(command),
             "cd %s && openssl s_client -connect %s %s </dev/null 2>&1", dir,
             wire_listener_address(listener) + 4, options);
    pipe = popen(command, "re");
    assert_non_null(pipe);
    fcntl(fileno(pipe), F_SETFL, O_NONBLOCK);
    run_until(({
        ssize_t n =
            read(fileno(pipe), output + size, sizeof(output) - 1 - size);

        size += n > 0 ? (size_t)n : 0;
        n == 0;
    }));
    pclose(pipe);
    output[size] = 0;
    if (!strstr(output, words))
        fail_msg("no '%s' in: %s", words, output);
}

static void test_foreign_clients(void **state)
{
    (void)state;
    tls = load("ours/good");
    start_server("tls:127.0.0.1:0");
    foreign_client("-CAfile ours/ca.crt", "Verify return code: 0");
    foreign_client("-tls1_2 -cert ours/good/host.crt -key ours/good/host.key",
                   "protocol version");
    for (int i = 0; i < 5; i++)
        run_once();
    assert_int_equal(accepted, 0);
    foreign_client("-cert ours/good/host.crt -key ours/good/host.key",
                   "TLSv1.3");
    run_until(accepted == 1);
}

/* Handshakes that do not end keep nobody else out. */
static void test_handshake_cut(void **state)
{
    static const char start[] = "\x16\x03\x01\x02\0\x01";
    struct sockaddr_in sin = {.sin_family = AF_INET};
    int fds[3];

    (void)state;
    tls = load("ours/good");
    start_server("tls:127.0.0.1:0");
    sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    sin.sin_port = htons(
        (uint16_t)atoi(strrchr(wire_listener_address(listener), ':') + 1));
    for (int i = 0; i < 3; i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(
            connect(fds[i], (const struct sockaddr *)&sin, sizeof(sin)), 0);
    }
    raw_send(fds[0], start, sizeof(start) - 1);
    raw_send(fds[1], "GET / HTTP/1.1\r\n\r\n", 18);
    close(fds[2]);
    for (int i = 0; i < 5; i++)
        run_once();
    start_client(wire_listener_address(listener), tls);
    run_until(accepted == 1);
    close(fds[0]);
    close(fds[1]);
}

static void test_bad_folder(void **state)
{
    char path[128];

    (void)state;
    assert_null(wire_tls_load("/nonexistent", &err));
    assert_non_null(strstr(err.msg, "'/nonexistent/ca.crt'"));
    shell("cd %s && cp -r ours/good broken && chmod 644 broken/host.key", dir);
    snprintf(path, sizeof(path), "%s/broken", dir);
    assert_null(wire_tls_load(path, &err));
    assert_non_null(strstr(err.msg, "open to every user"));
    shell("cp %s/theirs/bad/host.key %s/", dir, path);
    shell("chmod 600 %s/host.key", path);
    assert_null(wire_tls_load(path, &err));
    assert_non_null(strstr(err.msg, "broken/host.key': "));
    shell("echo x > %s/host.crt", path);
    assert_null(wire_tls_load(path, &err));
    assert_non_null(strstr(err.msg, "broken/host.crt': "));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_unix),
        TEST(test_tls),
        TEST(test_peer),
        TEST(test_tls_name),
        TEST(test_free_in_callback),
        TEST(test_oversize),
        TEST(test_slow_reader),
        TEST(test_garbage),
        TEST(test_nobody),
        TEST(test_bad_address),
        TEST(test_stale_socket),
        TEST(test_other_user),
        TEST(test_server_of_other_ca),
        TEST(test_client_of_other_ca),
        TEST(test_other_host),
        TEST(test_no_alternative_names),
        TEST(test_foreign_clients),
        TEST(test_handshake_cut),
        TEST(test_bad_folder),
    };

    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
