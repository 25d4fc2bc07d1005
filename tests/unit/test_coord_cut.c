/* The machines of coord/cut.h, alone: every event in every state. */

#include "coord/cut.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define EPOCH    7u
#define LEASE_NS 1000u
#define NOBODY   CUT_VMS_MAX

/* ---- writing actions as text -------------------------------------------- */

static char text[4096];

static void append(const char *word, unsigned number, bool numbered)
{
    size_t at = strlen(text);

    snprintf(text + at, sizeof(text) - at, numbered ? "%s%s%u" : "%s%s",
             at > 0 ? " " : "", word, number);
}

static const char *agent_text(const struct cut_agent_action *actions,
                              size_t count)
{
    static const char *const words[] = {
        [CUT_AGENT_DO_ARM] = "arm",
        [CUT_AGENT_DO_PREPARE] = "prepare",
        [CUT_AGENT_DO_HOLD] = "hold",
        [CUT_AGENT_DO_STOP] = "stop",
        [CUT_AGENT_DO_FLIP] = "flip",
        [CUT_AGENT_DO_CAPTURE] = "capture",
        [CUT_AGENT_DO_SAVE] = "save",
        [CUT_AGENT_DO_RELEASE] = "release",
        [CUT_AGENT_DO_CLOSE] = "close",
        [CUT_AGENT_DO_FINISH] = "finish",
        [CUT_AGENT_DO_ABORT_VM] = "abort",
        [CUT_AGENT_DO_ABORT_SWITCH] = "abort",
        [CUT_AGENT_DO_FINISH_SWITCH] = "finish",
        [CUT_AGENT_SEND_READY] = "READY",
        [CUT_AGENT_SEND_CUT_DONE] = "CUT_DONE",
        [CUT_AGENT_SEND_SAVED] = "SAVED",
        [CUT_AGENT_SEND_FAILED] = "FAILED",
    };

    text[0] = '\0';
    for (size_t i = 0; i < count; i++)
        append(words[actions[i].kind], actions[i].vm,
               actions[i].vm != CUT_VMS_MAX);
    return text;
}

static const char *coord_text(const struct cut_coord_action *actions,
                              size_t count)
{
    static const char *const words[] = {
        [CUT_COORD_SEND_PREPARE] = "PREPARE",
        [CUT_COORD_SEND_CUT] = "CUT",
        [CUT_COORD_SEND_COMMIT] = "COMMIT",
        [CUT_COORD_SEND_ABORT] = "ABORT",
        [CUT_COORD_SEND_KEEPALIVE] = "KEEPALIVE",
        [CUT_COORD_COMMIT] = "commit",
    };

    text[0] = '\0';
    for (size_t i = 0; i < count; i++)
        append(words[actions[i].kind], actions[i].host,
               actions[i].kind != CUT_COORD_COMMIT);
    return text;
}

/* ---- the agent ---------------------------------------------------------- */

static const char *feed_at(struct cut_agent *a, enum cut_agent_event_kind kind,
                           unsigned vm, uint32_t epoch, uint64_t now_ns)
{
    static struct cut_agent_action actions[CUT_AGENT_ACTIONS_MAX];
    struct cut_agent_event event = {
        .kind = kind, .vm = vm, .epoch = epoch, .reason = "told so"};
    size_t count = cut_agent_step(a, &event, now_ns, actions);

    assert_true(count <= CUT_AGENT_ACTIONS_MAX);
    for (size_t i = 0; i < count; i++)
        if (kind != CUT_AGENT_PREPARE)
            assert_int_equal(actions[i].epoch, a->epoch);
        else
            assert_int_equal(actions[i].epoch, epoch);
    return agent_text(actions, count);
}

static const char *feed(struct cut_agent *a, enum cut_agent_event_kind kind,
                        unsigned vm)
{
    return feed_at(a, kind, vm, EPOCH, 1);
}

struct step {
    enum cut_agent_event_kind kind;
    unsigned vm;
    enum cut_agent_state state; /* afterwards */
    const char *actions;
};

