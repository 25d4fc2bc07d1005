#include "crash/oplog.h"

/*
 * Loading a log: one pass that cuts it into operations, follows inode numbers
 * to files (a number may come back for another file), and collects the marks.
 */

#include "common/auto.h"
#include "common/buf.h"
#include "common/io.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define LOG_SIZE_MAX (256u << 20)

static uint32_t find_node(const struct oplog *log, uint64_t ino)
{
    for (size_t i = log->node_count; i-- > 0;)
        if (log->nodes[i].ino == ino)
            return (uint32_t)i;
    return OPLOG_NONE;
}

static void set_name(struct oplog_node *node, uint32_t dir, const char *name,
                     size_t size)
{
    node->dir = dir;
    snprintf(node->name, sizeof(node->name), "%.*s", (int)size, name);
}

static uint32_t add_node(struct oplog *log, uint64_t ino, bool is_dir,
                         const struct oplog_op *op)
{
    struct oplog_node *node = &log->nodes[log->node_count];

    *node =
        (struct oplog_node){.ino = ino, .dir = OPLOG_NONE, .is_dir = is_dir};
    if (op)
        set_name(node, op->dir, op->name, op->name_size);
    return (uint32_t)log->node_count++;
}

/* Which file has this name now? */
static uint32_t find_name(const struct oplog *log, const struct oplog_op *op)
{
    for (size_t i = log->node_count; i-- > 1;)
        if (log->nodes[i].dir == op->dir &&
            strlen(log->nodes[i].name) == op->name_size &&
            memcmp(log->nodes[i].name, op->name, op->name_size) == 0)
            return (uint32_t)i;
    return OPLOG_NONE;
}

static struct oplog_snapshot *snapshot_of(struct oplog *log, const char *name)
{
    struct oplog_snapshot *s;

    for (size_t i = 0; i < log->snapshot_count; i++)
        if (strcmp(log->snapshots[i].name, name) == 0)
            return &log->snapshots[i];
    s = &log->snapshots[log->snapshot_count++];
    *s = (struct oplog_snapshot){.begin = SIZE_MAX,
                                 .done = SIZE_MAX,
                                 .drop = SIZE_MAX,
                                 .dropped = SIZE_MAX};
    snprintf(s->name, sizeof(s->name), "%s", name);
    return s;
}

static void take_mark(struct oplog *log, const struct oplog_op *op, size_t at)
{
    char verb[16] = "";
    char name[64] = "";
    uint64_t digest = 0;
    vn_auto(free) char *text = vn_format("%.*s", (int)op->name_size, op->name);
    struct oplog_snapshot *s;

    sscanf(text, "%15s %63s %" SCNx64, verb, name, &digest);
    if (strcmp(verb, "init") == 0) {
        log->init = at;
        return;
    }
    s = snapshot_of(log, name);
    if (strcmp(verb, "begin") == 0) {
        s->begin = at;
        s->digest = digest;
    } else if (strcmp(verb, "done") == 0) {
        s->done = at;
    } else if (strcmp(verb, "drop") == 0) {
        s->drop = at;
    } else if (strcmp(verb, "dropped") == 0) {
        s->dropped = at;
    }
}

/* Which file is it about? */
static void resolve(struct oplog *log, struct oplog_op *op,
                    const struct log_record *record, size_t at)
{
    op->node = op->dir = op->dir2 = OPLOG_NONE;
    if (oplog_is_name(op))
        op->dir = find_node(log, record->dir);
    switch (op->type) {
    case LOG_CREATE:
    case LOG_MKDIR:
        op->node = add_node(log, record->ino, op->type == LOG_MKDIR, op);
        break;
    case LOG_RENAME:
        op->dir2 = find_node(log, record->dir2);
        op->node = find_name(log, op);
        if (op->node != OPLOG_NONE)
            set_name(&log->nodes[op->node], op->dir2, op->name2,
                     op->name2_size);
        break;
    case LOG_LINK:
    case LOG_WRITE:
    case LOG_TRUNCATE:
    case LOG_SYNC:
    case LOG_MMAP:
        op->node = find_node(log, record->ino);
        break;
    case LOG_MARK:
        take_mark(log, op, at);
        break;
    default:
        break;
    }
    if (op->node == OPLOG_NONE)
        return;
    log->nodes[op->node].mapped |= op->type == LOG_MMAP;
    log->nodes[op->node].synced |= op->type == LOG_SYNC;
}

