/*
 * The agent's daemon: addresses, messages, signals.
 *
 * Every message is an object with a "type". A request is answered by exactly
 * one message: its own kind of answer, or {"type": "failed", "of": TYPE,
 * "code": N, "message": TEXT}. A cut is a conversation; agent_cut.c has it.
 */

#include "coord/agent.h"

#include "common/clock.h"
#include "common/io.h"
#include "common/jsonx.h"
#include "common/log.h"
#include "common/priority.h"
#include "coord/agent_internal.h"

#include <errno.h>
#include <event2/thread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- tasks -------------------------------------------------------------- */

static void task_done(void *arg)
{
    struct agent_task *task = arg;

    task->done(task);
    free(task);
}

static void task_run(void *arg)
{
    struct agent_task *task = arg;

    task->rc = task->run(task, &task->err);
    mailbox_post(task->net->agent->mailbox, task_done, task);
}

void agent_task_post(struct worker *worker, const struct agent_task *task)
{
    struct agent_task *copy = vn_alloc(sizeof(*copy));

    *copy = *task;
    worker_post(worker, task_run, copy);
}

void agent_calm(const struct agent *agent, int nicer)
{
    if (agent->may_hurry)
        (void)priority_calm_self(agent->calm_nice + nicer);
}

void agent_urgent(const struct agent *agent, bool urgent)
{
    if (!agent->may_hurry)
        return;
    if (urgent)
        (void)priority_urgent_self();
    else
        agent_calm(agent, 0);
}

/* ---- messages ----------------------------------------------------------- */

void agent_reply(struct wire *wire, const char *type, json_t *body)
{
    json_object_set_new(body, "type", json_string(type));
    if (wire)
        wire_send(wire, body);
    json_decref(body);
}

void agent_reply_failed(struct wire *wire, const char *of,
                        const struct vn_err *why)
{
    log_warn("%s failed: %s", of, why->msg);
    agent_reply(wire, "failed",
                json_pack("{s:o, s:i, s:o}", "of", jsonx_any_string(of), "code",
                          why->code, "message", jsonx_any_string(why->msg)));
}

struct agent_net *agent_find_net(struct agent *agent, const char *name)
{
    struct agent_net *net;

    LIST_FOREACH(net, &agent->nets, link)
    if (strcmp(net->name, name) == 0)
        return net;
    return NULL;
}

