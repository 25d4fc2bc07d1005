#include "store/engine_memory.h"

/*
 * Packs in a list under one lock; a removed one lives on while it is being
 * read. Holds and locks are counted in the same place: they are of this
 * process only.
 */

#include "common/auto.h"
#include "store/engine_provider.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct memory_pack {
    struct memory_pack *next;
    uint64_t id;
    uint64_t size;
    bool partial;
    uint8_t data[];
};

struct memory_hold {
    struct engine_hold hold;
    struct memory_hold *next;
    uint64_t epoch;
    uint64_t mark;
};

struct memory_lock {
    struct engine_lock lock;
    bool exclusive;
};

struct engine_memory {
    struct engine engine;
    pthread_mutex_t lock;
    struct memory_pack *packs; /* the newest first */
    uint64_t used;
    uint64_t capacity; /* 0: no limit */
    struct memory_hold *holds;
    unsigned shared; /* locks */
    bool exclusive;
    engine_memory_fn *fault;
    void *context;
};

static struct engine_memory *of(struct engine *engine)
{
    return (struct engine_memory *)engine;
}

/* The outcome of a call; when it fails err is raised. */
static enum engine_outcome ask(struct engine_memory *m, enum engine_call call,
                               uint64_t pack_id, struct vn_err *err)
{
    int code = EIO;
    enum engine_outcome outcome =
        m->fault ? m->fault(m->context, call, pack_id, &code) : ENGINE_DO;

    if (outcome == ENGINE_REFUSE || outcome == ENGINE_DO_SILENT)
        (void)vn_fail(err, code, "call %d of the engine, pack %012llx",
                      (int)call, (unsigned long long)pack_id);
    return outcome;
}

static struct memory_pack **find(struct engine_memory *m, uint64_t id,
                                 bool partial)
{
    struct memory_pack **p = &m->packs;

    while (*p && ((*p)->id != id || (*p)->partial != partial))
        p = &(*p)->next;
    return p;
}

static void add(struct engine_memory *m, uint64_t id, const uint8_t *data,
                uint64_t size, bool partial)
{
    struct memory_pack *pack = vn_alloc(sizeof(*pack) + size);

    *pack = (struct memory_pack){
        .next = m->packs, .id = id, .size = size, .partial = partial};
    if (data)
        memcpy(pack->data, data, size);
    m->packs = pack;
    m->used += size;
}

static int memory_put(struct engine *engine, uint64_t pack_id,
                      const uint8_t *data, size_t size, struct vn_err *err)
{
    struct engine_memory *m = of(engine);
    enum engine_outcome outcome = ask(m, ENGINE_PUT, pack_id, err);

    if (outcome == ENGINE_REFUSE)
        return -1;
    vn_lock_scope(&m->lock);
    if (*find(m, pack_id, false))
        return vn_fail(err, VN_E_EXISTS, "pack %012llx is there already",
                       (unsigned long long)pack_id);
    if (m->capacity && m->used + size > m->capacity)
        return vn_fail(err, ENOSPC, "put pack %012llx",
                       (unsigned long long)pack_id);
    add(m, pack_id, data, size, false);
    return outcome == ENGINE_DO_SILENT ? -1 : 0;
}

static int memory_read(struct engine *engine, uint64_t pack_id, uint64_t offset,
                       void *data, size_t size, struct vn_err *err)
{
    struct engine_memory *m = of(engine);
    enum engine_outcome outcome = ask(m, ENGINE_READ, pack_id, err);
    const struct memory_pack *pack;

    if (outcome == ENGINE_REFUSE || outcome == ENGINE_DO_SILENT)
        return -1;
    vn_lock_scope(&m->lock);
    pack = *find(m, pack_id, false);
    if (!pack)
        return vn_fail(err, VN_E_NOT_FOUND, "there is no pack %012llx",
                       (unsigned long long)pack_id);
    if (offset > pack->size || size > pack->size - offset)
        return vn_fail(err, VN_E_CORRUPT, "ends before %zu wanted at %llu",
                       size, (unsigned long long)offset);
    memcpy(data, pack->data + offset, size);
    if (outcome == ENGINE_CORRUPT && size > 0)
        ((uint8_t *)data)[size / 2] ^= 0x10;
    return 0;
}

