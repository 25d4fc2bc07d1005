#include "store/repair_internal.h"

/*
 * Repair of a store whose index can be read.
 *
 *     verify     everything; what is wrong goes to the caller as it is found
 *     evacuate   rows that point into a damaged pack: what can be read is
 *                copied to new packs and the rows turned
 *     lose       rows of what cannot be read, and ids that snapshots need and
 *                the index has not: one transaction
 *     salvage    directories of all packs that the engine has, known to the
 *                index or not: a whole copy of a lost chunk is copied to a new
 *                pack and entered, which heals it
 *     drop       rows of the damaged packs, to which nothing points any more.
 *                Their files are then orphans, for gc
 *
 * Under the engine's lock there is no gc and no other repair; others may write,
 * commit and read. They see nothing but rows that turn, and chunks that are
 * absent: a commit that needs one of these is refused, and by its hold a writer
 * that begins later stores it again.
 *
 * What a newer program wrote is no damage, and that it cannot be read here says
 * nothing: such a store is left as it is.
 *
 * A manifest whose snapshot was deleted is not moved, lest it come behind its
 * tombstone; its row goes. A tombstone whose manifest is a snapshot again goes
 * as well. One that cannot be read goes; should the index be rebuilt before gc
 * removed the manifest, that snapshot would be back.
 */

#include "common/clock.h"
#include "common/fault.h"

#include <stdlib.h>
#include <string.h>

struct mend {
    struct repair *repair;
    struct store *store;
    struct verify verify;
    struct id_set live;       /* manifests of snapshots */
    struct index_chunk *rows; /* that point into damaged packs */
    size_t row_count;
    size_t row_capacity;
    struct index_lost *lose;
    size_t lose_count;
    size_t lose_capacity;
};

/* ---- what is there ---------------------------------------------------- */

static int list_live(struct mend *m, struct vn_err *err)
{
    struct index_snapshots step = {.index = m->store->index};
    const struct index_snapshot *row;
    int more;

    while ((more = index_next_snapshot(&step, &row, err)) > 0)
        id_set_add(&m->live, &row->id);
    return more;
}

static void add_row(struct mend *m, const struct index_chunk *row)
{
    const struct verify_pack *pack =
        verify_pack_of(&m->verify, row->place.pack_id);

    if (!pack || !pack->damaged || verify_bad_find(&m->verify, &row->id))
        return;
    m->rows =
        repair_grown(m->rows, m->row_count, &m->row_capacity, sizeof(*m->rows));
    m->rows[m->row_count++] = *row;
}

