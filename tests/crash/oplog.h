#ifndef TESTS_CRASH_OPLOG_H
#define TESTS_CRASH_OPLOG_H

/* A log of the recorder, loaded: operations with their files resolved. */

#include "common/err.h"
#include "crash/log.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OPLOG_NONE UINT32_MAX

/* A file or directory that ever was. 0 is the directory of the log. */
struct oplog_node {
    uint64_t ino;
    uint32_t dir; /* in which it lay last */
    bool is_dir;
    bool mapped;   /* to be written: content unknown at any time */
    bool synced;   /* at least once */
    char name[64]; /* the last it had */
};

struct oplog_op {
    enum log_type type;
    uint32_t node; /* what it is about; OPLOG_NONE: nothing */
    uint32_t dir;
    uint32_t dir2;
    const char *name; /* name and name2 are not terminated */
    size_t name_size;
    const char *name2;
    size_t name2_size;
    uint64_t offset;
    const uint8_t *data;
    size_t data_size;
};

/* A snapshot of the workload; the numbers of its marks, SIZE_MAX: none. */
struct oplog_snapshot {
    char name[64];
    uint64_t digest;
    size_t begin;
    size_t done;
    size_t drop;
    size_t dropped;
};

struct oplog {
    uint8_t *bytes;
    struct oplog_op *ops;
    size_t op_count;
    struct oplog_node *nodes;
    size_t node_count;
    struct oplog_snapshot *snapshots;
    size_t snapshot_count;
    size_t init; /* the mark after store_init() */
};

/* NULL on error. VN_E_FORMAT: not such a log. */
struct oplog *oplog_load(const char *path, struct vn_err *err) VN_MUST_USE;
void oplog_free(struct oplog *log); /* NULL is fine */

/* One line about an operation. */
void oplog_describe(const struct oplog *log, size_t op, char out[200]);

/* Is it one that changes what is on the disk? */
bool oplog_changes(const struct oplog_op *op);
/* Is it about names? */
bool oplog_is_name(const struct oplog_op *op);

#endif
