/*
 * One virtual network on one host: the pure switch.
 *
 * How it works. The network is in an epoch (`epoch`); an open cut has a newer
 * one (`armed`), and each port is in one of the two. A frame from a VM takes
 * its port's epoch; one from a peer brings its own. The forwarding decision
 * is an ordinary learning switch: known address to its place, all else to
 * every other local port and, when it came from a local port, to every peer.
 * Frames from a peer are never sent to a peer: hosts form a full mesh, so
 * this split horizon means no loops. egress() then applies the rule of
 * switch.h for each destination port.
 *
 * Each port has two queues: `replay`, the channel state of a restored
 * snapshot, and `queue`, what waits. A port that is held explicitly queues
 * everything; one that is not queues only what is newer than itself.
 *
 * A frame is recorded once, at one of two places: at its arrival, if the port
 * is already in the armed epoch and the frame is older; or in vsw_cut(), for
 * each older frame that waits at that moment.
 *
 * Closing a channel: channel.c. The switch says closed() once, when all its
 * own ports are over and every peer's channel is complete.
 *
 * Adoption. A network that is not armed and receives a frame of a newer epoch
 * moves all its ports there and delivers it. The cut that began that epoch
 * cannot commit: either it needs this host, which has given it up (its lease
 * ended) or never agreed, or this network has no part in it. Holding would
 * block the VMs for an event that will not come.
 *
 * Invariants (vsw_check): not armed: every port is in `epoch`. Armed: every
 * port is in `epoch` or `armed`, `armed` is the newer. The queue of a port
 * that is not held holds only frames newer than the port, and its replay is
 * empty. `over` is the number of ports in `armed`.
 *
 * Limits: two bounded queues a port; what overflows is dropped and counted.
 * Concurrency: none; one caller at a time. Not done: duplicates that the
 * underlay makes are not recognised (that needs a counter in every frame,
 * DESIGN section 4); one can hide the loss of another frame from the count.
 */
#include "violin/switch.h"

#include "common/auto.h"
#include "violin/switch_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define HOLD_BYTES_DEFAULT (64u << 20)
#define MARKER_REPEAT_NS   5000000ull
#define FDB_SWEEP_NS       30000000000ull

/* ---- life -------------------------------------------------------------- */

struct vsw *vsw_new(const struct vsw_opts *opts)
{
    struct vsw *sw = vn_alloc(sizeof(*sw));

    sw->opts = *opts;
    if (sw->opts.hold_bytes_per_port == 0)
        sw->opts.hold_bytes_per_port = HOLD_BYTES_DEFAULT;
    if (sw->opts.marker_repeat_ns == 0)
        sw->opts.marker_repeat_ns = MARKER_REPEAT_NS;
    sw->epoch = opts->epoch;
    sw->fdb = fdb_new();
    return sw;
}

void vsw_free(struct vsw *sw)
{
    if (!sw)
        return;
    for (unsigned i = 0; i < sw->ports_end; i++) {
        hold_clear(&sw->ports[i].queue);
        hold_clear(&sw->ports[i].replay);
    }
    fdb_free(sw->fdb);
    free(sw);
}

static struct vsw_port *port_at(struct vsw *sw, unsigned port)
{
    if (port >= sw->ports_end || !sw->ports[port].used)
        return NULL;
    return &sw->ports[port];
}

void vsw_port_add(struct vsw *sw, unsigned port, bool held)
{
    struct vsw_port *p;

    assert(port < SWITCH_PORTS_MAX && !sw->ports[port].used);
    p = &sw->ports[port];
    *p = (struct vsw_port){.used = true, .held = held};
    p->epoch = sw->is_armed ? sw->armed : sw->epoch;
    hold_init(&p->queue, sw->opts.hold_bytes_per_port);
    hold_init(&p->replay, sw->opts.hold_bytes_per_port);
    sw->port_count++;
    sw->over += sw->is_armed;
    if (port >= sw->ports_end)
        sw->ports_end = port + 1;
}

void vsw_port_del(struct vsw *sw, unsigned port)
{
    struct vsw_port *p = port_at(sw, port);

    if (!p)
        return;
    sw->over -= sw->is_armed && p->epoch == sw->armed;
    sw->port_count--;
    hold_clear(&p->queue);
    hold_clear(&p->replay);
    p->used = false;
    fdb_forget(sw->fdb, (struct fdb_place){FDB_PORT, port});
    channel_review(sw); /* it may have been the last one not over */
}

