/*
 * A network of violind: life, ports, peers and the effects of the switch.
 *
 * How it works: sockets call in (a frame, a packet, the timer), the switch
 * decides, and its effects come back here while it runs: frames are written
 * to ports at once and collected for the tunnel; trigger and closed are only
 * noted, because their receivers may call the switch. network_after() then
 * does what was noted. The cut's calls are in network_cut.c.
 *
 * Indexes: the switch names ports and peers by small numbers; the arrays here
 * translate. An index is free again as soon as its port or peer is gone.
 *
 * Limits: NETWORK_RECORDS_MAX bytes of records a port; what passes it is
 * counted as dropped, so the snapshot is not called lossless. A pcapng record
 * is larger than the same frame in a replay queue, so what could be recorded
 * can be replayed. Concurrency: one thread.
 */
#include "violin/network.h"

#include "common/clock.h"
#include "common/jsonx.h"
#include "violin/pcapng.h"

#include <assert.h>
#include <string.h>

#define RECORD_OVERHEAD 256u /* more than a pcapng block adds, and the head */

/* ---- effects ----------------------------------------------------------- */

static void on_deliver(void *context, unsigned port, const void *frame,
                       size_t size)
{
    struct network *net = context;

    port_send(net->ports[port]->io, frame, size);
}

static void on_transmit(void *context, unsigned peer, uint32_t epoch,
                        const void *frame, size_t size)
{
    struct network *net = context;

    tunnel_send_frame(net->tunnel, &net->peers[peer]->address, net->vni, epoch,
                      frame, size);
}

static void on_marker(void *context, unsigned peer,
                      const struct vsw_marker *marker)
{
    struct network *net = context;

    tunnel_send_marker(net->tunnel, &net->peers[peer]->address, net->vni,
                       marker);
}

static void on_record(void *context, unsigned port, uint32_t epoch,
                      const void *frame, size_t size)
{
    struct network *net = context;
    struct network_port *p = net->ports[port];

    if (p->records.size + size + RECORD_OVERHEAD > NETWORK_RECORDS_MAX) {
        net->records_dropped++;
        return;
    }
    if (p->recorded == 0)
        pcapng_begin(&p->records, p->name);
    pcapng_add(&p->records, clock_wall_ns(), epoch, frame, size);
    p->recorded++;
}

static void on_trigger(void *context, uint32_t epoch)
{
    struct network *net = context;

    (void)epoch;
    net->triggered = true;
}

static void on_closed(void *context, uint32_t epoch)
{
    struct network *net = context;

    (void)epoch;
    net->closed = true;
}

static const struct vsw_effects effects = {
    .deliver = on_deliver,
    .transmit = on_transmit,
    .marker = on_marker,
    .record = on_record,
    .trigger = on_trigger,
    .closed = on_closed,
};

void network_after(struct network *net)
{
    uint64_t now_ns = clock_now_ns(), next_ns;
    struct timeval wait;
    uint32_t epoch;

    next_ns = vsw_tick(net->sw, now_ns);
    tunnel_flush(net->tunnel);
    if (net->triggered && vsw_armed(net->sw, &epoch))
        net->events->trigger(net->context, net, epoch);
    if (net->closed)
        net->events->closed(net->context, net);
    net->triggered = net->closed = false;
    next_ns = next_ns > now_ns ? next_ns - now_ns : 0;
    wait.tv_sec = (time_t)(next_ns / VN_SEC);
    wait.tv_usec = (suseconds_t)(next_ns % VN_SEC / 1000);
    event_add(net->tick, &wait);
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    network_after(arg);
}

/* ---- life -------------------------------------------------------------- */

struct network *network_new(uint32_t vni, uint32_t epoch,
                            struct event_base *base, struct tunnel *tunnel,
                            const struct network_events *events, void *context)
{
    struct network *net = vn_alloc(sizeof(*net));

    net->vni = vni;
    net->base = base;
    net->tunnel = tunnel;
    net->events = events;
    net->context = context;
    net->tick = evtimer_new(base, on_tick, net);
    net->sw = vsw_new(&(struct vsw_opts){
        .epoch = epoch, .effects = &effects, .context = net});
    network_after(net);
    return net;
}

