#ifndef RESTORE_QEMU_STREAM_WRITE_H
#define RESTORE_QEMU_STREAM_WRITE_H

/*
 * A QEMU migration stream synthesised from a snapshot: what an emulator,
 * started with -incoming, loads as if the VM came from another host.
 */

#include "common/auto.h"
#include "common/err.h"
#include "store/store.h"

#include <jansson.h>
#include <stdint.h>

struct qemu_stream_source;

/*
 * Gather what the stream of `vm` is made of and check all of it that can be
 * checked without reading the memory: the manifest's entry (capture/
 * qemu_objects.h), an object for each block with just that block's size, the
 * device state. So a snapshot that cannot be restored fails here, before an
 * emulator is started. `store` must outlive the source; `manifest` need not.
 */
struct qemu_stream_source *
qemu_stream_source_open(struct store *store, const json_t *manifest,
                        const char *vm, struct vn_err *err) VN_MUST_USE;
void qemu_stream_source_free(struct qemu_stream_source *source);

/* The machine type that the emulator must be started with. Borrowed. */
const char *qemu_stream_source_machine(const struct qemu_stream_source *source);

/*
 * Write the whole stream to `fd`, blocking, in writes of 1 MiB. Fails with
 * EPIPE when the reader is gone (SIGPIPE must be ignored or blocked), with
 * VN_E_CORRUPT for damaged chunks. May be called again for another reader.
 */
int qemu_stream_source_write(struct qemu_stream_source *source, int fd,
                             struct vn_err *err) VN_MUST_USE;

VN_AUTO_DEFINE(qemu_stream_source, struct qemu_stream_source *,
               qemu_stream_source_free)

#endif
