#ifndef CAPTURE_VM_XEN_INTERNAL_H
#define CAPTURE_VM_XEN_INTERNAL_H

/*
 * The Xen back end, shared by its own files only:
 *
 *     vm_xen.c          the vtable; start, attach, create, end
 *     vm_xen_probe.c    can it work here; where xl is
 *     vm_xen_run.c      xl and other programs
 *     vm_xen_domain.c   a domain as the hypervisor and xenstore show it:
 *                       look, suspend, let run; needs no VM
 *     vm_xen_rescue.c   for the watchdog of an agent that died
 *     vm_xen_load.c     a domain from a stream
 *     vm_xen_console.c  console.log
 *     vm_xen_monitor.c  domains that end or reboot
 *     vm_xen_lock.c     one snapshot a domain, and no migration beside it
 *     vm_xen_saver.c    xc_domain_save in a thread: precopy, and PV's stop
 *     vm_xen_hvm.c      xl save beside us: HVM's stop
 *     vm_xen_reader.c   the stream into memory, in a thread
 *     vm_xen_capture.c  prepare, stop, capture, save, finish, abort
 *     vm_xen_net.c      vifs
 *     vm_xen_cpu.c      what the CPUs of this host can do
 *     vm_xen_loop.c     disk images as block devices
 *     vm_xen_disk.c     disks in a snapshot, each in its way
 *     vm_xen_dm.c       device-mapper snapshots below a running domain
 *
 * Files in a VM's state_dir: domain.cfg (of one that we started), xl.log,
 * console.log; while a snapshot is taken disk-I.snap, disk-I.cow.
 *
 * Environment: VN_XL names another xl; VN_VIF_SCRIPT another script for vifs.
 *
 * Threads: the caller's; monitor and console while the domain lives; saver and
 * reader in a snapshot. What they share is guarded by vm_xen.lock, and every
 * change of it is told by vm_xen.changed. Each thread has handles to the
 * hypervisor and xenstore of its own.
 */

#include "capture/vm_xen.h"
#include "capture/xen_memory.h"
#include "capture/xen_stream.h"

#include <pthread.h>
#include <sys/types.h>
#include <xenctrl.h>
#include <xenstore.h>
#include <xentoollog.h>

#define VM_XEN_CFG           "domain.cfg" /* what xl creates the domain from */
#define VM_XEN_UUID_SIZE     16
#define VM_XEN_UUID_TEXT     37 /* with its NUL */
#define VM_XEN_XL_TIMEOUT_NS (120 * VN_SEC)

/* ---- a domain ---------------------------------------------------------- */

/* Handles of one thread. */
struct vm_xen_host {
    xc_interface *xc;
    struct xs_handle *xs;
};
int vm_xen_host_open(struct vm_xen_host *ret, struct vn_err *err) VN_MUST_USE;
void vm_xen_host_close(struct vm_xen_host *host); /* zeros are fine */
static inline void vn_auto_vm_xen_host(struct vm_xen_host *host)
{
    vm_xen_host_close(host);
}

struct vm_xen_id {
    uint32_t domid;
    uint8_t uuid[VM_XEN_UUID_SIZE];
};
void vm_xen_uuid_text(const uint8_t uuid[VM_XEN_UUID_SIZE],
                      char ret[VM_XEN_UUID_TEXT]);

struct vm_xen_look {
    bool is_hvm; /* HVM or PVH */
    bool is_paused;
    bool is_down; /* shut down, for `reason`: SHUTDOWN_* */
    unsigned reason;
    bool is_suspended; /* is_down with SHUTDOWN_suspend */
    uint64_t pages;    /* it has now */
};
/* VN_E_NOT_FOUND: gone, dying, or another one by now. */
int vm_xen_look(xc_interface *xc, const struct vm_xen_id *id,
                struct vm_xen_look *ret, struct vn_err *err) VN_MUST_USE;
/* "has crashed", for is_down. */
const char *vm_xen_reason_text(unsigned reason);

/* By name; VN_E_NOT_FOUND. */
int vm_xen_find(const struct vm_xen_host *host, const char *name,
                struct vm_xen_id *ret, struct vn_err *err) VN_MUST_USE;

/* A xenstore node: freed by the caller; NULL when it is not there. */
char *vm_xen_read(struct xs_handle *xs, const char *format, ...)
    VN_PRINTF(2, 3);

