/*
 * Switches and the underlay between them.
 *
 * The switch is the real one. The underlay delays, loses, doubles and
 * reorders frames and markers alike, as UDP may. Per message it counts what
 * was sent to and what arrived at each host: from these the checks know what
 * a VM must have received, duplicates of the underlay included.
 */

#include "tests/sim/sim.h"

#include "common/auto.h"

#include <stdlib.h>
#include <string.h>

/* ---- frames ------------------------------------------------------------- */

static void put_mac(uint8_t *mac, unsigned vm)
{
    memset(mac, vm == SIM_NOBODY ? 0xff : 0, 6);
    if (vm != SIM_NOBODY) {
        mac[0] = 0x02;
        mac[5] = (uint8_t)(vm + 1);
    }
}

static void make_frame(const struct sim *s, uint32_t msg,
                       uint8_t frame[SIM_FRAME_SIZE])
{
    memset(frame, 0, SIM_FRAME_SIZE);
    put_mac(frame, s->msgs[msg].dst);
    put_mac(frame + 6, s->msgs[msg].src);
    frame[12] = 0x88; /* local experimental */
    frame[13] = 0xb5;
    for (unsigned i = 0; i < 4; i++)
        frame[14 + i] = (uint8_t)(msg >> (24 - 8 * i));
}

static uint32_t message_of(struct sim *s, const uint8_t *frame, size_t size)
{
    uint8_t expected[SIM_FRAME_SIZE];
    uint32_t msg = (uint32_t)frame[14] << 24 | (uint32_t)frame[15] << 16 |
                   (uint32_t)frame[16] << 8 | frame[17];

    if (size == SIM_FRAME_SIZE && msg < s->msg_count) {
        make_frame(s, msg, expected);
        if (memcmp(frame, expected, size) == 0)
            return msg;
    }
    sim_fail(s, "a switch changed a frame");
    return 0;
}

/* ---- the underlay ------------------------------------------------------- */

static void frame_arrives(struct sim *s, const struct sim_arg *arg)
{
    struct sim_host *h = &s->hosts[arg->who];
    uint8_t frame[SIM_FRAME_SIZE];
    uint32_t epoch = arg->epoch;

    if (!h->sw)
        return;
    sim_trace(s, "host %u: msg %u of epoch %u from host %u", arg->who, arg->msg,
              epoch, arg->other);
    if (s->mutant == SIM_MUTANT_FUTURE)
        epoch = vsw_epoch(h->sw);
    s->msgs[arg->msg].arrivals[arg->who]++;
    make_frame(s, arg->msg, frame);
    vsw_from_peer(h->sw, arg->other, epoch, frame, sizeof(frame), s->now_ns);
    sim_switch_touched(s, arg->who);
}

static void marker_arrives(struct sim *s, const struct sim_arg *arg)
{
    struct sim_host *h = &s->hosts[arg->who];
    struct vsw_marker marker = {.epoch = arg->epoch,
                                .before = arg->before,
                                .sent = arg->sent,
                                .ack = arg->msg != 0};

    if (!h->sw)
        return;
    sim_trace(s, "host %u: marker%s of epoch %u, %u frames, from host %u",
              arg->who, marker.ack ? " ack" : "", marker.epoch,
              (unsigned)marker.sent, arg->other);
    if (!marker.ack && cut_epoch_after(marker.epoch, h->marked[arg->other]))
        h->marked[arg->other] = marker.epoch;
    vsw_marker_from_peer(h->sw, arg->other, &marker, s->now_ns);
    sim_switch_touched(s, arg->who);
}

