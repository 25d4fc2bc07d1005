#ifndef VIOLIN_CLIENT_H
#define VIOLIN_CLIENT_H

/*
 * How an agent drives the violind of its host.
 *
 * The connection is the lease: when it closes, violind aborts every cut that
 * this client armed and releases what was held, so a dead agent never leaves
 * a network stuck. Ports and networks stay.
 *
 * Calls block for the answer, at most the time named or VIOLIN_CALL_MS; any
 * number of threads may call at once. Notices arrive on a thread of the
 * client. Wire: docs/formats/violin-control.md.
 */

#include "common/auto.h"
#include "common/err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VIOLIN_CALL_MS  5000
#define VIOLIN_NAME_MAX 63 /* bytes in a port or peer name */

struct violin_client;

enum violin_notice_kind {
    VIOLIN_TRIGGER, /* a frame of the armed epoch came before the cut */
    VIOLIN_LOST,    /* violind went away; every further call fails */
};
struct violin_notice {
    enum violin_notice_kind kind;
    uint32_t vni;
    uint32_t epoch;
};
/* Runs on the client's thread; must not call back into the client. */
typedef void violin_notice_fn(void *context, const struct violin_notice *);

struct violin_client *violin_client_open(const char *socket_path,
                                         violin_notice_fn *notice,
                                         void *context,
                                         struct vn_err *err) VN_MUST_USE;
void violin_client_close(struct violin_client *client);

/* ---- networks, peers, ports ------------------------------------------- */

/*
 * Create network `vni` (1 .. 2^24-1), new ports starting in `epoch`; if it
 * exists, VN_E_EXISTS. Deleting one closes its ports; unknown is fine.
 */
int violin_net_add(struct violin_client *client, uint32_t vni, uint32_t epoch,
                   struct vn_err *err) VN_MUST_USE;
int violin_net_del(struct violin_client *client, uint32_t vni,
                   struct vn_err *err) VN_MUST_USE;

struct violin_peer {
    const char *name;    /* the host's name */
    const char *address; /* underlay: "10.0.0.2:6081", "[fd00::2]:6081" */
};
/* Replace the list of other hosts' switches of this network. */
int violin_peers_set(struct violin_client *client, uint32_t vni,
                     const struct violin_peer *peers, size_t count,
                     struct vn_err *err) VN_MUST_USE;

/*
 * Ports. `held` starts it with its deliveries held, until violin_release()
 * (a restored VM). fd: a connected datagram socket, one frame a datagram, as
 * QEMU's `-netdev dgram,local.type=fd` has at its other end; the descriptor
 * is duplicated, the caller closes its own. tap: attach to or create that
 * interface. unix: bind `local`, send to `remote` (QEMU's local.type=unix).
 * packet: a present interface that is the VM's network card, such as a Xen
 * vif; VN_E_STATE where it is in a bridge or has an IPv4 address. The host's
 * own stack is shut out of it, now and after. Its frontend may connect later;
 * frames wait.
 */
int violin_port_add_fd(struct violin_client *client, uint32_t vni,
                       const char *port, int fd, bool held,
                       struct vn_err *err) VN_MUST_USE;
int violin_port_add_tap(struct violin_client *client, uint32_t vni,
                        const char *port, const char *interface, bool held,
                        struct vn_err *err) VN_MUST_USE;
int violin_port_add_unix(struct violin_client *client, uint32_t vni,
                         const char *port, const char *local,
                         const char *remote, bool held,
                         struct vn_err *err) VN_MUST_USE;
int violin_port_add_packet(struct violin_client *client, uint32_t vni,
                           const char *port, const char *interface, bool held,
                           struct vn_err *err) VN_MUST_USE;
/* Unknown is fine. */
int violin_port_del(struct violin_client *client, uint32_t vni,
                    const char *port, struct vn_err *err) VN_MUST_USE;

/* ---- the cut (DESIGN section 4), in this order ------------------------- */

/*
 * Prepare for a cut to `epoch`, which must be above the network's. From now
 * a frame of that epoch is held and raises VIOLIN_TRIGGER once.
 */
int violin_arm(struct violin_client *client, uint32_t vni, uint32_t epoch,
               struct vn_err *err) VN_MUST_USE;
/*
 * Hold deliveries to these ports and wait until what was delivered before is
 * consumed by the VMs, at most settle_ms. Ports that did not settle are
 * counted in *ret_unsettled; the call succeeds all the same.
 */
int violin_hold(struct violin_client *client, uint32_t vni,
                const char *const *ports, size_t count, uint32_t settle_ms,
                uint32_t *ret_unsettled, struct vn_err *err) VN_MUST_USE;
/*
 * The VMs of these ports are stopped: drain what they sent (old epoch), then
 * move the ports to the armed epoch. Held frames of the old epoch become
 * records. When all of the network's ports are over, markers go out.
 */
int violin_cut(struct violin_client *client, uint32_t vni,
               const char *const *ports, size_t count,
               struct vn_err *err) VN_MUST_USE;
/* The VM of this port runs: deliver what is held, in order, then normally. */
int violin_release(struct violin_client *client, uint32_t vni, const char *port,
                   struct vn_err *err) VN_MUST_USE;

struct violin_report {
    uint64_t frames_held;     /* waited for a port, all kinds */
    uint64_t frames_recorded; /* in transit across the cut */
    uint64_t frames_dropped;  /* a bounded queue was full */
    uint64_t frames_missing;  /* of the old epoch, never came: underlay loss */
    uint64_t ports_unsettled;
    bool lossless; /* dropped, missing and unsettled are all 0 */
};
/*
 * Wait until every peer's channel is closed: its marker came and all frames of
 * the old epoch that it counts. A peer may be slow to cut, so markers have
 * marker_ms, and the call fails with VN_E_TIMEOUT, naming the host, where one
 * does not come. From the last marker on, frames have patience_ms: what is
 * missing then was lost on the underlay and is counted. After success the
 * records are complete.
 */
int violin_await_closed(struct violin_client *client, uint32_t vni,
                        uint32_t marker_ms, uint32_t patience_ms,
                        struct violin_report *ret,
                        struct vn_err *err) VN_MUST_USE;
/*
 * The frames recorded for a port, as pcapng in a sealed memfd that the caller
 * closes; *ret_fd is -1 when there are none.
 */
int violin_records(struct violin_client *client, uint32_t vni, const char *port,
                   int *ret_fd, struct vn_err *err) VN_MUST_USE;
/* End the cut: the records are forgotten. */
int violin_finish(struct violin_client *client, uint32_t vni, uint32_t epoch,
                  struct vn_err *err) VN_MUST_USE;
/*
 * Give the cut up: every port moves to `epoch`, held frames are delivered,
 * records forgotten. The epoch is burnt. Fine if never armed or finished.
 */
int violin_abort(struct violin_client *client, uint32_t vni, uint32_t epoch,
                 struct vn_err *err) VN_MUST_USE;

/* ---- restore and watching ---------------------------------------------- */

/*
 * Put recorded frames (pcapng) in front of what is held for a held port; they
 * are delivered first when it is released. The bytes are checked.
 */
int violin_replay(struct violin_client *client, uint32_t vni, const char *port,
                  int fd, struct vn_err *err) VN_MUST_USE;

/* Epoch, ports, peers, counters of all networks, as JSON. Caller decrefs. */
json_t *violin_stats(struct violin_client *client,
                     struct vn_err *err) VN_MUST_USE;

VN_AUTO_DEFINE(violin_client, struct violin_client *, violin_client_close)

#endif
