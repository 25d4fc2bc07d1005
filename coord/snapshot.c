/*
 * Drives the pure coordinator (cut_coord) with messages, time and the store.
 *
 * Participants are the hosts that say they run the VNE. When all have saved,
 * the manifest is put together from what they reported and committed; after
 * that, or after giving up, we wait for "idle" from all, so that nothing of the
 * cut is left when the call returns.
 */

#include "coord/snapshot.h"

#include "common/clock.h"
#include "common/fault.h"
#include "common/jsonx.h"
#include "common/log.h"
#include "coord/cut.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define STEP_TIMEOUT_NS (30 * VN_SEC)
#define IDLE_TIMEOUT_S  30
#define LEASE_MS        (CUT_LEASE_NS / VN_MS)

struct participant {
    size_t host;   /* index in the session */
    json_t *saved; /* its "saved" message */
    bool idle, lost;
};

struct snapshot {
    struct session *session;
    const struct vne *vne;
    struct store *store;
    const struct snapshot_opts *opts;
    struct cut_coord cut;
    struct participant *parts;
    unsigned count;
    char *parent; /* name of the previous snapshot, or NULL */
    json_t *manifest;
    struct vn_err commit_error;
    struct event *tick;
};

static void perform(struct snapshot *s, const struct cut_coord_action *action);

/* The machine wants a TICK then. */
static void set_tick(struct snapshot *s)
{
    uint64_t at_ns = cut_coord_wake_ns(&s->cut);
    uint64_t now_ns = clock_now_ns();
    uint64_t wait_ns = at_ns > now_ns ? at_ns - now_ns : 0;
    struct timeval wait = {.tv_sec = (time_t)(wait_ns / VN_SEC),
                           .tv_usec = (suseconds_t)(wait_ns % VN_SEC / 1000)};

    evtimer_del(s->tick);
    if (at_ns != UINT64_MAX)
        evtimer_add(s->tick, &wait);
}

static void say(struct snapshot *s, const char *phrase)
{
    if (s->opts->progress)
        s->opts->progress(s->opts->context, phrase);
}

static void feed(struct snapshot *s, const struct cut_coord_event *event)
{
    static const char *const phrases[] = {
        "idle",       "preparing", "cutting",   "saving memory and disks",
        "committing", "committed", "giving up",
    };
    vn_auto(free) struct cut_coord_action *actions =
        vn_alloc(CUT_COORD_ACTIONS_MAX * sizeof(*actions));
    enum cut_coord_state before = s->cut.state;
    size_t count = cut_coord_step(&s->cut, event, clock_now_ns(), actions);

    if (s->cut.state != before)
        say(s, phrases[s->cut.state]);
    for (size_t i = 0; i < count; i++)
        perform(s, &actions[i]);
    set_tick(s);
}

static json_t *message_new(const struct snapshot *s, const char *type)
{
    return json_pack("{s:s, s:s, s:I}", "type", type, "vne", s->vne->name,
                     "epoch", (json_int_t)s->cut.epoch);
}

static void send_to(struct snapshot *s, unsigned part, json_t *message)
{
    session_send(s->session, s->parts[part].host, message);
    json_decref(message);
}

static void send_prepare(struct snapshot *s, unsigned part)
{
    json_t *message = message_new(s, "prepare");

    json_object_set_new(message, "store", json_string(store_path(s->store)));
    json_object_set_new(message, "mode",
                        json_string(vm_mode_name(s->opts->mode)));
    json_object_set_new(message, "lease_ms", jsonx_int(LEASE_MS));
    if (s->parent)
        json_object_set_new(message, "parent", json_string(s->parent));
    if (s->vne->domain)
        json_object_set_new(message, "domain", json_string(s->vne->domain));
    send_to(s, part, message);
}

static void send_abort(struct snapshot *s, unsigned part)
{
    json_t *message = message_new(s, "abort");

    json_object_set_new(message, "reason", jsonx_any_string(s->cut.reason));
    send_to(s, part, message);
}

/* ---- the manifest ------------------------------------------------------- */

static void add_objects(json_t *manifest, const json_t *objects)
{
    json_object_update(json_object_get(manifest, "objects"),
                       (json_t *)(uintptr_t)objects);
}

