#include "store/pack.h"

/*
 * Packs: building and parsing, in memory.
 *
 *     header     magic "VNSTPACK", u32 version, u32 0, store id[16],
 *                u64 pack id, u64 domain, check[16] of the 48 bytes before
 *     chunks     one after the other, without gaps
 *     directory  an entry a chunk, in the order of the chunks; u64 domain, if
 *                that is not 0
 *     footer     magic "VNSTPEND", u32 version, u32 chunk count,
 *                u64 directory offset, u64 pack id, check of the chunks,
 *                check of the directory, check of the 64 bytes before
 *
 * All numbers little-endian; checks are XXH3-128, canonical. The checks find
 * accidents quickly; what protects content is the id of each chunk, which is
 * compared whenever one is read.
 *
 * Why the directory is at the end: a pack is then written in one pass by an
 * engine that only knows "put an object". Why it is in the pack at all: the
 * index can be rebuilt from packs alone, with full 32-byte ids.
 *
 * Why the domain is there twice: without it no page can be held against its id.
 * The header goes with the first sector, the directory is what all needs.
 *
 * Limits: offsets are 32 bits and a pack is at most 64 MiB, which leaves room
 * for the largest manifest (32 MiB) beside a full pack of pages.
 */

#include "common/buf.h"
#include "common/cursor.h"
#include "store/codec_zstd.h"
#include "store/map_node.h"

#include <assert.h>
#include <lz4.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MANIFEST_RAW_MAX (32u << 20)
#define PACK_ALIGN       4096u
#define PACK_FIRST_SIZE  (10u << 20)
#define HUGE_PAGE        (2u << 20)

static const char header_magic[8] = "VNSTPACK";
static const char footer_magic[8] = "VNSTPEND";

struct pack_builder {
    uint8_t store_id[16];
    uint64_t domain;
    bool has_zstd;
    uint8_t *data; /* PACK_ALIGN aligned; header space, then chunks */
    size_t size;
    size_t capacity;
    struct buf directory; /* encoded entries */
};

struct pack_builder *pack_builder_new(const uint8_t store_id[16])
{
    struct pack_builder *b = vn_alloc(sizeof(*b));

    memcpy(b->store_id, store_id, sizeof(b->store_id));
    buf_init(&b->directory, PACK_SIZE_MAX);
    b->size = PACK_HEADER_SIZE;
    return b;
}

void pack_builder_free(struct pack_builder *b)
{
    if (!b)
        return;
    free(b->data);
    buf_done(&b->directory);
    free(b);
}

void pack_builder_reset(struct pack_builder *b)
{
    b->size = PACK_HEADER_SIZE;
    b->has_zstd = false;
    b->directory.size = 0;
}

void pack_builder_set_domain(struct pack_builder *b, uint64_t domain)
{
    assert(pack_builder_count(b) == 0);
    b->domain = domain;
}

uint64_t pack_builder_domain(const struct pack_builder *b)
{
    return b->domain;
}

bool pack_builder_has_zstd(const struct pack_builder *b)
{
    return b->has_zstd;
}

void pack_builder_set_zstd(struct pack_builder *b)
{
    b->has_zstd = true;
}

static bool version_has_domain(unsigned version)
{
    return version >= PACK_VERSION_DOMAIN;
}

static unsigned version_of(const struct pack_builder *b)
{
    if (b->domain)
        return b->has_zstd ? PACK_VERSION_DOMAIN_ZSTD : PACK_VERSION_DOMAIN;
    return b->has_zstd ? PACK_VERSION_ZSTD : PACK_VERSION;
}

/* Bytes behind the directory's entries. */
static size_t trailer_size(unsigned version)
{
    return version_has_domain(version) ? PACK_DOMAIN_SIZE : 0;
}

size_t pack_builder_count(const struct pack_builder *b)
{
    return b->directory.size / PACK_ENTRY_SIZE;
}

size_t pack_builder_size(const struct pack_builder *b)
{
    return b->size + b->directory.size + trailer_size(version_of(b)) +
           PACK_FOOTER_SIZE;
}