static void peer_del(struct network *net, struct network_peer *peer)
{
    vsw_peer_del(net->sw, peer->index, clock_now_ns());
    net->peers[peer->index] = NULL;
    HASH_DEL(net->by_address, peer);
    free(peer);
}

void network_free(struct network *net)
{
    if (!net)
        return;
    for (unsigned i = 0; i < SWITCH_PEERS_MAX; i++) {
        if (net->peers[i])
            peer_del(net, net->peers[i]);
    }
    for (unsigned i = 0; i < SWITCH_PORTS_MAX; i++) {
        if (net->ports[i])
            network_port_del(net->ports[i]);
    }
    vsw_free(net->sw);
    event_free(net->tick);
    free(net);
}

/* ---- peers ------------------------------------------------------------- */

static struct network_peer *peer_at(struct network *net,
                                    const union tunnel_address *address)
{
    struct network_peer *peer;

    HASH_FIND(hh, net->by_address, address, sizeof(*address), peer);
    return peer;
}

bool network_packet(struct network *net, const union tunnel_address *from,
                    const struct geneve_packet *packet)
{
    struct network_peer *peer = peer_at(net, from);

    if (!peer)
        return false;
    if (packet->is_marker)
        vsw_marker_from_peer(net->sw, peer->index, &packet->marker,
                             clock_now_ns());
    else
        vsw_from_peer(net->sw, peer->index, packet->epoch, packet->frame,
                      packet->frame_size, clock_now_ns());
    return true;
}

static void peer_add(struct network *net, const struct network_peer_spec *spec)
{
    struct network_peer *peer = vn_alloc(sizeof(*peer));

    while (net->peers[peer->index])
        peer->index++;
    assert(peer->index < SWITCH_PEERS_MAX);
    peer->address = spec->address;
    net->peers[peer->index] = peer;
    HASH_ADD(hh, net->by_address, address, sizeof(peer->address), peer);
    vsw_peer_add(net->sw, peer->index);
}

static bool is_listed(const struct network_peer *peer,
                      const struct network_peer_spec *specs, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (memcmp(&specs[i].address, &peer->address, sizeof(peer->address)) ==
            0)
            return true;
    }
    return false;
}

int network_set_peers(struct network *net,
                      const struct network_peer_spec *specs, size_t count,
                      struct vn_err *err)
{
    if (count > SWITCH_PEERS_MAX)
        return vn_fail(err, VN_E_LIMIT, "network %u: %zu peers", net->vni,
                       count);
    for (size_t i = 0; i < count; i++) {
        const struct network_peer probe = {.address = specs[i].address};

        if (is_listed(&probe, specs, i))
            return vn_fail(err, VN_E_EXISTS,
                           "network %u: the address of peer '%s' is taken",
                           net->vni, specs[i].name);
    }
    for (unsigned i = 0; i < SWITCH_PEERS_MAX; i++) {
        if (net->peers[i] && !is_listed(net->peers[i], specs, count))
            peer_del(net, net->peers[i]);
    }
    for (size_t i = 0; i < count; i++) {
        struct network_peer *peer;

        if (!peer_at(net, &specs[i].address))
            peer_add(net, &specs[i]);
        peer = peer_at(net, &specs[i].address);
        snprintf(peer->name, sizeof(peer->name), "%s", specs[i].name);
    }
    return 0;
}

/* ---- ports ------------------------------------------------------------- */

static void on_port_frame(void *context, const void *frame, size_t size)
{
    struct network_port *port = context;

    vsw_from_port(port->net->sw, port->index, frame, size, clock_now_ns());
}

static void on_port_batch_end(void *context)
{
    struct network_port *port = context;

    network_after(port->net);
}

const struct port_events network_port_events = {
    .frame = on_port_frame,
    .batch_end = on_port_batch_end,
};

struct network_port *network_port_new(struct network *net, const char *name,
                                      struct vn_err *err)
{
    struct vn_err unused = VN_ERR_INIT;
    struct network_port *port;
    unsigned index = 0;

