#include "store/index_internal.h"

/*
 * Space of free pages in LMDB's file back to the file system.
 *
 * LMDB keeps pages that it does not need in a list and its file at the size
 * that it once had. Here such pages are punched out of the file: its size
 * stays, the space is free, and a page reads as zeros until LMDB writes it.
 *
 * Which pages. The free list is LMDB's table 0: txnid -> pages that this
 * transaction freed (a count, then page numbers, 8 bytes each in host order).
 * With W-1 the last committed transaction, LMDB itself overwrites, as soon as
 * transaction W begins and long before it commits, pages from records with a
 * txnid below both W-1 and that of every reader (mdb_find_oldest() and
 * mdb_page_alloc() in mdb.c of 0.9.24). Exactly these are punched here, while
 * LMDB's write lock is held, so that there is no transaction W:
 *
 * - Pages of a record T are in no tree of transaction T or later. Readers read
 *   trees later than T. A reader that begins now reads W-1.
 * - On disk are the meta pages of W-1 and W-2, and T <= W-2: whichever of the
 *   two is found after a power loss, its tree is whole. A W-1 whose meta page
 *   was written by a process that died before it was synced changes nothing:
 *   then W-2 is what is found.
 * - Punching is to the file what writing zeros would be, which LMDB may do at
 *   that moment. The file system orders it before later writes to the page.
 *
 * The list may only be read in a read transaction; one that begins while the
 * write lock is held sees W-1. Readers are asked of mdb_reader_list(), whose
 * lines are parsed; a line that cannot be understood ends the matter.
 *
 * Some pages stay (PUNCH_KEEP): the first in the list, which are what LMDB
 * takes next, so that a small commit works where others have filled the disk.
 *
 * The write lock is held for PUNCH_RUNS holes or as long as it takes to read
 * the list (8 bytes a free page). Holes are looked for with SEEK_DATA, so that
 * they are not punched again. A file system that cannot do any of it is left
 * alone.
 */

#include "common/auto.h"
#include "common/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define FREE_TABLE 0u    /* LMDB's own, as mdb_stat reads it */
#define PUNCH_KEEP 2048u /* free pages that keep their space: 8 MiB */
#define PUNCH_RUNS 1024u /* holes in one transaction */
/* Pages that are worth a hole, which costs the same whatever its size. Single
 * ones are a third of the runs and a twentieth of the pages. */
#define PUNCH_LEAST 2u
#define PAUSE_NS    500000

/* Pages of the free list that may go: a bit each. */
struct free_pages {
    uint64_t *bits;
    uint64_t count; /* bits; the file's pages */
    uint64_t oldest;
    uint64_t kept;
    bool strange; /* a line or record that is not understood */
};

static int note_reader(const char *line, void *context)
{
    struct free_pages *free_pages = context;
    unsigned long long thread;
    unsigned long long txnid;
    char dash;
    int pid;

    if (sscanf(line, "%d %llx %llu", &pid, &thread, &txnid) == 3) {
        if (txnid < free_pages->oldest)
            free_pages->oldest = txnid;
        return 0;
    }
    if (sscanf(line, "%d %llx %c", &pid, &thread, &dash) == 3 && dash == '-')
        return 0;
    if (strncmp(line, "    pid ", 8) != 0 && line[0] != '(')
        free_pages->strange = true;
    return 0;
}

static void note_record(struct free_pages *free_pages, const MDB_val *value)
{
    const uint8_t *at = value->mv_data;
    uint64_t number;
    size_t count;

    memcpy(&number, at, 8);
    count = value->mv_size / 8 - 1;
    if (number > count) {
        free_pages->strange = true;
        return;
    }
    for (size_t i = (size_t)number; i > 0; i--) {
        memcpy(&number, at + 8 * i, 8);
        if (number < 2 || number >= free_pages->count) {
            free_pages->strange = true;
            return;
        }
        if (free_pages->kept < PUNCH_KEEP)
            free_pages->kept++;
        else
            free_pages->bits[number / 64] |= 1ull << number % 64;
    }
}

static int note_records(struct index *index, struct free_pages *free_pages,
                        struct vn_err *err)
{
    vn_auto(index_txn) MDB_txn *txn = NULL;
    vn_auto(index_cursor) MDB_cursor *cursor = NULL;
    MDB_val key;
    MDB_val value;
    uint64_t txnid;
    int rc;