static void add_counts(json_t *sums, const json_t *counts)
{
    const char *key;
    json_t *value;

    json_object_foreach ((json_t *)(uintptr_t)counts, key, value)
        json_object_set_new(sums, key,
                            jsonx_int(jsonx_u64_or(sums, key, 0) +
                                      jsonx_u64_or(counts, key, 0)));
}

static double ms_between(uint64_t from_ns, uint64_t to_ns)
{
    return to_ns > from_ns ? (double)(to_ns - from_ns) / 1e6 : 0;
}

struct span {
    uint64_t first_ns, last_ns;
};

static void span_add(struct span *span, uint64_t at_ns)
{
    if (span->first_ns == 0 || at_ns < span->first_ns)
        span->first_ns = at_ns;
    if (at_ns > span->last_ns)
        span->last_ns = at_ns;
}

/* One VM's report into the manifest; returns when it stopped. */
static uint64_t add_vm(json_t *manifest, json_t *cut_vms, json_t *states,
                       const char *host, const json_t *vm)
{
    const char *name = jsonx_string_or(vm, "name", "?");
    uint64_t stop_ns = jsonx_u64_or(vm, "stop_ns", 0);
    uint64_t resume_ns = jsonx_u64_or(vm, "resume_ns", 0);
    const json_t *config =
        json_object_get(json_object_get(vm, "state"), "config");

    add_objects(manifest, json_object_get(vm, "objects"));
    json_object_set(states, name, json_object_get(vm, "state"));
    json_array_append_new(
        cut_vms,
        json_pack("{s:s, s:s, s:s, s:I, s:f, s:I, s:I, s:O}", "name", name,
                  "host", host, "mode", jsonx_string_or(vm, "mode", "?"),
                  "memory_bytes",
                  (json_int_t)jsonx_u64_or(config, "memory_bytes", 0),
                  "pause_ms", ms_between(stop_ns, resume_ns), "stop_ns",
                  (json_int_t)stop_ns, "resume_ns", (json_int_t)resume_ns,
                  "bytes", json_object_get(vm, "bytes")));
    return stop_ns;
}

/* The VNE as it really runs: on the hosts that reported its VMs. */
static json_t *vne_as_running(const struct snapshot *s, const json_t *cut_vms)
{
    json_t *vne = vne_to_json(s->vne);
    const json_t *cut_vm;
    size_t i;

    json_array_foreach (cut_vms, i, cut_vm) {
        json_t *vm = vne_json_vm(vne, jsonx_string_or(cut_vm, "name", ""));

        if (vm)
            json_object_set(vm, "host", json_object_get(cut_vm, "host"));
    }
    return vne;
}

static json_t *manifest_assemble(struct snapshot *s, const char *name)
{
    json_t *manifest = manifest_new(name, "vne");
    json_t *meta = json_object_get(manifest, "meta");
    json_t *cut_vms = json_array(), *states = json_object();
    json_t *frames = json_object(), *bytes = json_object();
    struct span all = {0};
    double host_skew_ms = 0;
    bool lossless = true;

    for (unsigned p = 0; p < s->count; p++) {
        const json_t *saved = s->parts[p].saved;
        const char *host = session_host(s->session, s->parts[p].host)->name;
        const json_t *host_frames = json_object_get(saved, "frames");
        struct span here = {0};
        const json_t *vm;
        size_t i;

        json_array_foreach (json_object_get(saved, "vms"), i, vm) {
            uint64_t stop_ns = add_vm(manifest, cut_vms, states, host, vm);

            span_add(&here, stop_ns);
            span_add(&all, stop_ns);
            add_counts(bytes, json_object_get(vm, "bytes"));
        }
        if (ms_between(here.first_ns, here.last_ns) > host_skew_ms)
            host_skew_ms = ms_between(here.first_ns, here.last_ns);
        add_objects(manifest, json_object_get(saved, "records"));
        lossless &= jsonx_bool_or(host_frames, "lossless", false);
        add_counts(frames, host_frames);
    }
    json_object_del(frames, "lossless");
    manifest_set_domain(manifest, s->vne->domain);
    json_object_set_new(meta, "epoch", jsonx_int(s->cut.epoch));
    json_object_set_new(meta, "vne", vne_as_running(s, cut_vms));
    json_object_set_new(meta, "vm_state", states);
    json_object_set_new(meta, "bytes", bytes);
    json_object_set_new(meta, "cut",
                        json_pack("{s:f, s:f, s:b, s:o, s:o}", "skew_ms",
                                  ms_between(all.first_ns, all.last_ns),
                                  "host_skew_ms", host_skew_ms, "lossless",
                                  lossless, "frames", frames, "vms", cut_vms));
    return manifest;
}

