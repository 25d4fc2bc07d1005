/*
 * The QEMU back end: its vtable, and what all its files need.
 *
 * Each call goes to the file that does it; here a failure of a VM that is gone
 * is made to say how its process ended. A cancelled call fails with ECANCELED;
 * the cancelled state lasts until the next abort or prepare. Aborting,
 * resuming and shutting down cannot be cancelled.
 */
#include "capture/vm_qemu.h"

#include "common/clock.h"
#include "common/jsonx.h"
#include "common/log.h"
#include "common/priority.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

char *vm_qemu_path(const struct vm_qemu *v, const char *name)
{
    return vn_format("%s/%s", v->state_dir, name);
}

char *vm_qemu_rescue_address(const char *socket)
{
    vn_auto(free) char *absolute = realpath(socket, NULL);

    return vn_format("qmp:%s", absolute ? absolute : socket);
}

static int done(struct vm_qemu *v, int result, struct vn_err *err)
{
    if (result < 0 && v->qmp && qmp_is_gone(v->qmp))
        vm_qemu_explain(v, err);
    return result;
}

/* ---- coming to be ------------------------------------------------------- */

static struct vm_qemu *new_vm(const struct vm_config *config,
                              const char *state_dir, struct vn_err *err)
{
    vn_auto(vm) struct vm *vm = vn_alloc(sizeof(struct vm_qemu));
    struct vm_qemu *v = vm_qemu_of(vm);

    vm_init(vm, &vm_qemu_backend, config->name);
    v->pidfd = -1;
    v->keeper_pipe = -1;
    v->state_dir = vn_strdup(state_dir);
    if (vm_config_copy(config, &v->config, err) < 0)
        return NULL;
    v->memory_bytes = config->memory_bytes;
    return vm_qemu_of(vn_steal(&vm));
}

/* Put what the machine is really called in place of an alias such as "pc";
 * options behind it stay. */
static int resolve_machine(struct vm_qemu *v, struct vn_err *err)
{
    static const char suffix[] = "-machine";
    vn_auto(json) json_t *type = NULL;
    const char *text, *options;
    size_t len;
    char *machine;

    if (qmp_command(
            v->qmp, "qom-get",
            json_pack("{s:s,s:s}", "path", "/machine", "property", "type"),
            &type, err) < 0)
        return -1;
    text = json_string_value(type);
    len = text ? strlen(text) : 0;
    if (len < sizeof(suffix) ||
        strcmp(text + len - strlen(suffix), suffix) != 0)
        return vn_fail(err, VN_E_FORMAT, "VM '%s': odd machine type '%s'",
                       v->base.name, text ? text : "");
    options = v->config.machine ? strchr(v->config.machine, ',') : NULL;
    machine = vn_format("%.*s%s", (int)(len - strlen(suffix)), text,
                        options ? options : "");
    free(v->config.machine);
    v->config.machine = machine;
    return 0;
}

/* The CPU model, where the configuration does not say. */
static int resolve_cpu(struct vm_qemu *v, struct vn_err *err)
{
    static const char suffix[] = "-x86_64-cpu";
    vn_auto(json) json_t *cpus = NULL;
    vn_auto(json) json_t *type = NULL;
    const char *path, *text;
    size_t len;

    if (v->config.cpu)
        return 0;
    if (qmp_command(v->qmp, "query-cpus-fast", NULL, &cpus, err) < 0)
        return -1;
    path = jsonx_string_or(json_array_get(cpus, 0), "qom-path", "");
    if (qmp_command(v->qmp, "qom-get",
                    json_pack("{s:s,s:s}", "path", path, "property", "type"),
                    &type, err) < 0)
        return -1;
    text = json_string_value(type);
    len = text ? strlen(text) : 0;
    if (len >= sizeof(suffix) &&
        strcmp(text + len - strlen(suffix), suffix) == 0)
        v->config.cpu = vn_format("%.*s", (int)(len - strlen(suffix)), text);
    return 0;
}

/* Ask what a restore must know. */
static int identify(struct vm_qemu *v, struct vn_err *err)
{
    vn_auto(json) json_t *memory = NULL;
    unsigned version = qmp_version(v->qmp);

    snprintf(v->version, sizeof(v->version), "%u.%u.%u", version / 10000,
             version / 100 % 100, version % 100);
    if (qmp_command(v->qmp, "query-memory-size-summary", NULL, &memory, err) <
        0)
        return -1;
    v->memory_bytes = jsonx_u64_or(memory, "base-memory", 0) +
                      jsonx_u64_or(memory, "plugged-memory", 0);
    if (v->memory_bytes == 0 || v->memory_bytes > VM_MEMORY_MAX)
        return vn_fail(err, VN_E_LIMIT, "VM '%s': has %llu bytes of memory",
                       v->base.name, (unsigned long long)v->memory_bytes);
    v->config.memory_bytes = v->memory_bytes;
    if (resolve_machine(v, err) < 0)
        return -1;
    return resolve_cpu(v, err);
}

