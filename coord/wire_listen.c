/*
 * Listening for peers.
 *
 * A TLS peer is handed to the user when its handshake is done; until then it
 * is `pending` here, under wire.c's time-out and a limit on their number, so
 * strangers cost little. A unix peer is judged by its kernel credentials.
 *
 * The unix socket: a name that exists is tried by connecting to it. Only one
 * that refuses, left by a killed process, is replaced. Two listeners that
 * start at once are kept apart by a lock on the folder while this goes on.
 * The mode is set before the socket gets its name: at no moment may others
 * connect.
 */

#include "common/log.h"
#include "coord/wire_internal.h"

#include <errno.h>
#include <event2/listener.h>
#include <fcntl.h>
#include <libgen.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define PENDING_MAX   64 /* TLS handshakes under way */
#define BACKLOG       128
#define FULL_PAUSE_MS 200 /* when descriptors are out */

struct pending {
    LIST_ENTRY(pending) link;
    struct wire_listener *listener;
    struct wire *wire;
};

struct wire_listener {
    struct event_base *base;
    struct evconnlistener *source;
    struct event *wake; /* after FULL_PAUSE_MS */
    char *address;
    struct wire_tls *tls; /* NULL: unix */
    char *path;           /* unix: ours to remove while it is this inode */
    dev_t device;
    ino_t inode;
    wire_accept_fn *accept;
    void *context;
    LIST_HEAD(, pending) pending;
    unsigned pending_count;
};

static inline void vn_auto_addrinfo(struct addrinfo **list)
{
    if (*list)
        freeaddrinfo(*list);
}

/* ---- accepting ---------------------------------------------------------- */

static void pending_drop(struct pending *pending)
{
    LIST_REMOVE(pending, link);
    pending->listener->pending_count--;
    free(pending);
}

static void on_pending_open(void *context, struct wire *wire)
{
    struct pending *pending = context;
    struct wire_listener *listener = pending->listener;

    pending_drop(pending);
    wire_set_events(wire, NULL, NULL);
    listener->accept(listener->context, wire);
}

static void on_pending_closed(void *context, struct wire *wire,
                              const struct vn_err *why)
{
    log_debug("wire: refused: %s", why->msg);
    pending_drop(context);
    wire_free(wire);
}

static const struct wire_events pending_events = {
    .closed = on_pending_closed,
};

static void accept_tls(struct wire_listener *listener, int fd,
                       const struct sockaddr *from, socklen_t from_size)
{
    struct pending *pending;
    char host[NI_MAXHOST] = "?", port[NI_MAXSERV] = "?";
    vn_auto(free) char *address = NULL;

    if (listener->pending_count >= PENDING_MAX) {
        log_debug("wire: '%s': %u handshakes are under way, one refused",
                  listener->address, listener->pending_count);
        close(fd);
        return;
    }
    getnameinfo(from, from_size, host, sizeof(host), port, sizeof(port),
                NI_NUMERICHOST | NI_NUMERICSERV);
    address =
        vn_format(strchr(host, ':') ? "tls:[%s]:%s" : "tls:%s:%s", host, port);
    pending = vn_alloc(sizeof(*pending));
    pending->listener = listener;
    LIST_INSERT_HEAD(&listener->pending, pending, link);
    listener->pending_count++;
    pending->wire = wire_adopt(listener->base, fd, address, NULL, listener->tls,
                               on_pending_open, &pending_events, pending);
}

static void accept_unix(struct wire_listener *listener, int fd)
{
    struct ucred who = {.uid = (uid_t)-1};
    socklen_t size = sizeof(who);
    vn_auto(free) char *peer = NULL;

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) < 0 ||
        (who.uid != 0 && who.uid != geteuid())) {
        log_debug("wire: '%s': user %u refused", listener->address,
                  (unsigned)who.uid);
        close(fd);
        return;
    }
    peer = vn_format("uid %u pid %d", (unsigned)who.uid, (int)who.pid);
    listener->accept(listener->context,
                     wire_adopt(listener->base, fd, listener->address, peer,
                                NULL, NULL, NULL, NULL));
}

