/*
 * The coordinator against scripted agents: real wires, real store, no VMs.
 * Each fake agent answers as its script says; the test looks at what is
 * committed, what the error says and that every agent hears how it ended.
 */

#include "common/clock.h"
#include "common/fault.h"
#include "common/io.h"
#include "common/jsonx.h"
#include "coord/bringup.h"
#include "coord/session.h"
#include "coord/snapshot.h"
#include "coord/wire.h"
#include "coord/worker.h"

#include <event2/thread.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define AGENTS    2
#define WIRES_MAX 16

/* What an agent does instead of answering rightly. */
enum script {
    RIGHT,
    FAIL_PREPARE,   /* "failed": busy, full disk, ... */
    FAIL_AFTER_CUT, /* "cut-failed" */
    HANG_UP_ON_CUT, /* closes the connection */
    UNKNOWN_OBJECT, /* "saved" names a root that the store lacks */
    FORGET_A_VM,    /* "saved" without its VM */
    KNOW_NO_DOMAIN, /* "ready" as before there were any */
    WRONG_DOMAIN,   /* "saved" names a root of the store's own */
    FAIL_RESTORE,
    WRONG_NAME, /* says it is another host */
};

struct agent {
    char name[8];
    char address[128];
    char vm[8];
    enum script script;
    struct bed *bed;
    struct event_base *base;
    struct mailbox *mailbox;
    struct wire_listener *listener;
    struct wire *wires[WIRES_MAX]; /* open ones; NULL: free slot */
    pthread_t thread;
    atomic_uint prepared, cut, committed, aborted, restored, started, downs;
};

struct bed {
    char dir[64];
    char store_path[128];
    struct store *store;
    struct agent agents[AGENTS];
    struct vne *vne;
    struct map_root root;
    struct map_root red; /* the same in a domain */
};

static void hang_up(struct agent *a, struct wire *wire)
{
    for (int i = 0; i < WIRES_MAX; i++)
        if (a->wires[i] == wire)
            a->wires[i] = NULL;
    wire_free(wire);
}

static void say(struct wire *wire, json_t *message)
{
    wire_send(wire, message);
    json_decref(message);
}

static void say_saved(struct agent *a, struct wire *wire, json_int_t epoch)
{
    char object[64];
    json_t *vms = json_array();
    json_t *fragment = manifest_new("f", "vne");
    struct map_root root = a->bed->vne->domain && a->script != WRONG_DOMAIN
                               ? a->bed->red
                               : a->bed->root;

    if (a->script == UNKNOWN_OBJECT)
        memset(root.root.bytes, 0x5a, sizeof(root.root.bytes));
    snprintf(object, sizeof(object), "vm/%s/ram/pc.ram", a->vm);
    manifest_add(fragment, object, &root);
    if (a->script != FORGET_A_VM)
        json_array_append_new(
            vms,
            json_pack("{s:s, s:s, s:I, s:I, s:{s:s, s:{s:s, s:s, s:s}}, s:O, "
                      "s:{s:i, s:i}}",
                      "name", a->vm, "mode", "cow", "stop_ns",
                      (json_int_t)(1000000000 + (a->vm[0] - 'a') * 2000000),
                      "resume_ns",
                      (json_int_t)(1004000000 + (a->vm[0] - 'a') * 2000000),
                      "state", "backend", "sim", "config", "name", a->vm,
                      "machine", "pinned-1.0", "qmp", "/old.sock", "objects",
                      json_object_get(fragment, "objects"), "bytes", "read",
                      8192, "new", 4096));
    say(wire,
        json_pack("{s:s, s:s, s:I, s:o, s:{}, s:{s:i, s:i, s:b}}", "type",
                  "saved", "vne", "lab", "epoch", epoch, "vms", vms, "records",
                  "frames", "held", 3, "recorded", 1, "lossless", 1));
    json_decref(fragment);
}

