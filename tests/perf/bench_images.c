#include "bench_run.h"

/*
 * Images into the store and out of it.
 *
 * first       pages that nobody has, 2.0 to 1 by LZ4, into an empty store, from
 *             RAM until committed. The limit is LZ4 on all cores, or the disk
 *             with the bytes that were written, whichever is slower. What LZ4
 *             alone does on all cores at once is shown as well.
 * again       the same image once more, and one with a tenth of its pages
 *             changed, with the first one as parent. The limit is memory.
 * duplicates  the same pages in another order and without a parent: another VM.
 *             The limit is the hash that identifies them.
 * restore     the image back into RAM; compared with the original after each
 *             run. The destination is overwritten before, lest an old copy
 * pass. pages       one page of 4 KiB a call, at random.
 *
 * Figures of a core: one thread, which is also what a VM on a busy host gets.
 */

#include <stdio.h>
#include <string.h>

static void check_equal(const struct bench *b, const char *what)
{
    if (memcmp(b->image, b->other, b->size) != 0)
        die("%s: what was read is not what was stored", what);
}

/* ---- first ------------------------------------------------------------- */

static void first_runs(const struct bench *b, struct figure *f, double *ratio)
{
    for (unsigned i = 0; i < b->runs; i++) {
        struct store *store = bench_new_store(b, "first");
        struct put_result put = bench_put(store, "a", b->image, b->size, NULL);
        double raw = (double)b->size, took;
        uint64_t compressed;

        store_close(store);
        runs_add(&f->runs, bench_rate(raw, put.seconds));
        figure_detail(f, "commit_s", json_real(put.commit_seconds));
        took = yard_lz4(b->image, b->size, &compressed);
        runs_add(&f->yardsticks[0].runs, bench_rate(raw, took));
        *ratio = raw / (double)compressed;
        took =
            yard_disk_write(b->dir, b->image, b->size, put.counts.bytes_stored);
        runs_add(&f->yardsticks[1].runs, bench_rate(raw, took));
        figure_detail(
            f, "disk_write_mb_s",
            json_real(bench_rate((double)put.counts.bytes_stored, took)));
        bench_remove(b, "first");
    }
}

/* What LZ4 alone does on all cores at once: they may share more than they
 * should. */
static void limit_runs(const struct bench *b, struct figure *f)
{
    uint64_t compressed;

    for (unsigned i = 0; i < b->runs; i++) {
        double raw = (double)b->size;
        double took = yard_lz4_threads(b->image, b->size, b->cores);

        runs_add(&f->runs, bench_rate(raw, took));
        took = yard_lz4(b->image, b->size, &compressed);
        runs_add(&f->yardsticks[0].runs, bench_rate(raw, took));
    }
}

void bench_first(const struct bench *b)
{
    struct figure all = {
        .name = "ingest.first",
        .unit = "MB/s",
        .yardsticks = {{.name = "cores x LZ4", .factor = (double)b->cores},
                       {.name = "disk, same packs"}}};
    struct figure core = {
        .name = "ingest.first.core",
        .unit = "MB/s",
        .yardsticks = {{.name = "LZ4"}, {.name = "disk, same packs"}}};
    struct figure limit = {
        .name = "limit.lz4",
        .unit = "MB/s",
        .yardsticks = {{.name = "cores x LZ4", .factor = (double)b->cores}}};
    double ratio;

    first_runs(b, &all, &ratio);
    figure_detail(&all, "lz4_ratio", json_real(ratio));
    figure_print(&all);
    limit_runs(b, &limit);
    figure_print(&limit);
    bench_threads(1);
    first_runs(b, &core, &ratio);
    bench_threads(0);
    figure_print(&core);
}

/* ---- again ------------------------------------------------------------- */

/* Put what `other` is made to be by copying (which is the yardstick) and
 * changing. */
