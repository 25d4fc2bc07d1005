/*
 * Coordinators and their connections to agents. A connection delivers in
 * order after a random time, as TCP does, until it breaks; then each end may
 * notice soon or, when the other host is simply gone, never.
 */

#include "tests/sim/sim.h"

#include <assert.h>

#define KEEPALIVE_NS (20 * SIM_MS)
#define STEP_NS      (400 * SIM_MS)
#define SAVE_NS      (800 * SIM_MS)

static void tick(struct sim *s, const struct sim_arg *arg);
static void commit(struct sim *s, const struct sim_arg *arg);

/* ---- connections -------------------------------------------------------- */

static uint64_t delivery(struct sim *s, uint64_t *last_ns)
{
    uint64_t at_ns = s->now_ns + sim_between(s, s->config.control_ns / 8,
                                             s->config.control_ns);

    if (at_ns <= *last_ns)
        at_ns = *last_ns + 1;
    return *last_ns = at_ns;
}

static void reach_agent(struct sim *s, const struct sim_arg *arg)
{
    if (!s->coords[arg->msg].conns[arg->who].broken)
        sim_agent_message(s, arg);
}

static void send_to_agent(struct sim *s, unsigned coord, unsigned host,
                          enum sim_message kind)
{
    struct sim_conn *conn = &s->coords[coord].conns[host];

    if (conn->broken)
        return;
    sim_at(s, delivery(s, &conn->to_agent_ns), reach_agent,
           &(struct sim_arg){.who = host,
                             .other = kind,
                             .epoch = s->coords[coord].epoch,
                             .gen = s->hosts[host].agent_gen,
                             .msg = coord});
}

static void feed(struct sim *s, unsigned coord,
                 const struct cut_coord_event *event);

static void reach_coord(struct sim *s, const struct sim_arg *arg)
{
    static const enum cut_coord_event_kind events[] = {
        [SIM_READY] = CUT_COORD_READY,
        [SIM_CUT_DONE] = CUT_COORD_CUT_DONE,
        [SIM_SAVED] = CUT_COORD_SAVED,
        [SIM_FAILED] = CUT_COORD_FAILED,
    };
    struct sim_coord *c = &s->coords[arg->msg];

    if (c->conns[arg->who].broken || !c->alive)
        return;
    if (arg->other == SIM_SAVED)
        c->fragments[arg->who] = arg->p;
    feed(s, arg->msg,
         &(struct cut_coord_event){.kind = events[arg->other],
                                   .host = arg->who,
                                   .epoch = arg->epoch,
                                   .reason = "it gave up"});
}

void sim_send_to_coord(struct sim *s, unsigned host, unsigned coord,
                       enum sim_message kind, uint32_t epoch,
                       struct sim_fragment *fragment)
{
    struct sim_conn *conn = &s->coords[coord].conns[host];

    if (!conn->opened || conn->broken)
        return;
    sim_at(s, delivery(s, &conn->to_coord_ns), reach_coord,
           &(struct sim_arg){.who = host,
                             .other = kind,
                             .epoch = epoch,
                             .msg = coord,
                             .p = fragment});
}

static void host_lost(struct sim *s, const struct sim_arg *arg)
{
    if (s->coords[arg->msg].alive)
        feed(s, arg->msg,
             &(struct cut_coord_event){.kind = CUT_COORD_HOST_LOST,
                                       .host = arg->who,
                                       .reason = "connection broke"});
}

void sim_conn_break(struct sim *s, unsigned coord, unsigned host)
{
    struct sim_conn *conn = &s->coords[coord].conns[host];
    struct sim_arg arg = {.who = host,
                          .other = SIM_BYE,
                          .epoch = s->coords[coord].epoch,
                          .gen = s->hosts[host].agent_gen,
                          .msg = coord};

    if (!conn->opened || conn->broken)
        return;
    sim_trace(s, "connection of coordinator %u to host %u breaks", coord, host);
    conn->broken = true;
    if (sim_chance(s, 750))
        sim_after(s, sim_between(s, 1, 10 * SIM_MS), sim_agent_message, &arg);
    if (sim_chance(s, 750))
        sim_after(s, sim_between(s, 1, 10 * SIM_MS), host_lost, &arg);
}

/* ---- the process -------------------------------------------------------- */

static void perform(struct sim *s, unsigned coord,
                    const struct cut_coord_action *action)
{
    switch (action->kind) {
    case CUT_COORD_SEND_PREPARE:
        send_to_agent(s, coord, action->host, SIM_PREPARE);
        return;
    case CUT_COORD_SEND_CUT:
        send_to_agent(s, coord, action->host, SIM_CUT);
        return;
    case CUT_COORD_SEND_COMMIT:
        send_to_agent(s, coord, action->host, SIM_COMMIT);
        return;
    case CUT_COORD_SEND_ABORT:
        send_to_agent(s, coord, action->host, SIM_ABORT);
        return;
    case CUT_COORD_SEND_KEEPALIVE:
        send_to_agent(s, coord, action->host, SIM_KEEPALIVE);
        return;
    case CUT_COORD_COMMIT:
        sim_after(s, sim_between(s, 1, 3 * SIM_MS), commit,
                  &(struct sim_arg){.who = coord});
        return;
    }
}

