/* The pure switch, step by step: forwarding, and the rule of the cut. */
#include "switch_bench.h"

#include "violin/serial.h"

static int teardown(void **state)
{
    if (*state)
        bench_free(*state);
    *state = NULL;
    return 0;
}

static struct bench *make(void **state, uint32_t epoch, unsigned ports,
                          unsigned peers)
{
    struct bench *b = bench_new(epoch, ports, peers, 0);

    *state = b;
    return b;
}

static void send_marker(struct bench *b, unsigned peer, uint32_t epoch,
                        uint32_t before, uint64_t sent)
{
    const struct vsw_marker marker = {
        .epoch = epoch, .before = before, .sent = sent};

    vsw_marker_from_peer(b->sw, peer, &marker, b->now_ns);
    vsw_check(b->sw);
}

static void send_ack(struct bench *b, unsigned peer, uint32_t epoch)
{
    const struct vsw_marker marker = {.epoch = epoch, .ack = true};

    vsw_marker_from_peer(b->sw, peer, &marker, b->now_ns);
}

/* ---- forwarding -------------------------------------------------------- */

static void test_flood_and_learn(void **state)
{
    struct bench *b = make(state, 1, 3, 2);

    bench_port_sends(b, 0, 20, 10, 1); /* unknown: everywhere else */
    bench_expect(b, DELIVER, 1, 1);
    bench_expect(b, DELIVER, 2, 1);
    assert_int_equal(bench_expect(b, TRANSMIT, 0, 1)->epoch, 1);
    bench_expect(b, TRANSMIT, 1, 1);
    bench_port_sends(b, 1, 10, 20, 2); /* 10 was learned */
    bench_expect(b, DELIVER, 0, 2);
    bench_peer_sends(b, 1, 1, 20, 30, 3); /* 20 was learned */
    bench_expect(b, DELIVER, 1, 3);
    bench_port_sends(b, 2, 30, 40, 4); /* 30 is behind peer 1 */
    bench_expect(b, TRANSMIT, 1, 4);
    bench_port_sends(b, 0, BROADCAST, 10, 5);
    bench_expect(b, DELIVER, 1, 5);
    bench_expect(b, DELIVER, 2, 5);
    bench_expect(b, TRANSMIT, 0, 5);
    bench_expect(b, TRANSMIT, 1, 5);
    bench_expect_end(b);
}

static void test_split_horizon(void **state)
{
    struct bench *b = make(state, 1, 1, 3);

    bench_peer_sends(b, 0, 1, BROADCAST, 30, 1);
    bench_expect(b, DELIVER, 0, 1);
    bench_peer_sends(b, 1, 1, 30, 31, 2); /* known at peer 0: not relayed */
    bench_peer_sends(b, 1, 1, 77, 31, 3); /* unknown: only to ports */
    bench_expect(b, DELIVER, 0, 3);
    bench_port_sends(b, 0, 10, 10, 4); /* to itself: nowhere, it is here */
    bench_expect_end(b);
}

static void test_move_and_age(void **state)
{
    struct bench *b = make(state, 1, 2, 1);

    bench_port_sends(b, 0, BROADCAST, 10, 1);
    b->looked = b->count;
    bench_peer_sends(b, 0, 1, BROADCAST, 10, 2); /* the VM moved away */
    b->looked = b->count;
    bench_port_sends(b, 1, 10, 11, 3);
    bench_expect(b, TRANSMIT, 0, 3);
    b->now_ns += 299000000000ull;
    bench_port_sends(b, 1, 10, 11, 4); /* still fresh */
    bench_expect(b, TRANSMIT, 0, 4);
    b->now_ns += 2000000000ull;
    bench_port_sends(b, 1, 10, 11, 5); /* forgotten: flooded */
    bench_expect(b, DELIVER, 0, 5);
    bench_expect(b, TRANSMIT, 0, 5);
    bench_expect_end(b);
}

