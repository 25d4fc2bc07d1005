#ifndef SIM_SIM_H
#define SIM_SIM_H

/*
 * The simulator of the cut: a whole network of hosts in one process, in
 * virtual time, everything random drawn from one seed.
 *
 * Real code: coord/cut_coord.c, coord/cut_agent.c, violin's switch. Played:
 * VMs, the underlay, control connections, workers, watchdog, the store, and
 * every fault. docs/CUT.md says what is checked and why that suffices.
 *
 *   sim_queue.c  time, events, random numbers, trace
 *   sim_world.c  a run from seed to verdict; which faults happen when
 *   sim_vm.c     VMs: traffic, pauses, capture; their watchdog
 *   sim_net.c    switches and the underlay
 *   sim_agent.c  an agent: its machine, its workers
 *   sim_coord.c  coordinators and their connections
 *   sim_check.c  the checks
 *   sim_cut.c    the command
 */

#include "coord/cut.h"
#include "violin/switch.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SIM_HOSTS_MAX    5u
#define SIM_HOST_VMS_MAX 4u
#define SIM_VMS_MAX      (SIM_HOSTS_MAX * SIM_HOST_VMS_MAX)
#define SIM_MSGS_MAX     768u /* of a run */
#define SIM_COORDS_MAX   12u  /* of a run */
#define SIM_QUEUE_MAX    SIM_MSGS_MAX
#define SIM_TASKS_MAX    64u
#define SIM_NOBODY       255u
#define SIM_US           UINT64_C(1000)
#define SIM_MS           UINT64_C(1000000)

struct sim;

/* ---- time, events, random (sim_queue.c) --------------------------------- */

struct sim_arg {
    unsigned who;   /* host, VM or coordinator */
    unsigned other; /* second party, kind, phase */
    uint32_t epoch;
    uint32_t gen; /* incarnation that the event is meant for */
    uint32_t msg;
    uint32_t before; /* of a marker */
    uint64_t sent;
    void *p;
};
typedef void sim_fn(struct sim *s, const struct sim_arg *arg);

struct sim_event {
    uint64_t at_ns;
    uint64_t order; /* events of one instant happen in order of creation */
    sim_fn *fn;
    struct sim_arg arg;
};

void sim_after(struct sim *s, uint64_t wait_ns, sim_fn *fn,
               const struct sim_arg *arg);
void sim_at(struct sim *s, uint64_t at_ns, sim_fn *fn,
            const struct sim_arg *arg);
/* Take the earliest event that is due by until_ns; false: none. */
bool sim_next(struct sim *s, uint64_t until_ns, struct sim_event *ret);

uint64_t sim_random(struct sim *s);
uint64_t sim_between(struct sim *s, uint64_t from, uint64_t to); /* both in */
bool sim_chance(struct sim *s, unsigned per_mille);

/* A line of the trace; kept (and formatted) only when tracing. */
#define sim_trace(s, ...)                                                      \
    do {                                                                       \
        if ((s)->tracing)                                                      \
            sim_trace_line((s), __VA_ARGS__);                                  \
    } while (0)
