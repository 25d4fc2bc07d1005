/*
 * violind: life, clients and the way from sockets to networks.
 *
 * How it works: clients are served request by request; a request is answered
 * before the next is read, except for the two calls that wait (daemon_wait.c).
 * A client that does not read its answers fills its socket; it is closed, as
 * any client that breaks the protocol. Closing a client ends its lease: its
 * cuts are aborted, its held ports released.
 *
 * A client is only freed by its own event, so no function below a call has to
 * fear that it vanishes: failures mark it dead and activate that event.
 *
 * Limits: DAEMON_CLIENTS_MAX connections, DAEMON_NETWORKS_MAX networks,
 * DAEMON_WAITS_MAX waiting calls. Concurrency: one thread; daemon_stop()
 * writes to an eventfd.
 */
#include "violin/daemon.h"

#include "common/clock.h"
#include "common/log.h"
#include "common/priority.h"
#include "violin/daemon_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* ---- networks ---------------------------------------------------------- */

struct network *daemon_network(struct daemon *daemon, uint32_t vni)
{
    struct network *net;

    HASH_FIND(hh, daemon->networks, &vni, sizeof(vni), net);
    return net;
}

static void on_packet(void *context, const union tunnel_address *from,
                      const struct geneve_packet *packet)
{
    struct daemon *daemon = context;
    struct network *net = daemon_network(daemon, packet->vni);
    char text[TUNNEL_ADDRESS_SIZE];

    if (net && network_packet(net, from, packet))
        return;
    daemon->unknown_packets++;
    tunnel_format_address(from, text);
    log_limited(LOG_DEBUG, "violin: packet of network %u from %s: not known",
                packet->vni, text);
}

static void on_packets_end(void *context)
{
    struct daemon *daemon = context;
    struct network *net, *next;

    HASH_ITER (hh, daemon->networks, net, next)
        network_after(net);
}

static const struct tunnel_events tunnel_events = {
    .packet = on_packet,
    .batch_end = on_packets_end,
};

static void kill_client(struct client *client)
{
    client->dead = true;
    event_active(client->readable, EV_READ, 0);
}

static void send_to(struct client *client, json_t *message, int fd)
{
    vn_auto(json) json_t *owned = message;
    struct vn_err err = VN_ERR_INIT;

    if (client->dead)
        return;
    if (ctl_send(client->fd, owned, &fd, fd >= 0, &err)) {
        log_debug("violin: a client is closed: %s", err.msg);
        kill_client(client);
    }
}

void daemon_reply_ok(struct client *client, uint64_t id, json_t *ok, int fd)
{
    send_to(client, ctl_reply_ok(id, ok), fd);
}

void daemon_reply_error(struct client *client, uint64_t id,
                        const struct vn_err *failure)
{
    send_to(client, ctl_reply_error(id, failure), -1);
}

static void on_trigger(void *context, struct network *net, uint32_t epoch)
{
    struct daemon *daemon = context;

    for (struct client *c = daemon->clients; c; c = c->next) {
        if (c == net->armed_by)
            send_to(c,
                    json_pack("{s:s, s:I, s:I}", "notice", "trigger", "vni",
                              (json_int_t)net->vni, "epoch", (json_int_t)epoch),
                    -1);
    }
}

static void on_closed(void *context, struct network *net)
{
    wait_closed(net, context);
}

const struct network_events daemon_network_events = {
    .trigger = on_trigger,
    .closed = on_closed,
};

/* ---- urgency ----------------------------------------------------------- */

static bool holds_in_a_cut(const struct network *net)
{
    uint32_t armed;

    if (!vsw_armed(net->sw, &armed))
        return false;
    for (unsigned i = 0; i < SWITCH_PORTS_MAX; i++)
        if (net->ports[i] && vsw_port_held(net->sw, i))
            return true;
    return false;
}

/* From the hold to the last release VMs stand, or are about to. */
void daemon_review_urgency(struct daemon *daemon)
{
    struct network *net, *next;
    bool urgent = false;

    HASH_ITER (hh, daemon->networks, net, next)
        urgent |= holds_in_a_cut(net);
    if (urgent && !daemon->urgent) {
        daemon->calm_nice = priority_nice(0);
        daemon->urgent = priority_urgent_self();
    } else if (!urgent && daemon->urgent) {
        (void)priority_calm_self(daemon->calm_nice);
        daemon->urgent = false;
    }
}

/* ---- clients ----------------------------------------------------------- */

static void client_close(struct client *client)
{
    struct daemon *daemon = client->daemon;
    struct client **at = &daemon->clients;
    struct network *net, *next;

    while (*at != client)
        at = &(*at)->next;
    *at = client->next;
    daemon->client_count--;
    wait_client_gone(client);
    HASH_ITER (hh, daemon->networks, net, next) {
        bool led = net->armed_by == client;

        network_client_gone(net, client);
        if (led)
            wait_cut_ended(daemon, net);
    }
    daemon_review_urgency(daemon);
    event_free(client->readable);
    close(client->fd);
    free(client);
}

