#ifndef VIOLIN_TUNNEL_H
#define VIOLIN_TUNNEL_H

/*
 * The UDP socket to other hosts' switches, with batches both ways.
 *
 * One loop's thread only. Nothing blocks, except that a full socket buffer is
 * waited for, TUNNEL_FULL_WAIT_MS at most; then frames are dropped and counted.
 */

#include "common/auto.h"
#include "common/err.h"
#include "violin/geneve.h"

#include <event2/event.h>
#include <netinet/in.h>

#define TUNNEL_FULL_WAIT_MS 20
#define TUNNEL_ADDRESS_SIZE 64 /* text, with its NUL */

/* An underlay address, zeroed before it is filled: usable as a hash key. */
union tunnel_address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

/* "10.0.0.2", "10.0.0.2:6081", "[fd00::2]:6081", "fd00::2"; no names. */
int tunnel_parse_address(const char *text, union tunnel_address *ret,
                         struct vn_err *err) VN_MUST_USE;
void tunnel_format_address(const union tunnel_address *address,
                           char out[TUNNEL_ADDRESS_SIZE]);

struct tunnel;

struct tunnel_events {
    /* A packet of known form, valid during the call. */
    void (*packet)(void *context, const union tunnel_address *from,
                   const struct geneve_packet *packet);
    void (*batch_end)(void *context);
};

/* Bind and begin to read. `events` outlives the tunnel. */
struct tunnel *tunnel_new(struct event_base *base,
                          const union tunnel_address *bind_to,
                          const struct tunnel_events *events, void *context,
                          struct vn_err *err) VN_MUST_USE;
void tunnel_free(struct tunnel *tunnel);

/* The address bound, with the port that the kernel chose for port 0. */
void tunnel_address(const struct tunnel *tunnel, union tunnel_address *ret);

/* Collect a packet; it leaves with tunnel_flush() at the latest. */
void tunnel_send_frame(struct tunnel *tunnel, const union tunnel_address *to,
                       uint32_t vni, uint32_t epoch, const void *frame,
                       size_t size);
void tunnel_send_marker(struct tunnel *tunnel, const union tunnel_address *to,
                        uint32_t vni, const struct vsw_marker *marker);
void tunnel_flush(struct tunnel *tunnel);

struct tunnel_counts {
    uint64_t rx_packets, rx_bytes, rx_malformed;
    uint64_t tx_packets, tx_bytes, tx_dropped;
};
void tunnel_counts(const struct tunnel *tunnel, struct tunnel_counts *ret);

VN_AUTO_DEFINE(tunnel, struct tunnel *, tunnel_free)

#endif
