/* vnagentd: the agent of a host. See coord/agent.h. */

#include "common/log.h"
#include "coord/agent.h"
#include "store/store.h"

#include <argp.h>
#include <signal.h>
#include <stdlib.h>
#include <sysexits.h>

#define LISTEN_MAX 16

const char *argp_program_version = "vnagentd " VN_VERSION;

static const struct argp_option options[] = {
    {"name", 'n', "HOST", 0, "This host, as VNE files call it", 0},
    {"listen", 'l', "ADDRESS", 0,
     "unix:PATH or tls:HOST:PORT; may be given again", 0},
    {"violin", 'v', "SOCKET", 0, "Control socket of the local violind", 0},
    {"state-dir", 'd', "DIR", 0, "Where VMs' sockets, logs and disks go", 0},
    {"tls-dir", 't', "DIR", 0, "ca.crt, host.crt and host.key, for tls:", 0},
    {0},
};

struct settings {
    struct agent_opts opts;
    const char *listen[LISTEN_MAX];
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct settings *settings = state->input;
    struct agent_opts *opts = &settings->opts;

    switch (key) {
    case 'n':
        opts->name = arg;
        return 0;
    case 'l':
        if (opts->listen_count == LISTEN_MAX)
            argp_error(state, "more than %d --listen", LISTEN_MAX);
        settings->listen[opts->listen_count++] = arg;
        return 0;
    case 'v':
        opts->violin_socket = arg;
        return 0;
    case 'd':
        opts->state_dir = arg;
        return 0;
    case 't':
        opts->tls_dir = arg;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument '%s'", arg);
        return 0;
    case ARGP_KEY_END:
        if (!opts->name || !opts->listen_count || !opts->violin_socket ||
            !opts->state_dir)
            argp_error(state, "--name, --listen, --violin and --state-dir "
                              "are needed");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int main(int argc, char **argv)
{
    static const struct argp argp = {
        .options = options,
        .parser = parse,
        .doc = "The agent of one host: runs, captures and restores its VMs.",
    };
    struct settings settings = {.opts = {.listen = settings.listen}};
    struct vn_err err = VN_ERR_INIT;
    vn_auto(agent) struct agent *agent = NULL;
    vn_auto(free) char *program = NULL;

    argp_err_exit_status = EX_USAGE;
    argp_parse(&argp, argc, argv, 0, NULL, &settings);
    program = vn_format("vnagentd[%s]", settings.opts.name);
    log_set_program(program);
    signal(SIGPIPE, SIG_IGN);
    store_catch_index_faults(program, EXIT_FAILURE);
    agent = agent_new(&settings.opts, &err);
    if (!agent || agent_run(agent, &err) < 0) {
        log_error("%s", err.msg);
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
