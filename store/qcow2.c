#include "store/qcow2.h"

/*
 * Reading qcow2: from the header over L1 and L2 tables to clusters.
 *
 *     header      magic, version, sizes, where the L1 table is, features
 *     L1 table    an entry for each cluster full of L2 entries
 *     L2 table    one cluster: for each cluster of the disk where it lies in
 *                 the file; or that it is zero; or where it lies compressed
 *
 * All numbers are big-endian. The disk is passed once, in windows of 2 MiB,
 * which every size of a cluster divides; one L2 table is kept at a time. An
 * entry of 0 in the L1 table skips all that it stands for.
 *
 * Refcounts, internal snapshots and the "dirty" mark (refcounts may be behind)
 * say nothing about what the guest sees, and are not looked at.
 *
 * Hostile files: offsets are held against the size of the file and against
 * alignment. In a sound file no cluster serves two places, so what is read
 * through the maps, L2 tables included, is at most what the file holds; a
 * budget of that size stops maps that lead to the same bytes again and again.
 * A compressed cluster costs a share of the budget that it cannot stay below.
 *
 * Limits: the L1 table has 32 MiB at most, as in QEMU; with that and 512 bytes
 * a cluster the disk has 128 GiB, with 64 KiB 2^46 bytes is the store's limit.
 */

#include "common/auto.h"
#include "common/cursor.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#define MAGIC            0x514649fbu /* "QFI\xfb" */
#define HEADER_V2_SIZE   72u
#define HEADER_V3_SIZE   104u
#define HEADER_READ_SIZE 112u
#define CLUSTER_BITS_MIN 9u
#define CLUSTER_BITS_MAX 21u
#define L1_SIZE_MAX      (32u << 20)
#define OFFSET_MASK      0x00fffffffffffe00ull
#define L2_COMPRESSED    (1ull << 62)
#define L2_ZERO          1ull /* version 3 */
#define SECTOR_SIZE      512u
#define DEFLATE_BITS     (-12) /* without a header; window of 4 KiB */
#define RATIO_MAX        1100u /* deflate cannot do better */

enum {
    INCOMPATIBLE_DIRTY = 1u << 0,
    INCOMPATIBLE_CORRUPT = 1u << 1,
    INCOMPATIBLE_EXTERNAL = 1u << 2,
    INCOMPATIBLE_COMPRESSION = 1u << 3,
    INCOMPATIBLE_EXTENDED_L2 = 1u << 4,
};

enum compression { COMPRESSION_DEFLATE = 0, COMPRESSION_ZSTD = 1 };

struct qcow2_reader {
    struct qcow2_file file;
    unsigned version;
    unsigned cluster_bits;
    uint64_t size; /* of the disk */
    enum compression compression;
    uint64_t l1_offset;
    uint64_t l1_count; /* entries that are used */
    uint64_t *l1;      /* in the host's order */
    uint64_t *l2;      /* of L1 entry l2_index */
    uint64_t l2_index; /* UINT64_MAX: none */
    uint64_t next;     /* where on the disk to go on */
    uint64_t budget;   /* bytes that may still be read */
    uint8_t *window;   /* QCOW2_WINDOW_SIZE */
    uint8_t *packed;   /* a compressed cluster, up to two of its size */
    z_stream inflate;  /* opened: inflate.state */
    ZSTD_DCtx *zstd;
};

static size_t cluster_size(const struct qcow2_reader *r)
{
    return (size_t)1 << r->cluster_bits;
}

static uint64_t l2_entries(const struct qcow2_reader *r)
{
    return cluster_size(r) / sizeof(uint64_t);
}

bool qcow2_is(const void *data, size_t size)
{
    struct cursor c = cursor_of(data, size);

    return cursor_be32(&c) == MAGIC;
}

/* ---- header ----------------------------------------------------------- */

/* What of the header decides whether the image can be read. */
struct header {
    uint32_t version;
    uint64_t backing_offset;
    uint32_t cluster_bits;
    uint64_t size;
    uint32_t crypt;
    uint32_t l1_count;
    uint64_t l1_offset;
    uint64_t incompatible;
    uint32_t header_size;
    uint8_t compression;
};

static int header_parse(const uint8_t *data, size_t size, struct header *ret,
                        struct vn_err *err)
{
    struct cursor c = cursor_of(data, size);
    struct header h = {0};