/* Room for `more` bytes after those in use, and for padding. */
static int builder_reserve(struct pack_builder *b, size_t more,
                           struct vn_err *err)
{
    size_t wanted = b->size + more + PACK_ALIGN;
    size_t capacity = b->capacity ? b->capacity : PACK_FIRST_SIZE;
    uint8_t *data;

    if (wanted > PACK_SIZE_MAX + PACK_ALIGN)
        return vn_fail(err, VN_E_LIMIT, "a pack would pass %u MiB",
                       PACK_SIZE_MAX >> 20);
    if (b->data && wanted <= b->capacity)
        return 0;
    while (capacity < wanted)
        capacity *= 2;
    data =
        aligned_alloc(capacity < HUGE_PAGE ? PACK_ALIGN : HUGE_PAGE, capacity);
    if (!data)
        return vn_fail(err, VN_E_LIMIT, "no memory for a pack of %zu bytes",
                       capacity);
    if (capacity >= HUGE_PAGE)
        madvise(data, capacity, MADV_HUGEPAGE); /* fewer faults */
    if (b->data)
        memcpy(data, b->data, b->size);
    else
        memset(data, 0, PACK_HEADER_SIZE);
    free(b->data);
    b->data = data;
    b->capacity = capacity;
    return 0;
}

static void entry_encode(struct buf *out, const struct pack_entry *entry)
{
    buf_put(out, entry->id.bytes, sizeof(entry->id.bytes));
    buf_put_u8(out, entry->kind);
    buf_put_u8(out, entry->codec);
    buf_put_le16(out, 0);
    buf_put_le32(out, entry->offset);
    buf_put_le32(out, entry->stored_size);
    buf_put_le32(out, entry->raw_size);
}

size_t pack_encode(const void *data, size_t size, uint8_t *out,
                   uint8_t *ret_codec)
{
    int packed = LZ4_compress_default(data, (char *)out, (int)size,
                                      (int)PACK_ENCODE_SPACE(size));

    *ret_codec = CODEC_LZ4;
    if (packed > 0 && (size_t)packed < size)
        return (size_t)packed;
    *ret_codec = CODEC_RAW;
    memcpy(out, data, size);
    return size;
}

int pack_builder_add(struct pack_builder *b, enum chunk_kind kind,
                     const struct ident_full *id, const void *data, size_t size,
                     struct pack_entry *ret, struct vn_err *err)
{
    struct pack_entry entry = {.id = *id,
                               .kind = (uint8_t)kind,
                               .offset = (uint32_t)b->size,
                               .raw_size = (uint32_t)size};

    assert(size > 0 && size <= pack_raw_limit(kind));
    if (builder_reserve(b, PACK_ENCODE_SPACE(size) + PACK_ENTRY_SIZE, err) < 0)
        return -1;
    entry.stored_size =
        (uint32_t)pack_encode(data, size, b->data + b->size, &entry.codec);
    entry_encode(&b->directory, &entry);
    if (buf_check(&b->directory, "a pack's directory", err) < 0)
        return -1;
    b->size += entry.stored_size;
    *ret = entry;
    return 0;
}

int pack_builder_copy(struct pack_builder *b, const struct pack_entry *from,
                      const uint8_t *stored, struct pack_entry *ret,
                      struct vn_err *err)
{
    struct pack_entry entry = *from;

    assert(from->stored_size > 0 && from->stored_size <= from->raw_size);
    assert(from->codec <= CODEC_LZ4 || b->has_zstd);
    if (builder_reserve(b, from->stored_size + PACK_ENTRY_SIZE, err) < 0)
        return -1;
    entry.offset = (uint32_t)b->size;
    memcpy(b->data + b->size, stored, from->stored_size);
    entry_encode(&b->directory, &entry);
    if (buf_check(&b->directory, "a pack's directory", err) < 0)
        return -1;
    b->size += entry.stored_size;
    *ret = entry;
    return 0;
}

