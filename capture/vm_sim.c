/* A pretended VM. See the header. */
#include "capture/vm_sim.h"

#include "common/clock.h"
#include "common/io.h"
#include "common/jsonx.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum step { IDLE, PREPARED, STOPPED, CAPTURED, SAVED };

struct vm_sim {
    struct vm base;
    pthread_mutex_t lock; /* cancelled, and the memory */
    pthread_cond_t wake;
    bool cancelled;
    bool running, gone, loaded;
    enum step step;
    struct vm_config config;
    bool failed[VM_ARGS_MAX]; /* this "fail=" has had its turn */
    uint8_t *memory, *captured;
    uint64_t size;
    uint64_t stop_wall_ns, resume_wall_ns;
};

static struct vm_sim *sim_of(struct vm *vm)
{
    return (struct vm_sim *)vm;
}

/* ---- what the configuration demands ------------------------------------- */

/* The value of the next "KEY=..." at or after *at; NULL: none. */
static const char *next_arg(const struct vm_sim *s, const char *key, size_t *at)
{
    size_t len = strlen(key);
    char **args = s->config.extra_args;

    for (; args && args[*at]; (*at)++) {
        if (strncmp(args[*at], key, len) == 0 && args[*at][len] == '=')
            return args[*at] + len + 1;
    }
    return NULL;
}

/* Wait as told; ECANCELED when someone cancels. */
static int delay(struct vm_sim *s, const char *step, bool deaf,
                 struct vn_err *err)
{
    vn_auto(free) char *key = vn_format("%s_ms", step);
    size_t at = 0;
    const char *text = next_arg(s, key, &at);
    uint64_t until =
        clock_now_ns() + (text ? strtoull(text, NULL, 10) : 0) * VN_MS;
    struct timespec deadline = {.tv_sec = (time_t)(until / VN_SEC),
                                .tv_nsec = (long)(until % VN_SEC)};
    vn_lock_scope(&s->lock);

    while (text && (deaf || !s->cancelled) &&
           pthread_cond_timedwait(&s->wake, &s->lock, &deadline) != ETIMEDOUT)
        continue;
    if (s->cancelled && !deaf)
        return vn_fail(err, ECANCELED, "VM '%s': %s", s->base.name, step);
    return 0;
}

/* Every step begins here. */
static int enter_step(struct vm_sim *s, const char *step, bool deaf,
                      struct vn_err *err)
{
    const char *name;

    for (size_t at = 0; (name = next_arg(s, "die", &at)); at++)
        s->gone |= strcmp(name, step) == 0;
    if (s->gone)
        return vn_fail(err, VN_E_PEER, "VM '%s' is gone", s->base.name);
    if (delay(s, step, deaf, err) < 0)
        return -1;
    for (size_t at = 0; (name = next_arg(s, "fail", &at)); at++) {
        if (strcmp(name, step) == 0 && !s->failed[at]) {
            s->failed[at] = true;
            return vn_fail(err, VN_E_PEER, "VM '%s': %s fails, as told",
                           s->base.name, step);
        }
    }
    return 0;
}

static int need_step(struct vm_sim *s, enum step step, const char *what,
                     struct vn_err *err)
{
    if (s->step != step)
        return vn_fail(err, VN_E_STATE, "VM '%s': %s out of order",
                       s->base.name, what);
    return 0;
}

/* ---- coming to be ------------------------------------------------------- */

static struct vm *make(const struct vm_config *config, const char *step,
                       bool running, struct vn_err *err)
{
    vn_auto(vm) struct vm *vm = vn_alloc(sizeof(struct vm_sim));
    struct vm_sim *s = sim_of(vm);
    pthread_condattr_t attr;

    vm_init(vm, &vm_sim_backend, config->name);
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->wake, &attr);
    pthread_condattr_destroy(&attr);
    if (vm_config_copy(config, &s->config, err) < 0)
        return NULL;
    s->size = config->memory_bytes < VM_SIM_MEMORY_MAX ? config->memory_bytes
                                                       : VM_SIM_MEMORY_MAX;
    s->memory = calloc(1, s->size ? s->size : 1);
    s->captured = calloc(1, s->size ? s->size : 1);
    if (!s->memory || !s->captured)
        return vn_fail_ptr(err, ENOMEM, "memory of VM '%s'", config->name);
    s->running = running;
    if (enter_step(s, step, false, err) < 0)
        return NULL;
    return vn_steal(&vm);
}

