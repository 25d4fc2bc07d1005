/*
 * Crash replay: makes the states that a crash may leave (states.c) at every
 * point of a recorded log, and holds each against what the store has promised
 * (check.c).
 *
 *     crash_replay [--OPTION=VALUE...] LOG DIR
 *
 * DIR is where the workload ran, and is compared with the replay of the whole
 * log first, so that nothing the recorder did not see goes unnoticed.
 *
 *     --seed=N       what is random (1)
 *     --rounds=N     states of each random kind a point (4)
 *     --every=N      every Nth point only (1)
 *     --seconds=N    stop after so long (0: never)
 *     --workers=N    processes (2)
 *     --scratch=DIR  where states are made (/dev/shm, else /tmp)
 *     --forget=WHAT  without the syncs of packs, folders, index, config, names
 *     --state=POINT:KIND:NUMBER  this state only, telling what is lost
 *
 * Several processes go through the same states and each checks those whose
 * number falls to it; a state that came before is left out. Exit status 1, and
 * its recipe, for a state that fails; it is kept, as it was before the check.
 */

#include "crash/check.h"
#include "crash/oplog.h"
#include "crash/states.h"
#include "crash/tree.h"

#include "common/auto.h"
#include "common/clock.h"

#include <errno.h>
#include <ftw.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORKERS_MAX 16u

struct recipe {
    size_t point;
    enum state_kind kind;
    unsigned number;
};

/* Of one worker, in memory that the parent sees, also when it has died. */
struct report {
    struct recipe now;
    uint64_t checked[STATE_KINDS];
    uint64_t repeated;
    bool failed;
    char why[VN_ERR_MSG_SIZE];
};

struct options {
    uint64_t seed;
    unsigned rounds;
    unsigned every;
    unsigned seconds;
    unsigned workers;
    unsigned forget;
    char *scratch; /* a directory of our own */
    const char *store;
    bool one;
    struct recipe only;
};

struct replay {
    const struct options *opts;
    const struct oplog *log;
    struct tree *tree;
    struct states *states;
    struct report *report;
    unsigned worker;
    uint64_t *seen; /* hashes of states; 0: free */
    size_t seen_size;
    size_t seen_count;
    char *dir;
    uint64_t end_ns;
};

/* ---- one state -------------------------------------------------------- */

static int remove_one(const char *path, const struct stat *st, int type,
                      struct FTW *where)
{
    (void)st;
    (void)type;
    (void)where;
    return remove(path);
}