static const struct step happy[] = {
    {CUT_AGENT_PREPARE, NOBODY, CUT_AGENT_PREPARING, "arm prepare0 prepare1"},
    {CUT_AGENT_VM_PREPARED, 1, CUT_AGENT_PREPARING, ""},
    {CUT_AGENT_ARMED, NOBODY, CUT_AGENT_PREPARING, ""},
    {CUT_AGENT_VM_PREPARED, 0, CUT_AGENT_READY, "READY"},
    {CUT_AGENT_CUT, NOBODY, CUT_AGENT_HOLDING, "hold"},
    {CUT_AGENT_HELD, NOBODY, CUT_AGENT_STOPPING, "stop0 stop1"},
    {CUT_AGENT_VM_STOPPED, 0, CUT_AGENT_STOPPING, ""},
    {CUT_AGENT_VM_STOPPED, 1, CUT_AGENT_FLIPPING, "flip"},
    {CUT_AGENT_FLIPPED, NOBODY, CUT_AGENT_CAPTURING, "capture0 capture1 close"},
    {CUT_AGENT_VM_CAPTURED, 1, CUT_AGENT_CAPTURING, ""},
    {CUT_AGENT_VM_RESUMED, 1, CUT_AGENT_CAPTURING, "release1"},
    {CUT_AGENT_VM_CAPTURED, 0, CUT_AGENT_RESUMING, "save0 save1"},
    {CUT_AGENT_VM_SAVED, 1, CUT_AGENT_RESUMING, ""},
    {CUT_AGENT_VM_RESUMED, 0, CUT_AGENT_SAVING, "release0 CUT_DONE"},
    {CUT_AGENT_CLOSED, NOBODY, CUT_AGENT_SAVING, ""},
    {CUT_AGENT_VM_SAVED, 0, CUT_AGENT_SAVED, "SAVED"},
    {CUT_AGENT_COMMIT, NOBODY, CUT_AGENT_FINISHING, "finish0 finish1 finish"},
    {CUT_AGENT_VM_CLEAN, 0, CUT_AGENT_FINISHING, ""},
    {CUT_AGENT_VM_CLEAN, 1, CUT_AGENT_IDLE, ""},
};
#define HAPPY_COUNT (sizeof(happy) / sizeof(happy[0]))
#define COMMIT_STEP 16u

/* A machine after the first `count` steps of the happy path. */
static struct cut_agent after(unsigned count)
{
    struct cut_agent a;

    cut_agent_init(&a, 2, LEASE_NS);
    a.highest_epoch = EPOCH - 1;
    for (unsigned i = 0; i < count; i++) {
        assert_string_equal(feed(&a, happy[i].kind, happy[i].vm),
                            happy[i].actions);
        assert_int_equal(a.state, happy[i].state);
    }
    return a;
}

static void test_happy_path(void **state)
{
    struct cut_agent a = after(HAPPY_COUNT);

    (void)state;
    assert_int_equal(a.deadline_ns, UINT64_MAX);
    assert_int_equal(a.highest_epoch, EPOCH);
}

/* Whatever was under way goes on to its end, and leads nowhere. */
static void expect_clean_end(struct cut_agent *a, unsigned from)
{
    assert_int_equal(a->state, CUT_AGENT_ABORTING);
    assert_int_equal(a->deadline_ns, UINT64_MAX);
    for (unsigned i = from; i < COMMIT_STEP + 1; i++)
        if (happy[i].kind != CUT_AGENT_PREPARE) {
            assert_string_equal(feed(a, happy[i].kind, happy[i].vm), "");
            assert_int_equal(a->state, CUT_AGENT_ABORTING);
        }
    assert_string_equal(feed(a, CUT_AGENT_STEP_FAILED, 0), "");
    assert_string_equal(feed(a, CUT_AGENT_ABORT, NOBODY), "");
    assert_string_equal(feed(a, CUT_AGENT_VM_CLEAN, 1), "");
    assert_string_equal(feed(a, CUT_AGENT_VM_CLEAN, 1), "");
    assert_int_equal(a->state, CUT_AGENT_ABORTING);
    assert_string_equal(feed(a, CUT_AGENT_VM_CLEAN, 0), "");
    assert_int_equal(a->state, CUT_AGENT_IDLE);
    /* Later still. */
    for (unsigned i = 1; i < HAPPY_COUNT; i++)
        assert_string_equal(feed(a, happy[i].kind, happy[i].vm), "");
    assert_int_equal(a->state, CUT_AGENT_IDLE);
    /* The epoch is burnt, the next is not. */
    assert_string_equal(feed(a, CUT_AGENT_PREPARE, NOBODY), "FAILED");
    assert_string_equal(a->reason, "epoch 7 is used up");
    assert_int_equal(a->state, CUT_AGENT_IDLE);
    assert_string_equal(feed_at(a, CUT_AGENT_PREPARE, NOBODY, EPOCH + 1, 1),
                        "arm prepare0 prepare1");
}

