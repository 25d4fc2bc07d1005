/*
 * The oracle's main: start the parts, report their counters.
 *
 * It is the guest's /init. Four kinds of state of one machine check each
 * other: messages on the network (net.c), memory (memory.c), a disk (disk.c),
 * each in threads of its own, all counting into oracle_counts. This thread
 * prints one line every half second and does nothing else: the serial port is
 * slow, and nobody but this thread ever waits for it.
 */

#include "oracle.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define REPORT_NS       500000000ull
#define SENTENCES_MAX   8
#define SENTENCE_LENGTH 240

struct oracle_opts oracle_opts;
struct oracle_counts oracle_counts;

static struct {
    pthread_mutex_t lock;
    char text[SENTENCES_MAX][SENTENCE_LENGTH];
    unsigned count, printed;
} sentences = {.lock = PTHREAD_MUTEX_INITIALIZER};

void oracle_violation(_Atomic uint64_t *counter, const char *format, ...)
{
    va_list args;

    ++*counter;
    pthread_mutex_lock(&sentences.lock);
    if (sentences.count < SENTENCES_MAX) {
        va_start(args, format);
        vsnprintf(sentences.text[sentences.count++], SENTENCE_LENGTH, format,
                  args);
        va_end(args);
    }
    pthread_mutex_unlock(&sentences.lock);
}

uint64_t oracle_now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

void oracle_sleep_until(uint64_t when_ns)
{
    struct timespec t = {.tv_sec = (time_t)(when_ns / 1000000000ull),
                         .tv_nsec = (long)(when_ns % 1000000000ull)};

    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL))
        ;
}

static void print_sentences(void)
{
    pthread_mutex_lock(&sentences.lock);
    while (sentences.printed < sentences.count)
        printf("ORACLE-VIOLATION id=%u t=%.1f %s\n", oracle_opts.id,
               (double)oracle_now_ns() / 1e9,
               sentences.text[sentences.printed++]);
    pthread_mutex_unlock(&sentences.lock);
}

/* " tcp_by=12,13": received from each peer, by id, without ourselves. */
static void print_by_peer(const char *name, enum oracle_kind kind)
{
    const char *comma = "";

    printf(" %s_by=", name);
    for (unsigned i = 1; i <= oracle_opts.peers; i++) {
        if (i == oracle_opts.id)
            continue;
        printf("%s%lu", comma, oracle_counts.by_peer[kind][i]);
        comma = ",";
    }
}

static void print_report(void)
{
    static const char *const names[] = {"tcp", "udp", "bc"};
    const struct oracle_counts *c = &oracle_counts;

    printf("ORACLE id=%u t=%.1f up=1", oracle_opts.id,
           (double)oracle_now_ns() / 1e9);
    for (unsigned k = 0; k < ORACLE_KINDS; k++)
        printf(" %s_sent=%lu %s_recv=%lu %s_lost=%lu %s_dup=%lu", names[k],
               c->sent[k], names[k], c->received[k], names[k], c->lost[k],
               names[k], c->doubled[k]);
    printf(" tcp_reset=%lu future=%lu forged=%lu mem_gen=%lu mem_pages=%lu"
           " mem_bad=%lu"
           " disk_rec=%lu disk_bad=%lu gap_ms_max=%lu peers_up=%u",
           c->tcp_reset, c->future, c->forged, c->memory_generation,
           c->memory_pages, c->memory_bad, c->disk_records, c->disk_bad,
           c->gap_ms_max, c->peers_up);
    for (unsigned k = 0; k < ORACLE_KINDS; k++)
        print_by_peer(names[k], k);
    printf("\n");
}

static void start(void *(*body)(void *))
{
    pthread_t thread;

    if (pthread_create(&thread, NULL, body, NULL)) {
        printf("ORACLE-FATAL no thread\n");
        exit(1);
    }
}

static unsigned parameter(const char *name, long otherwise, long max)
{
    long value = oracle_init_parameter(name, otherwise);

    if (value < 0 || value > max) {
        printf("ORACLE-FATAL parameter %s=%ld\n", name, value);
        value = otherwise;
    }
    return (unsigned)value;
}

int main(void)
{
    struct oracle_opts *o = &oracle_opts;

    oracle_init_system();
    o->id = parameter("oracle.id", 1, ORACLE_PEERS_MAX);
    o->peers = parameter("oracle.peers", 1, ORACLE_PEERS_MAX);
    o->working_mib = parameter("oracle.ws", 32, 65536);
    o->dirty_mib_s = parameter("oracle.rate", 4, 65536);
    o->messages_per_s = parameter("oracle.mps", 40, 10000);
    o->records_per_s = parameter("oracle.dps", 20, 10000);
    o->disk = parameter("oracle.disk", 0, 1);
    if (o->peers > 1)
        oracle_init_network();
    oracle_memory_setup();
    start(oracle_memory_write);
    start(oracle_memory_check);
    if (o->disk)
        start(oracle_disk_run);
    if (o->peers > 1)
        start(oracle_net_run);
    for (uint64_t next = oracle_now_ns();;) {
        print_sentences();
        print_report();
        fflush(stdout);
        next += REPORT_NS;
        if (next < oracle_now_ns())
            next = oracle_now_ns() + REPORT_NS;
        oracle_sleep_until(next);
    }
}