static void test_gone_places_are_forgotten(void **state)
{
    struct bench *b = make(state, 1, 3, 1);

    bench_port_sends(b, 0, BROADCAST, 10, 1);
    bench_peer_sends(b, 0, 1, BROADCAST, 30, 2);
    b->looked = b->count;
    vsw_port_del(b->sw, 0);
    vsw_peer_del(b->sw, 0, b->now_ns);
    vsw_check(b->sw);
    bench_port_sends(b, 1, 10, 11, 3);
    bench_expect(b, DELIVER, 2, 3);
    bench_port_sends(b, 1, 30, 11, 4);
    bench_expect(b, DELIVER, 2, 4);
    bench_expect_end(b);
}

static void test_impossible_frames(void **state)
{
    static uint8_t frame[SWITCH_FRAME_MAX + 1];
    struct bench *b = make(state, 1, 2, 1);
    struct vsw_counts c;

    vsw_from_port(b->sw, 0, frame, SWITCH_FRAME_MIN - 1, b->now_ns);
    vsw_from_port(b->sw, 0, frame, SWITCH_FRAME_MAX + 1, b->now_ns);
    vsw_from_port(b->sw, 0, frame, 0, b->now_ns);
    vsw_from_port(b->sw, 7, frame, 64, b->now_ns);
    vsw_from_port(b->sw, 4000, frame, 64, b->now_ns);
    vsw_from_peer(b->sw, 3, 1, frame, 64, b->now_ns);
    vsw_from_peer(b->sw, 0, 99, frame, 13, b->now_ns); /* adopts nothing */
    send_marker(b, 9, 2, 1, 0);
    vsw_counts(b->sw, &c);
    assert_int_equal(c.malformed, 8);
    assert_int_equal(vsw_epoch(b->sw), 1);
    bench_expect_end(b);
    vsw_from_port(b->sw, 0, frame, SWITCH_FRAME_MAX, b->now_ns);
    vsw_from_port(b->sw, 0, frame, SWITCH_FRAME_MIN, b->now_ns);
    assert_int_equal(b->count, 4);
}

/* ---- the rule ---------------------------------------------------------- */

static void rule_at(void **state, uint32_t old)
{
    struct bench *b = make(state, old, 1, 1);
    uint32_t armed = old + 1;

    vsw_arm(b->sw, armed, b->now_ns);
    bench_peer_sends(b, 0, old, BROADCAST, 30, 1);
    bench_expect(b, DELIVER, 0, 1);
    bench_peer_sends(b, 0, armed, BROADCAST, 30, 2); /* newer: held */
    assert_int_equal(bench_expect(b, TRIGGER, 0, 0)->epoch, armed);
    bench_peer_sends(b, 0, armed, BROADCAST, 30, 3);
    bench_peer_sends(b, 0, old, BROADCAST, 30, 4); /* does not wait */
    bench_expect(b, DELIVER, 0, 4);
    bench_peer_sends(b, 0, old - 1, BROADCAST, 30, 5); /* a straggler */
    bench_expect(b, DELIVER, 0, 5);
    bench_expect_end(b);
    vsw_hold(b->sw, 0);
    bench_peer_sends(b, 0, old, BROADCAST, 30, 6);
    vsw_cut(b->sw, 0, b->now_ns);
    vsw_check(b->sw);
    assert_int_equal(vsw_port_epoch(b->sw, 0), armed);
    assert_int_equal(bench_expect(b, RECORD, 0, 6)->epoch, old);
    bench_expect(b, MARKER, 0, 0);
    bench_peer_sends(b, 0, old, BROADCAST, 30, 7); /* recorded, and waits */
    bench_expect(b, RECORD, 0, 7);
    vsw_release(b->sw, 0);
    bench_expect(b, DELIVER, 0, 2);
    bench_expect(b, DELIVER, 0, 3);
    bench_expect(b, DELIVER, 0, 6);
    bench_expect(b, DELIVER, 0, 7);
    bench_peer_sends(b, 0, old, BROADCAST, 30, 8);
    bench_expect(b, RECORD, 0, 8);
    bench_expect(b, DELIVER, 0, 8);
    vsw_finish(b->sw, armed);
    bench_peer_sends(b, 0, old, BROADCAST, 30, 9); /* late: no record now */
    bench_expect(b, DELIVER, 0, 9);
    bench_expect_end(b);
    assert_int_equal(vsw_epoch(b->sw), armed);
    teardown(state);
}

