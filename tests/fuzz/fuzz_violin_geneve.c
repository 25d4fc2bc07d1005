/*
 * A datagram from the underlay. What is accepted must lie inside the input,
 * and a marker must survive being written again.
 */
#include "violin/geneve.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct vn_err err = VN_ERR_INIT;
    struct geneve_packet p, again;
    uint8_t out[GENEVE_MARKER_SIZE];

    if (geneve_decode(data, size, &p, &err)) {
        if (err.code != VN_E_FORMAT)
            abort();
        return 0;
    }
    if (p.vni > GENEVE_VNI_MAX)
        abort();
    if (!p.is_marker) {
        if (p.frame < data || p.frame + p.frame_size != data + size)
            abort();
        return 0;
    }
    geneve_encode_marker(out, p.vni, &p.marker);
    if (geneve_decode(out, sizeof(out), &again, &err) || again.vni != p.vni ||
        again.marker.epoch != p.marker.epoch ||
        again.marker.before != p.marker.before ||
        again.marker.sent != p.marker.sent || again.marker.ack != p.marker.ack)
        abort();
    return 0;
}
