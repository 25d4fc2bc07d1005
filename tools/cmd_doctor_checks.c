#include "cmd_doctor.h"

/*
 * Each check tries the thing itself, as this user, rather than to guess from
 * versions and permissions, and leaves nothing behind.
 */

#include "capture/vm_xen.h"
#include "common/auto.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <linux/userfaultfd.h>
#include <net/if.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define QEMU          "qemu-system-x86_64"
#define QEMU_OLDEST   702 /* major * 100 + minor: tested from here on */
#define DGRAM_QLEN_OK 64  /* datagrams a guest may be ahead of its switch */

#define found(r, ...) snprintf((r)->found, sizeof((r)->found), __VA_ARGS__)
#define hint(r, ...)  snprintf((r)->hint, sizeof((r)->hint), __VA_ARGS__)

/* The first line a program prints, or -1. */
static int first_line(const char *command, char *line, size_t size)
{
    FILE *pipe = popen(command, "re");
    bool got;

    if (!pipe)
        return -1;
    got = fgets(line, (int)size, pipe) != NULL;
    while (fgetc(pipe) != EOF)
        continue;
    if (pclose(pipe) != 0 || !got)
        return -1;
    line[strcspn(line, "\n")] = '\0';
    return 0;
}

/* "QEMU emulator version 7.2.22 (...)" as 702; 0 where it reads otherwise. */
static unsigned long qemu_version(const char *line)
{
    const char *at = strstr(line, "version ");
    char *end = NULL;
    unsigned long major = at ? strtoul(at + strlen("version "), &end, 10) : 0;

    if (major == 0 || major > 1000 || *end != '.')
        return 0;
    return major * 100 + strtoul(end + 1, NULL, 10) % 100;
}

static void check_qemu(struct doctor_result *r)
{
    char line[160];
    unsigned long version;

    if (first_line(QEMU " --version 2>/dev/null", line, sizeof(line)) < 0) {
        r->state = DOCTOR_NO;
        found(r, QEMU " does not run");
        hint(r, "install the package qemu-system-x86");
        return;
    }
    found(r, "%s", line);
    version = qemu_version(line);
    if (version == 0) {
        r->state = DOCTOR_WARN;
        hint(r, "the version is not recognised; 7.2 and later are tested");
    } else if (version < QEMU_OLDEST) {
        r->state = DOCTOR_WARN;
        hint(r, "7.2 and later are tested");
    }
}

/* Does the kernel write-protect memory through this descriptor? */
static bool uffd_protects(int fd)
{
    struct uffdio_api api = {
        .api = UFFD_API,
        .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP,
    };

    return fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0;
}

