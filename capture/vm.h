#ifndef CAPTURE_VM_H
#define CAPTURE_VM_H

/*
 * A virtual machine on this host, as callers see it. Back ends implement
 * capture/vm_provider.h: vm_qemu (QMP), vm_xen, vm_sim (tests).
 *
 * Calls block and belong to one thread at a time (a VM's own thread in the
 * agent), except vm_name(), vm_pid() and vm_cancel(). Life:
 *
 *     start | attach | create, load_state (stopped)
 *     prepare -> stop -> capture -> save -> finish      a snapshot
 *           \________\_______\_________\-> abort        runs on, cleaned up
 *     resume                                            after load_state: run
 *     shutdown                                          kill it
 */

#include "common/auto.h"
#include "common/err.h"
#include "store/store.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define VM_DISKS_MAX  16
#define VM_NICS_MAX   8
#define VM_NAME_MAX   63
#define VM_CPUS_MAX   255
#define VM_ARGS_MAX   64   /* extra_args */
#define VM_TEXT_MAX   4095 /* bytes in any string of a configuration */
#define VM_MEMORY_MAX (16ull << 40)

enum vm_mode {
    VM_MODE_AUTO,    /* the best that this VM can do */
    VM_MODE_COW,     /* QEMU background-snapshot: milliseconds of pause */
    VM_MODE_PRECOPY, /* Xen log-dirty */
    VM_MODE_STOP,    /* always right: stop, save, continue */
};
const char *vm_mode_name(enum vm_mode mode);
int vm_mode_parse(const char *text, enum vm_mode *ret,
                  struct vn_err *err) VN_MUST_USE;

/* One NIC: where its frames come out is the caller's business (an fd whose
 * other end is a switch port), the user's (tap, unix sockets), or the back
 * end's, which then makes an interface on the host (vif). */
struct vm_nic {
    char *mac;   /* "52:54:00:12:34:56" */
    char *model; /* NULL: virtio-net-pci */
    enum { VM_NIC_FD, VM_NIC_TAP, VM_NIC_UNIX, VM_NIC_VIF } kind;
    int fd;           /* VM_NIC_FD: passed on at start; -1 else */
    char *tap;        /* VM_NIC_TAP: interface name */
    char *unix_local; /* VM_NIC_UNIX: the VM's and the switch's end */
    char *unix_remote;
};

struct vm_disk {
    char *path;   /* image file */
    char *format; /* "raw" or "qcow2" */
};

/* What a VM is. Strings owned by the struct; vm_config_done() frees all. */
struct vm_config {
    char *name;
    char *backend; /* "qemu" or "xen"; NULL: "qemu" */
    char *type;    /* Xen: "pvh", "pv" or "hvm"; NULL: "pvh" */
    uint64_t memory_bytes;
    uint32_t cpus;
    char *machine; /* NULL: the back end's default, pinned in the manifest */
    char *cpu;     /* NULL: default, pinned */
    char *accel;   /* NULL: "tcg" */
    char *kernel, *initrd, *append; /* NULL: boots from disk 0 */
    char *qmp;                      /* attach: the running VM's QMP socket */
    char *domain;                   /* attach: the running Xen domain's name */
    char **extra_args; /* more arguments for the emulator, NULL-terminated */
    struct vm_nic nics[VM_NICS_MAX];
    unsigned nic_count;
    struct vm_disk disks[VM_DISKS_MAX];
    unsigned disk_count;
};
void vm_config_done(struct vm_config *config);
/* Others run it and we attach to it; else we start it. */
bool vm_config_is_attached(const struct vm_config *config);
/* As JSON for the wire and the manifest, without descriptors; and back, with
 * every limit checked. */
json_t *vm_config_to_json(const struct vm_config *config);
int vm_config_from_json(const json_t *json, struct vm_config *ret,
                        struct vn_err *err) VN_MUST_USE;
/* A copy of its own, held against the same limits; descriptors are copied as
 * numbers, not duplicated. */
int vm_config_copy(const struct vm_config *config, struct vm_config *ret,
                   struct vn_err *err) VN_MUST_USE;

struct vm;

/* Start it and let it run. state_dir (owned by the caller, exists, private to
 * this VM) takes sockets, logs, the console: "console.log". */
struct vm *vm_start(const struct vm_config *config, const char *state_dir,
                    struct vn_err *err) VN_MUST_USE;
/* Take charge of a running VM: config->qmp or config->domain. */
struct vm *vm_attach(const struct vm_config *config, const char *state_dir,
                     struct vn_err *err) VN_MUST_USE;