static void send_over(struct sim *s, sim_fn *fn, const struct sim_arg *arg)
{
    const struct sim_config *c = &s->config;
    uint64_t *last_ns = &s->channel_ns[arg->other][arg->who];
    unsigned copies = sim_chance(s, c->loss) ? 0 : 1;

    if (sim_chance(s, c->duplication))
        copies++;
    while (copies-- > 0) {
        uint64_t at_ns = s->now_ns + c->underlay_ns +
                         sim_between(s, 0, c->underlay_jitter_ns);

        if (sim_chance(s, c->reordering)) {
            at_ns += sim_between(s, 0, 4 * c->underlay_jitter_ns);
        } else {
            if (at_ns <= *last_ns)
                at_ns = *last_ns + 1;
            *last_ns = at_ns;
        }
        sim_at(s, at_ns, fn, arg);
    }
}

/* ---- the switch's effects ----------------------------------------------- */

static void on_deliver(void *context, unsigned port, const void *frame,
                       size_t size)
{
    struct sim_host *h = context;

    if (port >= h->vm_count)
        sim_fail(h->sim, "host %u delivers to port %u", h->index, port);
    else
        sim_vm_deliver(h->sim, h->first_vm + port,
                       message_of(h->sim, frame, size));
}

static void on_transmit(void *context, unsigned peer, uint32_t epoch,
                        const void *frame, size_t size)
{
    struct sim_host *h = context;
    struct sim *s = h->sim;
    uint32_t msg = message_of(s, frame, size);

    s->msgs[msg].transmits[peer]++;
    s->msgs[msg].tx_epoch[peer] = epoch;
    send_over(s, frame_arrives,
              &(struct sim_arg){
                  .who = peer, .other = h->index, .epoch = epoch, .msg = msg});
}

static void on_marker(void *context, unsigned peer,
                      const struct vsw_marker *marker)
{
    struct sim_host *h = context;

    send_over(h->sim, marker_arrives,
              &(struct sim_arg){.who = peer,
                                .other = h->index,
                                .epoch = marker->epoch,
                                .msg = marker->ack,
                                .before = marker->before,
                                .sent = marker->sent});
}

static void add_record(struct sim_host *h, unsigned port, uint32_t msg)
{
    if (h->record_count == h->record_capacity) {
        h->record_capacity = h->record_capacity ? h->record_capacity * 2 : 64;
        h->records =
            realloc(h->records, h->record_capacity * sizeof(*h->records));
        if (!h->records)
            abort();
    }
    h->records[h->record_count++] =
        (struct sim_record){.msg = msg, .port = (uint8_t)port};
}

static void on_record(void *context, unsigned port, uint32_t epoch,
                      const void *frame, size_t size)
{
    struct sim_host *h = context;
    struct sim *s = h->sim;
    uint32_t msg = message_of(s, frame, size);

    sim_trace(s, "host %u records msg %u for port %u, cut %u", h->index, msg,
              port, epoch);
    s->stats.recorded++;
    if (s->mutant == SIM_MUTANT_NO_RECORD)
        return;
    add_record(h, port, msg);
    if (s->mutant == SIM_MUTANT_RECORD_TWICE)
        add_record(h, port, msg);
}

static void notify_trigger(struct sim *s, const struct sim_arg *arg)
{
    if (arg->gen != s->hosts[arg->who].agent_gen)
        return;
    sim_agent_feed(s, arg->who,
                   &(struct cut_agent_event){.kind = CUT_AGENT_TRIGGER,
                                             .vm = CUT_VMS_MAX,
                                             .epoch = arg->epoch});
}

static void on_trigger(void *context, uint32_t epoch)
{
    struct sim_host *h = context;
    struct sim *s = h->sim;

    sim_trace(s, "host %u: a frame of epoch %u came first", h->index, epoch);
    s->stats.triggers++;
    sim_after(s, sim_between(s, 1, 200 * SIM_US), notify_trigger,
              &(struct sim_arg){
                  .who = h->index, .epoch = epoch, .gen = h->agent_gen});
}

