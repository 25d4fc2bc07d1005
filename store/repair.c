#include "store/repair_internal.h"

/*
 * Repair: make the best of a damaged store.
 *
 *     index      sound (index_check.c)? If not, or if asked for, it is built
 * anew from the packs (repair_index.c, repair_snapshots.c) and takes the old
 * one's place mend       everything is verified; what can be read in damaged
 * packs moves to new ones; what cannot is looked for in all packs, and becomes
 * lost where it is nowhere (repair_mend.c, repair_move.c)
 *
 * A repair never makes a snapshot worse: nothing that can be read is thrown
 * away, no snapshot is removed, packs that are taken out of use stay on the
 * medium until gc. What is lost is absent from then on, so that it is stored
 * again when the same content comes once more, which heals every snapshot that
 * needs it.
 *
 * Killed anywhere: the new index is built beside the old one and takes its
 * place by two renames; between them there is no index, and the next repair
 * begins anew. Mending is made of the index's transactions: chunks copied to
 * a new pack are in use when their rows have turned, before that the pack is an
 * orphan; what is lost is lost in one.
 */

#include "common/clock.h"
#include "common/io.h"
#include "common/jsonx.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK_BATCH 4096u

void repair_found(struct repair *r, json_t *where, const char *format, ...)
{
    vn_auto(free) char *sentence = NULL;
    vn_auto(json) json_t *finding = where;
    va_list args;

    va_start(args, format);
    if (vasprintf(&sentence, format, args) < 0)
        abort();
    va_end(args);
    r->counts.findings++;
    if (r->opts->finding)
        r->opts->finding(r->opts->context, sentence);
    json_object_set_new(finding, "sentence", jsonx_any_string(sentence));
    if (r->opts->detail)
        r->opts->detail(r->opts->context, finding);
}

void *repair_grown(void *array, size_t count, size_t *capacity, size_t size)
{
    if (count < *capacity)
        return array;
    *capacity = *capacity ? 2 * *capacity : 64;
    array = realloc(array, *capacity * size);
    if (!array)
        abort();
    return array;
}

/* Every row is what its table says, and marks cover the rows. */
static int look_at_rows(struct repair *r, struct index *index,
                        struct vn_err *err)
{
    vn_auto(free) struct index_chunk *rows =
        vn_alloc(CHUNK_BATCH * sizeof(*rows));
    struct chunk_id last = {{0}};
    char problem[256];
    bool begun = false;
    size_t count;

    do {
        if (index_list_chunks(index, begun ? &last : NULL, CHUNK_BATCH, rows,
                              &count, err) < 0)
            return -1;
        if (count > 0)
            last = rows[count - 1].id;
        begun = true;
    } while (count == CHUNK_BATCH);
    if (index_check_marks(index, problem, err) < 0)
        return -1;
    r->marks_are_wrong = problem[0] != 0;
    if (problem[0])
        repair_found(r, verify_where("index", 0), "%s", problem);
    return 0;
}

/* 1: there is an index that can be read; 0: there is none, or it is damaged. */
static int look_at_index(struct repair *r, struct vn_err *err)
{
    vn_auto(free) char *dir = vn_format("%s/index", r->path);
    vn_auto(free) char *data = vn_format("%s/data.mdb", dir);
    struct vn_err why = VN_ERR_INIT;
    struct index *index;
    bool sound;

    if (access(data, F_OK) < 0 && (errno == ENOENT || errno == ENOTDIR)) {
        repair_found(r, verify_where("index", 0), "there is no index '%s'",
                     data);
        return 0;
    }
    index = index_open(dir, r->config.store_id, &why);
    sound = index && index_check(index, &why) == 0 &&
            look_at_rows(r, index, &why) == 0;
    index_close(index);
    if (sound)
        return 1;
    if (why.code != VN_E_CORRUPT && !r->opts->rebuild_index) {
        *err = why;
        return -1;
    }
    repair_found(r, verify_where("index", 0), "%s", why.msg);
    return 0;
}

static int repair(struct repair *r, struct vn_err *err)
{
    int sound;

    if (store_config_read(r->path, &r->config, err) < 0) {
        if (err->code == VN_E_NOT_FOUND || err->code == VN_E_VERSION)
            return -1;
        return vn_wrap(err, "without its configuration a store cannot be "
                            "read; put it back from a copy");
    }
    sound = look_at_index(r, err);
    if (sound < 0)
        return -1;
    if (!sound || r->marks_are_wrong || r->opts->rebuild_index) {
        r->counts.rebuilt = true;
        if (repair_rebuild(r, sound, err) < 0)
            return -1;
    }
    /* Without an index nothing else can be found out. */
    if (r->opts->dry_run && (!sound || r->marks_are_wrong))
        return 0;
    return repair_mend(r, err);
}

int store_repair(const char *path, const struct store_repair_opts *opts,
                 struct store_repair_counts *ret, struct vn_err *err)
{
    struct repair r = {.path = path, .opts = opts};
    int result = repair(&r, err);

    explicit_bzero(&r.config, sizeof(r.config));
    *ret = r.counts;
    return result < 0 ? vn_wrap(err, "repairing '%s'", path) : 0;
}
