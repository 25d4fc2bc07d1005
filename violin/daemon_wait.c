/*
 * Calls that are answered later: hold (until the VMs consumed what was
 * delivered) and await_closed (until the channels of the cut are closed).
 *
 * How it works: a wait is a list entry with a timer. A hold looks at its ports
 * every SETTLE_POLL_US, since the kernel has no event for "the other side has
 * read everything". A wait for channels has two parts: until every marker is
 * there, looked at every MARKER_POLL_US; and then, with a patience of its own,
 * until the frames that the markers announce are. At the end of the first the
 * call fails; at the end of the second the switch gives the frames up: the
 * underlay lost them. The switch may say closed at any time.
 *
 * Invariants: a wait's client and network exist; both take their waits with
 * them. Limits: DAEMON_WAITS_MAX. Concurrency: one thread.
 */
#include "common/clock.h"
#include "common/jsonx.h"
#include "violin/daemon_internal.h"

#include <stdlib.h>

#define SETTLE_POLL_US 200
#define MARKER_POLL_US 2000

static void wait_free(struct wait *w)
{
    struct daemon *daemon = w->client->daemon;
    struct wait **at = &daemon->waits;

    while (*at != w)
        at = &(*at)->next;
    *at = w->next;
    daemon->wait_count--;
    event_free(w->timer);
    free(w);
}

static void set_timer(struct wait *w)
{
    uint64_t now_ns = clock_now_ns();
    uint64_t left_us =
        w->deadline_ns > now_ns ? (w->deadline_ns - now_ns) / 1000 + 1 : 0;
    struct timeval tv;

    if (w->is_hold && left_us > SETTLE_POLL_US)
        left_us = SETTLE_POLL_US;
    if (!w->is_hold && !w->all_marked && left_us > MARKER_POLL_US)
        left_us = MARKER_POLL_US;
    tv.tv_sec = (time_t)(left_us / 1000000);
    tv.tv_usec = (suseconds_t)(left_us % 1000000);
    event_add(w->timer, &tv);
}

/* ---- hold -------------------------------------------------------------- */

static unsigned count_unsettled(struct wait *w, uint64_t now_ns)
{
    unsigned unsettled = 0;

    for (unsigned i = 0; i < SWITCH_PORTS_MAX; i++) {
        if (!w->ports[i])
            continue;
        w->ports[i] = !port_is_settled(w->net->ports[i]->io, now_ns);
        unsettled += w->ports[i];
    }
    return unsettled;
}

/* Answer the hold if its time has come; true if it is done and freed. */
static bool hold_review(struct wait *w)
{
    uint64_t now_ns = clock_now_ns();
    unsigned unsettled = count_unsettled(w, now_ns);

    if (unsettled && now_ns < w->deadline_ns)
        return false;
    w->net->unsettled += unsettled;
    daemon_reply_ok(w->client, w->id,
                    json_pack("{s:o}", "unsettled", jsonx_int(unsettled)), -1);
    wait_free(w);
    return true;
}

/* ---- closed ------------------------------------------------------------ */

static void answer_report(struct wait *w)
{
    daemon_reply_ok(w->client, w->id, network_report(w->net), -1);
    wait_free(w);
}

static void answer_error(struct wait *w, const struct vn_err *failure)
{
    daemon_reply_error(w->client, w->id, failure);
    wait_free(w);
}

/* True if the wait is done and freed. */
static bool closed_review(struct wait *w)
{
    struct vn_err err = VN_ERR_INIT;
    uint64_t now_ns = clock_now_ns();

    if (!w->all_marked && network_check_marked(w->net, &err) == 0) {
        w->all_marked = true;
        w->deadline_ns = now_ns + w->patience_ms * VN_MS;
    }
    if (now_ns < w->deadline_ns)
        return false;
    if (!w->all_marked) {
        answer_error(w, &err);
        return true;
    }
    w->net->missing = vsw_give_up(w->net->sw);
    wait_closed(w->net, w->client->daemon);
    return true;
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct wait *w = arg;

    (void)fd;
    (void)what;
    if (!(w->is_hold ? hold_review(w) : closed_review(w)))
        set_timer(w);
}

/* ---- begin and end ----------------------------------------------------- */

static struct wait *wait_new(struct client *client, uint64_t id,
                             struct network *net, uint32_t timeout_ms,
                             struct vn_err *err)
{
    struct daemon *daemon = client->daemon;
    struct wait *w;

    if (daemon->wait_count == DAEMON_WAITS_MAX)
        return vn_fail_ptr(err, VN_E_LIMIT, "%d calls wait already",
                           DAEMON_WAITS_MAX);
    w = vn_alloc(sizeof(*w));
    w->client = client;
    w->id = id;
    w->net = net;
    w->deadline_ns = clock_now_ns() + timeout_ms * VN_MS;
    w->timer = evtimer_new(daemon->base, on_timer, w);
    w->next = daemon->waits;
    daemon->waits = w;
    daemon->wait_count++;
    return w;
}

int wait_for_settled(struct client *client, uint64_t id, struct network *net,
                     struct network_port *const *ports, size_t count,
                     uint32_t settle_ms, struct vn_err *err)
{
    struct wait *w = wait_new(client, id, net, settle_ms, err);

    if (!w)
        return -1;
    w->is_hold = true;
    for (size_t i = 0; i < count; i++)
        w->ports[ports[i]->index] = true;
    if (!hold_review(w))
        set_timer(w);
    return 0;
}

int wait_for_closed(struct client *client, uint64_t id, struct network *net,
                    uint32_t marker_ms, uint32_t patience_ms,
                    struct vn_err *err)
{
    struct wait *w;

    if (network_check_armed(net, err))
        return -1;
    w = wait_new(client, id, net, marker_ms, err);
    if (!w)
        return -1;
    w->patience_ms = patience_ms;
    if (vsw_is_closed(net->sw))
        answer_report(w);
    else if (!closed_review(w))
        set_timer(w);
    return 0;
}

void wait_closed(struct network *net, struct daemon *daemon)
{
    struct wait *next;

    for (struct wait *w = daemon->waits; w; w = next) {
        next = w->next;
        if (w->net == net && !w->is_hold)
            answer_report(w);
    }
}

void wait_cut_ended(struct daemon *daemon, struct network *net)
{
    struct vn_err failure = VN_ERR_INIT;
    struct wait *next;

    (void)vn_fail(&failure, VN_E_STATE, "network %u: the cut was given up",
                  net->vni);
    for (struct wait *w = daemon->waits; w; w = next) {
        next = w->next;
        if (w->net == net)
            answer_error(w, &failure);
    }
}

void wait_port_gone(struct daemon *daemon, const struct network_port *port)
{
    for (struct wait *w = daemon->waits; w; w = w->next) {
        if (w->net == port->net)
            w->ports[port->index] = false;
    }
}

void wait_client_gone(struct client *client)
{
    struct wait *next;

    for (struct wait *w = client->daemon->waits; w; w = next) {
        next = w->next;
        if (w->client == client)
            wait_free(w);
    }
}
