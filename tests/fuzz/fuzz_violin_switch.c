/*
 * The input is a program for one switch: frames from VMs and peers, markers,
 * and the calls of a cut in any order. The switch's invariants must hold after
 * every step, and no frame of a newer epoch may reach a port.
 */
#include "common/cursor.h"
#include "violin/serial.h"
#include "violin/switch.h"

#include <stdlib.h>
#include <string.h>

#define PORTS      3
#define PEERS      2
#define FRAME_SIZE 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct vsw *sw;

/* A frame carries its epoch, where a replayed one has 0 for "any". */
static void make_frame(uint8_t frame[FRAME_SIZE], uint8_t macs, uint8_t known,
                       uint32_t epoch)
{
    memset(frame, 0, FRAME_SIZE);
    frame[0] = macs & 1 ? 0xff : 2;
    frame[5] = macs >> 1 & 7;
    frame[6] = 2;
    frame[11] = macs >> 4;
    frame[14] = known;
    memcpy(frame + 16, &epoch, sizeof(epoch));
}

static void on_deliver(void *context, unsigned port, const void *frame,
                       size_t size)
{
    uint32_t epoch;

    (void)context;
    if (port >= PORTS || size < SWITCH_FRAME_MIN)
        abort();
    if (size != FRAME_SIZE || ((const uint8_t *)frame)[14] == 0)
        return;
    memcpy(&epoch, (const uint8_t *)frame + 16, sizeof(epoch));
    if (serial_newer(epoch, vsw_port_epoch(sw, port)))
        abort();
}

static void on_transmit(void *context, unsigned peer, uint32_t epoch,
                        const void *frame, size_t size)
{
    (void)context;
    (void)epoch;
    (void)frame;
    (void)size;
    if (peer >= PEERS)
        abort();
}

static void on_marker(void *context, unsigned peer,
                      const struct vsw_marker *marker)
{
    (void)context;
    (void)marker;
    if (peer >= PEERS)
        abort();
}

static void on_record(void *context, unsigned port, uint32_t epoch,
                      const void *frame, size_t size)
{
    (void)context;
    (void)frame;
    (void)size;
    if (!serial_older(epoch, vsw_port_epoch(sw, port)))
        abort();
}

static void on_epoch(void *context, uint32_t epoch)
{
    uint32_t armed;

    (void)context;
    if (!vsw_armed(sw, &armed) || armed != epoch)
        abort();
}

static const struct vsw_effects effects = {
    on_deliver, on_transmit, on_marker, on_record, on_epoch, on_epoch,
};

static void step_frames(struct cursor *c, unsigned code, uint64_t now_ns)
{
    uint8_t frame[FRAME_SIZE], macs = cursor_u8(c);
    uint32_t epoch = cursor_le32(c);
    unsigned place = code >> 4;
    size_t size = macs == 0xee ? epoch % 14 : FRAME_SIZE;
    struct vsw_marker marker;

    if (code & 8) /* near the network's epoch, not just anywhere */
        epoch = vsw_epoch(sw) + epoch % 4 - 1;
    make_frame(frame, macs, (code & 3) == 1, epoch);
    switch (code & 3) {
    case 0:
        vsw_from_port(sw, place, frame, size, now_ns);
        break;
    case 1:
        vsw_from_peer(sw, place, epoch, frame, size, now_ns);
        break;
    case 2:
        vsw_replay(sw, place, frame, size);
        break;
    default:
        marker = (struct vsw_marker){.epoch = epoch,
                                     .before = epoch - 1,
                                     .sent = macs % 8,
                                     .ack = macs & 128};
        vsw_marker_from_peer(sw, place, &marker, now_ns);
    }
}

static void step_cut(struct cursor *c, unsigned code, uint64_t now_ns)
{
    uint32_t armed, epoch = vsw_epoch(sw) + cursor_u8(c) % 4;
    unsigned port = (code >> 4) % PORTS;

    switch (code & 7) {
    case 0:
        if (!vsw_armed(sw, &armed) && serial_newer(epoch, vsw_epoch(sw)))
            vsw_arm(sw, epoch, now_ns);
        break;
    case 1:
        vsw_hold(sw, port);
        break;
    case 2:
        vsw_cut(sw, port, now_ns);
        break;
    case 3:
        vsw_release(sw, port);
        break;
    case 4:
        vsw_finish(sw, vsw_armed(sw, &armed) ? armed : epoch);
        break;
    case 5:
        vsw_abort(sw, epoch);
        break;
    case 6:
        vsw_give_up(sw);
        break;
    default:
        vsw_port_del(sw, port);
        vsw_port_add(sw, port, code & 128);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cursor c = cursor_of(data, size < 4096 ? size : 4096);
    uint64_t now_ns = 1000000000;

    sw = vsw_new(&(struct vsw_opts){.epoch = cursor_le32(&c),
                                    .hold_bytes_per_port = 4096,
                                    .effects = &effects});
    for (unsigned i = 0; i < PORTS; i++)
        vsw_port_add(sw, i, false);
    for (unsigned i = 0; i < PEERS; i++)
        vsw_peer_add(sw, i);
    while (cursor_left(&c) > 0) {
        unsigned code = cursor_u8(&c);

        now_ns += 1000000ull * code;
        if (code & 4)
            step_cut(&c, cursor_u8(&c), now_ns);
        else
            step_frames(&c, code, now_ns);
        vsw_tick(sw, now_ns);
    }
    vsw_check(sw);
    vsw_free(sw);
    return 0;
}
