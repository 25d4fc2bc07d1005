/*
 * One switch against a naive model: the rule of DESIGN section 4 written with
 * plain arrays, compared every few random steps. The seed is printed.
 */
#include "switch_bench.h"
#include "switch_random.h"

#include "violin/serial.h"

#define PORTS   4
#define PEERS   2
#define MACS    8
#define FRAMES  6000
#define NOWHERE UINT32_MAX

struct waiting {
    uint32_t epoch;
    unsigned number;
};

struct model_port {
    bool used, held;
    uint32_t epoch;
    unsigned wait_count, replay_count;
    struct waiting wait[FRAMES];
    unsigned replay[FRAMES];
    unsigned delivered[FRAMES], delivered_count;
    unsigned recorded[FRAMES], recorded_count;
};

struct model {
    uint32_t epoch, armed;
    bool is_armed;
    unsigned place[MACS]; /* port, or PORTS + peer, or NOWHERE */
    struct model_port ports[PORTS];
    unsigned transmitted; /* frames, times peers */
};

static struct model *model;

static void model_deliver(struct model_port *p, unsigned number)
{
    p->delivered[p->delivered_count++] = number;
}

static void model_egress(unsigned port, uint32_t epoch, unsigned number)
{
    struct model_port *p = &model->ports[port];

    if (model->is_armed && p->epoch == model->armed &&
        serial_older(epoch, p->epoch))
        p->recorded[p->recorded_count++] = number;
    if (p->held || serial_newer(epoch, p->epoch))
        p->wait[p->wait_count++] = (struct waiting){epoch, number};
    else
        model_deliver(p, number);
}

static void model_flush(struct model_port *p)
{
    unsigned kept = 0;

    if (!p->used || p->held)
        return;
    for (unsigned i = 0; i < p->replay_count; i++)
        model_deliver(p, p->replay[i]);
    p->replay_count = 0;
    for (unsigned i = 0; i < p->wait_count; i++) {
        if (serial_newer(p->wait[i].epoch, p->epoch))
            p->wait[kept++] = p->wait[i];
        else
            model_deliver(p, p->wait[i].number);
    }
    p->wait_count = kept;
}

static void model_end(uint32_t epoch)
{
    for (unsigned i = 0; i < PORTS; i++) {
        const struct model_port *p = &model->ports[i];

        for (unsigned j = 0; p->used && j < p->wait_count; j++) {
            if (serial_newer(p->wait[j].epoch, epoch))
                epoch = p->wait[j].epoch;
        }
    }
    model->epoch = epoch;
    model->is_armed = false;
    for (unsigned i = 0; i < PORTS; i++) {
        model->ports[i].epoch = epoch;
        model_flush(&model->ports[i]);
    }
}

static void model_frame(unsigned from, uint32_t epoch, unsigned to,
                        unsigned source, unsigned number)
{
    if (from >= PORTS && !model->is_armed && serial_newer(epoch, model->epoch))
        model_end(epoch);
    model->place[source] = from;
    if (to != BROADCAST && model->place[to] != NOWHERE) {
        unsigned place = model->place[to];

        if (place < PORTS && place != from)
            model_egress(place, epoch, number);
        else if (place >= PORTS && from < PORTS)
            model->transmitted++;
        return;
    }
    for (unsigned i = 0; i < PORTS; i++) {
        if (model->ports[i].used && i != from)
            model_egress(i, epoch, number);
    }
    model->transmitted += from < PORTS ? PEERS : 0;
}

static void compare(const struct bench *b)
{
    unsigned delivered[PORTS] = {0}, recorded[PORTS] = {0}, transmitted = 0;

    for (unsigned i = 0; i < b->count; i++) {
        const struct bench_event *e = &b->log[i];
        const struct model_port *p = &model->ports[e->place % PORTS];

        if (e->kind == DELIVER)
            assert_int_equal(p->delivered[delivered[e->place]++], e->number);
        else if (e->kind == RECORD)
            assert_int_equal(p->recorded[recorded[e->place]++], e->number);
        transmitted += e->kind == TRANSMIT;
    }
    assert_int_equal(transmitted, model->transmitted);
    for (unsigned i = 0; i < PORTS; i++) {
        assert_int_equal(delivered[i], model->ports[i].delivered_count);
        assert_int_equal(recorded[i], model->ports[i].recorded_count);
        if (!model->ports[i].used)
            continue;
        assert_int_equal(vsw_port_epoch(b->sw, i), model->ports[i].epoch);
        assert_int_equal(vsw_port_held(b->sw, i), model->ports[i].held);
    }
    assert_int_equal(vsw_epoch(b->sw), model->epoch);
}

