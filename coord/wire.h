#ifndef COORD_WIRE_H
#define COORD_WIRE_H

/*
 * Messages between the coordinator and agents: one JSON object each, behind a
 * 4-byte big-endian length, on a unix socket or on TLS 1.3 with certificates
 * both ways (libevent bufferevents, OpenSSL). Format: docs/formats/wire.md.
 *
 * Everything here runs on one event loop and blocks never, unless it says so.
 */

#include "common/auto.h"
#include "common/err.h"

#include <event2/event.h>
#include <jansson.h>
#include <stddef.h>

#define WIRE_MESSAGE_MAX (16u << 20) /* bytes of JSON in one message */

/* Where certificates lie: ca.crt, host.crt, host.key. NULL: unix only. */
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
/* Queue a message (not stolen). Failing peers show as closed(). */
void wire_send(struct wire *wire, const json_t *message);
void wire_set_events(struct wire *wire, const struct wire_events *events,
                     void *context);
const char *wire_address(const struct wire *wire);
void wire_free(struct wire *wire); /* NULL is fine; drops what is unsent */

struct wire_listener;
typedef void wire_accept_fn(void *context, struct wire *wire);
/* Listen on an address as above. `accept` gets the wire and owns it; it must
 * call wire_set_events() before it returns. A stale unix socket is replaced,
 * one with a living listener is an error. */
struct wire_listener *wire_listen(struct event_base *base, const char *address,
                                  struct wire_tls *tls, wire_accept_fn *accept,
                                  void *context,
                                  struct vn_err *err) VN_MUST_USE;
void wire_listener_free(struct wire_listener *listener);

VN_AUTO_DEFINE(wire, struct wire *, wire_free)
VN_AUTO_DEFINE(wire_tls, struct wire_tls *, wire_tls_free)

#endif
