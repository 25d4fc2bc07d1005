#ifndef COMMON_VIEW_H
#define COMMON_VIEW_H

/*
 * A part of a file, looked at where the page cache has it.
 *
 * The bytes may change while they are looked at, if somebody writes the file:
 * what must stay the same is read into memory of one's own. Where the file
 * cannot be read (it was cut, its disk failed) the view has zeros, and
 * file_view_failed() says so; other programs end by SIGBUS there. So whoever
 * looks asks afterwards, before anything is made of what was seen.
 * (Idea: systemd's journal, which reads its files in this way.)
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct file_view {
    const uint8_t *data; /* read only; by any threads that let SIGBUS in */
    size_t size;
    size_t before; /* bytes mapped before `data` */
    unsigned slot;
};

#define FILE_VIEWS_MAX 64u /* that can be open at a time */

/* false: this file cannot be looked at now, and has to be read. Takes over
 * SIGBUS, and leaves what is not of a view to whoever had it. */
bool file_view_open(struct file_view *view, int fd, uint64_t offset,
                    size_t size);
/* Was there a part, so far, that could not be read? */
bool file_view_failed(const struct file_view *view);
/* Nobody may be looking. One that is all zero is not open. */
void file_view_close(struct file_view *view);

static inline void vn_auto_file_view(struct file_view *view)
{
    file_view_close(view);
}

#endif
