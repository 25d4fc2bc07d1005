#ifndef STORE_PACK_H
#define STORE_PACK_H

/*
 * A pack: an immutable, self-describing run of compressed chunks, built and
 * read in memory. Nothing here does I/O. Format: docs/formats/store.md.
 *
 *     header (64) | chunks | directory (48 a chunk) | footer (80)
 *
 * The pages of one pack are of one domain (domain.c). If that is not the
 * store's, its tag is in the header, and once more behind the directory, which
 * has a checksum of its own.
 */

#include "store/ident.h"

struct codec_zstd;

/* Of packs with LZ4 only, and of those that zstd was tried on: in the latter
 * any codec may be, in the former none above CODEC_LZ4. The same two with pages
 * of a domain that is not the store's. */
#define PACK_VERSION             1u
#define PACK_VERSION_ZSTD        2u
#define PACK_VERSION_DOMAIN      3u
#define PACK_VERSION_DOMAIN_ZSTD 4u
#define PACK_HEADER_SIZE         64u
#define PACK_ENTRY_SIZE          48u
#define PACK_FOOTER_SIZE         80u
#define PACK_DOMAIN_SIZE         8u /* the tag behind the directory */

/* A pack is written when its chunks pass this size. */
#define PACK_TARGET_SIZE (8u << 20)
/* Most bytes in one pack; only a huge manifest makes one larger than 9 MiB. */
#define PACK_SIZE_MAX (64u << 20)
/* What a tombstone has raw; see tombstone.c. */
#define PACK_TOMBSTONE_SIZE 40u
/* Ids are 48 bits wide in the index. */
#define PACK_ID_MAX ((1ull << 48) - 1)

enum chunk_codec {
    CODEC_RAW = 0,
    CODEC_LZ4 = 1,  /* LZ4 block */
    CODEC_ZSTD = 2, /* zstd frame, see codec_zstd.h */
};

/* One line of a pack's directory. */
struct pack_entry {
    struct ident_full id;
    uint8_t kind;         /* enum chunk_kind */
    uint8_t codec;        /* enum chunk_codec */
    uint32_t offset;      /* from the start of the pack */
    uint32_t stored_size; /* bytes in the pack */
    uint32_t raw_size;    /* bytes after decompression */
};

/* ---- building --------------------------------------------------------- */

struct pack_builder;

/* Was zstd tried on all chunks of a pack of that version? */
static inline bool pack_version_has_zstd(unsigned version)
{
    return version == PACK_VERSION_ZSTD || version == PACK_VERSION_DOMAIN_ZSTD;
}

struct pack_builder *pack_builder_new(const uint8_t store_id[16]);
void pack_builder_free(struct pack_builder *b); /* NULL is fine */

/* Bytes of space to compress a chunk in: with as much as it could ever need LZ4
 * checks less, and is some percent faster. */
#define PACK_ENCODE_SPACE(size) ((size) + (size) / 255 + 16)

/* Compress a chunk, if that makes it smaller, into `out` of
 * PACK_ENCODE_SPACE(size) bytes; returns the stored size, at least 1, at most
 * `size`. */
size_t pack_encode(const void *data, size_t size, uint8_t *out,
                   uint8_t *ret_codec);
/*
 * Compress and append one chunk; *ret describes where it lies, its offset
 * being final. `size` is at most the kind's limit (pack_raw_limit()).
 * VN_E_LIMIT when the pack would pass PACK_SIZE_MAX.
 */
int pack_builder_add(struct pack_builder *b, enum chunk_kind kind,
                     const struct ident_full *id, const void *data, size_t size,
                     struct pack_entry *ret, struct vn_err *err) VN_MUST_USE;
/*
 * Append a chunk that was encoded: by pack_encode(), or as it lies in another
 * pack. `from` is its entry, its offset aside, `stored` its from->stored_size
 * bytes. *ret as for pack_builder_add().
 */
int pack_builder_copy(struct pack_builder *b, const struct pack_entry *from,
                      const uint8_t *stored, struct pack_entry *ret,
                      struct vn_err *err) VN_MUST_USE;
