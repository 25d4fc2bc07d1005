#ifndef TESTS_CRASH_TREE_H
#define TESTS_CRASH_TREE_H

/*
 * A state of the disk, in memory: what is there when of the operations before
 * a point of the log some were lost.
 */

#include "crash/oplog.h"

/* What became of an operation. */
enum fate {
    FATE_LOST = 0,
    FATE_DONE,
    FATE_TORN_512, /* of a write: some of its sectors, others not */
    FATE_TORN_4096 /* the same in larger pieces */
};

struct tree;

/* Reads what the log cannot know, the content of mapped files, from below
 * `root`, where the workload ran. Both live as long as the tree. */
struct tree *tree_new(const struct oplog *log, const char *root,
                      struct vn_err *err) VN_MUST_USE;
void tree_free(struct tree *tree); /* NULL is fine */

/*
 * The state after the operations before `point`, of which fates[i] tells.
 * `seed` decides how writes are torn, what lies in gaps that no write reached
 * (zeros or garbage), and what mapped files hold (nothing, zeros, their last
 * content, that with errors); seed 0: zeros, and mapped files as they are last.
 */
void tree_build(struct tree *tree, size_t point, const uint8_t *fates,
                uint64_t seed);

/* Two states with one number are the same. */
uint64_t tree_hash(const struct tree *tree);

/* Make the state real in `dir`, a new directory. */
int tree_write(const struct tree *tree, const char *dir,
               struct vn_err *err) VN_MUST_USE;

/* Is the state that of the directory the workload ran in? Mapped files are not
 * looked at. VN_E_CORRUPT names the first difference. */
int tree_compare(const struct tree *tree, struct vn_err *err) VN_MUST_USE;

/* Mix two numbers into one. */
uint64_t tree_mix(uint64_t a, uint64_t b);

#endif
