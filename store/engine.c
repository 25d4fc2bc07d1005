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

void engine_prefetch(struct engine *engine, uint64_t pack_id, uint64_t offset,
                     uint64_t size)
{
    engine->ops->prefetch(engine, pack_id, offset, size);
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

int engine_list(struct engine *engine, engine_entry_fn *fn, void *context,
                struct vn_err *err)
{
    return engine->ops->list(engine, fn, context, err);
}

int engine_remove(struct engine *engine, const uint64_t *pack_ids, size_t count,
                  struct vn_err *err)
{
    return count ? engine->ops->remove(engine, pack_ids, count, err) : 0;
}

struct engine_hold *engine_hold_open(struct engine *engine, struct vn_err *err)
{
    return engine->ops->hold_open(engine, err);
}

int engine_hold_set(struct engine_hold *hold, uint64_t epoch, uint64_t mark,
                    struct vn_err *err)
{
    return hold->engine->ops->hold_set(hold, epoch, mark, err);
}

void engine_hold_close(struct engine_hold *hold)
{
    if (hold)
        hold->engine->ops->hold_close(hold);
}

int engine_holds(struct engine *engine, struct engine_holds *ret,
                 struct vn_err *err)
{
    return engine->ops->holds(engine, ret, err);
}

struct engine_lock *engine_lock(struct engine *engine, bool exclusive,
                                struct vn_err *err)
{
    return engine->ops->lock(engine, exclusive, err);
}

void engine_unlock(struct engine_lock *lock)
{
    if (lock)
        lock->engine->ops->unlock(lock);
}

void engine_close(struct engine *engine)
{
    if (engine)
        engine->ops->close(engine);
}
