#ifndef TOOLS_CMD_PHRASE_H
#define TOOLS_CMD_PHRASE_H

/* What the commands show that talk to agents: snapshot, restore. */

#include "cmd.h"

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
