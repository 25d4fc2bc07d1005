/*
 * After a snapshot: nothing of it is left, and the VM runs.
 *
 * What to remove is asked from QEMU, by the names that we give our objects,
 * not remembered; so the same code cleans up after a snapshot that went well,
 * one that failed at any step, and an agent that was killed. Order: exports,
 * then jobs, then overlays, then the NBD server, each waiting for the one
 * before, since QEMU refuses to delete what is in use.
 *
 * An abort in mode cow reads the stream to its end rather than cancel it (why:
 * vm_qemu_guard.c), which takes as long as a save without a store; the guest
 * runs meanwhile. An abort continues the VM before it cleans, and again after,
 * because a background-snapshot that was about to begin may have stopped it in
 * between.
 */
#include "capture/vm_qemu.h"

#include "common/clock.h"
#include "common/jsonx.h"
#include "common/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define POLL_US             2000
#define CLEAN_TIMEOUT_NS    (20 * VN_SEC)
#define LEFTOVER_TIMEOUT_NS (30 * VN_SEC)
#define DRAIN_TIMEOUT_NS    (10 * VN_SEC) /* without a byte */

/* One kind of object of ours inside QEMU. */
struct kind {
    const char *what;
    const char *query;      /* lists them */
    const char *query_flag; /* a boolean argument of it, or NULL */
    const char *key;        /* of the name in an entry */
    const char *prefix;     /* of names of ours */
    const char *remove;     /* removes one */
    const char *remove_key; /* the argument with its name */
};

static const struct kind exports = {
    .what = "NBD export",
    .query = "query-block-exports",
    .key = "id",
    .prefix = VM_QEMU_EXPORT,
    .remove = "block-export-del",
    .remove_key = "id",
};
static const struct kind jobs = {
    .what = "backup job",
    .query = "query-block-jobs",
    .key = "device",
    .prefix = VM_QEMU_JOB,
    .remove = "block-job-cancel",
    .remove_key = "device",
};
static const struct kind overlays = {
    .what = "overlay",
    .query = "query-named-block-nodes",
    .query_flag = "flat",
    .key = "node-name",
    .prefix = VM_QEMU_FLEECE,
    .remove = "blockdev-del",
    .remove_key = "node-name",
};

static bool is_ours(const struct kind *kind, const json_t *entry)
{
    const char *name = jsonx_string_or(entry, kind->key, "");

    return strncmp(name, kind->prefix, strlen(kind->prefix)) == 0;
}

/* How many of ours are there? `reply` lists all. */
static int list(struct vm_qemu *v, const struct kind *kind, json_t **reply,
                size_t *ret_count, struct vn_err *err)
{
    json_t *args =
        kind->query_flag ? json_pack("{s:b}", kind->query_flag, 1) : NULL;
    json_t *entry;
    size_t i;

    if (qmp_command(v->qmp, kind->query, args, reply, err) < 0)
        return -1;
    *ret_count = 0;
    json_array_foreach (*reply, i, entry)
        *ret_count += is_ours(kind, entry);
    return 0;
}

static int remove_named(struct vm_qemu *v, const struct kind *kind,
                        const char *name, struct vn_err *err)
{
    json_t *args = json_pack("{s:s}", kind->remove_key, name);

    if (kind == &exports)
        json_object_set_new(args, "mode", json_string("hard"));
    if (kind == &jobs)
        json_object_set_new(args, "force", json_true());
    return qmp_command(v->qmp, kind->remove, args, NULL, err);
}

/* Remove all of a kind and wait until they are gone. */
static int remove_kind(struct vm_qemu *v, const struct kind *kind,
                       struct vn_err *err)
{
    uint64_t deadline_ns = clock_now_ns() + CLEAN_TIMEOUT_NS;
    struct vn_err why = VN_ERR_INIT;
    bool asked = false;

    for (;;) {
        vn_auto(json) json_t *reply = NULL;
        json_t *entry;
        size_t count = 0, i;

        if (list(v, kind, &reply, &count, err) < 0)
            return -1;
        if (!count)
            return 0;
        json_array_foreach (reply, i, entry) {
            /* One may end by itself meanwhile: look at what is left. */
            if (!asked && is_ours(kind, entry) &&
                remove_named(v, kind, jsonx_string_or(entry, kind->key, ""),
                             &why) < 0)
                log_debug("vm_qemu: clean vm=%s error=\"%s\"", v->base.name,
                          why.msg);
        }
        /* Nodes go at once, unless something still holds them: ask again. */
        asked = kind != &overlays;
        if (clock_now_ns() > deadline_ns)
            return vn_fail(err, VN_E_TIMEOUT, "VM '%s': a %s stays: %s",
                           v->base.name, kind->what,
                           why.code ? why.msg : "no reason given");
        usleep(POLL_US);
    }
}

