#include "crash/states.h"

/*
 * What a crash may leave.
 *
 * Assumed of the disk and the file system:
 *   - fsync(file) and fdatasync(file) make all bytes and the size of the file
 *     durable that were written before, O_DSYNC a write by itself; fsync(dir)
 *     makes durable what was done to names in the directory. Nothing else is.
 *   - A sector, 512 bytes at a multiple of that, is written whole or not.
 *   - A rename is done or not.
 * Not assumed: any order between operations that were not synced, also of names
 * in one directory; that fsync(file) makes its name durable; that a size goes
 * with its bytes (a file may have grown, and hold zeros or garbage there);
 * anything about files that are mapped to be written (lock.mdb), which may be
 * gone, old or garbled, or about files that are never synced (the registry of
 * holds).
 *
 * That is weaker than any file system of today. ext4 with data=ordered, the
 * usual one, keeps all changes of names and sizes in the order in which they
 * were made, its journal being a log, and writes new bytes before the size that
 * covers them; XFS and btrfs are similar. STATE_PREFIX and STATE_ORDERED are
 * what such a journal may leave (the latter with more freedom for bytes), and
 * STATE_SUBSET and STATE_TORN what POSIX allows beyond it. The store has to
 * stand all of them.
 *
 * Where few operations are pending all subsets of them are made.
 */

#include "common/auto.h"

#include <stdlib.h>
#include <string.h>

#define EXHAUSTIVE_MAX 3u /* 2^n subsets up to here */

const char *const state_kind_names[STATE_KINDS] = {
    "all",    "none",    "drop-one", "only-one",
    "prefix", "ordered", "subset",   "torn",
};

struct states {
    const struct oplog *log;
    unsigned forget;
    uint64_t seed;
    unsigned rounds;
    size_t point;
    bool *durable;   /* one an operation */
    size_t *pending; /* those that are not, in order */
    size_t pending_count;
    size_t *loose; /* pending too, of files that are never synced */
    size_t loose_count;
    size_t journal; /* names before are durable where there is a journal */
    uint8_t *fates;
};

struct states *states_new(const struct oplog *log, unsigned forget,
                          uint64_t seed, unsigned rounds)
{
    struct states *s = vn_alloc(sizeof(*s));
    size_t n = log->op_count + 1;

    *s = (struct states){
        .log = log, .forget = forget, .seed = seed, .rounds = rounds};
    s->durable = vn_alloc(n * sizeof(*s->durable));
    s->pending = vn_alloc(n * sizeof(*s->pending));
    s->loose = vn_alloc(n * sizeof(*s->loose));
    s->fates = vn_alloc(n);
    return s;
}

void states_free(struct states *states)
{
    if (!states)
        return;
    free(states->durable);
    free(states->pending);
    free(states->loose);
    free(states->fates);
    free(states);
}

/* ---- what is durable -------------------------------------------------- */

static bool ends(const char *text, const char *end)
{
    size_t a = strlen(text);
    size_t b = strlen(end);

    return a >= b && strcmp(text + a - b, end) == 0;
}

static bool is_forgotten(const struct states *s, uint32_t node)
{
    const struct oplog_node *n = &s->log->nodes[node];

    if (n->is_dir)
        return s->forget &
               (strspn(n->name, "0123456789abcdef") == 9 ? FORGET_FOLDERS
                                                         : FORGET_NAMES);
    return (s->forget & FORGET_PACKS && ends(n->name, ".pack")) ||
           (s->forget & FORGET_INDEX && strcmp(n->name, "data.mdb") == 0) ||
           (s->forget & FORGET_CONFIG && strcmp(n->name, "config.json") == 0);
}

/* The sync at `at` is done: what does it make durable? */
static void sync_node(struct states *s, size_t at)
{
    const struct oplog_op *sync = &s->log->ops[at];
    bool all = sync->type == LOG_SYNC_ALL;
    bool is_dir = !all && s->log->nodes[sync->node].is_dir;

    if (!all && is_forgotten(s, sync->node))
        return;
    for (size_t i = 0; i < at; i++) {
        const struct oplog_op *op = &s->log->ops[i];
        bool name = oplog_is_name(op);

        if (name && (all || op->node == sync->node || op->dir == sync->node) &&
            s->journal <= i)
            s->journal = i + 1;
        if (all ||
            (name && is_dir &&
             (op->dir == sync->node || op->dir2 == sync->node)) ||
            (!name && op->node == sync->node))
            s->durable[i] = true;
    }
}

static bool is_loose(const struct states *s, const struct oplog_op *op)
{
    return !oplog_is_name(op) && !s->log->nodes[op->node].synced;
}

