/* Can the back end work here? And where is xl. */
#include "capture/vm_xen_internal.h"

#include "common/io.h"

#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CAPABILITIES "/proc/xen/capabilities"
/* Debian keeps xl beside the libraries of its version, behind a wrapper. */
#define XL_BY_VERSION "/usr/lib/xen-*/bin/xl"

static char xl_path[512];
static pthread_once_t xl_once = PTHREAD_ONCE_INIT;

bool vm_xen_built(void)
{
    return true;
}

static bool try_xl(const char *dir, size_t len)
{
    snprintf(xl_path, sizeof(xl_path), "%.*s/xl", (int)len, dir);
    return access(xl_path, X_OK) == 0;
}

static void find_xl(void)
{
    const char *named = getenv("VN_XL"), *path = getenv("PATH");
    glob_t found;

    if (named && *named) {
        snprintf(xl_path, sizeof(xl_path), "%s", named);
        return;
    }
    while (path && *path) {
        size_t len = strcspn(path, ":");

        if (len && try_xl(path, len))
            return;
        path += len + (path[len] == ':');
    }
    if (try_xl("/usr/sbin", 9))
        return;
    xl_path[0] = '\0';
    if (glob(XL_BY_VERSION, 0, NULL, &found) != 0)
        return;
    /* The last is the newest. */
    snprintf(xl_path, sizeof(xl_path), "%s",
             found.gl_pathv[found.gl_pathc - 1]);
    globfree(&found);
}

const char *vm_xen_xl(struct vn_err *err)
{
    pthread_once(&xl_once, find_xl);
    if (!*xl_path)
        return vn_fail_ptr(err, VN_E_UNSUPPORTED,
                           "xl is not there, neither in PATH nor "
                           "in " XL_BY_VERSION);
    return xl_path;
}

static int check_privileged(struct vn_err *err)
{
    vn_auto(buf) struct buf text;
    struct vn_err ignored = VN_ERR_INIT;

    buf_init(&text, 4096);
    if (io_read_file(CAPABILITIES, &text, &ignored) < 0)
        return vn_fail(err, VN_E_UNSUPPORTED,
                       "this host does not run on Xen, or xenfs is not "
                       "mounted: no " CAPABILITIES);
    if (!strstr((const char *)text.data, "control_d"))
        return vn_fail(err, VN_E_UNSUPPORTED,
                       "this is a Xen guest without control of others "
                       "(no control_d in " CAPABILITIES ")");
    return 0;
}

int vm_xen_probe(char ret_version[32], struct vn_err *err)
{
    vn_auto(vm_xen_host) struct vm_xen_host host = {NULL, NULL};
    xen_extraversion_t extra = "";
    int version;

    if (check_privileged(err) < 0 || vm_xen_host_open(&host, err) < 0)
        return -1;
    version = xc_version(host.xc, XENVER_version, NULL);
    if (version < 0 || xc_version(host.xc, XENVER_extraversion, &extra) < 0)
        return vn_fail(err, errno, "ask the hypervisor for its version");
    if (!vm_xen_xl(err))
        return -1;
    snprintf(ret_version, 32, "%d.%d%.20s", version >> 16, version & 0xffff,
             extra);
    return 0;
}