static struct vm *start(const struct vm_config *config, const char *state_dir,
                        struct vn_err *err)
{
    (void)state_dir;
    return make(config, "start", true, err);
}

static struct vm *create(const struct vm_config *config, const char *state_dir,
                         struct vn_err *err)
{
    (void)state_dir;
    return make(config, "create", false, err);
}

static int load_state(struct vm *vm, int fd, struct vn_err *err)
{
    struct vm_sim *s = sim_of(vm);
    char magic[sizeof(VM_SIM_MAGIC)];

    if (enter_step(s, "load_state", false, err) < 0 ||
        io_read(fd, magic, sizeof(magic), err) < 0)
        return -1;
    if (memcmp(magic, VM_SIM_MAGIC, sizeof(magic)) != 0)
        return vn_fail(err, VN_E_FORMAT, "VM '%s': no state of a sim VM",
                       vm->name);
    vn_lock_scope(&s->lock);
    return io_read(fd, s->memory, s->size, err);
}

static void free_vm(struct vm *vm)
{
    struct vm_sim *s = sim_of(vm);

    vm_config_done(&s->config);
    free(s->memory);
    free(s->captured);
    pthread_cond_destroy(&s->wake);
    pthread_mutex_destroy(&s->lock);
}

static int shut_down(struct vm *vm, struct vn_err *err)
{
    (void)err;
    sim_of(vm)->gone = true;
    return 0;
}

void vm_sim_write(struct vm *vm, uint64_t offset, const void *data, size_t size)
{
    struct vm_sim *s = sim_of(vm);
    vn_lock_scope(&s->lock);

    assert(offset <= s->size && size <= s->size - offset);
    memcpy(s->memory + offset, data, size);
}

void vm_sim_read(struct vm *vm, uint64_t offset, void *data, size_t size)
{
    struct vm_sim *s = sim_of(vm);
    vn_lock_scope(&s->lock);

    assert(offset <= s->size && size <= s->size - offset);
    memcpy(data, s->memory + offset, size);
}

static int is_running(struct vm *vm, bool *ret, struct vn_err *err)
{
    struct vm_sim *s = sim_of(vm);

    if (s->gone)
        return vn_fail(err, VN_E_PEER, "VM '%s' is gone", vm->name);
    *ret = s->running;
    return 0;
}

/* ---- a snapshot --------------------------------------------------------- */

static void run(struct vm_sim *s)
{
    if (!s->running)
        s->resume_wall_ns = clock_wall_ns();
    s->running = true;
}

static int prepare(struct vm *vm, const struct vm_prepare_opts *opts,
                   struct vn_err *err)
{
    struct vm_sim *s = sim_of(vm);

    {
        vn_lock_scope(&s->lock);

        s->cancelled = false;
    }
    if (need_step(s, IDLE, "prepare", err) < 0)
        return -1;
    if (!s->running)
        return vn_fail(err, VN_E_STATE, "VM '%s' is not running", vm->name);
    if (opts->mode == VM_MODE_PRECOPY)
        return vn_fail(err, VN_E_UNSUPPORTED, "VM '%s': no mode precopy",
                       vm->name);
    if (enter_step(s, "prepare", false, err) < 0)
        return -1;
    vm->chosen_mode = opts->mode == VM_MODE_STOP ? VM_MODE_STOP : VM_MODE_COW;
    s->step = PREPARED;
    return 0;
}

static int stop(struct vm *vm, uint64_t *ret_wall_ns, struct vn_err *err)
{
    struct vm_sim *s = sim_of(vm);

    if (need_step(s, PREPARED, "stop", err) < 0)
        return -1;
    if (enter_step(s, "stop", false, err) < 0)
        return -1;
    s->running = false;
    s->step = STOPPED;
    s->stop_wall_ns = clock_wall_ns();
    *ret_wall_ns = s->stop_wall_ns;
    return 0;
}

