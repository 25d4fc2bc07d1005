#include "store/engine_provider.h"

int engine_put(struct engine *engine, uint64_t pack_id, const uint8_t *data,
               size_t size, struct vn_err *err)
{
    return engine->ops->put(engine, pack_id, data, size, err);
}

int engine_read(struct engine *engine, uint64_t pack_id, uint64_t offset,
                void *data, size_t size, struct vn_err *err)
{
    return engine->ops->read(engine, pack_id, offset, data, size, err);
}

int engine_size(struct engine *engine, uint64_t pack_id, uint64_t *ret_size,
                struct vn_err *err)
{
    return engine->ops->size(engine, pack_id, ret_size, err);
}

int engine_free_space(struct engine *engine, uint64_t *ret_bytes,
                      struct vn_err *err)
{
    return engine->ops->free_space(engine, ret_bytes, err);
}

void engine_close(struct engine *engine)
{
    if (engine)
        engine->ops->close(engine);
}
