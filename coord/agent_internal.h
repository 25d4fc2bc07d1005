#ifndef COORD_AGENT_INTERNAL_H
#define COORD_AGENT_INTERNAL_H

/*
 * Shared by agent.c (daemon, messages), agent_net.c (bringing networks up and
 * down, restore) and agent_cut.c (the cut). All fields belong to the loop's
 * thread, except where a task hands them to a worker: while a VM's task runs,
 * its `vm` and the fields under "the cut under way" are the worker's.
 */

#include "capture/vm.h"
#include "common/clock.h"
#include "coord/agent.h"
#include "coord/cut.h"
#include "coord/vne.h"
#include "coord/watchdog.h"
#include "coord/wire.h"
#include "coord/worker.h"
#include "violin/client.h"

#include <sys/queue.h>

#define AGENT_SETTLE_MS 100 /* for delivered frames to be consumed */
/* Until every other host has cut (it may be slow; one in trouble fails, and the
 * coordinator ends this), then for frames still on the underlay. */
#define AGENT_MARKER_MS   60000
#define AGENT_PATIENCE_MS 500
#define AGENT_STEP_NS     (30 * VN_SEC)
/* A VM stands this long at most; past it the cut is given up. */
#define AGENT_PAUSE_LIMIT_NS (5 * VN_SEC)
#define AGENT_STOP_MODE_LIMIT_NS                                               \
    (600 * VN_SEC)                   /* memory is saved meanwhile              \
                                      */
#define AGENT_WATCHDOG_EXTRA_MS 2000 /* its patience is that much longer */

struct agent_net;

struct agent_vm {
    struct agent_net *net;
    unsigned index;
    const char *name; /* config.name */
    char *label;      /* "NETWORK/VM", for the watchdog */
    struct vm_config config;
    char *state_dir;
    char *ports[VM_NICS_MAX];      /* names at the switch: "a.0" */
    char *interfaces[VM_NICS_MAX]; /* of a VM_NIC_VIF: what its port is on */
    struct vm *vm;                 /* NULL until brought up */
    bool ours;                     /* started by an agent, not attached to */
    struct worker *worker;
    bool brought_up;
    uint64_t resume_wall_ns; /* of a restore */

    /* The cut under way. */
    json_t *fragment; /* a manifest with this VM's objects */
    struct vm_saved saved;
    struct store_counts counts;
    uint64_t stop_wall_ns;
    bool resumed_told;
};

enum agent_net_phase {
    AGENT_NET_STARTING, /* VMs being started or loaded */
    AGENT_NET_LOADED,   /* restored and stopped, waiting for the barrier */
    AGENT_NET_RUNNING,
    AGENT_NET_BROKEN, /* taken up again without all of its parts */
    AGENT_NET_STOPPING,
};

struct agent_net {
    LIST_ENTRY(agent_net) link;
    struct agent *agent;
    struct vne *vne;  /* owned; the VMs' configs of this host are taken out */
    json_t *vne_json; /* the same, whole */
    const char *name; /* vne->name */
    uint32_t vni;
    enum agent_net_phase phase;
    struct agent_vm *vms;
    unsigned vm_count;
    struct worker *switcher; /* violind calls, in order */
    struct worker *closer;   /* waits for channels to close */
    unsigned pending;        /* tasks of the operation under way */
    struct vn_err failure;   /* its first failure; code 0: none */
    struct wire *requester;  /* who waits for its end; NULL: nobody */
    struct wire *owner;      /* who brings it up; NULL: lost or long ago */
    struct store *store;     /* restore: where from; cut: where to */
    json_t *manifest;        /* restore: what; cut: the parent or NULL */
    char *domain;            /* cut: of what goes to the store, or NULL */
    bool restoring;
    struct event *look; /* agent_ports.c; NULL: nothing to follow */
    unsigned looks;     /* under way */

    /* The cut under way. */
    struct cut_agent cut;
    struct wire *coordinator; /* NULL: none, or lost */
    struct event *timer;
    enum vm_mode mode;
    bool closing;    /* the closer still works on the fields below */
    json_t *records; /* manifest fragment with recorded frames */
    struct violin_report report;
};

/* A coordinator's connection. */
struct agent_conn {
    LIST_ENTRY(agent_conn) link;
    struct agent *agent;
    struct wire *wire;
};

struct agent {
    char *name;
    bool may_hurry; /* has the right to be urgent */
    int calm_nice;  /* of what is not urgent */
    char *state_dir;
    struct event_base *base;
    struct mailbox *mailbox;
    struct wire_tls *tls;
    struct wire_listener **listeners;
    size_t listener_count;
    struct violin_client *violin;
    struct watchdog *watchdog;
    struct event *signals[2];
    LIST_HEAD(, agent_net) nets;
    LIST_HEAD(, agent_conn) conns;
};

/* A piece of blocking work: run() on a worker, then done() on the loop. */
struct agent_task {
    struct agent_net *net;
    struct agent_vm *vm; /* NULL: the switch's */
    uint32_t epoch;
    int (*run)(struct agent_task *task, struct vn_err *err);
    void (*done)(struct agent_task *task); /* frees nothing of the task */
    int success_event;                     /* agent_cut.c: what to report */
    int rc;
    struct vn_err err;
};
/* Copies *task; posts it to the worker. */
void agent_task_post(struct worker *worker, const struct agent_task *task);

/* ---- agent.c ---- */

/* The calling thread's priority (common/priority.h): urgent while VMs stand,
 * calm else, `nicer` than the agent began with. */
