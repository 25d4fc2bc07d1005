#ifndef TESTS_SYSTEM_GUEST_TOOL_H
#define TESTS_SYSTEM_GUEST_TOOL_H

/*
 * What vm_tool.c and xen_tool.c share: a back end alone, without agent and
 * switch, with the oracle guest, which reports on its console every half
 * second, and finds bad memory and disk records by itself. Whoever includes it
 * has defined what counts as progress of the guest:
 *
 *     PROGRESS_PAGES, PROGRESS_RECORDS  written since, and
 *     PROGRESS_NS                       within this time
 *
 * Whatever fails ends the program with a sentence on stderr and status 1.
 */

#include "capture/vm.h"
#include "common/clock.h"
#include "common/io.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TIMEOUT (120 * VN_SEC) /* of each step of a snapshot */

static const char *guest_dir, *work_dir;

static void die(const char *format, ...)
    __attribute__((noreturn, format(printf, 1, 2)));
static void die(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}

/* The call must succeed. */
#define DO(call)                                                               \
    do {                                                                       \
        struct vn_err err = VN_ERR_INIT;                                       \
        if ((call) < 0)                                                        \
            die("%s:%d: %s: %s", __FILE__, __LINE__, #call, err.msg);          \
    } while (0)

static char *make_dir(const char *name)
{
    char *dir = vn_format("%s/%s", work_dir, name);

    DO(io_make_dirs(dir, &err));
    return dir;
}

/* A number of the guest's last whole report; -1: none yet. */
static long long report(const char *dir, const char *key)
{
    vn_auto(free) char *path = vn_format("%s/console.log", dir);
    vn_auto(free) char *pattern = vn_format(" %s=", key);
    vn_auto(fclose) FILE *file = fopen(path, "re");
    char line[4096];
    long long value = -1;

    while (file && fgets(line, sizeof(line), file)) {
        const char *at = strstr(line, pattern);

        if (strstr(line, "ORACLE-VIOLATION") || strstr(line, "panic"))
            die("guest: %s", line);
        if (strncmp(line, "ORACLE ", 7) == 0 && strchr(line, '\n') && at)
            value = atoll(at + strlen(pattern));
    }
    return value;
}

/* The guest writes memory (and disk): it lives. */
static void expect_progress(const char *dir, bool disk)
{
    long long pages = report(dir, "mem_pages"), records = 0;
    uint64_t until_ns = clock_now_ns() + PROGRESS_NS;

    if (disk)
        records = report(dir, "disk_rec");
    while (report(dir, "mem_pages") < pages + PROGRESS_PAGES ||
           (disk && report(dir, "disk_rec") < records + PROGRESS_RECORDS)) {
        if (clock_now_ns() > until_ns)
            die("the guest stands still: mem_pages %lld", pages);
        usleep(100000);
    }
    if (report(dir, "mem_bad") != 0 || (disk && report(dir, "disk_bad") != 0))
        die("the guest found bad memory or a bad disk");
}

static void expect_running(struct vm *vm)
{
    bool running = false;

    DO(vm_is_running(vm, &running, &err));
    if (!running)
        die("the VM does not run");
}

static void end(struct vm *vm)
{
    DO(vm_shutdown(vm, &err));
    vm_free(vm);
}

/* What vm_save() calls when the VM runs again. */
static void count_call(void *context)
{
    ++*(int *)context;
}

static struct store *make_store(void)
{
    vn_auto(free) char *path = vn_format("%s/store", work_dir);
    struct vn_err opening = VN_ERR_INIT;
    struct store *store;

    DO(store_init(path, &err));
    store = store_open(path, &opening);
    if (!store)
        die("store: %s", opening.msg);
    return store;
}

#endif