static void on_hello(struct agent *a, struct wire *wire)
{
    const char *name = a->script == WRONG_NAME ? "other" : a->name;

    say(wire, json_pack("{s:s, s:s, s:i, s:[{s:s, s:i, s:[{s:s}]}]}", "type",
                        "hello", "host", name, "free_bytes", 1 << 30, "nets",
                        "name", "lab", "epoch", 7, "vms", "name", a->vm));
}

static void on_cut(struct agent *a, struct wire *wire, json_int_t epoch)
{
    atomic_fetch_add(&a->cut, 1);
    if (a->script == FAIL_AFTER_CUT) {
        say(wire, json_pack("{s:s, s:I, s:s}", "type", "cut-failed", "epoch",
                            epoch, "message", "VM 'a' is gone"));
        say(wire, json_pack("{s:s, s:I}", "type", "idle", "epoch", epoch));
        return;
    }
    say(wire, json_pack("{s:s, s:I}", "type", "cut-done", "epoch", epoch));
    say_saved(a, wire, epoch);
}

static void on_message(void *context, struct wire *wire, const json_t *message)
{
    struct agent *a = context;
    const char *type = jsonx_string_or(message, "type", "");
    json_int_t epoch = (json_int_t)jsonx_u64_or(message, "epoch", 0);

    if (strcmp(type, "hello") == 0) {
        on_hello(a, wire);
    } else if (strcmp(type, "prepare") == 0 && a->script == FAIL_PREPARE) {
        say(wire, json_pack("{s:s, s:s, s:i, s:s}", "type", "failed", "of",
                            type, "code", 28, "message", "no room left"));
    } else if (strcmp(type, "prepare") == 0) {
        const char *domain = a->script == KNOW_NO_DOMAIN
                                 ? NULL
                                 : jsonx_string_or(message, "domain", NULL);

        atomic_fetch_add(&a->prepared, 1);
        say(wire, json_pack("{s:s, s:I, s:s*}", "type", "ready", "epoch", epoch,
                            "domain", domain));
    } else if (strcmp(type, "cut") == 0 && a->script == HANG_UP_ON_CUT) {
        hang_up(a, wire);
    } else if (strcmp(type, "cut") == 0) {
        on_cut(a, wire, epoch);
    } else if (strcmp(type, "commit") == 0 || strcmp(type, "abort") == 0) {
        atomic_fetch_add(*type == 'c' ? &a->committed : &a->aborted, 1);
        say(wire, json_pack("{s:s, s:I}", "type", "idle", "epoch", epoch));
    } else if (strcmp(type, "restore") == 0 && a->script == FAIL_RESTORE) {
        say(wire, json_pack("{s:s, s:s, s:i, s:s}", "type", "failed", "of",
                            type, "code", 5, "message", "no such machine"));
    } else if (strcmp(type, "restore") == 0) {
        const json_t *config = json_object_get(
            vne_json_vm(json_object_get(message, "vne"), "a"), "config");

        if (strcmp(jsonx_string_or(config, "machine", ""), "pinned-1.0") == 0 &&
            !json_is_string(json_object_get(config, "qmp")))
            atomic_fetch_add(&a->restored, 1);
        say(wire, json_pack("{s:s}", "type", "restored"));
    } else if (strcmp(type, "start") == 0) {
        atomic_fetch_add(&a->started, 1);
        say(wire, json_pack("{s:s, s:[{s:s, s:I}]}", "type", "started", "vms",
                            "name", a->vm, "resume_ns",
                            (json_int_t)(5000000 + a->vm[0] * 1000000)));
    } else if (strcmp(type, "down") == 0) {
        atomic_fetch_add(&a->downs, 1);
        say(wire, json_pack("{s:s}", "type", "down-done"));
    }
}

static void on_closed(void *context, struct wire *wire,
                      const struct vn_err *why)
{
    (void)why;
    hang_up(context, wire);
}

static const struct wire_events events = {
    .message = on_message,
    .closed = on_closed,
};

static void on_accept(void *context, struct wire *wire)
{
    struct agent *a = context;
    int i = 0;

    while (a->wires[i])
        i++; /* no test opens WIRES_MAX at a time */
    a->wires[i] = wire;
    wire_set_events(wire, &events, context);
}

