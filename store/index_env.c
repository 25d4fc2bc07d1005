#include "store/index_internal.h"

/*
 * The LMDB environment of an index: opening, sharing, transactions, errors.
 *
 * Flags: the defaults (every commit synced, meta page last) with NOTLS, since
 * threads come and go, and NORDAHEAD, since look-ups are random. WRITEMAP is
 * not used: on a full disk it dies of SIGBUS where the default gets an error.
 * NOSYNC is not used: a commit is the promise of the store. DUPSORT is not
 * used: LMDB 0.9.24 has bugs in deleting from such tables.
 *
 * The map is address space, not disk: 1 TiB is about 10^10 chunks, 40 TiB of
 * unique pages. Where the host refuses it, smaller sizes are tried.
 *
 * One environment a process: LMDB loses its locks when a file is opened twice,
 * so open ones are listed by device and inode and shared. An entry made by
 * the parent of a fork is not used by the child (LMDB forbids it) and not
 * freed there either: the parent's locks must stay untouched.
 */

#include "common/auto.h"
#include "common/fault.h"
#include "common/io.h"
#include "store/index_check.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define READERS_MAX 1024
#define SPACE_GONE  (1u << 20) /* free bytes below which EIO means full */
#define MAP_SIZE    (1ull << 40)

static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static struct index *registry; /* guarded by registry_lock */

static const char *const table_names[TABLE_COUNT] = {
    [TABLE_META] = "meta",     [TABLE_CHUNKS] = "chunks",
    [TABLE_PACKS] = "packs",   [TABLE_SNAPSHOTS] = "snapshots",
    [TABLE_NAMES] = "names",   [TABLE_IDS] = "ids",
    [TABLE_SERIES] = "series", [TABLE_LOST] = "lost",
};

const char *index_table_name(enum index_table table)
{
    return table_names[table];
}

static bool disk_is_full(const char *dir)
{
    struct statvfs st;

    return statvfs(dir, &st) == 0 &&
           (uint64_t)st.f_bavail * st.f_frsize < SPACE_GONE;
}

int index_fail(const struct index *index, int rc, const char *what,
               struct vn_err *err)
{
    int code;

    switch (rc) {
    case MDB_MAP_FULL:
    case MDB_MAP_RESIZED:
    case MDB_READERS_FULL:
    case MDB_TXN_FULL:
        code = VN_E_LIMIT;
        break;
    case MDB_VERSION_MISMATCH:
        code = VN_E_VERSION;
        break;
    default:
        code = VN_E_CORRUPT;
    }
    if ((rc == EIO || rc == ENOSPC) && disk_is_full(index->dir))
        rc = ENOSPC;
    if (rc > 0)
        return vn_fail(err, rc, "index '%s': %s", index->dir, what);
    return vn_fail(
        err, code, "index '%s': %s: %s%s", index->dir, what, mdb_strerror(rc),
        code == VN_E_CORRUPT ? " ('vnstore repair' builds an index anew)" : "");
}

int index_get_u64(struct index *index, MDB_txn *txn, enum index_table table,
                  MDB_val key, uint64_t otherwise, uint64_t *ret,
                  struct vn_err *err)
{
    MDB_val value;
    int rc = mdb_get(txn, index->tables[table], &key, &value);
    uint64_t number;

    if (rc == MDB_NOTFOUND) {
        *ret = otherwise;
        return 0;
    }
    if (rc)
        return index_fail(index, rc, "read a number", err);
    if (value.mv_size != sizeof(number))
        return vn_fail(err, VN_E_CORRUPT,
                       "index '%s': a number of %zu bytes in '%s'", index->dir,
                       value.mv_size, table_names[table]);
    memcpy(&number, value.mv_data, sizeof(number));
    *ret = le64toh(number);
    return 0;
}

int index_put_u64(struct index *index, MDB_txn *txn, enum index_table table,
                  MDB_val key, uint64_t value, struct vn_err *err)
{
    uint64_t number = htole64(value);
    MDB_val data = {.mv_size = sizeof(number), .mv_data = &number};
    int rc = mdb_put(txn, index->tables[table], &key, &data, 0);

    return rc ? index_fail(index, rc, "write a number", err) : 0;
}

/* ---- opening ---------------------------------------------------------- */

