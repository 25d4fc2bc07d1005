/*
 * A virtio_net_hdr and a frame, as a guest may give them. Whatever comes out
 * lies within the frame's bytes, follows the order of the payload, and of a
 * segmented frame every part has right checksums and lengths.
 */
#include "violin/offload.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct taken {
    const uint8_t *frame;
    size_t size, count, payload;
    bool segmented;
    struct virtio_net_hdr head;
};

static unsigned long words(const uint8_t *data, size_t size)
{
    unsigned long sum = 0;

    for (size_t i = 0; i < size; i++)
        sum += i % 2 ? data[i] : data[i] * 256ul;
    while (sum > 0xffff)
        sum = sum % 65536 + sum / 65536;
    return sum;
}

static void check_segment(const struct taken *t, const uint8_t *frame,
                          size_t size)
{
    size_t l4 = t->head.csum_start, l4_size = size - l4, l3 = 12;
    unsigned long sum;

    while ((frame[l3] == 0x81 && frame[l3 + 1] == 0) ||
           (frame[l3] == 0x88 && frame[l3 + 1] == 0xa8))
        l3 += 4;
    l3 += 2;
    if (frame[l3] >> 4 == 4) {
        if (words(frame + l3, l4 - l3) != 0xffff ||
            frame[l3 + 2] * 256u + frame[l3 + 3] != size - l3)
            abort();
        sum = words(frame + l3 + 12, 8);
    } else {
        if (frame[l3 + 4] * 256u + frame[l3 + 5] != size - l3 - 40)
            abort();
        sum = words(frame + l3 + 8, 32);
    }
    sum += words(frame + l4, l4_size) + 6 + l4_size;
    while (sum > 0xffff)
        sum = sum % 65536 + sum / 65536;
    if (sum != 0xffff)
        abort();
}

static void take(void *context, const uint8_t *frame, size_t size)
{
    struct taken *t = context;

    if (frame < t->frame || frame + size > t->frame + t->size)
        abort();
    t->count++;
    if (!t->segmented) {
        if (frame != t->frame || size != t->size)
            abort();
        return;
    }
    check_segment(t, frame, size);
    t->payload +=
        size - t->head.csum_start - (frame[t->head.csum_start + 12] >> 4) * 4u;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct taken t = {0};
    uint8_t *frame;
    bool done;

    if (size < sizeof(t.head) || size > 70000)
        return 0;
    memcpy(&t.head, data, sizeof(t.head));
    t.size = size - sizeof(t.head);
    t.segmented = t.head.gso_type != VIRTIO_NET_HDR_GSO_NONE;
    frame = malloc(t.size ? t.size : 1); /* exact, for the sanitizer */
    if (!frame)
        return 0;
    memcpy(frame, data + sizeof(t.head), t.size);
    t.frame = frame;
    done = offload_finish(&t.head, frame, t.size, take, &t);
    if (done != (t.count > 0) || (!t.segmented && t.count > 1) ||
        t.count > t.size / OFFLOAD_MSS_MIN + 1 || t.payload > t.size)
        abort();
    free(frame);
    return 0;
}
