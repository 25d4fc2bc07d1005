/*
 * sim_cut: the simulator's command. Exit status 0: all seeds are fine (with
 * --mutants: each mutant was caught), 1: a seed failed, 64: usage.
 */

#include "tests/sim/sim.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct totals {
    uint64_t runs, committed, aborted, events, recorded, missing, dropped,
        triggers;
};

static const char usage[] =
    "usage: sim_cut [OPTION]...\n"
    "Run the cut's state machines and switch in a simulated network.\n"
    "  --seeds=N     how many seeds (1000)\n"
    "  --first=S     the first seed (1)\n"
    "  --faults      processes crash, stall and lose connections, too\n"
    "  --mutant=NAME break the protocol deliberately; a failure is expected\n"
    "  --mutants     every mutant in turn must be caught within N seeds\n"
    "  --trace       all events of a failing seed, not only the last\n"
    "  --verbose     a line for each seed\n";

static void add(struct totals *t, const struct sim *s)
{
    t->runs++;
    t->committed += s->stats.committed;
    t->aborted += s->stats.aborted;
    t->events += s->stats.events;
    t->recorded += s->stats.recorded;
    t->missing += s->stats.missing;
    t->dropped += s->stats.dropped;
    t->triggers += s->stats.triggers;
}

/* The same seed again, with its trace. */
static void explain(struct sim *s, uint64_t seed, bool faults,
                    enum sim_mutant mutant)
{
    sim_run(s, seed, faults, mutant, true);
    if (!s->tracing_all)
        sim_trace_print(s);
    fprintf(stderr,
            "seed %" PRIu64 "%s: %s\n"
            "  %u hosts, %u VMs, %u messages; underlay: loss %u, "
            "duplication %u, reordering %u per mille\n",
            seed, faults ? " --faults" : "",
            s->failed ? s->why : "did not fail again", s->config.host_count,
            s->vm_count, s->msg_count, s->config.loss, s->config.duplication,
            s->config.reordering);
    sim_done(s);
}

/* How many seeds until one fails; 0: none did. */
static uint64_t run_seeds(struct sim *s, uint64_t first, uint64_t seeds,
                          bool faults, enum sim_mutant mutant, bool verbose,
                          struct totals *totals)
{
    for (uint64_t seed = first; seed < first + seeds; seed++) {
        bool failed;

        sim_run(s, seed, faults, mutant, false);
        failed = s->failed;
        add(totals, s);
        if (verbose)
            printf("seed %" PRIu64 ": %u hosts, %u VMs, %u committed, "
                   "%u aborted, %" PRIu64 " events: %s\n",
                   seed, s->config.host_count, s->vm_count, s->stats.committed,
                   s->stats.aborted, s->stats.events, failed ? s->why : "ok");
        sim_done(s);
        if (failed)
            return seed - first + 1;
    }
    return 0;
}

static int run_mutants(struct sim *s, uint64_t first, uint64_t seeds)
{
    int missed = 0;

    for (int m = SIM_MUTANT_NONE + 1; m < SIM_MUTANT_COUNT; m++) {
        struct totals totals = {0};
        uint64_t caught = run_seeds(s, first, seeds, true, (enum sim_mutant)m,
                                    false, &totals);

        printf("mutant %-13s ", sim_mutant_name((enum sim_mutant)m));
        if (caught > 0) {
            sim_run(s, first + caught - 1, true, (enum sim_mutant)m, false);
            printf("caught by seed %" PRIu64 ": %s\n", first + caught - 1,
                   s->why);
            sim_done(s);
        } else {
            printf("NOT CAUGHT in %" PRIu64 " seeds\n", seeds);
            missed++;
        }
    }
    return missed > 0;
}

static enum sim_mutant find_mutant(const char *name)
{
    for (int m = 0; m < SIM_MUTANT_COUNT; m++)
        if (strcmp(name, sim_mutant_name((enum sim_mutant)m)) == 0)
            return (enum sim_mutant)m;
    fprintf(stderr, "sim_cut: no mutant '%s'\n", name);
    exit(64);
}

static uint64_t parse_count(const char *text)
{
    char *end;
    uint64_t value;

    errno = 0;
    value = strtoull(text, &end, 10);
    if (errno != 0 || *text == '\0' || *end != '\0') {
        fprintf(stderr, "sim_cut: '%s' is not a number\n", text);
        exit(64);
    }
    return value;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"seeds", required_argument, NULL, 's'},
        {"first", required_argument, NULL, 'f'},
        {"faults", no_argument, NULL, 'p'},
        {"mutant", required_argument, NULL, 'm'},
        {"mutants", no_argument, NULL, 'M'},
        {"trace", no_argument, NULL, 't'},
        {"verbose", no_argument, NULL, 'v'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    static struct sim sim;
    uint64_t seeds = 1000, first = 1, failed;
    bool faults = false, mutants = false, verbose = false, trace = false;
    enum sim_mutant mutant = SIM_MUTANT_NONE;
    struct totals t = {0};
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 's':
            seeds = parse_count(optarg);
            break;
        case 'f':
            first = parse_count(optarg);
            break;
        case 'p':
            faults = true;
            break;
        case 'm':
            mutant = find_mutant(optarg);
            break;
        case 'M':
            mutants = true;
            break;
        case 't':
            trace = true;
            break;
        case 'v':
            verbose = true;
            break;
        default:
            fputs(usage, option == 'h' ? stdout : stderr);
            return option == 'h' ? 0 : 64;
        }
    }
    if (mutants)
        return run_mutants(&sim, first, seeds);
    failed = run_seeds(&sim, first, seeds, faults, mutant, verbose, &t);
    sim.tracing_all = trace;
    if (failed > 0)
        explain(&sim, first + failed - 1, faults, mutant);
    printf("%" PRIu64 " runs%s, %" PRIu64 " events; cuts: %" PRIu64
           " committed, %" PRIu64 " aborted; frames: %" PRIu64
           " recorded, %" PRIu64 " missing, %" PRIu64 " dropped; %" PRIu64
           " triggers: %s\n",
           t.runs, faults ? " with faults" : "", t.events, t.committed,
           t.aborted, t.recorded, t.missing, t.dropped, t.triggers,
           failed > 0 ? "FAILED" : "ok");
    return failed > 0;
}