void vsw_peer_add(struct vsw *sw, unsigned peer)
{
    assert(peer < SWITCH_PEERS_MAX && !sw->peers[peer].used);
    sw->peers[peer] = (struct vsw_peer){.used = true};
    if (peer >= sw->peers_end)
        sw->peers_end = peer + 1;
    channel_review(sw);
}

void vsw_peer_del(struct vsw *sw, unsigned peer, uint64_t now_ns)
{
    if (peer >= sw->peers_end || !sw->peers[peer].used)
        return;
    sw->now_ns = now_ns;
    sw->peers[peer].used = false;
    fdb_forget(sw->fdb, (struct fdb_place){FDB_PEER, peer});
    channel_review(sw);
}

/* ---- frames ------------------------------------------------------------ */

static void deliver(struct vsw *sw, unsigned port, const void *frame,
                    size_t size)
{
    sw->counts.delivered++;
    sw->opts.effects->deliver(sw->opts.context, port, frame, size);
}

static void record(struct vsw *sw, unsigned port, uint32_t epoch,
                   const void *frame, size_t size)
{
    sw->counts.recorded++;
    sw->opts.effects->record(sw->opts.context, port, epoch, frame, size);
}

/* The rule of DESIGN section 4, for one destination port. */
static void egress(struct vsw *sw, unsigned port, uint32_t epoch,
                   const void *frame, size_t size)
{
    struct vsw_port *p = &sw->ports[port];

    if (sw->is_armed && p->epoch == sw->armed && serial_older(epoch, p->epoch))
        record(sw, port, epoch, frame, size);
    if (!p->held && !serial_newer(epoch, p->epoch)) {
        deliver(sw, port, frame, size);
    } else if (hold_push(&p->queue, epoch, frame, size)) {
        sw->counts.held++;
    } else {
        p->dropped++;
        sw->counts.dropped++;
    }
}

static void transmit(struct vsw *sw, unsigned peer, uint32_t epoch,
                     const void *frame, size_t size)
{
    tally_add(&sw->peers[peer].sent, epoch);
    sw->counts.transmitted++;
    sw->opts.effects->transmit(sw->opts.context, peer, epoch, frame, size);
}

/* Learn the source, then send the frame where its destination is. */
static void forward(struct vsw *sw, struct fdb_place from, uint32_t epoch,
                    const void *frame, size_t size)
{
    const uint8_t *destination = frame;
    struct fdb_place to;

    fdb_learn(sw->fdb, destination + FDB_MAC_SIZE, from, sw->now_ns);
    if (!(destination[0] & 1) &&
        fdb_find(sw->fdb, destination, sw->now_ns, &to)) {
        if (to.kind == FDB_PEER && from.kind == FDB_PORT)
            transmit(sw, to.index, epoch, frame, size);
        else if (to.kind == FDB_PORT &&
                 (from.kind != FDB_PORT || from.index != to.index))
            egress(sw, to.index, epoch, frame, size);
        return;
    }
    sw->counts.flooded++;
    for (unsigned i = 0; i < sw->ports_end; i++) {
        if (sw->ports[i].used && (from.kind != FDB_PORT || from.index != i))
            egress(sw, i, epoch, frame, size);
    }
    for (unsigned i = 0; from.kind == FDB_PORT && i < sw->peers_end; i++) {
        if (sw->peers[i].used)
            transmit(sw, i, epoch, frame, size);
    }
}

static bool is_possible(struct vsw *sw, bool known, size_t size)
{
    if (known && size >= SWITCH_FRAME_MIN && size <= SWITCH_FRAME_MAX)
        return true;
    sw->counts.malformed++;
    return false;
}

void vsw_from_port(struct vsw *sw, unsigned port, const void *frame,
                   size_t size, uint64_t now_ns)
{
    const struct vsw_port *p = port_at(sw, port);

    sw->now_ns = now_ns;
    if (is_possible(sw, p != NULL, size))
        forward(sw, (struct fdb_place){FDB_PORT, port}, p->epoch, frame, size);
}

/* Move all ports to `epoch` and deliver what no longer has to wait. */
static void move_all(struct vsw *sw, uint32_t epoch);

