/*
 * How long does a Xen domain stand, whoever stops it? For measuring xl.
 *
 *     xen_standing DOMAIN SECONDS WORK_DIR
 *
 * Looks every millisecond until SECONDS are over or SIGTERM comes; prints the
 * longest time that it stood, in ms.
 */
#include "capture/vm.h"
#include "common/clock.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define LOOK_US 1000

static volatile sig_atomic_t ended;

static void on_signal(int number)
{
    (void)number;
    ended = 1;
}

int main(int argc, char **argv)
{
    struct vn_err err = VN_ERR_INIT;
    struct vm_config config = {.backend = vn_strdup("xen")};
    uint64_t end_ns, stood_since_ns = 0, longest_ns = 0;
    struct vm *vm;

    if (argc != 4)
        return 64;
    signal(SIGTERM, on_signal);
    config.name = vn_strdup(argv[1]);
    config.domain = vn_strdup(argv[1]);
    vm = vm_attach(&config, argv[3], &err);
    end_ns = clock_now_ns() + strtoull(argv[2], NULL, 10) * VN_SEC;
    while (vm && !ended && clock_now_ns() < end_ns) {
        uint64_t now_ns = clock_now_ns();
        bool runs;

        if (vm_is_running(vm, &runs, &err) < 0)
            break;
        if (!runs && !stood_since_ns)
            stood_since_ns = now_ns;
        if (!runs && now_ns - stood_since_ns > longest_ns)
            longest_ns = now_ns - stood_since_ns;
        if (runs)
            stood_since_ns = 0;
        usleep(LOOK_US);
    }
    vm_free(vm);
    vm_config_done(&config);
    if (err.code) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    printf("%.1f\n", (double)longest_ns / VN_MS);
    return 0;
}