static void remove_tree(const char *path)
{
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* True: it was there already. */
static bool see(struct replay *r, uint64_t hash)
{
    size_t slot;

    if (2 * r->seen_count >= r->seen_size) {
        uint64_t *old = r->seen;
        size_t old_size = r->seen_size;

        r->seen_size = old_size ? 2 * old_size : 4096;
        r->seen = vn_alloc(r->seen_size * sizeof(*r->seen));
        r->seen_count = 0;
        for (size_t i = 0; i < old_size; i++)
            if (old[i])
                see(r, old[i]);
        free(old);
    }
    slot = hash & (r->seen_size - 1);
    for (; r->seen[slot]; slot = (slot + 1) & (r->seen_size - 1))
        if (r->seen[slot] == hash)
            return true;
    r->seen[slot] = hash ? hash : 1;
    r->seen_count++;
    return false;
}

static size_t marks_before(const struct oplog *log, size_t point)
{
    size_t count = 0;

    for (size_t i = 0; i < point; i++)
        count += log->ops[i].type == LOG_MARK;
    return count;
}

static int make_and_check(struct replay *r, struct vn_err *err)
{
    vn_auto(free) char *store = vn_format("%s/%s", r->dir, r->opts->store);

    remove_tree(r->dir);
    if (tree_write(r->tree, r->dir, err) < 0)
        return -1;
    return check_store(r->log, r->report->now.point, store, err);
}

/* Build the state; check it if it is ours and new. */
static int do_state(struct replay *r, struct recipe recipe, struct vn_err *err)
{
    uint64_t seed;
    const uint8_t *fates =
        states_make(r->states, recipe.kind, recipe.number, &seed);
    uint64_t hash;

    tree_build(r->tree, recipe.point, fates, seed);
    hash = tree_mix(tree_hash(r->tree), marks_before(r->log, recipe.point));
    if (!r->opts->one && (hash >> 40) % r->opts->workers != r->worker)
        return 0;
    if (see(r, hash)) {
        r->report->repeated++;
        return 0;
    }
    r->report->now = recipe;
    if (make_and_check(r, err) < 0)
        return -1;
    r->report->checked[recipe.kind]++;
    return 0;
}

/* ---- all of them ------------------------------------------------------ */

static int do_point(struct replay *r, size_t point, struct vn_err *err)
{
    states_move(r->states, point);
    for (unsigned kind = 0; kind < STATE_KINDS; kind++)
        for (unsigned i = 0; i < states_count(r->states, kind); i++)
            if (do_state(
                    r,
                    (struct recipe){.point = point, .kind = kind, .number = i},
                    err) < 0)
                return -1;
    return 0;
}

static int do_all(struct replay *r, struct vn_err *err)
{
    const struct options *o = r->opts;

    for (size_t point = 1 + o->seed % o->every; point <= r->log->op_count;
         point += o->every) {
        if (r->end_ns && clock_now_ns() > r->end_ns) {
            printf("out of time at operation %zu\n", point);
            break;
        }
        if (do_point(r, point, err) < 0)
            return -1;
    }
    return 0;
}

static int do_one(struct replay *r, struct vn_err *err)
{
    const struct recipe *only = &r->opts->only;
    const uint8_t *fates;
    uint64_t seed;

    states_move(r->states, only->point);
    if (only->number >= states_count(r->states, only->kind))
        return vn_fail(err, VN_E_LIMIT, "there is no such state");
    fates = states_make(r->states, only->kind, only->number, &seed);
    for (size_t i = 0; i < only->point; i++) {
        char line[200];

        oplog_describe(r->log, i, line);
        if (fates[i] != FATE_DONE && oplog_changes(&r->log->ops[i]))
            printf("  %s: %s\n", fates[i] == FATE_LOST ? "lost" : "torn", line);
    }
    return do_state(r, *only, err);
}

static struct replay replay_of(const struct options *opts,
                               const struct oplog *log, struct tree *tree,
                               struct report *report, unsigned worker)
{
    return (struct replay){
        .opts = opts,
        .log = log,
        .tree = tree,
        .states = states_new(log, opts->forget, opts->seed, opts->rounds),
        .report = report,
        .worker = worker,
        .dir = vn_format("%s/%u", opts->scratch, worker),
        .end_ns = opts->seconds ? clock_now_ns() + opts->seconds * VN_SEC : 0};
}

static void work(struct replay *r)
{
    struct vn_err err = VN_ERR_INIT;

    if ((r->opts->one ? do_one : do_all)(r, &err) < 0) {
        r->report->failed = true;
        snprintf(r->report->why, sizeof(r->report->why), "%s", err.msg);
    }
    remove_tree(r->dir);
    states_free(r->states);
    free(r->seen);
    free(r->dir);
}

/* ---- results ---------------------------------------------------------- */

/* Make it once more, to look at; the check has changed it. */
static void keep_state(const struct options *opts, const struct oplog *log,
                       struct tree *tree, const struct report *report)
{
    struct replay r = replay_of(opts, log, tree, NULL, 99);
    const struct recipe *now = &report->now;
    struct vn_err err = VN_ERR_INIT;
    const uint8_t *fates;
    uint64_t seed;
    char line[200];

    states_move(r.states, now->point);
    fates = states_make(r.states, now->kind, now->number, &seed);
    tree_build(tree, now->point, fates, seed);
    oplog_describe(log, now->point - 1, line);
    printf("FAILED --state=%zu:%s:%u --seed=%" PRIu64 " --rounds=%u: %s\n"
           "  after %s\n",
           now->point, state_kind_names[now->kind], now->number, opts->seed,
           opts->rounds, report->why, line);
    if (tree_write(tree, r.dir, &err) == 0)
        printf("  kept: %s\n", r.dir);
    states_free(r.states);
    free(r.dir);
}

static void print_counts(const struct report *reports, unsigned workers)
{
    uint64_t total = 0;
    uint64_t repeated = 0;

    for (unsigned kind = 0; kind < STATE_KINDS; kind++) {
        uint64_t count = 0;

        for (unsigned w = 0; w < workers; w++)
            count += reports[w].checked[kind];
        printf("%s%s %" PRIu64,
               kind ? ", " : "states: ", state_kind_names[kind], count);
        total += count;
    }
    for (unsigned w = 0; w < workers; w++)
        repeated += reports[w].repeated;
    printf("; %" PRIu64 " in all, %" PRIu64 " more were repetitions\n", total,
           repeated);
}

static int run(const struct options *opts, const struct oplog *log,
               struct tree *tree)
{
    struct report *reports =
        mmap(NULL, WORKERS_MAX * sizeof(*reports), PROT_READ | PROT_WRITE,
             MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t children[WORKERS_MAX];
    int result = 0;

    fflush(stdout);
    for (unsigned w = 0; w < opts->workers; w++) {
        children[w] = fork();
        if (children[w] == 0) {
            struct replay r = replay_of(opts, log, tree, &reports[w], w);

            work(&r);
            fflush(stdout);
            _exit(reports[w].failed ? 1 : 0);
        }
    }
    for (unsigned w = 0; w < opts->workers; w++) {
        int status = 0;

        waitpid(children[w], &status, 0);
        if (status == 0)
            continue;
        if (!WIFEXITED(status) || !reports[w].failed)
            snprintf(reports[w].why, sizeof(reports[w].why),
                     "the checker died, status %#x", status);
        if (result == 0)
            keep_state(opts, log, tree, &reports[w]);
        result = 1;
    }
    print_counts(reports, opts->workers);
    munmap(reports, WORKERS_MAX * sizeof(*reports));
    return result;
}

/* ---- options ---------------------------------------------------------- */

static const char *const forget_names[] = {"packs", "folders", "index",
                                           "config", "names"};

static unsigned parse_forget(const char *text)
{
    for (unsigned i = 0; i < VN_COUNT(forget_names); i++)
        if (strcmp(text, forget_names[i]) == 0)
            return 1u << i;
    fprintf(stderr, "crash_replay: nothing is called '%s'\n", text);
    exit(64);
}

static struct recipe parse_recipe(const char *text)
{
    struct recipe recipe = {0};
    char kind[32] = "";

    if (sscanf(text, "%zu:%31[^:]:%u", &recipe.point, kind, &recipe.number) ==
            3 &&
        recipe.point > 0)
        for (unsigned i = 0; i < STATE_KINDS; i++)
            if (strcmp(kind, state_kind_names[i]) == 0) {
                recipe.kind = i;
                return recipe;
            }
    fprintf(stderr, "crash_replay: '%s' is not POINT:KIND:NUMBER\n", text);
    exit(64);
}

static void parse(int argc, char **argv, struct options *o)
{
    static const struct option names[] = {
        {"seed", 1, NULL, 's'},    {"rounds", 1, NULL, 'r'},
        {"every", 1, NULL, 'e'},   {"seconds", 1, NULL, 't'},
        {"workers", 1, NULL, 'w'}, {"scratch", 1, NULL, 'd'},
        {"forget", 1, NULL, 'f'},  {"state", 1, NULL, 'x'},
        {NULL, 0, NULL, 0}};
    const char *scratch = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    int c;

    while ((c = getopt_long(argc, argv, "", names, NULL)) != -1) {
        unsigned number = optarg ? (unsigned)strtoul(optarg, NULL, 10) : 0;

        if (c == 's')
            o->seed = strtoull(optarg, NULL, 10);
        else if (c == 'r')
            o->rounds = number;
        else if (c == 'e')
            o->every = number ? number : 1;
        else if (c == 't')
            o->seconds = number;
        else if (c == 'w')
            o->workers = number < 1 ? 1 : number > WORKERS_MAX ? 1 : number;
        else if (c == 'd')
            scratch = optarg;
        else if (c == 'f')
            o->forget |= parse_forget(optarg);
        else if (c == 'x')
            o->only = parse_recipe(optarg);
        else
            exit(64);
    }
    o->one = o->only.point > 0;
    if (o->one)
        o->workers = 1;
    if (argc != optind + 2)
        exit(64);
    o->scratch = vn_format("%s/vn-crash-XXXXXX", scratch);
}

/* The replay of everything is what the workload has left. */
static int check_record(const struct oplog *log, struct tree *tree,
                        struct vn_err *err)
{
    vn_auto(free) uint8_t *all = vn_alloc(log->op_count + 1);

    memset(all, FATE_DONE, log->op_count);
    tree_build(tree, log->op_count, all, 0);
    return tree_compare(tree, err);
}

int main(int argc, char **argv)
{
    struct options opts = {
        .seed = 1, .rounds = 4, .every = 1, .workers = 2, .store = "store"};
    struct vn_err err = VN_ERR_INIT;
    struct oplog *log = NULL;
    struct tree *tree = NULL;
    int result = 1;

    parse(argc, argv, &opts);
    log = oplog_load(argv[optind], &err);
    if (log)
        tree = tree_new(log, argv[optind + 1], &err);
    if (!tree || check_record(log, tree, &err) < 0) {
        fprintf(stderr, "crash_replay: %s\n", err.msg);
    } else if (opts.only.point > log->op_count || !mkdtemp(opts.scratch)) {
        fprintf(stderr, "crash_replay: %s\n", strerror(errno));
    } else {
        printf("%zu operations on %zu files, seed %" PRIu64 "\n", log->op_count,
               log->node_count, opts.seed);
        result = run(&opts, log, tree);
        rmdir(opts.scratch);
    }
    tree_free(tree);
    oplog_free(log);
    free(opts.scratch);
    return result;
}
