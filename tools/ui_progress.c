#include "ui_progress.h"

#include "common/clock.h"
#include "common/io.h"

#include <stdio.h>
#include <unistd.h>

void ui_progress_begin(struct ui_progress *p, const char *what,
                       const struct cmd_common *common)
{
    *p = (struct ui_progress){
        .what = what,
        .fd = common->progress_fd,
        .percent = -1,
    };
    p->terminal = p->fd < 0 && !common->quiet && isatty(STDERR_FILENO);
}

static int percent_of(uint64_t done, uint64_t total)
{
    if (done >= total)
        return 100;
    return (int)((double)done * 100.0 / (double)total);
}

static void draw(struct ui_progress *p, int percent, uint64_t done,
                 uint64_t total)
{
    uint64_t now = clock_now_ns();
    char have[16], all[16];

    if (now < p->next_ns)
        return;
    p->next_ns = now + 100 * VN_MS;
    io_format_size(done, have);
    io_format_size(total, all);
    fprintf(stderr, "\r\033[K%.40s  %3d %%  %s of %s", p->what, percent, have,
            all);
    fflush(stderr);
    p->drawn = true;
}

void ui_progress_update(void *context, uint64_t done, uint64_t total)
{
    struct ui_progress *p = context;
    int percent = percent_of(done, total);

    if (p->terminal)
        draw(p, percent, done, total);
    if (p->fd >= 0 && percent != p->percent)
        dprintf(p->fd, "%d/100\n", percent);
    p->percent = percent;
}

void ui_progress_end(struct ui_progress *p)
{
    if (p->drawn)
        fputs("\r\033[K", stderr);
    p->drawn = false;
}
