/* vnstore init STORE: create an empty store. */

#include "cmd.h"

#include <stdio.h>
#include <string.h>

enum { KEY_ID = 0x200 };

struct init {
    const char *path;
    enum store_identity identity;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct init *init = state->input;

    switch (key) {
    case KEY_ID:
        if (!store_identity_parse(arg, &init->identity))
            argp_error(state, "--id: '%s' is neither blake3 nor sha256", arg);
        return 0;
    case ARGP_KEY_ARG:
        cmd_take_arg(state, arg, &init->path);
        return 0;
    case ARGP_KEY_END:
        if (!init->path)
            argp_error(state, "STORE is missing");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int cmd_init(int argc, char **argv, struct vn_err *err)
{
    static const struct argp_option options[] = {
        {"id", KEY_ID, "HASH", 0,
         "Name contents by blake3 (the default) or sha256", 0},
        {0},
    };
    static const struct argp argp = {
        .options = options,
        .parser = parse,
        .args_doc = "STORE",
        .doc = "Create an empty store in a directory that does not exist or is"
               " empty.",
    };
    struct init init = {.identity = STORE_BLAKE3};

    argp_parse(&argp, argc, argv, 0, NULL, &init);
    if (strstr(init.path, "://"))
        return vn_fail(err, VN_E_UNSUPPORTED,
                       "store '%s': this build makes directories only",
                       init.path);
    return store_init_as(init.path, init.identity, err) < 0 ? -1 : CMD_OK;
}
