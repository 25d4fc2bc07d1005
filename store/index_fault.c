#include "store/index_internal.h"

/*
 * The last resort: damage that index_check.c did not see, since the index is
 * too large to be walked at each opening, or came to be later.
 *
 * LMDB reads its file through a mapping and trusts it. What it then may do is
 * fault near the mapping (SIGSEGV, or SIGBUS where the file was cut or the
 * medium fails) or fail an assertion of its own. A program that asked for it
 * (store_catch_index_faults()) ends with a sentence then, where a user would
 * see "Segmentation fault" and nothing else.
 *
 * "Near": garbage of two bytes, an offset in a page, leads 64 KiB astray, so a
 * fault that far from the mapping counts as its own. One by a page's number
 * does not leave the mapping, which is address space of a TiB.
 *
 * The handler only reads atomics and calls write() and _exit(). Ranges are
 * noted while the registry of environments is locked, one writer at a time. A
 * range is valid where `end` is not 0; it is set last and cleared first. When
 * there are more indexes than places the others do without.
 */

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define RANGES_MAX 32u /* two an index */
#define PATH_SIZE  512u
#define NEAR       65536u

struct range {
    atomic_uintptr_t begin;
    atomic_uintptr_t end;
    char path[PATH_SIZE];
};

static struct range ranges[RANGES_MAX];
static char program_name[64]; /* "": nobody asked for it */
static int exit_status;
static struct sigaction before_segv;
static struct sigaction before_bus;

const char *index_owns_address(const void *address)
{
    uintptr_t at = (uintptr_t)address;

    for (size_t i = 0; i < RANGES_MAX; i++) {
        uintptr_t end = atomic_load(&ranges[i].end);
        uintptr_t begin = atomic_load(&ranges[i].begin);

        if (end && at >= begin - NEAR && at < end + NEAR)
            return ranges[i].path;
    }
    return NULL;
}

void index_fault_note(const char *dir, const void *begin, uint64_t size)
{
    for (size_t i = 0; i < RANGES_MAX; i++) {
        if (atomic_load(&ranges[i].end))
            continue;
        snprintf(ranges[i].path, PATH_SIZE, "%s", dir);
        atomic_store(&ranges[i].begin, (uintptr_t)begin);
        atomic_store(&ranges[i].end, (uintptr_t)begin + size);
        return;
    }
}

void index_fault_forget(const void *begin)
{
    for (size_t i = 0; i < RANGES_MAX; i++)
        if (begin && atomic_load(&ranges[i].begin) == (uintptr_t)begin)
            atomic_store(&ranges[i].end, 0);
}

/* ---- the end ---------------------------------------------------------- */

static size_t append(char *text, size_t size, const char *more)
{
    size_t n = strlen(more);

    memcpy(text + size, more, n);
    return size + n;
}

/* One write, so that it stays one line. */
_Noreturn static void end(const char *path)
{
    char text[sizeof(program_name) + PATH_SIZE + 64];
    size_t size = append(text, 0, program_name);

    size = append(text, size, ": the index '");
    size = append(text, size, path);
    size = append(text, size, "' is damaged: run 'vnstore repair'\n");
    if (write(STDERR_FILENO, text, size) < 0)
        _exit(exit_status); /* nobody hears it */
    _exit(exit_status);
}

static void on_fault(int signal_number, siginfo_t *info, void *context)
{
    const char *path = NULL;

    (void)context;
    if (info->si_code > 0) /* else si_addr means nothing: it was sent */
        path = index_owns_address(info->si_addr);
    if (path)
        end(path);
    /* Not ours: what would have been. The access faults once more. */
    sigaction(signal_number,
              signal_number == SIGBUS ? &before_bus : &before_segv, NULL);
    if (info->si_code <= 0)
        raise(signal_number);
}

/* LMDB aborts when this returns. */
static void on_assert(MDB_env *env, const char *message)
{
    const char *path = NULL;

    (void)message;
    if (program_name[0] && mdb_env_get_path(env, &path) == 0 &&
        strlen(path) < PATH_SIZE)
        end(path);
}

void index_fault_watch(MDB_env *env)
{
    (void)mdb_env_set_assert(env, on_assert);
}

void store_catch_index_faults(const char *program, int status)
{
    struct sigaction action = {.sa_sigaction = on_fault,
                               .sa_flags = SA_SIGINFO};

    snprintf(program_name, sizeof(program_name), "%s", program);
    exit_status = status;
    sigemptyset(&action.sa_mask);
    sigaction(SIGSEGV, &action, &before_segv);
    sigaction(SIGBUS, &action, &before_bus);
}