static void again_run(const struct bench *b, struct store *store,
                      const struct map_root *parent, struct figure *f,
                      uint64_t change_seed)
{
    double took = yard_memcpy(b->other, b->image, b->size);
    struct put_result put;
    char name[64];

    runs_add(&f->yardsticks[0].runs, bench_rate((double)b->size, took));
    if (change_seed)
        data_change(b->other, b->size, change_seed);
    snprintf(name, sizeof(name), "again-%zu-%llu", f->runs.count,
             (unsigned long long)change_seed);
    put = bench_put(store, name, b->other, b->size, parent);
    runs_add(&f->runs, bench_rate((double)b->size, put.seconds));
    figure_detail(
        f, "new_percent",
        json_real(100.0 * (double)put.counts.bytes_new / (double)b->size));
    figure_detail(f, "commit_s", json_real(put.commit_seconds));
}

static void again_figures(const struct bench *b, struct figure *same,
                          struct figure *changed, uint64_t seed)
{
    struct store *store = bench_new_store(b, "again");
    struct map_root root = bench_put(store, "a", b->image, b->size, NULL).root;

    for (unsigned i = 0; i < b->runs; i++) {
        again_run(b, store, &root, same, 0);
        again_run(b, store, &root, changed, seed + i);
    }
    store_close(store);
    bench_remove(b, "again");
    figure_print(same);
    figure_print(changed);
}

void bench_again(const struct bench *b)
{
    const struct yardstick yard = {.name = "memcpy"};
    struct figure same = {
        .name = "ingest.same.core", .unit = "MB/s", .yardsticks = {yard}};
    struct figure changed = {
        .name = "ingest.changed.core", .unit = "MB/s", .yardsticks = {yard}};
    struct figure same_all = {
        .name = "ingest.same", .unit = "MB/s", .yardsticks = {yard}};
    struct figure changed_all = {
        .name = "ingest.changed", .unit = "MB/s", .yardsticks = {yard}};

    bench_threads(1);
    again_figures(b, &same, &changed, 1000);
    bench_threads(0);
    again_figures(b, &same_all, &changed_all, 2000);
}

/* ---- duplicates -------------------------------------------------------- */

void bench_duplicates(const struct bench *b)
{
    struct figure f = {.name = "ingest.duplicates.core",
                       .unit = "MB/s",
                       .yardsticks = {{.name = "keyed BLAKE3 x 16"}}};
    struct store *store;

    bench_threads(1);
    store = bench_new_store(b, "duplicates");
    bench_put(store, "a", b->image, b->size, NULL);
    for (unsigned i = 0; i < b->runs; i++) {
        struct put_result put;
        double took;

        data_shuffle(b->other, b->image, b->size, 3000 + i);
        put = bench_put(store, NULL, b->other, b->size, NULL);
        runs_add(&f.runs, bench_rate((double)b->size, put.seconds));
        if (put.counts.bytes_known != b->size)
            die("duplicates: not all pages were found");
        took = yard_blake3(b->other, b->size);
        runs_add(&f.yardsticks[0].runs, bench_rate((double)b->size, took));
    }
    store_close(store);
    bench_threads(0);
    bench_remove(b, "duplicates");
    figure_print(&f);
}

/* ---- restore ----------------------------------------------------------- */

static void restore_warm(const struct bench *b, const struct map_root *root,
                         struct figure *f)
{
    struct store *store = bench_open_store(b, "restore");

    for (unsigned i = 0; i < b->runs; i++) {
        double took = yard_memcpy(b->other, b->image, b->size);

        runs_add(&f->yardsticks[0].runs, bench_rate((double)b->size, took));
        memset(b->other, 0xaa, b->size);
        took = bench_get(store, root, b->other);
        runs_add(&f->runs, bench_rate((double)b->size, took));
        check_equal(b, f->name);
    }
    store_close(store);
    figure_print(f);
}

