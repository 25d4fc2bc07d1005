#include "common/view.h"

#include "common/auto.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

/*
 * A signal handler cannot take a lock, so it finds the open views in an array
 * of atomics. A fault in one of them puts a page of zeros where the file's page
 * would be, and the instruction is tried again.
 */

struct slot {
    _Atomic uintptr_t start; /* 0: free */
    _Atomic uintptr_t end;   /* set after `start`, and reset before it */
    atomic_bool failed;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* open and close */
static struct slot slots[FILE_VIEWS_MAX];
static struct sigaction before;
static uintptr_t page_size;

static struct slot *slot_at(uintptr_t address)
{
    for (unsigned i = 0; i < FILE_VIEWS_MAX; i++)
        if (address >= atomic_load(&slots[i].start) &&
            address < atomic_load(&slots[i].end))
            return &slots[i];
    return NULL;
}

static bool put_zeros(uintptr_t address)
{
    void *page = (void *)(address / page_size * page_size);

    return mmap(page, page_size, PROT_READ,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED;
}

static void on_bus_error(int number, siginfo_t *info, void *context)
{
    bool is_fault = info->si_code > 0; /* not sent by a process */
    uintptr_t address = (uintptr_t)info->si_addr;
    struct slot *slot = is_fault ? slot_at(address) : NULL;

    (void)context;
    if (slot) {
        /* Before the zeros can be seen by anybody. */
        atomic_store(&slot->failed, true);
        if (put_zeros(address))
            return;
    }
    /* As if this handler were not there: the fault comes again. */
    sigaction(number, &before, NULL);
    if (!is_fault)
        raise(number);
}

/* Take SIGBUS over, unless it is ours. The lock is held. */
static bool install(void)
{
    struct sigaction action = {.sa_sigaction = on_bus_error,
                               .sa_flags = SA_SIGINFO};
    struct sigaction was;

    page_size = (uintptr_t)sysconf(_SC_PAGESIZE);
    sigfillset(&action.sa_mask);
    if (sigaction(SIGBUS, &action, &was) < 0)
        return false;
    if (was.sa_sigaction != on_bus_error)
        before = was;
    return true;
}

static struct slot *take_slot(const uint8_t *start, size_t size)
{
    for (unsigned i = 0; i < FILE_VIEWS_MAX; i++) {
        struct slot *slot = &slots[i];

        if (atomic_load(&slot->start) != 0)
            continue;
        atomic_store(&slot->failed, false);
        atomic_store(&slot->start, (uintptr_t)start);
        atomic_store(&slot->end, (uintptr_t)start + size);
        return slot;
    }
    return NULL;
}

bool file_view_open(struct file_view *view, int fd, uint64_t offset,
                    size_t size)
{
    uint8_t *start;
    struct slot *slot;
    size_t skew;

    vn_lock_scope(&lock);
    if (size == 0 || !install())
        return false;
    skew = (size_t)(offset % page_size);
    start = mmap(NULL, skew + size, PROT_READ, MAP_SHARED, fd,
                 (off_t)(offset - skew));
    if (start == MAP_FAILED)
        return false;
    slot = take_slot(start, skew + size);
    if (!slot) {
        munmap(start, skew + size);
        return false;
    }
    *view = (struct file_view){.data = start + skew,
                               .size = size,
                               .before = skew,
                               .slot = (unsigned)(slot - slots)};
    return true;
}

bool file_view_failed(const struct file_view *view)
{
    /* What was seen is seen before this is asked. */
    atomic_thread_fence(memory_order_acquire);
    return atomic_load(&slots[view->slot].failed);
}

void file_view_close(struct file_view *view)
{
    struct slot *slot = &slots[view->slot];

    if (!view->data)
        return;
    vn_lock_scope(&lock);
    /* First, since the next mapping may get the same addresses. */
    atomic_store(&slot->end, 0);
    atomic_store(&slot->start, 0);
    munmap((void *)(uintptr_t)(view->data - view->before),
           view->before + view->size);
    *view = (struct file_view){0};
}