/*
 * Create a VM that stands still and waits for its state; its disk images
 * exist already. Then feed the back end's own stream, read from `fd` to its
 * end (restore/ writes the other end of it; the caller closes both). After
 * that the VM holds the state of the snapshot and is still stopped.
 */
struct vm *vm_create(const struct vm_config *config, const char *state_dir,
                     struct vn_err *err) VN_MUST_USE;
int vm_load_state(struct vm *vm, int fd, struct vn_err *err) VN_MUST_USE;
/* Let go: a VM that we started is killed by vm_shutdown() only. */
void vm_free(struct vm *vm);
int vm_shutdown(struct vm *vm, struct vn_err *err) VN_MUST_USE;

/*
 * The host's interface that carries NIC `index`, a VM_NIC_VIF, once the VM is
 * started, attached to or loaded; another one after the VM has rebooted. Owned
 * by the VM, until the next call. NULL: there is none now.
 */
const char *vm_nic_interface(struct vm *vm, unsigned index, struct vn_err *err);

const char *vm_name(const struct vm *vm);
int vm_pid(const struct vm *vm); /* 0: unknown */
/* Where a watchdog can resume it when we are gone: "qmp:/PATH" of a monitor
 * that nobody else uses, or "xen:DOMID:UUID"; "" if there is none. */
const char *vm_rescue_address(const struct vm *vm);
/* Is it there and running? Fails when the VM is gone. */
int vm_is_running(struct vm *vm, bool *ret, struct vn_err *err) VN_MUST_USE;

/* ---- a snapshot -------------------------------------------------------- */

struct vm_prepare_opts {
    enum vm_mode mode;
    uint64_t timeout_ns; /* for each later step */
};
/* While it runs: choose the mode (readable by vm_mode()), set up what the
 * instant needs. Undone by abort or finish. */
int vm_prepare(struct vm *vm, const struct vm_prepare_opts *opts,
               struct vn_err *err) VN_MUST_USE;
enum vm_mode vm_chosen_mode(const struct vm *vm);

/* Stop the vCPUs. *ret_wall_ns: when (CLOCK_REALTIME; the VM's own report). */
int vm_stop(struct vm *vm, uint64_t *ret_wall_ns,
            struct vn_err *err) VN_MUST_USE;
/*
 * Capture the instant of memory, devices and disks, and resume as soon as the
 * mode allows. In mode cow and precopy the VM runs again when this returns; in
 * mode stop it still stands, and vm_save() resumes it. A reader thread inside
 * takes the memory into RAM, so that nothing slow lengthens the pause.
 */
int vm_capture(struct vm *vm, struct vn_err *err) VN_MUST_USE;

struct vm_saved {
    uint64_t stop_wall_ns, resume_wall_ns; /* the pause is their difference */
    uint64_t memory_bytes, disk_bytes;     /* read */
    json_t *meta; /* for the manifest: what restore must know; caller decrefs */
};
/*
 * Put everything captured into the store and add the objects to `manifest`:
 * "vm/NAME/ram/BLOCK", "vm/NAME/device.state", "vm/NAME/disk/I". `parent` is
 * the VNE's previous manifest or NULL. Runs beside the running VM, for
 * seconds. `resumed` is called once, when the VM runs again (mode stop: in
 * here; else at once). The writer is not flushed.
 */
int vm_save(struct vm *vm, struct store_writer *writer, const json_t *parent,
            json_t *manifest, void (*resumed)(void *context), void *context,
            struct vm_saved *ret, struct vn_err *err) VN_MUST_USE;
/* Remove what the snapshot set up; the VM runs on. */
int vm_finish(struct vm *vm, struct vn_err *err) VN_MUST_USE;
/*
 * Give the snapshot up at any point after prepare began: the VM runs when it
 * returns 0 and nothing of the snapshot is left. Idempotent. The VM runs again
 * at once, but the call may last as long as its memory takes to be read.
 */
int vm_abort(struct vm *vm, struct vn_err *err) VN_MUST_USE;
/* Run a loaded or stopped VM. *ret_wall_ns may be NULL. */
int vm_resume(struct vm *vm, uint64_t *ret_wall_ns,
              struct vn_err *err) VN_MUST_USE;
/* From any thread: make a blocked call of this VM fail soon. */
void vm_cancel(struct vm *vm);

VN_AUTO_DEFINE(vm, struct vm *, vm_free)
static inline void vn_auto_vm_config(struct vm_config *config)
{
    vm_config_done(config);
}

#endif