static void on_accept(struct evconnlistener *source, evutil_socket_t fd,
                      struct sockaddr *from, int from_size, void *arg)
{
    struct wire_listener *listener = arg;

    (void)source;
    if (listener->tls)
        accept_tls(listener, (int)fd, from, (socklen_t)from_size);
    else
        accept_unix(listener, (int)fd);
}

/* Out of descriptors: the event stays ready, so pause instead of spinning. */
static void on_accept_error(struct evconnlistener *source, void *arg)
{
    struct wire_listener *listener = arg;
    struct timeval pause = {.tv_usec = FULL_PAUSE_MS * 1000};

    log_debug("wire: '%s': accept: %s", listener->address, strerror(errno));
    evconnlistener_disable(source);
    evtimer_add(listener->wake, &pause);
}

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
    struct wire_listener *listener = arg;

    (void)fd;
    (void)what;
    evconnlistener_enable(listener->source);
}

/* ---- the socket --------------------------------------------------------- */

/* Remove what a dead listener left at this path. */
static int clear_path(const struct sockaddr_un *sun, struct vn_err *err)
{
    vn_auto(close) int fd = -1;
    struct stat st;

    if (lstat(sun->sun_path, &st) < 0)
        return errno == ENOENT
                   ? 0
                   : vn_fail(err, errno, "look at '%s'", sun->sun_path);
    if (!S_ISSOCK(st.st_mode))
        return vn_fail(err, VN_E_EXISTS, "'%s' exists and is not a socket",
                       sun->sun_path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return vn_fail(err, errno, "socket");
    if (connect(fd, (const struct sockaddr *)sun, sizeof(*sun)) == 0 ||
        errno == EAGAIN)
        return vn_fail(err, VN_E_EXISTS,
                       "another process listens there already");
    if (errno != ECONNREFUSED)
        return vn_fail(err, errno, "try the old socket");
    if (unlink(sun->sun_path) < 0)
        return vn_fail(err, errno, "remove the old socket");
    return 0;
}

static int bind_unix(struct wire_listener *listener, int fd, const char *path,
                     struct vn_err *err)
{
    struct sockaddr_un sun = {.sun_family = AF_UNIX};
    vn_auto(free) char *copy = vn_strdup(path);
    const char *folder = dirname(copy);
    vn_auto(close) int lock = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct stat st;

    strcpy(sun.sun_path, path); /* its size was checked by the parser */
    if (lock < 0)
        return vn_fail(err, errno, "open folder '%s'", folder);
    if (flock(lock, LOCK_EX) < 0)
        return vn_fail(err, errno, "lock folder '%s'", folder);
    if (clear_path(&sun, err) < 0)
        return -1;
    if (fchmod(fd, 0600) < 0 ||
        bind(fd, (const struct sockaddr *)&sun, sizeof(sun)) < 0)
        return vn_fail(err, errno, "bind");
    if (listen(fd, BACKLOG) < 0 || lstat(path, &st) < 0)
        return vn_fail(err, errno, "listen");
    listener->path = vn_strdup(path);
    listener->device = st.st_dev;
    listener->inode = st.st_ino;
    return 0;
}

/* "tls:HOST:PORT" of a bound socket. */
static char *bound_address(int fd, struct vn_err *err)
{
    struct sockaddr_storage name;
    socklen_t size = sizeof(name);
    char host[NI_MAXHOST], port[NI_MAXSERV];

    if (getsockname(fd, (struct sockaddr *)&name, &size) < 0 ||
        getnameinfo((const struct sockaddr *)&name, size, host, sizeof(host),
                    port, sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return vn_fail_ptr(err, errno ? errno : EIO, "read back the address");
    return vn_format(name.ss_family == AF_INET6 ? "tls:[%s]:%s" : "tls:%s:%s",
                     host, port);
}

static int bind_tls(struct wire_listener *listener, int *ret_fd,
                    const struct wire_address *address, struct vn_err *err)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    vn_auto(addrinfo) struct addrinfo *found = NULL;
    vn_auto(close) int fd = -1;
    char service[8], *bound;
    int on = 1, rc;

    snprintf(service, sizeof(service), "%u", address->port);
    rc = getaddrinfo(address->host, service, &hints, &found);
    if (rc != 0)
        return vn_fail(err, VN_E_NOT_FOUND, "look up '%s': %s", address->host,
                       gai_strerror(rc));
    fd =
        socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return vn_fail(err, errno, "socket");
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
        bind(fd, found->ai_addr, found->ai_addrlen) < 0)
        return vn_fail(err, errno, "bind");
    if (listen(fd, BACKLOG) < 0)
        return vn_fail(err, errno, "listen");
    bound = bound_address(fd, err);
    if (!bound)
        return -1;
    free(listener->address);
    listener->address = bound;
    *ret_fd = vn_steal_fd(&fd);
    return 0;
}

/* ---- life --------------------------------------------------------------- */

static int wire_listener_open(struct wire_listener *listener,
                              const struct wire_address *address,
                              struct vn_err *err)
{
    vn_auto(close) int fd = -1;

    if (address->kind == WIRE_TLS) {
        if (!listener->tls)
            return vn_fail(err, VN_E_STATE,
                           "no folder with certificates was given");
        if (bind_tls(listener, &fd, address, err) < 0)
            return -1;
    } else {
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (fd < 0)
            return vn_fail(err, errno, "socket");
        if (bind_unix(listener, fd, address->path, err) < 0)
            return -1;
    }
    listener->source = evconnlistener_new(
        listener->base, on_accept, listener,
        LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 0, fd);
    if (!listener->source)
        return vn_fail(err, ENOMEM, "listener");
    fd = -1; /* the source's now */
    evconnlistener_set_error_cb(listener->source, on_accept_error);
    return 0;
}

struct wire_listener *wire_listen(struct event_base *base, const char *address,
                                  struct wire_tls *tls, wire_accept_fn *accept,
                                  void *context, struct vn_err *err)
{
    struct wire_listener *listener;
    struct wire_address parsed;

    if (wire_address_parse(address, &parsed, err) < 0)
        return NULL;
    wire_ignore_sigpipe();
    listener = vn_alloc(sizeof(*listener));
    LIST_INIT(&listener->pending);
    listener->base = base;
    listener->address = vn_strdup(address);
    listener->tls = parsed.kind == WIRE_TLS ? tls : NULL;
    listener->accept = accept;
    listener->context = context;
    listener->wake = evtimer_new(base, on_wake, listener);
    if (!listener->wake)
        abort();
    if (wire_listener_open(listener, &parsed, err) < 0) {
        vn_wrap(err, "listen on '%s'", address);
        wire_listener_free(listener);
        return NULL;
    }
    return listener;
}

const char *wire_listener_address(const struct wire_listener *listener)
{
    return listener->address;
}

/* Another listener may have taken our path meanwhile: leave that alone. */
static void remove_path(const struct wire_listener *listener)
{
    struct stat st;

    if (listener->path && lstat(listener->path, &st) == 0 &&
        st.st_dev == listener->device && st.st_ino == listener->inode)
        unlink(listener->path);
}

void wire_listener_free(struct wire_listener *listener)
{
    struct pending *pending;

    if (!listener)
        return;
    while ((pending = LIST_FIRST(&listener->pending))) {
        struct wire *wire = pending->wire;

        pending_drop(pending);
        wire_free(wire);
    }
    remove_path(listener);
    if (listener->source)
        evconnlistener_free(listener->source);
    event_free(listener->wake);
    free(listener->path);
    free(listener->address);
    free(listener);
}
