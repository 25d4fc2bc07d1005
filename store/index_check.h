#ifndef STORE_INDEX_CHECK_H
#define STORE_INDEX_CHECK_H

/*
 * Is LMDB's data file such that LMDB can read and change it without leaving
 * its pages? It has no checksums and trusts what it reads. This reads the file
 * on its own, bounds first, and says no where LMDB would crash, go round for
 * ever or not find rows that are there. Values it does not judge, and one
 * sound tree for another it cannot tell; verify holds them against the packs.
 *
 * `path` is for sentences. VN_E_CORRUPT names file, page and cause;
 * VN_E_VERSION: a newer LMDB's; else an errno of reading. All of it blocks on
 * the disk and writes nothing.
 */

#include "common/err.h"
#include "store/lmdb_page.h"

#include <lmdb.h>

/*
 * Pages of up to so many bytes are all looked at when a process opens an index:
 * 20 ms in the page cache (0.3 ms a MiB, more than half of it reading), 70 to
 * 220 ms from a disk.
 */
#define INDEX_CHECK_AT_OPEN (64ull << 20)

/* The two meta pages and the file's size: what mdb_env_open() uses. Beside
 * writers. */
int index_check_metas(int fd, const char *path, struct vn_err *err) VN_MUST_USE;

/*
 * All trees of the state that `meta` describes; with `whole` false only the
 * tree of tables, and the top of each. The state's pages must stay as they
 * are: a transaction that reads it is open, or nobody writes.
 */
int index_check_state(int fd, const char *path, const struct lmdb_meta *meta,
                      bool whole, struct vn_err *err) VN_MUST_USE;

/* index_check_metas(), then index_check_state() of the newest: nobody writes.
 */
int index_check_file(int fd, const char *path, struct vn_err *err) VN_MUST_USE;

/* An environment that is open, beside writers: the state of now. No row needs
 * to have been read from it. Not `whole`: all of it only where it is small. */
int index_check_env(MDB_env *env, const char *path, bool whole,
                    struct vn_err *err) VN_MUST_USE;

/* ---- of index_check*.c only ------------------------------------------- */

#define INDEX_CHECK_ADVICE "'vnstore repair' builds an index anew"

/* Raise VN_E_CORRUPT. */
int index_check_bad(const char *path, const char *why, struct vn_err *err);
/* May the file be as short as it is? Pages that begin in it. */
int index_check_end(int fd, const char *path, const struct lmdb_meta *meta,
                    uint64_t *ret_pages, struct vn_err *err) VN_MUST_USE;

#endif
