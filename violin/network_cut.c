/*
 * The cut of a network in violind: the calls of violin/client.h that need the
 * switch and the sockets together.
 *
 * The order in network_cut() matters: the VMs are stopped, so all that they
 * ever sent in the old epoch lies in their sockets. It is read, and goes out
 * with the old epoch, before the first port is moved.
 */
#include "common/clock.h"
#include "common/ctl.h"
#include "common/jsonx.h"
#include "violin/hold.h"
#include "violin/network.h"
#include "violin/pcapng.h"
#include "violin/serial.h"

#include <assert.h>

static void forget_records(struct network *net)
{
    for (unsigned i = 0; i < SWITCH_PORTS_MAX; i++) {
        struct network_port *port = net->ports[i];

        if (!port)
            continue;
        port->recorded = 0;
        buf_done(&port->records);
        buf_init(&port->records, NETWORK_RECORDS_MAX);
    }
    net->armed_by = NULL;
}

static uint64_t rx_dropped(const struct network_port *port)
{
    struct port_counts c;

    port_counts(port->io, &c);
    return c.rx_dropped;
}

/* From the arm on: a frame that is lost before the switch is lost to a cut. */
static void begin_counts(struct network *net)
{
    net->unsettled = net->missing = net->records_dropped = 0;
    for (unsigned i = 0; i < SWITCH_PORTS_MAX; i++) {
        if (net->ports[i])
            net->ports[i]->rx_dropped_before = rx_dropped(net->ports[i]);
    }
}

int network_arm(struct network *net, uint32_t epoch, const void *client,
                struct vn_err *err)
{
    uint32_t armed;
    bool open = vsw_armed(net->sw, &armed);

    if (open && armed != epoch)
        return vn_fail(err, VN_E_STATE,
                       "network %u: a cut to epoch %u is already open",
                       net->vni, armed);
    if (!serial_newer(epoch, vsw_epoch(net->sw)))
        return vn_fail(err, VN_E_STATE,
                       "network %u: no cut to epoch %u, it is in epoch %u",
                       net->vni, epoch, vsw_epoch(net->sw));
    if (!open) {
        forget_records(net);
        begin_counts(net);
        vsw_arm(net->sw, epoch, clock_now_ns());
    }
    net->armed_by = client;
    return 0;
}

int network_check_armed(const struct network *net, struct vn_err *err)
{
    uint32_t armed;

    if (vsw_armed(net->sw, &armed))
        return 0;
    return vn_fail(err, VN_E_STATE, "network %u: no cut is open", net->vni);
}

int network_check_over(const struct network *net, struct vn_err *err)
{
    uint32_t armed = 0;

    if (network_check_armed(net, err))
        return -1;
    vsw_armed(net->sw, &armed);
    for (unsigned i = 0; i < SWITCH_PORTS_MAX; i++) {
        if (net->ports[i] && vsw_port_epoch(net->sw, i) != armed)
            return vn_fail(err, VN_E_STATE,
                           "network %u: port '%s' is not cut yet", net->vni,
                           net->ports[i]->name);
    }
    return 0;
}

int network_check_marked(const struct network *net, struct vn_err *err)
{
    if (network_check_over(net, err))
        return -1;
    for (unsigned i = 0; i < SWITCH_PEERS_MAX; i++) {
        if (net->peers[i] && !vsw_peer_marked(net->sw, i))
            return vn_fail(err, VN_E_TIMEOUT,
                           "network %u: the switch of host '%s' did not close "
                           "its channel",
                           net->vni, net->peers[i]->name);
    }
    return 0;
}

int network_cut(struct network *net, struct network_port *const *ports,
                size_t count, struct vn_err *err)
{
    if (network_check_armed(net, err))
        return -1;
    for (size_t i = 0; i < count; i++)
        port_drain(ports[i]->io);
    for (size_t i = 0; i < count; i++)
        vsw_cut(net->sw, ports[i]->index, clock_now_ns());
    return 0;
}

