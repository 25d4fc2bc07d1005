#include "store/store_internal.h"

/*
 * The reserve: disk space that the store holds in the file "reserve", to let
 * go of when nothing else is left.
 *
 * Writers stop while some space is left (store_check_space()), so that
 * snapshots can be deleted and collected on a disk that the store itself has
 * filled. Someone else may take that space too, to the last byte. A delete
 * needs a pack and two transactions, gc several of these, and LMDB writes
 * changed pages to new places: without space there would be no way to make
 * space.
 *
 * The file has blocks but no bytes (FALLOC_FL_KEEP_SIZE): it costs no time, a
 * copy of the store has an empty one, and it means nothing to anybody but for
 * the blocks. Where the file system cannot do that there is no reserve. It is
 * let go by removing it, which writes to the journal only, and taken again when
 * a commit or a gc ends with much space free. Nothing is synced: losing it is
 * harmless.
 */

#include "common/auto.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define RESERVE_SIZE (4u << 20)
#define LOW          (1u << 20) /* with less free space it is needed */
#define PLENTY       (16ull * RESERVE_SIZE) /* with less, none is taken */
#define BLOCK        512u                   /* unit of st_blocks */

static uint64_t free_space(struct store *store)
{
    struct vn_err ignored = VN_ERR_INIT;
    uint64_t bytes;

    return engine_free_space(store->engine, &bytes, &ignored) < 0 ? UINT64_MAX
                                                                  : bytes;
}

void store_reserve_release(struct store *store)
{
    vn_auto(free) char *path = vn_format("%s/reserve", store->path);

    if (free_space(store) < LOW)
        unlink(path);
}

void store_reserve_renew(struct store *store)
{
    vn_auto(free) char *path = vn_format("%s/reserve", store->path);
    vn_auto(close) int fd = -1;
    struct stat st;

    if (stat(path, &st) == 0 && (uint64_t)st.st_blocks * BLOCK >= RESERVE_SIZE)
        return;
    if (free_space(store) < PLENTY)
        return;
    fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd >= 0 && fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, RESERVE_SIZE) < 0)
        unlink(path);
}
