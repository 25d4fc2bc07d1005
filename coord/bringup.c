#include "coord/bringup.h"

#include "common/clock.h"
#include "common/jsonx.h"
#include "restore/plan.h"

#include <stdlib.h>
#include <string.h>

#define UP_TIMEOUT_MS    120000
#define DOWN_TIMEOUT_MS  60000
#define LOAD_TIMEOUT_MS  1800000
#define START_TIMEOUT_MS 30000

/* ---- one request a host -------------------------------------------------- */

struct calls {
    size_t count;
    json_t **requests; /* by host; NULL: not asked */
    json_t **replies;
};

static struct calls calls_new(size_t count)
{
    return (struct calls){
        .count = count,
        .requests = vn_alloc(count * sizeof(json_t *)),
        .replies = vn_alloc(count * sizeof(json_t *)),
    };
}

static void calls_done(struct calls *calls)
{
    for (size_t i = 0; i < calls->count; i++) {
        json_decref(calls->requests[i]);
        json_decref(calls->replies[i]);
    }
    free(calls->requests);
    free(calls->replies);
}

static void vn_auto_calls(struct calls *calls)
{
    calls_done(calls);
}

static bool host_has_vm(const struct vne *vne, const char *host)
{
    for (size_t i = 0; i < vne->vm_count; i++)
        if (vne->vms[i].host && strcmp(vne->vms[i].host, host) == 0)
            return true;
    return false;
}

/* A request of this type for every host that has VMs, which must be there. */
static int fill_requests(struct session *session, const struct vne *vne,
                         const char *type, struct calls *calls,
                         struct vn_err *err)
{
    vn_auto(json) json_t *json = vne_to_json(vne);

    for (size_t i = 0; i < calls->count; i++) {
        const char *host = session_host(session, i)->name;

        if (!host_has_vm(vne, host))
            continue;
        if (session_require(session, i, err) < 0)
            return -1;
        calls->requests[i] = json_pack("{s:s, s:s, s:O}", "type", type, "host",
                                       host, "vne", json);
    }
    return 0;
}

/* ---- up and down ----------------------------------------------------------
 */

/* What came up before another failed goes down again. */
static void undo(struct session *session, const char *vne,
                 const struct calls *calls)
{
    vn_auto(calls) struct calls down = calls_new(calls->count);
    struct vn_err ignored = VN_ERR_INIT;
    size_t asked = 0;

    for (size_t i = 0; i < calls->count; i++) {
        if (!calls->replies[i] || !session_answers(session, i))
            continue;
        down.requests[i] = json_pack("{s:s, s:s}", "type", "down", "vne", vne);
        asked++;
    }
    if (asked && session_call(session, down.requests, "down-done",
                              DOWN_TIMEOUT_MS, NULL, &ignored) < 0)
        return; /* the first failure is the one to report */
}

int bringup_up(const struct vne *vne, const char *tls_dir, struct vn_err *err)
{
    vn_auto(session) struct session *session =
        session_open(vne->hosts, vne->host_count, tls_dir, err);
    vn_auto(calls) struct calls calls = calls_new(vne->host_count);

    if (!session || fill_requests(session, vne, "up", &calls, err) < 0)
        return -1;
    if (session_call(session, calls.requests, "up-done", UP_TIMEOUT_MS,
                     calls.replies, err) < 0) {
        undo(session, vne->name, &calls);
        return -1;
    }
    return 0;
}

int bringup_down(const struct vne *vne, const char *tls_dir,
                 unsigned *ret_hosts, struct vn_err *err)
{
    vn_auto(session) struct session *session =
        session_open(vne->hosts, vne->host_count, tls_dir, err);
    vn_auto(calls) struct calls calls = calls_new(vne->host_count);
    struct vn_err silent = VN_ERR_INIT;
    unsigned asked = 0;

    if (!session)
        return -1;
    for (size_t i = 0; i < vne->host_count; i++) {
        if (!session_answers(session, i)) {
            /* Only a host that should run VMs is worth an error. */
            if (host_has_vm(vne, vne->hosts[i].name))
                (void)!session_require(session, i, &silent);
            continue;
        }
        if (!session_net(session, i, vne->name))
            continue;
        calls.requests[i] =
            json_pack("{s:s, s:s}", "type", "down", "vne", vne->name);
        asked++;
    }
    if (asked && session_call(session, calls.requests, "down-done",
                              DOWN_TIMEOUT_MS, NULL, err) < 0)
        return -1;
    *ret_hosts = asked;
    if (asked == 0 && silent.code) {
        *err = silent;
        return -1;
    }
    return 0;
}

/* ---- restore: which VM where ----------------------------------------------
 */

/* The host that --map names for this VM, or NULL. */
static const char *mapped_host(const struct restore_opts *opts, const char *vm)
{
    size_t size = strlen(vm);

    for (size_t i = 0; i < opts->map_count; i++)
        if (strncmp(opts->maps[i], vm, size) == 0 && opts->maps[i][size] == '=')
            return opts->maps[i] + size + 1;
    return NULL;
}

