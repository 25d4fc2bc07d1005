/*
 * The client of violind.
 *
 * How it works: a caller puts a `pending` on its stack into a list, sends its
 * request and sleeps; the reader thread receives every packet, hands replies
 * to the pending of their id and wakes it, and passes notices on. When the
 * connection ends, for whatever reason, the reader marks the client lost,
 * wakes everybody and says VIOLIN_LOST, unless we close it ourselves.
 *
 * Invariants: a pending is in the list until its owner, holding the lock,
 * takes it out; a reply whose caller gave up is dropped with its descriptors.
 *
 * Concurrency: `lock` guards the list, ids and `lost`. Sends need no lock: a
 * packet is one sendmsg(). They may block while violind is busy, within
 * SO_SNDTIMEO.
 */
#include "violin/client.h"

#include "common/clock.h"
#include "common/ctl.h"
#include "common/jsonx.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct pending {
    uint64_t id;
    bool done;
    struct ctl_packet reply;
    pthread_cond_t wake;
    struct pending *next;
};

struct violin_client {
    int fd;
    violin_notice_fn *notice;
    void *context;
    pthread_t reader;
    pthread_mutex_t lock;
    uint64_t next_id;
    bool lost;    /* the reader has ended */
    bool closing; /* by us */
    struct pending *pending;
};

/* ---- the reader thread ------------------------------------------------- */

static void take_reply(struct violin_client *client, struct ctl_packet *packet)
{
    uint64_t id = jsonx_u64_or(packet->json, "id", 0);

    vn_lock_scope(&client->lock);
    for (struct pending *p = client->pending; p; p = p->next) {
        if (p->id != id || p->done)
            continue;
        p->reply = *packet;
        *packet = (struct ctl_packet){0};
        p->done = true;
        pthread_cond_signal(&p->wake);
        return;
    }
}

static void take_notice(struct violin_client *client, const json_t *json)
{
    struct violin_notice notice = {
        .kind = VIOLIN_TRIGGER,
        .vni = (uint32_t)jsonx_u64_or(json, "vni", 0),
        .epoch = (uint32_t)jsonx_u64_or(json, "epoch", 0),
    };

    /* Kinds that a newer violind may know are none of our business. */
    if (client->notice &&
        strcmp(jsonx_string_or(json, "notice", ""), "trigger") == 0)
        client->notice(client->context, &notice);
}

static bool mark_lost(struct violin_client *client)
{
    vn_lock_scope(&client->lock);
    client->lost = true;
    for (struct pending *p = client->pending; p; p = p->next)
        pthread_cond_signal(&p->wake);
    return !client->closing;
}

static void *read_packets(void *arg)
{
    struct violin_client *client = arg;

    for (;;) {
        vn_auto(ctl_packet) struct ctl_packet packet = {0};
        struct vn_err err = VN_ERR_INIT;

        if (ctl_recv(client->fd, &packet, &err) <= 0)
            break;
        if (json_object_get(packet.json, "notice"))
            take_notice(client, packet.json);
        else
            take_reply(client, &packet);
    }
    if (mark_lost(client) && client->notice)
        client->notice(client->context,
                       &(struct violin_notice){.kind = VIOLIN_LOST});
    return NULL;
}

/* ---- life -------------------------------------------------------------- */

struct violin_client *violin_client_open(const char *socket_path,
                                         violin_notice_fn *notice,
                                         void *context, struct vn_err *err)
{
    struct timeval timeout = {VIOLIN_CALL_MS / 1000, 0};
    vn_auto(close) int fd = ctl_connect(socket_path, err);
    struct violin_client *client;
    int failure;

    if (fd < 0)
        return NULL;
    if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)))
        return vn_fail_ptr(err, errno, "prepare the connection to violind");
    client = vn_alloc(sizeof(*client));
    client->fd = fd;
    client->notice = notice;
    client->context = context;
    client->next_id = 1;
    pthread_mutex_init(&client->lock, NULL);
    failure = pthread_create(&client->reader, NULL, read_packets, client);
    if (failure) {
        pthread_mutex_destroy(&client->lock);
        free(client);
        return vn_fail_ptr(err, failure, "start violind's client thread");
    }
    fd = -1; /* the client's now */
    return client;
}

void violin_client_close(struct violin_client *client)
{
    if (!client)
        return;
    pthread_mutex_lock(&client->lock);
    client->closing = true;
    pthread_mutex_unlock(&client->lock);
    shutdown(client->fd, SHUT_RDWR);
    pthread_join(client->reader, NULL);
    assert(!client->pending); /* no call may be under way */
    close(client->fd);
    pthread_mutex_destroy(&client->lock);
    free(client);
}

/* ---- calls ------------------------------------------------------------- */

static void enlist(struct violin_client *client, struct pending *p)
{
    pthread_condattr_t attr;

    *p = (struct pending){0};
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&p->wake, &attr);
    pthread_condattr_destroy(&attr);
    vn_lock_scope(&client->lock);
    p->id = client->next_id++;
    p->next = client->pending;
    client->pending = p;
}