static void test_rule(void **state)
{
    rule_at(state, 5);
    rule_at(state, UINT32_MAX); /* the cut is to epoch 0 */
    rule_at(state, 0x7fffffff);
    rule_at(state, 0);
}

static void test_serial_numbers(void **state)
{
    (void)state;
    assert_true(serial_newer(1, 0) && serial_newer(0, UINT32_MAX));
    assert_true(serial_newer(0x7fffffff, 0));
    assert_false(serial_newer(0, 0) || serial_newer(0, 1));
    assert_false(serial_newer(0x80000000u, 0) || serial_newer(0, 0x80000000u));
    assert_true(serial_older(0, 1) && serial_older(UINT32_MAX, 0));
    assert_false(serial_older(4, 4));
}

/* Ports of one host move one after the other. */
static void test_local_ports_across(void **state)
{
    struct bench *b = make(state, 1, 3, 1);

    vsw_arm(b->sw, 2, b->now_ns);
    vsw_cut(b->sw, 0, b->now_ns);
    bench_port_sends(b, 0, BROADCAST, 10, 1); /* of epoch 2 */
    assert_int_equal(bench_expect(b, TRANSMIT, 0, 1)->epoch, 2);
    bench_port_sends(b, 1, BROADCAST, 11, 2); /* of epoch 1 */
    bench_expect(b, RECORD, 0, 2);
    bench_expect(b, DELIVER, 0, 2);
    bench_expect(b, DELIVER, 2, 2);
    assert_int_equal(bench_expect(b, TRANSMIT, 0, 2)->epoch, 1);
    vsw_cut(b->sw, 1, b->now_ns);
    bench_expect(b, DELIVER, 1, 1); /* not held: it just moved */
    bench_expect_end(b);
    vsw_cut(b->sw, 2, b->now_ns); /* all are over: now the marker */
    bench_expect(b, DELIVER, 2, 1);
    assert_int_equal(bench_expect(b, MARKER, 0, 0)->marker.sent, 1);
    bench_expect_end(b);
}

static void test_held_frames_of_a_later_epoch_stay(void **state)
{
    struct bench *b = make(state, 1, 1, 2);

    vsw_arm(b->sw, 2, b->now_ns);
    bench_peer_sends(b, 0, 3, BROADCAST, 30, 1); /* beyond the armed one */
    bench_peer_sends(b, 0, 2, BROADCAST, 30, 2);
    bench_expect(b, TRIGGER, 0, 0);
    vsw_hold(b->sw, 0);
    vsw_cut(b->sw, 0, b->now_ns);
    bench_expect(b, MARKER, 0, 0);
    bench_expect(b, MARKER, 1, 0);
    vsw_release(b->sw, 0);
    bench_expect(b, DELIVER, 0, 2);
    bench_expect_end(b);
    vsw_finish(b->sw, 2); /* then the network adopts epoch 3 */
    bench_expect(b, DELIVER, 0, 1);
    bench_expect_end(b);
    assert_int_equal(vsw_epoch(b->sw), 3);
    vsw_check(b->sw);
}

static void test_unarmed_adopts(void **state)
{
    struct bench *b = make(state, 1, 2, 1);

    vsw_hold(b->sw, 1);
    bench_port_sends(b, 0, BROADCAST, 10, 1);
    bench_expect(b, TRANSMIT, 0, 1);
    bench_peer_sends(b, 0, 7, BROADCAST, 30, 2);
    bench_expect(b, DELIVER, 0, 2);
    bench_expect_end(b); /* port 1 is held explicitly: that stays */
    assert_int_equal(vsw_epoch(b->sw), 7);
    assert_int_equal(vsw_port_epoch(b->sw, 1), 7);
    vsw_release(b->sw, 1);
    bench_expect(b, DELIVER, 1, 1);
    bench_expect(b, DELIVER, 1, 2);
    bench_peer_sends(b, 0, 6, BROADCAST, 30, 3); /* older: just delivered */
    bench_expect(b, DELIVER, 0, 3);
    bench_expect(b, DELIVER, 1, 3);
    bench_expect_end(b);
}