    if (*name == 0 || strlen(name) > NETWORK_NAME_MAX)
        return vn_fail_ptr(err, VN_E_LIMIT, "port name '%.80s'", name);
    if (network_port_find(net, name, &unused))
        return vn_fail_ptr(err, VN_E_EXISTS, "network %u: port '%s'", net->vni,
                           name);
    while (index < SWITCH_PORTS_MAX && net->ports[index])
        index++;
    if (index == SWITCH_PORTS_MAX)
        return vn_fail_ptr(err, VN_E_LIMIT, "network %u has %u ports", net->vni,
                           SWITCH_PORTS_MAX);
    port = vn_alloc(sizeof(*port));
    strcpy(port->name, name);
    port->index = index;
    port->net = net;
    buf_init(&port->records, NETWORK_RECORDS_MAX);
    net->ports[index] = port;
    return port;
}

void network_port_join(struct network_port *port, struct port *io, bool held)
{
    port->io = io;
    vsw_port_add(port->net->sw, port->index, held);
}

void network_port_del(struct network_port *port)
{
    struct network *net = port->net;

    if (port->io)
        vsw_port_del(net->sw, port->index);
    net->ports[port->index] = NULL;
    port_free(port->io);
    buf_done(&port->records);
    free(port);
}

struct network_port *network_port_find(struct network *net, const char *name,
                                       struct vn_err *err)
{
    for (unsigned i = 0; i < SWITCH_PORTS_MAX; i++) {
        if (net->ports[i] && strcmp(net->ports[i]->name, name) == 0)
            return net->ports[i];
    }
    return vn_fail_ptr(err, VN_E_NOT_FOUND, "network %u has no port '%s'",
                       net->vni, name);
}

/* ---- statistics -------------------------------------------------------- */

static json_t *port_stats(const struct network_port *port)
{
    struct port_counts c;

    port_counts(port->io, &c);
    return json_pack(
        "{s:s, s:s, s:o, s:b, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}",
        "name", port->name, "kind", port_kind(port->io), "epoch",
        jsonx_int(vsw_port_epoch(port->net->sw, port->index)), "held",
        vsw_port_held(port->net->sw, port->index), "rx_frames",
        jsonx_int(c.rx_frames), "rx_bytes", jsonx_int(c.rx_bytes), "rx_dropped",
        jsonx_int(c.rx_dropped), "rx_malformed", jsonx_int(c.rx_malformed),
        "tx_frames", jsonx_int(c.tx_frames), "tx_bytes", jsonx_int(c.tx_bytes),
        "tx_dropped", jsonx_int(c.tx_dropped), "tx_waiting",
        jsonx_int(c.tx_waiting), "recorded", jsonx_int(port->recorded));
}

static json_t *count_stats(const struct vsw *sw)
{
    struct vsw_counts c;

    vsw_counts(sw, &c);
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "delivered",
                     jsonx_int(c.delivered), "transmitted",
                     jsonx_int(c.transmitted), "flooded", jsonx_int(c.flooded),
                     "held", jsonx_int(c.held), "recorded",
                     jsonx_int(c.recorded), "dropped", jsonx_int(c.dropped),
                     "malformed", jsonx_int(c.malformed));
}

json_t *network_stats(const struct network *net)
{
    json_t *ports = json_array(), *peers = json_array();
    uint32_t armed;

    for (unsigned i = 0; i < SWITCH_PORTS_MAX; i++) {
        if (net->ports[i] && net->ports[i]->io)
            json_array_append_new(ports, port_stats(net->ports[i]));
    }
    for (unsigned i = 0; i < SWITCH_PEERS_MAX; i++) {
        char address[TUNNEL_ADDRESS_SIZE];

        if (!net->peers[i])
            continue;
        tunnel_format_address(&net->peers[i]->address, address);
        json_array_append_new(peers, json_pack("{s:s, s:s}", "name",
                                               net->peers[i]->name, "address",
                                               address));
    }
    return json_pack(
        "{s:o, s:o, s:o, s:b, s:o, s:o, s:o}", "vni", jsonx_int(net->vni),
        "epoch", jsonx_int(vsw_epoch(net->sw)), "armed",
        vsw_armed(net->sw, &armed) ? jsonx_int(armed) : json_null(), "closed",
        vsw_is_closed(net->sw), "counts", count_stats(net->sw), "ports", ports,
        "peers", peers);
}
