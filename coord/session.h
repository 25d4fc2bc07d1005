#ifndef COORD_SESSION_H
#define COORD_SESSION_H

/*
 * The coordinator's side: connections to the agents of some hosts, on an
 * event loop of its own that runs inside the calls. One thread.
 */

#include "common/auto.h"
#include "common/err.h"
#include "coord/vne.h"

#include <event2/event.h>
#include <jansson.h>
#include <stdbool.h>

struct session;

/* A message came from host `index`, or (message NULL) its connection broke. */
typedef void session_handler(void *context, size_t index, const json_t *message,
                             const struct vn_err *why);

/*
 * Connect to the agents of these hosts (borrowed, they outlive the session)
 * and ask each who it is. A host that does not answer is no failure here:
 * session_require() says so. tls_dir may be NULL.
 */
struct session *session_open(const struct vne_host *hosts, size_t count,
                             const char *tls_dir,
                             struct vn_err *err) VN_MUST_USE;
void session_free(struct session *session);

size_t session_host_count(const struct session *session);
const struct vne_host *session_host(const struct session *session,
                                    size_t index);
struct event_base *session_base(struct session *session);

/* Fails with the host's name, its address and the reason if it is not there. */
int session_require(const struct session *session, size_t index,
                    struct vn_err *err) VN_MUST_USE;
bool session_answers(const struct session *session, size_t index);
uint64_t session_free_bytes(const struct session *session, size_t index);
/* What host `index` says of this VNE (borrowed), or NULL. */
const json_t *session_net(const struct session *session, size_t index,
                          const char *vne);

void session_send(struct session *session, size_t index, const json_t *message);
/* Messages go to `handler` from now on; NULL: to session_call() again. */
void session_set_handler(struct session *session, session_handler *handler,
                         void *context);

/*
 * Send requests[i] (NULL: none) to each host and wait until all have answered
 * with a message of type `answer`. The first failure is returned, with the
 * host's name, after all have answered or timeout_ms passed. `replies`, where
 * not NULL, takes the answers (caller decrefs each, also after a failure).
 */
int session_call(struct session *session, json_t *const *requests,
                 const char *answer, unsigned timeout_ms, json_t **replies,
                 struct vn_err *err) VN_MUST_USE;

VN_AUTO_DEFINE(session, struct session *, session_free)

#endif
