#ifndef VIOLIN_GENEVE_H
#define VIOLIN_GENEVE_H

/*
 * Packets between switches: Geneve (RFC 8926) with one option of ours.
 * docs/formats/geneve.md.
 */

#include "common/err.h"
#include "violin/switch.h"

#include <stddef.h>
#include <stdint.h>

#define GENEVE_PORT        6081
#define GENEVE_VNI_MAX     0xffffffu
#define GENEVE_CLASS       0xff01 /* experimental range, RFC 8926 section 7 */
#define GENEVE_TYPE_EPOCH  0x81   /* critical: epoch u32 */
#define GENEVE_TYPE_MARKER 0x82   /* critical: see the format document */
/* What precedes the Ethernet frame; all of a marker packet. */
#define GENEVE_FRAME_HEADER_SIZE 16
#define GENEVE_MARKER_SIZE       36

struct geneve_packet {
    uint32_t vni;
    bool is_marker;
    struct vsw_marker marker; /* if is_marker */
    uint32_t epoch;           /* else these: */
    const uint8_t *frame;     /* inside the data that was decoded */
    size_t frame_size;
};

/*
 * Read one datagram. VN_E_FORMAT where it is cut short, is no Ethernet
 * payload, lacks our option, has it twice or badly sized, or carries a critical
 * option that we do not know. The frame itself is not looked at.
 */
int geneve_decode(const void *data, size_t size, struct geneve_packet *ret,
                  struct vn_err *err) VN_MUST_USE;

/* The header to put before a frame. vni <= GENEVE_VNI_MAX. */
void geneve_encode_frame(uint8_t out[GENEVE_FRAME_HEADER_SIZE], uint32_t vni,
                         uint32_t epoch);
void geneve_encode_marker(uint8_t out[GENEVE_MARKER_SIZE], uint32_t vni,
                          const struct vsw_marker *marker);

#endif