/* Every VM of the VNE file must be in it, with a state. */
static int manifest_complete(const struct snapshot *s, const json_t *manifest,
                             struct vn_err *err)
{
    const json_t *states =
        json_object_get(json_object_get(manifest, "meta"), "vm_state");

    for (size_t i = 0; i < s->vne->vm_count; i++) {
        const char *name = s->vne->vms[i].config.name;

        if (!json_is_object(json_object_get(states, name)))
            return vn_fail(err, VN_E_PEER, "no host reported VM '%s'", name);
    }
    return 0;
}

static int commit(struct snapshot *s, struct vn_err *err)
{
    vn_auto(free) char *name =
        s->opts->name ? vn_strdup(s->opts->name)
                      : store_next_name(s->store, s->vne->name, err);
    vn_auto(json) json_t *manifest = NULL;

    if (!name)
        return -1;
    manifest = manifest_assemble(s, name);
    if (manifest_complete(s, manifest, err) < 0)
        return -1;
    if (fault_hit("coord.commit"))
        return vn_fail(err, EIO, "fault point coord.commit");
    if (store_commit(s->store, manifest, err) < 0)
        return -1;
    s->manifest = vn_steal(&manifest);
    return 0;
}

static void do_commit(struct snapshot *s)
{
    struct cut_coord_event event = {.kind = CUT_COORD_COMMITTED,
                                    .epoch = s->cut.epoch};

    if (commit(s, &s->commit_error) < 0) {
        event.kind = CUT_COORD_COMMIT_FAILED;
        event.reason = s->commit_error.msg;
    }
    feed(s, &event);
}

static void perform(struct snapshot *s, const struct cut_coord_action *action)
{
    switch (action->kind) {
    case CUT_COORD_SEND_PREPARE:
        send_prepare(s, action->host);
        return;
    case CUT_COORD_SEND_CUT:
        send_to(s, action->host, message_new(s, "cut"));
        return;
    case CUT_COORD_SEND_COMMIT:
        send_to(s, action->host, message_new(s, "commit"));
        return;
    case CUT_COORD_SEND_ABORT:
        send_abort(s, action->host);
        return;
    case CUT_COORD_SEND_KEEPALIVE:
        send_to(s, action->host, message_new(s, "keepalive"));
        return;
    case CUT_COORD_COMMIT:
        do_commit(s);
        return;
    }
}

/* ---- messages ----------------------------------------------------------- */

static struct participant *find_part(struct snapshot *s, size_t host)
{
    for (unsigned p = 0; p < s->count; p++)
        if (s->parts[p].host == host)
            return &s->parts[p];
    return NULL;
}

static void host_failed(struct snapshot *s, struct participant *part,
                        const char *reason)
{
    struct cut_coord_event event = {
        .kind = CUT_COORD_FAILED,
        .host = (unsigned)(part - s->parts),
        .epoch = s->cut.epoch,
        .reason = reason,
    };

    feed(s, &event);
}

/* An agent that does not know of domains would put pages into the wrong one. */
static bool knows_domain(const struct snapshot *s, const json_t *ready)
{
    const char *domain = s->vne->domain;

    return !domain || strcmp(jsonx_string_or(ready, "domain", ""), domain) == 0;
}

