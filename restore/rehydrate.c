/*
 * One VM brought back: disks, emulator, state.
 *
 * Order. First the stream's source is opened, which checks the manifest, so
 * that a snapshot that lacks something, or whose VM needs what this host has
 * not, fails before anything is made. Then
 * the disks, for the emulator opens them at its start. Then the emulator,
 * which waits; and last the stream, written by a thread of ours into one end
 * of a socket pair while vm_load_state() lets the emulator read the other.
 *
 * Failure on either side must end both. When the writer fails it closes its
 * end and the loader sees the stream end early. When the loader fails our
 * copy of its end is shut down and the writer gets EPIPE. The error reported
 * is the cause: the loader's if the writer only met EPIPE, else the
 * writer's; the other is appended.
 *
 * Durability: none is needed. The disks are copies of what is in the store.
 *
 * Concurrency: the caller's thread and the writer share the socket pair and
 * the source, of which the caller makes no use until it has joined the
 * writer. SIGPIPE is blocked in the writer, the only one to write.
 *
 * Not done: lazy disks, reflinks, qcow2 (a raw sparse file is what the
 * disk's user sees, whatever the original's format was).
 */

#include "restore/rehydrate.h"

#include "capture/qemu_objects.h"
#include "common/fault.h"
#include "common/io.h"
#include "restore/state_source.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define COPY_SIZE (256u << 20) /* read from the store in one call */

/* ---- disks ------------------------------------------------------------- */

/* Called by the store's threads. */
static int write_bytes(void *context, uint64_t offset, const void *data,
                       size_t size, struct vn_err *err)
{
    const int *fd = context;

    return io_pwrite(*fd, data, size, offset, err);
}

static int copy_image(struct image_reader *image, uint64_t image_size, int fd,
                      struct vn_err *err)
{
    uint64_t start, size, done = 0;

    if (ftruncate(fd, (off_t)image_size) < 0)
        return vn_fail(err, errno, "set the size");
    while (done < image_size) {
        if (image_reader_next_data(image, done, &start, &size, err) < 0)
            return -1;
        if (!size)
            break;
        /* What follows may be holes again: those are left out. */
        size = image_size - start < COPY_SIZE ? image_size - start : COPY_SIZE;
        if (image_reader_read_to(image, start, size, write_bytes, &fd, err) < 0)
            return -1;
        done = start + size;
    }
    return 0;
}

static int write_disk(struct store *store, const struct map_root *root,
                      const char *path, struct vn_err *err)
{
    vn_auto(image_reader) struct image_reader *image = NULL;
    vn_auto(close) int fd = -1;

    image = image_reader_open(store, root, err);
    if (!image)
        return -1;
    fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return vn_fail(err, errno, "open '%s'", path);
    if (fault_hit("restore.disk"))
        return vn_fail(err, ENOSPC, "write '%s'", path);
    if (copy_image(image, root->size, fd, err) < 0)
        return vn_wrap(err, "'%s'", path);
    return 0;
}

static char *disk_path(const char *state_dir, unsigned i)
{
    return vn_format("%s/disk-%u.raw", state_dir, i);
}

static void remove_disks(const char *state_dir, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        vn_auto(free) char *path = disk_path(state_dir, i);

        unlink(path);
    }
}

/* On failure no file is left. */
static int write_disks(struct vm_config *config, const char *state_dir,
                       struct store *store, const json_t *manifest,
                       struct vn_err *err)
{
    for (unsigned i = 0; i < config->disk_count; i++) {
        vn_auto(free) char *object = qemu_object_disk(config->name, i);
        vn_auto(free) char *path = disk_path(state_dir, i);
        struct map_root root;

        if (manifest_object(manifest, object, &root, err) < 0 ||
            write_disk(store, &root, path, err) < 0) {
            remove_disks(state_dir, i + 1);
            return vn_wrap(err, "disk %u", i);
        }
        free(config->disks[i].path);
        free(config->disks[i].format);
        config->disks[i].path = vn_steal(&path);
        config->disks[i].format = vn_strdup("raw");
    }
    return 0;
}

