/*
 * Checksums and TCP segmentation in software.
 *
 * How it works. A partial checksum: the guest has put the sum of the pseudo
 * header into the field; the sum from csum_start to the end of the frame,
 * with that field in it, is the checksum.
 *
 * Segmentation: the headers are saved; each segment then gets a copy of them
 * right before its payload, over the end of the payload before it, which is
 * sent by then. So payload is never moved. Lengths, IP id, sequence number,
 * flags and checksums are written anew for each segment, nothing of that is
 * taken from the guest: FIN and PSH belong to the last segment, CWR to the
 * first (RFC 3168, 6.1.2), the IPv4 id counts up.
 *
 * Internet checksums (RFC 1071) do not depend on the byte order as long as
 * the sum is loaded and stored in the same one; here it is the machine's.
 *
 * Limits: two VLAN tags, HEADERS_MAX bytes of headers; IPv6 extension headers
 * that do not change the pseudo header (hop-by-hop and destination options).
 * Concurrency: none. Not done: UDP segmentation, which no netfront asks for.
 */
#include "violin/offload.h"

#include <string.h>

#define ETHERNET_SIZE  14u
#define VLAN_SIZE      4u
#define VLAN_TAGS_MAX  2
#define IPV4_SIZE      20u
#define IPV6_SIZE      40u
#define IPV6_EXTRA_MAX 8
#define IP_SIZE_MAX    65535u
#define TCP_SIZE       20u
#define TCP_CHECK      16u /* offset of the field */
#define UDP_CHECK      6u
#define HEADERS_MAX    512u
#define PROTOCOL_TCP   6

enum { TCP_FIN = 1, TCP_SYN = 2, TCP_RST = 4, TCP_PSH = 8, TCP_CWR = 128 };

static uint16_t get_be16(const uint8_t *at)
{
    return (uint16_t)(at[0] << 8 | at[1]);
}

static uint32_t get_be32(const uint8_t *at)
{
    return (uint32_t)get_be16(at) << 16 | get_be16(at + 2);
}