static void memory_prefetch(struct engine *engine, uint64_t pack_id,
                            uint64_t offset, uint64_t size)
{
    (void)engine;
    (void)pack_id;
    (void)offset;
    (void)size;
}

static int memory_size(struct engine *engine, uint64_t pack_id,
                       uint64_t *ret_size, struct vn_err *err)
{
    struct engine_memory *m = of(engine);
    const struct memory_pack *pack;

    if (ask(m, ENGINE_SIZE, pack_id, err) != ENGINE_DO)
        return -1;
    vn_lock_scope(&m->lock);
    pack = *find(m, pack_id, false);
    if (!pack)
        return vn_fail(err, VN_E_NOT_FOUND, "there is no pack %012llx",
                       (unsigned long long)pack_id);
    *ret_size = pack->size;
    return 0;
}

static int memory_free_space(struct engine *engine, uint64_t *ret_bytes,
                             struct vn_err *err)
{
    struct engine_memory *m = of(engine);

    if (ask(m, ENGINE_FREE_SPACE, 0, err) != ENGINE_DO)
        return -1;
    vn_lock_scope(&m->lock);
    *ret_bytes = m->capacity ? m->capacity - m->used : UINT64_MAX;
    return 0;
}

static int memory_list(struct engine *engine, engine_entry_fn *fn,
                       void *context, struct vn_err *err)
{
    struct engine_memory *m = of(engine);

    if (ask(m, ENGINE_LIST, 0, err) != ENGINE_DO)
        return -1;
    vn_lock_scope(&m->lock);
    for (const struct memory_pack *p = m->packs; p; p = p->next) {
        struct engine_entry entry = {
            .pack_id = p->id, .size = p->size, .partial = p->partial};

        fn(context, &entry);
    }
    return 0;
}

static void remove_one(struct engine_memory *m, uint64_t id, bool partial)
{
    struct memory_pack **place = find(m, id, partial);
    struct memory_pack *pack = *place;

    if (!pack)
        return;
    *place = pack->next;
    m->used -= pack->size;
    free(pack);
}

static int memory_remove(struct engine *engine, const uint64_t *pack_ids,
                         size_t count, struct vn_err *err)
{
    struct engine_memory *m = of(engine);

    for (size_t i = 0; i < count; i++) {
        enum engine_outcome outcome = ask(m, ENGINE_REMOVE, pack_ids[i], err);

        if (outcome == ENGINE_REFUSE)
            return -1;
        vn_lock_scope(&m->lock);
        remove_one(m, pack_ids[i], false);
        remove_one(m, pack_ids[i], true);
        if (outcome == ENGINE_DO_SILENT)
            return -1;
    }
    return 0;
}

/* ---- holds and locks -------------------------------------------------- */

static struct engine_hold *memory_hold_open(struct engine *engine,
                                            struct vn_err *err)
{
    struct engine_memory *m = of(engine);
    struct memory_hold *h;

    if (ask(m, ENGINE_HOLD, 0, err) != ENGINE_DO)
        return NULL;
    h = vn_alloc(sizeof(*h));
    h->hold.engine = engine;
    vn_lock_scope(&m->lock);
    h->next = m->holds;
    m->holds = h;
    return &h->hold;
}

static int memory_hold_set(struct engine_hold *hold, uint64_t epoch,
                           uint64_t mark, struct vn_err *err)
{
    struct memory_hold *h = (struct memory_hold *)hold;
    struct engine_memory *m = of(hold->engine);

    if (ask(m, ENGINE_HOLD, 0, err) != ENGINE_DO)
        return -1;
    vn_lock_scope(&m->lock);
    h->epoch = epoch;
    h->mark = mark;
    return 0;
}

