#include "store/index_filter.h"

/*
 * The filter's file: a head of a page, then blocks of 512 bits. In the order
 * of bytes of the host, as the file means nothing to another one.
 *
 *     0   8   VNSTFLTR
 *     8   4   version, 1
 *     12  4   1 in the host's order
 *     16  16  store id
 *     32  8   number of blocks
 *     40  8   capacity in chunks
 *     48  16  check of the 48 bytes before (XXH3-128)
 *     64  16  id of the host's boot in which bits were set last
 *     80  4   clean: 1 when all bits that were ever set are on disk
 *     84  4   replaced: 1 when this file counts no more
 *     4096    blocks
 *
 * BITS_PER_CHUNK and seven probes in one cache line: 0.7 % of the misses are
 * not recognised when it is as full as it was made for.
 *
 * The file is mapped and shared: what one process sets another sees, also
 * when the first is killed. What a power loss takes is the matter of `clean`:
 * while it is 0 the file is good in the boot that it names only.
 *
 * A foreign or damaged file: the head is read and checked, with the file's
 * size, before it is mapped; what follows are bits, of which all values are
 * possible, and wrong ones cost space or time only. A file that is cut while
 * it is mapped ends the process (SIGBUS), as it does with LMDB's; nobody does
 * so but who may write into the store anyway. For the same reason the file is
 * written with zeros first: a page of a hole, set through a mapping on a full
 * disk, would be such an end.
 */

#include "common/auto.h"
#include "common/io.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define HEAD_SIZE      4096u
#define HEAD_VERSION   1u
#define BLOCK_SIZE     (FILTER_BLOCK_WORDS * 8u)
#define BLOCKS_MAX     (1ull << 32)
#define BITS_PER_CHUNK 12u
#define ZEROS          65536u
#define SPACE_LEFT     (64u << 20) /* on the file system, beside it */
#define AT_CHECK       48u
#define AT_BOOT        64u
#define AT_CLEAN       80u
#define AT_REPLACED    84u

static_assert(sizeof(atomic_uint_fast64_t) == 8, "bits are set in place");
static_assert(sizeof(atomic_uint) == 4, "marks are set in place");

static void read_boot_id(uint8_t ret[16])
{
    char text[64] = "";
    char hex[33];
    size_t n = 0;
    struct vn_err ignored = VN_ERR_INIT;
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");

    memset(ret, 0, 16);
    if (!file)
        return;
    if (fgets(text, sizeof(text), file))
        for (const char *c = text; *c && n < 32; c++)
            if (*c != '-' && *c != '\n')
                hex[n++] = *c;
    fclose(file);
    hex[n] = 0;
    if (io_unhex(hex, ret, 16, &ignored) < 0)
        memset(ret, 0, 16);
}

static atomic_uint *mark_of(const struct index_filter *filter, size_t at)
{
    return (atomic_uint *)(void *)(filter->map + at);
}

/* Is it of a boot that goes on? One that is not known is over. */
static bool is_this_boot(const struct index_filter *filter)
{
    static const uint8_t unknown[16];
    uint8_t boot[16];

    read_boot_id(boot);
    return memcmp(boot, unknown, 16) != 0 &&
           memcmp(filter->map + AT_BOOT, boot, 16) == 0;
}

static void make_head(const uint8_t store_id[16], uint64_t blocks,
                      uint64_t capacity, uint8_t head[AT_BOOT])
{
    const uint32_t words[2] = {HEAD_VERSION, 1};

    memcpy(head, "VNSTFLTR", 8);
    memcpy(head + 8, words, 8);
    memcpy(head + 16, store_id, 16);
    memcpy(head + 32, &blocks, 8);
    memcpy(head + 40, &capacity, 8);
    ident_check(head, AT_CHECK, head + AT_CHECK);
}

/* The head as it must be, from what it says of sizes. */
static bool head_is_good(int fd, const uint8_t store_id[16], uint64_t size,
                         uint64_t *ret_blocks, uint64_t *ret_capacity)
{
    struct vn_err ignored = VN_ERR_INIT;
    uint8_t head[AT_BOOT];
    uint8_t wanted[AT_BOOT];

    if (size < HEAD_SIZE || io_pread(fd, head, sizeof(head), 0, &ignored) < 0)
        return false;
    memcpy(ret_blocks, head + 32, 8);
    memcpy(ret_capacity, head + 40, 8);
    make_head(store_id, *ret_blocks, *ret_capacity, wanted);
    return memcmp(head, wanted, sizeof(head)) == 0 && *ret_blocks > 0 &&
           *ret_blocks <= BLOCKS_MAX &&
           size == HEAD_SIZE + *ret_blocks * BLOCK_SIZE;
}

static struct index_filter *map_file(int fd, const struct stat *st,
                                     uint64_t blocks, uint64_t capacity)
{
    struct index_filter *filter;
    void *map = mmap(NULL, (size_t)st->st_size, PROT_READ | PROT_WRITE,
                     MAP_SHARED, fd, 0);

    if (map == MAP_FAILED)
        return NULL;
    filter = vn_alloc(sizeof(*filter));
    filter->map = map;
    filter->size = (size_t)st->st_size;
    filter->words = (atomic_uint_fast64_t *)(void *)(filter->map + HEAD_SIZE);
    filter->blocks = blocks;
    filter->capacity = capacity;
    filter->dev = st->st_dev;
    filter->ino = st->st_ino;
    filter->fd = -1;
    atomic_init(&filter->users, 1);
    return filter;
}

