#include "cmd_phrase.h"

#include <stdio.h>
#include <unistd.h>

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
