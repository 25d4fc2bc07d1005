#ifndef GUEST_ORACLE_H
#define GUEST_ORACLE_H

/*
 * The oracle: the guest program that proves a snapshot consistent from the
 * inside. What it checks, its kernel parameters and its report line are
 * described in docs/formats/oracle.md.
 */

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ORACLE_PEERS_MAX 16

struct oracle_opts {
    unsigned id, peers;      /* we are one of 1 .. peers */
    unsigned working_mib;    /* working set */
    unsigned dirty_mib_s;    /* 0: memory stands still */
    unsigned messages_per_s; /* a peer, direction and protocol; 0: none */
    unsigned records_per_s;  /* disk */
    bool disk;
};

/* One channel kind a row of counters: TCP, UDP and broadcast. */
enum oracle_kind { ORACLE_TCP, ORACLE_UDP, ORACLE_BROADCAST, ORACLE_KINDS };

/* Everything the report line says; written by the threads, read by main. */
struct oracle_counts {
    _Atomic uint64_t sent[ORACLE_KINDS], received[ORACLE_KINDS];
    _Atomic uint64_t lost[ORACLE_KINDS], doubled[ORACLE_KINDS];
    _Atomic uint64_t by_peer[ORACLE_KINDS][ORACLE_PEERS_MAX + 1];
    _Atomic uint64_t tcp_reset, future, forged;
    _Atomic uint64_t memory_generation, memory_pages, memory_bad;
    _Atomic uint64_t disk_records, disk_bad;
    _Atomic uint64_t gap_ms_max;
    _Atomic unsigned peers_up;
};

extern struct oracle_opts oracle_opts;
extern struct oracle_counts oracle_counts;

/* Add one to `counter` and keep the sentence for the serial line; only the
 * first few sentences are kept. Any thread. */
void oracle_violation(_Atomic uint64_t *counter, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

uint64_t oracle_now_ns(void);
void oracle_sleep_until(uint64_t when_ns);

/* A number that depends on all bits of both. */
static inline uint64_t oracle_mix(uint64_t a, uint64_t b)
{
    uint64_t x = a * 0x9e3779b97f4a7c15ull + b;

    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

/* Mount, load the modules, bring eth0 up; then the parameters. */
void oracle_init_system(void);
void oracle_init_network(void);
long oracle_init_parameter(const char *name, long otherwise);

/* Thread bodies; they never return. */
void *oracle_net_run(void *unused);
void *oracle_memory_write(void *unused);
void *oracle_memory_check(void *unused);
void *oracle_disk_run(void *unused);
void oracle_memory_setup(void);

#endif
