#ifndef CAPTURE_XEN_MEMORY_INTERNAL_H
#define CAPTURE_XEN_MEMORY_INTERNAL_H

/*
 * What the files of a domain's memory share: xen_memory.c (pages by pfn),
 * xen_memory_slots.c (where their bytes lie), xen_memory_save.c (into the
 * store). How it works is told in xen_memory.c.
 */

#include "capture/xen_memory.h"

/* ---- slots: 4096 bytes each -------------------------------------------- */

struct xen_slots {
    uint64_t max;     /* most slots in use */
    uint64_t used;    /* in use now */
    uint64_t handed;  /* of all pieces, how many were ever in use */
    uint8_t *free;    /* those given back, each points to the next */
    uint8_t **pieces; /* of 2 MiB, populated; owned */
    size_t piece_count, piece_capacity;
    uint8_t *reserved; /* address space for further pieces */
    size_t reserved_size;
};

void xen_slots_init(struct xen_slots *slots, uint64_t bytes_max);
void xen_slots_done(struct xen_slots *slots);
/* A slot, its content undefined. VN_E_LIMIT beyond bytes_max, ENOMEM. */
uint8_t *xen_slots_take(struct xen_slots *slots, struct vn_err *err);
void xen_slots_give(struct xen_slots *slots, uint8_t *slot);
/* Populate a piece ahead of need, if there are few slots left. At most one a
 * call, 0.2 ms; failing is for xen_slots_take() to say. */
void xen_slots_ready(struct xen_slots *slots);

/* ---- pages ------------------------------------------------------------- */

#define XEN_LEAF_PFNS 4096u /* 16 MiB of guest, 32 KiB of leaf */
#define XEN_LEAVES    (XEN_PFN_MAX / XEN_LEAF_PFNS)

/*
 * An entry: address of the slot (0: zeros, or no data) | XEN_ENTRY_LOST |
 * type ^ XTAB. So 0 is a pfn that was never named, and means the same as XTAB.
 */
#define XEN_ENTRY_TYPE ((uintptr_t)0xf)
#define XEN_ENTRY_LOST ((uintptr_t)0x10)
#define XEN_ENTRY_SLOT (~(uintptr_t)(XEN_PAGE_SIZE - 1))

struct xen_memory {
    struct xen_slots slots;
    uintptr_t **leaves; /* XEN_LEAVES, NULL: all XTAB; a mapping of its own */
    uint64_t leaf_end;  /* one above the last leaf that is there */
    uint64_t leaf_count, leaf_max;
    bool frozen;
    uint64_t lost;
    struct xen_memory_counts counts;
};

static inline unsigned xen_entry_type(uintptr_t entry)
{
    return (unsigned)(entry & XEN_ENTRY_TYPE) ^ XEN_PAGE_XTAB;
}

static inline uint8_t *xen_entry_slot(uintptr_t entry)
{
    return (uint8_t *)(entry & XEN_ENTRY_SLOT);
}

#endif
