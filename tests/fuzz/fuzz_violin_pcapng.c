/*
 * A file of recorded frames from anywhere. Frames must lie inside the input
 * and have a possible size; the reader must end.
 */
#include "violin/pcapng.h"
#include "violin/switch.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct vn_err err = VN_ERR_INIT;
    struct pcapng_reader r;
    struct pcapng_frame frame;
    int got;

    pcapng_open(&r, data, size);
    while ((got = pcapng_next(&r, &frame, &err)) > 0) {
        if (frame.data < data || frame.data + frame.size > data + size ||
            frame.size < SWITCH_FRAME_MIN || frame.size > SWITCH_FRAME_MAX)
            abort();
    }
    if (got < 0 && err.code != VN_E_FORMAT)
        abort();
    return 0;
}
