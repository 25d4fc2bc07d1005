/* A VM that waits for its state: created stopped, loaded, stopped still. */
#include "capture/vm_qemu.h"

#include "common/clock.h"
#include "common/jsonx.h"

#include <string.h>

/* The stream ends when its feeder closes it; this only bounds the unbounded. */
#define LOAD_TIMEOUT_NS (24 * 3600 * VN_SEC)

static int await_loaded(struct vm_qemu *v, struct vn_err *err)
{
    vn_auto(json) json_t *event = qmp_wait_event(
        v->qmp, vm_qemu_want_migration_end, NULL, "the end of loading", err);

    if (!event)
        return -1;
    if (strcmp(qmp_event_string(event, "status"), "completed") != 0)
        return vm_qemu_fail_migration(v, err);
    return 0;
}

static int load(struct vm_qemu *v, int fd, struct vn_err *err)
{
    bool running;

    qmp_forget_events(v->qmp);
    if (qmp_command(v->qmp, "migrate-set-capabilities",
                    json_pack("{s:[{s:s,s:b}]}", "capabilities", "capability",
                              "events", "state", 1),
                    NULL, err) < 0)
        return -1;
    /* QEMU's own announcements are frames of the future: no host of the
     * snapshot has sent them. */
    if (qmp_command(v->qmp, "migrate-set-parameters",
                    json_pack("{s:i}", "announce-rounds", 0), NULL, err) < 0)
        return -1;
    if (qmp_command_fd(v->qmp, "getfd",
                       json_pack("{s:s}", "fdname", VM_QEMU_STREAM), fd,
                       err) < 0)
        return -1;
    if (qmp_command(v->qmp, "migrate-incoming",
                    json_pack("{s:s}", "uri", "fd:" VM_QEMU_STREAM), NULL,
                    err) < 0)
        return -1;
    if (await_loaded(v, err) < 0)
        return -1;
    if (vm_qemu_query_running(v, &running, NULL, err) < 0)
        return -1;
    if (running) /* -S keeps it stopped; make sure */
        return qmp_command(v->qmp, "stop", NULL, NULL, err);
    return 0;
}

int vm_qemu_load_state(struct vm *vm, int fd, struct vn_err *err)
{
    struct vm_qemu *v = vm_qemu_of(vm);
    int result;

    qmp_set_timeout(v->qmp, LOAD_TIMEOUT_NS);
    result = load(v, fd, err);
    qmp_set_timeout(v->qmp, QMP_TIMEOUT_NS);
    return result < 0 ? vn_wrap(err, "loading the state of VM '%s'", vm->name)
                      : 0;
}
