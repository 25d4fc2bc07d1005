#ifndef VIOLIN_NETWORK_H
#define VIOLIN_NETWORK_H

/*
 * One virtual network in violind: the pure switch joined to real ports, to
 * the tunnel and to a timer, and the records of an open cut.
 *
 * One loop's thread only. Nothing blocks. Names in errors are the callers'.
 */

#include "common/auto.h"
#include "common/buf.h"
#include "common/err.h"
#include "violin/port.h"
#include "violin/switch.h"
#include "violin/tunnel.h"

#include <event2/event.h>
#include <jansson.h>
#include <stdbool.h>
#include <uthash.h>

#define NETWORK_NAME_MAX    63
#define NETWORK_RECORDS_MAX (64u << 20) /* bytes of records a port */
#define NETWORK_REPLAY_MAX  (64u << 20) /* bytes of one replay file */

struct network;

struct network_port {
    char name[NETWORK_NAME_MAX + 1];
    unsigned index;
    struct network *net;
    struct port *io;
    struct buf records; /* pcapng; empty while there are none */
    uint64_t recorded;
    uint64_t rx_dropped_before; /* the last arm */
    const void *holder;         /* the client whose end releases the port */
};

struct network_peer {
    char name[NETWORK_NAME_MAX + 1];
    unsigned index;
    union tunnel_address address;
    UT_hash_handle hh;
};

struct network_events {
    /* See vsw_effects; called when the switch may be called again. */
    void (*trigger)(void *context, struct network *net, uint32_t epoch);
    void (*closed)(void *context, struct network *net);
};

struct network {
    uint32_t vni;
    struct vsw *sw;
    struct event_base *base;
    struct tunnel *tunnel;
    const struct network_events *events;
    void *context;
    struct event *tick;
    struct network_port *ports[SWITCH_PORTS_MAX];
    struct network_peer *peers[SWITCH_PEERS_MAX];
    struct network_peer *by_address;
    const void *armed_by; /* the client whose end aborts the open cut */
    uint64_t unsettled;   /* ports, since the last arm */
    uint64_t missing;     /* frames, counted when the wait was given up */
    uint64_t records_dropped;
    bool triggered, closed; /* to be told by network_after() */
    UT_hash_handle hh;
};

struct network *network_new(uint32_t vni, uint32_t epoch,
                            struct event_base *base, struct tunnel *tunnel,
                            const struct network_events *events, void *context);
void network_free(struct network *net);

/* To be called after whatever may have made effects: sends what was
 * collected, tells events, sets the timer. */
void network_after(struct network *net);

/* A packet of this network from the tunnel; false: from no peer of it. */
bool network_packet(struct network *net, const union tunnel_address *from,
                    const struct geneve_packet *packet);

struct network_peer_spec {
    const char *name;
    union tunnel_address address;
};
/* Peers that stay keep their counts. Addresses must differ. */
int network_set_peers(struct network *net,
                      const struct network_peer_spec *specs, size_t count,
                      struct vn_err *err) VN_MUST_USE;

/*
 * Find a free place for a port of that name; the caller makes its port with
 * network_port_events and the place as context, then calls network_port_join().
 * A place that came to nothing is given back by network_port_del().
 */
struct network_port *network_port_new(struct network *net, const char *name,
                                      struct vn_err *err) VN_MUST_USE;
extern const struct port_events network_port_events;
void network_port_join(struct network_port *port, struct port *io, bool held);
void network_port_del(struct network_port *port);
/* VN_E_NOT_FOUND. */
struct network_port *network_port_find(struct network *net, const char *name,
                                       struct vn_err *err) VN_MUST_USE;

/* The cut; contracts as in violin/client.h. VN_E_STATE where not possible. */
int network_arm(struct network *net, uint32_t epoch, const void *client,
                struct vn_err *err) VN_MUST_USE;
int network_cut(struct network *net, struct network_port *const *ports,
                size_t count, struct vn_err *err) VN_MUST_USE;
void network_release(struct network_port *port);
int network_finish(struct network *net, uint32_t epoch,
                   struct vn_err *err) VN_MUST_USE;
void network_abort(struct network *net, uint32_t epoch);
/* End the lease of a client: abort its cut, release its ports. */
void network_client_gone(struct network *net, const void *client);

/* Fails where no cut is open or a port of this host is not yet over. */
int network_check_over(const struct network *net,
                       struct vn_err *err) VN_MUST_USE;
/* The same, and VN_E_TIMEOUT naming a peer whose marker has not come. */
int network_check_marked(const struct network *net,
                         struct vn_err *err) VN_MUST_USE;
/* VN_E_STATE where no cut is open. */
int network_check_armed(const struct network *net,
                        struct vn_err *err) VN_MUST_USE;
/* struct violin_report as an object. */
json_t *network_report(const struct network *net);
/* The pcapng as a memfd; -1 in *ret_fd when nothing was recorded. */
int network_records(const struct network_port *port, int *ret_fd,
                    struct vn_err *err) VN_MUST_USE;
/* Queue the frames of a pcapng file: all or, on failure, none of them. */
int network_replay(struct network_port *port, const void *data, size_t size,
                   struct vn_err *err) VN_MUST_USE;
json_t *network_stats(const struct network *net);

#endif