static void memory_hold_close(struct engine_hold *hold)
{
    struct memory_hold *h = (struct memory_hold *)hold;
    struct engine_memory *m = of(hold->engine);
    struct memory_hold **link = &m->holds;

    vn_lock_scope(&m->lock);
    while (*link != h)
        link = &(*link)->next;
    *link = h->next;
    free(h);
}

static int memory_holds(struct engine *engine, struct engine_holds *ret,
                        struct vn_err *err)
{
    struct engine_memory *m = of(engine);

    if (ask(m, ENGINE_HOLD, 0, err) != ENGINE_DO)
        return -1;
    *ret = (struct engine_holds){
        .epoch = UINT64_MAX, .mark = UINT64_MAX, .holder = (uint64_t)getpid()};
    vn_lock_scope(&m->lock);
    for (const struct memory_hold *h = m->holds; h; h = h->next) {
        ret->count++;
        ret->epoch = h->epoch < ret->epoch ? h->epoch : ret->epoch;
        ret->mark = h->mark < ret->mark ? h->mark : ret->mark;
    }
    return 0;
}

static struct engine_lock *memory_lock(struct engine *engine, bool exclusive,
                                       struct vn_err *err)
{
    struct engine_memory *m = of(engine);
    struct memory_lock *l;

    vn_lock_scope(&m->lock);
    if (m->exclusive || (exclusive && m->shared))
        return vn_fail_ptr(err, VN_E_STATE,
                           "another process is collecting or verifying");
    m->exclusive = exclusive;
    m->shared += !exclusive;
    l = vn_alloc(sizeof(*l));
    *l = (struct memory_lock){.lock = {.engine = engine},
                              .exclusive = exclusive};
    return &l->lock;
}

static void memory_unlock(struct engine_lock *lock)
{
    struct memory_lock *l = (struct memory_lock *)lock;
    struct engine_memory *m = of(lock->engine);

    vn_lock_scope(&m->lock);
    if (l->exclusive)
        m->exclusive = false;
    else
        m->shared--;
    free(l);
}

/* ---- making ----------------------------------------------------------- */

static void memory_close(struct engine *engine)
{
    struct engine_memory *m = of(engine);

    while (m->packs)
        remove_one(m, m->packs->id, m->packs->partial);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

static const struct engine_ops engine_memory_ops = {
    .put = memory_put,
    .read = memory_read,
    .prefetch = memory_prefetch,
    .size = memory_size,
    .free_space = memory_free_space,
    .list = memory_list,
    .remove = memory_remove,
    .hold_open = memory_hold_open,
    .hold_set = memory_hold_set,
    .hold_close = memory_hold_close,
    .holds = memory_holds,
    .lock = memory_lock,
    .unlock = memory_unlock,
    .close = memory_close,
};

struct engine *engine_memory_new(uint64_t capacity)
{
    struct engine_memory *m = vn_alloc(sizeof(*m));

    m->engine.ops = &engine_memory_ops;
    m->capacity = capacity;
    pthread_mutex_init(&m->lock, NULL);
    return &m->engine;
}

void engine_memory_set_fault(struct engine *engine, engine_memory_fn *fn,
                             void *context)
{
    of(engine)->fault = fn;
    of(engine)->context = context;
}

size_t engine_memory_count(struct engine *engine)
{
    struct engine_memory *m = of(engine);
    size_t count = 0;

    vn_lock_scope(&m->lock);
    for (const struct memory_pack *p = m->packs; p; p = p->next)
        count += !p->partial;
    return count;
}

uint64_t engine_memory_bytes(struct engine *engine)
{
    struct engine_memory *m = of(engine);

    vn_lock_scope(&m->lock);
    return m->used;
}

void engine_memory_add_partial(struct engine *engine, uint64_t pack_id,
                               uint64_t size)
{
    struct engine_memory *m = of(engine);

    vn_lock_scope(&m->lock);
    add(m, pack_id, NULL, size, true);
}