static int by_place(const void *a, const void *b)
{
    const struct chunk_place *x = &((const struct index_chunk *)a)->place;
    const struct chunk_place *y = &((const struct index_chunk *)b)->place;

    if (x->pack_id != y->pack_id)
        return x->pack_id < y->pack_id ? -1 : 1;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* The rows that point into damaged packs and may be readable, pack by pack. */
static int list_rows(struct mend *m, struct vn_err *err)
{
    struct index_chunks step = {.index = m->store->index};
    const struct index_chunk *row;
    int more;

    while ((more = index_next_chunk(&step, &row, err)) > 0)
        add_row(m, row);
    if (m->row_count > 0)
        qsort(m->rows, m->row_count, sizeof(*m->rows), by_place);
    return more;
}

/* ---- evacuate --------------------------------------------------------- */

static void lose(struct mend *m, const struct chunk_id *id,
                 const struct chunk_place *place)
{
    bool forget = place->kind == CHUNK_TOMBSTONE ||
                  (place->kind == CHUNK_MANIFEST && !id_set_has(&m->live, id));

    m->lose = repair_grown(m->lose, m->lose_count, &m->lose_capacity,
                           sizeof(*m->lose));
    m->lose[m->lose_count++] =
        (struct index_lost){.id = *id,
                            .place = *place,
                            .found_s = clock_wall_ns() / (1000 * VN_MS),
                            .forget = forget};
}

/* Must the chunk not be moved? See above. */
static bool is_spent(struct mend *m, const struct index_chunk *row,
                     const uint8_t *data, size_t size)
{
    struct vn_err ignored = VN_ERR_INIT;
    struct tombstone t;

    if (row->place.kind == CHUNK_MANIFEST)
        return !id_set_has(&m->live, &row->id);
    return row->place.kind == CHUNK_TOMBSTONE &&
           (tombstone_decode(data, size, &t, &ignored) < 0 ||
            id_set_has(&m->live, &t.manifest));
}

static int evacuate_row(struct mend *m, struct mover *mover,
                        const struct index_chunk *row, struct vn_err *err)
{
    vn_auto(free) uint8_t *data = malloc(pack_raw_limit(row->place.kind) + 1);
    struct vn_err why = VN_ERR_INIT;
    uint64_t domain;
    size_t size;

    if (!data)
        return vn_fail(err, VN_E_LIMIT, "no memory for a chunk");
    if (chunk_read_at(m->store, (enum chunk_kind)row->place.kind, &row->id,
                      &row->place, data, &size, &domain, &why) < 0) {
        if (chunk_is_damage(&why) || why.code == VN_E_NOT_FOUND) {
            lose(m, &row->id, &row->place);
            return 0;
        }
        *err = why;
        return -1;
    }
    if (is_spent(m, row, data, size)) {
        lose(m, &row->id, &row->place);
        return 0;
    }
    return mover_add(mover, row, domain, data, size, err);
}

static int evacuate(struct mend *m, struct vn_err *err)
{
    struct mover mover;
    int result = 0;

    mover_init(&mover, m->repair, m->store, false);
    for (size_t i = 0; result == 0 && i < m->row_count; i++)
        result = evacuate_row(m, &mover, &m->rows[i], err);
    if (result == 0)
        result = mover_flush(&mover, err);
    mover_done(&mover);
    return result < 0 ? vn_wrap(err, "moving chunks out of damaged packs") : 0;
}

/* ---- lose ------------------------------------------------------------- */

/* All that verify could not read. It may be that a reading failed that does
 * not fail now: such a chunk stays. */
static int lose_bad(struct mend *m, struct mover *mover, struct vn_err *err)
{
    const struct verify_table *t = &m->verify.table;

    for (size_t i = 0; i < t->size; i++) {
        const struct verify_slot *slot = &t->slots[i];
        const struct index_chunk row = {.id = slot->id, .place = slot->place};

        if (chunk_id_is_zero(&slot->id))
            continue;
        if (slot->place.stored_size == 0)
            lose(m, &slot->id, &slot->place);
        else if (evacuate_row(m, mover, &row, err) < 0)
            return -1;
    }
    return mover_flush(mover, err);
}

static int lose_all(struct mend *m, struct vn_err *err)
{
    struct mover mover;
    size_t count = 0;
    int result;

    mover_init(&mover, m->repair, m->store, false);
    result = lose_bad(m, &mover, err);
    mover_done(&mover);
    if (result < 0)
        return -1;
    if (m->lose_count > 0 &&
        index_lose(m->store->index, m->lose, m->lose_count, &count, err) < 0)
        return -1;
    m->repair->counts.chunks_lost = count;
    return 0;
}

/* ---- drop ------------------------------------------------------------- */

static int drop(struct mend *m, struct vn_err *err)
{
    vn_auto(free) uint64_t *ids =
        vn_alloc((m->verify.pack_count + 1) * sizeof(*ids));
    size_t count = 0;

    for (size_t i = 0; i < m->verify.pack_count; i++)
        if (m->verify.packs[i].damaged)
            ids[count++] = m->verify.packs[i].id;
    return index_drop_packs(m->store->index, ids, count, err);
}

static int count_lost(struct mend *m, struct vn_err *err)
{
    vn_auto(free) struct index_lost *lost = NULL;
    size_t count;

    if (index_list_lost(m->store->index, &lost, &count, err) < 0)
        return -1;
    m->repair->counts.lost = count;
    return 0;
}

/* ---- the whole -------------------------------------------------------- */

static void count_damage(struct mend *m)
{
    struct store_repair_counts *c = &m->repair->counts;

    c->findings += m->verify.findings;
    for (size_t i = 0; i < m->verify.pack_count; i++)
        c->packs_damaged += m->verify.packs[i].damaged;
}

static int change(struct mend *m, struct vn_err *err)
{
    vn_auto(free) char *half = vn_format("%s/index.new", m->store->path);

    /* Of a rebuild that was killed: nobody rebuilds under the lock. */
    if (repair_remove_index(half, err) < 0)
        return -1;
    verify_state_remove(m->store->path);
    if (list_live(m, err) < 0)
        return -1;
    if (m->verify.mend_names && index_mend_snapshots(m->store->index, err) < 0)
        return -1;
    if (m->repair->counts.packs_damaged > 0 &&
        (list_rows(m, err) < 0 || evacuate(m, err) < 0))
        return -1;
    if (lose_all(m, err) < 0 ||
        repair_salvage(m->repair, m->store, &m->live, err) < 0 ||
        drop(m, err) < 0)
        return -1;
    return count_lost(m, err);
}

/* What would be lost, if no other copy turns up. */
static int predict(struct mend *m, struct vn_err *err)
{
    m->repair->counts.chunks_lost = m->verify.table.count;
    return count_lost(m, err);
}

static int mend(struct mend *m, struct vn_err *err)
{
    if (verify_run(&m->verify, err) < 0)
        return vn_wrap(err, "verifying");
    count_damage(m);
    if (m->verify.newer && !m->repair->opts->dry_run)
        return vn_fail(err, VN_E_VERSION,
                       "it has packs or snapshots of a newer format; repair it "
                       "with the program that wrote them. Nothing was changed");
    return m->repair->opts->dry_run ? predict(m, err) : change(m, err);
}

int repair_mend(struct repair *r, struct vn_err *err)
{
    const struct store_verify_opts opts = {.finding = r->opts->finding,
                                           .detail = r->opts->detail,
                                           .progress = r->opts->progress,
                                           .context = r->opts->context};
    vn_auto(store) struct store *store = store_open(r->path, err);
    struct mend m = {.repair = r, .store = store};
    struct engine_lock *lock;
    int result;

    if (!store)
        return -1;
    lock = store_lock(store, true, r->opts->wait_ms, err);
    if (!lock)
        return -1;
    m.verify = (struct verify){.store = store, .opts = &opts};
    result = mend(&m, err);
    verify_done(&m.verify);
    id_set_done(&m.live);
    free(m.rows);
    free(m.lose);
    engine_unlock(lock);
    return result;
}
