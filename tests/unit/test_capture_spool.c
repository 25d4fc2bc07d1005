/* A stream into RAM: order, limits, ends. */
#include "capture/spool.h"

#include "common/clock.h"
#include "common/io.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
    struct spool *spool;
    int fd; /* the writer's end */
    pthread_t writer;
    size_t size;
};

static void begin(struct fixture *f, uint64_t limit)
{
    struct vn_err err = VN_ERR_INIT;
    int ends[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    f->fd = ends[1];
    f->spool = spool_start(ends[0], limit, &err);
    assert_non_null(f->spool);
}

static int setup(void **state)
{
    struct fixture *f = vn_alloc(sizeof(*f));

    f->fd = -1;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    spool_free(f->spool);
    vn_auto_close(&f->fd);
    free(f);
    return 0;
}

static uint8_t byte_at(uint64_t offset)
{
    return (uint8_t)((offset * 2654435761u) >> 13);
}

/* Write f->size bytes and close. */
static void *write_pattern(void *arg)
{
    struct fixture *f = arg;
    uint64_t offset = 0;

    while (offset < f->size) {
        uint8_t data[50000];
        size_t n =
            f->size - offset < sizeof(data) ? f->size - offset : sizeof(data);

        for (size_t i = 0; i < n; i++)
            data[i] = byte_at(offset + i);
        if (send(f->fd, data, n, MSG_NOSIGNAL) != (ssize_t)n)
            break;
        offset += n;
    }
    shutdown(f->fd, SHUT_WR);
    return NULL;
}

static void write_in_thread(struct fixture *f, size_t size)
{
    f->size = size;
    assert_int_equal(pthread_create(&f->writer, NULL, write_pattern, f), 0);
}

static void take_all(struct fixture *f)
{
    uint64_t offset = 0;

    for (;;) {
        struct vn_err err = VN_ERR_INIT;
        const void *data;
        size_t size;

        assert_int_equal(spool_take(f->spool, 60 * VN_SEC, &data, &size, &err),
                         0);
        if (!size)
            break;
        for (size_t i = 0; i < size; i++) {
            if (((const uint8_t *)data)[i] != byte_at(offset + i))
                fail_msg("byte %llu", (unsigned long long)(offset + i));
        }
        offset += size;
    }
    assert_int_equal(offset, f->size);
    assert_int_equal(spool_received(f->spool), f->size);
    assert_true(spool_is_ended(f->spool));
}

static void test_all_comes_in_order(void **state)
{
    struct fixture *f = *state;

    begin(f, 64u << 20);
    write_in_thread(f, (10u << 20) + 12345);
    take_all(f);
    pthread_join(f->writer, NULL);
}

static void test_a_limit_makes_the_writer_wait(void **state)
{
    struct fixture *f = *state;

    begin(f, 1u << 20);
    write_in_thread(f, 12u << 20);
    while (!spool_is_full(f->spool))
        usleep(1000);
    assert_in_range(spool_received(f->spool), 1u << 20, 6u << 20);
    take_all(f);
    pthread_join(f->writer, NULL);
}

static void test_free_while_the_writer_waits(void **state)
{
    struct fixture *f = *state;

    begin(f, 1u << 20);
    write_in_thread(f, 12u << 20);
    while (!spool_is_full(f->spool))
        usleep(1000);
    spool_free(f->spool);
    f->spool = NULL;
    pthread_join(f->writer, NULL);
}

static void test_nothing_comes(void **state)
{
    struct fixture *f = *state;
    struct vn_err err = VN_ERR_INIT;
    const void *data;
    size_t size;

    begin(f, 1u << 20);
    assert_int_equal(spool_take(f->spool, 10 * VN_MS, &data, &size, &err), -1);
    assert_int_equal(err.code, VN_E_TIMEOUT);
    assert_false(spool_is_ended(f->spool));
}

static void test_peek_takes_nothing(void **state)
{
    struct fixture *f = *state;
    uint8_t data[100];

    begin(f, 64u << 20);
    write_in_thread(f, 9u << 20);
    pthread_join(f->writer, NULL);
    while (!spool_is_ended(f->spool))
        usleep(1000);
    /* Across the border of two chunks. */
    assert_int_equal(spool_peek(f->spool, (4u << 20) - 50, data, 100), 100);
    for (size_t i = 0; i < 100; i++)
        assert_int_equal(data[i], byte_at((4u << 20) - 50 + i));
    assert_int_equal(spool_peek(f->spool, (9u << 20) - 3, data, 100), 3);
    assert_int_equal(spool_peek(f->spool, 9u << 20, data, 100), 0);
    take_all(f);
}

static void test_discard_lets_the_writer_end(void **state)
{
    struct fixture *f = *state;

    begin(f, 1u << 20);
    write_in_thread(f, 24u << 20);
    while (!spool_is_full(f->spool))
        usleep(1000);
    spool_discard(f->spool);
    pthread_join(f->writer, NULL);
    while (!spool_is_ended(f->spool))
        usleep(1000);
    assert_int_equal(spool_received(f->spool), 24u << 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_all_comes_in_order, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_limit_makes_the_writer_wait,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_free_while_the_writer_waits, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_nothing_comes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_peek_takes_nothing, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_discard_lets_the_writer_end, setup,
                                        teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
