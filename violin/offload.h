#ifndef VIOLIN_OFFLOAD_H
#define VIOLIN_OFFLOAD_H

/*
 * What a guest leaves to its network card: checksums and TCP segmentation.
 *
 * A frame of a paravirtual card comes with a header (virtio 1.1, 5.1.6; the
 * kernel gives it before each frame of a packet socket). Switch, tunnel and
 * other VMs know plain frames only, so the work is done here, once, where the
 * frame enters. Pure: no I/O, no state. Header and frame are the guest's, and
 * taken as hostile.
 */

#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * The smallest segment size that is accepted: what Linux sends at least
 * (tcp_min_snd_mss, 48) less the usual options. It bounds what one frame of a
 * guest can turn into: 2048 frames.
 */
#define OFFLOAD_MSS_MIN 32u

/* Takes a plain frame, valid during the call. */
typedef void offload_frame_fn(void *context, const uint8_t *frame, size_t size);

/*
 * Turn `frame` into plain frames and call `each` for them, in order: once, or
 * for a frame that is to be segmented, once a segment. The frame's bytes are
 * changed, and worthless afterwards. `head` is in the host's byte order.
 *
 * False, and no call: the header makes no sense for this frame, or wants
 * something else than the above. A frame that wants nothing is passed on as
 * it is, whatever it holds.
 */
bool offload_finish(const struct virtio_net_hdr *head, uint8_t *frame,
                    size_t size, offload_frame_fn *each, void *context);

#endif
