#ifndef CAPTURE_VM_QEMU_H
#define CAPTURE_VM_QEMU_H

/*
 * The QEMU back end, shared by its own files only:
 *
 *     vm_qemu.c          the vtable; attach, status, resume
 *     vm_qemu_start.c    command line, process, end of the process
 *     vm_qemu_load.c     a VM that waits for its state
 *     vm_qemu_capture.c  prepare, stop, capture
 *     vm_qemu_memory.c     huge pages, for a shorter pause
 *     vm_qemu_save.c     memory and device state into the store
 *     vm_qemu_disk.c     disks: fleecing, and reading them over NBD
 *     vm_qemu_guard.c    no guest hangs in a snapshot that did not complete
 *     vm_qemu_clean.c    finish and abort
 *
 * Files in a VM's state_dir: qmp.sock, rescue.sock (a second monitor, for the
 * watchdog), console.log, qemu.log; while a snapshot is taken nbd.sock and
 * fleece-I.qcow2.
 *
 * Environment: VN_QEMU names another emulator than qemu-system-x86_64.
 */

#include "capture/qemu_stream.h"
#include "capture/qmp.h"
#include "capture/spool.h"
#include "capture/vm_provider.h"

/* Our objects inside QEMU begin with these; followed by the disk's number. */
#define VM_QEMU_FLEECE "vnfl"     /* block node: overlay, old blocks go there */
#define VM_QEMU_JOB    "vnbk"     /* backup job that fills it */
#define VM_QEMU_EXPORT "vnex"     /* its NBD export */
#define VM_QEMU_STREAM "vnstream" /* the migration socket, in the monitor */

/* What RAM blocks may add up to beyond the VM's memory: ROMs, video RAM. */
#define VM_QEMU_MEMORY_SLACK (1ull << 30)

enum vm_qemu_step {
    VM_QEMU_IDLE,
    VM_QEMU_PREPARING, /* began; something may be set up */
    VM_QEMU_PREPARED,
    VM_QEMU_STOPPED,
    VM_QEMU_CAPTURED,
    VM_QEMU_SAVED,
};

struct vm_qemu_disk {
    char *node;    /* root block node of the disk */
    uint64_t size; /* bytes the guest sees */
};

struct vm_qemu {
    struct vm base;
    struct vm_config config; /* own copy; machine and cpu resolved */
    char *state_dir;
    struct qmp *qmp;
    char version[64];      /* "7.2.22" */
    uint64_t memory_bytes; /* as QEMU says */

    int pidfd;
    bool child;         /* ours to reap */
    bool reaped;        /* how it ended is in `end` */
    char end[64];       /* "killed by signal 9" */
    uint64_t log_start; /* where this process's qemu.log begins */

    /* The snapshot under way. */
    enum vm_qemu_step step;
    uint64_t timeout_ns;
    struct vm_qemu_disk disks[VM_DISKS_MAX];
    unsigned disk_count;
    bool nbd_started;
    uint64_t old_bandwidth; /* max-bandwidth to put back; 0: untouched */
    struct spool *spool;
    int keeper_pid; /* 0: none */
    int keeper_pipe;
    uint64_t stop_wall_ns, resume_wall_ns;
    bool hurrying; /* its threads go before all else */
    int calm_nice; /* what they had before */
};

static inline struct vm_qemu *vm_qemu_of(struct vm *vm)
{
    return (struct vm_qemu *)vm;
}

/* "STATE_DIR/NAME"; the caller frees. */
char *vm_qemu_path(const struct vm_qemu *v, const char *name);

/* "qmp:/ABSOLUTE/PATH" of an existing socket; the caller frees. */
char *vm_qemu_rescue_address(const char *socket);

/* ---- vm_qemu_start.c ---------------------------------------------------- */

/* Start the process and connect. incoming: it waits, stopped, for its state.
 * On failure the process is gone and the error says why it ended. */
int vm_qemu_launch(struct vm_qemu *v, bool incoming,
                   struct vn_err *err) VN_MUST_USE;
/* If the process has ended, add to the error how, and what it said last. */
void vm_qemu_explain(struct vm_qemu *v, struct vn_err *err);
/* Make the process end: politely, then not. 0 once it is gone. */
int vm_qemu_end(struct vm_qemu *v, struct vn_err *err) VN_MUST_USE;
/* Reap it if it ended. */
void vm_qemu_reap(struct vm_qemu *v);
/* Run a helper program to its end; its stderr becomes the error. */
int vm_qemu_run(char *const argv[], struct vn_err *err) VN_MUST_USE;

/* ---- vm_qemu.c ---------------------------------------------------------- */