static void *agent_main(void *arg)
{
    struct agent *a = arg;

    event_base_loop(a->base, EVLOOP_NO_EXIT_ON_EMPTY);
    return NULL;
}

static void stop_loop(void *arg)
{
    struct agent *a = arg;

    wire_listener_free(a->listener);
    for (int i = 0; i < WIRES_MAX; i++)
        wire_free(a->wires[i]);
    event_base_loopbreak(a->base);
}

static int agent_begin(struct agent *a, struct bed *bed, int index)
{
    struct vn_err err = VN_ERR_INIT;

    a->bed = bed;
    snprintf(a->name, sizeof(a->name), "h%d", index + 1);
    snprintf(a->vm, sizeof(a->vm), "%c", 'a' + index);
    snprintf(a->address, sizeof(a->address), "unix:%s/%s.sock", bed->dir,
             a->name);
    a->base = event_base_new();
    a->mailbox = mailbox_new(a->base);
    a->listener = wire_listen(a->base, a->address, NULL, on_accept, a, &err);
    if (!a->listener)
        return -1;
    return pthread_create(&a->thread, NULL, agent_main, a);
}

static void agent_end(struct agent *a)
{
    mailbox_post(a->mailbox, stop_loop, a);
    pthread_join(a->thread, NULL);
    /* libevent lets go of freed buffer events from its loop only. */
    event_base_loop(a->base, EVLOOP_NONBLOCK);
    mailbox_free(a->mailbox);
    event_base_free(a->base);
}

static struct vne *make_vne(struct bed *bed)
{
    struct vn_err err = VN_ERR_INIT;
    vn_auto(free) char *path = vn_format("%s/vne.yaml", bed->dir);
    vn_auto(free) char *text =
        vn_format("name: lab\nhosts:\n"
                  "  - {name: h1, agent: '%s', underlay: 127.0.0.1}\n"
                  "  - {name: h2, agent: '%s', underlay: 127.0.0.2}\n"
                  "vms:\n"
                  "  - {name: a, host: h1, memory: 1M}\n"
                  "  - {name: b, host: h1, memory: 1M}\n", /* it moved to h2 */
                  bed->agents[0].address, bed->agents[1].address);

    if (io_replace_file(path, text, strlen(text), &err) < 0)
        return NULL;
    return vne_load(path, &err);
}

static int setup(void **state)
{
    struct bed *bed = calloc(1, sizeof(*bed));
    struct vn_err err = VN_ERR_INIT;
    struct store_writer *writer;

    strcpy(bed->dir, "/tmp/vn-coord-XXXXXX");
    if (!mkdtemp(bed->dir))
        return -1;
    snprintf(bed->store_path, sizeof(bed->store_path), "%s/store", bed->dir);
    if (store_init(bed->store_path, &err) < 0)
        return -1;
    bed->store = store_open(bed->store_path, &err);
    writer = bed->store ? store_writer_open(bed->store, &err) : NULL;
    if (!writer || store_put_bytes(writer, "hello", 5, &bed->root, &err) < 0 ||
        store_writer_flush(writer, &err) < 0)
        return -1;
    store_writer_free(writer);
    writer = store_writer_open_in(bed->store, "red", &err);
    if (!writer || store_put_bytes(writer, "hello", 5, &bed->red, &err) < 0 ||
        store_writer_flush(writer, &err) < 0)
        return -1;
    store_writer_free(writer);
    for (int i = 0; i < AGENTS; i++)
        if (agent_begin(&bed->agents[i], bed, i) != 0)
            return -1;
    bed->vne = make_vne(bed);
    *state = bed;
    return bed->vne ? 0 : -1;
}

static int teardown(void **state)
{
    struct bed *bed = *state;
    vn_auto(free) char *command = vn_format("rm -rf %s", bed->dir);

    fault_set(NULL);
    for (int i = 0; i < AGENTS; i++)
        agent_end(&bed->agents[i]);
    vne_free(bed->vne);
    store_close(bed->store);
    free(bed);
    return system(command);
}