int pack_builder_recode(struct pack_builder *b, struct codec_zstd *codec,
                        const struct pack_entry *from, const uint8_t *stored,
                        const uint8_t *raw, struct pack_entry *ret,
                        struct vn_err *err)
{
    struct pack_entry entry = *from;
    uint8_t back[MAP_LEAF_SIZE]; /* the largest of pages and nodes */
    struct vn_err why = VN_ERR_INIT;
    size_t packed, size;

    assert(from->kind <= CHUNK_INNER);
    pack_builder_set_zstd(b);
    if (builder_reserve(b, from->stored_size + PACK_ENTRY_SIZE, err) < 0)
        return -1;
    packed = codec_zstd_compress(codec, raw, from->raw_size, b->data + b->size,
                                 from->stored_size - 1);
    if (packed == 0 ||
        codec_zstd_decode(b->data + b->size, packed, back, sizeof(back), &size,
                          &why) < 0 ||
        size != from->raw_size || memcmp(back, raw, size) != 0)
        return pack_builder_copy(b, from, stored, ret, err);
    entry.codec = CODEC_ZSTD;
    entry.offset = (uint32_t)b->size;
    entry.stored_size = (uint32_t)packed;
    entry_encode(&b->directory, &entry);
    if (buf_check(&b->directory, "a pack's directory", err) < 0)
        return -1;
    b->size += entry.stored_size;
    *ret = entry;
    return 0;
}

static void header_encode(const struct pack_builder *b, uint64_t pack_id)
{
    vn_auto(buf) struct buf out;
    uint8_t check[16];

    buf_init(&out, PACK_HEADER_SIZE);
    buf_put(&out, header_magic, sizeof(header_magic));
    buf_put_le32(&out, version_of(b));
    buf_put_le32(&out, 0);
    buf_put(&out, b->store_id, sizeof(b->store_id));
    buf_put_le64(&out, pack_id);
    buf_put_le64(&out, b->domain);
    ident_check(out.data, out.size, check);
    buf_put(&out, check, sizeof(check));
    assert(out.size == PACK_HEADER_SIZE && !out.broken);
    memcpy(b->data, out.data, out.size);
}

/* The directory of `size` bytes was copied to `directory`, behind the chunks;
 * the footer goes behind it. */
static void footer_encode(const struct pack_builder *b, uint64_t pack_id,
                          uint8_t *directory, size_t size)
{
    vn_auto(buf) struct buf out;
    uint8_t check[16];

    buf_init(&out, PACK_FOOTER_SIZE);
    buf_put(&out, footer_magic, sizeof(footer_magic));
    buf_put_le32(&out, version_of(b));
    buf_put_le32(&out, (uint32_t)pack_builder_count(b));
    buf_put_le64(&out, b->size);
    buf_put_le64(&out, pack_id);
    ident_check(b->data + PACK_HEADER_SIZE, b->size - PACK_HEADER_SIZE, check);
    buf_put(&out, check, sizeof(check));
    ident_check(directory, size, check);
    buf_put(&out, check, sizeof(check));
    ident_check(out.data, out.size, check);
    buf_put(&out, check, sizeof(check));
    assert(out.size == PACK_FOOTER_SIZE && !out.broken);
    memcpy(directory + size, out.data, out.size);
}

/* Copy the directory, and behind it the domain if there is one. */
static size_t directory_encode(const struct pack_builder *b, uint8_t *to)
{
    vn_auto(buf) struct buf out;

    memcpy(to, b->directory.data, b->directory.size);
    buf_init(&out, PACK_DOMAIN_SIZE);
    if (b->domain) {
        buf_put_le64(&out, b->domain);
        memcpy(to + b->directory.size, out.data, out.size);
    }
    return b->directory.size + out.size;
}

int pack_builder_finish(struct pack_builder *b, uint64_t pack_id,
                        uint8_t **ret_data, size_t *ret_size,
                        struct vn_err *err)
{
    size_t size = pack_builder_size(b);
    size_t padded = (size + PACK_ALIGN - 1) / PACK_ALIGN * PACK_ALIGN;
    size_t directory;

