/* vnstore init STORE: create an empty store. */

#include "cmd.h"

#include <stdio.h>
#include <string.h>

enum { KEY_ID = 0x200 };

struct init {
    struct cmd_common common;
    enum store_identity identity;
};

static void take_option(void *context, int key, char *arg,
                        struct argp_state *state)
{
    struct init *init = context;

    switch (key) {
    case KEY_ID:
        if (!store_identity_parse(arg, &init->identity))
            argp_error(state, "--id: '%s' is neither blake3 nor sha256", arg);
        break;
    }
}

int cmd_init(int argc, char **argv, struct vn_err *err)
{
    static const struct argp_option options[] = {
        {"id", KEY_ID, "HASH", 0,
         "Name contents by blake3 (the default) or sha256", 0},
        {0},
    };
    static const struct cmd_syntax syntax = {
        .options = options,
        .option = take_option,
        .args = "STORE",
        .doc = "Create an empty store in a directory that does not exist or is"
               " empty.",
    };
    struct init init = {.identity = STORE_BLAKE3};

    cmd_parse(&syntax, argc, argv, &init.common, &init);
    if (strstr(init.common.arg[0], "://"))
        return vn_fail(err, VN_E_UNSUPPORTED,
                       "store '%s': this build makes directories only",
                       init.common.arg[0]);
    return store_init_as(init.common.arg[0], init.identity, err) < 0 ? -1
                                                                     : CMD_OK;
}
