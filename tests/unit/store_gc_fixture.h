#ifndef TESTS_UNIT_STORE_GC_FIXTURE_H
#define TESTS_UNIT_STORE_GC_FIXTURE_H

/* What the tests of collection share: images by seed, gc, what is on disk. */

#include "unit/store_fixture.h"

/* `count` pages; page i is page i of the seed's endless random image. */
UNUSED static uint8_t *make_pages(uint64_t seed, size_t count)
{
    uint8_t *data = vn_alloc(count * PAGE);

    for (size_t i = 0; i < count; i++)
        fill_random(data + i * PAGE, PAGE, seed * 1000003 + i);
    return data;
}

/* Commit an image of these bytes as the only object of a snapshot. */
UNUSED static struct map_root add_snapshot(struct store *store,
                                           const char *name,
                                           const uint8_t *data, size_t count,
                                           const struct map_root *parent)
{
    struct vn_err err = VN_ERR_INIT;
    struct store_writer *writer = store_writer_open(store, &err);
    struct map_root root;

    assert_made(writer, &err);
    root = put_image(writer, data, count * PAGE, parent);
    assert_ok(store_writer_flush(writer, &err), &err);
    commit_image(store, name, &root);
    store_writer_free(writer);
    return root;
}

UNUSED static void delete_snapshot(struct store *store, const char *name)
{
    struct vn_err err = VN_ERR_INIT;

    assert_ok(store_delete(store, name, &err), &err);
}

UNUSED static const struct store_gc_opts gc_now = {.threshold_percent =
                                                       STORE_GC_THRESHOLD};

UNUSED static struct store_gc_counts run_gc(struct store *store,
                                            const struct store_gc_opts *opts)
{
    struct vn_err err = VN_ERR_INIT;
    struct store_gc_counts counts;

    assert_ok(store_gc(store, opts, &counts, &err), &err);
    return counts;
}

/* Does the snapshot exist and read back as these bytes? */
UNUSED static bool snapshot_equals(struct store *store, const char *name,
                                   const uint8_t *data, size_t count)
{
    struct vn_err err = VN_ERR_INIT;
    json_t *manifest = store_load(store, name, &err);
    struct map_root root;
    bool equal = manifest &&
                 manifest_object(manifest, "image", &root, &err) == 0 &&
                 image_equals(store, &root, data, count * PAGE);

    if (!equal && err.code)
        fprintf(stderr, "%s: %s\n", name, err.msg);
    json_decref(manifest);
    return equal;
}

static uint64_t disk_bytes;
static unsigned disk_files;

UNUSED static int count_file(const char *path, const struct stat *st, int type,
                             struct FTW *where)
{
    (void)where;
    if (type == FTW_F && strcmp(strrchr(path, '/'), "/holds") != 0) {
        disk_bytes += (uint64_t)st->st_size;
        disk_files++;
    }
    return 0;
}

/* Files below packs/, and their bytes. */
UNUSED static unsigned pack_files(struct store_fixture *f, uint64_t *ret_bytes)
{
    vn_auto(free) char *path = vn_format("%s/packs", f->path);

    disk_bytes = 0;
    disk_files = 0;
    nftw(path, count_file, 16, FTW_PHYS);
    if (ret_bytes)
        *ret_bytes = disk_bytes;
    return disk_files;
}

/* Files and index agree on which packs there are. */
UNUSED static void assert_tidy(struct store_fixture *f)
{
    struct vn_err err = VN_ERR_INIT;
    struct store_stats stats;
    uint64_t bytes;

    assert_ok(store_stats(f->store, &stats, &err), &err);
    assert_int_equal(pack_files(f, &bytes), stats.packs);
    assert_int_equal(bytes, stats.bytes_packs);
}

#endif