static void on_closed(void *context, uint32_t epoch)
{
    struct sim_host *h = context;

    sim_trace(h->sim, "host %u: channels of epoch %u closed", h->index, epoch);
    if (h->channels_closed || !h->is_armed || epoch != h->armed_epoch)
        sim_fail(h->sim, "host %u closes epoch %u again", h->index, epoch);
    h->channels_closed = true;
}

static const struct vsw_effects effects = {
    .deliver = on_deliver,
    .transmit = on_transmit,
    .marker = on_marker,
    .record = on_record,
    .trigger = on_trigger,
    .closed = on_closed,
};

/* ---- life of a switch --------------------------------------------------- */

static void tick_switch(struct sim *s, const struct sim_arg *arg)
{
    struct sim_host *h = &s->hosts[arg->who];

    if (!h->sw || arg->gen != h->switch_gen || h->switch_tick_at_ns > s->now_ns)
        return;
    h->switch_tick_at_ns = UINT64_MAX;
    sim_switch_touched(s, arg->who);
}

void sim_switch_touched(struct sim *s, unsigned host)
{
    struct sim_host *h = &s->hosts[host];
    uint64_t next_ns = vsw_tick(h->sw, s->now_ns);

    /* The check walks big tables: at each step in one seed of eight. */
    if (s->seed % 8 == 0 || s->touches++ % 16 == 0)
        vsw_check(h->sw);
    if (cut_epoch_after(vsw_epoch(h->sw), h->highest_epoch))
        h->highest_epoch = vsw_epoch(h->sw);
    if (next_ns <= s->now_ns)
        next_ns = s->now_ns + 1;
    if (next_ns < h->switch_tick_at_ns) {
        h->switch_tick_at_ns = next_ns;
        if (next_ns != UINT64_MAX)
            sim_at(s, next_ns, tick_switch,
                   &(struct sim_arg){.who = host, .gen = h->switch_gen});
    }
}

/*
 * A switch that starts anew has forgotten how many frames of the present
 * epoch it sent; its peers have not. So it starts in an epoch of its own.
 */
static void burn_epoch(struct sim_host *h)
{
    h->highest_epoch++;
    if (cut_epoch_after(h->highest_epoch, h->cut.highest_epoch))
        h->cut.highest_epoch = h->highest_epoch;
}

static void start_switch(struct sim *s, unsigned host)
{
    struct sim_host *h = &s->hosts[host];
    struct vsw_opts opts = {
        .epoch = h->highest_epoch,
        .hold_bytes_per_port = s->config.hold_bytes,
        .marker_repeat_ns = 2 * SIM_MS,
        .effects = &effects,
        .context = h,
    };

    sim_trace(s, "host %u: switch starts in epoch %u", host, opts.epoch);
    h->sw = vsw_new(&opts);
    h->switch_gen++;
    h->switch_tick_at_ns = UINT64_MAX;
    h->is_armed = false;
    h->excused = s->msg_count;
    for (unsigned i = 0; i < h->vm_count; i++)
        vsw_port_add(h->sw, i, false);
    for (unsigned i = 0; i < s->config.host_count; i++)
        if (i != host)
            vsw_peer_add(h->sw, i);
    sim_switch_touched(s, host);
}

void sim_switch_up(struct sim *s, unsigned host)
{
    struct sim_host *h = &s->hosts[host];

    if (h->sw)
        return;
    if (h->switch_gen > 0)
        burn_epoch(h);
    start_switch(s, host);
}

uint64_t sim_switch_dropped(const struct sim_host *h)
{
    struct vsw_counts counts = {0};

    if (h->sw)
        vsw_counts(h->sw, &counts);
    return counts.dropped;
}

/* Its connection to the agent breaks with it. */
void sim_switch_crash(struct sim *s, unsigned host)
{
    struct sim_host *h = &s->hosts[host];

    if (!h->sw)
        return;
    sim_trace(s, "host %u: switch crashes", host);
    h->dropped_before += sim_switch_dropped(h);
    vsw_free(h->sw);
    h->sw = NULL;
    h->is_armed = false;
    sim_agent_feed(s, host,
                   &(struct cut_agent_event){.kind = CUT_AGENT_STEP_FAILED,
                                             .vm = CUT_VMS_MAX,
                                             .epoch = h->cut.epoch,
                                             .reason = "violind is gone"});
}

