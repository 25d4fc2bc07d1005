/* vnstore up VNE.yaml, vnstore down VNE.yaml */

#include "cmd.h"
#include "cmd_network.h"
#include "coord/bringup.h"

#include <stdio.h>

static const struct argp_child children[] = {
    {&cmd_argp_network, 0, NULL, 0},
    {0},
};

struct opts {
    struct cmd_common common;
    struct cmd_network network;
    const char *file;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct opts *opts = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        cmd_network_inputs(state, children, &opts->common, &opts->network);
        return 0;
    case ARGP_KEY_ARG:
        cmd_take_arg(state, arg, &opts->file);
        return 0;
    case ARGP_KEY_NO_ARGS:
        argp_error(state, "no VNE file");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static void parse_all(struct opts *opts, const char *doc, int argc, char **argv)
{
    const struct argp argp = {
        .parser = parse,
        .args_doc = "VNE.yaml",
        .doc = doc,
        .children = children,
    };

    argp_parse(&argp, argc, argv, 0, NULL, opts);
}

int cmd_up(int argc, char **argv, struct vn_err *err)
{
    struct opts opts = {0};
    vn_auto(vne) struct vne *vne = NULL;

    parse_all(&opts,
              "Start the VMs of a virtual network on its hosts, or take "
              "charge of those that run already.",
              argc, argv);
    vne = vne_load(opts.file, err);
    if (!vne || bringup_up(vne, opts.network.tls_dir, err) < 0)
        return -1;
    printf("%s: %zu VMs are up\n", vne->name, vne->vm_count);
    return CMD_OK;
}

int cmd_down(int argc, char **argv, struct vn_err *err)
{
    struct opts opts = {0};
    vn_auto(vne) struct vne *vne = NULL;
    unsigned hosts;

    parse_all(&opts,
              "Stop the VMs of a virtual network, on whatever hosts of the "
              "file they are. VMs that vnstore did not start are let go.",
              argc, argv);
    vne = vne_load(opts.file, err);
    if (!vne || bringup_down(vne, opts.network.tls_dir, &hosts, err) < 0)
        return -1;
    if (hosts == 0)
        return vn_fail(err, VN_E_NOT_FOUND, "VNE '%s' is up on no host",
                       vne->name);
    printf("%s: down on %u hosts\n", vne->name, hosts);
    return CMD_OK;
}