void vsw_from_peer(struct vsw *sw, unsigned peer, uint32_t epoch,
                   const void *frame, size_t size, uint64_t now_ns)
{
    bool known = peer < sw->peers_end && sw->peers[peer].used;

    sw->now_ns = now_ns;
    if (!is_possible(sw, known, size))
        return;
    tally_add(&sw->peers[peer].received, epoch);
    if (!sw->is_armed && serial_newer(epoch, sw->epoch))
        move_all(sw, epoch);
    if (sw->is_armed && epoch == sw->armed && !sw->triggered &&
        sw->over < sw->port_count) {
        sw->triggered = true;
        sw->opts.effects->trigger(sw->opts.context, epoch);
    }
    forward(sw, (struct fdb_place){FDB_PEER, peer}, epoch, frame, size);
    channel_review(sw);
}

/* ---- the cut ----------------------------------------------------------- */

/* Deliver what waits, oldest first, except what is newer than the port. */
static void flush(struct vsw *sw, unsigned port)
{
    struct vsw_port *p = &sw->ports[port];
    struct hold_frame frame;
    struct hold later;

    if (p->held)
        return;
    while (hold_front(&p->replay, &frame)) {
        deliver(sw, port, frame.data, frame.size);
        hold_pop(&p->replay);
    }
    hold_init(&later, p->queue.limit);
    while (hold_front(&p->queue, &frame)) {
        if (!serial_newer(frame.epoch, p->epoch)) {
            deliver(sw, port, frame.data, frame.size);
        } else if (!hold_push(&later, frame.epoch, frame.data, frame.size)) {
            p->dropped++; /* only where memory is out: it fitted before */
            sw->counts.dropped++;
        }
        hold_pop(&p->queue);
    }
    if (later.count) {
        hold_clear(&p->queue);
        p->queue = later;
    }
}

static void move_all(struct vsw *sw, uint32_t epoch)
{
    sw->epoch = epoch;
    sw->is_armed = false;
    sw->over = 0;
    for (unsigned i = 0; i < sw->ports_end; i++) {
        if (sw->ports[i].used)
            sw->ports[i].epoch = epoch;
    }
    for (unsigned i = 0; i < sw->ports_end; i++) {
        if (sw->ports[i].used)
            flush(sw, i);
    }
}

/*
 * Move to `epoch`, or beyond: frames of a still newer epoch that waited while
 * the cut was open have nothing to wait for (adoption, see above).
 */
static void end_cut(struct vsw *sw, uint32_t epoch)
{
    for (unsigned i = 0; i < sw->ports_end; i++) {
        struct hold_iter it = {0};
        struct hold_frame frame;

        while (sw->ports[i].used &&
               hold_next(&sw->ports[i].queue, &it, &frame)) {
            if (serial_newer(frame.epoch, epoch))
                epoch = frame.epoch;
        }
    }
    move_all(sw, epoch);
}

void vsw_arm(struct vsw *sw, uint32_t epoch, uint64_t now_ns)
{
    if (sw->is_armed && epoch == sw->armed)
        return;
    assert(!sw->is_armed && serial_newer(epoch, sw->epoch));
    sw->now_ns = now_ns;
    sw->is_armed = true;
    sw->armed = epoch;
    sw->over = 0;
    sw->triggered = sw->announced = sw->closed = false;
    sw->missing = 0;
    sw->counts.held = sw->counts.recorded = sw->counts.dropped = 0;
    for (unsigned i = 0; i < sw->ports_end; i++)
        sw->ports[i].dropped = 0;
    channel_review(sw);
}

void vsw_hold(struct vsw *sw, unsigned port)
{
    struct vsw_port *p = port_at(sw, port);

    if (p)
        p->held = true;
}

static void record_older(struct vsw *sw, unsigned port, const struct hold *q)
{
    struct hold_iter it = {0};
    struct hold_frame frame;

    while (hold_next(q, &it, &frame)) {
        if (serial_older(frame.epoch, sw->armed))
            record(sw, port, frame.epoch, frame.data, frame.size);
    }
}

void vsw_cut(struct vsw *sw, unsigned port, uint64_t now_ns)
{
    struct vsw_port *p = port_at(sw, port);

    if (!p || !sw->is_armed || p->epoch == sw->armed)
        return;
    sw->now_ns = now_ns;
    p->epoch = sw->armed;
    sw->over++;
    record_older(sw, port, &p->replay);
    record_older(sw, port, &p->queue);
    flush(sw, port);
    channel_review(sw);
}

