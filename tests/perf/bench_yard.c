#include "bench_yard.h"
#include "bench_data.h"
#include "bench_figure.h"

/*
 * How the disk is measured: O_DIRECT, blocks of 8 MiB (a pack), one request at
 * a time, which is how the store writes its packs. A disk behind a hypervisor
 * may still have a cache of its own; what "cold" means is only that this
 * machine's page cache was dropped.
 */

#include "common/clock.h"
#include "store/ident.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <lz4.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK_SIZE (8u << 20)
#define PACKS_MAX  65536u

static double since(uint64_t begin_ns)
{
    return (double)(clock_now_ns() - begin_ns) / 1e9;
}

double yard_memcpy(uint8_t *to, const uint8_t *from, size_t size)
{
    uint64_t begin = clock_now_ns();

    memcpy(to, from, size);
    __asm__ volatile("" : : "r"(to) : "memory");
    return since(begin);
}

double yard_lz4(const uint8_t *data, size_t size, uint64_t *ret_size)
{
    char out[LZ4_COMPRESSBOUND(BENCH_PAGE)];
    uint64_t begin = clock_now_ns(), total = 0;

    for (size_t i = 0; i < size; i += BENCH_PAGE)
        total += (uint64_t)LZ4_compress_default((const char *)data + i, out,
                                                BENCH_PAGE, sizeof(out));
    *ret_size = total;
    return since(begin);
}

struct part {
    const uint8_t *data;
    size_t size;
};

static void *compress_part(void *context)
{
    const struct part *part = context;
    uint64_t compressed;

    yard_lz4(part->data, part->size, &compressed);
    return NULL;
}

double yard_lz4_threads(const uint8_t *data, size_t size, long cores)
{
    size_t pages = size / BENCH_PAGE / (size_t)cores;
    pthread_t *threads = calloc((size_t)cores, sizeof(*threads));
    struct part *parts = calloc((size_t)cores, sizeof(*parts));
    uint64_t begin = clock_now_ns();
    double took;

    if (!threads || !parts)
        abort();
    for (long i = 0; i < cores; i++) {
        parts[i].data = data + (size_t)i * pages * BENCH_PAGE;
        parts[i].size = pages * BENCH_PAGE;
        if (pthread_create(&threads[i], NULL, compress_part, &parts[i]))
            die("no thread");
    }
    for (long i = 0; i < cores; i++)
        pthread_join(threads[i], NULL);
    took = since(begin);
    free(threads);
    free(parts);
    return took;
}

double yard_blake3(const uint8_t *data, size_t size)
{
    static const uint8_t key[IDENT_KEY_SIZE] = {1}, secret[IDENT_SECRET_SIZE];
    struct ident_full ids[IDENT_BATCH];
    const uint8_t *pages[IDENT_BATCH];
    struct ident ident = {0};
    uint64_t begin;

    ident_init(&ident, STORE_BLAKE3, key, secret);
    begin = clock_now_ns();
    for (size_t i = 0; i < size; i += sizeof(pages) / 8 * BENCH_PAGE) {
        for (size_t k = 0; k < IDENT_BATCH; k++)
            pages[k] = data + i + k * BENCH_PAGE;
        ident_pages(&ident, pages, IDENT_BATCH, ids);
        __asm__ volatile("" : : "r"(ids) : "memory");
    }
    return since(begin);
}

/* A block for O_DIRECT; the caller frees it. */
static uint8_t *new_block(void)
{
    void *block;

    if (posix_memalign(&block, 4096, BLOCK_SIZE))
        abort();
    return block;
}

double yard_disk_write(const char *dir, const uint8_t *data, size_t data_size,
                       uint64_t size)
{
    char path[4096];
    uint8_t *block = new_block();
    uint64_t begin, at = 0;
    double took;
    int fd;

    snprintf(path, sizeof(path), "%s/yardstick", dir);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_DIRECT | O_CLOEXEC, 0600);
    if (fd < 0)
        die("open '%s': %s", path, strerror(errno));
    begin = clock_now_ns();
    for (; at < size; at += BLOCK_SIZE) {
        size_t n = size - at < BLOCK_SIZE ? (size_t)(size - at) : BLOCK_SIZE;

        memcpy(block, data + at % (data_size - BLOCK_SIZE + 1), n);
        n = (n + 4095) & ~(size_t)4095;
        if (pwrite(fd, block, n, (off_t)at) != (ssize_t)n)
            die("write '%s': %s", path, strerror(errno));
    }
    if (fsync(fd) < 0)
        die("fsync '%s': %s", path, strerror(errno));
    took = since(begin);
    close(fd);
    unlink(path);
    free(block);
    return took;
}

