#include "coord/worker.h"

#include <assert.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/queue.h>
#include <unistd.h>

struct job {
    STAILQ_ENTRY(job) link;
    worker_fn *fn;
    void *arg;
};
STAILQ_HEAD(job_queue, job);

struct worker {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct job_queue jobs; /* guarded by lock */
    bool stopping;         /* guarded by lock */
};

struct mailbox {
    pthread_mutex_t lock;
    struct job_queue jobs; /* guarded by lock */
    struct event *wake;
    int fd; /* eventfd */
};

static struct job *job_new(worker_fn *fn, void *arg)
{
    struct job *job = vn_alloc(sizeof(*job));

    job->fn = fn;
    job->arg = arg;
    return job;
}

static struct job *worker_next(struct worker *worker)
{
    struct job *job;

    vn_lock_scope(&worker->lock);
    while (STAILQ_EMPTY(&worker->jobs) && !worker->stopping)
        pthread_cond_wait(&worker->changed, &worker->lock);
    job = STAILQ_FIRST(&worker->jobs);
    if (job)
        STAILQ_REMOVE_HEAD(&worker->jobs, link);
    return job;
}

static void *worker_main(void *arg)
{
    struct worker *worker = arg;
    struct job *job;

    while ((job = worker_next(worker))) {
        job->fn(job->arg);
        free(job);
    }
    return NULL;
}

struct worker *worker_start(const char *name)
{
    struct worker *worker = vn_alloc(sizeof(*worker));
    char short_name[16] = "";

    pthread_mutex_init(&worker->lock, NULL);
    pthread_cond_init(&worker->changed, NULL);
    STAILQ_INIT(&worker->jobs);
    if (pthread_create(&worker->thread, NULL, worker_main, worker) != 0)
        abort();
    for (size_t i = 0; name[i] && i + 1 < sizeof(short_name); i++)
        short_name[i] = name[i];
    pthread_setname_np(worker->thread, short_name);
    return worker;
}

void worker_post(struct worker *worker, worker_fn *fn, void *arg)
{
    struct job *job = job_new(fn, arg);

    vn_lock_scope(&worker->lock);
    assert(!worker->stopping);
    STAILQ_INSERT_TAIL(&worker->jobs, job, link);
    pthread_cond_signal(&worker->changed);
}

static void worker_tell_to_stop(struct worker *worker)
{
    vn_lock_scope(&worker->lock);
    worker->stopping = true;
    pthread_cond_signal(&worker->changed);
}

void worker_stop(struct worker *worker)
{
    if (!worker)
        return;
    worker_tell_to_stop(worker);
    pthread_join(worker->thread, NULL);
    pthread_cond_destroy(&worker->changed);
    pthread_mutex_destroy(&worker->lock);
    free(worker);
}

/* All waiting jobs, as a chain from the oldest. */
static struct job *mailbox_take(struct mailbox *mailbox)
{
    struct job *first;

    vn_lock_scope(&mailbox->lock);
    first = STAILQ_FIRST(&mailbox->jobs);
    STAILQ_INIT(&mailbox->jobs);
    return first;
}

static void mailbox_run(struct mailbox *mailbox)
{
    struct job *job = mailbox_take(mailbox);

    while (job) {
        struct job *next = STAILQ_NEXT(job, link);

        job->fn(job->arg);
        free(job);
        job = next;
    }
}

static void mailbox_wake(evutil_socket_t fd, short what, void *arg)
{
    struct mailbox *mailbox = arg;
    uint64_t count;

    (void)what;
    if (read((int)fd, &count, sizeof(count)) == (ssize_t)sizeof(count))
        mailbox_run(mailbox);
}

struct mailbox *mailbox_new(struct event_base *base)
{
    struct mailbox *mailbox = vn_alloc(sizeof(*mailbox));

    pthread_mutex_init(&mailbox->lock, NULL);
    STAILQ_INIT(&mailbox->jobs);
    mailbox->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (mailbox->fd < 0)
        abort();
    mailbox->wake = event_new(base, mailbox->fd, EV_READ | EV_PERSIST,
                              mailbox_wake, mailbox);
    if (!mailbox->wake || event_add(mailbox->wake, NULL) < 0)
        abort();
    return mailbox;
}

void mailbox_post(struct mailbox *mailbox, worker_fn *fn, void *arg)
{
    struct job *job = job_new(fn, arg);
    uint64_t one = 1;

    vn_lock_scope(&mailbox->lock);
    STAILQ_INSERT_TAIL(&mailbox->jobs, job, link);
    if (write(mailbox->fd, &one, sizeof(one)) != (ssize_t)sizeof(one))
        abort(); /* only when 2^64 - 1 posts wait */
}

void mailbox_free(struct mailbox *mailbox)
{
    if (!mailbox)
        return;
    mailbox_run(mailbox);
    event_free(mailbox->wake);
    close(mailbox->fd);
    pthread_mutex_destroy(&mailbox->lock);
    free(mailbox);
}