static void put_be16(uint8_t *at, size_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static void put_be32(uint8_t *at, uint32_t value)
{
    put_be16(at, value >> 16);
    put_be16(at + 2, value);
}

/* ---- checksums --------------------------------------------------------- */

/* Add the words of `data`; only the last run may be of odd size. */
static uint64_t sum_add(uint64_t sum, const uint8_t *data, size_t size)
{
    uint32_t word;

    for (; size >= sizeof(word); size -= sizeof(word), data += sizeof(word)) {
        memcpy(&word, data, sizeof(word));
        sum += word;
    }
    word = 0;
    memcpy(&word, data, size);
    return sum + word;
}

static void put_checksum(uint8_t *at, uint64_t sum, bool is_udp)
{
    uint16_t check;

    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    check = (uint16_t)~sum;
    if (check == 0 && is_udp)
        check = 0xffff; /* 0 says "none" there (RFC 768) */
    memcpy(at, &check, sizeof(check));
}

static bool complete_checksum(const struct virtio_net_hdr *head, uint8_t *frame,
                              size_t size)
{
    size_t start = head->csum_start;
    size_t field = start + head->csum_offset;

    if (start < ETHERNET_SIZE || field + 2 > size)
        return false;
    put_checksum(frame + field, sum_add(0, frame + start, size - start),
                 head->csum_offset == UDP_CHECK);
    return true;
}

/* ---- what is to be segmented ------------------------------------------- */

struct headers {
    size_t l3, l4, payload; /* where they begin in the frame */
    bool is_ipv6;
};

/* Where the network layer begins, and its type; 0: not within the frame. */
static size_t skip_ethernet(const uint8_t *frame, size_t size,
                            uint16_t *ret_type)
{
    size_t l3 = ETHERNET_SIZE;

    if (size < l3)
        return 0;
    for (int tags = 0; tags < VLAN_TAGS_MAX; tags++) {
        uint16_t type = get_be16(frame + l3 - 2);

        if (type != 0x8100 && type != 0x88a8)
            break;
        l3 += VLAN_SIZE;
        if (size < l3)
            return 0;
    }
    *ret_type = get_be16(frame + l3 - 2);
    return l3;
}

/* Where TCP begins; 0: it does not, or not within the frame. */
static size_t skip_ipv4(const uint8_t *frame, size_t size, size_t l3)
{
    size_t header;

    if (size - l3 < IPV4_SIZE || frame[l3] >> 4 != 4)
        return 0;
    header = (frame[l3] & 15u) * 4u;
    if (header < IPV4_SIZE || header > size - l3)
        return 0;
    if (frame[l3 + 9] != PROTOCOL_TCP)
        return 0;
    if (get_be16(frame + l3 + 6) & 0x3fff) /* a fragment */
        return 0;
    return l3 + header;
}

static size_t skip_ipv6(const uint8_t *frame, size_t size, size_t l3)
{
    size_t at = l3 + IPV6_SIZE;
    uint8_t next;

    if (size - l3 < IPV6_SIZE || frame[l3] >> 4 != 6)
        return 0;
    next = frame[l3 + 6];
    for (int i = 0; i < IPV6_EXTRA_MAX && next != PROTOCOL_TCP; i++) {
        if ((next != 0 && next != 60) || size - at < 8)
            return 0;
        next = frame[at];
        at += (frame[at + 1] + 1u) * 8u;
        if (at > size)
            return 0;
    }
    return next == PROTOCOL_TCP ? at : 0;
}

/* Find the headers of a frame that is to be segmented; false: not such. */
static bool find_headers(uint8_t gso_type, const uint8_t *frame, size_t size,
                         struct headers *ret)
{
    struct headers h = {.is_ipv6 = gso_type == VIRTIO_NET_HDR_GSO_TCPV6};
    uint16_t type = 0;
    size_t header;

    h.l3 = skip_ethernet(frame, size, &type);
    if (h.l3 == 0 || type != (h.is_ipv6 ? 0x86dd : 0x0800))
        return false;
    h.l4 =
        h.is_ipv6 ? skip_ipv6(frame, size, h.l3) : skip_ipv4(frame, size, h.l3);
    if (h.l4 == 0 || size - h.l4 < TCP_SIZE)
        return false;
    header = (frame[h.l4 + 12] >> 4) * 4u;
    if (header < TCP_SIZE || header > size - h.l4)
        return false;
    if (frame[h.l4 + 13] & (TCP_SYN | TCP_RST)) /* would be repeated */
        return false;
    h.payload = h.l4 + header;
    if (h.payload > HEADERS_MAX)
        return false;
    *ret = h;
    return true;
}

/* ---- segments ---------------------------------------------------------- */

static void finish_ipv4(uint8_t *segment, const struct headers *h, size_t size,
                        unsigned number)
{
    uint8_t *ip = segment + h->l3;

    put_be16(ip + 2, size - h->l3);
    put_be16(ip + 4, get_be16(ip + 4) + number);
    put_be16(ip + 10, 0);
    put_checksum(ip + 10, sum_add(0, ip, h->l4 - h->l3), false);
}

static void finish_tcp_checksum(uint8_t *segment, const struct headers *h,
                                size_t size)
{
    const uint8_t *ip = segment + h->l3;
    uint8_t *tcp = segment + h->l4;
    uint8_t pseudo[8] = {0}; /* its part behind the addresses */
    uint64_t sum;

    put_be32(pseudo, (uint32_t)(size - h->l4));
    pseudo[7] = PROTOCOL_TCP;
    sum = sum_add(0, pseudo, sizeof(pseudo));
    sum = h->is_ipv6 ? sum_add(sum, ip + 8, 32) : sum_add(sum, ip + 12, 8);
    put_be16(tcp + TCP_CHECK, 0);
    put_checksum(tcp + TCP_CHECK, sum_add(sum, tcp, size - h->l4), false);
}

/* A segment with the frame's own headers still in it becomes a frame. */
static void finish_segment(uint8_t *segment, const struct headers *h,
                           size_t size, unsigned number, size_t offset,
                           bool is_last)
{
    uint8_t *tcp = segment + h->l4;

    if (h->is_ipv6)
        put_be16(segment + h->l3 + 4, size - h->l3 - IPV6_SIZE);
    else
        finish_ipv4(segment, h, size, number);
    put_be32(tcp + 4, get_be32(tcp + 4) + (uint32_t)offset);
    if (!is_last)
        tcp[13] &= (uint8_t) ~(TCP_FIN | TCP_PSH);
    if (number > 0)
        tcp[13] &= (uint8_t)~TCP_CWR;
    finish_tcp_checksum(segment, h, size);
}

static void cut_segments(const struct headers *h, size_t mss, uint8_t *frame,
                         size_t size, offload_frame_fn *each, void *context)
{
    uint8_t saved[HEADERS_MAX];
    size_t at = h->payload;
    unsigned number = 0;

    memcpy(saved, frame, h->payload);
    do {
        size_t part = size - at < mss ? size - at : mss;
        uint8_t *segment = frame + at - h->payload;

        memcpy(segment, saved, h->payload);
        finish_segment(segment, h, h->payload + part, number, at - h->payload,
                       at + part == size);
        each(context, segment, h->payload + part);
        number++;
        at += part;
    } while (at < size);
}

static bool segment_frame(const struct virtio_net_hdr *head, uint8_t *frame,
                          size_t size, offload_frame_fn *each, void *context)
{
    uint8_t type = head->gso_type & (uint8_t)~VIRTIO_NET_HDR_GSO_ECN;
    size_t largest, mss = head->gso_size;
    struct headers h;

    if (type != VIRTIO_NET_HDR_GSO_TCPV4 && type != VIRTIO_NET_HDR_GSO_TCPV6)
        return false;
    if (mss < OFFLOAD_MSS_MIN || !find_headers(type, frame, size, &h))
        return false;
    if (!(head->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) ||
        head->csum_start != h.l4 || head->csum_offset != TCP_CHECK)
        return false;
    largest = size - h.payload < mss ? size - h.payload : mss;
    if (h.payload - h.l3 + largest > IP_SIZE_MAX)
        return false;
    cut_segments(&h, mss, frame, size, each, context);
    return true;
}

bool offload_finish(const struct virtio_net_hdr *head, uint8_t *frame,
                    size_t size, offload_frame_fn *each, void *context)
{
    if (head->gso_type != VIRTIO_NET_HDR_GSO_NONE)
        return segment_frame(head, frame, size, each, context);
    if ((head->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) &&
        !complete_checksum(head, frame, size))
        return false;
    each(context, frame, size);
    return true;
}
