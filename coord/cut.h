#ifndef COORD_CUT_H
#define COORD_CUT_H

/*
 * The cut: two pure state machines, the coordinator's and an agent's.
 *
 * Events go in with the time, actions come out; the caller performs them and
 * reports what became of them as further events. No socket, clock, thread or
 * allocation inside; the simulator (tests/sim) drives the same code. The
 * protocol at length, with the argument why it is consistent: docs/CUT.md.
 * In short (DESIGN section 4):
 *
 *   coordinator      agent (each host)            its VMs and switch
 *   PREPARE(e) ----> prepare every VM, arm
 *        <---- READY
 *   CUT(e) --------> hold all -> stop all -> cut all ports
 *                    -> capture each -> release each's ports;
 *                    save all when all are captured
 *        <---- CUT_DONE (when every VM runs again)
 *        <---- SAVED    (all objects durable, all channels closed)
 *   commit the manifest; COMMIT(e) -> finish
 *
 * Invariants (checked by the simulator for every interleaving):
 *   - the coordinator commits only after SAVED from every host, for its epoch;
 *   - after a failure, an ABORT or a lease that ran out an agent never sends
 *     SAVED for that epoch again, and every VM it stopped is resumed;
 *   - an epoch that was prepared is never prepared again.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CUT_HOSTS_MAX   256
#define CUT_VMS_MAX     256
#define CUT_REASON_SIZE 256

/* What callers should use unless told otherwise: the coordinator speaks at
 * least every KEEPALIVE, an agent gives up after LEASE of silence. */
#define CUT_KEEPALIVE_NS UINT64_C(2000000000)
#define CUT_LEASE_NS     UINT64_C(10000000000)

/* ---- coordinator -------------------------------------------------------- */

enum cut_coord_state {
    CUT_COORD_IDLE,
    CUT_COORD_PREPARING,  /* some READY outstanding */
    CUT_COORD_CUTTING,    /* CUT sent; some CUT_DONE outstanding */
    CUT_COORD_SAVING,     /* all VMs run again; some SAVED outstanding */
    CUT_COORD_COMMITTING, /* the manifest is being committed */
    CUT_COORD_DONE,       /* committed */
    CUT_COORD_ABORTED,
};

enum cut_coord_event_kind {
    CUT_COORD_START,         /* -> PREPARE to all */
    CUT_COORD_READY,         /* host */
    CUT_COORD_CUT_DONE,      /* host */
    CUT_COORD_SAVED,         /* host */
    CUT_COORD_FAILED,        /* host, reason: an agent gave up */
    CUT_COORD_HOST_LOST,     /* host, reason: its connection broke */
    CUT_COORD_COMMITTED,     /* the manifest is durable */
    CUT_COORD_COMMIT_FAILED, /* reason */
    CUT_COORD_CANCEL,        /* reason: the user gave up */
    CUT_COORD_TICK,          /* time passed: deadlines, keepalives */
};
struct cut_coord_event {
    enum cut_coord_event_kind kind;
    unsigned host;
    uint32_t epoch;     /* of a message; others are ignored if not ours */
    const char *reason; /* copied where kept */
};

enum cut_coord_action_kind {
    CUT_COORD_SEND_PREPARE, /* host */
    CUT_COORD_SEND_CUT,
    CUT_COORD_SEND_COMMIT,
    CUT_COORD_SEND_ABORT,     /* epoch and reason are in the machine */
    CUT_COORD_SEND_KEEPALIVE, /* renews the agent's lease, no more */
    CUT_COORD_COMMIT, /* commit the manifest; report COMMITTED or _FAILED:
                         the latter only if it is sure not to exist */
};
struct cut_coord_action {
    enum cut_coord_action_kind kind;
    unsigned host; /* not for COMMIT */
};

struct cut_coord {
    enum cut_coord_state state;
    uint32_t epoch;
    unsigned host_count;
    uint64_t step_timeout_ns; /* for CUT */
    uint64_t save_timeout_ns; /* for saving, and for PREPARE: while VMs run,
                                 their whole memory may be copied */
    uint64_t deadline_ns;     /* of the present state; UINT64_MAX: none */
    uint64_t keepalive_ns;    /* between keepalives; from init: KEEPALIVE */
    uint64_t keepalive_at_ns; /* the next one; UINT64_MAX: none */
    struct {
        bool ready, cut_done, saved, told; /* told: PREPARE went out */
        bool lost, failed; /* no connection; gave up by itself */
    } hosts[CUT_HOSTS_MAX];
    char reason[CUT_REASON_SIZE]; /* why it was aborted */
    unsigned culprit;             /* host, or CUT_HOSTS_MAX */
};

