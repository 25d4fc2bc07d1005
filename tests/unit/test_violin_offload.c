/*
 * Checksums and segmentation against a second way to do them: frames that are
 * built byte by byte, with the textbook's checksum over 16-bit words.
 */
#include "violin/offload.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#define FRAME_MAX 65550
#define MANY      4096

/* ---- the slow way ------------------------------------------------------ */

struct shape {
    bool ipv6;
    unsigned tags, ip_options, tcp_options; /* options in bytes */
    uint16_t id;
    uint32_t sequence;
    uint8_t flags;
};

static const struct shape plain_v4 = {.id = 7, .sequence = 1000, .flags = 0x10};

static size_t l3_of(const struct shape *s)
{
    return 14 + 4 * s->tags;
}

static size_t l4_of(const struct shape *s)
{
    return l3_of(s) + (s->ipv6 ? 40 : 20) + s->ip_options;
}

static size_t payload_of(const struct shape *s)
{
    return l4_of(s) + 20 + s->tcp_options;
}

static void put16(uint8_t *at, unsigned long value)
{
    at[0] = (uint8_t)(value >> 8 & 255);
    at[1] = (uint8_t)(value & 255);
}

static unsigned long get16(const uint8_t *at)
{
    return at[0] * 256ul + at[1];
}

/* RFC 1071, section 4.1, words in network order. */
static unsigned long words(const uint8_t *data, size_t size)
{
    unsigned long sum = 0;

    for (size_t i = 0; i < size; i++)
        sum += i % 2 ? data[i] : data[i] * 256ul;
    return sum;
}

static unsigned long fold(unsigned long sum)
{
    while (sum > 0xffff)
        sum = sum % 65536 + sum / 65536;
    return sum;
}

static unsigned long pseudo_header(const struct shape *s, const uint8_t *frame,
                                   size_t l4_size, uint8_t protocol)
{
    const uint8_t *ip = frame + l3_of(s);

    return words(s->ipv6 ? ip + 8 : ip + 12, s->ipv6 ? 32 : 8) + protocol +
           l4_size / 65536 + l4_size % 65536;
}

static void build_ip(uint8_t *frame, const struct shape *s, size_t size)
{
    uint8_t *ip = frame + l3_of(s);

    for (unsigned i = 0; i < s->tags; i++) {
        put16(frame + 12 + 4 * i, i + 1 < s->tags ? 0x88a8 : 0x8100);
        put16(frame + 14 + 4 * i, 0x2001 + i);
    }
    put16(ip - 2, s->ipv6 ? 0x86dd : 0x0800);
    memset(ip, 0, l4_of(s) - l3_of(s));
    if (s->ipv6) {
        ip[0] = 0x60;
        put16(ip + 4, size - l3_of(s) - 40);
        ip[6] = s->ip_options ? 0 : 6;
        ip[7] = 64;
        for (int i = 8; i < 40; i++)
            ip[i] = (uint8_t)(i * 7);
        if (s->ip_options) {
            ip[40] = 6;
            ip[41] = (uint8_t)(s->ip_options / 8 - 1);
        }
        return;
    }
    ip[0] = (uint8_t)(0x45 + s->ip_options / 4);
    put16(ip + 2, size - l3_of(s));
    put16(ip + 4, s->id);
    ip[6] = 0x40;
    ip[8] = 64;
    ip[9] = 6;
    memcpy(ip + 12, "\x0a\x63\x00\x01\x0a\x63\x00\x02", 8);
    memset(ip + 20, 1, s->ip_options);
    put16(ip + 10, 65535 - fold(words(ip, 20 + s->ip_options)));
}

/* A whole, right frame. */
static size_t build(uint8_t *frame, const struct shape *s,
                    const uint8_t *payload, size_t payload_size)
{
    size_t size = payload_of(s) + payload_size;
    uint8_t *tcp = frame + l4_of(s);

    memcpy(frame, "\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02", 12);
    build_ip(frame, s, size);
    memset(tcp, 0, 20);
    put16(tcp, 1234);
    put16(tcp + 2, 80);
    put16(tcp + 4, s->sequence >> 16);
    put16(tcp + 6, s->sequence & 0xffff);
    tcp[12] = (uint8_t)((20 + s->tcp_options) / 4 << 4);
    tcp[13] = s->flags;
    put16(tcp + 14, 500);
    memset(tcp + 20, 1, s->tcp_options);
    memcpy(frame + payload_of(s), payload, payload_size);
    put16(tcp + 16, 65535 - fold(words(tcp, size - l4_of(s)) +
                                 pseudo_header(s, frame, size - l4_of(s), 6)));
    return size;
}