static void on_message(void *context, size_t host, const json_t *message,
                       const struct vn_err *why)
{
    static const struct {
        const char *type;
        enum cut_coord_event_kind kind;
    } kinds[] = {{"ready", CUT_COORD_READY},
                 {"cut-done", CUT_COORD_CUT_DONE},
                 {"saved", CUT_COORD_SAVED}};
    struct snapshot *s = context;
    struct participant *part = find_part(s, host);
    const char *type = jsonx_string_or(message, "type", "");
    struct cut_coord_event event = {0};

    if (!part)
        return;
    event.host = (unsigned)(part - s->parts);
    event.epoch = s->cut.epoch;
    if (!message) {
        part->lost = true;
        event.kind = CUT_COORD_HOST_LOST;
        event.reason = why->msg;
        feed(s, &event);
        return;
    }
    if (strcmp(type, "failed") == 0 || strcmp(type, "cut-failed") == 0) {
        part->idle |= strcmp(type, "failed") == 0;
        host_failed(s, part, jsonx_string_or(message, "message", "failed"));
        return;
    }
    if (jsonx_u64_or(message, "epoch", 0) != s->cut.epoch)
        return;
    if (strcmp(type, "ready") == 0 && !knows_domain(s, message)) {
        host_failed(s, part, "its agent is too old for a VNE with 'domain'");
        send_abort(s, event.host); /* it has not given up itself */
        return;
    }
    if (strcmp(type, "idle") == 0)
        part->idle = true;
    if (strcmp(type, "saved") == 0 && !part->saved)
        part->saved = json_deep_copy(message);
    for (size_t i = 0; i < VN_COUNT(kinds); i++)
        if (strcmp(type, kinds[i].type) == 0) {
            event.kind = kinds[i].kind;
            feed(s, &event);
        }
}

static void on_tick(evutil_socket_t fd, short what, void *context)
{
    struct snapshot *s = context;

    (void)fd;
    (void)what;
    feed(s, &(struct cut_coord_event){.kind = CUT_COORD_TICK,
                                      .epoch = s->cut.epoch});
}

/* ---- who takes part ----------------------------------------------------- */

static bool net_has_vm(const json_t *net, const char *name)
{
    const json_t *vm;
    size_t i;

    json_array_foreach (json_object_get(net, "vms"), i, vm)
        if (strcmp(jsonx_string_or(vm, "name", ""), name) == 0)
            return true;
    return false;
}

/* Every VM must be on a host that answers; if not, say which does not. */
static int check_vm_found(const struct snapshot *s, const struct vne_vm *vm,
                          struct vn_err *err)
{
    struct session *session = s->session;

    for (unsigned p = 0; p < s->count; p++)
        if (net_has_vm(session_net(session, s->parts[p].host, s->vne->name),
                       vm->config.name))
            return 0;
    for (size_t i = 0; i < session_host_count(session); i++)
        if (session_require(session, i, err) < 0)
            return vn_wrap(err, "VM '%s' is on no host that answers",
                           vm->config.name);
    return vn_fail(err, VN_E_NOT_FOUND,
                   "VM '%s' of VNE '%s' is up on no host: run 'vnstore up' "
                   "first",
                   vm->config.name, s->vne->name);
}

static int find_participants(struct snapshot *s, uint32_t *ret_epoch,
                             struct vn_err *err)
{
    uint32_t highest = 0;

    for (size_t i = 0; i < session_host_count(s->session); i++) {
        const json_t *net = session_answers(s->session, i)
                                ? session_net(s->session, i, s->vne->name)
                                : NULL;
        uint32_t epoch;

        if (!net)
            continue;
        if (jsonx_u32(net, "epoch", UINT32_MAX, &epoch, err) < 0)
            return -1;
        if (s->count == 0 || cut_epoch_after(epoch, highest))
            highest = epoch;
        s->parts[s->count++].host = i;
    }
    *ret_epoch = highest + 1;
    for (size_t i = 0; i < s->vne->vm_count; i++)
        if (check_vm_found(s, &s->vne->vms[i], err) < 0)
            return -1;
    return 0;
}

static int find_parent(struct snapshot *s, struct vn_err *err)
{
    vn_auto(json) json_t *latest =
        store_load_latest(s->store, s->vne->name, err);
    const char *name;

    if (!latest && err->code != VN_E_NOT_FOUND)
        return -1;
    if (!latest) {
        err->code = 0;
        return 0;
    }
    if (jsonx_string(latest, "name", &name, err) < 0)
        return -1;
    s->parent = vn_strdup(name);
    return 0;
}

