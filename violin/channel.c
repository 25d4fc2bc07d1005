/*
 * Closing the channels of a cut.
 *
 * How it works. When the last own port is over, no more frames of the old
 * epoch leave this host, so the number sent to each peer is final: a marker
 * carries it. Markers are repeated until acknowledged, at first after
 * marker_repeat_ns, then at doubling distances up to 16 times that. A peer's
 * channel is closed when its marker for the armed epoch has come and as many
 * frames of the epoch that it names have come from it. A host without a port
 * in this network is over at once and says so when it is armed.
 *
 * The newest marker of each peer is kept (and acknowledged) whatever state
 * the network is in, since a peer may be armed, and over, before we are.
 * Markers do not trigger the cut: only a frame can carry causality.
 *
 * More frames than announced (the underlay duplicates) count as closed;
 * waiting for equality would never end.
 *
 * A peer that sent no marker at all counts as 1 missing frame when the wait
 * is given up: what it sent is not known, and the snapshot must not be called
 * lossless. A peer whose newest marker is for a later cut likewise.
 */
#include "violin/switch_internal.h"

#define REPEAT_DOUBLINGS 4

static bool all_over(const struct vsw *sw)
{
    return sw->is_armed && sw->over == sw->port_count;
}

static bool is_marked(const struct vsw *sw, const struct vsw_peer *peer)
{
    return peer->marked && peer->marker.epoch == sw->armed;
}

bool vsw_peer_marked(const struct vsw *sw, unsigned index)
{
    return sw->is_armed && index < sw->peers_end && sw->peers[index].used &&
           is_marked(sw, &sw->peers[index]);
}

/* Frames of the old epoch that this peer still owes us. */
static uint64_t owed(const struct vsw *sw, const struct vsw_peer *peer)
{
    uint64_t received;

    if (!is_marked(sw, peer))
        return 1;
    received = tally_get(&peer->received, peer->marker.before);
    return received >= peer->marker.sent ? 0 : peer->marker.sent - received;
}

static void send_marker(struct vsw *sw, unsigned index)
{
    struct vsw_peer *peer = &sw->peers[index];
    struct vsw_marker marker = {
        .epoch = sw->armed,
        .before = sw->epoch,
        .sent = tally_get(&peer->sent, sw->epoch),
    };

    peer->repeat_ns = sw->now_ns + (sw->opts.marker_repeat_ns << peer->repeats);
    if (peer->repeats < REPEAT_DOUBLINGS)
        peer->repeats++;
    sw->opts.effects->marker(sw->opts.context, index, &marker);
}

void channel_review(struct vsw *sw)
{
    bool complete = true;

    if (!all_over(sw))
        return;
    for (unsigned i = 0; i < sw->peers_end; i++) {
        struct vsw_peer *peer = &sw->peers[i];

        if (!peer->used)
            continue;
        if (!sw->announced || peer->repeats == 0) {
            peer->acked = false;
            peer->repeats = 0;
            send_marker(sw, i);
        }
        complete = complete && owed(sw, peer) == 0;
    }
    sw->announced = true;
    if (complete && !sw->closed) {
        sw->closed = true;
        sw->opts.effects->closed(sw->opts.context, sw->armed);
    }
}

uint64_t channel_repeat(struct vsw *sw)
{
    uint64_t next = UINT64_MAX;

    if (!sw->is_armed || !sw->announced)
        return next;
    for (unsigned i = 0; i < sw->peers_end; i++) {
        struct vsw_peer *peer = &sw->peers[i];

        if (!peer->used || peer->acked)
            continue;
        if (sw->now_ns >= peer->repeat_ns)
            send_marker(sw, i);
        if (peer->repeat_ns < next)
            next = peer->repeat_ns;
    }
    return next;
}

void vsw_marker_from_peer(struct vsw *sw, unsigned index,
                          const struct vsw_marker *marker, uint64_t now_ns)
{
    struct vsw_peer *peer;
    struct vsw_marker ack = *marker;

    sw->now_ns = now_ns;
    if (index >= sw->peers_end || !sw->peers[index].used) {
        sw->counts.malformed++;
        return;
    }
    peer = &sw->peers[index];
    if (marker->ack) {
        if (sw->is_armed && sw->announced && marker->epoch == sw->armed)
            peer->acked = true;
        return;
    }
    if (!peer->marked || !serial_older(marker->epoch, peer->marker.epoch)) {
        peer->marked = true;
        peer->marker = *marker;
    }
    ack.ack = true;
    sw->opts.effects->marker(sw->opts.context, index, &ack);
    channel_review(sw);
}

uint64_t vsw_give_up(struct vsw *sw)
{
    if (!sw->is_armed || sw->closed)
        return sw->missing;
    for (unsigned i = 0; i < sw->peers_end; i++) {
        if (sw->peers[i].used)
            sw->missing += owed(sw, &sw->peers[i]);
    }
    sw->closed = true;
    return sw->missing;
}