static void test_step_fails_anywhere(void **state)
{
    (void)state;
    for (unsigned i = 1; i <= COMMIT_STEP; i++)
        for (unsigned vm = 0; vm < 3; vm++) {
            struct cut_agent a = after(i);

            assert_string_equal(
                feed(&a, CUT_AGENT_STEP_FAILED, vm < 2 ? vm : NOBODY),
                "abort0 abort1 abort FAILED");
            assert_string_equal(a.reason, "told so");
            expect_clean_end(&a, i);
        }
}

static void test_abort_anywhere(void **state)
{
    (void)state;
    for (unsigned i = 1; i <= COMMIT_STEP; i++) {
        struct cut_agent a = after(i);

        assert_string_equal(feed_at(&a, CUT_AGENT_ABORT, NOBODY, EPOCH + 1, 1),
                            "");
        assert_string_equal(feed(&a, CUT_AGENT_ABORT, NOBODY),
                            "abort0 abort1 abort");
        expect_clean_end(&a, i);
    }
}

static void test_coordinator_lost_anywhere(void **state)
{
    (void)state;
    for (unsigned i = 1; i <= COMMIT_STEP; i++) {
        struct cut_agent a = after(i);

        /* Nobody is there to hear FAILED, even when the lease is over. */
        assert_string_equal(
            feed_at(&a, CUT_AGENT_COORD_LOST, NOBODY, 0, i % 2 ? 1 : 5000),
            "abort0 abort1 abort");
        expect_clean_end(&a, i);
    }
}

static void test_lease_anywhere(void **state)
{
    (void)state;
    for (unsigned i = 1; i <= COMMIT_STEP; i++) {
        struct cut_agent a = after(i);

        assert_int_equal(a.deadline_ns, 1 + LEASE_NS);
        assert_string_equal(feed_at(&a, CUT_AGENT_TICK, NOBODY, 0, LEASE_NS),
                            "");
        assert_string_equal(
            feed_at(&a, CUT_AGENT_KEEPALIVE, NOBODY, EPOCH, 500), "");
        assert_int_equal(a.deadline_ns, 500 + LEASE_NS);
        /* Another cut's keepalive is nothing to us. */
        assert_string_equal(
            feed_at(&a, CUT_AGENT_KEEPALIVE, NOBODY, EPOCH + 1, 900), "");
        assert_int_equal(a.deadline_ns, 500 + LEASE_NS);
        assert_string_equal(
            feed_at(&a, CUT_AGENT_TICK, NOBODY, 0, 500 + LEASE_NS),
            "abort0 abort1 abort FAILED");
        expect_clean_end(&a, i);
    }
}

/* The lease is over, but the message is there before the TICK. */
static void test_late_message_renews(void **state)
{
    struct cut_agent a = after(COMMIT_STEP);

    (void)state;
    assert_string_equal(feed_at(&a, CUT_AGENT_COMMIT, NOBODY, EPOCH, 5000),
                        "finish0 finish1 finish");
    a = after(4);
    assert_string_equal(feed_at(&a, CUT_AGENT_CUT, NOBODY, EPOCH, 5000),
                        "hold");
    assert_int_equal(a.deadline_ns, 5000 + LEASE_NS);
    /* A result proves nothing. */
    assert_string_equal(feed_at(&a, CUT_AGENT_HELD, NOBODY, EPOCH, 9000),
                        "abort0 abort1 abort FAILED");
}

static void test_trigger(void **state)
{
    struct cut_agent a = after(4);

    (void)state;
    assert_string_equal(feed_at(&a, CUT_AGENT_TRIGGER, NOBODY, EPOCH - 1, 1),
                        "");
    assert_string_equal(feed(&a, CUT_AGENT_TRIGGER, NOBODY), "hold");
    assert_int_equal(a.state, CUT_AGENT_HOLDING);
    /* CUT comes after all, and a second trigger. */
    assert_string_equal(feed(&a, CUT_AGENT_CUT, NOBODY), "");
    assert_string_equal(feed(&a, CUT_AGENT_TRIGGER, NOBODY), "");
    for (unsigned i = 5; i < HAPPY_COUNT; i++)
        assert_string_equal(feed(&a, happy[i].kind, happy[i].vm),
                            happy[i].actions);
    assert_int_equal(a.state, CUT_AGENT_IDLE);
}

