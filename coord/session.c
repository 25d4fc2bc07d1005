#include "coord/session.h"

#include "common/jsonx.h"
#include "coord/wire.h"

#include <stdlib.h>
#include <string.h>

#define HELLO_TIMEOUT_MS 6000

struct peer {
    struct session *session;
    size_t index;
    const struct vne_host *host;
    struct wire *wire; /* NULL: no connection */
    struct vn_err why; /* why there is none */
    json_t *hello;
};

/* The call under way. */
struct call {
    const char *answer;
    bool *waiting; /* by host */
    size_t left;
    json_t **replies;
    struct vn_err failure;
};

struct session {
    struct event_base *base;
    struct wire_tls *tls;
    struct peer *peers;
    size_t count;
    session_handler *handler;
    void *context;
    struct call *call; /* NULL: none under way */
};

static void call_note(struct session *s, struct peer *peer,
                      const json_t *message, const struct vn_err *why)
{
    struct call *call = s->call;

    if (!call || !call->waiting[peer->index])
        return;
    call->waiting[peer->index] = false;
    if (why && call->failure.code == 0) {
        call->failure = *why;
        vn_wrap(&call->failure, "host '%s'", peer->host->name);
    } else if (!why && call->replies) {
        call->replies[peer->index] = json_deep_copy(message);
    }
    if (--call->left == 0)
        event_base_loopbreak(s->base);
}

/* "failed" as an error; its code is the agent's. */
static void failed_to_err(const json_t *message, struct vn_err *ret)
{
    uint64_t code = jsonx_u64_or(message, "code", VN_E_PEER);

    vn_fail(ret, VN_E_PEER, "%s",
            jsonx_string_or(message, "message", "no reason given"));
    ret->code = code > 0 && code < 2000 ? (int)code : VN_E_PEER;
}

static void on_message(void *context, struct wire *wire, const json_t *message)
{
    struct peer *peer = context;
    struct session *s = peer->session;
    const char *type = jsonx_string_or(message, "type", "");
    struct vn_err why;

    (void)wire;
    if (s->handler) {
        s->handler(s->context, peer->index, message, NULL);
    } else if (strcmp(type, "failed") == 0) {
        failed_to_err(message, &why);
        call_note(s, peer, NULL, &why);
    } else if (s->call && strcmp(type, s->call->answer) == 0) {
        call_note(s, peer, message, NULL);
    }
}

static void on_closed(void *context, struct wire *wire,
                      const struct vn_err *why)
{
    struct peer *peer = context;
    struct session *s = peer->session;

    peer->why = *why;
    peer->wire = NULL;
    wire_free(wire);
    if (s->handler)
        s->handler(s->context, peer->index, NULL, why);
    else
        call_note(s, peer, NULL, why);
}

static const struct wire_events events = {
    .message = on_message,
    .closed = on_closed,
};

static void on_deadline(evutil_socket_t fd, short what, void *context)
{
    (void)fd;
    (void)what;
    *(bool *)context = true;
}

static void run_call(struct session *s, unsigned timeout_ms)
{
    struct timeval wait = {.tv_sec = timeout_ms / 1000,
                           .tv_usec = (suseconds_t)(timeout_ms % 1000) * 1000};
    /* Not our clock: libevent's is a coarser one, its timer may come early. */
    bool over = false;
    struct event *deadline = evtimer_new(s->base, on_deadline, &over);

    if (!deadline || evtimer_add(deadline, &wait) < 0)
        abort();
    while (s->call->left > 0 && !over)
        event_base_loop(s->base, EVLOOP_ONCE);
    event_free(deadline);
}

static void note_silent(struct session *s, struct call *call,
                        unsigned timeout_ms)
{
    for (size_t i = 0; i < s->count; i++)
        if (call->waiting[i] && call->failure.code == 0)
            vn_fail(&call->failure, VN_E_TIMEOUT,
                    "host '%s' (%s) did not answer within %u ms",
                    s->peers[i].host->name, s->peers[i].host->agent,
                    timeout_ms);
}

int session_call(struct session *s, json_t *const *requests, const char *answer,
                 unsigned timeout_ms, json_t **replies, struct vn_err *err)
{
    vn_auto(free) bool *waiting = vn_alloc(s->count * sizeof(bool));
    struct call call = {
        .answer = answer, .waiting = waiting, .replies = replies};

    for (size_t i = 0; i < s->count; i++) {
        if (!requests[i])
            continue;
        if (!s->peers[i].wire)
            return session_require(s, i, err);
        waiting[i] = true;
        call.left++;
    }
    s->call = &call;
    for (size_t i = 0; i < s->count; i++)
        if (requests[i] && s->peers[i].wire)
            wire_send(s->peers[i].wire, requests[i]);
    run_call(s, timeout_ms);
    note_silent(s, &call, timeout_ms);
    s->call = NULL;
    if (call.failure.code == 0)
        return 0;
    *err = call.failure;
    return -1;
}

