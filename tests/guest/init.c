/*
 * The oracle as a guest's first process: mounts, modules, address.
 *
 * The initramfs has the modules as /modules/NAME.ko and their order, by
 * dependency, in /modules/order. eth0 becomes 10.77.0.<id>/24.
 */

#include "oracle.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static char command_line[4096];

long oracle_init_parameter(const char *name, long otherwise)
{
    char key[64];
    const char *found;

    snprintf(key, sizeof(key), " %s=", name);
    found = strstr(command_line, key);
    return found ? strtol(found + strlen(key), NULL, 10) : otherwise;
}

static void read_command_line(void)
{
    int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t size = -1;

    command_line[0] = ' '; /* so that a key is always behind a space */
    if (fd >= 0)
        size = read(fd, command_line + 1, sizeof(command_line) - 2);
    command_line[size > 0 ? 1 + size : 1] = '\0';
    if (fd >= 0)
        close(fd);
}

static void load_modules(void)
{
    char name[64], path[96];
    FILE *order = fopen("/modules/order", "re");

    if (!order) {
        printf("ORACLE-FATAL no /modules/order\n");
        return;
    }
    while (fscanf(order, "%63s", name) == 1) {
        int fd;

        snprintf(path, sizeof(path), "/modules/%s", name);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        /* ENODEV: a driver for a hypervisor that is not here. */
        if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) &&
                       errno != EEXIST && errno != ENODEV))
            printf("ORACLE-FATAL module %s: %s\n", name, strerror(errno));
        if (fd >= 0)
            close(fd);
    }
    fclose(order);
}

void oracle_init_system(void)
{
    const char *console;
    int serial;

    mkdir("/proc", 0755);
    mkdir("/sys", 0755);
    mkdir("/dev", 0755);
    mount("proc", "/proc", "proc", 0, "");
    mount("sysfs", "/sys", "sysfs", 0, "");
    mount("dev", "/dev", "devtmpfs", 0, "");
    console = access("/sys/hypervisor/type", R_OK) ? "/dev/ttyS0" : "/dev/hvc0";
    serial = open(console, O_WRONLY | O_NOCTTY);
    if (serial >= 0) {
        dup2(serial, STDOUT_FILENO);
        dup2(serial, STDERR_FILENO);
    }
    read_command_line();
    load_modules();
}

/* eth0 shows up a moment after its module. */
static bool wait_for_interface(int fd, struct ifreq *request)
{
    for (unsigned i = 0; i < 100; i++) {
        if (!ioctl(fd, SIOCGIFFLAGS, request))
            return true;
        usleep(50000);
    }
    return false;
}

static void set_address(int fd, unsigned long what, const char *address)
{
    struct ifreq request = {.ifr_name = "eth0"};
    struct sockaddr_in in = {.sin_family = AF_INET};

    inet_pton(AF_INET, address, &in.sin_addr);
    memcpy(&request.ifr_addr, &in, sizeof(in));
    if (ioctl(fd, what, &request))
        printf("ORACLE-FATAL address %s: %s\n", address, strerror(errno));
}

void oracle_init_network(void)
{
    struct ifreq request = {.ifr_name = "eth0"};
    char address[32];
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (!wait_for_interface(fd, &request)) {
        printf("ORACLE-FATAL no eth0\n");
        close(fd);
        return;
    }
    snprintf(address, sizeof(address), "10.77.0.%u", oracle_opts.id);
    set_address(fd, SIOCSIFADDR, address);
    set_address(fd, SIOCSIFNETMASK, "255.255.255.0");
    set_address(fd, SIOCSIFBRDADDR, "10.77.0.255");
    ioctl(fd, SIOCGIFFLAGS, &request);
    request.ifr_flags |= IFF_UP | IFF_RUNNING;
    if (ioctl(fd, SIOCSIFFLAGS, &request))
        printf("ORACLE-FATAL eth0 up: %s\n", strerror(errno));
    close(fd);
}
