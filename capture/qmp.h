#ifndef CAPTURE_QMP_H
#define CAPTURE_QMP_H

/*
 * A client of QEMU's machine protocol (QMP): one monitor connection.
 *
 * All calls block up to the connection's timeout and belong to one thread,
 * except qmp_cancel() and qmp_is_cancelled(). Events that arrive in between
 * are queued until someone asks for them. Errors name the VM, the command and
 * QEMU's own sentence:
 *
 *     VN_E_TIMEOUT     no answer in time; the connection stays usable, a late
 *                      answer is dropped
 *     VN_E_PEER        QEMU refused the command, or is gone ("VM 'a' (pid 7)
 *                      is gone"; qmp_is_gone() tells the two apart)
 *     VN_E_FORMAT      what came is not QMP
 *     VN_E_LIMIT       a message longer than QMP_MESSAGE_MAX
 *     ECANCELED        qmp_cancel() was called
 *
 * Source: QEMU docs/interop/qmp-spec.txt.
 */

#include "common/auto.h"
#include "common/err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define QMP_MESSAGE_MAX (16u << 20) /* bytes in one message */
#define QMP_EVENTS_MAX  4096u       /* queued; the oldest is dropped */
#define QMP_TIMEOUT_NS  30000000000ull

struct qmp;

/*
 * Connect to the monitor's unix socket, read the greeting, negotiate. `who`
 * names the VM in errors. Fails with the errno of connect() when nobody
 * listens there, VN_E_TIMEOUT when the greeting does not come: a monitor
 * serves one client at a time.
 */
struct qmp *qmp_connect(const char *path, const char *who, uint64_t timeout_ns,
                        struct vn_err *err) VN_MUST_USE;
void qmp_free(struct qmp *q); /* NULL is fine */

/* The process that listens (SO_PEERCRED); 0: unknown. */
int qmp_peer_pid(const struct qmp *q);
/* From the greeting: 70222 for 7.2.22. */
unsigned qmp_version(const struct qmp *q);
/* True once the other end closed the connection or broke the protocol. */
bool qmp_is_gone(const struct qmp *q);
/* For each later call; QMP_TIMEOUT_NS at first. */
void qmp_set_timeout(struct qmp *q, uint64_t timeout_ns);

/*
 * Run a command. `args` (may be NULL) is stolen. *ret, where ret is not NULL,
 * gets the "return" value; the caller decrefs it.
 */
int qmp_command(struct qmp *q, const char *command, json_t *args, json_t **ret,
                struct vn_err *err) VN_MUST_USE;
/* The same with a descriptor beside it (getfd); the caller keeps his. */
int qmp_command_fd(struct qmp *q, const char *command, json_t *args, int fd,
                   struct vn_err *err) VN_MUST_USE;

/* Does this event ("event", "data", "timestamp") interest the caller? */
typedef bool qmp_want_fn(const json_t *event, const void *context);
/* A qmp_want_fn; its context is the event's name. */
bool qmp_want_name(const json_t *event, const void *name);

/*
 * The first wanted event, queued or to come; unwanted ones stay queued. The
 * caller decrefs it. `what` names it in errors. NULL on failure.
 */
json_t *qmp_wait_event(struct qmp *q, qmp_want_fn *want, const void *context,
                       const char *what, struct vn_err *err) VN_MUST_USE;
/* Read what has arrived, without waiting. */
int qmp_pump(struct qmp *q, struct vn_err *err) VN_MUST_USE;
/* The first queued event that is wanted, or NULL; the caller decrefs. */
json_t *qmp_take_event(struct qmp *q, qmp_want_fn *want, const void *context);
void qmp_forget_events(struct qmp *q);

const char *qmp_event_name(const json_t *event); /* "" if it has none */
/* A string out of its data, or "". */
const char *qmp_event_string(const json_t *event, const char *key);
/* Its timestamp, CLOCK_REALTIME; 0 if it has none. */
uint64_t qmp_event_wall_ns(const json_t *event);

/*
 * From any thread: the blocked call and all later ones fail with ECANCELED,
 * until qmp_uncancel(). While deaf (cleaning up) a cancel has no effect.
 */
void qmp_cancel(struct qmp *q);
bool qmp_is_cancelled(const struct qmp *q);
void qmp_uncancel(struct qmp *q);
void qmp_set_deaf(struct qmp *q, bool deaf);

VN_AUTO_DEFINE(qmp, struct qmp *, qmp_free)

#endif
