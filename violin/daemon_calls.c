/*
 * The calls of violind's control socket: one function a call, one table.
 *
 * A function reads its arguments strictly, then acts; on failure nothing has
 * changed, and its error is the answer. Those that return CALL_LATER have
 * answered, or will, themselves. docs/formats/violin-control.md describes
 * each call; violin/client.h is what agents use.
 */
#include "common/clock.h"
#include "common/jsonx.h"
#include "violin/daemon_internal.h"
#include "violin/serial.h"

#include <string.h>
#include <unistd.h>

#define SETTLE_MS_MAX  60000u
#define TIMEOUT_MS_MAX 3600000u
#define CALL_LATER     1

struct call {
    struct daemon *daemon;
    struct client *client;
    struct ctl_packet *packet;
    uint64_t id;
    json_t *args;
    struct network *net; /* except for calls without one */
    json_t *ok;          /* out: the answer; NULL: an empty one */
    int fd;              /* out: to go with it, and be closed; or -1 */
};

typedef int call_fn(struct call *call, struct vn_err *err);

/* ---- arguments --------------------------------------------------------- */

static int read_vni(const json_t *args, uint32_t *ret, struct vn_err *err)
{
    uint32_t vni;

    if (jsonx_u32(args, "vni", GENEVE_VNI_MAX, &vni, err))
        return -1;
    if (vni == 0)
        return vn_fail(err, VN_E_FORMAT, "network number 0 is not allowed");
    *ret = vni;
    return 0;
}

static int read_epoch(const json_t *args, uint32_t *ret, struct vn_err *err)
{
    return jsonx_u32(args, "epoch", UINT32_MAX, ret, err);
}

static struct network_port *read_port(struct call *call, struct vn_err *err)
{
    const char *name;

    if (jsonx_string(call->args, "port", &name, err))
        return NULL;
    return network_port_find(call->net, name, err);
}

struct port_list {
    struct network_port *ports[SWITCH_PORTS_MAX];
    size_t count;
};

static int read_ports(struct call *call, struct port_list *ret,
                      struct vn_err *err)
{
    json_t *array, *item;
    size_t i;

    if (jsonx_array(call->args, "ports", &array, err))
        return -1;
    if (json_array_size(array) > SWITCH_PORTS_MAX)
        return vn_fail(err, VN_E_LIMIT, "%zu ports", json_array_size(array));
    ret->count = 0;
    json_array_foreach (array, i, item) {
        const char *name = json_string_value(item);

        if (!name)
            return vn_fail(err, VN_E_FORMAT, "ports[%zu] is not a name", i);
        ret->ports[ret->count] = network_port_find(call->net, name, err);
        if (!ret->ports[ret->count])
            return -1;
        ret->count++;
    }
    return 0;
}

static int take_fd(struct call *call, struct vn_err *err)
{
    int fd = ctl_packet_take_fd(call->packet, 0);

    if (fd < 0)
        return vn_fail(err, VN_E_FORMAT, "the call came without a descriptor");
    return fd;
}

/* ---- networks, peers, ports -------------------------------------------- */

static int call_net_add(struct call *call, struct vn_err *err)
{
    struct daemon *daemon = call->daemon;
    uint32_t vni, epoch;
    struct network *net;

    if (read_vni(call->args, &vni, err) || read_epoch(call->args, &epoch, err))
        return -1;
    if (daemon_network(daemon, vni))
        return vn_fail(err, VN_E_EXISTS, "network %u", vni);
    if (HASH_COUNT(daemon->networks) >= DAEMON_NETWORKS_MAX)
        return vn_fail(err, VN_E_LIMIT, "%d networks", DAEMON_NETWORKS_MAX);
    net = network_new(vni, epoch, daemon->base, daemon->tunnel,
                      &daemon_network_events, daemon);
    HASH_ADD(hh, daemon->networks, vni, sizeof(net->vni), net);
    return 0;
}

static int call_net_del(struct call *call, struct vn_err *err)
{
    struct network *net;
    uint32_t vni;

    if (read_vni(call->args, &vni, err))
        return -1;
    net = daemon_network(call->daemon, vni);
    if (!net)
        return 0;
    wait_cut_ended(call->daemon, net);
    HASH_DEL(call->daemon->networks, net);
    network_free(net);
    return 0;
}

static int read_peer(struct call *call, const json_t *item,
                     struct network_peer_spec *ret, struct vn_err *err)
{
    union tunnel_address own;
    const char *address;

    if (jsonx_string(item, "name", &ret->name, err) ||
        jsonx_string(item, "address", &address, err) ||
        tunnel_parse_address(address, &ret->address, err))
        return -1;
    if (*ret->name == 0 || strlen(ret->name) > NETWORK_NAME_MAX)
        return vn_fail(err, VN_E_LIMIT, "peer name '%.80s'", ret->name);
    tunnel_address(call->daemon->tunnel, &own);
    if (own.any.sa_family != ret->address.any.sa_family)
        return vn_fail(err, VN_E_UNSUPPORTED,
                       "peer '%s': %s is of another family than the underlay",
                       ret->name, address);
    if (memcmp(&own, &ret->address, sizeof(own)) == 0)
        return vn_fail(err, VN_E_FORMAT, "peer '%s': %s is this switch",
                       ret->name, address);
    return 0;
}

