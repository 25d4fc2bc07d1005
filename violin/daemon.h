#ifndef VIOLIN_DAEMON_H
#define VIOLIN_DAEMON_H

/*
 * violind without its main(): one event loop over the control socket, the
 * tunnel and all networks. Everything runs on the thread of daemon_run().
 */

#include "common/auto.h"
#include "common/err.h"
#include "violin/tunnel.h"

struct daemon;

struct daemon_opts {
    const char *socket_path;       /* of the control socket */
    union tunnel_address underlay; /* to bind */
};

/* Bind both sockets. */
struct daemon *daemon_new(const struct daemon_opts *opts,
                          struct vn_err *err) VN_MUST_USE;
/* Serve until daemon_stop(). */
int daemon_run(struct daemon *daemon, struct vn_err *err) VN_MUST_USE;
/* From any thread or a signal handler. */
void daemon_stop(struct daemon *daemon);
/* Close everything and remove the control socket. Not while it runs. */
void daemon_free(struct daemon *daemon);

/* The underlay address bound (with the port chosen for port 0). */
void daemon_underlay(const struct daemon *daemon, union tunnel_address *ret);

VN_AUTO_DEFINE(daemon, struct daemon *, daemon_free)

#endif