void sim_switch_from_vm(struct sim *s, unsigned vm, uint32_t msg)
{
    struct sim_host *h = &s->hosts[s->vms[vm].host];
    uint8_t frame[SIM_FRAME_SIZE];

    if (!h->sw)
        return;
    make_frame(s, msg, frame);
    vsw_from_port(h->sw, s->vms[vm].port, frame, sizeof(frame), s->now_ns);
    sim_switch_touched(s, h->index);
}

/* ---- tasks of a cut ----------------------------------------------------- */

static void arm(struct sim *s, struct sim_host *h, uint32_t epoch)
{
    h->dropped_before += sim_switch_dropped(h);
    h->fragment->before = vsw_epoch(h->sw);
    h->is_armed = true;
    h->armed_epoch = epoch;
    h->channels_closed = false;
    h->record_count = 0;
    vsw_arm(h->sw, epoch, s->now_ns);
}

/* Returns how many VMs have not read what was delivered. */
static unsigned unsettled(const struct sim *s, const struct sim_host *h)
{
    unsigned count = 0;

    for (unsigned i = 0; i < h->vm_count; i++)
        count += s->vms[h->first_vm + i].rx.count > 0;
    return count;
}

static bool hold(struct sim *s, struct sim_host *h)
{
    if (s->mutant == SIM_MUTANT_NO_HOLD)
        return true;
    if (h->switcher.phase == 0) {
        h->hold_until_ns = s->now_ns + s->config.settle_ns;
        for (unsigned i = 0; i < h->vm_count; i++)
            vsw_hold(h->sw, i);
    }
    h->fragment->unsettled = unsettled(s, h);
    return h->fragment->unsettled == 0 || s->now_ns >= h->hold_until_ns;
}

static void flip(struct sim *s, struct sim_host *h)
{
    for (unsigned i = 0; i < h->vm_count && s->mutant != SIM_MUTANT_NO_DRAIN;
         i++)
        sim_vm_drain(s, h->first_vm + i);
    for (unsigned i = 0; i < h->vm_count; i++)
        vsw_cut(h->sw, i, s->now_ns);
}

static int do_switch_task(struct sim *s, struct sim_host *h,
                          const struct sim_task *task)
{
    switch (task->kind) {
    case CUT_AGENT_DO_ARM:
        if (!cut_epoch_after(task->epoch, vsw_epoch(h->sw)))
            return CUT_AGENT_STEP_FAILED;
        arm(s, h, task->epoch);
        return CUT_AGENT_ARMED;
    case CUT_AGENT_DO_HOLD:
        return hold(s, h) ? CUT_AGENT_HELD : -1;
    case CUT_AGENT_DO_FLIP:
        flip(s, h);
        return CUT_AGENT_FLIPPED;
    case CUT_AGENT_DO_RELEASE:
        if (s->mutant != SIM_MUTANT_NO_RELEASE)
            vsw_release(h->sw, s->vms[task->vm].port);
        return CUT_AGENT_TICK; /* nobody waits for it */
    case CUT_AGENT_DO_FINISH_SWITCH:
        vsw_finish(h->sw, task->epoch);
        h->is_armed = false;
        return CUT_AGENT_TICK;
    default:
        vsw_abort(h->sw, task->epoch);
        h->is_armed = false;
        return CUT_AGENT_TICK;
    }
}

