/*
 * The index at scale: what it takes to enter, find, miss and collect chunks.
 *
 *     perf_store_index [CHUNKS [BATCH [DIR]]]   1000000, 1048576, /tmp
 *
 * One JSON line a measurement. "yardstick" is what the same machine does at the
 * same time with the same data in the simplest form: for entering, LMDB with
 * rising keys into an empty file (MDB_APPEND, one transaction a batch); for
 * looking up, binary search in a sorted array of the rows, in RAM. Half of the
 * packs are then collected, each second one.
 */
#include "common/auto.h"
#include "common/clock.h"
#include "store/index.h"

#include <ftw.h>
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PACK_CHUNKS 2048u
#define SWEEP_BATCH 32768u
#define LIST_BATCH  8192u

static struct {
    uint64_t count;
    uint64_t batch;
    char dir[256];
    char other[300]; /* the yardstick's environment */
    struct index *index;
    struct chunk_id *all; /* sorted */
} b;

static const uint8_t store_id[16] = "perf store index";

static void die(const char *what)
{
    fprintf(stderr, "perf_store_index: %s\n", what);
    exit(1);
}

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

/* Chunk number i of the run; those from b.count on are not stored. */
static struct chunk_id id_of(uint64_t i)
{
    uint64_t words[2] = {mix(2 * i), mix(2 * i + 1)};
    struct chunk_id id;

    memcpy(id.bytes, words, sizeof(id.bytes));
    return id;
}

static int by_id(const void *x, const void *y)
{
    return memcmp(x, y, sizeof(struct chunk_id));
}

static double since(uint64_t begin)
{
    return (double)(clock_now_ns() - begin) / 1e9;
}

static void print_rate(const char *what, uint64_t count, double seconds,
                       double yardstick)
{
    printf("{\"what\":\"%s\",\"chunks\":%llu,\"per_s\":%.0f,"
           "\"yardstick_per_s\":%.0f}\n",
           what, (unsigned long long)count, (double)count / seconds, yardstick);
    fflush(stdout);
}

static void print_space(const char *when)
{
    struct vn_err err = VN_ERR_INIT;
    struct index_stats stats;

    if (index_stats(b.index, &stats, &err) < 0)
        die(err.msg);
    printf("{\"what\":\"space %s\",\"chunks\":%llu,\"used_per_chunk\":%.1f,"
           "\"disk_per_chunk\":%.1f,\"yardstick_per_chunk\":42}\n",
           when, (unsigned long long)stats.chunks,
           (double)stats.bytes / (double)stats.chunks,
           (double)stats.bytes_disk / (double)stats.chunks);
    fflush(stdout);
}

/* ---- entering --------------------------------------------------------- */

static double append_rate(void)
{
    uint64_t begin = clock_now_ns();
    uint8_t place[16] = {1};
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi dbi;

    if (mdb_env_create(&env) || mdb_env_set_mapsize(env, 1ull << 40) ||
        mdb_env_open(env, b.other, MDB_NOSUBDIR, 0600))
        die("yardstick");
    for (uint64_t i = 0; i < b.count; i += b.batch) {
        if (mdb_txn_begin(env, NULL, 0, &txn) ||
            mdb_dbi_open(txn, NULL, 0, &dbi))
            die("yardstick");
        for (uint64_t k = i; k < i + b.batch && k < b.count; k++) {
            MDB_val key = {sizeof(b.all[k]), &b.all[k]};
            MDB_val value = {sizeof(place), place};

            if (mdb_put(txn, dbi, &key, &value, MDB_APPEND))
                die("yardstick");
        }
        if (mdb_txn_commit(txn))
            die("yardstick");
    }
    mdb_env_close(env);
    unlink(b.other);
    return (double)b.count / since(begin);
}

static void make_batch(struct index_chunk *chunks, uint64_t first, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        chunks[i] = (struct index_chunk){
            .id = id_of(first + i),
            .place = {.pack_id = 1 + (first + i) / PACK_CHUNKS,
                      .offset = (uint32_t)(64 + i),
                      .stored_size = 2000,
                      .kind = 1,
                      .codec = 1}};
    qsort(chunks, n, sizeof(*chunks), by_id);
}

