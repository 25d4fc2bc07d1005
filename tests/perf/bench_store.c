/*
 * What the store does in process, beside what the machine can do.
 *
 *     bench_store [-d DIR] [-m MIB] [-r RUNS] NAME...
 *     bench_store -d DIR -m MIB images
 *
 * NAME is first, again, duplicates, restore, pages, gc or verify. Each prints a
 * JSON line a figure (bench_figure.h); "images" writes the two image files with
 * which programs are compared. tests/perf/bench calls this, knows the targets,
 * and is what people run.
 *
 * A figure and its yardsticks are taken in turn, in one process, on the same
 * bytes: a neighbour on the machine then slows both. Data lies in RAM before a
 * clock starts. "core" in a figure's name: VNSTORE_THREADS=1.
 */
#include "bench_run.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MIB         (1024ull * 1024)
#define ZERO_TENTHS 3u /* of the image files */

const char *bench_path(const struct bench *b, const char *name)
{
    static char paths[2][4096];
    static unsigned next;
    char *path = paths[next++ % 2];

    snprintf(path, sizeof(paths[0]), "%s/%s", b->dir, name);
    return path;
}

static int remove_one(const char *path, const struct stat *st, int type,
                      struct FTW *where)
{
    (void)st;
    (void)type;
    (void)where;
    return remove(path);
}

void bench_remove(const struct bench *b, const char *name)
{
    nftw(bench_path(b, name), remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

struct store *bench_open_store(const struct bench *b, const char *name)
{
    struct vn_err err = VN_ERR_INIT;
    struct store *store = store_open(bench_path(b, name), &err);

    if (!store)
        die("%s", err.msg);
    return store;
}

struct store *bench_new_store(const struct bench *b, const char *name)
{
    struct vn_err err = VN_ERR_INIT;

    bench_remove(b, name);
    if (store_init(bench_path(b, name), &err) < 0)
        die("%s", err.msg);
    return bench_open_store(b, name);
}

void bench_threads(unsigned count)
{
    char text[16];

    snprintf(text, sizeof(text), "%u", count);
    if (count ? setenv("VNSTORE_THREADS", text, 1)
              : unsetenv("VNSTORE_THREADS"))
        abort();
}

void bench_commit(struct store *store, const char *name,
                  const struct map_root *root)
{
    json_t *manifest = manifest_new(name, "files");
    struct vn_err err = VN_ERR_INIT;

    manifest_add(manifest, "image", root);
    if (store_commit(store, manifest, &err) < 0)
        die("%s", err.msg);
    json_decref(manifest);
}

struct put_result bench_put(struct store *store, const char *name,
                            const uint8_t *data, size_t size,
                            const struct map_root *parent)
{
    struct vn_err err = VN_ERR_INIT;
    struct put_result result = {0};
    uint64_t begin = clock_now_ns(), put_end;
    struct store_writer *writer = store_writer_open(store, &err);
    struct image_writer *image =
        writer ? image_writer_open(writer, size, parent, &err) : NULL;

    if (!image || image_writer_put(image, 0, data, size, &err) < 0 ||
        image_writer_finish(image, &result.root, &err) < 0 ||
        store_writer_flush(writer, &err) < 0)
        die("%s", err.msg);
    put_end = clock_now_ns();
    if (name)
        bench_commit(store, name, &result.root);
    result.commit_seconds = bench_since(put_end);
    result.seconds = bench_since(begin);
    store_writer_counts(writer, &result.counts);
    image_writer_free(image);
    store_writer_free(writer);
    return result;
}

double bench_get(struct store *store, const struct map_root *root,
                 uint8_t *data)
{
    struct vn_err err = VN_ERR_INIT;
    uint64_t begin = clock_now_ns();
    struct image_reader *reader = image_reader_open(store, root, &err);
    double took;

    if (!reader || image_reader_read(reader, 0, data, root->size, &err) < 0)
        die("%s", err.msg);
    took = bench_since(begin);
    image_reader_free(reader);
    return took;
}

/* ---- image files ------------------------------------------------------- */

static void write_image(const struct bench *b, const char *name)
{
    const char *path = bench_path(b, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    size_t done = 0;

    while (fd >= 0 && done < b->size) {
        ssize_t n = write(fd, b->image + done, b->size - done);

        if (n <= 0)
            break;
        done += (size_t)n;
    }
    if (fd < 0 || done < b->size || fsync(fd) < 0 || close(fd) < 0)
        die("write '%s': %s", path, strerror(errno));
}

static void write_images(const struct bench *b)
{
    uint64_t compressed;
    size_t changed;

    data_image(b->image, b->size, 1, ZERO_TENTHS);
    write_image(b, "image1");
    yard_lz4(b->image, b->size, &compressed);
    changed = data_change(b->image, b->size, 2);
    write_image(b, "image2");
    printf("{\"bytes\":%zu,\"lz4_ratio\":%.3f,\"changed_percent\":%.2f}\n",
           b->size, (double)b->size / (double)compressed,
           100.0 * (double)changed * BENCH_PAGE / (double)b->size);
}

/* ---- the command line -------------------------------------------------- */

static const struct {
    const char *name;
    void (*run)(const struct bench *);
} measurements[] = {
    {"first", bench_first},     {"again", bench_again},
    {"restore", bench_restore}, {"duplicates", bench_duplicates},
    {"pages", bench_pages},     {"gc", bench_gc},
    {"verify", bench_verify},   {"images", write_images},
};

static void measure(const struct bench *b, const char *name)
{
    for (size_t i = 0; i < sizeof(measurements) / sizeof(*measurements); i++)
        if (strcmp(measurements[i].name, name) == 0) {
            measurements[i].run(b);
            return;
        }
    die("no measurement '%s'", name);
}

static uint8_t *new_image(size_t size)
{
    void *image;

    if (posix_memalign(&image, 2u << 20, size))
        die("no memory for images of %zu bytes", size);
    memset(image, 0xaa, size);
    return image;
}

int main(int argc, char **argv)
{
    struct bench b = {.dir = ".", .runs = 3};
    size_t mib = 64;
    int option;

    while ((option = getopt(argc, argv, "d:m:r:")) != -1) {
        if (option == 'd')
            b.dir = optarg;
        else if (option == 'm')
            mib = strtoul(optarg, NULL, 10);
        else if (option == 'r')
            b.runs = (unsigned)strtoul(optarg, NULL, 10);
        else
            exit(64);
    }
    if (mib < 16 || b.runs < 1 || b.runs > FIGURE_RUNS_MAX || optind == argc)
        die("usage: bench_store [-d DIR] [-m MIB >= 16] [-r RUNS] NAME...");
    b.size = mib * MIB;
    b.cores = sysconf(_SC_NPROCESSORS_ONLN);
    b.image = new_image(b.size);
    b.other = new_image(b.size);
    data_image(b.image, b.size, 1, 0);
    for (; optind < argc; optind++)
        measure(&b, argv[optind]);
    free(b.image);
    free(b.other);
    return 0;
}