static int connect_all(struct session *s, const struct vne_host *hosts,
                       struct vn_err *err)
{
    for (size_t i = 0; i < s->count; i++) {
        struct peer *peer = &s->peers[i];

        *peer = (struct peer){.session = s, .index = i, .host = &hosts[i]};
        peer->wire =
            wire_connect(s->base, hosts[i].agent, s->tls, &events, peer, err);
        if (!peer->wire)
            return vn_wrap(err, "host '%s'", hosts[i].name);
    }
    return 0;
}

static void say_hello(struct session *s)
{
    vn_auto(json) json_t *hello = json_pack("{s:s}", "type", "hello");
    vn_auto(free) json_t **requests = vn_alloc(s->count * sizeof(json_t *));
    vn_auto(free) json_t **replies = vn_alloc(s->count * sizeof(json_t *));
    struct vn_err ignored = VN_ERR_INIT;

    for (size_t i = 0; i < s->count; i++)
        requests[i] = hello;
    /* Who did not answer shows in its peer's `why`. */
    if (session_call(s, requests, "hello", HELLO_TIMEOUT_MS, replies,
                     &ignored) == 0)
        ignored.code = 0;
    for (size_t i = 0; i < s->count; i++) {
        struct peer *peer = &s->peers[i];

        peer->hello = replies[i];
        if (!peer->hello && peer->why.code == 0)
            peer->why = ignored;
    }
}

struct session *session_open(const struct vne_host *hosts, size_t count,
                             const char *tls_dir, struct vn_err *err)
{
    struct session *s = vn_alloc(sizeof(*s));

    s->base = event_base_new();
    s->peers = vn_alloc(count * sizeof(struct peer));
    s->count = count;
    if (!s->base) {
        session_free(s);
        return vn_fail_ptr(err, ENOMEM, "event loop");
    }
    if (tls_dir) {
        s->tls = wire_tls_load(tls_dir, err);
        if (!s->tls) {
            session_free(s);
            return NULL;
        }
    }
    if (connect_all(s, hosts, err) < 0) {
        session_free(s);
        return NULL;
    }
    say_hello(s);
    return s;
}

void session_free(struct session *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->count; i++) {
        wire_free(s->peers[i].wire);
        json_decref(s->peers[i].hello);
    }
    free(s->peers);
    wire_tls_free(s->tls);
    if (s->base) {
        /* libevent lets go of freed buffer events from its loop only. */
        event_base_loop(s->base, EVLOOP_NONBLOCK);
        event_base_free(s->base);
    }
    free(s);
}

size_t session_host_count(const struct session *s)
{
    return s->count;
}

const struct vne_host *session_host(const struct session *s, size_t index)
{
    return s->peers[index].host;
}

struct event_base *session_base(struct session *s)
{
    return s->base;
}

bool session_answers(const struct session *s, size_t index)
{
    return s->peers[index].wire && s->peers[index].hello;
}

int session_require(const struct session *s, size_t index, struct vn_err *err)
{
    const struct peer *peer = &s->peers[index];
    const char *name;

    if (!session_answers(s, index)) {
        vn_fail(err, VN_E_PEER, "host '%s' does not answer: %s",
                peer->host->name, peer->why.msg);
        return -1;
    }
    name = jsonx_string_or(peer->hello, "host", "?");
    if (strcmp(name, peer->host->name) != 0)
        return vn_fail(err, VN_E_STATE,
                       "the agent at %s is host '%.63s', not '%s'",
                       peer->host->agent, name, peer->host->name);
    return 0;
}

uint64_t session_free_bytes(const struct session *s, size_t index)
{
    return jsonx_u64_or(s->peers[index].hello, "free_bytes", 0);
}

const json_t *session_net(const struct session *s, size_t index,
                          const char *vne)
{
    const json_t *nets = json_object_get(s->peers[index].hello, "nets");
    const json_t *net;
    size_t i;

    json_array_foreach (nets, i, net)
        if (strcmp(jsonx_string_or(net, "name", ""), vne) == 0)
            return net;
    return NULL;
}

void session_send(struct session *s, size_t index, const json_t *message)
{
    if (s->peers[index].wire)
        wire_send(s->peers[index].wire, message);
}

void session_set_handler(struct session *s, session_handler *handler,
                         void *context)
{
    s->handler = handler;
    s->context = context;
}
