/*
 * violind: the virtual Ethernet switch of a host. Runs in the foreground;
 * SIGTERM and SIGINT end it cleanly. All work is in violin/daemon.c.
 */
#include "common/io.h"
#include "common/log.h"
#include "violin/daemon.h"

#include <argp.h>
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_SOCKET "/run/vnstore/violind.sock"
#define QUEUE_SYSCTL   "/proc/sys/net/unix/max_dgram_qlen"
#define QUEUE_LENGTH   4096

const char *argp_program_version = "violind " VN_VERSION;

static struct daemon *running; /* for the signal handler */

struct options {
    const char *socket;
    union tunnel_address underlay;
};

static const struct argp_option option_table[] = {
    {"socket", 's', "PATH", 0, "Control socket (" DEFAULT_SOCKET ")", 0},
    {"underlay", 'u', "ADDR[:PORT]", 0,
     "Address for tunnels to other hosts (0.0.0.0:6081)", 0},
    {0},
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    struct options *options = state->input;
    struct vn_err err = VN_ERR_INIT;

    switch (key) {
    case 's':
        options->socket = arg;
        return 0;
    case 'u':
        if (tunnel_parse_address(arg, &options->underlay, &err))
            argp_error(state, "--underlay: %s", err.msg);
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument '%s'", arg);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    .options = option_table,
    .parser = parse_option,
    .doc = "The virtual Ethernet switch of a host, driven by vnagentd.\v"
           "Runs in the foreground until SIGTERM. Each host of a virtual "
           "network runs one; vnagentd tells it ports and peers.",
};

static void on_signal(int number)
{
    (void)number;
    daemon_stop(running);
}

/*
 * A unix datagram socket holds 10 frames by default, and the limit is taken
 * when a socket is made: raise it before ports come. Per network namespace.
 */
static void raise_queue_length(void)
{
    int fd = open(QUEUE_SYSCTL, O_RDWR | O_CLOEXEC);
    char text[16] = "";

    if (fd >= 0 && read(fd, text, sizeof(text) - 1) > 0 &&
        atol(text) >= QUEUE_LENGTH) {
        close(fd);
        return;
    }
    snprintf(text, sizeof(text), "%d", QUEUE_LENGTH);
    if (fd < 0 || pwrite(fd, text, strlen(text), 0) < 0)
        log_warn("violind: cannot raise " QUEUE_SYSCTL
                 ": short queues towards VMs reason=\"%s\"",
                 strerror(errno));
    if (fd >= 0)
        close(fd);
}

static int serve(const struct options *options, struct vn_err *err)
{
    const struct daemon_opts opts = {.socket_path = options->socket,
                                     .underlay = options->underlay};
    union tunnel_address bound;
    vn_auto(daemon) struct daemon *daemon = NULL;
    struct sigaction action = {.sa_handler = on_signal};
    char underlay[TUNNEL_ADDRESS_SIZE];
    int result;

    raise_queue_length();
    daemon = daemon_new(&opts, err);
    if (!daemon)
        return -1;
    running = daemon;
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    daemon_underlay(daemon, &bound);
    tunnel_format_address(&bound, underlay);
    log_info("violind: ready socket=%s underlay=%s", options->socket, underlay);
    result = daemon_run(daemon, err);
    log_info("violind: ends");
    signal(SIGTERM, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    return result;
}

/* The default socket's folder is ours to make; another is the caller's. */
static int make_default_folder(struct vn_err *err)
{
    return io_make_dirs("/run/vnstore", err);
}

int main(int argc, char **argv)
{
    struct options options = {
        .underlay.v4 = {.sin_family = AF_INET, .sin_port = htons(GENEVE_PORT)}};
    struct vn_err err = VN_ERR_INIT;

    argp_err_exit_status = 64;
    argp_parse(&argp, argc, argv, 0, NULL, &options);
    signal(SIGPIPE, SIG_IGN);
    if (!options.socket && make_default_folder(&err) == 0)
        options.socket = DEFAULT_SOCKET;
    if (err.code || serve(&options, &err)) {
        log_error("violind: %s", err.msg);
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