void vsw_release(struct vsw *sw, unsigned port)
{
    struct vsw_port *p = port_at(sw, port);

    if (!p)
        return;
    p->held = false;
    flush(sw, port);
}

void vsw_finish(struct vsw *sw, uint32_t epoch)
{
    if (sw->is_armed && epoch == sw->armed)
        end_cut(sw, epoch);
}

void vsw_abort(struct vsw *sw, uint32_t epoch)
{
    if (!serial_newer(epoch, sw->epoch))
        return;
    if (sw->is_armed && serial_older(epoch, sw->armed))
        return;
    for (unsigned i = 0; i < sw->ports_end; i++)
        sw->ports[i].held = false;
    end_cut(sw, epoch);
}

void vsw_replay(struct vsw *sw, unsigned port, const void *frame, size_t size)
{
    struct vsw_port *p = port_at(sw, port);

    if (!is_possible(sw, p != NULL, size))
        return;
    if (!p->held) {
        deliver(sw, port, frame, size);
    } else if (!hold_push(&p->replay, p->epoch, frame, size)) {
        p->dropped++;
        sw->counts.dropped++;
    }
}

size_t vsw_replay_room(const struct vsw *sw, unsigned port)
{
    const struct vsw_port *p;

    assert(port < SWITCH_PORTS_MAX && sw->ports[port].used);
    p = &sw->ports[port];
    return p->replay.limit - p->replay.bytes;
}

uint64_t vsw_tick(struct vsw *sw, uint64_t now_ns)
{
    uint64_t next;

    sw->now_ns = now_ns;
    if (now_ns >= sw->next_sweep_ns) {
        fdb_age(sw->fdb, now_ns);
        sw->next_sweep_ns = now_ns + FDB_SWEEP_NS;
    }
    next = channel_repeat(sw);
    return next < sw->next_sweep_ns ? next : sw->next_sweep_ns;
}

/* ---- questions --------------------------------------------------------- */

uint32_t vsw_epoch(const struct vsw *sw)
{
    return sw->epoch;
}

uint32_t vsw_port_epoch(const struct vsw *sw, unsigned port)
{
    assert(port < SWITCH_PORTS_MAX && sw->ports[port].used);
    return sw->ports[port].epoch;
}

bool vsw_port_held(const struct vsw *sw, unsigned port)
{
    assert(port < SWITCH_PORTS_MAX && sw->ports[port].used);
    return sw->ports[port].held;
}

bool vsw_armed(const struct vsw *sw, uint32_t *ret_epoch)
{
    if (sw->is_armed)
        *ret_epoch = sw->armed;
    return sw->is_armed;
}

bool vsw_is_closed(const struct vsw *sw)
{
    return sw->is_armed && sw->closed;
}

void vsw_counts(const struct vsw *sw, struct vsw_counts *ret)
{
    *ret = sw->counts;
}

static void check_port(const struct vsw *sw, unsigned port)
{
    const struct vsw_port *p = &sw->ports[port];
    struct hold_iter it = {0};
    struct hold_frame frame;

    assert(p->epoch == sw->epoch || (sw->is_armed && p->epoch == sw->armed));
    hold_check(&p->queue);
    hold_check(&p->replay);
    assert(p->held || p->replay.count == 0);
    while (!p->held && hold_next(&p->queue, &it, &frame))
        assert(serial_newer(frame.epoch, p->epoch));
}

void vsw_check(const struct vsw *sw)
{
    unsigned used = 0, over = 0;

    assert(!sw->is_armed || serial_newer(sw->armed, sw->epoch));
    assert(sw->ports_end <= SWITCH_PORTS_MAX);
    assert(sw->peers_end <= SWITCH_PEERS_MAX);
    for (unsigned i = 0; i < SWITCH_PORTS_MAX; i++) {
        if (!sw->ports[i].used)
            continue;
        assert(i < sw->ports_end);
        used++;
        over += sw->is_armed && sw->ports[i].epoch == sw->armed;
        check_port(sw, i);
    }
    for (unsigned i = sw->peers_end; i < SWITCH_PEERS_MAX; i++)
        assert(!sw->peers[i].used);
    assert(used == sw->port_count && over == sw->over);
    fdb_check(sw->fdb);
}
