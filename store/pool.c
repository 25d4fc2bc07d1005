#include "store/pool.h"

/*
 * Fork and join.
 *
 * A run is a job on the caller's stack, in a list while it has tasks that
 * nobody took. Workers take the next task of the first job; the caller takes
 * tasks of its own job, then waits for those that workers still have. So a run
 * always goes on, however busy the workers are, and with one thread it is a
 * plain loop. One mutex guards everything: a task is some hundred microseconds
 * of work, taking one is far below a microsecond.
 *
 * Threads are started by the first run of more than one task and stay until
 * the pool is freed. They take no signals: those are for the threads of the
 * program. Where a thread cannot be started the others do its work.
 *
 * Results in order: the caller takes, after each task of its own, those that
 * are next and ready, and the rest at the end. Nobody ever waits for the one
 * that is next: who works ahead may be as far ahead as the run is long, so it
 * is the caller who bounds what results take, by the count of a run.
 *
 * A child after fork has no workers, only the memory of them: it does its runs
 * alone (pool->pid), and pool_free() there leaves the lock alone.
 */

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

struct job {
    pool_task_fn *fn;
    void *context;
    size_t count;
    size_t next;    /* task to take; count: none left, not in the list */
    size_t running; /* taken and not done */
    bool failed;
    struct vn_err err; /* the first one */
    struct job *behind;
};

struct pool {
    unsigned threads;
    pthread_mutex_t lock; /* guards what follows, and all jobs */
    pthread_cond_t work;  /* a job came, or stop */
    pthread_cond_t done;  /* the last task of some job ended */
    struct job *jobs;
    bool stop;
    _Atomic pid_t pid; /* whose threads these are; 0: not started */
    unsigned started;
    pthread_t workers[POOL_THREADS_MAX];
};

unsigned pool_threads_wanted(void)
{
    const char *text = getenv("VNSTORE_THREADS");
    long wanted = text ? strtol(text, NULL, 10) : 0;
    cpu_set_t cpus;

    if (wanted <= 0)
        wanted = sched_getaffinity(0, sizeof(cpus), &cpus) == 0
                     ? CPU_COUNT(&cpus)
                     : sysconf(_SC_NPROCESSORS_ONLN);
    if (wanted < 1)
        return 1;
    return wanted > (long)POOL_THREADS_MAX ? POOL_THREADS_MAX
                                           : (unsigned)wanted;
}

struct pool *pool_new(unsigned threads)
{
    struct pool *pool = vn_alloc(sizeof(*pool));

    pool->threads = threads;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work, NULL);
    pthread_cond_init(&pool->done, NULL);
    return pool;
}

unsigned pool_threads(const struct pool *pool)
{
    return pool->threads;
}

/* Not the copy of a parent's that has threads. */
static bool is_ours(struct pool *pool)
{
    pid_t pid = pool->pid;

    return pid == 0 || pid == getpid();
}

void pool_free(struct pool *pool)
{
    if (!pool)
        return;
    if (is_ours(pool)) {
        pthread_mutex_lock(&pool->lock);
        pool->stop = true;
        pthread_cond_broadcast(&pool->work);
        pthread_mutex_unlock(&pool->lock);
        for (unsigned i = 0; i < pool->started; i++)
            pthread_join(pool->workers[i], NULL);
        pthread_cond_destroy(&pool->done);
        pthread_cond_destroy(&pool->work);
        pthread_mutex_destroy(&pool->lock);
    }
    free(pool);
}

/* ---- jobs; all with the lock held ------------------------------------- */

static void push(struct pool *pool, struct job *job)
{
    struct job **link = &pool->jobs;

    while (*link)
        link = &(*link)->behind;
    *link = job;
}

static void unlink_job(struct pool *pool, struct job *job)
{
    struct job **link = &pool->jobs;

    while (*link != job)
        link = &(*link)->behind;
    *link = job->behind;
}