static void enter(double yardstick)
{
    struct index_chunk *chunks = calloc(b.batch, sizeof(*chunks));
    struct index_pack *packs =
        calloc(b.batch / PACK_CHUNKS + 2, sizeof(*packs));
    struct vn_err err = VN_ERR_INIT;
    double seconds = 0;
    double last = 0;

    for (uint64_t first = 0; first < b.count; first += b.batch) {
        uint64_t n = b.count - first < b.batch ? b.count - first : b.batch;
        uint64_t begin;
        size_t p = 0;

        make_batch(chunks, first, n);
        for (uint64_t i = first; i < first + n; i += PACK_CHUNKS)
            packs[p++] = (struct index_pack){.id = 1 + i / PACK_CHUNKS,
                                             .size = 8u << 20,
                                             .count = PACK_CHUNKS};
        begin = clock_now_ns();
        if (index_add(b.index, packs, p, chunks, n, &err) < 0)
            die(err.msg);
        last = since(begin);
        seconds += last;
        if (first + n >= b.count)
            print_rate("insert, last batch", n, last, yardstick);
    }
    print_rate("insert, all", b.count, seconds, yardstick);
    free(chunks);
    free(packs);
}

/* ---- looking up ------------------------------------------------------- */

static double search_rate(const struct chunk_id *ids, size_t count)
{
    uint64_t begin = clock_now_ns();
    size_t found = 0;

    for (size_t i = 0; i < count; i++)
        found += bsearch(&ids[i], b.all, b.count, sizeof(*b.all), by_id) != 0;
    return found <= count ? (double)count / since(begin) : 0;
}

/* Sorted batches of ids that are there, or of others. */
static void look_up(size_t batch, bool there, bool known)
{
    size_t total = b.count < 1u << 20 ? b.count : 1u << 20;
    struct chunk_id *ids = calloc(total, sizeof(*ids));
    struct chunk_place *places = calloc(batch, sizeof(*places));
    struct vn_err err = VN_ERR_INIT;
    uint64_t begin;
    double seconds;
    size_t found = 0;
    char what[64];

    for (size_t i = 0; i < total; i++)
        ids[i] = id_of(there ? mix(i + batch) % b.count : b.count + i);
    for (size_t i = 0; i < total; i += batch)
        qsort(ids + i, total - i < batch ? total - i : batch, sizeof(*ids),
              by_id);
    begin = clock_now_ns();
    for (size_t i = 0; i < total; i += batch) {
        size_t n = total - i < batch ? total - i : batch;
        int result = known ? index_find_known(b.index, ids + i, n, places, &err)
                           : index_find(b.index, ids + i, n, places, &err);

        if (result < 0)
            die(err.msg);
        for (size_t k = 0; k < n; k++)
            found += places[k].stored_size > 0;
    }
    seconds = since(begin);
    if (found != (there ? total : 0))
        die("found what is not there, or not what is");
    snprintf(what, sizeof(what), "%s%s, batches of %zu", there ? "hit" : "miss",
             known ? " as known" : "", batch);
    print_rate(what, total, seconds, search_rate(ids, total));
    free(ids);
    free(places);
}

static void look_ups(void)
{
    static const size_t batches[] = {512, 4096, 65536};

    for (size_t i = 0; i < VN_COUNT(batches); i++) {
        look_up(batches[i], true, false);
        look_up(batches[i], true, true);
        look_up(batches[i], false, false);
        look_up(batches[i], false, true);
    }
}

/* ---- collection ------------------------------------------------------- */