    if (cursor_be32(&c) != MAGIC)
        return vn_fail(err, VN_E_FORMAT, "not a qcow2 image");
    h.version = cursor_be32(&c);
    h.backing_offset = cursor_be64(&c);
    (void)cursor_be32(&c); /* length of that name */
    h.cluster_bits = cursor_be32(&c);
    h.size = cursor_be64(&c);
    h.crypt = cursor_be32(&c);
    h.l1_count = cursor_be32(&c);
    h.l1_offset = cursor_be64(&c);
    (void)cursor_take(&c, HEADER_V2_SIZE - 48); /* refcounts, snapshots */
    h.header_size = HEADER_V2_SIZE;
    if (h.version >= 3) {
        h.incompatible = cursor_be64(&c);
        (void)cursor_take(&c, 20); /* other features, width of refcounts */
        h.header_size = cursor_be32(&c);
        if (h.header_size > HEADER_V3_SIZE)
            h.compression = cursor_u8(&c);
    }
    if (c.failed)
        return vn_fail(err, VN_E_FORMAT, "its header is cut short");
    *ret = h;
    return 0;
}

static int check_features(const struct header *h, struct vn_err *err)
{
    const uint64_t known = INCOMPATIBLE_DIRTY | INCOMPATIBLE_CORRUPT |
                           INCOMPATIBLE_EXTERNAL | INCOMPATIBLE_COMPRESSION |
                           INCOMPATIBLE_EXTENDED_L2;

    if (h->crypt != 0)
        return vn_fail(err, VN_E_UNSUPPORTED, "it is encrypted (method %u)",
                       h->crypt);
    if (h->backing_offset != 0)
        return vn_fail(err, VN_E_UNSUPPORTED,
                       "it has a backing file: make it whole first, with "
                       "qemu-img convert -O qcow2");
    if (h->incompatible & INCOMPATIBLE_CORRUPT)
        return vn_fail(err, VN_E_UNSUPPORTED,
                       "it is marked corrupt: see qemu-img check");
    if (h->incompatible & INCOMPATIBLE_EXTERNAL)
        return vn_fail(err, VN_E_UNSUPPORTED,
                       "its data are in an external data file");
    if (h->incompatible & INCOMPATIBLE_EXTENDED_L2)
        return vn_fail(err, VN_E_UNSUPPORTED, "it has extended L2 entries");
    if (h->incompatible & ~known)
        return vn_fail(err, VN_E_UNSUPPORTED,
                       "it has incompatible features that are not known "
                       "(0x%llx)",
                       (unsigned long long)(h->incompatible & ~known));
    if (h->compression > COMPRESSION_ZSTD ||
        (h->compression != 0) != !!(h->incompatible & INCOMPATIBLE_COMPRESSION))
        return vn_fail(err, VN_E_UNSUPPORTED,
                       "its compression, type %u, is not known",
                       h->compression);
    return 0;
}

static int check_header(const struct header *h, uint64_t file_size,
                        struct vn_err *err)
{
    uint64_t per_l1, needed;

    if (h->version != 2 && h->version != 3)
        return vn_fail(err, VN_E_VERSION,
                       "it has version %u, this program knows 2 and 3",
                       h->version);
    if (h->version == 3 && (h->header_size < HEADER_V3_SIZE ||
                            h->header_size % 8 || h->header_size > file_size))
        return vn_fail(err, VN_E_FORMAT, "its header has %u bytes",
                       h->header_size);
    if (check_features(h, err) < 0)
        return -1;
    if (h->cluster_bits < CLUSTER_BITS_MIN ||
        h->cluster_bits > CLUSTER_BITS_MAX)
        return vn_fail(err, VN_E_FORMAT, "it has clusters of 2^%u bytes",
                       h->cluster_bits);
    if (h->size > STORE_OBJECT_MAX)
        return vn_fail(err, VN_E_LIMIT, "its disk has %llu bytes",
                       (unsigned long long)h->size);
    per_l1 = 1ull << (2 * h->cluster_bits - 3);
    needed = (h->size + per_l1 - 1) / per_l1;
    if (h->l1_count > L1_SIZE_MAX / 8 || h->l1_count < needed)
        return vn_fail(err, VN_E_FORMAT,
                       "its L1 table has %u entries for a disk of %llu bytes",
                       h->l1_count, (unsigned long long)h->size);
    if (h->l1_offset % (1ull << h->cluster_bits) != 0 ||
        h->l1_offset > file_size || needed * 8 > file_size - h->l1_offset)
        return vn_fail(err, VN_E_FORMAT, "its L1 table lies outside the file");
    return 0;
}

/* `count` numbers from the file, big-endian. */
static int read_table(struct qcow2_reader *r, uint64_t offset, uint64_t count,
                      uint64_t *ret, struct vn_err *err)
{
    size_t size = (size_t)count * sizeof(*ret);
    struct cursor c;

    if (r->file.read(r->file.context, offset, ret, size, err) < 0)
        return -1;
    c = cursor_of(ret, size);
    for (uint64_t i = 0; i < count; i++)
        ret[i] = cursor_be64(&c); /* in place: read before it is written */
    return 0;
}