static void test_cut_too_early(void **state)
{
    struct cut_agent a = after(2);

    (void)state;
    assert_string_equal(feed(&a, CUT_AGENT_CUT, NOBODY),
                        "abort0 abort1 abort FAILED");
    a = after(3);
    assert_string_equal(feed(&a, CUT_AGENT_TRIGGER, NOBODY),
                        "abort0 abort1 abort FAILED");
    a = after(0);
    assert_string_equal(feed(&a, CUT_AGENT_TRIGGER, NOBODY), "");
    assert_string_equal(feed(&a, CUT_AGENT_CUT, NOBODY), "");
    assert_int_equal(a.state, CUT_AGENT_IDLE);
}

static void test_commit_too_early(void **state)
{
    (void)state;
    for (unsigned i = 1; i < COMMIT_STEP; i++) {
        struct cut_agent a = after(i);
        enum cut_agent_state before = a.state;

        assert_string_equal(feed(&a, CUT_AGENT_COMMIT, NOBODY), "");
        assert_int_equal(a.state, before);
    }
}

static void test_busy(void **state)
{
    (void)state;
    for (unsigned i = 1; i < HAPPY_COUNT; i++) {
        struct cut_agent a = after(i);
        enum cut_agent_state before = a.state;

        assert_string_equal(feed_at(&a, CUT_AGENT_PREPARE, NOBODY, 99, 1),
                            "FAILED");
        assert_string_equal(a.reason, "busy with the cut to epoch 7");
        assert_int_equal(a.state, before);
        /* The old one's lease is over: that is for the TICK to find out. */
        assert_string_equal(feed_at(&a, CUT_AGENT_PREPARE, NOBODY, 99, 9999),
                            "FAILED");
        assert_int_equal(a.highest_epoch, EPOCH);
        for (unsigned k = i; k < HAPPY_COUNT; k++)
            assert_string_equal(feed(&a, happy[k].kind, happy[k].vm),
                                happy[k].actions);
        assert_int_equal(a.state, CUT_AGENT_IDLE);
    }
}

static void test_results_of_an_older_cut(void **state)
{
    struct cut_agent a = after(COMMIT_STEP);

    (void)state;
    feed(&a, CUT_AGENT_ABORT, NOBODY);
    feed(&a, CUT_AGENT_VM_CLEAN, 0);
    feed(&a, CUT_AGENT_VM_CLEAN, 1);
    feed_at(&a, CUT_AGENT_PREPARE, NOBODY, EPOCH + 1, 1);
    for (unsigned i = 1; i < HAPPY_COUNT; i++) {
        assert_string_equal(feed(&a, happy[i].kind, happy[i].vm), "");
        assert_int_equal(a.state, CUT_AGENT_PREPARING);
    }
    assert_string_equal(feed(&a, CUT_AGENT_STEP_FAILED, 0), "");
    assert_false(a.armed);
    assert_false(a.vms[0].prepared);
}

static void test_no_vms(void **state)
{
    struct cut_agent a;

    (void)state;
    cut_agent_init(&a, 0, LEASE_NS);
    a.pause_limit_ns = 10;
    assert_string_equal(feed(&a, CUT_AGENT_PREPARE, NOBODY), "arm");
    assert_string_equal(feed(&a, CUT_AGENT_ARMED, NOBODY), "READY");
    assert_string_equal(feed(&a, CUT_AGENT_CUT, NOBODY), "hold");
    assert_string_equal(feed(&a, CUT_AGENT_HELD, NOBODY), "flip");
    assert_string_equal(feed(&a, CUT_AGENT_FLIPPED, NOBODY), "close CUT_DONE");
    assert_string_equal(feed_at(&a, CUT_AGENT_CLOSED, NOBODY, EPOCH, 50),
                        "SAVED");
    assert_string_equal(feed(&a, CUT_AGENT_COMMIT, NOBODY), "finish");
    assert_int_equal(a.state, CUT_AGENT_IDLE);
    assert_string_equal(feed_at(&a, CUT_AGENT_PREPARE, NOBODY, EPOCH + 1, 1),
                        "arm");
    assert_string_equal(
        feed_at(&a, CUT_AGENT_STEP_FAILED, NOBODY, EPOCH + 1, 1),
        "abort FAILED");
    assert_int_equal(a.state, CUT_AGENT_IDLE);
}