static void test_new_port_in_an_open_cut(void **state)
{
    struct bench *b = make(state, 1, 1, 0);

    vsw_arm(b->sw, 2, b->now_ns);
    vsw_port_add(b->sw, 1, false);
    assert_int_equal(vsw_port_epoch(b->sw, 1), 2);
    assert_int_equal(vsw_port_epoch(b->sw, 0), 1);
    vsw_check(b->sw);
    bench_expect_end(b);
    vsw_port_del(b->sw, 0); /* the last one that was not over */
    bench_expect(b, CLOSED, 0, 0);
    vsw_check(b->sw);
}

static void test_overflow_is_counted(void **state)
{
    struct bench *b = bench_new(1, 2, 0, 3 * (FRAME_SIZE + 16));
    struct vsw_counts c;

    *state = b;
    vsw_arm(b->sw, 2, b->now_ns);
    vsw_hold(b->sw, 1);
    for (unsigned i = 1; i <= 5; i++)
        bench_port_sends(b, 0, BROADCAST, 10, i);
    vsw_counts(b->sw, &c);
    assert_int_equal(c.held, 3);
    assert_int_equal(c.dropped, 2);
    vsw_cut(b->sw, 1, b->now_ns);
    for (unsigned i = 1; i <= 3; i++)
        bench_expect(b, RECORD, 1, i);
    vsw_cut(b->sw, 0, b->now_ns);
    bench_expect(b, CLOSED, 0, 0);
    vsw_release(b->sw, 1);
    for (unsigned i = 1; i <= 3; i++)
        bench_expect(b, DELIVER, 1, i);
    bench_expect_end(b);
    vsw_finish(b->sw, 2);
    vsw_arm(b->sw, 3, b->now_ns); /* counts are of one cut */
    vsw_counts(b->sw, &c);
    assert_int_equal(c.held + c.dropped + c.recorded, 0);
}

static void test_replay_goes_first(void **state)
{
    struct bench *b = make(state, 4, 1, 0);
    uint8_t frame[FRAME_SIZE];
    size_t room = vsw_replay_room(b->sw, 0);

    vsw_port_add(b->sw, 1, true); /* a restored VM */
    assert_true(vsw_port_held(b->sw, 1));
    bench_port_sends(b, 0, BROADCAST, 10, 1);
    for (unsigned i = 100; i < 103; i++) {
        frame_make(frame, 11, 10, i);
        vsw_replay(b->sw, 1, frame, sizeof(frame));
        vsw_check(b->sw);
    }
    assert_int_equal(vsw_replay_room(b->sw, 1), room - 3 * (FRAME_SIZE + 16));
    bench_expect_end(b);
    vsw_release(b->sw, 1);
    for (unsigned i = 100; i < 103; i++)
        bench_expect(b, DELIVER, 1, i);
    bench_expect(b, DELIVER, 1, 1);
    bench_expect_end(b);
}

/* Cut again before the replay went out: it is still in transit. */
static void test_replay_is_recorded_again(void **state)
{
    struct bench *b = make(state, 4, 0, 0);
    uint8_t frame[FRAME_SIZE];

    vsw_port_add(b->sw, 0, true);
    frame_make(frame, 11, 10, 100);
    vsw_replay(b->sw, 0, frame, sizeof(frame));
    vsw_arm(b->sw, 5, b->now_ns);
    vsw_cut(b->sw, 0, b->now_ns);
    bench_expect(b, RECORD, 0, 100);
    bench_expect(b, CLOSED, 0, 0);
    vsw_release(b->sw, 0);
    bench_expect(b, DELIVER, 0, 100);
    bench_expect_end(b);
}

