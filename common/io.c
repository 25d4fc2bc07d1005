#include "common/io.h"

#include "common/auto.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

int io_read(int fd, void *data, size_t size, struct vn_err *err)
{
    size_t done = 0;

    while (done < size) {
        ssize_t n = read(fd, (uint8_t *)data + done, size - done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return vn_fail(err, errno, "read");
        if (n == 0)
            return vn_fail(err, VN_E_PEER, "ended after %zu of %zu bytes", done,
                           size);
        done += (size_t)n;
    }
    return 0;
}

int io_pread(int fd, void *data, size_t size, uint64_t offset,
             struct vn_err *err)
{
    size_t done = 0;

    while (done < size) {
        ssize_t n = pread(fd, (uint8_t *)data + done, size - done,
                          (off_t)(offset + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return vn_fail(err, errno, "read at %llu",
                           (unsigned long long)offset);
        if (n == 0)
            return vn_fail(err, VN_E_CORRUPT,
                           "ends %zu bytes into %zu wanted at %llu", done, size,
                           (unsigned long long)offset);
        done += (size_t)n;
    }
    return 0;
}

void io_read_ahead(int fd, uint64_t offset, uint64_t size)
{
    /* Linux reads no more for one advice than the device takes in one request,
     * and forgets the rest. */
    const uint64_t step = 1u << 20;

    for (uint64_t done = 0; done < size; done += step)
        (void)posix_fadvise(fd, (off_t)(offset + done),
                            (off_t)(size - done < step ? size - done : step),
                            POSIX_FADV_WILLNEED);
}

int io_write(int fd, const void *data, size_t size, struct vn_err *err)
{
    size_t done = 0;

    while (done < size) {
        ssize_t n = write(fd, (const uint8_t *)data + done, size - done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return vn_fail(err, errno, "write");
        done += (size_t)n;
    }
    return 0;
}

int io_pwrite(int fd, const void *data, size_t size, uint64_t offset,
              struct vn_err *err)
{
    size_t done = 0;

    while (done < size) {
        ssize_t n = pwrite(fd, (const uint8_t *)data + done, size - done,
                           (off_t)(offset + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return vn_fail(err, errno, "write at %llu",
                           (unsigned long long)offset);
        done += (size_t)n;
    }
    return 0;
}

int io_read_file(const char *path, struct buf *out, struct vn_err *err)
{
    vn_auto(close) int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return vn_fail(err, errno, "open '%s'", path);
    for (;;) {
        uint8_t *to = buf_reserve(out, 65536);
        ssize_t n;

        if (!to && out->size < out->limit) {
            /* Near the limit: one byte at a time decides it. */
            out->broken = false;
            to = buf_reserve(out, 1);
            n = to ? read(fd, to, 1) : -1;
        } else {
            n = to ? read(fd, to, 65536) : 0;
        }
        if (!to)
            return vn_fail(err, VN_E_LIMIT, "'%s' is larger than %zu bytes",
                           path, out->limit);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return vn_fail(err, errno, "read '%s'", path);
        if (n == 0)
            break;
        out->size += (size_t)n;
    }
    if (!buf_reserve(out, 1))
        return vn_fail(err, VN_E_LIMIT, "'%s' is larger than %zu bytes", path,
                       out->limit);
    out->data[out->size] = 0;
    return 0;
}

int io_sync_dir(const char *path, struct vn_err *err)
{
    vn_auto(close) int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        return vn_fail(err, errno, "open directory '%s'", path);
    if (fsync(fd) < 0)
        return vn_fail(err, errno, "sync directory '%s'", path);
    return 0;
}

int io_sync_parent(const char *path, struct vn_err *err)
{
    vn_auto(free) char *dir = vn_strdup(path);
    size_t len = strlen(dir);

    while (len > 1 && dir[len - 1] == '/') /* "a/b/" lies in "a" */
        len--;
    while (len > 0 && dir[len - 1] != '/')
        len--;
    dir[len > 1 ? len - 1 : len] = 0;
    return io_sync_dir(len > 0 ? dir : ".", err);
}

static int write_and_rename(int fd, const char *temporary, const char *path,
                            const void *data, size_t size, struct vn_err *err)
{
    if (io_write(fd, data, size, err) < 0)
        return vn_wrap(err, "'%s'", temporary);
    if (fsync(fd) < 0)
        return vn_fail(err, errno, "sync '%s'", temporary);
    if (rename(temporary, path) < 0)
        return vn_fail(err, errno, "rename to '%s'", path);
    return 0;
}

int io_replace_file(const char *path, const void *data, size_t size,
                    struct vn_err *err)
{
    vn_auto(free) char *temporary = vn_format("%s.tmp-XXXXXX", path);
    vn_auto(close) int fd = mkostemp(temporary, O_CLOEXEC);

    if (fd < 0)
        return vn_fail(err, errno, "create '%s'", temporary);
    if (write_and_rename(fd, temporary, path, data, size, err) < 0) {
        unlink(temporary);
        return -1;
    }
    return io_sync_parent(path, err);
}

int io_make_dirs(const char *path, struct vn_err *err)
{
    vn_auto(free) char *copy = vn_strdup(path);

    for (char *p = copy + 1;; p++) {
        char c = *p;

        if (c != '/' && c != 0)
            continue;
        *p = 0;
        if (mkdir(copy, 0700) == 0) {
            if (io_sync_parent(copy, err) < 0)
                return -1;
        } else if (errno != EEXIST) {
            return vn_fail(err, errno, "make directory '%s'", copy);
        }
        if (c == 0)
            return 0;
        *p = c;
    }
}

int io_random(void *data, size_t size, struct vn_err *err)
{
    if (getrandom(data, size, 0) != (ssize_t)size)
        return vn_fail(err, errno ? errno : EIO, "read random bytes");
    return 0;
}

void io_hex(const void *data, size_t size, char *out)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *p = data;

    for (size_t i = 0; i < size; i++) {
        out[2 * i] = digits[p[i] >> 4];
        out[2 * i + 1] = digits[p[i] & 15];
    }
    out[2 * size] = 0;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

int io_unhex(const char *text, void *data, size_t size, struct vn_err *err)
{
    uint8_t *p = data;

    if (strlen(text) != 2 * size)
        return vn_fail(err, VN_E_FORMAT, "'%.80s' is not %zu hex digits", text,
                       2 * size);
    for (size_t i = 0; i < 2 * size; i++)
        if (hex_digit(text[i]) < 0)
            return vn_fail(err, VN_E_FORMAT, "'%.80s' is not hexadecimal",
                           text);
    for (size_t i = 0; i < size; i++)
        p[i] =
            (uint8_t)(hex_digit(text[2 * i]) << 4 | hex_digit(text[2 * i + 1]));
    return 0;
}

int io_parse_size(const char *text, uint64_t *ret_bytes, struct vn_err *err)
{
    static const char suffixes[] = "KMGT";
    const char *suffix;
    uint64_t value;
    char *end;
    int shift = 0;

    errno = 0;
    value = strtoull(text, &end, 10);
    if (end == text || errno || *text == '-')
        return vn_fail(err, VN_E_FORMAT, "'%.40s' is not a size", text);
    suffix = *end ? strchr(suffixes, *end & ~0x20) : NULL;
    if (suffix) {
        shift = 10 * (int)(suffix - suffixes + 1);
        end++;
        if (strcmp(end, "iB") == 0)
            end += 2;
    }
    if (*end || (shift && value >> (64 - shift)))
        return vn_fail(err, VN_E_FORMAT, "'%.40s' is not a size", text);
    *ret_bytes = value << shift;
    return 0;
}

void io_format_size(uint64_t bytes, char out[16])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    double value = (double)bytes;
    size_t unit = 0;

    while (value >= 1024 && unit + 1 < VN_COUNT(units)) {
        value /= 1024;
        unit++;
    }
    snprintf(out, 16, unit && value < 100 ? "%.1f %s" : "%.0f %s", value,
             units[unit]);
}
