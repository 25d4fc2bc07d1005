/*
 * A domain whose agent died or hangs in the middle of a snapshot.
 *
 * What may be found: a suspend request that the guest has not taken yet, which
 * is taken back; a domain that is suspended, or paused by xl or by us; one that
 * runs but is on its way into a suspend, so "running" is believed only after a
 * while. Dirty logging that a killed saver left on costs speed, and is turned
 * off unless libxl uses it.
 */
#include "capture/vm_xen_internal.h"

#include "common/clock.h"
#include "common/io.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PREFIX     "xen:"
#define LOOK_US    20000
#define BELIEVE_NS (2 * VN_SEC)
#define DOMID_MAX  0x7fefu

static int parse_hex(const char *text, uint8_t *ret, struct vn_err *err)
{
    char digits[VM_XEN_UUID_SIZE * 2 + 1];
    size_t n = 0;

    for (; *text && n < sizeof(digits) - 1; text++)
        if (*text != '-')
            digits[n++] = *text;
    digits[n] = '\0';
    if (*text)
        return vn_fail(err, VN_E_FORMAT, "no UUID");
    return io_unhex(digits, ret, VM_XEN_UUID_SIZE, err);
}

static int parse_address(const char *address, struct vm_xen_id *ret,
                         struct vn_err *err)
{
    unsigned domid;
    int used = 0;

    if (sscanf(address, PREFIX "%u:%n", &domid, &used) != 1 || !used ||
        domid == 0 || domid > DOMID_MAX ||
        parse_hex(address + used, ret->uuid, err) < 0)
        return vn_fail(err, VN_E_FORMAT,
                       "rescue address '%.100s': expected xen:DOMID:UUID",
                       address);
    ret->domid = domid;
    return 0;
}

/* *ret_again: it may still change. */
static int look_once(const struct vm_xen_host *host, const struct vm_xen_id *id,
                     uint64_t *running_since_ns, bool *ret_stood,
                     bool *ret_again, struct vn_err *err)
{
    uint64_t now_ns = clock_now_ns();
    bool stood = false;

    *ret_again = true;
    (void)vm_xen_take_back(host->xs, id);
    if (vm_xen_let_run(host, id, &stood, NULL, err) < 0)
        return -1;
    if (stood) {
        *ret_stood = true;
        *running_since_ns = 0;
        return 0;
    }
    if (!*running_since_ns)
        *running_since_ns = now_ns;
    /* What was resumed is not on its way into a suspend. */
    *ret_again = now_ns - *running_since_ns <
                 (*ret_stood ? BELIEVE_NS / 20 : BELIEVE_NS);
    return 0;
}

int vm_xen_rescue(const char *address, uint64_t deadline_ns, bool *ret_stood,
                  struct vn_err *err)
{
    vn_auto(vm_xen_host) struct vm_xen_host host = {NULL, NULL};
    struct vn_err ignored = VN_ERR_INIT;
    struct vm_xen_id id;
    uint64_t running_since_ns = 0;
    bool stood = false, again = true;

    if (parse_address(address, &id, err) < 0 ||
        vm_xen_host_open(&host, err) < 0)
        return -1;
    while (again) {
        if (look_once(&host, &id, &running_since_ns, &stood, &again, err) < 0 &&
            (err->code == VN_E_NOT_FOUND || clock_now_ns() > deadline_ns))
            return vn_wrap(err, "%s", address);
        if (clock_now_ns() > deadline_ns && running_since_ns)
            break;
        usleep(LOOK_US);
    }
    if (vm_xen_no_other_saver(id.domid, &ignored) == 0)
        (void)xc_shadow_control(host.xc, id.domid, XEN_DOMCTL_SHADOW_OP_OFF,
                                NULL, 0);
    *ret_stood = stood;
    return 0;
}
