/*
 * The workload of the crash replay: everything that changes a store, once or
 * twice and small, with marks in the log of what was begun and what the store
 * has acknowledged. The marks say what a store must hold after a crash:
 *
 *     init                    store_init() has returned
 *     begin NAME DIGEST       a commit of that content may happen from here on
 *     done NAME               it is acknowledged: the snapshot must exist
 *     drop NAME               a delete may happen from here on
 *     dropped NAME            it is acknowledged: the snapshot must be gone
 *
 * Names are not used twice. Processes that are killed are among it: a child
 * dies at a fault point, another goes on with what that left, and a crash of
 * the machine may come at any time after. And at the end two threads at once.
 *
 * Usage: crash_workload DIR   below which the store "store" is made
 *
 * test_replay.sh runs it under the recorder, crash_kill with faults.
 */

#include "crash/digest.h"
#include "crash/log.h"

#include "common/auto.h"
#include "common/fault.h"
#include "store/archive.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = STORE_PAGE_SIZE, STATE_SIZE = 300 };

static char *store_dir;
static int log_fd = -1; /* -1: not recorded */

static void check(bool good, const struct vn_err *err)
{
    if (good)
        return;
    fprintf(stderr, "crash_workload: %s\n", err->msg);
    _exit(1);
}

/* One record, appended by one call as the recorder's are. */
static void mark(const char *verb, const char *name, uint64_t digest)
{
    vn_auto(free) char *text = digest ? vn_format("%s %s %016llx", verb, name,
                                                  (unsigned long long)digest)
                                      : vn_format("%s %s", verb, name);
    struct log_record record = {.type = LOG_MARK,
                                .name_size = (uint32_t)strlen(text)};
    struct iovec data[2] = {{&record, sizeof(record)},
                            {text, record.name_size}};

    if (log_fd >= 0 &&
        writev(log_fd, data, 2) != (ssize_t)(sizeof(record) + strlen(text)))
        _exit(1);
}

/* ---- contents --------------------------------------------------------- */

/* Page `n` of the endless random image of a seed, half of it compressible. */
static void fill_page(uint8_t *page, uint64_t seed, uint64_t n)
{
    uint64_t x = (seed * 1000003 + n + 1) * 0x9e3779b97f4a7c15ull;

    for (size_t i = 0; i < PAGE / 2; i += 8) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        memcpy(page + i, &x, 8);
    }
    memset(page + PAGE / 2, (int)seed, PAGE / 2);
}

struct content {
    size_t pages;
    uint64_t seed;
    uint64_t other; /* seed of every `stride`th page, 0: none */
    size_t stride;
    const char *parent; /* name of a snapshot, or NULL */
};

static uint8_t *make_image(const struct content *c)
{
    uint8_t *data = vn_alloc(c->pages * PAGE);

    for (size_t i = 0; i < c->pages; i++)
        fill_page(data + i * PAGE,
                  c->other && i % c->stride == 0 ? c->other : c->seed, i);
    return data;
}

static bool find_parent(struct store *store, const char *name,
                        struct map_root *ret)
{
    struct vn_err ignored = VN_ERR_INIT;
    vn_auto(json) json_t *manifest =
        name ? store_load(store, name, &ignored) : NULL;

    return manifest &&
           manifest_object(manifest, DIGEST_IMAGE, ret, &ignored) == 0;
}

/* ---- steps ------------------------------------------------------------ */

static void commit(struct store *store, const char *name, struct content c)
{
    vn_auto(free) uint8_t *data = make_image(&c);
    vn_auto(json) json_t *manifest = manifest_new(name, "files");
    struct vn_err err = VN_ERR_INIT;
    vn_auto(store_writer) struct store_writer *writer =
        store_writer_open(store, &err);
    vn_auto(image_writer) struct image_writer *image = NULL;
    uint8_t state[STATE_SIZE];
    struct map_root parent;
    struct map_root root;

    check(writer, &err);
    memset(state, (int)c.seed, sizeof(state));
    memcpy(state, name, strlen(name));
    image = image_writer_open(
        writer, c.pages * PAGE,
        find_parent(store, c.parent, &parent) ? &parent : NULL, &err);
    check(image &&
              image_writer_put(image, 0, data, c.pages * PAGE, &err) == 0 &&
              image_writer_finish(image, &root, &err) == 0,
          &err);
    manifest_add(manifest, DIGEST_IMAGE, &root);
    check(store_put_bytes(writer, state, sizeof(state), &root, &err) == 0 &&
              store_writer_flush(writer, &err) == 0,
          &err);
    manifest_add(manifest, DIGEST_STATE, &root);
    mark("begin", name, digest_of(data, c.pages * PAGE, state, sizeof(state)));
    check(store_commit(store, manifest, &err) == 0, &err);
    mark("done", name, 0);
}

static void drop(struct store *store, const char *name)
{
    struct vn_err err = VN_ERR_INIT;

    mark("drop", name, 0);
    check(store_delete(store, name, &err) == 0, &err);
    mark("dropped", name, 0);
}

/* Keep the last of "lab@2", "lab@3", "lab@4": as the names tell. */
static void prune(struct store *store)
{
    const struct store_keep keep = {.last = 1};
    struct vn_err err = VN_ERR_INIT;
    vn_auto(json) json_t *list = NULL;

    mark("drop", "lab@2", 0);
    mark("drop", "lab@3", 0);
    list = store_prune(store, "lab", &keep, false, &err);
    check(list, &err);
    mark("dropped", "lab@2", 0);
    mark("dropped", "lab@3", 0);
}

