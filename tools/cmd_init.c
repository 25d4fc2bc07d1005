/* vnstore init STORE: create an empty store. */

#include "cmd.h"

#include <stdio.h>
#include <string.h>

int cmd_init(int argc, char **argv, struct vn_err *err)
{
    static const struct argp_child children[] = {{0}};
    struct cmd_simple args;

    cmd_simple_parse(&args, "STORE",
                     "Create an empty store in a directory that does not exist"
                     " or is empty.",
                     children, argc, argv);
    if (strstr(args.arg, "://"))
        return vn_fail(err, VN_E_UNSUPPORTED,
                       "store '%s': this build makes directories only",
                       args.arg);
    return store_init(args.arg, err) < 0 ? -1 : CMD_OK;
}
