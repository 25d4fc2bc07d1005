#ifndef COMMON_PRIORITY_H
#define COMMON_PRIORITY_H

/*
 * Scheduling priority ("nice": -20 first, 19 last) of threads.
 *
 * What lies between the stop and the resume of a VM goes before all else on a
 * busy host. Raising needs CAP_SYS_NICE; without it nothing changes, and a
 * pause may be longer. In Linux every thread has a nice value of its own, and
 * new threads and processes inherit that of the thread that makes them.
 */

#include <stdbool.h>
#include <sys/types.h>

#define PRIORITY_HURRY  (-15) /* while a VM stands */
#define PRIORITY_SWITCH (-10) /* frames wait for it */

/* Nice value of a process's first thread, or of the calling thread (0). 0 if
 * there is no such process. */
int priority_get(pid_t pid);

/* Set the calling thread's. False where that is not allowed. */
bool priority_set_self(int nice);

/* Set that of every thread a process has now. False if none could be set. */
bool priority_set_process(pid_t pid, int nice);

#endif
