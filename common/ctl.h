#ifndef COMMON_CTL_H
#define COMMON_CTL_H

/*
 * Control sockets: one packet, one JSON object, up to CTL_FDS_MAX descriptors.
 *
 * SOCK_SEQPACKET unix sockets, so packets keep their bounds and SCM_RIGHTS its
 * place. An object whose text is longer than CTL_PACKET_MAX travels in a
 * sealed memfd beside the packet; callers do not notice. Only root and the
 * uid of the listener may connect.
 *
 *     request  {"id":7,"call":"name","args":{...}}
 *     reply    {"id":7,"ok":{...}}  or
 * {"id":7,"error":{"code":..,"message":..}} notice   {"notice":"name",...}
 *
 * Replies may overtake each other. docs/formats/violin-control.md.
 */

#include "common/auto.h"
#include "common/err.h"

#include <jansson.h>
#include <stdint.h>

#define CTL_PACKET_MAX (128u * 1024) /* bytes of text in a packet */
#define CTL_OBJECT_MAX (16u << 20)   /* bytes of text in a memfd */
#define CTL_FDS_MAX    4

struct ctl_packet {
    json_t *json;         /* an object; owned */
    int fds[CTL_FDS_MAX]; /* owned, close-on-exec */
    unsigned fd_count;
};

/*
 * Listen at `path` (mode 0600, non-blocking). A socket there that nobody
 * listens on is replaced; one in use is EADDRINUSE.
 */
int ctl_listen(const char *path, struct vn_err *err) VN_MUST_USE;
/*
 * Accept a connection, non-blocking. Fails with EAGAIN when there is none and
 * EPERM for a foreign uid (its connection is closed).
 */
int ctl_accept(int listener, struct vn_err *err) VN_MUST_USE;
/* Connect; the descriptor blocks. */
int ctl_connect(const char *path, struct vn_err *err) VN_MUST_USE;

/*
 * Send an object and copies of descriptors (at most CTL_FDS_MAX, one less
 * for an object above CTL_PACKET_MAX). Blocks only if fd does; else EAGAIN.
 * A peer that is gone is VN_E_PEER; there is no SIGPIPE.
 */
int ctl_send(int fd, const json_t *json, const int *fds, unsigned fd_count,
             struct vn_err *err) VN_MUST_USE;
/*
 * Receive one packet: 1; the peer closed: 0; -1 on failure: EAGAIN (try
 * later), else VN_E_FORMAT, VN_E_LIMIT or an errno, after which the
 * connection should be closed. Nothing stays open after a failure.
 */
int ctl_recv(int fd, struct ctl_packet *ret, struct vn_err *err) VN_MUST_USE;
/* Close and free what is still in it. */
void ctl_packet_done(struct ctl_packet *packet);
/* Take descriptor `index` out of the packet; -1 when it has none there. */
int ctl_packet_take_fd(struct ctl_packet *packet, unsigned index);

/* The objects above. `args` and `ok` are stolen; NULL stands for {}. */
json_t *ctl_request(uint64_t id, const char *call, json_t *args);
json_t *ctl_reply_ok(uint64_t id, json_t *ok);
json_t *ctl_reply_error(uint64_t id, const struct vn_err *failure);
/*
 * Judge a reply: 0 and its "ok" object (borrowed), or the error in it raised
 * again, with its code.
 */
int ctl_reply_read(const json_t *reply, json_t **ret_ok,
                   struct vn_err *err) VN_MUST_USE;

/*
 * A memfd with these bytes, sealed against every change, read offset 0, so
 * that its reader may map it without fear of SIGBUS.
 */
int ctl_memfd(const char *name, const void *data, size_t size,
              struct vn_err *err) VN_MUST_USE;
/*
 * The bytes of a descriptor that came from elsewhere, copied to *ret (free):
 * at most `max`. Any regular file or memfd will do.
 */
int ctl_read_fd(int fd, size_t max, void **ret, size_t *ret_size,
                struct vn_err *err) VN_MUST_USE;

static inline void vn_auto_ctl_packet(struct ctl_packet *packet)
{
    ctl_packet_done(packet);
}

#endif