static struct vm *launch(const struct vm_config *config, const char *state_dir,
                         bool incoming, struct vn_err *err)
{
    struct vm_qemu *v = new_vm(config, state_dir, err);
    struct vn_err ignored = VN_ERR_INIT;
    vn_auto(vm) struct vm *vm = v ? &v->base : NULL;

    if (!v)
        return NULL;
    if (vm_qemu_launch(v, incoming, err) < 0) {
        vn_wrap(err, "VM '%s'", config->name);
        return NULL;
    }
    if (identify(v, err) < 0) {
        (void)done(v, -1, err);
        if (vm_qemu_end(v, &ignored) < 0)
            log_debug("vm_qemu: %s", ignored.msg);
        return NULL;
    }
    return vn_steal(&vm);
}

static struct vm *start(const struct vm_config *config, const char *state_dir,
                        struct vn_err *err)
{
    return launch(config, state_dir, false, err);
}

static struct vm *create(const struct vm_config *config, const char *state_dir,
                         struct vn_err *err)
{
    return launch(config, state_dir, true, err);
}

static struct vm *attach(const struct vm_config *config, const char *state_dir,
                         struct vn_err *err)
{
    struct vm_qemu *v = new_vm(config, state_dir, err);
    vn_auto(vm) struct vm *vm = v ? &v->base : NULL;
    vn_auto(free) char *who = vn_format("VM '%s'", config->name);

    if (!v)
        return NULL;
    if (!config->qmp)
        return vn_fail_ptr(err, VN_E_FORMAT,
                           "VM '%s': no monitor socket is named", config->name);
    v->qmp = qmp_connect(config->qmp, who, 5 * VN_SEC, err);
    if (!v->qmp) {
        vn_wrap(err, "%s", who);
        return NULL;
    }
    v->base.pid = qmp_peer_pid(v->qmp);
    v->base.rescue_address = vm_qemu_rescue_address(config->qmp);
    if (v->base.pid > 0)
        v->pidfd = pidfd_open(v->base.pid, 0); /* -1: end by QMP alone */
    /* What an agent that died has left behind. */
    if (identify(v, err) < 0 || vm_qemu_clean_leftovers(v, err) < 0 ||
        vm_qemu_find_disks(v, err) < 0) {
        (void)done(v, -1, err);
        return NULL;
    }
    return vn_steal(&vm);
}

static void free_vm(struct vm *vm)
{
    struct vm_qemu *v = vm_qemu_of(vm);
    struct vn_err ignored = VN_ERR_INIT;

    if (v->qmp && v->step != VM_QEMU_IDLE && vm_qemu_abort(v, &ignored) < 0)
        log_debug("vm_qemu: let go vm=%s error=\"%s\"", vm->name, ignored.msg);
    vm_qemu_keeper_end(v);
    spool_free(v->spool);
    qmp_free(v->qmp);
    if (v->child)
        vm_qemu_reap(v);
    vn_auto_close(&v->pidfd);
    for (unsigned i = 0; i < v->disk_count; i++)
        free(v->disks[i].node);
    vm_config_done(&v->config);
    free(v->state_dir);
}

/* ---- asking and telling ------------------------------------------------- */

int vm_qemu_query_running(struct vm_qemu *v, bool *ret, char status[32],
                          struct vn_err *err)
{
    vn_auto(json) json_t *reply = NULL;

    if (qmp_command(v->qmp, "query-status", NULL, &reply, err) < 0)
        return -1;
    if (status)
        snprintf(status, 32, "%s", jsonx_string_or(reply, "status", "?"));
    return jsonx_bool(reply, "running", ret, err);
}

int vm_qemu_continue(struct vm_qemu *v, uint64_t *ret_wall_ns,
                     struct vn_err *err)
{
    bool running;
    json_t *event;

    if (vm_qemu_query_running(v, &running, NULL, err) < 0)
        return -1;
    if (running) {
        vm_qemu_hurry(v, false);
        if (ret_wall_ns)
            *ret_wall_ns = clock_wall_ns();
        return 0;
    }
    while ((event = qmp_take_event(v->qmp, qmp_want_name, "RESUME")))
        json_decref(event);
    if (qmp_command(v->qmp, "cont", NULL, NULL, err) < 0)
        return -1;
    event = qmp_wait_event(v->qmp, qmp_want_name, "RESUME", "RESUME", err);
    if (!event)
        return -1;
    vm_qemu_hurry(v, false);
    if (ret_wall_ns)
        *ret_wall_ns = qmp_event_wall_ns(event);
    json_decref(event);
    return 0;
}