static void restore_cold(const struct bench *b, const struct map_root *root)
{
    struct figure f = {.name = "restore.cold",
                       .unit = "MB/s",
                       .yardsticks = {{.name = "disk, same packs"}}};
    double cached = 0;

    for (unsigned i = 0; i < b->runs; i++) {
        struct store *store;
        uint64_t stored;
        double took;

        memset(b->other, 0xaa, b->size);
        yard_drop_cache(bench_path(b, "restore"));
        cached += yard_cached(bench_path(b, "restore"));
        store = bench_open_store(b, "restore");
        took = bench_get(store, root, b->other);
        store_close(store);
        runs_add(&f.runs, bench_rate((double)b->size, took));
        check_equal(b, f.name);
        yard_drop_cache(bench_path(b, "restore"));
        took = yard_read_packs(bench_path(b, "restore"), 1, &stored);
        runs_add(&f.yardsticks[0].runs, bench_rate((double)b->size, took));
        figure_detail(&f, "disk_read_mb_s",
                      json_real(bench_rate((double)stored, took)));
    }
    figure_detail(&f, "still_cached", json_real(cached / b->runs));
    figure_detail(&f, "dropped_by",
                  json_string("posix_fadvise(DONTNEED) on the store's files"));
    figure_print(&f);
}

void bench_restore(const struct bench *b)
{
    const struct yardstick yard = {.name = "memcpy"};
    struct figure warm = {
        .name = "restore.warm", .unit = "MB/s", .yardsticks = {yard}};
    struct figure core = {
        .name = "restore.warm.core", .unit = "MB/s", .yardsticks = {yard}};
    struct store *store = bench_new_store(b, "restore");
    struct map_root root = bench_put(store, "a", b->image, b->size, NULL).root;

    store_close(store);
    restore_warm(b, &root, &warm);
    bench_threads(1);
    restore_warm(b, &root, &core);
    bench_threads(0);
    restore_cold(b, &root);
    bench_remove(b, "restore");
}

/* ---- pages ------------------------------------------------------------- */

/* `count` pages in an order that depends on the seed; compared if `check`. */
static double read_pages(const struct bench *b, struct image_reader *reader,
                         size_t count, uint64_t seed, bool check)
{
    struct prng prng = {seed};
    struct vn_err err = VN_ERR_INIT;
    uint64_t begin = clock_now_ns();
    uint8_t page[BENCH_PAGE];

    for (size_t i = 0; i < count; i++) {
        uint64_t at = prng_next(&prng) % (b->size / BENCH_PAGE) * BENCH_PAGE;

        if (image_reader_read(reader, at, page, sizeof(page), &err) < 0)
            die("%s", err.msg);
        if (check && memcmp(page, b->image + at, sizeof(page)) != 0)
            die("pages: what was read is not what was stored");
    }
    return bench_since(begin);
}

void bench_pages(const struct bench *b)
{
    struct figure f = {.name = "pages.random.core",
                       .unit = "pages/s",
                       .yardsticks = {{.name = "pread of 4 KiB"}}};
    size_t count = b->size / BENCH_PAGE * 2;
    struct vn_err err = VN_ERR_INIT;
    struct image_reader *reader;
    struct map_root root;
    struct store *store;

    bench_threads(1);
    store = bench_new_store(b, "pages");
    root = bench_put(store, "a", b->image, b->size, NULL).root;
    reader = image_reader_open(store, &root, &err);
    if (!reader)
        die("%s", err.msg);
    read_pages(b, reader, count, 1, true);
    for (unsigned i = 0; i < b->runs; i++) {
        double took = read_pages(b, reader, count, 2 + i, false);

        runs_add(&f.runs, (double)count / took);
        took = yard_random_read(bench_path(b, "pages"), count);
        runs_add(&f.yardsticks[0].runs, (double)count / took);
    }
    image_reader_free(reader);
    store_close(store);
    bench_threads(0);
    bench_remove(b, "pages");
    figure_print(&f);
}
