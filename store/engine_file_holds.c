#include "store/engine_file_internal.h"

/*
 * The local engine's registry of holds: the file "packs/holds".
 *
 *     slot, 32 bytes   u64 epoch, u64 mark, u64 process id, u64 0; host order
 *
 * A slot is alive while its bytes are locked (F_OFD_SETLK, for writing). The
 * kernel drops the lock with the open file description, however the process
 * ends, and it cannot be mistaken for another process's as a process id could.
 * The content needs no sync: no hold survives the machine. It is the pattern of
 * LMDB's reader table, without a limit on slots that matters.
 *
 * Each hold has a description of its own, since locks of one description do
 * not exclude each other. A child after fork shares the parent's; the parent
 * unlocks explicitly, so that the child does not prolong the hold.
 *
 * Between the lock and the first write a slot shows what its last owner left.
 * That is harmless: the owner of the new hold reads the collection epoch only
 * after it has written zeros, which hold everything. So a collector that looked
 * before that write has published its epoch before the owner reads it.
 *
 * The collection lock is a byte of the same file far behind the slots.
 */

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SLOTS_MAX 65536
#define LOCK_AT   ((off_t)1 << 40)

/*
 * Order what was written before what is read next, in the registry and in the
 * index, for all processes: a hold that a collector does not see, sees the
 * collector's epoch. ThreadSanitizer knows no fences; there the system calls
 * have to do.
 */
static void full_fence(void)
{
#ifndef __SANITIZE_THREAD__
    atomic_thread_fence(memory_order_seq_cst);
#endif
}

struct slot {
    uint64_t epoch;
    uint64_t mark;
    uint64_t holder;
    uint64_t zero;
};
static_assert(sizeof(struct slot) == 32, "a slot of the registry");

struct file_hold {
    struct engine_hold hold;
    int fd;
    off_t at; /* of its slot */
};

struct file_lock {
    struct engine_lock lock;
    int fd;
};

static int open_registry(struct engine *engine, struct vn_err *err)
{
    const struct engine_file *e = (const struct engine_file *)engine;
    vn_auto(free) char *path = vn_format("%s/holds", e->dir);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    return fd < 0 ? vn_fail(err, errno, "open '%s'", path) : fd;
}

static int set_lock(int fd, short type, off_t at, off_t size)
{
    struct flock l = {
        .l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = size};

    return fcntl(fd, F_OFD_SETLK, &l);
}

/* Lock the first free slot; its offset, or -1. */
static off_t claim(int fd, struct vn_err *err)
{
    for (off_t i = 0; i < SLOTS_MAX; i++) {
        off_t at = i * (off_t)sizeof(struct slot);

        if (set_lock(fd, F_WRLCK, at, sizeof(struct slot)) == 0)
            return at;
        if (errno != EAGAIN && errno != EACCES)
            return vn_fail(err, errno, "lock the registry of holds");
    }
    return vn_fail(err, VN_E_LIMIT, "%d holds are open", SLOTS_MAX);
}

int engine_file_hold_set(struct engine_hold *hold, uint64_t epoch,
                         uint64_t mark, struct vn_err *err)
{
    const struct file_hold *h = (const struct file_hold *)hold;
    struct slot slot = {
        .epoch = epoch, .mark = mark, .holder = (uint64_t)getpid()};

    if (pwrite(h->fd, &slot, sizeof(slot), h->at) != (ssize_t)sizeof(slot))
        return vn_fail(err, errno ? errno : EIO, "write the registry of holds");
    full_fence();
    return 0;
}

struct engine_hold *engine_file_hold_open(struct engine *engine,
                                          struct vn_err *err)
{
    vn_auto(close) int fd = open_registry(engine, err);
    struct file_hold *h;
    off_t at = fd < 0 ? -1 : claim(fd, err);

    if (at < 0)
        return NULL;
    h = vn_alloc(sizeof(*h));
    *h = (struct file_hold){
        .hold = {.engine = engine}, .fd = vn_steal_fd(&fd), .at = at};
    if (engine_file_hold_set(&h->hold, 0, 0, err) < 0) {
        engine_file_hold_close(&h->hold);
        return NULL;
    }
    return &h->hold;
}

void engine_file_hold_close(struct engine_hold *hold)
{
    struct file_hold *h = (struct file_hold *)hold;

    set_lock(h->fd, F_UNLCK, h->at, sizeof(struct slot));
    close(h->fd);
    free(h);
}

/* Is a slot locked by someone? */
static int is_held(int fd, off_t at, struct vn_err *err)
{
    struct flock l = {.l_type = F_WRLCK,
                      .l_whence = SEEK_SET,
                      .l_start = at,
                      .l_len = sizeof(struct slot)};

    if (fcntl(fd, F_OFD_GETLK, &l) < 0)
        return vn_fail(err, errno, "look at the registry of holds");
    return l.l_type != F_UNLCK;
}

int engine_file_holds(struct engine *engine, struct engine_holds *ret,
                      struct vn_err *err)
{
    vn_auto(close) int fd = open_registry(engine, err);
    struct engine_holds holds = {.epoch = UINT64_MAX, .mark = UINT64_MAX};
    struct stat st;

    if (fd < 0)
        return -1;
    full_fence();
    if (fstat(fd, &st) < 0)
        return vn_fail(err, errno, "look at the registry of holds");
    /* One slot more: locked, and not written yet. */
    for (off_t at = 0; at <= st.st_size; at += (off_t)sizeof(struct slot)) {
        struct slot slot = {0};
        int held = is_held(fd, at, err);

        if (held < 0)
            return -1;
        if (!held)
            continue;
        if (pread(fd, &slot, sizeof(slot), at) != (ssize_t)sizeof(slot))
            slot = (struct slot){0}; /* holds everything */
        holds.count++;
        if (slot.epoch < holds.epoch) {
            holds.epoch = slot.epoch;
            holds.holder = slot.holder;
        }
        if (slot.mark < holds.mark)
            holds.mark = slot.mark;
    }
    *ret = holds;
    return 0;
}

struct engine_lock *engine_file_lock(struct engine *engine, bool exclusive,
                                     struct vn_err *err)
{
    vn_auto(close) int fd = open_registry(engine, err);
    struct file_lock *l;

    if (fd < 0)
        return NULL;
    if (set_lock(fd, exclusive ? F_WRLCK : F_RDLCK, LOCK_AT, 1) < 0) {
        if (errno != EAGAIN && errno != EACCES)
            return vn_fail_ptr(err, errno, "lock the registry of holds");
        return vn_fail_ptr(err, VN_E_STATE,
                           "another process is collecting or verifying");
    }
    l = vn_alloc(sizeof(*l));
    *l = (struct file_lock){.lock = {.engine = engine}, .fd = vn_steal_fd(&fd)};
    return &l->lock;
}

void engine_file_unlock(struct engine_lock *lock)
{
    struct file_lock *l = (struct file_lock *)lock;

    set_lock(l->fd, F_UNLCK, LOCK_AT, 1);
    close(l->fd);
    free(l);
}
