#ifndef VIOLIN_PORT_INTERNAL_H
#define VIOLIN_PORT_INTERNAL_H

/*
 * What port.c (reading, the egress queue, life) and the kinds of ports share:
 * port_socket.c (fd and unix), port_tap.c, port_packet.c.
 *
 * A kind embeds struct port as its first member, allocates itself, and calls
 * port_start(). The rest comes back through its vtable; all members are
 * mandatory.
 */

#include "violin/hold.h"
#include "violin/port.h"
#include "violin/switch.h"

/* To read into: the largest frame, room to tell a larger one, and a VLAN tag
 * that a kind may have to put in. */
#define PORT_BUFFER_SIZE ((size_t)SWITCH_FRAME_MAX + 2 + 4)
#define PORT_BATCH       32

enum port_sent {
    PORT_SENT,
    PORT_FULL,   /* try again later */
    PORT_REFUSED /* cannot be sent, now or ever */
};

struct port_kind {
    const char *name;
    /* When full, try again after retry_us, then after twice that and so on up
     * to retry_max_us; 0: the descriptor says when it is writable. */
    unsigned retry_us, retry_max_us;
    /*
     * Read up to PORT_BATCH frames, port_take_frame() for each. Returns
     * PORT_BATCH where more may be there, less when none are left.
     */
    unsigned (*read)(struct port *port);
    enum port_sent (*send)(struct port *port, const void *frame, size_t size);
    /* Has the VM's side consumed what was sent? The egress queue is empty. */
    bool (*is_settled)(struct port *port, uint64_t now_ns);
    /* Bring port->counts up to date. */
    void (*count)(struct port *port);
    /* Give back what the kind has made, not the descriptor. */
    void (*done)(struct port *port);
};

struct port {
    const struct port_kind *kind;
    struct port_loop *loop;
    int fd;
    struct event *readable;
    struct event *writable; /* a timer where kind->retry_us */
    unsigned retry_us;      /* the next wait */
    const struct port_events *events;
    void *context;
    struct hold egress;
    uint64_t last_send_ns;
    struct port_counts counts;
};

/*
 * Begin to read: `port` is zeroed but for what is the kind's own. On failure
 * fd and port are still the caller's.
 */
int port_start(struct port *port, const struct port_kind *kind,
               struct port_loop *loop, int fd, const struct port_events *events,
               void *context, struct vn_err *err) VN_MUST_USE;

/* Count and pass on a frame from the VM. */
void port_take_frame(struct port *port, const uint8_t *frame, size_t size);

/* For kinds that have nothing to do. */
void port_nothing(struct port *port);

#define PORT_SOCKET_BUFFER (8 << 20)
/* Let the socket hold `size` unread bytes each way, as far as allowed. */
void port_raise_buffers(int fd, int send_size, int receive_size);

#endif
