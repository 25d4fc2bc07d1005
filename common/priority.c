#include "common/priority.h"

#include "common/auto.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

int priority_get(pid_t pid)
{
    int nice;

    errno = 0;
    nice = getpriority(PRIO_PROCESS, (id_t)pid);
    return errno ? 0 : nice;
}

bool priority_set_self(int nice)
{
    return setpriority(PRIO_PROCESS, (id_t)gettid(), nice) == 0;
}

bool priority_set_process(pid_t pid, int nice)
{
    vn_auto(free) char *path = vn_format("/proc/%d/task", (int)pid);
    DIR *dir = opendir(path);
    struct dirent *entry;
    bool any = false;

    if (!dir)
        return false;
    while ((entry = readdir(dir))) {
        long tid = strtol(entry->d_name, NULL, 10);

        if (tid > 0)
            any |= setpriority(PRIO_PROCESS, (id_t)tid, nice) == 0;
    }
    closedir(dir);
    return any;
}
