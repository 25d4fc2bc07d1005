/*
 * Continuing a VM after its agent died in the middle of a snapshot.
 *
 * What may be found at the monitor: the agent's connection, not yet closed
 * (one client at a time: connecting waits, the greeting does not come); a
 * migration under way whose reader is gone; a VM that stands; or one that runs
 * and that a command of the dead agent, still being executed, will stop. So:
 * cancel the migration, wait until it ended, continue if it stands, and
 * believe "running" only when it is seen twice with a pause between.
 *
 * A background-snapshot is not cancelled: QEMU 7.2 then leaves memory write-
 * protected with nobody to lift it, and the guest hangs at its next write. Its
 * stream is read to the end by the keeper (capture/vm_qemu_guard.c).
 *
 * Nothing else is undone. Backup jobs and exports of the snapshot stay: they
 * cost copies of written blocks, and the next agent removes them.
 */

#include "coord/rescue.h"

#include "capture/qmp.h"
#include "capture/vm_xen.h"
#include "common/clock.h"
#include "common/jsonx.h"
#include "common/priority.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <time.h>

#define RETRY_NS   (50 * VN_MS)
#define CONFIRM_NS (100 * VN_MS)
#define SLICE_NS   (1 * VN_SEC) /* between looks at the process */
#define CANCEL_NS  (2 * VN_SEC) /* for a migration to end */

int rescue_check(const char *address, struct vn_err *err)
{
    _Static_assert(RESCUE_ADDRESS_MAX - 4 <
                       sizeof(((struct sockaddr_un *)0)->sun_path),
                   "the path behind qmp: fits into a socket's address");

    if ((strncmp(address, "qmp:/", 5) == 0 ||
         strncmp(address, "xen:", 4) == 0) &&
        strlen(address) <= RESCUE_ADDRESS_MAX)
        return 0;
    return vn_fail(err, VN_E_FORMAT,
                   "rescue address '%.200s': expected qmp:/PATH or "
                   "xen:DOMID:UUID of at most %d bytes",
                   address, RESCUE_ADDRESS_MAX);
}

static void pause_ns(uint64_t ns)
{
    struct timespec time = {.tv_sec = (time_t)(ns / VN_SEC),
                            .tv_nsec = (long)(ns % VN_SEC)};

    nanosleep(&time, NULL);
}

static bool is_one_of(const char *text, const char *const *list)
{
    for (; *list; list++)
        if (strcmp(text, *list) == 0)
            return true;
    return false;
}

/* End what the agent began; a refusal means that there is nothing to end. */
static int cancel_migration(struct qmp *q, struct vn_err *err)
{
    static const char *const over[] = {"none",      "completed", "failed",
                                       "cancelled", "",          NULL};
    uint64_t until_ns = clock_now_ns() + CANCEL_NS;

    if (qmp_command(q, "migrate_cancel", NULL, NULL, err) < 0 &&
        (err->code != VN_E_PEER || qmp_is_gone(q)))
        return -1;
    for (;;) {
        vn_auto(json) json_t *info = NULL;

        if (qmp_command(q, "query-migrate", NULL, &info, err) < 0)
            return err->code == VN_E_PEER && !qmp_is_gone(q) ? 0 : -1;
        /* One that does not end must not keep the VM from being continued. */
        if (is_one_of(jsonx_string_or(info, "status", ""), over) ||
            clock_now_ns() >= until_ns)
            return 0;
        pause_ns(RETRY_NS);
    }
}

/* Is the migration, if there is one, a background-snapshot? */
static int query_background(struct qmp *q, bool *ret, struct vn_err *err)
{
    vn_auto(json) json_t *list = NULL;
    const json_t *entry;
    size_t i;

    *ret = false;
    if (qmp_command(q, "query-migrate-capabilities", NULL, &list, err) < 0)
        return err->code == VN_E_PEER && !qmp_is_gone(q) ? 0 : -1;
    json_array_foreach (list, i, entry)
        if (strcmp(jsonx_string_or(entry, "capability", ""),
                   "background-snapshot") == 0)
            *ret = jsonx_bool_or(entry, "state", false);
    return 0;
}

