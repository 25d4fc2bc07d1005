#include "store/index_check.h"

/*
 * Which state of LMDB's file is looked at, beside processes that write.
 *
 * There are two meta pages; transaction N writes page N % 2. Both are read by
 * who opens the file, so both must be sound, with numbers that differ by one,
 * each in the page that its lowest bit says. LMDB takes the higher one. One
 * that is just being written may be half of each: it is read again.
 *
 * LMDB never overwrites a page of a state that a reader holds,
 * so under a transaction that reads, the trees stand still; beginning it
 * touches only metas and lock file. Its meta page M is overwritten by the
 * second commit from now. So: begin A, read both metas, begin B. If B has the
 * number of A nothing was published in between, and who would overwrite M
 * begins after the next state is published. Else once more.
 *
 * Why not under the write lock: a reader waits for nobody.
 *
 * Of the other meta page only the number is used then: the next commit may be
 * writing it.
 */

#include "common/io.h"

#include <errno.h>
#include <time.h>
#include <unistd.h>

#define META_TRIES   5u       /* to read metas while one is written */
#define META_WAIT_NS 1000000u /* between two of these */
#define BEGIN_TRIES  1000u    /* to read metas between two commits */

static int read_bytes(int fd, const char *path, uint64_t offset, void *data,
                      size_t size, struct vn_err *err)
{
    if (io_pread(fd, data, size, offset, err) == 0)
        return 0;
    return err->code == VN_E_CORRUPT
               ? index_check_bad(path, "it ends in its meta pages", err)
               : vn_wrap(err, "index '%s'", path);
}

static int read_meta(int fd, const char *path, unsigned number, uint64_t offset,
                     struct lmdb_meta *ret, struct vn_err *err)
{
    uint8_t data[LMDB_META_SIZE];
    bool foreign = false;
    const char *why;

    if (read_bytes(fd, path, offset, data, sizeof(data), err) < 0)
        return -1;
    why = lmdb_meta_parse(data, number, ret, &foreign);
    if (foreign)
        return vn_fail(err, VN_E_VERSION,
                       "index '%s' is of another version of LMDB", path);
    if (why)
        return vn_fail(err, VN_E_CORRUPT,
                       "index '%s' is damaged: page %u: %s (%s)", path, number,
                       why, INDEX_CHECK_ADVICE);
    return 0;
}

/* One page of another version is damage, two are not. */
static int read_both(int fd, const char *path, struct lmdb_meta metas[2],
                     struct vn_err *err)
{
    struct vn_err other = VN_ERR_INIT;
    uint64_t page_size = (uint64_t)sysconf(_SC_PAGESIZE);
    int result = read_meta(fd, path, 0, 0, &metas[0], err);

    if (result == 0)
        page_size = metas[0].page_size;
    if (read_meta(fd, path, 1, page_size, &metas[1], &other) == 0 &&
        result == 0)
        return 0;
    if (result == 0)
        *err = other;
    if (err->code == VN_E_VERSION && (result == 0 || other.code != err->code))
        err->code = VN_E_CORRUPT;
    return -1;
}

static bool follow(uint64_t even, uint64_t odd)
{
    if (even == 0 && odd == 0)
        return true; /* never committed */
    return even % 2 == 0 && (odd == even + 1 || even == odd + 1);
}

static int check_once(int fd, const char *path, struct lmdb_meta *ret,
                      struct vn_err *err)
{
    struct lmdb_meta metas[2];
    uint64_t ignored;

    if (read_both(fd, path, metas, err) < 0)
        return -1;
    if (metas[0].page_size != metas[1].page_size)
        return index_check_bad(path, "its meta pages differ", err);
    if (!follow(metas[0].txnid, metas[1].txnid))
        return index_check_bad(path, "its meta pages do not follow each other",
                               err);
    *ret = metas[metas[0].txnid < metas[1].txnid];
    /* The file's size last: a commit makes it longer first. */
    return index_check_end(fd, path, ret, &ignored, err);
}

int index_check_metas(int fd, const char *path, struct vn_err *err)
{
    const struct timespec wait = {.tv_nsec = META_WAIT_NS};
    struct vn_err why = VN_ERR_INIT;
    struct lmdb_meta ignored;

    for (unsigned i = 0; i < META_TRIES; i++) {
        if (check_once(fd, path, &ignored, &why) == 0)
            return 0;
        if (why.code != VN_E_CORRUPT)
            break;
        nanosleep(&wait, NULL);
    }
    *err = why;
    return -1;
}

int index_check_file(int fd, const char *path, struct vn_err *err)
{
    struct lmdb_meta meta;

    if (check_once(fd, path, &meta, err) < 0)
        return -1;
    return index_check_state(fd, path, &meta, true, err);
}

/* ---- beside writers --------------------------------------------------- */

static int begin(MDB_env *env, const char *path, MDB_txn **ret,
                 struct vn_err *err)
{
    int rc = mdb_txn_begin(env, NULL, MDB_RDONLY, ret);

    if (rc == 0)
        return 0;
    return vn_fail(err, rc == MDB_READERS_FULL ? VN_E_LIMIT : VN_E_CORRUPT,
                   "index '%s': begin a transaction: %s", path,
                   mdb_strerror(rc));
}

static int read_state(int fd, const char *path, uint64_t page_size,
                      uint64_t txnid, struct lmdb_meta *ret, struct vn_err *err)
{
    unsigned number = txnid & 1;
    uint8_t other[LMDB_META_SIZE];
    uint64_t before;

    if (read_meta(fd, path, number, number * page_size, ret, err) < 0 ||
        read_bytes(fd, path, !number * page_size, other, sizeof(other), err) <
            0)
        return -1;
    before = lmdb_meta_txnid(other);
    if (ret->txnid != txnid || ret->page_size != page_size ||
        !follow(number ? before : txnid, number ? txnid : before))
        return index_check_bad(path,
                               "its meta pages are not those of its "
                               "last transaction",
                               err);
    return 0;
}

/* The state that `txn` holds. 1: others have published meanwhile. */
static int read_held(MDB_env *env, MDB_txn *txn, int fd, const char *path,
                     struct lmdb_meta *ret, struct vn_err *err)
{
    uint64_t txnid = mdb_txn_id(txn);
    MDB_txn *after;
    MDB_stat st;
    int result;

    mdb_env_stat(env, &st);
    result = read_state(fd, path, st.ms_psize, txnid, ret, err);
    if (begin(env, path, &after, err) < 0)
        return -1;
    if (mdb_txn_id(after) != txnid)
        result = 1;
    mdb_txn_abort(after);
    return result;
}

static bool is_small(const struct lmdb_meta *meta)
{
    return meta->page_count <= INDEX_CHECK_AT_OPEN / meta->page_size;
}

int index_check_env(MDB_env *env, const char *path, bool whole,
                    struct vn_err *err)
{
    int result = 1;
    int fd;

    if (mdb_env_get_fd(env, &fd))
        return vn_fail(err, EINVAL, "index '%s'", path);
    if (index_check_metas(fd, path, err) < 0)
        return -1;
    for (unsigned i = 0; i < BEGIN_TRIES && result > 0; i++) {
        struct lmdb_meta meta;
        MDB_txn *txn;

        if (begin(env, path, &txn, err) < 0)
            return -1;
        result = read_held(env, txn, fd, path, &meta, err);
        if (result == 0)
            result = index_check_state(fd, path, &meta,
                                       whole || is_small(&meta), err);
        mdb_txn_abort(txn);
    }
    return result <= 0 ? result
                       : vn_fail(err, EAGAIN,
                                 "index '%s': others commit too "
                                 "often to look at it",
                                 path);
}