static int call_peers_set(struct call *call, struct vn_err *err)
{
    struct network_peer_spec specs[SWITCH_PEERS_MAX];
    json_t *array, *item;
    size_t i;

    if (jsonx_array(call->args, "peers", &array, err))
        return -1;
    if (json_array_size(array) > SWITCH_PEERS_MAX)
        return vn_fail(err, VN_E_LIMIT, "%zu peers", json_array_size(array));
    json_array_foreach (array, i, item) {
        if (read_peer(call, item, &specs[i], err))
            return vn_wrap(err, "peers[%zu]", i);
    }
    return network_set_peers(call->net, specs, json_array_size(array), err);
}

static struct port *open_port(struct call *call, const char *kind,
                              struct network_port *port, struct vn_err *err)
{
    struct port_loop *loop = &call->daemon->ports;
    const char *interface, *local, *remote;

    if (strcmp(kind, "fd") == 0) {
        vn_auto(close) int fd = take_fd(call, err);
        struct port *io;

        if (fd < 0)
            return NULL;
        io = port_new_fd(loop, fd, &network_port_events, port, err);
        if (io)
            fd = -1; /* the port's now */
        return io;
    }
    if (strcmp(kind, "tap") == 0) {
        if (jsonx_string(call->args, "interface", &interface, err))
            return NULL;
        return port_new_tap(loop, interface, &network_port_events, port, err);
    }
    if (strcmp(kind, "packet") == 0) {
        if (jsonx_string(call->args, "interface", &interface, err))
            return NULL;
        return port_new_packet(loop, interface, &network_port_events, port,
                               err);
    }
    if (strcmp(kind, "unix") == 0) {
        if (jsonx_string(call->args, "local", &local, err) ||
            jsonx_string(call->args, "remote", &remote, err))
            return NULL;
        return port_new_unix(loop, local, remote, &network_port_events, port,
                             err);
    }
    return vn_fail_ptr(err, VN_E_UNSUPPORTED, "port kind '%s'", kind);
}

static int call_port_add(struct call *call, struct vn_err *err)
{
    struct network_port *port;
    const char *name, *kind;
    struct port *io;
    bool held;

    if (jsonx_string(call->args, "port", &name, err) ||
        jsonx_string(call->args, "kind", &kind, err) ||
        jsonx_bool(call->args, "held", &held, err))
        return -1;
    port = network_port_new(call->net, name, err);
    if (!port)
        return -1;
    io = open_port(call, kind, port, err);
    if (!io) {
        network_port_del(port);
        return vn_wrap(err, "port '%s'", name);
    }
    network_port_join(port, io, held);
    port->holder = held ? call->client : NULL;
    return 0;
}

static int call_port_del(struct call *call, struct vn_err *err)
{
    struct network_port *port = read_port(call, err);

    if (!port)
        return err->code == VN_E_NOT_FOUND ? 0 : -1;
    wait_port_gone(call->daemon, port);
    network_port_del(port);
    return 0;
}

/* ---- the cut ----------------------------------------------------------- */

static int call_arm(struct call *call, struct vn_err *err)
{
    uint32_t epoch;

    if (read_epoch(call->args, &epoch, err))
        return -1;
    return network_arm(call->net, epoch, call->client, err);
}

static int call_hold(struct call *call, struct vn_err *err)
{
    struct port_list list;
    uint32_t settle_ms;

    if (read_ports(call, &list, err) ||
        jsonx_u32(call->args, "settle_ms", SETTLE_MS_MAX, &settle_ms, err))
        return -1;
    /* Nothing can arrive between these two, so their order is free. */
    if (wait_for_settled(call->client, call->id, call->net, list.ports,
                         list.count, settle_ms, err))
        return -1;
    for (size_t i = 0; i < list.count; i++) {
        vsw_hold(call->net->sw, list.ports[i]->index);
        list.ports[i]->holder = call->client;
    }
    return CALL_LATER;
}

static int call_cut(struct call *call, struct vn_err *err)
{
    struct port_list list;

    if (read_ports(call, &list, err))
        return -1;
    return network_cut(call->net, list.ports, list.count, err);
}

static int call_release(struct call *call, struct vn_err *err)
{
    struct network_port *port = read_port(call, err);

    if (!port)
        return -1;
    network_release(port);
    return 0;
}

static int call_await_closed(struct call *call, struct vn_err *err)
{
    uint32_t marker_ms, patience_ms;

    if (jsonx_u32(call->args, "marker_ms", TIMEOUT_MS_MAX, &marker_ms, err) ||
        jsonx_u32(call->args, "patience_ms", TIMEOUT_MS_MAX, &patience_ms, err))
        return -1;
    if (wait_for_closed(call->client, call->id, call->net, marker_ms,
                        patience_ms, err))
        return -1;
    return CALL_LATER;
}

