#ifndef COORD_WIRE_H
#define COORD_WIRE_H

/*
 * Messages between the coordinator and agents: one JSON object each, behind a
 * 4-byte big-endian length, on a unix socket or on TLS 1.3 with certificates
 * both ways (libevent bufferevents, OpenSSL). Format: docs/formats/wire.md.
 *
 * Everything here runs on one event loop and blocks never, unless it says so.
 * SIGPIPE is ignored from the first wire or listener on.
 */

#include "common/auto.h"
#include "common/err.h"

#include <event2/event.h>
#include <jansson.h>
#include <stddef.h>

#define WIRE_MESSAGE_MAX       (16u << 20) /* bytes of JSON in one message */
#define WIRE_QUEUE_MAX         (64u << 20) /* bytes waiting for a slow peer */
#define WIRE_CONNECT_TIMEOUT_S 5           /* with the TLS handshake */

/* Where certificates lie: ca.crt, host.crt, host.key. NULL: unix only. Reads
 * files. Outlives the wires and listeners made with it. */
struct wire_tls;
struct wire_tls *wire_tls_load(const char *dir, struct vn_err *err) VN_MUST_USE;
void wire_tls_free(struct wire_tls *tls);

struct wire;
struct wire_events {
    /* A whole message came; borrowed. */
    void (*message)(void *context, struct wire *wire, const json_t *message);
    /* The connection is over, with the reason. Called once; the wire may be
     * freed inside. Not called after wire_free(). */
    void (*closed)(void *context, struct wire *wire, const struct vn_err *why);
};

/* Connect to "unix:PATH" or "tls:HOST:PORT". Returns at once; failure to
 * connect within 5 s arrives as closed(). Messages sent before are queued. */
struct wire *wire_connect(struct event_base *base, const char *address,
                          struct wire_tls *tls,
                          const struct wire_events *events, void *context,
                          struct vn_err *err) VN_MUST_USE;
/* Queue a message (an object, not stolen). Failing peers show as closed(), from
 * the loop; so does one that leaves WIRE_QUEUE_MAX bytes unread (VN_E_LIMIT).
 * A wire that is over ignores it. */
void wire_send(struct wire *wire, const json_t *message);
void wire_set_events(struct wire *wire, const struct wire_events *events,
                     void *context);
const char *wire_address(const struct wire *wire);
/* Who is at the other end: its certificate's names, or "uid U pid P", or
 * "local"; NULL before it is known. Lives as long as the wire. */
const char *wire_peer(const struct wire *wire);
void wire_free(struct wire *wire); /* NULL is fine; drops what is unsent */

struct wire_listener;
typedef void wire_accept_fn(void *context, struct wire *wire);
/* Listen on an address as above; port 0 takes a free one, "tls:0.0.0.0:PORT"
 * and "tls:[::]:PORT" take all addresses. A host name is looked up at once,
 * which may block. `accept` gets the wire and owns it; it must call
 * wire_set_events() before it returns. It sees only allowed peers: those with a
 * certificate of our CA, on a unix socket root and our own user. A stale unix
 * socket is replaced, one with a living listener is an error. */
struct wire_listener *wire_listen(struct event_base *base, const char *address,
                                  struct wire_tls *tls, wire_accept_fn *accept,
                                  void *context,
                                  struct vn_err *err) VN_MUST_USE;
/* Where it listens, with the port that was taken. */
const char *wire_listener_address(const struct wire_listener *listener);
/* Accepted wires stay. NULL is fine. */
void wire_listener_free(struct wire_listener *listener);

VN_AUTO_DEFINE(wire, struct wire *, wire_free)
VN_AUTO_DEFINE(wire_listener, struct wire_listener *, wire_listener_free)
VN_AUTO_DEFINE(wire_tls, struct wire_tls *, wire_tls_free)

#endif
