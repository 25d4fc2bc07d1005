#include "crash/check.h"

#include "crash/digest.h"

#include "common/auto.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define AFTER_PAGES 12u

static void keep_finding(void *context, const char *sentence)
{
    char *first = context;

    if (!first[0])
        snprintf(first, VN_ERR_MSG_SIZE, "%s", sentence);
}

static int check_sound(struct store *store, const char *when,
                       struct vn_err *err)
{
    char first[VN_ERR_MSG_SIZE] = "";
    struct store_verify_opts opts = {.finding = keep_finding, .context = first};
    uint64_t findings = 0;

    if (store_verify(store, &opts, &findings, err) < 0)
        return vn_wrap(err, "verify %s", when);
    return findings == 0
               ? 0
               : vn_fail(err, VN_E_CORRUPT, "verify %s: %s", when, first);
}

/* ---- snapshots -------------------------------------------------------- */

/* Was that mark made before the crash? */
static bool passed(size_t mark, size_t point)
{
    return mark < point;
}

static bool must_exist(const struct oplog_snapshot *s, size_t point)
{
    return passed(s->done, point) && !passed(s->drop, point);
}

static bool may_exist(const struct oplog_snapshot *s, size_t point)
{
    return passed(s->begin, point) && !passed(s->dropped, point);
}

static int check_snapshot(struct store *store, const struct oplog_snapshot *s,
                          size_t point, struct vn_err *err)
{
    vn_auto(json) json_t *manifest = store_load(store, s->name, err);
    uint64_t digest;

    if (!manifest && err->code != VN_E_NOT_FOUND)
        return -1;
    if (!manifest)
        return must_exist(s, point) ? vn_fail(err, VN_E_CORRUPT,
                                              "snapshot '%s' is lost", s->name)
                                    : 0;
    if (!may_exist(s, point))
        return vn_fail(err, VN_E_CORRUPT, "snapshot '%s' should not be there",
                       s->name);
    if (digest_read(store, manifest, &digest, err) < 0)
        return vn_wrap(err, "snapshot '%s'", s->name);
    return digest == s->digest
               ? 0
               : vn_fail(err, VN_E_CORRUPT, "snapshot '%s' reads otherwise",
                         s->name);
}

static int check_snapshots(struct store *store, const struct oplog *log,
                           size_t point, const char *when, struct vn_err *err)
{
    vn_auto(json) json_t *list = NULL;
    size_t known = 0;

    for (size_t i = 0; i < log->snapshot_count; i++) {
        struct vn_err none = VN_ERR_INIT;
        vn_auto(json) json_t *there = NULL;

        if (check_snapshot(store, &log->snapshots[i], point, err) < 0)
            return vn_wrap(err, "%s", when);
        there = store_load(store, log->snapshots[i].name, &none);
        known += there != NULL;
    }
    list = store_list(store, err);
    if (!list)
        return vn_wrap(err, "list %s", when);
    return json_array_size(list) == known
               ? 0
               : vn_fail(err, VN_E_CORRUPT, "%zu snapshots %s, %zu known",
                         json_array_size(list), when, known);
}

/* A number that was given does not come back. */
static int check_numbers(struct store *store, const struct oplog *log,
                         size_t point, struct vn_err *err)
{
    vn_auto(free) char *name = store_next_name(store, "lab", err);

    if (!name)
        return -1;
    for (size_t i = 0; i < log->snapshot_count; i++)
        if (passed(log->snapshots[i].done, point) &&
            strcmp(log->snapshots[i].name, name) == 0)
            return vn_fail(err, VN_E_CORRUPT, "'%s' is given again", name);
    return 0;
}

/* ---- going on --------------------------------------------------------- */

static int check_gc(struct store *store, struct vn_err *err)
{
    const struct store_gc_opts opts = {.threshold_percent = 50};
    struct store_gc_counts counts;

    /* Garbage; then tombstones whose manifests went; then nothing is left. */
    for (unsigned i = 0; i < 3; i++)
        if (store_gc(store, &opts, &counts, err) < 0)
            return -1;
    if (counts.packs_removed + counts.orphans_removed + counts.chunks_removed >
        0)
        return vn_fail(err, VN_E_CORRUPT, "the third gc still finds something");
    return 0;
}

static int check_commit(struct store *store, struct vn_err *err)
{
    vn_auto(json) json_t *manifest = manifest_new("after", "files");
    vn_auto(store_writer) struct store_writer *writer =
        store_writer_open(store, err);
    uint8_t data[AFTER_PAGES * STORE_PAGE_SIZE];
    struct map_root root;
    uint64_t digest;

    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i / 5 + i / STORE_PAGE_SIZE * 7);
    if (!writer || store_put_bytes(writer, data, sizeof(data), &root, err) < 0)
        return -1;
    manifest_add(manifest, DIGEST_IMAGE, &root);
    if (store_put_bytes(writer, data, 9, &root, err) < 0 ||
        store_writer_flush(writer, err) < 0)
        return -1;
    manifest_add(manifest, DIGEST_STATE, &root);
    if (store_commit(store, manifest, err) < 0 ||
        digest_read(store, manifest, &digest, err) < 0)
        return -1;
    return digest == digest_of(data, sizeof(data), data, 9)
               ? 0
               : vn_fail(err, VN_E_CORRUPT, "a new snapshot reads otherwise");
}

int check_store(const struct oplog *log, size_t point, const char *dir,
                struct vn_err *err)
{
    vn_auto(store) struct store *store = store_open(dir, err);

    if (!store) /* before store_init() has returned there may be none */
        return !passed(log->init, point) && err->code == VN_E_NOT_FOUND ? 0
                                                                        : -1;
    if (check_sound(store, "after the crash", err) < 0 ||
        check_snapshots(store, log, point, "after the crash", err) < 0 ||
        check_numbers(store, log, point, err) < 0)
        return -1;
    if (check_gc(store, err) < 0)
        return vn_wrap(err, "gc");
    if (check_snapshots(store, log, point, "after gc", err) < 0)
        return -1;
    if (check_commit(store, err) < 0)
        return vn_wrap(err, "a new commit");
    return check_sound(store, "at the end", err);
}