/* ---- the bench --------------------------------------------------------- */

static struct {
    uint8_t payload[FRAME_MAX], frame[FRAME_MAX + 100], expected[FRAME_MAX];
    uint8_t out[8 * FRAME_MAX]; /* what came, one after the other */
    size_t sizes[MANY], count, used;
} b;

static int setup(void **state)
{
    (void)state;
    memset(&b, 0, sizeof(b));
    srand(1);
    for (size_t i = 0; i < sizeof(b.payload); i++)
        b.payload[i] = (uint8_t)rand();
    return 0;
}

static void take(void *context, const uint8_t *frame, size_t size)
{
    assert_ptr_equal(context, &b);
    assert_true(b.count < MANY && b.used + size <= sizeof(b.out));
    memcpy(b.out + b.used, frame, size);
    b.used += size;
    b.sizes[b.count++] = size;
}

static bool finish(const struct virtio_net_hdr *head, size_t size)
{
    b.count = b.used = 0;
    return offload_finish(head, b.frame, size, take, &b);
}

static struct virtio_net_hdr tso(const struct shape *s, uint16_t mss)
{
    return (struct virtio_net_hdr){
        .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
        .gso_type =
            s->ipv6 ? VIRTIO_NET_HDR_GSO_TCPV6 : VIRTIO_NET_HDR_GSO_TCPV4,
        .gso_size = mss,
        .csum_start = (uint16_t)l4_of(s),
        .csum_offset = 16,
    };
}

/* As a guest hands it over: checksums and lengths are not to be used. */
static size_t build_for_offload(const struct shape *s, size_t payload_size)
{
    size_t size = build(b.frame, s, b.payload, payload_size);

    put16(b.frame + l4_of(s) + 16, 0xabcd);
    put16(b.frame + l3_of(s) + (s->ipv6 ? 4 : 2), 0);
    if (!s->ipv6)
        put16(b.frame + l3_of(s) + 10, 0x1111);
    return size;
}

static void check_segments(const struct shape *s, size_t payload_size,
                           uint16_t mss)
{
    size_t size = build_for_offload(s, payload_size), offset = 0, at = 0;
    size_t count = payload_size ? (payload_size + mss - 1) / mss : 1;
    struct virtio_net_hdr head = tso(s, mss);

    assert_true(finish(&head, size));
    assert_int_equal(b.count, count);
    for (size_t i = 0; i < count; i++) {
        struct shape part = *s;
        size_t left = payload_size - offset;
        size_t length = left < mss ? left : mss, expected;

        part.id = (uint16_t)(s->id + i);
        part.sequence = s->sequence + (uint32_t)offset;
        if (i > 0)
            part.flags &= (uint8_t)~0x80; /* CWR */
        if (i + 1 < count)
            part.flags &= (uint8_t)~0x09; /* PSH, FIN */
        expected = build(b.expected, &part, b.payload + offset, length);
        assert_int_equal(b.sizes[i], expected);
        assert_memory_equal(b.out + at, b.expected, expected);
        at += expected;
        offset += length;
    }
}

/* ---- segmentation ------------------------------------------------------ */

static void test_segments(void **state)
{
    static const struct shape shapes[] = {
        {.id = 7, .sequence = 1000, .flags = 0x10},
        {.id = 0xfffe,
         .sequence = 0xfffff000,
         .flags = 0x19,
         .tcp_options = 12},
        {.id = 9, .flags = 0xd8, .tags = 1, .ip_options = 8},
        {.id = 9, .flags = 0x99, .tags = 2, .tcp_options = 40},
        {.ipv6 = true, .sequence = 5, .flags = 0x18},
        {.ipv6 = true, .flags = 0x99, .tags = 1, .tcp_options = 12},
        {.ipv6 = true, .flags = 0x18, .tags = 2, .ip_options = 16},
    };
    static const size_t sizes[] = {0, 1, 99, 100, 101, 4321, 64000, 65000};
    static const uint16_t mss[] = {32, 33, 100, 1448, 1460, 8948, 65000};

    (void)state;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
        for (size_t j = 0; j < sizeof(sizes) / sizeof(sizes[0]); j++)
            for (size_t k = 0; k < sizeof(mss) / sizeof(mss[0]); k++)
                check_segments(&shapes[i], sizes[j], mss[k]);
}

