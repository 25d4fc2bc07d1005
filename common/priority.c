#include "common/priority.h"

#include "common/auto.h"

#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

static const struct sched_param in_command = {.sched_priority = 2};
static const struct sched_param in_motion = {.sched_priority = 1};
static const struct sched_param ordinary = {.sched_priority = 0};

int priority_nice(pid_t pid)
{
    int nice;

    errno = 0;
    nice = getpriority(PRIO_PROCESS, (id_t)pid);
    return errno ? 0 : nice;
}

bool priority_urgent_self(void)
{
    return sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK,
                              &in_command) == 0;
}

static bool calm(pid_t tid, int nice)
{
    return sched_setscheduler(tid, SCHED_OTHER, &ordinary) == 0 &&
           setpriority(PRIO_PROCESS, (id_t)tid, nice) == 0;
}

bool priority_calm_self(int nice)
{
    return calm(gettid(), nice);
}

/* Call fn for every thread the process has now; true if one call was. */
static bool for_each_thread(pid_t pid, bool (*fn)(pid_t tid, pid_t pid, int),
                            int argument)
{
    vn_auto(free) char *path = vn_format("/proc/%d/task", (int)pid);
    DIR *dir = opendir(path);
    struct dirent *entry;
    bool any = false;

    if (!dir)
        return false;
    while ((entry = readdir(dir))) {
        pid_t tid = (pid_t)strtol(entry->d_name, NULL, 10);

        if (tid > 0)
            any |= fn(tid, pid, argument);
    }
    closedir(dir);
    return any;
}

static bool make_urgent(pid_t tid, pid_t pid, int unused)
{
    (void)unused;
    if (tid == pid)
        return sched_setscheduler(tid, SCHED_FIFO, &in_command) == 0;
    return sched_setscheduler(tid, SCHED_RR, &in_motion) == 0;
}

static bool make_calm(pid_t tid, pid_t pid, int nice)
{
    (void)pid;
    return calm(tid, nice);
}

bool priority_urgent_process(pid_t pid)
{
    return for_each_thread(pid, make_urgent, 0);
}

bool priority_calm_process(pid_t pid, int nice)
{
    return for_each_thread(pid, make_calm, nice);
}
