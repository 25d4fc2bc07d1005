#include "bench_run.h"

/*
 * Verify of a whole store, warm: every pack is read, every chunk decoded and
 * held against its id, every map walked. The limit is the hash, on all cores;
 * decoding comes on top of it.
 */

static double verify_once(struct store *store)
{
    const struct store_verify_opts opts = {0};
    struct vn_err err = VN_ERR_INIT;
    uint64_t begin = clock_now_ns();
    uint64_t findings;

    if (store_verify(store, &opts, &findings, &err) < 0)
        die("%s", err.msg);
    if (findings)
        die("verify: there are %llu findings", (unsigned long long)findings);
    return bench_since(begin);
}

static void verify_runs(const struct bench *b, struct figure *f)
{
    struct store *store = bench_open_store(b, "verify");

    verify_once(store); /* now it is warm */
    for (unsigned i = 0; i < b->runs; i++) {
        runs_add(&f->runs, bench_rate((double)b->size, verify_once(store)));
        runs_add(&f->yardsticks[0].runs,
                 bench_rate((double)b->size, yard_blake3(b->image, b->size)));
    }
    store_close(store);
    figure_print(f);
}

void bench_verify(const struct bench *b)
{
    struct figure all = {.name = "verify.full",
                         .unit = "MB/s",
                         .yardsticks = {{.name = "cores x keyed BLAKE3",
                                         .factor = (double)b->cores}}};
    struct figure core = {.name = "verify.full.core",
                          .unit = "MB/s",
                          .yardsticks = {{.name = "keyed BLAKE3"}}};
    struct store *store = bench_new_store(b, "verify");

    bench_put(store, "a", b->image, b->size, NULL);
    store_close(store);
    verify_runs(b, &all);
    bench_threads(1);
    verify_runs(b, &core);
    bench_threads(0);
    bench_remove(b, "verify");
}
