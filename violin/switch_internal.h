#ifndef VIOLIN_SWITCH_INTERNAL_H
#define VIOLIN_SWITCH_INTERNAL_H

/* What switch.c (frames, ports, cut) and channel.c (markers) share. */

#include "violin/fdb.h"
#include "violin/hold.h"
#include "violin/serial.h"
#include "violin/switch.h"
#include "violin/tally.h"

struct vsw_port {
    bool used;
    bool held; /* explicitly: everything waits */
    uint32_t epoch;
    uint64_t dropped;   /* since the last arm */
    struct hold replay; /* goes out before the queue */
    struct hold queue;
};

struct vsw_peer {
    bool used;
    bool acked;         /* it has our marker of the armed epoch */
    bool marked;        /* the marker below ever came */
    unsigned repeats;   /* of our marker */
    uint64_t repeat_ns; /* when next */
    struct tally sent, received;
    struct vsw_marker marker; /* its newest */
};

struct vsw {
    struct vsw_opts opts;
    uint64_t now_ns; /* of the last call that brought the time */
    uint64_t next_sweep_ns;
    uint32_t epoch; /* the network's; with an open cut: the old one */
    uint32_t armed;
    bool is_armed;
    bool triggered;
    bool announced; /* all ports over: markers go out */
    bool closed;    /* channels closed or given up */
    uint64_t missing;
    unsigned port_count, over;     /* ports used; those in `armed` */
    unsigned ports_end, peers_end; /* above the highest ever used */
    struct fdb *fdb;
    struct vsw_counts counts;
    struct vsw_port ports[SWITCH_PORTS_MAX];
    struct vsw_peer peers[SWITCH_PEERS_MAX];
};

/*
 * After anything that may have completed a step: when all ports are over,
 * send the markers that were not yet sent; when every channel is complete
 * too, say closed().
 */
void channel_review(struct vsw *sw);
/* Repeat what is due; when to call again (UINT64_MAX: not at all). */
uint64_t channel_repeat(struct vsw *sw);

#endif
