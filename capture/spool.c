/*
 * A chain of chunks between a reader thread and a consumer.
 *
 * The reader fills the last chunk with one recv() of up to SPOOL_CHUNK bytes
 * at a time, outside the lock: bytes at and after `filled` belong to it, those
 * before to the consumer. A chunk that is used up goes to a short list of
 * spares, so that a consumer that keeps pace costs no page faults.
 *
 * Invariants: kept = sum over chunks of (filled - taken) <= limit + one recv;
 * only the first chunk has taken > 0; the consumer's last run stays in its
 * chunk until the next take.
 *
 * Concurrency: `lock` guards everything except bytes at or after `filled`.
 */
#include "capture/spool.h"

#include "common/clock.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>

#define SPOOL_CHUNK      (4u << 20)
#define SPOOL_SPARES_MAX 4u

struct chunk {
    TAILQ_ENTRY(chunk) entry;
    size_t filled, taken;
    uint8_t data[SPOOL_CHUNK];
};

TAILQ_HEAD(chunk_list, chunk);

struct spool {
    pthread_mutex_t lock;
    pthread_cond_t more; /* bytes arrived, or the end */
    pthread_cond_t room; /* bytes were taken, or stop */
    pthread_t reader;
    int fd;
    uint64_t limit;
    uint64_t received, kept;
    struct chunk_list chunks;
    struct chunk_list spares;
    unsigned spare_count;
    bool waiting, ended, stop, discard;
    int read_errno;
};

static void *reader_main(void *arg);

static void init_conditions(struct spool *s)
{
    pthread_condattr_t attr;

    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->more, &attr);
    pthread_cond_init(&s->room, &attr);
    pthread_condattr_destroy(&attr);
}

static void free_chunks(struct chunk_list *list)
{
    while (!TAILQ_EMPTY(list)) {
        struct chunk *chunk = TAILQ_FIRST(list);

        TAILQ_REMOVE(list, chunk, entry);
        free(chunk);
    }
}

static void destroy(struct spool *s)
{
    free_chunks(&s->chunks);
    free_chunks(&s->spares);
    pthread_cond_destroy(&s->more);
    pthread_cond_destroy(&s->room);
    pthread_mutex_destroy(&s->lock);
    vn_auto_close(&s->fd);
    free(s);
}

struct spool *spool_start(int fd, uint64_t limit_bytes, struct vn_err *err)
{
    struct spool *s = vn_alloc(sizeof(*s));
    sigset_t all, before;
    int code;

    s->fd = fd;
    s->limit = limit_bytes;
    TAILQ_INIT(&s->chunks);
    TAILQ_INIT(&s->spares);
    init_conditions(s);
    /* Signals are for the program's own threads. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    code = pthread_create(&s->reader, NULL, reader_main, s);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (code) {
        destroy(s);
        return vn_fail_ptr(err, code, "start a reader thread");
    }
    return s;
}

void spool_free(struct spool *s)
{
    if (!s)
        return;
    {
        vn_lock_scope(&s->lock);

        s->stop = true;
        pthread_cond_broadcast(&s->room);
    }
    shutdown(s->fd, SHUT_RDWR); /* wakes a blocked recv() */
    pthread_join(s->reader, NULL);
    destroy(s);
}

/* ---- reader ------------------------------------------------------------- */

/* The chunk to fill next; NULL when told to stop or out of memory. */
static struct chunk *chunk_to_fill(struct spool *s)
{
    vn_lock_scope(&s->lock);
    struct chunk *chunk = TAILQ_LAST(&s->chunks, chunk_list);

    while (s->kept >= s->limit && !s->stop) {
        s->waiting = true;
        pthread_cond_broadcast(&s->more);
        pthread_cond_wait(&s->room, &s->lock);
    }
    s->waiting = false;
    if (s->stop)
        return NULL;
    if (chunk && chunk->filled < SPOOL_CHUNK)
        return chunk;
    chunk = TAILQ_FIRST(&s->spares);
    if (chunk) {
        TAILQ_REMOVE(&s->spares, chunk, entry);
        s->spare_count--;
    } else {
        chunk = malloc(sizeof(*chunk));
    }
    if (!chunk) {
        s->read_errno = ENOMEM;
        return NULL;
    }
    chunk->filled = 0;
    chunk->taken = 0;
    TAILQ_INSERT_TAIL(&s->chunks, chunk, entry);
    return chunk;
}

