#ifndef STORE_ENGINE_PROVIDER_H
#define STORE_ENGINE_PROVIDER_H

/* What an engine implements. The contracts are those of engine.h; every
 * member is mandatory. A provider embeds `struct engine` first; likewise
 * `struct engine_hold` and `struct engine_lock`. */

#include "store/engine.h"

struct engine_ops {
    int (*put)(struct engine *engine, uint64_t pack_id, const uint8_t *data,
               size_t size, struct vn_err *err);
    int (*read)(struct engine *engine, uint64_t pack_id, uint64_t offset,
                void *data, size_t size, struct vn_err *err);
    void (*prefetch)(struct engine *engine, uint64_t pack_id, uint64_t offset,
                     uint64_t size);
    int (*size)(struct engine *engine, uint64_t pack_id, uint64_t *ret_size,
                struct vn_err *err);
    int (*free_space)(struct engine *engine, uint64_t *ret_bytes,
                      struct vn_err *err);
    int (*list)(struct engine *engine, engine_entry_fn *fn, void *context,
                struct vn_err *err);
    int (*remove)(struct engine *engine, const uint64_t *pack_ids, size_t count,
                  struct vn_err *err);
    struct engine_hold *(*hold_open)(struct engine *engine, struct vn_err *err);
    int (*hold_set)(struct engine_hold *hold, uint64_t epoch, uint64_t mark,
                    struct vn_err *err);
    void (*hold_close)(struct engine_hold *hold);
    int (*holds)(struct engine *engine, struct engine_holds *ret,
                 struct vn_err *err);
    struct engine_lock *(*lock)(struct engine *engine, bool exclusive,
                                struct vn_err *err);
    void (*unlock)(struct engine_lock *lock);
    void (*close)(struct engine *engine);
};

struct engine {
    const struct engine_ops *ops;
};

struct engine_hold {
    struct engine *engine;
};

struct engine_lock {
    struct engine *engine;
};

#endif
