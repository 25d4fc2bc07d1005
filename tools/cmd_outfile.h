#ifndef TOOLS_CMD_OUTFILE_H
#define TOOLS_CMD_OUTFILE_H

/*
 * A file that appears whole or not at all: written without a name where the
 * file system can do that (O_TMPFILE), else under a temporary one.
 */

#include "common/err.h"

#include <stdbool.h>

struct cmd_outfile {
    int fd;  /* to write to; readable and seekable */
    int dir; /* its directory; not owned */
    char *name;
    char temp[40]; /* beside it */
    bool has_temp; /* temp exists */
};

#define CMD_OUTFILE_INIT                                                       \
    {                                                                          \
        .fd = -1, .dir = -1                                                    \
    }

/* Begin `name` (one part, no slash) in the directory `dir`, which must stay
 * open. Mode 0600: images hold the secrets of their guests. */
int cmd_outfile_open(struct cmd_outfile *o, int dir, const char *name,
                     struct vn_err *err) VN_MUST_USE;

/* Give it its name. VN_E_EXISTS where that is taken, unless `replace`. With
 * `durable` the content and the name are on disk when it returns. */
int cmd_outfile_commit(struct cmd_outfile *o, bool replace, bool durable,
                       struct vn_err *err) VN_MUST_USE;

/* Without a commit nothing remains. */
void cmd_outfile_done(struct cmd_outfile *o);

static inline void vn_auto_outfile(struct cmd_outfile *o)
{
    cmd_outfile_done(o);
}

#endif
