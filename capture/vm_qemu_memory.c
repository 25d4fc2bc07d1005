/*
 * Shorter pauses: guest memory made ready before it is protected.
 *
 * Arming a background-snapshot touches one page-table entry a page while the
 * VM stands: 256 MiB in 4 KiB pages cost about 9 ms, in huge pages about 3
 * (measured, TCG, two busy cores). QEMU asks for huge pages itself, and a
 * fresh guest has them; but each snapshot splits them, since it takes the
 * protection off page by page. So prepare, while the VM runs, has the kernel
 * collapse them again (MADV_COLLAPSE, Linux 6.1, from outside with
 * process_madvise()): 25 to 300 ms for 256 MiB, in steps of 2 MiB.
 *
 * A range is collapsed only if DENSE_PAGES of its 512 pages exist, or memory
 * that a guest never touched would be allocated. /proc/PID/pagemap marks pages
 * mapped just once; the shared zero page is not among them.
 *
 * Before it protects, QEMU reads one byte of every page, because only what is
 * mapped can be protected; a page that the guest never touched then costs a
 * fault, 20 ms for 128 MiB of them. So such pages are read from here first
 * (process_vm_readv()), which maps the shared zero page in.
 *
 * All of this is an attempt: without the right (CAP_SYS_NICE, CAP_SYS_PTRACE),
 * an old kernel or past BUDGET_NS it is left undone, and the pause is longer.
 */
#include "capture/vm_qemu.h"

#include "common/clock.h"
#include "common/io.h"
#include "common/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define HUGE_SIZE   (2ull << 20)
#define SMALL_SIZE  4096ull
#define RANGE_PAGES (HUGE_SIZE / SMALL_SIZE)
#define DENSE_PAGES (RANGE_PAGES * 3 / 4)
#define ONLY_ONCE   (1ull << 56) /* pagemap: mapped exclusively */
#define SWAPPED     (1ull << 62)
#define PRESENT     (1ull << 63)
#define MIN_MAPPING (16ull << 20)
#define BUDGET_NS   (1 * VN_SEC)

/* Map what is not there yet; false when that is not allowed. */
static bool touch_missing(const struct vm_qemu *v, uint64_t start,
                          const uint64_t entries[RANGE_PAGES])
{
    struct iovec theirs[RANGE_PAGES];
    uint8_t bytes[RANGE_PAGES];
    struct iovec ours = {.iov_base = bytes};

    for (size_t i = 0; i < RANGE_PAGES; i++)
        if (!(entries[i] & (PRESENT | SWAPPED)))
            theirs[ours.iov_len++] = (struct iovec){
                .iov_base = (void *)(uintptr_t)(start + i * SMALL_SIZE),
                .iov_len = 1};
    return ours.iov_len == 0 ||
           process_vm_readv(v->base.pid, &ours, 1, theirs, ours.iov_len, 0) >
               0 ||
           errno != EPERM;
}

static bool is_dense(const uint64_t entries[RANGE_PAGES])
{
    unsigned count = 0;

    for (size_t i = 0; i < RANGE_PAGES; i++)
        count += (entries[i] & ONLY_ONCE) != 0;
    return count >= DENSE_PAGES;
}

/* One range of HUGE_SIZE; false when it makes no sense to go on. */
static bool ready_range(const struct vm_qemu *v, int pagemap, uint64_t start)
{
    struct iovec range = {.iov_base = (void *)(uintptr_t)start,
                          .iov_len = HUGE_SIZE};
    struct vn_err none = VN_ERR_INIT;
    uint64_t entries[RANGE_PAGES];

    if (io_pread(pagemap, entries, sizeof(entries),
                 start / SMALL_SIZE * sizeof(entries[0]), &none) < 0)
        return false;
    /* Single ranges may be refused, as when no huge page is free. */
    if (is_dense(entries) &&
        process_madvise(v->pidfd, &range, 1, MADV_COLLAPSE, 0) == 0)
        return true;
    return touch_missing(v, start, entries);
}

static bool ready_mapping(const struct vm_qemu *v, int pagemap, uint64_t start,
                          uint64_t end, uint64_t deadline_ns)
{
    start = (start + HUGE_SIZE - 1) / HUGE_SIZE * HUGE_SIZE;
    for (; start + HUGE_SIZE <= end; start += HUGE_SIZE) {
        if (clock_now_ns() > deadline_ns || qmp_is_cancelled(v->qmp))
            return false;
        if (!ready_range(v, pagemap, start))
            return false;
    }
    return true;
}

void vm_qemu_ready_memory(struct vm_qemu *v)
{
    vn_auto(free) char *maps_path = vn_format("/proc/%d/maps", v->base.pid);
    vn_auto(free) char *pagemap_path =
        vn_format("/proc/%d/pagemap", v->base.pid);
    vn_auto(fclose) FILE *maps = fopen(maps_path, "re");
    vn_auto(close) int pagemap = open(pagemap_path, O_RDONLY | O_CLOEXEC);
    uint64_t began_ns = clock_now_ns();
    char line[512];

    if (v->pidfd < 0 || !maps || pagemap < 0)
        return;
    while (fgets(line, sizeof(line), maps)) {
        uint64_t start, end, inode;

        /* start-end rw-p offset device inode: private and anonymous */
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " rw-p %*s %*s %" SCNu64,
                   &start, &end, &inode) != 3 ||
            inode != 0 || end < start || end - start < MIN_MAPPING)
            continue;
        if (!ready_mapping(v, pagemap, start, end, began_ns + BUDGET_NS))
            break;
    }
    log_debug("vm_qemu: memory ready vm=%s ms=%" PRIu64, v->base.name,
              (clock_now_ns() - began_ns) / VN_MS);
}