/* At most this many actions come out of one step. */
#define CUT_COORD_ACTIONS_MAX (2 * CUT_HOSTS_MAX + 1)

/* host_count: 1 .. CUT_HOSTS_MAX. epoch: above every agent's highest. */
void cut_coord_init(struct cut_coord *c, uint32_t epoch, unsigned host_count,
                    uint64_t step_timeout_ns, uint64_t save_timeout_ns);
/* One event in; returns how many actions were written to `actions`. Once
 * COMMITTING, nothing but the commit's own result ends it: a lost host can no
 * longer abort what may be durable. */
size_t cut_coord_step(struct cut_coord *c, const struct cut_coord_event *event,
                      uint64_t now_ns,
                      struct cut_coord_action actions[CUT_COORD_ACTIONS_MAX]);
/* When to feed the next TICK; UINT64_MAX: not needed. */
static inline uint64_t cut_coord_wake_ns(const struct cut_coord *c)
{
    return c->keepalive_at_ns < c->deadline_ns ? c->keepalive_at_ns
                                               : c->deadline_ns;
}

/* ---- agent -------------------------------------------------------------- */

/*
 * What the caller promises:
 *   - Actions of one VM are performed in the order they came out, those of
 *     the switch too (DO_RELEASE is one, DO_CLOSE is not), and their results
 *     are fed in that order. DO_ABORT_VM and DO_ABORT_SWITCH may hurry what
 *     is in progress, but run after it.
 *   - Every result carries the epoch of the action; a late one is ignored.
 *   - DO_FINISH and DO_ABORT_VM always end in VM_CLEAN, also for a VM that is
 *     gone or deaf: the watchdog has the last word on it.
 *   - PREPARE may be fed at any time. CUT, COMMIT, ABORT, KEEPALIVE and
 *     COORD_LOST only when they come from the connection that brought the
 *     PREPARE of the cut under way. A SEND_FAILED that comes out of a PREPARE
 *     answers whoever sent that; all other messages go to the coordinator.
 *   - highest_epoch is set after init to the epoch that the network is in,
 *     which must survive a restart of the agent (violind knows it).
 */

enum cut_agent_state {
    CUT_AGENT_IDLE,
    CUT_AGENT_PREPARING, /* VMs being prepared, switch being armed */
    CUT_AGENT_READY,
    CUT_AGENT_HOLDING,   /* deliveries held, waiting to settle */
    CUT_AGENT_STOPPING,  /* until every VM stands */
    CUT_AGENT_FLIPPING,  /* ports drain and move to the epoch */
    CUT_AGENT_CAPTURING, /* until every VM's instant is captured */
    CUT_AGENT_RESUMING,  /* until every VM runs again */
    CUT_AGENT_SAVING,
    CUT_AGENT_SAVED,     /* told the coordinator; waits for COMMIT */
    CUT_AGENT_FINISHING, /* committed; VMs being cleaned */
    CUT_AGENT_ABORTING,  /* VMs being resumed and cleaned */
};

