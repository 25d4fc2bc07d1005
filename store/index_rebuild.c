#include "store/index_internal.h"

/*
 * What rebuilding an index needs of LMDB: is the old one sound, what marks did
 * it have, and entering snapshots and marks into the new one.
 *
 * LMDB believes its file: on a page of garbage, or behind the end of a file
 * that was cut, it dies of an assertion or a signal. So whether an index is
 * sound is tried by a child process, which reads every row of every table.
 */

#include "common/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROBE_SECONDS 3600u /* garbage may make a walk go round for ever */

/* ---- probing ---------------------------------------------------------- */

/* Read all of a table; the sum only makes sure that bytes are touched. */
static int probe_table(struct index *index, MDB_txn *txn, int table,
                       unsigned *sum)
{
    vn_auto(index_cursor) MDB_cursor *cursor = NULL;
    MDB_stat st;
    MDB_val key;
    MDB_val value;
    size_t count = 0;
    int rc = mdb_stat(txn, index->tables[table], &st);

    if (rc == 0)
        rc = mdb_cursor_open(txn, index->tables[table], &cursor);
    if (rc == 0)
        rc = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
    for (; rc == 0; rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
        if (count++ == st.ms_entries)
            return -1;
        for (size_t i = 0; i < key.mv_size; i++)
            *sum += ((const uint8_t *)key.mv_data)[i];
        for (size_t i = 0; i < value.mv_size; i++)
            *sum += ((const uint8_t *)value.mv_data)[i];
    }
    return rc == MDB_NOTFOUND && count == st.ms_entries ? 0 : -1;
}

static int probe(const char *dir, const uint8_t store_id[16])
{
    struct vn_err ignored = VN_ERR_INIT;
    struct index *index = index_open(dir, store_id, &ignored);
    volatile unsigned result;
    unsigned sum = 0;
    MDB_txn *txn;

    if (!index)
        return ignored.code == VN_E_CORRUPT ? 1 : 2;
    if (index_begin(index, MDB_RDONLY, &txn, &ignored) < 0)
        return 1;
    for (int i = 0; i < TABLE_COUNT; i++)
        if (probe_table(index, txn, i, &sum) < 0)
            return 1;
    mdb_txn_abort(txn);
    index_close(index);
    result = sum;
    (void)result;
    return 0;
}

static void probe_child(const char *dir, const uint8_t store_id[16])
{
    static const int deadly[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGALRM};
    const struct rlimit none = {0};
    int nowhere = open("/dev/null", O_WRONLY);

    for (size_t i = 0; i < VN_COUNT(deadly); i++)
        signal(deadly[i], SIG_DFL); /* whatever the caller does with them */
    setrlimit(RLIMIT_CORE, &none);
    if (nowhere >= 0)
        dup2(nowhere, STDERR_FILENO); /* LMDB's last words */
    alarm(PROBE_SECONDS);
    _exit(probe(dir, store_id));
}

int index_probe(const char *dir, const uint8_t store_id[16], bool *ret_sound,
                struct vn_err *err)
{
    struct index *index;
    int status = 0;
    pid_t child = fork();

    if (child == 0)
        probe_child(dir, store_id);
    if (child < 0)
        return vn_fail(err, errno, "look at index '%s'", dir);
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            return vn_fail(err, errno, "look at index '%s'", dir);
    *ret_sound = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 2)
        return 0;
    /* Not damage, but no rights, no memory, or a newer format: say which. */
    index = index_open(dir, store_id, err);
    if (!index)
        return -1;
    index_close(index);
    *ret_sound = true;
    return 0;
}

/* ---- marks of the old index ------------------------------------------- */

int index_list_series(struct index *index, index_series_fn *fn, void *context,
                      struct vn_err *err)
{
    vn_auto(index_txn) MDB_txn *txn = NULL;
    vn_auto(index_cursor) MDB_cursor *cursor = NULL;
    MDB_val key;
    MDB_val value;
    int rc;

    if (index_begin(index, MDB_RDONLY, &txn, err) < 0)
        return -1;
    rc = mdb_cursor_open(txn, index->tables[TABLE_SERIES], &cursor);
    if (rc == 0)
        rc = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
    for (; rc == 0; rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
        char series[STORE_NAME_MAX + 1] = {0};
        uint64_t number;

        if (key.mv_size > STORE_NAME_MAX || value.mv_size != sizeof(number))
            return vn_fail(err, VN_E_CORRUPT,
                           "index '%s': a series' row of %zu and %zu bytes",
                           index->dir, key.mv_size, value.mv_size);
        memcpy(series, key.mv_data, key.mv_size);
        memcpy(&number, value.mv_data, sizeof(number));
        fn(context, series, le64toh(number));
    }
    return rc == MDB_NOTFOUND ? 0 : index_fail(index, rc, "list series", err);
}

/* ---- filling the new one ---------------------------------------------- */

static int fill_snapshots(struct index *index, MDB_txn *txn,
                          const struct index_fill *fill, struct vn_err *err)
{
    for (size_t i = 0; i < fill->snapshot_count; i++)
        if (index_put_snapshot(index, txn, &fill->snapshots[i], err) < 0 ||
            index_put_manifest(index, txn, &fill->manifests[i], err) < 0)
            return -1;
    for (size_t i = 0; i < fill->series_count; i++)
        if (index_raise_series(index, txn, fill->series[i].name,
                               fill->series[i].number, err) < 0)
            return -1;
    for (size_t i = 0; i < fill->lost_count; i++)
        if (index_put_lost(index, txn, &fill->lost[i], 0, err) < 0)
            return -1;
    return 0;
}

static int fill_marks(struct index *index, MDB_txn *txn,
                      const struct index_state *state, struct vn_err *err)
{
    const struct {
        const char *key;
        uint64_t value;
    } marks[] = {
        {"next_pack", state->next_pack},
        {"next_seq", state->next_seq},
        {"epoch", state->epoch},
        {"swept", state->swept},
    };

    for (size_t i = 0; i < VN_COUNT(marks); i++)
        if (index_put_u64(index, txn, TABLE_META, index_key_text(marks[i].key),
                          marks[i].value, err) < 0)
            return -1;
    return 0;
}

int index_fill(struct index *index, const struct index_fill *fill,
               struct vn_err *err)
{
    vn_auto(index_txn) MDB_txn *txn = NULL;

    if (index_begin(index, 0, &txn, err) < 0 ||
        fill_snapshots(index, txn, fill, err) < 0 ||
        fill_marks(index, txn, &fill->state, err) < 0)
        return -1;
    return index_commit(index, &txn, err);
}
