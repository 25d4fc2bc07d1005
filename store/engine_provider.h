#ifndef STORE_ENGINE_PROVIDER_H
#define STORE_ENGINE_PROVIDER_H

/* What an engine implements. The contracts are those of engine.h; every
 * member is mandatory. A provider embeds `struct engine` first. */

#include "store/engine.h"

struct engine_ops {
    int (*put)(struct engine *engine, uint64_t pack_id, const uint8_t *data,
               size_t size, struct vn_err *err);
    int (*read)(struct engine *engine, uint64_t pack_id, uint64_t offset,
                void *data, size_t size, struct vn_err *err);
    int (*size)(struct engine *engine, uint64_t pack_id, uint64_t *ret_size,
                struct vn_err *err);
    int (*free_space)(struct engine *engine, uint64_t *ret_bytes,
                      struct vn_err *err);
    void (*close)(struct engine *engine);
};

struct engine {
    const struct engine_ops *ops;
};

#endif