/* ---- files of a store -------------------------------------------------- */

/* nftw has no context. One store at a time. */
static struct {
    char *paths[PACKS_MAX];
    size_t count;
} found;

static int add_file(const char *path, const struct stat *st, int type,
                    struct FTW *where)
{
    (void)st;
    (void)where;
    if (type == FTW_F && found.count < PACKS_MAX)
        found.paths[found.count++] = strdup(path);
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void find_files(const char *store, const char *below)
{
    char dir[4096];

    while (found.count > 0)
        free(found.paths[--found.count]);
    snprintf(dir, sizeof(dir), "%s%s", store, below);
    if (nftw(dir, add_file, 16, FTW_PHYS) < 0)
        die("list '%s': %s", dir, strerror(errno));
    qsort(found.paths, found.count, sizeof(found.paths[0]), by_name);
}

static int open_file(const char *path, int flags)
{
    int fd = open(path, flags | O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        die("open '%s': %s", path, strerror(errno));
    return fd;
}

double yard_read_packs(const char *store, int direct, uint64_t *ret_size)
{
    uint8_t *block = new_block();
    uint64_t begin, total = 0;
    double took;

    find_files(store, "/packs");
    begin = clock_now_ns();
    for (size_t i = 0; i < found.count; i++) {
        int fd = open_file(found.paths[i], direct ? O_DIRECT : 0);
        ssize_t n;

        while ((n = read(fd, block, BLOCK_SIZE)) > 0)
            total += (uint64_t)n;
        if (n < 0)
            die("read '%s': %s", found.paths[i], strerror(errno));
        close(fd);
    }
    took = since(begin);
    free(block);
    *ret_size = total;
    return took;
}

double yard_random_read(const char *store, size_t count)
{
    struct prng prng = {7};
    int *fds;
    off_t *sizes;
    uint64_t begin;
    double took;
    uint8_t page[4096];

    find_files(store, "/packs");
    fds = calloc(found.count, sizeof(*fds));
    sizes = calloc(found.count, sizeof(*sizes));
    for (size_t i = 0; i < found.count; i++) {
        fds[i] = open_file(found.paths[i], 0);
        sizes[i] = lseek(fds[i], 0, SEEK_END);
    }
    begin = clock_now_ns();
    for (size_t done = 0; done < count; done++) {
        size_t i = (size_t)(prng_next(&prng) % found.count);
        off_t pages = sizes[i] / (off_t)sizeof(page) + 1;

        if (pread(fds[i], page, sizeof(page),
                  (off_t)(prng_next(&prng) % (uint64_t)pages) * 4096) < 0)
            die("read '%s': %s", found.paths[i], strerror(errno));
    }
    took = since(begin);
    for (size_t i = 0; i < found.count; i++)
        close(fds[i]);
    free(fds);
    free(sizes);
    return took;
}

void yard_drop_cache(const char *store)
{
    find_files(store, "");
    for (size_t i = 0; i < found.count; i++) {
        int fd = open_file(found.paths[i], 0);

        if (i == 0 && syncfs(fd) < 0)
            die("syncfs: %s", strerror(errno));
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        close(fd);
    }
}

double yard_cached(const char *store)
{
    static uint8_t resident[1u << 16]; /* pages of one pack */
    uint64_t pages = 0, cached = 0;

    find_files(store, "/packs");
    for (size_t i = 0; i < found.count; i++) {
        int fd = open_file(found.paths[i], 0);
        off_t size = lseek(fd, 0, SEEK_END);
        size_t n = (size_t)(size + 4095) / 4096;
        void *at = size > 0
                       ? mmap(NULL, (size_t)size, PROT_READ, MAP_SHARED, fd, 0)
                       : MAP_FAILED;

        if (at != MAP_FAILED && n <= sizeof(resident) &&
            mincore(at, (size_t)size, resident) == 0)
            for (size_t k = 0; k < n; k++, pages++)
                cached += resident[k] & 1;
        if (at != MAP_FAILED)
            munmap(at, (size_t)size);
        close(fd);
    }
    return pages ? (double)cached / (double)pages : 0;
}
