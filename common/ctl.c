/*
 * Control sockets.
 *
 * How it works: SOCK_SEQPACKET keeps packet bounds, so there is no framing to
 * attack; a packet longer than the buffer is cut by the kernel, which says so
 * (MSG_TRUNC), and is refused. Descriptors are received close-on-exec and
 * owned by the packet from the first moment, so that every refusal closes them.
 *
 * A long object: the packet is {"memfd":SIZE} and the last descriptor a memfd
 * with the text. The reader copies it with pread(), which a sender that
 * shrinks the file can only make short, not crash.
 *
 * Limits: 128 KiB a packet stays below the kernel's default socket buffer
 * (212,992 bytes), which bounds what one packet may be. Concurrency: none;
 * two threads may send on one descriptor, packets do not mix.
 */
#include "common/ctl.h"

#include "common/io.h"
#include "common/jsonx.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define SOCKET_BUFFER (1 << 20)

static int make_address(const char *path, struct sockaddr_un *ret,
                        struct vn_err *err)
{
    size_t size = strlen(path) + 1;

    *ret = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (size > sizeof(ret->sun_path))
        return vn_fail(err, VN_E_LIMIT, "socket path '%s' is too long", path);
    memcpy(ret->sun_path, path, size);
    return 0;
}

/* Whether somebody listens at the address. */
static bool is_alive(const struct sockaddr_un *address)
{
    vn_auto(close) int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

    return fd >= 0 &&
           connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0;
}

int ctl_listen(const char *path, struct vn_err *err)
{
    vn_auto(close) int fd = -1;
    struct sockaddr_un address;
    struct stat st;
    mode_t mask;
    int bound;

    if (make_address(path, &address, err))
        return -1;
    fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return vn_fail(err, errno, "control socket '%s'", path);
    if (lstat(path, &st) == 0 && S_ISSOCK(st.st_mode)) {
        if (is_alive(&address))
            return vn_fail(err, EADDRINUSE, "control socket '%s'", path);
        unlink(path);
    }
    mask = umask(0177);
    bound = bind(fd, (struct sockaddr *)&address, sizeof(address));
    umask(mask);
    if (bound || listen(fd, 16))
        return vn_fail(err, errno, "listen at '%s'", path);
    return vn_steal_fd(&fd);
}

static void raise_buffers(int fd)
{
    int size = SOCKET_BUFFER;

    /* Best effort: the default is enough for one packet. */
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
}

int ctl_accept(int listener, struct vn_err *err)
{
    vn_auto(close) int fd = -1;
    struct ucred peer;
    socklen_t size = sizeof(peer);

    fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return vn_fail(err, errno, "accept a control connection");
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size))
        return vn_fail(err, errno, "ask who connects");
    if (peer.uid != 0 && peer.uid != geteuid())
        return vn_fail(err, EPERM, "control connection of uid %u",
                       (unsigned)peer.uid);
    raise_buffers(fd);
    return vn_steal_fd(&fd);
}

int ctl_connect(const char *path, struct vn_err *err)
{
    vn_auto(close) int fd = -1;
    struct sockaddr_un address;

    if (make_address(path, &address, err))
        return -1;
    fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return vn_fail(err, errno, "control socket '%s'", path);
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)))
        return vn_fail(err, errno, "connect to '%s'", path);
    raise_buffers(fd);
    return vn_steal_fd(&fd);
}

/* ---- packets ----------------------------------------------------------- */

static int send_text(int fd, const char *text, size_t size, const int *fds,
                     unsigned fd_count, struct vn_err *err)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * CTL_FDS_MAX)];
    } control = {0};
    struct iovec iov = {(void *)(uintptr_t)text, size};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t sent;

    assert(fd_count <= CTL_FDS_MAX);
    if (fd_count) {
        struct cmsghdr *c;

        msg.msg_control = control.bytes;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
        c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * fd_count);
    }
    do {
        sent = sendmsg(fd, &msg, MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    if (sent < 0 && (errno == EPIPE || errno == ECONNRESET))
        return vn_fail(err, VN_E_PEER, "the control connection is closed");
    if (sent < 0)
        return vn_fail(err, errno, "send a control packet");
    return 0;
}

int ctl_send(int fd, const json_t *json, const int *fds, unsigned fd_count,
             struct vn_err *err)
{
    vn_auto(free) char *text = jsonx_text(json);
    vn_auto(free) char *outer = NULL;
    vn_auto(close) int memfd = -1;
    size_t size = strlen(text);
    int all[CTL_FDS_MAX];

    if (size <= CTL_PACKET_MAX)
        return send_text(fd, text, size, fds, fd_count, err);
    if (size > CTL_OBJECT_MAX)
        return vn_fail(err, VN_E_LIMIT, "control object of %zu bytes", size);
    assert(fd_count < CTL_FDS_MAX);
    memfd = ctl_memfd("control", text, size, err);
    if (memfd < 0)
        return -1;
    if (fd_count)
        memcpy(all, fds, sizeof(int) * fd_count);
    all[fd_count] = memfd;
    outer = vn_format("{\"memfd\":%zu}", size);
    return send_text(fd, outer, strlen(outer), all, fd_count + 1, err);
}

static void take_fds(struct msghdr *msg, struct ctl_packet *packet)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t i = 0; i < count; i++) {
            int fd;

            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
            if (packet->fd_count < CTL_FDS_MAX)
                packet->fds[packet->fd_count++] = fd;
            else
                close(fd);
        }
    }
}

