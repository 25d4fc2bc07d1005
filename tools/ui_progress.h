#ifndef TOOLS_UI_PROGRESS_H
#define TOOLS_UI_PROGRESS_H

/*
 * Progress of a long command: a line on the terminal, or lines "N/100" to a
 * descriptor for a program that draws its own (as nbdcopy --progress=FD).
 */

#include "cmd.h"

#include <stdint.h>

struct ui_progress {
    const char *what; /* "export lab@1" */
    bool terminal;    /* stderr is one, and may be used */
    bool drawn;       /* there is something to wipe */
    int fd;           /* or -1 */
    int percent;      /* last written, -1 before */
    uint64_t next_ns; /* no redraw before */
};

/* Begin; `what` must outlive it. Nothing is shown before the first update. */
void ui_progress_begin(struct ui_progress *p, const char *what,
                       const struct cmd_common *common);

/* A store_progress_fn; the context is the struct ui_progress. Cheap to call
 * often: draws at most ten times a second. */
void ui_progress_update(void *context, uint64_t done, uint64_t total);

/* Wipe the line. */
void ui_progress_end(struct ui_progress *p);

#endif