static int try_env(struct index *index, uint64_t map_size, struct vn_err *err)
{
    int rc = mdb_env_create(&index->env);

    if (rc)
        return vn_fail(err, rc, "index '%s': create", index->dir);
    mdb_env_set_userctx(index->env, index);
    mdb_env_set_mapsize(index->env, map_size);
    mdb_env_set_maxdbs(index->env, TABLE_COUNT);
    mdb_env_set_maxreaders(index->env, READERS_MAX);
    index_fault_watch(index->env);
    rc = mdb_env_open(index->env, index->dir, MDB_NOTLS | MDB_NORDAHEAD, 0600);
    if (rc == 0)
        return 0;
    mdb_env_close(index->env);
    index->env = NULL;
    if ((rc == ENOMEM || rc == EINVAL) && map_size > INDEX_MAP_LAST)
        return 1;
    return index_fail(index, rc, "open", err);
}

static int open_tables(struct index *index, unsigned flags, MDB_txn *txn,
                       struct vn_err *err)
{
    for (int i = 0; i < TABLE_COUNT; i++) {
        int rc = mdb_dbi_open(txn, table_names[i], flags, &index->tables[i]);

        if (rc)
            return index_fail(index, rc, table_names[i], err);
    }
    return 0;
}

static void index_free(struct index *index)
{
    if (!index)
        return;
    if (index->env) {
        index_fault_forget(index->map.bytes);
        index_fault_forget(index->mapping);
        index_map_close(index);
        index_known_close(index);
        mdb_env_close(index->env);
    }
    pthread_mutex_destroy(&index->known.lock);
    pthread_mutex_destroy(&index->writing);
    pthread_mutex_destroy(&index->map.lock);
    free(index->dir);
    free(index);
}
VN_AUTO_DEFINE(index_new, struct index *, index_free)

/*
 * A file may be shorter than its last page says, by pages that are free. Make
 * it as long, or it would be walked whenever it is opened, to see that they
 * are. This never makes a file shorter that another process just extends.
 */
static void complete_file(struct index *index)
{
    MDB_envinfo info;
    struct stat st;
    MDB_stat stat;
    off_t size;
    int fd;

    if (mdb_env_get_fd(index->env, &fd) || mdb_env_info(index->env, &info) ||
        mdb_env_stat(index->env, &stat) || fstat(fd, &st) < 0)
        return;
    size = (off_t)((info.me_last_pgno + 1) * stat.ms_psize);
    if (st.st_size < size)
        (void)fallocate(fd, 0, size - 1, 1);
}

static struct index *open_env(const char *dir, struct vn_err *err)
{
    struct index *index = vn_alloc(sizeof(*index));
    uint64_t map_size = MAP_SIZE;
    int result;
    int dead;

    index->dir = vn_strdup(dir);
    pthread_mutex_init(&index->known.lock, NULL);
    pthread_mutex_init(&index->writing, NULL);
    pthread_mutex_init(&index->map.lock, NULL);
    index->pid = getpid();
    index->users = 1;
    while ((result = try_env(index, map_size, err)) > 0)
        map_size /= 4;
    if (result < 0) {
        index_free(index);
        return NULL;
    }
    mdb_reader_check(index->env, &dead);
    return index;
}

int index_init(const char *dir, const uint8_t store_id[16], struct vn_err *err)
{
    MDB_val id = {.mv_size = 16, .mv_data = (uint8_t *)(uintptr_t)store_id};
    vn_auto(index_new) struct index *index = open_env(dir, err);
    vn_auto(index_txn) MDB_txn *txn = NULL;
    MDB_val key = index_key_text("store_id");
    int rc;

    if (!index || index_begin(index, 0, &txn, err) < 0 ||
        open_tables(index, MDB_CREATE, txn, err) < 0)
        return -1;
    rc = mdb_put(txn, index->tables[TABLE_META], &key, &id, 0);
    if (rc)
        return index_fail(index, rc, "write the store's id", err);
    if (index_put_u64(index, txn, TABLE_META, index_key_text("format"),
                      INDEX_FORMAT, err) < 0)
        return -1;
    return index_commit(index, &txn, err);
}

/* Stores made before there was the table `lost` get it when they are opened;
 * programs that do not know it are not disturbed. */
static int add_new_tables(struct index *index, struct vn_err *err)
{
    vn_auto(index_txn) MDB_txn *txn = NULL;
    MDB_dbi table;
    int rc;

    if (index_begin(index, MDB_RDONLY, &txn, err) < 0)
        return -1;
    if (mdb_dbi_open(txn, table_names[TABLE_META], 0, &table) != 0)
        return 0; /* no index; check_meta() says so */
    rc = mdb_dbi_open(txn, table_names[TABLE_LOST], 0, &table);
    if (rc != MDB_NOTFOUND)
        return rc ? index_fail(index, rc, table_names[TABLE_LOST], err) : 0;
    index_txn_abort(vn_steal(&txn));
    if (index_begin(index, 0, &txn, err) < 0)
        return -1;
    rc = mdb_dbi_open(txn, table_names[TABLE_LOST], MDB_CREATE, &table);
    if (rc)
        return index_fail(index, rc, "add a table", err);
    return index_commit(index, &txn, err);
}

