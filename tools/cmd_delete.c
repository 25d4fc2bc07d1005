/* vnstore delete SNAP: remove a snapshot's name. */

#include "cmd.h"

int cmd_delete(int argc, char **argv, struct vn_err *err)
{
    static const struct argp_child children[] = {{&cmd_argp_store, 0, NULL, 0},
                                                 {0}};
    vn_auto(store) struct store *store = NULL;
    struct cmd_simple args;

    cmd_simple_parse(&args, "SNAP",
                     "Remove a snapshot. What only it used stays on disk until"
                     " gc removes it.",
                     children, argc, argv);
    store = cmd_open_store(&args.common, err);
    if (!store || store_delete(store, args.arg, err) < 0)
        return -1;
    return CMD_OK;
}
