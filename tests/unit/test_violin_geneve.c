/* Geneve packets: round trips, the exact bytes, every cut and bad options. */
#include "violin/geneve.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <string.h>

static struct vn_err err;

static int decode(const void *data, size_t size, struct geneve_packet *ret)
{
    err = (struct vn_err){0};
    return geneve_decode(data, size, ret, &err);
}

static void test_frame(void **state)
{
    /* From docs/formats/geneve.md. */
    static const uint8_t expected[GENEVE_FRAME_HEADER_SIZE] = {
        0x02, 0x40, 0x65, 0x58, 0x01, 0x02, 0x03, 0x00,
        0xff, 0x01, 0x81, 0x01, 0x00, 0x00, 0x00, 0x07};
    uint8_t packet[GENEVE_FRAME_HEADER_SIZE + 60];
    struct geneve_packet got;

    (void)state;
    memset(packet, 0xab, sizeof(packet));
    geneve_encode_frame(packet, 0x010203, 7);
    assert_memory_equal(packet, expected, sizeof(expected));
    assert_int_equal(decode(packet, sizeof(packet), &got), 0);
    assert_int_equal(got.vni, 0x010203);
    assert_int_equal(got.epoch, 7);
    assert_false(got.is_marker);
    assert_ptr_equal(got.frame, packet + GENEVE_FRAME_HEADER_SIZE);
    assert_int_equal(got.frame_size, 60);
    assert_int_equal(decode(packet, GENEVE_FRAME_HEADER_SIZE, &got), 0);
    assert_int_equal(got.frame_size, 0);
    for (size_t size = 0; size < GENEVE_FRAME_HEADER_SIZE; size++) {
        assert_int_equal(decode(packet, size, &got), -1);
        assert_int_equal(err.code, VN_E_FORMAT);
    }
}

static void test_marker(void **state)
{
    static const uint8_t expected[GENEVE_MARKER_SIZE] = {
        0x07, 0xc0, 0x65, 0x58, 0xff, 0xff, 0xff, 0x00, /**/
        0xff, 0x01, 0x82, 0x06, 0x00, 0x00, 0x00, 0x09, /**/
        0x00, 0x00, 0x00, 0x08, 0x00, 0x00, 0x00, 0x01, /**/
        0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x01, /**/
        0x00, 0x00, 0x00, 0x00};
    const struct vsw_marker marker = {
        .epoch = 9, .before = 8, .sent = 0x100000002, .ack = true};
    uint8_t packet[GENEVE_MARKER_SIZE];
    struct geneve_packet got;

    (void)state;
    geneve_encode_marker(packet, 0xffffff, &marker);
    assert_memory_equal(packet, expected, sizeof(expected));
    assert_int_equal(decode(packet, sizeof(packet), &got), 0);
    assert_true(got.is_marker && got.marker.ack);
    assert_int_equal(got.vni, 0xffffff);
    assert_int_equal(got.marker.epoch, 9);
    assert_int_equal(got.marker.before, 8);
    assert_int_equal(got.marker.sent, 0x100000002);
    for (size_t size = 0; size < sizeof(packet); size++)
        assert_int_equal(decode(packet, size, &got), -1);
}

static void refuse(const uint8_t *packet, size_t size, const char *says)
{
    struct geneve_packet got;

    assert_int_equal(decode(packet, size, &got), -1);
    assert_int_equal(err.code, VN_E_FORMAT);
    if (!strstr(err.msg, says))
        fail_msg("'%s' does not say '%s'", err.msg, says);
}

static void test_bad_headers(void **state)
{
    uint8_t packet[GENEVE_FRAME_HEADER_SIZE + 14] = {0};

    (void)state;
    geneve_encode_frame(packet, 1, 1);
    packet[0] |= 0x40;
    refuse(packet, sizeof(packet), "version 1");
    geneve_encode_frame(packet, 1, 1);
    packet[2] = 8;
    packet[3] = 0;
    refuse(packet, sizeof(packet), "protocol 0800");
    geneve_encode_frame(packet, 1, 1);
    packet[1] |= 0x80; /* control, but with the option of a frame */
    refuse(packet, sizeof(packet), "misplaced");
    geneve_encode_frame(packet, 1, 1);
    packet[0] = 0; /* no options at all */
    refuse(packet, sizeof(packet), "no epoch option");
    geneve_encode_frame(packet, 1, 1);
    packet[0] = 0x3f; /* more options than bytes */
    refuse(packet, sizeof(packet), "too few");
    geneve_encode_frame(packet, 1, 1);
    packet[11] = 2; /* an option longer than the options */
    refuse(packet, sizeof(packet), "cut short");
    geneve_encode_frame(packet, 1, 1);
    packet[10] = 0x83;
    refuse(packet, sizeof(packet), "unknown critical");
    geneve_encode_frame(packet, 1, 1);
    packet[8] = 1; /* our type, another class */
    refuse(packet, sizeof(packet), "unknown critical");
    geneve_encode_frame(packet, 1, 1);
    packet[10] = 0x82;
    refuse(packet, sizeof(packet), "misplaced");
    /* Reserved bits are ignored. */
    geneve_encode_frame(packet, 1, 1);
    packet[1] |= 0x3f;
    packet[7] = 0xff;
    packet[11] |= 0xe0;
    assert_int_equal(decode(packet, sizeof(packet), &(struct geneve_packet){0}),
                     0);
}

static void test_other_options(void **state)
{
    static const uint8_t packet[] = {
        0x06, 0x40, 0x65, 0x58, 0x00, 0x00, 0x05, 0x00, /* base */
        0x01, 0x02, 0x01, 0x01, 1,    2,    3,    4,    /* not critical */
        0xff, 0x01, 0x81, 0x01, 0x00, 0x00, 0x00, 0x63, /* epoch */
        0x01, 0x02, 0x7f, 0x00,                         /* empty */
        0x01, 0x02, 0x7f, 0x00,                         /* empty */
    };
    uint8_t twice[sizeof(packet)];
    struct geneve_packet got;

    (void)state;
    assert_int_equal(decode(packet, sizeof(packet), &got), 0);
    assert_int_equal(got.epoch, 0x63);
    assert_int_equal(got.frame_size, 0);
    memcpy(twice, packet, sizeof(packet));
    memcpy(twice + 8, packet + 16, 8);
    refuse(twice, sizeof(twice), "misplaced");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frame),
        cmocka_unit_test(test_marker),
        cmocka_unit_test(test_bad_headers),
        cmocka_unit_test(test_other_options),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