struct vm_xen_suspend {
    struct vm_xen_id id;
    uint64_t timeout_ns;
    bool (*is_cancelled)(void *context);
    void *context;
};
/*
 * Ask the guest to suspend and wait until it stands. On failure the request is
 * taken back, where the guest had not acknowledged it; *ret_acknowledged: it
 * had, and may suspend at any time later.
 */
int vm_xen_suspend(const struct vm_xen_host *host,
                   const struct vm_xen_suspend *suspend, uint64_t *ret_wall_ns,
                   bool *ret_acknowledged, struct vn_err *err) VN_MUST_USE;
/* Take a suspend request back. False: there is none, or it was acknowledged. */
bool vm_xen_take_back(struct xs_handle *xs, const struct vm_xen_id *id);
/*
 * Make it run, if it is suspended or paused; a suspended one goes on where it
 * was. *ret_stood and *ret_wall_ns (when it ran again) may be NULL. Takes back
 * nothing that the guest may still do.
 */
int vm_xen_let_run(const struct vm_xen_host *host, const struct vm_xen_id *id,
                   bool *ret_stood, uint64_t *ret_wall_ns,
                   struct vn_err *err) VN_MUST_USE;

/* ---- programs ---------------------------------------------------------- */

struct vm_xen_run {
    const char *const *argv; /* argv[0] is searched for, NULL-terminated */
    const char *log;         /* file for what it says; NULL: /dev/null */
    int fd_in;               /* becomes its descriptor 3, if >= 0 */
    struct buf *out;         /* its stdout; NULL: to the log */
    uint64_t timeout_ns;
    bool (*is_cancelled)(void *context); /* NULL: never */
    void *context;
};
/* Run to its end; VN_E_PEER with the reason that it gave. */
int vm_xen_run(const struct vm_xen_run *run, struct vn_err *err) VN_MUST_USE;

/* The same in two steps. */
struct vm_xen_child {
    int pid, pidfd;
    char *log;
    uint64_t log_start;
    const char *name; /* of the program; borrowed */
};
int vm_xen_child_start(struct vm_xen_child *ret, const struct vm_xen_run *run,
                       int fd_out, struct vn_err *err) VN_MUST_USE;
/* Has it ended, within timeout_ms? */
bool vm_xen_child_ended(const struct vm_xen_child *child, int timeout_ms);
/* Reap it, which ended; its failure is an error. */
int vm_xen_child_reap(struct vm_xen_child *child,
                      struct vn_err *err) VN_MUST_USE;
/* SIGTERM, and SIGKILL if that does not help; reaped. */
void vm_xen_child_kill(struct vm_xen_child *child);

/* The path of xl, static; NULL and an error when there is none. */
const char *vm_xen_xl(struct vn_err *err);

/* ---- the VM ------------------------------------------------------------ */

struct vm_xen;
struct vm_xen_saver;
struct vm_xen_hvm;
struct vm_xen_reader;
struct vm_xen_disks;
struct vm_xen_monitor;
struct vm_xen_console;

enum vm_xen_step {
    VM_XEN_IDLE,
    VM_XEN_PREPARING, /* began; something may be set up */
    VM_XEN_PREPARED,
    VM_XEN_STOPPING, /* the guest may suspend at any time */
    VM_XEN_STOPPED,
    VM_XEN_CAPTURED,
    VM_XEN_SAVED,
};

enum vm_xen_type { VM_XEN_PV, VM_XEN_PVH, VM_XEN_HVM };

struct vm_xen {
    struct vm base;
    struct vm_config config; /* own copy */
    char *state_dir;
    bool is_ours; /* started or created by us */
    bool has_domain;
    struct vm_xen_id id;
    struct vm_xen_host host; /* of the caller's thread */
    char *interfaces[VM_NICS_MAX];
    int loop_fds[VM_DISKS_MAX]; /* keep loop devices of ours; -1: none */
    struct vm_xen_monitor *monitor;
    struct vm_xen_console *console;

    pthread_mutex_t lock;
    pthread_cond_t changed; /* CLOCK_MONOTONIC */
    bool is_cancelled;
    bool may_suspend_late; /* acknowledged, but did not in time */
    bool is_snapshotting;  /* the monitor keeps its hands off */
    bool is_rebooting;     /* destroyed, and being created anew */
    bool is_reborn;        /* rebooted: another domain has its name */

