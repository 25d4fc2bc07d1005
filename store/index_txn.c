#include "store/index_internal.h"

/*
 * Transactions.
 *
 * Who writes waits for others here, not in LMDB. Its lock is a robust mutex in
 * shared memory, and that one can lose a wake-up: a process that was woken
 * and is killed before it takes the lock, while yet another takes it, leaves
 * whoever waits behind it asleep until somebody else contends (seen in a test
 * that kills processes, once in some hundred runs). So a byte of LMDB's file is
 * locked first (F_OFD_SETLKW), where the kernel does the waiting, and among the
 * threads of a process, who share the file's description, a mutex. LMDB's own
 * lock is then free, but for programs that know nothing of this; it goes on to
 * guard the file, so where the byte cannot be locked (a file system without
 * such locks) nothing is lost but this.
 */

#include "common/fault.h"

#include <errno.h>
#include <fcntl.h>

#define WRITER_BYTE (1ll << 61) /* far behind the file's end */

static void lock_byte(const struct index *index, short type)
{
    struct flock lock = {.l_type = type,
                         .l_whence = SEEK_SET,
                         .l_start = WRITER_BYTE,
                         .l_len = 1};
    int fd;

    if (mdb_env_get_fd(index->env, &fd))
        return;
    while (fcntl(fd, F_OFD_SETLKW, &lock) < 0 && errno == EINTR)
        ;
}

static void begin_writing(struct index *index)
{
    pthread_mutex_lock(&index->writing);
    lock_byte(index, F_WRLCK);
}

static void end_writing(struct index *index)
{
    atomic_store(&index->writer, NULL);
    lock_byte(index, F_UNLCK);
    pthread_mutex_unlock(&index->writing);
}

int index_begin(struct index *index, unsigned flags, MDB_txn **ret,
                struct vn_err *err)
{
    bool writes = !(flags & MDB_RDONLY);
    int rc;

    if (writes)
        begin_writing(index);
    rc = mdb_txn_begin(index->env, NULL, flags, ret);
    if (rc == MDB_READERS_FULL) {
        int dead;

        mdb_reader_check(index->env, &dead);
        rc = mdb_txn_begin(index->env, NULL, flags, ret);
    }
    if (writes && rc)
        end_writing(index);
    else if (writes)
        atomic_store(&index->writer, *ret);
    return rc ? index_fail(index, rc, "begin a transaction", err) : 0;
}

void index_txn_abort(MDB_txn *txn)
{
    struct index *index;
    bool writes;

    if (!txn)
        return;
    index = mdb_env_get_userctx(mdb_txn_env(txn));
    writes = atomic_load(&index->writer) == txn;
    mdb_txn_abort(txn);
    if (writes)
        end_writing(index);
}

int index_commit(struct index *index, MDB_txn **txn, struct vn_err *err)
{
    MDB_txn *taken = vn_steal(txn);
    bool writes = atomic_load(&index->writer) == taken;
    int rc;

    if (fault_hit("store.index.commit")) {
        index_txn_abort(taken);
        return vn_fail(err, EIO, "index '%s': commit", index->dir);
    }
    rc = mdb_txn_commit(taken);
    if (writes)
        end_writing(index);
    if (rc)
        return index_fail(index, rc, "commit", err);
    /* For "kill": what was committed is durable from here on. */
    (void)fault_hit("store.index.committed");
    return 0;
}