void sim_switch_task(struct sim *s, const struct sim_arg *arg)
{
    struct sim_host *h = &s->hosts[arg->who];
    struct sim_task task = h->switcher.tasks[h->switcher.head];
    bool cleaning = task.kind == CUT_AGENT_DO_FINISH_SWITCH ||
                    task.kind == CUT_AGENT_DO_ABORT_SWITCH;
    int event;

    if (!h->sw || (!cleaning && task.kind != CUT_AGENT_DO_ARM &&
                   (!h->is_armed || h->armed_epoch != task.epoch))) {
        event = cleaning ? CUT_AGENT_TICK : CUT_AGENT_STEP_FAILED;
    } else if (!cleaning && !s->calm && sim_chance(s, s->config.fail)) {
        sim_trace(s, "host %u: a switch step fails", arg->who);
        event = CUT_AGENT_STEP_FAILED;
    } else {
        event = do_switch_task(s, h, &task);
        sim_switch_touched(s, arg->who);
    }
    if (event == -1) {
        sim_worker_continue(s, arg->who, &h->switcher, 50 * SIM_US);
        return;
    }
    if (event != CUT_AGENT_TICK)
        sim_agent_report(s, arg->who, event, CUT_VMS_MAX, task.epoch);
    sim_worker_done(s, arg->who, &h->switcher);
}

static void keep_records(struct sim_host *h)
{
    struct sim_fragment *f = h->fragment;

    f->record_count = h->record_count;
    if (h->record_count > 0) {
        f->records = vn_alloc(h->record_count * sizeof(*f->records));
        memcpy(f->records, h->records, h->record_count * sizeof(*f->records));
    }
    for (uint32_t i = 0; i < h->sim->msg_count; i++)
        f->arrivals[i] = h->sim->msgs[i].arrivals[h->index];
    f->dropped = sim_switch_dropped(h);
    f->dropped_ever = h->dropped_before + f->dropped;
}

static bool has_all_markers(const struct sim *s, const struct sim_host *h)
{
    for (unsigned i = 0; i < s->config.host_count; i++)
        if (i != h->index && h->marked[i] != h->armed_epoch)
            return false;
    return true;
}

/*
 * Is it time to give up on what did not come? Two ways to count it: from the
 * flip, simply; or from the moment when all peers said what they had sent. In
 * the second a peer that is slow to cut costs no records.
 */
static bool is_patience_over(struct sim *s, struct sim_host *h)
{
    if (h->closer.phase == 0)
        h->markers_ns = s->config.close_after_markers ? UINT64_MAX : s->now_ns;
    if (h->markers_ns == UINT64_MAX && has_all_markers(s, h))
        h->markers_ns = s->now_ns;
    return s->mutant == SIM_MUTANT_NO_CLOSE ||
           (h->markers_ns != UINT64_MAX &&
            s->now_ns >= h->markers_ns + s->config.close_ns);
}

void sim_close_task(struct sim *s, const struct sim_arg *arg)
{
    struct sim_host *h = &s->hosts[arg->who];
    struct sim_task task = h->closer.tasks[h->closer.head];
    struct sim_fragment *f = h->fragment;
    bool over = is_patience_over(s, h);

    if (f->closed || !h->sw || !h->is_armed || h->armed_epoch != task.epoch ||
        f->epoch != task.epoch) {
        sim_agent_report(s, arg->who, CUT_AGENT_STEP_FAILED, CUT_VMS_MAX,
                         task.epoch);
    } else if (!h->channels_closed && !over) {
        sim_worker_continue(s, arg->who, &h->closer, 100 * SIM_US);
        return;
    } else {
        if (!h->channels_closed) {
            h->channels_closed = true;
            f->missing = vsw_give_up(h->sw);
            sim_trace(s, "host %u gives up on %u frames", arg->who,
                      (unsigned)f->missing);
            sim_switch_touched(s, arg->who);
        }
        keep_records(h);
        f->closed = true;
        sim_agent_report(s, arg->who, CUT_AGENT_CLOSED, CUT_VMS_MAX,
                         task.epoch);
    }
    sim_worker_done(s, arg->who, &h->closer);
}