static void *reader_main(void *arg)
{
    struct spool *s = arg;
    struct chunk *chunk;

    while ((chunk = chunk_to_fill(s))) {
        ssize_t n;

        do
            n = recv(s->fd, chunk->data + chunk->filled,
                     SPOOL_CHUNK - chunk->filled, 0);
        while (n < 0 && errno == EINTR);
        vn_lock_scope(&s->lock);
        if (n < 0)
            s->read_errno = errno;
        if (n <= 0)
            break;
        s->received += (uint64_t)n;
        if (s->discard)
            continue;
        chunk->filled += (size_t)n;
        s->kept += (uint64_t)n;
        pthread_cond_broadcast(&s->more);
    }
    vn_lock_scope(&s->lock);
    s->ended = true;
    pthread_cond_broadcast(&s->more);
    return NULL;
}

/* ---- consumer ----------------------------------------------------------- */

/* Drop first chunks that are used up, but not one still being filled. */
static void recycle(struct spool *s)
{
    struct chunk *chunk = TAILQ_FIRST(&s->chunks);

    while (chunk && chunk->taken == SPOOL_CHUNK) {
        TAILQ_REMOVE(&s->chunks, chunk, entry);
        if (s->spare_count < SPOOL_SPARES_MAX) {
            TAILQ_INSERT_HEAD(&s->spares, chunk, entry);
            s->spare_count++;
        } else {
            free(chunk);
        }
        chunk = TAILQ_FIRST(&s->chunks);
    }
}

static struct timespec deadline_after(uint64_t timeout_ns)
{
    uint64_t at = clock_now_ns() + timeout_ns;

    return (struct timespec){.tv_sec = (time_t)(at / VN_SEC),
                             .tv_nsec = (long)(at % VN_SEC)};
}

int spool_take(struct spool *s, uint64_t timeout_ns, const void **ret_data,
               size_t *ret_size, struct vn_err *err)
{
    struct timespec deadline = deadline_after(timeout_ns);
    struct chunk *chunk;
    vn_lock_scope(&s->lock);

    recycle(s);
    while (s->kept == 0) {
        if (s->ended && s->read_errno)
            return vn_fail(err, s->read_errno, "read the stream");
        if (s->ended) {
            *ret_data = NULL;
            *ret_size = 0;
            return 0;
        }
        if (pthread_cond_timedwait(&s->more, &s->lock, &deadline) ==
                ETIMEDOUT &&
            s->kept == 0 && !s->ended)
            return vn_fail(err, VN_E_TIMEOUT, "nothing came on the stream");
    }
    chunk = TAILQ_FIRST(&s->chunks);
    assert(chunk && chunk->filled > chunk->taken);
    *ret_data = chunk->data + chunk->taken;
    *ret_size = chunk->filled - chunk->taken;
    s->kept -= *ret_size;
    chunk->taken = chunk->filled;
    pthread_cond_broadcast(&s->room);
    return 0;
}

size_t spool_peek(struct spool *s, uint64_t offset, void *out, size_t size)
{
    struct chunk *chunk;
    size_t done = 0;
    vn_lock_scope(&s->lock);

    TAILQ_FOREACH (chunk, &s->chunks, entry) {
        size_t have = chunk->filled - chunk->taken, n;

        if (offset >= have) {
            offset -= have;
            continue;
        }
        n = have - (size_t)offset;
        if (n > size - done)
            n = size - done;
        memcpy((uint8_t *)out + done, chunk->data + chunk->taken + offset, n);
        done += n;
        offset = 0;
        if (done == size)
            break;
    }
    return done;
}

void spool_discard(struct spool *s)
{
    struct chunk *chunk, *next;
    vn_lock_scope(&s->lock);

    /* The last one may be in the reader's hands. */
    for (chunk = TAILQ_FIRST(&s->chunks); chunk; chunk = next) {
        next = TAILQ_NEXT(chunk, entry);
        chunk->taken = chunk->filled;
        if (!next)
            break;
        TAILQ_REMOVE(&s->chunks, chunk, entry);
        free(chunk);
    }
    s->kept = 0;
    s->discard = true;
    pthread_cond_broadcast(&s->room);
}

uint64_t spool_received(struct spool *s)
{
    vn_lock_scope(&s->lock);
    return s->received;
}

bool spool_is_full(struct spool *s)
{
    vn_lock_scope(&s->lock);
    return s->waiting;
}

bool spool_is_ended(struct spool *s)
{
    vn_lock_scope(&s->lock);
    return s->ended;
}
