/* Control sockets: packets, descriptors, long objects, hostile peers. */
#include "common/ctl.h"

#include "common/io.h"
#include "common/jsonx.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static struct {
    int pair[2];
    int fds_before;
    struct ctl_packet packet;
    json_t *json;
    char dir[32];
    char *path;
} t;
static struct vn_err err;

static int count_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int count = 0;

    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

static int setup(void **state)
{
    (void)state;
    memset(&t, 0, sizeof(t));
    err = (struct vn_err){0};
    t.fds_before = count_fds();
    strcpy(t.dir, "/tmp/vn-ctl-XXXXXX");
    if (!mkdtemp(t.dir))
        return -1;
    t.path = vn_format("%s/sock", t.dir);
    return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, t.pair);
}

static int teardown(void **state)
{
    (void)state;
    ctl_packet_done(&t.packet);
    json_decref(t.json);
    for (int i = 0; i < 2; i++) {
        if (t.pair[i] >= 0)
            close(t.pair[i]);
    }
    unlink(t.path);
    rmdir(t.dir);
    free(t.path);
    return count_fds() == t.fds_before ? 0 : -1; /* nothing leaked */
}

static void test_packets_and_descriptors(void **state)
{
    int pipe_fds[2];
    char byte = 0;
    const char *text;
    int fd;

    (void)state;
    t.json = ctl_request(7, "hello", json_pack("{s:s}", "who", "world"));
    assert_int_equal(pipe(pipe_fds), 0);
    assert_int_equal(ctl_send(t.pair[0], t.json, &pipe_fds[1], 1, &err), 0);
    close(pipe_fds[1]);
    assert_int_equal(ctl_recv(t.pair[1], &t.packet, &err), 1);
    assert_true(json_equal(t.packet.json, t.json));
    assert_int_equal(t.packet.fd_count, 1);
    assert_int_equal(ctl_packet_take_fd(&t.packet, 1), -1);
    fd = ctl_packet_take_fd(&t.packet, 0);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    assert_int_equal(write(fd, "x", 1), 1);
    assert_int_equal(read(pipe_fds[0], &byte, 1), 1);
    assert_int_equal(byte, 'x');
    close(fd);
    close(pipe_fds[0]);
    assert_int_equal(jsonx_string(t.packet.json, "call", &text, &err), 0);
    assert_string_equal(text, "hello");
}

static json_t *long_object(size_t bytes)
{
    char *text = malloc(bytes + 1);
    json_t *json;

    memset(text, 'a', bytes);
    text[bytes] = 0;
    json = json_pack("{s:o}", "text", json_string(text));
    free(text);
    return json;
}

static void test_long_objects_travel_in_a_memfd(void **state)
{
    (void)state;
    for (size_t bytes = CTL_PACKET_MAX - 12; bytes < CTL_PACKET_MAX + 4;
         bytes++) {
        int extra = bytes % 2 ? t.pair[0] : -1;

        t.json = long_object(bytes);
        assert_int_equal(ctl_send(t.pair[0], t.json, &extra, bytes % 2, &err),
                         0);
        assert_int_equal(ctl_recv(t.pair[1], &t.packet, &err), 1);
        assert_int_equal(t.packet.fd_count, bytes % 2);
        assert_true(json_equal(t.packet.json, t.json));
        ctl_packet_done(&t.packet);
        json_decref(t.json);
        t.json = NULL;
    }
    t.json = long_object(CTL_OBJECT_MAX);
    assert_int_equal(ctl_send(t.pair[0], t.json, NULL, 0, &err), -1);
    assert_int_equal(err.code, VN_E_LIMIT);
}

static void refuse(const void *data, size_t size, int code)
{
    assert_int_equal(send(t.pair[0], data, size, 0), (ssize_t)size);
    assert_int_equal(ctl_recv(t.pair[1], &t.packet, &err), -1);
    assert_int_equal(err.code, code);
    assert_null(t.packet.json);
}

static void test_hostile_packets(void **state)
{
    static char big[CTL_PACKET_MAX + 1];

    (void)state;
    refuse("{", 1, VN_E_FORMAT);
    refuse("[]", 2, VN_E_FORMAT);
    refuse("null", 4, VN_E_FORMAT);
    refuse("{\"a\":1,\"a\":2}", 13, VN_E_FORMAT);
    refuse("{}\0{}", 5, VN_E_FORMAT);
    refuse("\xff\xfe", 2, VN_E_FORMAT);
    refuse("{\"memfd\":5}", 11, VN_E_FORMAT); /* and there is none */
    refuse("{\"memfd\":-1}", 12, VN_E_FORMAT);
    memset(big, ' ', sizeof(big));
    refuse(big, sizeof(big), VN_E_LIMIT);
    memset(big, '[', CTL_PACKET_MAX); /* deep nesting */
    refuse(big, CTL_PACKET_MAX, VN_E_FORMAT);
}

static void send_with_fds(const char *text, const int *fds, size_t count)
{
    struct iovec iov = {(void *)(uintptr_t)text, strlen(text)};
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * 64)];
    } control = {0};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.bytes,
                         .msg_controllen = CMSG_SPACE(sizeof(int) * count)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * count);
    memcpy(CMSG_DATA(c), fds, sizeof(int) * count);
    assert_true(sendmsg(t.pair[0], &msg, 0) > 0);
}