    assert(pack_builder_count(b) > 0 && pack_id <= PACK_ID_MAX);
    if (builder_reserve(b, size - b->size, err) < 0)
        return -1;
    header_encode(b, pack_id);
    directory = directory_encode(b, b->data + b->size);
    footer_encode(b, pack_id, b->data + b->size, directory);
    memset(b->data + size, 0, padded - size);
    *ret_data = b->data;
    *ret_size = size;
    return 0;
}

size_t pack_raw_limit(unsigned kind)
{
    switch (kind) {
    case CHUNK_PAGE:
        return STORE_PAGE_SIZE;
    case CHUNK_LEAF:
        return MAP_LEAF_SIZE;
    case CHUNK_INNER:
        return MAP_INNER_SIZE;
    case CHUNK_MANIFEST:
        return MANIFEST_RAW_MAX;
    case CHUNK_TOMBSTONE:
        return PACK_TOMBSTONE_SIZE;
    default:
        return 0;
    }
}

int pack_decode(unsigned kind, unsigned codec, const void *stored,
                size_t stored_size, uint8_t *out, size_t *ret_size,
                struct vn_err *err)
{
    size_t limit = pack_raw_limit(kind);
    int size;

    if (limit == 0)
        return vn_fail(err, VN_E_CORRUPT, "unknown kind %u", kind);
    if (stored_size == 0 || stored_size > limit)
        return vn_fail(err, VN_E_CORRUPT, "%zu bytes stored for a %s",
                       stored_size, chunk_kind_name(kind));
    if (codec == CODEC_RAW) {
        memcpy(out, stored, stored_size);
        *ret_size = stored_size;
        return 0;
    }
    if (codec == CODEC_ZSTD)
        return codec_zstd_decode(stored, stored_size, out, limit, ret_size,
                                 err);
    if (codec != CODEC_LZ4)
        return vn_fail(err, VN_E_CORRUPT, "unknown codec %u", codec);
    size =
        LZ4_decompress_safe(stored, (char *)out, (int)stored_size, (int)limit);
    if (size <= 0)
        return vn_fail(err, VN_E_CORRUPT, "does not decompress");
    *ret_size = (size_t)size;
    return 0;
}

/* ---- reading ---------------------------------------------------------- */

static bool check_matches(const void *data, size_t size, const uint8_t *wanted)
{
    uint8_t check[16];

    ident_check(data, size, check);
    return memcmp(check, wanted, sizeof(check)) == 0;
}

static int entry_parse(struct cursor *c, unsigned version, uint32_t offset,
                       uint64_t end, struct pack_entry *ret, struct vn_err *err)
{
    unsigned codec_max =
        pack_version_has_zstd(version) ? CODEC_ZSTD : CODEC_LZ4;
    const uint8_t *id = cursor_take(c, IDENT_FULL_SIZE);
    struct pack_entry entry = {0};

    entry.kind = cursor_u8(c);
    entry.codec = cursor_u8(c);
    (void)cursor_le16(c);
    entry.offset = cursor_le32(c);
    entry.stored_size = cursor_le32(c);
    entry.raw_size = cursor_le32(c);
    if (!id || c->failed)
        return vn_fail(err, VN_E_CORRUPT, "the directory is cut short");
    memcpy(entry.id.bytes, id, IDENT_FULL_SIZE);
    if (entry.offset != offset || entry.stored_size == 0 ||
        entry.stored_size > end - offset)
        return vn_fail(err, VN_E_CORRUPT,
                       "the directory has a chunk at %u of %u bytes where one "
                       "at %u is due",
                       entry.offset, entry.stored_size, offset);
    if (entry.raw_size == 0 || entry.raw_size > pack_raw_limit(entry.kind) ||
        entry.stored_size > entry.raw_size || entry.codec > codec_max)
        return vn_fail(err, VN_E_CORRUPT,
                       "the directory has a chunk of kind %u, codec %u, %u "
                       "bytes from %u",
                       entry.kind, entry.codec, entry.raw_size,
                       entry.stored_size);
    *ret = entry;
    return 0;
}

