#include "cmd_outfile.h"

#include "common/auto.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

int cmd_outfile_open(struct cmd_outfile *o, int dir, const char *name,
                     struct vn_err *err)
{
    o->dir = dir;
    o->name = vn_strdup(name);
    snprintf(o->temp, sizeof(o->temp), ".vnstore-%ld.part", (long)getpid());
    o->fd = openat(dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (o->fd >= 0)
        return 0;
    if (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT)
        return vn_fail(err, errno, "create '%s'", name);
    o->fd = openat(dir, o->temp,
                   O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (o->fd < 0)
        return vn_fail(err, errno, "create '%s'", name);
    o->has_temp = true;
    return 0;
}

/* Link the file as `name`; from its number where it has no name yet. */
static int link_as(struct cmd_outfile *o, const char *name)
{
    char number[40];

    if (o->has_temp)
        return linkat(o->dir, o->temp, o->dir, name, 0);
    snprintf(number, sizeof(number), "/proc/self/fd/%d", o->fd);
    return linkat(AT_FDCWD, number, o->dir, name, AT_SYMLINK_FOLLOW);
}

int cmd_outfile_commit(struct cmd_outfile *o, bool replace, bool durable,
                       struct vn_err *err)
{
    if (durable && fsync(o->fd) < 0)
        return vn_fail(err, errno, "fsync '%s'", o->name);
    if (!replace) {
        if (link_as(o, o->name) < 0)
            return errno == EEXIST
                       ? vn_fail(err, VN_E_EXISTS, "'%s' exists", o->name)
                       : vn_fail(err, errno, "name the new file '%s'", o->name);
    } else {
        if (!o->has_temp && link_as(o, o->temp) < 0)
            return vn_fail(err, errno, "name the new file '%s'", o->name);
        o->has_temp = true;
        if (renameat(o->dir, o->temp, o->dir, o->name) < 0)
            return vn_fail(err, errno, "replace '%s'", o->name);
        o->has_temp = false;
    }
    if (durable && fsync(o->dir) < 0)
        return vn_fail(err, errno, "fsync the directory of '%s'", o->name);
    return 0;
}

void cmd_outfile_done(struct cmd_outfile *o)
{
    if (o->has_temp)
        unlinkat(o->dir, o->temp, 0);
    if (o->fd >= 0)
        close(o->fd);
    free(o->name);
    *o = (struct cmd_outfile)CMD_OUTFILE_INIT;
}
