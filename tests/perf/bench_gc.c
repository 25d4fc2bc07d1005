#include "bench_run.h"

/*
 * Collection of a store of four images (a million chunks at 1 GiB each), of
 * which two are needed by no snapshot any more.
 *
 * gc.whole   the dead images were stored before the others: packs are wholly
 *            dead or wholly alive, as when old snapshots go
 * gc.mixed   dead and living images took turns at every MiB: every pack is half
 *            dead, and all that lives must be moved. Nothing is worse. (At a
 *            threshold of 40 percent, lest chance decides which packs are.)
 * gc.writer  by how much a writer in another process is slowed down meanwhile
 *
 * The yardstick of the first two: reading the packs with living chunks once,
 * from the disk. gc begins with a cold page cache as well. After each run the
 * living images are compared with what was put.
 */

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIXED_THRESHOLD 40u
#define RUN_SIZE        (1u << 20)
#define GROUPS          2u  /* a group: a dead image and a living one */
#define WRITER_IMAGE    64u /* runs in each image of the writer beside gc */
#define WINDOW_NS       (1500 * VN_MS)

enum { DEAD, LIVE, KINDS };

/* A run of the image, made unique by a stamp in the random head of each page.
 * Yields its size. */
static size_t stamped(const struct bench *b, uint8_t *run, size_t offset,
                      uint64_t stamp)
{
    size_t size = b->size - offset < RUN_SIZE ? b->size - offset : RUN_SIZE;
    struct prng prng = {stamp};
    uint64_t mask = prng_next(&prng), head;

    memcpy(run, b->image + offset, size);
    for (size_t i = 0; i < size; i += BENCH_PAGE) {
        memcpy(&head, run + i, sizeof(head));
        head ^= mask;
        memcpy(run + i, &head, sizeof(head));
    }
    return size;
}

static uint64_t stamp_of(unsigned kind, unsigned group)
{
    return 1 + group * KINDS + kind;
}

static struct image_writer *open_image(const struct bench *b,
                                       struct store_writer *writer)
{
    struct vn_err err = VN_ERR_INIT;
    struct image_writer *image = image_writer_open(writer, b->size, NULL, &err);

    if (!image)
        die("%s", err.msg);
    return image;
}

static void put_run(const struct bench *b, struct image_writer *image,
                    size_t offset, uint64_t stamp)
{
    static uint8_t run[RUN_SIZE];
    struct vn_err err = VN_ERR_INIT;
    size_t size = stamped(b, run, offset, stamp);

    if (image_writer_put(image, offset, run, size, &err) < 0)
        die("%s", err.msg);
}

static void finish(struct image_writer *image, struct map_root *ret)
{
    struct vn_err err = VN_ERR_INIT;

    if (image_writer_finish(image, ret, &err) < 0)
        die("%s", err.msg);
    image_writer_free(image);
}

struct roots {
    struct map_root of[KINDS][GROUPS];
};

static void put_whole(const struct bench *b, struct store_writer *writer,
                      struct roots *roots)
{
    for (unsigned kind = 0; kind < KINDS; kind++)
        for (unsigned g = 0; g < GROUPS; g++) {
            struct image_writer *image = open_image(b, writer);

            for (size_t at = 0; at < b->size; at += RUN_SIZE)
                put_run(b, image, at, stamp_of(kind, g));
            finish(image, &roots->of[kind][g]);
        }
}

static void put_mixed(const struct bench *b, struct store_writer *writer,
                      struct roots *roots)
{
    for (unsigned g = 0; g < GROUPS; g++) {
        struct image_writer *images[KINDS];

        for (unsigned kind = 0; kind < KINDS; kind++)
            images[kind] = open_image(b, writer);
        for (size_t at = 0; at < b->size; at += RUN_SIZE)
            for (unsigned kind = 0; kind < KINDS; kind++)
                put_run(b, images[kind], at, stamp_of(kind, g));
        for (unsigned kind = 0; kind < KINDS; kind++)
            finish(images[kind], &roots->of[kind][g]);
    }
}

static void commit_all(struct store *store, const char *name,
                       const struct map_root *roots)
{
    json_t *manifest = manifest_new(name, "files");
    struct vn_err err = VN_ERR_INIT;
    char object[32];

    for (unsigned g = 0; g < GROUPS; g++) {
        snprintf(object, sizeof(object), "image%u", g);
        manifest_add(manifest, object, &roots[g]);
    }
    if (store_commit(store, manifest, &err) < 0)
        die("%s", err.msg);
    json_decref(manifest);
}

/* A new store "gc", half of it dead. */
static void make_half_dead(const struct bench *b, bool mixed,
                           struct roots *roots)
{
    struct store *store = bench_new_store(b, "gc");
    struct vn_err err = VN_ERR_INIT;
    struct store_writer *writer = store_writer_open(store, &err);

    if (!writer)
        die("%s", err.msg);
    if (mixed)
        put_mixed(b, writer, roots);
    else
        put_whole(b, writer, roots);
    if (store_writer_flush(writer, &err) < 0)
        die("%s", err.msg);
    commit_all(store, "dead", roots->of[DEAD]);
    commit_all(store, "live", roots->of[LIVE]);
    store_writer_free(writer);
    if (store_delete(store, "dead", &err) < 0)
        die("%s", err.msg);
    store_close(store);
}