static int directory_parse(const uint8_t *directory, uint64_t directory_offset,
                           struct pack *pack, struct vn_err *err)
{
    size_t size = (size_t)pack->count * PACK_ENTRY_SIZE;
    struct cursor c = cursor_of(directory, size);
    uint64_t offset = PACK_HEADER_SIZE;

    for (uint32_t i = 0; i < pack->count; i++) {
        if (entry_parse(&c, pack->version, (uint32_t)offset, directory_offset,
                        &pack->entries[i], err) < 0)
            return -1;
        offset += pack->entries[i].stored_size;
    }
    if (offset != directory_offset)
        return vn_fail(err, VN_E_CORRUPT,
                       "its chunks end at %llu, its directory begins at %llu",
                       (unsigned long long)offset,
                       (unsigned long long)directory_offset);
    if (!version_has_domain(pack->version))
        return 0;
    c = cursor_of(directory + size, PACK_DOMAIN_SIZE);
    pack->domain = cursor_le64(&c);
    if (pack->domain == 0)
        return vn_fail(err, VN_E_CORRUPT, "its pages are of no domain");
    return 0;
}

unsigned pack_header_version(const uint8_t header[PACK_HEADER_SIZE],
                             uint64_t *ret_domain)
{
    struct cursor c = cursor_of(header, PACK_HEADER_SIZE);
    const uint8_t *magic = cursor_take(&c, sizeof(header_magic));
    uint32_t version = cursor_le32(&c);

    cursor_take(&c, 4 + 16 + 8);
    *ret_domain = cursor_le64(&c);
    if (memcmp(magic, header_magic, sizeof(header_magic)) != 0 ||
        !check_matches(header, PACK_HEADER_SIZE - 16,
                       header + PACK_HEADER_SIZE - 16))
        return 0;
    return version;
}

/* The damage below the directory, if any; see pack_parse(). `chunks` may be
 * NULL: not looked at. */
static void find_damage(const uint8_t *header, const uint8_t *chunks,
                        uint64_t directory_offset, const uint8_t *chunks_check,
                        struct pack *pack, char ret_damage[128])
{
    struct cursor c = cursor_of(header, PACK_HEADER_SIZE);
    const uint8_t *magic = cursor_take(&c, sizeof(header_magic));
    uint32_t version = cursor_le32(&c);
    uint32_t flags = cursor_le32(&c);
    const uint8_t *store_id = cursor_take(&c, sizeof(pack->store_id));
    uint64_t id = cursor_le64(&c);
    uint64_t domain = cursor_le64(&c);
    const char *what = NULL;

    memcpy(pack->store_id, store_id, sizeof(pack->store_id));
    if (memcmp(magic, header_magic, sizeof(header_magic)) != 0 ||
        !check_matches(header, PACK_HEADER_SIZE - 16,
                       header + PACK_HEADER_SIZE - 16))
        what = "its header is damaged";
    else if (version != pack->version || flags != 0 || id != pack->id ||
             domain != pack->domain)
        what = "its header and its footer do not agree";
    else if (chunks &&
             !check_matches(chunks, directory_offset - PACK_HEADER_SIZE,
                            chunks_check))
        what = "the checksum of its chunks does not match";
    snprintf(ret_damage, 128, "%s", what ? what : "");
}

/* What the footer says; the checks point into it. */
struct footer {
    uint32_t version;
    uint64_t id;
    uint64_t directory_offset;
    uint32_t count;
    const uint8_t *chunks_check;
    const uint8_t *directory_check;
};

/* With what lies behind the entries. */
static size_t directory_size(const struct footer *f)
{
    return (size_t)f->count * PACK_ENTRY_SIZE + trailer_size(f->version);
}

static int footer_parse(const uint8_t *footer, uint64_t size,
                        struct footer *ret, struct vn_err *err)
{
    struct cursor c = cursor_of(footer, PACK_FOOTER_SIZE);

