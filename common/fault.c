#include "common/fault.h"

#include "common/auto.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define FAULT_POINTS_MAX 16

struct fault_point {
    char *name;
    unsigned long countdown; /* acts when it goes from 1 to 0 */
    int signal;              /* 0: the caller fails */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct fault_point points[FAULT_POINTS_MAX];
static atomic_int armed = -1; /* -1: environment not read yet */

static void disarm(void)
{
    for (int i = 0; i < FAULT_POINTS_MAX; i++) {
        free(points[i].name);
        points[i] = (struct fault_point){0};
    }
}

static int parse(const char *spec)
{
    vn_auto(free) char *copy = vn_strdup(spec);
    char *rest = copy;
    char *item;
    int count = 0;

    while ((item = strsep(&rest, ",")) && count < FAULT_POINTS_MAX) {
        char *name = strsep(&item, ":");
        struct fault_point *p;
        char *word;

        if (!*name)
            continue;
        p = &points[count++];
        *p = (struct fault_point){.name = vn_strdup(name), .countdown = 1};
        while ((word = strsep(&item, ":"))) {
            if (strcmp(word, "kill") == 0)
                p->signal = SIGKILL;
            else if (strcmp(word, "stop") == 0)
                p->signal = SIGSTOP;
            else if (strcmp(word, "fail") != 0)
                p->countdown = strtoul(word, NULL, 10);
        }
    }
    return count;
}

void fault_set(const char *spec)
{
    vn_lock_scope(&lock);

    disarm();
    atomic_store(&armed, spec ? parse(spec) : 0);
}

int fault_hit(const char *name)
{
    if (atomic_load_explicit(&armed, memory_order_relaxed) == 0)
        return 0;
    if (atomic_load(&armed) < 0)
        fault_set(getenv("VN_FAULT"));

    vn_lock_scope(&lock);
    for (int i = 0; i < FAULT_POINTS_MAX; i++) {
        struct fault_point *p = &points[i];

        if (!p->name || strcmp(p->name, name) != 0 || p->countdown == 0)
            continue;
        if (--p->countdown > 0)
            continue;
        if (p->signal == 0)
            return 1;
        raise(p->signal);
    }
    return 0;
}
