/*
 * LMDB's data file, with something changed in it. What index_check_file()
 * finds sound LMDB reads from end to end, changes at length and commits; then
 * it is sound still. Nothing crashes: LMDB would, on much of it.
 *
 * The file is an index made here, the same each time. The input is a run of
 * changes: kind, u16 page, u16 place (little-endian), count, so many bytes.
 *   0  bytes of a page, from the place on
 *   1  the same, but within its head and the places of its first rows
 *   2  within the head of a row; the place says which row
 *   3  another page over this one; the place says which
 *   4  the same, and with this one's number
 *   5  the file ends here
 * Pages and places are taken modulo what there is.
 */

#include "store/index_check.h"
#include "store/index_internal.h"

#include <assert.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE     4096u
#define FILE_MAX (1u << 20)
#define CHUNKS   1500u
#define ROWS     150u /* put and deleted in each table */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t store_id[16] = "an index's store";
static char dir[64];
static char path[80];
static int fd;
static uint8_t base[FILE_MAX]; /* the file as it was made */
static size_t base_size;
static uint8_t file[FILE_MAX];

static int remove_one(const char *name, const struct stat *st, int type,
                      struct FTW *where)
{
    (void)st, (void)type, (void)where;
    return remove(name);
}

static void clean_up(void)
{
    nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* ---- the file --------------------------------------------------------- */

static struct chunk_id id_of(uint64_t number)
{
    struct chunk_id id;

    for (unsigned i = 0; i < 2; i++) {
        number = (number + 1 + i) * 0x9e3779b97f4a7c15u;
        number ^= number >> 29;
        memcpy(id.bytes + 8 * i, &number, 8);
    }
    return id;
}

static int by_id(const void *a, const void *b)
{
    return chunk_id_compare(a, b);
}

static void add_chunks(struct index *index, uint64_t pack_id, uint64_t first,
                       size_t count)
{
    struct index_pack pack = {.id = pack_id, .size = 9999, .count = 99};
    struct index_chunk *chunks = calloc(count, sizeof(*chunks));
    struct vn_err err = VN_ERR_INIT;

    for (size_t i = 0; i < count; i++)
        chunks[i] = (struct index_chunk){.id = id_of(first + i),
                                         .place = {pack_id, 64, 100, 1, 1}};
    qsort(chunks, count, sizeof(*chunks), by_id);
    if (index_add(index, &pack, 1, chunks, count, &err) < 0)
        abort();
    free(chunks);
}

static void publish(struct index *index, const char *name, uint64_t pack_id)
{
    struct index_snapshot row = {.id = id_of(pack_id << 32)};
    struct index_pack pack = {.id = pack_id, .size = 200, .count = 1};
    struct index_chunk chunk = {.id = row.id,
                                .place = {pack_id, 64, 100, 4, 1}};
    struct vn_err err = VN_ERR_INIT;

    snprintf(row.name, sizeof(row.name), "%s", name);
    if (index_publish(index, &row, "lab", pack_id, 0, &pack, &chunk, &err) < 0)
        abort();
}

static void make_file(void)
{
    struct vn_err err = VN_ERR_INIT;
    struct index *index;
    struct stat st;

    if (index_init(dir, store_id, &err) < 0 ||
        !(index = index_open(dir, store_id, &err)))
        abort();
    add_chunks(index, 1, 0, CHUNKS);
    add_chunks(index, 2, CHUNKS, 10);
    publish(index, "lab@1", 3);
    publish(index, "lab@2", 4);
    index_close(index);
    fd = open(path, O_RDWR);
    if (fd < 0 || fstat(fd, &st) < 0 || st.st_size > FILE_MAX ||
        pread(fd, base, FILE_MAX, 0) != st.st_size)
        abort();
    base_size = (size_t)st.st_size;
    assert(index_check_file(fd, "x", &err) == 0);
}

static void set_up(void)
{
    snprintf(dir, sizeof(dir), "%s/vn-fuzz-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    if (!mkdtemp(dir))
        abort();
    atexit(clean_up);
    snprintf(path, sizeof(path), "%s/data.mdb", dir);
    make_file();
}

/* ---- changes ---------------------------------------------------------- */

/* Where the i-th row of a page begins, or anywhere. */
static size_t row_at(const uint8_t *page, size_t i)
{
    uint16_t lower;
    uint16_t at;

    memcpy(&lower, page + 12, 2);
    if (lower < 18 || lower > PAGE)
        return i % PAGE;
    memcpy(&at, page + 16 + 2 * (i % ((lower - 16u) / 2)), 2);
    return at % PAGE;
}

static void put(size_t page, size_t at, const uint8_t *data, size_t size)
{
    if (size > PAGE - at)
        size = PAGE - at;
    memcpy(file + page * PAGE + at, data, size);
}

/* One change; returns what is left of the input. *ret_size: the file's. */
static size_t change(const uint8_t *data, size_t size, size_t *ret_size)
{
    size_t pages = base_size / PAGE;
    size_t page = (data[1] | (size_t)data[2] << 8) % pages;
    size_t place = data[3] | (size_t)data[4] << 8;
    size_t count = data[5] < size - 6 ? data[5] : size - 6;
    uint64_t number = page;

    switch (data[0] % 6) {
    case 0:
        put(page, place % PAGE, data + 6, count);
        break;
    case 1:
        put(page, place % 48, data + 6, count < 8 ? count : 8);
        break;
    case 2:
        put(page, row_at(file + page * PAGE, place), data + 6,
            count < 8 ? count : 8);
        break;
    case 3:
    case 4:
        memmove(file + page * PAGE, file + place % pages * PAGE, PAGE);
        if (data[0] % 6 == 4)
            memcpy(file + page * PAGE, &number, 8);
        break;
    default:
        *ret_size = page * PAGE + place % PAGE;
        break;
    }
    return size - 6 - count;
}

/* ---- what LMDB does --------------------------------------------------- */

static void check_ok(int rc)
{
    /* Its own limits, and rows that a change made: no damage. */
    if (rc && rc != MDB_NOTFOUND && rc != MDB_KEYEXIST)
        fprintf(stderr, "LMDB: %s\n", mdb_strerror(rc));
    assert(rc == 0 || rc == MDB_NOTFOUND || rc == MDB_KEYEXIST);
}

static void read_table(MDB_txn *txn, MDB_dbi table, volatile unsigned *sum)
{
    MDB_cursor *cursor;
    MDB_val key;
    MDB_val value;

    check_ok(mdb_cursor_open(txn, table, &cursor));
    for (int rc; (rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) !=
                 MDB_NOTFOUND;) {
        assert(rc == 0);
        for (size_t i = 0; i < key.mv_size; i++)
            *sum += ((const uint8_t *)key.mv_data)[i];
        for (size_t i = 0; i < value.mv_size; i++)
            *sum += ((const uint8_t *)value.mv_data)[i];
    }
    mdb_cursor_close(cursor);
}

/* Delete many rows, so that pages are joined, and put many more. */
static void change_table(MDB_txn *txn, MDB_dbi table)
{
    static const uint8_t value[16];
    MDB_cursor *cursor;
    MDB_val key;
    MDB_val old;

    check_ok(mdb_cursor_open(txn, table, &cursor));
    for (unsigned i = 0; i < ROWS; i++) {
        if (mdb_cursor_get(cursor, &key, &old, MDB_NEXT) == MDB_NOTFOUND)
            break;
        check_ok(mdb_cursor_del(cursor, 0));
    }
    mdb_cursor_close(cursor);
    for (unsigned i = 0; i < ROWS; i++) {
        struct chunk_id id = id_of(((uint64_t)table << 40) + i);
        MDB_val new = {.mv_size = 16, .mv_data = (void *)(uintptr_t)value};

        key = (MDB_val){.mv_size = 16, .mv_data = id.bytes};
        check_ok(mdb_put(txn, table, &key, &new, 0));
    }
}

static void use(unsigned flags)
{
    static const char *const names[] = {"meta",      "chunks", "packs",
                                        "snapshots", "names",  "ids",
                                        "series",    "lost"};
    volatile unsigned sum = 0;
    MDB_dbi table;
    MDB_env *env;
    MDB_txn *txn;

    check_ok(mdb_env_create(&env));
    mdb_env_set_maxdbs(env, 16);
    mdb_env_set_mapsize(env, 64u << 20);
    check_ok(mdb_env_open(
        env, path, MDB_NOSUBDIR | MDB_NOLOCK | MDB_NOSYNC | flags, 0600));
    check_ok(mdb_txn_begin(env, NULL, flags & MDB_RDONLY, &txn));
    if (flags & MDB_RDONLY)
        read_table(txn, 0, &sum); /* of free pages */
    for (size_t i = 0; i < VN_COUNT(names); i++) {
        int rc = mdb_dbi_open(txn, names[i], 0, &table);

        check_ok(rc); /* its name may have been changed */
        if (rc)
            continue;
        read_table(txn, table, &sum);
        if (!(flags & MDB_RDONLY))
            change_table(txn, table);
    }
    check_ok(mdb_txn_commit(txn));
    mdb_env_close(env);
}

/* ----------------------------------------------------------------------- */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct vn_err err = VN_ERR_INIT;
    size_t file_size;

    if (!fd)
        set_up();
    file_size = base_size;
    memcpy(file, base, base_size);
    while (size >= 6) {
        size_t left = change(data, size, &file_size);

        data += size - left;
        size = left;
    }
    if (ftruncate(fd, (off_t)file_size) < 0 ||
        pwrite(fd, file, file_size, 0) != (ssize_t)file_size)
        abort();
    if (index_check_file(fd, "x", &err) < 0) {
        assert((err.code == VN_E_CORRUPT || err.code == VN_E_VERSION) &&
               err.msg[0]);
        return 0;
    }
    use(MDB_RDONLY);
    for (unsigned i = 0; i < 3; i++) {
        use(0);
        /* The rows that were put are of no table's shape. */
        if (index_check_file(fd, "x", &err) < 0)
            assert(strstr(err.msg, "a row that its table cannot have"));
    }
    return 0;
}
