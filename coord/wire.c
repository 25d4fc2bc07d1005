/*
 * Connections between the coordinator and agents.
 *
 * Life of a wire: connecting (a plain socket and an event for its outcome;
 * several addresses of a name are tried in turn) -> handshake (TLS only, a
 * bufferevent) -> open -> failed. What is sent before `open` waits in our own
 * buffer, not in the bufferevent's: so not a byte goes to a peer whose
 * certificate was not looked at.
 *
 * The end is always told from the event loop, by the `failing` event, never
 * from inside a call of the user: wire_send() and wire_connect() have no
 * re-entrant surprises. The first reason wins. Callbacks may free the wire;
 * `busy` delays the real end until the last of our frames has returned.
 *
 * Limits: WIRE_MESSAGE_MAX a message, in both directions; WIRE_QUEUE_MAX
 * bytes unsent (a peer that does not read is closed with VN_E_LIMIT); what is
 * received is parsed at once and never queued. An idle or dead peer is found
 * by TCP keepalive; whether a silent one is still wanted is the lease's
 * business (coord/cut.h), not ours.
 *
 * Not done: half-closed connections (the peer's end of writing is the end),
 * TLS shutdown alerts (a truncated message is seen by its length).
 */

#include "coord/wire.h"

#include "common/jsonx.h"
#include "common/log.h"
#include "coord/frame.h"
#include "coord/wire_internal.h"

#include <assert.h>
#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent_ssl.h>
#include <event2/dns.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct wire {
    struct event_base *base;
    struct wire_tls *tls; /* borrowed; NULL: unix */
    char *address;
    char *peer; /* NULL until it is known */
    char *host; /* whom we connect to by TLS; NULL: we accepted */
    bool client;

    /* Connecting. */
    struct evdns_base *dns;
    struct evdns_getaddrinfo_request *lookup;
    struct evutil_addrinfo *addresses, *next_address;
    struct event *connecting; /* owns its fd */
    struct event *timeout;    /* until open */

    /* Connected. */
    struct bufferevent *bev;
    struct evbuffer *unsent; /* until open */
    struct frame_reader reader;
    bool open;

    const struct wire_events *events;
    void *context;
    void (*opened)(void *context, struct wire *wire);

    struct event *failing;
    struct vn_err why;
    bool failed;    /* `why` says it; closed() will be or was called */
    unsigned busy;  /* callbacks of ours on the stack */
    bool abandoned; /* wire_free() was called meanwhile */
};

static void wire_fail(struct wire *wire, const struct vn_err *why);
static void wire_connect_next(struct wire *wire);

/* ---- life --------------------------------------------------------------- */

static void drop_connecting(struct wire *wire)
{
    if (!wire->connecting)
        return;
    close((int)event_get_fd(wire->connecting));
    event_free(wire->connecting);
    wire->connecting = NULL;
}

/* Give back all that belongs to the connection itself. */
static void wire_disconnect(struct wire *wire)
{
    drop_connecting(wire);
    if (wire->lookup)
        evdns_getaddrinfo_cancel(wire->lookup);
    wire->lookup = NULL;
    if (wire->bev)
        bufferevent_free(wire->bev);
    wire->bev = NULL;
    event_del(wire->timeout);
    evbuffer_drain(wire->unsent, evbuffer_get_length(wire->unsent));
}

static void wire_destroy(struct wire *wire)
{
    wire_disconnect(wire);
    if (wire->dns)
        evdns_base_free(wire->dns, 0);
    if (wire->addresses)
        evutil_freeaddrinfo(wire->addresses);
    event_free(wire->timeout);
    event_free(wire->failing);
    evbuffer_free(wire->unsent);
    frame_reader_done(&wire->reader);
    free(wire->address);
    free(wire->peer);
    free(wire->host);
    free(wire);
}

void wire_free(struct wire *wire)
{
    if (!wire)
        return;
    wire->failed = true;
    wire->abandoned = true;
    event_del(wire->failing);
    if (!wire->busy)
        wire_destroy(wire);
}

static void wire_enter(struct wire *wire)
{
    wire->busy++;
}

static void wire_leave(struct wire *wire)
{
    wire->busy--;
    if (wire->abandoned && !wire->busy)
        wire_destroy(wire);
}

static void on_failing(evutil_socket_t fd, short what, void *arg)
{
    struct wire *wire = arg;

    (void)fd;
    (void)what;
    wire_enter(wire);
    wire_disconnect(wire);
    log_debug("wire: %s", wire->why.msg);
    if (wire->events && wire->events->closed)
        wire->events->closed(wire->context, wire, &wire->why);
    wire_leave(wire);
}

