/*
 * A saver's stream into memory.
 *
 * A thread reads what comes and has it taken apart (xen_stream) into RAM
 * (xen_memory), so that the pause ends when the last page was copied, however
 * slow the store is. It is the only user of both while it runs.
 *
 * Freezing: the saver stands inside its suspend callback and writes nothing,
 * so once the pipe is empty and what was read is fed, all that follows belongs
 * to the last pass. It asks by an eventfd and waits for the answer.
 *
 * After a failure the pipe is closed, and the saver's next write fails with
 * EPIPE; or, where the saver must come to its end, it is read on to nowhere.
 */
#include "capture/vm_xen_internal.h"

#include "common/priority.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define READ_SIZE (1u << 20)

struct vm_xen_reader {
    struct vm_xen *x;
    pthread_t thread;
    int fd;     /* closed by the thread alone */
    int wakeup; /* eventfd: a wish below was changed */
    uint8_t *data;
    bool is_hurrying;
    int calm_nice; /* what it had before */

    /* Guarded by x->lock. */
    bool wants_freeze, wants_end, discards;
    bool is_complete, has_ended;
    bool ended_early; /* the stream did, before it was complete */
    uint64_t bytes;
    struct vn_err err;
};

static void wake(struct vm_xen_reader *r)
{
    uint64_t one = 1;

    (void)!write(r->wakeup, &one, sizeof(one));
}

static void calm(struct vm_xen_reader *r)
{
    if (r->is_hurrying)
        (void)priority_calm_self(r->calm_nice);
    r->is_hurrying = false;
}

/* Take what was read; false: no more of it. */
static bool feed(struct vm_xen_reader *r, size_t size)
{
    struct vm_xen *x = r->x;
    struct vn_err err = VN_ERR_INIT;
    bool discards, complete;
    int rc = 0;

    pthread_mutex_lock(&x->lock);
    discards = r->discards;
    pthread_mutex_unlock(&x->lock);
    if (!discards)
        rc = xen_stream_feed(x->stream, r->data, size, &err);
    complete = rc == 0 && !discards && xen_stream_is_complete(x->stream);
    pthread_mutex_lock(&x->lock);
    r->bytes += size;
    if (rc < 0)
        r->err = err;
    if (complete && !r->is_complete) {
        calm(r);
        r->is_complete = true;
        pthread_cond_broadcast(&x->changed);
    }
    pthread_mutex_unlock(&x->lock);
    return rc == 0;
}

/* The pipe is empty: do what waits for that. False: end. */
static bool serve(struct vm_xen_reader *r)
{
    struct vm_xen *x = r->x;
    vn_lock_scope(&x->lock);

    if (r->wants_freeze) {
        xen_memory_freeze(x->memory);
        /* The domain stands until the last pages were read. */
        r->calm_nice = priority_nice(0);
        r->is_hurrying = priority_urgent_self();
        r->wants_freeze = false;
        pthread_cond_broadcast(&x->changed);
    }
    return !r->wants_end;
}

static void await_event(struct vm_xen_reader *r)
{
    struct pollfd fds[2] = {{.fd = r->fd, .events = POLLIN},
                            {.fd = r->wakeup, .events = POLLIN}};
    uint64_t count;

    (void)poll(fds, 2, -1);
    if (fds[1].revents)
        (void)!read(r->wakeup, &count, sizeof(count));
}

/* 0: the stream ended. */
static int read_all(struct vm_xen_reader *r, struct vn_err *err)
{
    for (;;) {
        ssize_t n = read(r->fd, r->data, READ_SIZE);

        if (n == 0)
            return 0;
        if (n > 0) {
            if (!feed(r, (size_t)n))
                return -1;
            continue;
        }
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN)
            return vn_fail(err, errno, "read the domain's stream");
        if (!serve(r))
            return vn_fail(err, ECANCELED, "read the domain's stream");
        await_event(r);
    }
}

static void *run(void *argument)
{
    struct vm_xen_reader *r = argument;
    struct vm_xen *x = r->x;
    struct vn_err err = VN_ERR_INIT;
    int rc = read_all(r, &err);
    bool early = false;

    if (rc == 0 && !r->discards) {
        rc = xen_stream_finish(x->stream, &err);
        early = rc < 0;
    }
    calm(r);
    close(vn_steal_fd(&r->fd));
    pthread_mutex_lock(&x->lock);
    if (rc < 0 && !r->err.code)
        r->err = err;
    r->wants_freeze = false;
    r->ended_early = early;
    r->has_ended = true;
    pthread_cond_broadcast(&x->changed);
    pthread_mutex_unlock(&x->lock);
    return NULL;
}

static void reader_free(struct vm_xen_reader *r)
{
    if (r->fd >= 0)
        close(r->fd);
    if (r->wakeup >= 0)
        close(r->wakeup);
    free(r->data);
    free(r);
}

struct vm_xen_reader *vm_xen_reader_start(struct vm_xen *x, int fd,
                                          struct vn_err *err)
{
    struct vm_xen_reader *r = vn_alloc(sizeof(*r));
    int code = 0;

    r->x = x;
    r->fd = fd;
    r->wakeup = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    r->data = malloc(READ_SIZE);
    if (r->wakeup < 0 || fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
        code = errno;
    else if (!r->data)
        code = ENOMEM;
    else
        code = pthread_create(&r->thread, NULL, run, r);
    if (code == 0)
        return r;
    reader_free(r);
    return vn_fail_ptr(err, code, "start the reader of the domain's stream");
}

void vm_xen_reader_freeze(struct vm_xen_reader *r)
{
    vn_lock_scope(&r->x->lock);

    if (r->has_ended)
        return;
    r->wants_freeze = true;
    wake(r);
    while (r->wants_freeze)
        pthread_cond_wait(&r->x->changed, &r->x->lock);
}

void vm_xen_reader_discard(struct vm_xen_reader *r)
{
    vn_lock_scope(&r->x->lock);

    r->discards = true;
}

bool vm_xen_reader_is_complete(const struct vm_xen_reader *r)
{
    return r->is_complete;
}

bool vm_xen_reader_has_ended(const struct vm_xen_reader *r)
{
    return r->has_ended;
}

bool vm_xen_reader_ended_early(const struct vm_xen_reader *r)
{
    return r->ended_early;
}

uint64_t vm_xen_reader_bytes(const struct vm_xen_reader *r)
{
    return r->bytes;
}

const struct vn_err *vm_xen_reader_error(const struct vm_xen_reader *r)
{
    return &r->err;
}

void vm_xen_reader_free(struct vm_xen_reader *r)
{
    if (!r)
        return;
    pthread_mutex_lock(&r->x->lock);
    r->wants_end = true;
    pthread_mutex_unlock(&r->x->lock);
    wake(r);
    pthread_join(r->thread, NULL);
    reader_free(r);
}