/* ---- channels ---------------------------------------------------------- */

static void test_channels_close(void **state)
{
    struct bench *b = make(state, 1, 1, 2);

    for (unsigned i = 0; i < 3; i++)
        bench_port_sends(b, 0, BROADCAST, 10, i);
    bench_peer_sends(b, 0, 1, BROADCAST, 30, 50);
    b->looked = b->count;
    vsw_arm(b->sw, 2, b->now_ns);
    vsw_cut(b->sw, 0, b->now_ns);
    assert_int_equal(bench_expect(b, MARKER, 0, 0)->marker.sent, 3);
    assert_int_equal(bench_expect(b, MARKER, 1, 0)->marker.before, 1);
    send_marker(b, 1, 2, 1, 0);
    assert_true(bench_expect(b, MARKER, 1, 0)->marker.ack);
    send_marker(b, 0, 2, 1, 3); /* two are still on their way */
    assert_true(bench_expect(b, MARKER, 0, 0)->marker.ack);
    bench_peer_sends(b, 0, 1, BROADCAST, 30, 51);
    bench_expect(b, RECORD, 0, 51);
    bench_expect(b, DELIVER, 0, 51);
    bench_peer_sends(b, 1, 1, BROADCAST, 31, 52); /* of the other channel */
    b->looked += 2;
    bench_expect_end(b);
    assert_false(vsw_is_closed(b->sw));
    bench_peer_sends(b, 0, 1, BROADCAST, 30, 53);
    bench_expect(b, RECORD, 0, 53);
    bench_expect(b, DELIVER, 0, 53);
    bench_expect(b, CLOSED, 0, 0);
    assert_true(vsw_is_closed(b->sw));
    send_marker(b, 0, 2, 1, 3); /* repeated: acknowledged, closed once */
    assert_true(bench_expect(b, MARKER, 0, 0)->marker.ack);
    bench_expect_end(b);
    assert_int_equal(vsw_give_up(b->sw), 0);
}

static void test_marker_before_arm(void **state)
{
    struct bench *b = make(state, 1, 1, 1);

    send_marker(b, 0, 2, 1, 1); /* a host without ports is over at once */
    assert_true(bench_expect(b, MARKER, 0, 0)->marker.ack);
    assert_int_equal(vsw_epoch(b->sw), 1); /* a marker triggers nothing */
    vsw_arm(b->sw, 2, b->now_ns);
    send_marker(b, 0, 1, 0, 77); /* an older one, reordered: ignored */
    assert_true(bench_expect(b, MARKER, 0, 0)->marker.ack);
    bench_peer_sends(b, 0, 1, BROADCAST, 30, 1);
    bench_expect(b, DELIVER, 0, 1);
    bench_expect_end(b);
    vsw_cut(b->sw, 0, b->now_ns);
    bench_expect(b, MARKER, 0, 0);
    bench_expect(b, CLOSED, 0, 0);
    bench_expect_end(b);
}

static void test_no_ports_marks_at_once(void **state)
{
    struct bench *b = make(state, 1, 0, 1);

    vsw_arm(b->sw, 2, b->now_ns);
    bench_expect(b, MARKER, 0, 0);
    send_marker(b, 0, 2, 1, 0);
    bench_expect(b, MARKER, 0, 0);
    bench_expect(b, CLOSED, 0, 0);
    bench_expect_end(b);
}