static void check_userfaultfd(struct doctor_result *r)
{
    vn_auto(close) int by_call =
        (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    int why = errno;
    vn_auto(close) int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    vn_auto(close) int by_device = -1;

    if (uffd_protects(by_call)) {
        found(r, "write protection works");
        return;
    }
    if (by_call >= 0) {
        r->state = DOCTOR_NO;
        found(r, "this kernel cannot write-protect memory");
        hint(r, "Linux 5.7 or later on x86-64; mode stop works without");
        return;
    }
#ifdef USERFAULTFD_IOC_NEW
    if (device >= 0)
        by_device = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
#endif
    r->state = uffd_protects(by_device) ? DOCTOR_WARN : DOCTOR_NO;
    found(r, "%s%s", strerrordesc_np(why),
          r->state == DOCTOR_WARN ? "; /dev/userfaultfd works (QEMU 8.0 on)"
                                  : "");
    hint(r, "run as root, or sysctl vm.unprivileged_userfaultfd=1; mode stop"
            " works without");
}

static void check_kvm(struct doctor_result *r)
{
    vn_auto(close) int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    vn_auto(close) int vm = -1;
    int why = errno;

    if (kvm < 0) {
        r->state = DOCTOR_WARN;
        found(r, "/dev/kvm: %s", strerrordesc_np(why));
        hint(r, why == EACCES ? "join the group kvm"
                              : "guests are emulated (TCG): right but slow");
        return;
    }
    vm = ioctl(kvm, KVM_CREATE_VM, 0);
    if (ioctl(kvm, KVM_GET_API_VERSION, 0) != KVM_API_VERSION || vm < 0) {
        r->state = DOCTOR_WARN;
        found(r, "/dev/kvm is there but makes no VM: %s",
              strerrordesc_np(errno));
        hint(r, "guests are emulated (TCG): right but slow");
        return;
    }
    found(r, "works");
}

static void check_dgram_qlen(struct doctor_result *r)
{
    static const char path[] = "/proc/sys/net/unix/max_dgram_qlen";
    vn_auto(fclose) FILE *file = fopen(path, "re");
    char text[16];
    unsigned long qlen;

    if (!file || !fgets(text, sizeof(text), file)) {
        r->state = DOCTOR_WARN;
        found(r, "%s cannot be read", path);
        return;
    }
    qlen = strtoul(text, NULL, 10);
    found(r, "%lu datagrams", qlen);
    if (qlen < DGRAM_QLEN_OK) {
        r->state = DOCTOR_WARN;
        hint(r, "bursts of guests wait; sysctl net.unix.max_dgram_qlen=512");
    }
}

static void check_tun(struct doctor_result *r)
{
    vn_auto(close) int tun = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    int why = errno;
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};

    if (tun < 0) {
        r->state = DOCTOR_WARN;
        found(r, "/dev/net/tun: %s", strerrordesc_np(why));
        hint(r, "%s; ports of QEMU's dgram kind work without",
             why == EACCES ? "run as root" : "modprobe tun");
        return;
    }
    /* The interface is gone when tun is closed. */
    if (ioctl(tun, TUNSETIFF, &request) < 0) {
        r->state = DOCTOR_WARN;
        found(r, "no TAP interface can be made: %s", strerrordesc_np(errno));
        hint(r, "needs CAP_NET_ADMIN; ports of QEMU's dgram kind work without");
        return;
    }
    found(r, "works");
}

static void check_netns(struct doctor_result *r)
{
    pid_t child = fork();
    int status;

    if (child == 0)
        _exit(unshare(CLONE_NEWNET) == 0 ? 0 : errno);
    if (child < 0 || waitpid(child, &status, 0) != child ||
        !WIFEXITED(status)) {
        r->state = DOCTOR_WARN;
        found(r, "could not be tried");
        return;
    }
    if (WEXITSTATUS(status) != 0) {
        r->state = DOCTOR_WARN;
        found(r, "%s", strerrordesc_np(WEXITSTATUS(status)));
        hint(r, "hosts on one machine need root; ports on loopback work"
                " without");
        return;
    }
    found(r, "works");
}

static bool runs_on_xen(void)
{
    vn_auto(fclose) FILE *file = fopen("/sys/hypervisor/type", "re");
    char type[16] = "";

    return file && fscanf(file, "%15s", type) == 1 && strcmp(type, "xen") == 0;
}

static void check_xen(struct doctor_result *r)
{
    struct vn_err err = VN_ERR_INIT;
    char version[32];

    if (vm_xen_probe(version, &err) == 0) {
        found(r, "Xen %s", version);
        return;
    }
    r->state = DOCTOR_NO;
    if (!vm_xen_built())
        found(r, "built without Xen libraries; %s",
              runs_on_xen() ? "this host runs on Xen"
                            : "this host does not run on Xen");
    else if (!runs_on_xen())
        found(r, "this host does not run on Xen");
    else
        found(r, "%s", err.msg);
    if (runs_on_xen() && !vm_xen_built())
        hint(r, "build where libxen-dev is installed to snapshot its domains");
}

const struct doctor_check doctor_checks[] = {
    {"qemu", "guests", check_qemu},
    {"userfaultfd", "snapshots in mode cow", check_userfaultfd},
    {"kvm", "guests at full speed", check_kvm},
    {"max_dgram_qlen", "network of QEMU guests", check_dgram_qlen},
    {"tun", "TAP ports of the switch", check_tun},
    {"netns", "several hosts on one machine", check_netns},
    {"xen", "Xen guests", check_xen},
};
const size_t doctor_check_count = VN_COUNT(doctor_checks);