static int load(struct qcow2_reader *r, struct vn_err *err)
{
    uint8_t bytes[HEADER_READ_SIZE];
    size_t n =
        r->file.size < sizeof(bytes) ? (size_t)r->file.size : sizeof(bytes);
    struct header h;
    uint64_t per_l1;

    if (r->file.read(r->file.context, 0, bytes, n, err) < 0 ||
        header_parse(bytes, n, &h, err) < 0 ||
        check_header(&h, r->file.size, err) < 0)
        return -1;
    per_l1 = 1ull << (2 * h.cluster_bits - 3);
    r->version = h.version;
    r->cluster_bits = h.cluster_bits;
    r->size = h.size / SECTOR_SIZE * SECTOR_SIZE; /* as QEMU takes it */
    r->compression = (enum compression)h.compression;
    r->l1_offset = h.l1_offset;
    r->l1_count = (r->size + per_l1 - 1) / per_l1;
    r->budget = r->file.size + cluster_size(r);
    r->l1 = vn_alloc((size_t)(r->l1_count + 1) * sizeof(*r->l1));
    r->l2 = vn_alloc(cluster_size(r));
    r->window = vn_alloc(QCOW2_WINDOW_SIZE);
    return read_table(r, r->l1_offset, r->l1_count, r->l1, err);
}

struct qcow2_reader *qcow2_open(const struct qcow2_file *file,
                                struct vn_err *err)
{
    struct qcow2_reader *r = vn_alloc(sizeof(*r));

    r->file = *file;
    r->l2_index = UINT64_MAX;
    if (load(r, err) == 0)
        return r;
    qcow2_close(r);
    return NULL;
}

void qcow2_close(struct qcow2_reader *r)
{
    if (!r)
        return;
    if (r->inflate.state)
        inflateEnd(&r->inflate);
    ZSTD_freeDCtx(r->zstd);
    free(r->l1);
    free(r->l2);
    free(r->window);
    free(r->packed);
    free(r);
}

uint64_t qcow2_size(const struct qcow2_reader *r)
{
    return r->size;
}

/* ---- clusters --------------------------------------------------------- */

static int spend(struct qcow2_reader *r, uint64_t bytes, struct vn_err *err)
{
    if (bytes > r->budget)
        return vn_fail(err, VN_E_FORMAT,
                       "its maps lead to more data than the file holds");
    r->budget -= bytes;
    return 0;
}

/* Bytes of the file, zeros behind its end, as a file system fills it up. */
static int read_padded(struct qcow2_reader *r, uint64_t offset, uint8_t *data,
                       size_t size, struct vn_err *err)
{
    uint64_t left = r->file.size > offset ? r->file.size - offset : 0;
    size_t n = size < left ? size : (size_t)left;

    if (n == 0)
        return vn_fail(err, VN_E_FORMAT,
                       "a cluster at %llu lies behind the end of the file",
                       (unsigned long long)offset);
    memset(data + n, 0, size - n);
    return r->file.read(r->file.context, offset, data, n, err);
}

static int inflate_cluster(struct qcow2_reader *r, uint8_t *packed, size_t size,
                           uint8_t *out, struct vn_err *err)
{
    int result;

    if (!r->inflate.state && inflateInit2(&r->inflate, DEFLATE_BITS) != Z_OK)
        abort();
    inflateReset(&r->inflate);
    r->inflate.next_in = packed;
    r->inflate.avail_in = (uInt)size;
    r->inflate.next_out = out;
    r->inflate.avail_out = (uInt)cluster_size(r);
    result = inflate(&r->inflate, Z_FINISH);
    if ((result != Z_STREAM_END && result != Z_BUF_ERROR) ||
        r->inflate.avail_out != 0)
        return vn_fail(err, VN_E_FORMAT, "a compressed cluster is damaged");
    return 0;
}

static int unzstd_cluster(struct qcow2_reader *r, const uint8_t *packed,
                          size_t size, uint8_t *out, struct vn_err *err)
{
    size_t frame = ZSTD_findFrameCompressedSize(packed, size);

    if (!r->zstd && !(r->zstd = ZSTD_createDCtx()))
        abort();
    /* Behind the frame is what fills up the sector. */
    if (ZSTD_isError(frame) ||
        ZSTD_decompressDCtx(r->zstd, out, cluster_size(r), packed, frame) !=
            cluster_size(r))
        return vn_fail(err, VN_E_FORMAT, "a compressed cluster is damaged");
    return 0;
}

static int read_compressed(struct qcow2_reader *r, uint64_t entry, uint8_t *out,
                           struct vn_err *err)
{
    unsigned shift = 62 - (r->cluster_bits - 8);
    uint64_t offset = entry & ((1ull << shift) - 1);
    uint64_t sectors = entry >> shift & ((1ull << (62 - shift)) - 1);
    size_t size = (size_t)((sectors + 1) * SECTOR_SIZE - offset % SECTOR_SIZE);
    uint64_t least = cluster_size(r) / RATIO_MAX + 8;

