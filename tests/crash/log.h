#ifndef TESTS_CRASH_LOG_H
#define TESTS_CRASH_LOG_H

/*
 * The log of what a process did to the file system below one directory, as
 * recorder.c writes and oplog.c reads it: records in the order in which the
 * operations were done. Of one machine and one build: host byte order.
 *
 *     record = struct log_record, name, name2, data
 *
 * Files and directories are named by inode number; a number that is created
 * anew means a new file from there on.
 */

#include <stdint.h>

enum log_type {
    LOG_ROOT = 1, /* ino: the directory; the first record */
    LOG_CREATE,   /* ino: a new file at dir, name */
    LOG_MKDIR,    /* ino: a new directory at dir, name */
    LOG_LINK,     /* ino gets another name: dir, name */
    LOG_UNLINK,   /* dir, name; rmdir too */
    LOG_RENAME,   /* dir, name to dir2, name2 */
    LOG_WRITE,    /* data at offset of ino */
    LOG_TRUNCATE, /* ino has offset bytes from here on */
    LOG_SYNC,     /* ino, with all that was done to it, is durable */
    LOG_SYNC_ALL, /* everything is */
    LOG_MMAP,     /* ino is mapped to be written: its content is not known */
    LOG_MARK,     /* name: a sentence of the workload */
    LOG_TYPES
};

struct log_record {
    uint32_t type;
    uint32_t name_size;
    uint32_t name2_size;
    uint32_t zero;
    uint64_t ino;
    uint64_t dir;
    uint64_t dir2;
    uint64_t offset;
    uint64_t data_size;
};

/* Environment of the recorder: the directory, which exists, and the log. */
#define LOG_DIR_VARIABLE  "VN_RECORD_DIR"
#define LOG_FILE_VARIABLE "VN_RECORD_LOG"

#endif