static void check_live(const struct bench *b, struct store *store,
                       const struct roots *roots)
{
    static uint8_t run[RUN_SIZE];

    for (unsigned g = 0; g < GROUPS; g++) {
        memset(b->other, 0xaa, b->size);
        bench_get(store, &roots->of[LIVE][g], b->other);
        for (size_t at = 0; at < b->size; at += RUN_SIZE) {
            size_t size = stamped(b, run, at, stamp_of(LIVE, g));

            if (memcmp(run, b->other + at, size) != 0)
                die("gc: what was read is not what was stored");
        }
    }
}

static struct store_gc_counts collect(struct store *store, bool mixed)
{
    const struct store_gc_opts opts = {
        .threshold_percent = mixed ? MIXED_THRESHOLD : STORE_GC_THRESHOLD,
        .wait_ms = 60000};
    struct store_gc_counts counts;
    struct vn_err err = VN_ERR_INIT;

    if (store_gc(store, &opts, &counts, &err) < 0)
        die("%s", err.msg);
    return counts;
}

/* ---- alone ------------------------------------------------------------- */

static double read_live(const struct bench *b)
{
    uint64_t bytes;

    yard_drop_cache(bench_path(b, "gc"));
    return yard_read_packs(bench_path(b, "gc"), 1, &bytes);
}

static void gc_run(const struct bench *b, bool mixed, struct figure *f)
{
    struct store_gc_counts counts;
    struct store *store;
    struct roots roots;
    uint64_t begin;

    make_half_dead(b, mixed, &roots);
    if (mixed) /* all packs have living chunks */
        runs_add(&f->yardsticks[0].runs, read_live(b));
    yard_drop_cache(bench_path(b, "gc"));
    begin = clock_now_ns();
    store = bench_open_store(b, "gc");
    counts = collect(store, mixed);
    runs_add(&f->runs, bench_since(begin));
    figure_detail(f, "chunks", json_integer((json_int_t)counts.chunks));
    figure_detail(f, "chunks_removed",
                  json_integer((json_int_t)counts.chunks_removed));
    figure_detail(f, "packs_rewritten",
                  json_integer((json_int_t)counts.packs_rewritten));
    check_live(b, store, &roots);
    store_close(store);
    if (!mixed) /* only those with living chunks are left */
        runs_add(&f->yardsticks[0].runs, read_live(b));
    bench_remove(b, "gc");
}

/* ---- beside a writer --------------------------------------------------- */

static atomic_uint_fast64_t *written; /* bytes, shared with the writer */

static _Noreturn void write_forever(const struct bench *b)
{
    struct store *store;

    bench_threads(1);
    store = bench_open_store(b, "gc");
    for (uint64_t stamp = 1000;; stamp++) {
        struct vn_err err = VN_ERR_INIT;
        struct store_writer *writer = store_writer_open(store, &err);
        struct image_writer *image;
        struct map_root root;

        if (!writer)
            die("%s", err.msg);
        image = open_image(b, writer);
        for (size_t i = 0; i < WRITER_IMAGE && i * RUN_SIZE < b->size; i++) {
            put_run(b, image, i * RUN_SIZE, stamp);
            *written += RUN_SIZE;
        }
        finish(image, &root);
        if (store_writer_flush(writer, &err) < 0)
            die("%s", err.msg);
        store_writer_free(writer);
    }
}

static double write_rate(uint64_t begin_ns, uint64_t before)
{
    return bench_rate((double)(*written - before), bench_since(begin_ns));
}

static void gc_beside_writer(const struct bench *b, struct figure *f)
{
    struct timespec window = {WINDOW_NS / VN_SEC, WINDOW_NS % VN_SEC};
    struct store *store;
    struct roots roots;
    double alone, beside;
    uint64_t begin, before;
    pid_t writer;

    make_half_dead(b, true, &roots);
    *written = 0;
    writer = fork();
    if (writer == 0)
        write_forever(b);
    while (*written == 0)
        usleep(1000);
    begin = clock_now_ns();
    before = *written;
    nanosleep(&window, NULL);
    alone = write_rate(begin, before);
    store = bench_open_store(b, "gc");
    begin = clock_now_ns();
    before = *written;
    collect(store, true);
    beside = write_rate(begin, before);
    figure_detail(f, "gc_s", json_real(bench_since(begin)));
    kill(writer, SIGKILL);
    waitpid(writer, NULL, 0);
    runs_add(&f->runs, 100 * (1 - beside / alone));
    runs_add(&f->yardsticks[0].runs, alone);
    check_live(b, store, &roots);
    store_close(store);
    bench_remove(b, "gc");
}

void bench_gc(const struct bench *b)
{
    struct figure whole = {.name = "gc.whole",
                           .unit = "s",
                           .yardsticks = {{.name = "reading live packs"}}};
    struct figure mixed = {.name = "gc.mixed",
                           .unit = "s",
                           .yardsticks = {{.name = "reading live packs"}}};
    struct figure writer = {.name = "gc.writer",
                            .unit = "% slower",
                            .yardsticks = {{.name = "writer alone, MB/s"}}};

    written = mmap(NULL, sizeof(*written), PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (written == MAP_FAILED)
        die("no shared memory");
    for (unsigned i = 0; i < b->runs; i++) {
        gc_run(b, false, &whole);
        gc_run(b, true, &mixed);
        gc_beside_writer(b, &writer);
    }
    munmap(written, sizeof(*written));
    figure_print(&whole);
    figure_print(&mixed);
    figure_print(&writer);
}