    if (r->compression == COMPRESSION_ZSTD)
        least = 8;
    if (spend(r, sectors > 1 ? (sectors - 1) * SECTOR_SIZE + least : least,
              err) < 0)
        return -1;
    if (!r->packed)
        r->packed = vn_alloc(2 * cluster_size(r) + SECTOR_SIZE);
    if (read_padded(r, offset, r->packed, size, err) < 0)
        return -1;
    return r->compression == COMPRESSION_ZSTD
               ? unzstd_cluster(r, r->packed, size, out, err)
               : inflate_cluster(r, r->packed, size, out, err);
}

/* One cluster as the guest sees it. 1: it is zeros, `out` was not touched. */
static int read_cluster(struct qcow2_reader *r, uint64_t entry, uint8_t *out,
                        struct vn_err *err)
{
    uint64_t offset = entry & OFFSET_MASK;

    if (entry & L2_COMPRESSED)
        return read_compressed(r, entry & ~(3ull << 62), out, err);
    if (offset == 0 || (r->version >= 3 && (entry & L2_ZERO)))
        return 1;
    if (offset % cluster_size(r) != 0)
        return vn_fail(err, VN_E_FORMAT, "a cluster at %llu is not aligned",
                       (unsigned long long)offset);
    if (spend(r, cluster_size(r), err) < 0)
        return -1;
    return read_padded(r, offset, out, cluster_size(r), err);
}

/* ---- the pass over the disk ------------------------------------------- */

static int load_l2(struct qcow2_reader *r, uint64_t index, struct vn_err *err)
{
    uint64_t offset = r->l1[index] & OFFSET_MASK;

    if (r->l2_index == index)
        return 0;
    if (offset % cluster_size(r) != 0 || offset > r->file.size ||
        cluster_size(r) > r->file.size - offset)
        return vn_fail(err, VN_E_FORMAT,
                       "an L2 table at %llu lies outside the file",
                       (unsigned long long)offset);
    r->l2_index = UINT64_MAX;
    if (spend(r, cluster_size(r), err) < 0 ||
        read_table(r, offset, l2_entries(r), r->l2, err) < 0)
        return -1;
    r->l2_index = index;
    return 0;
}

/* Fill the window that begins at `start`; *ret_any: there is data in it. */
static int fill_window(struct qcow2_reader *r, uint64_t start, bool *ret_any,
                       struct vn_err *err)
{
    uint64_t first = start >> r->cluster_bits;
    size_t count = QCOW2_WINDOW_SIZE >> r->cluster_bits;

    *ret_any = false;
    for (size_t i = 0; i < count; i++) {
        uint64_t l1 = (first + i) / l2_entries(r);
        uint8_t *out = r->window + (i << r->cluster_bits);
        int result = 1;

        if (l1 < r->l1_count && (r->l1[l1] & OFFSET_MASK)) {
            if (load_l2(r, l1, err) < 0)
                return -1;
            result =
                read_cluster(r, r->l2[(first + i) % l2_entries(r)], out, err);
        }
        if (result < 0)
            return -1;
        if (result > 0)
            memset(out, 0, cluster_size(r));
        else
            *ret_any = true;
    }
    return 0;
}

/* The window at or after `start` that may have data. */
static uint64_t skip_unmapped(const struct qcow2_reader *r, uint64_t start)
{
    uint64_t per_l1 = l2_entries(r) << r->cluster_bits;
    uint64_t l1 = start / per_l1;

    if (r->l1[l1] & OFFSET_MASK)
        return start;
    while (l1 < r->l1_count && !(r->l1[l1] & OFFSET_MASK))
        l1++;
    if (l1 == r->l1_count)
        return r->size;
    return l1 * per_l1 / QCOW2_WINDOW_SIZE * QCOW2_WINDOW_SIZE;
}

int qcow2_next(struct qcow2_reader *r, uint64_t *ret_start,
               const uint8_t **ret_data, size_t *ret_size, struct vn_err *err)
{
    *ret_size = 0;
    while (r->next < r->size) {
        uint64_t start = skip_unmapped(r, r->next);
        uint64_t left;
        bool any;

        /* The window itself may begin before what is mapped. */
        if (start < r->next)
            start = r->next;
        if (start >= r->size)
            break;
        if (fill_window(r, start, &any, err) < 0)
            return vn_wrap(err, "at %llu of the disk",
                           (unsigned long long)start);
        r->next = start + QCOW2_WINDOW_SIZE;
        if (!any)
            continue;
        left = r->size - start;
        *ret_start = start;
        *ret_data = r->window;
        *ret_size = left < QCOW2_WINDOW_SIZE ? (size_t)left : QCOW2_WINDOW_SIZE;
        return 0;
    }
    r->next = r->size;
    return 0;
}
