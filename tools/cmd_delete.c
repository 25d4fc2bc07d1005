/* vnstore delete SNAP: remove a snapshot's name. */

#include "cmd.h"

int cmd_delete(int argc, char **argv, struct vn_err *err)
{
    static const struct cmd_syntax syntax = {
        .common = CMD_STORE,
        .args = "SNAP",
        .doc = "Remove a snapshot. What only it used stays on disk until"
               " gc removes it.",
    };
    vn_auto(store) struct store *store = NULL;
    struct cmd_common args;

    cmd_parse(&syntax, argc, argv, &args, NULL);
    store = cmd_open_store(&args, err);
    if (!store || store_delete(store, args.arg[0], err) < 0)
        return -1;
    return CMD_OK;
}
