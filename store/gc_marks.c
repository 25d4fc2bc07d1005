#include "store/gc_marks.h"

/*
 * Marks are 64-bit numbers, the first 8 bytes of ids in big-endian order, so
 * that they sort as ids do.
 *
 *     filling   a buffer; when it is full it is sorted and repetitions go
 *               away; when it is still more than half full it becomes a sorted
 *               run in the temporary file
 *     sealing   runs are merged in pairs until one is left, which is mapped
 *     asking    galloping from the last answer on, since the caller goes
 *               through the index in the order of ids
 *
 * 4 million marks, the usual capacity, are 16 GiB of pages and 64 MiB of
 * memory; beyond that 8 bytes a mark on disk, twice while merging. 2^32 chunks
 * (16 TiB) give 2^32 / 2^64 as the chance that one dead chunk is taken for
 * needed.
 */

#include "common/auto.h"
#include "common/io.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define RADIX_BITS 11u
#define RADIX_SIZE (1u << RADIX_BITS)
#define OUT_COUNT  8192u /* marks written at a time */

struct run {
    uint64_t start; /* in marks, from the beginning of the file */
    uint64_t count;
};

struct gc_marks {
    char *dir;
    size_t capacity;
    uint64_t *buffer; /* 2 * capacity: the marks, and room for sorting */
    size_t fill;      /* marks in the buffer */
    int fd;           /* temporary file, -1: not needed so far */
    uint64_t end;     /* of the file, in marks */
    struct run *runs; /* owned */
    size_t run_count;
    bool sealed;
    const uint64_t *final; /* buffer, or mapped */
    size_t count;          /* of final */
    void *map;             /* the temporary file, NULL: not mapped */
    size_t map_size;
    size_t last; /* where the last answer was */
};

static void unmap_file(struct gc_marks *m);

struct gc_marks *gc_marks_new(const char *dir, size_t capacity)
{
    struct gc_marks *m = vn_alloc(sizeof(*m));

    m->dir = vn_strdup(dir);
    m->capacity = capacity;
    m->fd = -1;
    return m;
}

void gc_marks_free(struct gc_marks *m)
{
    if (!m)
        return;
    unmap_file(m);
    vn_auto_close(&m->fd);
    free(m->buffer);
    free(m->runs);
    free(m->dir);
    free(m);
}

/* ---- sorting ---------------------------------------------------------- */

/* One pass of a radix sort, by RADIX_BITS bits. */
static void sort_pass(const uint64_t *from, uint64_t *to, size_t count,
                      unsigned shift)
{
    size_t places[RADIX_SIZE] = {0};
    size_t sum = 0;

    for (size_t i = 0; i < count; i++)
        places[from[i] >> shift & (RADIX_SIZE - 1)]++;
    for (unsigned d = 0; d < RADIX_SIZE; d++) {
        size_t n = places[d];

        places[d] = sum;
        sum += n;
    }
    for (size_t i = 0; i < count; i++)
        to[places[from[i] >> shift & (RADIX_SIZE - 1)]++] = from[i];
}

/* Six passes of 11 bits: the result is back in the first half. */
static void sort_buffer(struct gc_marks *m)
{
    uint64_t *from = m->buffer;
    uint64_t *to;
    size_t kept = 0;

    if (m->fill == 0)
        return;
    to = m->buffer + m->capacity;
    for (unsigned shift = 0; shift < 64; shift += RADIX_BITS) {
        uint64_t *other = from;

        sort_pass(from, to, m->fill, shift);
        from = to;
        to = other;
    }
    assert(from == m->buffer);
    for (size_t i = 0; i < m->fill; i++)
        if (kept == 0 || m->buffer[kept - 1] != m->buffer[i])
            m->buffer[kept++] = m->buffer[i];
    m->fill = kept;
}

/* ---- runs ------------------------------------------------------------- */