static void test_markers_repeat_until_acknowledged(void **state)
{
    struct bench *b = make(state, 1, 0, 2);
    uint64_t next;

    vsw_arm(b->sw, 2, b->now_ns);
    b->looked = b->count;
    next = vsw_tick(b->sw, b->now_ns);
    assert_int_equal(next, b->now_ns + 5000000);
    bench_expect_end(b);
    send_ack(b, 0, 1); /* of another cut */
    send_ack(b, 1, 2);
    b->now_ns = next;
    next = vsw_tick(b->sw, b->now_ns);
    bench_expect(b, MARKER, 0, 0);
    bench_expect_end(b);
    assert_int_equal(next, b->now_ns + 10000000);
    for (int i = 0; i < 8; i++) {
        b->now_ns = next;
        next = vsw_tick(b->sw, b->now_ns);
        bench_expect(b, MARKER, 0, 0);
    }
    assert_int_equal(next, b->now_ns + 80000000); /* no slower */
    send_ack(b, 0, 2);
    b->now_ns = next;
    next = vsw_tick(b->sw, b->now_ns);
    assert_true(next > b->now_ns + 1000000000);
    bench_expect_end(b);
}

static void test_duplicates_do_not_hang(void **state)
{
    struct bench *b = make(state, 1, 1, 1);

    bench_peer_sends(b, 0, 1, BROADCAST, 30, 1);
    bench_peer_sends(b, 0, 1, BROADCAST, 30, 1);
    vsw_arm(b->sw, 2, b->now_ns);
    vsw_cut(b->sw, 0, b->now_ns);
    b->looked = b->count;
    send_marker(b, 0, 2, 1, 1); /* two came */
    bench_expect(b, MARKER, 0, 0);
    bench_expect(b, CLOSED, 0, 0);
}

static void test_give_up_counts(void **state)
{
    struct bench *b = make(state, 1, 1, 3);

    vsw_arm(b->sw, 2, b->now_ns);
    vsw_cut(b->sw, 0, b->now_ns);
    bench_peer_sends(b, 0, 1, BROADCAST, 30, 1);
    send_marker(b, 0, 2, 1, 5);                  /* 4 missing */
    send_marker(b, 1, 2, 1, 0);                  /* complete */
    assert_int_equal(vsw_give_up(b->sw), 4 + 1); /* peer 2 is silent */
    assert_true(vsw_is_closed(b->sw));
    assert_int_equal(vsw_give_up(b->sw), 5);
    b->looked = b->count;
    bench_peer_sends(b, 0, 1, BROADCAST, 30, 2); /* recorded all the same */
    bench_expect(b, RECORD, 0, 2);
    bench_expect(b, DELIVER, 0, 2);
    send_marker(b, 2, 2, 1, 0);
    bench_expect(b, MARKER, 2, 0);
    bench_expect_end(b); /* closed() is not said any more */
}

static void test_silent_peer_removed(void **state)
{
    struct bench *b = make(state, 1, 1, 1);

    vsw_arm(b->sw, 2, b->now_ns);
    vsw_cut(b->sw, 0, b->now_ns);
    bench_expect(b, MARKER, 0, 0);
    vsw_peer_add(b->sw, 1); /* one more is told at once */
    bench_expect(b, MARKER, 1, 0);
    vsw_peer_del(b->sw, 0, b->now_ns);
    bench_expect_end(b);
    vsw_peer_del(b->sw, 1, b->now_ns);
    bench_expect(b, CLOSED, 0, 0);
    vsw_check(b->sw);
}

/* Hosts that disagree about a burnt epoch count the same frames. */
static void test_burnt_epoch(void **state)
{
    struct bench *b = make(state, 1, 1, 1);

    bench_peer_sends(b, 0, 1, BROADCAST, 30, 1); /* the peer is in 1 */
    vsw_abort(b->sw, 2);                         /* we are in 2 */
    assert_int_equal(vsw_epoch(b->sw), 2);
    vsw_arm(b->sw, 3, b->now_ns);
    vsw_cut(b->sw, 0, b->now_ns);
    b->looked = b->count;
    send_marker(b, 0, 3, 1, 2);
    bench_expect(b, MARKER, 0, 0);
    bench_expect_end(b);
    bench_peer_sends(b, 0, 1, BROADCAST, 30, 2);
    bench_expect(b, RECORD, 0, 2);
    bench_expect(b, DELIVER, 0, 2);
    bench_expect(b, CLOSED, 0, 0);
}

/* ---- abort ------------------------------------------------------------- */