static int check_maps(const struct vne *vne, const struct restore_opts *opts,
                      struct vn_err *err)
{
    for (size_t m = 0; m < opts->map_count; m++) {
        bool known = false;

        for (size_t v = 0; v < vne->vm_count; v++) {
            const char *name = vne->vms[v].config.name;
            size_t size = strlen(name);

            known |= strncmp(opts->maps[m], name, size) == 0 &&
                     opts->maps[m][size] == '=' && opts->maps[m][size + 1];
        }
        if (!known)
            return vn_fail(err, VN_E_NOT_FOUND,
                           "--map %s: the snapshot has no such VM",
                           opts->maps[m]);
    }
    return 0;
}

static const char *wanted_host(const struct vne *vne, size_t vm,
                               const struct restore_opts *opts)
{
    const char *mapped = mapped_host(opts, vne->vms[vm].config.name);

    if (mapped)
        return mapped;
    return opts->to_host_count ? NULL : vne->vms[vm].host;
}

/* Hosts that may get VMs: those of --to-hosts, or where the VMs were, and
 * those that --map names. */
static bool host_is_candidate(const struct vne *vne,
                              const struct restore_opts *opts, const char *host)
{
    for (size_t i = 0; i < opts->to_host_count; i++)
        if (strcmp(opts->to_hosts[i], host) == 0)
            return true;
    for (size_t v = 0; v < vne->vm_count; v++) {
        const char *wanted = wanted_host(vne, v, opts);

        if (wanted && strcmp(wanted, host) == 0)
            return true;
    }
    return false;
}

static int check_hosts_known(const struct vne *vne,
                             const struct restore_opts *opts,
                             struct vn_err *err)
{
    for (size_t i = 0; i < opts->to_host_count; i++)
        if (!vne_find_host(vne, opts->to_hosts[i]))
            return vn_fail(err, VN_E_NOT_FOUND,
                           "no address is known for host '%s': list it under "
                           "'hosts' of a VNE file and give that with --hosts",
                           opts->to_hosts[i]);
    for (size_t v = 0; v < vne->vm_count; v++) {
        const char *wanted = wanted_host(vne, v, opts);

        if (wanted && !vne_find_host(vne, wanted))
            return vn_fail(err, VN_E_NOT_FOUND,
                           "no address is known for host '%s' of VM '%s'",
                           wanted, vne->vms[v].config.name);
    }
    return 0;
}

static int place(struct vne *vne, struct session *session,
                 const struct restore_opts *opts, struct vn_err *err)
{
    vn_auto(free) struct plan_vm *vms = vn_alloc(vne->vm_count * sizeof(*vms));
    vn_auto(free) struct plan_host *hosts =
        vn_alloc(vne->host_count * sizeof(*hosts));
    size_t count = session_host_count(session);

    for (size_t h = 0; h < count; h++)
        hosts[h] =
            (struct plan_host){.name = session_host(session, h)->name,
                               .free_bytes = session_free_bytes(session, h)};
    for (size_t v = 0; v < vne->vm_count; v++)
        vms[v] =
            (struct plan_vm){.name = vne->vms[v].config.name,
                             .memory_bytes = vne->vms[v].config.memory_bytes,
                             .pinned_host = wanted_host(vne, v, opts)};
    if (plan_place(vms, vne->vm_count, hosts, count, err) < 0)
        return -1;
    for (size_t v = 0; v < vne->vm_count; v++) {
        const char *host = hosts[vms[v].host].name;

        free(vne->vms[v].host);
        vne->vms[v].host = vn_strdup(host);
    }
    return 0;
}

/* ---- restore ----------------------------------------------------------------
 */

/* The VNE of the manifest, with each VM's machine as it was pinned. */
static struct vne *snapshot_vne(const json_t *manifest, struct vn_err *err)
{
    const json_t *meta = json_object_get(manifest, "meta");
    const json_t *states = json_object_get(meta, "vm_state");
    vn_auto(json) json_t *json = json_deep_copy(json_object_get(meta, "vne"));
    json_t *vm;
    size_t i;

    json_array_foreach (json_object_get(json, "vms"), i, vm) {
        json_t *config = json_object_get(vm, "config");
        const json_t *state =
            json_object_get(states, jsonx_string_or(config, "name", ""));
        json_t *pinned = json_object_get(state, "config");

        if (json_is_object(pinned))
            json_object_update(config, pinned);
        json_object_del(config, "qmp"); /* it is ours from now on */
        json_object_del(config, "domain");
    }
    if (!json)
        return vn_fail_ptr(err, VN_E_FORMAT, "snapshot '%s' is not of a VNE",
                           jsonx_string_or(manifest, "name", "?"));
    return vne_from_json(json, err);
}

/* Replace the hosts by those of another file. */
static void take_hosts(struct vne *vne, const struct vne *from)
{
    for (size_t i = 0; i < vne->host_count; i++) {
        free(vne->hosts[i].name);
        free(vne->hosts[i].agent);
        free(vne->hosts[i].underlay);
    }
    free(vne->hosts);
    vne->host_count = from->host_count;
    vne->hosts = vn_alloc(from->host_count * sizeof(struct vne_host));
    for (size_t i = 0; i < from->host_count; i++)
        vne->hosts[i] =
            (struct vne_host){.name = vn_strdup(from->hosts[i].name),
                              .agent = vn_strdup(from->hosts[i].agent),
                              .underlay = vn_strdup(from->hosts[i].underlay)};
}