static int open_file(struct gc_marks *m, struct vn_err *err)
{
    vn_auto(free) char *path = vn_format("%s/.marks-XXXXXX", m->dir);

    if (m->fd >= 0)
        return 0;
    m->fd = open(m->dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (m->fd < 0) {
        m->fd = mkostemp(path, O_CLOEXEC);
        if (m->fd >= 0)
            unlink(path);
    }
    if (m->fd < 0)
        return vn_fail(err, errno, "make a temporary file in '%s'", m->dir);
    return 0;
}

static int append(struct gc_marks *m, const uint64_t *marks, size_t count,
                  struct vn_err *err)
{
    if (io_pwrite(m->fd, marks, count * sizeof(*marks), m->end * sizeof(*marks),
                  err) < 0)
        return vn_wrap(err, "temporary file in '%s'", m->dir);
    m->end += count;
    return 0;
}

static void add_run(struct gc_marks *m, uint64_t start)
{
    struct run *runs = realloc(m->runs, (m->run_count + 1) * sizeof(*runs));

    if (!runs)
        abort();
    m->runs = runs;
    runs[m->run_count++] =
        (struct run){.start = start, .count = m->end - start};
}

static int spill(struct gc_marks *m, struct vn_err *err)
{
    uint64_t start = m->end;

    if (open_file(m, err) < 0 || append(m, m->buffer, m->fill, err) < 0)
        return -1;
    add_run(m, start);
    m->fill = 0;
    return 0;
}

int gc_marks_add(struct gc_marks *m, const struct chunk_id *ids, size_t count,
                 struct vn_err *err)
{
    assert(!m->sealed);
    if (!m->buffer)
        m->buffer = malloc(2 * m->capacity * sizeof(*m->buffer));
    if (!m->buffer)
        return vn_fail(err, VN_E_LIMIT, "no memory for %zu marks", m->capacity);
    for (size_t i = 0; i < count; i++) {
        uint64_t mark;

        if (m->fill == m->capacity) {
            sort_buffer(m);
            if (m->fill > m->capacity / 2 && spill(m, err) < 0)
                return -1;
        }
        memcpy(&mark, ids[i].bytes, sizeof(mark));
        m->buffer[m->fill++] = be64toh(mark);
    }
    return 0;
}

/* ---- merging ---------------------------------------------------------- */

static void unmap_file(struct gc_marks *m)
{
    if (m->map)
        munmap(m->map, m->map_size);
    m->map = NULL;
}

static int map_file(struct gc_marks *m, struct vn_err *err)
{
    void *p =
        mmap(NULL, m->end * sizeof(uint64_t), PROT_READ, MAP_SHARED, m->fd, 0);

    if (p == MAP_FAILED)
        return vn_fail(err, errno, "map a temporary file");
    m->map = p;
    m->map_size = m->end * sizeof(uint64_t);
    return 0;
}

/* Append the union of two runs that lie in `all`. */
static int merge_two(struct gc_marks *m, const uint64_t *all,
                     const struct run *a, const struct run *b,
                     struct vn_err *err)
{
    uint64_t out[OUT_COUNT];
    const uint64_t *x = all + a->start;
    const uint64_t *y = all + b->start;
    const uint64_t *x_end = x + a->count;
    const uint64_t *y_end = y + b->count;
    size_t n = 0;

    while (x < x_end || y < y_end) {
        uint64_t next = y == y_end || (x < x_end && *x < *y) ? *x : *y;

        x += x < x_end && *x == next;
        y += y < y_end && *y == next;
        out[n++] = next;
        if (n == OUT_COUNT) {
            if (append(m, out, n, err) < 0)
                return -1;
            n = 0;
        }
    }
    return append(m, out, n, err);
}

/* Merge neighbours; the result goes to the end of the file, and the space of
 * what was merged is given back where the file system can. */
static int merge_pass(struct gc_marks *m, struct vn_err *err)
{
    const struct run first = m->runs[0];
    size_t old_count = m->run_count;
    size_t merged = 0;
    uint64_t last = first.start;
    int result = 0;

    if (map_file(m, err) < 0)
        return -1;
    for (size_t i = 0; i + 1 < old_count && result == 0; i += 2) {
        const struct run b = m->runs[i + 1];
        uint64_t start = m->end;

        result = merge_two(m, m->map, &m->runs[i], &b, err);
        m->runs[merged++] =
            (struct run){.start = start, .count = m->end - start};
        last = b.start + b.count;
    }
    if (old_count % 2)
        m->runs[merged++] = m->runs[old_count - 1];
    m->run_count = merged;
    unmap_file(m);
    (void)fallocate(m->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                    (off_t)(first.start * sizeof(uint64_t)),
                    (off_t)((last - first.start) * sizeof(uint64_t)));
    return result;
}

int gc_marks_seal(struct gc_marks *m, struct vn_err *err)
{
    sort_buffer(m);
    m->sealed = true;
    m->final = m->buffer;
    m->count = m->fill;
    if (m->run_count == 0)
        return 0;
    if (m->fill > 0 && spill(m, err) < 0)
        return -1;
    free(vn_steal(&m->buffer));
    m->final = NULL;
    m->count = 0;
    while (m->run_count > 1)
        if (merge_pass(m, err) < 0)
            return -1;
    if (map_file(m, err) < 0)
        return -1;
    m->final = (const uint64_t *)m->map + m->runs[0].start;
    m->count = m->runs[0].count;
    return 0;
}

/* ---- asking ----------------------------------------------------------- */

/* The first place in [low, high) that is not below the mark. */
static size_t lower_bound(const uint64_t *marks, size_t low, size_t high,
                          uint64_t mark)
{
    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (marks[middle] < mark)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool gc_marks_has(struct gc_marks *m, const struct chunk_id *id)
{
    size_t low = m->last;
    size_t step = 1;
    size_t high;
    uint64_t mark;

    assert(m->sealed);
    memcpy(&mark, id->bytes, sizeof(mark));
    mark = be64toh(mark);
    if (low >= m->count || m->final[low] > mark)
        low = 0;
    high = low;
    while (high < m->count && m->final[high] < mark) {
        low = high + 1;
        high += step;
        step *= 2;
    }
    if (high > m->count)
        high = m->count;
    m->last = lower_bound(m->final, low, high, mark);
    return m->last < m->count && m->final[m->last] == mark;
}

size_t gc_marks_count(const struct gc_marks *m)
{
    return m->count;
}
