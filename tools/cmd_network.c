#include "cmd_network.h"

#include <stdlib.h>
#include <unistd.h>

enum { KEY_TLS_DIR = 0x200 };

static error_t parse_network(int key, char *arg, struct argp_state *state)
{
    struct cmd_network *network = state->input;

    if (key != KEY_TLS_DIR)
        return ARGP_ERR_UNKNOWN;
    network->tls_dir = arg;
    return 0;
}

static const struct argp_option network_options[] = {
    {"tls-dir", KEY_TLS_DIR, "DIR", 0,
     "Certificates for tls: agents, instead of $VNSTORE_TLS_DIR", 0},
    {0},
};

const struct argp cmd_argp_network = {
    .options = network_options,
    .parser = parse_network,
};

void cmd_network_inputs(struct argp_state *state,
                        const struct argp_child *children,
                        struct cmd_common *common, struct cmd_network *network)
{
    cmd_common_inputs(state, children, common);
    network->tls_dir = getenv("VNSTORE_TLS_DIR");
    for (unsigned i = 0; children[i].argp; i++)
        if (children[i].argp == &cmd_argp_network)
            state->child_inputs[i] = network;
}

void cmd_phrase_begin(struct cmd_phrase *phrase, const char *what,
                      const struct cmd_common *common)
{
    *phrase = (struct cmd_phrase){
        .common = common,
        .what = what,
        .terminal = !common->quiet && isatty(STDERR_FILENO),
    };
}

void cmd_phrase_show(void *context, const char *phrase)
{
    struct cmd_phrase *p = context;

    if (!p->terminal)
        return;
    fprintf(stderr, "\r\033[K%s: %s", p->what, phrase);
    fflush(stderr);
    p->drawn = true;
}

void cmd_phrase_end(struct cmd_phrase *phrase)
{
    if (phrase->drawn)
        fputs("\r\033[K", stderr);
    phrase->drawn = false;
}
