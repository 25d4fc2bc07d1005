/* Looking at files where the page cache has them, files that are cut too. */

#include "common/auto.h"
#include "common/view.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { PAGE = 4096, PAGES = 40, SIZE = PAGES * PAGE - 100 };

static uint8_t bytes[SIZE];

/* A file of these bytes without a name. */
static int make_file(void)
{
    FILE *file = tmpfile();
    int fd;

    assert_non_null(file);
    fd = dup(fileno(file));
    fclose(file);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, SIZE), SIZE);
    return fd;
}

static int setup(void **state)
{
    (void)state;
    for (size_t i = 0; i < SIZE; i++)
        bytes[i] = (uint8_t)(1 + i % 251);
    return 0;
}

static void shows_the_file(void **state)
{
    static const uint64_t offsets[] = {0, 3 * PAGE, 39 * PAGE, 777};
    vn_auto(close) int fd = make_file();

    (void)state;
    for (size_t i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++) {
        size_t size = SIZE - offsets[i];
        struct file_view view;

        assert_true(file_view_open(&view, fd, offsets[i], size));
        assert_int_equal(view.size, size);
        assert_memory_equal(view.data, bytes + offsets[i], size);
        assert_false(file_view_failed(&view));
        file_view_close(&view);
        assert_null(view.data);
        file_view_close(&view); /* once more is fine */
    }
}

static void shows_changes(void **state)
{
    vn_auto(close) int fd = make_file();
    vn_auto(file_view) struct file_view view = {0};

    (void)state;
    assert_true(file_view_open(&view, fd, PAGE, PAGE));
    assert_int_equal(pwrite(fd, "new", 3, PAGE + 5), 3);
    assert_memory_equal(view.data + 5, "new", 3);
}

static void has_zeros_where_the_file_was_cut(void **state)
{
    vn_auto(close) int fd = make_file();
    vn_auto(close) int whole = make_file();
    vn_auto(file_view) struct file_view view = {0};
    vn_auto(file_view) struct file_view other = {0};
    static const uint8_t zeros[PAGE];

    (void)state;
    assert_true(file_view_open(&view, fd, 0, SIZE));
    assert_true(file_view_open(&other, whole, 0, SIZE));
    assert_int_equal(ftruncate(fd, 10 * PAGE), 0);
    assert_memory_equal(view.data, bytes, 10 * PAGE);
    assert_false(file_view_failed(&view));
    assert_memory_equal(view.data + 20 * PAGE, zeros, PAGE);
    assert_true(file_view_failed(&view));
    assert_memory_equal(view.data + 10 * PAGE, zeros, PAGE);
    assert_memory_equal(view.data, bytes, 10 * PAGE);
    assert_memory_equal(other.data, bytes, SIZE);
    assert_false(file_view_failed(&other));
    /* A view that takes the place of a failed one starts anew. */
    file_view_close(&view);
    assert_true(file_view_open(&view, fd, 0, 10 * PAGE));
    assert_false(file_view_failed(&view));
}

static void there_is_a_limit(void **state)
{
    vn_auto(close) int fd = make_file();
    struct file_view views[FILE_VIEWS_MAX];
    struct file_view more = {0};

    (void)state;
    for (unsigned i = 0; i < FILE_VIEWS_MAX; i++)
        assert_true(file_view_open(&views[i], fd, 0, SIZE));
    assert_false(file_view_open(&more, fd, 0, SIZE));
    file_view_close(&views[17]);
    assert_true(file_view_open(&views[17], fd, PAGE, PAGE));
    assert_memory_equal(views[17].data, bytes + PAGE, PAGE);
    for (unsigned i = 0; i < FILE_VIEWS_MAX; i++)
        file_view_close(&views[i]);
}

static void what_has_no_pages_is_refused(void **state)
{
    struct file_view view;
    int ends[2];

    (void)state;
    assert_int_equal(pipe(ends), 0);
    assert_false(file_view_open(&view, ends[0], 0, PAGE));
    assert_false(file_view_open(&view, -1, 0, PAGE));
    close(ends[0]);
    close(ends[1]);
}

/* ---- what is not of a view --------------------------------------------- */

static void touch_behind_the_end(void)
{
    int fd = make_file();
    volatile const uint8_t *data =
        mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);

    if (ftruncate(fd, 0) == 0)
        (void)data[PAGE];
}

static void send_to_oneself(void)
{
    kill(getpid(), SIGBUS);
}

/* A view's process still ends by what would have ended it. */
static void assert_dies(void (*fn)(void))
{
    int status = 0;
    pid_t child = fork();

    if (child == 0) {
        int fd = make_file();
        struct file_view view;

        signal(SIGBUS, SIG_DFL); /* cmocka catches it */
        if (file_view_open(&view, fd, 0, SIZE))
            fn();
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGBUS);
}

static void other_faults_kill(void **state)
{
    (void)state;
    assert_dies(touch_behind_the_end);
    assert_dies(send_to_oneself);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shows_the_file),
        cmocka_unit_test(shows_changes),
        cmocka_unit_test(has_zeros_where_the_file_was_cut),
        cmocka_unit_test(there_is_a_limit),
        cmocka_unit_test(what_has_no_pages_is_refused),
        cmocka_unit_test(other_faults_kill),
    };

    return cmocka_run_group_tests(tests, setup, NULL);
}
