/*
 * Rows of the index: any bytes as keys and values of any table, in a sound
 * LMDB. Every reader of the index is called, and what is above them: list,
 * verify, a gc that only looks, holds. Nothing crashes or hangs, and an image
 * that can still be read has the bytes that it had.
 *
 * The input is a run of rows: table, size of the key, size of the value (two
 * bytes, little-endian), key, value. A size past the end means the rest. A
 * value of no bytes deletes the row. Afterwards the store is put as it was.
 */

#include "store/index_internal.h"
#include "store/store_internal.h"

#include <assert.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ROWS_MAX 8u
#define PAGES    600u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[64];
static struct store *store;
static struct map_root root;
static uint8_t image[PAGES * STORE_PAGE_SIZE];

static int remove_one(const char *path, const struct stat *st, int type,
                      struct FTW *where)
{
    (void)st, (void)type, (void)where;
    return remove(path);
}

static void clean_up(void)
{
    store_close(store);
    nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static void put_image(void)
{
    struct vn_err err = VN_ERR_INIT;
    struct store_writer *writer = store_writer_open(store, &err);
    json_t *manifest = manifest_new("lab@1", "files");

    /* Two leaves, most of it zeros. */
    memset(image + 5 * STORE_PAGE_SIZE, 5, STORE_PAGE_SIZE);
    memset(image + 515 * STORE_PAGE_SIZE, 6, 3000);
    if (!writer ||
        store_put_bytes(writer, image, sizeof(image), &root, &err) < 0 ||
        store_writer_flush(writer, &err) < 0)
        abort();
    manifest_add(manifest, "vm/a/disk/0", &root);
    if (store_commit(store, manifest, &err) < 0)
        abort();
    json_object_set_new(manifest, "name", json_string("lab@2"));
    if (store_commit(store, manifest, &err) < 0 ||
        store_delete(store, "lab@1", &err) < 0)
        abort();
    json_decref(manifest);
    store_writer_free(writer);
}

static void set_up(void)
{
    struct vn_err err = VN_ERR_INIT;

    snprintf(dir, sizeof(dir), "%s/vn-fuzz-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    if (!mkdtemp(dir) || store_init(dir, &err) < 0)
        abort();
    store = store_open(dir, &err);
    if (!store)
        abort();
    atexit(clean_up);
    put_image();
    mdb_env_set_flags(store->index->env, MDB_NOSYNC, 1);
}

/* ---- rows ------------------------------------------------------------- */

struct row {
    enum index_table table;
    MDB_val key, value;
    uint8_t *old; /* what the key had */
    size_t old_size;
};

static size_t take(const uint8_t **data, size_t *size, size_t wanted,
                   MDB_val *ret)
{
    size_t n = wanted < *size ? wanted : *size;

    *ret = (MDB_val){.mv_size = n, .mv_data = (uint8_t *)(uintptr_t)*data};
    *data += n;
    *size -= n;
    return n;
}

/* False: no more rows. */
static bool next_row(const uint8_t **data, size_t *size, struct row *row)
{
    MDB_val head;
    const uint8_t *h;

    if (take(data, size, 4, &head) < 4)
        return false;
    h = head.mv_data;
    *row = (struct row){.table = h[0] % TABLE_COUNT};
    take(data, size, h[1], &row->key);
    take(data, size, (size_t)h[2] | (size_t)h[3] << 8, &row->value);
    return row->key.mv_size > 0;
}

static void put_row(MDB_txn *txn, struct row *row)
{
    MDB_dbi table = store->index->tables[row->table];
    MDB_val old;

    if (mdb_get(txn, table, &row->key, &old) == 0) {
        row->old = malloc(old.mv_size + 1);
        row->old_size = old.mv_size;
        memcpy(row->old, old.mv_data, old.mv_size);
    }
    if (row->value.mv_size == 0)
        (void)!mdb_del(txn, table, &row->key, NULL);
    else if (mdb_put(txn, table, &row->key, &row->value, 0) != 0)
        abort();
}

static void restore_row(MDB_txn *txn, struct row *row)
{
    MDB_dbi table = store->index->tables[row->table];
    MDB_val old = {.mv_size = row->old_size, .mv_data = row->old};

    (void)!mdb_del(txn, table, &row->key, NULL);
    if (row->old && mdb_put(txn, table, &row->key, &old, 0) != 0)
        abort();
    free(row->old);
}

/* ---- readers ---------------------------------------------------------- */

static void read_rows(const struct row *rows, size_t count)
{
    struct index *index = store->index;
    struct index_condemned condemned = {0};
    struct vn_err err = VN_ERR_INIT;
    struct index_snapshot snapshots[ROWS_MAX];
    struct index_chunk chunks[64];
    struct index_pack packs[64];
    struct index_lost *lost;
    struct index_state state;
    char problem[256];
    uint64_t number;
    size_t n;

    (void)!index_list_packs(index, 0, 64, packs, &n, &err);
    (void)!index_list_chunks(index, NULL, 64, chunks, &n, &err);
    (void)!index_check_snapshots(index, problem, &err);
    (void)!index_check_marks(index, problem, &err);
    if (index_list_lost(index, &lost, &n, &err) == 0)
        free(lost);
    (void)!index_series_next(index, "lab", &number, &err);
    (void)!index_find_latest(index, "lab", snapshots, &err);
    if (index_list_snapshots(index, 0, ROWS_MAX, snapshots, &n, &err) == 0)
        for (size_t i = 0; i < n; i++)
            assert(strlen(snapshots[i].name) <= STORE_NAME_MAX);
    if (index_read_state(index, &state, &condemned, &err) == 0)
        index_condemned_done(&condemned);
    for (size_t i = 0; i < count; i++) {
        char text[256] = "";
        struct chunk_place place;
        struct chunk_id id = {{0}};

        memcpy(text, rows[i].key.mv_data, rows[i].key.mv_size);
        memcpy(&id, text, sizeof(id));
        (void)!index_find_snapshot(index, text, snapshots, &err);
        (void)!index_find(index, &id, 1, &place, &err);
    }
}

static void no_finding(void *context, const char *sentence)
{
    (void)context;
    assert(sentence[0]);
}

static void read_image(void)
{
    static uint8_t got[sizeof(image)];
    struct vn_err err = VN_ERR_INIT;
    struct image_reader *reader = image_reader_open(store, &root, &err);

    if (reader && image_reader_read(reader, 0, got, sizeof(got), &err) == 0)
        assert(memcmp(got, image, sizeof(got)) == 0);
    image_reader_free(reader);
}

static void read_store(void)
{
    const struct store_gc_opts gc = {.dry_run = true, .threshold_percent = 50};
    const struct store_verify_opts verify = {.finding = no_finding};
    struct vn_err err = VN_ERR_INIT;
    struct store_hold *hold = store_hold_open(store, &err);
    struct store_gc_counts counts;
    struct store_stats stats;
    uint64_t findings;

    if (hold)
        (void)!store_hold_covers(hold, &root);
    store_hold_close(hold);
    json_decref(store_list(store, &err));
    json_decref(store_load_latest(store, "lab", &err));
    (void)!store_stats(store, &stats, &err);
    (void)!store_verify(store, &verify, &findings, &err);
    (void)!store_gc(store, &gc, &counts, &err);
    read_image();
}

/* ----------------------------------------------------------------------- */

static void change(struct row *rows, size_t count,
                   void (*fn)(MDB_txn *txn, struct row *row), bool back)
{
    MDB_txn *txn;

    if (mdb_txn_begin(store->index->env, NULL, 0, &txn) != 0)
        abort();
    for (size_t i = 0; i < count; i++)
        fn(txn, &rows[back ? count - 1 - i : i]);
    if (mdb_txn_commit(txn) != 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct row rows[ROWS_MAX];
    size_t count = 0;

    if (!store)
        set_up();
    while (count < ROWS_MAX && next_row(&data, &size, &rows[count]))
        count++;
    change(rows, count, put_row, false);
    read_rows(rows, count);
    read_store();
    change(rows, count, restore_row, true);
    return 0;
}