struct index_filter *index_filter_open(const char *path,
                                       const uint8_t store_id[16], bool any)
{
    vn_auto(close) int fd =
        open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    struct index_filter *filter;
    uint64_t capacity;
    uint64_t blocks;
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) ||
        !head_is_good(fd, store_id, (uint64_t)st.st_size, &blocks, &capacity))
        return NULL;
    filter = map_file(fd, &st, blocks, capacity);
    if (!filter || any)
        return filter;
    if (!index_filter_replaced(filter) &&
        (atomic_load(mark_of(filter, AT_CLEAN)) == 1 || is_this_boot(filter)))
        return filter;
    index_filter_release(filter);
    return NULL;
}

/* Lock the file; EBUSY when it is locked. */
static int lock_file(int fd, struct vn_err *err)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

    if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
        return 0;
    return vn_fail(err, errno == EAGAIN || errno == EACCES ? EBUSY : errno,
                   "lock a filter");
}

/* Remove what a builder has left, unless it is at work. */
static int remove_old(const char *path, struct vn_err *err)
{
    vn_auto(close) int fd =
        open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

    if (fd >= 0 && lock_file(fd, err) < 0)
        return -1;
    if (unlink(path) < 0 && errno != ENOENT)
        return vn_fail(err, errno, "remove '%s'", path);
    return 0;
}

static int write_file(int fd, const uint8_t *head, uint64_t size,
                      struct vn_err *err)
{
    vn_auto(free) uint8_t *zeros = vn_alloc(ZEROS);
    struct statvfs st;

    /* A hint must not take the last space from those who store. */
    if (fstatvfs(fd, &st) < 0 ||
        (uint64_t)st.f_bavail * st.f_frsize < size + SPACE_LEFT)
        return vn_fail(err, ENOSPC, "a filter of %llu bytes",
                       (unsigned long long)size);
    for (uint64_t at = 0; at < size; at += ZEROS)
        if (io_pwrite(fd, zeros, size - at < ZEROS ? size - at : ZEROS, at,
                      err) < 0)
            return -1;
    return io_pwrite(fd, head, AT_BOOT, 0, err);
}

static struct index_filter *make_file(const char *path,
                                      const uint8_t store_id[16],
                                      uint64_t capacity, struct vn_err *err)
{
    uint64_t blocks = capacity * BITS_PER_CHUNK / (8 * BLOCK_SIZE) + 1;
    vn_auto(close) int fd = -1;
    struct index_filter *filter;
    uint8_t head[AT_BOOT];
    struct stat st;

    if (blocks > BLOCKS_MAX)
        return vn_fail_ptr(err, VN_E_LIMIT, "a filter of %llu chunks",
                           (unsigned long long)capacity);
    fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return vn_fail_ptr(err, errno, "create '%s'", path);
    make_head(store_id, blocks, capacity, head);
    if (lock_file(fd, err) < 0 ||
        write_file(fd, head, HEAD_SIZE + blocks * BLOCK_SIZE, err) < 0)
        return NULL;
    if (fstat(fd, &st) < 0)
        return vn_fail_ptr(err, errno, "look at '%s'", path);
    filter = map_file(fd, &st, blocks, capacity);
    if (!filter)
        return vn_fail_ptr(err, errno, "map '%s'", path);
    filter->fd = vn_steal_fd(&fd);
    read_boot_id(filter->map + AT_BOOT);
    return filter;
}

struct index_filter *index_filter_create(const char *path,
                                         const uint8_t store_id[16],
                                         uint64_t capacity, struct vn_err *err)
{
    struct index_filter *filter;

    if (remove_old(path, err) < 0)
        return NULL;
    filter = make_file(path, store_id, capacity, err);
    if (!filter)
        unlink(path);
    return filter;
}

void index_filter_release(struct index_filter *filter)
{
    if (!filter || atomic_fetch_sub(&filter->users, 1) > 1)
        return;
    munmap(filter->map, filter->size);
    if (filter->fd >= 0)
        close(filter->fd);
    free(filter);
}

bool index_filter_replaced(const struct index_filter *filter)
{
    return atomic_load(mark_of(filter, AT_REPLACED)) != 0;
}

void index_filter_set_replaced(struct index_filter *filter)
{
    atomic_store(mark_of(filter, AT_REPLACED), 1);
    (void)msync(filter->map, HEAD_SIZE, MS_SYNC);
}

int index_filter_clean(struct index_filter *filter, struct vn_err *err)
{
    if (msync(filter->map, filter->size, MS_SYNC) < 0)
        return vn_fail(err, errno, "sync a filter");
    atomic_store(mark_of(filter, AT_CLEAN), 1);
    if (msync(filter->map, HEAD_SIZE, MS_SYNC) < 0)
        return vn_fail(err, errno, "sync a filter");
    return 0;
}

void index_filter_dirty(struct index_filter *filter)
{
    if (atomic_load(mark_of(filter, AT_CLEAN)) == 0)
        return;
    read_boot_id(filter->map + AT_BOOT);
    atomic_store(mark_of(filter, AT_CLEAN), 0);
    /* If that fails the mark may stay: then this file is not to be trusted. */
    if (msync(filter->map, HEAD_SIZE, MS_SYNC) < 0)
        atomic_store(mark_of(filter, AT_REPLACED), 1);
}