static json_t *take(struct bed *bed, const char *name, struct vn_err *err)
{
    vn_auto(session) struct session *session =
        session_open(bed->vne->hosts, bed->vne->host_count, NULL, err);
    struct snapshot_opts opts = {
        .name = name, .mode = VM_MODE_AUTO, .timeout_s = 60};
    json_t *manifest = NULL;

    if (!session ||
        snapshot_take(session, bed->vne, bed->store, &opts, &manifest, err) < 0)
        return NULL;
    return manifest;
}

static size_t snapshot_count(struct bed *bed)
{
    struct vn_err err = VN_ERR_INIT;
    vn_auto(json) json_t *list = store_list(bed->store, &err);

    return json_array_size(list);
}

static void commits_what_agents_reported(void **state)
{
    struct bed *bed = *state;
    struct vn_err err = VN_ERR_INIT;
    vn_auto(json) json_t *manifest = take(bed, NULL, &err);
    vn_auto(json) json_t *loaded = store_load(bed->store, "lab@1", &err);
    const json_t *meta = json_object_get(manifest, "meta");
    const json_t *cut = json_object_get(meta, "cut");

    assert_non_null(manifest);
    assert_true(json_equal(manifest, loaded));
    assert_string_equal(
        jsonx_string_or(vne_json_vm(json_object_get(meta, "vne"), "b"), "host",
                        ""),
        "h2");
    assert_int_equal(json_integer_value(json_object_get(meta, "epoch")), 8);
    assert_int_equal(json_object_size(json_object_get(manifest, "objects")), 2);
    assert_true(json_is_true(json_object_get(cut, "lossless")));
    assert_float_equal(json_real_value(json_object_get(cut, "skew_ms")), 2.0,
                       0.001);
    assert_float_equal(json_real_value(json_object_get(cut, "host_skew_ms")),
                       0.0, 0.001);
    assert_int_equal(jsonx_u64_or(json_object_get(cut, "frames"), "held", 0),
                     6);
    assert_int_equal(jsonx_u64_or(json_object_get(meta, "bytes"), "read", 0),
                     16384);
    for (int i = 0; i < AGENTS; i++) {
        assert_int_equal(bed->agents[i].committed, 1);
        assert_int_equal(bed->agents[i].aborted, 0);
    }
}

static void a_taken_name_is_refused_before_the_cut(void **state)
{
    struct bed *bed = *state;
    struct vn_err err = VN_ERR_INIT;
    vn_auto(json) json_t *first = take(bed, "mine", &err);
    vn_auto(json) json_t *second = take(bed, "mine", &err);

    assert_non_null(first);
    assert_null(second);
    assert_int_equal(err.code, VN_E_EXISTS);
    assert_non_null(strstr(err.msg, "mine"));
    assert_int_equal(bed->agents[0].prepared, 1);
}

/* One agent misbehaves: nothing is committed, all that were told hear of it. */
static void expect_abort(struct bed *bed, enum script script,
                         const char *in_message)
{
    struct vn_err err = VN_ERR_INIT;
    vn_auto(json) json_t *manifest = NULL;

    bed->agents[1].script = script;
    manifest = take(bed, NULL, &err);
    assert_null(manifest);
    if (!strstr(err.msg, in_message))
        fail_msg("'%s' is not in '%s'", in_message, err.msg);
    assert_int_equal(snapshot_count(bed), 0);
    assert_int_equal(bed->agents[0].aborted, 1);
    assert_int_equal(bed->agents[0].committed, 0);
}

static void a_failing_prepare_aborts(void **state)
{
    expect_abort(*state, FAIL_PREPARE, "host 'h2': no room left");
}

static void a_failing_vm_aborts(void **state)
{
    expect_abort(*state, FAIL_AFTER_CUT, "host 'h2': VM 'a' is gone");
}

static void a_lost_agent_aborts(void **state)
{
    expect_abort(*state, HANG_UP_ON_CUT, "host 'h2'");
}