/* Where the packet only points to a memfd: read that one in its place. */
static int expand(struct ctl_packet *packet, struct vn_err *err)
{
    vn_auto(free) void *text = NULL;
    vn_auto(close) int fd = -1;
    uint64_t named;
    size_t size;

    if (!json_object_get(packet->json, "memfd"))
        return 0;
    if (jsonx_u64(packet->json, "memfd", &named, err))
        return -1;
    if (packet->fd_count == 0)
        return vn_fail(err, VN_E_FORMAT, "control packet without its memfd");
    fd = packet->fds[--packet->fd_count];
    if (ctl_read_fd(fd, CTL_OBJECT_MAX, &text, &size, err))
        return -1;
    if (size != named)
        return vn_fail(err, VN_E_FORMAT, "control memfd of the wrong size");
    json_decref(packet->json);
    packet->json = jsonx_parse(text, size, "control object", err);
    return packet->json ? 0 : -1;
}

int ctl_recv(int fd, struct ctl_packet *ret, struct vn_err *err)
{
    vn_auto(free) char *text = vn_alloc(CTL_PACKET_MAX);
    vn_auto(ctl_packet) struct ctl_packet packet = {0};
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * CTL_FDS_MAX)];
    } control;
    struct iovec iov = {text, CTL_PACKET_MAX};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.bytes,
                         .msg_controllen = sizeof(control.bytes)};
    ssize_t got;

    do {
        got = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
    } while (got < 0 && errno == EINTR);
    if (got < 0 && errno == ECONNRESET)
        return 0;
    if (got < 0)
        return vn_fail(err, errno, "receive a control packet");
    take_fds(&msg, &packet);
    if (got == 0 && packet.fd_count == 0)
        return 0;
    if (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
        return vn_fail(err, VN_E_LIMIT, "control packet is too long");
    packet.json = jsonx_parse(text, (size_t)got, "control packet", err);
    if (!packet.json || expand(&packet, err))
        return -1;
    if (!json_is_object(packet.json))
        return vn_fail(err, VN_E_FORMAT, "control packet is not an object");
    *ret = packet;
    packet = (struct ctl_packet){0};
    return 1;
}

void ctl_packet_done(struct ctl_packet *packet)
{
    json_decref(packet->json);
    for (unsigned i = 0; i < packet->fd_count; i++) {
        if (packet->fds[i] >= 0)
            close(packet->fds[i]);
    }
    *packet = (struct ctl_packet){0};
}

int ctl_packet_take_fd(struct ctl_packet *packet, unsigned index)
{
    return index < packet->fd_count ? vn_steal_fd(&packet->fds[index]) : -1;
}

/* ---- objects ----------------------------------------------------------- */

json_t *ctl_request(uint64_t id, const char *call, json_t *args)
{
    return json_pack("{s:o, s:s, s:o}", "id", jsonx_int(id), "call", call,
                     "args", args ? args : json_object());
}

json_t *ctl_reply_ok(uint64_t id, json_t *ok)
{
    return json_pack("{s:o, s:o}", "id", jsonx_int(id), "ok",
                     ok ? ok : json_object());
}

json_t *ctl_reply_error(uint64_t id, const struct vn_err *failure)
{
    json_t *message = json_string(failure->msg);

    /* A message may quote bytes that are no UTF-8. */
    if (!message)
        message = json_string(vn_err_name(failure->code));
    return json_pack("{s:o, s:{s:i, s:o}}", "id", jsonx_int(id), "error",
                     "code", failure->code, "message", message);
}

int ctl_reply_read(const json_t *reply, json_t **ret_ok, struct vn_err *err)
{
    const char *message;
    uint32_t code;
    json_t *error;

    if (!json_object_get(reply, "error"))
        return jsonx_object(reply, "ok", ret_ok, err);
    if (jsonx_object(reply, "error", &error, err) ||
        jsonx_u32(error, "code", INT32_MAX, &code, err) ||
        jsonx_string(error, "message", &message, err))
        return -1;
    vn_fail(err, VN_E_PEER, "%s", message);
    if (code != 0)
        err->code = (int)code; /* its message already tells errno's text */
    return -1;
}

/* ---- files that travel ------------------------------------------------- */

int ctl_memfd(const char *name, const void *data, size_t size,
              struct vn_err *err)
{
    vn_auto(close) int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd < 0)
        return vn_fail(err, errno, "make a memfd for %s", name);
    if (io_write(fd, data, size, err))
        return vn_wrap(err, "memfd for %s", name);
    if (lseek(fd, 0, SEEK_SET) < 0 ||
        fcntl(fd, F_ADD_SEALS,
              F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE))
        return vn_fail(err, errno, "seal the memfd for %s", name);
    return vn_steal_fd(&fd);
}

int ctl_read_fd(int fd, size_t max, void **ret, size_t *ret_size,
                struct vn_err *err)
{
    vn_auto(free) char *data = NULL;
    struct stat st;
    size_t size;

    if (fstat(fd, &st))
        return vn_fail(err, errno, "look at the file passed");
    if (!S_ISREG(st.st_mode))
        return vn_fail(err, VN_E_FORMAT, "the file passed is not a file");
    if (st.st_size < 0 || (uint64_t)st.st_size > max)
        return vn_fail(err, VN_E_LIMIT, "the file passed has %jd bytes",
                       (intmax_t)st.st_size);
    size = (size_t)st.st_size;
    data = malloc(size + 1);
    if (!data)
        return vn_fail(err, ENOMEM, "memory for %zu bytes passed", size);
    if (io_pread(fd, data, size, 0, err))
        return vn_wrap(err, "the file passed");
    data[size] = 0;
    *ret = vn_steal(&data);
    *ret_size = size;
    return 0;
}