/*
 * One look at the VM, continuing it where it stands. *ret_again: look again
 * after a while. *result is raised to RESCUE_CONTINUED when it stood.
 */
static int look_once(struct qmp *q, bool *seen_running, bool *ret_again,
                     enum rescue_result *result, struct vn_err *err)
{
    static const char *const own_reasons[] = {
        "prelaunch",      "inmigrate",      "suspended", "shutdown",
        "internal-error", "guest-panicked", NULL};
    vn_auto(json) json_t *info = NULL;
    const char *status;

    *ret_again = true;
    if (qmp_command(q, "query-status", NULL, &info, err) < 0)
        return -1;
    status = jsonx_string_or(info, "status", "");
    if (jsonx_bool_or(info, "running", false)) {
        *ret_again = !*seen_running;
        *seen_running = true;
        return 0;
    }
    *seen_running = false;
    if (is_one_of(status, own_reasons)) {
        *result = RESCUE_LEFT;
        *ret_again = false;
        return 0;
    }
    if (qmp_command(q, "cont", NULL, NULL, err) < 0)
        return vn_wrap(err, "state '%.40s'", status);
    *result = RESCUE_CONTINUED;
    return 0;
}

static int rescue_once(const char *name, const char *path, uint64_t deadline_ns,
                       enum rescue_result *result, struct vn_err *err)
{
    uint64_t left_ns = deadline_ns - clock_now_ns();
    vn_auto(qmp) struct qmp *q = NULL;
    bool seen_running = false, again = true, background;

    /* A deadline that just passed shows as a huge rest. */
    if (left_ns > SLICE_NS)
        left_ns = SLICE_NS;
    q = qmp_connect(path, name, left_ns, err);
    if (!q)
        return -1;
    qmp_set_timeout(q, SLICE_NS);
    if (query_background(q, &background, err) < 0 ||
        (!background && cancel_migration(q, err) < 0))
        return -1;
    for (;;) {
        if (look_once(q, &seen_running, &again, result, err) < 0)
            return -1;
        if (!again)
            return 0;
        if (clock_now_ns() >= deadline_ns)
            return vn_fail(err, VN_E_TIMEOUT, "%s does not stay running", name);
        if (seen_running)
            pause_ns(CONFIRM_NS);
    }
}

static int rescue_domain(const char *address, uint64_t deadline_ns,
                         enum rescue_result *ret, struct vn_err *err)
{
    bool stood;

    if (vm_xen_rescue(address, deadline_ns, &stood, err) < 0)
        return -1;
    *ret = stood ? RESCUE_CONTINUED : RESCUE_RAN;
    return 0;
}

int rescue_vm(const char *name, const char *address, pid_t pid,
              uint64_t deadline_ns, enum rescue_result *ret, struct vn_err *err)
{
    enum rescue_result result = RESCUE_RAN;

    if (rescue_check(address, err) < 0)
        return -1;
    if (strncmp(address, "xen:", 4) == 0)
        return rescue_domain(address, deadline_ns, ret, err);
    /* A VM that stands is urgent (common/priority.h): the agent made it so. */
    if (pid > 0)
        (void)priority_calm_process(pid, 0);
    for (;;) {
        if (rescue_once(name, address + 4, deadline_ns, &result, err) == 0)
            break;
        if (pid > 0 && kill(pid, 0) < 0 && errno == ESRCH)
            return vn_fail(err, VN_E_NOT_FOUND, "its process %d is gone",
                           (int)pid);
        if (clock_now_ns() >= deadline_ns)
            return -1;
        pause_ns(RETRY_NS);
    }
    *ret = result;
    return 0;
}