/*
 * The same, with its content `raw` of from->raw_size bytes, which was held
 * against its id: compressed by zstd where that makes it smaller. The pack
 * gets a version that says so.
 */
int pack_builder_recode(struct pack_builder *b, struct codec_zstd *codec,
                        const struct pack_entry *from, const uint8_t *stored,
                        const uint8_t *raw, struct pack_entry *ret,
                        struct vn_err *err) VN_MUST_USE;

/*
 * Of which domain are the pages? 0: the store's, as in a new builder. Only
 * while it is empty. Stays so after a reset.
 */
void pack_builder_set_domain(struct pack_builder *b, uint64_t domain);
uint64_t pack_builder_domain(const struct pack_builder *b);
/*
 * Was zstd tried on the chunks? Not in an empty builder; who copies from a pack
 * whose version says so tells it before.
 */
bool pack_builder_has_zstd(const struct pack_builder *b);
void pack_builder_set_zstd(struct pack_builder *b);
size_t pack_builder_count(const struct pack_builder *b);
/* Bytes that the finished pack would have now. */
size_t pack_builder_size(const struct pack_builder *b);

/*
 * Write head, directory and footer for pack `pack_id`. *ret_data is aligned
 * to 4096, its allocation reaches to the next multiple of 4096 and is zeroed
 * there; it belongs to the builder and lives until the next reset or free.
 */
int pack_builder_finish(struct pack_builder *b, uint64_t pack_id,
                        uint8_t **ret_data, size_t *ret_size,
                        struct vn_err *err) VN_MUST_USE;
/* Empty it for the next pack. */
void pack_builder_reset(struct pack_builder *b);

/* ---- reading ---------------------------------------------------------- */

/* Most bytes a chunk of that kind holds raw; 0 for an unknown kind. */
size_t pack_raw_limit(unsigned kind);

/*
 * Undo the codec: into `out`, which holds pack_raw_limit(kind) bytes. Nothing
 * is trusted about `stored`. VN_E_CORRUPT.
 */
int pack_decode(unsigned kind, unsigned codec, const void *stored,
                size_t stored_size, uint8_t *out, size_t *ret_size,
                struct vn_err *err) VN_MUST_USE;

/* The version that a pack's first PACK_HEADER_SIZE bytes name, and the domain
 * of its pages; 0: they are damaged, and *ret_domain is what stands there. */
unsigned pack_header_version(const uint8_t header[PACK_HEADER_SIZE],
                             uint64_t *ret_domain);

struct pack {
    uint64_t id;
    uint64_t domain; /* of its pages; 0: the store's */
    unsigned version;
    uint8_t store_id[16];
    uint32_t count;
    struct pack_entry *entries; /* owned */
};

/*
 * Parse a whole pack that lies in memory, checking every checksum, bound and
 * overlap; chunks themselves are not decoded. Damage below the directory
 * (header, chunks) is reported only after the directory was read: then
 * *ret_damage holds a sentence and the entries are still given, so that verify
 * can tell which chunks are whole. Where it is whole *ret_damage is empty.
 * Fails with VN_E_CORRUPT or VN_E_VERSION when there is no usable directory.
 * pack_done() frees the entries.
 */
int pack_parse(const uint8_t *data, size_t size, struct pack *ret,
               char ret_damage[128], struct vn_err *err) VN_MUST_USE;
void pack_done(struct pack *pack);

/*
 * The same without the chunks, for who reads only both ends of a pack: first
 * the footer, PACK_FOOTER_SIZE bytes, of a pack of `size` bytes says where the
 * directory begins; then the header, PACK_HEADER_SIZE bytes, and the tail from
 * the directory to the end are parsed.
 */
int pack_directory_offset(const uint8_t *footer, uint64_t size,
                          uint64_t *ret_offset, struct vn_err *err) VN_MUST_USE;
int pack_parse_ends(const uint8_t *header, const uint8_t *tail,
                    size_t tail_size, uint64_t size, struct pack *ret,
                    char ret_damage[128], struct vn_err *err) VN_MUST_USE;

#endif
