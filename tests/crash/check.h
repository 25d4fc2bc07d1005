#ifndef TESTS_CRASH_CHECK_H
#define TESTS_CRASH_CHECK_H

#include "crash/oplog.h"

/*
 * Is the store in `dir` what it must be after a crash at `point` of the log?
 * It opens, verifies; what was acknowledged is there and reads back, what was
 * deleted is gone; a collection leaves nothing over; it takes a new snapshot.
 * The store is changed by that. The error says what is wrong.
 */
int check_store(const struct oplog *log, size_t point, const char *dir,
                struct vn_err *err) VN_MUST_USE;

#endif
