#ifndef COORD_AGENT_H
#define COORD_AGENT_H

/*
 * vnagentd: one a host. Starts or attaches to the VMs of virtual networks,
 * drives the local switch, takes part in cuts and restores. Messages:
 * docs/formats/wire.md. One event loop; what blocks runs on a worker a VM and
 * one a network's switch.
 */

#include "common/auto.h"
#include "common/err.h"

#include <stddef.h>

struct agent;

struct agent_opts {
    const char *name;          /* this host, as VNE files call it */
    const char *const *listen; /* addresses: "unix:...", "tls:..." */
    size_t listen_count;
    const char *violin_socket; /* of the local violind */
    const char *state_dir;     /* VMs' sockets, logs, restored disks */
    const char *tls_dir;       /* NULL: unix sockets only */
};

/*
 * Must be called before the process has other threads: it forks the watchdog.
 * Fails naming what was not there: violind, an address in use, the state dir.
 */
struct agent *agent_new(const struct agent_opts *opts,
                        struct vn_err *err) VN_MUST_USE;
/* Serve until SIGTERM or SIGINT. VMs go on running afterwards. */
int agent_run(struct agent *agent, struct vn_err *err) VN_MUST_USE;
void agent_free(struct agent *agent);

VN_AUTO_DEFINE(agent, struct agent *, agent_free)

#endif
