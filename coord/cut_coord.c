/*
 * The coordinator's half of a cut, as a pure machine. See coord/cut.h for the
 * contract and docs/CUT.md for the protocol and its argument.
 *
 * Purpose: bring every host through PREPARE, CUT, SAVED; have the manifest
 * committed if, and only if, all of them said SAVED for this epoch; else tell
 * those that were asked that it is over.
 *
 * How it works: a machine lives for one epoch. Messages set a flag of their
 * host; when the flags that the state waits for are complete, the next state
 * is entered. They may run ahead: a host that was triggered by a frame says
 * CUT_DONE while we still wait for another's READY. So a state's condition
 * asks for the flags of the states before too, and advance() loops.
 *
 * Invariants: COMMIT comes out at most once, in the step that leaves SAVING,
 * and never after an ABORT; after COMMIT only its own result ends the machine,
 * because what may be durable cannot be taken back. An ABORTED machine stays
 * so: who wants to try again makes a new one with a higher epoch.
 *
 * Not done: no retry of a host, no cut without a host that failed. The user
 * asked for a snapshot of the whole network.
 */

#include "coord/cut.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

struct out {
    struct cut_coord_action *actions;
    size_t count;
};

static void emit(struct out *out, enum cut_coord_action_kind kind,
                 unsigned host)
{
    assert(out->count < CUT_COORD_ACTIONS_MAX);
    out->actions[out->count++] =
        (struct cut_coord_action){.kind = kind, .host = host};
}

static bool is_under_way(const struct cut_coord *c)
{
    return c->state >= CUT_COORD_PREPARING && c->state <= CUT_COORD_SAVING;
}

/* To every host that was told of the cut and may still be listening. */
static void emit_to_all(const struct cut_coord *c, struct out *out,
                        enum cut_coord_action_kind kind)
{
    for (unsigned i = 0; i < c->host_count; i++)
        if (c->hosts[i].told && !c->hosts[i].lost && !c->hosts[i].failed)
            emit(out, kind, i);
}

static void end(struct cut_coord *c, enum cut_coord_state state)
{
    c->state = state;
    c->deadline_ns = UINT64_MAX;
    c->keepalive_at_ns = UINT64_MAX;
}

static void give_up(struct cut_coord *c, struct out *out, unsigned culprit,
                    const char *reason)
{
    snprintf(c->reason, sizeof(c->reason), "%s", reason ? reason : "");
    c->culprit = culprit;
    end(c, CUT_COORD_ABORTED);
    emit_to_all(c, out, CUT_COORD_SEND_ABORT);
}

static uint64_t later(uint64_t now_ns, uint64_t wait_ns)
{
    return wait_ns < UINT64_MAX - now_ns ? now_ns + wait_ns : UINT64_MAX;
}

/* What the present state waits for from a host. */
static bool has_answered(const struct cut_coord *c, unsigned host)
{
    switch (c->state) {
    case CUT_COORD_PREPARING:
        return c->hosts[host].ready;
    case CUT_COORD_CUTTING:
        return c->hosts[host].ready && c->hosts[host].cut_done;
    case CUT_COORD_SAVING:
        return c->hosts[host].ready && c->hosts[host].cut_done &&
               c->hosts[host].saved;
    default:
        return true;
    }
}

/* The first host that is awaited, or host_count. */
static unsigned awaited(const struct cut_coord *c)
{
    for (unsigned i = 0; i < c->host_count; i++)
        if (!has_answered(c, i))
            return i;
    return c->host_count;
}

static void advance(struct cut_coord *c, uint64_t now_ns, struct out *out)
{
    while (is_under_way(c) && awaited(c) == c->host_count) {
        switch (c->state) {
        case CUT_COORD_PREPARING:
            c->state = CUT_COORD_CUTTING;
            c->deadline_ns = later(now_ns, c->step_timeout_ns);
            emit_to_all(c, out, CUT_COORD_SEND_CUT);
            break;
        case CUT_COORD_CUTTING:
            c->state = CUT_COORD_SAVING;
            c->deadline_ns = later(now_ns, c->save_timeout_ns);
            break;
        default:
            c->state = CUT_COORD_COMMITTING;
            c->deadline_ns = UINT64_MAX;
            emit(out, CUT_COORD_COMMIT, 0);
            break;
        }
    }
}

