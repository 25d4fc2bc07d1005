/*
 * The workload killed at every fault point that the store's sources have, at
 * each passage of it, and the store held against what was acknowledged until
 * then (check.c). The points are read from the sources, so a new one is covered
 * or the test fails: nobody passes it.
 *
 *     crash_kill WORKLOAD SOURCES TESTS [STEP]
 *
 * SOURCES is the folder store/. The machine lives on, so nothing that was
 * written is lost; that is what crash_replay is about. Passages are taken one
 * by one at first and then with growing steps, with a STEP of 0 all. What only
 * large or damaged stores pass is left to tests below TESTS that name the
 * point.
 */

#include "crash/check.h"

#include "common/auto.h"
#include "common/buf.h"
#include "common/io.h"

#include <ftw.h>
#include <glob.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define POINTS_MAX      200u
#define SOURCE_SIZE_MAX (1u << 20)

static char dir[64]; /* of our own */
static char *points[POINTS_MAX];
static size_t point_count;

static void die(const char *what, const struct vn_err *err)
{
    fprintf(stderr, "crash_kill: %s: %s\n", what, err->msg);
    exit(1);
}

/* ---- the points ------------------------------------------------------- */

static void add_point(const char *name, size_t size)
{
    for (size_t i = 0; i < point_count; i++)
        if (strlen(points[i]) == size && memcmp(points[i], name, size) == 0)
            return;
    if (point_count == POINTS_MAX)
        abort();
    points[point_count++] = vn_format("%.*s", (int)size, name);
}

static void read_points(const char *path)
{
    static const char call[] = "fault_hit(\"";
    struct vn_err err = VN_ERR_INIT;
    vn_auto(buf) struct buf text;

    buf_init(&text, SOURCE_SIZE_MAX);
    if (io_read_file(path, &text, &err) < 0)
        die(path, &err);
    for (const char *p = (const char *)text.data; (p = strstr(p, call));) {
        p += strlen(call);
        add_point(p, strcspn(p, "\""));
    }
}

static void find_points(const char *sources)
{
    vn_auto(free) char *pattern = vn_format("%s/*.c", sources);
    glob_t files;

    if (glob(pattern, 0, NULL, &files) != 0)
        return;
    for (size_t i = 0; i < files.gl_pathc; i++)
        read_points(files.gl_pathv[i]);
    globfree(&files);
}

/* ---- points that other tests kill at ---------------------------------- */

static bool is_named_in(const char *pattern, const char *point)
{
    bool found = false;
    glob_t files;

    if (glob(pattern, 0, NULL, &files) != 0)
        return false;
    for (size_t i = 0; i < files.gl_pathc && !found; i++) {
        vn_auto(buf) struct buf text;
        struct vn_err err = VN_ERR_INIT;

        buf_init(&text, SOURCE_SIZE_MAX);
        if (io_read_file(files.gl_pathv[i], &text, &err) < 0)
            die(files.gl_pathv[i], &err);
        found = strstr((const char *)text.data, point);
    }
    globfree(&files);
    return found;
}

/* Some are passed by large or damaged stores only. */
static bool has_own_test(const char *tests, const char *point)
{
    vn_auto(free) char *unit = vn_format("%s/unit/test_store_*.c", tests);
    vn_auto(free) char *cli = vn_format("%s/cli/test_*.sh", tests);

    return is_named_in(unit, point) || is_named_in(cli, point);
}

/* ---- one run ---------------------------------------------------------- */

static int remove_one(const char *path, const struct stat *st, int type,
                      struct FTW *where)
{
    (void)st;
    (void)type;
    (void)where;
    return remove(path);
}

/* An empty directory, and a log for the marks. */
static void prepare(const char *root, const char *log)
{
    const struct log_record first = {.type = LOG_ROOT};
    struct vn_err err = VN_ERR_INIT;

    nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    if (mkdir(root, 0700) < 0 ||
        io_replace_file(log, &first, sizeof(first), &err) < 0)
        die(root, &err);
}

/* True: it was killed at the fault. */
static bool run(const char *workload, const char *root, const char *log,
                const char *fault)
{
    pid_t child = fork();
    int status = 0;

    if (child == 0) {
        setenv("VN_FAULT", fault, 1);
        setenv(LOG_FILE_VARIABLE, log, 1);
        execl(workload, workload, root, NULL);
        _exit(127);
    }
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
        return true;
    if (status == 0)
        return false;
    fprintf(stderr, "crash_kill: with %s the workload ended with %#x\n", fault,
            status);
    exit(1);
}

static void check(const char *root, const char *log_path, const char *fault)
{
    vn_auto(free) char *store = vn_format("%s/store", root);
    struct vn_err err = VN_ERR_INIT;
    struct oplog *log = oplog_load(log_path, &err);

    if (!log || check_store(log, log->op_count, store, &err) < 0) {
        fprintf(stderr, "kept: %s\n", dir);
        die(fault, &err);
    }
    oplog_free(log);
}

/* How often was it killed there? */
static unsigned kill_at(const char *workload, const char *point, unsigned step)
{
    vn_auto(free) char *root = vn_format("%s/root", dir);
    vn_auto(free) char *log = vn_format("%s/log", dir);
    unsigned kills = 0;

    for (unsigned nth = 1;; nth += 1 + nth * step / 4) {
        vn_auto(free) char *fault = vn_format("%s:%u:kill", point, nth);

        prepare(root, log);
        if (!run(workload, root, log, fault))
            return kills;
        check(root, log, fault);
        kills++;
    }
}

int main(int argc, char **argv)
{
    unsigned step = argc == 5 ? (unsigned)atoi(argv[4]) : 1;
    unsigned missed = 0;

    if (argc < 4)
        return 64;
    snprintf(dir, sizeof(dir), "%s/vn-kill-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    if (!mkdtemp(dir))
        return 1;
    find_points(argv[2]);
    for (size_t i = 0; i < point_count; i++) {
        unsigned kills = kill_at(argv[1], points[i], step);

        printf("%s: killed %u times\n", points[i], kills);
        if (kills == 0 && !has_own_test(argv[3], points[i])) {
            fprintf(stderr, "crash_kill: %s is never passed\n", points[i]);
            missed++;
        }
        free(points[i]);
    }
    nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    if (missed > 0 || point_count == 0)
        fprintf(
            stderr,
            "crash_kill: %u of %zu points are never passed: "
            "extend tests/crash/workload.c, or write a test that names them\n",
            missed, point_count);
    return missed > 0 || point_count == 0;
}
