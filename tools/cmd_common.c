#include "cmd.h"

#include "common/jsonx.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_PROGRESS_FD = 0x100 };

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

const struct argp cmd_argp_store = {
    .options = store_options,
    .parser = parse_store,
};
const struct argp cmd_argp_json = {
    .options = json_options,
    .parser = parse_json,
};
const struct argp cmd_argp_progress = {
    .options = progress_options,
    .parser = parse_progress,
};

void cmd_common_inputs(struct argp_state *state,
                       const struct argp_child *children,
                       struct cmd_common *common)
{
    common->store = getenv("VNSTORE_STORE");
    common->progress_fd = -1;
    for (size_t i = 0; children[i].argp; i++)
        state->child_inputs[i] = common;
}

struct store *cmd_open_store(const struct cmd_common *common,
                             struct vn_err *err)
{
    if (strstr(common->store, "://"))
        return vn_fail_ptr(err, VN_E_UNSUPPORTED,
                           "store '%s': this build opens directories only",
                           common->store);
    return store_open(common->store, err);
}

void cmd_take_arg(struct argp_state *state, char *arg, const char **slot)
{
    if (*slot)
        argp_error(state, "'%s' is one argument too many", arg);
    *slot = arg;
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

json_t *cmd_counts_json(const struct store_counts *c)
{
    json_t *bytes = json_object();

    json_object_set_new(bytes, "read", jsonx_int(c->bytes_read));
    json_object_set_new(bytes, "zero", jsonx_int(c->bytes_zero));
    json_object_set_new(bytes, "unchanged", jsonx_int(c->bytes_unchanged));
    json_object_set_new(bytes, "known", jsonx_int(c->bytes_known));
    json_object_set_new(bytes, "new", jsonx_int(c->bytes_new));
    json_object_set_new(bytes, "stored", jsonx_int(c->bytes_stored));
    return bytes;
}

/* What the parser of a simple command works on. */
struct simple_input {
    struct cmd_simple *simple;
    const struct argp_child *children;
    const char *args_doc;
};

static error_t parse_simple(int key, char *arg, struct argp_state *state)
{
    struct simple_input *input = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        cmd_common_inputs(state, input->children, &input->simple->common);
        return 0;
    case ARGP_KEY_ARG:
        if (!input->args_doc)
            argp_error(state, "'%s' is one argument too many", arg);
        cmd_take_arg(state, arg, &input->simple->arg);
        return 0;
    case ARGP_KEY_END:
        if (input->args_doc && input->args_doc[0] != '[' && !input->simple->arg)
            argp_error(state, "%s is missing", input->args_doc);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

void cmd_simple_parse(struct cmd_simple *simple, const char *args_doc,
                      const char *doc, const struct argp_child *children,
                      int argc, char **argv)
{
    struct simple_input input = {
        .simple = simple,
        .children = children,
        .args_doc = args_doc,
    };
    const struct argp argp = {
        .parser = parse_simple,
        .args_doc = args_doc,
        .doc = doc,
        .children = children,
    };

    *simple = (struct cmd_simple){0};
    argp_parse(&argp, argc, argv, 0, NULL, &input); /* exits on misuse */
}