static void test_ecn_bit_of_the_type(void **state)
{
    struct shape s = plain_v4;
    struct virtio_net_hdr head;
    size_t size;

    (void)state;
    s.flags = 0x90; /* CWR, ACK */
    size = build_for_offload(&s, 3000);
    head = tso(&s, 1000);
    head.gso_type |= VIRTIO_NET_HDR_GSO_ECN;
    assert_true(finish(&head, size));
    assert_int_equal(b.count, 3);
    assert_int_equal(b.out[l4_of(&s) + 13], 0x90);
    assert_int_equal(b.out[b.sizes[0] + l4_of(&s) + 13], 0x10);
    assert_int_equal(b.out[b.sizes[0] + b.sizes[1] + l4_of(&s) + 13], 0x10);
}

/* A frame made so that its TCP checksum is 0 must say 0, or 0xffff is 0. */
static void test_tcp_checksum_of_zero(void **state)
{
    struct virtio_net_hdr head = tso(&plain_v4, 1000);
    size_t size, l4 = l4_of(&plain_v4);
    unsigned long check;

    (void)state;
    memset(b.payload, 0, 2);
    build(b.frame, &plain_v4, b.payload, 100);
    check = get16(b.frame + l4 + 16);
    put16(b.payload, check);
    size = build(b.frame, &plain_v4, b.payload, 100);
    assert_int_equal(get16(b.frame + l4 + 16), 0);
    assert_true(finish(&head, size));
    assert_int_equal(get16(b.out + l4 + 16), 0);
}

/* ---- checksums --------------------------------------------------------- */

static void test_partial_checksum(void **state)
{
    (void)state;
    for (size_t size = 0; size < 200; size++) {
        struct shape s = plain_v4;
        struct virtio_net_hdr head = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                      .csum_offset = 16};
        size_t whole, l4;

        s.ipv6 = size % 2;
        s.tags = (unsigned)size % 3;
        l4 = l4_of(&s);
        head.csum_start = (uint16_t)l4;
        whole = build(b.frame, &s, b.payload, size);
        memcpy(b.expected, b.frame, whole);
        put16(b.frame + l4 + 16,
              fold(pseudo_header(&s, b.frame, whole - l4, 6)));
        assert_true(finish(&head, whole));
        assert_int_equal(b.count, 1);
        assert_int_equal(b.sizes[0], whole);
        assert_memory_equal(b.out, b.expected, whole);
    }
}

static void test_udp_checksum_of_zero(void **state)
{
    struct virtio_net_hdr head = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                  .csum_start = 34,
                                  .csum_offset = 6};
    const size_t size = 34 + 8 + 4;
    unsigned long pseudo;

    (void)state;
    build(b.frame, &plain_v4, b.payload, 0);
    b.frame[23] = 17;
    memcpy(b.frame + 34, "\0\1\0\2\0\14\0\0\0\0\0\0", 12);
    pseudo = fold(pseudo_header(&plain_v4, b.frame, 12, 17));
    /* The data completes the sum to 0xffff, so that the checksum is 0. */
    put16(b.frame + 42, 65535 - fold(pseudo + words(b.frame + 34, 12)));
    put16(b.frame + 40, pseudo);
    assert_true(finish(&head, size));
    assert_int_equal(get16(b.out + 40), 0xffff);
}

static void test_nothing_to_do(void **state)
{
    struct virtio_net_hdr head = {0};
    size_t size = build_for_offload(&plain_v4, 3000);

    (void)state;
    memcpy(b.expected, b.frame, size);
    for (int flags = 0; flags <= 2; flags += 2) { /* 2: DATA_VALID */
        head.flags = (uint8_t)flags;
        head.csum_start = 9999; /* means nothing then */
        assert_true(finish(&head, size));
        assert_int_equal(b.count, 1);
        assert_int_equal(b.sizes[0], size);
        assert_memory_equal(b.out, b.expected, size);
    }
    assert_true(finish(&head, 3)); /* the switch will refuse it */
}

/* ---- what makes no sense ----------------------------------------------- */

static void refused(const struct virtio_net_hdr *head, size_t size)
{
    assert_false(finish(head, size));
    assert_int_equal(b.count, 0);
}

static void test_impossible_checksums(void **state)
{
    static const uint16_t places[][2] = {
        {0, 16},        {13, 0},     {34, 39}, {73, 0},
        {65535, 65535}, {34, 65535}, {74, 0},  {200, 6},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        struct virtio_net_hdr head = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                      .csum_start = places[i][0],
                                      .csum_offset = places[i][1]};

        refused(&head, 74);
    }
}