static void set_timer(struct sim *s, unsigned coord)
{
    struct sim_coord *c = &s->coords[coord];
    uint64_t at_ns = cut_coord_wake_ns(&c->machine);

    if (at_ns >= c->tick_at_ns)
        return;
    c->tick_at_ns = at_ns;
    sim_at(s, at_ns > s->now_ns ? at_ns : s->now_ns, tick,
           &(struct sim_arg){.who = coord});
}

static void leave(struct sim *s, unsigned coord)
{
    struct sim_coord *c = &s->coords[coord];

    for (unsigned i = 0; i < s->config.host_count; i++)
        send_to_agent(s, coord, i, SIM_BYE);
    c->alive = false;
    if (c->machine.state == CUT_COORD_ABORTED) {
        s->stats.aborted++;
        if (c->watched)
            sim_fail(s, "cut to epoch %u did not commit: host %u: %s", c->epoch,
                     c->machine.culprit, c->machine.reason);
    }
}

static void feed(struct sim *s, unsigned coord,
                 const struct cut_coord_event *event)
{
    struct sim_coord *c = &s->coords[coord];
    struct cut_coord_action actions[CUT_COORD_ACTIONS_MAX];
    enum cut_coord_state before = c->machine.state;
    size_t count = cut_coord_step(&c->machine, event, s->now_ns, actions);

    if (before != c->machine.state)
        sim_trace(s, "coordinator %u: event %d of host %u: state %d -> %d",
                  coord, (int)event->kind, event->host, (int)before,
                  (int)c->machine.state);
    for (size_t i = 0; i < count; i++)
        perform(s, coord, &actions[i]);
    set_timer(s, coord);
    if (c->machine.state == CUT_COORD_DONE ||
        c->machine.state == CUT_COORD_ABORTED)
        leave(s, coord);
}

static void tick(struct sim *s, const struct sim_arg *arg)
{
    struct sim_coord *c = &s->coords[arg->who];

    c->tick_at_ns = UINT64_MAX;
    if (!c->alive)
        return;
    feed(s, arg->who, &(struct cut_coord_event){.kind = CUT_COORD_TICK});
}

static void committed(struct sim *s, const struct sim_arg *arg)
{
    if (s->coords[arg->who].alive)
        feed(s, arg->who,
             &(struct cut_coord_event){.kind = CUT_COORD_COMMITTED});
}

/* The instant that makes the manifest durable, or not. */
static void commit(struct sim *s, const struct sim_arg *arg)
{
    struct sim_coord *c = &s->coords[arg->who];

    if (!c->alive)
        return;
    if (!s->calm && sim_chance(s, s->config.fail)) {
        feed(s, arg->who,
             &(struct cut_coord_event){.kind = CUT_COORD_COMMIT_FAILED,
                                       .reason = "disk full"});
        return;
    }
    sim_trace(s, "coordinator %u commits epoch %u", arg->who, c->epoch);
    c->committed = true;
    s->stats.committed++;
    sim_check_manifest(s, c);
    sim_after(s, sim_between(s, 1, 2 * SIM_MS), committed,
              &(struct sim_arg){.who = arg->who});
}

static void start(struct sim *s, const struct sim_arg *arg)
{
    struct sim_coord *c = &s->coords[arg->who];

    if (!c->alive)
        return;
    for (unsigned i = 0; i < s->config.host_count; i++)
        if (!c->conns[i].opened)
            host_lost(s, &(struct sim_arg){.who = i, .msg = arg->who});
    feed(s, arg->who, &(struct cut_coord_event){.kind = CUT_COORD_START});
}

unsigned sim_coord_start(struct sim *s)
{
    unsigned index = s->coord_count++;
    struct sim_coord *c = &s->coords[index];

    assert(index < SIM_COORDS_MAX);
    c->alive = true;
    c->tick_at_ns = UINT64_MAX;
    c->epoch = s->config.first_epoch;
    for (unsigned i = 0; i < s->config.host_count; i++) {
        c->conns[i].opened = s->hosts[i].agent_up;
        c->conns[i].broken = !s->hosts[i].agent_up;
        if (s->hosts[i].agent_up &&
            cut_epoch_after(s->hosts[i].highest_epoch, c->epoch))
            c->epoch = s->hosts[i].highest_epoch;
    }
    c->epoch++;
    sim_trace(s, "coordinator %u begins epoch %u", index, c->epoch);
    cut_coord_init(&c->machine, c->epoch, s->config.host_count, STEP_NS,
                   SAVE_NS);
    c->machine.keepalive_ns = KEEPALIVE_NS;
    sim_after(s, sim_between(s, 1, 4 * SIM_MS), start,
              &(struct sim_arg){.who = index});
    return index;
}

void sim_coord_crash(struct sim *s, unsigned coord)
{
    if (!s->coords[coord].alive)
        return;
    sim_trace(s, "coordinator %u crashes", coord);
    s->coords[coord].alive = false;
    for (unsigned i = 0; i < s->config.host_count; i++)
        sim_conn_break(s, coord, i);
}

bool sim_coord_busy(const struct sim *s)
{
    for (unsigned i = 0; i < s->coord_count; i++)
        if (s->coords[i].alive)
            return true;
    return false;
}