/* Run the job's next task; the lock is let go meanwhile. */
static void run_next(struct pool *pool, struct job *job)
{
    struct vn_err err = VN_ERR_INIT;
    size_t i = job->next++;
    int result;

    if (job->next == job->count)
        unlink_job(pool, job);
    job->running++;
    pthread_mutex_unlock(&pool->lock);
    result = job->fn(job->context, i, &err);
    pthread_mutex_lock(&pool->lock);
    if (result < 0 && !job->failed) {
        job->failed = true;
        job->err = err;
        if (job->next < job->count) {
            job->next = job->count;
            unlink_job(pool, job);
        }
    }
    if (--job->running == 0 && job->next == job->count)
        pthread_cond_broadcast(&pool->done);
}

static void *worker_main(void *arg)
{
    struct pool *pool = arg;

    vn_lock_scope(&pool->lock);
    for (;;) {
        if (pool->jobs)
            run_next(pool, pool->jobs);
        else if (pool->stop)
            return NULL;
        else
            pthread_cond_wait(&pool->work, &pool->lock);
    }
}

static void start(struct pool *pool)
{
    sigset_t all;
    sigset_t before;

    if (pool->pid)
        return;
    pool->pid = getpid();
    sigfillset(&all);
    sigdelset(&all, SIGBUS); /* a task may look into a file (common/view.h) */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (pool->started + 1 < pool->threads &&
           pthread_create(&pool->workers[pool->started], NULL, worker_main,
                          pool) == 0) {
        pthread_setname_np(pool->workers[pool->started], "vnstore-pool");
        pool->started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static int run_alone(size_t count, pool_task_fn *fn, void *context,
                     struct vn_err *err)
{
    for (size_t i = 0; i < count; i++)
        if (fn(context, i, err) < 0)
            return -1;
    return 0;
}

int pool_run(struct pool *pool, size_t count, pool_task_fn *fn, void *context,
             struct vn_err *err)
{
    struct job job = {.fn = fn, .context = context, .count = count};

    if (count <= 1 || pool->threads <= 1 || !is_ours(pool))
        return run_alone(count, fn, context, err);
    {
        vn_lock_scope(&pool->lock);
        start(pool);
        push(pool, &job);
        pthread_cond_broadcast(&pool->work);
        while (job.next < job.count)
            run_next(pool, &job);
        while (job.running > 0)
            pthread_cond_wait(&pool->done, &pool->lock);
    }
    if (!job.failed)
        return 0;
    *err = job.err;
    return -1;
}

/* ---- results in order ------------------------------------------------- */

struct ordered {
    pool_task_fn *work;
    pool_task_fn *take;
    void *context;
    pthread_t caller;
    size_t count;
    size_t taken;        /* of the caller's only */
    atomic_bool ready[]; /* work() has returned 0 */
};

static int take_ready(struct ordered *o, struct vn_err *err)
{
    while (o->taken < o->count &&
           atomic_load_explicit(&o->ready[o->taken], memory_order_acquire))
        if (o->take(o->context, o->taken++, err) < 0)
            return -1;
    return 0;
}

static int ordered_task(void *context, size_t i, struct vn_err *err)
{
    struct ordered *o = context;

    if (o->work(o->context, i, err) < 0)
        return -1;
    atomic_store_explicit(&o->ready[i], true, memory_order_release);
    return pthread_equal(pthread_self(), o->caller) ? take_ready(o, err) : 0;
}

int pool_run_in_order(struct pool *pool, size_t count, pool_task_fn *work,
                      pool_task_fn *take, void *context, struct vn_err *err)
{
    vn_auto(free) struct ordered *o =
        vn_alloc(sizeof(*o) + count * sizeof(o->ready[0]));

    o->work = work;
    o->take = take;
    o->context = context;
    o->caller = pthread_self();
    o->count = count;
    if (pool_run(pool, count, ordered_task, o, err) < 0)
        return -1;
    return take_ready(o, err);
}
