/*
 * The oracle's memory: is what a snapshot holds the memory of one instant?
 *
 * A working set of pages is written over and over in strict order. Each pass
 * has a generation number g, put in MARKS places of each page from the first
 * to the last. So at any instant, with c pages written since the start, page
 * i holds generation c / pages + (i < c % pages), and only the page being
 * written may be mixed. A page captured too early or too late breaks that.
 *
 * Two readers check it. The writer, before it touches a page, expects exactly
 * the last generation in it: so a stale or newer page is found for certain,
 * one pass later at most. The checker scans on its own, also the rest of each
 * page, which never changes and is a function of the guest and the index.
 *
 * The checker takes c before and after reading a page and allows what lies
 * between, so it needs no lock and never stops the writer.
 */

#include "oracle.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#define PAGE_WORDS    512u
#define MARKS         4u /* generation marks a page, evenly spread */
#define MARK_STEP     (PAGE_WORDS / MARKS)
#define PAGES_PER_MIB 256u
#define CHECK_MIB_S   8u
#define BATCH_PAGES   32u /* between two looks at the clock */
#define NS_PER_S      1000000000ull

static uint64_t (*pages)[PAGE_WORDS];
static uint64_t page_count;

static uint64_t body_word(uint64_t page, unsigned word)
{
    return (page + 1) * 0x9e3779b97f4a7c15ull +
           ((uint64_t)oracle_opts.id << 56) + word * 0xbf58476d1ce4e5b9ull;
}

/* Words 0, 128, 256 and 511: the last one is the last word of the page. */
static unsigned mark_word(unsigned mark)
{
    return mark == MARKS - 1 ? PAGE_WORDS - 1 : mark * MARK_STEP;
}

void oracle_memory_setup(void)
{
    size_t size;

    page_count = (uint64_t)oracle_opts.working_mib * PAGES_PER_MIB;
    if (!page_count)
        page_count = 1;
    size = page_count * sizeof(*pages);
    pages = mmap(NULL, size, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (pages == MAP_FAILED) {
        printf("ORACLE-FATAL no memory for a working set of %u MiB\n",
               oracle_opts.working_mib);
        exit(1);
    }
    for (uint64_t i = 0; i < page_count; i++) {
        for (unsigned w = 0; w < PAGE_WORDS; w++)
            pages[i][w] = body_word(i, w);
        for (unsigned m = 0; m < MARKS; m++)
            pages[i][mark_word(m)] = 0;
    }
}

static void write_page(uint64_t i, uint64_t generation)
{
    for (unsigned m = 0; m < MARKS; m++) {
        volatile uint64_t *mark = &pages[i][mark_word(m)];
        uint64_t found = *mark;

        if (found != generation - 1)
            oracle_violation(&oracle_counts.memory_bad,
                             "memory page %lu of %lu mark %u holds generation "
                             "%lu, %lu written",
                             i, page_count, m, found, generation - 1);
        *mark = generation;
    }
}

void *oracle_memory_write(void *unused)
{
    uint64_t rate = (uint64_t)oracle_opts.dirty_mib_s * PAGES_PER_MIB;
    uint64_t next = oracle_now_ns();

    (void)unused;
    if (!rate)
        return NULL;
    for (uint64_t c = 0;; c++) {
        write_page(c % page_count, c / page_count + 1);
        oracle_counts.memory_pages = c + 1;
        oracle_counts.memory_generation = c / page_count + 1;
        if (c % BATCH_PAGES)
            continue;
        next += BATCH_PAGES * NS_PER_S / rate;
        if (next + NS_PER_S < oracle_now_ns())
            next = oracle_now_ns(); /* too slow a machine: no catching up */
        oracle_sleep_until(next);
    }
    return NULL;
}

/* The generation of page i when c pages have been written. */
static uint64_t generation_at(uint64_t i, uint64_t c)
{
    return c / page_count + (i < c % page_count);
}

static void check_page(uint64_t i)
{
    uint64_t lowest = generation_at(i, oracle_counts.memory_pages), highest;
    uint64_t found[MARKS], wrong = 0;

    for (unsigned m = 0; m < MARKS; m++)
        found[m] = *(volatile uint64_t *)&pages[i][mark_word(m)];
    /* One more than counted may have been begun. */
    highest = generation_at(i, oracle_counts.memory_pages + 1);
    for (unsigned m = 0; m < MARKS; m++)
        if (found[m] < lowest || found[m] > highest)
            oracle_violation(&oracle_counts.memory_bad,
                             "memory page %lu of %lu mark %u holds generation "
                             "%lu, not %lu..%lu",
                             i, page_count, m, found[m], lowest, highest);
    for (unsigned m = 0; m + 1 < MARKS; m++)
        for (unsigned w = mark_word(m) + 1; w < mark_word(m + 1); w++)
            wrong |= pages[i][w] ^ body_word(i, w);
    if (wrong)
        oracle_violation(&oracle_counts.memory_bad,
                         "memory page %lu of %lu: its fixed part changed", i,
                         page_count);
}

void *oracle_memory_check(void *unused)
{
    uint64_t next = oracle_now_ns();

    (void)unused;
    for (uint64_t n = 0;; n++) {
        check_page(n % page_count);
        if (n % BATCH_PAGES)
            continue;
        next += BATCH_PAGES * NS_PER_S / (CHECK_MIB_S * PAGES_PER_MIB);
        if (next + NS_PER_S < oracle_now_ns())
            next = oracle_now_ns();
        oracle_sleep_until(next);
    }
    return NULL;
}