/* The connection is over; closed() follows from the loop. */
static void wire_fail(struct wire *wire, const struct vn_err *why)
{
    if (wire->failed)
        return;
    wire->failed = true;
    wire->why = *why;
    vn_wrap(&wire->why, "%s '%s'", wire->client ? "agent" : "peer",
            wire->address);
    if (wire->bev)
        bufferevent_disable(wire->bev, EV_READ | EV_WRITE);
    event_active(wire->failing, EV_TIMEOUT, 0);
}

static void on_timeout(evutil_socket_t fd, short what, void *arg)
{
    struct wire *wire = arg;
    struct vn_err err = VN_ERR_INIT;

    (void)fd;
    (void)what;
    vn_fail(&err, VN_E_TIMEOUT, "%s: no answer within %d s",
            wire->bev          ? "TLS handshake"
            : wire->connecting ? "connect"
                               : "look up the name",
            WIRE_CONNECT_TIMEOUT_S);
    wire_fail(wire, &err);
}

void wire_ignore_sigpipe(void)
{
    struct sigaction old;

    if (sigaction(SIGPIPE, NULL, &old) == 0 && old.sa_handler == SIG_DFL)
        signal(SIGPIPE, SIG_IGN);
}

static struct wire *wire_new(struct event_base *base, const char *address,
                             struct wire_tls *tls,
                             const struct wire_events *events, void *context)
{
    struct timeval patience = {.tv_sec = WIRE_CONNECT_TIMEOUT_S};
    struct wire *wire = vn_alloc(sizeof(*wire));

    wire_ignore_sigpipe();
    wire->base = base;
    wire->tls = tls;
    wire->address = vn_strdup(address);
    wire->events = events;
    wire->context = context;
    wire->unsent = evbuffer_new();
    wire->timeout = evtimer_new(base, on_timeout, wire);
    wire->failing = evtimer_new(base, on_failing, wire);
    if (!wire->unsent || !wire->timeout || !wire->failing ||
        evtimer_add(wire->timeout, &patience) < 0)
        abort();
    frame_reader_init(&wire->reader, WIRE_MESSAGE_MAX);
    return wire;
}

/* ---- receiving ---------------------------------------------------------- */

static void wire_dispatch(struct wire *wire)
{
    struct vn_err err = VN_ERR_INIT;
    vn_auto(json) json_t *message =
        jsonx_parse((const char *)wire->reader.body.data,
                    wire->reader.body.size, "message", &err);

    if (message && !json_is_object(message))
        vn_fail(&err, VN_E_FORMAT, "a message is not a JSON object");
    if (err.code)
        wire_fail(wire, &err);
    else if (wire->events && wire->events->message)
        wire->events->message(wire->context, wire, message);
}

static void on_readable(struct bufferevent *bev, void *arg)
{
    struct wire *wire = arg;
    struct evbuffer *input = bufferevent_get_input(bev);
    struct vn_err err = VN_ERR_INIT;
    struct evbuffer_iovec piece;

    wire_enter(wire);
    /* A failed wire's bufferevent lives until `failing` runs. */
    while (wire->open && !wire->failed &&
           evbuffer_peek(input, -1, NULL, &piece, 1) > 0) {
        struct cursor bytes = cursor_of(piece.iov_base, piece.iov_len);
        bool whole = false;

        if (frame_reader_feed(&wire->reader, &bytes, &whole, &err) < 0) {
            wire_fail(wire, &err);
            break;
        }
        evbuffer_drain(input, bytes.offset);
        if (whole)
            wire_dispatch(wire);
    }
    wire_leave(wire);
}

/* ---- opening ------------------------------------------------------------ */

/* The peer is who it should be: let messages flow. */
static void wire_open(struct wire *wire)
{
    event_del(wire->timeout);
    wire->open = true;
    log_debug("wire: '%s' is open, peer %s", wire->address, wire->peer);
    if (bufferevent_write_buffer(wire->bev, wire->unsent) < 0 ||
        bufferevent_enable(wire->bev, EV_READ | EV_WRITE) < 0)
        abort();
    if (wire->opened)
        wire->opened(wire->context, wire);
}

static void wire_handshake_done(struct wire *wire)
{
    struct vn_err err = VN_ERR_INIT;

    wire->peer = wire_tls_identify(bufferevent_openssl_get_ssl(wire->bev),
                                   wire->host, &err);
    if (!wire->peer)
        wire_fail(wire, &err);
    else
        wire_open(wire);
}

