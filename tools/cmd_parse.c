#include "cmd.h"

/*
 * The command line of a sub-command: what it says about itself, as a parser of
 * argp.
 *
 * Options that several commands have are argp's children: parsers of their
 * own, with one struct cmd_common for all. Then argp sorts them into --help.
 * Arguments are taken by the words of cmd_syntax.args.
 */

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_PROGRESS_FD = 0x100, KEY_TLS_DIR };
enum { COMMON_COUNT = 4, WORDS_MAX = CMD_ARGS_MAX };

/* ---- common options --------------------------------------------------- */

static error_t parse_store(int key, char *arg, struct argp_state *state)
{
    struct cmd_common *common = state->input;

    switch (key) {
    case 's':
        common->store = arg;
        return 0;
    case ARGP_KEY_END:
        if (!common->store || !common->store[0])
            argp_error(state, "no store: give --store or set VNSTORE_STORE");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse_json(int key, char *arg, struct argp_state *state)
{
    struct cmd_common *common = state->input;

    (void)arg;
    if (key != 'j')
        return ARGP_ERR_UNKNOWN;
    common->json = true;
    return 0;
}

static error_t parse_progress(int key, char *arg, struct argp_state *state)
{
    struct cmd_common *common = state->input;
    char *end;
    long fd;

    switch (key) {
    case 'q':
        common->quiet = true;
        return 0;
    case KEY_PROGRESS_FD:
        errno = 0;
        fd = strtol(arg, &end, 10);
        if (errno || end == arg || *end || fd < 0 || fd > INT32_MAX ||
            fcntl((int)fd, F_GETFD) < 0)
            argp_error(state, "--progress-fd: '%s' is not an open descriptor",
                       arg);
        else
            common->progress_fd = (int)fd;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse_network(int key, char *arg, struct argp_state *state)
{
    struct cmd_common *common = state->input;

    if (key != KEY_TLS_DIR)
        return ARGP_ERR_UNKNOWN;
    common->tls_dir = arg;
    return 0;
}

static const struct argp_option store_options[] = {
    {"store", 's', "STORE", 0, "Use this store instead of $VNSTORE_STORE", 0},
    {0},
};
static const struct argp_option json_options[] = {
    {"json", 'j', NULL, 0, "Print JSON", 0},
    {0},
};
static const struct argp_option progress_options[] = {
    {"quiet", 'q', NULL, 0, "Show no progress on the terminal", 0},
    {"progress-fd", KEY_PROGRESS_FD, "N", 0,
     "Write progress to descriptor N, as lines \"PERCENT/100\"", 0},
    {0},
};
static const struct argp_option network_options[] = {
    {"tls-dir", KEY_TLS_DIR, "DIR", 0,
     "Certificates for tls: agents, instead of $VNSTORE_TLS_DIR", 0},
    {0},
};

/* By the bits of enum cmd_option, from the lowest. */
static const struct argp common_argps[COMMON_COUNT] = {
    {.options = store_options, .parser = parse_store},
    {.options = json_options, .parser = parse_json},
    {.options = progress_options, .parser = parse_progress},
    {.options = network_options, .parser = parse_network},
};

/* ---- arguments -------------------------------------------------------- */

/* A word of cmd_syntax.args. */
struct word {
    char name[32]; /* without brackets and dots */
    bool optional;
    bool many;
};

/* What the parser works on. */
struct parse {
    const struct cmd_syntax *syntax;
    struct cmd_common *common;
    void *context;
    struct word words[WORDS_MAX];
    unsigned word_count;
    struct argp_child children[COMMON_COUNT + 1];
};

static void split_words(struct parse *p)
{
    const char *text = p->syntax->args ? p->syntax->args : "";

    while (*(text += strspn(text, " "))) {
        const char *name = text + (text[0] == '[');
        size_t size = strcspn(name, "] ");
        struct word *word = &p->words[p->word_count++];

        assert(p->word_count <= WORDS_MAX);
        word->optional = name > text;
        word->many = size > 3 && memcmp(name + size - 3, "...", 3) == 0;
        snprintf(word->name, sizeof(word->name), "%.*s",
                 (int)(word->many ? size - 3 : size), name);
        text += strcspn(text, " ");
    }
}

static error_t take_arg(struct parse *p, char *arg, struct argp_state *state)
{
    unsigned i = state->arg_num;

    if (i >= p->word_count)
        argp_error(state, "'%s' is one argument too many", arg);
    if (p->words[i].many)
        return ARGP_ERR_UNKNOWN; /* all that follow come as ARGP_KEY_ARGS */
    p->common->arg[i] = arg;
    return 0;
}

static void check_args(const struct parse *p, struct argp_state *state)
{
    for (unsigned i = 0; i < p->word_count; i++) {
        const struct word *word = &p->words[i];
        bool given =
            word->many ? p->common->more_count > 0 : p->common->arg[i] != NULL;

        if (!given && !word->optional)
            argp_error(state, "%s is missing", word->name);
    }
}

/* ---- the whole -------------------------------------------------------- */

static void begin(struct parse *p, struct argp_state *state)
{
    *p->common = (struct cmd_common){
        .store = getenv("VNSTORE_STORE"),
        .tls_dir = getenv("VNSTORE_TLS_DIR"),
        .progress_fd = -1,
    };
    for (size_t i = 0; p->children[i].argp; i++)
        state->child_inputs[i] = p->common;
}

static bool is_own(const struct cmd_syntax *syntax, int key)
{
    const struct argp_option *o = syntax->options;

    while (o && o->name && o->key != key)
        o++;
    return o && o->name;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct parse *p = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        begin(p, state);
        return 0;
    case ARGP_KEY_ARG:
        return take_arg(p, arg, state);
    case ARGP_KEY_ARGS:
        p->common->more = state->argv + state->next;
        p->common->more_count = state->argc - state->next;
        return 0;
    case ARGP_KEY_END:
        check_args(p, state);
        if (p->syntax->check)
            p->syntax->check(p->context, state);
        return 0;
    default:
        if (!is_own(p->syntax, key))
            return ARGP_ERR_UNKNOWN;
        p->syntax->option(p->context, key, arg, state);
        return 0;
    }
}

void cmd_parse(const struct cmd_syntax *syntax, int argc, char **argv,
               struct cmd_common *common, void *context)
{
    struct parse p = {.syntax = syntax, .common = common, .context = context};
    const struct argp argp = {
        .options = syntax->options,
        .parser = parse,
        .args_doc = syntax->args,
        .doc = syntax->doc,
        .children = p.children,
    };
    size_t count = 0;

    split_words(&p);
    for (unsigned i = 0; i < COMMON_COUNT; i++)
        if (syntax->common & 1u << i)
            p.children[count++].argp = &common_argps[i];
    argp_parse(&argp, argc, argv, 0, NULL, &p); /* exits on misuse */
}

unsigned cmd_parse_number(struct argp_state *state, const char *option,
                          const char *arg, unsigned min, unsigned max)
{
    unsigned long long number;
    char *end;

    errno = 0;
    number = strtoull(arg, &end, 10);
    if (*arg < '0' || *arg > '9' || *end || errno || number < min ||
        number > max)
        argp_error(state, "%s: '%s' is not a number from %u to %u", option, arg,
                   min, max);
    return (unsigned)number;
}

const char *cmd_parse_domain(struct argp_state *state, const char *arg)
{
    struct vn_err err = VN_ERR_INIT;

    if (store_domain_check(arg, &err) < 0)
        argp_error(state, "--domain: %s", err.msg);
    return arg;
}