static void start(struct cut_coord *c, uint64_t now_ns, struct out *out)
{
    if (c->state != CUT_COORD_IDLE)
        return;
    c->state = CUT_COORD_PREPARING;
    c->deadline_ns = later(now_ns, c->save_timeout_ns);
    c->keepalive_at_ns = later(now_ns, c->keepalive_ns);
    for (unsigned i = 0; i < c->host_count; i++) {
        if (c->hosts[i].lost) {
            give_up(c, out, i, "not connected");
            return;
        }
    }
    for (unsigned i = 0; i < c->host_count; i++)
        c->hosts[i].told = true;
    emit_to_all(c, out, CUT_COORD_SEND_PREPARE);
}

static void tick(struct cut_coord *c, uint64_t now_ns, struct out *out)
{
    static const char *const awaited_answers[] = {
        [CUT_COORD_PREPARING] = "not ready in time",
        [CUT_COORD_CUTTING] = "VMs not cut in time",
        [CUT_COORD_SAVING] = "not saved in time",
    };

    if (is_under_way(c) && now_ns >= c->deadline_ns) {
        give_up(c, out, awaited(c), awaited_answers[c->state]);
    } else if (now_ns >= c->keepalive_at_ns) {
        c->keepalive_at_ns = later(now_ns, c->keepalive_ns);
        emit_to_all(c, out, CUT_COORD_SEND_KEEPALIVE);
    }
}

static void from_host(struct cut_coord *c, const struct cut_coord_event *event,
                      struct out *out)
{
    assert(event->host < c->host_count);
    switch (event->kind) {
    case CUT_COORD_READY:
        c->hosts[event->host].ready = true;
        return;
    case CUT_COORD_CUT_DONE:
        c->hosts[event->host].cut_done = true;
        return;
    case CUT_COORD_SAVED:
        c->hosts[event->host].saved = true;
        return;
    case CUT_COORD_FAILED:
        c->hosts[event->host].failed = true;
        break;
    default:
        c->hosts[event->host].lost = true;
        break;
    }
    if (is_under_way(c))
        give_up(c, out, event->host, event->reason);
}

static void commit_ended(struct cut_coord *c,
                         const struct cut_coord_event *event, struct out *out)
{
    if (c->state != CUT_COORD_COMMITTING)
        return;
    if (event->kind == CUT_COORD_COMMIT_FAILED) {
        give_up(c, out, CUT_HOSTS_MAX, event->reason);
    } else {
        end(c, CUT_COORD_DONE);
        emit_to_all(c, out, CUT_COORD_SEND_COMMIT);
    }
}

void cut_coord_init(struct cut_coord *c, uint32_t epoch, unsigned host_count,
                    uint64_t step_timeout_ns, uint64_t save_timeout_ns)
{
    assert(host_count >= 1 && host_count <= CUT_HOSTS_MAX);
    memset(c, 0, sizeof(*c));
    c->epoch = epoch;
    c->host_count = host_count;
    c->step_timeout_ns = step_timeout_ns;
    c->save_timeout_ns = save_timeout_ns;
    c->keepalive_ns = CUT_KEEPALIVE_NS;
    c->culprit = CUT_HOSTS_MAX;
    end(c, CUT_COORD_IDLE);
}

size_t cut_coord_step(struct cut_coord *c, const struct cut_coord_event *event,
                      uint64_t now_ns,
                      struct cut_coord_action actions[CUT_COORD_ACTIONS_MAX])
{
    struct out out = {.actions = actions};

    switch (event->kind) {
    case CUT_COORD_START:
        start(c, now_ns, &out);
        break;
    case CUT_COORD_READY:
    case CUT_COORD_CUT_DONE:
    case CUT_COORD_SAVED:
    case CUT_COORD_FAILED:
        if (event->epoch == c->epoch)
            from_host(c, event, &out);
        break;
    case CUT_COORD_HOST_LOST:
        from_host(c, event, &out);
        break;
    case CUT_COORD_COMMITTED:
    case CUT_COORD_COMMIT_FAILED:
        commit_ended(c, event, &out);
        break;
    case CUT_COORD_CANCEL:
        if (is_under_way(c))
            give_up(c, &out, CUT_HOSTS_MAX, event->reason);
        break;
    case CUT_COORD_TICK:
        tick(c, now_ns, &out);
        break;
    }
    advance(c, now_ns, &out);
    return out.count;
}