/* Why it ended, by what libevent reported. */
static void ended(const struct wire *wire, short what, struct vn_err *err)
{
    if (what & BEV_EVENT_EOF) {
        if (!wire->open)
            vn_fail(err, VN_E_PEER, "closed by the peer in the TLS handshake");
        else if (frame_reader_at_start(&wire->reader))
            vn_fail(err, VN_E_PEER, "closed by the peer");
        else
            vn_fail(err, VN_E_PEER,
                    "closed by the peer in the middle of a message (%zu of "
                    "%u bytes came)",
                    wire->reader.body.size, wire->reader.body_size);
    } else if (wire->tls) {
        wire_tls_fail(wire->bev, err);
    } else {
        vn_fail(err, errno ? errno : EIO, "connection");
    }
}

static void on_event(struct bufferevent *bev, short what, void *arg)
{
    struct wire *wire = arg;
    struct vn_err err = VN_ERR_INIT;

    (void)bev;
    wire_enter(wire);
    if ((what & BEV_EVENT_CONNECTED) && !wire->open && !wire->failed)
        wire_handshake_done(wire);
    if ((what & (BEV_EVENT_EOF | BEV_EVENT_ERROR)) && !wire->failed) {
        ended(wire, what, &err);
        wire_fail(wire, &err);
    }
    wire_leave(wire);
}

static void tune_tcp(int fd)
{
    int on = 1, idle_s = 10, interval_s = 5, count = 4;

    /* Comfort, not correctness: nothing to do where one is refused. */
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
}

/* Take a connected socket. */
static void wire_take_socket(struct wire *wire, int fd)
{
    const int options = BEV_OPT_CLOSE_ON_FREE | BEV_OPT_DEFER_CALLBACKS;

    if (wire->tls) {
        tune_tcp(fd);
        wire->bev = bufferevent_openssl_socket_new(
            wire->base, fd, wire_tls_session(wire->tls),
            wire->client ? BUFFEREVENT_SSL_CONNECTING
                         : BUFFEREVENT_SSL_ACCEPTING,
            options);
        if (wire->bev)
            bufferevent_openssl_set_allow_dirty_shutdown(wire->bev, 1);
    } else {
        wire->bev = bufferevent_socket_new(wire->base, fd, options);
    }
    if (!wire->bev)
        abort();
    bufferevent_setcb(wire->bev, on_readable, NULL, on_event, wire);
    if (!wire->tls)
        wire_open(wire);
}

struct wire *wire_adopt(struct event_base *base, int fd, const char *address,
                        const char *peer, struct wire_tls *tls,
                        void (*opened)(void *context, struct wire *wire),
                        const struct wire_events *events, void *context)
{
    struct wire *wire = wire_new(base, address, tls, events, context);

    if (tls)
        wire->opened = opened;
    else
        wire->peer = vn_strdup(peer);
    wire_take_socket(wire, fd);
    return wire;
}

/* ---- connecting --------------------------------------------------------- */

static void wire_connected(struct wire *wire, int error)
{
    struct vn_err err = VN_ERR_INIT;
    int fd = (int)event_get_fd(wire->connecting);

    if (error) {
        drop_connecting(wire);
        if (wire->next_address) {
            wire_connect_next(wire);
            return;
        }
        vn_fail(&err, error, "connect");
        wire_fail(wire, &err);
        return;
    }
    event_free(wire->connecting);
    wire->connecting = NULL;
    wire_take_socket(wire, fd);
}