    /* The snapshot under way. */
    enum vm_xen_step step;
    enum vm_xen_type type;
    uint64_t timeout_ns;
    json_t *domain_config; /* libxl's */
    int lock_fd, libxl_lock_fd;
    char *lock_path, *libxl_lock_path;
    struct xen_stream *stream;
    struct xen_memory *memory;
    struct vm_xen_reader *reader;
    struct vm_xen_saver *saver;
    struct vm_xen_hvm *hvm;
    struct vm_xen_disks *disks;
    uint64_t stop_wall_ns, resume_wall_ns;
};

static inline struct vm_xen *vm_xen_of(struct vm *vm)
{
    return (struct vm_xen *)vm;
}

/* "STATE_DIR/NAME"; freed by the caller. */
char *vm_xen_path(const struct vm_xen *x, const char *name);
/* Was the call cancelled? Takes the lock; fits is_cancelled members. */
bool vm_xen_is_cancelled(void *vm_xen);
/* Wait for a change, the lock being held, for at most this long; false when
 * time is over. */
bool vm_xen_wait(struct vm_xen *x, uint64_t deadline_ns);
/* The domain's state; a failure names it. A domain that is down for another
 * reason than a suspend is an error too. */
int vm_xen_look_alive(struct vm_xen *x, struct vm_xen_look *ret,
                      struct vn_err *err) VN_MUST_USE;
/* If the domain is gone, that is the error; else it stays as it is. */
void vm_xen_explain(struct vm_xen *x, struct vn_err *err);
/* xl with up to 4 arguments, to xl.log. */
int vm_xen_xl_run(struct vm_xen *x, const char *const *args, int fd_in,
                  struct buf *out, struct vn_err *err) VN_MUST_USE;
/* The domain of this name became ours: look it up, note its rescue address,
 * follow console and end. */
int vm_xen_adopt(struct vm_xen *x, const char *name,
                 struct vn_err *err) VN_MUST_USE;
/* Take over the domain that came out of a reboot, if there was one. */
int vm_xen_refresh(struct vm_xen *x, struct vn_err *err) VN_MUST_USE;
/* Destroy the domain of this name, if there is one. */
int vm_xen_destroy(struct vm_xen *x, struct vn_err *err) VN_MUST_USE;

int vm_xen_load_state(struct vm *vm, int fd, struct vn_err *err) VN_MUST_USE;

const char *vm_xen_nic_interface(struct vm_xen *x, unsigned index,
                                 struct vn_err *err);
/* What the domain, which stands, has put in its vifs' rings has been taken out
 * by the host; waits a bounded time. */
void vm_xen_settle_vifs(struct vm_xen *x);

/* ---- threads that follow a domain -------------------------------------- */

struct vm_xen_console *vm_xen_console_start(const struct vm_xen *x,
                                            struct vn_err *err) VN_MUST_USE;
void vm_xen_console_stop(struct vm_xen_console *console); /* NULL is fine */

/* For a domain of ours, or one whose own monitor a snapshot drove away. */
struct vm_xen_monitor *vm_xen_monitor_start(struct vm_xen *x,
                                            struct vn_err *err) VN_MUST_USE;
void vm_xen_monitor_stop(struct vm_xen_monitor *monitor); /* NULL is fine */

/* ---- a snapshot -------------------------------------------------------- */

/* No other of us snapshots this domain, and libxl does not save it. VN_E_STATE:
 * somebody does. */
int vm_xen_lock(struct vm_xen *x, struct vn_err *err) VN_MUST_USE;
/* From now on xl's save and migrate wait, as does all in xl that asks for the
 * domain's configuration; so do that before. */
int vm_xen_lock_libxl(struct vm_xen *x, struct vn_err *err) VN_MUST_USE;
void vm_xen_unlock_libxl(struct vm_xen *x);
void vm_xen_unlock(struct vm_xen *x);
/* VN_E_STATE when libxl saves or migrates this domain now. */
int vm_xen_no_other_saver(uint32_t domid, struct vn_err *err) VN_MUST_USE;

/* Reads fd (owned) to its end into x->stream. Calls below take x->lock. */
struct vm_xen_reader *vm_xen_reader_start(struct vm_xen *x, int fd,
                                          struct vn_err *err) VN_MUST_USE;
/* All that was written so far is in x->memory, which is frozen then. Only
 * while nobody writes. */
