#ifndef COORD_WATCHDOG_H
#define COORD_WATCHDOG_H

/*
 * The process beside an agent that lets no VM stay paused.
 *
 * A child, forked before the agent has threads, knows which VMs are stopped
 * just now. It resumes all of them when the agent ends in any way, and also
 * when a VM's deadline passes: then the agent is hung and is killed first,
 * because a VM's monitor takes one client at a time. After that it ends too.
 * A VM that is being restored is never armed, and never resumed from here.
 */

#include "common/auto.h"
#include "common/err.h"

#include <sys/types.h>

#define WATCHDOG_VMS_MAX     1024 /* armed at the same time */
#define WATCHDOG_NAME_MAX    255
#define WATCHDOG_PATIENCE_MS 10000 /* for one VM to run again */

struct watchdog;

/*
 * Fork the child. Call before the process has threads. The child lives in its
 * own session, ignores SIGTERM, SIGINT, SIGHUP and SIGQUIT, and holds only
 * stderr and its end of a socket.
 */
struct watchdog *watchdog_start(struct vn_err *err) VN_MUST_USE;

/*
 * From now on `name` is resumed over `rescue_address` ("qmp:/PATH") if we end
 * or if watchdog_disarm() is not called within deadline_ms. Call it before the
 * VM is stopped and do not stop it where this fails: VN_E_PEER, the watchdog
 * is gone; VN_E_TIMEOUT, it does not listen; VN_E_LIMIT; VN_E_FORMAT, an
 * address that it cannot use. `pid`: the VM's process, 0 if not known; one
 * that has ended is not waited for. `name` is any text that tells the agent's
 * VMs apart, such as NETWORK/VM; a name armed before is armed anew. One send on
 * a socket: microseconds, a second at the worst. Thread-safe.
 */
int watchdog_arm(struct watchdog *watchdog, const char *name,
                 const char *rescue_address, pid_t pid, unsigned deadline_ms,
                 struct vn_err *err) VN_MUST_USE;

/* The VM runs again (or is gone). A name that is not armed is ignored. Costs
 * and threads as above. */
void watchdog_disarm(struct watchdog *watchdog, const char *name);

/* The child's process id. */
pid_t watchdog_pid(const struct watchdog *watchdog);

/*
 * End the child and wait for it: at once when nothing is armed, else it first
 * resumes what is. NULL is fine. No other thread uses it any more.
 */
void watchdog_free(struct watchdog *watchdog);

VN_AUTO_DEFINE(watchdog, struct watchdog *, watchdog_free)

#endif