    if (size < PACK_HEADER_SIZE + PACK_FOOTER_SIZE || size > PACK_SIZE_MAX)
        return vn_fail(err, VN_E_CORRUPT, "it has %llu bytes",
                       (unsigned long long)size);
    if (memcmp(cursor_take(&c, 8), footer_magic, 8) != 0 ||
        !check_matches(footer, PACK_FOOTER_SIZE - 16,
                       footer + PACK_FOOTER_SIZE - 16))
        return vn_fail(err, VN_E_CORRUPT, "its footer is damaged");
    ret->version = cursor_le32(&c);
    if (ret->version < PACK_VERSION || ret->version > PACK_VERSION_DOMAIN_ZSTD)
        return vn_fail(err, VN_E_VERSION,
                       "it has format %u, this program knows formats %u to %u",
                       ret->version, PACK_VERSION, PACK_VERSION_DOMAIN_ZSTD);
    ret->count = cursor_le32(&c);
    ret->directory_offset = cursor_le64(&c);
    ret->id = cursor_le64(&c);
    ret->chunks_check = cursor_take(&c, 16);
    ret->directory_check = cursor_take(&c, 16);
    if (ret->count == 0 || ret->count > size / PACK_ENTRY_SIZE ||
        ret->directory_offset < PACK_HEADER_SIZE ||
        ret->directory_offset > size ||
        ret->directory_offset + directory_size(ret) + PACK_FOOTER_SIZE != size)
        return vn_fail(err, VN_E_CORRUPT, "its size does not fit its footer");
    return 0;
}

int pack_directory_offset(const uint8_t *footer, uint64_t size,
                          uint64_t *ret_offset, struct vn_err *err)
{
    struct footer f;

    if (footer_parse(footer, size, &f, err) < 0)
        return -1;
    *ret_offset = f.directory_offset;
    return 0;
}

static int parse_parts(const uint8_t *header, const uint8_t *chunks,
                       const uint8_t *directory, const uint8_t *footer,
                       uint64_t size, struct pack *ret, char ret_damage[128],
                       struct vn_err *err)
{
    struct footer f;
    struct pack pack;

    if (footer_parse(footer, size, &f, err) < 0)
        return -1;
    if (!check_matches(directory, directory_size(&f), f.directory_check))
        return vn_fail(err, VN_E_CORRUPT, "its directory is damaged");
    pack = (struct pack){.version = f.version, .id = f.id, .count = f.count};
    pack.entries = vn_alloc(pack.count * sizeof(*pack.entries));
    if (directory_parse(directory, f.directory_offset, &pack, err) < 0) {
        pack_done(&pack);
        return -1;
    }
    find_damage(header, chunks, f.directory_offset, f.chunks_check, &pack,
                ret_damage);
    *ret = pack;
    return 0;
}

int pack_parse(const uint8_t *data, size_t size, struct pack *ret,
               char ret_damage[128], struct vn_err *err)
{
    const uint8_t *footer;
    uint64_t offset;

    if (size < PACK_HEADER_SIZE + PACK_FOOTER_SIZE)
        return vn_fail(err, VN_E_CORRUPT, "it has %zu bytes", size);
    footer = data + size - PACK_FOOTER_SIZE;
    if (pack_directory_offset(footer, size, &offset, err) < 0)
        return -1;
    return parse_parts(data, data + PACK_HEADER_SIZE, data + offset, footer,
                       size, ret, ret_damage, err);
}

int pack_parse_ends(const uint8_t *header, const uint8_t *tail,
                    size_t tail_size, uint64_t size, struct pack *ret,
                    char ret_damage[128], struct vn_err *err)
{
    assert(tail_size >= PACK_FOOTER_SIZE && tail_size <= size);
    return parse_parts(header, NULL, tail, tail + tail_size - PACK_FOOTER_SIZE,
                       size, ret, ret_damage, err);
}

void pack_done(struct pack *pack)
{
    free(pack->entries);
    *pack = (struct pack){0};
}