static void sweep_rows(const uint64_t *ids, size_t packs)
{
    struct index_chunk *rows = calloc(LIST_BATCH, sizeof(*rows));
    struct index_chunk *dead = calloc(SWEEP_BATCH + LIST_BATCH, sizeof(*dead));
    struct vn_err err = VN_ERR_INIT;
    struct chunk_id last;
    size_t deleted;
    size_t n = 0;
    size_t count;
    bool begun = false;

    (void)ids;
    (void)packs;
    do {
        if (index_list_chunks(b.index, begun ? &last : NULL, LIST_BATCH, rows,
                              &count, &err) < 0)
            die(err.msg);
        for (size_t i = 0; i < count; i++)
            if (rows[i].place.pack_id % 2)
                dead[n++] = rows[i];
        if (count)
            last = rows[count - 1].id;
        begun = true;
        if (n >= SWEEP_BATCH || count < LIST_BATCH) {
            if (index_sweep_chunks(b.index, dead, n, &deleted, &err) < 0)
                die(err.msg);
            n = 0;
        }
    } while (count == LIST_BATCH);
    free(rows);
    free(dead);
}

static void collect(void)
{
    size_t packs = 0;
    uint64_t *ids = calloc(b.count / PACK_CHUNKS + 2, sizeof(*ids));
    struct vn_err err = VN_ERR_INIT;
    uint64_t begin;
    uint64_t count;
    uint64_t bytes;
    size_t swept;

    for (uint64_t id = 1; id <= 1 + (b.count - 1) / PACK_CHUNKS; id += 2)
        ids[packs++] = id;
    print_space("before gc");
    begin = clock_now_ns();
    if (index_condemn(b.index, ids, packs, 1, &err) < 0)
        die(err.msg);
    sweep_rows(ids, packs);
    if (index_sweep_packs(b.index, ids, packs, ids, &swept, &err) < 0)
        die(err.msg);
    print_rate("sweep, rows looked at", b.count, since(begin), 0);
    print_space("after sweep");
    begin = clock_now_ns();
    if (index_compact(b.index, &count, &err) < 0)
        die(err.msg);
    print_rate("compact", count, since(begin), 0);
    print_space("after compact");
    begin = clock_now_ns();
    index_punch(b.index, &bytes);
    printf("{\"what\":\"punch\",\"mib\":%llu,\"seconds\":%.3f}\n",
           (unsigned long long)(bytes >> 20), since(begin));
    print_space("after punch");
    begin = clock_now_ns();
    index_known_refresh(b.index, b.count / 2);
    print_rate("filter made anew", b.count / 2, since(begin), 0);
    free(ids);
}

/* ---- */

static void reopen(void)
{
    struct vn_err err = VN_ERR_INIT;
    uint64_t begin;

    index_close(b.index);
    begin = clock_now_ns();
    b.index = index_open(b.dir, store_id, &err);
    if (!b.index)
        die(err.msg);
    printf("{\"what\":\"open\",\"seconds\":%.6f}\n", since(begin));
}

static int remove_one(const char *path, const struct stat *st, int type,
                      struct FTW *where)
{
    (void)st;
    (void)type;
    (void)where;
    return remove(path);
}

int main(int argc, char **argv)
{
    struct vn_err err = VN_ERR_INIT;

    b.count = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000000;
    b.batch = argc > 2 ? strtoull(argv[2], NULL, 10) : 1u << 20;
    snprintf(b.dir, sizeof(b.dir), "%.200s/vnstore-perf-XXXXXX",
             argc > 3 ? argv[3] : "/tmp");
    if (b.count == 0 || b.batch == 0 || !mkdtemp(b.dir))
        die("usage: perf_store_index [CHUNKS [BATCH [DIR]]]");
    snprintf(b.other, sizeof(b.other), "%s/yardstick", b.dir);
    b.all = calloc(b.count, sizeof(*b.all));
    for (uint64_t i = 0; i < b.count; i++)
        b.all[i] = id_of(i);
    qsort(b.all, b.count, sizeof(*b.all), by_id);
    if (index_init(b.dir, store_id, &err) < 0 ||
        !(b.index = index_open(b.dir, store_id, &err)))
        die(err.msg);
    enter(append_rate());
    reopen();
    look_ups();
    collect();
    reopen();
    index_close(b.index);
    nftw(b.dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(b.all);
    return 0;
}