void vm_xen_reader_freeze(struct vm_xen_reader *reader);
/* Go on reading, to nowhere. */
void vm_xen_reader_discard(struct vm_xen_reader *reader);
/* With x->lock held: */
bool vm_xen_reader_is_complete(const struct vm_xen_reader *reader);
bool vm_xen_reader_has_ended(const struct vm_xen_reader *reader);
/* Its error is that the stream ended before it was complete. */
bool vm_xen_reader_ended_early(const struct vm_xen_reader *reader);
uint64_t vm_xen_reader_bytes(const struct vm_xen_reader *reader);
const struct vn_err *vm_xen_reader_error(const struct vm_xen_reader *reader);
/* Ends it, wherever it is. NULL is fine. */
void vm_xen_reader_free(struct vm_xen_reader *reader);

/* Begin xc_domain_save(); live: with precopy. Returns at once. */
struct vm_xen_saver *vm_xen_saver_start(struct vm_xen *x, bool live,
                                        struct vn_err *err) VN_MUST_USE;
/* It is as far as it gets while the domain runs. */
int vm_xen_saver_await_ready(struct vm_xen_saver *saver,
                             struct vn_err *err) VN_MUST_USE;
/* Suspend the domain. */
int vm_xen_saver_stop_domain(struct vm_xen_saver *saver, uint64_t *ret_wall_ns,
                             struct vn_err *err) VN_MUST_USE;
/* Live: let the domain run as soon as its last pages are out. */
int vm_xen_saver_resume(struct vm_xen_saver *saver, uint64_t *ret_wall_ns,
                        struct vn_err *err) VN_MUST_USE;
/* It has ended, and well; so has the reader. */
int vm_xen_saver_await_end(struct vm_xen_saver *saver,
                           struct vn_err *err) VN_MUST_USE;
/* Ends it, wherever it is; the domain may stand then. NULL is fine. */
void vm_xen_saver_free(struct vm_xen_saver *saver);

/* The same by xl save, for HVM; the domain is left paused. */
int vm_xen_hvm_stop_domain(struct vm_xen *x, uint64_t *ret_wall_ns,
                           struct vn_err *err) VN_MUST_USE;
int vm_xen_hvm_await_end(struct vm_xen *x, struct vn_err *err) VN_MUST_USE;
void vm_xen_hvm_free(struct vm_xen_hvm *hvm); /* NULL is fine */

struct vm_xen_save {
    struct store_writer *writer;
    const json_t *parent; /* NULL: none */
    json_t *manifest;
    void (*resumed)(void *context);
    void *context;
};

int vm_xen_prepare(struct vm_xen *x, const struct vm_prepare_opts *opts,
                   struct vn_err *err) VN_MUST_USE;
int vm_xen_stop(struct vm_xen *x, uint64_t *ret_wall_ns,
                struct vn_err *err) VN_MUST_USE;
int vm_xen_capture(struct vm_xen *x, struct vn_err *err) VN_MUST_USE;
int vm_xen_save(struct vm_xen *x, const struct vm_xen_save *save,
                struct vm_saved *ret, struct vn_err *err) VN_MUST_USE;
int vm_xen_finish(struct vm_xen *x, struct vn_err *err) VN_MUST_USE;
int vm_xen_abort(struct vm_xen *x, struct vn_err *err) VN_MUST_USE;

/* ---- disks ------------------------------------------------------------- */

/* Images as block devices: "PATH.dev" for each disk of the configuration. */
int vm_xen_disks_attach(struct vm_xen *x, struct vn_err *err) VN_MUST_USE;
void vm_xen_disks_detach(struct vm_xen *x);
/* The block device of an image: "PATH.dev", or PATH if it is one. Freed by the
 * caller, as the next. */
char *vm_xen_disk_device(const char *image);
/* "/dev/loop3" below a mapped device of ours; NULL: it is none. */
char *vm_xen_dm_base(dev_t device);

/* Which disks has it, and how can each be captured? From x->domain_config.
 * *ret_must_stop: one can only be copied while the domain stands. */
int vm_xen_disks_prepare(struct vm_xen *x, bool *ret_must_stop,
                         struct vn_err *err) VN_MUST_USE;
/* Between suspend and resume. */
int vm_xen_disks_freeze(struct vm_xen *x, struct vn_err *err) VN_MUST_USE;
/* Into the store: of_standing: those that need the domain to stand; else the
 * others. Adds to *bytes. */
int vm_xen_disks_save(struct vm_xen *x, const struct vm_xen_save *save,
                      bool of_standing, uint64_t *bytes,
                      struct vn_err *err) VN_MUST_USE;
/* Nothing of the snapshot is left. */
void vm_xen_disks_release(struct vm_xen *x);

#endif