static void test_most_vms(void **state)
{
    static struct cut_agent_action actions[CUT_AGENT_ACTIONS_MAX];
    struct cut_agent a;
    struct cut_agent_event event = {.kind = CUT_AGENT_PREPARE, .epoch = 1};

    (void)state;
    cut_agent_init(&a, CUT_VMS_MAX, LEASE_NS);
    assert_int_equal(cut_agent_step(&a, &event, 1, actions), CUT_VMS_MAX + 1);
    event.kind = CUT_AGENT_STEP_FAILED;
    event.vm = NOBODY;
    assert_int_equal(cut_agent_step(&a, &event, 1, actions), CUT_VMS_MAX + 2);
}

static void test_pause_limit(void **state)
{
    (void)state;
    /* From DO_STOP (step 6) until all run again (step 14). */
    for (unsigned i = 4; i <= COMMIT_STEP; i++) {
        struct cut_agent a;

        cut_agent_init(&a, 2, LEASE_NS);
        a.pause_limit_ns = 100;
        for (unsigned k = 0; k < i; k++)
            feed(&a, happy[k].kind, happy[k].vm);
        if (i < 6 || i >= 14) {
            assert_int_equal(a.deadline_ns, 1 + LEASE_NS);
            continue;
        }
        assert_int_equal(a.deadline_ns, 101);
        assert_string_equal(feed_at(&a, CUT_AGENT_TICK, NOBODY, 0, 100), "");
        /* The result itself comes too late, or there is none. */
        if (i % 2)
            assert_string_equal(
                feed_at(&a, happy[i].kind, happy[i].vm, EPOCH, 101),
                "abort0 abort1 abort FAILED");
        else
            assert_string_equal(feed_at(&a, CUT_AGENT_TICK, NOBODY, 0, 101),
                                "abort0 abort1 abort FAILED");
        assert_string_equal(a.reason, "a VM stood too long");
        expect_clean_end(&a, i);
    }
}

static void test_resumed_before_captured(void **state)
{
    struct cut_agent a = after(9);

    (void)state;
    assert_string_equal(feed(&a, CUT_AGENT_VM_RESUMED, 0),
                        "abort0 abort1 abort FAILED");
    expect_clean_end(&a, 9);
}

