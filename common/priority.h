#ifndef COMMON_PRIORITY_H
#define COMMON_PRIORITY_H

/*
 * Who runs first while a VM stands.
 *
 * Between the stop and the resume of a VM lie some ten hand-overs from thread
 * to thread. On a busy host each waits for its turn: 3 to 7 ms at normal
 * priority, even at nice -15, since Linux lets the running thread finish its
 * slice. So these threads are real-time (SCHED_FIFO) for those milliseconds,
 * and only for those. It needs CAP_SYS_NICE; without it nothing
 * changes, and a pause may be longer.
 */

#include <stdbool.h>
#include <sys/types.h>

/* The calling thread: urgent, or as ordinary threads are, at this nice value.
 * Threads and processes that it makes are ordinary in any case. False where it
 * is not allowed. */
bool priority_urgent_self(void);
bool priority_calm_self(int nice);

/*
 * A virtual machine's process: its first thread, which serves the monitor,
 * becomes as urgent as we are, and so will the threads that this makes; the
 * others, its vCPUs, a level less, so that they run and notice the stop. Calm
 * puts all threads there are then back to ordinary at `nice`. False if nothing
 * was changed.
 */
bool priority_urgent_process(pid_t pid);
bool priority_calm_process(pid_t pid, int nice);

/* Nice value of a process's first thread, or of the calling thread (0). 0 if
 * there is no such process. */
int priority_nice(pid_t pid);

#endif