/*
 * Where is the mapping? LMDB does not say, but a value lies in a page that
 * begins with its number. Only known where pages are the system's.
 */
static void note_mapping(struct index *index, const MDB_val *value)
{
    uintptr_t at = (uintptr_t)value->mv_data;
    MDB_envinfo info;
    MDB_stat st;

    if (mdb_env_info(index->env, &info) || mdb_env_stat(index->env, &st) ||
        st.ms_psize != (unsigned long)sysconf(_SC_PAGESIZE))
        return;
    at &= ~((uintptr_t)st.ms_psize - 1);
    at -= lmdb_load_u64((const uint8_t *)at) * st.ms_psize;
    index->mapping = (const void *)at;
    index_fault_note(index->dir, index->mapping, info.me_mapsize);
}

static int check_meta(struct index *index, const uint8_t store_id[16],
                      struct vn_err *err)
{
    vn_auto(index_txn) MDB_txn *txn = NULL;
    MDB_val key = index_key_text("store_id");
    uint64_t format = 0;
    MDB_val id;

    if (index_begin(index, MDB_RDONLY, &txn, err) < 0 ||
        open_tables(index, 0, txn, err) < 0 ||
        index_get_u64(index, txn, TABLE_META, index_key_text("format"), 0,
                      &format, err) < 0)
        return -1;
    if (format != INDEX_FORMAT)
        return vn_fail(err, VN_E_VERSION,
                       "index '%s' has format %llu, this program knows "
                       "format %u",
                       index->dir, (unsigned long long)format, INDEX_FORMAT);
    if (mdb_get(txn, index->tables[TABLE_META], &key, &id) != 0 ||
        id.mv_size != 16 || memcmp(id.mv_data, store_id, 16) != 0)
        return vn_fail(err, VN_E_CORRUPT, "index '%s' belongs to another store",
                       index->dir);
    note_mapping(index, &id);
    /* Committing a reader keeps the handles of the tables open. */
    return mdb_txn_commit(vn_steal(&txn)) == 0
               ? 0
               : vn_fail(err, VN_E_CORRUPT, "index '%s': tables", index->dir);
}

/* Open it, but let LMDB come near no page that was not looked at. */
static struct index *open_checked(const char *dir, const char *data,
                                  struct vn_err *err)
{
    vn_auto(close) int fd = open(data, O_RDONLY | O_CLOEXEC);
    vn_auto(index_new) struct index *index = NULL;

    if (fd < 0)
        return vn_fail_ptr(err, errno, "open '%s'", data);
    if (index_check_metas(fd, data, err) < 0)
        return NULL;
    index = open_env(dir, err);
    if (!index || index_check_env(index->env, data, false, err) < 0)
        return NULL;
    complete_file(index);
    return vn_steal(&index);
}

int index_check(struct index *index, struct vn_err *err)
{
    vn_auto(free) char *data = vn_format("%s/data.mdb", index->dir);

    return index_check_env(index->env, data, true, err);
}

struct index *index_open(const char *dir, const uint8_t store_id[16],
                         struct vn_err *err)
{
    vn_auto(free) char *data = vn_format("%s/data.mdb", dir);
    struct index *index;
    struct stat st;

    /* LMDB would make an empty one, and the snapshots seem to be gone. */
    if (stat(data, &st) < 0 && errno == ENOENT)
        return vn_fail_ptr(err, VN_E_CORRUPT, "there is no index '%s'", data);
    if (stat(data, &st) < 0)
        return vn_fail_ptr(err, errno, "index '%s'", data);
    vn_lock_scope(&registry_lock);
    for (index = registry; index; index = index->next)
        if (index->dev == st.st_dev && index->ino == st.st_ino &&
            index->pid == getpid()) {
            index->users++;
            return index;
        }
    index = open_checked(dir, data, err);
    if (!index)
        return NULL;
    if (add_new_tables(index, err) < 0 ||
        check_meta(index, store_id, err) < 0 ||
        index_map_open(index, err) < 0) {
        index_free(index);
        return NULL;
    }
    if (index->map.bytes)
        index_fault_note(index->dir, index->map.bytes, index->map.size);
    memcpy(index->store_id, store_id, 16);
    index->dev = st.st_dev;
    index->ino = st.st_ino;
    index->next = registry;
    registry = index;
    return index;
}

void index_close(struct index *index)
{
    struct index **link = &registry;

    if (!index)
        return;
    vn_lock_scope(&registry_lock);
    if (--index->users > 0 || index->pid != getpid())
        return;
    while (*link != index)
        link = &(*link)->next;
    *link = index->next;
    index_free(index);
}