static void a_manifest_that_lacks_chunks_is_not_committed(void **state)
{
    expect_abort(*state, UNKNOWN_OBJECT, "vm/b/ram/pc.ram");
}

static void a_manifest_that_lacks_a_vm_is_not_committed(void **state)
{
    expect_abort(*state, FORGET_A_VM, "VM 'b'");
}

static void a_domain_is_told_and_kept(void **state)
{
    struct bed *bed = *state;
    struct vn_err err = VN_ERR_INIT;
    vn_auto(json) json_t *manifest = NULL;
    const json_t *meta;
    struct map_root root;

    bed->vne->domain = vn_strdup("red");
    manifest = take(bed, NULL, &err);
    if (!manifest)
        fail_msg("%s", err.msg);
    meta = json_object_get(manifest, "meta");
    assert_string_equal(manifest_domain(manifest), "red");
    assert_string_equal(
        jsonx_string_or(json_object_get(meta, "vne"), "domain", ""), "red");
    assert_int_equal(manifest_object(manifest, "vm/a/ram/pc.ram", &root, &err),
                     0);
    assert_memory_equal(&root, &bed->red, sizeof(root));
}

static void an_agent_without_domains_is_refused(void **state)
{
    struct bed *bed = *state;

    bed->vne->domain = vn_strdup("red");
    expect_abort(bed, KNOW_NO_DOMAIN, "host 'h2': its agent is too old");
    assert_int_equal(bed->agents[0].cut, 0);
    assert_int_equal(bed->agents[1].cut, 0);
    assert_int_equal(bed->agents[1].aborted, 1);
}

static void objects_of_another_domain_are_not_committed(void **state)
{
    struct bed *bed = *state;

    bed->vne->domain = vn_strdup("red");
    expect_abort(bed, WRONG_DOMAIN, "'vm/b/ram/pc.ram' is not of domain red");
}

static void a_failing_commit_aborts(void **state)
{
    fault_set("coord.commit");
    expect_abort(*state, RIGHT, "coord.commit");
}

static void a_silent_host_is_named(void **state)
{
    struct bed *bed = *state;
    struct vn_err err = VN_ERR_INIT;
    vn_auto(json) json_t *manifest = NULL;

    free(bed->vne->hosts[1].agent);
    bed->vne->hosts[1].agent = vn_strdup("unix:/nonexistent/agent.sock");
    manifest = take(bed, NULL, &err);
    assert_null(manifest);
    assert_non_null(strstr(
        err.msg, "VM 'b' is on no host that answers: host 'h2' does not"));
    assert_int_equal(bed->agents[0].prepared, 0);
}

/*
 * Often, at all phases of the coarse clock that libevent's timers go by: one
 * that comes a hair early must not be waited for a second time.
 */
static void a_call_without_answer_ends(void **state)
{
    struct bed *bed = *state;
    struct vn_err err = VN_ERR_INIT;
    vn_auto(session) struct session *session =
        session_open(bed->vne->hosts, AGENTS, NULL, &err);
    vn_auto(json) json_t *unheard = json_pack("{s:s}", "type", "unheard");
    vn_auto(json) json_t *hello = json_pack("{s:s}", "type", "hello");
    json_t *requests[AGENTS] = {hello, unheard};
    json_t *second_only[AGENTS] = {NULL, unheard};

    assert_non_null(session);
    for (int i = 0; i < 300; i++) {
        usleep((useconds_t)(i * 37 % 4000));
        assert_int_equal(
            session_call(session, requests, "hello", 5, NULL, &err), -1);
        assert_int_equal(err.code, VN_E_TIMEOUT);
    }
    /* Of both, the first may be late as well. */
    assert_int_equal(session_call(session, second_only, "hello", 5, NULL, &err),
                     -1);
    assert_int_equal(err.code, VN_E_TIMEOUT);
    assert_non_null(strstr(err.msg, "host 'h2'"));
}