/* ---- the run ------------------------------------------------------------ */

static bool all_idle(const struct snapshot *s)
{
    for (unsigned p = 0; p < s->count; p++)
        if (!s->parts[p].idle && !s->parts[p].lost && s->cut.hosts[p].told)
            return false;
    return true;
}

static bool decided(const struct snapshot *s)
{
    return s->cut.state == CUT_COORD_DONE || s->cut.state == CUT_COORD_ABORTED;
}

static void on_patience(evutil_socket_t fd, short what, void *context)
{
    (void)fd;
    (void)what;
    *(bool *)context = true;
}

/* Until nothing of the cut is left anywhere, or patience runs out. */
static int await_idle(struct snapshot *s, struct vn_err *err)
{
    struct event_base *base = session_base(s->session);
    struct timeval patience = {.tv_sec = IDLE_TIMEOUT_S};
    bool out_of_patience = false;
    struct event *timer = evtimer_new(base, on_patience, &out_of_patience);

    if (!timer || evtimer_add(timer, &patience) < 0)
        return vn_fail(err, ENOMEM, "timer");
    while (!all_idle(s) && !out_of_patience)
        event_base_loop(base, EVLOOP_ONCE);
    event_free(timer);
    return 0;
}

static int run(struct snapshot *s, struct vn_err *err)
{
    session_set_handler(s->session, on_message, s);
    s->tick = evtimer_new(session_base(s->session), on_tick, s);
    if (!s->tick)
        return vn_fail(err, ENOMEM, "timer");
    feed(s, &(struct cut_coord_event){.kind = CUT_COORD_START,
                                      .epoch = s->cut.epoch});
    while (!decided(s))
        event_base_loop(session_base(s->session), EVLOOP_ONCE);
    if (await_idle(s, err) < 0)
        return -1;
    if (s->cut.state == CUT_COORD_DONE)
        return 0;
    if (s->commit_error.code) {
        *err = s->commit_error;
        return -1;
    }
    vn_fail(err, VN_E_PEER, "%s", s->cut.reason);
    if (s->cut.culprit < s->count)
        vn_wrap(err, "host '%s'",
                session_host(s->session, s->parts[s->cut.culprit].host)->name);
    return -1;
}

/* Better now than after the work. */
static int check_name_free(struct snapshot *s, struct vn_err *err)
{
    vn_auto(json) json_t *taken = NULL;

    if (!s->opts->name)
        return 0;
    taken = store_load(s->store, s->opts->name, err);
    if (taken)
        return vn_fail(err, VN_E_EXISTS, "a snapshot named '%s' exists",
                       s->opts->name);
    if (err->code != VN_E_NOT_FOUND)
        return -1;
    err->code = 0;
    return 0;
}

static int take(struct snapshot *s, struct vn_err *err)
{
    uint32_t epoch;

    if (check_name_free(s, err) < 0)
        return -1;
    if (find_participants(s, &epoch, err) < 0 || find_parent(s, err) < 0)
        return -1;
    cut_coord_init(&s->cut, epoch, s->count, STEP_TIMEOUT_NS,
                   s->opts->timeout_s * VN_SEC);
    return run(s, err);
}

int snapshot_take(struct session *session, const struct vne *vne,
                  struct store *store, const struct snapshot_opts *opts,
                  json_t **ret_manifest, struct vn_err *err)
{
    /* Agents close their writers before we commit what they put. */
    vn_auto(store_hold) struct store_hold *hold = store_hold_open(store, err);
    struct snapshot *s;
    int rc;

    if (!hold)
        return -1;
    s = vn_alloc(sizeof(*s));
    s->session = session;
    s->vne = vne;
    s->store = store;
    s->opts = opts;
    s->parts =
        vn_alloc(session_host_count(session) * sizeof(struct participant));
    rc = take(s, err);
    session_set_handler(session, NULL, NULL);
    if (s->tick)
        event_free(s->tick);
    if (rc == 0)
        *ret_manifest = vn_steal(&s->manifest);
    for (unsigned p = 0; p < s->count; p++)
        json_decref(s->parts[p].saved);
    json_decref(s->manifest);
    free(s->parent);
    free(s->parts);
    free(s);
    return rc;
}
