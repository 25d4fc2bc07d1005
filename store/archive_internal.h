#ifndef STORE_ARCHIVE_INTERNAL_H
#define STORE_ARCHIVE_INTERNAL_H

/* What export and import share. Not for callers: include store/archive.h. */

#include "common/buf.h"
#include "store/archive.h"

#include <locale.h>
#include <openssl/evp.h>
#include <stddef.h>

struct archive;

#define ARCHIVE_MANIFEST     "manifest.json"
#define ARCHIVE_SUMS         "SHA256SUMS"
#define ARCHIVE_SINCE        "since" /* key of an incremental tar's manifest */
#define ARCHIVE_FORMAT_SINCE 2       /* and its "format" */
#define ARCHIVE_MANIFEST_MAX (64u << 20) /* bytes of manifest.json */
#define ARCHIVE_SUMS_MAX     (64u << 20) /* bytes of SHA256SUMS */
#define ARCHIVE_NAME_MAX     1024u       /* bytes of an object's name */
#define ARCHIVE_RUNS_MAX     16384u      /* data runs of a sparse member */
#define ARCHIVE_BLOCK_SIZE   (1u << 20)  /* bytes moved at a time */
#define ARCHIVE_HEX_SIZE     65u         /* hex SHA-256 and its NUL */

/*
 * May `name` be the name of an object in a tar? Relative, no empty, "." or
 * ".." part, no control byte or backslash, not a name the format uses itself.
 * VN_E_FORMAT or VN_E_LIMIT names it.
 */
int archive_member_check(const char *name, struct vn_err *err) VN_MUST_USE;

/* Raise libarchive's present error of `tar`; `doing` as in "write the tar".
 * An errno stays one; all else is VN_E_FORMAT. Returns -1. */
int archive_fail(struct archive *tar, const char *doing, struct vn_err *err);

/* ---- SHA-256 ---------------------------------------------------------- */

/* A running sum. Aborts when OpenSSL is out of memory. */
EVP_MD_CTX *archive_sum_new(void);
void archive_sum_add(EVP_MD_CTX *sum, const void *data, size_t size);
void archive_sum_zeros(EVP_MD_CTX *sum, uint64_t size);
void archive_sum_end(EVP_MD_CTX *sum, char hex[ARCHIVE_HEX_SIZE]);

VN_AUTO_DEFINE(sum, EVP_MD_CTX *, EVP_MD_CTX_free)

/*
 * Read a SHA256SUMS document: an object of name -> hex digits, decref'd by the
 * caller. Strict: lines "<64 hex>  <name>\n", no name twice.
 */
json_t *archive_sums_parse(const char *text, size_t size,
                           struct vn_err *err) VN_MUST_USE;

/* ---- incremental tars ------------------------------------------------- */

/* The sum over an image's whole content. */
int archive_sum_image(struct store *store, const struct map_root *root,
                      char hex[ARCHIVE_HEX_SIZE],
                      struct vn_err *err) VN_MUST_USE;

struct archive_runs;
/*
 * Where `image` differs from `base`, of the same domain and size, page by page.
 * Ranges that are zero in both are never among them.
 */
int archive_runs_between(struct image_reader *image, struct image_reader *base,
                         uint64_t size, struct archive_runs *runs,
                         struct vn_err *err) VN_MUST_USE;

/* ---- runs of data ----------------------------------------------------- */

struct archive_run {
    uint64_t start;
    uint64_t size;
};

/*
 * The data of a sparse image as a bounded list: where there would be more
 * than `max` runs, the smallest holes are taken as data. Needs max >= 2.
 */
struct archive_runs {
    struct archive_run *runs; /* owned, `max` of them */
    size_t count;
    size_t max;
    uint64_t gap; /* holes up to this size are filled */
};

void archive_runs_init(struct archive_runs *r, size_t max);
void archive_runs_done(struct archive_runs *r);
/* Add a run that starts at or after the end of the last. */
void archive_runs_add(struct archive_runs *r, uint64_t start, uint64_t size);

static inline void vn_auto_runs(struct archive_runs *r)
{
    archive_runs_done(r);
}

/* ---- locale ----------------------------------------------------------- */

/*
 * libarchive converts names between the thread's locale and UTF-8. Names here
 * are UTF-8 whatever the user's locale is, so export and import run in
 * C.UTF-8; leave restores the caller's.
 */
struct archive_locale {
    locale_t own; /* 0 where the C library has none */
    locale_t before;
};
void archive_locale_enter(struct archive_locale *l);
void archive_locale_leave(struct archive_locale *l);

static inline void vn_auto_locale(struct archive_locale *l)
{
    archive_locale_leave(l);
}

#endif
