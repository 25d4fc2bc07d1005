#ifndef VIOLIN_DAEMON_INTERNAL_H
#define VIOLIN_DAEMON_INTERNAL_H

/*
 * What daemon.c (life, clients), daemon_calls.c (the table of calls) and
 * daemon_wait.c (calls that are answered later) share.
 */

#include "common/ctl.h"
#include "violin/daemon.h"
#include "violin/network.h"

#define DAEMON_NETWORKS_MAX 1024
#define DAEMON_CLIENTS_MAX  64
#define DAEMON_WAITS_MAX    1024

struct client {
    struct daemon *daemon;
    int fd;
    struct event *readable;
    bool dead; /* to be closed by its event */
    struct client *next;
};

/* A call that waits for its answer. */
struct wait {
    struct client *client;
    uint64_t id; /* of the request */
    struct network *net;
    uint64_t deadline_ns;
    struct event *timer;
    bool is_hold;                 /* else violin_await_closed */
    bool all_marked;              /* closed: only frames are awaited now */
    uint32_t patience_ms;         /* closed: for these */
    bool ports[SWITCH_PORTS_MAX]; /* hold: not settled yet */
    struct wait *next;
};

struct daemon {
    struct event_base *base;
    struct port_loop ports;
    struct tunnel *tunnel;
    char *socket_path;
    int listener;
    struct event *acceptable;
    int stop_fd; /* eventfd */
    struct event *stop;
    struct network *networks; /* hash by VNI */
    struct client *clients;
    unsigned client_count;
    struct wait *waits;
    unsigned wait_count;
    uint64_t unknown_packets; /* of no network or peer here */
    bool urgent;              /* VMs of an open cut stand; common/priority.h */
    int calm_nice;
};

/* daemon.c */
void daemon_reply_ok(struct client *client, uint64_t id, json_t *ok, int fd);
void daemon_reply_error(struct client *client, uint64_t id,
                        const struct vn_err *failure);
struct network *daemon_network(struct daemon *daemon, uint32_t vni);
extern const struct network_events daemon_network_events;
/* After anything that may begin or end the holding of ports in a cut. */
void daemon_review_urgency(struct daemon *daemon);

/* daemon_calls.c: answer one request, now or through a wait. */
void daemon_call(struct client *client, struct ctl_packet *packet);

/* daemon_wait.c */
int wait_for_settled(struct client *client, uint64_t id, struct network *net,
                     struct network_port *const *ports, size_t count,
                     uint32_t settle_ms, struct vn_err *err) VN_MUST_USE;
int wait_for_closed(struct client *client, uint64_t id, struct network *net,
                    uint32_t marker_ms, uint32_t patience_ms,
                    struct vn_err *err) VN_MUST_USE;
/* The channels of this network's cut are closed. */
void wait_closed(struct network *net, struct daemon *daemon);
/* The cut ended or the network goes: answer all that wait for it. */
void wait_cut_ended(struct daemon *daemon, struct network *net);
void wait_port_gone(struct daemon *daemon, const struct network_port *port);
void wait_client_gone(struct client *client);

#endif
