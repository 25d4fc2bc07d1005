#ifndef VIOLIN_SWITCH_H
#define VIOLIN_SWITCH_H

/*
 * One virtual network on one host: the pure switch.
 *
 * Frames and markers go in, effects come out through a vtable; no socket, no
 * clock, no allocation per frame. violind and the simulator run the same code.
 * The rule at every egress to port p (DESIGN section 4; Mattern's cut):
 *   frame.epoch == p.epoch  deliver
 *   frame.epoch >  p.epoch  hold, in order
 *   frame.epoch <  p.epoch  deliver; record too while the cut is open
 * Epochs are compared as 32-bit serial numbers (RFC 1982).
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SWITCH_PORTS_MAX 256
#define SWITCH_PEERS_MAX 256
#define SWITCH_FRAME_MIN 14    /* an Ethernet header */
#define SWITCH_FRAME_MAX 65550 /* 64 KiB payload and its header */

struct vsw;

/* "All my ports are in `epoch`; I sent you `sent` frames of epoch `before`,"
 * the one that the sender's network was in. A burnt epoch that only some
 * hosts heard of makes `before` differ between hosts; hence it is named. */
struct vsw_marker {
    uint32_t epoch;
    uint64_t sent;
    bool ack; /* an answer to a marker; repeated markers stop */
    uint32_t before;
};

/* Effects. All members mandatory; they must not call into the switch. */
struct vsw_effects {
    /* Hand a frame to a VM. Order is the order of the calls. */
    void (*deliver)(void *context, unsigned port, const void *frame,
                    size_t size);
    /* Send a frame to a peer switch, marked with `epoch`. */
    void (*transmit)(void *context, unsigned peer, uint32_t epoch,
                     const void *frame, size_t size);
    void (*marker)(void *context, unsigned peer,
                   const struct vsw_marker *marker);
    /* This frame was in transit across the cut to `port`. */
    void (*record)(void *context, unsigned port, uint32_t epoch,
                   const void *frame, size_t size);
    /* Armed for `epoch`, and the first frame of that epoch has come. */
    void (*trigger)(void *context, uint32_t epoch);
    /* All channels closed: the records of `epoch` are complete. Once. */
    void (*closed)(void *context, uint32_t epoch);
};

struct vsw_opts {
    uint32_t epoch;                    /* of the network now */
    size_t hold_bytes_per_port;        /* bound of a hold queue; 0: 64 MiB */
    uint64_t marker_repeat_ns;         /* 0: 5 ms */
    const struct vsw_effects *effects; /* outlives the switch */
    void *context;
};

struct vsw *vsw_new(const struct vsw_opts *opts);
void vsw_free(struct vsw *sw);

/* Indexes are the caller's, below the MAXes. A new port is in the network's
 * epoch (with an open cut: the new one). held: as in violin/client.h. */
void vsw_port_add(struct vsw *sw, unsigned port, bool held);
void vsw_port_del(struct vsw *sw, unsigned port);
void vsw_peer_add(struct vsw *sw, unsigned peer);
void vsw_peer_del(struct vsw *sw, unsigned peer, uint64_t now_ns);

/* A frame that a VM sent, or that came from a peer with its epoch. Frames of
 * impossible size or from unknown ports are counted and dropped. */
void vsw_from_port(struct vsw *sw, unsigned port, const void *frame,
                   size_t size, uint64_t now_ns);
void vsw_from_peer(struct vsw *sw, unsigned peer, uint32_t epoch,
                   const void *frame, size_t size, uint64_t now_ns);
void vsw_marker_from_peer(struct vsw *sw, unsigned peer,
                          const struct vsw_marker *marker, uint64_t now_ns);

/* The cut; contracts as the calls of the same names in violin/client.h. To
 * be armed the switch must be in an older epoch (vsw_epoch()) and have no cut
 * to another epoch open. */
void vsw_arm(struct vsw *sw, uint32_t epoch, uint64_t now_ns);
void vsw_hold(struct vsw *sw, unsigned port);
void vsw_cut(struct vsw *sw, unsigned port, uint64_t now_ns);
void vsw_release(struct vsw *sw, unsigned port);
/* Stop waiting for channels; returns the frames counted as missing. */
uint64_t vsw_give_up(struct vsw *sw);
void vsw_finish(struct vsw *sw, uint32_t epoch);
void vsw_abort(struct vsw *sw, uint32_t epoch);
/* Put a frame at the end of the replay that precedes a held port's queue. */
void vsw_replay(struct vsw *sw, unsigned port, const void *frame, size_t size);
/* Bytes that fit into that replay; each frame takes 16 besides its own. */
size_t vsw_replay_room(const struct vsw *sw, unsigned port);

/* Repeat markers, age the MAC table. Returns when to call again. */
uint64_t vsw_tick(struct vsw *sw, uint64_t now_ns);

struct vsw_counts {
    uint64_t delivered, transmitted, flooded;
    uint64_t held, recorded, dropped, malformed; /* since the last arm: held,
                                                    recorded, dropped */
};
uint32_t vsw_epoch(const struct vsw *sw);
uint32_t vsw_port_epoch(const struct vsw *sw, unsigned port);
bool vsw_port_held(const struct vsw *sw, unsigned port);
/* The epoch of the open cut into *ret; false when none is open. */
bool vsw_armed(const struct vsw *sw, uint32_t *ret_epoch);
/* Has this peer's marker for the open cut come? */
bool vsw_peer_marked(const struct vsw *sw, unsigned peer);
/* The channels of the open cut are closed, or were given up. */
bool vsw_is_closed(const struct vsw *sw);
void vsw_counts(const struct vsw *sw, struct vsw_counts *ret);
/* Asserts every invariant of the structure; for tests and the simulator. */
void vsw_check(const struct vsw *sw);

#endif