int vm_qemu_query_running(struct vm_qemu *v, bool *ret, char status[32],
                          struct vn_err *err) VN_MUST_USE;
/* Continue unless it runs; *ret_wall_ns may be NULL. */
int vm_qemu_continue(struct vm_qemu *v, uint64_t *ret_wall_ns,
                     struct vn_err *err) VN_MUST_USE;
/* While it stands its threads go before all else; see common/priority.h. */
void vm_qemu_hurry(struct vm_qemu *v, bool on);
/* Set one migration capability. */
int vm_qemu_set_capability(struct vm_qemu *v, const char *name, bool on,
                           struct vn_err *err) VN_MUST_USE;
/* Why the migration failed, as QEMU tells; raises VN_E_PEER. */
int vm_qemu_fail_migration(struct vm_qemu *v, struct vn_err *err);
/* A qmp_want_fn: MIGRATION completed, failed or cancelled. */
bool vm_qemu_want_migration_end(const json_t *event, const void *context);

/* ---- the other files; contracts in vm_provider.h ------------------------ */

int vm_qemu_load_state(struct vm *vm, int fd, struct vn_err *err) VN_MUST_USE;
int vm_qemu_prepare(struct vm_qemu *v, const struct vm_prepare_opts *opts,
                    struct vn_err *err) VN_MUST_USE;
int vm_qemu_stop(struct vm_qemu *v, uint64_t *ret_wall_ns,
                 struct vn_err *err) VN_MUST_USE;
int vm_qemu_capture(struct vm_qemu *v, struct vn_err *err) VN_MUST_USE;

/* Before the instant, while it runs: all pages mapped, huge ones where that is
 * possible, as far as this is allowed and quick. */
void vm_qemu_ready_memory(struct vm_qemu *v);

struct vm_qemu_save {
    struct store_writer *writer;
    const json_t *parent; /* NULL: none */
    json_t *manifest;
    void (*resumed)(void *context);
    void *context;
};
int vm_qemu_save(struct vm_qemu *v, const struct vm_qemu_save *save,
                 struct vm_saved *ret, struct vn_err *err) VN_MUST_USE;
/* Open the image of `object`, with its earlier version as parent if the
 * parent manifest has one of the same size. */
struct image_writer *vm_qemu_open_image(const struct vm_qemu_save *save,
                                        const char *object, uint64_t size,
                                        struct vn_err *err) VN_MUST_USE;
/* Fails when the VM is gone, was cancelled, or stopped while it is saved. */
int vm_qemu_check_running(struct vm_qemu *v, struct vn_err *err) VN_MUST_USE;

/* Which disks has it? Fills in disks[] and disk_count. */
int vm_qemu_find_disks(struct vm_qemu *v, struct vn_err *err) VN_MUST_USE;
/* Overlays and NBD server, before the instant. */
int vm_qemu_disks_prepare(struct vm_qemu *v, struct vn_err *err) VN_MUST_USE;
/* At the instant, stopped: from now on the overlays show it. */
int vm_qemu_disks_freeze(struct vm_qemu *v, struct vn_err *err) VN_MUST_USE;
/* After a migration: make the disks writable again, still stopped. */
int vm_qemu_disks_activate(struct vm_qemu *v, struct vn_err *err) VN_MUST_USE;
/* Read them into the store, while the VM runs; adds to *bytes. */
int vm_qemu_disks_save(struct vm_qemu *v, const struct vm_qemu_save *save,
                       uint64_t *bytes, struct vn_err *err) VN_MUST_USE;

/* Have a process read `stream` to its end if we die. The caller keeps his
 * descriptor. */
int vm_qemu_keeper_start(struct vm_qemu *v, int stream,
                         struct vn_err *err) VN_MUST_USE;
void vm_qemu_keeper_end(struct vm_qemu *v); /* none is fine */
/* Take off write protection that QEMU forgot. Only while no migration is under
 * way. 0 also when there is none. */
int vm_qemu_release(struct vm_qemu *v, struct vn_err *err) VN_MUST_USE;

/* Remove every trace of a snapshot from QEMU and state_dir. Goes on after a
 * failure and reports the first. */
int vm_qemu_clean(struct vm_qemu *v, struct vn_err *err) VN_MUST_USE;
/* The same for a VM whose agent died: waits for a snapshot that is still on its
 * way, and releases a guest that hangs. */
int vm_qemu_clean_leftovers(struct vm_qemu *v, struct vn_err *err) VN_MUST_USE;
int vm_qemu_finish(struct vm_qemu *v, struct vn_err *err) VN_MUST_USE;
int vm_qemu_abort(struct vm_qemu *v, struct vn_err *err) VN_MUST_USE;

#endif
