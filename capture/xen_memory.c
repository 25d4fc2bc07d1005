/*
 * A domain's pages, by pfn.
 *
 * Purpose. While a domain is saved its pages come in passes: all of them, then
 * those that it wrote meanwhile, then, while it stands, the last ones. What is
 * received must be off the pipe at once, since the saver waits for us, and
 * hashing comes behind the pause. So a page is copied into a slot and no more.
 *
 * How. Two levels: a table of leaves, an entry a pfn in each leaf. The guest's
 * address space is sparse (the special pages of a PVH domain lie just below
 * 4 GiB, whatever its size), so leaves are made for what is named. The table
 * is a mapping without memory behind it, of which only what is used exists.
 * A page that comes again goes into the slot that it has; one that becomes
 * zeros or goes away gives its slot back.
 *
 * Limits. 32 MiB of address space for the table (2^22 leaves of 2^12 pfns).
 * Leaves may take an eighth of bytes_max and 16 MiB more: a domain whose memory
 * is spread as thin as it may (one page in 16 MiB...) is refused, since 8 bytes
 * of stream would cost 32 KiB here. A domain ballooned down to a sixty-fourth
 * of its maximum is within it.
 *
 * Concurrency: none; one thread at a time.
 */

#include "capture/xen_memory_internal.h"

#include "store/ident.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define LEAF_SIZE      (XEN_LEAF_PFNS * sizeof(uintptr_t))
#define TABLE_SIZE     (XEN_LEAVES * sizeof(uintptr_t *))
#define LEAF_BYTES_MIN (16ull << 20)

struct xen_memory *xen_memory_new(uint64_t bytes_max)
{
    struct xen_memory *memory = vn_alloc(sizeof(*memory));
    void *table = mmap(NULL, TABLE_SIZE, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (table == MAP_FAILED)
        abort(); /* as vn_alloc() does: no memory is asked for yet */
    memory->leaves = table;
    memory->leaf_max = (bytes_max / 8 + LEAF_BYTES_MIN) / LEAF_SIZE;
    xen_slots_init(&memory->slots, bytes_max);
    return memory;
}

void xen_memory_free(struct xen_memory *memory)
{
    if (!memory)
        return;
    for (uint64_t i = 0; i < memory->leaf_end; i++)
        free(memory->leaves[i]);
    munmap(memory->leaves, TABLE_SIZE);
    xen_slots_done(&memory->slots);
    free(memory);
}

/* ---- entries ----------------------------------------------------------- */

/* The entry of a pfn; NULL without an error: XTAB, and no leaf for it. */
static uintptr_t *find_entry(const struct xen_memory *memory, uint64_t pfn)
{
    uintptr_t *leaf = memory->leaves[pfn / XEN_LEAF_PFNS];

    return leaf ? &leaf[pfn % XEN_LEAF_PFNS] : NULL;
}

/* The same, made if it is not there. */
static uintptr_t *make_entry(struct xen_memory *memory, uint64_t pfn,
                             struct vn_err *err)
{
    uint64_t index = pfn / XEN_LEAF_PFNS;
    uintptr_t *leaf;

    if (memory->leaves[index])
        return find_entry(memory, pfn);
    if (memory->leaf_count == memory->leaf_max)
        return vn_fail_ptr(err, VN_E_LIMIT,
                           "the domain's memory is spread over more than "
                           "%" PRIu64 " areas of 16 MiB",
                           memory->leaf_max);
    leaf = calloc(XEN_LEAF_PFNS, sizeof(*leaf));
    if (!leaf)
        return vn_fail_ptr(err, ENOMEM, "the table of the domain's pages");
    memory->leaves[index] = leaf;
    memory->leaf_count++;
    if (index >= memory->leaf_end)
        memory->leaf_end = index + 1;
    return &leaf[pfn % XEN_LEAF_PFNS];
}

static bool has_data(uintptr_t entry)
{
    return xen_page_has_data(xen_entry_type(entry));
}

/* Set an entry; its slot, where it had another one, is given back. */
static void set_entry(struct xen_memory *memory, uintptr_t *entry,
                      unsigned type, uint8_t *slot)
{
    uint8_t *old = xen_entry_slot(*entry);

    if (old && old != slot)
        xen_slots_give(&memory->slots, old);
    memory->lost -= (*entry & XEN_ENTRY_LOST) != 0;
    memory->counts.pages -= has_data(*entry);
    *entry = (uintptr_t)slot | (type ^ XEN_PAGE_XTAB);
    memory->counts.pages += has_data(*entry);
}

/* ---- pages ------------------------------------------------------------- */

/* A pfn without data. */
static int take_type(struct xen_memory *memory, uint64_t pfn, unsigned type,
                     struct vn_err *err)
{
    uintptr_t *entry = type == XEN_PAGE_XTAB ? find_entry(memory, pfn)
                                             : make_entry(memory, pfn, err);

    if (!entry)
        return type == XEN_PAGE_XTAB ? 0 : -1;
    if (type == XEN_PAGE_XTAB && memory->frozen && has_data(*entry)) {
        memory->lost += !(*entry & XEN_ENTRY_LOST);
        *entry |= XEN_ENTRY_LOST;
        return 0;
    }
    set_entry(memory, entry, type, NULL);
    return 0;
}

static int take_data(struct xen_memory *memory, uint64_t pfn, unsigned type,
                     const void *page, struct vn_err *err)
{
    uintptr_t *entry = make_entry(memory, pfn, err);
    uint8_t *slot = NULL;

    if (!entry)
        return -1;
    memory->counts.received++;
    if (!ident_page_is_zero(page)) {
        if (!memory->frozen)
            xen_slots_ready(&memory->slots);
        slot = xen_entry_slot(*entry);
        if (!slot)
            slot = xen_slots_take(&memory->slots, err);
        if (!slot)
            return -1;
        memcpy(slot, page, XEN_PAGE_SIZE);
    }
    set_entry(memory, entry, type, slot);
    return 0;
}

int xen_memory_page(void *context, uint64_t pfn, unsigned type,
                    const void *page, struct vn_err *err)
{
    struct xen_memory *memory = context;

    assert(pfn < XEN_PFN_MAX && type <= XEN_PAGE_XTAB);
    assert(xen_page_has_data(type) == (page != NULL));
    return page ? take_data(memory, pfn, type, page, err)
                : take_type(memory, pfn, type, err);
}

void xen_memory_freeze(struct xen_memory *memory)
{
    memory->frozen = true;
}

uint64_t xen_memory_lost(const struct xen_memory *memory)
{
    return memory->lost;
}

void xen_memory_counts(const struct xen_memory *memory,
                       struct xen_memory_counts *ret)
{
    *ret = memory->counts;
}
