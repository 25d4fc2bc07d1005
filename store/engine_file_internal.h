#ifndef STORE_ENGINE_FILE_INTERNAL_H
#define STORE_ENGINE_FILE_INTERNAL_H

/* Shared by engine_file.c, engine_file_list.c and engine_file_holds.c only. */

#include "common/auto.h"
#include "store/engine_provider.h"

#include <stdatomic.h>

#define ENGINE_FDS_MAX 128u
#define ENGINE_FD_WAYS 4u /* slots for one pack */

struct pack_fd {
    uint64_t pack_id;
    int fd;         /* -1: free slot */
    unsigned users; /* reads going on; not closed meanwhile */
    bool removed;   /* of a removed pack: closed by its last user */
    uint64_t used;  /* tick of the last use */
};

struct engine_file {
    struct engine engine;
    char *dir;
    atomic_ullong folder; /* the last whose name is durable, plus 1 */
    pthread_mutex_t lock;
    uint64_t tick;                      /* guarded by lock */
    struct pack_fd fds[ENGINE_FDS_MAX]; /* guarded by lock */
};

/* Caller frees. */
char *engine_file_pack_dir(const struct engine_file *e, uint64_t pack_id);
char *engine_file_pack_path(const struct engine_file *e, uint64_t pack_id,
                            const char *suffix);

/* Let go of the descriptor of a pack that is being removed. */
void engine_file_forget(struct engine_file *e, uint64_t pack_id);

/* Members of engine_ops. */
int engine_file_list(struct engine *engine, engine_entry_fn *fn, void *context,
                     struct vn_err *err);
int engine_file_remove(struct engine *engine, const uint64_t *pack_ids,
                       size_t count, struct vn_err *err);
struct engine_hold *engine_file_hold_open(struct engine *engine,
                                          struct vn_err *err);
int engine_file_hold_set(struct engine_hold *hold, uint64_t epoch,
                         uint64_t mark, struct vn_err *err);
void engine_file_hold_close(struct engine_hold *hold);
int engine_file_holds(struct engine *engine, struct engine_holds *ret,
                      struct vn_err *err);
struct engine_lock *engine_file_lock(struct engine *engine, bool exclusive,
                                     struct vn_err *err);
void engine_file_unlock(struct engine_lock *lock);

#endif