enum cut_agent_event_kind {
    CUT_AGENT_PREPARE,     /* message; epoch */
    CUT_AGENT_CUT,         /* message; epoch */
    CUT_AGENT_COMMIT,      /* message; epoch */
    CUT_AGENT_ABORT,       /* message; epoch, reason */
    CUT_AGENT_KEEPALIVE,   /* message; epoch: the coordinator lives */
    CUT_AGENT_COORD_LOST,  /* the connection of the coordinator broke */
    CUT_AGENT_TRIGGER,     /* the switch saw a frame of `epoch` */
    CUT_AGENT_ARMED,       /* results of actions from here */
    CUT_AGENT_VM_PREPARED, /* vm */
    CUT_AGENT_HELD,        /* all ports held and settled */
    CUT_AGENT_VM_STOPPED,  /* vm */
    CUT_AGENT_FLIPPED,     /* all ports cut */
    CUT_AGENT_VM_CAPTURED, /* vm: its instant is captured */
    CUT_AGENT_VM_RESUMED,  /* vm: it runs again (mode stop: later) */
    CUT_AGENT_VM_SAVED,    /* vm: its objects are durable */
    CUT_AGENT_CLOSED,      /* channels closed, records are durable */
    CUT_AGENT_VM_CLEAN,    /* vm: finish or abort completed */
    CUT_AGENT_STEP_FAILED, /* vm or CUT_VMS_MAX (the switch); reason */
    CUT_AGENT_TICK,
};
struct cut_agent_event {
    enum cut_agent_event_kind kind;
    unsigned vm;
    uint32_t epoch;
    const char *reason;
};

enum cut_agent_action_kind {
    CUT_AGENT_DO_ARM,           /* violin_arm */
    CUT_AGENT_DO_PREPARE,       /* vm_prepare */
    CUT_AGENT_DO_HOLD,          /* violin_hold, all ports */
    CUT_AGENT_DO_STOP,          /* watchdog armed, vm_stop */
    CUT_AGENT_DO_FLIP,          /* violin_cut, all ports */
    CUT_AGENT_DO_CAPTURE,       /* vm_capture */
    CUT_AGENT_DO_SAVE,          /* vm_save; begins when all are captured */
    CUT_AGENT_DO_RELEASE,       /* violin_release of the VM's ports */
    CUT_AGENT_DO_CLOSE,         /* violin_await_closed, store the records */
    CUT_AGENT_DO_FINISH,        /* vm_finish */
    CUT_AGENT_DO_ABORT_VM,      /* vm_cancel, then vm_abort: it runs again */
    CUT_AGENT_DO_ABORT_SWITCH,  /* violin_abort */
    CUT_AGENT_DO_FINISH_SWITCH, /* violin_finish */
    CUT_AGENT_SEND_READY,
    CUT_AGENT_SEND_CUT_DONE,
    CUT_AGENT_SEND_SAVED,
    CUT_AGENT_SEND_FAILED, /* reason in the machine, epoch in the action */
};
struct cut_agent_action {
    enum cut_agent_action_kind kind;
    unsigned vm;    /* of VM actions; else CUT_VMS_MAX */
    uint32_t epoch; /* of the cut that it belongs to */
};

struct cut_agent {
    enum cut_agent_state state;
    uint32_t epoch;         /* of the cut under way */
    uint32_t highest_epoch; /* ever prepared; serial number */
    unsigned vm_count;
    uint64_t lease_ns; /* silence of the coordinator before it aborts */
    /* A VM may stand this long from DO_STOP to VM_RESUMED; must be less than
     * the watchdog's patience, which counts from later. Past it the cut is
     * given up: a VM that the watchdog resumed was not captured standing. 0:
     * the caller sees to that himself. Set after init. */
    uint64_t pause_limit_ns;
    uint64_t lease_until_ns; /* UINT64_MAX: no cut under way */
    uint64_t pause_until_ns; /* UINT64_MAX: no VM stands, or no limit */
    uint64_t deadline_ns;    /* when to feed TICK; UINT64_MAX: never */
    bool armed, held, flipped, closed;
    struct {
        bool prepared, stopped, captured, resumed, saved, dirty;
    } vms[CUT_VMS_MAX];
    char reason[CUT_REASON_SIZE];
};

#define CUT_AGENT_ACTIONS_MAX (2 * CUT_VMS_MAX + 8)

/* vm_count: 0 .. CUT_VMS_MAX; a host without VMs closes channels only. */
void cut_agent_init(struct cut_agent *a, unsigned vm_count, uint64_t lease_ns);
/* One event in; returns how many actions were written to `actions`. */
size_t cut_agent_step(struct cut_agent *a, const struct cut_agent_event *event,
                      uint64_t now_ns,
                      struct cut_agent_action actions[CUT_AGENT_ACTIONS_MAX]);

/* True if a is after b, as serial numbers (RFC 1982). */
static inline bool cut_epoch_after(uint32_t a, uint32_t b)
{
    return (int32_t)(a - b) > 0;
}

#endif