static void on_connected(evutil_socket_t fd, short what, void *arg)
{
    struct wire *wire = arg;
    socklen_t size = sizeof(int);
    int error = 0;

    (void)what;
    if (getsockopt((int)fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
        error = errno;
    wire_enter(wire);
    if (!wire->failed)
        wire_connected(wire, error);
    wire_leave(wire);
}

/* Start to connect; the outcome arrives in on_connected(). */
static void wire_connect_to(struct wire *wire, const struct sockaddr *to,
                            socklen_t size)
{
    struct vn_err err = VN_ERR_INIT;
    int fd =
        socket(to->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0) {
        vn_fail(&err, errno, "socket");
        wire_fail(wire, &err);
        return;
    }
    wire->connecting = event_new(wire->base, fd, EV_WRITE, on_connected, wire);
    if (!wire->connecting)
        abort();
    if (connect(fd, to, size) == 0)
        event_active(wire->connecting, EV_WRITE, 0);
    else if (errno != EINPROGRESS)
        wire_connected(wire, errno);
    else if (event_add(wire->connecting, NULL) < 0)
        abort();
}

static void wire_connect_next(struct wire *wire)
{
    struct evutil_addrinfo *address = wire->next_address;

    wire->next_address = address->ai_next;
    wire_connect_to(wire, address->ai_addr, address->ai_addrlen);
}

static void on_looked_up(int result, struct evutil_addrinfo *found, void *arg)
{
    struct wire *wire = arg;
    struct vn_err err = VN_ERR_INIT;

    if (result == EVUTIL_EAI_CANCEL)
        return; /* by wire_disconnect(); the wire may be gone */
    wire->lookup = NULL;
    wire->addresses = wire->next_address = found;
    if (result == 0 && found) {
        wire_connect_next(wire);
        return;
    }
    vn_fail(&err, VN_E_NOT_FOUND, "look up '%s': %s", wire->host,
            result ? evutil_gai_strerror(result) : "no address");
    wire_fail(wire, &err);
}

/* Numeric addresses are known at once; names are asked for in the loop. */
static void wire_look_up(struct wire *wire, uint16_t port)
{
    struct evutil_addrinfo hints = {.ai_family = AF_UNSPEC,
                                    .ai_socktype = SOCK_STREAM,
                                    .ai_protocol = IPPROTO_TCP,
                                    .ai_flags = EVUTIL_AI_NUMERICHOST |
                                                EVUTIL_AI_NUMERICSERV};
    struct evutil_addrinfo *found = NULL;
    struct evdns_getaddrinfo_request *lookup;
    char service[8];

    snprintf(service, sizeof(service), "%u", port);
    if (evutil_getaddrinfo(wire->host, service, &hints, &found) == 0) {
        on_looked_up(0, found, wire);
        return;
    }
    hints.ai_flags = EVUTIL_AI_NUMERICSERV;
    wire->dns =
        evdns_base_new(wire->base, EVDNS_BASE_INITIALIZE_NAMESERVERS |
                                       EVDNS_BASE_DISABLE_WHEN_INACTIVE);
    if (!wire->dns)
        wire->dns =
            evdns_base_new(wire->base, EVDNS_BASE_DISABLE_WHEN_INACTIVE);
    if (!wire->dns)
        abort();
    evdns_base_load_hosts(wire->dns, "/etc/hosts");
    /* May call back before it returns; it returns NULL then. */
    lookup = evdns_getaddrinfo(wire->dns, wire->host, service, &hints,
                               on_looked_up, wire);
    wire->lookup = lookup;
}

struct wire *wire_connect(struct event_base *base, const char *address,
                          struct wire_tls *tls,
                          const struct wire_events *events, void *context,
                          struct vn_err *err)
{
    struct sockaddr_un sun = {.sun_family = AF_UNIX};
    struct wire_address parsed;
    struct wire *wire;

    if (wire_address_parse(address, &parsed, err) < 0)
        return NULL;
    if (parsed.kind == WIRE_TLS && !tls)
        return vn_fail_ptr(err, VN_E_STATE,
                           "agent '%s': no folder with certificates was given",
                           address);
    wire = wire_new(base, address, parsed.kind == WIRE_TLS ? tls : NULL, events,
                    context);
    wire->client = true;
    if (parsed.kind == WIRE_TLS) {
        wire->host = vn_strdup(parsed.host);
        wire_look_up(wire, parsed.port);
    } else {
        wire->peer = vn_strdup("local");
        memcpy(sun.sun_path, parsed.path, sizeof(parsed.path));
        wire_connect_to(wire, (const struct sockaddr *)&sun, sizeof(sun));
    }
    return wire;
}

/* ---- sending and the rest ----------------------------------------------- */

static void free_text(const void *data, size_t size, void *text)
{
    (void)data;
    (void)size;
    free(text);
}

void wire_send(struct wire *wire, const json_t *message)
{
    struct vn_err err = VN_ERR_INIT;
    uint8_t head[FRAME_HEAD_SIZE];
    struct evbuffer *out;
    size_t size, waiting;
    char *text;

    assert(json_is_object(message));
    if (wire->failed)
        return;
    text = json_dumps(message, JSON_COMPACT);
    if (!text)
        abort();
    size = strlen(text);
    out = wire->open ? bufferevent_get_output(wire->bev) : wire->unsent;
    waiting = evbuffer_get_length(out);
    if (size > WIRE_MESSAGE_MAX)
        vn_fail(&err, VN_E_LIMIT, "a message of %zu bytes, %u are allowed",
                size, WIRE_MESSAGE_MAX);
    else if (waiting + size > WIRE_QUEUE_MAX)
        vn_fail(&err, VN_E_LIMIT, "it does not read: %zu bytes wait unsent",
                waiting);
    if (err.code) {
        free(text);
        wire_fail(wire, &err);
        return;
    }
    frame_put_head(head, size);
    if (evbuffer_add(out, head, sizeof(head)) < 0 ||
        evbuffer_add_reference(out, text, size, free_text, text) < 0)
        abort();
}

void wire_set_events(struct wire *wire, const struct wire_events *events,
                     void *context)
{
    wire->events = events;
    wire->context = context;
}

const char *wire_address(const struct wire *wire)
{
    return wire->address;
}

const char *wire_peer(const struct wire *wire)
{
    return wire->peer;
}