void network_release(struct network_port *port)
{
    port->holder = NULL;
    vsw_release(port->net->sw, port->index);
}

int network_finish(struct network *net, uint32_t epoch, struct vn_err *err)
{
    uint32_t armed;

    if (!vsw_armed(net->sw, &armed)) {
        if (!serial_newer(epoch, vsw_epoch(net->sw)))
            return 0;
        return network_check_armed(net, err);
    }
    if (armed != epoch)
        return vn_fail(err, VN_E_STATE,
                       "network %u: the open cut is to epoch %u, not %u",
                       net->vni, armed, epoch);
    if (network_check_over(net, err))
        return -1;
    vsw_finish(net->sw, epoch);
    forget_records(net);
    return 0;
}

void network_abort(struct network *net, uint32_t epoch)
{
    uint32_t armed;

    vsw_abort(net->sw, epoch);
    if (vsw_armed(net->sw, &armed))
        return; /* a newer cut than the one to give up */
    forget_records(net);
    for (unsigned i = 0; i < SWITCH_PORTS_MAX; i++) {
        if (net->ports[i] && !vsw_port_held(net->sw, i))
            net->ports[i]->holder = NULL;
    }
}

void network_client_gone(struct network *net, const void *client)
{
    uint32_t armed;

    if (net->armed_by == client && vsw_armed(net->sw, &armed))
        network_abort(net, armed);
    for (unsigned i = 0; i < SWITCH_PORTS_MAX; i++) {
        if (net->ports[i] && net->ports[i]->holder == client)
            network_release(net->ports[i]);
    }
    network_after(net);
}

json_t *network_report(const struct network *net)
{
    struct vsw_counts c;
    uint64_t dropped;

    vsw_counts(net->sw, &c);
    dropped = c.dropped + net->records_dropped;
    for (unsigned i = 0; i < SWITCH_PORTS_MAX; i++) {
        if (net->ports[i])
            dropped +=
                rx_dropped(net->ports[i]) - net->ports[i]->rx_dropped_before;
    }
    return json_pack(
        "{s:o, s:o, s:o, s:o, s:o, s:b}", "frames_held", jsonx_int(c.held),
        "frames_recorded", jsonx_int(c.recorded), "frames_dropped",
        jsonx_int(dropped), "frames_missing", jsonx_int(net->missing),
        "ports_unsettled", jsonx_int(net->unsettled), "lossless",
        dropped == 0 && net->missing == 0 && net->unsettled == 0);
}

int network_records(const struct network_port *port, int *ret_fd,
                    struct vn_err *err)
{
    int fd = -1;

    if (network_check_armed(port->net, err))
        return -1;
    if (port->recorded) {
        if (buf_check(&port->records, "the records of a port", err))
            return -1;
        fd = ctl_memfd(port->name, port->records.data, port->records.size, err);
        if (fd < 0)
            return -1;
    }
    *ret_fd = fd;
    return 0;
}

int network_replay(struct network_port *port, const void *data, size_t size,
                   struct vn_err *err)
{
    struct pcapng_frame frame;
    struct pcapng_reader r;
    uint64_t bytes = 0;
    int got;

    if (!vsw_port_held(port->net->sw, port->index))
        return vn_fail(err, VN_E_STATE, "port '%s' is not held", port->name);
    pcapng_open(&r, data, size);
    while ((got = pcapng_next(&r, &frame, err)) > 0)
        bytes += frame.size + HOLD_OVERHEAD;
    if (got < 0)
        return vn_wrap(err, "replay to port '%s'", port->name);
    if (bytes > vsw_replay_room(port->net->sw, port->index))
        return vn_fail(err, VN_E_LIMIT, "replay of %ju bytes to port '%s'",
                       (uintmax_t)bytes, port->name);
    pcapng_open(&r, data, size);
    while (pcapng_next(&r, &frame, err) > 0)
        vsw_replay(port->net->sw, port->index, frame.data, frame.size);
    return 0;
}
