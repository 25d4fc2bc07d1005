/*
 * The checks. What each proves is in docs/CUT.md, "What the simulator checks".
 */

#include "tests/sim/sim.h"

#include <string.h>

/* Which VM of which fragment. */
static __typeof__(&((struct sim_fragment *)0)->vms[0])
captured(const struct sim *s, const struct sim_coord *c, unsigned vm)
{
    return &c->fragments[s->vms[vm].host]->vms[s->vms[vm].port];
}

/* ---- a committed manifest ------------------------------------------------ */

static bool has_everything(struct sim *s, const struct sim_coord *c)
{
    for (unsigned h = 0; h < s->config.host_count; h++) {
        const struct sim_fragment *f = c->fragments[h];

        if (f && f->given_up) {
            sim_fail(s, "epoch %u committed, which host %u gave up", c->epoch,
                     h);
            return false;
        }
        if (!f || f->epoch != c->epoch || !f->closed) {
            sim_fail(s, "epoch %u committed without channels of host %u",
                     c->epoch, h);
            return false;
        }
        for (unsigned i = 0; i < f->vm_count; i++)
            if (!f->vms[i].captured || !f->vms[i].durable) {
                sim_fail(s, "epoch %u committed without port %u of host %u",
                         c->epoch, i, h);
                return false;
            }
    }
    for (unsigned i = 0; i < s->coord_count; i++)
        if (&s->coords[i] != c && s->coords[i].committed &&
            s->coords[i].epoch == c->epoch) {
            sim_fail(s, "epoch %u committed twice", c->epoch);
            return false;
        }
    return true;
}

static unsigned times_recorded(const struct sim_fragment *f, unsigned port,
                               uint32_t msg)
{
    unsigned count = 0;

    for (unsigned i = 0; i < f->record_count; i++)
        count += f->records[i].msg == msg && f->records[i].port == port;
    return count;
}

static unsigned times_unread(const struct sim_fragment *f, unsigned port,
                             uint32_t msg)
{
    unsigned count = 0;

    for (unsigned i = 0; i < f->vms[port].unread_count; i++)
        count += f->vms[port].unread[i] == msg;
    return count;
}

/* A switch that crashed took frames with it: not the cut's fault. */
static bool is_excused(const struct sim *s, uint32_t msg, unsigned receiver)
{
    return msg < s->hosts[s->vms[receiver].host].excused ||
           msg < s->hosts[s->vms[s->msgs[msg].src].host].excused;
}

/* Message sent before the cut: exactly as often as it reached the host. */
static void check_past(struct sim *s, const struct sim_coord *c, uint32_t msg,
                       unsigned vm, unsigned count)
{
    const struct sim_msg *m = &s->msgs[msg];
    const struct sim_fragment *f = c->fragments[s->vms[vm].host];
    unsigned src_host = s->vms[m->src].host, host = s->vms[vm].host;
    unsigned expected = src_host == host ? 1 : f->arrivals[msg];

    if (count > expected)
        sim_fail(s, "epoch %u: vm %u has msg %u %u times", c->epoch, vm, msg,
                 count);
    else if (count < expected && !is_excused(s, msg, vm) &&
             f->dropped_ever == 0)
        sim_fail(s, "epoch %u: vm %u lost msg %u of vm %u", c->epoch, vm, msg,
                 m->src);
    if (expected > 0 || is_excused(s, msg, vm))
        return;
    if (s->config.duplication > 0)
        return; /* a duplicate may be counted for one that comes too late */
    if (f->missing > 0 && !s->config.close_after_markers)
        return; /* a peer was slower than our patience, and it shows */
    if (m->tx_epoch[host] != c->fragments[src_host]->before &&
        s->config.loss + s->config.reordering > 0)
        return; /* from before an aborted cut: markers do not count these */
    if (s->config.loss == 0)
        sim_fail(s, "epoch %u: msg %u to vm %u was lost nowhere", c->epoch, msg,
                 vm);
    else if (f->missing == 0)
        sim_fail(s, "epoch %u: loss of msg %u to vm %u was not counted",
                 c->epoch, msg, vm);
}