static void a_wrong_agent_is_noticed(void **state)
{
    struct bed *bed = *state;
    struct vn_err err = VN_ERR_INIT;

    bed->agents[0].script = WRONG_NAME;
    assert_int_equal(bringup_up(bed->vne, NULL, &err), -1);
    assert_non_null(strstr(err.msg, "is host 'other', not 'h1'"));
}

static void restore_places_loads_and_starts(void **state)
{
    static const char *const to[] = {"h2", "h1"};
    static const char *const maps[] = {"a=h2"};
    struct bed *bed = *state;
    struct vn_err err = VN_ERR_INIT;
    struct restore_opts opts = {.store_path = bed->store_path,
                                .to_hosts = to,
                                .to_host_count = 2,
                                .maps = maps,
                                .map_count = 1};
    vn_auto(json) json_t *manifest = take(bed, NULL, &err);
    vn_auto(json) json_t *report = NULL;

    assert_non_null(manifest);
    assert_int_equal(bringup_restore(manifest, &opts, &report, &err), 0);
    /* a is pinned to h2, so b takes the roomier h1. */
    for (int i = 0; i < AGENTS; i++) {
        assert_int_equal(bed->agents[i].restored, 1);
        assert_int_equal(bed->agents[i].started, 1);
        assert_int_equal(bed->agents[i].downs, 0);
    }
    assert_int_equal(json_array_size(json_object_get(report, "vms")), 2);
    assert_float_equal(json_real_value(json_object_get(report, "skew_ms")), 1.0,
                       0.001);
}

static void a_failing_restore_takes_the_rest_down(void **state)
{
    struct bed *bed = *state;
    struct vn_err err = VN_ERR_INIT;
    struct restore_opts opts = {.store_path = bed->store_path};
    vn_auto(json) json_t *manifest = take(bed, NULL, &err);
    json_t *report = NULL;

    assert_non_null(manifest);
    bed->agents[1].script = FAIL_RESTORE;
    assert_int_equal(bringup_restore(manifest, &opts, &report, &err), -1);
    assert_non_null(strstr(err.msg, "host 'h2': no such machine"));
    assert_int_equal(err.code, 5);
    assert_int_equal(bed->agents[0].downs, 1);
    assert_int_equal(bed->agents[0].started, 0);
}

static void unknown_hosts_and_vms_are_named(void **state)
{
    static const char *const to[] = {"h9"};
    static const char *const maps[] = {"zebra=h1"};
    struct bed *bed = *state;
    struct vn_err err = VN_ERR_INIT;
    struct restore_opts opts = {
        .store_path = bed->store_path, .to_hosts = to, .to_host_count = 1};
    vn_auto(json) json_t *manifest = take(bed, NULL, &err);
    json_t *report = NULL;

    assert_non_null(manifest);
    assert_int_equal(bringup_restore(manifest, &opts, &report, &err), -1);
    assert_non_null(strstr(err.msg, "'h9'"));
    opts = (struct restore_opts){
        .store_path = bed->store_path, .maps = maps, .map_count = 1};
    assert_int_equal(bringup_restore(manifest, &opts, &report, &err), -1);
    assert_non_null(strstr(err.msg, "zebra"));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(commits_what_agents_reported),
        TEST(a_taken_name_is_refused_before_the_cut),
        TEST(a_failing_prepare_aborts),
        TEST(a_failing_vm_aborts),
        TEST(a_lost_agent_aborts),
        TEST(a_manifest_that_lacks_chunks_is_not_committed),
        TEST(a_manifest_that_lacks_a_vm_is_not_committed),
        TEST(a_domain_is_told_and_kept),
        TEST(an_agent_without_domains_is_refused),
        TEST(objects_of_another_domain_are_not_committed),
        TEST(a_failing_commit_aborts),
        TEST(a_silent_host_is_named),
        TEST(a_call_without_answer_ends),
        TEST(a_wrong_agent_is_noticed),
        TEST(restore_places_loads_and_starts),
        TEST(a_failing_restore_takes_the_rest_down),
        TEST(unknown_hosts_and_vms_are_named),
    };

    evthread_use_pthreads();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
