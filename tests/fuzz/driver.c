/*
 * Runs a fuzz target without libFuzzer: every seed file as it is, then N
 * inputs mutated from them. The same seed gives the same inputs on every
 * machine. It knows nothing of coverage; it is there so that every ctest run
 * throws some thousand damaged inputs at every parser.
 *
 *     fuzz_x [--runs N] [--seed S] [--max-time SECONDS] [FILE|DIRECTORY...]
 *
 * With VN_FUZZ_SECONDS in the environment, as `tests/run fuzz` sets it,
 * mutations go on for so many seconds, however many that are, from a seed of
 * the time.
 *
 * An input that crashes is left in ./crash-<target>.bin; give that file as
 * the only argument with --runs 0 to see it again.
 */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define INPUT_MAX (1u << 20)
#define SEEDS_MAX 4096u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
/* A target may set things up once. */
__attribute__((weak)) int LLVMFuzzerInitialize(int *argc, char ***argv);

struct input {
    uint8_t *data;
    size_t size;
};

static struct input seeds[SEEDS_MAX];
static size_t seed_count;
static struct input current; /* for the crash handler */
static char crash_path[256];
static uint64_t random_state;

/* splitmix64 */
static uint64_t random_u64(void)
{
    uint64_t z = random_state += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static size_t random_below(size_t limit)
{
    return limit ? (size_t)(random_u64() % limit) : 0;
}

static void save_crash(int signal_number)
{
    int fd = open(crash_path, O_WRONLY | O_CREAT | O_TRUNC, 0644);

    if (fd >= 0) {
        if (write(fd, current.data, current.size) < 0)
            _exit(1);
        close(fd);
    }
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

/* Called by the sanitizers' runtimes, where they are linked, before they
 * end the process. */
void __asan_on_error(void);
void __asan_on_error(void)
{
    int fd = open(crash_path, O_WRONLY | O_CREAT | O_TRUNC, 0644);

    if (fd >= 0 && write(fd, current.data, current.size) < 0)
        _exit(1);
}

static void add_seed(const uint8_t *data, size_t size)
{
    struct input *seed = &seeds[seed_count];

    if (seed_count == SEEDS_MAX)
        return;
    seed->data = malloc(size ? size : 1);
    if (!seed->data)
        abort();
    if (size)
        memcpy(seed->data, data, size);
    seed->size = size;
    seed_count++;
}

static int compare_names(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name); /* in no one's locale */
}

static void load(const char *path)
{
    static uint8_t data[INPUT_MAX];
    struct dirent **names;
    struct stat st;
    FILE *file;
    int count;

    if (stat(path, &st) < 0) {
        fprintf(stderr, "'%s': %s\n", path, strerror(errno));
        exit(1);
    }
    if (!S_ISDIR(st.st_mode)) {
        file = fopen(path, "rb");
        if (!file) {
            fprintf(stderr, "open '%s': %s\n", path, strerror(errno));
            exit(1);
        }
        add_seed(data, fread(data, 1, sizeof(data), file));
        fclose(file);
        return;
    }
    count = scandir(path, &names, NULL, compare_names);
    for (int i = 0; i < count; i++) {
        char below[4096];

        if (names[i]->d_name[0] != '.') {
            snprintf(below, sizeof(below), "%s/%s", path, names[i]->d_name);
            load(below);
        }
        free(names[i]);
    }
    if (count >= 0)
        free(names);
}

/* Each call gets its own allocation, so that a read past the end is seen. */
static void run(const uint8_t *data, size_t size)
{
    current.data = malloc(size ? size : 1);
    if (!current.data)
        abort();
    if (size)
        memcpy(current.data, data, size);
    current.size = size;
    LLVMFuzzerTestOneInput(current.data, current.size);
    free(current.data);
    current = (struct input){NULL, 0};
}

/* Values at which length checks tend to be wrong. */
static uint64_t interesting(void)
{
    static const uint64_t values[] = {
        0,           1,         2,          7,          8,           0x7f,
        0x80,        0xff,      0x100,      0xfff,      0x1000,      0x7fff,
        0x8000,      0xffff,    0x10000,    0x7fffffff, 0x80000000u, 0xffffffff,
        0x100000000, INT64_MAX, UINT64_MAX,
    };

    return values[random_below(sizeof(values) / sizeof(values[0]))];
}

static size_t mutate_once(uint8_t *data, size_t size)
{
    size_t at = random_below(size), n;
    const struct input *other = &seeds[random_below(seed_count)];
    uint64_t value = interesting();

    switch (random_below(9)) {
    case 0: /* one bit */
        if (size)
            data[at] ^= (uint8_t)(1u << random_below(8));
        return size;
    case 1: /* one byte */
        if (size)
            data[at] = (uint8_t)random_u64();
        return size;
    case 2: /* a number, either byte order */
        n = (size_t)1 << random_below(4);
        if (random_below(2))
            value = __builtin_bswap64(value) >> (64 - 8 * n);
        if (at + n <= size)
            memcpy(data + at, &value, n);
        return size;
    case 3: /* cut off */
        return at;
    case 4: /* take out */
        n = random_below(size - at + 1);
        memmove(data + at, data + at + n, size - at - n);
        return size - n;
    case 5: /* double a part */
        n = random_below(size - at + 1);
        if (size + n > INPUT_MAX)
            return size;
        memmove(data + at + n, data + at, size - at);
        return size + n;
    case 6: /* put in noise */
        n = random_below(16);
        if (size + n > INPUT_MAX)
            return size;
        memmove(data + at + n, data + at, size - at);
        for (size_t i = 0; i < n; i++)
            data[at + i] = (uint8_t)random_u64();
        return size + n;
    case 7: /* go on as another seed does */
        n = random_below(other->size);
        if (at + other->size - n > INPUT_MAX)
            return size;
        if (other->size > n)
            memcpy(data + at, other->data + n, other->size - n);
        return at + other->size - n;
    default: /* small step of a byte */
        if (size)
            data[at] = (uint8_t)(data[at] + random_below(9) - 4);
        return size;
    }
}

static void mutate_and_run(void)
{
    static uint8_t data[INPUT_MAX];
    const struct input *seed = &seeds[random_below(seed_count)];
    size_t size = seed->size;

    if (size)
        memcpy(data, seed->data, size);
    for (size_t n = 1 + random_below(4); n-- > 0;)
        size = mutate_once(data, size);
    run(data, size);
}

static uint64_t number(const char *text)
{
    char *end;
    uint64_t value = strtoull(text, &end, 0);

    if (*end || !*text) {
        fprintf(stderr, "'%s' is not a number\n", text);
        exit(64);
    }
    return value;
}

int main(int argc, char **argv)
{
    static const int signals[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    uint64_t runs = 1000, seed = 1, max_time = 60, done = 0;
    const char *seconds = getenv("VN_FUZZ_SECONDS");
    time_t began = time(NULL);
    const char *base = strrchr(argv[0], '/');

    snprintf(crash_path, sizeof(crash_path), "crash-%s.bin",
             base ? base + 1 : argv[0]);
    if (LLVMFuzzerInitialize)
        LLVMFuzzerInitialize(&argc, &argv);
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--runs") && i + 1 < argc)
            runs = number(argv[++i]);
        else if (!strcmp(argv[i], "--seed") && i + 1 < argc)
            seed = number(argv[++i]);
        else if (!strcmp(argv[i], "--max-time") && i + 1 < argc)
            max_time = number(argv[++i]);
        else
            load(argv[i]);
    }
    if (seconds && runs > 0) {
        runs = UINT64_MAX;
        seed = (uint64_t)began;
        max_time = number(seconds);
    }
    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
        signal(signals[i], save_crash);
    add_seed(NULL, 0);
    for (size_t i = 0; i < seed_count; i++)
        run(seeds[i].data, seeds[i].size);
    random_state = seed;
    while (done < runs && (uint64_t)(time(NULL) - began) < max_time) {
        mutate_and_run();
        done++;
    }
    printf("%zu seed inputs, %" PRIu64 " of %" PRIu64
           " mutations, seed %" PRIu64 "\n",
           seed_count, done, runs == UINT64_MAX ? done : runs, seed);
    for (size_t i = 0; i < seed_count; i++)
        free(seeds[i].data);
    return 0;
}