/* Wait for the reply until the deadline; take p out of the list. */
static void delist(struct violin_client *client, struct pending *p,
                   uint64_t deadline_ns, bool *ret_lost)
{
    struct timespec until = {(time_t)(deadline_ns / VN_SEC),
                             (long)(deadline_ns % VN_SEC)};
    struct pending **at = &client->pending;
    int waited = 0;

    vn_lock_scope(&client->lock);
    while (!p->done && !client->lost && waited == 0)
        waited = pthread_cond_timedwait(&p->wake, &client->lock, &until);
    *ret_lost = client->lost;
    while (*at != p)
        at = &(*at)->next;
    *at = p->next;
    pthread_cond_destroy(&p->wake);
}

/*
 * Call and wait. `args` is stolen. The reply goes to *ret, its descriptor (or
 * -1) to *ret_fd, where they are not NULL.
 */
static int call_full(struct violin_client *client, const char *name,
                     json_t *args, int fd, uint64_t wait_ms, json_t **ret,
                     int *ret_fd, struct vn_err *err)
{
    uint64_t deadline_ns = clock_now_ns() + wait_ms * VN_MS;
    vn_auto(json) json_t *request = NULL;
    vn_auto(ctl_packet) struct ctl_packet reply = {0};
    struct pending p;
    json_t *ok;
    bool lost;
    int sent;

    enlist(client, &p);
    request = ctl_request(p.id, name, args);
    sent = ctl_send(client->fd, request, &fd, fd >= 0, err);
    delist(client, &p, sent ? 0 : deadline_ns, &lost);
    reply = p.reply;
    if (sent)
        return vn_wrap(err, "violind %s", name);
    if (!p.done && lost)
        return vn_fail(err, VN_E_PEER, "violind %s: it went away", name);
    if (!p.done)
        return vn_fail(err, VN_E_TIMEOUT, "violind %s: no answer", name);
    if (ctl_reply_read(reply.json, &ok, err))
        return vn_wrap(err, "violind %s", name);
    if (ret)
        *ret = json_incref(ok);
    if (ret_fd)
        *ret_fd = ctl_packet_take_fd(&reply, 0);
    return 0;
}

static int call(struct violin_client *client, const char *name, json_t *args,
                struct vn_err *err)
{
    return call_full(client, name, args, -1, VIOLIN_CALL_MS, NULL, NULL, err);
}

static json_t *net_args(uint32_t vni)
{
    return json_pack("{s:o}", "vni", jsonx_int(vni));
}

static json_t *epoch_args(uint32_t vni, uint32_t epoch)
{
    return json_pack("{s:o, s:o}", "vni", jsonx_int(vni), "epoch",
                     jsonx_int(epoch));
}

/* Names are the caller's; one that is no UTF-8 becomes null, and an error. */
static void set_name(json_t *args, const char *key, const char *name)
{
    json_t *text = json_string(name);

    json_object_set_new(args, key, text ? text : json_null());
}

static json_t *port_args(uint32_t vni, const char *port)
{
    json_t *args = net_args(vni);

    set_name(args, "port", port);
    return args;
}

static json_t *ports_args(uint32_t vni, const char *const *ports, size_t count)
{
    json_t *args = net_args(vni), *array = json_array();

    for (size_t i = 0; i < count; i++) {
        json_t *text = json_string(ports[i]);

        json_array_append_new(array, text ? text : json_null());
    }
    json_object_set_new(args, "ports", array);
    return args;
}

int violin_net_add(struct violin_client *client, uint32_t vni, uint32_t epoch,
                   struct vn_err *err)
{
    return call(client, "net_add", epoch_args(vni, epoch), err);
}

int violin_net_del(struct violin_client *client, uint32_t vni,
                   struct vn_err *err)
{
    return call(client, "net_del", net_args(vni), err);
}

int violin_peers_set(struct violin_client *client, uint32_t vni,
                     const struct violin_peer *peers, size_t count,
                     struct vn_err *err)
{
    json_t *args = net_args(vni), *array = json_array();

    for (size_t i = 0; i < count; i++) {
        json_t *peer = json_object();

        set_name(peer, "name", peers[i].name);
        set_name(peer, "address", peers[i].address);
        json_array_append_new(array, peer);
    }
    json_object_set_new(args, "peers", array);
    return call(client, "peers_set", args, err);
}

static json_t *port_add_args(uint32_t vni, const char *port, const char *kind,
                             bool held)
{
    json_t *args = port_args(vni, port);

    json_object_set_new(args, "kind", json_string(kind));
    json_object_set_new(args, "held", json_boolean(held));
    return args;
}