/* Give up after each of the steps: everything is delivered, once, in order. */
static void test_abort_at_each_step(void **state)
{
    for (int step = 0; step < 7; step++) {
        struct bench *b = make(state, 1, 2, 1);
        unsigned delivered = 0, last = 0;

        if (step > 0)
            vsw_arm(b->sw, 2, b->now_ns);
        bench_peer_sends(b, 0, 1, BROADCAST, 30, 1);
        if (step > 1)
            vsw_hold(b->sw, 0);
        bench_peer_sends(b, 0, 1, BROADCAST, 30, 2);
        if (step > 2)
            vsw_cut(b->sw, 0, b->now_ns);
        bench_peer_sends(b, 0, 2, BROADCAST, 30, 3);
        if (step > 3)
            vsw_release(b->sw, 0);
        bench_peer_sends(b, 0, 2, BROADCAST, 30, 4);
        if (step > 4)
            vsw_cut(b->sw, 1, b->now_ns);
        if (step > 5)
            vsw_finish(b->sw, 2);
        vsw_abort(b->sw, 2);
        vsw_check(b->sw);
        assert_int_equal(vsw_epoch(b->sw), 2);
        assert_false(vsw_port_held(b->sw, 0));
        bench_peer_sends(b, 0, 2, BROADCAST, 30, 5);
        for (unsigned i = 0; i < b->count; i++) {
            if (b->log[i].kind != DELIVER || b->log[i].place != 0)
                continue;
            assert_int_equal(b->log[i].number, last + 1);
            last++;
            delivered++;
        }
        assert_int_equal(delivered, 5);
        b->looked = b->count;
        bench_peer_sends(b, 0, 1, BROADCAST, 30, 6); /* late: no record */
        bench_expect(b, DELIVER, 0, 6);
        bench_expect(b, DELIVER, 1, 6);
        bench_expect_end(b);
        teardown(state);
    }
}

static void test_stale_abort_is_ignored(void **state)
{
    struct bench *b = make(state, 5, 1, 0);
    uint32_t armed;

    vsw_arm(b->sw, 8, b->now_ns);
    vsw_hold(b->sw, 0);
    vsw_abort(b->sw, 5);
    vsw_abort(b->sw, 4);
    vsw_abort(b->sw, 7); /* an earlier attempt */
    assert_true(vsw_armed(b->sw, &armed));
    assert_int_equal(armed, 8);
    assert_true(vsw_port_held(b->sw, 0));
    vsw_finish(b->sw, 7);
    assert_true(vsw_armed(b->sw, &armed));
    vsw_abort(b->sw, 9); /* a later one burns both */
    assert_false(vsw_armed(b->sw, &armed));
    assert_int_equal(vsw_epoch(b->sw), 9);
    vsw_arm(b->sw, 10, b->now_ns);
    vsw_arm(b->sw, 10, b->now_ns); /* twice is once */
    assert_int_equal(vsw_epoch(b->sw), 9);
    vsw_check(b->sw);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_teardown(name, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_flood_and_learn),
        TEST(test_split_horizon),
        TEST(test_move_and_age),
        TEST(test_gone_places_are_forgotten),
        TEST(test_impossible_frames),
        TEST(test_rule),
        TEST(test_serial_numbers),
        TEST(test_local_ports_across),
        TEST(test_held_frames_of_a_later_epoch_stay),
        TEST(test_unarmed_adopts),
        TEST(test_new_port_in_an_open_cut),
        TEST(test_overflow_is_counted),
        TEST(test_replay_goes_first),
        TEST(test_replay_is_recorded_again),
        TEST(test_channels_close),
        TEST(test_marker_before_arm),
        TEST(test_no_ports_marks_at_once),
        TEST(test_markers_repeat_until_acknowledged),
        TEST(test_duplicates_do_not_hang),
        TEST(test_give_up_counts),
        TEST(test_silent_peer_removed),
        TEST(test_burnt_epoch),
        TEST(test_abort_at_each_step),
        TEST(test_stale_abort_is_ignored),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
