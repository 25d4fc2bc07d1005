/* The Xen back end where the Xen libraries are not there. */
#include "capture/vm_xen.h"

#define MISSING "this build has no Xen back end: libxen-dev was not there"

static struct vm *no_vm(const struct vm_config *config, const char *state_dir,
                        struct vn_err *err)
{
    (void)state_dir;
    return vn_fail_ptr(err, VN_E_UNSUPPORTED, "VM '%s': " MISSING,
                       config->name);
}

/* No VM of this back end exists, so nothing else of it is ever called. */
const struct vm_backend vm_xen_backend = {
    .name = "xen",
    .start = no_vm,
    .attach = no_vm,
    .create = no_vm,
};

bool vm_xen_built(void)
{
    return false;
}

int vm_xen_probe(char ret_version[32], struct vn_err *err)
{
    ret_version[0] = '\0';
    return vn_fail(err, VN_E_UNSUPPORTED, MISSING);
}

int vm_xen_rescue(const char *address, uint64_t deadline_ns, bool *ret_stood,
                  struct vn_err *err)
{
    (void)deadline_ns;
    *ret_stood = false;
    return vn_fail(err, VN_E_UNSUPPORTED, "%s: " MISSING, address);
}

int vm_xen_check_cpu(const uint8_t *leaves, size_t size, bool is_pv,
                     struct vn_err *err)
{
    (void)leaves;
    (void)size;
    (void)is_pv;
    return vn_fail(err, VN_E_UNSUPPORTED, MISSING);
}