static void test_epochs_wrap(void **state)
{
    static const struct {
        uint32_t highest, asked;
        bool accepted;
    } cases[] = {
        {0, 0, false},
        {0, 1, true},
        {UINT32_MAX, UINT32_MAX, false},
        {UINT32_MAX, 0, true},
        {0, UINT32_MAX, false},
        {UINT32_MAX - 1, 3, true},
        {5, 5 + 0x7fffffffu, true},
        {5, 5 + 0x80000000u, false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct cut_agent a;

        cut_agent_init(&a, 0, LEASE_NS);
        a.highest_epoch = cases[i].highest;
        assert_string_equal(
            feed_at(&a, CUT_AGENT_PREPARE, NOBODY, cases[i].asked, 1),
            cases[i].accepted ? "arm" : "FAILED");
        assert_int_equal(a.highest_epoch,
                         cases[i].accepted ? cases[i].asked : cases[i].highest);
    }
}

/* ---- the coordinator ---------------------------------------------------- */

static const char *tell_at(struct cut_coord *c, enum cut_coord_event_kind kind,
                           unsigned host, uint32_t epoch, uint64_t now_ns)
{
    static struct cut_coord_action actions[CUT_COORD_ACTIONS_MAX];
    struct cut_coord_event event = {
        .kind = kind, .host = host, .epoch = epoch, .reason = "it broke"};

    return coord_text(actions, cut_coord_step(c, &event, now_ns, actions));
}

static const char *tell(struct cut_coord *c, enum cut_coord_event_kind kind,
                        unsigned host)
{
    return tell_at(c, kind, host, EPOCH, 1);
}

static const struct {
    enum cut_coord_event_kind kind;
    unsigned host;
    enum cut_coord_state state;
    const char *actions;
} whole[] = {
    {CUT_COORD_START, 0, CUT_COORD_PREPARING, "PREPARE0 PREPARE1"},
    {CUT_COORD_READY, 1, CUT_COORD_PREPARING, ""},
    {CUT_COORD_READY, 0, CUT_COORD_CUTTING, "CUT0 CUT1"},
    {CUT_COORD_CUT_DONE, 0, CUT_COORD_CUTTING, ""},
    {CUT_COORD_SAVED, 0, CUT_COORD_CUTTING, ""},
    {CUT_COORD_CUT_DONE, 1, CUT_COORD_SAVING, ""},
    {CUT_COORD_SAVED, 1, CUT_COORD_COMMITTING, "commit"},
    {CUT_COORD_COMMITTED, 0, CUT_COORD_DONE, "COMMIT0 COMMIT1"},
};
#define WHOLE_COUNT (sizeof(whole) / sizeof(whole[0]))

static struct cut_coord coord_after(unsigned count)
{
    struct cut_coord c;

    cut_coord_init(&c, EPOCH, 2, 100, 1000);
    c.keepalive_ns = 40;
    for (unsigned i = 0; i < count; i++) {
        assert_string_equal(tell(&c, whole[i].kind, whole[i].host),
                            whole[i].actions);
        assert_int_equal(c.state, whole[i].state);
    }
    return c;
}

static void expect_aborted(struct cut_coord *c, unsigned culprit,
                           const char *reason)
{
    assert_int_equal(c->state, CUT_COORD_ABORTED);
    assert_int_equal(c->culprit, culprit);
    assert_string_equal(c->reason, reason);
    assert_int_equal(cut_coord_wake_ns(c), UINT64_MAX);
    for (unsigned i = 0; i < WHOLE_COUNT; i++)
        assert_string_equal(tell(c, whole[i].kind, whole[i].host), "");
    assert_string_equal(tell(c, CUT_COORD_FAILED, 1), "");
    assert_string_equal(tell_at(c, CUT_COORD_TICK, 0, 0, 99999), "");
    assert_int_equal(c->state, CUT_COORD_ABORTED);
}

static void test_coord_happy_path(void **state)
{
    struct cut_coord c = coord_after(WHOLE_COUNT);

    (void)state;
    assert_int_equal(cut_coord_wake_ns(&c), UINT64_MAX);
    assert_string_equal(tell(&c, CUT_COORD_HOST_LOST, 0), "");
    assert_string_equal(tell(&c, CUT_COORD_CANCEL, 0), "");
    assert_int_equal(c.state, CUT_COORD_DONE);
}

static void test_coord_gives_up(void **state)
{
    (void)state;
    for (unsigned i = 1; i <= 6; i++) {
        struct cut_coord c = coord_after(i);

        assert_string_equal(tell(&c, CUT_COORD_FAILED, 1), "ABORT0");
        expect_aborted(&c, 1, "it broke");
        c = coord_after(i);
        assert_string_equal(tell(&c, CUT_COORD_HOST_LOST, 0), "ABORT1");
        expect_aborted(&c, 0, "it broke");
        c = coord_after(i);
        assert_string_equal(tell(&c, CUT_COORD_CANCEL, 0), "ABORT0 ABORT1");
        expect_aborted(&c, CUT_HOSTS_MAX, "it broke");
    }
}

static void test_coord_other_epoch(void **state)
{
    (void)state;
    for (unsigned i = 1; i < WHOLE_COUNT - 1; i++) {
        struct cut_coord c = coord_after(i);

        assert_string_equal(
            tell_at(&c, whole[i].kind, whole[i].host, EPOCH + 1, 1), "");
        assert_string_equal(tell_at(&c, CUT_COORD_FAILED, 0, EPOCH - 1, 1), "");
        assert_int_equal(c.state, whole[i - 1].state);
    }
}

static void test_coord_committing(void **state)
{
    struct cut_coord c = coord_after(7);

    (void)state;
    assert_int_equal(c.deadline_ns, UINT64_MAX);
    assert_string_equal(tell(&c, CUT_COORD_FAILED, 0), "");
    assert_string_equal(tell(&c, CUT_COORD_HOST_LOST, 0), "");
    assert_string_equal(tell(&c, CUT_COORD_CANCEL, 0), "");
    assert_string_equal(tell_at(&c, CUT_COORD_TICK, 0, 0, 90000), "KEEPALIVE1");
    assert_int_equal(c.state, CUT_COORD_COMMITTING);
    assert_string_equal(tell(&c, CUT_COORD_COMMITTED, 0), "COMMIT1");
    c = coord_after(7);
    assert_string_equal(tell(&c, CUT_COORD_COMMIT_FAILED, 0), "ABORT0 ABORT1");
    expect_aborted(&c, CUT_HOSTS_MAX, "it broke");
}

/* A frame was faster than CUT: the host answers before we asked. */
static void test_coord_early_answers(void **state)
{
    struct cut_coord c = coord_after(2);

    (void)state;
    assert_string_equal(tell(&c, CUT_COORD_CUT_DONE, 1), "");
    assert_string_equal(tell(&c, CUT_COORD_SAVED, 1), "");
    assert_string_equal(tell(&c, CUT_COORD_CUT_DONE, 0), "");
    assert_string_equal(tell(&c, CUT_COORD_SAVED, 0), "");
    assert_int_equal(c.state, CUT_COORD_PREPARING);
    assert_string_equal(tell(&c, CUT_COORD_READY, 0), "CUT0 CUT1 commit");
    assert_int_equal(c.state, CUT_COORD_COMMITTING);
}

static void test_coord_time(void **state)
{
    static const struct {
        unsigned steps;
        uint64_t limit_ns;
        unsigned culprit;
        const char *reason;
    } cases[] = {
        {2, 1000, 0, "not ready in time"},
        {4, 100, 1, "VMs not cut in time"},
        {6, 1000, 1, "not saved in time"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct cut_coord c = coord_after(cases[i].steps);

        assert_int_equal(c.deadline_ns, 1 + cases[i].limit_ns);
        assert_int_equal(cut_coord_wake_ns(&c), 41);
        assert_string_equal(tell_at(&c, CUT_COORD_TICK, 0, 0, 40), "");
        assert_string_equal(tell_at(&c, CUT_COORD_TICK, 0, 0, 45),
                            "KEEPALIVE0 KEEPALIVE1");
        assert_int_equal(c.keepalive_at_ns, 85);
        assert_string_equal(
            tell_at(&c, CUT_COORD_TICK, 0, 0, 1 + cases[i].limit_ns),
            "ABORT0 ABORT1");
        expect_aborted(&c, cases[i].culprit, cases[i].reason);
    }
}

static void test_coord_not_connected(void **state)
{
    struct cut_coord c = coord_after(0);

    (void)state;
    assert_string_equal(tell_at(&c, CUT_COORD_TICK, 0, 0, 9999), "");
    assert_string_equal(tell(&c, CUT_COORD_HOST_LOST, 1), "");
    assert_string_equal(tell(&c, CUT_COORD_START, 0), "");
    expect_aborted(&c, 1, "not connected");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_happy_path),
        cmocka_unit_test(test_step_fails_anywhere),
        cmocka_unit_test(test_abort_anywhere),
        cmocka_unit_test(test_coordinator_lost_anywhere),
        cmocka_unit_test(test_lease_anywhere),
        cmocka_unit_test(test_late_message_renews),
        cmocka_unit_test(test_trigger),
        cmocka_unit_test(test_cut_too_early),
        cmocka_unit_test(test_commit_too_early),
        cmocka_unit_test(test_busy),
        cmocka_unit_test(test_results_of_an_older_cut),
        cmocka_unit_test(test_no_vms),
        cmocka_unit_test(test_most_vms),
        cmocka_unit_test(test_pause_limit),
        cmocka_unit_test(test_resumed_before_captured),
        cmocka_unit_test(test_epochs_wrap),
        cmocka_unit_test(test_coord_happy_path),
        cmocka_unit_test(test_coord_gives_up),
        cmocka_unit_test(test_coord_other_epoch),
        cmocka_unit_test(test_coord_committing),
        cmocka_unit_test(test_coord_early_answers),
        cmocka_unit_test(test_coord_time),
        cmocka_unit_test(test_coord_not_connected),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