    if (index_begin(index, MDB_RDONLY, &txn, err) < 0)
        return -1;
    rc = mdb_cursor_open(txn, FREE_TABLE, &cursor);
    if (rc == 0)
        rc = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
    for (; rc == 0 && !free_pages->strange;
         rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
        if (key.mv_size != 8 || value.mv_size < 8) {
            free_pages->strange = true;
            break;
        }
        memcpy(&txnid, key.mv_data, 8);
        if (txnid >= free_pages->oldest)
            return 0; /* they rise */
        note_record(free_pages, &value);
    }
    if (rc && rc != MDB_NOTFOUND)
        return index_fail(index, rc, "read the list of free pages", err);
    return 0;
}

/* 1: nothing can be punched. The write lock is held. */
static int collect(struct index *index, struct free_pages *ret,
                   struct vn_err *err)
{
    MDB_envinfo info;

    mdb_env_info(index->env, &info);
    ret->count = info.me_last_pgno + 1;
    ret->oldest = info.me_last_txnid;
    ret->bits = calloc(ret->count / 64 + 1, 8);
    if (!ret->bits)
        return 1;
    mdb_reader_list(index->env, note_reader, ret);
    if (!ret->strange && note_records(index, ret, err) < 0)
        return -1;
    return ret->strange ? 1 : 0;
}

static bool is_free(const struct free_pages *free_pages, uint64_t page)
{
    return free_pages->bits[page / 64] >> page % 64 & 1;
}

/* Punch pages first to end - 1. Adds to *bytes; -1: it cannot be done. */
static int punch_run(int fd, uint64_t first, uint64_t end, size_t page_size,
                     uint64_t *bytes)
{
    off_t from = (off_t)(first * page_size);
    off_t to = (off_t)(end * page_size);
    off_t data = lseek(fd, from, SEEK_DATA);

    if (data < 0)
        return errno == ENXIO ? 0 : -1;
    if (data >= to)
        return 0;
    if (fault_hit("store.index.punch") ||
        fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, from,
                  to - from) < 0)
        return -1;
    *bytes += (uint64_t)(to - from);
    return 1;
}

/* From page *at on, PUNCH_RUNS holes; *at: where to go on. */
static int punch_runs(int fd, const struct free_pages *free_pages,
                      size_t page_size, uint64_t *at, uint64_t *bytes)
{
    unsigned runs = 0;
    uint64_t page = *at;

    while (page < free_pages->count && runs < PUNCH_RUNS) {
        uint64_t end;
        int result;

        if (page % 64 == 0 && free_pages->bits[page / 64] == 0) {
            page += 64;
            continue;
        }
        if (!is_free(free_pages, page)) {
            page++;
            continue;
        }
        for (end = page + 1;
             end < free_pages->count && is_free(free_pages, end);)
            end++;
        result = end - page < PUNCH_LEAST
                     ? 0
                     : punch_run(fd, page, end, page_size, bytes);
        if (result < 0)
            return -1;
        runs += (unsigned)result;
        page = end;
    }
    *at = page;
    return page < free_pages->count ? 1 : 0;
}

/* One turn under the write lock. 1: there is more. */
static int punch_some(struct index *index, uint64_t *at, uint64_t *bytes,
                      struct vn_err *err)
{
    struct free_pages free_pages = {0};
    vn_auto(index_txn) MDB_txn *lock = NULL;
    MDB_stat st;
    int result;
    int fd;

    if (mdb_env_get_fd(index->env, &fd) || mdb_env_stat(index->env, &st) ||
        index_begin(index, 0, &lock, err) < 0)
        return -1;
    result = collect(index, &free_pages, err);
    if (result == 0)
        result = punch_runs(fd, &free_pages, st.ms_psize, at, bytes);
    else if (result > 0)
        result = 0;
    free(free_pages.bits);
    return result;
}

void index_punch(struct index *index, uint64_t *ret_bytes)
{
    const struct timespec pause = {.tv_nsec = PAUSE_NS};
    struct vn_err ignored = VN_ERR_INIT;
    uint64_t bytes = 0;
    uint64_t at = 0;
    int dead;

    mdb_reader_check(index->env, &dead);
    while (punch_some(index, &at, &bytes, &ignored) > 0)
        nanosleep(&pause, NULL);
    *ret_bytes = bytes;
}