/* Candidates in the order of --to-hosts, so that ties go that way. */
static size_t candidates(const struct vne *vne, const struct restore_opts *opts,
                         struct vne_host *ret)
{
    size_t count = 0;

    for (size_t i = 0; i < opts->to_host_count; i++)
        ret[count++] = *vne_find_host(vne, opts->to_hosts[i]);
    for (size_t h = 0; h < vne->host_count; h++) {
        bool listed = false;

        for (size_t i = 0; i < opts->to_host_count; i++)
            listed |= strcmp(opts->to_hosts[i], vne->hosts[h].name) == 0;
        if (!listed && host_is_candidate(vne, opts, vne->hosts[h].name))
            ret[count++] = vne->hosts[h];
    }
    return count;
}

static json_t *report_new(const struct session *session,
                          const struct calls *started, double load_ms)
{
    uint64_t first_ns = UINT64_MAX, last_ns = 0;
    json_t *vms = json_array();

    for (size_t h = 0; h < started->count; h++) {
        const json_t *vm;
        size_t i;

        json_array_foreach (json_object_get(started->replies[h], "vms"), i,
                            vm) {
            uint64_t at_ns = jsonx_u64_or(vm, "resume_ns", 0);

            first_ns = at_ns < first_ns ? at_ns : first_ns;
            last_ns = at_ns > last_ns ? at_ns : last_ns;
            json_array_append_new(
                vms, json_pack("{s:s, s:s, s:I, s:s}", "name",
                               jsonx_string_or(vm, "name", "?"), "host",
                               session_host(session, h)->name, "resume_ns",
                               (json_int_t)at_ns, "state_dir",
                               jsonx_string_or(vm, "state_dir", "")));
        }
    }
    return json_pack("{s:o, s:f, s:f}", "vms", vms, "skew_ms",
                     last_ns > first_ns ? (double)(last_ns - first_ns) / 1e6
                                        : 0.0,
                     "load_ms", load_ms);
}

static int load_and_start(struct session *session, const struct vne *vne,
                          const json_t *manifest,
                          const struct restore_opts *opts, json_t **ret_report,
                          struct vn_err *err)
{
    size_t count = session_host_count(session);
    vn_auto(calls) struct calls loads = calls_new(count);
    vn_auto(calls) struct calls starts = calls_new(count);
    uint64_t began_ns = clock_now_ns();
    double load_ms;

    if (fill_requests(session, vne, "restore", &loads, err) < 0)
        return -1;
    for (size_t h = 0; h < count; h++) {
        if (!loads.requests[h])
            continue;
        json_object_set_new(loads.requests[h], "store",
                            json_string(opts->store_path));
        json_object_set(loads.requests[h], "snapshot",
                        json_object_get(manifest, "name"));
        json_object_set(
            loads.requests[h], "epoch",
            json_object_get(json_object_get(manifest, "meta"), "epoch"));
        starts.requests[h] =
            json_pack("{s:s, s:s}", "type", "start", "vne", vne->name);
    }
    if (opts->progress)
        opts->progress(opts->context, "loading memory and disks");
    if (session_call(session, loads.requests, "restored", LOAD_TIMEOUT_MS,
                     loads.replies, err) < 0) {
        undo(session, vne->name, &loads);
        return -1;
    }
    load_ms = (double)(clock_now_ns() - began_ns) / 1e6;
    if (opts->progress)
        opts->progress(opts->context, "starting all together");
    if (session_call(session, starts.requests, "started", START_TIMEOUT_MS,
                     starts.replies, err) < 0) {
        undo(session, vne->name, &loads);
        return -1;
    }
    *ret_report = report_new(session, &starts, load_ms);
    return 0;
}

int bringup_restore(const json_t *manifest, const struct restore_opts *opts,
                    json_t **ret_report, struct vn_err *err)
{
    vn_auto(vne) struct vne *vne = snapshot_vne(manifest, err);
    vn_auto(free) struct vne_host *hosts = NULL;
    vn_auto(session) struct session *session = NULL; /* borrows the hosts */
    size_t count;

    if (!vne)
        return -1;
    if (opts->hosts)
        take_hosts(vne, opts->hosts);
    if (check_maps(vne, opts, err) < 0 || check_hosts_known(vne, opts, err) < 0)
        return -1;
    hosts = vn_alloc((vne->host_count + opts->to_host_count) * sizeof(*hosts));
    count = candidates(vne, opts, hosts);
    session = session_open(hosts, count, opts->tls_dir, err);
    if (!session)
        return -1;
    for (size_t i = 0; i < count; i++)
        if (session_require(session, i, err) < 0)
            return -1;
    if (place(vne, session, opts, err) < 0)
        return -1;
    return load_and_start(session, vne, manifest, opts, ret_report, err);
}