static int call_records(struct call *call, struct vn_err *err)
{
    struct network_port *port = read_port(call, err);

    if (!port || network_records(port, &call->fd, err))
        return -1;
    call->ok = json_pack("{s:o}", "frames", jsonx_int(port->recorded));
    return 0;
}

static int call_finish(struct call *call, struct vn_err *err)
{
    uint32_t epoch;

    if (read_epoch(call->args, &epoch, err) ||
        network_finish(call->net, epoch, err))
        return -1;
    wait_cut_ended(call->daemon, call->net);
    return 0;
}

static int call_abort(struct call *call, struct vn_err *err)
{
    uint32_t epoch, armed;

    if (read_epoch(call->args, &epoch, err))
        return -1;
    network_abort(call->net, epoch);
    if (!vsw_armed(call->net->sw, &armed))
        wait_cut_ended(call->daemon, call->net);
    return 0;
}

static int call_replay(struct call *call, struct vn_err *err)
{
    struct network_port *port = read_port(call, err);
    vn_auto(close) int fd = -1;
    vn_auto(free) void *data = NULL;
    size_t size;

    if (!port)
        return -1;
    fd = take_fd(call, err);
    if (fd < 0 || ctl_read_fd(fd, NETWORK_REPLAY_MAX, &data, &size, err))
        return -1;
    return network_replay(port, data, size, err);
}

/* ---- watching ---------------------------------------------------------- */

static int call_stats(struct call *call, struct vn_err *err)
{
    struct daemon *daemon = call->daemon;
    json_t *networks = json_array();
    char underlay[TUNNEL_ADDRESS_SIZE];
    union tunnel_address address;
    struct network *net, *next;
    struct tunnel_counts c;

    (void)err;
    HASH_ITER (hh, daemon->networks, net, next)
        json_array_append_new(networks, network_stats(net));
    tunnel_address(daemon->tunnel, &address);
    tunnel_format_address(&address, underlay);
    tunnel_counts(daemon->tunnel, &c);
    call->ok = json_pack(
        "{s:s, s:s, s:{s:o, s:o, s:o, s:o, s:o, s:o, s:o}, s:o}", "version",
        VN_VERSION, "underlay", underlay, "tunnel", "rx_packets",
        jsonx_int(c.rx_packets), "rx_bytes", jsonx_int(c.rx_bytes),
        "rx_malformed", jsonx_int(c.rx_malformed), "rx_unknown",
        jsonx_int(daemon->unknown_packets), "tx_packets",
        jsonx_int(c.tx_packets), "tx_bytes", jsonx_int(c.tx_bytes),
        "tx_dropped", jsonx_int(c.tx_dropped), "networks", networks);
    return 0;
}

/* ---- the table --------------------------------------------------------- */

static const struct {
    const char *name;
    call_fn *call;
    bool has_network; /* "vni" names one that must exist */
} table[] = {
    {"net_add", call_net_add, false},
    {"net_del", call_net_del, false},
    {"peers_set", call_peers_set, true},
    {"port_add", call_port_add, true},
    {"port_del", call_port_del, true},
    {"arm", call_arm, true},
    {"hold", call_hold, true},
    {"cut", call_cut, true},
    {"release", call_release, true},
    {"await_closed", call_await_closed, true},
    {"records", call_records, true},
    {"finish", call_finish, true},
    {"abort", call_abort, true},
    {"replay", call_replay, true},
    {"stats", call_stats, false},
};

static int run_call(struct call *call, const char *name, struct vn_err *err)
{
    for (size_t i = 0; i < VN_COUNT(table); i++) {
        uint32_t vni;

        if (strcmp(table[i].name, name) != 0)
            continue;
        if (table[i].has_network) {
            if (read_vni(call->args, &vni, err))
                return -1;
            call->net = daemon_network(call->daemon, vni);
            if (!call->net)
                return vn_fail(err, VN_E_NOT_FOUND, "no network %u", vni);
        }
        return table[i].call(call, err);
    }
    return vn_fail(err, VN_E_UNSUPPORTED, "unknown call '%.80s'", name);
}

void daemon_call(struct client *client, struct ctl_packet *packet)
{
    struct call call = {
        .daemon = client->daemon, .client = client, .packet = packet, .fd = -1};
    struct vn_err err = VN_ERR_INIT;
    const char *name;
    int result;

    if (jsonx_u64(packet->json, "id", &call.id, &err) ||
        jsonx_string(packet->json, "call", &name, &err) ||
        jsonx_object(packet->json, "args", &call.args, &err))
        result = -1;
    else
        result = run_call(&call, name, &err);
    if (call.net)
        network_after(call.net);
    daemon_review_urgency(client->daemon);
    if (result < 0)
        daemon_reply_error(client, call.id, &err);
    else if (result != CALL_LATER)
        daemon_reply_ok(client, call.id, call.ok, call.fd);
    if (call.fd >= 0)
        close(call.fd);
}