static void step_frame(struct bench *b, unsigned number)
{
    unsigned to = pick(3) ? pick(MACS) : BROADCAST, source = pick(MACS);
    unsigned port = pick(PORTS), peer = pick(PEERS);
    uint32_t epoch = model->epoch - 1 + pick(model->is_armed ? 4 : 2);

    if (pick(40) == 0)
        epoch = model->epoch + pick(3); /* now and then adoption */
    if (pick(2) && model->ports[port].used) {
        model_frame(port, model->ports[port].epoch, to, source, number);
        bench_port_sends(b, port, to, source, number);
    } else {
        model_frame(PORTS + peer, epoch, to, source, number);
        bench_peer_sends(b, peer, epoch, to, source, number);
    }
}

static void step_replay(struct bench *b, unsigned port, unsigned number)
{
    struct model_port *p = &model->ports[port];
    uint8_t frame[FRAME_SIZE];

    if (!p->used)
        return;
    frame_make(frame, 1, 2, number);
    vsw_replay(b->sw, port, frame, sizeof(frame));
    if (p->held)
        p->replay[p->replay_count++] = number;
    else
        model_deliver(p, number);
}

static void step_cut(struct bench *b, unsigned port)
{
    struct model_port *p = &model->ports[port];

    vsw_cut(b->sw, port, b->now_ns);
    if (!p->used || !model->is_armed || p->epoch == model->armed)
        return;
    for (unsigned i = 0; i < p->replay_count; i++) /* older by definition */
        p->recorded[p->recorded_count++] = p->replay[i];
    for (unsigned i = 0; i < p->wait_count; i++) {
        if (serial_older(p->wait[i].epoch, model->armed))
            p->recorded[p->recorded_count++] = p->wait[i].number;
    }
    p->epoch = model->armed;
    model_flush(p);
}

static void step_port(struct bench *b, unsigned port)
{
    struct model_port *p = &model->ports[port];
    bool held = pick(2);

    if (p->used) {
        vsw_port_del(b->sw, port);
        p->used = p->held = false;
        p->wait_count = p->replay_count = 0;
        for (unsigned i = 0; i < MACS; i++) {
            if (model->place[i] == port)
                model->place[i] = NOWHERE;
        }
    } else {
        vsw_port_add(b->sw, port, held);
        p->used = true;
        p->held = held;
        p->epoch = model->is_armed ? model->armed : model->epoch;
    }
}

static void step_control(struct bench *b, unsigned number)
{
    unsigned port = pick(PORTS);
    struct model_port *p = &model->ports[port];

    switch (pick(9)) {
    case 0:
        if (model->is_armed)
            break;
        model->is_armed = true;
        model->armed = model->epoch + 1 + pick(2);
        vsw_arm(b->sw, model->armed, b->now_ns);
        break;
    case 1:
        vsw_hold(b->sw, port);
        p->held = p->used;
        break;
    case 2:
    case 3:
        step_cut(b, port);
        break;
    case 4:
        vsw_release(b->sw, port);
        p->held = false;
        model_flush(p);
        break;
    case 5:
        if (!model->is_armed || pick(3))
            break;
        vsw_finish(b->sw, model->armed);
        model_end(model->armed);
        break;
    case 6:
        if (!model->is_armed || pick(3))
            break;
        vsw_abort(b->sw, model->armed);
        for (unsigned i = 0; i < PORTS; i++)
            model->ports[i].held = false;
        model_end(model->armed);
        break;
    case 7:
        step_replay(b, port, number);
        break;
    default:
        if (pick(4) == 0)
            step_port(b, port);
    }
    b->now_ns = b->now_ns + 1000;
    vsw_tick(b->sw, b->now_ns);
    vsw_check(b->sw);
}

static int model_teardown(void **state)
{
    if (*state)
        bench_free(*state);
    *state = NULL;
    free(model);
    model = NULL;
    return 0;
}

static void test_against_model(void **state)
{
    unsigned from = first_seed();

    for (unsigned run = 0; run < 25; run++) {
        struct bench *b;

        seed(from + run);
        model = calloc(1, sizeof(*model));
        assert_non_null(model);
        model->epoch = run % 2 ? UINT32_MAX - 2 : 10;
        b = *state = bench_new(model->epoch, PORTS, PEERS, 0);
        for (unsigned i = 0; i < MACS; i++)
            model->place[i] = NOWHERE;
        for (unsigned i = 0; i < PORTS; i++) {
            model->ports[i].used = true;
            model->ports[i].epoch = model->epoch;
        }
        for (unsigned i = 0; i < 1500; i++) {
            if (pick(4))
                step_frame(b, i);
            else
                step_control(b, i);
            if (i % 50 == 0)
                compare(b);
        }
        compare(b);
        model_teardown(state);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_against_model, model_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