void vm_qemu_hurry(struct vm_qemu *v, bool on)
{
    if (on == v->hurrying || v->base.pid <= 0)
        return;
    if (on) {
        v->calm_nice = priority_nice(v->base.pid);
        v->hurrying = priority_urgent_process(v->base.pid);
    } else {
        (void)priority_calm_process(v->base.pid, v->calm_nice);
        v->hurrying = false;
    }
}

int vm_qemu_set_capability(struct vm_qemu *v, const char *name, bool on,
                           struct vn_err *err)
{
    return qmp_command(v->qmp, "migrate-set-capabilities",
                       json_pack("{s:[{s:s,s:b},{s:s,s:b}]}", "capabilities",
                                 "capability", "events", "state", 1,
                                 "capability", name, "state", (int)on),
                       NULL, err);
}

bool vm_qemu_want_migration_end(const json_t *event, const void *context)
{
    const char *status = qmp_event_string(event, "status");

    (void)context;
    return qmp_want_name(event, "MIGRATION") &&
           (strcmp(status, "completed") == 0 || strcmp(status, "failed") == 0 ||
            strcmp(status, "cancelled") == 0);
}

int vm_qemu_fail_migration(struct vm_qemu *v, struct vn_err *err)
{
    vn_auto(json) json_t *reply = NULL;

    if (qmp_command(v->qmp, "query-migrate", NULL, &reply, err) < 0)
        return -1;
    return vn_fail(err, VN_E_PEER, "VM '%s': QEMU gave the stream up (%s): %s",
                   v->base.name, jsonx_string_or(reply, "status", "?"),
                   jsonx_string_or(reply, "error-desc", "it says not why"));
}

/* ---- the vtable --------------------------------------------------------- */

static int load_state(struct vm *vm, int fd, struct vn_err *err)
{
    return done(vm_qemu_of(vm), vm_qemu_load_state(vm, fd, err), err);
}

static int shut_down(struct vm *vm, struct vn_err *err)
{
    struct vm_qemu *v = vm_qemu_of(vm);

    v->step = VM_QEMU_IDLE;
    return vm_qemu_end(v, err);
}

static int is_running(struct vm *vm, bool *ret, struct vn_err *err)
{
    struct vm_qemu *v = vm_qemu_of(vm);

    return done(v, vm_qemu_query_running(v, ret, NULL, err), err);
}

static int prepare(struct vm *vm, const struct vm_prepare_opts *opts,
                   struct vn_err *err)
{
    struct vm_qemu *v = vm_qemu_of(vm);

    return done(v, vm_qemu_prepare(v, opts, err), err);
}

static int stop(struct vm *vm, uint64_t *ret_wall_ns, struct vn_err *err)
{
    struct vm_qemu *v = vm_qemu_of(vm);

    return done(v, vm_qemu_stop(v, ret_wall_ns, err), err);
}

static int capture(struct vm *vm, struct vn_err *err)
{
    struct vm_qemu *v = vm_qemu_of(vm);

    return done(v, vm_qemu_capture(v, err), err);
}

static int save(struct vm *vm, struct store_writer *writer,
                const json_t *parent, json_t *manifest,
                void (*resumed)(void *context), void *context,
                struct vm_saved *ret, struct vn_err *err)
{
    struct vm_qemu *v = vm_qemu_of(vm);
    const struct vm_qemu_save args = {.writer = writer,
                                      .parent = parent,
                                      .manifest = manifest,
                                      .resumed = resumed,
                                      .context = context};

    return done(v, vm_qemu_save(v, &args, ret, err), err);
}

static int finish(struct vm *vm, struct vn_err *err)
{
    struct vm_qemu *v = vm_qemu_of(vm);

    return done(v, vm_qemu_finish(v, err), err);
}

static int abort_snapshot(struct vm *vm, struct vn_err *err)
{
    struct vm_qemu *v = vm_qemu_of(vm);

    return done(v, vm_qemu_abort(v, err), err);
}

static int resume(struct vm *vm, uint64_t *ret_wall_ns, struct vn_err *err)
{
    struct vm_qemu *v = vm_qemu_of(vm);
    int result;

    qmp_set_deaf(v->qmp, true);
    result = vm_qemu_continue(v, ret_wall_ns, err);
    qmp_set_deaf(v->qmp, false);
    return done(v, result, err);
}

static void cancel(struct vm *vm)
{
    qmp_cancel(vm_qemu_of(vm)->qmp);
}

const struct vm_backend vm_qemu_backend = {
    .name = "qemu",
    .start = start,
    .attach = attach,
    .create = create,
    .load_state = load_state,
    .free = free_vm,
    .shutdown = shut_down,
    .is_running = is_running,
    .prepare = prepare,
    .stop = stop,
    .capture = capture,
    .save = save,
    .finish = finish,
    .abort = abort_snapshot,
    .resume = resume,
    .cancel = cancel,
    .nic_interface = vm_no_interface,
};
