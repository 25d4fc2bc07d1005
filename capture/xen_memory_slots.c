/*
 * Slots: where the bytes of pages lie.
 *
 * Memory comes in pieces of 2 MiB, huge pages where the kernel has some, and
 * is populated before it is used: a fault costs 0.5 us and more (a huge one
 * 100 us), and one that is taken while the domain stands lengthens its pause.
 * So some pieces are kept ahead; a pass over pages that are known already
 * needs no new slot at all.
 *
 * Address space is reserved in runs of up to 1 GiB, without memory behind it,
 * and pieces are opened in it one after the other: neighbours in a run of
 * pages lie side by side, which lets the store take them in one call.
 */

#include "capture/xen_memory_internal.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

#define PIECE_SIZE   ((size_t)2 << 20)
#define PIECE_SLOTS  (PIECE_SIZE / XEN_PAGE_SIZE)
#define RESERVE_SIZE ((size_t)1 << 30)
#define AHEAD_SLOTS  (8 * PIECE_SLOTS)

void xen_slots_init(struct xen_slots *slots, uint64_t bytes_max)
{
    *slots = (struct xen_slots){.max = bytes_max / XEN_PAGE_SIZE};
}

void xen_slots_done(struct xen_slots *slots)
{
    for (size_t i = 0; i < slots->piece_count; i++)
        munmap(slots->pieces[i], PIECE_SIZE);
    if (slots->reserved_size)
        munmap(slots->reserved, slots->reserved_size);
    free(slots->pieces);
    *slots = (struct xen_slots){0};
}

/* Address space for more pieces, aligned to them. */
static int reserve(struct xen_slots *slots)
{
    uint64_t pieces = (slots->max + PIECE_SLOTS - 1) / PIECE_SLOTS;
    uint64_t wanted = (pieces - slots->piece_count) * PIECE_SIZE;
    size_t size = wanted < RESERVE_SIZE ? (size_t)wanted : RESERVE_SIZE;
    size_t before, mapped = size + PIECE_SIZE;
    uint8_t *p = mmap(NULL, mapped, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (p == MAP_FAILED)
        return -1;
    before = -(uintptr_t)p % PIECE_SIZE;
    if (before)
        munmap(p, before);
    munmap(p + before + size, PIECE_SIZE - before);
    (void)madvise(p + before, size, MADV_HUGEPAGE);
    slots->reserved = p + before;
    slots->reserved_size = size;
    return 0;
}

static void populate(uint8_t *piece)
{
    if (madvise(piece, PIECE_SIZE, MADV_POPULATE_WRITE) == 0)
        return;
    for (size_t i = 0; i < PIECE_SIZE; i += XEN_PAGE_SIZE)
        ((volatile uint8_t *)piece)[i] = 0;
}

static int grow_list(struct xen_slots *slots)
{
    size_t capacity = slots->piece_capacity ? slots->piece_capacity * 2 : 64;
    uint8_t **pieces;

    if (slots->piece_count < slots->piece_capacity)
        return 0;
    pieces = realloc(slots->pieces, capacity * sizeof(*pieces));
    if (!pieces)
        return -1;
    slots->pieces = pieces;
    slots->piece_capacity = capacity;
    return 0;
}

/* One more piece; -1 with errno. */
static int open_piece(struct xen_slots *slots)
{
    uint8_t *piece;

    if (grow_list(slots) < 0 || (!slots->reserved_size && reserve(slots) < 0))
        return -1;
    piece = slots->reserved;
    if (mprotect(piece, PIECE_SIZE, PROT_READ | PROT_WRITE) < 0)
        return -1;
    populate(piece);
    slots->reserved += PIECE_SIZE;
    slots->reserved_size -= PIECE_SIZE;
    slots->pieces[slots->piece_count++] = piece;
    return 0;
}

static uint64_t opened(const struct xen_slots *slots)
{
    return (uint64_t)slots->piece_count * PIECE_SLOTS;
}

void xen_slots_ready(struct xen_slots *slots)
{
    if (opened(slots) - slots->used < AHEAD_SLOTS && opened(slots) < slots->max)
        (void)open_piece(slots);
}

uint8_t *xen_slots_take(struct xen_slots *slots, struct vn_err *err)
{
    uint8_t *slot = slots->free;

    if (slots->used == slots->max)
        return vn_fail_ptr(
            err, VN_E_LIMIT,
            "the domain has more than %" PRIu64 " pages of memory", slots->max);
    if (slot) {
        memcpy(&slots->free, slot, sizeof(slots->free));
    } else {
        if (slots->handed == opened(slots) && open_piece(slots) < 0)
            return vn_fail_ptr(err, errno, "memory for the domain's pages");
        slot = slots->pieces[slots->handed / PIECE_SLOTS] +
               slots->handed % PIECE_SLOTS * XEN_PAGE_SIZE;
        slots->handed++;
    }
    slots->used++;
    return slot;
}

void xen_slots_give(struct xen_slots *slots, uint8_t *slot)
{
    assert(slots->used > 0);
    memcpy(slot, &slots->free, sizeof(slots->free));
    slots->free = slot;
    slots->used--;
}
