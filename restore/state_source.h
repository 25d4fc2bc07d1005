#ifndef RESTORE_STATE_SOURCE_H
#define RESTORE_STATE_SOURCE_H

/*
 * The state of one VM of a snapshot as the stream that its back end loads,
 * whichever back end that is: "qemu" (qemu_stream_write.h), "xen" (xl's
 * framing, xen_stream_write.h) or "sim" (tests; capture/vm_sim.h).
 */

#include "capture/vm.h"

struct state_source;

/*
 * For the VM `config->name` and its back end. Checks that the snapshot holds
 * what the stream needs. VN_E_UNSUPPORTED for other back ends. `store` and
 * `config` must outlive the source; `manifest` need not. Paths of disks in
 * `config` may still change before the stream is written.
 */
struct state_source *state_source_open(struct store *store,
                                       const json_t *manifest,
                                       const struct vm_config *config,
                                       struct vn_err *err) VN_MUST_USE;
void state_source_free(struct state_source *source);

/* Can the state be loaded on this very host? VN_E_UNSUPPORTED says why not. */
int state_source_check_host(const struct state_source *source,
                            struct vn_err *err) VN_MUST_USE;

/* The machine type that the stream is for, borrowed; NULL: any. */
const char *state_source_machine(const struct state_source *source);

/* Write the whole stream, blocking; as qemu_stream_source_write(). */
int state_source_write(struct state_source *source, int fd,
                       struct vn_err *err) VN_MUST_USE;

VN_AUTO_DEFINE(state_source, struct state_source *, state_source_free)

#endif
