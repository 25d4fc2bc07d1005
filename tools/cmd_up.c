/* vnstore up VNE.yaml, vnstore down VNE.yaml */

#include "cmd.h"
#include "coord/bringup.h"

#include <stdio.h>

int cmd_up(int argc, char **argv, struct vn_err *err)
{
    static const struct cmd_syntax syntax = {
        .common = CMD_NETWORK,
        .args = "VNE.yaml",
        .doc = "Start the VMs of a virtual network on its hosts, or take "
               "charge of those that run already.",
    };
    struct cmd_common common;
    vn_auto(vne) struct vne *vne = NULL;

    cmd_parse(&syntax, argc, argv, &common, NULL);
    vne = vne_load(common.arg[0], err);
    if (!vne || bringup_up(vne, common.tls_dir, err) < 0)
        return -1;
    printf("%s: %zu VMs are up\n", vne->name, vne->vm_count);
    return CMD_OK;
}

int cmd_down(int argc, char **argv, struct vn_err *err)
{
    static const struct cmd_syntax syntax = {
        .common = CMD_NETWORK,
        .args = "VNE.yaml",
        .doc = "Stop the VMs of a virtual network, on whatever hosts of the "
               "file they are. VMs that vnstore did not start are let go.",
    };
    struct cmd_common common;
    vn_auto(vne) struct vne *vne = NULL;
    unsigned hosts;

    cmd_parse(&syntax, argc, argv, &common, NULL);
    vne = vne_load(common.arg[0], err);
    if (!vne || bringup_down(vne, common.tls_dir, &hosts, err) < 0)
        return -1;
    if (hosts == 0)
        return vn_fail(err, VN_E_NOT_FOUND, "VNE '%s' is up on no host",
                       vne->name);
    printf("%s: down on %u hosts\n", vne->name, hosts);
    return CMD_OK;
}