static void collect(struct store *store, unsigned threshold)
{
    const struct store_gc_opts opts = {.threshold_percent = threshold};
    struct store_gc_counts counts;
    struct vn_err err = VN_ERR_INIT;

    check(store_gc(store, &opts, &counts, &err) == 0, &err);
}

/* `name` out to a tar and in again as `copy`. */
static void copy(struct store *store, const char *name, const char *new_name)
{
    vn_auto(close) int fd = memfd_create("tar", 0);
    const struct archive_export_opts out = {.snapshot = name, .fd = fd};
    const struct archive_import_opts in = {.fd = fd, .name = new_name};
    struct vn_err err = VN_ERR_INIT;
    vn_auto(json) json_t *manifest = store_load(store, name, &err);
    struct archive_imported imported;
    uint64_t digest;

    check(manifest && digest_read(store, manifest, &digest, &err) == 0, &err);
    check(archive_export(store, &out, &err) == 0, &err);
    lseek(fd, 0, SEEK_SET);
    mark("begin", new_name, digest);
    check(archive_import(store, &in, &imported, &err) == 0, &err);
    mark("done", new_name, 0);
    free(imported.name);
}

static struct store *open_store(void)
{
    struct vn_err err = VN_ERR_INIT;
    struct store *store = store_open(store_dir, &err);

    check(store, &err);
    return store;
}

/* A process begins to commit and is killed at a fault point. */
static void die_at(const char *fault, const char *name, struct content c)
{
    pid_t child = fork();
    int status;

    if (child == 0) {
        struct store *store = open_store();

        fault_set(fault);
        commit(store, name, c);
        _exit(0);
    }
    if (waitpid(child, &status, 0) != child || !WIFSIGNALED(status)) {
        fprintf(stderr, "crash_workload: nobody died at %s\n", fault);
        _exit(1);
    }
}

/* A snapshot's content is condemned, and a commit takes it back. */
static void rescue(struct store *store)
{
    struct vn_err err = VN_ERR_INIT;
    vn_auto(store_hold) struct store_hold *hold = NULL;
    vn_auto(json) json_t *manifest = manifest_new("rescue@2", "files");
    vn_auto(json) json_t *old = NULL;
    struct map_root image;
    struct map_root state;
    uint64_t digest;

    commit(store, "rescue@1", (struct content){.pages = 20, .seed = 6});
    hold = store_hold_open(store, &err);
    check(hold, &err);
    old = store_load(store, "rescue@1", &err);
    check(old && digest_read(store, old, &digest, &err) == 0 &&
              manifest_object(old, DIGEST_IMAGE, &image, &err) == 0 &&
              manifest_object(old, DIGEST_STATE, &state, &err) == 0,
          &err);
    drop(store, "rescue@1");
    collect(store, 100);
    manifest_add(manifest, DIGEST_IMAGE, &image);
    manifest_add(manifest, DIGEST_STATE, &state);
    mark("begin", "rescue@2", digest);
    check(store_commit(store, manifest, &err) == 0, &err);
    mark("done", "rescue@2", 0);
}

static void *commit_beside(void *arg)
{
    commit(arg, "beside@1", (struct content){.pages = 24, .seed = 8});
    commit(arg, "beside@2",
           (struct content){.pages = 24, .seed = 8, .other = 9, .stride = 2});
    return NULL;
}

static void collect_beside(struct store *store)
{
    pthread_t thread;

    if (pthread_create(&thread, NULL, commit_beside, store) != 0)
        _exit(1);
    collect(store, 1);
    drop(store, "copy");
    collect(store, 1);
    pthread_join(thread, NULL);
}

static void work(void)
{
    struct store *store;

    /* The first of all packs, and its folder, by someone who dies. */
    die_at("store.pack.create:1:kill", "never@1",
           (struct content){.pages = 4, .seed = 20});
    die_at("store.pack.folder:1:kill", "never@2",
           (struct content){.pages = 4, .seed = 21});
    store = open_store();
    commit(store, "lab@1", (struct content){.pages = 30, .seed = 1});
    commit(store, "lab@2",
           (struct content){.pages = 30,
                            .seed = 1,
                            .other = 2,
                            .stride = 3,
                            .parent = "lab@1"});
    commit(store, "other", (struct content){.pages = 40, .seed = 2});
    drop(store, "lab@1");
    store_close(store);
    die_at("store.pack.syncdir:1:kill", "never@3",
           (struct content){.pages = 20, .seed = 3});
    die_at("store.index.publish:1:kill", "never@4",
           (struct content){.pages = 20, .seed = 4});
    store = open_store();
    collect(store, 1);
    commit(store, "lab@3", (struct content){.pages = 30, .seed = 3});
    copy(store, "lab@2", "copy");
    commit(store, "lab@4",
           (struct content){.pages = 36,
                            .seed = 3,
                            .other = 5,
                            .stride = 2,
                            .parent = "lab@3"});
    prune(store);
    collect(store, 50);
    rescue(store);
    collect_beside(store);
    store_close(store);
}

int main(int argc, char **argv)
{
    const char *log = getenv(LOG_FILE_VARIABLE);
    struct vn_err err = VN_ERR_INIT;

    if (argc != 2)
        return 64;
    if (log)
        log_fd = open(log, O_WRONLY | O_APPEND | O_CLOEXEC);
    store_dir = vn_format("%s/store", argv[1]);
    check(store_init(store_dir, &err) == 0, &err);
    mark("init", "store", 0);
    work();
    free(store_dir);
    return 0;
}