/* Who are you, what runs on you, how much room is there? */
static int handle_hello(struct agent *agent, struct wire *wire,
                        const json_t *message, struct vn_err *err)
{
    uint64_t free_bytes =
        (uint64_t)sysconf(_SC_AVPHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    json_t *nets = json_array();
    struct agent_net *net;

    (void)message;
    (void)err;
    LIST_FOREACH(net, &agent->nets, link)
    json_array_append_new(nets, agent_net_describe(net));
    agent_reply(wire, "hello",
                json_pack("{s:s, s:s, s:I, s:o}", "host", agent->name,
                          "version", VN_VERSION, "free_bytes",
                          (json_int_t)free_bytes, "nets", nets));
    return 0;
}

typedef int handler_fn(struct agent *agent, struct wire *wire,
                       const json_t *message, struct vn_err *err);

static const struct {
    const char *type;
    handler_fn *handle;
} handlers[] = {
    {"hello", handle_hello},      {"up", agent_net_up},
    {"down", agent_net_down},     {"restore", agent_net_restore},
    {"start", agent_net_start},   {"prepare", agent_cut_message},
    {"cut", agent_cut_message},   {"commit", agent_cut_message},
    {"abort", agent_cut_message}, {"keepalive", agent_cut_message},
};

static int dispatch(struct agent *agent, struct wire *wire, const char *type,
                    const json_t *message, struct vn_err *err)
{
    for (size_t i = 0; i < VN_COUNT(handlers); i++)
        if (strcmp(type, handlers[i].type) == 0)
            return handlers[i].handle(agent, wire, message, err);
    return vn_fail(err, VN_E_UNSUPPORTED, "unknown message '%.40s'", type);
}

static void on_message(void *context, struct wire *wire, const json_t *message)
{
    struct agent_conn *conn = context;
    struct vn_err err = VN_ERR_INIT;
    const char *type = "message";

    log_debug("message from %s: %.40s", wire_address(wire),
              jsonx_string_or(message, "type", "?"));
    if (jsonx_string(message, "type", &type, &err) < 0 ||
        dispatch(conn->agent, wire, type, message, &err) < 0)
        agent_reply_failed(wire, type, &err);
}

static void conn_free(struct agent_conn *conn)
{
    LIST_REMOVE(conn, link);
    wire_free(conn->wire);
    free(conn);
}

static void on_closed(void *context, struct wire *wire,
                      const struct vn_err *why)
{
    struct agent_conn *conn = context;
    struct agent *agent = conn->agent;
    struct agent_net *net, *next;

    log_debug("connection %s closed: %s", wire_address(wire), why->msg);
    for (net = LIST_FIRST(&agent->nets); net; net = next) {
        next = LIST_NEXT(net, link);
        agent_cut_wire_lost(net, wire);
        agent_net_wire_lost(net, wire);
    }
    conn_free(conn);
}

static const struct wire_events wire_events = {
    .message = on_message,
    .closed = on_closed,
};

static void on_accept(void *context, struct wire *wire)
{
    struct agent_conn *conn = vn_alloc(sizeof(*conn));

    conn->agent = context;
    conn->wire = wire;
    LIST_INSERT_HEAD(&conn->agent->conns, conn, link);
    wire_set_events(wire, &wire_events, conn);
}

/* ---- violind's notices (on its client's thread) ------------------------- */

struct notice_post {
    struct agent *agent;
    struct violin_notice notice;
};

static void notice_on_loop(void *arg)
{
    vn_auto(free) struct notice_post *post = arg;
    struct agent_net *net;

    if (post->notice.kind == VIOLIN_LOST) {
        log_error("violind is gone: networks on this host are cut off");
        return;
    }
    LIST_FOREACH(net, &post->agent->nets, link)
    if (net->vni == post->notice.vni)
        agent_cut_trigger(net, post->notice.epoch);
}

static void on_notice(void *context, const struct violin_notice *notice)
{
    struct notice_post *post = vn_alloc(sizeof(*post));

    post->agent = context;
    post->notice = *notice;
    mailbox_post(post->agent->mailbox, notice_on_loop, post);
}

/* ---- life --------------------------------------------------------------- */

static void on_signal(evutil_socket_t number, short what, void *context)
{
    struct agent *agent = context;

    (void)what;
    log_info("ending on signal %d; VMs go on", (int)number);
    event_base_loopbreak(agent->base);
}

static int agent_listen(struct agent *agent, const struct agent_opts *opts,
                        struct vn_err *err)
{
    agent->listeners = vn_alloc(opts->listen_count * sizeof(void *));
    for (size_t i = 0; i < opts->listen_count; i++) {
        struct wire_listener *listener = wire_listen(
            agent->base, opts->listen[i], agent->tls, on_accept, agent, err);

        if (!listener)
            return -1;
        agent->listeners[agent->listener_count++] = listener;
    }
    return 0;
}

static int agent_open(struct agent *agent, const struct agent_opts *opts,
                      struct vn_err *err)
{
    static const int numbers[] = {SIGTERM, SIGINT};

    if (io_make_dirs(opts->state_dir, err) < 0)
        return -1;
    agent->state_dir = realpath(opts->state_dir, NULL);
    if (!agent->state_dir)
        return vn_fail(err, errno, "'%s'", opts->state_dir);
    agent->calm_nice = priority_nice(0);
    /* Forks: before any thread. */
    agent->watchdog = watchdog_start(err);
    if (!agent->watchdog)
        return -1;
    evthread_use_pthreads();
    agent->base = event_base_new();
    if (!agent->base)
        return vn_fail(err, ENOMEM, "event loop");
    agent->mailbox = mailbox_new(agent->base);
    if (opts->tls_dir) {
        agent->tls = wire_tls_load(opts->tls_dir, err);
        if (!agent->tls)
            return -1;
    }
    agent->violin =
        violin_client_open(opts->violin_socket, on_notice, agent, err);
    if (!agent->violin)
        return vn_wrap(err, "violind");
    for (size_t i = 0; i < VN_COUNT(numbers); i++) {
        agent->signals[i] =
            evsignal_new(agent->base, numbers[i], on_signal, agent);
        if (!agent->signals[i] || event_add(agent->signals[i], NULL) < 0)
            return vn_fail(err, ENOMEM, "signal handler");
    }
    agent->may_hurry = priority_urgent_self();
    agent_calm(agent, 0);
    if (!agent->may_hurry)
        log_info("no right to real-time priority: pauses may be longer");
    agent_adopt_all(agent);
    return agent_listen(agent, opts, err);
}

struct agent *agent_new(const struct agent_opts *opts, struct vn_err *err)
{
    struct agent *agent = vn_alloc(sizeof(*agent));

    LIST_INIT(&agent->nets);
    LIST_INIT(&agent->conns);
    agent->name = vn_strdup(opts->name);
    if (agent_open(agent, opts, err) < 0) {
        agent_free(agent);
        return NULL;
    }
    return agent;
}

int agent_run(struct agent *agent, struct vn_err *err)
{
    if (event_base_dispatch(agent->base) < 0)
        return vn_fail(err, EIO, "event loop");
    return 0;
}

void agent_free(struct agent *agent)
{
    struct agent_conn *conn;
    struct agent_net *net;

    if (!agent)
        return;
    for (size_t i = 0; i < agent->listener_count; i++)
        wire_listener_free(agent->listeners[i]);
    free(agent->listeners);
    while ((net = LIST_FIRST(&agent->nets)))
        agent_net_free(net);
    while ((conn = LIST_FIRST(&agent->conns)))
        conn_free(conn);
    violin_client_close(agent->violin);
    mailbox_free(agent->mailbox);
    for (size_t i = 0; i < VN_COUNT(agent->signals); i++)
        if (agent->signals[i])
            event_free(agent->signals[i]);
    wire_tls_free(agent->tls);
    if (agent->base) {
        /* libevent lets go of freed buffer events from its loop only. */
        event_base_loop(agent->base, EVLOOP_NONBLOCK);
        event_base_free(agent->base);
    }
    watchdog_free(agent->watchdog);
    free(agent->state_dir);
    free(agent->name);
    free(agent);
}