void agent_urgent(const struct agent *agent, bool urgent);
void agent_calm(const struct agent *agent, int nicer);

void agent_reply(struct wire *wire, const char *type, json_t *body);
void agent_reply_failed(struct wire *wire, const char *of,
                        const struct vn_err *why);
struct agent_net *agent_find_net(struct agent *agent, const char *name);

/* ---- agent_net.c: each handles one message; errors become "failed" ---- */

int agent_net_up(struct agent *agent, struct wire *wire, const json_t *message,
                 struct vn_err *err) VN_MUST_USE;
int agent_net_down(struct agent *agent, struct wire *wire,
                   const json_t *message, struct vn_err *err) VN_MUST_USE;
int agent_net_restore(struct agent *agent, struct wire *wire,
                      const json_t *message, struct vn_err *err) VN_MUST_USE;
int agent_net_start(struct agent *agent, struct wire *wire,
                    const json_t *message, struct vn_err *err) VN_MUST_USE;
bool agent_net_has_vm_on(const struct vne *vne, const char *host);
/* This host's part of a VNE, which it takes over; in the agent's list. The host
 * has a VM in it. */
struct agent_net *agent_net_new(struct agent *agent, struct vne *vne,
                                json_t *vne_json, bool restoring);
/* Stop or let go its VMs, remove it from the switch, answer, free. */
void agent_net_tear_down(struct agent_net *net);
/* Keep the first failure of the operation under way. */
void agent_net_note_failure(struct agent_net *net,
                            const struct agent_task *task);
/* Who asked is gone: a half-restored network is taken down. */
void agent_net_wire_lost(struct agent_net *net, struct wire *wire);
json_t *agent_net_describe(const struct agent_net *net);
void agent_net_free(struct agent_net *net);

/* ---- agent_ports.c: on the VM's worker, but where it says otherwise ---- */

/* Before the VM is there: a port for each NIC, but for those whose interface
 * comes with the VM. Afterwards the VM's ends are ours no longer. */
int agent_ports_add(struct agent_vm *vm, struct vn_err *err) VN_MUST_USE;
void agent_ports_handed_over(struct agent_vm *vm);
/* When the VM is there: ports on the interfaces that it brought. */
int agent_ports_add_interfaces(struct agent_vm *vm,
                               struct vn_err *err) VN_MUST_USE;
/* The switch has its ports already: learn what they are on. */
int agent_ports_recall(struct agent_vm *vm, struct vn_err *err) VN_MUST_USE;
/* Put the frames that were in flight to each NIC before all others. */
int agent_ports_replay(struct agent_vm *vm, struct vn_err *err) VN_MUST_USE;
/* Failures are logged only. */
void agent_ports_remove(struct agent_vm *vm);
/* On the loop: from now on ports go with interfaces that come anew, as those of
 * a VM that reboots. Until agent_net_free(), which calls the second. */
void agent_ports_follow(struct agent_net *net);
void agent_ports_unfollow(struct agent_net *net);

/* ---- agent_adopt.c ---- */

/* Keep on disk what another agent needs to take this network up; forget. */
void agent_adopt_remember(const struct agent_net *net);
void agent_adopt_forget(const struct agent_net *net);
/* Take up what an earlier agent left; at the start. */
void agent_adopt_all(struct agent *agent);

/* ---- agent_cut.c ---- */

void agent_cut_init(struct agent_net *net, uint32_t epoch);
void agent_cut_done(struct agent_net *net);
int agent_cut_message(struct agent *agent, struct wire *wire,
                      const json_t *message, struct vn_err *err) VN_MUST_USE;
void agent_cut_wire_lost(struct agent_net *net, struct wire *wire);
void agent_cut_trigger(struct agent_net *net, uint32_t epoch);
/* From within a task that goes on: an event for the machine. */
void agent_cut_report(const struct agent_task *task,
                      enum cut_agent_event_kind kind);
/* Nothing of a cut is under way. */
bool agent_cut_idle(const struct agent_net *net);

/* ---- agent_steps.c: one action of coord/cut.h each, on a worker ---- */

int agent_step_prepare_vm(struct agent_task *task,
                          struct vn_err *err) VN_MUST_USE;
int agent_step_stop_vm(struct agent_task *task, struct vn_err *err) VN_MUST_USE;
int agent_step_capture_vm(struct agent_task *task,
                          struct vn_err *err) VN_MUST_USE;
int agent_step_save_vm(struct agent_task *task, struct vn_err *err) VN_MUST_USE;
int agent_step_finish_vm(struct agent_task *task,
                         struct vn_err *err) VN_MUST_USE;
int agent_step_abort_vm(struct agent_task *task,
                        struct vn_err *err) VN_MUST_USE;
int agent_step_arm_switch(struct agent_task *task,
                          struct vn_err *err) VN_MUST_USE;
int agent_step_hold_ports(struct agent_task *task,
                          struct vn_err *err) VN_MUST_USE;
int agent_step_flip_ports(struct agent_task *task,
                          struct vn_err *err) VN_MUST_USE;
int agent_step_release_ports(struct agent_task *task,
                             struct vn_err *err) VN_MUST_USE;
int agent_step_close_channels(struct agent_task *task,
                              struct vn_err *err) VN_MUST_USE;
int agent_step_abort_switch(struct agent_task *task,
                            struct vn_err *err) VN_MUST_USE;
int agent_step_finish_switch(struct agent_task *task,
                             struct vn_err *err) VN_MUST_USE;

#endif