void sim_trace_line(struct sim *s, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void sim_trace_print(const struct sim *s);
/* The first failure of a run is its verdict. */
void sim_fail(struct sim *s, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* ---- deliberate faults of the protocol: does the checker notice? --------- */

enum sim_mutant {
    SIM_MUTANT_NONE,
    SIM_MUTANT_FUTURE,       /* frames lose their epoch on the underlay */
    SIM_MUTANT_NO_RECORD,    /* frames in transit are not recorded */
    SIM_MUTANT_RECORD_TWICE, /* each is recorded twice */
    SIM_MUTANT_NO_HOLD,      /* deliveries go on while VMs are stopped */
    SIM_MUTANT_NO_STOP,      /* VMs run through the cut */
    SIM_MUTANT_NO_DRAIN,     /* what a stopped VM sent gets the new epoch */
    SIM_MUTANT_NO_RELEASE,   /* held frames stay held */
    SIM_MUTANT_NO_CLOSE,     /* records are taken before channels closed */
    SIM_MUTANT_SAVED_EARLY,  /* SAVED is sent when the VMs run again */
    SIM_MUTANT_SAVED_FAILED, /* SAVED is sent in place of FAILED */
    SIM_MUTANT_NO_RESUME,    /* aborting leaves VMs as they are */
    SIM_MUTANT_NO_WATCHDOG,  /* a dead agent's VMs stay as they are */
    SIM_MUTANT_NO_GUARD,     /* nobody asks if the watchdog was faster */
    SIM_MUTANT_DEAF_TO_LOSS, /* agents notice no lost coordinator, no lease */
    SIM_MUTANT_COUNT,
};
const char *sim_mutant_name(enum sim_mutant mutant);

/* ---- the world ---------------------------------------------------------- */

struct sim_msg {
    uint8_t src;
    uint8_t dst;      /* SIM_NOBODY: broadcast */
    uint32_t src_seq; /* how many its sender sent before */
    uint32_t tx_epoch[SIM_HOSTS_MAX];
    uint8_t transmits[SIM_HOSTS_MAX]; /* to that host's switch */
    uint8_t arrivals[SIM_HOSTS_MAX];  /* there, duplicates and all */
};

struct sim_vm_state {
    uint32_t sent;
    uint8_t received[SIM_MSGS_MAX];
    uint32_t next_seq[SIM_VMS_MAX]; /* above the last from that VM */
};

/* What a host adds to a manifest. Lives until the end of the run. */
struct sim_fragment {
    struct sim_fragment *next;
    unsigned host;
    uint32_t epoch;
    unsigned vm_count;
    struct {
        bool captured, durable;
        struct sim_vm_state state;
        uint32_t unread[SIM_QUEUE_MAX]; /* delivered, not consumed */
        unsigned unread_count;
    } vms[SIM_HOST_VMS_MAX];
    bool given_up;   /* by the agent, before it said SAVED */
    uint32_t before; /* the switch's epoch when it was armed */
    bool closed;
    struct sim_record {
        uint32_t msg;
        uint8_t port;
    } * records;
    unsigned record_count;
    uint8_t arrivals[SIM_MSGS_MAX]; /* when records were read */
    uint64_t missing, dropped, unsettled;
    uint64_t dropped_ever; /* by this host, in earlier cuts too */
};

struct sim_queue {
    uint32_t ids[SIM_QUEUE_MAX];
    unsigned head, count;
};

struct sim_task {
    int kind; /* enum cut_agent_action_kind */
    uint32_t epoch;
    unsigned vm; /* global index */
};
struct sim_worker {
    struct sim_task tasks[SIM_TASKS_MAX];
    unsigned head, count;
    bool busy;
    unsigned phase;
};

struct sim_vm {
    unsigned host, port;
    bool dead, paused, cancelled;
    uint64_t paused_at_ns;
    struct sim_vm_state state;
    struct sim_queue tx, rx; /* what it sent, what it has to read */
    bool reading;
    struct sim_worker worker;
    bool watchdog_armed, watchdog_fired;
    uint32_t watchdog_gen;
};

struct sim_host {
    struct sim *sim;
    unsigned index, first_vm, vm_count;
    /* the agent */
    bool agent_up;
    uint32_t agent_gen;
    uint32_t highest_epoch; /* as it would find it after a restart */
    struct cut_agent cut;
    unsigned coordinator; /* SIM_NOBODY: none */
    uint64_t tick_at_ns;
    uint64_t stalled_until_ns;
    struct sim_worker switcher, closer;
    struct sim_fragment *fragment;
    /* the switch */
    struct vsw *sw; /* NULL: it is down */
    uint32_t switch_gen;
    uint32_t armed_epoch; /* by the agent's connection; is_armed */
    bool is_armed, channels_closed;
    uint32_t marked[SIM_HOSTS_MAX]; /* newest marker of each peer */
    uint64_t markers_ns;            /* when all of this epoch were there */
    struct sim_record *records;
    unsigned record_count, record_capacity;
    uint64_t dropped_before; /* counted by earlier cuts and switches */
    uint64_t switch_tick_at_ns;
    uint32_t excused; /* messages below: a crash of the switch took them */
    uint64_t hold_until_ns;
    int trap; /* enum cut_agent_state: a fault when it is entered; 0: none */
};

struct sim_coord {
    bool alive, watched; /* watched: its success is demanded */
    uint32_t epoch;
    struct cut_coord machine;
    uint64_t tick_at_ns;
    bool committed; /* the manifest is durable */
    struct sim_fragment *fragments[SIM_HOSTS_MAX];
    struct sim_conn {
        bool broken, opened;
        uint64_t to_agent_ns, to_coord_ns; /* last delivery: in order */
    } conns[SIM_HOSTS_MAX];
};

struct sim_config {
    bool noisy_underlay, process_faults;
    unsigned host_count;
    uint32_t first_epoch;
    unsigned loss, duplication, reordering; /* per mille of frames */
    unsigned fail, broadcast;               /* per mille */
    uint64_t underlay_ns, underlay_jitter_ns, control_ns, vm_op_ns;
    uint64_t tx_ns; /* until the switch reads what a VM sent */
    uint64_t send_every_ns, read_ns, settle_ns, close_ns;
    uint64_t patience_ns; /* of the watchdog */
    size_t hold_bytes;
    bool stop_mode, guard_by_machine;
    bool close_after_markers; /* patience begins with the last marker */
    unsigned cuts;
};

struct sim {
    uint64_t seed, random, now_ns, order;
    enum sim_mutant mutant;
    struct sim_config config;
    struct sim_event *heap;
    size_t heap_count, heap_capacity;
    unsigned vm_count, coord_count;
    struct sim_host hosts[SIM_HOSTS_MAX];
    struct sim_vm vms[SIM_VMS_MAX];
    struct sim_coord coords[SIM_COORDS_MAX];
    struct sim_msg msgs[SIM_MSGS_MAX];
    uint32_t msg_count;
    uint32_t msg_limit; /* what traffic may use up for now */
    uint64_t channel_ns[SIM_HOSTS_MAX][SIM_HOSTS_MAX]; /* last arrival */
    struct sim_fragment *fragments;
    uint64_t touches;
    bool traffic, calm; /* calm: no more process faults */
    bool vm_died;
    /* the verdict */
    bool failed;
    char why[256];
    struct sim_stats {
        unsigned committed, aborted;
        uint64_t events, recorded, missing, dropped, triggers;
    } stats;
    bool tracing, tracing_all; /* all: as it happens, to stderr */
    char (*trace)[160];
    unsigned trace_head;
};

#define SIM_TRACE_LINES 60u

/* Run one seed; s is filled in anew. Afterwards s->failed says it. */
void sim_run(struct sim *s, uint64_t seed, bool process_faults,
             enum sim_mutant mutant, bool tracing);
void sim_done(struct sim *s);

/* A fault of a random kind, at host arg->who. */
sim_fn sim_fault;

/* ---- sim_vm.c ----------------------------------------------------------- */

void sim_vm_start_traffic(struct sim *s, unsigned vm);
/* From the switch: a frame for the VM to read. */
void sim_vm_deliver(struct sim *s, unsigned vm, uint32_t msg);
void sim_vm_drain(struct sim *s, unsigned vm); /* what it sent, to the switch */
void sim_vm_pause(struct sim *s, unsigned vm);
void sim_vm_resume(struct sim *s, unsigned vm);
void sim_vm_arm_watchdog(struct sim *s, unsigned vm);
void sim_vm_die(struct sim *s, unsigned vm);
bool sim_is_for(const struct sim *s, uint32_t msg, unsigned vm);
/* One phase of the task at the head of the VM's worker. */
sim_fn sim_vm_task;

/* ---- sim_net.c ---------------------------------------------------------- */

#define SIM_FRAME_SIZE 60u
void sim_switch_up(struct sim *s, unsigned host);
void sim_switch_crash(struct sim *s, unsigned host);
void sim_switch_from_vm(struct sim *s, unsigned vm, uint32_t msg);
/* After every call into a switch: its invariants, its timer. */
void sim_switch_touched(struct sim *s, unsigned host);
uint64_t sim_switch_dropped(const struct sim_host *h);

/* ---- sim_agent.c -------------------------------------------------------- */

void sim_agent_up(struct sim *s, unsigned host);
void sim_agent_crash(struct sim *s, unsigned host);
void sim_agent_feed(struct sim *s, unsigned host,
                    const struct cut_agent_event *event);
/* arg: other enum sim_message, msg the coordinator. */
sim_fn sim_agent_message;
/* The result of a task, on its way from the worker to the loop. */
void sim_agent_report(struct sim *s, unsigned host, int kind, unsigned vm,
                      uint32_t epoch);
void sim_worker_post(struct sim *s, unsigned host, struct sim_worker *worker,
                     const struct sim_task *task);
/* The task at its head is over. */
void sim_worker_done(struct sim *s, unsigned host, struct sim_worker *worker);
/* Call its task's next phase after a while. */
void sim_worker_continue(struct sim *s, unsigned host,
                         struct sim_worker *worker, uint64_t wait_ns);
sim_fn sim_switch_task, sim_close_task;

/* ---- sim_coord.c -------------------------------------------------------- */

enum sim_message {
    SIM_PREPARE,
    SIM_CUT,
    SIM_COMMIT,
    SIM_ABORT,
    SIM_KEEPALIVE,
    SIM_BYE, /* the coordinator's process ended well */
    SIM_READY,
    SIM_CUT_DONE,
    SIM_SAVED,
    SIM_FAILED,
};

unsigned sim_coord_start(struct sim *s); /* its number */
void sim_coord_crash(struct sim *s, unsigned coord);
/* The connection breaks; either end may notice late or not at all. */
void sim_conn_break(struct sim *s, unsigned coord, unsigned host);
void sim_send_to_coord(struct sim *s, unsigned host, unsigned coord,
                       enum sim_message kind, uint32_t epoch,
                       struct sim_fragment *fragment);
bool sim_coord_busy(const struct sim *s);

/* ---- sim_check.c -------------------------------------------------------- */

void sim_check_manifest(struct sim *s, const struct sim_coord *coord);
void sim_check_end(struct sim *s);

#endif