static void test_hostile_descriptors(void **state)
{
    int fds[64], memfd;

    (void)state;
    for (int i = 0; i < 64; i++)
        fds[i] = t.pair[0];
    send_with_fds("{}", fds, 64); /* more than a packet may have */
    assert_int_equal(ctl_recv(t.pair[1], &t.packet, &err), -1);
    assert_int_equal(err.code, VN_E_LIMIT);
    send_with_fds("{", fds, 4); /* refused: they are closed all the same */
    assert_int_equal(ctl_recv(t.pair[1], &t.packet, &err), -1);
    send_with_fds("{\"memfd\":2}", fds, 1); /* a socket is no file */
    assert_int_equal(ctl_recv(t.pair[1], &t.packet, &err), -1);
    assert_int_equal(err.code, VN_E_FORMAT);
    memfd = ctl_memfd("x", "{}", 2, &err);
    assert_true(memfd >= 0);
    send_with_fds("{\"memfd\":3}", &memfd, 1); /* says a wrong size */
    assert_int_equal(ctl_recv(t.pair[1], &t.packet, &err), -1);
    send_with_fds("{\"memfd\":2}", &memfd, 1);
    assert_int_equal(ctl_recv(t.pair[1], &t.packet, &err), 1);
    assert_int_equal(t.packet.fd_count, 0);
    close(memfd);
    assert_int_equal(count_fds(), t.fds_before + 2); /* the pair */
}

static void test_ends(void **state)
{
    (void)state;
    fcntl(t.pair[1], F_SETFL, O_NONBLOCK);
    assert_int_equal(ctl_recv(t.pair[1], &t.packet, &err), -1);
    assert_int_equal(err.code, EAGAIN);
    close(t.pair[0]);
    t.pair[0] = -1;
    assert_int_equal(ctl_recv(t.pair[1], &t.packet, &err), 0);
    t.json = json_object();
    assert_int_equal(ctl_send(t.pair[1], t.json, NULL, 0, &err), -1);
    assert_int_equal(err.code, VN_E_PEER);
}

static void test_replies(void **state)
{
    struct vn_err failure = {0};
    vn_auto(json) json_t *reply = NULL;
    json_t *ok;

    (void)state;
    t.json = ctl_reply_ok(3, json_pack("{s:i}", "n", 5));
    assert_int_equal(ctl_reply_read(t.json, &ok, &err), 0);
    assert_int_equal(json_integer_value(json_object_get(ok, "n")), 5);
    (void)vn_fail(&failure, ENOENT, "open 'x'");
    reply = ctl_reply_error(3, &failure);
    assert_int_equal(ctl_reply_read(reply, &ok, &err), -1);
    assert_int_equal(err.code, ENOENT);
    assert_string_equal(err.msg, failure.msg);
    json_object_set_new(reply, "error", json_integer(5));
    assert_int_equal(ctl_reply_read(reply, &ok, &err), -1);
    assert_int_equal(err.code, VN_E_FORMAT);
    failure = (struct vn_err){.code = VN_E_CORRUPT, .msg = "bad \xff byte"};
    json_decref(reply);
    reply = ctl_reply_error(3, &failure);
    assert_int_equal(ctl_reply_read(reply, &ok, &err), -1);
    assert_int_equal(err.code, VN_E_CORRUPT);
}

static void test_listen_and_connect(void **state)
{
    vn_auto(close) int listener = -1;
    vn_auto(close) int client = -1;
    vn_auto(close) int server = -1;
    char long_path[200];
    struct stat st;

    (void)state;
    assert_int_equal(ctl_connect(t.path, &err), -1);
    assert_int_equal(err.code, ENOENT);
    listener = ctl_listen(t.path, &err);
    assert_true(listener >= 0);
    assert_int_equal(stat(t.path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(ctl_listen(t.path, &err), -1);
    assert_int_equal(err.code, EADDRINUSE);
    close(ctl_accept(listener, &err)); /* that probe */
    assert_int_equal(ctl_accept(listener, &err), -1);
    assert_int_equal(err.code, EAGAIN);
    client = ctl_connect(t.path, &err);
    server = ctl_accept(listener, &err);
    assert_true(client >= 0 && server >= 0);
    t.json = json_pack("{s:b}", "x", 1);
    assert_int_equal(ctl_send(client, t.json, NULL, 0, &err), 0);
    assert_int_equal(ctl_recv(server, &t.packet, &err), 1);
    close(listener); /* its file stays: stale, to be replaced */
    listener = ctl_listen(t.path, &err);
    assert_true(listener >= 0);
    memset(long_path, 'a', sizeof(long_path) - 1);
    long_path[sizeof(long_path) - 1] = 0;
    assert_int_equal(ctl_connect(long_path, &err), -1);
    assert_int_equal(err.code, VN_E_LIMIT);
}

static void test_memfd_is_sealed(void **state)
{
    vn_auto(close) int fd = ctl_memfd("test", "hello", 5, &err);
    vn_auto(free) void *data = NULL;
    size_t size;

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, 0), -1);
    assert_int_equal(write(fd, "x", 1), -1);
    assert_int_equal(ctl_read_fd(fd, 4, &data, &size, &err), -1);
    assert_int_equal(err.code, VN_E_LIMIT);
    assert_int_equal(ctl_read_fd(fd, 5, &data, &size, &err), 0);
    assert_int_equal(size, 5);
    assert_memory_equal(data, "hello", 5);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_packets_and_descriptors),
        TEST(test_long_objects_travel_in_a_memfd),
        TEST(test_hostile_packets),
        TEST(test_hostile_descriptors),
        TEST(test_ends),
        TEST(test_replies),
        TEST(test_listen_and_connect),
        TEST(test_memfd_is_sealed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