int violin_port_add_fd(struct violin_client *client, uint32_t vni,
                       const char *port, int fd, bool held, struct vn_err *err)
{
    assert(fd >= 0);
    return call_full(client, "port_add", port_add_args(vni, port, "fd", held),
                     fd, VIOLIN_CALL_MS, NULL, NULL, err);
}

int violin_port_add_tap(struct violin_client *client, uint32_t vni,
                        const char *port, const char *interface, bool held,
                        struct vn_err *err)
{
    json_t *args = port_add_args(vni, port, "tap", held);

    set_name(args, "interface", interface);
    return call(client, "port_add", args, err);
}

int violin_port_add_unix(struct violin_client *client, uint32_t vni,
                         const char *port, const char *local,
                         const char *remote, bool held, struct vn_err *err)
{
    json_t *args = port_add_args(vni, port, "unix", held);

    set_name(args, "local", local);
    set_name(args, "remote", remote);
    return call(client, "port_add", args, err);
}

int violin_port_add_packet(struct violin_client *client, uint32_t vni,
                           const char *port, const char *interface, bool held,
                           struct vn_err *err)
{
    json_t *args = port_add_args(vni, port, "packet", held);

    set_name(args, "interface", interface);
    return call(client, "port_add", args, err);
}

int violin_port_del(struct violin_client *client, uint32_t vni,
                    const char *port, struct vn_err *err)
{
    return call(client, "port_del", port_args(vni, port), err);
}

int violin_arm(struct violin_client *client, uint32_t vni, uint32_t epoch,
               struct vn_err *err)
{
    return call(client, "arm", epoch_args(vni, epoch), err);
}

int violin_hold(struct violin_client *client, uint32_t vni,
                const char *const *ports, size_t count, uint32_t settle_ms,
                uint32_t *ret_unsettled, struct vn_err *err)
{
    json_t *args = ports_args(vni, ports, count);
    vn_auto(json) json_t *ok = NULL;

    json_object_set_new(args, "settle_ms", jsonx_int(settle_ms));
    if (call_full(client, "hold", args, -1,
                  (uint64_t)settle_ms + VIOLIN_CALL_MS, &ok, NULL, err))
        return -1;
    return jsonx_u32(ok, "unsettled", UINT32_MAX, ret_unsettled, err);
}

int violin_cut(struct violin_client *client, uint32_t vni,
               const char *const *ports, size_t count, struct vn_err *err)
{
    return call(client, "cut", ports_args(vni, ports, count), err);
}

int violin_release(struct violin_client *client, uint32_t vni, const char *port,
                   struct vn_err *err)
{
    return call(client, "release", port_args(vni, port), err);
}

int violin_await_closed(struct violin_client *client, uint32_t vni,
                        uint32_t marker_ms, uint32_t patience_ms,
                        struct violin_report *ret, struct vn_err *err)
{
    json_t *args = net_args(vni);
    vn_auto(json) json_t *ok = NULL;
    struct violin_report report;

    json_object_set_new(args, "marker_ms", jsonx_int(marker_ms));
    json_object_set_new(args, "patience_ms", jsonx_int(patience_ms));
    if (call_full(client, "await_closed", args, -1,
                  (uint64_t)marker_ms + patience_ms + VIOLIN_CALL_MS, &ok, NULL,
                  err) ||
        jsonx_u64(ok, "frames_held", &report.frames_held, err) ||
        jsonx_u64(ok, "frames_recorded", &report.frames_recorded, err) ||
        jsonx_u64(ok, "frames_dropped", &report.frames_dropped, err) ||
        jsonx_u64(ok, "frames_missing", &report.frames_missing, err) ||
        jsonx_u64(ok, "ports_unsettled", &report.ports_unsettled, err) ||
        jsonx_bool(ok, "lossless", &report.lossless, err))
        return -1;
    *ret = report;
    return 0;
}

int violin_records(struct violin_client *client, uint32_t vni, const char *port,
                   int *ret_fd, struct vn_err *err)
{
    return call_full(client, "records", port_args(vni, port), -1,
                     VIOLIN_CALL_MS, NULL, ret_fd, err);
}

int violin_finish(struct violin_client *client, uint32_t vni, uint32_t epoch,
                  struct vn_err *err)
{
    return call(client, "finish", epoch_args(vni, epoch), err);
}

int violin_abort(struct violin_client *client, uint32_t vni, uint32_t epoch,
                 struct vn_err *err)
{
    return call(client, "abort", epoch_args(vni, epoch), err);
}

int violin_replay(struct violin_client *client, uint32_t vni, const char *port,
                  int fd, struct vn_err *err)
{
    assert(fd >= 0);
    return call_full(client, "replay", port_args(vni, port), fd, VIOLIN_CALL_MS,
                     NULL, NULL, err);
}

json_t *violin_stats(struct violin_client *client, struct vn_err *err)
{
    json_t *ok = NULL;

    if (call_full(client, "stats", NULL, -1, VIOLIN_CALL_MS, &ok, NULL, err))
        return NULL;
    return ok;
}