static void on_client(evutil_socket_t fd, short what, void *arg)
{
    struct client *client = arg;
    vn_auto(ctl_packet) struct ctl_packet packet = {0};
    struct vn_err err = VN_ERR_INIT;
    int got = client->dead ? 0 : ctl_recv(fd, &packet, &err);

    (void)what;
    if (got < 0 && err.code == EAGAIN)
        return;
    if (got < 0)
        log_debug("violin: a client is closed: %s", err.msg);
    if (got <= 0)
        client_close(client);
    else
        daemon_call(client, &packet);
}

static void on_acceptable(evutil_socket_t fd, short what, void *arg)
{
    struct daemon *daemon = arg;
    struct vn_err err = VN_ERR_INIT;
    struct client *client;
    int accepted = ctl_accept(fd, &err);

    (void)what;
    if (accepted < 0) {
        log_limited(LOG_DEBUG, "violin: %s", err.msg);
        return;
    }
    if (daemon->client_count == DAEMON_CLIENTS_MAX) {
        log_limited(LOG_DEBUG, "violin: more than %d clients",
                    DAEMON_CLIENTS_MAX);
        close(accepted);
        return;
    }
    client = vn_alloc(sizeof(*client));
    client->daemon = daemon;
    client->fd = accepted;
    client->readable = event_new(daemon->base, accepted, EV_READ | EV_PERSIST,
                                 on_client, client);
    event_add(client->readable, NULL);
    client->next = daemon->clients;
    daemon->clients = client;
    daemon->client_count++;
}

/* ---- life -------------------------------------------------------------- */

static void on_stop(evutil_socket_t fd, short what, void *arg)
{
    struct daemon *daemon = arg;

    (void)fd;
    (void)what;
    event_base_loopbreak(daemon->base);
}

/* Timers of less than a millisecond need the precise kind. */
static struct event_base *new_base(void)
{
    struct event_config *config = event_config_new();
    struct event_base *base;

    if (!config)
        return NULL;
    event_config_set_flag(config, EVENT_BASE_FLAG_PRECISE_TIMER);
    event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK);
    base = event_base_new_with_config(config);
    event_config_free(config);
    return base;
}

struct daemon *daemon_new(const struct daemon_opts *opts, struct vn_err *err)
{
    vn_auto(daemon) struct daemon *daemon = vn_alloc(sizeof(*daemon));

    daemon->listener = -1;
    daemon->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    daemon->base = new_base();
    if (daemon->stop_fd < 0 || !daemon->base)
        return vn_fail_ptr(err, errno ? errno : ENOMEM, "make an event loop");
    port_loop_init(&daemon->ports, daemon->base);
    daemon->tunnel =
        tunnel_new(daemon->base, &opts->underlay, &tunnel_events, daemon, err);
    if (!daemon->tunnel)
        return NULL;
    daemon->listener = ctl_listen(opts->socket_path, err);
    if (daemon->listener < 0)
        return NULL;
    daemon->socket_path = vn_strdup(opts->socket_path);
    daemon->acceptable = event_new(daemon->base, daemon->listener,
                                   EV_READ | EV_PERSIST, on_acceptable, daemon);
    daemon->stop =
        event_new(daemon->base, daemon->stop_fd, EV_READ, on_stop, daemon);
    if (!daemon->acceptable || !daemon->stop ||
        event_add(daemon->acceptable, NULL) || event_add(daemon->stop, NULL))
        return vn_fail_ptr(err, ENOMEM, "watch the control socket");
    return vn_steal(&daemon);
}

int daemon_run(struct daemon *daemon, struct vn_err *err)
{
    if (event_base_dispatch(daemon->base) < 0)
        return vn_fail(err, VN_E_STATE, "the event loop failed");
    return 0;
}

void daemon_stop(struct daemon *daemon)
{
    uint64_t one = 1;
    ssize_t written = write(daemon->stop_fd, &one, sizeof(one));

    (void)written; /* only a full counter fails, and then it is readable */
}

void daemon_free(struct daemon *daemon)
{
    struct network *net, *next;

    if (!daemon)
        return;
    while (daemon->clients)
        client_close(daemon->clients);
    HASH_ITER (hh, daemon->networks, net, next) {
        HASH_DEL(daemon->networks, net);
        network_free(net);
    }
    if (daemon->acceptable)
        event_free(daemon->acceptable);
    if (daemon->stop)
        event_free(daemon->stop);
    if (daemon->listener >= 0) {
        close(daemon->listener);
        unlink(daemon->socket_path);
    }
    if (daemon->stop_fd >= 0)
        close(daemon->stop_fd);
    tunnel_free(daemon->tunnel);
    port_loop_done(&daemon->ports);
    if (daemon->base)
        event_base_free(daemon->base);
    free(daemon->socket_path);
    free(daemon);
}

void daemon_underlay(const struct daemon *daemon, union tunnel_address *ret)
{
    tunnel_address(daemon->tunnel, ret);
}
