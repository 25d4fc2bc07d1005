#ifndef TOOLS_CMD_DOCTOR_H
#define TOOLS_CMD_DOCTOR_H

/* The checks of `vnstore doctor`. */

#include <stddef.h>

enum doctor_state { DOCTOR_OK, DOCTOR_WARN, DOCTOR_NO };

struct doctor_result {
    enum doctor_state state;
    char found[160]; /* what is there */
    char hint[160];  /* what to do; empty where nothing needs doing */
};

struct doctor_check {
    const char *name; /* "kvm" */
    const char *what; /* what it is needed for */
    void (*run)(struct doctor_result *result);
};

extern const struct doctor_check doctor_checks[];
extern const size_t doctor_check_count;

#endif