static int stop_nbd(struct vm_qemu *v, struct vn_err *err)
{
    struct vn_err why = VN_ERR_INIT;

    /* A refusal means that it does not run. */
    if (v->nbd_started &&
        qmp_command(v->qmp, "nbd-server-stop", NULL, NULL, &why) < 0 &&
        (why.code != VN_E_PEER || qmp_is_gone(v->qmp))) {
        *err = why;
        return -1;
    }
    v->nbd_started = false;
    return 0;
}

static void unlink_overlays(const struct vm_qemu *v)
{
    for (unsigned i = 0; i < VM_DISKS_MAX; i++) {
        vn_auto(free) char *path =
            vn_format("%s/fleece-%u.qcow2", v->state_dir, i);

        unlink(path);
    }
}

/* What lies with us and not in QEMU. */
static void forget(struct vm_qemu *v)
{
    vn_auto(free) char *socket = vm_qemu_path(v, "nbd.sock");

    unlink(socket);
    unlink_overlays(v);
    vm_qemu_keeper_end(v);
    spool_free(v->spool);
    v->spool = NULL;
}

static int reset_migration(struct vm_qemu *v, struct vn_err *err)
{
    struct vn_err ignored = VN_ERR_INIT;

    /* Still there only if no migration took it. */
    if (qmp_command(v->qmp, "closefd",
                    json_pack("{s:s}", "fdname", VM_QEMU_STREAM), NULL,
                    &ignored) < 0)
        log_debug("vm_qemu: closefd vm=%s error=\"%s\"", v->base.name,
                  ignored.msg);
    if (v->old_bandwidth && qmp_command(v->qmp, "migrate-set-parameters",
                                        json_pack("{s:I}", "max-bandwidth",
                                                  (json_int_t)v->old_bandwidth),
                                        NULL, err) < 0)
        return -1;
    v->old_bandwidth = 0;
    return vm_qemu_set_capability(v, "background-snapshot", false, err);
}

/* Did an agent that died leave exports of ours behind? Then the NBD server is
 * ours as well. */
static int claim_nbd(struct vm_qemu *v, struct vn_err *err)
{
    vn_auto(json) json_t *reply = NULL;
    size_t count = 0;

    if (list(v, &overlays, &reply, &count, err) < 0)
        return -1;
    if (count && v->step == VM_QEMU_IDLE)
        v->nbd_started = true;
    return 0;
}

int vm_qemu_clean(struct vm_qemu *v, struct vn_err *err)
{
    int (*const steps[])(struct vm_qemu *, struct vn_err *) = {stop_nbd,
                                                               reset_migration};
    const struct kind *const kinds[] = {&exports, &jobs, &overlays};
    struct vn_err first = VN_ERR_INIT;

    for (size_t i = 0; i < VN_COUNT(kinds) + VN_COUNT(steps); i++) {
        struct vn_err why = VN_ERR_INIT;
        int result = i == 0 ? claim_nbd(v, &why) : 0;

        if (result == 0 && i < VN_COUNT(kinds))
            result = remove_kind(v, kinds[i], &why);
        else if (result == 0)
            result = steps[i - VN_COUNT(kinds)](v, &why);
        if (result < 0 && !first.code)
            first = why;
        if (qmp_is_gone(v->qmp))
            break;
    }
    forget(v);
    if (first.code) {
        *err = first;
        return -1;
    }
    return 0;
}

/* Is a migration under way? */
static int query_migrating(struct vm_qemu *v, bool *ret, struct vn_err *err)
{
    static const char *const over[] = {"", "none", "completed", "failed",
                                       "cancelled"};
    vn_auto(json) json_t *reply = NULL;
    const char *status;

    if (qmp_command(v->qmp, "query-migrate", NULL, &reply, err) < 0)
        return -1;
    status = jsonx_string_or(reply, "status", "");
    *ret = true;
    for (size_t i = 0; i < VN_COUNT(over); i++)
        *ret &= strcmp(status, over[i]) != 0;
    return 0;
}