/* The next record at *at. */
static int cut(const uint8_t *bytes, size_t size, size_t *at,
               struct log_record *record, struct oplog_op *op,
               struct vn_err *err)
{
    size_t left = size - *at;
    const char *text;

    if (left < sizeof(*record))
        return vn_fail(err, VN_E_FORMAT, "the log ends at %zu", *at);
    memcpy(record, bytes + *at, sizeof(*record));
    left -= sizeof(*record);
    if (record->type < LOG_ROOT || record->type >= LOG_TYPES ||
        record->name_size > left ||
        record->name2_size > left - record->name_size ||
        record->data_size > left - record->name_size - record->name2_size)
        return vn_fail(err, VN_E_FORMAT, "no record in the log at %zu", *at);
    text = (const char *)bytes + *at + sizeof(*record);
    *op = (struct oplog_op){.type = (enum log_type)record->type,
                            .name = text,
                            .name_size = record->name_size,
                            .name2 = text + record->name_size,
                            .name2_size = record->name2_size,
                            .offset = record->offset,
                            .data = (const uint8_t *)text + record->name_size +
                                    record->name2_size,
                            .data_size = record->data_size};
    *at += sizeof(*record) + record->name_size + record->name2_size +
           record->data_size;
    return 0;
}

struct oplog *oplog_load(const char *path, struct vn_err *err)
{
    struct oplog *log = vn_alloc(sizeof(*log));
    struct log_record record;
    struct buf b;
    size_t most;

    buf_init(&b, LOG_SIZE_MAX);
    if (io_read_file(path, &b, err) < 0)
        goto failed;
    most = b.size / sizeof(record) + 1;
    log->ops = vn_alloc(most * sizeof(*log->ops));
    log->nodes = vn_alloc(most * sizeof(*log->nodes));
    log->snapshots = vn_alloc(most * sizeof(*log->snapshots));
    log->init = SIZE_MAX;
    for (size_t at = 0; at < b.size;) {
        struct oplog_op *op = &log->ops[log->op_count];

        if (cut(b.data, b.size, &at, &record, op, err) < 0)
            goto failed;
        if (log->op_count == 0)
            add_node(log, record.ino, true, NULL);
        resolve(log, op, &record, log->op_count++);
    }
    if (log->op_count == 0 || log->ops[0].type != LOG_ROOT) {
        vn_fail(err, VN_E_FORMAT, "'%s' is no log", path);
        goto failed;
    }
    log->bytes = b.data; /* what the operations point into */
    return log;
failed:
    free(b.data);
    oplog_free(log);
    return NULL;
}

void oplog_free(struct oplog *log)
{
    if (!log)
        return;
    free(log->bytes);
    free(log->ops);
    free(log->nodes);
    free(log->snapshots);
    free(log);
}

bool oplog_is_name(const struct oplog_op *op)
{
    return op->type == LOG_CREATE || op->type == LOG_MKDIR ||
           op->type == LOG_LINK || op->type == LOG_UNLINK ||
           op->type == LOG_RENAME;
}

bool oplog_changes(const struct oplog_op *op)
{
    return oplog_is_name(op) || op->type == LOG_WRITE ||
           op->type == LOG_TRUNCATE;
}

void oplog_describe(const struct oplog *log, size_t op, char out[200])
{
    static const char *const words[LOG_TYPES] = {
        [LOG_ROOT] = "root",     [LOG_CREATE] = "create",
        [LOG_MKDIR] = "mkdir",   [LOG_LINK] = "link",
        [LOG_UNLINK] = "unlink", [LOG_RENAME] = "rename",
        [LOG_WRITE] = "write",   [LOG_TRUNCATE] = "truncate",
        [LOG_SYNC] = "sync",     [LOG_SYNC_ALL] = "sync all",
        [LOG_MMAP] = "map",      [LOG_MARK] = "mark",
    };
    const struct oplog_op *o = &log->ops[op];

    snprintf(out, 200, "%zu %s %.*s%s%.*s%s%.60s at %" PRIu64 ", %zu bytes", op,
             words[o->type], (int)o->name_size, o->name,
             o->name2_size ? " to " : "", (int)o->name2_size, o->name2,
             o->node == OPLOG_NONE ? "" : " of ",
             o->node == OPLOG_NONE ? "" : log->nodes[o->node].name, o->offset,
             o->data_size);
}
