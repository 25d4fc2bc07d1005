#ifndef COMMON_IO_H
#define COMMON_IO_H

/* Whole reads and writes on descriptors and files. All block. */

#include "common/buf.h"
#include "common/err.h"

#include <stdint.h>
#include <sys/types.h>

/* Read exactly `size` bytes; VN_E_PEER "ended after N of M bytes" on EOF. */
int io_read(int fd, void *data, size_t size, struct vn_err *err) VN_MUST_USE;
int io_pread(int fd, void *data, size_t size, uint64_t offset,
             struct vn_err *err) VN_MUST_USE;
/* Have the kernel read a range that will be wanted soon. A hint: does not wait
 * for the disk, and does not fail. */
void io_read_ahead(int fd, uint64_t offset, uint64_t size);
int io_write(int fd, const void *data, size_t size,
             struct vn_err *err) VN_MUST_USE;
int io_pwrite(int fd, const void *data, size_t size, uint64_t offset,
              struct vn_err *err) VN_MUST_USE;

/* A whole file into `out` (initialised by the caller, which sets the limit).
 * The bytes are followed by a NUL that is not counted. */
int io_read_file(const char *path, struct buf *out,
                 struct vn_err *err) VN_MUST_USE;

/*
 * Replace a file atomically and durably: temporary name beside it, fsync,
 * rename, fsync of the directory.
 */
int io_replace_file(const char *path, const void *data, size_t size,
                    struct vn_err *err) VN_MUST_USE;

/* mkdir -p, mode 0700 for what is created, durably. */
int io_make_dirs(const char *path, struct vn_err *err) VN_MUST_USE;

/* Durably record the names in a directory. */
int io_sync_dir(const char *path, struct vn_err *err) VN_MUST_USE;
/* The same for the directory in which the path lies. */
int io_sync_parent(const char *path, struct vn_err *err) VN_MUST_USE;

/* n random bytes from the kernel. */
int io_random(void *data, size_t size, struct vn_err *err) VN_MUST_USE;

/* Lower-case hex of `size` bytes into out (2 * size + 1). */
void io_hex(const void *data, size_t size, char *out);
/* The reverse; fails unless text is exactly 2 * size hex digits. */
int io_unhex(const char *text, void *data, size_t size,
             struct vn_err *err) VN_MUST_USE;

/* "256M", "4G", "1048576" into bytes: suffixes K M G T, powers of 1024. */
int io_parse_size(const char *text, uint64_t *ret_bytes,
                  struct vn_err *err) VN_MUST_USE;
/* "1.2 GiB" into out. */
void io_format_size(uint64_t bytes, char out[16]);

#endif