int vm_qemu_clean_leftovers(struct vm_qemu *v, struct vn_err *err)
{
    uint64_t deadline_ns = clock_now_ns() + LEFTOVER_TIMEOUT_NS;
    bool migrating = true;

    /* The keeper of an agent that died may still be at work. */
    while (query_migrating(v, &migrating, err) == 0 && migrating) {
        if (clock_now_ns() > deadline_ns)
            return vn_fail(err, VN_E_STATE,
                           "VM '%s': a migration of someone else is under way",
                           v->base.name);
        usleep(50 * POLL_US);
    }
    if (migrating || vm_qemu_release(v, err) < 0)
        return -1;
    return vm_qemu_clean(v, err);
}

int vm_qemu_finish(struct vm_qemu *v, struct vn_err *err)
{
    if (v->step != VM_QEMU_SAVED)
        return vn_fail(err, VN_E_STATE, "VM '%s' was not saved", v->base.name);
    if (vm_qemu_clean(v, err) < 0)
        return vn_wrap(err, "cleaning up after VM '%s'", v->base.name);
    v->step = VM_QEMU_IDLE;
    return 0;
}

/* ---- abort -------------------------------------------------------------- */

/* Read the stream to its end, to nowhere: cancelling could hang the guest. */
static int drain(struct vm_qemu *v, struct vn_err *err)
{
    uint64_t received = 0, since_ns = clock_now_ns();
    bool migrating;

    spool_discard(v->spool);
    for (;;) {
        uint64_t now = clock_now_ns();

        if (query_migrating(v, &migrating, err) < 0)
            return -1;
        if (!migrating)
            return 0;
        if (spool_received(v->spool) != received)
            since_ns = now;
        received = spool_received(v->spool);
        if (now - since_ns > DRAIN_TIMEOUT_NS)
            return vn_fail(err, VN_E_TIMEOUT,
                           "VM '%s': its stream stands still", v->base.name);
        usleep(10 * POLL_US);
    }
}

static int cancel_migration(struct vm_qemu *v, struct vn_err *err)
{
    uint64_t deadline_ns = clock_now_ns() + CLEAN_TIMEOUT_NS;
    bool migrating, asked = false;

    for (;;) {
        if (query_migrating(v, &migrating, err) < 0)
            return -1;
        if (!migrating)
            return 0;
        if (!asked &&
            qmp_command(v->qmp, "migrate_cancel", NULL, NULL, err) < 0)
            return -1;
        asked = true;
        if (clock_now_ns() > deadline_ns)
            return vn_fail(err, VN_E_TIMEOUT,
                           "VM '%s': its migration does not end", v->base.name);
        usleep(POLL_US);
    }
}

/* No migration is under way when this returns 0, and no page is protected. */
static int end_migration(struct vm_qemu *v, struct vn_err *err)
{
    struct vn_err why = VN_ERR_INIT;

    if (v->base.chosen_mode == VM_MODE_COW && v->spool && drain(v, &why) < 0)
        log_debug("vm_qemu: drain vm=%s error=\"%s\"", v->base.name, why.msg);
    if (cancel_migration(v, err) < 0)
        return -1;
    return vm_qemu_release(v, err);
}

static int give_up(struct vm_qemu *v, struct vn_err *err)
{
    struct vn_err first = VN_ERR_INIT, why = VN_ERR_INIT;

    if (vm_qemu_continue(v, NULL, &first) < 0 && qmp_is_gone(v->qmp)) {
        *err = first;
        return -1;
    }
    /* That may fail in the middle of a migration; the second must not. */
    first.code = 0;
    if (end_migration(v, &first) < 0)
        log_debug("vm_qemu: abort vm=%s error=\"%s\"", v->base.name, first.msg);
    if (vm_qemu_clean(v, &why) < 0 && !first.code)
        first = why;
    if (vm_qemu_continue(v, NULL, err) < 0)
        return -1;
    if (first.code) {
        *err = first;
        return -1;
    }
    return 0;
}

int vm_qemu_abort(struct vm_qemu *v, struct vn_err *err)
{
    int result;

    if (v->step == VM_QEMU_IDLE) {
        qmp_uncancel(v->qmp);
        return 0;
    }
    qmp_set_deaf(v->qmp, true);
    qmp_set_timeout(v->qmp, CLEAN_TIMEOUT_NS);
    result = give_up(v, err);
    qmp_set_deaf(v->qmp, false);
    qmp_uncancel(v->qmp);
    if (result < 0 && !qmp_is_gone(v->qmp))
        return vn_wrap(err, "aborting the snapshot of VM '%s'", v->base.name);
    /* A VM that is gone has nothing left to clean but files. */
    if (result < 0)
        forget(v);
    v->step = VM_QEMU_IDLE;
    return result;
}