/* ---- state ------------------------------------------------------------- */

struct writer {
    struct state_source *source;
    int fd; /* closed when the writer ends */
    struct vn_err err;
};

static void *run_writer(void *argument)
{
    struct writer *writer = argument;

    /* err.code stays 0 on success */
    if (state_source_write(writer->source, writer->fd, &writer->err) < 0)
        assert(writer->err.code);
    close(writer->fd);
    return NULL;
}

/* With SIGPIPE blocked, which threads inherit. */
static int start_writer(struct writer *writer, pthread_t *ret_thread,
                        struct vn_err *err)
{
    sigset_t pipe_only, before;
    int r;

    sigemptyset(&pipe_only);
    sigaddset(&pipe_only, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe_only, &before);
    r = pthread_create(ret_thread, NULL, run_writer, writer);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (r)
        return vn_fail(err, r, "start a thread");
    return 0;
}

/* One error of two: the cause first. Either code may be 0, not both. */
static int combine(const struct vn_err *load, const struct vn_err *write,
                   struct vn_err *err)
{
    bool reader_left = write->code == EPIPE || write->code == ECONNRESET;
    const struct vn_err *cause, *other;

    cause = write->code && (!load->code || !reader_left) ? write : load;
    other = cause == write ? load : write;
    if (!other->code) {
        *err = *cause;
        return -1;
    }
    vn_err_raise(err, cause->code, cause->file, cause->line, "%s", cause->msg);
    snprintf(err->msg, sizeof(err->msg), "%s (then: %s)", cause->msg,
             other->msg);
    return -1;
}

static int load_state(struct vm *vm, struct state_source *source,
                      struct vn_err *err)
{
    struct writer writer = {.source = source, .fd = -1};
    struct vn_err load_err = VN_ERR_INIT;
    pthread_t thread;
    int ends[2], r;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        return vn_fail(err, errno, "make a socket pair");
    writer.fd = ends[0];
    if (start_writer(&writer, &thread, err) < 0) {
        close(ends[0]);
        close(ends[1]);
        return -1;
    }
    r = vm_load_state(vm, ends[1], &load_err);
    /* Whatever is still unread will not be read: wake the writer. */
    if (r < 0)
        shutdown(ends[1], SHUT_RDWR);
    close(ends[1]);
    pthread_join(thread, NULL);
    if (r < 0 || writer.err.code)
        return combine(&load_err, &writer.err, err);
    return 0;
}

/* ---- the VM ------------------------------------------------------------ */

/* Kill and forget a VM that could not be completed; its error is dropped, for
 * the caller has the cause. */
static void discard(struct vm *vm)
{
    struct vn_err ignored = VN_ERR_INIT;

    if (vm && vm_shutdown(vm, &ignored) < 0)
        ignored.code = 0;
    vm_free(vm);
}

struct vm *rehydrate_vm(struct vm_config *config, const char *state_dir,
                        struct store *store, const json_t *manifest,
                        struct vn_err *err)
{
    vn_auto(state_source) struct state_source *source = NULL;
    struct vm *vm;

    source = state_source_open(store, manifest, config, err);
    if (!source || state_source_check_host(source, err) < 0) {
        vn_wrap(err, "restoring VM '%s'", config->name);
        return NULL;
    }
    /* The stream loads on the very machine type it came from only. */
    if (state_source_machine(source)) {
        free(config->machine);
        config->machine = vn_strdup(state_source_machine(source));
    }
    if (write_disks(config, state_dir, store, manifest, err) < 0) {
        vn_wrap(err, "restoring VM '%s'", config->name);
        return NULL;
    }
    vm = vm_create(config, state_dir, err);
    if (!vm || load_state(vm, source, err) < 0) {
        vn_wrap(err, "restoring VM '%s'", config->name);
        discard(vm);
        remove_disks(state_dir, config->disk_count);
        return NULL;
    }
    return vm;
}