static int capture(struct vm *vm, struct vn_err *err)
{
    struct vm_sim *s = sim_of(vm);

    if (need_step(s, STOPPED, "capture", err) < 0)
        return -1;
    if (enter_step(s, "capture", false, err) < 0)
        return -1;
    vn_lock_scope(&s->lock);
    memcpy(s->captured, s->memory, s->size);
    s->step = CAPTURED;
    if (vm->chosen_mode == VM_MODE_COW)
        run(s);
    return 0;
}

static int put_memory(struct vm_sim *s, struct store_writer *writer,
                      const json_t *parent, json_t *manifest,
                      struct vn_err *err)
{
    vn_auto(free) char *object = vn_format("vm/%s/ram/sim", s->base.name);
    vn_auto(image_writer) struct image_writer *image = NULL;
    struct vn_err none = VN_ERR_INIT;
    struct map_root before, root;
    bool known = parent && manifest_object(parent, object, &before, &none) == 0;

    image = image_writer_open(
        writer, s->size, known && before.size == s->size ? &before : NULL, err);
    if (!image || image_writer_put(image, 0, s->captured, s->size, err) < 0 ||
        image_writer_finish(image, &root, err) < 0)
        return -1;
    manifest_add(manifest, object, &root);
    return 0;
}

static int save(struct vm *vm, struct store_writer *writer,
                const json_t *parent, json_t *manifest,
                void (*resumed)(void *context), void *context,
                struct vm_saved *ret, struct vn_err *err)
{
    struct vm_sim *s = sim_of(vm);
    vn_auto(free) char *object = vn_format("vm/%s/device.state", vm->name);
    struct map_root root;

    if (need_step(s, CAPTURED, "save", err) < 0)
        return -1;
    run(s);
    if (resumed)
        resumed(context);
    if (enter_step(s, "save", false, err) < 0 ||
        put_memory(s, writer, parent, manifest, err) < 0 ||
        store_put_bytes(writer, VM_SIM_MAGIC, sizeof(VM_SIM_MAGIC), &root,
                        err) < 0)
        return -1;
    manifest_add(manifest, object, &root);
    s->step = SAVED;
    ret->stop_wall_ns = s->stop_wall_ns;
    ret->resume_wall_ns = s->resume_wall_ns;
    ret->memory_bytes = s->size;
    ret->disk_bytes = 0;
    ret->meta = json_pack("{s:s,s:o}", "backend", "sim", "config",
                          vm_config_to_json(&s->config));
    return 0;
}

static int finish(struct vm *vm, struct vn_err *err)
{
    struct vm_sim *s = sim_of(vm);

    if (need_step(s, SAVED, "finish", err) < 0 ||
        enter_step(s, "finish", false, err) < 0)
        return -1;
    s->step = IDLE;
    return 0;
}

static int abort_snapshot(struct vm *vm, struct vn_err *err)
{
    struct vm_sim *s = sim_of(vm);

    if (enter_step(s, "abort", true, err) < 0)
        return -1;
    if (s->step != IDLE)
        run(s);
    s->step = IDLE;
    vn_lock_scope(&s->lock);
    s->cancelled = false;
    return 0;
}

static int resume(struct vm *vm, uint64_t *ret_wall_ns, struct vn_err *err)
{
    struct vm_sim *s = sim_of(vm);

    if (enter_step(s, "resume", true, err) < 0)
        return -1;
    run(s);
    if (ret_wall_ns)
        *ret_wall_ns = s->resume_wall_ns;
    return 0;
}

static void cancel(struct vm *vm)
{
    struct vm_sim *s = sim_of(vm);
    vn_lock_scope(&s->lock);

    s->cancelled = true;
    pthread_cond_broadcast(&s->wake);
}

const struct vm_backend vm_sim_backend = {
    .name = "sim",
    .start = start,
    .attach = start,
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
