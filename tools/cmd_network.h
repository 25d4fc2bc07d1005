#ifndef TOOLS_CMD_NETWORK_H
#define TOOLS_CMD_NETWORK_H

/* What the commands share that talk to agents: up, down, snapshot, restore. */

#include "cmd.h"

struct cmd_network {
    const char *tls_dir; /* --tls-dir or $VNSTORE_TLS_DIR; NULL: none */
};

/* --tls-dir. As a child of a command's argp its input is a cmd_network. */
extern const struct argp cmd_argp_network;

/*
 * Set the children's inputs: those with cmd_argp_network get `network`, all
 * others `common` with its defaults.
 */
void cmd_network_inputs(struct argp_state *state,
                        const struct argp_child *children,
                        struct cmd_common *common, struct cmd_network *network);

/* Shows what is going on as a line on the terminal; begin with zeros. */
struct cmd_phrase {
    const struct cmd_common *common;
    const char *what; /* "snapshot lab" */
    bool terminal, drawn;
};
void cmd_phrase_begin(struct cmd_phrase *phrase, const char *what,
                      const struct cmd_common *common);
/* A progress callback; the context is the struct cmd_phrase. */
void cmd_phrase_show(void *context, const char *phrase);
void cmd_phrase_end(struct cmd_phrase *phrase);

#endif
