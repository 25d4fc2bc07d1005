#ifndef COORD_WIRE_INTERNAL_H
#define COORD_WIRE_INTERNAL_H

/* Shared by wire.c (connections), wire_listen.c and wire_tls.c. */

#include "coord/wire.h"
#include "coord/wire_address.h"

#include <event2/bufferevent.h>
#include <openssl/ssl.h>
#include <stdbool.h>

/* ---- wire.c ---- */

/*
 * A connection that a listener accepted. `opened` is called once, when the
 * peer is known to be allowed (after the TLS handshake), unless closed() is
 * called first. Takes fd and copies the rest. tls NULL: a unix socket, open
 * from the start: opened() is not called then.
 */
struct wire *wire_adopt(struct event_base *base, int fd, const char *address,
                        const char *peer, struct wire_tls *tls,
                        void (*opened)(void *context, struct wire *wire),
                        const struct wire_events *events, void *context);

/* Peers that go away must not kill the process. */
void wire_ignore_sigpipe(void);

/* ---- wire_tls.c ---- */

/* A new session of the folder's certificate; aborts when memory is out. */
SSL *wire_tls_session(struct wire_tls *tls);

/*
 * Who the peer is, by its verified certificate: "h1 (DNS:h1, IP:10.0.0.1)",
 * owned by the caller. If `host` is given and the certificate has alternative
 * names, one of them must be this host or address.
 */
char *wire_tls_identify(SSL *ssl, const char *host,
                        struct vn_err *err) VN_MUST_USE;

/* Raise what made a TLS connection fail. */
int wire_tls_fail(struct bufferevent *bev, struct vn_err *err);

#endif