static void check_message(struct sim *s, const struct sim_coord *c,
                          uint32_t msg, unsigned vm)
{
    const struct sim_msg *m = &s->msgs[msg];
    const struct sim_fragment *f = c->fragments[s->vms[vm].host];
    unsigned port = s->vms[vm].port;
    unsigned received = f->vms[port].state.received[msg];
    unsigned recorded = times_recorded(f, port, msg);
    unsigned unread = times_unread(f, port, msg);

    if (m->src_seq < captured(s, c, m->src)->state.sent) {
        check_past(s, c, msg, vm, received + recorded + unread);
        if (unread > 0 && f->unsettled == 0)
            sim_fail(s, "epoch %u: msg %u was unread at vm %u", c->epoch, msg,
                     vm);
    } else if (received + unread > 0) {
        sim_fail(s, "epoch %u: vm %u received msg %u from the future", c->epoch,
                 vm, msg);
    } else if (recorded > 0) {
        sim_fail(s, "epoch %u: msg %u of the future is recorded for vm %u",
                 c->epoch, msg, vm);
    }
}

/* Replayed records follow what was received, in the sender's order. */
static void check_order(struct sim *s, const struct sim_coord *c, unsigned vm)
{
    const struct sim_fragment *f = c->fragments[s->vms[vm].host];
    uint32_t next[SIM_VMS_MAX];

    if (s->config.reordering > 0 || s->config.duplication > 0)
        return;
    memcpy(next, captured(s, c, vm)->state.next_seq, sizeof(next));
    for (unsigned i = 0; i < f->record_count; i++) {
        const struct sim_msg *m = &s->msgs[f->records[i].msg];

        if (f->records[i].port != s->vms[vm].port ||
            !sim_is_for(s, f->records[i].msg, vm))
            continue;
        if (m->src_seq < next[m->src])
            sim_fail(s, "epoch %u: records of vm %u are out of order", c->epoch,
                     vm);
        next[m->src] = m->src_seq + 1;
    }
}

void sim_check_manifest(struct sim *s, const struct sim_coord *c)
{
    if (!has_everything(s, c))
        return;
    for (unsigned vm = 0; vm < s->vm_count; vm++) {
        for (uint32_t msg = 0; msg < s->msg_count; msg++)
            if (sim_is_for(s, msg, vm))
                check_message(s, c, msg, vm);
        check_order(s, c, vm);
    }
    for (unsigned h = 0; h < s->config.host_count; h++) {
        const struct sim_fragment *f = c->fragments[h];

        s->stats.missing += f->missing;
        s->stats.dropped += f->dropped;
        if (f->missing > 0 && s->config.loss == 0 && !s->config.process_faults)
            sim_fail(s, "epoch %u: host %u misses %u frames that nobody lost",
                     c->epoch, h, (unsigned)f->missing);
    }
}

/* ---- the world that went on --------------------------------------------- */

static void check_delivery(struct sim *s, uint32_t msg, unsigned vm)
{
    const struct sim_msg *m = &s->msgs[msg];
    const struct sim_host *h = &s->hosts[s->vms[vm].host];
    bool is_local = s->vms[m->src].host == h->index;
    unsigned expected = is_local ? 1 : m->arrivals[h->index];
    unsigned received = s->vms[vm].state.received[msg];

    if (received > expected)
        sim_fail(s, "vm %u received msg %u %u times", vm, msg, received);
    if (is_excused(s, msg, vm) || s->vms[vm].dead || s->vms[m->src].dead)
        return;
    if (!is_local && m->transmits[h->index] != 1)
        sim_fail(s, "msg %u was sent %u times to host %u", msg,
                 m->transmits[h->index], h->index);
    if (received < expected && h->dropped_before + sim_switch_dropped(h) == 0)
        sim_fail(s, "msg %u of vm %u never reached vm %u", msg, m->src, vm);
}

void sim_check_end(struct sim *s)
{
    for (unsigned i = 0; i < s->config.host_count; i++)
        if (s->hosts[i].cut.state != CUT_AGENT_IDLE)
            sim_fail(s, "host %u is left in state %d", i,
                     (int)s->hosts[i].cut.state);
    for (unsigned vm = 0; vm < s->vm_count; vm++) {
        if (s->vms[vm].paused)
            sim_fail(s, "vm %u is left standing", vm);
        for (uint32_t msg = 0; msg < s->msg_count; msg++)
            if (sim_is_for(s, msg, vm))
                check_delivery(s, msg, vm);
    }
}