void states_move(struct states *s, size_t point)
{
    for (size_t i = s->point; i < point; i++)
        if (s->log->ops[i].type == LOG_SYNC_ALL ||
            (s->log->ops[i].type == LOG_SYNC &&
             s->log->ops[i].node != OPLOG_NONE))
            sync_node(s, i);
    s->point = point;
    s->pending_count = 0;
    s->loose_count = 0;
    for (size_t i = 0; i < point; i++) {
        const struct oplog_op *op = &s->log->ops[i];

        if (!oplog_changes(op) || s->durable[i] ||
            (!oplog_is_name(op) &&
             (op->node == OPLOG_NONE || s->log->nodes[op->node].mapped)))
            continue;
        if (is_loose(s, op))
            s->loose[s->loose_count++] = i;
        else
            s->pending[s->pending_count++] = i;
    }
}

/* ---- fates ------------------------------------------------------------ */

unsigned states_count(const struct states *s, enum state_kind kind)
{
    unsigned n = (unsigned)s->pending_count;

    switch (kind) {
    case STATE_ALL:
    case STATE_NONE:
        return 1;
    case STATE_DROP_ONE:
    case STATE_ONLY_ONE:
        return n > 1 ? n : 0;
    case STATE_PREFIX:
        return n > 0 ? n - 1 : 0;
    case STATE_SUBSET:
        if (n <= EXHAUSTIVE_MAX)
            return 1u << n;
        return 2 * s->rounds;
    default:
        return n > 0 ? s->rounds : 1;
    }
}

static void set_pending(struct states *s, size_t from, size_t to, enum fate f)
{
    for (size_t i = from; i < to; i++)
        s->fates[s->pending[i]] = (uint8_t)f;
}

/* Some are lost, each by itself; in the kind "torn" writes are torn too. */
static void set_random(struct states *s, enum state_kind kind,
                       const size_t *ops, size_t count, uint64_t random)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t x = tree_mix(random, ops[i]);
        enum fate fate = x & 1 ? FATE_DONE : FATE_LOST;

        if (kind == STATE_TORN && x & 6 &&
            s->log->ops[ops[i]].type == LOG_WRITE)
            fate = x & 8 ? FATE_TORN_512 : FATE_TORN_4096;
        s->fates[ops[i]] = (uint8_t)fate;
    }
}

/* Of the names all up to one that the journal has at least. */
static void set_ordered(struct states *s, uint64_t random)
{
    size_t end;

    set_random(s, STATE_ORDERED, s->pending, s->pending_count, random);
    end = s->journal + random % (s->point - s->journal + 1);
    for (size_t i = 0; i < s->pending_count; i++)
        if (oplog_is_name(&s->log->ops[s->pending[i]]))
            s->fates[s->pending[i]] =
                s->pending[i] < end ? FATE_DONE : FATE_LOST;
}

static void set_subset(struct states *s, unsigned number, uint64_t random)
{
    if (s->pending_count > EXHAUSTIVE_MAX) {
        set_random(s, STATE_SUBSET, s->pending, s->pending_count, random);
        return;
    }
    for (size_t i = 0; i < s->pending_count; i++)
        s->fates[s->pending[i]] = number >> i & 1;
}

const uint8_t *states_make(struct states *s, enum state_kind kind,
                           unsigned number, uint64_t *ret_seed)
{
    uint64_t random =
        tree_mix(tree_mix(s->seed, s->point), kind * 1000003ull + number);
    size_t n = s->pending_count;

    for (size_t i = 0; i < s->point; i++)
        s->fates[i] = s->durable[i] ? FATE_DONE : FATE_LOST;
    set_random(s, kind, s->loose, s->loose_count, random);
    *ret_seed = random | 1;
    switch (kind) {
    case STATE_ALL:
        set_pending(s, 0, n, FATE_DONE);
        for (size_t i = 0; i < s->loose_count; i++)
            s->fates[s->loose[i]] = FATE_DONE;
        *ret_seed = 0;
        break;
    case STATE_DROP_ONE:
        set_pending(s, 0, n, FATE_DONE);
        s->fates[s->pending[number]] = FATE_LOST;
        break;
    case STATE_ONLY_ONE:
        s->fates[s->pending[number]] = FATE_DONE;
        break;
    case STATE_PREFIX:
        set_pending(s, 0, number + 1, FATE_DONE);
        break;
    case STATE_ORDERED:
        set_ordered(s, random);
        break;
    case STATE_SUBSET:
        set_subset(s, number, random);
        break;
    case STATE_TORN:
        set_random(s, kind, s->pending, n, random);
        break;
    default:
        break;
    }
    return s->fates;
}
