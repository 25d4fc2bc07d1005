#ifndef COORD_CUT_H
#define COORD_CUT_H

/*
 * The cut: two pure state machines, the coordinator's and an agent's.
 *
 * Events go in with the time, actions come out; the caller performs them and
 * reports what became of them as further events. No socket, clock, thread or
 * allocation inside; the simulator drives the same code. Protocol (DESIGN
 * section 4):
 *
 *   coordinator      agent (each host)            its VMs and switch
 *   PREPARE(e) ----> prepare every VM, arm
 *        <---- READY
 *   CUT(e) --------> hold all -> stop all -> cut all ports
 *                    -> capture each -> release each's ports
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
    CUT_COORD_TICK,          /* time passed: deadlines */
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
    CUT_COORD_SEND_ABORT,
    CUT_COORD_COMMIT, /* commit the manifest; report COMMITTED or _FAILED */
};
struct cut_coord_action {
    enum cut_coord_action_kind kind;
    unsigned host;
};

struct cut_coord {
    enum cut_coord_state state;
    uint32_t epoch;
    unsigned host_count;
    uint64_t step_timeout_ns; /* for PREPARE and CUT */
    uint64_t save_timeout_ns;
    uint64_t deadline_ns; /* of the present state; UINT64_MAX: none */
    struct {
        bool ready, cut_done, saved, told; /* told: PREPARE went out */
        bool lost;
    } hosts[CUT_HOSTS_MAX];
    char reason[CUT_REASON_SIZE]; /* why it was aborted */
    unsigned culprit;             /* host, or CUT_HOSTS_MAX */
};

/* At most this many actions come out of one step. */
#define CUT_COORD_ACTIONS_MAX (2 * CUT_HOSTS_MAX + 1)

void cut_coord_init(struct cut_coord *c, uint32_t epoch, unsigned host_count,
                    uint64_t step_timeout_ns, uint64_t save_timeout_ns);
/* One event in; returns how many actions were written to `actions`. Once
 * COMMITTING, nothing but the commit's own result ends it: a lost host can no
 * longer abort what may be durable. */
size_t cut_coord_step(struct cut_coord *c, const struct cut_coord_event *event,
                      uint64_t now_ns,
                      struct cut_coord_action actions[CUT_COORD_ACTIONS_MAX]);

/* ---- agent -------------------------------------------------------------- */

enum cut_agent_state {
    CUT_AGENT_IDLE,
    CUT_AGENT_PREPARING, /* VMs being prepared, switch being armed */
    CUT_AGENT_READY,
    CUT_AGENT_HOLDING,   /* deliveries held, waiting to settle */
    CUT_AGENT_STOPPING,  /* until every VM stands */
    CUT_AGENT_FLIPPING,  /* ports drain and move to the epoch */
    CUT_AGENT_CAPTURING, /* until every VM runs again */
    CUT_AGENT_SAVING,
    CUT_AGENT_SAVED,    /* told the coordinator; waits for COMMIT */
    CUT_AGENT_ABORTING, /* VMs being resumed and cleaned */
};

enum cut_agent_event_kind {
    CUT_AGENT_PREPARE,     /* message; epoch */
    CUT_AGENT_CUT,         /* message; epoch */
    CUT_AGENT_COMMIT,      /* message; epoch */
    CUT_AGENT_ABORT,       /* message; epoch, reason */
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
    CUT_AGENT_DO_CAPTURE,       /* vm_capture; then begin vm_save */
    CUT_AGENT_DO_RELEASE,       /* violin_release of the VM's ports */
    CUT_AGENT_DO_CLOSE,         /* violin_await_closed, store the records */
    CUT_AGENT_DO_FINISH,        /* vm_finish */
    CUT_AGENT_DO_ABORT_VM,      /* vm_cancel, then vm_abort: it runs again */
    CUT_AGENT_DO_ABORT_SWITCH,  /* violin_abort */
    CUT_AGENT_DO_FINISH_SWITCH, /* violin_finish */
    CUT_AGENT_SEND_READY,
    CUT_AGENT_SEND_CUT_DONE,
    CUT_AGENT_SEND_SAVED,
    CUT_AGENT_SEND_FAILED, /* reason in the machine */
};
struct cut_agent_action {
    enum cut_agent_action_kind kind;
    unsigned vm;
};

struct cut_agent {
    enum cut_agent_state state;
    uint32_t epoch;         /* of the cut under way */
    uint32_t highest_epoch; /* ever prepared; serial number */
    unsigned vm_count;
    uint64_t lease_ns;    /* silence of the coordinator before it aborts */
    uint64_t deadline_ns; /* UINT64_MAX: none */
    bool armed, held, flipped, closed;
    struct {
        bool prepared, stopped, captured, resumed, saved, dirty;
    } vms[CUT_VMS_MAX];
    char reason[CUT_REASON_SIZE];
};

#define CUT_AGENT_ACTIONS_MAX (2 * CUT_VMS_MAX + 8)

void cut_agent_init(struct cut_agent *a, unsigned vm_count, uint64_t lease_ns);
size_t cut_agent_step(struct cut_agent *a, const struct cut_agent_event *event,
                      uint64_t now_ns,
                      struct cut_agent_action actions[CUT_AGENT_ACTIONS_MAX]);

/* True if a is after b, as serial numbers (RFC 1982). */
static inline bool cut_epoch_after(uint32_t a, uint32_t b)
{
    return (int32_t)(a - b) > 0;
}

#endif