static void test_impossible_headers(void **state)
{
    struct virtio_net_hdr good = tso(&plain_v4, 1000), head;
    size_t size = build_for_offload(&plain_v4, 3000);

    (void)state;
    head = good;
    head.gso_size = 0;
    refused(&head, size);
    head.gso_size = OFFLOAD_MSS_MIN - 1;
    refused(&head, size);
    head = good;
    head.flags = 0;
    refused(&head, size);
    head = good;
    head.csum_start++;
    refused(&head, size);
    head = good;
    head.csum_offset = 6;
    refused(&head, size);
    for (unsigned type = 1; type < 256; type++) {
        head = good;
        head.gso_type = (uint8_t)type;
        if ((type & 0x7f) != VIRTIO_NET_HDR_GSO_TCPV4)
            refused(&head, size);
    }
    assert_true(finish(&good, size)); /* so it was the change each time */
}

/* One byte of a good frame is another. */
static void refused_with(const struct shape *s, size_t at, uint8_t value)
{
    size_t size = build_for_offload(s, 3000);
    struct virtio_net_hdr head = tso(s, 1000);

    assert_true(b.frame[at] != value);
    b.frame[at] = value;
    refused(&head, size);
}

static void test_impossible_frames(void **state)
{
    const struct shape v4 = plain_v4;
    const struct shape v6 = {.ipv6 = true, .flags = 0x10, .ip_options = 8};
    const struct shape tagged = {.tags = 2, .flags = 0x10};

    (void)state;
    refused_with(&v4, 12, 0x09);      /* no IP */
    refused_with(&v4, 14, 0x44);      /* IPv4 header too short */
    refused_with(&v4, 14, 0x46);      /* and longer than csum_start says */
    refused_with(&v4, 14, 0x65);      /* IPv6 */
    refused_with(&v4, 20, 0x20);      /* more fragments */
    refused_with(&v4, 21, 1);         /* a later fragment */
    refused_with(&v4, 23, 17);        /* UDP */
    refused_with(&v4, 34 + 12, 0x40); /* TCP header too short */
    refused_with(&v4, 34 + 13, 2);    /* SYN */
    refused_with(&v4, 34 + 13, 0x14); /* RST */
    refused_with(&v6, 14, 0x40);
    refused_with(&v6, 20, 43);       /* routing: another pseudo header */
    refused_with(&v6, 20, 44);       /* fragment */
    refused_with(&v6, 54, 17);       /* UDP behind the options */
    refused_with(&v6, 55, 255);      /* options longer than said */
    refused_with(&tagged, 20, 0x81); /* three tags */
}

/* Cut anywhere within the headers. */
static void test_short_frames(void **state)
{
    static const struct shape shapes[] = {
        {.flags = 0x10, .tags = 1, .ip_options = 4, .tcp_options = 8},
        {.flags = 0x10, .ipv6 = true, .tags = 2, .ip_options = 16},
    };

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        const struct shape *s = &shapes[i];
        struct virtio_net_hdr head = tso(s, 1000);

        for (size_t size = 0; size < payload_of(s); size++) {
            uint8_t *exact; /* so that a sanitizer sees what is beyond */

            build_for_offload(s, 1);
            exact = malloc(size ? size : 1);
            memcpy(exact, b.frame, size);
            b.count = 0;
            assert_false(offload_finish(&head, exact, size, take, &b));
            assert_int_equal(b.count, 0);
            free(exact);
        }
        build_for_offload(s, 1);
        assert_true(finish(&head, payload_of(s)));
    }
}

static void test_longer_than_ip_can_say(void **state)
{
    struct virtio_net_hdr head = tso(&plain_v4, 65535);
    size_t size = build_for_offload(&plain_v4, 65535 - 40);

    (void)state;
    assert_true(finish(&head, size));
    refused(&head, size + 1);
    head.gso_size = 30000; /* but in parts it may be */
    assert_true(finish(&head, size + 1));
    assert_int_equal(b.count, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_segments, setup),
        cmocka_unit_test_setup(test_ecn_bit_of_the_type, setup),
        cmocka_unit_test_setup(test_tcp_checksum_of_zero, setup),
        cmocka_unit_test_setup(test_partial_checksum, setup),
        cmocka_unit_test_setup(test_udp_checksum_of_zero, setup),
        cmocka_unit_test_setup(test_nothing_to_do, setup),
        cmocka_unit_test_setup(test_impossible_checksums, setup),
        cmocka_unit_test_setup(test_impossible_headers, setup),
        cmocka_unit_test_setup(test_impossible_frames, setup),
        cmocka_unit_test_setup(test_short_frames, setup),
        cmocka_unit_test_setup(test_longer_than_ip_can_say, setup),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
